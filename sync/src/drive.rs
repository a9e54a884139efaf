//! Transfer drives: a part of a repository on removable media, with word of who has it.
//!
//! A drive is a repository of its own, with the id and the keys of the one it carries a part of: packs, roll-ups and manifests are
//! byte for byte those of the repository, the log tells what of them is on the drive and nothing else. So it opens, mounts
//! and checks like any, by a recovery code of its own; what lies on another drive is absent. `docs/format.md`
//! (Transfer drives) is normative.

pub mod back;
pub(crate) mod carry;
pub mod check;
pub mod custody;
pub mod export;
pub mod home;
pub mod import;
mod make;
pub mod receipt;
pub mod sealed;
pub mod several;
mod taken;

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use repo::backend::{Area, Backend, Object};
use repo::error::{Error, Kind, Result};
use repo::follow::read_rollup;
use repo::format::record::{Custody, DriveState, Record, State};
use repo::id::{DriveId, PackId, RepoId, SnapshotId};
use repo::index::PackInfo;
use repo::lock::{Locks, PruneGuard};
use repo::open::Repository;

pub use make::{Drive, Label, init, open, place_of, require_known_key, retire};

/// What a drive's packs are, as a whole: BLAKE3 of their names in ascending order. And how many they are, and their bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Packs.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of their names.
    pub digest: [u8; 32],
}

impl Contents {
    /// Of the packs that are in `backend`.
    ///
    /// # Errors
    /// What listing them gives.
    pub fn of(backend: &dyn Backend) -> Result<Contents> {
        let mut packs = Vec::new();
        backend.list(Area::Packs, &mut |object, size| {
            if let Object::Pack(id) = object {
                packs.push((id, size));
            }
            Ok(())
        })?;
        Ok(Contents::named(packs))
    }

    /// Of what the drive in `repo` carries.
    ///
    /// # Errors
    /// What its index gives.
    pub fn on(repo: &Repository) -> Result<Contents> {
        Ok(Contents::recorded(recorded(repo)?.as_ref(), &packs_on(repo)?))
    }

    /// Of those of these packs that are `recorded`.
    fn recorded(recorded: Option<&HashSet<PackId>>, packs: &[PackInfo]) -> Contents {
        let counts = packs.iter().filter(|info| recorded.is_none_or(|recorded| recorded.contains(&info.id)));
        Contents::named(counts.map(|info| (info.id, info.size)).collect())
    }

    /// What a site's log says, pack by pack, that was written to a drive.
    ///
    /// # Errors
    /// What reading roll-ups gives.
    pub fn loaded(site: &Repository, state: &DriveState) -> Result<Contents> {
        let mut packs = Vec::new();
        for load in &state.loads {
            match read_rollup(site.backend.as_ref(), &site.keys, load.rollup) {
                Ok(entries) => {
                    let some = entries.iter().skip(load.first as usize).take(load.count as usize);
                    packs.extend(some.map(|entry| (entry.id, entry.size)));
                }
                Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Damaged) => {}
                Err(e) => return Err(e),
            }
        }
        packs.sort_unstable();
        packs.dedup();
        Ok(Contents::named(packs))
    }

    /// Of these packs, each with its size.
    fn named(mut packs: Vec<(PackId, u64)>) -> Contents {
        packs.sort_unstable();
        let mut hasher = blake3::Hasher::new();
        packs.iter().for_each(|(id, _)| _ = hasher.update(id.as_bytes()));
        let bytes = packs.iter().map(|(_, size)| size).sum();
        Contents { packs: packs.len() as u64, bytes, digest: *hasher.finalize().as_bytes() }
    }

    /// What a log says that a drive carries.
    pub fn noted(state: &DriveState) -> Contents {
        Contents { packs: state.packs, bytes: state.bytes, digest: state.digest }
    }

    /// What a log is to say of a drive that carries this.
    fn note(self, state: DriveState) -> DriveState {
        let Contents { packs, bytes, digest } = self;
        DriveState { packs, bytes, digest, ..state }
    }
}

/// Says in the log of `here` and in the drive's own how much is on the drive, and on the drive which others, those `with` it, are on
/// their way to the same place: so who has one of them knows what to wait for.
///
/// # Errors
/// What either side gives.
fn settle(here: &Repository, drive: &Drive, with: &dyn Fn(&DriveId, &DriveState) -> bool) -> Result<()> {
    let contents = Contents::on(&drive.repo)?;
    let there = drive.repo.log.state();
    let newest = there.snapshots.iter().max_by_key(|(_, snapshot)| snapshot.recorded).map(|(id, _)| *id);
    let snapshots = there.snapshots.len() as u64;
    let own = custody::change(here, drive.id, &mut |known| {
        let known = known.ok_or_else(|| Error::bug("a drive that is written to is not known"))?;
        let state = contents.note(DriveState { snapshots, newest, ..known });
        Ok((state.clone(), state))
    })?;
    let state = here.log.state();
    let others = state.drives.iter().filter(|(id, other)| {
        let same_way = other.back == own.back && other.party == own.party && other.repository == own.repository;
        **id != drive.id && same_way && other.custody() != Custody::Made && with(id, other)
    });
    for (id, other) in others {
        tell(drive, *id, other)?;
    }
    tell(drive, drive.id, &own)
}

