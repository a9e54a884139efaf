//! Every decoder against bytes that nobody vouches for: arbitrary ones, and valid ones that were changed. None may panic,
//! none may set aside memory out of proportion to what it was given, and what it accepts must be what would be written.

#[path = "common/counting.rs"]
mod counting;
#[path = "hostile/decoders.rs"]
mod decoders;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use counting::bounded;
use decoders::*;
use repo::chunker::ChunkerParams;
use repo::clock::Time;
use repo::compress::{Codec, Packer};
use repo::crypto::hash::ChunkKind;
use repo::crypto::keys::{FrameKind, Object};
use repo::crypto::slot::{Argon2Cost, RecoveryCode, SALT};
use repo::format::config::Config;
use repo::format::footer::{Footer, RollupEntry, decode_rollup, encode_rollup};
use repo::format::manifest::{Manifest, Stats};
use repo::format::node::{DirChild, FileChild, NodeWriter};
use repo::format::pack::{header, parse_header, trailer};
use repo::format::record::{self, PackRef, State};
use repo::format::sidecar::{Record, Stat};
use repo::format::slot::{Lock, Slot, SlotHead};
use repo::format::tree::{Content, DirRef, Entry, EntryType, Extent, FileTime, UnknownField, XattrValue};
use repo::format::wire::{Reader, Writer};
use repo::id::{ContentHash, LogHash, PackId, SessionId, SnapshotId};

// Valid encodings.

fn h(n: u8) -> ContentHash {
    ContentHash::from_bytes([n; 32])
}

fn valid_config() -> Vec<u8> {
    let keys = fixed_keys();
    let (chunker, pack_size) = (ChunkerParams::DEFAULT, 32 << 20);
    Config { version: 1, repo_id: repo_id(), chunker, pack_size, owner_public: [9; 32] }.encode(&keys)
}

fn valid_slots() -> Vec<Vec<u8>> {
    let salt = [3; SALT];
    let locks = [
        Lock::Passphrase { cost: Argon2Cost::DEFAULT, salt },
        Lock::Recovery { salt },
        Lock::Recipient { recipient: "age1xyz".into(), wrapped: vec![1; 200] },
        Lock::Owner { salt },
    ];
    let head = |lock| SlotHead { repo_id: repo_id(), created: 5, epochs: 2, label: "büro".into(), lock };
    locks.map(|lock| Slot { head: head(lock), sealed: vec![9; 104] }.encode()).into()
}

fn valid_footer() -> Vec<u8> {
    let mut footer = Footer::new(FrameKind::Tree, SessionId([3; 32]));
    footer.push(240, 300, Codec::Zstd, 0, &[(ChunkKind::Tree, h(1), 200), (ChunkKind::Node, h(2), 100)]);
    footer.push(50, 10, Codec::None, 1, &[(ChunkKind::Data, h(3), 10)]);
    footer.encode()
}

fn valid_rollup() -> Vec<u8> {
    let entry = |n| RollupEntry { id: PackId([n; 32]), size: 400, sealed_footer: valid_footer() };
    encode_rollup(&[entry(1), entry(2)])
}

fn valid_entries() -> Vec<Entry> {
    let extents = vec![Extent::Hole { len: 4096 }, Extent::Data { h: h(1), len: 5000 }];
    let contents = [
        (Content::Inline(b"abc".to_vec()), 3),
        (Content::Extents(extents), 9096),
        (Content::Indexed { h: h(1), depth: 2 }, 1 << 40),
        (Content::Dir(DirRef { entries: 300, depth: 1, h: h(1) }), 0),
        (Content::Dir(DirRef::empty()), 0),
    ];
    let mut all: Vec<Entry> = contents
        .into_iter()
        .map(|(content, size)| {
            let kind = if matches!(content, Content::Dir(_)) { EntryType::Dir } else { EntryType::File };
            let mut e = Entry::new("x", kind);
            (e.content, e.size, e.mode) = (content, size, 0o4755);
            e.mtime = FileTime { secs: -2, nanos: 999_999_999 };
            (e.user, e.group) = (b"alice".to_vec(), b"users".to_vec());
            e
        })
        .collect();
    all.push(Entry { target: b"../to".to_vec(), size: 5, ..Entry::new("x", EntryType::Symlink) });
    all.push(Entry { rdev: 0x103, ..Entry::new("x", EntryType::BlockDevice) });
    let mut full = all[0].clone();
    full.xattrs = vec![
        (b"user.a".to_vec(), XattrValue::Inline(b"1".to_vec())),
        (b"user.b".to_vec(), XattrValue::Chunk { h: h(5), len: 2000 }),
    ];
    (full.link_group, full.unstable) = (Some([6; 32]), true);
    full.unknown = vec![UnknownField { number: 1000, bytes: b"?".to_vec() }];
    all.push(full);
    (0..).zip(&mut all).for_each(|(n, e)| e.name = vec![b'a' + n]);
    all
}

