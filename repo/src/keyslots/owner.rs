//! The owner's key, which only a recovery code unwraps: it signs what its holder alone may order.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

use super::{list, open_owner};
use crate::backend::Backend;
use crate::crypto::context;
use crate::crypto::slot::RecoveryCode;
use crate::error::{Error, Kind, Result};
use crate::id::RepoId;

/// Bytes of a signature.
pub const SIGNATURE: usize = 64;

/// The owner's signing key, with the recovery code that holds it.
///
/// # Errors
/// `WrongPassword` if the code opens none.
pub fn owner_key(backend: &dyn Backend, repo_id: &RepoId, code: &RecoveryCode) -> Result<SigningKey> {
    let slots = list(backend, repo_id)?;
    let owner = slots.iter().filter_map(|s| s.slot.as_ref().ok()).find_map(|slot| open_owner(slot, code));
    let message = "the recovery code opens no owner's key";
    owner.map(|key| SigningKey::from_bytes(key.expose())).ok_or_else(|| Error::new(Kind::WrongPassword, message))
}

/// The owner's signature under an order to delete.
///
/// # Errors
/// As [`owner_key`]; `WrongPassword` too if the key is not the one that the config names.
pub fn sign_order(
    backend: &dyn Backend,
    repo_id: &RepoId,
    owner: &[u8; 32],
    code: &RecoveryCode,
    order: &[u8],
) -> Result<[u8; SIGNATURE]> {
    let key = owner_key(backend, repo_id, code)?;
    if key.verifying_key().to_bytes() != *owner {
        return Err(Error::new(
            Kind::WrongPassword,
            "the recovery code opens the key of another owner than this repository's",
        ));
    }
    Ok(key.sign(&digest(order)).to_bytes())
}

/// Whether this is the signature of the owner with that public key under an order to delete.
pub fn signed_order(owner: &[u8; 32], order: &[u8], signature: &[u8; SIGNATURE]) -> bool {
    let key = VerifyingKey::from_bytes(owner);
    // Strictly: one signature has one form, and no weak key is taken.
    key.is_ok_and(|key| key.verify_strict(&digest(order), &Signature::from_bytes(signature)).is_ok())
}

fn digest(order: &[u8]) -> [u8; 32] {
    blake3::derive_key(context::ORDER, order)
}
