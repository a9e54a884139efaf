//! The server's side of a connection: who asks, what for, and what the answer is.

mod deliver;
mod door;
mod fetch;
pub mod objects;
mod out;
mod pace;
mod pushing;
pub(crate) mod quota;
mod receipts;
mod spool;
mod visit;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use repo::crypto::keys::Keyring;
use repo::error::{Error, Kind, Result};
use repo::format::record::{Position, Record, Roles};
use repo::id::RepoId;
use repo::lock::COMMIT_WAIT;
use repo::monitor::Void;
use repo::open::Repository;
use repo::receive::Receiver;
use repo::tenants::{self, Redeemed};

use crate::drive::custody;
use crate::ssh::server::StopFlag;
use crate::stream::Duplex;
use crate::wire::{Connection, Fail, Message, Preface, Purpose, Role, Secret, Session, Side, Token};

pub use door::{Door, Tell, bare};
use pushing::Pushing;
pub use visit::{Told, Visit};

/// The end of a push that delivered nothing new is noted at most this often.
const NOTED_EVERY: Duration = Duration::from_secs(60);

/// What the key that a client showed may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grant {
    /// It is a tenant's.
    Tenant {
        /// Its number.
        tenant: u32,
        /// What it may do.
        roles: Roles,
    },
    /// It is nobody's yet: it may take up an invitation, and nothing else.
    Guest {
        /// The key, as OpenSSH writes it.
        public: String,
    },
    /// It is one of a tenant that was removed, which it is told, and nothing else.
    Removed,
}

/// A pool that serves.
pub struct Pool {
    repo: Arc<Repository>,
    /// What the server proves to be, as OpenSSH writes it.
    host_key: String,
    /// Where packs lie between their arrival and their absorption, a directory a tenant.
    spool: PathBuf,
    /// Where sealed tenants' copies are kept, a directory a tenant. What they send waits there too: it is moved, not copied.
    copies: PathBuf,
    receiving: Mutex<Receiving>,
    /// How long work on what is new takes.
    pace: pace::Pace,
    /// What each tenant was asked for again and has gone through since: not a second time, for it may not have it any more.
    asked_again: Mutex<BTreeMap<u32, [u8; 32]>>,
    /// Tenants with a push under way.
    pushing: Mutex<BTreeMap<u32, Arc<Pushing>>>,
    /// Sealed tenants with one.
    keeping: Mutex<BTreeMap<u32, Arc<objects::Keeping>>>,
}

#[derive(Default)]
struct Receiving {
    receiver: Option<Receiver>,
    /// Counts receivers …
    generation: u64,
    /// … and those that failed: what one had absorbed and not settled then is lost.
    failed: BTreeSet<u64>,
}

impl Receiving {
    /// Gives up a receiver that has failed.
    fn fail(&mut self) {
        self.receiver = None;
        self.failed.insert(self.generation);
    }

    /// Ends the receiver, settling what it has.
    fn end(&mut self) -> Result<()> {
        let ended = self.receiver.take().map_or(Ok(()), Receiver::end);
        if ended.is_err() {
            self.failed.insert(self.generation);
        }
        ended
    }

    /// Has a receiver that can work, and lets a prune go on that waits for the one there was.
    fn begin(&mut self, repo: &Arc<Repository>) -> Result<&mut Receiver> {
        if let Some(receiver) = &self.receiver
            && receiver.is_idle()
            && receiver.is_spent()?
        {
            // One that has expired cannot even say so; a prune or the next opening finds it dead.
            let _ = self.end();
        }
        if self.receiver.is_none() {
            self.receiver = Some(Receiver::begin(Arc::clone(repo), &Void::default())?);
            self.generation += 1;
        }
        self.receiver.as_mut().ok_or_else(|| Error::bug("a receiver vanished"))
    }
}

