//! The walk: one thread goes through the sources in tree order, compares with the previous snapshot, and hands on
//! an event for everything that is to be in the snapshot.

mod file;
mod target;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crossbeam_channel::Sender;

use crate::capture::Sample;
use crate::capture::descriptors::Descriptors;
use crate::capture::event::{Budget, Event, Linked};
use crate::capture::exclude::{Markers, Patterns};
use crate::capture::failures::Failures;
use crate::capture::listing::{Deep, Listing, Walking, Which, list};
use crate::capture::mounts::Mounts;
use crate::capture::parent::{Known, Parent};
use crate::capture::plan::Node;
use crate::capture::pool::Pool;
use crate::capture::read::Job;
use crate::capture::scan::{Accounts, Meta, open_path, stat_at};
use crate::capture::walk::target::{absent, not_a_way};
use crate::error::{Error, Kind, Result};
use crate::format::sidecar::Stat;
use crate::format::tree::{Content, Entry, EntryType, FileTime};
use crate::limits::MAX_DEPTH;
use crate::monitor::{Event as Report, Monitor};
use crate::path::valid_name;

/// What the walk goes by.
pub struct Rules {
    /// Left out.
    pub excludes: Patterns,
    /// Directories with one of these are left out but for the marker.
    pub markers: Arc<Markers>,
    /// Files longer than this are left out.
    pub larger_than: Option<u64>,
    /// Other files than these are left out, and counted.
    pub sample: Option<Arc<Sample>>,
    /// Stay on each target's filesystem.
    pub one_file_system: bool,
    /// Read block devices named as targets by content.
    pub read_devices: bool,
    /// Read every file, changed or not.
    pub force: bool,
    /// The repository's directory (device, inode): never captured.
    pub repository: Option<(u64, u64)>,
    /// Where repositories are mounted: never captured either.
    pub mounts: Mounts,
}

impl Rules {
    /// Whether something in a directory on the filesystem `dev` is where a repository is mounted.
    fn mounted(&self, dev: u64, meta: &Meta) -> bool {
        meta.dev != dev && self.mounts.is_repository(meta.dev)
    }

