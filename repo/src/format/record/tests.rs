use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use super::state::MAX_RECENT;
use super::*;
use crate::id::RepoId;

mod drives;
mod parties;

/// Ids from a small set, so that records refer to one another.
fn id() -> impl Strategy<Value = [u8; 32]> {
    (0u8..6).prop_map(|n| [n; 32])
}

fn session() -> impl Strategy<Value = SessionId> {
    id().prop_map(SessionId)
}

fn snapshots() -> impl Strategy<Value = Vec<SnapshotId>> {
    vec(id().prop_map(SnapshotId), 0..4)
}

fn packs() -> impl Strategy<Value = Vec<PackId>> {
    vec(id().prop_map(PackId), 0..4)
}

fn at() -> impl Strategy<Value = Time> {
    any::<i64>().prop_map(Time)
}

fn tags() -> impl Strategy<Value = Vec<String>> {
    vec("[a-c]{1,2}", 0..3)
}

fn pack_ref() -> impl Strategy<Value = PackRef> {
    (id(), any::<u64>(), any::<u32>(), any::<bool>()).prop_map(|(id, size, footer_len, tree)| PackRef {
        id: PackId(id),
        size,
        footer_len,
        kind: if tree { FrameKind::Tree } else { FrameKind::Data },
    })
}

fn of_sessions() -> impl Strategy<Value = Record> {
    let begin = (session(), any::<u32>(), ".{0,9}", option::of(id()), at(), at()).prop_map(
        |(session, number, host, parent, at, expires)| Record::SessionBegin {
            session,
            number,
            purpose: "backup".into(),
            host,
            pid: number / 2,
            parent: parent.map(SnapshotId),
            at,
            expires,
        },
    );
    let outcome = prop_oneof![Just(Outcome::Done), Just(Outcome::Failed), Just(Outcome::Adopted)];
    prop_oneof![
        begin,
        (session(), any::<u64>(), vec(pack_ref(), 0..4)).prop_map(|(session, rollup, packs)| Record::PacksAdded {
            session,
            rollup,
            packs
        }),
        (session(), outcome).prop_map(|(session, outcome)| Record::SessionEnd { session, outcome }),
    ]
}

fn of_snapshots() -> impl Strategy<Value = Record> {
    let origin = option::of((0u32..3, id()).prop_map(|(tenant, id)| Origin { tenant, id: SnapshotId(id) }));
    let recorded = (session(), origin, id(), at(), at(), tags(), id()).prop_map(
        |(session, origin, snapshot, recorded, captured, tags, manifest_hash)| Record::SnapshotRecorded {
            session,
            origin,
            snapshot: SnapshotId(snapshot),
            recorded,
            host: "h".into(),
            source: "ü/ß".into(),
            captured,
            tags,
            manifest_hash,
        },
    );
    prop_oneof![
        4 => recorded,
        1 => (snapshots(), at()).prop_map(|(snapshots, at)| Record::Forgotten { snapshots, at }),
        1 => snapshots().prop_map(|snapshots| Record::Unforgotten { snapshots }),
        1 => snapshots().prop_map(|snapshots| Record::Pinned { snapshots }),
        1 => snapshots().prop_map(|snapshots| Record::Unpinned { snapshots }),
        1 => (id(), id()).prop_map(|(id, manifest_hash)| Record::ManifestReplaced { snapshot: SnapshotId(id), manifest_hash }),
        1 => (id(), tags(), tags())
            .prop_map(|(id, add, remove)| Record::Tagged { snapshot: SnapshotId(id), add, remove }),
    ]
}

fn of_packs() -> impl Strategy<Value = Record> {
    prop_oneof![
        (session(), packs()).prop_map(|(session, packs)| Record::Condemned { session, packs }),
        packs().prop_map(|packs| Record::Uncondemned { packs }),
        (session(), packs(), snapshots()).prop_map(|(session, packs, snapshots)| Record::SweepIntent {
            session,
            packs,
            snapshots
        }),
        (packs(), snapshots()).prop_map(|(packs, snapshots)| Record::Swept { packs, snapshots }),
        (packs(), at()).prop_map(|(packs, at)| Record::Damage { packs, at }),
        packs().prop_map(|packs| Record::Healed { packs }),
    ]
}

fn position() -> impl Strategy<Value = Position> {
    (any::<u64>(), id()).prop_map(|(seq, id)| Position { seq, hash: LogHash(id) })
}

