//! How fast this process sends and receives: one bucket for each direction, whatever the number of connections.
//!
//! What is sent or received takes its time out of the bucket, which holds a quarter of a second's worth: nothing is sent in
//! gulps, and what was not used is not made up for later. In hours of the week another rate can hold, or nothing at all be
//! sent: a connection then ends as one that is lost, and goes on where it was when somebody tries again.

use std::io::{self, Read, Write};
use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use repo::clock::Time;
use repo::error::{Error, Kind, Result};

use crate::stream::Duplex;

/// What may pass at once, in time at the rate that holds.
const BURST: Duration = Duration::from_millis(250);
/// The most that one connection takes at a time: others get their turn.
const PIECE: u64 = 64 * 1024;
const DAY: i64 = 24 * 3600;
const WEEK: i64 = 7 * DAY;

/// Bytes in a second; none: any number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Sent.
    pub up: Option<u64>,
    /// Received.
    pub down: Option<u64>,
}

/// What holds in some hours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// At most so many bytes a second in each direction.
    Rate(u64),
    /// Nothing passes.
    Pause,
}

/// Hours of the week, by the local clock: `Mon-Fri 08:00-18:00`, `Sat,Sun 00:00-24:00`, `22:00-06:00` for every day. Hours that
/// pass midnight belong to the day on which they begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hours {
    /// Monday first.
    days: [bool; 7],
    /// Seconds of the day.
    from: i64,
    /// Above `from`; perhaps above a day.
    until: i64,
}

/// All that limits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Always.
    pub always: Rates,
    /// In these hours besides.
    pub within: Option<(Hours, Pace)>,
}

impl FromStr for Hours {
    type Err = String;

    fn from_str(s: &str) -> std::result::Result<Hours, String> {
        let wrong = || format!("'{s}' is not hours such as \"Mon-Fri 08:00-18:00\" or \"22:00-06:00\"");
        let (days, times) = match s.trim().split_once(char::is_whitespace) {
            Some((days, times)) => (days_of(days).ok_or_else(wrong)?, times.trim()),
            None => ([true; 7], s.trim()),
        };
        let (from, until) = times.split_once('-').ok_or_else(wrong)?;
        let (from, mut until) = (of_day(from).ok_or_else(wrong)?, of_day(until).ok_or_else(wrong)?);
        if from == until || from == DAY {
            return Err(wrong());
        }
        if until < from {
            until += DAY;
        }
        Ok(Hours { days, from, until })
    }
}

fn days_of(text: &str) -> Option<[bool; 7]> {
    let number = |name: &str| {
        let names = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
        names.iter().position(|known| *known == name.trim().to_ascii_lowercase())
    };
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (mut day, last) = (number(first)?, number(last)?);
        loop {
            days[day] = true;
            if day == last {
                break;
            }
            day = (day + 1) % 7;
        }
    }
    Some(days)
}

fn of_day(text: &str) -> Option<i64> {
    let (hours, minutes) = text.split_once(':')?;
    let two = |text: &str| text.parse::<i64>().ok().filter(|_| text.len() == 2);
    let secs = two(hours)? * 3600 + two(minutes).filter(|m| *m < 60)? * 60;
    (secs <= DAY).then_some(secs)
}

impl Hours {
    /// How long these hours go on yet, if it is within them at a local time, in seconds since the epoch as if in UTC.
    fn left(&self, local: i64) -> Option<i64> {
        // Day 0 was a Thursday.
        let in_week = (local + 3 * DAY).rem_euclid(WEEK);
        let begins = |day: usize| self.days[day].then_some(day as i64 * DAY + self.from);
        let left = |begin: i64| {
            let since = (in_week - begin).rem_euclid(WEEK);
            (since < self.until - self.from).then_some(self.until - self.from - since)
        };
        (0..7).filter_map(begins).filter_map(left).max()
    }
}

