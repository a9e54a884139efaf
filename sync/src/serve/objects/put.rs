//! Taking an object in: to the spool, looked at as far as that goes without a key, and then to its place.

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use repo::backend::local::Local;
use repo::backend::{Backend, Object as Place, Put};
use repo::crypto::keys::OBJECT_OVERHEAD;
use repo::error::{Error, Kind, Result};
use repo::follow::MAX_ROLLUP;
use repo::format::config::Config;
use repo::format::record::{Position, Record};
use repo::format::slot::{Lock, Slot};
use repo::id::{LogHash, PackId, RepoId};
use repo::limits::{MAX_LOG_RECORD, MAX_MANIFEST, MAX_PACK, MAX_SMALL_OBJECT, MIB};
use repo::lock::COMMIT_WAIT;
use repo::log::CHECKPOINT_EVERY;

use super::Keeper;
use super::keep::{Nested, is_named_by_hash, on_disk, parse};
use crate::serve::quota::{MARGIN, full};
use crate::serve::spool::STEP;
use crate::wire::{Connection, Incoming, Message, Object};

/// Why an object is not taken.
type Objection = Option<&'static str>;

/// The most copies within one.
const NESTED: usize = 1024;
/// What the directories of one count as.
const LAYOUT: u64 = MIB as u64;

const OTHER: &str = "there is another object of this name, and nothing is overwritten";

