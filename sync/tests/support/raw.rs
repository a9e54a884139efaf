//! A client that may say anything, also what no honest one would.

use std::io::Write;

use repo::error::Error;
use sync::stream::Duplex;
use sync::wire::{Connection, Message, Preface, Side};

/// Writes bytes as they are, and reads messages.
pub struct Raw {
    pub reads: Connection,
    write: Box<dyn Write + Send>,
}

/// What was heard until the server ended: its messages, and whether the end was one between two messages.
#[derive(Debug)]
pub struct Heard {
    pub messages: Vec<Message>,
    pub end: Result<(), Error>,
}

impl Raw {
    pub fn over(duplex: Duplex) -> Raw {
        Raw::with(duplex, &Preface::ours()).unwrap()
    }

    /// Greets with a preface of one's own.
    pub fn with(Duplex { read, mut write }: Duplex, preface: &Preface) -> Result<Raw, Error> {
        let _ = write.write_all(&preface.encode().unwrap()).and_then(|()| write.flush());
        // What would go out by this is written here, message by message.
        let reads = Connection::open(Duplex { read, write: Box::new(std::io::sink()) }, Side::Client, preface)?;
        Ok(Raw { reads, write })
    }

    /// Sends messages, in whatever order. The server may have ended.
    pub fn say(&mut self, messages: &[Message]) {
        self.say_bytes(&encoded(messages));
    }

    pub fn say_bytes(&mut self, bytes: &[u8]) {
        let _ = self.write.write_all(bytes).and_then(|()| self.write.flush());
    }

    pub fn hear(&mut self) -> Option<Message> {
        self.reads.receive().unwrap_or(None)
    }

    /// Says Bye, and takes in all that still comes.
    pub fn rest(mut self) -> Heard {
        self.say(&[Message::Bye]);
        let mut messages = Vec::new();
        loop {
            match self.reads.receive() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => return Heard { messages, end: Ok(()) },
                Err(e) => return Heard { messages, end: Err(e) },
            }
        }
    }
}

pub fn encoded(messages: &[Message]) -> Vec<u8> {
    let mut bytes = Vec::new();
    messages.iter().for_each(|message| message.encode(&mut bytes).unwrap());
    bytes
}

/// A message and the bytes that it announces.
pub fn with_bytes(message: Message, bytes: &[u8]) -> Vec<Message> {
    let data = bytes.chunks(sync::wire::limits::MAX_DATA).map(|some| Message::Data(some.to_vec()));
    [message].into_iter().chain(data).collect()
}
