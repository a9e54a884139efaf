//! The directory's layout: making it, recognising it, and the reserve.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use super::temp::cannot_write;
use super::{sorted_names, sync_dir, sync_parent};
use crate::backend::Area;
use crate::error::{Error, Kind, Result};
use crate::id::random_bytes;
use crate::limits::RESERVE as RESERVE_SIZE;

pub(super) const TMP: &str = "tmp";
pub(super) const LOCK: &str = "lock";
pub(super) const RESERVE: &str = "reserve";
pub(super) const COPY: &str = "copy";
pub(super) const DRIVE: &str = "drive";
/// What is kept of an invitation until the repository that it brings back is there.
pub(super) const INVITATION: &str = "invitation";
pub(super) const CONFIG: &str = "config";
pub(super) const CONFIG_COPY: &str = "config.copy";

/// Whether `name` is a directory of packs: the first two digits of their ids.
pub(super) fn is_shard(name: &str) -> bool {
    name.len() == 2 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Makes the layout in `root`, durable, and returns the absolute path.
pub(super) fn create(root: &Path) -> Result<PathBuf> {
    let root = absolute(root)?;
    let mut new_dirs = DirBuilder::new();
    new_dirs.recursive(true).mode(0o700);
    new_dirs.create(&root).map_err(|e| cannot_write(&root, e))?;
    refuse_content(&root)?;
    make(&root)
}

/// Refuses what [`create`] would refuse to make a layout in, and makes nothing.
pub(super) fn may_create(root: &Path) -> Result<()> {
    let root = absolute(root)?;
    match fs::metadata(&root) {
        Ok(found) if found.is_dir() => refuse_content(&root),
        Ok(_) => Err(cannot_write(&root, io::Error::from_raw_os_error(libc::ENOTDIR))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(cannot_look(&root, e)),
    }
}

/// Makes what is missing of the layout in `root`, which exists, durable, and returns the absolute path.
pub(super) fn make(root: &Path) -> Result<PathBuf> {
    let root = absolute(root)?;
    for area in Area::ALL {
        make_dir(&root.join(area.dir()))?;
    }
    make_dir(&root.join(TMP))?;
    let packs = root.join(Area::Packs.dir());
    for shard in 0..=255 {
        make_dir(&packs.join(format!("{shard:02x}")))?;
    }
    make_lock(&root)?;
    sync_dir(&packs)?;
    sync_dir(&root)?;
    sync_parent(&root)?;
    Ok(root)
}

/// Whether a repository's config is there.
pub(super) fn has_config(root: &Path) -> bool {
    root.join(CONFIG).exists() || root.join(CONFIG_COPY).exists()
}

/// Refuses a directory with anything in it but the empty layout that an interrupted `create` leaves.
fn refuse_content(root: &Path) -> Result<()> {
    if has_config(root) {
        return Err(Error::new(Kind::Exists, "a repository exists already in").at(root));
    }
    let foreign = |dir: &Path| {
        Error::new(Kind::Refused, "will not make a repository among other files in")
            .at(dir)
            .remedy("name an empty directory")
    };
    for name in sorted_names(root)? {
        let path = root.join(&name);
        match name.as_str() {
            // The last is made by Windows on whatever is plugged in there.
            TMP | LOCK | RESERVE | INVITATION | "lost+found" | "System Volume Information" => {}
            "packs" => {
                for shard in sorted_names(&path)? {
                    if !is_shard(&shard) || !sorted_names(&path.join(shard))?.is_empty() {
                        return Err(foreign(&path));
                    }
                }
            }
            area if Area::ALL.iter().any(|a| a.dir() == area) => {
                if !sorted_names(&path)?.is_empty() {
                    return Err(foreign(&path));
                }
            }
            _ => return Err(foreign(root)),
        }
    }
    Ok(())
}

fn make_dir(dir: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(cannot_write(dir, e)),
        Ok(()) => Ok(()),
    }
}

fn make_lock(root: &Path) -> Result<()> {
    let path = root.join(LOCK);
    let mode = 0o600;
    match OpenOptions::new().write(true).create(true).truncate(false).mode(mode).open(&path) {
        Err(e) => Err(cannot_write(&path, e)),
        Ok(_) => Ok(()),
    }
}

/// The absolute path of `root`, if a repository is there.
pub(super) fn check(root: &Path) -> Result<PathBuf> {
    let root = absolute(root)?;
    let config = root.join(CONFIG);
    match fs::metadata(&config).or_else(|e| fs::metadata(root.join(CONFIG_COPY)).map_err(|_| e)) {
        Ok(found) if found.is_file() => require_areas(&root).map(|()| root),
        Err(e) if !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Err(cannot_look(&config, e))
        }
        _ => Err(Error::new(Kind::NoRepository, "there is no repository at")
            .at(root)
            .remedy("make one with `packmule init`, or check that its disk is mounted")),
    }
}

