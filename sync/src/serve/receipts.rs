//! Receipts for a tenant that asks for them: made anew from what the pool's log says of its drives.

use repo::error::Result;
use repo::id::DriveId;
use repo::open::Repository;
use repo::tenants::is_live;

use super::Door;
use crate::drive::custody::is_of;
use crate::drive::receipt::Receipt;
use crate::wire::Message;

/// The answer to who asks for the receipts of these drives. One that is another's is passed over as one that is not known.
///
/// # Errors
/// What the log gives.
pub fn signed(pool: &Repository, tenant: u32, drives: &[DriveId]) -> Result<Message> {
    // An import is another process's.
    pool.log.refresh()?;
    let state = pool.log.state();
    // Agents have no drives, whatever they are called.
    let known = state.tenants.get(&tenant).filter(|tenant| is_live(tenant));
    let mine = drives.iter().filter_map(|id| {
        let drive = state.drives.get(id).filter(|drive| known.is_some_and(|tenant| is_of(drive, tenant)))?;
        Receipt::of(*id, drive)
    });
    let mine: Vec<Receipt> = mine.collect();
    if mine.is_empty() {
        return Ok(Message::Signed { receipts: Vec::new() });
    }
    let key = Door::host_key(pool)?;
    Ok(Message::Signed { receipts: mine.iter().map(|receipt| receipt.signed(&key)).collect::<Result<_>>()? })
}
