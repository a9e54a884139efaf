//! What a mount needs of a repository. The command line implements it, over a local repository or a remote one.

use std::sync::Arc;

use repo::error::{Error, Result};
use repo::format::manifest::Manifest;
use repo::id::SnapshotId;
use repo::pack::source::FrameSource;

/// One snapshot, as the log and its sealed summary give it: enough for every synthetic directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// The snapshot.
    pub id: SnapshotId,
    /// The tenant below whose directory it stands; none: it stands at the mount point itself.
    pub tenant: Option<Arc<str>>,
    /// The host it was captured on, as captured: it is encoded before it becomes a name.
    pub host: String,
    /// The source's name, as captured.
    pub source: String,
    /// When the capture began, nanoseconds since the epoch.
    pub captured: i64,
    /// Sorts the snapshots from the oldest to the newest, which the time of a wrong clock would not.
    pub order: (i64, u64),
    /// The tags it has now.
    pub tags: Vec<String>,
}

/// Figures for `statfs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes the repository takes.
    pub stored: u64,
    /// Bytes free where it lies; 0 if unknown.
    pub free: u64,
}

/// A repository as a mount sees it. Called from several threads at once.
pub trait View: Send + Sync {
    /// A number that changes whenever what [`View::snapshots`] gives may have changed, such as the log's newest
    /// sequence number. Asked every few seconds: must be cheap and never return a remembered answer.
    ///
    /// # Errors
    /// When the repository cannot be reached; the mount keeps what it has and asks again.
    fn version(&self) -> Result<u64>;

    /// Every snapshot that is not forgotten, in any order. Reads the log again and opens neither trees nor manifests.
    ///
    /// # Errors
    /// As [`View::version`].
    fn snapshots(&self) -> Result<Vec<SnapshotInfo>>;

    /// Whether this is a pool that is shown tenant by tenant: then `tenants` stands at the mount point however few
    /// snapshots there are. Asked once a mount.
    fn by_tenant(&self) -> bool {
        false
    }

    /// The snapshot's manifest.
    ///
    /// # Errors
    /// `NotFound` when it is gone, `Damaged` when it does not open.
    fn manifest(&self, id: &SnapshotId) -> Result<Manifest>;

    /// Where chunks come from. Asked once a mount.
    fn source(&self) -> Arc<dyn FrameSource>;

    /// How much is stored and free. Asked at most every few seconds.
    ///
    /// # Errors
    /// As [`View::version`]; `statfs` then answers with zeros.
    fn usage(&self) -> Result<Usage>;

    /// Tells the user that `path`, relative to the mount point, cannot be served. Called once a file and mount; the
    /// mount goes on.
    fn report(&self, path: &str, error: &Error);
}
