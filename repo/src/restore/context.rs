//! What all threads of one restore share.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::error::{Error, Kind, Result};
use crate::id::ContentHash;
use crate::monitor::{Action, Counters, Event, Monitor};
use crate::pack::source::FrameSource;
use crate::path::SnapPath;
use crate::restore::dir::Place;
use crate::restore::links::Links;
use crate::restore::owners::Owners;
use crate::restore::unable::Unables;
use crate::restore::{Options, Outcome};

/// The most failures remembered: some 16 MiB.
const MAX_FAILURES: usize = 1 << 20;

/// Says in which pack and frame a chunk is, so that what lies together is read together. Any order is right.
pub type Locate<'a> = &'a (dyn Fn(&ContentHash) -> Option<(u32, u32)> + Sync);

/// What a restore is about and how far it is.
pub struct Context<'a> {
    /// Where chunks come from.
    pub source: &'a dyn FrameSource,
    /// Where they lie.
    pub locate: Locate<'a>,
    /// As asked for.
    pub options: &'a Options,
    /// Who listens.
    pub monitor: &'a dyn Monitor,
    /// The target's path, for messages.
    pub target: &'a Path,
    /// What is restored, as captured.
    pub base: SnapPath,
    /// Device and inode of a directory that stays as it is: the repository's own.
    pub spared: Option<(u64, u64)>,
    /// Whose things are.
    pub owners: Owners,
    /// What could not be set.
    pub unable: Unables,
    /// Hard links.
    pub links: Links,
    /// Directories that are open.
    pub open_dirs: AtomicUsize,
    /// Totals.
    pub tally: Tally,
    /// What failed, by a hash of its path: a verification that fails there again is no second failure.
    failures: Mutex<HashSet<u64>>,
    hasher: RandomState,
    root: OnceLock<Arc<File>>,
    fatal: Mutex<Option<Error>>,
    stop: AtomicBool,
}

/// Running totals; see [`Outcome`].
#[derive(Default)]
pub struct Tally {
    /// Items in scope.
    pub items: AtomicU64,
    /// Their bytes.
    pub bytes: AtomicU64,
    /// Items written.
    pub restored: AtomicU64,
    /// Their bytes.
    pub restored_bytes: AtomicU64,
    /// Items left as they were.
    pub kept: AtomicU64,
    /// Their bytes.
    pub kept_bytes: AtomicU64,
    /// Items deleted.
    pub deleted: AtomicU64,
    /// Items that failed.
    pub errors: AtomicU64,
    /// Files read back.
    pub verified: AtomicU64,
}

impl<'a> Context<'a> {
    /// Nothing done yet.
    pub fn new(
        source: &'a dyn FrameSource,
        locate: Locate<'a>,
        options: &'a Options,
        monitor: &'a dyn Monitor,
        target: &'a Path,
        base: SnapPath,
    ) -> Context<'a> {
        Context {
            source,
            locate,
            options,
            monitor,
            target,
            base,
            spared: None,
            owners: Owners::new(options),
            unable: Unables::default(),
            links: Links::default(),
            open_dirs: AtomicUsize::new(0),
            tally: Tally::default(),
            failures: Mutex::default(),
            hasher: RandomState::new(),
            root: OnceLock::new(),
            fatal: Mutex::new(None),
            stop: AtomicBool::new(false),
        }
    }

    /// Remembers the open target.
    pub fn set_root(&self, root: Arc<File>) {
        let _ = self.root.set(root);
    }

    /// The open target.
    ///
    /// # Errors
    /// `Bug` in a dry run without one.
    pub fn root(&self) -> Result<&File> {
        self.root.get().map(Arc::as_ref).ok_or_else(|| Error::bug("a dry run looks into a target that is absent"))
    }

    /// A name in the target, for messages about it.
    pub fn target_path(&self, place: &Place, name: &[u8]) -> PathBuf {
        let path = place.path(name);
        if path.is_empty() { self.target.to_owned() } else { self.target.join(OsStr::from_bytes(&path)) }
    }

    /// A name as captured, for events.
    pub fn captured_path(&self, below: &[u8]) -> PathBuf {
        let mut path = b"/".to_vec();
        path.extend_from_slice(self.base.as_bytes());
        if path.len() > 1 && !below.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(below);
        PathBuf::from(OsStr::from_bytes(&path))
    }

    /// One item is finished.
    pub fn item(&self, place: &Place, name: &[u8], action: Action, size: u64) {
        let path = self.captured_path(&place.path(name));
        self.monitor.event(Event::Item { path: &path, action, size });
    }

    /// One item failed; the restore goes on, unless what failed it will fail everything.
    pub fn failed(&self, place: &Place, name: &[u8], error: Error) {
        self.failed_at(&self.captured_path(&place.path(name)), "restore", error);
    }

    /// As [`Context::failed`], for a captured path.
    pub fn failed_at(&self, path: &Path, during: &str, error: Error) {
        if self.stopped() {
            return;
        }
        if self.first_failure(path) {
            self.tally.errors.fetch_add(1, Ordering::Relaxed);
            Counters::add(&self.monitor.counters().errors, 1);
            self.monitor.event(Event::ItemError { path, during, error: &error });
        }
        if matches!(error.kind(), Kind::NoSpace | Kind::ReadOnly | Kind::Bug) {
            self.end(error);
        }
    }

    /// Whether nothing has failed here so far. Past the bound all are told, and one may be told twice.
    fn first_failure(&self, path: &Path) -> bool {
        let hash = self.hasher.hash_one(path);
        let mut failures = self.failures.lock();
        if failures.len() < MAX_FAILURES { failures.insert(hash) } else { !failures.contains(&hash) }
    }

    /// Ends the whole restore with this error, unless one came first.
    pub fn end(&self, error: Error) {
        self.fatal.lock().get_or_insert(error);
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether to stop at the next safe point.
    pub fn stopped(&self) -> bool {
        if self.stop.load(Ordering::Relaxed) {
            return true;
        }
        if self.monitor.cancelled() {
            let remedy = "run it again to go on where it stopped";
            self.end(Error::new(Kind::Interrupted, "the restore was interrupted").remedy(remedy));
            return true;
        }
        false
    }

    /// The result.
    ///
    /// # Errors
    /// What ended the restore early.
    pub fn outcome(&self) -> Result<Outcome> {
        if let Some(error) = self.fatal.lock().take() {
            return Err(error);
        }
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let t = &self.tally;
        Ok(Outcome {
            items: get(&t.items),
            bytes: get(&t.bytes),
            restored: get(&t.restored),
            restored_bytes: get(&t.restored_bytes),
            kept: get(&t.kept),
            kept_bytes: get(&t.kept_bytes),
            deleted: get(&t.deleted),
            errors: get(&t.errors),
            verified: get(&t.verified),
            unable: self.unable.met(),
            nothing: false,
        })
    }
}
