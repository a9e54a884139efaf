//! Transfer drives that are not what they should be, or come at a bad moment.

mod support;

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;
use support::disk::Disk;
use support::pool::{Cloud, pushed, summary};
use support::post::{MIB, by_code, exported, flip, halfway, imported, large_site, made, number, packs, state};
use support::{Site, edit, files};

#[test]
fn what_is_no_sound_drive_of_a_tenant_is_refused_by_name() {
    let cloud = Cloud::new(&["acme", "globex"]);
    let (site, stranger) = (large_site(24), Site::filled());
    cloud.join("acme", &site);
    let dir = site.path().join("drive");
    let drive = dir.to_str().unwrap();
    made(&site, drive, &["--label", "one"]);
    // A directory with other things in it, and one that is a drive already.
    site.run(&["drive", "init", site.src().to_str().unwrap(), "--label", "x"]).refused(1, &["other files"]);
    site.run(&["drive", "init", drive, "--label", "x"]).refused(1, &["exists"]);
    site.run(&["drive", "init", site.path().join("new").to_str().unwrap(), "--label", ""]).refused(2, &["label"]);
    site.run(&["drive", "export", "nobody", drive]).refused(1, &["no remote 'nobody'"]);
    site.run(&["drive", "export", "cloud", site.src().to_str().unwrap()]).refused(15, &["no transfer drive"]);
    cloud.pool.run(&["drive", "import", site.src().to_str().unwrap()]).refused(15, &["no transfer drive"]);
    exported(&site, drive);

    // Of a repository that is none's here, and at another site.
    let (other, far) = (stranger.path().join("drive"), Cloud::new(&["far"]));
    far.join("far", &stranger);
    made(&stranger, other.to_str().unwrap(), &["--label", "other"]);
    exported(&stranger, other.to_str().unwrap());
    cloud.pool.run(&["drive", "import", other.to_str().unwrap()]).refused(15, &["no tenant of this pool"]);
    site.run(&["drive", "check", other.to_str().unwrap()]).refused(15, &["another repository"]);
    site.run(&["drive", "receipt", other.to_str().unwrap()]).refused(1, &["no receipt"]);

    // One pack is not what it is called, one is cut short, one is gone; all else is taken.
    let packs = packs(&dir);
    let before: Vec<Vec<u8>> = packs[..3].iter().map(|p| fs::read(p).unwrap()).collect();
    edit(&packs[0], |bytes| flip(bytes));
    edit(&packs[1], |bytes| bytes.truncate(bytes.len() / 2));
    fs::remove_file(&packs[2]).unwrap();
    let checked = summary(&site.run(&["--json", "drive", "check", drive]).exits(5));
    let bad: Vec<&str> = checked["packs_bad"].as_array().unwrap().iter().map(|b| b[0].as_str().unwrap()).collect();
    let name = |p: &Path| p.file_name().unwrap().to_str().unwrap().to_owned();
    assert!(packs[..3].iter().all(|p| bad.contains(&name(p).as_str())) && bad.len() == 3, "{bad:?}");
    let ran = cloud.pool.run(&["--json", "drive", "import", drive]).exits(1);
    let told = summary(&ran);
    assert!(told["receipt"].is_null(), "{told}");
    assert!(number(&told, "packs_taken") + 3 >= packs.len() as u64, "{told}");
    let bad: Vec<&str> = told["packs_bad"].as_array().unwrap().iter().map(|b| b[0].as_str().unwrap()).collect();
    assert!(packs[..2].iter().all(|p| bad.contains(&name(p).as_str())), "{bad:?}");
    cloud.pool.run(&["check", "--read-data"]).ok();
    // Whole again, the rest is taken.
    for (pack, bytes) in packs.iter().zip(before) {
        fs::write(pack, bytes).unwrap();
    }
    assert!(imported(&cloud.pool, drive)["receipt"].is_string());
    cloud.has(&site.src());

    // A receipt of another's, or for something else.
    let receipt = fs::read_to_string(dir.join("receipt")).unwrap();
    let false_one = site.path().join("receipt");
    fs::write(&false_one, receipt.replacen("packs ", "packs 1", 1)).unwrap();
    site.run(&["drive", "receipt", false_one.to_str().unwrap()]).refused(1, &["not signed"]);
    fs::write(&false_one, "no receipt").unwrap();
    site.run(&["drive", "receipt", false_one.to_str().unwrap()]).refused(1, &["no receipt"]);
    stranger.run(&["drive", "receipt", drive]).refused(1, &["nothing is known"]);
    site.run(&["drive", "receipt", drive]).ok();
    // What was said cannot be taken back.
    site.run(&["drive", "ship", "one"]).refused(1, &["committed"]);
    site.run(&["drive", "lost", "one"]).refused(1, &["committed"]);
    site.run(&["drive", "export", "cloud", drive]).refused(15, &["committed"]);
    site.run(&["drive", "ship", "nobody"]).refused(1, &["no drive 'nobody'"]);
}

