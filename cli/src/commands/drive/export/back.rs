//! `drive export --tenant`.

use std::collections::HashSet;
use std::path::Path;
use std::time::Instant;

use repo::error::{Error, Kind, Result};
use repo::format::record::{DriveState, State};
use repo::id::{DriveId, RepoId, SnapshotId};
use repo::open::{Access, Repository};
use repo::tenants;
use serde::Serialize;
use sync::drive::back::{Report, Wanted, export};
use sync::drive::{self, Drive, custody, sealed};

use super::super::super::noted::Noted;
use super::super::super::open::{open_repository, place};
use super::super::{at, name, quoted};
use super::hand_over;
use crate::args::DriveExportArgs;
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::human;
use crate::progress::Job;

/// An export for a tenant as JSON.
#[derive(Serialize)]
#[serde(tag = "message_type", rename = "summary")]
struct Summary<'a> {
    drive: String,
    tenant: &'a str,
    packs_written: u64,
    bytes_written: u64,
    snapshots_written: u64,
    /// Snapshots of which everything is on this drive, or on others on their way; of a sealed tenant nobody here knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshots_whole: Option<u64>,
    /// Something is left for another drive.
    full: bool,
    snapshots_failed: Vec<(String, String)>,
    packs_damaged: Vec<String>,
    total_duration: f64,
}

/// Writes to the drive in `dir` what the pool has of a tenant.
pub fn run(ctx: &Context, args: &DriveExportArgs, tenant: &str, dir: &Path) -> Result<ExitCode> {
    let repo = open_repository(ctx, Access::Write)?;
    tenants::require_pool(&repo)?;
    let state = repo.log.state();
    let (number, known) = tenants::find(&state, tenant)?;
    let none =
        || Error::new(Kind::Refused, format!("tenant {tenant} has not connected yet: there is nothing of it here"));
    let repository = known.repository.ok_or_else(none)?;
    let noted = Noted::begin("drive export");
    let done = match known.sealed {
        true => sealed_tenant(ctx, args, &repo, (number, tenant, repository), dir),
        false => pooled_tenant(ctx, args, &repo, number, tenant, dir),
    };
    noted.end(ctx, &repo, Some(tenant), *done.as_ref().map_or(&0, |(_, snapshots)| snapshots), &done);
    repo.remember();
    done.map(|(code, _)| code)
}

fn pooled_tenant(
    ctx: &Context,
    args: &DriveExportArgs,
    repo: &Repository,
    number: u32,
    tenant: &str,
    dir: &Path,
) -> Result<(ExitCode, u64)> {
    let started = Instant::now();
    let state = repo.log.state();
    let wanted = Wanted {
        snapshots: chosen(&state, number, args)?,
        max_bytes: args.max_bytes.map(|max| max.0),
        after: after(&state, args)?,
    };
    let drive = super::super::import::open(ctx, repo, dir, Access::Write)?;
    let progress = ctx.monitor(Job::Transfer);
    let done = export(repo, number, drive, &place(ctx)?, &wanted, &progress);
    drop(progress);
    let (drive, done) = done?;
    tell(ctx, repo, &drive, tenant, &done, started)?;
    ctx.output.flush()?;
    if done.failed.is_empty() {
        return Ok((ExitCode::Ok, done.snapshots));
    }
    let count = human::count(done.failed.len() as u64, "snapshot");
    Err(Error::damaged(format!("{count} could not be written whole"))
        .remedy("`packmule check --read-data` tells what is damaged here"))
}

/// The drives that this one goes along with.
fn after(state: &State, args: &DriveExportArgs) -> Result<Vec<DriveId>> {
    args.after.iter().map(|name| custody::find(state, name).map(|(id, _)| id)).collect()
}

/// How the next drive is written, when this one and those it goes along with are used up.
fn next(state: &State, tenant: &str, drives: &[DriveId]) -> String {
    let name = |id: &DriveId| state.drives.get(id).map_or_else(|| id.short(), |drive| quoted(&drive.label));
    let after: Vec<String> = drives.iter().map(|id| format!(" --after {}", name(id))).collect();
    format!("`packmule drive init --tenant {tenant}`, then `packmule drive export --tenant {tenant}{}`", after.concat())
}

