//! Every message there and back: one message, one encoding.

#[path = "support/samples.rs"]
mod samples;

use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;

use repo::chunker::ChunkerParams;
use repo::clock::Time;
use repo::compress::Codec;
use repo::crypto::hash::ChunkKind;
use repo::error::Kind;
use repo::format::record::Position;
use repo::id::{ContentHash, DriveId, LogHash, PackId, RepoId, SnapshotId};
use samples::{name, piece, samples};
use sync::wire::limits::*;
use sync::wire::*;

fn position() -> impl Strategy<Value = Position> {
    (any::<u64>(), any::<[u8; 32]>()).prop_map(|(seq, hash)| Position { seq, hash: LogHash(hash) })
}

fn snapshot() -> impl Strategy<Value = SnapshotId> {
    any::<[u8; 32]>().prop_map(SnapshotId)
}

/// A name that shows, of up to `max` bytes.
fn plain(max: usize) -> impl Strategy<Value = String> {
    "\\PC{1,200}".prop_filter_map("not plain, or too long", move |s| {
        let s = &s[..s.floor_char_boundary(max)];
        (!s.is_empty() && is_plain(s)).then(|| s.to_owned())
    })
}

fn text() -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..200).prop_map(String::from_iter)
}

fn secret() -> impl Strategy<Value = Option<Secret>> {
    option::of(vec(any::<u8>(), 0..300).prop_map(Secret::new))
}

fn size() -> impl Strategy<Value = u64> {
    prop_oneof![0..=MAX_OBJECT, Just(0), Just(MAX_OBJECT)]
}

fn area() -> impl Strategy<Value = Area> {
    (0..Area::ALL.len()).prop_map(|n| Area::ALL[n])
}

fn in_area(area: Area) -> BoxedStrategy<Object> {
    match area {
        Area::Config => Just(Object::Config).boxed(),
        Area::Keys => any::<[u8; 8]>().prop_map(Object::Key).boxed(),
        Area::Packs => any::<[u8; 32]>().prop_map(|id| Object::Pack(PackId(id))).boxed(),
        Area::Footers => any::<u64>().prop_map(Object::Footers).boxed(),
        Area::Snapshots => snapshot().prop_map(Object::Snapshot).boxed(),
        Area::Log => any::<u64>().prop_map(Object::Log).boxed(),
        Area::Audit => any::<u64>().prop_map(Object::Audit).boxed(),
        Area::State => "[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,20}(/[a-z][a-z.]{0,9}){0,3}"
            .prop_map(|name| Object::State(StateName::new(&name).unwrap()))
            .boxed(),
    }
}

fn object() -> impl Strategy<Value = Object> {
    area().prop_flat_map(in_area)
}

fn kind() -> impl Strategy<Value = ChunkKind> {
    prop_oneof![Just(ChunkKind::Data), Just(ChunkKind::Tree), Just(ChunkKind::Node)]
}

/// Pieces before they are some: hashes do not print.
type Raw = Vec<(ChunkKind, u32, [u8; 32])>;

fn raw(min: usize, len: u32) -> impl Strategy<Value = Raw> {
    vec((kind(), 1..=len, any::<[u8; 32]>()), min..40)
}

fn pieces(raw: Raw) -> Vec<Piece> {
    raw.into_iter().map(|(kind, len, h)| Piece { kind, len, h: ContentHash::from_bytes(h) }).collect()
}

fn names(raw: Raw) -> Vec<PieceName> {
    raw.into_iter().map(|(kind, _, h)| PieceName { kind, h: ContentHash::from_bytes(h) }).collect()
}

fn bitmap() -> impl Strategy<Value = Bitmap> {
    vec(any::<bool>(), 1..300).prop_map(|bits| {
        let mut map = Bitmap::new(bits.len());
        (0..bits.len()).filter(|at| bits[*at]).for_each(|at| map.set(at));
        map
    })
}

