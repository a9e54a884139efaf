//! `sync`: copies on another disk, by their paths and as remotes.

mod support;

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;
use support::pool::summary;
use support::{Mount, Site, canonical, edit, eventually, files, noise, same};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn ids(site: &Site, repo: &Path) -> Vec<String> {
    let ran = site.run(&["-r", text(repo), "snapshots", "--json"]).ok();
    ran.json().iter().filter_map(|s| s["id"].as_str().map(str::to_owned)).collect()
}

#[test]
fn a_copy_takes_the_place_of_a_lost_repository() {
    let site = Site::filled();
    let copy = site.path().join("nas/copy");
    let sent = &site.run(&["sync", "push", text(&copy), "--json"]).ok().json();
    let summary = sent.iter().find(|m| m["message_type"] == "summary").unwrap();
    assert_eq!((summary["snapshots_sent"].as_u64(), summary["objects_deleted"].as_u64()), (Some(2), Some(0)));
    assert!(summary["bytes_sent"].as_u64().unwrap() > 5 << 20, "{summary}");
    assert!(site.run(&["sync", "push", text(&copy)]).ok().text().contains("up to date"));
    // Read like the repository, written by nobody else.
    assert_eq!(ids(&site, &copy), ids(&site, &site.repo()));
    let src = site.src();
    site.run(&["-r", text(&copy), "backup", text(&src)]).refused(1, &["only pushes write", "sync promote"]);
    site.run(&["-r", text(&copy), "forget", "latest"]).refused(1, &["only pushes write"]);
    site.run(&["-r", text(&copy), "check", "--read-data"]).ok();
    // The repository is lost.
    fs::rename(site.repo(), site.path().join("lost")).unwrap();
    assert!(!copy.join("reserve").exists());
    site.run(&["-r", text(&copy), "sync", "promote"]).ok();
    assert_eq!(fs::metadata(copy.join("reserve")).unwrap().len(), 64 << 20);
    site.write("dir/after", b"the day after");
    site.run(&["-r", text(&copy), "backup", ".", "--source", "data", "--host", "web"]).ok();
    assert_eq!(ids(&site, &copy).len(), 3);
    let target = site.path().join("target");
    site.run(&["-r", text(&copy), "restore", "latest", "--target", text(&target)]).ok();
    // And found again: it must not overwrite what has gone on.
    let lost = site.path().join("lost");
    site.run(&["-r", text(&lost), "sync", "push", text(&copy)]).refused(1, &["repository exists already"]);
    site.run(&["-r", text(&copy), "sync", "promote"]).refused(1, &["promoted already"]);
}

#[test]
fn a_copy_has_a_directory_of_its_own() {
    let (site, other) = (Site::filled(), Site::filled());
    let inside = site.repo().join("copies/one");
    site.run(&["sync", "push", text(&inside)]).refused(1, &["in the repository itself", text(&inside)]);
    assert!(!site.repo().join("copies").exists());
    let before = files(&site.src());
    site.run(&["sync", "push", text(&site.src())]).refused(1, &["among other files"]);
    assert_eq!(files(&site.src()), before);
    site.run(&["sync", "push", text(&other.repo())]).refused(1, &["repository exists already"]);
    let copy = site.path().join("copy");
    site.run(&["sync", "push", text(&copy)]).ok();
    let stranger = Site::bare();
    stranger.with_password(&["init"], "another").ok();
    stranger.with_password(&["sync", "push", text(&copy)], "another").refused(1, &["copy of another repository"]);
    let file = site.path().join("file");
    fs::write(&file, "precious").unwrap();
    site.run(&["sync", "push", text(&file)]).exits(1);
    assert_eq!(fs::read(&file).unwrap(), b"precious");
}

