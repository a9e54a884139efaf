//! `version`.

use repo::error::Result;

use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::json;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Prints the version.
pub fn run(ctx: &Context) -> Result<ExitCode> {
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    if ctx.globals.json {
        ctx.output.message(&json::Version { version: VERSION, os, arch })?;
    } else {
        ctx.output.line(format!("packmule {VERSION} ({os} {arch})"))?;
    }
    Ok(ExitCode::Ok)
}
