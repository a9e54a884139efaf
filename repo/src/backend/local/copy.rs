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
            Some(found) => {
                let message = format!("this is a copy of another repository ({}):", &found.to_hex()[..8]);
                return Err(Error::new(Kind::Exists, message).at(root).remedy("name another directory"));
            }
            None => {
                let root = layout::create(root).map_err(|e| match e.kind() {
                    Kind::Exists => e.remedy("a copy needs a directory of its own: name another"),
                    _ => e,
                })?;
                mark(&root, repo)?;
            }
        }
        let root = layout::make(root)?;
        Local::at(root, false)
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
    fn nothing_else_becomes_a_copy() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("letter"), "dear").unwrap();
        assert_eq!(Local::copy_of(dir.path(), RepoId::random()).err().unwrap().kind(), Kind::Refused);
        fs::write(dir.path().join("copy"), [0xff, 0, 1]).unwrap();
        assert_eq!(Local::copy_mark(dir.path()).unwrap_err().kind(), Kind::Damaged);
    }
}
