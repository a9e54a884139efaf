//! Who delivers to this repository, the tenants of a pool and a site's agents: found, changed, and their keys kept.

use std::collections::BTreeSet;

use zeroize::Zeroizing;

use crate::clock::Time;
use crate::crypto::context;
use crate::crypto::keys::{Keyring, Keys, Object};
use crate::error::{Error, Kind, Result};
use crate::format::record::{Credential, Invite, MAX_CREDENTIALS, Origin, Record, Roles, State, TenantState};
use crate::id::{RepoId, SnapshotId, hex, random_bytes};
use crate::lock::COMMIT_WAIT;
use crate::open::Repository;

/// The longest name of a tenant or remote.
pub const MAX_NAME: usize = 63;

/// Whether `name` can be a tenant's or a remote's: letters, digits, dashes and dots, beginning with a letter or digit. It
/// becomes a directory's name.
///
/// # Errors
/// `Usage` if not.
pub fn valid_name(name: &str) -> Result<()> {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let first = name.bytes().next().is_some_and(plain);
    if first && name.len() <= MAX_NAME && name.bytes().all(|c| plain(c) || c == b'-' || c == b'.') {
        return Ok(());
    }
    Err(Error::new(Kind::Usage, format!("'{}' cannot be a name here", name.escape_debug()))
        .remedy("use lower-case letters, digits, dashes and dots, at most 63, beginning with a letter or digit"))
}

/// What a pool calls a tenant's snapshot.
pub fn pooled_id(origin: &Origin) -> SnapshotId {
    let mut hasher = blake3::Hasher::new_derive_key(context::TENANT_SNAPSHOT);
    hasher.update(&origin.tenant.to_le_bytes()).update(origin.id.as_bytes());
    SnapshotId(*hasher.finalize().as_bytes())
}

/// Refuses what is no pool.
///
/// # Errors
/// `Refused`.
pub fn require_pool(repo: &Repository) -> Result<()> {
    if repo.log.state().pool {
        return Ok(());
    }
    let e = Error::new(Kind::Refused, "this repository is no pool: it has no tenants");
    Err(e.remedy("make a pool with `packmule init --pool`"))
}

/// Makes a new, empty repository a pool.
///
/// # Errors
/// `Refused` if it has snapshots of its own.
pub fn make_pool(repo: &Repository) -> Result<()> {
    let commit = repo.locks.commit(COMMIT_WAIT)?;
    repo.log.refresh()?;
    let state = repo.log.state();
    if !state.snapshots.is_empty() {
        return Err(Error::new(Kind::Refused, "a repository with snapshots of its own cannot become a pool"));
    }
    if !state.pool {
        repo.log.append(&commit, Record::PoolMade)?;
    }
    Ok(())
}

/// A tenant by name, with its number.
///
/// # Errors
/// `NotFound`, naming those there are if they are few.
pub fn find<'a>(state: &'a State, name: &str) -> Result<(u32, &'a TenantState)> {
    state.tenants.iter().find(|(_, tenant)| tenant.name == name).map(|(number, tenant)| (*number, tenant)).ok_or_else(
        || {
            Error::new(Kind::NotFound, format!("there is no tenant '{}'", name.escape_debug()))
                .remedy("`packmule tenant list` shows those there are")
        },
    )
}

/// The numbers of the tenants that a user names, each once.
///
/// # Errors
/// `Refused` for any name at a repository that is no pool; as [`find`].
pub fn numbers(state: &State, names: &[String]) -> Result<Vec<u32>> {
    if !names.is_empty() && !state.pool {
        let e = Error::new(Kind::Refused, "this repository is no pool: it has no tenants to choose from");
        return Err(e.remedy("leave --tenant out"));
    }
    let found: Result<BTreeSet<u32>> = names.iter().map(|name| Ok(find(state, name)?.0)).collect();
    Ok(found?.into_iter().collect())
}

/// As [`numbers`], of tenants whose snapshots can be looked into here.
///
/// # Errors
/// As [`numbers`]; `Refused` for a sealed tenant.
pub fn readable(state: &State, names: &[String]) -> Result<Vec<u32>> {
    let found = numbers(state, names)?;
    match found.iter().find_map(|number| state.tenants.get(number).filter(|tenant| tenant.sealed)) {
        None => Ok(found),
        Some(tenant) => {
            let what = format!("tenant {} is sealed: its snapshots are not readable here, nor forgotten", tenant.name);
            Err(Error::new(Kind::Refused, what).remedy(
                "its own site sees them (`packmule mount --remote`) and thins them out (`packmule sync push --delete`)",
            ))
        }
    }
}

