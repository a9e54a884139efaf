//! Differences between two trees. Subtrees with the same hash are passed over, so the cost is that of the changes.

mod pair;

use std::collections::HashSet;

use self::pair::{Next, Pair};
use crate::error::{Error, Kind, Result};
use crate::format::tree::{Content, DirRef, Entry, EntryType, Extent};
use crate::id::ContentHash;
use crate::limits::MAX_DEPTH;
use crate::ls::{Depth, report, walk};
use crate::monitor::Monitor;
use crate::pack::source::FrameSource;
use crate::path::SnapPath;
use crate::tree::file::extents;

/// Chunks of a file that are remembered to tell which of its bytes are in the other version; past that, all count.
const MAX_REMEMBERED: usize = 1 << 19;

/// How an entry differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Only in the newer tree.
    Added,
    /// Only in the older tree.
    Removed,
    /// It is of another type.
    Type,
    /// Content, link target or device number.
    Content,
    /// Attributes only: mode, owner, time, extended attributes, hard links.
    Metadata,
}

/// One difference.
pub struct Change<'a> {
    /// Where, in the newer tree as in the older.
    pub path: &'a SnapPath,
    /// How.
    pub difference: Difference,
    /// The older entry; none if added.
    pub old: Option<&'a Entry>,
    /// The newer entry; none if removed.
    pub new: Option<&'a Entry>,
}

/// What is only on one side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub dirs: u64,
    /// Everything else.
    pub others: u64,
    /// Bytes of files; of changed files, those of chunks that the other version does not have.
    pub bytes: u64,
}

/// The differences in figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Files of which the content changed.
    pub changed_files: u64,
    /// Only in the newer tree.
    pub added: Totals,
    /// Only in the older tree.
    pub removed: Totals,
    /// Directories and files that could not be read, and were reported.
    pub failed: u64,
}

impl Totals {
    fn count(&mut self, entry: &Entry) {
        match entry.kind {
            EntryType::File => {
                self.files += 1;
                self.bytes += entry.size;
            }
            EntryType::Dir => self.dirs += 1,
            _ => self.others += 1,
        }
    }
}

/// Compares two entries, whose names do not matter, and everything below them. `at` is the path to show for them.
/// Changes come in tree order; of attributes only with `metadata`. A directory that cannot be read is reported, and the
/// rest goes on.
///
/// # Errors
/// `Interrupted`, and what `visit` gives.
pub fn diff(
    source: &dyn FrameSource,
    at: &SnapPath,
    (old, new): (&Entry, &Entry),
    metadata: bool,
    monitor: &dyn Monitor,
    visit: &mut dyn FnMut(&Change<'_>) -> Result<()>,
) -> Result<Statistics> {
    let mut run = Run { source, metadata, monitor, visit, statistics: Statistics::default() };
    let mut levels = Vec::new();
    levels.extend(run.both(at, old, new)?);
    while let Some((path, pair)) = levels.last_mut() {
        if monitor.cancelled() {
            return Err(Error::new(Kind::Interrupted, "interrupted"));
        }
        let below = match pair.next(source) {
            Ok(Some(Next::Old(old))) => run.one(&path.join(&old.name), &old, Difference::Removed).map(|()| None)?,
            Ok(Some(Next::New(new))) => run.one(&path.join(&new.name), &new, Difference::Added).map(|()| None)?,
            Ok(Some(Next::Both(both))) => run.both(&path.join(&both.1.name), &both.0, &both.1)?,
            Ok(None) => {
                levels.pop();
                continue;
            }
            Err(error) => {
                run.statistics.failed += 1;
                report(monitor, path, &error);
                levels.pop();
                continue;
            }
        };
        if levels.len() > MAX_DEPTH {
            return Err(Error::damaged("directories are nested too deep"));
        }
        levels.extend(below);
    }
    Ok(run.statistics)
}

struct Run<'a> {
    source: &'a dyn FrameSource,
    metadata: bool,
    monitor: &'a dyn Monitor,
    visit: &'a mut dyn FnMut(&Change<'_>) -> Result<()>,
    statistics: Statistics,
}

