//! Packs on their way to the site: asked about, sent as a whole or as far as they are new there, awaited.
//!
//! Questions go ahead of their answers, and packs ahead of the word that they are durable, by a few packs: memory is
//! bounded, and who captures waits for the link.

use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
use repo::crypto::hash::ChunkKind;
use repo::crypto::keys::{FrameKind, Keys};
use repo::error::{Error, Kind, Result};
use repo::format::footer::{ChunkInfo, Footer};
use repo::format::record::Position;
use repo::id::{ContentHash, PackId, SessionId, SnapshotId};
use repo::index::PackInfo;
use repo::monitor::Monitor;
use repo::open::Repository;
use repo::pack::build::{PackBuilder, SealedFrame};
use repo::pack::read::{footer_in, whole_pack};
use repo::pack::store::OpenPack;

use super::outbox::stub;
use crate::fetch::unexpected;
use crate::push::link::Link;
use crate::wire::limits::MAX_PIECES;
use crate::wire::{Bitmap, Message, Piece};

/// Packs that were asked about and whose answers are awaited.
const ASKED: usize = 2;
/// Packs asked about ahead in an audit; of those only footers are in memory.
const AUDITED: usize = 16;

/// A pack that was captured.
struct Captured {
    id: PackId,
    bytes: Vec<u8>,
    footer: Footer,
}

/// A pack that is durable at the site, or on its way there: what is kept of it here.
pub struct Parcel {
    pub id: PackId,
    pub kept: Vec<u8>,
    /// The pack that was sent for it, if anything was.
    sent: Option<PackId>,
}

/// What is asked of a courier while a capture runs; each is answered.
pub enum Task {
    /// Takes a pack; those that are durable by now come back.
    Offer(PackId, Vec<u8>, Sender<Result<Vec<Parcel>>>),
    /// Waits until all packs are durable; those that were still on their way come back.
    Drain(Sender<Result<Vec<Parcel>>>),
}

/// The way to the site.
pub struct Courier<'a> {
    link: Link<'a>,
    keys: Arc<Keys>,
    asked: VecDeque<Captured>,
    sent: VecDeque<Parcel>,
    /// In footers of packs that are made on the way.
    session: SessionId,
}

