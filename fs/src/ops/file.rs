//! What a file holds: bytes, holes, link targets, extended attributes.

use std::ops::{Deref, Range};
use std::sync::Arc;

use repo::crypto::hash::ChunkKind;
use repo::error::{Error, Kind};
use repo::format::tree::{Content, Extent, XattrValue};
use repo::id::ContentHash;
use repo::limits::MIB;
use repo::pack::source::Chunk;
use repo::tree::file::data;

use super::{Ops, Thing};
use crate::errno::{Fail, Outcome};
use crate::inode::{Body, Node};
use crate::prefetch::Part;

/// Reads longer than this are answered in part.
const READ_MAX: u32 = 16 * MIB as u32;
/// How many bytes of small files are asked for ahead, and how many files.
const SIBLING_BYTES: u64 = 4 * MIB as u64;
const SIBLING_FILES: u64 = 1024;

/// Bytes read; borrowed from the decoded frame where they lie in one chunk.
pub enum Data<'a> {
    /// A piece of a chunk.
    Chunk(Chunk, Range<usize>),
    /// Gathered in the caller's buffer, or inline.
    Gathered(&'a [u8]),
}

impl Deref for Data<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Data::Chunk(chunk, range) => &chunk[range.clone()],
            Data::Gathered(bytes) => bytes,
        }
    }
}

/// What to seek for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// `SEEK_DATA`.
    Data,
    /// `SEEK_HOLE`.
    Hole,
}

