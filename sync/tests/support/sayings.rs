//! All that a client can say.

use repo::backend::Area as Stored;
use repo::chunker::ChunkerParams;
use repo::clock::Time;
use repo::compress::Codec;
use repo::crypto::hash::ChunkKind;
use repo::error::Kind;
use repo::format::record::Position;
use repo::id::{ContentHash, DriveId, PackId, SnapshotId};
use repo::tree::closure;
use sync::wire::*;

use crate::raw::with_bytes;
use crate::scene::{Party, is_open_to_a_recipient, put};
use crate::site;

/// A chunk of the party's, and its kind.
pub fn piece_of(party: &Party) -> PieceName {
    let state = party.repo.log.state();
    let manifest = repo::snapshots::manifest(&party.repo, state.snapshots.keys().next().unwrap()).unwrap();
    let mut found = None;
    closure::walk(party.repo.store().as_ref(), &manifest, &repo::monitor::Void::default(), &mut |h, kind| {
        found = Some(PieceName { kind, h: *h });
        Ok(true)
    })
    .unwrap();
    found.unwrap()
}

pub fn first(party: &Party, area: Stored) -> (Object, Vec<u8>) {
    let mut all = party.objects(area);
    all.retain(|(object, bytes)| !matches!(object, Object::Key(_)) || is_open_to_a_recipient(bytes));
    all.swap_remove(0)
}

