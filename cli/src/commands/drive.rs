//! `drive`.

pub mod check;
mod export;
pub mod home;
pub mod import;
mod show;

use std::path::Path;

use repo::error::{Error, Kind, Result, printable};
use repo::format::record::{Custody, DriveState};
use repo::id::{DriveId, RepoId};
use repo::open::{Access, Place, Repository};
use serde::Serialize;
use sync::drive::custody::{self, step};
use sync::drive::{self, Drive, Label, receipt};
use zeroize::Zeroizing;

use super::open::{open_repository, place};
use crate::args::{DriveAction, DriveArgs, DriveInitArgs};
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::{human, json};
use crate::progress::Job;

/// A new drive as JSON.
#[derive(Serialize)]
#[serde(tag = "message_type", rename = "initialized")]
struct Made<'a> {
    id: String,
    label: &'a str,
    drive: json::PathField,
    /// None for a sealed tenant's: its own repository's opens it.
    #[serde(skip_serializing_if = "Option::is_none")]
    recovery_code: Option<&'a str>,
}

/// Runs `drive`.
pub fn run(ctx: &Context, args: DriveArgs) -> Result<ExitCode> {
    match args.action {
        DriveAction::Init(args) => init(ctx, &args),
        DriveAction::Export(args) => export::run(ctx, &args),
        DriveAction::Import { dirs } => import::run(ctx, &dirs),
        DriveAction::Check { dirs } => check::run(ctx, &dirs, false),
        DriveAction::List => show::list(ctx),
        DriveAction::Show { drive } => show::show(ctx, &drive),
        DriveAction::Ship { drive } => ship(ctx, &drive),
        DriveAction::Receipt { from } => take_receipt(ctx, &from),
        DriveAction::Lost { drive } => lost(ctx, &drive),
        DriveAction::Retire { dir } => retire(ctx, &dir),
    }
}

/// What people call a drive: its label and the first digits of its id.
pub fn name(id: &DriveId, state: &DriveState) -> String {
    format!("{} ({})", state.label.escape_debug(), id.short())
}

/// A label as a shell takes it.
fn quoted(label: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if label.chars().all(plain) { label.to_owned() } else { format!("'{}'", label.replace('\'', r"'\''")) }
}

/// As [`name`], of one that may not say what it is.
fn called(drive: &Drive) -> String {
    drive.state().map_or_else(|_| drive.id.short(), |state| name(&drive.id, &state))
}

/// Where the drive in `dir` is, with this machine's cache.
fn at(ctx: &Context, dir: &Path) -> Result<Place> {
    let dir = std::path::absolute(dir).map_err(|e| Error::io("find the working directory of", dir, e))?;
    Ok(drive::place_of(&dir, &place(ctx)?))
}

/// Opens the drive in `dir` with the keys of `repo`.
fn open_drive(ctx: &Context, repo: &Repository, dir: &Path, access: Access) -> Result<Drive> {
    let known = (repo.config.repo_id, &repo.unlocked.keyring);
    drive::open(at(ctx, dir)?, access, known, &repo.clock, &ctx.monitor(Job::Look("packs")))
}

fn init(ctx: &Context, args: &DriveInitArgs) -> Result<ExitCode> {
    let label = Label::new(&args.label)?;
    // What a pool makes for a tenant it notes.
    let access = if args.tenant.is_some() { Access::Write } else { Access::Read };
    let repo = open_repository(ctx, access)?;
    let (id, code) = match (&args.tenant, repo.log.state().pool) {
        (Some(tenant), _) => export::init_for(ctx, &repo, &label, tenant, &args.dir)?,
        (None, true) => {
            return Err(Error::new(Kind::Usage, "at a pool a drive is one tenant's").remedy("name it with --tenant"));
        }
        (None, false) => {
            let known = (repo.config.repo_id, &repo.unlocked.keyring);
            let monitor = ctx.monitor(Job::Look("packs"));
            let (id, code) = drive::init(&at(ctx, &args.dir)?, &label, known, &repo, false, &monitor)?;
            (id, Some(code))
        }
    };
    repo.remember();
    tell_made(ctx, args, &id, code.map(|code| code.to_text()))?;
    Ok(ExitCode::Ok)
}

