//! The changing half of a prune: condemning, sweeping, rewriting.

use crate::backend::Object as Stored;
use crate::clock::SKEW;
use crate::error::{Error, Kind, Result};
use crate::format::record::{Outcome as Ended, Record, SessionState};
use crate::id::{PackId, SnapshotId};
use crate::lock::{CommitGuard, PruneGuard};
use crate::monitor::{Event, Monitor};
use crate::open::Repository;
use crate::prune::mark::Marker;
use crate::prune::plan::{Rewrite, Tolerance};
use crate::prune::repack::{Durable, Repacker};
use crate::prune::{Options, Outcome, Roots, Waiting, oldest_living};
use crate::session::Session;
use crate::sweep::{Needed, Removed, carry_out};

/// The most that is rewritten before the space of the old packs is given back, in bytes …
const ROUND: u64 = 4 << 30;
/// … and the least.
const ROUND_MIN: u64 = 64 << 20;

/// A prune that has marked and planned.
pub(super) struct Run<'a> {
    pub(super) repo: &'a Repository,
    pub(super) options: &'a Options,
    pub(super) guard: &'a PruneGuard,
    pub(super) session: &'a Session,
    pub(super) marks: Marker<'a>,
    pub(super) tolerance: Tolerance,
    pub(super) monitor: &'a dyn Monitor,
    pub(super) outcome: &'a mut Outcome,
    /// Whether new packs are durable that the log does not have.
    pub(super) unrecorded: &'a mut bool,
    /// Roll-ups written by the session.
    pub(super) batches: u64,
}

