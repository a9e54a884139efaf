//! How much a backup would store, and how much of that would have to travel: the data are read, cut, compressed and sealed as
//! a backup does, and the pool is asked about every chunk that is new here; nothing is kept and nothing sent.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use repo::capture::{Options, Outcome, measure};
use repo::error::Result;
use repo::format::footer::Footer;
use repo::format::record::Position;
use repo::id::{ContentHash, RepoId};
use repo::monitor::Monitor;
use repo::open::Repository;
use repo::pack::build::FinishedPack;
use repo::pack::writer::PackSink;

use crate::fetch::{Dial, unexpected};
use crate::wire::limits::MAX_PIECES;
use crate::wire::{Bitmap, Connection, Message, Piece, Preface, Purpose, Side};

/// Packs whose answers are awaited; of those only footers are in memory.
const ASKED: usize = 16;

/// What a backup would bring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// Bytes of packs that would be stored here.
    pub here: u64,
    /// Bytes of those that the remote lacks; without a remote that is asked, all of them.
    pub wire: u64,
}

/// Reads what `options` name. With `remote`, a pooled tenant's pool is asked.
///
/// # Errors
/// As [`repo::capture::backup`]; `Unreachable`; what the pool says.
pub fn estimate(
    repo: &Repository,
    options: Options,
    remote: Option<(&Dial, &str)>,
    monitor: &dyn Monitor,
) -> Result<(Outcome, Measured)> {
    let asking = remote.map(|(dial, program)| Asking::begin(dial, repo.config.repo_id, program)).transpose()?;
    let counted = Arc::new(Mutex::new((asking, Measured::default())));
    let sink = Box::new(Counting(Arc::clone(&counted)));
    let outcome = measure(repo, options, sink, monitor)?;
    let (asking, mut measured) = std::mem::take(&mut *counted.lock());
    if let Some(mut asking) = asking {
        while !asking.asked.is_empty() {
            measured.wire += asking.answer()?;
        }
        asking.connection.send(&Message::Bye)?;
        asking.connection.flush()?;
    }
    Ok((outcome, measured))
}

/// Counts packs and drops them.
struct Counting(Arc<Mutex<(Option<Asking>, Measured)>>);

impl PackSink for Counting {
    fn store(&mut self, pack: FinishedPack) -> Result<()> {
        let mut counted = self.0.lock();
        let (asking, measured) = &mut *counted;
        let size = pack.size;
        measured.here += size;
        match asking {
            None => measured.wire += size,
            Some(asking) => measured.wire += asking.ask(pack.footer, size)?,
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<Vec<ContentHash>> {
        Ok(Vec::new())
    }

    fn due(&self) -> bool {
        false
    }
}

/// A pool that is asked what it has.
struct Asking {
    connection: Connection,
    asked: VecDeque<(Footer, u64)>,
}

impl Asking {
    fn begin(dial: &Dial, repository: RepoId, program: &str) -> Result<Asking> {
        let mut connection = Connection::open(dial()?, Side::Client, &Preface::ours())?;
        let (purpose, position, program) = (Purpose::Push, Position::START, program.to_owned());
        connection.send(&Message::Begin { purpose, repository, position, program })?;
        connection.flush()?;
        match connection.receive()? {
            Some(Message::Ready { .. }) => Ok(Asking { connection, asked: VecDeque::new() }),
            other => Err(unexpected(other)),
        }
    }

    /// Asks about a pack of this size; gives what would travel of an earlier one.
    fn ask(&mut self, footer: Footer, size: u64) -> Result<u64> {
        for chunks in footer.chunks.chunks(MAX_PIECES) {
            let pieces = chunks.iter().map(|c| Piece { kind: c.kind, len: c.len, h: c.h }).collect();
            self.connection.send(&Message::Have { pieces })?;
        }
        self.connection.flush()?;
        self.asked.push_back((footer, size));
        if self.asked.len() >= ASKED { self.answer() } else { Ok(0) }
    }

    /// What would travel of the pack that was asked about first: all of it, the frames that hold something new, or nothing.
    fn answer(&mut self) -> Result<u64> {
        let Some((footer, size)) = self.asked.pop_front() else { return Ok(0) };
        let mut answers: Vec<Bitmap> = Vec::new();
        for chunks in footer.chunks.chunks(MAX_PIECES) {
            answers.push(self.missing(chunks.len())?);
        }
        let missing = |i: usize| answers[i / MAX_PIECES].get(i % MAX_PIECES);
        let lacking: usize = answers.iter().map(Bitmap::ones).sum();
        if lacking == footer.chunks.len() {
            return Ok(size);
        }
        let frames = footer.frames.iter().filter(|frame| frame.chunks().any(missing));
        Ok(frames.map(|frame| u64::from(frame.stored)).sum())
    }

    fn missing(&mut self, asked: usize) -> Result<Bitmap> {
        loop {
            match self.connection.receive()? {
                Some(Message::Answer { missing }) if missing.len() == asked => return Ok(missing),
                Some(Message::Ping(number)) => {
                    self.connection.send(&Message::Pong(number))?;
                    self.connection.flush()?;
                }
                Some(Message::Pong(_)) => {}
                Some(Message::Fail(fail)) => return Err(fail.into_error()),
                other => return Err(unexpected(other)),
            }
        }
    }
}
