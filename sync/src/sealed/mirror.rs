//! Copying a copy: what a pool keeps of its sealed tenants goes into the pool's own copy, without anybody's keys.

use repo::backend::{Area, Backend, Object};
use repo::error::{Error, Kind, Result};
use repo::limits::{MAX_LOG_RECORD, MAX_PACK};
use repo::monitor::{Counters, Event, Monitor};

use super::objects::{AT_ONCE, names};
use super::{Options, Target};

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mirrored {
    /// Packs.
    pub packs: u64,
    /// Bytes of everything.
    pub bytes: u64,
    /// Objects removed.
    pub deleted: u64,
}

/// Brings `target` up to the state of `source`, to which others may push meanwhile.
///
/// # Errors
/// `Interrupted`; what either side gives. What was copied is not copied again.
pub fn mirror(
    source: &dyn Backend,
    target: &dyn Target,
    options: Options<'_>,
    monitor: &dyn Monitor,
) -> Result<Mirrored> {
    let mut done = Mirrored::default();
    // First: whatever these say is there already.
    let (log, audit): (Vec<_>, Vec<_>) =
        listed(source, Area::Log)?.into_iter().partition(|(object, _)| matches!(object, Object::Log(_)));
    let Some(newest) = log.last() else { return Ok(done) };
    if !options.audit && !options.delete && !target.missing(std::slice::from_ref(newest))?[0] {
        return Ok(done);
    }
    for area in [Area::Packs, Area::Footers, Area::Snapshots, Area::Keys] {
        copy(source, target, &listed(source, area)?, monitor, &mut done)?;
    }
    copy(source, target, &audit, monitor, &mut done)?;
    target.settle()?;
    copy(source, target, &log, monitor, &mut done)?;
    let mut config = Vec::new();
    for object in [Object::Config, Object::ConfigCopy] {
        config.extend(source.size(&object)?.map(|size| (object, size)));
    }
    copy(source, target, &config, monitor, &mut done)?;
    target.settle()?;
    if let (true, Some(copy)) = (options.delete, target.owned()) {
        for area in [Area::Snapshots, Area::Footers, Area::Packs, Area::Keys, Area::Log] {
            for object in names(copy, area)?.difference(&names(source, area)?) {
                copy.delete(object)?;
                done.deleted += 1;
            }
            copy.sync_deletes(area)?;
        }
    }
    Ok(done)
}

fn listed(source: &dyn Backend, area: Area) -> Result<Vec<(Object, u64)>> {
    let mut all = Vec::new();
    source.list(area, &mut |object, size| {
        all.push((object, size));
        Ok(())
    })?;
    Ok(all)
}

fn copy(
    source: &dyn Backend,
    target: &dyn Target,
    objects: &[(Object, u64)],
    monitor: &dyn Monitor,
    done: &mut Mirrored,
) -> Result<()> {
    for some in objects.chunks(AT_ONCE) {
        let missing = target.missing(some)?;
        for ((object, _), _) in some.iter().zip(missing).filter(|(_, missing)| *missing) {
            if monitor.cancelled() {
                return Err(Error::new(Kind::Interrupted, "interrupted; what was copied will not be copied again"));
            }
            let bytes = match source.read_all(object, MAX_PACK.max(MAX_LOG_RECORD)) {
                // By its owner's order.
                Err(e) if e.kind() == Kind::NotFound => continue,
                other => other?,
            };
            if let Object::Pack(id) = object
                && blake3::hash(&bytes).as_bytes() != id.as_bytes()
            {
                let e = Error::damaged("a pack is not what its name says:").at(source.path(object));
                Counters::add(&monitor.counters().errors, 1);
                monitor.event(Event::Warning(&format!("not copied: {e}")));
                continue;
            }
            target.put(object, &bytes)?;
            done.packs += u64::from(matches!(object, Object::Pack(_)));
            done.bytes += bytes.len() as u64;
            Counters::add(&monitor.counters().stored, bytes.len() as u64);
        }
    }
    Ok(())
}
