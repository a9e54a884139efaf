//! Marking what snapshots need: a bit for each chunk of each pack, by where the index has it.
//!
//! Memory is an eighth of a byte a chunk that is stored and about 100 bytes a pack; hashes are not kept. A chunk
//! whose bit is set is not walked again, so a directory that many snapshots share is read once.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::id::{ContentHash, PackId, SnapshotId};
use crate::index::{Location, PackInfo};
use crate::monitor::Monitor;
use crate::open::Repository;
use crate::pack::store::{OpenPack, PackStore};
use crate::snapshots;
use crate::sweep::Needed;
use crate::tree::closure;

/// The marked chunks of one pack.
#[derive(Default)]
pub struct Bits {
    words: Vec<u64>,
    /// How many are set.
    pub count: u32,
    /// What the marked chunks take in the pack: their share of their frames.
    pub stored: u64,
}

impl Bits {
    /// Whether the pack's `ordinal`-th chunk is marked.
    pub fn has(&self, ordinal: usize) -> bool {
        self.words.get(ordinal / 64).is_some_and(|word| word >> (ordinal % 64) & 1 != 0)
    }

    fn set(&mut self, ordinal: usize) -> bool {
        if self.has(ordinal) {
            return false;
        }
        if self.words.len() <= ordinal / 64 {
            self.words.resize(ordinal / 64 + 1, 0);
        }
        self.words[ordinal / 64] |= 1 << (ordinal % 64);
        self.count += 1;
        true
    }
}

/// What decides which of several copies of a chunk an index goes by.
struct Basis {
    generation: u64,
    damaged: BTreeSet<PackId>,
    condemned: BTreeSet<PackId>,
}

impl Basis {
    fn of(repo: &Repository) -> Basis {
        let state = repo.log.state();
        Basis {
            generation: repo.index.generation(),
            damaged: state.damaged.keys().copied().collect(),
            condemned: state.condemned.keys().copied().collect(),
        }
    }

    /// Whether chunks may have another place now.
    fn moved_since(&self, before: &Basis) -> bool {
        let found_damaged = self.damaged != before.damaged;
        let taken_back = !self.damaged.is_empty() && !before.condemned.is_subset(&self.condemned);
        self.generation != before.generation || found_damaged || taken_back
    }
}

/// Marks, and what they were made from.
pub struct Marker<'a> {
    repo: &'a Repository,
    store: Arc<PackStore>,
    packs: HashMap<PackId, Bits>,
    /// The index by whose places the marks are.
    basis: Basis,
    walked: BTreeSet<SnapshotId>,
    /// What chunks take that were marked since this was last set to 0.
    pub stored: u64,
    monitor: &'a dyn Monitor,
}

