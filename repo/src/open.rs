//! From a directory to an unlocked repository, in steps that are types: [`Sealed`] knows where things are,
//! [`Repository`] can read them. What a crash left is mended by `mend`, which has the last step.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::backend::local::{Local, Unmade};
use crate::backend::{Backend, Object};
use crate::chunker::ChunkerParams;
use crate::clock::Clock;
use crate::crypto::FORMAT_VERSION;
use crate::crypto::keys::Keys;
use crate::crypto::slot::RecoveryCode;
use crate::error::{Error, Kind, Result};
use crate::follow::{Followed, follow};
use crate::format::config::{Config, UnverifiedConfig};
use crate::format::record::{Position, State};
use crate::id::{RepoId, hex};
use crate::index::{Index, IndexIdentity, Opened, claim};
use crate::keyslots::{self, NewSlots, Secret, Unlocked};
use crate::limits::{MAX_SMALL_OBJECT, PACK_SIZE};
use crate::lock::Locks;
use crate::log::{Log, Relation};
use crate::monitor::{Event, Monitor};
use crate::pack::source::FrameSource;
use crate::pack::store::PackStore;
use crate::rebuild::rebuild;

/// What the repository is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing in it changes; the index may be made or brought up to date where it is kept.
    Read,
    /// Sessions, records and deletions.
    Write,
    /// As for writing, but a damaged log is read as far as that goes, and nothing is mended: for repairing the log alone.
    Repair,
}

/// Where a repository is and where this machine keeps things about it.
#[derive(Clone, Debug)]
pub struct Place {
    /// The repository's directory.
    pub root: PathBuf,
    /// Where the index is to be; none: in the repository, or in `cache` where that cannot be.
    pub index_dir: Option<PathBuf>,
    /// This machine's own directory for what it knows of repositories.
    pub cache: PathBuf,
}

/// A repository whose config was found, still locked.
pub struct Sealed {
    backend: Arc<dyn Backend>,
    locks: Locks,
    config: UnverifiedConfig,
    place: Place,
    access: Access,
}

/// An unlocked repository. Operations are functions over it.
pub struct Repository {
    /// Where its objects are.
    pub backend: Arc<dyn Backend>,
    /// Its locks.
    pub locks: Locks,
    /// What it was made with.
    pub config: Config,
    /// Its keys.
    pub keys: Arc<Keys>,
    /// Its journal.
    pub log: Arc<Log>,
    /// Its index.
    pub index: Index,
    /// The clock operations go by.
    pub clock: Clock,
    /// What it was opened for.
    pub access: Access,
    /// Its directory, if it is one.
    pub root: Option<PathBuf>,
    /// The slot that opened it and the keyring inside.
    pub unlocked: Unlocked,
    /// Whether the index was built anew for this opening.
    pub index_is_new: bool,
    cache: PathBuf,
    store: OnceLock<Arc<PackStore>>,
}

/// What a new repository is made with.
pub struct Init<'a> {
    /// The first key slots.
    pub slots: NewSlots<'a>,
    /// How files are cut.
    pub chunker: ChunkerParams,
    /// The size at which packs are closed, in bytes.
    pub pack_size: u32,
}

