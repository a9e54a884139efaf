//! Everything that a manifest reaches: each chunk is shown to a visitor, which says whether to look inside.

use crate::crypto::hash::ChunkKind;
use crate::error::{Error, Kind, Result};
use crate::format::manifest::Manifest;
use crate::format::node::{self, Node};
use crate::format::tree::{Content, DirRef, Entry, Extent, XattrValue};
use crate::id::ContentHash;
use crate::monitor::{Counters, Monitor};
use crate::pack::source::FrameSource;
use crate::tree::dir::{dir_node, leaf};

/// Subdirectories and nodes whose frames are asked for ahead.
const AHEAD: usize = 16;

/// Is shown a chunk. For trees and nodes true means: read it, and show what it refers to. One that was shown before need not
/// be looked into again: whoever was shown a tree chunk was shown all below it.
pub type Visit<'a> = dyn FnMut(&ContentHash, ChunkKind) -> Result<bool> + 'a;

/// Shows everything below the manifest's root, and the sidecar, in no particular order.
///
/// # Errors
/// `Interrupted`; what `visit` gives; what the source gives for a chunk that was to be looked into, and `Damaged` if it is
/// not what its place says.
pub fn walk(source: &dyn FrameSource, manifest: &Manifest, monitor: &dyn Monitor, visit: &mut Visit<'_>) -> Result<()> {
    let mut walk = Walk { source, visit, dirs: Vec::new() };
    walk.entry(&manifest.root)?;
    if let Some(sidecar) = &manifest.sidecar {
        walk.content(sidecar)?;
    }
    walk.directories(monitor)
}

/// Shows what the manifest's sidecar is stored in, alone.
///
/// # Errors
/// As [`walk`].
pub fn sidecar(source: &dyn FrameSource, manifest: &Manifest, visit: &mut Visit<'_>) -> Result<()> {
    let mut walk = Walk { source, visit, dirs: Vec::new() };
    manifest.sidecar.iter().try_for_each(|sidecar| walk.content(sidecar))
}

struct Walk<'a, 'v> {
    source: &'a dyn FrameSource,
    visit: &'a mut Visit<'v>,
    /// Directories, and nodes of directories with their depth, still to be looked into.
    dirs: Vec<(ContentHash, u8)>,
}

impl Walk<'_, '_> {
    fn directories(&mut self, monitor: &dyn Monitor) -> Result<()> {
        while let Some((h, depth)) = self.dirs.pop() {
            if monitor.cancelled() {
                return Err(Error::new(Kind::Interrupted, "interrupted"));
            }
            if !(self.visit)(&h, kind_at(depth))? {
                continue;
            }
            let before = self.dirs.len();
            if depth > 0 {
                let children = dir_node(self.source, &h)?;
                self.dirs.extend(children.into_iter().rev().map(|child| (child.h, depth - 1)));
            } else {
                for entry in leaf(self.source, &h)? {
                    self.entry(&entry)?;
                }
                Counters::add(&monitor.counters().dirs, 1);
            }
            self.look_ahead(before);
        }
        Ok(())
    }

    fn look_ahead(&self, before: usize) {
        let next = self.dirs[before..].iter().rev().take(AHEAD);
        let ahead: Vec<_> = next.map(|(h, depth)| (*h, kind_at(*depth))).collect();
        if ahead.len() > 1 {
            self.source.prefetch(&ahead);
        }
    }

    fn entry(&mut self, entry: &Entry) -> Result<()> {
        for (_, value) in &entry.xattrs {
            if let XattrValue::Chunk { h, .. } = value {
                (self.visit)(h, ChunkKind::Data)?;
            }
        }
        self.content(&entry.content)
    }

    fn content(&mut self, content: &Content) -> Result<()> {
        match content {
            Content::None | Content::Inline(_) | Content::Dir(DirRef { entries: 0, .. }) => {}
            Content::Extents(extents) => self.extents(extents)?,
            Content::Indexed { h, depth } => self.file_nodes(*h, *depth)?,
            Content::Dir(dir) => self.dirs.push((dir.h, dir.depth)),
        }
        Ok(())
    }

    fn file_nodes(&mut self, h: ContentHash, depth: u8) -> Result<()> {
        let mut nodes = vec![(h, depth)];
        while let Some((h, depth)) = nodes.pop() {
            if !(self.visit)(&h, ChunkKind::Node)? {
                continue;
            }
            match (node::decode(&self.source.chunk(&h, ChunkKind::Node)?)?, depth) {
                (Node::Extents(extents), 0) => self.extents(&extents)?,
                (Node::File(children), 1..) => nodes.extend(children.iter().rev().map(|child| (child.h, depth - 1))),
                _ => return Err(Error::damaged("the index of a large file or directory is not what its parent says")),
            }
        }
        Ok(())
    }

    fn extents(&mut self, extents: &[Extent]) -> Result<()> {
        for extent in extents {
            if let Extent::Data { h, .. } = extent {
                (self.visit)(h, ChunkKind::Data)?;
            }
        }
        Ok(())
    }
}

fn kind_at(depth: u8) -> ChunkKind {
    if depth == 0 { ChunkKind::Tree } else { ChunkKind::Node }
}
