//! The `state` file: what `data.mdb` looked like after the last commit, and who is changing it now.
//!
//! One block, overwritten in place so that a full disk cannot stop it; checksummed, so that a torn write reads as
//! "cannot be trusted". Nothing here is needed to recover data: every doubt ends in a rebuild.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use crate::error::{Error, Result};
use crate::id::RepoId;

const MAGIC: &[u8; 8] = b"PMSTATE\x01";
const RECORD: usize = 256;
const MARKER_AT: u64 = 512;
/// The file's fixed length: set aside once, when the index is made.
pub(super) const STATE_LEN: usize = 4096;

/// Whether `data.mdb` is at rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// As stamped.
    Clean,
    /// A writer is, or was when it died, between its first write and its stamp.
    Dirty,
    /// Something that LMDB or the disk said makes the file worthless.
    Distrusted,
}

/// A file's identity and last change, as the filesystem tells it, and what its two meta pages hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Inode number.
    pub inode: u64,
    /// Length in bytes.
    pub length: u64,
    mtime: (i64, u32),
    ctime: (i64, u32),
    meta: [u8; 32],
}

impl Stamp {
    /// The stamp of `data.mdb` as it is now, or why it cannot be an LMDB file.
    pub fn of(data: &Path) -> io::Result<std::result::Result<Stamp, &'static str>> {
        let file = match File::open(data) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Err("its data file is missing")),
            Err(e) => return Err(e),
        };
        let about = file.metadata()?;
        if !about.is_file() {
            return Ok(Err("its data file is no file"));
        }
        let meta = match check_meta(&file, about.len())? {
            Ok(meta) => meta,
            Err(why) => return Ok(Err(why)),
        };
        Ok(Ok(Stamp {
            inode: about.ino(),
            length: about.len(),
            mtime: (about.mtime(), about.mtime_nsec() as u32),
            ctime: (about.ctime(), about.ctime_nsec() as u32),
            meta,
        }))
    }

    /// What differs, for people.
    pub fn difference(&self, now: &Stamp) -> &'static str {
        if self.inode != now.inode {
            "its data file was replaced or copied since"
        } else if self.length != now.length {
            "its data file changed its length since it was written"
        } else if self.meta != now.meta {
            "its data file is not as it was left"
        } else {
            "its data file was changed since it was written"
        }
    }
}

/// Reads the two meta pages with plain reads and checks what LMDB would rely on before its own checks.
/// Returns their hash.
fn check_meta(file: &File, length: u64) -> io::Result<std::result::Result<[u8; 32], &'static str>> {
    const LMDB_MAGIC: u32 = 0xBEEF_C0DE;
    const P_META: u16 = 0x08;
    const NO_PAGE: u64 = u64::MAX;
    let mut first = [0; 152];
    if length < 2 * 512 || file.read_at(&mut first, 0)? != first.len() {
        return Ok(Err("its data file is too short"));
    }
    let page_size = u32_at(&first, 40);
    if !page_size.is_power_of_two() || !(512..=65536).contains(&page_size) {
        return Ok(Err("its data file has no valid page size"));
    }
    let size = page_size as usize;
    if length < 2 * u64::from(page_size) {
        return Ok(Err("its data file is too short"));
    }
    let mut pages = vec![0; 2 * size];
    file.read_exact_at(&mut pages, 0)?;
    let count = length / u64::from(page_size);
    for page in pages.chunks_exact(size) {
        let flags = u16::from_ne_bytes([page[10], page[11]]);
        if u32_at(page, 16) != LMDB_MAGIC || flags & P_META == 0 || u32_at(page, 20) != 1 {
            return Ok(Err("its data file is of another version"));
        }
        if u32_at(page, 40) != page_size {
            return Ok(Err("its data file disagrees with itself about its page size"));
        }
        for root in [u64_at(page, 80), u64_at(page, 128)] {
            if root != NO_PAGE && !(2..count).contains(&root) {
                return Ok(Err("its data file points past its end"));
            }
        }
    }
    Ok(Ok(*blake3::hash(&pages).as_bytes()))
}

/// The contents of the `state` file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// At rest, or not.
    pub status: Status,
    /// The directory that holds the index proper.
    pub generation: u64,
    /// The repository that the index is of.
    pub repo: RepoId,
    /// This start of the machine, when `state` was written.
    pub boot: [u8; 32],
    /// As of the last time the file was at rest.
    pub stamp: Stamp,
}

/// What reading `state` found.
#[derive(Debug)]
pub(super) enum Found {
    /// A whole record.
    State(State),
    /// No file.
    Nothing,
    /// A file that holds no whole record; may be a write in progress.
    Torn,
}

