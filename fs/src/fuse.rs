//! Carries operations to the kernel and back: converts, counts on nothing, decides nothing.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEntry,
    ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};
use repo::error::Error;
use repo::format::tree::{EntryType, FileTime};

use crate::awake::Awake;
use crate::errno::{Fail, Outcome, errno};
use crate::ops::attr::FOREVER;
use crate::ops::{Attr, Found, Ops, Seek};

/// The largest request, so that the kernel splits its read-ahead window into requests that run side by side.
const REQUEST: u32 = 256 * 1024;
/// Reads ahead that may wait at once, over all files.
const BACKGROUND: u16 = 64;

/// The adapter.
pub struct Adapter {
    ops: Arc<Ops>,
    acl: bool,
    no_open: bool,
    no_opendir: bool,
    awake: Awake,
}

impl Adapter {
    /// For `ops`; `acl` has the kernel check permissions, ACLs included.
    pub fn new(ops: Arc<Ops>, acl: bool) -> Adapter {
        Adapter { ops, acl, no_open: false, no_opendir: false, awake: Awake::new() }
    }

    /// Runs an operation; a panic becomes an error of this one call, or the thread would be lost and the mount hang.
    fn run<T>(&self, operation: impl FnOnce() -> Outcome<T>) -> Result<T, Errno> {
        self.awake.request();
        let outcome = catch_unwind(AssertUnwindSafe(operation));
        let outcome = outcome.unwrap_or_else(|_| Err(Fail::Repo(Error::bug("an operation panicked"))));
        outcome.map_err(|fail| Errno::from_i32(errno(&fail)))
    }
}

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn file_type(kind: EntryType) -> FileType {
    match kind {
        EntryType::File => FileType::RegularFile,
        EntryType::Dir => FileType::Directory,
        EntryType::Symlink => FileType::Symlink,
        EntryType::Fifo => FileType::NamedPipe,
        EntryType::Socket => FileType::Socket,
        EntryType::CharDevice => FileType::CharDevice,
        EntryType::BlockDevice => FileType::BlockDevice,
    }
}

