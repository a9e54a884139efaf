//! Sealed tenants: their copies arrive at a pool byte for byte, in order, resumed where they were cut, and nothing in them is
//! overwritten or deleted but by their owners' orders.

#[allow(dead_code)]
#[path = "../../repo/tests/heal/site.rs"]
mod site;
#[path = "../../repo/tests/common/tenants.rs"]
#[allow(dead_code)]
mod parties;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parties::pool;
use repo::backend::local::Local;
use repo::backend::{Area, Backend, Object};
use repo::check::ReadData;
use repo::error::{Error, Kind, Result};
use repo::format::record::Roles;
use repo::keyslots::{self, Secret};
use repo::monitor::Void;
use repo::open::{Access, Place, Repository, Sealed};
use repo::tenants::{self, Redeemed};
use site::{Site, checked, noise, readable};
use sync::remote_backend::RemoteBackend;
use sync::sealed::back;
use sync::sealed::remote::Remote;
use sync::sealed::{Options, Report, Target, push_to};
use sync::serve::objects::copy_dir;
use sync::serve::{Grant, Pool, serve};
use sync::ssh::server::StopFlag;
use sync::stream::{Duplex, pair};
use sync::wire;

const IDENTITY: &str = "AGE-SECRET-KEY-10YLG6NVFZDNAK5E2DDWNKAFMZEKA6F0HA2D2V9MJY340ZAY6PDJS0Y4GLC";
const RECIPIENT: &str = "age17zv74e44g6ljf7mye8xex565zz6lnxklvydf790nxqg87lgphcrqy7ttk8";

struct Cloud {
    _disk: Site,
    pool: Pool,
    stop: StopFlag,
    spool: tempfile::TempDir,
}

/// What went over a link.
#[derive(Default)]
struct Traffic {
    sent: AtomicU64,
    turns: AtomicU64,
    asked: AtomicBool,
}

struct Counted<T>(T, Arc<Traffic>);

impl<T: Read> Read for Counted<T> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.0.read(buf)?;
        if self.1.asked.swap(false, Ordering::SeqCst) {
            self.1.turns.fetch_add(1, Ordering::SeqCst);
        }
        Ok(n)
    }
}

impl<T: Write> Write for Counted<T> {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.1.asked.store(true, Ordering::SeqCst);
        let n = self.0.write(buf)?;
        self.1.sent.fetch_add(n as u64, Ordering::SeqCst);
        Ok(n)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

fn counted(duplex: Duplex) -> (Duplex, Arc<Traffic>) {
    let traffic = Arc::new(Traffic::default());
    let read = Box::new(Counted(duplex.read, Arc::clone(&traffic)));
    (Duplex { read, write: Box::new(Counted(duplex.write, Arc::clone(&traffic))) }, traffic)
}

impl Cloud {
    fn new() -> Cloud {
        let (disk, repo) = pool();
        let spool = tempfile::tempdir().unwrap();
        let pool = Pool::new(repo, "ssh-ed25519 AAAA".into(), spool.path().to_owned());
        Cloud { _disk: disk, pool, stop: StopFlag::default(), spool }
    }

    fn join(&self, name: &str, site: &Repository) -> u32 {
        let pool = self.pool.repository();
        let number = tenants::create(pool, name, true, &|_| ()).unwrap();
        let expires = pool.clock.now().plus(Duration::from_secs(3600));
        let token = tenants::invite(pool, number, Roles::PUSH, "site", "", expires).unwrap();
        let with =
            Redeemed { public: &format!("ssh-ed25519 {name}"), repository: Some(site.config.repo_id), keyring: None };
        tenants::redeem(pool, &token, &with).unwrap();
        number
    }

    fn copy(&self, tenant: u32) -> PathBuf {
        copy_dir(self.spool.path(), tenant)
    }

