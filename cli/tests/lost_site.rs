//! A site reads what its pool has, and is made anew from it when it is lost.

mod support;

use std::fs;

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
    let made = feed_init(&site, "cloud", &again).ok();
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
    site.restores(&ids[1], &site.src());
    site.run(&["check", "--read-data"]).ok();
    // It goes on as the same site: nothing is sent that is there, and what is new is.
    let none = pushed(&site);
    assert_eq!((&none["bytes_sent"], &none["snapshots_sent"]), (&0.into(), &0.into()));
    site.write("dir/after", &noise(5, 100_000));
    site.backup();
    let more = pushed(&site);
    assert_eq!(more["snapshots_sent"], 1);
    assert!(more["bytes_sent"].as_u64().unwrap() < 130_000, "{more}");
    cloud.has(&site.src());
    assert!(site.run(&["sync", "pull", "cloud"]).ok().text().contains("is here"));
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
