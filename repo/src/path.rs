//! Names and paths from outside, validated at construction: a value of these types is already safe to use.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::error::{Error, Kind, Result, printable};
use crate::limits::MAX_NAME;

/// Whether `name` can stand as one component of a path: not empty, `.` or `..`, at most
/// [`MAX_NAME`] bytes, without `/` or NUL. Everything decoded from a tree passes through here.
pub fn valid_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME
        && name != b"."
        && name != b".."
        && !name.iter().any(|&b| b == b'/' || b == 0)
}

/// A path inside a snapshot: components joined by `/`, no leading or trailing slash; empty is the snapshot's root.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapPath(Vec<u8>);

impl SnapPath {
    /// The snapshot's root.
    pub fn root() -> SnapPath {
        SnapPath(Vec::new())
    }

    /// Normalises `raw`: a leading `/`, doubled slashes and `.` components vanish, and a trailing slash does.
    ///
    /// # Errors
    /// `Usage` for `..`, NUL, or a component that is too long.
    pub fn new(raw: &[u8]) -> Result<SnapPath> {
        let mut out = SnapPath::root();
        for part in raw.split(|&b| b == b'/') {
            if part.is_empty() || part == b"." {
                continue;
            }
            if !valid_name(part) {
                return Err(Error::new(
                    Kind::Usage,
                    format!("'{}' is not a path inside a snapshot", printable(OsStr::from_bytes(raw).as_ref())),
                ));
            }
            out.push(part);
        }
        Ok(out)
    }

    /// Appends one component, which must be valid.
    pub fn push(&mut self, name: &[u8]) {
        debug_assert!(valid_name(name));
        if !self.0.is_empty() {
            self.0.push(b'/');
        }
        self.0.extend_from_slice(name);
    }

    /// This path with one more component.
    pub fn join(&self, name: &[u8]) -> SnapPath {
        let mut out = self.clone();
        out.push(name);
        out
    }

    /// The components from the top.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|&b| b == b'/').filter(|c| !c.is_empty())
    }

    /// The path without its last component; none for the root.
    pub fn parent(&self) -> Option<SnapPath> {
        if self.0.is_empty() {
            return None;
        }
        let cut = self.0.iter().rposition(|&b| b == b'/').unwrap_or(0);
        Some(SnapPath(self.0[..cut].to_vec()))
    }

    /// The last component; none for the root.
    pub fn name(&self) -> Option<&[u8]> {
        self.components().next_back()
    }

    /// True for the snapshot's root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes, without a leading slash.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As an operating system's relative path.
    pub fn as_path(&self) -> &std::path::Path {
        std::path::Path::new(OsStr::from_bytes(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normalised_or_refused() {
        assert_eq!(SnapPath::new(b"//a/./b//").unwrap().as_bytes(), b"a/b");
        assert!(SnapPath::new(b"/").unwrap().is_root());
        assert!(SnapPath::new(b"a/../b").is_err());
        assert!(SnapPath::new(b"a\0b").is_err());
        assert!(SnapPath::new(&[b'x'; 256]).is_err());
        let p = SnapPath::new(b"a/b").unwrap();
        assert_eq!(p.parent().unwrap().as_bytes(), b"a");
        assert_eq!(p.parent().unwrap().parent().unwrap(), SnapPath::root());
        assert_eq!(p.name(), Some(&b"b"[..]));
    }
}
