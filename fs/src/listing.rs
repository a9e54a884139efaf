//! Captured directories by position and by name, with a small cache of decoded pieces.
//!
//! The kernel lists a directory some dozen entries a call and without a handle, so each call would decode a tree
//! chunk again; and a walk looks up neighbours. Pieces are keyed by content: snapshots share them.

use std::sync::Arc;

use parking_lot::Mutex;
use repo::crypto::hash::ChunkKind;
use repo::error::{Error, Result};
use repo::format::node::{self, Node};
use repo::format::tree::{DirRef, Entry, XattrValue, decode_entries};
use repo::id::ContentHash;
use repo::pack::source::FrameSource;

/// Entries in a piece …
const PIECE: usize = 256;
/// … whose decoded size stays about below this.
const PIECE_BYTES: usize = 512 * 1024;
/// Pieces kept.
const KEPT: usize = 32;

/// Consecutive entries of a directory.
#[derive(Clone)]
pub struct Piece {
    /// Position of the first.
    pub start: u64,
    /// The entries.
    pub entries: Arc<Vec<Entry>>,
}

impl Piece {
    fn holds(&self, position: u64) -> bool {
        position >= self.start && position - self.start < self.entries.len() as u64
    }

    fn spans(&self, name: &[u8]) -> bool {
        let within = |first: &Entry, last: &Entry| first.name.as_slice() <= name && name <= last.name.as_slice();
        self.entries.first().zip(self.entries.last()).is_some_and(|(first, last)| within(first, last))
    }

    fn find(&self, name: &[u8]) -> Option<(u64, Entry)> {
        let at = self.entries.binary_search_by(|e| e.name.as_slice().cmp(name)).ok()?;
        Some((self.start + at as u64, self.entries[at].clone()))
    }
}

/// The cache.
#[derive(Default)]
pub struct Listings {
    /// The most recent last.
    recent: Mutex<Vec<(ContentHash, Piece)>>,
}

impl Listings {
    /// Some entries of `dir`, the first of them at `position`; none at the end.
    ///
    /// # Errors
    /// What the source gives. A damaged piece fails alone: what stands before it is listed first.
    pub fn at(&self, source: &dyn FrameSource, dir: &DirRef, position: u64) -> Result<Piece> {
        if position >= dir.entries {
            return Ok(Piece { start: position, entries: Arc::default() });
        }
        if let Some(piece) = self.cached(dir, |piece| piece.holds(position)) {
            return Ok(piece);
        }
        let mut entries = Vec::new();
        let mut bytes = 0;
        for next in repo::tree::dir::entries(source, dir, position) {
            match next {
                Ok(entry) => {
                    bytes += weight(&entry);
                    entries.push(entry);
                }
                Err(_) if !entries.is_empty() => break,
                Err(e) => return Err(e),
            }
            if entries.len() == PIECE || bytes > PIECE_BYTES {
                break;
            }
        }
        let piece = Piece { start: position, entries: Arc::new(entries) };
        self.keep(dir, bytes, &piece);
        Ok(piece)
    }

    /// The entry called `name` and its position.
    ///
    /// # Errors
    /// What the source gives, and `Damaged` for chunks that do not hold what the directory says.
    pub fn lookup(&self, source: &dyn FrameSource, dir: &DirRef, name: &[u8]) -> Result<Option<(u64, Entry)>> {
        if dir.entries == 0 {
            return Ok(None);
        }
        if let Some(piece) = self.cached(dir, |piece| piece.spans(name)) {
            return Ok(piece.find(name));
        }
        let Some(piece) = leaf_of(source, dir, name)? else { return Ok(None) };
        self.keep(dir, piece.entries.iter().map(weight).sum(), &piece);
        Ok(piece.find(name))
    }

    fn cached(&self, dir: &DirRef, fits: impl Fn(&Piece) -> bool) -> Option<Piece> {
        let mut recent = self.recent.lock();
        let at = recent.iter().rposition(|(h, piece)| *h == dir.h && fits(piece))?;
        let found = recent.remove(at);
        let piece = found.1.clone();
        recent.push(found);
        Some(piece)
    }

    fn keep(&self, dir: &DirRef, bytes: usize, piece: &Piece) {
        // One entry may carry a megabyte of attributes: such pieces are decoded each time.
        if bytes > 2 * PIECE_BYTES {
            return;
        }
        let mut recent = self.recent.lock();
        if recent.len() == KEPT {
            recent.remove(0);
        }
        recent.push((dir.h, piece.clone()));
    }
}

fn weight(entry: &Entry) -> usize {
    let xattrs: usize = entry
        .xattrs
        .iter()
        .map(|(name, value)| match value {
            XattrValue::Inline(bytes) => 64 + name.len() + bytes.len(),
            XattrValue::Chunk { .. } => 64 + name.len(),
        })
        .sum();
    512 + entry.target.len() + xattrs
}

/// The tree chunk in which `name` would stand.
fn leaf_of(source: &dyn FrameSource, dir: &DirRef, name: &[u8]) -> Result<Option<Piece>> {
    let (mut h, mut start) = (dir.h, 0u64);
    for _ in 0..dir.depth {
        let Node::Dir(children) = node::decode(&source.chunk(&h, ChunkKind::Node)?)? else {
            return Err(Error::damaged("an index node of a file stands in a directory"));
        };
        let Some(at) = children.partition_point(|c| c.first.as_slice() <= name).checked_sub(1) else {
            return Ok(None);
        };
        start = children[..at]
            .iter()
            .try_fold(start, |sum, c| sum.checked_add(c.entries))
            .ok_or_else(|| Error::damaged("an index node's count is wrong"))?;
        h = children[at].h;
    }
    let mut entries = Vec::new();
    decode_entries(&source.chunk(&h, ChunkKind::Tree)?, |entry| {
        entries.push(entry);
        Ok(())
    })?;
    Ok(Some(Piece { start, entries: Arc::new(entries) }))
}
