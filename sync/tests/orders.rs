//! An owner's orders to delete at a pool: obeyed when they are sound, refused by name in every other case.

#[allow(dead_code)]
#[path = "../../repo/tests/heal/site.rs"]
mod site;
#[allow(dead_code)]
#[path = "../../repo/tests/common/tenants.rs"]
mod parties;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parties::pool;
use repo::backend::memory::Memory;
use repo::backend::{Area, Backend, Object};
use repo::crypto::slot::{Argon2Cost, RecoveryCode};
use repo::error::{Error, Kind, Result};
use repo::forget::{self, forget_named};
use repo::format::record::{Roles, TenantState};
use repo::keyslots::NewSlots;
use repo::lock::Locks;
use repo::monitor::Void;
use repo::open::{Init, Repository, init_in};
use repo::prune::{self, prune};
use repo::tenants::{self, Redeemed};
use site::{Site, noise};
use sync::fetch::once;
use sync::sealed::ask::{self, Deleted};
use sync::sealed::order::Order;
use sync::sealed::remote::{Remote, named};
use sync::sealed::{Options, push_to};
use sync::serve::objects::copy_dir;
use sync::serve::{Grant, Pool, serve};
use sync::ssh::server::StopFlag;
use sync::stream::pair;
use sync::wire;

/// A site with a known recovery code, pushed to a pool after some of it was pruned.
struct Scene {
    site: Site,
    repo: Repository,
    code: RecoveryCode,
    _disk: Site,
    pool: Pool,
    _spool: tempfile::TempDir,
    tenant: u32,
}

fn site_with_code() -> (Site, Repository, RecoveryCode) {
    let (dir, source) = (tempfile::tempdir().unwrap(), Arc::new(tempfile::tempdir().unwrap()));
    let site = Site { dir, source, disk: Memory::new(), locks: Locks::memory() };
    let cost = Argon2Cost::new(8, 1, 1).unwrap();
    let passphrase = Some(("a passphrase of the test", "test"));
    let mut wanted = Init::new(NewSlots { passphrase, cost, recipients: &[], recovery_code: true });
    wanted.pack_size = 4 << 20;
    let (_, code) = init_in(Arc::new(site.disk.clone()), &wanted).unwrap();
    let repo = site.open();
    for n in 0..3 {
        site.write("a", &noise(n, 300_000));
        site.backup(&repo);
    }
    (site, repo, code.unwrap())
}

impl Scene {
    fn new() -> Scene {
        let (site, repo, code) = site_with_code();
        let (disk, pool) = pool();
        let spool = tempfile::tempdir().unwrap();
        let tenant = tenants::create(&pool, "acme", true, &|_| ()).unwrap();
        let token =
            tenants::invite(&pool, tenant, Roles::PUSH, "site", "", pool.clock.now().plus(Duration::from_secs(60)))
                .unwrap();
        let with = Redeemed { public: "ssh-ed25519 A", repository: Some(repo.config.repo_id), keyring: None };
        tenants::redeem(&pool, &token, &with).unwrap();
        let pool = Pool::new(pool, "ssh-ed25519 AAAA".into(), spool.path().to_owned());
        let scene = Scene { site, repo, code, _disk: disk, pool, _spool: spool, tenant };
        scene.push();
        scene.prune();
        scene.push();
        scene
    }

    fn prune(&self) {
        let state = self.repo.log.state();
        let newest = state.snapshots.iter().max_by_key(|(_, s)| s.seq).map(|(id, _)| *id).unwrap();
        let old: Vec<_> = state.snapshots.keys().copied().filter(|id| *id != newest).collect();
        forget_named(&self.repo, &old, &forget::Options::default(), &Void::default()).unwrap();
        let options =
            prune::Options { release_held: true, max_unused: prune::MaxUnused::Bytes(0), ..Default::default() };
        prune(&self.repo, &options, &Void::default()).unwrap();
    }

    /// Does something at the end of a push.
    fn at_end<T: Send>(&self, then: impl FnOnce(&Remote) -> Result<T> + Send) -> Result<T> {
        let (near, far) = pair(1 << 20, None);
        let grant = Grant::Tenant { tenant: self.tenant, roles: Roles::PUSH };
        std::thread::scope(|scope| {
            let serving = scope.spawn(|| serve(&self.pool, &grant, far, &StopFlag::default()));
            let at = self.repo.refresh(&Void::default())?.position;
            let remote = Remote::begin(&once(near), self.repo.config.repo_id, at, "test", Path::new("pool"))?;
            push_to(&self.repo, &remote, Options { remote: "", audit: false, delete: true }, &Void::default())?;
            let done = then(&remote);
            drop(remote);
            let _ = serving.join();
            done
        })
    }

