//! The index follows the log: records past the index's stamp are applied in order, always all of them.

use std::collections::{HashMap, HashSet};

use crate::backend::{Backend, Object as Stored};
use crate::crypto::keys::{Keys, Object};
use crate::error::{Kind, Result};
use crate::format::footer::{Footer, RollupEntry, decode_rollup};
use crate::format::record::{Entry, Load, PackRef, Position, Record};
use crate::id::{ChunkId, ContentHash, PackId};
use crate::index::{Flags, Index, NewPack, PackInfo, Place, Reassign};
use crate::limits::MAX_FOOTER;
use crate::log::{Log, Replay};
use crate::pack::read::{open_footer, sealed_footer};

/// A roll-up's bound: it may pass its size by the last pack's footer.
pub const MAX_ROLLUP: usize = 4 * MAX_FOOTER;

/// Rebuilds by others that one following puts up with.
const TRIES: u32 = 16;
/// After so many records the stamp moves, whether they changed the index or not.
const BEHIND: u64 = 64;

/// Whether the index could follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Followed {
    /// It stands where the log stands.
    Yes,
    /// The log was compacted past the index, or is another's: rebuild.
    No,
}

/// The name and number of a roll-up's bytes in the backend, opened.
///
/// # Errors
/// `Damaged` naming the file when it does not authenticate, `NotFound` when it is absent, `NewerFormat`.
pub fn read_rollup(backend: &dyn Backend, keys: &Keys, number: u64) -> Result<Vec<RollupEntry>> {
    let object = Stored::Footers(number);
    let sealed = backend.read_all(&object, MAX_ROLLUP)?;
    let opened = keys.open(Object::Rollup, &number.to_le_bytes(), &sealed).and_then(|plain| decode_rollup(&plain));
    opened.map_err(|e| e.at(backend.path(&object)))
}

/// What the index needs of a pack.
pub fn new_pack(keys: &Keys, id: PackId, size: u64, sealed_footer: Vec<u8>, footer: &Footer) -> NewPack {
    NewPack { id, kind: footer.kind, size, sealed_footer, chunks: places(keys, footer).collect() }
}

/// Each chunk with its frame and slot.
fn places<'a>(keys: &'a Keys, footer: &'a Footer) -> impl Iterator<Item = (ChunkId, u32, u16)> + 'a {
    footer.frames.iter().enumerate().flat_map(move |(i, frame)| {
        let of_frame = footer.chunks[frame.chunks()].iter().enumerate();
        of_frame.map(move |(slot, chunk)| (keys.chunk_id(&chunk.h), i as u32, slot as u16))
    })
}

/// The chunks of packs that were swept or are damaged, and where else they lie.
///
/// The index of the machine that pruned has let the packs go before the record is written, so this finds nothing to do
/// there. Another machine's index may hold the copy in the swept pack of a chunk that is stored twice, and must
/// find the copy that stayed.
struct Elsewhere<'a> {
    keys: &'a Keys,
    index: &'a Index,
    places: HashMap<ChunkId, Place>,
}

impl<'a> Elsewhere<'a> {
    /// `fits`: packs in which another copy is of use.
    fn new(
        keys: &'a Keys,
        index: &'a Index,
        swept: &[PackId],
        fits: impl Fn(&PackInfo) -> bool,
    ) -> Result<Elsewhere<'a>> {
        let mut found = Elsewhere { keys, index, places: HashMap::new() };
        let going: HashSet<PackId> = swept.iter().copied().collect();
        let mut orphans = HashSet::new();
        for id in swept {
            for chunk in found.chunks(id)?.unwrap_or_default() {
                if index.find(&chunk)?.is_some_and(|(_, info)| going.contains(&info.id)) {
                    orphans.insert(chunk);
                }
            }
        }
        if orphans.is_empty() {
            return Ok(found);
        }
        let mut stays = Vec::new();
        index.packs(&mut |info| {
            if !going.contains(&info.id) && fits(info) {
                stays.push((info.id, info.usable()));
            }
            Ok(())
        })?;
        // Usable packs last: their places win.
        stays.sort_by_key(|(_, usable)| *usable);
        for (id, _) in stays {
            let Some(footer) = found.footer(&id)? else { continue };
            for (chunk, frame, slot) in places(keys, &footer) {
                if orphans.contains(&chunk) {
                    found.places.insert(chunk, Place { pack: id, frame, slot });
                }
            }
        }
        Ok(found)
    }

    fn footer(&self, id: &PackId) -> Result<Option<Footer>> {
        let Some(info) = self.index.pack_by_id(id)? else { return Ok(None) };
        let Some(sealed) = self.index.footer(info.no)? else { return Ok(None) };
        Ok(open_footer(self.keys, &sealed, info.size).ok())
    }
}

impl Reassign for Elsewhere<'_> {
    fn chunks(&self, pack: &PackId) -> Result<Option<Vec<ChunkId>>> {
        let footer = self.footer(pack)?;
        Ok(footer.map(|footer| footer.chunks.iter().map(|c| self.keys.chunk_id(&c.h)).collect()))
    }

    fn place(&self, chunk: &ChunkId) -> Option<Place> {
        self.places.get(chunk).copied()
    }
}

