//! Building directories and files of any size in bounded memory: items go in, in order, and chunks come out
//! as soon as they are cut. Cuts follow from the items alone, so an edit changes only the chunks around it.

use crate::crypto::hash::ChunkKind;
use crate::error::{Error, Result};
use crate::format::node::{DirChild, FileChild, NodeWriter};
use crate::format::tree::{Content, DirRef, Entry, Extent};
use crate::id::ContentHash;
use crate::limits::{
    EXTENTS_INLINE, MAX_ENTRY, MAX_NAME, MAX_NODE_DEPTH, TREE_CHUNK_AVG, TREE_CHUNK_MAX, TREE_CHUNK_MIN,
};

pub use crate::pack::source::ChunkSink;

/// Something that stands in an index node.
trait Item: Sized {
    /// What a node of these is to the node above it.
    type Parent;

    fn node() -> NodeWriter;
    fn write(&self, node: &mut NodeWriter);
    /// The hash whose bits decide whether a node ends here.
    fn h(&self) -> Option<&ContentHash>;
    fn parent(items: &[Self], h: ContentHash) -> Self::Parent;
}

impl Item for Extent {
    type Parent = FileChild;

    fn node() -> NodeWriter {
        NodeWriter::extents()
    }

    fn write(&self, node: &mut NodeWriter) {
        node.extent(self);
    }

    fn h(&self) -> Option<&ContentHash> {
        match self {
            Extent::Data { h, .. } => Some(h),
            Extent::Hole { .. } => None,
        }
    }

    fn parent(items: &[Extent], h: ContentHash) -> FileChild {
        FileChild { len: items.iter().map(Extent::len).sum(), h }
    }
}

impl Item for FileChild {
    type Parent = FileChild;

    fn node() -> NodeWriter {
        NodeWriter::file()
    }

    fn write(&self, node: &mut NodeWriter) {
        node.file_child(self);
    }

    fn h(&self) -> Option<&ContentHash> {
        Some(&self.h)
    }

    fn parent(items: &[FileChild], h: ContentHash) -> FileChild {
        FileChild { len: items.iter().map(|c| c.len).sum(), h }
    }
}

impl Item for DirChild {
    type Parent = DirChild;

    fn node() -> NodeWriter {
        NodeWriter::dir()
    }

    fn write(&self, node: &mut NodeWriter) {
        node.dir_child(self);
    }

    fn h(&self) -> Option<&ContentHash> {
        Some(&self.h)
    }

    fn parent(items: &[DirChild], h: ContentHash) -> DirChild {
        DirChild { first: items[0].first.clone(), entries: items.iter().map(|c| c.entries).sum(), h }
    }
}

/// The items gathered for one node.
struct Gather<I: Item> {
    items: Vec<I>,
    node: NodeWriter,
}

impl<I: Item> Gather<I> {
    fn new() -> Gather<I> {
        Gather { items: Vec::new(), node: I::node() }
    }

    /// Adds an item; when that ends the node, stores it and returns what stands for it above.
    fn push(&mut self, sink: &mut dyn ChunkSink, item: I) -> Result<Option<I::Parent>> {
        item.write(&mut self.node);
        let chosen = item.h().is_some_and(|h| h.expose()[0] == 0);
        self.items.push(item);
        let len = self.node.len();
        let full = len + MAX_NAME + 64 > TREE_CHUNK_MAX;
        if full || (chosen && len >= TREE_CHUNK_MIN) { self.flush(sink) } else { Ok(None) }
    }

    fn flush(&mut self, sink: &mut dyn ChunkSink) -> Result<Option<I::Parent>> {
        if self.items.is_empty() {
            return Ok(None);
        }
        let node = std::mem::replace(&mut self.node, I::node());
        let h = sink.put(ChunkKind::Node, node.into_vec())?;
        let parent = I::parent(&self.items, h);
        self.items.clear();
        Ok(Some(parent))
    }
}

/// The nodes above the lowest level, all of one item type.
struct Levels<I: Item<Parent = I>>(Vec<Gather<I>>);

impl<I: Item<Parent = I>> Levels<I> {
    fn push(&mut self, sink: &mut dyn ChunkSink, mut level: usize, item: I) -> Result<()> {
        let mut next = Some(item);
        while let Some(item) = next {
            if level == self.0.len() {
                if level > usize::from(MAX_NODE_DEPTH) {
                    return Err(Error::bug("the indexes of a large file or directory are nested too deep"));
                }
                self.0.push(Gather::new());
            }
            next = self.0[level].push(sink, item)?;
            level += 1;
        }
        Ok(())
    }

    /// Ends every level; returns the one item left at the top and the levels of nodes below it.
    fn finish(mut self, sink: &mut dyn ChunkSink) -> Result<(I, u8)> {
        let mut level = 0;
        loop {
            let top = level + 1 == self.0.len();
            if top && self.0[level].items.len() == 1 {
                let item = self.0[level].items.pop().ok_or_else(|| Error::bug("an index level is empty"))?;
                return Ok((item, level as u8));
            }
            if let Some(parent) = self.0[level].flush(sink)? {
                self.push(sink, level + 1, parent)?;
            }
            level += 1;
        }
    }
}