/// Other drives that are on their way to the same tenant, and are not counted on.
fn tell_others(ctx: &Context, state: &State, drive: DriveId, after: &[DriveId]) -> Result<()> {
    let Some(own) = state.drives.get(&drive) else { return Ok(()) };
    let meant = |(id, other): &(&DriveId, &DriveState)| {
        let under_way = other.back && other.repository == own.repository && other.custody().is_under_way();
        under_way && **id != drive && !after.contains(id)
    };
    let names: Vec<String> = state.drives.iter().filter(meant).map(|(id, other)| name(id, other)).collect();
    if names.is_empty() {
        return Ok(());
    }
    ctx.output.remark(format!(
        "on their way too: {}; what they carry is written here as well, --after leaves it out",
        names.join(", ")
    ))
}

/// The snapshots that are asked for; none: all.
fn chosen(state: &State, tenant: u32, args: &DriveExportArgs) -> Result<Option<HashSet<SnapshotId>>> {
    if args.host.is_none() && args.snapshots.is_empty() {
        return Ok(None);
    }
    let own = |id: &SnapshotId| state.snapshots[id].origin.filter(|origin| origin.tenant == tenant);
    let mut left: Vec<&SnapshotId> = state.snapshots.keys().filter(|id| own(id).is_some()).collect();
    if let Some(host) = &args.host {
        left.retain(|id| state.snapshots[*id].host == *host);
        if left.is_empty() {
            return Err(Error::new(Kind::NotFound, format!("there is no snapshot of host '{}'", host.escape_debug()))
                .remedy("`packmule snapshots --tenant` shows those there are"));
        }
    }
    if args.snapshots.is_empty() {
        return Ok(Some(left.into_iter().copied().collect()));
    }
    let mut found = HashSet::new();
    for name in &args.snapshots {
        let digits = name.to_ascii_lowercase();
        // By either of its names: the pool's, and that of the tenant's own repository.
        let fits = |id: &&&SnapshotId| {
            let begins = |id: &SnapshotId| !digits.is_empty() && id.to_hex().starts_with(&digits);
            begins(id) || own(id).is_some_and(|origin| begins(&origin.id))
        };
        let mut fitting = left.iter().filter(fits);
        match (fitting.next(), fitting.next()) {
            (Some(one), None) => _ = found.insert(**one),
            (None, _) => {
                let e = Error::new(Kind::NotFound, format!("the tenant has no snapshot '{}'", name.escape_debug()));
                return Err(e.remedy("`packmule snapshots --tenant` shows those there are"));
            }
            _ => {
                let e = Error::new(Kind::Ambiguous, format!("several snapshots begin with '{}'", name.escape_debug()));
                return Err(e.remedy("give more digits"));
            }
        }
    }
    Ok(Some(found))
}

fn tell(ctx: &Context, repo: &Repository, drive: &Drive, tenant: &str, done: &Report, started: Instant) -> Result<()> {
    let state = drive.state()?;
    if ctx.output.json {
        return ctx.output.message(&Summary {
            drive: drive.id.to_hex(),
            tenant,
            packs_written: done.packs,
            bytes_written: done.bytes,
            snapshots_written: done.snapshots,
            snapshots_whole: Some(done.whole),
            full: done.full,
            snapshots_failed: done.failed.iter().map(|(id, why)| (id.to_hex(), why.clone())).collect(),
            packs_damaged: Vec::new(),
            total_duration: started.elapsed().as_secs_f64(),
        });
    }
    for (id, why) in &done.failed {
        ctx.output.complain(format!("packmule: snapshot {} is not whole on the drive: {why}", id.short()));
    }
    for id in &done.forgotten {
        let id = id.short();
        ctx.output.complain(format!(
            "packmule: this machine does not know any more what is on drive {id}: that is written once more"
        ));
    }
    ctx.output.line(format!(
        "wrote {}, {} and {} to drive {} in {}",
        human::count(done.packs, "pack"),
        human::size(done.bytes),
        human::count(done.snapshots, "snapshot"),
        name(&drive.id, &state),
        human::duration(started.elapsed())
    ))?;
    if done.full {
        let drives: Vec<DriveId> = done.after.iter().chain([&drive.id]).copied().collect();
        let why = if done.allowed { "what --max-bytes allows is written" } else { "it is full" };
        let next = next(&repo.log.state(), tenant, &drives);
        ctx.output.line(format!("{why}, and there is more: on another drive, {next}"))?;
    } else {
        let with = if done.after.is_empty() { "on it" } else { "on it and those it goes along with" };
        ctx.output.line(format!("{} whole {with}", human::count(done.whole, "snapshot")))?;
    }
    tell_others(ctx, &repo.log.state(), drive.id, &done.after)?;
    ctx.output.remark(hand_over(&state.label))
}

