//! Reading a directory: lookups and listings cost O(log n) chunks however many entries there are.

use std::path::Path;

use crate::crypto::hash::ChunkKind;
use crate::error::{Error, Kind, Result};
use crate::format::node::{self, DirChild, Node};
use crate::format::tree::{Content, DirRef, Entry, decode_entries};
use crate::id::ContentHash;
use crate::pack::source::FrameSource;
use crate::path::SnapPath;

/// The entry called `name`, if there is one.
///
/// # Errors
/// What the source gives, and `Damaged` for chunks that do not hold what the directory says.
pub fn lookup(source: &dyn FrameSource, dir: &DirRef, name: &[u8]) -> Result<Option<Entry>> {
    if dir.entries == 0 {
        return Ok(None);
    }
    let mut h = dir.h;
    for _ in 0..dir.depth {
        let children = dir_node(source, &h)?;
        let at = children.partition_point(|c| c.first.as_slice() <= name);
        match at.checked_sub(1) {
            Some(i) => h = children[i].h,
            None => return Ok(None),
        }
    }
    let mut entries = leaf(source, &h)?;
    Ok(match entries.binary_search_by(|e| e.name.as_slice().cmp(name)) {
        Ok(i) => Some(entries.swap_remove(i)),
        Err(_) => None,
    })
}

/// The entry at `path` below `root`, which must be a directory; `root` itself for the empty path.
///
/// # Errors
/// As [`lookup`]; `NotFound` when a component does not exist or is no directory.
pub fn resolve(source: &dyn FrameSource, root: &Entry, path: &SnapPath) -> Result<Entry> {
    let mut found = root.clone();
    for name in path.components() {
        let Content::Dir(dir) = &found.content else { return Err(not_found(path)) };
        found = lookup(source, dir, name)?.ok_or_else(|| not_found(path))?;
    }
    Ok(found)
}

fn not_found(path: &SnapPath) -> Error {
    Error::new(Kind::NotFound, "the snapshot has no")
        .at(Path::new("/").join(path.as_path()))
        .remedy("`packmule ls` lists what it has, and `packmule find` says which snapshots have a name")
}

/// The directory's entries in name order from the `start`-th on.
pub fn entries<'a>(source: &'a dyn FrameSource, dir: &DirRef, start: u64) -> Entries<'a> {
    let mut walk = Entries { source, stack: Vec::new(), leaf: Vec::new().into_iter(), failed: None };
    if start < dir.entries
        && let Err(e) = walk.descend(dir.h, dir.depth, dir.entries, start)
    {
        walk.failed = Some(e);
    }
    walk
}

/// Iterates over a directory; holds one tree chunk and one node a level.
pub struct Entries<'a> {
    source: &'a dyn FrameSource,
    /// For each level of nodes above the leaf: what is still to come, and the depth of those children.
    stack: Vec<(std::vec::IntoIter<DirChild>, u8)>,
    leaf: std::vec::IntoIter<Entry>,
    failed: Option<Error>,
}

impl Entries<'_> {
    /// Goes down to the leaf that holds entry `skip` below `h`, which promises `entries` of them.
    fn descend(&mut self, mut h: ContentHash, mut depth: u8, mut entries: u64, mut skip: u64) -> Result<()> {
        while depth > 0 {
            let children = dir_node(self.source, &h)?;
            let sum = children.iter().try_fold(0u64, |sum, c| sum.checked_add(c.entries));
            if sum != Some(entries) {
                return Err(Error::damaged("a count in the index of a large file or directory is wrong"));
            }
            let mut rest = children.into_iter();
            let child = loop {
                let child = rest.next().ok_or_else(|| Error::bug("a listing starts past its end"))?;
                if skip < child.entries {
                    break child;
                }
                skip -= child.entries;
            };
            depth -= 1;
            let ahead: Vec<_> = rest.as_slice().iter().take(4).map(|c| (c.h, kind_at(depth))).collect();
            self.source.prefetch(&ahead);
            (h, entries) = (child.h, child.entries);
            self.stack.push((rest, depth));
        }
        let leaf = leaf(self.source, &h)?;
        if leaf.len() as u64 != entries {
            return Err(Error::damaged("a tree's count of entries is wrong"));
        }
        self.leaf = leaf.into_iter();
        self.leaf.by_ref().take(skip as usize).for_each(drop);
        Ok(())
    }

    fn advance(&mut self) -> Result<Option<Entry>> {
        if let Some(e) = self.failed.take() {
            return Err(e);
        }
        loop {
            if let Some(entry) = self.leaf.next() {
                return Ok(Some(entry));
            }
            let Some((rest, depth)) = self.stack.last_mut() else { return Ok(None) };
            let depth = *depth;
            match rest.next() {
                Some(child) => self.descend(child.h, depth, child.entries, 0)?,
                None => drop(self.stack.pop()),
            }
        }
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Result<Entry>> {
        let next = self.advance();
        if next.is_err() {
            // After an error nothing more can be trusted: the iteration ends.
            self.stack.clear();
            self.leaf = Vec::new().into_iter();
        }
        next.transpose()
    }
}

fn kind_at(depth: u8) -> ChunkKind {
    if depth == 0 { ChunkKind::Tree } else { ChunkKind::Node }
}

pub(crate) fn dir_node(source: &dyn FrameSource, h: &ContentHash) -> Result<Vec<DirChild>> {
    match node::decode(&source.chunk(h, ChunkKind::Node)?)? {
        Node::Dir(children) => Ok(children),
        _ => Err(Error::damaged("a large file's index stands in a directory")),
    }
}

pub(crate) fn leaf(source: &dyn FrameSource, h: &ContentHash) -> Result<Vec<Entry>> {
    let mut out = Vec::new();
    decode_entries(&source.chunk(h, ChunkKind::Tree)?, |e| {
        out.push(e);
        Ok(())
    })?;
    Ok(out)
}