fn valid_tree() -> Vec<u8> {
    let mut out = Vec::new();
    valid_entries().iter().for_each(|e| e.encode(&mut out));
    out
}

fn valid_nodes() -> Vec<Vec<u8>> {
    let mut extents = NodeWriter::extents();
    extents.extent(&Extent::Hole { len: 4096 });
    extents.extent(&Extent::Data { h: h(1), len: 5000 });
    let mut file = NodeWriter::file();
    file.file_child(&FileChild { len: 9096, h: h(1) });
    let mut dir = NodeWriter::dir();
    dir.dir_child(&DirChild { first: b"a".to_vec(), entries: 300, h: h(1) });
    dir.dir_child(&DirChild { first: b"b".to_vec(), entries: 1, h: h(2) });
    vec![extents.into_vec(), file.into_vec(), dir.into_vec()]
}

fn valid_manifest() -> Vec<u8> {
    Manifest {
        id: snapshot(),
        host: "web1".into(),
        source: "srv".into(),
        username: "root".into(),
        program: "packmule 1".into(),
        paths: vec![b"/srv".to_vec(), b"/etc".to_vec()],
        tags: vec!["ä".into()],
        captured: -1,
        captured_end: 2,
        recorded: 3,
        parent: Some(SnapshotId([4; 32])),
        root: valid_entries().swap_remove(3),
        sidecar: Some(Content::Extents(vec![Extent::Data { h: h(5), len: 40 }])),
        stats: Stats { files: 1 << 40, errors: 3, ..Stats::default() },
        origin: None,
    }
    .encode()
}

fn valid_sidecar() -> Vec<u8> {
    let stat = Stat { ino: 300, ctime: FileTime { secs: -2, nanos: 5 } };
    let mut w = Writer::new();
    for dir in [true, false] {
        Record::Entry { check: 7, dir, stat }.encode(&mut w);
    }
    Record::Leave.encode(&mut w);
    w.into_vec()
}

fn valid_records() -> Vec<Vec<u8>> {
    use record::Record::*;
    let (session, snapshot, at) = (SessionId([1; 32]), snapshot(), Time(5));
    let (packs, snapshots) = (vec![PackId([3; 32]), PackId([4; 32])], vec![snapshot]);
    let pack = PackRef { id: packs[0], size: 300, footer_len: 70, kind: FrameKind::Tree };
    let text = || "text".to_owned();
    let removal = record::Removal { at, snapshots: 3, bytes: 1 << 30 };
    let tenant = record::TenantState { removed: Some(removal), ..record::TenantState::new("acme", false, at) };
    let certificate = record::Certificate { name: text(), repository: None, removal, completed: at };
    let audited = record::AuditEntry { who: text(), tenant: Some(5), millis: 300, ..Default::default() };
    let records = vec![
        SessionBegin {
            session,
            number: 1,
            purpose: text(),
            host: text(),
            pid: 4,
            parent: Some(snapshot),
            at,
            expires: at,
        },
        PacksAdded { session, rollup: 9, packs: vec![pack] },
        SnapshotRecorded {
            session,
            origin: None,
            snapshot,
            recorded: at,
            host: text(),
            source: text(),
            captured: at,
            tags: vec![text()],
            manifest_hash: [4; 32],
        },
        Forgotten { snapshots: snapshots.clone(), at },
        Tagged { snapshot, add: vec![text()], remove: vec![text()] },
        Condemned { session, packs: packs.clone() },
        SweepIntent { session, packs: packs.clone(), snapshots },
        Damage { packs, at },
        KeyEpoch { epoch: 200, at },
        CheckDone { at, data: true, ok: false, subset: text() },
        TenantSet { tenant: 5, state: Box::new(tenant) },
        PolicySet { policy: record::PolicyState { window: Some(9), ..Default::default() } },
        PolicySet { policy: record::PolicyState::default() },
        TenantRemoved { tenant: 6, certificate: Box::new(certificate) },
        AuditKept { segment: 3, hash: LogHash([6; 32]) },
        Audited { entry: Box::new(audited.clone()) },
        Ignored { kind: 0x90, body: b"later".to_vec() },
    ];
    let mut state = State::default();
    let mut out = Vec::new();
    for (seq, record) in (1..).zip(records) {
        let entry = record::Entry { seq, time: at, trusted: true, record };
        state.apply(&entry, LogHash([seq as u8; 32]));
        out.push(entry.encode(&LogHash([0; 32])).unwrap());
    }
    let record = Checkpoint { state: Box::new(state) };
    out.push(record::Entry { seq: 513, time: at, trusted: true, record }.encode(&LogHash([0; 32])).unwrap());
    let one = |seq| record::Audited { seq, time: at, entry: audited.clone() };
    out.push(record::Audited::encode_segment(&LogHash([5; 32]), 2, &[one(300), one(301)]));
    out
}

