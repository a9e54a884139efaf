//! The agents of a site: hosts that back up to it over a connection. Each has an entry of a tenant's shape, named after
//! the host; what it delivers becomes a snapshot of the site's own, of that host and no other.

use crate::error::{Error, Kind, Result};
use crate::format::record::{Record, State, TenantState};
use crate::lock::COMMIT_WAIT;
use crate::open::Repository;
use crate::tenants::{self, free_number};

/// The longest name of a host that has an agent.
pub const MAX_HOST: usize = 64;

/// Whether `host` can be an agent's. It stands in invitations, names in a mount, and lines of tables.
///
/// # Errors
/// `Usage` if not.
pub fn valid_host(host: &str) -> Result<()> {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
    let first = host.bytes().next().is_some_and(|c| c.is_ascii_alphanumeric());
    if first && host.len() <= MAX_HOST && host.bytes().all(plain) {
        return Ok(());
    }
    Err(Error::new(Kind::Usage, format!("'{}' cannot be the name of a host with an agent", host.escape_debug()))
        .remedy("use letters, digits, dots, dashes and _, at most 64, beginning with a letter or digit"))
}

/// An agent by its host, with its number.
///
/// # Errors
/// `NotFound`.
pub fn find<'a>(state: &'a State, host: &str) -> Result<(u32, &'a TenantState)> {
    let found = state.agents.iter().find(|(_, agent)| agent.name == host);
    found.map(|(number, agent)| (*number, agent)).ok_or_else(|| {
        Error::new(Kind::NotFound, format!("there is no agent of a host '{}'", host.escape_debug()))
            .remedy("`packmule agent list` shows those there are")
    })
}

/// The host whose snapshots the party with this number delivers; none for a tenant.
pub fn host_of(state: &State, number: u32) -> Option<&str> {
    state.agents.get(&number).map(|agent| agent.name.as_str())
}

/// The number of the host's agent, which is made if there is none. One that was revoked may be invited again.
///
/// # Errors
/// `Usage` for the name; `Refused` at a pool, whose snapshots are its tenants'.
pub fn enrol(repo: &Repository, host: &str) -> Result<u32> {
    valid_host(host)?;
    let commit = repo.locks.commit(COMMIT_WAIT)?;
    repo.log.refresh()?;
    let state = repo.log.state();
    if state.pool {
        return Err(Error::new(Kind::Refused, "a pool has tenants, and no agents of its own")
            .remedy("let the host back up to a site's repository, and push that here"));
    }
    if let Ok((number, known)) = find(&state, host) {
        if known.suspended {
            let agent = TenantState { suspended: false, ..known.clone() };
            repo.log.append(&commit, Record::AgentSet { agent: number, state: Box::new(agent) })?;
        }
        return Ok(number);
    }
    let number = free_number(&state)?;
    let agent = TenantState::new(host, false, repo.clock.now());
    repo.log.append(&commit, Record::AgentSet { agent: number, state: Box::new(agent) })?;
    Ok(number)
}

/// Takes nothing more from the host: its keys are refused from now on, also in connections that are open, and its
/// invitations are void. Its snapshots stay.
///
/// # Errors
/// `NotFound`.
pub fn revoke(repo: &Repository, host: &str) -> Result<()> {
    repo.log.refresh()?;
    let (number, _) = find(&repo.log.state(), host).map(|(number, agent)| (number, agent.suspended))?;
    let now = repo.clock.now();
    tenants::change(repo, number, &mut |agent| {
        agent.suspended = true;
        agent.invites.clear();
        agent.keys.iter_mut().for_each(|key| key.revoked = key.revoked.or(Some(now)));
        Ok(())
    })
}
