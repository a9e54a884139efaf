//! The client's end of a push: messages go out from threads of their own, others take in what comes, so that neither side
//! waits for the other to listen. Packs travel by as many connections as it takes to fill a long link.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, SendTimeoutError, Sender, bounded, unbounded};
use repo::chunker::ChunkerParams;
use repo::clock::Time;
use repo::error::{Error, Kind, Result};
use repo::format::record::Position;
use repo::id::{DriveId, PackId, RepoId, SnapshotId};
use repo::limits::MIB;
use repo::monitor::{Counters, Monitor};

use super::lane::{self, Came, PATIENCE, Put, Say, Shared};
use crate::fetch::{Dial, unexpected};
use crate::wire::{Bitmap, Connection, Message, Object, Preface, Purpose, RECEIPTS, Session, Side};

/// The other side's clock may be off by so much before it is worth a word.
const CLOCK: Duration = Duration::from_secs(3600);
/// The most connections of a push, the first included.
pub const CONNECTIONS: usize = 4;
/// Packs in memory, in all connections together, come to about this much.
const IN_MEMORY: usize = 128 * MIB;
/// A link that takes longer for a question and its answer is filled by several connections only: one loses too much of its
/// speed whenever something is lost.
pub const LONG: Duration = Duration::from_millis(30);
/// … as is one on which no connection was free for this long.
const BUSY: Duration = Duration::from_millis(500);
/// How often to look at what has come, and at the monitor, while waiting.
const LOOK: Duration = Duration::from_millis(100);

/// What the pool said at the beginning.
pub struct Ready {
    pub tenant: String,
    pub sealed: bool,
    pub watermark: Option<Position>,
    pub partial: BTreeMap<PackId, u64>,
    /// Whether its clock is far from this one's.
    pub clock_differs: bool,
    /// How it cuts files.
    pub chunker: ChunkerParams,
    /// Master keys of this repository that it has.
    pub epochs: u32,
}

/// An open push.
pub struct Link<'a> {
    dial: Dial,
    monitor: &'a dyn Monitor,
    session: Session,
    say: Sender<Say>,
    packs: Option<Sender<Put>>,
    /// For connections that are opened later; none once they are.
    grow: Option<Receiver<Put>>,
    /// How many there may be.
    most: usize,
    /// A question and its answer take long.
    long: bool,
    /// The pool can be asked for receipts.
    gives_receipts: bool,
    came: Receiver<Came>,
    shared: Arc<Shared>,
    /// Bytes of packs that were counted.
    counted: u64,
    /// Answers that came while another was awaited, in order.
    answers: VecDeque<Message>,
    /// Packs on their way, with their sizes.
    sent: BTreeMap<PackId, u64>,
    refused: Vec<PackId>,
}

impl<'a> Link<'a> {
    /// Says what is wanted and takes the answer: one round trip. Packs are closed at about `pack_size` bytes.
    ///
    /// # Errors
    /// `Unreachable` if the link fails; what the pool says; `NewerFormat` if it speaks no version that this program does.
    pub fn begin(
        dial: &Dial,
        (repository, position, program): (RepoId, Position, &str),
        pack_size: usize,
        monitor: &'a dyn Monitor,
    ) -> Result<(Link<'a>, Ready)> {
        let mut connection = Connection::open(dial()?, Side::Client, &Preface::ours())?;
        let asked = Instant::now();
        let program = program.to_owned();
        connection.send(&Message::Begin { purpose: Purpose::Push, repository, position, program })?;
        connection.flush()?;
        let answer = connection.receive()?;
        let long = asked.elapsed() > LONG;
        let (session, ready) = match answer {
            Some(Message::Ready { session, tenant, sealed, watermark, partial, time, chunker, epochs, .. }) => {
                let packs = partial.into_iter().filter_map(|(object, len)| match object {
                    Object::Pack(id) => Some((id, len)),
                    _ => None,
                });
                let apart = Time::now().0.abs_diff(time.0);
                let clock_differs = u128::from(apart) > CLOCK.as_nanos();
                let partial = packs.collect();
                (session, Ready { tenant, sealed, watermark, partial, clock_differs, chunker, epochs })
            }
            other => return Err(unexpected(other)),
        };
        let gives_receipts = connection.agreed().has(RECEIPTS);
        let (tx, came) = unbounded();
        let shared = Arc::new(Shared { came: tx, sent: Default::default(), stop: Default::default() });
        let (packs, to_send) = bounded(0);
        let say = lane::start(connection, true, to_send.clone(), &shared);
        let most = CONNECTIONS.min(IN_MEMORY / pack_size.max(1)).max(1);
        let link = Link {
            dial: Arc::clone(dial),
            monitor,
            session,
            say,
            packs: Some(packs),
            grow: (most > 1).then_some(to_send),
            most,
            long,
            gives_receipts,
            came,
            shared,
            counted: 0,
            answers: VecDeque::new(),
            sent: BTreeMap::new(),
            refused: Vec::new(),
        };
        Ok((link, ready))
    }

