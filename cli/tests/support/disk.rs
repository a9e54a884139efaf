//! Small disks with filesystems of their own, that are filled up, pulled out and plugged in again.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Undo;

/// A disk in a file, mounted.
pub struct Disk {
    // Before the directory it is mounted on.
    mounted: Option<Undo>,
    image: PathBuf,
    kind: &'static str,
    pub at: PathBuf,
}

impl Disk {
    /// A new one below `dir`, of so many MiB: `ext4`, `xfs` or `exfat`.
    pub fn new(dir: &Path, name: &str, kind: &'static str, mib: u64) -> Disk {
        let (image, at) = (dir.join(format!("{name}.img")), dir.join(name));
        File::create(&image).unwrap().set_len(mib << 20).unwrap();
        fs::create_dir_all(&at).unwrap();
        let mut disk = Disk { mounted: None, image, kind, at };
        disk.format();
        disk
    }

    /// Makes its filesystem anew, and mounts it.
    pub fn format(&mut self) {
        self.mounted = None;
        let image = self.image.to_str().unwrap();
        match self.kind {
            "exfat" => run("mkfs.exfat", &[image]),
            kind => run(&format!("mkfs.{kind}"), &["-q", image]),
        }
        self.plug();
    }

    pub fn plug(&mut self) {
        let (image, at) = (self.image.to_str().unwrap(), self.at.to_str().unwrap());
        match self.kind {
            // Where the kernel has no exFAT.
            "exfat" => {
                let device = output("losetup", &["--find", "--show", image]);
                run("mount.exfat-fuse", &[&device, at]);
                // Goes when it is unmounted.
                run("losetup", &["--detach", &device]);
            }
            _ => run("mount", &["-o", "loop", image, at]),
        }
        self.mounted = Some(Undo(self.at.clone()));
    }

    /// Unmounts it, as one does before pulling it out.
    pub fn unplug(&mut self) {
        run("umount", &[self.at.to_str().unwrap()]);
        self.mounted = None;
    }

    /// What a power cut at this moment leaves, as another disk's content; the filesystem is in use meanwhile.
    pub fn as_of_now(&self) -> PathBuf {
        let copy = self.image.with_extension("cut");
        run("cp", &["--sparse=always", self.image.to_str().unwrap(), copy.to_str().unwrap()]);
        copy
    }

    /// Plugs in that content instead of its own.
    pub fn becomes(&mut self, content: &Path) {
        self.unplug();
        fs::rename(content, &self.image).unwrap();
        self.plug();
    }

    /// Pulls it out while it is in use: from now on every access fails. Of an exFAT disk: who serves it can be killed.
    pub fn dies(&self) {
        let at = self.path().as_bytes();
        let serves = |dir: &Path| {
            let line = fs::read(dir.join("cmdline")).unwrap_or_default();
            line.starts_with(b"mount.exfat-fuse") && line.split(|b| *b == 0).any(|word| word == at)
        };
        let all = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
        let server = all.into_iter().find(|dir| serves(dir)).expect("the process that serves the disk");
        run("kill", &["-9", server.file_name().unwrap().to_str().unwrap()]);
    }

    pub fn path(&self) -> &str {
        self.at.to_str().unwrap()
    }
}

fn run(program: &str, words: &[&str]) {
    output(program, words);
}

fn output(program: &str, words: &[&str]) -> String {
    let out = Command::new(program).args(words).output();
    let out = out.unwrap_or_else(|e| panic!("these tests need {program}: {e}"));
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "these tests mount disks and need root: {program} {words:?}: {said}");
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}
