//! Locks between processes: single bytes of the repository's `lock` file, let go however their holder ends.
//!
//! Who takes which, and in what order, is the table in `docs/locking.md`: prune, then session, then commit.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::backend::{is_locked, try_lock};
use crate::error::{Error, Kind, Result};
use crate::monitor::Monitor;

/// How long a commit waits for others' commits, each of which takes a few writes.
pub const COMMIT_WAIT: Duration = Duration::from_secs(60);

/// How a writer waits for the commit lock: for how long, and whether it still should. Shared with whoever may call that off.
pub struct Patience {
    limit: Duration,
    over: AtomicBool,
    gave_up: AtomicBool,
    since: Mutex<Option<Instant>>,
}

impl Patience {
    /// Up to `limit` each time.
    pub fn new(limit: Duration) -> Patience {
        let (over, gave_up) = (AtomicBool::new(false), AtomicBool::new(false));
        Patience { limit, over, gave_up, since: Mutex::new(None) }
    }

    /// From now on a wait is for an ordinary commit, of a moment.
    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Whether a wait was given up since it was called off: what was to be committed then is not.
    pub fn gave_up(&self) -> bool {
        self.gave_up.load(Ordering::Relaxed)
    }

    /// How long the wait at hand lasts already.
    pub fn waits(&self) -> Option<Duration> {
        self.since.lock().map(|since| since.elapsed())
    }
}

/// Held while a log record is appended.
const COMMIT: u64 = 0;
/// Held by the one prune.
const PRUNE: u64 = 1;
// Byte 2 is the local backend's, for publishing where a filesystem cannot rename without replacing.
/// Held by the one export to a drive.
const EXPORT: u64 = 3;
/// A session holds the byte this far up, plus its number.
const SESSIONS: u64 = 1 << 32;
/// Who derives what a tenant owns holds the byte this far up, plus the tenant's number.
const DERIVING: u64 = 1 << 33;

/// The locks of one repository. Clones are the same locks; every guard is separate, also within one process.
#[derive(Clone)]
pub struct Locks(Arc<Place>);

enum Place {
    File(PathBuf),
    Memory(Mutex<BTreeSet<u64>>),
    ReadOnly(PathBuf),
}

impl Locks {
    /// On the bytes of the file at `path`, which exists.
    pub fn file(path: &Path) -> Locks {
        Locks(Arc::new(Place::File(path.to_owned())))
    }

    /// Within this process, for repositories in memory.
    pub fn memory() -> Locks {
        Locks(Arc::new(Place::Memory(Mutex::new(BTreeSet::new()))))
    }

    /// For a repository open for reading: nothing can be locked, and every session counts as alive.
    pub fn read_only(root: &Path) -> Locks {
        Locks(Arc::new(Place::ReadOnly(root.to_owned())))
    }

    /// The commit lock, waiting up to `wait` for it.
    ///
    /// # Errors
    /// `Locked` when the wait is over.
    pub fn commit(&self, wait: Duration) -> Result<CommitGuard> {
        self.hold(COMMIT, wait, "another process is committing").map(CommitGuard)
    }

    /// The commit lock, waiting for it as `patience` says.
    ///
    /// # Errors
    /// `Locked` when the wait is over; `Interrupted` when it was called off.
    pub fn commit_patiently(&self, patience: &Patience) -> Result<CommitGuard> {
        const LOOK: Duration = Duration::from_millis(100);
        const MOMENT: Duration = Duration::from_secs(2);
        let start = Instant::now();
        *patience.since.lock() = Some(start);
        let result = loop {
            match self.commit(LOOK.min(patience.limit.saturating_sub(start.elapsed()))) {
                Err(e) if e.kind() == Kind::Locked && start.elapsed() < patience.limit => {
                    if patience.over.load(Ordering::Relaxed) && start.elapsed() >= MOMENT {
                        patience.gave_up.store(true, Ordering::Relaxed);
                        break Err(e.with_kind(Kind::Interrupted));
                    }
                }
                other => break other,
            }
        };
        *patience.since.lock() = None;
        result
    }

    /// The prune lock, waiting up to `wait` for it.
    ///
    /// # Errors
    /// `Locked` when the wait is over.
    pub fn prune(&self, wait: Duration) -> Result<PruneGuard> {
        self.hold(PRUNE, wait, "another prune is running").map(PruneGuard)
    }

