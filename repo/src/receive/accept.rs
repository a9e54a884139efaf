//! Accepting a snapshot: only when everything it reaches is there, delivered by the tenant itself.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{Receiver, Sender};
use crate::clock::Time;
use crate::crypto::hash::ChunkKind;
use crate::crypto::keys::Object;
use crate::error::{Error, Kind, Result};
use crate::follow::loaded;
use crate::format::manifest::Manifest;
use crate::format::record::{DriveState, Origin, Record};
use crate::id::{ChunkId, ContentHash, PackId, SnapshotId};
use crate::index::{Location, Ownership, PackInfo};
use crate::lock::COMMIT_WAIT;
use crate::monitor::{Event, Monitor, Void};
use crate::open::Repository;
use crate::pack::source::{Chunk, FrameSource};
use crate::pack::store::PackStore;
use crate::snapshots;
use crate::stats::Marks;
use crate::tree::closure;

/// At most so many missing chunks are named at a time.
pub const MISSING_MOST: usize = 16_384;
/// Trees noted as complete with one snapshot; those above are looked into again with the next.
const COMPLETE_MOST: usize = 1 << 20;
/// Chunks entered as owned at a time.
const BATCH: usize = 100_000;

/// What became of a manifest.
pub enum Answer {
    /// The snapshot is recorded, and durable.
    Accepted {
        /// It had been before.
        already: bool,
    },
    /// These are missing; perhaps more, below those that are trees.
    Missing(Vec<(ContentHash, ChunkKind)>),
    /// It is not what it should be, whoever sends it: why.
    Invalid(String),
}

/// A snapshot's sealed manifest, opened; or why it is none.
type Opened = std::result::Result<Manifest, String>;

impl Receiver {
    /// Records a tenant's snapshot if all it reaches is there.
    ///
    /// Invalid is one that does not open as this snapshot's, is of another host than the agent's, or has a tree that is not
    /// what its place says. What turns out to be damaged here meanwhile is noted, and missing.
    ///
    /// # Errors
    /// What storage, log and index give.
    pub fn accept(
        &mut self,
        from: &Sender,
        snapshot: SnapshotId,
        sealed: &[u8],
        monitor: &dyn Monitor,
    ) -> Result<Answer> {
        self.settle()?;
        // What was swept meanwhile is not trusted to be there: the index follows the log first.
        self.repo.refresh(monitor)?;
        let mut manifest = match opened(from, snapshot, sealed)? {
            Ok(manifest) => manifest,
            Err(why) => return Ok(Answer::Invalid(why)),
        };
        let id = from.id_here(snapshot);
        let known = match self.repo.log.state().snapshots.get(&id) {
            Some(known) if from.owns(known) => Some(known.recorded),
            // Nobody who draws ids by chance comes here.
            Some(_) => return Ok(Answer::Invalid("its id is another snapshot's".to_owned())),
            // What was forgotten and swept here is not wanted back.
            None if self.repo.index.is_buried(&id)? => return Ok(Answer::Accepted { already: true }),
            None => None,
        };
        // One whose file was lost here comes back by what was delivered, if it is sent again.
        if known.is_some() {
            match snapshots::manifest(&self.repo, &id) {
                Ok(known) => {
                    derive_owned(&self.repo, from, monitor)?;
                    return match self.lacking(from, &known, monitor)? {
                        Answer::Missing(missing) if missing.is_empty() => Ok(Answer::Accepted { already: true }),
                        other => Ok(other),
                    };
                }
                Err(e) if matches!(e.kind(), Kind::Damaged | Kind::NotFound) => {}
                Err(e) => return Err(e),
            }
        }
        derive_owned(&self.repo, from, monitor)?;
        match self.lacking(from, &manifest, monitor)? {
            Answer::Missing(missing) if missing.is_empty() => {}
            other => return Ok(other),
        }
        manifest.id = id;
        if let Some(recorded) = known {
            manifest.recorded = recorded.0;
            snapshots::replace(&self.repo, &manifest)?;
            return Ok(Answer::Accepted { already: true });
        }
        let now = self.repo.clock.now().0;
        let origin = match from.host {
            // This is the first repository that records it: nobody's word but this clock's.
            Some(_) => {
                manifest.recorded = now;
                None
            }
            // What stands in the manifest is the tenant's word: it cannot be later than now.
            None => {
                manifest.recorded = manifest.recorded.min(now);
                Some(Origin { tenant: from.number, id: snapshot })
            }
        };
        snapshots::record_from(&self.repo, &self.session, &manifest, origin)?;
        Ok(Answer::Accepted { already: false })
    }

