//! The state's storage: packs go to the site before they count as stored. Of packs of data nothing is kept but their tables
//! of contents, in a *stub*, which is written when the pack is durable at the site.
//!
//! ```text
//! stub  "PKMLSTUB" | size of the pack u64 LE | the pack's header 16 | its sealed footer | its trailer 12
//! ```
//! A stub reads as the pack where that is the same bytes; a read of anything else fails as `Damaged`.

use std::path::PathBuf;

use crossbeam_channel::{Sender, bounded};
use parking_lot::Mutex;
use repo::backend::local::Local;
use repo::backend::{Area, Backend, Object, Put};
use repo::error::{Error, Kind, Result};
use repo::format::pack::{HEADER, TRAILER, parse_header, parse_trailer};
use repo::id::PackId;

use super::courier::{Parcel, Task};

const MAGIC: &[u8; 8] = b"PKMLSTUB";
/// Bytes before what is the pack's own.
const HEAD: usize = 16;

/// A directory, and the way to the site while there is one. Without it, packs are stored here as they are: those of trees that
/// tidying writes.
pub struct Outbox {
    inner: Local,
    courier: Mutex<Option<Sender<Task>>>,
}

impl Outbox {
    /// Over the state's directory.
    pub fn new(inner: Local) -> Outbox {
        Outbox { inner, courier: Mutex::new(None) }
    }

    /// From now on packs go to the site, by whoever does these tasks.
    pub fn attach(&self, tasks: Sender<Task>) {
        *self.courier.lock() = Some(tasks);
    }

    /// From now on they do not.
    pub fn detach(&self) {
        *self.courier.lock() = None;
    }

    /// Has a task done, if there is a way to the site, and notes the packs that are durable there; whether there is.
    fn ask(&self, task: impl FnOnce(Sender<Result<Vec<Parcel>>>) -> Task) -> Result<bool> {
        let Some(courier) = self.courier.lock().clone() else { return Ok(false) };
        let gone = || Error::new(Kind::Unreachable, "the connection to the site has ended").remedy("try again");
        let (tell, told) = bounded(1);
        courier.send(task(tell)).map_err(|_| gone())?;
        for parcel in told.recv().map_err(|_| gone())?? {
            self.inner.put(&Object::Pack(parcel.id), &parcel.kept)?;
        }
        Ok(true)
    }

    /// The size of the pack that a stub stands for; none for a whole pack, and for what is no pack.
    fn stands_for(&self, object: &Object) -> Result<Option<u64>> {
        if !matches!(object, Object::Pack(_)) {
            return Ok(None);
        }
        let mut head = [0; HEAD];
        match self.inner.read_into(object, 0, &mut head) {
            Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Damaged) => return Ok(None),
            other => other?,
        }
        let (magic, size) = head.split_at(8);
        Ok((magic == MAGIC).then(|| u64::from_le_bytes(size.try_into().unwrap_or_default())))
    }

    fn elsewhere(&self, object: &Object) -> Error {
        Error::damaged("this data is at the site alone:").at(self.path(object))
    }
}

/// What is kept of a pack of data.
pub fn stub(pack: &[u8]) -> Result<Vec<u8>> {
    let none = || Error::bug("a pack was to be kept that is none");
    let trailer = pack.last_chunk::<TRAILER>().ok_or_else(none)?;
    let tail = parse_trailer(trailer, pack.len() as u64)? as usize + TRAILER;
    parse_header(pack.first_chunk::<HEADER>().ok_or_else(none)?)?;
    Ok([MAGIC, &(pack.len() as u64).to_le_bytes()[..], &pack[..HEADER], &pack[pack.len() - tail..]].concat())
}

impl Backend for Outbox {
    /// A pack counts as stored, and is durable, only with the next roll-up, which waits for all before it.
    fn put(&self, object: &Object, bytes: &[u8]) -> Result<Put> {
        match object {
            Object::Pack(id) => {
                if self.inner.size(object)?.is_some() {
                    return Ok(Put::Exists);
                }
                if self.ask(|told| Task::Offer(*id, bytes.to_vec(), told))? {
                    return Ok(Put::Created);
                }
            }
            Object::Footers(_) => _ = self.ask(Task::Drain)?,
            _ => {}
        }
        self.inner.put(object, bytes)
    }

    fn read_into(&self, object: &Object, offset: u64, buf: &mut [u8]) -> Result<()> {
        let Some(size) = self.stands_for(object)? else { return self.inner.read_into(object, offset, buf) };
        let stored = self.inner.size(object)?.unwrap_or(0);
        let end = offset.saturating_add(buf.len() as u64);
        // What of the stub is the pack's end.
        let tail = stored.saturating_sub((HEAD + HEADER) as u64);
        if end <= HEADER as u64 {
            self.inner.read_into(object, HEAD as u64 + offset, buf)
        } else if end <= size && offset >= size.saturating_sub(tail) {
            self.inner.read_into(object, stored - (size - offset), buf)
        } else {
            Err(self.elsewhere(object))
        }
    }

    fn read_all(&self, object: &Object, max: usize) -> Result<Vec<u8>> {
        match self.stands_for(object)? {
            Some(_) => Err(self.elsewhere(object)),
            None => self.inner.read_all(object, max),
        }
    }

    fn size(&self, object: &Object) -> Result<Option<u64>> {
        match self.stands_for(object)? {
            Some(size) => Ok(Some(size)),
            None => self.inner.size(object),
        }
    }

    fn list(&self, area: Area, visit: &mut dyn FnMut(Object, u64) -> Result<()>) -> Result<()> {
        self.inner.list(area, &mut |object, stored| {
            let size = self.stands_for(&object)?.unwrap_or(stored);
            visit(object, size)
        })
    }

    fn delete(&self, object: &Object) -> Result<()> {
        self.inner.delete(object)
    }

    fn sync_deletes(&self, area: Area) -> Result<()> {
        self.inner.sync_deletes(area)
    }

    fn path(&self, object: &Object) -> PathBuf {
        self.inner.path(object)
    }

    fn free_space(&self) -> Result<Option<u64>> {
        self.inner.free_space()
    }

    fn writable(&self) -> bool {
        self.inner.writable()
    }

    /// A stub is written when its pack is durable at the site.
    fn vouches(&self, pack: &PackId) -> Result<bool> {
        Ok(self.stands_for(&Object::Pack(*pack))?.is_some())
    }

    // No reserve: a host that is backed up has better use for its disk, and its state can be made anew.

    fn prefetch(&self, object: &Object, offset: u64, len: u64) {
        self.inner.prefetch(object, offset, len);
    }

    fn close_handles(&self) {
        self.inner.close_handles();
    }
}
