//! A writer's session: the record that it works, the lock that it lives, and the limit of both.
//!
//! A session that is dropped without [`Session::end`] is what a crash leaves: its lock is free, its record open. The next
//! writer ends it with [`adopt_dead`]; the packs it recorded stay, so an interrupted backup stores nothing twice.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use crate::clock::Time;
use crate::error::{Error, Kind, Result};
use crate::format::record::{Origin, Outcome, PackRef, Position, Record, SESSION_LIFE, SessionState, State};
use crate::id::{SessionId, SnapshotId, random_bytes};
use crate::lock::{COMMIT_WAIT, CommitGuard, Locks, Patience, SessionGuard};
use crate::log::Log;

/// A snapshot whose manifest is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSnapshot {
    /// Its id.
    pub snapshot: SnapshotId,
    /// Where a pool has it from.
    pub origin: Option<Origin>,
    /// The host it is of.
    pub host: String,
    /// Its source there.
    pub source: String,
    /// When the host captured it.
    pub captured: Time,
    /// When the first repository recorded it.
    pub recorded: Time,
    /// Its tags.
    pub tags: Vec<String>,
    /// BLAKE3 of the sealed manifest.
    pub manifest_hash: [u8; 32],
}

/// A living writer. Shared by the threads of one operation.
pub struct Session {
    id: SessionId,
    log: Arc<Log>,
    locks: Locks,
    guard: SessionGuard,
    patience: Arc<Patience>,
    /// When its life was last prolonged, by a clock that nobody sets.
    prolonged: Mutex<Instant>,
}

impl Session {
    /// Begins a session: durable when this returns. `purpose` is a word for people ("backup", "prune"); `parent` is the
    /// snapshot it builds on, which stays a root while it lasts. Whoever begins one must then bring its view of the
    /// index up to the log's position, so that it sees what is condemned.
    ///
    /// # Errors
    /// `Locked`, and as [`Log::append`].
    pub fn begin(log: Arc<Log>, locks: Locks, purpose: &str, parent: Option<SnapshotId>) -> Result<Session> {
        let commit = locks.commit(COMMIT_WAIT)?;
        log.refresh()?;
        let guard = free_number(&log.state(), &locks, || u32::from_le_bytes(random_bytes()))?;
        let id = SessionId::random();
        let at = log.clock().now();
        let begin = Record::SessionBegin {
            session: id,
            number: guard.number(),
            purpose: purpose.to_owned(),
            host: host_name(),
            pid: std::process::id(),
            parent,
            at,
            expires: at.plus(SESSION_LIFE),
        };
        log.append(&commit, begin)?;
        drop(commit);
        let patience = Arc::new(Patience::new(COMMIT_WAIT));
        Ok(Session { id, log, locks, guard, patience, prolonged: Mutex::new(Instant::now()) })
    }

    /// Waits for others' commits as `patience` says from now on, instead of [`COMMIT_WAIT`].
    pub fn with_patience(mut self, patience: Arc<Patience>) -> Session {
        self.patience = patience;
        self
    }

    /// Its id.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// The number of the lock it holds.
    pub fn number(&self) -> u32 {
        self.guard.number()
    }

    /// The journal it writes to.
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// Records packs that are durable, and the roll-up that holds their footers. Prolongs the session's life.
    ///
    /// # Errors
    /// `Refused` after expiry, and as [`Log::append`].
    pub fn packs_added(&self, rollup: u64, packs: Vec<PackRef>) -> Result<Position> {
        let position = self.commit(|session| Record::PacksAdded { session, rollup, packs })?;
        *self.prolonged.lock() = Instant::now();
        Ok(position)
    }

    /// Records a snapshot whose manifest, and all it reaches, is durable. This is the moment it exists.
    ///
    /// # Errors
    /// `Refused` after expiry, and as [`Log::append`].
    pub fn snapshot_recorded(&self, new: NewSnapshot) -> Result<Position> {
        self.commit(|session| Record::SnapshotRecorded {
            session,
            origin: new.origin,
            snapshot: new.snapshot,
            recorded: new.recorded,
            host: new.host,
            source: new.source,
            captured: new.captured,
            tags: new.tags,
            manifest_hash: new.manifest_hash,
        })
    }

    /// Appends any record of this session's work, if it may still commit.
    ///
    /// # Errors
    /// `Refused` after expiry, and as [`Log::append`].
    pub fn commit(&self, record: impl FnOnce(SessionId) -> Record) -> Result<Position> {
        let commit = self.begin_commit()?;
        self.log.append(&commit, record(self.id))
    }

