//! What a tenant is answered does not depend on what others have: everything it can ask, byte for byte, in two pools, of which in
//! one another tenant delivered the very same data and in the other it did not.

#[allow(dead_code)]
#[path = "support/dialled.rs"]
mod dialled;
#[allow(dead_code)]
#[path = "../../repo/tests/common/tenants.rs"]
mod parties;
#[allow(dead_code)]
#[path = "support/raw.rs"]
mod raw;
#[allow(dead_code)]
#[path = "../../repo/tests/heal/site.rs"]
mod site;

use std::sync::Arc;
use std::time::Duration;

use parties::{deliver_all, join, pool};
use raw::{Raw, encoded, with_bytes};
use repo::backend::{Backend, Object as Place};
use repo::clock::Time;
use repo::crypto::hash::ChunkKind;
use repo::format::record::{Position, Roles, TenantState};
use repo::id::{ContentHash, PackId, SnapshotId};
use repo::monitor::Void;
use repo::open::Repository;
use repo::tenants;
use repo::tree::closure;
use site::{Site, noise};
use sync::serve::{Grant, Pool, serve};
use sync::ssh::server::StopFlag;
use sync::stream::pair;
use sync::wire::*;

/// What the one who asks has come by: everything of `site`, which is what the other tenant has, or has not.
struct Loot {
    site: Site,
    repo: Repository,
    snapshot: SnapshotId,
    manifest: Vec<u8>,
    pieces: Vec<Piece>,
    /// Those with data, and those with trees.
    packs: [Vec<PackId>; 2],
    /// The other's own snapshot and pack of the same data.
    theirs: (SnapshotId, PackId),
}

fn pack(site: &Site, id: PackId) -> Vec<u8> {
    site.disk.read_all(&Place::Pack(id), 1 << 28).unwrap()
}

/// A site of the same files as another: in its own repository.
fn twin(of: &Site) -> Site {
    Site { source: Arc::clone(&of.source), ..Site::new() }
}

fn loot(victim: &Site, victims: &Repository) -> Loot {
    let site = twin(victim);
    let repo = site.open();
    site.backup(&repo);
    let snapshot = *repo.log.state().snapshots.keys().next().unwrap();
    let manifest = site.disk.read_all(&Place::Snapshot(snapshot), 1 << 24).unwrap();
    let opened = repo::snapshots::manifest(&repo, &snapshot).unwrap();
    let mut names = Vec::new();
    closure::walk(repo.store().as_ref(), &opened, &Void::default(), &mut |h, kind| {
        names.push((*h, kind));
        Ok(true)
    })
    .unwrap();
    let pieces = names.into_iter().map(|(h, kind)| Piece { kind, len: 1000, h }).collect();
    let of_kind = |wanted: u8| -> Vec<PackId> {
        let kind = |id: &PackId| site.disk.read(&Place::Pack(*id), 10, 1).unwrap()[0];
        site.packs().into_iter().filter(|id| (kind(id) != 0) == (wanted != 0)).collect()
    };
    let packs = [of_kind(0), of_kind(1)];
    assert!(packs.iter().all(|some| !some.is_empty()));
    let theirs = (*victims.log.state().snapshots.keys().next().unwrap(), victim.packs()[0]);
    Loot { repo, snapshot, manifest, pieces, packs, theirs, site }
}

/// A pool in which another tenant has delivered what `theirs` has, and the one who asks nothing yet.
struct World {
    pool: Pool,
    _disk: Site,
    spool: tempfile::TempDir,
    asker: u32,
    sealed: u32,
}

impl World {
    fn new(loot: &Loot, theirs: (&Site, &Repository), quota: Option<u64>) -> World {
        let (disk, repo) = pool();
        let spool = tempfile::tempdir().unwrap();
        let victim = join(&repo, "victim", theirs.1);
        deliver_all(&repo, &victim, theirs.0, theirs.1);
        let asker = join(&repo, "asker", &loot.repo).number;
        let mut limited = |tenant: &mut TenantState| {
            tenant.quota = quota;
            Ok(())
        };
        tenants::change(&repo, asker, &mut limited).unwrap();
        let pool = Pool::new(repo, "ssh-ed25519 AAAA".into(), spool.path().to_owned());
        let mut world = World { pool, _disk: disk, spool, asker, sealed: 0 };
        let other = world.sealed("their-vault", theirs.1);
        world.sealed = world.sealed("vault", &loot.repo);
        let packs = theirs.0.packs().into_iter();
        let all = packs.flat_map(|id| put(id, &pack(theirs.0, id))).collect::<Vec<_>>();
        let done = world.talk(other, theirs.1, Purpose::Push, &[all]);
        assert!(done.last().is_some_and(|m| matches!(m, Message::Durable { .. })), "{done:?}");
        world
    }

