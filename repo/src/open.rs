//! From a directory to an unlocked repository, in steps that are types: [`Sealed`] knows where things are,
//! [`Repository`] can read them. What a crash left is mended by `mend`, which has the last step.

mod catch_up;
mod config_files;
mod index_place;
mod make;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::backend::local::{Local, cannot_look};
use crate::backend::{Backend, Object};
use crate::clock::Clock;
use crate::crypto::keys::{Keyring, Keys};
use crate::error::{Error, Kind, Result};
use crate::format::config::{Config, UnverifiedConfig};
use crate::format::record::{Position, State};
use crate::id::{DriveId, RepoId, hex};
use crate::index::{Index, IndexIdentity, Opened, claim};
use crate::keyslots::{self, Secret, Unlocked};
use crate::lock::Locks;
use crate::log::{Log, Relation};
use crate::monitor::{Event, Monitor};
use crate::open::catch_up::CatchUp;
pub(crate) use crate::open::catch_up::bring_up;
pub(crate) use crate::open::config_files::mend_config;
use crate::open::config_files::read_config;
use crate::open::index_place::{index_dirs, open_index};
pub use crate::open::make::{Identity, Init, init, init_anew, init_drive, init_in};
use crate::pack;
use crate::pack::source::FrameSource;
use crate::pack::store::PackStore;

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
    /// A log of which nothing can be read is read as far as that goes.
    leniently: bool,
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
    /// Why the repository is not the one that this machine has seen, if so; it is then open for reading.
    pub rolled_back: Option<Error>,
    /// By a pool's tenant: what it owns is derived by one at a time.
    pub(crate) deriving: Mutex<BTreeMap<u32, Arc<Mutex<()>>>>,
    cache: PathBuf,
    store: OnceLock<Arc<PackStore>>,
    elsewhere: OnceLock<Arc<dyn FrameSource>>,
}

/// The id of the repository whose objects are in `backend`, not authenticated.
///
/// # Errors
/// What reading its config gives.
pub fn repository_in(backend: &dyn Backend) -> Result<RepoId> {
    either_config(backend).map(|config| config.repo_id())
}

/// The config, or the copy beside it; opening for writing mends it.
fn either_config(backend: &dyn Backend) -> Result<UnverifiedConfig> {
    match read_config(backend, &Object::Config) {
        Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Damaged | Kind::Io) => {
            read_config(backend, &Object::ConfigCopy).map_err(|_| match e.kind() {
                Kind::NotFound => e,
                _ => e.remedy("put back this file or config.copy beside it, from any copy of the repository"),
            })
        }
        other => other,
    }
}

/// The index that this machine has made of a drive's packs, when the drive itself is away; none if there is none.
///
/// # Errors
/// What the system gives.
pub fn index_of_drive(place: &Place, repo: RepoId, drive: &DriveId) -> Result<Option<Index>> {
    let dir = place.cache.join("index").join(name_of_drive(repo, drive));
    if !dir.exists() {
        return Ok(None);
    }
    match Index::open(&dir, &IndexIdentity { repo })? {
        Opened::Ready(index) => Ok(Some(index)),
        Opened::Missing | Opened::Unusable(_) => Ok(None),
    }
}

