//! Where the index is kept, and opening it there.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::backend::Backend;
use crate::backend::local::Local;
use crate::crypto::keys::Keys;
use crate::error::{Error, Kind, Result};
use crate::follow::{Followed, follow};
use crate::id::RepoId;
use crate::index::{Index, IndexIdentity, Opened};
use crate::log::{Log, Relation};
use crate::monitor::{Event, Monitor};
use crate::open::{Access, Place, name_of_copy};
use crate::rebuild::rebuild;

/// Where the index is kept: as told, else in the repository, else, where that is read-only, full or on a filesystem
/// that LMDB must not be on, in this machine's cache by repository id and place.
pub(super) fn index_dirs(place: &Place, backend: &dyn Backend, repo: RepoId) -> Vec<PathBuf> {
    if let Some(dir) = &place.index_dir {
        return vec![dir.clone()];
    }
    let inside = place.root.join("index");
    let cached = place.cache.join("index").join(name_of_copy(repo, &place.root));
    // A transfer drive carries none: it would be of no use where it goes, and no thief's business.
    let drive = Local::drive_mark(&place.root).is_ok_and(|mark| mark.is_some());
    if !drive && (backend.writable() || can_write(&inside)) && fits_lmdb(&place.root) {
        return vec![inside, cached];
    }
    vec![cached]
}

fn can_write(dir: &Path) -> bool {
    use nix::unistd::{AccessFlags, access};
    let there = if dir.exists() { dir } else { dir.parent().unwrap_or(dir) };
    access(there, AccessFlags::W_OK).is_ok()
}

/// Local filesystems with sound shared mappings and locks.
fn fits_lmdb(dir: &Path) -> bool {
    const NFS: i64 = 0x6969;
    const SMB: i64 = 0x517b;
    const SMB2: i64 = 0xfe53_4d42;
    const CIFS: i64 = 0xff53_4d42;
    const FUSE: i64 = 0x6573_5546;
    const MSDOS: i64 = 0x4d44;
    const EXFAT: i64 = 0x2011_bab0;
    const V9FS: i64 = 0x0102_1997;
    let Ok(info) = nix::sys::statfs::statfs(dir) else { return true };
    // Narrower on other architectures.
    #[allow(clippy::unnecessary_cast)]
    let kind = info.filesystem_type().0 as i64;
    !matches!(kind, NFS | SMB | SMB2 | CIFS | FUSE | MSDOS | EXFAT | V9FS)
}

/// The index, current, and whether it had to be built: in the first of these places that has room for it, and for who
/// writes at last in the reserve's. A full disk must not keep anybody from restoring, or from forgetting and pruning.
///
/// # Errors
/// `NoSpace` when no place has any; what log, backend and index give.
pub(super) fn open_index(
    backend: &dyn Backend,
    keys: &Arc<Keys>,
    log: &Log,
    dirs: &[PathBuf],
    access: Access,
    monitor: &dyn Monitor,
) -> Result<(Index, bool)> {
    match open_somewhere(backend, keys, log, dirs, monitor) {
        Err(e) if access == Access::Write && e.kind() == Kind::NoSpace => {
            backend.release_reserve()?;
            open_somewhere(backend, keys, log, dirs, monitor)
        }
        done => done,
    }
}

fn open_somewhere(
    backend: &dyn Backend,
    keys: &Arc<Keys>,
    log: &Log,
    dirs: &[PathBuf],
    monitor: &dyn Monitor,
) -> Result<(Index, bool)> {
    let Some((dir, others)) = dirs.split_first() else { return Err(Error::bug("no place for the index")) };
    let opened = open_in(backend, keys, log, dir, monitor).map_err(|e| unkept(e, dir));
    match (opened, others.first()) {
        (Err(e), Some(other)) if e.kind() == Kind::NoSpace => {
            let other_place = other.display();
            monitor.event(Event::Notice(&format!("{e}; the index is made in {other_place} instead")));
            open_somewhere(backend, keys, log, others, monitor)
        }
        (done, _) => done,
    }
}

/// What to do about an index that cannot be kept where it is to be.
fn unkept(e: Error, dir: &Path) -> Error {
    if !e.path().is_some_and(|path| path.starts_with(dir)) {
        return e;
    }
    match e.kind() {
        Kind::NoSpace => e.remedy("make room there, or name another place for the index with --index-dir"),
        Kind::Io | Kind::ReadOnly => {
            e.or_remedy("let this user write there, or name another place for the index with --index-dir")
        }
        _ => e,
    }
}

/// The index, current, in one place, and whether it had to be built.
fn open_in(
    backend: &dyn Backend,
    keys: &Arc<Keys>,
    log: &Log,
    dir: &Path,
    monitor: &dyn Monitor,
) -> Result<(Index, bool)> {
    let why = match Index::open(dir, &IndexIdentity { repo: keys.repo_id() })? {
        Opened::Ready(index) => match current(backend, keys, log, &index) {
            Ok(Followed::Yes) => return Ok((index, false)),
            Ok(Followed::No) => "it belongs to another state of this repository".to_owned(),
            Err(e) if e.kind() == Kind::Damaged => e.to_string(),
            Err(e) => return Err(e),
        },
        Opened::Missing if log.state().position.seq <= 1 => "the repository is new".to_owned(),
        Opened::Missing => "there is none".to_owned(),
        Opened::Unusable(why) => why,
    };
    if log.state().position.seq > 1 {
        let dir = dir.display();
        monitor.event(Event::Notice(&format!(
            "building the index in {dir} again ({why}); this takes seconds, or minutes where the repository is very \
             large, and nothing that is stored is affected"
        )));
    }
    Ok((rebuild(backend, keys, log, dir, monitor)?, true))
}

fn current(backend: &dyn Backend, keys: &Keys, log: &Log, index: &Index) -> Result<Followed> {
    let Some(at) = index.position()? else { return Ok(Followed::No) };
    if log.extends(&at) == Relation::RolledBack {
        // Somebody has appended since, and the index shows it already.
        log.refresh()?;
    }
    if !matches!(log.extends(&at), Relation::Same | Relation::Newer) {
        return Ok(Followed::No);
    }
    if !index.writable() {
        // As good as it is: what came since is not found, and nothing can be done about it here.
        return Ok(if at == log.state().position { Followed::Yes } else { Followed::No });
    }
    Ok(follow(backend, keys, log, index)?.0)
}
