//! One of each message, as `docs/protocol.md` (Vectors) describes them.

use repo::chunker::ChunkerParams;
use repo::clock::Time;
use repo::compress::Codec;
use repo::crypto::hash::ChunkKind;
use repo::error::Kind;
use repo::format::record::Position;
use repo::id::{ContentHash, DriveId, LogHash, PackId, RepoId, SnapshotId};
use sync::wire::*;

/// A chunk with the hash of `n`.
pub fn piece(kind: ChunkKind, len: u32, n: u8) -> Piece {
    Piece { kind, len, h: ContentHash::from_bytes([n; 32]) }
}

/// A chunk without its length.
pub fn name(kind: ChunkKind, n: u8) -> PieceName {
    PieceName { kind, h: ContentHash::from_bytes([n; 32]) }
}

/// A file of state.
pub fn state(name: &str) -> Object {
    Object::State(StateName::new(name).unwrap())
}

/// Every message, by the name of its vector.
pub fn samples() -> Vec<(&'static str, Message)> {
    [opening(), any(), objects(), pushing(), pulling()].concat()
}

fn position(n: u8) -> Position {
    Position { seq: n.into(), hash: LogHash([n; 32]) }
}

fn opening() -> Vec<(&'static str, Message)> {
    let keyring = || Some(Secret::new(vec![6; 32]));
    let (repository, tenant) = (Some(RepoId([7; 32])), || "acme".to_owned());
    let begin = |purpose| Message::Begin {
        purpose,
        repository: RepoId([7; 32]),
        position: position(9),
        program: "packmule 1".into(),
    };
    let ready = Message::Ready {
        session: Session([5; 16]),
        tenant: tenant(),
        sealed: false,
        watermark: Some(position(8)),
        partial: vec![(Object::Pack(PackId([3; 32])), 300)],
        quota_left: Some(1 << 40),
        chunker: ChunkerParams::DEFAULT,
        time: Time(-2),
        epochs: 300,
    };
    let first = Message::Ready {
        session: Session([5; 16]),
        tenant: tenant(),
        sealed: true,
        watermark: None,
        partial: Vec::new(),
        quota_left: None,
        chunker: ChunkerParams::DEFAULT,
        time: Time(-2),
        epochs: 0,
    };
    let redeem = |repository, keyring| Message::Redeem {
        token: Token::new([4; 32]),
        label: "site 1".into(),
        host: "web1".into(),
        repository,
        keyring,
    };
    let welcome = |role, repository, keyring| Message::Welcome {
        tenant: tenant(),
        role,
        sealed: false,
        host_key: "ssh-ed25519 AAAA".into(),
        repository,
        keyring,
    };
    vec![
        ("Begin", begin(Purpose::Push)),
        ("Attach", Message::Attach { session: Session([5; 16]) }),
        ("Redeem", redeem(repository, keyring())),
        ("Redeem, an empty site", redeem(None, None)),
        ("Ready", ready),
        ("Ready, the first time", first),
        ("Welcome", welcome(Role::Push, None, None)),
        ("Welcome back", welcome(Role::Restore, repository, keyring())),
    ]
}

fn any() -> Vec<(&'static str, Message)> {
    let fail = Fail::new(Kind::Locked, "another push runs").remedy("wait");
    vec![
        ("Fail", Message::Fail(fail)),
        ("Ping", Message::Ping(300)),
        ("Pong", Message::Pong(300)),
        ("Bye", Message::Bye),
        ("Data", Message::Data(b"packmule".to_vec())),
        ("Cut", Message::Cut),
        ("Keys", Message::Keys { keyring: Secret::new(vec![6; 64]) }),
    ]
}

