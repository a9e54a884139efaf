//! `man`.

use clap::CommandFactory;
use repo::error::{Error, Result};

use crate::args::{Cli, ManArgs};
use crate::context::Context;
use crate::exit::ExitCode;

/// Writes `packmule.1` and a page `packmule-COMMAND.1` for every command.
pub fn run(_ctx: &Context, args: ManArgs) -> Result<ExitCode> {
    let failed = |e| Error::io("write manual pages to", &args.dir, e);
    std::fs::create_dir_all(&args.dir).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), &args.dir).map_err(failed)?;
    Ok(ExitCode::Ok)
}
