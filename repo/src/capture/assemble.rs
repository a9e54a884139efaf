//! Putting the snapshot together: events come in tree order, chunks go to the writer, listings are built bottom-up.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use crate::capture::event::{Budget, Event, NEVER};
use crate::capture::failures::Failures;
use crate::capture::read::{self, Job, Msg, Origin, QUEUE, WHOLE};
use crate::capture::scan::{Meta, Xattrs, open_path, stat_at};
use crate::chunker::ChunkerParams;
use crate::crypto::hash::{ChunkKind, content_hash};
use crate::error::{Error, Kind, Result};
use crate::format::manifest::Stats;
use crate::format::sidecar::{Record, Stat, check};
use crate::format::tree::{Content, Entry, EntryType, Extent, XattrValue};
use crate::format::wire::Writer;
use crate::limits::{MIB, XATTR_INLINE, XATTRS_INLINE};
use crate::monitor::{Action, Counters, Event as Report, Monitor};
use crate::pack::writer::{PackWriter, Route};
use crate::tree::builder::{DirBuilder, FileBuilder};

/// Stat records are stored in chunks of this size.
const SIDECAR_CHUNK: usize = MIB / 4;
/// How often to look whether the backup is to stop while walk or reader have nothing to give.
const LOOK: Duration = Duration::from_millis(100);

/// What was put together.
pub struct Assembled {
    /// The root directory.
    pub root: Entry,
    /// The stat sidecar.
    pub sidecar: Content,
    /// Totals of what the snapshot holds.
    pub stats: Stats,
}

/// A directory whose entries are coming.
struct Open {
    entry: Entry,
    builder: DirBuilder,
    before: Option<Box<Entry>>,
}

/// Takes events until they end.
pub struct Assembler<'a> {
    writer: &'a mut PackWriter,
    params: ChunkerParams,
    monitor: &'a dyn Monitor,
    budget: &'a Budget,
    failures: &'a Failures<'a>,
    levels: Vec<Open>,
    root: Option<Entry>,
    /// The files of which more names may come.
    links: HashMap<[u8; 32], (Entry, Stat)>,
    stats: Stats,
    sidecar: Writer,
    sidecar_file: FileBuilder,
}