impl<'a> Init<'a> {
    /// The usual parameters.
    pub fn new(slots: NewSlots<'a>) -> Init<'a> {
        Init { slots, chunker: ChunkerParams::DEFAULT, pack_size: PACK_SIZE as u32 }
    }
}

/// Makes a repository in `root`, which must be empty or absent. Returns its id and the recovery code, to be shown once.
///
/// # Errors
/// `Exists` when there is a repository already, `Refused` when there is something else; what the system gives. Nothing
/// that was made stays then.
pub fn init(root: &Path, wanted: &Init<'_>) -> Result<(RepoId, Option<RecoveryCode>)> {
    let unmade = Unmade::look(root);
    let made = Local::create(root).and_then(|backend| init_in(Arc::new(backend), wanted));
    made.map_err(|e| {
        unmade.restore();
        if e.kind() == Kind::NoSpace { e.remedy("make room there, or name another directory") } else { e }
    })
}

/// As [`init`], in any empty backend.
///
/// # Errors
/// What the backend gives; `Exists` when there is a config.
pub fn init_in(backend: Arc<dyn Backend>, wanted: &Init<'_>) -> Result<(RepoId, Option<RecoveryCode>)> {
    wanted.chunker.validate()?;
    if backend.size(&Object::Config)?.is_some() {
        return Err(Error::new(Kind::Exists, "there is a repository already:").at(backend.path(&Object::Config)));
    }
    let repo_id = RepoId::random();
    let created = keyslots::create_slots(backend.as_ref(), repo_id, &wanted.slots)?;
    let keys = Arc::new(Keys::derive(&created.keyring, repo_id));
    Log::create(Arc::clone(&backend), Arc::clone(&keys))?;
    let config = Config {
        version: FORMAT_VERSION,
        repo_id,
        chunker: wanted.chunker,
        pack_size: wanted.pack_size,
        owner_public: created.owner_public,
    };
    // Last: its presence makes a directory a repository.
    backend.put(&Object::Config, &config.encode(&keys))?;
    Ok((repo_id, created.recovery_code))
}

impl Sealed {
    /// Finds the repository.
    ///
    /// # Errors
    /// `NoRepository` when nothing there is one, `NewerFormat`, `Damaged` with the config's path.
    pub fn open(place: Place, access: Access) -> Result<Sealed> {
        let none = || Error::new(Kind::NoRepository, "there is no repository at").at(&place.root);
        // What may not be looked at is not absent.
        let there = |path: &Path| match path.metadata() {
            Ok(meta) => Ok(Some(meta)),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
            Err(e) => Err(Error::io("look at", path, e).remedy("use a user who may read the repository")),
        };
        if !there(&place.root)?.is_some_and(|meta| meta.is_dir()) {
            return Err(none().remedy("check the path, or make one with `packmule init`"));
        }
        if there(&place.root.join("config"))?.is_none() {
            return Err(
                none().remedy("the directory is there, but holds no config: check the path, or run `packmule init`")
            );
        }
        let backend = Local::open(&place.root, access == Access::Read)?;
        let locks = match access {
            Access::Write | Access::Repair if backend.writable() => Locks::file(&backend.lock_path()),
            _ => Locks::read_only(&place.root),
        };
        Sealed::from_backend(Arc::new(backend), locks, place, access)
    }

    /// As [`Sealed::open`], over any backend.
    ///
    /// # Errors
    /// As [`Sealed::open`].
    pub fn from_backend(backend: Arc<dyn Backend>, locks: Locks, place: Place, access: Access) -> Result<Sealed> {
        if access != Access::Read && !backend.writable() {
            return Err(Error::new(Kind::ReadOnly, "the repository cannot be written:").at(&place.root));
        }
        let path = backend.path(&Object::Config);
        let bytes = match backend.read_all(&Object::Config, MAX_SMALL_OBJECT) {
            Err(e) if e.kind() == Kind::NotFound => {
                return Err(Error::new(Kind::NoRepository, "there is no repository at").at(&place.root));
            }
            other => other?,
        };
        let config = Config::decode(&bytes).map_err(|e| e.at(path))?;
        Ok(Sealed { backend, locks, config, place, access })
    }

    /// The repository's id, not yet authenticated.
    pub fn repo_id(&self) -> RepoId {
        self.config.repo_id()
    }

    /// Its objects.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// Opens it with `secret`, as it was left: config, log and index. [`Sealed::unlock`] is what operations want.
    ///
    /// # Errors
    /// `WrongPassword`; `Damaged` for config or log; `RolledBack` when this machine has seen a later state.
    pub(crate) fn open_as_left(self, secret: &Secret, monitor: &dyn Monitor) -> Result<Repository> {
        let Sealed { backend, locks, config, place, access } = self;
        let repo_id = config.repo_id();
        let mut unlocked = keyslots::unlock(backend.as_ref(), &repo_id, secret)?;
        let mut keys = Arc::new(Keys::derive(&unlocked.keyring, repo_id));
        let config = config.verify(&keys).map_err(|e| e.at(backend.path(&Object::Config)))?;
        // What was seen before the log is read: what others append meanwhile must not look like a roll-back.
        let seen = Seen::new(&place.cache, repo_id, &place.root);
        let last = seen.load();
        let mut log = load_log(&backend, access, &keys, monitor)?;
        let epoch = log.state().epoch;
        // A log with gaps may have lost the word of an epoch: then the slot's is believed.
        let unsure = log.broken().is_some() && unlocked.keyring.epochs() > epoch + 1;
        if unlocked.keyring.epochs() != epoch + 1 && !unsure {
            unlocked.use_epoch(epoch)?;
            keys = Arc::new(Keys::derive(&unlocked.keyring, repo_id));
            log = load_log(&backend, access, &keys, monitor)?;
            if access == Access::Write {
                let _commit = locks.commit(crate::lock::COMMIT_WAIT)?;
                keyslots::settle(backend.as_ref(), &repo_id, epoch)?;
            }
        }
        seen.compare(last, &place.root, &log, access, monitor)?;
        if let Some(dir) = &place.index_dir {
            claim(dir, &IndexIdentity { repo: repo_id })?;
        }
        let index_dir = index_dir(&place, backend.as_ref(), repo_id);
        let opened = open_index(backend.as_ref(), &keys, &log, &index_dir, monitor);
        let (index, index_is_new) = opened.map_err(|e| unkept(e, &index_dir, &place.root))?;
        let clock = log.clock().clone();
        let repo = Repository {
            backend,
            locks,
            config,
            keys,
            log: Arc::new(log),
            index,
            clock,
            access,
            root: Some(place.root),
            unlocked,
            index_is_new,
            cache: place.cache,
            store: OnceLock::new(),
        };
        Ok(repo)
    }
}

/// Readers make do with a log that has gaps, and say so; writers do not.
fn load_log(backend: &Arc<dyn Backend>, access: Access, keys: &Arc<Keys>, monitor: &dyn Monitor) -> Result<Log> {
    let (backend, keys) = (Arc::clone(backend), Arc::clone(keys));
    match access {
        Access::Read | Access::Repair => Log::load_lenient(backend, keys, monitor),
        Access::Write => Log::load(backend, keys, monitor).map_err(|e| match e.kind() {
            Kind::Damaged => {
                e.remedy("reading goes on; `packmule check` tells more, and with --repair-log lets the log go on")
            }
            _ => e,
        }),
    }
}

impl Repository {
    /// The reader of this repository's packs; one for all, so that caches are shared.
    pub fn store(&self) -> Arc<dyn FrameSource> {
        self.packs()
    }

