//! Changes to the index. Each takes the turn to write, marks `state` dirty, commits, and stamps it again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use heed::RwTxn;

use super::env::{Env, Inner, Tables};
use super::read::{chunks_after, decode_location, encode_pack, encode_position, is_usable, pack, pack_no, position};
use super::state::{Found, State, Status, boot_id};
use super::{Flags, Index, Location, NewPack, PackInfo, PackNo, Place, Shared};
use crate::error::{Error, Kind, Result};
use crate::id::{ChunkId, PackId, SnapshotId};
use crate::log::Position;

/// Chunks changed in one transaction: LMDB keeps its changed pages in memory.
const BATCH: usize = 100_000;

/// Tells [`Index::remove_packs`] about the chunks of packs that go.
pub trait Reassign {
    /// The chunks of a pack, as its footer says. `None` if that is not known: the whole chunk table is searched then.
    fn chunks(&self, pack: &PackId) -> Result<Option<Vec<ChunkId>>>;

    /// Where else the chunk lies, in a pack that the index has and that stays. `None`: nowhere, and it is forgotten.
    fn place(&self, chunk: &ChunkId) -> Option<Place>;
}

impl Reassign for HashMap<ChunkId, Place> {
    fn chunks(&self, _: &PackId) -> Result<Option<Vec<ChunkId>>> {
        Ok(None)
    }

    fn place(&self, chunk: &ChunkId) -> Option<Place> {
        self.get(chunk).copied()
    }
}

impl Index {
    /// Enters packs with their footers and chunks, and moves the position to `to`. A chunk that is known keeps its place,
    /// unless the pack it lies in is condemned, damaged or unknown. A pack that is known keeps its number and flags.
    ///
    /// Safe to repeat. Large calls take several transactions, and only the last moves the position: after a crash in
    /// between, the same log record is applied again. If the index is past `to` already, another process has applied
    /// that record: nothing is done and the result is false.
    pub fn add_packs(&self, packs: &[NewPack], to: Position) -> Result<bool> {
        let mut work: Vec<(ChunkId, usize, u64)> = Vec::new();
        let mut first = 0;
        for (i, pack) in packs.iter().enumerate() {
            if work.len() + pack.chunks.len() > BATCH && !work.is_empty() {
                if !self.add_batch(&packs[first..i], &mut work, first, to, false)? {
                    return Ok(false);
                }
                first = i;
            }
            for (chunk, frame, slot) in &pack.chunks {
                work.push((*chunk, i, Location::pack_bits(PackNo(0), *frame, *slot)?));
            }
        }
        self.add_batch(&packs[first..], &mut work, first, to, true)
    }

    /// One transaction of [`Index::add_packs`]; `packs` start at `first` in the numbering of `work`.
    fn add_batch(
        &self,
        packs: &[NewPack],
        work: &mut Vec<(ChunkId, usize, u64)>,
        first: usize,
        to: Position,
        last: bool,
    ) -> Result<bool> {
        work.sort_unstable();
        let done = self.shared.write(&mut |tables, txn| {
            if is_past(tables, txn, &to)? {
                return Ok(false);
            }
            let mut numbers = Vec::with_capacity(packs.len());
            for pack in packs {
                numbers.push(enter_pack(tables, txn, pack, Flags::default())?);
            }
            let mut usable = HashMap::new();
            for (chunk, pack, place) in work.iter() {
                let bits = (u64::from(numbers[pack - first].0) << 32 | place).to_le_bytes();
                let Some(known) = tables.chunks.get_or_put(txn, chunk.as_bytes(), &bits)? else { continue };
                let known = decode_location(known)?;
                if !is_usable(tables, txn, &mut usable, known.pack)? {
                    tables.chunks.put(txn, chunk.as_bytes(), &bits)?;
                }
            }
            if last {
                put_position(tables, txn, &to)?;
            }
            Ok(true)
        })?;
        if done && let Some(filter) = &*self.shared.filter.read() {
            work.iter().for_each(|(chunk, ..)| filter.insert(chunk));
        }
        work.clear();
        Ok(done)
    }