/// Builds one directory's listing.
pub struct DirBuilder {
    leaf: Vec<u8>,
    first: Vec<u8>,
    in_leaf: u64,
    last: Vec<u8>,
    entries: u64,
    levels: Levels<DirChild>,
    encoded: Vec<u8>,
}

impl Default for DirBuilder {
    fn default() -> DirBuilder {
        DirBuilder::new()
    }
}

impl DirBuilder {
    /// A directory without entries yet.
    pub fn new() -> DirBuilder {
        DirBuilder {
            leaf: Vec::new(),
            first: Vec::new(),
            in_leaf: 0,
            last: Vec::new(),
            entries: 0,
            levels: Levels(Vec::new()),
            encoded: Vec::new(),
        }
    }

    /// Adds an entry. Names come strictly ascending.
    ///
    /// # Errors
    /// What the sink gives; `Bug` for a name out of order.
    pub fn push(&mut self, sink: &mut dyn ChunkSink, entry: &Entry) -> Result<()> {
        if self.entries > 0 && entry.name <= self.last {
            return Err(Error::bug("a directory's entries come out of order"));
        }
        self.encoded.clear();
        entry.encode(&mut self.encoded);
        if self.encoded.len() > MAX_ENTRY {
            // No reader would take it, nor anything else in its chunk.
            return Err(Error::bug("a directory's entry is too large to be read back"));
        }
        if self.leaf.len() + self.encoded.len() > TREE_CHUNK_MAX {
            self.cut(sink)?;
        }
        if self.in_leaf == 0 {
            self.first.clone_from(&entry.name);
        }
        self.leaf.extend_from_slice(&self.encoded);
        self.in_leaf += 1;
        self.entries += 1;
        self.last.clone_from(&entry.name);
        if self.leaf.len() >= TREE_CHUNK_MIN && ends_chunk(&entry.name, self.encoded.len()) {
            self.cut(sink)?;
        }
        Ok(())
    }

    fn cut(&mut self, sink: &mut dyn ChunkSink) -> Result<()> {
        if self.in_leaf == 0 {
            return Ok(());
        }
        let h = sink.put(ChunkKind::Tree, std::mem::take(&mut self.leaf))?;
        let child = DirChild { first: std::mem::take(&mut self.first), entries: self.in_leaf, h };
        self.in_leaf = 0;
        self.levels.push(sink, 0, child)
    }

    /// Stores what is left and says where the listing is.
    ///
    /// # Errors
    /// What the sink gives.
    pub fn finish(mut self, sink: &mut dyn ChunkSink) -> Result<DirRef> {
        if self.entries == 0 {
            return Ok(DirRef::empty());
        }
        self.cut(sink)?;
        let (top, depth) = self.levels.finish(sink)?;
        Ok(DirRef { entries: self.entries, depth, h: top.h })
    }
}

/// Whether a tree chunk ends after this entry: by chance in proportion to its length, decided by its name,
/// so that an edit of its content moves no cut.
fn ends_chunk(name: &[u8], len: usize) -> bool {
    let hash = blake3::hash(name);
    let draw = u32::from_le_bytes([hash.as_bytes()[0], hash.as_bytes()[1], hash.as_bytes()[2], hash.as_bytes()[3]]);
    u64::from(draw) * ((TREE_CHUNK_AVG - TREE_CHUNK_MIN) as u64) < (len as u64) << 32
}

/// Builds one file's content.
#[derive(Default)]
pub struct FileBuilder {
    few: Vec<Extent>,
    many: Option<(Gather<Extent>, Levels<FileChild>)>,
    len: u64,
}

impl FileBuilder {
    /// A file without extents yet.
    pub fn new() -> FileBuilder {
        FileBuilder::default()
    }

    /// Adds an extent.
    ///
    /// # Errors
    /// What the sink gives.
    pub fn push(&mut self, sink: &mut dyn ChunkSink, extent: Extent) -> Result<()> {
        self.len += extent.len();
        if self.many.is_none() && self.few.len() < EXTENTS_INLINE {
            self.few.push(extent);
            return Ok(());
        }
        let (gather, levels) = self.many.get_or_insert_with(|| (Gather::new(), Levels(Vec::new())));
        for extent in self.few.drain(..).chain([extent]) {
            if let Some(node) = gather.push(sink, extent)? {
                levels.push(sink, 0, node)?;
            }
        }
        Ok(())
    }

    /// Bytes so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Stores what is left and returns the content; an empty file is inline.
    ///
    /// # Errors
    /// What the sink gives.
    pub fn finish(self, sink: &mut dyn ChunkSink) -> Result<Content> {
        let Some((mut gather, mut levels)) = self.many else {
            return Ok(if self.few.is_empty() { Content::Inline(Vec::new()) } else { Content::Extents(self.few) });
        };
        if let Some(node) = gather.flush(sink)? {
            levels.push(sink, 0, node)?;
        }
        let (top, depth) = levels.finish(sink)?;
        Ok(Content::Indexed { h: top.h, depth })
    }
}
