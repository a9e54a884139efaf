//! Bringing back what a pool has of this repository: chunks are verified, sealed with this repository's own keys and stored;
//! a snapshot is recorded, under its own id, when all it reaches is durable.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use repo::backend::Object;
use repo::capture::SessionSink;
use repo::crypto::hash::ChunkKind;
use repo::crypto::keys::Keys;
use repo::error::{Error, Kind, Result};
use repo::format::manifest::Manifest;
use repo::format::record::{Outcome, Position};
use repo::id::{ContentHash, SnapshotId};
use repo::limits::MAX_MANIFEST;
use repo::monitor::{Counters, Event, Monitor};
use repo::open::Repository;
use repo::pack::source::{Chunk, FrameSource};
use repo::pack::store::PackStore;
use repo::pack::writer::{PackWriter, Route};
use repo::session::Session;
use repo::snapshots;
use repo::tree::closure;

use crate::fetch::{self, Dial, Remote};
use crate::wire::{Connection, SnapshotEntry};

/// Trees remembered of a snapshot: one that comes again is not looked into again. Past it some are.
pub(crate) const SEEN_MOST: usize = 1 << 20;
/// Chunks of data asked for ahead of the one that is stored.
const AHEAD: usize = 192;
/// Snapshots brought in before they are recorded together.
const TOGETHER: usize = 16;

/// What a pull did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Snapshots that are here now and were not.
    pub snapshots: u64,
    /// Chunks stored.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Snapshots that the pool could not give, and why.
    pub failed: Vec<(SnapshotId, String)>,
    /// The place in this log up to which the other side has every snapshot that is here, if all that it has was brought in.
    pub even: Option<Position>,
}

/// The other side: what it has of this repository.
pub trait There {
    /// Its snapshots.
    ///
    /// # Errors
    /// `Unreachable`; what it says.
    fn snapshots(&mut self) -> Result<Vec<SnapshotEntry>>;

    /// Shows each of these snapshots' manifests, or why it cannot be had, in order.
    ///
    /// # Errors
    /// As [`There::snapshots`], and what `visit` gives.
    fn manifests(
        &mut self,
        ids: &[SnapshotId],
        visit: &mut dyn FnMut(&SnapshotId, Result<Manifest>) -> Result<()>,
    ) -> Result<()>;

    /// A snapshot's manifest as it is sealed there, where this repository's keys open that.
    ///
    /// # Errors
    /// As [`There::snapshots`].
    fn sealed(&mut self, _: &SnapshotId) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }

    /// Its chunks.
    fn source(&self) -> Arc<dyn FrameSource>;
}

/// A pooled tenant's side of a pool.
pub struct Pooled {
    connection: Connection,
    keys: Arc<Keys>,
    source: Arc<Remote>,
}

impl Pooled {
    /// What the pool that `dial` reaches has of `repo`.
    ///
    /// # Errors
    /// As [`fetch::begin_with`].
    pub fn of(repo: &Repository, dial: Dial, program: &str) -> Result<Pooled> {
        let id = repo.config.repo_id;
        let connection = fetch::begin_with(dial()?, id, &repo.keys, program)?;
        Ok(Pooled { connection, keys: Arc::clone(&repo.keys), source: Arc::new(Remote::new(dial, id, program)) })
    }
}

impl There for Pooled {
    fn snapshots(&mut self) -> Result<Vec<SnapshotEntry>> {
        fetch::snapshots(&mut self.connection)
    }

    fn manifests(
        &mut self,
        ids: &[SnapshotId],
        visit: &mut dyn FnMut(&SnapshotId, Result<Manifest>) -> Result<()>,
    ) -> Result<()> {
        fetch::manifests(&mut self.connection, &self.keys, ids, visit)
    }

    fn source(&self) -> Arc<dyn FrameSource> {
        Arc::clone(&self.source) as Arc<dyn FrameSource>
    }
}

/// A copy of the repository, open: wherever it is.
pub struct Copy(pub Repository);

impl There for Copy {
    fn snapshots(&mut self) -> Result<Vec<SnapshotEntry>> {
        let state = self.0.log.state();
        let live = state.snapshots.iter().filter(|(_, snapshot)| snapshot.forgotten.is_none());
        Ok(live.map(|(id, snapshot)| SnapshotEntry { id: *id, size: 0, received: snapshot.received }).collect())
    }

    fn manifests(
        &mut self,
        ids: &[SnapshotId],
        visit: &mut dyn FnMut(&SnapshotId, Result<Manifest>) -> Result<()>,
    ) -> Result<()> {
        ids.iter().try_for_each(|id| visit(id, snapshots::manifest(&self.0, id)))
    }

    fn sealed(&mut self, id: &SnapshotId) -> Result<Option<Vec<u8>>> {
        // A copy never overwrites: what is there under this name must stay what is here.
        self.0.backend.read_all(&Object::Snapshot(*id), MAX_MANIFEST).map(Some)
    }

