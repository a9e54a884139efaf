//! Transfer drives: seeding a pool by post.

mod support;

use std::fs;

use nix::sys::signal::Signal;
use support::disk::Disk;
use support::pool::{Cloud, bytes, equal, pushed, summary};
use support::post::{MIB, by_code, exported, halfway, imported, large_site, made, number, state, states};
use support::{Site, files};

#[test]
fn a_seed_over_three_drives_the_second_lost_in_the_post() {
    let cloud = Cloud::new(&["acme"]);
    let site = large_site(56);
    cloud.join("acme", &site);
    let disks: Vec<Disk> = (1..=3).map(|n| Disk::new(site.path(), &format!("disk{n}"), "ext4", 40)).collect();
    let mut written = Vec::new();
    for (n, disk) in disks.iter().enumerate() {
        made(&site, disk.path(), &["--label", &format!("acme {}", n + 1)]);
        written.push(exported(&site, disk.path()));
        site.run(&["drive", "check", disk.path()]).ok();
        // Once more adds nothing.
        assert_eq!(number(&exported(&site, disk.path()), "bytes_written"), 0);
        site.run(&["drive", "ship", &format!("acme {}", n + 1)]).ok();
    }
    assert!(written[0]["full"] == true && written[2]["full"] == false, "{written:?}");
    assert_eq!(number(&written[2], "packs_left"), 0);
    let all: u64 = written.iter().map(|w| number(w, "bytes_written")).sum();
    assert_eq!(all, bytes(&site.repo().join("packs")), "each pack is on one drive");

    // What is in the post is not sent.
    let waiting = pushed(&site);
    assert_eq!((number(&waiting, "bytes_sent"), number(&waiting, "bytes_posted")), (0, all));
    assert_eq!(waiting["snapshots_waiting"].as_array().unwrap().len(), 2);
    let status = site.run(&["--json", "sync", "status"]).ok().json().remove(0);
    assert_eq!((&status["pending_bytes"], &status["posted_bytes"]), (&0.into(), &all.into()));

    // The third comes first; nothing is there yet, and it says what is missing.
    let third = imported(&cloud.pool, disks[2].path());
    assert_eq!(number(&third, "snapshots_taken"), 0);
    let missing: Vec<&str> = third["elsewhere"].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
    assert!(missing.len() == 2 && missing.iter().any(|m| m.starts_with("acme 2 ")), "{missing:?}");
    let first = imported(&cloud.pool, disks[0].path());
    // The first drive may hold all of the older snapshot.
    let there = cloud.pool.snapshots().len();
    assert!(!first["snapshots_waiting"].as_array().unwrap().is_empty() && there < 2);
    assert_eq!(first["elsewhere"].as_array().unwrap().len(), 1, "{first}");
    // Again: nothing is read.
    let again = imported(&cloud.pool, disks[0].path());
    assert_eq!((number(&again, "packs_taken"), &again["packs_known"]), (0, &first["packs"]));
    for disk in [&disks[0], &disks[2]] {
        site.run(&["drive", "receipt", disk.path()]).ok();
    }
    let shipped = |label: &str, state: &str| (label.to_owned(), state.to_owned());
    assert_eq!(
        states(&site),
        [shipped("acme 1", "committed"), shipped("acme 2", "shipped"), shipped("acme 3", "committed")]
    );
    assert_eq!(number(&pushed(&site), "bytes_sent"), 0);

    // Given up: its packs are sent, and nothing else.
    site.run(&["drive", "lost", "acme 2"]).ok();
    let rest = pushed(&site);
    assert_eq!(number(&rest, "bytes_sent"), number(&written[1], "bytes_written"));
    assert_eq!(number(&rest, "snapshots_sent"), 2 - there as u64);
    cloud.has(&site.src());
    // It turns up after all.
    let late = imported(&cloud.pool, disks[1].path());
    assert_eq!(number(&late, "packs_taken"), 0);
    assert!(late["receipt"].is_string());
}

#[test]
fn an_exfat_drive_serves_as_well() {
    let cloud = Cloud::new(&["acme"]);
    let site = Site::filled();
    cloud.join("acme", &site);
    let mut disk = Disk::new(site.path(), "stick", "exfat", 64);
    let code = made(&site, disk.path(), &["--label", "stick"]);
    exported(&site, disk.path());
    disk.unplug();
    disk.plug();
    let checked = summary(&site.run(&["--json", "drive", "check", disk.path()]).ok());
    assert_eq!(checked["snapshots_whole"], 2);
    assert!(imported(&cloud.pool, disk.path())["receipt"].is_string());
    cloud.has(&site.src());
    site.run(&["drive", "receipt", disk.path()]).ok();
    assert_eq!(state(&site, "stick"), "committed");
    // By itself, with nothing but its code.
    let out = site.path().join("out");
    by_code(&site, &["-r", disk.path(), "restore", "latest", "--target", out.to_str().unwrap()], &code).ok();
    equal(&site.src(), &out);
}

