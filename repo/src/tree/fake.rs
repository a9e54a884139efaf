//! Trees in memory, for tests: what builders store, readers find.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::crypto::hash::{ChunkKind, content_hash};
use crate::error::{Error, Result};
use crate::format::tree::{Content, Entry, EntryType, Extent};
use crate::id::ContentHash;
use crate::limits::FILE_INLINE;
use crate::pack::source::{Chunk, FrameSource};
use crate::tree::builder::{ChunkSink, DirBuilder, FileBuilder};

/// Chunks by hash, and how many were asked for.
#[derive(Default)]
pub struct Store {
    chunks: HashMap<ContentHash, (ChunkKind, Arc<Vec<u8>>)>,
    asked: AtomicUsize,
}

impl Store {
    /// How many chunks readers have asked for since the last call.
    pub fn asked(&self) -> usize {
        self.asked.swap(0, Ordering::Relaxed)
    }

    /// How many chunks there are.
    pub fn len(&self) -> usize {
        self.chunks.len()
    }

    /// Loses the top chunk of a directory or indexed file, or the first data chunk.
    pub fn lose(&mut self, entry: &Entry) {
        let h = match &entry.content {
            Content::Dir(dir) => dir.h,
            Content::Indexed { h, .. } => *h,
            Content::Extents(extents) => extents
                .iter()
                .find_map(|e| match e {
                    Extent::Data { h, .. } => Some(*h),
                    Extent::Hole { .. } => None,
                })
                .expect("data"),
            _ => panic!("nothing is stored of {:?}", entry.kind),
        };
        self.chunks.remove(&h);
    }
}

impl ChunkSink for Store {
    fn put(&mut self, kind: ChunkKind, bytes: Vec<u8>) -> Result<ContentHash> {
        let h = content_hash(kind, &bytes);
        self.chunks.insert(h, (kind, Arc::new(bytes)));
        Ok(h)
    }
}

impl FrameSource for Store {
    fn chunk(&self, h: &ContentHash, kind: ChunkKind) -> Result<Chunk> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        match self.chunks.get(h) {
            Some((of, bytes)) if *of == kind => Ok(Chunk::new(Arc::clone(bytes), 0..bytes.len())),
            _ => Err(Error::damaged("it needs a piece of data that no pack of this repository has")),
        }
    }

    fn prefetch(&self, _: &[(ContentHash, ChunkKind)]) {}
}

/// A small file, inline.
pub fn file(name: &str, bytes: &[u8]) -> Entry {
    assert!(bytes.len() <= FILE_INLINE);
    let mut entry = Entry::new(name, EntryType::File);
    entry.mode = 0o644;
    entry.size = bytes.len() as u64;
    entry.content = Content::Inline(bytes.to_vec());
    entry
}

/// A file of these pieces: data, or a hole of so many bytes.
pub fn file_of(store: &mut Store, name: &str, pieces: &[std::result::Result<&[u8], u64>]) -> Entry {
    let mut builder = FileBuilder::new();
    for piece in pieces {
        let extent = match piece {
            Ok(bytes) => {
                let h = store.put(ChunkKind::Data, bytes.to_vec()).expect("stored in memory");
                Extent::Data { h, len: bytes.len() as u64 }
            }
            Err(len) => Extent::Hole { len: *len },
        };
        builder.push(store, extent).expect("stored in memory");
    }
    let mut entry = Entry::new(name, EntryType::File);
    entry.mode = 0o644;
    entry.size = builder.len();
    entry.content = builder.finish(store).expect("stored in memory");
    entry
}

/// A directory of these entries, which are sorted here.
pub fn dir_of(store: &mut Store, name: &str, mut entries: Vec<Entry>) -> Entry {
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let mut builder = DirBuilder::new();
    for entry in &entries {
        builder.push(store, entry).expect("stored in memory");
    }
    let mut entry = Entry::new(name, EntryType::Dir);
    entry.mode = 0o755;
    entry.content = Content::Dir(builder.finish(store).expect("stored in memory"));
    entry
}
