//! Between a channel of russh and the blocking halves of a [`Duplex`].
//!
//! Two tasks serve a channel. The *drain* takes everything off russh's queue at once, whoever reads or not, since a full
//! queue would stop the whole connection; what it takes is bounded by what was granted. The *granter* tells the other
//! side what may follow; it is a task of its own because its packets go through russh's loop, which may just be waiting
//! for the drain. Data are the channel's bytes; grants are its extended data of type [`CONTROL`], four bytes each.

use std::any::Any;
use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::{Buf, Bytes};
use parking_lot::{Condvar, Mutex};
use russh::{Channel, ChannelId, ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::sync::watch;

use crate::stream::Duplex;

use super::credit::Window;
use super::tuning::PACKET;

/// The type of extended data that carries grants: of the range RFC 4254 leaves to private use. Each is a `u32`, little
/// endian: so many bytes more may be sent; [`DEAF`]: nobody reads any more.
const CONTROL: u32 = 0xfe00_504d;

const DEAF: u32 = u32::MAX;

/// A peer that was granted more than this has lost count.
const MAX_CREDIT: u64 = 1 << 31;

/// Packets smaller than this are copied together, so that many small ones cost no more memory than their bytes.
const SMALL: usize = 4096;

/// Why a connection ended, if anybody knows.
pub(super) type Reason = Arc<Mutex<Option<String>>>;

type Done<'a> = Pin<Box<dyn Future<Output = io::Result<()>> + Send + 'a>>;

/// The writing half of a channel of either end: russh's is a generic type.
trait Outlet: Send + Sync {
    fn data(&self, bytes: Bytes) -> Done<'_>;
    fn control(&self, value: u32) -> Done<'_>;
    fn eof(&self) -> Done<'_>;
    fn close(&self) -> Done<'_>;
}

fn gone(_: russh::Error) -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

impl<S: From<(ChannelId, ChannelMsg)> + Send + Sync + 'static> Outlet for ChannelWriteHalf<S> {
    fn data(&self, bytes: Bytes) -> Done<'_> {
        Box::pin(async { self.data_bytes(bytes).await.map_err(gone) })
    }

    fn control(&self, value: u32) -> Done<'_> {
        Box::pin(async move { self.extended_data_bytes(CONTROL, value.to_le_bytes().to_vec()).await.map_err(gone) })
    }

    fn eof(&self) -> Done<'_> {
        Box::pin(async { ChannelWriteHalf::eof(self).await.map_err(gone) })
    }

    fn close(&self) -> Done<'_> {
        Box::pin(async { ChannelWriteHalf::close(self).await.map_err(gone) })
    }
}

/// What the halves and the tasks of one channel share.
struct Line {
    outlet: Box<dyn Outlet>,
    inbox: Mutex<Inbox>,
    /// Wakes the reader.
    arrived: Condvar,
    /// Wakes the granter.
    read: Notify,
    credit: Mutex<Credit>,
    /// Wakes who waits for credit.
    granted: Notify,
    /// True once nothing passes any more.
    over: watch::Sender<bool>,
    reason: Reason,
    /// The halves that are done with.
    done: AtomicU8,
    _open: Box<dyn Any + Send + Sync>,
}

const WRITER: u8 = 1;
const READER: u8 = 2;

struct Inbox {
    queue: VecDeque<Bytes>,
    window: Window,
    end: Option<End>,
    /// Nobody reads: what comes is dropped.
    deaf: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    Clean,
    Broken,
}

struct Credit {
    left: u64,
    deaf: bool,
}

/// Whoever counts channels.
pub(super) struct Guards {
    /// Dropped with the second of the halves.
    pub(super) used: Arc<dyn Any + Send + Sync>,
    /// Dropped when nothing is on its way any more, either.
    pub(super) open: Box<dyn Any + Send + Sync>,
}

