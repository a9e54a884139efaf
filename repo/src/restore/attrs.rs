//! Attributes: owner, extended attributes, mode, time, in this order, because each can undo one before it: giving a file
//! away strips setuid and capabilities, and the time comes last so that only what is complete has it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::stat::{FchmodatFlags, Mode, UtimensatFlags, fchmod, fchmodat, futimens, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat};
use xattr::FileExt;

use crate::capture::scan::Meta;
use crate::error::{Error, Kind, Result};
use crate::format::tree::{Entry, EntryType, XattrValue};
use crate::restore::at::os;
use crate::restore::context::Context;
use crate::restore::unable::Unable;
use crate::tree::file::data;

const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";
const SETID: u32 = 0o6000;

/// Something whose attributes are set, by what is open of it.
pub struct Node<'f> {
    file: &'f File,
    /// Its directory and name when `file` is but a handle (`O_PATH`): links, pipes, sockets, devices.
    named: Option<(&'f File, &'f [u8])>,
}

impl<'f> Node<'f> {
    /// An open file or directory.
    pub fn open(file: &'f File) -> Node<'f> {
        Node { file, named: None }
    }

    /// A handle (`O_PATH`) of `name` in `dir`.
    pub fn handle(file: &'f File, dir: &'f File, name: &'f [u8]) -> Node<'f> {
        Node { file, named: Some((dir, name)) }
    }

    /// A path that leads to the very thing the handle is of.
    fn proc_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }

    fn chown(&self, uid: Option<u32>, gid: Option<u32>) -> nix::Result<()> {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        match self.named {
            None => fchown(self.file, uid, gid),
            Some(_) => fchownat(self.file, c"", uid, gid, AtFlags::AT_EMPTY_PATH),
        }
    }

    /// Sets the permission bits.
    pub fn chmod(&self, mode: u32) -> nix::Result<()> {
        let mode = Mode::from_bits_truncate(mode);
        match self.named {
            None => fchmod(self.file, mode),
            Some(_) => fchmodat(AT_FDCWD, &self.proc_path(), mode, FchmodatFlags::FollowSymlink),
        }
    }

    fn set_mtime(&self, time: &TimeSpec) -> nix::Result<()> {
        match self.named {
            None => futimens(self.file, &TimeSpec::UTIME_OMIT, time),
            Some((dir, name)) => utimensat(dir, os(name), &TimeSpec::UTIME_OMIT, time, UtimensatFlags::NoFollowSymlink),
        }
    }

    fn set_xattr(&self, name: &OsStr, value: &[u8]) -> io::Result<()> {
        match self.named {
            None => self.file.set_xattr(name, value),
            Some(_) => xattr::set_deref(self.proc_path(), name, value),
        }
    }

    fn remove_xattr(&self, name: &OsStr) -> io::Result<()> {
        match self.named {
            None => self.file.remove_xattr(name),
            Some(_) => xattr::remove_deref(self.proc_path(), name),
        }
    }

    fn xattr(&self, name: &OsStr) -> io::Result<Option<Vec<u8>>> {
        match self.named {
            None => self.file.get_xattr(name),
            Some(_) => xattr::get_deref(self.proc_path(), name),
        }
    }

    fn xattrs(&self) -> Vec<OsString> {
        let list = match self.named {
            None => self.file.list_xattr(),
            Some(_) => xattr::list_deref(self.proc_path()),
        };
        list.map_or_else(|_| Vec::new(), Iterator::collect)
    }
}

/// Whether what is made in the directory inherits an access control list.
pub fn has_default_acl(dir: &File) -> bool {
    dir.get_xattr(OsStr::from_bytes(ACL_DEFAULT)).is_ok_and(|v| v.is_some())
}

/// Takes away what a new thing inherited from its directory's default access control list.
pub fn disinherit(file: &File) {
    // Where there is nothing to take, nothing is lost.
    let _ = file.remove_xattr(OsStr::from_bytes(ACL_ACCESS));
    let _ = file.remove_xattr(OsStr::from_bytes(ACL_DEFAULT));
}

/// Whether owner, mode and time are as captured, or as an ordinary user gets them.
pub fn same(ctx: &Context<'_>, entry: &Entry, old: &Meta) -> bool {
    if old.mtime != entry.mtime {
        return false;
    }
    let exact = (old.uid, old.gid) == ctx.owners.of(entry) && old.mode == entry.mode;
    let me = nix::unistd::geteuid();
    exact || !me.is_root() && old.uid == me.as_raw() && old.mode & !SETID == entry.mode & !SETID
}

/// Sets everything that differs from `old`, the thing's present attributes. Of a `fresh` thing (made by this restore) it
/// is known that it has no extended attributes. What this user or filesystem cannot set is noted, not an error.
///
/// # Errors
/// Other failures, naming `path()`; damaged chunks of large extended attributes.
pub fn apply(
    ctx: &Context<'_>,
    node: &Node<'_>,
    entry: &Entry,
    old: &Meta,
    fresh: bool,
    path: &dyn Fn() -> PathBuf,
) -> Result<()> {
    let io = |doing: &str, e: io::Error| Error::io(doing, path(), e);
    let now = set_owner(ctx, node, entry, old).map_err(|e| io("set the owner of", e.into()))?;
    set_xattrs(ctx, node, entry, fresh, path)?;
    if entry.kind != EntryType::Symlink {
        let mode = allowed_mode(ctx, entry, now);
        let given = now != (old.uid, old.gid) || !entry.xattrs.is_empty();
        if given || mode != old.mode {
            match node.chmod(mode) {
                Err(e) if unsupported(e) => ctx.unable.note(Unable::Mode),
                other => other.map_err(|e| io("set the permissions of", e.into()))?,
            }
        }
    }
    if fresh || entry.kind == EntryType::Dir || now != (old.uid, old.gid) || old.mtime != entry.mtime {
        let time = TimeSpec::new(entry.mtime.secs, i64::from(entry.mtime.nanos));
        node.set_mtime(&time).map_err(|e| io("set the time of", e.into()))?;
    }
    Ok(())
}

fn unsupported(e: Errno) -> bool {
    matches!(e, Errno::EPERM | Errno::EACCES | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL)
}

/// Gives the thing to its owner as far as this user may; returns whose it is now.
fn set_owner(ctx: &Context<'_>, node: &Node<'_>, entry: &Entry, old: &Meta) -> nix::Result<(u32, u32)> {
    let (uid, gid) = ctx.owners.of(entry);
    if (uid, gid) == (old.uid, old.gid) {
        return Ok((uid, gid));
    }
    if uid == old.uid || !ctx.owners.giving_refused.load(Ordering::Relaxed) {
        match node.chown((uid != old.uid).then_some(uid), (gid != old.gid).then_some(gid)) {
            Ok(()) => return Ok((uid, gid)),
            Err(e) if unsupported(e) => {
                if uid != old.uid && e == Errno::EPERM {
                    ctx.owners.refuse_giving();
                }
            }
            Err(e) => return Err(e),
        }
    }
    ctx.unable.note(Unable::Owner);
    // A group of one's own can still be given.
    if uid != old.uid && gid != old.gid && !ctx.owners.group_refused(gid) {
        match node.chown(None, Some(gid)) {
            Ok(()) => return Ok((old.uid, gid)),
            Err(e) if unsupported(e) => ctx.owners.refuse_group(gid),
            Err(e) => return Err(e),
        }
    }
    Ok((old.uid, old.gid))
}

/// The captured mode, without the rights of an owner that the file did not get.
fn allowed_mode(ctx: &Context<'_>, entry: &Entry, now: (u32, u32)) -> u32 {
    let (uid, gid) = ctx.owners.of(entry);
    let mut mode = entry.mode;
    if mode & SETID != 0 && entry.kind != EntryType::Dir {
        if now.0 != uid {
            mode &= !0o4000;
        }
        if now.1 != gid {
            mode &= !0o2000;
        }
        if mode != entry.mode {
            ctx.unable.note(Unable::SetId);
        }
    }
    mode
}

fn set_xattrs(
    ctx: &Context<'_>,
    node: &Node<'_>,
    entry: &Entry,
    fresh: bool,
    path: &dyn Fn() -> PathBuf,
) -> Result<()> {
    if !fresh {
        remove_others(node, entry);
    }
    for (name, value) in &entry.xattrs {
        let chunk;
        let value = match value {
            XattrValue::Inline(bytes) => bytes.as_slice(),
            XattrValue::Chunk { h, len } => {
                chunk = data(ctx.source, h, u64::from(*len))?;
                &chunk
            }
        };
        let os_name = OsStr::from_bytes(name);
        if !fresh && node.xattr(os_name).is_ok_and(|old| old.as_deref() == Some(value)) {
            continue;
        }
        match node.set_xattr(os_name, value) {
            Ok(()) => {}
            Err(e) if refused(&e) => ctx.unable.note(kind_of(name)),
            // A full inode is not a full disk.
            Err(e) => return Err(Error::io("set an extended attribute of", path(), e).with_kind(Kind::Io)),
        }
    }
    Ok(())
}

/// Removes what the snapshot does not have. Labels of security modules stay: the system manages them.
fn remove_others(node: &Node<'_>, entry: &Entry) {
    for name in node.xattrs() {
        let name = name.into_vec();
        let ours = name.starts_with(b"user.")
            || name.starts_with(b"trusted.")
            || [ACL_ACCESS, ACL_DEFAULT, b"security.capability"].contains(&name.as_slice());
        if ours && entry.xattrs.binary_search_by(|(n, _)| n.cmp(&name)).is_err() {
            // What may not be removed was not set by this user either.
            let _ = node.remove_xattr(OsStr::from_bytes(&name));
        }
    }
}

fn refused(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error(),
        Some(libc::EPERM | libc::EACCES | libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL | libc::E2BIG | libc::ERANGE)
    )
}

fn kind_of(name: &[u8]) -> Unable {
    match name {
        ACL_ACCESS | ACL_DEFAULT => Unable::Acl,
        b"security.capability" => Unable::Capability,
        _ if name.starts_with(b"user.") => Unable::Xattr,
        _ => Unable::Privileged,
    }
}
