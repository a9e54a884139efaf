//! Giving a finished file its name without ever replacing another, on filesystems of every kind.

use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::temp::{Temp, cannot_write};
use super::{Put, sync_dir};
use crate::backend::try_lock;
use crate::error::{Error, Result};

/// The byte of the lock file held while a name is checked and then taken in two steps. `docs/locking.md` lists all bytes.
const PUBLISH_BYTE: u64 = 2;

/// The ways to do it, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// `renameat2(RENAME_NOREPLACE)`: local filesystems.
    Rename = 0,
    /// `link` and `unlink`: NFS.
    Link = 1,
    /// Check, then rename, under a lock: exFAT, some SMB servers.
    CheckedRename = 2,
}

impl Way {
    fn next(self) -> Option<Way> {
        match self {
            Way::Rename => Some(Way::Link),
            Way::Link => Some(Way::CheckedRename),
            Way::CheckedRename => None,
        }
    }
}

/// Publishes temporary files, and remembers the way that worked.
pub(super) struct Publisher {
    lock_path: PathBuf,
    /// Keeps this process's threads apart where the filesystem has no locks either.
    threads: Mutex<()>,
    way: AtomicU8,
}

impl Publisher {
    pub(super) fn new(lock_path: PathBuf) -> Publisher {
        Publisher { lock_path, threads: Mutex::new(()), way: AtomicU8::new(Way::Rename as u8) }
    }

    /// Starts with `way` instead of the best, to test it where the filesystem knows them all.
    #[cfg(test)]
    pub(super) fn use_way(&self, way: Way) {
        self.way.store(way as u8, Ordering::Relaxed);
    }

    /// Moves `temp` to `target` unless that exists. The caller syncs the directory.
    pub(super) fn publish(&self, temp: Temp, target: &Path) -> Result<Put> {
        let mut way = match self.way.load(Ordering::Relaxed) {
            0 => Way::Rename,
            1 => Way::Link,
            _ => Way::CheckedRename,
        };
        let mut made_dir = false;
        loop {
            match self.try_way(way, &temp, target) {
                Ok(()) => {
                    self.way.fetch_max(way as u8, Ordering::Relaxed);
                    temp.moved();
                    return Ok(Put::Created);
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(Put::Exists),
                // A copy made by a tool that leaves out empty directories lacks some of the packs' directories.
                Err(e) if e.kind() == io::ErrorKind::NotFound && !made_dir && is_shard_missing(target) => {
                    make_shard(target)?;
                    made_dir = true;
                }
                Err(e) => match way.next() {
                    Some(next) if is_refusal(&e) => way = next,
                    _ => return Err(cannot_write(target, e)),
                },
            }
        }
    }

    fn try_way(&self, way: Way, temp: &Temp, target: &Path) -> io::Result<()> {
        match way {
            Way::Rename => rename_noreplace(temp.path(), target),
            Way::Link => link(temp, target),
            Way::CheckedRename => self.checked_rename(temp, target),
        }
    }

    fn checked_rename(&self, temp: &Temp, target: &Path) -> io::Result<()> {
        let _threads = self.threads.lock();
        let _processes = self.hold_publish_byte()?;
        match fs::symlink_metadata(target) {
            Ok(_) => Err(io::Error::from_raw_os_error(libc::EEXIST)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => fs::rename(temp.path(), target),
            Err(e) => Err(e),
        }
    }

    /// The opened lock file with its byte held, until dropped; none where the filesystem has no locks.
    fn hold_publish_byte(&self) -> io::Result<Option<fs::File>> {
        let file = OpenOptions::new().write(true).open(&self.lock_path)?;
        loop {
            match try_lock(&file, PUBLISH_BYTE) {
                Ok(true) => return Ok(Some(file)),
                // Held for a rename only.
                Ok(false) => std::thread::sleep(Duration::from_millis(1)),
                Err(_) => return Ok(None),
            }
        }
    }
}

/// Whether the answer may mean "this filesystem does not do that".
fn is_refusal(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error(),
        Some(libc::EINVAL | libc::ENOSYS | libc::EPERM | libc::EOPNOTSUPP | libc::ENOTTY | libc::EMLINK | libc::EACCES)
    )
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

fn rename_noreplace(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (c_path(from)?, c_path(to)?);
    // SAFETY: both are NUL-terminated strings that outlive the call; the call keeps neither. (Through
    // `syscall` because not every C library the static build may use has the wrapper.)
    let done = unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            libc::AT_FDCWD,
            from.as_ptr(),
            libc::AT_FDCWD,
            to.as_ptr(),
            libc::RENAME_NOREPLACE,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn link(temp: &Temp, target: &Path) -> io::Result<()> {
    match fs::hard_link(temp.path(), target) {
        Ok(()) => {}
        // NFS repeats a request whose answer was lost, and then finds its own link in the way.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && is_same(temp, target) => {}
        Err(e) => return Err(e),
    }
    // The object is there; a second name left under tmp/ is dropped at a later open.
    let _ = fs::remove_file(temp.path());
    Ok(())
}

fn is_same(temp: &Temp, target: &Path) -> bool {
    let found = fs::symlink_metadata(target).map(|m| (m.dev(), m.ino()));
    matches!((temp.identity(), found), (Ok(a), Ok(b)) if a == b)
}

fn is_shard_missing(target: &Path) -> bool {
    target.parent().is_some_and(|dir| {
        let shard = dir.file_name().and_then(|n| n.to_str()).is_some_and(super::layout::is_shard);
        shard && !dir.exists()
    })
}

fn make_shard(target: &Path) -> Result<()> {
    let Some(shard) = target.parent() else { return Ok(()) };
    match fs::create_dir(shard) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(Error::io("create", shard, e)),
        _ => {}
    }
    shard.parent().map_or(Ok(()), sync_dir)
}
