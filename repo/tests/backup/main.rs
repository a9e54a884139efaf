//! Backing real trees up, over every part of the engine, and reading them back.

#[path = "../common/mod.rs"]
mod common;
mod faults;
mod named;
mod site;
mod unmeasured;
mod xfs;

use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use repo::capture::backup;
use repo::format::tree::EntryType;
use repo::monitor::Recording;
use repo::tree::file;

use site::{Site, content, listing, noise};

#[test]
fn every_kind_of_entry_comes_back_as_it_was() {
    let site = Site::new();
    let src = site.src();
    for i in 0..300 {
        std::fs::create_dir_all(src.join(format!("d{}/e{}", i % 7, i % 3))).unwrap();
        std::fs::write(src.join(format!("d{}/e{}/f{i}", i % 7, i % 3)), noise(i, (i * i % 90_000) as usize)).unwrap();
    }
    std::fs::write(src.join("big"), noise(1, 9_000_000)).unwrap();
    std::fs::write(src.join("empty"), b"").unwrap();
    let sparse = std::fs::File::create(src.join("sparse")).unwrap();
    sparse.write_all_at(b"begin", 0).unwrap();
    sparse.write_all_at(b"middle", 50_000_000).unwrap();
    sparse.set_len(100_000_000).unwrap();
    std::fs::hard_link(src.join("big"), src.join("d1/big-too")).unwrap();
    symlink("../nowhere/at all", src.join("link")).unwrap();
    let odd = std::ffi::OsString::from(std::ffi::OsStr::new("name"));
    std::fs::write(src.join(odd), b"x").unwrap();
    let raw: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"not\xffutf8\n");
    std::fs::write(src.join(raw), b"raw name").unwrap();
    std::fs::write(src.join("n".repeat(255)), b"long name").unwrap();
    std::fs::set_permissions(src.join("empty"), std::fs::Permissions::from_mode(0o4751)).unwrap();
    xattr::set(src.join("empty"), "user.small", b"value").unwrap();
    xattr::set(src.join("empty"), "user.large", &noise(3, 2500)).unwrap();
    xattr::set(src.join("d1"), "user.dir", b"on a directory").unwrap();
    nix::unistd::mkfifo(&src.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(src.join("sock")).unwrap();

    let repo = site.open();
    let outcome = site.backup(&repo);
    assert_eq!(outcome.stats.errors, 0);
    let all = listing(&repo, &outcome, &src);
    let mut seen = 0;
    for (path, entry) in &all {
        let real = src.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(path));
        let meta = real.symlink_metadata().unwrap();
        assert_eq!((entry.mode, entry.uid, entry.gid), (meta.mode() & 0o7777, meta.uid(), meta.gid()), "{real:?}");
        if !meta.is_dir() {
            assert_eq!((entry.mtime.secs, i64::from(entry.mtime.nanos)), (meta.mtime(), meta.mtime_nsec()));
        }
        if meta.is_file() {
            seen += 1;
            assert_eq!(entry.kind, EntryType::File);
            assert_eq!(entry.size, meta.len());
            assert!(content(&repo, entry) == std::fs::read(&real).unwrap(), "{real:?}");
        }
    }
    assert_eq!(seen, 300 + 7);
    assert_eq!(all[&b"link"[..]].target, b"../nowhere/at all");
    assert_eq!(all[&b"fifo"[..]].kind, EntryType::Fifo);
    assert_eq!(all[&b"sock"[..]].kind, EntryType::Socket);
    let group = all[&b"big"[..]].link_group;
    assert!(group.is_some() && group == all[&b"d1/big-too"[..]].link_group);
    let names: Vec<&[u8]> = all[&b"empty"[..]].xattrs.iter().map(|(n, _)| n.as_slice()).collect();
    assert_eq!(names, [&b"user.large"[..], b"user.small"]);
    let holes = file::seek(repo.store().as_ref(), &all[&b"sparse"[..]].content, 100_000_000, 0, true).unwrap();
    assert!(holes < 50_000_000);
    assert!(outcome.stats.data_added < 30_000_000, "holes are not stored");
}

