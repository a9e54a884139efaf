//! Who did what: an entry of the log for each connection, and for each command of an operator's that changes something or
//! reads what tenants' files hold.
//!
//! Entries are kept for ever; see `crate::log` for where. Who was refused before a connection came about is not in it: that
//! would let strangers write to the log.

use std::sync::Arc;

use crate::backend::local::Local;
use crate::error::{Kind, Result};
use crate::format::record::{AuditEntry, MAX_TEXT, Record};
use crate::lock::{COMMIT_WAIT, Locks};
use crate::log::Log;
use crate::monitor::Void;
use crate::open::{Access, Repository};

/// Longer texts are cut: nothing that somebody sends may keep what they did from being recorded.
const TEXT: usize = 1024;

const _: () = assert!(TEXT < MAX_TEXT);

/// Records one entry, durably. Also of a repository that was opened for reading, whose contents are what was looked at; only where
/// nobody can write, as at a copy or on read-only media, that goes unrecorded.
///
/// # Errors
/// What the log gives.
pub fn record(repo: &Repository, mut entry: AuditEntry) -> Result<()> {
    let AuditEntry { who, label, from, name, operation, failure, .. } = &mut entry;
    [who, label, from, name, operation, failure].into_iter().for_each(shorten);
    let record = Record::Audited { entry: Box::new(entry) };
    if repo.access == Access::Read {
        return beside(repo, record);
    }
    let commit = repo.locks.commit(COMMIT_WAIT)?;
    repo.log.append(&commit, record).map(drop)
}

/// Records through an opening of the log alone.
fn beside(repo: &Repository, record: Record) -> Result<()> {
    let Some(root) = repo.root.as_ref().filter(|_| repo.rolled_back.is_none()) else { return Ok(()) };
    if Local::copy_mark(root)?.is_some() {
        return Ok(());
    }
    let backend = match Local::open(root, false) {
        Err(e) if e.kind() == Kind::ReadOnly => return Ok(()),
        other => other?,
    };
    let locks = Locks::file(&backend.lock_path());
    let log = Log::load(Arc::new(backend), Arc::clone(&repo.keys), &Void::default())?;
    log.set_clock(repo.clock.clone());
    let commit = locks.commit(COMMIT_WAIT)?;
    log.append(&commit, record).map(drop)
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
