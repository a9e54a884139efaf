//! Going on after damage: a new checkpoint past everything that is there, and nothing before it.

use std::sync::Arc;

use super::{CHECKPOINT_EVERY, Log, load};
use crate::backend::{Area, Object, Put};
use crate::error::{Error, Kind, Result};
use crate::format::record::{Position, Record, State};
use crate::lock::CommitGuard;

impl Log {
    /// Writes `state` as a checkpoint where the next one is due, durably; from then on readers start there. Then deletes
    /// every record before it: damaged ones would be found again and again, and the rest is in `state`. The chain begins
    /// anew, so every index is rebuilt.
    ///
    /// # Errors
    /// `Locked` if another writer is at it; what the backend gives. Whatever fails, the journal is as it was or restarted.
    pub fn restart(&self, _: &CommitGuard, mut state: State) -> Result<Position> {
        let mut inner = self.inner.lock();
        let newest = load::numbers(&*self.backend)?.last().copied().unwrap_or(0).max(state.position.seq);
        let next = match newest {
            0 => 1,
            newest => load::checkpoint_at_or_before(newest) + CHECKPOINT_EVERY,
        };
        state.begin_anew(next);
        inner.state = Arc::new(state);
        let record = Record::Checkpoint { state: Box::new(State::clone(&inner.state)) };
        if self.put(&mut inner, record)? == Put::Exists {
            let remedy = "try again when it has ended";
            return Err(Error::new(Kind::Locked, "another process is writing to the log").remedy(remedy));
        }
        inner.broken = None;
        let old = load::numbers(&*self.backend)?.into_iter().take_while(|seq| *seq < next);
        old.map(Object::Log).try_for_each(|object| self.backend.delete(&object))?;
        self.backend.sync_deletes(Area::Log)?;
        Ok(inner.state.position)
    }
}
