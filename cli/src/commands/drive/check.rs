//! `drive check`; and `check`, of transfer drives.

use std::path::{Path, PathBuf};
use std::time::Instant;

use repo::error::Result;
use repo::open::{Access, Repository};
use serde::Serialize;
use sync::drive::{self, Drive, check};

use super::super::open::open_repository;
use super::{called, import, name, open_drive};
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::human;
use crate::progress::Job;

/// A check as JSON.
#[derive(Serialize)]
#[serde(tag = "message_type", rename = "summary")]
struct Summary {
    drives: Vec<String>,
    packs: u64,
    bytes: u64,
    /// Each with what is wrong.
    packs_bad: Vec<(String, String)>,
    /// Those that hold fewer packs than they were left with, though none is missed by name.
    changed: Vec<String>,
    snapshots_whole: u64,
    /// Each with the pieces met that are not on these drives.
    snapshots_partly: Vec<(String, u64)>,
    snapshots_failed: Vec<(String, String)>,
    total_duration: f64,
}

/// Reads everything on the drives in `dirs`; with `frames` it is opened, too.
pub fn run(ctx: &Context, dirs: &[PathBuf], frames: bool) -> Result<ExitCode> {
    let started = Instant::now();
    let repo = open_repository(ctx, Access::Read)?;
    let drives: Vec<Drive> = dirs.iter().map(|dir| open(ctx, &repo, dir)).collect::<Result<_>>()?;
    let progress = ctx.monitor(Job::Other("packs"));
    let done = check::check(&drives, frames, &progress);
    drop(progress);
    let done = done?;
    if ctx.output.json {
        let bad = done.drives.iter().flat_map(|on| &on.bad);
        let changed = drives.iter().zip(&done.drives).filter(|(_, on)| on.changed);
        ctx.output.message(&Summary {
            drives: drives.iter().map(|drive| drive.id.to_hex()).collect(),
            packs: done.drives.iter().map(|on| on.packs).sum(),
            bytes: done.drives.iter().map(|on| on.bytes).sum(),
            packs_bad: bad.map(|(id, why)| (id.to_hex(), why.clone())).collect(),
            changed: changed.map(|(drive, _)| drive.id.to_hex()).collect(),
            snapshots_whole: done.whole,
            snapshots_partly: done.partly.iter().map(|(id, n)| (id.to_hex(), *n)).collect(),
            snapshots_failed: done.failed.iter().map(|(id, why)| (id.to_hex(), why.clone())).collect(),
            total_duration: started.elapsed().as_secs_f64(),
        })?;
    } else {
        tell(ctx, &drives, &done)?;
    }
    ctx.output.flush()?;
    Ok(if done.is_sound() { ExitCode::Ok } else { ExitCode::Found })
}

/// At the site that writes to it, so that what is damaged is noted on it, if that can be: the next export then writes it anew.
fn open(ctx: &Context, repo: &Repository, dir: &Path) -> Result<Drive> {
    let at_site = !repo.log.state().pool && ctx.target().is_ok_and(|root| !is_drive(root));
    if at_site
        && let Ok(drive) = open_drive(ctx, repo, dir, Access::Write)
        && drive.state().is_ok_and(|state| !state.back)
    {
        return Ok(drive);
    }
    import::open(ctx, repo, dir, Access::Read)
}

/// Whether there is a transfer drive.
pub fn is_drive(root: &Path) -> bool {
    repo::backend::local::Local::drive_mark(root).is_ok_and(|mark| mark.is_some())
}

fn tell(ctx: &Context, drives: &[Drive], done: &check::Checked) -> Result<()> {
    for (drive, on) in drives.iter().zip(&done.drives) {
        let (which, packs) = (called(drive), human::count(on.packs, "pack"));
        ctx.output.line(format!("drive {which}: {packs}, {}: each is what it is called", human::size(on.bytes)))?;
        for (id, why) in &on.bad {
            ctx.output.line(format!("pack {}: {}", id.short(), why.escape_debug()))?;
        }
        if on.changed {
            ctx.output.line("the drive holds fewer packs than it was left with")?;
        }
    }
    let here = if drives.len() == 1 { "this drive" } else { "these drives" };
    ctx.output.line(format!("{} whole on {here}", human::count(done.whole, "snapshot")))?;
    for (id, n) in &done.partly {
        let pieces = human::count(*n, "piece");
        ctx.output.line(format!("snapshot {}: {pieces} or more are not on {here}", id.short()))?;
    }
    let ids: Vec<_> = drives.iter().map(|drive| drive.id).collect();
    let mut absent: Vec<String> = Vec::new();
    for drive in drives {
        absent.extend(drive::absent(drive.id, &drive.repo, &ids).iter().map(|(id, state)| name(id, state)));
    }
    absent.sort();
    absent.dedup();
    if !done.partly.is_empty() && !absent.is_empty() {
        ctx.output.line(format!("others that go the same way, and are not here: {}", absent.join(", ")))?;
    }
    for (id, why) in &done.failed {
        ctx.output.line(format!("snapshot {}: {}", id.short(), why.escape_debug()))?;
    }
    Ok(())
}
