//! What goes wrong while a source is read, and what does not for that.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use repo::capture::{Marker, Options, backup};
use repo::error::Kind;
use repo::monitor::Recording;

use crate::site::{Site, content, listing};

/// Takes a lease on a file, as Samba does for its clients: whoever opens the file waits until it is given back.
fn lease(path: &Path) -> File {
    // Its breaking is told by a signal that would end the process.
    // SAFETY: ignoring a signal installs no handler.
    unsafe { nix::sys::signal::signal(nix::sys::signal::SIGIO, nix::sys::signal::SigHandler::SigIgn) }.unwrap();
    let file = File::options().read(true).write(true).open(path).unwrap();
    // SAFETY: the descriptor is open; the argument is a plain number.
    let taken = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) };
    assert_eq!(taken, 0, "no lease: {}", std::io::Error::last_os_error());
    file
}

/// Does `then` while the backup waits for the leased file, and lets the file go after that.
fn while_leased<T: Send>(leased: &Path, work: impl FnOnce() -> T + Send, then: impl FnOnce()) -> T {
    let held = lease(leased);
    std::thread::scope(|threads| {
        let working = threads.spawn(work);
        // The kernel says when somebody wants it: the lease is then due to be one for nothing at all.
        let begun = Instant::now();
        // SAFETY: as above.
        while unsafe { libc::fcntl(held.as_raw_fd(), libc::F_GETLEASE) } == libc::F_WRLCK {
            assert!(begun.elapsed() < Duration::from_secs(20), "the backup does not ask for the file");
            std::thread::sleep(Duration::from_millis(10));
        }
        // What comes after the file has been looked up meanwhile.
        std::thread::sleep(Duration::from_millis(500));
        assert!(!working.is_finished(), "the backup did not wait for the file");
        then();
        drop(held);
        working.join().unwrap()
    })
}

fn options(site: &Site, names: &[&str]) -> Options {
    let paths = names.iter().map(|name| site.src().join(name)).collect();
    Options { paths, read_concurrency: Some(1), ..site.options() }
}

#[test]
fn a_leased_file_is_waited_for() {
    let site = Site::new();
    std::fs::write(site.src().join("open"), b"what a client of Samba works on").unwrap();
    let repo = site.open();
    let work = || backup(&repo, options(&site, &[""]), &Recording::default());
    let outcome = while_leased(&site.src().join("open"), work, || ()).unwrap();
    assert_eq!(outcome.stats.errors, 0);
    let all = listing(&repo, &outcome, &site.src());
    assert_eq!(content(&repo, &all[&b"open"[..]]), b"what a client of Samba works on");
}

#[test]
fn a_leased_marker_is_waited_for() {
    let site = Site::new();
    std::fs::create_dir(site.src().join("cache")).unwrap();
    std::fs::write(site.src().join("cache/large"), b"what nobody wants").unwrap();
    let marker = site.src().join("cache/MARK");
    std::fs::write(&marker, b"mark of a client of Samba").unwrap();
    let repo = site.open();
    let marked = |text: &[u8]| Options { markers: vec![Marker::parse(text)], ..site.options() };
    let work = || backup(&repo, marked(b"MARK:mark of"), &Recording::default());
    let outcome = while_leased(&marker, work, || ()).unwrap();
    let names = |outcome| listing(&repo, outcome, &site.src()).into_keys().collect::<Vec<_>>();
    assert_eq!(names(&outcome), [&b""[..], b"cache", b"cache/MARK"]);
    let held = lease(&marker);
    let begun = Instant::now();
    let stop = Recording::default();
    std::thread::scope(|threads| {
        let working = threads.spawn(|| backup(&repo, marked(b"MARK:mark of"), &stop));
        std::thread::sleep(Duration::from_millis(700));
        stop.cancel();
        assert_eq!(working.join().unwrap().err().unwrap().kind(), Kind::Interrupted);
    });
    assert!(begun.elapsed() < Duration::from_secs(20), "the wait for a marker can be stopped");
    drop(held);
}

