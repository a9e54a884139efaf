//! Messages over a stream. Blocking; the two halves can be used from two threads.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};

use repo::error::{Error, Kind, Result};
use repo::limits::KIB;
use zeroize::Zeroize;

use super::codec::{HEADER, Header, broken};
use super::limits::{MAX_DATA, MAX_PREFACE};
use super::message::{DATA, Direction, Message};
use super::preface::{Agreed, PREFACE_HEAD, Preface, negotiate};
use super::row::Row;
use crate::stream::Duplex;

/// Small messages are handed to the carrier together, once they come to this many bytes or are flushed.
const GATHER: usize = 64 * KIB;

/// Which side this one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that connects.
    Client,
    /// The one that was connected to.
    Server,
}

/// A connection whose prefaces were exchanged.
pub struct Connection {
    sender: Sender,
    receiver: Receiver,
    agreed: Agreed,
}

/// The half that sends. Dropping it tells the other side that nothing more comes; what was not flushed is lost.
pub struct Sender {
    write: Box<dyn Write + Send>,
    pending: Vec<u8>,
    row: Row,
    side: Side,
    failed: bool,
}

/// The half that receives.
pub struct Receiver {
    read: Box<dyn Read + Send>,
    /// Grows to the longest message yet, [`super::limits::MAX_MESSAGE`] at most.
    buffer: Vec<u8>,
    row: Row,
    side: Side,
    failed: bool,
}

/// What was received.
pub enum Incoming<'a> {
    /// The bytes of a [`Message::Data`], where they were read to.
    Data(&'a [u8]),
    /// Any other message.
    Message(Message),
}

/// Bytes that travel may be a tenant's data: they do not show.
impl fmt::Debug for Incoming<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Incoming::Data(bytes) => write!(f, "Data({} bytes)", bytes.len()),
            Incoming::Message(message) => message.fmt(f),
        }
    }
}

impl Connection {
    /// Exchanges prefaces. The server speaks first; the client's goes out with its first message, once that is flushed: so this
    /// costs no round trip, and two sides that both write first cannot block each other.
    ///
    /// # Errors
    /// `Unreachable` if the link fails; those of [`negotiate`] and [`Preface::decode`].
    pub fn open(duplex: Duplex, side: Side, mine: &Preface) -> Result<Connection> {
        let Duplex { read, write } = duplex;
        let mut sender = Sender { write, pending: mine.encode()?, row: Row::default(), side, failed: false };
        let mut receiver = Receiver { read, buffer: Vec::new(), row: Row::default(), side, failed: false };
        if side == Side::Server {
            sender.flush()?;
        }
        let theirs = receiver.preface()?;
        let agreed = negotiate(mine, &theirs).inspect_err(|_| {
            // The other side is to find out as well; this side's error is the one to tell here.
            let _ = sender.flush();
        })?;
        Ok(Connection { sender, receiver, agreed })
    }

    /// What both sides can do.
    pub fn agreed(&self) -> &Agreed {
        &self.agreed
    }

    /// As [`Sender::send`].
    ///
    /// # Errors
    /// Likewise.
    pub fn send(&mut self, message: &Message) -> Result<()> {
        self.sender.send(message)
    }

    /// As [`Sender::flush`].
    ///
    /// # Errors
    /// Likewise.
    pub fn flush(&mut self) -> Result<()> {
        self.sender.flush()
    }

    /// As [`Receiver::receive`].
    ///
    /// # Errors
    /// Likewise.
    pub fn receive(&mut self) -> Result<Option<Message>> {
        self.receiver.receive()
    }

    /// The two halves, for two threads.
    pub fn split(self) -> (Sender, Receiver) {
        (self.sender, self.receiver)
    }

    /// The sending half, for [`Sender::send_data`].
    pub fn sender(&mut self) -> &mut Sender {
        &mut self.sender
    }

