//! What the journal says as a whole: its records applied in order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::{
    AuditState, Audited, Belongings, Certificate, Custody, DriveState, Entry, Former, Obeyed, Origin, PolicyState,
    Position, PrivateKey, Profiles, Record, RemoteState, TenantState,
};
use crate::clock::Time;
use crate::id::{DriveId, LogHash, PackId, RepoId, SessionId, SnapshotId};

/// A session expires this long after its last durable pack.
pub const SESSION_LIFE: Duration = Duration::from_secs(72 * 3600);
/// Hashes of this many records back from the newest are remembered …
pub(super) const MAX_RECENT: usize = 1024;
/// … and further back of this many checkpoints.
pub(super) const MAX_ANCHORS: usize = 1024;

/// A session that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionState {
    /// The lock it holds while it lives.
    pub number: u32,
    /// What for.
    pub purpose: String,
    /// The host it runs on.
    pub host: String,
    /// Its process there.
    pub pid: u32,
    /// The snapshot it builds on, which stays a root while it lasts.
    pub parent: Option<SnapshotId>,
    /// The record that began it.
    pub begin_seq: u64,
    /// When it began.
    pub at: Time,
    /// After this it cannot commit.
    pub expires: Time,
    /// Packs it has added.
    pub packs: u64,
}

/// A snapshot that was recorded and not swept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotState {
    /// The host it is of.
    pub host: String,
    /// Its source there.
    pub source: String,
    /// When the host captured it.
    pub captured: Time,
    /// When the first repository recorded it.
    pub recorded: Time,
    /// When this repository recorded it.
    pub received: Time,
    /// Its tags.
    pub tags: BTreeSet<String>,
    /// Whether retention passes it by.
    pub pinned: bool,
    /// When it was forgotten, if it was.
    pub forgotten: Option<Time>,
    /// BLAKE3 of the sealed manifest.
    pub manifest_hash: [u8; 32],
    /// Where a pool has it from.
    pub origin: Option<Origin>,
    /// The record that said so, which tells the true order where clocks were wrong; 0 if nobody knows.
    pub seq: u64,
}

/// A sweep that has not been finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// The session that wrote the intent.
    pub session: SessionId,
    /// Packs still to be removed.
    pub packs: BTreeSet<PackId>,
    /// Snapshots whose manifests are still to be removed.
    pub snapshots: BTreeSet<SnapshotId>,
}

/// The last check of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckState {
    /// When it ended.
    pub at: Time,
    /// Whether it read the packs.
    pub data: bool,
    /// Whether it found nothing wrong.
    pub ok: bool,
    /// The part that was asked for; empty for all.
    pub subset: String,
}