fn sealed_tenant(
    ctx: &Context,
    args: &DriveExportArgs,
    repo: &Repository,
    (number, tenant, repository): (u32, &str, RepoId),
    dir: &Path,
) -> Result<(ExitCode, u64)> {
    if args.host.is_some() || !args.snapshots.is_empty() || args.max_bytes.is_some() {
        return Err(Error::new(Kind::Usage, format!("tenant {tenant} is sealed: all that is kept of it is written"))
            .remedy("leave --host, --snapshot and --max-bytes out"));
    }
    let started = Instant::now();
    let place = at(ctx, dir)?;
    let progress = ctx.monitor(Job::Transfer);
    let after = after(&repo.log.state(), args)?;
    let done = sealed::export(repo, (number, tenant, repository), &place.root, &after, &progress);
    drop(progress);
    let (id, done) = done?;
    repo.log.refresh()?;
    let label = repo.log.state().drives.get(&id).map_or_else(String::new, |drive| drive.label.clone());
    if ctx.output.json {
        ctx.output.message(&Summary {
            drive: id.to_hex(),
            tenant,
            packs_written: done.packs,
            bytes_written: done.bytes,
            snapshots_written: 0,
            snapshots_whole: None,
            full: done.left > 0,
            snapshots_failed: Vec::new(),
            packs_damaged: done.bad.iter().map(repo::id::PackId::to_hex).collect(),
            total_duration: started.elapsed().as_secs_f64(),
        })?;
    } else {
        let (packs, size) = (human::count(done.packs, "pack"), human::size(done.bytes));
        let took = human::duration(started.elapsed());
        ctx.output.line(format!(
            "wrote {packs}, {size} to drive {} ({}) in {took}",
            label.escape_debug(),
            id.short()
        ))?;
        if done.left > 0 {
            let drives: Vec<DriveId> = after.iter().chain([&id]).copied().collect();
            let next = next(&repo.log.state(), tenant, &drives);
            let left = human::count(done.left, "pack");
            ctx.output.line(format!("it is full, and there is more, {left}: on another drive, {next}"))?;
        }
        tell_others(ctx, &repo.log.state(), id, &after)?;
        ctx.output
            .remark("It is sealed as the tenant left it: the recovery code of the tenant's own repository opens it.")?;
        ctx.output.remark(hand_over(&label))?;
    }
    ctx.output.flush()?;
    if done.bad.is_empty() {
        return Ok((ExitCode::Ok, 0));
    }
    let count = human::count(done.bad.len() as u64, "pack");
    Err(Error::damaged(format!("{count} could not be read, and are not on the drive"))
        .remedy("the site's next push brings them anew"))
}

/// Makes a drive in `dir` for a tenant; of a sealed one without keys of its own, for those that its copy has.
pub fn init_for(ctx: &Context, repo: &Repository, label: &drive::Label, tenant: &str, dir: &Path) -> Result<Made> {
    tenants::require_pool(repo)?;
    let state = repo.log.state();
    let (number, known) = tenants::find(&state, tenant)?;
    let none =
        || Error::new(Kind::Refused, format!("tenant {tenant} has not connected yet: there is nothing of it here"));
    let repository = known.repository.ok_or_else(none)?;
    let place = at(ctx, dir)?;
    if known.sealed {
        return sealed::init(repo, tenant, repository, &place.root, label).map(|id| (id, None));
    }
    let keyring = tenants::keyring_of(&repo.keys, number, known)?;
    let monitor = ctx.monitor(Job::Look("packs"));
    let (id, code) = drive::init(&place, label, (repository, &keyring), repo, true, &monitor)?;
    Ok((id, Some(code)))
}

/// A new drive, and the recovery code of its own, if it has one.
pub type Made = (repo::id::DriveId, Option<repo::crypto::slot::RecoveryCode>);
