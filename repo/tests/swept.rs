//! A pool that pruned, and packs that lie: what a tenant is told it has is there, and what it delivered counts.

#[allow(dead_code)]
#[path = "heal/site.rs"]
mod site;
#[path = "common/tenants.rs"]
mod parties;
use parties::{join, pool};
use repo::backend::{Backend, Object};
use repo::check::ReadData;
use repo::compress::Packer;
use repo::crypto::hash::ChunkKind;
use repo::crypto::keys::FrameKind;
use repo::forget::{self, forget_named};
use repo::format::record::{Origin, Record};
use repo::id::{ContentHash, PackId, SnapshotId};
use repo::limits::MAX_MANIFEST;
use repo::monitor::Void;
use repo::open::Repository;
use repo::pack::build::{Group, PackBuilder, seal};
use repo::prune::{self, prune};
use repo::receive::{Answer, Receiver};
use repo::tenants::pooled_id;
use site::{Site, checked, noise};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

fn pack(site: &Site, id: PackId) -> Vec<u8> {
    site.disk.read_all(&Object::Pack(id), 1 << 28).unwrap()
}
fn manifest(site: &Site, id: SnapshotId) -> Vec<u8> {
    site.disk.read_all(&Object::Snapshot(id), MAX_MANIFEST).unwrap()
}
fn newest(repo: &Repository) -> SnapshotId {
    let state = repo.log.state();
    *state.snapshots.iter().max_by_key(|(_, s)| s.seq).unwrap().0
}

#[test]
fn what_was_good_in_a_refused_pack_counts_as_its_tenants() {
    let (_disk, pool) = pool();
    let site = Site::filled();
    let repo = site.open();
    let t = join(&pool, "acme", &repo);
    let mut r = Receiver::begin(Arc::clone(&pool), &Void::default()).unwrap();
    let mut packer = Packer::new(3).unwrap();
    for round in 0..5u64 {
        let mut b = PackBuilder::new(FrameKind::Data, repo::id::SessionId::random(), 40 << 20);
        for i in 0..32u64 {
            let data = noise(1000 + round * 100 + i, 500_000);
            let mut g = Group::default();
            g.push(ChunkKind::Data, repo::crypto::hash::content_hash(ChunkKind::Data, &data), &data);
            b.push(&seal(&repo.keys, &mut packer, FrameKind::Data, g).unwrap()).unwrap();
        }
        let mut g = Group::default();
        g.push(ChunkKind::Data, ContentHash::from_bytes([round as u8; 32]), b"not what it is called");
        b.push(&seal(&repo.keys, &mut packer, FrameKind::Data, g).unwrap()).unwrap();
        let p = b.finish(&repo.keys).unwrap();
        assert!(r.absorb(&t, &p.id, &p.body.into_bytes().unwrap()).is_err());
        r.settle().unwrap();
        let owned = pool.index.ownership(t.number).unwrap().unwrap();
        assert_eq!(owned.bytes, (round + 1) * 32 * 500_000, "what the pool holds of it counts");
    }
    r.end().unwrap();
}

#[test]
fn what_a_killed_prune_swept_is_missing_though_the_index_does_not_know() {
    let (disk, pool) = pool();
    let site = Site::new();
    site.write("keep/a/x", &noise(1, 3000));
    site.write("keep/b/x", &noise(2, 3000));
    site.write("keep/big", &noise(3, 6 << 20));
    let repo = site.open();
    site.backup(&repo);
    let t = join(&pool, "acme", &repo);
    let mut sent = BTreeSet::new();
    let push = |sent: &mut BTreeSet<PackId>, r: &mut Receiver| -> Answer {
        for id in site.packs() {
            if sent.insert(id) {
                r.absorb(&t, &id, &pack(&site, id)).unwrap();
            }
        }
        let id = newest(&repo);
        r.accept(&t, id, &manifest(&site, id), &Void::default()).unwrap()
    };
    let mut r = Receiver::begin(Arc::clone(&pool), &Void::default()).unwrap();
    assert!(matches!(push(&mut sent, &mut r), Answer::Accepted { .. }));
    site.write("sub/d", &noise(9, 9 << 20));
    site.write("keep/c/x", &noise(19, 3000));
    site.backup(&repo);
    assert!(matches!(push(&mut sent, &mut r), Answer::Accepted { .. }));
    let with_sub = newest(&repo);
    // What else changes in the same tree packs stays: another tree that lives on in the pack.
    let aside = tempfile::tempdir_in(site.src().parent().unwrap()).unwrap();
    std::fs::rename(site.src().join("sub"), aside.path().join("sub")).unwrap();
    site.backup(&repo);
    assert!(matches!(push(&mut sent, &mut r), Answer::Accepted { .. }));
    let here = pooled_id(&Origin { tenant: t.number, id: with_sub });
    forget_named(&pool, &[here], &forget::Options::default(), &Void::default()).unwrap();
    r.end().unwrap();
    let old = Receiver::begin(Arc::clone(&pool), &Void::default()).unwrap();
    let options = prune::Options { release_held: true, max_unused: prune::MaxUnused::Unlimited, ..Default::default() };
    prune(&pool, &options, &Void::default()).unwrap();
    old.end().unwrap();
    let mut r = Receiver::begin(Arc::clone(&pool), &Void::default()).unwrap();
    let gone: Vec<PackId> = pool.log.state().condemned.keys().copied().collect();
    assert!(!gone.is_empty());
    // The site has the directory again.
    std::fs::rename(aside.path().join("sub"), site.src().join("sub")).unwrap();
    site.backup(&repo);
    for id in site.packs() {
        if sent.insert(id) {
            r.absorb(&t, &id, &pack(&site, id)).unwrap();
        }
    }
    r.settle().unwrap();
    // The next prune: sweeps, and is killed between the record and its own reading of it.
    pool.index
        .remove_packs_of(pool.index.generation(), &gone, pool.index.position().unwrap().unwrap(), &HashMap::new())
        .unwrap();
    for id in &gone {
        disk.disk.delete(&Object::Pack(*id)).unwrap();
    }
    let commit = pool.locks.commit(Duration::from_secs(5)).unwrap();
    pool.log.append(&commit, Record::Swept { packs: gone, snapshots: vec![here] }).unwrap();
    drop(commit);
    let mut answer = push(&mut sent, &mut r);
    if let Answer::Missing(m) = &answer {
        for (h, _) in m {
            let (_, info) = repo.packs().locate(h).unwrap().unwrap();
            r.absorb(&t, &info.id, &pack(&site, info.id)).unwrap();
        }
        let id = newest(&repo);
        answer = r.accept(&t, id, &manifest(&site, id), &Void::default()).unwrap();
    }
    r.end().unwrap();
    pool.refresh(&Void::default()).unwrap();
    let (outcome, _) = checked(&pool, ReadData::All);
    assert!(outcome.problems == 0 || matches!(answer, Answer::Missing(_)));
}
