//! How much a remote has yet to be sent.

use repo::error::Result;
use repo::format::record::Position;
use repo::open::Repository;

use crate::delta::Delta;

/// What was written since a push: the most that the next one sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// Packs.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What came after `from`; everything without it.
///
/// # Errors
/// What log and index give.
pub fn pending(repo: &Repository, from: Option<Position>) -> Result<Pending> {
    let mut pending = Pending::default();
    let mut add = |size: u64| {
        pending.packs += 1;
        pending.bytes += size;
    };
    match Delta::since(repo, from)? {
        Delta::All => repo.index.packs(&mut |info| {
            add(info.size);
            Ok(())
        })?,
        Delta::Since { packs, .. } => {
            for id in packs {
                // One that a prune has removed since is not sent.
                if let Some(info) = repo.index.pack_by_id(&id)? {
                    add(info.size);
                }
            }
        }
    }
    Ok(pending)
}
