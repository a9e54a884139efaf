//! Where objects are kept: put-if-absent, read, list, delete. Nothing here knows what the bytes mean.
//!
//! Every implementation passes the one suite in `conformance`.

mod ofd;
pub mod local;
pub mod memory;
pub mod fault;

#[cfg(test)]
mod conformance;

use std::fmt;
use std::path::PathBuf;

use crate::error::{Error, Kind, Result};
use crate::id::{PackId, SnapshotId, unhex};

pub(crate) use ofd::{is_locked, try_lock};

/// The name of one stored object.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Object {
    /// The repository's config; its presence makes a directory a repository.
    Config,
    /// The same once more: without these few bytes nothing else can be read.
    ConfigCopy,
    /// A key slot, by its id of 16 lower-case hexadecimal digits.
    Key(String),
    /// A pack.
    Pack(PackId),
    /// A roll-up of footers, by its number.
    Footers(u64),
    /// A snapshot's manifest.
    Snapshot(SnapshotId),
    /// A log record, by its sequence number.
    Log(u64),
    /// A segment of the audit, by its number; beside the records.
    Audit(u64),
}

impl Object {
    /// Where the object stands below the repository's root.
    pub fn path(&self) -> PathBuf {
        match self {
            Object::Config | Object::ConfigCopy => PathBuf::from(self.name()),
            Object::Pack(id) => {
                let name = id.to_hex();
                PathBuf::from(format!("packs/{}/{name}", &name[..2]))
            }
            Object::Key(_) | Object::Footers(_) | Object::Snapshot(_) | Object::Log(_) | Object::Audit(_) => {
                let area = self.area().expect("all but config and packs lie in a flat area");
                PathBuf::from(area.dir()).join(self.name())
            }
        }
    }

    /// The area that lists the object; none for the config.
    pub fn area(&self) -> Option<Area> {
        match self {
            Object::Config | Object::ConfigCopy => None,
            Object::Key(_) => Some(Area::Keys),
            Object::Pack(_) => Some(Area::Packs),
            Object::Footers(_) => Some(Area::Footers),
            Object::Snapshot(_) => Some(Area::Snapshots),
            Object::Log(_) | Object::Audit(_) => Some(Area::Log),
        }
    }

    /// The last component of the path.
    fn name(&self) -> String {
        match self {
            Object::Config => "config".into(),
            Object::ConfigCopy => "config.copy".into(),
            Object::Key(id) => id.clone(),
            Object::Pack(id) => id.to_hex(),
            Object::Snapshot(id) => id.to_hex(),
            Object::Footers(n) | Object::Log(n) => format!("{n:016x}"),
            Object::Audit(n) => format!("{AUDIT}{n:016x}"),
        }
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path().display())
    }
}

/// A group of objects that can be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Area {
    /// Key slots.
    Keys,
    /// Packs.
    Packs,
    /// Roll-ups of footers.
    Footers,
    /// Manifests.
    Snapshots,
    /// Log records, and behind them the audit's segments.
    Log,
}

/// What segments' names begin with.
const AUDIT: &str = "audit.";

impl Area {
    /// All areas.
    pub const ALL: [Area; 5] = [Area::Keys, Area::Packs, Area::Footers, Area::Snapshots, Area::Log];

    /// The area's directory below the repository's root.
    pub fn dir(self) -> &'static str {
        match self {
            Area::Keys => "keys",
            Area::Packs => "packs",
            Area::Footers => "footers",
            Area::Snapshots => "snapshots",
            Area::Log => "log",
        }
    }

    /// The object that `name` stands for here; none if it is foreign. Only the one spelling that
    /// [`Object::path`] uses is accepted, so two names never mean one object.
    pub fn parse(self, name: &str) -> Option<Object> {
        let object = match self {
            Area::Keys => unhex::<8>(name).map(|_| Object::Key(name.to_owned())),
            Area::Packs => unhex(name).map(|id| Object::Pack(PackId(id))),
            Area::Snapshots => unhex(name).map(|id| Object::Snapshot(SnapshotId(id))),
            Area::Footers => unhex(name).map(|n| Object::Footers(u64::from_be_bytes(n))),
            Area::Log => match name.strip_prefix(AUDIT) {
                Some(number) => unhex(number).map(|n| Object::Audit(u64::from_be_bytes(n))),
                None => unhex(name).map(|n| Object::Log(u64::from_be_bytes(n))),
            },
        }?;
        let canonical = !name.bytes().any(|b| b.is_ascii_uppercase());
        canonical.then_some(object)
    }
}

/// An object that is being written, and has no name before it is whole. What is dropped leaves nothing.
pub enum Growing {
    /// In memory.
    Memory(Vec<u8>),
    /// In a file of a local backend's.
    File(local::GrowingFile),
}

impl Growing {
    /// Adds to its end.
    ///
    /// # Errors
    /// What the system gives.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Growing::Memory(all) => all.extend_from_slice(bytes),
            Growing::File(file) => file.append(bytes)?,
        }
        Ok(())
    }

    /// Bytes so far.
    pub fn size(&self) -> u64 {
        match self {
            Growing::Memory(bytes) => bytes.len() as u64,
            Growing::File(file) => file.size(),
        }
    }

    /// Its bytes, of one in memory.
    ///
    /// # Errors
    /// `Bug` for another.
    pub fn into_bytes(self) -> Result<Vec<u8>> {
        match self {
            Growing::Memory(bytes) => Ok(bytes),
            Growing::File(_) => Err(Error::bug("an object that grows in a file is wanted in memory")),
        }
    }
}

