//! Several drives of one repository, read as one.

use std::sync::Arc;

use repo::crypto::hash::ChunkKind;
use repo::error::{Error, Result};
use repo::id::ContentHash;
use repo::pack::source::{Chunk, FrameSource};
use repo::pack::store::PackStore;

/// Chunks from whichever drive has them.
pub struct Several(Vec<Arc<PackStore>>);

impl Several {
    /// Of these.
    pub fn new(drives: Vec<Arc<PackStore>>) -> Several {
        Several(drives)
    }

    /// Whether a chunk is on any of them, in a pack that is not known to be damaged.
    ///
    /// # Errors
    /// What the indexes give.
    pub fn has(&self, h: &ContentHash) -> Result<bool> {
        for store in &self.0 {
            if store.locate(h)?.is_some_and(|(_, info)| !info.damaged) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The drives that have the chunk.
    fn with(&self, h: &ContentHash) -> impl Iterator<Item = &Arc<PackStore>> {
        self.0.iter().filter(|store| matches!(store.locate(h), Ok(Some(_))))
    }
}

impl FrameSource for Several {
    fn chunk(&self, h: &ContentHash, kind: ChunkKind) -> Result<Chunk> {
        let mut failed = None;
        for store in self.with(h) {
            match store.chunk(h, kind) {
                Ok(chunk) => return Ok(chunk),
                Err(e) => failed = Some(e),
            }
        }
        Err(failed.unwrap_or_else(|| {
            Error::damaged("a part of it is on a drive that is not here")
                .remedy("use that as well: name each drive with -r")
        }))
    }

    fn prefetch(&self, chunks: &[(ContentHash, ChunkKind)]) {
        for store in &self.0 {
            let here: Vec<_> = chunks.iter().filter(|(h, _)| matches!(store.locate(h), Ok(Some(_)))).copied().collect();
            if !here.is_empty() {
                store.prefetch(&here);
            }
        }
    }
}
