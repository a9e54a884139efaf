//! What an operator governs and can look up: rules for all tenants, what became of those who left, and who did what.

use std::time::Duration;

use super::parties::{read_time, write_time};
use super::{option, text, time, write_option};
use crate::clock::Time;
use crate::error::{Error, Result};
use crate::format::wire::{Reader, Writer};
use crate::id::{LogHash, RepoId};

/// Audit entries that wait in the state; more go to a segment of their own.
pub const AUDIT_SEGMENT: usize = 256;
/// The most entries that a segment, or a checkpoint, may say it has.
const MAX_AUDIT: usize = 16 * AUDIT_SEGMENT;
/// Windows that were shortened and are remembered, of one tenant.
const MAX_FORMER: usize = 64;

/// What holds for tenants of which nothing else is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyState {
    /// How long forgotten snapshots are held, in seconds; none: as built in.
    pub hold: Option<u64>,
    /// How long after receipt nobody may delete, in seconds; none: not at all.
    pub window: Option<u64>,
    /// What is kept, in the words of [`crate::retention`]; empty: everything.
    pub retention: String,
}

/// A window that was shortened: it goes on for what was received while it was in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Former {
    /// Until when it was in force.
    pub until: Time,
    /// How long it was, in seconds.
    pub window: u64,
}

/// The order to remove a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removal {
    /// When it was given.
    pub at: Time,
    /// Snapshots the tenant had then.
    pub snapshots: u64,
    /// Bytes of its different chunks, as if it were alone.
    pub bytes: u64,
}

/// What was deleted with a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// What people called it.
    pub name: String,
    /// Its repository, had it ever connected.
    pub repository: Option<RepoId>,
    /// The order.
    pub removal: Removal,
    /// When the last of it was gone.
    pub completed: Time,
}

/// One connection, or one command of an operator's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditEntry {
    /// The fingerprint of the key that was shown, or the user on this machine.
    pub who: String,
    /// What people call that key; empty for a user.
    pub label: String,
    /// From where: an address, or this machine's name.
    pub from: String,
    /// The tenant's number, if it concerns one.
    pub tenant: Option<u32>,
    /// What that tenant was called.
    pub name: String,
    /// What was done.
    pub operation: String,
    /// Bytes that came in.
    pub taken: u64,
    /// Bytes that went out.
    pub given: u64,
    /// Snapshots it concerned.
    pub snapshots: u64,
    /// Why it failed; empty if it did not.
    pub failure: String,
    /// How long it took, in milliseconds.
    pub millis: u64,
}

/// An entry with its place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audited {
    /// The record.
    pub seq: u64,
    /// Its time.
    pub time: Time,
    /// What happened.
    pub entry: AuditEntry,
}

/// Where the audit stands: what is in segments, and what is not yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditState {
    /// The newest segment; 0 before the first.
    pub segment: u64,
    /// The hash of its file.
    pub hash: LogHash,
    /// Entries that came since.
    pub recent: Vec<Audited>,
}

impl Default for AuditState {
    fn default() -> AuditState {
        AuditState { segment: 0, hash: LogHash([0; 32]), recent: Vec::new() }
    }
}

impl PolicyState {
    pub(super) fn write(&self, w: &mut Writer) {
        write_number(w, self.hold);
        write_number(w, self.window);
        w.lp_str(&self.retention);
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<PolicyState> {
        Ok(PolicyState { hold: read_number(r)?, window: read_number(r)?, retention: text(r)? })
    }
}

impl Former {
    /// Notes in `all`, oldest first, that a window of `window` seconds ended to be in force at `at`. What this one covers is
    /// dropped, and if the clock is to be `trusted` what can hold nothing any more; of too many, two become one, the longer.
    pub(super) fn note(all: &mut Vec<Former>, at: Time, window: u64, trusted: bool) {
        if trusted {
            all.retain(|former| former.until.plus(Duration::from_secs(former.window)) > at);
        }
        all.retain(|former| former.until > at || former.window > window);
        all.push(Former { until: at, window });
        if all.len() > MAX_FORMER {
            let oldest = all.remove(0);
            all[0].until = all[0].until.max(oldest.until);
            all[0].window = all[0].window.max(oldest.window);
        }
    }

    pub(super) fn write_all(w: &mut Writer, all: &[Former]) {
        w.varint(all.len() as u64);
        for former in all {
            w.i64(former.until.0);
            w.varint(former.window);
        }
    }

