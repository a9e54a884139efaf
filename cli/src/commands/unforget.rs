//! `unforget`.

use repo::error::{Error, Kind, Result};
use repo::forget::unforget;
use repo::id::SnapshotId;
use repo::open::Access;
use repo::select::Filter;
use serde::Serialize;

use super::noted::{Noted, only};
use super::open::open_repository;
use super::which;
use crate::args::UnforgetArgs;
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::human;
use crate::progress::Job;
use crate::select::SnapshotName;

/// The result as JSON.
#[derive(Serialize)]
#[serde(tag = "message_type", rename = "summary")]
struct Summary {
    /// All 64 digits of each snapshot taken back.
    unforgotten: Vec<String>,
    /// Of each that was named and is not forgotten.
    not_forgotten: Vec<String>,
}

/// Runs `unforget`.
pub fn run(ctx: &Context, args: UnforgetArgs) -> Result<ExitCode> {
    if args.snapshots.iter().any(|name| matches!(name, SnapshotName::Latest(_))) {
        return Err(Error::new(Kind::Usage, "'latest' does not say which forgotten snapshot is meant")
            .remedy("give ids, as `packmule snapshots --forgotten` shows them"));
    }
    let repo = open_repository(ctx, Access::Write)?;
    let tenants = repo::tenants::readable(&repo.log.state(), &args.tenant)?;
    let filter = Filter { tenants, forgotten: true, ..Filter::default() };
    let ids = which::resolve_all(&repo, &args.snapshots, &filter)?;
    let progress = ctx.monitor(Job::Other("snapshots"));
    let noted = Noted::begin("unforget");
    let back = unforget(&repo, &ids, &progress);
    drop(progress);
    let count = back.as_ref().map_or(0, |back| back.len() as u64);
    noted.end(ctx, &repo, only(&args.tenant), count, &back);
    let back = back?;
    repo.remember();
    if ctx.output.json {
        let (unforgotten, not_forgotten): (Vec<_>, Vec<_>) = ids.iter().partition(|id| back.contains(id));
        let hex = |ids: Vec<&SnapshotId>| ids.into_iter().map(SnapshotId::to_hex).collect();
        let (unforgotten, not_forgotten) = (hex(unforgotten), hex(not_forgotten));
        ctx.output.message(&Summary { unforgotten, not_forgotten })?;
    } else {
        for id in ids.iter().filter(|id| !back.contains(id)) {
            ctx.output.remark(format!("snapshot {} is not forgotten: nothing to take back", id.short()))?;
        }
        if !back.is_empty() {
            ctx.output.remark(format!("took back {}", human::count(back.len() as u64, "snapshot")))?;
        }
    }
    ctx.output.flush()?;
    Ok(ExitCode::Ok)
}
