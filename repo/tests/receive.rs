//! A pool takes in what its tenants deliver, and nothing else.

#[allow(dead_code)]
#[path = "heal/site.rs"]
mod site;
#[path = "common/tenants.rs"]
mod parties;

use std::collections::BTreeSet;
use std::sync::Arc;

use parties::{join, pool};
use repo::backend::{Backend, Object};
use repo::check::ReadData;
use repo::crypto::hash::ChunkKind;
use repo::crypto::keys::{FrameKind, Object as Sealed};
use repo::error::Kind;
use repo::forget::{self, forget_named};
use repo::format::manifest::Manifest;
use repo::format::record::Origin;
use repo::format::tree::{Content, DirRef};
use repo::id::{ContentHash, PackId, SnapshotId};
use repo::limits::MAX_MANIFEST;
use repo::monitor::Void;
use repo::open::Repository;
use repo::prune::{self, prune};
use repo::receive::{Answer, Receiver, Sender, derive_owned};
use repo::tenants::pooled_id;
use site::{Site, checked, noise, readable};

const PACK: usize = 1 << 28;

fn pack(site: &Site, id: PackId) -> Vec<u8> {
    site.disk.read_all(&Object::Pack(id), PACK).unwrap()
}

fn manifest(site: &Site, id: SnapshotId) -> Vec<u8> {
    site.disk.read_all(&Object::Snapshot(id), MAX_MANIFEST).unwrap()
}

fn snapshots(repo: &Repository) -> Vec<SnapshotId> {
    let state = repo.log.state();
    let mut all: Vec<_> = state.snapshots.iter().map(|(id, s)| (s.seq, *id)).collect();
    all.sort();
    all.into_iter().map(|(_, id)| id).collect()
}

/// Delivers everything, and asserts that it is taken.
fn deliver(pool: &Arc<Repository>, from: &Sender, site: &Site, repo: &Repository) {
    let mut receiver = Receiver::begin(Arc::clone(pool), &Void::default()).unwrap();
    for id in site.packs() {
        receiver.absorb(from, &id, &pack(site, id)).unwrap();
    }
    for id in snapshots(repo) {
        let answer = receiver.accept(from, id, &manifest(site, id), &Void::default()).unwrap();
        assert!(matches!(answer, Answer::Accepted { .. }));
    }
    receiver.end().unwrap();
}

fn missing(answer: Answer) -> Vec<(ContentHash, ChunkKind)> {
    match answer {
        Answer::Missing(list) => list,
        Answer::Accepted { .. } => panic!("it was accepted"),
        Answer::Invalid(why) => panic!("it is invalid: {why}"),
    }
}

#[test]
fn two_tenants_share_what_is_equal_and_read_as_they_were() {
    let (disk, pool) = pool();
    let (a, b) = (Site::filled(), Site::filled());
    b.write("dir/own", &noise(77, 90_000));
    let (ra, rb) = (a.open(), b.open());
    b.backup(&rb);
    let (ta, tb) = (join(&pool, "acme", &ra), join(&pool, "globex", &rb));
    deliver(&pool, &ta, &a, &ra);
    let size = |site: &Site| -> u64 {
        site.packs().iter().map(|id| site.disk.size(&Object::Pack(*id)).unwrap().unwrap()).sum()
    };
    let before = size(&disk);
    deliver(&pool, &tb, &b, &rb);
    assert!(size(&disk) - before < 150_000, "the large file is stored once: {}", size(&disk) - before);
    let contents = |repo: &Repository, from: Option<u32>| -> Vec<_> {
        let at = |id: &str| match from {
            None => id.to_owned(),
            Some(tenant) => pooled_id(&Origin { tenant, id: id.parse().unwrap() }).to_hex(),
        };
        readable(repo).into_iter().map(|((id, path), bytes)| (at(&id), path, bytes)).collect()
    };
    let mut expected = contents(&ra, Some(ta.number));
    expected.extend(contents(&rb, Some(tb.number)));
    expected.sort();
    let mut found = contents(&pool, None);
    found.sort();
    assert!(found == expected, "what the pool has is what the sites have");
    let (outcome, told) = checked(&pool, ReadData::All);
    assert_eq!((outcome.problems, &told[..]), (0, &[] as &[String]));
    // Once more: nothing is stored, and nothing recorded.
    let (size_before, position) = (size(&disk), snapshots(&pool).len());
    deliver(&pool, &ta, &a, &ra);
    assert_eq!((size(&disk), snapshots(&pool).len()), (size_before, position));
}

