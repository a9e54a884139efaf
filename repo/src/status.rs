//! How fresh each history is.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Time;
use crate::format::record::{SnapshotState, State};
use crate::history::History;
use crate::id::{PackId, SnapshotId};
use crate::times::{Moment, Times};

/// One history.
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
    /// Snapshots of it that were received in the future, as the log has it: some clock was wrong, or this one is.
    pub ahead: u64,
    /// The times the newest counts by.
    pub moment: Moment,
}

impl Freshness {
    /// The time up to which the source is surely backed up: a clock that was ahead does not make it look fresh for ever,
    /// and what was long on its way does not look new.
    pub fn as_of(&self) -> Time {
        self.moment.captured
    }

    /// Whether nobody can say how old the newest is, because it is from the future.
    pub fn in_doubt(&self) -> bool {
        self.moment.ahead
    }

    /// How long ago that was.
    pub fn age(&self, now: Time) -> Duration {
        now.since(self.as_of())
    }
}

/// Every history that has a snapshot which passes, forgotten ones left aside.
pub fn status(
    state: &State,
    times: &Times,
    admits: &dyn Fn(&SnapshotId, &SnapshotState) -> bool,
) -> BTreeMap<History, Freshness> {
    let mut found: BTreeMap<History, Freshness> = BTreeMap::new();
    for (id, s) in state.snapshots.iter().filter(|(id, s)| s.forgotten.is_none() && admits(id, s)) {
        let Some(moment) = times.get(id).copied() else { continue };
        let ahead = u64::from(moment.ahead);
        let this = Freshness { newest: *id, captured: s.captured, received: s.received, snapshots: 1, ahead, moment };
        let entry = found.entry(History::of(s));
        entry
            .and_modify(|known| {
                let (snapshots, ahead) = (known.snapshots + 1, known.ahead + ahead);
                // What was longest on its way may come last.
                let order = |f: &Freshness| (f.as_of(), f.moment.seq, f.newest);
                if order(&this) > order(known) {
                    known.clone_from(&this);
                }
                (known.snapshots, known.ahead) = (snapshots, ahead);
            })
            .or_insert(this);
    }
    found
}

/// Whether damage is known that is not healed: a last check that did not pass, or packs that were found to be damaged since. What an
/// earlier check found is over once a later one passes, of whatever kind: each looks at everything but what is inside the packs,
/// takes those that are known to be damaged for lost, and passes only if nothing needs them any more.
pub fn damage_is_open(state: &State) -> bool {
    match &state.last_check {
        Some(check) => !check.ok || state.damaged.values().any(|found| *found > check.at),
        None => !state.damaged.is_empty(),
    }
}

/// Whether a pack is damaged, and a check since has found that nothing needs it: a prune removes it.
pub fn is_of_no_use(state: &State, pack: &PackId) -> bool {
    let passed = state.last_check.as_ref().filter(|check| check.ok);
    state.damaged.get(pack).zip(passed).is_some_and(|(found, check)| *found <= check.at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::record::CheckState;

    #[test]
    fn damage_is_open_until_a_later_check_passes() {
        let check = |at, ok| Some(CheckState { at: Time::from_secs(at), data: false, ok, subset: String::new() });
        let pack = PackId([1; 32]);
        let mut state = State::default();
        assert!(!damage_is_open(&state));
        state.damaged.insert(pack, Time::from_secs(2));
        assert!(damage_is_open(&state) && !is_of_no_use(&state, &pack));
        state.last_check = check(2, false);
        assert!(damage_is_open(&state) && !is_of_no_use(&state, &pack));
        // What passed before it was found says nothing about it.
        state.last_check = check(1, true);
        assert!(damage_is_open(&state) && !is_of_no_use(&state, &pack));
        // Healed, says the next check; the pack is still to be swept.
        state.last_check = check(3, true);
        assert!(!damage_is_open(&state) && is_of_no_use(&state, &pack) && !is_of_no_use(&state, &PackId([2; 32])));
        state.damaged.clear();
        assert!(!damage_is_open(&state));
        // Other things than packs can be damaged too.
        state.last_check = check(4, false);
        assert!(damage_is_open(&state));
    }

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
                origin: None,
                seq: n.into(),
            };
            state.snapshots.insert(SnapshotId([n; 32]), snapshot);
        };
        add(1, "a", 100, 100, false);
        add(2, "a", 9_999_999, 150, false);
        add(3, "a", 160, 170, false);
        add(4, "a", 500, 500, true);
        add(5, "b", 10, 600, false);
        // Its clock was ahead; what came after it is the newest.
        add(6, "c", 9_999_999, 9_999_999, false);
        add(7, "c", 650, 651, false);
        add(8, "d", 700, 700, false);
        add(9, "d", 9_999_999, 9_999_999, false);
        let now = Time::from_secs(1000);
        let times = Times::of(&state, now);
        let found = status(&state, &times, &|_, _| true);
        let of = |host: &str| &found[&History { tenant: None, host: host.to_owned(), source: "s".to_owned() }];
        let a = of("a");
        assert_eq!((a.newest, a.snapshots, a.ahead), (SnapshotId([3; 32]), 3, 0));
        assert_eq!(a.age(Time::from_secs(200)), Duration::from_secs(40));
        assert_eq!(a.age(Time::from_secs(100)), Duration::ZERO);
        assert_eq!(of("b").age(Time::from_secs(610)), Duration::from_secs(600));
        assert_eq!((of("c").newest, of("c").ahead, of("c").in_doubt()), (SnapshotId([7; 32]), 1, false));
        // Its age is at least that of the one before.
        assert_eq!((of("d").age(now), of("d").ahead, of("d").in_doubt()), (Duration::from_secs(300), 1, true));
        assert_eq!(status(&state, &times, &|_, s| s.host == "b").len(), 1);
    }
}