/// Makes a blocking stream of a channel. `reason` may say, once the connection has ended, why.
pub(super) fn duplex<S>(channel: Channel<S>, window: Window, reason: Reason, guards: Guards, handle: Handle) -> Duplex
where
    S: From<(ChannelId, ChannelMsg)> + Send + Sync + 'static,
{
    let (incoming, outlet) = channel.split();
    let line = Arc::new(Line {
        outlet: Box::new(outlet),
        inbox: Mutex::new(Inbox { queue: VecDeque::new(), window, end: None, deaf: false }),
        arrived: Condvar::new(),
        read: Notify::new(),
        credit: Mutex::new(Credit { left: 0, deaf: false }),
        granted: Notify::new(),
        over: watch::Sender::new(false),
        reason,
        done: AtomicU8::new(0),
        _open: guards.open,
    });
    line.read.notify_one();
    handle.spawn(drain(line.clone(), incoming));
    handle.spawn(grant(line.clone()));
    Duplex {
        read: Box::new(Reader { line: line.clone(), handle: handle.clone(), _used: guards.used.clone() }),
        write: Box::new(Writer { line, handle, buffer: Vec::new(), failed: false, _used: guards.used }),
    }
}

/// Takes everything off the channel until it ends.
async fn drain(line: Arc<Line>, mut incoming: ChannelReadHalf) {
    let mut over = line.over.subscribe();
    loop {
        let message = tokio::select! {
            message = incoming.wait() => message,
            _ = over.wait_for(|over| *over) => break,
        };
        let goes_on = match message {
            Some(ChannelMsg::Data { data }) => line.push(data),
            Some(ChannelMsg::ExtendedData { data, ext: CONTROL }) => line.told(&data),
            Some(ChannelMsg::Eof) => {
                line.end(End::Clean);
                true
            }
            Some(ChannelMsg::Close) | None => false,
            Some(_) => true,
        };
        if !goes_on {
            break;
        }
    }
    line.end(End::Broken);
    line.over.send_replace(true);
    line.granted.notify_waiters();
    // Answers nothing if the channel is closed already.
    let _ = line.outlet.close().await;
}

/// Tells the other side, after each sizeable piece that was read, how much may follow.
async fn grant(line: Arc<Line>) {
    let mut over = line.over.subscribe();
    loop {
        tokio::select! {
            () = line.read.notified() => {}
            _ = over.wait_for(|over| *over) => return,
        }
        let value = {
            let mut inbox = line.inbox.lock();
            match (inbox.deaf, inbox.end) {
                (_, Some(_)) => return,
                (true, None) => DEAF,
                (false, None) => inbox.window.grant() as u32,
            }
        };
        if value > 0 && line.put(line.outlet.control(value)).await.is_err() || value == DEAF {
            return;
        }
    }
}

impl Line {
    /// False: the other side sent more than it was granted.
    fn push(&self, data: Bytes) -> bool {
        let mut inbox = self.inbox.lock();
        let n = data.len() as u64;
        if inbox.end.is_some() || !inbox.window.received(n) {
            return false;
        }
        if inbox.deaf {
            inbox.window.consumed(n);
            return true;
        }
        match inbox.queue.pop_back() {
            Some(last) if data.len() < SMALL && last.len() + data.len() <= PACKET => {
                // Unique, so no copy of what is there, but for a packet's own allocation the first time.
                let mut joined = last.try_into_mut().unwrap_or_else(|shared| shared[..].into());
                joined.extend_from_slice(&data);
                inbox.queue.push_back(joined.freeze());
            }
            last => {
                inbox.queue.extend(last);
                inbox.queue.push_back(data);
            }
        }
        drop(inbox);
        self.arrived.notify_one();
        true
    }

    /// Takes a grant. False: nonsense.
    fn told(&self, data: &[u8]) -> bool {
        let Ok(value) = <[u8; 4]>::try_from(data).map(u32::from_le_bytes) else {
            return false;
        };
        let mut credit = self.credit.lock();
        match value {
            DEAF => credit.deaf = true,
            more => credit.left += u64::from(more),
        }
        let sane = credit.left <= MAX_CREDIT;
        drop(credit);
        self.granted.notify_waiters();
        sane
    }

    fn end(&self, end: End) {
        let mut inbox = self.inbox.lock();
        inbox.end.get_or_insert(end);
        drop(inbox);
        self.arrived.notify_all();
    }

    fn broken(&self) -> io::Error {
        match &*self.reason.lock() {
            Some(why) => io::Error::new(io::ErrorKind::ConnectionReset, why.clone()),
            None => io::Error::new(io::ErrorKind::ConnectionReset, "the other side closed the connection"),
        }
    }