/// All who deliver here, by number: tenants and agents.
pub fn parties(state: &State) -> impl Iterator<Item = (u32, &TenantState)> {
    state.tenants.iter().chain(&state.agents).map(|(number, party)| (*number, party))
}

/// A tenant or an agent by number.
pub fn party(state: &State, number: u32) -> Option<&TenantState> {
    state.tenants.get(&number).or_else(|| state.agents.get(&number))
}

/// A number that no party has, and none had before in this log.
pub(crate) fn free_number(state: &State) -> Result<u32> {
    // The record's own number has never been anyone's, but for those that a lost repository's log gave.
    let most = parties(state).map(|(number, _)| u64::from(number) + 1).max().unwrap_or(0);
    u32::try_from(most.max(state.position.seq + 1)).map_err(|_| Error::bug("the log has too many records"))
}

/// Makes a tenant; returns its number, which is never used again.
///
/// # Errors
/// `Exists`, `Usage` for the name, `Refused` if this is no pool.
pub fn create(repo: &Repository, name: &str, sealed: bool, change: &dyn Fn(&mut TenantState)) -> Result<u32> {
    valid_name(name)?;
    require_pool(repo)?;
    let commit = repo.locks.commit(COMMIT_WAIT)?;
    repo.log.refresh()?;
    let state = repo.log.state();
    if find(&state, name).is_ok() {
        return Err(Error::new(Kind::Exists, format!("there is a tenant '{name}' already")));
    }
    let number = free_number(&state)?;
    let mut tenant = TenantState::new(name, sealed, repo.clock.now());
    change(&mut tenant);
    repo.log.append(&commit, Record::TenantSet { tenant: number, state: Box::new(tenant) })?;
    Ok(number)
}

/// Changes a tenant or an agent under the commit lock: `change` sees it as it is then.
///
/// # Errors
/// `NotFound`, and what `change` gives.
pub fn change<T>(repo: &Repository, number: u32, change: &mut dyn FnMut(&mut TenantState) -> Result<T>) -> Result<T> {
    let commit = repo.locks.commit(COMMIT_WAIT)?;
    repo.log.refresh()?;
    let state = repo.log.state();
    let none = || Error::new(Kind::NotFound, "this tenant was removed");
    let mut tenant = party(&state, number).ok_or_else(none)?.clone();
    let before = tenant.clone();
    let result = change(&mut tenant)?;
    if tenant != before {
        let (agent, state) = (state.agents.contains_key(&number), Box::new(tenant));
        let set =
            if agent { Record::AgentSet { agent: number, state } } else { Record::TenantSet { tenant: number, state } };
        repo.log.append(&commit, set)?;
    }
    Ok(result)
}

/// Opens an invitation and returns its token, which is told once.
///
/// # Errors
/// As [`change`]; `Refused` with too many open ones.
pub fn invite(
    repo: &Repository,
    number: u32,
    roles: Roles,
    label: &str,
    host: &str,
    expires: Time,
) -> Result<Zeroizing<[u8; 32]>> {
    let token = Zeroizing::new(random_bytes::<32>());
    let now = repo.clock.now();
    change(repo, number, &mut |tenant| {
        tenant.invites.retain(|invite| invite.expires > now);
        if tenant.invites.len() >= MAX_CREDENTIALS {
            return Err(Error::new(Kind::Refused, "this tenant has too many open invitations"));
        }
        let (label, host) = (label.to_owned(), host.to_owned());
        tenant.invites.push(Invite { hash: token_hash(&token), roles, label, host, expires });
        Ok(())
    })?;
    Ok(token)
}

/// What an open invitation is called by: it tells nothing of the token.
pub fn invite_name(invite: &Invite) -> String {
    hex(&invite.hash[..4])
}

/// A tenant's invitations that can be taken up now.
pub fn open_invites(party: &TenantState, now: Time) -> impl Iterator<Item = &Invite> {
    party.invites.iter().filter(move |invite| is_live(party) && invite.expires > now)
}

