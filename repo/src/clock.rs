//! Points in time, the clock they come from, and whether that clock can be trusted with deleting.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::{Error, Kind, Result};

/// Nanoseconds since 1970-01-01 00:00:00 UTC, negative before it. Covers the years 1678 to 2261.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub i64);

const NANOS: i64 = 1_000_000_000;
const DAY: i64 = 24 * 3600;

/// A time's parts in UTC, in the proleptic Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Civil {
    /// Year.
    pub year: i64,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

impl Time {
    /// The system clock's reading.
    pub fn now() -> Time {
        Time::from(SystemTime::now())
    }

    /// Whole seconds since the epoch, held within the range of the type.
    pub fn from_secs(secs: i64) -> Time {
        Time(secs.saturating_mul(NANOS))
    }

    /// Whole seconds since the epoch, rounded down.
    pub fn secs(self) -> i64 {
        self.0.div_euclid(NANOS)
    }

    /// The nanoseconds past [`Time::secs`].
    pub fn subsec_nanos(self) -> u32 {
        self.0.rem_euclid(NANOS) as u32
    }

    /// Later by `d`, held within the range of the type.
    pub fn plus(self, d: Duration) -> Time {
        Time(self.0.saturating_add(nanos_of(d)))
    }

    /// Earlier by `d`, held within the range of the type.
    pub fn minus(self, d: Duration) -> Time {
        Time(self.0.saturating_sub(nanos_of(d)))
    }

    /// How long after `earlier` this is; zero if it is not.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0).max(0) as u64)
    }

    /// The parts in UTC.
    pub fn civil(self) -> Civil {
        let secs = self.secs();
        let of_day = secs.rem_euclid(DAY);
        let (year, month, day) = date_of(secs.div_euclid(DAY));
        Civil {
            year,
            month,
            day,
            hour: (of_day / 3600) as u8,
            minute: (of_day / 60 % 60) as u8,
            second: (of_day % 60) as u8,
            nanos: self.subsec_nanos(),
        }
    }

    /// The time with these parts in UTC; none if they name no moment the type can hold.
    pub fn from_civil(c: Civil) -> Option<Time> {
        let in_day = c.hour < 24 && c.minute < 60 && c.second < 60 && i64::from(c.nanos) < NANOS;
        let in_year = (1..=12).contains(&c.month) && (1600..=2300).contains(&c.year);
        if !in_day || !in_year {
            return None;
        }
        let days = days_of(c.year, c.month, c.day);
        if date_of(days) != (c.year, c.month, c.day) {
            return None;
        }
        let of_day = i64::from(c.hour) * 3600 + i64::from(c.minute) * 60 + i64::from(c.second);
        (days * DAY + of_day).checked_mul(NANOS)?.checked_add(i64::from(c.nanos)).map(Time)
    }
}

fn nanos_of(d: Duration) -> i64 {
    i64::try_from(d.as_nanos()).unwrap_or(i64::MAX)
}

/// The day `days` after 1970-01-01. Years start in March here, so that a leap day ends one.
fn date_of(days: i64) -> (i64, u8, u8) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month as u8, day as u8)
}

/// Days from 1970-01-01 to a date; a day the month does not have runs over into the next.
fn days_of(year: i64, month: u8, day: u8) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let shifted = (i64::from(month) + 9) % 12;
    let of_year = (153 * shifted + 2) / 5 + i64::from(day) - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year - 719_468
}

impl From<SystemTime> for Time {
    fn from(at: SystemTime) -> Time {
        match at.duration_since(UNIX_EPOCH) {
            Ok(after) => Time(nanos_of(after)),
            Err(before) => Time(-nanos_of(before.duration())),
        }
    }
}

impl fmt::Display for Time {
    /// As `2026-11-22T09:51:56Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = self.civil();
        write!(f, "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", c.year, c.month, c.day, c.hour, c.minute, c.second)
    }
}

/// Where the time comes from: the system, or in tests a hand.
#[derive(Clone, Default)]
pub struct Clock(Option<Arc<Manual>>);

#[derive(Default)]
struct Manual {
    now: AtomicI64,
    synchronised: AtomicBool,
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Clock {
        Clock(None)
    }

