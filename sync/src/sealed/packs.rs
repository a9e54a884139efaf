//! Copying packs, several at a time: each is read whole and compared with its name first, so that damage is not passed on.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use repo::backend::Object;
use repo::error::{Error, Kind, Result};
use repo::id::PackId;
use repo::monitor::{Counters, Event};
use repo::pack::read::whole_pack;
use repo::status::is_of_no_use;

use super::Push;
use super::objects::AT_ONCE as ASKED;
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
    /// Packs that are on their way on a drive, and their bytes.
    pub posted: (u64, u64),
}

enum Found {
    Copied(u64),
    Gone,
    Damaged(Error),
}

impl Push<'_> {
    /// Copies the packs of `delta`, and those that were `missing` in the pass before.
    pub fn copy_packs(&self, delta: &Delta, missing: &[PackId]) -> Result<Copied> {
        let (packs, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        let (gone, damaged, failed) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()), Mutex::new(None));
        let (tx, rx) = bounded::<PackId>(AT_ONCE);
        let work = |rx: Receiver<PackId>| {
            for id in rx {
                match self.stop_if_cancelled().and_then(|()| self.copy_pack(&id)) {
                    Ok(Found::Copied(n)) => {
                        packs.fetch_add(1, Ordering::Relaxed);
                        bytes.fetch_add(n, Ordering::Relaxed);
                    }
                    // Its copy would be of no use either.
                    Ok(Found::Damaged(_) | Found::Gone) if is_of_no_use(&self.source.log.state(), &id) => {}
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
                .inspect(|_| drop(tx))
        });
        if let Some(e) = failed.into_inner() {
            return Err(e);
        }
        let posted = fed?;
        let (packs, bytes) = (packs.into_inner(), bytes.into_inner());
        Ok(Copied { packs, bytes, gone: gone.into_inner(), damaged: damaged.into_inner(), posted })
    }

    /// Hands out what is missing; ends early, without an error of its own, when nobody takes any more.
    /// How many packs, and bytes, are not there because they are on their way on a drive.
    fn feed(&self, delta: &Delta, missing: &[PackId], tx: &Sender<PackId>) -> Result<(u64, u64)> {
        let sweep = self.source.log.state().sweep.clone();
        let doomed = |id: &PackId| sweep.as_ref().is_some_and(|sweep| sweep.packs.contains(id));
        let mut asked: Vec<(Object, u64)> = Vec::new();
        let mut posted = (0, 0);
        let mut hand_out = |asked: &mut Vec<(Object, u64)>| -> Result<()> {
            if asked.is_empty() {
                return Ok(());
            }
            let absent = self.target.missing(asked)?;
            for ((object, size), absent) in asked.drain(..).zip(absent) {
                Counters::add(&self.monitor.counters().total_files, 1);
                match object {
                    Object::Pack(id) if absent && self.source.index.posted(&self.away, &id)?.is_some() => {
                        posted = (posted.0 + 1, posted.1 + size);
                        Counters::add(&self.monitor.counters().files, 1);
                    }
                    Object::Pack(id) if absent => {
                        tx.send(id).map_err(|_| Error::new(Kind::Interrupted, "interrupted"))?;
                    }
                    _ => Counters::add(&self.monitor.counters().files, 1),
                }
            }
            Ok(())
        };
        let mut offer = |id: PackId, size: u64| {
            if !doomed(&id) {
                asked.push((Object::Pack(id), size));
            }
            if asked.len() >= ASKED { hand_out(&mut asked) } else { Ok(()) }
        };
        let mut known = |id: &PackId| match self.source.index.pack_by_id(id)? {
            Some(info) => offer(*id, info.size),
            // Swept since.
            None => Ok(()),
        };
        missing.iter().try_for_each(&mut known)?;
        match delta {
            Delta::All => self.source.index.packs(&mut |info| offer(info.id, info.size))?,
            Delta::Since { packs, .. } => packs.iter().try_for_each(known)?,
        }
        hand_out(&mut asked)?;
        Ok(posted)
    }

    fn copy_pack(&self, id: &PackId) -> Result<Found> {
        let bytes = match whole_pack(self.source.backend.as_ref(), id) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == Kind::NotFound => return Ok(Found::Gone),
            Err(e) if matches!(e.kind(), Kind::Damaged | Kind::Io) => return Ok(Found::Damaged(e)),
            Err(e) => return Err(e),
        };
        let n = bytes.len() as u64;
        self.target.put(&Object::Pack(*id), &bytes)?;
        Counters::add(&self.monitor.counters().stored, n);
        Counters::add(&self.monitor.counters().bytes, n);
        Ok(Found::Copied(n))
    }

    /// The packs among what is lost in the copy.
    pub fn lost_packs(lost: &[Object]) -> Vec<PackId> {
        let packs = lost.iter().filter_map(|object| match object {
            Object::Pack(id) => Some(*id),
            _ => None,
        });
        packs.collect()
    }

    fn path(&self, id: &PackId) -> std::path::PathBuf {
        self.source.backend.path(&Object::Pack(*id))
    }

    fn report(&self, error: &Error) {
        Counters::add(&self.monitor.counters().errors, 1);
        self.monitor.event(Event::Warning(&format!("not copied: {error}")));
    }
}
