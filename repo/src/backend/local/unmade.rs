//! How things were before a repository was made, for when it could not be.

use std::fs;
use std::path::{Path, PathBuf};

use super::layout;
use crate::backend::Area;

/// What a place was before `Local::create`.
pub struct Unmade {
    root: PathBuf,
    was: Was,
}

enum Was {
    /// Absent, and so was this directory, which holds it.
    Absent(PathBuf),
    Empty,
    /// Whatever is in it may be somebody's.
    Occupied,
}

impl Unmade {
    /// Looks at the directory that is to hold a repository.
    pub fn look(root: &Path) -> Unmade {
        let root = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
        let was = match fs::read_dir(&root) {
            Ok(mut entries) => {
                let kept =
                    |e: &std::io::Result<fs::DirEntry>| e.as_ref().is_ok_and(|e| e.file_name() == layout::INVITATION);
                if entries.all(|entry| kept(&entry)) { Was::Empty } else { Was::Occupied }
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let absent = root.ancestors().take_while(|dir| dir.symlink_metadata().is_err());
                absent.last().map_or(Was::Occupied, |first| Was::Absent(first.to_owned()))
            }
            Err(_) => Was::Occupied,
        };
        Unmade { root, was }
    }

    /// Removes what was made since, unless it is a repository by now. What cannot be removed stays.
    pub fn restore(&self) {
        if matches!(self.was, Was::Occupied) || self.root.join(layout::CONFIG).exists() {
            return;
        }
        for dir in Area::ALL.iter().map(|area| area.dir()).chain([layout::TMP]) {
            let _ = fs::remove_dir_all(self.root.join(dir));
        }
        for file in [layout::LOCK, layout::RESERVE] {
            let _ = fs::remove_file(self.root.join(file));
        }
        if let Was::Absent(first) = &self.was {
            for dir in self.root.ancestors().take_while(|dir| dir.starts_with(first)) {
                let _ = fs::remove_dir(dir);
            }
        }
    }
}
