//! What a site has of this host, as a repository in memory: its snapshots are those that the site would give back, and their
//! chunks are read over the connection. For looking and restoring; nothing that is written there goes anywhere.

use std::sync::Arc;

use repo::backend::memory::Memory;
use repo::crypto::hash::ChunkKind;
use repo::crypto::keys::Keys;
use repo::crypto::slot::Argon2Cost;
use repo::error::{Error, Result};
use repo::format::record::Outcome;
use repo::id::{ContentHash, SnapshotId};
use repo::keyslots::{NewSlots, Secret};
use repo::lock::Locks;
use repo::monitor::{Event, Monitor, Void};
use repo::open::{Access, Init, Place, Repository, Sealed, init_in};
use repo::pack::source::{Chunk, FrameSource};
use repo::session::Session;
use repo::snapshots;
use tempfile::TempDir;

use super::Identity;
use crate::fetch::{self, Dial, Remote};

/// The site's chunks, and the directory of the index, which goes with it.
struct There {
    remote: Remote,
    _index: TempDir,
}

impl FrameSource for There {
    fn chunk(&self, h: &ContentHash, kind: ChunkKind) -> Result<Chunk> {
        self.remote.chunk(h, kind)
    }

    fn prefetch(&self, chunks: &[(ContentHash, ChunkKind)]) {
        self.remote.prefetch(chunks);
    }
}

/// Looks what the site has of this host now.
///
/// # Errors
/// `Refused` if the host was invited without leave to restore; `Unreachable`; what the system gives.
pub fn window(identity: &Identity, dial: Dial, program: &str, monitor: &dyn Monitor) -> Result<Repository> {
    let mut connection = fetch::begin(dial()?, identity.repository, program)?;
    let mut there = fetch::snapshots(&mut connection)?;
    there.sort_by_key(|entry| entry.received);
    let ids: Vec<SnapshotId> = there.iter().map(|entry| entry.id).collect();
    let repo = empty(monitor)?;
    let session = Session::begin(Arc::clone(&repo.0.log), repo.0.locks.clone(), "look", None)?;
    let keys = Keys::derive(&identity.keyring, identity.repository);
    fetch::manifests(&mut connection, &keys, &ids, &mut |id, manifest| match manifest {
        Ok(manifest) => snapshots::record(&repo.0, &session, &manifest),
        Err(e) => {
            monitor.event(Event::Warning(&format!("snapshot {} cannot be had: {e}", id.short())));
            Ok(())
        }
    })?;
    session.end(Outcome::Done)?;
    let (repo, index) = repo;
    let remote = Remote::new(dial, identity.repository, program);
    repo.read_from(Arc::new(There { remote, _index: index }));
    Ok(repo)
}

fn empty(monitor: &dyn Monitor) -> Result<(Repository, TempDir)> {
    let dir = TempDir::new().map_err(|e| Error::io("make", std::env::temp_dir(), e))?;
    // Nobody else ever sees it.
    let passphrase = "window";
    let cost = Argon2Cost::new(8, 1, 1).ok_or_else(|| Error::bug("a cost that is none"))?;
    let slots = NewSlots { passphrase: Some((passphrase, "window")), cost, recipients: &[], recovery_code: false };
    let backend = Arc::new(Memory::new());
    init_in(backend.clone(), &Init::new(slots))?;
    let place = Place {
        root: dir.path().join("window"),
        index_dir: Some(dir.path().join("index")),
        cache: dir.path().join("cache"),
    };
    let sealed = Sealed::from_backend(backend, Locks::memory(), place, Access::Write)?;
    let repo = sealed.unlock(&Secret::Passphrase(passphrase.to_owned().into()), &Void::default());
    monitor.event(Event::Phase("snapshots"));
    Ok((repo?, dir))
}
