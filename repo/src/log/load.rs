//! Reading the journal from its newest checkpoint on: strictly for writers, leniently for readers of what is left.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{CHECKPOINT_EVERY, Sound};
use crate::backend::{Area, Backend, Object};
use crate::crypto::keys::{Keys, Object as Sealed};
use crate::error::{Error, Kind, Result, printable};
use crate::format::record::{Entry, Position, Record, State};
use crate::id::LogHash;
use crate::limits::MAX_LOG_RECORD;
use crate::monitor::{Counters, Event, Monitor};

/// Others may compact away what was just listed this often before it is taken for damage.
const ATTEMPTS: u32 = 3;

/// The name of a sealed record for the chain.
pub(super) fn hash(sealed: &[u8]) -> LogHash {
    LogHash(*blake3::hash(sealed).as_bytes())
}

/// Where the checkpoint stands that a reader of record `seq` (1 or more) starts from.
pub(super) fn checkpoint_at_or_before(seq: u64) -> u64 {
    seq - (seq - 1) % CHECKPOINT_EVERY
}

/// The numbers of the records that are there, in order.
pub(super) fn numbers(backend: &dyn Backend) -> Result<Vec<u64>> {
    let mut numbers = Vec::new();
    backend.list(Area::Log, &mut |object, _| {
        // The first record is 1.
        if let Object::Log(seq @ 1..) = object {
            numbers.push(seq);
        }
        Ok(())
    })?;
    Ok(numbers)
}

pub(super) fn missing(backend: &dyn Backend, seq: u64) -> Error {
    Error::damaged("a record of the log is missing:").at(backend.path(&Object::Log(seq)))
}

pub(super) fn unchained(backend: &dyn Backend, seq: u64) -> Error {
    Error::damaged("a record of the log does not follow the one before it:").at(backend.path(&Object::Log(seq)))
}

/// Reads and opens one record. `NotFound` if it is absent; `Damaged` names the file.
pub(super) fn open(backend: &dyn Backend, keys: &Keys, seq: u64) -> Result<Sound> {
    let object = Object::Log(seq);
    let sealed = backend.read_all(&object, MAX_LOG_RECORD)?;
    let opened = keys.open(Sealed::LogRecord, &seq.to_le_bytes(), &sealed).and_then(|plain| Entry::decode(&plain));
    let (prev, entry) = opened.map_err(|e| {
        let e = e.at(backend.path(&object));
        // The claim is not authenticated, so this is a remark and no other kind of error.
        let epoch = sealed.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
        if epoch == Some(keys.current_epoch() + 1) {
            e.remedy("if the key has just been rotated, run the command again")
        } else {
            e
        }
    })?;
    if entry.seq != seq {
        return Err(Error::damaged("a record of the log has another's number:").at(backend.path(&object)));
    }
    Ok(Sound { prev, entry, hash: hash(&sealed) })
}

/// The state that the checkpoint at `seq` makes.
fn open_checkpoint(backend: &dyn Backend, keys: &Keys, seq: u64) -> Result<State> {
    let Sound { prev, mut entry, hash } = open(backend, keys, seq)?;
    let Record::Checkpoint { state } = &mut entry.record else {
        let e = Error::damaged("a checkpoint of the log is not one:");
        return Err(e.at(backend.path(&Object::Log(seq))));
    };
    let mut state = std::mem::take(&mut **state);
    if state.position != (Position { seq: seq - 1, hash: prev }) {
        return Err(unchained(backend, seq));
    }
    state.apply(&entry, hash);
    Ok(state)
}

/// The state, or the first thing that is wrong.
pub(super) fn strict(backend: &dyn Backend, keys: &Keys, monitor: &dyn Monitor) -> Result<State> {
    let mut attempt = 1;
    loop {
        let mut reached = 1;
        match strict_once(backend, keys, monitor, &mut reached) {
            Err(e) if e.kind() == Kind::NotFound && attempt < ATTEMPTS => attempt += 1,
            Err(e) if e.kind() == Kind::NotFound => return Err(missing(backend, reached)),
            done => return done,
        }
    }
}