    /// The commit lock, with the journal brought up to date and this session found alive: for deciding and appending as
    /// one step.
    ///
    /// # Errors
    /// `Refused` after expiry, and as [`Locks::commit_patiently`].
    pub fn begin_commit(&self) -> Result<CommitGuard> {
        let commit = self.locks.commit_patiently(&self.patience)?;
        self.log.refresh()?;
        self.require_alive()?;
        Ok(commit)
    }

    /// Ends the session and lets its lock go.
    ///
    /// # Errors
    /// As [`Log::append`]; the lock is let go nevertheless, and the session counts as dead.
    pub fn end(self, outcome: Outcome) -> Result<Position> {
        let commit = self.locks.commit_patiently(&self.patience)?;
        self.log.append(&commit, Record::SessionEnd { session: self.id, outcome })
    }

    fn require_alive(&self) -> Result<()> {
        let state = self.log.state();
        // Both clocks: one set back must not lengthen a session's life.
        let expired = match state.sessions.get(&self.id) {
            Some(own) => self.log.clock().now() >= own.expires || self.prolonged.lock().elapsed() >= SESSION_LIFE,
            None => true,
        };
        if expired {
            return Err(Error::new(Kind::Refused, "this command stored nothing for 72 hours and was given up")
                .remedy("run the command again; what is stored already will not be stored again"));
        }
        Ok(())
    }
}

/// The lock of a number that no open session has: with a dead one's the dead would seem alive.
fn free_number(state: &State, locks: &Locks, mut draw: impl FnMut() -> u32) -> Result<SessionGuard> {
    loop {
        let number = draw();
        if state.sessions.values().any(|open| open.number == number) {
            continue;
        }
        if let Some(guard) = locks.session(number)? {
            return Ok(guard);
        }
    }
}

/// Who works here: a user and a machine.
pub fn who() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map(|user| user.name);
    format!("{}@{}", user.as_deref().unwrap_or("unknown"), host_name())
}

fn host_name() -> String {
    match nix::unistd::gethostname() {
        Ok(name) => name.to_string_lossy().into_owned(),
        Err(_) => "unknown".into(),
    }
}

/// The open sessions whose process is gone.
///
/// # Errors
/// If a lock cannot be tested.
pub fn dead_sessions(state: &State, locks: &Locks) -> Result<Vec<(SessionId, SessionState)>> {
    let mut dead = Vec::new();
    for (id, session) in &state.sessions {
        if !locks.session_alive(session.number)? {
            dead.push((*id, session.clone()));
        }
    }
    Ok(dead)
}

/// The open sessions that can still commit at `now`: alive and not expired.
///
/// # Errors
/// If a lock cannot be tested.
pub fn living_sessions(state: &State, locks: &Locks, now: Time) -> Result<Vec<(SessionId, SessionState)>> {
    let mut living = Vec::new();
    for (id, session) in &state.sessions {
        if now < session.expires && locks.session_alive(session.number)? {
            living.push((*id, session.clone()));
        }
    }
    Ok(living)
}