/// What time it is, and how it passes.
pub trait Watch: Send + Sync {
    /// Time that has passed since some moment; never goes back.
    fn elapsed(&self) -> Duration;
    /// Lets time pass.
    fn sleep(&self, time: Duration);
    /// The local time, in seconds since the epoch as if it were UTC.
    fn local(&self) -> i64;
}

/// The machine's clock, and a function that tells how far local time is from UTC, in seconds.
pub struct Wall {
    start: Instant,
    zone: Box<dyn Fn(Time) -> i64 + Send + Sync>,
}

impl Wall {
    /// In the zone that `zone` tells.
    pub fn new(zone: Box<dyn Fn(Time) -> i64 + Send + Sync>) -> Wall {
        Wall { start: Instant::now(), zone }
    }
}

impl Watch for Wall {
    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }

    fn local(&self) -> i64 {
        let now = Time::now();
        now.secs() + (self.zone)(now)
    }
}

/// Limits at work.
pub struct Throttle {
    limits: Limits,
    watch: Arc<dyn Watch>,
    /// For each direction, when all that was let through so far has had its time.
    up: Mutex<Duration>,
    down: Mutex<Duration>,
}

/// This process's, if it has one.
static OURS: OnceLock<Arc<Throttle>> = OnceLock::new();

/// Tames every connection that this process opens or takes from now on. Only the first call counts.
pub fn tame(limits: Limits, watch: Arc<dyn Watch>) {
    if limits != Limits::default() {
        OURS.get_or_init(|| Arc::new(Throttle::new(limits, watch)));
    }
}

/// The stream, tamed if this process is.
///
/// # Errors
/// `Unreachable` in hours in which nothing passes.
pub fn tamed(duplex: Duplex) -> Result<Duplex> {
    let Some(throttle) = OURS.get() else { return Ok(duplex) };
    require_open()?;
    Ok(throttle.wrap(duplex))
}

/// Refuses to begin in hours in which nothing passes.
///
/// # Errors
/// `Unreachable`.
pub fn require_open() -> Result<()> {
    OURS.get().map_or(Ok(()), |throttle| throttle.open())
}

#[derive(Clone, Copy)]
enum Way {
    Up,
    Down,
}

impl Throttle {
    /// None of these limits is used up.
    pub fn new(limits: Limits, watch: Arc<dyn Watch>) -> Throttle {
        Throttle { limits, watch, up: Mutex::default(), down: Mutex::default() }
    }

    /// The stream, limited together with all others of this throttle.
    pub fn wrap(self: &Arc<Throttle>, duplex: Duplex) -> Duplex {
        Duplex {
            read: Box::new(Tamed { inner: duplex.read, throttle: Arc::clone(self) }),
            write: Box::new(Tamed { inner: duplex.write, throttle: Arc::clone(self) }),
        }
    }

    fn paused(&self) -> Option<String> {
        let (hours, pace) = self.limits.within.as_ref()?;
        let left = hours.left(self.watch.local()).filter(|_| *pace == Pace::Pause)?;
        let (hours, minutes) = (left / 3600, (left % 3600 + 59) / 60);
        Some(format!("nothing is sent in these hours; they end in {hours} h {minutes} min"))
    }

    fn open(&self) -> Result<()> {
        let refused =
            |why| Error::new(Kind::Unreachable, why).remedy("try again then: what has arrived is not sent twice");
        self.paused().map_or(Ok(()), |why| Err(refused(why)))
    }

    fn rate(&self, way: Way) -> Option<u64> {
        let always = match way {
            Way::Up => self.limits.always.up,
            Way::Down => self.limits.always.down,
        };
        let now = self.limits.within.as_ref().and_then(|(hours, pace)| match pace {
            Pace::Rate(rate) => hours.left(self.watch.local()).map(|_| *rate),
            Pace::Pause => None,
        });
        always.into_iter().chain(now).min()
    }