/// The packs that the log of the drive in `repo` speaks of. Others an export has left that was cut off: where it ran nobody knows that
/// they are there. None of a log that is not whole.
fn recorded(repo: &Repository) -> Result<Option<HashSet<PackId>>> {
    let (mut named, mut whole, mut next) = (HashSet::new(), true, 1);
    repo.log.history(&mut |entry| {
        let Ok(entry) = entry else {
            whole = false;
            return Ok(());
        };
        whole &= entry.seq == next;
        next = entry.seq + 1;
        if let Record::PacksAdded { packs, .. } = &entry.record {
            named.extend(packs.iter().map(|pack| pack.id));
        }
        Ok(())
    })?;
    Ok((whole && next > 1).then_some(named))
}

/// The packs on the drive in `repo`, in the order in which they came there. Not what merely lies where packs do: a file that no
/// roll-up lists and that does not say what is in it, as a filesystem may make of one that was cut off.
///
/// # Errors
/// What its index gives.
pub fn packs_on(repo: &Repository) -> Result<Vec<PackInfo>> {
    let (mut all, mut damaged) = (Vec::new(), Vec::new());
    repo.index.packs(&mut |info| {
        if info.damaged {
            damaged.push(*info)
        } else {
            all.push(*info)
        }
        Ok(())
    })?;
    for info in damaged {
        if repo.index.footer(info.no)?.is_some_and(|sealed| !sealed.is_empty()) {
            all.push(info);
        }
    }
    all.sort_unstable_by_key(|info| info.no);
    Ok(all)
}

/// The snapshots on the drive, the oldest first: those that its log speaks of, or, where that is lost, whatever manifests are there.
///
/// # Errors
/// What the drive gives.
fn snapshots_on(drive: &Drive) -> Result<Vec<SnapshotId>> {
    let state = drive.repo.log.state();
    let mut ids: Vec<_> = state.snapshots.iter().filter(|(_, snapshot)| snapshot.forgotten.is_none()).collect();
    ids.sort_unstable_by_key(|(id, snapshot)| (snapshot.recorded, snapshot.seq, **id));
    let mut ids: Vec<SnapshotId> = ids.into_iter().map(|(id, _)| *id).collect();
    if drive.repo.log.broken().is_some() {
        drive.repo.backend.list(Area::Snapshots, &mut |object, _| {
            if let Object::Snapshot(id) = object
                && !state.snapshots.contains_key(&id)
            {
                ids.push(id);
            }
            Ok(())
        })?;
    }
    Ok(ids)
}

/// That packs cannot be read says nothing of a drive that is gone.
///
/// # Errors
/// `Io` if it is.
fn require_there(drive: &Drive) -> Result<()> {
    repo::open::repository_in(drive.repo.backend.as_ref()).map(drop).map_err(|e| {
        e.with_kind(Kind::Io).remedy("plug the drive in again, mount it, and import it again: what was taken is kept")
    })
}

/// Refuses to count on a drive that is not on its way from here to the site of this repository.
fn require_same_way(state: &State, drive: &DriveId, repository: RepoId) -> Result<()> {
    match state.drives.get(drive) {
        Some(known) if known.back && known.repository == repository && known.custody().is_under_way() => Ok(()),
        known => {
            let is = known.map_or("not known here", |known| known.custody().name());
            let what = format!("drive {} is not on its way to the same tenant: it is {is}", drive.short());
            Err(Error::new(Kind::Refused, what).remedy("`packmule drive list` shows those that are"))
        }
    }
}

/// Has the drive's own log know this of a drive.
fn tell(drive: &Drive, id: DriveId, state: &DriveState) -> Result<()> {
    custody::change(&drive.repo, id, &mut |known| {
        // What a site calls the other side is not what that calls itself.
        let party = known.map_or_else(String::new, |known| known.party);
        Ok((DriveState { party, loads: Vec::new(), ..state.clone() }, ()))
    })
}

/// The drives that the drive in `repo` knows of beside itself and those in `here`, and that have not been given up.
pub fn absent(drive: DriveId, repo: &Repository, here: &[DriveId]) -> Vec<(DriveId, DriveState)> {
    let state = repo.log.state();
    // The log of a sealed tenant's copy speaks of the drives that its site has sent.
    if !state.drives.contains_key(&drive) {
        return Vec::new();
    }
    let gone = |other: &DriveState| matches!(other.custody(), Custody::Lost | Custody::Retired);
    let others = state.drives.iter().filter(|(id, other)| **id != drive && !here.contains(id) && !gone(other));
    others.map(|(id, other)| (*id, other.clone())).collect()
}

/// Keeps others from writing to the drive, or from reading it for an import.
///
/// # Errors
/// `Locked`.
fn one_at_a_time(drive: &Drive) -> Result<Option<PruneGuard>> {
    drive.repo.root.as_ref().map_or(Ok(None), |root| one_at_a_time_in(root))
}

/// As [`one_at_a_time`], of the drive in `root`.
fn one_at_a_time_in(root: &Path) -> Result<Option<PruneGuard>> {
    let held = Locks::file(&root.join("lock")).prune(Duration::ZERO);
    match held {
        Ok(guard) => Ok(Some(guard)),
        Err(e) if e.kind() == Kind::Locked => {
            Err(Error::new(Kind::Locked, "another command is at work on this drive").remedy("wait until it ends"))
        }
        // One that cannot be written is written by nobody.
        Err(e) if matches!(e.kind(), Kind::ReadOnly | Kind::NotFound) => Ok(None),
        Err(e) => Err(e),
    }
}