    fn source(&self) -> Arc<dyn FrameSource> {
        self.0.store()
    }
}

/// Brings in the snapshots that a pool has and this repository lacks.
///
/// # Errors
/// As [`pull_from`].
pub fn pull(repo: &Repository, dial: Dial, program: &str, wanted: &[String], monitor: &dyn Monitor) -> Result<Report> {
    pull_from(repo, &mut Pooled::of(repo, dial, program)?, wanted, monitor)
}

/// Brings in the snapshots that the other side has and this repository lacks; only those whose ids begin as in `wanted`, if any
/// are given there.
///
/// # Errors
/// `Unreachable` when the link fails: what has come is kept. `NotFound` or `Ambiguous` for one that is wanted; `Interrupted`;
/// what this repository gives.
pub fn pull_from(repo: &Repository, other: &mut dyn There, wanted: &[String], monitor: &dyn Monitor) -> Result<Report> {
    let mut there = other.snapshots()?;
    if !wanted.is_empty() {
        let chosen = wanted.iter().map(|name| choose(&there, name)).collect::<Result<HashSet<_>>>()?;
        there.retain(|entry| chosen.contains(&entry.id));
    }
    there.sort_by_key(|entry| entry.received);
    let session = Arc::new(Session::begin(Arc::clone(&repo.log), repo.locks.clone(), "pull", None)?);
    let state = repo.refresh(monitor)?;
    let all: HashSet<SnapshotId> = there.iter().map(|entry| entry.id).collect();
    there.retain(|entry| !state.snapshots.contains_key(&entry.id));
    Counters::add(&monitor.counters().total_files, there.len() as u64);
    let source = Nearest { here: repo.packs(), there: other.source() };
    let mut pull = Pull { repo, session: &session, source, report: Report::default() };
    for group in there.chunks(TOGETHER) {
        let mut manifests = Vec::new();
        let ids: Vec<SnapshotId> = group.iter().map(|entry| entry.id).collect();
        other.manifests(&ids, &mut |id, found| {
            match found {
                Ok(manifest) => manifests.push(manifest),
                Err(e) => pull.report.failed.push((*id, e.to_string())),
            }
            Ok(())
        })?;
        pull.group(other, manifests, monitor)?;
    }
    let Pull { mut report, .. } = pull;
    match Arc::try_unwrap(session) {
        Ok(session) => session.end(Outcome::Done)?,
        Err(_) => return Err(Error::bug("a session of pulling is still in use at its end")),
    };
    let now = repo.log.state();
    let mut live = now.snapshots.iter().filter(|(_, snapshot)| snapshot.forgotten.is_none()).map(|(id, _)| id);
    if wanted.is_empty() && report.failed.is_empty() && live.all(|id| all.contains(id)) {
        report.even = Some(now.position);
    }
    Ok(report)
}

/// The snapshot whose id begins with `name`.
fn choose(there: &[SnapshotEntry], name: &str) -> Result<SnapshotId> {
    let name = name.to_ascii_lowercase();
    let mut fits = there.iter().filter(|entry| !name.is_empty() && entry.id.to_hex().starts_with(&name));
    match (fits.next(), fits.next()) {
        (Some(entry), None) => Ok(entry.id),
        (None, _) => {
            let none = Error::new(Kind::NotFound, format!("the pool has no snapshot '{}'", name.escape_debug()));
            Err(none.remedy("`packmule mount DIR --remote NAME` shows what it has, in `ids`"))
        }
        (Some(_), Some(_)) => {
            Err(Error::new(Kind::Ambiguous, format!("several snapshots begin with '{name}'"))
                .remedy("give more digits"))
        }
    }
}

/// This repository where it has a chunk, the pool where it has not.
pub(crate) struct Nearest {
    pub(crate) here: Arc<PackStore>,
    pub(crate) there: Arc<dyn FrameSource>,
}

impl FrameSource for Nearest {
    fn chunk(&self, h: &ContentHash, kind: ChunkKind) -> Result<Chunk> {
        match self.here.locate(h)? {
            // What is damaged here is had from there.
            Some((_, info)) if info.usable() => self.here.chunk(h, kind).or_else(|_| self.there.chunk(h, kind)),
            _ => self.there.chunk(h, kind),
        }
    }

    fn prefetch(&self, chunks: &[(ContentHash, ChunkKind)]) {
        let absent = |h: &ContentHash| !matches!(self.here.locate(h), Ok(Some((_, info))) if info.usable());
        let wanted: Vec<_> = chunks.iter().filter(|(h, _)| absent(h)).copied().collect();
        if !wanted.is_empty() {
            self.there.prefetch(&wanted);
        }
    }
}