impl Default for Growing {
    fn default() -> Growing {
        Growing::Memory(Vec::new())
    }
}

/// What [`Backend::put`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The object was absent and now holds the given bytes.
    Created,
    /// An object of this name was there; it was left as it is.
    Exists,
}

/// A place for objects. All methods may be called from any thread, and by several processes on one place.
///
/// Errors carry the path they concern. `NotFound` is only ever said of an object that is absent.
pub trait Backend: Send + Sync {
    /// Stores `bytes` under a new name, whole or not at all, and durably: when this returns `Ok`, a power
    /// loss takes neither the bytes nor the name away, also for [`Put::Exists`]. When it fails the
    /// object may be absent or complete, never partial; a failed sync is not tried again.
    fn put(&self, object: &Object, bytes: &[u8]) -> Result<Put>;

    /// As [`Backend::put`], of `size` bytes that `next` fills in piece by piece, in order; its errors end it, and nothing is stored
    /// then. It may not be asked for all, or anything, of an object that is there.
    fn put_stream(&self, object: &Object, size: usize, next: &mut dyn FnMut(&mut [u8]) -> Result<()>) -> Result<Put> {
        let mut bytes = vec![0; size];
        next(&mut bytes)?;
        self.put(object, &bytes)
    }

    /// Begins an object that [`Backend::put_grown`] puts when it is whole. Where it is written as it grows, it takes no memory, and
    /// what is written is still in the processor's cache.
    fn grow(&self) -> Result<Growing> {
        Ok(Growing::default())
    }

    /// As [`Backend::put`], of one that has grown: in memory, or here.
    fn put_grown(&self, object: &Object, grown: Growing) -> Result<Put> {
        self.put(object, &grown.into_bytes()?)
    }

    /// Fills `buf` from `offset`. `Damaged` if the object ends before that.
    fn read_into(&self, object: &Object, offset: u64, buf: &mut [u8]) -> Result<()>;

    /// Exactly `len` bytes from `offset`. The caller has checked `len` against a limit.
    fn read(&self, object: &Object, offset: u64, len: usize) -> Result<Vec<u8>> {
        let mut buf = vec![0; len];
        self.read_into(object, offset, &mut buf)?;
        Ok(buf)
    }

    /// The whole object. `Damaged` if it is larger than `max`.
    fn read_all(&self, object: &Object, max: usize) -> Result<Vec<u8>>;

    /// The object's size in bytes; none if absent.
    fn size(&self, object: &Object) -> Result<Option<u64>>;

    /// Calls `visit` with every object of `area` and its size, in ascending order. Names that are no object's are
    /// skipped. Anything that keeps the listing from being complete is an error, a missing area too.
    fn list(&self, area: Area, visit: &mut dyn FnMut(Object, u64) -> Result<()>) -> Result<()>;

    /// Removes the object if it is there. Not durable before [`Backend::sync_deletes`].
    fn delete(&self, object: &Object) -> Result<()>;

    /// Makes this backend's deletions in `area` durable.
    fn sync_deletes(&self, area: Area) -> Result<()>;

    /// The object's full path, for messages.
    fn path(&self, object: &Object) -> PathBuf;

    /// Bytes that can still be stored; none if unknown.
    fn free_space(&self) -> Result<Option<u64>>;

    /// False if every put and delete would be refused.
    fn writable(&self) -> bool;

    /// Whether the pack, which cannot be read here as a whole, is known to be whole where it is.
    fn vouches(&self, _pack: &PackId) -> Result<bool> {
        Ok(false)
    }

    /// Gives the reserve back to the filesystem, so that a full one can take a few log records.
    fn release_reserve(&self) -> Result<()> {
        Ok(())
    }

    /// Sets the reserve aside if it is not; false if there is no room for it.
    fn restore_reserve(&self) -> Result<bool> {
        Ok(true)
    }

    /// A hint that these bytes will be read soon.
    fn prefetch(&self, _object: &Object, _offset: u64, _len: u64) {}

    /// Closes handles kept for speed; an open one keeps a deleted pack's space occupied.
    fn close_handles(&self) {}
}

/// The refusal of a write to a place opened for reading.
fn read_only(path: PathBuf) -> Error {
    Error::new(Kind::ReadOnly, "the repository is open for reading only, cannot write").at(path)
}

fn ends_early(path: PathBuf) -> Error {
    Error::damaged("the stored object is shorter than it should be").at(path)
}

fn too_large(path: PathBuf) -> Error {
    Error::damaged("the stored object is larger than any of its kind may be").at(path)
}

fn absent(path: PathBuf) -> Error {
    Error::io("open", path, std::io::Error::from_raw_os_error(libc::ENOENT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back_in_one_spelling_only() {
        let id = PackId([0xab; 32]);
        for object in [
            Object::Key("0123456789abcdef".into()),
            Object::Pack(id),
            Object::Footers(7),
            Object::Snapshot(SnapshotId([1; 32])),
            Object::Log(u64::MAX),
        ] {
            assert_eq!(object.area().unwrap().parse(&object.name()), Some(object.clone()));
            assert!(object.path().starts_with(object.area().unwrap().dir()));
        }
        assert_eq!(Object::Pack(id).path(), PathBuf::from(format!("packs/ab/{}", "ab".repeat(32))));
        assert_eq!(Object::Log(10).path(), PathBuf::from("log/000000000000000a"));
        for foreign in ["000000000000000A", "0", "", ".nfs000000000000a", "000000000000000a.tmp"] {
            assert_eq!(Area::Log.parse(foreign), None);
        }
    }
}
