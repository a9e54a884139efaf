//! Drives of sealed tenants, at a pool that cannot open them: packs are compared with their names and kept as they are.
//!
//! What a site exports for a sealed tenant is taken into the tenant's copy; log and manifests come with the site's next push,
//! which then has no packs to send. The other way round, the copy is written to the drive as it is, with the key slots
//! that it has: the tenant's own recovery code opens it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use repo::backend::local::Local;
use repo::backend::{Area, Backend, Object};
use repo::crypto::hash::is_drive_of;
use repo::error::{Error, Kind, Result};
use repo::format::record::{Custody, DriveState, Step};
use repo::id::{DriveId, PackId, RepoId};
use repo::limits::{MAX_LOG_RECORD, MAX_MANIFEST};
use repo::monitor::{Counters, Event, Monitor};
use repo::open::Repository;
use repo::session::who;

use super::carry::{Fate, Room, carry, interrupted};
use super::custody::change;
use super::taken::{received, sign, verified};
use super::{Contents, Label, one_at_a_time_in, require_same_way};
use crate::serve::objects::{Kept, copy_dir};

/// Packs that are looked after together.
const TOGETHER: usize = 64;
/// What stays free for all else than packs.
const HEADROOM: u64 = 4 << 20;

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Packs on the drive.
    pub packs: u64,
    /// Packs that were taken.
    pub taken: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packs that were here already.
    pub known: u64,
    /// Packs that are not what they are called.
    pub bad: Vec<PackId>,
    /// The receipt, if every pack on the drive is here.
    pub receipt: Option<String>,
}

/// Takes the packs on the drive in `root` into the copy of the sealed tenant `number`.
///
/// # Errors
/// `Interrupted`: what was taken is kept; `NoSpace`, also above the tenant's quota; what the pool's own storage gives.
pub fn import(
    pool: &Repository,
    (number, tenant, repository): (u32, &str, RepoId),
    root: &Path,
    monitor: &dyn Monitor,
) -> Result<Imported> {
    let (drive, id) = Local::open_drive(root, true)?;
    if !is_drive_of(&id, &repository) {
        return Err(another(root));
    }
    let _only_one = one_at_a_time_in(root)?;
    let all = packs_of(&drive)?;
    // What is gone through, and nothing else, is signed for. What the drive says of itself cannot be read here.
    let contents = Contents::named(all.clone());
    received(pool, id, &unlabelled(tenant, repository, false, Vec::new()), contents)?;
    let tenants = pool.root.as_ref().map(|root| root.join("tenants"));
    let tenants = tenants.ok_or_else(|| Error::bug("a pool without a directory"))?;
    let kept = Kept::open(&copy_dir(&tenants, number), repository)?;
    let quota = pool.log.state().tenants.get(&number).and_then(|tenant| tenant.quota);
    let room = quota.map(|quota| Ok::<_, Error>(quota.saturating_sub(kept.bytes()?))).transpose()?;
    let mut done = Imported::default();
    let room = Room::new(room.unwrap_or(u64::MAX));
    monitor.event(Event::Phase("packs"));
    done.packs = all.len() as u64;
    Counters::add(&monitor.counters().total_files, done.packs);
    Counters::add(&monitor.counters().total_bytes, all.iter().map(|(_, size)| size).sum());
    for some in all.chunks(TOGETHER) {
        if monitor.cancelled() {
            return Err(Error::new(Kind::Interrupted, "interrupted; what was taken is kept, and not read again"));
        }
        let mut wanted = Vec::new();
        for (pack, size) in some {
            match kept.copy().size(&Object::Pack(*pack))? {
                // It was compared with its name when it came.
                Some(there) if there == *size => done.known += 1,
                _ => wanted.push((*pack, *size)),
            }
        }
        for ((pack, _), fate) in wanted.iter().zip(carry(&drive, kept.copy(), &wanted, &room, monitor)?) {
            match fate {
                Fate::There(bytes) => {
                    done.taken += 1;
                    done.bytes += bytes;
                    kept.came_again(pack);
                }
                Fate::Damaged | Fate::Gone => done.bad.push(*pack),
                Fate::Left => {}
            }
        }
        if room.is_full() {
            return Err(Error::new(Kind::NoSpace, format!("there is no room for all that tenant {tenant} has sent"))
                .remedy("make room, or give the tenant a larger quota, and import the drive again"));
        }
    }
    if done.bad.is_empty() {
        verified(pool, id, contents)?;
        done.receipt = sign(pool, id, Some(root), monitor)?;
    }
    pool.refresh(monitor)?;
    Ok(done)
}

