//! zstd for one frame at a time, into and out of buffers that the caller keeps.

use zstd::bulk::{Compressor, Decompressor};

use crate::error::{Error, Result};
use crate::limits::MAX_FRAME_RAW;

/// How a frame's payload is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    /// As it is.
    None = 0,
    /// One zstd frame.
    Zstd = 1,
}

impl Codec {
    /// The codec with this number.
    ///
    /// # Errors
    /// `Damaged` for an unknown one: a newer format would say so before.
    pub fn from_u8(v: u8) -> Result<Codec> {
        match v {
            0 => Ok(Codec::None),
            1 => Ok(Codec::Zstd),
            _ => Err(Error::damaged("a block of data is stored with an unknown codec")),
        }
    }
}

/// A compression context of one thread.
pub struct Packer(Compressor<'static>);

impl Packer {
    /// For zstd `level`.
    ///
    /// # Errors
    /// `Io` when memory is short.
    pub fn new(level: i32) -> Result<Packer> {
        let context = Compressor::new(level).map_err(|e| Error::io("set up compression", "", e))?;
        Ok(Packer(context))
    }

    /// Appends `raw` to `out`, compressed if that makes it smaller by at least a 32nd, plain otherwise.
    ///
    /// # Errors
    /// `Io` when zstd fails.
    pub fn pack(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Result<Codec> {
        let head = out.len();
        out.resize(head + zstd::zstd_safe::compress_bound(raw.len()), 0);
        let n = self.0.compress_to_buffer(raw, &mut out[head..]).map_err(|e| Error::io("compress", "", e))?;
        if n > raw.len() - raw.len() / 32 {
            out.truncate(head);
            out.extend_from_slice(raw);
            return Ok(Codec::None);
        }
        out.truncate(head + n);
        Ok(Codec::Zstd)
    }
}

/// Unpacks a payload that is `raw_len` bytes long when unpacked.
///
/// # Errors
/// `Damaged` when the length is out of bounds or the payload does not unpack to exactly that.
pub fn unpack(codec: Codec, payload: &[u8], raw_len: usize) -> Result<Vec<u8>> {
    thread_local! {
        static CONTEXT: std::cell::RefCell<Option<Decompressor<'static>>> = const { std::cell::RefCell::new(None) };
    }
    if raw_len > MAX_FRAME_RAW {
        return Err(Error::damaged("a block of data claims to be larger than any may be"));
    }
    let raw = match codec {
        Codec::None => payload.to_vec(),
        Codec::Zstd => CONTEXT.with_borrow_mut(|slot| {
            let context = match slot {
                Some(context) => context,
                None => slot.insert(Decompressor::new().map_err(|e| Error::io("set up decompression", "", e))?),
            };
            context.decompress(payload, raw_len).map_err(|_| Error::damaged("a block of data does not decompress"))
        })?,
    };
    if raw.len() != raw_len {
        return Err(Error::damaged("a block of data is not as long as its pack says"));
    }
    Ok(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_what_shrinks_and_leaves_the_rest() {
        let mut packer = Packer::new(3).unwrap();
        let text = b"all work and no play ".repeat(1000);
        let mut out = vec![7; 24];
        assert_eq!(packer.pack(&text, &mut out).unwrap(), Codec::Zstd);
        assert_eq!(unpack(Codec::Zstd, &out[24..], text.len()).unwrap(), text);
        let noise: Vec<u8> = crate::id::random_bytes::<4096>().to_vec();
        let mut out = Vec::new();
        assert_eq!(packer.pack(&noise, &mut out).unwrap(), Codec::None);
        assert_eq!(out, noise);
    }

    #[test]
    fn never_unpacks_past_what_is_declared() {
        let mut out = Vec::new();
        Packer::new(3).unwrap().pack(&vec![0; 1 << 20], &mut out).unwrap();
        assert!(unpack(Codec::Zstd, &out, 1000).is_err());
        assert!(unpack(Codec::Zstd, &out, (1 << 20) + 1).is_err());
        assert!(unpack(Codec::Zstd, &out, MAX_FRAME_RAW + 1).is_err());
        assert!(unpack(Codec::Zstd, b"junk", 4).is_err());
    }
}
