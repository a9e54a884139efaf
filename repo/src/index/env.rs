//! The LMDB environment of one generation: opened once a process, guarded, and grown when it is full.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Weak};
use std::time::{Duration, Instant};

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, EnvFlags, EnvOpenOptions, MdbError, RoTxn, RwTxn, WithoutTls};
use parking_lot::{Mutex, RwLock};

use super::guard::{Room, lock_file, try_for, wait_for};
use super::state::{Marker, State, Status, boot_id};
use crate::error::{Error, Kind, Result};
use crate::id::RepoId;

/// The map starts at, and grows by multiples of, this many bytes of address space (not of memory or disk).
const MAP_STEP: usize = 256 << 20;
const READERS: u32 = 512;
const FORMAT: &[u8] = b"packmule index 3";
/// The length of LMDB's lock file: one cache line a reader, and a head. LMDB takes the number of readers from it.
const LOCK_FILE: usize = 64 * READERS as usize + 4096;

pub(super) type Table = Database<'static, Bytes, Bytes>;
pub(super) type Read<'a> = RoTxn<'a, WithoutTls>;

/// The tables of a generation.
#[derive(Clone, Copy)]
pub(super) struct Tables {
    /// Chunk id → location.
    pub chunks: Table,
    /// Pack number, big-endian → pack record.
    pub packs: Table,
    /// Pack id → pack number, big-endian.
    pub pack_ids: Table,
    /// Pack number, big-endian → sealed footer.
    pub footers: Table,
    /// Snapshot id → sealed summary.
    pub snapshots: Table,
    /// Tenant number, big-endian, and part of a chunk's id under the tenant's key → nothing.
    pub owned: Table,
    /// Tenant number, big-endian → how many chunks and bytes it owns.
    pub owners: Table,
    /// Drive and pack id → nothing: packs that are on their way on a drive.
    pub posted: Table,
    /// Format, repository, position.
    pub meta: Table,
}

/// Why something inside a transaction failed.
pub(super) enum Fault {
    /// LMDB or the system said so.
    Lmdb(heed::Error),
    /// What was read cannot have been written by this program.
    Corrupt(&'static str),
    /// Something else; the index is not to blame.
    Other(Error),
}

impl From<heed::Error> for Fault {
    fn from(e: heed::Error) -> Fault {
        Fault::Lmdb(e)
    }
}

impl From<Error> for Fault {
    fn from(e: Error) -> Fault {
        Fault::Other(e)
    }
}

pub(super) type Inner<T> = std::result::Result<T, Fault>;

/// One generation, open. Shared by everything in this process that uses it.
pub(super) struct Env {
    env: heed::Env<WithoutTls>,
    tables: Tables,
    generation: u64,
    room: Room,
    writable: bool,
    /// Held shared by every transaction, exclusively to change the map's size.
    gate: RwLock<()>,
    suspect: AtomicBool,
    quiet: Option<Quiet>,
    // Dropped last: whoever gets this lock alone blanks LMDB's lock file.
    _users: File,
}

/// Environments open in this process, by device and inode of their directory: LMDB must not open one twice.
static OPEN: LazyLock<Mutex<Registry>> = LazyLock::new(Mutex::default);
type Registry = HashMap<(u64, u64), Weak<Env>>;
/// One thread opens at a time.
static OPENING: Mutex<()> = Mutex::new(());

fn opened_here(directory: (u64, u64)) -> Option<Arc<Env>> {
    OPEN.lock().get(&directory).and_then(Weak::upgrade)
}

fn register(directory: (u64, u64), env: &Arc<Env>) {
    let mut open = OPEN.lock();
    open.retain(|_, env| env.strong_count() > 0);
    open.insert(directory, Arc::downgrade(env));
}

impl Env {
    /// Opens the generation that `state` names. The inner error says why it must be rebuilt.
    pub fn open(room: &Room, state: &State, writable: bool) -> Result<std::result::Result<Arc<Env>, String>> {
        let dir = room.generation(state.generation);
        let about = fs::metadata(&dir).map_err(|e| Error::io("open", &dir, e))?;
        let key = (about.dev(), about.ino());
        if let Some(env) = opened_here(key) {
            return Ok(Ok(env));
        }
        // Other processes first, then this one's threads: `create` comes in that order.
        let turn = if writable { Some(room.lock_opening()?) } else { None };
        let _one = OPENING.lock();
        if let Some(env) = opened_here(key) {
            return Ok(Ok(env));
        }
        let users = match enter(&dir, writable)? {
            Ok(users) => users,
            Err(why) => return Ok(Err(why)),
        };
        if writable {
            Marker::set(&room.state(), state.generation, &boot_id())?;
        }
        let opened = Env::map(room, state.generation, writable, users, false).and_then(|env| {
            env.read(|tables, txn| probe(tables, txn, state.repo))?;
            Ok(env)
        });
        if writable {
            Marker::clear(&room.state())?;
            // By the state as it is in this turn: a rebuild may have put another generation in place since `state` was read,
            // and that must not be swept, nor this one for it while it is in use.
            if matches!(State::read(&room.state())?, super::state::Found::State(now) if now.generation == state.generation)
            {
                room.sweep(state.generation)?;
            }
        }
        drop(turn);
        let env = match opened {
            Ok(env) => Arc::new(env),
            Err(e) if e.kind() == Kind::Damaged => return Ok(Err(e.to_string())),
            Err(e) => return Err(e),
        };
        register(key, &env);
        Ok(Ok(env))
    }