/// Has this machine forget what it has seen of the repository that was at `place` before: it was made anew there, on purpose.
///
/// # Errors
/// What the system gives.
pub fn forget_seen(place: &Place, repo: RepoId) -> Result<()> {
    let seen = Seen::new(&place.cache, repo, &place.root).0;
    match std::fs::remove_file(&seen) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io("remove", seen, e)),
        _ => Ok(()),
    }
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
            Err(e) => Err(cannot_look(path, e)),
        };
        if !there(&place.root)?.is_some_and(|meta| meta.is_dir()) {
            return Err(none().remedy("check the path, or make one with `packmule init`"));
        }
        if there(&place.root.join("config"))?.is_none() && there(&place.root.join("config.copy"))?.is_none() {
            return Err(
                none().remedy("the directory is there, but holds no config: check the path, or run `packmule init`")
            );
        }
        if access != Access::Read && Local::drive_mark(&place.root)?.is_some() {
            let e = Error::new(Kind::ReadOnly, "this is a transfer drive, which only `packmule drive` writes:");
            return Err(e.at(&place.root).remedy("work on the repository that it carries a part of"));
        }
        if access != Access::Read && Local::copy_mark(&place.root)?.is_some() {
            return Err(Error::new(Kind::ReadOnly, "this is a copy, which only pushes write:").at(&place.root).remedy(
                "work on the repository it is a copy of; if that is lost, `packmule sync promote` makes this one it",
            ));
        }
        let backend = Local::open(&place.root, access == Access::Read)?;
        let locks = match access {
            Access::Write | Access::Repair if backend.writable() => Locks::file(&backend.lock_path()),
            _ => Locks::read_only(&place.root),
        };
        Sealed::from_backend(Arc::new(backend), locks, place, access)
    }

    /// Finds a transfer drive's part of a repository.
    ///
    /// # Errors
    /// As [`Sealed::open`] and [`Local::open_drive`].
    pub fn open_drive(place: Place, access: Access) -> Result<(Sealed, DriveId)> {
        let (backend, id) = Local::open_drive(&place.root, access == Access::Read)?;
        let locks = match access {
            Access::Read => Locks::read_only(&place.root),
            _ => Locks::file(&backend.lock_path()),
        };
        Ok((Sealed::from_backend(Arc::new(backend), locks, place, access)?, id))
    }

    /// As [`Sealed::open`], over any backend.
    ///
    /// # Errors
    /// As [`Sealed::open`].
    pub fn from_backend(backend: Arc<dyn Backend>, locks: Locks, place: Place, access: Access) -> Result<Sealed> {
        if access != Access::Read && !backend.writable() {
            return Err(Error::new(Kind::ReadOnly, "the repository cannot be written:").at(&place.root));
        }
        let config = either_config(backend.as_ref()).map_err(|e| match e.kind() {
            Kind::NotFound => Error::new(Kind::NoRepository, "there is no repository at").at(&place.root),
            _ => e,
        })?;
        Ok(Sealed { backend, locks, config, place, access, leniently: false })
    }

    /// Has a log of which nothing can be read be no obstacle to reading the rest, of a transfer drive: what is not damaged is taken.
    pub fn leniently(self) -> Sealed {
        Sealed { leniently: true, ..self }
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
        let unlocked = keyslots::unlock(self.backend.as_ref(), &self.config.repo_id(), secret)?;
        self.open_unlocked(unlocked, monitor)
    }

    /// Opens it for reading with keys that are known already: those of another copy of it.
    ///
    /// # Errors
    /// As [`Sealed::unlock`]; `Damaged` if they are not its keys.
    pub fn read_with(self, keyring: &Keyring, monitor: &dyn Monitor) -> Result<Repository> {
        let repo = Sealed { access: Access::Read, ..self }.open_with(keyring, monitor)?;
        repo.remember();
        Ok(repo)
    }

    /// As [`Sealed::open_as_left`], with keys that are known already.
    pub(crate) fn open_with(self, keyring: &Keyring, monitor: &dyn Monitor) -> Result<Repository> {
        self.open_unlocked(Unlocked { keyring: keyring.duplicate(), slot: String::new() }, monitor)
    }

    fn open_unlocked(self, mut unlocked: Unlocked, monitor: &dyn Monitor) -> Result<Repository> {
        let Sealed { backend, locks, config, place, access, leniently } = self;
        let repo_id = config.repo_id();
        let mut keys = Arc::new(Keys::derive(&unlocked.keyring, repo_id));
        let config = config.verify(&keys).map_err(|e| e.at(backend.path(&Object::Config)))?;
        // What was seen before the log is read: what others append meanwhile must not look like a roll-back.
        let seen = Seen::new(&place.cache, repo_id, &place.root);
        let last = seen.load();
        let load = |keys: &Arc<Keys>| match leniently {
            true => Log::load_lenient(Arc::clone(&backend), Arc::clone(keys), monitor),
            false => load_log(&backend, access, keys, monitor),
        };
        let mut log = load(&keys)?;
        let epoch = log.state().epoch;
        // A log with gaps may have lost the word of an epoch: then the slot's is believed.
        let unsure = log.broken().is_some() && unlocked.keyring.epochs() > epoch + 1;
        if unlocked.keyring.epochs() != epoch + 1 && !unsure {
            unlocked.use_epoch(epoch)?;
            keys = Arc::new(Keys::derive(&unlocked.keyring, repo_id));
            log = load(&keys)?;
            if access == Access::Write {
                let _commit = locks.commit(crate::lock::COMMIT_WAIT)?;
                keyslots::settle(backend.as_ref(), &repo_id, epoch)?;
            }
        }
        let rolled_back = seen.compare(last, &place.root, &log, access, monitor)?;
        if let Some(dir) = &place.index_dir {
            claim(dir, &IndexIdentity { repo: repo_id })?;
        }
        let dirs = index_dirs(&place, backend.as_ref(), repo_id);
        let (index, index_is_new) = open_index(backend.as_ref(), &keys, &log, &dirs, access, monitor)?;
        let clock = log.clock();
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
            rolled_back,
            deriving: Mutex::default(),
            cache: place.cache,
            store: OnceLock::new(),
            elsewhere: OnceLock::new(),
        };
        Ok(repo)
    }
}