    fn say(&mut self, what: Say) -> Result<()> {
        self.look()?;
        // If nobody takes it, why has come or will.
        let _ = self.say.send(what);
        Ok(())
    }

    /// Sends a message. What has come meanwhile is looked at.
    ///
    /// # Errors
    /// Why the link failed; what the pool said if it has failed.
    pub fn send(&mut self, message: Message) -> Result<()> {
        self.say(Say::Message(message))
    }

    /// Sends a snapshot's manifest, once every pack that was sent is durable.
    ///
    /// # Errors
    /// As [`Link::send`].
    pub fn manifest(&mut self, snapshot: SnapshotId, sealed: Vec<u8>) -> Result<()> {
        self.delivered()?;
        self.say(Say::Manifest(snapshot, sealed))
    }

    /// Sends a pack from byte `from` on, by whichever connection is free first.
    ///
    /// # Errors
    /// As [`Link::send`]; `Interrupted`.
    pub fn put(&mut self, id: PackId, bytes: Vec<u8>, from: u64) -> Result<()> {
        self.sent.insert(id, bytes.len() as u64);
        let mut put = Put { id, bytes, from };
        let since = Instant::now();
        loop {
            let packs = self.packs.as_ref().ok_or_else(|| Error::bug("a push was used after its end"))?;
            put = match packs.send_timeout(put, LOOK) {
                Ok(()) => return self.look(),
                Err(SendTimeoutError::Timeout(put)) => put,
                // Every connection has failed; why is on its way.
                Err(SendTimeoutError::Disconnected(_)) => {
                    return Err(self.why(Error::new(Kind::Unreachable, "the connection is broken")));
                }
            };
            self.look()?;
            if self.long || since.elapsed() > BUSY {
                self.widen();
            }
        }
    }

    /// Many packs may have to be sent: over a long link all connections will be needed.
    pub fn expect_many(&mut self) {
        if self.long {
            self.widen();
        }
    }

    /// Opens the other connections, in the background: setting one up takes several round trips. One that cannot be had is
    /// done without.
    fn widen(&mut self) {
        let Some(packs) = self.grow.take() else { return };
        for _ in 1..self.most {
            let (dial, session, packs) = (Arc::clone(&self.dial), self.session, packs.clone());
            let shared = Arc::clone(&self.shared);
            std::thread::spawn(move || {
                if let Ok(connection) = attach(&dial, session) {
                    lane::start(connection, false, packs, &shared);
                }
            });
        }
    }

    /// Takes in what has come, without waiting.
    fn look(&mut self) -> Result<()> {
        let sent = self.shared.sent.load(Ordering::Relaxed);
        for counter in [&self.monitor.counters().bytes, &self.monitor.counters().stored] {
            Counters::add(counter, sent - self.counted);
        }
        self.counted = sent;
        if self.monitor.cancelled() {
            return Err(Error::new(Kind::Interrupted, "interrupted; what has arrived will not be sent again"));
        }
        while let Ok(came) = self.came.try_recv() {
            self.sort(came)?;
        }
        Ok(())
    }

    /// Waits a little for something to come.
    fn wait(&mut self) -> Result<()> {
        if let Ok(came) = self.came.recv_timeout(LOOK) {
            self.sort(came)?;
        }
        self.look()
    }

    /// Keeps what is an answer.
    fn sort(&mut self, came: Came) -> Result<()> {
        let message = match came {
            Came::Message(message) => message,
            Came::Ended => return Err(unexpected(None)),
            Came::Failed { first: true, error } => return Err(error),
            // With the push all its connections end, and only the first one says why.
            Came::Failed { error, .. } => return Err(self.why(error)),
        };
        match message {
            Message::Refused { object: Object::Pack(id), .. } => {
                self.sent.remove(&id);
                self.refused.push(id);
            }
            Message::Durable { object: Object::Pack(id), bytes } => {
                if self.sent.get(&id).is_some_and(|size| *size <= bytes) {
                    self.sent.remove(&id);
                }
            }
            Message::Durable { .. } | Message::Refused { .. } | Message::Pong(_) => {}
            Message::Fail(fail) => return Err(fail.into_error()),
            answer => self.answers.push_back(answer),
        }
        Ok(())
    }

    /// What the other side gives as the reason of a failure; else `e`.
    fn why(&self, e: Error) -> Error {
        let until = Instant::now() + PATIENCE;
        // Had it ended all of the push, it would have said so before it answers this.
        let _ = self.say.send(Say::Message(Message::Ping(0)));
        while let Ok(came) = self.came.recv_deadline(until) {
            match came {
                Came::Message(Message::Pong(_)) => break,
                Came::Message(Message::Fail(fail)) => return fail.into_error(),
                Came::Ended | Came::Failed { first: true, .. } => break,
                _ => {}
            }
        }
        e
    }