#[test]
fn an_unchanged_tree_stores_no_data_and_a_changed_file_is_found() {
    let site = Site::new();
    let src = site.src();
    for i in 0..500u64 {
        std::fs::create_dir_all(src.join(format!("d{}", i % 20))).unwrap();
        std::fs::write(src.join(format!("d{}/f{i}", i % 20)), noise(i, 3000)).unwrap();
    }
    // What changed within a clock tick of the backup counts as changed once more.
    std::thread::sleep(std::time::Duration::from_millis(50));
    let repo = site.open();
    let first = site.backup(&repo);
    assert_eq!((first.stats.files_new, first.stats.files_unmodified), (500, 0));
    let second = site.backup(&repo);
    assert_eq!((second.stats.files_new, second.stats.files_changed, second.stats.files_unmodified), (0, 0, 500));
    assert!(second.stats.data_added < 40_000, "only the sidecar: {}", second.stats.data_added);
    // The temporary directory above the source changes by itself.
    assert!(second.stats.dirs_unmodified >= 21, "{:?}", second.stats);
    let target = src.join("d3/f3");
    let before = target.metadata().unwrap().modified().unwrap();
    std::fs::write(&target, noise(999, 3000)).unwrap();
    // Same size, same modification time: only the change time tells.
    std::fs::File::options().write(true).open(&target).unwrap().set_modified(before).unwrap();
    std::fs::remove_file(src.join("d4/f4")).unwrap();
    std::fs::remove_dir_all(src.join("d5")).unwrap();
    std::fs::create_dir(src.join("d0/new")).unwrap();
    std::fs::write(src.join("d0/new/file"), b"fresh").unwrap();
    drop(repo);
    let repo = site.open();
    let third = site.backup(&repo);
    assert_eq!((third.stats.files_new, third.stats.files_changed, third.stats.files), (1, 1, 500 - 1 - 25 + 1));
    let all = listing(&repo, &third, &src);
    assert!(content(&repo, &all[&b"d3/f3"[..]]) == noise(999, 3000));
    assert!(!all.contains_key(&b"d4/f4"[..]) && !all.contains_key(&b"d5"[..]));
}

