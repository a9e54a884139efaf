//! The previous snapshot, read in step with the walk: tree entries and the stat sidecar, both in the same order.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::sidecar::{Record, Stat, check};
use crate::format::tree::{Content, DirRef, Entry};
use crate::format::wire::Reader;
use crate::pack::source::FrameSource;
use crate::tree::dir;
use crate::tree::file::read_at;

/// Entries fetched at a time from a directory.
const BATCH: usize = 512;

/// A cursor over the previous snapshot. All names must be asked for in walk order.
pub struct Parent {
    source: Arc<dyn FrameSource>,
    levels: Vec<Level>,
    sidecar: Option<Sidecar>,
}

struct Level {
    dir: DirRef,
    next: u64,
    batch: std::collections::VecDeque<Entry>,
}

/// What the previous snapshot had under a name.
pub struct Known {
    /// The entry.
    pub entry: Entry,
    /// Its inode and change time, if the sidecar is there.
    pub stat: Option<Stat>,
}

impl Parent {
    /// Starts above the root directory; `sidecar` as the manifest has it.
    pub fn new(source: Arc<dyn FrameSource>, root: DirRef, sidecar: Option<Content>) -> Parent {
        let sidecar = sidecar.map(|content| Sidecar::new(Arc::clone(&source), content));
        Parent { source, levels: vec![Level::new(root)], sidecar }
    }

    /// The entry called `name` in the directory at hand, skipping what comes before it. After a directory that
    /// is to be walked call [`Parent::enter`], after one that is not [`Parent::pass`].
    ///
    /// # Errors
    /// What reading the tree gives; damage there makes the caller go on without a parent.
    pub fn find(&mut self, name: &[u8]) -> Result<Option<Known>> {
        loop {
            let Some(level) = self.levels.last_mut() else { return Ok(None) };
            let Some(front) = level.front(self.source.as_ref())? else { return Ok(None) };
            match front.name.as_slice().cmp(name) {
                std::cmp::Ordering::Greater => return Ok(None),
                std::cmp::Ordering::Less => {
                    if let Some(entry) = level.batch.pop_front() {
                        self.stat_of(&entry);
                        self.pass(&entry);
                    }
                }
                std::cmp::Ordering::Equal => {
                    let Some(entry) = level.batch.pop_front() else { return Ok(None) };
                    let stat = self.stat_of(&entry);
                    return Ok(Some(Known { entry, stat }));
                }
            }
        }
    }

    /// Goes into the directory that was just found.
    pub fn enter(&mut self, dir: DirRef) {
        self.levels.push(Level::new(dir));
    }

    /// Leaves the directory at hand, past everything that is left in it.
    pub fn leave(&mut self) {
        let before = self.levels.pop();
        debug_assert!(before.is_some());
        self.with_sidecar(Sidecar::leave);
    }

    /// Skips what lies below an entry that was found and will not be entered.
    pub fn pass(&mut self, entry: &Entry) {
        if matches!(entry.content, Content::Dir(_)) {
            self.with_sidecar(Sidecar::leave);
        }
    }

    fn stat_of(&mut self, entry: &Entry) -> Option<Stat> {
        self.with_sidecar(|s| s.entry(&entry.name))
    }

    /// Damage in the sidecar costs speed, nothing else: it is dropped.
    fn with_sidecar<T>(&mut self, f: impl FnOnce(&mut Sidecar) -> Result<T>) -> Option<T> {
        let result = f(self.sidecar.as_mut()?);
        if result.is_err() {
            self.sidecar = None;
        }
        result.ok()
    }
}

impl Level {
    fn new(dir: DirRef) -> Level {
        Level { dir, next: 0, batch: std::collections::VecDeque::new() }
    }

    fn front(&mut self, source: &dyn FrameSource) -> Result<Option<&Entry>> {
        if self.batch.is_empty() && self.next < self.dir.entries {
            for entry in dir::entries(source, &self.dir, self.next).take(BATCH) {
                self.batch.push_back(entry?);
            }
            self.next += self.batch.len() as u64;
            if self.batch.is_empty() {
                return Err(Error::damaged("a directory has fewer entries than it says"));
            }
        }
        Ok(self.batch.front())
    }
}

/// Reads the sidecar's records from front to back.
struct Sidecar {
    source: Arc<dyn FrameSource>,
    content: Content,
    offset: u64,
    buffer: Vec<u8>,
    at: usize,
}

impl Sidecar {
    fn new(source: Arc<dyn FrameSource>, content: Content) -> Sidecar {
        Sidecar { source, content, offset: 0, buffer: Vec::new(), at: 0 }
    }

    fn next(&mut self) -> Result<Record> {
        if self.buffer.len() - self.at < Record::MAX {
            self.buffer.drain(..self.at);
            self.at = 0;
            let kept = self.buffer.len();
            self.buffer.resize(kept + 256 * 1024, 0);
            let n = read_at(self.source.as_ref(), &self.content, self.offset, &mut self.buffer[kept..])?;
            self.buffer.truncate(kept + n);
            self.offset += n as u64;
        }
        let mut r = Reader::new(&self.buffer[self.at..]);
        let before = r.remaining();
        let record = Record::decode(&mut r)?;
        self.at += before - r.remaining();
        Ok(record)
    }

    /// The record of the next entry, which must be `name`'s.
    fn entry(&mut self, name: &[u8]) -> Result<Stat> {
        match self.next()? {
            Record::Entry { check: c, stat, .. } if c == check(name) => Ok(stat),
            _ => Err(Error::damaged("the earlier snapshot's list of file times does not fit its files")),
        }
    }

    /// Skips to the end of the directory at hand.
    fn leave(&mut self) -> Result<()> {
        let mut depth = 1u64;
        while depth > 0 {
            match self.next()? {
                Record::Leave => depth -= 1,
                Record::Entry { dir, .. } => depth += u64::from(dir),
            }
        }
        Ok(())
    }
}
