//! Content hashes: what makes two chunks the same chunk.

use std::sync::LazyLock;

use blake3::Hasher;
use blake3::hazmat::{ContextKey, HasherExt, hash_derive_key_context};

use super::context;
use crate::error::Error;
use crate::id::ContentHash;

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
