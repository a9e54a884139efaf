//! The client's end of a push: messages go out from one thread, another takes in what comes, so that neither side waits
//! for the other to listen.

use std::collections::{BTreeMap, VecDeque};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver as Incoming, unbounded};
use repo::chunker::ChunkerParams;
use repo::clock::Time;
use repo::error::{Error, Kind, Result};
use repo::format::record::Position;
use repo::id::{PackId, RepoId, SnapshotId};

use crate::stream::Duplex;
use crate::wire::{Bitmap, Connection, Fail, Message, Object, Preface, Purpose, Sender, Side};

/// The other side's clock may be off by so much before it is worth a word.
const CLOCK: Duration = Duration::from_secs(3600);

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
}

/// An open push.
pub struct Link {
    sender: Option<Sender>,
    incoming: Incoming<Result<Message>>,
    thread: Option<JoinHandle<()>>,
    /// Answers that came while another was awaited, in order.
    answers: VecDeque<Message>,
    refused: Vec<PackId>,
    /// How much of packs is durable there, of those that somebody waits for.
    durable: BTreeMap<PackId, u64>,
}

impl Link {
    /// Says what is wanted and takes the answer: one round trip.
    ///
    /// # Errors
    /// `Unreachable` if the link fails; what the pool says; `NewerFormat` if it speaks no version that this program does.
    pub fn begin(duplex: Duplex, repository: RepoId, position: Position, program: &str) -> Result<(Link, Ready)> {
        let mut connection = Connection::open(duplex, Side::Client, &Preface::ours())?;
        let program = program.to_owned();
        connection.send(&Message::Begin { purpose: Purpose::Push, repository, position, program })?;
        connection.flush()?;
        let (sender, mut receiver) = connection.split();
        // What comes answers what was asked, so its number is bounded by that.
        let (tx, incoming) = unbounded();
        let thread = std::thread::spawn(move || {
            loop {
                let message = match receiver.receive() {
                    Ok(Some(message)) => Ok(message),
                    Ok(None) => return,
                    Err(e) => Err(e),
                };
                let failed = message.is_err();
                if tx.send(message).is_err() || failed {
                    return;
                }
            }
        });
        let (answers, refused, durable) = (VecDeque::new(), Vec::new(), BTreeMap::new());
        let mut link = Link { sender: Some(sender), incoming, thread: Some(thread), answers, refused, durable };
        let ready = match link.next()? {
            Message::Ready { tenant, sealed, watermark, partial, time, chunker, .. } => {
                let packs = partial.into_iter().filter_map(|(object, len)| match object {
                    Object::Pack(id) => Some((id, len)),
                    _ => None,
                });
                let apart = Time::now().0.abs_diff(time.0);
                let clock_differs = u128::from(apart) > CLOCK.as_nanos();
                Ready { tenant, sealed, watermark, partial: packs.collect(), clock_differs, chunker }
            }
            other => return Err(unexpected(&other)),
        };
        Ok((link, ready))
    }

    fn sender(&mut self) -> Result<&mut Sender> {
        self.sender.as_mut().ok_or_else(|| Error::bug("a push was used after its end"))
    }

    /// Sends a message, at the latest when an answer is awaited. What has come meanwhile is looked at.
    ///
    /// # Errors
    /// As [`Sender::send`]; what the pool said if it has failed.
    pub fn send(&mut self, message: &Message) -> Result<()> {
        self.look()?;
        let sent = self.sender()?.send(message);
        self.or_why(sent)
    }

    /// Hands on what was sent so far.
    ///
    /// # Errors
    /// As [`Link::send`].
    pub fn flush(&mut self) -> Result<()> {
        let flushed = self.sender()?.flush();
        self.or_why(flushed)
    }

    /// Sends bytes that were announced.
    ///
    /// # Errors
    /// As [`Link::send`].
    pub fn data(&mut self, bytes: &[u8]) -> Result<()> {
        let sent = self.sender()?.send_data(bytes);
        self.or_why(sent)
    }

