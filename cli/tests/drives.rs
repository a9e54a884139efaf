//! Transfer drives: seeding a pool by post, and bringing a site back the same way.

mod support;

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::Value;
use support::disk::Disk;
use support::pool::{Cloud, bytes, equal, other_site, pushed, summary};
use support::{Mount, Ran, Running, Site, edit, eventually, files, noise};

const MIB: u64 = 1 << 20;

/// A site with so many MiB of noise, in two snapshots.
fn large_site(mib: usize) -> Site {
    let site = other_site();
    site.write("dir/small", b"some words of a customer");
    site.write("image", &noise(5, (mib / 2) << 20));
    site.backup();
    for i in 0..40 {
        site.write(&format!("dir/f{i}"), &noise(100 + i, 20_000));
    }
    site.write("image2", &noise(6, (mib / 2) << 20));
    site.backup();
    site
}

/// Makes a drive; its recovery code.
#[track_caller]
fn made(site: &Site, at: &str, words: &[&str]) -> String {
    let mut all = vec!["--json", "drive", "init", at];
    all.extend(words);
    let told = site.run(&all).ok().json().remove(0);
    told["recovery_code"].as_str().unwrap_or_default().to_owned()
}

#[track_caller]
fn exported(site: &Site, at: &str) -> Value {
    summary(&site.run(&["--json", "drive", "export", "cloud", at]).ok())
}

#[track_caller]
fn imported(at: &Site, from: &str) -> Value {
    summary(&at.run(&["--json", "drive", "import", from]).ok())
}

/// The states of all drives that are known, by their labels.
fn states(site: &Site) -> Vec<(String, String)> {
    let told = site.run(&["--json", "drive", "list"]).ok().json();
    let text = |line: &Value, name: &str| line[name].as_str().unwrap().to_owned();
    let mut all: Vec<_> = told.iter().map(|line| (text(line, "label"), text(line, "state"))).collect();
    all.sort();
    all
}

fn state(site: &Site, label: &str) -> String {
    states(site).into_iter().find(|(l, _)| l == label).expect("a known drive").1
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_else(|| panic!("no {name} in {value}"))
}

/// The drive's packs.
fn packs(drive: &Path) -> Vec<std::path::PathBuf> {
    files(&drive.join("packs"))
}

/// The program with a recovery code.
fn by_code(site: &Site, words: &[&str], code: &str) -> Ran {
    let mut command = site.program(words);
    command.env_remove("PACKMULE_REPOSITORY").env("PACKMULE_PASSWORD", code);
    Running::start(command).wait()
}

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

