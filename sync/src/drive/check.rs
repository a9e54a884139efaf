//! Looking whether a drive is what it says: every pack is read once, and what is on other drives is told from what is damaged.

use std::collections::HashSet;
use std::sync::Arc;

use repo::crypto::hash::ChunkKind;
use repo::error::{Kind, Result};
use repo::format::manifest::Manifest;
use repo::format::record::Record;
use repo::id::{ContentHash, PackId, SnapshotId};
use repo::index::PackInfo;
use repo::lock::COMMIT_WAIT;
use repo::monitor::{Counters, Event, Monitor, Void};
use repo::open::Access;
use repo::pack::many::{Emit, in_parallel};
use repo::pack::read::whole_pack;
use repo::pack::store::PackStore;
use repo::snapshots;
use repo::tree::closure;

use super::make::Drive;
use super::{Contents, one_at_a_time, packs_on};
use crate::pull::SEEN_MOST;

/// What is wrong with a pack that is missing.
pub const GONE: &str = "it is not there any more";

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Packs that are what they are called.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packs that are damaged or missing, and why.
    pub bad: Vec<(PackId, String)>,
    /// Whether the drive holds other packs than it was left with, beside what is named as bad.
    pub changed: bool,
    /// Snapshots that are whole on this drive.
    pub whole: u64,
    /// Snapshots that reach what is not on this drive, and how many pieces of that were met.
    pub partly: Vec<(SnapshotId, u64)>,
    /// Snapshots whose manifests cannot be read, and why.
    pub failed: Vec<(SnapshotId, String)>,
}

impl Checked {
    /// Whether all that is on the drive is what it should be.
    pub fn is_sound(&self) -> bool {
        self.bad.is_empty() && self.failed.is_empty() && !self.changed
    }
}

/// Reads everything on the drive. What is damaged is noted on it, if it is open for writing.
///
/// # Errors
/// `Interrupted`; what the drive gives as a whole.
pub fn check(drive: &Drive, monitor: &dyn Monitor) -> Result<Checked> {
    let mut done = Checked::default();
    let _only_one = one_at_a_time(drive)?;
    packs(drive, monitor, &mut done)?;
    done.bad.extend(missing(drive)?.into_iter().map(|id| (id, GONE.to_owned())));
    // More than it was left with has the drive of an export that was cut off; one of a sealed copy says nothing of itself.
    if let (Ok(state), true) = (drive.state(), done.bad.is_empty()) {
        done.changed = Contents::on(&drive.repo)?.packs < state.packs;
    }
    if drive.repo.access == Access::Write {
        note(drive, &done.bad)?;
    }
    monitor.event(Event::Phase("snapshots"));
    reach(drive, monitor, &mut done)?;
    Ok(done)
}

/// Has the drive's log know what is damaged on it, so that the next export writes that anew.
fn note(drive: &Drive, bad: &[(PackId, String)]) -> Result<()> {
    let (repo, known) = (&drive.repo, drive.repo.log.state());
    let packs: Vec<PackId> = bad.iter().map(|(id, _)| *id).filter(|id| !known.damaged.contains_key(id)).collect();
    if packs.is_empty() {
        return Ok(());
    }
    let commit = repo.locks.commit(COMMIT_WAIT)?;
    repo.log.refresh()?;
    repo.log.append(&commit, Record::Damage { packs, at: repo.clock.now() })?;
    drop(commit);
    repo.refresh(&Void::default()).map(drop)
}

