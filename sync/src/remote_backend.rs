//! A sealed copy at a pool, read over connections as a repository's objects are: so it can be opened, mounted and restored
//! from with the keys that its owner has, without being copied first.

use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use repo::backend::{Area, Backend, Object, Put};
use repo::error::{Error, Kind, Result};
use repo::id::RepoId;

use crate::fetch::{Dial, unexpected};
use crate::sealed::remote::{named, stored};
use crate::wire::limits::MAX_OBJECT;
use crate::wire::{Area as NamedArea, Connection, Incoming, Message, Object as Named, Preface, Purpose, Side};

/// Connections kept open while nobody uses them.
const IDLE: usize = 4;

/// A copy at the other end of connections that are made when they are needed: as many as threads read at once.
pub struct RemoteBackend {
    dial: Dial,
    repository: RepoId,
    program: String,
    place: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

/// An object's bytes from somewhere on, and the size of the whole.
struct Part {
    size: u64,
    bytes: Vec<u8>,
}

impl RemoteBackend {
    /// The copy of `repository` that `dial` reaches; an id of zeros stands for whatever the tenant's is. `place` is for messages.
    pub fn new(dial: Dial, repository: RepoId, program: &str, place: &Path) -> RemoteBackend {
        let (program, place) = (program.to_owned(), place.to_owned());
        RemoteBackend { dial, repository, program, place, idle: Mutex::default() }
    }

    fn connect(&self) -> Result<Connection> {
        let mut connection = Connection::open((self.dial)()?, Side::Client, &Preface::ours())?;
        let (purpose, position) = (Purpose::Pull, repo::format::record::Position::START);
        let (repository, program) = (self.repository, self.program.clone());
        connection.send(&Message::Begin { purpose, repository, position, program })?;
        connection.flush()?;
        match connection.receive()? {
            Some(Message::Ready { sealed: true, .. }) => Ok(connection),
            Some(Message::Ready { .. }) => {
                Err(Error::new(Kind::Unsupported, "this tenant is pooled: it has no sealed copy"))
            }
            other => Err(unexpected(other)),
        }
    }

    /// Asks over a connection that nobody uses; once more over a new one if that is found broken.
    fn ask<T>(&self, question: &mut dyn FnMut(&mut Connection) -> Result<T>) -> Result<T> {
        let waiting = self.idle.lock().pop();
        if let Some(mut open) = waiting {
            match question(&mut open) {
                Ok(answer) => {
                    self.keep(open);
                    return Ok(answer);
                }
                Err(e) if e.kind() != Kind::Unreachable => return Err(e),
                Err(_) => {}
            }
        }
        let mut open = self.connect()?;
        let answer = question(&mut open)?;
        self.keep(open);
        Ok(answer)
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle.lock();
        if idle.len() < IDLE {
            idle.push(connection);
        }
    }

    /// Up to `most` bytes from `from` on; none if there is no such object, or it ends before.
    fn part(&self, object: &Object, from: u64, most: u64) -> Result<Option<Part>> {
        let wanted = named(object)?;
        self.ask(&mut |connection| {
            connection.send(&Message::Want { object: wanted.clone(), from, most })?;
            connection.flush()?;
            match connection.receive()? {
                Some(Message::Lacking { object }) if object == wanted => Ok(None),
                Some(Message::Given { object, size, from: at, bytes })
                    if object == wanted && at == from && bytes == most.min(size - from) =>
                {
                    gather(connection, bytes).map(|bytes| Some(Part { size, bytes }))
                }
                other => Err(unexpected(other)),
            }
        })
    }

    fn absent(&self, object: &Object) -> Error {
        Error::new(Kind::NotFound, "the pool does not have").at(self.path(object))
    }

    fn read_only(&self, object: &Object) -> Error {
        Error::new(Kind::ReadOnly, "a copy at a pool is written by pushes alone:").at(self.path(object))
    }
}

impl Backend for RemoteBackend {
    fn put(&self, object: &Object, _: &[u8]) -> Result<Put> {
        Err(self.read_only(object))
    }

