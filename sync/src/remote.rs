//! The remotes that a repository is pushed to, as the site sees them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use repo::backend::Backend;
use repo::backend::local::Local;
use repo::crypto::keys::Keyring;
use repo::error::{Error, Kind, Result};
use repo::format::record::{Position, PrivateKey, Record, RemoteState};
use repo::id::RepoId;
use repo::lock::COMMIT_WAIT;
use repo::open::{Identity, Repository};
use repo::tenants::valid_name;
use zeroize::Zeroizing;

use crate::directory;
use crate::fetch::Dial;
use crate::invitation::Invitation;
use crate::remote_backend::RemoteBackend;
use crate::sealed::newest;
use crate::ssh::client::{Link, Pin, Target, connect};
use crate::ssh::is_transient;
use crate::ssh::keys::{KeyPair, PublicKey};
use crate::ssh::server::Timing;
use crate::ssh::url::Address;
use crate::wire::{Connection, Message, Preface, Secret, Side, Token};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(30);
/// An invitation is shown this often at most.
const TRIES: u32 = 4;
/// The name that clients give; keys say who they are.
const USER: &str = "packmule";

/// Takes an invitation up: makes a key, has the pool register it, and notes the remote under `name`; where that is the same
/// tenant's already, with the new key in place of the old one. For a pooled tenant the repository's keys go to the pool: who
/// calls has asked a person.
///
/// # Errors
/// `Exists` if there is another remote of that name; `Refused` if the pool does not take the invitation, or shows another key
/// than it says; `Unreachable`.
pub fn add(repo: &Repository, name: &str, invitation: &Invitation, host: &str) -> Result<RemoteState> {
    valid_name(name)?;
    require_new_or_same(repo, name, invitation)?;
    let key = new_key(host)?;
    let mut tries = 1..TRIES;
    let given = loop {
        let keyring = (!invitation.sealed).then(|| Secret::new(repo.unlocked.keyring.to_bytes().to_vec()));
        match redeem(Some(repo.config.repo_id), keyring, invitation, host, &key) {
            // The same key may show the same token again: perhaps it was taken, and only the answer is lost.
            Err(e) if is_transient(&e) && tries.next().is_some() => {}
            other => break other?,
        }
    };
    // How far all is there, the next push finds out: the tenant may have been made anew meanwhile.
    let state = state_of(invitation, &key, given.tenant, given.sealed)?;
    set(repo, name, &state)?;
    Ok(state)
}

/// Refuses a name that another remote has than the one that invites again.
fn require_new_or_same(repo: &Repository, name: &str, invitation: &Invitation) -> Result<()> {
    repo.log.refresh()?;
    match repo.log.state().remotes.get(name) {
        Some(known) if known.tenant == invitation.tenant && known.host_key == invitation.host_key.text() => Ok(()),
        _ => require_new(repo, name),
    }
}

/// What a host says of itself when it joins a site.
pub(crate) struct Joined<'a> {
    pub repository: RepoId,
    pub keyring: &'a Keyring,
    pub host: &'a str,
}

/// Makes `key` a host's at the site that invited it.
///
/// # Errors
/// As [`add`].
pub(crate) fn show_token(invitation: &Invitation, joined: &Joined<'_>, key: &KeyPair) -> Result<()> {
    let mut tries = 1..TRIES;
    loop {
        let keyring = Some(Secret::new(joined.keyring.to_bytes().to_vec()));
        match redeem(Some(joined.repository), keyring, invitation, joined.host, key) {
            Err(e) if is_transient(&e) && tries.next().is_some() => {}
            other => return other.map(drop),
        }
    }
}

/// What the pool answers to a token.
struct Given {
    tenant: String,
    sealed: bool,
    repository: Option<RepoId>,
    keyring: Option<Secret>,
}

/// Shows the token.
fn redeem(
    repository: Option<RepoId>,
    keyring: Option<Secret>,
    invitation: &Invitation,
    host: &str,
    key: &KeyPair,
) -> Result<Given> {
    let link = reach(&invitation.address, &invitation.host_key, key)?;
    let mut connection = Connection::open(link.channel()?, Side::Client, &Preface::ours())?;
    connection.send(&Message::Redeem {
        token: Token::new(*invitation.token),
        label: host.to_owned(),
        host: host.to_owned(),
        repository,
        keyring,
    })?;
    connection.flush()?;
    let answer = connection.receive()?;
    drop(connection);
    link.close();
    match answer {
        Some(Message::Welcome { tenant, sealed, repository, keyring, .. }) => {
            Ok(Given { tenant, sealed, repository, keyring })
        }
        Some(Message::Fail(fail)) => Err(fail.into_error()),
        Some(other) => Err(Error::new(Kind::Io, format!("the pool answered with {}", other.name()))),
        None => Err(Error::new(Kind::Unreachable, "the pool ended the connection").remedy("try again")),
    }
}

