//! `sync`, `remote`, `tenant` and `serve`.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use clap::{Args, Subcommand, ValueEnum};
use repo::error::{Error, Kind};
use sync::throttle;

use super::{Bytes, KeepArgs, Pace, Rate};
use crate::timespec::{Age, Span};

/// Options of `sync`.
#[derive(Debug, Args)]
pub struct SyncArgs {
    /// How fast.
    #[command(flatten)]
    pub rates: RateArgs,

    /// What to do.
    #[command(subcommand)]
    pub action: SyncAction,
}

/// How fast other sides are sent to and received from; all connections of a command together.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Rates")]
pub struct RateArgs {
    /// Send at most so much in a second: such as 10Mbit, 2MiB, or a number of KiB
    #[arg(long, value_name = "RATE", global = true)]
    pub limit_upload: Option<Rate>,

    /// Receive at most so much in a second
    #[arg(long, value_name = "RATE", global = true)]
    pub limit_download: Option<Rate>,

    /// In the hours of --between, send and receive at most so much in a second; or nothing at all: then the command ends with exit code 13
    /// until they are over
    // That both are there is seen to by `apply`: one may stand in a profile, which clap does not count as given.
    #[arg(long, value_name = "RATE|pause", global = true)]
    pub limit: Option<Pace>,

    /// Hours of the week for --limit, by this machine's clock: such as "Mon-Fri 08:00-18:00"
    #[arg(long, value_name = "HOURS", global = true)]
    pub between: Option<sync::throttle::Hours>,
}

impl RateArgs {
    /// Makes these hold for this process.
    ///
    /// # Errors
    /// `Usage` for a rate without hours, or hours without one: a profile may have said so.
    pub fn apply(&self) -> repo::error::Result<()> {
        if self.limit.is_some() != self.between.is_some() {
            return Err(Error::new(Kind::Usage, "limit and between belong together")
                .remedy("give --limit and --between, or neither"));
        }
        let up = self.limit_upload.and_then(|Rate(rate)| rate);
        let down = self.limit_download.and_then(|Rate(rate)| rate);
        let within = self.between.clone().zip(self.limit.map(|Pace(pace)| pace));
        let zone = jiff::tz::TimeZone::system();
        let offset = move |at| i64::from(zone.to_offset(crate::output::human::timestamp(at)).seconds());
        let limits = throttle::Limits { always: throttle::Rates { up, down }, within };
        throttle::tame(limits, Arc::new(throttle::Wall::new(Box::new(offset))));
        Ok(())
    }
}

/// What `sync` can do.
#[derive(Debug, Subcommand)]
pub enum SyncAction {
    /// Bring a pool or a copy up to date: only what it lacks is sent
    Push(SyncPushArgs),
    /// Bring back what a pool has of this repository and it has not itself
    Pull(SyncPullArgs),
    /// Tell how far each remote has everything; at a pool, how far each tenant's snapshots are here
    Status(SyncStatusArgs),
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

    /// Remove from a copy what the repository has pruned; without this the copy keeps it. At a pool that keeps a sealed
    /// copy this takes the recovery code, which is asked for, and what came within the immutability window stays
    #[arg(long)]
    pub delete: bool,

    /// With --delete at a pool: a file with the recovery code, which is asked for else
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

/// Options of `sync status`.
#[derive(Debug, Args)]
pub struct SyncStatusArgs {
    /// Only this remote, or at a pool this tenant
    #[arg(value_name = "NAME")]
    pub name: Option<String>,