#[test]
fn damage_here_is_told_and_not_passed_on() {
    let site = Site::filled();
    let copy = site.path().join("copy");
    // One of data, which the next backup stores anew; an old snapshot's list of file times it does not.
    let pack = files(&site.repo().join("packs")).into_iter().max_by_key(|p| p.metadata().unwrap().len()).unwrap();
    let mut bytes = fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::set_permissions(&pack, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    fs::write(&pack, bytes).unwrap();
    let ran = site.run(&["sync", "push", text(&copy)]).refused(1, &["1 pack could not be copied", "check --read-data"]);
    assert!(ran.err.contains(pack.file_name().unwrap().to_str().unwrap()), "{}", ran.err);
    assert_eq!(ids(&site, &copy).len(), 2);
    // Once it is healed nothing needs the pack: neither a copy nor the eye of who watches.
    site.run(&["check", "--read-data"]).exits(5);
    site.run(&["status"]).exits(5);
    site.write("dir/after", b"the day after");
    for _ in 0..2 {
        site.backup();
    }
    site.run(&["sync", "push", text(&site.path().join("third"))]).exits(1);
    assert!(site.run(&["check"]).ok().text().contains("healed"));
    site.run(&["status"]).ok();
    site.run(&["sync", "push", "--audit", text(&copy)]).ok();
    site.run(&["-r", text(&copy), "check", "--read-data"]).ok();
    let target = site.path().join("target");
    site.run(&["-r", text(&copy), "restore", "latest", "--target", text(&target)]).ok();
    support::same(&site.src(), &target, &[]);
}

/// A remote's line of `sync status`.
#[track_caller]
fn status(site: &Site) -> serde_json::Value {
    site.run(&["--json", "sync", "status", "nas"]).ok().json().remove(0)
}

#[test]
fn a_directory_is_a_remote_like_others() {
    let site = Site::filled();
    let copy = site.path().join("nas disk/copy");
    site.run(&["remote", "add", "nas", text(&copy)]).ok();
    assert!(!copy.parent().unwrap().exists(), "nothing is made before the first push");
    site.run(&["remote", "add", "nas", text(&copy)]).refused(1, &["a remote 'nas' already"]);
    assert_eq!(status(&site)["pending_snapshots"], 2);
    site.run(&["mount", text(&site.mnt()), "--remote", "nas"]).refused(10, &["no copy yet", "sync push"]);
    assert!(site.run(&["remote", "test", "nas"]).ok().text().contains("holds nothing yet"));
    // What is not there yet is spared.
    site.run(&["forget", "latest~1"]).refused(1, &["is not at remote nas yet"]);
    let sent = summary(&site.run(&["--json", "sync", "push", "nas"]).ok());
    assert_eq!(sent["snapshots_sent"], 2);
    assert_eq!(ids(&site, &copy), site.snapshots());
    let told = status(&site);
    assert_eq!(
        (&told["pending_snapshots"], &told["pending_bytes"], &told["lag_seconds"]),
        (&0.into(), &0.into(), &0.into())
    );
    assert!(told["last_push"].is_string() && told["url"].as_str().unwrap().ends_with("/nas%20disk/copy"), "{told}");
    // That a push is noted is nothing to push, however often.
    for _ in 0..3 {
        let again = summary(&site.run(&["--json", "sync", "push", "nas"]).ok());
        assert_eq!((&again["bytes_sent"], &again["position"]), (&0.into(), &sent["position"]));
    }
    let listed = site.run(&["--json", "remote", "list"]).ok().json().remove(0);
    assert_eq!(
        (&listed["name"], &listed["kind"], &listed["pending_snapshots"]),
        (&"nas".into(), &"directory".into(), &0.into())
    );
    assert!(site.run(&["remote", "list"]).ok().text().contains(text(&copy)));
    let shown = site.run(&["remote", "show", "nas"]).ok().text();
    assert!(shown.contains(text(&copy)) && shown.contains("directory") && !shown.contains("Host key"), "{shown}");
    assert!(site.run(&["remote", "test", "nas"]).ok().text().contains("nas is there"));
    site.run(&["forget", "latest~1"]).ok();
    // What was pruned goes from there when it is asked for; nobody's recovery code is.
    site.run(&["prune", "--release-held"]).ok();
    site.run(&["sync", "push", "nas"]).ok();
    let deleted = summary(&site.run(&["--json", "sync", "push", "nas", "--delete"]).ok());
    assert!(deleted["objects_deleted"].as_u64() > Some(0), "{deleted}");
    assert_eq!(ids(&site, &copy), site.snapshots());
    site.run(&["remote", "remove", "nas"]).ok();
    assert_eq!(ids(&site, &copy).len(), 1, "what is there stays there");
    site.run(&["remote", "show", "nas"]).refused(1, &["no remote 'nas'"]);
    // It is found again.
    let told = site.run(&["remote", "add", "nas", text(&copy)]).ok().text();
    assert!(told.contains("the copy that is in"), "{told}");
    assert_eq!(status(&site)["pending_snapshots"], 1);
    site.run(&["sync", "push", "nas"]).ok();
    assert_eq!(status(&site)["pending_snapshots"], 0);
}

#[test]
fn a_remote_s_directory_is_one_of_its_own() {
    let (site, other) = (Site::filled(), Site::filled());
    let inside = site.repo().join("copies/one");
    site.run(&["remote", "add", "nas", text(&inside)]).refused(1, &["in the repository itself"]);
    site.run(&["remote", "add", "nas", text(&site.src())]).refused(1, &["among other files"]);
    site.run(&["remote", "add", "nas", text(&other.repo())]).refused(1, &["repository exists already"]);
    site.run(&["remote", "add", "nas", "copy"]).refused(2, &["has a / in it", "./copy"]);
    site.run(&["remote", "add", "/mnt/nas", "./copy"]).refused(2, &["cannot be a name"]);
    let file = site.path().join("file");
    fs::write(&file, "precious").unwrap();
    site.run(&["remote", "add", "nas", text(&file)]).exits(1);
    let copy = site.path().join("copy");
    site.run(&["sync", "push", text(&copy)]).ok();
    let stranger = Site::bare();
    stranger.with_password(&["init"], "another").ok();
    stranger
        .with_password(&["remote", "add", "nas", text(&copy)], "another")
        .refused(1, &["copy of another repository"]);
    assert!(site.run(&["--json", "remote", "list"]).ok().json().is_empty());
}

#[test]
fn a_disk_that_is_away_is_waited_for_and_not_filled() {
    let site = Site::filled();
    let (disk, away) = (site.path().join("nas"), site.path().join("away"));
    let copy = disk.join("copy");
    site.run(&["remote", "add", "nas", text(&copy)]).ok();
    // A first push that did not come to its end has made the copy, too.
    site.write("more", &noise(9, 60 << 20));
    site.backup();
    let push = site.start(&["sync", "push", "nas"]);
    eventually("it sends", || copy.join("packs").exists() && !files(&copy.join("packs")).is_empty());
    push.signal(Signal::SIGKILL);
    push.wait().exits(-9);
    fs::rename(&disk, &away).unwrap();
    let unreachable = |words: &[&str]| {
        site.run(words).refused(13, &["the copy is not there", text(&copy)]);
    };
    unreachable(&["sync", "push", "nas"]);
    // The place to mount it on is there.
    fs::create_dir_all(&copy).unwrap();
    unreachable(&["sync", "push", "nas"]);
    unreachable(&["remote", "test", "nas"]);
    unreachable(&["sync", "pull", "nas"]);
    unreachable(&["mount", text(&site.mnt()), "--remote", "nas"]);
    unreachable(&["check", "--heal", "nas"]);
    assert_eq!(files(&disk), Vec::<std::path::PathBuf>::new(), "nothing was written beside the disk");
    let mut waiting = site.start(&["sync", "push", "nas", "--retry"]);
    eventually("it waits", || waiting.stderr().contains("trying again in"));
    fs::remove_dir_all(&disk).unwrap();
    fs::rename(&away, &disk).unwrap();
    waiting.wait().ok();
    assert_eq!(ids(&site, &copy), site.snapshots());
    site.run(&["-r", text(&copy), "check", "--read-data"]).ok();
}

#[test]
fn what_a_directory_holds_comes_back() {
    let site = Site::filled();
    let copy = site.path().join("nas/copy");
    site.run(&["remote", "add", "nas", text(&copy)]).ok();
    site.run(&["sync", "push", "nas"]).ok();
    let before = site.snapshots();
    let mount = Mount::new(&site, &site.mnt(), &["--remote", "nas"]);
    same(&site.src(), &canonical(&mount), &[]);
    mount.unmount();
    site.run(&["mount", text(&copy.join("tmp")), "--remote", "nas"]).refused(1, &["overlap"]);
    // Forgotten and pruned here, and brought back from there.
    site.run(&["forget", "latest~1", "--prune", "--release-held"]).ok();
    let pulled = summary(&site.run(&["--json", "sync", "pull", "nas"]).ok());
    assert_eq!(pulled["snapshots_received"], 1);
    assert_eq!(site.snapshots().len(), 2);
    assert!(before.iter().all(|id| site.snapshots().contains(id)));
    // Damage here comes from there, and what was lost there goes there.
    let packs = files(&site.repo().join("packs"));
    let there = |pack: &Path| copy.join(pack.strip_prefix(site.repo()).unwrap());
    let damaged = packs.iter().find(|pack| there(pack).exists()).unwrap();
    edit(damaged, |bytes| bytes[40] ^= 1);
    let lost =
        packs.iter().rev().map(|pack| there(pack)).find(|pack| pack.exists() && *pack != there(damaged)).unwrap();
    fs::remove_file(&lost).unwrap();
    // What rotted there is found by reading, and goes there again.
    let rotten = packs.iter().map(|pack| there(pack)).find(|pack| pack.exists() && *pack != there(damaged)).unwrap();
    edit(&rotten, |bytes| bytes[40] ^= 1);
    site.run(&["check", "--read-data", "--heal", "nas"]).ok();
    site.run(&["check", "--read-data"]).ok();
    assert!(lost.exists());
    site.run(&["-r", text(&copy), "check", "--read-data"]).ok();
    site.restores("latest", &site.src());
    // Taken for the repository, it is no remote of its own.
    site.run(&["sync", "push", "nas"]).ok();
    site.run(&["-r", text(&copy), "sync", "promote"]).ok();
    assert!(site.run(&["-r", text(&copy), "--json", "remote", "list"]).ok().json().is_empty());
    site.run(&["sync", "push", "nas"]).refused(1, &["a repository of its own now"]);
}
