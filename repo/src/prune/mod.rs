//! Prune: freeing what no snapshot needs, beside running backups and mounts, without ever waiting for one.
//!
//! ```text
//! prune lock ─► session ─► mark ─► plan ─► condemn what is unused ─► [sweep]
//!                                    └───► rewrite in rounds, condemn the old packs ─► [sweep]
//! [sweep]: do sessions older than the condemnation live? they keep those packs for another prune
//!          commit lock: mark what was committed since, un-condemn what that reaches, write the intent
//!          prove and unlink (crate::sweep), record it
//! ```
//! What it relies on: a session sees what was condemned before it began and stores such chunks anew; one that began
//! earlier is waited for, by the next prune. So once the older ones have ended, and what they committed is marked, nobody
//! can come to rely on a condemned pack any more. Until the intent is written, everything can be taken back.
//!
//! Old packs are condemned before the new ones are recorded: the index then moves the chunks over by itself, also on
//! other machines. A crash in between leaves complete packs of a dead session, which the next open adopts.

mod mark;
mod plan;
mod repack;
mod rollups;
mod run;
mod strays;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Time;
use crate::error::{Error, Kind, Result};
use crate::forget::{require_clock, with_room};
use crate::format::record::{Outcome as Ended, SessionState, SnapshotState, State};
use crate::id::{SessionId, SnapshotId};
use crate::index::PackNo;
use crate::lock::{COMMIT_WAIT, PruneGuard};
use crate::monitor::{Counters, Event, Monitor};
use crate::open::{Access, Repository};
use crate::policy::Ends;
use crate::prune::mark::Marker;
use crate::prune::plan::{Bounds, Plan};
use crate::prune::run::Run;
use crate::session::Session;
use crate::sweep::carry_out;

/// How much may stay unused, beside what is in use, before packs are rewritten.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MaxUnused {
    /// So many percent of what is in use.
    Percent(f64),
    /// So many bytes.
    Bytes(u64),
    /// Any amount: nothing is rewritten.
    Unlimited,
}

impl MaxUnused {
    fn bytes(self, used: u64) -> u64 {
        match self {
            MaxUnused::Percent(p) => (used as f64 * p / 100.0) as u64,
            MaxUnused::Bytes(n) => n,
            MaxUnused::Unlimited => u64::MAX,
        }
    }
}

/// How to prune.
#[derive(Clone, Debug)]
pub struct Options {
    /// Treat forgotten snapshots as gone at once, but for those that are within their window.
    pub release_held: bool,
    /// The same for one tenant's alone.
    pub release_tenant: Option<u32>,
    /// Vouch for a clock that cannot be trusted with deleting.
    pub accept_clock: bool,
    /// Only say what would be done.
    pub dry_run: bool,
    /// How long forgotten snapshots are held; none: as their policy has it.
    pub hold: Option<Duration>,
    /// How much may stay unused.
    pub max_unused: MaxUnused,
    /// The contents of packs of data are elsewhere, as in an agent's state: such a pack is removed when nothing in it is
    /// needed, and not rewritten before.
    pub data_elsewhere: bool,
    /// For a dry run: snapshots taken for forgotten just now.
    pub suppose_forgotten: Vec<SnapshotId>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            release_held: false,
            release_tenant: None,
            accept_clock: false,
            dry_run: false,
            hold: None,
            max_unused: MaxUnused::Percent(5.0),
            data_elsewhere: false,
            suppose_forgotten: Vec::new(),
        }
    }
}

/// A session that a prune leaves to end first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// What it is for.
    pub purpose: String,
    /// Where it runs.
    pub host: String,
    /// Its process there.
    pub pid: u32,
    /// Since when.
    pub since: Time,
}

impl std::fmt::Display for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Waiting { purpose, host, pid, since } = self;
        write!(f, "waiting for session '{purpose}' on {host} (process {pid}, since {since})")
    }
}