#[test]
fn a_power_cut_leaves_a_drive_that_is_gone_on_with() {
    for kind in ["ext4", "exfat"] {
        let cloud = Cloud::new(&["acme"]);
        let site = large_site(48);
        cloud.join("acme", &site);
        let mut disk = Disk::new(site.path(), "disk", kind, 80);
        made(&site, disk.path(), &["--label", "cut"]);
        let running = halfway(&site, &disk);
        let left = disk.as_of_now();
        running.signal(Signal::SIGKILL);
        running.wait().exits(-9);
        disk.becomes(&left);
        let told = site.run(&["--json", "drive", "check", disk.path()]);
        assert!([0, 5].contains(&told.code), "{kind}: {}", told.err);
        let rest = exported(&site, disk.path());
        assert_eq!(number(&rest, "packs_left"), 0);
        site.run(&["drive", "check", disk.path()]).ok();
        assert_eq!(bytes(&disk.at.join("packs")), bytes(&site.repo().join("packs")), "{kind}");
        imported(&cloud.pool, disk.path());
        cloud.has(&site.src());
    }
}

#[test]
fn a_drive_that_is_pulled_out_ends_the_export_and_nothing_else() {
    let cloud = Cloud::new(&["acme"]);
    let site = large_site(48);
    cloud.join("acme", &site);
    let disk = Disk::new(site.path(), "disk", "exfat", 80);
    made(&site, disk.path(), &["--label", "pulled"]);
    let running = halfway(&site, &disk);
    disk.dies();
    running.signal(Signal::SIGCONT);
    let ran = running.wait();
    assert_ne!(ran.code, 0, "{}", ran.text());
    assert!(ran.err.contains("; "), "a remedy: {}", ran.err);
    // The site is none the worse.
    site.run(&["check"]).ok();
    site.backup();
    drop(disk);
    site.run(&["drive", "lost", "pulled"]).ok();
    assert!(number(&pushed(&site), "bytes_sent") > 40 * MIB);
    cloud.has(&site.src());
}

#[test]
fn what_may_be_written_is_bounded_and_what_was_recorded_since_can_be_asked_for() {
    let cloud = Cloud::new(&["acme"]);
    let site = large_site(40);
    cloud.join("acme", &site);
    let disk = Disk::new(site.path(), "disk", "xfs", 400);
    made(&site, disk.path(), &["--label", "one"]);
    let bounded = ["--json", "drive", "export", "cloud", disk.path(), "--max-bytes", "12M"];
    let first = summary(&site.run(&bounded).ok());
    assert!(first["full"] == true && number(&first, "bytes_written") <= 12 * MIB, "{first}");
    let second = summary(&site.run(&bounded).ok());
    assert!(number(&second, "bytes_written") > 0, "{second}");
    exported(&site, disk.path());
    assert_eq!(bytes(&disk.at.join("packs")), bytes(&site.repo().join("packs")));
    // Nothing was recorded since tomorrow.
    let other = Disk::new(site.path(), "other", "ext4", 80);
    made(&site, other.path(), &["--label", "two"]);
    let since = ["--json", "drive", "export", "cloud", other.path(), "--since", "2100-01-01"];
    let none = summary(&site.run(&since).ok());
    assert_eq!((number(&none, "packs_written"), number(&none, "snapshots_written")), (0, 0));
}

#[test]
fn a_thief_learns_sizes_and_counts() {
    let cloud = Cloud::new(&["acme"]);
    let site = Site::filled();
    cloud.join("acme", &site);
    let disk = Disk::new(site.path(), "disk", "ext4", 64);
    let code = made(&site, disk.path(), &["--label", "blue lagoon"]);
    exported(&site, disk.path());
    let mut names = 0;
    for file in files(&disk.at) {
        let content = fs::read(&file).unwrap();
        let shown = file.strip_prefix(&disk.at).unwrap().to_str().unwrap();
        for word in ["blue lagoon", "acme", "cloud", "large", "small", "deep", "some words"] {
            let told = content.windows(word.len()).any(|w| w == word.as_bytes()) || shown.contains(word);
            assert!(!told, "{word} in {shown}");
        }
        names += 1;
    }
    assert!(names > 8);
    // No slot that a guess at a password opens; not the site's own password either.
    let slots = by_code(&site, &["--json", "-r", disk.path(), "key", "list"], "").ok().json();
    let kinds: Vec<&str> = slots.iter().map(|slot| slot["kind"].as_str().unwrap()).collect();
    assert!(!kinds.is_empty() && kinds.iter().all(|kind| ["recovery-code", "owner"].contains(kind)), "{kinds:?}");
    by_code(&site, &["-r", disk.path(), "snapshots"], support::PASSWORD).refused(12, &[]);
    by_code(&site, &["-r", disk.path(), "snapshots"], &code).ok();
    // Nobody but drive commands writes to it.
    by_code(&site, &["-r", disk.path(), "backup", "."], &code).refused(1, &["transfer drive"]);

    let retired = site.run(&["drive", "retire", disk.path()]).ok().text();
    assert!(retired.contains("key rotate"), "{retired}");
    assert_eq!(state(&site, "blue lagoon"), "retired");
    by_code(&site, &["-r", disk.path(), "snapshots"], &code).refused(12, &[]);
    assert!(files(&disk.at.join("keys")).is_empty());
}

