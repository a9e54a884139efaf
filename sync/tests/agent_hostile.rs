//! What an agent that does not keep to the rules gets from its site: nothing.

#[allow(dead_code)]
#[path = "../../repo/tests/heal/site.rs"]
mod site;
#[path = "support/agents.rs"]
mod hosts;

use hosts::{Host, Served, fill};
use repo::agents;
use repo::compress::Packer;
use repo::crypto::hash::ChunkKind;
use repo::crypto::keys::{FrameKind, Keys, Object as Sealed};
use repo::error::{Kind, Result};
use repo::format::manifest::Manifest;
use repo::format::record::{Position, Roles};
use repo::format::tree::Content;
use repo::id::SnapshotId;
use repo::pack::build::{Group, PackBuilder, seal};
use repo::tenants;
use site::noise;
use sync::agent::Identity;
use sync::fetch;
use sync::serve::{Grant, serve};
use sync::stream::pair;
use sync::wire::{Connection, Message, Piece, Preface, Purpose, Reason, Role, Side, Token};

#[test]
fn another_host_s_name_is_refused() {
    let site = Served::new();
    let (one, two) = (site.join("web1"), site.join("web2"));
    fill(&one);
    let (done, _) = site.try_backup(&one, None, &|options| options.host = "web2".into());
    assert_eq!(done.err().unwrap().kind(), Kind::Refused);
    // One that does not keep to that is declined by the site.
    let liar = Host { identity: disguised(&one, "web2"), ..one };
    let (done, _) = site.try_backup(&liar, None, &|_| ());
    let e = done.err().unwrap();
    assert_eq!(e.kind(), Kind::Refused);
    assert!(e.to_string().contains("this agent's is 'web1'"), "{e}");
    assert!(site.repo().log.state().snapshots.is_empty());
    // What it has sent is not the other's.
    two.source.write("x", &noise(1, 20 << 20));
    let honest = site.backup(&two);
    assert!(honest.sent > 20 << 20);
    site.has(&two);
}

fn disguised(host: &Host, name: &str) -> Identity {
    let Identity { address, host_key, repository, keyring, key, .. } = &host.identity;
    Identity {
        address: address.clone(),
        host_key: host_key.clone(),
        host: name.into(),
        repository: *repository,
        keyring: keyring.duplicate(),
        key: key.clone(),
    }
}

#[test]
fn a_wrong_clock_decides_nothing() {
    let site = Served::new();
    let host = site.join("web1");
    host.source.write("a", &noise(1, 30_000));
    let before = site.repo().clock.now();
    site.backup(&host);
    // The state's own times are the agent's; make them absurd on the wire.
    let state = site.repo().log.state();
    let snapshot = state.snapshots.values().next().unwrap();
    assert!(snapshot.recorded >= before && snapshot.recorded <= site.repo().clock.now());
    let grant = Grant::Tenant { tenant: host.number, roles: host.roles };
    let keys = Keys::derive(&host.identity.keyring, host.identity.repository);
    for captured in [i64::MIN / 2, i64::MAX / 2] {
        let id = *state.snapshots.keys().next().unwrap();
        let mut manifest = repo::snapshots::manifest(site.repo(), &id).unwrap();
        manifest.id = SnapshotId::random();
        (manifest.captured, manifest.captured_end, manifest.recorded) = (captured, captured, captured);
        let verdict = say(&site, &grant, &host, |connection| send(connection, &keys, &manifest));
        assert!(matches!(verdict, Message::Accepted { already: false, .. }), "{verdict:?}");
        let state = site.repo().log.state();
        let recorded = state.snapshots[&manifest.id].recorded;
        assert!(recorded >= before && recorded <= site.repo().clock.now(), "the site stamps it");
    }
}