/// Exports until some packs are on the drive, and stops the program there.
#[track_caller]
fn halfway(site: &Site, disk: &Disk) -> Running {
    let free = || nix::sys::statvfs::statvfs(&disk.at).map(|s| s.blocks_free() * s.fragment_size()).unwrap();
    let before = free();
    let mut running = site.start(&["drive", "export", "cloud", disk.path()]);
    // Without a pause: it is over soon.
    let begun = std::time::Instant::now();
    while free() + 10 * MIB > before {
        assert!(!running.ended() && begun.elapsed().as_secs() < 20, "it ended: {}", running.stderr());
    }
    running.signal(Signal::SIGSTOP);
    running
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
    edit(&packs[0], |bytes| bytes[1000] ^= 1);
    edit(&packs[1], |bytes| bytes.truncate(5000));
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
fn a_pool_sends_a_site_back_over_three_drives() {
    let cloud = Cloud::new(&["acme"]);
    let site = large_site(56);
    cloud.join("acme", &site);
    pushed(&site);
    let disks: Vec<Disk> = (1..=3).map(|n| Disk::new(site.path(), &format!("disk{n}"), "ext4", 36)).collect();
    let mut codes = Vec::new();
    for (n, disk) in disks.iter().enumerate() {
        let label = format!("back {}", n + 1);
        codes.push(made(&cloud.pool, disk.path(), &["--label", &label, "--tenant", "acme"]));
        let ran = cloud.pool.run(&["--json", "drive", "export", "--tenant", "acme", disk.path()]).ok();
        let done = summary(&ran);
        assert_eq!(done["full"] == true, n < 2, "{done}");
        cloud.pool.run(&["drive", "check", disk.path()]).ok();
        cloud.pool.run(&["drive", "ship", &label]).ok();
    }
    let on_drives: u64 = disks.iter().map(|disk| bytes(&disk.at.join("packs"))).sum();
    assert!(on_drives < bytes(&cloud.pool.repo().join("packs")) * 21 / 20, "nothing is on two drives");
    // It is a site's, and no pool takes it in.
    cloud.pool.run(&["drive", "import", disks[0].path()]).refused(15, &["made at a pool"]);

    // Before anything is copied, with the first drive's code alone, in any order.
    let code = site.path().join("code");
    fs::write(&code, &codes[2]).unwrap();
    let reader = Site::bare();
    let words = ["-r", disks[2].path(), "-r", disks[0].path(), "-r", disks[1].path(), "-p", code.to_str().unwrap()];
    let mnt = reader.mnt();
    let undo = support::Undo(mnt.clone());
    let mut command = reader.program(&words);
    command.env_remove("PACKMULE_REPOSITORY").args(["mount", mnt.to_str().unwrap()]);
    let mut mounted = Running::start(command);
    eventually("the mount comes up", || {
        assert!(!mounted.ended(), "{}", mounted.stderr());
        mnt.join("hosts").exists()
    });
    equal(&site.src(), &fs::canonicalize(mnt.join("hosts/web/data/latest")).unwrap());
    mounted.signal(Signal::SIGINT);
    mounted.wait();
    drop(undo);
    let out = reader.path().join("out");
    let mut command = reader.program(&words);
    command.env_remove("PACKMULE_REPOSITORY").args(["restore", "latest", "--target", out.to_str().unwrap()]);
    Running::start(command).wait().ok();
    equal(&site.src(), &out);
    let mut command = reader.program(&words);
    command.env_remove("PACKMULE_REPOSITORY").args(["check"]);
    Running::start(command).wait().refused(2, &["several"]);
    // One drive alone shows all names, and says what is not here.
    fs::write(&code, &codes[1]).unwrap();
    let undo = support::Undo(mnt.clone());
    let mut command =
        reader.program(&["-r", disks[1].path(), "-p", code.to_str().unwrap(), "mount", mnt.to_str().unwrap()]);
    command.env_remove("PACKMULE_REPOSITORY");
    let mut mounted = Running::start(command);
    eventually("the mount comes up", || mounted.ended() || mnt.join("hosts").exists());
    assert!(mounted.stderr().contains("back 1"), "{}", mounted.stderr());
    mounted.signal(Signal::SIGINT);
    mounted.wait();
    drop(undo);

    // A new, empty site, and the drives in a bad order.
    let new = Site::bare();
    let line =
        cloud.pool.run(&["-q", "tenant", "invite", "acme", "--restore", "--address", &cloud.address]).ok().text();
    let mut command = new.program(&["init", "--from", "cloud"]);
    command.env("PACKMULE_PASSWORD", support::PASSWORD);
    support::pool::fed(&new, command, line.trim()).ok();
    new.with_password(&["key", "add", "--recipient", support::RECIPIENT, "--label", "fast"], support::PASSWORD).ok();
    let all = ["drive", "import", disks[2].path(), disks[0].path(), disks[1].path()];
    new.run(&all).ok();
    new.run(&["drive", "import", disks[2].path()]).ok();
    assert_eq!(new.snapshots(), site.snapshots());
    new.restores("latest", &site.src());
    new.run(&["check", "--read-data"]).ok();
    assert_eq!(number(&pushed(&new), "bytes_sent"), 0);
    cloud.has(&site.src());
}

#[test]
fn a_leaving_customer_gets_one_host_or_one_snapshot() {
    let cloud = Cloud::new(&["acme"]);
    let site = Site::filled();
    site.run(&["backup", ".", "--source", "data", "--host", "db"]).ok();
    cloud.join("acme", &site);
    pushed(&site);
    let dir = site.path().join("drive");
    let drive = dir.to_str().unwrap();
    cloud.pool.run(&["drive", "init", drive, "--label", "x"]).refused(2, &["one tenant's"]);
    cloud.pool.run(&["drive", "init", drive, "--label", "x", "--tenant", "nobody"]).refused(1, &["no tenant"]);
    let code = made(&cloud.pool, drive, &["--label", "leaving", "--tenant", "acme"]);
    let export = |words: &[&str]| {
        let mut all = vec!["drive", "export", "--tenant", "acme", drive];
        all.extend(words);
        cloud.pool.run(&all)
    };
    export(&["--host", "nobody"]).refused(1, &["no snapshot of host"]);
    export(&["--snapshot", "zz"]).refused(1, &["no snapshot"]);
    assert_eq!(number(&summary(&export(&["--json", "--host", "db"]).ok()), "snapshots_written"), 1);
    let listed = by_code(&site, &["--json", "-r", drive, "snapshots"], &code).ok().json();
    assert_eq!(listed.iter().filter(|line| line["hostname"] == "db").count(), 1);
    let oldest = site.snapshots().remove(0);
    assert_eq!(number(&summary(&export(&["--json", "--snapshot", &oldest[..10]]).ok()), "snapshots_written"), 1);
    // No help from anybody: the program, the drive, and its code.
    let out = site.path().join("out");
    by_code(&site, &["-r", drive, "restore", "latest", "--host", "db", "--target", out.to_str().unwrap()], &code).ok();
    equal(&site.src(), &out);
    by_code(&site, &["-r", drive, "check", "--read-data"], &code).ok();
}

#[test]
fn a_sealed_tenant_s_packs_travel_as_they_are() {
    let cloud = Cloud::new(&[]);
    cloud.pool.run(&["tenant", "create", "acme", "--sealed"]).ok();
    let site = large_site(24);
    cloud.join("acme", &site);
    let disks: Vec<Disk> = (1..=2).map(|n| Disk::new(site.path(), &format!("disk{n}"), "ext4", 28)).collect();
    for (n, disk) in disks.iter().enumerate() {
        made(&site, disk.path(), &["--label", &format!("acme {}", n + 1)]);
        exported(&site, disk.path());
    }
    let told = site.run(&["--json", "sync", "push", "cloud"]).ok();
    assert_eq!(number(&summary(&told), "packs_sent"), 0);
    assert!(number(&summary(&told), "packs_posted") > 0);
    edit(&packs(&disks[1].at)[0], |bytes| bytes[77] ^= 1);
    assert!(imported(&cloud.pool, disks[0].path())["receipt"].is_string());
    cloud.pool.run(&["drive", "import", disks[1].path()]).refused(1, &["not everything"]);
    site.run(&["drive", "receipt", disks[0].path()]).ok();
    site.run(&["drive", "lost", "acme 2"]).ok();
    // All but the one that was damaged is there.
    assert_eq!(number(&summary(&site.run(&["--json", "sync", "push", "cloud"]).ok()), "packs_sent"), 1);
    site.run(&["check", "--read-data"]).ok();
    let mount = Mount::new(&site, &site.mnt(), &["--remote", "cloud"]);
    equal(&site.src(), &support::canonical(&mount));
    mount.unmount();

    // And back, over two drives.
    let backs: Vec<Disk> = (1..=2).map(|n| Disk::new(site.path(), &format!("back{n}"), "ext4", 32)).collect();
    for (n, disk) in backs.iter().enumerate() {
        made(&cloud.pool, disk.path(), &["--label", &format!("back {}", n + 1), "--tenant", "acme"]);
        let done = summary(&cloud.pool.run(&["--json", "drive", "export", "--tenant", "acme", disk.path()]).ok());
        assert_eq!(done["full"] == true, n == 0, "{done}");
    }
    let sum: usize = backs.iter().map(|disk| packs(&disk.at).len()).sum();
    assert_eq!(sum, packs(&site.repo()).len(), "each pack is on one drive");
    // The site loses packs, and takes them in from the drives.
    let lost = packs(&site.repo());
    for pack in &lost {
        fs::remove_file(pack).unwrap();
    }
    let _ = fs::remove_dir_all(site.repo().join("index"));
    site.run(&["drive", "import", backs[0].path(), backs[1].path()]).ok();
    site.run(&["check", "--read-data"]).ok();
    site.restores("latest", &site.src());
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
