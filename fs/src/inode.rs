//! A captured entry in use, with all that is asked about it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use repo::format::tree::{Content, DirRef, Entry, EntryType, FileTime, XattrValue};
use repo::id::SnapshotId;

use crate::number::Hash;
use crate::versions;

/// What a node is, beyond its attributes.
pub enum Body {
    /// A captured directory.
    Dir(DirRef),
    /// A regular file.
    File(Content),
    /// A symbolic link's target.
    Symlink(Box<[u8]>),
    /// A device node, fifo or socket.
    Special,
    /// A directory of versions; what it lists is found when asked for.
    Union(versions::Slot),
}

/// What of an entry `stat` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// What it is.
    pub kind: EntryType,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last modification.
    pub mtime: FileTime,
    /// Length.
    pub size: u64,
    /// Device number, as `makedev` gives it.
    pub rdev: u64,
}

/// Which of several entries an inode number stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Identity {
    Child(u64, Box<[u8]>),
    Group(SnapshotId, Box<[u8; 32]>),
}

/// A captured entry in use. Keeps its parents alive, so its path is always known.
pub struct Node {
    /// Its inode.
    pub ino: u64,
    /// The parent's inode.
    pub up: u64,
    /// The parent; none for a snapshot's root, whose name is then its whole path below the mount point.
    pub parent: Option<Arc<Node>>,
    /// Its name in the parent.
    pub name: Box<[u8]>,
    /// The snapshot it belongs to; for a union, any.
    pub snapshot: Arc<SnapshotId>,
    /// The key of the numbers of a directory's children.
    pub key: u64,
    /// Its position in its directory.
    pub position: u64,
    /// Attributes as captured.
    pub meta: Meta,
    /// Whether it is one of several names.
    pub linked: bool,
    /// Extended attributes as captured.
    pub xattrs: Box<[(Vec<u8>, XattrValue)]>,
    /// The rest.
    pub body: Body,
    /// Bytes that are not in holes, plus one; 0 while not counted.
    pub data_bytes: AtomicU64,
    pub(crate) identity: Identity,
}

impl Node {
    /// A snapshot's root. `path` leads there from the mount point.
    pub fn root(up: u64, path: &str, id: SnapshotId, entry: Entry) -> Node {
        let mut node = Node::from_entry(None, up, path.as_bytes(), Arc::new(id), 0, entry);
        node.ino = Hash::snapshot(&id);
        node.key = node.ino;
        node
    }

    /// The entry at `position` of the directory `parent`.
    pub fn child(parent: &Arc<Node>, position: u64, entry: Entry) -> Node {
        let name = entry.name.clone();
        Node::from_entry(Some(parent.clone()), parent.ino, &name, parent.snapshot.clone(), position, entry)
    }

    /// A version of a file, in the union `parent`, under another name than its own.
    pub fn version(parent: &Arc<Node>, name: &[u8], id: &SnapshotId, digest: &[u8; 32], mut entry: Entry) -> Node {
        entry.link_group = None;
        let mut node = Node::from_entry(Some(parent.clone()), parent.ino, name, Arc::new(*id), 0, entry);
        node.ino = Hash::version(parent.ino, name, digest);
        node
    }

    /// A directory of versions.
    pub fn union(parent: Option<&Arc<Node>>, up: u64, ino: u64, name: &[u8], slot: versions::Slot) -> Node {
        let snapshot = parent.map_or_else(|| Arc::new(SnapshotId([0; 32])), |p| p.snapshot.clone());
        let mut dir = Entry::new(name, EntryType::Dir);
        dir.content = Content::Dir(DirRef::empty());
        let mut node = Node::from_entry(parent.cloned(), up, name, snapshot, 0, dir);
        node.body = Body::Union(slot);
        node.ino = ino;
        node
    }

    /// The inode of a union's child.
    pub fn union_ino(parent: u64, name: &[u8]) -> u64 {
        Hash::version(parent, name, &[])
    }

    fn from_entry(
        parent: Option<Arc<Node>>,
        up: u64,
        name: &[u8],
        snapshot: Arc<SnapshotId>,
        position: u64,
        entry: Entry,
    ) -> Node {
        let (ino, identity) = match &entry.link_group {
            Some(group) if entry.kind != EntryType::Dir => {
                (Hash::group(&snapshot, group), Identity::Group(*snapshot, Box::new(*group)))
            }
            _ => {
                let key = parent.as_ref().map_or(0, |p| p.key);
                (Hash::position(key, position), Identity::Child(up, name.into()))
            }
        };
        let meta = meta(&entry);
        let key = match entry.kind {
            EntryType::Dir => Hash::key(parent.as_ref().map_or(0, |p| p.key), name),
            _ => 0,
        };
        let linked = matches!(identity, Identity::Group(..));
        let mut xattrs = entry.xattrs;
        xattrs.shrink_to_fit();
        let body = match entry.content {
            Content::Dir(dir) => Body::Dir(dir),
            Content::None if entry.kind == EntryType::Symlink => Body::Symlink(entry.target.into()),
            Content::None => Body::Special,
            content => Body::File(content),
        };
        let (name, xattrs) = (name.into(), xattrs.into());
        let data_bytes = AtomicU64::new(0);
        Node { ino, up, parent, name, snapshot, key, position, meta, linked, xattrs, body, data_bytes, identity }
    }

    /// Where it is, relative to the mount point, as one line of text.
    pub fn path(&self) -> String {
        let mut parts = vec![&self.name];
        let mut at = self.parent.as_ref();
        while let Some(node) = at {
            parts.push(&node.name);
            at = node.parent.as_ref();
        }
        let joined: Vec<u8> = parts.into_iter().rev().map(|p| &p[..]).collect::<Vec<_>>().join(&b'/');
        repo::error::printable(std::path::Path::new(std::ffi::OsStr::new(&*String::from_utf8_lossy(&joined))))
    }

    /// Where it can be found again: in which captured directory, and where in it. None for directories, which are kept
    /// for what is below them, for files with several names, and for versions.
    pub(crate) fn place(&self) -> Option<(&Arc<Node>, u64)> {
        let found_by_place = !self.linked && matches!(self.body, Body::File(_) | Body::Symlink(_) | Body::Special);
        let parent = self.parent.as_ref().filter(|parent| parent.dir().is_some());
        parent.filter(|_| found_by_place).map(|parent| (parent, self.position))
    }

    /// The directory listing it has, if it is a captured directory.
    pub fn dir(&self) -> Option<&DirRef> {
        match &self.body {
            Body::Dir(dir) => Some(dir),
            _ => None,
        }
    }
}

fn meta(entry: &Entry) -> Meta {
    let Entry { kind, mode, uid, gid, mtime, size, rdev, .. } = *entry;
    let size = if kind == EntryType::Symlink { entry.target.len() as u64 } else { size };
    Meta { kind, mode, uid, gid, mtime, size, rdev }
}

impl Node {
    /// The counted bytes outside holes, if they were counted.
    pub fn counted(&self) -> Option<u64> {
        self.data_bytes.load(Ordering::Relaxed).checked_sub(1)
    }

    /// Remembers the count.
    pub fn set_counted(&self, bytes: u64) {
        self.data_bytes.store(bytes.saturating_add(1), Ordering::Relaxed);
    }
}
