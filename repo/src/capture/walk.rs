//! The walk: one thread goes through the sources in tree order, compares with the previous snapshot, and hands on
//! an event for everything that is to be in the snapshot.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Sender, bounded};

use crate::capture::event::{Budget, Event, Linked};
use crate::capture::exclude::{Marker, Patterns};
use crate::capture::listing::{Deep, Listing, Walking, Which, list};
use crate::capture::parent::{Known, Parent};
use crate::capture::plan::Node;
use crate::capture::pool::Pool;
use crate::capture::read::{Job, Origin, QUEUE, WHOLE};
use crate::capture::scan::{Accounts, Meta, Xattrs, read_link, stat_at, xattrs_at};
use crate::error::{Error, Kind, Result};
use crate::format::sidecar::Stat;
use crate::format::tree::{Content, Entry, EntryType, FileTime};
use crate::limits::{KIB, MAX_DEPTH, MAX_SYMLINK};
use crate::monitor::{Action, Counters, Event as Report, Monitor};
use crate::path::valid_name;

/// What the walk goes by.
pub struct Rules {
    /// Left out.
    pub excludes: Patterns,
    /// Directories with one of these are left out but for the marker.
    pub markers: Arc<Vec<Marker>>,
    /// Files longer than this are left out.
    pub larger_than: Option<u64>,
    /// Stay on each target's filesystem.
    pub one_file_system: bool,
    /// Read block devices named as targets by content.
    pub read_devices: bool,
    /// Read every file, changed or not.
    pub force: bool,
    /// The repository's directory (device, inode): never captured.
    pub repository: Option<(u64, u64)>,
}

impl Rules {
    /// Whether the subdirectory `name` of `dir`, which is on the filesystem `dev`, will be listed.
    fn deep(&self, dir: &Path, dev: u64, name: &[u8], meta: &Meta) -> bool {
        (!self.one_file_system || meta.dev == dev)
            && self.repository != Some((meta.dev, meta.ino))
            && (self.excludes.is_empty() || !self.excludes.matches(&dir.join(std::ffi::OsStr::from_bytes(name)), true))
    }
}

/// The walk and all it needs.
pub struct Walk<'a> {
    /// The rules.
    pub rules: &'a Rules,
    /// Lists directories ahead.
    pub pool: &'a Pool,
    /// Reads files.
    pub jobs: Sender<Job>,
    /// Takes the events.
    pub events: Sender<Event>,
    /// Bounds what is read ahead.
    pub budget: &'a Budget,
    /// Reports.
    pub monitor: &'a dyn Monitor,
    /// Sources that failed.
    pub errors: &'a AtomicU64,
    /// The previous snapshot, until it fails to read.
    pub parent: Option<Parent>,
    /// Its root directory.
    pub root_before: Option<Box<Entry>>,
    /// Entries changed at or after this, by their change time, may have changed again within the same tick of the
    /// filesystem's clock after the previous capture read them: they count as changed.
    pub settled_before: Option<FileTime>,
    /// Whether all chunks of a content can be relied on.
    pub usable: &'a (dyn Fn(&Entry) -> bool + Sync),
    /// Names of users and groups.
    pub accounts: Accounts,
    /// Files of several names seen so far.
    pub links: HashMap<(u64, u64), Linked>,
    /// Chunks smaller than this are none: sizes the queues.
    pub chunk_min: u64,
}

/// A directory being walked.
struct Level<'a> {
    walking: Walking,
    /// Names below that lead to targets.
    plan: &'a BTreeMap<Vec<u8>, Node>,
    /// Whether all else is captured as well.
    whole: bool,
    /// Whether the parent's cursor is in this directory too.
    known: bool,
    /// The target's filesystem.
    dev: u64,
    /// Length of the real path of the directory.
    path_len: usize,
    snap_len: usize,
}

/// The paths of the entry at hand.
#[derive(Default)]
struct At {
    real: Vec<u8>,
    snap: Vec<u8>,
}

impl At {
    fn push(&mut self, name: &[u8]) {
        for path in [&mut self.real, &mut self.snap] {
            if !path.is_empty() && !path.ends_with(b"/") {
                path.push(b'/');
            }
            path.extend_from_slice(name);
        }
    }

    fn real(&self) -> &Path {
        Path::new(std::ffi::OsStr::from_bytes(&self.real))
    }
}

fn stat_of(meta: &Meta) -> Stat {
    Stat { ino: meta.ino, ctime: meta.ctime }
}

