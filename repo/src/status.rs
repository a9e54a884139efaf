//! How fresh each history is.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Time;
use crate::format::record::{SnapshotState, State};
use crate::id::SnapshotId;

/// One host and source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// Its newest snapshot.
    pub newest: SnapshotId,
    /// When the host captured that.
    pub captured: Time,
    /// When this repository received it.
    pub received: Time,
    /// How many snapshots it has.
    pub snapshots: u64,
}

impl Freshness {
    /// The time up to which the source is surely backed up: a host whose clock is ahead does not look fresh for ever, and
    /// what was long on its way does not look new.
    pub fn as_of(&self) -> Time {
        self.captured.min(self.received)
    }

    /// How long ago that was.
    pub fn age(&self, now: Time) -> Duration {
        now.since(self.as_of())
    }
}

/// Every host and source that has a snapshot which passes, forgotten ones left aside.
pub fn status(state: &State, admits: &dyn Fn(&SnapshotState) -> bool) -> BTreeMap<(String, String), Freshness> {
    let mut found: BTreeMap<(String, String), Freshness> = BTreeMap::new();
    for (id, s) in state.snapshots.iter().filter(|(_, s)| s.forgotten.is_none() && admits(s)) {
        let this = Freshness { newest: *id, captured: s.captured, received: s.received, snapshots: 1 };
        let entry = found.entry((s.host.clone(), s.source.clone()));
        entry
            .and_modify(|known| {
                let count = known.snapshots + 1;
                if (this.as_of(), this.newest) > (known.as_of(), known.newest) {
                    known.clone_from(&this);
                }
                known.snapshots = count;
            })
            .or_insert(this);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_by_the_earlier_of_both_times() {
        let mut state = State::default();
        let mut add = |n: u8, host: &str, captured, received, forgotten: bool| {
            let snapshot = SnapshotState {
                host: host.into(),
                source: "s".into(),
                captured: Time::from_secs(captured),
                recorded: Time::from_secs(received),
                received: Time::from_secs(received),
                tags: Default::default(),
                pinned: false,
                forgotten: forgotten.then_some(Time::from_secs(1)),
                manifest_hash: [0; 32],
            };
            state.snapshots.insert(SnapshotId([n; 32]), snapshot);
        };
        add(1, "a", 100, 100, false);
        add(2, "a", 9_999_999, 150, false);
        add(3, "a", 160, 170, false);
        add(4, "a", 500, 500, true);
        add(5, "b", 10, 600, false);
        let found = status(&state, &|_| true);
        let a = &found[&("a".to_owned(), "s".to_owned())];
        assert_eq!((a.newest, a.snapshots), (SnapshotId([3; 32]), 3));
        assert_eq!(a.age(Time::from_secs(200)), Duration::from_secs(40));
        assert_eq!(a.age(Time::from_secs(100)), Duration::ZERO);
        assert_eq!(found[&("b".to_owned(), "s".to_owned())].age(Time::from_secs(610)), Duration::from_secs(600));
        assert_eq!(status(&state, &|s| s.host == "b").len(), 1);
    }
}
