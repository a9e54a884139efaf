//! A repository in a directory of a mounted filesystem.
//!
//! A new object is written to `tmp/`, synced, renamed without replacing, and its directory synced; only then is
//! it referred to. So whatever moment the process or the machine stops at, a name outside `tmp/` is a complete object.

mod copy;
mod drive;
mod layout;
mod publish;
mod temp;
mod unmade;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lru::LruCache;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use parking_lot::Mutex;

use super::{Area, Backend, Growing, Object, Put, ends_early, read_only, too_large};
use crate::error::{Error, Kind, Result};
use crate::id::PackId;
use crate::limits::KIB;
pub(crate) use layout::cannot_look;
use publish::Publisher;
use temp::Temp;
pub use unmade::Unmade;

/// Packs kept open for reading.
const OPEN_PACKS: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");

/// What is streamed is written in pieces of so many bytes.
const BLOCK: usize = 512 * KIB;

/// A repository's directory.
pub struct Local {
    root: PathBuf,
    read_only: bool,
    /// Permission bits of new files.
    mode: u32,
    publisher: Publisher,
    packs: Mutex<LruCache<PackId, Arc<File>>>,
    /// Directories with deletions that are not yet durable.
    unsynced: Mutex<BTreeSet<PathBuf>>,
}

impl Local {
    /// Lays out a new repository in `root`, which may exist if it is empty. Everything but the config object, which
    /// the caller puts last and which makes it a repository.
    ///
    /// # Errors
    /// `Exists` if `root` holds a repository, `Refused` if it holds anything else, `NoSpace` if the reserve finds no room.
    pub fn create(root: &Path) -> Result<Local> {
        let root = layout::create(root)?;
        let local = Local::at(root, false)?;
        if !local.restore_reserve()? {
            return Err(Error::new(Kind::NoSpace, "no room for the reserve of 64 MiB in").at(&local.root));
        }
        Ok(local)
    }

    /// Opens the repository in `root`. A writable open drops temporary files that nobody writes any more.
    ///
    /// # Errors
    /// `NoRepository` without a config, `ReadOnly` if `root` cannot be written and `read_only` is false.
    pub fn open(root: &Path, read_only: bool) -> Result<Local> {
        let root = layout::check(root)?;
        if !read_only {
            layout::prepare_writing(&root)?;
            temp::drop_abandoned(&root.join(layout::TMP));
        }
        Local::at(root, read_only)
    }

    fn at(root: PathBuf, read_only: bool) -> Result<Local> {
        let found = fs::metadata(&root).map_err(|e| Error::io("open", &root, e))?;
        Ok(Local {
            read_only,
            // As open to the group as the root itself; never to others.
            mode: (found.mode() & 0o060) | 0o600,
            publisher: Publisher::new(root.join(layout::LOCK)),
            packs: Mutex::new(LruCache::new(OPEN_PACKS)),
            unsynced: Mutex::new(BTreeSet::new()),
            root,
        })
    }

    /// Where to keep an invitation that is taken up until the repository in `root` is there: it is in nobody's way.
    pub fn invitation_path(root: &Path) -> PathBuf {
        root.join(layout::INVITATION)
    }

    /// The repository's directory, absolute.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file whose bytes are the repository's locks.
    pub fn lock_path(&self) -> PathBuf {
        self.root.join(layout::LOCK)
    }

    /// As [`Backend::put`], of a file that is there already on the same filesystem, and goes away in any case.
    ///
    /// # Errors
    /// As [`Backend::put`].
    pub fn take_over(&self, object: &Object, file: &Path) -> Result<Put> {
        let target = self.path(object);
        if self.read_only {
            return Err(read_only(target));
        }
        let put = self.publisher.publish(Temp::of(file)?, &target).map_err(Error::full_repository)?;
        sync_parent(&target)?;
        Ok(put)
    }

    /// Syncs what is written, and gives it its name.
    fn publish(&self, mut temp: Temp, target: &Path) -> Result<Put> {
        let publish = || {
            temp.sync()?;
            let put = self.publisher.publish(temp, target)?;
            // Also when another process was first: its own sync may still be under way.
            sync_parent(target)?;
            Ok(put)
        };
        publish().map_err(Error::full_repository)
    }

    fn begin(&self) -> Result<Temp> {
        Temp::create(&self.root.join(layout::TMP), self.mode).map_err(Error::full_repository)
    }

