//! So that time does not tell a tenant what others have: what is stored already costs the pool less work than what is new, and
//! who waits for an answer could see it. So work on a push takes as long as if all of it had been new.

use std::time::Duration;

use parking_lot::Mutex;
use repo::id::random_bytes;
use repo::limits::MIB;

/// Below this, what work costs is taken to be the same for any number of bytes.
const SMALL: u64 = MIB as u64;
/// How much the newest measurement counts.
const NEWEST: f64 = 0.2;
/// A push that was slower than usual is let off so much of what it is to wait, in seconds.
const CREDIT: f64 = 1.0;
/// Nobody waits longer at once; the rest comes with what is worked on next.
const MOST: Duration = Duration::from_secs(5);

/// What a kind of work has cost when everything was new.
#[derive(Clone, Copy, Debug)]
struct Cost {
    /// Seconds, whatever its size …
    each: f64,
    /// … and for every byte.
    byte: f64,
}

impl Cost {
    fn of(&self, bytes: u64) -> f64 {
        self.each + self.byte * bytes as f64
    }

    fn learn(&mut self, bytes: u64, seconds: f64) {
        let (known, measured) = match bytes {
            ..=SMALL => (&mut self.each, seconds),
            _ => (&mut self.byte, (seconds - self.each).max(0.0) / bytes as f64),
        };
        *known += NEWEST * (measured - *known);
    }
}

/// The kinds of work whose time could tell something.
#[derive(Clone, Copy, Debug)]
pub enum Sort {
    /// Opening, comparing and storing a pack.
    Absorb,
    /// Making durable what was absorbed.
    Settle,
}

/// What work costs at this pool.
pub struct Pace(Mutex<[Cost; 2]>);

impl Default for Pace {
    /// Before anything was measured: a usual machine's.
    fn default() -> Pace {
        let absorb = Cost { each: 0.005, byte: 1.0 / 300e6 };
        // The packs that this ends are written while others are absorbed.
        Pace(Mutex::new([absorb, Cost { each: 0.03, byte: 1.0 / 5e9 }]))
    }
}

/// One push's work, so far.
#[derive(Default)]
pub struct Account {
    /// Seconds that it was faster than if all had been new.
    ahead: f64,
}

impl Pace {
    /// Counts work on so many bytes that took so long, and waits as long as it was faster than if all had been new.
    /// `all_new`: it was.
    pub fn even(&self, account: &mut Account, sort: Sort, bytes: u64, took: Duration, all_new: bool) {
        let wait = self.count(account, sort, bytes, took.as_secs_f64(), all_new);
        if let Some(wait) = wait {
            std::thread::sleep(wait);
        }
    }

    fn count(&self, account: &mut Account, sort: Sort, bytes: u64, took: f64, all_new: bool) -> Option<Duration> {
        let mut costs = self.0.lock();
        let cost = &mut costs[sort as usize];
        let usual = cost.of(bytes);
        if all_new {
            cost.learn(bytes, took);
        }
        drop(costs);
        // A little by chance, so that what remains of a difference cannot be told from it.
        let chance = f64::from(u16::from_le_bytes(random_bytes())) / f64::from(u16::MAX);
        account.ahead = (account.ahead + usual * (1.0 + 0.05 * chance) - took).max(-CREDIT);
        if account.ahead <= 0.0 {
            return None;
        }
        let wait = Duration::from_secs_f64(account.ahead).min(MOST);
        account.ahead -= wait.as_secs_f64();
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACK: u64 = 32 << 20;

    /// How long a push of so many packs takes in all, if each takes `took`.
    fn total(pace: &Pace, packs: usize, took: f64, all_new: bool) -> f64 {
        let mut account = Account::default();
        let waited = |_| pace.count(&mut account, Sort::Absorb, PACK, took, all_new).map_or(0.0, |w| w.as_secs_f64());
        packs as f64 * took + (0..packs).map(waited).sum::<f64>()
    }

    #[test]
    fn what_is_there_already_takes_as_long_as_what_is_new() {
        let pace = Pace::default();
        total(&pace, 50, 0.4, true);
        let (new, there) = (total(&pace, 20, 0.4, true), total(&pace, 20, 0.05, false));
        assert!((there / new - 1.0).abs() < 0.06, "{new} and {there}");
        // What is new is hardly held up.
        assert!(new < 20.0 * 0.4 * 1.06, "{new}");
    }

    #[test]
    fn a_slower_machine_is_learned_and_what_is_there_teaches_nothing() {
        let pace = Pace::default();
        total(&pace, 50, 0.05, false);
        let before = pace.0.lock()[0].of(PACK);
        assert!((before - Pace::default().0.lock()[0].of(PACK)).abs() < 1e-9);
        total(&pace, 50, 2.0, true);
        assert!((pace.0.lock()[0].of(PACK) - 2.0).abs() < 0.1);
        total(&pace, 50, 0.5, true);
        assert!((pace.0.lock()[0].of(PACK) - 0.5).abs() < 0.1, "and a faster one");
    }

    #[test]
    fn small_work_costs_what_it_costs() {
        let pace = Pace::default();
        let mut account = Account::default();
        for _ in 0..50 {
            pace.count(&mut account, Sort::Settle, 1000, 0.08, true);
        }
        let waits = |n: u64| pace.count(&mut Account::default(), Sort::Settle, n, 0.001, false).unwrap().as_secs_f64();
        assert!((0.07..0.09).contains(&waits(1000)), "{}", waits(1000));
    }
}
