//! From chunks to durable, indexed packs: look up, group, compress and seal on all cores, write, record.
//!
//! The caller feeds chunks in walk order from one thread. Queues are bounded, so memory is: open groups, what
//! the sealers hold, the two packs being filled and the one being written.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use crate::backend::Backend;
use crate::compress::Packer;
use crate::crypto::hash::{ChunkKind, content_hash};
use crate::crypto::keys::{FrameKind, Keys};
use crate::error::{Error, Result};
use crate::id::{ContentHash, SessionId};
use crate::index::Index;
use crate::limits::{FRAME_GROUP, FRAME_GROUP_LARGE, FRAME_GROUP_TREE, MAX_FRAME_RAW};
use crate::pack::build::{FinishedPack, Group, PackBuilder, PackedFrame, SealedFrame, seal, seal_packed};
use crate::pack::source::ChunkSink;

/// Where finished packs go; called from one thread. [`crate::session`] has the implementation that records them.
pub trait PackSink: Send {
    /// Makes the pack durable.
    ///
    /// # Errors
    /// What the backend gives.
    fn store(&mut self, pack: FinishedPack) -> Result<()>;

    /// Records and indexes all packs stored so far; returns the hashes of their chunks.
    ///
    /// # Errors
    /// What log and index give.
    fn commit(&mut self) -> Result<Vec<ContentHash>>;

    /// Whether enough has gathered for a [`PackSink::commit`].
    fn due(&self) -> bool;
}

/// Which frames a chunk travels in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Route {
    /// File data of small files: grouped.
    Small,
    /// File data of large files.
    Large,
    /// Trees, nodes and sidecars.
    Meta,
}

impl Route {
    fn group(self) -> usize {
        match self {
            Route::Small => FRAME_GROUP,
            Route::Large => FRAME_GROUP_LARGE,
            Route::Meta => FRAME_GROUP_TREE,
        }
    }

    fn kind(self) -> FrameKind {
        if self == Route::Meta { FrameKind::Tree } else { FrameKind::Data }
    }
}

/// What is to become a frame.
enum Unsealed {
    /// Plaintext.
    Group(Group),
    /// Compressed already.
    Packed(PackedFrame),
}

/// What a writer did.
#[derive(Debug, Default)]
pub struct Totals {
    /// Chunks that were new.
    pub chunks_new: AtomicU64,
    /// Those of them that are trees, nodes or sidecars.
    pub meta_chunks_new: AtomicU64,
    /// Their plaintext bytes.
    pub bytes_new: AtomicU64,
    /// What they take in packs, footers included.
    pub bytes_stored: AtomicU64,
}

/// Parameters of a writer.
pub struct WriterParams {
    /// Keys to seal with.
    pub keys: Arc<Keys>,
    /// The index asked what is there.
    pub index: Index,
    /// The session written in every footer.
    pub session: SessionId,
    /// Size at which a pack is closed.
    pub pack_size: usize,
    /// zstd's level.
    pub level: i32,
    /// Where packs grow; none: in memory.
    pub within: Option<Arc<dyn Backend>>,
}

/// Chunks not yet in the index that are remembered: some 70 MB. Commits keep a writer far below it. A dry run has none, and
/// past it counts as new what it meets again.
const MAX_PENDING: usize = 1 << 20;

/// Chunks stored by this writer and not yet in the index, and how many there may be.
struct Pending(HashSet<ContentHash>, usize);

impl Pending {
    fn new(most: usize) -> Pending {
        Pending(HashSet::new(), most)
    }

    /// Remembers a chunk while there is room. At worst one is stored twice.
    fn insert(&mut self, h: ContentHash) {
        if self.0.len() < self.1 {
            self.0.insert(h);
        }
    }
}

/// State shared with the threads.
struct Shared {
    pending: Mutex<Pending>,
    failed: Mutex<Option<Error>>,
    totals: Totals,
}

impl Shared {
    fn fail(&self, error: Error) {
        self.failed.lock().get_or_insert(error);
    }

    fn error(&self) -> Error {
        self.failed.lock().take().unwrap_or_else(|| Error::bug("a writer's thread ended without a word"))
    }
}

/// Writes chunks; see the module.
pub struct PackWriter {
    params: Arc<WriterParams>,
    shared: Arc<Shared>,
    groups: [Group; 3],
    to_seal: Option<Sender<(FrameKind, Unsealed)>>,
    threads: Vec<JoinHandle<()>>,
}

