//! Old programs and new ones: what both know works, and where that is not enough it is said which side is to be updated.

#[allow(dead_code)]
#[path = "support/cloud.rs"]
mod cloud;
#[path = "support/dialled.rs"]
mod dialled;
#[allow(dead_code)]
#[path = "support/long.rs"]
mod long;
#[allow(dead_code)]
#[path = "../../repo/tests/common/tenants.rs"]
mod parties;
#[allow(dead_code)]
#[path = "support/raw.rs"]
mod raw;
#[allow(dead_code)]
#[path = "support/sealed.rs"]
mod sealed;
#[allow(dead_code)]
#[path = "../../repo/tests/heal/site.rs"]
mod site;
#[allow(dead_code)]
#[path = "support/tapped.rs"]
mod tapped;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cloud::{Cloud, anew};
use dialled::dialled;
use parking_lot::Mutex;
use parties::join;
use raw::{Raw, encoded};
use repo::backend::{Area, Backend};
use repo::error::{Error, Kind, Result};
use repo::format::record::{Custody, DriveState, Roles, Step};
use repo::id::{DriveId, RepoId};
use repo::monitor::Void;
use repo::open::Repository;
use repo::receive::Sender;
use repo::tenants;
use sealed::pushing_by;
use site::{Site, readable};
use sync::drive::custody;
use sync::fetch::Dial;
use sync::remote_backend::RemoteBackend;
use sync::serve::{Grant, serve};
use sync::ssh::server::StopFlag;
use sync::stream::pair;
use sync::wire::{Connection, HEADER, Header, Message, Preface, Purpose, Role, Secret, Side, Token};
use sync::{pull, push};
use tapped::{Fate, Passing, Tap, tapped};

/// What a client did, what came of it there, and at the server by each connection.
type Came = (&'static str, Result<()>, Vec<Result<()>>);

/// A pool, and a tenant of each sort.
struct World {
    cloud: Cloud,
    site: Site,
    repo: Repository,
    pooled: Sender,
    sealed: u32,
}

impl World {
    fn new() -> World {
        let cloud = Cloud::new();
        let (site, repo) = sealed::filled();
        let pooled = join(cloud.repo(), "acme", &repo);
        let sealed = tenants::create(cloud.repo(), "vault", true, &|_| ()).unwrap();
        let token = World::token_of(&cloud, sealed);
        let with = tenants::Redeemed { public: "ssh-ed25519 v", repository: Some(repo.config.repo_id), keyring: None };
        tenants::redeem(cloud.repo(), token.expose(), &with).unwrap();
        World { cloud, site, repo, pooled, sealed }
    }

    fn token_of(cloud: &Cloud, tenant: u32) -> Token {
        let expires = cloud.repo().clock.now().plus(Duration::from_secs(600));
        Token::new(*tenants::invite(cloud.repo(), tenant, Roles::PUSH, "site", "", expires).unwrap())
    }

    /// Has a client talk to the server over a tapped connection.
    fn talk<T>(&self, tap: &Tap, tenant: u32, client: impl FnOnce(Dial) -> T) -> (T, Vec<Result<()>>) {
        let grant = Grant::Tenant { tenant, roles: Roles::PUSH.and(Roles::PULL) };
        dialled(&self.cloud.pool, &grant, &|| tapped(tap), client)
    }

    /// All that clients do; each by its name, and what came of it.
    fn each(&self, tap: &Tap) -> Vec<Came> {
        let mut all = Vec::new();
        let mut note = |name, (done, served): (Result<()>, Vec<Result<()>>)| all.push((name, done, served));
        let (number, repo) = (self.pooled.number, &self.repo);
        note(
            "push",
            self.talk(tap, number, |dial| {
                push::push(repo, &dial, "test", push::Options { audit: true, ..Default::default() }, &Void::default())
                    .map(drop)
            }),
        );
        let (_dir, back) = anew(repo);
        note("pull", self.talk(tap, number, |dial| pull::pull(&back, dial, "test", &[], &Void::default()).map(drop)));
        if all.iter().all(|(_, done, _)| done.is_ok()) {
            assert!(readable(&back) == readable(repo), "another content");
        }
        let mut note = |name, (done, served): (Result<()>, Vec<Result<()>>)| all.push((name, done, served));
        note(
            "sealed push",
            self.talk(tap, self.sealed, |dial| {
                pushing_by(repo, &dial, sync::sealed::Options { remote: "", audit: true, delete: false }).map(drop)
            }),
        );
        note(
            "sealed copy",
            self.talk(tap, self.sealed, |dial| {
                let from = RemoteBackend::new(dial, RepoId([0; 32]), "test", Path::new("pool"));
                from.list(Area::Packs, &mut |pack, _| {
                    let there = from.read_all(&pack, 1 << 28)?;
                    assert!(there == self.site.disk.read_all(&pack, 1 << 28)?);
                    Ok(())
                })
            }),
        );
        let guest = Grant::Guest { public: format!("ssh-ed25519 {}", self.cloud.repo().log.position().seq) };
        let token = World::token_of(&self.cloud, number);
        note("redeem", dialled(&self.cloud.pool, &guest, &|| tapped(tap), |dial| redeem(repo, token, &dial)));
        all
    }
}

fn redeem(repo: &Repository, token: Token, dial: &Dial) -> Result<()> {
    let mut connection = Connection::open(dial()?, Side::Client, &Preface::ours())?;
    let keyring = Some(Secret::new(repo.unlocked.keyring.to_bytes().to_vec()));
    let (label, host, repository) = ("l".to_owned(), "h".to_owned(), Some(repo.config.repo_id));
    connection.send(&Message::Redeem { token, label, host, repository, keyring })?;
    connection.flush()?;
    match connection.receive()? {
        Some(Message::Welcome { role: Role::Push, .. }) => Ok(()),
        Some(Message::Fail(fail)) => Err(fail.into_error()),
        other => panic!("{other:?}"),
    }
}

fn preface(lowest: u16, highest: u16, features: &[&str]) -> Preface {
    Preface { lowest, highest, features: features.iter().map(|name| (*name).to_owned()).collect() }
}

fn unknown(kind: u8, body: &[u8]) -> Vec<u8> {
    [&Header { kind, body: body.len() }.encode()[..], body].concat()
}

#[test]
fn a_later_program_with_more_to_say_is_understood() {
    let world = World::new();
    // Both sides are told that the other speaks version 2 as well, knows features, and says things between all others.
    let later = |passing: &Passing<'_>| match passing.kind {
        0 => {
            let mut bytes = preface(1, 2, &["range-audit", "zz"]).encode().unwrap();
            bytes.extend_from_slice(b"and more");
            let len = u16::from_le_bytes([bytes[8], bytes[9]]) + 8;
            bytes[8..10].copy_from_slice(&len.to_le_bytes());
            Fate::Instead(bytes)
        }
        _ => Fate::Instead([&unknown(128, b""), passing.bytes, &unknown(255, b"something later")].concat()),
    };
    let tap: Tap = Arc::new(Mutex::new(later));
    for (name, done, served) in world.each(&tap) {
        done.unwrap_or_else(|e| panic!("{name}: {e}"));
        served.into_iter().for_each(|each| each.unwrap_or_else(|e| panic!("{name}, the server: {e}")));
    }
    world.cloud.has(&[(&world.pooled, &world.repo)]);
}

