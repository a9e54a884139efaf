//! What holds for a tenant's snapshots: how long they are held once forgotten, how long nobody may delete them, what is kept.
//!
//! One order of precedence, here alone: the command line, then what is said of the tenant, then what is said of the pool,
//! then what is built in: a hold of 72 hours, no window, and everything is kept. What is *shorter* than it was holds only
//! for what is received from then on: a window that could be taken back at will would be none.

use std::time::Duration;

use crate::clock::Time;
use crate::error::{Error, Kind, Result};
use crate::format::record::{PolicyState, Record, RemoteState, SnapshotState, State};
use crate::id::SnapshotId;
use crate::lock::COMMIT_WAIT;
use crate::open::Repository;
use crate::retention::Policy;
use crate::times::Times;

/// How long a forgotten snapshot can be brought back, unless told otherwise.
pub const HOLD: Duration = Duration::from_secs(72 * 3600);
/// What stands for a tenant of which everything is kept, whatever the pool says.
pub const KEEP_ALL: &str = "all";

/// How long forgotten snapshots are held: a tenant's, or the repository's own.
pub fn hold(state: &State, tenant: Option<u32>) -> Duration {
    let own = tenant.and_then(|number| state.tenants.get(&number)?.hold);
    own.or(state.policy.hold).map_or(HOLD, Duration::from_secs)
}

/// How long after its receipt nobody may delete what is received now.
pub fn window(state: &State, tenant: Option<u32>) -> Duration {
    let own = tenant.and_then(|number| state.tenants.get(&number)?.window);
    Duration::from_secs(own.or(state.policy.window).unwrap_or(0))
}

/// Until when nobody may delete what was received at a time; long ago where there is no window.
pub fn window_ends(state: &State, tenant: Option<u32>, received: Time) -> Time {
    let former = tenant.and_then(|number| state.former.get(&number)).into_iter().flatten();
    let longer = former.filter(|former| received <= former.until).map(|former| Duration::from_secs(former.window));
    match longer.max().unwrap_or_default().max(window(state, tenant)) {
        Duration::ZERO => Time(i64::MIN),
        window => received.plus(window),
    }
}

/// What is kept of a tenant's histories; none: everything.
///
/// # Errors
/// `NewerFormat` if the log says it in words that this program does not know.
pub fn retention(state: &State, tenant: Option<u32>) -> Result<Option<Policy>> {
    let own = tenant.and_then(|number| state.tenants.get(&number)).map_or("", |tenant| &tenant.retention);
    match if own.is_empty() { &state.policy.retention } else { own } {
        "" | KEEP_ALL => Ok(None),
        words => Policy::from_words(words).map(Some).ok_or_else(|| {
            let whose = tenant.map(|number| crate::history::tenant_name(state, number)).unwrap_or_default();
            Error::new(Kind::NewerFormat, format!("the retention rules of {whose} are in words of a newer program's"))
                .remedy("update packmule, or set the rules anew")
        }),
    }
}

/// Until when snapshots are held and may not be deleted, as seen at one moment.
pub struct Ends<'a> {
    state: &'a State,
    times: Times,
    hold: Option<Duration>,
}

impl<'a> Ends<'a> {
    /// At `now`; with a `hold` in place of each tenant's.
    pub fn new(state: &'a State, now: Time, hold: Option<Duration>) -> Ends<'a> {
        // Only a window asks when something was received.
        let any = state.policy.window.is_some()
            || !state.former.is_empty()
            || state.tenants.values().any(|tenant| tenant.window.is_some());
        Ends { state, times: if any { Times::of(state, now) } else { Times::default() }, hold }
    }

    /// Until when nobody may delete the snapshot.
    pub fn window(&self, id: &SnapshotId, snapshot: &SnapshotState) -> Time {
        let received = self.times.get(id).map_or(snapshot.received, |moment| moment.received);
        window_ends(self.state, snapshot.origin.map(|origin| origin.tenant), received)
    }

    /// Until when a snapshot forgotten at `at` can be brought back: to the end of its hold, and of its window.
    pub fn held(&self, id: &SnapshotId, snapshot: &SnapshotState, at: Time) -> Time {
        let hold = self.hold.unwrap_or_else(|| hold(self.state, snapshot.origin.map(|origin| origin.tenant)));
        at.plus(hold).max(self.window(id, snapshot))
    }
}

/// Whether a remote does not have the snapshot yet, as far as this repository knows.
pub fn lacks(remote: &RemoteState, snapshot: &SnapshotState) -> bool {
    match (remote.pushed, remote.pushed_at) {
        // After a repair of the log nobody knows its record: what the push came after went with it.
        (Some(_), Some(at)) if snapshot.seq == 0 => snapshot.received > at,
        (Some(pushed), _) => snapshot.seq == 0 || snapshot.seq > pushed.seq,
        (None, _) => true,
    }
}

/// The name of a remote that lacks the snapshot.
pub fn lacking<'a>(state: &'a State, snapshot: &SnapshotState) -> Option<&'a str> {
    state.remotes.iter().find(|(_, remote)| lacks(remote, snapshot)).map(|(name, _)| name.as_str())
}

