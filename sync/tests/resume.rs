//! A link that breaks at any message, before it, in it or behind it: the next try goes on, and what is there then is whole.

#[allow(dead_code)]
#[path = "support/cloud.rs"]
mod cloud;
#[path = "support/cuts.rs"]
mod cuts;
#[path = "support/dialled.rs"]
mod dialled;
#[path = "support/agents.rs"]
mod hosts;
#[allow(dead_code)]
#[path = "support/long.rs"]
mod long;
#[allow(dead_code)]
#[path = "../../repo/tests/common/tenants.rs"]
mod parties;
#[allow(dead_code)]
#[path = "support/sealed.rs"]
mod sealed;
#[allow(dead_code)]
#[path = "../../repo/tests/heal/site.rs"]
mod site;
#[allow(dead_code)]
#[path = "support/tapped.rs"]
mod tapped;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cloud::{Cloud, anew};
use cuts::{Sort, everywhere};
use dialled::dialled;
use hosts::Served;
use parking_lot::Mutex;
use parties::join;
use repo::backend::{Area, Backend};
use repo::check::ReadData;
use repo::crypto::keys::Keyring;
use repo::error::Result;
use repo::forget::{self, forget_named};
use repo::format::record::{Origin, Record, Roles};
use repo::id::{RepoId, SnapshotId};
use repo::keyslots::{self, Secret};
use repo::monitor::Void;
use repo::open::Repository;
use repo::prune::{self, prune};
use repo::receive::Sender;
use repo::tenants::{self, pooled_id};
use repo::tree::closure;
use site::{Site, checked, noise, readable, readable_of};
use sync::fetch::Dial;
use sync::pull::pull;
use sync::push::{Options, push};
use sync::remote_backend::RemoteBackend;
use sync::serve::{Grant, Pool};
use sync::wire::{Connection, Message, Preface, Secret as Bytes, Side, Token};
use tapped::{Passing, Tap, tapped_as};

/// Connections of a tenant's to a pool, each told its number.
fn talk<T>(pool: &Pool, tenant: u32, roles: Roles, tap: &Tap, client: impl FnOnce(Dial) -> T) -> T {
    let number = AtomicUsize::new(0);
    let connect = || tapped_as(tap, number.fetch_add(1, Ordering::SeqCst));
    dialled(pool, &Grant::Tenant { tenant, roles }, &connect, client).0
}

/// The kinds of these that each side sent on the first connection, or on the others.
fn kinds(cut: &BTreeSet<Sort>, further: bool, server: bool) -> Vec<u8> {
    cut.iter().filter(|sort| sort.0 == further && sort.1 == server).map(|sort| sort.2).collect()
}

fn newest(repo: &Repository) -> SnapshotId {
    *repo.log.state().snapshots.iter().max_by_key(|(_, s)| s.seq).unwrap().0
}

fn sound(repo: &Repository) {
    let (outcome, told) = checked(repo, ReadData::All);
    assert_eq!((outcome.problems, &told[..]), (0, &[] as &[String]));
}

/// Forgets everything, and prunes it.
fn empty(repo: &Repository) {
    let all: Vec<SnapshotId> = repo.log.state().snapshots.keys().copied().collect();
    if all.is_empty() {
        return;
    }
    forget_named(repo, &all, &forget::Options::default(), &Void::default()).unwrap();
    let options = prune::Options { release_held: true, max_unused: prune::MaxUnused::Bytes(0), ..Default::default() };
    prune(repo, &options, &Void::default()).unwrap();
}

/// A site, its repository and how often something was changed there.
struct Changing {
    site: Site,
    repo: RefCell<Repository>,
    round: Cell<u64>,
}

impl Changing {
    fn new() -> Changing {
        let site = Site::new();
        site.write("a/always", &noise(1, 20_000));
        let repo = site.open();
        sealed::add_recipient(&repo);
        Changing { site, repo: RefCell::new(repo), round: Cell::new(0) }
    }

    /// As many backups of something new.
    fn change(&self, backups: u64) {
        for _ in 0..backups {
            self.round.set(self.round.get() + 1);
            self.site.write("b/changes", &noise(100 + self.round.get(), 9000));
            self.site.backup(&self.repo.borrow());
        }
    }

    /// A new master key.
    fn rotate(&self) {
        let repo = self.repo.borrow();
        let commit = repo.locks.commit(Duration::from_secs(5)).unwrap();
        let record = |epoch| Record::KeyEpoch { epoch, at: repo.clock.now() };
        let secret = Secret::Passphrase(site::PASSPHRASE.to_owned().into());
        let mut append = |_: &Keyring, epoch| repo.log.append(&commit, record(epoch)).map(drop);
        let (backend, id) = (repo.backend.as_ref(), repo.config.repo_id);
        keyslots::rotate(backend, id, &repo.unlocked, &secret, &mut |_| Ok(()), &mut append).unwrap();
        drop(commit);
        drop(repo);
        self.repo.replace(self.site.open());
    }
}

