//! Taking in at a site what a drive has brought of its own repository: packs as they are, then the snapshots that are whole.
//!
//! A drive has the keys of the repository, so nothing is opened and sealed anew: each pack is compared with its name and
//! kept. Those of which everything is here already stay on the drive.

use std::collections::HashSet;
use std::sync::Arc;

use repo::backend::Object;
use repo::capture::SessionSink;
use repo::crypto::hash::ChunkKind;
use repo::error::{Error, Kind, Result};
use repo::format::footer::RollupEntry;
use repo::format::record::Outcome;
use repo::id::{ChunkId, ContentHash, PackId, SnapshotId};
use repo::index::PackInfo;
use repo::limits::MAX_MANIFEST;
use repo::monitor::{Counters, Event, Monitor};
use repo::open::Repository;
use repo::pack::writer::PackSink;
use repo::session::Session;
use repo::snapshots;
use repo::tree::closure;

use super::carry::{Fate, Room, carry};
use super::make::Drive;
use super::one_at_a_time;
use crate::pull::SEEN_MOST;

/// Packs that are recorded together.
const TOGETHER: usize = 32;

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Packs on the drive.
    pub packs: u64,
    /// Packs that were taken.
    pub taken: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packs of which everything was here already.
    pub known: u64,
    /// Packs that are damaged or missing on the drive.
    pub bad: Vec<PackId>,
    /// Snapshots that are here now and were not.
    pub snapshots: u64,
    /// Snapshots that lack something still, and how many pieces at least.
    pub waiting: Vec<(SnapshotId, u64)>,
    /// Snapshots that cannot be read on the drive, and why.
    pub failed: Vec<(SnapshotId, String)>,
}

/// Takes in what is on the drive and not here.
///
/// # Errors
/// `Interrupted`: what was taken is kept; `NoSpace`; what this repository gives.
pub fn import(site: &Repository, drive: &Drive, monitor: &dyn Monitor) -> Result<Imported> {
    let _only_one = one_at_a_time(drive)?;
    let session = Arc::new(Session::begin(Arc::clone(&site.log), site.locks.clone(), "import", None)?);
    site.refresh(monitor)?;
    let mut done = Imported::default();
    packs(site, drive, &session, &mut done, monitor)?;
    manifests(site, drive, &session, &mut done, monitor)?;
    match Arc::try_unwrap(session) {
        Ok(session) => session.end(Outcome::Done)?,
        Err(_) => return Err(Error::bug("a session of importing is still in use at its end")),
    };
    Ok(done)
}

fn packs(
    site: &Repository,
    drive: &Drive,
    session: &Arc<Session>,
    done: &mut Imported,
    monitor: &dyn Monitor,
) -> Result<()> {
    monitor.event(Event::Phase("packs"));
    let counters = monitor.counters();
    let mut wanted: Vec<PackInfo> = Vec::new();
    drive.repo.index.packs(&mut |info| {
        done.packs += 1;
        if is_here(site, drive, info)? {
            done.known += 1;
        } else {
            wanted.push(*info);
        }
        Ok(())
    })?;
    Counters::add(&counters.total_files, wanted.len() as u64);
    Counters::add(&counters.total_bytes, wanted.iter().map(|info| info.size).sum());
    let mut sink = SessionSink::new(site, Arc::clone(session));
    for some in wanted.chunks(TOGETHER) {
        if monitor.cancelled() {
            return Err(Error::new(Kind::Interrupted, "interrupted; what was taken is kept, and not read again"));
        }
        let names: Vec<(PackId, u64)> = some.iter().map(|info| (info.id, info.size)).collect();
        let room = Room::new(u64::MAX);
        let fates = carry(drive.repo.backend.as_ref(), site.backend.as_ref(), &names, &room, monitor)?;
        for (info, fate) in some.iter().zip(&fates) {
            match fate {
                Fate::There(bytes) => {
                    done.taken += 1;
                    done.bytes += bytes;
                    let sealed_footer = drive.repo.index.footer(info.no)?.unwrap_or_default();
                    sink.stored(RollupEntry { id: info.id, size: info.size, sealed_footer }, info.kind);
                }
                Fate::Damaged | Fate::Gone => {
                    // A drive that is gone is no drive all of whose packs are damaged.
                    still_there(drive)?;
                    done.bad.push(info.id);
                }
                Fate::Left => {}
            }
        }
        sink.commit()?;
        if room.is_full() {
            return Err(Error::new(Kind::NoSpace, "there is no room for all that is on the drive")
                .remedy("make room, and import the drive again: what was taken is not copied again"));
        }
    }
    Ok(())
}

