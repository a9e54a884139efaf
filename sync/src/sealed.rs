//! A sealed copy: a repository's objects as they are, put where they are missing. Whoever keeps it needs no key.
//!
//! Packs come before the roll-ups that list them, those before manifests, and the log comes last, so a copy is at all times
//! the repository as it was at some record of its log. The newest record a copy holds is also its watermark: what was
//! recorded up to there need not be looked at again. No session is held: what a prune removes meanwhile is looked up anew.

pub mod ask;
pub mod back;
mod mirror;
mod nested;
mod objects;
pub mod order;
mod packs;
pub mod remote;
mod target;

use repo::backend::{Backend, Object};
use repo::error::{Error, Kind, Result};
use repo::format::record::Position;
use repo::id::{DriveId, PackId};
use repo::limits::MAX_LOG_RECORD;
use repo::log::Relation;
use repo::monitor::{Event, Monitor};
use repo::open::Repository;

use crate::delta::Delta;
use crate::drive::custody;
pub use mirror::{Mirrored, mirror};
pub use objects::{is_password, names};
use packs::Copied;
pub use target::{Directory, Target, newest};

/// A prune may remove packs under this many passes in a row before the push gives up.
const PASSES: u32 = 8;

/// How a copy is brought up to date.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// The remote's name here: what is on its way there on a drive is not sent.
    pub remote: &'a str,
    /// Compare everything, not just what was recorded since the last push.
    pub audit: bool,
    /// Remove from the copy what the repository does not have any more.
    pub delete: bool,
}

/// What a push did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Packs copied.
    pub packs: u64,
    /// Bytes copied, of all kinds of objects.
    pub bytes: u64,
    /// Manifests copied.
    pub snapshots: u64,
    /// Objects removed from the copy.
    pub deleted: u64,
    /// Packs that are damaged or missing in the repository, and were not copied.
    pub damaged: Vec<PackId>,
    /// Packs that are on their way on a drive: until they have come the copy's log ends before them.
    pub posted: u64,
    /// Their bytes.
    pub posted_bytes: u64,
    /// How far the copy's log reached before.
    pub before: Option<Position>,
    /// How far it reaches now.
    pub now: Position,
}

/// One push.
struct Push<'a> {
    source: &'a Repository,
    target: &'a dyn Target,
    monitor: &'a dyn Monitor,
    /// Drives that are on their way to the target.
    away: Vec<DriveId>,
}

/// Brings the copy in `target` up to the state of `source`. Who calls makes sure that only one push writes to `target`.
///
/// # Errors
/// As [`push_to`].
pub fn push(source: &Repository, target: &dyn Backend, options: Options<'_>, monitor: &dyn Monitor) -> Result<Report> {
    push_to(source, &Directory(target), options, monitor)
}