/// The truth about the repository, as far as packs and manifests do not hold it. Equal journals give equal states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The newest record applied.
    pub position: Position,
    /// Sessions without an end.
    pub sessions: BTreeMap<SessionId, SessionState>,
    /// Snapshots, forgotten ones included until they are swept.
    pub snapshots: BTreeMap<SnapshotId, SnapshotState>,
    /// Packs a prune wants to remove, and the record that said so: sessions that began after it do not rely on them.
    pub condemned: BTreeMap<PackId, u64>,
    /// A sweep to be finished before anything else is written.
    pub sweep: Option<Sweep>,
    /// Packs known damaged, since when.
    pub damaged: BTreeMap<PackId, Time>,
    /// The newest master key in use.
    pub epoch: u32,
    /// The last check of any kind.
    pub last_check: Option<CheckState>,
    /// The last check that read packs.
    pub last_data_check: Option<CheckState>,
    /// The last check that read all packs.
    pub last_full_check: Option<CheckState>,
    /// The newest time written by a clock that could be trusted.
    pub newest_time: Option<Time>,
    /// Whether this is a pool.
    pub pool: bool,
    /// A pool's tenants, by number.
    pub tenants: BTreeMap<u32, TenantState>,
    /// The keys that may order deletions in what sealed tenants delivered, by the tenant's number.
    pub owners: BTreeMap<u32, [u8; 32]>,
    /// The last such order that was obeyed, by the tenant's number.
    pub orders: BTreeMap<u32, Obeyed>,
    /// The hosts that back up to this repository over connections, by number: as tenants are, but what they deliver is the
    /// repository's own.
    pub agents: BTreeMap<u32, TenantState>,
    /// When the last push of each tenant or agent ended with everything delivered, by number.
    pub pushes: BTreeMap<u32, Time>,
    /// What tenants want back, beside their snapshots, when their repositories are lost.
    pub belongings: BTreeMap<u32, Belongings>,
    /// The profiles by which this repository is used.
    pub profiles: Profiles,
    /// Transfer drives.
    pub drives: BTreeMap<DriveId, DriveState>,
    /// What holds for tenants of which nothing else is said.
    pub policy: PolicyState,
    /// By tenant, windows that were shortened while something was within them, oldest first.
    pub former: BTreeMap<u32, Vec<Former>>,
    /// By number, what became of tenants that were removed, and the record that says so.
    pub certificates: BTreeMap<u32, (u64, Certificate)>,
    /// Where the audit stands.
    pub audit: AuditState,
    /// The remotes this repository is pushed to, by name.
    pub remotes: BTreeMap<String, RemoteState>,
    /// The key that this repository's server shows.
    pub host_key: Option<PrivateKey>,
    /// The highest number given to a roll-up of footers; 0 before the first.
    pub newest_rollup: u64,
    /// Hashes of consecutive records, the last being at `position`.
    pub(super) recent: VecDeque<LogHash>,
    /// Checkpoints, in order.
    pub(super) anchors: VecDeque<Position>,
    /// Sections of checkpoints by newer programs, kept as they are.
    pub(super) extra: Vec<(u8, Vec<u8>)>,
}

impl Default for State {
    fn default() -> State {
        State {
            position: Position::START,
            sessions: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            condemned: BTreeMap::new(),
            sweep: None,
            damaged: BTreeMap::new(),
            epoch: 0,
            last_check: None,
            last_data_check: None,
            last_full_check: None,
            newest_time: None,
            pool: false,
            tenants: BTreeMap::new(),
            owners: BTreeMap::new(),
            orders: BTreeMap::new(),
            agents: BTreeMap::new(),
            pushes: BTreeMap::new(),
            belongings: BTreeMap::new(),
            profiles: Profiles::default(),
            drives: BTreeMap::new(),
            policy: PolicyState::default(),
            former: BTreeMap::new(),
            certificates: BTreeMap::new(),
            audit: AuditState::default(),
            remotes: BTreeMap::new(),
            host_key: None,
            newest_rollup: 0,
            recent: VecDeque::new(),
            anchors: VecDeque::new(),
            extra: Vec::new(),
        }
    }
}