/// Asserts that the newest snapshot is at the pool as it is here.
fn arrived(cloud: &Cloud, tenant: &Sender, from: &Changing) {
    let repo = from.repo.borrow();
    let id = newest(&repo);
    let there = pooled_id(&Origin { tenant: tenant.number, id });
    assert!(readable_of(cloud.repo(), &there) == readable_of(&repo, &id), "another content");
    sound(cloud.repo());
    assert!(cloud.repo().log.state().sessions.is_empty(), "a session is left open");
}

#[test]
fn a_push_goes_on_after_a_cut_at_any_message() {
    let (cloud, from) = (Cloud::new(), Changing::new());
    let tenant = join(cloud.repo(), "acme", &from.repo.borrow());
    // The pool has lost what it had: the next snapshot rests on chunks that are asked for by name, and a new key is told.
    let mut prepare = || {
        from.rotate();
        from.change(1);
        empty(cloud.repo());
    };
    let attempt = |tap: &Tap| {
        let repo = from.repo.borrow();
        talk(&cloud.pool, tenant.number, Roles::PUSH, tap, |dial| {
            let report = push(&repo, &dial, "test", Options::default(), &Void::default())?;
            assert_eq!((report.failed.len(), report.refused.len()), (0, 0), "{report:?}");
            Ok(())
        })
    };
    let cut = everywhere(&|sort| !sort.0, &mut prepare, &attempt, &|| arrived(&cloud, &tenant, &from));
    // Preface, Begin, Bye, Data, Keys, Put, Have, Manifest, Again, Done.
    assert_eq!(kinds(&cut, false, false), [0, 1, 9, 10, 12, 16, 32, 34, 35, 39]);
    // Preface, Ready, Durable, Answer, Accepted, Missing, Finished.
    assert_eq!(kinds(&cut, false, true), [0, 4, 17, 33, 36, 37, 40]);
}

#[test]
fn a_push_by_several_connections_goes_on_after_a_cut_on_any() {
    let (cloud, from) = (Cloud::new(), Changing::new());
    let tenant = join(cloud.repo(), "acme", &from.repo.borrow());
    let attempt = |tap: &Tap| {
        let inner = Arc::clone(tap);
        // A long link: the first answer takes long enough for further connections, and what is sent first as well.
        let slow: Tap = Arc::new(Mutex::new(move |passing: &Passing<'_>| {
            if passing.kind == 4 {
                std::thread::sleep(Duration::from_millis(40));
            } else if passing.kind == 16 && passing.number == 0 {
                std::thread::sleep(Duration::from_millis(3));
            }
            (inner.lock())(passing)
        }));
        let repo = from.repo.borrow();
        talk(&cloud.pool, tenant.number, Roles::PUSH, &slow, |dial| {
            let report = push(&repo, &dial, "test", Options::default(), &Void::default())?;
            assert_eq!((report.failed.len(), report.refused.len()), (0, 0), "{report:?}");
            Ok(())
        })
    };
    let cut = everywhere(&|sort| sort.0, &mut || from.change(8), &attempt, &|| arrived(&cloud, &tenant, &from));
    // Preface, Attach, Data, Put; Durable.
    let client = kinds(&cut, true, false);
    assert!([0, 2, 10, 16].iter().all(|kind| client.contains(kind)), "{client:?}");
    assert!(kinds(&cut, true, true).contains(&17), "{cut:?}");
}

#[test]
fn a_sealed_push_goes_on_after_a_cut_at_any_message() {
    let (cloud, from) = (sealed::Cloud::new(), Changing::new());
    let tenant = cloud.join("acme", &from.repo.borrow());
    let audit = Cell::new(false);
    let attempt = |tap: &Tap| {
        let (repo, options) =
            (from.repo.borrow(), sync::sealed::Options { remote: "", audit: audit.get(), delete: false });
        talk(&cloud.pool, tenant, Roles::PUSH, tap, |dial| sealed::pushing_by(&repo, &dial, options).map(drop))
    };
    let verify = || cloud.same(tenant, &from.site, &from.repo.borrow());
    let mut all = BTreeSet::new();
    for with_audit in [false, true] {
        audit.set(with_audit);
        let seen = all.clone();
        let chosen = |sort: Sort| !sort.0 && !seen.contains(&sort);
        all.extend(everywhere(&chosen, &mut || from.change(1), &attempt, &verify));
    }
    let (client, server) = (kinds(&all, false, false), kinds(&all, false, true));
    // Preface, Begin, Bye, Data, Put, Holding, Done.
    assert!([0, 1, 9, 10, 16, 24, 39].iter().all(|kind| client.contains(kind)), "{client:?}");
    // Preface, Ready, Durable, Answer, Finished.
    assert!([0, 4, 17, 33, 40].iter().all(|kind| server.contains(kind)), "{server:?}");
}

