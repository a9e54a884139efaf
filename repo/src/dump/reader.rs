//! A file's content as a reader, in full or as GNU tar's sparse form 1.0: a map of where data is, and the data.

use std::io::{self, Read};

use super::stop;
use crate::crypto::hash::ChunkKind;
use crate::error::{Error, Result};
use crate::format::tree::{Content, Entry, Extent};
use crate::limits::MIB;
use crate::monitor::Monitor;
use crate::pack::source::{Chunk, FrameSource};
use crate::tree::file::{Extents, data, extents};

/// Holes of less than this together are written as zeros, which every program reads.
const WORTH: u64 = MIB as u64;
/// What a map is padded to.
const BLOCK: u64 = 512;

/// Reads what `fill` gives until the user stops it. What it gave as an error is kept.
pub struct Reading<'a, F> {
    fill: F,
    monitor: &'a dyn Monitor,
    /// Why it ended early.
    pub failure: Option<Error>,
}

impl<'a, F: FnMut(&mut [u8]) -> Result<usize>> Reading<'a, F> {
    /// Of `fill`, which gives 0 at the end only.
    pub fn new(fill: F, monitor: &'a dyn Monitor) -> Reading<'a, F> {
        Reading { fill, monitor, failure: None }
    }
}

impl<F: FnMut(&mut [u8]) -> Result<usize>> Read for Reading<'_, F> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        stop(self.monitor).and_then(|()| (self.fill)(buf)).map_err(|e| {
            self.failure = Some(e);
            io::Error::other("the repository cannot be read")
        })
    }
}

/// A file's bytes.
pub struct Bytes<'a> {
    source: &'a dyn FrameSource,
    extents: Extents<'a>,
    inline: &'a [u8],
    chunk: Option<(Chunk, usize)>,
    hole: u64,
    /// Holes are passed over.
    dense: bool,
}

impl<'a> Bytes<'a> {
    /// All of them, holes as zeros; with `dense` only those of data.
    pub fn new(source: &'a dyn FrameSource, content: &'a Content, dense: bool) -> Bytes<'a> {
        let inline: &[u8] = match content {
            Content::Inline(bytes) => bytes,
            _ => &[],
        };
        if let Content::Extents(list) = content {
            let chunks: Vec<_> = list
                .iter()
                .filter_map(|e| match e {
                    Extent::Data { h, .. } => Some((*h, ChunkKind::Data)),
                    Extent::Hole { .. } => None,
                })
                .collect();
            source.prefetch(&chunks);
        }
        Bytes { source, extents: extents(source, content, 0), inline, chunk: None, hole: 0, dense }
    }

    /// The next bytes; none at the end.
    pub fn fill(&mut self, buf: &mut [u8]) -> Result<usize> {
        loop {
            if !self.inline.is_empty() {
                let n = buf.len().min(self.inline.len());
                buf[..n].copy_from_slice(&self.inline[..n]);
                self.inline = &self.inline[n..];
                return Ok(n);
            }
            if self.hole > 0 {
                let n = buf.len().min(usize::try_from(self.hole).unwrap_or(usize::MAX));
                buf[..n].fill(0);
                self.hole -= n as u64;
                return Ok(n);
            }
            if let Some((chunk, at)) = &mut self.chunk {
                let n = buf.len().min(chunk.len() - *at);
                if n > 0 {
                    buf[..n].copy_from_slice(&chunk[*at..*at + n]);
                    *at += n;
                    return Ok(n);
                }
                self.chunk = None;
            }
            match self.extents.next().transpose()? {
                None => return Ok(0),
                Some((_, Extent::Hole { .. })) if self.dense => {}
                Some((_, Extent::Hole { len })) => self.hole = len,
                Some((_, Extent::Data { h, len })) => self.chunk = Some((data(self.source, &h, len)?, 0)),
            }
        }
    }
}

/// Where a file has data: offset and length, neighbours joined. The last ends where the file does, and may be empty.
struct Regions<'a> {
    extents: Extents<'a>,
    next: Option<(u64, u64)>,
    size: u64,
    ended: bool,
}

impl<'a> Regions<'a> {
    fn new(source: &'a dyn FrameSource, entry: &Entry) -> Regions<'a> {
        Regions { extents: extents(source, &entry.content, 0), next: None, size: entry.size, ended: false }
    }

    fn advance(&mut self) -> Result<Option<(u64, u64)>> {
        loop {
            match self.extents.next().transpose()? {
                Some((_, Extent::Hole { .. })) => {}
                Some((at, Extent::Data { len, .. })) => match &mut self.next {
                    Some((from, so_far)) if *from + *so_far == at => *so_far += len,
                    next => {
                        if let Some(done) = next.replace((at, len)) {
                            return Ok(Some(done));
                        }
                    }
                },
                None if self.ended => return Ok(None),
                None => {
                    if let Some((from, len)) = self.next.take() {
                        self.ended = from + len == self.size;
                        return Ok(Some((from, len)));
                    }
                    self.ended = true;
                    return Ok(Some((self.size, 0)));
                }
            }
        }
    }
}

fn line(region: (u64, u64)) -> String {
    format!("{}\n{}\n", region.0, region.1)
}

/// What the sparse form of a file takes.
pub struct Sparse {
    regions: u64,
    map: u64,
    data: u64,
}

impl Sparse {
    /// Of a file, if that is worth it.
    ///
    /// # Errors
    /// What the source gives; `Interrupted`.
    pub fn of(source: &dyn FrameSource, entry: &Entry, monitor: &dyn Monitor) -> Result<Option<Sparse>> {
        if !matches!(entry.content, Content::Extents(_) | Content::Indexed { .. }) {
            return Ok(None);
        }
        let mut found = Sparse { regions: 0, map: 0, data: 0 };
        let mut regions = Regions::new(source, entry);
        while let Some(region) = regions.advance()? {
            stop(monitor)?;
            found.regions += 1;
            found.map += line(region).len() as u64;
            found.data += region.1;
        }
        found.map += found.head().len() as u64;
        Ok((entry.size.saturating_sub(found.data) >= WORTH).then_some(found))
    }

    fn head(&self) -> String {
        format!("{}\n", self.regions)
    }

    /// How long it is.
    pub fn len(&self) -> u64 {
        self.map.next_multiple_of(BLOCK) + self.data
    }

    /// The map, the padding, the data.
    pub fn reader<'a>(&self, source: &'a dyn FrameSource, entry: &'a Entry) -> SparseBytes<'a> {
        SparseBytes {
            text: self.head().into_bytes(),
            at: 0,
            regions: Some(Regions::new(source, entry)),
            padding: (self.map.next_multiple_of(BLOCK) - self.map) as usize,
            bytes: Bytes::new(source, &entry.content, true),
        }
    }
}

/// See [`Sparse::reader`].
pub struct SparseBytes<'a> {
    text: Vec<u8>,
    at: usize,
    regions: Option<Regions<'a>>,
    padding: usize,
    bytes: Bytes<'a>,
}

impl SparseBytes<'_> {
    /// The next bytes; none at the end.
    pub fn fill(&mut self, buf: &mut [u8]) -> Result<usize> {
        while self.at == self.text.len() {
            let Some(regions) = &mut self.regions else { return self.bytes.fill(buf) };
            self.at = 0;
            self.text = match regions.advance()? {
                Some(region) => line(region).into_bytes(),
                None => {
                    self.regions = None;
                    vec![0; self.padding]
                }
            };
        }
        let n = buf.len().min(self.text.len() - self.at);
        buf[..n].copy_from_slice(&self.text[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}