fn packs_of(backend: &dyn Backend) -> Result<Vec<(PackId, u64)>> {
    let mut all = Vec::new();
    backend.list(Area::Packs, &mut |object, size| {
        if let Object::Pack(id) = object {
            all.push((id, size));
        }
        Ok(())
    })?;
    Ok(all)
}

pub(super) fn unlabelled(tenant: &str, repository: RepoId, back: bool, steps: Vec<Step>) -> DriveState {
    DriveState {
        label: String::new(),
        party: tenant.to_owned(),
        repository,
        back,
        steps,
        packs: 0,
        bytes: 0,
        digest: [0; 32],
        snapshots: 0,
        newest: None,
        loads: Vec::new(),
    }
}

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// Packs that are on the drive now and were not.
    pub packs: u64,
    /// Bytes that were written for them.
    pub bytes: u64,
    /// Packs that are on no drive yet.
    pub left: u64,
    /// Packs that are damaged here.
    pub bad: Vec<PackId>,
}

/// Makes a drive in `root` for a sealed tenant's copy: nothing is on it before the first export.
///
/// # Errors
/// As [`Local::new_drive`]; what the log gives.
pub fn init(pool: &Repository, tenant: &str, repository: RepoId, root: &Path, label: &Label) -> Result<DriveId> {
    let (_, id) = Local::new_drive(root, &repository)?;
    let (now, by) = (pool.clock.now(), who());
    change(pool, id, &mut |_| {
        let made = vec![Step { custody: Custody::Made, at: now, by: by.clone() }];
        let state = unlabelled(tenant, repository, true, made);
        Ok((DriveState { label: label.text().to_owned(), ..state }, id))
    })
}

fn another(root: &Path) -> Error {
    Error::new(Kind::WrongDrive, "this drive carries a part of another repository:")
        .at(root)
        .remedy("name another drive")
}

/// Writes what is kept of the sealed tenant `number` to the drive in `root`, but for packs that are on those that it goes along
/// with, `after`.
///
/// # Errors
/// `NoRepository` if no push of the tenant has ended yet; `WrongDrive` for one that was not made for this, or has been at the other
/// side; `Interrupted`; what pool and drive give.
pub fn export(
    pool: &Repository,
    (number, tenant, repository): (u32, &str, RepoId),
    root: &Path,
    after: &[DriveId],
    monitor: &dyn Monitor,
) -> Result<(DriveId, Exported)> {
    let tenants = pool.root.as_ref().map(|root| root.join("tenants"));
    let tenants = tenants.ok_or_else(|| Error::bug("a pool without a directory"))?;
    let posted = tenants.join(number.to_string()).join("posted");
    let copy = Local::open(&copy_dir(&tenants, number), true).map_err(|e| match e.kind() {
        Kind::NoRepository => {
            let what = format!("nothing whole is kept of tenant {tenant}: no push of its site has ended yet");
            Error::new(Kind::NoRepository, what).remedy("`packmule sync push` there")
        }
        _ => e,
    })?;
    let none = || {
        Error::new(Kind::WrongDrive, "there is no transfer drive at").at(root).remedy("`packmule drive init` makes one")
    };
    let id = Local::drive_mark(root)?.ok_or_else(none)?;
    if !is_drive_of(&id, &repository) {
        return Err(another(root));
    }
    claim(pool, id, tenant)?;
    let drive = match Local::open_drive(root, false) {
        // It has no config before something is on it.
        Err(e) if e.kind() == Kind::WrongDrive => Local::new_drive(root, &repository)?.0,
        other => other?.0,
    };
    let _only_one = one_at_a_time_in(root)?;
    let mut done = Exported::default();
    // All that is small first: with it whatever packs there are can be read.
    for (area, max) in [
        (Area::Keys, repo::limits::MAX_SMALL_OBJECT),
        (Area::Footers, repo::follow::MAX_ROLLUP),
        (Area::Snapshots, MAX_MANIFEST),
        (Area::Log, MAX_LOG_RECORD),
    ] {
        same(&copy, &drive, area, max)?;
    }
    for object in [Object::Config, Object::ConfigCopy] {
        drive.put(&object, &copy.read_all(&Object::Config, repo::limits::MAX_SMALL_OBJECT)?)?;
    }
    let mut elsewhere: Vec<BTreeSet<PackId>> = Vec::new();
    let state = pool.log.state();
    for other in after.iter().filter(|other| **other != id) {
        require_same_way(&state, other, repository)?;
        elsewhere.push(read_names(&posted.join(other.to_hex()))?);
    }
    let all: Vec<_> =
        packs_of(&copy)?.into_iter().filter(|(id, _)| !elsewhere.iter().any(|known| known.contains(id))).collect();
    Counters::add(&monitor.counters().total_files, all.len() as u64);
    Counters::add(&monitor.counters().total_bytes, all.iter().map(|(_, size)| size).sum());
    for some in all.chunks(TOGETHER) {
        if monitor.cancelled() {
            return Err(interrupted());
        }
        let room = Room::new(drive.free_space()?.unwrap_or(u64::MAX).saturating_sub(HEADROOM));
        for ((pack, _), fate) in some.iter().zip(carry(&copy, &drive, some, &room, monitor)?) {
            match fate {
                Fate::There(bytes) => {
                    done.packs += u64::from(bytes > 0);
                    done.bytes += bytes;
                }
                Fate::Damaged | Fate::Gone => done.bad.push(*pack),
                Fate::Left => done.left += 1,
            }
        }
    }
    write_names(&posted, &id, &packs_of(&drive)?)?;
    let contents = Contents::of(&drive)?;
    change(pool, id, &mut |known| {
        let known = known.ok_or_else(|| Error::bug("a drive that is written to is not known"))?;
        Ok((contents.note(known), ()))
    })?;
    Ok((id, done))
}