/// What a prune did, or would do.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The session that must end before the rest can be freed; the next prune goes on then.
    pub waiting: Option<Waiting>,
    /// Packs deleted, the old ones of those rewritten among them.
    pub packs_deleted: u64,
    /// Their bytes.
    pub bytes_deleted: u64,
    /// Packs rewritten.
    pub packs_rewritten: u64,
    /// Bytes written for that.
    pub bytes_written: u64,
    /// Packs condemned, by this or an earlier prune, that turned out to be needed.
    pub packs_uncondemned: u64,
    /// Packs that wait for that session, and their bytes.
    pub packs_waiting: u64,
    /// See `packs_waiting`.
    pub bytes_waiting: u64,
    /// Forgotten snapshots that are gone for good.
    pub snapshots_removed: Vec<SnapshotId>,
    /// What comes back later, and when, oldest first: forgotten snapshots that are held.
    pub later: Vec<(Time, u64)>,
    /// Forgotten snapshots that `release_held` does not free, being within their window, and when the last of these ends.
    pub in_window: Option<(u64, Time)>,
    /// Packs that could not be rewritten because they are damaged.
    pub packs_damaged: u64,
    /// Bytes of packs before.
    pub bytes_before: u64,
    /// Bytes that nothing needs and that stay, not being worth a rewrite.
    pub bytes_unused: u64,
}

impl Outcome {
    /// What was, or would be, given back on balance, in bytes.
    pub fn freed(&self) -> u64 {
        self.bytes_deleted.saturating_sub(self.bytes_written)
    }
}

/// Frees what no snapshot needs.
///
/// # Errors
/// `Locked` while another prune runs; `Clock`; `Refused` if held snapshots are to be released and all are in their window; `Damaged` when a snapshot cannot be read, with nothing deleted;
/// `Interrupted`. Whatever the error, the repository is sound, and the next prune goes on from there.
pub fn prune(repo: &Repository, options: &Options, monitor: &dyn Monitor) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    if options.dry_run {
        foresee(repo, options, monitor, &mut outcome)?;
        return Ok(outcome);
    }
    let guard = repo.locks.prune(Duration::ZERO)?;
    with_room(repo, monitor, &mut || run(repo, options, &guard, monitor, &mut outcome))?;
    Ok(outcome)
}

fn run(
    repo: &Repository,
    options: &Options,
    guard: &PruneGuard,
    monitor: &dyn Monitor,
    outcome: &mut Outcome,
) -> Result<()> {
    repo.log.refresh()?;
    let commit = repo.locks.commit(COMMIT_WAIT)?;
    require_clock(repo, options.accept_clock, Some(&commit))?;
    drop(commit);
    let before = carry_out(repo, guard, None, monitor)?;
    outcome.packs_deleted += before.packs;
    outcome.bytes_deleted += before.bytes;
    outcome.snapshots_removed.extend(before.snapshots);
    let session = Session::begin(Arc::clone(&repo.log), repo.locks.clone(), "prune", None)?;
    let mut unrecorded = false;
    let result = work(repo, options, guard, &session, monitor, (outcome, &mut unrecorded));
    if unrecorded {
        // Left for dead: the next open then adopts the packs that are complete.
        return result;
    }
    let ended = session.end(if result.is_ok() { Ended::Done } else { Ended::Failed });
    result.and(ended.map(drop))
}

fn work(
    repo: &Repository,
    options: &Options,
    guard: &PruneGuard,
    session: &Session,
    monitor: &dyn Monitor,
    (outcome, unrecorded): (&mut Outcome, &mut bool),
) -> Result<()> {
    let state = repo.refresh(monitor)?;
    let start = Start::of(repo, &state, Some(session.id()))?;
    let mut marks = Marker::new(repo, monitor);
    mark_all(repo, &state, options, &mut marks, outcome, monitor)?;
    let plan = make_plan(repo, &marks, &start, options)?;
    let strays = strays::find(repo, monitor)?;
    outcome.bytes_before = plan.total + strays.iter().map(|(_, size)| size).sum::<u64>();
    outcome.bytes_unused = plan.left;
    let tolerance = plan.tolerance;
    let mut run = Run { repo, options, guard, session, marks, tolerance, monitor, outcome, unrecorded, batches: 0 };
    // Not those that only a rebuild of this index calls condemned.
    let again: Vec<_> = plan.needed_again.into_iter().filter(|id| state.condemned.contains_key(id)).collect();
    run.uncondemn(&again)?;
    run.condemn(plan.unused.iter().chain(&strays).map(|(id, _)| *id).collect())?;
    monitor.event(Event::Phase("sweep"));
    run.sweep()?;
    run.rewrite(plan.rewrite)?;
    if run.outcome.packs_deleted > 0 {
        rollups::drop_unused(repo, monitor)?;
    }
    Ok(())
}