impl Pool {
    /// Serves `repo` as the server with this public key, spooling below `spool`.
    pub fn new(repo: Arc<Repository>, host_key: String, spool: PathBuf) -> Pool {
        let copies = repo.root.as_ref().map_or_else(|| spool.clone(), |root| root.join("tenants"));
        Pool {
            repo,
            host_key,
            copies,
            spool,
            receiving: Mutex::default(),
            pace: pace::Pace::default(),
            asked_again: Mutex::default(),
            pushing: Mutex::default(),
            keeping: Mutex::default(),
        }
    }

    /// Where sealed tenants' copies are kept.
    pub fn copies(&self) -> &Path {
        &self.copies
    }

    /// The repository.
    pub fn repository(&self) -> &Arc<Repository> {
        &self.repo
    }

    /// Gives the one receiver to `work`; tells its generation. After a failure that is not the sender's pack's fault it is
    /// given up: what it had not settled must be absorbed again.
    fn receive<T>(&self, work: impl FnOnce(&mut Receiver) -> Result<T>) -> Result<(T, u64)> {
        let mut receiving = self.receiving.lock();
        let done = work(receiving.begin(&self.repo)?);
        match done {
            Ok(done) => Ok((done, receiving.generation)),
            Err(e) if e.kind() == Kind::Damaged => Err(e),
            Err(e) => {
                receiving.fail();
                Err(again_if_spent(e))
            }
        }
    }

    /// Makes durable what the receiver of this generation, or a later one, has absorbed. False if that one had failed: what
    /// it had absorbed and not settled is lost. And how long that took, without waiting for others.
    fn settle(&self, generation: u64) -> Result<(bool, Duration)> {
        let mut receiving = self.receiving.lock();
        let begun = Instant::now();
        if receiving.generation == generation
            && let Some(receiver) = receiving.receiver.as_mut()
        {
            if let Err(e) = receiver.settle() {
                receiving.fail();
                return Err(again_if_spent(e));
            }
            if receiver.is_spent()? {
                receiving.end().map_err(again_if_spent)?;
            }
        }
        // One that has ended had settled all.
        Ok((!receiving.failed.contains(&generation), begun.elapsed()))
    }

    /// Ends the session of receiving when nobody pushes any more, so that a prune gets its turn.
    fn rest(&self) -> Result<()> {
        let mut receiving = self.receiving.lock();
        if !self.pushing.lock().is_empty() {
            return Ok(());
        }
        receiving.end()
    }
}

/// Serves one connection until it ends, or, once `stop` is set, until a pack that is arriving is whole: the client is asked to
/// come back. What went wrong is told to the client, and returned.
///
/// # Errors
/// What ended the connection before its time.
pub fn serve(pool: &Pool, grant: &Grant, duplex: Duplex, stop: &StopFlag) -> Result<()> {
    serve_visit(pool, grant, duplex, stop, &Arc::default())
}

/// As [`serve`], and notes in `visit` what it is about.
///
/// # Errors
/// As [`serve`].
pub fn serve_visit(pool: &Pool, grant: &Grant, duplex: Duplex, stop: &StopFlag, visit: &Arc<Visit>) -> Result<()> {
    let mut connection = Connection::open(visit.counted(duplex), Side::Server, &Preface::ours())?;
    let done = first(pool, grant, &mut connection, stop, visit);
    match done {
        Ok(Next::Push(begun)) => deliver::serve(pool, begun, connection, stop, visit),
        Ok(Next::Attach(tenant, session)) => pushing::attach(pool, tenant, session, connection, stop, visit),
        Ok(Next::Nothing) => Ok(()),
        Err(e) => {
            // The link may be what failed.
            let _ = connection.send(&Message::Fail(Fail::of(&e))).and_then(|()| connection.flush());
            Err(e)
        }
    }
}

/// What is refused is the session of receiving, which was given up; the next one does it.
fn again_if_spent(e: Error) -> Error {
    match e.kind() {
        Kind::Refused => Error::new(Kind::Interrupted, format!("the pool's work was given up: {}", e.message()))
            .remedy("try again; what has arrived is kept"),
        _ => e,
    }
}

/// What a client is told that goes on when the server is to stop.
fn stopping() -> Error {
    Error::new(Kind::Interrupted, "the server is being stopped").remedy("try again; what has arrived is kept")
}

