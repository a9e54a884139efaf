//! `prune`.

use repo::error::{Error, Kind, Result};
use repo::open::{Access, Repository};
use repo::prune::{MaxUnused, Options, Outcome};
use repo::removal::{self, Removed};
use serde::Serialize;

use super::noted::Noted;
use super::open::{open_repository, place};
use super::tenant::removal::tell_removed;
use crate::args::{PruneArgs, Unused};
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::{Output, human, json};
use crate::progress::Job;
use crate::server_file::ServerFile;

/// Dates on which space comes back that are listed one by one.
const DATES: usize = 10;

/// The result as JSON.
#[derive(Serialize)]
#[serde(tag = "message_type", rename = "summary")]
struct Summary {
    dry_run: bool,
    snapshots_removed: Vec<String>,
    packs_deleted: u64,
    packs_rewritten: u64,
    bytes_deleted: u64,
    bytes_written: u64,
    bytes_freed: u64,
    bytes_before: u64,
    bytes_unused: u64,
    packs_kept_after_all: u64,
    /// Forgotten snapshots that --release-held leaves, nobody being allowed to delete them until then.
    #[serde(skip_serializing_if = "Option::is_none")]
    in_window: Option<InWindow>,
    packs_damaged: u64,
    freed_later: Vec<Later>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<String>,
    packs_waiting: u64,
    bytes_waiting: u64,
}

/// What is within its window.
#[derive(Serialize)]
struct InWindow {
    snapshots: u64,
    /// When the last of these windows ends.
    until: json::Time,
}

/// What comes back on a date.
#[derive(Serialize)]
struct Later {
    time: json::Time,
    bytes: u64,
}

/// Runs `prune`.
pub fn run(ctx: &Context, args: PruneArgs) -> Result<ExitCode> {
    if !args.tenant.is_empty() {
        let what = "prune frees what no snapshot of any tenant needs any more: packs hold what several share, so it is for all of them";
        return Err(Error::new(Kind::Usage, what)
            .remedy("leave --tenant out; whose snapshots go is said to `packmule forget --tenant NAME`"));
    }
    let options = Options {
        release_held: args.release_held,
        accept_clock: args.accept_clock,
        dry_run: args.dry_run,
        max_unused: max_unused(args.max_unused),
        ..Options::default()
    };
    let repo = open_repository(ctx, if args.dry_run { Access::Read } else { Access::Write })?;
    prune_and_tell(ctx, &repo, &options)
}

/// The limit as the engine takes it.
pub fn max_unused(limit: Unused) -> MaxUnused {
    match limit {
        Unused::Percent(p) => MaxUnused::Percent(p),
        Unused::Bytes(n) => MaxUnused::Bytes(n),
        Unused::Unlimited => MaxUnused::Unlimited,
    }
}

/// Prunes an open repository and says what came of it.
///
/// # Errors
/// As [`removal::prune`].
pub fn prune_and_tell(ctx: &Context, repo: &Repository, options: &Options) -> Result<ExitCode> {
    let (done, removed) = prune(ctx, repo, options)?;
    if ctx.output.json {
        ctx.output.message(&summary(&done, options.dry_run))?;
    } else {
        tell(&ctx.output, &done, options.dry_run)?;
    }
    removed.iter().try_for_each(|removed| tell_removed(ctx, removed))?;
    ctx.output.flush()?;
    Ok(ExitCode::Ok)
}

