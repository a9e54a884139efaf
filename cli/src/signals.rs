//! Signals: SIGINT and SIGTERM ask the running operation to stop at its next safe point; a second one ends the process at
//! once, which is safe too, as after a crash. A mount replaces these handlers by its own.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use nix::sys::signal::{SigHandler, Signal, signal};
use repo::error::{Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::exit::ExitCode;

/// Gives SIGPIPE its default meaning, which Rust's runtime takes away: `packmule ls … | head` ends quietly.
pub fn default_sigpipe() {
    // SAFETY: called first in `main`, before any thread; SIG_DFL installs no handler.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
}

/// Returns the flag that SIGINT and SIGTERM set from now on. With the flag set, either of them exits with 130 at once.
///
/// # Errors
/// When the system refuses the handlers.
pub fn stop_flag() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for number in [SIGINT, SIGTERM] {
        // The order matters: the exit looks at the flag before this same signal sets it.
        flag::register_conditional_shutdown(number, ExitCode::Interrupted.code().into(), Arc::clone(&stop))
            .and_then(|_| flag::register(number, Arc::clone(&stop)))
            .map_err(refused)?;
    }
    Ok(stop)
}

fn refused(e: io::Error) -> Error {
    Error::io("set up signal handlers of", "packmule", e)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn the_first_signal_sets_the_flag() {
        let stop = stop_flag().unwrap();
        assert!(!stop.load(Ordering::SeqCst));
        signal_hook::low_level::raise(SIGTERM).unwrap();
        assert!(stop.load(Ordering::SeqCst));
    }
}
