//! The reader of local packs: index, footers and frames behind caches bounded by bytes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::backend::{Backend, Object as Stored};
use crate::crypto::hash::ChunkKind;
use crate::crypto::keys::Keys;
use crate::error::{Error, Kind, Result};
use crate::format::footer::Footer;
use crate::id::{ChunkId, ContentHash, PackId};
use crate::index::{Index, Location, PackInfo};
use crate::limits::{FOOTER_CACHE, FRAME_CACHE};
use crate::pack::cache::Cache;
use crate::pack::read::{open_footer, open_frame, sealed_footer, verify_chunk};
use crate::pack::source::{Chunk, FrameSource};

/// Frames waiting to be fetched ahead; more are dropped, they come when asked for.
const AHEAD: usize = 128;

/// Brings the index up to what other processes have done, as far as that can be had. Cheap when nobody did anything.
pub type CatchUp = Box<dyn Fn() + Send + Sync>;

/// Prunes that may move a chunk away under one reading of it.
const MOVES: u32 = 4;

/// Reads chunks out of a repository's packs. Any number of threads may share it.
pub struct PackStore {
    inner: Arc<Inner>,
    ahead: OnceLock<Sender<(PackInfo, u32)>>,
}

struct Inner {
    backend: Arc<dyn Backend>,
    keys: Arc<Keys>,
    index: Index,
    frames: Cache<(PackId, u32), Frame>,
    packs: Cache<PackId, OpenPack>,
    catch_up: Option<CatchUp>,
}

/// A pack whose footer is open.
pub struct OpenPack {
    /// The pack.
    pub id: PackId,
    /// What it holds.
    pub footer: Footer,
}

/// A decoded frame; a chunk is verified when it is first given out.
struct Frame {
    raw: Arc<Vec<u8>>,
    verified: Vec<AtomicBool>,
}

impl PackStore {
    /// A reader with caches of [`FRAME_CACHE`] and [`FOOTER_CACHE`] bytes.
    pub fn new(backend: Arc<dyn Backend>, keys: Arc<Keys>, index: Index) -> PackStore {
        PackStore::with_cache(backend, keys, index, FRAME_CACHE)
    }

    /// A reader that keeps about `frame_bytes` of decoded frames.
    pub fn with_cache(backend: Arc<dyn Backend>, keys: Arc<Keys>, index: Index, frame_bytes: usize) -> PackStore {
        let (frames, packs) = (Cache::new(frame_bytes), Cache::new(FOOTER_CACHE));
        let inner = Inner { backend, keys, index, frames, packs, catch_up: None };
        PackStore { inner: Arc::new(inner), ahead: OnceLock::new() }
    }

    /// Calls `catch_up` when a chunk is not where the index has it, or is nowhere: the index may be behind.
    pub fn catching_up(mut self, catch_up: CatchUp) -> PackStore {
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.catch_up = Some(catch_up);
        }
        self
    }

    /// Where a chunk lies, if the index has it.
    ///
    /// # Errors
    /// What the index gives.
    pub fn locate(&self, h: &ContentHash) -> Result<Option<(Location, PackInfo)>> {
        self.inner.find(&self.inner.keys.chunk_id(h))
    }

    /// A pack's footer, from the index or from the pack itself.
    ///
    /// # Errors
    /// `Damaged` when it does not open, `NotFound` when there is no such pack.
    pub fn pack(&self, info: &PackInfo) -> Result<Arc<OpenPack>> {
        self.inner.pack(info)
    }

    fn workers(&self) -> &Sender<(PackInfo, u32)> {
        self.ahead.get_or_init(|| {
            let (tx, rx) = bounded(AHEAD);
            let threads = std::thread::available_parallelism().map_or(2, usize::from);
            for _ in 0..threads {
                let (inner, rx): (_, Receiver<(PackInfo, u32)>) = (Arc::clone(&self.inner), rx.clone());
                // The threads end when the store, and with it the sender, is dropped.
                std::thread::spawn(move || {
                    for (pack, frame) in rx {
                        // A failure shows when the frame is asked for.
                        let _ = inner.ahead(&pack, frame);
                    }
                });
            }
            tx
        })
    }
}

impl Inner {
    /// Where a chunk lies; none only by an index that is not behind.
    fn find(&self, id: &ChunkId) -> Result<Option<(Location, PackInfo)>> {
        match self.index.find(id)? {
            None => {
                self.catch_up();
                self.index.find(id)
            }
            found => Ok(found),
        }
    }

    fn catch_up(&self) {
        if let Some(catch_up) = &self.catch_up {
            catch_up();
        }
    }

