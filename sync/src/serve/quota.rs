//! How much a tenant may have at the pool. What counts is what it owns: its different chunks, each at its full length, as if it
//! were alone there. So nothing can be learned from it about others.

use repo::error::{Error, Kind, Result};
use repo::limits::MIB;
use repo::monitor::Void;
use repo::open::Repository;
use repo::receive::{Sender as Tenant, derive_owned};
use repo::tenants::party;

use super::spool::Spool;

/// What has arrived may go above the quota by so much before no more is taken. Snapshots are recorded up to the quota alone; but
/// the packs of one that still fits may hold, beside what is new, chunks that the tenant owns already.
pub const MARGIN: u64 = 64 * MIB as u64;

/// What a tenant owns, and the most that it may; none if it may own any amount.
///
/// # Errors
/// What the index gives.
fn standing(repo: &Repository, tenant: &Tenant) -> Result<Option<(u64, u64)>> {
    let quota = party(&repo.log.state(), tenant.number).and_then(|known| known.quota);
    let Some(quota) = quota else { return Ok(None) };
    Ok(Some((derive_owned(repo, tenant, &Void::default())?.bytes, quota)))
}

/// How many bytes the tenant may still own; none: any number.
///
/// # Errors
/// What the index gives.
pub fn left(repo: &Repository, tenant: &Tenant) -> Result<Option<u64>> {
    Ok(standing(repo, tenant)?.map(|(owned, quota)| quota.saturating_sub(owned)))
}

/// Whether the tenant owns more than it may.
///
/// # Errors
/// What the index gives.
pub fn exceeded(repo: &Repository, tenant: &Tenant) -> Result<bool> {
    Ok(standing(repo, tenant)?.is_some_and(|(owned, quota)| owned > quota))
}

/// Whether so much has arrived that no more is taken.
///
/// # Errors
/// What the index gives.
pub fn is_full(repo: &Repository, tenant: &Tenant) -> Result<bool> {
    Ok(standing(repo, tenant)?.is_some_and(|(owned, quota)| owned > quota.saturating_add(MARGIN)))
}

/// Whether there is room for what is spooled, and announced, beside what is owned.
///
/// # Errors
/// What the index gives.
pub fn room(repo: &Repository, tenant: &Tenant, spool: &Spool) -> Result<bool> {
    let room = |(owned, quota): (u64, u64)| owned.saturating_add(spool.bytes()) <= quota.saturating_add(MARGIN);
    Ok(standing(repo, tenant)?.is_none_or(room))
}

/// What a tenant is told of which no more is taken.
pub fn full() -> Error {
    Error::new(Kind::NoSpace, "this tenant's quota is used up").remedy("ask the pool's operator for more room")
}