impl<'a> Walk<'a> {
    /// Walks everything below `root`; the root's own [`Event::Enter`] comes first.
    ///
    /// # Errors
    /// `Interrupted` when the user asks to stop, or when the receiver is gone; `Io` when the root cannot be listed.
    pub fn run(mut self, root: &'a Node) -> Result<()> {
        let mut at = At { real: root.real.as_os_str().as_bytes().to_vec(), snap: Vec::new() };
        let listing = list_path(&root.real, root, root.whole).map_err(|e| Error::io("list", &root.real, e))?;
        let mut entry = self.entry(b"root", &listing.meta);
        entry.size = 0;
        let mut levels = vec![];
        let before = self.root_before.take();
        let known = before.is_some();
        self.enter(&mut levels, listing, (root, root.whole), &at, entry, before, known)?;
        while let Some(level) = levels.last_mut() {
            if self.monitor.cancelled() {
                return Err(Error::new(Kind::Interrupted, "stopped on request"));
            }
            at.real.truncate(level.path_len);
            at.snap.truncate(level.snap_len);
            let (rules, dir, dev) = (self.rules, at.real(), level.dev);
            let deep = |name: &[u8], meta: &Meta| rules.deep(dir, dev, name, meta);
            let deep: Option<Deep<'_>> = if level.whole { Some(&deep) } else { None };
            match level.walking.next(self.pool, deep, &self.rules.markers) {
                Some((i, meta)) => {
                    let name = level.walking.name(i).to_vec();
                    at.push(&name);
                    self.visit(&mut levels, &mut at, i, &name, meta)?;
                }
                None => {
                    if level.known
                        && let Some(parent) = &mut self.parent
                    {
                        parent.leave();
                    }
                    levels.pop();
                    self.send(Event::Leave)?;
                }
            }
        }
        Ok(())
    }

    fn send(&self, event: Event) -> Result<()> {
        self.events.send(event).map_err(|_| Error::new(Kind::Interrupted, "the backup ended early"))
    }