#[test]
fn a_drive_that_calls_itself_as_another_s_keeps_nobody_out() {
    let cloud = Cloud::new(&["acme", "globex"]);
    let (site, thief) = (Site::filled(), large_site(8));
    cloud.join("acme", &site);
    cloud.join("globex", &thief);
    let (own, theirs) = (site.path().join("drive"), thief.path().join("drive"));
    made(&site, own.to_str().unwrap(), &["--label", "one"]);
    exported(&site, own.to_str().unwrap());
    made(&thief, theirs.to_str().unwrap(), &["--label", "mine"]);
    exported(&thief, theirs.to_str().unwrap());
    // The mark is in the clear, for anybody to read and to write.
    fs::copy(own.join("drive"), theirs.join("drive")).unwrap();
    cloud.pool.run(&["drive", "import", theirs.to_str().unwrap()]).refused(15, &["another repository"]);
    assert!(imported(&cloud.pool, own.to_str().unwrap())["receipt"].is_string());
    cloud.has(&site.src());
}

#[test]
fn what_lies_on_a_drive_beside_what_was_written_is_in_nobody_s_way() {
    let cloud = Cloud::new(&["acme"]);
    let site = large_site(24);
    cloud.join("acme", &site);
    let dir = site.path().join("drive");
    let drive = dir.to_str().unwrap();
    made(&site, drive, &["--label", "one"]);
    exported(&site, drive);
    let all = packs(&dir);
    // A file that a filesystem has made of one that was cut off; a directory for a receipt.
    let stray = dir.join("packs/ab").join("ab".repeat(32));
    fs::create_dir_all(stray.parent().unwrap()).unwrap();
    fs::write(&stray, "cut off").unwrap();
    fs::create_dir(dir.join("receipt")).unwrap();
    // A pipe in the place of a snapshot, a directory in that of a pack.
    let snapshot = files(&dir.join("snapshots")).remove(0);
    let (pack, manifest) = (fs::read(&all[0]).unwrap(), fs::read(&snapshot).unwrap());
    fs::remove_file(&all[0]).unwrap();
    fs::create_dir(&all[0]).unwrap();
    fs::remove_file(&snapshot).unwrap();
    nix::unistd::mkfifo(&snapshot, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let told = summary(&cloud.pool.run(&["--json", "drive", "import", drive]).exits(1));
    assert_eq!(number(&told, "packs_taken"), all.len() as u64 - 1, "{told}");
    assert_eq!((told["packs_bad"].as_array().unwrap().len(), &told["receipt"]), (1, &serde_json::Value::Null));
    // The pool's audit does not call that well.
    let audit = cloud.pool.run(&["--json", "log", "--audit"]).ok().json();
    let noted = audit.iter().rfind(|line| line["operation"] == "drive import").expect("an entry");
    assert!(noted.to_string().contains("not everything"), "{noted}");
    fs::remove_dir(&all[0]).unwrap();
    fs::write(&all[0], pack).unwrap();
    fs::remove_file(&snapshot).unwrap();
    fs::write(&snapshot, manifest).unwrap();
    let ran = cloud.pool.run(&["--json", "drive", "import", drive]).ok();
    assert!(ran.err.contains("receipt is not on the drive"), "{}", ran.err);
    // As it was said, and as a mail program or a shell makes of it.
    let (letter, receipt) = (site.path().join("letter"), summary(&ran)["receipt"].as_str().unwrap().to_owned());
    for text in [ran.text(), receipt.replace('\n', "\r\n"), format!("{receipt}\n\n"), receipt] {
        fs::write(&letter, text).unwrap();
        site.run(&["drive", "receipt", letter.to_str().unwrap()]).ok();
    }
    cloud.has(&site.src());
}

#[test]
fn a_damaged_pack_on_a_drive_that_is_full_is_written_anew_where_it_was() {
    let cloud = Cloud::new(&["acme"]);
    let site = large_site(48);
    cloud.join("acme", &site);
    let disk = Disk::new(site.path(), "disk", "ext4", 36);
    made(&site, disk.path(), &["--label", "one"]);
    let told = site.run(&["drive", "export", "cloud", disk.path(), "--max-bytes", "5M"]).ok().text();
    assert!(told.contains("--max-bytes allows") && !told.contains("full"), "{told}");
    let first = exported(&site, disk.path());
    assert!(first["full"] == true, "{first}");
    let victim = packs(&disk.at).into_iter().max_by_key(|pack| fs::metadata(pack).unwrap().len()).unwrap();
    edit(&victim, |bytes| flip(bytes));
    site.run(&["drive", "check", disk.path()]).exits(5);
    assert_eq!(number(&exported(&site, disk.path()), "packs_written"), 1);
    site.run(&["drive", "check", disk.path()]).ok();
}

#[test]
fn what_a_check_finds_damaged_is_written_anew_by_the_next_export() {
    let cloud = Cloud::new(&["acme"]);
    let site = large_site(24);
    cloud.join("acme", &site);
    let dir = site.path().join("drive");
    let drive = dir.to_str().unwrap();
    made(&site, drive, &["--label", "one"]);
    exported(&site, drive);
    let all = packs(&dir);
    let sound = fs::read(&all[1]).unwrap();
    edit(&all[1], |bytes| flip(bytes));
    site.run(&["drive", "check", drive]).exits(5);
    let again = exported(&site, drive);
    assert_eq!((number(&again, "packs_written"), number(&again, "bytes_written")), (1, sound.len() as u64), "{again}");
    assert!(fs::read(&all[1]).unwrap() == sound);
    site.run(&["drive", "check", drive]).ok();
    // Whatever this machine remembers of the drive.
    fs::remove_dir_all(site.home().join(".cache")).unwrap();
    site.run(&["drive", "check", drive]).ok();
    assert!(imported(&cloud.pool, drive)["receipt"].is_string());
}

#[test]
fn a_pack_that_is_damaged_here_is_told_and_not_passed_over() {
    let cloud = Cloud::new(&["acme"]);
    let site = large_site(24);
    cloud.join("acme", &site);
    let all = packs(&site.repo());
    edit(&all[0], |bytes| flip(bytes));
    let dir = site.path().join("drive");
    let drive = dir.to_str().unwrap();
    made(&site, drive, &["--label", "one"]);
    for known in [false, true] {
        if known {
            site.run(&["check", "--read-data"]).exits(5);
        }
        let ran = site.run(&["--json", "drive", "export", "cloud", drive]).exits(1);
        let damaged = summary(&ran)["packs_damaged"].as_array().unwrap().clone();
        assert_eq!(damaged, [all[0].file_name().unwrap().to_str().unwrap()], "known: {known}");
    }
}

#[test]
fn a_drive_from_before_a_rotation_takes_nothing_that_its_code_would_not_open() {
    let cloud = Cloud::new(&["acme"]);
    let site = large_site(24);
    cloud.join("acme", &site);
    let (one, two) = (site.path().join("one"), site.path().join("two"));
    let (one, two) = (one.to_str().unwrap(), two.to_str().unwrap());
    made(&site, one, &["--label", "one"]);
    site.run(&["drive", "export", "cloud", one, "--max-bytes", "12M"]).ok();
    site.run(&["key", "rotate"]).ok();
    site.write("after", b"the rotation");
    site.backup();
    site.run(&["drive", "export", "cloud", one]).refused(15, &["rotated", "drive init"]);
    let code = made(&site, two, &["--label", "two"]);
    exported(&site, two);
    // The pool knows the new key after a push, which sends nothing else.
    assert_eq!(number(&pushed(&site), "bytes_sent"), 0);
    imported(&cloud.pool, one);
    imported(&cloud.pool, two);
    cloud.has(&site.src());
    by_code(&site, &["-r", two, "snapshots"], &code).ok();
}

#[test]
fn two_drives_are_not_given_the_same() {
    let cloud = Cloud::new(&["acme"]);
    let site = large_site(48);
    cloud.join("acme", &site);
    let disk = Disk::new(site.path(), "disk", "ext4", 80);
    made(&site, disk.path(), &["--label", "one"]);
    let other = site.path().join("other");
    made(&site, other.to_str().unwrap(), &["--label", "two"]);
    let running = halfway(&site, &disk);
    site.run(&["drive", "export", "cloud", other.to_str().unwrap()]).refused(11, &["another drive"]);
    running.signal(Signal::SIGCONT);
    running.wait().ok();
    assert_eq!(number(&exported(&site, other.to_str().unwrap()), "packs_written"), 0);
}

#[test]
fn what_has_come_by_drive_is_not_written_to_the_next() {
    let cloud = Cloud::new(&["acme"]);
    let site = large_site(24);
    cloud.join("acme", &site);
    let (one, two) = (site.path().join("one"), site.path().join("two"));
    let (one, two) = (one.to_str().unwrap(), two.to_str().unwrap());
    made(&site, one, &["--label", "one"]);
    exported(&site, one);
    imported(&cloud.pool, one);
    // The receipt is on the drive, which is not needed any more.
    site.run(&["drive", "retire", one]).ok();
    assert_eq!(state(&site, "one"), "retired");
    let status = site.run(&["--json", "sync", "status"]).ok().json().remove(0);
    assert_eq!((&status["pending_bytes"], &status["posted_bytes"]), (&0.into(), &0.into()), "{status}");
    site.write("after", &support::noise(77, 1 << 20));
    site.backup();
    made(&site, two, &["--label", "two"]);
    let second = exported(&site, two);
    assert!(number(&second, "bytes_written") < 2 * MIB, "{second}");
    // An index that is built anew knows as much.
    site.run(&["rebuild-index"]).ok();
    assert_eq!(number(&exported(&site, two), "packs_written"), 0);
    imported(&cloud.pool, two);
    cloud.has(&site.src());
    assert_eq!(number(&pushed(&site), "bytes_sent"), 0);
}

#[test]
fn a_drive_that_is_retired_at_the_pool_has_brought_what_it_has_brought() {
    let cloud = Cloud::new(&["acme"]);
    let site = large_site(32);
    cloud.join("acme", &site);
    let (one, two) = (site.path().join("one"), site.path().join("two"));
    let (one, two) = (one.to_str().unwrap(), two.to_str().unwrap());
    made(&site, one, &["--label", "one"]);
    site.run(&["drive", "export", "cloud", one, "--max-bytes", "20M"]).ok();
    made(&site, two, &["--label", "two"]);
    exported(&site, two);
    imported(&cloud.pool, one);
    cloud.pool.run(&["drive", "retire", one]).ok();
    assert_eq!(state(&cloud.pool, "one"), "retired");
    cloud.pool.run(&["prune"]).ok();
    cloud.pool.run(&["rebuild-index"]).ok();
    cloud.pool.run(&["prune"]).ok();
    let done = imported(&cloud.pool, two);
    assert!(done["snapshots_waiting"].as_array().unwrap().is_empty(), "{done}");
    cloud.has(&site.src());
    // Its receipt comes over the line.
    assert_eq!(number(&pushed(&site), "bytes_sent"), 0);
    assert_eq!(state(&site, "one"), "committed");
}

#[test]
fn nothing_that_drives_brought_stays_of_a_tenant_that_is_removed() {
    let cloud = Cloud::new(&["acme"]);
    let site = large_site(32);
    cloud.join("acme", &site);
    let one = site.path().join("one");
    let one = one.to_str().unwrap();
    made(&site, one, &["--label", "one"]);
    site.run(&["drive", "export", "cloud", one, "--max-bytes", "20M"]).ok();
    imported(&cloud.pool, one);
    assert!(cloud.stored() > 10 * MIB);
    cloud.pool.run(&["tenant", "remove", "acme"]).ok();
    cloud.pool.run(&["tenant", "remove", "acme", "--release-held"]).ok();
    assert!(cloud.stored() < MIB, "{}", cloud.stored());
    assert_eq!(state(&cloud.pool, "one"), "lost");
    cloud.pool.run(&["drive", "import", one]).refused(15, &["no tenant of this pool"]);
}

#[test]
fn an_export_that_was_killed_is_counted_by_what_is_on_the_drive() {
    let cloud = Cloud::new(&["acme"]);
    let site = large_site(160);
    cloud.join("acme", &site);
    let disk = Disk::new(site.path(), "disk", "ext4", 256);
    made(&site, disk.path(), &["--label", "one"]);
    let running = site.start(&["drive", "export", "cloud", disk.path()]);
    support::eventually("some of it is recorded", || {
        site.run(&["--json", "drive", "list"]).ok().json().iter().any(|line| number(line, "packs") > 0)
    });
    running.signal(Signal::SIGKILL);
    running.wait();
    let state = || site.run(&["--json", "drive", "list"]).ok().json().remove(0);
    let written = number(&state(), "packs");
    assert!(written > 0 && written < packs(&site.repo()).len() as u64, "{written}");
    site.run(&["drive", "ship", "one"]).ok();
    assert_eq!(number(&state(), "packs"), written);
    let done = imported(&cloud.pool, disk.path());
    assert!(number(&done, "packs") >= written && done["receipt"].is_string(), "{done}");
    let rest = pushed(&site);
    assert!(number(&rest, "bytes_sent") > 0);
    assert_eq!(state()["state"], "committed");
    cloud.has(&site.src());
}

#[test]
fn what_a_drive_has_lost_of_itself_keeps_nothing_back_that_is_sound() {
    let cloud = Cloud::new(&["acme"]);
    let site = large_site(16);
    cloud.join("acme", &site);
    let dir = site.path().join("drive");
    let drive = dir.to_str().unwrap();
    made(&site, drive, &["--label", "one"]);
    exported(&site, drive);
    fs::remove_file(dir.join("config")).unwrap();
    for record in files(&dir.join("log")) {
        fs::write(record, "").unwrap();
    }
    let done = imported(&cloud.pool, drive);
    assert_eq!(
        (number(&done, "snapshots_taken"), number(&done, "packs_taken")),
        (2, packs(&dir).len() as u64),
        "{done}"
    );
    cloud.has(&site.src());
    // Nobody takes it for one that was just begun.
    fs::remove_file(dir.join("config.copy")).unwrap();
    site.run(&["drive", "init", drive, "--label", "new"]).refused(1, &["packs on this drive"]);
}

#[test]
fn nothing_is_given_up_by_mistake() {
    let cloud = Cloud::new(&["acme"]);
    let (site, other) = (Site::filled(), large_site(8));
    cloud.join("acme", &site);
    let dir = site.path().join("drive");
    let drive = dir.to_str().unwrap();
    made(&site, drive, &["--label", "one"]);
    exported(&site, drive);
    other.run(&["drive", "retire", drive]).refused(15, &["another repository"]);
    site.run(&["remote", "remove", "cloud"]).refused(1, &["on its way"]);
    let told = site.run(&["drive", "retire", drive]).ok();
    assert!(told.err.contains("it is sent again"), "{}", told.err);
    site.run(&["drive", "export", "cloud", drive]).refused(15, &["retired"]);
    site.run(&["remote", "remove", "cloud"]).ok();
}
