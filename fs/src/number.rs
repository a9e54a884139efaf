//! Inode numbers: a function of what they name, so they are the same at every mount and after the kernel forgot them.
//!
//! - Bit 62 is clear for synthetic entries (a hash of names) and set for captured ones. Bit 63 is never set.
//! - A captured entry's number is 38 bits of its directory's key and then its position in the directory. Programs
//!   that sort by inode (`cp`, `find`) then read in the order in which frames were packed.
//! - Names of one hard link group share a number, made from the snapshot and the group.

use repo::id::SnapshotId;

/// The mount point's inode.
pub const ROOT: u64 = 1;

/// Set in the numbers of captured entries.
pub(crate) const CAPTURED: u64 = 1 << 62;
const POSITION_BITS: u32 = 24;

/// Whether an inode belongs into the table rather than the layout.
pub fn is_captured(ino: u64) -> bool {
    ino & CAPTURED != 0
}

/// Hashes that become inode numbers and directory keys. Each sort of thing has its own domain.
pub struct Hash;

impl Hash {
    fn of(domain: u8, number: u64, bytes: &[u8], more: &[u8]) -> u64 {
        let mut input = Vec::with_capacity(17 + bytes.len() + more.len());
        input.push(domain);
        input.extend_from_slice(&number.to_le_bytes());
        input.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        input.extend_from_slice(bytes);
        input.extend_from_slice(more);
        let hash = blake3::hash(&input);
        let mut low = [0; 8];
        low.copy_from_slice(&hash.as_bytes()[..8]);
        // Never the root or zero.
        (u64::from_le_bytes(low) & (CAPTURED - 1)).max(2)
    }

    /// A synthetic directory.
    pub fn name(parent: u64, name: &[u8]) -> u64 {
        Hash::of(0, parent, name, &[])
    }

    /// A synthetic link: another number when it leads elsewhere.
    pub fn link(parent: u64, name: &[u8], target: &SnapshotId) -> u64 {
        Hash::of(1, parent, name, target.as_bytes())
    }

    /// A snapshot's root, and its key.
    pub fn snapshot(id: &SnapshotId) -> u64 {
        Hash::of(2, 0, id.as_bytes(), &[])
    }

    /// The key of a directory inside a snapshot.
    pub fn key(parent: u64, name: &[u8]) -> u64 {
        Hash::of(3, parent, name, &[])
    }

    /// What the names of a hard link group share.
    pub fn group(snapshot: &SnapshotId, group: &[u8; 32]) -> u64 {
        Hash::of(4, 0, snapshot.as_bytes(), group) | CAPTURED
    }

    /// The entry at `position` of the directory with this key.
    pub fn position(key: u64, position: u64) -> u64 {
        let base = (key << POSITION_BITS) & (CAPTURED - 1);
        (base.wrapping_add(position) & (CAPTURED - 1)) | CAPTURED
    }

    /// A version of a file, or with no content a union, in a union.
    pub fn version(parent: u64, name: &[u8], content: &[u8]) -> u64 {
        Hash::of(5, parent, name, content) | CAPTURED
    }
}
