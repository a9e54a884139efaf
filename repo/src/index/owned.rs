//! Which chunks a pool's tenants have delivered: what one may refer to, be told it has, and fetch. Derived from its
//! snapshots, so it may be absent; then it is derived anew ([`Index::ownership`] tells).

use std::ops::Bound;

use super::Index;
use super::env::{Fault, Inner, Tables};
use crate::error::Result;
use crate::id::{ChunkId, random_bytes};

/// Entries changed in one transaction: LMDB keeps its changed pages in memory.
const BATCH: usize = 100_000;
/// The tenant's number and this much of the chunk's id under the tenant's own id key: nobody who does not hold that key can
/// aim at another's.
const KEY: usize = 4 + 24;

/// The value of a tree of which everything below is there, too.
const COMPLETE: &[u8] = &[1];

/// What a tenant owns in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ownership {
    /// Chunks.
    pub chunks: u64,
    /// Their plaintext bytes.
    pub bytes: u64,
}

/// What is known of what a tenant owns.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    /// Nothing: it is to be derived.
    No,
    /// It is being derived, by whoever drew this number; what there is so far.
    Deriving(u64, Ownership),
    /// All of it.
    All(Ownership),
}

impl Index {
    /// What a tenant owns; none if that must be derived first.
    pub fn ownership(&self, tenant: u32) -> Result<Option<Ownership>> {
        self.shared.env().read(|tables, txn| match known(tables, txn, tenant)? {
            Known::All(sum) => Ok(Some(sum)),
            _ => Ok(None),
        })
    }

    /// Whether the tenant owns each of `chunks`, which are ids under its own key; in their order. None if that must be
    /// derived first.
    pub fn owns(&self, tenant: u32, chunks: &[ChunkId]) -> Result<Option<Vec<bool>>> {
        self.shared.env().read(|tables, txn| {
            let Known::All(_) = known(tables, txn, tenant)? else { return Ok(None) };
            let mut found = Vec::with_capacity(chunks.len());
            for chunk in chunks {
                found.push(tables.owned.get(txn, &key(tenant, chunk))?.is_some());
            }
            Ok(Some(found))
        })
    }

    /// Notes that the tenant owns these chunks of these lengths. Safe to repeat. False if what it owned before must be
    /// derived first: then nothing holds of what was noted.
    pub fn own(&self, tenant: u32, chunks: &[(ChunkId, u32)]) -> Result<bool> {
        self.in_batches(tenant, chunks, &|known| match known {
            Known::All(_) => true,
            Known::No | Known::Deriving(..) => false,
        })
    }

    /// Begins to derive what the tenant owns: forgets what there is, and gives the number that belongs to this derivation.
    pub fn begin_deriving(&self, tenant: u32) -> Result<u64> {
        self.disown(tenant)?;
        let number = u64::from_le_bytes(random_bytes());
        self.shared
            .write(&mut |tables, txn| put(tables, txn, tenant, Known::Deriving(number, Ownership::default())))?;
        Ok(number)
    }

    /// As [`Index::own`], of what was derived by the derivation `number`. False if that holds no more: it is to be begun
    /// again.
    pub fn own_derived(&self, tenant: u32, number: u64, chunks: &[(ChunkId, u32)]) -> Result<bool> {
        self.in_batches(tenant, chunks, &|known| matches!(known, Known::Deriving(by, _) if by == number))
    }

    /// Ends the derivation: from here on what the tenant owns is known. False if it holds no more.
    pub fn end_deriving(&self, tenant: u32, number: u64) -> Result<bool> {
        let mut done = false;
        self.shared.write(&mut |tables, txn| {
            let Known::Deriving(by, sum) = known(tables, txn, tenant)? else { return Ok(()) };
            done = by == number;
            if done { put(tables, txn, tenant, Known::All(sum)) } else { Ok(()) }
        })?;
        Ok(done)
    }