    /// As [`Repository::store`], with what only local packs have.
    pub fn packs(&self) -> Arc<PackStore> {
        let make = || {
            let (backend, keys) = (Arc::clone(&self.backend), Arc::clone(&self.keys));
            Arc::new(PackStore::new(backend, keys, self.index.clone()))
        };
        Arc::clone(self.store.get_or_init(make))
    }

    /// Brings log and index up to what other processes have done since.
    ///
    /// # Errors
    /// What log and index give.
    pub fn refresh(&self, monitor: &dyn Monitor) -> Result<Arc<State>> {
        self.log.refresh()?;
        if !self.index.writable() {
            // Somebody else's index: whoever writes it brings it up to date.
            self.index.refresh()?;
            return Ok(self.log.state());
        }
        if follow(self.backend.as_ref(), &self.keys, &self.log, &self.index)?.0 == Followed::No {
            let state = self.log.state();
            rebuild(self.backend.as_ref(), &self.keys, &state, self.index.dir(), monitor)?;
            self.index.refresh()?;
        }
        Ok(self.log.state())
    }

    /// Notes on this machine how far the log has come, so that an older copy put in its place is noticed.
    pub fn remember(&self) {
        if let Some(root) = &self.root {
            Seen::new(&self.cache, self.config.repo_id, root).store(self.log.state().position);
        }
    }
}

/// The last log position this machine saw of a repository in one place: an older copy elsewhere is a copy.
struct Seen(PathBuf);

impl Seen {
    fn new(cache: &Path, repo: RepoId, root: &Path) -> Seen {
        Seen(cache.join("seen").join(name_of_copy(repo, root)))
    }

    fn load(&self) -> Option<Position> {
        let text = std::fs::read_to_string(&self.0).ok()?;
        let (seq, hash) = text.trim().split_once(' ')?;
        Some(Position { seq: seq.parse().ok()?, hash: hash.parse().ok()? })
    }

    /// A memory that cannot be kept costs a warning of a later roll-back, nothing else.
    fn store(&self, at: Position) {
        if self.load().is_some_and(|last| last.seq >= at.seq) {
            return;
        }
        let Some(dir) = self.0.parent() else { return };
        let temp = self.0.with_extension(format!("{}", std::process::id()));
        let written = std::fs::create_dir_all(dir)
            .and_then(|()| std::fs::write(&temp, format!("{} {}\n", at.seq, at.hash)))
            .and_then(|()| std::fs::rename(&temp, &self.0));
        if written.is_err() {
            let _ = std::fs::remove_file(&temp);
        }
    }