/// A failure to see whether something is there, which is not to say that it is not.
pub(crate) fn cannot_look(path: &Path, e: io::Error) -> Error {
    let remedy = match e.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => "use a user who may read the repository",
        _ if is_silent(e.raw_os_error()) => {
            "the filesystem does not answer: check that its disk or server is there, and mount it again"
        }
        _ => "check the path",
    };
    Error::io("look at", path, e).or_remedy(remedy)
}

/// Whether it is the filesystem as a whole that does not answer.
pub(super) fn is_silent(number: Option<i32>) -> bool {
    matches!(
        number,
        Some(
            libc::EIO
                | libc::ESTALE
                | libc::ETIMEDOUT
                | libc::ENOTCONN
                | libc::ECONNABORTED
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::ENODEV
                | libc::ENXIO
                | libc::ESHUTDOWN
        )
    )
}

/// Refuses a repository of which a part is not there: to take it for empty would be to take everything for lost.
fn require_areas(root: &Path) -> Result<()> {
    let absent = |what: &'static str, dir: &Path| {
        let remedy = "nothing was changed; is a disk not mounted? If it was copied, copy it again as a whole";
        Err(Error::new(Kind::Io, what).at(dir).remedy(remedy))
    };
    for area in Area::ALL {
        let dir = root.join(area.dir());
        match fs::metadata(&dir) {
            Ok(found) if found.is_dir() => {}
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(cannot_look(&dir, e)),
            _ => return absent("a directory of the repository is missing:", &dir),
        }
    }
    // The place where a disk should be mounted is there, and empty.
    let packs = root.join(Area::Packs.dir());
    let empty = |dir: &Path| sorted_names(dir).map(|names| names.is_empty());
    if empty(&packs)? && !empty(&root.join(Area::Snapshots.dir()))? {
        return absent("there are snapshots, but no packs at all in", &packs);
    }
    Ok(())
}

/// Whether the repository can be written at all, before anything relies on it. A copy may lack `tmp` and `lock`.
pub(super) fn prepare_writing(root: &Path) -> Result<()> {
    let remedy = |e: Error| match e.kind() {
        Kind::ReadOnly => e.remedy("only commands that read work on it"),
        _ => e,
    };
    make_lock(root).map_err(remedy)?;
    make_dir(&root.join(TMP)).map_err(remedy)
}

/// Sets the reserve aside at `path` unless it is; false if there is no room.
pub(super) fn reserve(path: &Path, mode: u32) -> Result<bool> {
    // Blocks, not length: a sparse copy of the reserve keeps nothing back.
    if fs::metadata(path).is_ok_and(|found| found.is_file() && found.blocks() * 512 >= RESERVE_SIZE) {
        return Ok(true);
    }
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path);
    match file.and_then(|file| fill(&file)) {
        Ok(()) => Ok(true),
        Err(e) => {
            let _ = fs::remove_file(path);
            let e = cannot_write(path, e);
            if e.kind() == Kind::NoSpace { Ok(false) } else { Err(e) }
        }
    }
}

fn fill(mut file: &File) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, RESERVE_SIZE as i64) {
        Ok(()) => {}
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL) => {
            // Random, lest a filesystem that compresses keeps nothing back.
            let block = random_bytes::<{ 64 * 1024 }>();
            for _ in 0..RESERVE_SIZE as usize / block.len() {
                file.write_all(&block)?;
            }
        }
        Err(e) => return Err(e.into()),
    }
    file.sync_all()
}

fn absolute(root: &Path) -> Result<PathBuf> {
    std::path::absolute(root).map_err(|e| Error::io("find", root, e))
}
