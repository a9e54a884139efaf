//! Mounts of repositories, which are never captured: every snapshot would hold all earlier ones once more.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use parking_lot::Mutex;

/// A repository's mount, as the kernel names its filesystem.
const KIND: &[u8] = b"fuse.packmule";
const TABLE: &str = "/proc/self/mountinfo";

/// Tells which filesystems are mounts of repositories. The kernel's table is read once for each device that is asked for:
/// so a walk asks only where the device changes.
#[derive(Default)]
pub struct Mounts {
    known: Mutex<HashMap<u64, bool>>,
}

impl Mounts {
    /// Whether the filesystem with this device number is a repository's mount. Where the table cannot be read none is.
    pub fn is_repository(&self, dev: u64) -> bool {
        *self.known.lock().entry(dev).or_insert_with(|| read().iter().any(|mount| mount.dev == dev))
    }

    /// Whether a repository is mounted at `path`, which cannot be looked at: by another user, or with no process left
    /// to answer.
    pub fn is_mounted_at(&self, path: &Path) -> bool {
        read().iter().any(|mount| mount.at.as_bytes() == path.as_os_str().as_bytes())
    }
}

/// A mount of a repository.
struct Mount {
    dev: u64,
    at: OsString,
}

fn read() -> Vec<Mount> {
    let table = std::fs::read(TABLE).unwrap_or_default();
    table.split(|&b| b == b'\n').filter_map(parse).collect()
}

/// One line of the table, if it is a repository's mount.
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&b| b == b' ');
    let device = std::str::from_utf8(fields.nth(2)?).ok()?;
    let at = fields.nth(1)?;
    fields.by_ref().find(|field| field == b"-")?;
    if fields.next()? != KIND {
        return None;
    }
    let (major, minor) = device.split_once(':')?;
    let dev = libc::makedev(major.parse().ok()?, minor.parse().ok()?);
    Some(Mount { dev, at: OsString::from_vec(unescape(at)) })
}

/// The table writes blanks, line ends and backslashes as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| first == b'\\').and_then(|d| std::str::from_utf8(d).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_repository_s_mount_is_one() {
        let line =
            |kind: &str| format!("36 35 0:98 / /mnt/a\\040\\134b ro,nosuid shared:1 master:2 - {kind} /srv/repo ro");
        let found = parse(line("fuse.packmule").as_bytes()).unwrap();
        assert_eq!((found.dev, found.at.as_bytes()), (libc::makedev(0, 98), &b"/mnt/a \\b"[..]));
        for kind in ["fuse.sshfs", "ext4", "fuse.packmule2"] {
            assert!(parse(line(kind).as_bytes()).is_none());
        }
        assert!(parse(b"").is_none() && parse(b"1 2 3").is_none());
    }
}
