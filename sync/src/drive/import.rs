//! Taking in at a pool what a tenant's drive carries: as a push would, but that nothing of it travels.
//!
//! A pooled tenant's packs are opened, verified and sealed anew; those whose chunks it has delivered already are not read. A
//! sealed tenant's are compared with their names and kept as they are. What is damaged is named, and everything else taken.
//! Done once more, it takes what was not taken.

use std::collections::HashSet;
use std::sync::Arc;

use crossbeam_channel::{bounded, unbounded};
use repo::backend::{Backend, Object};
use repo::error::{Error, Kind, Result};
use repo::format::record::{Custody, DriveState, Load, Position, Record, TenantState};
use repo::id::{ContentHash, DriveId, PackId, SnapshotId};
use repo::index::PackInfo;
use repo::limits::{MAX_MANIFEST, MIB};
use repo::lock::COMMIT_WAIT;
use repo::monitor::{Counters, Event, Monitor};
use repo::open::Repository;
use repo::pack::read::whole_pack_into;
use repo::receive::{Answer, Receiver, Sender as Tenant};
use repo::tenants;

use super::check::{GONE, missing};
use super::make::Drive;
use super::sealed::unlabelled;
use super::taken::{committed, expect, received, sign, verified};
use super::{Contents, one_at_a_time, packs_on, recorded, require_there, snapshots_on};
use crate::serve::quota;

/// What was absorbed is made durable after so many bytes.
const SETTLE: u64 = 512 * MIB as u64;
/// Packs read ahead of the one that is worked on.
const AHEAD: usize = 2;

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Packs on the drive.
    pub packs: u64,
    /// Packs that were taken.
    pub taken: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packs whose contents were there already.
    pub known: u64,
    /// Packs that are damaged or missing on the drive, and why.
    pub bad: Vec<(PackId, String)>,
    /// Snapshots that are here now and were not.
    pub snapshots: u64,
    /// Snapshots that lack something still, and how many pieces at least.
    pub waiting: Vec<(SnapshotId, u64)>,
    /// Snapshots that are refused, and why.
    pub failed: Vec<(SnapshotId, String)>,
    /// Whether some of these would have taken the tenant above its quota.
    pub over_quota: bool,
    /// The receipt, if everything that the drive carries is here.
    pub receipt: Option<String>,
}

/// Takes in what the drive of the pooled tenant `number` carries.
///
/// # Errors
/// `Interrupted`: what was taken is kept; what the pool's own storage gives.
pub fn import(pool: &Arc<Repository>, number: u32, drive: &Drive, monitor: &dyn Monitor) -> Result<Imported> {
    let tenant = Tenant::of(pool, number)?;
    let own = match drive.state() {
        Err(_) if drive.repo.log.broken().is_some() => {
            unlabelled(&tenant.name, drive.repo.config.repo_id, false, Vec::new())
        }
        other => other?,
    };
    if own.back {
        let e = Error::new(Kind::WrongDrive, "this drive was made at a pool, to be taken in at its tenant's site");
        return Err(e.remedy("send it there"));
    }
    let _only_one = one_at_a_time(drive)?;
    let all = packs_on(&drive.repo)?;
    // What is gone through, and nothing else, is signed for.
    let recorded = recorded(&drive.repo)?;
    let contents = Contents::recorded(recorded.as_ref(), &all);
    let repository = drive.repo.config.repo_id;
    let fresh = DriveState { party: tenant.name.clone(), repository, ..own };
    received(pool, drive.id, &fresh, contents)?;
    expect(pool, drive, &tenant.name)?;
    let receiver = Receiver::begin(Arc::clone(pool), monitor)?;
    let at = pool.log.state().position;
    let done = Imported::default();
    let mut import = Import { pool, drive, tenant: &tenant, receiver, at, unsettled: 0, recorded, done, monitor };
    for id in missing(drive)? {
        import.bad(id, GONE.to_owned())?;
    }
    import.packs(all)?;
    import.settle()?;
    if import.done.bad.is_empty() && contents.packs < own.packs {
        let e = Error::damaged("the drive holds fewer packs than it was left with")
            .at(drive.repo.backend.path(&Object::Config));
        return Err(e.remedy("at the site, `packmule drive lost` has what it carried sent again"));
    }
    if import.done.bad.is_empty() {
        verified(pool, drive.id, contents)?;
    }
    import.manifests()?;
    let Import { receiver, mut done, .. } = import;
    receiver.end()?;
    if done.bad.is_empty() {
        done.receipt = sign(pool, drive.id, drive.repo.root.as_deref(), monitor)?;
        if done.waiting.is_empty() && done.failed.is_empty() {
            committed(pool, drive.id)?;
        }
    }
    pool.refresh(monitor)?;
    Ok(done)
}

