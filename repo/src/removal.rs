//! Removing a tenant: refused at once, gone when its hold and its window are over, and certified when nothing is left of it.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::clock::Time;
use crate::error::{Error, Kind, Result};
use crate::forget::require_clock;
use crate::format::record::{Certificate, Custody, DriveState, Record, Removal, SnapshotState, State, TenantState};
use crate::id::SnapshotId;
use crate::lock::COMMIT_WAIT;
use crate::monitor::Monitor;
use crate::open::Repository;
use crate::policy::{self, Ends};
use crate::prune::{self, MaxUnused, Outcome};
use crate::receive::{Sender, derive_owned};
use crate::session::who;
use crate::snapshots;
use crate::stats::{Marks, Sum};
use crate::tenants;
use crate::tree::closure;

/// What a removal deleted, and what stays because others have it too: for the operator alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// The tenant's number.
    pub tenant: u32,
    /// The record that says so.
    pub seq: u64,
    /// What it says.
    pub certificate: Certificate,
    /// Bytes, before compression, that were the tenant's alone: they are gone.
    pub alone: u64,
    /// Bytes that others have too: they stay, as theirs.
    pub shared: u64,
}

fn own(state: &State, number: u32) -> impl Iterator<Item = (&SnapshotId, &SnapshotState)> {
    state.snapshots.iter().filter(move |(_, s)| s.origin.is_some_and(|origin| origin.tenant == number))
}

/// Orders the removal of a tenant, or finds it ordered: from now on its keys are refused, and all its snapshots forgotten.
///
/// # Errors
/// `NotFound`; `Clock` for one that cannot be trusted with this, unless the user vouches for it; what log and index give.
pub fn order(repo: &Repository, number: u32, accept_clock: bool, monitor: &dyn Monitor) -> Result<Removal> {
    let state = repo.refresh(monitor)?;
    let bytes = owned_bytes(repo, number, known(&state, number)?, monitor)?;
    let commit = repo.locks.commit(COMMIT_WAIT)?;
    repo.log.refresh()?;
    // By a clock that is behind, the hold would be over before it began.
    require_clock(repo, accept_clock, Some(&commit))?;
    let (state, at) = (repo.log.state(), repo.clock.now());
    let mut tenant = known(&state, number)?.clone();
    let removal = tenant.removed.unwrap_or(Removal { at, snapshots: own(&state, number).count() as u64, bytes });
    if tenant.removed.is_none() {
        tenant.removed = Some(removal);
        tenant.invites.clear();
        repo.log.append(&commit, Record::TenantSet { tenant: number, state: Box::new(tenant) })?;
    }
    let ids = |which: &dyn Fn(&SnapshotState) -> bool| -> Vec<SnapshotId> {
        own(&state, number).filter(|(_, s)| which(s)).map(|(id, _)| *id).collect()
    };
    let (pinned, live) = (ids(&|s| s.pinned), ids(&|s| s.forgotten.is_none()));
    if !pinned.is_empty() {
        repo.log.append(&commit, Record::Unpinned { snapshots: pinned })?;
    }
    if !live.is_empty() {
        repo.log.append(&commit, Record::Forgotten { snapshots: live, at: removal.at })?;
    }
    Ok(removal)
}

/// Takes the order back, and the snapshots that were forgotten with it. Returns how many.
///
/// # Errors
/// `NotFound`; what the log gives.
pub fn take_back(repo: &Repository, number: u32) -> Result<u64> {
    let commit = repo.locks.commit(COMMIT_WAIT)?;
    repo.log.refresh()?;
    let state = repo.log.state();
    let mut tenant = known(&state, number)?.clone();
    let Some(removal) = tenant.removed.take() else { return Ok(0) };
    repo.log.append(&commit, Record::TenantSet { tenant: number, state: Box::new(tenant) })?;
    let swept = |id: &SnapshotId| state.sweep.as_ref().is_some_and(|sweep| sweep.snapshots.contains(id));
    let back: Vec<SnapshotId> = own(&state, number)
        .filter(|(id, s)| s.forgotten == Some(removal.at) && !swept(id))
        .map(|(id, _)| *id)
        .collect();
    let count = back.len() as u64;
    if count > 0 {
        repo.log.append(&commit, Record::Unforgotten { snapshots: back })?;
    }
    Ok(count)
}

