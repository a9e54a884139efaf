//! A backend that fails on purpose: the k-th operation, once or from then on.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::{Area, Backend, Object, Put};
use crate::error::{Error, Result};

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The device answers EIO; nothing was done.
    Io,
    /// The filesystem is full: puts fail with ENOSPC, all else works.
    NoSpace,
    /// Part of the bytes was written before the device gave up; a listing breaks off after its first name.
    Short,
    /// The sync of a new file fails: the object does not appear.
    SyncFile,
    /// The sync of a directory fails: the object was put or deleted, but the caller hears of a failure.
    SyncDir,
}

impl Fault {
    /// Every way to fail.
    pub const ALL: [Fault; 5] = [Fault::Io, Fault::NoSpace, Fault::Short, Fault::SyncFile, Fault::SyncDir];

    fn errno(self) -> i32 {
        if self == Fault::NoSpace { libc::ENOSPC } else { libc::EIO }
    }

    /// Whether this fault can strike something that changes nothing on disk.
    fn hits_reads(self) -> bool {
        matches!(self, Fault::Io | Fault::Short)
    }
}

/// Which operations fail, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The first operation to fail, counted from 0.
    pub at: u64,
    /// Whether all later ones fail too.
    pub persistent: bool,
    /// How.
    pub fault: Fault,
}

/// Counts the operations on another backend and fails those its plan names. An operation the
/// planned fault cannot strike (a full disk does not hinder reading) is counted and goes through.
pub struct Faulty {
    inner: Arc<dyn Backend>,
    count: AtomicU64,
    struck: AtomicU64,
    plan: Mutex<Option<Plan>>,
}

impl Faulty {
    /// Wraps `inner`; without a plan nothing fails.
    pub fn new(inner: Arc<dyn Backend>, plan: Option<Plan>) -> Faulty {
        Faulty { inner, count: AtomicU64::new(0), struck: AtomicU64::new(0), plan: Mutex::new(plan) }
    }

    /// Operations so far.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    /// Operations that were made to fail so far.
    pub fn struck(&self) -> u64 {
        self.struck.load(Ordering::SeqCst)
    }

    /// Starts counting anew, with this plan.
    pub fn rearm(&self, plan: Option<Plan>) {
        *self.plan.lock() = plan;
        self.count.store(0, Ordering::SeqCst);
        self.struck.store(0, Ordering::SeqCst);
    }

    /// Counts one operation; the fault if it is to fail.
    fn strike(&self, applies: impl Fn(Fault) -> bool) -> Option<Fault> {
        let now = self.count.fetch_add(1, Ordering::SeqCst);
        let plan = (*self.plan.lock())?;
        let hit = if plan.persistent { now >= plan.at } else { now == plan.at };
        if !hit || !applies(plan.fault) {
            return None;
        }
        self.struck.fetch_add(1, Ordering::SeqCst);
        Some(plan.fault)
    }

    fn reading(&self, object: &Object) -> Result<()> {
        match self.strike(Fault::hits_reads) {
            Some(fault) => Err(failed("read", self.path(object), fault)),
            None => Ok(()),
        }
    }
}

fn failed(doing: &str, path: impl AsRef<Path>, fault: Fault) -> Error {
    Error::io(doing, path, io::Error::from_raw_os_error(fault.errno()))
}

impl Backend for Faulty {
    fn put(&self, object: &Object, bytes: &[u8]) -> Result<Put> {
        match self.strike(|_| true) {
            None => self.inner.put(object, bytes),
            Some(Fault::SyncDir) => {
                self.inner.put(object, bytes)?;
                Err(failed("sync the directory of", self.path(object), Fault::SyncDir))
            }
            Some(fault) => Err(failed("write", self.path(object), fault)),
        }
    }

    fn read_into(&self, object: &Object, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.reading(object)?;
        self.inner.read_into(object, offset, buf)
    }

    fn read_all(&self, object: &Object, max: usize) -> Result<Vec<u8>> {
        self.reading(object)?;
        self.inner.read_all(object, max)
    }

    fn size(&self, object: &Object) -> Result<Option<u64>> {
        self.reading(object)?;
        self.inner.size(object)
    }

    fn list(&self, area: Area, visit: &mut dyn FnMut(Object, u64) -> Result<()>) -> Result<()> {
        let Some(fault) = self.strike(Fault::hits_reads) else {
            return self.inner.list(area, visit);
        };
        let path = self.path(&Object::Config).with_file_name(area.dir());
        let mut left = u32::from(fault == Fault::Short);
        self.inner.list(area, &mut |object, size| {
            if left == 0 {
                return Err(failed("list", &path, fault));
            }
            left -= 1;
            visit(object, size)
        })?;
        Err(failed("list", path, fault))
    }

    fn delete(&self, object: &Object) -> Result<()> {
        match self.strike(Fault::hits_reads) {
            Some(fault) => Err(failed("delete", self.path(object), fault)),
            None => self.inner.delete(object),
        }
    }

    fn sync_deletes(&self, area: Area) -> Result<()> {
        let path = || self.path(&Object::Config).with_file_name(area.dir());
        match self.strike(|f| matches!(f, Fault::Io | Fault::SyncDir)) {
            Some(fault) => Err(failed("sync the directory", path(), fault)),
            None => self.inner.sync_deletes(area),
        }
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

    fn release_reserve(&self) -> Result<()> {
        self.inner.release_reserve()
    }

    fn restore_reserve(&self) -> Result<bool> {
        self.inner.restore_reserve()
    }

    fn prefetch(&self, object: &Object, offset: u64, len: u64) {
        self.inner.prefetch(object, offset, len);
    }

    fn close_handles(&self) {
        self.inner.close_handles();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::memory::Memory;
    use crate::error::Kind;

    #[test]
    fn the_planned_operation_fails_once_or_for_good() {
        for persistent in [false, true] {
            let disk = Memory::new();
            let b = Faulty::new(Arc::new(disk), Some(Plan { at: 1, persistent, fault: Fault::NoSpace }));
            b.put(&Object::Log(0), b"a").unwrap();
            assert_eq!(b.put(&Object::Log(1), b"a").unwrap_err().kind(), Kind::NoSpace);
            assert_eq!(b.size(&Object::Log(1)).unwrap(), None);
            assert_eq!(b.put(&Object::Log(1), b"a").is_ok(), !persistent);
            assert_eq!(b.read_all(&Object::Log(0), 9).unwrap(), b"a");
            assert_eq!((b.count(), b.struck()), (5, if persistent { 2 } else { 1 }));
        }
    }

    #[test]
    fn a_failed_directory_sync_leaves_the_object() {
        let b = Faulty::new(Arc::new(Memory::new()), Some(Plan { at: 0, persistent: false, fault: Fault::SyncDir }));
        assert_eq!(b.put(&Object::Log(0), b"a").unwrap_err().kind(), Kind::Io);
        assert_eq!(b.put(&Object::Log(0), b"a").unwrap(), Put::Exists);
    }

    #[test]
    fn a_broken_listing_is_never_taken_for_a_short_one() {
        for fault in [Fault::Io, Fault::Short] {
            let disk = Arc::new(Memory::new());
            (0..3).for_each(|n| assert!(disk.put(&Object::Log(n), b"").is_ok()));
            let b = Faulty::new(disk, Some(Plan { at: 0, persistent: true, fault }));
            let mut seen = 0;
            assert!(
                b.list(Area::Log, &mut |_, _| {
                    seen += 1;
                    Ok(())
                })
                .is_err()
            );
            assert_eq!(seen, u32::from(fault == Fault::Short));
        }
    }
}