/// Every valid encoding with its decoder.
fn valid() -> Vec<(Decoder, Vec<u8>)> {
    // Without the checksum at their end, which the decoders put on again: otherwise it would hide all that follows.
    let unsummed = |mut bytes: Vec<u8>| {
        bytes.truncate(bytes.len() - 32);
        bytes
    };
    let mut zstd = Vec::new();
    Packer::new(3).unwrap().pack(&[7; 5000], &mut zstd).unwrap();
    let mut all: Vec<(Decoder, Vec<u8>)> = vec![
        (config, unsummed(valid_config())),
        (pack, [&header(FrameKind::Tree)[..], &[0; 50], &trailer(50)].concat()),
        (footer, valid_footer()),
        (rollup, valid_rollup()),
        (tree, valid_tree()),
        (manifest, valid_manifest()),
        (sidecar, valid_sidecar()),
        (sealed, fixed_keys().seal(Object::Manifest, b"", b"plain")),
        (frame, [&[0, 0x13, 0x88][..], &zstd].concat()),
        (recovery_code, RecoveryCode::random().to_text().as_bytes().to_vec()),
    ];
    all.extend(valid_slots().into_iter().map(|bytes| (slot as Decoder, unsummed(bytes))));
    all.extend(valid_nodes().into_iter().map(|bytes| (index_node as Decoder, bytes)));
    all.extend(valid_records().into_iter().map(|bytes| (log_record as Decoder, bytes)));
    all
}

