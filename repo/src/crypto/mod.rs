//! Keys and everything sealed with them.
//!
//! One cipher (XChaCha20-Poly1305 with random nonces), one hash (BLAKE3), and a derivation context for every purpose,
//! so that no key and no hash ever serves two. Nothing here does I/O, and no secret type prints.

pub mod hash;
pub mod key;
pub mod keys;
pub mod slot;

/// The format version this program writes, bound into everything that is sealed.
pub const FORMAT_VERSION: u16 = 1;

/// Declares the contexts and collects them, so that a test sees each.
macro_rules! contexts {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $($(#[$doc])* pub const $name: &str = $text;)*

        /// Every context there is.
        pub const ALL: &[&str] = &[$($name),*];
    };
}

/// BLAKE3 derive-key contexts, all of them. A context is never changed or used for a second purpose.
pub mod context {
    contexts! {
        /// Content hash of a data chunk.
        HASH_DATA = "packmule 2026-11-23 v1 content hash: data chunk";
        /// Content hash of a tree chunk.
        HASH_TREE = "packmule 2026-11-23 v1 content hash: tree chunk";
        /// Content hash of an index node.
        HASH_NODE = "packmule 2026-11-23 v1 content hash: index node";

        /// Master key to the key that turns content hashes into chunk ids.
        KEY_ID = "packmule 2026-11-23 v1 key: chunk ids";
        /// Master key to the key that authenticates the config.
        KEY_CONFIG = "packmule 2026-11-23 v1 key: config";
        /// Master key to the seed of the Ed25519 key that signs receipts and drives.
        KEY_SIGNING = "packmule 2026-11-23 v1 key: signing";
        /// Master key to the data key of its epoch: frames of both kinds.
        KEY_FRAME = "packmule 2026-11-23 v1 key: frames";
        /// Master key to the footer key of its epoch.
        KEY_FOOTER = "packmule 2026-11-23 v1 key: pack footers";
        /// Master key to the roll-up key of its epoch.
        KEY_ROLLUP = "packmule 2026-11-23 v1 key: footer roll-ups";
        /// Master key to the manifest key of its epoch.
        KEY_MANIFEST = "packmule 2026-11-23 v1 key: manifests";
        /// Master key to the sidecar key of its epoch.
        KEY_SIDECAR = "packmule 2026-11-23 v1 key: stat sidecars";
        /// Master key to the log key of its epoch.
        KEY_LOG = "packmule 2026-11-23 v1 key: log records";
        /// Master key to the key of its epoch for values in the index.
        KEY_INDEX = "packmule 2026-11-23 v1 key: index values";
        /// Master key to the key that seals tenants' keyrings at a pool.
        KEY_TENANT = "packmule 2026-11-23 v1 key: tenants' keyrings";
        /// Tenant and snapshot to the name that the snapshot has at a pool.
        TENANT_SNAPSHOT = "packmule 2026-11-23 v1 snapshot of a tenant";
        /// Repository and half of a drive's id to the other half.
        DRIVE = "packmule 2026-11-23 v1 transfer drive";
        /// An invitation's token to what the pool keeps of it.
        INVITATION = "packmule 2026-11-23 v1 invitation";
        /// Tells one content of what a site leaves at its pool from another.
        BELONGINGS = "packmule 2026-11-23 v1 belongings' mark";

        /// An order to delete to what the owner signs of it.
        ORDER = "packmule 2026-11-23 v1 order to delete";

        /// Argon2id output to the key that seals a passphrase slot.
        SLOT_PASSPHRASE = "packmule 2026-11-23 v1 slot: passphrase";
        /// Recovery code and salt to the key that seals a recovery slot.
        SLOT_RECOVERY = "packmule 2026-11-23 v1 slot: recovery code";
        /// Secret in an age file to the key that seals a recipient slot.
        SLOT_RECIPIENT = "packmule 2026-11-23 v1 slot: X25519 recipient";
        /// Recovery code and salt to the key that seals the owner's key.
        SLOT_OWNER = "packmule 2026-11-23 v1 slot: owner key";
        /// Recovery code to its checksum.
        RECOVERY_CHECKSUM = "packmule 2026-11-23 v1 checksum: recovery code";
        /// Config and slot bytes to the checksum at their end.
        FILE_CHECKSUM = "packmule 2026-11-23 v1 checksum: small file";
    }
}

/// Test vectors, read from the document that defines the format, so that the two cannot drift apart.
#[cfg(test)]
pub(crate) mod vectors {
    use super::key::Key;
    use super::keys::{Keyring, Keys};
    use crate::id::RepoId;

    pub(super) const DOCUMENT: &str = include_str!("../../../docs/format.md");

    /// The value in the row `| name | value |`.
    pub(crate) fn get(name: &str) -> &'static str {
        let row = DOCUMENT.lines().find_map(|line| line.strip_prefix(&format!("| {name} | `")));
        row.and_then(|rest| rest.strip_suffix("` |")).unwrap_or_else(|| panic!("no vector named {name}"))
    }

    /// The bytes of a value in hexadecimal.
    pub(crate) fn bytes(name: &str) -> Vec<u8> {
        let hex = get(name).as_bytes();
        hex.chunks(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    /// The repository of all vectors.
    pub(crate) const REPO: RepoId = RepoId([7; 32]);

    /// Its keyring of two epochs.
    pub(crate) fn keyring() -> Keyring {
        Keyring::from_bytes(&[[1; 32], [2; 32]].concat()).unwrap()
    }

    /// Its keys.
    pub(crate) fn keys() -> Keys {
        Keys::derive(&keyring(), REPO)
    }

    /// Its recovery code: the bytes 0 to 31.
    pub(crate) fn code() -> super::slot::RecoveryCode {
        super::slot::RecoveryCode::from_key(Key::from_slice(&(0..32).collect::<Vec<u8>>()).unwrap())
    }
}

#[cfg(test)]
mod tests {
    use super::context::ALL;
    use std::collections::BTreeSet;

    #[test]
    fn no_context_serves_two_purposes() {
        let distinct: BTreeSet<_> = ALL.iter().collect();
        assert_eq!(distinct.len(), ALL.len());
    }

    #[test]
    fn the_format_document_names_every_context() {
        for context in ALL {
            let purpose = context.strip_prefix("packmule 2026-11-23 v1 ").unwrap();
            assert!(super::vectors::DOCUMENT.contains(purpose), "{purpose}");
        }
    }
}