fn system_time(t: FileTime) -> SystemTime {
    let nanos = Duration::from_nanos(t.nanos.into());
    let whole = match u64::try_from(t.secs) {
        Ok(secs) => UNIX_EPOCH.checked_add(Duration::from_secs(secs)),
        Err(_) => UNIX_EPOCH.checked_sub(Duration::from_secs(t.secs.unsigned_abs())),
    };
    whole.and_then(|whole| whole.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
}

/// The kernel's own packing of device numbers, which is not that of `makedev`.
fn device(rdev: u64) -> u32 {
    let (major, minor) = (libc::major(rdev), libc::minor(rdev));
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

fn file_attr(a: &Attr) -> FileAttr {
    let time = system_time(a.mtime);
    FileAttr {
        ino: INodeNo(a.ino),
        size: a.size,
        blocks: a.blocks,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: file_type(a.kind),
        perm: a.perm,
        nlink: a.nlink,
        uid: a.uid,
        gid: a.gid,
        rdev: device(a.rdev),
        blksize: 4096,
        flags: 0,
    }
}

/// What the kernel may keep for "there is nothing of that name": an entry without an inode.
fn nothing() -> FileAttr {
    let epoch = FileTime::default();
    let kind = EntryType::File;
    file_attr(&Attr { ino: 0, size: 0, blocks: 0, mtime: epoch, kind, perm: 0, nlink: 1, uid: 0, gid: 0, rdev: 0 })
}

fn xattr_reply(value: Result<Vec<u8>, Errno>, size: u32, reply: ReplyXattr) {
    match value {
        Err(e) => reply.error(e),
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::from_i32(errno(&Fail::Range))),
        Ok(value) => reply.data(&value),
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let mut add = |flag| config.add_capabilities(flag).is_ok();
        for flag in [
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
            InitFlags::FUSE_ASYNC_DIO,
        ] {
            add(flag);
        }
        self.no_open = add(InitFlags::FUSE_NO_OPEN_SUPPORT);
        self.no_opendir = add(InitFlags::FUSE_NO_OPENDIR_SUPPORT);
        if self.acl && !add(InitFlags::FUSE_POSIX_ACL) {
            // Without it an ACL's mask would pass for what the group may do.
            return Err(std::io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        // Each answers with the nearest value it takes if it refuses this one; none matters enough to fail.
        let _ = config.set_max_write(REQUEST);
        let _ = config.set_max_background(BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.run(|| self.ops.lookup(parent.0, name.as_bytes())) {
            Ok(Found::Entry(found)) => {
                reply.entry_with_ttls(&found.attr_for, &found.name_for, &file_attr(&found.attr), Generation(0));
            }
            Ok(Found::Never) => reply.entry(&FOREVER, &nothing(), Generation(0)),
            Ok(Found::NotNow) => reply.error(Errno::ENOENT),
            Err(e) => reply.error(e),
        }
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.ops.forget(ino.0, nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.run(|| self.ops.getattr(ino.0)) {
            Ok(found) => reply.attr(&found.attr_for, &file_attr(&found.attr)),
            Err(e) => reply.error(e),
        }
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.run(|| self.ops.readlink(ino.0)) {
            Ok(target) => reply.data(&target),
            Err(e) => reply.error(e),
        }
    }

    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // The kernel then never asks again, and keeps pages between opens.
        match self.no_open {
            true => reply.error(Errno::ENOSYS),
            false => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH),
        }
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.no_opendir {
            true => reply.error(Errno::ENOSYS),
            false => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR),
        }
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        SCRATCH.with_borrow_mut(|scratch| match self.run(|| self.ops.read(ino.0, offset, size, scratch)) {
            Ok(data) => reply.data(&data),
            Err(e) => reply.error(e),
        });
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listed = self.run(|| {
            let mut listing = self.ops.list(ino.0, offset)?;
            while let Some(entry) = self.ops.next(&mut listing) {
                // A plain listing counts no lookups.
                self.ops.unlist(&entry);
                let kind = file_type(entry.looked.attr.kind);
                if reply.add(INodeNo(entry.looked.attr.ino), entry.next, kind, OsStr::from_bytes(&entry.name)) {
                    break;
                }
            }
            Ok(())
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(e),
        }
    }

    fn readdirplus(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let listed = self.run(|| {
            let mut listing = self.ops.list(ino.0, offset)?;
            while let Some(entry) = self.ops.next(&mut listing) {
                // One lifetime serves name and attributes here: the shorter.
                let keep = entry.looked.name_for.min(entry.looked.attr_for);
                let attr = file_attr(&entry.looked.attr);
                let name = OsStr::from_bytes(&entry.name);
                if reply.add(INodeNo(attr.ino.0), entry.next, name, &keep, &attr, Generation(0)) {
                    self.ops.unlist(&entry);
                    break;
                }
            }
            Ok(())
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(e),
        }
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        const BLOCK: u64 = 4096;
        let usage = self.ops.usage();
        let free = usage.free / BLOCK;
        let blocks = usage.stored.div_ceil(BLOCK).saturating_add(free);
        reply.statfs(blocks, free, free, 0, 0, BLOCK as u32, repo::limits::MAX_NAME as u32, BLOCK as u32);
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        xattr_reply(self.run(|| self.ops.xattr(ino.0, name.as_bytes())), size, reply);
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        xattr_reply(self.run(|| self.ops.xattrs(ino.0)), size, reply);
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        // Programs ask whether a file is a terminal.
        reply.error(Errno::ENOTTY);
    }

    fn lseek(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let found = self.run(|| {
            let what = match whence {
                libc::SEEK_DATA => Seek::Data,
                libc::SEEK_HOLE => Seek::Hole,
                _ => return Err(Fail::Invalid),
            };
            let offset = u64::try_from(offset).map_err(|_| Fail::NoOffset)?;
            self.ops.seek(ino.0, offset, what)
        });
        match found {
            Ok(offset) => reply.offset(i64::try_from(offset).unwrap_or(i64::MAX)),
            Err(e) => reply.error(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_and_times_survive() {
        assert_eq!(device(libc::makedev(8, 1)), 0x801);
        assert_eq!(device(libc::makedev(259, 0x12345)), 0x45 | 259 << 8 | 0x12300 << 12);
        let before = system_time(FileTime { secs: -2, nanos: 800_000_000 });
        assert_eq!(UNIX_EPOCH.duration_since(before).unwrap(), Duration::from_millis(1200));
        system_time(FileTime { secs: i64::MIN, nanos: 0 });
        system_time(FileTime { secs: i64::MAX, nanos: 999_999_999 });
    }
}
