//! The index directory: its files, its locks, and the judgement whether LMDB may map what is there.
//!
//! | file | use |
//! | --- | --- |
//! | `state` | the stamp of the current generation's `data.mdb`, and the opening marker |
//! | `write.lock` | exclusively held by a writer for one transaction (and by readers that cannot use LMDB's locks, shared) |
//! | `open.lock` | exclusively held while a generation is opened, made or swept |
//! | `g-<16 hex>/` | a generation: `data.mdb`, LMDB's `lock.mdb`, and `users.lock`, shared by every process that has it open |
//!
//! Locks are taken in the order `write.lock`, `open.lock`; whoever needs them the other way round only tries.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::state::{Found, Marker, STATE_LEN, Stamp, State, Status, boot_id};
use crate::error::{Error, Kind, Result};
use crate::id::RepoId;

/// How long to wait for another process's transaction before giving up.
const PATIENCE: Duration = Duration::from_secs(120);

/// An index directory.
#[derive(Clone, Debug)]
pub(super) struct Room {
    dir: PathBuf,
}

/// What became of looking at an index directory.
pub(super) enum Verdict {
    /// LMDB may map this generation.
    Use(State),
    /// There is no index.
    Missing,
    /// There is one, but it must be rebuilt.
    Unusable(String),
}

impl Room {
    /// The index directory `dir`, which need not exist.
    pub fn new(dir: &Path) -> Room {
        Room { dir: dir.to_owned() }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The `state` file.
    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// A generation's directory.
    pub fn generation(&self, generation: u64) -> PathBuf {
        self.dir.join(format!("g-{generation:016x}"))
    }

    /// A generation's data file.
    pub fn data(&self, generation: u64) -> PathBuf {
        self.generation(generation).join("data.mdb")
    }

    /// Whether this process may write here. Decides how LMDB is opened.
    pub fn writable(&self) -> Result<bool> {
        let state = self.state();
        match File::options().read(true).write(true).open(&state) {
            Ok(_) => Ok(true),
            Err(e) if is_read_only(&e) => Ok(false),
            Err(e) => Err(Error::io("open", state, e)),
        }
    }

    /// Waits for the turn to write; released when dropped.
    pub fn lock_writing(&self) -> Result<File> {
        let path = self.dir.join("write.lock");
        let file = lock_file(&path)?;
        wait_for(&file, &path, true)?;
        Ok(file)
    }

    /// The turn to write, if nobody has it.
    pub fn try_lock_writing(&self) -> Result<Option<File>> {
        let path = self.dir.join("write.lock");
        let file = lock_file(&path)?;
        Ok(try_for(&file, &path, true)?.then_some(file))
    }

    /// Waits for the turn to open, make or sweep generations; released when dropped.
    pub fn lock_opening(&self) -> Result<File> {
        let path = self.dir.join("open.lock");
        let file = lock_file(&path)?;
        wait_for(&file, &path, true)?;
        Ok(file)
    }

    /// Whether the current generation may be mapped. `Err` only where the system fails to say.
    pub fn judge(&self, repo: RepoId) -> Result<Verdict> {
        let started = Instant::now();
        let write_lock = self.dir.join("write.lock");
        loop {
            if !self.exists()? {
                return Ok(Verdict::Missing);
            }
            // Taken first: while it is held, `state` and `data.mdb` cannot move.
            let lock = match File::open(&write_lock) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    return Ok(Verdict::Unusable("the file write.lock is missing".into()));
                }
                Err(e) => return Err(Error::io("open", write_lock, e)),
            };
            let quiet = try_for(&lock, &write_lock, false)?;
            let why = match self.look(repo, quiet)? {
                Ok(state) => return Ok(Verdict::Use(state)),
                Err(why) => why,
            };
            if quiet {
                return Ok(Verdict::Unusable(why));
            }
            // A writer is between its stamp and its release, or just begins: look again.
            if started.elapsed() > PATIENCE {
                let message = "another process keeps writing to the index at";
                return Err(Error::new(Kind::Locked, message).at(&self.dir).remedy("try again when it has ended"));
            }
            drop(lock);
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// One look; `quiet` tells that no writer is at work.
    fn look(&self, repo: RepoId, quiet: bool) -> Result<std::result::Result<State, String>> {
        let state = match State::read(&self.state())? {
            Found::State(state) => state,
            Found::Nothing => return Ok(Err("the file state is missing".into())),
            Found::Torn => return Ok(Err("the file state is damaged".into())),
        };
        if state.repo != repo {
            return Ok(Err("it is the index of another repository".into()));
        }
        let boot = boot_id();
        if quiet && self.died_opening(state.generation, &boot)? {
            return Ok(Err("a process died while it opened the index".into()));
        }
        Ok(self.compare(&state, &boot)?.map(|_| state))
    }

    /// Compares `data.mdb` with its stamp, as far as the state promises anything. Returns the stamp as it is now.
    pub fn compare(&self, state: &State, boot: &[u8; 32]) -> Result<std::result::Result<Stamp, String>> {
        let data = self.data(state.generation);
        let now = match Stamp::of(&data).map_err(|e| Error::io("read", &data, e))? {
            Ok(now) => now,
            Err(why) => return Ok(Err(why.into())),
        };
        match state.status {
            Status::Distrusted => return Ok(Err("an earlier command found it damaged".into())),
            Status::Clean if now == state.stamp => {}
            Status::Clean => return Ok(Err(state.stamp.difference(&now).into())),
            Status::Dirty if state.boot != *boot => {
                return Ok(Err("the machine went down while it was being written".into()));
            }
            // The writer works now, or its process died. LMDB's own order of writing keeps the file sound then; only
            // what no writer of ours ever does can be excluded.
            Status::Dirty if now.inode != state.stamp.inode || now.length < state.stamp.length => {
                return Ok(Err(state.stamp.difference(&now).into()));
            }
            Status::Dirty => {}
        }
        Ok(Ok(now))
    }

    /// Whether the marker stands although nobody is opening.
    fn died_opening(&self, generation: u64, boot: &[u8; 32]) -> Result<bool> {
        let is_set = || Marker::is_set(&self.state(), generation, boot);
        let path = self.dir.join("open.lock");
        if !is_set() {
            return Ok(false);
        }
        match File::open(&path) {
            // Looked at again under the lock: who set it may just have ended well.
            Ok(file) => Ok(try_for(&file, &path, false)? && is_set()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(e) => Err(Error::io("open", path, e)),
        }
    }

    fn exists(&self) -> Result<bool> {
        match self.state().symlink_metadata() {
            Ok(_) => return Ok(true),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(e) => return Err(Error::io("look at", self.state(), e)),
        }
        Ok(!self.generations()?.is_empty())
    }

    /// Every generation that lies here, current or not.
    pub fn generations(&self) -> Result<Vec<u64>> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => {
                let error = Error::io("list", &self.dir, e);
                return Err(error.remedy("make sure that this is a directory, or name another with --index-dir"));
            }
        };
        let mut found = Vec::new();
        for entry in entries {
            let name = entry.map_err(|e| Error::io("list", &self.dir, e))?.file_name();
            let digits = name.to_str().and_then(|n| n.strip_prefix("g-")).filter(|n| n.len() == 16);
            found.extend(digits.and_then(|n| u64::from_str_radix(n, 16).ok()));
        }
        Ok(found)
    }

