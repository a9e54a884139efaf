//! `sync push` to a remote that keeps a sealed copy.

use std::path::Path;
use std::time::Instant;

use repo::backend::Backend;
use repo::backend::local::Local;
use repo::check::ReadData;
use repo::crypto::slot::RecoveryCode;
use repo::error::{Kind, Result};
use repo::format::record::RemoteState;
use repo::id::RepoId;
use repo::monitor::{Event, Monitor};
use repo::open::Repository;
use sync::directory;
use sync::remote;
use sync::sealed::ask::{self, Deleted};
use sync::sealed::remote::Remote;
use sync::sealed::{Options, Report, Target, mirror, push_to};
use sync::serve::objects::{copy_dir, nested_copies};

use super::super::again::again;
use super::{or_damaged, tell};
use crate::PROGRAM;
use crate::args::SyncPushArgs;
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::human;
use crate::progress::Job;
use crate::secret::recovery_code;

/// Brings the copy at a remote up to date.
pub fn to_remote(
    ctx: &Context,
    args: &SyncPushArgs,
    name: &str,
    repo: &Repository,
    known: &RemoteState,
    started: Instant,
) -> Result<ExitCode> {
    // Before anything is sent: what it is needed for comes last. In a directory of one's own nobody's order is needed.
    let code = match args.delete && directory::of(known)?.is_none() {
        true => Some(RecoveryCode::parse(&recovery_code(args.recovery_code_file.as_deref())?)?),
        false => None,
    };
    let options = Options { remote: name, audit: args.audit, delete: args.delete };
    let (report, deleted) = again(ctx, args.retry, &mut || {
        let progress = ctx.monitor(Job::Other("packs"));
        push_once(repo, name, known, options, code.as_ref(), &progress)
    })?;
    if report.posted == 0 {
        remote::pushed(repo, name, report.now)?;
    }
    repo.remember();
    let report = Report { deleted: report.deleted + deleted.objects, ..report };
    tell(ctx, &report, name, name, started.elapsed())?;
    if let (Some(until), false) = (deleted.until, ctx.output.json) {
        let (count, date) = (human::count(deleted.later, "file"), human::time(human::timestamp(until)));
        ctx.output.remark(format!("{count} that the repository has no more stay there, the last until {date}"))?;
        ctx.output.flush()?;
    }
    or_damaged(&report)
}

/// One push, to a directory or over one connection. What the repository has no more is deleted over a connection with the
/// recovery code alone.
pub fn push_once(
    repo: &Repository,
    name: &str,
    known: &RemoteState,
    options: Options<'_>,
    code: Option<&RecoveryCode>,
    progress: &dyn Monitor,
) -> Result<(Report, Deleted)> {
    if let Some(dir) = directory::of(known)? {
        let report = super::directory::push_once(repo, name, &dir, ReadData::None, options, progress)?;
        return Ok((report, Deleted::default()));
    }
    let link = remote::open(known)?;
    for warning in link.warnings() {
        progress.event(Event::Notice(warning));
    }
    let at = repo.refresh(progress)?.position;
    let copy =
        Remote::begin(&remote::dial_first(&link, known)?, repo.config.repo_id, at, PROGRAM, Path::new(&known.url))?;
    let mut report = push_to(repo, &copy, options, progress)?;
    each_tenant(repo, &mut |number, of, source| {
        let more = mirror(source, &copy.nested(number, of)?, Options { delete: false, ..options }, progress)?;
        report.packs += more.packs;
        report.bytes += more.bytes;
        Ok(())
    })?;
    if report.posted == 0 && copy.watermark()? != Some(report.now) {
        copy.done(report.now)?;
    }
    let deleted = code.map(|code| ask::delete(repo, &copy, code, report.now)).transpose()?.unwrap_or_default();
    copy.bye()?;
    link.close();
    Ok((report, deleted))
}

/// Shows the copies of sealed tenants that a pool keeps; none are at other repositories.
pub fn each_tenant(repo: &Repository, visit: &mut dyn FnMut(u32, RepoId, &dyn Backend) -> Result<()>) -> Result<()> {
    let (true, Some(root)) = (repo.log.state().pool, &repo.root) else { return Ok(()) };
    let tenants = root.join("tenants");
    for (number, of) in nested_copies(&tenants)? {
        match Local::open(&copy_dir(&tenants, number), true) {
            Ok(source) => visit(number, of, &source)?,
            // Its first push did not end yet.
            Err(e) if e.kind() == Kind::NoRepository => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