    fn read_into(&self, object: &Object, offset: u64, buf: &mut [u8]) -> Result<()> {
        if buf.is_empty() {
            return Ok(());
        }
        let part = self.part(object, offset, buf.len() as u64)?;
        // Whether it is absent or too short is told by its beginning.
        let Some(part) = part else {
            let there = self.size(object)?.is_some();
            return Err(if there { self.short(object) } else { self.absent(object) });
        };
        if part.bytes.len() != buf.len() {
            return Err(self.short(object));
        }
        buf.copy_from_slice(&part.bytes);
        Ok(())
    }

    fn read_all(&self, object: &Object, max: usize) -> Result<Vec<u8>> {
        let most = (max as u64).saturating_add(1).min(MAX_OBJECT);
        let part = self.part(object, 0, most)?.ok_or_else(|| self.absent(object))?;
        if part.size > max as u64 {
            return Err(Error::damaged("the stored object is larger than any of its kind may be").at(self.path(object)));
        }
        Ok(part.bytes)
    }

    fn size(&self, object: &Object) -> Result<Option<u64>> {
        Ok(self.part(object, 0, 1)?.map(|part| part.size))
    }

    fn list(&self, area: Area, visit: &mut dyn FnMut(Object, u64) -> Result<()>) -> Result<()> {
        let area = match area {
            Area::Keys => NamedArea::Keys,
            Area::Packs => NamedArea::Packs,
            Area::Footers => NamedArea::Footers,
            Area::Snapshots => NamedArea::Snapshots,
            Area::Log => NamedArea::Log,
        };
        // The audit's segments lie beside the log.
        let beside = (area == NamedArea::Log).then_some(NamedArea::Audit);
        for area in [Some(area), beside].into_iter().flatten() {
            let all = self.listed(area)?;
            all.iter()
                .filter_map(|(name, size)| Some((stored(name)?, *size)))
                .try_for_each(|(object, size)| visit(object, size))?;
        }
        Ok(())
    }

    fn delete(&self, object: &Object) -> Result<()> {
        Err(self.read_only(object))
    }

    fn sync_deletes(&self, _: Area) -> Result<()> {
        Ok(())
    }

    fn path(&self, object: &Object) -> PathBuf {
        self.place.join(object.path())
    }

    fn free_space(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    fn writable(&self) -> bool {
        false
    }

    fn close_handles(&self) {
        // One that was lost meanwhile is found out the next time.
        self.idle.lock().truncate(1);
    }
}

impl RemoteBackend {
    fn short(&self, object: &Object) -> Error {
        Error::damaged("the stored object is shorter than it should be").at(self.path(object))
    }

    /// Everything in an area, with sizes.
    ///
    /// # Errors
    /// `Unreachable`; what the pool says.
    pub fn listed(&self, area: NamedArea) -> Result<Vec<(Named, u64)>> {
        self.ask(&mut |connection| {
            let mut all: Vec<(Named, u64)> = Vec::new();
            loop {
                let after = all.last().map(|(object, _)| object.clone());
                connection.send(&Message::Objects { area, after })?;
                connection.flush()?;
                match connection.receive()? {
                    Some(Message::Listing { area: of, objects, more }) if of == area => {
                        all.extend(objects.into_iter().map(|listed| (listed.object, listed.size)));
                        if !more {
                            return Ok(all);
                        }
                    }
                    other => return Err(unexpected(other)),
                }
            }
        })
    }

    /// A file of state, whole.
    ///
    /// # Errors
    /// As [`Backend::read_all`].
    pub fn read_named(&self, wanted: &Named) -> Result<Vec<u8>> {
        let part = self.ask(&mut |connection| {
            connection.send(&Message::Want { object: wanted.clone(), from: 0, most: MAX_OBJECT })?;
            connection.flush()?;
            match connection.receive()? {
                Some(Message::Lacking { .. }) => Ok(None),
                Some(Message::Given { object, bytes, from: 0, .. }) if object == *wanted => {
                    gather(connection, bytes).map(Some)
                }
                other => Err(unexpected(other)),
            }
        })?;
        part.ok_or_else(|| Error::new(Kind::NotFound, format!("the pool does not have {wanted:?}")))
    }
}

/// The bytes that were announced.
fn gather(connection: &mut Connection, size: u64) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    while (all.len() as u64) < size {
        match connection.receiver().next()? {
            Some(Incoming::Data(bytes)) => all.extend_from_slice(bytes),
            Some(Incoming::Message(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Incoming::Message(other)) => return Err(unexpected(Some(other))),
            None => return Err(unexpected(None)),
        }
    }
    Ok(all)
}
