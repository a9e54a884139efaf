//! One directory's listing: records of its entries, sorted by name bytes, cut into chunks between entries.
//!
//! `docs/format.md` (Trees) is normative. Decoding accepts only what encoding writes (canonical), except
//! that optional fields with unknown numbers are kept byte for byte and unknown critical ones are refused.

mod content;

pub use content::{Content, DirRef, Extent};
pub(crate) use content::{decode_content, decode_extent, encode_content, encode_extent};

use crate::error::{Error, Kind, Result};
use crate::format::wire::{Reader, Writer};
use crate::id::ContentHash;
use crate::limits::{MAX_ENTRY, MAX_SYMLINK, MAX_XATTR_VALUE, MAX_XATTRS, XATTR_INLINE};
use crate::path::valid_name;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EntryType {
    /// A regular file.
    File = 0,
    /// A directory.
    Dir = 1,
    /// A symbolic link.
    Symlink = 2,
    /// A named pipe.
    Fifo = 3,
    /// A Unix socket.
    Socket = 4,
    /// A character device.
    CharDevice = 5,
    /// A block device.
    BlockDevice = 6,
}

impl EntryType {
    fn from_u8(value: u8) -> Option<EntryType> {
        Some(match value {
            0 => EntryType::File,
            1 => EntryType::Dir,
            2 => EntryType::Symlink,
            3 => EntryType::Fifo,
            4 => EntryType::Socket,
            5 => EntryType::CharDevice,
            6 => EntryType::BlockDevice,
            _ => return None,
        })
    }
}

/// A point in time as the filesystem gives it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileTime {
    /// Seconds since the epoch.
    pub secs: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nanos: u32,
}

/// An extended attribute's value.
#[derive(Clone, PartialEq, Eq)]
pub enum XattrValue {
    /// At most [`XATTR_INLINE`] bytes.
    Inline(Vec<u8>),
    /// A data chunk of this length.
    Chunk {
        /// The chunk.
        h: ContentHash,
        /// Its length in bytes, at most [`MAX_XATTR_VALUE`].
        len: u32,
    },
}

/// A field this version does not know, kept as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownField {
    /// The field's number.
    pub number: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// One entry of a directory.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name: bytes, a valid component of a path.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: EntryType,
    /// Permission bits with setuid, setgid and sticky: at most 0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last modification.
    pub mtime: FileTime,
    /// Length in bytes of a file or link target; 0 otherwise.
    pub size: u64,
    /// Owner's name at capture; empty if unknown.
    pub user: Vec<u8>,
    /// Group's name at capture; empty if unknown.
    pub group: Vec<u8>,
    /// Extended attributes sorted by name, no duplicates.
    pub xattrs: Vec<(Vec<u8>, XattrValue)>,
    /// Target of a symbolic link.
    pub target: Vec<u8>,
    /// Device number of a device node, as `makedev` gives it.
    pub rdev: u64,
    /// Shared by all names of one file in this snapshot: BLAKE3 of the group's first path.
    pub link_group: Option<[u8; 32]>,
    /// Set when the file changed each time it was read.
    pub unstable: bool,
    /// The content.
    pub content: Content,
    /// Optional fields of a later version.
    pub unknown: Vec<UnknownField>,
}

const F_USER: u64 = 1;
const F_GROUP: u64 = 2;
const F_XATTRS: u64 = 3;
const F_TARGET: u64 = 4;
const F_RDEV: u64 = 5;
const F_LINK_GROUP: u64 = 6;
const F_CONTENT: u64 = 7;
const F_UNSTABLE: u64 = 8;
const KNOWN: u64 = 8;
// Reserved: 16 btime, 17 inode flags, 18 NTFS security descriptor, 19 streams, 20 reparse point.

impl Entry {
    /// An entry of `kind` with nothing else set.
    pub fn new(name: impl Into<Vec<u8>>, kind: EntryType) -> Entry {
        Entry {
            name: name.into(),
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: FileTime::default(),
            size: 0,
            user: Vec::new(),
            group: Vec::new(),
            xattrs: Vec::new(),
            target: Vec::new(),
            rdev: 0,
            link_group: None,
            unstable: false,
            content: Content::None,
            unknown: Vec::new(),
        }
    }

