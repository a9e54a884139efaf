//! Waiting for other processes' commits: what a backup has read for hours is not lost because a prune takes its time. The
//! user is told what it waits for, and can stop it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Thread;
use std::time::Duration;

use crate::lock::Patience;
use crate::monitor::{Event, Monitor};

/// How long a backup waits each time: longer than any prune marks, shorter than a session lives.
const LIMIT: Duration = Duration::from_secs(24 * 3600);
/// A wait that is worth a word.
const LONG: Duration = Duration::from_secs(5);
/// How often to look whether the user wants to stop.
const LOOK: Duration = Duration::from_millis(50);

/// A backup's patience.
pub fn patience() -> Arc<Patience> {
    Arc::new(Patience::new(LIMIT))
}

/// Does `work`, of which any thread may wait with `patience`; says so when that lasts, and ends it when the user stops.
pub fn watched<T>(patience: &Patience, monitor: &dyn Monitor, work: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let watcher = threads.spawn(|| watch(patience, monitor, &done));
        let _done = Done(&done, watcher.thread());
        work()
    })
}

/// Set also when the work panics: the watcher is waited for.
struct Done<'a>(&'a AtomicBool, &'a Thread);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        self.1.unpark();
    }
}

fn watch(patience: &Patience, monitor: &dyn Monitor, done: &AtomicBool) {
    let mut told = false;
    while !done.load(Ordering::Relaxed) {
        if monitor.cancelled() {
            patience.end();
        }
        let long = patience.waits().is_some_and(|waited| waited >= LONG);
        if long && !told {
            monitor.event(Event::Notice("waiting for another process that is committing to the repository"));
        }
        told = long;
        std::thread::park_timeout(LOOK);
    }
}
