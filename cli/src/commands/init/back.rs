//! `init --from` of a sealed tenant: its copy is brought back whole, and is the repository again.

use std::path::Path;

use repo::crypto::slot::Argon2Cost;
use repo::error::{Error, Kind, Result};
use repo::format::record::RemoteState;
use repo::id::RepoId;
use repo::keyslots::{self, Secret};
use repo::lock::COMMIT_WAIT;
use repo::open::{self, Access, Place, Sealed};
use sync::remote;
use sync::remote_backend::RemoteBackend;
use sync::sealed::back;

use super::super::profiles;
use super::place;
use crate::PROGRAM;
use crate::args::InitArgs;
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::{human, json};
use crate::progress::Job;
use crate::secret::recovery_code;

/// Brings the copy at `known` back, opens it with the recovery code, and gives it `password`.
pub fn bring(
    ctx: &Context,
    args: &InitArgs,
    name: &str,
    repository: RepoId,
    known: &RemoteState,
    password: &str,
) -> Result<ExitCode> {
    let root = ctx.target()?;
    let secret = secret(args)?;
    let at = Path::new(&known.url).join(&known.tenant);
    let from = RemoteBackend::new(remote::dial(known), repository, PROGRAM, &at);
    let again = |e: Error| match e.kind() {
        Kind::Unreachable | Kind::Interrupted | Kind::WrongPassword => {
            e.remedy("ask for another invitation and run the same command again: what has come is kept")
        }
        _ => e,
    };
    let copy = back::begin(&from, root, repository).map_err(again)?;
    // Before everything is fetched in vain.
    keyslots::unlock(&copy, &repository, &secret).map_err(again)?;
    let progress = ctx.monitor(Job::Other("packs"));
    let brought = back::bring(&from, &copy, &progress);
    drop(progress);
    brought.map_err(again)?;
    let place = Place { root: root.to_owned(), ..place(ctx)? };
    open::forget_seen(&place, repository)?;
    copy.promote()?;
    let sealed = Sealed::open(place, Access::Write)?;
    let repo = sealed.unlock(&secret, &ctx.monitor(Job::Look("packs")))?;
    let commit = repo.locks.commit(COMMIT_WAIT)?;
    let cost = Argon2Cost::DEFAULT;
    keyslots::add_passphrase(repo.backend.as_ref(), repository, &repo.unlocked.keyring, &args.label, password, cost)?;
    drop(commit);
    remote::note_again(&repo, name, known)?;
    profiles::bring_back(ctx, &repo);
    repo.remember();
    let snapshots = repo.log.state().snapshots.values().filter(|s| s.forgotten.is_none()).count() as u64;
    if ctx.output.json {
        ctx.output.message_now(&json::Initialized {
            id: repository.to_hex(),
            repository: json::PathField::new(root.as_os_str().as_encoded_bytes()),
            recovery_code: None,
        })?;
        return Ok(ExitCode::Ok);
    }
    let (id, count) = (&repository.to_hex()[..16], human::count(snapshots, "snapshot"));
    ctx.output.line(format!("repository {id} is back at {}, with {count}", repo::error::printable(root)))?;
    ctx.output.line("Its recovery code and recipients are what they were.")?;
    ctx.output.flush()?;
    Ok(ExitCode::Ok)
}

/// The recovery code, or an identity.
fn secret(args: &InitArgs) -> Result<Secret> {
    let text = recovery_code(args.recovery_code_file.as_deref())?;
    Ok(Secret::identity(&text).unwrap_or(Secret::Passphrase(text)))
}
