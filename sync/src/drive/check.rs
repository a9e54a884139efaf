//! Looking whether a drive is what it says: every pack is read once, and what is on other drives is told from what is damaged.

use std::collections::{BTreeMap, HashSet};

use repo::clock::Time;
use repo::crypto::hash::ChunkKind;
use repo::error::{Error, Kind, Result};
use repo::format::manifest::Manifest;
use repo::format::record::Record;
use repo::id::{ContentHash, PackId, SnapshotId};
use repo::index::PackInfo;
use repo::lock::COMMIT_WAIT;
use repo::monitor::{Counters, Event, Monitor, Void};
use repo::open::Access;
use repo::pack::many::{Emit, in_parallel};
use repo::pack::read::{footer_in, verify_frame, whole_pack};
use repo::pack::source::FrameSource;
use repo::snapshots;
use repo::tree::closure;

use super::make::Drive;
use super::several::Several;
use super::{Contents, one_at_a_time, packs_on};
use crate::pull::SEEN_MOST;

/// What is wrong with a pack that is missing.
pub const GONE: &str = "it is not there any more";

/// What was found on one drive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OnDrive {
    /// Packs that are what they are called.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packs that are damaged or missing, and why.
    pub bad: Vec<(PackId, String)>,
    /// Whether the drive holds other packs than it was left with, beside what is named as bad.
    pub changed: bool,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Of each drive, in the order in which they were given.
    pub drives: Vec<OnDrive>,
    /// Snapshots that are whole on these drives.
    pub whole: u64,
    /// Snapshots that reach what is not on these drives, and how many pieces of that were met.
    pub partly: Vec<(SnapshotId, u64)>,
    /// Snapshots whose manifests cannot be read, and why.
    pub failed: Vec<(SnapshotId, String)>,
}

impl Checked {
    /// Whether all that is on the drives is what it should be.
    pub fn is_sound(&self) -> bool {
        self.failed.is_empty() && self.drives.iter().all(|drive| drive.bad.is_empty() && !drive.changed)
    }
}

/// Reads everything on these drives, of one repository. What is damaged is noted on a drive that is open for writing. With `frames`
/// packs are opened as well as compared with their names.
///
/// # Errors
/// `Interrupted`; `Locked` while another works on one; what a drive gives as a whole.
pub fn check(drives: &[Drive], frames: bool, monitor: &dyn Monitor) -> Result<Checked> {
    let mut done = Checked::default();
    let mut held = Vec::new();
    for drive in drives {
        held.push(one_at_a_time(drive)?);
        done.drives.push(one(drive, frames, monitor)?);
    }
    monitor.event(Event::Phase("snapshots"));
    reach(drives, monitor, &mut done)?;
    Ok(done)
}

fn one(drive: &Drive, frames: bool, monitor: &dyn Monitor) -> Result<OnDrive> {
    let mut done = OnDrive::default();
    packs(drive, frames, monitor, &mut done)?;
    done.bad.extend(missing(drive)?.into_iter().map(|id| (id, GONE.to_owned())));
    // More than it was left with has the drive of an export that was cut off; one of a sealed copy says nothing of itself.
    if let (Ok(state), true) = (drive.state(), done.bad.is_empty()) {
        done.changed = Contents::on(&drive.repo)?.packs < state.packs;
    }
    if drive.repo.access == Access::Write {
        note(drive, &done.bad)?;
    }
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

fn packs(drive: &Drive, frames: bool, monitor: &dyn Monitor, done: &mut OnDrive) -> Result<()> {
    monitor.event(Event::Phase("packs"));
    let all = packs_on(&drive.repo)?;
    let counters = monitor.counters();
    Counters::add(&counters.total_files, all.len() as u64);
    Counters::add(&counters.total_bytes, all.iter().map(|info| info.size).sum());
    let backend = drive.repo.backend.as_ref();
    let read = |info: PackInfo, emit: Emit<'_, (PackInfo, Option<String>)>| {
        let read = whole_pack(backend, &info.id).and_then(|bytes| if frames { opens(drive, &bytes) } else { Ok(()) });
        _ = emit((info, read.err().map(|e| e.to_string())));
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

/// Opens everything in a pack.
fn opens(drive: &Drive, pack: &[u8]) -> Result<()> {
    let (_, footer) = footer_in(&drive.repo.keys, pack)?;
    footer.frames.iter().try_for_each(|frame| verify_frame(&drive.repo.keys, &footer, frame, pack))
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
fn reach(drives: &[Drive], monitor: &dyn Monitor, done: &mut Checked) -> Result<()> {
    let source = Several::new(drives.iter().map(|drive| drive.repo.packs()).collect());
    let mut ids: BTreeMap<SnapshotId, (Time, Vec<&Drive>)> = BTreeMap::new();
    for drive in drives {
        for (id, snapshot) in &drive.repo.log.state().snapshots {
            ids.entry(*id).or_insert((snapshot.recorded, Vec::new())).1.push(drive);
        }
    }
    let mut ids: Vec<_> = ids.into_iter().map(|(id, (recorded, on))| (recorded, id, on)).collect();
    ids.sort_unstable_by_key(|(recorded, id, _)| (*recorded, *id));
    // Trees of which all is here; those that lack something are looked into with each snapshot.
    let mut whole: HashSet<ContentHash> = HashSet::new();
    for (_, id, on) in ids {
        let mut read = Err(Error::bug("a snapshot of no drive"));
        for drive in on {
            read = snapshots::manifest(&drive.repo, &id);
            if read.is_ok() {
                break;
            }
        }
        let manifest = match read {
            Err(e) if e.kind() == Kind::Interrupted => return Err(e),
            Err(e) => {
                done.failed.push((id, e.to_string()));
                continue;
            }
            Ok(manifest) => manifest,
        };
        match lacking(&source, &|h| source.has(h), &manifest, &mut whole, monitor) {
            Err(e) if e.kind() == Kind::Interrupted => return Err(e),
            Err(e) => done.failed.push((id, e.to_string())),
            Ok(0) => done.whole += 1,
            Ok(n) => done.partly.push((id, n)),
        }
    }
    Ok(())
}

/// How many pieces of a snapshot were met that are not here, as `has` tells. What is below a piece that is missing is not met. Trees
/// in `whole` lack nothing.
///
/// # Errors
/// `Interrupted`; `Damaged` for trees; what `source` and `has` give.
pub fn lacking(
    source: &dyn FrameSource,
    has: &dyn Fn(&ContentHash) -> Result<bool>,
    manifest: &Manifest,
    whole: &mut HashSet<ContentHash>,
    monitor: &dyn Monitor,
) -> Result<u64> {
    let (mut lacking, mut seen) = (0, HashSet::new());
    closure::walk(source, manifest, monitor, &mut |h, kind| {
        if whole.contains(h) {
            return Ok(false);
        }
        if !has(h)? {
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
