//! `tenant show`.

use repo::error::Result;
use repo::open::Repository;
use repo::tenants;
use serde::Serialize;

use super::policy::{Holds, holds, rules, span};
use super::removal::tell_certificate;
use super::{live_snapshots, owned_bytes, standing};
use crate::context::Context;
use crate::output::human;
use crate::output::json;

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
    snapshots: u64,
    /// When the pool received the newest of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_received: Option<json::Time>,
    /// Bytes of its different chunks; absent until that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    owned_bytes: Option<u64>,
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
}

/// Shows a tenant.
pub fn show(ctx: &Context, repo: &Repository, name: &str) -> Result<()> {
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
    let own = state.snapshots.values().filter(|s| s.forgotten.is_none());
    let received = own.filter(|s| s.origin.is_some_and(|o| o.tenant == number)).map(|s| s.received).max();
    let revoked = tenant.keys.iter().filter(|key| key.revoked.is_some()).count() as u64;
    let due = repo::removal::due(&state, number, now, false);
    let shown = Shown {
        name,
        sealed: tenant.sealed,
        suspended: tenant.suspended,
        connected: tenant.repository.is_some(),
        repository: tenant.repository.map(|id| id.to_hex()),
        made: json::Time::of(tenant.made),
        snapshots: live_snapshots(&state, number),
        last_received: received.map(json::Time::of),
        owned_bytes: owned_bytes(repo, number, tenant)?,
        quota: tenant.quota,
        complete_to: tenant.watermark.map(|at| at.seq),
        removal_due: due.map(json::Time::of),
        holds: holds(&state, number),
        keys: tenant.keys.len() as u64 - revoked,
        keys_revoked: revoked,
        invitations: tenant.invites.iter().filter(|invite| invite.expires > now).count() as u64,
    };
    if ctx.output.json {
        return ctx.output.message(&shown);
    }
    let time = |at| human::time(human::timestamp(at));
    let size = |bytes: Option<u64>, none: &str| bytes.map_or_else(|| none.to_owned(), human::size);
    let hold = span(repo::policy::hold(&state, Some(number)));
    let window = span(repo::policy::window(&state, Some(number)));
    let kept = rules(&state, Some(number));
    let state = match standing(tenant) {
        "" => "connected",
        why => why,
    };
    let state = due.map_or_else(|| state.to_owned(), |due| format!("{state}, gone from {}", time(due)));
    let lines = [
        ("Tenant", name.to_owned()),
        ("Kind", if tenant.sealed { "sealed" } else { "pooled" }.to_owned()),
        ("State", state),
        ("Made", time(tenant.made)),
        ("Repository", shown.repository.map_or_else(|| "-".to_owned(), |id| id[..16].to_owned())),
        ("Snapshots", shown.snapshots.to_string()),
        ("Received last", received.map_or_else(|| "never".to_owned(), time)),
        ("Owns", size(shown.owned_bytes, "not known before its next push")),
        ("Quota", size(tenant.quota, "none")),
        ("Hold", hold),
        ("Window", window),
        ("Retention", kept),
        ("Keys", format!("{} in use, {revoked} revoked", shown.keys)),
        ("Invitations", format!("{} open", shown.invitations)),
    ];
    lines.iter().try_for_each(|(what, value)| ctx.output.line(format!("{:<15}{value}", format!("{what}:"))))
}