    /// How many of `len` bytes may pass next.
    fn piece(&self, way: Way, len: usize) -> io::Result<usize> {
        if let Some(why) = self.paused() {
            return Err(io::Error::other(why));
        }
        let Some(rate) = self.rate(way) else { return Ok(len) };
        // At a slow rate not much at once, and never nothing.
        let most = PIECE.min(rate / 8).max(1);
        Ok(len.min(most as usize))
    }

    /// Waits as long as `n` bytes take.
    fn pass(&self, way: Way, n: usize) {
        let Some(rate) = self.rate(way) else { return };
        let bucket = match way {
            Way::Up => &self.up,
            Way::Down => &self.down,
        };
        let now = self.watch.elapsed();
        let until = {
            let mut done = bucket.lock();
            *done = (*done).max(now.saturating_sub(BURST)) + Duration::from_secs_f64(n as f64 / rate.max(1) as f64);
            *done
        };
        if until > now {
            self.watch.sleep(until - now);
        }
    }
}

struct Tamed<T> {
    inner: T,
    throttle: Arc<Throttle>,
}

impl Read for Tamed<Box<dyn Read + Send>> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = self.throttle.piece(Way::Down, buf.len())?;
        let n = self.inner.read(&mut buf[..most])?;
        self.throttle.pass(Way::Down, n);
        Ok(n)
    }
}

