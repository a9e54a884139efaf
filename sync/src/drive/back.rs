//! From a pool back to a tenant, by post: what it delivered is opened, and sealed anew under the tenant's own keys.
//!
//! Manifests come first, as in an export from a site; then trees, then data, the oldest snapshot first, but for what lies on
//! another drive that is on its way to the same tenant. Where the drive is full, what is on it is recorded, and the next
//! drive goes on from there.

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use repo::backend::{Area, Backend, Growing, Object, Put};
use repo::capture::SessionSink;
use repo::crypto::hash::ChunkKind;
use repo::error::{Error, Kind, Result};
use repo::format::manifest::Manifest;
use repo::format::record::{Custody, DriveState, Outcome};
use repo::id::{ContentHash, DriveId, PackId, SnapshotId};
use repo::index::Index;
use repo::limits::MIB;
use repo::mend::mend;
use repo::monitor::{Counters, Event, Monitor, Void};
use repo::open::{Place, Repository, index_of_drive};
use repo::pack::source::FrameSource;
use repo::receive::Sender as Tenant;
use repo::session::{Session, who};
use repo::snapshots;

use super::carry::interrupted;
use super::custody::change;
use super::make::Drive;
use super::{Contents, one_at_a_time, require_same_way, settle};
use crate::pull::{Nearest, Pull, Report as Pulled};

/// What stays free for the records at the end.
const HEADROOM: u64 = 4 * MIB as u64;

/// What is to be written.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The snapshots, as the pool calls them; none: all of the tenant's.
    pub snapshots: Option<HashSet<SnapshotId>>,
    /// Packs of at most so many bytes in this call.
    pub max_bytes: Option<u64>,
    /// Drives that this one goes along with: what is on them is left out.
    pub after: Vec<DriveId>,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Packs that are on the drive now and were not.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Snapshots that the drive speaks of now and did not.
    pub snapshots: u64,
    /// Snapshots of which everything is on this drive, or on others that are on their way.
    pub whole: u64,
    /// Whether no more fits on the drive, or in what was allowed, and something is left for another drive.
    pub full: bool,
    /// Whether it is what was allowed that is used up.
    pub allowed: bool,
    /// The drives whose contents were left out.
    pub after: Vec<DriveId>,
    /// Snapshots that could not be read here, and why.
    pub failed: Vec<(SnapshotId, String)>,
    /// Drives on their way of which this machine does not know any more what is on them: that is written once more.
    pub forgotten: Vec<DriveId>,
}

/// Writes to the drive what the pool has of the tenant `number`.
///
/// # Errors
/// `WrongDrive` for a drive that is another's, or has been at the other side; `Interrupted`; what drive and pool give.
pub fn export(
    pool: &Repository,
    number: u32,
    drive: Drive,
    place: &Place,
    wanted: &Wanted,
    monitor: &dyn Monitor,
) -> Result<(Drive, Report)> {
    let guard = one_at_a_time(&drive)?;
    let tenant = Tenant::of(pool, number)?;
    claim(pool, &drive, &tenant)?;
    pool.refresh(monitor)?;
    let mut report = Report::default();
    let manifests = manifests(pool, &tenant, wanted, &mut report)?;
    let others = others(pool, &drive, wanted, place, &mut report)?;
    let before = Contents::of(drive.repo.backend.as_ref())?;
    // What is written through this fails before the disk is full: the records at the end need room.
    let left = Mutex::new(wanted.max_bytes.unwrap_or(u64::MAX));
    let bounded = Arc::new(Bounded { under: Arc::clone(&drive.repo.backend), left });
    let Drive { id, repo: mut there } = drive;
    there.backend = Arc::clone(&bounded) as Arc<dyn Backend>;
    let session = Session::begin(Arc::clone(&there.log), there.locks.clone(), "export", None)?;
    let done = write(pool, &tenant, &there, Arc::new(session), &manifests, &others, &mut report, monitor);
    there.backend = Arc::clone(&bounded.under);
    match done {
        Err(e) if e.kind() == Kind::NoSpace => {
            (report.full, report.allowed) = (true, e.path().is_none());
            // What is whole on it of what was not recorded is found, and counts.
            mend(&there, &Void::default())?;
        }
        other => other?,
    }
    let drive = Drive { id, repo: there };
    let with = |id: &DriveId, _: &DriveState| report.after.contains(id);
    settle(pool, &drive, &with)?;
    drive.repo.remember();
    let after = Contents::of(drive.repo.backend.as_ref())?;
    (report.packs, report.bytes) =
        (after.packs - before.packs.min(after.packs), after.bytes.saturating_sub(before.bytes));
    drop(guard);
    if monitor.cancelled() { Err(interrupted()) } else { Ok((drive, report)) }
}