    fn push(&self) {
        self.at_end(|_| Ok(())).unwrap();
    }

    fn ordered(&self, code: &RecoveryCode) -> Result<Deleted> {
        self.at_end(|remote| ask::delete(&self.repo, remote, code, self.repo.log.position()))
    }

    /// Sends an order as it is, and says how it is refused.
    fn refused(&self, bytes: Vec<u8>, why: &str) {
        let before = self.files();
        let e: Error = self.at_end(|remote| remote.order(&bytes)).unwrap_err();
        assert!(e.kind() == Kind::Refused && e.to_string().contains(why), "{why}: {e}");
        assert_eq!(self.files(), before, "{why}");
    }

    fn signed(&self, objects: Vec<wire::Object>) -> Vec<u8> {
        self.order(objects).sign(&self.repo, &self.code).unwrap()
    }

    fn order(&self, objects: Vec<wire::Object>) -> Order {
        Order { repository: self.repo.config.repo_id, position: self.repo.log.position(), objects }
    }

    fn copy(&self) -> PathBuf {
        copy_dir(self.pool.copies(), self.tenant)
    }

    fn files(&self) -> Vec<PathBuf> {
        let (mut found, mut open) = (Vec::new(), vec![self.copy()]);
        while let Some(dir) = open.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { open.push(path) } else { found.push(path) }
            }
        }
        found.sort();
        found
    }

    /// A pack that is at the pool and not at the site.
    fn obsolete(&self) -> wire::Object {
        let mut found = None;
        let copy = repo::backend::local::Local::open(&self.copy(), true).unwrap();
        copy.list(Area::Packs, &mut |object, _| {
            if self.site.disk.size(&object)?.is_none() {
                found = Some(named(&object)?);
            }
            Ok(())
        })
        .unwrap();
        found.unwrap()
    }

    fn set(&self, change: impl Fn(&mut TenantState)) {
        let mut change = |tenant: &mut TenantState| {
            change(tenant);
            Ok(())
        };
        tenants::change(self.pool.repository(), self.tenant, &mut change).unwrap();
    }
}

#[test]
fn an_order_deletes_what_it_names_and_is_recorded() {
    let scene = Scene::new();
    let before = scene.files().len();
    let done = scene.ordered(&scene.code).unwrap();
    assert!(done.objects > 3 && done.bytes > 500_000 && done.later == 0, "{done:?}");
    assert_eq!(scene.files().len() as u64, before as u64 - done.objects);
    let copy = repo::backend::local::Local::open(&scene.copy(), true).unwrap();
    for area in [Area::Packs, Area::Footers, Area::Snapshots] {
        let objects = sync::sealed::names(&copy, area).unwrap();
        assert_eq!(objects.into_iter().collect::<Vec<_>>(), scene.site.objects(area));
    }
    let state = scene.pool.repository().log.state();
    let obeyed = &state.orders[&scene.tenant];
    assert_eq!((obeyed.objects, obeyed.bytes), (done.objects, done.bytes));
    assert_eq!(scene.ordered(&scene.code).unwrap(), Deleted::default());
}

#[test]
fn without_the_owner_s_key_nothing_is_deleted() {
    let scene = Scene::new();
    let (_other, stranger, foreign) = site_with_code();
    assert_eq!(scene.ordered(&foreign).unwrap_err().kind(), Kind::WrongPassword);
    let named = vec![scene.obsolete()];
    // Signed by another owner, by nobody, or by the right one and changed since.
    let forged = Order { ..scene.order(named.clone()) }.sign(&stranger, &foreign).unwrap();
    scene.refused(forged, "not signed by the owner");
    scene.refused(vec![7; 300], "not signed by the owner");
    let signed = scene.signed(named.clone());
    for at in [0, 20, 60, signed.len() / 2, signed.len() - 1] {
        let mut changed = signed.clone();
        changed[at] ^= 1;
        scene.refused(changed, "not signed by the owner");
    }
    scene.refused(signed[..signed.len() - 1].to_vec(), "not signed by the owner");
    // Signed by the owner, of another repository.
    let foreign = Order { repository: stranger.config.repo_id, ..scene.order(named.clone()) };
    scene.refused(foreign.sign(&scene.repo, &scene.code).unwrap(), "for another repository");
    // Of another state.
    scene.site.backup(&scene.repo);
    scene.push();
    scene.refused(signed, "made at another state");
}

