//! A pool in memory, and pushes to it and pulls from it.

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use repo::check::ReadData;
use repo::crypto::slot::Argon2Cost;
use repo::error::{Error, Kind, Result};
use repo::format::record::{Origin, Roles};
use repo::id::SnapshotId;
use repo::keyslots::{NewSlots, Secret};
use repo::monitor::Void;
use repo::open::{Access, Identity, Init, Place, Repository, Sealed, init_anew};
use repo::receive::Sender;
use repo::tenants::pooled_id;
use sync::fetch::Dial;
use sync::pull;
use sync::push::{Options, Report, push};
use sync::serve::{Grant, Pool, serve};
use sync::ssh::server::StopFlag;
use sync::stream::{Duplex, pair};

use crate::parties::pool;
use crate::site::{Site, checked, readable};

/// A pool that serves, and its disk.
pub struct Cloud {
    pub disk: Site,
    pub pool: Pool,
    pub stop: StopFlag,
    pub spool: tempfile::TempDir,
}

impl Cloud {
    pub fn new() -> Cloud {
        let (disk, repo) = pool();
        let spool = tempfile::tempdir().unwrap();
        Cloud {
            disk,
            pool: Pool::new(repo, "ssh-ed25519 AAAA".into(), spool.path().to_owned()),
            stop: StopFlag::default(),
            spool,
        }
    }

    pub fn repo(&self) -> &Arc<Repository> {
        self.pool.repository()
    }

    /// Pushes `from` as the tenant; the link breaks after `cut` bytes, if that is given.
    pub fn push(
        &self,
        tenant: &Sender,
        from: &Repository,
        cut: Option<u64>,
        audit: bool,
    ) -> (Result<Report>, Result<()>) {
        let cuts = move |first: bool| if first { cut } else { None };
        let (done, mut served) = self.push_by((tenant, Roles::PUSH), from, audit, &|first| pair(1 << 20, cuts(first)));
        (done, served.remove(0))
    }

    /// As [`Cloud::push`]; `connect` makes the connections, and is told whether it is the first. What each came to is told.
    pub fn push_by(
        &self,
        (tenant, roles): (&Sender, Roles),
        from: &Repository,
        audit: bool,
        connect: &(dyn Fn(bool) -> (Duplex, Duplex) + Sync),
    ) -> (Result<Report>, Vec<Result<()>>) {
        let grant = Grant::Tenant { tenant: tenant.number, roles };
        // What dials lives as long as it likes: it asks for connections, and they are made here.
        let (ask, asked) = channel::<std::sync::mpsc::Sender<Duplex>>();
        let served = Mutex::new(Vec::new());
        let done = std::thread::scope(|scope| {
            let (served, grant) = (&served, &grant);
            scope.spawn(move || {
                for (i, back) in asked.into_iter().enumerate() {
                    let (client, server) = connect(i == 0);
                    served.lock().unwrap().push(None);
                    scope.spawn(move || {
                        let result = serve(&self.pool, grant, server, &self.stop);
                        served.lock().unwrap()[i] = Some(result);
                    });
                    let _ = back.send(client);
                }
            });
            let ask = Mutex::new(ask);
            let dial: Dial = Arc::new(move || {
                let (back, client) = channel();
                let gone = || Error::new(Kind::Unreachable, "nobody is there any more");
                ask.lock().unwrap().send(back).map_err(|_| gone())?;
                client.recv().map_err(|_| gone())
            });
            push(from, &dial, "test", Options { remote: "cloud", audit, before: audit, anew: false }, &Void::default())
        });
        (done, served.into_inner().unwrap().into_iter().map(Option::unwrap).collect())
    }

    pub fn pushed(&self, tenant: &Sender, from: &Repository) -> Report {
        let (done, served) = self.push(tenant, from, None, false);
        served.unwrap();
        let report = done.unwrap();
        assert!(report.failed.is_empty(), "{report:?}");
        report
    }

    /// Asserts that the pool has of each tenant what its site has, and is sound.
    #[track_caller]
    pub fn has(&self, sites: &[(&Sender, &Repository)]) {
        let mut expected = Vec::new();
        for (tenant, repo) in sites {
            for ((id, path), bytes) in readable(repo) {
                let id = Origin { tenant: tenant.number, id: id.parse::<SnapshotId>().unwrap() };
                expected.push((pooled_id(&id).to_hex(), path, bytes));
            }
        }
        expected.sort();
        let mut found: Vec<_> =
            readable(self.repo()).into_iter().map(|((id, path), bytes)| (id, path, bytes)).collect();
        found.sort();
        assert!(found == expected, "{} files instead of {}", found.len(), expected.len());
        let (outcome, told) = checked(self.repo(), ReadData::All);
        assert_eq!((outcome.problems, &told[..]), (0, &[] as &[String]));
        assert!(self.repo().log.state().sessions.is_empty(), "no session is left open");
    }
}

/// An empty repository that is `of` made anew: with its id and keys, and nothing else.
pub fn anew(of: &Repository) -> (tempfile::TempDir, Repository) {
    let dir = tempfile::tempdir().unwrap();
    let cost = Argon2Cost::new(8, 1, 1).unwrap();
    let slots = NewSlots { passphrase: Some(("another", "new")), cost, recipients: &[], recovery_code: false };
    let identity = Identity { id: of.config.repo_id, keyring: of.unlocked.keyring.duplicate() };
    let root = dir.path().join("repo");
    init_anew(&root, &Init::new(slots), identity).unwrap();
    let place = Place { root, index_dir: None, cache: dir.path().join("cache") };
    let sealed = Sealed::open(place, Access::Write).unwrap();
    let repo = sealed.unlock(&Secret::Passphrase("another".to_owned().into()), &Void::default()).unwrap();
    (dir, repo)
}

impl Cloud {
    /// Pulls what the tenant has here; every connection breaks after `cut` bytes, if that is given.
    pub fn pull(&self, tenant: &Sender, to: &Repository, cut: Option<u64>) -> Result<pull::Report> {
        let number = tenant.number;
        std::thread::scope(|scope| {
            let (tx, rx) = channel();
            scope.spawn(move || {
                for server in rx {
                    scope.spawn(move || {
                        let grant = Grant::Tenant { tenant: number, roles: Roles::PULL };
                        let _ = serve(&self.pool, &grant, server, &self.stop);
                    });
                }
            });
            let dial = move || {
                let (client, server) = pair(1 << 20, cut);
                tx.send(server).unwrap();
                Ok(client)
            };
            pull::pull(to, Arc::new(dial), "test", &[], &Void::default())
        })
    }
}
