//! What is mounted where, as the kernel lists it.

use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The type of a repository's mount.
pub const KIND: &str = "fuse.packmule";

/// A mount as `/proc/self/mountinfo` lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// The device number, which only this mount has.
    pub device: (u32, u32),
    /// Where it is mounted.
    pub at: PathBuf,
    /// The type, such as `fuse.packmule`.
    pub kind: String,
    /// What was mounted.
    pub name: String,
}

/// Every mount this process sees.
///
/// # Errors
/// When `/proc` is not there.
pub fn mounts() -> Result<Vec<MountEntry>> {
    const TABLE: &str = "/proc/self/mountinfo";
    let text = std::fs::read(TABLE).map_err(|e| Error::io("read", TABLE, e))?;
    Ok(text.split(|b| *b == b'\n').filter_map(parse_mount).collect())
}

fn parse_mount(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|b| *b == b' ');
    let device = std::str::from_utf8(fields.nth(2)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let at = PathBuf::from(std::ffi::OsString::from_vec(unescape(fields.nth(1)?)));
    let mut rest = fields.skip_while(|f| *f != b"-").skip(1);
    let kind = String::from_utf8_lossy(rest.next()?).into_owned();
    let name = String::from_utf8_lossy(&unescape(rest.next()?)).into_owned();
    Some(MountEntry { device: (major.parse().ok()?, minor.parse().ok()?), at, kind, name })
}

/// The table writes space, tab, newline and backslash as `\` and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = |d: &[u8]| std::str::from_utf8(d).ok().and_then(|d| u8::from_str_radix(d, 8).ok());
        match tail.get(..3).filter(|_| first == b'\\').and_then(octal) {
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

/// The topmost mount on `at`, if any.
///
/// # Errors
/// As [`mounts`].
pub fn mounted_at(at: &Path) -> Result<Option<MountEntry>> {
    Ok(mounts()?.into_iter().rfind(|m| m.at == at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_table_is_read() {
        let line =
            br"36 35 98:0 /mnt1 /mnt\040two rw,noatime master:1 - fuse.packmule /srv/re\134po rw,errors=continue";
        let entry = parse_mount(line).unwrap();
        assert_eq!(entry.device, (98, 0));
        assert_eq!(entry.at, Path::new("/mnt two"));
        assert_eq!((entry.kind.as_str(), entry.name.as_str()), ("fuse.packmule", "/srv/re\\po"));
        assert!(parse_mount(b"").is_none());
        assert!(mounts().unwrap().iter().any(|m| m.at == Path::new("/")));
    }
}