impl State {
    /// Takes in the next record, whose sealed bytes hash to `hash`. Total: what refers to something unknown changes nothing.
    pub fn apply(&mut self, entry: &Entry, hash: LogHash) {
        self.advance(entry, hash);
        match &entry.record {
            Record::SessionBegin { session, number, purpose, host, pid, parent, at, expires } => {
                let begun = SessionState {
                    number: *number,
                    purpose: purpose.clone(),
                    host: host.clone(),
                    pid: *pid,
                    parent: *parent,
                    begin_seq: entry.seq,
                    at: *at,
                    expires: *expires,
                    packs: 0,
                };
                self.sessions.insert(*session, begun);
            }
            Record::PacksAdded { session, rollup, packs } => {
                self.newest_rollup = self.newest_rollup.max(*rollup);
                if let Some(session) = self.sessions.get_mut(session) {
                    session.packs = session.packs.saturating_add(packs.len() as u64);
                    session.expires = session.expires.max(entry.time.plus(SESSION_LIFE));
                }
            }
            Record::SessionEnd { session, .. } => {
                self.sessions.remove(session);
            }
            Record::Condemned { packs, .. } => {
                packs.iter().for_each(|pack| {
                    self.condemned.entry(*pack).or_insert(entry.seq);
                });
            }
            Record::Uncondemned { packs } => self.uncondemn(packs),
            Record::SweepIntent { session, packs, snapshots } => self.intend(*session, packs, snapshots),
            Record::Swept { packs, snapshots } => self.swept(packs, snapshots),
            Record::Damage { packs, at } => packs.iter().for_each(|pack| {
                self.damaged.entry(*pack).or_insert(*at);
            }),
            Record::Healed { packs } => packs.iter().for_each(|pack| {
                self.damaged.remove(pack);
            }),
            Record::KeyEpoch { epoch, .. } => self.epoch = self.epoch.max(*epoch),
            Record::CheckDone { at, data, ok, subset } => {
                let check = CheckState { at: *at, data: *data, ok: *ok, subset: subset.clone() };
                if *data {
                    if subset.is_empty() {
                        self.last_full_check = Some(check.clone());
                    }
                    self.last_data_check = Some(check.clone());
                }
                self.last_check = Some(check);
            }
            Record::ClockAccepted => self.newest_time = Some(entry.time),
            Record::PoolMade
            | Record::TenantSet { .. }
            | Record::TenantRemoved { .. }
            | Record::Watermark { .. }
            | Record::RemoteSet { .. }
            | Record::RemoteRemoved { .. }
            | Record::Pushed { .. }
            | Record::HostKey { .. }
            | Record::OwnerPinned { .. }
            | Record::OrderObeyed { .. }
            | Record::AgentSet { .. }
            | Record::ProfilesKept { .. }
            | Record::Belongings { .. } => self.apply_to_parties(entry),
            Record::DriveSet { drive, state } => {
                let loads = self.drives.remove(drive).map(|known| known.loads).unwrap_or_default();
                let loads = if state.is_asked_for() { loads } else { Vec::new() };
                self.drives.insert(*drive, DriveState { loads, ..DriveState::clone(state) });
            }
            Record::DriveLoaded { drive, loads } => {
                if let Some(drive) = self.drives.get_mut(drive) {
                    loads.iter().for_each(|load| drive.load(*load));
                }
            }
            Record::PolicySet { policy } => {
                let before = self.windows();
                self.policy = policy.clone();
                self.note_shortened(entry, &before);
            }
            Record::Audited { entry: done } => {
                let audited = Audited { seq: entry.seq, time: entry.time, entry: (**done).clone() };
                self.audit.recent.push(audited);
            }
            Record::AuditKept { segment, hash } => {
                self.audit = AuditState { segment: *segment, hash: *hash, recent: Vec::new() };
            }
            // Repeats what is known already.
            Record::Checkpoint { .. } | Record::Ignored { .. } => {}
            Record::SnapshotRecorded { .. }
            | Record::ManifestReplaced { .. }
            | Record::Forgotten { .. }
            | Record::Unforgotten { .. }
            | Record::Tagged { .. }
            | Record::Pinned { .. }
            | Record::Unpinned { .. } => self.apply_to_snapshots(entry),
        }
    }

    fn apply_to_snapshots(&mut self, entry: &Entry) {
        match &entry.record {
            Record::SnapshotRecorded {
                origin,
                snapshot,
                recorded,
                host,
                source,
                captured,
                tags,
                manifest_hash,
                ..
            } => {
                let state = SnapshotState {
                    host: host.clone(),
                    source: source.clone(),
                    captured: *captured,
                    recorded: *recorded,
                    received: entry.time,
                    tags: tags.iter().cloned().collect(),
                    pinned: false,
                    forgotten: None,
                    manifest_hash: *manifest_hash,
                    origin: *origin,
                    seq: entry.seq,
                };
                self.snapshots.insert(*snapshot, state);
            }
            Record::Forgotten { snapshots, at } => self.each(snapshots, |s| s.forgotten = s.forgotten.or(Some(*at))),
            Record::Unforgotten { snapshots } => self.each(snapshots, |s| s.forgotten = None),
            Record::ManifestReplaced { snapshot, manifest_hash } => {
                self.each(&[*snapshot], |s| s.manifest_hash = *manifest_hash);
            }
            Record::Pinned { snapshots } => self.each(snapshots, |s| s.pinned = true),
            Record::Unpinned { snapshots } => self.each(snapshots, |s| s.pinned = false),
            Record::Tagged { snapshot, add, remove } => self.each(&[*snapshot], |s| {
                s.tags.retain(|tag| !remove.contains(tag));
                s.tags.extend(add.iter().cloned());
            }),
            _ => {}
        }
    }

