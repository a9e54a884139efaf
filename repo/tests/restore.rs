//! Backing up and restoring through a repository on disk: as root, and as an ordinary user.

mod common;

use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use repo::capture::{Options as Backup, backup};
use repo::id::SnapshotId;
use repo::monitor::Recording;
use repo::open::{Access, Repository};
use repo::path::SnapPath;
use repo::restore::{Options, Outcome, Unable, restore};
use repo::snapshots;

use common::{make_repository, open, options};

/// Set for the run of this program as an ordinary user: the directory to work in, and the snapshot.
const AS_USER: &str = "PACKMULE_TEST_AS_USER";
const NOBODY: u32 = 65534;

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A source with most of what a filesystem has.
fn make(src: &Path) {
    std::fs::create_dir_all(src.join("sub/deeper")).unwrap();
    for i in 0..300usize {
        let bytes: Vec<u8> = (0..i * 37).map(|n| (n * i) as u8).collect();
        std::fs::write(src.join(format!("sub/f{i:03}")), bytes).unwrap();
    }
    let large = std::fs::File::create(src.join("large")).unwrap();
    large.set_len(20_000_000).unwrap();
    for at in [0u64, 7_000_000, 19_999_000] {
        let mut bytes = vec![0; 1000];
        repo::id::SnapshotId::random().as_bytes().iter().enumerate().for_each(|(i, b)| bytes[i * 30] = *b);
        large.write_all_at(&bytes, at).unwrap();
    }
    std::fs::hard_link(src.join("sub/f100"), src.join("sub/deeper/linked")).unwrap();
    symlink("sub/f001", src.join("link")).unwrap();
    std::fs::set_permissions(src.join("sub/f002"), PermissionsExt::from_mode(0o4755)).unwrap();
    std::fs::set_permissions(src.join("sub/deeper"), PermissionsExt::from_mode(0o555)).unwrap();
    nix::unistd::mkfifo(&src.join("fifo"), nix::sys::stat::Mode::from_bits_truncate(0o640)).unwrap();
    xattr::set(src.join("sub/f003"), "user.note", b"noted").unwrap();
    // One more user than the file's own: an access control list that every filesystem with them takes.
    let acl = [2u32.to_le_bytes().to_vec(), acl_entry(1, 6, !0), acl_entry(2, 4, 77), acl_entry(4, 4, !0)].concat();
    let acl = [acl, acl_entry(0x10, 4, !0), acl_entry(0x20, 0, !0)].concat();
    xattr::set(src.join("sub/f004"), "system.posix_acl_access", &acl).unwrap();
    if is_root() {
        std::os::unix::fs::chown(src.join("sub/f005"), Some(1234), Some(4321)).unwrap();
        nix::sys::stat::mknod(
            &src.join("null"),
            nix::sys::stat::SFlag::S_IFCHR,
            nix::sys::stat::Mode::from_bits_truncate(0o666),
            nix::sys::stat::makedev(1, 3),
        )
        .unwrap();
        let cap = b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
        xattr::set(src.join("sub/f006"), "security.capability", cap).unwrap();
    }
}

fn acl_entry(tag: u16, perm: u16, id: u32) -> Vec<u8> {
    [&tag.to_le_bytes()[..], &perm.to_le_bytes(), &id.to_le_bytes()].concat()
}

fn restore_to(repo: &Repository, id: &SnapshotId, src: &Path, target: &Path, options: &Options) -> Outcome {
    let manifest = snapshots::manifest(repo, id).unwrap();
    let (path, monitor) = (SnapPath::new(src.as_os_str().as_encoded_bytes()).unwrap(), Recording::default());
    let done = restore(repo, &manifest, &path, target, options, &monitor).unwrap();
    assert_eq!(done.errors, 0, "{:?}", monitor.lines());
    done
}