/// Prunes, and removes what is left of tenants besides. What was done goes to the audit.
///
/// # Errors
/// As [`removal::prune`].
pub fn prune(ctx: &Context, repo: &Repository, options: &Options) -> Result<(Outcome, Vec<Removed>)> {
    let progress = ctx.monitor(Job::Other("snapshots"));
    let noted = Noted::begin("prune");
    let done = removal::prune(repo, options, &progress);
    drop(progress);
    if !options.dry_run {
        let count = done.as_ref().map_or(0, |(done, _)| done.snapshots_removed.len() as u64);
        noted.end(ctx, repo, None, count, &done);
    }
    let (done, removed) = done?;
    repo.remember();
    for removed in &removed {
        // What the server keeps for it beside the repository: packs on their way, and a sealed copy.
        let root = place(ctx)?.root;
        let spool = ServerFile::load(None, &root)?.spool;
        for dir in spool.into_iter().chain([root.join("tenants")]) {
            let dir = dir.join(removed.tenant.to_string());
            match std::fs::remove_dir_all(&dir) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", &dir, e)),
                _ => {}
            }
        }
    }
    Ok((done, removed))
}

fn summary(done: &Outcome, dry_run: bool) -> Summary {
    Summary {
        dry_run,
        snapshots_removed: done.snapshots_removed.iter().map(|id| id.to_hex()).collect(),
        packs_deleted: done.packs_deleted,
        packs_rewritten: done.packs_rewritten,
        bytes_deleted: done.bytes_deleted,
        bytes_written: done.bytes_written,
        bytes_freed: done.freed(),
        bytes_before: done.bytes_before,
        bytes_unused: done.bytes_unused,
        packs_kept_after_all: done.packs_uncondemned,
        in_window: done.in_window.map(|(snapshots, until)| InWindow { snapshots, until: json::Time::of(until) }),
        packs_damaged: done.packs_damaged,
        freed_later: done.later.iter().map(|(at, bytes)| Later { time: json::Time::of(*at), bytes: *bytes }).collect(),
        waiting: done.waiting.as_ref().map(ToString::to_string),
        packs_waiting: done.packs_waiting,
        bytes_waiting: done.bytes_waiting,
    }
}

fn tell(output: &Output, done: &Outcome, dry_run: bool) -> Result<()> {
    let freed = if dry_run { "would free" } else { "freed" };
    let packs = human::count(done.packs_deleted, "pack");
    output.line(format!(
        "{freed} {} now: {packs} deleted, {} rewritten",
        human::size(done.freed()),
        human::count(done.packs_rewritten, "pack"),
    ))?;
    if !done.snapshots_removed.is_empty() {
        let snapshots = human::count(done.snapshots_removed.len() as u64, "forgotten snapshot");
        output.line(format!("{}: {snapshots}", if dry_run { "would remove for good" } else { "removed for good" }))?;
    }
    if let Some((count, until)) = done.in_window {
        let (count, until) = (human::count(count, "forgotten snapshot"), human::time(human::timestamp(until)));
        output.line(format!("left within the window in which nobody may delete: {count}, the last until {until}"))?;
    }
    let later: Vec<_> = done.later.iter().filter(|(_, bytes)| *bytes > 0).collect();
    for (at, bytes) in later.iter().take(DATES) {
        let date = human::time(human::timestamp(*at));
        output.line(format!("{} more on {date}, when the hold of forgotten snapshots ends", human::size(*bytes)))?;
    }
    if later.len() > DATES {
        let rest: u64 = later[DATES..].iter().map(|(_, bytes)| bytes).sum();
        output.line(format!("{} more after that", human::size(rest)))?;
    }
    if let Some(waiting) = &done.waiting {
        let held = match done.packs_waiting {
            0 => "what it may need".to_owned(),
            n => format!("{} in {}", human::size(done.bytes_waiting), human::count(n, "pack")),
        };
        output.line(format!("{waiting}; {held} can be freed by the next prune after it ends"))?;
    }
    if done.bytes_unused > 0 {
        let unused = human::size(done.bytes_unused);
        output.remark(format!("{unused} that nothing needs stays in packs that are mostly in use"))?;
    }
    if done.packs_damaged > 0 {
        let damaged = human::count(done.packs_damaged, "damaged pack");
        output.line(format!("left as it was: {damaged}; run `packmule check`"))?;
    }
    Ok(())
}
