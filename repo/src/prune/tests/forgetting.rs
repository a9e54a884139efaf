use super::*;
use crate::forget::forget_by_policy;
use crate::retention::{Count, Policy};

#[test]
fn named_snapshots_are_forgotten_and_taken_back() {
    let bench = Bench::new();
    let repo = bench.open();
    let made = three(&bench, &repo);
    let ids = [made[0].0, made[1].0];
    let dry = forget::Options { dry_run: true, ..Default::default() };
    let foreseen = forget_named(&repo, &ids, &dry, &quiet()).unwrap();
    let state = repo.log.state();
    assert!(state.snapshots.values().all(|s| s.forgotten.is_none()));
    let done = forget_named(&repo, &ids, &Default::default(), &quiet()).unwrap();
    assert_eq!((foreseen.forgotten, foreseen.until), (done.forgotten.clone(), done.until));
    assert_eq!(done.until, bench.clock.now().plus(forget::HOLD));
    bench.pass(DAY);
    // Once more does not prolong the hold.
    let again = forget_named(&repo, &[made[0].0, made[2].0], &Default::default(), &quiet()).unwrap();
    assert_eq!((again.already, again.forgotten), (vec![made[0].0], vec![made[2].0]));
    assert_eq!(repo.log.state().snapshots[&made[0].0].forgotten, Some(bench.clock.now().minus(DAY)));
    assert_eq!(unforget(&repo, &[made[0].0, made[0].0], &quiet()).unwrap(), [made[0].0]);
    assert!(repo.log.state().snapshots[&made[0].0].forgotten.is_none());
    let unknown = [made[1].0, SnapshotId([9; 32])];
    assert_eq!(unforget(&repo, &unknown, &quiet()).unwrap_err().kind(), Kind::NotFound);
    assert!(repo.log.state().snapshots[&made[1].0].forgotten.is_some());
    check_readable(&repo, &made);
}

#[test]
fn pinned_snapshots_and_last_ones_are_safe() {
    let bench = Bench::new();
    let repo = bench.open();
    let made = three(&bench, &repo);
    let commit = repo.locks.commit(COMMIT_WAIT).unwrap();
    repo.log.append(&commit, Record::Pinned { snapshots: vec![made[0].0] }).unwrap();
    drop(commit);
    let e = forget_named(&repo, &[made[1].0, made[0].0], &Default::default(), &quiet()).unwrap_err();
    assert_eq!(e.kind(), Kind::Refused);
    let by = |policy: &Policy| forget_by_policy(&repo, policy, &|_, _| true, &|_| 0, &Default::default(), &quiet());
    assert_eq!(by(&Policy::default()).unwrap_err().kind(), Kind::Usage);
    let one = Policy { last: Some(Count::Newest(1)), ..Policy::default() };
    let done = by(&one).unwrap();
    assert_eq!(done.forgotten, [made[1].0]);
    assert_eq!((done.groups.len(), done.groups[0].decisions.len()), (1, 3));
    // A pin that came after the forgetting also keeps it from being pruned.
    let commit = repo.locks.commit(COMMIT_WAIT).unwrap();
    repo.log.append(&commit, Record::Unpinned { snapshots: vec![made[0].0] }).unwrap();
    repo.log.append(&commit, Record::Pinned { snapshots: vec![made[1].0] }).unwrap();
    drop(commit);
    prune(&repo, &now(), &quiet()).unwrap();
    check_readable(&repo, &made);
    let nothing = Policy { tags: vec![vec!["no such".into()]], ..Policy::default() };
    assert_eq!(by(&nothing).unwrap_err().kind(), Kind::Refused);
    assert!(repo.log.state().snapshots[&made[2].0].forgotten.is_none());
}

