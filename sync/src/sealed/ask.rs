//! Asking a pool to delete from a sealed copy what the repository has no more: by its owner's order.

use repo::backend::{Area as Stored, Object};
use repo::clock::Time;
use repo::crypto::slot::RecoveryCode;
use repo::error::{Kind, Result};
use repo::format::record::Position;
use repo::log::CHECKPOINT_EVERY;
use repo::open::Repository;

use super::objects::names;
use super::order::{MOST, Order};
use super::remote::{Remote, stored};
use crate::wire::Area;

/// What became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Objects deleted.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that came within the pool's immutability window, and stay for now.
    pub later: u64,
    /// When the last of these may go.
    pub until: Option<Time>,
}

/// Has the pool delete what `source` has no more, by an order that `code`'s key signs. `position` is the newest record there.
///
/// # Errors
/// `WrongPassword` if the code unwraps no owner's key; `Refused`, and why; as [`Remote::begin`].
pub fn delete(source: &Repository, remote: &Remote, code: &RecoveryCode, position: Position) -> Result<Deleted> {
    let state = source.log.state();
    let first = names(source.backend.as_ref(), Stored::Log)?.into_iter().find_map(|object| match object {
        Object::Log(seq @ 1..) => Some(seq),
        _ => None,
    });
    let kept_from = first.unwrap_or(1).min(position.seq - (position.seq - 1) % CHECKPOINT_EVERY);
    let (mut done, mut objects) = (Deleted::default(), Vec::new());
    for area in [Area::Keys, Area::Packs, Area::Footers, Area::Snapshots, Area::Log] {
        for listed in remote.list(area)? {
            let Some(object) = stored(&listed.object) else { continue };
            let keep = match &object {
                Object::Snapshot(id) => state.snapshots.contains_key(id),
                Object::Log(seq) => *seq >= kept_from,
                // A pack that is missing but known is damage here, and the copy's may be the last.
                Object::Pack(id) if source.index.pack_by_id(id)?.is_some() => true,
                _ => source.backend.size(&object)?.is_some(),
            };
            if keep {
                continue;
            }
            if listed.until > remote.time {
                done.later += 1;
                done.until = done.until.max(Some(listed.until));
            } else if objects.len() < MOST {
                objects.push(listed.object);
            }
        }
    }
    if objects.is_empty() {
        return Ok(done);
    }
    objects.sort();
    let order = Order { repository: source.config.repo_id, position, objects };
    let signed = order.sign(source, code).map_err(|e| match e.kind() {
        Kind::WrongPassword => {
            e.remedy("give the recovery code that was shown when the repository was made, or the one it was moved to")
        }
        _ => e,
    })?;
    (done.objects, done.bytes) = remote.order(&signed)?;
    Ok(done)
}
