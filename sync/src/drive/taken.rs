//! What a pool notes of a drive that is being taken in, and what it signs for.

use std::path::Path;

use repo::crypto::hash::is_drive_of;
use repo::error::{Error, Kind, Result};
use repo::format::record::{Custody, DriveState};
use repo::id::DriveId;
use repo::monitor::{Event, Monitor};
use repo::open::Repository;
use repo::session::who;

use super::Contents;
use super::custody::change;
use super::make::Drive;
use super::receipt::{Receipt, leave};
use crate::serve::Door;

/// Other drives that one may name.
const NAMED: usize = 64;

/// Notes that the drive is here, with these packs. `fresh` is what is told of it otherwise, its way only where none is known.
///
/// # Errors
/// `WrongDrive` if the drive of this id is another repository's; what the log gives.
pub fn received(pool: &Repository, drive: DriveId, fresh: &DriveState, contents: Contents) -> Result<()> {
    let (now, by) = (pool.clock.now(), who());
    change(pool, drive, &mut |known| {
        // Its id stands on a drive for anybody to read, and to write on one of their own.
        if known.as_ref().is_some_and(|known| known.repository != fresh.repository) {
            let what = format!("drive {} is known here as one of another repository", drive.short());
            return Err(Error::new(Kind::WrongDrive, what).remedy("find out which of the two was copied"));
        }
        let here =
            |known: &DriveState| matches!(known.standing(), Custody::Received | Custody::Verified | Custody::Committed);
        // With other packs it has come anew: what was taken of it is not what it carries now.
        let come = known.as_ref().is_some_and(|known| here(known) && Contents::noted(known) == contents);
        let steps = known.map_or_else(|| fresh.steps.clone(), |known| known.steps);
        let mut state = contents.note(DriveState { steps, loads: Vec::new(), ..fresh.clone() });
        if !come {
            state.step(Custody::Received, now, &by);
        }
        Ok((state, ()))
    })
}

/// Notes the other drives that this one names: they are to come, or were given up at the site.
///
/// # Errors
/// What the log gives.
pub fn expect(pool: &Repository, drive: &Drive, tenant: &str) -> Result<()> {
    let (state, repository) = (drive.repo.log.state(), drive.repo.config.repo_id);
    // However many it names, time and again: so many of those that have never come are remembered.
    let came = |known: &DriveState| known.steps.iter().any(|step| step.custody == Custody::Received);
    let here = pool.log.state();
    let named =
        here.drives.values().filter(|known| known.repository == repository && !known.back && !came(known)).count();
    let mut left = NAMED.saturating_sub(named);
    // What it tells is the tenant's word: as much as an honest one would say.
    for (id, other) in state.drives.iter().filter(|(id, other)| **id != drive.id && !other.back).take(NAMED) {
        let mut told = DriveState { party: tenant.to_owned(), repository, loads: Vec::new(), ..other.clone() };
        // What came here, and whether all of it was taken, is for nobody else to say.
        told.steps.retain(|step| !matches!(step.custody, Custody::Received | Custody::Verified | Custody::Committed));
        if told.steps.is_empty() || !is_drive_of(id, &repository) {
            continue;
        }
        if !here.drives.contains_key(id) {
            let Some(less) = left.checked_sub(1) else { continue };
            left = less;
        }
        change(pool, *id, &mut |known| {
            let state = match known {
                // One that has been here is known better here.
                Some(known) if came(&known) => known,
                Some(known) if known.steps.len() >= told.steps.len() => known,
                _ => told.clone(),
            };
            Ok((state, ()))
        })?;
    }
    Ok(())
}

/// Notes that all of these packs, which are all that the drive carries, were taken, unless that is known.
///
/// # Errors
/// What the log gives.
pub fn verified(pool: &Repository, drive: DriveId, contents: Contents) -> Result<()> {
    let (now, by) = (pool.clock.now(), who());
    change(pool, drive, &mut |known| {
        let mut state = known.ok_or_else(|| Error::bug("a drive that is taken in is not known"))?;
        if Receipt::of(drive, &state).is_none_or(|receipt| receipt.contents != contents) {
            state = contents.note(state);
            state.step(Custody::Verified, now, &by);
        }
        Ok((state, ()))
    })
}

/// Notes that the snapshots of the drive are here, too.
///
/// # Errors
/// What the log gives.
pub fn committed(pool: &Repository, drive: DriveId) -> Result<()> {
    let (now, by) = (pool.clock.now(), who());
    change(pool, drive, &mut |known| {
        let mut state = known.ok_or_else(|| Error::bug("a drive that is taken in is not known"))?;
        if state.standing() == Custody::Verified {
            state.step(Custody::Committed, now, &by);
        }
        Ok((state, ()))
    })
}

/// Signs for what was taken, and puts the receipt on the drive in `root`; that it cannot be put there is a warning. None if the
/// drive was given up meanwhile.
///
/// # Errors
/// What the log gives.
pub fn sign(pool: &Repository, drive: DriveId, root: Option<&Path>, monitor: &dyn Monitor) -> Result<Option<String>> {
    let state = pool.log.state();
    let Some(receipt) = state.drives.get(&drive).and_then(|state| Receipt::of(drive, state)) else {
        return Ok(None);
    };
    let text = receipt.signed(&Door::host_key(pool)?)?;
    if let Some(Err(e)) = root.map(|root| leave(root, &text)) {
        let text =
            format!("the receipt is not on the drive ({e}); it comes to the site with its next push all the same");
        monitor.event(Event::Warning(&text));
    }
    Ok(Some(text))
}