    /// A link that fails while this side sends may have failed because the other side said why.
    fn or_why(&mut self, sent: Result<()>) -> Result<()> {
        if sent.is_err() {
            while let Ok(message) = self.incoming.recv_timeout(Duration::from_secs(5)) {
                if let Message::Fail(fail) = message? {
                    return Err(fail.into_error());
                }
            }
        }
        sent
    }

    fn look(&mut self) -> Result<()> {
        while let Ok(message) = self.incoming.try_recv() {
            self.sort(message?)?;
        }
        Ok(())
    }

    /// Keeps what is an answer.
    fn sort(&mut self, message: Message) -> Result<()> {
        match message {
            Message::Refused { object: Object::Pack(id), .. } => self.refused.push(id),
            Message::Durable { object: Object::Pack(id), bytes } => {
                if let Some(known) = self.durable.get_mut(&id) {
                    *known = bytes;
                }
            }
            Message::Durable { .. } | Message::Refused { .. } | Message::Pong(_) => {}
            Message::Ping(number) => self.sender()?.send(&Message::Pong(number))?,
            Message::Fail(fail) => return Err(Fail::into_error(fail)),
            answer => self.answers.push_back(answer),
        }
        Ok(())
    }

    fn next(&mut self) -> Result<Message> {
        self.flush()?;
        loop {
            if let Some(answer) = self.answers.pop_front() {
                return Ok(answer);
            }
            let message = self.incoming.recv().map_err(|_| ended())?;
            self.sort(message?)?;
        }
    }

    /// The answer to the oldest question about chunks: how many they were is known to who asked.
    ///
    /// # Errors
    /// `Io` if another answer comes, or one to another number of chunks; as [`Link::send`].
    pub fn missing(&mut self, asked: usize) -> Result<Bitmap> {
        match self.next()? {
            Message::Answer { missing } if missing.len() == asked => Ok(missing),
            other => Err(unexpected(&other)),
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
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// Says that everything was sent; how far the pool has it.
    ///
    /// # Errors
    /// As [`Link::send`].
    pub fn done(&mut self, position: Position) -> Result<Position> {
        self.send(&Message::Done { position })?;
        match self.next()? {
            Message::Finished { watermark } => Ok(watermark),
            other => Err(unexpected(&other)),
        }
    }

    /// Remembers how much of this pack is durable, from now on until [`Link::until_durable`] has returned.
    pub fn watch(&mut self, id: PackId) {
        self.durable.insert(id, 0);
    }

    /// Waits until all `size` bytes of a watched pack, which were sent, are durable there.
    ///
    /// # Errors
    /// `Damaged` if the pack is refused; as [`Link::send`].
    pub fn until_durable(&mut self, id: &PackId, size: u64) -> Result<()> {
        self.flush()?;
        while self.durable.get(id).is_some_and(|bytes| *bytes < size) {
            if self.refused.contains(id) {
                return Err(Error::damaged(format!("the other side does not take pack {id}")).remedy("try again"));
            }
            let message = self.incoming.recv().map_err(|_| ended())?;
            self.sort(message?)?;
        }
        self.durable.remove(id);
        Ok(())
    }

    /// Packs that the pool would not take.
    pub fn refused(&mut self) -> Vec<PackId> {
        std::mem::take(&mut self.refused)
    }

    /// Ends the push and waits until the pool has.
    ///
    /// # Errors
    /// As [`Link::send`].
    pub fn bye(mut self) -> Result<()> {
        self.send(&Message::Bye)?;
        self.flush()?;
        self.sender = None;
        for message in self.incoming.iter() {
            if let Message::Fail(fail) = message? {
                return Err(fail.into_error());
            }
        }
        Ok(())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // The other side ends when it hears no more, and with it the thread that listens. Nobody waits for that: it may be
        // out of reach.
        self.sender = None;
        drop(self.thread.take());
    }
}

fn ended() -> Error {
    Error::new(Kind::Unreachable, "the other side ended the connection").remedy("try again")
}

/// What may not come now.
pub fn unexpected(message: &Message) -> Error {
    Error::new(Kind::Io, format!("the pool sent {} where it may not be", message.name()))
}