/// Takes an open invitation back: its token is void from now on.
///
/// # Errors
/// `NotFound` if none has a name that begins so, `Ambiguous` if several do; as [`change`].
pub fn withdraw(repo: &Repository, number: u32, name: &str) -> Result<Invite> {
    let (now, name) = (repo.clock.now(), name.to_ascii_lowercase());
    change(repo, number, &mut |tenant| {
        let meant =
            |invite: &Invite| invite.expires > now && !name.is_empty() && invite_name(invite).starts_with(&name);
        let mut found = tenant.invites.iter().filter(|invite| meant(invite));
        match (found.next().cloned(), found.next()) {
            (Some(one), None) => {
                tenant.invites.retain(|invite| invite.hash != one.hash);
                Ok(one)
            }
            (None, _) => {
                let what = format!("tenant {} has no open invitation '{}'", tenant.name, name.escape_debug());
                Err(Error::new(Kind::NotFound, what)
                    .remedy(format!("`packmule tenant invite {} --list` shows those there are", tenant.name)))
            }
            (Some(_), Some(_)) => {
                Err(Error::new(Kind::Ambiguous, format!("more than one open invitation begins with '{name}'"))
                    .remedy("give more of it"))
            }
        }
    })
}

/// What is kept of a token.
pub fn token_hash(token: &[u8; 32]) -> [u8; 32] {
    blake3::derive_key(context::INVITATION, token)
}

/// Whether a party's keys and invitations are of any use now.
pub fn is_live(party: &TenantState) -> bool {
    party.removed.is_none() && !party.suspended
}

/// Why a party that is not live, or is no more, gets nothing.
pub fn barred(state: &State, number: u32) -> Error {
    if state.agents.contains_key(&number) {
        let e = Error::new(Kind::Refused, "this host's agent was revoked");
        return e.remedy("ask the site's operator for another invitation, and take it up with `packmule agent join`");
    }
    Error::new(Kind::Refused, "this tenant was removed or suspended").remedy("ask the pool's operator")
}

/// The tenant whose open invitation this token is.
pub fn invited(state: &State, token: &[u8; 32], now: Time) -> Option<(u32, Invite)> {
    let hash = token_hash(token);
    parties(state).filter(|(_, party)| is_live(party)).find_map(|(number, tenant)| {
        let found = tenant.invites.iter().find(|invite| invite.hash == hash && invite.expires > now)?;
        Some((number, found.clone()))
    })
}

/// What comes with a token that is taken up.
pub struct Redeemed<'a> {
    /// The SSH key, as OpenSSH writes it.
    pub public: &'a str,
    /// The tenant's repository; none from a site that is to become it anew.
    pub repository: Option<RepoId>,
    /// Its keyring; none for a sealed tenant and for agents.
    pub keyring: Option<&'a Keyring>,
}

