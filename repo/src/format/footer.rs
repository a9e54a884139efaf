//! A pack's table of contents, and the roll-ups that repeat it. `docs/format.md` (Footers) is normative.

use crate::compress::Codec;
use crate::crypto::hash::ChunkKind;
use crate::crypto::keys::{FRAME_OVERHEAD, FrameKind};
use crate::error::{Error, Result};
use crate::format::pack::HEADER;
use crate::format::wire::{Reader, Writer, version};
use crate::id::{ContentHash, PackId, SessionId};
use crate::limits::{MAX_FOOTER, MAX_FRAME_CHUNKS, MAX_FRAME_RAW, MAX_PACK_FRAMES};

const VERSION: u8 = 1;

/// One frame of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameInfo {
    /// Where it begins in the pack; follows from the frames before it.
    pub offset: u32,
    /// Its length in the pack, nonce and tag included.
    pub stored: u32,
    /// Its length when opened and unpacked.
    pub raw: u32,
    /// How its payload is stored.
    pub codec: Codec,
    /// The key epoch it is sealed under.
    pub epoch: u32,
    /// Its first chunk in [`Footer::chunks`].
    pub first: u32,
    /// How many chunks it holds, at least 1.
    pub count: u32,
}

impl FrameInfo {
    /// Its chunks' places in [`Footer::chunks`].
    pub fn chunks(&self) -> std::ops::Range<usize> {
        self.first as usize..(self.first + self.count) as usize
    }
}

/// One chunk of a frame.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ChunkInfo {
    /// Its content hash.
    pub h: ContentHash,
    /// What it is.
    pub kind: ChunkKind,
    /// Where it begins in the frame's plaintext; follows from the chunks before it.
    pub offset: u32,
    /// Its length.
    pub len: u32,
}

/// What a pack holds.
#[derive(Clone, PartialEq, Eq)]
pub struct Footer {
    /// Whether the pack holds file data or metadata.
    pub kind: FrameKind,
    /// The session that wrote it.
    pub session: SessionId,
    /// The frames in pack order.
    pub frames: Vec<FrameInfo>,
    /// All chunks, frame by frame.
    pub chunks: Vec<ChunkInfo>,
}

impl Footer {
    /// Of a pack without frames yet.
    pub fn new(kind: FrameKind, session: SessionId) -> Footer {
        Footer { kind, session, frames: Vec::new(), chunks: Vec::new() }
    }

    /// Where the next frame begins: the sum of all before it.
    pub fn end(&self) -> u32 {
        self.frames.last().map_or(HEADER as u32, |f| f.offset + f.stored)
    }

    /// Adds a frame at [`Footer::end`]; `chunks` lists kind, hash and length in frame order.
    pub fn push(&mut self, stored: u32, raw: u32, codec: Codec, epoch: u32, chunks: &[(ChunkKind, ContentHash, u32)]) {
        let frame = FrameInfo {
            offset: self.end(),
            stored,
            raw,
            codec,
            epoch,
            first: self.chunks.len() as u32,
            count: chunks.len() as u32,
        };
        let mut offset = 0;
        for (kind, h, len) in chunks {
            self.chunks.push(ChunkInfo { h: *h, kind: *kind, offset, len: *len });
            offset += len;
        }
        debug_assert_eq!(offset, raw);
        self.frames.push(frame);
    }

