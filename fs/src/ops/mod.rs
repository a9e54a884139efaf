//! The filesystem's semantics, without FUSE: every operation is a plain call that returns its answer.
//!
//! Operations that hand an inode to the kernel count a lookup; [`Ops::forget`] gives it back.

pub mod attr;
mod file;
mod tree;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::{Mutex, RwLock};
use repo::error::{Error, Kind, Result};
use repo::format::tree::EntryType;
use repo::id::{ContentHash, SnapshotId};
use repo::pack::source::FrameSource;

use crate::errno::{Fail, Outcome};
use crate::inode::{Body, Node};
use crate::layout::{Change, Layout, Target, file_time};
use crate::listing::Listings;
use crate::number::is_captured;
use crate::prefetch::Prefetch;
use crate::table::{Known, Table};
use crate::view::{Usage, View};

pub use attr::{Attr, Looked, Presentation};
pub use file::{Data, Seek};
pub use tree::{Found, Listed, Listing};

/// Snapshot roots kept beside those the kernel holds.
const ROOTS: usize = 1024;
/// Files whose blocks are remembered by content.
const COUNTS: usize = 16 * 1024;
/// Failures reported one by one.
const REPORTS: usize = 4096;
/// How long figures for `statfs` are kept.
const USAGE_FOR: Duration = Duration::from_secs(5);

/// How things are shown.
#[derive(Clone, Copy, Debug)]
pub struct Appearance {
    /// Owner and group of synthetic directories and links.
    pub owner: (u32, u32),
    /// Everything as one user's.
    pub presentation: Option<Presentation>,
    /// Threads that look ahead for the files that follow.
    pub threads: usize,
}

/// The filesystem.
pub struct Ops {
    view: Arc<dyn View>,
    source: Arc<dyn FrameSource>,
    appearance: Appearance,
    layout: RwLock<(u64, Arc<Layout>)>,
    table: Table,
    listings: Arc<Listings>,
    prefetch: Prefetch,
    roots: Mutex<LruCache<u64, Arc<Node>>>,
    counts: Mutex<LruCache<ContentHash, u64>>,
    names: Mutex<LruCache<(u64, u64), tree::Names>>,
    by_tenant: bool,
    usage: Mutex<Option<(Instant, Usage)>>,
    reported: Mutex<HashSet<u64>>,
    started: i64,
}

/// What an inode stands for.
enum Thing {
    Dir(Arc<Layout>, u64),
    Link(Arc<Layout>, u8, u32),
    Node(Arc<Node>),
}

fn capacity(n: usize) -> std::num::NonZeroUsize {
    std::num::NonZeroUsize::new(n).unwrap_or(std::num::NonZeroUsize::MIN)
}

impl Ops {
    /// The filesystem over `view`, with the snapshots it has now.
    ///
    /// # Errors
    /// What the view gives.
    pub fn new(view: Arc<dyn View>, appearance: Appearance) -> Result<Ops> {
        let version = view.version()?;
        let by_tenant = view.by_tenant();
        let layout = Arc::new(Layout::new(view.snapshots()?, by_tenant, None));
        let source = view.source();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Ok(Ops {
            prefetch: Prefetch::new(source.clone(), appearance.threads),
            view,
            source,
            appearance,
            layout: RwLock::new((version, layout)),
            table: Table::default(),
            listings: Arc::default(),
            roots: Mutex::new(LruCache::new(capacity(ROOTS))),
            counts: Mutex::new(LruCache::new(capacity(COUNTS))),
            names: Mutex::new(LruCache::new(capacity(8))),
            by_tenant,
            usage: Mutex::default(),
            reported: Mutex::default(),
            started: i64::try_from(now.as_nanos()).unwrap_or(i64::MAX),
        })
    }

    /// Looks whether snapshots came or went, and shows them; returns what the kernel must forget.
    ///
    /// # Errors
    /// What the view gives; everything stays as it is then.
    pub fn refresh(&self) -> Result<Vec<Change>> {
        let version = self.view.version()?;
        let (shown, old) = self.layout.read().clone();
        if version == shown {
            return Ok(Vec::new());
        }
        let next = Arc::new(Layout::new(self.view.snapshots()?, self.by_tenant, Some(&old)));
        let mut changes = old.changes(&next);
        if !changes.is_empty() {
            changes.extend(old.version_roots().chain(self.table.unions()).map(Change::Listing));
        }
        *self.layout.write() = (version, next);
        Ok(changes)
    }

    /// Captured entries that the kernel holds.
    pub fn held(&self) -> usize {
        self.table.len()
    }

    /// The kernel gives back `lookups` of an inode.
    pub fn forget(&self, ino: u64, lookups: u64) {
        if is_captured(ino) {
            self.table.forget(ino, lookups);
        }
    }