    /// Appends the record, length first.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut w = Writer::new();
        w.lp_bytes(&self.name);
        w.u8(self.kind as u8);
        w.varint(u64::from(self.mode));
        w.varint(u64::from(self.uid));
        w.varint(u64::from(self.gid));
        w.varint(zigzag(self.mtime.secs));
        w.varint(u64::from(self.mtime.nanos));
        w.varint(self.size);
        self.encode_fields(&mut w);
        let body = w.into_vec();
        let mut record = Writer::new();
        record.lp_bytes(&body);
        out.extend_from_slice(&record.into_vec());
    }

    fn encode_fields(&self, w: &mut Writer) {
        if !self.user.is_empty() {
            field(w, F_USER, false, &self.user);
        }
        if !self.group.is_empty() {
            field(w, F_GROUP, false, &self.group);
        }
        if !self.xattrs.is_empty() {
            field(w, F_XATTRS, false, &encode_xattrs(&self.xattrs));
        }
        if !self.target.is_empty() {
            field(w, F_TARGET, true, &self.target);
        }
        if self.rdev != 0 {
            let mut v = Writer::new();
            v.varint(self.rdev);
            field(w, F_RDEV, true, &v.into_vec());
        }
        if let Some(group) = &self.link_group {
            field(w, F_LINK_GROUP, false, group);
        }
        if self.content != Content::None {
            field(w, F_CONTENT, true, &encode_content(&self.content));
        }
        if self.unstable {
            field(w, F_UNSTABLE, false, &[]);
        }
        for unknown in &self.unknown {
            field(w, unknown.number, false, &unknown.bytes);
        }
    }

    /// Reads one record.
    ///
    /// # Errors
    /// `Damaged` for anything encoding would not have written; `NewerFormat` for an unknown critical field.
    pub fn decode(r: &mut Reader<'_>) -> Result<Entry> {
        let body = r.lp_bytes(MAX_ENTRY)?;
        let mut r = Reader::new(body);
        let name = r.lp_bytes(crate::limits::MAX_NAME)?;
        if !valid_name(name) {
            return Err(Error::damaged("a tree holds an invalid name"));
        }
        let kind = EntryType::from_u8(r.u8()?)
            .ok_or_else(|| Error::new(Kind::NewerFormat, "a tree holds an entry of unknown type"))?;
        let mut entry = Entry::new(name, kind);
        entry.mode = narrow(r.varint()?, 0o7777)?;
        entry.uid = narrow(r.varint()?, u32::MAX)?;
        entry.gid = narrow(r.varint()?, u32::MAX)?;
        entry.mtime.secs = unzigzag(r.varint()?);
        entry.mtime.nanos = narrow(r.varint()?, 999_999_999)?;
        entry.size = r.varint()?;
        entry.decode_fields(&mut r)?;
        entry.validate()?;
        Ok(entry)
    }

    fn decode_fields(&mut self, r: &mut Reader<'_>) -> Result<()> {
        let mut last = 0;
        while !r.is_empty() {
            let tag = r.varint()?;
            let (number, critical) = (tag >> 1, tag & 1 == 1);
            if number <= last {
                return Err(Error::damaged("a tree entry's fields are out of order"));
            }
            last = number;
            let bytes = r.lp_bytes(MAX_ENTRY)?;
            if number > KNOWN {
                if critical {
                    return Err(Error::new(Kind::NewerFormat, format!("a tree entry needs unknown field {number}"))
                        .remedy("use a newer packmule"));
                }
                self.unknown.push(UnknownField { number, bytes: bytes.to_vec() });
                continue;
            }
            if critical != matches!(number, F_TARGET | F_RDEV | F_CONTENT) {
                return Err(Error::damaged("a tree entry's field has the wrong mark"));
            }
            self.decode_field(number, bytes)?;
        }
        Ok(())
    }

    fn decode_field(&mut self, number: u64, bytes: &[u8]) -> Result<()> {
        // An empty value is never written: absence says the same.
        if bytes.is_empty() && number != F_UNSTABLE {
            return Err(Error::damaged("a tree entry's field is empty"));
        }
        let mut r = Reader::new(bytes);
        match number {
            F_USER => self.user = bytes.to_vec(),
            F_GROUP => self.group = bytes.to_vec(),
            F_XATTRS => self.xattrs = decode_xattrs(bytes)?,
            F_TARGET if bytes.len() <= MAX_SYMLINK && !bytes.contains(&0) => self.target = bytes.to_vec(),
            F_TARGET => return Err(Error::damaged("a symbolic link's target is invalid")),
            F_RDEV => {
                self.rdev = r.varint()?;
                r.finish()?;
                if self.rdev == 0 {
                    return Err(Error::damaged("a tree entry's field is empty"));
                }
            }
            F_LINK_GROUP => {
                self.link_group = Some(r.array()?);
                r.finish()?;
            }
            F_CONTENT => self.content = decode_content(bytes)?,
            _ if bytes.is_empty() => self.unstable = true,
            _ => return Err(Error::damaged("a tree entry's mark holds bytes")),
        }
        Ok(())
    }

    /// Refuses combinations that no capture writes, so that readers need not think of them.
    fn validate(&self) -> Result<()> {
        let wrong = |what: &'static str| Err(Error::damaged(what));
        let device = matches!(self.kind, EntryType::CharDevice | EntryType::BlockDevice);
        if self.rdev != 0 && !device {
            return wrong("a tree entry has a device number but is no device");
        }
        if self.target.is_empty() == (self.kind == EntryType::Symlink) {
            return wrong("a tree entry's link target does not fit its type");
        }
        match (&self.content, self.kind) {
            (Content::Dir(dir), EntryType::Dir) if dir.entries > 0 || *dir == DirRef::empty() => Ok(()),
            (Content::Inline(bytes), EntryType::File) if bytes.len() as u64 == self.size => Ok(()),
            (Content::Extents(extents), EntryType::File)
                if extents.iter().try_fold(0u64, |sum, e| sum.checked_add(e.len())) == Some(self.size) =>
            {
                Ok(())
            }
            (Content::Indexed { .. }, EntryType::File) => Ok(()),
            (Content::None, EntryType::File | EntryType::Dir) => wrong("a tree entry has no content"),
            (Content::None, _) => Ok(()),
            _ => wrong("a tree entry's content does not fit its type or size"),
        }
    }
}

