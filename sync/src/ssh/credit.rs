//! How much the other side of a channel may send: grants out of one budget for the whole server.
//!
//! A channel's *window* is what may be on its way to it or wait in it. It starts at 1 MiB and doubles with each grant up
//! to [`TOP`], as long as the pool has enough and no more than its fair share is used; when channels join, the others
//! give back what they read. [`FLOOR`] is every channel's own, so that a full pool slows channels but stops none.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use super::socket::Promised;

/// A channel's window beside the pool, bytes.
pub(super) const FLOOR: u64 = 256 << 10;

/// The largest window, bytes: two of them stay below twice russh's window, which is what it takes during a change of
/// keys; and a connection that carries 100 Mbit/s over 250 ms needs 3 MiB.
pub(super) const TOP: u64 = 15 << 20;

/// Half the first window: the first grant doubles it.
const START: u64 = 512 << 10;

/// A budget of bytes that channels share.
pub(super) struct Pool {
    size: u64,
    state: Mutex<PoolState>,
}

struct PoolState {
    free: u64,
    channels: u64,
}

impl Pool {
    pub(super) fn new(size: u64) -> Arc<Pool> {
        Arc::new(Pool { size, state: Mutex::new(PoolState { free: size, channels: 0 }) })
    }

    fn fair_share(&self) -> u64 {
        self.size / self.state.lock().channels.max(1)
    }

    fn take(&self, wanted: u64) -> u64 {
        let mut state = self.state.lock();
        let got = wanted.min(state.free);
        state.free -= got;
        got
    }

    fn give_back(&self, n: u64) {
        self.state.lock().free += n;
    }

    #[cfg(test)]
    pub(super) fn free(&self) -> u64 {
        self.state.lock().free
    }
}

/// The window of one channel in one direction.
pub(super) struct Window {
    pool: Arc<Pool>,
    connection: Promised,
    /// Taken from the pool.
    reserved: u64,
    /// What this channel would like to have.
    size: u64,
    /// Granted and not yet come.
    promised: u64,
    /// Come and not yet read.
    waiting: u64,
}

impl Window {
    pub(super) fn new(pool: Arc<Pool>, connection: Promised) -> Window {
        pool.state.lock().channels += 1;
        Window { pool, connection, reserved: 0, size: START, promised: 0, waiting: 0 }
    }

    /// Counts what came. False: more than was granted.
    pub(super) fn received(&mut self, n: u64) -> bool {
        if n > self.promised {
            return false;
        }
        self.promised -= n;
        self.waiting += n;
        self.connection.fetch_sub(n, Ordering::Relaxed);
        true
    }

    /// Counts what was read. True: a grant is worth its packet.
    pub(super) fn consumed(&mut self, n: u64) -> bool {
        self.waiting -= n;
        let window = FLOOR + self.reserved;
        window - (self.promised + self.waiting).min(window) >= window / 4
    }

    /// What the other side may now send in addition; 0: nothing.
    pub(super) fn grant(&mut self) -> u64 {
        self.size = (self.size * 2).min(TOP).min(FLOOR + self.pool.fair_share());
        let used = self.promised + self.waiting;
        let wanted = self.size - FLOOR;
        if wanted > self.reserved {
            self.reserved += self.pool.take(wanted - self.reserved);
        } else {
            let surplus = (self.reserved - wanted).min((FLOOR + self.reserved).saturating_sub(used));
            self.reserved -= surplus;
            self.pool.give_back(surplus);
        }
        let grant = (FLOOR + self.reserved).saturating_sub(used);
        self.promised += grant;
        self.connection.fetch_add(grant, Ordering::Relaxed);
        grant
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.connection.fetch_sub(self.promised, Ordering::Relaxed);
        let mut state = self.pool.state.lock();
        state.free += self.reserved;
        state.channels -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_window_grows_while_it_is_used_and_is_given_back() {
        let pool = Pool::new(64 << 20);
        let promised = Promised::default();
        let mut window = Window::new(pool.clone(), promised.clone());
        let mut granted = window.grant();
        assert_eq!(granted, 1 << 20);
        for _ in 0..10 {
            assert!(window.received(granted));
            assert!(!window.received(1), "more than was granted");
            assert!(window.consumed(granted));
            granted = window.grant();
        }
        assert_eq!(granted, TOP);
        assert_eq!(pool.free(), (64 << 20) - (TOP - FLOOR));
        drop(window);
        assert_eq!((pool.free(), promised.load(Ordering::Relaxed)), (64 << 20, 0));
    }

    #[test]
    fn a_full_pool_slows_but_does_not_stop() {
        let pool = Pool::new(TOP - FLOOR);
        let mut first = Window::new(pool.clone(), Promised::default());
        for _ in 0..6 {
            let n = first.grant();
            assert!(first.received(n));
            first.consumed(n);
        }
        assert_eq!(pool.free(), 0);
        let mut second = Window::new(pool.clone(), Promised::default());
        assert_eq!(second.grant(), FLOOR, "its own floor");
        assert!(second.received(FLOOR));
        // The first gives way as it goes on.
        first.grant();
        assert!(pool.free() > 0);
        assert!(second.consumed(FLOOR));
        assert!(second.grant() > FLOOR);
    }

    proptest! {
        /// Whatever the order, the windows together hold no more than the pool and their floors, and all comes back.
        #[test]
        fn the_budget_holds(steps in proptest::collection::vec((0usize..6, 0u8..4, 0u64..(4 << 20)), 0..200)) {
            const SIZE: u64 = 20 << 20;
            let (pool, promised) = (Pool::new(SIZE), Promised::default());
            let mut windows: Vec<Option<Window>> = (0..6).map(|_| None).collect();
            for (at, what, n) in steps {
                let (pool, promised) = (pool.clone(), promised.clone());
                match (what, &mut windows[at]) {
                    (0, gone @ Some(_)) if n % 4 == 0 => *gone = None,
                    (_, new @ None) => *new = Some(Window::new(pool, promised)),
                    (1, Some(w)) => { let n = n.min(w.promised); prop_assert!(w.received(n)); }
                    (2, Some(w)) => { let n = n.min(w.waiting); w.consumed(n); }
                    (_, Some(w)) => { w.grant(); }
                }
                let live: Vec<_> = windows.iter().flatten().collect();
                let used: u64 = live.iter().map(|w| w.promised + w.waiting).sum();
                prop_assert!(used <= SIZE + FLOOR * live.len() as u64);
                prop_assert!(live.iter().all(|w| w.promised + w.waiting <= TOP));
            }
            windows.clear();
            prop_assert_eq!((pool.free(), promised.load(Ordering::Relaxed)), (SIZE, 0));
        }
    }
}
