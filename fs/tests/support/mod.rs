//! A repository in memory: chunks, snapshots that come and go, damage on demand.
#![allow(dead_code)]

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use fs::errno::errno;
use fs::number::ROOT;
use fs::ops::{Appearance, Found, Listed, Ops, Presentation};
use fs::view::{SnapshotInfo, Usage, View};
use parking_lot::Mutex;
use repo::crypto::hash::{ChunkKind, content_hash};
use repo::error::{Error, Kind, Result};
use repo::format::manifest::{Manifest, Stats};
use repo::format::node::{DirChild, FileChild, NodeWriter};
use repo::format::tree::{Content, DirRef, Entry, EntryType, Extent, FileTime, XattrValue};
use repo::id::{ContentHash, SnapshotId};
use repo::pack::source::{Chunk, FrameSource};

type Chunks = HashMap<(ContentHash, u8), Arc<Vec<u8>>>;

#[derive(Default)]
pub struct Store {
    chunks: Mutex<Chunks>,
    damaged: Mutex<HashSet<ContentHash>>,
    pub reads: AtomicU64,
}

impl Store {
    pub fn put(&self, kind: ChunkKind, bytes: Vec<u8>) -> ContentHash {
        let h = content_hash(kind, &bytes);
        self.chunks.lock().insert((h, kind as u8), Arc::new(bytes));
        h
    }

    pub fn damage(&self, h: ContentHash) {
        self.damaged.lock().insert(h);
    }

    /// A file of `bytes` in chunks of `chunk`, each `None` a hole of `chunk` bytes.
    pub fn pieces(&self, pieces: &[Option<Vec<u8>>], chunk: usize) -> (Content, u64) {
        let extents: Vec<Extent> = pieces
            .iter()
            .map(|p| match p {
                Some(bytes) => Extent::Data { h: self.put(ChunkKind::Data, bytes.clone()), len: bytes.len() as u64 },
                None => Extent::Hole { len: chunk as u64 },
            })
            .collect();
        let size = extents.iter().map(Extent::len).sum();
        if extents.len() <= 8 {
            return (Content::Extents(extents), size);
        }
        // Three extents a node, three nodes a parent: deep trees from small files.
        let mut level: Vec<FileChild> = extents
            .chunks(3)
            .map(|some| {
                let mut w = NodeWriter::extents();
                some.iter().for_each(|e| w.extent(e));
                FileChild { len: some.iter().map(Extent::len).sum(), h: self.put(ChunkKind::Node, w.into_vec()) }
            })
            .collect();
        let mut depth = 0;
        while level.len() > 1 {
            level = level
                .chunks(3)
                .map(|some| {
                    let mut w = NodeWriter::file();
                    some.iter().for_each(|c| w.file_child(c));
                    FileChild { len: some.iter().map(|c| c.len).sum(), h: self.put(ChunkKind::Node, w.into_vec()) }
                })
                .collect();
            depth += 1;
        }
        (Content::Indexed { h: level[0].h, depth }, size)
    }

    pub fn file(&self, name: &str, bytes: &[u8]) -> Entry {
        let mut e = Entry::new(name, EntryType::File);
        e.mode = 0o644;
        e.mtime = FileTime { secs: 1_700_000_000, nanos: 123_456_789 };
        e.size = bytes.len() as u64;
        e.content = if bytes.len() <= 200 {
            Content::Inline(bytes.to_vec())
        } else {
            let pieces: Vec<_> = bytes.chunks(4096).map(|c| Some(c.to_vec())).collect();
            self.pieces(&pieces, 4096).0
        };
        e
    }

    pub fn dir(&self, name: &str, mut entries: Vec<Entry>) -> Entry {
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let mut e = Entry::new(name, EntryType::Dir);
        e.mode = 0o755;
        e.mtime = FileTime { secs: 1_600_000_000, nanos: 0 };
        e.content = Content::Dir(self.listing(&entries));
        e
    }