    /// Does something over a connection of the tenant's that is cut after so many bytes.
    fn with<T: Send>(
        &self,
        tenant: u32,
        roles: Roles,
        cut: Option<u64>,
        client: impl FnOnce(Duplex) -> T + Send,
    ) -> (T, Result<()>) {
        let (near, far) = pair(1 << 20, cut);
        let grant = Grant::Tenant { tenant, roles };
        std::thread::scope(|scope| {
            let serving = scope.spawn(|| serve(&self.pool, &grant, far, &self.stop));
            let done = client(near);
            (done, serving.join().unwrap())
        })
    }

    fn push(&self, tenant: u32, from: &Repository, cut: Option<u64>, options: Options) -> (Result<Report>, Result<()>) {
        self.with(tenant, Roles::PUSH, cut, |near| pushing(from, near, options))
    }

    fn pushed(&self, tenant: u32, from: &Repository) -> Report {
        self.pushed_with(tenant, from, Options::default())
    }

    #[track_caller]
    fn pushed_with(&self, tenant: u32, from: &Repository, options: Options) -> Report {
        let (done, served) = self.push(tenant, from, None, options);
        let report = done.unwrap();
        served.unwrap();
        report
    }

    /// Opens the copy with the identity, as its owner would.
    fn opened(&self, tenant: u32) -> Result<(tempfile::TempDir, Repository)> {
        let cache = tempfile::tempdir().unwrap();
        let place = Place {
            root: self.copy(tenant),
            index_dir: Some(cache.path().join("index")),
            cache: cache.path().join("cache"),
        };
        let secret = Secret::identity(IDENTITY).unwrap();
        let repo = Sealed::open(place, Access::Read)?.unlock(&secret, &Void::default())?;
        Ok((cache, repo))
    }

