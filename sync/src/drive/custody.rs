//! Who has a drive: what the log of a site, or of a pool, says of it.

use repo::error::{Error, Kind, Result};
use repo::format::record::{Custody, DriveState, Record, State};
use repo::id::DriveId;
use repo::lock::COMMIT_WAIT;
use repo::monitor::Monitor;
use repo::open::Repository;
use repo::session::who;

use super::Contents;
use super::receipt::Signed;
use crate::ssh::keys::PublicKey;

/// The drive whose id begins with `name`, or whose label it is.
///
/// # Errors
/// `NotFound`, `Ambiguous`.
pub fn find<'a>(state: &'a State, name: &str) -> Result<(DriveId, &'a DriveState)> {
    let digits = name.to_ascii_lowercase();
    let labelled = state.drives.iter().filter(|(_, drive)| drive.label == name);
    let begins = |id: &DriveId| !digits.is_empty() && id.to_hex().starts_with(&digits);
    let mut fits: Vec<(DriveId, &DriveState)> = labelled.map(|(id, drive)| (*id, drive)).collect();
    if fits.is_empty() {
        fits = state.drives.iter().filter(|(id, _)| begins(id)).map(|(id, drive)| (*id, drive)).collect();
    }
    match fits[..] {
        [one] => Ok(one),
        [] => Err(Error::new(Kind::NotFound, format!("there is no drive '{}'", name.escape_debug()))
            .remedy("`packmule drive list` shows those there are")),
        _ => Err(Error::new(Kind::Ambiguous, format!("several drives are called '{}'", name.escape_debug()))
            .remedy("give the first digits of its id; `packmule drive list` shows them")),
    }
}

/// Changes what is known of a drive, under the commit lock: `change` sees it as it is then; none if nothing is known.
///
/// # Errors
/// What `change` gives.
pub fn change<T>(
    repo: &Repository,
    drive: DriveId,
    change: &mut dyn FnMut(Option<DriveState>) -> Result<(DriveState, T)>,
) -> Result<T> {
    let commit = repo.locks.commit(COMMIT_WAIT)?;
    repo.log.refresh()?;
    let known = repo.log.state().drives.get(&drive).cloned();
    let before = known.clone();
    let (state, result) = change(known)?;
    if before.as_ref() != Some(&state) {
        let state = Box::new(DriveState { loads: Vec::new(), ..state });
        repo.log.append(&commit, Record::DriveSet { drive, state })?;
    }
    Ok(result)
}

/// Takes a drive that is known one step further, if it is where that may be said.
///
/// # Errors
/// `NotFound` for one that is not known; `Refused` from where it is.
pub fn step(repo: &Repository, drive: DriveId, to: Custody, monitor: &dyn Monitor) -> Result<DriveState> {
    let (by, now) = (who(), repo.clock.now());
    let done = change(repo, drive, &mut |known| {
        let mut state = known
            .ok_or_else(|| Error::new(Kind::NotFound, format!("nothing is known here of drive {}", drive.short())))?;
        if state.custody() == to {
            return Ok((state.clone(), state));
        }
        let may = match to {
            Custody::Shipped => matches!(state.custody(), Custody::Exported),
            Custody::Lost => state.custody().is_under_way(),
            Custody::Committed => state.custody().is_under_way() || state.custody() == Custody::Lost,
            Custody::Retired => true,
            _ => false,
        };
        if !may {
            let what = format!("drive {} ({}) is {}", drive.short(), state.label, state.custody().name());
            return Err(Error::new(Kind::Refused, format!("{what}: it cannot become {}", to.name()))
                .remedy("`packmule drive show` tells its way so far"));
        }
        state.step(to, now, &by);
        Ok((state.clone(), state))
    })?;
    // What is on its way, or is no more, is told by the index.
    repo.refresh(monitor)?;
    Ok(done)
}

/// Takes a pool's receipt: what the drive carried is there, and need not be sent.
///
/// # Errors
/// `NotFound` for a drive that is not known here; `Refused` for a receipt of another's, or of other packs than were written.
pub fn commit(repo: &Repository, signed: &Signed, monitor: &dyn Monitor) -> Result<DriveState> {
    let id = signed.drive();
    let state = repo.log.state();
    let drive = state.drives.get(&id).ok_or_else(|| {
        Error::new(Kind::NotFound, format!("nothing is known here of drive {}, which the receipt is for", id.short()))
            .remedy("was it written to from another repository?")
    })?;
    let remote = crate::remote::find(repo, &drive.party)?;
    let receipt = signed.verify(&PublicKey::parse(&remote.host_key)?)?;
    let written = Contents { packs: drive.packs, bytes: drive.bytes, digest: drive.digest };
    if receipt.repository != repo.config.repo_id || receipt.contents != written {
        let what = format!(
            "the receipt is for {} packs, and {} were written to the drive",
            receipt.contents.packs, drive.packs
        );
        return Err(Error::new(Kind::Refused, what).remedy(
            "was more written to it since, or did an export not end? `packmule drive export` ends it; then it is imported again",
        ));
    }
    step(repo, id, Custody::Committed, monitor)
}