fn opening() -> BoxedStrategy<Message> {
    let purpose = (0..Purpose::ALL.len()).prop_map(|n| Purpose::ALL[n]);
    let role = (0..Role::ALL.len()).prop_map(|n| Role::ALL[n]);
    let repository = || option::of(any::<[u8; 32]>().prop_map(RepoId));
    let chunker = any::<(u16, u32, u32, u32)>().prop_map(|(id, min, avg, max)| ChunkerParams { id, min, avg, max });
    let partial = btree_map(object(), size(), 0..10).prop_map(|map| map.into_iter().collect::<Vec<_>>());
    let begin =
        (purpose, any::<[u8; 32]>(), position(), plain(MAX_LABEL)).prop_map(|(purpose, id, position, program)| {
            Message::Begin { purpose, repository: RepoId(id), position, program }
        });
    let redeem = (any::<[u8; 32]>(), plain(MAX_LABEL), plain(MAX_LABEL), repository(), secret()).prop_map(
        |(token, label, host, repository, keyring)| Message::Redeem {
            token: Token::new(token),
            label,
            host,
            repository,
            keyring,
        },
    );
    let fixed =
        (any::<[u8; 16]>(), plain(MAX_TENANT), any::<bool>(), option::of(any::<u64>()), any::<i64>(), 0..=4096u32);
    let ready = (fixed, option::of(position()), partial, chunker).prop_map(
        |((session, tenant, sealed, quota_left, time, epochs), watermark, partial, chunker)| {
            let (session, time) = (Session(session), Time(time));
            Message::Ready { session, tenant, sealed, watermark, partial, quota_left, chunker, time, epochs }
        },
    );
    let welcome = (plain(MAX_TENANT), role, any::<bool>(), plain(MAX_HOST_KEY), repository(), secret()).prop_map(
        |(tenant, role, sealed, host_key, repository, keyring)| Message::Welcome {
            tenant,
            role,
            sealed,
            host_key,
            repository,
            keyring,
        },
    );
    let attach = any::<[u8; 16]>().prop_map(|session| Message::Attach { session: Session(session) });
    prop_oneof![begin, redeem, ready, welcome, attach].boxed()
}

fn anywhere() -> BoxedStrategy<Message> {
    let fail = (any::<u8>(), text(), text(), any::<bool>())
        .prop_map(|(code, message, remedy, retry)| Message::Fail(Fail { code, message, remedy, retry }));
    prop_oneof![
        fail,
        any::<u64>().prop_map(Message::Ping),
        any::<u64>().prop_map(Message::Pong),
        Just(Message::Bye),
        Just(Message::Cut),
        proptest::collection::vec(any::<u8>(), 0..100).prop_map(|bytes| Message::Keys { keyring: Secret::new(bytes) }),
        vec(any::<u8>(), 1..3000).prop_map(Message::Data),
    ]
    .boxed()
}

fn about_objects() -> BoxedStrategy<Message> {
    let listing = (area(), any::<bool>()).prop_flat_map(|(area, more)| {
        let one = |(object, (size, until))| Listed { object, size, until: Time(until) };
        let objects = btree_map(in_area(area), (size(), any::<i64>()), 1..12);
        objects.prop_map(move |map| Message::Listing { area, objects: map.into_iter().map(one).collect(), more })
    });
    let after =
        area().prop_flat_map(|area| option::of(in_area(area)).prop_map(move |after| Message::Objects { area, after }));
    prop_oneof![
        (object(), size(), size()).prop_map(|(object, a, b)| Message::Put { object, size: a.max(b), from: a.min(b) }),
        (object(), size()).prop_map(|(object, bytes)| Message::Durable { object, bytes }),
        (object(), text()).prop_map(|(object, why)| Message::Refused { object, why }),
        listing,
        area().prop_map(|area| Message::Listing { area, objects: Vec::new(), more: false }),
        after,
        (object(), size(), 1..=MAX_OBJECT).prop_map(|(object, from, most)| Message::Want { object, from, most }),
        (object(), size(), size(), size()).prop_map(|(object, a, b, most)| {
            let (size, from) = (a.max(b), a.min(b));
            Message::Given { object, size, from, bytes: most.min(size - from) }
        }),
        vec((object(), size()), 1..30).prop_map(|objects| Message::Holding { objects }),
        (1..=MAX_ORDER).prop_map(|size| Message::Order { size }),
        any::<(u64, u64)>().prop_map(|(objects, bytes)| Message::Ordered { objects, bytes }),
        object().prop_map(|object| Message::Lacking { object }),
    ]
    .boxed()
}

