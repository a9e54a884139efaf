//! `init`.

mod back;
mod sealed;
mod taken;

use repo::chunker::ChunkerParams;
use repo::crypto::slot::{Argon2Cost, RecoveryCode};
use repo::error::{Error, Kind, Result};
use repo::id::RepoId;
use repo::keyslots::{NewSlots, Secret};
use repo::open::{self, Access, Init, Place, Sealed};
use repo::tenants::{make_pool, valid_name};

use super::key::show_code;
use super::open::place;
use crate::args::InitArgs;
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::json;
use crate::progress::Job;
use taken::Taken;

/// Runs `init`.
pub fn run(ctx: &Context, args: InitArgs) -> Result<ExitCode> {
    let root = ctx.target()?;
    args.from_invitation.as_deref().map(valid_name).transpose()?;
    let kept = args.from_invitation.as_ref().map(|_| Taken::find(root)).transpose()?.flatten();
    if kept.is_none() && root.join("config").exists() {
        // Before a password is asked for.
        return Err(Error::new(Kind::Exists, "there is a repository already at").at(root));
    }
    let password = ctx.initial_password()?;
    if let Some(name) = &args.from_invitation {
        return back::run(ctx, &args, name, kept, password);
    }
    let (id, code) = open::init(root, &wanted(&args, &password))?;
    if args.pool {
        let place = Place { root: root.to_owned(), ..place(ctx)? };
        let sealed = Sealed::open(place, Access::Write)?;
        let repo = sealed.unlock(&Secret::Passphrase(password), &ctx.monitor(Job::Look("packs")))?;
        make_pool(&repo)?;
        repo.remember();
    }
    tell(ctx, if args.pool { "pool" } else { "repository" }, id, code.as_ref())?;
    Ok(ExitCode::Ok)
}

/// What is asked of the engine.
fn wanted<'a>(args: &'a InitArgs, password: &'a str) -> Init<'a> {
    let slots = NewSlots {
        passphrase: Some((password, &args.label)),
        cost: Argon2Cost::DEFAULT,
        recipients: &[],
        recovery_code: !args.no_recovery_code,
    };
    Init { slots, chunker: ChunkerParams::DEFAULT, pack_size: args.pack_size.0 }
}

/// Says what was made, and shows the recovery code, once.
fn tell(ctx: &Context, what: &str, id: RepoId, code: Option<&RecoveryCode>) -> Result<()> {
    let root = ctx.target()?;
    let text = code.map(RecoveryCode::to_text);
    if ctx.output.json {
        return ctx.output.message_now(&json::Initialized {
            id: id.to_hex(),
            repository: json::PathField::new(root.as_os_str().as_encoded_bytes()),
            recovery_code: text.as_ref().map(|t| t.as_str()),
        });
    }
    ctx.output.line(format!("made {what} {} at {}", &id.to_hex()[..16], repo::error::printable(root)))?;
    match &text {
        Some(text) => show_code(ctx, text)?,
        None => ctx.output.line("There is no recovery code: whoever loses the password loses every backup.")?,
    }
    ctx.output.flush()
}
