//! Replacing what is damaged or lost in a repository by what a remote has of it. A check has said before, in the log, which
//! packs are damaged; one after it says which are whole again.

use std::collections::HashSet;
use std::sync::Arc;

use repo::backend::{Area, Backend, Object};
use repo::capture::SessionSink;
use repo::error::{Error, Kind, Result};
use repo::follow::{MAX_ROLLUP, read_rollup};
use repo::format::record::Outcome;
use repo::id::{PackId, SnapshotId};
use repo::limits::{MAX_MANIFEST, MAX_PACK};
use repo::lock::COMMIT_WAIT;
use repo::mend::renew_index;
use repo::monitor::{Event, Monitor};
use repo::open::Repository;
use repo::session::Session;
use repo::snapshots;

use crate::pull::{Nearest, Pull, Report, SEEN_MOST, There, nowhere};
use crate::sealed::names;

/// What was healed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Healed {
    /// Packs put back as they were.
    pub packs: u64,
    /// Chunks stored again, in new packs.
    pub chunks: u64,
    /// Manifests put back.
    pub manifests: u64,
    /// Roll-ups put back.
    pub rollups: u64,
    /// Bytes fetched for it.
    pub bytes: u64,
    /// What the remote could not give, one line each.
    pub failed: Vec<String>,
}

impl Healed {
    fn fail(&mut self, monitor: &dyn Monitor, e: &Error) {
        monitor.event(Event::Warning(&format!("not healed: {e}")));
        self.failed.push(e.to_string());
    }
}

/// Heals from a pooled tenant's snapshots: manifests, and the chunks that no whole pack has, sealed anew.
///
/// # Errors
/// `Unreachable`; `Interrupted`; what this repository gives. What cannot be had is no error.
pub fn from_snapshots(repo: &Repository, other: &mut dyn There, monitor: &dyn Monitor) -> Result<Healed> {
    let mut healed = Healed::default();
    let state = repo.refresh(monitor)?;
    let live: Vec<SnapshotId> = state.snapshots.keys().copied().collect();
    let mut lost = Vec::new();
    for id in &live {
        match snapshots::manifest(repo, id) {
            Err(e) if is_loss(&e) => lost.push(*id),
            other => drop(other?),
        }
    }
    other.manifests(&lost, &mut |id, found| {
        match (found, state.snapshots.get(id)) {
            (Ok(mut manifest), Some(known)) => {
                // The pool may have put it right by its own clock.
                manifest.recorded = known.recorded.0;
                snapshots::replace(repo, &manifest)?;
                healed.manifests += 1;
            }
            (Err(e), _) if is_loss(&e) => healed.fail(monitor, &e),
            (found, _) => drop(found?),
        }
        Ok(())
    })?;
    if state.damaged.is_empty() && healed.manifests == 0 {
        spare_footers(repo, &[], &mut healed, monitor)?;
        return Ok(healed);
    }
    let session = Arc::new(Session::begin(Arc::clone(&repo.log), repo.locks.clone(), "heal", None)?);
    repo.refresh(monitor)?;
    let source = Nearest { here: repo.packs(), there: other.source() };
    let mut pull = Pull { repo, session: &session, source, report: Report::default() };
    let (mut writer, mut seen) = (SessionSink::writer(repo, &session), HashSet::new());
    for id in &live {
        if monitor.cancelled() {
            return Err(Error::new(Kind::Interrupted, "interrupted; what was healed stays so"));
        }
        // One that did not come back was told of.
        let Ok(manifest) = snapshots::manifest(repo, id) else { continue };
        match pull.one(&manifest, &mut seen, &mut writer, &nowhere, monitor) {
            Err(e) if is_loss(&e) => healed.fail(monitor, &e.context(format_args!("snapshot {}", id.short()))),
            other => other?,
        }
        if seen.len() >= SEEN_MOST {
            seen.clear();
        }
    }
    writer.finish()?;
    (healed.chunks, healed.bytes) = (pull.report.chunks, pull.report.bytes);
    drop(pull);
    match Arc::try_unwrap(session) {
        Ok(session) => session.end(Outcome::Done).map(drop)?,
        Err(_) => return Err(Error::bug("a session of healing is still in use at its end")),
    }
    spare_footers(repo, &[], &mut healed, monitor)?;
    Ok(healed)
}

