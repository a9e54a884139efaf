//! Carrying out a sweep that the log says is intended: proof, unlinking, the record that it is done.
//!
//! [`crate::prune`] writes intents; whatever ended it, the next open finishes them here. Nothing is unlinked on the
//! strength of the index alone: each pack's footer is read anew, and every chunk in it that is needed, or lies elsewhere
//! by the index, must stand in the footer, also read anew, of a pack that stays.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::backend::{Area, Object as Stored};
use crate::error::{Error, Kind, Result};
use crate::format::footer::{ChunkInfo, Footer};
use crate::format::record::Record;
use crate::id::{ChunkId, ContentHash, PackId, SnapshotId};
use crate::index::{Index, Location, PackInfo, Place, Reassign};
use crate::limits::FOOTER_CACHE;
use crate::lock::{COMMIT_WAIT, PruneGuard};
use crate::monitor::{Counters, Event, Monitor};
use crate::open::Repository;
use crate::pack::cache::Cache;
use crate::pack::read::{open_footer, sealed_footer};

/// Which chunks some snapshot needs, by their place.
pub trait Needed {
    /// The generation of the index that the places are of.
    fn generation(&self) -> u64;

    /// Whether the chunk there is needed.
    ///
    /// # Errors
    /// What reading the pack's footer gives.
    fn needed(&self, pack: &PackInfo, at: &Location) -> Result<bool>;
}

/// What a sweep removed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Packs, also those that an interrupted sweep had unlinked before.
    pub packs: u64,
    /// Bytes of packs unlinked now.
    pub bytes: u64,
    /// Snapshots whose manifests are gone.
    pub snapshots: Vec<SnapshotId>,
    /// Packs that could not be proven unneeded and stay.
    pub kept: u64,
}

/// Completes a sweep that was interrupted; nothing if there is none, or if a living prune is at it.
///
/// A pack that cannot be proven unneeded here stays intended: the next prune, which knows what every snapshot needs,
/// decides about it.
///
/// # Errors
/// What backend, log and index give; the sweep then stays to be finished.
pub fn finish_intent(repo: &Repository, monitor: &dyn Monitor) -> Result<Removed> {
    if repo.log.state().sweep.is_none() {
        return Ok(Removed::default());
    }
    match repo.locks.prune(Duration::ZERO) {
        Ok(guard) => carry_out(repo, &guard, None, monitor),
        Err(e) if e.kind() == Kind::Locked => Ok(Removed::default()),
        Err(e) => Err(e),
    }
}

/// Carries out the sweep in the log's state. With `marks` it is settled afterwards: what cannot be proven unneeded is
/// un-condemned. Without, the chunks that the index places in a pack itself were found unneeded when the intent was
/// written, under the commit lock, and nothing that began since can have come to rely on them.
///
/// # Errors
/// What backend, log and index give; `Locked` when the index was rebuilt since `marks` were made. The sweep then stays to
/// be finished.
pub fn carry_out(
    repo: &Repository,
    _one_prune: &PruneGuard,
    marks: Option<&dyn Needed>,
    monitor: &dyn Monitor,
) -> Result<Removed> {
    let Some(sweep) = repo.refresh(monitor)?.sweep.clone() else { return Ok(Removed::default()) };
    // From here to the end this process goes by one generation.
    if marks.is_some_and(|marks| marks.generation() != repo.index.generation()) {
        let error = Error::new(Kind::Locked, "another process rebuilt the index while packs were to be removed");
        return Err(error.remedy("run the command again"));
    }
    let mut removed = Removed { snapshots: sweep.snapshots.iter().copied().collect(), ..Removed::default() };
    // Manifests first: a crash leaves packs that nothing names, never a manifest that names nothing.
    for id in &removed.snapshots {
        repo.backend.delete(&Stored::Snapshot(*id))?;
    }
    repo.backend.sync_deletes(Area::Snapshots)?;
    let prover = Prover::new(repo, &sweep.packs, marks)?;
    let (mut gone, mut kept) = (Vec::new(), Vec::new());
    for id in &sweep.packs {
        let object = Stored::Pack(*id);
        match prover.judge(id)? {
            Verdict::Absent => gone.push(*id),
            Verdict::Unneeded { size } => {
                repo.backend.delete(&object)?;
                removed.bytes += size;
                gone.push(*id);
            }
            Verdict::Kept(why) => {
                monitor.event(Event::Warning(&format!("a pack is kept that was to go: {why}")));
                kept.push(*id);
            }
        }
        Counters::add(&monitor.counters().files, 1);
    }
    repo.backend.sync_deletes(Area::Packs)?;
    repo.backend.close_handles();
    removed.packs = gone.len() as u64;
    removed.kept = kept.len() as u64;
    if marks.is_none() {
        kept.clear();
    }
    let of = marks.map(Needed::generation);
    settle(repo, of, gone, kept, &removed.snapshots, monitor)?;
    Ok(removed)
}

