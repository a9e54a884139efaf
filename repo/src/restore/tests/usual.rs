//! What every restore must do.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink as link};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::store::*;
use crate::capture::Patterns;
use crate::crypto::hash::ChunkKind;
use crate::format::tree::{Entry, EntryType, FileTime, XattrValue};
use crate::monitor::Recording;
use crate::restore::{Choice, Options, Overwrite};
use crate::tree::builder::ChunkSink;

fn root_user() -> bool {
    nix::unistd::geteuid().is_root()
}

/// One of everything.
fn everything(store: &mut Store) -> Entry {
    let mut all = vec![store.file(b"empty", b""), store.file(b"tiny", b"tiny"), store.file(b"some", &noise(1, 50_000))];
    let mut holes = noise(2, 3000);
    holes.extend(vec![0; 200_000]);
    holes.extend(noise(3, 500));
    holes.extend(vec![0; 5_000]);
    all.push(store.file(b"holes", &holes));
    let mut large = noise(4, 9_000_000);
    large[2_000_000..4_000_000].fill(0);
    let content = store.content(&large, 100_000);
    all.push(Entry { mode: 0o600, size: large.len() as u64, content, ..own(b"large", EntryType::File) });
    all.push(Entry { mode: 0o4755, ..store.file(b"setuid", b"#!/bin/true") });
    all.push(Entry { mode: 0o2755, ..store.file(b"setgid", &noise(5, 300)) });
    all.push(Entry { mode: 0, ..store.file(b"secret", &noise(6, 300)) });
    all.push(symlink(b"link", b"some"));
    all.push(symlink(b"dangling", b"/no/such/\xff"));
    all.push(Entry { mode: 0o642, ..own(b"fifo", EntryType::Fifo) });
    all.push(Entry { mode: 0o700, ..own(b"socket", EntryType::Socket) });
    let old = FileTime { secs: -1_000_000, nanos: 999_999_999 };
    all.push(Entry { mtime: old, ..store.file(b"before 1970 \n \xfe", b"x") });
    all.push(store.file(&[b'n'; 255], b"long"));
    let h = store.put(ChunkKind::Data, noise(7, 2000)).unwrap();
    let xattrs = vec![
        (b"user.large".to_vec(), XattrValue::Chunk { h, len: 2000 }),
        (b"user.small".to_vec(), XattrValue::Inline(b"v\0".to_vec())),
    ];
    all.push(Entry { xattrs: xattrs.clone(), ..store.file(b"attributes", b"a") });
    for name in [b"one", b"two"] {
        all.push(Entry { link_group: Some([9; 32]), ..store.file(name, &noise(8, 5000)) });
    }
    let three = Entry { link_group: Some([9; 32]), ..store.file(b"three", &noise(8, 5000)) };
    let deep = vec![three, store.file(b"a", b"a"), Entry { mode: 0o500, ..store.dir(b"closed", vec![]) }];
    all.push(Entry { mode: 0o1770, xattrs, ..store.dir(b"sub", deep) });
    if root_user() {
        all.push(Entry { mode: 0o660, rdev: nix::sys::stat::makedev(1, 3), ..own(b"null", EntryType::CharDevice) });
        all.push(Entry { mode: 0o660, rdev: nix::sys::stat::makedev(7, 9), ..own(b"loop", EntryType::BlockDevice) });
        all.push(Entry { uid: 4711, gid: 4712, mode: 0o6755, ..store.file(b"other's", b"o") });
        let cap = b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00".to_vec();
        let xattrs = vec![(b"security.capability".to_vec(), XattrValue::Inline(cap))];
        all.push(Entry { uid: 4711, mode: 0o755, xattrs, ..store.file(b"capable", b"c") });
        all.push(Entry { uid: 4711, gid: 1, ..symlink(b"other's link", b"x") });
    }
    store.dir(b"", all)
}

