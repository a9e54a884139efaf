//! Faults around the program: no space, no way to write, a repository that vanishes, others at work, interruptions.
//! Nothing lost, no panic, no hang, and one line that says what to do.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use support::{Mount, Ran, Running, Site, Undo, copy, eventually, files, mount, noise, same, saved};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn summary(ran: &Ran) -> serde_json::Value {
    ran.json().into_iter().find(|m| m["message_type"] == "summary").unwrap()
}

// Space.

/// A repository on a filesystem of this many MiB.
fn small_disk(mib: u32) -> Site {
    let mut site = Site::new();
    let at = site.path().join("small");
    fs::create_dir(&at).unwrap();
    let undo = mount(&["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"], &at);
    site.undo.push(undo);
    copy(&site.repo(), &at.join("repo"));
    let mut reserve = std::process::Command::new("fallocate");
    assert!(reserve.args(["-l", "64M"]).arg(at.join("repo/reserve")).status().unwrap().success());
    fs::remove_dir_all(site.repo()).unwrap();
    symlink(at.join("repo"), site.repo()).unwrap();
    site
}

/// Takes all the space that is left.
fn fill(dir: &Path) {
    let file = File::create(dir.join("filler")).unwrap();
    let mut at = 0;
    for block in [1 << 20, 4096, 1] {
        let zeros = vec![1; block];
        while let Ok(n) = file.write_at(&zeros, at) {
            at += n as u64;
        }
    }
}

#[test]
fn a_disk_full_in_a_backup_loses_nothing() {
    // 64 MiB are the reserve's.
    let site = small_disk(112);
    site.write("first", &noise(1, 8 << 20));
    let first = site.backup();
    let kept = site.path().join("kept");
    copy(&site.src(), &kept);
    site.write("huge", &noise(2, 90 << 20));
    let ran = site.run(&["backup", ".", "--source", "data", "--host", "web"]).refused(14, &["packmule prune"]);
    assert!(ran.err.contains("repo") || ran.err.contains("small"), "{}", ran.err);
    assert_eq!(site.snapshots(), std::slice::from_ref(&first));
    site.restores(&first, &kept);
    site.run(&["check", "--read-data"]).ok();
    // Deleting works although nothing else fits, and gives the space back.
    site.write("huge", b"");
    site.run(&["prune", "--release-held"]).ok();
    site.write("huge", &noise(3, 10 << 20));
    let next = site.backup();
    site.restores(&next, &site.src());
    site.run(&["check", "--read-data"]).ok();
}

#[test]
fn where_there_is_no_room_for_a_repository_nothing_stays() {
    let site = Site::bare();
    let at = site.path().join("small");
    fs::create_dir(&at).unwrap();
    // Without room for the reserve, and with room for two small files beside it.
    for size in ["32m", "65544k"] {
        let _undo = mount(&["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"], &at);
        fs::create_dir(at.join("empty")).unwrap();
        for repo in ["new", "a/new/one", "empty"] {
            let mut command = site.program(&["-r", text(&at.join(repo)), "init"]);
            command.env("PACKMULE_PASSWORD", support::PASSWORD);
            let ran = Running::start(command).wait();
            assert!(!ran.refused(14, &["make room"]).err.contains("prune"));
            let left: Vec<_> = fs::read_dir(&at).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(left, ["empty"], "{repo} in {size}");
            assert_eq!(fs::read_dir(at.join("empty")).unwrap().count(), 0);
        }
    }
}

#[test]
fn a_full_restore_target_is_no_full_repository() {
    let site = Site::filled();
    let at = site.path().join("small");
    fs::create_dir(&at).unwrap();
    let _undo = mount(&["-t", "tmpfs", "-o", "size=64k", "tmpfs"], &at);
    let ran = site.run(&["restore", "latest", "--target", text(&at.join("to"))]);
    assert!(ran.err.contains("No space left") && !ran.err.contains("prune"), "{}", ran.err);
}

