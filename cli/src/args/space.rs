//! `forget`, `unforget`, `prune` and `check`.

use clap::Args;

use super::{HistoryFilter, Keep, Subset, TagList, Unused};
use crate::select::SnapshotName;
use crate::timespec::Span;

/// What stands below `forget --help`.
pub const FORGET_NOTES: &str = "\
A rule with more hours, days, weeks, … than there are snapshots for keeps the oldest snapshot too, as in restic.
Snapshots are judged by when they were recorded: the end of the backup, where `snapshots` shows its beginning.
At a pool, --tenant or --all-tenants without rules goes by each tenant's own (`tenant set`). Snapshots within their tenant's window are kept
and count for no rule: what a site delivers displaces nothing before the window is over.";

/// Options of `forget`.
#[derive(Debug, Args)]
pub struct ForgetArgs {
    /// Snapshots to forget by name: id, unique prefix, latest, latest~N
    #[arg(value_name = "SNAP", conflicts_with = "keep")]
    pub snapshots: Vec<SnapshotName>,

    /// Also free the space of what may go for good now
    #[arg(long)]
    pub prune: bool,

    /// With --prune: free the space of forgotten snapshots at once, without the hold (72h by default) in which they can
    /// be brought back
    #[arg(long, requires = "prune")]
    pub release_held: bool,

    /// With --prune: how much may stay unused before packs are rewritten: a percentage of what is in use, a size, or
    /// 'unlimited'
    #[arg(long, value_name = "LIMIT", default_value = "5%", requires = "prune")]
    pub max_unused: Unused,

    /// Go on although this machine's clock seems wrong
    #[arg(long)]
    pub accept_clock: bool,

    /// Also forget snapshots that are not yet at every remote (`remote list`); without this they are spared
    #[arg(long)]
    pub even_unpushed: bool,

    /// Only say what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,

    /// Retention rules; below the plain options, because a help heading holds for all that follows.
    #[command(flatten)]
    pub keep: KeepArgs,

    /// Which histories.
    #[command(flatten)]
    pub filter: HistoryFilter,
}

/// Retention rules, applied per host and source, at a pool of each tenant; a snapshot that any rule keeps is kept.
#[derive(Debug, Clone, Default, Args)]
#[group(id = "keep", multiple = true)]
#[command(next_help_heading = "Retention rules (per host and source; what any rule keeps is kept)")]
pub struct KeepArgs {
    /// Keep the newest N snapshots
    #[arg(short = 'l', long, value_name = "N")]
    pub keep_last: Option<Keep>,
    /// Keep the newest snapshot of each of the newest N hours that have one
    #[arg(short = 'H', long, value_name = "N")]
    pub keep_hourly: Option<Keep>,
    /// Keep the newest snapshot of each of the newest N days that have one
    #[arg(short = 'd', long, value_name = "N")]
    pub keep_daily: Option<Keep>,
    /// Keep the newest snapshot of each of the newest N weeks that have one
    #[arg(short = 'w', long, value_name = "N")]
    pub keep_weekly: Option<Keep>,
    /// Keep the newest snapshot of each of the newest N months that have one
    #[arg(short = 'm', long, value_name = "N")]
    pub keep_monthly: Option<Keep>,
    /// Keep the newest snapshot of each of the newest N years that have one
    #[arg(short = 'y', long, value_name = "N")]
    pub keep_yearly: Option<Keep>,
    /// Keep what is at most this much older than the newest: years, months, weeks, days, hours, such as 1y5m7d or 72h
    #[arg(long, value_name = "SPAN")]
    pub keep_within: Option<Span>,
    /// Keep snapshots with all of these comma-separated tags (given several times: any of the lists)
    #[arg(long, value_name = "TAG[,TAG…]")]
    pub keep_tag: Vec<TagList>,
}

impl KeepArgs {
    /// Whether no rule was given.
    pub fn is_empty(&self) -> bool {
        let counted =
            [self.keep_last, self.keep_hourly, self.keep_daily, self.keep_weekly, self.keep_monthly, self.keep_yearly];
        counted.iter().all(Option::is_none) && self.keep_within.is_none() && self.keep_tag.is_empty()
    }
}

/// Options of `unforget`.
#[derive(Debug, Args)]
pub struct UnforgetArgs {
    /// Forgotten snapshots by id or unique prefix, as `snapshots --forgotten` shows them
    #[arg(value_name = "SNAP", required = true)]
    pub snapshots: Vec<SnapshotName>,

    /// At a pool: only snapshots of this tenant (may be given several times)
    #[arg(long, value_name = "NAME")]
    pub tenant: Vec<String>,
}

/// Options of `prune`.
#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Free the space of forgotten snapshots at once, without the hold (72h by default) in which they can be brought back
    #[arg(long)]
    pub release_held: bool,

    /// Go on although this machine's clock seems wrong
    #[arg(long)]
    pub accept_clock: bool,

    /// Refused: what is freed belongs to all tenants of a pool
    #[arg(long, value_name = "NAME", hide = true)]
    pub tenant: Vec<String>,

    /// How much may stay unused before packs are rewritten: a percentage of what is in use, a size, or 'unlimited'
    #[arg(long, value_name = "LIMIT", default_value = "5%")]
    pub max_unused: Unused,

    /// Only say what would be freed, now and later
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// Options of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Also read and verify every stored byte
    #[arg(long, conflicts_with = "read_data_subset")]
    pub read_data: bool,

    /// Read and verify a part: n/m (n from 1 to m; after m runs everything was read) or a random percentage such as 2.5%
    #[arg(long, value_name = "n/m|x%")]
    pub read_data_subset: Option<Subset>,

    /// First let a damaged log go on: what can be read of it, with every snapshot whose manifest is there, becomes the
    /// truth, and what the damaged records said (forgotten snapshots, tags, pins) is lost. Asks for nothing else to run
    #[arg(long)]
    pub repair_log: bool,

    /// At a pool: only this tenant's snapshots and the packs that they reach; of a sealed tenant, its copy
    #[arg(long, value_name = "NAME", conflicts_with_all = ["repair_log", "heal"])]
    pub tenant: Option<String>,

    /// Fetch what is damaged or missing here from a remote, send the remote what it has lost, and check again
    #[arg(long, value_name = "REMOTE")]
    pub heal: Option<String>,
}
