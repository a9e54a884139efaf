//! `restore`.

use std::time::Duration;

use repo::capture::Patterns;
use repo::error::{Error, Kind, Result};
use repo::open::Access;
use repo::restore::{Choice, Options, Outcome, Overwrite, restore};
use repo::snapshots;

use super::noted::Noted;
use super::open::open_repository;
use super::which;
use crate::args::{self, RestoreArgs};
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::{human, json};
use crate::progress::Job;

/// Runs `restore`. Items that failed were reported and give exit code 1; what could not be set does not.
pub fn run(ctx: &Context, args: RestoreArgs) -> Result<ExitCode> {
    let options = options(&args)?;
    let repo = open_repository(ctx, Access::Read)?;
    let id = which::resolve(&repo, &args.snapshot.snapshot, &which::filter(&repo, &args.filter)?)?;
    let manifest = snapshots::manifest(&repo, &id)?;
    let noted = Noted::begin("restore");
    let progress = ctx.monitor(Job::Restore { dry_run: args.dry_run });
    let result = restore(&repo, &manifest, &args.snapshot.path, &args.target, &options, &progress);
    let elapsed = progress.elapsed();
    drop(progress);
    if !args.dry_run {
        noted.end_of_snapshot(ctx, &repo, &id, &result);
    }
    repo.remember();
    let outcome = result?;
    if outcome.nothing {
        let pattern = args.include.first().map_or("", String::as_str);
        let text = format!("nothing in the snapshot matches --include {}", human::path(pattern.as_bytes()));
        let remedy = format!("`packmule find {}` says which snapshots have it", human::path(pattern.as_bytes()));
        return Err(Error::new(Kind::NotFound, text).remedy(remedy));
    }
    report(ctx, &args, &outcome, elapsed)?;
    Ok(if outcome.errors > 0 { ExitCode::Failed } else { ExitCode::Ok })
}

fn options(args: &RestoreArgs) -> Result<Options> {
    let patterns = |list: &[String]| match list {
        [] => Ok(None),
        list => Patterns::new(list, &[]).map(Some),
    };
    Ok(Options {
        choice: Choice { include: patterns(&args.include)?, exclude: patterns(&args.exclude)? },
        delete: args.delete,
        overwrite: match args.overwrite {
            args::Overwrite::Always => Overwrite::Always,
            args::Overwrite::IfChanged => Overwrite::IfChanged,
            args::Overwrite::IfNewer => Overwrite::IfNewer,
            args::Overwrite::Never => Overwrite::Never,
        },
        sparse: args.sparse,
        verify: args.verify,
        owner_by_name: args.owner_by_name,
        map_uid: args.map_uid.iter().map(|map| (map.from, map.to)).collect(),
        dry_run: args.dry_run,
        threads: 0,
    })
}

fn report(ctx: &Context, args: &RestoreArgs, done: &Outcome, elapsed: Duration) -> Result<()> {
    if ctx.output.json {
        return ctx.output.message(&json::RestoreSummary {
            seconds_elapsed: elapsed.as_secs(),
            total_files: done.items,
            files_restored: done.restored,
            files_skipped: done.kept,
            files_deleted: done.deleted,
            total_bytes: done.bytes,
            bytes_restored: done.restored_bytes,
            bytes_skipped: done.kept_bytes,
            error_count: done.errors,
        });
    }
    let (restored, deleted) = match args.dry_run {
        true => ("would be restored", "would be deleted"),
        false => ("restored", "deleted"),
    };
    let mut line = format!(
        "{restored}: {} ({}) to {} in {}",
        human::count(done.restored, "item"),
        human::size(done.restored_bytes),
        repo::error::printable(&args.target),
        human::duration(elapsed)
    );
    if done.kept > 0 {
        line += &format!("; left as they were: {} ({})", done.kept, human::size(done.kept_bytes));
    }
    if done.deleted > 0 {
        line += &format!("; {deleted}: {}", done.deleted);
    }
    if args.verify && !args.dry_run {
        line += &format!("; read back and right: {}", done.verified);
    }
    if done.errors > 0 {
        line += &format!("; FAILED: {}", done.errors);
    }
    ctx.output.line(line)
}
