//! `estimate`.

use clap::Args;

use super::{BackupArgs, Bytes, Rate};

/// Options of `estimate`.
#[derive(Debug, Args)]
pub struct EstimateArgs {
    /// What is to be backed up, as for `backup`.
    #[command(flatten)]
    pub backup: BackupArgs,

    /// Also tell what would have to be sent to this remote; a pool is asked what it has
    #[arg(long, value_name = "NAME")]
    pub remote: Option<String>,

    /// The line's speed, for how long sending takes: such as 100Mbit
    #[arg(long, value_name = "RATE")]
    pub rate: Option<Rate>,

    /// Read only so many percent of the files, chosen by their paths, and reckon the rest by their sizes. Much smaller
    /// than 100 is of use where there are many files; one large file is read whole, or not at all
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub sample: Option<u8>,

    /// The size of a transfer drive, for how many it takes
    #[arg(long, value_name = "SIZE", default_value = "4T")]
    pub drive_size: Bytes,

    /// How many days a parcel takes
    #[arg(long, value_name = "DAYS", default_value_t = 2)]
    pub post_days: u32,
}
