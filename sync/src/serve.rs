//! The server's side of a connection: who asks, what for, and what the answer is.

mod deliver;
mod spool;
mod work;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use repo::error::{Error, Kind, Result};
use repo::format::record::Roles;
use repo::monitor::Void;
use repo::open::Repository;
use repo::receive::Receiver;

use crate::stream::Duplex;
use crate::wire::{Connection, Fail, Message, Preface, Purpose, Side};

/// What the key that a client showed may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Whose it is.
    pub tenant: u32,
    /// What it may do.
    pub roles: Roles,
}

/// A pool that serves.
pub struct Pool {
    repo: Arc<Repository>,
    /// Where packs lie between their arrival and their absorption, a directory a tenant.
    spool: PathBuf,
    receiving: Mutex<Receiving>,
    /// Tenants with a push under way.
    pushing: Mutex<BTreeSet<u32>>,
}

#[derive(Default)]
struct Receiving {
    receiver: Option<Receiver>,
    /// Counts receivers: what one had absorbed and not settled when it failed is lost.
    generation: u64,
}

impl Pool {
    /// Serves `repo`, spooling below `spool`.
    pub fn new(repo: Arc<Repository>, spool: PathBuf) -> Pool {
        Pool { repo, spool, receiving: Mutex::default(), pushing: Mutex::default() }
    }

    /// The repository.
    pub fn repository(&self) -> &Arc<Repository> {
        &self.repo
    }

    /// Gives the one receiver to `work`, with its generation. After a failure that is not the sender's fault it is given up:
    /// what it had not settled must be absorbed again.
    fn receive<T>(&self, work: impl FnOnce(&mut Receiver, u64) -> Result<T>) -> Result<T> {
        let mut receiving = self.receiving.lock();
        if receiving.receiver.is_none() {
            receiving.receiver = Some(Receiver::begin(Arc::clone(&self.repo), &Void::default())?);
            receiving.generation += 1;
        }
        let generation = receiving.generation;
        let Some(receiver) = receiving.receiver.as_mut() else { return Err(Error::bug("a receiver vanished")) };
        let done = work(receiver, generation);
        if let Err(e) = &done
            && !matches!(e.kind(), Kind::Damaged | Kind::Refused)
        {
            receiving.receiver = None;
        }
        done
    }

    /// Ends the session of receiving when nobody pushes any more, so that a prune gets its turn.
    fn rest(&self) -> Result<()> {
        let mut receiving = self.receiving.lock();
        if !self.pushing.lock().is_empty() {
            return Ok(());
        }
        receiving.receiver.take().map_or(Ok(()), Receiver::end)
    }
}

/// Serves one connection until it ends. What went wrong is told to the client, and returned.
///
/// # Errors
/// What ended the connection before its time.
pub fn serve(pool: &Pool, grant: &Grant, duplex: Duplex) -> Result<()> {
    let mut connection = Connection::open(duplex, Side::Server, &Preface::ours())?;
    let done = first(pool, grant, &mut connection);
    match done {
        Ok(Some(begun)) => deliver::serve(pool, begun, connection),
        Ok(None) => Ok(()),
        Err(e) => {
            // The link may be what failed.
            let _ = connection.send(&Message::Fail(Fail::of(&e))).and_then(|()| connection.flush());
            Err(e)
        }
    }
}

/// Reads what the client wants; none if it went away without a word.
fn first<'a>(pool: &'a Pool, grant: &Grant, connection: &mut Connection) -> Result<Option<deliver::Begun<'a>>> {
    match connection.receive()? {
        None => Ok(None),
        Some(Message::Begin { purpose: Purpose::Push, repository, .. }) => {
            if !grant.roles.allow(Roles::PUSH) {
                return Err(Error::new(Kind::Refused, "this key may not deliver snapshots"));
            }
            deliver::Begun::new(pool, grant.tenant, repository).map(Some)
        }
        Some(Message::Begin { .. } | Message::Attach { .. } | Message::Redeem { .. }) => {
            Err(Error::new(Kind::Unsupported, "this server does not serve that yet"))
        }
        Some(other) => Err(Error::new(Kind::Io, format!("the client began with {}", other.name()))),
    }
}
