//! Snapshots: recording, finding and describing them.

mod summary;

pub use summary::Summary;

use crate::backend::{Area, Object as Stored, Put};
use crate::clock::Time;
use crate::crypto::keys::{OBJECT_OVERHEAD, Object};
use crate::error::{Error, Kind, Result};
use crate::format::manifest::Manifest;
use crate::format::record::{Origin, Record, State};
use crate::id::SnapshotId;
use crate::limits::MAX_MANIFEST;
use crate::lock::COMMIT_WAIT;
use crate::open::Repository;
use crate::session::{NewSnapshot, Session};

/// Writes a manifest and records it: the snapshot is acknowledged when this returns.
///
/// # Errors
/// What backend and log give; nothing is acknowledged then.
pub fn record(repo: &Repository, session: &Session, manifest: &Manifest) -> Result<()> {
    write(repo, session, manifest, None, false)
}

/// As [`record`], of a snapshot that somebody delivered: at a pool `origin` says who. A manifest that an interrupted
/// acceptance left is taken over.
///
/// # Errors
/// As [`record`].
pub fn record_from(repo: &Repository, session: &Session, manifest: &Manifest, origin: Option<Origin>) -> Result<()> {
    write(repo, session, manifest, origin, true)
}

fn write(
    repo: &Repository,
    session: &Session,
    manifest: &Manifest,
    origin: Option<Origin>,
    delivered: bool,
) -> Result<()> {
    let plain = Manifest { origin, ..manifest.clone() }.encode();
    // What no reader would take must not be acknowledged.
    if plain.len() + OBJECT_OVERHEAD > MAX_MANIFEST || Manifest::decode(&plain, &manifest.id).is_err() {
        return Err(Error::new(Kind::Usage, "there are too many paths or tags, or one is too long, for a snapshot"));
    }
    let sealed = repo.keys.seal(Object::Manifest, manifest.id.as_bytes(), &plain);
    record_sealed(repo, session, manifest, &plain, &sealed, origin, delivered)
}

/// As [`record`], of a manifest that was sealed before, with this repository's keys.
///
/// # Errors
/// As [`record`]; `Damaged` if it is not that manifest.
pub fn record_as(repo: &Repository, session: &Session, manifest: &Manifest, sealed: &[u8]) -> Result<()> {
    let plain = repo.keys.open(Object::Manifest, manifest.id.as_bytes(), sealed)?;
    if plain[..] != manifest.encode()[..] {
        return Err(Error::damaged("a sealed manifest is another than it was"));
    }
    record_sealed(repo, session, manifest, &plain, sealed, None, false)
}

fn record_sealed(
    repo: &Repository,
    session: &Session,
    manifest: &Manifest,
    plain: &[u8],
    sealed: &[u8],
    origin: Option<Origin>,
    delivered: bool,
) -> Result<()> {
    let object = Stored::Snapshot(manifest.id);
    let mut hash = *blake3::hash(sealed).as_bytes();
    if repo.backend.put(&object, sealed)? == Put::Exists {
        if !delivered {
            return Err(Error::bug("a snapshot's random id is taken").at(repo.backend.path(&object)));
        }
        let known = repo.backend.read_all(&object, MAX_MANIFEST)?;
        if repo.keys.open(Object::Manifest, manifest.id.as_bytes(), &known)?[..] != *plain {
            repo.backend.delete(&object)?;
            repo.backend.sync_deletes(Area::Snapshots)?;
            return Err(Error::new(Kind::Locked, "a manifest that was left over is removed").remedy("try again"));
        }
        hash = *blake3::hash(&known).as_bytes();
    }
    session.snapshot_recorded(NewSnapshot {
        snapshot: manifest.id,
        origin,
        recorded: Time(manifest.recorded),
        host: manifest.host.clone(),
        source: manifest.source.clone(),
        captured: Time(manifest.captured),
        tags: manifest.tags.clone(),
        manifest_hash: hash,
    })?;
    Ok(())
}