/// What a connection turns out to be for, when its first message was read.
enum Next<'a> {
    Push(deliver::Begun<'a>),
    /// A further connection of this tenant's push.
    Attach(u32, Session),
    /// The client went away without a word, or got what it wanted.
    Nothing,
}

/// Reads what the client wants.
fn first<'a>(
    pool: &'a Pool,
    grant: &Grant,
    connection: &mut Connection,
    stop: &StopFlag,
    visit: &Arc<Visit>,
) -> Result<Next<'a>> {
    let message = connection.receive()?;
    visit.is(match &message {
        Some(Message::Begin { purpose: Purpose::Push, .. }) => "push",
        Some(Message::Begin { purpose: Purpose::Pull, .. }) => "pull",
        Some(Message::Begin { purpose: Purpose::Admin, .. }) => "admin",
        Some(Message::Attach { .. }) => "attach",
        Some(Message::Redeem { .. }) => "redeem",
        _ => "",
    });
    match (message, grant) {
        (None, _) => Ok(Next::Nothing),
        (_, Grant::Removed) => Err(removed()),
        (Some(Message::Begin { purpose: Purpose::Push, repository, .. }), Grant::Tenant { tenant, roles }) => {
            require_push(*roles)?;
            if is_sealed(pool, *tenant)? {
                let access = objects::Access::Push;
                return objects::serve(pool, *tenant, repository, access, connection, stop, visit)
                    .map(|()| Next::Nothing);
            }
            deliver::Begun::new(pool, *tenant, repository, visit).map(Next::Push)
        }
        (Some(Message::Begin { purpose: Purpose::Pull, repository, .. }), Grant::Tenant { tenant, roles }) => {
            if !roles.allow(Roles::PULL) && !roles.allow(Roles::AGENT.and(Roles::RESTORE)) {
                let e = Error::new(Kind::Refused, "this key may not fetch what was delivered");
                return Err(e.remedy(
                    "ask for an invitation that allows it (`packmule tenant invite --allow pull`; \
                     for a host, `packmule agent invite --allow restore`)",
                ));
            }
            if is_sealed(pool, *tenant)? {
                let access = objects::Access::Pull;
                return objects::serve(pool, *tenant, repository, access, connection, stop, visit)
                    .map(|()| Next::Nothing);
            }
            pool.repo.refresh(&Void::default())?;
            let tenant = repo::receive::Sender::of(&pool.repo, *tenant)?;
            fetch::serve(pool, &tenant, connection, stop, visit).map(|()| Next::Nothing)
        }
        (Some(Message::Redeem { token, repository, keyring, .. }), grant) => {
            let (tenant, roles) = match grant {
                Grant::Removed => return Err(removed()),
                Grant::Guest { public } => redeem(pool, public, &token, repository, keyring.as_ref())?,
                // It did not hear that it was welcome: it is told again, and nothing changes.
                Grant::Tenant { tenant, roles } => (*tenant, *roles),
            };
            connection.send(&welcome(pool, tenant, roles)?)?;
            connection.flush()?;
            Ok(Next::Nothing)
        }
        (Some(Message::Attach { session }), Grant::Tenant { tenant, roles }) => {
            require_push(*roles)?;
            Ok(Next::Attach(*tenant, session))
        }
        (Some(Message::Begin { .. } | Message::Attach { .. }), Grant::Guest { .. }) => {
            let command = if pool.repo.log.state().pool { "remote add" } else { "agent join" };
            Err(Error::new(Kind::Refused, "this key is not known here, or was revoked")
                .remedy(format!("ask for an invitation, and take it up with `packmule {command}`")))
        }
        (Some(Message::Begin { .. }), _) => Err(Error::new(Kind::Unsupported, "this server does not serve that yet")),
        (Some(other), _) => Err(Error::new(Kind::Io, format!("the client began with {}", other.name()))),
    }
}

/// The next question of a client that only asks. One that goes away has been answered all that it asked, however its link ended.
fn asked(connection: &mut Connection) -> Result<Option<Message>> {
    match connection.receive() {
        Err(e) if e.kind() == Kind::Unreachable => Ok(None),
        other => other,
    }
}