fn pushing() -> BoxedStrategy<Message> {
    let reason = (0..Reason::ALL.len()).prop_map(|n| Reason::ALL[n]);
    prop_oneof![
        raw(1, MAX_FRAME).prop_map(|raw| Message::Have { pieces: pieces(raw) }),
        bitmap().prop_map(|missing| Message::Answer { missing }),
        (snapshot(), 1..=MAX_MANIFEST).prop_map(|(snapshot, size)| Message::Manifest { snapshot, size }),
        snapshot().prop_map(|snapshot| Message::Again { snapshot }),
        (snapshot(), any::<bool>()).prop_map(|(snapshot, already)| Message::Accepted { snapshot, already }),
        (snapshot(), raw(1, 1), any::<bool>()).prop_map(|(snapshot, raw, more)| Message::Missing {
            snapshot,
            pieces: names(raw),
            more
        }),
        (snapshot(), reason, text()).prop_map(|(snapshot, reason, why)| Message::Declined { snapshot, reason, why }),
        position().prop_map(|position| Message::Done { position }),
        position().prop_map(|watermark| Message::Finished { watermark }),
        (any::<[u8; 32]>(), vec(any::<u8>(), 0..99)).prop_map(|(mark, sealed)| Message::Keep { mark, sealed }),
        (any::<[u8; 32]>(), vec(any::<u8>(), 0..99)).prop_map(|(mark, sealed)| Message::Recalled { mark, sealed }),
        any::<bool>().prop_map(|there| Message::Kept { there }),
        Just(Message::Recall),
        vec(any::<[u8; 32]>().prop_map(DriveId), 1..=MAX_DRIVES).prop_map(|drives| Message::Receipts { drives }),
        vec(text(), 0..9).prop_map(|receipts| Message::Signed { receipts }),
    ]
    .boxed()
}

fn pulling() -> BoxedStrategy<Message> {
    let page = (btree_set(snapshot(), 1..12), 0..=MAX_MANIFEST, any::<i64>(), any::<bool>());
    let snapshots = page.prop_map(|(ids, size, received, more)| {
        let entry = |id| SnapshotEntry { id, size, received: Time(received) };
        Message::Snapshots { snapshots: ids.into_iter().map(entry).collect(), more }
    });
    let chunks = (raw(1, 50_000), any::<Option<u32>>()).prop_map(|(raw, payload)| {
        let pieces = pieces(raw);
        let raw = pieces.iter().map(|piece| piece.len).sum::<u32>();
        match payload {
            None => Message::Chunks { codec: Codec::None, raw, pieces, payload: raw },
            Some(n) => Message::Chunks { codec: Codec::Zstd, raw, pieces, payload: n % raw + 1 },
        }
    });
    prop_oneof![
        option::of(snapshot()).prop_map(|after| Message::List { after }),
        snapshots,
        snapshot().prop_map(|snapshot| Message::Fetch { snapshot }),
        raw(1, 1).prop_map(|raw| Message::Get { pieces: names(raw) }),
        raw(0, 1).prop_map(|raw| Message::Absent { pieces: names(raw) }),
        chunks,
    ]
    .boxed()
}

/// All of `bytes` is one message: its kind and body.
fn parts(bytes: &[u8]) -> (u8, &[u8]) {
    let (head, body) = bytes.split_first_chunk::<HEADER>().unwrap();
    let header = Header::decode(head).unwrap();
    assert_eq!(header.body, body.len());
    (header.kind, body)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn what_is_sent_is_received(message in prop_oneof![opening(), anywhere(), about_objects(), pushing(), pulling()]) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes).unwrap();
        let (kind, body) = parts(&bytes);
        let back = Message::decode(kind, body).unwrap();
        prop_assert!(back == message, "{:?} became {:?}", message, back);
        let mut again = b"before".to_vec();
        back.encode(&mut again).unwrap();
        prop_assert_eq!(&again[6..], &bytes[..]);
    }
}

