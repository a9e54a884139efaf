//! Copying packs, several at a time: each is read whole and compared with its name first, so that damage is not passed on.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use repo::backend::{Object, Put};
use repo::error::{Error, Kind, Result};
use repo::id::PackId;
use repo::monitor::{Counters, Event};
use repo::pack::read::whole_pack;

use super::Push;
use crate::delta::Delta;

/// Packs on their way at once: while one is made durable, others are read and hashed.
const AT_ONCE: usize = 4;

/// What became of a round of packs.
#[derive(Default)]
pub struct Copied {
    /// Packs copied.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packs that were not there, for the first time.
    pub gone: Vec<PackId>,
    /// Packs that are not what they are called, or are gone for good though the index has them.
    pub damaged: Vec<PackId>,
}

enum Found {
    Copied(u64),
    There,
    Gone,
    Damaged(Error),
}

impl Push<'_> {
    /// Copies the packs of `delta`, and those that were `missing` in the pass before.
    pub fn copy_packs(&self, delta: &Delta, missing: &[PackId]) -> Result<Copied> {
        let (packs, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        let (gone, damaged, failed) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()), Mutex::new(None));
        let (tx, rx) = bounded::<(PackId, u64)>(AT_ONCE);
        let work = |rx: Receiver<(PackId, u64)>| {
            for (id, size) in rx {
                match self.stop_if_cancelled().and_then(|()| self.copy_pack(&id, size)) {
                    Ok(Found::There) => {}
                    Ok(Found::Copied(n)) => {
                        packs.fetch_add(1, Ordering::Relaxed);
                        bytes.fetch_add(n, Ordering::Relaxed);
                    }
                    // Twice, and the index still has it: no prune took it.
                    Ok(Found::Gone) if missing.contains(&id) => {
                        self.report(&Error::damaged("a pack is missing:").at(self.path(&id)));
                        damaged.lock().push(id);
                    }
                    Ok(Found::Gone) => gone.lock().push(id),
                    Ok(Found::Damaged(e)) => {
                        self.report(&e);
                        damaged.lock().push(id);
                    }
                    Err(e) => {
                        failed.lock().get_or_insert(e);
                        return;
                    }
                }
                Counters::add(&self.monitor.counters().files, 1);
            }
        };
        let fed = std::thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                let rx = rx.clone();
                scope.spawn(|| work(rx));
            }
            drop(rx);
            self.feed(delta, missing, &tx)
                // Here the sender goes, and the threads end.
                .inspect(|()| drop(tx))
        });
        if let Some(e) = failed.into_inner() {
            return Err(e);
        }
        fed?;
        let (packs, bytes) = (packs.into_inner(), bytes.into_inner());
        Ok(Copied { packs, bytes, gone: gone.into_inner(), damaged: damaged.into_inner() })
    }

    /// Hands out what is to be looked at; ends early, without an error of its own, when nobody takes any more.
    fn feed(&self, delta: &Delta, missing: &[PackId], tx: &Sender<(PackId, u64)>) -> Result<()> {
        let sweep = self.source.log.state().sweep.clone();
        let doomed = |id: &PackId| sweep.as_ref().is_some_and(|sweep| sweep.packs.contains(id));
        let ended = || Error::new(Kind::Interrupted, "interrupted");
        let offer = |id: PackId, size: u64| {
            if doomed(&id) {
                return Ok(());
            }
            Counters::add(&self.monitor.counters().total_files, 1);
            tx.send((id, size)).map_err(|_| ended())
        };
        let known = |id: &PackId| match self.source.index.pack_by_id(id)? {
            Some(info) => offer(*id, info.size),
            // Swept since.
            None => Ok(()),
        };
        missing.iter().try_for_each(known)?;
        match delta {
            Delta::All => self.source.index.packs(&mut |info| offer(info.id, info.size)),
            Delta::Since { packs, .. } => packs.iter().try_for_each(known),
        }
    }

    fn copy_pack(&self, id: &PackId, size: u64) -> Result<Found> {
        let object = Object::Pack(*id);
        let there = self.target.size(&object)?;
        if there == Some(size) {
            return Ok(Found::There);
        }
        let bytes = match whole_pack(self.source.backend.as_ref(), id) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == Kind::NotFound => return Ok(Found::Gone),
            Err(e) if matches!(e.kind(), Kind::Damaged | Kind::Io) => return Ok(Found::Damaged(e)),
            Err(e) => return Err(e),
        };
        if there.is_some() {
            // Another length under this name is no pack.
            self.target.delete(&object)?;
        }
        let n = bytes.len() as u64;
        Ok(match self.target.put(&object, &bytes)? {
            Put::Created => {
                Counters::add(&self.monitor.counters().stored, n);
                Counters::add(&self.monitor.counters().bytes, n);
                Found::Copied(n)
            }
            Put::Exists => Found::There,
        })
    }

    fn path(&self, id: &PackId) -> std::path::PathBuf {
        self.source.backend.path(&Object::Pack(*id))
    }

    fn report(&self, error: &Error) {
        Counters::add(&self.monitor.counters().errors, 1);
        self.monitor.event(Event::Warning(&format!("not copied: {error}")));
    }
}
