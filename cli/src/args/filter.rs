//! Which snapshots a command means, beyond their names.

use std::path::PathBuf;

use clap::Args;

use super::TagList;
use crate::timespec::At;

/// Filters for commands whose `-H` is free.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Which snapshots")]
pub struct Filter {
    /// Only snapshots of this host (may be given several times)
    #[arg(short = 'H', long, value_name = "HOST")]
    pub host: Vec<String>,
    /// The rest.
    #[command(flatten)]
    pub rest: FilterRest,
    /// Only snapshots at or before TIME, such as "2026-11-17 18:00" (local zone; a date alone means its end);
    /// "latest" then is the newest of them
    #[arg(long, value_name = "TIME")]
    pub at: Option<At>,
}

/// Filters for `forget`, where restic's `-H` means `--keep-hourly`.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Which snapshots")]
pub struct HistoryFilter {
    /// Only snapshots of this host (may be given several times)
    #[arg(long, value_name = "HOST")]
    pub host: Vec<String>,
    /// The rest.
    #[command(flatten)]
    pub rest: FilterRest,
    /// At a pool: let retention rules, or each tenant's own, forget snapshots of every tenant; without this they need --tenant
    #[arg(long, conflicts_with = "tenant")]
    pub all_tenants: bool,
}

/// What every filter has.
#[derive(Debug, Clone, Default, Args)]
pub struct FilterRest {
    /// At a pool: only snapshots of this tenant, whatever names them (may be given several times)
    #[arg(long, value_name = "NAME")]
    pub tenant: Vec<String>,
    /// Only snapshots of this source (may be given several times)
    #[arg(long, value_name = "NAME")]
    pub source: Vec<String>,
    /// Only snapshots with all of these comma-separated tags (given several times: any of the lists)
    #[arg(long, value_name = "TAG[,TAG…]")]
    pub tag: Vec<TagList>,
    /// Only snapshots of this path as given to backup (given several times: all of them)
    #[arg(long, value_name = "PATH")]
    pub path: Vec<PathBuf>,
}
