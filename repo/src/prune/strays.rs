//! Packs that are stored and that the log does not have: what a session left that failed before it could record them.
//!
//! No snapshot rests on one by this index, for what a snapshot reaches is recorded before it. But an index that was built
//! anew takes the word of a roll-up that was written and never recorded, and who works by that one may rely on it: so they are
//! condemned like any other pack, and older sessions waited for. Nobody adopts one during a prune, which the prune lock
//! sees to.

use crate::error::{Kind, Result};
use crate::id::PackId;
use crate::monitor::Monitor;
use crate::open::Repository;
use crate::pack::read::{open_footer, sealed_footer};
use crate::rebuild::Listed;

/// The strays, with their sizes. One whose footer does not open is left to `check`.
///
/// # Errors
/// What listing, log and index give: a part of a listing is never taken for the whole.
pub fn find(repo: &Repository, monitor: &dyn Monitor) -> Result<Vec<(PackId, u64)>> {
    // In this order: who stored a pack that is listed has begun, so it is in the state, or has ended and what it
    // recorded is in the index.
    let mut listed = Listed::new(repo.backend.as_ref())?;
    let state = repo.refresh(monitor)?;
    repo.index.packs(&mut |info| {
        listed.mark(&info.id);
        Ok(())
    })?;
    let mut strays = Vec::new();
    for (id, size) in listed.unmarked() {
        let opened =
            sealed_footer(repo.backend.as_ref(), &id).and_then(|(sealed, size)| open_footer(&repo.keys, &sealed, size));
        match opened {
            Ok(footer) if !state.sessions.contains_key(&footer.session) => strays.push((id, size)),
            Ok(_) => {}
            Err(e) if matches!(e.kind(), Kind::Damaged | Kind::NotFound) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(strays)
}
