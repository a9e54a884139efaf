//! Builds an index from nothing, in bounded memory, beside the one in use.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use heed::PutFlags;

use super::env::Env;
use super::guard::{Room, sync_dir};
use super::sort::{Entry, Sorter};
use super::write::{enter_pack, put_position};
use super::{Flags, Index, IndexIdentity, Location, NewPack, PackNo};
use crate::error::{Error, Result};
use crate::id::{DriveId, PackId, SnapshotId, random_bytes};
use crate::log::Position;

/// Chunks appended in one transaction.
const APPEND: usize = 250_000;
/// Footers and records collected for one transaction, in bytes.
const PENDING: usize = 16 << 20;

/// A new index in the making. Dropped before [`Builder::finish`], it leaves nothing; the index in use, if any, is not
/// touched until then. Needs about 200 MiB of memory whatever the size, and 40 bytes a chunk of scratch space.
pub struct Builder {
    room: Room,
    identity: IndexIdentity,
    generation: u64,
    env: Option<Arc<Env>>,
    sorter: Option<Sorter>,
    pending: Vec<(NewPack, Flags)>,
    pending_bytes: usize,
    /// Packs whose chunks yield to any other copy.
    unusable: HashSet<PackNo>,
}

impl Builder {
    /// Starts an index in the directory `dir`, which is made if it is missing.
    pub fn new(dir: &Path, identity: &IndexIdentity) -> Result<Builder> {
        fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, e))?;
        let room = Room::new(dir);
        let turn = room.lock_opening()?;
        let generation = u64::from_le_bytes(random_bytes());
        let env = Env::create(&room, generation, identity.repo);
        if env.is_err() {
            let _ = fs::remove_dir_all(room.generation(generation));
        }
        drop(turn);
        let sorter = Some(Sorter::new(&room.generation(generation)));
        let (pending, pending_bytes, unusable) = (Vec::new(), 0, HashSet::new());
        let env = Some(env?);
        Ok(Builder { room, identity: *identity, generation, env, sorter, pending, pending_bytes, unusable })
    }

    /// Enters a pack, in any order. One that was entered before adds nothing.
    pub fn push(&mut self, mut pack: NewPack, flags: Flags) -> Result<()> {
        pack.chunks.shrink_to_fit();
        self.pending_bytes += pack.sealed_footer.len() + pack.chunks.len() * 40 + 128;
        self.pending.push((pack, flags));
        if self.pending_bytes >= PENDING { self.flush() } else { Ok(()) }
    }

    /// Keeps a snapshot's sealed summary.
    pub fn put_summary(&mut self, id: &SnapshotId, sealed: &[u8]) -> Result<()> {
        self.env()?.commit(&mut |tables, txn| Ok(tables.snapshots.put(txn, id.as_bytes(), sealed)?))
    }

    fn flush(&mut self) -> Result<()> {
        let pending = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        let numbers = self.env()?.commit(&mut |tables, txn| {
            let mut numbers = Vec::with_capacity(pending.len());
            for (pack, flags) in &pending {
                let known = tables.pack_ids.get(txn, pack.id.as_bytes())?.is_some();
                let no = enter_pack(tables, txn, pack, *flags)?;
                numbers.push((!known).then_some(no));
            }
            Ok(numbers)
        })?;
        let sorter = self.sorter.as_mut().ok_or_else(finished)?;
        for ((pack, flags), no) in pending.iter().zip(numbers) {
            let Some(no) = no else { continue };
            if flags.condemned == Some(true) || flags.damaged == Some(true) {
                self.unusable.insert(no);
            }
            for (chunk, frame, slot) in &pack.chunks {
                sorter.push((*chunk, Location::pack_bits(no, *frame, *slot)?))?;
            }
        }
        Ok(())
    }

    /// As [`Index::post`].
    pub fn post(&mut self, drive: &DriveId, packs: &[PackId]) -> Result<()> {
        self.env()?.commit(&mut |tables, txn| super::posted::put(tables, txn, drive, packs))
    }

    /// Loads the chunks, makes everything durable, puts it in place of the index in use and opens it. Processes that have
    /// the old one open go on with it until they refresh or write.
    pub fn finish(mut self, position: Option<Position>) -> Result<Index> {
        self.flush()?;
        self.load_chunks()?;
        let env = self.env()?.clone();
        if let Some(position) = position {
            env.commit(&mut |tables, txn| put_position(tables, txn, &position))?;
        }
        env.sync()?;
        sync_dir(&self.room.generation(self.generation))?;
        sync_dir(self.room.dir())?;
        let writing = self.room.lock_writing()?;
        let opening = self.room.lock_opening()?;
        self.room.install(self.generation, self.identity.repo)?;
        self.env = None;
        self.room.sweep(self.generation)?;
        drop((opening, writing));
        Ok(Index::with(self.room.clone(), self.identity, env))
    }

    fn load_chunks(&mut self) -> Result<()> {
        let sorter = self.sorter.take().ok_or_else(finished)?;
        let env = self.env()?.clone();
        let unusable = &self.unusable;
        let mut batch: Vec<Entry> = Vec::with_capacity(APPEND);
        sorter.finish(&mut |entry| {
            match batch.last_mut() {
                // The same chunk in several packs: the first that is usable, else the first.
                Some(last) if last.0 == entry.0 => {
                    let bad = |bits: u64| unusable.contains(&Location::from_bits(bits).pack);
                    if bad(last.1) && !bad(entry.1) {
                        *last = entry;
                    }
                }
                _ => {
                    if batch.len() >= APPEND {
                        append(&env, &batch)?;
                        batch.clear();
                    }
                    batch.push(entry);
                }
            }
            Ok(())
        })?;
        append(&env, &batch)
    }

    fn env(&self) -> Result<&Arc<Env>> {
        self.env.as_ref().ok_or_else(finished)
    }
}

fn append(env: &Env, batch: &[Entry]) -> Result<()> {
    env.commit(&mut |tables, txn| {
        for (chunk, bits) in batch {
            tables.chunks.put_with_flags(txn, PutFlags::APPEND, chunk.as_bytes(), &bits.to_le_bytes())?;
        }
        Ok(())
    })
}

fn finished() -> Error {
    Error::bug("an index builder was used after it finished")
}

impl Drop for Builder {
    fn drop(&mut self) {
        if self.env.take().is_some() {
            // What cannot be removed now is swept by the next open.
            let _ = fs::remove_dir_all(self.room.generation(self.generation));
        }
    }
}