/// Ends the sessions whose process is gone, keeping the packs they recorded, and returns them.
///
/// # Errors
/// As [`Log::append`].
pub fn adopt_dead(log: &Log, locks: &Locks) -> Result<Vec<(SessionId, SessionState)>> {
    if dead_sessions(&log.state(), locks)?.is_empty() {
        return Ok(Vec::new());
    }
    let commit = locks.commit(COMMIT_WAIT)?;
    log.refresh()?;
    // Again, under the lock: one may have ended meanwhile.
    let dead = dead_sessions(&log.state(), locks)?;
    for (session, _) in &dead {
        log.append(&commit, Record::SessionEnd { session: *session, outcome: Outcome::Adopted })?;
    }
    Ok(dead)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::backend::memory::Memory;
    use crate::clock::Clock;
    use crate::crypto::keys::{FrameKind, Keyring, Keys};
    use crate::id::{PackId, RepoId};

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn repository() -> (Arc<Log>, Locks, Clock) {
        let keys = Arc::new(Keys::derive(&Keyring::generate(), RepoId::random()));
        let clock = Clock::manual(Time::now(), true);
        let log = Log::create(Arc::new(Memory::new()), keys, 0).unwrap().with_clock(clock.clone());
        (Arc::new(log), Locks::memory(), clock)
    }

    fn begin(log: &Arc<Log>, locks: &Locks) -> Session {
        Session::begin(log.clone(), locks.clone(), "backup", Some(SnapshotId([1; 32]))).unwrap()
    }

    fn pack() -> PackRef {
        PackRef { id: PackId::random(), size: 100, footer_len: 10, kind: FrameKind::Data }
    }

    fn snapshot() -> NewSnapshot {
        NewSnapshot {
            snapshot: SnapshotId::random(),
            origin: None,
            host: "web1".into(),
            source: "srv-data".into(),
            captured: Time(1),
            recorded: Time(2),
            tags: vec!["daily".into()],
            manifest_hash: [3; 32],
        }
    }

    #[test]
    fn a_session_leaves_its_packs_and_snapshot() {
        let (log, locks, clock) = repository();
        let session = begin(&log, &locks);
        session.packs_added(7, vec![pack(), pack()]).unwrap();
        let new = snapshot();
        session.snapshot_recorded(new.clone()).unwrap();
        let state = log.state();
        let open = &state.sessions[&session.id()];
        assert_eq!((open.packs, open.number, open.pid), (2, session.number(), std::process::id()));
        assert_eq!((open.parent, state.newest_rollup), (Some(SnapshotId([1; 32])), 7));
        let kept = &state.snapshots[&new.snapshot];
        assert_eq!((kept.host.as_str(), kept.captured, kept.received), ("web1", Time(1), clock.now()));
        session.end(Outcome::Done).unwrap();
        assert!(log.state().sessions.is_empty());
    }

    #[test]
    fn a_dropped_session_is_dead_and_adopted_once() {
        let (log, locks, clock) = repository();
        let living = begin(&log, &locks);
        let dying = begin(&log, &locks);
        dying.packs_added(1, vec![pack()]).unwrap();
        assert!(adopt_dead(&log, &locks).unwrap().is_empty());
        assert_eq!(living_sessions(&log.state(), &locks, clock.now()).unwrap().len(), 2);
        let dead = dying.id();
        drop(dying);
        assert_eq!(dead_sessions(&log.state(), &locks).unwrap()[0].0, dead);
        let adopted = adopt_dead(&log, &locks).unwrap();
        assert_eq!((adopted.len(), adopted[0].1.packs), (1, 1));
        assert!(adopt_dead(&log, &locks).unwrap().is_empty());
        assert_eq!(log.state().sessions.keys().collect::<Vec<_>>(), [&living.id()]);
    }

    #[test]
    fn an_expired_session_cannot_commit_but_packs_prolong_it() {
        let (log, locks, clock) = repository();
        let session = begin(&log, &locks);
        let start = clock.now();
        clock.set(start.plus(2 * DAY));
        session.packs_added(1, vec![pack()]).unwrap();
        clock.set(start.plus(4 * DAY));
        session.packs_added(2, vec![pack()]).unwrap();
        clock.set(start.plus(7 * DAY));
        assert!(living_sessions(&log.state(), &locks, clock.now()).unwrap().is_empty());
        assert!(dead_sessions(&log.state(), &locks).unwrap().is_empty());
        assert_eq!(session.packs_added(3, vec![pack()]).unwrap_err().kind(), Kind::Refused);
        assert_eq!(session.snapshot_recorded(snapshot()).unwrap_err().kind(), Kind::Refused);
        assert!(log.state().snapshots.is_empty());
        session.end(Outcome::Failed).unwrap();
    }

    #[test]
    fn a_session_that_was_ended_by_another_cannot_commit() {
        let (log, locks, _) = repository();
        let session = begin(&log, &locks);
        let end = Record::SessionEnd { session: session.id(), outcome: Outcome::Adopted };
        log.append(&locks.commit(COMMIT_WAIT).unwrap(), end).unwrap();
        assert_eq!(session.packs_added(1, vec![pack()]).unwrap_err().kind(), Kind::Refused);
    }

    #[test]
    fn a_number_that_a_dead_or_living_session_has_is_not_used() {
        let (log, locks, _) = repository();
        let dead = begin(&log, &locks).number();
        let living = begin(&log, &locks);
        let mut drawn = [dead, living.number(), 77].into_iter();
        assert_eq!(free_number(&log.state(), &locks, || drawn.next().unwrap()).unwrap().number(), 77);
        let mut drawn = [living.number(), 78].into_iter();
        assert_eq!(free_number(&State::default(), &locks, || drawn.next().unwrap()).unwrap().number(), 78);
    }
}
