//! A mount's life: how it comes up, ends and is cut off.

mod support;

use std::fs::{self, File};
use std::os::unix::ffi::OsStringExt;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use support::{Mount, Running, Site, Undo, canonical, eventually, mounts, names};

#[test]
fn signals_and_unmounts_leave_no_dead_mount() {
    let site = Site::filled();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        for open in [false, true] {
            let mounted = Mount::new(&site, &site.mnt(), &[]);
            let held = open.then(|| File::open(canonical(&mounted).join("large")).unwrap());
            mounted.process.signal(signal);
            mounted.ends(0);
            drop(held);
        }
    }
    // Signals that end others do not take the mount from under a running copy.
    let mounted = Mount::new(&site, &site.mnt(), &[]);
    mounted.process.signal(Signal::SIGHUP);
    mounted.process.signal(Signal::SIGUSR1);
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(mounted.is_listed() && mounted.latest().join("large").exists());
    // Ours, with a file open; the shell's would say that it is busy.
    let held = File::open(canonical(&mounted).join("large")).unwrap();
    let out = Command::new("umount").arg(&mounted.at).stderr(Stdio::null()).status().unwrap();
    assert!(!out.success() && mounted.is_listed());
    site.run(&["umount", mounted.at.to_str().unwrap()]).ok();
    assert!(!mounted.is_listed());
    drop(held);
    mounted.ends(0);
    let mounted = Mount::new(&site, &site.mnt(), &[]);
    let out = Command::new("umount").arg("-l").arg(&mounted.at).status().unwrap();
    assert!(out.success());
    mounted.ends(0);
    let mounted = Mount::new(&site, &site.mnt(), &[]);
    mounted.unmount();
}

#[test]
fn a_signal_while_it_comes_up_is_not_lost_and_leaves_no_dead_mount() {
    let site = Site::filled();
    let at = site.mnt();
    let _undo = Undo(at.clone());
    for n in 0..20u64 {
        let process = site.start(&["mount", at.to_str().unwrap()]);
        while !mounts().contains(&at) {
            std::thread::yield_now();
        }
        std::thread::sleep(std::time::Duration::from_micros(100 * n));
        process.signal(if n % 2 == 0 { Signal::SIGTERM } else { Signal::SIGINT });
        process.wait().exits(0);
        assert!(!mounts().contains(&at), "after {n}");
    }
}

/// Processes that name the site on their command line.
fn serving(site: &Site) -> usize {
    let wanted = site.mnt().into_os_string().into_vec();
    let mut found = 0;
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        found += usize::from(line.split(|&b| b == 0).any(|word| word == wanted));
    }
    found
}

#[test]
fn in_the_background_it_returns_when_ready() {
    let site = Site::filled();
    let at = site.mnt();
    let _undo = Undo(at.clone());
    for words in [vec!["mount", "--background"], vec!["--json", "mount", "--background"]] {
        // An index to be built is something to say, and nothing that readiness waits for.
        fs::remove_dir_all(site.repo().join("index")).unwrap();
        let mut all = words.clone();
        all.push(at.to_str().unwrap());
        let ran = site.run(&all).ok();
        match words[0] {
            "--json" => assert_eq!(
                (&ran.json()[0]["message_type"], &ran.json()[0]["path"]),
                (&"mounted".into(), &at.to_str().into())
            ),
            _ => assert!(ran.text().contains("mounted on"), "{}", ran.text()),
        }
        assert!(at.join("hosts/web/data/latest/large").exists());
        assert_eq!(serving(&site), 1);
        site.run(&["umount", at.to_str().unwrap()]).ok();
        assert!(!mounts().contains(&at));
        eventually("the server ends", || serving(&site) == 0);
    }
    // What goes wrong there is said here.
    let ran = site.with_password(&["mount", "--background", at.to_str().unwrap()], "not it");
    ran.refused(12, &[site.repo().to_str().unwrap()]);
    assert_eq!(serving(&site), 0);
}

#[test]
fn in_the_background_a_relative_repository_is_still_found() {
    let site = Site::filled();
    let at = site.mnt();
    let _undo = Undo(at.clone());
    let log = site.path().join("mount.log");
    let words = ["-r", "../repo", "--index-dir", "../index", "mount", "--background", "--log", "../mount.log"];
    let words = [&words[..], &[at.to_str().unwrap()]].concat();
    site.run(&words).ok();
    let shown = || names(&at.join("hosts/web/data")).len();
    let before = shown();
    site.write("appeared", b"new");
    site.backup();
    eventually("the new snapshot shows", || shown() == before + 1);
    assert!(at.join("hosts/web/data/latest/appeared").exists());

    // Its log names what cannot be read.
    for pack in support::files(&site.repo().join("packs")) {
        support::edit(&pack, |bytes| bytes.fill(0));
    }
    site.run(&["umount", at.to_str().unwrap()]).ok();
    eventually("the server ends", || serving(&site) == 0);
    site.run(&words).ok();
    let read = fs::read(at.join("hosts/web/data/latest/large")).unwrap_err();
    assert_eq!(read.raw_os_error(), Some(libc::EIO));
    eventually("the log names it", || fs::read_to_string(&log).unwrap().contains("hosts/web/data/"));
    site.run(&["umount", at.to_str().unwrap()]).ok();
}

#[test]
fn a_service_manager_is_told_when_it_is_ready() {
    let site = Site::filled();
    let socket = site.path().join("notify");
    let listener = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    listener.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
    let at = site.mnt();
    let _undo = Undo(at.clone());
    let mut command = site.command(&["mount", at.to_str().unwrap()]);
    command.env("NOTIFY_SOCKET", &socket);
    let process = Running::start(command);
    let mut said = [0; 100];
    let n = listener.recv(&mut said).unwrap();
    assert_eq!(&said[..n], b"READY=1");
    assert!(at.join("hosts/web/data/latest/large").exists());
    process.signal(Signal::SIGTERM);
    process.wait().ok();
}

#[test]
fn a_repository_that_is_away_is_an_error_of_reading_until_it_is_back() {
    let site = Site::filled();
    let mounted = Mount::new(&site, &site.mnt(), &[]);
    let history = mounted.at.join("hosts/web/data");
    let names: Vec<_> = names(&history).into_iter().filter(|n| n != "latest").collect();
    let away = site.path().join("away");
    fs::rename(site.repo(), &away).unwrap();
    // Neither has been looked into yet.
    for name in &names {
        let e = fs::read(history.join(name).join("large")).unwrap_err();
        assert_eq!(e.raw_os_error(), Some(libc::EIO), "{name}: {e}");
    }
    fs::rename(&away, site.repo()).unwrap();
    for name in &names {
        assert!(fs::read(history.join(name).join("large")).unwrap() == fs::read(site.src().join("large")).unwrap());
    }
    mounted.unmount();
}

#[test]
fn a_mount_whose_server_was_killed_is_explained() {
    let site = Site::filled();
    let mounted = Mount::new(&site, &site.mnt(), &[]);
    let at = mounted.at.clone();
    // The kernel goes on showing what it has listed.
    assert_eq!(fs::read_dir(&at).unwrap().count(), 5);
    mounted.process.signal(Signal::SIGKILL);
    eventually("the server dies", || nix::sys::statfs::statfs(&at).is_err());
    let dir = at.to_str().unwrap();
    site.run(&["mount", dir]).refused(1, &["has died", "packmule umount", dir]);
    site.run(&["umount", dir]).ok();
    assert!(!mounts().contains(&at));
    let again = Mount::new(&site, &at, &[]);
    again.unmount();
}