    fn listing(&self, entries: &[Entry]) -> DirRef {
        if entries.is_empty() {
            return DirRef::empty();
        }
        let mut level: Vec<DirChild> = entries
            .chunks(if entries.len() > 1000 { 120 } else { 7 })
            .map(|some| {
                let mut bytes = Vec::new();
                some.iter().for_each(|e| e.encode(&mut bytes));
                let h = self.put(ChunkKind::Tree, bytes);
                DirChild { first: some[0].name.clone(), entries: some.len() as u64, h }
            })
            .collect();
        let mut depth = 0;
        while level.len() > 1 {
            level = level
                .chunks(if entries.len() > 1000 { 200 } else { 3 })
                .map(|some| {
                    let mut w = NodeWriter::dir();
                    some.iter().for_each(|c| w.dir_child(c));
                    let h = self.put(ChunkKind::Node, w.into_vec());
                    DirChild { first: some[0].first.clone(), entries: some.iter().map(|c| c.entries).sum(), h }
                })
                .collect();
            depth += 1;
        }
        DirRef { entries: entries.len() as u64, depth, h: level[0].h }
    }

    pub fn long_xattr(&self, bytes: &[u8]) -> XattrValue {
        XattrValue::Chunk { h: self.put(ChunkKind::Data, bytes.to_vec()), len: bytes.len() as u32 }
    }
}

impl FrameSource for Store {
    fn chunk(&self, h: &ContentHash, kind: ChunkKind) -> Result<Chunk> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if self.damaged.lock().contains(h) {
            return Err(Error::damaged("does not verify").at("packs/ab/abc"));
        }
        let found = self.chunks.lock().get(&(*h, kind as u8)).cloned();
        let bytes = found.ok_or_else(|| Error::damaged("no pack holds a chunk"))?;
        let len = bytes.len();
        Ok(Chunk::new(bytes, 0..len))
    }

    fn prefetch(&self, _: &[(ContentHash, ChunkKind)]) {}
}

#[derive(Default)]
pub struct Memory {
    pub store: Arc<Store>,
    state: Mutex<HashMap<SnapshotId, (SnapshotInfo, Manifest)>>,
    version: AtomicU64,
    pub manifests: AtomicU64,
    pub reports: Mutex<Vec<String>>,
    pub by_tenant: AtomicBool,
}

/// 2026-11-22T09-51-56Z
pub const T0: i64 = 1_795_341_116 * SECOND;
pub const SECOND: i64 = 1_000_000_000;

pub fn id(n: u8) -> SnapshotId {
    SnapshotId([n; 32])
}

impl Memory {
    pub fn new() -> Arc<Memory> {
        Arc::new(Memory::default())
    }

    pub fn add(&self, id: SnapshotId, host: &str, source: &str, captured: i64, tags: &[&str], root: Entry) {
        self.add_of(None, id, host, source, captured, tags, root);
    }

    /// As `add`, of a tenant.
    #[allow(clippy::too_many_arguments)]
    pub fn add_of(
        &self,
        tenant: Option<&str>,
        id: SnapshotId,
        host: &str,
        source: &str,
        captured: i64,
        tags: &[&str],
        root: Entry,
    ) {
        let tags: Vec<String> = tags.iter().map(|t| t.to_string()).collect();
        let (host, source) = (host.to_owned(), source.to_owned());
        let info = SnapshotInfo {
            id,
            tenant: tenant.map(Into::into),
            host: host.clone(),
            source: source.clone(),
            captured,
            order: (captured + 5 * SECOND, 0),
            tags: tags.clone(),
        };
        let manifest = Manifest {
            id,
            host,
            source,
            username: String::new(),
            program: String::new(),
            paths: Vec::new(),
            tags,
            captured,
            captured_end: captured,
            recorded: captured,
            parent: None,
            root,
            sidecar: None,
            stats: Stats::default(),
            origin: None,
        };
        self.state.lock().insert(id, (info, manifest));
        self.version.fetch_add(1, Ordering::SeqCst);
    }

    pub fn forget(&self, id: SnapshotId) {
        self.state.lock().remove(&id);
        self.version.fetch_add(1, Ordering::SeqCst);
    }
}

impl View for Memory {
    fn version(&self) -> Result<u64> {
        Ok(self.version.load(Ordering::SeqCst))
    }

    fn snapshots(&self) -> Result<Vec<SnapshotInfo>> {
        Ok(self.state.lock().values().map(|(info, _)| info.clone()).collect())
    }

