//! `tenant show`.

use repo::error::Result;
use repo::format::record::TenantState;
use repo::open::Repository;
use repo::stats::Sum;
use repo::{removal, tenants};
use serde::Serialize;

use super::invites::{Open, words};
use super::policy::{Holds, holds, rules, span};
use super::removal::tell_certificate;
use super::{live_snapshots, owned_bytes, standing};
use crate::context::Context;
use crate::output::human;
use crate::output::json;
use crate::progress::Job;

/// A tenant as JSON.
#[derive(Serialize)]
#[serde(tag = "message_type", rename = "tenant")]
struct Shown<'a> {
    name: &'a str,
    sealed: bool,
    suspended: bool,
    connected: bool,
    /// All 64 digits; absent until it has connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    repository: Option<String>,
    made: json::Time,
    /// Absent of a sealed tenant: nobody can tell here.
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshots: Option<u64>,
    /// When the pool received the newest of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_received: Option<json::Time>,
    /// When its last push ended with everything delivered.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_push: Option<json::Time>,
    /// Bytes of its different chunks; absent until that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    owned_bytes: Option<u64>,
    #[serde(flatten)]
    sizes: Option<Sizes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quota: Option<u64>,
    /// Up to this record of its own log all was delivered.
    #[serde(skip_serializing_if = "Option::is_none")]
    complete_to: Option<u64>,
    /// When what is left of one that is being removed goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    removal_due: Option<json::Time>,
    #[serde(flatten)]
    holds: Holds,
    keys: u64,
    keys_revoked: u64,
    invitations: u64,
    open_invitations: Vec<Open<'a>>,
}

/// What `--sizes` tells, as JSON; `bytes` before compression, `stored` as they take room.
#[derive(Serialize)]
struct Sizes {
    unique_bytes: u64,
    unique_stored_bytes: u64,
    shared_bytes: u64,
    shared_stored_bytes: u64,
}

impl Sizes {
    fn of(of: &removal::Sizes) -> Sizes {
        Sizes {
            unique_bytes: of.alone.raw,
            unique_stored_bytes: of.alone.stored,
            shared_bytes: of.shared.raw,
            shared_stored_bytes: of.shared.stored,
        }
    }
}

/// What is stored for the tenant alone, and what for others too; all of a sealed tenant's is its own.
fn sizes_of(ctx: &Context, repo: &Repository, number: u32, tenant: &TenantState) -> Result<removal::Sizes> {
    if tenant.sealed {
        let bytes = owned_bytes(repo, number, tenant)?.unwrap_or(0);
        let mut sizes = removal::Sizes::default();
        (sizes.alone.raw, sizes.alone.stored) = (bytes, bytes);
        return Ok(sizes);
    }
    let progress = ctx.monitor(Job::Look("snapshots"));
    removal::sizes(repo, &repo.log.state(), number, &progress)
}

/// Stands for what a pool cannot know.
const SEALED: &str = "sealed: not readable here";
/// Stands for what takes a while to find out.
const LOOK: &str = "--sizes tells";

/// Shows a tenant.
pub fn show(ctx: &Context, repo: &Repository, name: &str, sizes: bool) -> Result<()> {
    let state = repo.log.state();
    let found = tenants::find(&state, name);
    // Who left has a certificate; of several of one name, the last.
    let left =
        state.certificates.values().filter(|(_, certificate)| certificate.name == name).max_by_key(|(seq, _)| seq);
    if let (Err(_), Some((seq, certificate))) = (&found, left) {
        return tell_certificate(ctx, *seq, certificate);
    }
    let (number, tenant) = found?;
    let now = repo.clock.now();
    let sizes = if sizes { Some(sizes_of(ctx, repo, number, tenant)?) } else { None };
    let own = state.snapshots.values().filter(|s| s.forgotten.is_none());
    let received = own.filter(|s| s.origin.is_some_and(|o| o.tenant == number)).map(|s| s.received).max();
    let revoked = tenant.keys.iter().filter(|key| key.revoked.is_some()).count() as u64;
    let pushed = state.pushes.get(&number).copied();
    let due = repo::removal::due(&state, number, now, false);
    let shown = Shown {
        name,
        sealed: tenant.sealed,
        suspended: tenant.suspended,
        connected: tenant.repository.is_some(),
        repository: tenant.repository.map(|id| id.to_hex()),
        made: json::Time::of(tenant.made),
        snapshots: (!tenant.sealed).then(|| live_snapshots(&state, number)),
        last_received: received.map(json::Time::of),
        last_push: pushed.map(json::Time::of),
        owned_bytes: owned_bytes(repo, number, tenant)?,
        sizes: sizes.as_ref().map(Sizes::of),
        quota: tenant.quota,
        complete_to: tenant.watermark.map(|at| at.seq),
        removal_due: due.map(json::Time::of),
        holds: holds(&state, number),
        keys: tenant.keys.len() as u64 - revoked,
        keys_revoked: revoked,
        invitations: tenants::open_invites(tenant, now).count() as u64,
        open_invitations: tenants::open_invites(tenant, now).map(Open::of).collect(),
    };
    if ctx.output.json {
        return ctx.output.message(&shown);
    }
    let time = |at| human::time(human::timestamp(at));
    let sum = |sum: &Sum| format!("{}, stored as {}", human::size(sum.raw), human::size(sum.stored));
    let never = || "never".to_owned();
    let size = |bytes: Option<u64>, none: &str| bytes.map_or_else(|| none.to_owned(), human::size);
    let hold = span(repo::policy::hold(&state, Some(number)));
    let window = span(repo::policy::window(&state, Some(number)));
    let kept = if tenant.sealed { SEALED.to_owned() } else { rules(&state, Some(number)) };
    let state = standing(tenant);
    let state = due.map_or_else(|| state.to_owned(), |due| format!("{state}, gone from {}", time(due)));
    let lines = [
        ("Tenant", name.to_owned()),
        ("Kind", if tenant.sealed { "sealed" } else { "pooled" }.to_owned()),
        ("State", state),
        ("Made", time(tenant.made)),
        ("Repository", shown.repository.map_or_else(|| "-".to_owned(), |id| id[..16].to_owned())),
        ("Snapshots", shown.snapshots.map_or_else(|| SEALED.to_owned(), |count| count.to_string())),
        ("Received last", if tenant.sealed { SEALED.to_owned() } else { received.map_or_else(never, time) }),
        ("Last push", pushed.map_or_else(never, time)),
        ("Owns", size(shown.owned_bytes, "not known before its next push")),
        ("Unique", sizes.map_or_else(|| LOOK.to_owned(), |sizes| sum(&sizes.alone))),
        ("Shared", sizes.map_or_else(|| LOOK.to_owned(), |sizes| sum(&sizes.shared))),
        ("Quota", size(tenant.quota, "none")),
        ("Hold", hold),
        ("Window", window),
        ("Retention", kept),
        ("Keys", format!("{} in use, {revoked} revoked", shown.keys)),
        ("Invitations", format!("{} open", shown.invitations)),
    ];
    let invites = tenants::open_invites(tenant, now).map(|invite| ("", words(invite)));
    let titled = |what: &str| if what.is_empty() { String::new() } else { format!("{what}:") };
    let mut all = lines.into_iter().chain(invites);
    all.try_for_each(|(what, value)| ctx.output.line(format!("{:<15}{value}", titled(what))))
}
