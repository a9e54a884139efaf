//! A sealed tenant's connection: its copy is kept byte for byte, below the pool, and nothing in it can be read here.
//!
//! What can be told without a key is: a pack is named by its bytes, the log grows in order, no slot opens by a password, and
//! nothing that is there is ever overwritten. Objects become durable in the order in which they came.

mod keep;
mod obey;
mod put;

use std::collections::btree_map::Entry;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use repo::backend::{Area as Stored, Backend};
use repo::error::{Error, Kind, Result};
use repo::id::{RepoId, random_bytes};
use repo::monitor::Void;
use repo::policy;

use super::spool::Spool;
use super::{Pool, Visit, asked, stopping};
use crate::sealed::remote::stored;
use crate::ssh::server::StopFlag;
use crate::wire::limits::{MAX_DATA, MAX_LISTING, MAX_PARTIAL};
use crate::wire::{Area, Bitmap, Connection, Listed, Message, Object, Session};

pub use keep::{Kept, Nested, copy_dir, nested_copies, parse as parse_nested, stored_bytes};

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To bring the copy up to date.
    Push,
    /// To read it.
    Pull,
}

/// One connection of a sealed tenant's.
struct Keeper<'a> {
    pool: &'a Pool,
    tenant: u32,
    repository: RepoId,
    kept: Kept,
    shared: Arc<Keeping>,
    /// Where all else than packs arrives.
    parts: Spool,
    access: Access,
    /// The area that is being listed.
    listing: Option<(Area, Vec<Listed>)>,
}

/// What the connections of a push share.
pub struct Keeping {
    session: Session,
    repository: RepoId,
    /// Where packs arrive, which are resumed.
    packs: Spool,
    /// The most bytes, and how many there are; none: any.
    quota: Mutex<Option<(u64, u64)>>,
    /// The connection of the Begin has ended.
    over: AtomicBool,
    /// The connection of the Begin, where further ones count.
    visit: Arc<Visit>,
}

/// Keeps other pushes of the tenant away.
struct Alone<'a>(&'a Pool, u32);

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        if let Some(keeping) = self.0.keeping.lock().remove(&self.1) {
            keeping.over.store(true, Ordering::Relaxed);
        }
    }
}

/// Serves a sealed tenant until it ends the connection, or `stop` is set.
///
/// # Errors
/// What ended the connection before its time.
pub fn serve(
    pool: &Pool,
    tenant: u32,
    repository: RepoId,
    access: Access,
    connection: &mut Connection,
    stop: &StopFlag,
    visit: &Arc<Visit>,
) -> Result<()> {
    pool.repo.refresh(&Void::default())?;
    let state = pool.repo.log.state();
    let none = || repo::tenants::barred(&state, tenant);
    let known = state.tenants.get(&tenant).filter(|t| t.removed.is_none() && !t.suspended).ok_or_else(none)?;
    // Who makes a lost site anew does not know its repository's id yet.
    let unknown = access == Access::Pull && repository == RepoId([0; 32]);
    let repository = match known.repository {
        Some(own) if own == repository || unknown => own,
        _ => {
            return Err(Error::new(Kind::Refused, "this tenant's snapshots come from another repository")
                .remedy("push the repository that took up the invitation"));
        }
    };
    let dir = pool.copies.join(tenant.to_string());
    let (packs, session) = (Spool::open(dir.clone())?, Session(random_bytes()));
    let (quota, over, visit) = (Mutex::default(), AtomicBool::new(false), Arc::clone(visit));
    let shared = Arc::new(Keeping { session, repository, packs, quota, over, visit });
    let _alone = match access {
        Access::Push => match pool.keeping.lock().entry(tenant) {
            Entry::Vacant(entry) => {
                entry.insert(Arc::clone(&shared));
                Some(Alone(pool, tenant))
            }
            Entry::Occupied(_) => {
                return Err(Error::new(Kind::Locked, "another push of this repository is running")
                    .remedy("wait until it has ended"));
            }
        },
        Access::Pull => None,
    };
    let kept = Kept::open(&copy_dir(&pool.copies, tenant), repository)?;
    let parts = Spool::open(dir.join("parts"))?;
    if access == Access::Push {
        parts.clear()?;
    }
    let quota = known.quota.map(|quota| Ok::<_, Error>((quota, kept.bytes()?))).transpose()?;
    // What was left here on earlier visits must not keep out for days what fits.
    if access == Access::Push
        && quota.is_some_and(|(quota, used)| {
            used.saturating_add(shared.packs.bytes()) > quota.saturating_add(super::quota::MARGIN)
        })
    {
        shared.packs.clear()?;
    }
    *shared.quota.lock() = quota;
    let listing = None;
    let mut keeper = Keeper { pool, tenant, repository, kept, shared, parts, access, listing };
    connection.send(&keeper.ready(&known.name)?)?;
    connection.flush()?;
    keeper.listen(connection, stop)
}

