//! `init`.

mod back;

use repo::chunker::ChunkerParams;
use repo::crypto::slot::Argon2Cost;
use repo::error::{Error, Kind, Result};
use repo::keyslots::{NewSlots, Secret};
use repo::open::{self, Access, Init, Place, Sealed};
use repo::tenants::{make_pool, valid_name};

use repo::format::record::RemoteState;
use repo::open::Repository;
use sync::agent::bring_back;
use sync::remote::{self, Anew};

use super::backup::host_name;
use super::key::show_code;
use super::open::place;
use super::remote::read_site_invitation;
use crate::args::InitArgs;
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::{human, json};
use crate::progress::Job;

/// Runs `init`.
pub fn run(ctx: &Context, args: InitArgs) -> Result<ExitCode> {
    let root = ctx.target()?;
    if root.join("config").exists() {
        // Before a password is asked for.
        return Err(Error::new(Kind::Exists, "there is a repository already at").at(root));
    }
    args.from_invitation.as_deref().map(valid_name).transpose()?;
    let password = ctx.initial_password()?;
    // Last of what can go wrong beforehand: an invitation is good once.
    let anew =
        args.from_invitation.as_ref().map(|_| remote::anew(&read_site_invitation()?, &host_name()?)).transpose()?;
    let slots = NewSlots {
        passphrase: Some((&password, &args.label)),
        cost: Argon2Cost::DEFAULT,
        recipients: &[],
        recovery_code: !args.no_recovery_code,
    };
    let wanted = Init { slots, chunker: ChunkerParams::DEFAULT, pack_size: args.pack_size.0 };
    let (id, code, remote) = match anew {
        Some(Anew { repository, identity: None, remote }) => {
            let name = args.from_invitation.as_deref().unwrap_or_default();
            return back::bring(ctx, &args, name, repository, &remote, &password);
        }
        Some(Anew { identity: Some(identity), remote, .. }) => {
            (identity.id, open::init_anew(root, &wanted, identity)?, Some(remote))
        }
        None => open::init(root, &wanted).map(|(id, code)| (id, code, None))?,
    };
    if args.pool || remote.is_some() {
        let place = Place { root: root.to_owned(), ..place(ctx)? };
        if remote.is_some() {
            open::forget_seen(&place, id)?;
        }
        let sealed = Sealed::open(place, Access::Write)?;
        let repo = sealed.unlock(&Secret::Passphrase(password), &ctx.monitor(Job::Look("packs")))?;
        if args.pool {
            make_pool(&repo)?;
        }
        if let (Some(name), Some(remote)) = (&args.from_invitation, &remote) {
            remote::note(&repo, name, remote)?;
            bring_agents(ctx, &repo, name, remote);
            super::profiles::bring_back(ctx, &repo);
        }
        repo.remember();
    }
    let text = code.as_ref().map(|code| code.to_text());
    if ctx.output.json {
        ctx.output.message_now(&json::Initialized {
            id: id.to_hex(),
            repository: json::PathField::new(root.as_os_str().as_encoded_bytes()),
            recovery_code: text.as_ref().map(|t| t.as_str()),
        })?;
        return Ok(ExitCode::Ok);
    }
    let what = if args.pool { "pool" } else { "repository" };
    ctx.output.line(format!("made {what} {} at {}", &id.to_hex()[..16], repo::error::printable(root)))?;
    match &text {
        Some(text) => show_code(ctx, text)?,
        None => ctx.output.line("There is no recovery code: whoever loses the password loses every backup.")?,
    }
    if let Some(name) = args.from_invitation.as_ref().filter(|_| remote.is_some()) {
        ctx.output
            .line(format!("It has no snapshots yet: `packmule sync pull {name}` brings them back, and comes next."))?;
    }
    ctx.output.flush()?;
    Ok(ExitCode::Ok)
}

/// A site made anew gets its agents back. If that fails it is told: the repository is there, and hosts can be invited again.
fn bring_agents(ctx: &Context, repo: &Repository, name: &str, remote: &RemoteState) {
    match bring_back(repo, remote, crate::PROGRAM) {
        Ok(0) => {}
        Ok(n) => {
            let count = human::count(n, "agent");
            ctx.output.complain(format!("packmule: {count} came back from {name}: `packmule serve` lets them go on"));
        }
        Err(e) => {
            ctx.output.complain(format!("packmule: agents did not come back from {name}: {e}; invite them again"))
        }
    }
}
