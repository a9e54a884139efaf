//! Retention: which snapshots of one history are kept. Pure; the rules are restic's.
//!
//! Going from the newest to the oldest, a rule that counts periods keeps the first snapshot it meets of each period until
//! its count is used up; the oldest of all is kept too while the count is not, though its period has one. What any rule
//! keeps is kept.

use crate::clock::{Civil, Time};
use crate::id::SnapshotId;

/// How many a rule keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// So many.
    Newest(u32),
    /// All.
    Unlimited,
}

/// A span of calendar time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Within {
    /// Calendar years.
    pub years: u32,
    /// Calendar months.
    pub months: u32,
    /// Days.
    pub days: u32,
    /// Hours.
    pub hours: u32,
}

/// Rules for one history. Without any, nothing may be forgotten: see [`Policy::is_empty`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The newest.
    pub last: Option<Count>,
    /// One an hour.
    pub hourly: Option<Count>,
    /// One a day.
    pub daily: Option<Count>,
    /// One an ISO week.
    pub weekly: Option<Count>,
    /// One a month.
    pub monthly: Option<Count>,
    /// One a year.
    pub yearly: Option<Count>,
    /// All that are younger than the newest by less than this.
    pub within: Option<Within>,
    /// All that have every tag of one of these lists.
    pub tags: Vec<Vec<String>>,
}

/// Why a snapshot is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is pinned.
    Pinned,
    /// It is among the newest.
    Last,
    /// It is its hour's.
    Hourly,
    /// It is its day's.
    Daily,
    /// It is its week's.
    Weekly,
    /// It is its month's.
    Monthly,
    /// It is its year's.
    Yearly,
    /// It is the oldest, and hours were to spare; its own has another.
    OldestHourly,
    /// It is the oldest, and days were to spare.
    OldestDaily,
    /// It is the oldest, and weeks were to spare.
    OldestWeekly,
    /// It is the oldest, and months were to spare.
    OldestMonthly,
    /// It is the oldest, and years were to spare.
    OldestYearly,
    /// It is young enough.
    Within,
    /// It has the tags.
    Tags,
    /// It was received within the window: rules come to it later.
    Window,
    /// It is not yet at a remote.
    Unpushed,
}

impl Reason {
    /// In words, as restic prints them.
    pub fn words(self) -> &'static str {
        match self {
            Reason::Pinned => "pinned",
            Reason::Last => "last snapshot",
            Reason::Hourly => "hourly snapshot",
            Reason::Daily => "daily snapshot",
            Reason::Weekly => "weekly snapshot",
            Reason::Monthly => "monthly snapshot",
            Reason::Yearly => "yearly snapshot",
            Reason::OldestHourly => "oldest hourly snapshot",
            Reason::OldestDaily => "oldest daily snapshot",
            Reason::OldestWeekly => "oldest weekly snapshot",
            Reason::OldestMonthly => "oldest monthly snapshot",
            Reason::OldestYearly => "oldest yearly snapshot",
            Reason::Within => "within the span",
            Reason::Tags => "has the tags",
            Reason::Window => "within the window",
            Reason::Unpushed => "not at every remote yet",
        }
    }

    /// Of the rule that keeps one snapshot a period: that this is none of those.
    fn oldest(self) -> Reason {
        match self {
            Reason::Hourly => Reason::OldestHourly,
            Reason::Daily => Reason::OldestDaily,
            Reason::Weekly => Reason::OldestWeekly,
            Reason::Monthly => Reason::OldestMonthly,
            Reason::Yearly => Reason::OldestYearly,
            other => other,
        }
    }
}

/// One snapshot of a history.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Which.
    pub id: SnapshotId,
    /// When it counts as recorded: see [`crate::times`].
    pub time: Time,
    /// Its record in the log: what decides between equal times.
    pub seq: u64,
    /// Its tags.
    pub tags: Vec<String>,
    /// Whether retention passes it by.
    pub pinned: bool,
}

/// What becomes of one snapshot: without reasons to keep it, it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Which.
    pub id: SnapshotId,
    /// The time it was judged by.
    pub time: Time,
    /// Why it is kept.
    pub keep: Vec<Reason>,
}

/// Seconds to add to UTC for the local time at a moment.
pub type Zone<'a> = &'a dyn Fn(Time) -> i64;

impl Policy {
    /// Whether there is no rule at all.
    pub fn is_empty(&self) -> bool {
        *self == Policy::default()
    }

    /// As the log keeps it: a line a rule, such as `daily=7`, `monthly=unlimited`, `within=1y5m7d2h` or `tag=a,b`.
    pub fn to_words(&self) -> String {
        let count = |(name, count): (&str, Option<Count>)| match count? {
            Count::Newest(n) => Some(format!("{name}={n}")),
            Count::Unlimited => Some(format!("{name}=unlimited")),
        };
        let mut lines: Vec<String> = NAMES.into_iter().zip(self.counts()).filter_map(count).collect();
        lines.extend(self.within.map(|w| format!("within={}y{}m{}d{}h", w.years, w.months, w.days, w.hours)));
        lines.extend(self.tags.iter().map(|list| format!("tag={}", list.join(","))));
        lines.join("\n")
    }

