//! Packs between their arrival and their absorption: one file each, as long as what has arrived.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use repo::error::{Error, Result};
use repo::id::PackId;
use repo::limits::{MAX_PACK, MIB};

/// Bytes after which what has arrived is made durable.
pub const STEP: u64 = 8 * MIB as u64;
/// The largest pack that is taken.
pub const LARGEST: u64 = MAX_PACK as u64;
/// What a file counts as beside its bytes: many small ones fill a disk too.
pub const BLOCK: u64 = 4096;
/// What nobody came back for is dropped after this long.
const LIFE: Duration = Duration::from_secs(72 * 3600);

/// One tenant's spool.
pub struct Spool {
    dir: PathBuf,
    /// Bytes in it.
    held: Arc<AtomicU64>,
    /// Bytes that were announced and have not arrived.
    announced: Arc<AtomicU64>,
    /// What arrives just now: each by one connection.
    busy: Arc<Mutex<BTreeSet<PackId>>>,
}

/// A pack that arrives.
pub struct Arriving {
    file: File,
    path: PathBuf,
    held: Arc<AtomicU64>,
    announced: Announced,
    _busy: Busy,
    /// Bytes written.
    pub len: u64,
    /// Bytes that are durable.
    pub durable: u64,
}

/// Bytes that are to arrive: they count until this is dropped, or as far as they have arrived.
pub struct Announced {
    left: u64,
    all: Arc<AtomicU64>,
}

impl Announced {
    fn came(&mut self, bytes: u64) {
        let bytes = bytes.min(self.left);
        self.left -= bytes;
        self.all.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        self.came(self.left);
    }
}

/// Keeps other connections from a pack.
struct Busy(Arc<Mutex<BTreeSet<PackId>>>, PackId);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

