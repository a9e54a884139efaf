//! Sources that cannot be read: each is reported at once and counted, and the backup goes on with the rest.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result, printable};
use crate::monitor::{Counters, Event, Monitor};

/// What could not be read so far.
pub struct Failures<'a> {
    monitor: &'a dyn Monitor,
    count: AtomicU64,
    missing: AtomicU64,
}

impl<'a> Failures<'a> {
    /// None yet.
    pub fn new(monitor: &'a dyn Monitor) -> Failures<'a> {
        Failures { monitor, count: AtomicU64::new(0), missing: AtomicU64::new(0) }
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// How many of them were named by the user and are not there.
    pub fn missing(&self) -> u64 {
        self.missing.load(Ordering::Relaxed)
    }

    /// Reports a source that cannot be read, or not in full.
    ///
    /// # Errors
    /// The failure itself, where it is none of the source's: for want of descriptors everything else would fail as well.
    pub fn report(&self, path: &Path, during: &str, error: io::Error) -> Result<()> {
        let exhausted = matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
        let error = Error::io(during, path, error);
        if exhausted {
            return Err(error);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        Counters::add(&self.monitor.counters().errors, 1);
        self.monitor.event(Event::ItemError { path, during, error: &error });
        Ok(())
    }

    /// Something has gone since it was listed: as if it had never been there, unless the user asked for just this.
    ///
    /// # Errors
    /// As [`Failures::report`].
    pub fn gone(&self, path: &Path, named: bool) -> Result<()> {
        if named {
            self.missing.fetch_add(1, Ordering::Relaxed);
            return self.report(path, "read", io::Error::from_raw_os_error(libc::ENOENT));
        }
        let text = format!("{} vanished while it was being backed up", printable(path));
        self.monitor.event(Event::Notice(&text));
        Ok(())
    }
}
