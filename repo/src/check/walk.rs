//! Everything that the snapshots reach, each tree chunk once.
//!
//! A tree chunk is marked when all below it is done: clean, and no snapshot goes below it again; or tainted, and every
//! snapshot that reaches it goes down again to name what is lost under its own paths.

mod content;
mod reach;

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::vec::IntoIter;

use crate::backend::Object as Stored;
use crate::check::{About, Check, Finding, damage};
use crate::crypto::hash::ChunkKind;
use crate::error::{Error, Result};
use crate::format::manifest::Manifest;
use crate::format::node::DirChild;
use crate::format::record::{Position, SnapshotState};
use crate::format::tree::{Content, DirRef, Entry};
use crate::history::tenant_of;
use crate::id::{ChunkId, ContentHash, PackId, SnapshotId};
use crate::index::Location;
use crate::limits::MAX_DEPTH;
use crate::monitor::{Counters, Event};
use crate::pack::store::{OpenPack, PackStore};
use crate::snapshots;
use crate::tree::dir::{dir_node, leaf};

/// Missing chunks remembered, to name the packs they were in.
const MAX_MISSING: usize = 1 << 20;

/// What is known of a tree chunk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    New,
    Clean,
    Tainted,
}

/// Two bits for every chunk of every pack of trees that was met.
#[derive(Default)]
struct Marks(HashMap<PackId, Vec<u8>>);

type Key = (PackId, u32);

impl Marks {
    fn get(&self, (pack, chunk): &Key) -> Mark {
        let byte = self.0.get(pack).and_then(|bits| bits.get(*chunk as usize / 4)).copied().unwrap_or(0);
        match byte >> (chunk % 4 * 2) & 3 {
            0 => Mark::New,
            1 => Mark::Clean,
            _ => Mark::Tainted,
        }
    }

    fn set(&mut self, (pack, chunk): Key, chunks: usize, mark: Mark) {
        let bits = self.0.entry(pack).or_default();
        let len = chunks.div_ceil(4).max(chunk as usize / 4 + 1);
        if bits.len() < len {
            bits.resize(len, 0);
        }
        let shift = chunk % 4 * 2;
        let byte = &mut bits[chunk as usize / 4];
        *byte = *byte & !(3 << shift) | (mark as u8) << shift;
    }
}

/// A chunk's place, for marking.
struct Spot {
    key: Key,
    chunks: usize,
}

enum Work {
    /// Children of a directory's index node, and the nodes below each.
    Nodes(IntoIter<DirChild>, u8),
    Entries(IntoIter<Entry>),
}

/// One chunk of a directory that is being gone through.
struct Level {
    work: Work,
    spot: Option<Spot>,
    tainted: bool,
    /// Whether the path's last name ends with this.
    pops: bool,
}

/// The walk through one snapshot after the other.
struct Walk<'c, 'a> {
    check: &'c mut Check<'a>,
    store: std::sync::Arc<PackStore>,
    marks: Marks,
    missing: BTreeSet<ChunkId>,
    /// Packs whose chunks could not be had although the pack is sound: told of once.
    puzzling: BTreeSet<PackId>,
    /// The snapshot at hand.
    current: SnapshotId,
    /// Whether it was found to be swept meanwhile: what cannot be read of it is nobody's loss.
    gone: bool,
    /// The state of the index that was last looked at.
    seen: (u64, Option<Position>),
}

/// Why a chunk cannot be had: to be looked into only if that is not the work of others.
enum Trouble {
    /// It is in no pack.
    Missing(ContentHash),
    /// Its pack is to be looked at.
    Unread(ContentHash, Error),
    Known(Error),
}

impl Check<'_> {
    /// Opens every snapshot and goes through what it reaches.
    pub(super) fn snapshots(&mut self) -> Result<()> {
        self.monitor.event(Event::Phase("checking snapshots"));
        let (state, store) = (self.state.clone(), self.repo.packs());
        let seen = (self.repo.index.generation(), self.repo.index.position()?);
        let mut walk = Walk {
            check: self,
            store,
            marks: Marks::default(),
            missing: BTreeSet::new(),
            puzzling: BTreeSet::new(),
            current: SnapshotId([0; 32]),
            gone: false,
            seen,
        };
        for (id, snapshot) in &state.snapshots {
            if !walk.check.is_meant_snapshot(snapshot) {
                continue;
            }
            let tenant = tenant_of(&state, snapshot);
            walk.snapshot(id, snapshot, tenant.as_deref())?;
        }
        let missing = walk.missing;
        self.lost_packs(&missing)
    }
}

