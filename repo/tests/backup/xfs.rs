//! What XFS shows of itself. Needs root and mkfs.xfs.

use std::path::{Path, PathBuf};
use std::process::Command;

use repo::capture::{Options, backup};
use repo::monitor::Recording;

use crate::site::{Site, listing};

/// A filesystem in a file, unmounted when it is dropped.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn run(program: &str, words: &[&str], last: &[&Path]) {
    let out = Command::new(program).args(words).args(last).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn access_control_lists_are_captured_once() {
    let site = Site::new();
    let (image, at) = (site.dir.path().join("image"), site.dir.path().join("xfs"));
    std::fs::File::create(&image).unwrap().set_len(512 << 20).unwrap();
    std::fs::create_dir(&at).unwrap();
    run("mkfs.xfs", &["-q"], &[&image]);
    run("mount", &["-o", "loop"], &[&image, &at]);
    let _mounted = Mounted(at.clone());
    std::fs::create_dir(at.join("dir")).unwrap();
    run("setfacl", &["-m", "u:1234:rwx,d:u:1234:rx"], &[&at.join("dir")]);
    xattr::set(at.join("dir"), "trusted.other", b"kept").unwrap();
    let all = |path: &Path| xattr::list(path).unwrap().collect::<Vec<_>>();
    assert!(all(&at.join("dir")).iter().any(|name| name == "trusted.SGI_ACL_FILE"), "{:?}", all(&at.join("dir")));
    let repo = site.open();
    let options = Options { paths: vec![at.clone()], ..site.options() };
    let outcome = backup(&repo, options, &Recording::default()).unwrap();
    let found = listing(&repo, &outcome, &at);
    let names: Vec<&[u8]> = found[&b"dir"[..]].xattrs.iter().map(|(name, _)| name.as_slice()).collect();
    assert_eq!(names, [&b"system.posix_acl_access"[..], b"system.posix_acl_default", b"trusted.other"]);
}