    /// The plaintext to be sealed.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u8(VERSION);
        w.u8(self.kind as u8);
        w.bytes(self.session.as_bytes());
        w.varint(self.frames.len() as u64);
        for frame in &self.frames {
            w.varint(u64::from(frame.stored));
            w.u8(frame.codec as u8);
            w.varint(u64::from(frame.epoch));
            w.varint(u64::from(frame.count));
            for chunk in &self.chunks[frame.chunks()] {
                w.u8(chunk.kind as u8);
                w.varint(u64::from(chunk.len));
                w.bytes(chunk.h.expose());
            }
        }
        w.into_vec()
    }

    /// Reads what [`Footer::encode`] wrote.
    ///
    /// # Errors
    /// `Damaged` for anything else, `NewerFormat` for a later version.
    pub fn decode(bytes: &[u8]) -> Result<Footer> {
        let mut r = Reader::new(bytes);
        version(&mut r, VERSION, "footer")?;
        let kind = FrameKind::try_from(r.u8()?)?;
        let mut footer = Footer::new(kind, SessionId(r.array()?));
        let frames = r.varint()?;
        if frames > MAX_PACK_FRAMES as u64 {
            return Err(Error::damaged("a pack's table of contents lists too many blocks"));
        }
        let mut chunks = Vec::new();
        for _ in 0..frames {
            footer.decode_frame(&mut r, &mut chunks)?;
        }
        r.finish()?;
        Ok(footer)
    }

    fn decode_frame(&mut self, r: &mut Reader<'_>, chunks: &mut Vec<(ChunkKind, ContentHash, u32)>) -> Result<()> {
        let out_of_range = || Error::damaged("a pack's table of contents holds a number out of range");
        let stored = u32::try_from(r.varint()?).map_err(|_| out_of_range())?;
        let codec = Codec::from_u8(r.u8()?)?;
        let epoch = u32::try_from(r.varint()?).map_err(|_| out_of_range())?;
        let count = r.varint()?;
        if count == 0 || count > MAX_FRAME_CHUNKS as u64 || self.end().checked_add(stored).is_none() {
            return Err(out_of_range());
        }
        chunks.clear();
        let mut raw = 0u64;
        for _ in 0..count {
            let kind = ChunkKind::try_from(r.u8()?)?;
            let len = u32::try_from(r.varint()?).map_err(|_| out_of_range())?;
            raw += u64::from(len);
            chunks.push((kind, ContentHash::from_bytes(r.array()?), len));
        }
        if raw > MAX_FRAME_RAW as u64 {
            return Err(Error::damaged("a pack's table of contents lists a block larger than any may be"));
        }
        // What sealing adds is always there, and what compression would lengthen is stored as it is.
        if stored < FRAME_OVERHEAD as u32 || u64::from(stored) > raw + FRAME_OVERHEAD as u64 {
            return Err(Error::damaged("a pack's table of contents lists a block of an impossible length"));
        }
        self.push(stored, raw as u32, codec, epoch, chunks);
        Ok(())
    }

    /// About how much memory this takes, in bytes.
    pub fn weight(&self) -> usize {
        size_of::<Footer>()
            + self.frames.capacity() * size_of::<FrameInfo>()
            + self.chunks.capacity() * size_of::<ChunkInfo>()
    }
}

/// One pack's line in a roll-up.
#[derive(Clone)]
pub struct RollupEntry {
    /// The pack.
    pub id: PackId,
    /// Its size in bytes.
    pub size: u64,
    /// Its footer, sealed as in the pack.
    pub sealed_footer: Vec<u8>,
}

/// The plaintext of a roll-up.
pub fn encode_rollup(entries: &[RollupEntry]) -> Vec<u8> {
    let mut w = Writer::new();
    w.u8(VERSION);
    w.varint(entries.len() as u64);
    for entry in entries {
        w.bytes(entry.id.as_bytes());
        w.varint(entry.size);
        w.lp_bytes(&entry.sealed_footer);
    }
    w.into_vec()
}

/// Reads what [`encode_rollup`] wrote.
///
/// # Errors
/// `Damaged` for anything else, `NewerFormat` for a later version.
pub fn decode_rollup(bytes: &[u8]) -> Result<Vec<RollupEntry>> {
    let mut r = Reader::new(bytes);
    version(&mut r, VERSION, "roll-up")?;
    let count = r.varint()?;
    let mut out = Vec::new();
    for _ in 0..count {
        let id = PackId(r.array()?);
        let size = r.varint()?;
        out.push(RollupEntry { id, size, sealed_footer: r.lp_bytes(MAX_FOOTER)?.to_vec() });
    }
    r.finish()?;
    Ok(out)
}