impl Spool {
    /// In `dir`, which is made if it is absent. What is too old is dropped.
    ///
    /// # Errors
    /// What the system gives.
    pub fn open(dir: PathBuf) -> Result<Spool> {
        let failed = |e| Error::io("make the spool", &dir, e);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(failed)?;
        let spool = Spool { dir, held: Arc::default(), announced: Arc::default(), busy: Arc::default() };
        for (id, len) in spool.packs()? {
            let path = spool.path(&id);
            spool.held.fetch_add(len + BLOCK, Ordering::Relaxed);
            let age = fs::metadata(&path).and_then(|found| found.modified());
            if age.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > LIFE)) {
                spool.remove(&id)?;
            }
        }
        Ok(spool)
    }

    /// Packs of which something has arrived, and how much; ascending.
    ///
    /// # Errors
    /// What the system gives.
    pub fn packs(&self) -> Result<Vec<(PackId, u64)>> {
        let failed = |e| Error::io("list the spool", &self.dir, e);
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let id = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some(id) = id {
                found.push((id, entry.metadata().map_err(failed)?.len()));
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Bytes of all packs in it, as far as they have arrived or were announced; and something for each.
    pub fn bytes(&self) -> u64 {
        self.held.load(Ordering::Relaxed) + self.announced.load(Ordering::Relaxed)
    }

    /// Counts bytes that are to arrive.
    pub fn announce(&self, bytes: u64) -> Announced {
        self.announced.fetch_add(bytes, Ordering::Relaxed);
        Announced { left: bytes, all: Arc::clone(&self.announced) }
    }

    /// Forgets every pack.
    ///
    /// # Errors
    /// As [`Spool::remove`].
    pub fn clear(&self) -> Result<()> {
        self.packs()?.iter().try_for_each(|(id, _)| self.remove(id))
    }

    /// Goes on with a pack at byte `from`, at most what is there of it; what lies behind is dropped. The bytes that were
    /// announced no longer count once they are there.
    ///
    /// # Errors
    /// `Io` if less is there, or if it arrives by another connection; what the system gives.
    pub fn arrive(&self, id: &PackId, from: u64, announced: Announced) -> Result<Arriving> {
        let path = self.path(id);
        let failed = |e| Error::io("spool a pack in", &path, e);
        if !self.busy.lock().insert(*id) {
            return Err(Error::new(repo::error::Kind::Io, "a pack was sent by two connections at once"));
        }
        let busy = Busy(Arc::clone(&self.busy), *id);
        let new = !path.exists();
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(failed)?;
        if new {
            self.held.fetch_add(BLOCK, Ordering::Relaxed);
        }
        let there = file.metadata().map_err(failed)?.len();
        if from > there {
            return Err(Error::new(repo::error::Kind::Io, "a pack was to go on behind what is there of it"));
        }
        file.set_len(from).map_err(failed)?;
        self.held.fetch_sub(there - from, Ordering::Relaxed);
        let held = Arc::clone(&self.held);
        Ok(Arriving { file, path, held, announced, _busy: busy, len: from, durable: from })
    }

    /// A pack as far as it has arrived.
    ///
    /// # Errors
    /// What the system gives.
    pub fn read(&self, id: &PackId) -> Result<Vec<u8>> {
        let path = self.path(id);
        fs::read(&path).map_err(|e| Error::io("read a spooled pack", path, e))
    }

    /// Whether it lies on the same filesystem as `other`, as far as can be told.
    pub fn is_beside(&self, other: &Path) -> bool {
        let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).ok();
        device(&self.dir) == device(other)
    }

    /// Notes that a pack of so many bytes was moved out of it.
    pub fn moved(&self, bytes: u64) {
        self.held.fetch_sub(bytes + BLOCK, Ordering::Relaxed);
    }

    /// Forgets a pack.
    ///
    /// # Errors
    /// What the system gives, if it is not that it is gone.
    pub fn remove(&self, id: &PackId) -> Result<()> {
        let path = self.path(id);
        let len = fs::metadata(&path).map_or(0, |found| found.len());
        match fs::remove_file(&path) {
            Ok(()) => {
                self.held.fetch_sub(len + BLOCK, Ordering::Relaxed);
                Ok(())
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(Error::io("remove a spooled pack", path, e)),
        }
    }

    /// Where a pack is, or would be.
    pub fn path(&self, id: &PackId) -> PathBuf {
        self.dir.join(id.to_hex())
    }
}

impl Arriving {
    /// Adds bytes.
    ///
    /// # Errors
    /// What the system gives.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, self.len).map_err(|e| Error::io("spool a pack in", &self.path, e))?;
        self.len += bytes.len() as u64;
        self.held.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.announced.came(bytes.len() as u64);
        Ok(())
    }

    /// Makes durable what has arrived, and the name.
    ///
    /// # Errors
    /// What the system gives; nothing is acknowledged then.
    pub fn sync(&mut self) -> Result<()> {
        let failed = |path: &Path, e| Error::io("make a spooled pack durable in", path, e);
        self.file.sync_data().map_err(|e| failed(&self.path, e))?;
        let dir = self.path.parent().unwrap_or(&self.path);
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| failed(dir, e))?;
        self.durable = self.len;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pack_arrives_in_parts() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path().join("spool")).unwrap();
        let id = PackId([7; 32]);
        let mut arriving = spool.arrive(&id, 0, spool.announce(12)).unwrap();
        assert_eq!(spool.bytes(), 12 + BLOCK);
        arriving.write(b"packmule").unwrap();
        arriving.sync().unwrap();
        assert_eq!(spool.packs().unwrap(), [(id, 8)]);
        assert_eq!(spool.bytes(), 12 + BLOCK, "what has come was announced");
        assert!(spool.arrive(&id, 9, spool.announce(0)).is_err());
        assert!(spool.arrive(&id, 4, spool.announce(0)).is_err(), "by one connection at a time");
        drop(arriving);
        assert_eq!(spool.bytes(), 8 + BLOCK, "what does not come any more does not count");
        let mut again = spool.arrive(&id, 4, spool.announce(3)).unwrap();
        again.write(b"age").unwrap();
        assert_eq!((spool.read(&id).unwrap(), again.len, again.durable), (b"package".to_vec(), 7, 4));
        assert_eq!((spool.bytes(), Spool::open(dir.path().join("spool")).unwrap().bytes()), (7 + BLOCK, 7 + BLOCK));
        spool.remove(&id).unwrap();
        spool.remove(&id).unwrap();
        assert_eq!(spool.bytes(), 0);
        assert!(spool.packs().unwrap().is_empty());
    }

    #[test]
    fn what_nobody_came_back_for_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path().to_owned()).unwrap();
        let (old, new) = (PackId([1; 32]), PackId([2; 32]));
        spool.arrive(&old, 0, spool.announce(0)).unwrap().file.set_modified(SystemTime::now() - 2 * LIFE).unwrap();
        spool.arrive(&new, 0, spool.announce(0)).unwrap();
        let spool = Spool::open(dir.path().to_owned()).unwrap();
        assert_eq!(spool.packs().unwrap(), [(new, 0)]);
    }
}
