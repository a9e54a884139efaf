//! A pool in memory and its tenants.

use std::sync::Arc;
use std::time::Duration;

use repo::error::Kind;
use repo::format::record::Roles;
use repo::open::Repository;
use repo::receive::Sender;
use repo::tenants::{self, Redeemed, make_pool};

use crate::site::Site;

/// A pool, open for writing.
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
