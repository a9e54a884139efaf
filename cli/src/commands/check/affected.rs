//! The files that damage touches, each told once with how many snapshots have it, gathered by what is wrong: a pack that is
//! lost can be needed by every file of every snapshot.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::path::Path;

use repo::check::About;
use repo::error::printable;
use repo::id::SnapshotId;

/// Files named for each thing that is wrong.
const NAMED: usize = 20;
/// Things that are wrong, told apart; files of more are told together.
const MAX_REASONS: usize = 1000;
/// Files counted exactly. Past that, one counts anew in every snapshot.
const MAX_COUNTED: usize = 1 << 20;

/// What was found so far. Memory: some megabytes at most.
#[derive(Default)]
pub struct Affected {
    reasons: BTreeMap<String, Files>,
    known: HashSet<u64>,
    hasher: RandomState,
    /// Different files, whatever the snapshots.
    pub count: u64,
}

/// Files with the same thing wrong.
#[derive(Default)]
struct Files {
    named: Vec<File>,
    more: u64,
}

struct File {
    hash: u64,
    /// As it is told of while one snapshot has it …
    once: String,
    /// … and while several have.
    place: String,
    last: SnapshotId,
    snapshots: u64,
}

impl Affected {
    /// Enters one finding; `once` is how it is told on its own. The findings of a snapshot come one after the other.
    pub fn add(&mut self, about: &About<'_>, path: &Path, reason: String, once: String) {
        let reason = match self.reasons.len() < MAX_REASONS || self.reasons.contains_key(&reason) {
            true => reason,
            false => "it needs something else that is damaged".to_owned(),
        };
        let hash = self.hasher.hash_one((about.host, about.source, path, &reason));
        let files = self.reasons.entry(reason).or_default();
        if let Some(file) = files.named.iter_mut().find(|file| file.hash == hash) {
            file.snapshots += u64::from(file.last != about.id);
            file.last = about.id;
            return;
        }
        let new = if self.known.len() < MAX_COUNTED { self.known.insert(hash) } else { !self.known.contains(&hash) };
        if !new {
            return;
        }
        self.count += 1;
        if files.named.len() == NAMED {
            files.more += 1;
            return;
        }
        let place = format!("{}/{} /{}", about.host, about.source, printable(path).trim_start_matches('/'));
        files.named.push(File { hash, once, place, last: about.id, snapshots: 1 });
    }

    /// One line for each file, and one for those not named.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.reasons.iter().flat_map(|(reason, files)| {
            let named = files.named.iter().map(move |file| match file.snapshots {
                1 => format!("affected: {}: {reason}", file.once),
                n => format!("affected: {} in {n} snapshots: {reason}", file.place),
            });
            let more = (files.more > 0).then(|| format!("affected: and {} more; -v lists all: {reason}", files.more));
            named.chain(more)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use repo::clock::Time;

    fn add(to: &mut Affected, snapshot: u8, path: &str, pack: &str) {
        let id = SnapshotId([snapshot; 32]);
        let about = About { id, host: "web", source: "data", captured: Time::from_secs(0) };
        to.add(&about, Path::new(path), format!("it needs {pack}"), format!("{snapshot} {path}"));
    }

    #[test]
    fn a_file_is_told_once_whatever_the_snapshots() {
        let mut found = Affected::default();
        for snapshot in 1..=3 {
            add(&mut found, snapshot, "a", "x");
            // Two parts of one directory.
            add(&mut found, snapshot, "a", "x");
        }
        add(&mut found, 2, "b\n", "x");
        add(&mut found, 2, "a", "y");
        let lines: Vec<String> = found.lines().collect();
        let expected = [
            "affected: web/data /a in 3 snapshots: it needs x",
            "affected: 2 b\n: it needs x",
            "affected: 2 a: it needs y",
        ];
        assert_eq!(lines, expected);
        assert_eq!(found.count, 3);
    }

    #[test]
    fn of_many_files_the_first_are_named() {
        let mut found = Affected::default();
        for snapshot in 1..=2 {
            (0..5000).for_each(|n| add(&mut found, snapshot, &format!("file {n}"), "x"));
        }
        let lines: Vec<String> = found.lines().collect();
        assert_eq!(lines.len(), 21);
        assert_eq!(lines[19], "affected: web/data /file 19 in 2 snapshots: it needs x");
        assert_eq!(lines[20], "affected: and 4980 more; -v lists all: it needs x");
        assert_eq!(found.count, 5000);
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let mut found = Affected::default();
        (0..3000).for_each(|n| add(&mut found, 1, "file", &n.to_string()));
        assert_eq!(found.lines().count(), MAX_REASONS + 1);
    }
}