    /// Makes a new generation with empty tables. The caller holds the opening turn.
    pub fn create(room: &Room, generation: u64, repo: RepoId) -> Result<Arc<Env>> {
        let dir = room.generation(generation);
        fs::create_dir(&dir).map_err(|e| Error::io("create", &dir, e))?;
        let users = enter(&dir, true)?.map_err(Error::damaged)?;
        let env = Arc::new(Env::map(room, generation, true, users, true)?);
        let about = fs::metadata(&dir).map_err(|e| Error::io("open", &dir, e))?;
        register((about.dev(), about.ino()), &env);
        env.commit(&mut |tables, txn| {
            tables.meta.put(txn, b"format", FORMAT)?;
            tables.meta.put(txn, b"repo", repo.as_bytes())?;
            Ok(())
        })?;
        Ok(env)
    }

    fn map(room: &Room, generation: u64, writable: bool, users: File, create: bool) -> Result<Env> {
        let dir = room.generation(generation);
        let length = fs::metadata(room.data(generation)).map_or(0, |m| m.len());
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.max_dbs(16).max_readers(READERS).map_size(roomy(usize::try_from(length).unwrap_or(0)));
        if !writable {
            // SAFETY: nothing can be locked in a directory that cannot be written. `Quiet` keeps writers, who may still
            // reach it another way, out of every read transaction.
            unsafe { options.flags(EnvFlags::READ_ONLY | EnvFlags::NO_LOCK) };
        }
        let started = Instant::now();
        let env = loop {
            // SAFETY: `data.mdb` is changed by LMDB alone as long as the stamp, checked before, matches; `lock.mdb` was
            // made by LMDB; neither lies on a network filesystem (the caller's contract).
            match unsafe { options.open(&dir) } {
                Ok(env) => break env,
                // The last user in this process is just closing it.
                Err(heed::Error::EnvAlreadyOpened) if started.elapsed() < Duration::from_secs(10) => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(e) => return Err(error_of(e, &dir)),
            }
        };
        let tables = tables(&env, create).map_err(|fault| fault_to_error(fault, &dir))?;
        if writable {
            env.clear_stale_readers().map_err(|e| error_of(e, &dir))?;
        }
        let quiet = if writable { None } else { Some(Quiet::new(room)?) };
        let gate = RwLock::new(());
        let suspect = AtomicBool::new(false);
        Ok(Env { env, tables, generation, room: room.clone(), writable, gate, suspect, quiet, _users: users })
    }