#[test]
fn everything_comes_back_and_a_second_run_writes_nothing() {
    let mut store = Store::default();
    let root = everything(&mut store);
    let (store, temp) = (Arc::new(store), tempfile::tempdir().unwrap());
    let target = temp.path().join("made/on the way");
    let done = restore_well(&store, &root, &target, &Options { verify: true, ..Options::default() });
    assert_same(&real(&target), &expected(&store, &root));
    assert_eq!((done.restored, done.kept, done.unable.len()), (done.items, 0, 0));
    let meta = std::fs::metadata(&target).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.mtime()), (0o755, 1_234_567_890), "a target made by the restore");
    assert!(std::fs::metadata(target.join("large")).unwrap().blocks() * 512 < 8_000_000);
    for overwrite in [Overwrite::Always, Overwrite::IfChanged, Overwrite::IfNewer, Overwrite::Never] {
        store.read.store(0, Ordering::Relaxed);
        let again = restore_well(&store, &root, &target, &Options { overwrite, ..Options::default() });
        assert_eq!((again.restored, again.kept), (0, done.items), "{overwrite:?}");
        assert!(store.read.load(Ordering::Relaxed) <= 2, "only attributes are read");
        assert_same(&real(&target), &expected(&store, &root));
    }
}

#[test]
fn a_dry_run_changes_nothing() {
    let mut store = Store::default();
    let root = everything(&mut store);
    let (store, temp) = (Arc::new(store), tempfile::tempdir().unwrap());
    let target = temp.path().join("t");
    let options = || Options { dry_run: true, delete: true, ..Options::default() };
    let done = restore_well(&store, &root, &target, &options());
    assert!(done.restored == done.items && !target.exists());
    restore_well(&store, &root, &target, &Options::default());
    std::fs::write(target.join("some"), b"changed").unwrap();
    std::fs::write(target.join("extra"), b"extra").unwrap();
    let before = real(&target);
    let done = restore_well(&store, &root, &target, &options());
    assert_eq!((done.restored, done.kept, done.deleted), (1, done.items - 1, 1));
    assert_eq!(real(&target), before);
}

#[test]
fn differences_are_mended_as_the_mode_says() {
    let mut store = Store::default();
    let root = everything(&mut store);
    let (store, temp) = (Arc::new(store), tempfile::tempdir().unwrap());
    let target = temp.path();
    let spoil = || {
        let t = |name: &str| target.join(name);
        std::fs::write(t("some"), b"short").unwrap();
        let same_size = noise(99, 9_000_000);
        std::fs::write(t("large"), &same_size).unwrap();
        std::fs::remove_file(t("link")).unwrap();
        std::fs::write(t("link"), b"no link").unwrap();
        std::fs::remove_file(t("fifo")).unwrap();
        link("/dev/null", t("fifo")).unwrap();
        std::fs::remove_file(t("two")).unwrap();
        std::fs::write(t("two"), b"alone").unwrap();
        std::fs::set_permissions(t("sub/a"), PermissionsExt::from_mode(0o777)).unwrap();
        xattr::set(t("tiny"), "user.stray", b"1").unwrap();
    };
    restore_well(&store, &root, target, &Options::default());
    for overwrite in [Overwrite::Always, Overwrite::IfChanged] {
        spoil();
        let done = restore_well(&store, &root, target, &Options { overwrite, ..Options::default() });
        assert_eq!(done.restored, 5, "{overwrite:?}");
        assert_same(&real(target), &expected(&store, &root));
    }
    spoil();
    let before = real(target);
    for overwrite in [Overwrite::Never, Overwrite::IfNewer] {
        let done = restore_well(&store, &root, target, &Options { overwrite, verify: true, ..Options::default() });
        let changed = |name: &str| before[name.as_bytes()] != real(target)[name.as_bytes()];
        assert!(!["/some", "/large", "/link", "/fifo", "/two"].into_iter().any(changed), "{overwrite:?}");
        assert_eq!(done.restored, 0);
    }
}

