//! `tenant`.

mod invites;
mod keys;
mod policy;
pub mod removal;
pub use keys::fingerprint;
mod show;

use repo::error::{Error, Kind, Result};
use repo::format::record::{Roles, SnapshotState, State, TenantState};
use repo::open::{Access, Repository};
use repo::tenants::{self, require_pool};
use serde::Serialize;
use sync::invitation::Invitation;
use sync::serve::Door;
use sync::serve::objects::stored_bytes;
use sync::ssh::url::Address;

use super::noted::Noted;
use super::open::{open_repository, place};
use crate::args::{InvitationArgs, TenantAction, TenantArgs, TenantCreateArgs, TenantKeyAction, TenantRole};
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::human::{self, Table};
use crate::output::json;
use crate::server_file::ServerFile;

/// A tenant as JSON.
#[derive(Serialize)]
#[serde(tag = "message_type", rename = "tenant")]
struct Line {
    name: String,
    sealed: bool,
    suspended: bool,
    connected: bool,
    /// Absent of a sealed tenant: nobody can tell here.
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshots: Option<u64>,
    /// Bytes of its different chunks; absent until that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    owned_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quota: Option<u64>,
    made: json::Time,
}

/// An invitation as JSON.
#[derive(Serialize)]
#[serde(tag = "message_type", rename = "invitation")]
struct Invited {
    tenant: String,
    invitation: String,
    expires: json::Time,
}

/// Runs `tenant`.
pub fn run(ctx: &Context, args: TenantArgs) -> Result<ExitCode> {
    let reads = match &args.action {
        TenantAction::List | TenantAction::Show { .. } => true,
        TenantAction::Invite(args) => args.list,
        TenantAction::Key(args) => matches!(args.action, TenantKeyAction::List { .. }),
        _ => false,
    };
    if let TenantAction::Set(args) = &args.action {
        policy::require_something(args)?;
    }
    let access = if reads { Access::Read } else { Access::Write };
    let repo = open_repository(ctx, access)?;
    require_pool(&repo)?;
    let noted = operation(&args.action).map(|(operation, tenant)| (Noted::begin(operation), tenant.to_owned()));
    let done = act(ctx, &repo, args.action);
    if let Some((noted, tenant)) = noted {
        noted.end(ctx, &repo, Some(tenant.as_str()).filter(|name| !name.is_empty()), 0, &done);
    }
    done?;
    repo.remember();
    ctx.output.flush()?;
    Ok(ExitCode::Ok)
}

/// What changes something, as the audit calls it, and the tenant's name.
fn operation(action: &TenantAction) -> Option<(&'static str, &str)> {
    Some(match action {
        TenantAction::Create(args) => ("tenant create", &args.name),
        TenantAction::Set(args) => ("tenant set", args.name.as_deref().unwrap_or_default()),
        TenantAction::Key(args) => match &args.action {
            TenantKeyAction::List { .. } => return None,
            TenantKeyAction::Revoke { name, .. } => ("tenant key revoke", name),
            TenantKeyAction::Rotate(args) => ("tenant key rotate", &args.name),
        },
        TenantAction::Invite(args) if args.list => return None,
        TenantAction::Invite(args) if args.withdraw.is_some() => ("tenant invite withdrawn", &args.with.name),
        TenantAction::Invite(args) => ("tenant invite", &args.with.name),
        TenantAction::Suspend { name } => ("tenant suspend", name),
        TenantAction::Resume { name } => ("tenant resume", name),
        TenantAction::Remove { name, .. } => ("tenant remove", name),
        TenantAction::List | TenantAction::Show { .. } => return None,
    })
}

fn act(ctx: &Context, repo: &Repository, action: TenantAction) -> Result<()> {
    match action {
        TenantAction::Create(args) => create(ctx, repo, &args)?,
        TenantAction::List => list(ctx, repo)?,
        TenantAction::Show { name, sizes } => show::show(ctx, repo, &name, sizes)?,
        TenantAction::Set(args) => policy::set(ctx, repo, &args)?,
        TenantAction::Key(args) => match args.action {
            TenantKeyAction::List { name } => keys::list(ctx, repo, &name)?,
            TenantKeyAction::Revoke { name, key } => keys::revoke(ctx, repo, &name, &key)?,
            TenantKeyAction::Rotate(args) => invite(ctx, repo, &args, Roles::ALONE)?,
        },
        TenantAction::Invite(args) => match &args.withdraw {
            _ if args.list => invites::list(ctx, repo, &args.with.name)?,
            Some(id) => invites::withdraw(ctx, repo, &args.with.name, id)?,
            None => invite(ctx, repo, &args.with, Roles::NONE)?,
        },
        TenantAction::Suspend { name } => suspend(ctx, repo, &name, true)?,
        TenantAction::Resume { name } => suspend(ctx, repo, &name, false)?,
        TenantAction::Remove { name, release_held, accept_clock } => {
            removal::remove(ctx, repo, &name, release_held, accept_clock)?;
        }
    }
    Ok(())
}

fn create(ctx: &Context, repo: &Repository, args: &TenantCreateArgs) -> Result<()> {
    let quota = args.quota.map(|quota| quota.0);
    let set = |tenant: &mut TenantState| tenant.quota = quota;
    tenants::create(repo, &args.name, args.sealed, &set)?;
    let text = format!("made tenant {0}; `packmule tenant invite {0}` lets its site connect", args.name);
    let names = [("tenant", args.name.as_str().into()), ("sealed", args.sealed.into()), ("quota", quota.into())];
    ctx.output.did("tenant create", &names, text)
}

