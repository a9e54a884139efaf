//! Opening what is in packs: footers and frames, checked.

use crate::backend::{Backend, Object as Stored};
use crate::compress::unpack;
use crate::crypto::hash::content_hash;
use crate::crypto::keys::{FRAME_HEAD, FrameKind, Keys, Object};
use crate::error::{Error, Kind, Result};
use crate::format::footer::{ChunkInfo, Footer, FrameInfo};
use crate::format::pack::{HEADER, TRAILER, parse_header, parse_trailer};
use crate::id::PackId;
use crate::limits::MAX_FOOTER;

/// A pack's sealed footer, read from its end.
///
/// # Errors
/// `Damaged` naming the pack when it is cut short or no pack, `NotFound` when it is absent.
pub fn sealed_footer(backend: &dyn Backend, id: &PackId) -> Result<(Vec<u8>, u64)> {
    let object = Stored::Pack(*id);
    let path = backend.path(&object);
    let size = backend.size(&object)?.ok_or_else(|| Error::new(Kind::NotFound, "a pack is missing:").at(&path))?;
    if size < (HEADER + TRAILER) as u64 {
        return Err(Error::damaged("a pack is cut short:").at(path));
    }
    let end = backend.read(&object, size - TRAILER as u64, TRAILER)?;
    let end = end.as_slice().try_into().map_err(|_| Error::bug("a read came back short"))?;
    let len = parse_trailer(end, size).map_err(|e| e.at(&path))?;
    let footer = backend.read(&object, size - TRAILER as u64 - u64::from(len), len as usize)?;
    Ok((footer, size))
}

/// Opens a sealed footer and checks that its frames fill a pack of `size` bytes.
///
/// # Errors
/// `Damaged` when it does not authenticate or does not fit.
pub fn open_footer(keys: &Keys, sealed: &[u8], size: u64) -> Result<Footer> {
    let footer = Footer::decode(&keys.open(Object::Footer, &[], sealed)?)?;
    if u64::from(footer.end()) + (sealed.len() + TRAILER) as u64 != size {
        return Err(Error::damaged("a pack's table of contents does not fit its size"));
    }
    Ok(footer)
}

/// A frame's plaintext, from its sealed bytes.
///
/// # Errors
/// `Damaged` when it does not authenticate or unpack.
pub fn open_frame(keys: &Keys, kind: FrameKind, frame: &FrameInfo, mut sealed: Vec<u8>) -> Result<Vec<u8>> {
    open_frame_in_place(keys, kind, frame, &mut sealed)
}

/// As [`open_frame`]; leaves in `sealed`, behind its first [`FRAME_HEAD`] bytes, the payload, as it was compressed.
///
/// # Errors
/// As [`open_frame`].
pub fn open_frame_in_place(keys: &Keys, kind: FrameKind, frame: &FrameInfo, sealed: &mut Vec<u8>) -> Result<Vec<u8>> {
    keys.open_frame(kind, frame.epoch, frame.raw, sealed)?;
    unpack(frame.codec, &sealed[FRAME_HEAD..], frame.raw as usize)
}

/// Recomputes a chunk's hash.
///
/// # Errors
/// `Damaged` when it is another's.
pub fn verify_chunk(chunk: &ChunkInfo, raw: &[u8]) -> Result<()> {
    let from = chunk.offset as usize;
    let bytes = raw
        .get(from..from + chunk.len as usize)
        .ok_or_else(|| Error::damaged("a piece of data lies outside its block"))?;
    if content_hash(chunk.kind, bytes) != chunk.h {
        return Err(Error::damaged("the contents fail verification (a checksum differs)"));
    }
    Ok(())
}

/// A whole pack's bytes, which are what its name says.
///
/// # Errors
/// `Damaged` naming the pack if they are not, `NotFound` when it is absent.
pub fn whole_pack(backend: &dyn Backend, id: &PackId) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    whole_pack_into(backend, id, &mut bytes)?;
    Ok(bytes)
}

/// As [`whole_pack`], in place of what is in `bytes`: memory that was used before costs the kernel nothing.
///
/// # Errors
/// As [`whole_pack`]; what is in `bytes` then is of no use.
pub fn whole_pack_into(backend: &dyn Backend, id: &PackId, bytes: &mut Vec<u8>) -> Result<()> {
    let mut hasher = blake3::Hasher::new();
    // Hashed while it is in the processor's cache.
    read_pack(backend, id, bytes, &mut |block| _ = hasher.update(block))?;
    if hasher.finalize().as_bytes() != id.as_bytes() {
        let e = Error::damaged("the contents do not match the name, which is their checksum:");
        return Err(e.at(backend.path(&Stored::Pack(*id))));
    }
    Ok(())
}