/// Serves a further connection of a sealed tenant's push, which carries packs alone.
///
/// # Errors
/// What ended the connection before its time.
pub fn attach(
    pool: &Pool,
    tenant: u32,
    shared: Arc<Keeping>,
    connection: &mut Connection,
    stop: &StopFlag,
    visit: &Visit,
) -> Result<()> {
    visit.is_part_of(&shared.visit);
    let repository = shared.repository;
    let kept = Kept::open(&copy_dir(&pool.copies, tenant), repository)?;
    let parts = Spool::open(pool.copies.join(tenant.to_string()).join("parts"))?;
    let (access, listing) = (Access::Push, None);
    let mut keeper = Keeper { pool, tenant, repository, kept, shared, parts, access, listing };
    keeper.listen_for_packs(connection, stop).inspect_err(|e| {
        if !keeper.shared.over.load(Ordering::Relaxed) {
            super::pushing::fell_short(visit, e);
        }
    })
}

impl Keeping {
    /// Whether this is the push of that name.
    pub fn is(&self, session: &Session) -> bool {
        self.session == *session
    }
}

impl Keeper<'_> {
    fn ready(&self, name: &str) -> Result<Message> {
        let (mut watermark, mut partial) = (None, Vec::new());
        if self.access == Access::Push {
            watermark = self.kept.newest();
            let begun = self.shared.packs.packs()?.into_iter().map(|(id, len)| (Object::Pack(id), len));
            let lost = self.kept.lost()?.into_iter().map(|id| (Object::Pack(id), 0));
            // Of one that is lost and begun again, how far it is counts.
            let both: std::collections::BTreeMap<Object, u64> = lost.chain(begun).collect();
            partial = both.into_iter().take(MAX_PARTIAL).collect();
        }
        Ok(Message::Ready {
            session: self.shared.session,
            tenant: name.to_owned(),
            sealed: true,
            watermark,
            partial,
            quota_left: self.shared.quota.lock().map(|(quota, used)| quota.saturating_sub(used)),
            chunker: self.pool.repo.config.chunker,
            time: self.pool.repo.clock.now(),
            epochs: 0,
        })
    }

    /// The side of a further connection of a push.
    fn listen_for_packs(&mut self, connection: &mut Connection, stop: &StopFlag) -> Result<()> {
        while let Some(message) = connection.receive()? {
            match message {
                Message::Bye => break,
                _ if stop.is_set() => return Err(stopping()),
                _ if self.shared.over.load(Ordering::Relaxed) => return Err(super::pushing::over()),
                Message::Put { object: object @ Object::Pack(_), size, from } => {
                    self.put(object, size, from, connection)?;
                }
                Message::Ping(number) => connection.send(&Message::Pong(number))?,
                Message::Pong(_) => {}
                Message::Fail(fail) => return Err(fail.into_error()),
                other => return Err(super::deliver::misplaced(&other)),
            }
            connection.flush()?;
        }
        Ok(())
    }

    fn listen(&mut self, connection: &mut Connection, stop: &StopFlag) -> Result<()> {
        let pushes = self.access == Access::Push;
        loop {
            let message = if pushes { connection.receive()? } else { asked(connection)? };
            let Some(message) = message else {
                if pushes {
                    self.shared.visit.trouble(super::deliver::LEFT);
                }
                break;
            };
            if message.is_question() {
                super::require_live(self.pool, self.tenant)?;
            }
            match message {
                Message::Bye => break,
                _ if stop.is_set() => return Err(stopping()),
                Message::Holding { objects } => {
                    let mut missing = Bitmap::new(objects.len());
                    for (at, (object, size)) in objects.iter().enumerate() {
                        if self.kept.size(object)? != Some(*size) {
                            missing.set(at);
                        }
                    }
                    connection.send(&Message::Answer { missing })?;
                }
                Message::Objects { area, after } => connection.send(&self.page(area, after)?)?,
                Message::Want { object, from, most } => self.give(&object, from, most, connection)?,
                Message::Put { object, size, from } if pushes => self.put(object, size, from, connection)?,
                Message::Done { position } if pushes => {
                    self.done(position)?;
                    connection.send(&Message::Finished { watermark: position })?;
                }
                Message::Receipts { drives } if pushes => {
                    connection.send(&super::receipts::signed(&self.pool.repo, self.tenant, &drives)?)?;
                }
                Message::Order { size } if pushes => {
                    let order = put::gather(connection, size)?;
                    let (objects, bytes) = self.obey(&order)?;
                    connection.send(&Message::Ordered { objects, bytes })?;
                }
                Message::Ping(number) => connection.send(&Message::Pong(number))?,
                Message::Pong(_) => {}
                Message::Fail(fail) => return Err(fail.into_error()),
                other => return Err(super::deliver::misplaced(&other)),
            }
            connection.flush()?;
        }
        Ok(())
    }

    /// A page of what the copy has in an area. The area is looked through once, at the first page.
    fn page(&mut self, area: Area, after: Option<Object>) -> Result<Message> {
        if after.is_none() || self.listing.as_ref().is_none_or(|(of, _)| *of != area) {
            let state = self.pool.repo.log.state();
            let until = |received| policy::window_ends(&state, Some(self.tenant), received).max(received);
            let all = self.kept.list(area)?.into_iter();
            let all = all.map(|(object, size, received)| Listed { object, size, until: until(received) });
            self.listing = Some((area, all.collect()));
        }
        let Some((_, all)) = &self.listing else { return Err(Error::bug("a listing vanished")) };
        let from = after.map_or(0, |after| all.partition_point(|listed| listed.object <= after));
        let objects: Vec<Listed> = all[from..].iter().take(MAX_LISTING).cloned().collect();
        let more = from + objects.len() < all.len();
        Ok(Message::Listing { area, more, objects })
    }

    /// Sends a part of an object.
    fn give(&self, object: &Object, from: u64, most: u64, connection: &mut Connection) -> Result<()> {
        let lacking = Message::Lacking { object: object.clone() };
        let Some(path) = self.kept.path(object)? else { return connection.send(&lacking) };
        let failed = |e| Error::io("read", &path, e);
        let file = match std::fs::File::open(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return connection.send(&lacking),
            other => other.map_err(failed)?,
        };
        let size = file.metadata().map_err(failed)?.len();
        if from > size {
            return connection.send(&lacking);
        }
        let bytes = most.min(size - from);
        connection.send(&Message::Given { object: object.clone(), size, from, bytes })?;
        let (mut at, mut buffer) = (from, vec![0; MAX_DATA.min(bytes as usize)]);
        while at < from + bytes {
            let some = buffer.len().min((from + bytes - at) as usize);
            file.read_exact_at(&mut buffer[..some], at).map_err(failed)?;
            connection.sender().send_data(&buffer[..some])?;
            at += some as u64;
        }
        Ok(())
    }

    /// Notes that the copy is complete up to a record of the tenant's log.
    fn done(&self, position: repo::format::record::Position) -> Result<()> {
        if self.kept.newest() != Some(position) {
            return Err(Error::new(
                Kind::Refused,
                "the push says that it is complete, but the copy's log ends elsewhere",
            )
            .remedy("push again"));
        }
        super::note_done(self.pool, self.tenant, position)
    }
}