    /// Puts what `write` writes.
    fn put_by(&self, object: &Object, write: &mut dyn FnMut(&mut Temp) -> Result<()>) -> Result<Put> {
        let target = self.path(object);
        if self.read_only {
            return Err(read_only(target));
        }
        match fs::symlink_metadata(&target) {
            Ok(_) => {
                sync_parent(&target)?;
                return Ok(Put::Exists);
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("look at", target, e)),
        }
        let mut temp = self.begin()?;
        write(&mut temp)?;
        self.publish(temp, &target)
    }

    fn open_file(&self, object: &Object) -> Result<File> {
        let path = self.path(object);
        // Whoever had a drive may have put a pipe there, which is not to be waited for.
        let open = || {
            let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&path)?;
            let is_file = file.metadata()?.is_file();
            Ok((file, is_file))
        };
        match open().map_err(|e| Error::io("open", &path, e))? {
            (file, true) => Ok(file),
            (_, false) => Err(no_file(path)),
        }
    }

    /// A handle for reading; a pack's stays open for the next read.
    fn handle(&self, object: &Object) -> Result<Arc<File>> {
        let Object::Pack(id) = object else {
            return self.open_file(object).map(Arc::new);
        };
        if let Some(file) = self.packs.lock().get(id) {
            return Ok(file.clone());
        }
        let file = Arc::new(self.open_file(object)?);
        self.packs.lock().put(*id, file.clone());
        Ok(file)
    }

    fn read_once(&self, object: &Object, offset: u64, buf: &mut [u8]) -> Result<()> {
        match self.handle(object)?.read_exact_at(buf, offset) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(ends_early(self.path(object))),
            Err(e) => Err(Error::io("read", self.path(object), e)),
        }
    }

    fn list_dir(&self, dir: &Path, area: Area, visit: &mut dyn FnMut(Object, u64) -> Result<()>) -> Result<()> {
        for name in sorted_names(dir)? {
            let Some(object) = area.parse(&name) else { continue };
            let path = dir.join(&name);
            if path != self.path(&object) {
                continue;
            }
            match fs::symlink_metadata(&path) {
                Ok(found) if found.is_file() => visit(object, found.len())?,
                Ok(_) => {}
                // Deleted since the name was read: not there.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(Error::io("look at", path, e)),
            }
        }
        Ok(())
    }
}

/// An object that grows in a file under `tmp/`.
pub struct GrowingFile {
    temp: Temp,
    size: u64,
}

impl GrowingFile {
    /// Adds to its end.
    ///
    /// # Errors
    /// What the system gives.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.size += bytes.len() as u64;
        self.temp.append(bytes).map_err(Error::full_repository)
    }

    /// Bytes so far.
    pub fn size(&self) -> u64 {
        self.size
    }
}

impl Backend for Local {
    fn put(&self, object: &Object, bytes: &[u8]) -> Result<Put> {
        self.put_by(object, &mut |temp| temp.append(bytes).map_err(Error::full_repository))
    }

    fn put_stream(&self, object: &Object, size: usize, next: &mut dyn FnMut(&mut [u8]) -> Result<()>) -> Result<Put> {
        self.put_by(object, &mut |temp| {
            // What is read, hashed and written while it is in the processor's cache costs half of what a whole pack does.
            let (mut block, mut left) = (vec![0; BLOCK.min(size)], size);
            while left > 0 {
                let some = &mut block[..left.min(BLOCK)];
                next(some)?;
                temp.append(some).map_err(Error::full_repository)?;
                left -= some.len();
            }
            Ok(())
        })
    }

    fn grow(&self) -> Result<Growing> {
        if self.read_only {
            return Err(read_only(self.root.clone()));
        }
        self.begin().map(|temp| Growing::File(GrowingFile { temp, size: 0 }))
    }

    fn put_grown(&self, object: &Object, grown: Growing) -> Result<Put> {
        match grown {
            Growing::Memory(bytes) => self.put(object, &bytes),
            Growing::File(file) => self.publish(file.temp, &self.path(object)),
        }
    }

    fn read_into(&self, object: &Object, offset: u64, buf: &mut [u8]) -> Result<()> {
        match self.read_once(object, offset, buf) {
            // A network filesystem gave the handle up: once more with a new one.
            Err(e) if e.errno() == Some(libc::ESTALE) => {
                if let Object::Pack(id) = object {
                    self.packs.lock().pop(id);
                }
                self.read_once(object, offset, buf)
            }
            done => done,
        }
    }

