//! Sealing frames and putting packs together, in memory: a pack is written to the backend as a whole.

use crate::compress::{Codec, Packer};
use crate::crypto::hash::ChunkKind;
use crate::crypto::keys::{FRAME_HEAD, FrameKind, Keys, Object};
use crate::error::Result;
use crate::format::footer::Footer;
use crate::format::pack::{TRAILER, header, trailer};
use crate::id::{ContentHash, PackId, SessionId};
use crate::limits::{MAX_FRAME_CHUNKS, MAX_FRAME_RAW, MAX_PACK_FRAMES, MIB, PACK_CHUNKS};

/// Chunks gathered for one frame.
#[derive(Default)]
pub struct Group {
    /// The chunks' plaintext, back to back.
    pub raw: Vec<u8>,
    /// Kind, hash and length of each, in order.
    pub chunks: Vec<(ChunkKind, ContentHash, u32)>,
}

impl Group {
    /// Whether another chunk of `len` bytes may join without passing `limit`.
    pub fn fits(&self, len: usize, limit: usize) -> bool {
        self.chunks.is_empty() || (self.raw.len() + len <= limit && self.chunks.len() < MAX_FRAME_CHUNKS)
    }

    /// Adds a chunk.
    pub fn push(&mut self, kind: ChunkKind, h: ContentHash, bytes: &[u8]) {
        self.raw.extend_from_slice(bytes);
        self.chunks.push((kind, h, bytes.len() as u32));
    }
}

/// A frame that is compressed already: of another repository, opened and verified.
pub struct PackedFrame {
    /// Room for a nonce, then the payload.
    pub bytes: Vec<u8>,
    /// Length of the plaintext.
    pub raw: u32,
    /// How the payload is stored.
    pub codec: Codec,
    /// Kind, hash and length of each chunk.
    pub chunks: Vec<(ChunkKind, ContentHash, u32)>,
}

/// A frame ready to go into a pack.
pub struct SealedFrame {
    /// The pack kind it belongs to.
    pub kind: FrameKind,
    /// Nonce, ciphertext, tag.
    pub bytes: Vec<u8>,
    /// Length of the plaintext.
    pub raw: u32,
    /// How the payload is stored.
    pub codec: Codec,
    /// The key epoch it is sealed under.
    pub epoch: u32,
    /// Kind, hash and length of each chunk.
    pub chunks: Vec<(ChunkKind, ContentHash, u32)>,
}

/// Compresses and seals a group.
///
/// # Errors
/// `Io` when zstd fails.
pub fn seal(keys: &Keys, packer: &mut Packer, kind: FrameKind, group: Group) -> Result<SealedFrame> {
    let mut bytes = Vec::with_capacity(group.raw.len() / 2 + 256);
    bytes.resize(FRAME_HEAD, 0);
    let codec = packer.pack(&group.raw, &mut bytes)?;
    Ok(seal_packed(keys, kind, PackedFrame { bytes, raw: group.raw.len() as u32, codec, chunks: group.chunks }))
}

/// Seals what is compressed.
pub fn seal_packed(keys: &Keys, kind: FrameKind, frame: PackedFrame) -> SealedFrame {
    let PackedFrame { mut bytes, raw, codec, chunks } = frame;
    let epoch = keys.seal_frame(kind, raw, &mut bytes);
    SealedFrame { kind, bytes, raw, codec, epoch, chunks }
}

/// A finished pack, not yet stored.
pub struct FinishedPack {
    /// Its name.
    pub id: PackId,
    /// Its kind.
    pub kind: FrameKind,
    /// The whole file.
    pub bytes: Vec<u8>,
    /// The footer as sealed in the file.
    pub sealed_footer: Vec<u8>,
    /// What the footer says.
    pub footer: Footer,
}

/// A pack being filled.
pub struct PackBuilder {
    bytes: Vec<u8>,
    footer: Footer,
}

impl PackBuilder {
    /// An empty pack of `kind`, to be written by `session` and closed at about `pack_size` bytes.
    pub fn new(kind: FrameKind, session: SessionId, pack_size: usize) -> PackBuilder {
        // All of it at once: growing would copy, and hold up to twice the space. Untouched pages cost nothing.
        let mut bytes = Vec::with_capacity(pack_size + MAX_FRAME_RAW + MIB);
        bytes.extend_from_slice(&header(kind));
        PackBuilder { bytes, footer: Footer::new(kind, session) }
    }

    /// Bytes of header and frames so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether no frame was added.
    pub fn is_empty(&self) -> bool {
        self.footer.frames.is_empty()
    }

    /// Whether no further frame may be added.
    pub fn is_full(&self, pack_size: usize) -> bool {
        let Footer { frames, chunks, .. } = &self.footer;
        self.bytes.len() >= pack_size || frames.len() >= MAX_PACK_FRAMES || chunks.len() >= PACK_CHUNKS
    }

    /// Appends a frame.
    pub fn push(&mut self, frame: &SealedFrame) {
        debug_assert_eq!(frame.kind, self.footer.kind);
        self.footer.push(frame.bytes.len() as u32, frame.raw, frame.codec, frame.epoch, &frame.chunks);
        self.bytes.extend_from_slice(&frame.bytes);
    }

    /// Seals the footer and names the pack.
    pub fn finish(mut self, keys: &Keys) -> FinishedPack {
        let sealed_footer = keys.seal(Object::Footer, &[], &self.footer.encode());
        self.bytes.reserve(sealed_footer.len() + TRAILER);
        self.bytes.extend_from_slice(&sealed_footer);
        self.bytes.extend_from_slice(&trailer(sealed_footer.len() as u32));
        let id = PackId(*blake3::hash(&self.bytes).as_bytes());
        FinishedPack { id, kind: self.footer.kind, bytes: self.bytes, sealed_footer, footer: self.footer }
    }
}
