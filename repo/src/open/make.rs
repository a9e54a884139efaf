//! Making repositories, and transfer drives.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::local::{Local, Unmade};
use crate::backend::{Area, Backend, Object};
use crate::chunker::ChunkerParams;
use crate::crypto::FORMAT_VERSION;
use crate::crypto::keys::{Keyring, Keys};
use crate::crypto::slot::RecoveryCode;
use crate::error::{Error, Kind, Result};
use crate::format::config::Config;
use crate::id::{DriveId, RepoId};
use crate::keyslots::{self, NewSlots};
use crate::limits::{PACK_SIZE, PACK_SIZE_MIN};
use crate::lock::Locks;
use crate::log::Log;

/// What a new repository is made with.
pub struct Init<'a> {
    /// The first key slots.
    pub slots: NewSlots<'a>,
    /// How files are cut.
    pub chunker: ChunkerParams,
    /// The size at which packs are closed, in bytes.
    pub pack_size: u32,
}

impl<'a> Init<'a> {
    /// The usual parameters.
    pub fn new(slots: NewSlots<'a>) -> Init<'a> {
        Init { slots, chunker: ChunkerParams::DEFAULT, pack_size: PACK_SIZE as u32 }
    }
}

/// Makes a repository in `root`, which must be empty or absent. Returns its id and the recovery code, to be shown once.
///
/// # Errors
/// `Exists` when there is a repository already, `Refused` when there is something else; what the system gives. Nothing
/// that was made stays then.
pub fn init(root: &Path, wanted: &Init<'_>) -> Result<(RepoId, Option<RecoveryCode>)> {
    init_over(&Unmade::look(root), root, wanted, Identity::new())
}

/// As [`init`], but makes an empty repository with the id and the keys of one that was lost, so that its snapshots can be
/// brought back.
///
/// # Errors
/// As [`init`].
pub fn init_anew(root: &Path, wanted: &Init<'_>, identity: Identity) -> Result<Option<RecoveryCode>> {
    init_over(&Unmade::look(root), root, wanted, identity).map(|(_, code)| code)
}

/// Makes a transfer drive in `root`: a repository with this identity, in which nothing is yet. What opens it is a recovery code
/// of its own, to be shown once, and the recipients in `wanted`.
///
/// # Errors
/// As [`Local::new_drive`], and what the system gives.
pub fn init_drive(root: &Path, mut wanted: Init<'_>, identity: Identity) -> Result<(DriveId, RecoveryCode)> {
    let (backend, id) = Local::new_drive(root, &identity.id)?;
    let _only_one = Locks::file(&backend.lock_path()).commit(Duration::ZERO).map_err(|e| match e.kind() {
        Kind::Locked => another(root),
        _ => e,
    })?;
    // What an interrupted making left.
    for area in [Area::Keys, Area::Log] {
        let mut left = Vec::new();
        backend.list(area, &mut |object, _| {
            left.push(object);
            Ok(())
        })?;
        left.iter().try_for_each(|object| backend.delete(object))?;
        backend.sync_deletes(area)?;
    }
    // What is sealed anew for a drive goes into packs that are small beside it: the room at its end that none fits is lost.
    let small = u32::try_from(backend.free_space()?.unwrap_or(u64::MAX) / 64).unwrap_or(u32::MAX);
    wanted.pack_size = wanted.pack_size.min(small.max(PACK_SIZE_MIN as u32));
    let (_, code) = init_with(Arc::new(backend), &wanted, identity)?;
    let code = code.ok_or_else(|| Error::bug("a drive was made without a recovery code"))?;
    Ok((id, code))
}

/// What makes a repository the one it is.
pub struct Identity {
    /// Its id.
    pub id: RepoId,
    /// Its master keys.
    pub keyring: Keyring,
}

impl Identity {
    /// Of a repository that never was.
    fn new() -> Identity {
        Identity { id: RepoId::random(), keyring: Keyring::generate() }
    }
}

/// As [`init`], of a place that was as `unmade` tells.
fn init_over(
    unmade: &Unmade,
    root: &Path,
    wanted: &Init<'_>,
    identity: Identity,
) -> Result<(RepoId, Option<RecoveryCode>)> {
    let undone = |e: Error| match e.kind() {
        // Another is making one in the same place, or has just done so: all that is there is that one's.
        Kind::Locked | Kind::Exists | Kind::Refused => e,
        kind => {
            unmade.restore();
            if kind == Kind::NoSpace { e.remedy("make room there, or name another directory") } else { e }
        }
    };
    let backend = Local::create(root).map_err(undone)?;
    let busy = |e: Error| if e.kind() == Kind::Locked { another(root) } else { e };
    let _only_one = Locks::file(&backend.lock_path()).commit(Duration::ZERO).map_err(busy).map_err(undone)?;
    init_with(Arc::new(backend), wanted, identity).map_err(undone)
}

fn another(root: &Path) -> Error {
    let busy = Error::new(Kind::Locked, "another process is just making a repository in").at(root);
    busy.remedy("wait until it has ended, or name another directory")
}

/// As [`init`], in any empty backend.
///
/// # Errors
/// What the backend gives; `Exists` when there is a config.
pub fn init_in(backend: Arc<dyn Backend>, wanted: &Init<'_>) -> Result<(RepoId, Option<RecoveryCode>)> {
    init_with(backend, wanted, Identity::new())
}

fn init_with(
    backend: Arc<dyn Backend>,
    wanted: &Init<'_>,
    identity: Identity,
) -> Result<(RepoId, Option<RecoveryCode>)> {
    wanted.chunker.validate()?;
    for object in [Object::Config, Object::ConfigCopy] {
        if backend.size(&object)?.is_some() {
            return Err(Error::new(Kind::Exists, "there is a repository already:").at(backend.path(&object)));
        }
    }
    let Identity { id: repo_id, keyring } = identity;
    let created = keyslots::create_slots(backend.as_ref(), repo_id, keyring, &wanted.slots)?;
    let keys = Arc::new(Keys::derive(&created.keyring, repo_id));
    Log::create(Arc::clone(&backend), Arc::clone(&keys), created.keyring.epochs() - 1)?;
    let config = Config {
        version: FORMAT_VERSION,
        repo_id,
        chunker: wanted.chunker,
        pack_size: wanted.pack_size,
        owner_public: created.owner_public,
    };
    // Last: its presence makes a directory a repository.
    let config = config.encode(&keys);
    backend.put(&Object::Config, &config)?;
    backend.put(&Object::ConfigCopy, &config)?;
    Ok((repo_id, created.recovery_code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::slot::Argon2Cost;

    #[test]
    fn who_is_too_late_to_make_a_repository_leaves_another_s_alone() {
        let dir = tempfile::tempdir().unwrap();
        let slots = NewSlots { passphrase: None, cost: Argon2Cost::DEFAULT, recipients: &[], recovery_code: true };
        let wanted = Init::new(slots);
        for finished in [false, true] {
            let root = dir.path().join(format!("{finished}"));
            // Both look, and find nothing.
            let late = Unmade::look(&root);
            let first = Local::create(&root).unwrap();
            let making = Locks::file(&first.lock_path()).commit(Duration::ZERO).unwrap();
            let kind = |made: Result<_>| made.map(|_: (RepoId, Option<RecoveryCode>)| ()).unwrap_err().kind();
            assert_eq!(kind(init_over(&late, &root, &wanted, Identity::new())), Kind::Locked);
            let first: Arc<dyn Backend> = Arc::new(first);
            let (id, _) = init_in(Arc::clone(&first), &wanted).unwrap();
            if !finished {
                // The config comes last.
                for object in [Object::Config, Object::ConfigCopy] {
                    first.delete(&object).unwrap();
                }
            }
            let late = kind(init_over(&late, &root, &wanted, Identity::new()));
            assert_eq!(late, if finished { Kind::Exists } else { Kind::Refused });
            drop(making);
            assert!(!keyslots::list(first.as_ref(), &id).unwrap().is_empty(), "{finished}");
        }
    }
}