/// Takes an invitation up: the token is void then, and the key is the tenant's.
///
/// # Errors
/// `Refused` if the token is none, was taken up, is too old, or is another repository's; all but the last alike.
pub fn redeem(repo: &Repository, token: &[u8; 32], with: &Redeemed<'_>) -> Result<(u32, Credential)> {
    let void = || {
        Error::new(Kind::Refused, "this invitation is void: it was taken up, is too old, or never was")
            .remedy("ask for another one")
    };
    let now = repo.clock.now();
    repo.log.refresh()?;
    let (number, invite) = invited(&repo.log.state(), token, now).ok_or_else(void)?;
    let keyring = with.keyring.map(|keyring| seal_keyring(&repo.keys, number, keyring));
    let credential = Credential {
        public: with.public.to_owned(),
        roles: invite.roles.without(Roles::ALONE),
        label: invite.label,
        host: invite.host,
        added: now,
        revoked: None,
    };
    change(repo, number, &mut |tenant| {
        let open = tenant.invites.len();
        tenant.invites.retain(|other| other.hash != invite.hash && other.expires > now);
        if open == tenant.invites.len() {
            return Err(void());
        }
        match (with.repository, tenant.repository) {
            // A host that is set up anew: what it knew and the keys it had are void.
            (Some(new), _) if invite.roles.allow(Roles::AGENT) && with.keyring.is_some() => {
                tenant.repository = Some(new);
                tenant.watermark = None;
                revoke_all(tenant, now);
            }
            _ if invite.roles.allow(Roles::AGENT) => {
                return Err(Error::new(Kind::Refused, "this invitation is for a host that is to be backed up")
                    .remedy("take it up there with `packmule agent join`"));
            }
            // A site that is made anew takes the place of the lost one, whoever has that by now.
            (None, Some(_)) if invite.roles.allow(Roles::RESTORE) => revoke_all(tenant, now),
            (None, _) => {
                return Err(Error::new(Kind::Refused, "this invitation does not make a site anew")
                    .remedy("ask for one that does: `packmule tenant invite --restore`"));
            }
            (Some(new), Some(known)) if new != known => {
                return Err(Error::new(Kind::Refused, "this tenant has another repository already")
                    .remedy("make a tenant for each repository, or remove this one"));
            }
            (Some(new), _) => tenant.repository = Some(new),
        }
        if invite.roles.allow(Roles::ALONE) {
            revoke_all(tenant, now);
        }
        // Whoever holds another one could put an end to this key in its turn.
        if invite.roles.allow(Roles::ALONE) || invite.roles.allow(Roles::RESTORE) {
            tenant.invites.clear();
        }
        if !tenant.sealed
            && let Some(keyring) = &keyring
        {
            tenant.keyring.clone_from(keyring);
        }
        tenant.keys.retain(|key| key.public != credential.public);
        tenant.keys.push(credential.clone());
        Ok(())
    })?;
    if credential.roles.allow(Roles::AGENT) {
        // What it owned is known by its former keys.
        repo.index.disown(number)?;
    }
    Ok((number, credential))
}

/// Refuses all the party's keys from now on.
pub(crate) fn revoke_all(party: &mut TenantState, now: Time) {
    party.keys.iter_mut().for_each(|key| key.revoked = key.revoked.or(Some(now)));
}

/// Takes note that a pooled tenant has rotated its key.
///
/// # Errors
/// `Refused` unless the keyring is the one that is known, with more keys behind it.
pub fn renew_keyring(repo: &Repository, number: u32, keyring: &Keyring) -> Result<()> {
    change(repo, number, &mut |tenant| {
        let known = keyring_of(&repo.keys, number, tenant)?;
        if !keyring.extends(&known) {
            return Err(Error::new(Kind::Refused, "these are not the keys of this tenant's repository"));
        }
        if keyring.epochs() > known.epochs() {
            tenant.keyring = seal_keyring(&repo.keys, number, keyring);
        }
        Ok(())
    })
}

/// The tenant and credential of a public key that may connect.
pub fn credential<'a>(state: &'a State, public: &str) -> Option<(u32, &'a TenantState, &'a Credential)> {
    parties(state).filter(|(_, party)| is_live(party)).find_map(|(number, tenant)| {
        let key = tenant.keys.iter().find(|key| key.public == public && key.revoked.is_none())?;
        Some((number, tenant, key))
    })
}

/// A tenant's keyring as the log keeps it.
pub fn seal_keyring(keys: &Keys, tenant: u32, keyring: &Keyring) -> Vec<u8> {
    keys.seal(Object::TenantKeyring, &tenant.to_le_bytes(), &keyring.to_bytes())
}

/// The keys that a pooled tenant's packs open with.
///
/// # Errors
/// `Refused` if it has not connected yet or is sealed; `Damaged`.
pub fn keys_of(keys: &Keys, number: u32, tenant: &TenantState) -> Result<Keys> {
    let repository = tenant.repository.ok_or_else(|| no_keys(tenant))?;
    Ok(Keys::derive(&keyring_of(keys, number, tenant)?, repository))
}

/// A pooled tenant's keyring, for the tenant.
///
/// # Errors
/// As [`keys_of`].
pub fn keyring_of(keys: &Keys, number: u32, tenant: &TenantState) -> Result<Keyring> {
    if tenant.keyring.is_empty() {
        return Err(no_keys(tenant));
    }
    let plain = Zeroizing::new(keys.open(Object::TenantKeyring, &number.to_le_bytes(), &tenant.keyring)?);
    Keyring::from_bytes(&plain)
}

fn no_keys(tenant: &TenantState) -> Error {
    Error::new(Kind::Refused, format!("there are no keys of tenant '{}' here", tenant.name))
}