    /// What the snapshot lacks; again, where something that was thought to be here is damaged.
    fn lacking(&self, from: &Sender, manifest: &Manifest, monitor: &dyn Monitor) -> Result<Answer> {
        loop {
            let store = Noting { store: self.repo.packs(), bad: Mutex::default() };
            let e = match self.missing(from, manifest, &store, monitor) {
                Err(e) if e.kind() == Kind::Damaged => e,
                other => return other.map(Answer::Missing),
            };
            // Each chunk proved to be what it is called when it came: what does not read well together, or is not of the
            // sort that is named, is the sender's.
            let bad = store.bad.into_inner();
            let Some(h) = bad.first() else { return Ok(Answer::Invalid(e.to_string())) };
            let found = self.repo.packs().locate(h)?.filter(|(_, info)| info.usable());
            let Some((at, info)) = found else { return Err(e) };
            if is_whole(&self.repo.packs(), h, at, &info) {
                return Ok(Answer::Invalid(e.to_string()));
            }
            note_damage(&self.repo, info.id, monitor)?;
            monitor.event(Event::Warning(&format!("pack {} is damaged: {e}", info.id.short())));
        }
    }

    fn missing(
        &self,
        from: &Sender,
        manifest: &Manifest,
        source: &Noting,
        monitor: &dyn Monitor,
    ) -> Result<Vec<(ContentHash, ChunkKind)>> {
        let (store, state) = (&source.store, self.repo.log.state());
        // What is complete stays so until a pack goes, and that is known here once the index has followed the log.
        let followed = self.repo.index.position()? == Some(state.position);
        let trusted = followed && state.damaged.is_empty() && state.condemned.is_empty() && state.sweep.is_none();
        let (mut marks, mut missing, mut complete) = (Marks::default(), Vec::new(), Vec::new());
        closure::walk(source, manifest, monitor, &mut |h, kind| {
            let theirs = from.keys.chunk_id(h);
            if trusted && kind != ChunkKind::Data && self.repo.index.is_complete(from.number, &theirs)? {
                return Ok(false);
            }
            let here = owned(&self.repo, from, h)?;
            if here {
                let new = marks.chunk(store, h).inspect_err(|_| source.bad.lock().push(*h))?;
                if new && kind != ChunkKind::Data && complete.len() < COMPLETE_MOST {
                    complete.push(theirs);
                }
                return Ok(new);
            }
            if missing.len() < MISSING_MOST {
                missing.push((*h, kind));
            }
            Ok(false)
        })?;
        if missing.is_empty() {
            self.repo.index.complete(from.number, &complete)?;
        }
        missing.sort_unstable();
        missing.dedup();
        Ok(missing)
    }
}

fn opened(from: &Sender, snapshot: SnapshotId, sealed: &[u8]) -> Result<Opened> {
    let plain = from.keys.open(Object::Manifest, snapshot.as_bytes(), sealed);
    let manifest = match plain.and_then(|plain| Manifest::decode(&plain, &snapshot)) {
        Err(e) if e.kind() == Kind::Damaged => return Ok(Err(e.to_string())),
        other => other?,
    };
    if let Some(host) = from.host.as_ref().filter(|host| **host != manifest.host) {
        let other = manifest.host.escape_debug();
        return Ok(Err(format!("it is a snapshot of host '{other}', and this agent's is '{host}'")));
    }
    Ok(Ok(manifest))
}

/// This repository's chunks, and which of them could not be read.
struct Noting {
    store: Arc<PackStore>,
    bad: Mutex<Vec<ContentHash>>,
}

impl FrameSource for Noting {
    fn chunk(&self, h: &ContentHash, kind: ChunkKind) -> Result<Chunk> {
        self.store.chunk(h, kind).inspect_err(|e| {
            if e.kind() == Kind::Damaged {
                self.bad.lock().push(*h);
            }
        })
    }

    fn prefetch(&self, chunks: &[(ContentHash, ChunkKind)]) {
        self.store.prefetch(chunks);
    }
}

