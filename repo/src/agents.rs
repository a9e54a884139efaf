//! The agents of a site: hosts that back up to it over a connection. Each has an entry of a tenant's shape, named after
//! the host; what it delivers becomes a snapshot of the site's own, of that host and no other.

use zeroize::Zeroizing;

use crate::crypto::context;
use crate::crypto::keys::Object;
use crate::error::{Error, Kind, Result};
use crate::format::record::{Profiles, Record, SiteParties, State, TenantState};
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
        tenants::revoke_all(agent, now);
        Ok(())
    })
}

/// What is to come back with a lost site's snapshots, sealed with its own keys, and a mark that tells one content from another;
/// none if there is nothing worth it.
pub fn belongings(repo: &Repository) -> Option<([u8; 32], Vec<u8>)> {
    let state = repo.log.state();
    if state.agents.is_empty() && state.profiles.is_empty() {
        return None;
    }
    // How far they are changes with every backup, and the hosts find it out by asking.
    let lasting = |agent: &TenantState| TenantState { watermark: None, ..agent.clone() };
    let agents = state.agents.iter().map(|(number, agent)| (*number, lasting(agent))).collect();
    let (host_key, profiles) = (state.host_key.clone(), state.profiles.clone());
    let plain = SiteParties { host_key, agents, profiles }.encode();
    let mark = blake3::derive_key(context::BELONGINGS, &plain);
    Some((mark, repo.keys.seal(Object::TenantKeyring, &sealed_as(&mark), &plain)))
}

fn sealed_as(mark: &[u8; 32]) -> Vec<u8> {
    [b"belongings", &mark[..]].concat()
}

/// Gives a site that was made anew its agents and its server's key back: hosts then go on backing up to it; and its
/// profiles. What it has already stays. Returns how many agents came back.
///
/// # Errors
/// `Damaged` if these are not this site's; what the log gives.
pub fn take_back(repo: &Repository, mark: &[u8; 32], sealed: &[u8]) -> Result<u64> {
    let plain = Zeroizing::new(repo.keys.open(Object::TenantKeyring, &sealed_as(mark), sealed)?);
    let SiteParties { host_key, agents, profiles } = SiteParties::decode(&plain)?;
    let commit = repo.locks.commit(COMMIT_WAIT)?;
    repo.log.refresh()?;
    let state = repo.log.state();
    if let (Some(key), None) = (host_key, &state.host_key) {
        repo.log.append(&commit, Record::HostKey { key })?;
    }
    let mut back = 0;
    for (agent, known) in agents {
        if find(&state, &known.name).is_err() && tenants::party(&state, agent).is_none() {
            repo.log.append(&commit, Record::AgentSet { agent, state: Box::new(known) })?;
            back += 1;
        }
    }
    if state.profiles.is_empty() && !profiles.is_empty() {
        repo.log.append(&commit, Record::ProfilesKept { profiles })?;
    }
    Ok(back)
}

/// Notes the profiles by which the repository is used, unless they are noted already.
///
/// # Errors
/// What the log gives.
pub fn keep_profiles(repo: &Repository, profiles: Profiles) -> Result<()> {
    repo.log.refresh()?;
    if repo.log.state().profiles == profiles {
        return Ok(());
    }
    let commit = repo.locks.commit(COMMIT_WAIT)?;
    repo.log.append(&commit, Record::ProfilesKept { profiles }).map(drop)
}
