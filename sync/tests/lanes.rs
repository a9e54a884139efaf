//! Pushes by several connections at once.

#[path = "support/cloud.rs"]
#[allow(dead_code)]
mod cloud;
#[path = "../../repo/tests/common/tenants.rs"]
mod parties;
#[allow(dead_code)]
#[path = "../../repo/tests/heal/site.rs"]
mod site;

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::Duration;

use cloud::Cloud;
use parties::join;
use repo::error::Kind;
use repo::format::record::Roles;
use repo::id::{ContentHash, PackId, RepoId};
use repo::open::Repository;
use repo::receive::Sender;
use site::{Site, noise};
use sync::serve::{Grant, serve};
use sync::stream::{Duplex, pair};
use sync::wire::{Connection, Fail, Message, Object, Piece, Preface, Purpose, Session, Side};

/// A long link: whatever is read comes late, and it is slow.
struct Slow<T>(T);

impl<T: Read> Read for Slow<T> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        sleep(Duration::from_millis(25));
        self.0.read(buf)
    }
}

impl<T: Write> Write for Slow<T> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        sleep(Duration::from_millis(6));
        self.0.write(&buf[..buf.len().min(64 << 10)])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// A client's end of a long link, and the server's.
fn long(cut: Option<u64>) -> (Duplex, Duplex) {
    let (client, server) = pair(1 << 20, cut);
    (Duplex { read: Box::new(Slow(client.read)), write: Box::new(Slow(client.write)) }, server)
}

/// A site with some packs of 4 MiB, and a pool that it is a tenant of.
fn filled() -> (Cloud, Site, Repository, Sender) {
    let (cloud, site) = (Cloud::new(), Site::new());
    site.write("large", &noise(5, 26 << 20));
    let repo = site.open();
    site.backup(&repo);
    let tenant = join(cloud.repo(), "acme", &repo);
    (cloud, site, repo, tenant)
}

#[test]
fn a_long_link_is_filled_by_four_connections() {
    let (cloud, _site, repo, tenant) = filled();
    let (done, served) = cloud.push_by((&tenant, Roles::PUSH), &repo, false, &|_| long(None));
    let report = done.unwrap();
    assert_eq!((report.failed.len(), report.refused.len(), report.snapshots), (0, 0, 1));
    assert_eq!(served.len(), 4);
    served.into_iter().for_each(|each| each.unwrap());
    cloud.has(&[(&tenant, &repo)]);
}

#[test]
fn whichever_connection_breaks_nothing_is_lost_and_little_sent_twice() {
    let (cloud, _site, repo, tenant) = filled();
    let passed = AtomicU64::new(0);
    let mut tries = 0;
    loop {
        tries += 1;
        let number = AtomicUsize::new(0);
        let connect = |_: bool| {
            // Another one each time.
            let cut =
                (number.fetch_add(1, Ordering::Relaxed) == tries % 4).then_some(3_000_000 + 100_000 * tries as u64);
            long(cut)
        };
        let (done, _) = cloud.push_by((&tenant, Roles::PUSH), &repo, false, &connect);
        match done {
            Ok(report) => {
                passed.fetch_add(report.bytes, Ordering::Relaxed);
                break;
            }
            Err(e) => assert_eq!(e.kind(), Kind::Unreachable, "{e}"),
        }
    }
    assert!(tries > 1, "it was cut at least once");
    assert!(passed.into_inner() < 26 << 20, "what was durable is not sent again");
    cloud.has(&[(&tenant, &repo)]);
}

/// The answer to `first`, and to what follows.
fn told(cloud: &Cloud, tenant: &Sender, first: &Message, then: &[Message]) -> Option<Message> {
    let (client, server) = pair(1 << 20, None);
    let grant = Grant::Tenant { tenant: tenant.number, roles: Roles::PUSH };
    std::thread::scope(|scope| {
        scope.spawn(|| serve(&cloud.pool, &grant, server, &cloud.stop));
        let mut connection = Connection::open(client, Side::Client, &Preface::ours()).unwrap();
        connection.send(first).unwrap();
        then.iter().for_each(|message| connection.send(message).unwrap());
        connection.flush().unwrap();
        connection.receive().unwrap()
    })
}

#[test]
fn only_this_tenants_push_is_attached_to_and_only_for_packs() {
    let (cloud, _site, repo, tenant) = filled();
    let other = Site::filled();
    let stranger = join(cloud.repo(), "globex", &other.open());
    let grant = Grant::Tenant { tenant: tenant.number, roles: Roles::PUSH };
    let (client, server) = pair(1 << 20, None);
    std::thread::scope(|scope| {
        scope.spawn(|| serve(&cloud.pool, &grant, server, &cloud.stop));
        let mut first = Connection::open(client, Side::Client, &Preface::ours()).unwrap();
        let (repository, position): (RepoId, _) = (repo.config.repo_id, repo.log.state().position);
        let program = "test".to_owned();
        first.send(&Message::Begin { purpose: Purpose::Push, repository, position, program }).unwrap();
        first.flush().unwrap();
        let Some(Message::Ready { session, .. }) = first.receive().unwrap() else { panic!("it is not ready") };
        let refused = |answer: Option<Message>| match answer {
            Some(Message::Fail(Fail { message, .. })) => message,
            other => panic!("{other:?}"),
        };
        let attach = Message::Attach { session };
        let unknown = refused(told(&cloud, &tenant, &Message::Attach { session: Session([7; 16]) }, &[]));
        assert_eq!(refused(told(&cloud, &stranger, &attach, &[])), unknown, "another's push does not show");
        let piece = Piece { kind: repo::crypto::hash::ChunkKind::Data, len: 1, h: ContentHash::from_bytes([1; 32]) };
        refused(told(&cloud, &tenant, &attach, &[Message::Have { pieces: vec![piece] }]));
        refused(told(&cloud, &tenant, &attach, &[Message::Done { position }]));
        let object = Object::Pack(PackId([1; 32]));
        let put = Message::Put { object: object.clone(), size: 1, from: 0 };
        let durable = told(&cloud, &tenant, &attach, &[put, Message::Data(vec![1])]);
        assert!(matches!(durable, Some(Message::Durable { object: o, bytes: 1 }) if o == object));
        first.send(&Message::Bye).unwrap();
        first.flush().unwrap();
        // It was no pack.
        while let Some(message) = first.receive().unwrap() {
            assert!(matches!(message, Message::Refused { .. }), "{message:?}");
        }
        assert_eq!(refused(told(&cloud, &tenant, &attach, &[])), unknown, "it has ended");
    });
}
