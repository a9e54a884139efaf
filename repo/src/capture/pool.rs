//! Work done ahead of the one who needs it: a promise nobody has begun when it is needed is done by the one who waits,
//! so waiting never deadlocks.

use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, unbounded};
use parking_lot::{Condvar, Mutex};

type Job = Box<dyn FnOnce() + Send>;

/// Threads that fulfil promises in the order they were made.
pub struct Pool {
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

enum State<T> {
    Waiting(Box<dyn FnOnce() -> T + Send>),
    Running,
    Done(T),
    Panicked,
    Taken,
}

struct Slot<T> {
    state: Mutex<State<T>>,
    done: Condvar,
}

/// A value that is, or will be, computed.
pub struct Promise<T>(Arc<Slot<T>>);

impl Pool {
    /// Starts `threads` of them.
    pub fn new(threads: usize) -> Pool {
        // Not bounded by itself: who makes promises bounds how many are open.
        let (jobs, queue) = unbounded::<Job>();
        let work = |queue: crossbeam_channel::Receiver<Job>| {
            move || {
                for job in queue {
                    job();
                }
            }
        };
        let threads = (0..threads).map(|_| std::thread::spawn(work(queue.clone()))).collect();
        Pool { jobs: Some(jobs), threads }
    }

    /// Queues `work`.
    pub fn promise<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Promise<T> {
        let slot = Arc::new(Slot { state: Mutex::new(State::Waiting(Box::new(work))), done: Condvar::new() });
        let job = Arc::clone(&slot);
        if let Some(jobs) = &self.jobs {
            // With no thread left to take it, the one who waits does it.
            let _ = jobs.send(Box::new(move || job.run()));
        }
        Promise(slot)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // A panic has been printed; what it left unfinished is found by whoever waits.
            let _ = thread.join();
        }
    }
}

impl<T> Slot<T> {
    fn run(&self) {
        let mut state = self.state.lock();
        if !matches!(*state, State::Waiting(_)) {
            return;
        }
        let State::Waiting(work) = std::mem::replace(&mut *state, State::Running) else { return };
        drop(state);
        let mut end = End { slot: self, state: State::Panicked };
        end.state = State::Done(work());
    }
}

/// Tells whoever waits how the work ended, also when it panics: nobody must wait for ever.
struct End<'a, T> {
    slot: &'a Slot<T>,
    state: State<T>,
}

impl<T> Drop for End<'_, T> {
    fn drop(&mut self) {
        *self.slot.state.lock() = std::mem::replace(&mut self.state, State::Taken);
        self.slot.done.notify_all();
    }
}

impl<T> Promise<T> {
    /// The value; computed here if no thread has begun. Call it once.
    ///
    /// # Panics
    /// If the work did, in whichever thread.
    pub fn wait(self) -> T {
        self.0.run();
        let mut state = self.0.state.lock();
        while matches!(*state, State::Running) {
            self.0.done.wait(&mut state);
        }
        match std::mem::replace(&mut *state, State::Taken) {
            State::Done(value) => value,
            State::Panicked => panic!("the work that is waited for panicked"),
            _ => unreachable!("a promise is waited for once, by value"),
        }
    }

    /// Calls the work off if no thread has begun it.
    pub fn cancel(self) {
        let mut state = self.0.state.lock();
        if matches!(*state, State::Waiting(_)) {
            *state = State::Taken;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promises_are_kept_with_and_without_threads() {
        for threads in [0, 1, 4] {
            let pool = Pool::new(threads);
            let promises: Vec<_> = (0..1000u64).map(|i| pool.promise(move || i * 2)).collect();
            let sum: u64 = promises.into_iter().map(Promise::wait).sum();
            assert_eq!(sum, 999_000);
        }
    }

    #[test]
    fn a_panic_is_passed_on_and_nobody_waits_for_ever() {
        let pool = Pool::new(1);
        let promise = pool.promise(|| -> u64 { panic!("on purpose") });
        std::thread::sleep(std::time::Duration::from_millis(50));
        let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| promise.wait()));
        assert!(waited.is_err());
    }
}