    /// The lock for writing to a drive what is on no other.
    ///
    /// # Errors
    /// `Locked` if another has it.
    pub fn export(&self) -> Result<ExportGuard> {
        self.hold(EXPORT, Duration::ZERO, "another drive is being written to").map(ExportGuard)
    }

    /// The lock for deriving what the tenant with this number owns, waiting as long as that takes.
    ///
    /// # Errors
    /// `Interrupted`; `ReadOnly` where nothing can be locked.
    pub fn deriving(&self, tenant: u32, monitor: &dyn Monitor) -> Result<DerivingGuard> {
        loop {
            match self.hold(DERIVING + u64::from(tenant), Duration::from_millis(200), "another derives that") {
                Err(e) if e.kind() == Kind::Locked && monitor.cancelled() => return Err(e.with_kind(Kind::Interrupted)),
                Err(e) if e.kind() == Kind::Locked => {}
                other => return other.map(DerivingGuard),
            }
        }
    }

    /// The lock of the session with this number; none if another holds it.
    pub fn session(&self, number: u32) -> Result<Option<SessionGuard>> {
        Ok(self.try_hold(SESSIONS + u64::from(number))?.map(SessionGuard))
    }

    /// Whether a living process holds the session with this number.
    pub fn session_alive(&self, number: u32) -> Result<bool> {
        let byte = SESSIONS + u64::from(number);
        match &*self.0 {
            Place::File(path) => {
                let file = open(path)?;
                is_locked(&file, byte).map_err(|e| no_locks(path, e))
            }
            Place::Memory(held) => Ok(held.lock().contains(&byte)),
            Place::ReadOnly(_) => Ok(true),
        }
    }

    fn hold(&self, byte: u64, wait: Duration, busy: &'static str) -> Result<Held> {
        let start = Instant::now();
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(held) = self.try_hold(byte)? {
                return Ok(held);
            }
            let left = wait.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Err(Error::new(Kind::Locked, busy).remedy("try again later"));
            }
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    fn try_hold(&self, byte: u64) -> Result<Option<Held>> {
        match &*self.0 {
            Place::File(path) => {
                // Opened anew for each guard: two guards of one process exclude each other too.
                let file = open(path)?;
                let locked = try_lock(&file, byte).map_err(|e| no_locks(path, e))?;
                Ok(locked.then(|| Held { _file: Some(file), place: self.0.clone(), byte }))
            }
            Place::Memory(held) => {
                let locked = held.lock().insert(byte);
                Ok(locked.then(|| Held { _file: None, place: self.0.clone(), byte }))
            }
            Place::ReadOnly(root) => {
                Err(Error::new(Kind::ReadOnly, "the repository is open for reading only, cannot lock").at(root))
            }
        }
    }
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new().write(true).open(path).map_err(|e| Error::io("open", path, e))
}

fn no_locks(path: &Path, e: io::Error) -> Error {
    let unsupported = matches!(e.raw_os_error(), Some(libc::ENOLCK | libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL));
    let error = Error::io("lock", path, e);
    if unsupported {
        error.with_kind(Kind::Unsupported).remedy("the filesystem must support file locks")
    } else {
        error
    }
}

/// One byte held until this is dropped; the file's end of life is the lock's.
struct Held {
    _file: Option<File>,
    place: Arc<Place>,
    byte: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Place::Memory(held) = &*self.place {
            held.lock().remove(&self.byte);
        }
    }
}

