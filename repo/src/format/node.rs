//! Index nodes: what stands between an entry and the chunks of a large file or directory.
//!
//! `docs/format.md` (Index nodes) is normative.

use crate::error::{Error, Result};
use crate::format::tree::{Extent, decode_extent, encode_extent};
use crate::format::wire::{Reader, Writer};
use crate::id::ContentHash;
use crate::path::valid_name;

const EXTENTS: u8 = 0;
const FILE: u8 = 1;
const DIR: u8 = 2;

/// One child of an inner node of a file.
#[derive(Clone, Copy)]
pub struct FileChild {
    /// Bytes of the file that the child covers, at least 1.
    pub len: u64,
    /// The child node.
    pub h: ContentHash,
}

/// One child of a node of a directory.
#[derive(Clone)]
pub struct DirChild {
    /// The first name below the child.
    pub first: Vec<u8>,
    /// Entries below the child, at least 1.
    pub entries: u64,
    /// The child: a node, or a tree chunk at depth 1.
    pub h: ContentHash,
}

/// A decoded index node.
pub enum Node {
    /// The lowest level of a file.
    Extents(Vec<Extent>),
    /// A higher level of a file.
    File(Vec<FileChild>),
    /// Any level of a directory.
    Dir(Vec<DirChild>),
}

/// Items being gathered for one node; the first byte says which sort.
pub struct NodeWriter(Writer);

impl NodeWriter {
    /// For extents.
    pub fn extents() -> NodeWriter {
        NodeWriter::of(EXTENTS)
    }

    /// For nodes of a file.
    pub fn file() -> NodeWriter {
        NodeWriter::of(FILE)
    }

    /// For nodes or tree chunks of a directory.
    pub fn dir() -> NodeWriter {
        NodeWriter::of(DIR)
    }

    fn of(sort: u8) -> NodeWriter {
        let mut w = Writer::new();
        w.u8(sort);
        NodeWriter(w)
    }

    /// Adds an extent.
    pub fn extent(&mut self, extent: &Extent) {
        encode_extent(&mut self.0, extent);
    }

    /// Adds a node of a file.
    pub fn file_child(&mut self, child: &FileChild) {
        self.0.varint(child.len);
        self.0.bytes(child.h.expose());
    }

    /// Adds a node or tree chunk of a directory.
    pub fn dir_child(&mut self, child: &DirChild) {
        self.0.lp_bytes(&child.first);
        self.0.varint(child.entries);
        self.0.bytes(child.h.expose());
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Never: the first byte is always there.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The node's chunk.
    pub fn into_vec(self) -> Vec<u8> {
        self.0.into_vec()
    }
}

/// Reads a node chunk.
///
/// # Errors
/// `Damaged` for anything [`NodeWriter`] would not have written.
pub fn decode(chunk: &[u8]) -> Result<Node> {
    let mut r = Reader::new(chunk);
    let node = match r.u8()? {
        EXTENTS => {
            let mut items = Vec::new();
            while !r.is_empty() {
                items.push(decode_extent(&mut r)?);
            }
            Node::Extents(items)
        }
        FILE => {
            let mut items = Vec::new();
            while !r.is_empty() {
                let len = positive(r.varint()?)?;
                items.push(FileChild { len, h: ContentHash::from_bytes(r.array()?) });
            }
            Node::File(items)
        }
        DIR => Node::Dir(decode_dir(&mut r)?),
        _ => return Err(Error::damaged("the index of a large file or directory is of an unknown sort")),
    };
    let items = match &node {
        Node::Extents(v) => v.len(),
        Node::File(v) => v.len(),
        Node::Dir(v) => v.len(),
    };
    if items == 0 {
        return Err(Error::damaged("the index of a large file or directory is empty"));
    }
    Ok(node)
}

fn decode_dir(r: &mut Reader<'_>) -> Result<Vec<DirChild>> {
    let mut items: Vec<DirChild> = Vec::new();
    while !r.is_empty() {
        let first = r.lp_bytes(crate::limits::MAX_NAME)?;
        if !valid_name(first) || items.last().is_some_and(|last| last.first.as_slice() >= first) {
            return Err(Error::damaged("the names in the index of a large file or directory are out of order"));
        }
        let entries = positive(r.varint()?)?;
        items.push(DirChild { first: first.to_vec(), entries, h: ContentHash::from_bytes(r.array()?) });
    }
    Ok(items)
}

fn positive(v: u64) -> Result<u64> {
    if v == 0 {
        return Err(Error::damaged("the index of a large file or directory has an empty part"));
    }
    Ok(v)
}
