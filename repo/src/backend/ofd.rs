//! Byte-range locks of open file descriptions: they belong to one opened file, work between processes and between
//! threads, and end when the file is closed, however the process ends.

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

fn range(kind: i32, start: u64) -> libc::flock {
    libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: start as libc::off_t,
        l_len: 1,
        // Must be 0 for this kind of lock.
        l_pid: 0,
    }
}

/// Locks the byte at `start` against every other opening of the file; false if another holds it. `file` is open for writing.
pub(crate) fn try_lock(file: &File, start: u64) -> io::Result<bool> {
    let request = range(libc::F_WRLCK, start);
    loop {
        match fcntl(file, FcntlArg::F_OFD_SETLK(&request)) {
            Ok(_) => return Ok(true),
            Err(Errno::EAGAIN | Errno::EACCES) => return Ok(false),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Whether another opening of the file holds the byte at `start`.
pub(crate) fn is_locked(file: &File, start: u64) -> io::Result<bool> {
    let mut request = range(libc::F_WRLCK, start);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut request))?;
    Ok(i32::from(request.l_type) != libc::F_UNLCK)
}
