//! Which packs are on their way on a transfer drive. Derived from the log's drives and the roll-ups they name.

use std::ops::Bound;

use heed::RwTxn;

use super::Index;
use super::env::{Inner, Tables};
use crate::error::Result;
use crate::id::{DriveId, PackId};
use crate::log::Position;

/// Entries changed in one transaction: LMDB keeps its changed pages in memory.
const BATCH: usize = 100_000;

impl Index {
    /// Notes that these packs are on the drive, and moves the position to `to`. Safe to repeat. False if the index is past `to`.
    pub fn post(&self, drive: &DriveId, packs: &[PackId], to: Position) -> Result<bool> {
        for batch in packs.chunks(BATCH) {
            self.shared.write(&mut |tables, txn| put(tables, txn, drive, batch))?;
        }
        self.set_position(to)
    }

    /// Forgets what is on the drive, and moves the position to `to`. False if the index is past `to`.
    pub fn unpost(&self, drive: &DriveId, to: Position) -> Result<bool> {
        while self.shared.write(&mut |tables, txn| remove_some(tables, txn, drive))? {}
        self.set_position(to)
    }

    /// The first of these drives that the pack is on; none if it is on none of them.
    pub fn posted<'a>(&self, drives: &'a [DriveId], pack: &PackId) -> Result<Option<&'a DriveId>> {
        if drives.is_empty() {
            return Ok(None);
        }
        self.shared.env().read(|tables, txn| {
            for drive in drives {
                if tables.posted.get(txn, &key(drive, pack))?.is_some() {
                    return Ok(Some(drive));
                }
            }
            Ok(None)
        })
    }
}

pub(super) fn put(tables: &Tables, txn: &mut RwTxn<'_>, drive: &DriveId, packs: &[PackId]) -> Inner<()> {
    for pack in packs {
        tables.posted.put(txn, &key(drive, pack), &[])?;
    }
    Ok(())
}

fn key(drive: &DriveId, pack: &PackId) -> [u8; 64] {
    let mut key = [0; 64];
    key[..32].copy_from_slice(drive.as_bytes());
    key[32..].copy_from_slice(pack.as_bytes());
    key
}

/// Removes a batch of what is on the drive; whether there may be more.
fn remove_some(tables: &Tables, txn: &mut RwTxn<'_>, drive: &DriveId) -> Inner<bool> {
    let (from, to) = (key(drive, &PackId([0; 32])), key(drive, &PackId([0xff; 32])));
    let mut some = Vec::new();
    for entry in tables.posted.range(txn, &(Bound::Included(&from[..]), Bound::Included(&to[..])))?.take(BATCH) {
        some.push(entry?.0.to_vec());
    }
    for key in &some {
        tables.posted.delete(txn, key)?;
    }
    Ok(some.len() == BATCH)
}
