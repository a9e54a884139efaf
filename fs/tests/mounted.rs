//! A real mount, seen through the kernel.

mod support;

use std::fs::{self as std_fs, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fs::device::{Detached, mounted_at};
use fs::ops::Presentation;
use repo::format::tree::{Content, Entry, EntryType, Extent, XattrValue};
use support::{Memory, Mount, Rng, SECOND, T0, id};

const SNAPSHOT: &str = "hosts/web1/etc/2026-11-22T09-51-56Z";

fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|e| e.raw_os_error())
}

fn sh(script: &str, at: &Path) -> String {
    let out = Command::new("sh").arg("-c").arg(script).current_dir(at).env("LC_ALL", "C").output().unwrap();
    assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn kinds(memory: &Memory) -> Entry {
    let s = &memory.store;
    let special = |name: &str, kind, rdev| {
        let mut e = Entry::new(name, kind);
        (e.mode, e.rdev) = (0o640, rdev);
        e
    };
    let mut link = Entry::new("link", EntryType::Symlink);
    link.target = b"plain".to_vec();
    link.mode = 0o777;
    let mut plain = s.file("plain", b"hello\n");
    plain.xattrs = vec![
        (
            b"security.capability".to_vec(),
            XattrValue::Inline(vec![1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ),
        (b"user.long".to_vec(), s.long_xattr(&[b'y'; 2000])),
        (b"user.short".to_vec(), XattrValue::Inline(b"value".to_vec())),
    ];
    plain.mode = 0o4751;
    let mut linked = s.file("linked1", &[3; 10_000]);
    linked.link_group = Some([1; 32]);
    let mut linked2 = linked.clone();
    linked2.name = b"linked2".to_vec();
    let mut odd = s.file("odd", b"odd");
    odd.name = b"n\xff\xfe\n%".to_vec();
    let long = s.file(&"l".repeat(255), b"long");
    let pieces: Vec<_> = (0..40u8).map(|i| (i % 4 == 0).then(|| vec![i; 65_536])).collect();
    let mut sparse = Entry::new("sparse", EntryType::File);
    sparse.mode = 0o644;
    (sparse.content, sparse.size) = s.pieces(&pieces, 65_536);
    s.dir(
        "",
        vec![
            plain,
            link,
            linked,
            linked2,
            odd,
            long,
            sparse,
            special("fifo", EntryType::Fifo, 0),
            special("socket", EntryType::Socket, 0),
            special("block", EntryType::BlockDevice, libc::makedev(8, 17)),
            special("char", EntryType::CharDevice, libc::makedev(259, 70_000)),
            s.file("empty", b""),
            s.dir("dir", vec![s.dir("below", vec![s.file("leaf", b"x")])]),
        ],
    )
}

fn simple(memory: &Arc<Memory>, bytes: &[u8]) -> Mount {
    let root = memory.store.dir("", vec![memory.store.file("f", bytes)]);
    memory.add(id(1), "web1", "etc", T0, &[], root);
    Mount::new(memory.clone(), |_| ())
}

#[test]
fn everything_is_shown_as_captured() {
    let memory = Memory::new();
    memory.add(id(1), "web1", "etc", T0, &[], kinds(&memory));
    let mount = Mount::new(memory.clone(), |_| ());
    let at = |name: &str| mount.path(SNAPSHOT).join(name);
    let meta = |name: &str| std_fs::symlink_metadata(at(name)).unwrap();

    let plain = meta("plain");
    assert_eq!((plain.mode(), plain.size(), plain.nlink()), (0o104751, 6, 1));
    assert_eq!((plain.mtime(), plain.mtime_nsec()), (1_700_000_000, 123_456_789));
    assert!(meta("fifo").file_type().is_fifo() && meta("socket").file_type().is_socket());
    assert_eq!((meta("block").mode(), meta("block").rdev()), (0o060640, libc::makedev(8, 17)));
    assert_eq!((meta("char").mode(), meta("char").rdev()), (0o020640, libc::makedev(259, 70_000)));
    assert_eq!(std_fs::read_link(at("link")).unwrap(), Path::new("plain"));
    assert_eq!(std_fs::read(at("link")).unwrap(), b"hello\n");
    assert_eq!(std_fs::read(at(&"l".repeat(255))).unwrap(), b"long");
    assert_eq!(meta("linked1").ino(), meta("linked2").ino());
    assert!(meta("linked1").nlink() >= 2);
    assert_eq!(std_fs::read(at("empty")).unwrap(), b"");
    assert_eq!(std_fs::read_dir(at("")).unwrap().count(), 13);
    assert_eq!(errno(std_fs::read(at("missing"))), Some(libc::ENOENT));
    assert_eq!(errno(std_fs::read(at("missing"))), Some(libc::ENOENT));
    assert_eq!(errno(std_fs::write(at("new"), b"")), Some(libc::EROFS));
    let latest = std_fs::canonicalize(mount.path("hosts/web1/etc/latest")).unwrap();
    assert_eq!(latest, mount.path(SNAPSHOT));
    assert_eq!(std_fs::read(mount.path("ids/01010101/plain")).unwrap(), b"hello\n");

    let xattr =
        |name: &str, file: &str| sh(&format!("getfattr --only-values -h -n {name} {file} 2>&1 || true"), &at(""));
    assert_eq!(xattr("user.short", "plain"), "value");
    assert_eq!(xattr("user.long", "plain"), "y".repeat(2000));
    assert!(xattr("user.none", "plain").contains("No such attribute"));
    assert!(sh("getfattr -d -m - plain", &at("")).contains("security.capability"));
    assert_eq!(sh("getfattr -d -m - empty dir", &at("")), "");

    let status = sh("stat -f -c '%S %b %f %l' .", &at(""));
    assert_eq!(status.trim(), format!("4096 {} {} 255", (4u64 << 30) / 4096, (3u64 << 30) / 4096));
    let python = sh("python3 -c 'print(open(\"plain\").read())'", &at(""));
    assert_eq!(python, "hello\n\n", "isatty gets ENOTTY");
}

#[test]
fn holes_are_holes() {
    let memory = Memory::new();
    memory.add(id(1), "web1", "etc", T0, &[], kinds(&memory));
    let mount = Mount::new(memory.clone(), |_| ());
    let path = mount.path(SNAPSHOT).join("sparse");
    let meta = std_fs::metadata(&path).unwrap();
    assert_eq!((meta.size(), meta.blocks()), (40 * 65_536, 10 * 128));
    let file = File::open(&path).unwrap();
    // SAFETY: a plain system call on an open file.
    let seek = |at: i64, whence| unsafe { libc::lseek(file.as_raw_fd(), at, whence) };
    assert_eq!(seek(0, libc::SEEK_HOLE), 65_536);
    assert_eq!(seek(65_536, libc::SEEK_DATA), 4 * 65_536);
    assert_eq!(seek(37 * 65_536, libc::SEEK_DATA), -1);
    assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::ENXIO));
    let target = tempfile::tempdir().unwrap();
    let copy = target.path().join("copy");
    sh(&format!("cp --sparse=auto sparse {}", copy.display()), &mount.path(SNAPSHOT));
    assert!(std_fs::read(&copy).unwrap() == std_fs::read(&path).unwrap());
    assert!(std_fs::metadata(&copy).unwrap().blocks() * 512 < meta.size());
}

#[test]
fn ordinary_programs_copy_it_faithfully() {
    let memory = Memory::new();
    memory.add(id(1), "web1", "etc", T0, &[], kinds(&memory));
    let mount = Mount::new(memory.clone(), |_| ());
    let target = tempfile::tempdir().unwrap();
    let (copy, archive) = (target.path().join("copy"), target.path().join("t.tar"));
    sh(&format!("cp -a . {}", copy.display()), &mount.path(SNAPSHOT));
    sh(&format!("tar --xattrs -cf {} .", archive.display()), &mount.path(SNAPSHOT));
    let list = "find . -mindepth 1 -printf '%p %y %m %U %G %T@ %l %n\\n' | grep -v ' d ' | sort";
    assert_eq!(sh(list, &copy), sh(list, &mount.path(SNAPSHOT)));
    assert_eq!(sh("find . -type f | sort | xargs -d '\\n' cat | sha256sum", &copy).len(), 68);
    sh(
        &format!("diff -r --no-dereference dir {0}/dir && cmp sparse {0}/sparse", copy.display()),
        &mount.path(SNAPSHOT),
    );
    if Command::new("rsync").arg("--version").output().is_ok() {
        let out = sh(&format!("rsync -aHAX --itemize-changes -n ./ {}/", copy.display()), &mount.path(SNAPSHOT));
        assert_eq!(out, "", "nothing differs");
    }
}

#[test]
fn large_reads_in_any_order() {
    let memory = Memory::new();
    let bytes = Rng(77).bytes(9_000_000);
    let mount = simple(&memory, &bytes);
    let path = mount.path(SNAPSHOT).join("f");
    assert!(std_fs::read(&path).unwrap() == bytes);
    let threads: Vec<_> = (0..4)
        .map(|n| {
            let (path, bytes) = (path.clone(), bytes.clone());
            std::thread::spawn(move || {
                let file = File::open(path).unwrap();
                let mut rng = Rng(n + 1);
                for _ in 0..50 {
                    let at = rng.below(9_000_000) as usize;
                    let mut buf = vec![0; 1 << 20];
                    let n = file.read_at(&mut buf, at as u64).unwrap();
                    assert_eq!(n, buf.len().min(bytes.len() - at));
                    assert!(buf[..n] == bytes[at..at + n]);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    let mut file = File::open(&path).unwrap();
    file.seek(SeekFrom::Start(9_000_000)).unwrap();
    assert_eq!(file.read(&mut [0; 10]).unwrap(), 0);
}

#[test]
fn a_directory_of_many_lists_each_once() {
    let memory = Memory::new();
    let files = (0..5000).map(|i| memory.store.file(&format!("f{i:05}"), b"x")).collect();
    memory.add(id(1), "web1", "etc", T0, &[], memory.store.dir("", files));
    let mount = Mount::new(memory.clone(), |_| ());
    for _ in 0..2 {
        let list = sh("find . -type f -size -2 | sort | uniq | wc -l", &mount.path(SNAPSHOT));
        assert_eq!(list.trim(), "5000");
    }
    assert_eq!(std_fs::read_dir(mount.path(SNAPSHOT)).unwrap().count(), 5000);
}

#[test]
fn snapshots_come_and_go_while_mounted() {
    let memory = Memory::new();
    let mount = simple(&memory, b"one");
    let source = mount.path("hosts/web1/etc");
    let names = || std_fs::read_dir(&source).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
    let later = source.join("2026-11-22T09-52-06Z");
    assert_eq!(names().len(), 2);
    assert!(!later.exists() && !later.exists());
    assert_eq!(std_fs::read_link(source.join("latest")).unwrap(), Path::new("2026-11-22T09-51-56Z"));
    assert_eq!(std_fs::read_dir(mount.path("versions/web1/etc/f")).unwrap().count(), 1);

    memory.add(
        id(2),
        "web1",
        "etc",
        T0 + 10 * SECOND,
        &["t"],
        memory.store.dir("", vec![memory.store.file("f", b"2")]),
    );
    eventually("the new snapshot shows", || names().len() == 3);
    assert_eq!(std_fs::read(later.join("f")).unwrap(), b"2");
    assert_eq!(std_fs::read_link(source.join("latest")).unwrap(), Path::new("2026-11-22T09-52-06Z"));
    assert_eq!(std_fs::read(source.join("latest/f")).unwrap(), b"2");
    assert_eq!(std_fs::read_dir(mount.path("tags/t")).unwrap().count(), 1);
    let versions = || std_fs::read_dir(mount.path("versions/web1/etc/f")).unwrap().count();
    eventually("the new version shows", || versions() == 2);

    let open = File::open(later.join("f")).unwrap();
    memory.forget(id(2));
    eventually("the forgotten snapshot goes", || !later.exists() && names().len() == 2);
    assert_eq!(errno(std_fs::read(later.join("f"))), Some(libc::ENOENT));
    assert_eq!(std_fs::read(source.join("latest/f")).unwrap(), b"one");
    let mut still = String::new();
    (&open).read_to_string(&mut still).unwrap();
    assert_eq!(still, "2", "an open file outlives its snapshot's name");
    memory.add(id(3), "other", "etc", T0, &[], memory.store.dir("", vec![]));
    eventually("a new host shows", || mount.path("hosts/other/etc/latest").exists());
}

#[test]
fn damage_is_eio_on_one_file() {
    let memory = Memory::new();
    let (bad, good) = (memory.store.file("bad", &[1; 5000]), memory.store.file("good", &[2; 5000]));
    let Content::Extents(extents) = &bad.content else { panic!() };
    let Extent::Data { h, .. } = extents[0] else { panic!() };
    memory.store.damage(h);
    memory.add(id(1), "web1", "etc", T0, &[], memory.store.dir("", vec![bad, good]));
    let mount = Mount::new(memory.clone(), |_| ());
    let at = |name: &str| mount.path(SNAPSHOT).join(name);
    assert_eq!(errno(std_fs::read(at("bad"))), Some(libc::EIO));
    assert_eq!(errno(std_fs::read(at("bad"))), Some(libc::EIO));
    assert_eq!(std_fs::read(at("good")).unwrap(), [2; 5000]);
    assert_eq!(memory.reports.lock().len(), 1);
}

#[test]
fn unmounts_also_with_open_files() {
    let memory = Memory::new();
    let mount = simple(&memory, b"hello");
    let open = File::open(mount.path(SNAPSHOT).join("f")).unwrap();
    let at = mount.path("");
    let at = at.canonicalize().unwrap();
    let unmounter = mount.mounted.as_ref().unwrap().unmounter();
    assert_eq!(unmounter.unmount().unwrap(), Detached::Lazily);
    assert_eq!(mounted_at(&at).unwrap(), None);
    mount.mounted.as_ref().unwrap().wait().unwrap();
    let mut text = String::new();
    (&open).read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello", "served as long as the process lives");
    assert_eq!(unmounter.unmount().unwrap(), Detached::Absent);

    let mount = simple(&memory, b"hello");
    assert_eq!(mount.mounted.as_ref().unwrap().unmount().unwrap(), Detached::Unmounted);
    mount.mounted.as_ref().unwrap().wait().unwrap();
}

#[test]
fn an_unmount_from_outside_ends_it_and_leaves_a_later_mount_alone() {
    let memory = Memory::new();
    let mount = simple(&memory, b"hello");
    let at = mount.mounted.as_ref().unwrap().path().to_owned();
    let entry = mounted_at(&at).unwrap().unwrap();
    assert_eq!((entry.kind.as_str(), entry.name.as_str()), ("fuse.packmule", "test_ of mounts"));
    let out = Command::new("umount").arg(&at).output().unwrap();
    assert!(out.status.success(), "{out:?}");
    mount.mounted.as_ref().unwrap().wait().unwrap();

    let later = fs::session::mount(memory.clone(), &at, &Default::default()).unwrap();
    assert_eq!(mount.mounted.as_ref().unwrap().unmount().unwrap(), Detached::Absent);
    assert_eq!(std_fs::read(at.join(SNAPSHOT).join("f")).unwrap(), b"hello");
    drop(later);
    assert_eq!(mounted_at(&at).unwrap(), None);
}

/// Runs `test` as nobody, if this is root.
fn as_nobody(script: &str, at: &Path) -> Option<std::process::Output> {
    if !nix::unistd::getuid().is_root() {
        eprintln!("only root can try what others may do");
        return None;
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", script])
        .current_dir("/")
        .env("AT", at);
    Some(command.output().unwrap())
}

#[test]
fn others_are_let_in_only_when_told_and_then_checked() {
    let memory = Memory::new();
    let s = &memory.store;
    let mut shut = s.file("shut", b"s");
    shut.mode = 0o600;
    // user::rw- user:65534:r-- group::--- mask::r-- other::---
    let mut acl: Vec<u8> = vec![2, 0, 0, 0];
    for (tag, perm, who) in
        [(1u16, 6u16, u32::MAX), (2, 4, 65534), (4, 0, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)]
    {
        acl.extend([&tag.to_le_bytes()[..], &perm.to_le_bytes(), &who.to_le_bytes()].concat());
    }
    let mut by_acl = s.file("by_acl", b"a");
    by_acl.mode = 0o640;
    by_acl.xattrs = vec![(b"system.posix_acl_access".to_vec(), XattrValue::Inline(acl.clone()))];
    // The same, but without the entry for the user: the mask must not pass for the group's permission.
    let mut masked = s.file("masked", b"m");
    (masked.mode, masked.gid) = (0o640, 65534);
    acl.drain(12..20);
    masked.xattrs = vec![(b"system.posix_acl_access".to_vec(), XattrValue::Inline(acl))];
    memory.add(id(1), "web1", "etc", T0, &[], s.dir("", vec![s.file("f", b"x"), shut, by_acl, masked]));

    let read = |mount: &Mount, name: &str| as_nobody(&format!("cat \"$AT/{SNAPSHOT}/{name}\""), &mount.path(""));
    let mount = Mount::new(memory.clone(), |_| ());
    let Some(out) = read(&mount, "f") else { return };
    assert!(!out.status.success(), "by default nobody else gets in");
    assert!(sh("getfattr -h -d -m - by_acl", &mount.path(SNAPSHOT)).contains("system.posix_acl_access"));
    drop(mount);

    let mount = Mount::new(memory.clone(), |o| o.allow_other = true);
    let said = |name: &str| String::from_utf8(read(&mount, name).unwrap().stdout).unwrap();
    assert_eq!((said("f").as_str(), said("shut").as_str()), ("x", ""));
    assert_eq!((said("by_acl").as_str(), said("masked").as_str()), ("a", ""));
    assert!(sh("getfattr -h -d -m - by_acl", &mount.path(SNAPSHOT)).contains("system.posix_acl_access"));
    drop(mount);

    let mount = Mount::new(memory.clone(), |o| {
        o.allow_other = true;
        o.presentation = Some(Presentation { uid: 65534, gid: 65534, umask: 0o077 });
    });
    let said = |name: &str| String::from_utf8(read(&mount, name).unwrap().stdout).unwrap();
    assert_eq!((said("shut").as_str(), said("masked").as_str()), ("s", "m"));
}

#[test]
fn a_stop_signal_unmounts_and_others_do_not() {
    // The mount runs in a process of its own, this test's program started again.
    const ENV: &str = "PACKMULE_TEST_MOUNT_AT";
    if let Some(at) = std::env::var_os(ENV) {
        let memory = Memory::new();
        memory.add(id(1), "web1", "etc", T0, &[], memory.store.dir("", vec![memory.store.file("f", b"x")]));
        let mounted = fs::session::mount(memory, Path::new(&at), &Default::default()).unwrap();
        let unmounter = mounted.unmounter();
        fs::signal::on_stop(move || drop(unmounter.unmount())).unwrap();
        println!("ready");
        mounted.wait().unwrap();
        return;
    }
    for (signal, busy) in [("INT", false), ("TERM", true)] {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().canonicalize().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_stop_signal_unmounts_and_others_do_not", "--nocapture"])
            .env(ENV, &at)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        eventually("it is mounted", || at.join(SNAPSHOT).join("f").exists());
        let open = busy.then(|| File::open(at.join(SNAPSHOT).join("f")).unwrap());
        for signal in ["HUP", "PIPE", "QUIT", "USR1", signal] {
            assert!(at.join("hosts").exists(), "still mounted before {signal}");
            sh(&format!("sleep 0.3; kill -{signal} {}", child.id()), Path::new("/"));
        }
        let status = child.wait().unwrap();
        assert!(status.success(), "{status}");
        assert_eq!(mounted_at(&at).unwrap(), None);
        drop(open);
    }
}
