//! SIGINT and SIGTERM end a mount cleanly; nothing else does.

use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use repo::error::{Error, Result};

const STOP: [Signal; 2] = [Signal::SIGINT, Signal::SIGTERM];
const OTHERS: [Signal; 6] =
    [Signal::SIGHUP, Signal::SIGPIPE, Signal::SIGQUIT, Signal::SIGALRM, Signal::SIGUSR1, Signal::SIGUSR2];

/// Where the handler writes; -1 before it is installed.
static WAKE: AtomicI32 = AtomicI32::new(-1);

extern "C" fn wake(_: libc::c_int) {
    let fd = WAKE.load(Ordering::Relaxed);
    // SAFETY: write(2) is async-signal-safe, the buffer is one static byte, and the descriptor is never closed.
    unsafe { libc::write(fd, b"x".as_ptr().cast(), 1) };
}

/// Does nothing, which unlike ignoring is not inherited by programs started from here.
extern "C" fn nothing(_: libc::c_int) {}

/// Calls `stop` on a thread of its own for each SIGINT or SIGTERM from now on. The other signals whose default would
/// kill the process and leave a dead mount behind (a lost terminal's SIGHUP, a closed pipe's SIGPIPE, …) do nothing.
/// To be called once in a process, after whatever else handles these signals: the last handler counts.
///
/// # Errors
/// When the system refuses a pipe, a thread or a handler.
pub fn on_stop(stop: impl Fn() + Send + 'static) -> Result<()> {
    let failed = |e: nix::errno::Errno| Error::io("handle signals in", "this process", e.into());
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(failed)?;
    let watch = move || {
        let mut byte = [0];
        while matches!(nix::unistd::read(&read, &mut byte), Ok(1) | Err(nix::errno::Errno::EINTR)) {
            stop();
        }
    };
    let thread = std::thread::Builder::new().name("signals".into()).spawn(watch);
    thread.map_err(|e| Error::io("start a thread in", "this process", e))?;
    install(write).map_err(failed)
}

fn install(write: OwnedFd) -> nix::Result<()> {
    debug_assert!(write.as_raw_fd() >= 0);
    WAKE.store(write.into_raw_fd(), Ordering::Relaxed);
    let handle = SigAction::new(SigHandler::Handler(wake), SaFlags::SA_RESTART, SigSet::empty());
    let ignore = SigAction::new(SigHandler::Handler(nothing), SaFlags::SA_RESTART, SigSet::empty());
    for (signals, action) in [(&STOP[..], handle), (&OTHERS[..], ignore)] {
        for signal in signals {
            // SAFETY: one handler does nothing, the other only calls write(2) on a descriptor that stays open.
            unsafe { sigaction(*signal, &action)? };
        }
    }
    Ok(())
}
