//! What a pool has of a repository, as a mount sees it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fs::view::{SnapshotInfo, Usage, View};
use parking_lot::Mutex;
use repo::crypto::keys::Keys;
use repo::error::{Error, Result};
use repo::format::manifest::Manifest;
use repo::format::record::RemoteState;
use repo::id::{RepoId, SnapshotId};
use repo::pack::source::FrameSource;
use sync::fetch::{self, Remote};
use sync::remote::dial;
use sync::wire::Connection;

use crate::PROGRAM;
use crate::output::Output;

/// What is there is looked up again after this long: each time costs the link.
const REFRESH: Duration = Duration::from_secs(60);

/// A remote's snapshots. Several threads ask; one connection answers them.
pub struct RemoteView {
    remote: RemoteState,
    repository: RepoId,
    keys: Arc<Keys>,
    connection: Mutex<Option<Connection>>,
    known: Mutex<Known>,
    output: Arc<Output>,
}

#[derive(Default)]
struct Known {
    snapshots: BTreeMap<SnapshotId, SnapshotInfo>,
    version: u64,
    looked: Option<Instant>,
}

impl RemoteView {
    /// Of the repository with these keys, at `remote`.
    pub fn new(remote: RemoteState, repository: RepoId, keys: Arc<Keys>, output: Arc<Output>) -> RemoteView {
        RemoteView { remote, repository, keys, connection: Mutex::new(None), known: Mutex::default(), output }
    }

    /// Asks over the one connection, which is made anew once if the link was lost.
    fn ask<T>(&self, question: &mut dyn FnMut(&mut Connection) -> Result<T>) -> Result<T> {
        let mut connection = self.connection.lock();
        let fresh = connection.is_none();
        let mut open = match connection.take() {
            Some(open) => open,
            None => self.connect()?,
        };
        match question(&mut open) {
            Err(_) if !fresh => {
                open = self.connect()?;
                let answer = question(&mut open)?;
                *connection = Some(open);
                Ok(answer)
            }
            Err(e) => Err(e),
            Ok(answer) => {
                *connection = Some(open);
                Ok(answer)
            }
        }
    }

    fn connect(&self) -> Result<Connection> {
        fetch::begin_with(dial(&self.remote)()?, self.repository, &self.keys, PROGRAM)
    }

    /// Looks what is there; manifests are read of what is new alone.
    fn look(&self, known: &mut Known) -> Result<()> {
        if known.looked.is_some_and(|at| at.elapsed() < REFRESH) {
            return Ok(());
        }
        let there = self.ask(&mut fetch::snapshots)?;
        let before = known.snapshots.len();
        known.snapshots.retain(|id, _| there.iter().any(|entry| entry.id == *id));
        let new: Vec<SnapshotId> =
            there.iter().map(|entry| entry.id).filter(|id| !known.snapshots.contains_key(id)).collect();
        if !new.is_empty() || known.snapshots.len() != before || known.looked.is_none() {
            known.version += 1;
        }
        let mut found = Vec::new();
        self.ask(&mut |connection| {
            found.clear();
            fetch::manifests(connection, &self.keys, &new, &mut |_, manifest| {
                match manifest {
                    Ok(manifest) => found.push(info(&manifest)),
                    Err(e) => self.report("", &e),
                }
                Ok(())
            })
        })?;
        known.snapshots.extend(found.into_iter().map(|info| (info.id, info)));
        known.looked = Some(Instant::now());
        Ok(())
    }
}

fn info(manifest: &Manifest) -> SnapshotInfo {
    SnapshotInfo {
        id: manifest.id,
        host: manifest.host.clone(),
        source: manifest.source.clone(),
        captured: manifest.captured,
        order: (manifest.recorded, 0),
        tags: manifest.tags.clone(),
        tenant: None,
    }
}

impl View for RemoteView {
    fn version(&self) -> Result<u64> {
        let mut known = self.known.lock();
        self.look(&mut known)?;
        Ok(known.version)
    }

    fn snapshots(&self) -> Result<Vec<SnapshotInfo>> {
        let mut known = self.known.lock();
        self.look(&mut known)?;
        Ok(known.snapshots.values().cloned().collect())
    }

    fn manifest(&self, id: &SnapshotId) -> Result<Manifest> {
        self.ask(&mut |connection| fetch::manifest(connection, &self.keys, id))
    }

    fn source(&self) -> Arc<dyn FrameSource> {
        Arc::new(Remote::new(dial(&self.remote), self.repository, PROGRAM))
    }

    fn usage(&self) -> Result<Usage> {
        Ok(Usage::default())
    }

    fn report(&self, path: &str, error: &Error) {
        let place = if path.is_empty() { String::new() } else { format!("{path}: ") };
        self.output.complain(format!("packmule: {place}{error}"));
    }
}
