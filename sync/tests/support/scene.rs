//! A pool that serves over SSH, with tenants of every sort and keys of every role, each registered by an invitation.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use repo::agents;
use repo::backend::{Area as Stored, Backend, Object as Place};
use repo::capture::{Options, backup};
use repo::error::Result;
use repo::format::record::{Custody, DriveState, Position, Roles, Step};
use repo::id::DriveId;
use repo::monitor::Void;
use repo::open::Repository;
use repo::tenants;
use sync::drive::custody::change;
use sync::sealed::remote::named;
use sync::serve::{Door, Pool};
use sync::ssh::client::{Link, Pin, Target, connect};
use sync::ssh::keys::{KeyPair, PublicKey};
use sync::ssh::server::{Limits, Running, Server, Timing};
use sync::ssh::url::Address;
use sync::wire::{Fail, Message, Object, Purpose, Secret, Token};

use crate::parties::pool;
use crate::raw::{Heard, Raw, with_bytes};
use crate::site::{Site, noise};

const PATIENCE: Duration = Duration::from_secs(20);
/// What opens a sealed tenant's slot at a pool.
const RECIPIENT: &str = "age17zv74e44g6ljf7mye8xex565zz6lnxklvydf790nxqg87lgphcrqy7ttk8";

/// A tenant or an agent, what it has itself, and the key that has delivered it.
pub struct Party {
    pub number: u32,
    pub site: Site,
    pub repo: Repository,
    pub sealed: bool,
    /// What that key may do.
    pub roles: Roles,
    pub key: KeyPair,
    /// A drive of which the server's log says that it brought all that it carried, of the party of this name.
    pub drive: DriveId,
}

pub struct Scene {
    server: Option<Running>,
    address: SocketAddr,
    host: PublicKey,
    pub pool: Arc<Repository>,
    _disk: Site,
    _spool: tempfile::TempDir,
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop(Duration::ZERO);
        }
    }
}

impl Scene {
    pub fn new() -> Scene {
        let (disk, repo) = pool();
        Scene::serving(disk, repo)
    }

    /// Serves a repository, a pool or a site.
    pub fn serving(disk: Site, repo: Arc<Repository>) -> Scene {
        let spool = tempfile::tempdir().unwrap();
        let host = Door::host_key(&repo).unwrap();
        let served = Pool::new(Arc::clone(&repo), host.public().text(), spool.path().to_owned());
        let door = Arc::new(Door::new(served, Box::new(|_| ())));
        let many = Limits { before_auth_per_address: 100, ..Limits::default() };
        let limits = Limits { sessions: 500, sessions_per_key: 100, ..many };
        let listen = "127.0.0.1:0".parse().unwrap();
        let server = Server::start(listen, &host, door.clone(), door, limits).unwrap();
        let address = server.address();
        Scene { server: Some(server), address, host: host.public(), pool: repo, _disk: disk, _spool: spool }
    }

    pub fn link(&self, key: &KeyPair) -> Result<Link> {
        let target = Target {
            address: Address { user: None, host: "127.0.0.1".into(), port: self.address.port(), tenant: None },
            user: "packmule".into(),
            key: key.clone(),
            pin: Pin::Key(self.host.clone()),
            timing: Timing::default(),
        };
        connect(&target, PATIENCE)
    }

    /// A tenant with one snapshot of its own, delivered.
    pub fn party(&self, name: &str, sealed: bool, seed: u64) -> Party {
        let number = tenants::create(&self.pool, name, sealed, &|_| ()).unwrap();
        let party = self.delivered(number, sealed, Roles::PUSH, "testhost", seed);
        self.drive_of(name, &party);
        party
    }

    /// A site's agent with one snapshot of its host's, delivered.
    pub fn agent(&self, host: &str, roles: Roles, seed: u64) -> Party {
        let party = self.delivered(agents::enrol(&self.pool, host).unwrap(), false, roles, host, seed);
        self.drive_of(host, &party);
        party
    }

    fn drive_of(&self, name: &str, party: &Party) {
        let step = |custody| Step { custody, at: self.pool.clock.now(), by: "test".into() };
        let state = DriveState {
            label: "a drive".into(),
            party: name.to_owned(),
            repository: party.repo.config.repo_id,
            back: false,
            steps: [Custody::Received, Custody::Verified].map(step).to_vec(),
            packs: 1,
            bytes: 1,
            digest: [1; 32],
            snapshots: 0,
            newest: None,
            loads: Vec::new(),
        };
        change(&self.pool, party.drive, &mut |_| Ok((state.clone(), ()))).unwrap();
    }

    fn delivered(&self, number: u32, sealed: bool, roles: Roles, host: &str, seed: u64) -> Party {
        let site = Site::new();
        site.write("dir/own", &noise(seed, 30_000));
        let repo = site.open();
        if sealed {
            let (backend, keyring) = (repo.backend.as_ref(), &repo.unlocked.keyring);
            repo::keyslots::add_recipient(backend, repo.config.repo_id, keyring, "far", RECIPIENT).unwrap();
        }
        backup(&repo, Options { host: host.to_owned(), ..site.options() }, &Void::default()).unwrap();
        let (key, drive) = (KeyPair::generate("").unwrap(), DriveId::random());
        let mut party = Party { number, site, repo, sealed, roles, key, drive };
        party.key = self.enrol(&party, roles);
        let link = self.link(&party.key).unwrap();
        let mut raw = Raw::over(link.channel().unwrap());
        raw.say(&[party.begin(Purpose::Push)]);
        let ready = raw.hear();
        assert!(matches!(ready, Some(Message::Ready { .. })), "{host}: {ready:?}");
        raw.say(&party.everything());
        let heard = raw.rest();
        assert!(heard.messages.iter().any(|m| matches!(m, Message::Finished { .. })), "{heard:?}");
        party
    }

