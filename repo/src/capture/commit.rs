//! What a backup is compared with, and how it is recorded.

use crate::capture::assemble::Assembled;
use crate::capture::plan::Plan;
use crate::capture::{Options, ParentChoice, plan};
use crate::clock::Time;
use crate::error::{Error, Kind, Result};
use crate::format::manifest::{self, Manifest};
use crate::format::record::{self, SnapshotState};
use crate::id::SnapshotId;
use crate::limits::{MAX_ENTRY, MAX_MANIFEST, MIB};
use crate::monitor::{Event, Monitor};
use crate::open::Repository;
use crate::session::Session;
use crate::snapshots;
use crate::times::Times;

/// What a manifest holds at most besides paths: the root, the sidecar, tags and names.
const MANIFEST_REST: usize = MAX_ENTRY + 5 * MIB;
const _: () = assert!(record::MAX_TAGS * (record::MAX_TEXT + 3) + 6 * manifest::MAX_TEXT < 5 * MIB);

/// One backup's fixed facts.
pub struct Job {
    /// Where things are.
    pub plan: Plan,
    /// The paths as stored.
    pub stored: Vec<Vec<u8>>,
    /// The source's name.
    pub source: String,
    /// What is compared with.
    pub parent: Option<Manifest>,
    /// When the capture began.
    begun: Time,
}

impl Job {
    /// Finds places, source and parent.
    ///
    /// # Errors
    /// `Refused` when the source's paths changed without leave; what reading the parent gives.
    pub fn new(repo: &Repository, options: &Options, monitor: &dyn Monitor) -> Result<Job> {
        let begun = repo.clock.now();
        let plan = match &options.stdin {
            Some(stdin) => {
                stdin.validate()?;
                let name = vec![stdin.name.as_encoded_bytes().to_vec()];
                Plan { stored: name.clone(), absolute: name, ..Plan::empty() }
            }
            None => plan(repo, options)?,
        };
        let stored = plan.stored.clone();
        let source = match &options.source {
            Some(name) => name.clone(),
            None => Plan::source_name(&plan.absolute),
        };
        valid_words(&[&options.host, &source])?;
        recordable(&stored, options)?;
        let parent = find_parent(repo, options, &source, &plan, monitor)?;
        Ok(Job { plan, stored, source, parent, begun })
    }

    /// Writes the manifest and records the snapshot: from here on it is acknowledged.
    ///
    /// # Errors
    /// What backend and log give.
    pub fn record(
        &self,
        repo: &Repository,
        session: &Session,
        options: &Options,
        made: Assembled,
    ) -> Result<SnapshotId> {
        let manifest = Manifest {
            id: SnapshotId::random(),
            host: options.host.clone(),
            source: self.source.clone(),
            username: options.username.clone(),
            program: options.program.clone(),
            paths: self.stored.clone(),
            tags: options.tags.clone(),
            captured: self.begun.0,
            captured_end: repo.clock.now().0,
            recorded: repo.clock.now().0,
            parent: self.parent.as_ref().map(|p| p.id),
            root: made.root,
            sidecar: Some(made.sidecar),
            stats: made.stats,
            origin: None,
        };
        snapshots::record(repo, session, &manifest)?;
        Ok(manifest.id)
    }
}

/// Host and source become names in the mount and lines in tables.
fn valid_words(words: &[&str]) -> Result<()> {
    for word in words {
        if word.is_empty() || word.len() > 1024 || word.chars().any(char::is_control) {
            return Err(Error::new(
                Kind::Usage,
                format!("'{}' cannot be a host's or source's name", word.escape_debug()),
            )
            .remedy("give a shorter or plainer one with --source or --host"));
        }
    }
    Ok(())
}

/// Refuses what could not be recorded in the end, before anything is read.
fn recordable(stored: &[Vec<u8>], options: &Options) -> Result<()> {
    let too = |what: String, remedy: &'static str| Err(Error::new(Kind::Usage, what).remedy(remedy));
    let bytes: usize = stored.iter().map(|path| path.len() + 4).sum();
    if stored.len() > manifest::MAX_LIST || bytes > MAX_MANIFEST - MANIFEST_REST {
        let count = stored.len();
        return too(
            format!("{count} paths of {bytes} bytes together are too many for a snapshot"),
            "name the directories they are in, and leave out what is not wanted with --exclude",
        );
    }
    if let Some(path) = stored.iter().find(|path| path.len() > manifest::MAX_TEXT) {
        return too(format!("a path of {} bytes is too long for a snapshot", path.len()), "name a directory above it");
    }
    let (tags, longest) = (&options.tags, options.tags.iter().map(String::len).max().unwrap_or(0));
    if tags.len() > record::MAX_TAGS || longest > record::MAX_TEXT {
        let (most, long) = (record::MAX_TAGS, record::MAX_TEXT);
        return too(
            format!("a snapshot has at most {most} tags, of at most {long} bytes each"),
            "give fewer or shorter ones",
        );
    }
    Ok(())
}

fn find_parent(
    repo: &Repository,
    options: &Options,
    source: &str,
    plan: &Plan,
    monitor: &dyn Monitor,
) -> Result<Option<Manifest>> {
    let state = repo.log.state();
    let times = Times::of(&state, repo.clock.now());
    let own = |s: &SnapshotState| s.forgotten.is_none() && s.host == options.host && s.source == source;
    let newest = state.snapshots.iter().filter(|(_, s)| own(s)).max_by_key(|(id, _)| times.order(id));
    let newest = match newest {
        Some((id, _)) => match snapshots::manifest(repo, id) {
            Ok(manifest) => Some(manifest),
            // A snapshot that cannot be read is no reason not to make a new one.
            Err(e) if matches!(e.kind(), Kind::Damaged | Kind::NotFound) || e.errno() == Some(libc::EIO) => {
                let text = format!("the previous snapshot cannot be read ({e}): everything is read again");
                monitor.event(Event::Warning(&text));
                None
            }
            Err(e) => return Err(e),
        },
        None => None,
    };
    if let Some(manifest) = newest.as_ref().filter(|m| m.paths != plan.stored && !options.allow_changed_paths) {
        return Err(changed_paths(source, &manifest.paths, plan));
    }
    match options.parent {
        ParentChoice::Newest => Ok(newest),
        ParentChoice::None => Ok(None),
        ParentChoice::Snapshot(id) => snapshots::manifest(repo, &id).map(Some),
    }
}

/// The paths are other ones than this source had so far.
fn changed_paths(source: &str, before: &[Vec<u8>], plan: &Plan) -> Error {
    let shown =
        |paths: &[Vec<u8>]| paths.iter().map(|p| String::from_utf8_lossy(p).into_owned()).collect::<Vec<_>>().join(" ");
    let so_far = format!("source '{source}' so far holds {}", shown(before));
    // A stream's name is no path.
    let relative = plan.stored != plan.absolute && before.iter().all(|path| path.starts_with(b"/"));
    if relative {
        let text = format!("{so_far}; you gave `{}`, which is stored without its path", shown(&plan.stored));
        let remedy = "give the absolute path, another --source, or --change-paths";
        return Error::new(Kind::Refused, text).remedy(remedy);
    }
    Error::new(Kind::Refused, format!("{so_far}, not {}", shown(&plan.stored)))
        .remedy("give another --source, or --change-paths")
}