#[test]
fn a_client_that_meets_only_a_newer_server_is_told_to_be_updated() {
    let world = World::new();
    let newer: Tap = Arc::new(Mutex::new(|passing: &Passing<'_>| match (passing.from, passing.kind) {
        (Side::Server, 0) => Fate::Instead(preface(2, 3, &[]).encode().unwrap()),
        _ => Fate::Pass,
    }));
    for (name, done, _) in world.each(&newer) {
        let e = done.expect_err(name);
        assert_eq!(e.kind(), Kind::NewerFormat, "{name}: {e}");
        assert!(e.to_string().ends_with("update packmule on this side"), "{name}: {e}");
    }
}

#[test]
fn a_server_that_meets_only_newer_or_older_clients_and_they_know_which_is_to_be_updated() {
    let world = World::new();
    let grants = [
        Grant::Tenant { tenant: world.pooled.number, roles: Roles::PUSH },
        Grant::Tenant { tenant: world.sealed, roles: Roles::PUSH },
        Grant::Guest { public: "ssh-ed25519 A".into() },
    ];
    for grant in &grants {
        let (client, server) = pair(1 << 16, None);
        std::thread::scope(|scope| {
            let serving = scope.spawn(|| serve(&world.cloud.pool, grant, server, &StopFlag::default()));
            let e = Raw::with(client, &preface(2, 3, &["zz"])).err().unwrap();
            assert_eq!(e.kind(), Kind::Unsupported);
            assert!(e.to_string().ends_with("update packmule on the other side"), "{e}");
            let e = serving.join().unwrap().unwrap_err();
            assert_eq!(e.kind(), Kind::NewerFormat);
            assert!(e.to_string().ends_with("update packmule on this side"), "{e}");
        });
    }
}

/// What either side makes of a message that the other's program should not have sent it, at every place of every conversation.
fn unknown_from(side: Side) -> usize {
    let mut places = 0;
    let world = World::new();
    for at in 1.. {
        let passed = Arc::new(Mutex::new(0));
        let count = Arc::clone(&passed);
        let tap: Tap = Arc::new(Mutex::new(move |passing: &Passing<'_>| {
            let mut count = count.lock();
            *count += usize::from(passing.from == side);
            // Counted from the preface on, which is the first.
            match *count == at + 1 && passing.from == side {
                true => Fate::Instead([&unknown(100, b"?"), passing.bytes].concat()),
                false => Fate::Pass,
            }
        }));
        let (done, served) = world.talk(&tap, world.pooled.number, |dial| {
            push::push(
                &world.repo,
                &dial,
                "test",
                push::Options { audit: true, ..Default::default() },
                &Void::default(),
            )
            .map(drop)
        });
        if *passed.lock() <= at {
            break;
        }
        places += 1;
        judge(side, done, served);
    }
    places
}

