//! Every kind of bad input by name: the documented exit code, one line that says what and where and what to do,
//! nothing lost, no panic, no hang.

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use support::{Mount, PASSWORD, Ran, Running, Site, Undo, copy, edit, files, saved};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_wrong_password_is_12() {
    let site = Site::filled();
    for words in [vec!["snapshots"], vec!["backup", "."], vec!["check"], vec!["mount", text(&site.mnt())]] {
        site.with_password(&words, "not the password").refused(12, &[text(&site.repo())]);
    }
    site.with_password(&["snapshots"], PASSWORD).ok();
    // None at all, and nobody to ask.
    let ran = Running::start(site.program(&["snapshots"])).wait();
    assert_eq!(ran.code, 2, "{}", ran.err);
    let listed = site.run(&["key", "list"]).ok();
    assert!(!listed.text().contains(PASSWORD));
}

#[test]
fn where_there_is_no_repository_it_is_10() {
    let site = Site::bare();
    let commands: [&[&str]; 6] =
        [&["snapshots"], &["backup", "."], &["check"], &["prune"], &["rebuild-index"], &["mount", "../mnt"]];
    for prepare in
        [|_: &Path| {}, |p: &Path| fs::create_dir(p).unwrap(), |p: &Path| fs::write(p.join("x"), "").unwrap()]
    {
        prepare(&site.repo());
        for words in commands {
            site.run(words).refused(10, &[text(&site.repo())]);
        }
    }
    // Nothing was made there either.
    assert_eq!(files(&site.repo()), [site.repo().join("x")]);
    site.with_password(&["init"], PASSWORD).refused(1, &[text(&site.repo())]);
    fs::remove_dir_all(site.repo()).unwrap();
    fs::write(site.repo(), "a file").unwrap();
    for words in commands {
        site.run(words).refused(10, &[text(&site.repo())]);
    }
}

#[test]
fn what_may_not_be_looked_at_is_not_called_absent() {
    let site = Site::filled();
    // A link to itself fails for root, too.
    fs::rename(site.repo(), site.path().join("away")).unwrap();
    symlink("repo", site.repo()).unwrap();
    site.run(&["snapshots"]).refused(1, &[text(&site.repo())]);
}

