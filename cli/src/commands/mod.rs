//! One file a command: parse → one call into the engine → render.

mod completions;
mod man;
mod version;

pub mod noted;
pub mod open;
pub mod which;

mod backup;
mod check;
mod diff;
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

use repo::error::Result;

use crate::args::Command;
use crate::context::Context;
use crate::exit::ExitCode;

/// Runs one command.
///
/// # Errors
/// Why it failed; what failed only in parts is in the exit code.
pub fn run(ctx: &Context, command: Command) -> Result<ExitCode> {
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
        Command::Serve(args) => serve::run(ctx, &args),
        Command::Log(args) => log::run(ctx, args),
        Command::Completions(args) => completions::run(ctx, args),
        Command::Man(args) => man::run(ctx, args),
        Command::Version => version::run(ctx),
    }
}
