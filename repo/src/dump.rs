//! Writing one file, or a directory as a tar archive, to a stream.

mod acl;
mod reader;
mod tar;

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};

pub use self::tar::{Archived, archive};
use crate::error::{Error, Kind, Result};
use crate::format::tree::Entry;
use crate::monitor::{Counters, Monitor};
use crate::pack::source::FrameSource;
use crate::tree::file::{Piece, stream};

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

#[cfg(test)]
mod tests;
