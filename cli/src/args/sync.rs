//! `sync`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Options of `sync`.
#[derive(Debug, Args)]
pub struct SyncArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: SyncAction,
}

/// What `sync` can do.
#[derive(Debug, Subcommand)]
pub enum SyncAction {
    /// Bring a copy up to date: only what it lacks is sent
    Push(SyncPushArgs),
    /// Make the copy at -r a repository of its own, when the one it is a copy of is lost
    Promote,
}

/// Options of `sync push`.
#[derive(Debug, Args)]
pub struct SyncPushArgs {
    /// The copy's directory, on another disk or a mounted NAS; made if it is absent or empty
    #[arg(value_name = "DIR")]
    pub to: PathBuf,

    /// Compare everything with the copy, not only what was recorded since the last push: finds what the copy has lost
    #[arg(long)]
    pub audit: bool,

    /// Remove from the copy what the repository has pruned; without this the copy keeps it
    #[arg(long)]
    pub delete: bool,
}
