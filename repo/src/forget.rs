//! Forgetting snapshots, and remembering them again while they are held.
//!
//! Forgetting only records. A forgotten snapshot stays readable, and a root for [`crate::prune`], for the hold, and at a pool
//! for the window: see [`crate::policy`].
//!
//! At a pool, rules come to a snapshot when its window has ended, and count those alone that they have come to. So what a
//! site delivers, whatever time it says, displaces nothing before somebody has had the window to notice.

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
use crate::policy::{self, Ends};
use crate::retention::{Candidate, Decision, Policy, Reason, Zone, decide};
use crate::times::Times;

pub use crate::policy::HOLD;

/// How to forget.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Vouch for a clock that cannot be trusted with deleting.
    pub accept_clock: bool,
    /// Record nothing.
    pub dry_run: bool,
    /// Also what is not yet at every remote.
    pub even_unpushed: bool,
    /// The hold, to say until when the snapshots can be brought back; none: as their policy has it.
    pub hold: Option<Duration>,
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
    /// Snapshots that the rules would have forgotten and that are not yet at every remote.
    pub unpushed: Vec<SnapshotId>,
    /// Until when all of them can be brought back.
    pub until: Time,
    /// Tenants of whose snapshots everything is kept, having no rules of their own.
    pub without_rules: Vec<u32>,
}

/// Forgets the snapshots named. Those forgotten before stay so, with the hold they have.
///
/// # Errors
/// `NotFound` for an unknown snapshot, `Refused` for a pinned one and, unless told, for one that is not yet at every remote,
/// `Clock`; nothing is forgotten then.
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
                None => {
                    if let Some(remote) = policy::lacking(state, snapshot).filter(|_| !options.even_unpushed) {
                        let why = format!("snapshot {} is not at remote {remote} yet", id.short());
                        return Err(Error::new(Kind::Refused, why)
                            .remedy(format!("`packmule sync push {remote}`, or give --even-unpushed")));
                    }
                    outcome.forgotten.push(*id);
                }
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
    let rules = |_: Option<u32>| Ok(Some(policy.clone()));
    forget(repo, options, monitor, &|state| {
        let now = repo.clock.now();
        Chooser { state, now, rules: &rules, selected, zone, options }.choose()
    })
}

/// As [`forget_by_policy`], each tenant's snapshots by the rules that are set for it at this pool.
///
/// # Errors
/// `Usage` if no tenant that is concerned has rules; `NewerFormat` for rules of a newer program's; and as there.
pub fn forget_by_own_rules(
    repo: &Repository,
    selected: &dyn Fn(&SnapshotId, &SnapshotState) -> bool,
    zone: Zone<'_>,
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<Outcome> {
    forget(repo, options, monitor, &|state| {
        let (now, rules) = (repo.clock.now(), |tenant| policy::retention(state, tenant));
        let outcome = Chooser { state, now, rules: &rules, selected, zone, options }.choose()?;
        if outcome.groups.is_empty() && !outcome.without_rules.is_empty() {
            return Err(Error::new(Kind::Usage, "nothing says what to keep: no rules are set for these tenants")
                .remedy("give a rule such as --keep-daily 7, or set some with `packmule tenant set`"));
        }
        Ok(outcome)
    })
}

/// Chooses what to forget by rules.
struct Chooser<'a> {
    state: &'a State,
    now: Time,
    /// A tenant's rules, or the repository's own; none: everything is kept.
    rules: &'a dyn Fn(Option<u32>) -> Result<Option<Policy>>,
    selected: &'a dyn Fn(&SnapshotId, &SnapshotState) -> bool,
    zone: Zone<'a>,
    options: &'a Options,
}

impl Chooser<'_> {
    fn choose(&self) -> Result<Outcome> {
        let times = Times::of(self.state, self.now);
        let mut histories: BTreeMap<History, Vec<(&SnapshotState, Candidate)>> = BTreeMap::new();
        for (id, s) in self.state.snapshots.iter().filter(|(id, s)| s.forgotten.is_none() && (self.selected)(id, s)) {
            let Some(moment) = times.get(id) else { continue };
            let candidate = Candidate {
                id: *id,
                time: moment.recorded,
                seq: moment.seq,
                tags: s.tags.iter().cloned().collect(),
                pinned: s.pinned,
            };
            histories.entry(History::of(s)).or_default().push((s, candidate));
        }
        let ends = Ends::new(self.state, self.now, self.options.hold);
        let mut outcome = Outcome::default();
        for (history, all) in histories {
            match (self.rules)(history.tenant)? {
                Some(policy) => self.of_one(&mut outcome, &ends, history, &policy, all)?,
                None => outcome.without_rules.extend(history.tenant),
            }
        }
        outcome.without_rules.dedup();
        Ok(outcome)
    }

    fn of_one(
        &self,
        outcome: &mut Outcome,
        ends: &Ends<'_>,
        history: History,
        policy: &Policy,
        all: Vec<(&SnapshotState, Candidate)>,
    ) -> Result<()> {
        let (young, judged): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|(s, candidate)| ends.window(&candidate.id, s) > self.now);
        let unpushed: BTreeSet<SnapshotId> = judged
            .iter()
            .filter(|(s, _)| !self.options.even_unpushed && policy::lacking(self.state, s).is_some())
            .map(|(_, candidate)| candidate.id)
            .collect();
        let mut decisions = decide(policy, judged.into_iter().map(|(_, candidate)| candidate).collect(), self.zone);
        if young.is_empty() && decisions.iter().all(|d| d.keep.is_empty()) {
            let whose = history.words(self.state);
            let why = format!("these rules would forget every snapshot of {}", printable(Path::new(&whose)));
            return Err(Error::new(Kind::Refused, why).remedy("add --keep-last 1, or name the snapshots"));
        }
        for decision in decisions.iter_mut().filter(|d| d.keep.is_empty()) {
            if unpushed.contains(&decision.id) {
                decision.keep.push(Reason::Unpushed);
                outcome.unpushed.push(decision.id);
            } else {
                outcome.forgotten.push(decision.id);
            }
        }
        let kept =
            |(_, c): (&SnapshotState, Candidate)| Decision { id: c.id, time: c.time, keep: vec![Reason::Window] };
        decisions.extend(young.into_iter().map(kept));
        decisions.sort_by_key(|d| std::cmp::Reverse(d.time));
        outcome.groups.push(Group { history, decisions });
        Ok(())
    }
}

/// Chooses and records as one step under the commit lock.
fn forget(
    repo: &Repository,
    options: &Options,
    monitor: &dyn Monitor,
    choose: &dyn Fn(&State) -> Result<Outcome>,
) -> Result<Outcome> {
    let at = repo.clock.now();
    let finish = |state: &State, outcome: Outcome| {
        let ends = Ends::new(state, at, options.hold);
        let held = |id: &SnapshotId| Some(ends.held(id, state.snapshots.get(id)?, at));
        let until = outcome.forgotten.iter().filter_map(held).min();
        Outcome { until: until.unwrap_or_else(|| at.plus(options.hold.unwrap_or(HOLD))), ..outcome }
    };
    if options.dry_run {
        repo.log.refresh()?;
        require_clock(repo, options.accept_clock, None)?;
        let state = repo.log.state();
        return choose(&state).map(|outcome| finish(&state, outcome));
    }
    with_room(repo, monitor, &mut || {
        let commit = repo.locks.commit(COMMIT_WAIT)?;
        repo.log.refresh()?;
        require_clock(repo, options.accept_clock, Some(&commit))?;
        let state = repo.log.state();
        let outcome = finish(&state, choose(&state)?);
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
