//! A two-way byte stream, whatever carries it.

use std::io::{self, Read, Write};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

/// The two halves of a connection. Dropping the writing half tells the other side that nothing more comes.
pub struct Duplex {
    /// What the other side wrote; an end without an error means that it dropped its writing half.
    pub read: Box<dyn Read + Send>,
    /// What the other side will read. Buffered by the carrier; [`Write::flush`] hands everything on.
    pub write: Box<dyn Write + Send>,
}

/// A connection inside this process. At most `buffer` bytes wait in each direction. After `cut` bytes in both
/// directions together, if given, both sides find it broken (`ConnectionReset`), as after a lost link.
pub fn pair(buffer: usize, cut: Option<u64>) -> (Duplex, Duplex) {
    let link = Arc::new(Link { state: Mutex::new(State { left: cut, broken: false }), buffer: buffer.max(1) });
    let (there, back) = (Arc::new(Pipe::default()), Arc::new(Pipe::default()));
    let end = |from: &Arc<Pipe>, to: &Arc<Pipe>| Duplex {
        read: Box::new(ReadEnd { link: link.clone(), pipe: from.clone() }),
        write: Box::new(WriteEnd { link: link.clone(), pipe: to.clone() }),
    };
    (end(&back, &there), end(&there, &back))
}

struct Link {
    state: Mutex<State>,
    buffer: usize,
}

struct State {
    /// Bytes until the cut.
    left: Option<u64>,
    broken: bool,
}

#[derive(Default)]
struct Pipe {
    bytes: Mutex<Buffer>,
    changed: Condvar,
}

#[derive(Default)]
struct Buffer {
    waiting: std::collections::VecDeque<u8>,
    /// No writer any more.
    ended: bool,
    /// No reader any more.
    deaf: bool,
    broken: bool,
}

struct ReadEnd {
    link: Arc<Link>,
    pipe: Arc<Pipe>,
}

struct WriteEnd {
    link: Arc<Link>,
    pipe: Arc<Pipe>,
}

fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

impl Link {
    /// Takes `n` bytes off what may still pass; how many of them do. 0: the link is cut.
    fn pass(&self, n: usize) -> usize {
        let mut state = self.state.lock();
        match &mut state.left {
            None => n,
            Some(0) => {
                state.broken = true;
                0
            }
            Some(left) => {
                let some = n.min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= some as u64;
                some
            }
        }
    }
}

impl Read for ReadEnd {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let mut bytes = self.pipe.bytes.lock();
        loop {
            if !bytes.waiting.is_empty() {
                let n = bytes.waiting.read(buf)?;
                self.pipe.changed.notify_all();
                return Ok(n);
            }
            if bytes.broken || self.link.state.lock().broken {
                return Err(reset());
            }
            if bytes.ended {
                return Ok(0);
            }
            // The cut may be noticed in the other direction, which does not wake this one.
            self.pipe.changed.wait_for(&mut bytes, std::time::Duration::from_millis(20));
        }
    }
}

impl Write for WriteEnd {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let mut bytes = self.pipe.bytes.lock();
        loop {
            if bytes.broken || self.link.state.lock().broken {
                return Err(reset());
            }
            if bytes.deaf {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let room = self.link.buffer.saturating_sub(bytes.waiting.len());
            if room > 0 {
                let n = self.link.pass(room.min(buf.len()));
                if n == 0 {
                    bytes.broken = true;
                    self.pipe.changed.notify_all();
                    return Err(reset());
                }
                bytes.waiting.extend(&buf[..n]);
                self.pipe.changed.notify_all();
                return Ok(n);
            }
            self.pipe.changed.wait_for(&mut bytes, std::time::Duration::from_millis(20));
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for ReadEnd {
    fn drop(&mut self) {
        self.pipe.bytes.lock().deaf = true;
        self.pipe.changed.notify_all();
    }
}

impl Drop for WriteEnd {
    fn drop(&mut self) {
        self.pipe.bytes.lock().ended = true;
        self.pipe.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carries_both_ways_and_ends() {
        let (mut a, mut b) = pair(3, None);
        std::thread::scope(|s| {
            s.spawn(|| {
                a.write.write_all(b"to the other side").unwrap();
                a.write = Box::new(io::sink());
                let mut back = String::new();
                a.read.read_to_string(&mut back).unwrap();
                assert_eq!(back, "and back");
            });
            let mut got = String::new();
            b.read.read_to_string(&mut got).unwrap();
            assert_eq!(got, "to the other side");
            b.write.write_all(b"and back").unwrap();
            b.write = Box::new(io::sink());
        });
    }

    #[test]
    fn a_cut_breaks_both_sides_after_so_many_bytes() {
        let (mut a, mut b) = pair(1024, Some(10));
        assert_eq!(a.write.write_all(&[1; 20]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        let mut got = Vec::new();
        assert_eq!(b.read.read_to_end(&mut got).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(got.len(), 10, "what passed before the cut arrives");
        assert!(b.write.write(&[1]).is_err() && a.read.read(&mut [0]).is_err());
    }
}