#[test]
fn a_full_disk_can_still_forget_and_prune() {
    let site = small_disk(128);
    site.write("a", &noise(1, 20 << 20));
    let first = site.backup();
    site.write("a", &noise(2, 9 << 20));
    site.backup();
    let small = site.path().join("small");
    // As a full disk is found: also the reserve was used up.
    let stored = || files(&site.repo().join("packs")).iter().map(|p| p.metadata().unwrap().len()).sum::<u64>();
    let before = stored();
    fill(&small);
    site.run(&["backup", ".", "--source", "data", "--host", "web", "--force"]).refused(14, &[]);
    site.run(&["forget", &first]).ok();
    site.run(&["prune", "--release-held"]).ok();
    assert!(stored() + (18 << 20) < before, "{} of {before} left", stored());
    assert_eq!(site.snapshots().len(), 1);
    site.restores("latest", &site.src());
    fs::remove_file(small.join("filler")).unwrap();
    site.run(&["check", "--read-data"]).ok();
    site.backup();
}

#[test]
fn a_full_disk_without_an_index_can_still_be_read_and_pruned() {
    for cache_is_full in [false, true] {
        let site = small_disk(128);
        site.write("a", &noise(1, 20 << 20));
        let first = site.backup();
        site.write("a", &noise(2, 9 << 20));
        site.backup();
        let small = site.path().join("small");
        fs::remove_dir_all(site.repo().join("index")).unwrap();
        let cache = site.home().join(".cache/packmule/index");
        if cache_is_full {
            fs::create_dir_all(small.join("cache")).unwrap();
            fs::create_dir_all(cache.parent().unwrap()).unwrap();
            symlink(small.join("cache"), &cache).unwrap();
        }
        fill(&small);
        let read = site.run(&["restore", "latest", "-t", text(&site.path().join("out"))]);
        if cache_is_full {
            read.refused(14, &["--index-dir"]);
        } else {
            let read = read.ok();
            assert!(read.err.contains(text(&cache)), "{}", read.err);
            same(&site.src(), &site.path().join("out"), &[]);
        }
        site.run(&["forget", &first]).ok();
        site.run(&["prune", "--release-held"]).ok();
        assert!(files(&site.repo().join("packs")).iter().map(|p| p.metadata().unwrap().len()).sum::<u64>() < 12 << 20);
        fs::remove_file(small.join("filler")).unwrap();
        site.run(&["check", "--read-data"]).ok();
        site.backup();
    }
}

#[test]
fn a_read_only_repository_is_read() {
    let mut site = Site::filled();
    let wanted = site.snapshots();
    for index in [true, false] {
        if !index {
            fs::remove_dir_all(site.repo().join("index")).unwrap();
        }
        let repo = site.repo();
        let bound = mount(&["--bind", text(&repo)], &repo);
        let _ro = mount(&["-o", "remount,bind,ro"], &repo);
        site.undo.push(bound);
        assert_eq!(site.snapshots(), wanted);
        assert!(site.run(&["ls", "latest"]).ok().text().contains("large"));
        site.restores("latest", &site.src());
        site.run(&["check", "--read-data"]).ok();
        site.run(&["stats"]).ok();
        site.run(&["find", "small"]).ok();
        site.run(&["diff", &wanted[0], &wanted[1]]).ok();
        site.run(&["key", "list"]).ok();
        site.run(&["rebuild-index"]).ok();
        let mounted = Mount::new(&site, &site.mnt(), &[]);
        same(&site.src(), &fs::canonicalize(mounted.latest()).unwrap(), &[]);
        mounted.unmount();
        for words in [vec!["backup", "."], vec!["forget", "latest"], vec!["prune"], vec!["tag", "--add", "x", "latest"]]
        {
            site.run(&words).refused(1, &[text(&repo)]);
        }
        site.undo.clear();
        drop(_ro);
    }
    site.backup();
}

