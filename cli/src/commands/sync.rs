//! `sync`.

use std::path::Path;
use std::time::{Duration, Instant};

use repo::backend::local::Local;
use repo::error::{Error, Kind, Result};
use repo::lock::Locks;
use repo::open::{Access, Repository};
use serde::Serialize;
use sync::sealed::{self, Options, Report};

use super::open::{open_repository, place};
use crate::args::{SyncAction, SyncArgs, SyncPushArgs};
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::human;
use crate::progress::Job;

/// The result as JSON.
#[derive(Serialize)]
#[serde(tag = "message_type", rename = "summary")]
struct Summary {
    packs_sent: u64,
    snapshots_sent: u64,
    /// Of all objects.
    bytes_sent: u64,
    objects_deleted: u64,
    /// All 64 digits of each pack that is damaged here and was not sent.
    packs_damaged: Vec<String>,
    /// The number of the log's last record, which the copy has now.
    position: u64,
    total_duration: f64,
}

/// Runs `sync`.
pub fn run(ctx: &Context, args: SyncArgs) -> Result<ExitCode> {
    match args.action {
        SyncAction::Push(args) => push(ctx, &args),
        SyncAction::Promote => promote(ctx),
    }
}

fn push(ctx: &Context, args: &SyncPushArgs) -> Result<ExitCode> {
    let started = Instant::now();
    let repo = open_repository(ctx, Access::Read)?;
    if let Some(e) = &repo.rolled_back {
        return Err(Error::new(Kind::RolledBack, e.to_string()));
    }
    refuse_inside(&repo, &args.to)?;
    let copy = Local::copy_of(&args.to, repo.config.repo_id)?;
    let busy = |e: Error| match e.kind() {
        Kind::Locked => Error::new(Kind::Locked, "another push to this copy is running:")
            .at(copy.root())
            .remedy("wait until it ends"),
        _ => e,
    };
    let _one_at_a_time = Locks::file(&copy.lock_path()).prune(Duration::ZERO).map_err(busy)?;
    let progress = ctx.monitor(Job::Other("packs"));
    let done = sealed::push(&repo, &copy, Options { audit: args.audit, delete: args.delete }, &progress);
    drop(progress);
    repo.remember();
    let done = done?;
    tell(ctx, &done, copy.root(), started.elapsed())?;
    if done.damaged.is_empty() {
        return Ok(ExitCode::Ok);
    }
    let count = human::count(done.damaged.len() as u64, "pack");
    Err(Error::damaged(format!("{count} could not be copied, being damaged here; everything else was"))
        .remedy("`packmule check --read-data` tells what that touches"))
}

fn tell(ctx: &Context, done: &Report, to: &Path, elapsed: Duration) -> Result<()> {
    if ctx.output.json {
        ctx.output.message(&Summary {
            packs_sent: done.packs,
            snapshots_sent: done.snapshots,
            bytes_sent: done.bytes,
            objects_deleted: done.deleted,
            packs_damaged: done.damaged.iter().map(|id| id.to_hex()).collect(),
            position: done.now.seq,
            total_duration: elapsed.as_secs_f64(),
        })?;
        return ctx.output.flush();
    }
    let to = human::path(to.as_os_str().as_encoded_bytes());
    if done.bytes == 0 && done.deleted == 0 {
        ctx.output.remark(format!("the copy in {to} is up to date"))?;
        return ctx.output.flush();
    }
    let (packs, snapshots) = (human::count(done.packs, "pack"), human::count(done.snapshots, "snapshot"));
    let (bytes, time) = (human::size(done.bytes), human::duration(elapsed));
    ctx.output.remark(format!("copied {snapshots} in {packs}, {bytes}, to {to} in {time}"))?;
    if done.deleted > 0 {
        ctx.output.remark(format!("removed {} that the repository has no more", human::count(done.deleted, "file")))?;
    }
    ctx.output.flush()
}

/// A copy within the repository would go with it.
fn refuse_inside(repo: &Repository, to: &Path) -> Result<()> {
    let Some(root) = repo.root.as_ref().and_then(|root| root.canonicalize().ok()) else { return Ok(()) };
    let to = std::path::absolute(to).map_err(|e| Error::io("find the working directory of", to, e))?;
    // The copy may not be there yet: what there is of its path tells.
    let there = to.ancestors().find_map(|dir| dir.canonicalize().ok());
    if there.is_some_and(|dir| dir.starts_with(&root)) {
        return Err(Error::new(Kind::Refused, "the copy would lie in the repository itself:")
            .at(to)
            .remedy("name a directory on another disk"));
    }
    Ok(())
}

fn promote(ctx: &Context) -> Result<ExitCode> {
    let root = place(ctx)?.root;
    if Local::copy_mark(&root)?.is_none() {
        return Err(Error::new(Kind::Refused, "this is no copy, or was promoted already:")
            .at(root)
            .remedy("name the copy with -r"));
    }
    // A copy that cannot be opened, or whose first push did not end, does not become a repository.
    let repo = open_repository(ctx, Access::Read)?;
    let snapshots = repo.log.state().snapshots.values().filter(|s| s.forgotten.is_none()).count();
    drop(repo);
    Local::open(&root, false)?.promote()?;
    let count = human::count(snapshots as u64, "snapshot");
    ctx.output.remark(format!("this is a repository of its own now, with {count}; pushes to it are refused"))?;
    ctx.output.flush()?;
    Ok(ExitCode::Ok)
}
