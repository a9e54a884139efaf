//! The journal: sealed, numbered, chained records, and the state they make. It is the truth about everything that packs
//! and manifests do not say.
//!
//! Record `n` is the object `log/<n>`: put if absent, under the commit lock, so two writers cannot both be `n`. Each
//! carries the hash of the one before. Record 1, and every 512th after it, is a checkpoint of the state before it, so a
//! reader starts at the newest; a writer that wrote one deletes what lies before the one before it.

mod audit;
mod load;
mod restart;

use std::sync::Arc;

use parking_lot::Mutex;

use crate::backend::{Area, Backend, Object, Put};
use crate::clock::{self, Clock};
use crate::crypto::keys::{Keys, Object as Sealed};
use crate::error::{Error, Kind, Result};
pub use crate::format::record::Position;
use crate::format::record::{AUDIT_SEGMENT, Entry, Record, SnapshotState, State};
use crate::id::{LogHash, SnapshotId};
use crate::limits::MAX_LOG_RECORD;
use crate::lock::CommitGuard;
use crate::monitor::Monitor;

/// From one checkpoint to the next.
pub const CHECKPOINT_EVERY: u64 = 512;
/// A record's number is taken by another writer at most this often in a row; the commit lock should leave none.
const MAX_CONFLICTS: u32 = 100;

/// How the journal stands to a position that was seen earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// It ends there.
    Same,
    /// It has gone on from there.
    Newer,
    /// It has another record in that place.
    Forked,
    /// It does not reach that far.
    RolledBack,
}

/// What became of a [`Log::replay`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// Every record since was visited.
    Done,
    /// Records that are needed were compacted away.
    TooOld,
    /// The position is not one of this journal's. What was visited must be discarded.
    Diverged,
}

/// An open journal. Shared by threads; other processes' records come in with [`Log::refresh`].
pub struct Log {
    backend: Arc<dyn Backend>,
    keys: Mutex<Arc<Keys>>,
    clock: Mutex<Clock>,
    inner: Mutex<Inner>,
}

struct Inner {
    state: Arc<State>,
    /// Why nothing may be appended, if so.
    broken: Option<String>,
}

/// A record as read, with what chains it.
struct Sound {
    prev: LogHash,
    entry: Entry,
    hash: LogHash,
}

impl Log {
    /// Begins the journal of a new repository, whose newest master key is that of `epoch`.
    ///
    /// # Errors
    /// `Exists` if there is one.
    pub fn create(backend: Arc<dyn Backend>, keys: Arc<Keys>, epoch: u32) -> Result<Log> {
        let log = Log::new(backend, keys, State::default(), None);
        let mut inner = log.inner.lock();
        if log.put(&mut inner, Record::Checkpoint { state: Box::default() })? == Put::Exists {
            return Err(Error::new(Kind::Exists, "a log exists already").at(log.backend.path(&Object::Log(1))));
        }
        if epoch > 0 {
            let at = log.clock().now();
            log.put(&mut inner, Record::KeyEpoch { epoch, at })?;
        }
        drop(inner);
        Ok(log)
    }

    /// Opens the journal, and refuses any damage in the part that makes the state.
    ///
    /// # Errors
    /// `Damaged`, naming the file; `NewerFormat`.
    pub fn load(backend: Arc<dyn Backend>, keys: Arc<Keys>, monitor: &dyn Monitor) -> Result<Log> {
        let state = load::strict(&*backend, &keys, monitor)?;
        Ok(Log::new(backend, keys, state, None))
    }

    /// Opens the journal for reading, skipping damaged records and reporting each. If there were any, nothing can be appended.
    ///
    /// # Errors
    /// If the journal cannot be listed; `NewerFormat`.
    pub fn load_lenient(backend: Arc<dyn Backend>, keys: Arc<Keys>, monitor: &dyn Monitor) -> Result<Log> {
        let load::Remains { state, broken, .. } = load::lenient(&*backend, &keys, monitor)?;
        Ok(Log::new(backend, keys, state, broken))
    }

