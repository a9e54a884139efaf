//! Reading a file: extents from any offset, and bytes.

use crate::crypto::hash::ChunkKind;
use crate::error::{Error, Kind, Result};
use crate::format::node::{self, FileChild, Node};
use crate::format::tree::{Content, Extent};
use crate::id::ContentHash;
use crate::pack::source::FrameSource;

/// Chunks that a sequential reader asks for ahead.
const AHEAD: usize = 16;

/// The file's extents in order, each with its offset, from the one that holds `offset` on. An inline
/// file has none: look at [`Content::Inline`] first.
pub fn extents<'a>(source: &'a dyn FrameSource, content: &Content, offset: u64) -> Extents<'a> {
    let mut walk = Extents { source, stack: Vec::new(), leaf: Vec::new().into_iter(), at: 0, failed: None };
    let begun = match content {
        Content::Extents(list) => {
            walk.start_leaf(list.clone(), offset);
            Ok(())
        }
        Content::Indexed { h, depth } => walk.descend(*h, *depth, offset),
        _ => Ok(()),
    };
    walk.failed = begun.err();
    walk
}

/// Iterates over a file's extents; holds one node a level.
pub struct Extents<'a> {
    source: &'a dyn FrameSource,
    stack: Vec<(std::vec::IntoIter<FileChild>, u8)>,
    leaf: std::vec::IntoIter<Extent>,
    /// Offset of the next extent.
    at: u64,
    failed: Option<Error>,
}

impl Extents<'_> {
    fn start_leaf(&mut self, list: Vec<Extent>, offset: u64) {
        self.leaf = list.into_iter();
        while let Some(first) = self.leaf.as_slice().first() {
            if offset - self.at.min(offset) < first.len() {
                break;
            }
            self.at = self.at.saturating_add(first.len());
            self.leaf.next();
        }
    }

    fn descend(&mut self, mut h: ContentHash, mut depth: u8, offset: u64) -> Result<()> {
        while depth > 0 {
            let Node::File(children) = node::decode(&self.source.chunk(&h, ChunkKind::Node)?)? else {
                return Err(Error::damaged("a large directory's index stands in a file"));
            };
            let mut rest = children.into_iter();
            let child = loop {
                let Some(child) = rest.next() else { return Ok(()) };
                if offset - self.at.min(offset) < child.len {
                    break child;
                }
                self.at = self.at.saturating_add(child.len);
            };
            depth -= 1;
            h = child.h;
            self.stack.push((rest, depth));
        }
        match node::decode(&self.source.chunk(&h, ChunkKind::Node)?)? {
            Node::Extents(list) => self.start_leaf(list, offset),
            _ => return Err(Error::damaged("a part of a large file's index is not at the depth its parent says")),
        }
        Ok(())
    }

    fn advance(&mut self) -> Result<Option<(u64, Extent)>> {
        if let Some(e) = self.failed.take() {
            return Err(e);
        }
        loop {
            if let Some(extent) = self.leaf.next() {
                let at = self.at;
                self.at = at
                    .checked_add(extent.len())
                    .ok_or_else(|| Error::damaged("a file's extents are longer than any file"))?;
                return Ok(Some((at, extent)));
            }
            let Some((rest, depth)) = self.stack.last_mut() else { return Ok(None) };
            let depth = *depth;
            match rest.next() {
                Some(child) => self.descend(child.h, depth, self.at)?,
                None => drop(self.stack.pop()),
            }
        }
    }

    /// The extents still to come in the node at hand, for prefetching.
    fn ahead(&self) -> Vec<(ContentHash, ChunkKind)> {
        let data = |e: &Extent| match e {
            Extent::Data { h, .. } => Some((*h, ChunkKind::Data)),
            Extent::Hole { .. } => None,
        };
        self.leaf.as_slice().iter().filter_map(data).take(AHEAD).collect()
    }
}

