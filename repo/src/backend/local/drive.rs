//! The mark that makes a directory a transfer drive: a part of a repository, on its way. Written by exports alone.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use super::{Local, Publisher, Temp, layout, sync_parent};
use crate::backend::Area;
use crate::crypto::hash::{is_drive_of, new_drive_id};
use crate::error::{Error, Kind, Result};
use crate::id::{DriveId, RepoId};

const WORDS: &str = "packmule transfer drive ";

impl Local {
    /// Lays out a new drive for this repository in `root`, which is made if it is absent. There is no config yet: its maker puts
    /// that last.
    ///
    /// # Errors
    /// `Exists` if there is a repository, or a drive that was made; `Refused` if it holds anything else.
    pub fn new_drive(root: &Path, repo: &RepoId) -> Result<(Local, DriveId)> {
        require_own(root)?;
        // What was begun and has no config holds nothing yet; what has packs has lost it.
        let root_packs = root.join(Area::Packs.dir());
        if !layout::has_config(root) && Local::drive_mark(root)?.is_some() && any_file_below(&root_packs)? {
            return Err(Error::new(Kind::Exists, "there are packs on this drive, though it has lost its config:")
                .at(root_packs)
                .remedy("put back the file config, from any copy of the repository; or empty the drive first"));
        }
        let begun = Local::drive_mark(root)?.filter(|_| !layout::has_config(root));
        let id = match begun {
            Some(begun) if is_drive_of(&begun, repo) => begun,
            Some(_) => {
                let mark = root.join(layout::DRIVE);
                fs::remove_file(&mark).map_err(|e| Error::io("delete", &mark, e))?;
                self::mark(root, new_drive_id(repo))?
            }
            None => {
                let own = |e: Error| match e.kind() {
                    Kind::Refused | Kind::Exists => {
                        e.remedy("a drive needs an empty filesystem, or a directory of its own")
                    }
                    _ => e,
                };
                let root = layout::create(root).map_err(own)?;
                mark(&root, new_drive_id(repo))?
            }
        };
        let root = layout::make(root)?;
        Ok((Local::at(root, false)?, id))
    }

    /// The drive in `root`, for reading or for its own commands to write.
    ///
    /// # Errors
    /// `WrongDrive` if there is none; `ReadOnly`.
    pub fn open_drive(root: &Path, read_only: bool) -> Result<(Local, DriveId)> {
        let none = || {
            Error::new(Kind::WrongDrive, "there is no transfer drive at")
                .at(root)
                .remedy("check that it is mounted; `packmule drive init` makes one")
        };
        let id = Local::drive_mark(root)?.ok_or_else(none)?;
        require_own(root)?;
        let local = Local::open(root, read_only).map_err(|e| match e.kind() {
            Kind::NoRepository => none(),
            _ => e,
        })?;
        Ok((local, id))
    }

    /// The drive that is in `root`; none where there is none.
    ///
    /// # Errors
    /// `Damaged` if the mark cannot be understood; what the system gives.
    pub fn drive_mark(root: &Path) -> Result<Option<DriveId>> {
        let path = root.join(layout::DRIVE);
        // To open anything else may wait for ever.
        if path.symlink_metadata().is_ok_and(|meta| !meta.is_file()) {
            return Err(Error::damaged("the mark of a transfer drive is no file:").at(path));
        }
        let mut text = String::new();
        match fs::File::open(&path).and_then(|file| file.take(256).read_to_string(&mut text)) {
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {}
            Err(e) => return Err(Error::io("read", path, e)),
            Ok(_) => {}
        }
        let id = text.trim_end().strip_prefix(WORDS).and_then(|id| id.parse().ok());
        id.map(Some).ok_or_else(|| {
            Error::damaged("this file does not say which transfer drive the directory is:")
                .at(path)
                .remedy(format!("write `{WORDS}` and the drive's id into it"))
        })
    }
}

