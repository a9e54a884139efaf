//! `drive`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Bytes;
use crate::timespec::At;

/// Options of `drive`.
#[derive(Debug, Args)]
pub struct DriveArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: DriveAction,
}

/// What `drive` can do.
#[derive(Debug, Subcommand)]
pub enum DriveAction {
    /// Make the directory of an empty filesystem a transfer drive, and print the recovery code that opens it
    Init(DriveInitArgs),
    /// At a site: write to the drive what a remote lacks, as far as it fits. At a pool: what a tenant has delivered. Called again,
    /// it goes on, with this drive or with the next
    Export(DriveExportArgs),
    /// At a pool: take in what a tenant's drive carries, and sign for it. At a site: take in what a drive has brought back
    Import {
        /// The drives' directories
        #[arg(value_name = "DIR", required = true)]
        dirs: Vec<PathBuf>,
    },
    /// Read everything on these drives, and tell what is damaged, and which snapshots are whole on them
    Check {
        /// The drives' directories: those that go together
        #[arg(value_name = "DIR", required = true)]
        dirs: Vec<PathBuf>,
    },
    /// List the drives that were written to or taken in here, and where they are
    List,
    /// Tell a drive's way so far, and what it carries
    Show {
        /// Its label, the first digits of its id, or the directory of one that is plugged in (with a / in it)
        #[arg(value_name = "DRIVE")]
        drive: String,
    },
    /// Note that a drive was handed over
    Ship {
        /// Its label, or the first digits of its id
        #[arg(value_name = "DRIVE")]
        drive: String,
    },
    /// Take a pool's receipt: what the drive carried is there. `sync push` asks the pool for receipts by itself
    Receipt {
        /// The file with the receipt, or the directory of a drive that has come back with one
        #[arg(value_name = "FILE|DIR")]
        from: PathBuf,
    },
    /// Give a drive up: what it carried, and nothing else, is sent again
    Lost {
        /// Its label, or the first digits of its id
        #[arg(value_name = "DRIVE")]
        drive: String,
    },
    /// Destroy a drive's key slots: no recovery code opens it any more, only its repository's own keys
    Retire {
        /// The drive's directory
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
}

/// Options of `drive init`.
#[derive(Debug, Args)]
pub struct DriveInitArgs {
    /// The directory; nothing else may be in it
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,

    /// What people call the drive; it is sealed on the drive, and belongs on its outside as well
    #[arg(long, value_name = "LABEL")]
    pub label: String,

    /// At a pool: the tenant whose backups the drive is to carry back
    #[arg(long, value_name = "TENANT")]
    pub tenant: Option<String>,
}

/// Options of `drive export`.
#[derive(Debug, Args)]
pub struct DriveExportArgs {
    /// At a site the remote that the drive is for, then the drive's directory; at a pool, with --tenant, the directory alone
    #[arg(value_name = "REMOTE DIR", required = true, num_args = 1..=2)]
    pub places: Vec<OsString>,

    /// At a pool: write what this tenant has delivered, for its site or for the tenant to keep
    #[arg(long, value_name = "TENANT", conflicts_with = "since")]
    pub tenant: Option<String>,

    /// With --tenant: only this host's snapshots
    #[arg(long, value_name = "HOST", requires = "tenant")]
    pub host: Option<String>,

    /// With --tenant: only these snapshots, by the first digits of their ids
    #[arg(long = "snapshot", value_name = "ID", requires = "tenant")]
    pub snapshots: Vec<String>,

    /// With --tenant: leave out what is on this drive, by its label or the first digits of its id: the two go together. Once for each
    #[arg(long, value_name = "DRIVE", requires = "tenant")]
    pub after: Vec<String>,

    /// At a site: only what was recorded since this time, instead of what the remote is not known to have
    #[arg(long, value_name = "TIME")]
    pub since: Option<At>,

    /// Write at most so many bytes of packs in this call: such as 500G
    #[arg(long, value_name = "SIZE")]
    pub max_bytes: Option<Bytes>,
}
