//! `drive`.

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
    /// At a site: write to the drive what a remote lacks, as far as it fits; call it again for the next drive
    Export(DriveExportArgs),
    /// At a pool: take in what a tenant's drive carries, and sign for it
    Import {
        /// The drive's directory
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
    /// Read everything on the drive, and tell what is damaged, and which snapshots are whole on it
    Check {
        /// The drive's directory
        #[arg(value_name = "DIR")]
        dir: PathBuf,
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
    /// Destroy a drive's key slots: nobody opens it any more, with its recovery code or otherwise
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
}

/// Options of `drive export`.
#[derive(Debug, Args)]
pub struct DriveExportArgs {
    /// The remote that the drive is for
    #[arg(value_name = "REMOTE")]
    pub remote: String,

    /// The drive's directory
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,

    /// Only what was recorded since this time, instead of what the remote is not known to have
    #[arg(long, value_name = "TIME")]
    pub since: Option<At>,

    /// Write at most so many bytes of packs in this call: such as 500G
    #[arg(long, value_name = "SIZE")]
    pub max_bytes: Option<Bytes>,
}