    /// What [`Policy::to_words`] gave; none for other words, and without a rule.
    pub fn from_words(words: &str) -> Option<Policy> {
        let mut policy = Policy::default();
        for line in words.lines() {
            let (name, value) = line.split_once('=')?;
            match name {
                "within" => policy.within = Some(within(value)?),
                "tag" => policy.tags.push(value.split(',').map(str::to_owned).collect()),
                _ => {
                    let count =
                        if value == "unlimited" { Count::Unlimited } else { Count::Newest(value.parse().ok()?) };
                    let at = NAMES.iter().position(|known| *known == name)?;
                    let rules = [
                        &mut policy.last,
                        &mut policy.hourly,
                        &mut policy.daily,
                        &mut policy.weekly,
                        &mut policy.monthly,
                        &mut policy.yearly,
                    ];
                    *rules.into_iter().nth(at)? = Some(count);
                }
            }
        }
        Some(policy).filter(|policy| !policy.is_empty())
    }

    fn counts(&self) -> [Option<Count>; 6] {
        [self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly]
    }
}

/// The rules that count, in the log's words.
const NAMES: [&str; 6] = ["last", "hourly", "daily", "weekly", "monthly", "yearly"];

/// `1y5m7d2h`, all four parts.
fn within(value: &str) -> Option<Within> {
    let (years, rest) = value.split_once('y')?;
    let (months, rest) = rest.split_once('m')?;
    let (days, rest) = rest.split_once('d')?;
    let hours = rest.strip_suffix('h')?;
    Some(Within {
        years: years.parse().ok()?,
        months: months.parse().ok()?,
        days: days.parse().ok()?,
        hours: hours.parse().ok()?,
    })
}

/// Decides about one history, newest first. Periods begin and end by `zone`.
pub fn decide(policy: &Policy, mut history: Vec<Candidate>, zone: Zone<'_>) -> Vec<Decision> {
    history.sort_by_key(|c| std::cmp::Reverse((c.time, c.seq, c.id)));
    let mut buckets = buckets(policy);
    let young = history.first().zip(policy.within).map(|(newest, within)| back(newest.time, within, zone));
    let oldest = history.len().saturating_sub(1);
    let mut out = Vec::with_capacity(history.len());
    for (i, candidate) in history.iter().enumerate() {
        let mut keep = Vec::new();
        if candidate.pinned {
            keep.push(Reason::Pinned);
        }
        if policy.tags.iter().any(|list| list.iter().all(|tag| candidate.tags.contains(tag))) {
            keep.push(Reason::Tags);
        }
        if young.is_some_and(|young| candidate.time > young) {
            keep.push(Reason::Within);
        }
        let local = local(candidate.time, zone);
        keep.extend(buckets.iter_mut().filter_map(|bucket| bucket.take(local, i as i64, i == oldest)));
        out.push(Decision { id: candidate.id, time: candidate.time, keep });
    }
    out
}

fn local(time: Time, zone: Zone<'_>) -> Civil {
    Time(time.0.saturating_add(zone(time).saturating_mul(1_000_000_000))).civil()
}

struct Bucket {
    reason: Reason,
    left: Count,
    last: Option<i64>,
}

fn buckets(policy: &Policy) -> Vec<Bucket> {
    let reasons = [Reason::Last, Reason::Hourly, Reason::Daily, Reason::Weekly, Reason::Monthly, Reason::Yearly];
    let rules = reasons.into_iter().zip(policy.counts());
    rules.filter_map(|(reason, left)| Some(Bucket { reason, left: left?, last: None })).collect()
}

impl Bucket {
    fn take(&mut self, at: Civil, ordinal: i64, oldest: bool) -> Option<Reason> {
        if self.left == Count::Newest(0) {
            return None;
        }
        let period = self.period(at, ordinal);
        let taken = self.last == Some(period);
        if taken && !oldest {
            return None;
        }
        self.last = Some(period);
        if let Count::Newest(left) = &mut self.left {
            *left -= 1;
        }
        Some(if taken { self.reason.oldest() } else { self.reason })
    }

    fn period(&self, at: Civil, ordinal: i64) -> i64 {
        let day = days(at);
        match self.reason {
            Reason::Hourly => day * 24 + i64::from(at.hour),
            Reason::Daily => day,
            // Day 0 was a Thursday; weeks begin on Mondays, and their number alone tells them apart.
            Reason::Weekly => (day + 3).div_euclid(7),
            Reason::Monthly => at.year * 12 + i64::from(at.month),
            Reason::Yearly => at.year,
            _ => ordinal,
        }
    }
}

/// The local date's day, counted from 1970-01-01.
fn days(at: Civil) -> i64 {
    let midnight = Civil { hour: 0, minute: 0, second: 0, nanos: 0, ..at };
    Time::from_civil(midnight).unwrap_or(Time(i64::MIN)).secs().div_euclid(DAY)
}

const DAY: i64 = 24 * 3600;

/// `span` before `time` by the calendar. A day that the month does not have runs over into the next month.
fn back(time: Time, span: Within, zone: Zone<'_>) -> Time {
    let at = local(time, zone);
    let months = at.year * 12 + i64::from(at.month) - 1 - i64::from(span.years) * 12 - i64::from(span.months);
    let first = Civil { year: months.div_euclid(12), month: months.rem_euclid(12) as u8 + 1, day: 1, ..at };
    let Some(first) = Time::from_civil(first) else { return Time(i64::MIN) };
    let secs = (i64::from(at.day) - 1 - i64::from(span.days)) * DAY - i64::from(span.hours) * 3600;
    let there = first.0.saturating_add(secs.saturating_mul(1_000_000_000));
    Time(there.saturating_sub(zone(time).saturating_mul(1_000_000_000)))
}

#[cfg(test)]
mod tests;