/// What is told to a tenant that leaves.
fn removed() -> Error {
    Error::new(Kind::Refused, "this tenant was removed from the pool: nothing more is taken or given")
        .remedy("ask whoever runs the pool; `packmule remote remove` forgets it")
}

/// Refuses who may not deliver.
fn require_push(roles: Roles) -> Result<()> {
    if roles.allow(Roles::PUSH) || roles.allow(Roles::AGENT) {
        return Ok(());
    }
    Err(Error::new(Kind::Refused, "this key may not deliver snapshots")
        .remedy("ask for an invitation that allows it (`packmule tenant invite --allow push`)"))
}

/// Refuses who was removed or suspended after they had come in.
fn require_live(pool: &Pool, party: u32) -> Result<()> {
    pool.repo.log.refresh()?;
    let state = pool.repo.log.state();
    if tenants::party(&state, party).is_some_and(tenants::is_live) {
        Ok(())
    } else {
        Err(tenants::barred(&state, party))
    }
}

/// Notes that a push has delivered everything up to `position`, and when. Who pushes without end writes no record each time.
/// With it what the party's drives were to bring is there.
fn note_done(pool: &Pool, party: u32, position: Position) -> Result<()> {
    let repo = &pool.repo;
    let commit = repo.locks.commit(COMMIT_WAIT)?;
    repo.log.refresh()?;
    let (state, now) = (repo.log.state(), repo.clock.now());
    let known = tenants::party(&state, party).and_then(|party| party.watermark);
    let lately = state.pushes.get(&party).is_some_and(|at| *at <= now && at.plus(NOTED_EVERY) > now);
    if known != Some(position) || !lately {
        repo.log.append(&commit, Record::Watermark { tenant: party, position })?;
    }
    drop(commit);
    custody::delivered(repo, party)
}

/// Whether what the tenant delivers is kept as it is.
fn is_sealed(pool: &Pool, tenant: u32) -> Result<bool> {
    pool.repo.log.refresh()?;
    Ok(pool.repo.log.state().tenants.get(&tenant).is_some_and(|known| known.sealed))
}

/// Makes the key one of the tenant's who was invited.
fn redeem(
    pool: &Pool,
    public: &str,
    token: &Token,
    repository: Option<RepoId>,
    keyring: Option<&Secret>,
) -> Result<(u32, Roles)> {
    let keyring = keyring.map(|bytes| Keyring::from_bytes(bytes.expose())).transpose()?;
    let with = Redeemed { public, repository, keyring: keyring.as_ref() };
    let (tenant, credential) = tenants::redeem(&pool.repo, token.expose(), &with)?;
    Ok((tenant, credential.roles))
}

fn welcome(pool: &Pool, tenant: u32, roles: Roles) -> Result<Message> {
    let state = pool.repo.log.state();
    let known = tenants::party(&state, tenant).ok_or_else(|| tenants::barred(&state, tenant))?;
    // The most that the key may do.
    let role = match roles {
        // May it restore or not: it is given back no keys but in packs that it can open.
        _ if roles.allow(Roles::AGENT) => Role::Agent,
        _ if roles.allow(Roles::RESTORE) => Role::Restore,
        _ if roles.allow(Roles::PUSH) => Role::Push,
        _ if roles.allow(Roles::PULL) => Role::Pull,
        _ => Role::Operator,
    };
    // A site that is made anew gets back what the first one gave.
    let (repository, keyring) = match role {
        Role::Restore if !known.sealed => {
            let keyring = tenants::keyring_of(&pool.repo.keys, tenant, known)?;
            (known.repository, Some(Secret::new(keyring.to_bytes().to_vec())))
        }
        // Its keys are in the copy, wrapped.
        Role::Restore => (known.repository, None),
        _ => (None, None),
    };
    let (name, host_key) = (known.name.clone(), pool.host_key.clone());
    Ok(Message::Welcome { tenant: name, role, sealed: known.sealed, host_key, repository, keyring })
}
