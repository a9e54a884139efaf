//! Rewriting packs of which little is needed: needed frames move verbatim, or their needed chunks are grouped anew.

use std::sync::Arc;

use crate::backend::{Area, Object as Stored, Put};
use crate::compress::Packer;
use crate::crypto::keys::{FrameKind, Object};
use crate::error::{Error, Kind, Result};
use crate::format::footer::{RollupEntry, encode_rollup};
use crate::format::record::PackRef;
use crate::index::PackInfo;
use crate::limits::{FRAME_GROUP, FRAME_GROUP_TREE, MIB};
use crate::open::Repository;
use crate::pack::build::{FinishedPack, Group, PackBuilder, SealedFrame, seal};
use crate::pack::read::{open_frame, verify_chunk};
use crate::pack::store::OpenPack;
use crate::prune::mark::Bits;
use crate::prune::plan::{Fate, Tolerance, fate};
use crate::session::Session;

/// zstd's level for frames that are grouped anew.
const LEVEL: i32 = 3;
/// Footers gathered for one roll-up.
const FOOTERS: usize = 8 * MIB;

/// Packs that are durable with their roll-up, to be recorded.
pub struct Durable {
    /// The roll-up's number.
    pub rollup: u64,
    /// The packs.
    pub packs: Vec<PackRef>,
}

/// What becomes of one frame that was read and verified.
enum Kept {
    Whole(SealedFrame),
    Chunks { raw: Vec<u8>, chunks: Vec<usize> },
}

/// Writes new packs out of old ones. Holds one pack a kind, and one pack's needed frames.
pub struct Repacker<'a> {
    repo: &'a Repository,
    session: &'a Session,
    packer: Packer,
    open: [PackBuilder; 2],
    groups: [Group; 2],
    rollup: Vec<RollupEntry>,
    rollup_bytes: usize,
    refs: Vec<PackRef>,
    durable: Vec<Durable>,
    batches: u64,
    /// Everything that was written, or begun to be.
    objects: Vec<Stored>,
}

