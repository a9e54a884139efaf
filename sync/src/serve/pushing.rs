//! A push under way, as its connections share it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender as ToDo;
use parking_lot::{Condvar, Mutex};
use repo::error::{Error, Kind, Result};
use repo::id::PackId;
use repo::receive::Sender as Tenant;

use super::deliver::Listener;
use super::out::Out;
use super::spool::Spool;
use super::work::{Job, MAX_HELD};
use super::{Pool, Visit, objects};
use crate::ssh::server::StopFlag;
use crate::wire::{Connection, Fail, Message, Session};

/// See the module.
pub struct Pushing {
    /// What lets further connections in.
    pub session: Session,
    /// Whose it is.
    pub tenant: Arc<Tenant>,
    /// Where its packs lie.
    pub spool: Spool,
    /// What is to be done; none before the work has begun, and once the connection of the Begin has ended.
    todo: Mutex<Option<ToDo<Job>>>,
    /// Bytes that jobs hold which are not done.
    held: Mutex<usize>,
    /// Packs that are to be absorbed: none of them may be sent again meanwhile.
    packs: Mutex<BTreeSet<PackId>>,
    done: Condvar,
    /// The connection of the Begin, where further ones count.
    visit: Arc<Visit>,
}

impl Pushing {
    /// Nothing is done yet.
    pub fn new(tenant: Tenant, spool: Spool, visit: Arc<Visit>) -> Pushing {
        Pushing {
            session: Session(repo::id::random_bytes()),
            tenant: Arc::new(tenant),
            spool,
            todo: Mutex::new(None),
            held: Mutex::default(),
            packs: Mutex::default(),
            done: Condvar::new(),
            visit,
        }
    }

    /// From now on jobs go to `todo`.
    pub fn begin(&self, todo: ToDo<Job>) {
        *self.todo.lock() = Some(todo);
    }

    /// No more jobs are taken.
    pub fn end(&self) {
        *self.todo.lock() = None;
        self.done.notify_all();
    }

    /// Whether it has ended: what still comes on connections that do not know it yet is of no use.
    pub fn is_over(&self) -> bool {
        self.todo.lock().is_none()
    }

    /// Has a job done, once there is room for it.
    ///
    /// # Errors
    /// `Interrupted` if the push has ended.
    pub fn queue(&self, job: Job) -> Result<()> {
        let bytes = job.held();
        let mut held = self.held.lock();
        while *held > 0 && *held + bytes > MAX_HELD {
            if self.is_over() {
                return Err(over());
            }
            self.done.wait_for(&mut held, Duration::from_secs(1));
        }
        *held += bytes;
        drop(held);
        if let Job::Absorb(id) = &job {
            self.packs.lock().insert(*id);
        }
        // Not while it is locked: who waits here must not keep the end from being told.
        let todo = self.todo.lock().clone();
        todo.and_then(|todo| todo.send(job).ok()).ok_or_else(over)
    }
}

impl Pushing {
    /// A job that held so many bytes is done, of that pack if it was of one.
    pub fn release(&self, bytes: usize, pack: Option<PackId>) {
        *self.held.lock() -= bytes;
        pack.map(|id| self.packs.lock().remove(&id));
        self.done.notify_all();
    }

    /// Waits until this pack is not one that is to be absorbed.
    ///
    /// # Errors
    /// `Interrupted` if the push has ended.
    pub fn wait_for(&self, id: &PackId) -> Result<()> {
        let mut packs = self.packs.lock();
        while packs.contains(id) {
            if self.is_over() {
                return Err(over());
            }
            drop(packs);
            self.done.wait_for(&mut self.held.lock(), Duration::from_millis(100));
            packs = self.packs.lock();
        }
        Ok(())
    }
}

/// Notes what ended a further connection, unless the push goes on without it: a lost link, or a server that stops, says nothing
/// about what was sent.
pub fn fell_short(visit: &Visit, e: &Error) {
    if !matches!(e.kind(), Kind::Unreachable | Kind::Interrupted) {
        visit.trouble(&e.to_string());
    }
}

/// What a connection is told whose push has ended.
pub fn over() -> Error {
    Error::new(Kind::Interrupted, "the push has ended")
}

/// Serves a further connection of a tenant's push.
///
/// # Errors
/// `Refused` if there is no such push of this tenant's; what ended the connection before its time.
pub fn attach(
    pool: &Pool,
    tenant: u32,
    session: Session,
    mut connection: Connection,
    stop: &StopFlag,
    visit: &Arc<Visit>,
) -> Result<()> {
    let found =
        pool.pushing.lock().get(&tenant).filter(|pushing| pushing.session == session && !pushing.is_over()).cloned();
    let Some(pushing) = found else {
        let keeping = pool.keeping.lock().get(&tenant).filter(|keeping| keeping.is(&session)).cloned();
        let done = match keeping {
            Some(keeping) => objects::attach(pool, tenant, keeping, &mut connection, stop, visit),
            None => Err(Error::new(Kind::Refused, "there is no such push")),
        };
        return done.inspect_err(|e| {
            // The link may be what failed.
            let _ = connection.send(&Message::Fail(Fail::of(e))).and_then(|()| connection.flush());
        });
    };
    visit.is_part_of(&pushing.visit);
    let (sender, mut receiver) = connection.split();
    let out = Arc::new(Out::new(sender, Arc::clone(visit)));
    let mut listener = Listener { pool, pushing: &pushing, out: &out, stop, first: false };
    let listened = listener.listen(&mut receiver).map(drop);
    match &listened {
        // Why is said on the first connection.
        Err(_) if pushing.is_over() => {}
        Err(e) => {
            fell_short(visit, e);
            out.fail(e);
        }
        Ok(()) => {}
    }
    listened
}
