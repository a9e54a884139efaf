//! What a check found, named and recorded.

use std::collections::BTreeSet;

use crate::backend::{Area, Object as Stored};
use crate::check::{Check, Finding, Frames, Outcome, ReadData, pack_path};
use crate::error::{Error, Kind, Result};
use crate::follow::read_rollup;
use crate::format::footer::RollupEntry;
use crate::format::record::Record;
use crate::id::{ChunkId, PackId};
use crate::lock::COMMIT_WAIT;
use crate::monitor::Event;
use crate::open::Access;
use crate::pack::read::open_footer;

impl Check<'_> {
    /// Names the packs that missing chunks were in: those that a roll-up lists and that are neither there nor indexed.
    pub(super) fn lost_packs(&mut self, missing: &BTreeSet<ChunkId>) -> Result<()> {
        if missing.is_empty() {
            return Ok(());
        }
        let repo = self.repo;
        let mut numbers = Vec::new();
        repo.backend.list(Area::Footers, &mut |object, _| {
            if let Stored::Footers(number) = object {
                numbers.push(number);
            }
            Ok(())
        })?;
        for number in numbers {
            self.stopped()?;
            // One that cannot be read was told of before.
            let Ok(entries) = read_rollup(repo.backend.as_ref(), &repo.keys, number) else { continue };
            for entry in entries {
                let lost = self.listed.size(&entry.id).is_none() && !self.bad.contains_key(&entry.id);
                if lost && self.holds(&entry, missing) {
                    let error = Error::damaged("a pack is missing:").at(pack_path(repo, &entry.id));
                    self.bad_pack(entry.id, Frames::All, error);
                    self.needed.insert(entry.id);
                }
            }
        }
        Ok(())
    }

    fn holds(&self, entry: &RollupEntry, missing: &BTreeSet<ChunkId>) -> bool {
        let keys = &self.repo.keys;
        open_footer(keys, &entry.sealed_footer, entry.size)
            .is_ok_and(|footer| footer.chunks.iter().any(|chunk| missing.contains(&keys.chunk_id(&chunk.h))))
    }

    /// Tells what is healed, counts, and puts the result into the log if that can be written.
    pub(super) fn conclude(mut self) -> Result<Outcome> {
        for id in std::mem::take(&mut self.whole) {
            self.outcome.healed += 1;
            (self.report)(&Finding::Whole(id));
            self.whole.push(id);
        }
        let mut gone = Vec::new();
        for id in self.bad.keys() {
            match self.known_bad.get(id) {
                // What this tenant does not need, another may.
                Some(_) if !self.needed.contains(id) && self.only.is_some() => continue,
                Some(_) if !self.needed.contains(id) => {
                    self.outcome.healed += 1;
                    (self.report)(&Finding::Unneeded(*id));
                    continue;
                }
                Some(error) => (self.report)(&Finding::Pack { id: *id, error }),
                None => {}
            }
            self.outcome.damaged_packs += 1;
            self.outcome.problems += 1;
        }
        // Known as damaged, in no listing, in no index: nothing was left of it but the record.
        for id in self.state.damaged.keys() {
            if self.only.is_none() && self.listed.size(id).is_none() && !self.needed.contains(id) {
                gone.push(*id);
            }
        }
        if self.repo.access == Access::Write {
            match self.record(&gone) {
                // A check of a full disk is still a check, and so is one where only the attempt tells that nothing can
                // be written.
                Err(e) if matches!(e.kind(), Kind::NoSpace | Kind::ReadOnly) => {
                    self.monitor.event(Event::Warning(&format!("the result of the check is not recorded: {e}")));
                }
                done => {
                    done?;
                    self.outcome.recorded = true;
                }
            }
        }
        Ok(self.outcome)
    }

    fn record(&mut self, gone: &[PackId]) -> Result<()> {
        let repo = self.repo;
        let commit = repo.locks.commit(COMMIT_WAIT)?;
        repo.log.refresh()?;
        let now = repo.log.state();
        let at = repo.log.clock().now();
        let new: Vec<PackId> = self.bad.keys().filter(|id| !now.damaged.contains_key(id)).copied().collect();
        if !new.is_empty() {
            repo.log.append(&commit, Record::Damage { packs: new, at })?;
        }
        let whole: Vec<PackId> = self.whole.iter().filter(|id| now.damaged.contains_key(id)).copied().collect();
        if !whole.is_empty() {
            repo.log.append(&commit, Record::Healed { packs: whole })?;
        }
        // Only what this check saw counts: a session at work, or a snapshot that came meanwhile, may rely on more.
        if !gone.is_empty() && now.sessions.is_empty() && now.snapshots.keys().eq(self.state.snapshots.keys()) {
            repo.log.append(&commit, Record::Swept { packs: gone.to_vec(), snapshots: Vec::new() })?;
        }
        let data = self.read != ReadData::None;
        // What was found meanwhile is not judged here.
        let judged = |id: &PackId| self.state.damaged.contains_key(id) || self.bad.contains_key(id);
        let ok = self.outcome.problems == 0 && now.damaged.keys().all(judged);
        if self.only.is_none() {
            repo.log.append(&commit, Record::CheckDone { at, data, ok, subset: self.read.subset() })?;
        }
        drop(commit);
        // The index learns which packs satisfy no deduplication any more.
        repo.refresh(self.monitor).map(drop)
    }
}