fn judge(side: Side, done: Result<()>, served: Vec<Result<()>>) {
    let told = |e: &Error, which: &str| {
        assert_eq!(e.kind(), Kind::NewerFormat, "{e}");
        assert!(e.to_string().contains("(100)") && e.to_string().ends_with(which), "{e}");
    };
    match side {
        Side::Client => {
            let server = served.into_iter().find_map(Result::err).expect("the server minds");
            told(&server, "update packmule on this side");
            // The client's last word may be what it was: then nobody is left to be told.
            if let Err(e) = done {
                told(&e, "update packmule on the other side");
            }
        }
        Side::Server => told(&done.expect_err("the client minds"), "update packmule on this side"),
    }
}

#[test]
fn a_message_that_one_must_know_is_refused_wherever_it_comes() {
    assert!(unknown_from(Side::Client) > 5);
    assert!(unknown_from(Side::Server) > 5);
}

#[test]
fn a_purpose_or_area_that_comes_later_is_a_newer_programs() {
    let world = World::new();
    for at_purpose in [true, false] {
        let (client, server) = pair(1 << 16, None);
        let grant = Grant::Tenant { tenant: world.sealed, roles: Roles::PUSH };
        let heard = std::thread::scope(|scope| {
            scope.spawn(|| serve(&world.cloud.pool, &grant, server, &StopFlag::default()));
            let mut raw = Raw::over(client);
            let (repository, position) = (world.repo.config.repo_id, world.repo.log.position());
            let begin = Message::Begin { purpose: Purpose::Push, repository, position, program: "later".into() };
            let mut bytes = encoded(&[begin]);
            if at_purpose {
                bytes[HEADER] = 9;
            } else {
                let from = bytes.len() + HEADER;
                bytes.extend(encoded(&[Message::Objects { area: sync::wire::Area::Packs, after: None }]));
                bytes[from] = 99;
            }
            raw.say_bytes(&bytes);
            raw.rest()
        });
        let Some(Message::Fail(fail)) = heard.messages.last() else { panic!("{heard:?}") };
        let e = fail.clone().into_error();
        assert_eq!(e.kind(), Kind::NewerFormat);
        assert!(e.to_string().ends_with("update packmule on the other side"), "{e}");
    }
}

/// Has the site believe that a drive is on its way to the remote "cloud".
fn post(site: &Repository) {
    let state = DriveState {
        label: "a drive".into(),
        party: "cloud".into(),
        repository: site.config.repo_id,
        back: false,
        steps: vec![Step { custody: Custody::Shipped, at: site.clock.now(), by: "test".into() }],
        packs: 1,
        bytes: 1,
        digest: [1; 32],
        snapshots: 0,
        newest: None,
        loads: Vec::new(),
    };
    custody::change(site, DriveId([7; 32]), &mut |_| Ok((state.clone(), ()))).unwrap();
}

#[test]
fn receipts_are_asked_for_where_both_sides_know_of_them() {
    let world = World::new();
    post(&world.repo);
    let (questions, answers) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    // What an old client makes of a new server's preface is what it makes of an old one's.
    let (server, client) = (vec![Side::Server], vec![Side::Client, Side::Server]);
    for (old, asked) in [(server, 0), (client, 0), (vec![], 1)] {
        let plain = old.clone();
        let (asks, tells) = (Arc::clone(&questions), Arc::clone(&answers));
        let tap: Tap = Arc::new(Mutex::new(move |passing: &Passing<'_>| {
            asks.fetch_add(usize::from(passing.kind == 45), Ordering::SeqCst);
            tells.fetch_add(usize::from(passing.kind == 46), Ordering::SeqCst);
            match passing.kind == 0 && plain.contains(&passing.from) {
                true => Fate::Instead(preface(1, 1, &[]).encode().unwrap()),
                false => Fate::Pass,
            }
        }));
        let pooled = push::Options { remote: "cloud", audit: true, ..Default::default() };
        let (done, served) = world
            .talk(&tap, world.pooled.number, |dial| push::push(&world.repo, &dial, "test", pooled, &Void::default()));
        assert!(done.unwrap().failed.is_empty());
        served.into_iter().for_each(Result::unwrap);
        let options = sync::sealed::Options { remote: "cloud", audit: true, delete: false };
        let (done, served) = world.talk(&tap, world.sealed, |dial| pushing_by(&world.repo, &dial, options));
        assert_eq!(done.unwrap().now, world.repo.log.position());
        served.into_iter().for_each(Result::unwrap);
        for count in [&questions, &answers] {
            assert_eq!(count.swap(0, Ordering::SeqCst), 2 * asked, "old: {old:?}");
        }
    }
}