/// Changes what holds for all tenants of which nothing else is said.
///
/// # Errors
/// What the log gives.
pub fn set(repo: &Repository, change: &dyn Fn(&mut PolicyState)) -> Result<()> {
    let commit = repo.locks.commit(COMMIT_WAIT)?;
    repo.log.refresh()?;
    let before = repo.log.state().policy.clone();
    let mut policy = before.clone();
    change(&mut policy);
    if policy != before {
        repo.log.append(&commit, Record::PolicySet { policy })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::record::{Entry, TenantState};
    use crate::id::LogHash;

    const DAY: u64 = 24 * 3600;

    fn day(n: u64) -> Time {
        Time::from_secs((n * DAY) as i64)
    }

    struct Pool(State);

    impl Pool {
        fn apply(&mut self, at: Time, record: Record) {
            let seq = self.0.position.seq + 1;
            self.0.apply(&Entry { seq, time: at, trusted: true, record }, LogHash([0; 32]));
        }

        fn tenant(&mut self, at: Time, hold: Option<u64>, window: Option<u64>) {
            let state = TenantState { hold, window, ..TenantState::new("acme", false, day(0)) };
            self.apply(at, Record::TenantSet { tenant: 5, state: Box::new(state) });
        }

        fn pool(&mut self, at: Time, window: Option<u64>) {
            self.apply(at, Record::PolicySet { policy: PolicyState { window, ..PolicyState::default() } });
        }

        fn ends(&self, received: u64) -> u64 {
            window_ends(&self.0, Some(5), day(received)).max(day(received)).secs() as u64 / DAY
        }
    }

    #[test]
    fn the_tenant_s_word_goes_before_the_pool_s() {
        let mut pool = Pool(State::default());
        pool.tenant(day(1), None, None);
        assert_eq!((hold(&pool.0, Some(5)), window(&pool.0, Some(5))), (HOLD, Duration::ZERO));
        let policy = PolicyState { hold: Some(DAY), window: Some(7 * DAY), retention: "daily=3".into() };
        pool.apply(day(1), Record::PolicySet { policy });
        assert_eq!(hold(&pool.0, Some(5)), Duration::from_secs(DAY));
        assert_eq!(window(&pool.0, Some(5)), Duration::from_secs(7 * DAY));
        assert!(retention(&pool.0, Some(5)).unwrap().unwrap().daily.is_some());
        pool.tenant(day(1), Some(0), Some(9 * DAY));
        assert_eq!((hold(&pool.0, Some(5)), pool.ends(1)), (Duration::ZERO, 10));
        pool.0.tenants.get_mut(&5).unwrap().retention = KEEP_ALL.into();
        assert_eq!(retention(&pool.0, Some(5)).unwrap(), None);
        pool.0.tenants.get_mut(&5).unwrap().retention = "fortnightly=3".into();
        assert_eq!(retention(&pool.0, Some(5)).unwrap_err().kind(), Kind::NewerFormat);
    }

    #[test]
    fn a_shorter_window_is_for_what_comes_after() {
        let mut pool = Pool(State::default());
        pool.tenant(day(0), None, Some(30 * DAY));
        pool.tenant(day(10), None, Some(0));
        assert_eq!((pool.ends(9), pool.ends(10), pool.ends(11)), (39, 40, 11));
        // Longer at once, also for what is there.
        pool.tenant(day(12), None, Some(60 * DAY));
        assert_eq!((pool.ends(9), pool.ends(11)), (69, 71));
        // Also by way of the pool, and not by giving the tenant's own up.
        pool.tenant(day(13), None, None);
        assert_eq!((pool.ends(11), pool.ends(14)), (71, 14));
        pool.pool(day(20), Some(5 * DAY));
        pool.pool(day(21), None);
        assert_eq!((pool.ends(21), pool.ends(22)), (26, 22));
        // Again and again does not wear it off, nor fill the state.
        for n in 0..1000 {
            pool.tenant(day(30), None, Some(n % 2 * 8 * DAY));
        }
        assert!(pool.0.former[&5].len() <= 2);
        assert_eq!((pool.ends(11), pool.ends(30)), (71, 38));
        // What can hold nothing any more is forgotten.
        pool.tenant(day(999), None, Some(DAY));
        pool.tenant(day(1010), None, None);
        assert_eq!(pool.0.former[&5].len(), 1);
    }
}
