//! Capture: from sources to an acknowledged snapshot.
//!
//! ```text
//! pool: list ahead ─► walk (1 thread, tree order, compares with the parent) ─► assemble (the caller's thread)
//!                       └► readers: read, chunk, hash ─────────────────────────┘   └► pack writer: look up, group,
//!                                                                                     seal on all cores, store
//! ```
//! Every queue is bounded, and whatever is earliest in tree order can always proceed.

mod exclude;
mod mounts;
mod plan;
mod failures;
mod descriptors;
pub(crate) mod scan;
mod pool;
mod listing;
mod parent;
mod read;
mod event;
mod walk;
mod assemble;
mod sink;
mod stdin;
mod waiting;
mod commit;
mod unchanged;

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::bounded;

use crate::capture::assemble::{Assembled, Assembler};
use crate::capture::descriptors::Descriptors;
use crate::capture::event::Budget;
use crate::capture::exclude::Markers;
use crate::capture::failures::Failures;
use crate::capture::mounts::Mounts;
use crate::capture::parent::Parent;
use crate::capture::plan::Plan;
use crate::capture::pool::Pool;
use crate::capture::scan::Accounts;
use crate::capture::sink::Discard;
use crate::capture::walk::{Rules, Walk};
use crate::clock::Time;
use crate::crypto::hash::ChunkKind;
use crate::error::{Error, Kind, Result};
use crate::format::manifest::{Manifest, Stats};
use crate::format::node::{self, Node};
use crate::format::record::Outcome as Ended;
use crate::format::tree::{Content, Entry, Extent, FileTime, XattrValue};
use crate::id::{ContentHash, SessionId, SnapshotId};
use crate::lock::Patience;
use crate::monitor::{Counters, Event, Monitor};
use crate::open::Repository;
use crate::pack::source::FrameSource;
use crate::pack::writer::{PackSink, PackWriter, Totals};
use crate::session::Session;

pub use descriptors::raise_open_files;
pub use exclude::{Marker, Patterns};
pub use sink::SessionSink;
pub use stdin::Stdin;

/// Which snapshot to compare with.
#[derive(Clone, Copy, Debug, Default)]
pub enum ParentChoice {
    /// The source's newest.
    #[default]
    Newest,
    /// None: every file is read.
    None,
    /// This one.
    Snapshot(SnapshotId),
}

/// What to back up and how.
#[derive(Clone)]
pub struct Options {
    /// The paths; ignored with `stdin`.
    pub paths: Vec<PathBuf>,
    /// A command's output instead of paths.
    pub stdin: Option<Stdin>,
    /// The host's name.
    pub host: String,
    /// The source's name; none: derived from the paths.
    pub source: Option<String>,
    /// Whether a source may change its paths.
    pub allow_changed_paths: bool,
    /// The user's name.
    pub username: String,
    /// Name and version of the program.
    pub program: String,
    /// Tags.
    pub tags: Vec<String>,
    /// Patterns to leave out, as they are and without regard to case.
    pub excludes: Vec<String>,
    /// See `excludes`.
    pub iexcludes: Vec<String>,
    /// Marks of directories to leave out.
    pub markers: Vec<Marker>,
    /// Files longer than this are left out.
    pub larger_than: Option<u64>,
    /// Stay on each path's filesystem.
    pub one_file_system: bool,
    /// Read block devices that are named by content.
    pub read_devices: bool,
    /// Read every file, changed or not.
    pub force: bool,
    /// What to compare with.
    pub parent: ParentChoice,
    /// Record no snapshot when nothing changed.
    pub skip_if_unchanged: bool,
    /// Files read at a time; none: 8.
    pub read_concurrency: Option<usize>,
    /// Record no snapshot when anything could not be read.
    pub strict: bool,
    /// Store nothing.
    pub dry_run: bool,
    /// Read only some of the files: for an estimate.
    pub sample: Option<Arc<Sample>>,
}