impl PackWriter {
    /// Starts the threads. `sink` gets the packs.
    pub fn start(params: WriterParams, sink: Box<dyn PackSink>) -> PackWriter {
        let params = Arc::new(params);
        let shared = Arc::new(Shared {
            pending: Mutex::new(Pending::new(MAX_PENDING)),
            failed: Mutex::new(None),
            totals: Totals::default(),
        });
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let (to_seal, groups) = bounded::<(FrameKind, Unsealed)>(2 * cores);
        let (to_pack, frames) = bounded::<SealedFrame>(4 * cores);
        // No room: one pack is written while the next is filled, and no third waits.
        let (to_store, packs) = bounded::<FinishedPack>(0);
        let mut threads = Vec::new();
        for _ in 0..cores {
            let (params, shared, groups, to_pack) =
                (Arc::clone(&params), Arc::clone(&shared), groups.clone(), to_pack.clone());
            threads.push(std::thread::spawn(move || guard(&shared, || seal_all(&params, &groups, &to_pack))));
        }
        drop((groups, to_pack));
        let (p, s) = (Arc::clone(&params), Arc::clone(&shared));
        threads.push(std::thread::spawn(move || guard(&s, || pack_all(&p, &frames, &to_store))));
        let s = Arc::clone(&shared);
        threads.push(std::thread::spawn(move || guard(&s, || store_all(&s, sink, &packs))));
        let groups = [Group::default(), Group::default(), Group::default()];
        PackWriter { params, shared, groups, to_seal: Some(to_seal), threads }
    }

    /// What was done so far.
    pub fn totals(&self) -> &Totals {
        &self.shared.totals
    }

    /// Whether a chunk is stored, or on its way, in a pack that is neither condemned nor damaged.
    ///
    /// # Errors
    /// What the index gives.
    pub fn has(&self, h: &ContentHash) -> Result<bool> {
        if self.shared.pending.lock().0.contains(h) {
            return Ok(true);
        }
        let found = self.params.index.lookup_usable(&[self.params.keys.chunk_id(h)])?;
        Ok(found[0].is_some())
    }

    /// Stores a chunk unless it is there. `h` must be its content hash. Returns whether it was new.
    ///
    /// # Errors
    /// What the index gives, or the first failure of any thread.
    pub fn store(&mut self, route: Route, kind: ChunkKind, h: ContentHash, bytes: &[u8]) -> Result<bool> {
        if bytes.len() > MAX_FRAME_RAW {
            // The pack's footer would be refused, and with it everything else in the pack.
            return Err(Error::bug("a chunk is larger than any frame may be"));
        }
        if self.has(&h)? {
            return Ok(false);
        }
        self.count(route, h, bytes.len());
        if !self.groups[route as usize].fits(bytes.len(), route.group()) {
            self.flush(route)?;
        }
        self.groups[route as usize].push(kind, h, bytes);
        Ok(true)
    }

    /// Stores a frame as it was compressed elsewhere, if every chunk of it is new, and it is full enough to stand alone.
    /// Returns whether it was stored; else its chunks may be, one by one. It must unpack to just its chunks, whose hashes
    /// are theirs.
    ///
    /// # Errors
    /// As [`PackWriter::store`].
    pub fn store_packed(&mut self, route: Route, frame: PackedFrame) -> Result<bool> {
        let full = frame.raw as usize >= route.group() / 2 && frame.raw as usize <= MAX_FRAME_RAW;
        if !full || !self.all_new(&frame)? {
            return Ok(false);
        }
        for (_, h, len) in &frame.chunks {
            self.count(route, *h, *len as usize);
        }
        self.send(route, Unsealed::Packed(frame)).map(|()| true)
    }

    fn all_new(&self, frame: &PackedFrame) -> Result<bool> {
        let mut once = HashSet::with_capacity(frame.chunks.len());
        let pending = self.shared.pending.lock();
        if frame.chunks.iter().any(|(_, h, _)| pending.0.contains(h) || !once.insert(*h)) {
            return Ok(false);
        }
        drop(pending);
        let ids: Vec<_> = frame.chunks.iter().map(|(_, h, _)| self.params.keys.chunk_id(h)).collect();
        Ok(self.params.index.lookup_usable(&ids)?.iter().all(Option::is_none))
    }

    fn count(&self, route: Route, h: ContentHash, len: usize) {
        self.shared.pending.lock().insert(h);
        let totals = &self.shared.totals;
        totals.chunks_new.fetch_add(1, Ordering::Relaxed);
        totals.meta_chunks_new.fetch_add(u64::from(route == Route::Meta), Ordering::Relaxed);
        totals.bytes_new.fetch_add(len as u64, Ordering::Relaxed);
    }

    fn flush(&mut self, route: Route) -> Result<()> {
        let group = std::mem::take(&mut self.groups[route as usize]);
        if group.chunks.is_empty() { Ok(()) } else { self.send(route, Unsealed::Group(group)) }
    }