/// Records what is gone, and takes back the condemnation of what stays. `proven`: the generation of the index by which no
/// needed chunk lies in what is gone.
fn settle(
    repo: &Repository,
    proven: Option<u64>,
    gone: Vec<PackId>,
    kept: Vec<PackId>,
    snapshots: &[SnapshotId],
    monitor: &dyn Monitor,
) -> Result<()> {
    // That index can let them go at once. Any other, also one on another machine, may hold the other copy of a chunk
    // that is stored twice, and looks for it when it meets the record.
    if let (Some(generation), Some(at)) = (proven, repo.index.position()?) {
        repo.index.remove_packs_of(generation, &gone, at, &OfFooters(repo))?;
    }
    let commit = repo.locks.commit(COMMIT_WAIT)?;
    if !kept.is_empty() {
        repo.log.append(&commit, Record::Uncondemned { packs: kept })?;
    }
    if !gone.is_empty() || !snapshots.is_empty() {
        repo.log.append(&commit, Record::Swept { packs: gone, snapshots: snapshots.to_vec() })?;
    }
    drop(commit);
    repo.refresh(monitor)?;
    Ok(())
}

/// Knows a pack's chunks from the index's copy of its footer, and no other place for any.
struct OfFooters<'a>(&'a Repository);

impl Reassign for OfFooters<'_> {
    fn chunks(&self, pack: &PackId) -> Result<Option<Vec<ChunkId>>> {
        let footer = footer_in_index(&self.0.index, self.0, pack)?;
        Ok(footer.map(|footer| footer.chunks.iter().map(|c| self.0.keys.chunk_id(&c.h)).collect()))
    }

    fn place(&self, _: &ChunkId) -> Option<Place> {
        None
    }
}

fn footer_in_index(index: &Index, repo: &Repository, id: &PackId) -> Result<Option<Footer>> {
    let Some(info) = index.pack_by_id(id)? else { return Ok(None) };
    let Some(sealed) = index.footer(info.no)? else { return Ok(None) };
    Ok(open_footer(&repo.keys, &sealed, info.size).ok())
}

/// What the proof says of a pack.
pub enum Verdict {
    /// It is gone already.
    Absent,
    /// Every needed chunk of it stands elsewhere.
    Unneeded {
        /// Bytes of its file.
        size: u64,
    },
    /// It must stay, and why.
    Kept(Error),
}

/// Proves packs unneeded.
pub struct Prover<'a> {
    repo: &'a Repository,
    going: &'a BTreeSet<PackId>,
    marks: Option<&'a dyn Needed>,
    /// Without marks: what lies in packs that are known as damaged and stay. They may have been found so after the intent
    /// was written, and another index have the needed copy there.
    endangered: HashSet<ContentHash>,
    /// Footers read from packs that stay, during this sweep.
    read: Cache<PackId, Footer>,
}

