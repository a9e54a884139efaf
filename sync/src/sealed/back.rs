//! A copy brought back: from a pool to a directory, which then is the repository again.

use std::collections::{BTreeMap, HashSet};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use repo::backend::local::Local;
use repo::backend::{Area, Backend, Object};
use repo::error::{Error, Kind, Result};
use repo::follow::MAX_ROLLUP;
use repo::id::{PackId, RepoId};
use repo::limits::{MAX_LOG_RECORD, MAX_MANIFEST, MAX_PACK, MAX_SMALL_OBJECT};
use repo::log::CHECKPOINT_EVERY;
use repo::monitor::{Counters, Event, Monitor};

use crate::drive::carry::{Fate, Room, carry};
use crate::remote_backend::RemoteBackend;
use crate::serve::objects::{Nested, copy_dir, parse_nested};
use crate::wire::{Area as NamedArea, Object as Named};

/// Packs that are taken from a drive together.
const TOGETHER: usize = 64;
/// Packs fetched at once.
const AT_ONCE: usize = 4;

/// Brings the key slots and the config of `from` into `root`, a directory that is made, and of which nobody takes what is there
/// for a repository before it is promoted.
///
/// # Errors
/// `NoRepository` if there is no whole copy there; as [`Local::copy_of`]; `Unreachable`.
pub fn begin(from: &RemoteBackend, root: &Path, repository: RepoId) -> Result<Local> {
    let copy = Local::copy_of(root, repository)?;
    if from.size(&Object::Config)?.is_none() {
        let e = "the pool has no whole copy of this repository: its first push did not end";
        return Err(Error::new(Kind::NoRepository, e));
    }
    copy_area(from, &copy, Area::Keys, MAX_SMALL_OBJECT, &mut |_| true)?;
    Ok(copy)
}

/// Brings everything else into `copy`; the config last. What of the packs lies on one of `drives` is taken from there.
///
/// # Errors
/// `Damaged` for a pack that is not what it is called there; `Interrupted`; as [`begin`]. What has come is not fetched again.
pub fn bring(from: &RemoteBackend, copy: &Local, drives: &[Local], monitor: &dyn Monitor) -> Result<()> {
    monitor.event(Event::Phase("packs"));
    packs(from, copy, drives, monitor)?;
    copy_area(from, copy, Area::Footers, MAX_ROLLUP, &mut |_| true)?;
    copy_area(from, copy, Area::Snapshots, MAX_MANIFEST, &mut |_| true)?;
    // What was compacted away before a push may have left gaps: one chain is wanted, from a checkpoint on.
    let first = first_of_chain(from)?;
    copy_area(
        from,
        copy,
        Area::Log,
        MAX_LOG_RECORD,
        // The audit is kept whole.
        &mut |object| !matches!(object, Object::Log(seq) if *seq < first),
    )?;
    nested(from, copy, monitor)?;
    let config = from.read_all(&Object::Config, MAX_SMALL_OBJECT)?;
    for object in [Object::Config, Object::ConfigCopy] {
        copy.put(&object, &config)?;
    }
    Ok(())
}

/// Where the newest unbroken run of records begins, at a checkpoint.
fn first_of_chain(from: &dyn Backend) -> Result<u64> {
    let (mut first, mut last) = (0, 0);
    from.list(Area::Log, &mut |object, _| {
        if let Object::Log(seq) = object {
            if seq != last + 1 {
                first = seq;
            }
            last = seq;
        }
        Ok(())
    })?;
    // A run may begin between two checkpoints only where the log itself does.
    Ok(if first <= 1 || (first - 1).is_multiple_of(CHECKPOINT_EVERY) {
        first
    } else {
        first.next_multiple_of(CHECKPOINT_EVERY) + 1
    })
}

fn copy_area(
    from: &dyn Backend,
    to: &Local,
    area: Area,
    max: usize,
    wanted: &mut dyn FnMut(&Object) -> bool,
) -> Result<()> {
    let mut missing = Vec::new();
    from.list(area, &mut |object, size| {
        if wanted(&object) && to.size(&object)? != Some(size) {
            missing.push(object);
        }
        Ok(())
    })?;
    for object in missing {
        let bytes = from.read_all(&object, max)?;
        to.delete(&object)?;
        to.put(&object, &bytes)?;
    }
    Ok(())
}

