//! `stats`.

use repo::error::Result;
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
    let ids = which::resolve_all(&repo, &args.snapshots, &which::filter(&args.filter))?;
    let monitor = ctx.monitor(Job::Look("snapshots"));
    let report = stats(&repo, &repo.log.state(), &ids, &monitor)?;
    drop(monitor);
    if ctx.output.json {
        for ((host, source), stats) in &report.histories {
            ctx.output.message(&message(Some((host, source)), stats))?;
        }
        ctx.output.message(&message(None, &report.whole))?;
    } else {
        table(ctx, &report)?;
    }
    ctx.output.flush()?;
    Ok(if report.whole.failed > 0 { ExitCode::Failed } else { ExitCode::Ok })
}

fn table(ctx: &Context, report: &Report) -> Result<()> {
    let mut table =
        Table::new(&["Host", "Source", ">Snapshots", ">Entries", ">Restored", ">Deduplicated", ">Stored", ">Ratio"]);
    for ((host, source), stats) in &report.histories {
        table.row(row(host, source, stats));
    }
    table.row(row("all", "", &report.whole));
    table.lines().iter().try_for_each(|line| ctx.output.line(line))?;
    let packs = human::count(report.packs, "pack");
    ctx.output.remark(format!(
        "The repository holds {} in {packs}, also of other and forgotten snapshots. What hosts and sources share counts \
         for each of them, and once in the last line.",
        human::size(report.packs_size)
    ))
}

fn row(host: &str, source: &str, stats: &Stats) -> [String; 8] {
    [
        host.to_owned(),
        source.to_owned(),
        stats.snapshots.to_string(),
        stats.entries.to_string(),
        human::size(stats.restore),
        human::size(stats.sum.raw),
        human::size(stats.sum.stored),
        ratio(stats.restore, stats.sum.stored).map_or_else(|| "-".to_owned(), |r| format!("{r:.1}x")),
    ]
}

fn ratio(large: u64, small: u64) -> Option<f64> {
    (small > 0).then(|| large as f64 / small as f64)
}

fn message(history: Option<(&String, &String)>, stats: &Stats) -> json::Stats {
    let (raw, stored) = (stats.sum.raw, stats.sum.stored);
    json::Stats {
        hostname: history.map(|(host, _)| host.clone()),
        source: history.map(|(_, source)| source.clone()),
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
