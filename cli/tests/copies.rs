//! `sync`: copies on another disk.

mod support;

use std::fs;
use std::path::Path;

use support::{Site, files};

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
    let pack = files(&site.repo().join("packs")).swap_remove(0);
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