fn packs(from: &RemoteBackend, copy: &Local, drives: &[Local], monitor: &dyn Monitor) -> Result<()> {
    let mut missing = Vec::new();
    from.list(Area::Packs, &mut |object, size| {
        if let Object::Pack(id) = object
            && copy.size(&object)? != Some(size)
        {
            missing.push((id, size));
        }
        Ok(())
    })?;
    Counters::add(&monitor.counters().total_files, missing.len() as u64);
    for drive in drives {
        from_drive(drive, copy, &mut missing, monitor)?;
    }
    let missing: Vec<Object> = missing.into_iter().map(|(id, _)| Object::Pack(id)).collect();
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let work = || -> Result<()> {
            while let Some(object) = missing.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                if monitor.cancelled() {
                    return Err(Error::new(Kind::Interrupted, "interrupted; what has come is kept"));
                }
                let bytes = from.read_all(object, MAX_PACK)?;
                if !matches!(object, Object::Pack(id) if blake3::hash(&bytes).as_bytes() == id.as_bytes()) {
                    // All else comes back; this shows as damage, and is told by check.
                    let e = Error::damaged("a pack at the pool is not what it is called:").at(from.path(object));
                    Counters::add(&monitor.counters().errors, 1);
                    monitor.event(Event::Warning(&e.to_string()));
                    continue;
                }
                copy.delete(object)?;
                copy.put(object, &bytes)?;
                Counters::add(&monitor.counters().files, 1);
                Counters::add(&monitor.counters().bytes, bytes.len() as u64);
            }
            Ok(())
        };
        let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|_| Err(Error::bug("bringing packs back panicked"))))
    })
}

/// Takes those that are on a drive; what is damaged there comes from the pool.
fn from_drive(drive: &Local, copy: &Local, missing: &mut Vec<(PackId, u64)>, monitor: &dyn Monitor) -> Result<()> {
    let mut there = Vec::new();
    for (id, size) in missing.iter() {
        if drive.size(&Object::Pack(*id)).is_ok_and(|found| found == Some(*size)) {
            there.push((*id, *size));
        }
    }
    let mut taken = HashSet::new();
    for some in there.chunks(TOGETHER) {
        if monitor.cancelled() {
            return Err(Error::new(Kind::Interrupted, "interrupted; what has come is kept"));
        }
        let room = Room::new(u64::MAX);
        let fates = carry(drive, copy, some, &room, monitor)?;
        if room.is_full() {
            return Err(Error::new(Kind::NoSpace, "there is no room for all that is on the drive").at(copy.root()));
        }
        let come = some.iter().zip(fates).filter(|(_, fate)| matches!(fate, Fate::There(_)));
        taken.extend(come.map(|((id, _), _)| *id));
    }
    missing.retain(|(id, _)| !taken.contains(id));
    Ok(())
}

/// A pool's copy holds those of its sealed tenants.
fn nested(from: &RemoteBackend, copy: &Local, monitor: &dyn Monitor) -> Result<()> {
    let mut places: BTreeMap<u32, Local> = BTreeMap::new();
    let tenants = copy.root().join("tenants");
    let mut objects = Vec::new();
    for (name, size) in from.listed(NamedArea::State)? {
        let Named::State(state) = &name else { continue };
        match parse_nested(state) {
            Some((tenant, Nested::Mark)) => {
                let text = String::from_utf8(from.read_named(&name)?).unwrap_or_default();
                let of = text.trim().rsplit(' ').next().and_then(|id| id.parse().ok());
                let of = of.ok_or_else(|| Error::damaged("the mark of a tenant's copy names no repository"))?;
                let dir = copy_dir(&tenants, tenant);
                let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
                made.map_err(|e| Error::io("make", &dir, e))?;
                places.insert(tenant, Local::copy_of(&dir, of)?);
            }
            Some((tenant, Nested::Object(object))) => objects.push((tenant, object, name, size)),
            None => {}
        }
    }
    // A copy is one once it has its config.
    objects.sort_by_key(|(_, object, ..)| matches!(object, Object::Config | Object::ConfigCopy));
    for (tenant, object, name, size) in objects {
        if monitor.cancelled() {
            return Err(Error::new(Kind::Interrupted, "interrupted; what has come is kept"));
        }
        let Some(place) = places.get(&tenant) else { continue };
        if place.size(&object)? != Some(size) {
            place.delete(&object)?;
            place.put(&object, &from.read_named(&name)?)?;
        }
    }
    Ok(())
}