    /// As [`Log::load_lenient`], but refuses a journal that is lost, or of which no checkpoint can be read: what snapshots
    /// there are it does not say, and none must not be taken for the answer.
    ///
    /// # Errors
    /// `Damaged` for a journal without a beginning; if it cannot be listed; `NewerFormat`.
    pub fn load_readable(backend: Arc<dyn Backend>, keys: Arc<Keys>, monitor: &dyn Monitor) -> Result<Log> {
        let load::Remains { state, broken, begun } = load::lenient(&*backend, &keys, monitor)?;
        if begun {
            return Ok(Log::new(backend, keys, state, broken));
        }
        let first = backend.path(&Object::Log(1));
        let (what, at) = match (load::numbers(&*backend)?.is_empty(), first.parent()) {
            (true, Some(log)) => ("the log has no records: it was lost, or lies on a disk that is not mounted at", log),
            _ => ("the log has lost its beginning, nothing says which snapshots there are:", first.as_path()),
        };
        Err(Error::damaged(what).at(at))
    }

    fn new(backend: Arc<dyn Backend>, keys: Arc<Keys>, state: State, broken: Option<String>) -> Log {
        let inner = Mutex::new(Inner { state: Arc::new(state), broken });
        Log { backend, keys: Mutex::new(keys), clock: Mutex::default(), inner }
    }

    /// Takes times from another clock.
    pub fn with_clock(self, clock: Clock) -> Log {
        self.set_clock(clock);
        self
    }

    /// Takes times from another clock from now on.
    pub fn set_clock(&self, clock: Clock) {
        *self.clock.lock() = clock;
    }

    /// The clock that records' times come from.
    pub fn clock(&self) -> Clock {
        self.clock.lock().clone()
    }

    /// Seals and opens with other keys from now on: those of the repository with another epoch.
    pub fn set_keys(&self, keys: Arc<Keys>) {
        *self.keys.lock() = keys;
    }

    /// The state as of the last load, refresh or append. A cheap copy that does not change.
    pub fn state(&self) -> Arc<State> {
        self.inner.lock().state.clone()
    }

    /// The newest record known.
    pub fn position(&self) -> Position {
        self.inner.lock().state.position
    }

    /// Refuses a clock that cannot be trusted with deleting; [`Record::ClockAccepted`] resets what it is compared with.
    ///
    /// # Errors
    /// `Clock`.
    pub fn check_clock(&self) -> Result<()> {
        clock::trusted(&self.clock(), self.state().newest_time)
    }

    /// Why nothing can be appended, if the journal was loaded with damage.
    pub fn broken(&self) -> Option<String> {
        self.inner.lock().broken.clone()
    }

    /// Has the state speak of snapshots that are recorded elsewhere, in other parts of the repository that are read along with
    /// this one. For reading alone.
    pub fn also(&self, snapshots: impl IntoIterator<Item = (SnapshotId, SnapshotState)>) {
        let mut inner = self.inner.lock();
        let state = Arc::make_mut(&mut inner.state);
        for (id, snapshot) in snapshots {
            state.snapshots.entry(id).or_insert(snapshot);
        }
    }

    /// Takes in what other processes have appended.
    ///
    /// # Errors
    /// `RolledBack` if the journal is no longer the one that was loaded; `Damaged`.
    pub fn refresh(&self) -> Result<()> {
        self.refresh_inner(&mut self.inner.lock())
    }

