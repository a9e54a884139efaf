//! Carrying packs from one repository to a part of it elsewhere, as they are: several at a time, in order, as many as fit.

use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, bounded};
use parking_lot::Mutex;
use repo::backend::{Backend, Object};
use repo::error::{Error, Kind, Result};
use repo::id::PackId;
use repo::limits::MAX_PACK;
use repo::monitor::{Counters, Event, Monitor};
use repo::pack::read::whole_pack;

/// Packs on their way at once: while one is made durable, others are read and hashed.
const AT_ONCE: usize = 4;
/// What a file takes beyond its bytes at most: the rest of a cluster, and its name.
const ROUNDING: u64 = 132 << 10;

/// What became of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is there, durably; and so many bytes were written.
    There(u64),
    /// It cannot be read where it is to come from.
    Damaged,
    /// A prune took it meanwhile.
    Gone,
    /// There was no room for it, or it was not come to.
    Left,
}

/// What there is room for.
pub struct Room {
    left: Mutex<u64>,
    full: AtomicBool,
}

impl Room {
    /// So many bytes, on a filesystem that has so many free.
    pub fn new(most: u64) -> Room {
        Room { left: Mutex::new(most), full: AtomicBool::new(false) }
    }

    /// Whether something did not fit.
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// What was removed leaves room.
    fn give(&self, size: u64) {
        let mut left = self.left.lock();
        *left = left.saturating_add(size);
    }

    /// Takes room for a file; false from the first that finds none.
    fn take(&self, size: u64) -> bool {
        let mut left = self.left.lock();
        match left.checked_sub(size + ROUNDING) {
            Some(rest) if !self.is_full() => {
                *left = rest;
                true
            }
            _ => {
                self.full.store(true, Ordering::Relaxed);
                false
            }
        }
    }
}

/// Brings these packs, of these sizes, from `from` to `to`. Nothing after the first for which there is no room.
///
/// # Errors
/// `Interrupted`; what `to` gives but `NoSpace`.
pub fn carry(
    from: &dyn Backend,
    to: &dyn Backend,
    packs: &[(PackId, u64)],
    room: &Room,
    monitor: &dyn Monitor,
) -> Result<Vec<Fate>> {
    let fates = Mutex::new(vec![Fate::Left; packs.len()]);
    let failed = Mutex::new(None);
    let (tx, rx) = bounded::<usize>(0);
    let work = |rx: Receiver<usize>| {
        for i in rx {
            let (id, size) = packs[i];
            match one(from, to, &id, size, room, monitor) {
                Ok(fate) => fates.lock()[i] = fate,
                Err(e) => {
                    failed.lock().get_or_insert(e);
                    return;
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let work = &work;
        for _ in 0..AT_ONCE.min(packs.len()) {
            let rx = rx.clone();
            scope.spawn(move || work(rx));
        }
        drop(rx);
        for i in 0..packs.len() {
            // Ends early, too, where nobody takes any more.
            if room.is_full() || failed.lock().is_some() || monitor.cancelled() || tx.send(i).is_err() {
                break;
            }
        }
        drop(tx);
    });
    match failed.into_inner() {
        Some(e) => Err(e),
        None => Ok(fates.into_inner()),
    }
}

fn one(
    from: &dyn Backend,
    to: &dyn Backend,
    id: &PackId,
    size: u64,
    room: &Room,
    monitor: &dyn Monitor,
) -> Result<Fate> {
    let object = Object::Pack(*id);
    let counters = monitor.counters();
    match to.size(&object)? {
        // What an interrupted export, or a filesystem that was unplugged, has left under the name may be anything.
        Some(there) if there == size && whole_pack(to, id).is_ok() => {
            Counters::add(&counters.files, 1);
            return Ok(Fate::There(0));
        }
        Some(there) => {
            to.delete(&object)?;
            room.give(there);
        }
        None => {}
    }
    if !room.take(size) {
        return Ok(Fate::Left);
    }
    let mut source = Source { from, object: &object, id, size, at: 0, hasher: blake3::Hasher::new(), failed: false };
    let put = match usize::try_from(size) {
        Ok(len) if (1..=MAX_PACK).contains(&len) => to.put_stream(&object, len, &mut |block| source.fill(block)),
        _ => Err(source.damaged("it is empty, or larger than any pack may be:")),
    };
    match put {
        Ok(_) => {}
        Err(e) if source.failed && e.kind() == Kind::NotFound => return Ok(Fate::Gone),
        Err(e) if source.failed && matches!(e.kind(), Kind::Damaged | Kind::Io) => {
            Counters::add(&counters.errors, 1);
            monitor.event(Event::Warning(&format!("not copied: {e}")));
            return Ok(Fate::Damaged);
        }
        Err(e) if e.kind() == Kind::NoSpace => {
            room.full.store(true, Ordering::Relaxed);
            return Ok(Fate::Left);
        }
        Err(e) => return Err(e),
    }
    Counters::add(&counters.stored, size);
    Counters::add(&counters.bytes, size);
    Counters::add(&counters.files, 1);
    Ok(Fate::There(size))
}

/// A pack that is read piece by piece, and compared with its name at its end.
struct Source<'a> {
    from: &'a dyn Backend,
    object: &'a Object,
    id: &'a PackId,
    size: u64,
    at: u64,
    hasher: blake3::Hasher,
    /// It is this side that failed.
    failed: bool,
}

impl Source<'_> {
    fn fill(&mut self, block: &mut [u8]) -> Result<()> {
        if self.at == 0 {
            self.from.prefetch(self.object, 0, self.size);
        }
        self.from.read_into(self.object, self.at, block).inspect_err(|_| self.failed = true)?;
        self.hasher.update(block);
        self.at += block.len() as u64;
        if self.at == self.size && self.hasher.finalize().as_bytes() != self.id.as_bytes() {
            return Err(self.damaged("the contents do not match the name, which is their checksum:"));
        }
        Ok(())
    }

    fn damaged(&mut self, what: &'static str) -> Error {
        self.failed = true;
        Error::damaged(what).at(self.from.path(self.object))
    }
}

/// That the user stopped it.
pub fn interrupted() -> Error {
    Error::new(Kind::Interrupted, "interrupted; what is on the drive is kept, and the next call goes on from there")
}