#[test]
fn a_repository_that_vanishes_costs_eio_and_no_hang() {
    let site = Site::filled();
    let mounted = Mount::new(&site, &site.mnt(), &[]);
    let latest = fs::canonicalize(mounted.latest()).unwrap();
    assert_eq!(fs::read(latest.join("dir/small")).unwrap(), b"some words");
    let names = fs::read_dir(&latest).unwrap().count();
    fs::rename(site.repo(), site.path().join("away")).unwrap();
    fs::create_dir(site.repo()).unwrap();
    // Past a refresh or two.
    std::thread::sleep(std::time::Duration::from_secs(4));
    let read = fs::read(latest.join("large"));
    assert!(read.as_ref().err().and_then(|e| e.raw_os_error()) == Some(libc::EIO), "{:?}", read.map(|b| b.len()));
    assert_eq!(fs::read_dir(&latest).unwrap().count(), names);
    fs::remove_dir(site.repo()).unwrap();
    fs::rename(site.path().join("away"), site.repo()).unwrap();
    // It comes back by itself.
    eventually("the mount recovers", || fs::read(latest.join("large")).is_ok());
    assert!(fs::read(latest.join("large")).unwrap() == fs::read(site.src().join("large")).unwrap());
    fs::rename(site.repo(), site.path().join("away")).unwrap();
    mounted.unmount();
    site.run(&["snapshots"]).refused(10, &[text(&site.repo())]);
}

#[test]
fn two_backups_and_a_prune_at_once() {
    let site = Site::filled();
    let other = site.path().join("other");
    fs::create_dir(&other).unwrap();
    for i in 0..40 {
        fs::write(other.join(format!("f{i}")), noise(100 + i, 200_000)).unwrap();
    }
    for round in 0..3u64 {
        site.run(&["forget", "latest", "--host", "web"]).ok();
        site.write(&format!("round{round}"), &noise(50 + round, 4 << 20));
        fs::write(other.join(format!("new{round}")), noise(80 + round, 4 << 20)).unwrap();
        let mut second = site.command(&["--json", "backup", ".", "--source", "other", "--host", "db"]);
        second.current_dir(&other);
        let one = site.start(&["--json", "backup", ".", "--source", "data", "--host", "web"]);
        let prune = site.start(&["prune", "--release-held"]);
        let two = Running::start(second);
        let also = site.start(&["prune", "--release-held"]);
        let (one, two) = (one.wait().ok(), two.wait().ok());
        let prunes = [prune.wait(), also.wait()];
        for ran in &prunes {
            // At most one at once: another is told so.
            assert!(ran.code == 0 || ran.code == 11, "{}", ran.err);
        }
        site.restores(&saved(&one), &site.src());
        site.restores(&saved(&two), &other);
    }
    site.run(&["prune", "--release-held"]).ok();
    site.run(&["check", "--read-data"]).ok();
    assert!(fs::read_dir(site.repo().join("tmp")).unwrap().next().is_none());
}

// Interruptions and streams that end.

#[test]
fn ctrl_c_stops_a_backup_and_the_next_does_not_store_twice() {
    let site = Site::new();
    site.write("first", b"first");
    let first = site.backup();
    let size = 320 << 20;
    site.write("huge", &noise(7, size));
    let stored = || -> u64 { files(&site.repo().join("packs")).iter().map(|p| p.metadata().unwrap().len()).sum() };
    let words = ["--json", "backup", ".", "--source", "data", "--host", "web"];
    let running = site.start(&words);
    eventually("some packs are stored", || stored() > 20 << 20);
    running.signal(nix::sys::signal::Signal::SIGINT);
    let ran = running.wait();
    assert_eq!(ran.code, 130, "{}", ran.err);
    assert_eq!(site.snapshots(), [first]);
    let kept = stored();
    assert!(kept > 20 << 20 && kept < size as u64, "{kept}");
    let again = site.run(&words).ok();
    let added = summary(&again)["data_added"].as_u64().unwrap();
    assert!(added < size as u64 - kept + (2 << 20), "{added} bytes were added, {kept} were there");
    site.restores(&saved(&again), &site.src());
    site.run(&["check"]).ok();
}