/// What there was when the marking began.
struct Start {
    sessions: BTreeSet<SessionId>,
    newest: Option<PackNo>,
    generation: u64,
}

impl Start {
    fn of(repo: &Repository, state: &State, own: Option<SessionId>) -> Result<Start> {
        let sessions = state.sessions.keys().copied().filter(|id| Some(*id) != own).collect();
        let generation = repo.index.generation();
        let mut newest = None;
        repo.index.packs(&mut |info| {
            newest = newest.max(Some(info.no));
            Ok(())
        })?;
        Ok(Start { sessions, newest, generation })
    }
}

fn make_plan(repo: &Repository, marks: &Marker<'_>, start: &Start, options: &Options) -> Result<Plan> {
    let bounds = Bounds {
        newest: start.newest,
        sessions: &start.sessions,
        max_unused: options.max_unused,
        data_elsewhere: options.data_elsewhere,
    };
    let plan = plan::make(repo, marks, &bounds)?;
    if repo.index.generation() != start.generation {
        return Err(Error::new(Kind::Locked, "another process rebuilt the index meanwhile").remedy("try again"));
    }
    Ok(plan)
}

/// What must be kept whole, as seen at one moment.
struct Roots<'a> {
    state: &'a State,
    options: &'a Options,
    now: Time,
    ends: Ends<'a>,
}

impl<'a> Roots<'a> {
    fn new(state: &'a State, options: &'a Options, now: Time) -> Roots<'a> {
        Roots { state, options, now, ends: Ends::new(state, now, options.hold) }
    }

    /// Whether a snapshot must be kept whole, and if so until when: no time for one that is not forgotten.
    fn root(&self, id: &SnapshotId, snapshot: &SnapshotState) -> Option<Option<Time>> {
        let Roots { state, options, .. } = self;
        if state.sweep.as_ref().is_some_and(|sweep| sweep.snapshots.contains(id)) {
            return None;
        }
        let needed = snapshot.pinned || state.sessions.values().any(|s| s.parent == Some(*id));
        let supposed = options.suppose_forgotten.contains(id).then_some(self.now);
        match snapshot.forgotten.or(supposed).filter(|_| !needed) {
            None => Some(None),
            Some(at) => {
                let tenant = snapshot.origin.map(|origin| origin.tenant);
                let release = options.release_held || (tenant.is_some() && tenant == options.release_tenant);
                let until = match release {
                    true => self.ends.window(id, snapshot),
                    false => self.ends.held(id, snapshot, at),
                };
                (until > self.now).then_some(Some(until))
            }
        }
    }

    /// Every snapshot that must be kept whole.
    fn all(&self) -> impl Iterator<Item = (Option<Time>, SnapshotId)> {
        self.state.snapshots.iter().filter_map(|(id, s)| Some((self.root(id, s)?, *id)))
    }

    /// Every snapshot that may go.
    fn doomed(&self) -> Vec<SnapshotId> {
        let gone = self.state.snapshots.iter().filter(|(id, s)| self.root(id, s).is_none());
        gone.map(|(id, _)| *id).collect()
    }

    /// What is not released for the window's sake.
    ///
    /// # Errors
    /// `Refused` if nothing else is to be released.
    fn in_window(&self) -> Result<Option<(u64, Time)>> {
        if !self.options.release_held {
            return Ok(None);
        }
        let ends: Vec<Time> = self.all().filter_map(|(until, _)| until).collect();
        let Some((first, last)) = ends.iter().min().zip(ends.iter().max()) else { return Ok(None) };
        if self.doomed().is_empty() {
            let why = format!(
                "every forgotten snapshot is within the window in which nobody may delete, until {first} or later"
            );
            return Err(Error::new(Kind::Refused, why).remedy("leave --release-held out, or wait until then"));
        }
        Ok(Some((ends.len() as u64, *last)))
    }
}

