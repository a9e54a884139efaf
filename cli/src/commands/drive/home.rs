//! `drive import` at a site.

use std::path::Path;
use std::time::Instant;

use repo::error::{Error, Result};
use repo::open::{Access, Repository};
use serde::Serialize;
use sync::drive::home::{Imported, import};
use sync::drive::{self, Drive};

use super::import::Round;
use super::open_drive;
use crate::context::Context;
use crate::output::human;
use crate::progress::Job;

/// An import as JSON.
#[derive(Serialize)]
#[serde(tag = "message_type", rename = "summary")]
struct Summary {
    drive: String,
    packs: u64,
    packs_taken: u64,
    bytes_taken: u64,
    /// Packs of which everything was here already.
    packs_known: u64,
    /// All 64 digits of each pack that was not taken, and why.
    packs_bad: Vec<(String, String)>,
    snapshots_taken: u64,
    /// All 64 digits of each snapshot that lacks something still, and how many pieces at least.
    snapshots_waiting: Vec<(String, u64)>,
    snapshots_failed: Vec<(String, String)>,
    /// Other drives that this one names.
    elsewhere: Vec<String>,
    total_duration: f64,
}

/// Takes in what the drive in `dir` has brought back. Whether snapshots wait for something.
pub fn run(ctx: &Context, repo: &Repository, dir: &Path, round: Round) -> Result<bool> {
    let started = Instant::now();
    let drive = open_drive(ctx, repo, dir, Access::Read)?;
    let progress = ctx.monitor(Job::Transfer);
    let done = import(repo, &drive, &progress);
    drop(progress);
    let done = done?;
    let state = repo.log.state();
    let come = state.drives.iter().filter(|(_, known)| known.back).map(|(id, _)| *id).collect::<Vec<_>>();
    let absent = drive::absent(drive.id, &drive.repo, &come);
    let others: Vec<String> = absent.iter().map(|(id, state)| super::name(id, state)).collect();
    if !round.is_silent(done.snapshots) {
        tell(ctx, &drive, &done, &others, started)?;
    }
    if round != Round::OneOfSeveral && !ctx.output.json {
        tell_waiting(ctx, &done, &others)?;
    }
    if done.bad.is_empty() && done.failed.is_empty() {
        return Ok(!done.waiting.is_empty());
    }
    Err(Error::damaged("not everything on the drive could be read")
        .remedy("what is sound is here; `packmule sync pull` brings the rest from the pool, or another drive does"))
}

fn tell(ctx: &Context, drive: &Drive, done: &Imported, others: &[String], started: Instant) -> Result<()> {
    if ctx.output.json {
        return ctx.output.message(&Summary {
            drive: drive.id.to_hex(),
            packs: done.packs,
            packs_taken: done.taken,
            bytes_taken: done.bytes,
            packs_known: done.known,
            packs_bad: done.bad.iter().map(|(id, why)| (id.to_hex(), why.clone())).collect(),
            snapshots_taken: done.snapshots,
            snapshots_waiting: done.waiting.iter().map(|(id, n)| (id.to_hex(), *n)).collect(),
            snapshots_failed: done.failed.iter().map(|(id, why)| (id.to_hex(), why.clone())).collect(),
            elsewhere: others.to_vec(),
            total_duration: started.elapsed().as_secs_f64(),
        });
    }
    ctx.output.line(format!(
        "took {} of {}, {}, from drive {} in {}; {} were here already",
        done.taken,
        human::count(done.packs, "pack"),
        human::size(done.bytes),
        drive.id.short(),
        human::duration(started.elapsed()),
        done.known
    ))?;
    ctx.output.line(format!("{} back", human::count(done.snapshots, "snapshot")))?;
    for (id, why) in &done.bad {
        ctx.output.line(format!("not taken: pack {}: {}", id.short(), why.escape_debug()))?;
    }
    for (id, why) in &done.failed {
        ctx.output.line(format!("not taken: snapshot {}: {}", id.short(), why.escape_debug()))?;
    }
    Ok(())
}

fn tell_waiting(ctx: &Context, done: &Imported, others: &[String]) -> Result<()> {
    for (id, n) in &done.waiting {
        let lacks = human::count(*n, "piece");
        ctx.output.line(format!("snapshot {} waits: {lacks} or more are not here yet", id.short()))?;
    }
    if !done.waiting.is_empty() {
        let on = match others {
            [] => "on another drive".to_owned(),
            some => format!("on drive {}, or on one made later", some.join(" or ")),
        };
        ctx.output.line(format!("what they lack is {on}: import that as well"))?;
    }
    Ok(())
}
