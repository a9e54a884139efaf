//! One record of the journal, before it is sealed. `docs/format.md` (Log) is normative.

mod checkpoint;
mod drives;
mod governance;
mod parties;
mod state;

use crate::clock::Time;
use crate::crypto::keys::FrameKind;
use crate::error::{Error, Kind, Result};
use crate::format::wire::{Reader, Writer};
use crate::id::{DriveId, LogHash, PackId, SessionId, SnapshotId};

pub use drives::{Custody, DriveState, Load, MAX_STEPS, Step};
pub use governance::{AUDIT_SEGMENT, AuditEntry, AuditState, Audited, Certificate, Former, PolicyState, Removal};
pub use parties::{
    Belongings, Credential, Invite, MAX_BELONGINGS, MAX_CREDENTIALS, Obeyed, Origin, PrivateKey, Profiles, RemoteState,
    Roles, SiteParties, TenantState,
};
pub use state::{CheckState, SESSION_LIFE, SessionState, SnapshotState, State, Sweep};

/// The longest text in a record: host, source, purpose, tag.
pub const MAX_TEXT: usize = 4096;
/// The most tags of one snapshot.
pub const MAX_TAGS: usize = 1024;
/// Set in the type of a record, or of a checkpoint's section, that a program which does not know it may pass over.
const MAY_IGNORE: u8 = 0x80;
const TRUSTED_CLOCK: u8 = 1;

/// A point in the journal: the number of a record and the hash of its sealed bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// The record's sequence number; the first is 1.
    pub seq: u64,
    /// BLAKE3 of the record's file.
    pub hash: LogHash,
}

impl Position {
    /// Before the first record.
    pub const START: Position = Position { seq: 0, hash: LogHash([0; 32]) };
}

/// A pack as the journal introduces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackRef {
    /// Its name.
    pub id: PackId,
    /// Bytes of its file.
    pub size: u64,
    /// Bytes of its sealed footer.
    pub footer_len: u32,
    /// What its frames hold.
    pub kind: FrameKind,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did what it set out to do.
    Done,
    /// It gave up and said so.
    Failed,
    /// Its process died; a later one found its lock free and kept its complete packs.
    Adopted,
}

