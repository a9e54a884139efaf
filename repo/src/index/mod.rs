//! The index: chunk id → place, the pack table with sealed footers, and the catalogue of snapshots, in LMDB.
//!
//! It is derived from packs, footers, manifests and log, and can be rebuilt from them at any time; it holds neither
//! content hashes nor plaintext lengths. [`Index::position`] says how much of the log it reflects. Keep it off network
//! filesystems.
//!
//! # What is checked before LMDB maps anything
//!
//! LMDB trusts its file: a changed byte can end the process. So a `state` file keeps, from the last commit, the inode,
//! length, mtime and ctime of `data.mdb` and a hash of its meta pages, and whether it is at rest:
//!
//! * at rest and as stamped: it is opened, after this start of the machine or an earlier one;
//! * at rest and different: truncated, zeroed, patched, swapped or restored from elsewhere, so [`Opened::Unusable`];
//! * being written, in this start of the machine: its writer works, or died. LMDB writes pages before the meta page
//!   that refers to them, and what a dead process wrote is in the page cache, so the file is sound and it is opened;
//! * being written, in an earlier start: a power failure may have reordered that, so `Unusable`.
//!
//! A marker stands in `state` while a process maps and first reads the file. If it died of that, the next open finds
//! the marker and does not try again. What LMDB itself reports as corrupt is recorded, so that the next open rebuilds.
//! `docs/decisions/0001-index-integrity.md` says what this does not catch.
//!
//! # Several processes
//!
//! Any number of processes read and write one index. A writer holds `write.lock` for its transaction; readers use LMDB's
//! reader table and never wait. Where the directory cannot be written (a read-only filesystem, another user's
//! repository) LMDB is opened with `MDB_RDONLY | MDB_NOLOCK`, and every read transaction holds `write.lock` shared
//! instead. A rebuild makes a new generation beside the old one and switches `state` to it: who has the old one open
//! goes on reading it until [`Index::refresh`], and its next write goes to the new one.

mod builder;
mod claim;
mod env;
mod filter;
mod guard;
mod owned;
mod posted;
mod read;
mod sort;
mod state;
mod write;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod damage_tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

pub use builder::Builder;
pub use claim::claim;
pub use owned::Ownership;
pub use write::Reassign;

use crate::crypto::keys::FrameKind;
use crate::error::{Error, Kind, Result};
use crate::id::{ChunkId, PackId, RepoId};
use crate::limits::{MAX_FRAME_CHUNKS, MAX_PACK_FRAMES};

/// A pack's number in this generation of this index: a rebuild numbers them otherwise, and any write or
/// [`Index::refresh`] may bring one in. So keep [`PackId`]s, and numbers only while [`Index::generation`] stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackNo(pub u32);

/// Where a chunk lies: pack, frame in the pack, slot in the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// The pack.
    pub pack: PackNo,
    /// The frame's ordinal in its pack, below [`MAX_PACK_FRAMES`].
    pub frame: u32,
    /// The chunk's ordinal in its frame, below [`MAX_FRAME_CHUNKS`].
    pub slot: u16,
}

impl Location {
    fn pack_bits(pack: PackNo, frame: u32, slot: u16) -> Result<u64> {
        if frame as usize >= MAX_PACK_FRAMES || usize::from(slot) >= MAX_FRAME_CHUNKS {
            return Err(Error::bug("a chunk's place is past what a pack can hold"));
        }
        Ok(u64::from(pack.0) << 32 | u64::from(frame) << 12 | u64::from(slot))
    }

    fn from_bits(bits: u64) -> Location {
        Location { pack: PackNo((bits >> 32) as u32), frame: (bits >> 12) as u32 & 0xF_FFFF, slot: bits as u16 & 0xFFF }
    }
}

/// What the index knows of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackInfo {
    /// Its number here.
    pub no: PackNo,
    /// Its name.
    pub id: PackId,
    /// What it holds.
    pub kind: FrameKind,
    /// The file's length in bytes.
    pub size: u64,
    /// The sealed footer's length in bytes; 0 if it could not be read.
    pub footer_len: u32,
    /// To be swept: its chunks no longer satisfy deduplication.
    pub condemned: bool,
    /// Known to be unreadable in part: its chunks no longer satisfy deduplication.
    pub damaged: bool,
}

impl PackInfo {
    /// Whether a new backup may rely on its chunks.
    pub fn usable(&self) -> bool {
        !self.condemned && !self.damaged
    }
}