/// One import.
struct Import<'a> {
    pool: &'a Arc<Repository>,
    drive: &'a Drive,
    tenant: &'a Tenant,
    receiver: Receiver,
    /// Up to here in the pool's log is known what this import stored.
    at: Position,
    unsettled: u64,
    /// The packs that the drive's log speaks of, if that is known.
    recorded: Option<HashSet<PackId>>,
    done: Imported,
    monitor: &'a dyn Monitor,
}

impl Import<'_> {
    /// Takes these packs.
    fn packs(&mut self, all: Vec<PackInfo>) -> Result<()> {
        self.monitor.event(Event::Phase("packs"));
        let counters = self.monitor.counters();
        Counters::add(&counters.total_files, all.len() as u64);
        Counters::add(&counters.total_bytes, all.iter().map(|info| info.size).sum());
        self.done.packs = all.len() as u64;
        let (tx, rx) = bounded(AHEAD);
        // Memory of packs that are done with goes back to who reads.
        let (done, used) = unbounded();
        let drive = self.drive;
        let reader = Wanted { pool: self.pool, drive, tenant: self.tenant };
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for info in all {
                    let read = reader.read(&info, used.try_recv().unwrap_or_default());
                    let failed = read.is_err();
                    // Ends, too, when nobody takes any more.
                    if tx.send((info, read)).is_err() || failed {
                        return;
                    }
                }
            });
            for (info, read) in rx {
                if self.monitor.cancelled() {
                    self.settle()?;
                    return Err(Error::new(
                        Kind::Interrupted,
                        "interrupted; what was taken is kept, and not read again",
                    ));
                }
                // Who reads may be done already.
                let _ = self.take(&info, read?)?.map(|bytes| done.send(bytes));
            }
            Ok(())
        })
    }

    /// Takes a pack, and gives back the memory it was in.
    fn take(&mut self, info: &PackInfo, found: Found) -> Result<Option<Vec<u8>>> {
        let counters = self.monitor.counters();
        Counters::add(&counters.files, 1);
        Counters::add(&counters.bytes, info.size);
        let bytes = match found {
            Found::Known => {
                self.done.known += 1;
                return Ok(None);
            }
            Found::Bad(why) => return self.bad(info.id, why).map(|()| None),
            Found::Bytes(bytes) => bytes,
        };
        match self.receiver.absorb_named(self.tenant, &info.id, &bytes) {
            Err(e) if e.kind() == Kind::Damaged => self.bad(info.id, e.to_string())?,
            other => {
                other?;
                self.done.taken += 1;
                self.done.bytes += info.size;
                Counters::add(&counters.stored, info.size);
            }
        }
        self.unsettled += info.size;
        if self.unsettled >= SETTLE {
            self.settle()?;
            if quota::is_full(self.pool, self.tenant)? {
                let what =
                    format!("the quota of tenant {} is used up: no more of the drive is taken", self.tenant.name);
                return Err(Error::new(Kind::NoSpace, what)
                    .remedy("`packmule tenant set --quota` gives it more; then import the drive again"));
            }
        }
        Ok(Some(bytes))
    }

    fn bad(&mut self, pack: PackId, why: String) -> Result<()> {
        Counters::add(&self.monitor.counters().errors, 1);
        self.monitor.event(Event::Warning(&format!("pack {} of the drive is not taken: {why}", pack.short())));
        // What an export left that was cut off is missed by nobody.
        if self.recorded.as_ref().is_none_or(|recorded| recorded.contains(&pack)) {
            self.done.bad.push((pack, why));
        }
        Ok(())
    }

    /// Makes what was taken durable, notes where it lies, and lets a prune have its turn.
    fn settle(&mut self) -> Result<()> {
        self.unsettled = 0;
        self.receiver.settle()?;
        let session = self.receiver.session();
        let mut loads = Vec::new();
        let pool = self.pool;
        pool.log.refresh()?;
        pool.log.replay(self.at, &mut |entry, at| {
            self.at = at;
            if let Record::PacksAdded { session: by, rollup, packs } = &entry.record
                && *by == session
            {
                let count = u32::try_from(packs.len()).map_err(|_| Error::bug("a roll-up lists too many packs"))?;
                loads.push(Load { rollup: *rollup, first: 0, count });
            }
            Ok(())
        })?;
        // What a record does not say of these before the next prune would be for nothing.
        if !loads.is_empty() {
            let commit = self.pool.locks.commit(COMMIT_WAIT)?;
            self.pool.log.refresh()?;
            self.pool.log.append(&commit, Record::DriveLoaded { drive: self.drive.id, loads })?;
        }
        if self.receiver.is_spent()? {
            let next = Receiver::begin(Arc::clone(self.pool), self.monitor)?;
            std::mem::replace(&mut self.receiver, next).end()?;
        }
        Ok(())
    }

    /// Records the snapshots of which everything is here.
    fn manifests(&mut self) -> Result<()> {
        self.monitor.event(Event::Phase("snapshots"));
        for id in snapshots_on(self.drive)? {
            if self.monitor.cancelled() {
                return Err(Error::new(Kind::Interrupted, "interrupted; what was taken is kept, and not read again"));
            }
            let sealed = match self.drive.repo.backend.read_all(&Object::Snapshot(id), MAX_MANIFEST) {
                Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Damaged | Kind::Io) => {
                    self.done.failed.push((id, e.to_string()));
                    continue;
                }
                other => other?,
            };
            self.receiver.settle()?;
            let here = self.pool.log.state().snapshots.contains_key(&self.tenant.id_here(id));
            if !here && quota::exceeded(self.pool, self.tenant)? {
                self.done.over_quota = true;
                self.done.failed.push((id, "it would take this tenant above its quota".to_owned()));
                continue;
            }
            match self.receiver.accept(self.tenant, id, &sealed, self.monitor)? {
                Answer::Accepted { already } => self.done.snapshots += u64::from(!already),
                Answer::Missing(pieces) => self.done.waiting.push((id, pieces.len() as u64)),
                Answer::Invalid(why) => self.done.failed.push((id, why)),
            }
        }
        Ok(())
    }
}