/// Opens a push as the host, and has `talk` say what it likes.
fn say<T: Send>(site: &Served, grant: &Grant, host: &Host, talk: impl FnOnce(&mut Connection) -> T + Send) -> T {
    let (client, server) = pair(1 << 20, None);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = serve(&site.pool, grant, server, &site.stop);
        });
        let mut connection = Connection::open(client, Side::Client, &Preface::ours()).unwrap();
        let (repository, position) = (host.identity.repository, Position::START);
        let program = "test".to_owned();
        connection.send(&Message::Begin { purpose: Purpose::Push, repository, position, program }).unwrap();
        connection.flush().unwrap();
        assert!(matches!(connection.receive().unwrap(), Some(Message::Ready { .. })));
        talk(&mut connection)
    })
}

fn send(connection: &mut Connection, keys: &Keys, manifest: &Manifest) -> Message {
    let sealed = keys.seal(Sealed::Manifest, manifest.id.as_bytes(), &manifest.encode());
    connection.send(&Message::Manifest { snapshot: manifest.id, size: sealed.len() as u64 }).unwrap();
    connection.sender().send_data(&sealed).unwrap();
    connection.flush().unwrap();
    connection.receive().unwrap().unwrap()
}

#[test]
fn another_s_trees_and_ids_get_a_liar_nowhere() {
    let site = Served::new();
    let (victim, liar) = (site.join("db1"), site.join("web1"));
    fill(&victim);
    site.backup(&victim);
    liar.source.write("a", &noise(50, 3000));
    site.backup(&liar);
    let state = site.repo().log.state();
    let (id, _) = state.snapshots.iter().find(|(_, s)| s.host == "db1").unwrap();
    let stolen = repo::snapshots::manifest(site.repo(), id).unwrap();
    let keys = Keys::derive(&liar.identity.keyring, liar.identity.repository);
    let grant = Grant::Tenant { tenant: liar.number, roles: liar.roles };
    // The other's tree under its own host: missing, and only by that name.
    let mine = Manifest { id: SnapshotId::random(), host: "web1".into(), ..stolen.clone() };
    match say(&site, &grant, &liar, |connection| send(connection, &keys, &mine)) {
        Message::Missing { pieces, .. } => assert!(pieces.len() <= 2, "its root and its sidecar: {}", pieces.len()),
        other => panic!("{other:?}"),
    }
    // Asking about the other's chunks: all are missing.
    let Content::Dir(dir) = &stolen.root.content else { panic!() };
    let pieces = vec![Piece { kind: ChunkKind::Tree, len: 1, h: dir.h }];
    let answer = say(&site, &grant, &liar, |connection| {
        connection.send(&Message::Have { pieces }).unwrap();
        connection.flush().unwrap();
        connection.receive().unwrap().unwrap()
    });
    assert!(matches!(&answer, Message::Answer { missing } if missing.ones() == 1), "{answer:?}");
    // The other's snapshot's id: not taken, and nothing is changed.
    let own = state.snapshots.iter().find(|(_, s)| s.host == "web1").unwrap().0;
    let forged = Manifest { id: *id, ..repo::snapshots::manifest(site.repo(), own).unwrap() };
    let verdict = say(&site, &grant, &liar, |connection| send(connection, &keys, &forged));
    assert!(matches!(verdict, Message::Declined { reason: Reason::Invalid, .. }), "{verdict:?}");
    site.has(&victim);
    // A pack that holds another chunk than it says: refused, and stored nowhere.
    let frame = {
        let mut packer = Packer::new(3).unwrap();
        let mut group = Group::default();
        group.push(ChunkKind::Tree, dir.h, b"not what it is called");
        seal(&keys, &mut packer, FrameKind::Tree, group).unwrap()
    };
    let mut pack = PackBuilder::new(FrameKind::Tree, repo::id::SessionId::random(), 0);
    pack.push(&frame).unwrap();
    let pack = pack.finish(&keys).unwrap();
    let (id, bytes) = (pack.id, pack.body.into_bytes().unwrap());
    let refused = say(&site, &grant, &liar, |connection| {
        let size = bytes.len() as u64;
        connection.send(&Message::Put { object: sync::wire::Object::Pack(id), size, from: 0 }).unwrap();
        connection.sender().send_data(&bytes).unwrap();
        connection.flush().unwrap();
        assert!(matches!(connection.receive().unwrap(), Some(Message::Durable { .. })));
        connection.receive().unwrap().unwrap()
    });
    assert!(matches!(refused, Message::Refused { .. }), "{refused:?}");
    site.has(&victim);
}

