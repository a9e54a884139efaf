use super::*;

const UTC: Zone<'static> = &|_| 0;

fn at(text: &str) -> Time {
    let n: Vec<i64> = text.split(['-', ' ', ':']).map(|p| p.parse().unwrap()).collect();
    let [year, month, day, hour, minute] = n[..] else { panic!("{text}") };
    let c =
        Civil { year, month: month as u8, day: day as u8, hour: hour as u8, minute: minute as u8, second: 0, nanos: 0 };
    Time::from_civil(c).unwrap()
}

fn history(times: &[&str]) -> Vec<Candidate> {
    let one = |(i, t): (usize, &&str)| Candidate {
        id: SnapshotId([i as u8; 32]),
        time: at(t),
        seq: 0,
        tags: Vec::new(),
        pinned: false,
    };
    times.iter().enumerate().map(one).collect()
}

/// The numbers, in the order given, of the snapshots that are kept.
fn kept(policy: &Policy, history: Vec<Candidate>, zone: Zone<'_>) -> Vec<u8> {
    let mut kept: Vec<u8> =
        decide(policy, history, zone).iter().filter(|d| !d.keep.is_empty()).map(|d| d.id.as_bytes()[0]).collect();
    kept.sort_unstable();
    kept
}

fn n(n: u32) -> Option<Count> {
    Some(Count::Newest(n))
}

const DAYS: [&str; 8] = [
    "2026-01-01 10:00",
    "2026-01-01 23:59",
    "2026-01-02 00:00",
    "2026-01-04 12:00",
    "2026-01-05 00:30",
    "2026-01-05 00:40",
    "2026-02-01 12:00",
    "2027-03-01 12:00",
];

#[test]
fn counted_rules() {
    let p = Policy::default;
    let table: Vec<(Policy, Vec<u8>)> = vec![
        (Policy { last: n(1), ..p() }, vec![7]),
        (Policy { last: n(3), ..p() }, vec![5, 6, 7]),
        (Policy { last: n(100), ..p() }, (0..8).collect()),
        (Policy { last: Some(Count::Unlimited), ..p() }, (0..8).collect()),
        // One of the two within an hour of 5 January, and the oldest because the count is not used up.
        (Policy { hourly: n(3), ..p() }, vec![5, 6, 7]),
        (Policy { hourly: n(20), ..p() }, vec![0, 1, 2, 3, 5, 6, 7]),
        (Policy { daily: n(4), ..p() }, vec![3, 5, 6, 7]),
        (Policy { daily: n(6), ..p() }, vec![1, 2, 3, 5, 6, 7]),
        (Policy { daily: n(7), ..p() }, vec![0, 1, 2, 3, 5, 6, 7]),
        // Sunday 4 January ends the week that began on 29 December; Monday 5 begins another.
        (Policy { weekly: n(4), ..p() }, vec![3, 5, 6, 7]),
        (Policy { monthly: n(2), ..p() }, vec![6, 7]),
        (Policy { monthly: n(3), ..p() }, vec![5, 6, 7]),
        (Policy { yearly: n(2), ..p() }, vec![6, 7]),
        (Policy { yearly: n(3), ..p() }, vec![0, 6, 7]),
        (Policy { yearly: Some(Count::Unlimited), ..p() }, vec![0, 6, 7]),
        // Rules add up.
        (Policy { last: n(2), yearly: n(2), daily: n(3), ..p() }, vec![5, 6, 7]),
        (p(), vec![]),
    ];
    for (policy, expected) in table {
        assert_eq!(kept(&policy, history(&DAYS), UTC), expected, "{policy:?}");
        let mut shuffled = history(&DAYS);
        shuffled.reverse();
        assert_eq!(kept(&policy, shuffled, UTC), expected, "{policy:?}");
    }
}

