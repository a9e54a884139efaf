//! A connection in memory on which every message can be seen, changed or lost on its way.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use sync::stream::{Duplex, pair};
use sync::wire::{HEADER, PREFACE_HEAD, Side};

/// What becomes of a message.
pub enum Fate {
    Pass,
    /// These bytes come instead.
    Instead(Vec<u8>),
    /// The link breaks when so many bytes of it have passed.
    Cut(usize),
}

/// One message on its way.
pub struct Passing<'a> {
    /// On which connection, counted from 0.
    pub number: usize,
    /// Who sent it.
    pub from: Side,
    /// Its kind; 0 for a preface.
    pub kind: u8,
    /// All its bytes, with its header.
    pub bytes: &'a [u8],
}

pub type Tap = Arc<Mutex<dyn FnMut(&Passing<'_>) -> Fate + Send>>;

struct Link {
    broken: AtomicBool,
    /// The client's and the server's; gone when the link is broken.
    writers: [Mutex<Option<Box<dyn Write + Send>>>; 2],
    tap: Tap,
    number: usize,
}

/// A client's end and a server's of a connection that `tap` watches.
pub fn tapped(tap: &Tap) -> (Duplex, Duplex) {
    tapped_as(tap, 0)
}

/// As [`tapped`]; which connection it is.
pub fn tapped_as(tap: &Tap, number: usize) -> (Duplex, Duplex) {
    let (client, server) = pair(1 << 20, None);
    let writers = [Mutex::new(Some(client.write)), Mutex::new(Some(server.write))];
    let link = Arc::new(Link { broken: AtomicBool::new(false), writers, tap: Arc::clone(tap), number });
    let end = |from, read| Duplex {
        read: Box::new(Reads { link: Arc::clone(&link), read }),
        write: Box::new(Writes { link: Arc::clone(&link), from, waiting: Vec::new(), greeted: false }),
    };
    (end(Side::Client, client.read), end(Side::Server, server.read))
}

impl Link {
    fn writer(&self, from: Side) -> &Mutex<Option<Box<dyn Write + Send>>> {
        &self.writers[usize::from(from == Side::Server)]
    }

    fn break_off(&self) {
        self.broken.store(true, Ordering::SeqCst);
        self.writers.iter().for_each(|writer| *writer.lock() = None);
    }

    fn send(&self, from: Side, bytes: &[u8]) -> io::Result<()> {
        match &mut *self.writer(from).lock() {
            Some(writer) => writer.write_all(bytes),
            None => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }
}

struct Reads {
    link: Arc<Link>,
    read: Box<dyn Read + Send>,
}

impl Read for Reads {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.read.read(buf) {
            Ok(0) if self.link.broken.load(Ordering::SeqCst) => Err(io::ErrorKind::ConnectionReset.into()),
            other => other,
        }
    }
}

struct Writes {
    link: Arc<Link>,
    from: Side,
    /// What has come of a message that is not whole.
    waiting: Vec<u8>,
    greeted: bool,
}

impl Writes {
    /// The length of what comes next, once that can be told.
    fn whole(&self) -> Option<usize> {
        if !self.greeted {
            let head = self.waiting.first_chunk::<PREFACE_HEAD>()?;
            return Some(PREFACE_HEAD + usize::from(u16::from_le_bytes([head[8], head[9]])));
        }
        let head = self.waiting.first_chunk::<HEADER>()?;
        Some(HEADER - 1 + u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize)
    }
}

impl Write for Writes {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.waiting.extend_from_slice(buf);
        while let Some(len) = self.whole().filter(|len| *len <= self.waiting.len()) {
            let bytes: Vec<u8> = self.waiting.drain(..len).collect();
            let kind = if self.greeted { bytes[HEADER - 1] } else { 0 };
            self.greeted = true;
            let fate =
                (self.link.tap.lock())(&Passing { number: self.link.number, from: self.from, kind, bytes: &bytes });
            match fate {
                Fate::Pass => self.link.send(self.from, &bytes)?,
                Fate::Instead(other) => self.link.send(self.from, &other)?,
                Fate::Cut(at) => {
                    let _ = self.link.send(self.from, &bytes[..at.min(bytes.len())]);
                    self.link.break_off();
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
            }
        }
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Writes {
    fn drop(&mut self) {
        *self.link.writer(self.from).lock() = None;
    }
}
