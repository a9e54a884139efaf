//! The state as a checkpoint holds it: sections of a type, a length and a body, types ascending.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::parties::{read_time, write_time};
use super::state::{MAX_ANCHORS, MAX_RECENT};
use super::{
    AuditState, Belongings, Certificate, CheckState, DriveState, Former, Load, MAX_TAGS, MAX_TEXT, MAY_IGNORE, Obeyed,
    Origin, PolicyState, Position, PrivateKey, Profiles, RemoteState, SessionState, SnapshotState, State, Sweep,
    TenantState, ids, newer, option, text, time, write_ids, write_option, write_texts,
};
use crate::error::{Error, Result};
use crate::format::wire::{Reader, Writer};
use crate::id::{DriveId, LogHash, PackId, SessionId, SnapshotId};
use crate::limits::MAX_LOG_RECORD;

/// Sections that are absent where they would say nothing; programs that do not know them refuse them.
const POOL: u8 = 10;
const TENANTS: u8 = 11;
const ORIGINS: u8 = 12;
const REMOTES: u8 = 13;
const HOST_KEY: u8 = 14;
const OWNERS: u8 = 15;
const ORDERS: u8 = 16;
const AGENTS: u8 = 17;
const BELONGINGS: u8 = 18;
const POLICY: u8 = 19;
const FORMER: u8 = 20;
const CERTIFICATES: u8 = 21;
const AUDIT: u8 = 22;
const PROFILES: u8 = 23;
const DRIVES: u8 = 24;
/// Sections that came later; programs before them keep them as they are. Absent where they would say nothing.
const FULL_CHECK: u8 = MAY_IGNORE;
/// Where snapshots were recorded. A program that does not know it keeps it, perhaps out of date: entries are by id.
const PLACES: u8 = MAY_IGNORE | 1;
/// When each tenant's or agent's last push ended. A program that does not know it keeps it, perhaps out of date.
const PUSHES: u8 = MAY_IGNORE | 2;

const _: () = assert!(MAX_TAGS * MAX_TEXT < MAX_LOG_RECORD);

impl State {
    pub(super) fn write(&self, w: &mut Writer) {
        for kind in 1..=9 {
            let mut body = Writer::new();
            self.write_section(kind, &mut body);
            w.u8(kind);
            w.lp_bytes(body.as_slice());
        }
        self.write_parties(w);
        if let Some(check) = &self.last_full_check {
            let mut body = Writer::new();
            write_check(&mut body, Some(check));
            w.u8(FULL_CHECK);
            w.lp_bytes(body.as_slice());
        }
        let places: BTreeMap<&SnapshotId, u64> =
            self.snapshots.iter().filter(|(_, s)| s.seq > 0).map(|(id, s)| (id, s.seq)).collect();
        if !places.is_empty() {
            let mut body = Writer::new();
            write_map(&mut body, &places, |w, id, seq| {
                w.bytes(id.as_bytes());
                w.varint(*seq);
            });
            w.u8(PLACES);
            w.lp_bytes(body.as_slice());
        }
        if !self.pushes.is_empty() {
            let mut body = Writer::new();
            write_map(&mut body, &self.pushes, |w, tenant, at| {
                w.varint((*tenant).into());
                w.i64(at.0);
            });
            w.u8(PUSHES);
            w.lp_bytes(body.as_slice());
        }
        for (kind, body) in &self.extra {
            w.u8(*kind);
            w.lp_bytes(body);
        }
    }