#[test]
fn who_may_not_restore_gets_nothing_and_who_may_gets_its_own() {
    let site = Served::new();
    let (one, two) = (site.join("web1"), site.join_as("web2", Roles::AGENT.and(Roles::RESTORE)));
    one.source.write("a", &noise(1, 30_000));
    two.source.write("b", &noise(2, 30_000));
    site.backup(&one);
    site.backup(&two);
    let pull = |host: &Host| {
        let grant = Grant::Tenant { tenant: host.number, roles: host.roles };
        let (client, server) = pair(1 << 20, None);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _ = serve(&site.pool, &grant, server, &site.stop);
            });
            let mut connection = fetch::begin(client, host.identity.repository, "test")?;
            let found = fetch::snapshots(&mut connection)?;
            let keys = Keys::derive(&host.identity.keyring, host.identity.repository);
            let manifests: Vec<_> =
                found.iter().map(|entry| fetch::manifest(&mut connection, &keys, &entry.id)).collect();
            let state = site.repo().log.state();
            for (id, snapshot) in &state.snapshots {
                assert_eq!(fetch::manifest(&mut connection, &keys, id).is_ok(), snapshot.host == host.identity.host);
            }
            manifests.into_iter().collect::<Result<Vec<_>>>()
        })
    };
    assert_eq!(pull(&one).err().unwrap().kind(), Kind::Refused);
    let own = pull(&two).unwrap();
    assert_eq!(own.iter().map(|m| m.host.as_str()).collect::<Vec<_>>(), ["web2"]);
}

#[test]
fn an_agent_s_welcome_gives_no_keys_back() {
    let site = Served::new();
    let host = site.join_as("web1", Roles::AGENT.and(Roles::RESTORE));
    let (client, server) = pair(1 << 20, None);
    let grant = Grant::Tenant { tenant: host.number, roles: host.roles };
    let answer = std::thread::scope(|scope| {
        scope.spawn(|| serve(&site.pool, &grant, server, &site.stop));
        let mut connection = Connection::open(client, Side::Client, &Preface::ours()).unwrap();
        let (label, host) = ("x".to_owned(), "x".to_owned());
        let token = Token::new([0; 32]);
        connection.send(&Message::Redeem { token, label, host, repository: None, keyring: None }).unwrap();
        connection.flush().unwrap();
        connection.receive().unwrap().unwrap()
    });
    match answer {
        Message::Welcome { role: Role::Agent, repository: None, keyring: None, .. } => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_revoked_agent_records_nothing_more_and_can_be_invited_again() {
    let site = Served::new();
    let host = site.join("web1");
    fill(&host);
    site.backup(&host);
    // In the middle of a push.
    let grant = Grant::Tenant { tenant: host.number, roles: host.roles };
    let state = site.repo().log.state();
    let id = *state.snapshots.keys().next().unwrap();
    let again = Manifest { id: SnapshotId::random(), ..repo::snapshots::manifest(site.repo(), &id).unwrap() };
    let keys = Keys::derive(&host.identity.keyring, host.identity.repository);
    let verdict = say(&site, &grant, &host, |connection| {
        agents::revoke(site.repo(), "web1").unwrap();
        send(connection, &keys, &again)
    });
    assert!(matches!(verdict, Message::Declined { reason: Reason::Suspended, .. }), "{verdict:?}");
    assert!(tenants::credential(&site.repo().log.state(), &host.identity.key.public().text()).is_none());
    let (done, _) = site.try_backup(&host, None, &|_| ());
    assert_eq!(done.err().unwrap().kind(), Kind::Refused);
    assert_eq!(site.repo().log.state().snapshots.len(), 1);
    // Set up anew: other keys, the same host. What is there of it counts as delivered.
    let mut new = site.join("web1");
    assert_eq!(new.number, host.number);
    new.source = host.source;
    let sent = site.backup(&new).sent;
    assert!(sent < 1 << 20, "{sent}");
    site.has(&new);
}
