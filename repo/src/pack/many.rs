//! The same work on many packs, on several threads, with bounded memory.

use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::bounded;
use parking_lot::Mutex;

use crate::error::{Error, Kind, Result};
use crate::monitor::Monitor;

/// Threads at most: beyond that disks gain nothing, and every thread holds a pack.
const MAX_THREADS: usize = 8;

/// How many threads [`in_parallel`] uses.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).clamp(2, MAX_THREADS)
}

/// Hands results over to the thread that collects them; false once nobody takes them any more.
pub type Emit<'a, R> = &'a mut dyn FnMut(R) -> bool;

/// Does `work` on every item, several at a time, and gives what it emits to `take`, in any order, on the caller's
/// thread. As many items are in work at once as there are threads, and as many results wait.
///
/// # Errors
/// The first of `take`'s; `Interrupted` when the user stops it.
pub fn in_parallel<T: Send, R: Send>(
    items: impl Iterator<Item = T> + Send,
    monitor: &dyn Monitor,
    work: impl Fn(T, Emit<'_, R>) + Sync,
    mut take: impl FnMut(R) -> Result<()>,
) -> Result<()> {
    let items = Mutex::new(items);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (results, incoming) = bounded::<R>(threads());
        for _ in 0..threads() {
            let results = results.clone();
            let (items, stop, work) = (&items, &stop, &work);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let Some(item) = items.lock().next() else { return };
                    work(item, &mut |result| results.send(result).is_ok());
                }
            });
        }
        drop(results);
        let mut done = Ok(());
        // Ends when the last thread drops its sender, or by dropping `incoming`.
        for result in &incoming {
            done = if monitor.cancelled() {
                Err(Error::new(Kind::Interrupted, "stopped while reading packs"))
            } else {
                take(result)
            };
            if done.is_err() {
                stop.store(true, Ordering::Relaxed);
                break;
            }
        }
        drop(incoming);
        done
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::{Recording, Void};

    #[test]
    fn every_item_is_worked_on_once_and_an_error_ends_it() {
        let mut sum = 0u64;
        let twice = |n: u64, emit: Emit<'_, u64>| {
            emit(n);
            emit(n);
        };
        in_parallel(0..1000u64, &Void::default(), twice, |n| {
            sum += n;
            Ok(())
        })
        .unwrap();
        assert_eq!(sum, 999_000);
        let failed = in_parallel(0..u64::MAX, &Void::default(), twice, |_| Err(Error::bug("enough")));
        assert_eq!(failed.unwrap_err().kind(), Kind::Bug);
        let monitor = Recording::default();
        monitor.cancel();
        let stopped = in_parallel(0..u64::MAX, &monitor, twice, |_| Ok(()));
        assert_eq!(stopped.unwrap_err().kind(), Kind::Interrupted);
    }
}
