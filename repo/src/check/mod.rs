//! Check: whether everything that the log and the snapshots promise is there and whole, and what is lost if it is not.
//!
//! 1. Config, key slots, log, roll-ups: each opens.
//! 2. Packs: those listed against those indexed and rolled up; sizes, headers, footers. Packs to be read, and packs that
//!    look wrong or were found damaged before, are read whole: name, and every frame opened and every chunk hashed.
//! 3. Snapshots: every manifest opens; every tree chunk it reaches opens; every data chunk is known, of the right
//!    length, and not in a frame that was found unreadable. What is not is named with its snapshot and path.
//! 4. What was found goes to the log, if that can be written: damaged packs satisfy no deduplication from then on, so
//!    the next backup of the same data stores it again; what this check finds no longer needed or whole again is healed.
//!
//! Findings are handed on as they come. Memory: 41 bytes a pack, two bits a tree chunk, and what is damaged.

mod objects;
mod packs;
mod record;
mod repair;
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use repair::{Repaired, repair_log};

use crate::clock::Time;
use crate::error::{Error, Kind, Result};
use crate::format::record::{SnapshotState, State};
use crate::id::{PackId, SnapshotId};
use crate::monitor::{Event, Monitor};
use crate::open::Repository;
use crate::rebuild::Listed;

/// Which packs are read whole.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub enum ReadData {
    /// None, but those that look wrong.
    #[default]
    None,
    /// All.
    All,
    /// Part `n` of `m`, chosen by name: all `m` parts are all packs.
    Part {
        /// Which, from 1 to `m`.
        n: u32,
        /// Of how many.
        m: u32,
    },
    /// About so many percent, another choice each time.
    Percent(f64),
}

/// What is told of a snapshot.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// Its id.
    pub id: SnapshotId,
    /// At a pool: its tenant's name.
    pub tenant: Option<&'a str>,
    /// At a pool: its id at the tenant's own repository.
    pub original: Option<SnapshotId>,
    /// Its host.
    pub host: &'a str,
    /// Its source.
    pub source: &'a str,
    /// When it was captured.
    pub captured: Time,
}

/// One thing that was found.
#[derive(Debug)]
#[non_exhaustive]
pub enum Finding<'a> {
    /// The config, a key slot, a log record, a roll-up or the index is damaged, and what to do.
    Object(&'a Error),
    /// A pack is damaged or missing.
    Pack {
        /// Its name.
        id: PackId,
        /// What is wrong, with its path.
        error: &'a Error,
    },
    /// A snapshot cannot be opened.
    Snapshot {
        /// Which.
        snapshot: About<'a>,
        /// Why.
        error: &'a Error,
    },
    /// A file, or a directory with all that is in it, cannot be read in full.
    File {
        /// In which snapshot.
        snapshot: About<'a>,
        /// Where in it.
        path: &'a Path,
        /// Why.
        error: &'a Error,
    },
    /// A pack known as damaged is whole again.
    Whole(PackId),
    /// A pack known as damaged holds nothing that any snapshot needs from it: prune removes it.
    Unneeded(PackId),
}

/// What a check did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Snapshots checked.
    pub snapshots: u64,
    /// Packs there are.
    pub packs: u64,
    /// Packs read whole.
    pub packs_read: u64,
    /// Their bytes.
    pub bytes_read: u64,
    /// Findings that are damage: 0 for a sound repository.
    pub problems: u64,
    /// Packs damaged or missing that something needs, or that were not known.
    pub damaged_packs: u64,
    /// Files and directories that cannot be read in full, once a snapshot.
    pub files: u64,
    /// Known damage that is healed.
    pub healed: u64,
    /// Whether the result stands in the log.
    pub recorded: bool,
}

/// Frames of a damaged pack that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Frames {
    All,
    These(BTreeSet<u32>),
}

impl Frames {
    fn has(&self, frame: u32) -> bool {
        match self {
            Frames::All => true,
            Frames::These(frames) => frames.contains(&frame),
        }
    }
}

/// One check at work.
struct Check<'a> {
    repo: &'a Repository,
    monitor: &'a dyn Monitor,
    report: &'a mut dyn FnMut(&Finding<'_>),
    state: Arc<State>,
    read: ReadData,
    /// Makes another choice each time for a percentage.
    salt: u32,
    listed: Listed,
    /// Roll-ups that were read.
    rollups: BTreeSet<u64>,
    /// Packs found damaged or missing.
    bad: BTreeMap<PackId, Frames>,
    /// Those of them in which a snapshot has a chunk.
    needed: BTreeSet<PackId>,
    /// What is wrong with those that the log knows already: told of when it is known whether they are needed.
    known_bad: BTreeMap<PackId, Error>,
    /// Packs known as damaged that were found whole.
    whole: Vec<PackId>,
    outcome: Outcome,
    /// Where only one tenant's snapshots are checked: its number, and the packs that they reach.
    only: Option<(u32, BTreeSet<PackId>)>,
}

