//! What an operator does at a pool goes to its audit.

use std::time::Instant;

use repo::audit;
use repo::error::Result;
use repo::format::record::AuditEntry;
use repo::history::tenant_of;
use repo::id::SnapshotId;
use repo::open::Repository;

use super::backup::host_name;
use crate::context::Context;

/// The one tenant of a command that names just one.
pub fn only(names: &[String]) -> Option<&str> {
    match names {
        [name] => Some(name),
        _ => None,
    }
}

/// The user whose rights this process has, whatever the environment says.
fn user() -> String {
    let uid = nix::unistd::getuid();
    nix::unistd::User::from_uid(uid).ok().flatten().map_or_else(|| format!("user {uid}"), |user| user.name)
}

/// A command of an operator's that is going on.
pub struct Noted {
    operation: String,
    begun: Instant,
}

impl Noted {
    /// Begins `operation`, such as `tenant set`.
    pub fn begin(operation: &str) -> Noted {
        Noted { operation: operation.to_owned(), begun: Instant::now() }
    }

    /// As [`Noted::end`], of one snapshot.
    pub fn end_of_snapshot<T>(self, ctx: &Context, repo: &Repository, id: &SnapshotId, done: &Result<T>) {
        let state = repo.log.state();
        let tenant = state.snapshots.get(id).and_then(|snapshot| tenant_of(&state, snapshot));
        self.end(ctx, repo, tenant.as_deref(), 1, done);
    }

    /// Records how it ended, if this is a pool: whose it was, if one tenant's, and of how many snapshots. That this cannot be
    /// recorded is said; what was done is done.
    pub fn end<T>(self, ctx: &Context, repo: &Repository, tenant: Option<&str>, snapshots: u64, done: &Result<T>) {
        let state = repo.log.state();
        if !state.pool {
            return;
        }
        // A tenant that was removed just now has a certificate.
        let named = tenant.and_then(|name| {
            let living = state.tenants.iter().find(|(_, tenant)| tenant.name == name).map(|(number, _)| *number);
            living.or_else(|| state.certificates.iter().rev().find(|(_, (_, c))| c.name == name).map(|(n, _)| *n))
        });
        let entry = AuditEntry {
            who: user(),
            from: host_name().unwrap_or_default(),
            tenant: named,
            name: tenant.unwrap_or_default().to_owned(),
            operation: self.operation,
            snapshots,
            failure: done.as_ref().err().map(ToString::to_string).unwrap_or_default(),
            millis: self.begun.elapsed().as_millis() as u64,
            ..AuditEntry::default()
        };
        if let Err(e) = audit::record(repo, entry) {
            ctx.output.complain(format!("packmule: warning: this is not in the audit: {e}"));
        }
        repo.remember();
    }
}
