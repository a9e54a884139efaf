//! A site that was made anew gets its agents back from its pool.

use repo::agents;
use repo::error::Result;
use repo::format::record::RemoteState;
use repo::open::Repository;

use crate::fetch;
use crate::remote;
use crate::wire::Message;

/// Fetches what the site left at its pool, and takes its agents and its server's key back. Returns how many agents that were.
///
/// # Errors
/// `Unreachable`; `Damaged` if what the pool gives is not this site's; what the log gives.
pub fn bring_back(repo: &Repository, remote: &RemoteState, program: &str) -> Result<u64> {
    let mut connection = fetch::begin(remote::dial(remote)()?, repo.config.repo_id, program)?;
    connection.send(&Message::Recall)?;
    connection.flush()?;
    match connection.receive()? {
        Some(Message::Recalled { sealed, .. }) if sealed.is_empty() => Ok(0),
        Some(Message::Recalled { mark, sealed }) => agents::take_back(repo, &mark, &sealed),
        other => Err(fetch::unexpected(other)),
    }
}