/// Says that the drive is written to. One that a site has made is its own: what is on it says so.
fn claim(pool: &Repository, drive: DriveId, tenant: &str) -> Result<()> {
    let (now, by) = (pool.clock.now(), who());
    change(pool, drive, &mut |known| {
        let made_here = known.filter(|known| known.back && known.party == tenant);
        let refused = |what: String| {
            Error::new(Kind::WrongDrive, what).remedy("empty it, and make it anew with `packmule drive init --tenant`")
        };
        let mut state = made_here.ok_or_else(|| refused("this drive was not made here for this tenant".to_owned()))?;
        match state.custody() {
            Custody::Exported => {}
            Custody::Made | Custody::Shipped | Custody::Lost => state.step(Custody::Exported, now, &by),
            other => return Err(refused(format!("this drive is {}", other.name()))),
        }
        Ok((state, ()))
    })
}

/// The packs that were written to a drive: their names, 32 bytes each. Of one of which nothing is known, none.
fn read_names(path: &Path) -> Result<BTreeSet<PackId>> {
    match fs::read(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(e) => Err(Error::io("read", path, e)),
        Ok(bytes) => Ok(bytes.as_chunks::<32>().0.iter().map(|id| PackId(*id)).collect()),
    }
}

/// Keeps the names of the packs on a drive, so that another one need not carry them while this one is on its way.
fn write_names(dir: &Path, drive: &DriveId, packs: &[(PackId, u64)]) -> Result<()> {
    let path = dir.join(drive.to_hex());
    let bytes: Vec<u8> = packs.iter().flat_map(|(id, _)| *id.as_bytes()).collect();
    fs::create_dir_all(dir).map_err(|e| Error::io("make", dir, e))?;
    fs::write(&path, bytes).map_err(|e| Error::io("write", path, e))
}

/// Makes an area of the drive the same as the copy's.
fn same(copy: &Local, drive: &Local, area: Area, max: usize) -> Result<()> {
    let mut missing = Vec::new();
    copy.list(area, &mut |object, size| {
        if drive.size(&object)? != Some(size) {
            missing.push(object);
        }
        Ok(())
    })?;
    for object in missing {
        drive.delete(&object)?;
        drive.put(&object, &copy.read_all(&object, max)?)?;
    }
    Ok(())
}
