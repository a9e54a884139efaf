//! Taking in at a site what a drive has brought of its own repository: packs as they are, then the snapshots that are whole.
//!
//! A drive has the keys of the repository, so nothing is sealed anew: each pack is compared with its name, every chunk in it with
//! its hash, and the pack is kept as it is. Those of which everything is here already stay on the drive.

use std::collections::HashSet;
use std::sync::Arc;

use repo::backend::{Area, Object};
use repo::capture::SessionSink;
use repo::error::{Error, Kind, Result};
use repo::format::footer::RollupEntry;
use repo::format::record::{Custody, DriveState, Outcome, Record};
use repo::id::{ChunkId, ContentHash, PackId, SnapshotId};
use repo::index::PackInfo;
use repo::limits::MAX_MANIFEST;
use repo::lock::COMMIT_WAIT;
use repo::monitor::{Counters, Event, Monitor};
use repo::open::Repository;
use repo::pack::many::{Emit, in_parallel};
use repo::pack::read::{footer_in, verify_frame, whole_pack};
use repo::pack::writer::PackSink;
use repo::session::{Session, who};
use repo::snapshots;

use super::check::{GONE, lacking, missing};
use super::custody::change;
use super::make::Drive;
use super::sealed::unlabelled;
use super::{Contents, one_at_a_time, packs_on, require_there, snapshots_on};

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
    /// Packs that are damaged or missing on the drive, and why.
    pub bad: Vec<(PackId, String)>,
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
    note(site, drive, Custody::Received)?;
    let session = Arc::new(Session::begin(Arc::clone(&site.log), site.locks.clone(), "import", None)?);
    site.refresh(monitor)?;
    let mut done = Imported::default();
    packs(site, drive, &session, &mut done, monitor)?;
    manifests(site, drive, &session, &mut done, monitor)?;
    match Arc::try_unwrap(session) {
        Ok(session) => session.end(Outcome::Done)?,
        Err(_) => return Err(Error::bug("a session of importing is still in use at its end")),
    };
    if done.bad.is_empty() {
        note(site, drive, Custody::Verified)?;
        if done.failed.is_empty() && done.waiting.is_empty() {
            note(site, drive, Custody::Committed)?;
        }
    }
    Ok(done)
}

/// Says what became of a drive from a pool. One of this site's own that is read here goes no further by that.
fn note(site: &Repository, drive: &Drive, custody: Custody) -> Result<()> {
    let (repository, now, by) = (drive.repo.config.repo_id, site.clock.now(), who());
    let own = drive.state().unwrap_or_else(|_| unlabelled("", repository, true, Vec::new()));
    if !own.back {
        return Ok(());
    }
    let contents = Contents::on(&drive.repo)?;
    change(site, drive.id, &mut |known| {
        let steps = known.map_or_else(|| own.steps.clone(), |known| known.steps);
        let mut state = contents.note(DriveState { party: String::new(), loads: Vec::new(), steps, ..own.clone() });
        // Read once more, it is where it was.
        let further = [Custody::Received, Custody::Verified, Custody::Committed].contains(&state.custody());
        if !further || state.custody() < custody {
            state.step(custody, now, &by);
        }
        Ok((state, ()))
    })
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
    for info in packs_on(&drive.repo)? {
        done.packs += 1;
        if is_here(site, drive, &info)? {
            done.known += 1;
        } else {
            wanted.push(info);
        }
    }
    Counters::add(&counters.total_files, wanted.len() as u64);
    Counters::add(&counters.total_bytes, wanted.iter().map(|info| info.size).sum());
    for id in missing(drive)? {
        bad(done, id, GONE.to_owned(), monitor);
    }
    let (mut sink, mut back, mut open) = (SessionSink::new(site, Arc::clone(session)), Vec::new(), 0);
    let work = |info: PackInfo, emit: Emit<'_, (PackInfo, Result<Fate>)>| _ = emit((info, one(site, drive, &info)));
    let taken = in_parallel(wanted.into_iter(), monitor, work, |(info, fate)| {
        Counters::add(&counters.files, 1);
        Counters::add(&counters.bytes, info.size);
        match fate? {
            Fate::Bad(why) => bad(done, info.id, why, monitor),
            Fate::Stored(pack) => {
                (done.taken, done.bytes) = (done.taken + 1, done.bytes + info.size);
                Counters::add(&counters.stored, info.size);
                if site.index.pack_by_id(&info.id)?.is_some_and(|known| known.damaged) {
                    back.push(info.id);
                }
                sink.stored(pack, info.kind);
                open += 1;
                if open == TOGETHER {
                    open = 0;
                    sink.commit()?;
                }
            }
        }
        Ok(())
    });
    // What is there already counts, however this ended.
    sink.commit()?;
    if !back.is_empty() {
        let commit = site.locks.commit(COMMIT_WAIT)?;
        site.log.refresh()?;
        site.log.append(&commit, Record::Healed { packs: back })?;
        drop(commit);
        site.refresh(monitor)?;
    }
    taken.map_err(|e| match e.kind() {
        Kind::NoSpace => e.or_remedy("make room, and import the drive again: what was taken is not copied again"),
        Kind::Interrupted => Error::new(Kind::Interrupted, "interrupted; what was taken is kept, and not read again"),
        _ => e,
    })
}

