//! Sealing frames and putting packs together, in memory or where they are to be.

use crate::backend::{Backend, Growing};
use crate::compress::{Codec, Packer};
use crate::crypto::hash::ChunkKind;
use crate::crypto::keys::{FRAME_HEAD, FrameKind, Keys, Object};
use crate::error::Result;
use crate::format::footer::Footer;
use crate::format::pack::{header, trailer};
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
    /// Its bytes.
    pub size: u64,
    /// The whole file.
    pub body: Growing,
    /// The footer as sealed in the file.
    pub sealed_footer: Vec<u8>,
    /// What the footer says.
    pub footer: Footer,
}

/// A pack being filled.
pub struct PackBuilder {
    body: Growing,
    len: usize,
    /// Of what was written, while it is in the processor's cache.
    hasher: blake3::Hasher,
    footer: Footer,
}

impl PackBuilder {
    /// An empty pack of `kind`, to be written by `session` and closed at about `pack_size` bytes, in memory.
    pub fn new(kind: FrameKind, session: SessionId, pack_size: usize) -> PackBuilder {
        // All of it at once: growing would copy, and hold up to twice the space. Untouched pages cost nothing.
        let bytes = Vec::with_capacity(pack_size + MAX_FRAME_RAW + MIB);
        PackBuilder {
            body: Growing::Memory(bytes),
            len: 0,
            hasher: blake3::Hasher::new(),
            footer: Footer::new(kind, session),
        }
    }

    /// As [`PackBuilder::new`], where `backend` has objects grow.
    ///
    /// # Errors
    /// What the backend gives.
    pub fn within(backend: &dyn Backend, kind: FrameKind, session: SessionId, pack_size: usize) -> Result<PackBuilder> {
        Ok(match backend.grow()? {
            Growing::Memory(_) => PackBuilder::new(kind, session, pack_size),
            body => PackBuilder { body, ..PackBuilder::new(kind, session, 0) },
        })
    }

    /// Bytes of frames, and of the header, so far.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no frame was added.
    pub fn is_empty(&self) -> bool {
        self.footer.frames.is_empty()
    }

    /// Whether no further frame may be added.
    pub fn is_full(&self, pack_size: usize) -> bool {
        let Footer { frames, chunks, .. } = &self.footer;
        self.len >= pack_size || frames.len() >= MAX_PACK_FRAMES || chunks.len() >= PACK_CHUNKS
    }

    /// Appends a frame.
    ///
    /// # Errors
    /// What writing it gives; never of one in memory.
    pub fn push(&mut self, frame: &SealedFrame) -> Result<()> {
        debug_assert_eq!(frame.kind, self.footer.kind);
        if self.len == 0 {
            self.append(&header(self.footer.kind))?;
        }
        self.footer.push(frame.bytes.len() as u32, frame.raw, frame.codec, frame.epoch, &frame.chunks);
        self.append(&frame.bytes)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.len += bytes.len();
        self.body.append(bytes)
    }

    /// Seals the footer and names the pack.
    ///
    /// # Errors
    /// As [`PackBuilder::push`].
    pub fn finish(mut self, keys: &Keys) -> Result<FinishedPack> {
        let sealed_footer = keys.seal(Object::Footer, &[], &self.footer.encode());
        self.append(&sealed_footer)?;
        self.append(&trailer(sealed_footer.len() as u32))?;
        let PackBuilder { body, len, hasher, footer } = self;
        let id = PackId(*hasher.finalize().as_bytes());
        Ok(FinishedPack { id, kind: footer.kind, size: len as u64, body, sealed_footer, footer })
    }
}
