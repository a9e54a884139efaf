//! Forgetting snapshots, and remembering them again while they are held.
//!
//! Forgetting only records. A forgotten snapshot stays readable, and a root for [`crate::prune`], for the hold.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use crate::clock::Time;
use crate::error::{Error, Kind, Result, printable};
use crate::format::record::{Record, SnapshotState, State};
use crate::history::History;
use crate::id::SnapshotId;
use crate::limits::RESERVE;
use crate::lock::{COMMIT_WAIT, CommitGuard};
use crate::monitor::{Event, Monitor};
use crate::open::Repository;
use crate::retention::{Candidate, Decision, Policy, Zone, decide};
use crate::times::Times;

/// How long a forgotten snapshot can be brought back, unless told otherwise.
pub const HOLD: Duration = Duration::from_secs(72 * 3600);

/// How to forget.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Vouch for a clock that cannot be trusted with deleting.
    pub accept_clock: bool,
    /// Record nothing.
    pub dry_run: bool,
    /// The hold, to say until when the snapshots can be brought back.
    pub hold: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options { accept_clock: false, dry_run: false, hold: HOLD }
    }
}

/// What a policy says of one history.
#[derive(Clone, Debug)]
pub struct Group {
    /// Which.
    pub history: History,
    /// Its snapshots, newest first.
    pub decisions: Vec<Decision>,
}

/// What was forgotten, or would be.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The histories a policy was applied to; none when snapshots were named.
    pub groups: Vec<Group>,
    /// The snapshots forgotten.
    pub forgotten: Vec<SnapshotId>,
    /// Named snapshots that were forgotten before.
    pub already: Vec<SnapshotId>,
    /// Until when they can be brought back.
    pub until: Time,
}