    fn by_tenant(&self) -> bool {
        self.by_tenant.load(Ordering::SeqCst)
    }

    fn manifest(&self, id: &SnapshotId) -> Result<Manifest> {
        self.manifests.fetch_add(1, Ordering::SeqCst);
        let found = self.state.lock().get(id).map(|(_, m)| m.clone());
        found.ok_or_else(|| Error::new(Kind::NotFound, "no such snapshot"))
    }

    fn source(&self) -> Arc<dyn FrameSource> {
        self.store.clone()
    }

    fn usage(&self) -> Result<Usage> {
        Ok(Usage { stored: 1 << 30, free: 3 << 30 })
    }

    fn report(&self, path: &str, error: &Error) {
        self.reports.lock().push(format!("{path}: {error}"));
    }
}

pub fn ops(memory: &Arc<Memory>) -> Ops {
    presented(memory, None)
}

pub fn presented(memory: &Arc<Memory>, presentation: Option<Presentation>) -> Ops {
    Ops::new(memory.clone(), Appearance { owner: (7, 8), presentation, threads: 1 }).unwrap()
}

pub fn walk(ops: &Ops, path: &str) -> u64 {
    path.split('/').filter(|p| !p.is_empty()).fold(ROOT, |at, name| match ops.lookup(at, name.as_bytes()).unwrap() {
        Found::Entry(found) => found.attr.ino,
        _ => panic!("no {name} in {path}"),
    })
}

pub fn list(ops: &Ops, ino: u64) -> Vec<Listed> {
    let (mut out, mut at) = (Vec::new(), 0);
    loop {
        let mut listing = ops.list(ino, at).unwrap();
        let before = out.len();
        // Few at a time, as the kernel does.
        while let Some(entry) = ops.next(&mut listing) {
            if out.len() - before == 5 {
                ops.unlist(&entry);
                break;
            }
            at = entry.next;
            out.push(entry);
        }
        if out.len() == before {
            assert_eq!((&out[0].name[..], &out[1].name[..]), (&b"."[..], &b".."[..]));
            return out.split_off(2);
        }
    }
}

pub fn names(ops: &Ops, path: &str) -> Vec<String> {
    let mut names: Vec<_> =
        list(ops, walk(ops, path)).iter().map(|e| String::from_utf8_lossy(&e.name).into_owned()).collect();
    names.sort();
    names
}

pub fn read_all(ops: &Ops, ino: u64, step: u32) -> std::result::Result<Vec<u8>, i32> {
    let (mut out, mut scratch) = (Vec::new(), Vec::new());
    loop {
        let got = ops.read(ino, out.len() as u64, step, &mut scratch).map_err(|e| errno(&e))?.to_vec();
        if got.is_empty() {
            return Ok(out);
        }
        out.extend(got);
    }
}

/// A mount on a temporary directory that is unmounted whatever happens.
pub struct Mount {
    pub mounted: Option<fs::session::Mounted>,
    dir: Option<tempfile::TempDir>,
}

impl Mount {
    pub fn new(view: Arc<dyn View>, change: impl FnOnce(&mut fs::session::Options)) -> Mount {
        assert!(Path::new("/dev/fuse").exists(), "these tests need /dev/fuse and the right to mount");
        let dir = tempfile::tempdir().unwrap();
        let refresh = std::time::Duration::from_millis(50);
        let mut options = fs::session::Options { name: "test, of mounts".into(), refresh, ..Default::default() };
        change(&mut options);
        let mounted = fs::session::mount(view, dir.path(), &options).unwrap();
        Mount { mounted: Some(mounted), dir: Some(dir) }
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.as_ref().unwrap().path().join(below)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.mounted.take();
        let dir = self.dir.take().unwrap();
        let at = dir.path().to_owned();
        let still = fs::device::mounted_at(&at).ok().flatten().is_some();
        if still {
            // Never let the temporary directory's removal walk into a mount.
            std::mem::forget(dir);
            assert!(std::thread::panicking(), "{} is still mounted", at.display());
        }
    }
}

/// A small generator of numbers: the same tree from the same seed.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }
}
