//! A command's output as a snapshot of one file. A command that fails fails the backup.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::capture::scan::Meta;
use crate::capture::walk::Walk;
use crate::error::{Error, Kind, Result};
use crate::format::tree::{EntryType, FileTime};
use crate::path::valid_name;

/// How often a silent command's reader looks whether the backup is over, in milliseconds.
const LOOK_MS: u8 = 100;
/// How often to look whether a command has ended.
const CHILD_LOOK: Duration = Duration::from_millis(10);
/// How long a command may take to end once it is asked to, before it is killed.
const TO_END: Duration = Duration::from_secs(3);
/// How much later than the command this process may see a signal sent to both.
const SAME_SIGNAL: Duration = Duration::from_millis(500);

/// What to run and what to call its output.
#[derive(Clone)]
pub struct Stdin {
    /// Program and arguments; empty: this process's own standard input.
    pub command: Vec<OsString>,
    /// The file's name in the snapshot's root.
    pub name: OsString,
}

impl Stdin {
    /// Whether the name can be a file's.
    ///
    /// # Errors
    /// `Usage` when not.
    pub fn validate(&self) -> Result<()> {
        if valid_name(self.name.as_bytes()) {
            return Ok(());
        }
        Err(Error::new(Kind::Usage, "the name for the command's output is no file name:").at(&self.name))
    }

    /// Runs the command and captures its output; fails if it does, and soon after `over` is set.
    pub(super) fn run(self, walk: Walk<'_>, over: Arc<AtomicBool>) -> Result<()> {
        let meta = meta();
        let name = self.name.as_bytes();
        let Some((program, args)) = self.command.split_first() else {
            return walk.stream(name, &meta, Box::new(Awaited { pipe: own_input()?, over }));
        };
        let mut child = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| Error::io("run", program, e))?;
        let pipe = child.stdout.take().ok_or_else(|| Error::bug("the command has no output to read"))?;
        let pipe = Awaited { pipe, over };
        let walked = walk.stream(name, &meta, Box::new(Checked { pipe, child: Some(child), program: program.clone() }));
        walked.map_err(|e| e.at(program))
    }
}

/// A pipe whose writer may be silent for long: whoever waits for it sees when the backup is over.
struct Awaited<R> {
    pipe: R,
    over: Arc<AtomicBool>,
}

impl<R: std::io::Read + AsFd> std::io::Read for Awaited<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        loop {
            if self.over.load(Ordering::Relaxed) {
                return Err(std::io::Error::other("the backup is over"));
            }
            let mut fds = [PollFd::new(self.pipe.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::from(LOOK_MS)) {
                Ok(0) | Err(nix::errno::Errno::EINTR) => {}
                Ok(_) => return self.pipe.read(buf),
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// The pipe, whose end is an error when the command failed: so a failed dump never becomes a snapshot.
struct Checked {
    pipe: Awaited<std::process::ChildStdout>,
    child: Option<Child>,
    program: OsString,
}

impl std::io::Read for Checked {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.pipe.read(buf)?;
        if n == 0
            && let Some(status) = self.status()?
        {
            self.child = None;
            if !status.success() {
                // A Ctrl-C reaches the command as well as this process, whose user is then to hear of nothing else.
                await_set(&self.pipe.over, SAME_SIGNAL);
                return Err(std::io::Error::other(format!("{} failed: {status}", self.program.display())));
            }
        }
        Ok(n)
    }
}

impl Checked {
    /// How the command ended; it may go on for long after it has closed its output. None if that was told before.
    fn status(&mut self) -> std::io::Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(Some(status));
            }
            if await_set(&self.pipe.over, CHILD_LOOK) {
                return Err(std::io::Error::other("the backup is over"));
            }
        }
    }
}

impl Drop for Checked {
    /// The backup is over before the command is.
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // Asked first: what was run by way of sudo, ssh or a container ends only if its front may pass that on.
        let pid = nix::unistd::Pid::from_raw(child.id() as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let asked = Instant::now();
        while asked.elapsed() < TO_END {
            match child.try_wait() {
                Ok(None) => std::thread::sleep(CHILD_LOOK),
                _ => return,
            }
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Waits for the flag, at most so long; whether it is set.
fn await_set(flag: &AtomicBool, limit: Duration) -> bool {
    let begun = Instant::now();
    while !flag.load(Ordering::Relaxed) {
        if begun.elapsed() >= limit {
            return false;
        }
        std::thread::sleep(CHILD_LOOK.min(limit));
    }
    true
}

/// Standard input without the buffer of the standard library, which no poll sees into.
fn own_input() -> Result<std::fs::File> {
    let fd = std::io::stdin().as_fd().try_clone_to_owned();
    fd.map(std::fs::File::from).map_err(|e| Error::io("read", "standard input", e))
}

fn meta() -> Meta {
    let now = crate::clock::Time::now();
    let time = FileTime { secs: now.secs(), nanos: now.subsec_nanos() };
    Meta {
        kind: EntryType::File,
        mode: 0o600,
        uid: nix::unistd::getuid().as_raw(),
        gid: nix::unistd::getgid().as_raw(),
        mtime: time,
        ctime: time,
        dev: 0,
        ino: 0,
        nlink: 1,
        size: 0,
        blocks: 0,
        rdev: 0,
    }
}
