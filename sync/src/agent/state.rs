//! What an agent knows of what it has delivered: a repository of its own in which packs of data are stubs.
//!
//! It does not grow without bound: of each source the newest snapshot stays, and when the packs have doubled in number
//! since the last time, those that nothing in these needs are removed, and packs of trees are written anew.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use repo::backend::Backend;
use repo::backend::local::Local;
use repo::chunker::ChunkerParams;
use repo::crypto::hash::ChunkKind;
use repo::crypto::slot::Argon2Cost;
use repo::error::{Error, Kind, Result};
use repo::forget::{self, forget_named};
use repo::format::record::Record;
use repo::format::tree::Content;
use repo::history::History;
use repo::id::{ContentHash, PackId, SnapshotId, hex};
use repo::keyslots::{NewSlots, Secret};
use repo::limits::MIB;
use repo::lock::{COMMIT_WAIT, Locks};
use repo::monitor::{Event, Monitor};
use repo::open::{Access, Identity as OfRepository, Init, Place, Repository, Sealed, init_anew};
use repo::prune::{self, MaxUnused, prune};
use repo::snapshots;
use zeroize::Zeroizing;

use super::identity::Identity;
use super::outbox::Outbox;

/// Packs wait in memory until they are at the site, so they are small.
pub const PACK: u32 = 8 * MIB as u32;
/// Fewer packs than this are not worth tidying up.
const FEW: u64 = 32;
/// How much of the packs of trees may be of no use.
const UNUSED: MaxUnused = MaxUnused::Percent(20.0);

/// An open state.
pub struct State {
    pub repo: Repository,
    pub outbox: Arc<Outbox>,
    dir: PathBuf,
}

impl State {
    /// Opens the state below `dir`; one that is absent, unusable, or does not fit what the site says is begun anew.
    ///
    /// # Errors
    /// What the system gives; `Interrupted`.
    pub fn open(dir: &Path, identity: &Identity, chunker: ChunkerParams, monitor: &dyn Monitor) -> Result<State> {
        use Kind::{Damaged, NewerFormat, NoRepository, NotFound, Refused, RolledBack, WrongPassword};
        let why = match open(dir, identity, chunker, monitor) {
            Err(e) if e.kind() == NoRepository => None,
            Err(e) if matches!(e.kind(), Damaged | NewerFormat | NotFound | Refused | RolledBack | WrongPassword) => {
                Some(e)
            }
            other => return other,
        };
        if let Some(e) = why {
            monitor.event(Event::Warning(&format!(
                "what this host knew of its backups cannot be used ({e}): everything is read and compared again"
            )));
        }
        make(dir, identity, chunker)?;
        open(dir, identity, chunker, monitor)
    }

    /// The root trees of its snapshots.
    ///
    /// # Errors
    /// What backend and log give; a manifest that cannot be read is left out.
    pub fn roots(&self) -> Result<Vec<(ContentHash, ChunkKind)>> {
        let mut roots = Vec::new();
        for (id, _) in self.repo.log.state().snapshots.iter().filter(|(_, s)| s.forgotten.is_none()) {
            match snapshots::manifest(&self.repo, id).map(|manifest| manifest.root.content) {
                Ok(Content::Dir(dir)) if dir.entries > 0 => {
                    roots.push((dir.h, if dir.depth > 0 { ChunkKind::Node } else { ChunkKind::Tree }));
                }
                Err(e) if !matches!(e.kind(), Kind::Damaged | Kind::NotFound) => return Err(e),
                _ => {}
            }
        }
        Ok(roots)
    }

    /// Notes packs of which the site lacks something that is not here either: the next capture reads it again.
    ///
    /// # Errors
    /// What log and index give.
    pub fn lost(&self, packs: Vec<PackId>, monitor: &dyn Monitor) -> Result<()> {
        if !packs.is_empty() {
            let commit = self.repo.locks.commit(COMMIT_WAIT)?;
            self.repo.log.refresh()?;
            self.repo.log.append(&commit, Record::Damage { packs, at: self.repo.clock.now() })?;
            drop(commit);
            self.repo.refresh(monitor)?;
        }
        Ok(())
    }

    /// Forgets what newer snapshots have made useless. What fails is told, and no more: the backup is at the site.
    pub fn tidy(&self, monitor: &dyn Monitor) {
        if let Err(e) = self.try_tidy(monitor) {
            monitor.event(Event::Warning(&format!("what this host knows of earlier backups was not tidied up: {e}")));
        }
    }