#[test]
fn a_named_file_that_vanishes_before_it_is_read_is_an_error() {
    let site = Site::new();
    let names = ["a", "b", "c"];
    let write = || names.iter().for_each(|name| std::fs::write(site.src().join(name), b"some content").unwrap());
    let repo = site.open();
    let vanish = |targets: &[&str], gone: &[&str]| {
        write();
        let monitor = Recording::default();
        let work = || backup(&repo, Options { allow_changed_paths: true, ..options(&site, targets) }, &monitor);
        let remove = || gone.iter().for_each(|name| std::fs::remove_file(site.src().join(name)).unwrap());
        (while_leased(&site.src().join("a"), work, remove), monitor.lines())
    };
    // Not named: a notice.
    let (outcome, lines) = vanish(&[""], &["c"]);
    assert_eq!(outcome.unwrap().stats.errors, 0);
    assert!(lines.iter().any(|line| line.starts_with("Notice") && line.contains("vanished")), "{lines:?}");
    let (outcome, lines) = vanish(&["a", "c"], &["c"]);
    let outcome = outcome.unwrap();
    assert!(outcome.snapshot.is_some() && outcome.stats.errors == 1 && outcome.stats.files == 1, "{lines:?}");
    // Nothing is left of what was named.
    let recorded = repo.log.state().snapshots.len();
    let (outcome, _) = vanish(&["a", "c"], &["a", "c"]);
    assert_eq!(outcome.err().unwrap().kind(), Kind::NotFound);
    assert_eq!(repo.log.state().snapshots.len(), recorded);
}

/// Sets so many attributes that the system can no longer list them.
fn flood(path: &Path, namespace: &str) {
    for i in 0..1500 {
        let name = format!("{namespace}.{i:04}{}", "x".repeat(60));
        xattr::set(path, name, b"").unwrap_or_else(|e| panic!("attribute {i} of {path:?}: {e}"));
    }
    assert!(xattr::list(path).is_err());
}

#[test]
fn attributes_that_cannot_be_read_cost_nothing_else() {
    let site = Site::new();
    // A filesystem without a bound on attributes.
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let top = scratch.path();
    std::fs::create_dir(top.join("dir")).unwrap();
    for name in ["dir/inside", "file"] {
        std::fs::write(top.join(name), b"worth having").unwrap();
    }
    symlink("file", top.join("link")).unwrap();
    flood(&top.join("dir"), "user");
    flood(&top.join("file"), "user");
    flood(&top.join("link"), "trusted");
    std::thread::sleep(Duration::from_millis(50));
    let repo = site.open();
    // Also when nothing has changed since: what is missing does not become a secret.
    for round in 0..2 {
        let monitor = Recording::default();
        let outcome = backup(&repo, Options { paths: vec![top.to_owned()], ..site.options() }, &monitor).unwrap();
        assert_eq!(outcome.stats.errors, 3, "round {round}: {:?}", monitor.lines());
        let all = listing(&repo, &outcome, top);
        for name in ["dir/inside", "file"] {
            assert_eq!(content(&repo, &all[name.as_bytes()]), b"worth having");
        }
        assert_eq!(all[&b"link"[..]].target, b"file");
    }
}

#[test]
fn others_commits_are_waited_for_and_the_user_may_stop_that() {
    for stop in [false, true] {
        let site = Site::new();
        std::fs::write(site.src().join("file"), b"content").unwrap();
        let (repo, monitor) = (site.open(), Recording::default());
        let begun = Instant::now();
        let monitor = &monitor;
        let told = move || monitor.lines().iter().any(|line| line.contains("waiting for another process"));
        let outcome = std::thread::scope(|threads| {
            let work = || backup(&repo, options(&site, &[""]), monitor);
            // By then the session has begun.
            let then = || {
                let commit = repo.locks.commit(Duration::from_secs(10)).unwrap();
                threads.spawn(move || {
                    while !told() {
                        assert!(begun.elapsed() < Duration::from_secs(40), "nothing was said of the wait");
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    if stop {
                        monitor.cancel();
                        std::thread::sleep(Duration::from_secs(4));
                    }
                    drop(commit);
                });
            };
            while_leased(&site.src().join("file"), work, then)
        });
        if stop {
            assert_eq!(outcome.err().unwrap().kind(), Kind::Interrupted);
        } else {
            assert!(outcome.unwrap().snapshot.is_some());
        }
    }
}
