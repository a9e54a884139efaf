//! One name in the target: what stands there, whether it may go, and how new things come there.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use nix::errno::Errno;

use crate::capture::scan::{Meta, stat_at};
use crate::error::{Error, Kind, Result};
use crate::format::tree::{Entry, EntryType};
use crate::restore::Overwrite;
use crate::restore::context::Context;
use crate::restore::dir::Dir;
use crate::restore::links::Found;
use crate::restore::{at, remove};

/// The mode of a regular file while it is incomplete: no file that anybody made by intent has it, so a later run knows
/// what an interrupted one left, whatever its size and time; and nobody reads it before it has its permissions.
pub const PARTIAL: u32 = 0o1600;

const TEMP: &[u8] = b".packmule-";

/// What becomes of a thing that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It stays as it is.
    Keep,
    /// Its content is right by its looks; attributes are set where they differ.
    Right,
    /// Its content must be compared.
    Compare,
    /// It gives way.
    Replace,
}

/// A name in a directory of the target.
pub struct Spot<'j, 'c> {
    /// The directory.
    pub dir: &'j Dir<'c>,
    /// The directory, open.
    pub file: Arc<File>,
    /// The name.
    pub name: &'j [u8],
}

impl<'j, 'c> Spot<'j, 'c> {
    /// The name in the directory.
    ///
    /// # Errors
    /// When the directory cannot be opened again.
    pub fn new(dir: &'j Dir<'c>, name: &'j [u8]) -> Result<Spot<'j, 'c>> {
        Ok(Spot { dir, file: dir.file()?, name })
    }

    /// What the restore is about.
    pub fn ctx(&self) -> &'c Context<'c> {
        self.dir.ctx()
    }

    /// The path in the target.
    pub fn path(&self) -> PathBuf {
        self.ctx().target_path(self.dir.place(), self.name)
    }

    /// A failed call as an error about this name.
    pub fn io(&self, doing: &str, e: impl Into<io::Error>) -> Error {
        Error::io(doing, self.path(), e.into())
    }

    /// What stands there.
    ///
    /// # Errors
    /// The system's.
    pub fn look(&self) -> Result<Meta> {
        stat_at(self.file.as_fd(), self.name).map_err(|e| self.io("look at", e))
    }

    /// Where a hard link to it is to lead.
    pub fn found(&self) -> Option<Found> {
        let meta = self.look().ok()?;
        Some(Found { place: Arc::clone(self.dir.place()), name: self.name.into(), id: (meta.dev, meta.ino) })
    }

    /// A name in the same directory that is free and under which the new thing is made first.
    ///
    /// # Errors
    /// The system's, when a leftover there cannot be removed.
    pub fn temp(&self) -> Result<Vec<u8>> {
        let temp = temp_name(self.name);
        at::unlink(&self.file, &temp).map_err(|e| self.io("make way for", e))?;
        Ok(temp)
    }

    /// Puts what was made under `temp` in its place, replacing what is there; a directory only with `--delete`.
    ///
    /// # Errors
    /// The system's; `Refused` for a directory in the way. The temporary is gone then.
    pub fn publish(&self, temp: &[u8]) -> Result<()> {
        let done = match at::rename(&self.file, temp, self.name) {
            Err(Errno::EISDIR | Errno::ENOTEMPTY | Errno::EEXIST) => self
                .clear_directory()
                .and_then(|()| at::rename(&self.file, temp, self.name).map_err(|e| self.io("replace", e))),
            other => other.map_err(|e| self.io("replace", e)),
        };
        if done.is_err() {
            // The error that matters is the first.
            let _ = at::unlink(&self.file, temp);
        }
        done
    }

    fn clear_directory(&self) -> Result<()> {
        if !self.ctx().options.delete {
            return Err(Error::new(Kind::Refused, "a directory is in the way of a file:")
                .at(self.path())
                .remedy("move it, or use --delete"));
        }
        remove::all(self.dir, self.name)
    }
}

/// The name under which the new content of `name` is made before it replaces the old: always the same, so that
/// the next run finds and removes what an interrupted one left.
pub fn temp_name(name: &[u8]) -> Vec<u8> {
    let mut temp = TEMP.to_vec();
    temp.extend_from_slice(crate::id::hex(&blake3::hash(name).as_bytes()[..12]).as_bytes());
    temp
}

/// Whether a name could be one of [`temp_name`].
pub fn is_temp_name(name: &[u8]) -> bool {
    name.strip_prefix(TEMP).is_some_and(|rest| rest.len() == 24 && rest.iter().all(u8::is_ascii_hexdigit))
}

/// What `old` is to `entry`, which is to take its place.
pub fn decide(ctx: &Context<'_>, entry: &Entry, old: &Meta) -> Decision {
    let partial = old.kind == EntryType::File && old.mode == PARTIAL && entry.mode != PARTIAL;
    match ctx.options.overwrite {
        _ if partial => {}
        Overwrite::Never => return Decision::Keep,
        Overwrite::IfNewer if entry.mtime <= old.mtime => return Decision::Keep,
        _ => {}
    }
    if old.kind != entry.kind {
        return Decision::Replace;
    }
    if entry.kind != EntryType::File {
        return Decision::Compare;
    }
    let same = old.size == entry.size;
    match ctx.options.overwrite {
        Overwrite::IfChanged if same && old.mtime == entry.mtime && !partial => Decision::Right,
        _ => Decision::Compare,
    }
}