fn objects() -> Vec<(&'static str, Message)> {
    let put = |object| Message::Put { object, size: 300, from: 100 };
    let listed = |object, size| Listed { object, size, until: Time(-2) };
    let pack = || Object::Pack(PackId([3; 32]));
    vec![
        ("Put, config", put(Object::Config)),
        ("Put, key slot", put(Object::Key([1; 8]))),
        ("Put, pack", put(pack())),
        ("Put, roll-up", put(Object::Footers(2))),
        ("Put, manifest", put(Object::Snapshot(SnapshotId([2; 32])))),
        ("Put, log record", put(Object::Log(513))),
        ("Put, state", put(state("tenants/acme/policy.toml"))),
        ("Durable", Message::Durable { object: pack(), bytes: 300 }),
        ("Refused", Message::Refused { object: pack(), why: "its name is not its hash".into() }),
        ("Objects", Message::Objects { area: Area::State, after: Some(state("a")) }),
        ("Objects, from the start", Message::Objects { area: Area::Packs, after: None }),
        (
            "Listing",
            Message::Listing {
                area: Area::State,
                objects: vec![listed(state("b"), 300), listed(state("c/d"), 0)],
                more: true,
            },
        ),
        ("Want", Message::Want { object: Object::Log(513), from: 100, most: 200 }),
        ("Lacking", Message::Lacking { object: Object::Log(513) }),
        ("Given", Message::Given { object: pack(), size: 300, from: 100, bytes: 50 }),
        ("Holding", Message::Holding { objects: vec![(pack(), 300), (Object::Log(513), 100)] }),
        ("Order", Message::Order { size: 300 }),
        ("Ordered", Message::Ordered { objects: 3, bytes: 300 }),
    ]
}

fn pushing() -> Vec<(&'static str, Message)> {
    let snapshot = SnapshotId([2; 32]);
    let mut missing = Bitmap::new(11);
    [0, 9].into_iter().for_each(|at| missing.set(at));
    let pieces = vec![piece(ChunkKind::Data, 5000, 1), piece(ChunkKind::Tree, 1, 2)];
    vec![
        ("Have", Message::Have { pieces }),
        ("Answer", Message::Answer { missing }),
        ("Manifest", Message::Manifest { snapshot, size: 300 }),
        ("Again", Message::Again { snapshot }),
        ("Accepted", Message::Accepted { snapshot, already: true }),
        ("Missing", Message::Missing { snapshot, pieces: vec![name(ChunkKind::Node, 1)], more: true }),
        ("Declined", Message::Declined { snapshot, reason: Reason::Clock, why: "it is from 2031".into() }),
        ("Done", Message::Done { position: position(9) }),
        ("Finished", Message::Finished { watermark: position(9) }),
        ("Keep", Message::Keep { mark: [7; 32], sealed: b"sealed".to_vec() }),
        ("Keep, a question", Message::Keep { mark: [7; 32], sealed: Vec::new() }),
        ("Kept", Message::Kept { there: true }),
        ("Recall", Message::Recall),
        ("Recalled", Message::Recalled { mark: [7; 32], sealed: b"sealed".to_vec() }),
        ("Receipts", Message::Receipts { drives: vec![DriveId([3; 32])] }),
        ("Signed", Message::Signed { receipts: vec!["packmule-receipt 1\n".into()] }),
        ("Signed, nothing", Message::Signed { receipts: Vec::new() }),
    ]
}

fn pulling() -> Vec<(&'static str, Message)> {
    let snapshot = SnapshotId([2; 32]);
    let entry = SnapshotEntry { id: snapshot, size: 300, received: Time(-2) };
    let pieces = vec![piece(ChunkKind::Tree, 200, 1), piece(ChunkKind::Node, 100, 2)];
    vec![
        ("List", Message::List { after: Some(snapshot) }),
        ("List, from the start", Message::List { after: None }),
        ("Snapshots", Message::Snapshots { snapshots: vec![entry], more: false }),
        ("Fetch", Message::Fetch { snapshot }),
        ("Get", Message::Get { pieces: vec![name(ChunkKind::Data, 1)] }),
        ("Chunks", Message::Chunks { codec: Codec::Zstd, raw: 300, pieces, payload: 200 }),
        ("Absent", Message::Absent { pieces: vec![name(ChunkKind::Data, 1)] }),
        ("Absent, nothing", Message::Absent { pieces: Vec::new() }),
    ]
}