fn packs(drive: &Drive, monitor: &dyn Monitor, done: &mut Checked) -> Result<()> {
    monitor.event(Event::Phase("packs"));
    let all = packs_on(&drive.repo)?;
    let counters = monitor.counters();
    Counters::add(&counters.total_files, all.len() as u64);
    Counters::add(&counters.total_bytes, all.iter().map(|info| info.size).sum());
    let backend = drive.repo.backend.as_ref();
    let read = |info: PackInfo, emit: Emit<'_, (PackInfo, Option<String>)>| {
        let why = whole_pack(backend, &info.id).err().map(|e| e.to_string());
        _ = emit((info, why));
    };
    in_parallel(all.into_iter(), monitor, read, |(info, why)| {
        Counters::add(&counters.files, 1);
        Counters::add(&counters.bytes, info.size);
        match why {
            None => {
                done.packs += 1;
                done.bytes += info.size;
            }
            Some(why) => {
                Counters::add(&counters.errors, 1);
                done.bad.push((info.id, why));
            }
        }
        Ok(())
    })
}

/// Packs that the drive's log speaks of and that are not there.
///
/// # Errors
/// What log and drive give.
pub fn missing(drive: &Drive) -> Result<Vec<PackId>> {
    let mut lost = Vec::new();
    // A sealed tenant's drive has the log of the whole copy, of which others carry the rest.
    if drive.state().is_err() {
        return Ok(lost);
    }
    drive.repo.log.history(&mut |entry| {
        let Ok(entry) = entry else { return Ok(()) };
        if let Record::PacksAdded { packs, .. } = &entry.record {
            for pack in packs {
                let object = repo::backend::Object::Pack(pack.id);
                match drive.repo.backend.size(&object) {
                    Ok(Some(_)) => {}
                    Err(e) if e.kind() != Kind::Damaged => return Err(e),
                    // Or something that is no file has its place.
                    _ => lost.push(pack.id),
                }
            }
        }
        Ok(())
    })?;
    lost.sort_unstable();
    lost.dedup();
    Ok(lost)
}

/// Which snapshots are whole here.
fn reach(drive: &Drive, monitor: &dyn Monitor, done: &mut Checked) -> Result<()> {
    let (state, store) = (drive.repo.log.state(), drive.repo.packs());
    let mut ids: Vec<_> = state.snapshots.iter().map(|(id, snapshot)| (snapshot.seq, *id)).collect();
    ids.sort_unstable();
    // Trees of which all is here; those that lack something are looked into with each snapshot.
    let mut whole: HashSet<ContentHash> = HashSet::new();
    for (_, id) in ids {
        let manifest = match snapshots::manifest(&drive.repo, &id) {
            Err(e) if e.kind() == Kind::Interrupted => return Err(e),
            Err(e) => {
                done.failed.push((id, e.to_string()));
                continue;
            }
            Ok(manifest) => manifest,
        };
        match lacking(&store, &|info| !info.damaged, &manifest, &mut whole, monitor) {
            Err(e) if e.kind() == Kind::Interrupted => return Err(e),
            Err(e) => done.failed.push((id, e.to_string())),
            Ok(0) => done.whole += 1,
            Ok(n) => done.partly.push((id, n)),
        }
    }
    Ok(())
}

/// How many pieces of a snapshot were met that `store` lacks, or has only in packs that do not count. What is below a piece that is
/// missing is not met. Trees in `whole` lack nothing.
///
/// # Errors
/// `Interrupted`; `Damaged` for trees; what the store gives.
pub fn lacking(
    store: &Arc<PackStore>,
    counts: &dyn Fn(&PackInfo) -> bool,
    manifest: &Manifest,
    whole: &mut HashSet<ContentHash>,
    monitor: &dyn Monitor,
) -> Result<u64> {
    let (mut lacking, mut seen) = (0, HashSet::new());
    closure::walk(store.as_ref(), manifest, monitor, &mut |h, kind| {
        if whole.contains(h) {
            return Ok(false);
        }
        if !store.locate(h)?.is_some_and(|(_, info)| counts(&info)) {
            lacking += 1;
            return Ok(false);
        }
        Ok(kind != ChunkKind::Data && (seen.len() >= SEEN_MOST || seen.insert(*h)))
    })?;
    if lacking == 0 && whole.len() + seen.len() <= SEEN_MOST {
        whole.extend(seen);
    }
    Ok(lacking)
}
