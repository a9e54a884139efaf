//! A monitor that shows: a bar on a terminal, status lines with `--json`, nothing otherwise; and the engine's events as lines.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use repo::error::{Error, Kind, Result};
use repo::monitor::{Action, Counters, Event, Monitor};

use crate::exit::DAMAGED;
use crate::output::{Output, human, json};

/// The most lines remembered so that each is printed once.
const MAX_REMEMBERED: usize = 100_000;
/// A rate over less than this is no basis for an estimate.
const ETA_AFTER: Duration = Duration::from_secs(2);

/// What a push counts.
const PACKS: &str = "packs";

/// What runs, as far as its status differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// A backup: `files_done`, `bytes_done`.
    Backup,
    /// A restore: `files_restored`, `bytes_restored`.
    Restore {
        /// Nothing is done, and nothing is told as if it were.
        dry_run: bool,
    },
    /// A push: packs, of which some need not travel.
    Transfer,
    /// Anything else; the word names what is counted: "packs", "snapshots".
    Other(&'static str),
    /// As `Other`, for what only looks: standard output holds what was asked for and nothing else, so a bar on a
    /// terminal is all there is, and in JSON remarks go to standard error.
    Look(&'static str),
}

/// How often progress is updated, per second; never for 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate(f64);

impl Rate {
    /// From `PACKMULE_PROGRESS_FPS`; by default 10 a second for a bar, and one a second for JSON.
    ///
    /// # Errors
    /// `Usage` for what is no number from 0 to 60.
    pub fn new(env: Option<&str>, json: bool) -> Result<Rate> {
        let Some(text) = env.filter(|t| !t.is_empty()) else {
            return Ok(Rate(if json { 1.0 } else { 10.0 }));
        };
        match text.parse::<f64>() {
            Ok(fps) if (0.0..=60.0).contains(&fps) => Ok(Rate(fps)),
            _ => Err(Error::new(Kind::Usage, "PACKMULE_PROGRESS_FPS must be a number from 0 (no progress) to 60")),
        }
    }

    fn interval(self) -> Duration {
        // The lower bound keeps tiny rates within what a duration can hold.
        Duration::from_secs_f64(1.0 / self.0.max(1e-6))
    }
}

/// The monitor of one operation. Dropping it removes the bar.
pub struct Progress {
    shared: Arc<Shared>,
    ticker: Option<(Sender<()>, JoinHandle<()>)>,
}

struct Shared {
    output: Arc<Output>,
    job: Job,
    counters: Counters,
    stop: Arc<AtomicBool>,
    started: Instant,
    phase: Mutex<String>,
    said: Mutex<HashSet<u64>>,
    hasher: RandomState,
    bar: Option<ProgressBar>,
}

/// What is known at one moment.
struct Glance {
    elapsed: Duration,
    remaining: Option<Duration>,
    /// From 0 to 1; none while the totals are unknown.
    share: Option<f64>,
    files: u64,
    total_files: u64,
    bytes: u64,
    total_bytes: u64,
    errors: u64,
    stored: u64,
    phase: String,
}

impl Progress {
    /// Starts showing `job`. `stop` is what [`Monitor::cancelled`] tells.
    pub fn start(output: Arc<Output>, job: Job, rate: Rate, stop: Arc<AtomicBool>) -> Progress {
        let asked = rate.0 > 0.0 && !output.quiet;
        let draws = asked && output.terminal && !output.json;
        let bar = draws.then(|| {
            let target = ProgressDrawTarget::stderr_with_hz(rate.0.ceil() as u8);
            let bar = ProgressBar::with_draw_target(Some(0), target);
            bar.set_style(ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        output.attach(bar.clone());
        let shows = draws || (asked && output.json && !matches!(job, Job::Look(_)));
        let shared = Arc::new(Shared {
            output,
            job,
            counters: Counters::default(),
            stop,
            started: Instant::now(),
            phase: Mutex::default(),
            said: Mutex::default(),
            hasher: RandomState::new(),
            bar,
        });
        let ticker = shows.then(|| ticker(Arc::clone(&shared), rate.interval())).flatten();
        Progress { shared, ticker }
    }

    /// How long the operation has run.
    pub fn elapsed(&self) -> Duration {
        self.shared.started.elapsed()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((end, thread)) = self.ticker.take() {
            drop(end);
            let _ = thread.join();
        }
        if let Some(bar) = &self.shared.bar {
            bar.finish_and_clear();
        }
        self.shared.output.attach(None);
    }
}

/// Shows progress at every interval until the returned sender is dropped. Without a thread there is just no progress.
fn ticker(shared: Arc<Shared>, interval: Duration) -> Option<(Sender<()>, JoinHandle<()>)> {
    let (end, ended) = mpsc::channel();
    let work = move || {
        while ended.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
            shared.show();
        }
    };
    let thread = std::thread::Builder::new().name("progress".into()).spawn(work).ok()?;
    Some((end, thread))
}

impl Shared {
    fn phase(&self) -> MutexGuard<'_, String> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn glance(&self) -> Glance {
        let c = &self.counters;
        let (files, total_files) = (Counters::get(&c.files), Counters::get(&c.total_files));
        let (bytes, total_bytes) = (Counters::get(&c.bytes), Counters::get(&c.total_bytes));
        let elapsed = self.started.elapsed();
        let share = match (total_bytes, total_files) {
            (0, 0) => None,
            (0, total) => Some(files as f64 / total as f64),
            (total, _) => Some(bytes as f64 / total as f64),
        };
        let share = share.map(|s| s.min(1.0));
        Glance {
            elapsed,
            remaining: share.and_then(|s| remaining(elapsed, s)),
            share,
            files,
            total_files,
            bytes,
            total_bytes,
            errors: Counters::get(&c.errors),
            stored: Counters::get(&c.stored),
            phase: self.phase().clone(),
        }
    }

    fn show(&self) {
        let glance = self.glance();
        match &self.bar {
            Some(_) if matches!(self.job, Job::Look(_)) && glance.is_nothing() => {}
            Some(bar) => bar.set_message(glance.text(self.job)),
            // A listener that went away does not stop a backup.
            None => drop(self.output.message_now(&glance.message(self.job))),
        }
    }

    /// Whether this is said for the first time, as far as is remembered.
    fn first(&self, said: impl std::hash::Hash) -> bool {
        let hash = self.hasher.hash_one(said);
        let mut known = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < MAX_REMEMBERED { known.insert(hash) } else { !known.contains(&hash) }
    }

    fn item_error(&self, path: &Path, during: &str, error: &Error) {
        if !self.first(("error", path, during)) {
            return;
        }
        if self.output.json {
            let field = json::PathField::new(path.as_os_str().as_bytes());
            self.output.complain_json(&json::ItemError {
                error: json::Message { message: error.to_string() },
                during: during.to_owned(),
                item: field.path,
                item_b64: field.path_b64,
            });
        } else if error.path().is_some_and(|at| at.file_name() == path.file_name()) {
            self.output.complain(format!("error: {error}"));
        } else {
            let path = human::path(path.as_os_str().as_bytes());
            self.output.complain(format!("error: cannot {during} {path}: {error}"));
        }
        if error.kind() == Kind::Damaged && error.what_to_do().is_none() {
            // Once, however many files there are.
            self.remark(&format!("something in the repository is damaged: {DAMAGED}"), true);
        }
    }

    fn item(&self, path: &Path, action: Action, size: u64) {
        let planned = self.job == Job::Restore { dry_run: true };
        let (level, verb, word) = match action {
            Action::New => (1, "new", "new"),
            Action::Changed => (1, "modified", "modified"),
            Action::Unchanged => (2, "unchanged", "unchanged"),
            Action::Restored if planned => (1, "restored", "would restore"),
            Action::Restored => (1, "restored", "restored"),
            Action::Kept => (2, "unchanged", "kept"),
            Action::Deleted if planned => (1, "deleted", "would delete"),
            Action::Deleted => (1, "deleted", "deleted"),
        };
        if self.output.verbose < level {
            return;
        }
        let raw = path.as_os_str().as_bytes();
        // A broken pipe shows when the command prints its result.
        let _ = if self.output.json {
            let field = json::PathField::new(raw);
            let (item, item_b64) = (field.path, field.path_b64);
            self.output.message(&json::VerboseStatus { action: verb, item, item_b64, data_size: size })
        } else {
            let width = if planned { "would restore".len() } else { "unchanged".len() };
            self.output.line(format!("{word:<width$}  {}, {}", human::path(raw), human::size(size)))
        };
    }

    fn remark(&self, message: &str, warning: bool) {
        if (self.output.quiet && !warning) || !self.first(("remark", message)) {
            return;
        }
        match (self.output.json, warning) {
            (true, false) if matches!(self.job, Job::Look(_)) => {
                self.output.complain_json(&json::Remark::Notice { message });
            }
            (true, false) => drop(self.output.message_now(&json::Remark::Notice { message })),
            (true, true) => self.output.complain_json(&json::Remark::Warning { message }),
            (false, false) => self.output.complain(message),
            (false, true) => self.output.complain(format!("warning: {message}")),
        }
    }
}

/// The time left at the average rate so far.
fn remaining(elapsed: Duration, share: f64) -> Option<Duration> {
    if share <= 0.0 || elapsed < ETA_AFTER {
        return None;
    }
    Duration::try_from_secs_f64(elapsed.as_secs_f64() * (1.0 - share) / share).ok()
}

impl Glance {
    /// Whether there is nothing to tell yet: opening a repository takes a moment, most of it for the key, and counts
    /// packs only when the index is built.
    fn is_nothing(&self) -> bool {
        self.share.is_none() && self.phase.is_empty() && (self.files, self.bytes, self.errors) == (0, 0, 0)
    }

    fn text(&self, job: Job) -> String {
        if job == Job::Transfer {
            return self.text_of_transfer();
        }
        let mut out = format!("[{}]", human::duration(self.elapsed));
        if let Some(share) = self.share {
            out += &format!(" {:.1}%", (share * 1000.0).floor() / 10.0);
        }
        if !self.phase.is_empty() {
            out += &format!(" {}:", self.phase);
        }
        let noun = match job {
            Job::Backup | Job::Restore { .. } => "files",
            Job::Transfer => PACKS,
            Job::Other(noun) | Job::Look(noun) => noun,
        };
        out += &amount(self.files, noun, self.bytes);
        if self.share.is_some() {
            out += &format!(" of{}", amount(self.total_files, noun, self.total_bytes));
        }
        if self.errors > 0 {
            out += &format!(", {}", human::count(self.errors, "error"));
        }
        if let Some(left) = self.remaining {
            out += &format!(", {} left", human::duration(left));
        }
        out
    }

    /// What matters first, and all of it briefly: 80 columns hold the time that is left, how much there is, and the rate.
    fn text_of_transfer(&self) -> String {
        let mut out = format!("[{}]", human::duration(self.elapsed));
        if let Some(share) = self.share {
            out += &format!(" {:.1}%", (share * 1000.0).floor() / 10.0);
        }
        if let Some(left) = self.remaining {
            out += &format!(", {} left", human::duration(left));
        }
        if self.errors > 0 {
            out += &format!(", {}", human::count(self.errors, "error"));
        }
        // The packs say themselves that they are packs.
        let phase = if self.phase == PACKS { "" } else { self.phase.as_str() };
        out += if phase.is_empty() { ":" } else { ": " };
        out += phase;
        out += if phase.is_empty() { " " } else { ", " };
        out += &match self.share {
            Some(_) => format!("{}/{} {PACKS}", self.files, self.total_files),
            None => format!("{} {PACKS}", self.files),
        };
        match (self.bytes, self.total_bytes) {
            (0, 0) => {}
            (bytes, 0) => out += &format!(", {}", human::brief_size(bytes)),
            (bytes, total) => {
                let (some, all) = (human::brief_size(bytes), human::brief_size(total));
                // A unit that both have is said once.
                let unit = all.split_once(' ').map_or("", |(_, unit)| unit);
                let some = some.strip_suffix(unit).map_or(some.as_str(), str::trim_end);
                out += &format!(", {some}/{all}");
            }
        }
        if self.stored > 0 {
            let rate = self.stored as f64 / self.elapsed.as_secs_f64().max(0.1);
            out += &format!(", {}/s", human::brief_size(rate as u64));
            if self.bytes > self.stored {
                out += &format!(", {} skipped", human::brief_size(self.bytes - self.stored));
            }
        }
        out
    }

    fn message(&self, job: Job) -> serde_json::Value {
        let (seconds_elapsed, seconds_remaining) = (self.elapsed.as_secs(), self.remaining.map(|r| r.as_secs()));
        let percent_done = self.share.unwrap_or(0.0);
        let value = match job {
            Job::Restore { .. } => serde_json::to_value(json::RestoreStatus {
                seconds_elapsed,
                seconds_remaining,
                percent_done,
                total_files: self.total_files,
                files_restored: self.files,
                total_bytes: self.total_bytes,
                bytes_restored: self.bytes,
                error_count: self.errors,
            }),
            Job::Backup | Job::Transfer | Job::Other(_) | Job::Look(_) => serde_json::to_value(json::Status {
                seconds_elapsed,
                seconds_remaining,
                percent_done,
                total_files: self.total_files,
                files_done: self.files,
                total_bytes: self.total_bytes,
                bytes_done: self.bytes,
                error_count: self.errors,
                bytes_stored: self.stored,
                phase: self.phase.clone(),
            }),
        };
        value.unwrap_or_default()
    }
}

fn amount(files: u64, noun: &str, bytes: u64) -> String {
    match bytes {
        0 => format!(" {files} {noun}"),
        _ => format!(" {files} {noun} {}", human::size(bytes)),
    }
}

impl Monitor for Progress {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Phase(name) => name.clone_into(&mut self.shared.phase()),
            Event::Notice(message) => self.shared.remark(message, false),
            Event::Warning(message) => self.shared.remark(message, true),
            Event::ItemError { path, during, error } => self.shared.item_error(path, during, error),
            Event::Item { path, action, size } => self.shared.item(path, action, size),
            // The engine may learn to say more than is shown.
            _ => {}
        }
    }

    fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    fn cancelled(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests;
