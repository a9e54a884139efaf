//! What the filesystem says of directories and files, always through a directory's descriptor: so paths of any
//! length work and a swapped symbolic link leads nowhere.

use std::ffi::{CStr, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};

use xattr::FileExt as _;

use crate::format::tree::{EntryType, FileTime};
use crate::limits::{MAX_NAME, MAX_XATTR_VALUE};

/// How long to wait for a file whose lease (Samba's oplocks are such) is being broken: the kernel gives its holder 45 s
/// unless told otherwise …
const LEASE_WAIT: Duration = Duration::from_secs(60);
/// … and how often to look.
const LEASE_LOOK: Duration = Duration::from_millis(100);

/// What `stat` says, in our words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The type.
    pub kind: EntryType,
    /// Permission bits, at most 0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last modification.
    pub mtime: FileTime,
    /// Last change of the inode.
    pub ctime: FileTime,
    /// The filesystem.
    pub dev: u64,
    /// The inode.
    pub ino: u64,
    /// Names of the inode.
    pub nlink: u64,
    /// Length in bytes.
    pub size: u64,
    /// Allocated units of 512 bytes.
    pub blocks: u64,
    /// Device number of a device node.
    pub rdev: u64,
}

impl Meta {
    // Some fields are narrower on other architectures.
    #[allow(clippy::unnecessary_cast)]
    fn new(st: &FileStat) -> io::Result<Meta> {
        let kind = match st.st_mode & libc::S_IFMT {
            libc::S_IFREG => EntryType::File,
            libc::S_IFDIR => EntryType::Dir,
            libc::S_IFLNK => EntryType::Symlink,
            libc::S_IFIFO => EntryType::Fifo,
            libc::S_IFSOCK => EntryType::Socket,
            libc::S_IFCHR => EntryType::CharDevice,
            libc::S_IFBLK => EntryType::BlockDevice,
            _ => return Err(io::Error::from_raw_os_error(libc::EINVAL)),
        };
        let time = |secs, nanos: i64| FileTime { secs, nanos: nanos.clamp(0, 999_999_999) as u32 };
        Ok(Meta {
            kind,
            mode: st.st_mode & 0o7777,
            uid: st.st_uid,
            gid: st.st_gid,
            mtime: time(st.st_mtime, st.st_mtime_nsec),
            ctime: time(st.st_ctime, st.st_ctime_nsec),
            dev: st.st_dev,
            ino: st.st_ino,
            nlink: st.st_nlink as u64,
            size: st.st_size as u64,
            blocks: st.st_blocks as u64,
            rdev: st.st_rdev,
        })
    }

    /// Whether content and attributes are surely as they were in `other`, of the same file.
    pub fn same_content(&self, other: &Meta) -> bool {
        (self.size, self.mtime, self.ctime) == (other.size, other.mtime, other.ctime)
    }

    /// Whether the file takes less space than its length: only then are holes looked for.
    pub fn sparse(&self) -> bool {
        self.blocks.saturating_mul(512) < self.size
    }
}