fn read_pack(backend: &dyn Backend, id: &PackId, bytes: &mut Vec<u8>, each: &mut dyn FnMut(&[u8])) -> Result<()> {
    const BLOCK: usize = 512 << 10;
    let object = Stored::Pack(*id);
    let size = match backend.size(&object)? {
        Some(size) if size <= crate::limits::MAX_PACK as u64 => size as usize,
        // It says what is the matter.
        _ => backend.read_all(&object, crate::limits::MAX_PACK)?.len(),
    };
    backend.prefetch(&object, 0, size as u64);
    bytes.clear();
    bytes.reserve(size);
    while bytes.len() < size {
        let at = bytes.len();
        bytes.resize(size.min(at + BLOCK), 0);
        backend.read_into(&object, at as u64, &mut bytes[at..])?;
        each(&bytes[at..]);
    }
    Ok(())
}

/// Reads a whole pack, checks its name against its bytes, and hands on every frame opened and verified.
/// A frame that fails goes to `visit` as an error; the others still come.
///
/// # Errors
/// `Damaged` when the pack as a whole is not what it should be: its name, header, trailer or footer.
pub fn verify_pack(
    backend: &dyn Backend,
    keys: &Keys,
    id: &PackId,
    mut visit: impl FnMut(&Footer, usize, Result<()>) -> Result<()>,
) -> Result<Footer> {
    let object = Stored::Pack(*id);
    let path = backend.path(&object);
    let bytes = backend.read_all(&object, crate::limits::MAX_PACK)?;
    let (sealed, size) = sealed_footer(backend, id)?;
    let footer = open_footer(keys, &sealed, size).map_err(|e| e.at(&path))?;
    for (i, frame) in footer.frames.iter().enumerate() {
        let checked = verify_frame(keys, &footer, frame, &bytes);
        visit(&footer, i, checked.map_err(|e| e.at(&path)))?;
    }
    // Before the header, so that a flipped bit in it is never called a newer format.
    if blake3::hash(&bytes).as_bytes() != id.as_bytes() {
        return Err(Error::damaged("the contents do not match the name, which is their checksum:").at(path));
    }
    let head = bytes.first_chunk::<HEADER>().ok_or_else(|| Error::damaged("a pack is cut short:").at(&path))?;
    if parse_header(head).map_err(|e| e.at(&path))? != footer.kind {
        return Err(Error::damaged("a pack's two ends are of different kinds:").at(path));
    }
    Ok(footer)
}

/// The footer of a whole pack in memory, sealed and opened. The name was not compared.
///
/// # Errors
/// `Damaged` when the footer does not authenticate or fit, or the pack begins as another kind; `NewerFormat`.
pub fn footer_in<'a>(keys: &Keys, pack: &'a [u8]) -> Result<(&'a [u8], Footer)> {
    let short = || Error::damaged("a pack is cut short:");
    let (body, end) = pack.split_last_chunk::<TRAILER>().ok_or_else(short)?;
    let len = parse_trailer(end, pack.len() as u64)? as usize;
    if len > MAX_FOOTER {
        return Err(Error::damaged("a pack's table of contents is too long"));
    }
    let from = body.len().checked_sub(len).ok_or_else(short)?;
    let kind = parse_header(body.first_chunk::<HEADER>().ok_or_else(short)?)?;
    let footer = open_footer(keys, &body[from..], pack.len() as u64)?;
    if kind != footer.kind {
        return Err(Error::damaged("a pack's two ends are of different kinds"));
    }
    Ok((&body[from..], footer))
}

/// Opens a frame of a whole pack in memory, and compares every chunk in it with its hash.
///
/// # Errors
/// `Damaged`.
pub fn verify_frame(keys: &Keys, footer: &Footer, frame: &FrameInfo, pack: &[u8]) -> Result<()> {
    let sealed = sealed_frame(frame, pack)?;
    let raw = open_frame(keys, footer.kind, frame, sealed.to_vec())?;
    footer.chunks[frame.chunks()].iter().try_for_each(|chunk| verify_chunk(chunk, &raw))
}

/// A frame's bytes in a whole pack.
///
/// # Errors
/// `Damaged` if it reaches beyond.
pub fn sealed_frame<'a>(frame: &FrameInfo, pack: &'a [u8]) -> Result<&'a [u8]> {
    let range = frame.offset as usize..(frame.offset + frame.stored) as usize;
    pack.get(range).ok_or_else(|| Error::damaged("a block of data lies outside its pack"))
}