    fn read_all(&self, object: &Object, max: usize) -> Result<Vec<u8>> {
        let failed = |e| Error::io("read", self.path(object), e);
        let file = self.open_file(object)?;
        let size = file.metadata().map_err(failed)?.len();
        if size > max as u64 {
            return Err(too_large(self.path(object)));
        }
        let mut bytes = Vec::with_capacity(size as usize + 1);
        file.take(max as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() > max { Err(too_large(self.path(object))) } else { Ok(bytes) }
    }

    fn size(&self, object: &Object) -> Result<Option<u64>> {
        let path = self.path(object);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_file() => Ok(Some(found.len())),
            Ok(_) => Err(no_file(path)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("look at", path, e)),
        }
    }

    fn list(&self, area: Area, visit: &mut dyn FnMut(Object, u64) -> Result<()>) -> Result<()> {
        let dir = self.root.join(area.dir());
        if area != Area::Packs {
            return self.list_dir(&dir, area, visit);
        }
        for shard in sorted_names(&dir)?.into_iter().filter(|name| layout::is_shard(name)) {
            self.list_dir(&dir.join(shard), area, visit)?;
        }
        Ok(())
    }

    fn delete(&self, object: &Object) -> Result<()> {
        let path = self.path(object);
        if self.read_only {
            return Err(read_only(path));
        }
        if let Object::Pack(id) = object {
            self.packs.lock().pop(id);
        }
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::io("delete", path, e)),
            // Absent is noted too: the deletion may be an earlier process's that did not get to the sync.
            _ => {}
        }
        self.unsynced.lock().extend(path.parent().map(Path::to_owned));
        Ok(())
    }

    fn sync_deletes(&self, area: Area) -> Result<()> {
        let below = self.root.join(area.dir());
        let mut unsynced = self.unsynced.lock();
        // Forgotten before they are synced: a sync that failed is reported once and not repeated as if clean.
        let (dirs, rest) = std::mem::take(&mut *unsynced).into_iter().partition(|dir| dir.starts_with(&below));
        *unsynced = rest;
        drop(unsynced);
        let dirs: BTreeSet<PathBuf> = dirs;
        dirs.iter().try_for_each(|dir| sync_dir(dir))
    }

    fn path(&self, object: &Object) -> PathBuf {
        self.root.join(object.path())
    }

    fn free_space(&self) -> Result<Option<u64>> {
        let found = nix::sys::statvfs::statvfs(&self.root)
            .map_err(|e| Error::io("ask for the free space of", &self.root, e.into()))?;
        Ok(Some(found.blocks_available() as u64 * found.fragment_size() as u64))
    }

    fn writable(&self) -> bool {
        !self.read_only
    }

    fn release_reserve(&self) -> Result<()> {
        let path = self.root.join(layout::RESERVE);
        if self.read_only {
            return Err(read_only(path));
        }
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("release", path, e)),
            _ => Ok(()),
        }
    }

    fn restore_reserve(&self) -> Result<bool> {
        let path = self.root.join(layout::RESERVE);
        if self.read_only {
            return Err(read_only(path));
        }
        layout::reserve(&path, self.mode)
    }

    fn prefetch(&self, object: &Object, offset: u64, len: u64) {
        // A hint: whatever fails here, the read itself will report.
        if let Ok(file) = self.handle(object) {
            let range = (offset as i64, len as i64);
            let _ = posix_fadvise(&*file, range.0, range.1, PosixFadviseAdvice::POSIX_FADV_WILLNEED);
        }
    }

    fn close_handles(&self) {
        self.packs.lock().clear();
    }
}

fn no_file(path: PathBuf) -> Error {
    Error::damaged("an object's place is taken by something that is no file").at(path)
}

/// The names in a directory, sorted. Names that are not UTF-8 are nobody's and left out.
fn sorted_names(dir: &Path) -> Result<Vec<String>> {
    let failed = |e| {
        // Even a missing directory: "not there" must not pass for "empty", nor for an absent object.
        let e = Error::io("list", dir, e);
        if e.kind() == Kind::NotFound { e.with_kind(Kind::Io) } else { e }
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        names.extend(entry.map_err(failed)?.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names)
}

fn sync_parent(path: &Path) -> Result<()> {
    path.parent().map_or(Ok(()), sync_dir)
}

/// Makes the names in a directory durable, where the filesystem can be asked to.
fn sync_dir(dir: &Path) -> Result<()> {
    let failed = |e| Error::io("sync the directory", dir, e);
    let file = File::open(dir).map_err(failed)?;
    match file.sync_all() {
        // These have no such operation (SMB, some FUSE): names are as durable there as they can be.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP)) => Ok(()),
        done => done.map_err(failed),
    }
}

#[cfg(test)]
mod tests;