/// The packs a record introduces: from its roll-up, or from the packs themselves where that is gone because a prune
/// removed some of them, or is damaged. Packs that are gone as well are left out: a later record says so.
///
/// A bad place on the disk is damage like any other: what an index that is built anew puts up with must not keep one from
/// following.
fn introduced(backend: &dyn Backend, keys: &Keys, rollup: u64, refs: &[PackRef]) -> Result<Vec<RollupEntry>> {
    match read_rollup(backend, keys, rollup) {
        Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Damaged) || e.errno() == Some(libc::EIO) => {}
        other => return other,
    }
    let mut entries = Vec::new();
    for pack in refs {
        match sealed_footer(backend, &pack.id) {
            Ok((sealed_footer, size)) => entries.push(RollupEntry { id: pack.id, size, sealed_footer }),
            Err(e) if e.kind() == Kind::NotFound => {}
            Err(e) if e.errno() == Some(libc::EIO) => return Err(e.with_kind(Kind::Damaged)),
            Err(e) => return Err(e),
        }
    }
    Ok(entries)
}

/// The packs that these loads name. Those of a roll-up that is gone are left out: they are gone as well, or travel otherwise.
///
/// # Errors
/// What the backend gives.
pub fn loaded(backend: &dyn Backend, keys: &Keys, loads: &[Load]) -> Result<Vec<PackId>> {
    let mut packs = Vec::new();
    for load in loads {
        match read_rollup(backend, keys, load.rollup) {
            Ok(entries) => {
                let some = entries.iter().skip(load.first as usize).take(load.count as usize);
                packs.extend(some.map(|entry| entry.id));
            }
            Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Damaged) || e.errno() == Some(libc::EIO) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(packs)
}

/// Applies to the index what the log says past its stamp. Returns the hashes of the chunks that came with new packs.
///
/// # Errors
/// What log, backend and index give.
pub fn follow(backend: &dyn Backend, keys: &Keys, log: &Log, index: &Index) -> Result<(Followed, Vec<ContentHash>)> {
    let mut tries = 0;
    loop {
        index.refresh()?;
        match replay(backend, keys, log, index) {
            // Another process has rebuilt the index meanwhile: what that one lacks is applied to it.
            Err(e) if e.kind() == Kind::Locked && tries < TRIES => tries += 1,
            done => return done,
        }
    }
}

fn replay(backend: &dyn Backend, keys: &Keys, log: &Log, index: &Index) -> Result<(Followed, Vec<ContentHash>)> {
    let mut added = Vec::new();
    let Some(from) = index.position()? else { return Ok((Followed::No, added)) };
    let (mut visited, mut last) = (0, from);
    let mut visit = |entry: &Entry, at: Position| {
        (visited, last) = (visited + 1, at);
        apply(backend, keys, index, at, &entry.record, &mut added)
    };
    let replayed = log.replay(from, &mut visit)?;
    if replayed == Replay::Done && visited >= BEHIND {
        // Not further behind, or the log is compacted past the stamp and all must be built anew.
        index.set_position(last)?;
    }
    Ok((if replayed == Replay::Done { Followed::Yes } else { Followed::No }, added))
}

fn damaged(index: &Index) -> Result<Vec<PackId>> {
    let mut bad = Vec::new();
    index.packs(&mut |info| {
        if info.damaged {
            bad.push(info.id);
        }
        Ok(())
    })?;
    Ok(bad)
}

fn apply(
    backend: &dyn Backend,
    keys: &Keys,
    index: &Index,
    at: Position,
    record: &Record,
    added: &mut Vec<ContentHash>,
) -> Result<()> {
    let flags = |condemned, damaged| Flags { condemned, damaged };
    match record {
        Record::PacksAdded { rollup, packs: refs, .. } => {
            let (mut packs, named) = (Vec::new(), refs.iter().map(|pack| pack.id).collect::<HashSet<PackId>>());
            for entry in introduced(backend, keys, *rollup, refs)? {
                // On a drive a roll-up may list packs that are on another one, or come later.
                if !named.contains(&entry.id) {
                    continue;
                }
                let footer = open_footer(keys, &entry.sealed_footer, entry.size)
                    .map_err(|e| e.at(backend.path(&Stored::Pack(entry.id))))?;
                added.extend(footer.chunks.iter().map(|c| c.h));
                packs.push(new_pack(keys, entry.id, entry.size, entry.sealed_footer, &footer));
            }
            index.add_packs(&packs, at)?
        }
        Record::Condemned { packs, .. } => index.set_flags(packs, flags(Some(true), None), at)?,
        Record::Uncondemned { packs } => {
            // What was found damaged elsewhere while these were condemned is read, and counts, here.
            let bad = damaged(index)?;
            if !bad.is_empty() {
                let sound = |info: &PackInfo| !info.damaged && (!info.condemned || packs.contains(&info.id));
                index.move_chunks(&bad, at, &Elsewhere::new(keys, index, &bad, sound)?)?;
            }
            index.set_flags(packs, flags(Some(false), None), at)?
        }
        Record::Damage { packs, .. } => {
            // What is stored twice is read, and counts, where it is sound; else a spare copy would look unneeded.
            let spare = Elsewhere::new(keys, index, packs, |info| info.usable())?;
            index.move_chunks(packs, at, &spare)?;
            index.set_flags(packs, flags(None, Some(true)), at)?
        }
        Record::Healed { packs } => index.set_flags(packs, flags(None, Some(false)), at)?,
        Record::DriveLoaded { drive, loads } => index.post(drive, &loaded(backend, keys, loads)?, at)?,
        Record::DriveSet { drive, state } if !state.is_asked_for() => index.unpost(drive, at)?,
        Record::Swept { packs, snapshots } => {
            if !snapshots.is_empty() {
                index.bury(snapshots)?;
            }
            if packs.is_empty() {
                return Ok(());
            }
            index.remove_packs(packs, at, &Elsewhere::new(keys, index, packs, |_| true)?)?
        }
        // Nothing the index shows: its stamp moves with the next record that does, so that each costs no commit.
        _ => return Ok(()),
    };
    Ok(())
}
