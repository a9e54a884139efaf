//! Looking whether a drive is what it says: every pack is read once, and what is on other drives is told from what is damaged.

use std::collections::HashSet;

use repo::crypto::hash::ChunkKind;
use repo::error::{Kind, Result};
use repo::format::record::Record;
use repo::id::{ContentHash, PackId, SnapshotId};
use repo::index::PackInfo;
use repo::monitor::{Counters, Event, Monitor};
use repo::pack::many::{Emit, in_parallel};
use repo::pack::read::whole_pack;
use repo::snapshots;
use repo::tree::closure;

use super::Contents;
use super::make::Drive;
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

/// Reads everything on the drive.
///
/// # Errors
/// `Interrupted`; what the drive gives as a whole.
pub fn check(drive: &Drive, monitor: &dyn Monitor) -> Result<Checked> {
    let mut done = Checked::default();
    packs(drive, monitor, &mut done)?;
    done.bad.extend(missing(drive)?.into_iter().map(|id| (id, GONE.to_owned())));
    // More than it was left with has the drive of an export that was cut off; one of a sealed copy says nothing of itself.
    if let (Ok(state), true) = (drive.state(), done.bad.is_empty()) {
        done.changed = Contents::of(drive.repo.backend.as_ref())?.packs < state.packs;
    }
    monitor.event(Event::Phase("snapshots"));
    reach(drive, monitor, &mut done)?;
    Ok(done)
}

fn packs(drive: &Drive, monitor: &dyn Monitor, done: &mut Checked) -> Result<()> {
    monitor.event(Event::Phase("packs"));
    let mut all: Vec<PackInfo> = Vec::new();
    drive.repo.index.packs(&mut |info| {
        all.push(*info);
        Ok(())
    })?;
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
    drive.repo.log.history(&mut |entry| {
        let Ok(entry) = entry else { return Ok(()) };
        if let Record::PacksAdded { packs, .. } = &entry.record {
            for pack in packs {
                let object = repo::backend::Object::Pack(pack.id);
                if drive.repo.backend.size(&object)?.is_none() {
                    lost.push(pack.id);
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
        let (mut lacking, mut seen) = (0, HashSet::new());
        let walked = closure::walk(store.as_ref(), &manifest, monitor, &mut |h, kind| {
            if whole.contains(h) {
                return Ok(false);
            }
            if store.locate(h)?.is_none() {
                lacking += 1;
                return Ok(false);
            }
            Ok(kind != ChunkKind::Data && (seen.len() >= SEEN_MOST || seen.insert(*h)))
        });
        match walked {
            Err(e) if e.kind() == Kind::Interrupted => return Err(e),
            Err(e) => done.failed.push((id, e.to_string())),
            Ok(()) if lacking > 0 => done.partly.push((id, lacking)),
            Ok(()) => {
                done.whole += 1;
                if whole.len() + seen.len() <= SEEN_MOST {
                    whole.extend(seen);
                }
            }
        }
    }
    Ok(())
}
