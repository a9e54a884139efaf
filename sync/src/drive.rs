//! Transfer drives: a part of a repository on removable media, with word of who has it.
//!
//! A drive is a repository of its own, with the id and the keys of the one it carries a part of: packs, roll-ups and manifests are
//! byte for byte those of the repository, the log tells what of them is on the drive and nothing else. So it opens, mounts
//! and checks like any, by a recovery code of its own; what lies on another drive is absent. `docs/drives.md` tells more.

mod carry;
pub mod check;
pub mod custody;
pub mod export;
pub mod import;
mod make;
pub mod receipt;

use std::time::Duration;

use repo::backend::{Area, Backend, Object};
use repo::error::{Error, Kind, Result};
use repo::lock::{Locks, PruneGuard};

pub use make::{Drive, Label, init, open, place_of, retire};

/// What a drive's packs are, as a whole: BLAKE3 of their names in ascending order. And how many they are, and their bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Packs.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of their names.
    pub digest: [u8; 32],
}

impl Contents {
    /// Of the packs that are in `backend`.
    ///
    /// # Errors
    /// What listing them gives.
    pub fn of(backend: &dyn Backend) -> Result<Contents> {
        let (mut packs, mut bytes, mut hasher) = (0, 0, blake3::Hasher::new());
        backend.list(Area::Packs, &mut |object, size| {
            if let Object::Pack(id) = object {
                packs += 1;
                bytes += size;
                hasher.update(id.as_bytes());
            }
            Ok(())
        })?;
        Ok(Contents { packs, bytes, digest: *hasher.finalize().as_bytes() })
    }
}

/// Keeps others from writing to the drive, or from reading it for an import.
///
/// # Errors
/// `Locked`.
fn one_at_a_time(drive: &Drive) -> Result<Option<PruneGuard>> {
    let Some(root) = &drive.repo.root else { return Ok(None) };
    let held = Locks::file(&root.join("lock")).prune(Duration::ZERO);
    match held {
        Ok(guard) => Ok(Some(guard)),
        Err(e) if e.kind() == Kind::Locked => {
            Err(Error::new(Kind::Locked, "another command is at work on this drive").remedy("wait until it ends"))
        }
        // One that cannot be written is written by nobody.
        Err(e) if matches!(e.kind(), Kind::ReadOnly | Kind::NotFound) => Ok(None),
        Err(e) => Err(e),
    }
}
