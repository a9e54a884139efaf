//! One file a command: parse → one call into the engine → render.

mod again;
mod completions;
mod man;
mod version;

pub mod noted;
pub mod open;
mod profiles;
pub mod which;

mod agent;
mod backup;
mod check;
mod diff;
mod drive;
mod estimate;
mod dump;
mod entry;
mod find;
mod forget;
mod init;
mod key;
mod log;
mod ls;
mod mount;
mod prune;
mod pull;
mod rebuild_index;
mod remote;
mod restore;
mod serve;
mod snapshots;
mod stats;
mod status;
mod sync;
mod sync_status;
mod tag;
mod tenant;
mod umount;
mod unforget;

use repo::error::{Error, Kind, Result};

use crate::args::Command;
use crate::context::Context;
use crate::exit::ExitCode;

/// Runs one command.
///
/// # Errors
/// Why it failed; what failed only in parts is in the exit code.
pub fn run(ctx: &Context, command: Command) -> Result<ExitCode> {
    if let Some(site) = ctx.site()?
        && !over_a_connection(&command)
    {
        return Err(Error::new(Kind::Unsupported, format!("this cannot be done over a connection, at {site}"))
            .remedy("run it at the site; from here it can be backed up to, looked at and restored from"));
    }
    if !ctx.further().is_empty() && !reads(&command) {
        return Err(Error::new(
            Kind::Usage,
            "only what reads from drives takes several of them: mount, restore, check, ls, find, diff, dump, snapshots",
        )
        .remedy("give -r once"));
    }
    match command {
        Command::Init(args) => init::run(ctx, args),
        Command::Backup(args) => backup::run(ctx, args),
        Command::Snapshots(args) => snapshots::run(ctx, args),
        Command::Ls(args) => ls::run(ctx, args),
        Command::Find(args) => find::run(ctx, args),
        Command::Diff(args) => diff::run(ctx, args),
        Command::Dump(args) => dump::run(ctx, args),
        Command::Restore(args) => restore::run(ctx, args),
        Command::Mount(args) => mount::run(ctx, args),
        Command::Umount(args) => umount::run(ctx, args),
        Command::Status(args) => status::run(ctx, args),
        Command::Forget(args) => forget::run(ctx, args),
        Command::Unforget(args) => unforget::run(ctx, args),
        Command::Prune(args) => prune::run(ctx, args),
        Command::Check(args) => check::run(ctx, args),
        Command::RebuildIndex => rebuild_index::run(ctx),
        Command::Tag(args) => tag::run(ctx, args),
        Command::Stats(args) => stats::run(ctx, args),
        Command::Key(args) => key::run(ctx, args),
        Command::Sync(args) => sync::run(ctx, args),
        Command::Remote(args) => remote::run(ctx, args),
        Command::Tenant(args) => tenant::run(ctx, args),
        Command::Estimate(args) => estimate::run(ctx, args),
        Command::Drive(args) => drive::run(ctx, args),
        Command::Agent(args) => agent::run(ctx, args),
        Command::Serve(args) => serve::run(ctx, &args),
        Command::Log(args) => log::run(ctx, args),
        Command::Completions(args) => completions::run(ctx, args),
        Command::Man(args) => man::run(ctx, args),
        Command::Version => version::run(ctx),
    }
}

/// What reads from several drives of one repository as from one.
fn reads(command: &Command) -> bool {
    use Command::{Check, Diff, Dump, Find, Ls, Mount, Restore, Snapshots};
    matches!(command, Check(_) | Diff(_) | Dump(_) | Find(_) | Ls(_) | Mount(_) | Restore(_) | Snapshots(_))
}

/// What a host can do at its site, or does without any repository.
fn over_a_connection(command: &Command) -> bool {
    use Command::{Agent, Backup, Completions, Diff, Dump, Find, Ls, Man, Mount, Restore, Snapshots, Umount, Version};
    matches!(
        command,
        Agent(_)
            | Backup(_)
            | Completions(_)
            | Diff(_)
            | Dump(_)
            | Find(_)
            | Ls(_)
            | Man(_)
            | Mount(_)
            | Restore(_)
            | Snapshots(_)
            | Umount(_)
            | Version
    )
}
