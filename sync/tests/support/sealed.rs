//! A pool in memory with sealed tenants, whose copies lie in a directory, and what the tests do with them.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use repo::backend::local::Local;
use repo::backend::{Area, Backend};
use repo::check::ReadData;
use repo::error::Result;
use repo::format::record::Roles;
use repo::keyslots::{self, Secret};
use repo::monitor::Void;
use repo::open::{Access, Place, Repository, Sealed};
use repo::tenants::{self, Redeemed};
use sync::fetch::{Dial, once};
use sync::remote_backend::RemoteBackend;
use sync::sealed::remote::Remote;
use sync::sealed::{Options, Report, Target, push_to};
use sync::serve::objects::copy_dir;
use sync::serve::{Grant, Pool, serve};
use sync::ssh::server::StopFlag;
use sync::stream::{Duplex, pair};
use sync::wire;

use crate::long::long;
use crate::parties::pool;
use crate::site::{Site, checked, readable};

const IDENTITY: &str = "AGE-SECRET-KEY-10YLG6NVFZDNAK5E2DDWNKAFMZEKA6F0HA2D2V9MJY340ZAY6PDJS0Y4GLC";
const RECIPIENT: &str = "age17zv74e44g6ljf7mye8xex565zz6lnxklvydf790nxqg87lgphcrqy7ttk8";

pub struct Cloud {
    pub _disk: Site,
    pub pool: Pool,
    pub stop: StopFlag,
    pub spool: tempfile::TempDir,
}

/// What went over a link.
#[derive(Default)]
pub struct Traffic {
    pub sent: AtomicU64,
    pub turns: AtomicU64,
    pub asked: AtomicBool,
}

pub struct Counted<T>(T, Arc<Traffic>);

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

pub fn counted(duplex: Duplex) -> (Duplex, Arc<Traffic>) {
    let traffic = Arc::new(Traffic::default());
    let read = Box::new(Counted(duplex.read, Arc::clone(&traffic)));
    (Duplex { read, write: Box::new(Counted(duplex.write, Arc::clone(&traffic))) }, traffic)
}

impl Cloud {
    pub fn new() -> Cloud {
        let (disk, repo) = pool();
        let spool = tempfile::tempdir().unwrap();
        let pool = Pool::new(repo, "ssh-ed25519 AAAA".into(), spool.path().to_owned());
        Cloud { _disk: disk, pool, stop: StopFlag::default(), spool }
    }

    pub fn join(&self, name: &str, site: &Repository) -> u32 {
        let pool = self.pool.repository();
        let number = tenants::create(pool, name, true, &|_| ()).unwrap();
        let expires = pool.clock.now().plus(Duration::from_secs(3600));
        let token = tenants::invite(pool, number, Roles::PUSH, "site", "", expires).unwrap();
        let with =
            Redeemed { public: &format!("ssh-ed25519 {name}"), repository: Some(site.config.repo_id), keyring: None };
        tenants::redeem(pool, &token, &with).unwrap();
        number
    }

    pub fn copy(&self, tenant: u32) -> PathBuf {
        copy_dir(self.pool.copies(), tenant)
    }

    /// Does something over a connection of the tenant's that is cut after so many bytes.
    pub fn with<T: Send>(
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

    /// Pushes by as many connections as are asked for, over a long link; how many there were.
    pub fn push_far(&self, tenant: u32, from: &Repository) -> (Result<Report>, usize) {
        let grant = Grant::Tenant { tenant, roles: Roles::PUSH };
        let (ask, asked) = std::sync::mpsc::channel();
        let count = AtomicU64::new(0);
        let done = std::thread::scope(|scope| {
            let (grant, count) = (&grant, &count);
            scope.spawn(move || {
                for far in asked {
                    count.fetch_add(1, Ordering::SeqCst);
                    scope.spawn(move || serve(&self.pool, grant, far, &self.stop));
                }
            });
            let ask = std::sync::Mutex::new(ask);
            let dial: Dial = Arc::new(move || {
                let (near, far) = long(None);
                ask.lock().unwrap().send(far).unwrap();
                Ok(near)
            });
            pushing_by(from, &dial, Options::default())
        });
        (done, count.into_inner() as usize)
    }

    pub fn push(
        &self,
        tenant: u32,
        from: &Repository,
        cut: Option<u64>,
        options: Options,
    ) -> (Result<Report>, Result<()>) {
        self.with(tenant, Roles::PUSH, cut, |near| pushing(from, near, options))
    }

    pub fn pushed(&self, tenant: u32, from: &Repository) -> Report {
        self.pushed_with(tenant, from, Options::default())
    }

    #[track_caller]
    pub fn pushed_with(&self, tenant: u32, from: &Repository, options: Options) -> Report {
        let (done, served) = self.push(tenant, from, None, options);
        let report = done.unwrap();
        served.unwrap();
        report
    }

    /// Opens the copy with the identity, as its owner would.
    pub fn opened(&self, tenant: u32) -> Result<(tempfile::TempDir, Repository)> {
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
    pub fn same(&self, tenant: u32, site: &Site, repo: &Repository) {
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

pub fn pushing(from: &Repository, near: Duplex, options: Options) -> Result<Report> {
    pushing_by(from, &once(near), options)
}

pub fn pushing_by(from: &Repository, dial: &Dial, options: Options) -> Result<Report> {
    let (id, at) = (from.config.repo_id, from.refresh(&Void::default())?.position);
    let remote = Remote::begin(dial, id, at, "test", Path::new("pool"))?;
    let report = push_to(from, &remote, options, &Void::default())?;
    if report.posted == 0 && remote.watermark()? != Some(report.now) {
        remote.done(report.now)?;
    }
    remote.bye()?;
    Ok(report)
}

/// A site whose repository an identity opens too.
pub fn filled() -> (Site, Repository) {
    let site = Site::filled();
    let repo = site.open();
    add_recipient(&repo);
    (site, repo)
}

pub fn add_recipient(repo: &Repository) {
    keyslots::add_recipient(repo.backend.as_ref(), repo.config.repo_id, &repo.unlocked.keyring, "far", RECIPIENT)
        .unwrap();
}

pub fn begun(near: Duplex, repo: &Repository, purpose: wire::Purpose) -> wire::Connection {
    let mut connection = wire::Connection::open(near, wire::Side::Client, &wire::Preface::ours()).unwrap();
    let (repository, position, program) = (repo.config.repo_id, repo.log.position(), "test".to_owned());
    connection.send(&wire::Message::Begin { purpose, repository, position, program }).unwrap();
    connection.flush().unwrap();
    assert!(matches!(connection.receive().unwrap(), Some(wire::Message::Ready { sealed: true, .. })));
    connection
}

impl Cloud {
    /// Reads the tenant's copy over connections that each break after `cut` bytes.
    pub fn reading<T>(&self, tenant: u32, cut: Option<u64>, then: impl FnOnce(&RemoteBackend) -> T) -> T {
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
