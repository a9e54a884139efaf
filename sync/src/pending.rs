//! How much a remote has yet to be sent.

use repo::error::Result;
use repo::format::record::Position;
use repo::index::PackInfo;
use repo::open::Repository;

use crate::delta::Delta;

/// What was written since a push: the most that the next one sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// Packs.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of packs that are on their way on drives, and not in these.
    pub posted: u64,
}

/// What came after `from`, everything without it, that is to go to the remote of this name.
///
/// # Errors
/// What log and index give.
pub fn pending(repo: &Repository, remote: &str, from: Option<Position>) -> Result<Pending> {
    let mut pending = Pending::default();
    let (state, to) = (repo.log.state(), (repo.config.repo_id, remote));
    let (away, come) = (state.under_way(Some(to)), state.come(to));
    let mut add = |info: &PackInfo| -> Result<()> {
        if repo.index.posted(&away, &info.id)?.is_some() {
            pending.posted += info.size;
        } else if repo.index.posted(&come, &info.id)?.is_none() {
            pending.packs += 1;
            pending.bytes += info.size;
        }
        Ok(())
    };
    match Delta::since(repo, from)? {
        Delta::All => repo.index.packs(&mut add)?,
        Delta::Since { packs, .. } => {
            for id in packs {
                // One that a prune has removed since is not sent.
                if let Some(info) = repo.index.pack_by_id(&id)? {
                    add(&info)?;
                }
            }
        }
    }
    Ok(pending)
}
