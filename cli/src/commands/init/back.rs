//! `init --from`: a lost site's repository made anew, by an invitation of its pool.

use std::path::Path;
use std::sync::Arc;

use repo::backend::local::Local;
use repo::error::{Error, Kind, Result};
use repo::format::record::RemoteState;
use repo::keyslots::Secret;
use repo::open::{self, Access, Identity, Place, Repository, Sealed};
use sync::agent::bring_back;
use sync::invitation::Invitation;
use sync::remote::{self, Anew};
use zeroize::Zeroizing;

use super::taken::Taken;
use super::{place, sealed, tell, wanted};
use crate::args::InitArgs;
use crate::commands::backup::host_name;
use crate::commands::drive;
use crate::commands::profiles;
use crate::commands::remote::read_site_invitation;
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::human;
use crate::progress::Job;

/// Makes the repository anew; `kept` is what an earlier run left that did not come to its end.
pub fn run(
    ctx: &Context,
    args: &InitArgs,
    name: &str,
    kept: Option<Taken>,
    password: Zeroizing<String>,
) -> Result<ExitCode> {
    let root = ctx.target()?;
    // Before what can be had once: the drives are there, and the recovery code is at hand, and reads as one.
    args.drives.iter().try_for_each(|dir| Local::open_drive(dir, true).map(drop))?;
    let code = |invitation: &Invitation| invitation.sealed.then(|| sealed::ask(ctx, args)).transpose();
    if let Some((taken, anew)) = kept.map(|taken| go_on(ctx, taken)).transpose()?.flatten() {
        let code = code(&taken.invitation)?;
        return finish(ctx, args, name, (taken, anew), code, password);
    }
    let invitation = read_site_invitation(ctx)?;
    let code = code(&invitation)?;
    finish(ctx, args, name, take_up(root, invitation)?, code, password)
}

fn finish(
    ctx: &Context,
    args: &InitArgs,
    name: &str,
    (taken, anew): (Taken, Anew),
    code: Option<Secret>,
    password: Zeroizing<String>,
) -> Result<ExitCode> {
    let again = |e: Error| e.or_remedy("run the same command again: it needs no other invitation");
    match (anew, code) {
        (Anew { identity: Some(identity), remote, .. }, _) => {
            pooled(ctx, args, name, identity, &remote, password).map_err(again)?;
        }
        (Anew { repository, remote, .. }, Some(code)) => {
            let site = sealed::Site { name, repository, known: &remote };
            sealed::bring(ctx, args, &site, code, &password).map_err(again)?;
        }
        (Anew { .. }, None) => return Err(Error::new(Kind::Refused, "the pool keeps this tenant sealed by now")),
    }
    taken.drop_it()?;
    Ok(ExitCode::Ok)
}

/// Goes on with an invitation that was taken up before; none if the pool does not know its key.
fn go_on(ctx: &Context, taken: Taken) -> Result<Option<(Taken, Anew)>> {
    let path = repo::error::printable(taken.path());
    match remote::anew(&taken.invitation, &host_name()?, &taken.key) {
        Ok(anew) => {
            let (tenant, pool) = (&taken.invitation.tenant, taken.invitation.address.place());
            ctx.output.complain(format!(
                "packmule: going on with the invitation of tenant {tenant} at {pool} that was taken up before (kept in {path})"
            ));
            Ok(Some((taken, anew)))
        }
        Err(e) if e.kind() == Kind::Refused => {
            ctx.output.complain(format!("packmule: the invitation kept in {path} is of no use any more: {e}"));
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

fn take_up(root: &Path, invitation: Invitation) -> Result<(Taken, Anew)> {
    let taken = Taken::keep(root, invitation)?;
    match remote::anew(&taken.invitation, &host_name()?, &taken.key) {
        Ok(anew) => Ok((taken, anew)),
        // It was not taken up, and will not be.
        Err(e) if e.kind() == Kind::Refused => {
            taken.drop_it()?;
            Err(e)
        }
        Err(e) => Err(e.or_remedy("run the same command again: if the invitation was taken up, it needs no other")),
    }
}

/// Of a pooled tenant: with its id and keys, and without snapshots.
fn pooled(
    ctx: &Context,
    args: &InitArgs,
    name: &str,
    identity: Identity,
    known: &RemoteState,
    password: Zeroizing<String>,
) -> Result<()> {
    let root = ctx.target()?;
    let place = Place { root: root.to_owned(), ..place(ctx)? };
    let id = identity.id;
    if root.join("config").exists() {
        let text = "packmule: the repository was made by an earlier try, which showed its recovery code; if it did not come so far, \
                    `packmule key recovery-code` makes another";
        ctx.output.complain(text);
    } else {
        // Shown at once: nothing that fails later may keep it back.
        let code = open::init_anew(root, &wanted(args, &password), identity)?;
        tell(ctx, "repository", id, code.as_ref())?;
    }
    open::forget_seen(&place, id)?;
    let sealed = Sealed::open(place, Access::Write)?;
    let repo = Arc::new(sealed.unlock(&Secret::Passphrase(password), &ctx.monitor(Job::Look("packs")))?);
    remote::note(&repo, name, known)?;
    bring_agents(ctx, &repo, name, known);
    profiles::bring_back(ctx, &repo, profiles::Server::Aside);
    if !args.drives.is_empty() {
        drive::import::take_all(ctx, &repo, &args.drives)?;
    } else if !ctx.output.json {
        ctx.output
            .line(format!("It has no snapshots yet: `packmule sync pull {name}` brings them back, and comes next."))?;
    }
    repo.remember();
    Ok(())
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
