//! Transfer drives, as users handle them.

use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::disk::Disk;
use super::pool::{other_site, summary};
use super::{Ran, Running, Site, files, noise};

pub const MIB: u64 = 1 << 20;

/// A site with so many MiB of noise, in two snapshots.
pub fn large_site(mib: usize) -> Site {
    let site = other_site();
    site.write("dir/small", b"some words of a customer");
    site.write("image", &noise(5, (mib / 2) << 20));
    site.backup();
    for i in 0..40 {
        site.write(&format!("dir/f{i}"), &noise(100 + i, 20_000));
    }
    site.write("image2", &noise(6, (mib / 2) << 20));
    site.backup();
    site
}

/// Makes a drive; its recovery code.
#[track_caller]
pub fn made(site: &Site, at: &str, words: &[&str]) -> String {
    let mut all = vec!["--json", "drive", "init", at];
    all.extend(words);
    let told = site.run(&all).ok().json().remove(0);
    told["recovery_code"].as_str().unwrap_or_default().to_owned()
}

#[track_caller]
pub fn exported(site: &Site, at: &str) -> Value {
    summary(&site.run(&["--json", "drive", "export", "cloud", at]).ok())
}

#[track_caller]
pub fn imported(at: &Site, from: &str) -> Value {
    summary(&at.run(&["--json", "drive", "import", from]).ok())
}

/// The states of all drives that are known, by their labels.
pub fn states(site: &Site) -> Vec<(String, String)> {
    let told = site.run(&["--json", "drive", "list"]).ok().json();
    let text = |line: &Value, name: &str| line[name].as_str().unwrap().to_owned();
    let mut all: Vec<_> = told.iter().map(|line| (text(line, "label"), text(line, "state"))).collect();
    all.sort();
    all
}

pub fn state(site: &Site, label: &str) -> String {
    states(site).into_iter().find(|(l, _)| l == label).expect("a known drive").1
}

pub fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_else(|| panic!("no {name} in {value}"))
}

/// The drive's packs.
pub fn packs(drive: &Path) -> Vec<PathBuf> {
    files(&drive.join("packs"))
}

/// Damage in the middle of a file, for [`super::edit`].
pub fn flip(bytes: &mut [u8]) {
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
}

/// The program with a recovery code.
pub fn by_code(site: &Site, words: &[&str], code: &str) -> Ran {
    let mut command = site.program(words);
    command.env_remove("PACKMULE_REPOSITORY").env("PACKMULE_PASSWORD", code);
    Running::start(command).wait()
}

/// Exports until some packs are on the drive, and stops the program there.
#[track_caller]
pub fn halfway(site: &Site, disk: &Disk) -> Running {
    let free = || nix::sys::statvfs::statvfs(&disk.at).map(|s| s.blocks_free() * s.fragment_size()).unwrap();
    let before = free();
    let mut running = site.start(&["drive", "export", "cloud", disk.path()]);
    // Without a pause: it is over soon.
    let begun = std::time::Instant::now();
    while free() + 10 * MIB > before {
        assert!(!running.ended() && begun.elapsed().as_secs() < 20, "it ended: {}", running.stderr());
    }
    running.signal(Signal::SIGSTOP);
    running
}
