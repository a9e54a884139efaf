//! `sync pull`.

use std::time::Instant;

use repo::error::{Error, Result};
use repo::format::record::RemoteState;
use repo::open::{Access, Repository};
use serde::Serialize;
use sync::pull::Report;
use sync::{directory, pull, push, remote};

use super::open::{open_copy, open_repository};
use crate::PROGRAM;
use crate::args::SyncPullArgs;
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::human;
use crate::progress::Job;

/// The result as JSON.
#[derive(Serialize)]
#[serde(tag = "message_type", rename = "summary")]
struct Summary<'a> {
    remote: &'a str,
    snapshots_received: u64,
    /// All 64 digits of each snapshot that could not be had.
    snapshots_failed: Vec<String>,
    chunks_stored: u64,
    /// Before compression.
    bytes_stored: u64,
    total_duration: f64,
}

/// Where a pool has just what is here now, that is noted: nothing of it is to be pushed first. A sealed copy holds packs, and has
/// none of those that were made here.
fn note(ctx: &Context, repo: &Repository, name: &str, known: &RemoteState, done: &Report) -> Result<()> {
    let anew = remote::is_anew(known);
    let Some(position) = done.even.filter(|_| !known.sealed && (anew || done.snapshots > 0)) else { return Ok(()) };
    if anew {
        match push::settle(repo, &remote::dial(known), PROGRAM, position, &ctx.monitor(Job::Look("snapshots"))) {
            Ok(true) => {}
            // The first push finds out by comparing.
            Ok(false) | Err(_) => return Ok(()),
        }
    }
    remote::pushed(repo, name, position)
}

/// Runs `sync pull`.
pub fn run(ctx: &Context, args: &SyncPullArgs) -> Result<ExitCode> {
    let started = Instant::now();
    let repo = open_repository(ctx, Access::Write)?;
    let known = remote::find(&repo, &args.from)?;
    let progress = ctx.monitor(Job::Other("snapshots"));
    let done = match known.sealed {
        true => open_copy(ctx, &repo, &known)
            .and_then(|copy| pull::pull_from(&repo, &mut pull::Copy(copy), &args.ids, &progress)),
        false => pull::pull(&repo, remote::dial(&known), PROGRAM, &args.ids, &progress),
    };
    drop(progress);
    let done = done.and_then(|done| note(ctx, &repo, &args.from, &known, &done).map(|()| done));
    repo.remember();
    let done = done?;
    let elapsed = started.elapsed();
    for (id, why) in &done.failed {
        ctx.output.complain(format!("packmule: snapshot {} could not be had: {why}", id.short()));
    }
    let (count, size) = (human::count(done.snapshots, "snapshot"), human::size(done.bytes));
    if ctx.output.json {
        ctx.output.message(&Summary {
            remote: &args.from,
            snapshots_received: done.snapshots,
            snapshots_failed: done.failed.iter().map(|(id, _)| id.to_hex()).collect(),
            chunks_stored: done.chunks,
            bytes_stored: done.bytes,
            total_duration: elapsed.as_secs_f64(),
        })?;
    } else if done.snapshots == 0 && done.failed.is_empty() {
        ctx.output.remark(format!("everything that {} has is here", args.from))?;
    } else {
        let time = human::duration(elapsed);
        ctx.output.remark(format!("brought back {count} from {}, {size} that were not here, in {time}", args.from))?;
    }
    ctx.output.flush()?;
    if done.failed.is_empty() {
        return Ok(ExitCode::Ok);
    }
    let lost = human::count(done.failed.len() as u64, "snapshot");
    let remedy = match directory::of(&known)? {
        Some(dir) => format!("run `packmule -r {} check --read-data`", repo::error::printable(&dir)),
        None => "ask the pool's operator to run `packmule check --read-data`".to_owned(),
    };
    Err(Error::damaged(format!("{lost} could not be brought back; all others were")).remedy(remedy))
}
