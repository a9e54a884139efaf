//! `snapshots`.

use std::collections::BTreeMap;

use repo::error::{Kind, Result};
use repo::format::record::{SnapshotState, State};
use repo::history::{History, tenant_of};
use repo::id::SnapshotId;
use repo::open::{Access, Repository};
use repo::policy::Ends;
use repo::snapshots::{Summaries, Summary};

use super::open::open_repository;
use super::which;
use crate::args::SnapshotsArgs;
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::human::{self, Table};
use crate::output::json;

/// Runs `snapshots`.
pub fn run(ctx: &Context, args: SnapshotsArgs) -> Result<ExitCode> {
    let repo = open_repository(ctx, Access::Read)?;
    let state = repo.log.state();
    let mut filter = which::filter(&repo, &args.filter)?;
    filter.forgotten = args.forgotten;
    let mut ids = which::resolve_all(&repo, &args.snapshots, &filter)?;
    if args.forgotten {
        ids.retain(|id| state.snapshots.get(id).is_some_and(|s| s.forgotten.is_some()));
    }
    if let Some(newest) = args.latest {
        ids = newest_of_each(&state, &ids, newest);
    }
    let failed = show(ctx, &repo, &state, &ids, args.forgotten)?;
    ctx.output.flush()?;
    Ok(if failed { ExitCode::Failed } else { ExitCode::Ok })
}

/// The newest so many of each history; `ids` is oldest first, and so is the result.
fn newest_of_each(state: &State, ids: &[SnapshotId], newest: u32) -> Vec<SnapshotId> {
    let mut seen: BTreeMap<History, u32> = BTreeMap::new();
    let mut kept: Vec<SnapshotId> = Vec::new();
    for id in ids.iter().rev() {
        let Some(s) = state.snapshots.get(id) else { continue };
        let count = seen.entry(History::of(s)).or_default();
        *count += 1;
        if *count <= newest {
            kept.push(*id);
        }
    }
    kept.reverse();
    kept
}

/// Whether any snapshot's details could not be read.
fn show(ctx: &Context, repo: &Repository, state: &State, ids: &[SnapshotId], forgotten: bool) -> Result<bool> {
    let mut summaries = Summaries::new(repo, state);
    let ends = Ends::new(state, repo.clock.now(), None);
    let mut failed = false;
    let last = if forgotten { "Kept until" } else { "Paths" };
    let mut titles = vec!["ID", "Time", "Host", "Source", "Tags", ">Files", ">Size", last];
    if state.pool {
        titles.insert(2, "Tenant");
    }
    let mut table = Table::new(&titles);
    for id in ids {
        let Some(snapshot) = state.snapshots.get(id) else { continue };
        let summary = match summaries.get(id) {
            Ok(summary) => Some(summary),
            Err(e) if matches!(e.kind(), Kind::Damaged | Kind::NotFound) => {
                failed = true;
                ctx.output.complain(format!("packmule: warning: {e}"));
                None
            }
            Err(e) => return Err(e),
        };
        if ctx.output.json {
            ctx.output.message(&message(state, &ends, id, snapshot, summary.as_ref()))?;
        } else {
            let mut cells = Vec::from(row(&ends, id, snapshot, summary.as_ref(), forgotten));
            if state.pool {
                cells.insert(2, tenant_of(state, snapshot).unwrap_or_default());
            }
            table.row(cells);
        }
    }
    if !ctx.output.json {
        if !ids.is_empty() {
            table.lines().iter().try_for_each(|line| ctx.output.line(line))?;
        }
        ctx.output.remark(human::count(ids.len() as u64, "snapshot"))?;
    }
    Ok(failed)
}

fn row(
    ends: &Ends<'_>,
    id: &SnapshotId,
    snapshot: &SnapshotState,
    summary: Option<&Summary>,
    forgotten: bool,
) -> [String; 8] {
    let partial = summary.is_some_and(|s| s.stats.errors > 0);
    let paths = || {
        let paths: Vec<String> = summary.iter().flat_map(|s| &s.paths).map(|p| human::path(p)).collect();
        paths.join(" ") + if partial { " (incomplete)" } else { "" }
    };
    [
        id.short(),
        human::time(human::timestamp(snapshot.captured)),
        snapshot.host.clone(),
        snapshot.source.clone(),
        snapshot.tags.iter().cloned().collect::<Vec<_>>().join(","),
        summary.map_or_else(|| "?".to_owned(), |s| s.stats.files.to_string()),
        summary.map_or_else(|| "?".to_owned(), |s| human::size(s.stats.bytes)),
        match snapshot.forgotten.filter(|_| forgotten) {
            Some(at) => human::time(human::timestamp(ends.held(id, snapshot, at))),
            None => paths(),
        },
    ]
}

/// A snapshot as JSON.
pub fn message(
    state: &State,
    ends: &Ends<'_>,
    id: &SnapshotId,
    snapshot: &SnapshotState,
    summary: Option<&Summary>,
) -> json::Snapshot {
    let text = |path: &Vec<u8>| String::from_utf8_lossy(path).into_owned();
    json::Snapshot {
        time: json::Time::of(snapshot.captured),
        recorded: json::Time::of(snapshot.recorded),
        parent: summary.and_then(|s| s.parent).map(|id| id.to_hex()),
        paths: summary.iter().flat_map(|s| &s.paths).map(text).collect(),
        whose: json::Whose::of(state, snapshot),
        hostname: snapshot.host.clone(),
        source: snapshot.source.clone(),
        tags: snapshot.tags.iter().cloned().collect(),
        summary: summary.map(|s| json::SnapshotSummary {
            files_new: s.stats.files_new,
            files_changed: s.stats.files_changed,
            files_unmodified: s.stats.files_unmodified,
            data_added: s.stats.data_added,
            data_added_packed: s.stats.data_stored,
            total_files_processed: s.stats.files,
            total_bytes_processed: s.stats.bytes,
        }),
        held_until: snapshot.forgotten.map(|at| json::Time::of(ends.held(id, snapshot, at))),
        incomplete: summary.is_none_or(|s| s.stats.errors > 0),
        id: id.to_hex(),
        short_id: id.short(),
    }
}
