//! A disk on which somebody else acts between two calls, and of which parts cannot be read.

use super::*;
use crate::backend::Put;
use crate::error::Error;

type Act = Box<dyn FnOnce() + Send>;

/// A disk on which somebody else acts once, at a call that `when` fits; and of which parts can be unreadable.
pub(super) struct Hooked {
    disk: Memory,
    armed: parking_lot::Mutex<Option<(When, Act)>>,
    pub(super) bad_sectors: parking_lot::Mutex<Vec<Object>>,
}

/// Just after a call, but for writing: there just before.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum When {
    Listed(Area),
    ReadRollup,
    ReadManifest,
    WriteManifest,
    WritePack,
}

impl Hooked {
    pub(super) fn on(bench: &Bench) -> Arc<Hooked> {
        let (armed, bad_sectors) = (parking_lot::Mutex::new(None), parking_lot::Mutex::default());
        Arc::new(Hooked { disk: bench.disk.clone(), armed, bad_sectors })
    }

    fn readable(&self, object: &Object) -> Result<()> {
        match self.bad_sectors.lock().contains(object) {
            true => Err(Error::io("read", self.path(object), std::io::Error::from_raw_os_error(libc::EIO))),
            false => Ok(()),
        }
    }

    pub(super) fn arm(&self, when: When, act: impl FnOnce() + Send + 'static) {
        *self.armed.lock() = Some((when, Box::new(act)));
    }

    fn came(&self, what: When) {
        let fits = self.armed.lock().take_if(|(when, _)| *when == what);
        if let Some((_, act)) = fits {
            act();
        }
    }

    pub(super) fn acted(&self) -> bool {
        self.armed.lock().is_none()
    }
}

impl Backend for Hooked {
    fn put(&self, object: &Object, bytes: &[u8]) -> Result<Put> {
        match object {
            Object::Snapshot(_) => self.came(When::WriteManifest),
            Object::Pack(_) => self.came(When::WritePack),
            _ => {}
        }
        self.disk.put(object, bytes)
    }

    fn read_into(&self, object: &Object, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.readable(object)?;
        self.disk.read_into(object, offset, buf)
    }

    fn read_all(&self, object: &Object, max: usize) -> Result<Vec<u8>> {
        self.readable(object)?;
        let bytes = self.disk.read_all(object, max);
        match object {
            Object::Footers(_) => self.came(When::ReadRollup),
            Object::Snapshot(_) => self.came(When::ReadManifest),
            _ => {}
        }
        bytes
    }

    fn size(&self, object: &Object) -> Result<Option<u64>> {
        self.disk.size(object)
    }

    fn list(&self, area: Area, visit: &mut dyn FnMut(Object, u64) -> Result<()>) -> Result<()> {
        self.disk.list(area, visit)?;
        self.came(When::Listed(area));
        Ok(())
    }

    fn delete(&self, object: &Object) -> Result<()> {
        self.disk.delete(object)
    }

    fn sync_deletes(&self, area: Area) -> Result<()> {
        self.disk.sync_deletes(area)
    }

    fn path(&self, object: &Object) -> PathBuf {
        self.disk.path(object)
    }

    fn free_space(&self) -> Result<Option<u64>> {
        self.disk.free_space()
    }

    fn writable(&self) -> bool {
        true
    }
}
