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
