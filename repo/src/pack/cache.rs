//! Caches bounded by bytes, in which a value is made once however many threads ask for it.

use std::hash::Hash;
use std::sync::Arc;

use lru::LruCache;
use parking_lot::{Condvar, Mutex};

use crate::error::Result;

/// A least-recently-used cache of values that are costly to make.
pub struct Cache<K: Hash + Eq + Copy, V> {
    state: Mutex<State<K, V>>,
    made: Condvar,
    capacity: usize,
}

enum Slot<V> {
    /// Some thread is making it.
    Pending,
    Ready(Arc<V>, usize),
}

struct State<K: Hash + Eq, V> {
    slots: LruCache<K, Slot<V>>,
    bytes: usize,
}

impl<K: Hash + Eq + Copy, V> Cache<K, V> {
    /// Holds about `capacity` bytes.
    pub fn new(capacity: usize) -> Cache<K, V> {
        let state = State { slots: LruCache::unbounded(), bytes: 0 };
        Cache { state: Mutex::new(state), made: Condvar::new(), capacity }
    }

    /// Whether the value is there or being made; does not count as a use.
    pub fn has(&self, key: &K) -> bool {
        self.state.lock().slots.contains(key)
    }

    /// The value, made by `make` (with its weight in bytes) unless it is there. Who comes second waits for the first.
    ///
    /// # Errors
    /// What `make` gives; nothing is kept then and the next caller tries again.
    pub fn get(&self, key: K, make: impl FnOnce() -> Result<(V, usize)>) -> Result<Arc<V>> {
        {
            let mut state = self.state.lock();
            loop {
                match state.slots.get(&key) {
                    Some(Slot::Ready(value, _)) => return Ok(Arc::clone(value)),
                    Some(Slot::Pending) => self.made.wait(&mut state),
                    None => break,
                }
            }
            state.slots.put(key, Slot::Pending);
        }
        let mut guard = Unmade { cache: self, key, done: false };
        let (value, weight) = make()?;
        let value = Arc::new(value);
        guard.done = true;
        let mut state = self.state.lock();
        state.slots.put(key, Slot::Ready(Arc::clone(&value), weight));
        state.bytes += weight;
        self.evict(&mut state, &key);
        drop(state);
        self.made.notify_all();
        Ok(value)
    }

    /// Forgets everything that is ready.
    pub fn clear(&self) {
        let mut state = self.state.lock();
        let ready: Vec<K> = state.slots.iter().filter(|(_, s)| matches!(s, Slot::Ready(..))).map(|(k, _)| *k).collect();
        for key in ready {
            if let Some(Slot::Ready(_, weight)) = state.slots.pop(&key) {
                state.bytes -= weight;
            }
        }
    }

    fn evict(&self, state: &mut State<K, V>, keep: &K) {
        while state.bytes > self.capacity {
            let Some((key, slot)) = state.slots.pop_lru() else { return };
            match slot {
                Slot::Ready(_, weight) if key != *keep => state.bytes -= weight,
                // The newest value, or one still being made: both stay, and there is nothing older.
                slot => {
                    let newest = key == *keep;
                    state.slots.put(key, slot);
                    if newest {
                        return;
                    }
                }
            }
        }
    }
}

/// Takes a pending slot away again when making its value fails or panics, so that nobody waits for ever.
struct Unmade<'a, K: Hash + Eq + Copy, V> {
    cache: &'a Cache<K, V>,
    key: K,
    done: bool,
}

impl<K: Hash + Eq + Copy, V> Drop for Unmade<'_, K, V> {
    fn drop(&mut self) {
        if !self.done {
            self.cache.state.lock().slots.pop(&self.key);
            self.cache.made.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn makes_once_and_stays_within_its_bytes() {
        let cache: Cache<u32, Vec<u8>> = Cache::new(1000);
        let made = AtomicUsize::new(0);
        let make = |n: usize| {
            made.fetch_add(1, Ordering::Relaxed);
            Ok((vec![0; n], n))
        };
        std::thread::scope(|s| {
            for _ in 0..8 {
                s.spawn(|| cache.get(1, || make(400)).unwrap());
            }
        });
        assert_eq!(made.load(Ordering::Relaxed), 1);
        cache.get(2, || make(400)).unwrap();
        cache.get(1, || make(400)).unwrap();
        cache.get(3, || make(400)).unwrap();
        assert!(cache.has(&1) && cache.has(&3) && !cache.has(&2));
        cache.get(4, || make(5000)).unwrap();
        assert!(cache.has(&4), "a value larger than the cache is still handed out and kept until the next");
        assert!(cache.get(5, || Err(crate::error::Error::bug("no"))).is_err());
        assert!(!cache.has(&5));
    }
}