    /// A clock that stands at `now` until set. Clones are the same clock.
    pub fn manual(now: Time, synchronised: bool) -> Clock {
        Clock(Some(Arc::new(Manual { now: AtomicI64::new(now.0), synchronised: AtomicBool::new(synchronised) })))
    }

    /// Sets a manual clock; the system's stays as it is.
    pub fn set(&self, now: Time) {
        if let Some(manual) = &self.0 {
            manual.now.store(now.0, Ordering::SeqCst);
        }
    }

    /// The time it is.
    pub fn now(&self) -> Time {
        match &self.0 {
            Some(manual) => Time(manual.now.load(Ordering::SeqCst)),
            None => Time::now(),
        }
    }

    /// Whether the kernel says that a time service keeps this clock.
    pub fn synchronised(&self) -> bool {
        match &self.0 {
            Some(manual) => manual.synchronised.load(Ordering::SeqCst),
            None => kernel_synchronised(),
        }
    }
}

fn kernel_synchronised() -> bool {
    // SAFETY: all-zero bytes are a valid `timex`, and with `modes` 0 the call only fills it in.
    let (state, found) = unsafe {
        let mut found: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&mut found), found)
    };
    state >= 0 && state != libc::TIME_ERROR && found.status & libc::STA_UNSYNC == 0
}

/// How far behind the newest record a clock may be: machines that share a repository differ by a little.
pub const SKEW: Duration = Duration::from_secs(60);
/// How far ahead of the newest record an unsynchronised clock may be.
pub const MAX_AHEAD: Duration = Duration::from_secs(7 * 24 * 3600);

/// Refuses a clock that cannot be trusted with deleting: more than [`SKEW`] behind the newest record of a repository,
/// or more than [`MAX_AHEAD`] ahead of it while unsynchronised. Without a record there is nothing to compare.
///
/// # Errors
/// `Clock`.
pub fn trusted(clock: &Clock, newest: Option<Time>) -> Result<()> {
    let Some(newest) = newest else { return Ok(()) };
    let now = clock.now();
    let why = if now < newest.minus(SKEW) {
        format!("the clock says {now}, but the repository's newest record is from {newest}")
    } else if now > newest.plus(MAX_AHEAD) && !clock.synchronised() {
        format!(
            "the clock says {now}, long after the repository's newest record of {newest}, and no time service keeps it"
        )
    } else {
        return Ok(());
    };
    Err(Error::new(Kind::Clock, why).remedy("set the clock, or if it is right, repeat with --accept-clock"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_moments() {
        for (secs, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_341_116, "2026-11-22T09:51:56Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(Time::from_secs(secs).to_string(), text);
        }
        let leap = Civil { year: 2100, month: 2, day: 29, hour: 0, minute: 0, second: 0, nanos: 0 };
        assert_eq!(Time::from_civil(leap), None);
        assert_eq!(Time::from_civil(Civil { month: 13, ..leap }), None);
        assert_eq!(Time::from_civil(Civil { year: 2300, month: 1, ..leap }), None);
        assert_eq!(Time(i64::MAX).plus(Duration::MAX), Time(i64::MAX));
        assert_eq!(Time(5).since(Time(7)), Duration::ZERO);
    }

    #[test]
    fn a_clock_far_off_is_not_trusted() {
        let newest = Time::from_secs(2_000_000_000);
        let kind =
            |now: Time, synchronised| trusted(&Clock::manual(now, synchronised), Some(newest)).err().map(|e| e.kind());
        let day = Duration::from_secs(DAY as u64);
        assert_eq!(kind(newest, false), None);
        assert_eq!(kind(newest.minus(SKEW), false), None);
        assert_eq!(kind(newest.minus(day), true), Some(Kind::Clock));
        assert_eq!(kind(newest.plus(MAX_AHEAD), false), None);
        assert_eq!(kind(newest.plus(MAX_AHEAD + day), false), Some(Kind::Clock));
        assert_eq!(kind(newest.plus(MAX_AHEAD + day), true), None);
        assert!(trusted(&Clock::manual(Time(0), false), None).is_ok());
    }

    proptest! {
        #[test]
        fn civil_goes_both_ways(t: i64) {
            prop_assert_eq!(Time::from_civil(Time(t).civil()), Some(Time(t)));
        }
    }
}
