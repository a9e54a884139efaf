//! A real repository, really mounted, read by the programs people read it with.

mod support;

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use support::{Mount, Running, Site, canonical, eventually, names, noise, same};

/// Runs a script in `at`; a program that is missing fails the test.
#[track_caller]
fn sh(script: &str, at: &Path) -> String {
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", script]).current_dir(at);
    command.env("LC_ALL", "C").env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    let ran = Running::start(command).wait();
    assert_eq!(ran.code, 0, "{script}: {}{}", ran.err, ran.text());
    ran.text()
}

/// One of every thing that a filesystem can hold.
fn everything(top: &Path) {
    fs::create_dir_all(top.join("dir/sub")).unwrap();
    fs::write(top.join("dir/plain"), "a needle in a haystack\n").unwrap();
    fs::write(top.join("dir/sub/empty"), "").unwrap();
    fs::write(top.join("large"), noise(1, 9 << 20)).unwrap();
    fs::write(top.join("words"), "the same words again and again\n".repeat(60_000)).unwrap();
    fs::hard_link(top.join("large"), top.join("dir/another-name")).unwrap();
    fs::hard_link(top.join("large"), top.join("dir/sub/third-name")).unwrap();
    symlink("dir/plain", top.join("link")).unwrap();
    symlink("no/such/file", top.join("broken")).unwrap();
    symlink("dir/plain", top.join("link-twin")).unwrap();
    fs::hard_link(top.join("link-twin"), top.join("link-twin2")).unwrap();
    drop(UnixListener::bind(top.join("socket")).unwrap());
    for (name, bytes) in [("odd", &b"\xff\xfe bytes \x01\n%2f~"[..]), ("long", &[b'n'; 255]), ("dots", b"...")] {
        let file = std::ffi::OsString::from_vec(bytes.to_vec());
        fs::write(top.join(file), name).unwrap();
    }
    // 255 bytes of three each.
    fs::create_dir(top.join("\u{20ac}".repeat(85))).unwrap();
    let sparse = File::create(top.join("sparse")).unwrap();
    sparse.write_all_at(&noise(2, 70_000), 3 << 20).unwrap();
    sparse.write_all_at(b"end", (40 << 20) + 5).unwrap();
    sparse.set_len(60 << 20).unwrap();
    File::create(top.join("all-hole")).unwrap().set_len(1 << 20).unwrap();
    sh(
        "mkfifo -m 640 fifo
         mknod -m 660 char c 1 3; mknod block b 7 200; chown 12:34 block
         setfattr -n user.short -v value dir/plain
         setfattr -n user.empty dir/plain
         setfattr -n user.long -v $(head -c 3000 /dev/zero | tr '\\0' x) dir/plain
         setfattr -n trusted.mine -v 1 dir
         setfattr -h -n trusted.link -v 1 link
         setfacl -m u:65534:r,g:12:rwx,m::rx dir/plain
         setfacl -m u:65534:rwx -d -m u:12:r dir/sub
         cp /bin/true capable; setcap cap_net_raw,cap_net_admin+ep capable
         cp /bin/true setuid; chown 65534:65534 setuid; chmod 6755 setuid
         mkdir sticky; chmod 1777 sticky; mkdir shut; echo secret > shut/in; chmod 000 shut/in; chmod 000 shut
         chown 4000000000:12345 dir/sub/empty
         touch -h -d 1901-12-14T00:00:00.000000001 link
         touch -d 2040-02-29T12:34:56.987654321 words
         mkdir many; cd many; seq 1 3000 | while read n; do : > \"file number $n\"; done",
        top,
    );
    sh(
        "sqlite3 base.db 'create table t(n integer primary key, s text);
            with recursive c(n) as (select 1 union all select n+1 from c where n < 20000)
            insert into t select n, hex(randomblob(20)) from c;'
         qemu-img create -q -f qcow2 disk.qcow2 64M
         qemu-img create -q -f raw disk.raw 8M",
        top,
    );
}

/// Deeper than any path may be long: `cp`, `rsync` and `tar` do not go there.
fn deep(top: &Path) {
    sh(
        "python3 - <<'END'
import os
for i in range(30):
    name = 'd%03d' % i + 'x' * 200
    os.mkdir(name)
    os.chdir(name)
open('deep', 'w').write('six thousand characters down')
END",
        top,
    );
}