/// Whether the chunk reads as what it is, whatever anybody calls it.
fn is_whole(store: &PackStore, h: &ContentHash, at: Location, info: &PackInfo) -> bool {
    let kind = store.pack(info).ok().and_then(|pack| {
        let frame = pack.footer.frames.get(at.frame as usize)?;
        Some(pack.footer.chunks[frame.chunks()].get(usize::from(at.slot))?.kind)
    });
    kind.is_some_and(|kind| store.chunk(h, kind).is_ok())
}

/// Records that a pack is damaged, so that what lies in it counts no more.
fn note_damage(repo: &Repository, pack: PackId, monitor: &dyn Monitor) -> Result<()> {
    let commit = repo.locks.commit(COMMIT_WAIT)?;
    repo.log.refresh()?;
    let state = repo.log.state();
    if !state.damaged.contains_key(&pack) {
        // Later than any check that did not know of it, whatever the clock says.
        let checked = state.last_check.as_ref().map_or(i64::MIN, |check| check.at.0.saturating_add(1));
        let at = Time(repo.clock.now().0.max(checked));
        repo.log.append(&commit, Record::Damage { packs: vec![pack], at })?;
    }
    drop(commit);
    repo.refresh(monitor).map(drop)
}

/// Whether the tenant delivered the chunk, and it is in a pack that stays.
fn owned(repo: &Repository, from: &Sender, h: &ContentHash) -> Result<bool> {
    if !owns(repo, from, &[from.keys.chunk_id(h)])?[0] {
        return Ok(false);
    }
    Ok(repo.index.lookup_usable(&[repo.keys.chunk_id(h)])?[0].is_some())
}

