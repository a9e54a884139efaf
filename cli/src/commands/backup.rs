//! `backup`.

use repo::capture::{Marker, Options, Outcome, ParentChoice, Stdin, backup};
use repo::error::{Error, Kind, Result};
use repo::monitor::{Event, Monitor};
use repo::open::{Access, Repository};
use repo::select::Filter;

use super::open::open_repository;
use super::which;
use crate::args::BackupArgs;
use crate::args::Sources;
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::{human, json};
use crate::progress::Job;

/// Runs `backup`.
pub fn run(ctx: &Context, args: BackupArgs) -> Result<ExitCode> {
    if let Some(site) = ctx.site()? {
        return super::agent::backup::run(ctx, &args, &site);
    }
    if args.retry {
        return Err(Error::new(Kind::Usage, "--retry is for backups over SSH").remedy("leave --retry out"));
    }
    let mut options = options(&args, None)?;
    let repo = open_repository(ctx, Access::Write)?;
    if let Some(name) = &args.parent {
        let own = Filter { hosts: vec![options.host.clone()], ..Filter::default() };
        options.parent = ParentChoice::Snapshot(which::resolve(&repo, name, &own)?);
    }
    let dry_run = options.dry_run;
    let progress = ctx.monitor(Job::Backup);
    doubt_clock(&repo, &progress);
    let result = backup(&repo, options, &progress);
    let elapsed = progress.elapsed();
    drop(progress);
    if ctx.globals.profile.is_some() && !dry_run && result.is_ok() {
        super::profiles::keep(ctx, &repo);
    }
    repo.remember();
    let outcome = result?;
    let manifest = outcome.snapshot.map(|id| repo::snapshots::manifest(&repo, &id)).transpose()?;
    report(ctx, manifest.map(|m| (m.captured, m.captured_end)), &outcome, elapsed, dry_run)?;
    Ok(if outcome.stats.errors > 0 { ExitCode::Partial } else { ExitCode::Ok })
}

/// A wrong clock is no reason to make no backup: the log's order places it. But somebody should set the clock.
fn doubt_clock(repo: &Repository, monitor: &dyn Monitor) {
    if let Err(e) = repo.log.check_clock() {
        let e = e.remedy("set the clock, or if it is right, run `packmule prune --accept-clock` once");
        monitor.event(Event::Warning(&e.to_string()));
    }
}

/// What was asked for; `host` where none is named, this machine's name where that is none.
pub fn options(args: &BackupArgs, host: Option<&str>) -> Result<Options> {
    let (paths, stdin) = match args.sources()? {
        Sources::Paths(paths) => (paths, None),
        Sources::Command { words, filename } => (Vec::new(), Some(Stdin { command: words, name: filename })),
    };
    let mut markers: Vec<Marker> =
        args.exclude_if_present.iter().map(|text| Marker::parse(text.as_encoded_bytes())).collect();
    if args.exclude_caches {
        markers.push(Marker::cachedir());
    }
    Ok(Options {
        paths,
        stdin,
        host: match args.host.as_deref().or(host) {
            Some(host) => host.to_owned(),
            None => host_name()?,
        },
        source: args.source.clone(),
        allow_changed_paths: args.change_paths,
        username: user_name(),
        program: crate::PROGRAM.to_owned(),
        tags: args.tag.iter().flat_map(|list| list.0.iter().cloned()).collect(),
        excludes: args.exclude_patterns()?,
        iexcludes: args.iexclude.clone(),
        markers,
        larger_than: args.exclude_larger_than.map(|bytes| bytes.0),
        one_file_system: args.one_file_system,
        read_devices: args.read_devices,
        force: args.force,
        parent: ParentChoice::Newest,
        skip_if_unchanged: args.skip_if_unchanged,
        read_concurrency: args.read_concurrency.map(usize::from),
        strict: args.strict,
        dry_run: args.dry_run,
        sample: None,
    })
}

/// This machine's name as snapshots carry it.
pub fn host_name() -> Result<String> {
    let name = nix::unistd::gethostname().map_err(|e| Error::io("ask for", "the host's name", e.into()))?;
    name.into_string()
        .map_err(|_| Error::new(Kind::Usage, "this machine's name is not valid UTF-8").remedy("give one with --host"))
}

/// For people only: nothing is decided by it.
fn user_name() -> String {
    std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_else(|_| nix::unistd::getuid().to_string())
}

/// Tells what was done; `span`: when the capture began and ended, in nanoseconds, if there is a snapshot.
pub fn report(
    ctx: &Context,
    span: Option<(i64, i64)>,
    outcome: &Outcome,
    elapsed: std::time::Duration,
    dry_run: bool,
) -> Result<()> {
    let stats = &outcome.stats;
    let id = outcome.snapshot.map(|id| id.to_hex());
    if ctx.output.json {
        let (backup_start, backup_end) = match span {
            Some((from, to)) => (json::Time::from_nanos(from), json::Time::from_nanos(to)),
            None => (None, None),
        };
        return ctx.output.message(&json::BackupSummary {
            files_new: stats.files_new,
            files_changed: stats.files_changed,
            files_unmodified: stats.files_unmodified,
            dirs_new: stats.dirs_new,
            dirs_changed: stats.dirs_changed,
            dirs_unmodified: stats.dirs_unmodified,
            data_blobs: stats.chunks_new - outcome.meta_chunks_new,
            tree_blobs: outcome.meta_chunks_new,
            data_added: stats.data_added,
            data_added_packed: stats.data_stored,
            total_files_processed: stats.files,
            total_bytes_processed: stats.bytes,
            total_duration: elapsed.as_secs_f64(),
            error_count: stats.errors,
            backup_start,
            backup_end,
            snapshot_id: id,
            dry_run,
        });
    }
    let parent = outcome.parent.map_or_else(|| "no earlier snapshot".to_owned(), |p| format!("snapshot {}", p.short()));
    ctx.output.remark(format!("compared with {parent}"))?;
    ctx.output.remark(format!(
        "Files: {:>9} new, {:>9} changed, {:>9} unmodified",
        stats.files_new, stats.files_changed, stats.files_unmodified
    ))?;
    ctx.output.remark(format!(
        "Dirs:  {:>9} new, {:>9} changed, {:>9} unmodified",
        stats.dirs_new, stats.dirs_changed, stats.dirs_unmodified
    ))?;
    ctx.output.remark(format!(
        "{} {} ({} stored)",
        if dry_run { "Would add to the repository:" } else { "Added to the repository:" },
        human::size(stats.data_added),
        human::size(stats.data_stored)
    ))?;
    ctx.output.remark(format!(
        "processed {}, {} in {}",
        human::count(stats.files, "file"),
        human::size(stats.bytes),
        human::duration(elapsed)
    ))?;
    closing_line(ctx, outcome, dry_run)
}

/// Always with the snapshot's id: wrappers take exit code 3 for a failure and look here.
fn closing_line(ctx: &Context, outcome: &Outcome, dry_run: bool) -> Result<()> {
    let errors = outcome.stats.errors;
    let missed = match errors {
        0 => String::new(),
        n => format!("; {} could not be read", human::count(n, "item")),
    };
    match &outcome.snapshot {
        Some(id) => ctx.output.line(format!("snapshot {} saved{missed}", id.short())),
        None if dry_run => ctx.output.line(format!("dry run: nothing was stored{missed}")),
        None => ctx.output.line("nothing changed: no snapshot was recorded"),
    }
}