/// What became of reading a pack.
enum Found {
    /// What is in it was delivered before.
    Known,
    /// It is damaged, or is not there: why.
    Bad(String),
    Bytes(Vec<u8>),
}

/// Reads those packs that hold something that the tenant has not delivered.
struct Wanted<'a> {
    pool: &'a Repository,
    drive: &'a Drive,
    tenant: &'a Tenant,
}

impl Wanted<'_> {
    /// Into `memory`.
    fn read(&self, info: &PackInfo, mut memory: Vec<u8>) -> Result<Found> {
        if let Ok(pack) = self.drive.repo.packs().pack(info) {
            let hashes: Vec<ContentHash> = pack.footer.chunks.iter().map(|chunk| chunk.h).collect();
            if self.tenant.lacks(self.pool, &hashes)?.iter().all(|lacks| !lacks) {
                return Ok(Found::Known);
            }
        }
        match whole_pack_into(self.drive.repo.backend.as_ref(), &info.id, &mut memory) {
            Err(e) if matches!(e.kind(), Kind::Damaged | Kind::NotFound | Kind::Io) => {
                require_there(self.drive)?;
                Ok(Found::Bad(e.to_string()))
            }
            other => other.map(|()| Found::Bytes(memory)),
        }
    }
}

/// The tenant that the repository of this drive is.
///
/// # Errors
/// `WrongDrive` if it is none's here.
pub fn tenant_of(pool: &Repository, drive: &dyn Backend, repository: repo::id::RepoId) -> Result<(u32, String, bool)> {
    tenants::require_pool(pool)?;
    let state = pool.log.state();
    let theirs = |(_, tenant): &(&u32, &TenantState)| tenant.repository == Some(repository);
    let found = state.tenants.iter().filter(theirs).max_by_key(|(number, tenant)| (tenant.removed.is_none(), **number));
    if let Some((_, tenant)) = found.filter(|(_, tenant)| tenant.removed.is_some() || tenant.suspended) {
        let (is, how) = match tenant.removed {
            Some(_) => ("being removed", "`packmule tenant resume` takes that back"),
            None => ("suspended", "`packmule tenant resume` ends that"),
        };
        return Err(
            Error::new(Kind::Refused, format!("tenant {} is {is}: nothing of it is taken", tenant.name)).remedy(how)
        );
    }
    let (number, tenant) = found.ok_or_else(|| {
        Error::new(Kind::WrongDrive, "no tenant of this pool has the repository that this drive carries a part of:")
            .at(drive.path(&Object::Config))
            .remedy("is it another pool's? A site that is new connects first: `packmule remote add` there")
    })?;
    Ok((*number, tenant.name.clone(), tenant.sealed))
}

/// Where else what a snapshot lacks may be: the labels of this tenant's drives that are known here and not committed.
pub fn elsewhere(pool: &Repository, tenant: &str, but: DriveId) -> Vec<String> {
    let state = pool.log.state();
    let others = state.drives.iter().filter(|(id, drive)| {
        **id != but && drive.party == tenant && !drive.back && drive.standing() < Custody::Verified
    });
    others.map(|(id, drive)| format!("{} ({})", drive.label.escape_debug(), id.short())).collect()
}
