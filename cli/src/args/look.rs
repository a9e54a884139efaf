//! Commands that only look (and `tag`): `snapshots`, `ls`, `find`, `diff`, `dump`, `stats`, `status`, `log`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use repo::format::tree::EntryType;

use super::{Bytes, Filter, TagList};
use crate::select::{Selection, SnapshotName};
use crate::timespec::{Age, At};

/// Options of `snapshots`.
#[derive(Debug, Args)]
pub struct SnapshotsArgs {
    /// Only these: id, unique prefix, latest, latest~N [default: all]
    #[arg(value_name = "SNAP")]
    pub snapshots: Vec<SnapshotName>,

    /// Show forgotten snapshots that can still be brought back, and until when
    #[arg(long)]
    pub forgotten: bool,

    /// Show only the newest N of each host and source (at a pool: of each tenant)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub latest: Option<u32>,

    /// Which snapshots.
    #[command(flatten)]
    pub filter: Filter,
}

/// Options of `ls`.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// The snapshot: id, unique prefix, latest, latest~N; SNAP:path lists what is at path
    #[arg(value_name = "SNAP[:PATH]")]
    pub snapshot: Selection,

    /// Only these directories or files of the snapshot
    #[arg(value_name = "PATH")]
    pub paths: Vec<OsString>,

    /// Show mode, owner, size and time too
    #[arg(short, long)]
    pub long: bool,

    /// With PATH: list what is below it too, not only its entries (a whole snapshot is always listed in full)
    #[arg(short = 'R', long)]
    pub recursive: bool,

    /// With --long: show sizes with units, such as 1.234 GiB
    #[arg(long)]
    pub human_readable: bool,

    /// Which snapshots "latest" chooses from.
    #[command(flatten)]
    pub filter: Filter,
}

/// Options of `find`.
#[derive(Debug, Args)]
pub struct FindArgs {
    /// Names or paths to find, with * ? [] and **; a pattern with / is matched against the whole path
    #[arg(value_name = "PATTERN", required = true)]
    pub patterns: Vec<OsString>,

    /// Upper and lower case are the same
    #[arg(short, long)]
    pub ignore_case: bool,

    /// Show mode, owner, size and time of each version
    #[arg(short, long)]
    pub long: bool,

    /// Only files last modified at or after TIME, such as 2026-11-01
    #[arg(short = 'O', long, value_name = "TIME")]
    pub oldest: Option<At>,

    /// Only files last modified at or before TIME, such as "2026-11-17 18:00" (a date alone means its end)
    #[arg(short = 'N', long, value_name = "TIME")]
    pub newest: Option<At>,

    /// Only entries of this type (may be given several times)
    #[arg(long = "type", value_name = "TYPE", value_enum)]
    pub kind: Vec<FileType>,

    /// Only files of at least SIZE, such as 100M
    #[arg(long, value_name = "SIZE")]
    pub min_size: Option<Bytes>,

    /// Only files of at most SIZE
    #[arg(long, value_name = "SIZE")]
    pub max_size: Option<Bytes>,

    /// Only in this snapshot (may be given several times) [default: all]
    #[arg(short, long, value_name = "SNAP")]
    pub snapshot: Vec<SnapshotName>,

    /// Which snapshots.
    #[command(flatten)]
    pub filter: Filter,
}

/// A type of entry, by find(1)'s letter or by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FileType {
    /// Regular file
    #[value(alias = "f")]
    File,
    /// Directory
    #[value(alias = "d")]
    Dir,
    /// Symbolic link
    #[value(alias = "l")]
    Symlink,
    /// Pipe, socket or device
    #[value(alias = "o")]
    Other,
}

impl FileType {
    /// The same in the engine's words.
    pub fn entry_types(self) -> &'static [EntryType] {
        match self {
            FileType::File => &[EntryType::File],
            FileType::Dir => &[EntryType::Dir],
            FileType::Symlink => &[EntryType::Symlink],
            FileType::Other => &[EntryType::Fifo, EntryType::Socket, EntryType::CharDevice, EntryType::BlockDevice],
        }
    }
}

/// Options of `diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The older snapshot: id, unique prefix, latest, latest~N; SNAP:path compares only what is in path
    #[arg(value_name = "SNAP[:PATH]")]
    pub from: Selection,

    /// The newer snapshot
    #[arg(value_name = "SNAP[:PATH]")]
    pub to: Selection,

    /// Also show files of which only the metadata changed
    #[arg(long)]
    pub metadata: bool,

    /// Which snapshots "latest" chooses from.
    #[command(flatten)]
    pub filter: Filter,
}

/// Options of `dump`.
#[derive(Debug, Args)]
pub struct DumpArgs {
    /// The snapshot: id, unique prefix, latest, latest~N; SNAP:path names what to write
    #[arg(value_name = "SNAP[:PATH]")]
    pub snapshot: Selection,

    /// The file or directory, below SNAP:path if that was given [default: all]
    #[arg(value_name = "PATH")]
    pub inside: Option<OsString>,

    /// Write to FILE instead of standard output; FILE must not exist
    #[arg(short, long, value_name = "FILE")]
    pub target: Option<PathBuf>,

    /// The kind of archive a directory becomes
    #[arg(short, long, value_name = "KIND", value_enum, default_value = "tar")]
    pub archive: Archive,

    /// Which snapshots "latest" chooses from.
    #[command(flatten)]
    pub filter: Filter,
}

/// The kind of archive a directory becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Archive {
    /// POSIX tar with extended headers
    Tar,
}

/// Options of `stats`.
#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Only these: id, unique prefix, latest, latest~N [default: all]
    #[arg(value_name = "SNAP")]
    pub snapshots: Vec<SnapshotName>,

    /// Which snapshots.
    #[command(flatten)]
    pub filter: Filter,
}

/// Options of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Exit with code 5 if the newest snapshot of any host and source is older than this: 30min, 26h, 7d, 1mo, …
    #[arg(long, value_name = "AGE")]
    pub max_age: Option<Age>,

    /// Which hosts and sources.
    #[command(flatten)]
    pub filter: Filter,
}

/// Options of `tag`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("change").required(true).multiple(true).args(["set", "add", "remove"]))]
pub struct TagArgs {
    /// Snapshots to change: id, unique prefix, latest, latest~N [default: all that the filters choose]
    #[arg(value_name = "SNAP")]
    pub snapshots: Vec<SnapshotName>,

    /// Replace all tags by these; by none with ''
    #[arg(long, value_name = "TAG[,TAG…]", value_parser = TagList::or_none, conflicts_with_all = ["add", "remove"])]
    pub set: Vec<TagList>,

    /// Add these tags
    #[arg(long, value_name = "TAG[,TAG…]")]
    pub add: Vec<TagList>,

    /// Remove these tags
    #[arg(long, value_name = "TAG[,TAG…]")]
    pub remove: Vec<TagList>,

    /// Which snapshots.
    #[command(flatten)]
    pub filter: Filter,
}

/// Options of `log`.
#[derive(Debug, Args)]
pub struct LogArgs {
    /// Show only the newest N records
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub last: Option<u64>,

    /// Show only records since TIME, such as 2026-11-01 or "2026-11-17 18:00" (local zone)
    #[arg(long, value_name = "TIME")]
    pub since: Option<At>,

    /// Show who did what instead: every connection to the server and every command of an operator's, kept for ever
    #[arg(long)]
    pub audit: bool,
}
