//! Reading files: several at once, each chunked and hashed by the thread that reads it, delivered in order by its own
//! channel. A file that changes while it is read is read again.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

use crate::capture::scan::{Attributes, Meta, open_leased, stat, xattrs_of};
use crate::chunker::ChunkerParams;
use crate::crypto::hash::{ChunkKind, content_hash};
use crate::format::tree::EntryType;
use crate::id::ContentHash;
use crate::limits::{FILE_INLINE, MIB};

/// Files up to this size are read at once.
pub const WHOLE: u64 = MIB as u64;
/// How much of a larger file is read at a time.
const WINDOW: usize = MIB;
/// Pieces of a large file that wait to be taken.
pub const QUEUE: usize = 16;
/// How much is read of a file that says it is empty and is not, as all of procfs does. The longest text of the kernel's
/// that ends (its symbols) has some 20 MiB; what is longer has no end worth waiting for: the page map of a process has
/// 256 GiB, and others make content for as long as they are read.
const UNMEASURED: u64 = 64 * MIB as u64;
/// How often a file that changes is read anew before it is taken as it is.
const RETRIES: u32 = 3;

/// A file to read.
pub struct Job {
    /// The directory it is in; none for a stream.
    pub from: Origin,
    /// What the walk saw.
    pub meta: Meta,
    /// Where the pieces go.
    pub out: Sender<Msg>,
}

/// Where a job's bytes come from.
pub enum Origin {
    /// A name in an open directory.
    Name(Arc<OwnedFd>, Vec<u8>),
    /// A device read by its content; the path is the user's own.
    Device(std::path::PathBuf),
    /// A pipe, read to its end.
    Stream(Box<dyn Read + Send>),
}

/// What a reader delivers, in order.
pub enum Msg {
    /// Attributes, first of all and again at each restart.
    Begin(Meta, Attributes),
    /// The whole content of a tiny file.
    Inline(Vec<u8>),
    /// The next chunk.
    Data(ContentHash, Vec<u8>),
    /// The next hole.
    Hole(u64),
    /// The end; true when the file never held still.
    End(bool),
    /// The file cannot be read.
    Failed(io::Error),
}

/// Why reading stopped.
enum Stop {
    /// Nobody listens any more.
    Gone,
    Failed(io::Error),
}

impl From<io::Error> for Stop {
    fn from(e: io::Error) -> Stop {
        Stop::Failed(e)
    }
}

/// Takes jobs until there are no more. With `over` set nothing is waited for any longer.
pub fn run(jobs: &Receiver<Job>, params: ChunkerParams, over: &AtomicBool) {
    let mut buffer = Vec::new();
    for job in jobs {
        let out = job.out.clone();
        if let Err(Stop::Failed(e)) = read_job(job, params, &mut buffer, over) {
            // When nobody listens any more the backup is over already.
            let _ = out.send(Msg::Failed(e));
        }
    }
}

fn read_job(job: Job, params: ChunkerParams, buffer: &mut Vec<u8>, over: &AtomicBool) -> Result<(), Stop> {
    let mut reader = Reader { params, out: job.out, buffer, over };
    match job.from {
        Origin::Stream(mut pipe) => {
            reader.send(Msg::Begin(job.meta, Attributes::default()))?;
            reader.chunks(u64::MAX, |buf, _| pipe.read(buf))?;
            reader.send(Msg::End(false))
        }
        Origin::Device(path) => {
            let file = File::open(path)?;
            reader.send(Msg::Begin(job.meta, Attributes::default()))?;
            reader.chunks(u64::MAX, |buf, at| file.read_at(buf, at))?;
            reader.send(Msg::End(false))
        }
        Origin::Name(dir, name) => reader.file(&dir, &name),
    }
}

struct Reader<'a> {
    params: ChunkerParams,
    out: Sender<Msg>,
    buffer: &'a mut Vec<u8>,
    over: &'a AtomicBool,
}

