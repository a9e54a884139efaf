//! `restore`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Filter, IdMap};
use crate::select::Selection;

/// Options of `restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The snapshot: id, unique prefix, latest, latest~N; SNAP:/a/b restores what is in /a/b
    #[arg(value_name = "SNAP[:PATH]")]
    pub snapshot: Selection,

    /// The directory to restore to; made if it is absent. Run again, an interrupted restore goes on where it stopped
    #[arg(short, long, value_name = "DIR")]
    pub target: PathBuf,

    /// Restore only what matches this pattern (may be given several times)
    #[arg(short, long, value_name = "PATTERN", conflicts_with = "exclude")]
    pub include: Vec<String>,

    /// Leave out what matches this pattern (may be given several times)
    #[arg(short, long, value_name = "PATTERN")]
    pub exclude: Vec<String>,

    /// Delete what is in the target but not in the snapshot (never what the patterns leave out)
    #[arg(long)]
    pub delete: bool,

    /// When a file is there already, overwrite it …
    #[arg(long, value_name = "WHEN", value_enum, default_value = "always")]
    pub overwrite: Overwrite,

    /// Write long runs of zeros as holes, also where the source had none
    #[arg(long)]
    pub sparse: bool,

    /// Read everything back afterwards and compare it
    #[arg(long)]
    pub verify: bool,

    /// Give files to users and groups by name instead of by number, where this machine knows the name
    #[arg(long)]
    pub owner_by_name: bool,

    /// Give the files of numeric user FROM to user TO (may be given several times)
    #[arg(long, value_name = "FROM:TO")]
    pub map_uid: Vec<IdMap>,

    /// Only say what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,

    /// Which snapshots "latest" chooses from.
    #[command(flatten)]
    pub filter: Filter,
}

/// When a restore overwrites a file that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Overwrite {
    /// where any part of the content differs, whatever its time (content that is right already is not written again)
    Always,
    /// if its size or modification time differs
    IfChanged,
    /// if the snapshot's modification time is newer
    IfNewer,
    /// never
    Never,
}