    /// Asserts that the copy is the repository, and sound.
    #[track_caller]
    fn same(&self, tenant: u32, site: &Site, repo: &Repository) {
        let (_cache, copy) = self.opened(tenant).unwrap();
        assert_eq!(copy.log.position(), repo.log.position());
        assert!(readable(&copy) == readable(repo), "another content");
        let (outcome, told) = checked(&copy, ReadData::All);
        assert_eq!((outcome.problems, &told[..]), (0, &[] as &[String]));
        let there = Local::open(&self.copy(tenant), true).unwrap();
        for area in [Area::Packs, Area::Footers, Area::Snapshots, Area::Log] {
            for object in site.objects(area) {
                let bytes = |backend: &dyn Backend| backend.read_all(&object, 1 << 30).unwrap();
                assert!(bytes(&there) == bytes(&site.disk), "{object:?}");
            }
        }
    }
}

fn pushing(from: &Repository, near: Duplex, options: Options) -> Result<Report> {
    let (id, at) = (from.config.repo_id, from.refresh(&Void::default())?.position);
    let remote = Remote::begin(near, id, at, "test", Path::new("pool"))?;
    let report = push_to(from, &remote, options, &Void::default())?;
    if remote.watermark()? != Some(report.now) {
        remote.done(report.now)?;
    }
    remote.bye()?;
    Ok(report)
}

/// A site whose repository an identity opens too.
fn filled() -> (Site, Repository) {
    let site = Site::filled();
    let repo = site.open();
    add_recipient(&repo);
    (site, repo)
}

fn add_recipient(repo: &Repository) {
    keyslots::add_recipient(repo.backend.as_ref(), repo.config.repo_id, &repo.unlocked.keyring, "far", RECIPIENT)
        .unwrap();
}

#[test]
fn a_copy_arrives_byte_for_byte_and_then_takes_what_is_new() {
    let (cloud, (site, repo)) = (Cloud::new(), filled());
    let tenant = cloud.join("acme", &repo);
    let first = cloud.pushed(tenant, &repo);
    assert_eq!((first.before, first.snapshots, first.packs as usize), (None, 2, site.packs().len()));
    cloud.same(tenant, &site, &repo);
    let state = cloud.pool.repository().log.state();
    assert_eq!(state.owners.get(&tenant), Some(&repo.config.owner_public));
    assert_eq!(state.tenants[&tenant].watermark, Some(repo.log.position()));
    let second = cloud.pushed(tenant, &repo);
    assert_eq!((second.packs, second.bytes, second.before), (0, 0, Some(first.now)));
    site.write("dir/more", &noise(9, 70_000));
    site.backup(&repo);
    let third = cloud.pushed(tenant, &repo);
    assert_eq!((third.packs, third.snapshots), (2, 1));
    assert!((70_000..140_000).contains(&third.bytes), "{third:?}");
    cloud.same(tenant, &site, &repo);
    let audit = cloud.pushed_with(tenant, &repo, Options { audit: true, delete: false });
    assert_eq!((audit.packs, audit.bytes), (0, 0));
}

#[test]
fn the_wire_carries_what_is_missing_and_waits_little() {
    let (cloud, (site, repo)) = (Cloud::new(), filled());
    let tenant = cloud.join("acme", &repo);
    let measured = |repo: &Repository| {
        let (done, _) = cloud.with(tenant, Roles::PUSH, None, |near| {
            let (near, traffic) = counted(near);
            let report = pushing(repo, near, Options::default()).unwrap();
            (report, traffic.sent.load(Ordering::SeqCst), traffic.turns.load(Ordering::SeqCst))
        });
        done
    };
    let size = |site: &Site| -> u64 {
        site.packs().iter().map(|id| site.disk.size(&Object::Pack(*id)).unwrap().unwrap()).sum()
    };
    let whole = size(&site);
    let (_, sent, _) = measured(&repo);
    println!("first push: {sent} bytes for packs of {whole}");
    assert!(sent < whole + whole / 50 + 100_000, "{sent} bytes for {whole}");
    let (report, sent, turns) = measured(&repo);
    println!("empty push: {sent} bytes, {turns} round trips");
    assert_eq!(report.bytes, 0);
    assert!(sent < 2000 && turns <= 4, "{sent} bytes, {turns} round trips");
    site.write("dir/more", &noise(9, 3 << 20));
    site.backup(&repo);
    let more = size(&site) - whole;
    let (_, sent, turns) = measured(&repo);
    println!("next push: {sent} bytes for packs of {more}, {turns} round trips");
    assert!(sent < more + more / 50 + 100_000, "{sent} bytes for {more}");
    assert!(turns <= 12, "{turns} round trips");
    cloud.same(tenant, &site, &repo);
}

#[test]
fn a_link_that_breaks_again_and_again_sends_little_twice() {
    let (cloud, (site, repo)) = (Cloud::new(), filled());
    let tenant = cloud.join("acme", &repo);
    let (mut cut, mut sum, mut tries) = (1000, 0, 0);
    loop {
        let (done, served) = cloud.push(tenant, &repo, Some(cut), Options::default());
        (tries, sum) = (tries + 1, sum + cut);
        match done {
            Ok(_) => break,
            Err(e) => assert_eq!(e.kind(), Kind::Unreachable, "{e}"),
        }
        let e: Error = served.unwrap_err();
        assert!(matches!(e.kind(), Kind::Unreachable | Kind::Interrupted), "{e}");
        // Below the step at which what has come is told: only what was synced at the cut is kept.
        cut = 1_000_000 + cut % 700_001;
        assert!(tries < 60, "{sum} bytes so far");
    }
    assert!(tries > 4 && sum < 60_000_000, "{tries} tries, {sum} bytes");
    cloud.same(tenant, &site, &repo);
}

#[test]
fn every_cut_is_survived() {
    let (cloud, site) = (Cloud::new(), Site::new());
    site.write("a", &noise(1, 3000));
    site.write("b/c", &noise(2, 40_000));
    let repo = site.open();
    add_recipient(&repo);
    site.backup(&repo);
    let tenant = cloud.join("acme", &repo);
    let mut cut = 0;
    while cloud.push(tenant, &repo, Some(cut), Options::default()).0.is_err() {
        // A copy that has a config is whole up to some record of its log.
        if cloud.copy(tenant).join("config").exists() {
            cloud.opened(tenant).unwrap();
        }
        cut += if cut < 400 { 13 } else { 307 };
    }
    assert!(cut > 5000, "{cut}");
    cloud.same(tenant, &site, &repo);
    // And of a push that adds to a copy.
    for round in 0..40 {
        site.write("b/c", &noise(100 + round, 4000));
        site.backup(&repo);
        let _ = cloud.push(tenant, &repo, Some(500 + round * 331), Options::default());
        cloud.opened(tenant).unwrap();
    }
    cloud.pushed(tenant, &repo);
    cloud.same(tenant, &site, &repo);
}

/// Has a client say one thing in a push of its own, and returns what the pool says to it.
fn told(cloud: &Cloud, tenant: u32, repo: &Repository, object: wire::Object, bytes: &[u8]) -> wire::Message {
    let (said, _) = cloud.with(tenant, Roles::PUSH, None, |near| {
        let mut connection = begun(near, repo, wire::Purpose::Push);
        connection.send(&wire::Message::Put { object, size: bytes.len() as u64, from: 0 }).unwrap();
        connection.sender().send_data(bytes).unwrap();
        connection.flush().unwrap();
        connection.receive().unwrap().unwrap()
    });
    said
}

fn begun(near: Duplex, repo: &Repository, purpose: wire::Purpose) -> wire::Connection {
    let mut connection = wire::Connection::open(near, wire::Side::Client, &wire::Preface::ours()).unwrap();
    let (repository, position, program) = (repo.config.repo_id, repo.log.position(), "test".to_owned());
    connection.send(&wire::Message::Begin { purpose, repository, position, program }).unwrap();
    connection.flush().unwrap();
    assert!(matches!(connection.receive().unwrap(), Some(wire::Message::Ready { sealed: true, .. })));
    connection
}

#[test]
fn nothing_is_overwritten_and_what_can_be_told_is_looked_at() {
    let (cloud, (site, repo)) = (Cloud::new(), filled());
    let tenant = cloud.join("acme", &repo);
    cloud.pushed(tenant, &repo);
    let other = Site::filled();
    let stranger = other.open();
    add_recipient(&stranger);
    let slots = |site: &Site| -> Vec<(wire::Object, Vec<u8>)> {
        let read = |object: &Object| site.disk.read_all(object, 1 << 20).unwrap();
        site.objects(Area::Keys).iter().map(|o| (sync::sealed::remote::named(o).unwrap(), read(o))).collect()
    };
    let password = slots(&site).into_iter().find(|(_, bytes)| sync::sealed::is_password(bytes).unwrap()).unwrap();
    assert!(cloud.opened(tenant).is_ok());
    assert!(
        Local::open(&cloud.copy(tenant), true)
            .unwrap()
            .size(&Object::Key(match password.0 {
                wire::Object::Key(id) => repo::id::hex(&id),
                _ => unreachable!(),
            }))
            .unwrap()
            .is_none()
    );
    let foreign = slots(&other).into_iter().find(|(_, bytes)| !sync::sealed::is_password(bytes).unwrap()).unwrap();
    let next = repo.log.position().seq + 1;
    let snapshot = match site.objects(Area::Snapshots)[0] {
        Object::Snapshot(id) => wire::Object::Snapshot(id),
        _ => unreachable!(),
    };
    let pack = wire::Object::Pack(site.packs()[0]);
    let config = other.disk.read_all(&Object::Config, 1 << 20).unwrap();
    for (object, bytes, why) in [
        (password.0, password.1, "could be guessed"),
        (foreign.0, foreign.1, "another repository's"),
        (pack, noise(3, 3000), "not its hash"),
        (wire::Object::Log(next + 1), noise(3, 300), "the record before"),
        (wire::Object::Log(next - 1), noise(3, 300), "nothing is overwritten"),
        (wire::Object::Log(0), noise(3, 300), "begins with record 1"),
        (snapshot, noise(3, 300), "nothing is overwritten"),
        (wire::Object::Footers(1), Vec::new(), "cut short"),
        (wire::Object::Config, config, "another repository's"),
        (
            wire::Object::State(
                wire::StateName::new("tenants/5/../x").unwrap_or_else(|_| wire::StateName::new("x").unwrap()),
            ),
            vec![1],
            "no place",
        ),
    ] {
        match told(&cloud, tenant, &repo, object.clone(), &bytes) {
            wire::Message::Refused { why: said, .. } => assert!(said.contains(why), "{object:?}: {said}"),
            other => panic!("{object:?}: {other:?}"),
        }
    }
    cloud.same(tenant, &site, &repo);
}

#[test]
fn a_quota_counts_what_is_stored() {
    let (cloud, (site, repo)) = (Cloud::new(), filled());
    let tenant = cloud.join("acme", &repo);
    let quota = |n: u64| {
        let mut set = |t: &mut repo::format::record::TenantState| {
            t.quota = Some(n);
            Ok(())
        };
        tenants::change(cloud.pool.repository(), tenant, &mut set).unwrap();
    };
    quota(5 << 20);
    let e = cloud.push(tenant, &repo, None, Options::default()).0.unwrap_err();
    assert_eq!(e.kind(), Kind::NoSpace, "{e}");
    assert!(!cloud.copy(tenant).join("config").exists());
    quota(20 << 20);
    cloud.pushed(tenant, &repo);
    cloud.same(tenant, &site, &repo);
    // What is begun counts, or any number of packs could be: each of these is cut off before its end.
    let (begun, served) = cloud.with(tenant, Roles::PUSH, None, |near| {
        let mut connection = begun(near, &repo, wire::Purpose::Push);
        for n in 0..20u8 {
            let object = wire::Object::Pack(repo::id::PackId([n; 32]));
            connection.send(&wire::Message::Put { object, size: 8 << 20, from: 0 }).unwrap();
            if connection.sender().send_data(&vec![n; 7 << 20]).is_err()
                || connection.send(&wire::Message::Cut).is_err()
            {
                return n;
            }
            connection.flush().unwrap();
            if !matches!(connection.receive(), Ok(Some(wire::Message::Durable { .. }))) {
                return n;
            }
        }
        20
    });
    assert!((8..13).contains(&begun), "{begun}");
    assert_eq!(served.unwrap_err().kind(), Kind::NoSpace);
    // And is given up when it would keep out what fits.
    quota(7 << 20);
    site.write("dir/more", &noise(9, 7000));
    site.backup(&repo);
    cloud.pushed(tenant, &repo);
    cloud.same(tenant, &site, &repo);
}

#[test]
fn another_history_and_another_push_are_refused() {
    let (cloud, (site, repo)) = (Cloud::new(), filled());
    let tenant = cloud.join("acme", &repo);
    let old = site.copy();
    cloud.pushed(tenant, &repo);
    site.write("dir/more", &noise(9, 7000));
    site.backup(&repo);
    cloud.pushed(tenant, &repo);
    let rolled_back = old.open();
    let e = cloud.push(tenant, &rolled_back, None, Options::default()).0.unwrap_err();
    assert!(e.kind() == Kind::RolledBack && e.to_string().contains("rolled back"), "{e}");
    for i in 0..3 {
        old.write("dir/other", &noise(20 + i, 7000));
        old.backup(&rolled_back);
    }
    let e = cloud.push(tenant, &rolled_back, None, Options::default()).0.unwrap_err();
    assert!(e.kind() == Kind::RolledBack && e.to_string().contains("another history"), "{e}");
    cloud.same(tenant, &site, &repo);
    // One at a time.
    let (second, _) = cloud.with(tenant, Roles::PUSH, None, |near| {
        let _open = begun(near, &repo, wire::Purpose::Push);
        cloud.push(tenant, &repo, None, Options::default()).0
    });
    let e = second.unwrap_err();
    assert!(e.kind() == Kind::Unreachable && e.to_string().contains("another push"), "{e}");
    let stranger = Site::filled();
    let stranger = stranger.open();
    assert_eq!(cloud.push(tenant, &stranger, None, Options::default()).0.unwrap_err().kind(), Kind::Refused);
}

#[test]
fn a_stopped_server_is_come_back_to() {
    let (cloud, (site, repo)) = (Cloud::new(), filled());
    let tenant = cloud.join("acme", &repo);
    cloud.stop.set();
    let (done, served) = cloud.push(tenant, &repo, None, Options::default());
    let e = done.unwrap_err();
    assert!(e.kind() == Kind::Unreachable && e.to_string().contains("being stopped"), "{e}");
    assert_eq!(served.unwrap_err().kind(), Kind::Interrupted);
    let cloud = Cloud { stop: StopFlag::default(), ..cloud };
    cloud.pushed(tenant, &repo);
    cloud.same(tenant, &site, &repo);
}

#[test]
fn a_pack_damaged_at_the_pool_is_set_aside_and_comes_again() {
    let (cloud, (site, repo)) = (Cloud::new(), filled());
    let tenant = cloud.join("acme", &repo);
    cloud.pushed(tenant, &repo);
    let [broken, lost] = [site.packs()[0], site.packs()[1]];
    let path = |id| cloud.copy(tenant).join(Object::Pack(id).path());
    let mut bytes = std::fs::read(path(broken)).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(path(broken), bytes).unwrap();
    std::fs::remove_file(path(lost)).unwrap();
    // An ordinary push does not look.
    assert_eq!(cloud.pushed(tenant, &repo).packs, 0);
    let found =
        sync::serve::objects::verify(&cloud.copy(tenant), repo.config.repo_id, &mut |_| true, &|| false).unwrap();
    assert_eq!(found.damaged.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [broken]);
    // What the pool knows it wants is sent again by the next push, what is gone by an audit.
    assert_eq!(cloud.pushed(tenant, &repo).packs, 1);
    assert_eq!(cloud.pushed_with(tenant, &repo, Options { audit: true, delete: false }).packs, 1);
    cloud.same(tenant, &site, &repo);
    assert_eq!(cloud.pushed(tenant, &repo).packs, 0);
    // Told to put one again that is damaged and was not found: it is compared with its name, and replaced.
    let mut bytes = std::fs::read(path(broken)).unwrap();
    bytes[2000] ^= 1;
    std::fs::write(path(broken), &bytes).unwrap();
    let sound = site.disk.read_all(&Object::Pack(broken), 1 << 30).unwrap();
    let answer = told(&cloud, tenant, &repo, wire::Object::Pack(broken), &sound);
    assert!(matches!(answer, wire::Message::Durable { .. }), "{answer:?}");
    cloud.same(tenant, &site, &repo);
}

impl Cloud {
    /// Reads the tenant's copy over connections that each break after `cut` bytes.
    fn reading<T>(&self, tenant: u32, cut: Option<u64>, then: impl FnOnce(&RemoteBackend) -> T) -> T {
        std::thread::scope(|scope| {
            let (tx, rx) = std::sync::mpsc::channel();
            scope.spawn(move || {
                for far in rx {
                    scope.spawn(move || {
                        let grant = Grant::Tenant { tenant, roles: Roles::PULL };
                        let _ = serve(&self.pool, &grant, far, &self.stop);
                    });
                }
            });
            let tx = parking_lot::Mutex::new(tx);
            let dial = move || {
                let (near, far) = pair(1 << 20, cut);
                tx.lock().send(far).unwrap();
                Ok(near)
            };
            // Whoever makes a lost site anew need not know which repository it was.
            let from = RemoteBackend::new(Arc::new(dial), repo::id::RepoId([0; 32]), "test", Path::new("pool"));
            then(&from)
        })
    }
}

#[test]
fn a_copy_comes_back_over_a_link_that_breaks_again_and_again() {
    let (cloud, (site, repo)) = (Cloud::new(), filled());
    let tenant = cloud.join("acme", &repo);
    let root = tempfile::tempdir().unwrap();
    let back = root.path().join("back");
    let bring = |cut: Option<u64>| {
        cloud.reading(tenant, cut, |from| {
            let copy = back::begin(from, &back, repo.config.repo_id)?;
            back::bring(from, &copy, &Void::default())
        })
    };
    let e = bring(None).unwrap_err();
    assert!(e.kind() == Kind::NoRepository && e.to_string().contains("no whole copy"), "{e}");
    cloud.pushed(tenant, &repo);
    let (mut cut, mut tries) = (200, 0);
    while let Err(e) = bring(Some(cut)) {
        assert_eq!(e.kind(), Kind::Unreachable, "{e}");
        assert!(!back.join("config").exists(), "nobody takes it for a repository yet");
        (cut, tries) = (cut * 3 / 2, tries + 1);
    }
    assert!(tries > 8, "{tries}");
    for area in [Area::Packs, Area::Footers, Area::Snapshots, Area::Log] {
        let copy = Local::open(&back, true).unwrap();
        assert_eq!(sync::sealed::names(&copy, area).unwrap().into_iter().collect::<Vec<_>>(), site.objects(area));
        for object in site.objects(area) {
            let bytes = |backend: &dyn Backend| backend.read_all(&object, 1 << 30).unwrap();
            assert!(bytes(&copy) == bytes(&site.disk), "{object:?}");
        }
    }
}

#[test]
fn a_copy_is_read_where_it_lies_and_only_by_who_may() {
    let (cloud, (_site, repo)) = (Cloud::new(), filled());
    let tenant = cloud.join("acme", &repo);
    cloud.pushed(tenant, &repo);
    // Over connections that last, and over such as break now and then.
    for cut in [None, Some(20_000)] {
        cloud.reading(tenant, cut, |from| {
            let sizes: Vec<_> = [Object::Config, Object::Log(1), Object::Log(999)]
                .iter()
                .map(|o| from.size(o).unwrap().is_some())
                .collect();
            assert_eq!(sizes, [true, true, false]);
            let whole = from.read_all(&Object::Log(1), 1 << 20).unwrap();
            assert_eq!(from.read(&Object::Log(1), 3, 5).unwrap(), whole[3..8]);
            assert_eq!(from.read(&Object::Log(1), whole.len() as u64 - 1, 2).unwrap_err().kind(), Kind::Damaged);
            assert_eq!(from.read(&Object::Log(999), 0, 2).unwrap_err().kind(), Kind::NotFound);
            assert_eq!(from.read_all(&Object::Log(1), whole.len() - 1).unwrap_err().kind(), Kind::Damaged);
            assert_eq!(from.put(&Object::Log(999), b"x").unwrap_err().kind(), Kind::ReadOnly);
            assert_eq!(from.delete(&Object::Log(1)).unwrap_err().kind(), Kind::ReadOnly);
        });
    }
    // A key that may deliver alone reads nothing, and one that may read delivers nothing.
    let (said, _) = cloud.with(tenant, Roles::PUSH, None, |near| {
        let mut connection = wire::Connection::open(near, wire::Side::Client, &wire::Preface::ours()).unwrap();
        let (repository, position, program) = (repo.config.repo_id, repo.log.position(), "test".to_owned());
        let purpose = wire::Purpose::Pull;
        connection.send(&wire::Message::Begin { purpose, repository, position, program }).unwrap();
        connection.flush().unwrap();
        connection.receive().unwrap().unwrap()
    });
    assert!(matches!(said, wire::Message::Fail(fail) if fail.kind() == Kind::Refused));
    for message in [
        wire::Message::Put { object: wire::Object::Log(999), size: 0, from: 0 },
        wire::Message::Done { position: repo.log.position() },
        wire::Message::Order { size: 100 },
    ] {
        let (said, served) = cloud.with(tenant, Roles::PULL, None, |near| {
            let mut connection = begun(near, &repo, wire::Purpose::Pull);
            connection.send(&message).unwrap();
            connection.flush().unwrap();
            connection.receive().unwrap().unwrap()
        });
        assert!(matches!(said, wire::Message::Fail(_)), "{said:?}");
        assert!(served.is_err());
    }
}