#[test]
fn everything_is_copied_back_by_every_program() {
    let site = Site::new();
    let src = site.src();
    everything(&src);
    site.backup();
    let mounted = Mount::new(&site, &site.mnt(), &[]);
    let at = canonical(&mounted);
    same(&src, &at, &["--holes"]);

    let copies = site.path().join("copies");
    fs::create_dir(&copies).unwrap();
    let from = at.to_str().unwrap();
    sh(&format!("cp -a '{from}' cp"), &copies);
    // Where there are zeros, cp makes more holes.
    same(&src, &copies.join("cp"), &[]);
    // By itself it takes times within one second for the same.
    sh(&format!("rsync -aHAX --modify-window=-1 --numeric-ids '{from}/' rsync"), &copies);
    same(&src, &copies.join("rsync"), &[]);
    // A second run finds nothing to do: sizes and times are stable.
    assert_eq!(sh(&format!("rsync -aHAXi --modify-window=-1 --numeric-ids --checksum '{from}/' rsync"), &copies), "");
    sh(
        &format!(
            "mkdir tar
             tar -C '{from}' --acls --xattrs --xattrs-include='*' --sparse --exclude ./socket -cf - . 2>/dev/null |
             tar -C tar --acls --xattrs --xattrs-include='*' --numeric-owner -xpf -"
        ),
        &copies,
    );
    same(&src, &copies.join("tar"), &["--exclude", "socket"]);

    for script in [
        // Of names that are one file, a mount knows that there are others, not how many.
        "find . ! -type d -links +1 -printf '%p|%i\\n' | sort | cut -d'|' -f1",
        "find . ! -type d -printf '%p|%y|%m|%U|%G|%s|%T@|%l\\n' | sort",
        "find . -type d -printf '%p|%y|%m|%U|%G|%T@\\n' | sort",
        "grep -r -a -l -D skip needle . | sort",
        "find . -type f -print0 | sort -z | xargs -0 sha256sum",
        "find dir | sort | getfacl -n - 2>/dev/null",
        "getcap capable",
        "sqlite3 'file:base.db?immutable=1' 'select count(*), sum(n), max(s) from t'",
        "sqlite3 -readonly 'file:base.db?mode=ro' 'pragma integrity_check'",
        "qemu-img info -U disk.qcow2 | grep -v 'disk size'",
        "head -c 100 many/file\\ number\\ 77; tail -c 1000 large | sha256sum; dd if=large bs=777 skip=5000 count=999 2>/dev/null | sha256sum",
    ] {
        assert_eq!(sh(script, &src), sh(script, &at), "{script}");
    }
    sh("qemu-img compare -U disk.qcow2 ../../../../../src/disk.qcow2", &at);
    mounted.unmount();
}

#[test]
fn paths_longer_than_path_max_are_there() {
    let site = Site::new();
    deep(&site.src());
    site.backup();
    let mounted = Mount::new(&site, &site.mnt(), &[]);
    let at = canonical(&mounted);
    same(&site.src(), &at, &[]);
    assert_eq!(sh("find . -name deep | wc -c", &at), sh("find . -name deep | wc -c", &site.src()));
    assert_eq!(sh("grep -rl characters . | wc -l", &at), "1\n");
    mounted.unmount();
    site.restores("latest", &site.src());
}

#[test]
fn nothing_can_be_changed_and_nothing_is_privileged() {
    let site = Site::filled();
    let mounted = Mount::new(&site, &site.mnt(), &[]);
    let at = canonical(&mounted);
    let refused = |done: std::io::Result<()>| {
        let errno = done.expect_err("a change was let through").raw_os_error();
        assert!([Some(libc::EROFS), Some(libc::EPERM), Some(libc::EACCES)].contains(&errno), "{errno:?}");
    };
    refused(fs::write(at.join("new"), "x"));
    refused(File::options().write(true).open(at.join("large")).map(drop));
    refused(fs::remove_file(at.join("large")));
    refused(fs::rename(at.join("large"), at.join("small")));
    refused(fs::create_dir(at.join("newdir")));
    refused(fs::create_dir(mounted.at.join("hosts/new")));
    refused(fs::set_permissions(at.join("large"), fs::Permissions::from_mode(0o777)));
    refused(fs::hard_link(at.join("large"), at.join("linked")));
    refused(symlink("x", at.join("symlink")));
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = table.lines().find(|l| l.contains(mounted.at.to_str().unwrap())).unwrap();
    for option in ["ro,", "nosuid", "nodev"] {
        assert!(line.contains(option), "no {option} in {line}");
    }
    mounted.unmount();
}