/// A change of bytes.
#[derive(Clone, Debug)]
enum Change {
    Set(Index, u8),
    Flip(Index, u8),
    Cut(Index),
    Drop(Index, usize),
    Insert(Index, Vec<u8>),
    Repeat(Index, usize),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let n = bytes.len();
        match self {
            Change::Set(at, v) => bytes[at.index(n)] = *v,
            Change::Flip(at, bit) => bytes[at.index(n)] ^= 1 << (bit % 8),
            Change::Cut(at) => bytes.truncate(at.index(n)),
            Change::Drop(at, len) => drop(bytes.drain(at.index(n)..(at.index(n) + len).min(n))),
            Change::Insert(at, with) => drop(bytes.splice(at.index(n)..at.index(n), with.clone())),
            Change::Repeat(at, len) => {
                let piece = bytes[at.index(n)..(at.index(n) + len).min(n)].to_vec();
                bytes.splice(at.index(n)..at.index(n), piece);
            }
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    // Bytes that lengths, counts and varints care about come up often.
    let byte = || prop_oneof![any::<u8>(), prop::sample::select(vec![0, 1, 2, 0x7f, 0x80, 0xff])];
    prop_oneof![
        4 => (any::<Index>(), byte()).prop_map(|(at, v)| Change::Set(at, v)),
        2 => (any::<Index>(), any::<u8>()).prop_map(|(at, bit)| Change::Flip(at, bit)),
        1 => any::<Index>().prop_map(Change::Cut),
        1 => (any::<Index>(), 1usize..40).prop_map(|(at, len)| Change::Drop(at, len)),
        2 => (any::<Index>(), vec(byte(), 1..12)).prop_map(|(at, with)| Change::Insert(at, with)),
        1 => (any::<Index>(), 1usize..80).prop_map(|(at, len)| Change::Repeat(at, len)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes(bytes in vec(any::<u8>(), 0..600), first in 0u8..4) {
        for decoder in DECODERS {
            decoder(&bytes);
            // Past the byte for version, sort or kind, which few arbitrary ones have right.
            decoder(&[&[first], &bytes[..]].concat());
        }
        slot(&[&b"PMULESLT\x01\0"[..], &[first], &bytes].concat());
        config(&[&b"PACKMULE\x01\0"[..], &bytes].concat());
        manifest(&[&[1][..], &snapshot().0, &bytes].concat());
        log_record(&[&[0; 48][..], &[first & 1], &bytes].concat());
        log_record(&[&[0; 48][..], &[1, 19, first], &bytes].concat());
    }

    #[test]
    fn changed_encodings(changes in vec(change(), 1..5), which: Index) {
        let valid = valid();
        let (decoder, mut bytes) = valid[which.index(valid.len())].clone();
        for change in &changes {
            change.apply(&mut bytes);
        }
        decoder(&bytes);
    }
}

#[test]
fn every_byte_of_every_encoding_set_to_every_value_that_matters() {
    for (decoder, bytes) in valid() {
        decoder(&bytes);
        for at in 0..bytes.len() {
            for v in [0, 1, 2, 3, 0x7f, 0x80, 0xff, bytes[at] ^ 1, bytes[at].wrapping_add(1)] {
                let mut bad = bytes.clone();
                bad[at] = v;
                decoder(&bad);
            }
            decoder(&bytes[..at]);
        }
    }
}

#[test]
fn lengths_and_counts_of_any_size_set_nothing_aside() {
    // A varint of each magnitude wherever one could stand.
    for (decoder, bytes) in valid() {
        for shift in [7, 14, 21, 28, 31, 32, 35, 48, 63] {
            let mut w = Writer::new();
            w.varint(1 << shift);
            for at in 0..=bytes.len() {
                let mut bad = bytes.clone();
                bad.splice(at..(at + 1).min(bytes.len()), w.as_slice().iter().copied());
                decoder(&bad);
            }
        }
    }
}

/// An entry of this type with one field.
fn with_field(kind: u8, tag: u64, value: &[u8]) -> Vec<u8> {
    let mut body = Writer::new();
    body.lp_bytes(b"x");
    body.u8(kind);
    for _ in 0..6 {
        body.varint(0);
    }
    body.varint(tag);
    body.lp_bytes(value);
    let mut w = Writer::new();
    w.lp_bytes(body.as_slice());
    w.into_vec()
}

#[test]
fn what_no_writer_writes_is_damage() {
    let damaged = |e: repo::error::Error| assert_eq!(e.kind(), repo::error::Kind::Damaged, "{e}");
    let entry = |bytes: &[u8]| Entry::decode(&mut Reader::new(bytes)).err();
    // A mark with bytes, no extents, an empty directory that is somewhere.
    for (kind, tag, value) in [
        (3, 8 << 1, b"v".to_vec()),
        (0, 7 << 1 | 1, vec![1]),
        (1, 7 << 1 | 1, [&[3, 0, 0][..], &[1; 32]].concat()),
        (1, 7 << 1 | 1, [&[3, 0, 1][..], &[0; 32]].concat()),
    ] {
        damaged(entry(&with_field(kind, tag, &value)).unwrap());
    }
    assert!(entry(&with_field(1, 7 << 1 | 1, &[&[3, 0, 0][..], &[0; 32]].concat())).is_none());
    // Version 0, wherever there is one.
    let zeroed = |mut bytes: Vec<u8>| {
        bytes[0] = 0;
        bytes
    };
    damaged(Footer::decode(&zeroed(valid_footer())).err().unwrap());
    damaged(decode_rollup(&zeroed(valid_rollup())).err().unwrap());
    damaged(Manifest::decode(&zeroed(valid_manifest()), &snapshot()).err().unwrap());
    let mut head = header(FrameKind::Data);
    head[8] = 0;
    damaged(parse_header(&head).unwrap_err());
    // Frames shorter than their seal, and longer than their plaintext allows.
    for stored in [39, 341, u32::MAX - 16] {
        let mut footer = Footer::new(FrameKind::Data, SessionId([3; 32]));
        footer.push(stored, 300, Codec::None, 0, &[(ChunkKind::Data, h(1), 300)]);
        damaged(Footer::decode(&footer.encode()).err().unwrap());
    }
    // A sidecar that is a directory, and a time that is none.
    let entries = valid_entries();
    let dir = Manifest {
        sidecar: Some(entries[3].content.clone()),
        ..Manifest::decode(&valid_manifest(), &snapshot()).unwrap()
    };
    damaged(Manifest::decode(&dir.encode(), &snapshot()).err().unwrap());
    let mut w = Writer::new();
    let ctime = FileTime { secs: 0, nanos: 1_000_000_000 };
    Record::Entry { check: 0, dir: false, stat: Stat { ino: 1, ctime } }.encode(&mut w);
    damaged(Record::decode(&mut Reader::new(w.as_slice())).unwrap_err());
}

#[test]
fn a_count_that_is_full_stays_full() {
    let session = SessionId([1; 32]);
    let mut state = State::default();
    let begin = valid_records().swap_remove(0);
    state.apply(&record::Entry::decode(&begin).unwrap().1, LogHash([1; 32]));
    state.sessions.get_mut(&session).unwrap().packs = u64::MAX;
    let pack = PackRef { id: PackId([3; 32]), size: 1, footer_len: 1, kind: FrameKind::Data };
    let added = record::Record::PacksAdded { session, rollup: u64::MAX, packs: vec![pack] };
    state.apply(&record::Entry { seq: 2, time: Time(i64::MAX), trusted: true, record: added }, LogHash([2; 32]));
    assert_eq!(state.sessions[&session].packs, u64::MAX);
}
