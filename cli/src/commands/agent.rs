//! `agent`: at a site, who may back up to it; on a host, joining one.

pub mod backup;
mod join;
pub mod look;
mod place;

use repo::agents;
use repo::error::{Error, Kind, Result};
use repo::format::record::{Roles, SnapshotState};
use repo::open::{Access, Repository};
use repo::tenants;
use serde::Serialize;
use sync::invitation::Invitation;
use sync::serve::Door;

use super::open::open_repository;
use crate::args::{AgentAction, AgentArgs, AgentInviteArgs};
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::human::{self, Table};
use crate::output::json;

/// An agent as JSON.
#[derive(Serialize)]
#[serde(tag = "message_type", rename = "agent")]
struct Line<'a> {
    host: &'a str,
    /// Whether an invitation was taken up and is not revoked.
    connected: bool,
    revoked: bool,
    may_restore: bool,
    snapshots: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<json::Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fingerprint: Option<String>,
}

/// An invitation as JSON.
#[derive(Serialize)]
#[serde(tag = "message_type", rename = "invitation")]
struct Invited<'a> {
    host: &'a str,
    invitation: String,
    expires: json::Time,
}

/// Runs `agent`.
pub fn run(ctx: &Context, args: AgentArgs) -> Result<ExitCode> {
    let at_site = |access| match ctx.site()? {
        None => open_repository(ctx, access),
        Some(_) => {
            Err(Error::new(Kind::Usage, "who may back up to a site is looked after at the site, not on a host of its")
                .remedy("run this command there, with -r and the path of its repository"))
        }
    };
    match args.action {
        AgentAction::Invite(args) => invite(ctx, &at_site(Access::Write)?, &args)?,
        AgentAction::List => list(ctx, &at_site(Access::Read)?)?,
        AgentAction::Revoke { host } => {
            let repo = at_site(Access::Write)?;
            agents::revoke(&repo, &host)?;
            repo.remember();
            let text = format!("nothing more is taken from {host}; its snapshots stay");
            ctx.output.did("agent revoke", &[("host", host.into())], text)?;
        }
        AgentAction::Join(args) => join::join(ctx, &args)?,
        AgentAction::Leave => join::leave(ctx)?,
    }
    ctx.output.flush()?;
    Ok(ExitCode::Ok)
}

fn invite(ctx: &Context, repo: &Repository, args: &AgentInviteArgs) -> Result<()> {
    let host = &args.host;
    let address = super::tenant::reached(ctx, args.address.as_deref(), "the host reaches this site")?;
    let number = agents::enrol(repo, host)?;
    let host_key = Door::host_key(repo)?.public();
    let expires = args.lifetime.after(repo.clock.now());
    let roles = if args.allow.is_some() { Roles::AGENT.and(Roles::RESTORE) } else { Roles::AGENT };
    let token = tenants::invite(repo, number, roles, "agent", host, expires)?;
    repo.remember();
    let made = Invitation { address, host_key, tenant: host.clone(), sealed: false, agent: true, token };
    let line = made.to_string();
    if ctx.output.json {
        return ctx.output.message_now(&Invited { host, invitation: line, expires: json::Time::of(expires) });
    }
    // The one line is all that standard output carries: it can be sent to a file or down a pipe.
    ctx.output.line(line)?;
    ctx.output.flush()?;
    let until = human::time(human::timestamp(expires));
    ctx.output.aside(format!(
        "good once, until {until}: give it to `packmule agent join` on {host}, unseen by others; `packmule serve` must run here"
    ));
    Ok(())
}

fn list(ctx: &Context, repo: &Repository) -> Result<()> {
    let state = repo.log.state();
    let mut table = Table::new(&["Host", "Snapshots", "Last", "May", "State"]);
    for agent in state.agents.values() {
        let own = |s: &&SnapshotState| s.forgotten.is_none() && s.origin.is_none() && s.host == agent.name;
        let snapshots = state.snapshots.values().filter(own).count() as u64;
        let last = state.snapshots.values().filter(own).map(|s| s.received).max();
        let key = agent.keys.iter().find(|key| key.revoked.is_none());
        let may_restore = key.is_some_and(|key| key.roles.allow(Roles::RESTORE));
        if ctx.output.json {
            ctx.output.message(&Line {
                host: &agent.name,
                connected: key.is_some(),
                revoked: agent.suspended,
                may_restore,
                snapshots,
                last: last.map(json::Time::of),
                fingerprint: key.map(super::tenant::fingerprint),
            })?;
            continue;
        }
        let last = last.map(|at| human::time(human::timestamp(at))).unwrap_or_default();
        let stands = match (agent.suspended, key) {
            (true, _) => "revoked",
            (_, None) => "not connected yet",
            _ => "connected",
        };
        let may = if may_restore { "add, restore" } else { "add" };
        table.row([agent.name.clone(), snapshots.to_string(), last, may.into(), stands.into()]);
    }
    if !ctx.output.json {
        table.lines().iter().try_for_each(|line| ctx.output.line(line))?;
        ctx.output.remark(human::count(state.agents.len() as u64, "agent"))?;
    }
    Ok(())
}
