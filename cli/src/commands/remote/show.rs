//! `remote show` and `remote test`.

use repo::error::{Kind, Result};
use repo::open::Repository;
use serde::Serialize;
use sync::ssh::keys::{KeyPair, PublicKey};
use sync::{directory, remote};

use super::{kind, pending, place};
use crate::context::Context;
use crate::output::{human, json};

/// A remote as JSON.
#[derive(Serialize)]
#[serde(tag = "message_type", rename = "remote")]
struct Shown<'a> {
    name: &'a str,
    url: &'a str,
    /// `pooled`, `sealed` or `directory`.
    kind: &'static str,
    /// Empty for a directory.
    tenant: &'a str,
    sealed: bool,
    /// The fingerprint of the key that the server must show; none for a directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    host_key: Option<String>,
    /// The fingerprint of the key that this repository shows there; none for a directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    pending_snapshots: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pushed: Option<json::Time>,
    /// Up to this record of the log everything is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    complete_to: Option<u64>,
}

/// How a test went, as JSON.
#[derive(Serialize)]
#[serde(tag = "message_type", rename = "remote_test")]
struct Tested<'a> {
    remote: &'a str,
    url: &'a str,
    /// Of a directory, how long it took to look at it; none where no copy was made yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    round_trip_seconds: Option<f64>,
}

/// Shows all there is to know of a remote.
pub fn show(ctx: &Context, repo: &Repository, name: &str) -> Result<()> {
    let known = remote::find(repo, name)?;
    let server = directory::of(&known)?.is_none();
    let host_key = server.then(|| PublicKey::parse(&known.host_key)).transpose()?.map(|key| key.fingerprint());
    let key = server.then(|| KeyPair::from_text(&known.key.0)).transpose()?.map(|key| key.public().fingerprint());
    let shown = Shown {
        name,
        url: &known.url,
        kind: kind(&known),
        tenant: &known.tenant,
        sealed: known.sealed,
        host_key,
        key,
        pending_snapshots: pending(&repo.log.state(), &known),
        pushed: known.pushed_at.map(json::Time::of),
        complete_to: known.pushed.map(|at| at.seq).filter(|seq| *seq > 0),
    };
    if ctx.output.json {
        return ctx.output.message(&shown);
    }
    let last = known.pushed_at.map_or_else(|| "never".to_owned(), |at| human::time(human::timestamp(at)));
    let mut lines = vec![
        ("Remote", name.to_owned()),
        ("Where", place(&known)),
        ("Kind", shown.kind.to_owned()),
        ("Last push", last),
        ("Complete to", shown.complete_to.map_or_else(|| "-".to_owned(), |seq| format!("record {seq} of the log"))),
        ("Not there yet", human::count(shown.pending_snapshots, "snapshot")),
    ];
    if let (Some(host_key), Some(key)) = (shown.host_key, shown.key) {
        let whose = [("Tenant", known.tenant.clone()), ("Host key", host_key), ("Our key", key)];
        lines.splice(3..3, whose);
    }
    lines.iter().try_for_each(|(what, value)| ctx.output.line(format!("{:<15}{value}", format!("{what}:"))))
}

/// Connects to a remote, or looks at its directory.
pub fn test(ctx: &Context, repo: &Repository, name: &str) -> Result<()> {
    let known = remote::find(repo, name)?;
    let taken = match remote::test(&known, repo.config.repo_id) {
        Err(e) if e.kind() == Kind::NoRepository => None,
        taken => Some(taken?),
    };
    if ctx.output.json {
        let round_trip_seconds = taken.map(|taken| taken.as_secs_f64());
        return ctx.output.message(&Tested { remote: name, url: &known.url, round_trip_seconds });
    }
    let millis = taken.map(|taken| format!("{:.1} ms", taken.as_secs_f64() * 1000.0));
    ctx.output.line(match (millis, directory::of(&known)?) {
        (Some(millis), None) => format!("{name} answers; a round trip takes {millis}"),
        (Some(millis), Some(_)) => format!("{name} is there; to look at it took {millis}"),
        (None, _) => format!("{name} holds nothing yet; `packmule sync push {name}` makes the copy"),
    })
}
