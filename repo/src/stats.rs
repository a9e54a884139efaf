//! Sizes: of the files, each chunk once, and as stored; of every history, and of all together.

mod marks;

use std::collections::BTreeMap;

pub(crate) use self::marks::Marks;
pub use self::marks::Sum;
use crate::error::{Error, Kind, Result};
use crate::format::record::State;
use crate::history::History;
use crate::id::SnapshotId;
use crate::monitor::{Counters, Event, Monitor};
use crate::open::Repository;
use crate::snapshots;
use crate::tree::closure;

/// What some snapshots come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// How many.
    pub snapshots: u64,
    /// Files, directories and everything else, in all of them.
    pub entries: u64,
    /// Bytes of all files in all of them, holes included: what restoring each would write.
    pub restore: u64,
    /// Their different chunks: file data and metadata.
    pub sum: Sum,
    /// Snapshots that could not be read as a whole: their chunks are counted in part.
    pub failed: u64,
}

/// The figures of a repository.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// By history.
    pub histories: BTreeMap<History, Stats>,
    /// Of all snapshots together; chunks that histories share count once.
    pub whole: Stats,
    /// How many packs the repository has, whatever is in them.
    pub packs: u64,
    /// Bytes of all packs.
    pub packs_size: u64,
}

/// Adds up these snapshots. A snapshot that cannot be read is reported to the monitor, and the rest goes on.
///
/// # Errors
/// `Interrupted`; what the index gives.
pub fn stats(repo: &Repository, state: &State, ids: &[SnapshotId], monitor: &dyn Monitor) -> Result<Report> {
    let mut groups: BTreeMap<History, Vec<SnapshotId>> = BTreeMap::new();
    for id in ids {
        if let Some(s) = state.snapshots.get(id) {
            groups.entry(History::of(s)).or_default().push(*id);
        }
    }
    let store = repo.packs();
    let mut report = Report::default();
    let mut all = Marks::default();
    for (history, ids) in groups {
        let (mut marks, mut stats) = (Marks::default(), Stats::default());
        // The newest first: the others add little to it.
        for id in ids.iter().rev() {
            one(repo, id, &mut marks, &mut stats, monitor)?;
        }
        stats.sum = marks.sum(&store, monitor)?;
        all.merge(&marks);
        report.whole.snapshots += stats.snapshots;
        report.whole.entries += stats.entries;
        report.whole.restore += stats.restore;
        report.whole.failed += stats.failed;
        report.histories.insert(history, stats);
    }
    report.whole.sum = all.sum(&store, monitor)?;
    repo.index.packs(&mut |pack| {
        report.packs += 1;
        report.packs_size += pack.size;
        Ok(())
    })?;
    Ok(report)
}

fn one(repo: &Repository, id: &SnapshotId, marks: &mut Marks, stats: &mut Stats, monitor: &dyn Monitor) -> Result<()> {
    let store = repo.packs();
    let read = snapshots::manifest(repo, id).and_then(|manifest| {
        stats.snapshots += 1;
        stats.entries += manifest.stats.files + manifest.stats.dirs + manifest.stats.others;
        stats.restore += manifest.stats.bytes;
        closure::walk(store.as_ref(), &manifest, monitor, &mut |h, _| marks.chunk(&store, h))
    });
    Counters::add(&monitor.counters().files, 1);
    match read {
        Err(e) if matches!(e.kind(), Kind::Damaged | Kind::NotFound) => {
            stats.failed += 1;
            Counters::add(&monitor.counters().errors, 1);
            let lost: Error = e;
            monitor.event(Event::Warning(&format!("snapshot {} is counted in part: {lost}", id.short())));
            Ok(())
        }
        other => other,
    }
}
