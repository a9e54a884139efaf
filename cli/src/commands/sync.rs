//! `sync`.

mod directory;
mod sealed;

use std::path::Path;
use std::time::{Duration, Instant};

use repo::backend::local::Local;
use repo::check::ReadData;
use repo::error::{Error, Kind, Result};
use repo::format::record::RemoteState;
use repo::monitor::{Event, Monitor};
use repo::open::{Access, Repository, Sealed};
use repo::tenants::valid_name;
use serde::Serialize;
use sync::remote;
use sync::sealed::{Options, Report};

use super::again::again;
use super::noted::Noted;
use super::open::{open_repository, open_with_secret, place};
use crate::PROGRAM;
use crate::args::{SyncAction, SyncArgs, SyncPushArgs};
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::human;
use crate::progress::Job;

/// What is said where a repository that came back finds no room for its reserve.
pub const NO_RESERVE: &str = "packmule: warning: there is no room to set the reserve aside: free some space soon";

/// The result as JSON.
#[derive(Serialize)]
#[serde(tag = "message_type", rename = "summary")]
struct Summary {
    packs_sent: u64,
    snapshots_sent: u64,
    /// Of all objects.
    bytes_sent: u64,
    objects_deleted: u64,
    /// Packs that are on their way on drives: the copy is brought up to date when they have come.
    packs_posted: u64,
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
    /// All 64 digits of each snapshot of which something is on its way on a drive, and that drive's.
    snapshots_waiting: Vec<(String, String)>,
    /// Of packs that are on their way on drives.
    bytes_posted: u64,
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
        None => directory::to_path(ctx, args, Path::new(&args.to), started),
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
        push_once(&repo, name, &known, args.audit, &progress)
    })?;
    if let Some(position) = report.watermark {
        remote::pushed(&repo, name, position)?;
    }
    repo.remember();
    tell_remote(ctx, &repo, &report, name, started.elapsed())?;
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
    name: &str,
    known: &RemoteState,
    audit: bool,
    progress: &dyn Monitor,
) -> Result<sync::push::Report> {
    let link = remote::open(known)?;
    for warning in link.warnings() {
        progress.event(Event::Notice(warning));
    }
    let options =
        sync::push::Options { remote: name, audit, before: known.pushed.is_some(), anew: remote::is_anew(known) };
    let done = sync::push::push(repo, &remote::dial_first(&link, known)?, PROGRAM, options, progress);
    link.close();
    done
}

/// Sends a pooled remote what it lacks, after everything was compared; how many bytes.
///
/// # Errors
/// As [`sync::push::push`].
pub fn heal_pooled(repo: &Repository, name: &str, known: &RemoteState, progress: &dyn Monitor) -> Result<u64> {
    let report = push_once(repo, name, known, true, progress)?;
    if let Some(position) = report.watermark {
        remote::pushed(repo, name, position)?;
    }
    Ok(report.bytes)
}

/// As [`heal_pooled`], of a remote that keeps a sealed copy. One in a directory is also read, as far as `read` says: a server
/// reads its own.
///
/// # Errors
/// As [`sync::sealed::push_to`].
pub fn heal_sealed(
    repo: &Repository,
    name: &str,
    known: &RemoteState,
    read: ReadData,
    progress: &dyn Monitor,
) -> Result<u64> {
    let options = Options { remote: name, audit: true, delete: false };
    let report = match sync::directory::of(known)? {
        Some(dir) => directory::push_once(repo, name, &dir, read, options, progress)?,
        None => sealed::push_once(repo, name, known, options, None, progress)?.0,
    };
    remote::pushed(repo, name, report.now)?;
    Ok(report.bytes)
}

