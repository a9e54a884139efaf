//! A site reads what its pool has, and is made anew from it when it is lost.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use support::pool::{Cloud, pushed};
use support::{Mount, PASSWORD, RECIPIENT, Site, noise, same};

#[test]
fn a_site_mounts_what_its_pool_has_without_pulling() {
    let cloud = Cloud::new(&["acme", "globex"]);
    let (site, other) = (Site::filled(), Site::filled());
    cloud.join("acme", &site);
    pushed(&site);
    other.write("secret", b"of another tenant");
    other.backup();
    let at = site.mnt();
    let dir = at.to_str().unwrap();
    site.run(&["mount", dir, "--remote", "cloud", "--host", "web"]).refused(1, &["filters do not apply"]);
    site.run(&["mount", dir, "--remote", "nowhere"]).refused(1, &["no remote 'nowhere'"]);
    let before = support::pool::bytes(&site.repo().join("packs"));
    let mount = Mount::new(&site, &at, &["--remote", "cloud"]);
    same(&site.src(), &mount.latest().canonicalize().unwrap(), &[]);
    mount.unmount();
    assert_eq!(support::pool::bytes(&site.repo().join("packs")), before, "nothing was stored");
}

#[test]
fn a_lost_site_is_made_anew_from_its_pool() {
    let cloud = Cloud::new(&["acme"]);
    let site = Site::filled();
    cloud.join("acme", &site);
    let profile = site.home().join(".config/packmule/web.toml");
    fs::create_dir_all(profile.parent().unwrap()).unwrap();
    let text = format!("repo = {:?}\n[backup]\nexclude-caches = true\n", site.repo());
    fs::write(&profile, &text).unwrap();
    pushed(&site);
    fs::remove_file(&profile).unwrap();
    let ids = site.snapshots();
    // An invitation that is not for that does not give anything away.
    let plain = cloud.invite("acme");
    fs::rename(site.repo(), site.path().join("lost")).unwrap();
    feed_init(&site, "cloud", &plain).refused(1, &["does not make a site anew"]);
    assert!(!site.repo().join("config").exists());
    let again =
        cloud.pool.run(&["-q", "tenant", "invite", "acme", "--restore", "--address", &cloud.address]).ok().text();
    feed_init(&site, "Not A Name", &again).refused(2, &["cannot be a name"]);
    // What fails after the invitation was taken up does not need another.
    fs::create_dir_all(site.repo()).unwrap();
    let letter = site.repo().join("letter");
    fs::write(&letter, "dear").unwrap();
    feed_init(&site, "cloud", &again).refused(1, &["among other files"]);
    let kept = site.repo().join("invitation");
    assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
    fs::remove_file(&letter).unwrap();
    let made = feed_init(&site, "cloud", "").ok();
    assert!(made.err.contains("going on with the invitation of tenant acme"), "{}", made.err);
    assert!(!kept.exists());
    // The lost site's key is refused from now on.
    let keys = cloud.pool.run(&["--json", "tenant", "key", "list", "acme"]).ok().json();
    let live: Vec<_> = keys.iter().filter(|key| key["revoked"].is_null()).collect();
    assert_eq!((keys.len(), live.len(), &live[0]["roles"]), (2, 1, &serde_json::json!(["push", "pull", "restore"])));
    let back = site.repo().join("profiles/web.toml");
    assert!(made.err.contains("1 profile came back"), "{}", made.err);
    assert!(made.text().contains("`packmule sync pull cloud` brings them back"), "{}", made.text());
    assert_eq!(fs::read_to_string(&back).unwrap(), text);
    site.with_password(&["key", "add", "--recipient", RECIPIENT, "--label", "fast"], PASSWORD).ok();
    assert!(site.snapshots().is_empty());
    site.run(&["sync", "pull", "cloud", "ffff"]).refused(1, &["no snapshot 'ffff'"]);
    site.run(&["sync", "pull", "cloud", &ids[0][..8]]).ok();
    assert_eq!(site.snapshots(), ids[..1]);
    let summary = site.run(&["--json", "sync", "pull", "cloud"]).ok().json();
    let summary = summary.iter().find(|m| m["message_type"] == "summary").unwrap().clone();
    assert_eq!(summary["snapshots_received"], 1, "{summary}");
    assert_eq!(site.snapshots(), ids);
    // Everything is known to be there, and what is new not.
    let status = || site.run(&["--json", "sync", "status"]).ok().json().remove(0);
    assert_eq!((&status()["pending_snapshots"], status()["last_push"].is_null()), (&0.into(), false), "{}", status());
    let dry = site.run(&["forget", "--keep-last", "1", "--dry-run"]).ok().text();
    assert!(!dry.contains("cloud"), "{dry}");
    site.restores(&ids[1], &site.src());
    site.run(&["check", "--read-data"]).ok();
    // It goes on as the same site: nothing is sent that is there, and what is new is.
    let first = support::pool::push(&site).ok();
    assert!(!first.err.contains("rolled back"), "{}", first.err);
    let none = support::pool::summary(&first);
    assert_eq!((&none["bytes_sent"], &none["snapshots_sent"]), (&0.into(), &0.into()));
    let older = site.path().join("older");
    let copied = std::process::Command::new("cp").arg("-a").arg(site.repo()).arg(&older).status().unwrap();
    assert!(copied.success());
    site.write("dir/after", &noise(5, 100_000));
    site.backup();
    assert_eq!(status()["pending_snapshots"], 1);
    let more = pushed(&site);
    assert_eq!(more["snapshots_sent"], 1);
    assert!(more["bytes_sent"].as_u64().unwrap() < 130_000, "{more}");
    cloud.has(&site.src());
    assert!(site.run(&["sync", "pull", "cloud"]).ok().text().contains("is here"));
    // One that is put back to an earlier state by other means is told so.
    fs::remove_dir_all(site.repo()).unwrap();
    fs::rename(&older, site.repo()).unwrap();
    fs::remove_dir_all(site.home().join(".cache/packmule")).unwrap();
    let back = support::pool::push(&site).ok();
    assert!(back.err.contains("rolled back or copied"), "{}", back.err);
}