/// What happened. Variants that carry `at` repeat the time their operation went by.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields are named after the words of the design; the variants say the rest")]
pub enum Record {
    /// A writer starts. `number` is the lock it holds.
    SessionBegin {
        session: SessionId,
        number: u32,
        purpose: String,
        host: String,
        pid: u32,
        parent: Option<SnapshotId>,
        at: Time,
        expires: Time,
    },
    /// Durable packs, and the roll-up that holds their footers.
    PacksAdded { session: SessionId, rollup: u64, packs: Vec<PackRef> },
    /// A manifest is durable: the snapshot exists. At a pool, with where it came from.
    SnapshotRecorded {
        session: SessionId,
        origin: Option<Origin>,
        snapshot: SnapshotId,
        recorded: Time,
        host: String,
        source: String,
        captured: Time,
        tags: Vec<String>,
        manifest_hash: [u8; 32],
    },
    /// A writer ends, or was found dead.
    SessionEnd { session: SessionId, outcome: Outcome },
    /// Snapshots are on hold until swept.
    Forgotten { snapshots: Vec<SnapshotId>, at: Time },
    /// Snapshots are kept after all.
    Unforgotten { snapshots: Vec<SnapshotId> },
    /// A snapshot's tags change.
    Tagged { snapshot: SnapshotId, add: Vec<String>, remove: Vec<String> },
    /// Retention passes these by.
    Pinned { snapshots: Vec<SnapshotId> },
    /// Retention applies to these again.
    Unpinned { snapshots: Vec<SnapshotId> },
    /// Packs that a prune wants to remove: they satisfy no dedup any more.
    Condemned { session: SessionId, packs: Vec<PackId> },
    /// Packs that are kept after all.
    Uncondemned { packs: Vec<PackId> },
    /// What is deleted from here on, proven unneeded.
    SweepIntent { session: SessionId, packs: Vec<PackId>, snapshots: Vec<SnapshotId> },
    /// What of the intent is gone, durably.
    Swept { packs: Vec<PackId>, snapshots: Vec<SnapshotId> },
    /// Packs found damaged or missing.
    Damage { packs: Vec<PackId>, at: Time },
    /// Packs found whole again, or needed no more.
    Healed { packs: Vec<PackId> },
    /// A new master key is in use.
    KeyEpoch { epoch: u32, at: Time },
    /// A check ended; `data` if it read the packs, `subset` as it was asked for, empty for all.
    CheckDone { at: Time, data: bool, ok: bool, subset: String },
    /// A person vouched for the clock: this record's time is the newest, whatever came before.
    ClockAccepted,
    /// This repository is a pool: its snapshots are tenants'.
    PoolMade,
    /// What there is to say of a tenant, all of it.
    TenantSet { tenant: u32, state: Box<TenantState> },
    /// A tenant is no more, and nothing of it is left that is not others' too.
    TenantRemoved { tenant: u32, certificate: Box<Certificate> },
    /// What a tenant delivered is complete up to this record of its log.
    Watermark { tenant: u32, position: Position },
    /// What there is to say of a remote, all of it.
    RemoteSet { name: String, state: Box<RemoteState> },
    /// A remote is pushed to no more.
    RemoteRemoved { name: String },
    /// Everything up to this record of this log is at the remote.
    Pushed { remote: String, position: Position, at: Time },
    /// The key that this repository's server shows to those who connect.
    HostKey { key: PrivateKey },
    /// The public key whose owner may order deletions in what this sealed tenant delivered. Said once.
    OwnerPinned { tenant: u32, key: [u8; 32] },
    /// A sealed tenant's owner ordered deletions, which are under way.
    OrderObeyed { tenant: u32, order: Obeyed },
    /// A snapshot's manifest was damaged and has been written again, with the same content.
    ManifestReplaced { snapshot: SnapshotId, manifest_hash: [u8; 32] },
    /// What there is to say of a host that backs up to this repository over a connection, all of it.
    AgentSet { agent: u32, state: Box<TenantState> },
    /// What a tenant wants back, beside its snapshots, when its repository is lost: sealed by the tenant.
    Belongings { tenant: u32, name: String, sealed: Vec<u8> },
    /// The profiles by which this repository is used, all of them.
    ProfilesKept { profiles: Profiles },
    /// What there is to say of a transfer drive, all of it but what it carries.
    DriveSet { drive: DriveId, state: Box<DriveState> },
    /// These packs are durable on a drive.
    DriveLoaded { drive: DriveId, loads: Vec<Load> },
    /// What holds for tenants of which nothing else is said, all of it.
    PolicySet { policy: PolicyState },
    /// Who did what.
    Audited { entry: Box<AuditEntry> },
    /// The audit's entries before this record are durable in a segment of their own.
    AuditKept { segment: u64, hash: LogHash },
    /// The state after all records before this one.
    Checkpoint { state: Box<State> },
    /// A record of a newer program's that this one may pass over.
    Ignored { kind: u8, body: Vec<u8> },
}

/// A record with its place and time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its sequence number.
    pub seq: u64,
    /// When it was written, by the writer's clock.
    pub time: Time,
    /// Whether that clock agreed with the records before it.
    pub trusted: bool,
    /// What happened.
    pub record: Record,
}

impl Entry {
    /// The bytes to seal, chained to the record before.
    ///
    /// # Errors
    /// `Usage` if they would not read back the same, a text being too long: no such record may enter the journal.
    pub fn encode(&self, prev: &LogHash) -> Result<Vec<u8>> {
        let mut w = Writer::with_capacity(256);
        w.bytes(prev.as_bytes());
        w.u64(self.seq);
        w.i64(self.time.0);
        w.u8(if self.trusted { TRUSTED_CLOCK } else { 0 });
        self.record.write(&mut w);
        let bytes = w.into_vec();
        match Entry::decode(&bytes) {
            Ok((back_prev, back)) if back_prev == *prev && back == *self => Ok(bytes),
            _ => Err(Error::new(Kind::Usage, "a name or tag is too long, or there are too many, to be recorded")),
        }
    }

