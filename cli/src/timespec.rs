//! Times and spans as typed.

use std::str::FromStr;

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use repo::clock::Time;

use crate::output::human;

/// A point in time as typed, in the local zone unless it carries one. A date alone is its whole day, a time without
/// fraction its whole second: snapshots are shown to the second, and what is shown must be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    first: Timestamp,
    last: Timestamp,
}

impl At {
    /// The first instant meant: for "at or after".
    pub fn first(&self) -> Timestamp {
        self.first
    }

    /// The last instant meant: for "at or before".
    pub fn last(&self) -> Timestamp {
        self.last
    }

    fn second(first: Timestamp) -> At {
        let whole = first.subsec_nanosecond() == 0;
        let last = first.checked_add(SignedDuration::from_nanos(if whole { 999_999_999 } else { 0 }));
        At { first, last: last.unwrap_or(first) }
    }

    /// Parses `2026-11-17`, `2026-11-17 18:00[:00]`, RFC 3339, or a mount's directory name `2026-11-17T18-00-00Z`.
    pub fn parse(text: &str, zone: &TimeZone) -> Result<At, String> {
        let text = text.trim();
        if let Ok(instant) = text.parse::<Timestamp>() {
            return Ok(At::second(instant));
        }
        if let Some(instant) = directory_name(text) {
            return Ok(At::second(instant));
        }
        let wrong =
            |_| format!("'{text}' is not a time such as \"2026-11-17 18:00\", 2026-11-17 or 2026-11-17T18:00:00Z");
        let resolve = |civil: DateTime| civil.to_zoned(zone.clone()).map(|z| z.timestamp()).map_err(wrong);
        if text.len() == "2026-11-17".len() {
            let date: Date = text.parse().map_err(wrong)?;
            let first = resolve(date.at(0, 0, 0, 0))?;
            let last = resolve(date.at(23, 59, 59, 999_999_999))?;
            return Ok(At { first, last });
        }
        let instant = resolve(text.parse().map_err(wrong)?)?;
        Ok(At::second(instant))
    }
}

/// `2026-11-17T18-00-00Z`, as a mount names its directories.
fn directory_name(text: &str) -> Option<Timestamp> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    if time.len() != "18-00-00".len() {
        return None;
    }
    format!("{date}T{}Z", time.replace('-', ":")).parse().ok()
}

impl FromStr for At {
    type Err = String;

    fn from_str(s: &str) -> Result<At, String> {
        At::parse(s, &TimeZone::system())
    }
}

/// A span of calendar time as restic writes it: `1y5m7d2h`, `72h`, `2w`. `m` is months.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Calendar years.
    pub years: u32,
    /// Calendar months.
    pub months: u32,
    /// Calendar weeks.
    pub weeks: u32,
    /// Calendar days.
    pub days: u32,
    /// Hours.
    pub hours: u32,
}

/// No part of a span may be larger: keeps calendar arithmetic in range.
const MAX_PART: u32 = 100_000;

impl FromStr for Span {
    type Err = String;

    fn from_str(s: &str) -> Result<Span, String> {
        let wrong =
            || format!("'{s}' is not a span such as 72h, 7d, 2w or 1y5m7d (y, m = months, w, d, h; largest first)");
        let [years, months, weeks, days, hours] = parts(s, ["y", "m", "w", "d", "h"]).ok_or_else(wrong)?;
        Ok(Span { years, months, weeks, days, hours })
    }
}

/// Numbers with these units, the largest first and each at most once; not all 0.
fn parts<const N: usize>(text: &str, units: [&str; N]) -> Option<[u32; N]> {
    let (mut found, mut rest, mut next_rank) = ([0; N], text, 0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u32 = rest[..digits].parse().ok().filter(|n| *n <= MAX_PART)?;
        rest = &rest[digits..];
        let (unit, after) = rest.split_at(rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len()));
        let rank = units.iter().position(|u| *u == unit).filter(|rank| *rank >= next_rank)?;
        (found[rank], next_rank, rest) = (number, rank + 1, after);
    }
    found.iter().any(|n| *n > 0).then_some(found)
}

