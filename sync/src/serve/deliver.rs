//! A push, as the server sees it: packs go to the spool and are acknowledged there; what follows from them, and from the
//! client's questions, is done behind that by a thread of its own.

use std::collections::btree_map::Entry;
use std::sync::Arc;

use crossbeam_channel::{Receiver as Jobs, bounded};
use repo::error::{Error, Kind, Result};
use repo::id::{PackId, RepoId};
use repo::limits::MAX_MANIFEST;
use repo::receive::Sender as Tenant;
use repo::tenants::party;

use super::out::Out;
use super::pushing::{Pushing, over};
use super::quota;
use super::spool::{Announced, Arriving, LARGEST, STEP, Spool};
use super::work::{Job, Work};
use super::{Pool, Visit, stopping};
use crate::ssh::server::StopFlag;
use crate::wire::limits::MAX_PARTIAL;
use crate::wire::{Connection, Incoming, Message, Object, Receiver};

/// What the system says of a full disk.
const ENOSPC: i32 = 28;
/// Jobs waiting; a client that is ahead of the work by more is not listened to.
const WAITING: usize = 1024;

/// What is noted of a push whose client ended without a word.
pub const LEFT: &str = "the client went away before it had ended the push";

/// A push that may go on: no other of this tenant does.
pub struct Begun<'a> {
    pool: &'a Pool,
    pushing: Arc<Pushing>,
    /// Of what was lost here: then everything is to be compared.
    again: Option<[u8; 32]>,
}

