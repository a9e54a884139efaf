//! `check --heal`: what is damaged here comes from a remote, and what the remote has lost goes there.

use repo::check::ReadData;
use repo::error::{Error, Kind, Result};
use repo::monitor::Event;
use repo::monitor::Monitor;
use repo::open::Repository;
use serde::Serialize;
use sync::heal::{self, Healed};
use sync::pull::Pooled;
use sync::remote;

use crate::PROGRAM;
use crate::commands::sync::{heal_pooled, heal_sealed};
use crate::context::Context;
use crate::output::human;
use crate::progress::Job;

/// What was done, as JSON.
#[derive(Serialize)]
#[serde(tag = "message_type", rename = "healed")]
struct Line<'a> {
    remote: &'a str,
    packs: u64,
    chunks: u64,
    snapshots: u64,
    rollups: u64,
    /// Fetched for it.
    bytes: u64,
    /// What the remote could not give.
    failed: &'a [String],
    /// Sent to the remote, which had lost it.
    bytes_sent: u64,
}

/// Heals both sides, a directory as far as `read` says; whether anything was healed here. `recorded`: the log knows what the check before found.
pub fn heal(ctx: &Context, repo: &Repository, name: &str, read: ReadData, recorded: bool) -> Result<bool> {
    let known = remote::find(repo, name)?;
    if !recorded {
        return Err(Error::new(Kind::ReadOnly, "nothing can be healed where the result of a check cannot be recorded")
            .remedy("see what keeps the repository from being written"));
    }
    let progress = ctx.monitor(Job::Other("packs"));
    progress.event(Event::Phase("healing"));
    let healed = match known.sealed {
        true => remote::copy(&known, repo.config.repo_id, PROGRAM)
            .and_then(|(copy, _)| heal::from_copy(repo, copy.as_ref(), &progress)),
        false => Pooled::of(repo, remote::dial(&known), PROGRAM)
            .and_then(|mut other| heal::from_snapshots(repo, &mut other, &progress)),
    }?;
    let sent = match known.sealed {
        true => heal_sealed(repo, name, &known, read, &progress),
        false => heal_pooled(repo, name, &known, &progress),
    };
    drop(progress);
    tell(ctx, name, &healed, sent?)?;
    Ok(healed.packs + healed.chunks + healed.manifests + healed.rollups > 0)
}

fn tell(ctx: &Context, name: &str, healed: &Healed, sent: u64) -> Result<()> {
    let Healed { packs, chunks, manifests, rollups, bytes, failed } = healed;
    if ctx.output.json {
        return ctx.output.message(&Line {
            remote: name,
            packs: *packs,
            chunks: *chunks,
            snapshots: *manifests,
            rollups: *rollups,
            bytes: *bytes,
            failed,
            bytes_sent: sent,
        });
    }
    let what = [(*packs, "pack"), (*chunks, "chunk"), (*manifests, "manifest"), (*rollups, "roll-up")];
    let what: Vec<String> = what.iter().filter(|(n, _)| *n > 0).map(|(n, noun)| human::count(*n, noun)).collect();
    match what.is_empty() {
        true => ctx.output.remark(format!("nothing had to be fetched from {name}"))?,
        false => ctx.output.remark(format!("fetched {} from {name}, {}", what.join(", "), human::size(*bytes)))?,
    }
    if sent > 0 {
        ctx.output.remark(format!("sent {} to {name}, which lacked it", human::size(sent)))?;
    }
    ctx.output.remark("checking again")
}
