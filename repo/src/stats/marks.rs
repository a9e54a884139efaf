//! Which chunks some snapshots reach: a bit for each chunk of each pack. Hashes are not kept, so memory is an eighth of a
//! byte a stored chunk, and four bytes a frame.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::format::footer::Footer;
use crate::id::{ContentHash, PackId};
use crate::index::PackInfo;
use crate::monitor::Monitor;
use crate::pack::store::PackStore;

/// One pack's part.
struct Packed {
    info: PackInfo,
    /// The first chunk of each frame.
    firsts: Arc<[u32]>,
    bits: Vec<u64>,
}

/// The chunks that were reached.
#[derive(Default)]
pub(crate) struct Marks {
    packs: BTreeMap<PackId, Packed>,
}

/// What chunks come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// How many.
    pub chunks: u64,
    /// Their bytes before compression.
    pub raw: u64,
    /// What they take in packs: their frames, shared by length with the other chunks in them.
    pub stored: u64,
}

impl Sum {
    /// This without a part of it. What is stored is shared out by length, so it may be off by a byte a frame.
    pub(crate) fn less(&self, part: &Sum) -> Sum {
        Sum {
            chunks: self.chunks.saturating_sub(part.chunks),
            raw: self.raw.saturating_sub(part.raw),
            stored: self.stored.saturating_sub(part.stored),
        }
    }
}

impl Marks {
    /// Marks a chunk; whether it was not marked before.
    pub(crate) fn chunk(&mut self, store: &PackStore, h: &ContentHash) -> Result<bool> {
        let found = store.locate(h)?;
        let (at, info) =
            found.ok_or_else(|| Error::damaged("it needs a piece of data that no pack of this repository has"))?;
        let packed = match self.packs.entry(info.id) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(new) => {
                let footer = &store.pack(&info)?.footer;
                let firsts: Vec<u32> = footer.frames.iter().map(|f| f.first).collect();
                let bits = vec![0; footer.chunks.len().div_ceil(64)];
                new.insert(Packed { info, firsts: firsts.into(), bits })
            }
        };
        let first = packed.firsts.get(at.frame as usize);
        let ordinal = first.map(|first| *first as usize + usize::from(at.slot));
        let word = ordinal.and_then(|ordinal| Some((packed.bits.get_mut(ordinal / 64)?, 1u64 << (ordinal % 64))));
        let (word, bit) = word
            .ok_or_else(|| Error::damaged("the index does not fit the packs").remedy("run `packmule rebuild-index`"))?;
        let new = *word & bit == 0;
        *word |= bit;
        Ok(new)
    }

    /// Adds what others have.
    pub(crate) fn merge(&mut self, other: &Marks) {
        for (id, packed) in &other.packs {
            let mine = self.packs.entry(*id).or_insert_with(|| Packed {
                info: packed.info,
                firsts: Arc::clone(&packed.firsts),
                bits: vec![0; packed.bits.len()],
            });
            mine.bits.iter_mut().zip(&packed.bits).for_each(|(mine, other)| *mine |= other);
        }
    }

    /// Adds them up, reading each pack's footer once.
    pub(crate) fn sum(&self, store: &PackStore, monitor: &dyn Monitor) -> Result<Sum> {
        let mut sum = Sum::default();
        for packed in self.packs.values() {
            if monitor.cancelled() {
                return Err(Error::new(Kind::Interrupted, "interrupted"));
            }
            add(&mut sum, &store.pack(&packed.info)?.footer, &packed.bits);
        }
        Ok(sum)
    }
}

fn add(sum: &mut Sum, footer: &Footer, bits: &[u64]) {
    let marked = |i: usize| bits.get(i / 64).is_some_and(|word| word >> (i % 64) & 1 != 0);
    for frame in &footer.frames {
        let mut raw = 0;
        for i in frame.chunks().filter(|i| marked(*i)) {
            sum.chunks += 1;
            raw += u64::from(footer.chunks[i].len);
        }
        sum.raw += raw;
        if raw > 0 {
            sum.stored += (u128::from(frame.stored) * u128::from(raw) / u128::from(frame.raw.max(1))) as u64;
        }
    }
}