impl<'a> Assembler<'a> {
    /// Over an open writer.
    pub fn new(
        writer: &'a mut PackWriter,
        params: ChunkerParams,
        monitor: &'a dyn Monitor,
        budget: &'a Budget,
        failures: &'a Failures<'a>,
    ) -> Assembler<'a> {
        Assembler {
            writer,
            params,
            monitor,
            budget,
            failures,
            levels: Vec::new(),
            root: None,
            links: HashMap::new(),
            stats: Stats::default(),
            sidecar: Writer::new(),
            sidecar_file: FileBuilder::new(),
        }
    }

    /// Consumes all events.
    ///
    /// # Errors
    /// What the writer gives. `Interrupted` when the events end before the root does.
    pub fn run(mut self, events: &Receiver<Event>) -> Result<Assembled> {
        loop {
            match events.recv_timeout(LOOK) {
                Ok(event) => self.event(event)?,
                // The walk may wait for somebody else's file.
                Err(RecvTimeoutError::Timeout) if self.monitor.cancelled() => {
                    return Err(Error::new(Kind::Interrupted, "stopped on request"));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let root = self.root.take().ok_or_else(|| Error::new(Kind::Interrupted, "the walk ended early"))?;
        self.flush_sidecar()?;
        let sidecar = self.sidecar_file.finish(self.writer)?;
        self.stats.errors = self.failures.count();
        Ok(Assembled { root, sidecar, stats: self.stats })
    }

    fn event(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Enter { mut entry, stat, xattrs, before } => {
                if !self.levels.is_empty() {
                    self.record(&entry, true, stat)?;
                }
                entry.xattrs = self.xattrs(xattrs)?;
                self.levels.push(Open { entry, builder: DirBuilder::new(), before });
                Ok(())
            }
            Event::Leave => self.leave(),
            Event::Ready { mut entry, stat, xattrs, action, path } => {
                match action {
                    // What is read is counted chunk by chunk.
                    Action::Unchanged => Counters::add(&self.monitor.counters().bytes, entry.size),
                    _ => entry.xattrs = self.xattrs(xattrs)?,
                }
                self.add(entry, stat, action, &path)
            }
            Event::File { entry, content, budget, action, path, named, before } => {
                let result = self.file(entry, &content, (action, before), &path, named);
                self.budget.give(budget);
                result
            }
            Event::Link { entry, stat, action, path, named, last } => {
                let group = entry.link_group.unwrap_or_default();
                let result = self.link(entry, stat, action, &path, named);
                if last {
                    self.links.remove(&group);
                }
                result
            }
        }
    }

    fn leave(&mut self) -> Result<()> {
        let Some(mut open) = self.levels.pop() else { return Err(Error::bug("a directory ends that never began")) };
        open.entry.content = Content::Dir(open.builder.finish(self.writer)?);
        self.record_leave()?;
        self.stats.dirs += 1;
        Counters::add(&self.monitor.counters().dirs, 1);
        match &open.before {
            None => self.stats.dirs_new += 1,
            Some(before) if before.content == open.entry.content && before.mtime == open.entry.mtime => {
                self.stats.dirs_unmodified += 1;
            }
            Some(_) => self.stats.dirs_changed += 1,
        }
        match self.levels.last_mut() {
            Some(parent) => parent.builder.push(self.writer, &open.entry),
            None => {
                self.root = Some(open.entry);
                Ok(())
            }
        }
    }

    /// Puts a finished entry into the directory at hand.
    fn add(&mut self, entry: Entry, stat: Stat, action: Action, path: &Path) -> Result<()> {
        self.record(&entry, false, stat)?;
        let counters = self.monitor.counters();
        if entry.kind == EntryType::File {
            self.stats.files += 1;
            self.stats.bytes += entry.size;
            Counters::add(&counters.files, 1);
            match action {
                Action::New => self.stats.files_new += 1,
                Action::Changed => self.stats.files_changed += 1,
                _ => self.stats.files_unmodified += 1,
            }
        } else {
            self.stats.others += 1;
        }
        self.stats.unstable += u64::from(entry.unstable);
        self.monitor.event(Report::Item { path, action, size: entry.size });
        let Some(open) = self.levels.last_mut() else { return Err(Error::bug("an entry stands outside the root")) };
        open.builder.push(self.writer, &entry)?;
        if let Some(group) = entry.link_group.filter(|_| entry.kind == EntryType::File) {
            self.links.entry(group).or_insert((entry, stat));
        }
        Ok(())
    }

    fn file(
        &mut self,
        mut entry: Entry,
        content: &Receiver<Msg>,
        (action, before): (Action, Option<Box<Entry>>),
        path: &Path,
        named: bool,
    ) -> Result<()> {
        match self.receive(&mut entry, content, path)? {
            Ok(stat) => {
                if entry.unstable {
                    let text = format!("{} kept changing while it was read", crate::error::printable(path));
                    self.monitor.event(Report::Warning(&text));
                }
                let same = before.is_some_and(|before| *before == entry);
                self.add(entry, stat, if same { Action::Unchanged } else { action }, path)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.failures.gone(path, named),
            Err(e) => self.failures.report(path, "read", e),
        }
    }

    /// Stores a file as it comes from its reader. The inner error is the file's, the outer the repository's.
    fn receive(&mut self, entry: &mut Entry, content: &Receiver<Msg>, path: &Path) -> Result<io::Result<Stat>> {
        let mut builder = FileBuilder::new();
        let mut inline = None;
        let (mut stat, mut unread) = (None, None);
        let mut route = Route::Small;
        loop {
            // A single file may be endless, or its reader wait for ever.
            if self.monitor.cancelled() {
                return Err(Error::new(Kind::Interrupted, "stopped on request"));
            }
            let msg = match content.recv_timeout(LOOK) {
                Ok(msg) => msg,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return Err(Error::bug("a reader ended without a word")),
            };
            match msg {
                Msg::Begin(meta, attributes) => {
                    builder = FileBuilder::new();
                    inline = None;
                    stat = Some(Stat { ino: meta.ino, ctime: meta.ctime });
                    route = if meta.size > WHOLE { Route::Large } else { Route::Small };
                    refresh(entry, &meta);
                    entry.xattrs = self.xattrs(attributes.xattrs)?;
                    unread = attributes.failed;
                }
                Msg::Inline(bytes) => {
                    Counters::add(&self.monitor.counters().bytes, bytes.len() as u64);
                    inline = Some(bytes);
                }
                Msg::Data(h, bytes) => {
                    self.writer.store(route, ChunkKind::Data, h, &bytes)?;
                    Counters::add(&self.monitor.counters().bytes, bytes.len() as u64);
                    builder.push(self.writer, Extent::Data { h, len: bytes.len() as u64 })?;
                }
                Msg::Hole(len) => {
                    Counters::add(&self.monitor.counters().bytes, len);
                    builder.push(self.writer, Extent::Hole { len })?;
                }
                Msg::Failed(e) => return Ok(Err(e)),
                Msg::End(unstable) => {
                    entry.unstable = unstable;
                    entry.size = inline.as_ref().map_or(builder.len(), |b: &Vec<u8>| b.len() as u64);
                    entry.content = match inline {
                        Some(bytes) => Content::Inline(bytes),
                        None => builder.finish(self.writer)?,
                    };
                    if let Some(e) = unread {
                        // The content is worth having without them.
                        self.failures.report(path, "read the attributes of", e)?;
                        stat = stat.and(Some(NEVER));
                    }
                    return Ok(stat.ok_or_else(|| io::Error::other("the reader did not begin")));
                }
            }
        }
    }

    fn link(&mut self, mut entry: Entry, stat: Stat, action: Action, path: &Path, named: bool) -> Result<()> {
        let Some((first, stat_then)) = self.links.get(&entry.link_group.unwrap_or_default()) else {
            return self.read_alone(entry, stat, action, path, named);
        };
        entry.size = first.size;
        entry.content = first.content.clone();
        entry.xattrs = first.xattrs.clone();
        entry.unstable = first.unstable;
        entry.mtime = first.mtime;
        // As of when the content was read.
        let stat = *stat_then;
        Counters::add(&self.monitor.counters().bytes, entry.size);
        self.add(entry, stat, action, path)
    }

    /// Reads a file whose first name could not be read, by another: a program that links its file to where it belongs
    /// and then removes the temporary name leaves just that.
    fn read_alone(&mut self, entry: Entry, stat: Stat, action: Action, path: &Path, named: bool) -> Result<()> {
        let dir = path.parent().unwrap_or(Path::new("/"));
        let found = open_path(dir).and_then(|dir| Ok((stat_at(dir.as_fd(), &entry.name)?, dir)));
        let (meta, dir) = match found {
            Ok((meta, dir)) if meta.ino == stat.ino => (meta, dir),
            Ok(_) => {
                let why = io::Error::other("another name of this file could not be read");
                return self.failures.report(path, "read", why);
            }
            Err(e) => return self.failures.report(path, "read", e),
        };
        let (out, content) = bounded(QUEUE);
        let from = Origin::Name(Arc::new(dir.into()), entry.name.clone());
        let (params, over) = (self.params, &AtomicBool::new(false));
        std::thread::scope(|threads| {
            // Dropped before the reader is waited for, which must see that nobody listens.
            let content = content;
            let (jobs, queue) = bounded(1);
            threads.spawn(move || read::run(&queue, params, over));
            let sent = jobs.send(Job { from, meta, out });
            drop(jobs);
            sent.map_err(|_| Error::bug("a reader ended without a word"))?;
            let result = self.file(entry, &content, (action, None), path, named);
            over.store(true, Ordering::Relaxed);
            result
        })
    }

    fn xattrs(&mut self, xattrs: Xattrs) -> Result<Vec<(Vec<u8>, XattrValue)>> {
        let mut out = Vec::with_capacity(xattrs.len());
        let mut inline = 0;
        for (name, value) in xattrs {
            let value = if value.len() <= XATTR_INLINE && inline + value.len() <= XATTRS_INLINE {
                inline += value.len();
                XattrValue::Inline(value)
            } else {
                let h = content_hash(ChunkKind::Data, &value);
                self.writer.store(Route::Small, ChunkKind::Data, h, &value)?;
                XattrValue::Chunk { h, len: value.len() as u32 }
            };
            out.push((name, value));
        }
        Ok(out)
    }

    fn record(&mut self, entry: &Entry, dir: bool, stat: Stat) -> Result<()> {
        Record::Entry { check: check(&entry.name), dir, stat }.encode(&mut self.sidecar);
        self.drain_sidecar()
    }

    fn record_leave(&mut self) -> Result<()> {
        Record::Leave.encode(&mut self.sidecar);
        self.drain_sidecar()
    }

    fn drain_sidecar(&mut self) -> Result<()> {
        if self.sidecar.len() >= SIDECAR_CHUNK { self.flush_sidecar() } else { Ok(()) }
    }

    /// The sidecar is cut by length alone: it changes with every run, so cutting by content would find little.
    fn flush_sidecar(&mut self) -> Result<()> {
        let bytes = std::mem::take(&mut self.sidecar).into_vec();
        if bytes.is_empty() {
            return Ok(());
        }
        let h = content_hash(ChunkKind::Data, &bytes);
        self.writer.store(Route::Meta, ChunkKind::Data, h, &bytes)?;
        self.sidecar_file.push(self.writer, Extent::Data { h, len: bytes.len() as u64 })
    }
}

/// Takes over what the opened file says: it may have changed since the walk saw it.
fn refresh(entry: &mut Entry, meta: &Meta) {
    if meta.kind == EntryType::File {
        entry.mode = meta.mode;
        entry.uid = meta.uid;
        entry.gid = meta.gid;
    }
    entry.mtime = meta.mtime;
}