#[test]
fn what_was_interrupted_is_continued_in_every_mode() {
    let mut store = Store::default();
    let bytes = noise(1, 20_000_000);
    let content = store.content(&bytes, 100_000);
    let large = Entry { mode: 0o644, size: bytes.len() as u64, content, ..own(b"large", EntryType::File) };
    let small = store.file(b"small", &noise(2, 3000));
    let root = store.dir(b"", vec![large, small]);
    let store = Arc::new(store);
    for overwrite in [Overwrite::Always, Overwrite::IfChanged, Overwrite::IfNewer, Overwrite::Never] {
        let temp = tempfile::tempdir().unwrap();
        let target = temp.path();
        // As a killed run leaves them: marked, the large one of full length but half empty.
        let file = crate::restore::file::create(&std::fs::File::open(target).unwrap(), b"large").unwrap();
        file.set_len(bytes.len() as u64).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &bytes[..10_000_000], 0).unwrap();
        crate::restore::file::create(&std::fs::File::open(target).unwrap(), b"small").unwrap();
        store.read.store(0, Ordering::Relaxed);
        let done = restore_well(&store, &root, target, &Options { overwrite, ..Options::default() });
        assert_eq!(done.restored, 2, "{overwrite:?}");
        assert_eq!(store.read.load(Ordering::Relaxed), 100 + 3, "{overwrite:?}");
        assert_same(&real(target), &expected(&store, &root));
    }
}

#[test]
fn a_wish_to_stop_is_obeyed_and_a_second_run_finishes() {
    let mut store = Store::default();
    let root = everything(&mut store);
    let (store, temp) = (Arc::new(store), tempfile::tempdir().unwrap());
    let (monitor, target) = (Recording::default(), temp.path().join("t"));
    monitor.cancel();
    let e = restore_with(&store, &root, "", &target, &Options::default(), &monitor).unwrap_err();
    assert_eq!(e.kind(), crate::error::Kind::Interrupted);
    restore_well(&store, &root, &target, &Options::default());
    assert_same(&real(&target), &expected(&store, &root));
    assert_eq!(std::fs::metadata(&target).unwrap().mode() & 0o7777, 0o755);
    assert!(xattr::list(&target).unwrap().next().is_none());
}

#[test]
fn a_part_and_a_single_file() {
    let mut store = Store::default();
    let root = everything(&mut store);
    let (store, temp) = (Arc::new(store), tempfile::tempdir().unwrap());
    let monitor = Recording::default();
    let part =
        |path: &str, to: &str| restore_with(&store, &root, path, &temp.path().join(to), &Options::default(), &monitor);
    assert_eq!(part("sub", "dir").unwrap().items, 2);
    assert!(temp.path().join("dir/three").is_file());
    assert_eq!(part("sub/a", "file").unwrap().items, 1);
    assert_eq!(std::fs::read(temp.path().join("file/a")).unwrap(), b"a");
    assert_eq!(part("sub/none", "none").unwrap_err().kind(), crate::error::Kind::NotFound);
    assert!(monitor.lines().iter().any(|l| l.contains("\"/sub/a\"")), "{:?}", monitor.lines());
}

fn patterns(list: &[&str]) -> Option<Patterns> {
    Some(Patterns::new(&list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>(), &[]).unwrap())
}

fn small_tree(store: &mut Store) -> Entry {
    let dir = |store: &mut Store, name: &[u8]| {
        let files = vec![store.file(b"x.c", b"c"), store.file(b"x.o", b"o")];
        store.dir(name, files)
    };
    let deep = dir(store, b"deep");
    let a = {
        let x = store.file(b"x.c", b"c");
        store.dir(b"a", vec![deep, x])
    };
    let b = dir(store, b"b");
    let c = store.dir(b"empty", vec![]);
    store.dir(b"", vec![a, b, c])
}

fn tree(target: &Path) -> Vec<String> {
    real(target).into_keys().map(|k| String::from_utf8(k).unwrap()).collect()
}

