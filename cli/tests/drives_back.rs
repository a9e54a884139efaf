//! Transfer drives from a pool: a site brought back by post.

mod support;

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;
use support::disk::Disk;
use support::pool::{Cloud, bytes, equal, pushed, summary};
use support::post::{MIB, by_code, exported, flip, imported, large_site, made, number, packs, states};
use support::{Mount, Running, Site, edit, eventually, files};

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
        let mut words = vec!["--json", "drive", "export", "--tenant", "acme", disk.path()];
        let before: Vec<String> = (1..=n).map(|n| format!("back {n}")).collect();
        words.extend(before.iter().flat_map(|label| ["--after", label]));
        let done = summary(&cloud.pool.run(&words).ok());
        assert_eq!(done["full"] == true, n < 2, "{done}");
        cloud.pool.run(&["drive", "check", disk.path()]).ok();
        cloud.pool.run(&["drive", "ship", &label]).ok();
    }
    let on_drives: u64 = disks.iter().map(|disk| bytes(&disk.at.join("packs"))).sum();
    assert!(on_drives < bytes(&cloud.pool.repo().join("packs")) * 21 / 20, "nothing is on two drives");
    // It is a site's, and no pool takes it in.
    cloud.pool.run(&["drive", "import", disks[0].path()]).refused(15, &["made at a pool"]);

    // Before anything is copied, with one drive's code alone, in any order.
    let code = site.path().join("code");
    fs::write(&code, &codes[1]).unwrap();
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
    // Whether they are all that is needed, too.
    let by_all = |more: &[&str]| {
        let mut command = reader.program(&words);
        command.env_remove("PACKMULE_REPOSITORY").args(more);
        Running::start(command).wait()
    };
    for more in [&["--json", "check"][..], &["--json", "check", "--read-data"]] {
        let told = summary(&by_all(more).ok());
        assert_eq!(
            (told["snapshots_whole"].as_u64(), told["drives"].as_array().unwrap().len()),
            (Some(2), 3),
            "{told}"
        );
    }
    by_all(&["stats"]).refused(2, &["several"]);
    let one = by_code(&reader, &["-r", disks[1].path(), "check"], &codes[1]).ok().text();
    assert!(one.contains("more are not on this drive") && one.contains("back 1"), "{one}");
    // One drive alone shows all names, and says what is not here.
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
    let told = new.run(&all).ok().text();
    assert!(!told.contains("wait") && told.contains("2 snapshots back"), "{told}");
    assert_eq!(new.snapshots(), site.snapshots());
    assert!(states(&new).iter().all(|(_, state)| state == "committed" || state == "verified"), "{:?}", states(&new));
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
    edit(&packs(&disks[1].at)[0], |bytes| flip(bytes));
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
        let mut words = vec!["--json", "drive", "export", "--tenant", "acme", disk.path()];
        words.extend(["--after", "back 1"].iter().take(2 * n));
        let done = summary(&cloud.pool.run(&words).ok());
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
fn a_second_set_is_whole_by_itself() {
    let cloud = Cloud::new(&["acme", "globex"]);
    let site = large_site(24);
    cloud.join("acme", &site);
    cloud.join("globex", &Site::filled());
    pushed(&site);
    let dirs: Vec<String> = (1..=4).map(|n| site.path().join(format!("d{n}")).to_str().unwrap().to_owned()).collect();
    let codes: Vec<String> =
        (0..4).map(|n| made(&cloud.pool, &dirs[n], &["--label", &format!("set {n}"), "--tenant", "acme"])).collect();
    let export = |dir: &str, words: &[&str]| {
        let mut all = vec!["drive", "export", "--tenant", "acme", dir];
        all.extend(words);
        cloud.pool.run(&all)
    };
    // What is said at the end is what is to be done next.
    let told = export(&dirs[0], &["--max-bytes", "12M"]).ok().text();
    assert!(
        told.contains("--max-bytes allows") && told.contains("--after 'set 0'") && !told.contains("full"),
        "{told}"
    );
    let told = export(&dirs[1], &["--after", "set 0"]).ok().text();
    assert!(told.contains("2 snapshots whole on it and those it goes along with"), "{told}");
    let size = |n: usize| bytes(&Path::new(&dirs[n]).join("packs"));
    assert!(size(1) < 16 * MIB, "{}", size(1));
    // Called again it goes along with the same.
    export(&dirs[1], &[]).ok();
    assert!(size(1) < 16 * MIB, "{}", size(1));
    // Another set, a year later: the first is still out there, for all that is known.
    let told = export(&dirs[2], &[]).ok().text();
    assert!(told.contains("2 snapshots whole on it") && told.contains("set 0 ("), "{told}");
    let out = site.path().join("out");
    by_code(&site, &["-r", &dirs[2], "restore", "latest", "--target", out.to_str().unwrap()], &codes[2]).ok();
    equal(&site.src(), &out);
    // What is no companion is refused.
    cloud.pool.run(&["drive", "lost", "set 0"]).ok();
    export(&dirs[3], &["--after", "set 0"]).refused(1, &["lost"]);
    export(&dirs[3], &["--after", "nobody"]).refused(1, &["no drive 'nobody'"]);
    let other = site.path().join("globex").to_str().unwrap().to_owned();
    made(&cloud.pool, &other, &["--label", "globex 1", "--tenant", "globex"]);
    export(&other, &[]).refused(15, &["another"]);
}

