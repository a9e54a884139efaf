//! Config, key slots, log and roll-ups.

use crate::backend::{Area, Object as Stored};
use crate::check::{Check, damage};
use crate::error::{Error, Kind, Result};
use crate::follow::read_rollup;
use crate::format::config::Config;
use crate::format::footer::RollupEntry;
use crate::id::PackId;
use crate::keyslots;
use crate::limits::MAX_SMALL_OBJECT;
use crate::pack::many::{Emit, in_parallel};
use crate::rebuild::twice;

impl Check<'_> {
    pub(super) fn objects(&mut self) -> Result<()> {
        if let Some(error) = &self.repo.rolled_back {
            self.object(error);
        }
        self.config()?;
        self.key_slots()?;
        self.log()?;
        self.audit()?;
        self.new_rollups()
    }

    fn config(&mut self) -> Result<()> {
        let (backend, keys) = (&self.repo.backend, &self.repo.keys);
        for object in [Stored::Config, Stored::ConfigCopy] {
            let read = twice(|| backend.read_all(&object, MAX_SMALL_OBJECT));
            let config = read.and_then(|bytes| Config::decode(&bytes)?.verify(keys));
            match config {
                // One made before there was a copy, which has not been written to since.
                Err(e) if e.kind() == Kind::NotFound && object == Stored::ConfigCopy => {}
                Err(e) => {
                    let remedy = "any command that writes makes it anew from the other one of config and config.copy";
                    let e = damage(e)?.at(backend.path(&object)).remedy(remedy);
                    self.object(&e);
                }
                Ok(_) => {}
            }
        }
        Ok(())
    }

    fn key_slots(&mut self) -> Result<()> {
        for slot in keyslots::list(self.repo.backend.as_ref(), &self.repo.config.repo_id)? {
            if let Err(e) = slot.slot {
                let remedy = format!("remove it with `packmule key remove {}` and add another", slot.id);
                let e = damage(e)?.remedy(remedy);
                self.object(&e);
            }
        }
        Ok(())
    }

    fn audit(&mut self) -> Result<()> {
        let mut found = Vec::new();
        self.repo.log.audit(&mut |entry| {
            if let Err(e) = entry {
                let remedy = "take that file from a copy of the repository; without it, what it says is lost";
                found.push(damage(e)?.remedy(remedy));
            }
            Ok(())
        })?;
        found.iter().for_each(|e| self.object(e));
        Ok(())
    }

    fn log(&mut self) -> Result<()> {
        let mut found: Vec<Error> = Vec::new();
        self.repo.log.history(&mut |entry| {
            if let Err(e) = entry {
                let e = damage(e)?;
                // A record that cannot be read is missed by its successor too: once is enough.
                if found.last().is_none_or(|last| last.path() != e.path()) {
                    found.push(e);
                }
            }
            Ok(())
        })?;
        // What is gone from its beginning shows only to who needs it.
        if let (true, Some(why)) = (found.is_empty(), self.repo.log.broken()) {
            found.push(Error::damaged(format!("the log is damaged: {why}")));
        }
        let remedy = "run `packmule check --repair-log` when all other commands have ended";
        let found: Vec<Error> = found.into_iter().map(|e| e.remedy(remedy)).collect();
        found.iter().for_each(|e| self.object(e));
        Ok(())
    }

    /// Reads those roll-ups that were not read yet.
    pub(super) fn new_rollups(&mut self) -> Result<()> {
        let mut numbers = Vec::new();
        self.repo.backend.list(Area::Footers, &mut |object, _| {
            if let Stored::Footers(number) = object
                && !self.rollups.contains(&number)
            {
                numbers.push(number);
            }
            Ok(())
        })?;
        self.read_rollups(numbers)
    }

    /// Reads roll-ups and marks the packs they list.
    fn read_rollups(&mut self, numbers: Vec<u64>) -> Result<()> {
        self.rollups.extend(&numbers);
        let (backend, keys) = (self.repo.backend.as_ref(), self.repo.keys.as_ref());
        let read = |number: u64, emit: Emit<'_, (u64, Result<RollupEntry>)>| match twice(|| {
            read_rollup(backend, keys, number)
        }) {
            Ok(entries) => _ = entries.into_iter().all(|entry| emit((number, Ok(entry)))),
            Err(e) => _ = emit((number, Err(e))),
        };
        let monitor = self.monitor;
        in_parallel(numbers.into_iter(), monitor, read, |(number, entry)| match entry {
            Ok(entry) => self.rollup_entry(number, &entry),
            // Others remove roll-ups whose packs are all gone.
            Err(e) if e.kind() == Kind::NotFound => Ok(()),
            Err(e) => {
                let e = damage(e)?.remedy("run `packmule rebuild-index`, which replaces it");
                self.object(&e);
                Ok(())
            }
        })
    }

    /// Compares what a roll-up says of a pack with what the index says, which the pack itself is compared with.
    fn rollup_entry(&mut self, number: u64, entry: &RollupEntry) -> Result<()> {
        if self.listed.size(&entry.id).is_none() {
            return Ok(());
        }
        self.listed.mark(&entry.id);
        let path = self.repo.backend.path(&Stored::Footers(number));
        let Some(info) = self.repo.index.pack_by_id(&entry.id)? else {
            if self.lacks(number, &entry.id)? {
                let text = format!("the index lacks pack {}, of which a record stands in", entry.id);
                self.object(&Error::damaged(text).at(path).remedy("run `packmule rebuild-index`"));
            }
            return Ok(());
        };
        let known = self.repo.index.footer(info.no)?;
        if known.is_some_and(|known| known != entry.sealed_footer) || info.size != entry.size {
            let text = format!(
                "the index and the spare copy of the packs' tables of contents differ about pack {}:",
                entry.id
            );
            self.object(&Error::damaged(text).at(path).remedy("run `packmule rebuild-index`"));
        }
        Ok(())
    }

    /// Whether the index should have a pack that a roll-up lists and does not. Its session writes the roll-up before the
    /// record, and the index comes last: so only once the session has ended, by a log that was read after the roll-up,
    /// and when the index has followed that. What was swept meanwhile is gone from both.
    fn lacks(&self, rollup: u64, pack: &PackId) -> Result<bool> {
        let state = self.bring_up()?;
        // A session's number stands in its roll-ups' names.
        let working = state.sessions.values().any(|session| u64::from(session.number) == rollup >> 32);
        let behind = !self.repo.index.writable() && self.repo.index.position()? != Some(state.position);
        Ok(!working
            && !behind
            && self.repo.index.pack_by_id(pack)?.is_none()
            && self.repo.backend.size(&Stored::Pack(*pack))?.is_some())
    }
}
