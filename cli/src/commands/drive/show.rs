//! `drive list` and `drive show`.

use std::path::Path;

use repo::error::Result;
use repo::format::record::{Custody, DriveState};
use repo::id::DriveId;
use repo::open::{Access, Repository};
use serde::Serialize;
use sync::drive::receipt;
use sync::drive::{Contents, custody};

use super::super::open::open_repository;
use super::{import, name};
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::human::{self, Table};
use crate::output::json;

/// A drive as JSON.
#[derive(Serialize)]
#[serde(tag = "message_type", rename = "drive")]
struct Line<'a> {
    id: String,
    label: &'a str,
    /// Which remote, or which tenant, it is for.
    party: &'a str,
    /// From a pool to a site.
    back: bool,
    state: &'static str,
    since: Option<json::Time>,
    packs: u64,
    bytes: u64,
    snapshots: u64,
    steps: Vec<StepLine<'a>>,
}

#[derive(Serialize)]
struct StepLine<'a> {
    state: &'static str,
    time: json::Time,
    by: &'a str,
}

fn line<'a>(id: &DriveId, drive: &'a DriveState) -> Line<'a> {
    Line {
        id: id.to_hex(),
        label: &drive.label,
        party: &drive.party,
        back: drive.back,
        state: drive.custody().name(),
        since: drive.since().map(json::Time::of),
        packs: drive.packs,
        bytes: drive.bytes,
        snapshots: drive.snapshots,
        steps: drive
            .steps
            .iter()
            .map(|step| StepLine { state: step.custody.name(), time: json::Time::of(step.at), by: &step.by })
            .collect(),
    }
}

/// Lists the drives that the log knows.
pub fn list(ctx: &Context) -> Result<ExitCode> {
    let repo = open_repository(ctx, Access::Read)?;
    let mut state = repo.log.state().drives.clone();
    state.values_mut().try_for_each(|known| counted(&repo, known))?;
    let mut drives: Vec<(&DriveId, &DriveState)> = state.iter().collect();
    drives.sort_by_key(|(_, drive)| drive.steps.first().map(|step| step.at));
    if ctx.output.json {
        drives.iter().try_for_each(|(id, drive)| ctx.output.message(&line(id, drive)))?;
    } else if drives.is_empty() {
        ctx.output.remark("no drive is known here; `packmule drive init` makes one")?;
    } else {
        let mut table = Table::new(&["ID", "Label", "For", "State", "Since", "Packs", ">Size"]);
        for (id, drive) in drives {
            let since = drive.since().map_or_else(String::new, |at| human::time(human::timestamp(at)));
            let party = match (drive.back, drive.party.as_str()) {
                (true, "") => "here".to_owned(),
                (true, party) => format!("back to {party}"),
                (false, party) => party.to_owned(),
            };
            let (packs, size) = (drive.packs.to_string(), human::size(drive.bytes));
            table.row([&id.short(), &drive.label, &party, drive.custody().name(), &since, &packs, &size]);
        }
        table.lines().iter().try_for_each(|line| ctx.output.line(line))?;
    }
    ctx.output.flush()?;
    Ok(ExitCode::Ok)
}

/// An export that did not come to its end has not counted what it has written.
fn counted(repo: &Repository, drive: &mut DriveState) -> Result<()> {
    if drive.custody() == Custody::Exported && drive.repository == repo.config.repo_id {
        let loaded = Contents::loaded(repo, drive)?;
        if loaded.packs > drive.packs {
            (drive.packs, drive.bytes) = (loaded.packs, loaded.bytes);
        }
    }
    Ok(())
}

/// Shows one drive: one that the log knows, or one that is plugged in.
pub fn show(ctx: &Context, which: &str) -> Result<ExitCode> {
    let repo = open_repository(ctx, Access::Read)?;
    let (id, state, receipt) = if which.contains('/') {
        let dir = Path::new(which);
        let drive = import::open(ctx, &repo, dir, Access::Read)?;
        // Where this repository knows it, it knows more than the drive.
        let known = repo.log.state().drives.get(&drive.id).cloned();
        let state = match known {
            Some(known) => known,
            None => drive.state()?,
        };
        (drive.id, state, receipt::found(dir, &|_| None)?.is_some())
    } else {
        let (id, mut state) = custody::find(&repo.log.state(), which).map(|(id, state)| (id, state.clone()))?;
        counted(&repo, &mut state)?;
        (id, state, false)
    };
    if ctx.output.json {
        ctx.output.message(&line(&id, &state))?;
    } else {
        tell(ctx, &id, &state)?;
        if receipt {
            ctx.output.line("There is a receipt on it: `packmule drive receipt` takes it.")?;
        }
    }
    ctx.output.flush()?;
    Ok(ExitCode::Ok)
}

fn tell(ctx: &Context, id: &DriveId, state: &DriveState) -> Result<()> {
    ctx.output.line(format!("drive {}, {}", name(id, state), id.to_hex()))?;
    let whom = match (state.party.as_str(), state.back) {
        ("", false) => "for nobody yet".to_owned(),
        ("", true) => "from a pool".to_owned(),
        (party, false) => format!("for {party}"),
        (party, true) => format!("back to {party}"),
    };
    ctx.output.line(format!(
        "{whom}: {}, {}, of {}",
        human::count(state.packs, "pack"),
        human::size(state.bytes),
        human::count(state.snapshots, "snapshot")
    ))?;
    for step in &state.steps {
        let at = human::time(human::timestamp(step.at));
        ctx.output.line(format!("  {:<10} {at}  by {}", step.custody.name(), step.by.escape_debug()))?;
    }
    Ok(())
}
