//! What of a snapshot is restored: the tree's entries in order, those that the patterns leave out left out.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::capture::Patterns;
use crate::error::{Error, Result};
use crate::format::tree::{Content, Entry};
use crate::limits::MAX_DEPTH;
use crate::pack::source::FrameSource;
use crate::tree::dir::{Entries, entries};

/// What the patterns say of one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Restore it.
    Take,
    /// A directory that is not wanted itself, but something in it may be.
    Enter,
    /// Leave it, and all below.
    Skip,
}

/// The patterns. They match paths below what is restored, `/` being its top.
#[derive(Default)]
pub struct Choice {
    /// Only what one of these matches, and what lies below it.
    pub include: Option<Patterns>,
    /// Not what one of these matches, nor what lies below it.
    pub exclude: Option<Patterns>,
}

impl Choice {
    /// Whether everything is wanted.
    pub fn is_all(&self) -> bool {
        self.include.is_none() && self.exclude.is_none()
    }

    /// The verdict on `path` (from `/`), whose directory was taken or only entered.
    pub fn of(&self, path: &[u8], is_dir: bool, parent: Verdict) -> Verdict {
        let path = Path::new(OsStr::from_bytes(path));
        if self.exclude.as_ref().is_some_and(|p| p.matches(path, is_dir)) {
            return Verdict::Skip;
        }
        match &self.include {
            Some(include) if parent != Verdict::Take && !include.matches(path, is_dir) => match is_dir {
                true => Verdict::Enter,
                false => Verdict::Skip,
            },
            _ => Verdict::Take,
        }
    }

    fn top(&self) -> Verdict {
        if self.include.is_some() { Verdict::Enter } else { Verdict::Take }
    }
}

/// One step of a walk over what is wanted.
pub enum Step {
    /// A directory; its entries follow, then [`Step::Leave`].
    Enter(Entry, Verdict),
    /// The end of the directory last entered, with its verdict; false when its listing broke off.
    Leave(Verdict, bool),
    /// Anything but a directory.
    Item(Entry),
    /// The rest of the directory last entered cannot be listed.
    Broken(Error),
}

/// The walk, depth first, names in order. The top directory itself is not entered, but left.
pub struct Steps<'a> {
    source: &'a dyn FrameSource,
    choice: &'a Choice,
    single: Option<Entry>,
    levels: Vec<Level<'a>>,
    path: Vec<u8>,
}

struct Level<'a> {
    entries: Entries<'a>,
    verdict: Verdict,
    /// Length of the directory's path.
    path: usize,
    whole: bool,
}

impl<'a> Steps<'a> {
    /// Over what is in `top` if it is a directory, otherwise over `top` alone, whatever the patterns say.
    pub fn new(source: &'a dyn FrameSource, choice: &'a Choice, top: &Entry) -> Steps<'a> {
        let mut steps = Steps { source, choice, single: None, levels: Vec::new(), path: Vec::new() };
        match &top.content {
            Content::Dir(dir) => {
                let entries = entries(source, dir, 0);
                steps.levels.push(Level { entries, verdict: choice.top(), path: 0, whole: true });
            }
            _ => steps.single = Some(top.clone()),
        }
        steps
    }

    /// The path, from `/`, of the entry or directory that the last step was about.
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    /// Passes over the directory just entered; it is not left either.
    pub fn pass(&mut self) {
        self.levels.pop();
    }

    /// The next step; none at the end.
    ///
    /// # Errors
    /// `Damaged` for directories deeper than any capture makes them.
    pub fn next(&mut self) -> Result<Option<Step>> {
        if let Some(entry) = self.single.take() {
            self.path.push(b'/');
            self.path.extend_from_slice(&entry.name);
            return Ok(Some(Step::Item(entry)));
        }
        loop {
            let Some(level) = self.levels.last_mut() else { return Ok(None) };
            self.path.truncate(level.path);
            match level.entries.next() {
                Some(Ok(entry)) => {
                    self.path.push(b'/');
                    self.path.extend_from_slice(&entry.name);
                    let parent = level.verdict;
                    if let Some(step) = self.take(entry, parent)? {
                        return Ok(Some(step));
                    }
                }
                Some(Err(e)) => {
                    level.whole = false;
                    return Ok(Some(Step::Broken(e)));
                }
                None => {
                    let leave = Step::Leave(level.verdict, level.whole);
                    self.levels.pop();
                    return Ok(Some(leave));
                }
            }
        }
    }

    fn take(&mut self, entry: Entry, parent: Verdict) -> Result<Option<Step>> {
        let Content::Dir(dir) = &entry.content else {
            let taken = self.choice.is_all() || self.choice.of(&self.path, false, parent) == Verdict::Take;
            return Ok(taken.then_some(Step::Item(entry)));
        };
        let verdict = if self.choice.is_all() { Verdict::Take } else { self.choice.of(&self.path, true, parent) };
        if verdict == Verdict::Skip {
            return Ok(None);
        }
        if self.levels.len() > MAX_DEPTH {
            return Err(Error::damaged("the snapshot's directories are nested too deep"));
        }
        self.levels.push(Level { entries: entries(self.source, dir, 0), verdict, path: self.path.len(), whole: true });
        Ok(Some(Step::Enter(entry, verdict)))
    }
}
