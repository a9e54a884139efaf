//! `rebuild-index`.

use std::time::Instant;

use repo::error::{Kind, Result};
use repo::mend::renew_index;
use repo::open::Access;
use serde::Serialize;

use super::open::open_repository;
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::human;
use crate::progress::Job;

#[derive(Serialize)]
#[serde(tag = "message_type", rename = "summary")]
struct Summary {
    packs: u64,
    chunks: u64,
    packs_adopted: u64,
    rollups_removed: u64,
    total_duration: f64,
}

/// Runs `rebuild-index`.
pub fn run(ctx: &Context) -> Result<ExitCode> {
    let started = Instant::now();
    // A repository that cannot be written, or whose log is damaged, still gets an index.
    let repo = match open_repository(ctx, Access::Write) {
        Err(e) if matches!(e.kind(), Kind::ReadOnly | Kind::Damaged) => open_repository(ctx, Access::Read)?,
        other => other?,
    };
    let progress = ctx.monitor(Job::Other("packs"));
    let done = renew_index(&repo, &progress);
    let elapsed = started.elapsed();
    drop(progress);
    repo.remember();
    let done = done?;
    if ctx.output.json {
        ctx.output.message(&Summary {
            packs: done.packs,
            chunks: done.chunks,
            packs_adopted: done.adopted,
            rollups_removed: done.rollups,
            total_duration: elapsed.as_secs_f64(),
        })?;
        return Ok(ExitCode::Ok);
    }
    let (packs, chunks) = (human::count(done.packs, "pack"), human::count(done.chunks, "chunk"));
    let (dir, time) = (repo.index.dir().display(), human::duration(elapsed));
    ctx.output.remark(format!("built the index in {dir}: {packs}, {chunks}, in {time}"))?;
    if done.adopted > 0 {
        ctx.output.remark(format!("recorded {} that nothing listed any more", human::count(done.adopted, "pack")))?;
    }
    if done.rollups > 0 {
        let rollups = human::count(done.rollups, "file");
        ctx.output
            .remark(format!("removed {rollups} from footers/ that could not be read: their packs say the same"))?;
    }
    Ok(ExitCode::Ok)
}
