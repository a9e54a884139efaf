//! Transfer drives, and who has them: what the log says of each. `docs/format.md` (Transfer drives) is normative.

use super::{option, text, time, write_option};
use crate::clock::Time;
use crate::error::{Error, Result};
use crate::format::wire::{Reader, Writer};
use crate::id::{RepoId, SnapshotId};

/// The most steps of one drive's way that are remembered: the first ones and the last.
pub const MAX_STEPS: usize = 64;

/// Where a drive is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Custody {
    /// Made, and nothing is on it.
    Made,
    /// Written to: what it carries is on its way.
    Exported,
    /// Handed to whoever carries it.
    Shipped,
    /// Come to the other side.
    Received,
    /// Everything on it proved to be what it is called.
    Verified,
    /// What it carried is at the other side, durably.
    Committed,
    /// Given up: what it carried is not on its way any more.
    Lost,
    /// Its key slots are destroyed.
    Retired,
}

impl Custody {
    /// Each, in order.
    pub const ALL: [Custody; 8] = [
        Custody::Made,
        Custody::Exported,
        Custody::Shipped,
        Custody::Received,
        Custody::Verified,
        Custody::Committed,
        Custody::Lost,
        Custody::Retired,
    ];

    /// A word for people.
    pub fn name(self) -> &'static str {
        match self {
            Custody::Made => "made",
            Custody::Exported => "exported",
            Custody::Shipped => "shipped",
            Custody::Received => "received",
            Custody::Verified => "verified",
            Custody::Committed => "committed",
            Custody::Lost => "lost",
            Custody::Retired => "retired",
        }
    }

    /// Whether what the drive carries need not travel otherwise.
    pub fn is_under_way(self) -> bool {
        matches!(self, Custody::Exported | Custody::Shipped | Custody::Received | Custody::Verified)
    }

    fn read(r: &mut Reader<'_>) -> Result<Custody> {
        let number = usize::from(r.u8()?);
        let known = Custody::ALL.get(number).copied();
        known.ok_or_else(|| Error::damaged("a stored drive is in no known state"))
    }
}

/// One step of a drive's way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What it became.
    pub custody: Custody,
    /// When.
    pub at: Time,
    /// Who said so: a user and a machine.
    pub by: String,
}

/// Packs of one roll-up that are on a drive: a run of those that it lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// The roll-up's number.
    pub rollup: u64,
    /// The first of them, from 0.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// What is known of a drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriveState {
    /// What people call it.
    pub label: String,
    /// Who it is for: a remote's name at a site, a tenant's at a pool; empty before anything is on it.
    pub party: String,
    /// Of whose repository it holds a part.
    pub repository: RepoId,
    /// It goes from a pool to a site.
    pub back: bool,
    /// Its way, oldest first. Never empty.
    pub steps: Vec<Step>,
    /// Packs on it.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// BLAKE3 of the names of its packs in ascending order: what a receipt is for.
    pub digest: [u8; 32],
    /// The snapshots that it was to carry, though part of what they reach may be elsewhere.
    pub snapshots: u64,
    /// The newest of them.
    pub newest: Option<SnapshotId>,
    /// The packs on it, by the roll-ups of this repository. Only said by records of their own.
    pub loads: Vec<Load>,
}

impl DriveState {
    /// Where it is.
    pub fn custody(&self) -> Custody {
        self.steps.last().map_or(Custody::Made, |step| step.custody)
    }

    /// Where what it carries is: as the drive, but that destroying its slots takes nothing back of what came here before.
    pub fn standing(&self) -> Custody {
        let before = self.steps.iter().rev().map(|step| step.custody).find(|custody| *custody != Custody::Retired);
        match (self.custody(), before) {
            (Custody::Retired, Some(came @ (Custody::Received | Custody::Verified | Custody::Committed))) => came,
            (custody, _) => custody,
        }
    }

    /// Whether it still matters which packs are on it: while they are on their way, and, where they were sent from, until a
    /// push goes on from behind them.
    pub fn is_asked_for(&self) -> bool {
        let came_in = || self.steps.iter().any(|step| matches!(step.custody, Custody::Received | Custody::Verified));
        let standing = self.standing();
        standing.is_under_way() || (standing == Custody::Committed && !self.back && !came_in())
    }

    /// Whether it goes from the repository of this id to the remote of this name.
    pub fn is_sent(&self, (from, name): (RepoId, &str)) -> bool {
        !self.back && self.repository == from && self.party == name
    }

    /// When it came to be there.
    pub fn since(&self) -> Option<Time> {
        self.steps.last().map(|step| step.at)
    }

    /// Adds to what it carries; what follows on the last is one with it.
    pub fn load(&mut self, load: Load) {
        match self.loads.last_mut() {
            Some(last) if last.rollup == load.rollup && last.first.checked_add(last.count) == Some(load.first) => {
                last.count = last.count.saturating_add(load.count);
            }
            _ => self.loads.push(load),
        }
    }

    /// Goes a step further.
    pub fn step(&mut self, custody: Custody, at: Time, by: &str) {
        if self.steps.len() >= MAX_STEPS {
            self.steps.remove(MAX_STEPS / 2);
        }
        self.steps.push(Step { custody, at, by: by.to_owned() });
    }

    /// All but the loads.
    pub(super) fn write(&self, w: &mut Writer) {
        w.lp_str(&self.label);
        w.lp_str(&self.party);
        w.bytes(self.repository.as_bytes());
        w.bool(self.back);
        w.varint(self.steps.len() as u64);
        for step in &self.steps {
            w.u8(step.custody as u8);
            w.i64(step.at.0);
            w.lp_str(&step.by);
        }
        w.varint(self.packs);
        w.varint(self.bytes);
        w.bytes(&self.digest);
        w.varint(self.snapshots);
        write_option(w, self.newest.as_ref().map(SnapshotId::as_bytes));
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<DriveState> {
        let (label, party, repository, back) = (text(r)?, text(r)?, RepoId(r.array()?), r.bool()?);
        let n = r.count(MAX_STEPS, 10)?;
        let step = |r: &mut Reader<'_>| Ok(Step { custody: Custody::read(r)?, at: time(r)?, by: text(r)? });
        let steps = (0..n).map(|_| step(r)).collect::<Result<Vec<_>>>()?;
        if steps.is_empty() {
            return Err(Error::damaged("a stored drive has gone no step"));
        }
        Ok(DriveState {
            label,
            party,
            repository,
            back,
            steps,
            packs: r.varint()?,
            bytes: r.varint()?,
            digest: r.array()?,
            snapshots: r.varint()?,
            newest: option(r)?.map(SnapshotId),
            loads: Vec::new(),
        })
    }
}

impl Load {
    pub(super) fn write_all(w: &mut Writer, loads: &[Load]) {
        w.varint(loads.len() as u64);
        for load in loads {
            w.varint(load.rollup);
            w.varint(load.first.into());
            w.varint(load.count.into());
        }
    }

    pub(super) fn read_all(r: &mut Reader<'_>) -> Result<Vec<Load>> {
        let n = r.count(usize::MAX, 3)?;
        (0..n).map(|_| Ok(Load { rollup: r.varint()?, first: r.varint_u32()?, count: r.varint_u32()? })).collect()
    }
}