/// Says what was made, and shows the recovery code, once.
fn tell_made(ctx: &Context, args: &DriveInitArgs, id: &DriveId, code: Option<Zeroizing<String>>) -> Result<()> {
    if ctx.output.json {
        let drive = json::PathField::new(args.dir.as_os_str().as_encoded_bytes());
        let recovery_code = code.as_ref().map(|code| code.as_str());
        return ctx.output.message_now(&Made { id: id.to_hex(), label: &args.label, drive, recovery_code });
    }
    let said = format!("made drive {} ({}) at {}", args.label.escape_debug(), id.short(), printable(&args.dir));
    ctx.output.line(said)?;
    let Some(code) = code else {
        ctx.output.line("It has no recovery code of its own: that of the tenant's repository opens it.")?;
        return ctx.output.flush();
    };
    ctx.output.line("")?;
    ctx.output.line("Recovery code of this drive, shown only this once:")?;
    ctx.output.line("")?;
    ctx.output.line(Zeroizing::new(format!("    {}", code.as_str())).as_str())?;
    ctx.output.line("")?;
    ctx.output.line(
        "With it anybody opens the drive, without us and without the repository: print it or write it down, keep",
    )?;
    ctx.output.line("it, and never send it along with the drive. The repository's own keys open the drive as well.")?;
    ctx.output.flush()
}

fn ship(ctx: &Context, drive: &str) -> Result<ExitCode> {
    let repo = open_repository(ctx, Access::Write)?;
    let (id, _) = custody::find(&repo.log.state(), drive).map(|(id, state)| (id, state.clone()))?;
    let state = step(&repo, id, Custody::Shipped, &ctx.monitor(Job::Look("packs")))?;
    did(ctx, &repo, "drive ship", &id, format!("drive {} is on its way to {}", name(&id, &state), state.party))
}

fn lost(ctx: &Context, drive: &str) -> Result<ExitCode> {
    let repo = open_repository(ctx, Access::Write)?;
    let (id, before) = custody::find(&repo.log.state(), drive).map(|(id, state)| (id, state.clone()))?;
    let state = step(&repo, id, Custody::Lost, &ctx.monitor(Job::Look("packs")))?;
    let carried = format!("{}, {}", human::count(before.packs, "pack"), human::size(before.bytes));
    let party = &state.party;
    let again = match (state.back, repo.log.state().pool && state.repository != repo.config.repo_id) {
        (true, _) => format!("`packmule drive export --tenant {party}` writes what it carried ({carried}) to another"),
        (false, true) => format!(
            "what of it is not here ({carried} in all) is for its site to send again: `packmule drive lost` there"
        ),
        _ => format!(
            "the next `packmule sync push {party}` or `packmule drive export` takes what it carried ({carried})"
        ),
    };
    let text = format!("drive {} is given up: {again}", name(&id, &state));
    did(ctx, &repo, "drive lost", &id, text)
}

/// The receipt in what `drive import --json` has said.
fn said(text: &str) -> Option<String> {
    let receipt = |line: &str| -> Option<String> {
        let value: serde_json::Value = serde_json::from_str(line).ok()?;
        value["receipt"].as_str().map(str::to_owned)
    };
    text.lines().find_map(receipt)
}

fn take_receipt(ctx: &Context, from: &Path) -> Result<ExitCode> {
    let none = || {
        Error::new(Kind::NotFound, "there is no receipt at")
            .at(from)
            .remedy("`packmule drive import` at the pool writes one onto the drive, when all on it is there")
    };
    let signed = receipt::found(from, &said)?.ok_or_else(none)?;
    let repo = open_repository(ctx, Access::Write)?;
    let state = custody::commit(&repo, &signed, &ctx.monitor(Job::Look("packs")))?;
    let id = signed.drive();
    did(ctx, &repo, "drive receipt", &id, format!("what drive {} carried is at {}", name(&id, &state), state.party))
}

