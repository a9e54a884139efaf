//! Whether a directory that the user names is one for this repository's index.

use std::fs;
use std::io;
use std::path::Path;

use super::IndexIdentity;
use super::guard::Room;
use super::state::{Found, State};
use crate::error::{Error, Kind, Result};

/// Refuses a directory that holds anything but this repository's index: what is there is somebody's, and an index of
/// another repository would be built anew by each command in turn. One that is absent or empty is fine.
///
/// # Errors
/// `Refused`; what looking at it gives.
pub fn claim(dir: &Path, identity: &IndexIdentity) -> Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
            return Err(Error::new(Kind::Refused, "what --index-dir names is no directory:")
                .at(dir)
                .remedy("name an empty directory, or one that is not there yet"));
        }
        Err(e) => return Err(Error::io("list", dir, e).remedy("name another directory with --index-dir")),
    };
    for entry in entries {
        let name = entry.map_err(|e| Error::io("list", dir, e))?.file_name();
        if !name.to_str().is_some_and(is_ours) {
            return Err(Error::new(Kind::Refused, "what --index-dir names holds other things than an index:")
                .at(dir.join(name))
                .remedy("name an empty directory, or one that is not there yet"));
        }
    }
    match State::read(&Room::new(dir).state())? {
        Found::State(state) if state.repo != identity.repo => {
            let (theirs, ours) = (state.repo.to_hex(), identity.repo.to_hex());
            let text = format!("repository {}, not {}, keeps its index in", &theirs[..16], &ours[..16]);
            Err(Error::new(Kind::Refused, text)
                .at(dir)
                .remedy("name a directory of its own for each repository with --index-dir"))
        }
        _ => Ok(()),
    }
}

fn is_ours(name: &str) -> bool {
    let generation = |n: &str| n.len() == 16 && n.bytes().all(|b| b.is_ascii_hexdigit());
    matches!(name, "state" | "state.new" | "write.lock" | "open.lock" | "lost+found")
        || name.strip_prefix("g-").is_some_and(generation)
}
