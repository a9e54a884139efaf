//! `sync`.

mod sealed;

use std::path::Path;
use std::time::{Duration, Instant};

use repo::backend::local::Local;
use repo::error::{Error, Kind, Result};
use repo::format::record::RemoteState;
use repo::lock::Locks;
use repo::monitor::{Event, Monitor};
use repo::open::{Access, Repository};
use repo::tenants::valid_name;
use serde::Serialize;
use sync::remote;
use sync::sealed::{Directory, Options, Report, mirror};
use sync::serve::objects::copy_dir;

use super::again::again;
use super::open::{open_repository, place};
use crate::PROGRAM;
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

/// The result of a push to a remote as JSON.
#[derive(Serialize)]
#[serde(tag = "message_type", rename = "summary")]
struct RemoteSummary<'a> {
    remote: &'a str,
    tenant: &'a str,
    packs_sent: u64,
    snapshots_sent: u64,
    /// All 64 digits of each snapshot that is not there.
    snapshots_failed: Vec<String>,
    /// All 64 digits of each pack that the remote would not take.
    packs_refused: Vec<String>,
    bytes_sent: u64,
    /// Of packs that came since the last push: what the remote had of them.
    bytes_skipped: u64,
    total_duration: f64,
}

/// Runs `sync`.
pub fn run(ctx: &Context, args: SyncArgs) -> Result<ExitCode> {
    args.rates.apply()?;
    match args.action {
        SyncAction::Push(args) => push(ctx, &args),
        SyncAction::Pull(args) => super::pull::run(ctx, &args),
        SyncAction::Status(args) => super::sync_status::run(ctx, &args),
        SyncAction::Promote => promote(ctx),
    }
}

fn push(ctx: &Context, args: &SyncPushArgs) -> Result<ExitCode> {
    let started = Instant::now();
    match args.to.to_str().filter(|name| valid_name(name).is_ok()) {
        Some(name) => to_remote(ctx, args, name, started),
        // What has a slash in it is a directory.
        None => to_directory(ctx, args, Path::new(&args.to), started),
    }
}

fn to_remote(ctx: &Context, args: &SyncPushArgs, name: &str, started: Instant) -> Result<ExitCode> {
    // It notes how far the remote has everything.
    let repo = open_repository(ctx, Access::Write)?;
    let known = remote::find(&repo, name).map_err(|e| {
        e.remedy(format!("`packmule remote list` shows those there are; write ./{name} for a directory"))
    })?;
    super::profiles::keep(ctx, &repo);
    if known.sealed {
        return sealed::to_remote(ctx, args, name, &repo, &known, started);
    }
    if args.delete {
        return Err(Error::new(Kind::Usage, "--delete is for copies: a pool keeps what it has, by rules of its own")
            .remedy("leave --delete out"));
    }
    let report = again(ctx, args.retry, &mut || {
        let progress = ctx.monitor(Job::Transfer);
        push_once(&repo, &known, args.audit, &progress)
    })?;
    if let Some(position) = report.watermark {
        remote::pushed(&repo, name, position)?;
    }
    repo.remember();
    tell_remote(ctx, &report, name, started.elapsed())?;
    if report.failed.is_empty() {
        return Ok(ExitCode::Ok);
    }
    let count = human::count(report.failed.len() as u64, "snapshot");
    if report.over_quota {
        return Err(Error::new(
            Kind::NoSpace,
            format!("the quota at {name} is used up: {count} could not be delivered"),
        )
        .remedy("ask the pool's operator for more room"));
    }
    Err(Error::damaged(format!("{count} could not be delivered; everything else was"))
        .remedy("`packmule check --read-data` tells what is damaged here"))
}

fn push_once(
    repo: &Repository,
    known: &RemoteState,
    audit: bool,
    progress: &dyn Monitor,
) -> Result<sync::push::Report> {
    let link = remote::open(known)?;
    for warning in link.warnings() {
        progress.event(Event::Notice(warning));
    }
    let options = sync::push::Options { audit, before: known.pushed.is_some() };
    let done = sync::push::push(repo, &remote::dial_first(&link, known)?, PROGRAM, options, progress);
    link.close();
    done
}

/// Sends a pooled remote what it lacks, after everything was compared; how many bytes.
///
/// # Errors
/// As [`sync::push::push`].
pub fn heal_pooled(repo: &Repository, name: &str, known: &RemoteState, progress: &dyn Monitor) -> Result<u64> {
    let report = push_once(repo, known, true, progress)?;
    if let Some(position) = report.watermark {
        remote::pushed(repo, name, position)?;
    }
    Ok(report.bytes)
}

/// As [`heal_pooled`], of a remote that keeps a sealed copy.
///
/// # Errors
/// As [`sync::sealed::push_to`].
pub fn heal_sealed(repo: &Repository, name: &str, known: &RemoteState, progress: &dyn Monitor) -> Result<u64> {
    let (report, _) = sealed::push_once(repo, known, true, None, progress)?;
    remote::pushed(repo, name, report.now)?;
    Ok(report.bytes)
}

