//! `stats`.

use repo::error::Result;
use repo::format::record::State;
use repo::history::{History, tenant_name};
use repo::open::Access;
use repo::stats::{Report, Stats, stats};

use super::open::open_repository;
use super::which;
use crate::args::StatsArgs;
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::human::{self, Table};
use crate::output::json;
use crate::progress::Job;

/// Runs `stats`.
pub fn run(ctx: &Context, args: StatsArgs) -> Result<ExitCode> {
    let repo = open_repository(ctx, Access::Read)?;
    let ids = which::resolve_all(&repo, &args.snapshots, &which::filter(&repo, &args.filter)?)?;
    let monitor = ctx.monitor(Job::Look("snapshots"));
    let state = repo.log.state();
    let report = stats(&repo, &state, &ids, &monitor)?;
    drop(monitor);
    if ctx.output.json {
        for (history, stats) in &report.histories {
            ctx.output.message(&message(&state, Some(history), stats))?;
        }
        ctx.output.message(&message(&state, None, &report.whole))?;
    } else {
        table(ctx, &state, &report)?;
    }
    ctx.output.flush()?;
    Ok(if report.whole.failed > 0 { ExitCode::Failed } else { ExitCode::Ok })
}

fn table(ctx: &Context, state: &State, report: &Report) -> Result<()> {
    let mut titles =
        vec!["Host", "Source", ">Snapshots", ">Entries", ">Restored", ">Deduplicated", ">Stored", ">Ratio"];
    if state.pool {
        titles.insert(0, "Tenant");
    }
    let mut table = Table::new(&titles);
    for (history, stats) in &report.histories {
        let tenant = history.tenant.map_or_else(String::new, |number| tenant_name(state, number));
        table.row(row(state.pool, [&tenant, &history.host, &history.source], stats));
    }
    let all = if state.pool { ["all", "", ""] } else { ["", "all", ""] };
    table.row(row(state.pool, all, &report.whole));
    table.lines().iter().try_for_each(|line| ctx.output.line(line))?;
    let packs = human::count(report.packs, "pack");
    ctx.output.remark(format!(
        "The repository holds {} in {packs}, also of other and forgotten snapshots. What hosts and sources share counts \
         for each of them, and once in the last line.",
        human::size(report.packs_size)
    ))
}

/// `of`: tenant, host and source; the first is shown at a pool.
fn row(pool: bool, of: [&str; 3], stats: &Stats) -> Vec<String> {
    let mut cells: Vec<String> = of.iter().skip(usize::from(!pool)).map(|of| (*of).to_owned()).collect();
    cells.extend([
        stats.snapshots.to_string(),
        stats.entries.to_string(),
        human::size(stats.restore),
        human::size(stats.sum.raw),
        human::size(stats.sum.stored),
        ratio(stats.restore, stats.sum.stored).map_or_else(|| "-".to_owned(), |r| format!("{r:.1}x")),
    ]);
    cells
}

fn ratio(large: u64, small: u64) -> Option<f64> {
    (small > 0).then(|| large as f64 / small as f64)
}

fn message(state: &State, history: Option<&History>, stats: &Stats) -> json::Stats {
    let (raw, stored) = (stats.sum.raw, stats.sum.stored);
    json::Stats {
        tenant: history.and_then(|of| of.tenant).map(|number| tenant_name(state, number)),
        hostname: history.map(|of| of.host.clone()),
        source: history.map(|of| of.source.clone()),
        snapshots_count: stats.snapshots,
        total_file_count: stats.entries,
        total_restore_size: stats.restore,
        total_uncompressed_size: raw,
        total_size: stored,
        total_blob_count: stats.sum.chunks,
        compression_ratio: ratio(raw, stored).unwrap_or(1.0),
        compression_space_saving: if raw > 0 { (1.0 - stored as f64 / raw as f64) * 100.0 } else { 0.0 },
    }
}
