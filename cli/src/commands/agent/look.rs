//! Looking at what a site has of this host, and restoring from it.

use repo::error::Result;
use repo::open::Repository;
use sync::agent::window;
use sync::ssh::url::Address;

use super::join::identity;
use crate::PROGRAM;
use crate::context::Context;
use crate::progress::Job;

/// The host's snapshots at the site as they are now, as a repository that reads their chunks over the connection.
///
/// # Errors
/// As [`identity`] and [`window`].
pub fn open(ctx: &Context, site: &Address) -> Result<Repository> {
    let (identity, _) = identity(site)?;
    window(&identity, identity.dial(), PROGRAM, &ctx.monitor(Job::Look("snapshots")))
}