/// Every byte and attribute; `owner`: also whose things are.
fn assert_same(a: &Path, b: &Path, owner: bool) {
    let names = |dir: &Path| {
        let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let (left, mut right) = (names(a), names(b));
    if !owner {
        right.extend(left.iter().filter(|n| *n == "null").cloned());
        right.sort();
    }
    assert_eq!(left, right, "{}", a.display());
    for name in left.iter().filter(|n| owner || *n != "null") {
        let (a, b) = (a.join(name), b.join(name));
        let (x, y) = (std::fs::symlink_metadata(&a).unwrap(), std::fs::symlink_metadata(&b).unwrap());
        let mode = if owner { x.mode() } else { x.mode() & !0o6000 };
        assert_eq!((mode, x.mtime(), x.mtime_nsec()), (y.mode(), y.mtime(), y.mtime_nsec()), "{}", b.display());
        assert_eq!(x.nlink(), y.nlink(), "{}", b.display());
        if owner {
            assert_eq!((x.uid(), x.gid(), x.rdev()), (y.uid(), y.gid(), y.rdev()), "{}", b.display());
        }
        if x.is_dir() {
            assert_same(&a, &b, owner);
        } else if x.is_symlink() {
            assert_eq!(std::fs::read_link(&a).unwrap(), std::fs::read_link(&b).unwrap());
        } else if x.is_file() {
            assert!(std::fs::read(&a).unwrap() == std::fs::read(&b).unwrap(), "{}", b.display());
            for name in ["user.note", "system.posix_acl_access", "security.capability"] {
                let (x, y) = (xattr::get(&a, name).unwrap(), xattr::get(&b, name).unwrap());
                assert!(x == y || !owner && name.starts_with("security"), "{} {name}", b.display());
            }
        }
    }
}

/// A repository with one snapshot; the directory and the snapshot.
fn site() -> (tempfile::TempDir, SnapshotId) {
    let dir = tempfile::tempdir().unwrap();
    make(&dir.path().join("src"));
    make_repository(&dir.path().join("repo"));
    let repo = open(&dir.path().join("repo"), &dir.path().join("cache"), Access::Write);
    let done = backup(&repo, options(dir.path().join("src")), &Recording::default()).unwrap();
    assert_eq!(done.stats.errors, 0);
    (dir, done.snapshot.unwrap())
}

#[test]
fn what_was_backed_up_comes_back() {
    let (dir, id) = site();
    let (src, target) = (dir.path().join("src"), dir.path().join("out"));
    let repo = open(&dir.path().join("repo"), &dir.path().join("cache"), Access::Read);
    let done = restore_to(&repo, &id, &src, &target, &Options { verify: true, ..Options::default() });
    assert_eq!((done.restored, done.unable.len()), (done.items, 0), "{:?}", done.unable);
    assert_same(&src, &target, true);
    assert!(std::fs::metadata(target.join("large")).unwrap().blocks() * 512 < 2_000_000);
    let again = restore_to(&repo, &id, &src, &target, &Options::default());
    assert_eq!((again.restored, again.kept), (0, done.items));
    let repo = open(&dir.path().join("repo"), &dir.path().join("cache"), Access::Write);
    let more = Backup { source: Some("again".into()), ..options(target) };
    let saved = backup(&repo, more, &Recording::default()).unwrap();
    assert_eq!(saved.stats.chunks_new, saved.meta_chunks_new, "no content is new");
}

#[test]
fn an_ordinary_user_gets_all_but_what_only_root_can_set() {
    if let Some(what) = std::env::var_os(AS_USER) {
        let what = what.into_string().unwrap();
        let (dir, id) = what.split_once(' ').unwrap();
        return as_user(Path::new(dir), &id.parse().unwrap());
    }
    let (dir, id) = site();
    if !is_root() {
        return as_user(dir.path(), &id);
    }
    // This very program once more, from where that user may run it.
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let program = dir.path().join("program");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    std::fs::create_dir(dir.path().join("home")).unwrap();
    std::os::unix::fs::chown(dir.path().join("home"), Some(NOBODY), Some(NOBODY)).unwrap();
    let opened = Command::new("chmod").args(["-R", "a+rX"]).arg(dir.path().join("repo")).status().unwrap();
    assert!(opened.success());
    let run = Command::new(&program)
        .args(["--exact", "an_ordinary_user_gets_all_but_what_only_root_can_set", "--nocapture"])
        .env(AS_USER, format!("{} {}", dir.path().display(), id.to_hex()))
        .current_dir(dir.path().join("home"))
        .uid(NOBODY)
        .gid(NOBODY)
        .status()
        .unwrap();
    assert!(run.success());
    // Compared by root, who may read everything.
    assert_same(&dir.path().join("src"), &dir.path().join("home/out"), false);
}

fn as_user(dir: &Path, id: &SnapshotId) {
    let root_made = !is_root() && dir.join("home").exists();
    let home = if root_made { dir.join("home") } else { dir.to_owned() };
    let repo = open(&dir.join("repo"), &home.join("cache"), Access::Read);
    let (src, target) = (dir.join("src"), home.join("out"));
    let done = restore_to(&repo, id, &src, &target, &Options { verify: true, ..Options::default() });
    if root_made {
        let kinds: Vec<Unable> = done.unable.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [Unable::Owner, Unable::SetId, Unable::Device, Unable::Capability], "{:?}", done.unable);
    }
    // A directory that is closed to its owner now is no hindrance to a second run.
    std::fs::set_permissions(target.join("sub"), PermissionsExt::from_mode(0o000)).unwrap();
    let again = restore_to(&repo, id, &src, &target, &Options { delete: true, ..Options::default() });
    assert_eq!(again.restored, 0, "{again:?}");
}