#[test]
fn a_sealed_copy_is_read_on_after_a_cut_at_any_message() {
    let (cloud, from) = (sealed::Cloud::new(), Changing::new());
    from.change(2);
    let tenant = cloud.join("acme", &from.repo.borrow());
    cloud.pushed(tenant, &from.repo.borrow());
    let attempt = |tap: &Tap| -> Result<()> {
        talk(&cloud.pool, tenant, Roles::PULL, tap, |dial| {
            let copy = RemoteBackend::new(dial, RepoId([0; 32]), "test", Path::new("pool"));
            for area in [Area::Keys, Area::Packs, Area::Footers, Area::Snapshots, Area::Log] {
                let mut found = Vec::new();
                copy.list(area, &mut |object, size| {
                    found.push((object, size));
                    Ok(())
                })?;
                for (object, size) in found {
                    let there = copy.read_all(&object, 1 << 28)?;
                    assert!(there.len() as u64 == size && there == from.site.disk.read_all(&object, 1 << 28)?);
                }
            }
            assert_eq!(copy.size(&repo::backend::Object::Log(99))?, None);
            Ok(())
        })
    };
    let cut = everywhere(&|_| true, &mut || (), &attempt, &|| ());
    // Preface, Begin, Objects, Want; preface, Ready, Data, Listing, Lacking, Given.
    let client = kinds(&cut, false, false);
    assert!([0, 1, 19, 21].iter().all(|kind| client.contains(kind)), "{client:?}");
    let server = kinds(&cut, false, true);
    assert!([0, 4, 10, 20, 22, 23].iter().all(|kind| server.contains(kind)), "{server:?}");
}

#[test]
fn a_pull_goes_on_after_a_cut_at_any_message() {
    let (cloud, from) = (Cloud::new(), Changing::new());
    from.change(3);
    let tenant = join(cloud.repo(), "acme", &from.repo.borrow());
    cloud.pushed(&tenant, &from.repo.borrow());
    let back = RefCell::new(anew(&from.repo.borrow()));
    let attempt = |tap: &Tap| {
        let back = back.borrow();
        talk(&cloud.pool, tenant.number, Roles::PULL, tap, |dial| {
            let report = pull(&back.1, dial, "test", &[], &Void::default())?;
            assert_eq!(report.failed, []);
            Ok(())
        })
    };
    let verify = || {
        assert!(readable(&back.borrow().1) == readable(&from.repo.borrow()), "another content");
        sound(&back.borrow().1);
    };
    let mut prepare = || drop(back.replace(anew(&from.repo.borrow())));
    let cut = everywhere(&|_| true, &mut prepare, &attempt, &verify);
    // Preface, Begin, List, Fetch; preface, Ready, Data, Manifest, Snapshots.
    let (client, server) = (kinds(&cut, false, false), kinds(&cut, false, true));
    assert!([0, 1, 48, 50].iter().all(|kind| client.contains(kind)), "{client:?}");
    assert!([0, 4, 10, 34, 49].iter().all(|kind| server.contains(kind)), "{server:?}");
    // Get; Chunks, Absent: by a connection of its own.
    assert!(kinds(&cut, true, false).contains(&51), "{cut:?}");
    assert!([52, 53].iter().all(|kind| kinds(&cut, true, true).contains(kind)), "{cut:?}");
}

#[test]
fn what_a_mount_reads_comes_after_a_cut_at_any_message() {
    let (cloud, from) = (Cloud::new(), Changing::new());
    from.change(2);
    let tenant = join(cloud.repo(), "acme", &from.repo.borrow());
    let repo = from.repo.borrow();
    cloud.pushed(&tenant, &repo);
    let manifest = repo::snapshots::manifest(&repo, &newest(&repo)).unwrap();
    let attempt = |tap: &Tap| {
        talk(&cloud.pool, tenant.number, Roles::PULL, tap, |dial| {
            let there = sync::fetch::Remote::new(dial, repo.config.repo_id, "test");
            let here = repo.store();
            let mut all = Vec::new();
            closure::walk(&there, &manifest, &Void::default(), &mut |h, kind| {
                all.push((*h, kind));
                Ok(true)
            })?;
            for (h, kind) in all {
                use repo::pack::source::FrameSource;
                assert!(there.chunk(&h, kind)?[..] == here.chunk(&h, kind)?[..]);
            }
            Ok(())
        })
    };
    let cut = everywhere(&|_| true, &mut || (), &attempt, &|| ());
    assert_eq!(kinds(&cut, false, false), [0, 1, 51]);
    assert_eq!(kinds(&cut, false, true), [0, 4, 10, 52, 53]);
}