/// Checks the repository. Everything found goes to `report`, from this thread.
///
/// # Errors
/// `Interrupted`, and failures that are no damage: listing, locks, log, index. Damage is no error.
pub fn check(
    repo: &Repository,
    read: ReadData,
    monitor: &dyn Monitor,
    report: &mut dyn FnMut(&Finding<'_>),
) -> Result<Outcome> {
    let mut check = Check::begin(repo, read, monitor, report)?;
    check.outcome.packs = check.listed.len() as u64;
    check.objects()?;
    check.packs()?;
    check.snapshots()?;
    check.conclude()
}

/// Checks one tenant's snapshots and the packs that they reach, and nothing else of a pool. Damage that is found goes to the log; that
/// there was a check does not, since most of the pool was not looked at.
///
/// # Errors
/// As [`check`].
pub fn check_tenant(
    repo: &Repository,
    read: ReadData,
    tenant: u32,
    monitor: &dyn Monitor,
    report: &mut dyn FnMut(&Finding<'_>),
) -> Result<Outcome> {
    let mut check = Check::begin(repo, read, monitor, report)?;
    let reached = check.reached(tenant)?;
    check.outcome.packs = reached.len() as u64;
    check.only = Some((tenant, reached));
    check.packs()?;
    check.snapshots()?;
    check.conclude()
}

impl<'a> Check<'a> {
    fn begin(
        repo: &'a Repository,
        read: ReadData,
        monitor: &'a dyn Monitor,
        report: &'a mut dyn FnMut(&Finding<'_>),
    ) -> Result<Check<'a>> {
        let state = refreshed(repo, monitor)?;
        let listed = Listed::new(repo.backend.as_ref())?;
        let salt = u32::from_le_bytes(crate::id::random_bytes());
        Ok(Check {
            repo,
            monitor,
            report,
            state,
            read,
            salt,
            listed,
            rollups: BTreeSet::new(),
            bad: BTreeMap::new(),
            needed: BTreeSet::new(),
            known_bad: BTreeMap::new(),
            whole: Vec::new(),
            outcome: Outcome::default(),
            only: None,
        })
    }
}

impl Check<'_> {
    fn object(&mut self, error: &Error) {
        self.outcome.problems += 1;
        (self.report)(&Finding::Object(error));
    }

    /// Enters a pack that is not what it should be; told of once.
    fn bad_pack(&mut self, id: PackId, frames: Frames, error: Error) {
        if self.bad.contains_key(&id) {
            return;
        }
        self.bad.insert(id, frames);
        if self.state.damaged.contains_key(&id) {
            self.known_bad.insert(id, error);
        } else {
            (self.report)(&Finding::Pack { id, error: &error });
        }
    }

    /// Whether this pack is among those to be checked.
    fn is_meant(&self, id: &PackId) -> bool {
        self.only.as_ref().is_none_or(|(_, packs)| packs.contains(id))
    }

    /// Whether this snapshot is.
    fn is_meant_snapshot(&self, snapshot: &SnapshotState) -> bool {
        let tenant = snapshot.origin.map(|origin| origin.tenant);
        self.only.as_ref().is_none_or(|(number, _)| tenant == Some(*number))
    }

    fn notice(&self, text: &str) {
        self.monitor.event(Event::Notice(text));
    }

    /// Log and index, up to what others have done since.
    fn bring_up(&self) -> Result<Arc<State>> {
        refreshed(self.repo, self.monitor)
    }

    fn stopped(&self) -> Result<()> {
        match self.monitor.cancelled() {
            true => Err(Error::new(Kind::Interrupted, "the check was stopped")),
            false => Ok(()),
        }
    }

    fn chosen(&self, id: &PackId) -> bool {
        self.read.chooses(id, self.salt)
    }
}

impl ReadData {
    /// Whether a pack is among those to be read. `salt` makes another choice of a percentage each time.
    pub fn chooses(&self, id: &PackId, salt: u32) -> bool {
        let bytes = id.as_bytes();
        let number = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        match self {
            ReadData::None => false,
            ReadData::All => true,
            ReadData::Part { n, m } => number % m.max(&1) == n.saturating_sub(1),
            // Names are hashes: any part of one, mixed with the salt, is a fair die.
            ReadData::Percent(x) => f64::from((number ^ salt).wrapping_mul(0x9E37_79B1)) < x / 100.0 * 4_294_967_296.0,
        }
    }

    /// As it stands in the log: empty for all or none, `n/m` or `x%`.
    pub fn subset(&self) -> String {
        match self {
            ReadData::None | ReadData::All => String::new(),
            ReadData::Part { n, m } => format!("{n}/{m}"),
            ReadData::Percent(x) => format!("{x}%"),
        }
    }
}

/// Brings log and index up to date; a damaged log as far as it was read, which is told of by name.
fn refreshed(repo: &Repository, monitor: &dyn Monitor) -> Result<Arc<State>> {
    match repo.refresh(monitor) {
        Err(e) if e.kind() == Kind::Damaged => Ok(repo.log.state()),
        other => other,
    }
}

/// Tells damage from failures that end the check: what is changed, absent, or on a bad part of a disk is damage.
fn damage(e: Error) -> Result<Error> {
    match e.kind() {
        Kind::Damaged | Kind::NotFound => Ok(e),
        Kind::Io if e.errno() == Some(libc::EIO) => Ok(e),
        _ => Err(e),
    }
}

fn pack_path(repo: &Repository, id: &PackId) -> PathBuf {
    repo.backend.path(&crate::backend::Object::Pack(*id))
}