fn tell_remote(
    ctx: &Context,
    repo: &Repository,
    done: &sync::push::Report,
    name: &str,
    elapsed: Duration,
) -> Result<()> {
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
            snapshots_waiting: done.waiting.iter().map(|(id, drive)| (id.to_hex(), drive.to_hex())).collect(),
            bytes_posted: done.posted,
            packs_refused: done.refused.iter().map(|id| id.to_hex()).collect(),
            bytes_sent: done.bytes,
            bytes_skipped: done.skipped,
            total_duration: elapsed.as_secs_f64(),
        })?;
        return ctx.output.flush();
    }
    if done.bytes == 0 && done.snapshots == 0 && done.waiting.is_empty() {
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
    if !done.waiting.is_empty() {
        let (snapshots, bytes) = (human::count(done.waiting.len() as u64, "snapshot"), human::size(done.posted));
        let state = repo.log.state();
        let away = state.under_way(Some((repo.config.repo_id, name)));
        let drives: Vec<String> = away.iter().map(|id| super::drive::name(id, &state.drives[id])).collect();
        let drives = drives.join(", ");
        ctx.output.remark(format!(
            "{snapshots} will be there when what it lacks has come on drive {drives}; {bytes} are in the post"
        ))?;
    }
    ctx.output.flush()
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
            packs_posted: done.posted,
            packs_damaged: done.damaged.iter().map(|id| id.to_hex()).collect(),
            position: done.now.seq,
            total_duration: elapsed.as_secs_f64(),
        })?;
        return ctx.output.flush();
    }
    if done.posted > 0 {
        let (packs, size) = (human::count(done.posted, "pack"), human::size(done.posted_bytes));
        ctx.output.remark(format!("{packs}, {size}, are in the post: {what} will be whole after they have come"))?;
    }
    if done.bytes == 0 && done.deleted == 0 && done.posted == 0 {
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

fn promote(ctx: &Context) -> Result<ExitCode> {
    let place = place(ctx)?;
    if Local::copy_mark(&place.root)?.is_none() {
        return Err(Error::new(Kind::Refused, "this is no copy, or was promoted already:")
            .at(place.root)
            .remedy("name the copy with -r"));
    }
    // A copy that cannot be opened, or whose first push did not end, does not become a repository.
    let (copy, secret) = open_with_secret(ctx, Access::Read)?;
    drop(copy);
    let noted = Noted::begin("sync promote");
    if !Local::open(&place.root, false)?.promote()? {
        ctx.output.complain(NO_RESERVE);
    }
    let repo = Sealed::open(place, Access::Write)?.unlock(&secret, &ctx.monitor(Job::Look("packs")))?;
    forget_itself(&repo)?;
    super::profiles::bring_back(ctx, &repo, super::profiles::Server::InForce);
    let state = repo.log.state();
    let snapshots = state.snapshots.values().filter(|s| s.forgotten.is_none()).count() as u64;
    noted.end(ctx, &repo, None, snapshots, &Ok(()));
    repo.remember();
    let count = human::count(snapshots, "snapshot");
    let text = match state.pool {
        true => format!(
            "this is the pool now, with {} and {count}: `packmule serve` at the old address lets their sites go on",
            human::count(state.tenants.len() as u64, "tenant")
        ),
        false => {
            format!("this is a repository of its own now, with {count}: what it was a copy of pushes to it no more")
        }
    };
    let names = [("repository", repo.config.repo_id.to_hex().into()), ("snapshots", snapshots.into())];
    ctx.output.did("sync promote", &names, text)?;
    ctx.output.flush()?;
    Ok(ExitCode::Ok)
}

/// What was promoted is no remote of its own: nothing would be at every remote any more.
fn forget_itself(repo: &Repository) -> Result<()> {
    let Some(root) = repo.root.as_ref().and_then(|root| root.canonicalize().ok()) else { return Ok(()) };
    let state = repo.log.state();
    let is_here = |known: &RemoteState| {
        let dir = sync::directory::of(known).ok().flatten();
        dir.is_some_and(|dir| dir.canonicalize().is_ok_and(|dir| dir == root))
    };
    let mut here = state.remotes.iter().filter(|(_, known)| is_here(known));
    here.try_for_each(|(name, _)| remote::remove(repo, name))
}