impl<'a> Courier<'a> {
    /// Over an open link, of packs that open with `keys`.
    pub fn new(link: Link<'a>, keys: Arc<Keys>) -> Courier<'a> {
        Courier { link, keys, asked: VecDeque::new(), sent: VecDeque::new(), session: SessionId::random() }
    }

    /// Does what is asked until nobody can ask any more.
    pub fn serve(&mut self, tasks: &Receiver<Task>) {
        for task in tasks {
            // Who asked may have gone.
            let _ = match task {
                Task::Offer(id, bytes, told) => told.send(self.offer(id, bytes)),
                Task::Drain(told) => told.send(self.drain()),
            };
        }
    }

    fn offer(&mut self, id: PackId, bytes: Vec<u8>) -> Result<Vec<Parcel>> {
        let (_, footer) = footer_in(&self.keys, &bytes)?;
        // The question travels while the next pack is filled.
        self.ask(&footer)?;
        self.asked.push_back(Captured { id, bytes, footer });
        while self.asked.len() > ASKED {
            self.settle()?;
        }
        let mut landed = Vec::new();
        while let Some(first) = self.sent.front() {
            let there = first.sent.map_or(Ok(true), |id| self.link.is_durable(&id))?;
            if !there {
                break;
            }
            landed.extend(self.sent.pop_front());
        }
        Ok(landed)
    }

    fn drain(&mut self) -> Result<Vec<Parcel>> {
        while !self.asked.is_empty() {
            self.settle()?;
        }
        self.link.delivered()?;
        for id in self.sent.iter().filter_map(|parcel| parcel.sent) {
            self.link.is_durable(&id)?;
        }
        Ok(self.sent.drain(..).collect())
    }

    fn ask(&mut self, footer: &Footer) -> Result<()> {
        let piece = |c: &ChunkInfo| Piece { kind: c.kind, len: c.len, h: c.h };
        for chunks in footer.chunks.chunks(MAX_PIECES) {
            self.link.send(Message::Have { pieces: chunks.iter().map(piece).collect() })?;
        }
        Ok(())
    }

    /// Which of a footer's chunks the site lacks: what was asked about first.
    fn answer(&mut self, footer: &Footer) -> Result<Missing> {
        let pages = footer.chunks.chunks(MAX_PIECES);
        pages.map(|chunks| self.link.missing(chunks.len())).collect::<Result<_>>().map(Missing)
    }

    /// Sends what the site lacks of the pack that was asked about first.
    fn settle(&mut self) -> Result<()> {
        let Some(Captured { id, bytes, footer }) = self.asked.pop_front() else { return Ok(()) };
        let missing = self.answer(&footer)?;
        let kept = match footer.kind {
            FrameKind::Tree => bytes.clone(),
            FrameKind::Data => stub(&bytes)?,
        };
        let sent = self.send(id, &footer, bytes, &missing)?;
        self.sent.push_back(Parcel { id, kept, sent });
        Ok(())
    }

    fn send(&mut self, id: PackId, of: &Footer, bytes: Vec<u8>, missing: &Missing) -> Result<Option<PackId>> {
        match missing.count() {
            0 => Ok(None),
            n if n == of.chunks.len() => self.link.put(id, bytes, 0).map(|()| Some(id)),
            _ => {
                let mut pack = PackBuilder::new(of.kind, self.session, 0);
                for frame in of.frames.iter().filter(|frame| frame.chunks().any(|i| missing.has(i))) {
                    let range = frame.offset as usize..(frame.offset + frame.stored) as usize;
                    let sealed =
                        bytes.get(range).ok_or_else(|| Error::damaged("a block of data lies outside its pack"))?;
                    let chunks = of.chunks[frame.chunks()].iter().map(|c| (c.kind, c.h, c.len)).collect();
                    let (kind, bytes, raw, codec, epoch) =
                        (of.kind, sealed.to_vec(), frame.raw, frame.codec, frame.epoch);
                    pack.push(&SealedFrame { kind, bytes, raw, codec, epoch, chunks })?;
                }
                let pack = pack.finish(&self.keys)?;
                self.link.put(pack.id, pack.body.into_bytes()?, 0)?;
                Ok(Some(pack.id))
            }
        }
    }

    /// Whether the site has all of these trees from this agent.
    ///
    /// # Errors
    /// What the link gives.
    pub fn knows(&mut self, trees: &[(ContentHash, ChunkKind)]) -> Result<bool> {
        for some in trees.chunks(MAX_PIECES) {
            let pieces = some.iter().map(|(h, kind)| Piece { kind: *kind, len: 1, h: *h }).collect();
            self.link.send(Message::Have { pieces })?;
            if self.link.missing(some.len())?.ones() > 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Asks about everything that `repo` takes for delivered. Of packs that are here what the site lacks is sent; returns
    /// those that are not, and of which it lacks something.
    ///
    /// # Errors
    /// What link and index give; `Interrupted`.
    pub fn audit(&mut self, repo: &Repository, monitor: &dyn Monitor) -> Result<Vec<PackId>> {
        let mut packs: Vec<PackInfo> = Vec::new();
        repo.index.packs(&mut |info| {
            packs.extend(info.usable().then_some(*info));
            Ok(())
        })?;
        let (mut asked, mut lost): (VecDeque<Arc<OpenPack>>, _) = (VecDeque::new(), Vec::new());
        for info in &packs {
            if monitor.cancelled() {
                return Err(Error::new(Kind::Interrupted, "stopped on request"));
            }
            let pack = match repo.packs().pack(info) {
                Err(e) if matches!(e.kind(), Kind::Damaged | Kind::NotFound) => {
                    lost.push(info.id);
                    continue;
                }
                other => other?,
            };
            self.ask(&pack.footer)?;
            asked.push_back(pack);
            if asked.len() >= AUDITED {
                self.judge(repo, asked.pop_front(), &mut lost)?;
            }
        }
        while !asked.is_empty() {
            self.judge(repo, asked.pop_front(), &mut lost)?;
        }
        Ok(lost)
    }

    fn judge(&mut self, repo: &Repository, pack: Option<Arc<OpenPack>>, lost: &mut Vec<PackId>) -> Result<()> {
        let Some(pack) = pack else { return Ok(()) };
        let missing = self.answer(&pack.footer)?;
        if missing.count() == 0 {
            return Ok(());
        }
        if pack.footer.kind == FrameKind::Data {
            lost.push(pack.id);
            return Ok(());
        }
        match whole_pack(repo.backend.as_ref(), &pack.id) {
            Ok(bytes) => self.send(pack.id, &pack.footer, bytes, &missing).map(drop)?,
            Err(e) if matches!(e.kind(), Kind::Damaged | Kind::NotFound) => lost.push(pack.id),
            Err(e) => return Err(e),
        }
        Ok(())
    }

    /// Sends a manifest, or asks about it again; what the site says of it.
    ///
    /// # Errors
    /// What the link gives.
    pub fn manifest(&mut self, id: SnapshotId, sealed: &[u8], again: bool) -> Result<Message> {
        if again {
            self.link.again(id)?
        } else {
            self.link.manifest(id, sealed.to_vec())?
        }
        match self.link.verdict(&id)? {
            verdict @ (Message::Accepted { .. } | Message::Declined { .. } | Message::Missing { .. }) => Ok(verdict),
            other => Err(unexpected(Some(other))),
        }
    }

    /// Says that everything up to here was delivered.
    ///
    /// # Errors
    /// What the link gives.
    pub fn done(&mut self, position: Position) -> Result<()> {
        self.link.done(position).map(drop)
    }

    /// Ends; how many bytes of packs were sent.
    ///
    /// # Errors
    /// What the link gives.
    pub fn bye(self) -> Result<u64> {
        self.link.bye()
    }
}

/// Which chunks of a pack the site lacks.
struct Missing(Vec<Bitmap>);

impl Missing {
    fn count(&self) -> usize {
        self.0.iter().map(Bitmap::ones).sum()
    }

    fn has(&self, i: usize) -> bool {
        self.0[i / MAX_PIECES].get(i % MAX_PIECES)
    }
}
