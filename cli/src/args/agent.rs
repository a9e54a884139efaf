//! `agent`.

use std::ffi::OsString;

use clap::{Args, Subcommand, ValueEnum};

use crate::timespec::Span;

/// Options of `agent`.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: AgentAction,
}

/// What `agent` can do.
#[derive(Debug, Subcommand)]
pub enum AgentAction {
    /// At the site: let a host back up to this repository. Prints one line for it, which is good once
    Invite(AgentInviteArgs),
    /// At the site: list the hosts that have an agent
    List,
    /// At the site: take nothing more from a host; its snapshots stay
    Revoke {
        /// The host's name
        #[arg(value_name = "HOST")]
        host: String,
    },
    /// On the host: take up an invitation, read from standard input, and write a profile. Where the host has joined that site
    /// already, it gets another key, with the rights that this invitation gives
    Join(AgentJoinArgs),
    /// On the host: forget the site named by -r or by its profile, which goes too unless it was changed; what is there stays
    /// there
    Leave,
}

/// What an agent may do besides adding snapshots of its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Allowed {
    /// Read its own host's snapshots
    Restore,
}

/// Options of `agent invite`.
#[derive(Debug, Args)]
pub struct AgentInviteArgs {
    /// The host's name, as its snapshots will have it: letters, digits, dots, dashes and _
    #[arg(value_name = "HOST")]
    pub host: String,

    /// Where the host reaches this site: HOST or HOST:PORT (default port: 7022); without this, the address in server.toml
    /// in the repository
    #[arg(long, value_name = "HOST")]
    pub address: Option<String>,

    /// What the host may do besides adding snapshots
    #[arg(long, value_name = "WHAT")]
    pub allow: Option<Allowed>,

    /// How long the invitation is good
    #[arg(long, visible_alias = "valid", value_name = "SPAN", default_value = "7d")]
    pub lifetime: Span,
}

/// Options of `agent join`.
#[derive(Debug, Args)]
pub struct AgentJoinArgs {
    /// What `packmule -P NAME backup` saves by default [default: / for root, else the home directory]
    #[arg(value_name = "PATH")]
    pub paths: Vec<OsString>,

    /// The profile to write
    #[arg(long, value_name = "NAME", default_value = "site")]
    pub name: String,

    /// Have the profile leave directories out that are marked as caches by a CACHEDIR.TAG
    #[arg(long)]
    pub exclude_caches: bool,

    /// Have systemd make a backup each day: enables packmule-backup@NAME.timer
    #[arg(long)]
    pub timer: bool,
}
