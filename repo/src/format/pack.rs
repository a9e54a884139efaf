//! A pack's frame: header, frames, sealed footer, trailer. `docs/format.md` (Packs) is normative.

use crate::crypto::keys::FrameKind;
use crate::error::{Error, Kind, Result};
use crate::limits::MAX_FOOTER;

/// The first eight bytes of every pack.
pub const MAGIC: &[u8; 8] = b"PKMLPACK";
/// The last eight bytes of every pack.
pub const END_MAGIC: &[u8; 8] = b"PKMLPEND";
/// The format version written.
pub const VERSION: u16 = 1;
/// Bytes before the first frame: magic, version (u16 LE), kind, five zeros.
pub const HEADER: usize = 16;
/// Bytes after the footer: its length (u32 LE), end magic.
pub const TRAILER: usize = 12;

/// The header of a pack of this kind.
pub fn header(kind: FrameKind) -> [u8; HEADER] {
    let mut out = [0; HEADER];
    out[..8].copy_from_slice(MAGIC);
    out[8..10].copy_from_slice(&VERSION.to_le_bytes());
    out[10] = kind as u8;
    out
}

/// The trailer after a sealed footer of `len` bytes.
pub fn trailer(len: u32) -> [u8; TRAILER] {
    let mut out = [0; TRAILER];
    out[..4].copy_from_slice(&len.to_le_bytes());
    out[4..].copy_from_slice(END_MAGIC);
    out
}

/// Reads a header.
///
/// # Errors
/// `Damaged` for anything but a header, `NewerFormat` for a later version.
pub fn parse_header(bytes: &[u8; HEADER]) -> Result<FrameKind> {
    if &bytes[..8] != MAGIC || bytes[11..] != [0; 5] {
        return Err(Error::damaged("a pack does not begin as one"));
    }
    let version = u16::from_le_bytes([bytes[8], bytes[9]]);
    if version == 0 {
        return Err(Error::damaged("a pack has format version 0"));
    }
    if version > VERSION {
        return Err(Error::new(Kind::NewerFormat, "a pack is of a newer version").remedy("use a newer packmule"));
    }
    FrameKind::try_from(bytes[10])
}

/// The sealed footer's length, from the trailer of a pack of `size` bytes.
///
/// # Errors
/// `Damaged` when the trailer is none or the footer would not fit.
pub fn parse_trailer(bytes: &[u8; TRAILER], size: u64) -> Result<u32> {
    if &bytes[4..] != END_MAGIC {
        return Err(Error::damaged("a pack does not end as one"));
    }
    let len = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    if len as usize > MAX_FOOTER || u64::from(len) + (HEADER + TRAILER) as u64 > size {
        return Err(Error::damaged("a pack's table of contents does not fit into it"));
    }
    Ok(len)
}