    fn in_batches(&self, tenant: u32, chunks: &[(ChunkId, u32)], may: &dyn Fn(Known) -> bool) -> Result<bool> {
        let mut chunks = chunks.to_vec();
        chunks.sort_unstable();
        chunks.dedup_by_key(|(id, _)| *id);
        for batch in chunks.chunks(BATCH) {
            if !self.own_batch(tenant, batch, may)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn own_batch(&self, tenant: u32, chunks: &[(ChunkId, u32)], may: &dyn Fn(Known) -> bool) -> Result<bool> {
        let mut done = false;
        self.shared.write(&mut |tables, txn| {
            let before = known(tables, txn, tenant)?;
            done = may(before);
            let (Known::Deriving(_, mut sum) | Known::All(mut sum)) = before else { return Ok(()) };
            if !done {
                return Ok(());
            }
            for (chunk, len) in chunks {
                if tables.owned.get_or_put(txn, &key(tenant, chunk), &[])?.is_none() {
                    sum.chunks += 1;
                    sum.bytes += u64::from(*len);
                }
            }
            let after = match before {
                Known::Deriving(number, _) => Known::Deriving(number, sum),
                _ => Known::All(sum),
            };
            put(tables, txn, tenant, after)
        })?;
        Ok(done)
    }

    /// Whether everything below the tenant's tree or node `chunk` was there once. It still is while no pack is damaged or
    /// condemned: with the first that goes, all this is forgotten.
    pub fn is_complete(&self, tenant: u32, chunk: &ChunkId) -> Result<bool> {
        self.shared.env().read(|tables, txn| {
            let Known::All(_) = known(tables, txn, tenant)? else { return Ok(false) };
            Ok(tables.owned.get(txn, &key(tenant, chunk))? == Some(COMPLETE))
        })
    }

    /// Notes that everything below these trees and nodes, which the tenant owns, is there.
    pub fn complete(&self, tenant: u32, chunks: &[ChunkId]) -> Result<()> {
        for batch in chunks.chunks(BATCH) {
            self.shared.write(&mut |tables, txn| {
                let Known::All(_) = known(tables, txn, tenant)? else { return Ok(()) };
                for chunk in batch {
                    if tables.owned.get(txn, &key(tenant, chunk))?.is_some() {
                        tables.owned.put(txn, &key(tenant, chunk), COMPLETE)?;
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// What every tenant owns is to be derived anew: packs have gone, and with them perhaps what only others still need.
    pub fn doubt_ownership(&self) -> Result<()> {
        let any = self.shared.env().read(|tables, txn| Ok(!tables.owners.is_empty(txn)?))?;
        if any {
            self.shared.write(&mut |tables, txn| Ok(tables.owners.clear(txn)?))?;
        }
        Ok(())
    }

    /// Forgets what the tenant owns: it is to be derived anew.
    pub fn disown(&self, tenant: u32) -> Result<()> {
        self.shared.write(&mut |tables, txn| {
            tables.owners.delete(txn, &tenant.to_be_bytes())?;
            Ok(())
        })?;
        while self.shared.write(&mut |tables, txn| remove_some(tables, txn, tenant))? {}
        Ok(())
    }
}

/// Removes a batch of what the tenant owns; whether there may be more.
fn remove_some(tables: &Tables, txn: &mut heed::RwTxn<'_>, tenant: u32) -> Inner<bool> {
    let (from, to) = (key(tenant, &ChunkId([0; 32])), key(tenant, &ChunkId([0xff; 32])));
    let range = (Bound::Included(&from[..]), Bound::Included(&to[..]));
    let mut keys = Vec::new();
    for entry in tables.owned.range(txn, &range)?.take(BATCH) {
        keys.push(
            <[u8; KEY]>::try_from(entry?.0).map_err(|_| Fault::Corrupt("a key of what is owned has another length"))?,
        );
    }
    for key in &keys {
        tables.owned.delete(txn, key)?;
    }
    Ok(keys.len() == BATCH)
}

fn key(tenant: u32, chunk: &ChunkId) -> [u8; KEY] {
    let mut key = [0; KEY];
    key[..4].copy_from_slice(&tenant.to_be_bytes());
    key[4..].copy_from_slice(&chunk.as_bytes()[..KEY - 4]);
    key
}

/// What is known of what the tenant owns: its chunks and bytes, and behind them the derivation that is under way.
fn known(tables: &Tables, txn: &heed::RoTxn<'_>, tenant: u32) -> Inner<Known> {
    let Some(record) = tables.owners.get(txn, &tenant.to_be_bytes())? else { return Ok(Known::No) };
    let number = |at: usize| record.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
    match (number(0), number(8), number(16), record.len()) {
        (Some(chunks), Some(bytes), None, 16) => Ok(Known::All(Ownership { chunks, bytes })),
        (Some(chunks), Some(bytes), Some(by), 24) => Ok(Known::Deriving(by, Ownership { chunks, bytes })),
        _ => Err(Fault::Corrupt("a tenant's record has another length")),
    }
}

fn put(tables: &Tables, txn: &mut heed::RwTxn<'_>, tenant: u32, known: Known) -> Inner<()> {
    let mut record = Vec::with_capacity(24);
    let (Known::Deriving(_, sum) | Known::All(sum)) = known else { return Ok(()) };
    record.extend(sum.chunks.to_le_bytes());
    record.extend(sum.bytes.to_le_bytes());
    if let Known::Deriving(number, _) = known {
        record.extend(number.to_le_bytes());
    }
    Ok(tables.owners.put(txn, &tenant.to_be_bytes(), &record)?)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{WHO, chunk};
    use super::*;

    fn derive(index: &Index, tenant: u32) {
        let number = index.begin_deriving(tenant).unwrap();
        assert!(index.end_deriving(tenant, number).unwrap());
    }

    #[test]
    fn tenants_own_apart() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::create(dir.path(), &WHO).unwrap();
        assert_eq!(index.ownership(1).unwrap(), None, "it is to be derived");
        assert!(!index.own(1, &[(chunk(1), 100)]).unwrap());
        derive(&index, 1);
        derive(&index, 2);
        assert_eq!(index.ownership(1).unwrap(), Some(Ownership::default()));
        assert!(index.own(1, &[(chunk(1), 100), (chunk(2), 50), (chunk(1), 100)]).unwrap());
        assert!(index.own(1, &[(chunk(2), 50), (chunk(3), 7)]).unwrap());
        assert!(index.own(2, &[(chunk(1), 100)]).unwrap());
        assert_eq!(index.ownership(1).unwrap(), Some(Ownership { chunks: 3, bytes: 157 }));
        let asked = [chunk(1), chunk(2), chunk(4)];
        assert_eq!(index.owns(1, &asked).unwrap(), Some(vec![true, true, false]));
        assert_eq!(index.owns(2, &asked).unwrap(), Some(vec![true, false, false]));
        assert!(!index.is_complete(1, &chunk(1)).unwrap());
        index.complete(1, &[chunk(1), chunk(4)]).unwrap();
        let complete = |tenant, n| index.is_complete(tenant, &chunk(n)).unwrap();
        assert!(complete(1, 1) && !complete(1, 2) && !complete(2, 1));
        let owned = index.owns(1, &asked).unwrap();
        assert_eq!(owned, Some(vec![true, true, false]), "what is not owned does not become so");
        index.own(1, &[(chunk(1), 100)]).unwrap();
        assert!(complete(1, 1));
        index.disown(1).unwrap();
        assert!(!complete(1, 1));
        assert_eq!((index.ownership(1).unwrap(), index.owns(1, &asked).unwrap()), (None, None));
        assert_eq!(index.ownership(2).unwrap(), Some(Ownership { chunks: 1, bytes: 100 }));
    }

    #[test]
    fn what_is_being_derived_is_not_known_until_all_of_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::create(dir.path(), &WHO).unwrap();
        let first = index.begin_deriving(1).unwrap();
        assert!(index.own_derived(1, first, &[(chunk(1), 100)]).unwrap());
        // Whoever was killed here has left a part: nobody takes it for all.
        assert_eq!((index.ownership(1).unwrap(), index.owns(1, &[chunk(1)]).unwrap()), (None, None));
        assert!(!index.own(1, &[(chunk(2), 50)]).unwrap());
        // Another begins anew; what the first goes on to say counts no more.
        let second = index.begin_deriving(1).unwrap();
        assert!(!index.own_derived(1, first, &[(chunk(1), 100)]).unwrap());
        assert!(!index.end_deriving(1, first).unwrap());
        assert!(index.own_derived(1, second, &[(chunk(3), 7)]).unwrap());
        // A prune comes between.
        index.doubt_ownership().unwrap();
        assert!(!index.own_derived(1, second, &[(chunk(4), 7)]).unwrap());
        assert!(!index.end_deriving(1, second).unwrap());
        assert_eq!(index.ownership(1).unwrap(), None);
        let third = index.begin_deriving(1).unwrap();
        assert!(index.own_derived(1, third, &[(chunk(3), 7)]).unwrap() && index.end_deriving(1, third).unwrap());
        assert_eq!(index.ownership(1).unwrap(), Some(Ownership { chunks: 1, bytes: 7 }));
        // Between the batches of what is owned newly: none of it counts.
        index.doubt_ownership().unwrap();
        assert!(!index.own(1, &[(chunk(5), 7)]).unwrap());
        assert_eq!(index.owns(1, &[chunk(3)]).unwrap(), None);
    }
}