impl Sender {
    /// Whether something that this tenant owned is in no pack that is whole: then what is known of how far it has delivered
    /// everything does not hold.
    ///
    /// # Errors
    /// What index and log give.
    pub fn has_lost(&self, repo: &Repository) -> Result<bool> {
        let state = repo.log.state();
        for (id, _) in state.snapshots.iter().filter(|(_, s)| s.forgotten.is_none() && self.owns(s)) {
            if repo.backend.size(&crate::backend::Object::Snapshot(*id))?.is_none() {
                return Ok(true);
            }
        }
        if state.damaged.is_empty() {
            return Ok(false);
        }
        let packs = repo.packs();
        for id in state.damaged.keys() {
            let Some(info) = repo.index.pack_by_id(id)? else { continue };
            // One whose contents nobody knows any more may have held anything.
            let Ok(pack) = packs.pack(&info) else { return Ok(true) };
            for chunks in pack.footer.chunks.chunks(BATCH) {
                let theirs: Vec<ChunkId> = chunks.iter().map(|chunk| self.keys.chunk_id(&chunk.h)).collect();
                let ours: Vec<ChunkId> = chunks.iter().map(|chunk| repo.keys.chunk_id(&chunk.h)).collect();
                let here = repo.index.lookup_usable(&ours)?;
                if owns(repo, self, &theirs)?.iter().zip(&here).any(|(owned, here)| *owned && here.is_none()) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Whether each chunk must still be delivered.
    ///
    /// # Errors
    /// What the index gives.
    pub fn lacks(&self, repo: &Repository, chunks: &[ContentHash]) -> Result<Vec<bool>> {
        let owned = self.has(repo, chunks)?;
        let ours: Vec<ChunkId> = chunks.iter().map(|h| repo.keys.chunk_id(h)).collect();
        let here = repo.index.lookup_usable(&ours)?;
        let lacks = |(owned, here): (&bool, &Option<Location>)| !(*owned && here.is_some());
        Ok(owned.iter().zip(&here).map(lacks).collect())
    }

    /// Whether each chunk was delivered, and may be given back: also from a pack that is to be removed.
    ///
    /// # Errors
    /// What the index gives.
    pub fn has(&self, repo: &Repository, chunks: &[ContentHash]) -> Result<Vec<bool>> {
        let theirs: Vec<ChunkId> = chunks.iter().map(|h| self.keys.chunk_id(h)).collect();
        owns(repo, self, &theirs)
    }
}

/// Finds out what a tenant owns from its snapshots, an agent from its host's, if that is not known: after the index was
/// lost or packs were pruned. Who comes while another does it waits.
///
/// # Errors
/// `Interrupted`; what index, manifests and trees give.
pub fn derive_owned(repo: &Repository, of: &Sender, monitor: &dyn Monitor) -> Result<Ownership> {
    if let Some(known) = repo.index.ownership(of.number)? {
        return Ok(known);
    }
    let one_at_a_time = Arc::clone(repo.deriving.lock().entry(of.number).or_default());
    let _turn = one_at_a_time.lock();
    // Of other processes, too; where there are no locks, nobody else writes.
    let _theirs = match repo.locks.deriving(of.number, monitor) {
        Err(e) if e.kind() == Kind::ReadOnly => None,
        other => Some(other?),
    };
    // Each prune may come between; a monitor that is cancelled ends this too.
    loop {
        if let Some(known) = repo.index.ownership(of.number)? {
            return Ok(known);
        }
        let number = repo.index.begin_deriving(of.number)?;
        if derive(repo, of, number, monitor)? {
            repo.index.end_deriving(of.number, number)?;
        }
    }
}

/// The packs in which lies what drives have brought of this tenant's, before its snapshots are whole.
fn brought(repo: &Repository, of: &Sender) -> Result<Vec<PackId>> {
    let (mut packs, state) = (Vec::new(), repo.log.state());
    // A name may have been a removed tenant's before.
    let own = of.keys.repo_id();
    let theirs = |drive: &DriveState| !drive.back && drive.party == of.name && drive.repository == own;
    for drive in state.drives.values().filter(|drive| theirs(drive) && of.host.is_none()) {
        packs.extend(loaded(repo.backend.as_ref(), &repo.keys, &drive.loads)?);
    }
    Ok(packs)
}

/// One derivation; whether it still held at its end.
fn derive(repo: &Repository, of: &Sender, number: u64, monitor: &dyn Monitor) -> Result<bool> {
    let (store, state) = (repo.packs(), repo.log.state());
    let (mut marks, mut batch, mut holds) = (Marks::default(), Vec::new(), true);
    for pack in brought(repo, of)? {
        let Some(info) = repo.index.pack_by_id(&pack)? else { continue };
        let Ok(pack) = store.pack(&info) else { continue };
        batch.extend(pack.footer.chunks.iter().map(|chunk| (of.keys.chunk_id(&chunk.h), chunk.len)));
        if batch.len() >= BATCH {
            holds &= repo.index.own_derived(of.number, number, &std::mem::take(&mut batch))?;
        }
    }
    for (id, _) in state.snapshots.iter().filter(|(_, snapshot)| of.owns(snapshot)) {
        let walked = snapshots::manifest(repo, id).and_then(|manifest| {
            closure::walk(store.as_ref(), &manifest, monitor, &mut |h, _| {
                let new = marks.chunk(&store, h)?;
                if new {
                    batch.push((of.keys.chunk_id(h), length(&store, h)?));
                }
                if batch.len() >= BATCH {
                    holds &= repo.index.own_derived(of.number, number, &std::mem::take(&mut batch))?;
                }
                Ok(new && holds)
            })
        });
        match walked {
            // What cannot be read is delivered again.
            Err(e) if matches!(e.kind(), Kind::Damaged | Kind::NotFound) => {}
            other => other?,
        }
        if !holds {
            return Ok(false);
        }
    }
    repo.index.own_derived(of.number, number, &batch)
}

/// Which of these chunks the tenant owns, by ids under its own key; derived first where that must be.
pub(super) fn owns(repo: &Repository, of: &Sender, chunks: &[ChunkId]) -> Result<Vec<bool>> {
    loop {
        if let Some(owned) = repo.index.owns(of.number, chunks)? {
            return Ok(owned);
        }
        derive_owned(repo, of, &Void::default())?;
    }
}

fn length(store: &PackStore, h: &ContentHash) -> Result<u32> {
    let gone = || Error::damaged("the index does not fit the packs");
    let (at, info) = store.locate(h)?.ok_or_else(gone)?;
    let pack = store.pack(&info)?;
    let frame = pack.footer.frames.get(at.frame as usize).ok_or_else(gone)?;
    let chunk = pack.footer.chunks[frame.chunks()].get(usize::from(at.slot)).ok_or_else(gone)?;
    Ok(chunk.len)
}
