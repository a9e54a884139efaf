//! Several drives of one repository, or one, as a mount sees them.

use std::collections::BTreeMap;
use std::sync::Arc;

use fs::view::{SnapshotInfo, Usage, View};
use repo::error::{Error, Kind, Result};
use repo::format::manifest::Manifest;
use repo::id::SnapshotId;
use repo::pack::source::FrameSource;
use sync::drive::several::Several;

use crate::view::RepositoryView;

/// The drives. What a snapshot reaches may lie on any of them.
pub struct DrivesView {
    drives: Vec<RepositoryView>,
    source: Arc<Several>,
}

impl DrivesView {
    /// Of these, of one repository: at least one.
    pub fn new(drives: Vec<RepositoryView>) -> DrivesView {
        let source = Arc::new(Several::new(drives.iter().map(RepositoryView::packs).collect()));
        DrivesView { drives, source }
    }
}

impl View for DrivesView {
    fn version(&self) -> Result<u64> {
        self.drives.iter().map(View::version).sum()
    }

    fn snapshots(&self) -> Result<Vec<SnapshotInfo>> {
        let mut all: BTreeMap<SnapshotId, SnapshotInfo> = BTreeMap::new();
        for drive in &self.drives {
            all.extend(drive.snapshots()?.into_iter().map(|mut info| {
                // Each drive numbers its records in its own way.
                info.order.1 = 0;
                (info.id, info)
            }));
        }
        Ok(all.into_values().collect())
    }

    fn manifest(&self, id: &SnapshotId) -> Result<Manifest> {
        let mut failed = None;
        for drive in &self.drives {
            match drive.manifest(id) {
                Ok(manifest) => return Ok(manifest),
                Err(e) if failed.is_none() || e.kind() != Kind::NotFound => failed = Some(e),
                Err(_) => {}
            }
        }
        Err(failed.unwrap_or_else(|| Error::bug("a mount of no drives")))
    }

    fn source(&self) -> Arc<dyn FrameSource> {
        Arc::clone(&self.source) as Arc<dyn FrameSource>
    }

    fn usage(&self) -> Result<Usage> {
        let mut sum = Usage::default();
        for drive in &self.drives {
            let usage = drive.usage()?;
            sum.stored += usage.stored;
            sum.free += usage.free;
        }
        Ok(sum)
    }

    fn report(&self, path: &str, error: &Error) {
        if let Some(first) = self.drives.first() {
            first.report(path, error);
        }
    }
}
