//! Copying everything that is no pack: keys, roll-ups, manifests, log, config.

use std::collections::BTreeSet;

use repo::backend::{Area, Backend, Object};
use repo::error::{Error, Kind, Result};
use repo::follow::MAX_ROLLUP;
use repo::format::record::{Position, State};
use repo::format::slot::{Lock, Slot};
use repo::limits::{MAX_LOG_RECORD, MAX_MANIFEST, MAX_SMALL_OBJECT};
use repo::monitor::{Counters, Event};

use super::Push;
use crate::delta::Delta;

/// Objects asked about at a time.
pub const AT_ONCE: usize = 4096;

impl Push<'_> {
    /// Copies those of `objects` that the repository has and the copy has not, in order, with `accept` looking at each first;
    /// how many, and their bytes.
    fn copy(
        &self,
        objects: &[Object],
        max: usize,
        accept: &mut dyn FnMut(&Object, &[u8]) -> Result<bool>,
    ) -> Result<(u64, u64)> {
        let (mut copied, mut sum) = (0, 0);
        for some in objects.chunks(AT_ONCE) {
            let mut there = Vec::with_capacity(some.len());
            for object in some {
                there.extend(self.source.backend.size(object)?.map(|size| (object.clone(), size)));
            }
            let missing = if there.is_empty() { Vec::new() } else { self.target.missing(&there)? };
            for ((object, _), _) in there.iter().zip(&missing).filter(|(_, missing)| **missing) {
                self.stop_if_cancelled()?;
                let bytes = match self.source.backend.read_all(object, max) {
                    // Removed meanwhile.
                    Err(e) if e.kind() == Kind::NotFound => continue,
                    other => other?,
                };
                if accept(object, &bytes)? {
                    self.target.put(object, &bytes)?;
                    Counters::add(&self.monitor.counters().stored, bytes.len() as u64);
                    (copied, sum) = (copied + 1, sum + bytes.len() as u64);
                }
            }
        }
        Ok((copied, sum))
    }

    /// Copies the segments of the audit that the log names: before the log, which does. Returns their bytes.
    pub fn copy_audit(&self) -> Result<u64> {
        let named: Vec<Object> = (1..=self.source.log.state().audit.segment).map(Object::Audit).collect();
        self.copy(&named, MAX_LOG_RECORD, &mut |_, _| Ok(true)).map(|(_, bytes)| bytes)
    }

    /// Copies key slots; returns their bytes. Where the copy is not the owner's own, none goes that a guess could open.
    pub fn copy_keys(&self) -> Result<u64> {
        let mut slots: Vec<Object> = self.names(Area::Keys)?.into_iter().collect();
        if !self.target.keeps_passwords() {
            let mut kept = Vec::new();
            for slot in slots {
                let bytes = match self.source.backend.read_all(&slot, MAX_SMALL_OBJECT) {
                    Err(e) if e.kind() == Kind::NotFound => continue,
                    other => other?,
                };
                if !is_password(&bytes)? {
                    kept.push(slot);
                }
            }
            slots = kept;
            if slots.is_empty() {
                return Err(Error::new(Kind::Refused, "only passwords open this repository, and none of those may lie at a provider's: nobody could open the copy")
                    .remedy("add a recovery code with `packmule key recovery-code`, or a recipient with `packmule key add --recipient`"));
            }
        }
        self.copy(&slots, MAX_SMALL_OBJECT, &mut |_, _| Ok(true)).map(|(_, bytes)| bytes)
    }

    /// Removes the key slots that the repository has given up: a password that was changed must not open the copy.
    pub fn delete_keys(&self, copy: &dyn Backend) -> Result<u64> {
        let kept = self.names(Area::Keys)?;
        let mut deleted = 0;
        for slot in names(copy, Area::Keys)?.difference(&kept) {
            copy.delete(slot)?;
            deleted += 1;
        }
        copy.sync_deletes(Area::Keys)?;
        Ok(deleted)
    }

    /// Copies the roll-ups of `delta` and of `lost`; returns their bytes. One that a prune has replaced is not missed: its
    /// packs say the same.
    pub fn copy_rollups(&self, delta: &Delta, lost: &[Object]) -> Result<u64> {
        let mut wanted: Vec<Object> = match delta {
            Delta::All => self.names(Area::Footers)?.into_iter().collect(),
            Delta::Since { rollups, .. } => rollups.iter().map(|n| Object::Footers(*n)).collect(),
        };
        wanted.extend(lost.iter().filter(|object| matches!(object, Object::Footers(_))).cloned());
        self.copy(&wanted, MAX_ROLLUP, &mut |_, _| Ok(true)).map(|(_, bytes)| bytes)
    }

    /// Copies the manifests of `delta` and of `lost`; returns how many, and their bytes.
    pub fn copy_manifests(&self, state: &State, delta: &Delta, lost: &[Object]) -> Result<(u64, u64)> {
        let wanted: Vec<Object> = state
            .snapshots
            .keys()
            .filter(|id| match delta {
                Delta::All => true,
                Delta::Since { snapshots, .. } => snapshots.contains(id) || lost.contains(&Object::Snapshot(**id)),
            })
            .map(|id| Object::Snapshot(*id))
            .collect();
        for object in &wanted {
            if self.source.backend.size(object)?.is_none() {
                self.missed(object, state, "a snapshot's manifest is missing:");
            }
        }
        self.copy(&wanted, MAX_MANIFEST, &mut |object, bytes| {
            let Object::Snapshot(id) = object else { return Ok(true) };
            let known = state.snapshots.get(id).map(|snapshot| snapshot.manifest_hash);
            if known.is_some_and(|hash| hash != *blake3::hash(bytes).as_bytes()) {
                self.missed(object, state, "a snapshot's manifest is damaged:");
                return Ok(false);
            }
            Ok(true)
        })
    }

    /// Swept since, or lost: check says which.
    fn missed(&self, object: &Object, state: &State, what: &'static str) {
        let Object::Snapshot(id) = object else { return };
        let sweep = self.source.log.state().sweep.clone().or_else(|| state.sweep.clone());
        if sweep.is_none_or(|sweep| !sweep.snapshots.contains(id)) {
            let e = Error::damaged(what).at(self.source.backend.path(object));
            Counters::add(&self.monitor.counters().errors, 1);
            self.monitor.event(Event::Warning(&format!("not copied: {e}")));
        }
    }

    /// Copies the log after `from` up to `to`, in order, and what is `lost` of it before; returns its bytes.
    pub fn copy_log(&self, from: Option<Position>, to: Position, lost: &[Object]) -> Result<u64> {
        let (mut first, after) = (None, from.map_or(0, |at| at.seq));
        let mut wanted = Vec::new();
        for object in self.names(Area::Log)? {
            if let Object::Log(seq @ 1..) = object {
                first.get_or_insert(seq);
                if seq <= to.seq && (seq > after || lost.contains(&object)) {
                    wanted.push(object);
                }
            }
        }
        let mut bytes = 0;
        for object in wanted {
            self.stop_if_cancelled()?;
            let sealed = match self.source.backend.read_all(&object, MAX_LOG_RECORD) {
                // A later checkpoint holds it, and then so does the next push.
                Err(e) if e.kind() == Kind::NotFound => {
                    return Err(
                        Error::new(Kind::Locked, "the log was compacted while it was copied").remedy("push again")
                    );
                }
                other => other?,
            };
            self.target.put(&object, &sealed)?;
            Counters::add(&self.monitor.counters().stored, sealed.len() as u64);
            bytes += sealed.len() as u64;
        }
        if let Some(copy) = self.target.owned() {
            forget_old_records(copy, first.unwrap_or(1))?;
        }
        Ok(bytes)
    }

    /// Last of all: it makes the copy a repository.
    pub fn copy_config(&self) -> Result<()> {
        let both = [Object::Config, Object::ConfigCopy];
        self.copy(&both, MAX_SMALL_OBJECT, &mut |_, _| Ok(true)).map(drop)
    }

    /// Removes packs, roll-ups and manifests that the repository does not have any more; returns how many.
    pub fn delete_rest(&self, copy: &dyn Backend, state: &State) -> Result<u64> {
        let obsolete = self.obsolete(copy, state, &mut |_, _| true)?;
        for object in &obsolete {
            self.stop_if_cancelled()?;
            copy.delete(object)?;
        }
        for area in [Area::Snapshots, Area::Footers, Area::Packs] {
            copy.sync_deletes(area)?;
        }
        Ok(obsolete.len() as u64)
    }

    /// The snapshots, roll-ups and packs in `copy` that the repository does not have any more: first what refers to others.
    pub fn obsolete(
        &self,
        copy: &dyn Backend,
        state: &State,
        may: &mut dyn FnMut(&Object, u64) -> bool,
    ) -> Result<Vec<Object>> {
        let mut obsolete = Vec::new();
        for area in [Area::Snapshots, Area::Footers, Area::Packs] {
            copy.list(area, &mut |object, size| {
                let keep = match &object {
                    Object::Snapshot(id) => state.snapshots.contains_key(id),
                    // A pack that is missing but known is damage here, and the copy's may be the last.
                    Object::Pack(id) if self.source.index.pack_by_id(id)?.is_some() => true,
                    _ => self.source.backend.size(&object)?.is_some(),
                };
                if !keep && may(&object, size) {
                    obsolete.push(object);
                }
                Ok(())
            })?;
        }
        Ok(obsolete)
    }

    fn names(&self, area: Area) -> Result<BTreeSet<Object>> {
        names(self.source.backend.as_ref(), area)
    }
}

/// Whether this key slot is one that a password opens.
///
/// # Errors
/// `Damaged` if it cannot be told.
pub fn is_password(slot: &[u8]) -> Result<bool> {
    Ok(matches!(Slot::decode(slot)?.head.lock, Lock::Passphrase { .. }))
}

/// Removes the records that the repository has compacted away: what is left is one chain without a gap.
fn forget_old_records(copy: &dyn Backend, first: u64) -> Result<()> {
    let old: Vec<Object> = names(copy, Area::Log)?.range(..Object::Log(first)).cloned().collect();
    old.iter().try_for_each(|record| copy.delete(record))?;
    copy.sync_deletes(Area::Log)
}

/// The objects of an area.
pub fn names(backend: &dyn Backend, area: Area) -> Result<BTreeSet<Object>> {
    let mut names = BTreeSet::new();
    backend.list(area, &mut |object, _| {
        names.insert(object);
        Ok(())
    })?;
    Ok(names)
}