    /// Whether a pack that was sent is durable by now.
    ///
    /// # Errors
    /// `Damaged` if it was refused; as [`Link::send`].
    pub fn is_durable(&mut self, id: &PackId) -> Result<bool> {
        self.look()?;
        if self.refused.contains(id) {
            return Err(Error::damaged(format!("the other side does not take pack {id}")).remedy("try again"));
        }
        Ok(!self.sent.contains_key(id))
    }

    /// Waits until every pack that was sent is durable, or refused.
    ///
    /// # Errors
    /// As [`Link::send`].
    pub fn delivered(&mut self) -> Result<()> {
        while !self.sent.is_empty() {
            self.wait()?;
        }
        Ok(())
    }

    fn next(&mut self) -> Result<Message> {
        loop {
            if let Some(answer) = self.answers.pop_front() {
                return Ok(answer);
            }
            self.wait()?;
        }
    }

    /// The answer to the oldest question about chunks: how many they were is known to who asked.
    ///
    /// # Errors
    /// `Io` if another answer comes, or one to another number of chunks; as [`Link::send`].
    pub fn missing(&mut self, asked: usize) -> Result<Bitmap> {
        match self.next()? {
            Message::Answer { missing } if missing.len() == asked => Ok(missing),
            other => Err(unexpected(Some(other))),
        }
    }

    /// What the pool says of the snapshot that was asked about first.
    ///
    /// # Errors
    /// `Io` if it is about another; as [`Link::send`].
    pub fn verdict(&mut self, id: &SnapshotId) -> Result<Message> {
        let mut all = Vec::new();
        loop {
            match self.next()? {
                Message::Missing { snapshot, pieces, more } if snapshot == *id => {
                    // As many as a page may have are enough for now: it is asked again.
                    if all.is_empty() {
                        all = pieces;
                    }
                    if !more {
                        return Ok(Message::Missing { snapshot, pieces: all, more });
                    }
                }
                Message::Accepted { snapshot, already } if snapshot == *id => {
                    return Ok(Message::Accepted { snapshot, already });
                }
                Message::Declined { snapshot, reason, why } if snapshot == *id => {
                    return Ok(Message::Declined { snapshot, reason, why });
                }
                other => return Err(unexpected(Some(other))),
            }
        }
    }

    /// Asks about a snapshot again, once every pack that was sent is durable.
    ///
    /// # Errors
    /// As [`Link::send`].
    pub fn again(&mut self, snapshot: SnapshotId) -> Result<()> {
        self.delivered()?;
        self.send(Message::Again { snapshot })
    }

    /// Says that everything was sent; how far the pool has it.
    ///
    /// # Errors
    /// As [`Link::send`].
    pub fn done(&mut self, position: Position) -> Result<Position> {
        self.delivered()?;
        self.send(Message::Done { position })?;
        match self.next()? {
            Message::Finished { watermark } => Ok(watermark),
            other => Err(unexpected(Some(other))),
        }
    }

    /// Leaves something there, or asks whether it is; whether it is there now.
    ///
    /// # Errors
    /// As [`Link::send`].
    pub fn keep(&mut self, mark: [u8; 32], sealed: Vec<u8>) -> Result<bool> {
        self.send(Message::Keep { mark, sealed })?;
        match self.next()? {
            Message::Kept { there } => Ok(there),
            other => Err(unexpected(Some(other))),
        }
    }

    /// The receipts that the pool gives for these drives; none from one that knows of no receipts.
    ///
    /// # Errors
    /// As [`Link::send`].
    pub fn receipts(&mut self, drives: &[DriveId]) -> Result<Vec<String>> {
        if !self.gives_receipts {
            return Ok(Vec::new());
        }
        self.send(Message::Receipts { drives: drives.to_vec() })?;
        match self.next()? {
            Message::Signed { receipts } => Ok(receipts),
            other => Err(unexpected(Some(other))),
        }
    }

    /// Packs that the pool would not take.
    pub fn refused(&mut self) -> Vec<PackId> {
        std::mem::take(&mut self.refused)
    }

    /// Ends the push and waits until the pool has. Returns how many bytes of packs were sent.
    ///
    /// # Errors
    /// As [`Link::send`].
    pub fn bye(mut self) -> Result<u64> {
        self.delivered()?;
        self.packs = None;
        self.grow = None;
        self.send(Message::Bye)?;
        loop {
            match self.came.recv() {
                Ok(Came::Ended) | Err(_) => return Ok(self.counted),
                Ok(other) => self.sort(other)?,
            }
        }
    }
}

impl Drop for Link<'_> {
    fn drop(&mut self) {
        // The other side ends when it hears no more, and with it the threads that listen. Nobody waits for that: it may be
        // out of reach.
        self.shared.stop.store(true, Ordering::Relaxed);
        let _ = self.say.send(Say::End);
    }
}

/// A further connection of a push.
///
/// # Errors
/// `Unreachable`.
pub fn attach(dial: &Dial, session: Session) -> Result<Connection> {
    let mut connection = Connection::open(dial()?, Side::Client, &Preface::ours())?;
    connection.send(&Message::Attach { session })?;
    connection.flush()?;
    Ok(connection)
}