#[test]
fn patterns_choose() {
    let mut store = Store::default();
    let root = small_tree(&mut store);
    let store = Arc::new(store);
    let run = |choice: Choice| {
        let temp = tempfile::tempdir().unwrap();
        restore_well(&store, &root, temp.path(), &Options { choice, ..Options::default() });
        tree(temp.path())
    };
    let include = |list: &[&str]| Choice { include: patterns(list), exclude: None };
    let exclude = |list: &[&str]| Choice { include: None, exclude: patterns(list) };
    assert_eq!(run(include(&["*.o"])), ["/a", "/a/deep", "/a/deep/x.o", "/b", "/b/x.o"]);
    assert_eq!(run(include(&["/b"])), ["/b", "/b/x.c", "/b/x.o"]);
    assert_eq!(run(include(&["deep", "empty"])), ["/a", "/a/deep", "/a/deep/x.c", "/a/deep/x.o", "/empty"]);
    assert_eq!(run(exclude(&["*.o", "/a"])), ["/b", "/b/x.c", "/empty"]);
}

#[test]
fn delete_removes_what_is_extra_but_never_what_the_patterns_leave_out() {
    let mut store = Store::default();
    let root = small_tree(&mut store);
    let store = Arc::new(store);
    let prepared = || {
        let temp = tempfile::tempdir().unwrap();
        restore_well(&store, &root, temp.path(), &Options::default());
        for dir in ["", "a/deep", "new", "new/er"] {
            std::fs::create_dir_all(temp.path().join(dir)).unwrap();
            for name in ["extra.c", "extra.o", "~"] {
                std::fs::write(temp.path().join(dir).join(name), b"e").unwrap();
            }
        }
        link("/", temp.path().join("a/to root")).unwrap();
        temp
    };
    let run = |choice: Choice| {
        let temp = prepared();
        restore_well(&store, &root, temp.path(), &Options { choice, delete: true, ..Options::default() });
        tree(temp.path())
    };
    let all = ["/a", "/a/deep", "/a/deep/x.c", "/a/deep/x.o", "/a/x.c", "/b", "/b/x.c", "/b/x.o", "/empty"];
    assert_eq!(run(Choice::default()), all);
    let kept = run(Choice { include: None, exclude: patterns(&["*.o"]) });
    assert!(kept.contains(&"/new/er/extra.o".into()) && kept.contains(&"/extra.o".into()));
    assert!(!kept.iter().any(|p| p.ends_with("extra.c") || p.ends_with("~") || p.ends_with("root")), "{kept:?}");
    let kept = run(Choice { include: patterns(&["*.o"]), exclude: None });
    assert!(kept.contains(&"/new/er/extra.c".into()) && kept.contains(&"/a/to root".into()));
    assert!(!kept.iter().any(|p| p.ends_with("extra.o")), "{kept:?}");
}

#[test]
fn delete_spares_repositories() {
    let mut store = Store::default();
    let root = small_tree(&mut store);
    let (store, temp) = (Arc::new(store), tempfile::tempdir().unwrap());
    restore_well(&store, &root, temp.path(), &Options::default());
    // One of the snapshot's own directories may have become a repository too.
    let files =
        ["new/repo/config", "new/repo/packs/x", "copy/config.copy", "empty/config", "empty/log/x", "none/config"];
    for name in files {
        let path = temp.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, if name == "none/config" { "[core]" } else { "PACKMULE and so on" }).unwrap();
    }
    let (done, lines) = restore(&store, &root, temp.path(), &Options { delete: true, ..Options::default() });
    assert_eq!((done.unwrap().deleted, temp.path().join("none").exists()), (2, false), "{lines:?}");
    assert!(files.iter().all(|name| name.starts_with("none") || temp.path().join(name).exists()));
    for name in ["new/repo", "copy", "empty"] {
        let said = format!("a repository lies in the target and was not deleted: {}", temp.path().join(name).display());
        assert!(lines.iter().any(|l| l.contains(&said)), "{lines:?}");
    }
}

#[test]
fn patterns_that_match_nothing_make_no_target() {
    let mut store = Store::default();
    let root = small_tree(&mut store);
    let (store, temp) = (Arc::new(store), tempfile::tempdir().unwrap());
    let target = temp.path().join("made");
    let include = |name: &str, delete| {
        let choice = Choice { include: patterns(&[name]), exclude: None };
        restore_well(&store, &root, &target, &Options { choice, delete, ..Options::default() })
    };
    for delete in [false, true] {
        assert!(include("absent", delete).nothing && !target.exists());
    }
    // An empty directory is something.
    assert!(!include("empty", false).nothing);
    assert_eq!(tree(&target), ["/empty"]);
    // So is what only the target has, when it is deleted.
    std::fs::write(target.join("absent"), b"").unwrap();
    assert!(include("absent", false).nothing);
    let done = include("absent", true);
    assert!(!done.nothing && done.deleted == 1 && include("absent", true).nothing);
}

