//! Writing to a drive what a remote lacks: trees, then data, in the order in which they came, with their roll-ups, until the
//! drive is full.
//!
//! Manifests come first, so that what is on the drive can be looked at whatever becomes of the rest; then packs, some at a
//! time: these, their roll-up, the drive's record, and only then the repository's, which says that they are on their way. So
//! wherever it stops, what the drive says of itself is true, and what the repository says of it is on it.

use std::collections::HashSet;
use std::sync::Arc;

use repo::backend::Object;
use repo::clock::Time;
use repo::crypto::keys::FrameKind;
use repo::error::{Error, Kind, Result};
use repo::follow::{MAX_ROLLUP, read_rollup};
use repo::format::footer::RollupEntry;
use repo::format::record::{Custody, Load, Outcome, PackRef, Position, Record, State};
use repo::id::{DriveId, PackId, SnapshotId};
use repo::index::{Flags, PackInfo};
use repo::limits::{MAX_MANIFEST, MIB};
use repo::lock::COMMIT_WAIT;
use repo::monitor::{Counters, Event, Monitor};
use repo::open::Repository;
use repo::session::{Session, who};
use repo::{backend, snapshots};

use super::carry::{Fate, Room, carry, interrupted};
use super::custody::change;
use super::{one_at_a_time, settle};
use crate::delta::Delta;
use crate::drive::make::Drive;
use crate::remote;

/// Packs that are recorded together: what a power cut costs at most is copied again.
const TOGETHER: usize = 32;
/// What the records at the end need beside the roll-ups.
const HEADROOM: u64 = MIB as u64;

/// What is to be written.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// For which remote.
    pub remote: String,
    /// Only what was recorded since; none: what the remote lacks, as far as is known.
    pub since: Option<Time>,
    /// Packs of at most so many bytes in this call.
    pub max_bytes: Option<u64>,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Packs that are on the drive now and were not.
    pub packs: u64,
    /// Bytes that were written for them.
    pub bytes: u64,
    /// Snapshots that the drive speaks of now and did not.
    pub snapshots: u64,
    /// Whether no more fits, on the drive or in what was allowed.
    pub full: bool,
    /// Whether it is what was allowed that is used up.
    pub allowed: bool,
    /// Packs that the remote lacks and that are on no drive yet.
    pub left: u64,
    /// Their bytes.
    pub left_bytes: u64,
    /// Packs that cannot be read here.
    pub damaged: Vec<PackId>,
    /// Packs that no roll-up lists: they go over the network.
    pub unlisted: u64,
}

/// Writes to the drive what the remote lacks and what is not on its way on another.
///
/// # Errors
/// `NotFound` without such a remote; `WrongDrive` for a drive that is for another, or that has been sent off; `Locked` while another
/// is written to; `Interrupted`; what the drive gives.
pub fn export(site: &Repository, drive: &Drive, wanted: &Wanted, monitor: &dyn Monitor) -> Result<Report> {
    let known = remote::find(site, &wanted.remote)?;
    if crate::directory::of(&known)?.is_some() {
        let e = Error::new(
            Kind::Refused,
            format!("remote {} is a directory, which no drive is imported to", wanted.remote),
        );
        return Err(e.remedy("plug that in and push to it: `packmule sync push` copies as fast as a drive can take it"));
    }
    let _only_one = one_at_a_time(drive)?;
    let _not_the_same = site.locks.export()?;
    claim(site, drive, wanted)?;
    let state = site.refresh(monitor)?;
    let from = match wanted.since {
        Some(since) => Some(place_of(site, since)?),
        // What is known of a lost repository's log says nothing of this one's.
        None => known.pushed.filter(|_| !remote::is_anew(&known)),
    };
    let delta = Delta::since(site, from)?;
    let session = Session::begin(Arc::clone(&drive.repo.log), drive.repo.locks.clone(), "export", None)?;
    let mut export = Export { site, drive, wanted, session, report: Report::default(), monitor };
    export.manifests(&state, &delta)?;
    let done = export.packs(&state, &delta);
    let Export { session, report, .. } = export;
    // A drive that was pulled out takes no more.
    let ended = session.end(if done.is_ok() { Outcome::Done } else { Outcome::Failed });
    done?;
    ended?;
    settle(site, drive, &|_, _| true)?;
    drive.repo.remember();
    if monitor.cancelled() { Err(interrupted()) } else { Ok(report) }
}