impl Ops {
    /// Up to `size` bytes from `offset`; fewer only at the file's end. `scratch` is where they are put together if
    /// they must be.
    ///
    /// # Errors
    /// `IsDirectory`, `Invalid` for other types, `Stale`, and `Repo` when a chunk cannot be had.
    pub fn read<'a>(&self, ino: u64, offset: u64, size: u32, scratch: &'a mut Vec<u8>) -> Outcome<Data<'a>> {
        let node = self.node(ino)?;
        self.told(&node, self.read_node(&node, offset, size, scratch))
    }

    fn read_node<'a>(&self, node: &Arc<Node>, offset: u64, size: u32, scratch: &'a mut Vec<u8>) -> Outcome<Data<'a>> {
        let content = match &node.body {
            Body::File(content) => content,
            Body::Dir(_) | Body::Union(_) => return Err(Fail::IsDirectory),
            _ => return Err(Fail::Invalid),
        };
        scratch.clear();
        let end = offset.saturating_add(size.min(READ_MAX).into()).min(node.meta.size);
        if offset >= end {
            return Ok(Data::Gathered(scratch));
        }
        if offset == 0 {
            self.next_files(node);
        }
        match content {
            Content::Inline(bytes) => {
                scratch.extend_from_slice(bytes.get(offset as usize..end as usize).unwrap_or_default());
                Ok(Data::Gathered(scratch))
            }
            Content::Extents(extents) if extents.len() == 1 => {
                let part = Part { extent: extents[0], from: offset, len: (end - offset) as usize };
                Ok(self.gather(vec![part], scratch)?)
            }
            _ => {
                let parts = self.prefetch.plan(node.ino, content, node.meta.size, offset, end)?;
                Ok(self.gather(parts, scratch)?)
            }
        }
    }

    fn gather<'a>(&self, parts: Vec<Part>, scratch: &'a mut Vec<u8>) -> Result<Data<'a>, Error> {
        if let [Part { extent: Extent::Data { h, len }, from, len: n }] = &parts[..] {
            let chunk = data(&*self.source, h, *len)?;
            return Ok(Data::Chunk(chunk, *from as usize..*from as usize + n));
        }
        for part in parts {
            match part.extent {
                Extent::Hole { .. } => scratch.resize(scratch.len() + part.len, 0),
                Extent::Data { h, len } => {
                    let from = part.from as usize;
                    scratch.extend_from_slice(&data(&*self.source, &h, len)?[from..from + part.len]);
                }
            }
        }
        Ok(Data::Gathered(scratch))
    }

    /// Has the files that follow in the directory decoded if it is being read in order.
    fn next_files(&self, node: &Node) {
        let Some(parent) = node.parent.as_ref() else { return };
        let Some(dir) = parent.dir().copied() else { return };
        let (source, listings) = (self.source.clone(), self.listings.clone());
        self.prefetch.sibling(parent.ino, node.position, move |from| {
            let (mut at, mut bytes) = (from, 0);
            let mut chunks = Vec::new();
            'pieces: while at - from < SIBLING_FILES {
                let Ok(piece) = listings.at(&*source, &dir, at) else { break };
                let skip = at.saturating_sub(piece.start) as usize;
                if piece.entries.len() <= skip {
                    at = u64::MAX;
                    break;
                }
                for entry in &piece.entries[skip..] {
                    if let Some((h, len)) = first_chunk(&entry.content) {
                        chunks.push((h, ChunkKind::Data));
                        bytes += len;
                    }
                    at += 1;
                    if bytes >= SIBLING_BYTES {
                        break 'pieces;
                    }
                }
            }
            source.prefetch(&chunks);
            at
        });
    }

    /// The next data or hole at or after `offset`.
    ///
    /// # Errors
    /// `NoOffset` at or past the end, or when no data follows; as [`Ops::read`].
    pub fn seek(&self, ino: u64, offset: u64, what: Seek) -> Outcome<u64> {
        let node = self.node(ino)?;
        let Body::File(content) = &node.body else { return Err(Fail::Invalid) };
        let found = repo::tree::file::seek(&*self.source, content, node.meta.size, offset, what == Seek::Hole);
        let found = found.map_err(|e| if e.kind() == Kind::NotFound { Fail::NoOffset } else { Fail::Repo(e) });
        self.told(&node, found)
    }

    /// A symbolic link's target.
    ///
    /// # Errors
    /// `Invalid` for anything else, `Stale`.
    pub fn readlink(&self, ino: u64) -> Outcome<Vec<u8>> {
        match self.thing(ino)? {
            Thing::Link(layout, depth, index) => Ok(layout.link(depth, index).into_bytes()),
            Thing::Node(node) => match &node.body {
                Body::Symlink(target) => Ok(target.to_vec()),
                _ => Err(Fail::Invalid),
            },
            Thing::Dir(..) => Err(Fail::Invalid),
        }
    }

    /// An extended attribute's value.
    ///
    /// # Errors
    /// `NoAttribute`, `Stale`, and `Repo` when a long value cannot be read.
    pub fn xattr(&self, ino: u64, name: &[u8]) -> Outcome<Vec<u8>> {
        let Thing::Node(node) = self.thing(ino)? else { return Err(Fail::NoAttribute) };
        if self.hidden(name) {
            return Err(Fail::NoAttribute);
        }
        let found = node.xattrs.binary_search_by(|(n, _)| n.as_slice().cmp(name)).map_err(|_| Fail::NoAttribute)?;
        let value = match &node.xattrs[found].1 {
            XattrValue::Inline(bytes) => Ok(bytes.clone()),
            XattrValue::Chunk { h, len } => {
                data(&*self.source, h, (*len).into()).map(|c| c.to_vec()).map_err(Fail::Repo)
            }
        };
        self.told(&node, value)
    }

    /// The names of all extended attributes, each followed by NUL.
    ///
    /// # Errors
    /// `Stale`.
    pub fn xattrs(&self, ino: u64) -> Outcome<Vec<u8>> {
        let mut out = Vec::new();
        if let Thing::Node(node) = self.thing(ino)? {
            for (name, _) in node.xattrs.iter().filter(|(name, _)| !self.hidden(name)) {
                out.extend_from_slice(name);
                out.push(0);
            }
        }
        Ok(out)
    }

    /// An ACL would contradict what is presented instead of it.
    fn hidden(&self, name: &[u8]) -> bool {
        self.appearance.presentation.is_some() && name.starts_with(b"system.posix_acl_")
    }

    fn node(&self, ino: u64) -> Outcome<Arc<Node>> {
        match self.thing(ino)? {
            Thing::Node(node) => Ok(node),
            Thing::Dir(..) => Err(Fail::IsDirectory),
            Thing::Link(..) => Err(Fail::Invalid),
        }
    }
}

/// Where a small file's bytes begin.
fn first_chunk(content: &Content) -> Option<(ContentHash, u64)> {
    let Content::Extents(extents) = content else { return None };
    match extents.first() {
        Some(Extent::Data { h, len }) => Some((*h, *len)),
        _ => None,
    }
}
