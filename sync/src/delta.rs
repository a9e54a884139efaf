//! What has come to a repository since a record of its log.

use std::collections::BTreeSet;

use repo::error::Result;
use repo::format::record::{Position, Record};
use repo::id::{PackId, SnapshotId};
use repo::log::Replay;
use repo::open::Repository;

/// More packs than this are not worth remembering one by one.
const MOST: usize = 200_000;

/// What may be new to a copy.
pub enum Delta {
    /// Anything.
    All,
    /// What these records brought.
    Since {
        /// Packs added.
        packs: Vec<PackId>,
        /// Roll-ups written.
        rollups: BTreeSet<u64>,
        /// Snapshots recorded.
        snapshots: BTreeSet<SnapshotId>,
        /// Records that say more than that something was pushed.
        telling: u64,
    },
}

impl Delta {
    /// Whether there is nothing new.
    pub fn is_empty(&self) -> bool {
        match self {
            Delta::All => false,
            Delta::Since { packs, snapshots, .. } => packs.is_empty() && snapshots.is_empty(),
        }
    }

    /// Whether nothing happened but pushes.
    pub fn tells_nothing(&self) -> bool {
        matches!(self, Delta::Since { telling: 0, .. })
    }

    /// Whether there are more new packs than a few: a data pack and a pack of trees are the least that a backup makes.
    pub fn is_large(&self) -> bool {
        match self {
            Delta::All => true,
            Delta::Since { packs, .. } => packs.len() > 4,
        }
    }

    /// Everything after `from`; all there is without it, or where the log does not reach back so far.
    ///
    /// # Errors
    /// What the log gives.
    pub fn since(source: &Repository, from: Option<Position>) -> Result<Delta> {
        let Some(from) = from else { return Ok(Delta::All) };
        let (mut packs, mut rollups, mut snapshots) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        let mut telling = 0;
        let replayed = source.log.replay(from, &mut |entry, _| {
            telling += u64::from(!matches!(entry.record, Record::Pushed { .. }));
            match &entry.record {
                Record::PacksAdded { rollup, packs: added, .. } => {
                    rollups.insert(*rollup);
                    packs.extend(added.iter().take(MOST + 1 - packs.len().min(MOST)).map(|pack| pack.id));
                }
                Record::SnapshotRecorded { snapshot, .. } => {
                    snapshots.insert(*snapshot);
                }
                _ => {}
            }
            Ok(())
        })?;
        match replayed {
            Replay::Done if packs.len() <= MOST => Ok(Delta::Since { packs, rollups, snapshots, telling }),
            _ => Ok(Delta::All),
        }
    }
}