#[test]
fn a_drive_is_one_remote_s() {
    let (cloud, second) = (Cloud::new(&["acme"]), Cloud::new(&["acme"]));
    let site = Site::filled();
    cloud.join("acme", &site);
    support::pool::add(&site, "second", &second.invite("acme")).ok();
    let dir = site.path().join("drive");
    made(&site, dir.to_str().unwrap(), &["--label", "one"]);
    exported(&site, dir.to_str().unwrap());
    site.run(&["drive", "export", "second", dir.to_str().unwrap()]).refused(15, &["remote cloud lacks"]);
    // What is on its way to one is sent to the other.
    let ran = site.run(&["--json", "sync", "push", "second"]).ok();
    assert!(number(&summary(&ran), "bytes_sent") > 5 * MIB);
    assert_eq!(number(&pushed(&site), "bytes_sent"), 0);
}

#[test]
fn a_prune_at_either_end_loses_nothing_of_what_is_in_the_post() {
    let cloud = Cloud::new(&["acme"]);
    let site = large_site(32);
    cloud.join("acme", &site);
    let (one, two) = (site.path().join("one"), site.path().join("two"));
    let (one, two) = (one.to_str().unwrap(), two.to_str().unwrap());
    made(&site, one, &["--label", "one"]);
    site.run(&["drive", "export", "cloud", one, "--max-bytes", "20M"]).ok();
    made(&site, two, &["--label", "two"]);
    exported(&site, two);
    // At the site: a snapshot goes, and packs that are in the post stay as they are.
    let first = site.snapshots().remove(0);
    site.run(&["forget", &first, "--even-unpushed", "--prune", "--release-held"]).ok();
    assert_eq!(number(&pushed(&site), "bytes_sent"), 0, "nothing was moved to where it would be sent from");

    imported(&cloud.pool, one);
    // At the pool: what the first drive brought is of no snapshot yet.
    cloud.pool.run(&["prune"]).ok();
    cloud.pool.run(&["rebuild-index"]).ok();
    let done = imported(&cloud.pool, two);
    assert!(done["snapshots_waiting"].as_array().unwrap().is_empty(), "{done}");
    cloud.has(&site.src());
    assert_eq!(state(&cloud.pool, "two"), "committed");
}

#[test]
fn an_import_that_passes_the_quota_says_so() {
    let cloud = Cloud::new(&["acme"]);
    let site = large_site(24);
    cloud.join("acme", &site);
    cloud.pool.run(&["tenant", "set", "acme", "--quota", "5M"]).ok();
    let dir = site.path().join("drive");
    made(&site, dir.to_str().unwrap(), &["--label", "one"]);
    exported(&site, dir.to_str().unwrap());
    cloud.pool.run(&["drive", "import", dir.to_str().unwrap()]).refused(14, &["quota"]);
    cloud.pool.run(&["tenant", "set", "acme", "--quota", "1G"]).ok();
    imported(&cloud.pool, dir.to_str().unwrap());
    cloud.has(&site.src());
}

#[test]
fn a_drive_that_is_read_only_is_taken_in_and_its_receipt_goes_another_way() {
    let cloud = Cloud::new(&["acme"]);
    let site = Site::filled();
    cloud.join("acme", &site);
    let disk = Disk::new(site.path(), "disk", "ext4", 64);
    made(&site, disk.path(), &["--label", "one"]);
    exported(&site, disk.path());
    std::process::Command::new("mount").args(["-o", "remount,ro", disk.path()]).status().unwrap();
    let done = imported(&cloud.pool, disk.path());
    let receipt = done["receipt"].as_str().unwrap();
    assert!(!disk.at.join("receipt").exists());
    let letter = site.path().join("letter");
    fs::write(&letter, receipt).unwrap();
    site.run(&["drive", "receipt", letter.to_str().unwrap()]).ok();
    assert_eq!(state(&site, "one"), "committed");
    // Its audit has it, too.
    let audit = cloud.pool.run(&["log", "--audit"]).ok().text();
    assert!(audit.contains("drive import"), "{audit}");
}