impl<'a> Repacker<'a> {
    /// For one round of one session; `batches` roll-ups were written by it before.
    ///
    /// # Errors
    /// `Io` when zstd fails.
    pub fn new(repo: &'a Repository, session: &'a Session, batches: u64) -> Result<Repacker<'a>> {
        Ok(Repacker {
            repo,
            session,
            packer: Packer::new(LEVEL)?,
            open: [FrameKind::Data, FrameKind::Tree]
                .map(|kind| PackBuilder::new(kind, session.id(), repo.config.pack_size as usize)),
            groups: [Group::default(), Group::default()],
            rollup: Vec::new(),
            rollup_bytes: 0,
            refs: Vec::new(),
            durable: Vec::new(),
            batches,
            objects: Vec::new(),
        })
    }

    /// Writes what is needed of a pack. Every frame is opened and verified first, so that damage does not travel on
    /// under a new name; nothing of the pack is written if one fails.
    ///
    /// # Errors
    /// `Damaged`, naming the pack: it must stay as it is. Others end the whole.
    pub fn pack(&mut self, info: &PackInfo, bits: &Bits, tolerance: Tolerance) -> Result<()> {
        let pack = self.repo.packs().pack(info)?;
        let path = self.repo.backend.path(&Stored::Pack(info.id));
        let mut kept = Vec::new();
        for i in 0..pack.footer.frames.len() {
            match fate(&pack.footer, i, bits, tolerance) {
                Fate::Drop => {}
                fate => kept.push(self.read(&pack, i, bits, fate).map_err(|e| missing_is_damage(e).at(&path))?),
            }
        }
        for kept in kept {
            match kept {
                Kept::Whole(frame) => self.push(&frame)?,
                Kept::Chunks { raw, chunks } => self.regroup(&pack, &raw, &chunks)?,
            }
        }
        Ok(())
    }

    fn read(&self, pack: &Arc<OpenPack>, i: usize, bits: &Bits, fate: Fate) -> Result<Kept> {
        let (footer, frame) = (&pack.footer, &pack.footer.frames[i]);
        let object = Stored::Pack(pack.id);
        let sealed = self.repo.backend.read(&object, u64::from(frame.offset), frame.stored as usize)?;
        let bytes = if fate == Fate::Move { sealed.clone() } else { Vec::new() };
        let raw = open_frame(&self.repo.keys, footer.kind, frame, sealed)?;
        for ordinal in frame.chunks().filter(|ordinal| bits.has(*ordinal)) {
            verify_chunk(&footer.chunks[ordinal], &raw)?;
        }
        if fate != Fate::Move {
            return Ok(Kept::Chunks { raw, chunks: frame.chunks().filter(|ordinal| bits.has(*ordinal)).collect() });
        }
        Ok(Kept::Whole(SealedFrame {
            kind: footer.kind,
            bytes,
            raw: frame.raw,
            codec: frame.codec,
            epoch: frame.epoch,
            chunks: footer.chunks[frame.chunks()].iter().map(|c| (c.kind, c.h, c.len)).collect(),
        }))
    }

    fn regroup(&mut self, pack: &OpenPack, raw: &[u8], chunks: &[usize]) -> Result<()> {
        let kind = pack.footer.kind;
        let limit = if kind == FrameKind::Tree { FRAME_GROUP_TREE } else { FRAME_GROUP };
        for ordinal in chunks {
            let chunk = &pack.footer.chunks[*ordinal];
            let from = chunk.offset as usize;
            if !self.groups[kind as usize].fits(chunk.len as usize, limit) {
                self.close_group(kind)?;
            }
            self.groups[kind as usize].push(chunk.kind, chunk.h, &raw[from..from + chunk.len as usize]);
        }
        Ok(())
    }

    fn close_group(&mut self, kind: FrameKind) -> Result<()> {
        let group = std::mem::take(&mut self.groups[kind as usize]);
        if group.chunks.is_empty() {
            return Ok(());
        }
        let frame = seal(&self.repo.keys, &mut self.packer, kind, group)?;
        self.push(&frame)
    }

    fn push(&mut self, frame: &SealedFrame) -> Result<()> {
        let builder = &mut self.open[frame.kind as usize];
        builder.push(frame)?;
        if builder.is_full(self.repo.config.pack_size as usize) {
            self.close_pack(frame.kind)?;
        }
        Ok(())
    }

    fn close_pack(&mut self, kind: FrameKind) -> Result<()> {
        let full = std::mem::replace(
            &mut self.open[kind as usize],
            PackBuilder::new(kind, self.session.id(), self.repo.config.pack_size as usize),
        );
        if full.is_empty() {
            return Ok(());
        }
        let FinishedPack { id, size, body, sealed_footer, .. } = full.finish(&self.repo.keys)?;
        self.objects.push(Stored::Pack(id));
        self.repo.backend.put_grown(&Stored::Pack(id), body)?;
        self.refs.push(PackRef { id, size, footer_len: sealed_footer.len() as u32, kind });
        self.rollup_bytes += sealed_footer.len();
        self.rollup.push(RollupEntry { id, size, sealed_footer });
        if self.rollup_bytes >= FOOTERS { self.close_rollup() } else { Ok(()) }
    }

    fn close_rollup(&mut self) -> Result<()> {
        if self.refs.is_empty() {
            return Ok(());
        }
        let plain = encode_rollup(&std::mem::take(&mut self.rollup));
        let rollup = loop {
            let number = u64::from(self.session.number()) << 32 | self.batches;
            self.batches += 1;
            let sealed = self.repo.keys.seal(Object::Rollup, &number.to_le_bytes(), &plain);
            // Numbers of sessions are drawn by chance: an older one's roll-up may have this name.
            if self.repo.backend.put(&Stored::Footers(number), &sealed)? == Put::Created {
                self.objects.push(Stored::Footers(number));
                break number;
            }
        };
        self.rollup_bytes = 0;
        self.durable.push(Durable { rollup, packs: std::mem::take(&mut self.refs) });
        Ok(())
    }

    /// Closes what is open: the packs are durable when this returns, and not yet recorded.
    ///
    /// # Errors
    /// What the backend gives.
    pub fn close(&mut self) -> Result<()> {
        for kind in [FrameKind::Data, FrameKind::Tree] {
            self.close_group(kind)?;
            self.close_pack(kind)?;
        }
        self.close_rollup()
    }

    /// What is to be recorded, and the number of roll-ups that the session has written.
    pub fn into_durable(self) -> (Vec<Durable>, u64) {
        (self.durable, self.batches)
    }

    /// Takes back what was written: nothing refers to it, and space may be what is lacking. Whether that succeeded.
    pub fn abandon(self) -> bool {
        let gone = self.objects.iter().all(|object| self.repo.backend.delete(object).is_ok());
        let synced = [Area::Packs, Area::Footers].into_iter().all(|area| self.repo.backend.sync_deletes(area).is_ok());
        gone && synced
    }
}

fn missing_is_damage(e: Error) -> Error {
    if e.kind() == Kind::NotFound { e.with_kind(Kind::Damaged) } else { e }
}
