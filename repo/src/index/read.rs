//! Questions to the index.

use std::collections::HashMap;
use std::ops::Bound;

use super::env::{Env, Fault, Inner, Read, Tables};
use super::filter::Filter;
use super::{Index, Location, PackInfo, PackNo};
use crate::crypto::keys::FrameKind;
use crate::error::Result;
use crate::id::{ChunkId, LogHash, PackId, SnapshotId};
use crate::log::Position;

/// Entries read in one transaction, so that none is long.
const SLICE: usize = 32 * 1024;
/// The length of a pack's record.
const PACK_RECORD: usize = 46;

impl Index {
    /// The last log record that the index reflects.
    pub fn position(&self) -> Result<Option<Position>> {
        self.shared.env().read(position)
    }

    /// Where a chunk lies, in whatever state its pack is.
    pub fn lookup(&self, chunk: &ChunkId) -> Result<Option<Location>> {
        self.shared.env().read(|tables, txn| location(tables, txn, chunk))
    }

    /// Where a chunk lies, with its pack, both as of one moment: what a reader needs that does not want to be confused
    /// by a rebuild between two questions. `None` also if the index points to a pack it does not have.
    pub fn find(&self, chunk: &ChunkId) -> Result<Option<(Location, PackInfo)>> {
        self.shared.env().read(|tables, txn| {
            let Some(at) = location(tables, txn, chunk)? else { return Ok(None) };
            Ok(pack(tables, txn, at.pack)?.map(|info| (at, info)))
        })
    }

    /// [`Index::lookup`] for many; results are in the order of `chunks`.
    pub fn lookup_many(&self, chunks: &[ChunkId]) -> Result<Vec<Option<Location>>> {
        let env = self.shared.env();
        let mut found = vec![None; chunks.len()];
        for slice in sorted(chunks).chunks(SLICE) {
            env.read(|tables, txn| {
                for &i in slice {
                    found[i] = location(tables, txn, &chunks[i])?;
                }
                Ok(())
            })?;
        }
        Ok(found)
    }

    /// Where chunks lie that a new backup may rely on: in a pack that is known, neither condemned nor damaged. Asks the
    /// filter first, if there is one.
    pub fn lookup_usable(&self, chunks: &[ChunkId]) -> Result<Vec<Option<Location>>> {
        let env = self.shared.env();
        let mut found = vec![None; chunks.len()];
        let mut asked = sorted(chunks);
        if let Some(filter) = &*self.shared.filter.read() {
            asked.retain(|&i| filter.may_hold(&chunks[i]));
        }
        let mut usable = HashMap::new();
        for slice in asked.chunks(SLICE) {
            env.read(|tables, txn| {
                for &i in slice {
                    let Some(at) = location(tables, txn, &chunks[i])? else { continue };
                    if is_usable(tables, txn, &mut usable, at.pack)? {
                        found[i] = Some(at);
                    }
                }
                Ok(())
            })?;
        }
        Ok(found)
    }

    /// A pack by its number.
    pub fn pack(&self, no: PackNo) -> Result<Option<PackInfo>> {
        self.shared.env().read(|tables, txn| pack(tables, txn, no))
    }

    /// A pack by its name.
    pub fn pack_by_id(&self, id: &PackId) -> Result<Option<PackInfo>> {
        self.shared.env().read(|tables, txn| match pack_no(tables, txn, id)? {
            Some(no) => pack(tables, txn, no),
            None => Ok(None),
        })
    }

    /// Shows every pack, by number. The index may change meanwhile.
    pub fn packs(&self, visit: &mut dyn FnMut(&PackInfo) -> Result<()>) -> Result<()> {
        let env = self.shared.env();
        let mut from = Some(0u32);
        while let Some(first) = from {
            let slice = env.read(|tables, txn| {
                let mut slice: Vec<PackInfo> = Vec::new();
                let key = first.to_be_bytes();
                for entry in tables.packs.range(txn, &(Bound::Included(&key[..]), Bound::Unbounded))?.take(1024) {
                    let (no, record) = entry?;
                    let no = decode_no(no)?;
                    if no.0 < first || slice.last().is_some_and(|last| last.no >= no) {
                        return Err(Fault::Corrupt("packs are out of order"));
                    }
                    slice.push(decode_pack(no, record)?);
                }
                Ok(slice)
            })?;
            from = slice.last().and_then(|p| p.no.0.checked_add(1));
            slice.iter().try_for_each(&mut *visit)?;
        }
        Ok(())
    }