    /// Removes packs, and moves the position to `to`. Chunks that lie in them by this index move to the place that
    /// `reassign` gives, or are forgotten. Otherwise as [`Index::add_packs`]: safe to repeat, false if past `to`.
    pub fn remove_packs(&self, packs: &[PackId], to: Position, reassign: &dyn Reassign) -> Result<bool> {
        self.doubt_ownership()?;
        self.remove_or_leave(packs, to, reassign, false)
    }

    /// Chunks that lie in these packs by this index move to the place that `reassign` gives, and stay where it gives none.
    /// The position stays: the record's other effects follow. False if the index is past `to`.
    pub fn move_chunks(&self, packs: &[PackId], to: Position, reassign: &dyn Reassign) -> Result<bool> {
        self.remove_or_leave(packs, to, reassign, true)
    }

    fn remove_or_leave(&self, packs: &[PackId], to: Position, reassign: &dyn Reassign, keep: bool) -> Result<bool> {
        loop {
            let removal = Removal { shared: &self.shared, env: self.shared.env(), to, reassign, keep };
            // None: a rebuild came between, and the numbers looked up mean nothing any more.
            if let Some(done) = removal.run(packs)? {
                return Ok(done);
            }
            if removal.env.generation() == self.shared.env().generation() {
                return Err(behind());
            }
        }
    }

    /// As [`Index::remove_packs`], but by that generation alone: what is known of where chunks lie may hold for it only.
    /// False also if it is not the current one.
    pub fn remove_packs_of(
        &self,
        generation: u64,
        packs: &[PackId],
        to: Position,
        reassign: &dyn Reassign,
    ) -> Result<bool> {
        let removal = Removal { shared: &self.shared, env: self.shared.env(), to, reassign, keep: false };
        if removal.env.generation() != generation {
            return Ok(false);
        }
        // Before anything of them is gone.
        self.doubt_ownership()?;
        Ok(removal.run(packs)?.unwrap_or(false))
    }

    /// Changes flags of packs, and moves the position to `to`. Packs that are unknown are passed over. False if the
    /// index is past `to`.
    pub fn set_flags(&self, packs: &[PackId], flags: Flags, to: Position) -> Result<bool> {
        self.shared.write(&mut |tables, txn| {
            if is_past(tables, txn, &to)? {
                return Ok(false);
            }
            put_flags(tables, txn, packs, flags)?;
            put_position(tables, txn, &to)?;
            Ok(true)
        })
    }

    /// Changes flags of packs for another reason than a log record: the position stays, so that no record of others is
    /// passed over.
    pub fn set_flags_apart(&self, packs: &[PackId], flags: Flags) -> Result<()> {
        self.shared.write(&mut |tables, txn| put_flags(tables, txn, packs, flags))
    }

    /// Moves the position, for a log record that changes nothing here. False if the index is past `to`.
    pub fn set_position(&self, to: Position) -> Result<bool> {
        self.shared.write(&mut |tables, txn| {
            let go = !is_past(tables, txn, &to)?;
            if go {
                put_position(tables, txn, &to)?;
            }
            Ok(go)
        })
    }

    /// Keeps a snapshot's sealed summary.
    pub fn put_summary(&self, id: &SnapshotId, sealed: &[u8]) -> Result<()> {
        self.put_summaries(&[(*id, sealed.to_vec())])
    }

    /// Keeps several snapshots' sealed summaries in one commit; unless another process has just rebuilt the index:
    /// they can be had again.
    pub fn put_summaries(&self, summaries: &[(SnapshotId, Vec<u8>)]) -> Result<()> {
        let put = self.shared.write_in(None, &mut |tables, txn| {
            for (id, sealed) in summaries {
                tables.snapshots.put(txn, id.as_bytes(), sealed)?;
            }
            Ok(())
        });
        put.map(drop)
    }

