//! `drive export`.

mod back;

pub use back::init_for;

use std::path::Path;
use std::time::Instant;

use repo::error::{Error, Kind, Result};
use repo::open::Access;
use serde::Serialize;
use sync::drive::export::{Report, Wanted, export};
use sync::drive::{Contents, Drive};

use super::super::open::open_repository;
use super::{name, open_drive};
use crate::args::DriveExportArgs;
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::human;
use crate::progress::Job;

/// An export as JSON.
#[derive(Serialize)]
#[serde(tag = "message_type", rename = "summary")]
struct Summary<'a> {
    drive: String,
    label: &'a str,
    remote: &'a str,
    packs_written: u64,
    bytes_written: u64,
    snapshots_written: u64,
    /// The drive, or what --max-bytes allows, is used up.
    full: bool,
    /// For the next drive.
    packs_left: u64,
    bytes_left: u64,
    /// All 64 digits of each pack that is damaged here and was not written.
    packs_damaged: Vec<String>,
    /// Packs that no drive takes, because their roll-up is lost: a push sends them.
    packs_unlisted: u64,
    total_duration: f64,
}

/// Writes to a drive what a remote lacks, or what a tenant has delivered.
pub fn run(ctx: &Context, args: &DriveExportArgs) -> Result<ExitCode> {
    match (&args.tenant, &args.places[..]) {
        (Some(tenant), [dir]) => back::run(ctx, args, tenant, Path::new(dir)),
        (None, [remote, dir]) => {
            let name = remote.to_str().ok_or_else(|| Error::new(Kind::NotFound, "there is no remote of this name"))?;
            to_pool(ctx, args, name, Path::new(dir))
        }
        (Some(_), _) => Err(Error::new(Kind::Usage, "with --tenant a drive's directory is all that is named")),
        (None, _) => Err(Error::new(Kind::Usage, "a remote and a drive's directory are needed").remedy(
            "`packmule drive export cloud /mnt/drive`; at a pool, `packmule drive export --tenant acme /mnt/drive`",
        )),
    }
}

fn to_pool(ctx: &Context, args: &DriveExportArgs, remote: &str, dir: &Path) -> Result<ExitCode> {
    let started = Instant::now();
    let repo = open_repository(ctx, Access::Write)?;
    super::super::profiles::keep(ctx, &repo);
    let drive = open_drive(ctx, &repo, dir, Access::Write)?;
    let since = args.since.map(|at| repo::clock::Time(at.first().as_nanosecond() as i64));
    let wanted = Wanted { remote: remote.to_owned(), since, max_bytes: args.max_bytes.map(|max| max.0) };
    let progress = ctx.monitor(Job::Transfer);
    let done = export(&repo, &drive, &wanted, &progress);
    drop(progress);
    repo.remember();
    let done = done.map_err(|e| match e.kind() {
        Kind::Io | Kind::ReadOnly => {
            e.or_remedy("what is on the drive is kept: plug it in again, mount it, and run the command again")
        }
        _ => e,
    })?;
    let state = drive.state()?;
    if ctx.output.json {
        ctx.output.message(&Summary {
            drive: drive.id.to_hex(),
            label: &state.label,
            remote,
            packs_written: done.packs,
            bytes_written: done.bytes,
            snapshots_written: done.snapshots,
            full: done.full,
            packs_left: done.left,
            bytes_left: done.left_bytes,
            packs_damaged: done.damaged.iter().map(repo::id::PackId::to_hex).collect(),
            packs_unlisted: done.unlisted,
            total_duration: started.elapsed().as_secs_f64(),
        })?;
    } else {
        tell(ctx, remote, &done, &drive, args.since.is_some(), started)?;
    }
    ctx.output.flush()?;
    if done.damaged.is_empty() {
        return Ok(ExitCode::Ok);
    }
    let count = human::count(done.damaged.len() as u64, "pack");
    Err(Error::damaged(format!("{count} could not be read, and are not on the drive"))
        .remedy("`packmule check --read-data` tells what is affected"))
}

fn tell(ctx: &Context, remote: &str, done: &Report, drive: &Drive, since: bool, started: Instant) -> Result<()> {
    let state = drive.state()?;
    let took = started.elapsed();
    let rate = done.bytes as f64 / took.as_secs_f64().max(0.001);
    ctx.output.line(format!(
        "wrote {}, {} and {} to drive {} in {}, {}/s",
        human::count(done.packs, "pack"),
        human::size(done.bytes),
        human::count(done.snapshots, "snapshot"),
        name(&drive.id, &state),
        human::duration(took),
        human::size(rate as u64)
    ))?;
    if done.left > 0 {
        let left = format!("{}, {}", human::count(done.left, "pack"), human::size(done.left_bytes));
        ctx.output.line(match (done.allowed, done.full) {
            (true, _) => format!("what --max-bytes allows is written; {left} more for remote {remote}: the same command goes on"),
            (_, full) => format!(
                "{}{left} more for remote {remote}: on another drive, `packmule drive init`, then `packmule drive export {remote}`",
                if full { "it is full; " } else { "" }
            ),
        })?;
    } else if since {
        ctx.output
            .line(format!("everything that was recorded since then and that remote {remote} lacks is on its way"))?;
    } else {
        ctx.output.line(format!("everything that remote {remote} lacks is on its way"))?;
    }
    if done.unlisted > 0 {
        let packs = human::count(done.unlisted, "pack");
        ctx.output.complain(format!("packmule: {packs} travel over the network alone: their roll-ups are lost"));
    }
    if Contents::of(drive.repo.backend.as_ref())?.packs == 0 {
        return ctx.output.remark("there is nothing on this drive that would be missed: it need not be sent");
    }
    ctx.output.remark(hand_over(&state.label))
}

/// What comes next.
pub(super) fn hand_over(label: &str) -> String {
    format!("when it is handed over: `packmule drive ship {}`", super::quoted(label))
}
