//! Reading ahead: which reads are sequential, and what will be asked for next.
//!
//! The source decodes ahead on threads of its own and keeps frames in its byte-bounded cache; here only plans are
//! kept, and a thread that looks into directories for the files that follow. All of it is a hint: when a queue is
//! full, jobs are dropped, and a failure shows when the chunk itself is read.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;

use lru::LruCache;
use parking_lot::{Condvar, Mutex};
use repo::crypto::hash::ChunkKind;
use repo::error::{Error, Result};
use repo::format::tree::{Content, Extent};
use repo::limits::MIB;
use repo::pack::source::FrameSource;
use repo::tree::file::extents;

/// The first step ahead; it doubles with every read …
const AHEAD_MIN: u64 = MIB as u64;
/// … up to this. A cache of [`repo::limits::FRAME_CACHE`] holds several such streams.
const AHEAD_MAX: u64 = 8 * MIB as u64;
/// Reads this near to where the last one ended count as sequential: the kernel sends several at once, in any order.
const NEAR: u64 = MIB as u64;
/// Extents of a file kept decoded.
const WINDOW: usize = 1024;
/// Files whose reads are followed.
const STREAMS: usize = 64;
/// Jobs waiting.
const QUEUE: usize = 256;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    stopped: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

/// Threads that do such jobs. Stops them when dropped.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// A pool of `threads`; with none every job is dropped.
    pub fn new(threads: usize) -> Pool {
        let shared = Arc::new(Shared::default());
        let spawn = |i| {
            let shared = shared.clone();
            std::thread::Builder::new().name(format!("ahead-{i}")).spawn(move || work(&shared)).ok()
        };
        let threads = (0..threads).filter_map(spawn).collect();
        Pool { shared, threads }
    }

    /// Has `job` done soon, unless too much waits already; says whether.
    pub fn offer(&self, job: impl FnOnce() + Send + 'static) -> bool {
        let mut queue = self.shared.queue.lock();
        if queue.jobs.len() >= QUEUE || self.threads.is_empty() {
            return false;
        }
        queue.jobs.push_back(Box::new(job));
        drop(queue);
        self.shared.wake.notify_one();
        true
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut queue = self.shared.queue.lock();
        queue.stopped = true;
        queue.jobs.clear();
        drop(queue);
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn work(shared: &Shared) {
    loop {
        let mut queue = shared.queue.lock();
        let job = loop {
            if queue.stopped {
                return;
            }
            match queue.jobs.pop_front() {
                Some(job) => break job,
                None => shared.wake.wait(&mut queue),
            }
        };
        drop(queue);
        // A panic in a hint must not cost the thread; the read that needs the chunk meets it again.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
    }
}

/// A file's extents near where it is read, and how it is read.
#[derive(Default)]
struct Stream {
    /// Extents with their offsets, in order.
    window: Vec<(u64, Extent)>,
    /// Where the furthest read ended.
    reached: u64,
    /// Sequential reads in a row.
    run: u32,
    /// Everything before this was asked for ahead.
    asked: u64,
}

impl Stream {
    fn covers(&self, from: u64, to: u64) -> bool {
        let end = self.window.last().map_or(0, |(at, extent)| at + extent.len());
        self.window.first().is_some_and(|(at, _)| *at <= from) && to <= end
    }

    /// Takes note of a read; returns how far ahead to ask for.
    fn note(&mut self, from: u64, to: u64) -> u64 {
        let sequential = from <= self.reached.saturating_add(NEAR) && to.saturating_add(NEAR) >= self.reached;
        if sequential && self.reached > 0 {
            self.run = (self.run + 1).min(16);
            self.reached = self.reached.max(to);
        } else {
            *self = Stream { window: std::mem::take(&mut self.window), reached: to, run: 0, asked: to };
        }
        match self.run {
            0 => 0,
            run => (AHEAD_MIN << (run - 1).min(8)).min(AHEAD_MAX),
        }
    }
}

/// The part of an extent that a read takes.
pub struct Part {
    /// The extent.
    pub extent: Extent,
    /// Where in the extent it begins.
    pub from: u64,
    /// How many bytes.
    pub len: usize,
}

/// Follows reads, file by file.
pub struct Prefetch {
    source: Arc<dyn FrameSource>,
    pool: Pool,
    streams: Mutex<LruCache<u64, Arc<Mutex<Stream>>>>,
    /// By directory: the position last read, and up to which position files were asked for.
    siblings: Siblings,
}

/// Shared with jobs, which must not keep the pool itself alive.
type Siblings = Arc<Mutex<LruCache<u64, (u64, u64)>>>;

fn capacity(n: usize) -> std::num::NonZeroUsize {
    std::num::NonZeroUsize::new(n).unwrap_or(std::num::NonZeroUsize::MIN)
}

impl Prefetch {
    /// Reads ahead from `source`; looks into directories on `threads` threads.
    pub fn new(source: Arc<dyn FrameSource>, threads: usize) -> Prefetch {
        let streams = Mutex::new(LruCache::new(capacity(STREAMS)));
        let siblings = Arc::new(Mutex::new(LruCache::new(capacity(STREAMS))));
        Prefetch { source, pool: Pool::new(threads), streams, siblings }
    }

    /// What to read for the bytes `from..to` of a file of `size` bytes, and asks for what will come after them.
    ///
    /// # Errors
    /// What the source gives for the file's index nodes.
    pub fn plan(&self, ino: u64, content: &Content, size: u64, from: u64, to: u64) -> Result<Vec<Part>> {
        let stream = self.streams.lock().get_or_insert(ino, Arc::default).clone();
        let mut stream = stream.lock();
        let ahead = to.saturating_add(stream.note(from, to)).min(size);
        if !stream.covers(from, ahead) {
            stream.window = load(&*self.source, content, from, ahead)?;
        }
        let parts = cut(&stream.window, from, to)?;
        let begin = stream.asked.max(to);
        if ahead > begin {
            stream.asked = self.ask(&stream.window, begin, ahead);
        }
        Ok(parts)
    }

    /// Asks for the extents that begin in `from..to`; returns where the last one ends.
    fn ask(&self, window: &[(u64, Extent)], from: u64, to: u64) -> u64 {
        let first = window.partition_point(|(at, _)| *at < from);
        let mut asked = from;
        let mut chunks = Vec::new();
        for (at, extent) in window[first..].iter().take_while(|(at, _)| *at < to) {
            if let Extent::Data { h, .. } = extent {
                chunks.push((*h, ChunkKind::Data));
            }
            asked = at.saturating_add(extent.len());
        }
        self.source.prefetch(&chunks);
        asked
    }

    /// Takes note that the file at `position` of directory `dir` is read from its start. When files are read in the
    /// directory's order, `ask` is called on another thread with the position from which to ask for more; it
    /// returns where it stopped.
    pub fn sibling(&self, dir: u64, position: u64, ask: impl FnOnce(u64) -> u64 + Send + 'static) {
        /// Files may be skipped: directories, links and what is in the kernel's cache are not read.
        const SKIP: u64 = 32;
        let mut siblings = self.siblings.lock();
        let Some((last, asked)) = siblings.get_mut(&dir) else {
            siblings.put(dir, (position, position));
            return;
        };
        let in_order = position > *last && position - *last <= SKIP;
        *last = position;
        if !in_order {
            *asked = position;
            return;
        }
        if *asked > position + SKIP {
            return;
        }
        let from = (*asked).max(position + 1);
        // Nobody asks again while the job runs; it says at the end how far it came.
        *asked = u64::MAX;
        drop(siblings);
        let shared = self.siblings.clone();
        let done = move |until: u64| {
            if let Some((_, asked)) = shared.lock().get_mut(&dir) {
                *asked = until;
            }
        };
        let refused = done.clone();
        if !self.pool.offer(move || done(ask(from))) {
            refused(from);
        }
    }
}

/// The extents from the one that holds `from`, at least up to `to`.
fn load(source: &dyn FrameSource, content: &Content, from: u64, to: u64) -> Result<Vec<(u64, Extent)>> {
    let mut window: Vec<(u64, Extent)> = Vec::new();
    for next in extents(source, content, from) {
        let (at, extent) = next?;
        if window.len() >= WINDOW && at >= to {
            break;
        }
        window.push((at, extent));
    }
    Ok(window)
}

/// The parts of `window` that make up `from..to`.
fn cut(window: &[(u64, Extent)], from: u64, to: u64) -> Result<Vec<Part>> {
    let first = window.partition_point(|(at, extent)| at.saturating_add(extent.len()) <= from);
    let mut parts = Vec::new();
    let mut reached = from;
    for (at, extent) in &window[first..] {
        if reached >= to {
            break;
        }
        let into = reached.checked_sub(*at).ok_or_else(|| Error::damaged("a file's extents are out of order"))?;
        let len = (extent.len() - into).min(to - reached);
        parts.push(Part { extent: *extent, from: into, len: len as usize });
        reached += len;
    }
    if reached < to {
        return Err(Error::damaged("a file's extents end before the file does"));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sequential_reads_look_ahead() {
        let mut s = Stream::default();
        assert_eq!(s.note(0, 1 << 18), 0);
        assert_eq!(s.note(1 << 18, 2 << 18), AHEAD_MIN);
        assert_eq!(s.note(3 << 18, 4 << 18), 2 * AHEAD_MIN, "out of order, but near");
        assert_eq!(s.note(1 << 30, (1 << 30) + 4096), 0, "a jump starts anew");
        for i in 1..20 {
            let at = (1 << 30) + i * 4096;
            assert!(s.note(at, at + 4096) <= AHEAD_MAX);
        }
    }

    #[test]
    fn a_full_queue_drops_jobs() {
        let pool = Pool::new(0);
        assert!(!pool.offer(|| ()));
        let pool = Pool::new(1);
        let (tx, rx) = std::sync::mpsc::channel();
        assert!(pool.offer(|| panic!("on purpose: the thread survives")));
        assert!(pool.offer(move || tx.send(1).unwrap()));
        assert_eq!(rx.recv().unwrap(), 1);
    }
}