/// The drive is this remote's from now on, and carries what is on its way there.
fn claim(site: &Repository, drive: &Drive, wanted: &Wanted) -> Result<()> {
    let own = drive.state()?;
    if own.back {
        return Err(Error::new(Kind::WrongDrive, "this drive was made at a pool, to carry things from there")
            .remedy("take in what is on it with `packmule drive import`"));
    }
    let (now, by) = (site.clock.now(), who());
    change(site, drive.id, &mut |known| {
        let mut state = known.unwrap_or_else(|| own.clone());
        let refused = |what: String, remedy: &'static str| Err(Error::new(Kind::WrongDrive, what).remedy(remedy));
        if !state.party.is_empty() && state.party != wanted.remote {
            let what = format!("this drive carries what remote {} lacks", state.party);
            return refused(what, "use another drive, or make this one anew: empty it, then `packmule drive init`");
        }
        match state.custody() {
            Custody::Made => state.step(Custody::Exported, now, &by),
            Custody::Exported => {}
            // It was handed over, and is here: it has come back, or was not sent after all.
            Custody::Shipped | Custody::Lost => state.step(Custody::Exported, now, &by),
            Custody::Retired => {
                let what = "this drive is retired: nothing opens what is on it but the repository's own keys";
                return refused(what.to_owned(), "empty it, and make it anew with `packmule drive init`");
            }
            other => {
                let what = format!("this drive is {}: what is on it has been at the other side", other.name());
                return refused(what, "empty it, and make it anew with `packmule drive init`");
            }
        }
        state.party.clone_from(&wanted.remote);
        Ok((state, ()))
    })
}

/// The record after which everything was recorded since `since`.
fn place_of(site: &Repository, since: Time) -> Result<Position> {
    let (mut from, mut first) = (Position::START, None);
    let mut before = None;
    site.log.history(&mut |entry| {
        let entry = entry?;
        first.get_or_insert(entry.seq);
        if entry.time < since {
            before = Some(entry.seq);
        }
        Ok(())
    })?;
    if first.is_none_or(|first| first > 1) && before.is_none() {
        return Err(Error::new(Kind::Usage, "the log does not reach back so far as --since says")
            .remedy("leave --since out: then everything that the remote is not known to have is written"));
    }
    if let Some(seq) = before {
        let sealed = site.backend.read_all(&Object::Log(seq), repo::limits::MAX_LOG_RECORD)?;
        from = Position { seq, hash: repo::id::LogHash(*blake3::hash(&sealed).as_bytes()) };
    }
    Ok(from)
}

/// One export.
struct Export<'a> {
    site: &'a Repository,
    drive: &'a Drive,
    wanted: &'a Wanted,
    session: Session,
    report: Report,
    monitor: &'a dyn Monitor,
}

/// What need not be on the drive.
struct LeftOut {
    /// Nothing but these is to be there, if they are given.
    chosen: Option<HashSet<PackId>>,
    /// What is on these drives.
    others: Vec<DriveId>,
}

/// Packs of a roll-up that are to be on the drive, by their places in it.
struct Batch {
    rollup: u64,
    packs: Vec<(usize, PackInfo)>,
}

