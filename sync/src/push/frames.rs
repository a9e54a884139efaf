//! Frames on their way, put together in packs of their own. They travel as they lie: sealed, and verbatim.

use repo::backend::Object as Stored;
use repo::crypto::keys::FrameKind;
use repo::error::Result;
use repo::id::SessionId;
use repo::limits::MIB;
use repo::pack::build::{PackBuilder, SealedFrame};
use repo::pack::read::{open_frame, verify_chunk};
use repo::pack::store::OpenPack;

use super::Push;

/// Such packs are not resumed: they are smaller than others, so that a lost link costs little.
const SIZE: usize = 8 * MIB;

/// Packs being put together, one a kind.
pub struct Outgoing {
    session: SessionId,
    size: usize,
    open: [Option<PackBuilder>; 2],
}

impl Outgoing {
    /// None yet; `most` is the size at which the repository closes packs.
    pub fn new(most: usize) -> Outgoing {
        Outgoing { session: SessionId::random(), size: most.min(SIZE), open: [None, None] }
    }
}

impl Push<'_> {
    /// Adds a frame of `pack`, after it has proved to be whole; sends what is full.
    ///
    /// # Errors
    /// `Damaged` if the frame is not what the footer says; what backend and link give.
    pub fn send_frame(&mut self, pack: &OpenPack, frame: u32) -> Result<()> {
        let info = &pack.footer.frames[frame as usize];
        let object = Stored::Pack(pack.id);
        let at = |e: repo::error::Error| e.at(self.repo.backend.path(&object));
        let bytes = self.repo.backend.read(&object, u64::from(info.offset), info.stored as usize).map_err(at)?;
        let chunks = &pack.footer.chunks[info.chunks()];
        let raw = open_frame(&self.repo.keys, pack.footer.kind, info, bytes.clone()).map_err(at)?;
        chunks.iter().try_for_each(|chunk| verify_chunk(chunk, &raw)).map_err(at)?;
        let chunks = chunks.iter().map(|c| (c.kind, c.h, c.len)).collect();
        let (kind, raw, codec, epoch) = (pack.footer.kind, info.raw, info.codec, info.epoch);
        let (session, size) = (self.outgoing.session, self.outgoing.size);
        let open = self.outgoing.open[kind as usize].get_or_insert_with(|| PackBuilder::new(kind, session, size));
        open.push(&SealedFrame { kind, bytes, raw, codec, epoch, chunks })?;
        if open.is_full(size) { self.flush(kind) } else { Ok(()) }
    }

    /// Sends what has gathered.
    ///
    /// # Errors
    /// What the link gives.
    pub fn flush_frames(&mut self) -> Result<()> {
        self.flush(FrameKind::Data)?;
        self.flush(FrameKind::Tree)
    }

    fn flush(&mut self, kind: FrameKind) -> Result<()> {
        if let Some(open) = self.outgoing.open[kind as usize].take().filter(|open| !open.is_empty()) {
            let pack = open.finish(&self.repo.keys)?;
            self.put(pack.id, pack.body.into_bytes()?)?;
            self.report.mixed += 1;
        }
        Ok(())
    }
}
