//! `diff`.

use repo::diff::{Difference, Statistics, Totals, diff};
use repo::error::Result;
use repo::format::tree::{Entry, EntryType};
use repo::open::{Access, Repository};
use repo::path::SnapPath;
use repo::select::Filter;
use repo::snapshots::manifest;
use repo::tree::dir::resolve;

use super::open::open_repository;
use super::which;
use crate::args::DiffArgs;
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::{human, json};
use crate::progress::Job;
use crate::select::Selection;

/// Runs `diff`.
pub fn run(ctx: &Context, args: DiffArgs) -> Result<ExitCode> {
    let repo = open_repository(ctx, Access::Read)?;
    let filter = which::filter(&repo, &args.filter)?;
    let (from, old) = selected(&repo, &args.from, &filter)?;
    let (to, new) = selected(&repo, &args.to, &filter)?;
    if !ctx.output.json {
        ctx.output.remark(format!("comparing snapshot {from} to {to}:"))?;
    }
    // Paths are shown as in the snapshots where both sides agree on them.
    let at = if args.from.path == args.to.path { args.from.path.clone() } else { SnapPath::root() };
    let store = repo.store();
    let monitor = ctx.monitor(Job::Look("files"));
    let statistics = diff(store.as_ref(), &at, (&old, &new), args.metadata, &monitor, &mut |change| {
        let dir = change.new.or(change.old).is_some_and(|e| e.kind == EntryType::Dir);
        show(ctx, change.path, change.difference, dir)
    })?;
    drop(monitor);
    summary(ctx, &statistics, from, to)?;
    ctx.output.flush()?;
    Ok(if statistics.failed > 0 { ExitCode::Failed } else { ExitCode::Ok })
}

/// A snapshot's short id and what is selected in it.
fn selected(repo: &Repository, selection: &Selection, filter: &Filter) -> Result<(String, Entry)> {
    let id = which::resolve(repo, &selection.snapshot, filter)?;
    let root = manifest(repo, &id)?.root;
    Ok((id.short(), resolve(repo.store().as_ref(), &root, &selection.path)?))
}

fn show(ctx: &Context, path: &SnapPath, difference: Difference, dir: bool) -> Result<()> {
    let letter = match difference {
        Difference::Added => "+",
        Difference::Removed => "-",
        Difference::Type => "T",
        Difference::Content => "M",
        Difference::Metadata => "U",
    };
    let mut raw = [b"/", path.as_bytes()].concat();
    if dir && raw != b"/" {
        raw.push(b'/');
    }
    if ctx.output.json {
        return ctx.output.message(&json::Change { path: json::PathField::new(&raw), modifier: letter.to_owned() });
    }
    ctx.output.line(format!("{letter:<5}{}", human::path(&raw)))
}

fn summary(ctx: &Context, statistics: &Statistics, from: String, to: String) -> Result<()> {
    let Statistics { changed_files, added, removed, .. } = statistics;
    if ctx.output.json {
        let side = |t: &Totals| json::DiffSide { files: t.files, dirs: t.dirs, others: t.others, bytes: t.bytes };
        return ctx.output.message(&json::DiffStatistics {
            source_snapshot: from,
            target_snapshot: to,
            changed_files: *changed_files,
            added: side(added),
            removed: side(removed),
        });
    }
    ctx.output.remark("")?;
    for (what, new, gone, changed) in [
        ("Files:", added.files, removed.files, Some(changed_files)),
        ("Dirs:", added.dirs, removed.dirs, None),
        ("Others:", added.others, removed.others, None),
    ] {
        let changed = changed.map_or_else(String::new, |n| format!(", {n:>5} changed"));
        ctx.output.remark(format!("{what:<11}{new:>7} new, {gone:>5} removed{changed}"))?;
    }
    ctx.output.remark(format!("  Added:   {}", human::size(added.bytes)))?;
    ctx.output.remark(format!("  Removed: {}", human::size(removed.bytes)))
}
