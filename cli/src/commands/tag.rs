//! `tag`.

use std::collections::BTreeSet;

use repo::error::Result;
use repo::open::Access;
use repo::tag::{Change, tag};

use super::open::open_repository;
use super::which;
use crate::args::{TagArgs, TagList};
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::{human, json};

/// Runs `tag`.
pub fn run(ctx: &Context, args: TagArgs) -> Result<ExitCode> {
    let tags = |lists: &[TagList]| -> BTreeSet<String> { TagList::flatten(lists).into_iter().collect() };
    let change = Change {
        set: (!args.set.is_empty()).then(|| tags(&args.set)),
        remove: tags(&args.remove),
        add: tags(&args.add),
    };
    let repo = open_repository(ctx, Access::Write)?;
    let ids = which::resolve_all(&repo, &args.snapshots, &which::filter(&repo, &args.filter)?)?;
    let (state, mut changed) = (repo.log.state(), 0);
    tag(&repo, &ids, &change, &mut |id, tags| {
        changed += 1;
        let tags: Vec<String> = tags.iter().cloned().collect();
        if ctx.output.json {
            let whose = state.snapshots.get(id).map(|s| json::Whose::of(&state, s)).unwrap_or_default();
            return ctx.output.message(&json::Tagged { snapshot_id: id.to_hex(), whose, tags });
        }
        let shown = if tags.is_empty() { "no tags".to_owned() } else { human::path(tags.join(",").as_bytes()) };
        ctx.output.line(format!("{}: {shown}", id.short()))
    })?;
    repo.remember();
    if !ctx.output.json {
        ctx.output.remark(format!("changed the tags of {}", human::count(changed, "snapshot")))?;
    }
    ctx.output.flush()?;
    Ok(ExitCode::Ok)
}
