//! `completions`.

use clap::CommandFactory;
use repo::error::Result;

use crate::args::{Cli, CompletionsArgs};
use crate::context::Context;
use crate::exit::ExitCode;

/// Prints the script.
pub fn run(ctx: &Context, args: CompletionsArgs) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "packmule", &mut script);
    ctx.output.raw(&script)?;
    Ok(ExitCode::Ok)
}