fn field(w: &mut Writer, number: u64, critical: bool, bytes: &[u8]) {
    w.varint(number << 1 | u64::from(critical));
    w.lp_bytes(bytes);
}

pub(crate) fn zigzag(v: i64) -> u64 {
    ((v << 1) ^ (v >> 63)) as u64
}

pub(crate) fn unzigzag(v: u64) -> i64 {
    (v >> 1) as i64 ^ -((v & 1) as i64)
}

fn narrow(value: u64, max: u32) -> Result<u32> {
    u32::try_from(value).ok().filter(|v| *v <= max).ok_or_else(|| Error::damaged("a tree holds a number out of range"))
}

fn encode_xattrs(xattrs: &[(Vec<u8>, XattrValue)]) -> Vec<u8> {
    let mut w = Writer::new();
    for (name, value) in xattrs {
        w.lp_bytes(name);
        match value {
            XattrValue::Inline(bytes) => {
                w.u8(0);
                w.lp_bytes(bytes);
            }
            XattrValue::Chunk { h, len } => {
                w.u8(1);
                w.varint(u64::from(*len));
                w.bytes(h.expose());
            }
        }
    }
    w.into_vec()
}

fn decode_xattrs(bytes: &[u8]) -> Result<Vec<(Vec<u8>, XattrValue)>> {
    let mut r = Reader::new(bytes);
    let mut out: Vec<(Vec<u8>, XattrValue)> = Vec::new();
    while !r.is_empty() {
        let name = r.lp_bytes(255)?;
        let sorted = out.last().is_none_or(|(last, _)| last.as_slice() < name);
        if !sorted || name.is_empty() || name.contains(&0) || out.len() == MAX_XATTRS {
            return Err(Error::damaged("a tree entry's extended attributes are out of order"));
        }
        let value = match r.u8()? {
            0 => XattrValue::Inline(r.lp_bytes(XATTR_INLINE)?.to_vec()),
            1 => {
                let len = narrow(r.varint()?, MAX_XATTR_VALUE as u32)?;
                XattrValue::Chunk { h: ContentHash::from_bytes(r.array()?), len }
            }
            _ => return Err(Error::damaged("an extended attribute has an unknown form")),
        };
        out.push((name.to_vec(), value));
    }
    Ok(out)
}

/// Reads a tree chunk: its entries, strictly ascending by name.
///
/// # Errors
/// As [`Entry::decode`], and `Damaged` for names out of order or twice.
pub fn decode_entries(chunk: &[u8], mut visit: impl FnMut(Entry) -> Result<()>) -> Result<()> {
    let mut r = Reader::new(chunk);
    let mut last: Option<Vec<u8>> = None;
    while !r.is_empty() {
        let entry = Entry::decode(&mut r)?;
        if last.as_ref().is_some_and(|last| *last >= entry.name) {
            return Err(Error::damaged("a tree's names are out of order"));
        }
        last = Some(entry.name.clone());
        visit(entry)?;
    }
    Ok(())
}