#[test]
fn a_wrong_clock_deletes_nothing_until_accepted() {
    let bench = Bench::new();
    let repo = bench.open();
    let made = three(&bench, &repo);
    forget_named(&repo, &[made[0].0], &Default::default(), &quiet()).unwrap();
    // The log's own clock is far in the future, unsynchronised.
    let ahead = Clock::manual(Time::now().plus(3650 * DAY), false);
    let log =
        crate::log::Log::load(repo.backend.clone(), repo.keys.clone(), &quiet()).unwrap().with_clock(ahead.clone());
    let mut repo = bench.open();
    (repo.log, repo.clock) = (Arc::new(log), ahead);
    let e = prune(&repo, &Options::default(), &quiet()).unwrap_err();
    assert_eq!(e.kind(), Kind::Clock);
    let e = forget_named(&repo, &[made[1].0], &Default::default(), &quiet()).unwrap_err();
    assert_eq!(e.kind(), Kind::Clock);
    assert_eq!(bench.count(Area::Snapshots), 3);
    // Taking back needs no clock.
    unforget(&repo, &[made[0].0], &quiet()).unwrap();
    let accept = forget::Options { accept_clock: true, ..Default::default() };
    forget_named(&repo, &[made[1].0], &accept, &quiet()).unwrap();
    prune(&repo, &Options::default(), &quiet()).unwrap();
    check_readable(&repo, &made);
}

/// Opens the repository on a machine whose clock, the log's too, is this one.
fn open_with(bench: &Bench, clock: &Clock) -> Repository {
    let mut repo = bench.open();
    let log = crate::log::Log::load(repo.backend.clone(), repo.keys.clone(), &quiet()).unwrap();
    (repo.log, repo.clock) = (Arc::new(log.with_clock(clock.clone())), clock.clone());
    repo
}

#[test]
fn one_backup_with_a_wrong_clock_costs_no_other_snapshot() {
    use crate::select::{Filter, Name, resolve};
    use crate::times::Times;

    let years = 3650 * DAY;
    for (wrong, synchronised) in
        [(Time::now().plus(years), false), (Time::now().plus(years), true), (Time::now().minus(years), false)]
    {
        let bench = Bench::new();
        // Nobody keeps the clock that is wrong, or somebody does so wrongly.
        let (right, wrong) = (Clock::manual(Time::now(), true), Clock::manual(wrong, synchronised));
        let mut made = Vec::new();
        for n in 0..6u8 {
            bench.write("file", &[n; 5000]);
            let repo = open_with(&bench, if n == 2 { &wrong } else { &right });
            let id = bench.backup(&repo);
            let expected: Option<SnapshotId> = made.last().copied();
            assert_eq!(manifest(&repo, &id).unwrap().parent, expected, "what came before is compared with");
            made.push(id);
            right.set(right.now().plus(DAY));
        }
        let repo = open_with(&bench, &right);
        let latest = |back: u32, at: Option<Time>| {
            let (state, filter) = (repo.log.state(), Filter { at, ..Filter::default() });
            let times = Times::of(&state, right.now());
            resolve(&state, &times, &Name::Latest(back), &filter, &mut |_| Ok(Vec::new())).unwrap()
        };
        for (back, id) in made.iter().rev().enumerate() {
            assert_eq!(latest(back as u32, None), *id);
        }
        // Days 0 and 1 were before, 3 was after.
        assert_eq!(latest(0, Some(right.now().minus(3 * DAY + DAY / 2))), made[2]);
        assert_eq!(latest(0, Some(right.now().minus(5 * DAY + DAY / 2))), made[0]);

        let by = |policy: Policy| {
            let options = forget::Options { accept_clock: true, ..Default::default() };
            let mut gone =
                forget_by_policy(&repo, &policy, &|_, _| true, &|_| 0, &options, &quiet()).unwrap().forgotten;
            gone.sort_by_key(|id| made.iter().position(|m| m == id));
            gone
        };
        // It is of the day before it: of the two, the later one stays.
        assert_eq!(by(Policy { daily: Some(Count::Newest(100)), ..Policy::default() }), [made[1]]);
        assert_eq!(by(Policy { last: Some(Count::Newest(2)), ..Policy::default() }), [made[0], made[2], made[3]]);
        prune(&repo, &Options { release_held: true, ..now() }, &quiet()).unwrap();
        let mut left: Vec<SnapshotId> = repo.log.state().snapshots.keys().copied().collect();
        left.sort_by_key(|id| made.iter().position(|m| m == id));
        assert_eq!(left, made[4..]);
    }
}