    /// The generation's number.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether transactions can write.
    pub fn writable(&self) -> bool {
        self.writable
    }

    /// Whether LMDB or the disk said something that makes the file worthless.
    pub fn suspect(&self) -> bool {
        self.suspect.load(Ordering::Relaxed)
    }

    /// Runs `f` in a read transaction. `f` must be short and must not use the index otherwise.
    pub fn read<T>(&self, f: impl FnOnce(&Tables, &Read<'_>) -> Inner<T>) -> Result<T> {
        let _quiet = self.quiet.as_ref().map(Quiet::hold).transpose()?;
        loop {
            let gate = self.gate.read();
            match self.env.read_txn() {
                Ok(txn) => {
                    let result = f(&self.tables, &txn);
                    drop(txn);
                    drop(gate);
                    return result.map_err(|fault| {
                        let error = self.blame(fault, false);
                        self.distrust();
                        error
                    });
                }
                Err(heed::Error::Mdb(MdbError::MapResized)) => {}
                Err(e) => return Err(self.blame(e.into(), false)),
            }
            drop(gate);
            self.resize(0)?;
        }
    }

    /// Runs `f` in a write transaction and commits it, again from the start after the map had to grow. The caller
    /// holds the turn to write, or is the only one who knows this generation.
    pub fn commit<T>(&self, f: &mut dyn FnMut(&Tables, &mut RwTxn<'_>) -> Inner<T>) -> Result<T> {
        loop {
            let result = self.commit_once(f);
            match result {
                Ok(value) => return Ok(value),
                Err(Fault::Lmdb(heed::Error::Mdb(MdbError::MapFull))) => {
                    // Readers that died keep pages from being used again.
                    self.env.clear_stale_readers().map_err(|e| self.blame(e.into(), false))?;
                    self.resize(self.grown())?;
                }
                Err(Fault::Lmdb(heed::Error::Mdb(MdbError::MapResized))) => self.resize(0)?,
                Err(fault) => return Err(self.blame(fault, true)),
            }
        }
    }

    fn commit_once<T>(&self, f: &mut dyn FnMut(&Tables, &mut RwTxn<'_>) -> Inner<T>) -> Inner<T> {
        let _gate = self.gate.read();
        let mut txn = self.env.write_txn()?;
        let value = f(&self.tables, &mut txn)?;
        txn.commit()?;
        Ok(value)
    }

    /// Makes everything committed, and the times that the stamp compares, durable.
    pub fn sync(&self) -> Result<()> {
        let data = self.room.data(self.generation);
        let file = self.env.try_clone_inner_file().map_err(|e| error_of(e, &data))?;
        file.sync_all().map_err(|e| {
            self.suspect.store(true, Ordering::Relaxed);
            Error::io("sync", data, e)
        })
    }

    /// If the file proved worthless, says so to the next who opens it. In vain while a writer is at work: the writer
    /// will find out too.
    fn distrust(&self) {
        if !self.suspect() || !self.writable {
            return;
        }
        if let Ok(Some(_turn)) = self.room.try_lock_writing()
            && let Ok(super::state::Found::State(state)) = State::read(&self.room.state())
            && state.generation == self.generation
        {
            let _ = State { status: Status::Distrusted, ..state }.write(&self.room.state(), false);
        }
    }

    fn grown(&self) -> usize {
        roomy(self.env.info().map_size)
    }

    /// Changes the map's size; 0 adopts what another process made of it.
    fn resize(&self, size: usize) -> Result<()> {
        let _alone = self.gate.write();
        // SAFETY: the gate keeps every transaction of this process out.
        unsafe { self.env.resize(size) }.map_err(|e| self.blame(e.into(), false))
    }

    fn blame(&self, fault: Fault, writing: bool) -> Error {
        let dir = self.room.generation(self.generation);
        let mut error = fault_to_error(fault, &dir);
        if writing && error.errno() == Some(libc::EIO) && is_full(&dir) {
            // LMDB makes this of a write that the end of the disk cut short.
            error = Error::io("use the index at", &dir, std::io::Error::from_raw_os_error(libc::ENOSPC));
        }
        let failed_write = writing && error.errno().is_some_and(|n| !is_shortage(n));
        if error.kind() == Kind::Damaged || failed_write {
            self.suspect.store(true, Ordering::Relaxed);
        }
        error
    }
}

/// Whether not even a little more can be written.
fn is_full(dir: &std::path::Path) -> bool {
    let probe = dir.join("probe");
    let tried = fs::write(&probe, [0xA5; 64 << 10]);
    let _ = fs::remove_file(&probe);
    tried.is_err_and(|e| e.raw_os_error().is_some_and(|n| matches!(n, libc::ENOSPC | libc::EDQUOT)))
}

/// Failures to write that leave what was there as it was.
fn is_shortage(errno: i32) -> bool {
    matches!(
        errno,
        libc::ENOSPC | libc::EDQUOT | libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::EFBIG | libc::EROFS
    )
}

/// Twice the size, in whole steps, while it is small; then 8 GiB more.
fn roomy(size: usize) -> usize {
    let step = MAP_STEP.max(size.min(8 << 30));
    (size + step).div_ceil(MAP_STEP) * MAP_STEP
}

/// Registers as a user of a generation; if there is no other, gives LMDB a blank lock file.
fn enter(dir: &std::path::Path, writable: bool) -> Result<std::result::Result<File, String>> {
    let path = dir.join("users.lock");
    let users = lock_file(&path)?;
    let lmdb_lock = dir.join("lock.mdb");
    if writable && try_for(&users, &path, true)? {
        blank(&lmdb_lock).map_err(|e| Error::io("write", lmdb_lock, e))?;
        // Not atomic, but nobody else asks for it alone without the opening turn.
        users.unlock().map_err(|e| Error::io("unlock", &path, e))?;
    } else if writable && fs::metadata(&lmdb_lock).is_ok_and(|m| m.len() < LOCK_FILE as u64) {
        return Ok(Err("its lock file was cut short while it was in use".into()));
    }
    wait_for(&users, &path, false)?;
    Ok(Ok(users))
}

/// Makes LMDB's lock file a blank one with all its blocks: LMDB would leave it sparse, and on a full disk the first
/// touch of a hole in a map ends the process.
fn blank(path: &std::path::Path) -> std::io::Result<()> {
    if fs::symlink_metadata(path).is_ok_and(|about| !about.is_file()) {
        fs::remove_file(path)?;
    }
    let file = File::options().write(true).create(true).truncate(false).open(path)?;
    file.write_all_at(&[0; LOCK_FILE], 0)?;
    file.set_len(LOCK_FILE as u64)
}

fn tables(env: &heed::Env<WithoutTls>, create: bool) -> Inner<Tables> {
    const NAMES: [&str; 9] =
        ["chunks", "packs", "pack_ids", "footers", "snapshots", "owned", "owners", "posted", "meta"];
    let tables: [Table; 9] = if create {
        env.create_databases_and_commit(env.write_txn()?, |dbo, txn| -> Inner<_> {
            let mut made = Vec::with_capacity(NAMES.len());
            for name in NAMES {
                made.push(dbo.create_database::<Bytes, Bytes>(txn, Some(name))?);
            }
            let made: [_; 9] = made.try_into().map_err(|_| Error::bug("nine tables"))?;
            Ok(CommitOrAbort::<_, ()>::Commit(made))
        })?
        .commit()
    } else {
        env.open_databases_and_commit(env.read_txn()?, |dbo, txn| -> Inner<_> {
            let mut found = Vec::with_capacity(NAMES.len());
            for name in NAMES {
                let table = dbo.open_database::<Bytes, Bytes>(txn, Some(name))?;
                found.push(table.ok_or(Fault::Corrupt("the index lacks a table"))?);
            }
            let found: [_; 9] = found.try_into().map_err(|_| Error::bug("nine tables"))?;
            Ok(CommitOrAbort::<_, ()>::Commit(found))
        })?
        .commit()
    }
    .ok_or(Fault::Corrupt("the index lacks its tables"))?;
    let [chunks, packs, pack_ids, footers, snapshots, owned, owners, posted, meta] = tables;
    Ok(Tables { chunks, packs, pack_ids, footers, snapshots, owned, owners, posted, meta })
}

/// The first reads of a freshly opened generation.
fn probe(tables: &Tables, txn: &Read<'_>, repo: RepoId) -> Inner<()> {
    if tables.meta.get(txn, b"format")? != Some(FORMAT) {
        return Err(Fault::Corrupt("the index has another format"));
    }
    if tables.meta.get(txn, b"repo")? != Some(&repo.as_bytes()[..]) {
        return Err(Fault::Corrupt("the index is of another repository"));
    }
    for table in [tables.chunks, tables.packs, tables.pack_ids, tables.footers, tables.snapshots] {
        table.first(txn)?;
    }
    Ok(())
}

fn fault_to_error(fault: Fault, dir: &std::path::Path) -> Error {
    match fault {
        Fault::Lmdb(e) => error_of(e, dir),
        Fault::Corrupt(why) => damaged(why, dir),
        Fault::Other(e) => e,
    }
}

fn damaged(why: impl std::fmt::Display, dir: &std::path::Path) -> Error {
    Error::damaged(format!("the index is damaged ({why}) at")).at(dir).remedy("run 'packmule rebuild-index'")
}

fn error_of(e: heed::Error, dir: &std::path::Path) -> Error {
    match e {
        heed::Error::Io(e) => Error::io("use the index at", dir, e),
        heed::Error::Mdb(MdbError::Other(errno)) => {
            Error::io("use the index at", dir, std::io::Error::from_raw_os_error(errno))
        }
        heed::Error::Mdb(MdbError::ReadersFull) => {
            let error = Error::new(Kind::Locked, "too many processes read the index at once at").at(dir);
            error.remedy("end some mounts or commands and try again")
        }
        heed::Error::Mdb(
            e @ (MdbError::TxnFull | MdbError::DbsFull | MdbError::BadTxn | MdbError::BadValSize | MdbError::KeyExist),
        ) => Error::bug(format!("the index was used wrongly ({e}) at")).at(dir),
        heed::Error::Mdb(e) => damaged(e, dir),
        heed::Error::Encoding(e) | heed::Error::Decoding(e) => damaged(e, dir),
        heed::Error::EnvAlreadyOpened => Error::bug("the index is opened twice in one process").at(dir),
    }
}

/// Keeps writers out during the read transactions of a process that cannot enter LMDB's reader table.
struct Quiet {
    lock: File,
    path: PathBuf,
    holders: Mutex<usize>,
}

/// One read transaction's hold on [`Quiet`].
struct Hold<'a>(&'a Quiet);

impl Quiet {
    fn new(room: &Room) -> Result<Quiet> {
        let path = room.dir().join("write.lock");
        let lock = File::open(&path).map_err(|e| Error::io("open", &path, e))?;
        Ok(Quiet { lock, path, holders: Mutex::new(0) })
    }

    fn hold(&self) -> Result<Hold<'_>> {
        let mut holders = self.holders.lock();
        if *holders == 0 {
            wait_for(&self.lock, &self.path, false)?;
        }
        *holders += 1;
        Ok(Hold(self))
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let mut holders = self.0.holders.lock();
        *holders -= 1;
        if *holders == 0 {
            // Failing would only keep writers waiting until this process ends.
            let _ = self.0.lock.unlock();
        }
    }
}