impl<'a> Prover<'a> {
    /// For packs among `going`: none of them counts as the place where a chunk is safe.
    ///
    /// # Errors
    /// What the index gives.
    pub fn new(repo: &'a Repository, going: &'a BTreeSet<PackId>, marks: Option<&'a dyn Needed>) -> Result<Prover<'a>> {
        let mut endangered = HashSet::new();
        if marks.is_none() {
            for id in repo.log.state().damaged.keys().filter(|id| !going.contains(id)) {
                let footer = footer_in_index(&repo.index, repo, id)?;
                endangered.extend(footer.iter().flat_map(|footer| &footer.chunks).map(|chunk| chunk.h));
            }
        }
        Ok(Prover { repo, going, marks, endangered, read: Cache::new(FOOTER_CACHE) })
    }

    /// Reads the pack's footer and proves that it can go.
    ///
    /// # Errors
    /// Where the system fails; damage is a [`Verdict::Kept`].
    pub fn judge(&self, id: &PackId) -> Result<Verdict> {
        let Some(size) = self.repo.backend.size(&Stored::Pack(*id))? else { return Ok(Verdict::Absent) };
        let footer = match self.own_footer(id) {
            Ok(footer) => footer,
            Err(e) if e.kind() == Kind::Damaged => return Ok(Verdict::Kept(e)),
            Err(e) => return Err(e),
        };
        for chunk in &footer.chunks {
            match self.safe_without(id, chunk) {
                Ok(()) => {}
                Err(e) if matches!(e.kind(), Kind::Damaged | Kind::NotFound | Kind::Refused) => {
                    return Ok(Verdict::Kept(e));
                }
                Err(e) => return Err(e),
            }
        }
        Ok(Verdict::Unneeded { size })
    }

    /// The footer of a pack that goes; where its own is damaged, the copy in the index, which is sealed all the same.
    fn own_footer(&self, id: &PackId) -> Result<Footer> {
        let path = self.repo.backend.path(&Stored::Pack(*id));
        let read = sealed_footer(self.repo.backend.as_ref(), id)
            .and_then(|(sealed, size)| open_footer(&self.repo.keys, &sealed, size).map_err(|e| e.at(path)));
        match read {
            Err(e) if e.kind() == Kind::Damaged => footer_in_index(&self.repo.index, self.repo, id)?.ok_or(e),
            other => other,
        }
    }

    /// Succeeds when no snapshot loses the chunk with this pack.
    fn safe_without(&self, id: &PackId, chunk: &ChunkInfo) -> Result<()> {
        // What the index does not have no snapshot needs: marking finds every chunk there, or stops.
        let Some((at, info)) = self.repo.index.find(&self.repo.keys.chunk_id(&chunk.h))? else { return Ok(()) };
        if info.id == *id {
            return match self.marks {
                Some(marks) if marks.needed(&info, &at)? => Err(self.refused("it holds data that is needed", id)),
                None if self.endangered.contains(&chunk.h) => {
                    Err(self.refused("it holds a copy of data that is damaged elsewhere:", id))
                }
                _ => Ok(()),
            };
        }
        let needed = match self.marks {
            Some(marks) => marks.needed(&info, &at)?,
            // Of what lay in an intended pack, nothing was needed.
            None => !self.going.contains(&info.id),
        };
        if !needed {
            return Ok(());
        }
        if self.going.contains(&info.id) || info.damaged {
            return Err(self.refused("the other copy of data that is needed is no better:", &info.id));
        }
        let other = self.other_footer(&info.id)?;
        let there =
            other.frames.get(at.frame as usize).and_then(|f| other.chunks[f.chunks()].get(usize::from(at.slot)));
        if there.is_some_and(|there| there.h == chunk.h && there.kind == chunk.kind) {
            return Ok(());
        }
        Err(self.refused("data that is needed is not where the index has it:", &info.id))
    }

    /// The footer as the pack has it now, once for each sweep.
    fn other_footer(&self, id: &PackId) -> Result<Arc<Footer>> {
        self.read.get(*id, || {
            let (sealed, size) = sealed_footer(self.repo.backend.as_ref(), id)?;
            let path = self.repo.backend.path(&Stored::Pack(*id));
            let footer = open_footer(&self.repo.keys, &sealed, size).map_err(|e| e.at(path))?;
            let weight = footer.weight();
            Ok((footer, weight))
        })
    }

    fn refused(&self, why: &'static str, id: &PackId) -> Error {
        Error::new(Kind::Refused, why).at(self.repo.backend.path(&Stored::Pack(*id)))
    }
}