impl State {
    /// Reads the file `path`.
    pub fn read(path: &Path) -> Result<Found> {
        let mut block = Vec::with_capacity(RECORD);
        match File::open(path) {
            Ok(file) => file.take(RECORD as u64).read_to_end(&mut block).map_err(|e| Error::io("read", path, e))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(e) => return Err(Error::io("open", path, e)),
        };
        Ok(State::decode(&block).map_or(Found::Torn, Found::State))
    }

    /// Overwrites the file `path`, which exists; durable on return if `durable`.
    pub fn write(&self, path: &Path, durable: bool) -> Result<()> {
        let file = File::options().write(true).open(path).map_err(|e| Error::io("open", path, e))?;
        file.write_all_at(&self.encode(), 0).map_err(|e| Error::io("write", path, e))?;
        if durable {
            file.sync_data().map_err(|e| Error::io("sync", path, e))?;
        }
        Ok(())
    }

    fn encode(&self) -> [u8; RECORD] {
        let mut out = Vec::with_capacity(RECORD);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&(self.status as u64).to_ne_bytes());
        out.extend_from_slice(&self.generation.to_ne_bytes());
        out.extend_from_slice(self.repo.as_bytes());
        out.extend_from_slice(&self.boot);
        let s = &self.stamp;
        for n in [s.inode, s.length, s.mtime.0 as u64, s.mtime.1.into(), s.ctime.0 as u64, s.ctime.1.into()] {
            out.extend_from_slice(&n.to_ne_bytes());
        }
        out.extend_from_slice(&s.meta);
        out.resize(RECORD - 32, 0);
        let sum = blake3::hash(&out);
        out.extend_from_slice(sum.as_bytes());
        let mut record = [0; RECORD];
        record.copy_from_slice(&out);
        record
    }

    fn decode(block: &[u8]) -> Option<State> {
        let block: &[u8; RECORD] = block.try_into().ok()?;
        let (body, sum) = block.split_at(RECORD - 32);
        if body[..8] != *MAGIC || blake3::hash(body).as_bytes() != sum {
            return None;
        }
        let status = match u64_at(body, 8) {
            0 => Status::Clean,
            1 => Status::Dirty,
            2 => Status::Distrusted,
            _ => return None,
        };
        Some(State {
            status,
            generation: u64_at(body, 16),
            repo: RepoId(body[24..56].try_into().ok()?),
            boot: body[56..88].try_into().ok()?,
            stamp: Stamp {
                inode: u64_at(body, 88),
                length: u64_at(body, 96),
                mtime: (u64_at(body, 104) as i64, u64_at(body, 112) as u32),
                ctime: (u64_at(body, 120) as i64, u64_at(body, 128) as u32),
                meta: body[136..168].try_into().ok()?,
            },
        })
    }
}

/// The opening marker: set while a process maps and first reads a generation. Who finds it set, while nobody is
/// opening, knows that the process died there.
pub(super) struct Marker;

impl Marker {
    /// Sets the marker for `generation`, in this start of the machine.
    pub fn set(path: &Path, generation: u64, boot: &[u8; 32]) -> Result<()> {
        Marker::put(path, &Marker::bytes(generation, boot))
    }

    /// Takes the marker away.
    pub fn clear(path: &Path) -> Result<()> {
        Marker::put(path, &[0; 32])
    }

    /// Whether the marker stands for `generation` in this start of the machine.
    pub fn is_set(path: &Path, generation: u64, boot: &[u8; 32]) -> bool {
        let mut found = [0; 32];
        let read = File::open(path).and_then(|file| file.read_exact_at(&mut found, MARKER_AT));
        read.is_ok() && found == Marker::bytes(generation, boot)
    }

    fn bytes(generation: u64, boot: &[u8; 32]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"opening").update(&generation.to_ne_bytes()).update(boot);
        *hasher.finalize().as_bytes()
    }

    fn put(path: &Path, bytes: &[u8; 32]) -> Result<()> {
        let file = File::options().write(true).open(path).map_err(|e| Error::io("open", path, e))?;
        file.write_all_at(bytes, MARKER_AT).map_err(|e| Error::io("write", path, e))
    }
}

/// Tells one start of the machine from another. Where the kernel does not say, every call gives another answer, so
/// that whatever was left unfinished is not trusted.
pub(super) fn boot_id() -> [u8; 32] {
    match std::fs::read("/proc/sys/kernel/random/boot_id") {
        Ok(id) if !id.is_empty() => *blake3::hash(&id).as_bytes(),
        _ => crate::id::random_bytes(),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[at..at + 8]);
    u64::from_ne_bytes(eight)
}