    fn try_tidy(&self, monitor: &dyn Monitor) -> Result<()> {
        let state = self.repo.log.state();
        let mut newest: BTreeMap<History, (u64, SnapshotId)> = BTreeMap::new();
        let mut old = Vec::new();
        for (id, snapshot) in state.snapshots.iter().filter(|(_, s)| s.forgotten.is_none()) {
            let this = (snapshot.seq, *id);
            if let Some(other) = newest.insert(History::of(snapshot), this) {
                old.push(other.min(this).1);
                newest.insert(History::of(snapshot), other.max(this));
            }
        }
        let quiet = repo::monitor::Void::default();
        if !old.is_empty() {
            let options = forget::Options { accept_clock: true, ..forget::Options::default() };
            forget_named(&self.repo, &old, &options, &quiet)?;
        }
        let (_, packs) = self.repo.index.counts()?;
        if packs < FEW.max(2 * self.after_last_time()) && state.damaged.is_empty() {
            return Ok(());
        }
        monitor.event(Event::Phase("tidy"));
        let options = prune::Options {
            release_held: true,
            accept_clock: true,
            data_elsewhere: true,
            max_unused: UNUSED,
            ..prune::Options::default()
        };
        prune(&self.repo, &options, &quiet)?;
        let (_, packs) = self.repo.index.counts()?;
        let path = self.dir.join("tidied");
        fs::write(&path, format!("{packs}\n")).map_err(|e| Error::io("write", path, e))
    }

    /// How many packs the last tidying left.
    fn after_last_time(&self) -> u64 {
        let text = fs::read_to_string(self.dir.join("tidied")).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }
}

/// The state opens for whoever has the identity beside it, so no guess has to be made costly.
fn passphrase(identity: &Identity) -> Zeroizing<String> {
    let key = blake3::derive_key("packmule agent 2026-11 state's passphrase", &identity.keyring.to_bytes());
    Zeroizing::new(hex(&key))
}

fn root(dir: &Path) -> PathBuf {
    dir.join("state")
}

fn make(dir: &Path, identity: &Identity, chunker: ChunkerParams) -> Result<()> {
    for sub in ["state", "cache"] {
        let path = dir.join(sub);
        match fs::remove_dir_all(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", path, e)),
            _ => {}
        }
    }
    let _ = fs::remove_file(dir.join("tidied"));
    let root = root(dir);
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&root);
    made.map_err(|e| Error::io("make", &root, e))?;
    let passphrase = passphrase(identity);
    let slots = NewSlots {
        passphrase: Some((&passphrase, "agent")),
        cost: Argon2Cost::new(8, 1, 1).ok_or_else(|| Error::bug("a cost that is none"))?,
        recipients: &[],
        recovery_code: false,
    };
    let wanted = Init { slots, chunker, pack_size: PACK };
    let of = OfRepository { id: identity.repository, keyring: identity.keyring.duplicate() };
    init_anew(&root, &wanted, of)?;
    Local::open(&root, false)?.release_reserve()
}

fn open(dir: &Path, identity: &Identity, chunker: ChunkerParams, monitor: &dyn Monitor) -> Result<State> {
    let root = root(dir);
    if !root.join("config").exists() && !root.join("config.copy").exists() {
        return Err(Error::new(Kind::NoRepository, "there is no state yet in").at(root));
    }
    let local = Local::open(&root, false)?;
    let locks = Locks::file(&local.lock_path());
    let outbox = Arc::new(Outbox::new(local));
    let place = Place { root, index_dir: None, cache: dir.join("cache") };
    let backend: Arc<dyn Backend> = Arc::clone(&outbox) as Arc<dyn Backend>;
    let sealed = Sealed::from_backend(backend, locks, place, Access::Write)?;
    if sealed.repo_id() != identity.repository {
        return Err(Error::new(Kind::Refused, "it is another agent's"));
    }
    let repo = sealed.unlock(&Secret::Passphrase(passphrase(identity)), monitor)?;
    if repo.config.chunker != chunker {
        return Err(Error::new(Kind::Refused, "the site cuts files in another way"));
    }
    Ok(State { repo, outbox, dir: dir.to_owned() })
}
