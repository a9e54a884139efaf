//! Many snapshots' versions of one directory read in step. A stretch that several of them share under one hash is read
//! once, for all of them.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::rc::Rc;
use std::vec::IntoIter;

use crate::error::{Error, Result};
use crate::format::tree::{DirRef, Entry};
use crate::id::ContentHash;
use crate::pack::source::FrameSource;
use crate::tree::dir::{dir_node, leaf};

/// Places of snapshots in their history, ascending.
pub(super) type Set = Rc<[u32]>;

/// A part of a directory still to be read.
struct Part {
    /// The first name in it, as a node says; empty where none does.
    first: Vec<u8>,
    entries: u64,
    depth: u8,
    h: ContentHash,
}

/// What comes at a name. Parts before entries: a part's first entry may be of the same name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Item {
    /// The next part of this run.
    Part(usize),
    /// The next entry of this leaf.
    Entry(usize),
}

/// Parts in order, in these snapshots.
struct Run {
    /// The next one last.
    parts: Vec<Part>,
    set: Set,
}

struct Leaf {
    next: Option<Entry>,
    rest: IntoIter<Entry>,
    set: Set,
}

/// See the module's documentation.
pub(super) struct Merge {
    heap: BinaryHeap<Reverse<(Vec<u8>, Item)>>,
    runs: Vec<Run>,
    leaves: Vec<Leaf>,
}

impl Merge {
    /// Of the listings, each with the snapshots that have it.
    pub(super) fn new(dirs: Vec<(DirRef, Set)>) -> Merge {
        let mut merge = Merge { heap: BinaryHeap::new(), runs: Vec::new(), leaves: Vec::new() };
        for (dir, set) in dirs.into_iter().filter(|(dir, _)| dir.entries > 0) {
            let whole = Part { first: Vec::new(), entries: dir.entries, depth: dir.depth, h: dir.h };
            merge.add_run(Run { parts: vec![whole], set });
        }
        merge
    }

    /// The entries of the next name, each with the snapshots that have it so. A part that cannot be read goes to
    /// `failed`, and the rest goes on.
    pub(super) fn next(
        &mut self,
        source: &dyn FrameSource,
        failed: &mut dyn FnMut(&Error),
    ) -> Option<Vec<(Entry, Set)>> {
        loop {
            let Reverse((name, first)) = self.heap.pop()?;
            let mut items = vec![first];
            while self.heap.peek().is_some_and(|Reverse((next, _))| *next == name) {
                items.extend(self.heap.pop().map(|Reverse((_, item))| item));
            }
            if items.iter().all(|item| matches!(item, Item::Entry(_))) {
                return Some(items.into_iter().filter_map(|item| self.take(item)).collect());
            }
            let (parts, entries): (Vec<Item>, Vec<Item>) =
                items.into_iter().partition(|item| matches!(item, Item::Part(_)));
            self.heap.extend(entries.into_iter().map(|item| Reverse((name.clone(), item))));
            self.open(source, &parts, failed);
        }
    }

    fn take(&mut self, item: Item) -> Option<(Entry, Set)> {
        let Item::Entry(at) = item else { return None };
        let leaf = &mut self.leaves[at];
        let entry = leaf.next.take()?;
        let set = Rc::clone(&leaf.set);
        self.queue_entry(at);
        Some((entry, set))
    }

    fn queue_entry(&mut self, at: usize) {
        let leaf = &mut self.leaves[at];
        leaf.next = leaf.rest.next();
        match &leaf.next {
            Some(entry) => self.heap.push(Reverse((entry.name.clone(), Item::Entry(at)))),
            // Its memory is wanted; its place stays.
            None => leaf.rest = Vec::new().into_iter(),
        }
    }

    fn add_run(&mut self, run: Run) {
        if let Some(part) = run.parts.last() {
            self.heap.push(Reverse((part.first.clone(), Item::Part(self.runs.len()))));
            self.runs.push(run);
        }
    }

    /// Opens the next part of each of these runs, equal ones once.
    fn open(&mut self, source: &dyn FrameSource, runs: &[Item], failed: &mut dyn FnMut(&Error)) {
        let mut groups: HashMap<(ContentHash, u8, u64), Vec<u32>> = HashMap::new();
        for item in runs {
            let Item::Part(at) = *item else { continue };
            let run = &mut self.runs[at];
            let Some(part) = run.parts.pop() else { continue };
            groups.entry((part.h, part.depth, part.entries)).or_default().extend(run.set.iter());
            if let Some(next) = run.parts.last() {
                self.heap.push(Reverse((next.first.clone(), Item::Part(at))));
            }
        }
        for ((h, depth, entries), mut set) in groups {
            set.sort_unstable();
            let opened = self.open_one(source, Part { first: Vec::new(), entries, depth, h }, set.into());
            if let Err(e) = opened {
                failed(&e);
            }
        }
    }

    fn open_one(&mut self, source: &dyn FrameSource, part: Part, set: Set) -> Result<()> {
        if part.depth == 0 {
            let entries = leaf(source, &part.h)?;
            if entries.len() as u64 != part.entries {
                return Err(Error::damaged("a tree's count of entries is wrong"));
            }
            self.leaves.push(Leaf { next: None, rest: entries.into_iter(), set });
            self.queue_entry(self.leaves.len() - 1);
            return Ok(());
        }
        let children = dir_node(source, &part.h)?;
        if children.iter().try_fold(0u64, |sum, c| sum.checked_add(c.entries)) != Some(part.entries) {
            return Err(Error::damaged("a count in the index of a large file or directory is wrong"));
        }
        let depth = part.depth - 1;
        let parts = children.into_iter().rev().map(|c| Part { first: c.first, entries: c.entries, depth, h: c.h });
        self.add_run(Run { parts: parts.collect(), set });
        Ok(())
    }
}
