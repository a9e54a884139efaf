//! A local repository as a mount sees it.

use std::collections::BTreeMap;
use std::sync::Arc;

use fs::view::{SnapshotInfo, Usage, View};
use parking_lot::Mutex;
use repo::error::{Error, Kind, Result};
use repo::format::manifest::Manifest;
use repo::format::record::SnapshotState;
use repo::history::tenant_of;
use repo::id::SnapshotId;
use repo::monitor::Void;
use repo::open::Repository;
use repo::pack::source::FrameSource;
use repo::pack::store::PackStore;
use repo::select::{self, Filter};
use repo::snapshots;
use repo::times::{Moment, Times};

use crate::exit::DAMAGED;
use crate::output::Output;

/// The repository, the snapshots that are to be shown, and where complaints go.
pub struct RepositoryView {
    repo: Repository,
    filter: Filter,
    output: Arc<Output>,
    /// Paths of snapshots, where the filter asks for them: a manifest is read once.
    paths: Mutex<BTreeMap<SnapshotId, Vec<Vec<u8>>>>,
}

impl RepositoryView {
    /// Shows what passes `filter`.
    pub fn new(repo: Repository, filter: Filter, output: Arc<Output>) -> RepositoryView {
        RepositoryView { repo, filter, output, paths: Mutex::default() }
    }

    /// Its packs.
    pub fn packs(&self) -> Arc<PackStore> {
        self.repo.packs()
    }

    fn paths_of(&self, id: &SnapshotId) -> Result<Vec<Vec<u8>>> {
        if let Some(known) = self.paths.lock().get(id) {
            return Ok(known.clone());
        }
        let paths = snapshots::manifest(&self.repo, id)?.paths;
        self.paths.lock().insert(*id, paths.clone());
        Ok(paths)
    }
}

/// A snapshot as a mount has it.
pub fn snapshot_info(
    id: &SnapshotId,
    snapshot: &SnapshotState,
    moment: &Moment,
    tenant: Option<String>,
) -> SnapshotInfo {
    SnapshotInfo {
        id: *id,
        tenant: tenant.map(Into::into),
        host: snapshot.host.clone(),
        source: snapshot.source.clone(),
        captured: snapshot.captured.0,
        order: (moment.recorded.0, moment.seq),
        tags: snapshot.tags.iter().cloned().collect(),
    }
}

impl View for RepositoryView {
    fn version(&self) -> Result<u64> {
        self.repo.refresh(&Void::default())?;
        // An open handle would keep the space of a pack that a prune has removed.
        self.repo.backend.close_handles();
        Ok(self.repo.log.position().seq)
    }

    fn snapshots(&self) -> Result<Vec<SnapshotInfo>> {
        let state = self.repo.log.state();
        let times = Times::of(&state, self.repo.clock.now());
        let ids = select::matching(&state, &times, &self.filter, &mut |id| {
            // One damaged manifest must not take all other snapshots out of sight.
            self.paths_of(id).or_else(|e| match e.kind() {
                Kind::Damaged | Kind::NotFound => {
                    self.report("", &e);
                    Ok(Vec::new())
                }
                _ => Err(e),
            })
        })?;
        let by_tenant = self.by_tenant();
        let info = |id: &SnapshotId| {
            let snapshot = state.snapshots.get(id)?;
            let tenant = if by_tenant { tenant_of(&state, snapshot) } else { None };
            Some(snapshot_info(id, snapshot, times.get(id)?, tenant))
        };
        Ok(ids.iter().filter_map(info).collect())
    }

    fn by_tenant(&self) -> bool {
        // One tenant's tree stands alone.
        self.repo.log.state().pool && self.filter.tenants.len() != 1
    }

    fn manifest(&self, id: &SnapshotId) -> Result<Manifest> {
        snapshots::manifest(&self.repo, id)
    }

    fn source(&self) -> Arc<dyn FrameSource> {
        self.repo.store()
    }

    fn usage(&self) -> Result<Usage> {
        let mut stored = 0;
        self.repo.index.packs(&mut |pack| {
            stored += pack.size;
            Ok(())
        })?;
        Ok(Usage { stored, free: self.repo.backend.free_space()?.unwrap_or(0) })
    }

    fn report(&self, path: &str, error: &Error) {
        let place = if path.is_empty() { String::new() } else { format!("{path}: ") };
        let unhelpful = error.kind() == Kind::Damaged && error.what_to_do().is_none();
        let remedy = if unhelpful { format!("; {DAMAGED}") } else { String::new() };
        self.output.complain(format!("packmule: {place}{error}{remedy}"));
    }
}
