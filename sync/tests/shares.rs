//! Two tenants with some of their data equal: what each sends does not depend on the other, and what is equal is stored once.

#[allow(dead_code)]
#[path = "support/cloud.rs"]
mod cloud;
#[allow(dead_code)]
#[path = "support/dialled.rs"]
mod dialled;
#[allow(dead_code)]
#[path = "../../repo/tests/common/tenants.rs"]
mod parties;
#[allow(dead_code)]
#[path = "../../repo/tests/heal/site.rs"]
mod site;
#[allow(dead_code)]
#[path = "support/tapped.rs"]
mod tapped;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cloud::Cloud;
use dialled::dialled;
use parking_lot::Mutex;
use parties::join;
use repo::backend::{Backend, Object};
use repo::error::{Error, Kind};
use repo::format::record::Roles;
use repo::id::PackId;
use repo::monitor::Void;
use repo::open::Repository;
use repo::receive::Sender;
use site::{Site, noise};
use sync::fetch::Dial;
use sync::push::{Options, push};
use sync::serve::Grant;
use sync::wire::Side;
use tapped::{Fate, Passing, Tap, tapped};

/// Files of each site, and the bytes of one.
const FILES: u64 = 100;
const SIZE: usize = 60_000;

/// Bytes that passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sent {
    up: u64,
    down: u64,
}

/// A site of which so many files are as those of every other such site.
fn site(equal: u64, own: u64) -> (Site, Repository) {
    let site = Site::new();
    for i in 0..FILES {
        let seed = if i < equal { 1000 + i } else { own + i };
        site.write(&format!("d{}/{i}", i % 7), &noise(seed, SIZE));
    }
    let repo = site.open();
    site.backup(&repo);
    (site, repo)
}

/// Pushes, and counts what passes. One connection alone: how many there are depends on how busy the machine is.
fn pushed(cloud: &Cloud, tenant: &Sender, repo: &Repository) -> Sent {
    let sent = Arc::new(Mutex::new(Sent::default()));
    let counts = Arc::clone(&sent);
    let tap: Tap = Arc::new(Mutex::new(move |passing: &Passing<'_>| {
        let mut counts = counts.lock();
        match passing.from {
            Side::Client => counts.up += passing.bytes.len() as u64,
            Side::Server => counts.down += passing.bytes.len() as u64,
        }
        Fate::Pass
    }));
    let grant = Grant::Tenant { tenant: tenant.number, roles: Roles::PUSH };
    let (report, served) = dialled(&cloud.pool, &grant, &|| tapped(&tap), |dial| {
        let first = Mutex::new(Some(dial()));
        let dial: Dial =
            Arc::new(move || first.lock().take().unwrap_or_else(|| Err(Error::new(Kind::Unreachable, ""))));
        push(repo, &dial, "test", Options::default(), &Void::default())
    });
    served.into_iter().for_each(|each| each.unwrap());
    assert!(report.unwrap().failed.is_empty());
    *sent.lock()
}

/// The frames of these packs that hold something of which `lacks` says so: their stored bytes in all.
fn frames(repo: &Repository, packs: &[PackId], lacks: &dyn Fn(&[u8; 32]) -> bool) -> u64 {
    let mut sum = 0;
    for id in packs {
        let pack = repo.packs().pack(&repo.index.pack_by_id(id).unwrap().unwrap()).unwrap();
        for frame in &pack.footer.frames {
            if pack.footer.chunks[frame.chunks()].iter().any(|chunk| lacks(chunk.h.expose())) {
                sum += u64::from(frame.stored);
            }
        }
    }
    sum
}

/// Every chunk of these repositories' snapshots, with its length.
fn chunks(repos: &[&Repository]) -> BTreeMap<[u8; 32], u64> {
    let mut all = BTreeMap::new();
    for repo in repos {
        for id in packs_of(repo) {
            let pack = repo.packs().pack(&repo.index.pack_by_id(&id).unwrap().unwrap()).unwrap();
            all.extend(pack.footer.chunks.iter().map(|chunk| (*chunk.h.expose(), u64::from(chunk.len))));
        }
    }
    all
}

fn packs_of(repo: &Repository) -> Vec<PackId> {
    let mut all = Vec::new();
    let mut note = |info: &repo::index::PackInfo| {
        all.push(info.id);
        Ok(())
    };
    repo.index.packs(&mut note).unwrap();
    all
}

fn stored(site: &Site) -> u64 {
    site.packs().iter().map(|id| site.disk.size(&Object::Pack(*id)).unwrap().unwrap()).sum()
}

/// What a push may cost on the wire: frames that must go, 2 % above, and a little.
fn most(frames: u64) -> u64 {
    frames + frames / 50 + 100_000
}

#[test]
fn what_is_equal_is_stored_once_and_sent_by_each() {
    for percent in [0, 30, 60, 97] {
        let (one, first) = site(FILES * percent / 100, 10_000);
        let (two, second) = site(FILES * percent / 100, 20_000);
        let together = Cloud::new();
        let (a, b) = (join(together.repo(), "acme", &first), join(together.repo(), "globex", &second));
        // The same tenant, with a neighbour that has nothing.
        let alone = Cloud::new();
        let (_, c) = (join(alone.repo(), "acme", &first), join(alone.repo(), "globex", &second));
        let of_first = pushed(&together, &a, &first);
        let before = stored(&together.disk);
        let beside = pushed(&together, &b, &second);
        let by_itself = pushed(&alone, &c, &second);
        let all = |_: &[u8; 32]| true;
        let needed = frames(&second, &two.packs(), &all);
        println!(
            "{percent} % equal: {} and {} bytes up ({} beside nobody), frames {needed}; pool {before}, then {}",
            of_first.up,
            beside.up,
            by_itself.up,
            stored(&together.disk)
        );
        assert_eq!(beside, by_itself, "{percent} %: what passes depends on what another has");
        assert!(beside.up <= most(needed), "{percent} %: {beside:?} for {needed}");
        assert!(of_first.up <= most(frames(&first, &one.packs(), &all)), "{percent} %: {of_first:?}");
        let union: u64 = chunks(&[&first, &second]).values().sum();
        let pool = stored(&together.disk);
        assert!(pool >= union * 97 / 100 && pool <= union * 103 / 100, "{percent} %: {pool} for {union}");
        together.has(&[(&a, &first), (&b, &second)]);

        // What the second then gets that the first has all along is sent once more, and only that.
        let known: BTreeSet<[u8; 32]> = chunks(&[&second]).into_keys().collect();
        for i in 0..10 {
            two.write(&format!("more/{i}"), &noise(10_000 + FILES - 1 - i, SIZE));
        }
        two.backup(&second);
        let (more, more_alone) = (pushed(&together, &b, &second), pushed(&alone, &c, &second));
        let needed = frames(&second, &two.packs(), &|h| !known.contains(h));
        println!("   then {} up for {needed}, pool {}", more.up, stored(&together.disk));
        assert_eq!(more, more_alone, "{percent} %");
        assert!(more.up <= most(needed), "{percent} %: {more:?} for {needed}");
        let shared = 10.min(FILES - FILES * percent / 100) * SIZE as u64;
        let grown = stored(&together.disk) - pool;
        assert!(grown < 10 * SIZE as u64 - shared + 40_000, "{percent} %: it grew by {grown}, {shared} was there");
        together.has(&[(&a, &first), (&b, &second)]);
    }
}