/// One or more of every message there is, by a name that begins with its kind's: as a client of `own` may say it that has seen
/// things of `other`'s.
pub fn sayings(own: &Party, other: &Party) -> Vec<(String, Vec<Message>)> {
    let position = own.position();
    let pack = first(own, Stored::Packs);
    let mut packs = other.objects(Stored::Packs);
    // One that is delivered by who came by it, and one that is not.
    let (taken, theirs) = (packs.pop().unwrap(), packs.pop().unwrap());
    let snapshot = |party: &Party| match first(party, Stored::Snapshots) {
        (Object::Snapshot(id), bytes) => (id, bytes),
        _ => unreachable!(),
    };
    let (mine, strange) = (snapshot(own), snapshot(other));
    let manifest = |(snapshot, bytes): &(SnapshotId, Vec<u8>)| {
        with_bytes(Message::Manifest { snapshot: *snapshot, size: bytes.len() as u64 }, bytes)
    };
    let have = |name: PieceName| vec![Message::Have { pieces: vec![Piece { kind: name.kind, len: 9, h: name.h }] }];
    let pieces = |party: &Party| vec![piece_of(party)];
    let piece = Piece { kind: ChunkKind::Data, len: 5, h: ContentHash::from_bytes([9; 32]) };
    let state = |name: &str| Object::State(StateName::new(name).unwrap());
    let noise = site::noise(7, 900);
    let named = Object::Pack(PackId(*blake3::hash(&noise).as_bytes()));
    let secret = |party: &Party| vec![Message::Keys { keyring: party.keyring() }];
    let want = |object: &Object| vec![Message::Want { object: object.clone(), from: 0, most: 100 }];
    let holding = |(object, bytes): &(Object, Vec<u8>)| {
        vec![Message::Holding { objects: vec![(object.clone(), bytes.len() as u64)] }]
    };
    let nobody = SnapshotId([3; 32]);
    let mut all: Vec<(&str, Vec<Message>)> = vec![
        ("Begin", vec![own.begin(Purpose::Push)]),
        ("Attach", vec![Message::Attach { session: Session([1; 16]) }]),
        ("Redeem", vec![own.redeem(Token::new([1; 32]), false)]),
        ("Ready", vec![ready(position)]),
        ("Welcome", vec![welcome()]),
        ("Fail", vec![Message::Fail(Fail::new(Kind::Io, "a client may fail"))]),
        ("Ping", vec![Message::Ping(7)]),
        ("Pong", vec![Message::Pong(7)]),
        ("Bye", vec![Message::Bye]),
        ("Data, unannounced", vec![Message::Data(vec![1; 10])]),
        ("Cut, of nothing", vec![Message::Cut]),
        ("Keys, own", secret(own)),
        ("Keys, another's", secret(other)),
        ("Put pack, own", put(pack.0.clone(), &pack.1)),
        ("Put pack, another's", put(taken.0, &taken.1)),
        ("Put pack, no pack", put(named.clone(), &noise)),
        ("Put pack, other bytes", put(Object::Pack(PackId([1; 32])), &noise)),
        (
            "Put pack, cut",
            vec![
                Message::Put { object: Object::Pack(PackId([1; 32])), size: 900, from: 0 },
                Message::Data(noise[..100].to_vec()),
                Message::Cut,
            ],
        ),
        ("Put config", put(Object::Config, &own.config())),
        ("Put config, another's", put(Object::Config, &other.config())),
        ("Put key slot, own", {
            let mut slots = own.objects(Stored::Keys);
            slots.retain(|(_, bytes)| is_open_to_a_recipient(bytes));
            let (object, bytes) = slots.swap_remove(0);
            put(object, &bytes)
        }),
        ("Put key slot, of a password", {
            let mut slots = own.objects(Stored::Keys);
            slots.retain(|(_, bytes)| !is_open_to_a_recipient(bytes));
            let (object, bytes) = slots.swap_remove(0);
            put(object, &bytes)
        }),
        ("Put footers, new", put(Object::Footers(77), &noise)),
        ("Put footers, of another's bytes", put(first(own, Stored::Footers).0, &noise)),
        ("Put snapshot, of other bytes", put(Object::Snapshot(mine.0), &noise)),
        ("Put snapshot, new", put(Object::Snapshot(nobody), &noise)),
        ("Put log, own", {
            let (object, bytes) = first(own, Stored::Log);
            put(object, &bytes)
        }),
        ("Put log, far ahead", put(Object::Log(100_000), &noise)),
        ("Put audit, a segment", put(Object::Audit(9), &noise)),
        ("Put state", put(state("policy"), &noise)),
        ("Put state, leading elsewhere", put(state("tenants/5/log/9"), &noise)),
        ("Durable", vec![Message::Durable { object: pack.0.clone(), bytes: 1 }]),
        ("Refused", vec![Message::Refused { object: pack.0.clone(), why: "why".into() }]),
        ("Listing", vec![Message::Listing { area: Area::Packs, objects: Vec::new(), more: false }]),
        ("Want own", want(&pack.0)),
        ("Want another's", want(&theirs.0)),
        ("Want config", want(&Object::Config)),
        ("Want state", want(&state("tenants/5/copy"))),
        ("Lacking", vec![Message::Lacking { object: pack.0.clone() }]),
        ("Given", with_bytes(Message::Given { object: pack.0.clone(), size: 5, from: 0, bytes: 5 }, b"bytes")),
        ("Holding own", holding(&pack)),
        ("Holding another's", holding(&theirs)),
        ("Order, forged", with_bytes(Message::Order { size: 900 }, &noise)),
        ("Ordered", vec![Message::Ordered { objects: 1, bytes: 1 }]),
        ("Have own", have(piece_of(own))),
        ("Have another's", have(piece_of(other))),
        ("Answer", vec![Message::Answer { missing: Bitmap::new(1) }]),
        ("Manifest, own", manifest(&mine)),
        ("Manifest, another's", manifest(&strange)),
        ("Manifest, own under another's name", manifest(&(strange.0, mine.1.clone()))),
        ("Manifest, cut", vec![Message::Manifest { snapshot: nobody, size: 900 }, Message::Cut]),
        ("Again, never sent", vec![Message::Again { snapshot: mine.0 }]),
        ("Accepted", vec![Message::Accepted { snapshot: mine.0, already: false }]),
        ("Missing", vec![Message::Missing { snapshot: mine.0, pieces: pieces(own), more: false }]),
        ("Declined", vec![Message::Declined { snapshot: mine.0, reason: Reason::Quota, why: "why".into() }]),
        ("Done", vec![Message::Done { position }]),
        ("Done, elsewhere", vec![Message::Done { position: Position { seq: 99, ..position } }]),
        ("Finished", vec![Message::Finished { watermark: position }]),
        ("Keep, a question", vec![Message::Keep { mark: [1; 32], sealed: Vec::new() }]),
        ("Keep, something", vec![Message::Keep { mark: [2; 32], sealed: b"sealed".to_vec() }]),
        (
            "Keep, twice",
            vec![
                Message::Keep { mark: [3; 32], sealed: b"sealed".to_vec() },
                Message::Keep { mark: [4; 32], sealed: b"and again".to_vec() },
            ],
        ),
        ("Kept", vec![Message::Kept { there: true }]),
        ("Recall", vec![Message::Recall]),
        ("Recalled", vec![Message::Recalled { mark: [1; 32], sealed: Vec::new() }]),
        ("Receipts, own", vec![Message::Receipts { drives: vec![own.drive] }]),
        ("Receipts, another's", vec![Message::Receipts { drives: vec![other.drive] }]),
        ("Receipts, of nothing", vec![Message::Receipts { drives: vec![DriveId([3; 32])] }]),
        ("Signed", vec![Message::Signed { receipts: Vec::new() }]),
        ("List", vec![Message::List { after: None }]),
        ("List, behind all", vec![Message::List { after: Some(SnapshotId([255; 32])) }]),
        ("Snapshots", vec![Message::Snapshots { snapshots: Vec::new(), more: false }]),
        ("Fetch own", vec![Message::Fetch { snapshot: mine.0 }]),
        ("Fetch another's", vec![Message::Fetch { snapshot: strange.0 }]),
        ("Fetch what is not", vec![Message::Fetch { snapshot: nobody }]),
        ("Get own", vec![Message::Get { pieces: pieces(own) }]),
        ("Get another's", vec![Message::Get { pieces: pieces(other) }]),
        (
            "Chunks",
            with_bytes(Message::Chunks { codec: Codec::None, raw: 5, pieces: vec![piece], payload: 5 }, b"bytes"),
        ),
        ("Absent", vec![Message::Absent { pieces: Vec::new() }]),
    ];
    for area in Area::ALL {
        let name = Box::leak(format!("Objects {area:?}").into_boxed_str());
        all.push((name, vec![Message::Objects { area, after: None }]));
    }
    all.into_iter().map(|(name, messages)| (name.to_owned(), messages)).collect()
}

fn ready(position: Position) -> Message {
    Message::Ready {
        session: Session([1; 16]),
        tenant: "acme".into(),
        sealed: false,
        watermark: Some(position),
        partial: Vec::new(),
        quota_left: None,
        chunker: ChunkerParams::DEFAULT,
        time: Time(0),
        epochs: 1,
    }
}

fn welcome() -> Message {
    let (tenant, host_key) = ("acme".to_owned(), "ssh-ed25519 AAAA".to_owned());
    Message::Welcome { tenant, role: Role::Operator, sealed: false, host_key, repository: None, keyring: None }
}