/// Plain and stored lengths of the frames of all data packs.
fn frames(site: &Site, repo: &Repository) -> BTreeSet<(u32, u32)> {
    let open = |id: &PackId| repo.packs().pack(&repo.index.pack_by_id(id).unwrap().unwrap()).unwrap();
    let packs = site.packs();
    let data = packs.iter().map(open).filter(|pack| pack.footer.kind == FrameKind::Data);
    data.flat_map(|pack| pack.footer.frames.iter().map(|f| (f.raw, f.stored)).collect::<Vec<_>>()).collect()
}

#[test]
fn a_full_frame_of_new_chunks_stays_as_it_was_compressed_and_small_ones_are_grouped_anew() {
    let (disk, pool) = pool();
    let site = Site::filled();
    let text: Vec<u8> = (0..900_000u32).flat_map(|i| (i / 7).wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    site.write("large", &text);
    let repo = site.open();
    site.backup(&repo);
    let large: Vec<_> = frames(&site, &repo).into_iter().filter(|(raw, _)| *raw > 700_000).collect();
    assert!(large.iter().any(|(raw, stored)| stored < raw), "{large:?}");
    // Many small deliveries: each a pack with a small frame.
    for i in 0..5 {
        site.write(&format!("small-{i}"), &noise(i, 3000));
        site.backup(&repo);
    }
    let tenant = join(&pool, "acme", &repo);
    deliver(&pool, &tenant, &site, &repo);
    let there = frames(&disk, &pool);
    assert!(large.iter().all(|frame| there.contains(frame)), "{large:?} in {there:?}");
    assert!(frames(&site, &repo).len() > there.len(), "the small ones are together");
    let (outcome, _) = checked(&pool, ReadData::All);
    assert_eq!(outcome.problems, 0);
}

#[test]
fn what_another_tenant_delivered_is_missing_for_this_one() {
    let (_disk, pool) = pool();
    let (a, b) = (Site::filled(), Site::filled());
    let (ra, rb) = (a.open(), b.open());
    let (ta, tb) = (join(&pool, "acme", &ra), join(&pool, "globex", &rb));
    deliver(&pool, &ta, &a, &ra);
    let mut receiver = Receiver::begin(Arc::clone(&pool), &Void::default()).unwrap();
    let id = snapshots(&rb)[0];
    // It knows every hash, and gets nothing by it.
    let lacking = missing(receiver.accept(&tb, id, &manifest(&b, id), &Void::default()).unwrap());
    assert!(!lacking.is_empty());
    let asked: Vec<ContentHash> = lacking.iter().map(|(h, _)| *h).collect();
    assert_eq!(tb.lacks(&pool, &asked).unwrap(), vec![true; asked.len()]);
    // Trees first: then what is below them is asked for, and nothing is that was delivered.
    let packs = b.packs();
    let (data, trees): (Vec<PackId>, Vec<PackId>) =
        packs.iter().partition(|id| b.disk.read(&Object::Pack(**id), 10, 1).unwrap()[0] == 0);
    for id in &trees {
        receiver.absorb(&tb, id, &pack(&b, *id)).unwrap();
    }
    let lacking = missing(receiver.accept(&tb, id, &manifest(&b, id), &Void::default()).unwrap());
    assert!(lacking.iter().all(|(_, kind)| *kind == ChunkKind::Data), "only data is missing now");
    let asked: Vec<ContentHash> = lacking.iter().map(|(h, _)| *h).collect();
    assert_eq!(tb.lacks(&pool, &asked).unwrap(), vec![true; asked.len()]);
    assert!(ta.lacks(&pool, &asked).unwrap().iter().all(|lacks| !lacks), "the other tenant has all of them");
    for id in &data {
        receiver.absorb(&tb, id, &pack(&b, *id)).unwrap();
    }
    let answer = receiver.accept(&tb, id, &manifest(&b, id), &Void::default()).unwrap();
    assert!(matches!(answer, Answer::Accepted { already: false }));
    receiver.end().unwrap();
}

#[test]
fn a_lying_or_damaged_pack_enters_nowhere_and_the_session_goes_on() {
    let (disk, pool) = pool();
    let (a, other) = (Site::filled(), Site::filled());
    let (ra, ro) = (a.open(), other.open());
    let ta = join(&pool, "acme", &ra);
    let mut receiver = Receiver::begin(Arc::clone(&pool), &Void::default()).unwrap();
    for id in a.packs() {
        let good = pack(&a, id);
        let mut flipped = good.clone();
        flipped[good.len() / 3] ^= 1;
        // Under its name, and under the name that its bytes now have.
        for name in [id, PackId(*blake3::hash(&flipped).as_bytes())] {
            let e = receiver.absorb(&ta, &name, &flipped).unwrap_err();
            assert!(e.kind() == Kind::Damaged && e.to_string().contains(&name.to_hex()), "{e}");
        }
        for cut in [0, 5, 30, good.len() / 2, good.len() - 1] {
            let name = PackId(*blake3::hash(&good[..cut]).as_bytes());
            assert_eq!(receiver.absorb(&ta, &name, &good[..cut]).unwrap_err().kind(), Kind::Damaged);
        }
    }
    // Another repository's pack does not open with this tenant's keys, nor its manifest.
    let strange = other.packs()[0];
    assert_eq!(receiver.absorb(&ta, &strange, &pack(&other, strange)).unwrap_err().kind(), Kind::Damaged);
    let (mine, theirs) = (snapshots(&ra)[0], snapshots(&ro)[0]);
    for (id, of) in [(theirs, &other), (mine, &other)] {
        let sealed = manifest(of, if id == mine { theirs } else { id });
        let answer = receiver.accept(&ta, id, &sealed, &Void::default()).unwrap();
        assert!(matches!(answer, Answer::Invalid(_)));
    }
    let lacking = missing(receiver.accept(&ta, mine, &manifest(&a, mine), &Void::default()).unwrap());
    assert!(!lacking.is_empty(), "nothing of the refused packs is owned");
    drop(receiver);
    drop(pool);
    let pool = Arc::new(disk.open());
    deliver(&pool, &ta, &a, &ra);
    let (outcome, told) = checked(&pool, ReadData::All);
    assert_eq!(outcome.problems, 0, "{told:?}");
}

#[test]
fn what_did_not_change_is_not_looked_into_again_unless_a_pack_is_in_doubt() {
    let (disk, pool) = pool();
    let site = Site::filled();
    let repo = site.open();
    let tenant = join(&pool, "acme", &repo);
    deliver(&pool, &tenant, &site, &repo);
    let trees: Vec<PackId> = disk
        .packs()
        .into_iter()
        .filter(|id| {
            pool.packs().pack(&pool.index.pack_by_id(id).unwrap().unwrap()).unwrap().footer.kind == FrameKind::Tree
        })
        .collect();
    let delivered: BTreeSet<PackId> = site.packs().into_iter().collect();
    site.write("new", &noise(31, 5000));
    site.backup(&repo);
    // Nobody notices that they have gone: only what is new is read.
    for id in &trees {
        disk.disk.delete(&Object::Pack(*id)).unwrap();
    }
    let pool = Arc::new(disk.open());
    let mut receiver = Receiver::begin(Arc::clone(&pool), &Void::default()).unwrap();
    for id in site.packs().into_iter().filter(|id| !delivered.contains(id)) {
        receiver.absorb(&tenant, &id, &pack(&site, id)).unwrap();
    }
    let newest = *snapshots(&repo).last().unwrap();
    let answer = receiver.accept(&tenant, newest, &manifest(&site, newest), &Void::default()).unwrap();
    assert!(matches!(answer, Answer::Accepted { already: false }));
    receiver.end().unwrap();
    // Once somebody has: everything is looked into.
    let (outcome, _) = checked(&pool, ReadData::None);
    assert!(outcome.problems > 0);
    site.write("newer", &noise(32, 5000));
    site.backup(&repo);
    let newest = *snapshots(&repo).last().unwrap();
    let mut receiver = Receiver::begin(Arc::clone(&pool), &Void::default()).unwrap();
    for id in site.packs().into_iter().filter(|id| !delivered.contains(id)) {
        receiver.absorb(&tenant, &id, &pack(&site, id)).unwrap();
    }
    let lacking = missing(receiver.accept(&tenant, newest, &manifest(&site, newest), &Void::default()).unwrap());
    assert!(lacking.iter().any(|(_, kind)| *kind == ChunkKind::Tree), "{}", lacking.len());
}

#[test]
fn what_is_owned_is_found_again_after_the_index_was_lost() {
    let (disk, pool) = pool();
    let a = Site::filled();
    let ra = a.open();
    let ta = join(&pool, "acme", &ra);
    deliver(&pool, &ta, &a, &ra);
    let before = pool.index.ownership(ta.number).unwrap().unwrap();
    assert!(before.bytes > 6 << 20 && before.chunks > 5, "{before:?}");
    drop(pool);
    disk.drop_index();
    let pool = disk.open();
    assert_eq!(pool.index.ownership(ta.number).unwrap(), None);
    derive_owned(&pool, &ta, &Void::default()).unwrap();
    assert_eq!(pool.index.ownership(ta.number).unwrap(), Some(before));
}

#[test]
fn what_only_others_still_need_is_owned_no_more_after_a_prune() {
    let (_disk, pool) = pool();
    let (a, b) = (Site::filled(), Site::filled());
    let (ra, rb) = (a.open(), b.open());
    let (ta, tb) = (join(&pool, "acme", &ra), join(&pool, "globex", &rb));
    deliver(&pool, &ta, &a, &ra);
    deliver(&pool, &tb, &b, &rb);
    a.write("dir/own", &noise(50, 90_000));
    a.backup(&ra);
    deliver(&pool, &ta, &a, &ra);
    let owned: Vec<ContentHash> = {
        let mut all = Vec::new();
        let manifest = repo::snapshots::manifest(&rb, &snapshots(&rb)[0]).unwrap();
        repo::tree::closure::walk(rb.store().as_ref(), &manifest, &Void::default(), &mut |h, kind| {
            if kind == ChunkKind::Data {
                all.push(*h);
            }
            Ok(true)
        })
        .unwrap();
        all
    };
    // The files are equal; what stands beside them (inode numbers) is not.
    let lacks = ta.lacks(&pool, &owned).unwrap();
    let owned: Vec<ContentHash> = owned.into_iter().zip(lacks).filter(|(_, lacks)| !lacks).map(|(h, _)| h).collect();
    assert!(owned.len() > 20, "{}", owned.len());
    // All of acme goes; globex still needs what they shared.
    let of_acme = |s: &repo::format::record::SnapshotState| s.origin.is_some_and(|o| o.tenant == ta.number);
    let ids: Vec<SnapshotId> =
        pool.log.state().snapshots.iter().filter(|(_, s)| of_acme(s)).map(|(id, _)| *id).collect();
    forget_named(&pool, &ids, &forget::Options::default(), &Void::default()).unwrap();
    let options = prune::Options { release_held: true, max_unused: prune::MaxUnused::Bytes(0), ..Default::default() };
    prune(&pool, &options, &Void::default()).unwrap();
    // A small delivery first: what it brings must not vouch for the rest.
    let mut receiver = Receiver::begin(Arc::clone(&pool), &Void::default()).unwrap();
    let small = *a.packs().last().unwrap();
    receiver.absorb(&ta, &small, &pack(&a, small)).unwrap();
    receiver.settle().unwrap();
    assert!(ta.lacks(&pool, &owned).unwrap().iter().all(|lacks| *lacks), "what globex has does not show");
    assert!(tb.lacks(&pool, &owned).unwrap().iter().all(|lacks| !lacks));
    receiver.end().unwrap();
}

#[test]
fn what_rots_here_is_noted_and_missed_and_not_the_senders_fault() {
    let (disk, pool) = pool();
    let site = Site::filled();
    let repo = site.open();
    let tenant = join(&pool, "acme", &repo);
    deliver(&pool, &tenant, &site, &repo);
    let kind = |id: &PackId| pool.packs().pack(&pool.index.pack_by_id(id).unwrap().unwrap()).unwrap().footer.kind;
    let bad = disk.packs().into_iter().find(|id| kind(id) == FrameKind::Tree).unwrap();
    disk.flip(&Object::Pack(bad), |_| 150);
    drop(pool);
    let pool = Arc::new(disk.open());
    // What is known to be complete is not read again: a prune has put that in doubt.
    pool.index.doubt_ownership().unwrap();
    derive_owned(&pool, &tenant, &Void::default()).unwrap();
    site.write("new", &noise(31, 5000));
    site.backup(&repo);
    let newest = *snapshots(&repo).last().unwrap();
    let mut receiver = Receiver::begin(Arc::clone(&pool), &Void::default()).unwrap();
    for id in site.packs() {
        receiver.absorb(&tenant, &id, &pack(&site, id)).unwrap();
    }
    let answer = receiver.accept(&tenant, newest, &manifest(&site, newest), &Void::default()).unwrap();
    match answer {
        // The packs that were just sent again had not replaced what nobody knew to be damaged.
        Answer::Missing(lacking) => assert!(!lacking.is_empty()),
        Answer::Accepted { .. } => panic!("it is not whole"),
        Answer::Invalid(why) => panic!("the sender is blamed: {why}"),
    }
    assert!(pool.log.state().damaged.contains_key(&bad));
    for id in site.packs() {
        receiver.absorb(&tenant, &id, &pack(&site, id)).unwrap();
    }
    let answer = receiver.accept(&tenant, newest, &manifest(&site, newest), &Void::default()).unwrap();
    assert!(matches!(answer, Answer::Accepted { already: false }));
    receiver.end().unwrap();
}

#[test]
fn what_was_forgotten_and_swept_does_not_come_back() {
    let (_disk, pool) = pool();
    let site = Site::filled();
    let repo = site.open();
    let tenant = join(&pool, "acme", &repo);
    deliver(&pool, &tenant, &site, &repo);
    let first = snapshots(&repo)[0];
    let here = pooled_id(&Origin { tenant: tenant.number, id: first });
    forget_named(&pool, &[here], &forget::Options::default(), &Void::default()).unwrap();
    let options = prune::Options { release_held: true, max_unused: prune::MaxUnused::Bytes(0), ..Default::default() };
    prune(&pool, &options, &Void::default()).unwrap();
    assert!(!pool.log.state().snapshots.contains_key(&here));
    let mut receiver = Receiver::begin(Arc::clone(&pool), &Void::default()).unwrap();
    let answer = receiver.accept(&tenant, first, &manifest(&site, first), &Void::default()).unwrap();
    assert!(matches!(answer, Answer::Accepted { already: true }), "nothing is asked for");
    receiver.end().unwrap();
    assert!(!pool.log.state().snapshots.contains_key(&here));
    // Others of the same tenant are taken as ever.
    site.write("new", &noise(31, 5000));
    site.backup(&repo);
    deliver(&pool, &tenant, &site, &repo);
}

#[test]
fn a_receiver_says_when_a_prune_waits_for_it() {
    let (_disk, pool) = pool();
    let site = Site::filled();
    let repo = site.open();
    let tenant = join(&pool, "acme", &repo);
    let mut receiver = Receiver::begin(Arc::clone(&pool), &Void::default()).unwrap();
    assert!(receiver.is_idle() && !receiver.is_spent().unwrap());
    let packs = site.packs();
    receiver.absorb(&tenant, &packs[0], &pack(&site, packs[0])).unwrap();
    assert!(!receiver.is_idle());
    receiver.settle().unwrap();
    assert!(receiver.is_idle() && !receiver.is_spent().unwrap());
    // Nothing that was absorbed is any snapshot's: a prune wants it, and may not have it while this receiver works.
    let options = prune::Options { max_unused: prune::MaxUnused::Bytes(0), ..Default::default() };
    prune(&pool, &options, &Void::default()).unwrap();
    assert!(receiver.is_spent().unwrap() || pool.log.state().condemned.is_empty());
    receiver.end().unwrap();
    prune(&pool, &options, &Void::default()).unwrap();
    assert!(pool.log.state().sessions.is_empty() && pool.log.state().condemned.is_empty());
}

#[test]
fn who_calls_data_a_tree_does_not_have_the_pools_packs_doubted() {
    let (_disk, pool) = pool();
    let site = Site::filled();
    let repo = site.open();
    let tenant = join(&pool, "acme", &repo);
    deliver(&pool, &tenant, &site, &repo);
    let id = snapshots(&repo)[0];
    let honest = repo::snapshots::manifest(&repo, &id).unwrap();
    let mut data = Vec::new();
    repo::tree::closure::walk(repo.store().as_ref(), &honest, &Void::default(), &mut |h, kind| {
        data.extend((kind == ChunkKind::Data).then_some(*h));
        Ok(true)
    })
    .unwrap();
    let lie = SnapshotId([9; 32]);
    let mut manifest = Manifest { id: lie, sidecar: None, ..honest };
    let Content::Dir(root) = &manifest.root.content else { panic!("a snapshot's root is a directory") };
    manifest.root.content = Content::Dir(DirRef { h: data[0], depth: 0, ..*root });
    let sealed = repo.keys.seal(Sealed::Manifest, lie.as_bytes(), &manifest.encode());
    let mut receiver = Receiver::begin(Arc::clone(&pool), &Void::default()).unwrap();
    let answer = receiver.accept(&tenant, lie, &sealed, &Void::default()).unwrap();
    assert!(matches!(answer, Answer::Invalid(_)));
    receiver.end().unwrap();
    assert!(pool.log.state().damaged.is_empty(), "no pack is noted as damaged");
}
