//! The mark that makes a directory a copy of a repository elsewhere: written by pushes alone, readable like any.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use super::{Local, Publisher, Temp, layout, sync_dir, sync_parent};
use crate::backend::Backend;
use crate::error::{Error, Kind, Result};
use crate::id::RepoId;

const WORDS: &str = "packmule copy of ";

impl Local {
    /// The directory that holds a copy of `repo`, or the beginnings of one; made if it is absent or empty. It has no config
    /// until its first push is done.
    ///
    /// # Errors
    /// `Exists` if it is a repository of its own or another's copy, `Refused` if it holds anything else.
    pub fn copy_of(root: &Path, repo: RepoId) -> Result<Local> {
        match Local::copy_mark(root)? {
            Some(found) if found == repo => {}
            Some(found) => return Err(another(root, found)),
            None => {
                let root = layout::create(root).map_err(own_directory)?;
                mark(&root, repo)?;
            }
        }
        let root = layout::make(root)?;
        Local::at(root, false)
    }

    /// Refuses what [`Local::copy_of`] would refuse, and makes nothing. Whether there is a copy of `repo` already.
    ///
    /// # Errors
    /// As [`Local::copy_of`].
    pub fn may_copy(root: &Path, repo: RepoId) -> Result<bool> {
        match Local::copy_mark(root)? {
            Some(found) if found == repo => Ok(true),
            Some(found) => Err(another(root, found)),
            None => layout::may_create(root).map_err(own_directory).map(|()| false),
        }
    }

    /// Refuses a place where the copy of `repo` that was made there is not.
    ///
    /// # Errors
    /// `Unreachable` if its disk is not there or does not answer; as [`Local::copy_of`] if something else is in its place.
    pub fn require_copy(root: &Path, repo: RepoId) -> Result<()> {
        let away = |why: &str| {
            Error::new(Kind::Unreachable, format!("{why}:"))
                .at(root)
                .remedy("mount the disk that it is on, and try again; if it is lost for good, remove the remote and add it anew")
        };
        // A mount that has died fails here; the mark alone would be absent, or not.
        match fs::metadata(root) {
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(away("the copy is not there"));
            }
            Err(e) if layout::is_silent(e.raw_os_error()) => {
                return Err(away(&format!("the copy cannot be looked at ({e})")));
            }
            Err(e) => return Err(layout::cannot_look(root, e)),
            Ok(_) => {}
        }
        match Local::copy_mark(root) {
            Ok(Some(found)) if found == repo => Ok(()),
            Ok(Some(found)) => Err(another(root, found)),
            // What has a config and no mark was promoted.
            Ok(None) if root.join(layout::CONFIG).exists() => {
                Err(Error::new(Kind::Exists, "what was a copy is a repository of its own now:")
                    .at(root)
                    .remedy("remove the remote; add another directory in its place"))
            }
            Ok(None) => Err(away("the copy is not there")),
            Err(e) if layout::is_silent(e.errno()) => Err(away(&format!("the copy cannot be read ({e})"))),
            Err(e) => Err(e),
        }
    }

    /// The repository whose copy is in `root`; none where there is no copy.
    ///
    /// # Errors
    /// `Damaged` if the mark cannot be understood; what the system gives.
    pub fn copy_mark(root: &Path) -> Result<Option<RepoId>> {
        let path = root.join(layout::COPY);
        let mut text = String::new();
        match fs::File::open(&path).and_then(|file| file.take(256).read_to_string(&mut text)) {
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {}
            Err(e) => return Err(Error::io("read", path, e)),
            Ok(_) => {}
        }
        let id = text.trim_end().strip_prefix(WORDS).and_then(|id| id.parse().ok());
        id.map(Some).ok_or_else(|| {
            Error::damaged("this file does not say of which repository the directory holds a copy:")
                .at(path)
                .remedy(format!("write `{WORDS}` and the repository's id into it"))
        })
    }

    /// Takes the mark away, durably: from now on the directory is a repository of its own, with a reserve; false if there is no
    /// room for that.
    ///
    /// # Errors
    /// What the system gives.
    pub fn promote(&self) -> Result<bool> {
        let path = self.root.join(layout::COPY);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::io("remove", path, e)),
            _ => sync_dir(&self.root)?,
        }
        self.restore_reserve()
    }
}