    fn write_parties(&self, w: &mut Writer) {
        let mut section = |kind: u8, some: bool, write: &dyn Fn(&mut Writer)| {
            if some {
                let mut body = Writer::new();
                write(&mut body);
                w.u8(kind);
                w.lp_bytes(body.as_slice());
            }
        };
        section(POOL, self.pool, &|_| {});
        section(TENANTS, !self.tenants.is_empty(), &|w| {
            write_map(w, &self.tenants, |w, tenant, state| {
                w.varint((*tenant).into());
                state.write(w);
            });
        });
        let origins: BTreeMap<&SnapshotId, Origin> =
            self.snapshots.iter().filter_map(|(id, s)| Some((id, s.origin?))).collect();
        section(ORIGINS, !origins.is_empty(), &|w| {
            write_map(w, &origins, |w, id, origin| {
                w.bytes(id.as_bytes());
                origin.write(w);
            });
        });
        section(REMOTES, !self.remotes.is_empty(), &|w| {
            write_map(w, &self.remotes, |w, name, state| {
                w.lp_str(name);
                state.write(w);
            });
        });
        section(HOST_KEY, self.host_key.is_some(), &|w| {
            self.host_key.iter().for_each(|key| w.lp_bytes(&key.0));
        });
        section(OWNERS, !self.owners.is_empty(), &|w| {
            write_map(w, &self.owners, |w, tenant, key| {
                w.varint((*tenant).into());
                w.bytes(key);
            });
        });
        section(ORDERS, !self.orders.is_empty(), &|w| {
            write_map(w, &self.orders, |w, tenant, order| {
                w.varint((*tenant).into());
                order.write(w);
            });
        });
        section(AGENTS, !self.agents.is_empty(), &|w| {
            write_map(w, &self.agents, |w, agent, state| {
                w.varint((*agent).into());
                state.write(w);
            });
        });
        section(BELONGINGS, !self.belongings.is_empty(), &|w| {
            write_map(w, &self.belongings, |w, tenant, belongings| {
                w.varint((*tenant).into());
                belongings.write(w);
            });
        });
        section(POLICY, self.policy != PolicyState::default(), &|w| self.policy.write(w));
        section(FORMER, !self.former.is_empty(), &|w| {
            write_map(w, &self.former, |w, tenant, former| {
                w.varint((*tenant).into());
                Former::write_all(w, former);
            });
        });
        section(CERTIFICATES, !self.certificates.is_empty(), &|w| {
            write_map(w, &self.certificates, |w, tenant, (seq, certificate)| {
                w.varint((*tenant).into());
                w.varint(*seq);
                certificate.write(w);
            });
        });
        section(AUDIT, self.audit != AuditState::default(), &|w| self.audit.write(w));
        section(PROFILES, self.profiles != Profiles::default(), &|w| self.profiles.write(w));
        section(DRIVES, !self.drives.is_empty(), &|w| {
            write_map(w, &self.drives, |w, drive, state| {
                w.bytes(drive.as_bytes());
                state.write(w);
                Load::write_all(w, &state.loads);
            });
        });
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<State> {
        let mut state = State::default();
        let mut last = 0;
        while !r.is_empty() {
            let kind = r.u8()?;
            if kind <= last {
                return Err(Error::damaged("a checkpoint's sections are out of order"));
            }
            last = kind;
            let body = r.lp_bytes(MAX_LOG_RECORD)?;
            if kind & MAY_IGNORE != 0 && ![FULL_CHECK, PLACES, PUSHES].contains(&kind) {
                state.extra.push((kind, body.to_vec()));
                continue;
            }
            let mut section = Reader::new(body);
            state.read_section(kind, &mut section)?;
            section.finish()?;
        }
        Ok(state)
    }

    fn write_section(&self, kind: u8, w: &mut Writer) {
        match kind {
            1 => {
                w.u64(self.position.seq);
                w.bytes(self.position.hash.as_bytes());
                w.varint(self.epoch.into());
                w.varint(self.newest_rollup);
                write_time(w, self.newest_time);
            }
            2 => write_map(w, &self.sessions, |w, id, s| {
                w.bytes(id.as_bytes());
                write_session(w, s);
            }),
            3 => write_map(w, &self.snapshots, |w, id, s| {
                w.bytes(id.as_bytes());
                write_snapshot(w, s);
            }),
            4 => write_map(w, &self.condemned, |w, id, seq| {
                w.bytes(id.as_bytes());
                w.varint(*seq);
            }),
            5 => {
                if let Some(sweep) = &self.sweep {
                    w.bytes(sweep.session.as_bytes());
                    write_ids(w, sweep.packs.iter().map(PackId::as_bytes));
                    write_ids(w, sweep.snapshots.iter().map(SnapshotId::as_bytes));
                }
            }
            6 => write_map(w, &self.damaged, |w, id, at| {
                w.bytes(id.as_bytes());
                w.i64(at.0);
            }),
            7 => {
                write_check(w, self.last_check.as_ref());
                write_check(w, self.last_data_check.as_ref());
            }
            8 => self.recent.iter().for_each(|hash| w.bytes(hash.as_bytes())),
            _ => {
                for anchor in &self.anchors {
                    w.u64(anchor.seq);
                    w.bytes(anchor.hash.as_bytes());
                }
            }
        }
    }

    fn read_section(&mut self, kind: u8, r: &mut Reader<'_>) -> Result<()> {
        match kind {
            1 => {
                self.position = Position { seq: r.u64()?, hash: LogHash(r.array()?) };
                self.epoch = r.varint_u32()?;
                self.newest_rollup = r.varint()?;
                self.newest_time = read_time(r)?;
            }
            2 => self.sessions = read_map(r, 32, |r| Ok((SessionId(r.array()?), read_session(r)?)))?,
            3 => self.snapshots = read_map(r, 32, |r| Ok((SnapshotId(r.array()?), read_snapshot(r)?)))?,
            4 => self.condemned = read_map(r, 33, |r| Ok((PackId(r.array()?), r.varint()?)))?,
            5 if !r.is_empty() => {
                self.sweep = Some(Sweep {
                    session: SessionId(r.array()?),
                    packs: ascending(ids(r, PackId)?)?,
                    snapshots: ascending(ids(r, SnapshotId)?)?,
                });
            }
            5 => {}
            6 => self.damaged = read_map(r, 40, |r| Ok((PackId(r.array()?), time(r)?)))?,
            7 => {
                self.last_check = read_check(r)?;
                self.last_data_check = read_check(r)?;
            }
            8 => self.recent = read_to_end(r, MAX_RECENT, |r| r.array().map(LogHash))?,
            9 => {
                self.anchors =
                    read_to_end(r, MAX_ANCHORS, |r| Ok(Position { seq: r.u64()?, hash: LogHash(r.array()?) }))?;
                if !self.anchors.iter().is_sorted_by(|a, b| a.seq < b.seq) {
                    return Err(out_of_order());
                }
            }
            POOL => self.pool = true,
            TENANTS => self.tenants = read_map(r, 20, |r| Ok((r.varint_u32()?, TenantState::read(r)?)))?,
            ORIGINS => {
                for (id, origin) in read_map(r, 65, |r| Ok((SnapshotId(r.array()?), Origin::read(r)?)))? {
                    if let Some(snapshot) = self.snapshots.get_mut(&id) {
                        snapshot.origin = Some(origin);
                    }
                }
            }
            REMOTES => self.remotes = read_map(r, 8, |r| Ok((text(r)?, RemoteState::read(r)?)))?,
            HOST_KEY => self.host_key = Some(PrivateKey::read(r)?),
            OWNERS => self.owners = read_map(r, 33, |r| Ok((r.varint_u32()?, r.array()?)))?,
            ORDERS => self.orders = read_map(r, 83, |r| Ok((r.varint_u32()?, Obeyed::read(r)?)))?,
            AGENTS => self.agents = read_map(r, 20, |r| Ok((r.varint_u32()?, TenantState::read(r)?)))?,
            BELONGINGS => self.belongings = read_map(r, 3, |r| Ok((r.varint_u32()?, Belongings::read(r)?)))?,
            POLICY => self.policy = PolicyState::read(r)?,
            FORMER => self.former = read_map(r, 2, |r| Ok((r.varint_u32()?, Former::read_all(r)?)))?,
            CERTIFICATES => {
                let one = |r: &mut Reader<'_>| Ok((r.varint_u32()?, (r.varint()?, Certificate::read(r)?)));
                self.certificates = read_map(r, 20, one)?;
            }
            AUDIT => self.audit = AuditState::read(r)?,
            PROFILES => self.profiles = Profiles::read(r)?,
            DRIVES => {
                self.drives = read_map(r, 100, |r| {
                    let (drive, state) = (DriveId(r.array()?), DriveState::read(r)?);
                    Ok((drive, DriveState { loads: Load::read_all(r)?, ..state }))
                })?;
            }
            FULL_CHECK => {
                let none = || Error::damaged("a checkpoint's section says nothing");
                self.last_full_check = Some(read_check(r)?.ok_or_else(none)?);
            }
            PUSHES => self.pushes = read_map(r, 9, |r| Ok((r.varint_u32()?, time(r)?)))?,
            PLACES => {
                for (id, seq) in read_map(r, 33, |r| Ok((SnapshotId(r.array()?), r.varint()?)))? {
                    if let Some(snapshot) = self.snapshots.get_mut(&id) {
                        snapshot.seq = seq;
                    }
                }
            }
            _ => return Err(newer()),
        }
        Ok(())
    }
}

fn out_of_order() -> Error {
    Error::damaged("a checkpoint's entries are out of order")
}

fn write_map<K, V>(w: &mut Writer, map: &BTreeMap<K, V>, each: impl Fn(&mut Writer, &K, &V)) {
    w.varint(map.len() as u64);
    map.iter().for_each(|(k, v)| each(w, k, v));
}

/// A map whose entries take at least `least` bytes each, in strictly ascending order.
fn read_map<K: Ord, V>(
    r: &mut Reader<'_>,
    least: usize,
    each: impl Fn(&mut Reader<'_>) -> Result<(K, V)>,
) -> Result<BTreeMap<K, V>> {
    let n = r.count(usize::MAX, least)?;
    let mut map = BTreeMap::new();
    for _ in 0..n {
        let (k, v) = each(r)?;
        if map.last_key_value().is_some_and(|(last, _)| *last >= k) {
            return Err(out_of_order());
        }
        map.insert(k, v);
    }
    Ok(map)
}

fn ascending<T: Ord>(values: Vec<T>) -> Result<BTreeSet<T>> {
    if !values.is_sorted_by(|a, b| a < b) {
        return Err(out_of_order());
    }
    Ok(values.into_iter().collect())
}

fn read_to_end<T>(r: &mut Reader<'_>, max: usize, each: impl Fn(&mut Reader<'_>) -> Result<T>) -> Result<VecDeque<T>> {
    let mut all = VecDeque::new();
    while !r.is_empty() {
        if all.len() >= max {
            return Err(Error::damaged("a checkpoint's list is too long"));
        }
        all.push_back(each(r)?);
    }
    Ok(all)
}

fn write_session(w: &mut Writer, s: &SessionState) {
    w.varint(s.number.into());
    w.lp_str(&s.purpose);
    w.lp_str(&s.host);
    w.varint(s.pid.into());
    write_option(w, s.parent.as_ref().map(SnapshotId::as_bytes));
    w.varint(s.begin_seq);
    w.i64(s.at.0);
    w.i64(s.expires.0);
    w.varint(s.packs);
}

fn read_session(r: &mut Reader<'_>) -> Result<SessionState> {
    Ok(SessionState {
        number: r.varint_u32()?,
        purpose: text(r)?,
        host: text(r)?,
        pid: r.varint_u32()?,
        parent: option(r)?.map(SnapshotId),
        begin_seq: r.varint()?,
        at: time(r)?,
        expires: time(r)?,
        packs: r.varint()?,
    })
}

fn write_snapshot(w: &mut Writer, s: &SnapshotState) {
    w.lp_str(&s.host);
    w.lp_str(&s.source);
    w.i64(s.captured.0);
    w.i64(s.recorded.0);
    w.i64(s.received.0);
    write_texts(w, &s.tags);
    w.bool(s.pinned);
    write_time(w, s.forgotten);
    w.bytes(&s.manifest_hash);
}

fn read_snapshot(r: &mut Reader<'_>) -> Result<SnapshotState> {
    Ok(SnapshotState {
        host: text(r)?,
        source: text(r)?,
        captured: time(r)?,
        recorded: time(r)?,
        received: time(r)?,
        // One by one: repeated tagging may pass the bound of a single record.
        tags: {
            let n = r.count(usize::MAX, 1)?;
            ascending((0..n).map(|_| text(r)).collect::<Result<Vec<_>>>()?)?
        },
        pinned: r.bool()?,
        forgotten: read_time(r)?,
        manifest_hash: r.array()?,
        // In sections of their own.
        origin: None,
        seq: 0,
    })
}

fn write_check(w: &mut Writer, check: Option<&CheckState>) {
    w.bool(check.is_some());
    if let Some(check) = check {
        w.i64(check.at.0);
        w.bool(check.data);
        w.bool(check.ok);
        w.lp_str(&check.subset);
    }
}

fn read_check(r: &mut Reader<'_>) -> Result<Option<CheckState>> {
    if !r.bool()? {
        return Ok(None);
    }
    Ok(Some(CheckState { at: time(r)?, data: r.bool()?, ok: r.bool()?, subset: text(r)? }))
}