impl Export<'_> {
    /// Puts the manifests there and records the snapshots, though what they reach is still to come.
    fn manifests(&mut self, state: &State, delta: &Delta) -> Result<()> {
        self.monitor.event(Event::Phase("snapshots"));
        let there = self.drive.repo.log.state();
        let wanted = |id: &SnapshotId| match delta {
            Delta::All => true,
            Delta::Since { snapshots, .. } => snapshots.contains(id),
        };
        let mut ids: Vec<(u64, SnapshotId)> = Vec::new();
        for (id, snapshot) in &state.snapshots {
            if snapshot.forgotten.is_none() && wanted(id) && !there.snapshots.contains_key(id) {
                ids.push((snapshot.seq, *id));
            }
        }
        ids.sort_unstable();
        for (_, id) in ids {
            self.stop_if_cancelled()?;
            let manifest = match snapshots::manifest(self.site, &id) {
                // Swept meanwhile, or to be healed first.
                Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Damaged) => {
                    self.warn(&e);
                    continue;
                }
                other => other?,
            };
            let sealed = self.site.backend.read_all(&Object::Snapshot(id), MAX_MANIFEST)?;
            // What an interrupted export left there is the same.
            self.drive.repo.backend.delete(&Object::Snapshot(id))?;
            snapshots::record_as(&self.drive.repo, &self.session, &manifest, &sealed)?;
            self.report.snapshots += 1;
        }
        Ok(())
    }

    /// Copies packs until everything is there, or no more fits.
    fn packs(&mut self, state: &State, delta: &Delta) -> Result<()> {
        self.monitor.event(Event::Phase("packs"));
        let to = (self.site.config.repo_id, self.wanted.remote.as_str());
        // What has come there since the last push is not missed there, though that push did not know.
        let mut others = state.under_way(Some(to));
        others.extend(state.come(to));
        others.retain(|id| *id != self.drive.id);
        let chosen = match delta {
            Delta::All => None,
            Delta::Since { packs, .. } => Some(packs.iter().copied().collect()),
        };
        let left_out = LeftOut { chosen, others };
        let found = self.survey(&left_out, delta)?;
        // Trees first: with them all files are seen on the first drive, whichever one their data is on.
        for kind in [FrameKind::Tree, FrameKind::Data] {
            for (rollup, _) in found.iter().filter(|(_, has)| has[kind as usize]) {
                let Some(entries) = self.entries(*rollup)? else { continue };
                let packs = self.batch(kind, &entries, &left_out)?;
                self.batch_over(&Batch { rollup: *rollup, packs })?;
            }
        }
        Ok(())
    }

    /// The roll-ups that list something to be written, in the order in which their packs came, so that the oldest snapshots are whole
    /// on the first drive; and whether that is data, or trees.
    fn survey(&mut self, left_out: &LeftOut, delta: &Delta) -> Result<Vec<(u64, [bool; 2])>> {
        let mut numbers = Vec::new();
        let wanted = |number: &u64| match delta {
            Delta::All => true,
            Delta::Since { rollups, .. } => rollups.contains(number),
        };
        self.site.backend.list(backend::Area::Footers, &mut |object, _| {
            if let Object::Footers(number) = object
                && wanted(&number)
            {
                numbers.push(number);
            }
            Ok(())
        })?;
        let (mut found, mut listed) = (Vec::new(), 0);
        for number in numbers {
            self.stop_if_cancelled()?;
            let (mut first, mut has) = (None, [false; 2]);
            for entry in self.entries(number)?.unwrap_or_default() {
                let Some(info) = self.site.index.pack_by_id(&entry.id)? else { continue };
                listed += 1;
                first.get_or_insert(info.no);
                match (self.is_wanted(&info, left_out)?, info.damaged) {
                    (true, true) => self.report.damaged.push(info.id),
                    (true, false) => has[info.kind as usize] = true,
                    _ => {}
                }
            }
            if has != [false; 2] {
                found.push((first, number, has));
            }
        }
        if matches!(delta, Delta::All) {
            let (_, packs) = self.site.index.counts()?;
            self.report.unlisted = packs.saturating_sub(listed);
        }
        found.sort_unstable();
        Ok(found.into_iter().map(|(_, number, has)| (number, has)).collect())
    }

    /// What a roll-up lists. None of one that is gone, its packs then are gone, too, or go over the network; and of one that cannot
    /// be read, which is told.
    fn entries(&self, rollup: u64) -> Result<Option<Vec<RollupEntry>>> {
        match read_rollup(self.site.backend.as_ref(), &self.site.keys, rollup) {
            Ok(entries) => Ok(Some(entries)),
            Err(e) if e.kind() == Kind::NotFound => Ok(None),
            Err(e) if matches!(e.kind(), Kind::Damaged | Kind::Io) => {
                self.warn(&e);
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// What of a roll-up, of one kind, is to go.
    fn batch(&self, kind: FrameKind, entries: &[RollupEntry], left_out: &LeftOut) -> Result<Vec<(usize, PackInfo)>> {
        let mut packs = Vec::new();
        for (place, entry) in entries.iter().enumerate() {
            let known = self.site.index.pack_by_id(&entry.id)?.filter(|info| info.kind == kind && !info.damaged);
            if let Some(info) = known
                && self.is_wanted(&info, left_out)?
            {
                packs.push((place, info));
            }
        }
        Ok(packs)
    }

    /// Whether the pack is to be on this drive, and is not. What is condemned lies elsewhere too, or will be missed by name.
    fn is_wanted(&self, info: &PackInfo, left_out: &LeftOut) -> Result<bool> {
        let chosen = left_out.chosen.as_ref().is_none_or(|chosen: &HashSet<PackId>| chosen.contains(&info.id));
        Ok(chosen
            && !info.condemned
            && self.site.index.posted(&left_out.others, &info.id)?.is_none()
            && !self.is_there(info)?)
    }

    /// Whether the pack was written to this drive before, and has not vanished since: a filesystem without a journal may lose it.
    fn is_there(&self, info: &PackInfo) -> Result<bool> {
        let noted = self.site.index.posted(&[self.drive.id], &info.id)?.is_some();
        let known = || self.drive.repo.index.pack_by_id(&info.id);
        Ok(noted
            && known()?.is_some_and(|known| known.usable())
            && self.drive.repo.backend.size(&Object::Pack(info.id))? == Some(info.size))
    }

    /// Brings a roll-up's packs to the drive, if there is room, and notes what is there.
    fn batch_over(&mut self, batch: &Batch) -> Result<()> {
        let counters = self.monitor.counters();
        Counters::add(&counters.total_files, batch.packs.len() as u64);
        Counters::add(&counters.total_bytes, batch.packs.iter().map(|(_, info)| info.size).sum());
        for some in batch.packs.chunks(TOGETHER) {
            if self.report.full || self.monitor.cancelled() {
                self.leave(some);
                continue;
            }
            if !self.put_rollup(batch.rollup)? {
                self.report.full = true;
                self.leave(some);
                continue;
            }
            let names: Vec<(PackId, u64)> = some.iter().map(|(_, info)| (info.id, info.size)).collect();
            let (from, to) = (self.site.backend.as_ref(), self.drive.repo.backend.as_ref());
            let mut fates: Vec<Fate> = Vec::new();
            // What files take beyond their bytes is guessed, and too much: what is really free afterwards is tried again.
            loop {
                let room = Room::new(self.room(&fates)?);
                let before = fates.len();
                fates.extend(carry(from, to, &names[before..], &room, self.monitor)?);
                fates.truncate(fates.iter().rposition(|fate| *fate != Fate::Left).map_or(0, |last| last + 1));
                self.report.full = room.is_full() && fates.len() < names.len();
                self.report.allowed = self.report.full && self.allowed(&fates) < self.free()?;
                if !self.report.full || fates.len() == before {
                    break;
                }
            }
            fates.resize(names.len(), Fate::Left);
            self.note(batch.rollup, some, &fates)?;
        }
        Ok(())
    }

    /// Records what of these is there now, first on the drive, then here.
    fn note(&mut self, rollup: u64, some: &[(usize, PackInfo)], fates: &[Fate]) -> Result<()> {
        let (mut refs, mut loads): (Vec<PackRef>, Vec<Load>) = (Vec::new(), Vec::new());
        for ((place, info), fate) in some.iter().zip(fates) {
            match fate {
                Fate::There(bytes) => {
                    self.report.packs += 1;
                    self.report.bytes += bytes;
                    // One that is there and was not recorded counts for nothing until it is.
                    if !self.drive.repo.index.pack_by_id(&info.id)?.is_some_and(|known| known.usable()) {
                        let PackInfo { id, size, footer_len, kind, .. } = *info;
                        refs.push(PackRef { id, size, footer_len, kind });
                    }
                    let first = u32::try_from(*place).map_err(|_| Error::bug("a roll-up lists too many packs"))?;
                    match loads.last_mut() {
                        Some(last) if last.first + last.count == first => last.count += 1,
                        _ => loads.push(Load { rollup, first, count: 1 }),
                    }
                }
                Fate::Damaged => self.report.damaged.push(info.id),
                Fate::Gone => {}
                Fate::Left => self.leave(&[(*place, *info)]),
            }
        }
        if !refs.is_empty() {
            let ids: Vec<PackId> = refs.iter().map(|pack| pack.id).collect();
            self.session.packs_added(rollup, refs)?;
            self.drive.repo.refresh(self.monitor)?;
            self.drive.repo.index.set_flags_apart(&ids, Flags { condemned: Some(false), damaged: Some(false) })?;
            self.heal(ids)?;
        }
        if !loads.is_empty() {
            let commit = self.site.locks.commit(COMMIT_WAIT)?;
            self.site.log.refresh()?;
            self.site.log.append(&commit, Record::DriveLoaded { drive: self.drive.id, loads })?;
            drop(commit);
            self.site.refresh(self.monitor)?;
        }
        Ok(())
    }

    /// What a check found damaged on the drive, and is written anew.
    fn heal(&self, mut packs: Vec<PackId>) -> Result<()> {
        let there = &self.drive.repo;
        let known = there.log.state();
        packs.retain(|id| known.damaged.contains_key(id));
        if packs.is_empty() {
            return Ok(());
        }
        let commit = there.locks.commit(COMMIT_WAIT)?;
        there.log.append(&commit, Record::Healed { packs }).map(drop)
    }

    /// The roll-up as it is, before the packs that it lists: it may list more than are on the drive. False if there is no room.
    fn put_rollup(&self, number: u64) -> Result<bool> {
        let object = Object::Footers(number);
        if self.drive.repo.backend.size(&object)?.is_some() {
            return Ok(true);
        }
        let sealed = self.site.backend.read_all(&object, MAX_ROLLUP)?;
        match self.drive.repo.backend.put(&object, &sealed) {
            Err(e) if e.kind() == Kind::NoSpace => Ok(false),
            other => other.map(|_| true),
        }
    }

    /// How many bytes of packs may still be written, after what became of those that are not counted yet.
    fn room(&self, fates: &[Fate]) -> Result<u64> {
        Ok(self.free()?.min(self.allowed(fates)))
    }

    /// How many there is room for.
    fn free(&self) -> Result<u64> {
        Ok(self.drive.repo.backend.free_space()?.unwrap_or(u64::MAX).saturating_sub(HEADROOM))
    }

    /// How many this call may write still.
    fn allowed(&self, fates: &[Fate]) -> u64 {
        let written = fates.iter().map(|fate| if let Fate::There(bytes) = fate { *bytes } else { 0 }).sum::<u64>();
        self.wanted.max_bytes.map_or(u64::MAX, |most| most.saturating_sub(self.report.bytes + written))
    }

    fn leave(&mut self, some: &[(usize, PackInfo)]) {
        self.report.left += some.len() as u64;
        self.report.left_bytes += some.iter().map(|(_, info)| info.size).sum::<u64>();
    }

    fn stop_if_cancelled(&self) -> Result<()> {
        if self.monitor.cancelled() { Err(interrupted()) } else { Ok(()) }
    }

    fn warn(&self, e: &Error) {
        Counters::add(&self.monitor.counters().errors, 1);
        self.monitor.event(Event::Warning(&format!("not copied: {e}")));
    }
}
