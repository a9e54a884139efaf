//! Who has a drive: what the log of a site, or of a pool, says of it.

use repo::error::{Error, Kind, Result};
use repo::format::record::{Custody, DriveState, Record, State, TenantState};
use repo::id::DriveId;
use repo::lock::COMMIT_WAIT;
use repo::monitor::{Event, Monitor, Void};
use repo::open::Repository;
use repo::session::who;

use super::Contents;
use super::receipt::{Receipt, Signed};
use crate::ssh::keys::PublicKey;
use crate::wire::limits::MAX_DRIVES;

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
    if matches!(to, Custody::Shipped | Custody::Lost) {
        count(repo, drive)?;
    }
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

/// The digest of a drive of which it is not known exactly what is on it: at least what is counted.
const CUT_OFF: [u8; 32] = [0; 32];

/// Says how much is on a drive to which an export has written that did not come to its end: pack by pack that is known.
///
/// # Errors
/// What the log gives, and reading roll-ups.
pub fn count(repo: &Repository, drive: DriveId) -> Result<()> {
    let state = repo.log.state();
    let Some(known) = state.drives.get(&drive).filter(|known| !known.loads.is_empty()) else { return Ok(()) };
    let loaded = Contents::loaded(repo, known)?;
    if loaded.packs <= known.packs {
        return Ok(());
    }
    change(repo, drive, &mut |known| {
        let known = known.ok_or_else(|| Error::bug("a drive is not known any more"))?;
        Ok((DriveState { digest: CUT_OFF, ..loaded.note(known) }, ()))
    })
}

/// Takes a pool's receipt: what the drive carried is there, and need not be sent.
///
/// # Errors
/// `NotFound` for a drive that is not known here; `Refused` for a receipt of another's, or of other packs than were written.
pub fn commit(repo: &Repository, signed: &Signed, monitor: &dyn Monitor) -> Result<DriveState> {
    let id = signed.drive();
    count(repo, id)?;
    let state = repo.log.state();
    let drive = state.drives.get(&id).ok_or_else(|| {
        Error::new(Kind::NotFound, format!("nothing is known here of drive {}, which the receipt is for", id.short()))
            .remedy("was it written to from another repository?")
    })?;
    let remote = crate::remote::find(repo, &drive.party)?;
    let receipt = signed.verify(&PublicKey::parse(&remote.host_key)?)?;
    let noted = Contents::noted(drive);
    // What is there beyond what was counted was on its way when the export was cut off. The next push compares everything.
    let fits = receipt.contents == noted || (noted.digest == CUT_OFF && receipt.contents.packs >= noted.packs);
    if receipt.repository != repo.config.repo_id || !fits {
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

/// Has the pool that is called `remote` here asked for the receipts of the drives on their way to it, and takes those that
/// hold: what these carried is there. Others are told as warnings. Whether a drive has come that was on its way; `ask` is not
/// called while none is.
///
/// # Errors
/// What `ask` gives, and this repository's log.
pub fn collect(
    repo: &Repository,
    remote: &str,
    monitor: &dyn Monitor,
    ask: &mut dyn FnMut(&[DriveId]) -> Result<Vec<String>>,
) -> Result<bool> {
    let state = repo.log.state();
    let away = state.under_way(Some((repo.config.repo_id, remote)));
    let mut come = false;
    for some in away.chunks(MAX_DRIVES) {
        for text in ask(some)? {
            match take(repo, some, &text, monitor) {
                Ok(()) => come = true,
                Err((of, e))
                    if matches!(e.kind(), Kind::Refused | Kind::Damaged | Kind::NotFound | Kind::NewerFormat) =>
                {
                    let text = format!("what {remote} gives as the receipt of drive {of} does not hold: {e}");
                    monitor.event(Event::Warning(&text));
                }
                Err((_, e)) => return Err(e),
            }
        }
    }
    Ok(come)
}

/// Takes a receipt that came for one of the drives that were `asked` about. If it does not hold: of which drive it seemed, and
/// why.
fn take(
    repo: &Repository,
    asked: &[DriveId],
    text: &str,
    monitor: &dyn Monitor,
) -> std::result::Result<(), (String, Error)> {
    let any = || asked.iter().map(DriveId::short).collect::<Vec<_>>().join(" or ");
    let signed = Receipt::read(text).map_err(|e| (any(), e))?;
    let drive = signed.drive();
    if !asked.contains(&drive) {
        let e = Error::new(Kind::Refused, format!("it is for drive {}, which was not asked about", drive.short()));
        return Err((any(), e));
    }
    let state = commit(repo, &signed, monitor).map_err(|e| (drive.short(), e))?;
    let text = format!("what drive {} ({}) carried is at {}", state.label.escape_debug(), drive.short(), state.party);
    monitor.event(Event::Notice(&text));
    Ok(())
}

/// Whether a pool's log says that this drive carries a part of this tenant's repository here.
pub(crate) fn is_of(drive: &DriveState, tenant: &TenantState) -> bool {
    // A name may have been another's before.
    !drive.back && drive.party == tenant.name && Some(drive.repository) == tenant.repository
}

/// Notes at a pool that everything a tenant has was delivered: so what its drives brought, or were to bring, is there.
///
/// # Errors
/// What the log gives.
pub fn delivered(pool: &Repository, tenant: u32) -> Result<()> {
    let waits = |drive: &DriveState| matches!(drive.standing(), Custody::Received | Custody::Verified);
    let state = pool.log.state();
    let Some(known) = state.tenants.get(&tenant) else { return Ok(()) };
    let mut here = state.drives.iter().filter(|(_, drive)| is_of(drive, known) && waits(drive)).peekable();
    if here.peek().is_none() {
        return Ok(());
    }
    let now = pool.clock.now();
    for (drive, _) in here {
        change(pool, *drive, &mut |known| {
            let mut state = known.ok_or_else(|| Error::bug("a drive is not known any more"))?;
            if waits(&state) {
                state.step(Custody::Committed, now, "push");
            }
            Ok((state, ()))
        })?;
    }
    // What is not on its way any more is told by the index.
    pool.refresh(&Void::default()).map(drop)
}
