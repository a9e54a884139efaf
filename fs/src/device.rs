//! Mounting and unmounting: the system calls as root, `fusermount3` for everybody else.
//!
//! Done here rather than left to the FUSE crate, because that unmounts by path at the end of a session without
//! knowing whether what is mounted there is still its own.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::socket::{AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, socketpair};
use nix::unistd::{getgid, getuid};
use repo::error::{Error, Kind, Result};
use repo::mount_table::KIND;
pub use repo::mount_table::mounted_at;

const DEVICE: &str = "/dev/fuse";
const HELPER: &str = "fusermount3";

/// What to mount.
pub struct Request<'a> {
    /// An existing directory, absolute and without links.
    pub at: &'a Path,
    /// What `mount` and `df` show as the device.
    pub name: &'a str,
    /// Let other users in.
    pub allow_other: bool,
    /// Have the kernel check permissions.
    pub check: bool,
}

/// Mounts and returns the connection to the kernel.
///
/// # Errors
/// `Unsupported` without FUSE, `Refused` when this user may not mount so, else what the system says.
pub fn attach(request: &Request<'_>) -> Result<OwnedFd> {
    match attach_directly(request) {
        Err(e) if matches!(e.errno(), Some(libc::EPERM | libc::EACCES)) && !getuid().is_root() => {
            attach_by_helper(request)
        }
        done => done,
    }
}

fn options(request: &Request<'_>) -> Vec<&'static str> {
    let mut out = Vec::new();
    out.extend(request.allow_other.then_some("allow_other"));
    out.extend(request.check.then_some("default_permissions"));
    out
}

fn attach_directly(request: &Request<'_>) -> Result<OwnedFd> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(DEVICE);
    let file = file.map_err(|e| match e.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => Error::io("open", DEVICE, e)
            .with_kind(Kind::Unsupported)
            .remedy("load the module with 'modprobe fuse' or install the package fuse3"),
        _ => Error::io("open", DEVICE, e),
    })?;
    let mut data = format!("fd={},rootmode=40000,user_id={},group_id={}", file.as_raw_fd(), getuid(), getgid());
    for option in options(request) {
        data.push(',');
        data.push_str(option);
    }
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOATIME;
    mount(Some(request.name), request.at, Some(KIND), flags, Some(data.as_str()))
        .map_err(|e| Error::io("mount on", request.at, e.into()))?;
    Ok(file.into())
}

/// `fusermount3` mounts with its own privileges and sends the connection over a socket.
fn attach_by_helper(request: &Request<'_>) -> Result<OwnedFd> {
    let failed = |e: io::Error| {
        let remedy = "install the package fuse3";
        let kind = if e.kind() == io::ErrorKind::NotFound { Kind::Unsupported } else { Kind::Io };
        Error::io("run", HELPER, e).with_kind(kind).remedy(remedy)
    };
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty()).map_err(|e| failed(e.into()))?;
    fcntl(&ours, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(|e| failed(e.into()))?;
    let name = request.name.replace(['\\', ','], "_");
    let mut wanted = format!("ro,nosuid,nodev,noatime,subtype=packmule,fsname={name}");
    options(request).iter().for_each(|option| wanted.push_str(&format!(",{option}")));
    let child = Command::new(HELPER)
        .args(["-o", &wanted, "--"])
        .arg(request.at)
        .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    drop(theirs);
    let received = receive(ours.as_raw_fd());
    let output = child.wait_with_output().map_err(failed)?;
    match received {
        Ok(Some(fd)) => {
            fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(|e| failed(e.into()))?;
            Ok(fd)
        }
        _ => Err(refused(request, &String::from_utf8_lossy(&output.stderr))),
    }
}

fn refused(request: &Request<'_>, said: &str) -> Error {
    let said = said.trim().replace('\n', "; ");
    let error = Error::new(Kind::Refused, format!("{HELPER} does not mount ({said}) on")).at(request.at);
    if said.contains("user_allow_other") {
        return error.remedy("add the line 'user_allow_other' to /etc/fuse.conf");
    }
    if said.contains(DEVICE) {
        return error.remedy(format!("let users open it: 'chmod 666 {DEVICE}'"));
    }
    error
}

fn receive(socket: RawFd) -> nix::Result<Option<OwnedFd>> {
    let mut byte = [0];
    let mut buffers = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!(RawFd);
    let message = recvmsg::<()>(socket, &mut buffers, Some(&mut space), MsgFlags::empty())?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            // SAFETY: the kernel just made these descriptors for this process, and nothing else owns them.
            return Ok(fds.first().map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) }));
        }
    }
    Ok(None)
}

/// How a mount ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detached {
    /// Nobody used it.
    Unmounted,
    /// Gone from the tree; files that are still open work until they are closed or the process ends.
    Lazily,
    /// It was not there any more.
    Absent,
}

/// Unmounts `at`; when it is in use, detaches it lazily.
///
/// # Errors
/// What the system says.
pub fn detach(at: &Path) -> Result<Detached> {
    let failed = |e: Errno| Error::io("unmount", at, e.into());
    match umount2(at, MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(Detached::Unmounted),
        Err(Errno::EINVAL | Errno::ENOENT) => Ok(Detached::Absent),
        Err(Errno::EBUSY) => {
            umount2(at, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).map_err(failed)?;
            Ok(Detached::Lazily)
        }
        Err(Errno::EPERM) => detach_by_helper(at),
        Err(e) => Err(failed(e)),
    }
}

fn detach_by_helper(at: &Path) -> Result<Detached> {
    let run = |flags: &[&str]| {
        let mut command = Command::new(HELPER);
        command.args(flags).arg("--").arg(at).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.output().map_err(|e| Error::io("run", HELPER, e).remedy("install the package fuse3"))
    };
    if run(&["-u"])?.status.success() {
        return Ok(Detached::Unmounted);
    }
    let lazily = run(&["-u", "-z"])?;
    match lazily.status.success() {
        true => Ok(Detached::Lazily),
        false => {
            let said = String::from_utf8_lossy(&lazily.stderr).trim().replace('\n', "; ");
            Err(Error::new(Kind::Io, format!("{HELPER} does not unmount ({said})")).at(at))
        }
    }
}

/// Sets the kernel's read-ahead for a mount; needs root. A hint: what fails is left as it was.
pub fn set_read_ahead(device: (u32, u32), kib: u32) {
    use std::io::Write;
    let path = format!("/sys/class/bdi/{}:{}/read_ahead_kb", device.0, device.1);
    let opened: io::Result<File> = OpenOptions::new().write(true).open(path);
    let _ = opened.and_then(|mut f| f.write_all(kib.to_string().as_bytes()));
}

/// Text as the mount table can hold it as a name: no commas, which separate options.
pub fn table_name(path: &OsStr) -> String {
    String::from_utf8_lossy(path.as_bytes()).replace(',', "_")
}