    /// Appends one record, durably, after taking in what others have appended. When it fails the record may be there
    /// nevertheless: the next refresh tells.
    ///
    /// # Errors
    /// `Damaged` if the journal was loaded with damage, `Usage` for a record that cannot be written, and as [`Log::refresh`].
    pub fn append(&self, _: &CommitGuard, record: Record) -> Result<Position> {
        let mut inner = self.inner.lock();
        let mut checkpointed = false;
        for _ in 0..MAX_CONFLICTS {
            self.refresh_inner(&mut inner)?;
            self.require_appendable(&inner)?;
            if inner.state.position.seq.is_multiple_of(CHECKPOINT_EVERY) {
                let state = Box::new(State::clone(&inner.state));
                checkpointed |= self.put(&mut inner, Record::Checkpoint { state })? == Put::Created;
                continue;
            }
            if inner.state.audit.recent.len() >= AUDIT_SEGMENT {
                let kept = self.keep_audit(&inner.state)?;
                self.put(&mut inner, kept)?;
                continue;
            }
            if self.put(&mut inner, record.clone())? == Put::Created {
                if checkpointed {
                    self.compact(&inner.state);
                }
                return Ok(inner.state.position);
            }
        }
        Err(Error::new(Kind::Locked, "other writers keep appending to the log, in spite of its lock")
            .remedy("end them and try again; this filesystem's locks do not work"))
    }

    /// How this journal stands to a position seen earlier, here or at another copy. Positions further back than the
    /// last 1024 records and 1024 checkpoints are taken for true.
    pub fn extends(&self, seen: &Position) -> Relation {
        let state = self.state();
        let here = state.position;
        match seen.seq.cmp(&here.seq) {
            std::cmp::Ordering::Greater => Relation::RolledBack,
            std::cmp::Ordering::Equal if seen.hash == here.hash => Relation::Same,
            std::cmp::Ordering::Equal => Relation::Forked,
            std::cmp::Ordering::Less => match state.hash_at(seen.seq) {
                Some(hash) if hash != seen.hash => Relation::Forked,
                _ => Relation::Newer,
            },
        }
    }

    /// Visits the records after `from` up to the state's position, with the position each makes, for a view that
    /// stands at `from`.
    ///
    /// # Errors
    /// `Damaged`, and what `visit` returns.
    pub fn replay(&self, from: Position, visit: &mut dyn FnMut(&Entry, Position) -> Result<()>) -> Result<Replay> {
        let state = self.state();
        let known = from == Position::START || state.hash_at(from.seq).is_none_or(|hash| hash == from.hash);
        if from.seq > state.position.seq || !known {
            return Ok(Replay::Diverged);
        }
        let mut at = from;
        for seq in from.seq + 1..=state.position.seq {
            let sound = match self.open(seq) {
                Ok(sound) => sound,
                Err(e) if e.kind() == Kind::NotFound => return Ok(Replay::TooOld),
                Err(e) => return Err(e),
            };
            if sound.prev != at.hash {
                return Ok(Replay::Diverged);
            }
            at = Position { seq, hash: sound.hash };
            visit(&sound.entry, at)?;
        }
        Ok(if at == state.position { Replay::Done } else { Replay::Diverged })
    }

    /// Visits every record that is still there, oldest first, or what is wrong with it.
    ///
    /// # Errors
    /// If the journal cannot be listed, and what `visit` returns.
    pub fn history(&self, visit: &mut dyn FnMut(Result<Entry>) -> Result<()>) -> Result<()> {
        let mut last: Option<Position> = None;
        for seq in load::numbers(&*self.backend)? {
            let found = self.open(seq).and_then(|sound| {
                let gap = last.is_some_and(|last| last.seq + 1 != seq);
                let broken = last.is_some_and(|last| last.hash != sound.prev);
                last = Some(Position { seq, hash: sound.hash });
                match (gap, broken) {
                    (true, _) => Err(load::missing(&*self.backend, seq - 1)),
                    (_, true) => Err(load::unchained(&*self.backend, seq)),
                    _ => Ok(sound.entry),
                }
            });
            match found {
                // Compacted away since it was listed.
                Err(e) if e.kind() == Kind::NotFound => last = None,
                found => visit(found)?,
            }
        }
        Ok(())
    }

    fn open(&self, seq: u64) -> Result<Sound> {
        let keys = self.keys.lock().clone();
        load::open(&*self.backend, &keys, seq)
    }