#[test]
fn damage_costs_just_the_files_it_is_in() {
    let mut store = Store::default();
    let bad = noise(77, 1000);
    let mut second = noise(78, 1000);
    second.extend(&bad);
    let mut large = noise(79, 6_000_000);
    large[5_000_000..5_001_000].copy_from_slice(&bad);
    let mut all = vec![store.file(b"first", &bad), store.file(b"second", &second), store.file(b"good", b"good")];
    all.push(store.file(b"large", &large));
    for name in [b"l1", b"l2"] {
        all.push(Entry { link_group: Some([1; 32]), ..store.file(name, &bad) });
    }
    let root = store.dir(b"", all);
    store.lose(&bad);
    let (store, temp) = (Arc::new(store), tempfile::tempdir().unwrap());
    let (done, lines) = restore(&store, &root, temp.path(), &Options::default());
    let done = done.unwrap();
    assert_eq!((done.errors, done.restored), (5, 1), "{lines:?}");
    assert_eq!(tree(temp.path()), ["/good"]);
    assert!(lines.iter().any(|l| l.contains("ItemError") && l.contains("/l2")), "{lines:?}");
    // Reading back finds the same files wrong: no file counts twice.
    std::fs::write(temp.path().join("first"), noise(80, 1000)).unwrap();
    let (done, lines) = restore(&store, &root, temp.path(), &Options { verify: true, ..Options::default() });
    let done = done.unwrap();
    assert_eq!((done.errors, done.verified), (5, 1), "{lines:?}");
    assert_eq!(lines.iter().filter(|l| l.contains("ItemError")).count(), 5, "{lines:?}");
}

#[test]
fn verification_finds_what_changed() {
    let mut store = Store::default();
    let root = everything(&mut store);
    let (store, temp) = (Arc::new(store), tempfile::tempdir().unwrap());
    let target = temp.path();
    restore_well(&store, &root, target, &Options::default());
    // Same size and time, other bytes: only reading finds it.
    let path = target.join("some");
    let time = std::fs::metadata(&path).unwrap().modified().unwrap();
    std::fs::write(&path, noise(1000, 50_000)).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    let options = Options { overwrite: Overwrite::IfChanged, verify: true, ..Options::default() };
    let (done, lines) = restore(&store, &root, target, &options);
    assert_eq!(done.unwrap().errors, 1, "{lines:?}");
    assert!(lines.iter().any(|l| l.contains("\"verify\"") && l.contains("/some")), "{lines:?}");
}

#[test]
fn sparse_makes_holes_of_zeros() {
    let mut store = Store::default();
    let mut bytes = noise(1, 10_000);
    bytes.extend(vec![0; 3_000_000]);
    bytes.push(1);
    // One chunk: the zeros were captured as data.
    let h = store.put(ChunkKind::Data, bytes.clone()).unwrap();
    let len = bytes.len() as u64;
    let content = crate::format::tree::Content::Extents(vec![crate::format::tree::Extent::Data { h, len }]);
    let file = Entry { mode: 0o600, size: len, content, ..own(b"f", EntryType::File) };
    let root = store.dir(b"", vec![file]);
    let (store, temp) = (Arc::new(store), tempfile::tempdir().unwrap());
    let blocks = || std::fs::metadata(temp.path().join("f")).unwrap().blocks() * 512;
    restore_well(&store, &root, temp.path(), &Options::default());
    assert!(blocks() >= len);
    std::fs::remove_file(temp.path().join("f")).unwrap();
    restore_well(&store, &root, temp.path(), &Options { sparse: true, ..Options::default() });
    assert!(blocks() < 100_000);
    assert_same(&real(temp.path()), &expected(&store, &root));
}