#[test]
fn the_oldest_kept_for_want_of_others_is_called_so() {
    let rules = Policy { daily: n(7), monthly: n(3), yearly: n(2), ..Policy::default() };
    let reasons = |policy: &Policy, times: &[&str]| decide(policy, history(times), UTC).pop().unwrap().keep;
    // The last of its month, but not of its day.
    assert_eq!(reasons(&rules, &DAYS[..3]), [Reason::OldestDaily, Reason::OldestMonthly, Reason::OldestYearly]);
    assert_eq!(reasons(&rules, &DAYS[1..]), [Reason::Daily]);
    // Nothing to spare, or none beside it.
    assert_eq!(reasons(&Policy { daily: n(2), ..Policy::default() }, &DAYS[..3]), []);
    assert_eq!(reasons(&rules, &DAYS[..1]), [Reason::Daily, Reason::Monthly, Reason::Yearly]);
    assert_eq!(Reason::OldestDaily.words(), "oldest daily snapshot");
    assert_eq!(Reason::Last.oldest(), Reason::Last);
}

#[test]
fn weeks_do_not_break_at_new_year() {
    let policy = Policy { weekly: n(2), ..Policy::default() };
    let times = ["2025-12-20 12:00", "2025-12-28 12:00", "2025-12-29 12:00", "2026-01-01 12:00", "2026-01-04 12:00"];
    assert_eq!(kept(&policy, history(&times), UTC), [1, 4]);
}

#[test]
fn spans_count_from_the_newest_by_the_calendar() {
    let within = |years, months, days, hours| Policy {
        within: Some(Within { years, months, days, hours }),
        ..Policy::default()
    };
    let times = ["2024-02-29 12:00", "2025-03-01 12:00", "2026-02-27 12:00", "2026-02-28 12:00", "2026-02-28 13:00"];
    assert_eq!(kept(&within(0, 0, 0, 1), history(&times), UTC), [4]);
    assert_eq!(kept(&within(0, 0, 0, 2), history(&times), UTC), [3, 4]);
    assert_eq!(kept(&within(0, 0, 2, 0), history(&times), UTC), [2, 3, 4]);
    assert_eq!(kept(&within(1, 0, 0, 0), history(&times), UTC), [1, 2, 3, 4]);
    assert_eq!(kept(&within(0, 24, 0, 0), history(&times), UTC), [0, 1, 2, 3, 4]);
    assert_eq!(kept(&within(2000, 0, 0, 0), history(&times), UTC), [0, 1, 2, 3, 4]);
    // A month before 31 March: 31 February, which is 3 March.
    assert_eq!(back(at("2026-03-31 08:00"), Within { months: 1, ..Within::default() }, UTC), at("2026-03-03 08:00"));
}

#[test]
fn periods_follow_the_zone() {
    let policy = Policy { daily: n(2), ..Policy::default() };
    let times = ["2026-01-01 12:00", "2026-01-02 05:00", "2026-01-02 09:00"];
    assert_eq!(kept(&policy, history(&times), UTC), [0, 2]);
    // Nine hours behind: both of the second day's are still the evening of the first, or not.
    assert_eq!(kept(&policy, history(&times), &|_| -9 * 3600), [1, 2]);
}

#[test]
fn tags_and_pins() {
    let mut snapshots = history(&DAYS[..4]);
    snapshots[0].tags = vec!["a".into(), "b".into()];
    snapshots[1].tags = vec!["a".into()];
    snapshots[2].pinned = true;
    let tags = |lists: &[&[&str]]| Policy {
        tags: lists.iter().map(|l| l.iter().map(|t| t.to_string()).collect()).collect(),
        ..Policy::default()
    };
    assert_eq!(kept(&tags(&[&["a"]]), snapshots.clone(), UTC), [0, 1, 2]);
    assert_eq!(kept(&tags(&[&["a", "b"]]), snapshots.clone(), UTC), [0, 2]);
    assert_eq!(kept(&tags(&[&["b"], &["c"]]), snapshots.clone(), UTC), [0, 2]);
    let reasons = decide(&Policy { last: n(1), ..tags(&[&["a"]]) }, snapshots, UTC);
    assert_eq!(reasons[0].keep, [Reason::Last]);
    assert_eq!(reasons[1].keep, [Reason::Pinned]);
    assert_eq!(reasons[2].keep, [Reason::Tags]);
}