    fn failed(&self, path: &Path, during: &str, error: io::Error) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        Counters::add(&self.monitor.counters().errors, 1);
        let error = Error::io(during, path, error);
        self.monitor.event(Report::ItemError { path, during, error: &error });
    }

    #[allow(clippy::too_many_arguments)]
    fn enter(
        &mut self,
        levels: &mut Vec<Level<'a>>,
        listing: Listing,
        (node, whole): (&'a Node, bool),
        at: &At,
        entry: Entry,
        before: Option<Box<Entry>>,
        known: bool,
    ) -> Result<()> {
        let mut listing = listing;
        let (stat, dev) = (stat_of(&listing.meta), listing.meta.dev);
        let xattrs = std::mem::replace(&mut listing.xattrs, Ok(Vec::new())).unwrap_or_else(|e| {
            // No reason to leave out all that is in it.
            self.failed(at.real(), "read the attributes of", e);
            Vec::new()
        });
        self.send(Event::Enter { entry, stat, xattrs, before })?;
        levels.push(Level {
            walking: Walking::new(listing),
            plan: &node.children,
            whole,
            known,
            dev,
            path_len: at.real.len(),
            snap_len: at.snap.len(),
        });
        Ok(())
    }

    fn visit(
        &mut self,
        levels: &mut Vec<Level<'a>>,
        at: &mut At,
        i: usize,
        name: &[u8],
        meta: io::Result<Meta>,
    ) -> Result<()> {
        let Some(level) = levels.last_mut() else { return Ok(()) };
        let planned = level.plan.get(name);
        // Named, or on the way to what was named where all else is left out.
        let named = planned.is_some_and(|node| node.target || !level.whole);
        if !valid_name(name) {
            // Some filesystems count characters, not bytes. No reader would take the name, nor anything listed beside it.
            self.failed(at.real(), "capture", io::Error::from_raw_os_error(libc::ENAMETOOLONG));
            return Ok(());
        }
        let meta = match meta {
            Ok(meta) => meta,
            // Gone since it was listed: as if it had never been there. A target that was named is missed.
            Err(e) if e.kind() == io::ErrorKind::NotFound && planned.is_none() => {
                let text = format!("{} vanished while it was being backed up", crate::error::printable(at.real()));
                self.monitor.event(Report::Notice(&text));
                return Ok(());
            }
            Err(e) => {
                self.failed(at.real(), "scan", e);
                return Ok(());
            }
        };
        if self.left_out(at.real(), &meta, named) {
            return Ok(());
        }
        let known = self.known(level.known, name);
        if meta.kind == EntryType::Dir {
            return self.visit_dir(levels, at, i, name, &meta, planned, known);
        }
        if let Some(node) = planned.filter(|node| !node.target && !level.whole) {
            return self.visit_on_the_way(levels, at, name, node, known);
        }
        let fd = Arc::clone(&level.walking.fd);
        // Logical volumes are named by symbolic links: what was named is the device that it leads to.
        let device = || match meta.kind {
            EntryType::BlockDevice => true,
            EntryType::Symlink => std::fs::metadata(at.real()).is_ok_and(|found| found.file_type().is_block_device()),
            _ => false,
        };
        let content_of_device = planned.is_some_and(|node| node.target) && self.rules.read_devices && device();
        self.visit_file(at, &fd, name, &meta, known, content_of_device)
    }

    fn left_out(&self, path: &Path, meta: &Meta, planned: bool) -> bool {
        if self.rules.repository == Some((meta.dev, meta.ino)) {
            let text = format!("{} is the repository itself: left out", crate::error::printable(path));
            self.monitor.event(Report::Notice(&text));
            return true;
        }
        if planned {
            return false;
        }
        let large = meta.kind == EntryType::File && self.rules.larger_than.is_some_and(|limit| meta.size > limit);
        let excludes = &self.rules.excludes;
        large || (!excludes.is_empty() && excludes.matches(path, meta.kind == EntryType::Dir))
    }

    /// What the previous snapshot has here; its damage costs speed, not this backup.
    fn known(&mut self, in_step: bool, name: &[u8]) -> Option<Known> {
        if !in_step {
            return None;
        }
        match self.parent.as_mut()?.find(name) {
            Ok(known) => known,
            Err(e) => {
                let text = format!("the previous snapshot cannot be read ({e}): everything is read again");
                self.monitor.event(Report::Warning(&text));
                self.parent = None;
                None
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn visit_dir(
        &mut self,
        levels: &mut Vec<Level<'a>>,
        at: &At,
        i: usize,
        name: &[u8],
        meta: &Meta,
        planned: Option<&'a Node>,
        known: Option<Known>,
    ) -> Result<()> {
        let depth = levels.len();
        let Some(level) = levels.last_mut() else { return Ok(()) };
        let ahead = level.walking.child(i);
        let named = planned.is_some_and(|node| node.target || !level.whole);
        let foreign = self.rules.one_file_system && !named && meta.dev != level.dev;
        // On another filesystem nothing is captured but what was named there.
        let only = planned.filter(|node| !node.target && (!level.whole || foreign));
        let known = known.filter(|k| matches!(k.entry.content, Content::Dir(_)));
        if (foreign && only.is_none()) || depth >= MAX_DEPTH {
            if depth >= MAX_DEPTH {
                self.failed(at.real(), "enter", io::Error::from_raw_os_error(libc::ELOOP));
            }
            return self.empty_dir(name, meta, known);
        }
        let fd = Arc::clone(&level.walking.fd);
        let listing = match (ahead, only) {
            (Some(promise), _) => promise.wait(),
            (None, Some(node)) => {
                let names = node.children.keys().cloned().collect();
                list(fd.as_fd(), name, &Which::Only(names), &[])
            }
            _ => list(fd.as_fd(), name, &Which::All, &self.rules.markers),
        };
        let listing = match listing {
            Ok(listing) => listing,
            Err(e) => {
                self.failed(at.real(), "list", e);
                return self.empty_dir(name, meta, known);
            }
        };
        static WHOLE_TREE: Node = Node { real: PathBuf::new(), whole: true, target: false, children: BTreeMap::new() };
        self.enter_known(levels, listing, (planned.unwrap_or(&WHOLE_TREE), only.is_none()), at, name, known)
    }

    /// Something on the way to a target that is no directory: a symbolic link the user's path leads through
    /// stands in the snapshot as the directory it leads to.
    fn visit_on_the_way(
        &mut self,
        levels: &mut Vec<Level<'a>>,
        at: &At,
        name: &[u8],
        node: &'a Node,
        known: Option<Known>,
    ) -> Result<()> {
        match list_path(&node.real, node, false) {
            Ok(listing) => {
                let known = known.filter(|k| matches!(k.entry.content, Content::Dir(_)));
                self.enter_known(levels, listing, (node, false), at, name, known)
            }
            Err(e) => {
                self.failed(at.real(), "enter", e);
                if let (Some(known), Some(parent)) = (&known, &mut self.parent) {
                    parent.pass(&known.entry);
                }
                Ok(())
            }
        }
    }

    /// Enters a directory, and with it the one of the previous snapshot, if there was one.
    fn enter_known(
        &mut self,
        levels: &mut Vec<Level<'a>>,
        listing: Listing,
        planned: (&'a Node, bool),
        at: &At,
        name: &[u8],
        known: Option<Known>,
    ) -> Result<()> {
        let entry = self.entry(name, &listing.meta);
        let before = known.map(|k| Box::new(k.entry));
        if let (Some(Content::Dir(dir)), Some(parent)) = (before.as_ref().map(|b| &b.content), &mut self.parent) {
            parent.enter(*dir);
        }
        let in_step = before.is_some() && self.parent.is_some();
        self.enter(levels, listing, planned, at, entry, before, in_step)
    }

    /// A directory whose entries are not captured.
    fn empty_dir(&mut self, name: &[u8], meta: &Meta, known: Option<Known>) -> Result<()> {
        if let (Some(known), Some(parent)) = (&known, &mut self.parent) {
            parent.pass(&known.entry);
        }
        let entry = self.entry(name, meta);
        self.send(Event::Enter {
            entry,
            stat: stat_of(meta),
            xattrs: Vec::new(),
            before: known.map(|k| Box::new(k.entry)),
        })?;
        self.send(Event::Leave)
    }

    fn visit_file(
        &mut self,
        at: &At,
        fd: &Arc<OwnedFd>,
        name: &[u8],
        meta: &Meta,
        known: Option<Known>,
        device: bool,
    ) -> Result<()> {
        if let (Some(known), Some(parent)) = (&known, &mut self.parent) {
            parent.pass(&known.entry);
        }
        let stat = stat_of(meta);
        let path = at.real().to_owned();
        let mut entry = self.entry(name, meta);
        if meta.nlink > 1 {
            let (group, last) = self.link(meta, &at.snap);
            entry.link_group = Some(group);
            if let Some(last) = last.filter(|_| meta.kind == EntryType::File) {
                return self.send(Event::Link { entry, stat, path, last });
            }
        }
        let action = if known.is_some() { Action::Changed } else { Action::New };
        if device {
            let mut as_file = self.entry(name, meta);
            as_file.kind = EntryType::File;
            as_file.rdev = 0;
            if meta.kind == EntryType::Symlink {
                // A link's own mode would open the device's content to everybody.
                as_file.mode = 0o600;
            }
            return self.read(Origin::Device(path.clone()), as_file, &Meta { size: u64::MAX, ..*meta }, action, path);
        }
        if let Some(same) = known.and_then(|k| self.unchanged(k, meta)) {
            let same = Entry { link_group: entry.link_group, user: entry.user, group: entry.group, ..same };
            return self.send(Event::Ready { entry: same, stat, xattrs: Vec::new(), action: Action::Unchanged, path });
        }
        match meta.kind {
            EntryType::File => self.read(Origin::Name(Arc::clone(fd), name.to_vec()), entry, meta, action, path),
            _ => self.special(fd, name, meta, entry, action, path),
        }
    }

    fn special(
        &mut self,
        fd: &Arc<OwnedFd>,
        name: &[u8],
        meta: &Meta,
        mut entry: Entry,
        action: Action,
        path: PathBuf,
    ) -> Result<()> {
        let read = || -> io::Result<(Vec<u8>, Xattrs)> {
            let link = meta.kind == EntryType::Symlink;
            let target = if link { read_link(fd.as_fd(), name)? } else { Vec::new() };
            if link && (target.is_empty() || target.len() > MAX_SYMLINK) {
                return Err(io::Error::from_raw_os_error(libc::EINVAL));
            }
            Ok((target, xattrs_at(fd.as_fd(), name)?))
        };
        match read() {
            Ok((target, xattrs)) => {
                entry.size = target.len() as u64;
                entry.target = target;
                self.send(Event::Ready { entry, stat: stat_of(meta), xattrs, action, path })
            }
            Err(e) => {
                self.failed(&path, "read", e);
                Ok(())
            }
        }
    }

    /// Sends a job to the readers and the event that takes its result.
    fn read(&self, from: Origin, entry: Entry, meta: &Meta, action: Action, path: PathBuf) -> Result<()> {
        let whole = meta.size <= WHOLE;
        let budget = if whole { meta.size + KIB as u64 } else { 0 };
        self.budget.take(budget);
        let queue = if whole { 4 + (meta.size / self.chunk_min) as usize } else { QUEUE };
        let (out, content) = bounded(queue);
        let gone = || Error::new(Kind::Interrupted, "the backup ended early");
        self.jobs.send(Job { from, meta: *meta, out }).map_err(|_| gone())?;
        self.send(Event::File { entry, content, budget, action, path })
    }

    /// A stream as the one file of the snapshot's root, called `name`.
    ///
    /// # Errors
    /// `Interrupted` when the receiver is gone.
    pub fn stream(self, name: &[u8], meta: &Meta, pipe: Box<dyn io::Read + Send>) -> Result<()> {
        let mut root = self.entry(b"root", meta);
        root.kind = EntryType::Dir;
        root.mode = 0o700;
        let stat = stat_of(meta);
        self.send(Event::Enter { entry: root, stat, xattrs: Vec::new(), before: None })?;
        let entry = self.entry(name, meta);
        let path = PathBuf::from(std::ffi::OsString::from_vec(name.to_vec()));
        let endless = Meta { size: u64::MAX, ..*meta };
        self.read(Origin::Stream(pipe), entry, &endless, Action::New, path)?;
        self.send(Event::Leave)
    }

    /// The group of a file with several names; if this is not its first, whether it is the last.
    fn link(&mut self, meta: &Meta, path: &[u8]) -> ([u8; 32], Option<bool>) {
        let key = (meta.dev, meta.ino);
        let same = (meta.kind, meta.size, meta.mtime);
        if let Some(known) = self.links.get_mut(&key).filter(|known| known.same == same) {
            known.left -= 1;
            let (group, last) = (known.group, known.left == 0);
            if last {
                self.links.remove(&key);
            }
            return (group, Some(last));
        }
        let group = *blake3::hash(path).as_bytes();
        self.links.insert(key, Linked { group, left: meta.nlink - 1, same });
        (group, None)
    }

    /// The known entry, if nothing about it can have changed.
    fn unchanged(&self, known: Known, meta: &Meta) -> Option<Entry> {
        let entry = &known.entry;
        let same = entry.kind == meta.kind
            && entry.mtime == meta.mtime
            && entry.size == meta.size
            && entry.rdev == device(meta)
            && known.stat == Some(stat_of(meta))
            && self.settled_before.is_some_and(|time| settled(meta, time))
            && (entry.mode, entry.uid, entry.gid) == (meta.mode, meta.uid, meta.gid);
        let reuse = same && !self.rules.force && !entry.unstable && (self.usable)(entry);
        reuse.then_some(known.entry)
    }

    fn entry(&self, name: &[u8], meta: &Meta) -> Entry {
        let mut entry = Entry::new(name, meta.kind);
        entry.mode = meta.mode;
        entry.uid = meta.uid;
        entry.gid = meta.gid;
        entry.mtime = meta.mtime;
        entry.user = self.accounts.user(meta.uid).to_vec();
        entry.group = self.accounts.group(meta.gid).to_vec();
        entry.rdev = device(meta);
        entry
    }
}

/// Whether the last change was surely seen by a capture that began at `time`, but for a tick. Some filesystems count whole
/// seconds (ext3, small inodes of ext4), or two (FAT).
fn settled(meta: &Meta, time: FileTime) -> bool {
    const COARSE: i64 = 2;
    let secs = if meta.ctime.nanos == 0 { meta.ctime.secs.saturating_add(COARSE) } else { meta.ctime.secs };
    FileTime { secs, ..meta.ctime } < time
}

fn device(meta: &Meta) -> u64 {
    if matches!(meta.kind, EntryType::CharDevice | EntryType::BlockDevice) { meta.rdev } else { 0 }
}

/// The root, which is named by its path.
fn list_path(path: &Path, node: &Node, whole: bool) -> io::Result<Listing> {
    let dir = std::fs::File::open(path)?;
    let which = match whole {
        true => Which::All,
        false => Which::Only(node.children.keys().cloned().collect()),
    };
    list(dir.as_fd(), b".", &which, &[])
}

/// The directory at `path` as the walk would meet it: device and inode.
pub fn identity(path: &Path) -> Option<(u64, u64)> {
    let dir = std::fs::File::open(path).ok()?;
    let meta = stat_at(dir.as_fd(), b".").ok()?;
    Some((meta.dev, meta.ino))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_in_the_same_tick_is_not_settled() {
        let mut meta = identity_meta();
        let time = |secs, nanos| FileTime { secs, nanos };
        meta.ctime = time(100, 500);
        assert!(settled(&meta, time(100, 501)) && !settled(&meta, time(100, 500)));
        // A filesystem that counts whole seconds, or two.
        meta.ctime = time(100, 0);
        assert!(!settled(&meta, time(100, 900_000_000)) && !settled(&meta, time(102, 0)));
        assert!(settled(&meta, time(102, 1)));
    }

    fn identity_meta() -> Meta {
        stat_at(std::fs::File::open("/").unwrap().as_fd(), b".").unwrap()
    }
}
