//! `find`.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::ffi::OsStrExt;

use fs::layout::Layout;
use fs::view::SnapshotInfo;
use repo::error::{Kind, Result};
use repo::find::{Patterns, Query, Version, find};
use repo::format::record::State;
use repo::format::tree::Entry;
use repo::history::{History, tenant_of};
use repo::id::SnapshotId;
use repo::open::{Access, Repository};
use repo::path::SnapPath;
use repo::snapshots::manifest;
use repo::times::Times;

use super::open::open_repository;
use super::{entry, which};
use crate::args::FindArgs;
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::{human, json};
use crate::progress::Job;
use crate::view::snapshot_info;

/// Runs `find`.
pub fn run(ctx: &Context, args: FindArgs) -> Result<ExitCode> {
    let query = query(&args)?;
    let repo = open_repository(ctx, Access::Read)?;
    let state = repo.log.state();
    let ids = which::resolve_all(&repo, &args.snapshot, &which::filter(&repo, &args.filter)?)?;
    let mut histories: BTreeMap<History, Vec<SnapshotId>> = BTreeMap::new();
    for id in ids {
        if let Some(s) = state.snapshots.get(&id) {
            histories.entry(History::of(s)).or_default().push(id);
        }
    }
    let mounted = mount_paths(&state, &Times::of(&state, repo.clock.now()));
    let store = repo.store();
    let monitor = ctx.monitor(Job::Look("entries"));
    let (mut failed, mut matches) = (0, 0u64);
    for (of, ids) in &histories {
        let (ids, roots, lost) = roots(ctx, &repo, ids)?;
        failed += lost;
        let searched = Searched { ctx, state: &state, mounted: &mounted, of, ids: &ids, long: args.long };
        failed += find(store.as_ref(), &roots, &query, &monitor, &mut |path, versions| {
            matches += 1;
            searched.show(path, versions)
        })?;
    }
    drop(monitor);
    if matches == 0 && !ctx.output.json && !ctx.output.quiet {
        ctx.output.complain("nothing matches");
    }
    ctx.output.flush()?;
    Ok(if failed > 0 { ExitCode::Failed } else { ExitCode::Ok })
}

fn query(args: &FindArgs) -> Result<Query> {
    let patterns: Vec<&[u8]> = args.patterns.iter().map(|p| p.as_bytes()).collect();
    Ok(Query {
        patterns: Patterns::new(&patterns, args.ignore_case)?,
        kinds: args.kind.iter().flat_map(|k| k.entry_types()).copied().collect(),
        min_size: args.min_size.map(|b| b.0),
        max_size: args.max_size.map(|b| b.0),
        oldest: args.oldest.map(|at| entry::file_time(at.first())),
        newest: args.newest.map(|at| entry::file_time(at.last())),
    })
}

/// The root directories of the snapshots that can be read, and how many cannot.
fn roots(ctx: &Context, repo: &Repository, ids: &[SnapshotId]) -> Result<(Vec<SnapshotId>, Vec<Entry>, u64)> {
    let (mut readable, mut roots, mut lost) = (Vec::new(), Vec::new(), 0);
    for id in ids {
        match manifest(repo, id) {
            Ok(manifest) => {
                readable.push(*id);
                roots.push(manifest.root);
            }
            Err(e) if matches!(e.kind(), Kind::Damaged | Kind::NotFound) => {
                lost += 1;
                ctx.output.complain(format!("packmule: warning: {e}"));
            }
            Err(e) => return Err(e),
        }
    }
    Ok((readable, roots, lost))
}

/// Where a mount shows each snapshot, relative to the mount's directory. At a pool: one of all tenants.
fn mount_paths(state: &State, times: &Times) -> HashMap<SnapshotId, String> {
    let shown = state.snapshots.iter().filter(|(_, s)| s.forgotten.is_none());
    let infos: Vec<SnapshotInfo> =
        shown.filter_map(|(id, s)| Some(snapshot_info(id, s, times.get(id)?, tenant_of(state, s)))).collect();
    let count = infos.len() as u32;
    let layout = Layout::new(infos, state.pool, None);
    (0..count).map(|i| layout.snap(i)).map(|snap| (snap.info.id, snap.path())).collect()
}

/// A history that is searched.
struct Searched<'a> {
    ctx: &'a Context,
    state: &'a State,
    mounted: &'a HashMap<SnapshotId, String>,
    of: &'a History,
    ids: &'a [SnapshotId],
    long: bool,
}

impl Searched<'_> {
    fn show(&self, path: &SnapPath, versions: &[Version]) -> Result<()> {
        let output = &self.ctx.output;
        if !output.json {
            let of = human::path(self.of.words(self.state).as_bytes());
            let count = human::count(versions.len() as u64, "version");
            output.line(format!("/{}  ({of}, {count})", human::path(path.as_bytes())))?;
        }
        versions.iter().try_for_each(|version| self.version(path, version))
    }

    fn version(&self, path: &SnapPath, version: &Version) -> Result<()> {
        let captured = |i: usize| self.ids.get(i).and_then(|id| self.state.snapshots.get(id)).map(|s| s.captured);
        let (Some(first), Some(last), Some(id)) =
            (captured(version.first), captured(version.last), self.ids.get(version.last))
        else {
            return Ok(());
        };
        let newest = self.state.snapshots.get(id);
        let mount = self.mounted.get(id).map_or("", String::as_str);
        let mount_path = [mount.as_bytes(), b"/", path.as_bytes()].concat();
        if self.ctx.output.json {
            return self.ctx.output.message(&json::FindMatch {
                node: entry::node(path.as_bytes(), &version.entry),
                whose: newest.map(|s| json::Whose::of(self.state, s)).unwrap_or_default(),
                hostname: self.of.host.clone(),
                source: self.of.source.clone(),
                snapshot: id.to_hex(),
                first_seen: json::Time::of(first),
                last_seen: json::Time::of(last),
                hits: version.count as u64,
                mount_path: json::MountPath::new(&mount_path),
            });
        }
        let time = |at| human::time(human::timestamp(at));
        let seen = if version.count == 1 {
            format!("seen {}", time(last))
        } else {
            format!("seen {} to {} in {} snapshots", time(first), time(last), version.count)
        };
        let size = human::size(version.entry.size);
        let what = if self.long { entry::long(&version.entry, false) } else { size };
        self.ctx.output.line(format!("    {what}, {seen}, {} {}", id.short(), human::path(&mount_path)))
    }
}