#[test]
fn the_samples_leave_no_message_out() {
    let told: std::collections::BTreeSet<u8> = samples().iter().map(|(_, message)| message.kind()).collect();
    // A body of nothing: what is not known is refused as newer, what is known as broken or read.
    let known = (0..128).filter(|kind| Message::decode(*kind, &[]).map_err(|e| e.kind()) != Err(Kind::NewerFormat));
    assert_eq!(told.into_iter().collect::<Vec<_>>(), known.collect::<Vec<_>>());
}

#[test]
fn what_is_out_of_bounds_is_not_sent() {
    let (h, snapshot) = (name(ChunkKind::Data, 1), SnapshotId([1; 32]));
    let fail = |message: String| Message::Fail(Fail { code: 1, message, remedy: String::new(), retry: false });
    let put = |size, from| Message::Put { object: Object::Config, size, from };
    let lacking = |n: u64| Listed { object: Object::Log(n), size: 1, until: Time(0) };
    let listing = |area, objects, more| Message::Listing { area, objects, more };
    let chunks = |codec, raw, len, payload| Message::Chunks {
        codec,
        raw,
        pieces: vec![piece(ChunkKind::Data, len, 1)],
        payload,
    };
    let most = |n: usize| Message::Get { pieces: vec![h; n] };
    let label = |label: String| Message::Redeem {
        token: Token::new([1; 32]),
        label,
        host: "h".into(),
        repository: None,
        keyring: Some(Secret::new(vec![0; MAX_KEYRING])),
    };
    let whole_list = Message::Have { pieces: vec![piece(ChunkKind::Data, MAX_FRAME, 1); MAX_PIECES] };
    let long_names = (0..MAX_LISTING)
        .map(|n| (samples::state(&format!("{}/{n:064}", ["x"; 2].map(|x| x.repeat(63)).join("/"))), MAX_OBJECT));
    let partial = long_names.clone().take(MAX_PARTIAL).collect();
    let Some((_, Message::Ready { session, tenant, watermark, chunker, time, .. })) =
        samples().into_iter().find(|(name, _)| *name == "Ready")
    else {
        unreachable!()
    };
    let quota_left = Some(u64::MAX);
    let drives = |n: usize| Message::Receipts { drives: vec![DriveId([1; 32]); n] };
    let signed = |n: usize, len: usize| Message::Signed { receipts: vec!["x".repeat(len); n] };
    let ids = (0..MAX_SNAPSHOTS as u32).map(|n| {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&n.to_be_bytes());
        SnapshotEntry { id: SnapshotId(id), size: MAX_MANIFEST, received: Time(0) }
    });
    let allowed = [
        Message::Ready { session, tenant, sealed: true, watermark, partial, quota_left, chunker, time, epochs: 4096 },
        Message::Snapshots { snapshots: ids.collect(), more: true },
        fail("x".repeat(MAX_TEXT)),
        put(MAX_OBJECT, MAX_OBJECT),
        listing(Area::Log, vec![lacking(1), lacking(2)], true),
        listing(Area::Log, vec![], false),
        listing(
            Area::State,
            long_names.clone().map(|(object, size)| Listed { object, size, until: Time(i64::MAX) }).collect(),
            true,
        ),
        Message::Holding { objects: long_names.collect() },
        chunks(Codec::None, 5, 5, 5),
        chunks(Codec::Zstd, MAX_FRAME, MAX_FRAME, MAX_FRAME),
        most(MAX_PIECES),
        whole_list,
        label("x".repeat(MAX_LABEL)),
        Message::Data(vec![1; MAX_DATA]),
        Message::Manifest { snapshot, size: MAX_MANIFEST },
        Message::Answer { missing: Bitmap::new(MAX_PIECES) },
        drives(MAX_DRIVES),
        signed(MAX_DRIVES, MAX_RECEIPT),
    ];
    for message in allowed {
        message.encode(&mut Vec::new()).unwrap_or_else(|e| panic!("{message:?}: {e}"));
    }
    let refused = [
        fail("x".repeat(MAX_TEXT + 1)),
        put(MAX_OBJECT + 1, 0),
        put(1, 2),
        listing(Area::Log, vec![lacking(2), lacking(1)], true),
        listing(Area::Log, vec![lacking(1), lacking(1)], true),
        listing(Area::Log, vec![], true),
        listing(Area::Packs, vec![lacking(1)], true),
        listing(Area::Log, (0..=MAX_LISTING as u64).map(lacking).collect(), true),
        Message::Snapshots { snapshots: vec![], more: true },
        chunks(Codec::None, 5, 5, 4),
        chunks(Codec::Zstd, 5, 4, 5),
        chunks(Codec::Zstd, 5, 5, 6),
        chunks(Codec::Zstd, 5, 5, 0),
        chunks(Codec::Zstd, MAX_FRAME + 1, MAX_FRAME + 1, 1),
        Message::Chunks { codec: Codec::Zstd, raw: 0, pieces: vec![], payload: 0 },
        most(0),
        most(MAX_PIECES + 1),
        Message::Have { pieces: vec![piece(ChunkKind::Data, 0, 1)] },
        Message::Missing { snapshot, pieces: vec![], more: false },
        label(String::new()),
        label("a\nb".into()),
        label("x".repeat(MAX_LABEL + 1)),
        Message::Data(vec![]),
        Message::Data(vec![1; MAX_DATA + 1]),
        Message::Manifest { snapshot, size: MAX_MANIFEST + 1 },
        Message::Manifest { snapshot, size: 0 },
        Message::Answer { missing: Bitmap::new(0) },
        Message::Answer { missing: Bitmap::new(MAX_PIECES + 1) },
        drives(0),
        drives(MAX_DRIVES + 1),
        signed(MAX_DRIVES + 1, 1),
        signed(1, MAX_RECEIPT + 1),
    ];
    for message in refused {
        let mut out = b"kept".to_vec();
        let e = message.encode(&mut out).expect_err(&format!("{message:?}"));
        assert_eq!((e.kind(), &out[..]), (Kind::Usage, &b"kept"[..]), "{message:?}");
    }
}

