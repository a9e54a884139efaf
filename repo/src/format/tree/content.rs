//! Where an entry's content is: in the entry, in extents, behind index nodes; or a directory's listing.

use crate::error::{Error, Kind, Result};
use crate::format::wire::{Reader, Writer};
use crate::id::ContentHash;
use crate::limits::{EXTENTS_INLINE, FILE_INLINE, MAX_NODE_DEPTH};

/// A piece of a file, in order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// `len` bytes, one data chunk.
    Data {
        /// The chunk.
        h: ContentHash,
        /// Its length in bytes, at least 1.
        len: u64,
    },
    /// `len` bytes that read as zeros and take no space.
    Hole {
        /// Length in bytes, at least 1.
        len: u64,
    },
}

impl Extent {
    /// Bytes of the file this extent covers.
    pub fn len(&self) -> u64 {
        match self {
            Extent::Data { len, .. } | Extent::Hole { len } => *len,
        }
    }

    /// Never: an extent has at least one byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Where a directory's listing is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct DirRef {
    /// Entries in the directory itself.
    pub entries: u64,
    /// Index nodes between here and the tree chunks; 0: `h` is a tree chunk.
    pub depth: u8,
    /// The chunk; all zeros and not stored when there are no entries.
    pub h: ContentHash,
}

impl DirRef {
    /// A directory without entries.
    pub fn empty() -> DirRef {
        DirRef { entries: 0, depth: 0, h: ContentHash::from_bytes([0; 32]) }
    }
}

/// An entry's content.
#[derive(Clone, PartialEq, Eq)]
pub enum Content {
    /// Neither a file nor a directory.
    None,
    /// A file of at most [`FILE_INLINE`] bytes, also the empty one.
    Inline(Vec<u8>),
    /// A file of at most [`EXTENTS_INLINE`] extents.
    Extents(Vec<Extent>),
    /// A file whose extents stand in index nodes.
    Indexed {
        /// The top node.
        h: ContentHash,
        /// Nodes below it on every path; 0: the top node lists extents.
        depth: u8,
    },
    /// A directory's listing.
    Dir(DirRef),
}

/// Appends one extent: `len << 1 | hole`, then `h` for data.
pub(crate) fn encode_extent(w: &mut Writer, extent: &Extent) {
    match extent {
        Extent::Data { h, len } => {
            w.varint(len << 1);
            w.bytes(h.expose());
        }
        Extent::Hole { len } => w.varint(len << 1 | 1),
    }
}

pub(crate) fn decode_extent(r: &mut Reader<'_>) -> Result<Extent> {
    let head = r.varint()?;
    let len = head >> 1;
    if len == 0 {
        return Err(Error::damaged("a file's extent is empty"));
    }
    if head & 1 == 1 {
        return Ok(Extent::Hole { len });
    }
    Ok(Extent::Data { h: ContentHash::from_bytes(r.array()?), len })
}

/// A content's bytes; also how a manifest refers to the stat sidecar.
pub(crate) fn encode_content(content: &Content) -> Vec<u8> {
    let mut w = Writer::new();
    match content {
        Content::None => {}
        Content::Inline(bytes) => {
            w.u8(0);
            w.lp_bytes(bytes);
        }
        Content::Extents(extents) => {
            w.u8(1);
            extents.iter().for_each(|e| encode_extent(&mut w, e));
        }
        Content::Indexed { h, depth } => {
            w.u8(2);
            w.u8(*depth);
            w.bytes(h.expose());
        }
        Content::Dir(dir) => {
            w.u8(3);
            w.varint(dir.entries);
            w.u8(dir.depth);
            w.bytes(dir.h.expose());
        }
    }
    w.into_vec()
}

pub(crate) fn decode_content(bytes: &[u8]) -> Result<Content> {
    let mut r = Reader::new(bytes);
    let content = match r.u8()? {
        0 => Content::Inline(r.lp_bytes(FILE_INLINE)?.to_vec()),
        1 => {
            let mut extents = Vec::new();
            while !r.is_empty() {
                if extents.len() == EXTENTS_INLINE {
                    return Err(Error::damaged("a tree entry lists too many extents"));
                }
                extents.push(decode_extent(&mut r)?);
            }
            if extents.is_empty() {
                // An empty file is inline.
                return Err(Error::damaged("a tree entry lists no extents"));
            }
            Content::Extents(extents)
        }
        2 => Content::Indexed { depth: depth(r.u8()?)?, h: ContentHash::from_bytes(r.array()?) },
        3 => Content::Dir(DirRef {
            entries: r.varint()?,
            depth: depth(r.u8()?)?,
            h: ContentHash::from_bytes(r.array()?),
        }),
        _ => return Err(Error::new(Kind::NewerFormat, "a tree entry's content has an unknown form")),
    };
    r.finish()?;
    Ok(content)
}

fn depth(value: u8) -> Result<u8> {
    if value > MAX_NODE_DEPTH {
        return Err(Error::damaged("the indexes of a large file or directory are nested too deep"));
    }
    Ok(value)
}
