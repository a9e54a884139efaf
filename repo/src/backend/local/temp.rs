//! Temporary files. Each is locked by whoever writes it, so that the ones left by a killed process can be told apart.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::backend::try_lock;
use crate::error::{Error, Kind, Result};
use crate::id::{hex, random_bytes};

/// Where locks do not work, a temporary file untouched for this long is nobody's.
const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 3600);

/// A file being written; removed when dropped, unless it was published.
pub(super) struct Temp {
    path: PathBuf,
    file: File,
    published: bool,
}

impl Temp {
    /// A new empty file in `dir`, locked.
    pub(super) fn create(dir: &Path, mode: u32) -> Result<Temp> {
        loop {
            let path = dir.join(hex(&random_bytes::<8>()));
            let file = match OpenOptions::new().write(true).create_new(true).mode(mode).open(&path) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(cannot_write(&path, e)),
            };
            let temp = Temp { path, file, published: false };
            if temp.claim()? {
                return Ok(temp);
            }
        }
    }

    /// A file of the caller's, written and closed.
    pub(super) fn of(path: &Path) -> Result<Temp> {
        let file = OpenOptions::new().write(true).open(path).map_err(|e| Error::io("open", path, e))?;
        file.sync_all().map_err(|e| Error::io("sync", path, e))?;
        Ok(Temp { path: path.to_owned(), file, published: false })
    }

    /// Locks the new file; false if another process took it for abandoned first.
    fn claim(&self) -> Result<bool> {
        match try_lock(&self.file, 0) {
            Ok(true) => {
                let found = self.file.metadata().map_err(|e| Error::io("look at", &self.path, e))?;
                Ok(found.nlink() > 0)
            }
            Ok(false) => Ok(false),
            // No locks here: then its age decides.
            Err(_) => Ok(true),
        }
    }

    /// Writes and syncs. On failure the file must not be published.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.append(bytes)?;
        self.sync()
    }

    /// Writes a piece. Not before [`Temp::sync`] may the file be published.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| Error::io("write", &self.path, e))
    }

    /// Makes what was written durable.
    pub(super) fn sync(&mut self) -> Result<()> {
        self.file.sync_all().map_err(|e| Error::io("sync", &self.path, e))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Device and inode, which a rename or link keeps.
    pub(super) fn identity(&self) -> Result<(u64, u64)> {
        let found = self.file.metadata().map_err(|e| Error::io("look at", &self.path, e))?;
        Ok((found.dev(), found.ino()))
    }

    /// Its name under `tmp/` is gone: it has moved to where it belongs.
    pub(super) fn moved(mut self) {
        self.published = true;
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.published {
            // What cannot be removed now is found again by `drop_abandoned`.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A refusal to create a file: `ReadOnly` where permission is what lacks or the filesystem knows no creating (FUSE
/// filesystems over archives and images), and never `NotFound`, which
/// is said of objects only.
pub(super) fn cannot_write(path: &Path, e: io::Error) -> Error {
    let kind = match e.raw_os_error() {
        Some(libc::EACCES | libc::EPERM | libc::ENOSYS | libc::EOPNOTSUPP) => Some(Kind::ReadOnly),
        Some(libc::ENOENT) => Some(Kind::Io),
        _ => None,
    };
    let e = Error::io("write", path, e);
    let e = if let Some(kind) = kind { e.with_kind(kind) } else { e };
    if e.kind() == Kind::ReadOnly { e.or_remedy("only commands that read work on it") } else { e }
}

/// Removes the temporary files that nobody writes any more. What cannot be looked at or removed stays for the next time.
pub(super) fn drop_abandoned(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        // Locked until it is gone: a writer that created it this moment fails to lock it and takes another name.
        if entry.file_type().is_ok_and(|t| t.is_file())
            && let Some(_locked) = take_abandoned(&path)
        {
            let _ = fs::remove_file(path);
        }
    }
}

/// The file, locked, if nobody writes it.
fn take_abandoned(path: &Path) -> Option<File> {
    let file = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(path).ok()?;
    let abandoned = match try_lock(&file, 0) {
        Ok(free) => free,
        Err(_) => {
            let changed = file.metadata().and_then(|found| found.modified()).ok()?;
            SystemTime::now().duration_since(changed).is_ok_and(|age| age > ABANDONED_AFTER)
        }
    };
    abandoned.then_some(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_create_files_cannot_be_written() {
        let kind = |errno| cannot_write(Path::new("/p"), io::Error::from_raw_os_error(errno)).kind();
        for errno in [libc::EROFS, libc::EACCES, libc::EPERM, libc::ENOSYS, libc::EOPNOTSUPP] {
            assert_eq!(kind(errno), Kind::ReadOnly, "{errno}");
        }
        assert_eq!((kind(libc::ENOSPC), kind(libc::EIO)), (Kind::NoSpace, Kind::Io));
        assert_eq!(kind(libc::ENOENT), Kind::Io);
    }
}