impl Reader<'_> {
    fn send(&self, msg: Msg) -> Result<(), Stop> {
        self.out.send(msg).map_err(|_| Stop::Gone)
    }

    fn file(&mut self, dir: &Arc<OwnedFd>, name: &[u8]) -> Result<(), Stop> {
        let mut attempt = 0;
        loop {
            let file = open_leased(dir.as_fd(), name, self.over)?;
            let before = stat(&file)?;
            if before.kind != EntryType::File {
                // Replaced by something else since it was listed: gone, as far as this snapshot is concerned.
                return Err(io::Error::from_raw_os_error(libc::ENOENT).into());
            }
            let head = if before.size == 0 { beginning(&file)? } else { Vec::new() };
            if head.is_empty() {
                self.send(Msg::Begin(before, xattrs_of(&file)))?;
                self.content(&file, &before)?;
            } else {
                let size = if is_all(&head) { head.len() as u64 } else { UNMEASURED };
                self.send(Msg::Begin(Meta { size, ..before }, xattrs_of(&file)))?;
                self.unmeasured(head, &file)?;
            }
            let stable = stat(&file)?.same_content(&before);
            if stable || attempt == RETRIES {
                return self.send(Msg::End(!stable));
            }
            attempt += 1;
            // Give a writer that is about to finish a moment.
            std::thread::sleep(Duration::from_millis(20 << attempt));
        }
    }

    fn content(&mut self, file: &File, meta: &Meta) -> Result<(), Stop> {
        if meta.size <= FILE_INLINE as u64 {
            let mut bytes = vec![0; meta.size as usize];
            let n = fill(&mut bytes, |buf, at| file.read_at(buf, at as u64))?;
            bytes.truncate(n);
            return self.send(Msg::Inline(bytes));
        }
        if !meta.sparse() {
            return self.chunks(meta.size, |buf, at| file.read_at(buf, at)).map(drop);
        }
        let mut at = 0;
        while at < meta.size {
            let data = seek(file, at, libc::SEEK_DATA)?.unwrap_or(meta.size).min(meta.size);
            if data > at {
                self.send(Msg::Hole(data - at))?;
            }
            if data == meta.size {
                break;
            }
            let end = seek(file, data, libc::SEEK_HOLE)?.unwrap_or(meta.size).clamp(data, meta.size);
            // Data without length: somebody works on the file, or the filesystem is confused. Never stand still.
            let end = if end == data { meta.size } else { end };
            if self.chunks(end - data, |buf, at| file.read_at(buf, data + at))? < end - data {
                // The file has become shorter: what came after must not move up.
                break;
            }
            at = end;
        }
        Ok(())
    }

    /// The content of a file that has some though its size is 0; it begins with `head`.
    fn unmeasured(&mut self, head: Vec<u8>, file: &File) -> Result<(), Stop> {
        if head.len() <= FILE_INLINE {
            return self.send(Msg::Inline(head));
        }
        let left = if is_all(&head) { 0 } else { UNMEASURED - WHOLE };
        let mut bytes = head.as_slice().chain(file.take(left));
        let got = self.chunks(u64::MAX, |buf, _| bytes.read(buf))?;
        // One that has a size by now is somebody's who began to write it: it is read again.
        if got == UNMEASURED && stat(file)?.size == 0 {
            let why = "it says that it is empty, but does not end within 64 MiB; leave it out with --exclude";
            return Err(io::Error::other(why).into());
        }
        Ok(())
    }

    /// Cuts what `read` gives, at most `len` bytes, and sends each chunk hashed. Returns how many bytes there were.
    fn chunks(&mut self, len: u64, mut read: impl FnMut(&mut [u8], u64) -> io::Result<usize>) -> Result<u64, Stop> {
        let params = self.params;
        let (mut have, mut taken, mut got) = (0usize, 0usize, 0u64);
        loop {
            let mut ended = got == len;
            if have - taken < params.max as usize && !ended {
                self.buffer.copy_within(taken..have, 0);
                have -= taken;
                taken = 0;
                let window = WINDOW.min(usize::try_from(len - got).unwrap_or(WINDOW));
                if self.buffer.len() < have + window {
                    self.buffer.resize(have + window, 0);
                }
                let n = fill(&mut self.buffer[have..have + window], |buf, at| read(buf, got + at as u64))?;
                have += n;
                got += n as u64;
                ended = n < window || got == len;
            }
            while have - taken >= params.max as usize || (ended && taken < have) {
                let bytes = &self.buffer[taken..have];
                let bytes = &bytes[..params.cut(bytes)];
                taken += bytes.len();
                let msg = Msg::Data(content_hash(ChunkKind::Data, bytes), bytes.to_vec());
                self.send(msg)?;
            }
            if ended {
                return Ok(got);
            }
        }
    }
}

/// What a file of size 0 gives all the same, as far as that is read at once. It is read in order and in even portions:
/// some of procfs can be read in no other way.
fn beginning(file: &File) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    file.take(WHOLE).read_to_end(&mut head)?;
    Ok(head)
}

/// Whether the file ended before as much was read as was asked for.
fn is_all(head: &[u8]) -> bool {
    (head.len() as u64) < WHOLE
}

/// Reads until `buf` is full or the end; `read` gets the offset from the buffer's start.
fn fill(buf: &mut [u8], mut read: impl FnMut(&mut [u8], usize) -> io::Result<usize>) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match read(&mut buf[done..], done) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// The next data or hole; none past the last.
fn seek(file: &File, at: u64, whence: i32) -> io::Result<Option<u64>> {
    use nix::unistd::Whence;
    let data = whence == libc::SEEK_DATA;
    let whence = if data { Whence::SeekData } else { Whence::SeekHole };
    match nix::unistd::lseek(file, at as i64, whence) {
        Ok(found) => Ok(Some(found as u64)),
        Err(nix::errno::Errno::ENXIO) => Ok(None),
        // A filesystem that cannot say has no holes. (SMB servers answer so.)
        Err(nix::errno::Errno::EINVAL | nix::errno::Errno::EOPNOTSUPP | nix::errno::Errno::ENOSYS) => {
            Ok(Some(if data { at } else { u64::MAX }))
        }
        Err(e) => Err(e.into()),
    }
}
