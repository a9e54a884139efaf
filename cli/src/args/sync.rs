//! `sync`, `remote`, `tenant` and `serve`.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand};

use super::Bytes;
use crate::timespec::Span;

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
    /// Bring a pool or a copy up to date: only what it lacks is sent
    Push(SyncPushArgs),
    /// Bring back what a pool has of this repository and it has not itself
    Pull(SyncPullArgs),
    /// Make the copy at -r a repository of its own, when the one it is a copy of is lost
    Promote,
}

/// Options of `sync push`.
#[derive(Debug, Args)]
pub struct SyncPushArgs {
    /// A remote's name, or the directory of a copy on another disk or a mounted NAS (with a / in it; made if it is absent or empty)
    #[arg(value_name = "REMOTE")]
    pub to: OsString,

    /// Compare everything, not only what was recorded since the last push: finds what the other side has lost
    #[arg(long)]
    pub audit: bool,

    /// Remove from a copy what the repository has pruned; without this the copy keeps it. At a remote that keeps a sealed
    /// copy this takes the recovery code, which is asked for, and what came within the immutability window stays
    #[arg(long)]
    pub delete: bool,

    /// With --delete at a remote: a file with the recovery code, which is asked for else
    #[arg(long, value_name = "FILE", requires = "delete")]
    pub recovery_code_file: Option<PathBuf>,

    /// When the remote cannot be reached, or the connection is lost, try again until all is there
    #[arg(long)]
    pub retry: bool,
}

/// Options of `sync pull`.
#[derive(Debug, Args)]
pub struct SyncPullArgs {
    /// The remote's name
    #[arg(value_name = "REMOTE")]
    pub from: String,

    /// Only these snapshots, by the first digits of their ids; without any: all
    #[arg(value_name = "ID")]
    pub ids: Vec<String>,
}

/// Options of `remote`.
#[derive(Debug, Args)]
pub struct RemoteArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: RemoteAction,
}

/// What `remote` can do.
#[derive(Debug, Subcommand)]
pub enum RemoteAction {
    /// Take up the invitation of a pool, read from standard input
    Add(RemoteAddArgs),
    /// List the remotes and how far each has everything
    List,
    /// Forget a remote; what is there stays there
    Remove {
        /// The remote's name
        #[arg(value_name = "NAME")]
        name: String,
    },
}

/// Options of `remote add`.
#[derive(Debug, Args)]
pub struct RemoteAddArgs {
    /// What the remote is to be called here
    #[arg(value_name = "NAME")]
    pub name: String,

    /// Do not ask whether the pool's operator may hold this repository's keys
    #[arg(long)]
    pub yes: bool,
}

/// Options of `tenant`.
#[derive(Debug, Args)]
pub struct TenantArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: TenantAction,
}

/// What `tenant` can do.
#[derive(Debug, Subcommand)]
pub enum TenantAction {
    /// Make a tenant
    Create(TenantCreateArgs),
    /// List the tenants
    List,
    /// Show all there is to know of one tenant
    Show {
        /// The tenant's name
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Change what a tenant may do
    Set(TenantSetArgs),
    /// List or revoke the keys that a tenant connects with
    Key(TenantKeyArgs),
    /// Let a tenant's site connect: prints one line for it, which is good once
    Invite(TenantInviteArgs),
    /// Refuse a tenant's keys until it is resumed
    Suspend {
        /// The tenant's name
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Take a suspended tenant's keys again
    Resume {
        /// The tenant's name
        #[arg(value_name = "NAME")]
        name: String,
    },
}

/// Options of `tenant create`.
#[derive(Debug, Args)]
pub struct TenantCreateArgs {
    /// Its name: lower-case letters, digits, dashes and dots
    #[arg(value_name = "NAME")]
    pub name: String,

    /// The most it may store, as the bytes of its files, each once; of a sealed tenant the bytes of its copy
    #[arg(long, value_name = "SIZE")]
    pub quota: Option<Bytes>,

    /// Keep its packs as they come: nothing in them can be read or shared here, and only its owner can order deletions
    #[arg(long)]
    pub sealed: bool,
}

/// Options of `tenant set`.
#[derive(Debug, Args)]
pub struct TenantSetArgs {
    /// The tenant's name
    #[arg(value_name = "NAME")]
    pub name: String,

    /// The most it may store, as the bytes of its files, each once; or none
    #[arg(long, value_name = "SIZE|none", required = true)]
    pub quota: Option<Quota>,
}

/// A quota, or that there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota(pub Option<u64>);

impl FromStr for Quota {
    type Err = String;

    fn from_str(s: &str) -> Result<Quota, String> {
        match s {
            "none" => Ok(Quota(None)),
            size => size.parse().map(|Bytes(bytes)| Quota(Some(bytes))),
        }
    }
}

/// Options of `tenant key`.
#[derive(Debug, Args)]
pub struct TenantKeyArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: TenantKeyAction,
}

/// What `tenant key` can do.
#[derive(Debug, Subcommand)]
pub enum TenantKeyAction {
    /// List a tenant's keys, also those that were revoked
    List {
        /// The tenant's name
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Take no more connections by a key; one that is open comes to its end
    Revoke {
        /// The tenant's name
        #[arg(value_name = "NAME")]
        name: String,

        /// The key's fingerprint, or how it begins
        #[arg(value_name = "FINGERPRINT")]
        key: String,
    },
}

/// Options of `tenant invite`.
#[derive(Debug, Args)]
pub struct TenantInviteArgs {
    /// The tenant's name
    #[arg(value_name = "NAME")]
    pub name: String,

    /// Where the site reaches this pool: HOST or HOST:PORT (default port: 7022)
    #[arg(long, value_name = "HOST")]
    pub address: String,

    /// How long the invitation is good
    #[arg(long, value_name = "SPAN", default_value = "7d")]
    pub lifetime: Span,

    /// What the site's key will be called
    #[arg(long, value_name = "NAME", default_value = "site")]
    pub label: String,

    /// For a site that was lost: it gets the tenant's keys back, and with `init --from-invitation` becomes what it was
    #[arg(long)]
    pub restore: bool,
}

/// Options of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Where to listen
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "[::]:7022")]
    pub listen: SocketAddr,
}
