//! A tenant that is removed is refused at once, is there while it may come back, and then is gone, but for what is others'.

#[allow(dead_code)]
#[path = "heal/site.rs"]
mod site;
#[path = "common/tenants.rs"]
mod parties;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parties::{deliver_all, join};
use repo::check::ReadData;
use repo::clock::{Clock, Time};
use repo::crypto::hash::{ChunkKind, content_hash};
use repo::error::Kind;
use repo::monitor::Void;
use repo::open::Repository;
use repo::prune::{Options, Outcome};
use repo::receive::{Receiver, Sender};
use repo::removal::{self, Removed};
use repo::tenants::{self, make_pool};
use site::{Site, checked, noise, readable};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A pool with the tenants acme and globex, who have a file in common and one each.
struct Shared {
    disk: Site,
    pool: Arc<Repository>,
    clock: Clock,
    acme: Sender,
    _sites: [Site; 2],
}

/// What only acme has: in one frame with what both have, and in packs of its own.
const SMALL: usize = 9000;

fn shared() -> Shared {
    let disk = Site::new();
    let clock = Clock::manual(Time::now(), true);
    let mut pool = disk.open();
    pool.set_clock(clock.clone());
    make_pool(&pool).unwrap();
    let pool = Arc::new(pool);
    let member = |name: &str, seed: u64| {
        let site = Site::new();
        site.write("dir/common", &noise(1, 8000));
        site.write("large", &noise(2, 5 << 20));
        site.write("dir/own", &noise(seed, SMALL));
        site.write("own", &noise(seed + 1, 3 << 20));
        let repo = site.open();
        site.backup(&repo);
        let sender = join(&pool, name, &repo);
        deliver_all(&pool, &sender, &site, &repo);
        (site, sender)
    };
    let ((a, acme), (b, _)) = (member("acme", 10), member("globex", 20));
    Shared { disk, pool, clock, acme, _sites: [a, b] }
}

impl Shared {
    fn set(&self, hold: u64, window: u64) {
        tenants::change(&self.pool, self.acme.number, &mut |tenant| {
            (tenant.hold, tenant.window) = (Some(hold * DAY.as_secs()), Some(window * DAY.as_secs()));
            Ok(())
        })
        .unwrap();
    }

    fn prune(&self, release_held: bool) -> (Outcome, Vec<Removed>) {
        let options = Options { release_held, ..Options::default() };
        removal::prune(&self.pool, &options, &Void::default()).unwrap()
    }

    fn pass(&self, days: u32) {
        self.clock.set(self.clock.now().plus(days * DAY));
    }

    fn due(&self, release_held: bool) -> Option<Time> {
        removal::due(&self.pool.log.state(), self.acme.number, self.clock.now(), release_held)
    }

    fn stored(&self, bytes: &[u8]) -> bool {
        let h = content_hash(ChunkKind::Data, bytes);
        self.pool.index.find(&self.pool.keys.chunk_id(&h)).unwrap().is_some()
    }
}

