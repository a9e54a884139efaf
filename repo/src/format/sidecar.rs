//! The stat sidecar: device, inode and change time of every entry in tree order, to tell unchanged files.
//! It can be dropped: then every file is read.

use crate::error::{Error, Result};
use crate::format::tree::{FileTime, unzigzag, zigzag};
use crate::format::wire::{Reader, Writer};

const LEAVE: u8 = 0;
const ENTRY: u8 = 1;
const DIR: u8 = 2;

/// What the filesystem said of an entry, beyond what the tree keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// The inode number.
    pub ino: u64,
    /// The time of the last change of inode or content.
    pub ctime: FileTime,
}

/// One record: entries in name order; right after a directory its own entries, then `Leave`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// An entry; `check` is taken from its name, so that a stream out of step is noticed.
    Entry {
        /// Two bytes of the name's hash.
        check: u16,
        /// Whether a directory's records follow.
        dir: bool,
        /// The entry's numbers.
        stat: Stat,
    },
    /// The end of the directory last entered.
    Leave,
}

/// The name's check value.
pub fn check(name: &[u8]) -> u16 {
    let hash = blake3::hash(name);
    u16::from_le_bytes([hash.as_bytes()[0], hash.as_bytes()[1]])
}

impl Record {
    /// Appends the record.
    pub fn encode(&self, w: &mut Writer) {
        match self {
            Record::Leave => w.u8(LEAVE),
            Record::Entry { check, dir, stat } => {
                w.u8(if *dir { DIR } else { ENTRY });
                w.u16(*check);
                w.varint(stat.ino);
                w.varint(zigzag(stat.ctime.secs));
                w.varint(u64::from(stat.ctime.nanos));
            }
        }
    }

    /// The longest record, in bytes.
    pub const MAX: usize = 1 + 2 + 10 + 10 + 5;

    /// Reads one record.
    ///
    /// # Errors
    /// `Damaged` for anything else.
    pub fn decode(r: &mut Reader<'_>) -> Result<Record> {
        match r.u8()? {
            LEAVE => Ok(Record::Leave),
            mark @ (ENTRY | DIR) => {
                let check = r.u16()?;
                let ino = r.varint()?;
                let secs = unzigzag(r.varint()?);
                let nanos = r.varint_max(999_999_999)? as u32;
                Ok(Record::Entry { check, dir: mark == DIR, stat: Stat { ino, ctime: FileTime { secs, nanos } } })
            }
            _ => Err(Error::damaged("a list of file times holds an unknown record")),
        }
    }
}