/// The drive is this tenant's from now on.
fn claim(pool: &Repository, drive: &Drive, tenant: &Tenant) -> Result<()> {
    let own = drive.state()?;
    if !own.back {
        return Err(Error::new(Kind::WrongDrive, "this drive was made at a site, to carry things to a pool")
            .remedy("empty it, and make it anew with `packmule drive init --tenant`"));
    }
    if drive.repo.config.repo_id != tenant.keys.repo_id() {
        return Err(Error::new(Kind::WrongDrive, "this drive was made for another tenant")
            .remedy("make one for this tenant: `packmule drive init --tenant`"));
    }
    let (now, by) = (pool.clock.now(), who());
    change(pool, drive.id, &mut |known| {
        let mut state = known.unwrap_or_else(|| DriveState { loads: Vec::new(), ..own.clone() });
        match state.custody() {
            Custody::Made | Custody::Shipped | Custody::Lost => state.step(Custody::Exported, now, &by),
            Custody::Exported => {}
            other => {
                let what = format!("this drive is {}", other.name());
                return Err(
                    Error::new(Kind::WrongDrive, what).remedy("empty it, and make it anew with `packmule drive init`")
                );
            }
        }
        state.party.clone_from(&tenant.name);
        Ok((state, ()))
    })
}

/// The manifests that are wanted, as the tenant's own repository has them, the oldest first.
fn manifests(pool: &Repository, tenant: &Tenant, wanted: &Wanted, report: &mut Report) -> Result<Vec<Manifest>> {
    let state = pool.log.state();
    let chosen = |id: &SnapshotId| wanted.snapshots.as_ref().is_none_or(|chosen| chosen.contains(id));
    let mut ids: Vec<_> = state
        .snapshots
        .iter()
        .filter(|(id, snapshot)| tenant.owns(snapshot) && snapshot.forgotten.is_none() && chosen(id))
        .map(|(id, snapshot)| (snapshot.recorded, snapshot.seq, *id, snapshot.origin.map_or(*id, |origin| origin.id)))
        .collect();
    ids.sort_unstable();
    let mut all = Vec::with_capacity(ids.len());
    for (_, _, here, theirs) in ids {
        match snapshots::manifest(pool, &here) {
            Ok(manifest) => all.push(Manifest { id: theirs, origin: None, ..manifest }),
            Err(e) if matches!(e.kind(), Kind::Damaged | Kind::NotFound) => report.failed.push((here, e.to_string())),
            Err(e) => return Err(e),
        }
    }
    Ok(all)
}

/// What is on the drives that this one goes along with: those that are named now, and those that were when it was written to before.
fn others(pool: &Repository, drive: &Drive, wanted: &Wanted, place: &Place, report: &mut Report) -> Result<Vec<Index>> {
    let (state, own) = (pool.log.state(), drive.repo.log.state());
    let named: BTreeSet<&DriveId> = wanted.after.iter().chain(own.drives.keys()).collect();
    let mut found = Vec::new();
    for id in named {
        let Some(other) = state.drives.get(id).filter(|_| *id != drive.id) else { continue };
        match require_same_way(&state, id, drive.repo.config.repo_id) {
            Err(e) if wanted.after.contains(id) => return Err(e),
            Err(_) => continue,
            Ok(()) => {}
        }
        match index_of_drive(place, other.repository, id)? {
            Some(index) => found.push(index),
            None => report.forgotten.push(*id),
        }
        report.after.push(*id);
    }
    Ok(found)
}