/// Snapshots of a tenant's that are not forgotten.
fn live_snapshots(state: &State, number: u32) -> u64 {
    let own = |s: &&SnapshotState| s.forgotten.is_none() && s.origin.as_ref().is_some_and(|o| o.tenant == number);
    state.snapshots.values().filter(own).count() as u64
}

/// What a tenant's quota is compared with: the bytes of its different chunks; of a sealed tenant those of its copy.
fn owned_bytes(repo: &Repository, number: u32, tenant: &TenantState) -> Result<Option<u64>> {
    match &repo.root {
        Some(root) if tenant.sealed => stored_bytes(&root.join("tenants"), number),
        _ => Ok(repo.index.ownership(number)?.map(|owned| owned.bytes)),
    }
}

/// Whether a tenant can deliver, and else why not.
fn standing(tenant: &TenantState) -> &'static str {
    match (tenant.suspended, tenant.repository) {
        _ if tenant.removed.is_some() => "being removed",
        (true, _) => "suspended",
        (_, None) => "not connected yet",
        _ => "connected",
    }
}

fn list(ctx: &Context, repo: &Repository) -> Result<()> {
    let state = repo.log.state();
    let mut table = Table::new(&["Name", "Kind", "Snapshots", "Owns", "Quota", "State"]);
    for (number, tenant) in &state.tenants {
        let snapshots = (!tenant.sealed).then(|| live_snapshots(&state, *number));
        let owned = owned_bytes(repo, *number, tenant)?;
        let connected = tenant.repository.is_some();
        if ctx.output.json {
            ctx.output.message(&Line {
                name: tenant.name.clone(),
                sealed: tenant.sealed,
                suspended: tenant.suspended,
                connected,
                snapshots,
                owned_bytes: owned,
                quota: tenant.quota,
                made: json::Time::of(tenant.made),
            })?;
            continue;
        }
        let sort = if tenant.sealed { "sealed" } else { "pooled" };
        // What a pooled tenant owns is not known from a prune to its next push.
        let unknown = if connected { "?" } else { "-" };
        let row = [
            tenant.name.clone(),
            sort.into(),
            snapshots.map_or_else(|| "-".to_owned(), |count| count.to_string()),
            owned.map_or_else(|| unknown.to_owned(), human::size),
            tenant.quota.map_or_else(|| "none".to_owned(), human::size),
            standing(tenant).into(),
        ];
        table.row(row);
    }
    if !ctx.output.json {
        table.lines().iter().try_for_each(|line| ctx.output.line(line))?;
        ctx.output.remark(human::count(state.tenants.len() as u64, "tenant"))?;
    }
    Ok(())
}

fn invite(ctx: &Context, repo: &Repository, args: &InvitationArgs, how: Roles) -> Result<()> {
    let state = repo.log.state();
    let (number, tenant) = tenants::find(&state, &args.name)?;
    let address = reached(ctx, args.address.as_deref(), "the site reaches this pool")?;
    let host_key = Door::host_key(repo)?.public();
    let expires = args.lifetime.after(repo.clock.now());
    let role = |role: &TenantRole| match role {
        TenantRole::Push => Roles::PUSH,
        TenantRole::Pull => Roles::PULL,
    };
    let restore = if args.restore { Roles::RESTORE } else { Roles::NONE };
    let roles = args.allow.iter().map(role).fold(how.and(restore), Roles::and);
    let token = tenants::invite(repo, number, roles, &args.label, "", expires)?;
    let (tenant, sealed) = (tenant.name.clone(), tenant.sealed);
    let line = Invitation { address, host_key, tenant: tenant.clone(), sealed, agent: false, token }.to_string();
    if ctx.output.json {
        return ctx.output.message_now(&Invited { tenant, invitation: line, expires: json::Time::of(expires) });
    }
    // The one line is all that standard output carries: it can be sent to a file or down a pipe.
    ctx.output.line(line)?;
    ctx.output.flush()?;
    let until = human::time(human::timestamp(expires));
    let command = if args.restore { "packmule init --from NAME" } else { "packmule remote add NAME" };
    ctx.output.aside(format!("good once, until {until}: give it to `{command}` at the site, unseen by others"));
    Ok(())
}

/// Where `who`: what was given, else what the server's settings say.
///
/// # Errors
/// `Usage` if neither says it, or what is given is no address; what is wrong with the settings.
pub fn reached(ctx: &Context, given: Option<&str>, who: &str) -> Result<Address> {
    let known = match given {
        Some(_) => None,
        None => ServerFile::load(None, &place(ctx)?.root)?.address,
    };
    let address = given.map(str::to_owned).or(known).ok_or_else(|| {
        Error::new(Kind::Usage, format!("nothing says where {who}"))
            .remedy("give --address HOST, or write address = \"HOST\" into server.toml in the repository")
    })?;
    Address::parse(&format!("ssh://{address}")).map_err(|_| {
        Error::new(Kind::Usage, format!("'{}' is no address", address.escape_debug()))
            .remedy(format!("give HOST or HOST:PORT, by which {who}"))
    })
}

fn suspend(ctx: &Context, repo: &Repository, name: &str, suspended: bool) -> Result<()> {
    let (number, _) = tenants::find(&repo.log.state(), name).map(|(number, tenant)| (number, tenant.suspended))?;
    let back = if suspended { None } else { removal::take_back(ctx, repo, number, name)? };
    tenants::change(repo, number, &mut |tenant| {
        tenant.suspended = suspended;
        Ok(())
    })?;
    let what =
        if suspended { "its keys are refused until `packmule tenant resume`" } else { "its keys are taken again" };
    let mut names = vec![("tenant", name.into())];
    names.extend(back.map(|back| ("snapshots_unforgotten", back.into())));
    let action = if suspended { "tenant suspend" } else { "tenant resume" };
    ctx.output.did(action, &names, format!("tenant {name}: {what}"))
}
