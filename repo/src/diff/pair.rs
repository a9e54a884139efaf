//! Two directories read in step. What both have under the same hash, a whole directory or a stretch of a large one,
//! is passed over without being read.

use std::cmp::Ordering;
use std::vec::IntoIter;

use crate::error::{Error, Result};
use crate::format::tree::{DirRef, Entry};
use crate::id::ContentHash;
use crate::pack::source::FrameSource;
use crate::tree::dir::{dir_node, leaf};

/// What the two directories have under the next name on which they may differ.
pub(super) enum Next {
    /// Only the first has it.
    Old(Entry),
    /// Only the second has it.
    New(Entry),
    /// Both have it.
    Both(Box<(Entry, Entry)>),
}

/// A part of a directory still to be read.
struct Part {
    /// The first name in it, where a node says so.
    first: Option<Vec<u8>>,
    entries: u64,
    depth: u8,
    h: ContentHash,
}

struct Side {
    /// The next part last.
    parts: Vec<Part>,
    leaf: IntoIter<Entry>,
}

impl Side {
    fn new(dir: &DirRef) -> Side {
        let whole = Part { first: None, entries: dir.entries, depth: dir.depth, h: dir.h };
        let parts = if dir.entries == 0 { Vec::new() } else { vec![whole] };
        Side { parts, leaf: Vec::new().into_iter() }
    }

    /// Opens the next part by one level.
    fn open(&mut self, source: &dyn FrameSource) -> Result<()> {
        let Some(part) = self.parts.pop() else { return Ok(()) };
        if part.depth == 0 {
            let entries = leaf(source, &part.h)?;
            if entries.len() as u64 != part.entries {
                return Err(Error::damaged("a tree's count of entries is wrong"));
            }
            self.leaf = entries.into_iter();
            return Ok(());
        }
        let children = dir_node(source, &part.h)?;
        if children.iter().try_fold(0u64, |sum, c| sum.checked_add(c.entries)) != Some(part.entries) {
            return Err(Error::damaged("a count in the index of a large file or directory is wrong"));
        }
        let below = children.into_iter().rev();
        self.parts.extend(below.map(|c| Part {
            first: Some(c.first),
            entries: c.entries,
            depth: part.depth - 1,
            h: c.h,
        }));
        Ok(())
    }

    /// Whether everything still to come in `parts` is known to stand after `name`.
    fn rest_is_after(&self, name: &[u8]) -> bool {
        self.parts.last().is_none_or(|part| part.first.as_ref().is_some_and(|first| first.as_slice() > name))
    }
}

/// See the module's documentation.
pub(super) struct Pair {
    old: Side,
    new: Side,
}

impl Pair {
    pub(super) fn new(old: &DirRef, new: &DirRef) -> Pair {
        Pair { old: Side::new(old), new: Side::new(new) }
    }

    pub(super) fn next(&mut self, source: &dyn FrameSource) -> Result<Option<Next>> {
        loop {
            match (self.old.leaf.as_slice().first(), self.new.leaf.as_slice().first()) {
                (None, None) => {
                    if self.old.parts.is_empty() && self.new.parts.is_empty() {
                        return Ok(None);
                    }
                    self.between_leaves(source)?;
                }
                (Some(a), Some(b)) => {
                    let order = a.name.cmp(&b.name);
                    return Ok(self.take(order));
                }
                (Some(a), None) if self.new.rest_is_after(&a.name) => return Ok(self.take(Ordering::Less)),
                (None, Some(b)) if self.old.rest_is_after(&b.name) => return Ok(self.take(Ordering::Greater)),
                (Some(_), None) => self.new.open(source)?,
                (None, Some(_)) => self.old.open(source)?,
            }
        }
    }

    fn take(&mut self, order: Ordering) -> Option<Next> {
        match order {
            Ordering::Less => self.old.leaf.next().map(Next::Old),
            Ordering::Greater => self.new.leaf.next().map(Next::New),
            Ordering::Equal => Some(Next::Both(Box::new((self.old.leaf.next()?, self.new.leaf.next()?)))),
        }
    }

    /// With no entry at hand on either side: passes over equal parts, or opens one level.
    fn between_leaves(&mut self, source: &dyn FrameSource) -> Result<()> {
        let (Some(a), Some(b)) = (self.old.parts.last(), self.new.parts.last()) else {
            // One side is at its end; the other has only entries of its own.
            self.old.open(source)?;
            return self.new.open(source);
        };
        if (a.h, a.depth, a.entries) == (b.h, b.depth, b.entries) {
            self.old.parts.pop();
            self.new.parts.pop();
            return Ok(());
        }
        // The deeper first, so that equal parts meet at equal depth; of two leaves the one that begins first, so that
        // both sides end together where a cut is common.
        let order = b.depth.cmp(&a.depth).then_with(|| match (&a.first, &b.first) {
            (Some(a), Some(b)) => a.cmp(b),
            _ => Ordering::Equal,
        });
        if order.is_le() {
            self.old.open(source)?;
        }
        if order.is_ge() {
            self.new.open(source)?;
        }
        Ok(())
    }
}