    /// Bytes stored and free.
    pub fn usage(&self) -> Usage {
        let mut known = self.usage.lock();
        match *known {
            Some((at, usage)) if at.elapsed() < USAGE_FOR => usage,
            _ => {
                let usage = self.view.usage().unwrap_or_default();
                *known = Some((Instant::now(), usage));
                usage
            }
        }
    }

    fn layout(&self) -> Arc<Layout> {
        self.layout.read().1.clone()
    }

    fn thing(&self, ino: u64) -> Outcome<Thing> {
        if is_captured(ino) {
            return self.captured(ino).map(Thing::Node);
        }
        let layout = self.layout();
        if layout.dir(ino).is_some() {
            return Ok(Thing::Dir(layout, ino));
        }
        match layout.item(ino).map(|(dir, item)| (dir, item.target)) {
            Some((_, Target::Link(depth, index))) => Ok(Thing::Link(layout, depth, index)),
            Some((dir, Target::Snapshot(index))) => Ok(Thing::Node(self.root(&layout, ino, dir, index)?)),
            Some((dir, Target::Versions(source_dir))) => Ok(Thing::Node(self.versions(&layout, ino, dir, source_dir))),
            // Forgotten, but somebody is still in it.
            _ => self.roots.lock().get(&ino).cloned().map(Thing::Node).ok_or(Fail::Stale),
        }
    }

    /// A captured entry that the kernel holds; reads its directory unless the entry was used lately.
    fn captured(&self, ino: u64) -> Outcome<Arc<Node>> {
        match self.table.get(ino).ok_or(Fail::Stale)? {
            Known::Node(node) => Ok(node),
            Known::At(parent, position) => {
                let dir = parent.dir().ok_or(Fail::Stale)?;
                let read = || {
                    let piece = self.listings.at(&*self.source, dir, position)?;
                    let found = position.checked_sub(piece.start).and_then(|i| piece.entries.get(i as usize)).cloned();
                    found.ok_or_else(|| Error::damaged("a directory is shorter than it was"))
                };
                let entry = self.told(&parent, read().map_err(Fail::Repo))?;
                Ok(self.table.found(ino, Node::child(&parent, position, entry)))
            }
        }
    }

    /// A snapshot's root; reads the manifest unless it was read lately.
    fn root(&self, layout: &Layout, ino: u64, up: u64, index: u32) -> Outcome<Arc<Node>> {
        if let Some(node) = self.roots.lock().get(&ino) {
            return Ok(node.clone());
        }
        let snap = layout.snap(index);
        let path = snap.path();
        match self.view.manifest(&snap.info.id) {
            Ok(manifest) => {
                let node = Arc::new(Node::root(up, &path, snap.info.id, manifest.root));
                self.roots.lock().put(ino, node.clone());
                Ok(node)
            }
            // Forgotten and removed since the last refresh, which only a repository that can be reached can tell.
            Err(e) if e.kind() == Kind::NotFound && self.is_gone(&snap.info.id) => Err(Fail::Stale),
            Err(e) => {
                self.report(ino, || path, &e);
                Err(e.into())
            }
        }
    }

    /// Whether the repository says that it no longer has the snapshot.
    fn is_gone(&self, id: &SnapshotId) -> bool {
        let now = self.view.version().and_then(|_| self.view.snapshots());
        now.is_ok_and(|snapshots| snapshots.iter().all(|s| s.id != *id))
    }

    fn versions(&self, layout: &Layout, ino: u64, up: u64, source_dir: u64) -> Arc<Node> {
        if let Some(node) = self.roots.lock().get(&ino) {
            return node.clone();
        }
        let history = layout.history(source_dir);
        let path = history.first().map_or_else(String::new, |snap| snap.versions());
        let slot = crate::versions::Slot::new(source_dir);
        let node = Arc::new(Node::union(None, up, ino, path.as_bytes(), slot));
        self.roots.lock().put(ino, node.clone());
        node
    }

    /// Tells the user once that something cannot be served.
    fn report(&self, ino: u64, path: impl FnOnce() -> String, error: &Error) {
        let mut reported = self.reported.lock();
        if reported.len() < REPORTS && reported.insert(ino) {
            drop(reported);
            self.view.report(&path(), error);
        }
    }

    /// Passes an answer on, telling the user if the repository could not give it.
    fn told<T>(&self, node: &Node, answer: Outcome<T>) -> Outcome<T> {
        if let Err(Fail::Repo(error)) = &answer {
            self.report(node.ino, || node.path(), error);
        }
        answer
    }