impl<'a> Begun<'a> {
    /// Begins the push of `repository` for a tenant.
    ///
    /// # Errors
    /// `Locked` while another runs; `Refused` if it is another repository than the tenant's, or the tenant cannot deliver.
    pub fn new(pool: &'a Pool, tenant: u32, repository: RepoId, visit: &Arc<Visit>) -> Result<Begun<'a>> {
        pool.repo.refresh(&repo::monitor::Void::default())?;
        let state = pool.repo.log.state();
        if party(&state, tenant).and_then(|t| t.repository) != Some(repository) {
            if state.agents.contains_key(&tenant) {
                return Err(Error::new(Kind::Refused, "this agent's host has joined anew since")
                    .remedy("take another invitation up with `packmule agent join`"));
            }
            return Err(Error::new(Kind::Refused, "this tenant's snapshots come from another repository")
                .remedy("push the repository that took up the invitation"));
        }
        let sender = Tenant::of(&pool.repo, tenant)?;
        let spool = Spool::open(pool.spool.join(tenant.to_string()))?;
        let pushing = Arc::new(Pushing::new(sender, spool, Arc::clone(visit)));
        match pool.pushing.lock().entry(tenant) {
            Entry::Vacant(entry) => drop(entry.insert(Arc::clone(&pushing))),
            Entry::Occupied(_) => {
                return Err(Error::new(Kind::Locked, "another push of this repository is running")
                    .remedy("wait until it has ended"));
            }
        }
        let mut begun = Begun { pool, pushing, again: None };
        begun.again = Begun::lost(pool, &begun.pushing.tenant)?;
        let Pushing { tenant, spool, .. } = &*begun.pushing;
        // What was left here on earlier visits must not keep out for days what fits.
        if !quota::room(&pool.repo, tenant, spool)? {
            spool.clear()?;
        }
        Ok(begun)
    }

    /// Names the state of loss in which this tenant has not been asked for everything yet, if there is one.
    fn lost(pool: &Pool, tenant: &Tenant) -> Result<Option<[u8; 32]>> {
        if !tenant.has_lost(&pool.repo)? {
            return Ok(None);
        }
        let mut hasher = blake3::Hasher::new();
        pool.repo.log.state().damaged.keys().for_each(|id| _ = hasher.update(id.as_bytes()));
        let name = *hasher.finalize().as_bytes();
        Ok((pool.asked_again.lock().get(&tenant.number) != Some(&name)).then_some(name))
    }

    fn ready(&self) -> Result<Message> {
        let repo = &self.pool.repo;
        let Pushing { session, tenant, spool, .. } = &*self.pushing;
        let state = repo.log.state();
        let watermark = party(&state, tenant.number).and_then(|t| t.watermark);
        // What was lost here is sent again only by who compares everything.
        let watermark = watermark.filter(|_| self.again.is_none());
        let mut partial = spool.packs()?;
        partial.truncate(MAX_PARTIAL);
        Ok(Message::Ready {
            session: *session,
            tenant: tenant.name.clone(),
            sealed: false,
            watermark,
            partial: partial.into_iter().map(|(id, len)| (Object::Pack(id), len)).collect(),
            quota_left: quota::left(repo, tenant)?,
            chunker: repo.config.chunker,
            time: repo.clock.now(),
            epochs: tenant.keys.current_epoch() + 1,
        })
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.pool.pushing.lock().remove(&self.pushing.tenant.number);
        // What the session holds is settled or spooled; if it cannot be ended it is found dead by the next opening.
        let _ = self.pool.rest();
    }
}

/// Serves the push until the client ends it.
///
/// # Errors
/// What ended it before its time; the client was told unless the link failed.
pub fn serve(
    pool: &Pool,
    begun: Begun<'_>,
    mut connection: Connection,
    stop: &StopFlag,
    visit: &Arc<Visit>,
) -> Result<()> {
    let pushing = &begun.pushing;
    let (todo, jobs) = bounded(WAITING);
    // Before the client knows the session's name.
    pushing.begin(todo);
    connection.send(&begun.ready()?)?;
    connection.flush()?;
    let (sender, mut receiver) = connection.split();
    let out = Arc::new(Out::new(sender, Arc::clone(visit)));
    let (worked, listened) = std::thread::scope(|scope| {
        let work = Work::new(pool, Arc::clone(&pushing.tenant), &pushing.spool, Arc::clone(&out));
        let said = &out;
        let worker = scope.spawn(move || {
            let done = work_off(work, pushing, &jobs, stop).map_err(|e| or_full(pool, pushing, e));
            // Who waits for room in the queue waits in vain from now on.
            pushing.end();
            // At once: the client may be waiting for an answer that will not come, and say nothing until it does.
            if let Err(e) = &done {
                said.fail(e);
            }
            done
        });
        let mut listener = Listener { pool, pushing, out: &out, stop, first: true };
        let listened = listener.listen(&mut receiver).map_err(|e| or_full(pool, pushing, e));
        pushing.end();
        (worker.join().unwrap_or_else(|_| Err(Error::bug("the work of a push panicked"))), listened)
    });
    if let (Ok(()), Err(e)) = (&worked, &listened) {
        out.fail(e);
    }
    // What the work met is why nobody listened any more.
    let ended = worked.and(listened)?;
    if !ended {
        visit.trouble(LEFT);
    }
    if ended {
        if let Some(again) = begun.again {
            pool.asked_again.lock().insert(pushing.tenant.number, again);
        }
        // Left by a server that ended between storing a pack and removing it here. Nobody will come back for it.
        pushing.spool.clear()?;
    }
    Ok(())
}

/// A full disk is the pool's: what waits in the spool makes room, if it is on that disk, and is sent again.
fn or_full(pool: &Pool, pushing: &Pushing, e: Error) -> Error {
    if e.errno() != Some(ENOSPC) {
        return e;
    }
    let root = pool.repo.root.as_deref();
    if root.is_none_or(|root| pushing.spool.is_beside(root)) {
        let _ = pushing.spool.clear();
    }
    Error::new(Kind::NoSpace, "the pool's disk is full")
        .remedy("tell whoever runs the pool; push again when there is room")
}

/// Does what is asked until the client has ended, or `stop` is set. What is spooled by then is worked on at the next push.
fn work_off(mut work: Work<'_>, pushing: &Pushing, jobs: &Jobs<Job>, stop: &StopFlag) -> Result<()> {
    for job in jobs {
        if stop.is_set() {
            work.settle()?;
            return Err(stopping());
        }
        let (held, pack) = (job.held(), job.pack());
        let done = work.work(job);
        pushing.release(held, pack);
        done?;
    }
    work.settle()
}

/// The side of a connection that takes in what comes.
pub struct Listener<'a> {
    pub pool: &'a Pool,
    pub pushing: &'a Pushing,
    pub out: &'a Out,
    pub stop: &'a StopFlag,
    /// It is the connection of the Begin: others carry packs alone.
    pub first: bool,
}

