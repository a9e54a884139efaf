//! Accepting a snapshot: only when everything it reaches is there, delivered by the tenant itself.

use super::{Receiver, Sender};
use crate::crypto::hash::ChunkKind;
use crate::crypto::keys::Object;
use crate::error::{Error, Kind, Result};
use crate::format::manifest::Manifest;
use crate::format::record::Origin;
use crate::id::{ChunkId, ContentHash, SnapshotId};
use crate::index::Location;
use crate::monitor::{Monitor, Void};
use crate::open::Repository;
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
}

impl Receiver {
    /// Records a tenant's snapshot if all it reaches is there.
    ///
    /// # Errors
    /// `Damaged` if the manifest does not open as this snapshot's, is of another host than the agent's, or a tree of it
    /// is not what its place says; what
    /// storage, log and index give.
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
        let plain = from.keys.open(Object::Manifest, snapshot.as_bytes(), sealed)?;
        let mut manifest = Manifest::decode(&plain, &snapshot)?;
        if let Some(host) = from.host.as_ref().filter(|host| **host != manifest.host) {
            let other = manifest.host.escape_debug();
            return Err(Error::damaged(format!("it is a snapshot of host '{other}', and this agent's is '{host}'")));
        }
        let id = from.id_here(snapshot);
        let known = match self.repo.log.state().snapshots.get(&id) {
            Some(known) if from.owns(known) => Some(known.recorded),
            // Nobody who draws ids by chance comes here.
            Some(_) => return Err(Error::damaged("its id is another snapshot's")),
            None => None,
        };
        // One whose file was lost here comes back by what was delivered, if it is sent again.
        if known.is_some() {
            match snapshots::manifest(&self.repo, &id) {
                Ok(_) => return Ok(Answer::Accepted { already: true }),
                Err(e) if matches!(e.kind(), Kind::Damaged | Kind::NotFound) => {}
                Err(e) => return Err(e),
            }
        }
        if self.repo.index.ownership(from.number)?.is_none() {
            derive_owned(&self.repo, from, monitor)?;
        }
        let missing = self.missing(from, &manifest, monitor)?;
        if !missing.is_empty() {
            return Ok(Answer::Missing(missing));
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

    fn missing(
        &self,
        from: &Sender,
        manifest: &Manifest,
        monitor: &dyn Monitor,
    ) -> Result<Vec<(ContentHash, ChunkKind)>> {
        let (store, state) = (self.repo.packs(), self.repo.log.state());
        // What is complete stays so until a pack goes, and that is known here once the index has followed the log.
        let followed = self.repo.index.position()? == Some(state.position);
        let trusted = followed && state.damaged.is_empty() && state.condemned.is_empty() && state.sweep.is_none();
        let (mut marks, mut missing, mut complete) = (Marks::default(), Vec::new(), Vec::new());
        closure::walk(store.as_ref(), manifest, monitor, &mut |h, kind| {
            let theirs = from.keys.chunk_id(h);
            if trusted && kind != ChunkKind::Data && self.repo.index.is_complete(from.number, &theirs)? {
                return Ok(false);
            }
            let here = owned(&self.repo, from, h)?;
            if here {
                let new = marks.chunk(&store, h)?;
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

/// Whether the tenant delivered the chunk, and it is in a pack that stays.
fn owned(repo: &Repository, from: &Sender, h: &ContentHash) -> Result<bool> {
    if !repo.index.owns(from.number, &[from.keys.chunk_id(h)])?[0] {
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
        if repo.index.ownership(self.number)?.is_none() {
            derive_owned(repo, self, &Void::default())?;
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
                if repo
                    .index
                    .owns(self.number, &theirs)?
                    .iter()
                    .zip(&here)
                    .any(|(owned, here)| *owned && here.is_none())
                {
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
        if repo.index.ownership(self.number)?.is_none() {
            derive_owned(repo, self, &Void::default())?;
        }
        let theirs: Vec<ChunkId> = chunks.iter().map(|h| self.keys.chunk_id(h)).collect();
        let owned = repo.index.owns(self.number, &theirs)?;
        let ours: Vec<ChunkId> = chunks.iter().map(|h| repo.keys.chunk_id(h)).collect();
        let here = repo.index.lookup_usable(&ours)?;
        Ok(owned
            .iter()
            .zip(&here)
            .map(|(owned, here): (&bool, &Option<Location>)| !(*owned && here.is_some()))
            .collect())
    }
}

/// Finds out what a tenant owns from its snapshots, an agent from its host's, after the index was lost or packs were pruned.
///
/// # Errors
/// `Interrupted`; what index, manifests and trees give.
pub fn derive_owned(repo: &Repository, of: &Sender, monitor: &dyn Monitor) -> Result<()> {
    let (number, keys) = (of.number, &of.keys);
    repo.index.disown(number)?;
    let (store, state) = (repo.packs(), repo.log.state());
    let (mut marks, mut batch) = (Marks::default(), Vec::new());
    for (id, _) in state.snapshots.iter().filter(|(_, snapshot)| of.owns(snapshot)) {
        let walked = snapshots::manifest(repo, id).and_then(|manifest| {
            closure::walk(store.as_ref(), &manifest, monitor, &mut |h, _| {
                let new = marks.chunk(&store, h)?;
                if new {
                    batch.push((keys.chunk_id(h), length(&store, h)?));
                }
                if batch.len() >= BATCH {
                    repo.index.own(number, &std::mem::take(&mut batch))?;
                }
                Ok(new)
            })
        });
        match walked {
            // What cannot be read is delivered again.
            Err(e) if matches!(e.kind(), Kind::Damaged | Kind::NotFound) => {}
            other => other?,
        }
    }
    repo.index.own(number, &batch)
}

fn length(store: &PackStore, h: &ContentHash) -> Result<u32> {
    let gone = || Error::damaged("the index does not fit the packs");
    let (at, info) = store.locate(h)?.ok_or_else(gone)?;
    let pack = store.pack(&info)?;
    let frame = pack.footer.frames.get(at.frame as usize).ok_or_else(gone)?;
    let chunk = pack.footer.chunks[frame.chunks()].get(usize::from(at.slot)).ok_or_else(gone)?;
    Ok(chunk.len)
}
