//! Who did what: an entry of the log for each connection, and for each command of an operator's that changes something.
//!
//! Entries are kept for ever; see `crate::log` for where. Who was refused before a connection came about is not in it: that
//! would let strangers write to the log.

use crate::error::Result;
use crate::format::record::{AuditEntry, MAX_TEXT, Record};
use crate::lock::COMMIT_WAIT;
use crate::open::Repository;

/// Longer texts are cut: nothing that somebody sends may keep what they did from being recorded.
const TEXT: usize = 1024;

const _: () = assert!(TEXT < MAX_TEXT);

/// Records one entry, durably.
///
/// # Errors
/// What the log gives.
pub fn record(repo: &Repository, mut entry: AuditEntry) -> Result<()> {
    let AuditEntry { who, label, from, name, operation, failure, .. } = &mut entry;
    [who, label, from, name, operation, failure].into_iter().for_each(shorten);
    let commit = repo.locks.commit(COMMIT_WAIT)?;
    repo.log.append(&commit, Record::Audited { entry: Box::new(entry) }).map(drop)
}

fn shorten(text: &mut String) {
    if text.len() > TEXT {
        let mut end = TEXT;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
}
