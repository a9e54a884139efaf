//! Content hashes: what makes two chunks the same chunk.

use std::sync::LazyLock;

use blake3::Hasher;
use blake3::hazmat::{ContextKey, HasherExt, hash_derive_key_context};

use super::context;
use crate::error::Error;
use crate::id::{ContentHash, DriveId, RepoId, random_bytes};

/// What a chunk's plaintext is. Equal bytes of different kinds have unrelated hashes, so a file can never pass for a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ChunkKind {
    /// File content.
    Data = 0,
    /// A piece of a directory listing.
    Tree = 1,
    /// An index node of a large file or directory.
    Node = 2,
}

impl TryFrom<u8> for ChunkKind {
    type Error = Error;

    fn try_from(byte: u8) -> Result<ChunkKind, Error> {
        match byte {
            0 => Ok(ChunkKind::Data),
            1 => Ok(ChunkKind::Tree),
            2 => Ok(ChunkKind::Node),
            _ => Err(Error::damaged("a piece of data is of an unknown kind")),
        }
    }
}

// Hashed once: for a small chunk the context costs as much as the chunk.
static CONTEXT_KEYS: LazyLock<[ContextKey; 3]> =
    LazyLock::new(|| [context::HASH_DATA, context::HASH_TREE, context::HASH_NODE].map(hash_derive_key_context));

/// BLAKE3 of `plain` in derive-key mode under the context of `kind`.
pub fn content_hash(kind: ChunkKind, plain: &[u8]) -> ContentHash {
    let mut hasher = Hasher::new_from_context_key(&CONTEXT_KEYS[kind as usize]);
    hasher.update(plain);
    ContentHash::from_bytes(hasher.finalize().into())
}

/// The unkeyed checksum at the end of config and key slots: it tells rot from a wrong passphrase, and proves nothing
/// against someone who writes the file on purpose.
pub(crate) fn file_checksum(bytes: &[u8]) -> [u8; 32] {
    blake3::derive_key(context::FILE_CHECKSUM, bytes)
}

/// A new id for a drive of this repository's. It tells whose the drive is: nobody can make one for a repository of their own that
/// is called as another's drive is.
pub fn new_drive_id(repo: &RepoId) -> DriveId {
    drive_id(repo, random_bytes())
}

/// Whether a drive of this id may be this repository's.
pub fn is_drive_of(drive: &DriveId, repo: &RepoId) -> bool {
    let (chosen, _) = drive.as_bytes().split_first_chunk::<16>().unwrap_or((&[0; 16], &[]));
    drive_id(repo, *chosen) == *drive
}

fn drive_id(repo: &RepoId, chosen: [u8; 16]) -> DriveId {
    let mut hasher = Hasher::new_derive_key(context::DRIVE);
    let hash = hasher.update(repo.as_bytes()).update(&chosen).finalize();
    let mut id = [0; 32];
    id[..16].copy_from_slice(&chosen);
    id[16..].copy_from_slice(&hash.as_bytes()[..16]);
    DriveId(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::vectors;
    use crate::id::hex;

    const KINDS: [ChunkKind; 3] = [ChunkKind::Data, ChunkKind::Tree, ChunkKind::Node];

    #[test]
    fn equals_derive_key_and_differs_by_kind() {
        let plain: Vec<u8> = (0..200_000u32).map(|i| i as u8).collect();
        for (kind, context) in KINDS.into_iter().zip([context::HASH_DATA, context::HASH_TREE, context::HASH_NODE]) {
            for len in [0, 1, 64, 1024, 1025, plain.len()] {
                let expected = blake3::derive_key(context, &plain[..len]);
                assert_eq!(content_hash(kind, &plain[..len]).expose(), &expected);
            }
        }
        assert!(content_hash(ChunkKind::Data, b"x") != content_hash(ChunkKind::Tree, b"x"));
        assert!(content_hash(ChunkKind::Tree, b"x") != content_hash(ChunkKind::Node, b"x"));
    }

    #[test]
    fn a_drive_s_id_is_one_repository_s() {
        let (own, other) = (RepoId([1; 32]), RepoId([2; 32]));
        let (id, next) = (new_drive_id(&own), new_drive_id(&own));
        assert!(is_drive_of(&id, &own) && is_drive_of(&next, &own) && id != next);
        assert!(!is_drive_of(&id, &other));
        assert_eq!(drive_id(&vectors::REPO, [5; 16]).to_hex(), vectors::get("drive id"));
    }

    #[test]
    fn known_answers() {
        for (kind, name) in KINDS.into_iter().zip(["data", "tree", "node"]) {
            let hash = content_hash(kind, b"packmule");
            assert_eq!(hex(hash.expose()), vectors::get(&format!("content hash, {name}")));
        }
        assert_eq!(hex(content_hash(ChunkKind::Data, b"").expose()), vectors::get("content hash, data, empty"));
    }

    #[test]
    fn kinds_round_trip() {
        for kind in KINDS {
            assert_eq!(ChunkKind::try_from(kind as u8).unwrap(), kind);
        }
        assert!((3..=255).all(|b| ChunkKind::try_from(b).is_err()));
    }
}