impl Walk<'_, '_> {
    fn snapshot(&mut self, id: &SnapshotId, known: &SnapshotState, tenant: Option<&str>) -> Result<()> {
        self.check.stopped()?;
        (self.current, self.gone) = (*id, false);
        let (host, source, original) = (&*known.host, &*known.source, known.origin.map(|origin| origin.id));
        let about = About { id: *id, tenant, original, host, source, captured: known.captured };
        let manifest = match self.manifest(id, known) {
            Ok(manifest) => manifest,
            Err(e) => {
                let e = damage(e)?;
                if self.is_gone(id)? {
                    return Ok(());
                }
                self.check.outcome.snapshots += 1;
                self.check.outcome.problems += 1;
                let e = e.remedy("the snapshot cannot be read; `packmule forget` it");
                (self.check.report)(&Finding::Snapshot { snapshot: about, error: &e });
                return Ok(());
            }
        };
        self.check.outcome.snapshots += 1;
        if let Some(sidecar) = &manifest.sidecar
            && let Some(e) = self.content(sidecar)?
        {
            let text = format!(
                "the list of file times of snapshot {} cannot be read ({e}); the next backup reads every file instead",
                id.short()
            );
            self.check.notice(&text);
        }
        self.tree(&about, &manifest)
    }

    fn manifest(&self, id: &SnapshotId, known: &SnapshotState) -> Result<Manifest> {
        let repo = self.check.repo;
        let object = Stored::Snapshot(*id);
        let sealed = repo.backend.read_all(&object, crate::limits::MAX_MANIFEST)?;
        if blake3::hash(&sealed) != known.manifest_hash {
            return Err(
                Error::damaged("a snapshot's file is not the one that was recorded:").at(repo.backend.path(&object))
            );
        }
        snapshots::manifest(repo, id)
    }

    /// Whether the snapshot was swept since the check began.
    fn is_gone(&self, id: &SnapshotId) -> Result<bool> {
        let repo = self.check.repo;
        if repo.backend.size(&Stored::Snapshot(*id))?.is_some() {
            return Ok(false);
        }
        let _ = repo.log.refresh();
        let state = repo.log.state();
        let sweeping = state.sweep.as_ref().is_some_and(|sweep| sweep.snapshots.contains(id));
        Ok(sweeping || !state.snapshots.contains_key(id))
    }

    /// After something could not be had: whether the index has changed since it was last looked at, so that it is worth
    /// another try. Notes if the snapshot was swept.
    fn others_changed(&mut self) -> Result<bool> {
        self.gone = self.gone || self.is_gone(&self.current)?;
        if self.gone {
            return Ok(false);
        }
        self.check.bring_up()?;
        let index = &self.check.repo.index;
        let now = (index.generation(), index.position()?);
        Ok(std::mem::replace(&mut self.seen, now) != now)
    }

    /// What is to be told of trouble that is nobody's work; none if the snapshot is gone.
    fn conclude(&mut self, trouble: Trouble) -> Result<Option<Error>> {
        if self.gone {
            return Ok(None);
        }
        Ok(Some(match trouble {
            Trouble::Missing(h) => self.missing_chunk(&h),
            Trouble::Unread(h, e) => self.blame(&h, e)?,
            Trouble::Known(e) => e,
        }))
    }

    fn tree(&mut self, about: &About<'_>, manifest: &Manifest) -> Result<()> {
        let mut path = PathBuf::new();
        let mut stack: Vec<Level> = Vec::new();
        let mut depth = 0;
        if let Some(e) = self.entry_itself(&manifest.root)? {
            self.lost(about, &path, &e);
        }
        if let Content::Dir(dir) = &manifest.root.content {
            self.directory(about, dir, &path, &mut stack, false)?;
        }
        while let Some(level) = stack.last_mut()
            && !self.gone
        {
            let next = match &mut level.work {
                Work::Nodes(children, below) => children.next().map(|child| (Some((child, *below)), None)),
                Work::Entries(entries) => entries.next().map(|entry| (None, Some(entry))),
            };
            match next {
                Some((Some((child, below)), _)) => {
                    self.descend(about, &child.h, below, child.entries, &path, &mut stack, false)?;
                }
                Some((_, Some(entry))) => {
                    path.push(OsStr::from_bytes(&entry.name));
                    depth += 1;
                    if !self.entry(about, &entry, &path, &mut stack, depth)? {
                        path.pop();
                        depth -= 1;
                    }
                }
                Some((None, None)) => {}
                None => {
                    self.check.stopped()?;
                    let Some(done) = stack.pop() else { break };
                    if let Some(Spot { key, chunks }) = done.spot {
                        self.marks.set(key, chunks, if done.tainted { Mark::Tainted } else { Mark::Clean });
                    }
                    if done.pops {
                        path.pop();
                        depth -= 1;
                    }
                    taint(&mut stack, done.tainted);
                }
            }
        }
        Ok(())
    }