    /// Attributes of an inode, in full.
    ///
    /// # Errors
    /// `Stale` for an inode that is not shown any more; `Repo` when a manifest cannot be read.
    pub fn getattr(&self, ino: u64) -> Outcome<Looked> {
        match self.thing(ino)? {
            Thing::Dir(layout, ino) => Ok(self.dir_attr(&layout, ino)),
            Thing::Link(layout, depth, index) => Ok(self.link_attr(&layout, ino, depth, index)),
            Thing::Node(node) => {
                self.told(&node, self.complete(&node))?;
                self.count(&node);
                Ok(self.node_attr(&node))
            }
        }
    }

    fn dir_attr(&self, layout: &Layout, ino: u64) -> Looked {
        let mtime = layout.dir(ino).map_or(0, |d| d.mtime);
        // An empty repository's directories are as old as the mount.
        let mtime = file_time(if mtime == 0 { self.started } else { mtime });
        self.synthetic(ino, EntryType::Dir, 0, mtime)
    }

    fn link_attr(&self, layout: &Layout, ino: u64, depth: u8, index: u32) -> Looked {
        let size = layout.link(depth, index).len() as u64;
        self.synthetic(ino, EntryType::Symlink, size, file_time(layout.snap(index).info.captured))
    }

    fn synthetic(&self, ino: u64, kind: EntryType, size: u64, mtime: repo::format::tree::FileTime) -> Looked {
        let captured = if kind == EntryType::Dir { 0o555 } else { 0o777 };
        let (uid, gid) = self.appearance.owner;
        let mut attr = Attr { ino, size, blocks: 0, mtime, kind, perm: captured, nlink: 1, uid, gid, rdev: 0 };
        self.present(&mut attr);
        Looked { attr, name_for: attr::A_WHILE, attr_for: attr::A_WHILE }
    }

    fn present(&self, attr: &mut Attr) {
        if let Some(p) = &self.appearance.presentation {
            attr.perm = p.mode(attr.kind, u32::from(attr.perm)) as u16;
            (attr.uid, attr.gid) = (p.uid, p.gid);
        }
    }

    /// A captured entry's attributes as far as they are known without reading.
    fn node_attr(&self, node: &Node) -> Looked {
        if let Body::Union(slot) = &node.body {
            return self.union_attr(node, slot);
        }
        let m = &node.meta;
        let known = self.known_bytes(node);
        let blocks = match m.kind {
            EntryType::File => attr::blocks(m.size, known.unwrap_or(m.size)),
            EntryType::Dir => 8,
            _ => 0,
        };
        let size = if m.kind == EntryType::Dir { 4096 } else { m.size };
        let nlink = if node.linked { 2 } else { 1 };
        let perm = (m.mode & 0o7777) as u16;
        let (uid, gid, mtime, rdev) = (m.uid, m.gid, m.mtime, m.rdev);
        let mut attr = Attr { ino: node.ino, size, blocks, mtime, kind: m.kind, perm, nlink, uid, gid, rdev };
        self.present(&mut attr);
        let attr_for = if known.is_some() { attr::FOREVER } else { Duration::ZERO };
        // A snapshot's root goes when the snapshot is forgotten.
        let name_for = if node.parent.is_some() { attr::FOREVER } else { attr::A_WHILE };
        let in_union = node.parent.as_ref().is_some_and(|p| matches!(p.body, Body::Union(_)));
        Looked { attr, name_for: if in_union { attr::SHORT } else { name_for }, attr_for }
    }

    fn known_bytes(&self, node: &Node) -> Option<u64> {
        attr::data_bytes(node).or_else(|| {
            let Body::File(repo::format::tree::Content::Indexed { h, .. }) = &node.body else { return None };
            let bytes = self.counts.lock().get(h).copied()?;
            node.set_counted(bytes);
            Some(bytes)
        })
    }

    /// Counts the bytes outside holes of a file with index nodes. If they cannot be read the file passes for one
    /// without holes: what is damaged shows when it is read.
    fn count(&self, node: &Node) {
        use repo::format::tree::{Content, Extent};
        let Body::File(content @ Content::Indexed { h, .. }) = &node.body else { return };
        if self.known_bytes(node).is_some() {
            return;
        }
        let sum = repo::tree::file::extents(&*self.source, content, 0).try_fold(0u64, |sum, next| match next?.1 {
            Extent::Data { len, .. } => Ok(sum.saturating_add(len)),
            Extent::Hole { .. } => Ok::<u64, Error>(sum),
        });
        match sum {
            Ok(bytes) => {
                node.set_counted(bytes);
                self.counts.lock().put(*h, bytes);
            }
            Err(e) => self.report(node.ino, || node.path(), &e),
        }
    }
}