impl Listener<'_> {
    /// Takes in what comes; whether the client said that this was all.
    pub fn listen(&mut self, from: &mut Receiver) -> Result<bool> {
        while let Some(message) = from.receive()? {
            match message {
                Message::Bye => return Ok(true),
                _ if self.stop.is_set() => return Err(stopping()),
                Message::Put { object: Object::Pack(id), size, from: start } => {
                    let announced = self.pushing.spool.announce(size.saturating_sub(start));
                    self.require_room()?;
                    if self.take(from, &id, size, (start, announced))? {
                        self.pushing.queue(Job::Absorb(id))?;
                    }
                }
                Message::Ping(number) => self.out.tell(&Message::Pong(number))?,
                Message::Pong(_) => {}
                Message::Fail(fail) => return Err(fail.into_error()),
                other if !self.first => return Err(misplaced(&other)),
                Message::Keys { keyring } => self.pushing.queue(Job::Keys(keyring))?,
                Message::Have { pieces } => self.pushing.queue(Job::Have(pieces))?,
                Message::Manifest { snapshot, size } => {
                    if let Some(sealed) = manifest(from, size)? {
                        self.pushing.queue(Job::Manifest(snapshot, sealed))?;
                    }
                }
                Message::Again { snapshot } => self.pushing.queue(Job::Again(snapshot))?,
                Message::Keep { mark, sealed } => self.pushing.queue(Job::Keep(mark, sealed))?,
                Message::Receipts { drives } => self.pushing.queue(Job::Receipts(drives))?,
                Message::Done { position } => self.pushing.queue(Job::Done(position))?,
                other => return Err(misplaced(&other)),
            }
        }
        Ok(false)
    }

    /// Refuses what would go, with all that is announced, too far above the tenant's quota.
    fn require_room(&self) -> Result<()> {
        let (pool, Pushing { tenant, spool, .. }) = (self.pool, self.pushing);
        if quota::room(&pool.repo, tenant, spool)? {
            return Ok(());
        }
        // What is spooled may be owned already: that is known when it was worked on.
        let (told, done) = bounded(1);
        self.pushing.queue(Job::Settle(told))?;
        let _ = done.recv();
        if quota::room(&pool.repo, tenant, spool)? { Ok(()) } else { Err(quota::full()) }
    }

    /// Takes a pack's bytes into the spool and says how far they are durable; whether all of it is.
    fn take(&self, from: &mut Receiver, id: &PackId, size: u64, (start, announced): (u64, Announced)) -> Result<bool> {
        let object = Object::Pack(*id);
        if size > LARGEST {
            return Err(Error::new(Kind::Io, "a pack was announced that is larger than any may be"));
        }
        self.pushing.wait_for(id)?;
        let mut arriving = self.pushing.spool.arrive(id, start, announced)?;
        let told = |arriving: &mut Arriving| {
            arriving.sync()?;
            self.out.tell(&Message::Durable { object: object.clone(), bytes: arriving.durable })
        };
        while arriving.len < size {
            match from.next()? {
                Some(Incoming::Data(_)) if self.pushing.is_over() => return Err(over()),
                Some(Incoming::Data(bytes)) => {
                    arriving.write(bytes)?;
                    if arriving.len - arriving.durable >= STEP && arriving.len < size {
                        told(&mut arriving)?;
                    }
                }
                Some(Incoming::Message(Message::Ping(number))) => self.out.tell(&Message::Pong(number))?,
                Some(Incoming::Message(Message::Pong(_))) => {}
                Some(Incoming::Message(Message::Fail(fail))) => return Err(fail.into_error()),
                // Cut: no more of it comes.
                Some(Incoming::Message(_)) => break,
                None => return Err(ended()),
            }
        }
        told(&mut arriving)?;
        Ok(arriving.len == size)
    }
}

fn manifest(from: &mut Receiver, size: u64) -> Result<Option<Vec<u8>>> {
    if size > MAX_MANIFEST as u64 {
        return Err(Error::new(Kind::Io, "a manifest was announced that is larger than any may be"));
    }
    let mut sealed = Vec::new();
    while (sealed.len() as u64) < size {
        match from.next()? {
            Some(Incoming::Data(bytes)) => sealed.extend_from_slice(bytes),
            Some(Incoming::Message(Message::Cut)) => return Ok(None),
            Some(Incoming::Message(Message::Fail(fail))) => return Err(fail.into_error()),
            Some(Incoming::Message(_)) => {}
            None => return Err(ended()),
        }
    }
    Ok(Some(sealed))
}

/// What may not come where it did.
pub fn misplaced(message: &Message) -> Error {
    Error::new(Kind::Io, format!("the client sent {} where it may not be", message.name()))
}

fn ended() -> Error {
    Error::new(Kind::Unreachable, "the connection ended too early")
}
