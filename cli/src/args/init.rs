//! `init`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use repo::limits::{PACK_SIZE_MAX, PACK_SIZE_MIN};

use super::Bytes;

/// Options of `init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Make no recovery code: a lost password then loses every backup
    #[arg(long)]
    pub no_recovery_code: bool,

    /// The name of the first key slot
    #[arg(long, value_name = "NAME", default_value = "initial")]
    pub label: String,

    /// Make a pool: a repository that holds many tenants' backups and takes in what they push
    #[arg(long)]
    pub pool: bool,

    /// Make a lost site's repository anew: with its id and keys, from the invitation on standard input, and without
    /// snapshots until `sync pull NAME` has brought them back; from a sealed copy at once with all there was. NAME is what
    /// the pool is to be called here
    #[arg(long = "from", alias = "from-invitation", value_name = "NAME", conflicts_with = "pool")]
    pub from_invitation: Option<String>,

    /// Where a sealed tenant's site is made anew: a file with the recovery code, or with an identity, that opens the copy
    #[arg(long, value_name = "FILE", requires = "from_invitation")]
    pub recovery_code_file: Option<PathBuf>,

    /// Where a lost site is made anew: take from this transfer drive, which the pool has written, what need not come over the line.
    /// Once for each
    #[arg(long = "drive", value_name = "DIR", requires = "from_invitation")]
    pub drives: Vec<PathBuf>,

    /// The size at which a pack file is closed: 4M to 64M
    #[arg(long, value_name = "SIZE", default_value = "32M")]
    pub pack_size: PackSize,
}

/// A pack size the format allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackSize(pub u32);

impl FromStr for PackSize {
    type Err = String;

    fn from_str(s: &str) -> Result<PackSize, String> {
        let Bytes(bytes) = s.parse()?;
        match u32::try_from(bytes) {
            Ok(size) if (PACK_SIZE_MIN..=PACK_SIZE_MAX).contains(&(size as usize)) => Ok(PackSize(size)),
            _ => Err(format!("'{s}' is not between 4M and 64M")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pack_sizes_have_bounds() {
        assert_eq!("4M".parse(), Ok(PackSize(4 << 20)));
        assert_eq!("64MiB".parse(), Ok(PackSize(64 << 20)));
        assert!("3M".parse::<PackSize>().is_err());
        assert!("65M".parse::<PackSize>().is_err());
        assert!("8G".parse::<PackSize>().is_err());
    }
}
