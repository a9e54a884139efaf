//! The times that snapshots count by. Nothing else decides which of two snapshots is the newer, or how old one is.
//!
//! Every time in the log was written by some machine's clock, and a clock can be wrong; the *order* of the log's records
//! cannot. So of the times at which snapshots were received, the longest run that grows with the log and does not pass
//! the present is believed, and those outside it are clamped to the ones before them. One backup made with a clock ten
//! years off, in either direction, then keeps its place among the others and moves none of them. See decision 4 in
//! `docs/decisions`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::{SKEW, Time};
use crate::format::record::{SnapshotState, State};
use crate::id::SnapshotId;

/// Recorded and received this close to each other, a snapshot was recorded here, by the same clock; further apart, elsewhere.
const OWN: Duration = Duration::from_secs(3600);

/// The times that one snapshot counts by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// When this repository received it.
    pub received: Time,
    /// When the first repository recorded it, but not after `received`: retention and "newest" go by it.
    pub recorded: Time,
    /// When its capture began, but not after `recorded`: `--at` and ages go by it.
    pub captured: Time,
    /// Its record in the log, which decides between equal times; 0 if nobody knows.
    pub seq: u64,
    /// Whether the log says that it was received in the future.
    pub ahead: bool,
}

impl Moment {
    /// Sorts snapshots from the oldest to the newest, together with their ids.
    pub fn order(&self) -> (Time, u64) {
        (self.recorded, self.seq)
    }
}

/// The times of all snapshots of a repository.
#[derive(Clone, Debug, Default)]
pub struct Times(BTreeMap<SnapshotId, Moment>);

impl Times {
    /// As seen at `now`. `state` must be whole: a snapshot's place is found among all others, forgotten ones too.
    pub fn of(state: &State, now: Time) -> Times {
        let present = now.plus(SKEW);
        let mut placed: Vec<(u64, Time, SnapshotId)> =
            state.snapshots.iter().filter(|(_, s)| s.seq > 0).map(|(id, s)| (s.seq, s.received, *id)).collect();
        placed.sort_unstable();
        let raw: Vec<Time> = placed.iter().map(|(_, received, _)| *received).collect();
        let received = plausible(&raw, present);
        let newest = received.last().copied();
        let mut known: BTreeMap<SnapshotId, Time> = BTreeMap::new();
        known.extend(placed.iter().zip(&received).map(|((_, _, id), time)| (*id, *time)));
        let moment = |(id, s): (&SnapshotId, &SnapshotState)| {
            // Without a place in the log, as after a repair, only the present can contradict.
            let unplaced = || if s.received > present { newest.unwrap_or(now) } else { s.received };
            let received = known.get(id).copied().unwrap_or_else(unplaced);
            (*id, Moment::new(s, received, present))
        };
        Times(state.snapshots.iter().map(moment).collect())
    }

    /// One snapshot's; none for an id that the state did not have.
    pub fn get(&self, id: &SnapshotId) -> Option<&Moment> {
        self.0.get(id)
    }

    /// As [`Moment::order`], with the id last; an unknown snapshot is the oldest.
    pub fn order(&self, id: &SnapshotId) -> (Option<(Time, u64)>, SnapshotId) {
        (self.get(id).map(Moment::order), *id)
    }
}

impl Moment {
    fn new(s: &SnapshotState, received: Time, present: Time) -> Moment {
        let clamped = received != s.received;
        let own = s.received.since(s.recorded).max(s.recorded.since(s.received)) <= OWN;
        // The clock that was wrong when it was received was the one that recorded and captured it.
        let (recorded, captured) = match clamped && own {
            true => (received, received),
            false => (s.recorded.min(received), s.captured),
        };
        Moment { received, recorded, captured: captured.min(recorded), seq: s.seq, ahead: s.received > present }
    }
}

/// For times in the order of the log, the times to go by: those of the longest run that never falls and does not pass
/// `present` as they are, each other the one of the run before it, or if there is none, the one after it. Where all
/// times are past the present, it is the present that is not believed.
fn plausible(raw: &[Time], present: Time) -> Vec<Time> {
    let present = if raw.iter().any(|time| *time <= present) { present } else { Time(i64::MAX) };
    let run = longest_run(raw, present);
    let mut out = Vec::with_capacity(raw.len());
    let mut following = run.iter().peekable();
    let mut at = run.first().map_or(present, |&first| raw[first]);
    for (i, time) in raw.iter().enumerate() {
        if following.next_if_eq(&&i).is_some() {
            at = *time;
        }
        out.push(at);
    }
    out
}

/// The indices of the run, ascending. Built from the end, so that among runs of one length it is the one with the latest
/// times at its front: a clock is more often reset to long ago than set ahead.
fn longest_run(raw: &[Time], present: Time) -> Vec<usize> {
    // `heads[n]`: where the run of length n + 1 with the latest head begins; `next`: how each goes on.
    let mut heads: Vec<usize> = Vec::new();
    let mut next: Vec<Option<usize>> = vec![None; raw.len()];
    for i in (0..raw.len()).rev().filter(|&i| raw[i] <= present) {
        let before = heads.partition_point(|&head| raw[head] >= raw[i]);
        next[i] = before.checked_sub(1).map(|n| heads[n]);
        match heads.get_mut(before) {
            Some(head) => *head = i,
            None => heads.push(i),
        }
    }
    std::iter::successors(heads.last().copied(), |&i| next[i]).collect()
}

#[cfg(test)]
mod tests;
