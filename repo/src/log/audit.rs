//! The audit's segments: where entries go when the log would be compacted over them. `docs/format.md` (The audit) is normative.
//!
//! The state holds the entries of one segment at most, and of all others a number and a hash. So its size does not grow with
//! what was done, and whoever trusts the log's newest record can verify all of it.

use super::{Log, load};
use crate::backend::{Area, Backend, Object, Put};
use crate::crypto::keys::{Keys, Object as Sealed};
use crate::error::{Error, Kind, Result};
use crate::format::record::{AuditState, Audited, Record, State};
use crate::id::LogHash;
use crate::limits::MAX_LOG_RECORD;

impl Log {
    /// Makes the entries that wait durable as a segment; the record that says so.
    pub(super) fn keep_audit(&self, state: &State) -> Result<Record> {
        let AuditState { segment, hash, recent } = &state.audit;
        let (number, keys) = (segment + 1, self.keys.lock().clone());
        let object = Object::Audit(number);
        let plain = Audited::encode_segment(hash, number, recent);
        let sealed = keys.seal(Sealed::LogRecord, &context(number), &plain);
        if self.backend.put(&object, &sealed)? == Put::Created {
            return Ok(Record::AuditKept { segment: number, hash: load::hash(&sealed) });
        }
        // No record names it: a writer died before that, and perhaps had other entries.
        let left = self.backend.read_all(&object, MAX_LOG_RECORD)?;
        if keys.open(Sealed::LogRecord, &context(number), &left).is_ok_and(|left| *left == plain[..]) {
            return Ok(Record::AuditKept { segment: number, hash: load::hash(&left) });
        }
        self.backend.delete(&object)?;
        self.backend.sync_deletes(Area::Log)?;
        if self.backend.put(&object, &sealed)? == Put::Exists {
            return Err(Error::new(Kind::Locked, "another process is writing to the audit").remedy("try again"));
        }
        Ok(Record::AuditKept { segment: number, hash: load::hash(&sealed) })
    }

    /// Visits every entry of the audit, oldest first, verified against the log's newest record; or what is wrong.
    ///
    /// # Errors
    /// What `visit` returns.
    pub fn audit(&self, visit: &mut dyn FnMut(Result<Audited>) -> Result<()>) -> Result<()> {
        let (state, keys) = (self.state(), self.keys.lock().clone());
        let AuditState { segment, hash, recent } = &state.audit;
        let mut before = Some(LogHash([0; 32]));
        for number in 1..=*segment {
            match open(&*self.backend, &keys, number) {
                Ok((prev, own, entries)) => {
                    let path = self.backend.path(&Object::Audit(number));
                    if before.is_some_and(|before| before != prev) || (number == *segment && own != *hash) {
                        visit(Err(Error::damaged("a part of the audit does not follow the one before it:").at(path)))?;
                    }
                    before = Some(own);
                    entries.into_iter().try_for_each(|entry| visit(Ok(entry)))?;
                }
                Err(e) => {
                    before = None;
                    visit(Err(e))?;
                }
            }
        }
        recent.iter().try_for_each(|entry| visit(Ok(entry.clone())))
    }

    /// After a repair: where the audit stands by its segments, if they go further than what the log still says.
    ///
    /// # Errors
    /// If the journal cannot be listed.
    pub(crate) fn find_audit(&self, known: &mut AuditState) -> Result<()> {
        let mut newest = known.segment;
        self.backend.list(Area::Log, &mut |object, _| {
            if let Object::Audit(number) = object {
                newest = newest.max(number);
            }
            Ok(())
        })?;
        let keys = self.keys.lock().clone();
        for number in (known.segment + 1..=newest).rev() {
            if let Ok((_, hash, entries)) = open(&*self.backend, &keys, number) {
                let last = entries.last().map_or(0, |entry| entry.seq);
                known.recent.retain(|entry| entry.seq > last);
                (known.segment, known.hash) = (number, hash);
                break;
            }
        }
        Ok(())
    }
}

/// What a segment is sealed for: no record of the log has a context of this length.
fn context(number: u64) -> Vec<u8> {
    [&number.to_le_bytes()[..], b"audit"].concat()
}

/// One segment: the hash of the one before, its own, its entries.
fn open(backend: &dyn Backend, keys: &Keys, number: u64) -> Result<(LogHash, LogHash, Vec<Audited>)> {
    let object = Object::Audit(number);
    let at = |e: Error| e.at(backend.path(&object));
    let sealed = backend.read_all(&object, MAX_LOG_RECORD).map_err(|e| match e.kind() {
        Kind::NotFound => at(Error::damaged("a part of the audit is missing:")),
        _ => e,
    })?;
    let plain = keys.open(Sealed::LogRecord, &context(number), &sealed).map_err(at)?;
    let (before, entries) = Audited::decode_segment(&plain, number).map_err(at)?;
    Ok((before, load::hash(&sealed), entries))
}