    pub fn token(&self, number: u32, roles: Roles, valid: Duration) -> Token {
        let expires = self.pool.clock.now().plus(valid);
        Token::new(*tenants::invite(&self.pool, number, roles, "key", "", expires).unwrap())
    }

    /// A new key of the tenant's with these roles, by way of an invitation.
    pub fn enrol(&self, party: &Party, roles: Roles) -> KeyPair {
        let key = KeyPair::generate("test").unwrap();
        let token = self.token(party.number, roles, Duration::from_secs(600));
        let anew = roles.allow(Roles::RESTORE) && !roles.allow(Roles::AGENT);
        let link = self.link(&key).unwrap();
        let mut raw = Raw::over(link.channel().unwrap());
        raw.say(&[party.redeem(token, anew)]);
        let welcome = raw.hear();
        assert!(matches!(welcome, Some(Message::Welcome { .. })), "{welcome:?}");
        key
    }
}

impl Party {
    pub fn begin(&self, purpose: Purpose) -> Message {
        let (repository, position) = (self.repo.config.repo_id, self.position());
        Message::Begin { purpose, repository, position, program: "test".into() }
    }

    pub fn position(&self) -> Position {
        self.repo.log.position()
    }

    pub fn keyring(&self) -> Secret {
        Secret::new(self.repo.unlocked.keyring.to_bytes().to_vec())
    }

    /// What takes an invitation up; `anew`: as a site that has nothing left.
    pub fn redeem(&self, token: Token, anew: bool) -> Message {
        let (label, host) = ("key".to_owned(), "host".to_owned());
        let repository = (!anew).then_some(self.repo.config.repo_id);
        let keyring = (!anew && !self.sealed).then(|| self.keyring());
        Message::Redeem { token, label, host, repository, keyring }
    }

    pub fn objects(&self, area: Stored) -> Vec<(Object, Vec<u8>)> {
        let all = self.site.objects(area).into_iter();
        let bytes = |place: &Place| self.site.disk.read_all(place, 1 << 28).unwrap();
        all.map(|place| (named(&place).unwrap(), bytes(&place))).collect()
    }

    pub fn config(&self) -> Vec<u8> {
        self.site.disk.read_all(&Place::Config, 1 << 20).unwrap()
    }

    /// Everything that a push of this party brings, in its order.
    fn everything(&self) -> Vec<Message> {
        let areas: &[Stored] = match self.sealed {
            false => &[Stored::Packs],
            true => &[Stored::Keys, Stored::Packs, Stored::Footers, Stored::Snapshots, Stored::Log],
        };
        let mut all = Vec::new();
        for area in areas {
            for (object, bytes) in self.objects(*area) {
                // No slot of a password.
                if matches!(&object, Object::Key(_)) && !is_open_to_a_recipient(&bytes) {
                    continue;
                }
                all.extend(put(object, &bytes));
            }
        }
        if self.sealed {
            all.extend(put(Object::Config, &self.config()));
        } else {
            for (object, bytes) in self.objects(Stored::Snapshots) {
                let Object::Snapshot(snapshot) = object else { unreachable!() };
                all.extend(with_bytes(Message::Manifest { snapshot, size: bytes.len() as u64 }, &bytes));
            }
        }
        all.push(Message::Done { position: self.position() });
        all
    }
}

pub fn is_open_to_a_recipient(slot: &[u8]) -> bool {
    use repo::format::slot::{Lock, Slot};
    !matches!(Slot::decode(slot).unwrap().head.lock, Lock::Passphrase { .. })
}

pub fn put(object: Object, bytes: &[u8]) -> Vec<Message> {
    with_bytes(Message::Put { object, size: bytes.len() as u64, from: 0 }, bytes)
}

/// What a client heard, in a word or two for each message.
pub fn said(heard: &Heard) -> String {
    let word = |message: &Message| match message {
        Message::Fail(fail) => told(fail),
        Message::Welcome { role, keyring, .. } => {
            format!("Welcome:{role:?}{}", if keyring.is_some() { ", keys" } else { "" })
        }
        Message::Kept { there } => format!("Kept:{}", if *there { "there" } else { "not" }),
        Message::Recalled { sealed, .. } => format!("Recalled:{}", sealed.len()),
        Message::Signed { receipts } => format!("Signed:{}", receipts.len()),
        Message::Answer { missing } => format!("Answer:{}", missing.ones()),
        Message::Absent { pieces } => format!("Absent:{}", pieces.len()),
        Message::Snapshots { snapshots, .. } => format!("Snapshots:{}", snapshots.len()),
        Message::Listing { objects, .. } => format!("Listing:{}", if objects.is_empty() { "none" } else { "some" }),
        Message::Declined { reason, .. } => format!("Declined:{reason:?}"),
        other => other.name().to_owned(),
    };
    let mut words: Vec<String> = heard.messages.iter().filter(|m| !matches!(m, Message::Data(_))).map(word).collect();
    if heard.end.is_err() {
        words.push("cut".into());
    }
    if words.is_empty() { "-".into() } else { words.join("+") }
}

/// A failure, by its kind.
pub fn told(fail: &Fail) -> String {
    format!("!{:?}", fail.kind())
}
