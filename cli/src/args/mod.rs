//! What a user can type: one file a group of commands. Help texts are contracts: units and defaults stand in them.

mod agent;
mod backup;
mod drive;
mod estimate;
mod filter;
mod init;
mod key;
mod look;
mod misc;
mod mount;
mod parse;

mod restore;
mod space;
mod sync;
mod values;

pub use agent::{AgentAction, AgentArgs, AgentInviteArgs, AgentJoinArgs};
pub use backup::{BackupArgs, Sources};
pub use drive::{DriveAction, DriveArgs, DriveExportArgs, DriveInitArgs};
pub use estimate::EstimateArgs;
pub use filter::{Filter, FilterRest, HistoryFilter};
pub use init::InitArgs;
pub use key::{KeyAction, KeyAddArgs, KeyArgs, KeyPasswdArgs, KeyRemoveArgs, NewSecretArgs};
pub use look::{DiffArgs, DumpArgs, FindArgs, LogArgs, LsArgs, SnapshotsArgs, StatsArgs, StatusArgs, TagArgs};
pub use misc::{CompletionsArgs, ManArgs};
pub use mount::{MountArgs, UmountArgs};
pub use parse::{Failure, Parsed, one_line, parse};
pub use restore::{Overwrite, RestoreArgs};
pub use space::{CheckArgs, ForgetArgs, KeepArgs, PruneArgs, UnforgetArgs};
pub use sync::{
    InvitationArgs, Quota, RateArgs, RemoteAction, RemoteAddArgs, RemoteArgs, ServeArgs, SyncAction, SyncArgs,
    SyncPullArgs, SyncPushArgs, SyncStatusArgs, TenantAction, TenantArgs, TenantCreateArgs, TenantKeyAction,
    TenantRole, TenantSetArgs, Term,
};
pub use values::{Bytes, Group, IdMap, Keep, Octal, Pace, Rate, Subset, TagList, Unused, User};

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "packmule",
    version,
    about = "Encrypted, deduplicated backups that are browsed and restored as a mounted filesystem",
    after_help = EXIT_CODES,
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 100
)]
pub struct Cli {
    /// Options every command takes.
    #[command(flatten)]
    pub globals: Globals,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Shown below the help and in the manual page.
const EXIT_CODES: &str = "\
Exit codes:
    0  done
    1  failed
    2  the command line makes no sense
    3  snapshot saved, but some sources could not be read
    5  check found damage, or status found something late or damaged
   10  no repository there
   11  the repository is locked
   12  wrong password
   13  a peer cannot be reached; try again
   14  no space, or over quota
   15  wrong or absent transfer drive
  130  interrupted

Environment:
  PACKMULE_REPOSITORY, PACKMULE_REPOSITORY_FILE          the repository, or a file that names it
  PACKMULE_PASSWORD, PACKMULE_PASSWORD_FILE,             the password, a file that holds it,
  PACKMULE_PASSWORD_COMMAND                              a command that prints it
  PACKMULE_INDEX_DIR                                     where the index is kept
  PACKMULE_PROGRESS_FPS                                  progress updates a second (up to 60; 0: none)
  NO_COLOR                                               no colours";

/// Options every command takes, before or after its name.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct Globals {
    /// The repository.
    #[command(flatten)]
    pub target: TargetArgs,
    /// The secret that opens it.
    #[command(flatten)]
    pub secret: SecretArgs,

    /// Read defaults from /etc/packmule/NAME.toml, or else ~/.config/packmule/NAME.toml.
    /// The command line wins over the environment, and both over the file
    #[arg(short = 'P', long, value_name = "NAME", global = true)]
    pub profile: Option<String>,

    /// Keep the index in DIR instead of inside the repository (which must not be on a network or removable filesystem)
    /// or the user's cache directory [environment: PACKMULE_INDEX_DIR]
    #[arg(long, value_name = "DIR", env = "PACKMULE_INDEX_DIR", hide_env = true, global = true)]
    pub index_dir: Option<OsString>,

    /// Print lines of JSON, each with a "message_type", instead of text for people
    #[arg(long, global = true)]
    pub json: bool,

    /// Print nothing but results, warnings and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Say more: -v names each new, changed, restored or damaged file, -vv also those left as they were
    #[arg(short, long, action = ArgAction::Count, global = true)]
    pub verbose: u8,
}

/// Which repository.
#[derive(Debug, Clone, Default, Args)]
pub struct TargetArgs {
    /// The repository's directory; for a host that has joined a site: ssh://HOST[:PORT]
    /// [environment: PACKMULE_REPOSITORY]. Given several times: drives of one repository, which mount, restore, ls, find, diff, dump and snapshots
    /// read as one
    #[arg(short, long, value_name = "REPO", global = true, action = ArgAction::Append, conflicts_with = "repository_file")]
    pub repo: Vec<OsString>,