    /// The entry and the hash of the record before it.
    ///
    /// # Errors
    /// `Damaged`; `NewerFormat` for a record this program does not know and may not pass over.
    pub fn decode(bytes: &[u8]) -> Result<(LogHash, Entry)> {
        let mut r = Reader::new(bytes);
        let prev = LogHash(r.array()?);
        let seq = r.u64()?;
        let time = Time(r.i64()?);
        let flags = r.u8()?;
        if flags & !TRUSTED_CLOCK != 0 {
            return Err(newer());
        }
        let record = Record::read(&mut r)?;
        r.finish()?;
        Ok((prev, Entry { seq, time, trusted: flags & TRUSTED_CLOCK != 0, record }))
    }
}

impl Record {
    fn write(&self, w: &mut Writer) {
        w.u8(self.kind());
        match self {
            Record::SessionBegin { session, number, purpose, host, pid, parent, at, expires } => {
                w.bytes(session.as_bytes());
                w.varint((*number).into());
                w.lp_str(purpose);
                w.lp_str(host);
                w.varint((*pid).into());
                write_option(w, parent.as_ref().map(SnapshotId::as_bytes));
                w.i64(at.0);
                w.i64(expires.0);
            }
            Record::PacksAdded { session, rollup, packs } => {
                w.bytes(session.as_bytes());
                w.varint(*rollup);
                w.varint(packs.len() as u64);
                packs.iter().for_each(|pack| pack.write(w));
            }
            Record::SnapshotRecorded {
                session,
                origin,
                snapshot,
                recorded,
                host,
                source,
                captured,
                tags,
                manifest_hash,
            } => {
                origin.iter().for_each(|origin| origin.write(w));
                w.bytes(session.as_bytes());
                w.bytes(snapshot.as_bytes());
                w.i64(recorded.0);
                w.lp_str(host);
                w.lp_str(source);
                w.i64(captured.0);
                write_texts(w, tags);
                w.bytes(manifest_hash);
            }
            Record::SessionEnd { session, outcome } => {
                w.bytes(session.as_bytes());
                w.u8(*outcome as u8);
            }
            Record::Forgotten { snapshots, at } => {
                write_ids(w, snapshots.iter().map(SnapshotId::as_bytes));
                w.i64(at.0);
            }
            Record::Unforgotten { snapshots } | Record::Pinned { snapshots } | Record::Unpinned { snapshots } => {
                write_ids(w, snapshots.iter().map(SnapshotId::as_bytes));
            }
            Record::Tagged { snapshot, add, remove } => {
                w.bytes(snapshot.as_bytes());
                write_texts(w, add);
                write_texts(w, remove);
            }
            Record::Condemned { session, packs } => {
                w.bytes(session.as_bytes());
                write_ids(w, packs.iter().map(PackId::as_bytes));
            }
            Record::Uncondemned { packs } | Record::Healed { packs } => {
                write_ids(w, packs.iter().map(PackId::as_bytes));
            }
            Record::SweepIntent { session, packs, snapshots } => {
                w.bytes(session.as_bytes());
                write_ids(w, packs.iter().map(PackId::as_bytes));
                write_ids(w, snapshots.iter().map(SnapshotId::as_bytes));
            }
            Record::Swept { packs, snapshots } => {
                write_ids(w, packs.iter().map(PackId::as_bytes));
                write_ids(w, snapshots.iter().map(SnapshotId::as_bytes));
            }
            Record::Damage { packs, at } => {
                write_ids(w, packs.iter().map(PackId::as_bytes));
                w.i64(at.0);
            }
            Record::KeyEpoch { epoch, at } => {
                w.varint((*epoch).into());
                w.i64(at.0);
            }
            Record::CheckDone { at, data, ok, subset } => {
                w.i64(at.0);
                w.bool(*data);
                w.bool(*ok);
                w.lp_str(subset);
            }
            Record::ClockAccepted | Record::PoolMade => {}
            Record::TenantSet { tenant, state } => {
                w.varint((*tenant).into());
                state.write(w);
            }
            Record::TenantRemoved { tenant, certificate } => {
                w.varint((*tenant).into());
                certificate.write(w);
            }
            Record::PolicySet { policy } => policy.write(w),
            Record::Audited { entry } => entry.write(w),
            Record::AuditKept { segment, hash } => {
                w.u64(*segment);
                w.bytes(hash.as_bytes());
            }
            Record::Watermark { tenant, position } => {
                w.varint((*tenant).into());
                position.write(w);
            }
            Record::RemoteSet { name, state } => {
                w.lp_str(name);
                state.write(w);
            }
            Record::RemoteRemoved { name } => w.lp_str(name),
            Record::Pushed { remote, position, at } => {
                w.lp_str(remote);
                position.write(w);
                w.i64(at.0);
            }
            Record::HostKey { key } => w.lp_bytes(&key.0),
            Record::OwnerPinned { tenant, key } => {
                w.varint((*tenant).into());
                w.bytes(key);
            }
            Record::OrderObeyed { tenant, order } => {
                w.varint((*tenant).into());
                order.write(w);
            }
            Record::ManifestReplaced { snapshot, manifest_hash } => {
                w.bytes(snapshot.as_bytes());
                w.bytes(manifest_hash);
            }
            Record::AgentSet { agent, state } => {
                w.varint((*agent).into());
                state.write(w);
            }
            Record::Belongings { tenant, name, sealed } => {
                w.varint((*tenant).into());
                w.lp_str(name);
                w.lp_bytes(sealed);
            }
            Record::ProfilesKept { profiles } => profiles.write(w),
            Record::DriveSet { drive, state } => {
                w.bytes(drive.as_bytes());
                state.write(w);
            }
            Record::DriveLoaded { drive, loads } => {
                w.bytes(drive.as_bytes());
                Load::write_all(w, loads);
            }
            Record::Checkpoint { state } => state.write(w),
            Record::Ignored { body, .. } => w.bytes(body),
        }
    }