#[test]
fn a_lost_sealed_site_comes_back_by_post() {
    let cloud = Cloud::new(&[]);
    cloud.pool.run(&["tenant", "create", "acme", "--sealed"]).ok();
    let site = Site::bare();
    let told = site.with_password(&["--json", "init", "--pack-size", "4M"], support::PASSWORD).ok().json().remove(0);
    let code = site.path().join("code");
    fs::write(&code, told["recovery_code"].as_str().unwrap()).unwrap();
    site.with_password(&["key", "add", "--recipient", support::RECIPIENT, "--label", "fast"], support::PASSWORD).ok();
    site.write("image", &support::noise(5, 20 << 20));
    site.backup();
    cloud.join("acme", &site);
    pushed(&site);
    let dir = site.path().join("back");
    let drive = dir.to_str().unwrap();
    made(&cloud.pool, drive, &["--label", "back", "--tenant", "acme"]);
    cloud.pool.run(&["drive", "export", "--tenant", "acme", drive]).ok();
    // What is on the drive is not read at the pool, and the other way round.
    let tenants = fs::read_dir(cloud.pool.repo().join("tenants")).unwrap();
    let copy = tenants.map(|e| e.unwrap().path().join("copy")).find(|p| p.exists()).unwrap();
    let kept = packs(&copy);
    let name = |at: usize| kept[at].strip_prefix(&copy).unwrap().to_owned();
    edit(&kept[0], |bytes| flip(bytes));
    edit(&dir.join(name(1)), |bytes| flip(bytes));
    fs::remove_file(dir.join(name(2))).unwrap();
    let ids = site.snapshots();
    fs::rename(site.repo(), site.path().join("lost")).unwrap();
    let line =
        cloud.pool.run(&["-q", "tenant", "invite", "acme", "--restore", "--address", &cloud.address]).ok().text();
    let init = |drive: &str| {
        let (password, code) = (site.path().join("password"), code.to_str().unwrap());
        let words = ["init", "--from", "cloud", "--drive", drive, "--recovery-code-file", code, "--password-file"];
        let mut command = site.program(&words);
        command.arg(password);
        support::pool::fed(&site, command, line.trim())
    };
    init(site.src().to_str().unwrap()).refused(15, &["no transfer drive"]);
    init(drive).ok();
    assert_eq!(site.snapshots(), ids);
    site.run(&["check", "--read-data"]).ok();
    site.restores("latest", &site.src());
}

#[test]
fn a_pool_writes_to_no_drive_that_a_site_has_sent() {
    let cloud = Cloud::new(&[]);
    cloud.pool.run(&["tenant", "create", "acme", "--sealed"]).ok();
    let site = Site::filled();
    cloud.join("acme", &site);
    pushed(&site);
    let dir = site.path().join("drive");
    let drive = dir.to_str().unwrap();
    made(&site, drive, &["--label", "one"]);
    site.write("more", &support::noise(9, 3 << 20));
    site.backup();
    exported(&site, drive);
    let export = || cloud.pool.run(&["drive", "export", "--tenant", "acme", drive]);
    let before = files(&dir).len();
    export().refused(15, &["not made here"]);
    imported(&cloud.pool, drive);
    export().refused(15, &["not made here"]);
    assert_eq!(files(&dir).len(), before + 1, "the receipt alone");
}

#[test]
fn several_drives_show_the_snapshots_of_each() {
    let cloud = Cloud::new(&["acme"]);
    let site = large_site(8);
    cloud.join("acme", &site);
    let dirs: Vec<String> = (1..=2).map(|n| site.path().join(format!("d{n}")).to_str().unwrap().to_owned()).collect();
    let mut codes = vec![made(&site, &dirs[0], &["--label", "one"])];
    exported(&site, &dirs[0]);
    imported(&cloud.pool, &dirs[0]);
    pushed(&site);
    // What comes then stands on the second alone, and is sealed with a newer key.
    site.run(&["key", "rotate"]).ok();
    site.write("newest", b"of all");
    site.backup();
    codes.push(made(&site, &dirs[1], &["--label", "two"]));
    exported(&site, &dirs[1]);
    for order in [[0, 1], [1, 0]] {
        let drives = ["-r", &dirs[order[0]], "-r", &dirs[order[1]]];
        let with = |words: &[&str], code: &str| by_code(&site, &[&drives[..], words].concat(), code);
        assert_eq!(with(&["--json", "snapshots"], &codes[1]).ok().json().len(), 3, "{order:?}");
        let out = site.path().join(format!("out{}", order[0]));
        with(&["restore", "latest", "--target", out.to_str().unwrap()], &codes[1]).ok();
        equal(&site.src(), &out);
        let found = with(&["find", "newest"], &codes[1]).ok().text();
        assert!(found.contains("newest"), "{found}");
        // The older code opens no newer drive, and that is what is said.
        with(&["snapshots"], &codes[0]).refused(15, &["newer key", "recovery code of this drive"]);
    }
    by_code(&site, &["-r", &dirs[0], "-r", &dirs[1], "snapshots"], "none")
        .refused(12, &["one of the drives that are named"]);
    // A part of it alone: what is missing is elsewhere, not damaged.
    let out = site.path().join("part");
    let told = by_code(&site, &["-r", &dirs[1], "restore", "latest", "--target", out.to_str().unwrap()], &codes[1]);
    assert!(told.code != 0 && told.err.contains("drive that is not here"), "{}", told.err);
}
