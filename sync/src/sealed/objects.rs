//! Copying everything that is no pack: keys, roll-ups, manifests, log, config.

use std::collections::BTreeSet;

use repo::backend::{Area, Object, Put};
use repo::error::{Error, Kind, Result};
use repo::follow::MAX_ROLLUP;
use repo::format::record::{Position, State};
use repo::limits::{MAX_LOG_RECORD, MAX_MANIFEST, MAX_SMALL_OBJECT};
use repo::monitor::{Counters, Event};

use super::Push;
use crate::delta::Delta;

impl Push<'_> {
    /// Copies one object unless it is there; its size then, and none if the repository does not have it.
    fn copy(&self, object: &Object, max: usize) -> Result<Option<u64>> {
        self.stop_if_cancelled()?;
        if self.target.size(object)?.is_some() {
            return Ok(Some(0));
        }
        let bytes = match self.source.backend.read_all(object, max) {
            Err(e) if e.kind() == Kind::NotFound => return Ok(None),
            other => other?,
        };
        Ok(match self.target.put(object, &bytes)? {
            Put::Created => {
                Counters::add(&self.monitor.counters().stored, bytes.len() as u64);
                Some(bytes.len() as u64)
            }
            Put::Exists => Some(0),
        })
    }

    /// Key slots come first: without one, nothing else can be read.
    pub fn copy_keys(&self) -> Result<()> {
        for slot in self.names(Area::Keys, false)? {
            self.copy(&slot, MAX_SMALL_OBJECT)?;
        }
        Ok(())
    }

    /// Removes the key slots that the repository has given up: a password that was changed must not open the copy.
    pub fn delete_keys(&self) -> Result<u64> {
        let kept = self.names(Area::Keys, false)?;
        let mut deleted = 0;
        for slot in self.names(Area::Keys, true)?.difference(&kept) {
            self.target.delete(slot)?;
            deleted += 1;
        }
        self.target.sync_deletes(Area::Keys)?;
        Ok(deleted)
    }

    /// Copies the roll-ups of `delta`; returns their bytes.
    pub fn copy_rollups(&self, delta: &Delta) -> Result<u64> {
        let mut bytes = 0;
        let mut copy = |object: &Object| {
            // One that a prune has replaced is not missed: its packs say the same.
            bytes += self.copy(object, MAX_ROLLUP)?.unwrap_or(0);
            Ok(())
        };
        match delta {
            Delta::All => self.source.backend.list(Area::Footers, &mut |object, _| copy(&object))?,
            Delta::Since { rollups, .. } => rollups.iter().try_for_each(|n| copy(&Object::Footers(*n)))?,
        }
        Ok(bytes)
    }

    /// Copies the manifests of `delta`; returns how many, and their bytes.
    pub fn copy_manifests(&self, state: &State, delta: &Delta) -> Result<(u64, u64)> {
        let (mut copied, mut sum) = (0, 0);
        let wanted = state.snapshots.keys().filter(|id| match delta {
            Delta::All => true,
            Delta::Since { snapshots, .. } => snapshots.contains(id),
        });
        for id in wanted {
            match self.copy(&Object::Snapshot(*id), MAX_MANIFEST)? {
                Some(0) => {}
                Some(n) => (copied, sum) = (copied + 1, sum + n),
                // Swept since, or lost: check says which.
                None => {
                    let path = self.source.backend.path(&Object::Snapshot(*id));
                    let e = Error::damaged("a snapshot's manifest is missing:").at(path);
                    if self.source.log.state().sweep.as_ref().is_none_or(|s| !s.snapshots.contains(id)) {
                        Counters::add(&self.monitor.counters().errors, 1);
                        self.monitor.event(Event::Warning(&format!("not copied: {e}")));
                    }
                }
            }
        }
        Ok((copied, sum))
    }

    /// Copies the segments of the audit that the log names: before the log, which does. Returns their bytes.
    pub fn copy_audit(&self) -> Result<u64> {
        let (named, there) = (self.source.log.state().audit.segment, self.names(Area::Log, true)?);
        let lacking = (1..=named).map(Object::Audit).filter(|segment| !there.contains(segment));
        lacking.map(|segment| Ok(self.copy(&segment, MAX_LOG_RECORD)?.unwrap_or(0))).sum()
    }

    /// Copies the log after `from` up to `to`, in order; returns its bytes.
    pub fn copy_log(&self, from: Option<Position>, to: Position) -> Result<u64> {
        let (mut bytes, mut first) = (0, None);
        let after = from.map_or(0, |at| at.seq);
        let mut wanted = Vec::new();
        self.source.backend.list(Area::Log, &mut |object, _| {
            if let Object::Log(seq @ 1..) = object {
                first.get_or_insert(seq);
                if seq > after && seq <= to.seq {
                    wanted.push(seq);
                }
            }
            Ok(())
        })?;
        for seq in wanted {
            let copied = self.copy(&Object::Log(seq), MAX_LOG_RECORD)?;
            // Compacted away since the listing: a later checkpoint holds it, and then so does the next push.
            let copied = copied.ok_or_else(|| {
                Error::new(Kind::Locked, "the log was compacted while it was copied").remedy("push again")
            })?;
            bytes += copied;
        }
        self.forget_old_records(first.unwrap_or(1))?;
        Ok(bytes)
    }

    /// Removes the records that the repository has compacted away: what is left is one chain without a gap.
    fn forget_old_records(&self, first: u64) -> Result<()> {
        let old: Vec<Object> = self.names(Area::Log, true)?.range(..Object::Log(first)).cloned().collect();
        old.iter().try_for_each(|record| self.target.delete(record))?;
        self.target.sync_deletes(Area::Log)
    }

    /// Last of all: it makes the copy a repository.
    pub fn copy_config(&self) -> Result<()> {
        for object in [Object::Config, Object::ConfigCopy] {
            self.copy(&object, MAX_SMALL_OBJECT)?;
        }
        Ok(())
    }

    /// Removes packs, roll-ups and manifests that the repository does not have any more; returns how many.
    pub fn delete_rest(&self, state: &State) -> Result<u64> {
        let mut deleted = 0;
        let mut remove = |object: Object, keep: bool| {
            self.stop_if_cancelled()?;
            if !keep {
                self.target.delete(&object)?;
                deleted += 1;
            }
            Ok(())
        };
        // First what refers to others.
        self.target.list(Area::Snapshots, &mut |object, _| {
            let Object::Snapshot(id) = &object else { return Ok(()) };
            let keep = state.snapshots.contains_key(id);
            remove(object, keep)
        })?;
        self.target.list(Area::Footers, &mut |object, _| {
            let keep = self.source.backend.size(&object)?.is_some();
            remove(object, keep)
        })?;
        self.target.list(Area::Packs, &mut |object, _| {
            let Object::Pack(id) = &object else { return Ok(()) };
            // A pack that is missing but known is damage here, and the copy's may be the last.
            let keep = self.source.index.pack_by_id(id)?.is_some() || self.source.backend.size(&object)?.is_some();
            remove(object, keep)
        })?;
        for area in [Area::Snapshots, Area::Footers, Area::Packs] {
            self.target.sync_deletes(area)?;
        }
        Ok(deleted)
    }

    fn names(&self, area: Area, target: bool) -> Result<BTreeSet<Object>> {
        let mut names = BTreeSet::new();
        let backend = if target { self.target } else { self.source.backend.as_ref() };
        backend.list(area, &mut |object, _| {
            names.insert(object);
            Ok(())
        })?;
        Ok(names)
    }
}