/// A pack to enter.
#[derive(Clone, Debug)]
pub struct NewPack {
    /// Its name.
    pub id: PackId,
    /// What it holds.
    pub kind: FrameKind,
    /// The file's length in bytes.
    pub size: u64,
    /// Its footer as it stands in the pack; empty if it cannot be read.
    pub sealed_footer: Vec<u8>,
    /// Each chunk with its frame and slot.
    pub chunks: Vec<(ChunkId, u32, u16)>,
}

/// A chunk's place in a pack given by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The pack.
    pub pack: PackId,
    /// The frame's ordinal.
    pub frame: u32,
    /// The slot in the frame.
    pub slot: u16,
}

/// Changes to packs' flags; `None` leaves a flag as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flags {
    /// Condemned or no longer condemned.
    pub condemned: Option<bool>,
    /// Damaged or healed.
    pub damaged: Option<bool>,
}

/// What an index belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexIdentity {
    /// The repository.
    pub repo: RepoId,
}

/// What [`Index::open`] found.
#[derive(Debug)]
pub enum Opened {
    /// A sound index.
    Ready(Index),
    /// None: build one.
    Missing,
    /// One that must be rebuilt, and why, in words for the user.
    Unusable(String),
}

/// An open index. Cheap to clone; all clones are one. Calls may come from any thread and are short; no transaction
/// outlives a call, and callbacks run outside transactions.
#[derive(Clone)]
pub struct Index {
    shared: Arc<Shared>,
}

struct Shared {
    room: guard::Room,
    identity: IndexIdentity,
    env: RwLock<Arc<env::Env>>,
    /// One writer a process at a time, before the lock between processes is asked for.
    writer: Mutex<()>,
    filter: RwLock<Option<filter::Filter>>,
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index").field("dir", &self.shared.room.dir()).finish_non_exhaustive()
    }
}

impl Index {
    /// Opens the index in `dir` after checking it as the module's documentation says. Succeeds while others read and
    /// write it, and for reading only where the directory cannot be written.
    ///
    /// # Errors
    /// Only where the system fails; a bad index is [`Opened::Unusable`].
    pub fn open(dir: &Path, identity: &IndexIdentity) -> Result<Opened> {
        let room = guard::Room::new(dir);
        // A rebuild elsewhere may take the generation away between the judgement and the opening.
        for _ in 0..16 {
            let state = match room.judge(identity.repo)? {
                guard::Verdict::Use(state) => state,
                guard::Verdict::Missing => return Ok(Opened::Missing),
                guard::Verdict::Unusable(why) => return Ok(Opened::Unusable(why)),
            };
            let writable = room.writable()?;
            match env::Env::open(&room, &state, writable) {
                Ok(Ok(env)) => {
                    let index = Index::with(room, *identity, env);
                    index.shared.heal()?;
                    return Ok(Opened::Ready(index));
                }
                Ok(Err(why)) => return Ok(Opened::Unusable(why)),
                Err(e) if e.kind() == Kind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(Opened::Unusable("its files are incomplete".into()))
    }

    /// Makes an empty index in `dir`, in place of whatever index is there. Others who have that open are not disturbed.
    pub fn create(dir: &Path, identity: &IndexIdentity) -> Result<Index> {
        Builder::new(dir, identity)?.finish(None)
    }

    fn with(room: guard::Room, identity: IndexIdentity, env: Arc<env::Env>) -> Index {
        let (env, writer, filter) = (RwLock::new(env), Mutex::new(()), RwLock::new(None));
        Index { shared: Arc::new(Shared { room, identity, env, writer, filter }) }
    }

    /// The directory it was opened in.
    pub fn dir(&self) -> &Path {
        self.shared.room.dir()
    }

    /// The files that hold it, for reports.
    pub fn data_path(&self) -> PathBuf {
        self.shared.room.data(self.shared.env().generation())
    }

    /// Changes when the index was rebuilt and this process follows.
    pub fn generation(&self) -> u64 {
        self.shared.env().generation()
    }

    /// Whether it can be written.
    pub fn writable(&self) -> bool {
        self.shared.env().writable()
    }

    /// Follows a rebuild by another process: from here on reads see the generation that is current now. Pack numbers
    /// from before mean nothing then. Returns whether that happened.
    ///
    /// # Errors
    /// `Damaged` if what is there now cannot be used.
    pub fn refresh(&self) -> Result<bool> {
        self.shared.refresh()
    }
}

impl Shared {
    fn env(&self) -> Arc<env::Env> {
        self.env.read().clone()
    }
}
