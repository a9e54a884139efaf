//! A pool whose log is lost knows whose its snapshots are.

#[allow(dead_code)]
#[path = "heal/site.rs"]
mod site;
#[path = "common/tenants.rs"]
mod parties;

use std::sync::Arc;
use std::time::Duration;

use parties::{deliver_all, join, pool};
use repo::backend::{Area, Backend, Object};
use repo::check::{ReadData, repair_log};
use repo::format::record::Roles;
use repo::limits::MAX_MANIFEST;
use repo::monitor::Void;
use repo::open::Access;
use repo::receive::{Answer, Receiver, Sender};
use repo::tenants::{self, Redeemed};
use site::{Site, checked, readable};

#[test]
fn a_repaired_log_has_every_snapshot_under_its_tenant() {
    let (disk, repo) = pool();
    let (a, b) = (Site::filled(), Site::filled());
    b.write("own", b"of globex alone");
    let (ra, rb) = (a.open(), b.open());
    b.backup(&rb);
    let (ta, tb) = (join(&repo, "acme", &ra), join(&repo, "globex", &rb));
    let ids = deliver_all(&repo, &ta, &a, &ra);
    deliver_all(&repo, &tb, &b, &rb);
    let before = repo.log.state();
    let content = readable(&repo);
    drop(repo);
    // All of the log is lost, checkpoints included.
    for object in disk.objects(Area::Log) {
        disk.disk.delete(&object).unwrap();
    }
    disk.drop_index();
    // What this machine has seen of it is no more.
    std::fs::remove_dir_all(disk.dir.path().join("cache")).unwrap();
    let broken = disk.try_open(Access::Repair).unwrap();
    assert_eq!(repair_log(&broken, &Void::default()).unwrap().found.len(), 5);
    drop(broken);
    let repo = Arc::new(disk.open());
    let state = repo.log.state();
    assert!(state.pool);
    for (id, snapshot) in &before.snapshots {
        assert_eq!(state.snapshots[id].origin, snapshot.origin);
        assert!(state.snapshots[id].received >= snapshot.received, "its window begins anew");
    }
    let names: Vec<String> = state.tenants.values().map(|tenant| tenant.name.clone()).collect();
    assert_eq!(names, [ta.number, tb.number].map(|number| format!("tenant-{number}")));
    assert!(readable(&repo) == content);
    assert_eq!(checked(&repo, ReadData::All).0.problems, 0);

    // Its site is invited anew, and what it sends is there already.
    let roles = Roles::PUSH.and(Roles::PULL);
    let expires = repo.clock.now().plus(Duration::from_secs(3600));
    let token = tenants::invite(&repo, ta.number, roles, "site", "", expires).unwrap();
    let (repository, keyring) = (Some(ra.config.repo_id), Some(&ra.unlocked.keyring));
    tenants::redeem(&repo, &token, &Redeemed { public: "ssh-ed25519 new", repository, keyring }).unwrap();
    let sender = Sender::of(&repo, ta.number).unwrap();
    let mut receiver = Receiver::begin(Arc::clone(&repo), &Void::default()).unwrap();
    for id in ids {
        let manifest = a.disk.read_all(&Object::Snapshot(id), MAX_MANIFEST).unwrap();
        let answer = receiver.accept(&sender, id, &manifest, &Void::default()).unwrap();
        assert!(matches!(answer, Answer::Accepted { already: true }));
    }
    receiver.end().unwrap();
    // A new tenant gets a number of its own.
    let number = tenants::create(&repo, "later", false, &|_| ()).unwrap();
    assert!(![ta.number, tb.number].contains(&number));
}