    fn send(&self, route: Route, frame: Unsealed) -> Result<()> {
        let sent = self.to_seal.as_ref().is_some_and(|tx| tx.send((route.kind(), frame)).is_ok());
        if sent { Ok(()) } else { Err(self.shared.error()) }
    }

    /// Writes everything that is open, waits until all packs are durable, recorded and indexed.
    ///
    /// # Errors
    /// The first failure of any thread; nothing may then refer to what was stored.
    pub fn finish(mut self) -> Result<Totals> {
        for route in [Route::Small, Route::Large, Route::Meta] {
            self.flush(route)?;
        }
        self.join();
        if let Some(error) = self.shared.failed.lock().take() {
            return Err(error);
        }
        let take = |n: &AtomicU64| AtomicU64::new(n.load(Ordering::Relaxed));
        let totals = &self.shared.totals;
        Ok(Totals {
            chunks_new: take(&totals.chunks_new),
            meta_chunks_new: take(&totals.meta_chunks_new),
            bytes_new: take(&totals.bytes_new),
            bytes_stored: take(&totals.bytes_stored),
        })
    }

    fn join(&mut self) {
        self.to_seal = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                self.shared.fail(Error::bug("a writer's thread panicked"));
            }
        }
    }
}

impl Drop for PackWriter {
    /// An abandoned writer still ends its threads; complete packs stay and are adopted by the next open.
    fn drop(&mut self) {
        self.join();
    }
}

impl ChunkSink for PackWriter {
    fn put(&mut self, kind: ChunkKind, bytes: Vec<u8>) -> Result<ContentHash> {
        let h = content_hash(kind, &bytes);
        self.store(Route::Meta, kind, h, &bytes)?;
        Ok(h)
    }
}

fn guard(shared: &Shared, work: impl FnOnce() -> Result<()>) {
    if let Err(error) = work() {
        shared.fail(error);
    }
}

fn seal_all(params: &WriterParams, groups: &Receiver<(FrameKind, Unsealed)>, out: &Sender<SealedFrame>) -> Result<()> {
    let mut packer = Packer::new(params.level)?;
    for (kind, frame) in groups {
        let sealed = match frame {
            Unsealed::Group(group) => seal(&params.keys, &mut packer, kind, group)?,
            Unsealed::Packed(frame) => seal_packed(&params.keys, kind, frame),
        };
        if out.send(sealed).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Fills one pack a kind; a frame never waits for the other kind's pack.
fn pack_all(params: &WriterParams, frames: &Receiver<SealedFrame>, out: &Sender<FinishedPack>) -> Result<()> {
    let new = |kind| match &params.within {
        Some(backend) => PackBuilder::within(backend.as_ref(), kind, params.session, params.pack_size),
        None => Ok(PackBuilder::new(kind, params.session, params.pack_size)),
    };
    let mut open: [Option<PackBuilder>; 2] = [None, None];
    for frame in frames {
        let place = &mut open[frame.kind as usize];
        let builder = match place {
            Some(builder) => builder,
            None => place.insert(new(frame.kind)?),
        };
        builder.push(&frame)?;
        if builder.is_full(params.pack_size)
            && let Some(full) = place.take()
            && out.send(full.finish(&params.keys)?).is_err()
        {
            return Ok(());
        }
    }
    for builder in open.into_iter().flatten() {
        if out.send(builder.finish(&params.keys)?).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn store_all(shared: &Shared, mut sink: Box<dyn PackSink>, packs: &Receiver<FinishedPack>) -> Result<()> {
    let commit = |sink: &mut dyn PackSink| -> Result<()> {
        let done = sink.commit()?;
        let mut pending = shared.pending.lock();
        for h in &done {
            pending.0.remove(h);
        }
        Ok(())
    };
    for pack in packs {
        shared.totals.bytes_stored.fetch_add(pack.size, Ordering::Relaxed);
        sink.store(pack)?;
        if sink.due() {
            commit(sink.as_mut())?;
        }
    }
    commit(sink.as_mut())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut pending = Pending::new(10);
        let hashes: Vec<_> = (0..50u8).map(|i| content_hash(ChunkKind::Data, &[i])).collect();
        hashes.iter().for_each(|h| pending.insert(*h));
        assert_eq!(pending.0.len(), 10);
        assert!(pending.0.contains(&hashes[9]) && !pending.0.contains(&hashes[10]));
        pending.0.remove(&hashes[0]);
        pending.insert(hashes[20]);
        assert!(pending.0.contains(&hashes[20]));
    }
}