#[test]
fn a_site_made_anew_pushes_in_silence_also_before_it_has_everything_back() {
    let cloud = Cloud::new(&["acme"]);
    let site = Site::filled();
    cloud.join("acme", &site);
    pushed(&site);
    fs::rename(site.repo(), site.path().join("lost")).unwrap();
    let words = ["-q", "tenant", "invite", "acme", "--restore", "--address", &cloud.address];
    feed_init(&site, "cloud", &cloud.pool.run(&words).ok().text()).ok();
    site.with_password(&["key", "add", "--recipient", RECIPIENT, "--label", "fast"], PASSWORD).ok();
    site.write("new", &noise(9, 100_000));
    site.backup();
    let ran = support::pool::push(&site).ok();
    assert!(!ran.err.contains("rolled back"), "{}", ran.err);
    assert_eq!(support::pool::summary(&ran)["snapshots_sent"], 1);
    site.run(&["sync", "pull", "cloud"]).ok();
    assert_eq!(site.snapshots().len(), 3);
    assert_eq!(site.run(&["--json", "sync", "status"]).ok().json()[0]["pending_snapshots"], 0);
}

/// `init --from`, with the password in a file and the invitation on standard input.
fn feed_init(site: &Site, name: &str, invitation: &str) -> support::Ran {
    let password = site.path().join("password");
    let words = ["init", "--from", name, "--password-file", password.to_str().unwrap()];
    support::pool::fed(site, site.program(&words), invitation)
}

#[test]
fn a_state_from_before_a_rotation_is_told_so_and_does_not_blame_the_pool() {
    let cloud = Cloud::new(&["acme"]);
    let site = Site::filled();
    cloud.join("acme", &site);
    pushed(&site);
    let old = site.path().join("old");
    support::copy(&site.repo(), &old);
    site.with_password(&["key", "rotate"], PASSWORD).ok();
    site.write("dir/after", b"the rotation");
    site.backup();
    pushed(&site);
    let at = old.to_str().unwrap();
    for words in [&["sync", "pull", "cloud"][..], &["mount", site.mnt().to_str().unwrap(), "--remote", "cloud"]] {
        site.with_password(&[&["-r", at], words].concat(), PASSWORD).refused(1, &["key was rotated", "newest state"]);
    }
}
