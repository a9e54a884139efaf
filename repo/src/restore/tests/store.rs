//! Chunks in memory, trees built over them, and what a directory really holds.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::crypto::hash::{ChunkKind, content_hash};
use crate::error::{Error, Result};
use crate::format::tree::{Content, Entry, EntryType, Extent, FileTime, XattrValue};
use crate::id::ContentHash;
use crate::monitor::{Monitor, Recording};
use crate::pack::source::{Chunk, FrameSource};
use crate::path::SnapPath;
use crate::restore::{Options, Outcome, restore_from};
use crate::tree::builder::{ChunkSink, DirBuilder, FileBuilder};

/// Chunks in memory.
#[derive(Default)]
pub struct Store {
    chunks: HashMap<[u8; 32], Arc<Vec<u8>>>,
    /// Chunks handed out.
    pub read: AtomicU64,
}

impl ChunkSink for Store {
    fn put(&mut self, kind: ChunkKind, bytes: Vec<u8>) -> Result<ContentHash> {
        let h = content_hash(kind, &bytes);
        self.chunks.insert(*h.expose(), Arc::new(bytes));
        Ok(h)
    }
}

impl FrameSource for Store {
    fn chunk(&self, h: &ContentHash, kind: ChunkKind) -> Result<Chunk> {
        if kind == ChunkKind::Data {
            self.read.fetch_add(1, Ordering::Relaxed);
        }
        let bytes = self.chunks.get(h.expose()).ok_or_else(|| Error::damaged("a chunk is in no pack"))?;
        Ok(Chunk::new(Arc::clone(bytes), 0..bytes.len()))
    }

    fn prefetch(&self, _: &[(ContentHash, ChunkKind)]) {}
}

impl Store {
    /// Loses the chunk with these bytes.
    pub fn lose(&mut self, bytes: &[u8]) {
        assert!(self.chunks.remove(content_hash(ChunkKind::Data, bytes).expose()).is_some());
    }

    /// Content cut every `cut` bytes; whole runs of zeros of that length become holes.
    pub fn content(&mut self, bytes: &[u8], cut: usize) -> Content {
        if bytes.len() <= 32 {
            return Content::Inline(bytes.to_vec());
        }
        let mut file = FileBuilder::new();
        for piece in bytes.chunks(cut) {
            let len = piece.len() as u64;
            let extent = match piece.iter().all(|b| *b == 0) {
                true => Extent::Hole { len },
                false => Extent::Data { h: self.put(ChunkKind::Data, piece.to_vec()).unwrap(), len },
            };
            file.push(self, extent).unwrap();
        }
        file.finish(self).unwrap()
    }

    /// A directory of these entries.
    pub fn dir(&mut self, name: &[u8], mut entries: Vec<Entry>) -> Entry {
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let mut dir = DirBuilder::new();
        for entry in &entries {
            dir.push(self, entry).unwrap();
        }
        let content = Content::Dir(dir.finish(self).unwrap());
        Entry { mode: 0o755, content, ..own(name, EntryType::Dir) }
    }

    /// A file.
    pub fn file(&mut self, name: &[u8], bytes: &[u8]) -> Entry {
        let content = self.content(bytes, 1000);
        Entry { mode: 0o640, size: bytes.len() as u64, content, ..own(name, EntryType::File) }
    }
}

/// An entry that belongs to whoever runs the tests.
pub fn own(name: &[u8], kind: EntryType) -> Entry {
    let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let mtime = FileTime { secs: 1_234_567_890, nanos: 123_456_789 };
    Entry { uid, gid, mtime, ..Entry::new(name, kind) }
}

/// A symbolic link.
pub fn symlink(name: &[u8], target: &[u8]) -> Entry {
    let size = target.len() as u64;
    Entry { mode: 0o777, target: target.to_vec(), size, ..own(name, EntryType::Symlink) }
}

/// Restores all of `root`; the outcome and what was reported.
pub fn restore(store: &Arc<Store>, root: &Entry, target: &Path, options: &Options) -> (Result<Outcome>, Vec<String>) {
    let monitor = Recording::default();
    let done = restore_with(store, root, "", target, options, &monitor);
    (done, monitor.lines())
}

