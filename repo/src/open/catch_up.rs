//! Keeping an index up with the log: on request, and for a reader that does not find a chunk where the index has it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::backend::Backend;
use crate::crypto::keys::Keys;
use crate::error::Result;
use crate::follow::{Followed, follow};
use crate::format::record::Position;
use crate::index::Index;
use crate::log::Log;
use crate::monitor::{Monitor, Void};
use crate::rebuild::rebuild;

/// After an attempt that failed, none is made for so long: each might wait for a disk that is gone.
const PAUSE: Duration = Duration::from_secs(10);

/// Brings the index up to the log as it is known; builds it anew where the log was compacted past it.
///
/// # Errors
/// What log, backend and index give.
pub(crate) fn bring_up(
    backend: &dyn Backend,
    keys: &Keys,
    log: &Log,
    index: &Index,
    monitor: &dyn Monitor,
) -> Result<()> {
    if !index.writable() {
        // Somebody else's index: whoever writes it brings it up to date.
        return index.refresh().map(drop);
    }
    if follow(backend, keys, log, index)?.0 == Followed::No {
        rebuild(backend, keys, log, index.dir(), monitor)?;
        index.refresh()?;
    }
    Ok(())
}

/// For readers that meet a chunk which is not where the index has it: another machine may have pruned since. A pack that
/// is really lost costs a look for the log's next record for each of its chunks, and nothing more.
pub(super) struct CatchUp {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) keys: Arc<Keys>,
    pub(super) log: Arc<Log>,
    pub(super) index: Index,
    pub(super) last: Mutex<Last>,
}

/// What the last attempt came to.
#[derive(Default)]
pub(super) struct Last {
    reached: Option<Position>,
    failed: Option<Instant>,
}

impl CatchUp {
    /// Brings the index up to date if anybody did anything. What fails is not told of: what is wrong with the chunk is.
    pub(super) fn run(&self) {
        let mut last = self.last.lock();
        if last.failed.is_some_and(|at| at.elapsed() < PAUSE) {
            return;
        }
        last.failed = match self.follow(last.reached) {
            Ok(reached) => {
                last.reached = Some(reached);
                None
            }
            Err(_) => Some(Instant::now()),
        };
    }

    fn follow(&self, reached: Option<Position>) -> Result<Position> {
        self.log.refresh()?;
        let rebuilt = self.index.refresh()?;
        let now = self.log.position();
        if rebuilt || reached != Some(now) {
            bring_up(self.backend.as_ref(), &self.keys, &self.log, &self.index, &Void::default())?;
        }
        Ok(now)
    }
}
