//! `mount` and `umount`.

use std::path::PathBuf;

use clap::Args;

use super::{Filter, Group, Octal, RateArgs, User};

/// Options of `mount`.
#[derive(Debug, Args)]
pub struct MountArgs {
    /// An existing empty directory, outside the repository
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,

    /// Let every user of this machine in; the kernel checks the permissions as captured
    #[arg(long)]
    pub allow_other: bool,

    /// Show everything as owned by this user: a number, or a name that this machine knows
    #[arg(long, value_name = "USER")]
    pub uid: Option<User>,

    /// Show everything as owned by this group: a number, or a name that this machine knows
    #[arg(long, value_name = "GROUP")]
    pub gid: Option<Group>,

    /// Take these permission bits (octal) away from everything shown
    #[arg(long, value_name = "MASK")]
    pub umask: Option<Octal>,

    /// Present what this remote has of the repository, without pulling it first: what is read is fetched. Not with filters
    #[arg(long, value_name = "NAME")]
    pub remote: Option<String>,

    /// Return once the mount is ready, and serve it in the background
    #[arg(long)]
    pub background: bool,

    /// In the background, append messages to this file instead of the system's log
    #[arg(long, value_name = "FILE", requires = "background")]
    pub log: Option<PathBuf>,

    /// How fast, with --remote.
    #[command(flatten)]
    pub rates: RateArgs,

    /// Which snapshots.
    #[command(flatten)]
    pub filter: Filter,
}

/// Options of `umount`.
#[derive(Debug, Args)]
pub struct UmountArgs {
    /// Where the repository is mounted
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}