    fn refresh_inner(&self, inner: &mut Inner) -> Result<()> {
        loop {
            let at = inner.state.position;
            match self.open(at.seq + 1) {
                Ok(sound) if sound.prev == at.hash => {
                    Arc::make_mut(&mut inner.state).apply(&sound.entry, sound.hash);
                }
                Ok(_) => return Err(self.changed(at.seq + 1)),
                Err(e) if e.kind() == Kind::NotFound => break,
                Err(e) => return Err(e),
            }
        }
        // Compaction removes the oldest first: if the next record went that way, so did this one.
        let at = inner.state.position;
        if self.backend.size(&Object::Log(at.seq))?.is_none() {
            self.reload(inner)?;
        }
        Ok(())
    }

    /// Starts from a newer checkpoint, after others have compacted away what comes next.
    fn reload(&self, inner: &mut Inner) -> Result<()> {
        let keys = self.keys.lock().clone();
        let state = load::strict(&*self.backend, &keys, &crate::monitor::Void::default())?;
        let at = inner.state.position;
        if state.position.seq <= at.seq || state.hash_at(at.seq).is_some_and(|hash| hash != at.hash) {
            return Err(self.changed(at.seq));
        }
        inner.state = Arc::new(state);
        Ok(())
    }

    /// Refuses to append to a journal that was loaded with damage, or that is not the one that was loaded.
    fn require_appendable(&self, inner: &Inner) -> Result<()> {
        if let Some(why) = &inner.broken {
            return Err(Error::damaged(format!("the log is damaged and cannot be continued: {why}")));
        }
        let at = inner.state.position;
        let newest = self.backend.read_all(&Object::Log(at.seq), MAX_LOG_RECORD)?;
        if load::hash(&newest) != at.hash {
            return Err(self.changed(at.seq));
        }
        // A restart that was killed leaves what lies before its checkpoint, where no reader looks any more.
        let restarted = Object::Log(load::checkpoint_at_or_before(at.seq) + CHECKPOINT_EVERY);
        match self.backend.size(&restarted)? {
            Some(_) => Err(self.changed(at.seq)),
            None => Ok(()),
        }
    }

    fn changed(&self, seq: u64) -> Error {
        Error::new(Kind::RolledBack, "the repository was replaced by an older or other copy while it was in use:")
            .at(self.backend.path(&Object::Log(seq)))
            .remedy("run the command again")
    }

    /// Writes the next record, unless another writer was first.
    fn put(&self, inner: &mut Inner, record: Record) -> Result<Put> {
        let at = inner.state.position;
        let clock = self.clock();
        let trusted = clock::trusted(&clock, inner.state.newest_time).is_ok();
        let entry = Entry { seq: at.seq + 1, time: clock.now(), trusted, record };
        let plain = entry.encode(&at.hash)?;
        let sealed = self.keys.lock().seal(Sealed::LogRecord, &entry.seq.to_le_bytes(), &plain);
        if sealed.len() > MAX_LOG_RECORD {
            return Err(Error::new(Kind::Unsupported, "a record of the log would be too large"));
        }
        let put = self.backend.put(&Object::Log(entry.seq), &sealed)?;
        if put == Put::Created {
            Arc::make_mut(&mut inner.state).apply(&entry, load::hash(&sealed));
        }
        Ok(put)
    }

    /// Deletes the records before the checkpoint before the newest. What fails is left to the next compaction: these
    /// records are needed no more, and the append that led here has succeeded.
    fn compact(&self, state: &State) {
        let newest = load::checkpoint_at_or_before(state.position.seq);
        let keep_from = newest.saturating_sub(CHECKPOINT_EVERY);
        let Ok(numbers) = load::numbers(&*self.backend) else { return };
        let old = numbers.into_iter().take_while(|seq| *seq < keep_from);
        // Oldest first, so that there is never a gap.
        let deleted = old.map(Object::Log).try_for_each(|object| self.backend.delete(&object));
        let _ = deleted.and_then(|()| self.backend.sync_deletes(Area::Log));
    }
}

#[cfg(test)]
mod tests;
