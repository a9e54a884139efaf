//! Asking about packs, and sending what is new in them.

use std::collections::VecDeque;
use std::sync::Arc;

use repo::error::{Error, Kind, Result};
use repo::id::PackId;
use repo::index::PackInfo;
use repo::monitor::{Counters, Event};
use repo::open::Repository;
use repo::pack::read::whole_pack;
use repo::pack::store::OpenPack;

use super::Push;
use crate::delta::Delta;
use crate::wire::limits::MAX_PIECES;
use crate::wire::{Bitmap, Message, Piece};

/// Packs that were asked about and whose answers are awaited. Their footers are in memory meanwhile.
const WINDOW: usize = 16;

/// A pack whose answers are awaited, and its size in bytes.
struct Asked {
    pack: Arc<OpenPack>,
    size: u64,
}

/// Shows the packs of `delta`: data before trees, as far as their numbers tell; what is missed nevertheless is asked for.
fn each(repo: &Repository, delta: &Delta, visit: &mut dyn FnMut(&PackInfo) -> Result<()>) -> Result<()> {
    match delta {
        Delta::All => repo.index.packs(visit),
        Delta::Since { packs, .. } => {
            for id in packs {
                if let Some(info) = repo.index.pack_by_id(id)? {
                    visit(&info)?;
                }
            }
            Ok(())
        }
    }
}

impl Push<'_> {
    /// Asks about the packs of `delta` and sends what the pool lacks of them.
    pub fn offer(&mut self, delta: &Delta) -> Result<()> {
        let mut asked: VecDeque<Asked> = VecDeque::new();
        let (repo, counters) = (self.repo, self.monitor.counters());
        each(repo, delta, &mut |info| {
            Counters::add(&counters.total_files, 1);
            Counters::add(&counters.total_bytes, info.size);
            Ok(())
        })?;
        let mut ask = |push: &mut Push<'_>, info: &PackInfo| -> Result<()> {
            push.stop_if_cancelled()?;
            // What a prune wants to remove lies elsewhere too, or will be missed by name.
            if !info.usable() {
                push.skipped(info.size);
                return Ok(());
            }
            if push.repo.index.posted(&push.away, &info.id)?.is_some() {
                push.report.posted += info.size;
                Counters::add(&push.monitor.counters().bytes, info.size);
                Counters::add(&push.monitor.counters().files, 1);
                return Ok(());
            }
            let pack = match push.repo.packs().pack(info) {
                Err(e) if matches!(e.kind(), Kind::Damaged | Kind::NotFound) => {
                    push.skipped(info.size);
                    return Ok(());
                }
                other => other?,
            };
            let piece = |c: &repo::format::footer::ChunkInfo| Piece { kind: c.kind, len: c.len, h: c.h };
            for chunks in pack.footer.chunks.chunks(MAX_PIECES) {
                push.link.send(Message::Have { pieces: chunks.iter().map(piece).collect() })?;
            }
            asked.push_back(Asked { pack, size: info.size });
            if asked.len() >= WINDOW
                && let Some(oldest) = asked.pop_front()
            {
                push.settle(&oldest)?;
            }
            Ok(())
        };
        each(repo, delta, &mut |info| ask(self, info))?;
        while let Some(oldest) = asked.pop_front() {
            self.settle(&oldest)?;
        }
        self.flush_frames()
    }

    /// Takes the answers about a pack and sends it, the frames in it that are new, or nothing.
    fn settle(&mut self, Asked { pack, size }: &Asked) -> Result<()> {
        let mut answers: Vec<Bitmap> = Vec::new();
        for chunks in pack.footer.chunks.chunks(MAX_PIECES) {
            answers.push(self.link.missing(chunks.len())?);
        }
        let missing = |i: usize| answers[i / MAX_PIECES].get(i % MAX_PIECES);
        let lacking: usize = answers.iter().map(Bitmap::ones).sum();
        Counters::add(&self.monitor.counters().files, 1);
        if lacking == 0 {
            self.skipped(*size);
            return Ok(());
        }
        if lacking == pack.footer.chunks.len() && self.send_whole(pack)? {
            return Ok(());
        }
        let mut left = *size;
        for (frame, info) in pack.footer.frames.iter().enumerate() {
            if info.chunks().any(missing) {
                left = left.saturating_sub(u64::from(info.stored));
                match self.send_frame(pack, frame as u32) {
                    // The chunk may lie elsewhere too: if a snapshot needs it, it is missed by name.
                    Err(e) if matches!(e.kind(), Kind::Damaged | Kind::NotFound) => self.report_damage(&e),
                    other => other?,
                }
            }
        }
        self.skipped(left);
        Ok(())
    }

    /// Counts bytes of packs that need not travel.
    fn skipped(&mut self, bytes: u64) {
        self.report.skipped += bytes;
        Counters::add(&self.monitor.counters().bytes, bytes);
    }

    /// Sends a pack as it is; not if it is damaged or gone.
    fn send_whole(&mut self, pack: &OpenPack) -> Result<bool> {
        let bytes = match whole_pack(self.repo.backend.as_ref(), &pack.id) {
            Err(e) if matches!(e.kind(), Kind::Damaged | Kind::NotFound | Kind::Io) => {
                self.report_damage(&e);
                return Ok(false);
            }
            other => other?,
        };
        self.put(pack.id, bytes)?;
        self.report.packs += 1;
        Ok(true)
    }

    /// Sends a pack's bytes, as far as the pool does not have them.
    pub fn put(&mut self, id: PackId, bytes: Vec<u8>) -> Result<()> {
        let from = self.partial.remove(&id).unwrap_or(0).min(bytes.len() as u64);
        self.link.put(id, bytes, from)
    }

    fn report_damage(&self, e: &Error) {
        Counters::add(&self.monitor.counters().errors, 1);
        self.monitor.event(Event::Warning(&format!("not sent: {e}")));
    }
}
