//! What a backup is compared with, and how it is recorded.

use crate::capture::assemble::Assembled;
use crate::capture::plan::Plan;
use crate::capture::{Options, ParentChoice, plan};
use crate::clock::Time;
use crate::error::{Error, Kind, Result};
use crate::format::manifest::Manifest;
use crate::format::record::SnapshotState;
use crate::id::SnapshotId;
use crate::open::Repository;
use crate::session::Session;
use crate::snapshots;

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
    pub fn new(repo: &Repository, options: &Options) -> Result<Job> {
        let begun = repo.clock.now();
        let (plan, stored) = match &options.stdin {
            Some(stdin) => {
                stdin.validate()?;
                let name = stdin.name.as_encoded_bytes().to_vec();
                (Plan::empty(), vec![name])
            }
            None => {
                let plan = plan(repo, options)?;
                let stored = plan.stored.clone();
                (plan, stored)
            }
        };
        let source = match &options.source {
            Some(name) => name.clone(),
            None => Plan::source_name(&stored),
        };
        valid_words(&[&options.host, &source])?;
        let parent = find_parent(repo, options, &source, &stored)?;
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

fn find_parent(repo: &Repository, options: &Options, source: &str, stored: &[Vec<u8>]) -> Result<Option<Manifest>> {
    let state = repo.log.state();
    let own = |s: &SnapshotState| s.forgotten.is_none() && s.host == options.host && s.source == source;
    let newest = state.snapshots.iter().filter(|(_, s)| own(s)).max_by_key(|(_, s)| (s.recorded, s.captured));
    let newest = match newest {
        Some((id, _)) => match snapshots::manifest(repo, id) {
            Ok(manifest) => Some(manifest),
            // A snapshot that cannot be read is no reason not to make a new one.
            Err(e) if e.kind() == Kind::Damaged || e.kind() == Kind::NotFound => None,
            Err(e) => return Err(e),
        },
        None => None,
    };
    if let Some(manifest) = newest.as_ref().filter(|m| m.paths != stored && !options.allow_changed_paths) {
        let shown = |paths: &[Vec<u8>]| {
            paths.iter().map(|p| String::from_utf8_lossy(p).into_owned()).collect::<Vec<_>>().join(" ")
        };
        return Err(Error::new(
            Kind::Refused,
            format!("source '{source}' so far holds {}, not {}", shown(&manifest.paths), shown(stored)),
        )
        .remedy("give another --source, or --change-paths"));
    }
    match options.parent {
        ParentChoice::Newest => Ok(newest),
        ParentChoice::None => Ok(None),
        ParentChoice::Snapshot(id) => snapshots::manifest(repo, &id).map(Some),
    }
}