    /// Read the repository's location from the first line of FILE
    /// [environment: PACKMULE_REPOSITORY_FILE]
    #[arg(long, value_name = "FILE", global = true)]
    pub repository_file: Option<PathBuf>,
}

/// Where the secret comes from. The secret itself is never an argument: other users can read those.
#[derive(Debug, Clone, Default, Args)]
pub struct SecretArgs {
    /// Read the password or recovery code from FILE, or from standard input for -; one trailing newline does not count
    /// [environment: PACKMULE_PASSWORD_FILE]
    #[arg(short, long, value_name = "FILE", global = true, conflicts_with_all = ["password_command", "identity_file"])]
    pub password_file: Option<PathBuf>,

    /// Take what `sh -c COMMAND` prints as the password; one trailing newline does not count
    /// [environment: PACKMULE_PASSWORD_COMMAND]
    #[arg(long, value_name = "COMMAND", global = true, conflicts_with = "identity_file")]
    pub password_command: Option<OsString>,

    /// Open the repository with the age X25519 identity (AGE-SECRET-KEY-1…) in FILE
    #[arg(long, value_name = "FILE", global = true)]
    pub identity_file: Option<PathBuf>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a new repository and print its recovery code
    Init(InitArgs),
    /// Save files, directories, devices or a command's output as a new snapshot
    #[command(after_help = crate::args::backup::NOTES)]
    Backup(BackupArgs),
    /// List snapshots
    Snapshots(SnapshotsArgs),
    /// List what is in a snapshot
    Ls(LsArgs),
    /// Find files by name in all snapshots: where, how many versions, first and last seen
    Find(FindArgs),
    /// Show what changed between two snapshots
    Diff(DiffArgs),
    /// Write a file, or a directory as a tar archive, to standard output
    Dump(DumpArgs),
    /// Write a snapshot's files to a directory
    Restore(RestoreArgs),
    /// Present all snapshots as a read-only filesystem at DIR
    Mount(MountArgs),
    /// End a mount at DIR
    Umount(UmountArgs),
    /// Tell the newest snapshot of every host and source and the last check, and whether anything is late
    Status(StatusArgs),
    /// Drop snapshots by name or by retention rules; they can be brought back for a while
    #[command(after_help = crate::args::space::FORGET_NOTES)]
    Forget(ForgetArgs),
    /// Bring forgotten snapshots back
    Unforget(UnforgetArgs),
    /// Free the space that nothing needs any more
    Prune(PruneArgs),
    /// Verify the repository
    Check(CheckArgs),
    /// Build the index anew from the packs
    RebuildIndex,
    /// Set, add or remove the tags of snapshots
    Tag(TagArgs),
    /// Show sizes: of the files, deduplicated, and as stored; per host and source
    Stats(StatsArgs),
    /// List, add, remove and change the keys that open the repository
    Key(KeyArgs),
    /// Keep copies of the repository elsewhere: push to them
    Sync(SyncArgs),
    /// Manage the pools that this repository is pushed to
    Remote(RemoteArgs),
    /// Manage the tenants of a pool
    Tenant(TenantArgs),
    /// Reckon what a backup would store and send, and how long that takes by line and by post; nothing is stored
    Estimate(EstimateArgs),
    /// Carry the first terabytes to a pool, or back from one, on disks by post
    Drive(DriveArgs),
    /// Manage the hosts that back up to this repository over SSH; on such a host: join a site
    Agent(AgentArgs),
    /// Serve a pool to its tenants' sites, or a site to its agents, over SSH, until stopped
    Serve(ServeArgs),
    /// Show the repository's journal
    Log(LogArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Write the manual pages to a directory
    Man(ManArgs),
    /// Print the version
    Version,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_option_has_help() {
        fn visit(command: &clap::Command) {
            for arg in command.get_arguments().filter(|a| !a.is_hide_set()) {
                assert!(arg.get_help().is_some(), "{} {}", command.get_name(), arg.get_id());
            }
            command.get_subcommands().for_each(visit);
        }
        visit(&Cli::command());
    }

    #[test]
    fn globals_stand_before_or_after_the_command() {
        for line in
            [["packmule", "-r", "/repo", "snapshots", "--json"], ["packmule", "--json", "snapshots", "-r", "/repo"]]
        {
            let cli = Cli::try_parse_from(line).unwrap();
            assert!(cli.globals.json);
            assert_eq!(cli.globals.target.repo, ["/repo"]);
        }
    }

    #[test]
    fn two_secrets_or_targets_are_refused() {
        for line in [
            vec!["packmule", "-p", "a", "--password-command", "b", "snapshots"],
            vec!["packmule", "-r", "a", "--repository-file", "b", "snapshots"],
            vec!["packmule", "-q", "-v", "snapshots"],
        ] {
            let e = Cli::try_parse_from(line).unwrap_err();
            assert_eq!(e.kind(), clap::error::ErrorKind::ArgumentConflict);
        }
    }
}
