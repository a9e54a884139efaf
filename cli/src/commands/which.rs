//! Which snapshots a command line means, in the engine's words.

use std::os::unix::ffi::OsStrExt;

use repo::clock::Time;
use repo::error::Result;
use repo::id::SnapshotId;
use repo::open::Repository;
use repo::select::{self, Filter, Name};
use repo::snapshots::Summaries;
use repo::tenants;
use repo::times::Times;

use crate::args;
use crate::select::SnapshotName;

/// The filter options as the engine takes them.
///
/// # Errors
/// As [`tenants::readable`].
pub fn filter(repo: &Repository, args: &args::Filter) -> Result<Filter> {
    tenants::readable(&repo.log.state(), &args.rest.tenant)?;
    filter_with_sealed(repo, args)
}

/// As [`filter`], for a command that also has something to say of tenants whose snapshots cannot be read.
///
/// # Errors
/// As [`tenants::numbers`].
pub fn filter_with_sealed(repo: &Repository, args: &args::Filter) -> Result<Filter> {
    Ok(Filter {
        hosts: args.host.clone(),
        at: args.at.as_ref().map(|at| Time(i64::try_from(at.last().as_nanosecond()).unwrap_or(i64::MAX))),
        ..rest(repo, &args.rest)?
    })
}

/// As [`filter`], for commands whose `-H` means something else.
///
/// # Errors
/// As [`filter`].
pub fn history_filter(repo: &Repository, args: &args::HistoryFilter) -> Result<Filter> {
    tenants::readable(&repo.log.state(), &args.rest.tenant)?;
    Ok(Filter { hosts: args.host.clone(), ..rest(repo, &args.rest)? })
}

fn rest(repo: &Repository, args: &args::FilterRest) -> Result<Filter> {
    Ok(Filter {
        tenants: tenants::numbers(&repo.log.state(), &args.tenant)?,
        sources: args.source.clone(),
        tags: args.tag.iter().map(|list| list.0.clone()).collect(),
        paths: args.path.iter().map(|p| p.as_os_str().as_bytes().to_vec()).collect(),
        ..Filter::default()
    })
}

/// The name as the engine takes it.
pub fn name(typed: &SnapshotName) -> Name {
    match typed {
        SnapshotName::Id(id) => Name::Id(*id),
        SnapshotName::Prefix(prefix) => Name::Prefix(prefix.clone()),
        SnapshotName::Latest(back) => Name::Latest(*back),
    }
}

/// The one snapshot meant.
///
/// # Errors
/// As [`select::resolve`].
pub fn resolve(repo: &Repository, typed: &SnapshotName, filter: &Filter) -> Result<SnapshotId> {
    let state = repo.log.state();
    let mut summaries = Summaries::new(repo, &state);
    let times = Times::of(&state, repo.clock.now());
    select::resolve(&state, &times, &name(typed), filter, &mut |id| Ok(summaries.get(id)?.paths))
}

/// All that are meant, oldest first; without names all that pass the filter.
///
/// # Errors
/// As [`select::resolve_all`].
pub fn resolve_all(repo: &Repository, typed: &[SnapshotName], filter: &Filter) -> Result<Vec<SnapshotId>> {
    let state = repo.log.state();
    let mut summaries = Summaries::new(repo, &state);
    let names: Vec<Name> = typed.iter().map(name).collect();
    let times = Times::of(&state, repo.clock.now());
    select::resolve_all(&state, &times, &names, filter, &mut |id| Ok(summaries.get(id)?.paths))
}