    /// The receiving half, for [`Receiver::next`].
    pub fn receiver(&mut self) -> &mut Receiver {
        &mut self.receiver
    }
}

impl Sender {
    /// Sends a message, at the latest when flushed. Blocks while the other side does not read.
    ///
    /// # Errors
    /// `Usage` if the message is out of bounds, `Bug` if it may not be sent now or by this side: it was not sent then, and the
    /// connection goes on. `Unreachable` if the link fails: it is of no use any more.
    pub fn send(&mut self, message: &Message) -> Result<()> {
        if let Message::Data(bytes) = message {
            return self.send_data(bytes);
        }
        self.usable()?;
        let mut row = self.row.clone();
        if !self.side.sends(message.direction()) || row.message(message).is_err() {
            return Err(Error::bug(format!("a {} was to be sent where it may not be", message.name())));
        }
        message.encode(&mut self.pending)?;
        self.row = row;
        if message.is_secret() {
            let sent = self.hand_over();
            self.pending.zeroize();
            return sent;
        }
        if self.pending.len() >= GATHER { self.hand_over() } else { Ok(()) }
    }

    /// Sends bytes of what was announced, in as many messages as it takes, without copying them.
    ///
    /// # Errors
    /// As [`Sender::send`]; `Bug` if fewer were announced.
    pub fn send_data(&mut self, bytes: &[u8]) -> Result<()> {
        self.usable()?;
        if self.row.data(bytes.len()).is_err() {
            return Err(Error::bug("more bytes were to be sent than were announced"));
        }
        for piece in bytes.chunks(MAX_DATA) {
            self.pending.extend_from_slice(&Header { kind: DATA, body: piece.len() }.encode());
            if piece.len() < GATHER / 4 {
                self.pending.extend_from_slice(piece);
            } else {
                self.hand_over()?;
                let written = self.write.write_all(piece);
                self.check(written)?;
            }
        }
        if self.pending.len() >= GATHER { self.hand_over() } else { Ok(()) }
    }

    /// Hands everything sent so far on to the other side.
    ///
    /// # Errors
    /// `Unreachable` if the link fails.
    pub fn flush(&mut self) -> Result<()> {
        self.usable()?;
        self.hand_over()?;
        let flushed = self.write.flush();
        self.check(flushed)
    }

    /// Bytes announced and not yet sent.
    pub fn owed(&self) -> u64 {
        self.row.owed()
    }

    fn hand_over(&mut self) -> Result<()> {
        let written = self.write.write_all(&self.pending);
        self.pending.clear();
        self.check(written)
    }

    fn check(&mut self, result: io::Result<()>) -> Result<()> {
        result.map_err(|e| {
            self.failed = true;
            lost("send to", e)
        })
    }

    fn usable(&self) -> Result<()> {
        if self.failed { Err(lost("send to", ErrorKind::NotConnected.into())) } else { Ok(()) }
    }
}

impl Receiver {
    /// The next message. `None`: the other side dropped its sending half between two messages, all bytes that it announced
    /// being there.
    ///
    /// # Errors
    /// `Unreachable` if the link fails or ends elsewhere: try again with a new connection. `Io` if the other side does not
    /// keep to the protocol, `NewerFormat` if it is newer. After any, the connection is of no use.
    pub fn receive(&mut self) -> Result<Option<Message>> {
        Ok(self.next()?.map(|incoming| match incoming {
            Incoming::Data(bytes) => Message::Data(bytes.to_vec()),
            Incoming::Message(message) => message,
        }))
    }