/// When a removal that was ordered can be carried out: when nothing of it is held any more or within its window. With
/// `release_held` the hold does not count. None: it was not ordered, or the tenant has a snapshot that is not forgotten.
pub fn due(state: &State, number: u32, now: Time, release_held: bool) -> Option<Time> {
    let tenant = state.tenants.get(&number)?;
    let removal = tenant.removed?;
    let ends = Ends::new(state, now, None);
    let mut due = removal.at;
    for (id, s) in own(state, number) {
        let at = s.forgotten?;
        due = due.max(if release_held { ends.window(id, s) } else { ends.held(id, s, at) });
    }
    // What a sealed tenant delivered, and when, is in no record: none of it came after the order.
    if tenant.sealed && tenant.repository.is_some() {
        due = due.max(policy::window_ends(state, Some(number), removal.at));
    }
    let holds = tenant.repository.is_some() && !release_held;
    Some(if holds { due.max(removal.at.plus(policy::hold(state, Some(number)))) } else { due })
}

/// The tenants whose removal such a prune can carry out.
fn all_due(state: &State, now: Time, options: &prune::Options) -> Vec<u32> {
    let release = |number| options.release_held || options.release_tenant == Some(number);
    let due = |number: &u32| due(state, *number, now, release(*number)).is_some_and(|due| due <= now);
    state.tenants.keys().copied().filter(due).collect()
}

/// Prunes; and carries out the removals that are due, for which all that nothing needs must go. Those whose data had to
/// stay, since other work goes on or packs are damaged, are left to the next time.
///
/// # Errors
/// As [`prune::prune`].
pub fn prune(repo: &Repository, options: &prune::Options, monitor: &dyn Monitor) -> Result<(Outcome, Vec<Removed>)> {
    let state = repo.refresh(monitor)?;
    let due = all_due(&state, repo.clock.now(), options);
    if due.is_empty() || options.dry_run {
        return Ok((prune::prune(repo, options, monitor)?, Vec::new()));
    }
    due.iter().try_for_each(|number| give_up_drives(repo, &state, *number))?;
    let figures: Vec<(u64, u64)> =
        due.iter().map(|number| figures(repo, &state, *number, monitor)).collect::<Result<_>>()?;
    let thorough = prune::Options { max_unused: MaxUnused::Bytes(0), ..options.clone() };
    let outcome = prune::prune(repo, &thorough, monitor)?;
    let mut removed = Vec::new();
    if outcome.waiting.is_none() && outcome.packs_damaged == 0 && outcome.bytes_unused == 0 {
        for (number, (alone, shared)) in due.into_iter().zip(figures) {
            removed.extend(certify(repo, number, alone, shared)?);
        }
    }
    Ok((outcome, removed))
}

/// Nothing stays here for the sake of what a tenant's drives have brought, or were to bring. Those that went to it are told of
/// still: they are out there.
fn give_up_drives(repo: &Repository, state: &State, number: u32) -> Result<()> {
    let Some(tenant) = state.tenants.get(&number).filter(|tenant| tenant.repository.is_some()) else { return Ok(()) };
    let own = |drive: &DriveState| tenant.repository.is_some_and(|own| drive.is_sent((own, &tenant.name)));
    let waited_for = |drive: &DriveState| own(drive) && drive.standing() < Custody::Committed;
    if !state.drives.values().any(waited_for) {
        return Ok(());
    }
    let commit = repo.locks.commit(COMMIT_WAIT)?;
    repo.log.refresh()?;
    for (drive, known) in repo.log.state().drives.iter().filter(|(_, drive)| waited_for(drive)) {
        let mut state = DriveState { loads: Vec::new(), ..known.clone() };
        state.step(Custody::Lost, repo.clock.now(), &who());
        repo.log.append(&commit, Record::DriveSet { drive: *drive, state: Box::new(state) })?;
    }
    Ok(())
}

/// What a tenant's snapshots reach, forgotten ones included until they are swept: for the operator alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// What no other tenant's snapshots reach.
    pub alone: Sum,
    /// What others' reach, too.
    pub shared: Sum,
}

fn figures(repo: &Repository, state: &State, number: u32, monitor: &dyn Monitor) -> Result<(u64, u64)> {
    let Sizes { alone, shared } = sizes(repo, state, number, monitor)?;
    Ok((alone.raw, shared.raw))
}