    /// Exit with code 5 if a remote lacks a snapshot for longer than this, or if a tenant's newest was received longer ago
    /// (a sealed tenant's last push ended longer ago): such as 26h
    #[arg(long, value_name = "AGE")]
    pub max_age: Option<Age>,
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
    /// Take up the invitation of a pool, read from standard input; or name a directory on another disk or a mounted NAS
    Add(RemoteAddArgs),
    /// List the remotes and how far each has everything
    List,
    /// Show all there is to know of one remote
    Show {
        /// The remote's name
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Connect to a remote, or look at its directory, and tell how long a round trip takes; exit code 13 if it is out of reach
    Test {
        /// The remote's name
        #[arg(value_name = "NAME")]
        name: String,
    },
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

    /// A directory (with a / in it) that the first push makes a copy in; no invitation is read then
    #[arg(value_name = "DIR", conflicts_with = "yes")]
    pub dir: Option<PathBuf>,

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
        /// Also how much is stored for this tenant alone, and how much others have too: goes through all snapshots of the pool
        #[arg(long)]
        sizes: bool,
    },
    /// Change what holds for a tenant, or for all of which nothing else is said
    #[command(after_help = SET_NOTES)]
    Set(Box<TenantSetArgs>),
    /// List, revoke or replace the keys that a tenant connects with
    Key(TenantKeyArgs),
    /// Let a tenant's site connect: prints one line for it, which is good once
    Invite(TenantInviteArgs),
    /// Refuse a tenant's keys until it is resumed
    Suspend {
        /// The tenant's name
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Take a suspended tenant's keys again; of one that is being removed, also its snapshots
    Resume {
        /// The tenant's name
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Refuse a tenant's keys and forget all its snapshots; once their hold and window are over, this command again, or prune, deletes
    /// what is the tenant's alone, and certifies it
    Remove {
        /// The tenant's name
        #[arg(value_name = "NAME")]
        name: String,
        /// Do not wait for the hold, in which `tenant resume` takes all of this back; the window is waited for
        #[arg(long)]
        release_held: bool,
        /// Go on although this machine's clock seems wrong
        #[arg(long)]
        accept_clock: bool,
    },
}

/// What stands below `tenant set --help`.
const SET_NOTES: &str = "\
What holds for a snapshot: the command line of forget and prune, else what is set for its tenant, else the pool's default, else what is
built in (hold 72h, window none, everything is kept). `default` takes a tenant's own word back. A month counts 30 days here, a year 365.
Within the window nobody can delete; making it shorter is for what is received from then on.";

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
    #[arg(value_name = "NAME", required_unless_present = "default", conflicts_with = "default")]
    pub name: Option<String>,

    /// Set the pool's defaults instead: for every tenant of which nothing else is said
    #[arg(long)]
    pub default: bool,

    /// The most it may store, as the bytes of its files, each once; or none
    #[arg(long, value_name = "SIZE|none", conflicts_with = "default")]
    pub quota: Option<Quota>,

    /// How long its forgotten snapshots can be brought back, such as 72h or 7d
    #[arg(long, value_name = "SPAN|none|default")]
    pub hold: Option<Term>,

    /// How long after they were received nobody can delete its snapshots, such as 30d
    #[arg(long, value_name = "SPAN|none|default")]
    pub window: Option<Term>,

    /// Keep everything, whatever the pool's default is
    #[arg(long, conflicts_with_all = ["keep", "keep_default"])]
    pub keep_all: bool,

    /// Keep what the pool's default says
    #[arg(long, conflicts_with = "keep")]
    pub keep_default: bool,

    /// Retention rules: they take the place of those there were.
    #[command(flatten)]
    pub keep: KeepArgs,
}

/// A fixed length of time in seconds; or none said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term(pub Option<u64>);

impl FromStr for Term {
    type Err = String;

    fn from_str(s: &str) -> Result<Term, String> {
        const DAY: u64 = 24 * 3600;
        match s {
            "none" => Ok(Term(Some(0))),
            "default" => Ok(Term(None)),
            span => {
                let Span { years, months, weeks, days, hours } = span.parse()?;
                let [years, months, weeks, days, hours] = [years, months, weeks, days, hours].map(u64::from);
                Ok(Term(Some((365 * years + 30 * months + 7 * weeks + days) * DAY + hours * 3600)))
            }
        }
    }
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
    /// Have a tenant's keys replaced: prints an invitation for its site, and the key that takes it up puts an end to all others
    Rotate(InvitationArgs),
}

/// Options of `tenant invite`.
#[derive(Debug, Args)]
pub struct TenantInviteArgs {
    /// What is invited to.
    #[command(flatten)]
    pub with: InvitationArgs,

    /// List the tenant's open invitations instead: by which name each can be taken back, what it allows and until when
    #[arg(long, conflicts_with_all = ["withdraw", "address", "restore"])]
    pub list: bool,

    /// Take an open invitation back instead, named as --list shows it
    #[arg(long, value_name = "ID", conflicts_with_all = ["address", "restore"])]
    pub withdraw: Option<String>,
}

/// What an invitation of a tenant's is for.
#[derive(Debug, Args)]
pub struct InvitationArgs {
    /// The tenant's name
    #[arg(value_name = "NAME")]
    pub name: String,

    /// Where the site reaches this pool: HOST or HOST:PORT (default port: 7022); without this, the address in server.toml
    #[arg(long, value_name = "HOST")]
    pub address: Option<String>,

    /// How long the invitation is good
    #[arg(long, value_name = "SPAN", default_value = "7d")]
    pub lifetime: Span,

    /// What the site's key will be called
    #[arg(long, value_name = "NAME", default_value = "site")]
    pub label: String,

    /// For a site that was lost: it gets the tenant's keys back, and with `init --from` becomes what it was
    #[arg(long)]
    pub restore: bool,

    /// What the key may do: push, pull, or both
    #[arg(long, value_name = "ROLE,…", value_delimiter = ',', default_value = "push,pull", conflicts_with = "restore")]
    pub allow: Vec<TenantRole>,
}

/// What a tenant's key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TenantRole {
    /// Deliver snapshots
    Push,
    /// Read what was delivered
    Pull,
}

/// Options of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Where to listen (default: [::]:7022)
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,

    /// Read settings from this file instead of server.toml in the repository; flags go before it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// How fast.
    #[command(flatten)]
    pub rates: RateArgs,
}