impl Iterator for Extents<'_> {
    type Item = Result<(u64, Extent)>;

    fn next(&mut self) -> Option<Result<(u64, Extent)>> {
        let next = self.advance();
        if next.is_err() {
            self.stack.clear();
            self.leaf = Vec::new().into_iter();
        }
        next.transpose()
    }
}

/// Fills `buf` from `offset`; returns how much the file has there, less than asked only at its end.
/// Holes read as zeros.
///
/// # Errors
/// What the source gives; `Damaged` when a chunk's length is not its extent's.
pub fn read_at(source: &dyn FrameSource, content: &Content, offset: u64, buf: &mut [u8]) -> Result<usize> {
    if let Content::Inline(bytes) = content {
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let n = buf.len().min(bytes.len() - from);
        buf[..n].copy_from_slice(&bytes[from..from + n]);
        return Ok(n);
    }
    let mut done = 0;
    let mut walk = extents(source, content, offset);
    while done < buf.len() {
        let Some(next) = walk.next() else { break };
        let (start, extent) = next?;
        let into = (offset + done as u64).checked_sub(start).ok_or_else(|| Error::bug("extents are out of order"))?;
        let n = (buf.len() - done).min(usize::try_from(extent.len() - into).unwrap_or(usize::MAX));
        match extent {
            Extent::Hole { .. } => buf[done..done + n].fill(0),
            Extent::Data { h, len } => {
                let chunk = data(source, &h, len)?;
                buf[done..done + n].copy_from_slice(&chunk[into as usize..into as usize + n]);
            }
        }
        done += n;
    }
    Ok(done)
}

/// A data extent's bytes, of the length the tree says.
///
/// # Errors
/// What the source gives; `Damaged` when the lengths differ.
pub fn data(source: &dyn FrameSource, h: &ContentHash, len: u64) -> Result<crate::pack::source::Chunk> {
    let chunk = source.chunk(h, ChunkKind::Data)?;
    if chunk.len() as u64 != len {
        return Err(Error::damaged("a piece of data is not as long as its file says"));
    }
    Ok(chunk)
}

/// Reads a file from start to end, handing on each data extent's bytes and each hole's length.
///
/// # Errors
/// What the source or `visit` gives.
pub fn stream(
    source: &dyn FrameSource,
    content: &Content,
    mut visit: impl FnMut(u64, Piece<'_>) -> Result<()>,
) -> Result<()> {
    if let Content::Inline(bytes) = content {
        return if bytes.is_empty() { Ok(()) } else { visit(0, Piece::Data(bytes)) };
    }
    let mut walk = extents(source, content, 0);
    let mut asked = 0;
    while let Some(next) = walk.next() {
        let (at, extent) = next?;
        if asked == 0 {
            let ahead = walk.ahead();
            asked = ahead.len() / 2;
            source.prefetch(&ahead);
        } else {
            asked -= 1;
        }
        match extent {
            Extent::Hole { len } => visit(at, Piece::Hole(len))?,
            Extent::Data { h, len } => visit(at, Piece::Data(&data(source, &h, len)?))?,
        }
    }
    Ok(())
}

/// A stretch of a file.
pub enum Piece<'a> {
    /// These bytes.
    Data(&'a [u8]),
    /// This many zeros that take no space.
    Hole(u64),
}

/// `lseek` for a captured file of `size` bytes: the next data (`hole` false) or hole at or after `offset`.
///
/// # Errors
/// `NotFound` (ENXIO) past the end or when no data follows; what the source gives.
pub fn seek(source: &dyn FrameSource, content: &Content, size: u64, offset: u64, hole: bool) -> Result<u64> {
    let nothing = || Error::new(Kind::NotFound, "no data or hole there");
    if offset >= size {
        return Err(nothing());
    }
    if matches!(content, Content::Inline(_)) {
        return Ok(if hole { size } else { offset });
    }
    for next in extents(source, content, offset) {
        let (at, extent) = next?;
        if matches!(extent, Extent::Hole { .. }) == hole {
            return Ok(at.max(offset));
        }
    }
    if hole { Ok(size) } else { Err(nothing()) }
}