impl<'a> Marker<'a> {
    /// Without a mark yet.
    pub fn new(repo: &'a Repository, monitor: &'a dyn Monitor) -> Marker<'a> {
        let (packs, walked) = (HashMap::new(), BTreeSet::new());
        let (store, basis) = (repo.packs(), Basis::of(repo));
        Marker { repo, store, packs, basis, walked, stored: 0, monitor }
    }

    /// After the index was rebuilt, or packs were found damaged or made up for such: moves the marks to where the index has
    /// the chunks now. Of one that is stored twice it may have chosen the other copy, and a pack whose copy is not marked
    /// would be taken for unneeded. What is looked at is the log as it was refreshed last, which the index has followed.
    ///
    /// # Errors
    /// What the index gives; `Damaged` when it lacks a marked chunk.
    pub fn follow_index(&mut self) -> Result<()> {
        loop {
            let before = std::mem::replace(&mut self.basis, Basis::of(self.repo));
            if !self.basis.moved_since(&before) {
                return Ok(());
            }
            let stored = self.stored;
            for (id, bits) in std::mem::take(&mut self.packs) {
                let lacking = || Error::damaged("the rebuilt index lacks a pack").at(self.pack_path(&id));
                let info = self.repo.index.pack_by_id(&id)?.ok_or_else(lacking)?;
                let pack = self.store.pack(&info)?;
                for (ordinal, chunk) in pack.footer.chunks.iter().enumerate() {
                    if bits.has(ordinal) {
                        self.chunk(&chunk.h)?;
                    }
                }
            }
            self.stored = stored;
        }
    }

    fn pack_path(&self, id: &PackId) -> std::path::PathBuf {
        self.repo.backend.path(&crate::backend::Object::Pack(*id))
    }

    /// Whether everything the snapshot needs is marked.
    pub fn knows(&self, id: &SnapshotId) -> bool {
        self.walked.contains(id)
    }

    /// The marks in a pack; none if it has none.
    pub fn of(&self, pack: &PackId) -> Option<&Bits> {
        self.packs.get(pack)
    }

    /// Marks everything that a snapshot reaches.
    ///
    /// # Errors
    /// `Damaged`, naming the snapshot, when a manifest or tree cannot be read or a chunk is in no pack; `Interrupted`.
    /// The marks are of no use then.
    pub fn snapshot(&mut self, id: &SnapshotId) -> Result<()> {
        if self.knows(id) {
            return Ok(());
        }
        let whose = |e: Error| match e.kind() {
            Kind::Damaged | Kind::NotFound => {
                let why = format!("nothing was deleted: snapshot {} cannot be read as a whole: {e}", id.short());
                Error::damaged(why).remedy("run `packmule check`; forgetting the snapshots it names lets prune go on")
            }
            _ => e,
        };
        let manifest = snapshots::manifest(self.repo, id).map_err(whose)?;
        let store = Arc::clone(&self.store);
        // That a chunk is marked means that nothing below it is missing: it is not looked into again.
        let walked = closure::walk(store.as_ref(), &manifest, self.monitor, &mut |h, _| self.chunk(h));
        walked.map_err(|e| match e.kind() {
            Kind::Interrupted => Error::new(Kind::Interrupted, "stopped before anything was deleted"),
            _ => whose(e),
        })?;
        self.walked.insert(*id);
        Ok(())
    }

    /// Marks a chunk where the index has it; whether it was not marked there before.
    fn chunk(&mut self, h: &ContentHash) -> Result<bool> {
        let found = self.repo.index.find(&self.repo.keys.chunk_id(h))?;
        let (at, info) =
            found.ok_or_else(|| Error::damaged("it needs a piece of data that no pack of this repository has"))?;
        let pack = self.store.pack(&info)?;
        let ordinal = ordinal(&pack, &at)?;
        if pack.footer.chunks[ordinal].h != *h {
            return Err(wrong_index());
        }
        Ok(self.set(&pack, &at, ordinal))
    }

    fn set(&mut self, pack: &OpenPack, at: &Location, ordinal: usize) -> bool {
        let bits = self.packs.entry(pack.id).or_default();
        let new = bits.set(ordinal);
        if new {
            let frame = &pack.footer.frames[at.frame as usize];
            let share = share(frame.stored, frame.raw, pack.footer.chunks[ordinal].len);
            bits.stored += share;
            self.stored += share;
        }
        new
    }

    /// After a pack's chunks were rewritten: moves its marks to where the index now has them. Whether all went.
    ///
    /// # Errors
    /// What the index gives.
    pub fn transfer(&mut self, info: &PackInfo) -> Result<bool> {
        let Some(bits) = self.packs.remove(&info.id) else { return Ok(true) };
        let pack = self.store.pack(info)?;
        let mut left = false;
        for (ordinal, chunk) in pack.footer.chunks.iter().enumerate() {
            if bits.has(ordinal) {
                self.chunk(&chunk.h)?;
            }
        }
        if let Some(still) = self.packs.get(&info.id) {
            left = still.count > 0;
        }
        Ok(!left)
    }
}

impl Needed for Marker<'_> {
    fn generation(&self) -> u64 {
        self.basis.generation
    }

    fn needed(&self, info: &PackInfo, at: &Location) -> Result<bool> {
        let Some(bits) = self.packs.get(&info.id) else { return Ok(false) };
        let pack = self.store.pack(info)?;
        Ok(bits.has(ordinal(&pack, at)?))
    }
}

/// A chunk's place among all of its pack.
fn ordinal(pack: &OpenPack, at: &Location) -> Result<usize> {
    let frame = pack.footer.frames.get(at.frame as usize).ok_or_else(wrong_index)?;
    if u32::from(at.slot) >= frame.count {
        return Err(wrong_index());
    }
    Ok(frame.first as usize + usize::from(at.slot))
}

/// What a chunk of `len` bytes takes of a frame.
pub fn share(stored: u32, raw: u32, len: u32) -> u64 {
    u64::from(stored) * u64::from(len) / u64::from(raw.max(1))
}

fn wrong_index() -> Error {
    Error::damaged("the index does not fit the packs").remedy("run `packmule rebuild-index`")
}