impl Write for Tamed<Box<dyn Write + Send>> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let most = self.throttle.piece(Way::Up, buf.len())?;
        let n = self.inner.write(&buf[..most])?;
        self.throttle.pass(Way::Up, n);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::pair;

    /// Time passes only when somebody sleeps.
    #[derive(Default)]
    struct Fake(Mutex<(Duration, i64)>);

    impl Watch for Fake {
        fn elapsed(&self) -> Duration {
            self.0.lock().0
        }

        fn sleep(&self, time: Duration) {
            let mut now = self.0.lock();
            let secs = (now.0 + time).as_secs() as i64 - now.0.as_secs() as i64;
            *now = (now.0 + time, now.1 + secs);
        }

        fn local(&self) -> i64 {
            self.0.lock().1
        }
    }

    /// Monday the 5th of January 1970, at this time of the day, `day` days later.
    fn at(day: i64, time: &str) -> i64 {
        (4 + day) * DAY + of_day(time).unwrap()
    }

    fn hours(text: &str) -> Hours {
        text.parse().unwrap()
    }

    #[test]
    fn hours_of_the_week() {
        let office = hours("Mon-Fri 08:00-18:00");
        for (day, time, left) in [
            (0, "07:59", None),
            (0, "08:00", Some(10 * 3600)),
            (4, "17:59", Some(60)),
            (4, "18:00", None),
            (5, "12:00", None),
            (7, "09:30", Some(30_600)),
        ] {
            assert_eq!(office.left(at(day, time)), left, "{day} {time}");
        }
        let night = hours("fri,Sun 22:00-06:00");
        for (day, time, inside) in [
            (4, "23:00", true),
            (5, "05:59", true),
            (5, "22:30", false),
            (6, "22:00", true),
            (7, "05:00", true),
            (0, "05:00", true),
            (1, "05:00", false),
        ] {
            assert_eq!(night.left(at(day, time)).is_some(), inside, "{day} {time}");
        }
        assert!((0..7).all(|day| hours("00:00-24:00").left(at(day, "13:00")) == Some(11 * 3600)));
        assert!(hours("Sat-Mon 10:00-11:00").left(at(6, "10:30")).is_some());
        for text in [
            "",
            "08:00",
            "8:00-18:00",
            "Mon 08:00-08:00",
            "Foo 08:00-18:00",
            "Mon-Fri 08:00-25:00",
            "24:00-08:00",
            "Mon- 08:00-09:00",
        ] {
            assert!(text.parse::<Hours>().is_err(), "{text:?}");
        }
    }

    fn throttle(limits: Limits, local: i64) -> (Arc<Throttle>, Arc<Fake>) {
        let watch = Arc::new(Fake(Mutex::new((Duration::from_secs(1000), local))));
        (Arc::new(Throttle::new(limits, watch.clone())), watch)
    }

    /// Sends `bytes` over each of two connections; how long that took.
    fn send(throttle: &Arc<Throttle>, watch: &Fake, bytes: usize) -> f64 {
        let begin = watch.elapsed();
        for _ in 0..2 {
            let (ours, mut theirs) = pair(1 << 30, None);
            let mut ours = throttle.wrap(ours);
            ours.write.write_all(&vec![7; bytes]).unwrap();
            drop(ours);
            let mut got = Vec::new();
            theirs.read.read_to_end(&mut got).unwrap();
            assert_eq!(got.len(), bytes);
        }
        (watch.elapsed() - begin).as_secs_f64()
    }

    #[test]
    fn all_connections_share_one_rate() {
        let always = Rates { up: Some(1 << 20), down: None };
        let (tamed, watch) = throttle(Limits { always, within: None }, 0);
        let took = send(&tamed, &watch, 5 << 20);
        assert!((9.7..=10.0).contains(&took), "{took}");
        // What was not used is not made up for.
        watch.sleep(Duration::from_secs(100));
        let took = send(&tamed, &watch, 1 << 20);
        assert!((1.7..=2.0).contains(&took), "{took}");
        let (free, watch) = throttle(Limits { always: Rates { up: None, down: Some(1) }, within: None }, 0);
        assert_eq!(send(&free, &watch, 1 << 20), 0.0, "the other direction is not limited");
    }

    #[test]
    fn what_comes_is_limited_too_and_slow_rates_go_on() {
        let always = Rates { up: None, down: Some(100) };
        let (tamed, watch) = throttle(Limits { always, within: None }, 0);
        let (ours, mut theirs) = pair(1 << 20, None);
        theirs.write.write_all(&[1; 1000]).unwrap();
        drop(theirs);
        let begin = watch.elapsed();
        let mut got = Vec::new();
        tamed.wrap(ours).read.read_to_end(&mut got).unwrap();
        let took = (watch.elapsed() - begin).as_secs_f64();
        assert!(got.len() == 1000 && (9.7..=10.0).contains(&took), "{took}");
    }

    #[test]
    fn in_office_hours_another_rate_holds() {
        let within = Some((hours("Mon-Fri 08:00-18:00"), Pace::Rate(1 << 20)));
        let (tamed, watch) =
            throttle(Limits { always: Rates { up: Some(4 << 20), down: None }, within }, at(0, "17:59"));
        // A minute at the slow rate, the rest at the other.
        let took = send(&tamed, &watch, 50 << 20);
        assert!((69.0..=71.0).contains(&took), "{took}");
    }

    #[test]
    fn a_pause_is_a_lost_link_that_may_be_tried_again() {
        let within = Some((hours("Mon-Fri 08:00-18:00"), Pace::Pause));
        let always = Rates { up: Some(1 << 20), down: None };
        let (tamed, watch) = throttle(Limits { always, within }, at(0, "07:59"));
        let (ours, _theirs) = pair(1 << 30, None);
        let mut ours = tamed.wrap(ours);
        // It begins before the hour and is cut at it.
        let e = ours.write.write_all(&vec![7; 100 << 20]).unwrap_err();
        assert!(e.to_string().contains("they end in 10 h 0 min"), "{e}");
        assert!(watch.local() - at(0, "08:00") <= 1);
        let e = tamed.open().unwrap_err();
        assert_eq!(e.kind(), Kind::Unreachable);
        assert!(ours.read.read(&mut [0]).is_err(), "nothing is taken either");
        watch.sleep(Duration::from_secs(10 * 3600));
        tamed.open().unwrap();
        ours.write.write_all(&[7; 1000]).unwrap();
    }
}
