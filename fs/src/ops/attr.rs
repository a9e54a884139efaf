//! What `stat` says.

use std::time::Duration;

use repo::format::tree::{Content, EntryType, Extent, FileTime};

use crate::inode::{Body, Node};

/// Inside a snapshot nothing ever changes.
pub const FOREVER: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Synthetic entries are taken back when they change; this bounds the harm if that fails.
pub const A_WHILE: Duration = Duration::from_secs(60);
/// Unions follow the snapshots.
pub const SHORT: Duration = Duration::from_secs(5);

/// A file's attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Inode.
    pub ino: u64,
    /// Length in bytes.
    pub size: u64,
    /// Space in units of 512 bytes.
    pub blocks: u64,
    /// Last modification; also shown as last change and last access.
    pub mtime: FileTime,
    /// What it is.
    pub kind: EntryType,
    /// Permission bits with setuid, setgid and sticky.
    pub perm: u16,
    /// Never 0. Directories say 1, which means "not counted"; a file with several names says 2, because how many
    /// there are in the snapshot is not recorded, and what matters to programs is that there are more.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number, as `makedev` gives it.
    pub rdev: u64,
}

/// Attributes and how long they and the name may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Looked {
    /// The attributes.
    pub attr: Attr,
    /// How long the name leads to this inode.
    pub name_for: Duration,
    /// How long the attributes hold; zero when they are not complete.
    pub attr_for: Duration,
}

/// Shows everything as one user's, instead of as captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presentation {
    /// Owner of everything.
    pub uid: u32,
    /// Group of everything.
    pub gid: u32,
    /// Permissions that nobody has; the rest everybody has.
    pub umask: u32,
}

impl Presentation {
    /// Everything readable, directories passable, what anybody could execute executable, less the mask. ACLs,
    /// setuid and sticky bits do not count.
    pub fn mode(&self, kind: EntryType, captured: u32) -> u32 {
        let all = match kind {
            EntryType::Dir => 0o555,
            EntryType::Symlink => return 0o777,
            _ if captured & 0o111 != 0 => 0o555,
            _ => 0o444,
        };
        all & !self.umask
    }
}

/// Blocks of `bytes` as a disk would count them.
pub fn whole_blocks(bytes: u64) -> u64 {
    bytes.div_ceil(4096).saturating_mul(8)
}

/// Blocks of a file of `size` bytes, `data` of them outside holes: less than `size / 512` exactly when there are
/// holes, because that is how programs tell that they should look for them.
pub fn blocks(size: u64, data: u64) -> u64 {
    if data >= size {
        return whole_blocks(size);
    }
    whole_blocks(data).min((size - 1) / 512)
}

/// Bytes outside holes, if that is known without reading.
pub fn data_bytes(node: &Node) -> Option<u64> {
    match &node.body {
        Body::File(Content::Extents(extents)) => Some(sum(extents)),
        Body::File(Content::Indexed { .. }) => node.counted(),
        _ => Some(node.meta.size),
    }
}

fn sum(extents: &[Extent]) -> u64 {
    extents.iter().filter(|e| matches!(e, Extent::Data { .. })).map(Extent::len).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_tell_holes() {
        assert_eq!(blocks(0, 0), 0);
        assert_eq!(blocks(1, 1), 8);
        assert_eq!(blocks(4097, 4097), 16);
        for (size, data) in [(1 << 20, 0), (5000, 4096), (4097, 4096), (513, 512), (1 << 30, 1 << 29)] {
            assert!(blocks(size, data) * 512 < size, "{size} {data}");
        }
        assert_eq!(blocks(1 << 20, 4096), 8);
    }

    #[test]
    fn one_user_sees_everything_but_what_the_mask_takes() {
        let p = Presentation { uid: 1, gid: 2, umask: 0o077 };
        assert_eq!(p.mode(EntryType::Dir, 0), 0o500);
        assert_eq!(p.mode(EntryType::File, 0o000), 0o400);
        assert_eq!(p.mode(EntryType::File, 0o4711), 0o500);
    }
}