/// Writes the manifest of a recorded snapshot again, where its file was lost or damaged. What the log says of the snapshot stays.
///
/// # Errors
/// What backend and log give.
pub fn replace(repo: &Repository, manifest: &Manifest) -> Result<()> {
    let sealed = repo.keys.seal(Object::Manifest, manifest.id.as_bytes(), &manifest.encode());
    put_back(repo, &manifest.id, &sealed)?;
    let commit = repo.locks.commit(COMMIT_WAIT)?;
    let manifest_hash = *blake3::hash(&sealed).as_bytes();
    repo.log.append(&commit, Record::ManifestReplaced { snapshot: manifest.id, manifest_hash }).map(drop)
}

/// Puts a manifest's file in the place of one that was lost or damaged, as it is.
///
/// # Errors
/// What the backend gives.
pub fn put_back(repo: &Repository, id: &SnapshotId, sealed: &[u8]) -> Result<()> {
    let object = Stored::Snapshot(*id);
    repo.backend.delete(&object)?;
    repo.backend.sync_deletes(Area::Snapshots)?;
    repo.backend.put(&object, sealed).map(drop)
}

/// A snapshot's manifest.
///
/// # Errors
/// `NotFound` when there is no such file, `Damaged` naming it when it does not authenticate.
pub fn manifest(repo: &Repository, id: &SnapshotId) -> Result<Manifest> {
    let object = Stored::Snapshot(*id);
    let path = repo.backend.path(&object);
    let sealed = match repo.backend.read_all(&object, MAX_MANIFEST) {
        Err(e) if e.kind() == Kind::NotFound => {
            return Err(Error::new(Kind::NotFound, "a snapshot's file is missing:").at(path));
        }
        other => other?,
    };
    let plain = repo.keys.open(Object::Manifest, id.as_bytes(), &sealed);
    plain.and_then(|plain| Manifest::decode(&plain, id)).map_err(|e| e.at(path))
}

/// Summaries made anew are kept in the index so many at a time.
const BATCH: usize = 512;

/// Gives snapshots' summaries: from the index, or from the manifest, and then the index has it the next time.
pub struct Summaries<'a> {
    repo: &'a Repository,
    state: &'a State,
    fresh: Vec<(SnapshotId, Vec<u8>)>,
}

impl<'a> Summaries<'a> {
    /// Of the snapshots in `state`.
    pub fn new(repo: &'a Repository, state: &'a State) -> Summaries<'a> {
        Summaries { repo, state, fresh: Vec::new() }
    }

    /// One snapshot's. What the index has counts only if it opens as this snapshot's and its manifest's.
    ///
    /// # Errors
    /// As [`manifest`]; `NotFound` for a snapshot that the state does not have.
    pub fn get(&mut self, id: &SnapshotId) -> Result<Summary> {
        let known = self.state.snapshots.get(id);
        let known = known.ok_or_else(|| Error::new(Kind::NotFound, format!("there is no snapshot {}", id.short())))?;
        let keys = &self.repo.keys;
        if let Ok(Some(sealed)) = self.repo.index.summary(id)
            && let Ok(summary) = Summary::open(keys, id, &known.manifest_hash, &sealed)
        {
            return Ok(summary);
        }
        let summary = Summary::of(&manifest(self.repo, id)?);
        self.fresh.push((*id, summary.seal(keys, id, &known.manifest_hash)));
        if self.fresh.len() >= BATCH {
            self.keep();
        }
        Ok(summary)
    }

    /// A summary that cannot be kept is made again the next time; nobody need be told.
    fn keep(&mut self) {
        if !self.fresh.is_empty() && self.repo.index.writable() {
            let _ = self.repo.index.put_summaries(&self.fresh);
        }
        self.fresh.clear();
    }
}

impl Drop for Summaries<'_> {
    fn drop(&mut self) {
        self.keep();
    }
}
