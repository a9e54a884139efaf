//! Keeps a virtual machine's processors from halting between two requests.
//!
//! A program that copies files one by one waits for us some 300,000 times for 78,000 files, and we for it, each time for
//! some microseconds. On a virtual machine a processor that halts for that is woken through the hypervisor, which takes
//! longer than the request: `cp -a` then takes 15 s instead of 9. So while requests follow each other closely we ask
//! the kernel not to halt, through `/dev/cpu_dma_latency`, which undoes it when closed, however we end.
//!
//! This is done only where the host has said that its guest has its processors to itself, since waiting costs the host
//! what working costs: that is when the kernel's idle driver is `haltpoll`. It takes root.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

const DRIVER: &str = "/sys/devices/system/cpu/cpuidle/current_driver";
const DEVICE: &str = "/dev/cpu_dma_latency";
/// So many requests …
const BURST: u64 = 64;
/// … in so much time are close; fewer end it.
const WITHIN: Duration = Duration::from_millis(50);

/// Told of every request. Where it can do nothing it does nothing.
pub struct Awake {
    watch: Option<(Arc<Watch>, Thread)>,
}

struct Watch {
    requests: AtomicU64,
    /// Whether the processors are kept from halting.
    held: AtomicBool,
    stopped: AtomicBool,
    start: Instant,
    /// When the burst before this one was complete, in microseconds after the start.
    last: AtomicU64,
}

impl Awake {
    /// For one mount.
    pub fn new() -> Awake {
        let dedicated = std::fs::read_to_string(DRIVER).is_ok_and(|driver| driver.trim() == "haltpoll");
        if !dedicated || device().is_none() {
            return Awake { watch: None };
        }
        let watch = Arc::new(Watch {
            requests: AtomicU64::new(0),
            held: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            start: Instant::now(),
            last: AtomicU64::new(0),
        });
        let shared = watch.clone();
        let spawned = std::thread::Builder::new().name("awake".into()).spawn(move || shared.run());
        Awake { watch: spawned.ok().map(|handle| (watch, handle.thread().clone())) }
    }

    /// A request has come.
    pub fn request(&self) {
        let Some((watch, thread)) = &self.watch else { return };
        if watch.begins() {
            thread.unpark();
        }
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        if let Some((watch, thread)) = &self.watch {
            watch.stopped.store(true, Ordering::Relaxed);
            thread.unpark();
        }
    }
}

impl Watch {
    /// Counts a request; says whether with this one they follow each other closely and nothing is done about it yet.
    fn begins(&self) -> bool {
        let count = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        if !count.is_multiple_of(BURST) || self.held.load(Ordering::Relaxed) {
            return false;
        }
        let now = self.start.elapsed().as_micros() as u64;
        let before = self.last.swap(now, Ordering::Relaxed);
        now.saturating_sub(before) < WITHIN.as_micros() as u64
    }

    fn run(&self) {
        while !self.stopped.load(Ordering::Relaxed) {
            std::thread::park();
            let Some(device) = device() else { continue };
            self.held.store(true, Ordering::Relaxed);
            let mut seen = self.requests.load(Ordering::Relaxed);
            loop {
                std::thread::sleep(WITHIN);
                let now = self.requests.load(Ordering::Relaxed);
                if now - seen < BURST || self.stopped.load(Ordering::Relaxed) {
                    break;
                }
                seen = now;
            }
            self.held.store(false, Ordering::Relaxed);
            drop(device);
        }
    }
}

/// While this is open, no processor may take any time to wake.
fn device() -> Option<File> {
    let mut device = File::options().write(true).custom_flags(libc::O_CLOEXEC).open(DEVICE).ok()?;
    device.write_all(&0i32.to_ne_bytes()).ok()?;
    Some(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch() -> Watch {
        Watch {
            requests: AtomicU64::new(0),
            held: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            start: Instant::now(),
            last: AtomicU64::new(0),
        }
    }

    #[test]
    fn only_a_burst_begins_it_and_only_once() {
        let watch = watch();
        std::thread::sleep(WITHIN * 2);
        let begun: Vec<u64> = (1..=3 * BURST).filter(|_| watch.begins()).collect();
        assert_eq!(begun, [2 * BURST, 3 * BURST], "the first only shows when the next began");
        watch.held.store(true, Ordering::Relaxed);
        assert!(!(0..3 * BURST).any(|_| watch.begins()), "it is held already");
        watch.held.store(false, Ordering::Relaxed);
        for _ in 0..3 {
            std::thread::sleep(WITHIN * 2);
            assert!(!(0..BURST).any(|_| watch.begins()), "too far apart");
        }
    }
}