    /// Waits for credit: how many of `wanted` bytes may go.
    async fn credit(&self, wanted: usize) -> io::Result<usize> {
        loop {
            let granted = self.granted.notified();
            tokio::pin!(granted);
            granted.as_mut().enable();
            {
                let mut credit = self.credit.lock();
                if credit.deaf {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                if *self.over.borrow() {
                    return Err(self.broken());
                }
                if credit.left > 0 {
                    let n = wanted.min(usize::try_from(credit.left).unwrap_or(usize::MAX));
                    credit.left -= n as u64;
                    return Ok(n);
                }
            }
            granted.await;
        }
    }

    /// Waits for russh to take something: it would wait for ever for window of a connection that has ended.
    async fn put(&self, done: Done<'_>) -> io::Result<()> {
        let mut over = self.over.subscribe();
        tokio::select! {
            biased;
            result = done => result.map_err(|_| self.broken()),
            _ = over.wait_for(|over| *over) => Err(self.broken()),
        }
    }

    async fn send(&self, mut bytes: Bytes) -> io::Result<()> {
        while !bytes.is_empty() {
            let n = self.credit(bytes.len()).await?;
            self.put(self.outlet.data(bytes.split_to(n))).await?;
        }
        Ok(())
    }

    /// One half is done with; the channel closes with the second.
    async fn finished(&self, half: u8) {
        if self.done.fetch_or(half, Ordering::AcqRel) | half == WRITER | READER {
            let _ = self.put(self.outlet.close()).await;
            self.over.send_replace(true);
        }
    }
}

struct Reader {
    line: Arc<Line>,
    handle: Handle,
    _used: Arc<dyn Any + Send + Sync>,
}

impl Read for Reader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let line = &self.line;
        let mut inbox = line.inbox.lock();
        while inbox.queue.is_empty() {
            match inbox.end {
                Some(End::Clean) => return Ok(0),
                Some(End::Broken) => return Err(line.broken()),
                None => line.arrived.wait(&mut inbox),
            }
        }
        let mut n = 0;
        while let Some(first) = inbox.queue.front_mut().filter(|_| n < buf.len()) {
            let some = first.len().min(buf.len() - n);
            first.copy_to_slice(&mut buf[n..n + some]);
            n += some;
            if first.is_empty() {
                inbox.queue.pop_front();
            }
        }
        let due = inbox.window.consumed(n as u64);
        drop(inbox);
        if due {
            line.read.notify_one();
        }
        Ok(n)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut inbox = self.line.inbox.lock();
        inbox.deaf = true;
        let waiting: usize = inbox.queue.drain(..).map(|b| b.len()).sum();
        inbox.window.consumed(waiting as u64);
        drop(inbox);
        self.line.read.notify_one();
        let line = self.line.clone();
        self.handle.spawn(async move { line.finished(READER).await });
    }
}

struct Writer {
    line: Arc<Line>,
    handle: Handle,
    /// Below a packet.
    buffer: Vec<u8>,
    failed: bool,
    _used: Arc<dyn Any + Send + Sync>,
}

impl Writer {
    fn hand_on(&mut self) -> io::Result<()> {
        let bytes = if self.buffer.len() < SMALL {
            let bytes = Bytes::copy_from_slice(&self.buffer);
            self.buffer.clear();
            bytes
        } else {
            Bytes::from(std::mem::take(&mut self.buffer))
        };
        let done = self.handle.block_on(self.line.send(bytes));
        self.failed |= done.is_err();
        done
    }
}

impl Write for Writer {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.buffer.capacity() == 0 {
            self.buffer.reserve_exact(PACKET);
        }
        let n = buf.len().min(PACKET - self.buffer.len());
        self.buffer.extend_from_slice(&buf[..n]);
        if self.buffer.len() == PACKET {
            self.hand_on()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() { Ok(()) } else { self.hand_on() }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // What a panic or an error leaves half said has no clean end. After an error the other half may still find why.
        let (failed, panicking) = (self.failed, std::thread::panicking());
        let rest = Bytes::from(std::mem::take(&mut self.buffer));
        let line = self.line.clone();
        self.handle.spawn(async move {
            if !failed && !panicking && line.send(rest).await.is_ok() {
                let _ = line.put(line.outlet.eof()).await;
            }
            line.finished(if panicking { WRITER | READER } else { WRITER }).await;
        });
    }
}
