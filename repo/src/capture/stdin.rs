//! A command's output as a snapshot of one file. A command that fails fails the backup.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::capture::scan::Meta;
use crate::capture::walk::Walk;
use crate::error::{Error, Kind, Result};
use crate::format::tree::{EntryType, FileTime};
use crate::path::valid_name;

/// How often a silent command's reader looks whether the backup is over, in milliseconds.
const LOOK_MS: u8 = 100;

/// What to run and what to call its output.
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
    child: Option<std::process::Child>,
    program: OsString,
}

impl std::io::Read for Checked {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.pipe.read(buf)?;
        if n == 0
            && let Some(mut child) = self.child.take()
        {
            let status = child.wait()?;
            if !status.success() {
                return Err(std::io::Error::other(format!("{} failed: {status}", self.program.display())));
            }
        }
        Ok(n)
    }
}

impl Drop for Checked {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // The backup is over before the command is: it gets SIGPIPE, or this.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
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
