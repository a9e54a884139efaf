//! A TCP socket that goes on reading while a write waits.
//!
//! russh does one thing at a time: while its loop writes it does not read. Two ends that write to each other at once
//! would then wait for each other for ever, each with full socket buffers. So a write that has to wait reads ahead, as
//! much as the peer has been granted to send, and hands that out to the next reads.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Read in one go. A packet of 64 KiB is otherwise two system calls, one for its length.
const CHUNK: usize = 256 << 10;

/// What a peer may send beyond grants: requests, keepalives, changes of keys.
const SLACK: u64 = 1 << 20;

/// The bytes that a connection's peer may yet send, all channels together.
pub(super) type Promised = Arc<AtomicU64>;

/// Counts a connection's bytes, in both directions: while it stands still, so does the connection.
pub(super) type Moved = Arc<AtomicU64>;

/// See the module.
pub(super) struct Socket {
    tcp: Arc<TcpStream>,
    promised: Promised,
    moved: Moved,
    ahead: Vec<u8>,
    /// Where the unread part of `ahead` begins.
    from: usize,
    ended: bool,
}

impl Socket {
    /// Shares the socket, so that another task can shut it down.
    pub(super) fn new(tcp: Arc<TcpStream>, promised: Promised, moved: Moved) -> Socket {
        Socket { tcp, promised, moved, ahead: Vec::new(), from: 0, ended: false }
    }

    /// Reads once into `ahead`: what came, 0 at the end.
    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.from == self.ahead.len() {
            self.from = 0;
            self.ahead.clear();
            // What a standstill made it grow to is given back.
            self.ahead.shrink_to(CHUNK);
        } else if self.from > self.ahead.len() / 2 {
            self.ahead.drain(..self.from);
            self.from = 0;
        }
        self.ahead.reserve_exact(CHUNK);
        loop {
            ready!(self.tcp.poll_read_ready(cx))?;
            match self.tcp.try_read_buf(&mut self.ahead) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) => {
                    self.ended = true;
                    return Poll::Ready(Ok(0));
                }
                Ok(n) => {
                    self.moved.fetch_add(n as u64, Ordering::Relaxed);
                    return Poll::Ready(Ok(n));
                }
                done => return Poll::Ready(done),
            }
        }
    }

    /// Reads what has come, up to what was promised. An error shows at the next read.
    fn read_ahead(&mut self, cx: &mut Context<'_>) {
        while !self.ended {
            let room = self.promised.load(Ordering::Relaxed) + SLACK;
            if (self.ahead.len() - self.from) as u64 >= room || !matches!(self.fill(cx), Poll::Ready(Ok(1..))) {
                return;
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.from == self.ahead.len() && !self.ended {
            ready!(self.fill(cx))?;
        }
        let n = buf.remaining().min(self.ahead.len() - self.from);
        buf.put_slice(&self.ahead[self.from..self.from + n]);
        self.from += n;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.tcp.poll_write_ready(cx) {
                Poll::Ready(ready) => ready?,
                Poll::Pending => {
                    self.read_ahead(cx);
                    return Poll::Pending;
                }
            }
            match self.tcp.try_write(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                done => {
                    self.moved.fetch_add(*done.as_ref().unwrap_or(&0) as u64, Ordering::Relaxed);
                    return Poll::Ready(done);
                }
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match socket2::SockRef::from(&*self.tcp).shutdown(std::net::Shutdown::Write) {
            Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(()),
            done => done,
        })
    }
}

/// Ends a connection at once, whatever its tasks wait for.
pub(super) fn cut(tcp: &TcpStream) {
    let _ = socket2::SockRef::from(tcp).shutdown(std::net::Shutdown::Both);
}

/// Makes the kernel hold little, for tests.
#[cfg(test)]
pub(super) fn squeeze(tcp: &TcpStream) {
    let socket = socket2::SockRef::from(tcp);
    socket.set_recv_buffer_size(128 << 10).and_then(|()| socket.set_send_buffer_size(128 << 10)).unwrap();
}