impl Run<'_> {
    pub(super) fn uncondemn(&mut self, packs: &[PackId]) -> Result<()> {
        if packs.is_empty() {
            return Ok(());
        }
        self.outcome.packs_uncondemned += packs.len() as u64;
        self.session.commit(|_| Record::Uncondemned { packs: packs.to_vec() })?;
        self.repo.refresh(self.monitor).map(drop)
    }

    /// From here on no session that begins relies on these packs.
    pub(super) fn condemn(&mut self, mut packs: Vec<PackId>) -> Result<()> {
        let state = self.repo.log.state();
        packs.retain(|id| !state.condemned.contains_key(id));
        if packs.is_empty() {
            return Ok(());
        }
        self.session.commit(|session| Record::Condemned { session, packs })?;
        self.repo.refresh(self.monitor).map(drop)
    }

    /// Removes the condemned packs that no older session can still come to need, and the snapshots whose hold is over.
    pub(super) fn sweep(&mut self) -> Result<()> {
        // Most of what was committed since is marked before others have to wait.
        while self.mark_new()? {}
        let commit = self.session.begin_commit()?;
        self.end_expired(&commit)?;
        self.mark_new()?;
        let state = self.repo.log.state();
        let (needed, unneeded): (Vec<_>, Vec<_>) =
            state.condemned.iter().partition(|(id, _)| self.marks.of(id).is_some_and(|bits| bits.count > 0));
        if !needed.is_empty() {
            self.outcome.packs_uncondemned += needed.len() as u64;
            let packs = needed.into_iter().map(|(id, _)| *id).collect();
            self.repo.log.append(&commit, Record::Uncondemned { packs })?;
        }
        let newest = unneeded.iter().map(|(_, seq)| **seq).max().unwrap_or(0);
        let living = oldest_living(self.repo, &state, Some(self.session.id()), newest)?;
        let limit = living.as_ref().map_or(u64::MAX, |(begun, _)| *begun);
        let (ready, waiting): (Vec<_>, Vec<_>) = unneeded.into_iter().partition(|(_, seq)| **seq < limit);
        self.note_waiting(living.map(|(_, waiting)| waiting), waiting.iter().map(|(id, _)| *id))?;
        let now = self.repo.clock.now();
        let snapshots: Vec<SnapshotId> = Roots::new(&state, self.options, now).doomed();
        let packs: Vec<PackId> = ready.into_iter().map(|(id, _)| *id).collect();
        if !packs.is_empty() || !snapshots.is_empty() {
            let session = self.session.id();
            self.repo.log.append(&commit, Record::SweepIntent { session, packs, snapshots })?;
        }
        drop(commit);
        let removed = self.carry_out()?;
        self.outcome.packs_deleted += removed.packs;
        self.outcome.bytes_deleted += removed.bytes;
        self.outcome.packs_uncondemned += removed.kept;
        self.outcome.snapshots_removed.extend(removed.snapshots);
        Ok(())
    }

    /// Removes what is intended; by marks that go by the index as it is then.
    fn carry_out(&mut self) -> Result<Removed> {
        loop {
            self.repo.refresh(self.monitor)?;
            self.marks.follow_index()?;
            match carry_out(self.repo, self.guard, Some(&self.marks), self.monitor) {
                Err(e) if e.kind() == Kind::Locked && self.marks.generation() != self.repo.index.generation() => {}
                done => return done,
            }
        }
    }

    /// Ends sessions that live on past their expiry: not by this clock alone, which may be ahead of theirs, but by a
    /// record after which they cannot commit.
    fn end_expired(&self, commit: &CommitGuard) -> Result<()> {
        let now = self.repo.clock.now();
        for (id, session) in &self.repo.log.state().sessions {
            if *id == self.session.id() || now < session.expires.plus(SKEW) {
                continue;
            }
            // A dead one is left to adoption.
            if self.repo.locks.session_alive(session.number)? {
                self.repo.log.append(commit, Record::SessionEnd { session: *id, outcome: Ended::Failed })?;
                let SessionState { purpose, host, pid, .. } = session;
                let text = format!("session '{purpose}' on {host} (process {pid}) expired, it cannot commit any more");
                self.monitor.event(Event::Notice(&text));
            }
        }
        Ok(())
    }

    fn note_waiting<'b>(&mut self, living: Option<Waiting>, packs: impl Iterator<Item = &'b PackId>) -> Result<()> {
        (self.outcome.packs_waiting, self.outcome.bytes_waiting) = (0, 0);
        for id in packs {
            self.outcome.packs_waiting += 1;
            self.outcome.bytes_waiting += match self.repo.index.pack_by_id(id)? {
                Some(info) => info.size,
                // The log never had it.
                None => self.repo.backend.size(&Stored::Pack(*id))?.unwrap_or(0),
            };
        }
        self.outcome.waiting = living.filter(|_| self.outcome.packs_waiting > 0);
        Ok(())
    }

    /// Marks the roots that came since; whether there were any.
    fn mark_new(&mut self) -> Result<bool> {
        let state = self.repo.refresh(self.monitor)?;
        self.marks.follow_index()?;
        let now = self.repo.clock.now();
        let mut any = false;
        for (_, id) in Roots::new(&state, self.options, now).all() {
            if !self.marks.knows(&id) {
                self.marks.snapshot(&id)?;
                any = true;
            }
        }
        Ok(any)
    }

    /// Rewrites packs in rounds, so that the space of the old ones comes back in between. Ends early when an older
    /// session keeps that from happening.
    pub(super) fn rewrite(&mut self, mut packs: Vec<Rewrite>) -> Result<()> {
        if packs.is_empty() {
            return Ok(());
        }
        self.monitor.event(Event::Phase("rewrite"));
        packs.reverse();
        while self.outcome.waiting.is_none() && !packs.is_empty() {
            let free = self.repo.backend.free_space()?.unwrap_or(u64::MAX);
            let budget = (free / 2).clamp(ROUND_MIN, ROUND);
            let mut round = Vec::new();
            let mut bytes = 0;
            while let Some(next) = packs.pop_if(|p| round.is_empty() || bytes + p.info.size <= budget) {
                bytes += next.info.size;
                round.push(next);
            }
            self.round(&round)?;
        }
        self.outcome.bytes_unused += packs.iter().map(|p| p.gain).sum::<u64>();
        Ok(())
    }

    fn round(&mut self, packs: &[Rewrite]) -> Result<()> {
        let (durable, old) = self.copy(packs)?;
        *self.unrecorded = !durable.is_empty();
        self.condemn(old.iter().map(|r| r.info.id).collect())?;
        for Durable { rollup, packs } in durable {
            self.session.packs_added(rollup, packs)?;
        }
        *self.unrecorded = false;
        self.repo.refresh(self.monitor)?;
        for rewrite in &old {
            if self.marks.transfer(&rewrite.info)? {
                self.outcome.packs_rewritten += 1;
            }
        }
        self.sweep()
    }

    /// Writes what is needed of these packs to new ones. Damaged packs stay and are told of.
    fn copy(&mut self, packs: &[Rewrite]) -> Result<(Vec<Durable>, Vec<Rewrite>)> {
        let mut repacker = Repacker::new(self.repo, self.session, self.batches)?;
        let old = match self.copy_into(&mut repacker, packs).and_then(|old| repacker.close().map(|()| old)) {
            Ok(old) => old,
            Err(e) => {
                *self.unrecorded = !repacker.abandon();
                return Err(e);
            }
        };
        let durable;
        (durable, self.batches) = repacker.into_durable();
        self.outcome.bytes_written += durable.iter().flat_map(|d| &d.packs).map(|p| p.size).sum::<u64>();
        Ok((durable, old))
    }

    fn copy_into(&mut self, repacker: &mut Repacker<'_>, packs: &[Rewrite]) -> Result<Vec<Rewrite>> {
        let mut old = Vec::new();
        for rewrite in packs {
            if self.monitor.cancelled() {
                return Err(Error::new(Kind::Interrupted, "stopped; the next prune goes on"));
            }
            let Some(bits) = self.marks.of(&rewrite.info.id) else { continue };
            match repacker.pack(&rewrite.info, bits, self.tolerance) {
                Ok(()) => old.push(*rewrite),
                Err(e) if e.kind() == Kind::Damaged => {
                    self.outcome.packs_damaged += 1;
                    self.monitor.event(Event::Warning(&format!("a damaged pack was left as it is: {e}")));
                }
                Err(e) => return Err(e),
            }
        }
        Ok(old)
    }
}
