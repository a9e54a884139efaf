//! The bytes of files: writing them, with holes, and comparing what is there without fetching anything.

use std::fs::File;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, ftruncate, lseek};

use crate::crypto::hash::{ChunkKind, content_hash};
use crate::error::{Error, Result};
use crate::format::tree::{Content, Entry, Extent};
use crate::id::ContentHash;
use crate::limits::{KIB, MAX_FRAME_RAW};
use crate::monitor::Counters;
use crate::restore::context::Context;
use crate::tree::file::{data, extents};

/// Zeros are looked for, and holes made, in blocks of this size, which is that of nearly every filesystem.
const BLOCK: usize = 4 * KIB;

/// Where bytes go.
pub struct Output<'f> {
    /// The file.
    pub file: &'f File,
    /// Runs of zeros become holes.
    pub sparse: bool,
    /// The file may hold other bytes already.
    pub used: bool,
}

impl Output<'_> {
    /// Writes `bytes` at `at`.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&self, at: u64, bytes: &[u8]) -> std::io::Result<()> {
        if !self.sparse {
            return self.file.write_all_at(bytes, at);
        }
        // From block to block of the file; runs of the same sort go together.
        let head = (BLOCK as u64 - at % BLOCK as u64) as usize % BLOCK;
        let (mut from, mut end) = (0, head.min(bytes.len()));
        let mut zero = end > 0 && is_zero(&bytes[..end]);
        while end < bytes.len() {
            let next = (end + BLOCK).min(bytes.len());
            let z = is_zero(&bytes[end..next]);
            if z != zero {
                self.run(at + from as u64, &bytes[from..end], zero)?;
                (from, zero) = (end, z);
            }
            end = next;
        }
        self.run(at + from as u64, &bytes[from..end], zero)
    }

    fn run(&self, at: u64, bytes: &[u8], zero: bool) -> std::io::Result<()> {
        match zero {
            true => self.hole(at, bytes.len() as u64),
            false => self.file.write_all_at(bytes, at),
        }
    }

    /// Makes `len` bytes at `at` read as zeros and take no space.
    ///
    /// # Errors
    /// The system's.
    pub fn hole(&self, at: u64, len: u64) -> std::io::Result<()> {
        // What was never written is a hole.
        if !self.used || len == 0 || is_hole(self.file, at, len) {
            return Ok(());
        }
        let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        match fallocate(self.file, punch, at as i64, len as i64) {
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => self.zeros(at, len),
            other => Ok(other?),
        }
    }

    fn zeros(&self, mut at: u64, len: u64) -> std::io::Result<()> {
        let zeros = [0; 64 * KIB];
        let end = at + len;
        while at < end {
            let n = (end - at).min(zeros.len() as u64);
            self.file.write_all_at(&zeros[..n as usize], at)?;
            at += n;
        }
        Ok(())
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().all(|w| u128::from_ne_bytes(*w) == 0) && rest.iter().all(|b| *b == 0)
}

/// Whether the file certainly has no data there.
fn is_hole(file: &File, at: u64, len: u64) -> bool {
    match lseek(file, at as i64, Whence::SeekData) {
        Ok(next) => next as u64 >= at + len,
        Err(Errno::ENXIO) => true,
        Err(_) => false,
    }
}

/// A file's extents with their offsets; an error as soon as they do not cover it exactly, which only a forged tree
/// makes. Inline content has none.
pub fn covering<'e>(ctx: &'e Context<'_>, entry: &'e Entry) -> impl Iterator<Item = Result<(u64, Extent)>> + 'e {
    let wrong = || Some(Err(Error::damaged("a file's extents do not cover its length")));
    let inline = matches!(entry.content, Content::Inline(_));
    let (mut walk, mut end, mut over) = (extents(ctx.source, &entry.content, 0), 0, inline);
    std::iter::from_fn(move || {
        if over {
            return None;
        }
        match walk.next() {
            Some(Ok((at, extent))) => {
                end = at + extent.len();
                over = end > entry.size;
                if over { wrong() } else { Some(Ok((at, extent))) }
            }
            Some(Err(e)) => {
                over = true;
                Some(Err(e))
            }
            None => {
                over = true;
                if end == entry.size { None } else { wrong() }
            }
        }
    })
}

