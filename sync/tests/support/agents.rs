//! A site that serves, and hosts that back up to it over a stream in memory.

#![allow(dead_code)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use repo::agents;
use repo::backend::{Backend, Object};
use repo::check::ReadData;
use repo::error::{Error, Kind, Result};
use repo::format::record::Roles;
use repo::monitor::Void;
use repo::open::Repository;
use repo::tenants::{self, Redeemed};
use sync::agent::{Delivered, Identity, backup};
use sync::invitation::Invitation;
use sync::serve::{Grant, Pool, serve};
use sync::ssh::keys::KeyPair;
use sync::ssh::server::StopFlag;
use sync::ssh::url::Address;
use sync::stream::pair;
use zeroize::Zeroizing;

use crate::site::{Site, checked, noise, readable};

/// A site that serves.
pub struct Served {
    pub disk: Site,
    pub pool: Pool,
    pub stop: StopFlag,
    pub spool: tempfile::TempDir,
}

/// A host, its files, and what it keeps.
pub struct Host {
    pub source: Site,
    pub identity: Identity,
    pub dir: tempfile::TempDir,
    pub number: u32,
    pub roles: Roles,
}

impl Served {
    pub fn new() -> Served {
        let disk = Site::new();
        let repo = Arc::new(disk.open());
        let spool = tempfile::tempdir().unwrap();
        let pool = Pool::new(repo, "ssh-ed25519 AAAA".into(), spool.path().to_owned());
        Served { disk, pool, stop: StopFlag::default(), spool }
    }

    pub fn repo(&self) -> &Arc<Repository> {
        self.pool.repository()
    }

    pub fn join(&self, host: &str) -> Host {
        self.join_as(host, Roles::AGENT)
    }

    pub fn join_as(&self, host: &str, roles: Roles) -> Host {
        let repo = self.repo();
        let number = agents::enrol(repo, host).unwrap();
        let expires = repo.clock.now().plus(Duration::from_secs(3600));
        let token = tenants::invite(repo, number, roles, "agent", host, expires).unwrap();
        let invitation = Invitation {
            address: Address::parse("ssh://site.example").unwrap(),
            host_key: KeyPair::generate("").unwrap().public(),
            tenant: host.to_owned(),
            sealed: false,
            agent: true,
            token: Zeroizing::new(*token),
        };
        let identity = Identity::new(&invitation).unwrap();
        let public = identity.key.public().text();
        let with =
            Redeemed { public: &public, repository: Some(identity.repository), keyring: Some(&identity.keyring) };
        assert_eq!(tenants::redeem(repo, &token, &with).unwrap().0, number);
        Host { source: Site::new(), identity, dir: tempfile::tempdir().unwrap(), number, roles }
    }

    /// Backs the host up; the link breaks after `cut` bytes, if that is given.
    pub fn try_backup(
        &self,
        host: &Host,
        cut: Option<u64>,
        change: &(dyn Fn(&mut repo::capture::Options) + Sync),
    ) -> (Result<Delivered>, Result<()>) {
        let grant = Grant::Tenant { tenant: host.number, roles: host.roles };
        let (client, server) = pair(1 << 20, cut);
        let client = parking_lot::Mutex::new(Some(client));
        let dial =
            move || client.lock().take().ok_or_else(|| Error::new(Kind::Unreachable, "one connection is all there is"));
        let dial: sync::fetch::Dial = Arc::new(dial);
        let name = host.identity.host.clone();
        std::thread::scope(|scope| {
            let serving = scope.spawn(|| serve(&self.pool, &grant, server, &self.stop));
            let options = |_: &Repository| {
                let mut options = host.source.options();
                options.host = name.clone();
                change(&mut options);
                Ok(options)
            };
            let done = backup(&host.identity, host.dir.path(), &dial, &options, "test", &Void::default());
            drop(dial);
            (done, serving.join().unwrap())
        })
    }

    #[track_caller]
    pub fn backup(&self, host: &Host) -> Delivered {
        let (done, served) = self.try_backup(host, None, &|_| ());
        served.unwrap();
        let done = done.unwrap();
        assert!(done.manifest.is_some());
        done
    }

    /// Asserts that the newest snapshot of the host holds its files, and that nothing is damaged or left over.
    #[track_caller]
    pub fn has(&self, host: &Host) {
        let state = self.repo().log.state();
        let own = state.snapshots.iter().filter(|(_, s)| s.host == host.identity.host && s.forgotten.is_none());
        let (id, _) = own.max_by_key(|(_, s)| s.seq).expect("a snapshot");
        let top = host.source.src();
        let stored: BTreeMap<PathBuf, Vec<u8>> = readable(self.repo())
            .into_iter()
            .filter(|((of, _), _)| *of == id.to_hex())
            .map(|((_, path), bytes)| (PathBuf::from("/").join(path), bytes))
            .collect();
        assert!(stored == files(&top), "{} files instead of {}", stored.len(), files(&top).len());
        self.sound();
    }

    #[track_caller]
    pub fn sound(&self) {
        let (outcome, told) = checked(self.repo(), ReadData::All);
        assert_eq!((outcome.problems, &told[..]), (0, &[] as &[String]));
        assert!(self.repo().log.state().sessions.is_empty(), "no session is left open");
    }

    pub fn stored(&self) -> u64 {
        self.disk.packs().iter().map(|id| self.disk.disk.size(&Object::Pack(*id)).unwrap().unwrap()).sum()
    }
}

pub fn files(top: &std::path::Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut out = BTreeMap::new();
    let mut todo = vec![top.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else {
                out.insert(path.clone(), std::fs::read(&path).unwrap());
            }
        }
    }
    out
}

/// Bytes of all files below `dir`, as the disk has them.
pub fn on_disk(dir: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let all: Vec<PathBuf> = walk(dir);
    all.iter().map(|path| std::fs::metadata(path).unwrap().blocks() * 512).sum()
}

pub fn walk(dir: &std::path::Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { out.extend(walk(&path)) } else { out.push(path) }
    }
    out
}

pub fn fill(host: &Host) {
    host.source.write("large", &noise(1, 20 << 20));
    for i in 0..200u64 {
        host.source.write(&format!("dir/{}/{i}", i % 7), &noise(100 + i, 3000 + 100 * i as usize));
    }
}
