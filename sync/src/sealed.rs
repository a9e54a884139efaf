//! A sealed copy: a repository's objects as they are, put where they are missing. Whoever keeps it needs no key.
//!
//! Packs come before the roll-ups that list them, those before manifests, and the log comes last, so a copy is at all times
//! the repository as it was at some record of its log. The newest record a copy holds is also its watermark: what was
//! recorded up to there need not be looked at again. No session is held: what a prune removes meanwhile is looked up anew.

mod objects;
mod packs;

use repo::backend::{Area, Backend, Object};
use repo::error::{Error, Kind, Result};
use repo::format::record::Position;
use repo::id::{LogHash, PackId};
use repo::limits::MAX_LOG_RECORD;
use repo::log::Relation;
use repo::monitor::{Event, Monitor};
use repo::open::Repository;

use crate::delta::Delta;
use packs::Copied;

/// A prune may remove packs under this many passes in a row before the push gives up.
const PASSES: u32 = 8;

/// How a copy is brought up to date.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
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
    /// How far the copy's log reached before.
    pub before: Option<Position>,
    /// How far it reaches now.
    pub now: Position,
}

/// One push.
struct Push<'a> {
    source: &'a Repository,
    target: &'a dyn Backend,
    monitor: &'a dyn Monitor,
}

/// Brings the copy in `target` up to the state of `source`. Who calls makes sure that only one push writes to `target`.
///
/// # Errors
/// `RolledBack` if the copy is ahead of the repository or has gone another way, `NoSpace`, `Interrupted`, and what either
/// side gives. What was copied stays and is not copied again.
pub fn push(source: &Repository, target: &dyn Backend, options: Options, monitor: &dyn Monitor) -> Result<Report> {
    let push = Push { source, target, monitor };
    let mut state = source.refresh(monitor)?;
    let before = push.watermark()?;
    push.refuse_other_history(before)?;
    push.copy_keys()?;
    let mut report =
        Report { packs: 0, bytes: 0, snapshots: 0, deleted: 0, damaged: Vec::new(), before, now: state.position };
    let mut from = before.filter(|_| !options.audit);
    let mut gone = Vec::new();
    for pass in 0.. {
        monitor.event(Event::Phase(if pass == 0 { "packs" } else { "packs that were repacked meanwhile" }));
        let delta = Delta::since(source, from)?;
        let Copied { packs, bytes, gone: vanished, damaged } = push.copy_packs(&delta, &gone)?;
        report.packs += packs;
        report.bytes += bytes;
        report.damaged.extend(damaged);
        report.bytes += push.copy_rollups(&delta)?;
        let (manifests, bytes) = push.copy_manifests(&state, &delta)?;
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
    monitor.event(Event::Phase("log"));
    report.bytes += push.copy_audit()?;
    report.bytes += push.copy_log(before, state.position)?;
    push.copy_config()?;
    report.now = state.position;
    report.deleted = push.delete_keys()?;
    if options.delete {
        report.deleted += push.delete_rest(&state)?;
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

    /// How far the copy's log reaches.
    fn watermark(&self) -> Result<Option<Position>> {
        let mut newest = None;
        self.target.list(Area::Log, &mut |object, _| {
            if let Object::Log(seq @ 1..) = object {
                newest = Some(seq);
            }
            Ok(())
        })?;
        let Some(seq) = newest else { return Ok(None) };
        let sealed = self.target.read_all(&Object::Log(seq), MAX_LOG_RECORD)?;
        Ok(Some(Position { seq, hash: LogHash(*blake3::hash(&sealed).as_bytes()) }))
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