/// Refuses a drive of which a part is elsewhere: it has been in others' hands, and what is deleted or overwritten on it must be
/// on it.
fn require_own(root: &Path) -> Result<()> {
    let areas = Area::ALL.iter().map(|area| (area.dir().to_owned(), true));
    let shards = (0..=255u8).map(|shard| (format!("{}/{shard:02x}", Area::Packs.dir()), true));
    let files = [layout::LOCK, layout::CONFIG, layout::CONFIG_COPY].map(|name| (name.to_owned(), false));
    for (name, dir) in areas.chain([(layout::TMP.to_owned(), true)]).chain(files).chain(shards) {
        let path = root.join(name);
        match path.symlink_metadata() {
            Ok(found) if (dir && found.is_dir()) || (!dir && found.is_file()) => {}
            Ok(_) => {
                return Err(Error::new(Kind::WrongDrive, "a part of this drive is a link, or no file or directory:")
                    .at(path)
                    .remedy("it was tampered with: take nothing from it"));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            // The root itself is none: told by who opens it.
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => {}
            Err(e) => return Err(Error::io("look at", path, e)),
        }
    }
    Ok(())
}

/// Whether there is a file in any of the directories in `dir`.
fn any_file_below(dir: &Path) -> Result<bool> {
    let entries = |dir: &Path| match fs::read_dir(dir) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(Vec::new()),
        other => other.and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(|e| Error::io("list", dir, e)),
    };
    for shard in entries(dir)? {
        if !entries(&shard.path())?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn mark(root: &Path, id: DriveId) -> Result<DriveId> {
    let target = root.join(layout::DRIVE);
    let mut temp = Temp::create(&root.join(layout::TMP), 0o600)?;
    temp.write(format!("{WORDS}{}\n", id.to_hex()).as_bytes())?;
    Publisher::new(root.join(layout::LOCK)).publish(temp, &target)?;
    sync_parent(&target)?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drive_is_made_once_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let (root, repo) = (dir.path().join("drive"), RepoId([1; 32]));
        assert_eq!(Local::drive_mark(&root).unwrap(), None);
        assert_eq!(Local::open_drive(&root, true).err().unwrap().kind(), Kind::WrongDrive);
        let begun = Local::new_drive(&root, &RepoId([2; 32])).unwrap().1;
        // Its making was interrupted: it goes on, and is the same, but for another repository.
        let id = Local::new_drive(&root, &repo).unwrap().1;
        assert!(id != begun && is_drive_of(&id, &repo));
        assert_eq!(Local::new_drive(&root, &repo).unwrap().1, id);
        assert_eq!(Local::open_drive(&root, true).err().unwrap().kind(), Kind::WrongDrive);
        fs::write(root.join("config"), "").unwrap();
        assert_eq!(Local::new_drive(&root, &repo).err().unwrap().kind(), Kind::Exists);
        assert_eq!(Local::open_drive(&root, true).unwrap().1, id);
        assert!(!root.join(layout::RESERVE).exists(), "a drive needs none");
    }

    #[test]
    fn a_drive_whose_parts_are_elsewhere_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (root, other) = (dir.path().join("drive"), dir.path().join("other"));
        Local::new_drive(&root, &RepoId([1; 32])).unwrap();
        fs::write(root.join("config"), "").unwrap();
        fs::create_dir(&other).unwrap();
        fs::write(other.join("mine"), "mine").unwrap();
        for part in ["tmp", "keys", "packs/ab", "packs"] {
            let (real, kept) = (root.join(part), dir.path().join("kept"));
            fs::rename(&real, &kept).unwrap();
            std::os::unix::fs::symlink(&other, &real).unwrap();
            for read_only in [true, false] {
                let refused = Local::open_drive(&root, read_only).err().unwrap();
                assert_eq!(refused.kind(), Kind::WrongDrive, "{part}");
            }
            assert_eq!(fs::read_to_string(other.join("mine")).unwrap(), "mine", "{part}");
            fs::remove_file(&real).unwrap();
            fs::rename(&kept, &real).unwrap();
        }
        Local::open_drive(&root, false).unwrap();
    }

    #[test]
    fn foreign_data_does_not_become_a_drive() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("letter"), "dear").unwrap();
        assert_eq!(Local::new_drive(dir.path(), &RepoId([1; 32])).err().unwrap().kind(), Kind::Refused);
        fs::write(dir.path().join("drive"), "of somebody").unwrap();
        assert_eq!(Local::drive_mark(dir.path()).unwrap_err().kind(), Kind::Damaged);
    }
}
