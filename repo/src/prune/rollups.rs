//! Roll-ups of footers whose packs are gone.
//!
//! One that names a pack that is still there stays as it is, with the footers of packs that are gone: what reads roll-ups
//! goes by the packs that exist. Who follows the log past a roll-up that is gone reads the packs' own footers.

use crate::backend::{Area, Object};
use crate::error::{Kind, Result};
use crate::follow::read_rollup;
use crate::monitor::Monitor;
use crate::open::Repository;

/// Deletes the roll-ups of which no pack is left; returns how many. One that is damaged is left to `check`.
///
/// # Errors
/// What the backend gives.
pub fn drop_unused(repo: &Repository, monitor: &dyn Monitor) -> Result<u64> {
    let mut numbers = Vec::new();
    repo.backend.list(Area::Footers, &mut |object, _| {
        if let Object::Footers(number) = object {
            numbers.push(number);
        }
        Ok(())
    })?;
    let mut dropped = 0;
    for number in numbers {
        if monitor.cancelled() {
            break;
        }
        match is_unused(repo, number) {
            Ok(true) => {
                repo.backend.delete(&Object::Footers(number))?;
                dropped += 1;
            }
            Ok(false) => {}
            Err(e) if e.kind() == Kind::Damaged => {}
            Err(e) => return Err(e),
        }
    }
    repo.backend.sync_deletes(Area::Footers)?;
    Ok(dropped)
}

fn is_unused(repo: &Repository, number: u64) -> Result<bool> {
    for entry in read_rollup(repo.backend.as_ref(), &repo.keys, number)? {
        if repo.index.pack_by_id(&entry.id)?.is_some() || repo.backend.size(&Object::Pack(entry.id))?.is_some() {
            return Ok(false);
        }
    }
    Ok(true)
}
