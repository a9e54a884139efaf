//! Where readers get chunks and builders put them: local packs are one implementation, a remote repository another.

use std::ops::{Deref, Range};
use std::sync::Arc;

use crate::crypto::hash::ChunkKind;
use crate::error::Result;
use crate::id::ContentHash;

/// A chunk's plaintext, verified against its content hash. Shares the decoded frame it lies in.
#[derive(Clone)]
pub struct Chunk {
    frame: Arc<Vec<u8>>,
    range: Range<usize>,
}

impl Chunk {
    /// The bytes `range` of `frame`, which must lie inside it.
    pub fn new(frame: Arc<Vec<u8>>, range: Range<usize>) -> Chunk {
        assert!(range.start <= range.end && range.end <= frame.len(), "a chunk lies inside its frame");
        Chunk { frame, range }
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.frame[self.range.clone()]
    }
}

/// Gives chunks by content hash.
pub trait FrameSource: Send + Sync {
    /// The chunk's bytes, checked: never other bytes than those hashed.
    ///
    /// # Errors
    /// `Damaged`, naming the pack, when the chunk is unknown, its pack is missing or its bytes do not verify.
    fn chunk(&self, h: &ContentHash, kind: ChunkKind) -> Result<Chunk>;

    /// Starts fetching these chunks' frames in the background and returns at once. Errors show when the chunk is asked for.
    fn prefetch(&self, chunks: &[(ContentHash, ChunkKind)]);
}

/// Takes finished metadata chunks.
pub trait ChunkSink {
    /// Stores the chunk, unless it is stored, and returns its content hash.
    ///
    /// # Errors
    /// Whatever storing gives.
    fn put(&mut self, kind: ChunkKind, bytes: Vec<u8>) -> Result<ContentHash>;
}
