//! A backend in memory, for tests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Area, Backend, Object, Put, absent, ends_early, too_large};
use crate::error::Result;

/// Objects in memory. Clones share them, as processes share a directory.
#[derive(Clone, Default)]
pub struct Memory {
    objects: Arc<Mutex<BTreeMap<Object, Arc<Vec<u8>>>>>,
}

impl Memory {
    /// An empty one.
    pub fn new() -> Memory {
        Memory::default()
    }

    /// Changes an object's bytes behind everybody's back; false if it is absent.
    pub fn damage(&self, object: &Object, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        match self.objects.lock().get_mut(object) {
            Some(bytes) => {
                change(Arc::make_mut(bytes));
                true
            }
            None => false,
        }
    }

    /// A separate copy of everything as it is now, as a disk image would be.
    pub fn snapshot(&self) -> Memory {
        Memory { objects: Arc::new(Mutex::new(self.objects.lock().clone())) }
    }

    fn get(&self, object: &Object) -> Result<Arc<Vec<u8>>> {
        self.objects.lock().get(object).cloned().ok_or_else(|| absent(self.path(object)))
    }
}

impl Backend for Memory {
    fn put(&self, object: &Object, bytes: &[u8]) -> Result<Put> {
        let mut objects = self.objects.lock();
        if objects.contains_key(object) {
            return Ok(Put::Exists);
        }
        objects.insert(object.clone(), Arc::new(bytes.to_vec()));
        Ok(Put::Created)
    }

    fn read_into(&self, object: &Object, offset: u64, buf: &mut [u8]) -> Result<()> {
        let bytes = self.get(object)?;
        let from = usize::try_from(offset).ok().and_then(|start| bytes.get(start..)?.get(..buf.len()));
        buf.copy_from_slice(from.ok_or_else(|| ends_early(self.path(object)))?);
        Ok(())
    }

    fn read_all(&self, object: &Object, max: usize) -> Result<Vec<u8>> {
        let bytes = self.get(object)?;
        if bytes.len() > max { Err(too_large(self.path(object))) } else { Ok(bytes.to_vec()) }
    }

    fn size(&self, object: &Object) -> Result<Option<u64>> {
        Ok(self.objects.lock().get(object).map(|b| b.len() as u64))
    }

    fn list(&self, area: Area, visit: &mut dyn FnMut(Object, u64) -> Result<()>) -> Result<()> {
        // Visited without the lock, so that a visitor may use the backend.
        let found: Vec<_> = self
            .objects
            .lock()
            .iter()
            .filter(|(object, _)| object.area() == Some(area))
            .map(|(object, bytes)| (object.clone(), bytes.len() as u64))
            .collect();
        found.into_iter().try_for_each(|(object, size)| visit(object, size))
    }

    fn delete(&self, object: &Object) -> Result<()> {
        self.objects.lock().remove(object);
        Ok(())
    }

    fn sync_deletes(&self, _: Area) -> Result<()> {
        Ok(())
    }

    fn path(&self, object: &Object) -> PathBuf {
        Path::new("memory:").join(object.path())
    }

    fn free_space(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    fn writable(&self) -> bool {
        true
    }
}