    /// Writing to a repository older than this machine has seen is refused; reading warns.
    fn compare(
        &self,
        last: Option<Position>,
        root: &Path,
        log: &Log,
        access: Access,
        monitor: &dyn Monitor,
    ) -> Result<()> {
        let Some(last) = last else { return Ok(()) };
        let what = match log.extends(&last) {
            Relation::Same | Relation::Newer => return Ok(()),
            Relation::RolledBack => "this repository is older than what this machine has seen of it:",
            Relation::Forked => "this repository's log differs from what this machine has seen of it:",
        };
        let remedy = format!(
            "it was restored from a copy, or tampered with; if that was you, delete {} and try again",
            self.0.display()
        );
        let error = Error::new(Kind::RolledBack, what).at(root).remedy(remedy);
        if access == Access::Write {
            return Err(error);
        }
        monitor.event(Event::Warning(&error.to_string()));
        Ok(())
    }
}

/// Where the index is kept: as told, else in the repository, else, where that is read-only or on a filesystem that
/// LMDB must not be on, in this machine's cache by repository id and place.
fn index_dir(place: &Place, backend: &dyn Backend, repo: RepoId) -> PathBuf {
    if let Some(dir) = &place.index_dir {
        return dir.clone();
    }
    let inside = place.root.join("index");
    if (backend.writable() || can_write(&inside)) && fits_lmdb(&place.root) {
        return inside;
    }
    place.cache.join("index").join(name_of_copy(repo, &place.root))
}

/// What to do about an index that cannot be kept where it is to be.
fn unkept(e: Error, dir: &Path, root: &Path) -> Error {
    if !e.path().is_some_and(|path| path.starts_with(dir)) {
        return e;
    }
    match e.kind() {
        Kind::NoSpace if dir.starts_with(root) => e.full_repository(),
        Kind::NoSpace => e.remedy("make room there, or name another place for the index with --index-dir"),
        Kind::Io | Kind::ReadOnly => {
            e.or_remedy("let this user write there, or name another place for the index with --index-dir")
        }
        _ => e,
    }
}

/// A repository's id and a hash of where it is: a name for what this machine keeps about one copy of it.
fn name_of_copy(repo: RepoId, root: &Path) -> String {
    let real = root.canonicalize().unwrap_or_else(|_| root.to_owned());
    let place = blake3::hash(real.as_os_str().as_encoded_bytes());
    format!("{}-{}", repo.to_hex(), hex(&place.as_bytes()[..8]))
}

fn can_write(dir: &Path) -> bool {
    use nix::unistd::{AccessFlags, access};
    let there = if dir.exists() { dir } else { dir.parent().unwrap_or(dir) };
    access(there, AccessFlags::W_OK).is_ok()
}

/// Local filesystems with sound shared mappings and locks.
fn fits_lmdb(dir: &Path) -> bool {
    const NFS: i64 = 0x6969;
    const SMB: i64 = 0x517b;
    const SMB2: i64 = 0xfe53_4d42;
    const CIFS: i64 = 0xff53_4d42;
    const FUSE: i64 = 0x6573_5546;
    const MSDOS: i64 = 0x4d44;
    const EXFAT: i64 = 0x2011_bab0;
    const V9FS: i64 = 0x0102_1997;
    let Ok(info) = nix::sys::statfs::statfs(dir) else { return true };
    // Narrower on other architectures.
    #[allow(clippy::unnecessary_cast)]
    let kind = info.filesystem_type().0 as i64;
    !matches!(kind, NFS | SMB | SMB2 | CIFS | FUSE | MSDOS | EXFAT | V9FS)
}

/// The index, current, and whether it had to be built.
fn open_index(
    backend: &dyn Backend,
    keys: &Arc<Keys>,
    log: &Log,
    dir: &Path,
    monitor: &dyn Monitor,
) -> Result<(Index, bool)> {
    let why = match Index::open(dir, &IndexIdentity { repo: keys.repo_id() })? {
        Opened::Ready(index) => match current(backend, keys, log, &index) {
            Ok(Followed::Yes) => return Ok((index, false)),
            Ok(Followed::No) => "it does not continue this log".to_owned(),
            Err(e) if e.kind() == Kind::Damaged => e.to_string(),
            Err(e) => return Err(e),
        },
        Opened::Missing if log.state().position.seq <= 1 => "the repository is new".to_owned(),
        Opened::Missing => "there is none".to_owned(),
        Opened::Unusable(why) => why,
    };
    if log.state().position.seq > 1 {
        monitor.event(Event::Notice(&format!("rebuilding the index in {}: {why}", dir.display())));
    }
    Ok((rebuild(backend, keys, &log.state(), dir, monitor)?, true))
}

fn current(backend: &dyn Backend, keys: &Keys, log: &Log, index: &Index) -> Result<Followed> {
    let Some(at) = index.position()? else { return Ok(Followed::No) };
    if log.extends(&at) == Relation::RolledBack {
        // Somebody has appended since, and the index shows it already.
        log.refresh()?;
    }
    if !matches!(log.extends(&at), Relation::Same | Relation::Newer) {
        return Ok(Followed::No);
    }
    if !index.writable() {
        // As good as it is: what came since is not found, and nothing can be done about it here.
        return Ok(if at == log.state().position { Followed::Yes } else { Followed::No });
    }
    Ok(follow(backend, keys, log, index)?.0)
}
