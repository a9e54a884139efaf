//! `tenant invite --list` and `--withdraw`.

use repo::error::Result;
use repo::format::record::{Invite, Roles};
use repo::open::Repository;
use repo::tenants;
use serde::Serialize;

use crate::context::Context;
use crate::output::human::{self, Table};
use crate::output::json;

/// An open invitation as JSON.
#[derive(Serialize)]
pub struct Open<'a> {
    id: String,
    label: &'a str,
    roles: Vec<&'static str>,
    expires: json::Time,
}

/// The same, in a line of its own.
#[derive(Serialize)]
#[serde(tag = "message_type", rename = "open_invitation")]
struct Line<'a> {
    tenant: &'a str,
    #[serde(flatten)]
    open: Open<'a>,
}

impl Open<'_> {
    /// Of an invitation.
    pub fn of(invite: &Invite) -> Open<'_> {
        let roles = Roles::NAMES.iter().filter(|(role, _)| invite.roles.allow(*role)).map(|(_, name)| *name).collect();
        let (id, expires) = (tenants::invite_name(invite), json::Time::of(invite.expires));
        Open { id, label: &invite.label, roles, expires }
    }
}

/// An invitation in words: `3f2a91c0, site (push,pull), until …`.
pub fn words(invite: &Invite) -> String {
    let until = human::time(human::timestamp(invite.expires));
    format!("{}, {} ({}), until {until}", tenants::invite_name(invite), invite.label, invite.roles)
}

/// Lists a tenant's open invitations.
pub fn list(ctx: &Context, repo: &Repository, name: &str) -> Result<()> {
    let (state, now) = (repo.log.state(), repo.clock.now());
    let (_, tenant) = tenants::find(&state, name)?;
    let mut table = Table::new(&["ID", "Roles", "Label", "Until"]);
    let mut count = 0;
    for invite in tenants::open_invites(tenant, now) {
        count += 1;
        if ctx.output.json {
            ctx.output.message(&Line { tenant: name, open: Open::of(invite) })?;
            continue;
        }
        let until = human::time(human::timestamp(invite.expires));
        table.row([tenants::invite_name(invite), invite.roles.to_string(), invite.label.clone(), until]);
    }
    if !ctx.output.json {
        table.lines().iter().try_for_each(|line| ctx.output.line(line))?;
        ctx.output.remark(human::count(count, "open invitation"))?;
    }
    Ok(())
}

/// Takes one back.
pub fn withdraw(ctx: &Context, repo: &Repository, name: &str, id: &str) -> Result<()> {
    let (number, _) = tenants::find(&repo.log.state(), name).map(|(number, tenant)| (number, tenant.made))?;
    let invite = tenants::withdraw(repo, number, id)?;
    let id = tenants::invite_name(&invite);
    let text = format!("tenant {name}: the invitation {id} ({}) is void from now on", invite.label);
    ctx.output.did("tenant invite withdrawn", &[("tenant", name.into()), ("invitation", id.into())], text)
}