fn bad(done: &mut Imported, pack: PackId, why: String, monitor: &dyn Monitor) {
    Counters::add(&monitor.counters().errors, 1);
    done.bad.push((pack, why));
}

/// What became of a pack.
enum Fate {
    Stored(RollupEntry),
    /// It is damaged, or is not there: why.
    Bad(String),
}

/// Brings a pack over. The keys to the drive have been in other hands: its chunks are compared with what they are called, else what
/// is a lie in it would pass for data that need not be stored.
fn one(site: &Repository, drive: &Drive, info: &PackInfo) -> Result<Fate> {
    let bytes = match whole_pack(drive.repo.backend.as_ref(), &info.id) {
        Err(e) if matches!(e.kind(), Kind::Damaged | Kind::NotFound | Kind::Io) => {
            require_there(drive)?;
            return Ok(Fate::Bad(e.to_string()));
        }
        other => other?,
    };
    let verified = footer_in(&site.keys, &bytes).and_then(|(sealed, footer)| {
        let frame = |frame| verify_frame(&site.keys, &footer, frame, &bytes);
        footer.frames.iter().try_for_each(frame).map(|()| sealed.to_vec())
    });
    let sealed_footer = match verified {
        Err(e) if e.kind() == Kind::Damaged => return Ok(Fate::Bad(e.to_string())),
        other => other?,
    };
    let (object, to) = (Object::Pack(info.id), site.backend.as_ref());
    if to.size(&object)?.is_some() && whole_pack(to, &info.id).is_err() {
        to.delete(&object)?;
        to.sync_deletes(Area::Packs)?;
        to.close_handles();
    }
    to.put(&object, &bytes)?;
    Ok(Fate::Stored(RollupEntry { id: info.id, size: bytes.len() as u64, sealed_footer }))
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
    let here = site.refresh(monitor)?;
    let mut ids = snapshots_on(drive)?;
    ids.retain(|id| !here.snapshots.contains_key(id));
    let (mut whole, store) = (HashSet::new(), site.packs());
    let has = |h: &ContentHash| Ok(store.locate(h)?.is_some_and(|(_, info)| info.usable()));
    for id in ids {
        let read = snapshots::manifest(&drive.repo, &id)
            .and_then(|manifest| Ok((drive.repo.backend.read_all(&Object::Snapshot(id), MAX_MANIFEST)?, manifest)));
        let (sealed, manifest) = match read {
            Err(e) if matches!(e.kind(), Kind::Damaged | Kind::NotFound | Kind::Io) => {
                done.failed.push((id, e.to_string()));
                continue;
            }
            other => other?,
        };
        match lacking(store.as_ref(), &has, &manifest, &mut whole, monitor) {
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
