//! A pool in memory and its tenants.

use std::sync::Arc;
use std::time::Duration;

use repo::backend::{Backend, Object};
use repo::error::Kind;
use repo::format::record::Roles;
use repo::id::SnapshotId;
use repo::limits::MAX_MANIFEST;
use repo::monitor::Void;
use repo::open::Repository;
use repo::receive::{Answer, Receiver, Sender};
use repo::tenants::{self, Redeemed, make_pool};

use crate::site::Site;

/// A pool, open for writing.
#[allow(dead_code)]
pub fn pool() -> (Site, Arc<Repository>) {
    let site = Site::new();
    let repo = site.open();
    make_pool(&repo).unwrap();
    (site, Arc::new(repo))
}

/// Makes `site` the tenant `name`.
pub fn join(pool: &Repository, name: &str, site: &Repository) -> Sender {
    let number = tenants::create(pool, name, false, &|_| ()).unwrap();
    let roles = Roles::PUSH.and(Roles::PULL);
    let expires = pool.clock.now().plus(Duration::from_secs(3600));
    let token = tenants::invite(pool, number, roles, "site", "", expires).unwrap();
    let (repository, keyring) = (Some(site.config.repo_id), Some(&site.unlocked.keyring));
    let with = Redeemed { public: &format!("ssh-ed25519 {name}"), repository, keyring };
    assert_eq!(tenants::redeem(pool, &token, &with).unwrap().0, number);
    assert_eq!(tenants::redeem(pool, &token, &with).unwrap_err().kind(), Kind::Refused, "a token serves once");
    Sender::of(pool, number).unwrap()
}

/// Delivers all of a site's packs and snapshots; returns the snapshots' ids there, oldest first.
#[allow(dead_code)]
pub fn deliver_all(pool: &Arc<Repository>, from: &Sender, site: &Site, repo: &Repository) -> Vec<SnapshotId> {
    let mut receiver = Receiver::begin(Arc::clone(pool), &Void::default()).unwrap();
    for id in site.packs() {
        receiver.absorb(from, &id, &site.disk.read_all(&Object::Pack(id), 1 << 28).unwrap()).unwrap();
    }
    let state = repo.log.state();
    let mut ids: Vec<SnapshotId> = state.snapshots.keys().copied().collect();
    ids.sort_by_key(|id| state.snapshots[id].seq);
    for id in &ids {
        let manifest = site.disk.read_all(&Object::Snapshot(*id), MAX_MANIFEST).unwrap();
        let answer = receiver.accept(from, *id, &manifest, &Void::default()).unwrap();
        assert!(matches!(answer, Answer::Accepted { .. }));
    }
    receiver.end().unwrap();
    ids
}
