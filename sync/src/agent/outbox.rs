//! The state's storage: packs go to the site before they count as stored. Of packs of data nothing is kept but their tables
//! of contents, in a *stub*, which is written when the pack is durable at the site.
//!
//! ```text
//! stub  "PKMLSTUB" | size of the pack u64 LE | the pack's header 16 | its sealed footer | its trailer 12
//! ```
//! A stub reads as the pack where that is the same bytes; a read of anything else fails as `Damaged`.

use std::path::PathBuf;

use parking_lot::Mutex;
use repo::backend::local::Local;
use repo::backend::{Area, Backend, Object, Put};
use repo::crypto::keys::FrameKind;
use repo::error::{Error, Kind, Result};
use repo::format::pack::{HEADER, TRAILER, parse_header, parse_trailer};
use repo::id::PackId;

use super::courier::{Courier, Parcel};

const MAGIC: &[u8; 8] = b"PKMLSTUB";
/// Bytes before what is the pack's own.
const HEAD: usize = 16;

/// A directory, and the way to the site while there is one. Without it, packs are stored here as they are: those of trees that
/// tidying writes.
pub struct Outbox {
    inner: Local,
    courier: Mutex<Option<Courier>>,
}

impl Outbox {
    /// Over the state's directory.
    pub fn new(inner: Local) -> Outbox {
        Outbox { inner, courier: Mutex::new(None) }
    }

    /// From now on packs go to the site.
    pub fn attach(&self, courier: Courier) {
        *self.courier.lock() = Some(courier);
    }

    /// From now on they do not.
    pub fn detach(&self) -> Option<Courier> {
        self.courier.lock().take()
    }

    /// Uses the way to the site.
    ///
    /// # Errors
    /// What `work` gives.
    pub fn with<T>(&self, work: impl FnOnce(&mut Courier) -> Result<T>) -> Result<T> {
        let mut courier = self.courier.lock();
        work(courier.as_mut().ok_or_else(|| Error::bug("an agent's connection was used after its end"))?)
    }

    /// Notes packs that are durable at the site.
    fn keep(&self, landed: Vec<Parcel>) -> Result<()> {
        for parcel in landed {
            let object = Object::Pack(parcel.id);
            match parcel.footer.kind {
                FrameKind::Tree => self.inner.put(&object, &parcel.bytes)?,
                FrameKind::Data => self.inner.put(&object, &stub(&parcel.bytes)?)?,
            };
        }
        Ok(())
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
fn stub(pack: &[u8]) -> Result<Vec<u8>> {
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
                if let Some(courier) = self.courier.lock().as_mut() {
                    self.keep(courier.offer(*id, bytes.to_vec())?)?;
                    return Ok(Put::Created);
                }
            }
            Object::Footers(_) => {
                if let Some(courier) = self.courier.lock().as_mut() {
                    self.keep(courier.drain()?)?;
                }
            }
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
