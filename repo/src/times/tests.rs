use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const NOW: Time = Time(1_800_000_000_000_000_000);

fn secs(s: i64) -> Time {
    Time::from_secs(s)
}

fn run(raw: &[i64], present: i64) -> Vec<i64> {
    let raw: Vec<Time> = raw.iter().map(|t| secs(*t)).collect();
    plausible(&raw, secs(present)).into_iter().map(Time::secs).collect()
}

#[test]
fn one_wrong_clock_moves_nothing_else() {
    for (raw, expected) in [
        (vec![10, 20, 30], vec![10, 20, 30]),
        (vec![], vec![]),
        // Ahead of the present, first, in the middle and last.
        (vec![900, 20, 30], vec![20, 20, 30]),
        (vec![10, 900, 30], vec![10, 10, 30]),
        (vec![10, 20, 900], vec![10, 20, 20]),
        // Was ahead, and the present has passed it since.
        (vec![10, 90, 20, 30, 40], vec![10, 10, 20, 30, 40]),
        // Behind.
        (vec![10, 20, 1, 30], vec![10, 20, 20, 30]),
        (vec![10, 1, 30], vec![10, 10, 30]),
        (vec![10, 20, 1], vec![10, 20, 20]),
        // Both.
        (vec![10, 900, 1, 20, 30], vec![10, 10, 10, 20, 30]),
        // All of one time are plausible.
        (vec![10, 10, 10], vec![10, 10, 10]),
        // It is the present that is wrong.
        (vec![900, 950, 920, 930], vec![900, 900, 920, 930]),
    ] {
        assert_eq!(run(&raw, 100), expected, "{raw:?}");
    }
}

fn snapshot(seq: u64, captured: Time, recorded: Time, received: Time) -> SnapshotState {
    SnapshotState {
        host: "h".into(),
        source: "s".into(),
        captured,
        recorded,
        received,
        tags: Default::default(),
        pinned: false,
        forgotten: None,
        manifest_hash: [0; 32],
        origin: None,
        seq,
    }
}

fn state(all: Vec<SnapshotState>) -> State {
    let mut state = State::default();
    state.snapshots = (0u8..).map(|n| SnapshotId([n; 32])).zip(all).collect();
    state
}

#[test]
fn a_snapshot_of_this_repository_goes_by_when_it_was_received() {
    let day = Duration::from_secs(24 * 3600);
    let (t, wrong) = (NOW.minus(30 * day), NOW.plus(3650 * day));
    let whole = state(vec![
        snapshot(3, t, t, t),
        snapshot(5, wrong, wrong, wrong),
        // From elsewhere, while the clock here was wrong: its own times are as good as ever.
        snapshot(7, t.minus(9 * day), t.minus(8 * day), wrong),
        snapshot(9, Time(0), Time(5), Time(9)),
        snapshot(11, t.plus(day), t.plus(day), t.plus(2 * day)),
        // Nobody knows where its record was.
        snapshot(0, wrong, wrong, wrong),
    ]);
    let times = Times::of(&whole, NOW);
    let of = |n: u8| *times.get(&SnapshotId([n; 32])).unwrap();
    let clamped = Moment { received: t, recorded: t, captured: t, seq: 5, ahead: true };
    assert_eq!(of(0), Moment { seq: 3, ahead: false, ..clamped });
    assert_eq!(of(1), clamped);
    let (captured, recorded) = (t.minus(9 * day), t.minus(8 * day));
    assert_eq!(of(2), Moment { captured, recorded, seq: 7, ..clamped });
    assert_eq!(of(3), Moment { seq: 9, ahead: false, ..clamped });
    assert_eq!((of(4).recorded, of(4).received), (t.plus(day), t.plus(2 * day)));
    assert_eq!(of(5).recorded, t.plus(2 * day));
    assert!(times.get(&SnapshotId([9; 32])).is_none());
    let alone = *Times::of(&state(vec![snapshot(1, wrong, wrong, wrong)]), NOW).get(&SnapshotId([0; 32])).unwrap();
    assert_eq!((alone.recorded, alone.ahead), (wrong, true));
}

proptest! {
    #[test]
    fn times_follow_the_log_and_never_pass_the_present(raw in vec(0i64..60, 0..40), present in 0i64..60) {
        let found = run(&raw, present);
        prop_assert_eq!(found.len(), raw.len());
        prop_assert!(found.is_sorted());
        prop_assert!(found.iter().all(|t| *t <= present) || raw.iter().all(|t| *t > present));
        // What is believed are times from the log, and going through the result again changes nothing.
        prop_assert!(found.iter().all(|t| raw.contains(t)));
        prop_assert_eq!(run(&found, present), found);
    }

    #[test]
    fn as_many_as_possible_are_believed(raw in vec(0i64..20, 0..9)) {
        // Every subset that never falls; the longest counts.
        let best = (0u32..1 << raw.len())
            .filter(|set| {
                let run: Vec<_> = (0..raw.len()).filter(|i| set & (1 << i) != 0).map(|i| raw[i]).collect();
                run.is_sorted() && run.iter().all(|t| *t <= 15)
            })
            .map(u32::count_ones)
            .max();
        let times: Vec<Time> = raw.iter().map(|t| secs(*t)).collect();
        prop_assert_eq!(Some(longest_run(&times, secs(15)).len() as u32), best);
    }

    #[test]
    fn a_stray_time_leaves_the_others_as_they_are(
        mut sane in vec(100i64..200, 4..30), stray in prop_oneof![0i64..50, 300i64..400], at: prop::sample::Index,
    ) {
        sane.sort_unstable();
        let at = 2 + at.index(sane.len() - 3);
        let mut raw = sane.clone();
        raw.insert(at, stray);
        // Whether the present has passed the stray one or not.
        for present in [250, 500] {
            let mut found = run(&raw, present);
            prop_assert_eq!(found.remove(at), sane[at - 1]);
            prop_assert_eq!(&found, &sane);
        }
    }
}
