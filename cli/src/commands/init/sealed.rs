//! `init --from` of a sealed tenant: its copy is brought back whole, and is the repository again.

use std::path::Path;

use repo::backend::Backend;
use repo::backend::local::Local;
use repo::crypto::slot::{Argon2Cost, RecoveryCode};
use repo::error::{Kind, Result};
use repo::format::record::RemoteState;
use repo::id::RepoId;
use repo::keyslots::{self, Secret};
use repo::lock::COMMIT_WAIT;
use repo::open::{self, Access, Place, Repository, Sealed};
use sync::remote;
use sync::remote_backend::RemoteBackend;
use sync::sealed::back;

use super::place;
use crate::PROGRAM;
use crate::args::InitArgs;
use crate::commands::profiles;
use crate::commands::sync::NO_RESERVE;
use crate::context::Context;
use crate::output::{human, json};
use crate::progress::Job;
use crate::secret::recovery_code;

/// A recovery code that is asked for may be mistyped this often, the first time included.
const TRIES: u32 = 3;

/// The site that comes back.
pub struct Site<'a> {
    /// What the pool is to be called.
    pub name: &'a str,
    pub repository: RepoId,
    pub known: &'a RemoteState,
}

/// The recovery code, or an identity: asked for again when what is typed cannot be one.
pub fn ask(ctx: &Context, args: &InitArgs) -> Result<Secret> {
    let read = || {
        let text = recovery_code(args.recovery_code_file.as_deref())?;
        Secret::identity(&text).or_else(|_| RecoveryCode::parse(&text).map(Secret::RecoveryCode)).map_err(|e| {
            let remedy = "it is the line that `packmule init` printed; nothing was done, the invitation is still good";
            e.with_kind(Kind::WrongPassword).or_remedy(remedy)
        })
    };
    again(ctx, args, read)
}

/// Does it up to three times, while what fails is a recovery code that somebody typed.
fn again<T>(ctx: &Context, args: &InitArgs, mut once: impl FnMut() -> Result<T>) -> Result<T> {
    for _ in 1..TRIES {
        match once() {
            Err(e) if e.kind() == Kind::WrongPassword && args.recovery_code_file.is_none() => {
                ctx.output.complain(format!("packmule: {e}; try again"));
            }
            other => return other,
        }
    }
    once()
}

/// Brings the copy back, opens it with `code`, or another that is asked for, and gives it `password`.
pub fn bring(ctx: &Context, args: &InitArgs, site: &Site<'_>, code: Secret, password: &str) -> Result<()> {
    let root = ctx.target()?;
    let place = Place { root: root.to_owned(), ..place(ctx)? };
    // An earlier run may have come further.
    let secret = match Local::copy_mark(root)?.is_none() && root.join("config").exists() {
        true => opens(ctx, args, &Local::open(root, true)?, site, code)?,
        false => fetch(ctx, args, site, code, &place)?,
    };
    let repo = Sealed::open(place, Access::Write)?.unlock(&secret, &ctx.monitor(Job::Look("packs")))?;
    // It came from there as it is.
    let (pushed, pushed_at) = (Some(repo.log.position()), Some(repo.clock.now()));
    give_password(&repo, args, password)?;
    remote::note(&repo, site.name, &RemoteState { pushed, pushed_at, ..site.known.clone() })?;
    profiles::bring_back(ctx, &repo, profiles::Server::Aside);
    repo.remember();
    tell(ctx, &repo)
}

/// Fetches what the pool keeps; returns what opens it.
fn fetch(ctx: &Context, args: &InitArgs, site: &Site<'_>, code: Secret, place: &Place) -> Result<Secret> {
    let at = Path::new(&site.known.url).join(&site.known.tenant);
    let from = RemoteBackend::new(remote::dial(site.known), site.repository, PROGRAM, &at);
    let kept = "run the same command again: it needs no other invitation, and what has come is kept";
    let copy = back::begin(&from, &place.root, site.repository).map_err(|e| e.or_remedy(kept))?;
    // Before everything is fetched in vain.
    let secret = opens(ctx, args, &copy, site, code)?;
    let drives: Vec<Local> =
        args.drives.iter().map(|dir| Local::open_drive(dir, true).map(|(drive, _)| drive)).collect::<Result<_>>()?;
    let progress = ctx.monitor(Job::Other("packs"));
    let brought = back::bring(&from, &copy, &drives, &progress);
    drop(progress);
    brought.map_err(|e| match e.kind() {
        Kind::Unreachable | Kind::Interrupted => e.remedy(kept),
        _ => e,
    })?;
    open::forget_seen(place, site.repository)?;
    if !copy.promote()? {
        ctx.output.complain(NO_RESERVE);
    }
    Ok(secret)
}

/// What opens the copy: `code`, or one that is typed in its place.
fn opens(ctx: &Context, args: &InitArgs, copy: &Local, site: &Site<'_>, code: Secret) -> Result<Secret> {
    let mut given = Some(code);
    again(ctx, args, || {
        let secret = given.take().map_or_else(|| ask(ctx, args), Ok)?;
        keyslots::unlock(copy, &site.repository, &secret).map(|_| secret)
    })
    .map_err(|e| match e.kind() {
        Kind::WrongPassword => e.remedy(
            "give the recovery code of this repository, and run the same command again: it needs no other invitation",
        ),
        _ => e,
    })
}

fn give_password(repo: &Repository, args: &InitArgs, password: &str) -> Result<()> {
    let (backend, id) = (repo.backend.as_ref() as &dyn Backend, repo.config.repo_id);
    if keyslots::unlock(backend, &id, &Secret::Passphrase(password.to_owned().into())).is_ok() {
        return Ok(());
    }
    let _commit = repo.locks.commit(COMMIT_WAIT)?;
    keyslots::add_passphrase(backend, id, &repo.unlocked.keyring, &args.label, password, Argon2Cost::DEFAULT).map(drop)
}

fn tell(ctx: &Context, repo: &Repository) -> Result<()> {
    let (root, id) = (ctx.target()?, repo.config.repo_id);
    if ctx.output.json {
        return ctx.output.message_now(&json::Initialized {
            id: id.to_hex(),
            repository: json::PathField::new(root.as_os_str().as_encoded_bytes()),
            recovery_code: None,
        });
    }
    let snapshots = repo.log.state().snapshots.values().filter(|s| s.forgotten.is_none()).count() as u64;
    let count = human::count(snapshots, "snapshot");
    ctx.output.line(format!(
        "repository {} is back at {}, with {count}",
        &id.to_hex()[..16],
        repo::error::printable(root)
    ))?;
    ctx.output.line("Its recovery code and recipients are what they were.")?;
    ctx.output.flush()
}
