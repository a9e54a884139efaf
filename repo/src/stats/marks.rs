//! Which chunks some snapshots reach: a bit for each chunk of each pack. Hashes are not kept, so memory is an eighth of a
//! byte a stored chunk, and four bytes a frame.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::crypto::hash::ChunkKind;
use crate::error::{Error, Kind, Result};
use crate::format::footer::Footer;
use crate::format::node::{self, Node};
use crate::format::tree::{Content, Entry, Extent, XattrValue};
use crate::id::{ContentHash, PackId};
use crate::index::PackInfo;
use crate::monitor::{Counters, Monitor};
use crate::pack::source::FrameSource;
use crate::pack::store::PackStore;
use crate::tree::dir::{dir_node, leaf};

/// One pack's part.
struct Packed {
    info: PackInfo,
    /// The first chunk of each frame.
    firsts: Arc<[u32]>,
    bits: Vec<u64>,
}

/// The chunks that were reached.
#[derive(Default)]
pub(super) struct Marks {
    packs: BTreeMap<PackId, Packed>,
}

/// What chunks come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// How many.
    pub chunks: u64,
    /// Their bytes before compression.
    pub raw: u64,
    /// What they take in packs: their frames, shared by length with the other chunks in them.
    pub stored: u64,
}

impl Marks {
    /// Marks a chunk; whether it was not marked before.
    fn chunk(&mut self, store: &PackStore, h: &ContentHash) -> Result<bool> {
        let found = store.locate(h)?;
        let (at, info) =
            found.ok_or_else(|| Error::damaged("it needs a piece of data that no pack of this repository has"))?;
        let packed = match self.packs.entry(info.id) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(new) => {
                let footer = &store.pack(&info)?.footer;
                let firsts: Vec<u32> = footer.frames.iter().map(|f| f.first).collect();
                let bits = vec![0; footer.chunks.len().div_ceil(64)];
                new.insert(Packed { info, firsts: firsts.into(), bits })
            }
        };
        let first = packed.firsts.get(at.frame as usize);
        let ordinal = first.map(|first| *first as usize + usize::from(at.slot));
        let word = ordinal.and_then(|ordinal| Some((packed.bits.get_mut(ordinal / 64)?, 1u64 << (ordinal % 64))));
        let (word, bit) = word
            .ok_or_else(|| Error::damaged("the index does not fit the packs").remedy("run `packmule rebuild-index`"))?;
        let new = *word & bit == 0;
        *word |= bit;
        Ok(new)
    }

    /// Adds what others have.
    pub(super) fn merge(&mut self, other: &Marks) {
        for (id, packed) in &other.packs {
            let mine = self.packs.entry(*id).or_insert_with(|| Packed {
                info: packed.info,
                firsts: Arc::clone(&packed.firsts),
                bits: vec![0; packed.bits.len()],
            });
            mine.bits.iter_mut().zip(&packed.bits).for_each(|(mine, other)| *mine |= other);
        }
    }

    /// Adds them up, reading each pack's footer once.
    pub(super) fn sum(&self, store: &PackStore, monitor: &dyn Monitor) -> Result<Sum> {
        let mut sum = Sum::default();
        for packed in self.packs.values() {
            if monitor.cancelled() {
                return Err(interrupted());
            }
            add(&mut sum, &store.pack(&packed.info)?.footer, &packed.bits);
        }
        Ok(sum)
    }
}

fn add(sum: &mut Sum, footer: &Footer, bits: &[u64]) {
    let marked = |i: usize| bits.get(i / 64).is_some_and(|word| word >> (i % 64) & 1 != 0);
    for frame in &footer.frames {
        let mut raw = 0;
        for i in frame.chunks().filter(|i| marked(*i)) {
            sum.chunks += 1;
            raw += u64::from(footer.chunks[i].len);
        }
        sum.raw += raw;
        if raw > 0 {
            sum.stored += (u128::from(frame.stored) * u128::from(raw) / u128::from(frame.raw.max(1))) as u64;
        }
    }
}

fn interrupted() -> Error {
    Error::new(Kind::Interrupted, "interrupted")
}

/// Marks all that these contents reach; what is marked already is not walked again.
pub(super) struct Walk<'a> {
    pub(super) store: &'a PackStore,
    pub(super) monitor: &'a dyn Monitor,
    pub(super) marks: Marks,
    dirs: Vec<(ContentHash, u8)>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(store: &'a PackStore, monitor: &'a dyn Monitor) -> Walk<'a> {
        Walk { store, monitor, marks: Marks::default(), dirs: Vec::new() }
    }

    /// Everything below a snapshot's root.
    pub(super) fn snapshot(&mut self, root: &Entry, sidecar: Option<&Content>) -> Result<()> {
        self.entry(root)?;
        if let Some(sidecar) = sidecar {
            self.content(sidecar)?;
        }
        while let Some((h, depth)) = self.dirs.pop() {
            if self.monitor.cancelled() {
                return Err(interrupted());
            }
            if !self.marks.chunk(self.store, &h)? {
                continue;
            }
            if depth > 0 {
                let children = dir_node(self.store, &h)?;
                self.dirs.extend(children.iter().rev().map(|c| (c.h, depth - 1)));
            } else {
                leaf(self.store, &h)?.iter().try_for_each(|entry| self.entry(entry))?;
                Counters::add(&self.monitor.counters().dirs, 1);
            }
        }
        Ok(())
    }

    fn entry(&mut self, entry: &Entry) -> Result<()> {
        for (_, value) in &entry.xattrs {
            if let XattrValue::Chunk { h, .. } = value {
                self.marks.chunk(self.store, h)?;
            }
        }
        self.content(&entry.content)
    }

    fn content(&mut self, content: &Content) -> Result<()> {
        match content {
            Content::None | Content::Inline(_) => Ok(()),
            Content::Extents(list) => self.extents(list),
            Content::Indexed { h, depth } => self.nodes(*h, *depth),
            Content::Dir(dir) => {
                if dir.entries > 0 {
                    self.dirs.push((dir.h, dir.depth));
                }
                Ok(())
            }
        }
    }

    fn nodes(&mut self, h: ContentHash, depth: u8) -> Result<()> {
        let mut open = vec![(h, depth)];
        while let Some((h, depth)) = open.pop() {
            if !self.marks.chunk(self.store, &h)? {
                continue;
            }
            match (node::decode(&self.store.chunk(&h, ChunkKind::Node)?)?, depth) {
                (Node::Extents(list), 0) => self.extents(&list)?,
                (Node::File(children), 1..) => open.extend(children.iter().rev().map(|c| (c.h, depth - 1))),
                _ => return Err(Error::damaged("the index of a large file or directory is not what its parent says")),
            }
        }
        Ok(())
    }

    fn extents(&mut self, list: &[Extent]) -> Result<()> {
        for extent in list {
            if let Extent::Data { h, .. } = extent {
                self.marks.chunk(self.store, h)?;
            }
        }
        Ok(())
    }
}