fn still_there(drive: &Drive) -> Result<()> {
    let config = drive.repo.backend.read_all(&Object::Config, repo::limits::MAX_SMALL_OBJECT);
    config.map(drop).map_err(|e| {
        e.with_kind(Kind::Io).remedy("plug the drive in again, mount it, and import it again: what was taken is kept")
    })
}

/// Whether everything in a pack of the drive is here.
fn is_here(site: &Repository, drive: &Drive, info: &PackInfo) -> Result<bool> {
    if site.index.pack_by_id(&info.id)?.is_some_and(|known| known.usable()) {
        return Ok(true);
    }
    let Ok(pack) = drive.repo.packs().pack(info) else { return Ok(false) };
    let ids: Vec<ChunkId> = pack.footer.chunks.iter().map(|chunk| site.keys.chunk_id(&chunk.h)).collect();
    Ok(site.index.lookup_usable(&ids)?.iter().all(Option::is_some))
}

/// Records the snapshots that are whole here.
fn manifests(
    site: &Repository,
    drive: &Drive,
    session: &Session,
    done: &mut Imported,
    monitor: &dyn Monitor,
) -> Result<()> {
    monitor.event(Event::Phase("snapshots"));
    let (state, here) = (drive.repo.log.state(), site.refresh(monitor)?);
    let mut ids: Vec<_> = state
        .snapshots
        .iter()
        .filter(|(id, snapshot)| snapshot.forgotten.is_none() && !here.snapshots.contains_key(id))
        .map(|(id, snapshot)| (snapshot.recorded, snapshot.seq, *id))
        .collect();
    ids.sort_unstable();
    let mut whole = HashSet::new();
    for (_, _, id) in ids {
        let read = snapshots::manifest(&drive.repo, &id)
            .and_then(|manifest| Ok((drive.repo.backend.read_all(&Object::Snapshot(id), MAX_MANIFEST)?, manifest)));
        let (sealed, manifest) = match read {
            Err(e) if matches!(e.kind(), Kind::Damaged | Kind::NotFound | Kind::Io) => {
                done.failed.push((id, e.to_string()));
                continue;
            }
            other => other?,
        };
        match lacking(site, &manifest, &mut whole, monitor) {
            Ok(0) => {
                // What an interrupted import left is the same.
                site.backend.delete(&Object::Snapshot(id))?;
                snapshots::record_as(site, session, &manifest, &sealed)?;
                done.snapshots += 1;
            }
            Ok(n) => done.waiting.push((id, n)),
            Err(e) if e.kind() == Kind::Damaged => done.failed.push((id, e.to_string())),
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// How many pieces were met that are not here. Trees in `whole` lack nothing.
fn lacking(
    site: &Repository,
    manifest: &repo::format::manifest::Manifest,
    whole: &mut HashSet<ContentHash>,
    monitor: &dyn Monitor,
) -> Result<u64> {
    let store = site.packs();
    let (mut lacking, mut seen) = (0, HashSet::new());
    closure::walk(store.as_ref(), manifest, monitor, &mut |h, kind| {
        if whole.contains(h) {
            return Ok(false);
        }
        if !store.locate(h)?.is_some_and(|(_, info)| info.usable()) {
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