/// As [`push`], to any place.
///
/// # Errors
/// `RolledBack` if the copy is ahead of the repository or has gone another way, `NoSpace`, `Interrupted`, and what either
/// side gives. What was copied stays and is not copied again.
pub fn push_to(
    source: &Repository,
    target: &dyn Target,
    options: Options<'_>,
    monitor: &dyn Monitor,
) -> Result<Report> {
    // Before anything is looked at: what is noted of a drive that has come goes with this push.
    custody::collect(source, options.remote, monitor, &mut |drives| target.receipts(drives))?;
    let away = source.log.state().under_way(Some((source.config.repo_id, options.remote)));
    let push = Push { source, target, monitor, away };
    let mut state = source.refresh(monitor)?;
    let before = target.watermark()?;
    push.refuse_other_history(before)?;
    let mut report = Report {
        packs: 0,
        bytes: 0,
        snapshots: 0,
        deleted: 0,
        damaged: Vec::new(),
        posted: 0,
        posted_bytes: 0,
        before,
        now: state.position,
    };
    let mut from = before.filter(|_| !options.audit);
    let lost = target.wanted();
    if let (Some(at), true) = (from.filter(|_| !options.delete), lost.is_empty())
        && Delta::since(source, from)?.tells_nothing()
    {
        // That it was pushed is all that happened: to push that would have to be told in its turn.
        report.bytes += push.copy_keys()?;
        target.settle()?;
        // The last that a push puts there: one that was cut off just before has left all but this.
        push.copy_config()?;
        target.settle()?;
        report.deleted = target.owned().map_or(Ok(0), |copy| push.delete_keys(copy))?;
        report.now = at;
        return Ok(report);
    }
    let mut gone: Vec<PackId> = Push::lost_packs(&lost);
    for pass in 0.. {
        monitor.event(Event::Phase(if pass == 0 { "packs" } else { "packs that were repacked meanwhile" }));
        let delta = Delta::since(source, from)?;
        if pass == 0 && delta.is_large() {
            target.expect_many();
        }
        let Copied { packs, bytes, gone: vanished, damaged, posted } = push.copy_packs(&delta, &gone)?;
        report.packs += packs;
        report.bytes += bytes;
        report.damaged.extend(damaged);
        (report.posted, report.posted_bytes) = posted;
        report.bytes += push.copy_rollups(&delta, &lost)?;
        let (manifests, bytes) = push.copy_manifests(&state, &delta, &lost)?;
        report.snapshots += manifests;
        report.bytes += bytes;
        if vanished.is_empty() {
            break;
        }
        if pass == PASSES {
            return Err(Error::new(Kind::Locked, "packs keep being removed while they are copied")
                .remedy("let the prune end, and push again"));
        }
        // What was looked at need not be looked at again, but for what was not there.
        (from, gone) = (Some(state.position), vanished);
        state = source.refresh(monitor)?;
    }
    if report.posted > 0 {
        // A copy is at all times the repository as it was at its newest record: that has to wait.
        report.bytes += push.copy_keys()?;
        target.settle()?;
        report.now = before.unwrap_or(Position::START);
        return Ok(report);
    }
    monitor.event(Event::Phase("log"));
    // Without a key slot nothing else can be read.
    report.bytes += push.copy_keys()?;
    target.settle()?;
    report.bytes += push.copy_audit()?;
    report.bytes += push.copy_log(before, state.position, &lost)?;
    push.copy_config()?;
    target.settle()?;
    report.now = state.position;
    if let Some(copy) = target.owned() {
        report.deleted = push.delete_keys(copy)?;
        if options.delete {
            report.deleted += push.delete_rest(copy, &state)?;
        }
    }
    report.damaged.sort_unstable();
    report.damaged.dedup();
    Ok(report)
}

impl Push<'_> {
    fn stop_if_cancelled(&self) -> Result<()> {
        if self.monitor.cancelled() {
            return Err(Error::new(Kind::Interrupted, "interrupted; what was copied will not be copied again"));
        }
        Ok(())
    }

    /// A copy whose log is no beginning of this one's must not be overwritten: one of the two was rolled back, or written to
    /// by somebody else.
    fn refuse_other_history(&self, watermark: Option<Position>) -> Result<()> {
        let Some(at) = watermark else { return Ok(()) };
        let path = self.target.path(&Object::Log(at.seq));
        let refused =
            |what: &'static str, remedy: &'static str| Err(Error::new(Kind::RolledBack, what).at(&path).remedy(remedy));
        let mut relation = self.source.log.extends(&at);
        if relation == Relation::Newer {
            // Further back than hashes are remembered, the record itself may still be there.
            match self.source.backend.read_all(&Object::Log(at.seq), MAX_LOG_RECORD) {
                Ok(sealed) if *blake3::hash(&sealed).as_bytes() != *at.hash.as_bytes() => relation = Relation::Forked,
                Err(e) if e.kind() != Kind::NotFound => return Err(e),
                _ => {}
            }
        }
        match relation {
            Relation::Same | Relation::Newer => Ok(()),
            Relation::RolledBack => refused(
                "the copy is newer than the repository, which was rolled back to an earlier state:",
                "restore the repository from this copy, or push to another directory",
            ),
            Relation::Forked => refused(
                "the copy has another history than the repository since this record:",
                "find out which of the two was rolled back or written to; push to another directory meanwhile",
            ),
        }
    }
}