fn tell_remote(ctx: &Context, done: &sync::push::Report, name: &str, elapsed: Duration) -> Result<()> {
    for (id, why) in &done.failed {
        ctx.output.complain(format!("packmule: snapshot {} is not there: {why}", id.short()));
    }
    if ctx.output.json {
        ctx.output.message(&RemoteSummary {
            remote: name,
            tenant: &done.tenant,
            packs_sent: done.packs + done.mixed,
            snapshots_sent: done.snapshots,
            snapshots_failed: done.failed.iter().map(|(id, _)| id.to_hex()).collect(),
            packs_refused: done.refused.iter().map(|id| id.to_hex()).collect(),
            bytes_sent: done.bytes,
            bytes_skipped: done.skipped,
            total_duration: elapsed.as_secs_f64(),
        })?;
        return ctx.output.flush();
    }
    if done.bytes == 0 && done.snapshots == 0 {
        ctx.output.remark(format!("{name} is up to date"))?;
    } else {
        let snapshots = human::count(done.snapshots, "snapshot");
        let packs = human::count(done.packs + done.mixed, "pack");
        let (bytes, time) = (human::size(done.bytes), human::duration(elapsed));
        let skipped = match done.skipped {
            0 => String::new(),
            n => format!("; {} were there already", human::size(n)),
        };
        ctx.output.remark(format!("sent {snapshots} in {packs}, {bytes}, to {name} in {time}{skipped}"))?;
    }
    ctx.output.flush()
}

fn to_directory(ctx: &Context, args: &SyncPushArgs, to: &Path, started: Instant) -> Result<ExitCode> {
    if args.retry {
        return Err(Error::new(Kind::Usage, "--retry is for remotes").remedy("leave --retry out"));
    }
    let repo = open_repository(ctx, Access::Read)?;
    if let Some(e) = &repo.rolled_back {
        return Err(Error::new(Kind::RolledBack, e.to_string()));
    }
    refuse_inside(&repo, to)?;
    let copy = Local::copy_of(to, repo.config.repo_id)?;
    let busy = |e: Error| match e.kind() {
        Kind::Locked => Error::new(Kind::Locked, "another push to this copy is running:")
            .at(copy.root())
            .remedy("wait until it ends"),
        _ => e,
    };
    let _one_at_a_time = Locks::file(&copy.lock_path()).prune(Duration::ZERO).map_err(busy)?;
    let progress = ctx.monitor(Job::Other("packs"));
    let options = Options { audit: args.audit, delete: args.delete };
    let done = sync::sealed::push(&repo, &copy, options, &progress)
        .and_then(|done| tenants_too(&repo, &copy, done, options, &progress));
    drop(progress);
    repo.remember();
    let done = done?;
    let to = human::path(copy.root().as_os_str().as_encoded_bytes());
    tell(ctx, &done, &format!("the copy in {to}"), &to, started.elapsed())?;
    or_damaged(&done)
}

/// A pool's copy holds what the pool keeps of its sealed tenants.
fn tenants_too(
    repo: &Repository,
    copy: &Local,
    mut done: Report,
    options: Options,
    progress: &dyn Monitor,
) -> Result<Report> {
    sealed::each_tenant(repo, &mut |number, of, source| {
        let dir = copy_dir(&copy.root().join("tenants"), number);
        std::fs::create_dir_all(&dir).map_err(|e| Error::io("make", &dir, e))?;
        let target = Local::copy_of(&dir, of)?;
        let more = mirror(source, &Directory(&target), options, progress)?;
        done.packs += more.packs;
        done.bytes += more.bytes;
        done.deleted += more.deleted;
        Ok(())
    })?;
    Ok(done)
}

/// The end of a push to a copy: damage here is told at last.
fn or_damaged(done: &Report) -> Result<ExitCode> {
    if done.damaged.is_empty() {
        return Ok(ExitCode::Ok);
    }
    let count = human::count(done.damaged.len() as u64, "pack");
    Err(Error::damaged(format!("{count} could not be copied, being damaged here; everything else was"))
        .remedy("`packmule check --read-data` tells what that touches"))
}

/// Tells what a push to a copy did; `what` is the copy, `to` its place.
fn tell(ctx: &Context, done: &Report, what: &str, to: &str, elapsed: Duration) -> Result<()> {
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
    if done.bytes == 0 && done.deleted == 0 {
        ctx.output.remark(format!("{what} is up to date"))?;
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
    Local::open(&root, false)?.promote()?;
    super::profiles::bring_back(ctx, &repo);
    let count = human::count(snapshots as u64, "snapshot");
    let names = [("repository", repo.config.repo_id.to_hex().into()), ("snapshots", snapshots.into())];
    let text = format!("this is a repository of its own now, with {count}; pushes to it are refused");
    ctx.output.did("sync promote", &names, text)?;
    ctx.output.flush()?;
    Ok(ExitCode::Ok)
}