/// Readers make do with a log that has gaps, and say so; writers do not.
fn load_log(backend: &Arc<dyn Backend>, access: Access, keys: &Arc<Keys>, monitor: &dyn Monitor) -> Result<Log> {
    const LOST: &str = "put the records back; if they are lost for good, `packmule check --repair-log` brings back every \
                        snapshot whose manifest is there";
    let (backend, keys) = (Arc::clone(backend), Arc::clone(keys));
    match access {
        Access::Repair => Log::load_lenient(backend, keys, monitor),
        Access::Read => Log::load_readable(backend, keys, monitor).map_err(|e| match e.kind() {
            Kind::Damaged => e.remedy(LOST),
            _ => e,
        }),
        Access::Write => Log::load(backend, keys, monitor).map_err(|e| match e.kind() {
            Kind::Damaged => e.remedy(
                "`packmule check` tells more, and with --repair-log lets the log go on; until then nothing is written",
            ),
            _ => e,
        }),
    }
}

impl Repository {
    /// Goes by another clock from now on, and so does the log.
    pub fn set_clock(&mut self, clock: Clock) {
        self.log.set_clock(clock.clone());
        self.clock = clock;
    }

    /// The reader of this repository's chunks: of its packs, unless they are [elsewhere](Repository::read_from). One for all,
    /// so that caches are shared.
    pub fn store(&self) -> Arc<dyn FrameSource> {
        match self.elsewhere.get() {
            Some(source) => Arc::clone(source),
            None => self.packs(),
        }
    }

    /// Has [`Repository::store`] read from `source`: what its snapshots reach is not in packs of its own. Counts once.
    pub fn read_from(&self, source: Arc<dyn FrameSource>) {
        let _ = self.elsewhere.set(source);
    }

    /// As [`Repository::store`], with what only local packs have.
    pub fn packs(&self) -> Arc<PackStore> {
        let make = || {
            let (backend, keys) = (Arc::clone(&self.backend), Arc::clone(&self.keys));
            Arc::new(PackStore::new(backend, keys, self.index.clone()).catching_up(self.catch_up()))
        };
        Arc::clone(self.store.get_or_init(make))
    }

    /// Brings log and index up to what other processes have done since.
    ///
    /// # Errors
    /// What log and index give.
    pub fn refresh(&self, monitor: &dyn Monitor) -> Result<Arc<State>> {
        self.log.refresh()?;
        bring_up(self.backend.as_ref(), &self.keys, &self.log, &self.index, monitor)?;
        Ok(self.log.state())
    }

    fn catch_up(&self) -> pack::store::CatchUp {
        let (backend, keys) = (Arc::clone(&self.backend), Arc::clone(&self.keys));
        let (log, index) = (Arc::clone(&self.log), self.index.clone());
        let catch_up = CatchUp { backend, keys, log, index, last: Mutex::default() };
        Box::new(move || catch_up.run())
    }

    /// Notes on this machine how far the log has come, so that an older copy put in its place is noticed; unless this is
    /// one, which must be noticed again the next time.
    pub fn remember(&self) {
        if let (Some(root), None) = (&self.root, &self.rolled_back) {
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
    ) -> Result<Option<Error>> {
        let Some(last) = last else { return Ok(None) };
        let what = match log.extends(&last) {
            Relation::Same | Relation::Newer => return Ok(None),
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
        Ok(Some(error))
    }
}

/// A repository's id and a hash of where it is: a name for what this machine keeps about one copy of it. Transfer drives come
/// and go in one place; each has a name of its own.
fn name_of_copy(repo: RepoId, root: &Path) -> String {
    if let Ok(Some(drive)) = Local::drive_mark(root) {
        return name_of_drive(repo, &drive);
    }
    let real = root.canonicalize().unwrap_or_else(|_| root.to_owned());
    let place = blake3::hash(real.as_os_str().as_encoded_bytes());
    format!("{}-{}", repo.to_hex(), hex(&place.as_bytes()[..8]))
}

fn name_of_drive(repo: RepoId, drive: &DriveId) -> String {
    format!("{}-drive-{}", repo.to_hex(), hex(&drive.as_bytes()[..8]))
}