/// What checks find about a sealed tenant's copy.
pub struct Verified {
    /// Packs looked at.
    pub packs: u64,
    /// Packs read whole.
    pub read: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Packs that are not what they are called; each was set aside, and is asked for again.
    pub damaged: Vec<(repo::id::PackId, PathBuf)>,
}

/// Compares the packs of a sealed tenant's copy that `chosen` names with their names; the others with nothing.
///
/// # Errors
/// `Interrupted`; what the system gives.
pub fn verify(
    dir: &Path,
    repository: RepoId,
    chosen: &mut dyn FnMut(&repo::id::PackId) -> bool,
    stopped: &dyn Fn() -> bool,
) -> Result<Verified> {
    let kept = Kept::open(dir, repository)?;
    let mut found = Verified { packs: 0, read: 0, bytes: 0, damaged: Vec::new() };
    let mut packs = Vec::new();
    kept.copy().list(Stored::Packs, &mut |object, size| {
        if let repo::backend::Object::Pack(id) = object {
            packs.push((id, size));
        }
        Ok(())
    })?;
    for (id, size) in packs {
        if stopped() {
            return Err(Error::new(Kind::Interrupted, "the check was stopped"));
        }
        found.packs += 1;
        if size > 0 && !chosen(&id) {
            continue;
        }
        found.read += 1;
        found.bytes += size;
        let path = kept.copy().path(&repo::backend::Object::Pack(id));
        if !keep::is_named_by_hash(&path, id.as_bytes())? {
            kept.set_aside(&id)?;
            found.damaged.push((id, path));
        }
    }
    Ok(found)
}

/// Whether the pool knows the object as one of a repository's own.
fn own(object: &Object) -> Option<repo::backend::Object> {
    stored(object)
}