/// `lstat` below a directory.
///
/// # Errors
/// The system's.
pub fn stat_at(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<Meta> {
    Meta::new(&fstatat(dir, OsStr::from_bytes(name), AtFlags::AT_SYMLINK_NOFOLLOW)?)
}

/// `fstat`.
///
/// # Errors
/// The system's.
pub fn stat(file: impl AsFd) -> io::Result<Meta> {
    Meta::new(&fstat(file)?)
}

/// Opens a directory below another; never follows a link.
///
/// # Errors
/// The system's.
pub fn open_dir(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<File> {
    open(dir, name, OFlag::O_DIRECTORY).map(File::from)
}

/// Opens a directory by its path.
///
/// # Errors
/// The system's.
pub fn open_path(path: &std::path::Path) -> io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(once_free(|| nix::fcntl::open(path, flags, Mode::empty()))?.into())
}

/// Opens a file for reading below a directory; never follows a link or waits for a pipe's writer.
///
/// # Errors
/// The system's.
pub fn open_file(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<File> {
    open(dir, name, OFlag::O_NONBLOCK).map(File::from)
}

/// As [`open_file`], as soon as nobody holds a lease on the file against that. To ask is what makes its holder give it
/// back. With `over` set it is not waited for.
///
/// # Errors
/// The system's.
pub fn open_leased(dir: BorrowedFd<'_>, name: &[u8], over: &AtomicBool) -> io::Result<File> {
    let begun = Instant::now();
    loop {
        match open_file(dir, name) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && begun.elapsed() < LEASE_WAIT => {
                if over.load(Ordering::Relaxed) {
                    return Err(e);
                }
                std::thread::sleep(LEASE_LOOK);
            }
            other => return other,
        }
    }
}

fn open(dir: BorrowedFd<'_>, name: &[u8], flags: OFlag) -> io::Result<OwnedFd> {
    let flags = flags | OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let name = OsStr::from_bytes(name);
    // Only the owner may ask that the access time stays; others read with the usual effect.
    match once_free(|| openat(dir, name, flags | OFlag::O_NOATIME, Mode::empty())) {
        Err(nix::errno::Errno::EPERM) => Ok(once_free(|| openat(dir, name, flags, Mode::empty()))?),
        other => Ok(other?),
    }
}

/// Opens something, with a short wait for other threads to close what they have open if that is as much as the system allows.
fn once_free(open: impl Fn() -> nix::Result<OwnedFd>) -> nix::Result<OwnedFd> {
    const TRIES: u32 = 50;
    for _ in 0..TRIES {
        match open() {
            Err(nix::errno::Errno::EMFILE | nix::errno::Errno::ENFILE) => {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            other => return other,
        }
    }
    open()
}

/// A symbolic link's target.
///
/// # Errors
/// The system's.
pub fn read_link(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<Vec<u8>> {
    Ok(readlinkat(dir, OsStr::from_bytes(name)).map(OsString::into_vec)?)
}

/// The names in a directory, sorted by their bytes, in one allocation.
pub struct Names {
    bytes: Vec<u8>,
    spans: Vec<(u32, u32)>,
}

impl Names {
    /// Reads the directory.
    ///
    /// # Errors
    /// The system's: a listing that fails halfway is no listing. `EFBIG` past 4 GiB of names.
    pub fn read(dir: &OwnedFd) -> io::Result<Names> {
        let mut names = Names { bytes: Vec::new(), spans: Vec::new() };
        // A descriptor of its own: the listing's position must not be shared.
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let own = once_free(|| openat(dir, c".", flags, Mode::empty()))?;
        for entry in nix::dir::Dir::from_fd(own)?.iter() {
            let entry = entry?;
            let name: &CStr = entry.file_name();
            if name != c"." && name != c".." {
                names.push(name.to_bytes())?;
            }
        }
        let bytes = &names.bytes;
        let slice = |&(at, len): &(u32, u32)| &bytes[at as usize..(at + len) as usize];
        names.spans.sort_unstable_by(|a, b| slice(a).cmp(slice(b)));
        // A directory changed while it is listed may show a name twice.
        names.spans.dedup_by(|a, b| slice(a) == slice(b));
        Ok(names)
    }

    /// These names, sorted.
    ///
    /// # Errors
    /// `EFBIG` past 4 GiB of names.
    pub fn of<'a>(sorted: impl Iterator<Item = &'a [u8]>) -> io::Result<Names> {
        let mut names = Names { bytes: Vec::new(), spans: Vec::new() };
        for name in sorted {
            names.push(name)?;
        }
        Ok(names)
    }

    fn push(&mut self, name: &[u8]) -> io::Result<()> {
        let at = u32::try_from(self.bytes.len()).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
        self.spans.push((at, name.len() as u32));
        self.bytes.extend_from_slice(name);
        Ok(())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// The `i`-th name.
    pub fn get(&self, i: usize) -> &[u8] {
        let (at, len) = self.spans[i];
        &self.bytes[at as usize..(at + len) as usize]
    }

    /// Whether the name is among them.
    pub fn contains(&self, name: &[u8]) -> bool {
        self.spans.binary_search_by(|&(at, len)| self.bytes[at as usize..(at + len) as usize].cmp(name)).is_ok()
    }
}

/// Extended attributes as read: name and value, sorted by name.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// The extended attributes of something, as far as they can be read.
#[derive(Default)]
pub struct Attributes {
    /// Those that can.
    pub xattrs: Xattrs,
    /// Why others cannot: the first such failure.
    pub failed: Option<io::Error>,
}

impl Attributes {
    fn fail(&mut self, name: &OsStr, error: io::Error) {
        let text = format!("{}: {error}", crate::error::printable(std::path::Path::new(name)));
        self.failed.get_or_insert_with(|| io::Error::new(error.kind(), text));
    }
}

/// The extended attributes of an open file or directory; a filesystem without any gives none.
pub fn xattrs_of(file: &File) -> Attributes {
    collect_xattrs(file.list_xattr(), |name| file.get_xattr(name))
}

/// The extended attributes of a name that is not opened: links, devices, pipes. The system has no call for that below
/// a descriptor but by way of `/proc`; where that is not mounted there are none.
pub fn xattrs_at(dir: BorrowedFd<'_>, name: &[u8]) -> Attributes {
    static PROC: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    if !PROC.get_or_init(|| std::path::Path::new("/proc/self/fd").exists()) {
        return Attributes::default();
    }
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    let path = PathBuf::from(OsString::from_vec(path));
    collect_xattrs(xattr::list(&path), |name| xattr::get(&path, name))
}

/// Whether an attribute is only how a filesystem keeps another: XFS shows what it stores access control lists as.
fn is_shadow(name: &OsStr) -> bool {
    matches!(name.as_bytes(), b"trusted.SGI_ACL_FILE" | b"trusted.SGI_ACL_DEFAULT")
}

fn collect_xattrs(
    list: io::Result<impl Iterator<Item = OsString>>,
    get: impl Fn(&OsStr) -> io::Result<Option<Vec<u8>>>,
) -> Attributes {
    let mut out = Attributes::default();
    let list = match list {
        Ok(list) => list,
        Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS)) => return out,
        Err(e) => {
            out.failed = Some(e);
            return out;
        }
    };
    for name in list.filter(|name| !is_shadow(name)) {
        match get(&name) {
            // No reader would take it, nor anything listed beside its file.
            Ok(Some(value)) if name.len() > MAX_NAME || value.len() > MAX_XATTR_VALUE => {
                out.fail(&name, io::Error::from_raw_os_error(libc::E2BIG));
            }
            Ok(Some(value)) => out.xattrs.push((name.into_vec(), value)),
            // Gone since it was listed, or hidden from this user: as if never listed.
            Ok(None) => {}
            Err(e) if matches!(e.raw_os_error(), Some(libc::EPERM | libc::EOPNOTSUPP | libc::ENODATA)) => {}
            Err(e) => out.fail(&name, e),
        }
    }
    out.xattrs.sort();
    // Some kernels list a security label twice, once from the filesystem and once from the security module.
    out.xattrs.dedup_by(|a, b| a.0 == b.0);
    out
}

/// User and group names from `/etc/passwd` and `/etc/group`. The C library's look-up is avoided on purpose:
/// it loads plug-ins, which a static binary must not.
pub struct Accounts {
    users: std::collections::HashMap<u32, Vec<u8>>,
    groups: std::collections::HashMap<u32, Vec<u8>>,
}

impl Accounts {
    /// Reads both files; one that cannot be read names nobody.
    pub fn load() -> Accounts {
        Accounts { users: read_ids("/etc/passwd"), groups: read_ids("/etc/group") }
    }

    /// A user's name, empty if unknown.
    pub fn user(&self, uid: u32) -> &[u8] {
        self.users.get(&uid).map_or(&[], Vec::as_slice)
    }

    /// A group's name, empty if unknown.
    pub fn group(&self, gid: u32) -> &[u8] {
        self.groups.get(&gid).map_or(&[], Vec::as_slice)
    }
}

fn read_ids(path: &str) -> std::collections::HashMap<u32, Vec<u8>> {
    let text = std::fs::read(path).unwrap_or_default();
    let mut out = std::collections::HashMap::new();
    for line in text.split(|&b| b == b'\n') {
        let mut fields = line.split(|&b| b == b':');
        let (Some(name), Some(id)) = (fields.next(), fields.nth(1)) else { continue };
        if let Some(id) = std::str::from_utf8(id).ok().and_then(|s| s.parse().ok()) {
            out.entry(id).or_insert_with(|| name.to_vec());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_that_cannot_be_read_costs_no_other() {
        let names = || Ok(["user.c", "user.hidden", "user.bad", "user.gone", "user.a"].map(OsString::from).into_iter());
        let get = |name: &OsStr| match name.as_bytes() {
            b"user.bad" => Err(io::Error::from_raw_os_error(libc::EIO)),
            b"user.hidden" => Err(io::Error::from_raw_os_error(libc::EPERM)),
            b"user.gone" => Ok(None),
            name => Ok(Some(name.to_vec())),
        };
        let found = collect_xattrs(names(), get);
        assert_eq!(found.xattrs, ["user.a", "user.c"].map(|n| (n.as_bytes().to_vec(), n.as_bytes().to_vec())));
        assert!(found.failed.unwrap().to_string().contains("user.bad: Input/output error"));
        let sound = collect_xattrs(names(), |_| Ok(Some(Vec::new())));
        assert!(sound.failed.is_none() && sound.xattrs.len() == 5);
        let none = |errno| collect_xattrs(Err::<std::vec::IntoIter<_>, _>(io::Error::from_raw_os_error(errno)), get);
        assert!(none(libc::EIO).failed.is_some());
        assert!(none(libc::EOPNOTSUPP).failed.is_none());
    }
}