    /// Forgets the summaries of snapshots that are no more, and remembers that there were such: as empty ones.
    pub fn bury(&self, ids: &[SnapshotId]) -> Result<()> {
        self.shared.write(&mut |tables, txn| {
            for id in ids {
                tables.snapshots.put(txn, id.as_bytes(), &[])?;
            }
            Ok(())
        })
    }
}

/// One try at [`Index::remove_packs`] in one generation. Results are `None` if that is current no more.
struct Removal<'a> {
    shared: &'a Shared,
    env: Arc<Env>,
    to: Position,
    reassign: &'a dyn Reassign,
    /// Whether the packs stay, with the chunks that are nowhere else.
    keep: bool,
}

impl Removal<'_> {
    fn run(&self, packs: &[PackId]) -> Result<Option<bool>> {
        let mut going = HashSet::new();
        let mut named = Some(Vec::new());
        for id in packs {
            let Some(no) = self.env.read(|tables, txn| pack_no(tables, txn, id))? else { continue };
            going.insert(no);
            // One pack whose chunks are not known means searching, and that finds the others' as well.
            if let Some(chunks) = named.as_mut() {
                match self.reassign.chunks(id)? {
                    Some(more) => chunks.extend(more),
                    None => named = None,
                }
            }
            if named.as_ref().is_some_and(|chunks| chunks.len() >= BATCH)
                && self.move_chunks(&going, named.replace(Vec::new()).unwrap_or_default())?.is_none()
            {
                return Ok(None);
            }
        }
        let moved = match named {
            Some(chunks) => self.move_chunks(&going, chunks)?,
            None => self.search(&going)?,
        };
        if moved.is_none() {
            return Ok(None);
        }
        self.write(&mut |tables, txn| {
            if is_past(tables, txn, &self.to)? {
                return Ok(false);
            }
            if self.keep {
                return Ok(true);
            }
            for id in packs {
                if let Some(no) = pack_no(tables, txn, id)? {
                    tables.packs.delete(txn, &no.0.to_be_bytes())?;
                    tables.footers.delete(txn, &no.0.to_be_bytes())?;
                    tables.pack_ids.delete(txn, id.as_bytes())?;
                }
            }
            put_position(tables, txn, &self.to)?;
            Ok(true)
        })
    }

    /// Goes through the whole chunk table.
    fn search(&self, going: &HashSet<PackNo>) -> Result<Option<()>> {
        let mut batch = Vec::new();
        let mut after = None;
        while !going.is_empty() {
            let slice = chunks_after(&self.env, after)?;
            let Some((last, _)) = slice.last() else { break };
            after = Some(*last);
            batch.extend(slice.iter().filter(|(_, at)| going.contains(&at.pack)).map(|(chunk, _)| *chunk));
            if batch.len() >= BATCH && self.move_chunks(going, std::mem::take(&mut batch))?.is_none() {
                return Ok(None);
            }
        }
        self.move_chunks(going, batch)
    }

    /// Moves or forgets those of `chunks` that lie in packs that go.
    fn move_chunks(&self, going: &HashSet<PackNo>, mut chunks: Vec<ChunkId>) -> Result<Option<()>> {
        chunks.sort_unstable();
        chunks.dedup();
        for batch in chunks.chunks(BATCH) {
            let batch: Vec<_> = batch.iter().map(|chunk| (chunk, self.reassign.place(chunk))).collect();
            let moved = self.write(&mut |tables, txn| {
                if is_past(tables, txn, &self.to)? {
                    return Ok(());
                }
                for (chunk, place) in &batch {
                    let known = tables.chunks.get(txn, chunk.as_bytes())?.map(decode_location).transpose()?;
                    if !known.is_some_and(|at| going.contains(&at.pack)) {
                        continue;
                    }
                    match place_bits(tables, txn, going, place.as_ref())? {
                        Some(bits) => tables.chunks.put(txn, chunk.as_bytes(), &bits.to_le_bytes())?,
                        None if self.keep => {}
                        None => _ = tables.chunks.delete(txn, chunk.as_bytes())?,
                    }
                }
                Ok(())
            })?;
            if moved.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(()))
    }

    fn write<T>(&self, f: &mut dyn FnMut(&Tables, &mut RwTxn<'_>) -> Inner<T>) -> Result<Option<T>> {
        self.shared.write_in(Some(self.env.generation()), f)
    }
}