/// As [`restore`], of a part and with a monitor.
pub fn restore_with(
    store: &Arc<Store>,
    root: &Entry,
    path: &str,
    target: &Path,
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<Outcome> {
    let source: Arc<dyn FrameSource> = Arc::clone(store) as _;
    let path = SnapPath::new(path.as_bytes()).unwrap();
    restore_from(&source, &|_| None, root, &path, target, options, monitor)
}

/// As [`restore`], where nothing may go wrong.
pub fn restore_well(store: &Arc<Store>, root: &Entry, target: &Path, options: &Options) -> Outcome {
    let (done, lines) = restore(store, root, target, options);
    let done = done.unwrap_or_else(|e| panic!("{e}: {lines:?}"));
    assert_eq!(done.errors, 0, "{lines:?}");
    done
}

/// One thing in a directory, as one line for comparison.
pub type Listing = BTreeMap<Vec<u8>, String>;

/// What really is below `dir`.
pub fn real(dir: &Path) -> Listing {
    let mut out = Listing::new();
    let mut first = HashMap::new();
    walk(dir, &mut Vec::new(), &mut out, &mut first);
    out
}

fn walk(dir: &Path, prefix: &mut Vec<u8>, out: &mut Listing, first: &mut HashMap<u64, Vec<u8>>) {
    let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    for name in names {
        let (path, len) = (dir.join(&name), prefix.len());
        prefix.push(b'/');
        prefix.extend_from_slice(name.as_bytes());
        let meta = std::fs::symlink_metadata(&path).unwrap();
        let kind = meta.file_type();
        let mut line =
            format!("{:o} {}:{} {}.{}", meta.mode(), meta.uid(), meta.gid(), meta.mtime(), meta.mtime_nsec());
        if kind.is_file() {
            line += &format!(" {} {}", meta.size(), blake3::hash(&read(&path)).to_hex());
            if meta.nlink() > 1 {
                let first = first.entry(meta.ino()).or_insert_with(|| prefix.clone());
                line += &format!(" = {}", String::from_utf8_lossy(first));
            }
        } else if kind.is_symlink() {
            line += &format!(" -> {:?}", std::fs::read_link(&path).unwrap());
        } else if kind.is_char_device() || kind.is_block_device() {
            line += &format!(" {:x}", meta.rdev());
        }
        let mut names = xattr::list(&path).map_or_else(|_| Vec::new(), |l| l.collect::<Vec<_>>());
        names.sort();
        for name in names.iter().filter(|n| !n.as_bytes().starts_with(b"security.selinux")) {
            let value = xattr::get(&path, name).unwrap().unwrap();
            line += &format!(" {name:?}={}", blake3::hash(&value).to_hex());
        }
        out.insert(prefix.clone(), line);
        if kind.is_dir() {
            walk(&path, prefix, out, first);
        }
        prefix.truncate(len);
    }
}

fn read(path: &Path) -> Vec<u8> {
    let file = std::fs::File::open(path).unwrap();
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// What a snapshot says should be below the target.
pub fn expected(store: &Store, root: &Entry) -> Listing {
    let mut out = Listing::new();
    expect(store, root, &mut Vec::new(), &mut out, &mut HashMap::new());
    out
}

fn expect(
    store: &Store,
    dir: &Entry,
    prefix: &mut Vec<u8>,
    out: &mut Listing,
    first: &mut HashMap<[u8; 32], (Vec<u8>, u32)>,
) {
    let Content::Dir(list) = &dir.content else { panic!("no directory") };
    for entry in crate::tree::dir::entries(store, list, 0) {
        let (entry, len) = (entry.unwrap(), prefix.len());
        prefix.push(b'/');
        prefix.extend_from_slice(&entry.name);
        let bits = match entry.kind {
            EntryType::File => libc::S_IFREG,
            EntryType::Dir => libc::S_IFDIR,
            EntryType::Symlink => libc::S_IFLNK,
            EntryType::Fifo => libc::S_IFIFO,
            EntryType::Socket => libc::S_IFSOCK,
            EntryType::CharDevice => libc::S_IFCHR,
            EntryType::BlockDevice => libc::S_IFBLK,
        };
        let time = entry.mtime;
        let mode = entry.mode | bits;
        let mut line = format!("{mode:o} {}:{} {}.{}", entry.uid, entry.gid, time.secs, time.nanos);
        match entry.kind {
            EntryType::File => {
                let mut bytes = vec![0; entry.size as usize];
                crate::tree::file::read_at(store, &entry.content, 0, &mut bytes).unwrap();
                line += &format!(" {} {}", entry.size, blake3::hash(&bytes).to_hex());
                if let Some(group) = entry.link_group {
                    let first = first.entry(group).or_insert_with(|| (prefix.clone(), 0));
                    line += &format!(" = {}", String::from_utf8_lossy(&first.0));
                }
            }
            EntryType::Symlink => {
                line += &format!(" -> {:?}", Path::new(std::ffi::OsStr::from_bytes(&entry.target)));
            }
            EntryType::CharDevice | EntryType::BlockDevice => line += &format!(" {:x}", entry.rdev),
            _ => {}
        }
        for (name, value) in &entry.xattrs {
            let value = match value {
                XattrValue::Inline(bytes) => bytes.clone(),
                XattrValue::Chunk { h, .. } => store.chunk(h, ChunkKind::Data).unwrap().to_vec(),
            };
            line += &format!(" {:?}={}", std::ffi::OsStr::from_bytes(name), blake3::hash(&value).to_hex());
        }
        out.insert(prefix.clone(), line);
        if entry.kind == EntryType::Dir {
            expect(store, &entry, prefix, out, first);
        }
        prefix.truncate(len);
    }
}

/// Bytes that do not repeat.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// Fails with just the lines that differ.
#[track_caller]
pub fn assert_same(real: &Listing, expected: &Listing) {
    let lines = |l: &Listing| -> Vec<String> {
        l.iter().map(|(name, line)| format!("{} {line}", String::from_utf8_lossy(name))).collect()
    };
    let (real, expected) = (lines(real), lines(expected));
    let more: Vec<_> = real.iter().filter(|l| !expected.contains(l)).collect();
    let less: Vec<_> = expected.iter().filter(|l| !real.contains(l)).collect();
    assert!(more.is_empty() && less.is_empty(), "there: {more:#?}\nexpected: {less:#?}");
}