    /// Whether the subdirectory `name` of `dir`, which is on the filesystem `dev`, will be listed.
    fn deep(&self, dir: &Path, dev: u64, name: &[u8], meta: &Meta) -> bool {
        (!self.one_file_system || meta.dev == dev)
            && self.repository != Some((meta.dev, meta.ino))
            && !self.mounted(dev, meta)
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
    pub failures: &'a Failures<'a>,
    /// How many directories may be open.
    pub descriptors: Descriptors,
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

/// A directory that the walk comes to.
struct Dir<'a, 'e> {
    name: &'e [u8],
    meta: &'e Meta,
    planned: Option<&'a Node>,
    known: Option<Known>,
    /// Left out but for what was named in it.
    excluded: bool,
}

/// Anything else that the walk comes to.
struct File<'e> {
    dir: Arc<OwnedFd>,
    name: &'e [u8],
    meta: &'e Meta,
    known: Option<Known>,
    /// Whether the user asked for just this.
    named: bool,
    /// Whether it is a device to be read by its content.
    device: bool,
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

const MOUNTED: &str = "the mount of a repository";

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
            let (rules, plan, dir, dev) = (self.rules, level.plan, at.real(), level.dev);
            let deep = |name: &[u8], meta: &Meta| !plan.contains_key(name) && rules.deep(dir, dev, name, meta);
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
                    let left = levels.pop();
                    self.send(Event::Leave)?;
                    self.wake(&mut levels, &mut at, left)?;
                }
            }
        }
        Ok(())
    }

    fn send(&self, event: Event) -> Result<()> {
        self.events.send(event).map_err(|_| Error::new(Kind::Interrupted, "the backup ended early"))
    }

    /// Opens the directory the walk comes back to, if it was closed meanwhile.
    fn wake(&self, levels: &mut [Level<'a>], at: &mut At, left: Option<Level<'a>>) -> Result<()> {
        let Some(level) = levels.last_mut().filter(|level| level.walking.rests()) else { return Ok(()) };
        at.real.truncate(level.path_len);
        let below = left.and_then(|left| left.walking.dir().ok());
        match level.walking.wake(below.as_deref(), at.real()) {
            Ok(()) => Ok(()),
            Err(e) => self.failures.report(at.real(), "go on in", e),
        }
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
        let attributes = std::mem::take(&mut listing.attributes);
        if let Some(e) = attributes.failed {
            self.failures.report(at.real(), "read the attributes of", e)?;
        }
        self.send(Event::Enter { entry, stat, xattrs: attributes.xattrs, before })?;
        // What is named below is looked up only where it is listed.
        let unlisted = node.children.iter().filter(|(name, _)| !listing.contains(name));
        unlisted.map(|(_, child)| child).try_for_each(|child| self.missed(child, &absent))?;
        if let Some(above) = levels.len().checked_sub(self.descriptors.levels) {
            levels[above].walking.rest();
        }
        levels.push(Level {
            walking: Walking::new(listing, self.descriptors.ahead),
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
        let target = planned.is_some_and(|node| node.target);
        // Named, or on the way to what was named where all else is left out.
        let named = target || planned.is_some() && !level.whole;
        if !valid_name(name) {
            // Some filesystems count characters, not bytes. No reader would take the name, nor anything listed beside it.
            return self.failures.report(at.real(), "capture", io::Error::from_raw_os_error(libc::ENAMETOOLONG));
        }
        let meta = match meta {
            Ok(meta) => meta,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return self.gone(at.real(), planned),
            Err(_) if !named && self.rules.mounts.is_mounted_at(at.real()) => {
                self.left_out(at.real(), MOUNTED);
                return Ok(());
            }
            Err(e) => return self.failures.report(at.real(), "scan", e),
        };
        if self.is_repository(at.real(), level.dev, &meta) {
            return Ok(());
        }
        let is_dir = meta.kind == EntryType::Dir;
        if let Some(node) = planned.filter(|_| !is_dir && (target || level.whole)) {
            // It is saved as what it is, and so cannot be the directory that what was named below would be in.
            let why = || not_a_way(at.real(), meta.kind);
            node.children.values().try_for_each(|child| self.missed(child, &why))?;
        }
        let excluded = !named && self.excluded(at.real(), &meta);
        if excluded && (planned.is_none() || !is_dir) {
            return Ok(());
        }
        let known = self.known(level.known, name);
        if is_dir {
            return self.visit_dir(levels, at, i, Dir { name, meta: &meta, planned, known, excluded });
        }
        if let Some(node) = planned.filter(|node| !node.target && !level.whole) {
            return self.visit_on_the_way(levels, at, name, node, known);
        }
        let dir = level.walking.dir()?;
        let device = target && self.is_device(at.real(), meta.kind);
        self.visit_file(at, File { dir, name, meta: &meta, known, named: target, device })
    }

    /// Whether it is the repository or a mount of one, which are left out.
    fn is_repository(&self, path: &Path, dev: u64, meta: &Meta) -> bool {
        let own = self.rules.repository == Some((meta.dev, meta.ino));
        let mounted = !own && self.rules.mounted(dev, meta);
        if own || mounted {
            self.left_out(path, if own { "the repository itself" } else { MOUNTED });
        }
        own || mounted
    }

    fn left_out(&self, path: &Path, what: &str) {
        let text = format!("{} is {what}: left out", crate::error::printable(path));
        self.monitor.event(Report::Notice(&text));
    }

    fn excluded(&self, path: &Path, meta: &Meta) -> bool {
        let file = meta.kind == EntryType::File;
        let large = file && self.rules.larger_than.is_some_and(|limit| meta.size > limit);
        let excludes = &self.rules.excludes;
        let out = large || (!excludes.is_empty() && excludes.matches(path, meta.kind == EntryType::Dir));
        out || (file && self.rules.sample.as_ref().is_some_and(|sample| !sample.takes(path, meta.size)))
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

    fn visit_dir(&mut self, levels: &mut Vec<Level<'a>>, at: &At, i: usize, dir: Dir<'a, '_>) -> Result<()> {
        let Dir { name, meta, planned, known, excluded } = dir;
        let depth = levels.len();
        let Some(level) = levels.last_mut() else { return Ok(()) };
        let ahead = level.walking.child(i);
        let named = planned.is_some_and(|node| node.target || !level.whole);
        let foreign = self.rules.one_file_system && !named && meta.dev != level.dev;
        // On another filesystem, and where all is left out, nothing is captured but what was named there.
        let only = planned.filter(|node| !node.target && (!level.whole || foreign || excluded));
        let known = known.filter(|k| matches!(k.entry.content, Content::Dir(_)));
        if (foreign && only.is_none()) || depth >= MAX_DEPTH {
            if depth >= MAX_DEPTH {
                self.failures.report(at.real(), "enter", io::Error::from_raw_os_error(libc::ELOOP))?;
            }
            return self.empty_dir(name, meta, known);
        }
        static WHOLE_TREE: Node = Node { real: PathBuf::new(), whole: true, target: false, children: BTreeMap::new() };
        let node = planned.unwrap_or(&WHOLE_TREE);
        let names = node.children.keys().cloned().collect();
        let which = if only.is_some() { Which::Only(names) } else { Which::All(names) };
        let listing = match ahead {
            Some(promise) => promise.wait(),
            None => list(level.walking.dir()?.as_fd(), name, &which, &self.rules.markers),
        };
        match listing {
            Ok(listing) => {
                let whole = only.is_none() && !listing.marked;
                self.enter_known(levels, listing, (node, whole), at, name, known)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.pass(known.as_ref());
                self.gone(at.real(), planned)
            }
            Err(e) => {
                self.failures.report(at.real(), "list", e)?;
                self.empty_dir(name, meta, known)
            }
        }
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
                self.pass(known.as_ref());
                match e.kind() {
                    io::ErrorKind::NotFound => self.missed(node, &absent),
                    _ => self.failures.report(at.real(), "enter", e),
                }
            }
        }
    }

    /// What the previous snapshot has below an entry is not compared with.
    fn pass(&mut self, known: Option<&Known>) {
        if let (Some(known), Some(parent)) = (known, &mut self.parent) {
            parent.pass(&known.entry);
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
        self.pass(known.as_ref());
        let entry = self.entry(name, meta);
        self.send(Event::Enter {
            entry,
            stat: stat_of(meta),
            xattrs: Vec::new(),
            before: known.map(|k| Box::new(k.entry)),
        })?;
        self.send(Event::Leave)
    }
}

/// The root, which is named by its path.
fn list_path(path: &Path, node: &Node, whole: bool) -> io::Result<Listing> {
    let dir = open_path(path)?;
    let which = match whole {
        true => Which::All(Vec::new()),
        false => Which::Only(node.children.keys().cloned().collect()),
    };
    list(dir.as_fd(), b".", &which, &Markers::default())
}

/// The directory at `path` as the walk would meet it: device and inode.
pub fn identity(path: &Path) -> Option<(u64, u64)> {
    let dir = open_path(path).ok()?;
    let meta = stat_at(dir.as_fd(), b".").ok()?;
    Some((meta.dev, meta.ino))
}
