//! `sync push` to a remote that keeps a sealed copy.

use std::path::Path;
use std::time::Instant;

use repo::error::Result;
use repo::format::record::RemoteState;
use repo::monitor::Event;
use repo::monitor::Monitor;
use repo::open::Repository;
use sync::remote;
use sync::sealed::remote::Remote;
use sync::sealed::{Options, Report, Target, push_to};

use super::{again, or_damaged, tell};
use crate::PROGRAM;
use crate::args::SyncPushArgs;
use crate::context::Context;
use crate::exit::ExitCode;
use crate::progress::Job;

/// Brings the copy at a remote up to date.
pub fn to_remote(
    ctx: &Context,
    args: &SyncPushArgs,
    name: &str,
    repo: &Repository,
    known: &RemoteState,
    started: Instant,
) -> Result<ExitCode> {
    let report = again(ctx, args.retry, &mut || {
        let progress = ctx.monitor(Job::Other("packs"));
        push_once(repo, known, args.audit, &progress)
    })?;
    if report.before != Some(report.now) || args.audit {
        remote::pushed(repo, name, report.now)?;
    }
    repo.remember();
    tell(ctx, &report, name, name, started.elapsed())?;
    or_damaged(&report)
}

/// One push over one connection.
pub fn push_once(repo: &Repository, known: &RemoteState, audit: bool, progress: &dyn Monitor) -> Result<Report> {
    let link = remote::open(known)?;
    for warning in link.warnings() {
        progress.event(Event::Notice(warning));
    }
    let at = repo.refresh(progress)?.position;
    let copy = Remote::begin(link.channel()?, repo.config.repo_id, at, PROGRAM, Path::new(&known.url))?;
    let report = push_to(repo, &copy, Options { audit, delete: false }, progress)?;
    if copy.watermark()? != Some(report.now) {
        copy.done(report.now)?;
    }
    copy.bye()?;
    link.close();
    Ok(report)
}