    /// Checks an entry; true if its directory was entered and the path is to be kept.
    fn entry(
        &mut self,
        about: &About<'_>,
        entry: &Entry,
        path: &std::path::Path,
        stack: &mut Vec<Level>,
        depth: usize,
    ) -> Result<bool> {
        if let Some(e) = self.entry_itself(entry)? {
            taint(stack, true);
            self.lost(about, path, &e);
        }
        let Content::Dir(dir) = &entry.content else {
            return Ok(false);
        };
        Counters::add(&self.check.monitor.counters().dirs, 1);
        if depth >= MAX_DEPTH {
            taint(stack, true);
            self.lost(about, path, &Error::damaged("directories are nested too deep"));
            return Ok(false);
        }
        self.directory(about, dir, path, stack, true)
    }

    fn directory(
        &mut self,
        about: &About<'_>,
        dir: &DirRef,
        path: &std::path::Path,
        stack: &mut Vec<Level>,
        pops: bool,
    ) -> Result<bool> {
        if dir.entries == 0 {
            return Ok(false);
        }
        self.descend(about, &dir.h, dir.depth, dir.entries, path, stack, pops)
    }

    /// Opens one chunk of a directory and puts it on the stack, unless it is known clean or cannot be opened.
    #[expect(clippy::too_many_arguments, reason = "a step of one loop, taken from two places")]
    fn descend(
        &mut self,
        about: &About<'_>,
        h: &ContentHash,
        depth: u8,
        entries: u64,
        path: &std::path::Path,
        stack: &mut Vec<Level>,
        pops: bool,
    ) -> Result<bool> {
        let mut found = self.level(h, depth, entries)?;
        while found.is_err() && self.others_changed()? {
            found = self.level(h, depth, entries)?;
        }
        match found {
            Ok(Some(level)) => {
                stack.push(Level { pops, ..level });
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(trouble) => {
                if let Some(e) = self.conclude(trouble)? {
                    taint(stack, true);
                    self.lost(about, path, &e);
                }
                Ok(false)
            }
        }
    }

    /// One chunk of a directory, opened; none if it is known clean.
    fn level(
        &mut self,
        h: &ContentHash,
        depth: u8,
        entries: u64,
    ) -> Result<std::result::Result<Option<Level>, Trouble>> {
        let kind = if depth > 0 { ChunkKind::Node } else { ChunkKind::Tree };
        let spot = match self.spot(h, kind)? {
            Ok(spot) => spot,
            Err(trouble) => return Ok(Err(trouble)),
        };
        if self.marks.get(&spot.key) == Mark::Clean {
            return Ok(Ok(None));
        }
        Ok(match self.open(h, depth, entries) {
            Ok(work) => Ok(Some(Level { work, spot: Some(spot), tainted: false, pops: false })),
            Err(e) => Err(Trouble::Unread(*h, damage(e)?)),
        })
    }

    fn open(&self, h: &ContentHash, depth: u8, entries: u64) -> Result<Work> {
        let store = self.store.as_ref();
        if depth == 0 {
            let found = leaf(store, h)?;
            if found.len() as u64 != entries {
                return Err(Error::damaged("a tree's count of entries is wrong"));
            }
            return Ok(Work::Entries(found.into_iter()));
        }
        let children = dir_node(store, h)?;
        if children.iter().try_fold(0u64, |sum, c| sum.checked_add(c.entries)) != Some(entries) {
            return Err(Error::damaged("a count in the index of a large file or directory is wrong"));
        }
        Ok(Work::Nodes(children.into_iter(), depth - 1))
    }

    fn lost(&mut self, about: &About<'_>, path: &std::path::Path, error: &Error) {
        self.check.outcome.files += 1;
        self.check.outcome.problems += 1;
        (self.check.report)(&Finding::File { snapshot: *about, path, error });
    }
}

fn taint(stack: &mut [Level], tainted: bool) {
    if let Some(above) = stack.last_mut() {
        above.tainted |= tainted;
    }
}

/// A chunk's ordinal in its pack.
fn chunk_at(pack: &OpenPack, at: &Location) -> Option<u32> {
    let frame = pack.footer.frames.get(at.frame as usize)?;
    (u32::from(at.slot) < frame.count).then(|| frame.first + u32::from(at.slot))
}