#[test]
fn a_filesystem_that_does_not_answer_is_no_matter_of_permission() {
    let site = Site::filled();
    let mut mounted = Mount::new(&site, &site.mnt(), &[]);
    // Its server has gone; what is mounted stays and answers nothing.
    mounted.process.signal(nix::sys::signal::Signal::SIGKILL);
    support::eventually("the mount's server ends", || mounted.process.ended());
    assert_eq!(fs::metadata(site.mnt().join("repo")).unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
    let repo = site.mnt().join("repo");
    for words in [&["snapshots"][..], &["backup", "."]] {
        let ran = site.run(&[&["-r", text(&repo)], words].concat()).refused(1, &[text(&repo)]);
        assert!(ran.err.contains("; the filesystem does not answer: check that its disk or server"), "{}", ran.err);
    }
}

#[test]
fn a_newer_format_is_refused_untouched() {
    let site = Site::filled();
    let config = site.repo().join("config");
    edit(&config, |bytes| {
        let version = u16::from_le_bytes([bytes[8], bytes[9]]) + 1;
        bytes[8..10].copy_from_slice(&version.to_le_bytes());
        let body = bytes.len() - 32;
        let sum = checksum(&bytes[..body]);
        bytes[body..].copy_from_slice(&sum);
    });
    let before = files(&site.repo());
    for words in [vec!["snapshots"], vec!["backup", "."], vec!["check"], vec!["prune"], vec!["key", "list"]] {
        let ran = site.run(&words).refused(1, &[text(&config)]);
        assert!(ran.err.contains("newer"), "{}", ran.err);
    }
    assert_eq!(files(&site.repo()), before);
}

/// The checksum at the end of a config, as docs/format.md says.
fn checksum(body: &[u8]) -> [u8; 32] {
    blake3::derive_key("packmule 2026-11-23 v1 checksum: small file", body)
}

#[test]
fn an_older_copy_is_noticed_by_who_saw_a_newer_one() {
    let site = Site::filled();
    let old = site.path().join("old");
    copy(&site.repo(), &old);
    site.write("later", b"later");
    site.backup();
    fs::remove_dir_all(site.repo()).unwrap();
    copy(&old, &site.repo());
    let ran = site.run(&["backup", "."]).refused(1, &[text(&site.repo())]);
    assert!(ran.err.contains("older than what this machine has seen"), "{}", ran.err);
    // Reading goes on, and says so.
    let listed = site.run(&["snapshots"]).ok();
    assert!(listed.err.contains("older than what this machine has seen"), "{}", listed.err);
    site.run(&["prune"]).refused(1, &[]);
    site.run(&["forget", "latest"]).refused(1, &[]);
    let checked = site.run(&["check"]).exits(5).text();
    let said =
        format!("damaged: this repository is older than what this machine has seen of it: {}; ", text(&site.repo()));
    assert!(checked.contains(&said), "{checked}");
    for words in [vec!["status"], vec!["-q", "status"]] {
        let told = site.run(&words).exits(5).text();
        assert!(told.lines().any(|l| l.starts_with("ROLLED BACK: ")), "{told}");
    }
    let told = site.run(&["--json", "status"]).exits(5).json().pop().unwrap();
    assert_eq!(told["rolled_back"], true);
    // As the remedy says.
    fs::remove_dir_all(site.home().join(".cache/packmule/seen")).unwrap();
    site.backup();
    site.run(&["check"]).ok();
    site.run(&["status"]).ok();
}

// Sources.

fn summary(ran: &Ran) -> serde_json::Value {
    ran.json().into_iter().find(|m| m["message_type"] == "summary").unwrap()
}

#[test]
fn a_source_may_be_a_file_a_broken_link_or_empty() {
    let site = Site::new();
    site.write("file", b"only this");
    symlink("nowhere", site.src().join("broken")).unwrap();
    fs::create_dir(site.src().join("empty")).unwrap();
    for name in ["file", "broken", "empty"] {
        let ran = site.run(&["--json", "backup", name, "--source", name]).ok();
        let id = saved(&ran);
        let target = site.path().join(format!("to-{name}"));
        site.run(&["restore", &id, "--target", text(&target)]).ok();
        let restored = target.join(name);
        match name {
            "file" => assert_eq!(fs::read(restored).unwrap(), b"only this"),
            "broken" => assert_eq!(fs::read_link(restored).unwrap(), Path::new("nowhere")),
            _ => assert_eq!(fs::read_dir(restored).unwrap().count(), 0),
        }
    }
    // As the snapshot's root.
    let empty = site.src().join("empty");
    let mut command = site.command(&["--json", "backup", ".", "--source", "nothing"]);
    command.current_dir(&empty);
    let ran = Running::start(command).wait().ok();
    assert_eq!(summary(&ran)["total_files_processed"], 0);
    site.restores(&saved(&ran), &empty);
    site.run(&["check", "--read-data"]).ok();
}

#[test]
fn a_source_that_is_not_there_is_said() {
    let site = Site::new();
    site.write("file", b"x");
    let none = site.run(&["backup", "absent"]);
    assert_ne!(none.code, 0);
    assert!(none.err.contains("absent"), "{}", none.err);
    // One of two: the rest is saved, and it shows.
    let some = site.run(&["--json", "backup", "file", "absent"]).exits(3);
    assert!(some.err.contains("absent"), "{}", some.err);
    saved(&some);
}

#[test]
fn the_repository_is_no_source() {
    let site = Site::filled();
    for source in [site.repo(), site.repo().join("packs")] {
        let ran = site.run(&["backup", text(&source)]);
        assert_ne!(ran.code, 0, "{}", ran.err);
        ran.refused(1, &[text(&source)]);
    }
    // What holds it is one: without it.
    let ran = site.run(&["--json", "backup", text(site.path()), "--source", "around"]).ok();
    let listed = site.run(&["ls", &saved(&ran), "-R"]).ok().text();
    assert!(listed.contains("src/dir/small") && !listed.contains("packs/"), "{listed}");
    // Also when it is called otherwise.
    let link = site.path().join("link");
    symlink(site.repo(), &link).unwrap();
    let mut inside = site.command(&["backup", "."]);
    inside.current_dir(&link);
    Running::start(inside).wait().refused(1, &[]);
}

#[test]
fn a_command_that_fails_saves_nothing() {
    let site = Site::new();
    let ran = site.run(&["backup", "--stdin-from-command", "--", "sh", "-c", "echo half; exit 3"]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    let ran = site.run(&["backup", "--stdin-from-command", "--", "/no/such/program"]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(ran.err.contains("/no/such/program"), "{}", ran.err);
    assert!(site.snapshots().is_empty());
}

// Mount points.

#[test]
fn a_mount_point_must_be_an_empty_directory_elsewhere() {
    let site = Site::filled();
    fs::write(site.mnt().join("x"), "").unwrap();
    site.run(&["mount", text(&site.mnt())]).refused(1, &["not empty", text(&site.mnt())]);
    site.run(&["mount", "--background", text(&site.mnt())]).refused(1, &["not empty", text(&site.mnt())]);
    for at in [site.repo(), site.repo().join("tmp"), site.path().to_owned()] {
        site.run(&["mount", text(&at)]).refused(1, &[text(&at)]);
    }
    let link = site.path().join("link");
    symlink(site.repo().join("tmp"), &link).unwrap();
    site.run(&["mount", text(&link)]).refused(1, &["overlap"]);
    let absent = site.path().join("absent");
    site.run(&["mount", text(&absent)]).refused(1, &[text(&absent), "make an empty directory"]);
    let file = site.mnt().join("x");
    site.run(&["mount", text(&file)]).refused(1, &[text(&file), "make an empty directory"]);
    fs::remove_file(&file).unwrap();
    // One mount over another would hide it.
    let mounted = Mount::new(&site, &site.mnt(), &[]);
    site.run(&["mount", text(&site.mnt())]).refused(1, &["not empty"]);
    site.run(&["mount", text(&site.mnt().join("hosts"))]).refused(1, &[]);
    mounted.unmount();
    let ran = site.run(&["umount", text(&site.mnt())]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    let _undo = Undo(site.mnt());
}

#[test]
fn restore_targets_and_names_that_make_no_sense() {
    let site = Site::filled();
    let target = site.path().join("target");
    fs::write(&target, "a file").unwrap();
    let ran = site.run(&["restore", "latest", "--target", text(&target)]);
    assert!([1, 2].contains(&ran.code) && ran.err.contains(text(&target)), "{}", ran.err);
    let to = site.path().join("to");
    for name in ["ffffffff", "latest~9"] {
        let ran = site.run(&["restore", name, "--target", text(&to)]);
        assert_eq!(ran.code, 1, "{}", ran.err);
    }
    let ran = site.run(&["restore", "latest:/absent", "--target", text(&to)]);
    assert!(ran.code == 1 && ran.err.contains("absent"), "{}", ran.err);
    let ran = site.run(&["restore", "latest", "--target", text(&site.repo())]);
    assert_eq!(ran.code, 1, "restored over the repository: {}", ran.err);
    site.run(&["check", "--read-data"]).ok();
}

#[test]
fn a_restore_around_the_repository_leaves_it_alone() {
    let site = Site::new();
    // A directory of the repository's name held something else when it was captured.
    let whole = site.path().join("whole");
    fs::create_dir_all(whole.join("repo/packs")).unwrap();
    fs::write(whole.join("repo/config"), "another kind of config").unwrap();
    fs::write(whole.join("file"), "a file").unwrap();
    let mut command = site.command(&["--json", "backup", ".", "--source", "whole"]);
    command.current_dir(&whole);
    let with = saved(&Running::start(command).wait().ok());
    site.write("some/file", b"content");
    let without = site.backup();
    let target = site.path().join("target");
    fs::create_dir(&target).unwrap();
    fs::rename(site.repo(), target.join("repo")).unwrap();
    symlink(target.join("repo"), site.repo()).unwrap();
    let before = files(&target.join("repo"));
    for (id, code) in [(&without, 0), (&with, 1)] {
        let ran = site.run(&["restore", id, "--target", text(&target), "--delete"]).exits(code);
        assert!(ran.err.contains("repository itself"), "{}", ran.err);
        let left = files(&target.join("repo"));
        assert!(before.iter().all(|f| left.contains(f)), "{}", ran.err);
    }
    for inside in ["repo", "repo/packs", "repo/new"] {
        let at = target.join(inside);
        site.run(&["restore", &with, "--target", text(&at)]).refused(1, &["inside the repository", text(&at)]);
    }
    site.run(&["check", "--read-data"]).ok();
}

// The clock.

/// A library that moves the clock of a program by `PACKMULE_TEST_SHIFT` seconds, and has nobody keep it right.
const SHIFT: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/timex.h>
#include <time.h>
int clock_gettime(clockid_t id, struct timespec *ts) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int done = real(id, ts);
    const char *by = getenv("PACKMULE_TEST_SHIFT");
    if (id == CLOCK_REALTIME && by) ts->tv_sec += atol(by);
    return done;
}
int adjtimex(struct timex *t) { t->status |= STA_UNSYNC; return TIME_ERROR; }
"#;

#[test]
fn a_clock_ten_years_off_deletes_nothing() {
    let site = Site::filled();
    let (code, library) = (site.path().join("shift.c"), site.path().join("shift.so"));
    fs::write(&code, SHIFT).unwrap();
    let built = std::process::Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o", text(&library), text(&code), "-ldl"])
        .status()
        .expect("these tests need a C compiler");
    assert!(built.success());
    let at = |shift: i64, words: &[&str]| {
        let mut command = site.command(words);
        command.env("LD_PRELOAD", &library).env("PACKMULE_TEST_SHIFT", shift.to_string());
        Running::start(command).wait()
    };
    let backup = ["--json", "backup", ".", "--source", "data", "--host", "web"];
    let decade = 10 * 365 * 86_400;
    let year = |ran: &Ran| ran.json().last().unwrap()["time"].as_str().unwrap()[..4].parse::<i32>().unwrap();
    let now = year(&site.run(&["--json", "snapshots"]).ok());
    for shift in [decade, -decade] {
        let id = saved(&at(shift, &backup).ok());
        let listed = at(shift, &["--json", "snapshots", &id]).ok();
        assert_eq!((year(&listed) - now).signum(), shift.signum() as i32, "the library moves no clock");
        for words in [
            vec!["prune"],
            vec!["prune", "--release-held"],
            vec!["forget", "--keep-last", "1", "--prune"],
            vec!["forget", &id],
        ] {
            at(shift, &words).refused(1, &["--accept-clock"]);
        }
        at(shift, &["check"]).ok();
        at(shift, &["rebuild-index"]).ok();
        // The right clock is not led astray.
        site.run(&["prune"]).ok();
        site.restores(&id, &site.src());
    }
    assert_eq!(site.snapshots().len(), 4);
    site.run(&["forget", "--keep-last", "3"]).ok();
    // What is said on purpose counts, and can be taken back.
    at(decade, &["forget", "--keep-last", "2", "--accept-clock"]).ok();
    at(decade, &["prune"]).ok();
    site.run(&["prune"]).refused(1, &["--accept-clock"]);
    site.backup();
    site.run(&["prune", "--accept-clock"]).ok();
    site.run(&["prune"]).ok();
    site.run(&["check", "--read-data"]).ok();
}

#[test]
fn a_file_that_says_it_is_empty_is_read_and_reads_back() {
    let site = Site::new();
    let version = fs::read("/proc/version").unwrap();
    site.run(&["backup", "/proc/version", "/proc/filesystems", "--source", "data", "--host", "web"]).ok();
    assert_eq!(site.run(&["dump", "latest", "/proc/version"]).ok().out, version);
    let target = site.path().join("back");
    site.run(&["restore", "latest:/proc", "--verify", "--target", text(&target)]).ok();
    assert_eq!(fs::read(target.join("version")).unwrap(), version);
    assert_eq!(fs::read(target.join("filesystems")).unwrap(), fs::read("/proc/filesystems").unwrap());
    let mounted = Mount::new(&site, &site.mnt(), &[]);
    let found = mounted.at.join("hosts/web/data/latest/proc/version");
    let found = if found.exists() { found } else { mounted.at.join("hosts/web/data/latest/version") };
    assert_eq!(found.metadata().unwrap().len(), version.len() as u64);
    assert_eq!(fs::read(found).unwrap(), version);
    mounted.unmount();
    site.run(&["check", "--read-data"]).ok();
}