/// An age as monitoring gives it: `26h`, `7d`, `30min`, `1mo`. A bare `m`, which is months in a [`Span`] and minutes
/// nearly everywhere else, is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age {
    span: Span,
    minutes: u32,
}

impl FromStr for Age {
    type Err = String;

    fn from_str(s: &str) -> Result<Age, String> {
        let found = parts(s, ["y", "mo", "w", "d", "h", "min"]).ok_or_else(|| {
            let months = parts(s, ["y", "m", "w", "d", "h"]).is_some();
            if months || parts(s, ["y", "mo", "w", "d", "h", "m"]).is_some() {
                return format!("'{s}': m may mean minutes or months; write min for minutes, mo for months");
            }
            format!("'{s}' is not an age such as 26h, 7d, 30min or 1d12h (y, mo, w, d, h, min; largest first)")
        });
        let [years, months, weeks, days, hours, minutes] = found?;
        Ok(Age { span: Span { years, months, weeks, days, hours }, minutes })
    }
}

impl Age {
    /// The instant this long before `end`; as [`Span::before`].
    pub fn before(&self, end: Timestamp, zone: &TimeZone) -> Timestamp {
        let back = self.span.before(end, zone);
        back.checked_sub(SignedDuration::from_mins(self.minutes.into())).unwrap_or(Timestamp::MIN)
    }
}

impl Span {
    /// The instant this span before `end`, by the calendar of `zone`. Before the year -9999 it stays at the earliest instant.
    pub fn before(&self, end: Timestamp, zone: &TimeZone) -> Timestamp {
        let calendar = jiff::Span::new()
            .try_years(self.years)
            .and_then(|s| s.try_months(self.months))
            .and_then(|s| s.try_weeks(self.weeks))
            .and_then(|s| s.try_days(self.days));
        let back = calendar.and_then(|span| end.to_zoned(zone.clone()).checked_sub(span)).map(|z| z.timestamp());
        let back = back.and_then(|t| t.checked_sub(SignedDuration::from_hours(self.hours.into())));
        back.unwrap_or(Timestamp::MIN)
    }