    /// Shows every chunk with its place, in order of their ids. The index may change meanwhile.
    pub fn chunks(&self, visit: &mut dyn FnMut(&ChunkId, Location) -> Result<()>) -> Result<()> {
        let env = self.shared.env();
        let mut after = None;
        loop {
            let slice = chunks_after(&env, after)?;
            let Some((last, _)) = slice.last() else { return Ok(()) };
            after = Some(*last);
            slice.iter().try_for_each(|(chunk, at)| visit(chunk, *at))?;
        }
    }

    /// Number of chunks and of packs.
    pub fn counts(&self) -> Result<(u64, u64)> {
        self.shared.env().read(|tables, txn| Ok((tables.chunks.len(txn)?, tables.packs.len(txn)?)))
    }

    /// A pack's footer, sealed, as it stands in the pack. `None` if the pack is unknown or its footer could not be read.
    pub fn footer(&self, no: PackNo) -> Result<Option<Vec<u8>>> {
        self.shared.env().read(|tables, txn| Ok(tables.footers.get(txn, &no.0.to_be_bytes())?.map(<[u8]>::to_vec)))
    }

    /// A snapshot's summary, as it was put.
    pub fn summary(&self, id: &SnapshotId) -> Result<Option<Vec<u8>>> {
        let found =
            self.shared.env().read(|tables, txn| Ok(tables.snapshots.get(txn, id.as_bytes())?.map(<[u8]>::to_vec)))?;
        Ok(found.filter(|summary| !summary.is_empty()))
    }

    /// Whether there was such a snapshot, which was forgotten and swept; as far as this index remembers.
    pub fn is_buried(&self, id: &SnapshotId) -> Result<bool> {
        self.shared
            .env()
            .read(|tables, txn| Ok(tables.snapshots.get(txn, id.as_bytes())?.is_some_and(<[u8]>::is_empty)))
    }

    /// Loads the filter for new chunks: from here on most of them are told from memory in [`Index::lookup_usable`].
    /// `expected` more chunks are planned for, as far as `cap` bytes allow. Reads the whole chunk table once. A chunk that
    /// another process enters later may be taken for new, and stored twice.
    pub fn load_filter(&self, expected: u64, cap: usize) -> Result<()> {
        // Nothing is entered by this process meanwhile.
        let _turn = self.shared.writer.lock();
        let (chunks, _) = self.counts()?;
        let filter = Filter::new(chunks.saturating_add(expected), cap);
        self.chunks(&mut |chunk, _| {
            filter.insert(chunk);
            Ok(())
        })?;
        *self.shared.filter.write() = Some(filter);
        Ok(())
    }
}

/// The next entries of the chunk table.
pub(super) fn chunks_after(env: &Env, after: Option<ChunkId>) -> Result<Vec<(ChunkId, Location)>> {
    env.read(|tables, txn| {
        let from = after.as_ref().map_or(Bound::Unbounded, |c| Bound::Excluded(&c.0[..]));
        let mut slice = Vec::with_capacity(SLICE);
        for entry in tables.chunks.range(txn, &(from, Bound::Unbounded))?.take(SLICE) {
            let (key, value) = entry?;
            let key = key.try_into().map_err(|_| Fault::Corrupt("a chunk's key is of another length"))?;
            let before = slice.last().map(|(chunk, _)| *chunk).or(after);
            if before.is_some_and(|before| before.0 >= key) {
                return Err(Fault::Corrupt("chunks are out of order"));
            }
            slice.push((ChunkId(key), decode_location(value)?));
        }
        Ok(slice)
    })
}

/// The order in which `chunks` are best asked for.
fn sorted(chunks: &[ChunkId]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..chunks.len()).collect();
    order.sort_unstable_by(|a, b| chunks[*a].cmp(&chunks[*b]));
    order
}