fn credential() -> impl Strategy<Value = Credential> {
    (".{0,9}", 0..Roles::NAMES.len(), at(), option::of(at())).prop_map(|(text, role, added, revoked)| Credential {
        public: format!("ssh-ed25519 {text}"),
        roles: Roles::NAMES[role].0.and(Roles::PULL),
        label: text.clone(),
        host: text,
        added,
        revoked,
    })
}

fn removal() -> impl Strategy<Value = Removal> {
    (at(), any::<u64>(), any::<u64>()).prop_map(|(at, snapshots, bytes)| Removal { at, snapshots, bytes })
}

fn certificate() -> impl Strategy<Value = Certificate> {
    (".{0,9}", option::of(id()), removal(), at()).prop_map(|(name, id, removal, completed)| Certificate {
        name,
        repository: id.map(RepoId),
        removal,
        completed,
    })
}

fn audit_entry() -> impl Strategy<Value = AuditEntry> {
    (".{0,9}", option::of(any::<u32>()), any::<[u64; 4]>(), ".{0,20}").prop_map(|(text, tenant, numbers, failure)| {
        AuditEntry {
            who: text.clone(),
            label: text.clone(),
            from: text.clone(),
            tenant,
            name: text.clone(),
            operation: text,
            taken: numbers[0],
            given: numbers[1],
            snapshots: numbers[2],
            failure,
            millis: numbers[3],
        }
    })
}

fn governed() -> impl Strategy<Value = Record> {
    let number = || option::of(any::<u64>());
    prop_oneof![
        2 => (number(), number(), "[a-z=]{0,9}").prop_map(|(hold, window, retention)| {
            Record::PolicySet { policy: PolicyState { hold, window, retention } }
        }),
        2 => audit_entry().prop_map(|entry| Record::Audited { entry: Box::new(entry) }),
        1 => (any::<u64>(), id()).prop_map(|(segment, id)| Record::AuditKept { segment, hash: LogHash(id) }),
        1 => btree_map("[a-z]{0,5}", ".{0,40}", 0..4)
            .prop_map(|all| Record::ProfilesKept { profiles: Profiles::new(all).unwrap() }),
        5 => drives::told(),
    ]
}

fn others() -> impl Strategy<Value = Record> {
    prop_oneof![
        (any::<u32>(), at()).prop_map(|(epoch, at)| Record::KeyEpoch { epoch, at }),
        (at(), any::<bool>(), any::<bool>()).prop_map(|(at, data, ok)| Record::CheckDone {
            at,
            data,
            ok,
            subset: "1/7".into()
        }),
        Just(Record::ClockAccepted),
        Just(Record::Checkpoint { state: Box::default() }),
        (0x80u8.., vec(any::<u8>(), 0..9)).prop_map(|(kind, body)| Record::Ignored { kind, body }),
    ]
}

fn journal(max: usize) -> impl Strategy<Value = Vec<Entry>> {
    let record = prop_oneof![of_sessions(), of_snapshots(), of_packs(), parties::of_parties(), governed(), others()];
    vec((at(), any::<bool>(), record), 0..max).prop_map(|all| {
        let entry = |(seq, (time, trusted, record))| Entry { seq, time, trusted, record };
        (1..).zip(all).map(entry).collect()
    })
}

fn hash(seq: u64) -> LogHash {
    LogHash(*blake3::hash(&seq.to_le_bytes()).as_bytes())
}

fn apply_all(state: &mut State, entries: &[Entry]) {
    entries.iter().for_each(|e| state.apply(e, hash(e.seq)));
}