    fn sealed(&self, name: &str, of: &Repository) -> u32 {
        let repo = self.pool.repository();
        let number = tenants::create(repo, name, true, &|_| ()).unwrap();
        let expires = repo.clock.now().plus(Duration::from_secs(600));
        let token = tenants::invite(repo, number, Roles::PUSH, "site", "", expires).unwrap();
        let (public, repository) = (format!("ssh-ed25519 {name}"), Some(of.config.repo_id));
        let with = tenants::Redeemed { public: &public, repository, keyring: None };
        tenants::redeem(repo, &token, &with).unwrap();
        number
    }

    /// Says these things one after the other, each when the one before was answered; all that was heard.
    fn talk(&self, tenant: u32, of: &Repository, purpose: Purpose, sayings: &[Vec<Message>]) -> Vec<Message> {
        let (near, far) = pair(1 << 22, None);
        let grant = Grant::Tenant { tenant, roles: Roles::PUSH.and(Roles::PULL) };
        std::thread::scope(|scope| {
            scope.spawn(|| serve(&self.pool, &grant, far, &StopFlag::default()));
            let mut raw = Raw::over(near);
            let (repository, position) = (of.config.repo_id, Position::START);
            raw.say(&[Message::Begin { purpose, repository, position, program: "test".into() }]);
            let mut heard: Vec<Message> = raw.hear().into_iter().collect();
            for (n, saying) in sayings.iter().enumerate() {
                raw.say(saying);
                // What belongs to this saying comes before the Pong, or is of a pack that is looked into later.
                raw.say(&[Message::Ping(n as u64)]);
                loop {
                    match raw.hear() {
                        Some(Message::Pong(_)) => break,
                        Some(message) => heard.push(message),
                        None => return heard,
                    }
                }
            }
            heard.extend(raw.rest().messages.into_iter().filter(|m| !matches!(m, Message::Pong(_))));
            // Each of these has an order of its own, and none among them.
            heard.sort_by_key(|message| match message {
                Message::Durable { .. } => 1,
                Message::Refused { .. } => 2,
                _ => 0,
            });
            heard
        })
    }
}

fn put(id: PackId, bytes: &[u8]) -> Vec<Message> {
    with_bytes(Message::Put { object: Object::Pack(id), size: bytes.len() as u64, from: 0 }, bytes)
}

/// The messages as they were sent, but for what is drawn by chance or is the time.
fn transcript(messages: Vec<Message>) -> Vec<(&'static str, Vec<u8>)> {
    let mut sealed = false;
    let plain = |message: Message| {
        let name = message.name();
        let masked = match message {
            Message::Ready { tenant, sealed, watermark, partial, quota_left, chunker, epochs, .. } => {
                let (session, time) = (Session([0; 16]), Time(0));
                Message::Ready { session, tenant, sealed, watermark, partial, quota_left, chunker, time, epochs }
            }
            Message::Snapshots { mut snapshots, more } => {
                snapshots.iter_mut().for_each(|entry| entry.received = Time(0));
                Message::Snapshots { snapshots, more }
            }
            // A nonce is drawn for each sealing.
            Message::Data(bytes) if sealed => Message::Data(vec![0; bytes.len()]),
            other => other,
        };
        sealed = matches!(masked, Message::Manifest { .. }) || sealed && matches!(masked, Message::Data(_));
        (name, encoded(&[masked]))
    };
    messages.into_iter().map(plain).collect()
}