impl Shared {
    /// One write transaction, guarded.
    pub(super) fn write<T>(&self, f: &mut dyn FnMut(&Tables, &mut RwTxn<'_>) -> Inner<T>) -> Result<T> {
        self.write_in(None, f)?.ok_or_else(behind)
    }

    /// As [`Shared::write`], but nothing is done, and the result is `None`, if a generation is given and not current, or
    /// if a rebuild by another process is behind what was used here so far: to write what follows on that would leave
    /// a gap for ever. [`Index::refresh`] goes over to it, from where it stands.
    fn write_in<T>(
        &self,
        only: Option<u64>,
        f: &mut dyn FnMut(&Tables, &mut RwTxn<'_>) -> Inner<T>,
    ) -> Result<Option<T>> {
        if !self.env().writable() {
            return Err(Error::new(Kind::ReadOnly, "the index cannot be written at").at(self.room.dir()));
        }
        let _thread = self.writer.lock();
        let _process = self.room.lock_writing()?;
        let (env, before) = self.current()?;
        let known = self.env();
        if known.generation() != env.generation() {
            if seq(&env)? < seq(&known)? {
                return Ok(None);
            }
            *self.env.write() = env.clone();
        }
        if only.is_some_and(|generation| generation != env.generation()) {
            return Ok(None);
        }
        let path = self.room.state();
        State { status: Status::Dirty, ..before.clone() }.write(&path, false)?;
        let result = env.commit(f);
        let result = if result.is_ok() { env.sync().and(result) } else { result };
        if env.suspect() {
            let _ = State { status: Status::Distrusted, ..before }.write(&path, false);
            return result.map(Some);
        }
        let stamped = self.room.stamp(env.generation()).and_then(|stamp| {
            State { status: Status::Clean, stamp, boot: boot_id(), ..before }.write(&path, result.is_ok())
        });
        let value = result?;
        stamped.map(|()| Some(value))
    }

    /// The current generation, opened and compared with its stamp. The caller holds the turn to write.
    fn current(&self) -> Result<(Arc<Env>, State)> {
        let unusable = |why: String| {
            let message = format!("the index cannot be trusted any more ({why}) at");
            Error::damaged(message).at(self.room.dir()).remedy("run 'packmule rebuild-index'")
        };
        let state = match State::read(&self.room.state())? {
            Found::State(state) if state.repo == self.identity.repo => state,
            Found::State(_) => return Err(unusable("it is the index of another repository".into())),
            Found::Nothing => return Err(unusable("the file state is missing".into())),
            Found::Torn => return Err(unusable("the file state is damaged".into())),
        };
        let boot = boot_id();
        let stamp = self.room.compare(&state, &boot)?.map_err(unusable)?;
        let state = State { stamp, boot, ..state };
        let mut env = self.env();
        if env.generation() != state.generation {
            env = Env::open(&self.room, &state, true)?.map_err(unusable)?;
        }
        Ok((env, state))
    }

    /// After a writer died: stamps its work, so that it is trusted after the next start of the machine too.
    pub(super) fn heal(&self) -> Result<()> {
        if !self.env().writable() {
            return Ok(());
        }
        let Some(_process) = self.room.try_lock_writing()? else { return Ok(()) };
        let Found::State(state) = State::read(&self.room.state())? else { return Ok(()) };
        if state.status != Status::Dirty || state.boot != boot_id() {
            return Ok(());
        }
        self.env().sync()?;
        let stamp = self.room.stamp(state.generation)?;
        State { status: Status::Clean, stamp, ..state }.write(&self.room.state(), true)
    }

    /// See [`Index::refresh`].
    pub(super) fn refresh(&self) -> Result<bool> {
        let generation = self.env().generation();
        if let Found::State(state) = State::read(&self.room.state())?
            && state.generation == generation
        {
            return Ok(false);
        }
        match Index::open(self.room.dir(), &self.identity)? {
            super::Opened::Ready(index) => {
                let env = index.shared.env();
                let moved = env.generation() != generation;
                *self.env.write() = env;
                Ok(moved)
            }
            super::Opened::Missing => Err(Error::damaged("the index is gone from").at(self.room.dir())),
            super::Opened::Unusable(why) => {
                Err(Error::damaged(format!("the index cannot be used ({why}) at")).at(self.room.dir()))
            }
        }
    }
}

/// How far a generation has followed the log.
fn seq(env: &Env) -> Result<Option<u64>> {
    env.read(position).map(|at| at.map(|at| at.seq))
}

fn behind() -> Error {
    Error::new(Kind::Locked, "another process has just rebuilt the index").remedy("run the command again")
}

fn put_flags(tables: &Tables, txn: &mut RwTxn<'_>, packs: &[PackId], flags: Flags) -> Inner<()> {
    for id in packs {
        let Some(no) = pack_no(tables, txn, id)? else { continue };
        let Some(mut info) = pack(tables, txn, no)? else { continue };
        info.condemned = flags.condemned.unwrap_or(info.condemned);
        info.damaged = flags.damaged.unwrap_or(info.damaged);
        tables.packs.put(txn, &no.0.to_be_bytes(), &encode_pack(&info))?;
    }
    Ok(())
}

/// Enters a pack, or finds it; its flags are set only if it is new.
pub(super) fn enter_pack(tables: &Tables, txn: &mut RwTxn<'_>, new: &NewPack, flags: Flags) -> Inner<PackNo> {
    if let Some(no) = pack_no(tables, txn, &new.id)? {
        return Ok(no);
    }
    let no = next_pack_no(tables, txn)?;
    let footer_len = u32::try_from(new.sealed_footer.len()).map_err(|_| Error::bug("a footer of 4 GiB"))?;
    let (condemned, damaged) = (flags.condemned == Some(true), flags.damaged == Some(true));
    let info = PackInfo { no, id: new.id, kind: new.kind, size: new.size, footer_len, condemned, damaged };
    let key = no.0.to_be_bytes();
    tables.packs.put(txn, &key, &encode_pack(&info))?;
    if !new.sealed_footer.is_empty() {
        tables.footers.put(txn, &key, &new.sealed_footer)?;
    }
    tables.pack_ids.put(txn, new.id.as_bytes(), &key)?;
    Ok(no)
}

/// A number that no pack ever had in this index: a chunk must not come to lie in a pack that took over a number.
fn next_pack_no(tables: &Tables, txn: &mut RwTxn<'_>) -> Inner<PackNo> {
    let next = tables.meta.get(txn, b"next pack")?.map(super::read::decode_no).transpose()?.unwrap_or(PackNo(0));
    let after = next.0.checked_add(1).ok_or_else(|| Error::bug("2^32 packs were entered"))?;
    tables.meta.put(txn, b"next pack", &after.to_be_bytes())?;
    Ok(next)
}

fn place_bits(tables: &Tables, txn: &RwTxn<'_>, going: &HashSet<PackNo>, place: Option<&Place>) -> Inner<Option<u64>> {
    let Some(place) = place else { return Ok(None) };
    match pack_no(tables, txn, &place.pack)? {
        Some(no) if !going.contains(&no) => Ok(Some(Location::pack_bits(no, place.frame, place.slot)?)),
        _ => Ok(None),
    }
}

/// Whether another process has applied a later record already.
fn is_past(tables: &Tables, txn: &RwTxn<'_>, to: &Position) -> Inner<bool> {
    Ok(position(tables, txn)?.is_some_and(|now| now.seq > to.seq))
}

pub(super) fn put_position(tables: &Tables, txn: &mut RwTxn<'_>, to: &Position) -> Inner<()> {
    Ok(tables.meta.put(txn, b"position", &encode_position(to))?)
}