#[test]
fn it_waits_for_the_window_and_then_leaves_nothing() {
    let s = shared();
    s.set(1, 10);
    let number = s.acme.number;
    let removal = removal::order(&s.pool, number, false, &Void::default()).unwrap();
    assert_eq!((removal.snapshots, removal.at), (1, s.clock.now()));
    assert!(removal.bytes > 8 << 20 && removal.bytes < 9 << 20, "{}", removal.bytes);
    // Refused at once.
    assert!(tenants::credential(&s.pool.log.state(), "ssh-ed25519 acme").is_none());
    assert_eq!(Sender::of(&s.pool, number).err().unwrap().kind(), Kind::Refused);
    assert_eq!(
        s.due(false).unwrap(),
        s.pool.log.state().snapshots.values().map(|s| s.received).min().unwrap().plus(10 * DAY)
    );
    s.pass(9);
    assert_eq!(s.prune(false).1, []);
    assert!(s.stored(&noise(10, SMALL)), "within the window everything is there");
    assert_eq!(removal::order(&s.pool, number, false, &Void::default()).unwrap(), removal, "it was ordered once");
    s.pass(2);
    let before = readable(&s.pool);
    let (_, mut removed) = s.prune(false);
    let done = removed.pop().unwrap();
    assert_eq!((done.certificate.removal, done.certificate.completed), (removal, s.clock.now()));
    assert_eq!((done.certificate.name.as_str(), done.seq), ("acme", s.pool.log.position().seq));
    assert_eq!(done.alone + done.shared, removal.bytes);
    assert!(done.alone > 3 << 20 && done.shared > 5 << 20, "{done:?}");
    assert!(!s.stored(&noise(10, SMALL)), "also what shared a frame with what stays");
    assert!(s.stored(&noise(1, 8000)));
    let state = s.pool.log.state();
    assert!(!state.tenants.contains_key(&number) && state.certificates[&number].1 == done.certificate);
    assert_eq!(repo::history::tenant_name(&state, number), "acme", "the log can still say whose it was");
    assert_eq!(s.pool.index.ownership(number).unwrap(), None);
    // The other has what it had, and another opening of the pool knows all this.
    let left = readable(&s.pool);
    let whose: BTreeSet<String> = left.iter().map(|((id, _), _)| id.clone()).collect();
    let theirs = before.into_iter().filter(|((id, _), _)| whose.contains(id));
    assert!(whose.len() == 1 && theirs.eq(left));
    let (outcome, told) = checked(&s.pool, ReadData::All);
    assert_eq!((outcome.problems, &told[..]), (0, &[] as &[String]));
    assert_eq!(s.disk.open().log.state().certificates, state.certificates);
    assert_eq!(s.prune(false).1, []);
}

#[test]
fn it_can_be_taken_back_while_it_is_held() {
    let s = shared();
    s.set(5, 0);
    let before = readable(&s.pool);
    let live = |s: &Shared| s.pool.log.state().snapshots.values().filter(|s| s.forgotten.is_none()).count();
    removal::order(&s.pool, s.acme.number, false, &Void::default()).unwrap();
    assert_eq!(live(&s), 1);
    s.pass(4);
    assert_eq!(s.prune(false).1, []);
    assert_eq!(removal::take_back(&s.pool, s.acme.number).unwrap(), 1);
    assert_eq!((live(&s), s.due(false)), (2, None));
    assert!(readable(&s.pool) == before && Sender::of(&s.pool, s.acme.number).is_ok());
    // In a hurry: the hold can be done without, since there is no window.
    removal::order(&s.pool, s.acme.number, false, &Void::default()).unwrap();
    assert_eq!(s.due(false), Some(s.clock.now().plus(5 * DAY)));
    assert_eq!(s.prune(true).1.len(), 1);
}

#[test]
fn a_clock_that_is_behind_removes_nobody() {
    let s = shared();
    let right = s.clock.now();
    s.clock.set(Time::from_secs(0));
    let e = removal::order(&s.pool, s.acme.number, false, &Void::default()).unwrap_err();
    assert_eq!(e.kind(), Kind::Clock);
    assert!(s.pool.log.state().tenants[&s.acme.number].removed.is_none());
    s.clock.set(right);
    removal::order(&s.pool, s.acme.number, false, &Void::default()).unwrap();
}

#[test]
fn nothing_is_certified_while_something_may_be_left() {
    let s = shared();
    s.set(0, 0);
    // Somebody else is delivering: their session may rely on what is condemned.
    let receiver = Receiver::begin(Arc::clone(&s.pool), &Void::default()).unwrap();
    removal::order(&s.pool, s.acme.number, false, &Void::default()).unwrap();
    let (outcome, removed) = s.prune(false);
    assert!(outcome.waiting.is_some() && removed.is_empty());
    assert!(s.pool.log.state().tenants.contains_key(&s.acme.number));
    receiver.end().unwrap();
    let (outcome, removed) = s.prune(false);
    assert!(outcome.waiting.is_none() && removed.len() == 1);
    assert!(!s.stored(&noise(10, SMALL)));
    // One that never connected is gone at once.
    let number = tenants::create(&s.pool, "nobody", false, &|_| ()).unwrap();
    removal::order(&s.pool, number, false, &Void::default()).unwrap();
    assert_eq!(s.prune(false).1[0].certificate.name, "nobody");
}