    /// Removes generations that are not current and that no process has open. The caller holds the opening turn.
    /// What cannot be removed stays for the next sweep.
    pub fn sweep(&self, current: u64) -> Result<()> {
        for generation in self.generations()?.into_iter().filter(|g| *g != current) {
            let dir = self.generation(generation);
            let unused = match File::open(dir.join("users.lock")) {
                Ok(file) => matches!(file.try_lock(), Ok(())),
                Err(e) => e.kind() == io::ErrorKind::NotFound,
            };
            if unused {
                let _ = fs::remove_dir_all(&dir);
            }
        }
        Ok(())
    }

    /// Makes `generation` the current one: `data.mdb` is durable and at rest. The caller holds both turns.
    pub fn install(&self, generation: u64, repo: RepoId) -> Result<()> {
        let state = State { status: Status::Clean, generation, repo, boot: boot_id(), stamp: self.stamp(generation)? };
        let fresh = self.dir.join("state.new");
        let made = File::create(&fresh).and_then(|file| {
            file.set_len(STATE_LEN as u64)?;
            Ok(file)
        });
        let file = made.map_err(|e| Error::io("create", &fresh, e))?;
        // Real blocks, so that later overwriting needs no space.
        io::Write::write_all(&mut &file, &[0; STATE_LEN]).map_err(|e| Error::io("write", &fresh, e))?;
        state.write(&fresh, false)?;
        file.sync_all().map_err(|e| Error::io("sync", &fresh, e))?;
        let place = self.state();
        fs::rename(&fresh, &place).map_err(|e| Error::io("replace", &place, e))?;
        sync_dir(&self.dir)
    }

    /// The stamp of a generation that this process has just written.
    pub fn stamp(&self, generation: u64) -> Result<Stamp> {
        let data = self.data(generation);
        let stamp = Stamp::of(&data).map_err(|e| Error::io("read", &data, e))?;
        stamp.map_err(|why| Error::damaged(format!("the index cannot be used: {why}")).at(data))
    }
}

/// Makes a directory's entries durable.
pub(super) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| Error::io("sync", dir, e))
}

/// Opens a lock file, making it where that is possible.
pub(super) fn lock_file(path: &Path) -> Result<File> {
    match File::options().read(true).write(true).create(true).truncate(false).open(path) {
        Err(e) if is_read_only(&e) => File::open(path).map_err(|e| Error::io("open", path, e)),
        other => other.map_err(|e| Error::io("open", path, e)),
    }
}

/// Takes the lock if it is free.
pub(super) fn try_for(file: &File, path: &Path, exclusive: bool) -> Result<bool> {
    let tried = if exclusive { file.try_lock() } else { file.try_lock_shared() };
    match tried {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(e)) => Err(Error::io("lock", path, e)),
    }
}

/// Waits for the lock, within reason.
pub(super) fn wait_for(file: &File, path: &Path, exclusive: bool) -> Result<()> {
    let started = Instant::now();
    let mut pause = Duration::from_micros(100);
    while !try_for(file, path, exclusive)? {
        if started.elapsed() > PATIENCE {
            let error = Error::new(Kind::Locked, "another process keeps holding").at(path);
            return Err(error.remedy("try again when it has ended"));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(5));
    }
    Ok(())
}

fn is_read_only(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EROFS | libc::EACCES | libc::EPERM))
}
