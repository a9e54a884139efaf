//! A link that takes its time.

use std::io::{self, Read, Write};
use std::thread::sleep;
use std::time::Duration;

use sync::stream::{Duplex, pair};

/// A long link: whatever is read comes late, and it is slow.
struct Slow<T>(T);

impl<T: Read> Read for Slow<T> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        sleep(Duration::from_millis(25));
        self.0.read(buf)
    }
}

impl<T: Write> Write for Slow<T> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        sleep(Duration::from_millis(6));
        self.0.write(&buf[..buf.len().min(64 << 10)])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// A client's end of a long link, and the server's.
pub fn long(cut: Option<u64>) -> (Duplex, Duplex) {
    let (client, server) = pair(1 << 20, cut);
    (Duplex { read: Box::new(Slow(client.read)), write: Box::new(Slow(client.write)) }, server)
}