/// Everything that the one who asks can say, and what it hears.
fn probe(world: &World, loot: &Loot) -> Vec<(&'static str, Vec<u8>)> {
    let have = || vec![Message::Have { pieces: loot.pieces.clone() }];
    let names: Vec<PieceName> = loot.pieces.iter().map(|p| PieceName { kind: p.kind, h: p.h }).collect();
    let kinds = [ChunkKind::Data, ChunkKind::Tree, ChunkKind::Node];
    // The right hash and the wrong kind, and a hash of nothing.
    let odd = loot.pieces.iter().flat_map(|p| kinds.map(|kind| PieceName { kind, h: p.h }));
    let odd: Vec<_> = odd.chain([PieceName { kind: kinds[0], h: ContentHash::from_bytes([7; 32]) }]).collect();
    let (snapshot, size) = (loot.snapshot, loot.manifest.len() as u64);
    let manifest = || with_bytes(Message::Manifest { snapshot, size }, &loot.manifest);
    let again = || vec![Message::Again { snapshot }];
    let packs = |which: usize| loot.packs[which].iter().map(|id| (*id, pack(&loot.site, *id)));
    let puts = |which: usize| packs(which).flat_map(|(id, bytes)| put(id, &bytes)).collect::<Vec<_>>();
    let flipped = packs(0).flat_map(|(id, mut bytes)| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        let named = PackId(*blake3::hash(&bytes).as_bytes());
        [put(id, &bytes), put(named, &bytes)].concat()
    });
    let pull = [
        vec![Message::List { after: None }],
        vec![Message::Fetch { snapshot }],
        vec![Message::Fetch { snapshot: loot.theirs.0 }],
        vec![Message::Get { pieces: names }],
        vec![Message::Get { pieces: odd }],
    ];
    let position = loot.repo.log.position();
    let push = [
        have(),
        manifest(),
        again(),
        flipped.collect(),
        // Another's pack, which does not open here.
        put(loot.theirs.1, &noise(3, 5000)),
        puts(1),
        manifest(),
        have(),
        puts(0),
        have(),
        again(),
        manifest(),
        vec![Message::Done { position }],
    ];
    let (asker, mut heard) = (world.asker, Vec::new());
    let mut ask = |purpose, sayings: &[Vec<Message>]| heard.extend(world.talk(asker, &loot.repo, purpose, sayings));
    ask(Purpose::Pull, &pull);
    ask(Purpose::Push, &push);
    ask(Purpose::Pull, &pull);
    ask(Purpose::Push, &[have(), manifest()]);
    // And as a tenant that is kept sealed.
    let (theirs, mine) = (Object::Pack(loot.theirs.1), Object::Pack(loot.packs[0][0]));
    let size = |object: &Object| if *object == mine { pack(&loot.site, loot.packs[0][0]).len() as u64 } else { 4096 };
    let about = |object: &Object| {
        let holding = Message::Holding { objects: vec![(object.clone(), size(object))] };
        vec![Message::Want { object: object.clone(), from: 0, most: 10 }, holding]
    };
    let objects = || vec![Message::Objects { area: Area::Packs, after: None }];
    let sealed = [about(&theirs), about(&mine), objects(), puts(0), about(&mine), put(loot.theirs.1, b"other bytes")];
    for purpose in [Purpose::Push, Purpose::Pull] {
        let sayings = if purpose == Purpose::Push { &sealed[..] } else { &sealed[..3] };
        heard.extend(world.talk(world.sealed, &loot.repo, purpose, sayings).into_iter().map(|m| match m {
            Message::Listing { area, mut objects, more } => {
                objects.iter_mut().for_each(|listed| listed.until = Time(0));
                Message::Listing { area, objects, more }
            }
            other => other,
        }));
    }
    transcript(heard)
}

#[test]
fn what_is_answered_does_not_depend_on_what_others_have() {
    let victim = Site::new();
    for (path, seed, len) in [("large", 1, 300_000), ("dir/a", 2, 40_000), ("dir/deep/b", 3, 3000)] {
        victim.write(path, &noise(seed, len));
    }
    let victims = victim.open();
    victim.backup(&victims);
    let loot = loot(&victim, &victims);
    let stranger = Site::new();
    for (path, seed, len) in [("large", 21, 300_000), ("dir/a", 22, 50_000)] {
        stranger.write(path, &noise(seed, len));
    }
    let strangers = stranger.open();
    stranger.backup(&strangers);
    // Without a quota; with one that holds all of it; one that is full when all has come; and one that is full at once.
    for quota in [None, Some(1 << 30), Some(200_000), Some(0)] {
        let equal = World::new(&loot, (&victim, &victims), quota);
        let different = World::new(&loot, (&stranger, &strangers), quota);
        let (a, b) = (probe(&equal, &loot), probe(&different, &loot));
        let names = |all: &[(&'static str, Vec<u8>)]| all.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" ");
        println!("quota {quota:?}: {}", names(&a));
        for (at, (one, other)) in a.iter().zip(&b).enumerate() {
            assert!(one == other, "answer {at} differs, quota {quota:?}: {} or {}", one.0, other.0);
        }
        assert_eq!(names(&a), names(&b), "quota {quota:?}");
        assert!(a.iter().any(|(name, _)| *name == "Missing") && a.iter().any(|(name, _)| *name == "Lacking"));
        assert_eq!(a.iter().any(|(name, _)| *name == "Accepted"), quota.is_none_or(|most| most > 1 << 20));
        assert!(equal.spool.path().exists() && different.spool.path().exists());
    }
}