impl Keeper<'_> {
    /// Takes in an object and says how far it is durable, or why it is refused.
    ///
    /// # Errors
    /// `NoSpace` above the quota; what link, disk and log give.
    pub(super) fn put(&mut self, object: Object, size: u64, from: u64, connection: &mut Connection) -> Result<()> {
        let why = match self.objection(&object, size) {
            Some(why) => {
                drain(connection)?;
                Some(why)
            }
            None => match self.arrive(&object, size, from, connection)? {
                Some(why) => why,
                // Cut: what there is of it was told.
                None => return Ok(()),
            },
        };
        match why {
            None => {
                if matches!(object, Object::Snapshot(_)) {
                    self.shared.visit.snapshot();
                }
                connection.send(&Message::Durable { object, bytes: size })
            }
            Some(why) => {
                let refused = Message::Refused { object, why: why.to_owned() };
                self.shared.visit.said(&refused);
                connection.send(&refused)
            }
        }
    }

    /// What can be said against an object before it has come.
    fn objection(&self, object: &Object, size: u64) -> Objection {
        let (most, log) = match object {
            Object::State(name) => match parse(name) {
                Some((_, Nested::Mark)) => (64, None),
                Some((_, Nested::Object(place))) => (largest(&place), None),
                None => return Some("a copy has no place for it"),
            },
            Object::Log(seq) => (MAX_LOG_RECORD, Some(*seq)),
            other => (super::own(other).map_or(0, |place| largest(&place)), None),
        };
        if size > most as u64 {
            return Some("it is larger than any of its kind may be");
        }
        match (log, self.kept.newest()) {
            (Some(0), _) => Some("a log begins with record 1"),
            // Behind a gap stands a checkpoint: what was before it was compacted away.
            (Some(seq), Some(at)) if seq > at.seq + 1 && !(seq - 1).is_multiple_of(CHECKPOINT_EVERY) => {
                Some("the record before it is not there")
            }
            _ => None,
        }
    }

    /// Takes an object's bytes; none if they were cut off.
    fn arrive(
        &mut self,
        object: &Object,
        size: u64,
        from: u64,
        connection: &mut Connection,
    ) -> Result<Option<Objection>> {
        let (spool, id) = match object {
            Object::Pack(id) => (&self.shared.packs, *id),
            other => (&self.parts, PackId(*blake3::hash(format!("{other:?}").as_bytes()).as_bytes())),
        };
        let announced = spool.announce(size.saturating_sub(from));
        if let Some((quota, used)) = *self.shared.quota.lock() {
            // What was begun and never ended counts too, or any number of packs could be.
            let begun = used.saturating_add(self.shared.packs.bytes()).saturating_add(self.parts.bytes());
            if used.saturating_add(size) > quota || begun > quota.saturating_add(MARGIN) {
                return Err(full());
            }
        }
        let mut arriving = spool.arrive(&id, from, announced)?;
        while arriving.len < size {
            match connection.receiver().next()? {
                Some(Incoming::Data(_)) if self.shared.over.load(Ordering::Relaxed) => {
                    return Err(crate::serve::pushing::over());
                }
                Some(Incoming::Data(bytes)) => {
                    arriving.write(bytes)?;
                    if arriving.len - arriving.durable >= STEP && arriving.len < size {
                        arriving.sync()?;
                        connection.send(&Message::Durable { object: object.clone(), bytes: arriving.durable })?;
                        connection.flush()?;
                    }
                }
                Some(Incoming::Message(Message::Ping(number))) => {
                    connection.send(&Message::Pong(number))?;
                    connection.flush()?;
                }
                Some(Incoming::Message(Message::Pong(_))) => {}
                Some(Incoming::Message(Message::Fail(fail))) => return Err(fail.into_error()),
                Some(Incoming::Message(_)) => {
                    arriving.sync()?;
                    connection.send(&Message::Durable { object: object.clone(), bytes: arriving.durable })?;
                    return Ok(None);
                }
                None => return Err(Error::new(Kind::Unreachable, "the connection ended too early")),
            }
        }
        arriving.sync()?;
        let path = spool.path(&id);
        // Nobody else may have the file open when it goes to its place.
        let why = self.store(object, &path, size)?;
        drop(arriving);
        if !path.exists() {
            // It lies in its place now.
            match object {
                Object::Pack(_) => self.shared.packs.moved(size),
                _ => self.parts.moved(size),
            }
        }
        match object {
            Object::Pack(id) => self.shared.packs.remove(id)?,
            _ => self.parts.remove(&id)?,
        }
        Ok(Some(why))
    }

    /// Puts a whole object in its place, if it is what it says.
    fn store(&mut self, object: &Object, file: &Path, size: u64) -> Result<Objection> {
        if let Object::State(name) = object {
            return self.store_nested(name, file, size);
        }
        let Some(place) = super::own(object) else { return Ok(Some("a copy has no place for it")) };
        if let Some(why) = objection_to(&place, file, self.repository)? {
            return Ok(Some(why));
        }
        let why = match &place {
            Place::Config => self.store_config(file)?,
            _ => settle(self.kept.copy(), &place, file, size, &self.shared.quota)?,
        };
        match (&place, why) {
            (Place::Log(seq), None) => {
                let sealed = self.kept.copy().read_all(&place, MAX_LOG_RECORD)?;
                self.kept.came(Position { seq: *seq, hash: LogHash(*blake3::hash(&sealed).as_bytes()) });
            }
            (Place::Pack(id), None) => self.kept.came_again(id),
            _ => {}
        }
        Ok(why)
    }

    /// The config comes last of a first push, and names the owner, who is noted once and for all.
    fn store_config(&mut self, file: &Path) -> Result<Objection> {
        let bytes = read(file)?;
        let Ok(config) = Config::decode(&bytes) else { return Ok(Some("it is no config")) };
        let (owner, repo) = (config.owner_public(), &self.pool.repo);
        let commit = repo.locks.commit(COMMIT_WAIT)?;
        repo.log.refresh()?;
        match repo.log.state().owners.get(&self.tenant) {
            Some(known) if *known != owner => return Ok(Some("it names another owner than the first push did")),
            Some(_) => {}
            None => {
                repo.log.append(&commit, Record::OwnerPinned { tenant: self.tenant, key: owner })?;
            }
        }
        drop(commit);
        for place in [Place::Config, Place::ConfigCopy] {
            let copy = self.kept.copy();
            if copy.put(&place, &bytes)? == Put::Exists && copy.read_all(&place, MAX_SMALL_OBJECT)? != bytes {
                return Ok(Some(OTHER));
            }
        }
        Ok(None)
    }

    fn store_nested(&mut self, name: &crate::wire::StateName, file: &Path, size: u64) -> Result<Objection> {
        match parse(name) {
            Some((tenant, Nested::Mark)) => {
                let text = String::from_utf8(read(file)?).unwrap_or_default();
                let Ok(of) = text.parse::<RepoId>() else { return Ok(Some("it names no repository")) };
                if self.kept.has_nested(tenant) {
                    return Ok(None);
                }
                if self.kept.nested_count() >= NESTED {
                    return Ok(Some("a copy holds no more copies than this"));
                }
                self.kept.add_nested(tenant, of)?;
                if let Some((_, used)) = &mut *self.shared.quota.lock() {
                    *used += LAYOUT;
                }
                Ok(None)
            }
            Some((_, Nested::Object(place))) => {
                if let Place::Pack(id) = &place
                    && !is_named_by_hash(file, id.as_bytes())?
                {
                    return Ok(Some("its name is not its hash"));
                }
                let quota = &self.shared.quota;
                let done = self
                    .kept
                    .at(&Object::State(name.clone()), &mut |copy, place| settle(copy, place, file, size, quota))?;
                Ok(done.unwrap_or(Some("nothing says of which repository this is a copy")))
            }
            None => Ok(Some("a copy has no place for it")),
        }
    }
}

