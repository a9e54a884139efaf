//! `ls`.

use repo::error::Result;
use repo::format::tree::{Content, Entry};
use repo::ls::{Depth, walk};
use repo::open::Access;
use repo::path::SnapPath;
use repo::policy::Ends;
use repo::snapshots::{Summary, manifest};
use repo::tree::dir::resolve;

use super::open::open_repository;
use super::{entry, snapshots, which};
use crate::args::LsArgs;
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::json;
use crate::progress::Job;

/// Runs `ls`.
pub fn run(ctx: &Context, args: LsArgs) -> Result<ExitCode> {
    let repo = open_repository(ctx, Access::Read)?;
    let state = repo.log.state();
    let id = which::resolve(&repo, &args.snapshot.snapshot, &which::filter(&repo, &args.filter)?)?;
    let manifest = manifest(&repo, &id)?;
    if let (true, Some(snapshot)) = (ctx.output.json, state.snapshots.get(&id)) {
        ctx.output.message(&snapshots::message(
            &state,
            &Ends::new(&state, repo.clock.now(), None),
            &id,
            snapshot,
            Some(&Summary::of(&manifest)),
        ))?;
    }
    let store = repo.store();
    let places = match args.paths.as_slice() {
        [] => vec![args.snapshot.path.clone()],
        paths => paths.iter().map(|p| args.snapshot.below(p)).collect::<Result<_>>()?,
    };
    let monitor = ctx.monitor(Job::Look("files"));
    let mut failed = 0;
    for place in &places {
        let found = resolve(store.as_ref(), &manifest.root, place)?;
        let depth = if args.recursive || place.is_root() { Depth::All } else { Depth::One };
        if !place.is_root() {
            show(ctx, &args, place, &found)?;
        }
        if let Content::Dir(dir) = &found.content {
            failed +=
                walk(store.as_ref(), place, dir, depth, &monitor, &mut |path, entry| show(ctx, &args, path, entry))?;
        }
    }
    drop(monitor);
    ctx.output.flush()?;
    Ok(if failed > 0 { ExitCode::Failed } else { ExitCode::Ok })
}

fn show(ctx: &Context, args: &LsArgs, path: &SnapPath, found: &Entry) -> Result<()> {
    if ctx.output.json {
        return ctx.output.message(&json::LsNode { node: entry::node(path.as_bytes(), found) });
    }
    let shown = entry::path(path.as_bytes(), found, args.long);
    if args.long {
        return ctx.output.line(format!("{} {shown}", entry::long(found, args.human_readable)));
    }
    ctx.output.line(shown)
}
