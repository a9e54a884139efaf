//! `init`.

use repo::chunker::ChunkerParams;
use repo::crypto::slot::Argon2Cost;
use repo::error::{Error, Kind, Result};
use repo::keyslots::NewSlots;
use repo::open::{self, Init};

use super::key::show_code;
use crate::args::InitArgs;
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::json;

/// Runs `init`.
pub fn run(ctx: &Context, args: InitArgs) -> Result<ExitCode> {
    let root = ctx.target()?;
    if root.join("config").exists() {
        // Before a password is asked for.
        return Err(Error::new(Kind::Exists, "there is a repository already at").at(root));
    }
    let password = ctx.initial_password()?;
    let slots = NewSlots {
        passphrase: Some((&password, &args.label)),
        cost: Argon2Cost::DEFAULT,
        recipients: &[],
        recovery_code: !args.no_recovery_code,
    };
    let wanted = Init { slots, chunker: ChunkerParams::DEFAULT, pack_size: args.pack_size.0 };
    let (id, code) = open::init(root, &wanted)?;
    let text = code.as_ref().map(|code| code.to_text());
    if ctx.output.json {
        ctx.output.message_now(&json::Initialized {
            id: id.to_hex(),
            repository: json::PathField::new(root.as_os_str().as_encoded_bytes()),
            recovery_code: text.as_ref().map(|t| t.as_str()),
        })?;
        return Ok(ExitCode::Ok);
    }
    ctx.output.line(format!("made repository {} at {}", &id.to_hex()[..16], repo::error::printable(root)))?;
    match &text {
        Some(text) => show_code(ctx, text)?,
        None => ctx.output.line("There is no recovery code: whoever loses the password loses every backup.")?,
    }
    ctx.output.flush()?;
    Ok(ExitCode::Ok)
}