pub(crate) fn require_new(repo: &Repository, name: &str) -> Result<()> {
    repo.log.refresh()?;
    if repo.log.state().remotes.contains_key(name) {
        return Err(Error::new(Kind::Exists, format!("there is a remote '{name}' already"))
            .remedy("choose another name, or remove it with `packmule remote remove`"));
    }
    Ok(())
}

fn set(repo: &Repository, name: &str, state: &RemoteState) -> Result<()> {
    let commit = repo.locks.commit(COMMIT_WAIT)?;
    repo.log.append(&commit, Record::RemoteSet { name: name.to_owned(), state: Box::new(state.clone()) })?;
    Ok(())
}

/// Forgets a remote. What is there stays there.
///
/// # Errors
/// `NotFound`; `Refused` while a drive is on its way there.
pub fn remove(repo: &Repository, name: &str) -> Result<()> {
    let commit = repo.locks.commit(COMMIT_WAIT)?;
    repo.log.refresh()?;
    find(repo, name)?;
    // To another remote that is called the same they are not on their way.
    let away = repo.log.state().under_way(Some((repo.config.repo_id, name)));
    if let Some(drive) = away.first() {
        let what = format!("drive {} is on its way to {name}", drive.short());
        return Err(
            Error::new(Kind::Refused, what).remedy("`packmule drive lost` gives it up; or wait until it has come")
        );
    }
    repo.log.append(&commit, Record::RemoteRemoved { name: name.to_owned() }).map(drop)
}

/// A remote by name.
///
/// # Errors
/// `NotFound`.
pub fn find(repo: &Repository, name: &str) -> Result<RemoteState> {
    repo.log.state().remotes.get(name).cloned().ok_or_else(|| {
        Error::new(Kind::NotFound, format!("there is no remote '{}'", name.escape_debug()))
            .remedy("`packmule remote list` shows those there are; `packmule remote add` makes one")
    })
}

/// Connects to a remote.
///
/// # Errors
/// `Unreachable` when nobody answers or the link fails; `Refused` when it shows another key than the pinned one, or does
/// not know ours.
pub fn open(state: &RemoteState) -> Result<Link> {
    let key = KeyPair::from_text(&state.key.0)?;
    reach(&Address::parse(&state.url)?, &PublicKey::parse(&state.host_key)?, &key)
}

/// Connects to a remote each time it is asked to.
pub fn dial(state: &RemoteState) -> Dial {
    let state = state.clone();
    // The channel goes on working when the link that it came from is dropped.
    Arc::new(move || open(&state)?.channel())
}

/// As [`dial`], the first time over a link that is there already.
///
/// # Errors
/// `Unreachable` if that link failed.
pub fn dial_first(link: &Link, state: &RemoteState) -> Result<Dial> {
    let (first, again) = (Mutex::new(Some(link.channel()?)), dial(state));
    Ok(Arc::new(move || {
        let first = first.lock().take();
        first.map_or_else(|| again(), Ok)
    }))
}

/// The objects of the sealed copy that a remote keeps of `repository`, for reading, and where it is.
///
/// # Errors
/// As [`directory::require`] for a directory; a server is connected to when something is read.
pub fn copy(state: &RemoteState, repository: RepoId, program: &str) -> Result<(Arc<dyn Backend>, PathBuf)> {
    if let Some(dir) = directory::of(state)? {
        directory::require(state, &dir, repository)?;
        return Ok((Arc::new(Local::open(&dir, true)?), dir));
    }
    let at = Path::new(&state.url).join(&state.tenant);
    Ok((Arc::new(RemoteBackend::new(dial(state), repository, program, &at)), at))
}