/// Forgets the snapshots named. Those forgotten before stay so, with the hold they have.
///
/// # Errors
/// `NotFound` for an unknown snapshot, `Refused` for a pinned one, `Clock`; nothing is forgotten then.
pub fn forget_named(
    repo: &Repository,
    ids: &[SnapshotId],
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<Outcome> {
    let choose = |state: &State| {
        let mut outcome = Outcome::default();
        for id in ids.iter().collect::<BTreeSet<_>>() {
            let snapshot = known(state, id)?;
            if snapshot.pinned {
                let why = format!("snapshot {} is pinned", id.short());
                return Err(Error::new(Kind::Refused, why).remedy("unpin it first"));
            }
            match snapshot.forgotten {
                Some(_) => outcome.already.push(*id),
                None => outcome.forgotten.push(*id),
            }
        }
        Ok(outcome)
    };
    forget(repo, options, monitor, &choose)
}

/// Forgets what `policy` does not keep, history by history, of the snapshots that `selected` admits.
///
/// # Errors
/// `Usage` for a policy without a rule, `Refused` if a history would lose all its snapshots, `Clock`; nothing is
/// forgotten then.
pub fn forget_by_policy(
    repo: &Repository,
    policy: &Policy,
    selected: &dyn Fn(&SnapshotId, &SnapshotState) -> bool,
    zone: Zone<'_>,
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<Outcome> {
    if policy.is_empty() {
        return Err(Error::new(Kind::Usage, "nothing says what to keep").remedy("give a rule such as --keep-daily 7"));
    }
    forget(repo, options, monitor, &|state| {
        apply_policy(state, &Times::of(state, repo.clock.now()), policy, selected, zone)
    })
}

fn apply_policy(
    state: &State,
    times: &Times,
    policy: &Policy,
    selected: &dyn Fn(&SnapshotId, &SnapshotState) -> bool,
    zone: Zone<'_>,
) -> Result<Outcome> {
    let mut histories: BTreeMap<History, Vec<Candidate>> = BTreeMap::new();
    for (id, s) in &state.snapshots {
        if s.forgotten.is_some() || !selected(id, s) {
            continue;
        }
        let Some(moment) = times.get(id) else { continue };
        let candidate = Candidate {
            id: *id,
            time: moment.recorded,
            seq: moment.seq,
            tags: s.tags.iter().cloned().collect(),
            pinned: s.pinned,
        };
        histories.entry(History::of(s)).or_default().push(candidate);
    }
    let mut outcome = Outcome::default();
    for (history, candidates) in histories {
        let decisions = decide(policy, candidates, zone);
        if decisions.iter().all(|d| d.keep.is_empty()) {
            let why =
                format!("these rules would forget every snapshot of {}", printable(Path::new(&history.words(state))));
            return Err(Error::new(Kind::Refused, why).remedy("add --keep-last 1, or name the snapshots"));
        }
        outcome.forgotten.extend(decisions.iter().filter(|d| d.keep.is_empty()).map(|d| d.id));
        outcome.groups.push(Group { history, decisions });
    }
    Ok(outcome)
}

/// Chooses and records as one step under the commit lock.
fn forget(
    repo: &Repository,
    options: &Options,
    monitor: &dyn Monitor,
    choose: &dyn Fn(&State) -> Result<Outcome>,
) -> Result<Outcome> {
    let at = repo.clock.now();
    let finish = |outcome: Outcome| Outcome { until: at.plus(options.hold), ..outcome };
    if options.dry_run {
        repo.log.refresh()?;
        require_clock(repo, options.accept_clock, None)?;
        return choose(&repo.log.state()).map(finish);
    }
    with_room(repo, monitor, &mut || {
        let commit = repo.locks.commit(COMMIT_WAIT)?;
        repo.log.refresh()?;
        require_clock(repo, options.accept_clock, Some(&commit))?;
        let outcome = finish(choose(&repo.log.state())?);
        if !outcome.forgotten.is_empty() {
            repo.log.append(&commit, Record::Forgotten { snapshots: outcome.forgotten.clone(), at })?;
        }
        Ok(outcome)
    })
}

/// Takes forgotten snapshots back. Those that are not forgotten stay as they are. Returns those taken back.
///
/// # Errors
/// `NotFound` for a snapshot that is unknown or whose removal has begun; nothing is taken back then.
pub fn unforget(repo: &Repository, ids: &[SnapshotId], monitor: &dyn Monitor) -> Result<Vec<SnapshotId>> {
    with_room(repo, monitor, &mut || {
        let commit = repo.locks.commit(COMMIT_WAIT)?;
        repo.log.refresh()?;
        let state = repo.log.state();
        let mut back = Vec::new();
        for id in ids.iter().collect::<BTreeSet<_>>() {
            if known(&state, id)?.forgotten.is_some() {
                back.push(*id);
            }
        }
        if !back.is_empty() {
            repo.log.append(&commit, Record::Unforgotten { snapshots: back.clone() })?;
        }
        Ok(back)
    })
}

fn known<'a>(state: &'a State, id: &SnapshotId) -> Result<&'a SnapshotState> {
    if state.sweep.as_ref().is_some_and(|sweep| sweep.snapshots.contains(id)) {
        return Err(Error::new(Kind::NotFound, format!("snapshot {} is being removed for good", id.short())));
    }
    let none = || Error::new(Kind::NotFound, format!("there is no snapshot {}", id.short()));
    state.snapshots.get(id).ok_or_else(none)
}

/// Refuses a clock that cannot be trusted with deleting, unless the user vouches for it, which is recorded if a
/// commit lock is given.
///
/// # Errors
/// `Clock`; what the log gives.
pub fn require_clock(repo: &Repository, accept: bool, commit: Option<&CommitGuard>) -> Result<()> {
    match repo.log.check_clock() {
        Err(e) if e.kind() == Kind::Clock && accept => match commit {
            Some(commit) => repo.log.append(commit, Record::ClockAccepted).map(drop),
            None => Ok(()),
        },
        other => other,
    }
}

/// Runs what frees space with the reserve at hand: given back first where space is short, or when there turns out to be
/// none, after which `work` runs once more. Set aside again afterwards, as far as there is room.
///
/// # Errors
/// What `work` gives.
pub fn with_room<T>(repo: &Repository, monitor: &dyn Monitor, work: &mut dyn FnMut() -> Result<T>) -> Result<T> {
    let short = repo.backend.free_space()?.is_some_and(|free| free < RESERVE / 2);
    if short {
        repo.backend.release_reserve()?;
    }
    let mut done = work();
    if !short && done.as_ref().is_err_and(|e| e.kind() == Kind::NoSpace) {
        repo.backend.release_reserve()?;
        done = work();
    }
    if !matches!(repo.backend.restore_reserve(), Ok(true)) {
        monitor.event(Event::Notice("there is no room to set the reserve aside again: free some space soon"));
    }
    done
}
