//! Carrying packs from one repository to a part of it elsewhere, as they are: several at a time, in order, as many as fit.

use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, bounded};
use parking_lot::Mutex;
use repo::backend::{Backend, Object};
use repo::error::{Error, Kind, Result};
use repo::id::PackId;
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
        Some(_) => {
            to.delete(&object)?;
        }
        None => {}
    }
    if !room.take(size) {
        return Ok(Fate::Left);
    }
    let bytes = match whole_pack(from, id) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == Kind::NotFound => return Ok(Fate::Gone),
        Err(e) if matches!(e.kind(), Kind::Damaged | Kind::Io) => {
            Counters::add(&counters.errors, 1);
            monitor.event(Event::Warning(&format!("not copied: {e}")));
            return Ok(Fate::Damaged);
        }
        Err(e) => return Err(e),
    };
    match to.put(&object, &bytes) {
        Err(e) if e.kind() == Kind::NoSpace => {
            room.full.store(true, Ordering::Relaxed);
            return Ok(Fate::Left);
        }
        other => other?,
    };
    let n = bytes.len() as u64;
    Counters::add(&counters.stored, n);
    Counters::add(&counters.bytes, n);
    Counters::add(&counters.files, 1);
    Ok(Fate::There(n))
}

/// That the user stopped it.
pub fn interrupted() -> Error {
    Error::new(Kind::Interrupted, "interrupted; what is on the drive is kept, and the next call goes on from there")
}
