//! `backup` to a site, over a connection.

use repo::capture::{Options, ParentChoice};
use repo::error::Result;
use repo::open::Repository;
use repo::select::Filter;
use sync::agent::{Delivered, backup};
use sync::ssh::url::Address;

use super::join;
use crate::PROGRAM;
use crate::args::BackupArgs;
use crate::commands::again::again;
use crate::commands::backup::{options, report};
use crate::commands::which;
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::human;
use crate::progress::Job;

/// The pattern that just this path fits.
fn literal(path: &str) -> String {
    let special = |c: char| matches!(c, '*' | '?' | '[' | ']' | '{' | '}' | '\\');
    path.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}

/// Runs `backup` as the agent that this host is to the site.
pub fn run(ctx: &Context, args: &BackupArgs, address: &Address) -> Result<ExitCode> {
    let (identity, dir) = join::identity(address)?;
    let dial = identity.dial();
    // Once: lists of paths may come from standard input. What cannot be is said before anything is asked of the site.
    let mut given = options(args, Some(&identity.host))?;
    // Its own key is nobody's to restore.
    given.excludes.extend(dir.to_str().map(literal));
    let with = |repo: &Repository| with_parent(given.clone(), args, repo);
    let (done, elapsed) = again(ctx, args.retry, &mut || {
        let progress = ctx.monitor(Job::Backup);
        let done = backup(&identity, &dir, &dial, &with, PROGRAM, &progress)?;
        Ok((done, progress.elapsed()))
    })?;
    let Delivered { outcome, manifest, sent } = done;
    let span = manifest.map(|manifest| (manifest.captured, manifest.captured_end));
    if !ctx.output.json && !args.dry_run {
        ctx.output.remark(format!("sent {}", human::size(sent)))?;
    }
    report(ctx, span, &outcome, elapsed, args.dry_run)?;
    Ok(if outcome.stats.errors > 0 { ExitCode::Partial } else { ExitCode::Ok })
}

/// A parent is looked for in what the host knows of its backups.
fn with_parent(mut options: Options, args: &BackupArgs, repo: &Repository) -> Result<Options> {
    if let Some(name) = &args.parent {
        let own = Filter { hosts: vec![options.host.clone()], ..Filter::default() };
        options.parent = ParentChoice::Snapshot(which::resolve(repo, name, &own)?);
    }
    Ok(options)
}