#[test]
fn holes_are_sought_and_blocks_are_counted() {
    let site = Site::new();
    let file = File::create(site.src().join("sparse")).unwrap();
    file.write_all_at(&noise(5, 200_000), 10 << 20).unwrap();
    file.set_len(1 << 30).unwrap();
    site.backup();
    let mounted = Mount::new(&site, &site.mnt(), &[]);
    let path = canonical(&mounted).join("sparse");
    let mut seen = File::open(&path).unwrap();
    let meta = seen.metadata().unwrap();
    assert_eq!(meta.len(), 1 << 30);
    assert!(meta.blocks() * 512 < 1 << 20 && meta.blocks() * 512 >= 200_000, "{} blocks", meta.blocks());
    let fd = &seen;
    let seek = |at: i64, whence| nix::unistd::lseek(fd, at, whence);
    let data = seek(0, nix::unistd::Whence::SeekData).unwrap();
    assert!((10 << 20) - data < 4096 + 512 * 1024 && data <= 10 << 20, "{data}");
    let hole = seek(data, nix::unistd::Whence::SeekHole).unwrap();
    assert!(((10 << 20) + 200_000..(10 << 20) + 300_000).contains(&hole), "{hole}");
    assert!(seek(hole, nix::unistd::Whence::SeekData).is_err(), "data after the last data");
    seen.seek(SeekFrom::Start((1 << 30) - 10)).unwrap();
    let mut end = Vec::new();
    seen.read_to_end(&mut end).unwrap();
    assert_eq!(end, [0; 10]);
    drop(seen);
    mounted.unmount();
}

#[test]
fn snapshots_come_and_go_while_mounted() {
    let site = Site::filled();
    let mounted = Mount::new(&site, &site.mnt(), &[]);
    let history = mounted.at.join("hosts/web/data");
    let ids = mounted.at.join("ids");
    let shown = || names(&history).into_iter().filter(|n| n != "latest").collect::<Vec<_>>();
    assert_eq!((shown().len(), names(&ids).len()), (2, 2));
    let before = canonical(&mounted);
    let mut open = File::open(before.join("large")).unwrap();

    site.write("appeared", b"new");
    let id = site.backup();
    eventually("the new snapshot shows", || shown().len() == 3 && canonical(&mounted).join("appeared").exists());
    assert!(ids.join(&id[..8]).join("appeared").exists());
    assert!(!before.join("appeared").exists());
    site.run(&["tag", "--add", "keep", &id]).ok();
    eventually("the tag shows", || mounted.at.join("tags/keep").exists());
    // Another host's.
    site.run(&["backup", ".", "--host", "db", "--source", "base"]).ok();
    eventually("the new host shows", || mounted.at.join("hosts/db/base/latest/appeared").exists());

    site.run(&["forget", "--prune", "--release-held", &id]).ok();
    eventually("the forgotten snapshot goes", || shown().len() == 2 && !ids.join(&id[..8]).exists());
    assert_eq!(canonical(&mounted), before);
    let mut bytes = Vec::new();
    open.read_to_end(&mut bytes).unwrap();
    assert!(bytes == fs::read(site.src().join("large")).unwrap());
    drop(open);
    same(&site.src(), &before, &["--exclude", "appeared", "--no-times"]);
    mounted.unmount();
}

#[test]
fn a_prune_that_moves_everything_does_not_disturb_a_mount() {
    let site = Site::new();
    for i in 0..30u64 {
        site.write(&format!("f{i}"), &noise(i, 400_000));
    }
    let first = site.backup();
    // Every second file goes: packs are half in use, and what is left is moved.
    for i in (0..30).step_by(2) {
        fs::remove_file(site.src().join(format!("f{i}"))).unwrap();
    }
    site.backup();
    let mounted = Mount::new(&site, &site.mnt(), &[]);
    let at = canonical(&mounted);
    site.run(&["forget", "--prune", "--release-held", &first]).ok();
    let pruned = site.run(&["--json", "prune", "--max-unused", "0"]).ok();
    drop(pruned);
    same(&site.src(), &at, &[]);
    mounted.unmount();
}