/// What can be said against a whole object without a key.
fn objection_to(place: &Place, file: &Path, repository: RepoId) -> Result<Objection> {
    let len = fs::metadata(file).map_err(|e| Error::io("look at", file, e))?.len();
    Ok(match place {
        Place::Footers(_) | Place::Snapshot(_) | Place::Log(_) | Place::Audit(_) if len <= OBJECT_OVERHEAD as u64 => {
            Some("it is cut short")
        }
        Place::Pack(id) if !is_named_by_hash(file, id.as_bytes())? => Some("its name is not its hash"),
        Place::Key(_) => match Slot::decode(&read(file)?) {
            Err(_) => Some("it is no key slot"),
            Ok(slot) if slot.head.repo_id != repository => Some("it is another repository's"),
            Ok(slot) if matches!(slot.head.lock, Lock::Passphrase { .. }) => {
                Some("a password opens it, and could be guessed here")
            }
            Ok(_) => None,
        },
        Place::Config => match Config::decode(&read(file)?) {
            Err(_) => Some("it is no config"),
            Ok(config) if config.repo_id() != repository => Some("it is another repository's"),
            Ok(_) => None,
        },
        _ => None,
    })
}

/// Moves a file to an object's place. One that is there already stays, unless it is a pack that is not what it is called.
fn settle(copy: &Local, place: &Place, file: &Path, size: u64, quota: &Mutex<Option<(u64, u64)>>) -> Result<Objection> {
    if copy.size(place)?.is_some() {
        if same(&copy.path(place), file)? {
            return Ok(None);
        }
        if !matches!(place, Place::Pack(_)) {
            return Ok(Some(OTHER));
        }
        copy.delete(place)?;
    }
    copy.take_over(place, file)?;
    if let Some((_, used)) = &mut *quota.lock() {
        *used += on_disk(size);
    }
    Ok(None)
}

fn same(a: &Path, b: &Path) -> Result<bool> {
    let len = |path: &Path| fs::metadata(path).map(|meta| meta.len()).map_err(|e| Error::io("look at", path, e));
    if len(a)? != len(b)? {
        return Ok(false);
    }
    let mut hasher = blake3::Hasher::new();
    let mut file = fs::File::open(b).map_err(|e| Error::io("open", b, e))?;
    std::io::copy(&mut file, &mut hasher).map_err(|e| Error::io("read", b, e))?;
    is_named_by_hash(a, hasher.finalize().as_bytes())
}

fn largest(place: &Place) -> usize {
    match place {
        Place::Config | Place::ConfigCopy | Place::Key(_) => MAX_SMALL_OBJECT,
        Place::Pack(_) => MAX_PACK,
        Place::Footers(_) => MAX_ROLLUP,
        Place::Snapshot(_) => MAX_MANIFEST,
        Place::Log(_) | Place::Audit(_) => MAX_LOG_RECORD,
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).map_err(|e| Error::io("read", file, e))
}

/// Throws away what was announced.
fn drain(connection: &mut Connection) -> Result<()> {
    while connection.receiver().owed() > 0 {
        match connection.receiver().next()? {
            Some(Incoming::Message(Message::Fail(fail))) => return Err(fail.into_error()),
            Some(Incoming::Message(Message::Cut)) => return Ok(()),
            Some(_) => {}
            None => return Err(Error::new(Kind::Unreachable, "the connection ended too early")),
        }
    }
    Ok(())
}

/// The bytes of something small that was announced.
pub(super) fn gather(connection: &mut Connection, size: u64) -> Result<Vec<u8>> {
    let mut all = Vec::with_capacity((size as usize).min(MIB));
    while (all.len() as u64) < size {
        match connection.receiver().next()? {
            Some(Incoming::Data(bytes)) => all.extend_from_slice(bytes),
            Some(Incoming::Message(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Incoming::Message(Message::Fail(fail))) => return Err(fail.into_error()),
            Some(Incoming::Message(_)) => return Err(Error::new(Kind::Io, "an order was cut off")),
            None => return Err(Error::new(Kind::Unreachable, "the connection ended too early")),
        }
    }
    Ok(all)
}