/// How long a message takes to a remote and back; of a directory, how long it takes to look at it.
///
/// # Errors
/// As [`open`]; as [`directory::require`]; what the directory gives.
pub fn test(state: &RemoteState, repository: RepoId) -> Result<Duration> {
    if let Some(dir) = directory::of(state)? {
        directory::require(state, &dir, repository)?;
        let copy = Local::open(&dir, true)?;
        let begun = Instant::now();
        // A mark may still be in the kernel's memory when its server is gone; the log's newest record was not read yet.
        newest(&copy)?;
        return Ok(begun.elapsed());
    }
    let link = open(state)?;
    let begun = Instant::now();
    let channel = link.channel()?;
    // To open a channel and to name the service: two questions, each answered.
    let taken = begun.elapsed() / 2;
    Connection::open(channel, Side::Client, &Preface::ours())?;
    link.close();
    Ok(taken)
}

/// What a site that is made anew gets.
pub struct Anew {
    /// Which repository it was.
    pub repository: RepoId,
    /// What it was, of a pooled tenant; of a sealed one that is in its copy.
    pub identity: Option<Identity>,
    /// The key that the pool knows from now on, and all else that the repository is to note about it.
    pub remote: RemoteState,
}

/// The key of a site on this host.
///
/// # Errors
/// What the system's random numbers give.
pub fn new_key(host: &str) -> Result<KeyPair> {
    KeyPair::generate(&format!("packmule {host}"))
}

/// Takes up an invitation that makes a lost site anew; with a key that has done so already, what it gave is given again.
///
/// # Errors
/// As [`add`].
pub fn anew(invitation: &Invitation, host: &str, key: &KeyPair) -> Result<Anew> {
    let mut tries = 1..TRIES;
    let given = loop {
        match redeem(None, None, invitation, host, key) {
            Err(e) if is_transient(&e) && tries.next().is_some() => {}
            other => break other?,
        }
    };
    let none = || {
        Error::new(Kind::Unsupported, "the pool has nothing of this tenant to give back")
            .remedy("restore the repository from a copy of it")
    };
    let repository = given.repository.ok_or_else(none)?;
    let keyring = given.keyring.map(|keyring| Keyring::from_bytes(keyring.expose())).transpose()?;
    let identity = keyring.map(|keyring| Identity { id: repository, keyring });
    if identity.is_none() && !given.sealed {
        return Err(none());
    }
    let mut remote = state_of(invitation, key, given.tenant, given.sealed)?;
    // The log begins anew: what the pool knows is of the lost one.
    remote.pushed = identity.is_some().then_some(Position::START);
    Ok(Anew { repository, identity, remote })
}

/// Whether nothing of this log is there yet, but of the log of the lost repository that this one was made anew from.
pub fn is_anew(state: &RemoteState) -> bool {
    state.pushed == Some(Position::START)
}

/// Notes a remote that was taken up already, in place of one that the repository knows by that name.
///
/// # Errors
/// `Usage` for the name; what the log gives.
pub fn note(repo: &Repository, name: &str, state: &RemoteState) -> Result<()> {
    valid_name(name)?;
    set(repo, name, state)
}

fn state_of(invitation: &Invitation, key: &KeyPair, tenant: String, sealed: bool) -> Result<RemoteState> {
    Ok(RemoteState {
        url: Address { user: None, tenant: None, ..invitation.address.clone() }.to_string(),
        host_key: invitation.host_key.text(),
        key: PrivateKey(Zeroizing::new(key.to_text()?.as_bytes().to_vec())),
        tenant,
        sealed,
        pushed: None,
        pushed_at: None,
    })
}

/// Connects to a server by its key.
pub(crate) fn reach(address: &Address, host_key: &PublicKey, key: &KeyPair) -> Result<Link> {
    let target = Target {
        address: address.clone(),
        user: USER.to_owned(),
        key: key.clone(),
        pin: Pin::Key(host_key.clone()),
        timing: Timing::default(),
    };
    connect(&target, CONNECT)
}

/// Notes how far everything is at the remote, unless that is known; a record that says nothing new would have to be pushed
/// in its turn.
///
/// # Errors
/// What the log gives.
pub fn pushed(repo: &Repository, name: &str, position: Position) -> Result<()> {
    let commit = repo.locks.commit(COMMIT_WAIT)?;
    repo.log.refresh()?;
    let at = repo.clock.now();
    match repo.log.state().remotes.get(name) {
        Some(known) if known.pushed != Some(position) => {
            repo.log.append(&commit, Record::Pushed { remote: name.to_owned(), position, at }).map(drop)
        }
        _ => Ok(()),
    }
}
