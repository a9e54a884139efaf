//! One connection of a push, as the client sees it: a thread that sends, and one that takes in what comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, never, select_biased, unbounded};
use repo::error::{Error, Kind, Result};
use repo::id::{PackId, SnapshotId};
use repo::limits::MIB;

use crate::wire::{self, Connection, Message, Object};

/// The other side gets so long to say why it ends.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// A pack on its way.
pub struct Put {
    pub id: PackId,
    pub bytes: Vec<u8>,
    /// The other side has this much of it.
    pub from: u64,
}

/// What is to be said, besides packs.
pub enum Say {
    Message(Message),
    Manifest(SnapshotId, Vec<u8>),
    /// Nothing: the push was given up.
    End,
}

/// What came, by any connection.
pub enum Came {
    Message(Message),
    /// The other side said nothing more on the connection of its Begin.
    Ended,
    Failed {
        /// On the connection of its Begin.
        first: bool,
        error: Error,
    },
}

/// What the connections of a push share.
pub struct Shared {
    /// What came; its number is bounded by what was asked and sent.
    pub came: Sender<Came>,
    /// Bytes of packs handed to the carrier.
    pub sent: AtomicU64,
    /// Nothing more is to be sent.
    pub stop: AtomicBool,
}

/// Packs are taken from `packs` by whichever connection is free, and sent; `first` also says what comes by the channel that
/// is returned, and that before the next pack.
pub fn start(connection: Connection, first: bool, packs: Receiver<Put>, shared: &Arc<Shared>) -> Sender<Say> {
    let (sender, receiver) = connection.split();
    let (say, to_say) = unbounded();
    let (listening, deaf) = bounded::<()>(0);
    let (pong, told) = (say.clone(), Arc::clone(shared));
    std::thread::spawn(move || {
        listen(receiver, first, &pong, &told);
        drop(listening);
    });
    let shared = Arc::clone(shared);
    // An attached connection ends with the packs, the first one with a word.
    let kept = say.clone();
    std::thread::spawn(move || {
        let _kept = kept;
        let mut lane = Lane { sender, packs, to_say, shared };
        if let Err(e) = lane.run(first) {
            // It may have failed because the other side said why: that is to be heard first.
            let _ = deaf.recv_timeout(PATIENCE);
            let _ = lane.shared.came.send(Came::Failed { first, error: e });
        }
    });
    say
}

fn listen(mut receiver: wire::Receiver, first: bool, say: &Sender<Say>, shared: &Shared) {
    loop {
        let came = match receiver.receive() {
            Ok(Some(Message::Ping(number))) => {
                let _ = say.send(Say::Message(Message::Pong(number)));
                continue;
            }
            Ok(Some(message)) => Came::Message(message),
            Ok(None) if first => Came::Ended,
            Ok(None) => return,
            Err(error) => Came::Failed { first, error },
        };
        let last = !matches!(came, Came::Message(_));
        if shared.came.send(came).is_err() || last {
            return;
        }
    }
}

/// The half that sends.
struct Lane {
    sender: wire::Sender,
    packs: Receiver<Put>,
    to_say: Receiver<Say>,
    shared: Arc<Shared>,
}

impl Lane {
    fn run(&mut self, first: bool) -> Result<()> {
        loop {
            select_biased! {
                recv(self.to_say) -> say => match say {
                    Ok(Say::Message(message)) => {
                        let last = matches!(message, Message::Bye);
                        self.sender.send(&message)?;
                        if last {
                            return self.sender.flush();
                        }
                    }
                    Ok(Say::Manifest(snapshot, bytes)) => {
                        self.sender.send(&Message::Manifest { snapshot, size: bytes.len() as u64 })?;
                        self.sender.send_data(&bytes)?;
                    }
                    Ok(Say::End) | Err(_) => return Ok(()),
                },
                recv(self.packs) -> put => match put {
                    Ok(put) => self.put(&put)?,
                    Err(_) if first => self.packs = never(),
                    Err(_) => {
                        self.sender.send(&Message::Bye)?;
                        return self.sender.flush();
                    }
                },
            }
            if self.to_say.is_empty() && self.packs.is_empty() {
                self.sender.flush()?;
            }
        }
    }

    fn put(&mut self, put: &Put) -> Result<()> {
        let size = put.bytes.len() as u64;
        self.sender.send(&Message::Put { object: Object::Pack(put.id), size, from: put.from })?;
        for piece in put.bytes[put.from as usize..].chunks(MIB) {
            if self.shared.stop.load(Ordering::Relaxed) {
                return Err(Error::new(Kind::Interrupted, "the push was given up"));
            }
            self.sender.send_data(piece)?;
            self.shared.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    }
}