    fn pack(&self, info: &PackInfo) -> Result<Arc<OpenPack>> {
        self.packs.get(info.id, || {
            let path = self.backend.path(&Stored::Pack(info.id));
            // By the number as of now: another process may have rebuilt the index since.
            let now = self.index.pack_by_id(&info.id)?;
            let sealed = match now.map(|info| self.index.footer(info.no)).transpose()?.flatten() {
                Some(sealed) => sealed,
                None => sealed_footer(self.backend.as_ref(), &info.id)?.0,
            };
            let footer = open_footer(&self.keys, &sealed, info.size).map_err(|e| e.at(path))?;
            let weight = footer.weight();
            Ok((OpenPack { id: info.id, footer }, weight))
        })
    }

    fn frame(&self, info: &PackInfo, frame: u32) -> Result<Arc<Frame>> {
        self.frames.get((info.id, frame), || {
            let pack = self.pack(info)?;
            let info = pack.footer.frames.get(frame as usize).ok_or_else(wrong_index)?;
            let object = Stored::Pack(pack.id);
            let at = |e: Error| e.at(self.backend.path(&object));
            let sealed = self.backend.read(&object, u64::from(info.offset), info.stored as usize).map_err(at)?;
            let raw = open_frame(&self.keys, pack.footer.kind, info, sealed).map_err(at)?;
            let verified = (0..info.count).map(|_| AtomicBool::new(false)).collect();
            let weight = raw.len() + info.count as usize;
            Ok((Frame { raw: Arc::new(raw), verified }, weight))
        })
    }

    /// Decodes a frame and verifies what it holds, so that who asks for it does not have to.
    fn ahead(&self, info: &PackInfo, ordinal: u32) -> Result<()> {
        let (pack, frame) = (self.pack(info)?, self.frame(info, ordinal)?);
        let chunks = pack.footer.frames.get(ordinal as usize).ok_or_else(wrong_index)?.chunks();
        for (chunk, verified) in pack.footer.chunks[chunks].iter().zip(&frame.verified) {
            if !verified.load(Ordering::Relaxed) && verify_chunk(chunk, &frame.raw).is_ok() {
                verified.store(true, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn at(&self, (location, info): &(Location, PackInfo), h: &ContentHash, kind: ChunkKind) -> Result<Chunk> {
        let pack = self.pack(info)?;
        let frame_info = pack.footer.frames.get(location.frame as usize).ok_or_else(wrong_index)?;
        let slot = usize::from(location.slot);
        let chunk = pack.footer.chunks[frame_info.chunks()].get(slot).ok_or_else(wrong_index)?;
        if chunk.h != *h || chunk.kind != kind {
            return Err(wrong_index());
        }
        let frame = self.frame(info, location.frame)?;
        if !frame.verified[slot].load(Ordering::Relaxed) {
            verify_chunk(chunk, &frame.raw).map_err(|e| e.at(self.backend.path(&Stored::Pack(pack.id))))?;
            frame.verified[slot].store(true, Ordering::Relaxed);
        }
        let from = chunk.offset as usize;
        Ok(Chunk::new(Arc::clone(&frame.raw), from..from + chunk.len as usize))
    }
}

fn wrong_index() -> Error {
    Error::damaged("the index does not fit the packs").remedy("run `packmule rebuild-index`")
}

impl FrameSource for PackStore {
    fn chunk(&self, h: &ContentHash, kind: ChunkKind) -> Result<Chunk> {
        let id = self.inner.keys.chunk_id(h);
        let find = || {
            self.inner.find(&id)?.ok_or_else(|| {
                Error::damaged("it needs a piece of data that no pack of this repository has")
                    .remedy("run `packmule check` to see what is affected")
            })
        };
        let mut place = find()?;
        let mut moves = 0;
        loop {
            let gone = match self.inner.at(&place, h, kind) {
                Err(e) if e.kind() == Kind::NotFound => e,
                other => return other,
            };
            // A prune may have moved the chunk and removed its pack since: look again, if need be in an index that was
            // brought up to date.
            let mut now = find()?;
            if now == place {
                self.inner.catch_up();
                now = find()?;
            }
            if now == place || moves == MOVES {
                return Err(gone.with_kind(Kind::Damaged));
            }
            (place, moves) = (now, moves + 1);
        }
    }

    fn prefetch(&self, chunks: &[(ContentHash, ChunkKind)]) {
        let mut last = None;
        for (h, _) in chunks {
            let Ok(Some((at, pack))) = self.locate(h) else { continue };
            let frame = (pack.id, at.frame);
            if last == Some(frame) || self.inner.frames.has(&frame) {
                continue;
            }
            last = Some(frame);
            if self.workers().try_send((pack, at.frame)).is_err() {
                return;
            }
        }
    }
}