fn through_checkpoint(state: &State) -> State {
    let record = Record::Checkpoint { state: Box::new(state.clone()) };
    let bytes = Entry { seq: 1, time: Time(0), trusted: true, record }.encode(&hash(0)).unwrap();
    match Entry::decode(&bytes).unwrap().1.record {
        Record::Checkpoint { state } => *state,
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(entries in journal(20)) {
        for entry in entries {
            let bytes = entry.encode(&hash(7)).unwrap();
            prop_assert_eq!(Entry::decode(&bytes).unwrap(), (hash(7), entry.clone()));
            let mut longer = bytes.clone();
            longer.push(0);
            let ignored = matches!(entry.record, Record::Ignored { .. });
            prop_assert!(ignored || Entry::decode(&longer).is_err());
            prop_assert!(ignored || Entry::decode(&bytes[..bytes.len() - 1]).is_err());
        }
    }

    #[test]
    fn a_checkpoint_anywhere_changes_nothing(entries in journal(60), cut in 0usize..60) {
        let cut = cut.min(entries.len());
        let mut all = State::default();
        apply_all(&mut all, &entries);
        let mut first = State::default();
        apply_all(&mut first, &entries[..cut]);
        let mut then = through_checkpoint(&first);
        prop_assert_eq!(&then, &first);
        apply_all(&mut then, &entries[cut..]);
        prop_assert_eq!(then, all);
    }

    #[test]
    fn damaged_bytes_never_panic(entries in journal(5), at: prop::sample::Index, flip: u8, noise in vec(any::<u8>(), 0..200)) {
        let _ = Entry::decode(&noise);
        for entry in entries {
            let mut state = State::default();
            state.apply(&entry, hash(1));
            let checkpoint = Record::Checkpoint { state: Box::new(state) };
            for record in [entry.record, checkpoint] {
                let mut bytes = Entry { seq: 1, time: Time(0), trusted: true, record }.encode(&hash(0)).unwrap();
                let i = at.index(bytes.len());
                bytes[i] ^= flip;
                let _ = Entry::decode(&bytes);
                let _ = Entry::decode(&bytes[..i]);
            }
        }
    }
}

fn entry(seq: u64, secs: i64, trusted: bool, record: Record) -> Entry {
    Entry { seq, time: Time::from_secs(secs), trusted, record }
}

#[test]
fn unknown_records_are_refused_or_ignored_by_their_type() {
    let bytes = |kind| {
        let mut bytes = entry(1, 0, true, Record::ClockAccepted).encode(&hash(0)).unwrap();
        *bytes.last_mut().unwrap() = kind;
        bytes.extend(b"more");
        bytes
    };
    assert_eq!(Entry::decode(&bytes(0x7f)).unwrap_err().kind(), Kind::NewerFormat);
    let ignored = Record::Ignored { kind: 0x81, body: b"more".to_vec() };
    assert_eq!(Entry::decode(&bytes(0x81)).unwrap().1.record, ignored);
}

#[test]
fn a_newer_checkpoints_sections_are_kept_or_refused() {
    let mut w = Writer::new();
    w.u8(0x85);
    w.lp_bytes(b"later");
    let state = State::read(&mut Reader::new(w.as_slice())).unwrap();
    assert_eq!(through_checkpoint(&state), state);
    let mut w = Writer::new();
    w.u8(0x7f);
    w.lp_bytes(b"later");
    assert_eq!(State::read(&mut Reader::new(w.as_slice())).unwrap_err().kind(), Kind::NewerFormat);
}

#[test]
fn a_full_check_is_remembered_past_those_of_parts() {
    let done = |secs, data, subset: &str| {
        let (at, subset) = (Time::from_secs(secs), subset.to_owned());
        entry(secs as u64, secs, true, Record::CheckDone { at, data, ok: true, subset })
    };
    let mut state = State::default();
    apply_all(&mut state, &[done(1, true, ""), done(2, true, "1/3"), done(3, false, "")]);
    let times = |s: &State| {
        let at = |check: &Option<CheckState>| check.as_ref().map(|c| c.at);
        [at(&s.last_full_check), at(&s.last_data_check), at(&s.last_check)]
    };
    assert_eq!(times(&state), [1, 2, 3].map(|secs| Some(Time::from_secs(secs))));
    let read = through_checkpoint(&state);
    assert_eq!(times(&read), times(&state));
    // A section that says nothing is not written.
    let mut w = Writer::new();
    w.u8(0x80);
    w.lp_bytes(&[0]);
    assert_eq!(State::read(&mut Reader::new(w.as_slice())).unwrap_err().kind(), Kind::Damaged);
}

#[test]
fn what_would_not_read_back_is_not_written() {
    let snapshot = SnapshotId([0; 32]);
    for add in [vec!["x".repeat(MAX_TEXT + 1)], vec!["x".into(); MAX_TAGS + 1]] {
        let record = Record::Tagged { snapshot, add, remove: Vec::new() };
        assert_eq!(entry(1, 0, true, record).encode(&hash(0)).unwrap_err().kind(), Kind::Usage);
    }
}

#[test]
fn a_sweep_ends_when_all_of_it_is_swept() {
    let (a, b) = (PackId([1; 32]), PackId([2; 32]));
    let snapshot = SnapshotId([3; 32]);
    let session = SessionId([4; 32]);
    let mut state = State::default();
    apply_all(
        &mut state,
        &[
            entry(1, 0, true, Record::Condemned { session, packs: vec![a, b] }),
            entry(2, 0, true, Record::SweepIntent { session, packs: vec![a, b], snapshots: vec![snapshot] }),
            entry(3, 0, true, Record::Swept { packs: vec![a], snapshots: vec![snapshot] }),
        ],
    );
    assert_eq!(state.sweep.as_ref().unwrap().packs.iter().collect::<Vec<_>>(), [&b]);
    assert_eq!(state.condemned.get(&b), Some(&1));
    apply_all(&mut state, &[entry(4, 0, true, Record::Swept { packs: vec![b], snapshots: vec![] })]);
    assert_eq!((state.sweep, state.condemned.len()), (None, 0));
}

#[test]
fn only_trusted_times_move_the_newest_and_a_person_may_set_it() {
    let mut state = State::default();
    let mut newest = |seq, secs, trusted, record| {
        apply_all(&mut state, &[entry(seq, secs, trusted, record)]);
        state.newest_time
    };
    let some = |secs| Some(Time::from_secs(secs));
    let healed = || Record::Healed { packs: vec![] };
    assert_eq!(newest(1, 100, true, healed()), some(100));
    assert_eq!(newest(2, 9000, false, healed()), some(100));
    assert_eq!(newest(3, 50, true, healed()), some(100));
    assert_eq!(newest(4, 50, false, Record::ClockAccepted), some(50));
}

#[test]
fn earlier_hashes_are_remembered_as_far_as_promised() {
    let mut state = State::default();
    let last = MAX_RECENT as u64 * 3;
    for seq in 1..=last {
        let checkpoint = Record::Checkpoint { state: Box::default() };
        let record = if seq % 512 == 1 { checkpoint } else { Record::ClockAccepted };
        state.apply(&entry(seq, 0, true, record), hash(seq));
    }
    let mut known = |seq| state.hash_at(seq) == Some(hash(seq));
    assert!((last - MAX_RECENT as u64 + 1..=last).all(&mut known));
    assert!(known(1) && known(513) && !known(2) && !known(last + 1) && !known(0));
}

const DOCUMENT: &str = include_str!("../../../../docs/format.md");

/// One entry of each type the document names, in its order.
fn one_of_each() -> Vec<Entry> {
    let (session, snapshot) = (SessionId([1; 32]), SnapshotId([2; 32]));
    let (packs, snapshots, at) = (vec![PackId([3; 32])], vec![snapshot], Time(-2));
    let pack = PackRef { id: packs[0], size: 300, footer_len: 70, kind: FrameKind::Tree };
    let mut state = State::default();
    let healed = entry(1, 9, true, Record::Healed { packs: packs.clone() });
    state.apply(&healed, LogHash([0xee; 32]));
    let recorded = |origin| Record::SnapshotRecorded {
        session,
        origin,
        snapshot,
        recorded: Time(6),
        host: "web1".into(),
        source: "srv".into(),
        captured: at,
        tags: vec!["ä".into()],
        manifest_hash: [4; 32],
    };
    let records = vec![
        Record::SessionBegin {
            session,
            number: 128,
            purpose: "backup".into(),
            host: "web1".into(),
            pid: 4,
            parent: Some(snapshot),
            at,
            expires: Time(5),
        },
        Record::PacksAdded { session, rollup: 9, packs: vec![pack] },
        recorded(None),
        Record::SessionEnd { session, outcome: Outcome::Adopted },
        Record::Forgotten { snapshots: snapshots.clone(), at },
        Record::Unforgotten { snapshots: snapshots.clone() },
        Record::Tagged { snapshot, add: vec!["a".into()], remove: vec![] },
        Record::Pinned { snapshots: snapshots.clone() },
        Record::Unpinned { snapshots: snapshots.clone() },
        Record::Condemned { session, packs: packs.clone() },
        Record::Uncondemned { packs: packs.clone() },
        Record::SweepIntent { session, packs: packs.clone(), snapshots: snapshots.clone() },
        Record::Swept { packs: packs.clone(), snapshots },
        Record::Damage { packs: packs.clone(), at },
        Record::Healed { packs },
        Record::KeyEpoch { epoch: 200, at },
        Record::CheckDone { at, data: true, ok: false, subset: "1/5".into() },
        Record::ClockAccepted,
        Record::Checkpoint { state: Box::new(state) },
    ];
    let records = records
        .into_iter()
        .chain(one_of_each_party(recorded(Some(Origin { tenant: 5, id: snapshot }))))
        .chain(drives::one_of_each(at));
    records.map(|record| Entry { seq: 7, time: Time(8), trusted: true, record }).collect()
}

fn one_of_each_party(received: Record) -> Vec<Record> {
    let (at, position) = (Time(-2), Position { seq: 3, hash: LogHash([6; 32]) });
    let key = Credential {
        public: "ssh-ed25519 AAAA".into(),
        roles: Roles::PUSH.and(Roles::PULL),
        label: "site".into(),
        host: String::new(),
        added: at,
        revoked: Some(at),
    };
    let (label, host) = ("agent".into(), "web1".into());
    let invite = Invite { hash: [7; 32], roles: Roles::AGENT, label, host, expires: at };
    let removal = Removal { at, snapshots: 300, bytes: 1 << 40 };
    let certificate =
        Certificate { name: "acme".into(), repository: Some(RepoId([8; 32])), removal, completed: Time(9) };
    let audited = AuditEntry {
        who: "SHA256:AAAA".into(),
        label: "site".into(),
        from: "192.0.2.1:4022".into(),
        tenant: Some(300),
        name: "acme".into(),
        operation: "push".into(),
        taken: 1 << 40,
        given: 300,
        snapshots: 2,
        failure: "the connection ended too early".into(),
        millis: 1500,
    };
    let policy = PolicyState { hold: Some(259_200), window: None, retention: "daily=7\nmonthly=12".into() };
    let tenant = TenantState {
        suspended: true,
        removed: Some(removal),
        quota: Some(1 << 40),
        hold: Some(259_200),
        window: Some(0),
        retention: "daily=7".into(),
        repository: Some(RepoId([8; 32])),
        keyring: vec![9; 40],
        keys: vec![key],
        invites: vec![invite],
        watermark: Some(position),
        ..TenantState::new("acme", false, at)
    };
    let remote = RemoteState {
        url: "ssh://pool:7022".into(),
        host_key: "ssh-ed25519 BBBB".into(),
        key: PrivateKey(b"private".to_vec().into()),
        tenant: "acme".into(),
        sealed: true,
        pushed: Some(position),
        pushed_at: Some(at),
    };
    let profiles = Profiles::new([("web".into(), "repo = '/r'".into())].into()).unwrap();
    vec![
        Record::PoolMade,
        Record::TenantSet { tenant: 5, state: Box::new(tenant.clone()) },
        Record::TenantRemoved { tenant: 5, certificate: Box::new(certificate) },
        received,
        Record::Watermark { tenant: 5, position },
        Record::RemoteSet { name: "cloud".into(), state: Box::new(remote) },
        Record::RemoteRemoved { name: "cloud".into() },
        Record::Pushed { remote: "cloud".into(), position, at },
        Record::HostKey { key: PrivateKey(b"private".to_vec().into()) },
        Record::OwnerPinned { tenant: 5, key: [7; 32] },
        Record::OrderObeyed { tenant: 5, order: Obeyed { position, hash: [8; 32], objects: 3, bytes: 300, at } },
        Record::ManifestReplaced { snapshot: SnapshotId([2; 32]), manifest_hash: [9; 32] },
        Record::AgentSet { agent: 5, state: Box::new(tenant) },
        Record::Belongings { tenant: 5, name: "site/1".into(), sealed: b"sealed".to_vec() },
        Record::PolicySet { policy },
        Record::Audited { entry: Box::new(audited) },
        Record::AuditKept { segment: 3, hash: LogHash([6; 32]) },
        Record::ProfilesKept { profiles },
    ]
}

/// A record's type by name.
fn name_of(record: &Record) -> String {
    if let Record::SnapshotRecorded { origin: Some(_), .. } = record {
        return "SnapshotReceived".into();
    }
    format!("{record:?}").split([' ', '{']).next().unwrap().to_owned()
}

#[test]
fn the_document_has_these_types_and_vectors() {
    let all = one_of_each();
    assert!(all.windows(2).all(|pair| pair[0].record.kind() < pair[1].record.kind()), "one of each, in order");
    let mut absent = Vec::new();
    for entry in &all {
        let (n, name) = (entry.record.kind(), name_of(&entry.record));
        assert!(DOCUMENT.contains(&format!("\n| {n} | {name} | ")), "{name}");
        let bytes = crate::id::hex(&entry.encode(&LogHash([0xee; 32])).unwrap());
        let line = format!("| {name} | `{bytes}` |");
        absent.extend((!DOCUMENT.contains(&format!("\n{line}\n"))).then_some(line));
    }
    assert!(absent.is_empty(), "{}", absent.join("\n"));
}