#[test]
fn a_stopped_backup_keeps_what_it_stored() {
    let site = Site::new();
    for i in 0..120u64 {
        std::fs::write(site.src().join(format!("f{i}")), noise(i, 2_000_000)).unwrap();
    }
    let repo = site.open();
    let monitor = Arc::new(Recording::default());
    let stopper = Arc::clone(&monitor);
    let thread = std::thread::spawn(move || {
        use repo::monitor::{Counters, Monitor};
        while Counters::get(&stopper.counters().bytes) < 10_000_000 {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        stopper.cancel();
    });
    let stopped = backup(&repo, site.options(), monitor.as_ref());
    thread.join().unwrap();
    assert_eq!(stopped.err().unwrap().kind(), repo::error::Kind::Interrupted);
    assert!(repo.log.state().snapshots.is_empty());
    assert!(repo.log.state().sessions.is_empty());
    let again = site.backup(&repo);
    assert!(again.stats.data_added < 235_000_000, "{} bytes again", again.stats.data_added);
}

#[test]
fn a_source_is_refused_where_it_must_be() {
    let site = Site::new();
    let repo = site.open();
    let mut inside = site.options();
    inside.paths = vec![site.dir.path().join("repo/packs")];
    let refused = backup(&repo, inside, &Recording::default()).err().unwrap();
    assert_eq!(refused.kind(), repo::error::Kind::Refused);
    let mut absent = site.options();
    absent.paths = vec![site.dir.path().join("no such thing")];
    assert_eq!(backup(&repo, absent, &Recording::default()).err().unwrap().kind(), repo::error::Kind::NotFound);
    // The repository is left out of a tree that holds it.
    let mut around = site.options();
    around.paths = vec![site.dir.path().to_owned()];
    let outcome = backup(&repo, around, &Recording::default()).unwrap();
    let all = listing(&repo, &outcome, site.dir.path());
    assert!(all.contains_key(&b"src"[..]) && !all.contains_key(&b"repo"[..]));
    let refused = backup(&repo, site.options(), &Recording::default()).err().unwrap();
    assert_eq!(refused.kind(), repo::error::Kind::Refused, "the source's paths changed");
}

#[test]
fn a_path_through_a_symbolic_link_is_compared_with_the_previous_snapshot() {
    let site = Site::new();
    let real = site.dir.path().join("real");
    std::fs::create_dir_all(real.join("data/sub")).unwrap();
    for i in 0..50u64 {
        std::fs::write(real.join(format!("data/sub/f{i}")), noise(i, 3000)).unwrap();
    }
    std::fs::write(site.src().join("zz"), noise(99, 3000)).unwrap();
    symlink(&real, site.src().join("link")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(50));
    let repo = site.open();
    let mut first = site.options();
    first.paths = vec![site.src().join("link/data"), site.src().join("zz")];
    backup(&repo, first, &Recording::default()).unwrap();
    let mut second = site.options();
    second.paths = vec![site.src().join("link/data"), site.src().join("zz")];
    let second = backup(&repo, second, &Recording::default()).unwrap();
    assert_eq!((second.stats.files_new, second.stats.files_changed, second.stats.files_unmodified), (0, 0, 51));
}

#[test]
fn hard_links_share_what_was_read_once() {
    let site = Site::new();
    let src = site.src();
    for i in 0..20u64 {
        std::fs::write(src.join(format!("a{i}")), noise(i, 5000)).unwrap();
        std::fs::hard_link(src.join(format!("a{i}")), src.join(format!("b{i}"))).unwrap();
        std::fs::hard_link(src.join(format!("a{i}")), src.join(format!("c{i}"))).unwrap();
    }
    std::thread::sleep(std::time::Duration::from_millis(50));
    let repo = site.open();
    let outcome = site.backup(&repo);
    assert_eq!(outcome.stats.errors, 0);
    assert_eq!((outcome.stats.files_new, outcome.stats.files_unmodified), (60, 0));
    std::fs::hard_link(src.join("a0"), src.join("d0")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(50));
    let second = site.backup(&repo).stats;
    // The change time of all the names of a file changes with their number.
    assert_eq!((second.files_new, second.files_changed, second.files_unmodified), (1, 3, 57));
    let all = listing(&repo, &outcome, &src);
    for i in 0..20u64 {
        let names = [format!("a{i}"), format!("b{i}"), format!("c{i}")];
        for name in &names {
            let entry = &all[name.as_bytes()];
            assert_eq!(entry.link_group, all[names[0].as_bytes()].link_group);
            assert!(content(&repo, entry) == noise(i, 5000));
        }
    }
}

#[test]
fn a_device_named_by_a_link_is_read_by_content_when_asked() {
    use std::os::unix::fs::FileTypeExt;
    // An unused loop device: it can be opened by root and holds nothing.
    let device = Path::new("/dev/loop0");
    let usable = std::fs::metadata(device).is_ok_and(|m| m.file_type().is_block_device())
        && std::fs::read(device).is_ok_and(|bytes| bytes.is_empty());
    if !usable {
        return;
    }
    let site = Site::new();
    symlink(device, site.src().join("volume")).unwrap();
    let repo = site.open();
    for read_devices in [false, true] {
        let mut options = site.options();
        options.paths = vec![site.src().join("volume")];
        options.read_devices = read_devices;
        let outcome = backup(&repo, options, &Recording::default()).unwrap();
        let all = listing(&repo, &outcome, &site.src());
        let kind = all[&b"volume"[..]].kind;
        assert_eq!(kind, if read_devices { EntryType::File } else { EntryType::Symlink });
    }
}

#[test]
fn records_that_change_no_index_do_not_leave_it_behind() {
    let site = Site::new();
    let repo = site.open();
    let before = repo.index.position().unwrap();
    for _ in 0..100 {
        let commit = repo.locks.commit(std::time::Duration::from_secs(10)).unwrap();
        repo.log.append(&commit, repo::format::record::Record::Pinned { snapshots: vec![] }).unwrap();
    }
    repo.refresh(&Recording::default()).unwrap();
    assert_ne!(repo.index.position().unwrap(), before);
    assert_eq!(repo.index.position().unwrap(), Some(repo.log.state().position));
}

#[test]
fn a_path_inside_another_is_captured_on_its_own_filesystem() {
    use std::os::unix::fs::MetadataExt as _;
    let (Ok(outer), Ok(inner)) = (std::fs::metadata("/dev"), std::fs::metadata("/dev/shm")) else { return };
    let Ok(named) = tempfile::tempdir_in("/dev/shm") else { return };
    let Ok(other) = tempfile::tempdir_in("/dev/shm") else { return };
    if outer.dev() == inner.dev() {
        return;
    }
    std::fs::write(named.path().join("file"), b"named").unwrap();
    let site = Site::new();
    let repo = site.open();
    let mut options = site.options();
    options.paths = vec!["/dev".into(), named.path().into()];
    options.one_file_system = true;
    let outcome = backup(&repo, options, &Recording::default()).unwrap();
    let all = listing(&repo, &outcome, Path::new("/dev"));
    let below = |dir: &Path| dir.strip_prefix("/dev").unwrap().as_os_str().as_encoded_bytes().to_vec();
    assert!(all.contains_key(&below(&named.path().join("file"))));
    assert!(!all.contains_key(&below(other.path())));
}