#[expect(clippy::too_many_arguments, reason = "the parts of one export, used here alone")]
fn write(
    pool: &Repository,
    tenant: &Tenant,
    there: &Repository,
    session: Arc<Session>,
    manifests: &[Manifest],
    others: &[Index],
    report: &mut Report,
    monitor: &dyn Monitor,
) -> Result<()> {
    monitor.event(Event::Phase("snapshots"));
    let known = there.log.state();
    for manifest in manifests.iter().filter(|manifest| !known.snapshots.contains_key(&manifest.id)) {
        there.backend.delete(&Object::Snapshot(manifest.id))?;
        snapshots::record(there, &session, manifest)?;
        report.snapshots += 1;
    }
    monitor.event(Event::Phase("packs"));
    Counters::add(&monitor.counters().total_files, manifests.len() as u64);
    let source = Nearest { here: there.packs(), there: pool.packs() as Arc<dyn FrameSource> };
    let mut pull = Pull { repo: there, session: &session, source, report: Pulled::default() };
    let elsewhere = |h: &ContentHash| -> Result<bool> {
        let id = [tenant.keys.chunk_id(h)];
        for index in others {
            if index.lookup_many(&id)?[0].is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    };
    // Trees first: with them all files are seen on the first drive, whichever one their data is on.
    let (mut seen, mut writer) = (HashSet::new(), SessionSink::writer(there, &session));
    let trees = |h: &ContentHash, kind: ChunkKind| Ok(kind == ChunkKind::Data || elsewhere(h)?);
    for manifest in manifests {
        match pull.one(manifest, &mut seen, &mut writer, &trees, monitor) {
            // Told when it is come to again.
            Err(e) if matches!(e.kind(), Kind::Damaged | Kind::NotFound) => seen.clear(),
            other => other?,
        }
    }
    writer.finish()?;
    (seen, writer) = (HashSet::new(), SessionSink::writer(there, &session));
    for manifest in manifests {
        match pull.one(manifest, &mut seen, &mut writer, &|h, _| elsewhere(h), monitor) {
            Ok(()) => report.whole += 1,
            Err(e) if matches!(e.kind(), Kind::Damaged | Kind::NotFound) => {
                monitor.event(Event::Warning(&format!("snapshot {} is not whole here: {e}", manifest.id.short())));
                report.failed.push((manifest.id, e.to_string()));
                seen.clear();
            }
            Err(e) => return Err(e),
        }
        Counters::add(&monitor.counters().files, 1);
    }
    writer.finish()?;
    drop(pull);
    match Arc::try_unwrap(session) {
        Ok(session) => session.end(Outcome::Done).map(drop),
        Err(_) => Err(Error::bug("a session of exporting is still in use at its end")),
    }
}

/// A drive that calls itself full while there is still room for the records at the end.
struct Bounded {
    under: Arc<dyn Backend>,
    /// Bytes of packs that may still be written.
    left: Mutex<u64>,
}

impl Bounded {
    /// Takes room for a pack of this size, of which so much is to be written still.
    fn take(&self, object: &Object, size: u64, unwritten: u64) -> Result<()> {
        let free = self.under.free_space()?.unwrap_or(u64::MAX);
        if free < unwritten + HEADROOM {
            return Err(Error::new(Kind::NoSpace, "the drive is full").at(self.under.path(object)));
        }
        let mut left = self.left.lock();
        // Not the drive's doing: no path.
        *left = left.checked_sub(size).ok_or_else(|| Error::new(Kind::NoSpace, "no more may be written"))?;
        Ok(())
    }
}

impl Backend for Bounded {
    fn put(&self, object: &Object, bytes: &[u8]) -> Result<Put> {
        if matches!(object, Object::Pack(_)) {
            self.take(object, bytes.len() as u64, bytes.len() as u64)?;
        }
        self.under.put(object, bytes)
    }

    fn grow(&self) -> Result<Growing> {
        self.under.grow()
    }

    fn put_grown(&self, object: &Object, grown: Growing) -> Result<Put> {
        let written = matches!(grown, Growing::File(_));
        self.take(object, grown.size(), if written { 0 } else { grown.size() })?;
        self.under.put_grown(object, grown)
    }

    fn read_into(&self, object: &Object, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.under.read_into(object, offset, buf)
    }

    fn read_all(&self, object: &Object, max: usize) -> Result<Vec<u8>> {
        self.under.read_all(object, max)
    }

    fn size(&self, object: &Object) -> Result<Option<u64>> {
        self.under.size(object)
    }

    fn list(&self, area: Area, visit: &mut dyn FnMut(Object, u64) -> Result<()>) -> Result<()> {
        self.under.list(area, visit)
    }

    fn delete(&self, object: &Object) -> Result<()> {
        self.under.delete(object)
    }

    fn sync_deletes(&self, area: Area) -> Result<()> {
        self.under.sync_deletes(area)
    }

    fn path(&self, object: &Object) -> PathBuf {
        self.under.path(object)
    }

    fn free_space(&self) -> Result<Option<u64>> {
        self.under.free_space()
    }

    fn writable(&self) -> bool {
        self.under.writable()
    }

    fn vouches(&self, pack: &PackId) -> Result<bool> {
        self.under.vouches(pack)
    }
}
