//! System calls below an open directory. Names are single components (or, for [`descend`], several), and no symbolic link
//! is ever followed: by `openat2` with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS` where the kernel has it, otherwise
//! component by component with `O_NOFOLLOW`.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, RenameFlags, ResolveFlag, openat, openat2};
use nix::sys::stat::Mode;
use nix::unistd::UnlinkatFlags;

/// What a directory is opened with.
pub const DIR: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY);

/// How often a resolution that raced with a rename is tried again.
const RACES: u32 = 32;

/// A name as system calls take it.
pub fn os(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}

fn resolve() -> ResolveFlag {
    ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS
}

/// Whether the kernel (5.6 and later) and its filters let us use `openat2`.
fn has_openat2() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| {
        let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(resolve());
        openat2(AT_FDCWD, c".", how).is_ok()
    })
}

/// Opens or creates `name` in `dir`.
pub fn open(dir: &File, name: &[u8], flags: OFlag, mode: Mode) -> nix::Result<File> {
    open_by(has_openat2(), dir, name, flags, mode)
}

fn open_by(modern: bool, dir: &File, path: &[u8], flags: OFlag, mode: Mode) -> nix::Result<File> {
    let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    if !modern {
        return openat(dir, os(path), flags, mode).map(File::from);
    }
    let mut tries = 0;
    loop {
        let how = OpenHow::new().flags(flags).mode(mode).resolve(resolve());
        match openat2(dir, os(path), how) {
            Err(Errno::EAGAIN) if tries < RACES => tries += 1,
            other => return other.map(File::from),
        }
    }
}

/// Opens the directory that `path` (components joined by `/`, empty for `root` itself) names below `root`.
pub fn descend(root: &File, path: &[u8]) -> nix::Result<File> {
    descend_by(has_openat2(), root, path)
}

fn descend_by(modern: bool, root: &File, path: &[u8]) -> nix::Result<File> {
    if path.is_empty() {
        return open_by(false, root, b".", DIR, Mode::empty());
    }
    if modern && path.len() < libc::PATH_MAX as usize {
        return open_by(true, root, path, DIR, Mode::empty());
    }
    let mut at = None;
    for name in path.split(|&b| b == b'/') {
        at = Some(open_by(modern, at.as_ref().unwrap_or(root), name, DIR, Mode::empty())?);
    }
    at.ok_or(Errno::EINVAL)
}

/// The directory above; the caller checks that it is the one it expects.
pub fn above(dir: &File) -> nix::Result<File> {
    openat(dir, c"..", DIR | OFlag::O_CLOEXEC, Mode::empty()).map(File::from)
}

/// Removes a name that is no directory; one that is gone already is fine.
pub fn unlink(dir: &File, name: &[u8]) -> nix::Result<()> {
    gone_is_fine(nix::unistd::unlinkat(dir, os(name), UnlinkatFlags::NoRemoveDir))
}

/// Removes an empty directory; one that is gone already is fine.
pub fn rmdir(dir: &File, name: &[u8]) -> nix::Result<()> {
    gone_is_fine(nix::unistd::unlinkat(dir, os(name), UnlinkatFlags::RemoveDir))
}

fn gone_is_fine(result: nix::Result<()>) -> nix::Result<()> {
    match result {
        Err(Errno::ENOENT) => Ok(()),
        other => other,
    }
}

/// Renames within a directory, replacing what is no directory.
pub fn rename(dir: &File, from: &[u8], to: &[u8]) -> nix::Result<()> {
    nix::fcntl::renameat2(dir, os(from), dir, os(to), RenameFlags::empty()).or_else(|e| match e {
        Errno::ENOSYS | Errno::EINVAL => nix::fcntl::renameat(dir, os(from), dir, os(to)),
        other => Err(other),
    })
}

/// Gives the file `name` in `dir` a second name.
pub fn link(dir: &File, name: &[u8], to_dir: &File, to: &[u8]) -> nix::Result<()> {
    nix::unistd::linkat(dir, os(name), to_dir, os(to), AtFlags::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn no_symbolic_link_is_followed_with_and_without_openat2() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("root");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::create_dir(temp.path().join("out")).unwrap();
        symlink("../out", root.join("up")).unwrap();
        symlink("a", root.join("in")).unwrap();
        let dir = File::open(&root).unwrap();
        for modern in [false, has_openat2()] {
            assert!(descend_by(modern, &dir, b"a/b").is_ok());
            assert!(descend_by(modern, &dir, b"").is_ok());
            for path in [&b"up"[..], b"in", b"in/b"] {
                assert!(modern || !path.contains(&b'/') || path == b"in/b");
                assert!(descend_by(modern, &dir, path).is_err(), "{modern} {path:?}");
            }
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT;
            assert!(open_by(modern, &dir, b"up", flags, Mode::S_IRWXU).is_err());
        }
        if has_openat2() {
            assert!(open_by(true, &dir, b"..", DIR, Mode::empty()).is_err());
        }
    }
}
