//! Writing one file, or a directory as a tar archive, to a stream.

mod tar;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

pub use self::tar::{Archived, archive};
use crate::crypto::hash::ChunkKind;
use crate::error::{Error, Kind, Result};
use crate::format::tree::{Content, Entry, Extent};
use crate::monitor::{Counters, Monitor};
use crate::pack::source::{Chunk, FrameSource};
use crate::tree::file::{Extents, Piece, data, extents, stream};

static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// Writes a file's bytes, holes as zeros.
///
/// # Errors
/// What the source gives, before the first byte that is not sound; what `out` gives; `Interrupted`.
pub fn file(source: &dyn FrameSource, entry: &Entry, out: &mut dyn Write, monitor: &dyn Monitor) -> Result<()> {
    let put = |out: &mut dyn Write, bytes: &[u8]| out.write_all(bytes).map_err(unwritable);
    stream(source, &entry.content, |_, piece| {
        match piece {
            Piece::Data(bytes) => {
                put(out, bytes)?;
                Counters::add(&monitor.counters().bytes, bytes.len() as u64);
            }
            Piece::Hole(mut len) => {
                while len > 0 {
                    let n = len.min(ZEROS.len() as u64);
                    put(out, &ZEROS[..n as usize])?;
                    len -= n;
                    stop(monitor)?;
                }
            }
        }
        stop(monitor)
    })
}

/// As [`file()`] to the start of an empty file, in which holes stay holes.
///
/// # Errors
/// As [`file()`].
pub fn to_file(source: &dyn FrameSource, entry: &Entry, out: &mut File, monitor: &dyn Monitor) -> Result<()> {
    stream(source, &entry.content, |at, piece| {
        if let Piece::Data(bytes) = piece {
            out.seek(SeekFrom::Start(at)).and_then(|_| out.write_all(bytes)).map_err(unwritable)?;
            Counters::add(&monitor.counters().bytes, bytes.len() as u64);
        }
        stop(monitor)
    })?;
    out.set_len(entry.size).map_err(unwritable)
}

fn unwritable(e: io::Error) -> Error {
    Error::io("write to", "the output", e)
}

fn stop(monitor: &dyn Monitor) -> Result<()> {
    if monitor.cancelled() { Err(Error::new(Kind::Interrupted, "interrupted")) } else { Ok(()) }
}

/// A file's bytes as a reader. What the source gave as an error is kept, for [`Reader::failure`].
struct Reader<'a> {
    source: &'a dyn FrameSource,
    extents: Extents<'a>,
    inline: &'a [u8],
    chunk: Option<(Chunk, usize)>,
    hole: u64,
    failure: Option<Error>,
}

impl<'a> Reader<'a> {
    fn new(source: &'a dyn FrameSource, content: &'a Content) -> Reader<'a> {
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
        Reader { source, extents: extents(source, content, 0), inline, chunk: None, hole: 0, failure: None }
    }

    fn fill(&mut self, buf: &mut [u8]) -> Result<usize> {
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
                Some((_, Extent::Hole { len })) => self.hole = len,
                Some((_, Extent::Data { h, len })) => self.chunk = Some((data(self.source, &h, len)?, 0)),
            }
        }
    }
}

impl Read for Reader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        self.fill(buf).map_err(|e| {
            self.failure = Some(e);
            io::Error::other("the repository cannot be read")
        })
    }
}

#[cfg(test)]
mod tests;