    /// The time this long after `now`, by the calendar of UTC; the last that there is (in the year 2262), if that is beyond it.
    pub fn after(&self, now: Time) -> Time {
        let calendar = jiff::Span::new()
            .try_years(self.years)
            .and_then(|s| s.try_months(self.months))
            .and_then(|s| s.try_weeks(self.weeks))
            .and_then(|s| s.try_days(self.days));
        let from = human::timestamp(now).to_zoned(TimeZone::UTC);
        let then = calendar.and_then(|span| from.checked_add(span)).map(|z| z.timestamp());
        let then = then.and_then(|t| t.checked_add(SignedDuration::from_hours(self.hours.into())));
        then.ok().and_then(|t| i64::try_from(t.as_nanosecond()).ok()).map_or(Time(i64::MAX), Time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lasts_longer_than_time_itself_lasts_to_its_end() {
        let now = Time::from_secs(1_795_000_000);
        let after = |text: &str| text.parse::<Span>().unwrap().after(now).0 - now.0;
        let hours = |n: i64| n * 3600 * 1_000_000_000;
        assert_eq!((after("36h"), after("7d"), after("1y")), (hours(36), hours(7 * 24), hours(365 * 24)));
        for text in ["300y", "1000y", "20000y", "100000y"] {
            assert_eq!(text.parse::<Span>().unwrap().after(now), Time(i64::MAX), "{text}");
        }
    }

    fn berlin() -> TimeZone {
        TimeZone::get("Europe/Berlin").unwrap()
    }

    fn utc(s: &str) -> Timestamp {
        s.parse().unwrap()
    }

    #[test]
    fn times_are_local_unless_they_say_otherwise() {
        for (text, instant) in [
            ("2026-11-17 18:00", "2026-11-17T17:00:00Z"),
            ("2026-11-17T18:00", "2026-11-17T17:00:00Z"),
            ("2026-07-17 18:00:30", "2026-07-17T16:00:30Z"),
            ("2026-11-17T18:00:00Z", "2026-11-17T18:00:00Z"),
            ("2026-11-17 18:00+05:00", "2026-11-17T13:00:00Z"),
            // As `snapshots` prints it.
            ("2026-11-17 18:00:00+01:00", "2026-11-17T17:00:00Z"),
            ("2026-11-17T18-00-01Z", "2026-11-17T18:00:01Z"),
            // Skipped by the change to summer time: the time an hour later.
            ("2026-03-29 02:30", "2026-03-29T01:30:00Z"),
        ] {
            let at = At::parse(text, &berlin()).unwrap();
            assert_eq!(at.first(), utc(instant), "{text}");
            assert_eq!(at.last(), utc(&instant.replace('Z', ".999999999Z")), "{text}");
        }
        let exact = At::parse("2026-11-17T18:00:00.5Z", &berlin()).unwrap();
        assert_eq!((exact.first(), exact.last()), (utc("2026-11-17T18:00:00.5Z"), utc("2026-11-17T18:00:00.5Z")));
    }

    #[test]
    fn a_date_is_its_whole_day() {
        let at = At::parse("2026-11-17", &berlin()).unwrap();
        assert_eq!(at.first(), utc("2026-11-16T23:00:00Z"));
        assert_eq!(at.last(), utc("2026-11-17T22:59:59.999999999Z"));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in
            ["", "yesterday", "2026-13-01", "2026-11-17 25:00", "18:00", "2026-11", "9999999999-01-01", "T18-00-00Z"]
        {
            assert!(At::parse(text, &berlin()).is_err(), "{text}");
        }
    }

    #[test]
    fn spans() {
        let span = Span { years: 1, months: 5, days: 7, ..Span::default() };
        assert_eq!("1y5m7d".parse(), Ok(span));
        assert_eq!("72h".parse(), Ok(Span { hours: 72, ..Span::default() }));
        assert_eq!("2w".parse(), Ok(Span { weeks: 2, ..Span::default() }));
        for text in ["", "h", "72", "1d1y", "1h1h", "-1h", "0h", "1min", "1 h", "4294967296h", "100001y", "1é"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_age_says_whether_minutes_or_months_are_meant() {
        let end = utc("2026-03-31T10:00:00Z");
        let before = |s: &str| s.parse::<Age>().unwrap().before(end, &berlin());
        assert_eq!(before("30min"), utc("2026-03-31T09:30:00Z"));
        assert_eq!(before("1h30min"), utc("2026-03-31T08:30:00Z"));
        assert_eq!(before("1mo"), utc("2026-02-28T11:00:00Z"));
        assert_eq!(before("26h"), utc("2026-03-30T08:00:00Z"));
        for text in ["30m", "1y5m7d", "2h30m"] {
            let why = text.parse::<Age>().unwrap_err();
            assert!(why.contains("write min for minutes, mo for months"), "{why}");
        }
        for text in ["", "min", "26", "0h", "1min1h", "1h 1min", "1é"] {
            let why = text.parse::<Age>().unwrap_err();
            assert!(why.contains("is not an age"), "{why}");
        }
    }

    #[test]
    fn spans_follow_the_calendar() {
        let end = utc("2026-03-31T10:00:00Z");
        let before = |s: &str| s.parse::<Span>().unwrap().before(end, &berlin());
        assert_eq!(before("26h"), utc("2026-03-30T08:00:00Z"));
        // The clock went forward on the 29th: the same hour of the day is an hour later in UTC.
        assert_eq!(before("7d"), utc("2026-03-24T11:00:00Z"));
        assert_eq!(before("1m"), utc("2026-02-28T11:00:00Z"));
        assert_eq!(before("1y"), utc("2025-03-31T10:00:00Z"));
        assert_eq!(before("99999y"), Timestamp::MIN);
    }
}