/// A part of all files, chosen by their paths: the same ones each time.
#[derive(Debug)]
pub struct Sample {
    /// Of a hundred, how many.
    pub percent: u8,
    /// Files that were not chosen.
    pub files: AtomicU64,
    /// Their bytes.
    pub bytes: AtomicU64,
}

impl Sample {
    /// So many of a hundred.
    pub fn new(percent: u8) -> Sample {
        Sample { percent, files: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }

    /// Whether the file belongs to it; one that does not is counted.
    fn takes(&self, path: &Path, size: u64) -> bool {
        let hash = blake3::hash(path.as_os_str().as_encoded_bytes());
        let drawn = u16::from_le_bytes([hash.as_bytes()[0], hash.as_bytes()[1]]) % 100;
        let taken = drawn < u16::from(self.percent);
        if !taken {
            self.files.fetch_add(1, Ordering::Relaxed);
            self.bytes.fetch_add(size, Ordering::Relaxed);
        }
        taken
    }
}

impl Options {
    /// The paths of a host, and nothing asked for beyond that.
    pub fn new(paths: Vec<PathBuf>, host: impl Into<String>) -> Options {
        Options {
            paths,
            stdin: None,
            host: host.into(),
            source: None,
            allow_changed_paths: false,
            username: String::new(),
            program: String::new(),
            tags: Vec::new(),
            excludes: Vec::new(),
            iexcludes: Vec::new(),
            markers: Vec::new(),
            larger_than: None,
            one_file_system: false,
            read_devices: false,
            force: false,
            parent: ParentChoice::Newest,
            skip_if_unchanged: false,
            read_concurrency: None,
            strict: false,
            dry_run: false,
            sample: None,
        }
    }
}

/// What a backup did.
pub struct Outcome {
    /// The snapshot, acknowledged; none for a dry run or when nothing changed and that was to be skipped.
    pub snapshot: Option<SnapshotId>,
    /// What it was compared with.
    pub parent: Option<SnapshotId>,
    /// New chunks that hold trees, nodes and sidecars; part of `stats.chunks_new`.
    pub meta_chunks_new: u64,
    /// Totals.
    pub stats: Stats,
}

/// Reads the sources as a backup would, and shows the packs that it would store to `sink`, which keeps none of them.
///
/// # Errors
/// As [`backup`], and what `sink` gives.
pub fn measure(repo: &Repository, options: Options, sink: Box<dyn PackSink>, monitor: &dyn Monitor) -> Result<Outcome> {
    let job = commit::Job::new(repo, &options, monitor)?;
    capture(repo, options, &job, Whither::Nowhere(sink), monitor)
}

/// Where what is new goes.
enum Whither<'a> {
    /// Into the repository.
    Session(&'a Arc<Session>),
    /// To be looked at.
    Nowhere(Box<dyn PackSink>),
}

/// Captures the sources and records a snapshot.
///
/// # Errors
/// `Interrupted` when the user stops it: what was stored stays and is not stored again. `Refused` for a source
/// inside the repository or one whose paths changed, and at a pool. Unreadable files are no error: `stats.errors` counts them.
pub fn backup(repo: &Repository, options: Options, monitor: &dyn Monitor) -> Result<Outcome> {
    if repo.log.state().pool {
        // Without an owner it would be in no tenant's view, quota or retention.
        return Err(Error::new(
            Kind::Refused,
            "a pool takes in what its tenants push, and makes no backups of its own",
        )
        .remedy("back up into a repository of its own (`packmule init`), and push that here: `packmule sync push`"));
    }
    let mut job = commit::Job::new(repo, &options, monitor)?;
    if let Some(parent) = &job.parent {
        Counters::add(&monitor.counters().total_files, parent.stats.files);
        Counters::add(&monitor.counters().total_bytes, parent.stats.bytes);
    }
    if options.dry_run {
        return capture(repo, options, &job, Whither::Nowhere(Box::new(Discard)), monitor);
    }
    if !repo.index.writable() {
        // Nobody would bring it up to date, and what a prune condemns meanwhile would still be relied on.
        return Err(Error::new(Kind::ReadOnly, "the index cannot be written:")
            .at(repo.index.dir())
            .remedy("let this user write there, or name another place with --index-dir"));
    }
    let parent = job.parent.as_ref().map(|p| p.id);
    let patience = waiting::patience();
    let session = Session::begin(Arc::clone(&repo.log), repo.locks.clone(), "backup", parent)?;
    let session = session.with_patience(Arc::clone(&patience));
    // What was condemned before this session must not satisfy its dedup.
    let state = repo.refresh(monitor)?;
    // The parent was chosen before the session pinned it: a prune may have swept some of what it reaches in between.
    if parent.and_then(|id| state.snapshots.get(&id)).is_none_or(|s| s.forgotten.is_some()) {
        job.parent = None;
    }
    waiting::watched(&patience, monitor, || capture_and_end(repo, options, &job, session, &patience, monitor))
}

fn capture_and_end(
    repo: &Repository,
    options: Options,
    job: &commit::Job,
    session: Session,
    patience: &Patience,
    monitor: &dyn Monitor,
) -> Result<Outcome> {
    let session = Arc::new(session);
    let result = capture(repo, options, job, Whither::Session(&session), monitor);
    // After a failure packs may be stored that no record names: the next opening finds the session dead and takes them
    // over. All threads that shared it have ended; if not, the same happens.
    let settled = result.as_ref().err().is_none_or(|e| e.kind() == Kind::Interrupted && !patience.gave_up());
    if settled && let Ok(session) = Arc::try_unwrap(session) {
        let ended = session.end(if result.is_ok() { Ended::Done } else { Ended::Failed });
        // A snapshot that was recorded is acknowledged whatever comes of the session's own end.
        if let (Err(e), true) = (ended, result.is_ok()) {
            monitor.event(Event::Warning(&format!("the session could not be closed: {e}")));
        }
    }
    result
}

fn capture(
    repo: &Repository,
    mut options: Options,
    job: &commit::Job,
    into: Whither<'_>,
    monitor: &dyn Monitor,
) -> Result<Outcome> {
    let stdin = options.stdin.take();
    let streamed = stdin.is_some();
    let (mut writer, session) = match into {
        Whither::Session(session) => (SessionSink::writer(repo, session), Some(session)),
        Whither::Nowhere(sink) => (PackWriter::start(sink::params(repo, SessionId::random()), sink), None),
    };
    let failures = Failures::new(monitor);
    let mut made = read_sources(repo, &options, job, stdin, &mut writer, &failures, monitor)?;
    if !streamed && failures.missing() >= job.stored.len() as u64 {
        return Err(nothing_there());
    }
    let totals = writer.finish()?;
    fill_totals(&mut made.stats, &totals);
    let mut outcome = Outcome {
        snapshot: None,
        parent: job.parent.as_ref().map(|p| p.id),
        meta_chunks_new: totals.meta_chunks_new.load(Ordering::Relaxed),
        stats: made.stats.clone(),
    };
    if streamed && made.stats.errors > 0 {
        if monitor.cancelled() {
            // The same Ctrl-C reached the command, and it was the first to say so.
            return Err(Error::new(Kind::Interrupted, "stopped on request"));
        }
        // There is nothing else in the snapshot that would be worth having.
        return Err(Error::new(
            Kind::Io,
            "what was to be saved could not be read to its end, so no snapshot was recorded",
        )
        .remedy("see the error above, and run it again"));
    }
    let Some(session) = session else { return Ok(outcome) };
    if options.skip_if_unchanged && made.stats.errors == 0 && is_unchanged(repo, job, &made) {
        return Ok(outcome);
    }
    if options.strict && made.stats.errors > 0 {
        let text = format!("{} of the sources could not be read, so no snapshot was recorded", made.stats.errors);
        return Err(Error::new(Kind::Io, text));
    }
    outcome.snapshot = Some(job.record(repo, session, &options, made)?);
    Ok(outcome)
}

/// In doubt it is not.
fn is_unchanged(repo: &Repository, job: &commit::Job, made: &Assembled) -> bool {
    let Some(parent) = job.parent.as_ref().filter(|p| p.paths == job.stored) else { return false };
    unchanged::unchanged(repo.store().as_ref(), &job.plan.root, &parent.root, &made.root).unwrap_or(false)
}

fn fill_totals(stats: &mut Stats, totals: &Totals) {
    stats.chunks_new = totals.chunks_new.load(Ordering::Relaxed);
    stats.data_added = totals.bytes_new.load(Ordering::Relaxed);
    stats.data_stored = totals.bytes_stored.load(Ordering::Relaxed);
}

/// Runs walk and readers beside the assembling in this thread.
fn read_sources(
    repo: &Repository,
    options: &Options,
    job: &commit::Job,
    stdin: Option<Stdin>,
    writer: &mut PackWriter,
    failures: &Failures<'_>,
    monitor: &dyn Monitor,
) -> Result<Assembled> {
    let over = Arc::new(AtomicBool::new(false));
    let rules = Rules {
        excludes: Patterns::new(&options.excludes, &options.iexcludes)?,
        markers: Arc::new(Markers { list: options.markers.clone(), over: Arc::clone(&over) }),
        larger_than: options.larger_than,
        sample: options.sample.clone(),
        one_file_system: options.one_file_system,
        read_devices: options.read_devices,
        force: options.force,
        repository: repo.root.as_deref().and_then(walk::identity),
        mounts: Mounts::default(),
    };
    let store = repo.store();
    let state = repo.log.state();
    let sound = state.condemned.is_empty() && state.damaged.is_empty();
    let usable = |entry: &Entry| sound || rests_on_good_chunks(repo, store.as_ref(), entry);
    let descriptors = Descriptors::of_process();
    let (budget, pool) = (Budget::new(), Pool::new(descriptors.listers));
    let (usual, most) = descriptors.readers;
    let readers = options.read_concurrency.unwrap_or(usual).clamp(1, most);
    let (jobs, queue) = bounded(2 * readers);
    let (events, incoming) = bounded(4096);
    let parent = job.parent.as_ref().filter(|_| !options.force).and_then(|p| start_parent(&store, p));
    let walk = Walk {
        rules: &rules,
        pool: &pool,
        jobs,
        events,
        budget: &budget,
        monitor,
        failures,
        descriptors,
        root_before: parent.as_ref().and(job.parent.as_ref()).map(|p| Box::new(p.root.clone())),
        parent,
        settled_before: job.parent.as_ref().map(|p| settled_before(p.captured)),
        usable: &usable,
        accounts: Accounts::load(),
        links: HashMap::new(),
        chunk_min: u64::from(repo.config.chunker.min),
    };
    std::thread::scope(|threads| {
        for _ in 0..readers {
            let queue = queue.clone();
            let over = &over;
            threads.spawn(move || read::run(&queue, repo.config.chunker, over));
        }
        drop(queue);
        let walking = threads.spawn(|| match stdin {
            Some(stdin) => stdin.run(walk, Arc::clone(&over)),
            None => walk.run(&job.plan.root),
        });
        let assembled = Assembler::new(writer, repo.config.chunker, monitor, &budget, failures).run(&incoming);
        // Whoever still waits, for input or to hand something on, must see that nobody takes it.
        over.store(true, Ordering::Relaxed);
        drop(incoming);
        budget.close();
        let walked = walking.join().unwrap_or_else(|_| Err(Error::bug("the walk panicked")));
        match (walked, assembled) {
            (Ok(()), assembled) => assembled,
            // The walk ends early when the assembling does: then that has the reason.
            (Err(e), Err(cause)) if e.kind() == Kind::Interrupted && !monitor.cancelled() => Err(cause),
            (Err(e), _) => Err(e),
        }
    })
}

/// The longest tick of a filesystem's clock before kernels had finer ones.
const TICK: Duration = Duration::from_millis(10);

fn settled_before(captured: i64) -> FileTime {
    let time = Time(captured).minus(TICK);
    FileTime { secs: time.secs(), nanos: time.subsec_nanos() }
}

fn start_parent(store: &Arc<dyn FrameSource>, parent: &Manifest) -> Option<Parent> {
    match parent.root.content {
        Content::Dir(dir) => Some(Parent::new(Arc::clone(store), dir, parent.sidecar.clone())),
        _ => None,
    }
}

/// Whether every chunk of an unchanged entry is where it can be relied on; anything doubtful is read again.
fn rests_on_good_chunks(repo: &Repository, store: &dyn FrameSource, entry: &Entry) -> bool {
    let good =
        |h: &ContentHash| repo.index.lookup_usable(&[repo.keys.chunk_id(h)]).is_ok_and(|found| found[0].is_some());
    let xattrs = entry.xattrs.iter().all(|(_, value)| match value {
        XattrValue::Chunk { h, .. } => good(h),
        XattrValue::Inline(_) => true,
    });
    // The nodes above the extents are written anew by whoever reads the file, so they must be good as well.
    let nodes = match &entry.content {
        Content::Indexed { h, depth } => good_nodes(store, h, *depth, &good),
        _ => true,
    };
    let extents = || {
        crate::tree::file::extents(store, &entry.content, 0).all(|next| match next {
            Ok((_, Extent::Data { h, .. })) => good(&h),
            Ok((_, Extent::Hole { .. })) => true,
            Err(_) => false,
        })
    };
    xattrs && nodes && extents()
}

fn good_nodes(store: &dyn FrameSource, h: &ContentHash, depth: u8, good: &dyn Fn(&ContentHash) -> bool) -> bool {
    if depth == 0 || !good(h) {
        return good(h);
    }
    match store.chunk(h, ChunkKind::Node).and_then(|chunk| node::decode(&chunk)) {
        Ok(Node::File(children)) => children.iter().all(|child| good_nodes(store, &child.h, depth - 1, good)),
        _ => false,
    }
}

/// The plan of a backup's paths, checked against the repository's own place.
fn plan(repo: &Repository, options: &Options) -> Result<Plan> {
    let cwd = std::env::current_dir().map_err(|e| Error::io("find", "the working directory", e))?;
    let plan = Plan::new(&options.paths, &cwd)?;
    let root = repo.root.as_deref().and_then(|r| r.canonicalize().ok());
    let (mut missing, mounts) = (Vec::new(), Mounts::default());
    for path in &options.paths {
        match path.symlink_metadata() {
            Err(e) => missing.push(Error::io("read", path, e)),
            Ok(found) => {
                refuse_inside(path, root.as_deref())?;
                refuse_mounted(path, found.dev(), &mounts)?;
            }
        }
    }
    if missing.len() == options.paths.len() {
        return Err(missing.swap_remove(0).remedy("none of the paths to back up can be read"));
    }
    Ok(plan)
}

fn nothing_there() -> Error {
    let text = "all that was to be backed up vanished before it could be read, so no snapshot was recorded";
    Error::new(Kind::NotFound, text).remedy("see the errors above, and name what is there")
}

fn refuse_inside(path: &Path, root: Option<&Path>) -> Result<()> {
    let (Some(root), Ok(real)) = (root, path.canonicalize()) else { return Ok(()) };
    if real.starts_with(root) {
        return Err(Error::new(Kind::Refused, "the source lies inside the repository:")
            .at(path)
            .remedy("back up something else, or move the repository"));
    }
    Ok(())
}

fn refuse_mounted(path: &Path, dev: u64, mounts: &Mounts) -> Result<()> {
    if mounts.is_repository(dev) {
        return Err(Error::new(
            Kind::Refused,
            "the source lies on the mount of a repository, and is backed up already:",
        )
        .at(path)
        .remedy("back up something else, or what was restored from it"));
    }
    Ok(())
}
