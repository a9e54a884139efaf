//! Which chunks a pool's tenants have delivered: what one may refer to, be told it has, and fetch. Derived from its
//! snapshots, so it may be absent; then it is derived anew ([`Index::ownership`] tells).

use std::ops::Bound;

use super::Index;
use super::env::{Fault, Inner, Tables};
use crate::error::Result;
use crate::id::ChunkId;

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

impl Index {
    /// What a tenant owns; none if that must be derived first.
    pub fn ownership(&self, tenant: u32) -> Result<Option<Ownership>> {
        self.shared.env().read(|tables, txn| match tables.owners.get(txn, &tenant.to_be_bytes())? {
            None => Ok(None),
            Some(record) => decode(record).map(Some),
        })
    }

    /// Whether the tenant owns each of `chunks`, which are ids under its own key; in their order.
    pub fn owns(&self, tenant: u32, chunks: &[ChunkId]) -> Result<Vec<bool>> {
        self.shared.env().read(|tables, txn| {
            let mut found = Vec::with_capacity(chunks.len());
            for chunk in chunks {
                found.push(tables.owned.get(txn, &key(tenant, chunk))?.is_some());
            }
            Ok(found)
        })
    }

    /// Notes that the tenant owns these chunks of these lengths. Safe to repeat.
    pub fn own(&self, tenant: u32, chunks: &[(ChunkId, u32)]) -> Result<()> {
        let mut chunks = chunks.to_vec();
        chunks.sort_unstable();
        chunks.dedup_by_key(|(id, _)| *id);
        // The first also for none: from then on what is owned is known.
        let first = chunks.len().min(BATCH);
        self.own_batch(tenant, &chunks[..first])?;
        chunks[first..].chunks(BATCH).try_for_each(|batch| self.own_batch(tenant, batch))
    }

    fn own_batch(&self, tenant: u32, chunks: &[(ChunkId, u32)]) -> Result<()> {
        self.shared.write(&mut |tables, txn| {
            let mut sum = match tables.owners.get(txn, &tenant.to_be_bytes())? {
                None => Ownership::default(),
                Some(record) => decode(record)?,
            };
            for (chunk, len) in chunks {
                if tables.owned.get_or_put(txn, &key(tenant, chunk), &[])?.is_none() {
                    sum.chunks += 1;
                    sum.bytes += u64::from(*len);
                }
            }
            let record = [sum.chunks.to_le_bytes(), sum.bytes.to_le_bytes()].concat();
            Ok(tables.owners.put(txn, &tenant.to_be_bytes(), &record)?)
        })
    }

    /// Whether everything below the tenant's tree or node `chunk` was there once. It still is while no pack is damaged or
    /// condemned: with the first that goes, all this is forgotten.
    pub fn is_complete(&self, tenant: u32, chunk: &ChunkId) -> Result<bool> {
        self.shared.env().read(|tables, txn| Ok(tables.owned.get(txn, &key(tenant, chunk))? == Some(COMPLETE)))
    }

    /// Notes that everything below these trees and nodes, which the tenant owns, is there.
    pub fn complete(&self, tenant: u32, chunks: &[ChunkId]) -> Result<()> {
        for batch in chunks.chunks(BATCH) {
            self.shared.write(&mut |tables, txn| {
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

fn decode(record: &[u8]) -> Inner<Ownership> {
    let number = |at: usize| record.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
    match (number(0), number(8), record.len()) {
        (Some(chunks), Some(bytes), 16) => Ok(Ownership { chunks, bytes }),
        _ => Err(Fault::Corrupt("a tenant's record has another length")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{WHO, chunk};
    use super::*;

    #[test]
    fn tenants_own_apart() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::create(dir.path(), &WHO).unwrap();
        assert_eq!(index.ownership(1).unwrap(), None, "it is to be derived");
        index.own(1, &[]).unwrap();
        assert_eq!(index.ownership(1).unwrap(), Some(Ownership::default()));
        index.own(1, &[(chunk(1), 100), (chunk(2), 50), (chunk(1), 100)]).unwrap();
        index.own(1, &[(chunk(2), 50), (chunk(3), 7)]).unwrap();
        index.own(2, &[(chunk(1), 100)]).unwrap();
        assert_eq!(index.ownership(1).unwrap(), Some(Ownership { chunks: 3, bytes: 157 }));
        let asked = [chunk(1), chunk(2), chunk(4)];
        assert_eq!(index.owns(1, &asked).unwrap(), [true, true, false]);
        assert_eq!(index.owns(2, &asked).unwrap(), [true, false, false]);
        assert!(!index.is_complete(1, &chunk(1)).unwrap());
        index.complete(1, &[chunk(1), chunk(4)]).unwrap();
        let complete = |tenant, n| index.is_complete(tenant, &chunk(n)).unwrap();
        assert!(complete(1, 1) && !complete(1, 2) && !complete(2, 1));
        assert_eq!(index.owns(1, &asked).unwrap(), [true, true, false], "what is not owned does not become so");
        index.own(1, &[(chunk(1), 100)]).unwrap();
        assert!(complete(1, 1));
        index.disown(1).unwrap();
        assert!(!complete(1, 1));
        assert_eq!((index.ownership(1).unwrap(), index.owns(1, &asked).unwrap()), (None, vec![false; 3]));
        assert_eq!(index.ownership(2).unwrap(), Some(Ownership { chunks: 1, bytes: 100 }));
    }
}