#[test]
fn a_mount_in_the_source_is_left_out() {
    let site = Site::filled();
    // A blank, as the kernel's table escapes it.
    let at = site.src().join("of the repository");
    fs::create_dir(&at).unwrap();
    let mount = Mount::new(&site, &at, &[]);
    let listed = |site: &Site| {
        let ran = site.run(&["backup", ".", "--source", "home"]).ok();
        assert!(ran.err.contains("of the repository is the mount of a repository: left out"), "{}", ran.err);
        site.run(&["ls", "latest", "--source", "home", "-R"]).ok().text()
    };
    let found = listed(&site);
    assert!(found.contains("dir/small") && !found.contains("of the repository"), "{found}");
    for named in [at.clone(), at.join("hosts"), at.join("hosts/web/data/latest")] {
        site.run(&["backup", named.to_str().unwrap()])
            .refused(1, &["the mount of a repository", named.to_str().unwrap()]);
    }
    // Also when nobody answers there any more.
    mount.process.signal(Signal::SIGKILL);
    eventually("the process ends", || fs::read_dir(&at).is_err());
    assert!(!listed(&site).contains("of the repository"));
}

/// Runs a script as an ordinary user, in `at`.
fn as_nobody(script: &str, at: &Path) -> (bool, String) {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "bash", "-c", script]).current_dir(at);
    let ran = Running::start(command).wait();
    (ran.code == 0, ran.text())
}

#[test]
fn others_see_what_they_may() {
    let site = Site::new();
    site.write("open", b"for all");
    site.write("shut", b"for root");
    site.write("acl", b"for one more");
    site.write("theirs", b"their own");
    sh(
        "chmod 755 .; chmod 644 open; chmod 600 shut acl theirs; chown 65534:65534 theirs; setfacl -m u:65534:r acl",
        &site.src(),
    );
    site.backup();
    let look = "cd hosts/web/data/latest && for f in open shut acl theirs; do cat $f 2>/dev/null; echo; done";

    let mounted = Mount::new(&site, &site.mnt(), &[]);
    assert!(!as_nobody("ls hosts", &mounted.at).0, "by default nobody else gets in");
    mounted.unmount();

    let mounted = Mount::new(&site, &site.mnt(), &["--allow-other"]);
    assert_eq!(as_nobody(look, &mounted.at).1, "for all\n\nfor one more\ntheir own\n");
    same(&site.src(), &canonical(&mounted), &[]);
    mounted.unmount();

    let mounted = Mount::new(&site, &site.mnt(), &["--allow-other", "--uid", "65534", "--gid", "12", "--umask", "227"]);
    assert_eq!(as_nobody(look, &mounted.at).1, "for all\nfor root\nfor one more\ntheir own\n");
    for name in ["open", "shut", "theirs", "."] {
        let meta = fs::metadata(canonical(&mounted).join(name)).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (65534, 12), "{name}");
        assert_eq!(meta.mode() & 0o227, 0, "{name}: {:o}", meta.mode());
    }
    mounted.unmount();
}

#[test]
fn many_readers_at_once_get_the_right_bytes() {
    let site = Site::new();
    for i in 0..60u64 {
        site.write(&format!("d{}/f{i}", i % 5), &noise(i, 150_000 + i as usize * 1000));
    }
    site.backup();
    let mounted = Mount::new(&site, &site.mnt(), &[]);
    let at = canonical(&mounted);
    let src = site.src();
    std::thread::scope(|scope| {
        for n in 0..8u64 {
            let (at, src) = (&at, &src);
            scope.spawn(move || {
                for i in 0..60u64 {
                    let i = (i * 7 + n * 13) % 60;
                    let name = format!("d{}/f{i}", i % 5);
                    let offset = (i * n * 997) % 100_000;
                    let (a, b) = (File::open(at.join(&name)).unwrap(), File::open(src.join(&name)).unwrap());
                    let (mut one, mut two) = (vec![0; 40_000], vec![0; 40_000]);
                    a.read_exact_at(&mut one, offset).unwrap();
                    b.read_exact_at(&mut two, offset).unwrap();
                    assert!(one == two, "{name} at {offset}");
                }
            });
        }
    });
    mounted.unmount();
}

#[test]
fn a_name_that_is_shown_stays() {
    let site = Site::filled();
    // Often of one second; then the second has its id in its name.
    let (first, second) = (site.backup(), site.backup());
    let mounted = Mount::new(&site, &site.mnt(), &[]);
    let ids = mounted.at.join("ids");
    let (before, id) = (canonical(&mounted), ids.join(&second[..8]));
    assert_eq!(fs::canonicalize(&id).unwrap(), before);
    site.run(&["forget", &first]).ok();
    eventually("the forgotten one goes", || !ids.join(&first[..8]).exists());
    assert_eq!((canonical(&mounted), fs::canonicalize(&id).unwrap()), (before.clone(), before));
    mounted.unmount();
}