    /// As [`Receiver::receive`], but the bytes of a [`Message::Data`] stay where the carrier put them.
    ///
    /// # Errors
    /// Likewise.
    #[expect(clippy::should_implement_trait, reason = "what it returns borrows from the receiver")]
    pub fn next(&mut self) -> Result<Option<Incoming<'_>>> {
        if self.failed {
            return Err(lost("receive from", ErrorKind::NotConnected.into()));
        }
        // Put right below: whichever way this is left early, the stream is out of step.
        self.failed = true;
        let Some(header) = self.known_header()? else {
            self.failed = false;
            return Ok(None);
        };
        self.fill(header.body)?;
        let incoming = if header.kind == DATA {
            self.row.data(header.body)?;
            Incoming::Data(&self.buffer[..header.body])
        } else {
            let message = Message::decode(header.kind, &self.buffer[..header.body])?;
            if message.is_secret() {
                self.buffer.zeroize();
            }
            if !self.side.other().sends(message.direction()) {
                return Err(broken(format_args!("a {}, which is this side's to send", message.name())));
            }
            self.row.message(&message)?;
            Incoming::Message(message)
        };
        self.failed = false;
        Ok(Some(incoming))
    }

    /// Bytes announced by the other side and not yet received.
    pub fn owed(&self) -> u64 {
        self.row.owed()
    }

    /// The header of the next message that this program knows; others that it may pass over are gone.
    fn known_header(&mut self) -> Result<Option<Header>> {
        loop {
            let mut bytes = [0; HEADER];
            let first = read_some(&mut self.read, &mut bytes)?;
            if first == 0 && self.row.owed() == 0 {
                return Ok(None);
            }
            if first == 0 {
                return Err(lost("receive from", ErrorKind::UnexpectedEof.into()));
            }
            read_all(&mut self.read, &mut bytes[first..])?;
            let header = Header::decode(&bytes)?;
            if !header.is_unknown() {
                return Ok(Some(header));
            }
            let passed = io::copy(&mut (&mut self.read).take(header.body as u64), &mut io::sink());
            if passed.map_err(|e| lost("receive from", e))? != header.body as u64 {
                return Err(lost("receive from", ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Reads `len` bytes to the front of the buffer, which grows with what really comes.
    fn fill(&mut self, len: usize) -> Result<()> {
        let mut have = 0;
        while have < len {
            if have == self.buffer.len() {
                self.buffer.resize(len.min(have + MAX_DATA), 0);
            }
            let until = len.min(self.buffer.len());
            read_all(&mut self.read, &mut self.buffer[have..until])?;
            have = until;
        }
        Ok(())
    }

    fn preface(&mut self) -> Result<Preface> {
        let mut head = [0; PREFACE_HEAD];
        read_all(&mut self.read, &mut head)?;
        let mut rest = [0; MAX_PREFACE];
        let rest = &mut rest[..Preface::decode_head(&head)?];
        read_all(&mut self.read, rest)?;
        Preface::decode(rest)
    }
}

impl Side {
    fn other(self) -> Side {
        match self {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        }
    }

    fn sends(self, direction: Direction) -> bool {
        match direction {
            Direction::Both => true,
            Direction::Client => self == Side::Client,
            Direction::Server => self == Side::Server,
        }
    }
}

/// At least one byte, unless the other side ended.
fn read_some(read: &mut Box<dyn Read + Send>, buf: &mut [u8]) -> Result<usize> {
    loop {
        match read.read(buf) {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            result => return result.map_err(|e| lost("receive from", e)),
        }
    }
}

fn read_all(read: &mut Box<dyn Read + Send>, buf: &mut [u8]) -> Result<()> {
    read.read_exact(buf).map_err(|e| lost("receive from", e))
}

/// The link failed. Whatever the reason, a new connection may do better.
fn lost(doing: &str, cause: io::Error) -> Error {
    // The standard library's words for an end within a message are about its buffer.
    let why = match cause.kind() {
        ErrorKind::UnexpectedEof => "the connection ended too early".to_owned(),
        ErrorKind::NotConnected => "the connection is broken".to_owned(),
        _ => cause.to_string(),
    };
    Error::new(Kind::Unreachable, format!("cannot {doing} the other side: {why}"))
        .remedy("try again: what has arrived is not sent twice")
}