pub(crate) struct Pull<'a> {
    pub(crate) repo: &'a Repository,
    pub(crate) session: &'a Arc<Session>,
    pub(crate) source: Nearest,
    pub(crate) report: Report,
}

impl Pull<'_> {
    /// Stores what these reach, and records them.
    fn group(&mut self, other: &mut dyn There, manifests: Vec<Manifest>, monitor: &dyn Monitor) -> Result<()> {
        let mut writer = SessionSink::writer(self.repo, self.session);
        let (mut whole, mut seen) = (Vec::new(), HashSet::new());
        for manifest in manifests {
            match self.one(&manifest, &mut seen, &mut writer, &nowhere, monitor) {
                Ok(()) => whole.push(manifest),
                Err(e) if e.kind() == Kind::Damaged => {
                    monitor.event(Event::Warning(&format!(
                        "snapshot {} is not whole at the pool: {e}",
                        manifest.id.short()
                    )));
                    self.report.failed.push((manifest.id, e.to_string()));
                    // What is below some of these was not looked at.
                    seen.clear();
                }
                Err(e) => return Err(e),
            }
        }
        writer.finish()?;
        for manifest in whole {
            match other.sealed(&manifest.id)? {
                Some(sealed) => snapshots::record_as(self.repo, self.session, &manifest, &sealed)?,
                None => snapshots::record(self.repo, self.session, &manifest)?,
            }
            self.report.snapshots += 1;
            Counters::add(&monitor.counters().files, 1);
        }
        Ok(())
    }

    /// Stores what a snapshot reaches and is not here, or is in a damaged pack, but for what is `elsewhere`. Trees in `seen` were
    /// looked at before.
    pub(crate) fn one(
        &mut self,
        manifest: &Manifest,
        seen: &mut HashSet<ContentHash>,
        writer: &mut PackWriter,
        elsewhere: Elsewhere<'_>,
        monitor: &dyn Monitor,
    ) -> Result<()> {
        let least = self.repo.config.chunker.min as usize;
        let mut taking = Taking { source: &self.source, report: &mut self.report, writer, elsewhere, least, monitor };
        let source = taking.source;
        let mut waiting: VecDeque<(ContentHash, ChunkKind)> = VecDeque::new();
        // Its chunks look like a file's; apart from where they are stored, they are.
        closure::sidecar(source, manifest, &mut |h, kind| taking.take(h, kind, true).map(|()| true))?;
        closure::walk(source, manifest, monitor, &mut |h, kind| {
            // Trees are read anyway; what is below one that this repository has may still be missing.
            if kind != ChunkKind::Data {
                let new = if seen.len() < SEEN_MOST { seen.insert(*h) } else { !seen.contains(h) };
                if new {
                    taking.take(h, kind, false)?;
                }
                return Ok(new);
            }
            // What waits to be indexed is not asked for again either.
            if taking.writer.has(h)? || (taking.elsewhere)(h, kind)? {
                return Ok(false);
            }
            source.prefetch(&[(*h, kind)]);
            waiting.push_back((*h, kind));
            if waiting.len() > AHEAD
                && let Some((h, kind)) = waiting.pop_front()
            {
                taking.take(&h, kind, false)?;
            }
            Ok(false)
        })?;
        waiting.iter().try_for_each(|(h, kind)| taking.take(h, *kind, false))
    }
}

/// Whether a chunk need not be stored, being somewhere else that counts.
pub(crate) type Elsewhere<'a> = &'a dyn Fn(&ContentHash, ChunkKind) -> Result<bool>;

/// Everything must be here.
pub(crate) fn nowhere(_: &ContentHash, _: ChunkKind) -> Result<bool> {
    Ok(false)
}

/// What a snapshot reaches, on its way into packs.
struct Taking<'a> {
    source: &'a Nearest,
    report: &'a mut Report,
    writer: &'a mut PackWriter,
    elsewhere: Elsewhere<'a>,
    /// Chunks of small files are shorter.
    least: usize,
    monitor: &'a dyn Monitor,
}

impl Taking<'_> {
    /// Stores a chunk, if it is not here.
    fn take(&mut self, h: &ContentHash, kind: ChunkKind, meta: bool) -> Result<()> {
        if self.writer.has(h)? || (self.elsewhere)(h, kind)? {
            return Ok(());
        }
        let chunk = self.source.chunk(h, kind)?;
        let route = match kind {
            _ if meta => Route::Meta,
            ChunkKind::Data if chunk.len() >= self.least => Route::Large,
            ChunkKind::Data => Route::Small,
            ChunkKind::Tree | ChunkKind::Node => Route::Meta,
        };
        if self.writer.store(route, kind, *h, &chunk)? {
            self.report.chunks += 1;
            self.report.bytes += chunk.len() as u64;
            Counters::add(&self.monitor.counters().bytes, chunk.len() as u64);
        }
        Ok(())
    }
}