/// Marks live, pinned and held snapshots; the held ones last, by the end of their hold, so that it shows what each gives
/// back.
fn mark_all(
    repo: &Repository,
    state: &State,
    options: &Options,
    marks: &mut Marker<'_>,
    outcome: &mut Outcome,
    monitor: &dyn Monitor,
) -> Result<()> {
    monitor.event(Event::Phase("mark"));
    let now = repo.clock.now();
    let known = Roots::new(state, options, now);
    outcome.in_window = known.in_window()?;
    let mut roots: Vec<(Option<Time>, SnapshotId)> = known.all().collect();
    // Those without an end first, then by the latest end: what only the earlier ones need comes back earlier.
    roots.sort_by_key(|(until, id)| (until.is_some(), std::cmp::Reverse(*until), *id));
    Counters::add(&monitor.counters().total_files, roots.len() as u64);
    outcome.later.clear();
    for (until, id) in roots {
        marks.stored = 0;
        marks.snapshot(&id)?;
        Counters::add(&monitor.counters().files, 1);
        if let Some(until) = until {
            match outcome.later.last_mut() {
                Some((last, bytes)) if *last == until => *bytes += marks.stored,
                _ => outcome.later.push((until, marks.stored)),
            }
        }
    }
    outcome.later.reverse();
    Ok(())
}

/// A dry run: marks and plans.
fn foresee(repo: &Repository, options: &Options, monitor: &dyn Monitor, outcome: &mut Outcome) -> Result<()> {
    let state = repo.log.state();
    require_clock(repo, options.accept_clock, None)?;
    let start = Start::of(repo, &state, None)?;
    let mut marks = Marker::new(repo, monitor);
    mark_all(repo, &state, options, &mut marks, outcome, monitor)?;
    let plan = make_plan(repo, &marks, &start, options)?;
    let now = repo.clock.now();
    outcome.snapshots_removed = Roots::new(&state, options, now).doomed();
    let strays = if repo.access == Access::Read { Vec::new() } else { strays::find(repo, monitor)? };
    outcome.packs_deleted = (plan.unused.len() + strays.len() + plan.rewrite.len()) as u64;
    outcome.bytes_deleted = plan.unused.iter().chain(&strays).map(|(_, size)| size).sum();
    outcome.packs_rewritten = plan.rewrite.len() as u64;
    outcome.bytes_written = plan.rewrite.iter().map(|r| r.info.size.saturating_sub(r.gain)).sum();
    outcome.bytes_deleted += plan.rewrite.iter().map(|r| r.info.size).sum::<u64>();
    outcome.bytes_before = plan.total + strays.iter().map(|(_, size)| size).sum::<u64>();
    outcome.bytes_unused = plan.left;
    outcome.waiting = oldest_living(repo, &state, None, u64::MAX)?.map(|(_, waiting)| waiting);
    Ok(())
}

/// The living session that began first, if before record `seq`.
fn oldest_living(repo: &Repository, state: &State, own: Option<SessionId>, seq: u64) -> Result<Option<(u64, Waiting)>> {
    let mut oldest: Option<&SessionState> = None;
    for (id, session) in &state.sessions {
        let older = session.begin_seq < seq && oldest.is_none_or(|o| session.begin_seq < o.begin_seq);
        if Some(*id) != own && older && repo.locks.session_alive(session.number)? {
            oldest = Some(session);
        }
    }
    Ok(oldest.map(|s| {
        let (purpose, host) = (s.purpose.clone(), s.host.clone());
        (s.begin_seq, Waiting { purpose, host, pid: s.pid, since: s.at })
    }))
}

#[cfg(test)]
mod tests;