/// What cannot be taken back is done to the repository's own drives alone, at a pool to its tenants'.
fn require_own(here: &Repository, of: RepoId, id: DriveId, root: &Path) -> Result<()> {
    let state = here.log.state();
    let known = of == here.config.repo_id || state.drives.contains_key(&id);
    if known || state.tenants.values().any(|tenant| tenant.repository == Some(of)) {
        return Ok(());
    }
    Err(Error::new(Kind::WrongDrive, "this drive is of another repository:")
        .at(root)
        .remedy("retire it with the repository that it is of; or without -r, if that is gone"))
}

/// A drive that has come back with a receipt is none whose contents would be sent again. What is wrong with the receipt is told.
fn take_receipt_on(ctx: &Context, repo: &Repository, dir: &Path) {
    let Ok(Some(signed)) = receipt::found(dir, &said) else { return };
    let waits =
        |state: &DriveState| !state.back && state.repository == repo.config.repo_id && state.standing().is_under_way();
    if !repo.log.state().drives.get(&signed.drive()).is_some_and(waits) {
        return;
    }
    if let Err(e) = custody::commit(repo, &signed, &ctx.monitor(Job::Look("packs"))) {
        ctx.output.complain(format!("packmule: the receipt on the drive is not taken: {e}"));
    }
}

fn retire(ctx: &Context, dir: &Path) -> Result<ExitCode> {
    // Who retires one for others may have no repository.
    let repo = match ctx.target() {
        Ok(_) => Some(open_repository(ctx, Access::Write)?),
        Err(_) => None,
    };
    if let Some(repo) = &repo {
        take_receipt_on(ctx, repo, dir);
    }
    let place = at(ctx, dir)?;
    let repository = repo::backend::local::Local::open_drive(&place.root, true).and_then(|(drive, id)| {
        let of = repo::open::repository_in(&drive)?;
        Ok((of, id))
    });
    if let (Some(here), Ok((of, id))) = (&repo, &repository) {
        require_own(here, *of, *id, &place.root)?;
    }
    let (id, slots) = drive::retire(dir)?;
    if let Some(repo) = &repo {
        let state = repo.log.state();
        if let Some(known) = state.drives.get(&id) {
            if !known.back && known.standing().is_under_way() && known.repository == repo.config.repo_id {
                ctx.output.complain(format!(
                    "packmule: what it carried ({}) is not known to have come to {}: it is sent again",
                    human::size(known.bytes),
                    known.party
                ));
            }
            step(repo, id, Custody::Retired, &ctx.monitor(Job::Look("packs")))?;
        }
        repo.remember();
    }
    let names = [("drive", id.to_hex().into()), ("slots_destroyed", slots.into())];
    let text = match slots {
        0 => format!("drive {} has no key slots any more: it was retired before", id.short()),
        n => format!("destroyed {} of drive {}", human::count(n as u64, "key slot"), id.short()),
    };
    ctx.output.did("drive retire", &names, text)?;
    if !ctx.output.json && slots > 0 {
        ctx.output
            .remark("No recovery code opens it any more, and what is on it cannot be read without the keys of the")?;
        ctx.output.remark(
            "repository that it is of: those still open it. Not revoked: a copy that somebody made of the drive",
        )?;
        ctx.output.remark(
            "before, and what a flash disk may keep of overwritten blocks, are opened by its recovery code as ever.",
        )?;
        ctx.output.remark(
            "If code and copy may be in wrong hands, `packmule key rotate` keeps them from what is stored from now on.",
        )?;
    }
    ctx.output.flush()?;
    Ok(ExitCode::Ok)
}

/// Says what was done to a drive.
fn did(ctx: &Context, repo: &Repository, action: &str, id: &DriveId, text: String) -> Result<ExitCode> {
    repo.remember();
    ctx.output.did(action, &[("drive", id.to_hex().into())], text)?;
    ctx.output.flush()?;
    Ok(ExitCode::Ok)
}