    pub(super) fn read_all(r: &mut Reader<'_>) -> Result<Vec<Former>> {
        let n = r.count(MAX_FORMER, 9)?;
        (0..n).map(|_| Ok(Former { until: time(r)?, window: r.varint()? })).collect()
    }
}

impl Removal {
    pub(super) fn write_option(w: &mut Writer, removal: Option<Removal>) {
        write_time(w, removal.map(|removal| removal.at));
        if let Some(removal) = removal {
            w.varint(removal.snapshots);
            w.varint(removal.bytes);
        }
    }

    pub(super) fn read_option(r: &mut Reader<'_>) -> Result<Option<Removal>> {
        read_time(r)?.map(|at| Ok(Removal { at, snapshots: r.varint()?, bytes: r.varint()? })).transpose()
    }
}

impl Certificate {
    pub(super) fn write(&self, w: &mut Writer) {
        w.lp_str(&self.name);
        write_option(w, self.repository.as_ref().map(RepoId::as_bytes));
        w.i64(self.removal.at.0);
        w.varint(self.removal.snapshots);
        w.varint(self.removal.bytes);
        w.i64(self.completed.0);
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Certificate> {
        Ok(Certificate {
            name: text(r)?,
            repository: option(r)?.map(RepoId),
            removal: Removal { at: time(r)?, snapshots: r.varint()?, bytes: r.varint()? },
            completed: time(r)?,
        })
    }
}

impl AuditEntry {
    pub(super) fn write(&self, w: &mut Writer) {
        for text in [&self.who, &self.label, &self.from, &self.name, &self.operation, &self.failure] {
            w.lp_str(text);
        }
        write_number(w, self.tenant.map(u64::from));
        for number in [self.taken, self.given, self.snapshots, self.millis] {
            w.varint(number);
        }
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<AuditEntry> {
        let [who, label, from, name, operation, failure] = [text(r)?, text(r)?, text(r)?, text(r)?, text(r)?, text(r)?];
        let tenant = read_number(r)?.map(u32::try_from).transpose();
        let tenant = tenant.map_err(|_| Error::damaged("a stored number of a tenant is too large"))?;
        let [taken, given, snapshots, millis] = [r.varint()?, r.varint()?, r.varint()?, r.varint()?];
        Ok(AuditEntry { who, label, from, tenant, name, operation, taken, given, snapshots, failure, millis })
    }
}

impl Audited {
    fn write_all(w: &mut Writer, all: &[Audited]) {
        w.varint(all.len() as u64);
        for audited in all {
            w.varint(audited.seq);
            w.i64(audited.time.0);
            audited.entry.write(w);
        }
    }

    fn read_all(r: &mut Reader<'_>) -> Result<Vec<Audited>> {
        let n = r.count(MAX_AUDIT, 20)?;
        (0..n).map(|_| Ok(Audited { seq: r.varint()?, time: time(r)?, entry: AuditEntry::read(r)? })).collect()
    }

    /// A segment's plaintext: its entries, behind the hash of the segment before it.
    pub fn encode_segment(before: &LogHash, number: u64, all: &[Audited]) -> Vec<u8> {
        let mut w = Writer::new();
        w.bytes(before.as_bytes());
        w.u64(number);
        Audited::write_all(&mut w, all);
        w.into_vec()
    }

    /// What [`Audited::encode_segment`] wrote as this number: the hash of the segment before, and the entries.
    ///
    /// # Errors
    /// `Damaged`.
    pub fn decode_segment(bytes: &[u8], number: u64) -> Result<(LogHash, Vec<Audited>)> {
        let mut r = Reader::new(bytes);
        let before = LogHash(r.array()?);
        if r.u64()? != number {
            return Err(Error::damaged("a segment of the audit has another's number"));
        }
        let all = Audited::read_all(&mut r)?;
        r.finish()?;
        Ok((before, all))
    }
}

impl AuditState {
    pub(super) fn write(&self, w: &mut Writer) {
        w.u64(self.segment);
        w.bytes(self.hash.as_bytes());
        Audited::write_all(w, &self.recent);
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<AuditState> {
        Ok(AuditState { segment: r.u64()?, hash: LogHash(r.array()?), recent: Audited::read_all(r)? })
    }
}

pub(super) fn write_number(w: &mut Writer, number: Option<u64>) {
    w.bool(number.is_some());
    number.iter().for_each(|n| w.varint(*n));
}

pub(super) fn read_number(r: &mut Reader<'_>) -> Result<Option<u64>> {
    if r.bool()? { r.varint().map(Some) } else { Ok(None) }
}