/// Held while it is derived what a tenant owns.
pub struct DerivingGuard(#[expect(dead_code, reason = "held for its drop")] Held);

/// The commit lock: appending to the log asks for it. Held for a few writes at most.
pub struct CommitGuard(#[expect(dead_code, reason = "held for its drop")] Held);

/// Held while a drive is written to.
pub struct ExportGuard(#[expect(dead_code, reason = "held for its drop")] Held);

/// The prune lock.
pub struct PruneGuard(#[expect(dead_code, reason = "held for its drop")] Held);

/// A session's lock: while it is held, the session lives.
pub struct SessionGuard(Held);

impl SessionGuard {
    /// The session's number.
    pub fn number(&self) -> u32 {
        (self.0.byte - SESSIONS) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Command, Stdio};

    const NOW: Duration = Duration::ZERO;

    fn exclude_each_other(locks: &Locks) {
        let again = locks.clone();
        let commit = locks.commit(NOW).unwrap();
        assert_eq!(again.commit(NOW).err().unwrap().kind(), Kind::Locked);
        let prune = again.prune(NOW).unwrap();
        assert_eq!(locks.prune(Duration::from_millis(5)).err().unwrap().kind(), Kind::Locked);
        drop((commit, prune));
        drop((locks.commit(NOW).unwrap(), locks.prune(NOW).unwrap()));

        assert!(!locks.session_alive(u32::MAX).unwrap());
        let session = locks.session(u32::MAX).unwrap().unwrap();
        assert_eq!(session.number(), u32::MAX);
        assert!(again.session_alive(u32::MAX).unwrap());
        assert!(again.session(u32::MAX).unwrap().is_none());
        assert!(again.session(0).unwrap().is_some());
        drop(session);
        assert!(!locks.session_alive(u32::MAX).unwrap());
    }

    #[test]
    fn a_patient_writer_waits_until_it_is_called_off() {
        let locks = Locks::memory();
        let held = locks.commit(NOW).unwrap();
        let short = Patience::new(Duration::from_millis(150));
        assert_eq!(locks.commit_patiently(&short).err().unwrap().kind(), Kind::Locked);
        let patience = Patience::new(Duration::from_secs(3600));
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| locks.commit_patiently(&patience).err().map(|e| e.kind()));
            while patience.waits().is_none_or(|waited| waited < Duration::from_millis(200)) {
                std::thread::sleep(Duration::from_millis(5));
            }
            assert!(!waiter.is_finished() && !patience.gave_up());
            patience.end();
            assert_eq!(waiter.join().unwrap(), Some(Kind::Interrupted));
        });
        assert!(patience.gave_up());
        drop(held);
        // What is free is taken all the same: a stopped backup still closes its session.
        assert!(locks.commit_patiently(&patience).is_ok());
        assert!(patience.waits().is_none());
    }

    fn lock_file(dir: &Path) -> PathBuf {
        let path = dir.join("lock");
        File::create(&path).unwrap();
        path
    }

    #[test]
    fn guards_exclude_each_other_in_one_process() {
        let dir = tempfile::tempdir().unwrap();
        exclude_each_other(&Locks::file(&lock_file(dir.path())));
        exclude_each_other(&Locks::memory());
    }

    #[test]
    fn a_waiter_gets_the_lock_when_it_is_let_go() {
        let dir = tempfile::tempdir().unwrap();
        for locks in [Locks::file(&lock_file(dir.path())), Locks::memory()] {
            let held = locks.commit(NOW).unwrap();
            std::thread::scope(|scope| {
                let waiter = scope.spawn(|| locks.commit(COMMIT_WAIT).is_ok());
                std::thread::sleep(Duration::from_millis(20));
                drop(held);
                assert!(waiter.join().unwrap());
            });
        }
    }

    #[test]
    fn a_reader_locks_nothing_and_calls_all_alive() {
        let locks = Locks::read_only(Path::new("/r"));
        assert_eq!(locks.commit(NOW).err().unwrap().kind(), Kind::ReadOnly);
        assert!(locks.session_alive(1).unwrap());
    }

    /// The other process of the test below: holds two locks until its input ends.
    #[test]
    #[ignore = "run by another test"]
    fn holder() {
        let Some(path) = std::env::var_os("HOLD_LOCKS_OF") else { return };
        let locks = Locks::file(Path::new(&path));
        let _held = (locks.commit(NOW).unwrap(), locks.session(7).unwrap().unwrap());
        println!("\nholding");
        std::io::stdout().flush().unwrap();
        let _ = std::io::stdin().read_line(&mut String::new());
    }

    #[test]
    fn locks_hold_between_processes_and_end_with_a_killed_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = lock_file(dir.path());
        let mut other = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "lock::tests::holder", "--ignored", "--nocapture"])
            .env("HOLD_LOCKS_OF", &path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(other.stdout.take().unwrap()).lines();
        assert!(lines.map_while(|line| line.ok()).any(|line| line == "holding"));
        let locks = Locks::file(&path);
        assert_eq!(locks.commit(NOW).err().unwrap().kind(), Kind::Locked);
        assert!(locks.session_alive(7).unwrap());
        assert!(locks.prune(NOW).is_ok());
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(locks.commit(NOW).is_ok());
        assert!(!locks.session_alive(7).unwrap());
    }
}
