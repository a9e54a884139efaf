//! Progress and events, out of the engine: operations call a [`Monitor`], they never print.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::Error;

/// Running totals of one operation, read by whoever draws progress. All only grow.
#[derive(Debug, Default)]
pub struct Counters {
    /// Files finished.
    pub files: AtomicU64,
    /// Directories finished.
    pub dirs: AtomicU64,
    /// Plaintext bytes finished.
    pub bytes: AtomicU64,
    /// Bytes written to or read from the repository.
    pub stored: AtomicU64,
    /// Items (files, packs: what the operation counts) known to be in scope; 0 while unknown.
    pub total_files: AtomicU64,
    /// Plaintext bytes known to be in scope; 0 while unknown.
    pub total_bytes: AtomicU64,
    /// Things that failed and were reported.
    pub errors: AtomicU64,
}

impl Counters {
    /// Adds to one counter.
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    /// Reads one counter.
    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}

/// What happened to one file, for `-v`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Not there before.
    New,
    /// Content or attributes differ.
    Changed,
    /// As before.
    Unchanged,
    /// Written by a restore.
    Restored,
    /// Already right; a restore left it.
    Kept,
    /// Removed by a restore with `--delete`.
    Deleted,
}

/// Something worth telling. Paths are as captured.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The operation enters a phase with this name.
    Phase(&'a str),
    /// A remark the user should see once.
    Notice(&'a str),
    /// Something is off, but the operation goes on.
    Warning(&'a str),
    /// A source, target or stored item failed; the operation goes on and its result says so.
    ItemError {
        /// The file it concerns.
        path: &'a Path,
        /// What was done to it: "scan", "read", "restore", …
        during: &'a str,
        /// Why.
        error: &'a Error,
    },
    /// One item is finished.
    Item {
        /// The file it concerns.
        path: &'a Path,
        /// What became of it.
        action: Action,
        /// Its size in bytes.
        size: u64,
    },
}

/// The engine's only way out for progress, and the user's only way in: a wish to stop.
pub trait Monitor: Send + Sync {
    /// Takes one event. Called from any thread; must not block for long.
    fn event(&self, event: Event<'_>);

    /// The totals this operation keeps up to date.
    fn counters(&self) -> &Counters;

    /// True once the user wants the operation to stop at the next safe point.
    fn cancelled(&self) -> bool;
}

/// Ignores every event.
#[derive(Debug, Default)]
pub struct Void {
    counters: Counters,
}

impl Monitor for Void {
    fn event(&self, _: Event<'_>) {}

    fn counters(&self) -> &Counters {
        &self.counters
    }

    fn cancelled(&self) -> bool {
        false
    }
}

/// Keeps every event as text, for tests.
#[derive(Debug, Default)]
pub struct Recording {
    counters: Counters,
    lines: Mutex<Vec<String>>,
    stop: AtomicBool,
}

impl Recording {
    /// What was reported so far, one line an event.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("no panic while recording").clone()
    }

    /// Makes the operation see a wish to stop.
    pub fn cancel(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Monitor for Recording {
    fn event(&self, event: Event<'_>) {
        self.lines.lock().expect("no panic while recording").push(format!("{event:?}"));
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }

    fn cancelled(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}
