//! `tenant remove`, and what certifies it.

use repo::error::Result;
use repo::format::record::Certificate;
use repo::open::Repository;
use repo::prune::Options;
use repo::removal::{self, Removed};
use repo::tenants;
use serde::Serialize;

use super::super::prune::prune;
use crate::context::Context;
use crate::output::{human, json};

/// A removal that waits, as JSON.
#[derive(Serialize)]
#[serde(tag = "message_type", rename = "tenant_removal")]
struct Waiting<'a> {
    tenant: &'a str,
    ordered: json::Time,
    snapshots: u64,
    /// From then on it can be carried out.
    due: json::Time,
}

/// A certificate as JSON.
#[derive(Serialize)]
#[serde(tag = "message_type", rename = "certificate")]
struct Certified<'a> {
    tenant: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    repository: Option<String>,
    ordered: json::Time,
    completed: json::Time,
    snapshots: u64,
    /// Of the tenant's different chunks, before compression, as if it had been alone.
    bytes: u64,
    /// The record of the pool's log that says this.
    log_seq: u64,
}

/// What only the operator is told of a removal, as JSON.
#[derive(Serialize)]
#[serde(tag = "message_type", rename = "removal_figures")]
struct Figures<'a> {
    tenant: &'a str,
    /// Bytes, before compression, that nobody else had.
    deleted_bytes: u64,
    /// Bytes that others have too.
    shared_bytes: u64,
}

/// Orders a removal, and carries it out if it is due.
pub fn remove(ctx: &Context, repo: &Repository, name: &str, release_held: bool, accept_clock: bool) -> Result<()> {
    let (number, _) = tenants::find(&repo.log.state(), name).map(|(number, tenant)| (number, tenant.made))?;
    let progress = ctx.monitor(crate::progress::Job::Other("snapshots"));
    let order = removal::order(repo, number, accept_clock, &progress);
    drop(progress);
    let order = order?;
    let (state, now) = (repo.log.state(), repo.clock.now());
    let due = removal::due(&state, number, now, release_held).unwrap_or(now);
    if due > now {
        if ctx.output.json {
            let (ordered, due) = (json::Time::of(order.at), json::Time::of(due));
            return ctx.output.message(&Waiting { tenant: name, ordered, snapshots: order.snapshots, due });
        }
        let (count, when) = (human::count(order.snapshots, "snapshot"), human::time(human::timestamp(due)));
        ctx.output.line(format!("tenant {name} is refused from now on, and what it has is forgotten: {count}"))?;
        if release_held {
            let window = super::policy::span(repo::policy::window(&state, Some(number)));
            return ctx.output.line(format!(
                "its window, in which nobody may delete what came in it, is not over, and --release-held does not end it: it is \
                 {window} now, and the last of what it has is held until {when}; `packmule tenant resume {name}` takes this back; \
                 after that, this command again or `packmule prune` deletes it and certifies that"
            ));
        }
        return ctx.output.line(format!(
            "all of it is held until {when}: `packmule tenant resume {name}` takes this back; after that, this command again or \
             `packmule prune` deletes it and certifies that"
        ));
    }
    let options = Options { release_tenant: release_held.then_some(number), accept_clock, ..Options::default() };
    let (_, removed) = prune(ctx, repo, &options)?;
    match removed.iter().any(|removed| removed.tenant == number) {
        true => removed.iter().try_for_each(|removed| tell_removed(ctx, removed)),
        false => ctx.output.line(format!(
            "what is left of tenant {name} could not be deleted yet: others are at work, or packs are damaged; \
             `packmule prune` says more, and goes on with it"
        )),
    }
}

/// Takes the order back, if there is one; how many snapshots came back with it.
pub fn take_back(ctx: &Context, repo: &Repository, number: u32, name: &str) -> Result<Option<u64>> {
    if repo.log.state().tenants.get(&number).is_none_or(|tenant| tenant.removed.is_none()) {
        return Ok(None);
    }
    let back = removal::take_back(repo, number)?;
    if !ctx.output.json {
        let count = human::count(back, "snapshot");
        let text = format!("tenant {name} is not removed, and has {count} back; invitations have to be made anew");
        ctx.output.remark(text)?;
    }
    Ok(Some(back))
}

/// Tells that a tenant is gone: what its certificate says, and what is the operator's alone to know.
pub fn tell_removed(ctx: &Context, removed: &Removed) -> Result<()> {
    tell_certificate(ctx, removed.seq, &removed.certificate)?;
    let Removed { alone, shared, .. } = *removed;
    if ctx.output.json {
        let tenant = &removed.certificate.name;
        return ctx.output.message(&Figures { tenant, deleted_bytes: alone, shared_bytes: shared });
    }
    if alone + shared > 0 {
        let (alone, shared) = (human::size(alone), human::size(shared));
        ctx.output.line(format!(
            "For you alone: {alone} were nobody else's and are gone; {shared} stay, being others' too."
        ))?;
    }
    Ok(())
}

/// Shows a certificate.
pub fn tell_certificate(ctx: &Context, seq: u64, certificate: &Certificate) -> Result<()> {
    let removal = certificate.removal;
    if ctx.output.json {
        return ctx.output.message(&Certified {
            tenant: &certificate.name,
            repository: certificate.repository.map(|id| id.to_hex()),
            ordered: json::Time::of(removal.at),
            completed: json::Time::of(certificate.completed),
            snapshots: removal.snapshots,
            bytes: removal.bytes,
            log_seq: seq,
        });
    }
    let time = |at| human::time(human::timestamp(at));
    let lines = [
        ("Tenant", certificate.name.clone()),
        ("State", "removed".to_owned()),
        ("Repository", certificate.repository.map_or_else(|| "-".to_owned(), |id| id.to_hex())),
        ("Ordered", time(removal.at)),
        ("Deleted", time(certificate.completed)),
        ("Snapshots", removal.snapshots.to_string()),
        ("Owned", human::size(removal.bytes)),
        ("Log record", seq.to_string()),
    ];
    lines.iter().try_for_each(|(what, value)| ctx.output.line(format!("{:<15}{value}", format!("{what}:"))))
}