impl Run<'_> {
    /// What both trees have at `path`; returns the directories to compare, if both are such and differ.
    fn both(&mut self, path: &SnapPath, old: &Entry, new: &Entry) -> Result<Option<(SnapPath, Pair)>> {
        if old.kind != new.kind {
            self.tell(path, Difference::Type, Some(old), Some(new))?;
            self.statistics.removed.count(old);
            self.statistics.added.count(new);
            self.below(path, old, Difference::Removed)?;
            self.below(path, new, Difference::Added)?;
            return Ok(None);
        }
        if let (Content::Dir(a), Content::Dir(b)) = (&old.content, &new.content) {
            if self.metadata && !same_attributes(old, new) {
                self.tell(path, Difference::Metadata, Some(old), Some(new))?;
            }
            return Ok((!same_listing(a, b)).then(|| (path.clone(), Pair::new(a, b))));
        }
        if !same_content(old, new) {
            self.tell(path, Difference::Content, Some(old), Some(new))?;
            if old.kind == EntryType::File {
                self.changed(path, old, new);
            }
        } else if self.metadata && !same_attributes(old, new) {
            self.tell(path, Difference::Metadata, Some(old), Some(new))?;
        }
        Ok(None)
    }

    /// What only one tree has at `path`, and everything below.
    fn one(&mut self, path: &SnapPath, entry: &Entry, difference: Difference) -> Result<()> {
        self.count_one(path, entry, difference)?;
        self.below(path, entry, difference)
    }

    fn below(&mut self, path: &SnapPath, entry: &Entry, difference: Difference) -> Result<()> {
        let Content::Dir(dir) = &entry.content else { return Ok(()) };
        let (source, monitor) = (self.source, self.monitor);
        let failed =
            walk(source, path, dir, Depth::All, monitor, &mut |path, entry| self.count_one(path, entry, difference))?;
        self.statistics.failed += failed;
        Ok(())
    }

    fn count_one(&mut self, path: &SnapPath, entry: &Entry, difference: Difference) -> Result<()> {
        if difference == Difference::Added {
            self.statistics.added.count(entry);
            self.tell(path, difference, None, Some(entry))
        } else {
            self.statistics.removed.count(entry);
            self.tell(path, difference, Some(entry), None)
        }
    }

    fn changed(&mut self, path: &SnapPath, old: &Entry, new: &Entry) {
        self.statistics.changed_files += 1;
        match changed_bytes(self.source, old, new) {
            Ok((removed, added)) => {
                self.statistics.removed.bytes += removed;
                self.statistics.added.bytes += added;
            }
            Err(error) => {
                self.statistics.failed += 1;
                report(self.monitor, path, &error);
            }
        }
    }

    fn tell(
        &mut self,
        path: &SnapPath,
        difference: Difference,
        old: Option<&Entry>,
        new: Option<&Entry>,
    ) -> Result<()> {
        (self.visit)(&Change { path, difference, old, new })
    }
}

fn same_listing(a: &DirRef, b: &DirRef) -> bool {
    // Directories without entries have no chunk, whatever stands in its place.
    a.entries == b.entries && (a.entries == 0 || (a.h == b.h && a.depth == b.depth))
}

/// Whether what one reads is the same: bytes, link target, device.
pub fn same_content(a: &Entry, b: &Entry) -> bool {
    a.kind == b.kind && a.size == b.size && a.content == b.content && a.target == b.target && a.rdev == b.rdev
}

fn same_attributes(a: &Entry, b: &Entry) -> bool {
    (a.mode, a.uid, a.gid, a.mtime) == (b.mode, b.uid, b.gid, b.mtime)
        && a.user == b.user
        && a.group == b.group
        && a.xattrs == b.xattrs
        && a.link_group == b.link_group
        && a.unknown == b.unknown
}

/// Bytes in chunks that only the old, and only the new version of a file has.
fn changed_bytes(source: &dyn FrameSource, old: &Entry, new: &Entry) -> Result<(u64, u64)> {
    let before = chunks_of(source, old)?;
    let after = chunks_of(source, new)?;
    Ok((bytes_outside(source, old, &after)?, bytes_outside(source, new, &before)?))
}

fn chunks_of(source: &dyn FrameSource, file: &Entry) -> Result<HashSet<ContentHash>> {
    let mut chunks = HashSet::new();
    for next in extents(source, &file.content, 0).take(MAX_REMEMBERED) {
        if let (_, Extent::Data { h, .. }) = next? {
            chunks.insert(h);
        }
    }
    Ok(chunks)
}

fn bytes_outside(source: &dyn FrameSource, file: &Entry, known: &HashSet<ContentHash>) -> Result<u64> {
    if let Content::Inline(bytes) = &file.content {
        return Ok(bytes.len() as u64);
    }
    let mut bytes = 0;
    for next in extents(source, &file.content, 0) {
        if let (_, Extent::Data { h, len }) = next?
            && !known.contains(&h)
        {
            bytes += len;
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