    fn apply_to_parties(&mut self, entry: &Entry) {
        match &entry.record {
            Record::PoolMade => self.pool = true,
            Record::HostKey { key } => self.host_key = Some(key.clone()),
            Record::ProfilesKept { profiles } => self.profiles = profiles.clone(),
            Record::AgentSet { agent, state } => {
                self.agents.insert(*agent, TenantState::clone(state));
            }
            Record::Belongings { tenant, name, sealed } => {
                self.belongings.insert(*tenant, Belongings { name: name.clone(), sealed: sealed.clone() });
            }
            Record::TenantSet { tenant, state } => {
                let before = self.windows();
                self.tenants.insert(*tenant, TenantState::clone(state));
                self.note_shortened(entry, &before);
            }
            Record::TenantRemoved { tenant, certificate } => {
                self.tenants.remove(tenant);
                self.former.remove(tenant);
                self.certificates.insert(*tenant, (entry.seq, Certificate::clone(certificate)));
                self.belongings.remove(tenant);
                self.owners.remove(tenant);
                self.pushes.remove(tenant);
                self.orders.remove(tenant);
            }
            Record::OwnerPinned { tenant, key } => {
                self.owners.entry(*tenant).or_insert(*key);
            }
            Record::OrderObeyed { tenant, order } => {
                self.orders.insert(*tenant, *order);
            }
            Record::Watermark { tenant: number, position } => {
                if let Some(tenant) = self.tenants.get_mut(number).or_else(|| self.agents.get_mut(number)) {
                    tenant.watermark = Some(*position);
                    self.pushes.insert(*number, entry.time);
                }
            }
            Record::RemoteSet { name, state } => {
                self.remotes.insert(name.clone(), RemoteState::clone(state));
            }
            Record::RemoteRemoved { name } => {
                self.remotes.remove(name);
            }
            Record::Pushed { remote, position, at } => {
                // What drives have brought there is behind this.
                let come = |drive: &&mut DriveState| {
                    !drive.back && drive.party == *remote && drive.standing() == Custody::Committed
                };
                self.drives.values_mut().filter(come).for_each(|drive| drive.loads.clear());
                if let Some(remote) = self.remotes.get_mut(remote) {
                    (remote.pushed, remote.pushed_at) = (Some(*position), Some(*at));
                }
            }
            _ => {}
        }
    }

    /// The drives that are on their way from the repository of this id to the remote of this name; all that are on their way,
    /// if none is given. At a pool tenants may be called as its remotes are.
    pub fn under_way(&self, to: Option<(RepoId, &str)>) -> Vec<DriveId> {
        let meant = |drive: &DriveState| drive.standing().is_under_way() && to.is_none_or(|to| drive.is_sent(to));
        self.drives.iter().filter(|(_, drive)| meant(drive)).map(|(id, _)| *id).collect()
    }

    /// The drives that have come from the repository of this id to the remote of this name since the last push to it: what is
    /// on them is there.
    pub fn come(&self, to: (RepoId, &str)) -> Vec<DriveId> {
        let come =
            |drive: &DriveState| drive.standing() == Custody::Committed && !drive.loads.is_empty() && drive.is_sent(to);
        self.drives.iter().filter(|(_, drive)| come(drive)).map(|(id, _)| *id).collect()
    }