/// Goes through all snapshots to tell what is a tenant's alone. What cannot be read counts for neither.
///
/// # Errors
/// `Interrupted`; what the index and the packs give.
pub fn sizes(repo: &Repository, state: &State, number: u32, monitor: &dyn Monitor) -> Result<Sizes> {
    let store = repo.packs();
    let (mut others, mut mine) = (Marks::default(), Marks::default());
    let owned: BTreeSet<&SnapshotId> = own(state, number).map(|(id, _)| id).collect();
    let mark = |id: &SnapshotId, marks: &mut Marks| {
        let walked = snapshots::manifest(repo, id)
            .and_then(|m| closure::walk(store.as_ref(), &m, monitor, &mut |h, _| marks.chunk(&store, h)));
        match walked {
            Err(e) if matches!(e.kind(), Kind::Damaged | Kind::NotFound) => Ok(()),
            other => other,
        }
    };
    state.snapshots.keys().filter(|id| !owned.contains(id)).try_for_each(|id| mark(id, &mut others))?;
    owned.iter().try_for_each(|id| mark(id, &mut mine))?;
    let (before, own) = (others.sum(&store, monitor)?, mine.sum(&store, monitor)?);
    others.merge(&mine);
    let alone = others.sum(&store, monitor)?.less(&before);
    Ok(Sizes { alone, shared: own.less(&alone) })
}

/// Where a pool keeps what a sealed tenant delivered, and what waits to be worked on; none for a repository in no directory.
fn kept(repo: &Repository, number: u32) -> Option<PathBuf> {
    Some(repo.root.as_ref()?.join("tenants").join(number.to_string()))
}

/// Bytes of all files below `dir`, which may be absent.
fn bytes_below(dir: &Path) -> Result<u64> {
    let failed = |e| Error::io("look through", dir, e);
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(0),
        other => other.map_err(failed)?,
    };
    entries
        .map(|entry| {
            let entry = entry.map_err(failed)?;
            let meta = entry.metadata().map_err(failed)?;
            if meta.is_dir() { bytes_below(&entry.path()) } else { Ok(meta.len()) }
        })
        .sum()
}

/// Deletes what a pool keeps of a tenant beside its packs, durably.
fn delete_kept(repo: &Repository, number: u32) -> Result<()> {
    let Some(dir) = kept(repo, number) else { return Ok(()) };
    match fs::remove_dir_all(&dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        other => other.map_err(|e| Error::io("delete", &dir, e))?,
    }
    let above = dir.parent().unwrap_or(&dir);
    fs::File::open(above).and_then(|dir| dir.sync_all()).map_err(|e| Error::io("sync", above, e))
}

/// Records that nothing is left, if nothing is.
fn certify(repo: &Repository, number: u32, alone: u64, shared: u64) -> Result<Option<Removed>> {
    let commit = repo.locks.commit(COMMIT_WAIT)?;
    repo.log.refresh()?;
    let state = repo.log.state();
    let Some((tenant, removal)) = state.tenants.get(&number).and_then(|t| Some((t, t.removed?))) else {
        return Ok(None);
    };
    if own(&state, number).next().is_some() {
        return Ok(None);
    }
    // What is certified is so.
    delete_kept(repo, number)?;
    let certificate =
        Certificate { name: tenant.name.clone(), repository: tenant.repository, removal, completed: repo.clock.now() };
    let record = Record::TenantRemoved { tenant: number, certificate: Box::new(certificate.clone()) };
    let seq = repo.log.append(&commit, record)?.seq;
    drop(commit);
    repo.index.disown(number)?;
    Ok(Some(Removed { tenant: number, seq, certificate, alone, shared }))
}

fn owned_bytes(repo: &Repository, number: u32, tenant: &TenantState, monitor: &dyn Monitor) -> Result<u64> {
    if tenant.sealed {
        return kept(repo, number).map_or(Ok(0), |dir| bytes_below(&dir.join("copy")));
    }
    if tenant.keyring.is_empty() {
        return Ok(0);
    }
    let keys = Arc::new(tenants::keys_of(&repo.keys, number, tenant)?);
    // Also of one that is refused by now.
    Ok(derive_owned(repo, &Sender { number, name: tenant.name.clone(), keys, host: None }, monitor)?.bytes)
}

fn known(state: &State, number: u32) -> Result<&TenantState> {
    state.tenants.get(&number).ok_or_else(|| Error::new(Kind::NotFound, "this tenant was removed"))
}
