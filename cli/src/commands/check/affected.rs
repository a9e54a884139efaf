//! What damage touches: each file told once, however many snapshots have it, and then each snapshot.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::path::Path;

use repo::check::About;
use repo::id::SnapshotId;

use crate::output::human;

/// Files remembered as told. Past that, those not among them are told for every snapshot.
const MAX_KNOWN: usize = 1 << 20;

/// What was found so far. Memory: some megabytes, and a hundred bytes a snapshot that is affected.
#[derive(Default)]
pub struct Affected {
    known: HashSet<u64>,
    hasher: RandomState,
    snapshots: BTreeMap<SnapshotId, (String, u64)>,
    /// Different files, whatever the snapshots.
    pub count: u64,
}

impl Affected {
    /// Enters that `path` cannot be read for this `reason`, in the snapshot told of as `place`. Whether that is to be told:
    /// no snapshot had it so far.
    pub fn add(&mut self, about: &About<'_>, path: &Path, reason: &str, place: impl Fn() -> String) -> bool {
        self.snapshots.entry(about.id).or_insert_with(|| (place(), 0)).1 += 1;
        let hash = self.hasher.hash_one((about.tenant, about.host, about.source, path, reason));
        let new = if self.known.len() < MAX_KNOWN { self.known.insert(hash) } else { !self.known.contains(&hash) };
        self.count += u64::from(new);
        new
    }

    /// One line for each snapshot.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.snapshots.values().map(|(place, n)| format!("affected snapshot: {place}: {}", human::count(*n, "file")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use repo::clock::Time;

    fn add(to: &mut Affected, snapshot: u8, path: &str, reason: &str) -> bool {
        let id = SnapshotId([snapshot; 32]);
        let about =
            About { id, tenant: None, original: None, host: "web", source: "data", captured: Time::from_secs(0) };
        to.add(&about, Path::new(path), reason, || format!("snapshot {snapshot}"))
    }

    #[test]
    fn a_file_is_told_once_and_every_snapshot_is_named() {
        let mut found = Affected::default();
        let told: Vec<bool> = (1..=3).map(|snapshot| add(&mut found, snapshot, "a", "x")).collect();
        assert_eq!(told, [true, false, false]);
        assert!(add(&mut found, 2, "b", "x") && add(&mut found, 2, "a", "y"));
        let lines: Vec<String> = found.lines().collect();
        let of = |n, files| format!("affected snapshot: snapshot {n}: {files}");
        assert_eq!(lines, [of(1, "1 file"), of(2, "3 files"), of(3, "1 file")]);
        assert_eq!(found.count, 3);
    }

    #[test]
    fn equal_names_of_two_tenants_are_two_files() {
        let mut found = Affected::default();
        let told = [("acme", 1), ("globex", 2), ("acme", 3)].map(|(tenant, snapshot)| {
            let (id, captured) = (SnapshotId([snapshot; 32]), Time::from_secs(0));
            let about = About { id, tenant: Some(tenant), original: None, host: "web", source: "data", captured };
            found.add(&about, Path::new("a"), "x", String::new)
        });
        assert_eq!((told, found.count), ([true, true, false], 2));
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let mut found = Affected::default();
        for n in 0..MAX_KNOWN + 10 {
            assert!(add(&mut found, 1, &n.to_string(), "x"));
        }
        assert_eq!(found.known.len(), MAX_KNOWN);
        assert!(!add(&mut found, 2, "0", "x") && add(&mut found, 2, &(MAX_KNOWN + 1).to_string(), "x"));
    }
}
