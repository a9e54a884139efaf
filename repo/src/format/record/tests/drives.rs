//! Drives, as tests make them.

use super::*;

fn load() -> impl Strategy<Value = Load> {
    any::<(u64, u32, u32)>().prop_map(|(rollup, first, count)| Load { rollup, first, count })
}

fn drive() -> impl Strategy<Value = DriveState> {
    let step = (0..Custody::ALL.len(), at(), ".{0,9}").prop_map(|(custody, at, by)| Step {
        custody: Custody::ALL[custody],
        at,
        by,
    });
    let rest = (any::<bool>(), any::<(u64, u64, u64)>(), id(), option::of(id()));
    (".{0,9}", "[a-z]{0,5}", id(), vec(step, 1..4), rest).prop_map(
        |(label, party, repository, steps, (back, (packs, bytes, snapshots), digest, newest))| DriveState {
            label,
            party,
            repository: RepoId(repository),
            back,
            steps,
            packs,
            bytes,
            digest,
            snapshots,
            newest: newest.map(SnapshotId),
            loads: Vec::new(),
        },
    )
}

pub fn told() -> impl Strategy<Value = Record> {
    prop_oneof![
        3 => (id(), drive()).prop_map(|(id, state)| Record::DriveSet { drive: DriveId(id), state: Box::new(state) }),
        2 => (id(), vec(load(), 0..4)).prop_map(|(id, loads)| Record::DriveLoaded { drive: DriveId(id), loads }),
    ]
}

/// One record of each.
pub fn one_of_each(at: Time) -> [Record; 2] {
    let (drive, state) = (DriveId([10; 32]), Box::new(sample(at)));
    let loads = vec![Load { rollup: 9, first: 300, count: 2 }];
    [Record::DriveSet { drive, state }, Record::DriveLoaded { drive, loads }]
}

/// With something of everything.
fn sample(at: Time) -> DriveState {
    DriveState {
        label: "blue".into(),
        party: "cloud".into(),
        repository: RepoId([8; 32]),
        back: true,
        steps: vec![
            Step { custody: Custody::Made, at, by: "root@web1".into() },
            Step { custody: Custody::Retired, at, by: "ops@web1".into() },
        ],
        packs: 300,
        bytes: 1 << 40,
        digest: [9; 32],
        snapshots: 2,
        newest: Some(SnapshotId([2; 32])),
        loads: Vec::new(),
    }
}

#[test]
fn what_came_in_stays_though_the_drive_s_slots_are_destroyed() {
    use Custody::*;
    let of = |way: &[Custody]| {
        let mut state = DriveState { back: false, steps: Vec::new(), ..sample(Time(0)) };
        way.iter().for_each(|custody| state.step(*custody, Time(0), "x"));
        (state.standing(), state.is_asked_for())
    };
    // Where it was sent from.
    assert_eq!(of(&[Made, Exported, Shipped]), (Shipped, true));
    assert_eq!(of(&[Exported, Retired]), (Retired, false));
    assert_eq!(of(&[Exported, Committed]), (Committed, true));
    assert_eq!(of(&[Exported, Committed, Retired]), (Committed, true));
    assert_eq!(of(&[Exported, Lost]), (Lost, false));
    // Where it came in.
    assert_eq!(of(&[Exported, Received, Verified, Retired]), (Verified, true));
    assert_eq!(of(&[Received, Verified, Retired, Committed]), (Committed, false));
    assert_eq!(of(&[Received, Verified, Committed]), (Committed, false));
    assert_eq!(of(&[Received, Retired, Lost]), (Lost, false));
}

#[test]
fn a_push_goes_on_from_behind_what_drives_have_brought() {
    let (site, drive) = (RepoId([8; 32]), DriveId([1; 32]));
    let mut state = State::default();
    let set = |custody| {
        let steps = vec![Step { custody, at: Time(0), by: "x".into() }];
        Record::DriveSet { drive, state: Box::new(DriveState { back: false, steps, ..sample(Time(0)) }) }
    };
    let loads = vec![Load { rollup: 9, first: 0, count: 2 }];
    let apply = |state: &mut State, records: &[Record]| {
        let entry = |record: &Record| Entry { seq: 1, time: Time(1), trusted: true, record: record.clone() };
        records.iter().for_each(|record| state.apply(&entry(record), hash(1)));
    };
    apply(&mut state, &[set(Custody::Exported), Record::DriveLoaded { drive, loads: loads.clone() }]);
    assert_eq!((state.under_way(Some((site, "cloud"))), state.come((site, "cloud"))), (vec![drive], vec![]));
    apply(&mut state, &[set(Custody::Committed)]);
    assert_eq!((state.under_way(Some((site, "cloud"))), state.come((site, "cloud"))), (vec![], vec![drive]));
    assert_eq!((state.come((site, "other")), &state.drives[&drive].loads), (vec![], &loads));
    let pushed = |remote: &str| Record::Pushed { remote: remote.into(), position: Position::START, at: Time(1) };
    apply(&mut state, &[pushed("other")]);
    assert_eq!(state.come((site, "cloud")), [drive]);
    apply(&mut state, &[pushed("cloud")]);
    assert!(state.come((site, "cloud")).is_empty() && state.drives[&drive].loads.is_empty());
}