#[test]
fn an_order_is_obeyed_once() {
    let scene = Scene::new();
    let signed = scene.signed(vec![scene.obsolete()]);
    scene.at_end(|remote| remote.order(&signed)).unwrap();
    scene.refused(signed, "obeyed before");
    scene.refused(scene.signed(vec![wire::Object::Footers(99)]), "obeyed before");
    // Its object comes back, and the order with it.
    scene.site.backup(&scene.repo);
    scene.push();
    scene.refused(scene.signed(vec![wire::Object::Footers(99)]), "not here");
}

#[test]
fn what_must_stay_stays() {
    let scene = Scene::new();
    scene.refused(scene.signed(vec![wire::Object::Config]), "must stay");
    scene.refused(scene.signed(vec![wire::Object::Log(1)]), "must stay");
    scene.refused(scene.signed(vec![wire::Object::Log(scene.repo.log.position().seq)]), "must stay");
    let slots: Vec<wire::Object> = {
        let copy = repo::backend::local::Local::open(&scene.copy(), true).unwrap();
        sync::sealed::names(&copy, Area::Keys).unwrap().iter().map(|slot| named(slot).unwrap()).collect()
    };
    scene.refused(scene.signed(slots), "no key slot");
    scene.refused(
        scene.signed(vec![wire::Object::State(wire::StateName::new("tenants/5/config").unwrap())]),
        "must stay",
    );
}

#[test]
fn within_the_window_nobody_deletes() {
    let scene = Scene::new();
    scene.set(|tenant| tenant.window = Some(3600));
    scene.refused(scene.signed(vec![scene.obsolete()]), "too early");
    let told = scene.ordered(&scene.code).unwrap();
    assert!(told.objects == 0 && told.later > 3 && told.until.is_some(), "{told:?}");
    // What came long ago may go, and what came since stays.
    let object = scene.obsolete();
    let wire::Object::Pack(id) = object else { unreachable!() };
    let path = scene.copy().join(Object::Pack(id).path());
    let hour_ago = std::time::SystemTime::now() - Duration::from_secs(3700);
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(hour_ago).unwrap();
    let told = scene.ordered(&scene.code).unwrap();
    assert_eq!((told.objects, path.exists()), (1, false));
    assert!(told.later > 2);
}

#[test]
fn another_owner_never_takes_the_first_one_s_place() {
    let scene = Scene::new();
    let pinned = scene.pool.repository().log.state().owners[&scene.tenant];
    assert_eq!(pinned, scene.repo.config.owner_public);
    // The config is lost at the pool, and comes with another owner's key.
    for name in ["config", "config.copy"] {
        std::fs::remove_file(scene.copy().join(name)).unwrap();
    }
    let mut other = scene.repo.config.clone();
    other.owner_public = [9; 32];
    let bytes = other.encode(&scene.repo.keys);
    let (near, far) = pair(1 << 20, None);
    let grant = Grant::Tenant { tenant: scene.tenant, roles: Roles::PUSH };
    std::thread::scope(|scope| {
        scope.spawn(|| serve(&scene.pool, &grant, far, &StopFlag::default()));
        let mut connection = wire::Connection::open(near, wire::Side::Client, &wire::Preface::ours()).unwrap();
        let (repository, position) = (scene.repo.config.repo_id, scene.repo.log.position());
        let (purpose, program) = (wire::Purpose::Push, "test".to_owned());
        connection.send(&wire::Message::Begin { purpose, repository, position, program }).unwrap();
        let size = bytes.len() as u64;
        connection.send(&wire::Message::Put { object: wire::Object::Config, size, from: 0 }).unwrap();
        connection.sender().send_data(&bytes).unwrap();
        connection.flush().unwrap();
        assert!(matches!(connection.receive().unwrap(), Some(wire::Message::Ready { .. })));
        match connection.receive().unwrap() {
            Some(wire::Message::Refused { why, .. }) => assert!(why.contains("another owner"), "{why}"),
            other => panic!("{other:?}"),
        }
    });
    // The first one's own comes again.
    scene.push();
    assert!(scene.copy().join("config").exists() && scene.copy().join("config.copy").exists());
}