#[test]
fn nothing_secret_shows() {
    const SECRET: u8 = 0xab;
    let snapshot = SnapshotId([2; 32]);
    let (pieces, names) = (vec![piece(ChunkKind::Tree, 9, SECRET)], vec![name(ChunkKind::Node, SECRET)]);
    let keyring = Some(Secret::new(vec![SECRET; 32]));
    let redeem = Message::Redeem {
        token: Token::new([SECRET; 32]),
        label: "l".into(),
        host: "h".into(),
        repository: None,
        keyring: keyring.clone(),
    };
    let welcome = Message::Welcome {
        tenant: "t".into(),
        role: Role::Restore,
        sealed: false,
        host_key: "k".into(),
        repository: None,
        keyring,
    };
    let mut all = vec![
        Message::Attach { session: Session([SECRET; 16]) },
        redeem,
        welcome,
        Message::Data(vec![SECRET; 9]),
        Message::Have { pieces: pieces.clone() },
        Message::Missing { snapshot, pieces: names.clone(), more: false },
        Message::Get { pieces: names.clone() },
        Message::Absent { pieces: names },
        Message::Chunks { codec: Codec::None, raw: 9, pieces, payload: 9 },
    ];
    for (_, mut message) in samples() {
        if let Message::Ready { session, .. } = &mut message {
            *session = Session([SECRET; 16]);
            all.push(message);
        }
    }
    assert_eq!(all.len(), 11);
    for message in all {
        let said = format!("{message:?}");
        assert!(!said.contains("171") && !said.to_lowercase().contains("abab"), "{said}");
        assert!(said.starts_with(message.name()), "{said}");
    }
    let data = format!("{:?}", Incoming::Data(&[SECRET; 9]));
    assert_eq!(data, "Data(9 bytes)");
}
