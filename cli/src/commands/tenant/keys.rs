//! `tenant key`.

use repo::error::{Error, Kind, Result};
use repo::format::record::{Credential, Roles};
use repo::open::Repository;
use repo::tenants;
use serde::Serialize;
use sync::ssh::keys::PublicKey;

use crate::context::Context;
use crate::output::human::{self, Table};
use crate::output::json;

/// A key as JSON.
#[derive(Serialize)]
#[serde(tag = "message_type", rename = "tenant_key")]
struct Line<'a> {
    tenant: &'a str,
    fingerprint: String,
    roles: Vec<&'static str>,
    label: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    host: &'a str,
    added: json::Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked: Option<json::Time>,
}

/// What `ssh-keygen -l` shows of the key; the key itself should it be none, which only a mistake of ours could have stored.
pub fn fingerprint(key: &Credential) -> String {
    PublicKey::parse(&key.public).map_or_else(|_| key.public.clone(), |public| public.fingerprint())
}

/// Lists a tenant's keys.
pub fn list(ctx: &Context, repo: &Repository, name: &str) -> Result<()> {
    let state = repo.log.state();
    let (_, tenant) = tenants::find(&state, name)?;
    let mut table = Table::new(&["Fingerprint", "Roles", "Label", "Added", "Revoked"]);
    for key in &tenant.keys {
        if ctx.output.json {
            ctx.output.message(&Line {
                tenant: name,
                fingerprint: fingerprint(key),
                roles: Roles::NAMES.iter().filter(|(role, _)| key.roles.allow(*role)).map(|(_, name)| *name).collect(),
                label: &key.label,
                host: &key.host,
                added: json::Time::of(key.added),
                revoked: key.revoked.map(json::Time::of),
            })?;
            continue;
        }
        let time = |at| human::time(human::timestamp(at));
        let revoked = key.revoked.map(time).unwrap_or_default();
        table.row([fingerprint(key), key.roles.to_string(), key.label.clone(), time(key.added), revoked]);
    }
    if !ctx.output.json {
        table.lines().iter().try_for_each(|line| ctx.output.line(line))?;
        ctx.output.remark(human::count(tenant.keys.len() as u64, "key"))?;
    }
    Ok(())
}

/// Revokes the one key whose fingerprint begins so, with or without `SHA256:`.
pub fn revoke(ctx: &Context, repo: &Repository, name: &str, begins: &str) -> Result<()> {
    let (number, _) = tenants::find(&repo.log.state(), name).map(|(number, tenant)| (number, tenant.made))?;
    let now = repo.clock.now();
    let begins = begins.strip_prefix("SHA256:").unwrap_or(begins);
    let meant = |key: &Credential| fingerprint(key).strip_prefix("SHA256:").is_some_and(|f| f.starts_with(begins));
    let shown = begins.escape_debug();
    let revoked = tenants::change(repo, number, &mut |tenant| {
        let mut found = tenant.keys.iter_mut().filter(|key| key.revoked.is_none() && meant(key));
        match (found.next(), found.next()) {
            (Some(key), None) => {
                key.revoked = Some(now);
                Ok(fingerprint(key))
            }
            (None, _) => {
                Err(Error::new(Kind::NotFound, format!("tenant {name} has no key in use with the fingerprint {shown}"))
                    .remedy(format!("`packmule tenant key list {name}` shows those there are")))
            }
            (Some(_), Some(_)) => {
                Err(Error::new(Kind::Ambiguous, format!("more than one fingerprint begins with '{shown}'"))
                    .remedy("give more of it"))
            }
        }
    })?;
    let names = [("tenant", name.into()), ("fingerprint", revoked.clone().into())];
    ctx.output.did("tenant key revoke", &names, format!("tenant {name}: the key {revoked} is refused from now on"))
}