fn another(root: &Path, found: RepoId) -> Error {
    let message = format!("this is a copy of another repository ({}):", &found.to_hex()[..8]);
    Error::new(Kind::Exists, message).at(root).remedy("name another directory")
}

fn own_directory(e: Error) -> Error {
    match e.kind() {
        Kind::Exists => e.remedy("a copy needs a directory of its own: name another"),
        _ => e,
    }
}

fn mark(root: &Path, repo: RepoId) -> Result<()> {
    let target = root.join(layout::COPY);
    let mut temp = Temp::create(&root.join(layout::TMP), 0o600)?;
    temp.write(format!("{WORDS}{}\n", repo.to_hex()).as_bytes())?;
    Publisher::new(root.join(layout::LOCK)).publish(temp, &target)?;
    sync_parent(&target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_made_found_again_and_promoted() {
        let dir = tempfile::tempdir().unwrap();
        let (root, id) = (dir.path().join("copy"), RepoId::random());
        assert_eq!(Local::copy_mark(&root).unwrap(), None);
        Local::copy_of(&root, id).unwrap();
        let copy = Local::copy_of(&root, id).unwrap();
        assert_eq!(Local::copy_mark(&root).unwrap(), Some(id));
        assert_eq!(Local::copy_of(&root, RepoId::random()).err().unwrap().kind(), Kind::Exists);
        fs::remove_dir(root.join("packs/00")).unwrap();
        Local::copy_of(&root, id).unwrap();
        assert!(root.join("packs/00").is_dir(), "what an interrupted making left out is made");
        assert!(!root.join(layout::RESERVE).exists(), "a copy needs none");
        assert!(copy.promote().unwrap());
        assert_eq!(Local::copy_mark(&root).unwrap(), None);
        assert_eq!(fs::metadata(root.join(layout::RESERVE)).unwrap().len(), crate::limits::RESERVE);
    }

    #[test]
    fn a_copy_that_is_away_is_not_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (root, id) = (dir.path().join("nas/copy"), RepoId::random());
        let kind = || Local::require_copy(&root, id).map_err(|e| e.kind());
        assert!(!Local::may_copy(&root, id).unwrap());
        assert!(!dir.path().join("nas").exists(), "asking makes nothing");
        Local::copy_of(&root, id).unwrap();
        assert!(Local::may_copy(&root, id).unwrap());
        assert_eq!(kind(), Ok(()));
        assert_eq!(Local::require_copy(&root, RepoId::random()).unwrap_err().kind(), Kind::Exists);
        // What it is on is not mounted: the place is empty, or not even there.
        fs::rename(&root, dir.path().join("away")).unwrap();
        assert_eq!(kind(), Err(Kind::Unreachable));
        fs::create_dir(&root).unwrap();
        assert_eq!(kind(), Err(Kind::Unreachable));
        fs::write(root.join("config"), "").unwrap();
        assert_eq!(kind(), Err(Kind::Exists), "promoted");
    }

    #[test]
    fn nothing_else_becomes_a_copy() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("letter"), "dear").unwrap();
        let foreign = (dir.path(), RepoId::random());
        assert_eq!(Local::copy_of(foreign.0, foreign.1).err().unwrap().kind(), Kind::Refused);
        assert_eq!(Local::may_copy(foreign.0, foreign.1).unwrap_err().kind(), Kind::Refused);
        assert!(Local::may_copy(&dir.path().join("letter"), foreign.1).is_err(), "a file");
        fs::write(dir.path().join("copy"), [0xff, 0, 1]).unwrap();
        assert_eq!(Local::copy_mark(dir.path()).unwrap_err().kind(), Kind::Damaged);
    }
}