pub(super) fn location(tables: &Tables, txn: &Read<'_>, chunk: &ChunkId) -> Inner<Option<Location>> {
    tables.chunks.get(txn, chunk.as_bytes())?.map(decode_location).transpose()
}

pub(super) fn decode_location(value: &[u8]) -> Inner<Location> {
    let bits = value.try_into().map_err(|_| Fault::Corrupt("a chunk's value is of another length"))?;
    Ok(Location::from_bits(u64::from_le_bytes(bits)))
}

/// Whether a pack is known and usable; `known` remembers for the length of a call.
pub(super) fn is_usable(tables: &Tables, txn: &Read<'_>, known: &mut HashMap<PackNo, bool>, no: PackNo) -> Inner<bool> {
    if let Some(usable) = known.get(&no) {
        return Ok(*usable);
    }
    let usable = pack(tables, txn, no)?.is_some_and(|p| p.usable());
    known.insert(no, usable);
    Ok(usable)
}

pub(super) fn pack(tables: &Tables, txn: &Read<'_>, no: PackNo) -> Inner<Option<PackInfo>> {
    tables.packs.get(txn, &no.0.to_be_bytes())?.map(|record| decode_pack(no, record)).transpose()
}

pub(super) fn pack_no(tables: &Tables, txn: &Read<'_>, id: &PackId) -> Inner<Option<PackNo>> {
    tables.pack_ids.get(txn, id.as_bytes())?.map(decode_no).transpose()
}

pub(super) fn decode_no(bytes: &[u8]) -> Inner<PackNo> {
    let bytes = bytes.try_into().map_err(|_| Fault::Corrupt("a pack's number is of another length"))?;
    Ok(PackNo(u32::from_be_bytes(bytes)))
}

pub(super) fn position(tables: &Tables, txn: &Read<'_>) -> Inner<Option<Position>> {
    let Some(bytes) = tables.meta.get(txn, b"position")? else { return Ok(None) };
    let bytes: &[u8; 40] = bytes.try_into().map_err(|_| Fault::Corrupt("the position is of another length"))?;
    let (seq, hash) = bytes.split_at(8);
    match (seq.try_into(), hash.try_into()) {
        (Ok(seq), Ok(hash)) => Ok(Some(Position { seq: u64::from_le_bytes(seq), hash: LogHash(hash) })),
        _ => Err(Fault::Corrupt("the position is of another length")),
    }
}

pub(super) fn encode_position(position: &Position) -> [u8; 40] {
    let mut out = [0; 40];
    out[..8].copy_from_slice(&position.seq.to_le_bytes());
    out[8..].copy_from_slice(position.hash.as_bytes());
    out
}

pub(super) fn encode_pack(pack: &PackInfo) -> [u8; PACK_RECORD] {
    let mut out = [0; PACK_RECORD];
    out[..32].copy_from_slice(pack.id.as_bytes());
    out[32] = pack.kind as u8;
    out[33] = u8::from(pack.condemned) | u8::from(pack.damaged) << 1;
    out[34..42].copy_from_slice(&pack.size.to_le_bytes());
    out[42..].copy_from_slice(&pack.footer_len.to_le_bytes());
    out
}

fn decode_pack(no: PackNo, record: &[u8]) -> Inner<PackInfo> {
    const BAD: Fault = Fault::Corrupt("a pack's record is malformed");
    let record: &[u8; PACK_RECORD] = record.try_into().map_err(|_| BAD)?;
    let kind = match record[32] {
        0 => FrameKind::Data,
        1 => FrameKind::Tree,
        _ => return Err(BAD),
    };
    Ok(PackInfo {
        no,
        id: PackId(record[..32].try_into().map_err(|_| BAD)?),
        kind,
        size: u64::from_le_bytes(record[34..42].try_into().map_err(|_| BAD)?),
        footer_len: u32::from_le_bytes(record[42..].try_into().map_err(|_| BAD)?),
        condemned: record[33] & 1 != 0,
        damaged: record[33] & 2 != 0,
    })
}
