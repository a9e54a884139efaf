//! `backup` to a site, over a connection.

use std::time::{Duration, Instant};

use repo::capture::{Options, ParentChoice};
use repo::error::Result;
use repo::open::Repository;
use repo::select::Filter;
use sync::agent::{Delivered, backup};
use sync::ssh::is_transient;
use sync::ssh::url::Address;

use super::join;
use crate::PROGRAM;
use crate::args::BackupArgs;
use crate::commands::backup::{options, report};
use crate::commands::which;
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::human;
use crate::progress::Job;

/// The first pause before another try …
const FIRST_WAIT: Duration = Duration::from_secs(5);
/// … doubles up to this.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

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
    let mut wait = FIRST_WAIT;
    loop {
        let progress = ctx.monitor(Job::Backup);
        let with = |repo: &Repository| with_parent(given.clone(), args, repo);
        let done = backup(&identity, &dir, &dial, &with, PROGRAM, &progress);
        let elapsed = progress.elapsed();
        drop(progress);
        match done {
            Err(e) if args.retry && is_transient(&e) && !ctx.stopped() => {
                ctx.output.complain(format!("packmule: {e}; trying again in {}", human::duration(wait)));
                let until = Instant::now() + wait;
                while Instant::now() < until && !ctx.stopped() {
                    std::thread::sleep(Duration::from_millis(100));
                }
                wait = (wait * 2).min(LONGEST_WAIT);
            }
            other => {
                let Delivered { outcome, manifest, sent } = other?;
                let span = manifest.map(|manifest| (manifest.captured, manifest.captured_end));
                if !ctx.output.json && !args.dry_run {
                    ctx.output.remark(format!("sent {}", human::size(sent)))?;
                }
                report(ctx, span, &outcome, elapsed, args.dry_run)?;
                return Ok(if outcome.stats.errors > 0 { ExitCode::Partial } else { ExitCode::Ok });
            }
        }
    }
}

/// A parent is looked for in what the host knows of its backups.
fn with_parent(mut options: Options, args: &BackupArgs, repo: &Repository) -> Result<Options> {
    if let Some(name) = &args.parent {
        let own = Filter { hosts: vec![options.host.clone()], ..Filter::default() };
        options.parent = ParentChoice::Snapshot(which::resolve(repo, name, &own)?);
    }
    Ok(options)
}