    /// The window of each tenant, in seconds.
    fn windows(&self) -> BTreeMap<u32, u64> {
        let of = |tenant: &TenantState| tenant.window.or(self.policy.window).unwrap_or(0);
        self.tenants.iter().map(|(number, tenant)| (*number, of(tenant))).collect()
    }

    /// A window that becomes shorter goes on for what came within it: else whoever may set it could delete at once.
    fn note_shortened(&mut self, entry: &Entry, before: &BTreeMap<u32, u64>) {
        for (number, now) in self.windows() {
            if let Some(window) = before.get(&number).copied().filter(|window| *window > now) {
                Former::note(self.former.entry(number).or_default(), entry.time, window, entry.trusted);
            }
        }
    }

    fn each(&mut self, ids: &[SnapshotId], mut change: impl FnMut(&mut SnapshotState)) {
        for id in ids {
            if let Some(snapshot) = self.snapshots.get_mut(id) {
                change(snapshot);
            }
        }
    }

    fn advance(&mut self, entry: &Entry, hash: LogHash) {
        if entry.seq != self.position.seq.wrapping_add(1) {
            self.recent.clear();
        }
        self.position = Position { seq: entry.seq, hash };
        push_bounded(&mut self.recent, hash, MAX_RECENT);
        if matches!(entry.record, Record::Checkpoint { .. }) {
            push_bounded(&mut self.anchors, self.position, MAX_ANCHORS);
        }
        if entry.trusted {
            self.newest_time = self.newest_time.max(Some(entry.time));
        }
    }

    fn intend(&mut self, session: SessionId, packs: &[PackId], snapshots: &[SnapshotId]) {
        let sweep =
            self.sweep.get_or_insert_with(|| Sweep { session, packs: BTreeSet::new(), snapshots: BTreeSet::new() });
        sweep.session = session;
        sweep.packs.extend(packs);
        sweep.snapshots.extend(snapshots);
        self.end_empty_sweep();
    }

    /// A pack that is kept after all is no part of an unfinished sweep either.
    fn uncondemn(&mut self, packs: &[PackId]) {
        for pack in packs {
            self.condemned.remove(pack);
            if let Some(sweep) = &mut self.sweep {
                sweep.packs.remove(pack);
            }
        }
        self.end_empty_sweep();
    }

    fn swept(&mut self, packs: &[PackId], snapshots: &[SnapshotId]) {
        let mut sweep = self.sweep.as_mut();
        for pack in packs {
            self.condemned.remove(pack);
            self.damaged.remove(pack);
            if let Some(sweep) = &mut sweep {
                sweep.packs.remove(pack);
            }
        }
        for snapshot in snapshots {
            self.snapshots.remove(snapshot);
            if let Some(sweep) = &mut sweep {
                sweep.snapshots.remove(snapshot);
            }
        }
        self.end_empty_sweep();
    }

    /// Places the state right before record `seq`, on a chain that begins there: what came before is neither remembered
    /// nor vouched for.
    pub fn begin_anew(&mut self, seq: u64) {
        self.position = Position { seq: seq.saturating_sub(1), hash: LogHash([0; 32]) };
        self.recent.clear();
        self.anchors.clear();
    }

    fn end_empty_sweep(&mut self) {
        self.sweep.take_if(|sweep| sweep.packs.is_empty() && sweep.snapshots.is_empty());
    }

    /// The hash of an earlier record, as far as it is remembered.
    pub fn hash_at(&self, seq: u64) -> Option<LogHash> {
        let back = usize::try_from(self.position.seq.checked_sub(seq)?).ok()?;
        match self.recent.len().checked_sub(back.saturating_add(1)) {
            Some(i) => self.recent.get(i).copied(),
            None => {
                let i = self.anchors.binary_search_by_key(&seq, |anchor| anchor.seq).ok()?;
                Some(self.anchors[i].hash)
            }
        }
    }
}

fn push_bounded<T>(queue: &mut VecDeque<T>, value: T, max: usize) {
    if queue.len() >= max {
        queue.pop_front();
    }
    queue.push_back(value);
}