#[test]
fn ctrl_c_stops_waiting_for_a_silent_command() {
    let site = Site::new();
    let running = site.start(&["backup", "--stdin-from-command", "--", "sh", "-c", "echo begun; exec sleep 300"]);
    std::thread::sleep(std::time::Duration::from_millis(1500));
    running.signal(nix::sys::signal::Signal::SIGINT);
    let begin = std::time::Instant::now();
    let ran = running.wait();
    assert_eq!(ran.code, 130, "{}", ran.err);
    assert!(begin.elapsed().as_secs() < 20, "it took {:?} to stop", begin.elapsed());
    assert!(site.snapshots().is_empty());
}

#[test]
fn ctrl_c_that_reaches_the_command_as_well_is_an_interruption() {
    let site = Site::new();
    let begun = site.path().join("begun");
    let script = format!("echo output; : >'{}'; exec sleep 300", text(&begun));
    let running = site.start(&["backup", "--stdin-from-command", "--", "sh", "-c", &script]);
    eventually("the command runs", || begun.exists());
    std::thread::sleep(std::time::Duration::from_millis(300));
    let group = nix::unistd::Pid::from_raw(running.pid());
    nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGINT).unwrap();
    let ran = running.wait();
    assert_eq!(ran.code, 130, "{}", ran.err);
    assert!(site.snapshots().is_empty());
}

#[test]
fn ctrl_c_ends_a_command_that_has_closed_its_output() {
    let site = Site::new();
    let begun = site.path().join("begun");
    // Once it ends when asked, once it does not.
    for trap in ["", "trap '' TERM;"] {
        let script = format!("{trap} exec >&-; echo $$ >'{0}.new'; mv '{0}.new' '{0}'; exec sleep 300", text(&begun));
        let running = site.start(&["backup", "--stdin-from-command", "--", "sh", "-c", &script]);
        eventually("the command runs", || begun.exists());
        std::thread::sleep(std::time::Duration::from_millis(500));
        running.signal(nix::sys::signal::Signal::SIGINT);
        let asked = std::time::Instant::now();
        let ran = running.wait();
        assert_eq!(ran.code, 130, "{}", ran.err);
        assert!(asked.elapsed().as_secs() < 20, "it took {:?} to stop", asked.elapsed());
        let pid = fs::read_to_string(&begun).unwrap();
        assert!(!Path::new("/proc").join(pid.trim()).exists(), "the command was left behind");
        fs::remove_file(&begun).unwrap();
        assert!(site.snapshots().is_empty());
    }
}

/// The program with a limit of open files that it cannot raise.
fn limited(site: &Site, files: u32, words: &[&str]) -> Running {
    let plain = site.command(words);
    let mut command = std::process::Command::new("prlimit");
    command.arg(format!("--nofile={files}:{files}")).arg(plain.get_program()).args(plain.get_args());
    command.env_clear().current_dir(plain.get_current_dir().unwrap());
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Running::start(command)
}

#[test]
fn few_open_files_are_enough_for_deep_and_wide_trees() {
    let site = Site::new();
    let mut at = site.src();
    for _ in 0..600 {
        at.push("d");
        fs::create_dir(&at).unwrap();
        // After the directory: the walk comes back to where this is.
        fs::write(at.join("later"), b"x").unwrap();
    }
    for i in 0..60 {
        fs::create_dir_all(site.src().join(format!("wide{}/{i}/below", i % 3))).unwrap();
        fs::write(site.src().join(format!("wide{}/{i}/file", i % 3)), noise(i, 5000)).unwrap();
    }
    let words = ["--json", "backup", ".", "--source", "data", "--host", "web"];
    let ran = limited(&site, 64, &words).wait().ok();
    let done = summary(&ran);
    assert_eq!(done["total_files_processed"], 660, "{done}");
    site.restores(&saved(&ran), &site.src());
    // Too few for anything: one error that says what to do, and not one for each file.
    let ran = limited(&site, 12, &words[1..]).wait().refused(1, &["limit of open files"]);
    assert!(ran.err.lines().count() < 5, "{}", ran.err);
}