#[test]
fn an_invitation_is_taken_up_once_whatever_is_cut() {
    let (cloud, from) = (Cloud::new(), Changing::new());
    let repo = from.repo.borrow();
    let number = join(cloud.repo(), "acme", &repo).number;
    let round = Cell::new(0);
    let token = RefCell::new(Token::new([0; 32]));
    let mut prepare = || {
        round.set(round.get() + 1);
        let expires = cloud.repo().clock.now().plus(Duration::from_secs(600));
        token.replace(Token::new(*tenants::invite(cloud.repo(), number, Roles::PUSH, "site", "", expires).unwrap()));
    };
    let key = || format!("ssh-ed25519 key-{}", round.get());
    let attempt = |tap: &Tap| {
        // As the door does: whose key it is by now is looked up for each connection.
        let state = cloud.repo().log.state();
        let grant = match tenants::credential(&state, &key()) {
            Some((tenant, _, key)) => Grant::Tenant { tenant, roles: key.roles },
            None => Grant::Guest { public: key() },
        };
        let connect = || tapped_as(tap, 0);
        dialled(&cloud.pool, &grant, &connect, |dial| redeem(&repo, &token.borrow(), &dial)).0
    };
    let verify = || {
        let state = cloud.repo().log.state();
        assert_eq!(state.tenants[&number].keys.iter().filter(|known| known.public == key()).count(), 1);
        let with = tenants::Redeemed {
            public: "ssh-ed25519 other",
            repository: Some(repo.config.repo_id),
            keyring: Some(&repo.unlocked.keyring),
        };
        assert!(tenants::redeem(cloud.repo(), token.borrow().expose(), &with).is_err(), "it serves once");
    };
    let cut = everywhere(&|_| true, &mut prepare, &attempt, &verify);
    assert_eq!(kinds(&cut, false, false), [0, 3]);
    assert_eq!(kinds(&cut, false, true), [0, 5]);
}

fn redeem(repo: &Repository, token: &Token, dial: &Dial) -> Result<()> {
    let mut connection = Connection::open(dial()?, Side::Client, &Preface::ours())?;
    let keyring = Some(Bytes::new(repo.unlocked.keyring.to_bytes().to_vec()));
    let (label, host, repository) = ("l".to_owned(), "h".to_owned(), Some(repo.config.repo_id));
    connection.send(&Message::Redeem { token: token.clone(), label, host, repository, keyring })?;
    connection.flush()?;
    match connection.receive()? {
        Some(Message::Welcome { .. }) => Ok(()),
        Some(Message::Fail(fail)) => Err(fail.into_error()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_host_s_backup_goes_on_after_a_cut_at_any_message() {
    let served = Served::new();
    let host = served.join("web1");
    for i in 0..20u64 {
        host.source.write(&format!("dir/{i}"), &noise(i, 3000));
    }
    let round = Cell::new(0);
    // Every other time the site has pruned what rests of the host's.
    let mut prepare = || {
        round.set(round.get() + 1);
        host.source.write("changes", &noise(1000 + round.get(), 30_000));
        if round.get() % 2 == 1 {
            empty(served.repo());
        }
    };
    let attempt = |tap: &Tap| {
        talk(&served.pool, host.number, host.roles, tap, |dial| {
            let options = |_: &Repository| {
                let mut options = host.source.options();
                options.host.clone_from(&host.identity.host);
                Ok(options)
            };
            let done = sync::agent::backup(&host.identity, host.dir.path(), &dial, &options, "test", &Void::default())?;
            assert!(done.manifest.is_some());
            Ok(())
        })
    };
    let cut = everywhere(&|sort| !sort.0, &mut prepare, &attempt, &|| served.has(&host));
    let (client, server) = (kinds(&cut, false, false), kinds(&cut, false, true));
    assert!([0, 1, 9, 10, 16, 32, 34, 39].iter().all(|kind| client.contains(kind)), "{client:?}");
    assert!([0, 4, 17, 33, 36, 40].iter().all(|kind| server.contains(kind)), "{server:?}");
}