/// Heals from a copy, byte for byte: packs, manifests, roll-ups.
///
/// # Errors
/// As [`from_snapshots`].
pub fn from_copy(repo: &Repository, copy: &dyn Backend, monitor: &dyn Monitor) -> Result<Healed> {
    let (mut healed, mut back) = (Healed::default(), Vec::new());
    // What is put back must not be on its way out.
    let no_prune = repo.locks.prune(COMMIT_WAIT)?;
    let state = repo.refresh(monitor)?;
    for id in state.damaged.keys() {
        if monitor.cancelled() {
            return Err(Error::new(Kind::Interrupted, "interrupted; what was healed stays so"));
        }
        let object = Object::Pack(*id);
        match copy.read_all(&object, MAX_PACK) {
            Ok(bytes) if blake3::hash(&bytes).as_bytes() == id.as_bytes() => {
                repo.backend.delete(&object)?;
                repo.backend.sync_deletes(Area::Packs)?;
                repo.backend.put(&object, &bytes)?;
                repo.backend.close_handles();
                back.push(*id);
                healed.packs += 1;
                healed.bytes += bytes.len() as u64;
            }
            Ok(_) => healed.fail(monitor, &Error::damaged("the pack is damaged there too:").at(copy.path(&object))),
            Err(e) if is_loss(&e) => healed.fail(monitor, &e),
            Err(e) => return Err(e),
        }
    }
    for (id, known) in &state.snapshots {
        let object = Object::Snapshot(*id);
        let sound = |bytes: &[u8]| *blake3::hash(bytes).as_bytes() == known.manifest_hash;
        match repo.backend.read_all(&object, MAX_MANIFEST) {
            Ok(bytes) if sound(&bytes) => continue,
            Ok(_) => {}
            Err(e) if is_loss(&e) => {}
            Err(e) => return Err(e),
        }
        match copy.read_all(&object, MAX_MANIFEST) {
            Ok(bytes) if sound(&bytes) => {
                snapshots::put_back(repo, id, &bytes)?;
                healed.manifests += 1;
                healed.bytes += bytes.len() as u64;
            }
            Ok(_) => healed.fail(monitor, &Error::damaged("the manifest is another there:").at(copy.path(&object))),
            Err(e) if is_loss(&e) => healed.fail(monitor, &e),
            Err(e) => return Err(e),
        }
    }
    rollups(repo, copy, &mut healed)?;
    // Taken by who records packs.
    drop(no_prune);
    spare_footers(repo, &back, &mut healed, monitor)?;
    Ok(healed)
}

/// Puts this repository's packs in place of those in `copy` that are not what they are called, as far as `chosen` names them;
/// their bytes. Who calls makes sure that nobody else writes to `copy`.
///
/// # Errors
/// `Interrupted`; what either side gives.
pub fn renew_packs(
    repo: &Repository,
    copy: &dyn Backend,
    chosen: &mut dyn FnMut(&PackId) -> bool,
    monitor: &dyn Monitor,
) -> Result<u64> {
    let mut renewed = 0;
    for object in names(copy, Area::Packs)? {
        let Object::Pack(id) = &object else { continue };
        if monitor.cancelled() {
            return Err(Error::new(Kind::Interrupted, "interrupted; what was healed stays so"));
        }
        // One that is damaged here, too, stays as it is: something in it may be of use yet.
        if !chosen(id) || whole(copy, id)?.is_some() {
            continue;
        }
        let Some(bytes) = whole(repo.backend.as_ref(), id)? else { continue };
        copy.delete(&object)?;
        copy.sync_deletes(Area::Packs)?;
        copy.put(&object, &bytes)?;
        copy.close_handles();
        renewed += bytes.len() as u64;
    }
    Ok(renewed)
}

/// A pack's bytes, if they are what its name says.
fn whole(backend: &dyn Backend, id: &PackId) -> Result<Option<Vec<u8>>> {
    match backend.read_all(&Object::Pack(*id), MAX_PACK) {
        Ok(bytes) => Ok((blake3::hash(&bytes).as_bytes() == id.as_bytes()).then_some(bytes)),
        Err(e) if is_loss(&e) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Writes roll-ups anew for whole packs that none lists any more, from the packs.
fn spare_footers(repo: &Repository, back: &[PackId], healed: &mut Healed, monitor: &dyn Monitor) -> Result<()> {
    let (mut listed, mut damaged) = (HashSet::new(), false);
    for object in names(repo.backend.as_ref(), Area::Footers)? {
        let Object::Footers(number) = object else { continue };
        match read_rollup(repo.backend.as_ref(), &repo.keys, number) {
            Ok(entries) => listed.extend(entries.into_iter().map(|entry| entry.id)),
            Err(e) if is_loss(&e) => damaged = true,
            Err(e) => return Err(e),
        }
    }
    repo.refresh(monitor)?;
    let mut bare = 0;
    // One that is back after it was given up is in no index.
    for id in back {
        bare += u64::from(repo.index.pack_by_id(id)?.is_none());
    }
    repo.index.packs(&mut |info| {
        bare += u64::from(info.usable() && !listed.contains(&info.id));
        Ok(())
    })?;
    if damaged || bare > 0 {
        renew_index(repo, monitor)?;
        healed.rollups += 1;
    }
    Ok(())
}

/// Puts back roll-ups that do not open here, or are absent and list packs that are here.
fn rollups(repo: &Repository, copy: &dyn Backend, healed: &mut Healed) -> Result<()> {
    let here = names(repo.backend.as_ref(), Area::Footers)?;
    for object in names(copy, Area::Footers)? {
        let Object::Footers(number) = object else { continue };
        match here.contains(&object).then(|| read_rollup(repo.backend.as_ref(), &repo.keys, number)).transpose() {
            Ok(Some(_)) => continue,
            Ok(None) => {}
            Err(e) if is_loss(&e) => {}
            Err(e) => return Err(e),
        }
        // What does not open there is of no use either.
        let Ok(entries) = read_rollup(copy, &repo.keys, number) else { continue };
        let mut needed = here.contains(&object);
        for entry in entries {
            needed |= repo.backend.size(&Object::Pack(entry.id))?.is_some();
        }
        if needed {
            let bytes = copy.read_all(&object, MAX_ROLLUP)?;
            repo.backend.delete(&object)?;
            repo.backend.sync_deletes(Area::Footers)?;
            repo.backend.put(&object, &bytes)?;
            healed.rollups += 1;
            healed.bytes += bytes.len() as u64;
        }
    }
    Ok(())
}

/// Whether this says that something stored is not there, or not what it should be.
fn is_loss(e: &Error) -> bool {
    // EIO: a bad part of the disk.
    matches!(e.kind(), Kind::Damaged | Kind::NotFound) || e.errno() == Some(5)
}
