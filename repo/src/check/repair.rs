//! The way out of a damaged log, on the user's word only: what can still be read becomes the truth.
//!
//! What is lost with a record is what it said. So that nothing is lost beyond that, every doubt goes for keeping:
//! a manifest that opens is a live snapshot unless what can be read says it was forgotten; nothing is condemned, no sweep
//! goes on, no session is open; the newest key epoch is the slot's. Packs that are thereby in no record's word are as
//! they were: the roll-ups list them, and `rebuild-index` takes over the rest.

use std::collections::BTreeSet;

use crate::backend::{Area, Object as Stored};
use crate::clock::Time;
use crate::error::{Error, Kind, Result};
use crate::format::manifest::Manifest;
use crate::format::record::{SnapshotState, State, TenantState};
use crate::id::SnapshotId;
use crate::limits::MAX_MANIFEST;
use crate::lock::COMMIT_WAIT;
use crate::monitor::{Event, Monitor};
use crate::open::{Access, Repository};
use crate::session::living_sessions;
use crate::snapshots;

/// What repairing the log did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// What was wrong with it, one line each; empty if it was sound, and nothing was done.
    pub damage: Vec<String>,
    /// Snapshots that the log did not know any more and that are back.
    pub found: Vec<SnapshotId>,
    /// Snapshots that it knew and whose manifests are gone.
    pub dropped: Vec<SnapshotId>,
}

/// Repairs the log of a repository opened with [`Access::Repair`]. All other commands on it must have ended. Open the
/// repository again afterwards: its index is then rebuilt.
///
/// # Errors
/// `Locked` while sessions or a prune are at work; what listing and log give. Nothing has changed then.
pub fn repair_log(repo: &Repository, monitor: &dyn Monitor) -> Result<Repaired> {
    if repo.access != Access::Repair {
        return Err(Error::bug("the log is repaired without having been opened for that"));
    }
    let _prune = repo.locks.prune(COMMIT_WAIT)?;
    let commit = repo.locks.commit(COMMIT_WAIT)?;
    let known = repo.log.state();
    if !living_sessions(&known, &repo.locks, repo.clock.now())?.is_empty() {
        let busy = Error::new(Kind::Locked, "other commands are writing to the repository");
        return Err(busy.remedy("end them, or wait until they have ended"));
    }
    let mut repaired = Repaired { damage: damage(repo)?, ..Repaired::default() };
    if repaired.damage.is_empty() {
        return Ok(repaired);
    }
    let mut state = State::clone(&known);
    state.sessions.clear();
    state.condemned.clear();
    state.sweep = None;
    state.epoch = state.epoch.max(repo.unlocked.keyring.epochs() - 1);
    state.newest_rollup = state.newest_rollup.max(newest_rollup(repo)?);
    repo.log.find_audit(&mut state.audit)?;
    reconcile(repo, &mut state, &mut repaired, monitor)?;
    repo.log.restart(&commit, state)?;
    Ok(repaired)
}

/// What is wrong with the log.
fn damage(repo: &Repository) -> Result<Vec<String>> {
    let (mut found, mut last) = (Vec::new(), None);
    repo.log.history(&mut |entry| {
        match entry {
            Ok(_) => {}
            Err(e) => {
                let e = super::damage(e)?;
                let path = e.path().map(std::path::Path::to_owned);
                // A record that cannot be read is missed by its successor too.
                if last.is_none() || last != path {
                    found.push(e.to_string());
                }
                last = path;
            }
        }
        Ok(())
    })?;
    if found.is_empty() {
        found.extend(repo.log.broken());
    }
    Ok(found)
}

fn newest_rollup(repo: &Repository) -> Result<u64> {
    let mut newest = 0;
    repo.backend.list(Area::Footers, &mut |object, _| {
        if let Stored::Footers(number) = object {
            newest = newest.max(number);
        }
        Ok(())
    })?;
    Ok(newest)
}

/// Makes the state's snapshots those whose manifests are there.
fn reconcile(repo: &Repository, state: &mut State, repaired: &mut Repaired, monitor: &dyn Monitor) -> Result<()> {
    let mut there = BTreeSet::new();
    repo.backend.list(Area::Snapshots, &mut |object, _| {
        if let Stored::Snapshot(id) = object {
            there.insert(id);
        }
        Ok(())
    })?;
    let gone: Vec<SnapshotId> = state.snapshots.keys().filter(|id| !there.contains(id)).copied().collect();
    for id in gone {
        let text = format!("the file of snapshot {id} is not there any more: it was swept, or is lost");
        monitor.event(Event::Warning(&text));
        state.snapshots.remove(&id);
        repaired.dropped.push(id);
    }
    for id in there {
        if state.snapshots.contains_key(&id) {
            continue;
        }
        match read_manifest(repo, &id) {
            Ok(found) => {
                if let Some(origin) = found.origin {
                    know_tenant(state, origin.tenant, repo.clock.now());
                }
                state.snapshots.insert(id, found);
                repaired.found.push(id);
            }
            Err(e) => {
                let e = super::damage(e)?;
                monitor.event(Event::Warning(&format!("a snapshot's file that no record names cannot be read: {e}")));
            }
        }
    }
    Ok(())
}

/// Makes sure that a snapshot's tenant is known, by its number alone if need be: without keys, it has to be invited anew.
fn know_tenant(state: &mut State, number: u32, now: Time) {
    state.pool = true;
    if state.tenants.contains_key(&number) {
        return;
    }
    let mut name = format!("tenant-{number}");
    while state.tenants.values().any(|tenant| tenant.name == name) {
        name.push_str("-again");
    }
    state.certificates.remove(&number);
    state.tenants.insert(number, TenantState::new(&name, false, now));
}

/// A snapshot as its manifest alone tells it: tags and pins given later are lost. When a pool received it nobody knows any
/// more; what it says itself is its tenant's word, so its window begins now.
fn read_manifest(repo: &Repository, id: &SnapshotId) -> Result<SnapshotState> {
    let sealed = repo.backend.read_all(&Stored::Snapshot(*id), MAX_MANIFEST)?;
    let Manifest { host, source, tags, captured, recorded, origin, .. } = snapshots::manifest(repo, id)?;
    Ok(SnapshotState {
        host,
        source,
        captured: Time(captured),
        recorded: Time(recorded),
        received: origin.map_or(Time(recorded), |_| repo.clock.now()),
        tags: tags.into_iter().collect(),
        pinned: false,
        forgotten: None,
        manifest_hash: *blake3::hash(&sealed).as_bytes(),
        origin,
        seq: 0,
    })
}