/// Fills an empty file, and gives it its length. The caller names the path in errors of the system.
///
/// # Errors
/// What the source gives; the system's through `io`.
pub fn fill(ctx: &Context<'_>, file: &File, entry: &Entry, io: &dyn Fn(std::io::Error) -> Error) -> Result<()> {
    let out = Output { file, sparse: ctx.options.sparse, used: false };
    let mut written = 0;
    if let Content::Inline(bytes) = &entry.content {
        if !bytes.is_empty() {
            file.write_all_at(bytes, 0).map_err(io)?;
        }
        written = bytes.len() as u64;
    }
    for next in covering(ctx, entry) {
        let (at, extent) = next?;
        if let Extent::Data { h, len } = extent {
            let chunk = data(ctx.source, &h, len)?;
            out.write(at, &chunk).map_err(io)?;
            if !out.sparse {
                written = at + len;
            }
        }
        if ctx.stopped() {
            break;
        }
    }
    if written != entry.size {
        ftruncate(file, entry.size as i64).map_err(|e| io(e.into()))?;
    }
    Ok(())
}

/// Room for one chunk of a file at a time.
#[derive(Default)]
pub struct Buffer(Vec<u8>);

impl Buffer {
    /// Whether the file holds this chunk at `at`; nothing is fetched for it.
    pub fn holds(&mut self, file: &File, at: u64, h: &ContentHash, len: u64) -> bool {
        let Ok(len) = usize::try_from(len) else { return false };
        if len > MAX_FRAME_RAW {
            return false;
        }
        if self.0.len() < len {
            self.0.resize(len, 0);
        }
        let bytes = &mut self.0[..len];
        file.read_exact_at(bytes, at).is_ok() && content_hash(ChunkKind::Data, bytes) == *h
    }

    /// Whether the file reads as zeros there.
    pub fn zero(&mut self, file: &File, at: u64, len: u64) -> bool {
        if is_hole(file, at, len) {
            return true;
        }
        self.0.resize(self.0.len().max(256 * KIB), 0);
        let (mut at, end) = (at, at + len);
        while at < end {
            let n = (end - at).min(self.0.len() as u64) as usize;
            if file.read_exact_at(&mut self.0[..n], at).is_err() || !is_zero(&self.0[..n]) {
                return false;
            }
            at += n as u64;
            // Holes within the stretch need not be read.
            if let Ok(next) = lseek(file, at as i64, Whence::SeekData) {
                at = at.max(next as u64);
            }
        }
        true
    }

    /// Whether the open file, of the entry's size, has the entry's content. Reads only the file and index nodes.
    ///
    /// # Errors
    /// What the source gives.
    pub fn same(&mut self, ctx: &Context<'_>, file: &File, entry: &Entry) -> Result<bool> {
        if let Content::Inline(bytes) = &entry.content {
            let mut there = vec![0; bytes.len()];
            return Ok(file.read_exact_at(&mut there, 0).is_ok() && there == *bytes);
        }
        for next in covering(ctx, entry) {
            let (at, extent) = next?;
            let same = match extent {
                Extent::Data { h, len } => self.holds(file, at, &h, len),
                Extent::Hole { len } => self.zero(file, at, len),
            };
            if !same || ctx.stopped() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Adds bytes to the progress.
pub fn progress(ctx: &Context<'_>, bytes: u64) {
    Counters::add(&ctx.monitor.counters().bytes, bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn zeros_become_holes_where_wanted() {
        let mut bytes = vec![7; 5000];
        bytes.extend([0; 40_000]);
        bytes.extend([9; 100]);
        bytes.extend([0; 9000]);
        for at in [0u64, 1, 4096, 5000] {
            for (sparse, used) in [(false, false), (true, false), (true, true)] {
                let file = tempfile::tempfile().unwrap();
                file.set_len(at + bytes.len() as u64).unwrap();
                if used {
                    file.write_all_at(&vec![3; bytes.len()], at).unwrap();
                }
                let out = Output { file: &file, sparse, used };
                out.write(at, &bytes).unwrap();
                let mut back = vec![1; bytes.len()];
                file.read_exact_at(&mut back, at).unwrap();
                assert!(back == bytes, "{at} {sparse} {used}");
                if sparse && !used {
                    assert!(file.metadata().unwrap().blocks() * 512 < 20_000);
                }
                let mut buffer = Buffer::default();
                let h = content_hash(ChunkKind::Data, &bytes);
                assert!(buffer.holds(&file, at, &h, bytes.len() as u64));
                assert!(buffer.zero(&file, at + 8000, 30_000) && !buffer.zero(&file, at + 8000, 40_000));
            }
        }
    }
}