    /// The number that stands for the type.
    fn kind(&self) -> u8 {
        match self {
            Record::SessionBegin { .. } => 1,
            Record::PacksAdded { .. } => 2,
            Record::SnapshotRecorded { origin: None, .. } => 3,
            Record::SnapshotRecorded { origin: Some(_), .. } => 23,
            Record::SessionEnd { .. } => 4,
            Record::Forgotten { .. } => 5,
            Record::Unforgotten { .. } => 6,
            Record::Tagged { .. } => 7,
            Record::Pinned { .. } => 8,
            Record::Unpinned { .. } => 9,
            Record::Condemned { .. } => 10,
            Record::Uncondemned { .. } => 11,
            Record::SweepIntent { .. } => 12,
            Record::Swept { .. } => 13,
            Record::Damage { .. } => 14,
            Record::Healed { .. } => 15,
            Record::KeyEpoch { .. } => 16,
            Record::CheckDone { .. } => 17,
            Record::ClockAccepted => 18,
            Record::Checkpoint { .. } => 19,
            Record::PoolMade => 20,
            Record::TenantSet { .. } => 21,
            Record::TenantRemoved { .. } => 22,
            Record::Watermark { .. } => 24,
            Record::RemoteSet { .. } => 25,
            Record::RemoteRemoved { .. } => 26,
            Record::Pushed { .. } => 27,
            Record::HostKey { .. } => 28,
            Record::OwnerPinned { .. } => 29,
            Record::OrderObeyed { .. } => 30,
            Record::ManifestReplaced { .. } => 31,
            Record::AgentSet { .. } => 32,
            Record::Belongings { .. } => 33,
            Record::PolicySet { .. } => 35,
            Record::Audited { .. } => 36,
            Record::AuditKept { .. } => 37,
            Record::ProfilesKept { .. } => 38,
            Record::DriveSet { .. } => 39,
            Record::DriveLoaded { .. } => 40,
            Record::Ignored { kind, .. } => *kind,
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Record> {
        Ok(match r.u8()? {
            1 => Record::SessionBegin {
                session: SessionId(r.array()?),
                number: r.varint_u32()?,
                purpose: text(r)?,
                host: text(r)?,
                pid: r.varint_u32()?,
                parent: option(r)?.map(SnapshotId),
                at: time(r)?,
                expires: time(r)?,
            },
            2 => {
                Record::PacksAdded { session: SessionId(r.array()?), rollup: r.varint()?, packs: PackRef::read_all(r)? }
            }
            3 => recorded(r, None)?,
            4 => Record::SessionEnd { session: SessionId(r.array()?), outcome: Outcome::read(r)? },
            5 => Record::Forgotten { snapshots: ids(r, SnapshotId)?, at: time(r)? },
            6 => Record::Unforgotten { snapshots: ids(r, SnapshotId)? },
            7 => Record::Tagged { snapshot: SnapshotId(r.array()?), add: texts(r)?, remove: texts(r)? },
            8 => Record::Pinned { snapshots: ids(r, SnapshotId)? },
            9 => Record::Unpinned { snapshots: ids(r, SnapshotId)? },
            10 => Record::Condemned { session: SessionId(r.array()?), packs: ids(r, PackId)? },
            11 => Record::Uncondemned { packs: ids(r, PackId)? },
            12 => Record::SweepIntent {
                session: SessionId(r.array()?),
                packs: ids(r, PackId)?,
                snapshots: ids(r, SnapshotId)?,
            },
            13 => Record::Swept { packs: ids(r, PackId)?, snapshots: ids(r, SnapshotId)? },
            14 => Record::Damage { packs: ids(r, PackId)?, at: time(r)? },
            15 => Record::Healed { packs: ids(r, PackId)? },
            16 => Record::KeyEpoch { epoch: r.varint_u32()?, at: time(r)? },
            17 => Record::CheckDone { at: time(r)?, data: r.bool()?, ok: r.bool()?, subset: text(r)? },
            18 => Record::ClockAccepted,
            19 => Record::Checkpoint { state: Box::new(State::read(r)?) },
            20 => Record::PoolMade,
            21 => Record::TenantSet { tenant: r.varint_u32()?, state: Box::new(TenantState::read(r)?) },
            22 => Record::TenantRemoved { tenant: r.varint_u32()?, certificate: Box::new(Certificate::read(r)?) },
            23 => {
                let origin = Origin::read(r)?;
                recorded(r, Some(origin))?
            }
            24 => Record::Watermark { tenant: r.varint_u32()?, position: Position::read(r)? },
            25 => Record::RemoteSet { name: text(r)?, state: Box::new(RemoteState::read(r)?) },
            26 => Record::RemoteRemoved { name: text(r)? },
            28 => Record::HostKey { key: PrivateKey::read(r)? },
            32 => Record::AgentSet { agent: r.varint_u32()?, state: Box::new(TenantState::read(r)?) },
            33 => Record::Belongings {
                tenant: r.varint_u32()?,
                name: text(r)?,
                sealed: r.lp_bytes(MAX_BELONGINGS)?.to_vec(),
            },
            27 => Record::Pushed { remote: text(r)?, position: Position::read(r)?, at: time(r)? },
            29 => Record::OwnerPinned { tenant: r.varint_u32()?, key: r.array()? },
            30 => Record::OrderObeyed { tenant: r.varint_u32()?, order: Obeyed::read(r)? },
            31 => Record::ManifestReplaced { snapshot: SnapshotId(r.array()?), manifest_hash: r.array()? },
            35 => Record::PolicySet { policy: PolicyState::read(r)? },
            36 => Record::Audited { entry: Box::new(AuditEntry::read(r)?) },
            37 => Record::AuditKept { segment: r.u64()?, hash: LogHash(r.array()?) },
            38 => Record::ProfilesKept { profiles: Profiles::read(r)? },
            39 => Record::DriveSet { drive: DriveId(r.array()?), state: Box::new(DriveState::read(r)?) },
            40 => Record::DriveLoaded { drive: DriveId(r.array()?), loads: Load::read_all(r)? },
            kind if kind & MAY_IGNORE != 0 => Record::Ignored { kind, body: r.bytes(r.remaining())?.to_vec() },
            _ => return Err(newer()),
        })
    }
}

fn recorded(r: &mut Reader<'_>, origin: Option<Origin>) -> Result<Record> {
    Ok(Record::SnapshotRecorded {
        session: SessionId(r.array()?),
        origin,
        snapshot: SnapshotId(r.array()?),
        recorded: time(r)?,
        host: text(r)?,
        source: text(r)?,
        captured: time(r)?,
        tags: texts(r)?,
        manifest_hash: r.array()?,
    })
}

impl Position {
    fn write(&self, w: &mut Writer) {
        w.u64(self.seq);
        w.bytes(self.hash.as_bytes());
    }

    fn read(r: &mut Reader<'_>) -> Result<Position> {
        Ok(Position { seq: r.u64()?, hash: LogHash(r.array()?) })
    }
}

impl PackRef {
    fn write(&self, w: &mut Writer) {
        w.bytes(self.id.as_bytes());
        w.varint(self.size);
        w.varint(self.footer_len.into());
        w.u8(match self.kind {
            FrameKind::Data => 0,
            FrameKind::Tree => 1,
        });
    }

    fn read_all(r: &mut Reader<'_>) -> Result<Vec<PackRef>> {
        let n = r.count(usize::MAX, 35)?;
        (0..n).map(|_| PackRef::read(r)).collect()
    }

    fn read(r: &mut Reader<'_>) -> Result<PackRef> {
        Ok(PackRef {
            id: PackId(r.array()?),
            size: r.varint()?,
            footer_len: r.varint_u32()?,
            kind: match r.u8()? {
                0 => FrameKind::Data,
                1 => FrameKind::Tree,
                _ => return Err(Error::damaged("a stored pack is of no known kind")),
            },
        })
    }
}

impl Outcome {
    fn read(r: &mut Reader<'_>) -> Result<Outcome> {
        match r.u8()? {
            0 => Ok(Outcome::Done),
            1 => Ok(Outcome::Failed),
            2 => Ok(Outcome::Adopted),
            _ => Err(Error::damaged("a stored session ended in no known way")),
        }
    }
}

fn newer() -> Error {
    Error::new(Kind::NewerFormat, "the log holds a record of a newer program's").remedy("update packmule")
}

fn time(r: &mut Reader<'_>) -> Result<Time> {
    r.i64().map(Time)
}

fn text(r: &mut Reader<'_>) -> Result<String> {
    r.lp_str(MAX_TEXT).map(str::to_owned)
}

fn texts(r: &mut Reader<'_>) -> Result<Vec<String>> {
    let n = r.count(MAX_TAGS, 1)?;
    (0..n).map(|_| text(r)).collect()
}

fn write_texts<'a>(w: &mut Writer, texts: impl IntoIterator<Item = &'a String, IntoIter: ExactSizeIterator>) {
    let texts = texts.into_iter();
    w.varint(texts.len() as u64);
    texts.for_each(|t| w.lp_str(t));
}

fn ids<T>(r: &mut Reader<'_>, of: fn([u8; 32]) -> T) -> Result<Vec<T>> {
    let n = r.count(usize::MAX, 32)?;
    (0..n).map(|_| r.array().map(of)).collect()
}

fn write_ids<'a>(w: &mut Writer, ids: impl ExactSizeIterator<Item = &'a [u8; 32]>) {
    w.varint(ids.len() as u64);
    ids.for_each(|id| w.bytes(id));
}

fn option(r: &mut Reader<'_>) -> Result<Option<[u8; 32]>> {
    if r.bool()? { r.array().map(Some) } else { Ok(None) }
}

fn write_option(w: &mut Writer, value: Option<&[u8; 32]>) {
    w.bool(value.is_some());
    w.bytes(value.map_or(&[], |v| v));
}

#[cfg(test)]
mod tests;