#[test]
fn a_relative_source_is_named_by_where_it_is() {
    let site = Site::new();
    site.write("sub/file", b"x");
    let name = text(&site.src()).trim_matches('/').replace('/', "-");
    for (words, source) in [(["backup", "."], name.clone()), (["backup", "sub"], format!("{name}-sub"))] {
        site.run(&words).ok();
        let listed = site.run(&["--json", "snapshots", "--source", &source]).ok().json();
        assert_eq!(listed.len(), 1, "{source}: {listed:?}");
    }
}

#[test]
fn a_reader_that_goes_away_and_a_full_one() {
    let site = Site::filled();
    for words in ["ls -R latest", "dump latest", "snapshots --json", "stats", "--json find small"] {
        let mut command = std::process::Command::new("bash");
        let program = env!("CARGO_BIN_EXE_packmule");
        let options = format!("-r '{}' --identity-file '{}'", text(&site.repo()), text(&site.path().join("identity")));
        command.args(["-c", &format!("{program} {options} {words} | head -c 5 >/dev/null; exit ${{PIPESTATUS[0]}}")]);
        command.env("HOME", site.home()).current_dir(site.src());
        let ran = Running::start(command).wait();
        // Ended by SIGPIPE as any program, or done before.
        assert!([0, 128 + libc::SIGPIPE].contains(&ran.code), "{words}: {} {}", ran.code, ran.err);
        let mut full = std::process::Command::new("bash");
        full.args(["-c", &format!("{program} {options} {words} >/dev/full")]);
        full.env("HOME", site.home()).current_dir(site.src());
        let ran = Running::start(full).wait();
        assert!(ran.code == 14 || ran.code == 1, "{words}: {} {}", ran.code, ran.err);
        assert!(ran.err.contains("standard output"), "{words}: {}", ran.err);
        assert!(!ran.err.contains("prune"), "advice for a repository: {}", ran.err);
    }
}

#[test]
fn a_mount_whose_process_was_killed_can_be_cleared() {
    let site = Site::filled();
    let mounted = Mount::new(&site, &site.mnt(), &[]);
    mounted.process.signal(nix::sys::signal::Signal::SIGKILL);
    let Mount { at, process, .. } = mounted;
    assert_eq!(process.wait().code, -9);
    let _undo = Undo(at.clone());
    let ran = site.run(&["mount", text(&at)]);
    assert!(ran.code == 1 && ran.err.contains(text(&at)), "{}", ran.err);
    if support::mounts().contains(&at) {
        site.run(&["umount", text(&at)]).ok();
    }
    assert!(!support::mounts().contains(&at));
    Mount::new(&site, &at, &[]).unmount();
}

#[test]
fn the_data_of_a_dump_is_all_there_is() {
    let site = Site::filled();
    let wanted = fs::read(site.src().join("large")).unwrap();
    // Notices of a rebuilt index and progress have their own stream.
    for words in [vec!["dump", "latest", "large"], vec!["--json", "-vv", "dump", "latest", "large"]] {
        fs::remove_dir_all(site.repo().join("index")).unwrap();
        let mut command = site.command(&words);
        command.env("PACKMULE_PROGRESS_FPS", "60");
        let ran = Running::start(command).wait().ok();
        assert!(ran.out == wanted, "{words:?}");
    }
}

#[test]
fn a_check_where_nothing_can_be_created_is_still_a_check() {
    let site = Site::filled();
    // Its lock can be opened for writing; only the first new file tells.
    let _undo = mount(&["-t", "tmpfs", "-o", "ro", "tmpfs"], &site.repo().join("tmp"));
    let ran = site.run(&["--json", "check", "--read-data"]).ok();
    assert!(ran.err.contains("the result of the check is not recorded: cannot write "), "{}", ran.err);
    assert_eq!(ran.json().pop().unwrap()["recorded"], false);
    site.run(&["backup", "."]).refused(1, &["only commands that read work on it"]);
}