/// `reached` is the record being read.
fn strict_once(backend: &dyn Backend, keys: &Keys, monitor: &dyn Monitor, reached: &mut u64) -> Result<State> {
    let Some(newest) = numbers(backend)?.last().copied() else {
        return Err(missing(backend, 1));
    };
    *reached = checkpoint_at_or_before(newest);
    let mut state = open_checkpoint(backend, keys, *reached)?;
    while *reached < newest {
        if monitor.cancelled() {
            return Err(Error::new(Kind::Interrupted, "stopped while reading the log"));
        }
        *reached += 1;
        let sound = open(backend, keys, *reached)?;
        if sound.prev != state.position.hash {
            return Err(unchained(backend, *reached));
        }
        state.apply(&sound.entry, sound.hash);
    }
    Ok(state)
}

/// Collects what is wrong: reported at once, the first of it kept.
struct Complaints<'a> {
    monitor: &'a dyn Monitor,
    first: Option<String>,
    /// Each file is complained of once.
    named: BTreeSet<PathBuf>,
}

impl Complaints<'_> {
    /// Takes one in. A newer program's record is no damage: it ends the reading.
    fn add(&mut self, e: Error) -> Result<()> {
        if e.kind() == Kind::NewerFormat {
            return Err(e);
        }
        let path = e.path().unwrap_or(Path::new("log")).to_owned();
        if !self.named.insert(path.clone()) {
            return Ok(());
        }
        Counters::add(&self.monitor.counters().errors, 1);
        self.monitor.event(Event::ItemError { path: &path, during: "read", error: &e });
        self.first.get_or_insert_with(|| format!("{} ({e})", printable(&path)));
        Ok(())
    }
}

/// What is left of a journal.
pub(super) struct Remains {
    /// The state as far as it can be read.
    pub(super) state: State,
    /// The first damage, if there is any.
    pub(super) broken: Option<String>,
    /// Whether there was a checkpoint to start from. Without, the state lacks whatever the lost records said.
    pub(super) begun: bool,
}

pub(super) fn lenient(backend: &dyn Backend, keys: &Keys, monitor: &dyn Monitor) -> Result<Remains> {
    if let Ok(state) = strict(backend, keys, monitor) {
        return Ok(Remains { state, broken: None, begun: true });
    }
    let mut complaints = Complaints { monitor, first: None, named: BTreeSet::new() };
    let numbers = numbers(backend)?;
    let Some(&newest) = numbers.last() else {
        complaints.add(missing(backend, 1))?;
        return Ok(Remains { state: State::default(), broken: complaints.first, begun: false });
    };
    let mut state = newest_checkpoint(backend, keys, &numbers, newest, &mut complaints)?;
    let begun = state.position.seq > 0;
    let mut last = state.position.seq;
    for seq in numbers.into_iter().filter(|seq| *seq > state.position.seq).collect::<Vec<_>>() {
        if seq > last + 1 {
            complaints.add(missing(backend, last + 1))?;
        }
        last = seq;
        match open(backend, keys, seq) {
            Ok(sound) => {
                if state.position.seq + 1 == seq && sound.prev != state.position.hash {
                    complaints.add(unchained(backend, seq))?;
                }
                state.apply(&sound.entry, sound.hash);
            }
            Err(e) => complaints.add(e)?,
        }
    }
    Ok(Remains { state, broken: complaints.first, begun })
}

/// What the newest checkpoint that can be read makes; the empty state if none can.
fn newest_checkpoint(
    backend: &dyn Backend,
    keys: &Keys,
    numbers: &[u64],
    newest: u64,
    complaints: &mut Complaints<'_>,
) -> Result<State> {
    let wanted = checkpoint_at_or_before(newest);
    if numbers.binary_search(&wanted).is_err() {
        complaints.add(missing(backend, wanted))?;
    }
    for &seq in numbers.iter().rev().filter(|seq| checkpoint_at_or_before(**seq) == **seq) {
        match open_checkpoint(backend, keys, seq) {
            Ok(state) => return Ok(state),
            Err(e) => complaints.add(e)?,
        }
    }
    Ok(State::default())
}
