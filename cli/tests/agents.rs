//! Hosts that back up to a site over SSH, by the real program.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use support::pool::{Cloud, bytes, fed, summary};
use support::{Ran, Running, Site, files, noise, same, saved};

/// A site that serves its agents.
fn served() -> Cloud {
    let mut site = Cloud { server: None, pool: Site::new(), address: "127.0.0.1:0".into(), host_key: String::new() };
    site.start();
    site
}

/// A host, with a home of its own.
struct Host(Site);

impl Host {
    fn new() -> Host {
        Host(Site::bare())
    }

    /// That has joined as `name`.
    fn joined(site: &Cloud, name: &str, more: &[&str]) -> Host {
        let host = Host::new();
        host.join(&invite(site, name, more), &[]).ok();
        host
    }

    fn program(&self, words: &[&str]) -> Command {
        let mut command = self.0.program(words);
        command
            .env_remove("PACKMULE_REPOSITORY")
            .env("XDG_STATE_HOME", self.state())
            .env("XDG_CONFIG_HOME", self.config());
        command
    }

    fn state(&self) -> PathBuf {
        self.0.home().join("state")
    }

    fn config(&self) -> PathBuf {
        self.0.home().join("config")
    }

    fn join(&self, invitation: &str, more: &[&str]) -> Ran {
        let src = self.0.src();
        let words = [&["agent", "join"][..], more, &[src.to_str().unwrap()]].concat();
        fed(&self.0, self.program(&words), invitation)
    }

    fn start(&self, words: &[&str]) -> Running {
        Running::fed(self.program(&[&["-P", "site"][..], words].concat()), Stdio::null())
    }

    fn run(&self, words: &[&str]) -> Ran {
        self.start(words).wait()
    }

    #[track_caller]
    fn backup(&self) -> String {
        saved(&self.run(&["--json", "backup"]).ok())
    }
}

fn invite(site: &Cloud, host: &str, more: &[&str]) -> String {
    let words = [&["-q", "agent", "invite", host, "--address", &site.address][..], more].concat();
    site.pool.run(&words).ok().text().trim().into()
}

/// Asserts that the site's snapshot holds what the host has.
#[track_caller]
fn has(site: &Cloud, host: &Host, id: &str) {
    let target = tempfile::tempdir_in(site.pool.path()).unwrap();
    let at = target.path().join("all");
    let src = host.0.src();
    let path = format!("{id}:{}", src.display());
    site.pool.run(&["restore", &path, "--target", at.to_str().unwrap()]).ok();
    same(&src, &at, &[]);
}

#[test]
fn a_host_joins_and_backs_up_and_the_site_has_ordinary_snapshots() {
    let site = served();
    let host = Host::new();
    let invitation = invite(&site, "web1", &[]);
    host.join("packmule-invitation-1:nonsense", &[]).refused(2, &["no invitation"]);
    host.join(&invitation, &["--name", "../x"]).refused(2, &["not a profile's name"]);
    host.join(&invitation, &["--timer"]).refused(2, &["needs systemd", "packmule -P site -q backup"]);
    host.join(&invitation, &[]).ok();
    host.join(&invitation, &["--name", "other"]).refused(1, &["void"]);
    assert!(!host.config().join("packmule/other.toml").exists());
    let late = Host::new();
    late.join(&invitation, &[]).refused(1, &["void"]);
    assert!(!late.state().exists(), "a host that did not join keeps nothing");
    let profile = fs::read_to_string(host.config().join("packmule/site.toml")).unwrap();
    assert!(profile.contains("paths = [") && !profile.contains("exclude-caches"), "{profile}");
    // The key is its owner's alone; and so is all that is kept.
    let identity = files(&host.state()).into_iter().find(|p| p.ends_with("identity")).unwrap();
    assert_eq!(fs::metadata(&identity).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(identity.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);

    host.0.write("dir/a", &noise(1, 300_000));
    host.0.write("large", &noise(2, 12 << 20));
    let first = host.backup();
    assert_eq!(site.pool.snapshots(), std::slice::from_ref(&first));
    has(&site, &host, &first);
    host.0.write("dir/b", b"more");
    let ran = host.run(&["backup", "--tag", "nightly"]).ok();
    assert!(ran.text().contains("2 unmodified") || ran.text().contains("snapshot"), "{}", ran.text());
    let listed = site.pool.run(&["--json", "snapshots"]).ok().json();
    let newest = listed.iter().find(|s| s["tags"][0] == "nightly").expect("the tagged one");
    assert_eq!((&newest["hostname"], &newest["tenant"]), (&"web1".into(), &serde_json::Value::Null));
    has(&site, &host, newest["id"].as_str().unwrap());
    // What is kept at the host is little.
    assert!(bytes(&host.state()) < 4 << 20, "{}", bytes(&host.state()));

    let agents = site.pool.run(&["--json", "agent", "list"]).ok().json();
    assert_eq!((&agents[0]["host"], &agents[0]["snapshots"]), (&"web1".into(), &2.into()));
    site.pool.run(&["check", "--read-data"]).ok();
}

#[test]
fn a_backup_over_ssh_can_what_a_backup_can() {
    let site = served();
    let host = Host::joined(&site, "web1", &[]);
    host.0.write("a", &noise(1, 30_000));
    host.0.write("b.tmp", &noise(2, 30_000));
    let dry = host.run(&["backup", "-n"]).ok();
    assert!(dry.text().contains("dry run"), "{}", dry.text());
    assert!(site.pool.snapshots().is_empty());
    host.run(&["backup", "--host", "web2"]).refused(1, &["backs up host 'web1'"]);
    host.run(&["backup", "--exclude", "*.tmp"]).ok();
    let again = host.run(&["--json", "backup", "--exclude", "*.tmp", "--skip-if-unchanged"]).ok();
    assert_eq!(summary(&again)["snapshot_id"], serde_json::Value::Null);
    assert_eq!(site.pool.snapshots().len(), 1);
    // What cannot be read is told, and the rest saved.
    let ran = host.run(&["backup", "--source", "more", "/proc/self/mem", host.0.src().to_str().unwrap()]);
    assert!([0, 3].contains(&ran.code), "{ran:?}");
    // A command's output.
    let words =
        ["backup", "--source", "dump", "--stdin-from-command", "--stdin-filename", "dump.sql", "--", "echo", "hello"];
    let mut command = host.program(&["-r", &format!("ssh://{}", site.address)]);
    command.args(words);
    Running::start(command).wait().ok();
    let latest = site.pool.run(&["dump", "--source", "dump", "latest", "dump.sql"]).ok();
    assert_eq!(latest.text(), "hello\n");
    // Paths from standard input, which can be read once.
    let list = format!("{}\n", host.0.src().join("a").display());
    let words =
        ["--json", "-r", &format!("ssh://{}", site.address), "backup", "--source", "listed", "--files-from", "-"];
    saved(&fed(&host.0, host.program(&words), &list).ok());
    // Its parent can be named.
    host.run(&["backup", "--exclude", "*.tmp", "--parent", "latest", "--source", "src-named"]).refused(1, &[]);
    site.pool.run(&["check", "--read-data"]).ok();
}

#[test]
fn who_has_not_joined_or_was_revoked_is_told_so() {
    let mut site = served();
    let stranger = Host::new();
    let url = format!("ssh://{}", site.address);
    let alone = |words: &[&str]| Running::start(stranger.program(words)).wait();
    alone(&["-r", &url, "backup", "/etc/hostname"]).refused(10, &["has not joined", &url]);
    alone(&["-r", &url, "prune"]).refused(1, &["cannot be done over a connection"]);
    for words in [&["agent", "list"][..], &["agent", "revoke", "web1"]] {
        alone(&[&["-r", &url], words].concat()).refused(2, &["is looked after at the site", "run this command there"]);
    }
    let host = Host::joined(&site, "web1", &[]);
    host.0.write("a", b"something");
    host.backup();
    let list = site.pool.run(&["agent", "list"]).ok().text();
    assert!(list.lines().any(|l| l.starts_with("web1 ") && l.ends_with("connected")), "{list}");
    let log = site.pool.run(&["log"]).ok().text();
    assert!(log.contains("agent web1 delivered everything"), "{log}");
    support::eventually("the server tells of an agent", || {
        let told = site.server.as_mut().unwrap().stdout();
        told.contains(r#""agent":"web1""#) && !told.contains(r#""tenant":"web1""#)
    });
    host.run(&["snapshots"]).refused(1, &["may not fetch"]);
    host.run(&["restore", "latest", "--target", "/nowhere"]).refused(1, &["may not fetch"]);
    site.pool.run(&["agent", "revoke", "web1"]).ok();
    site.pool.run(&["agent", "revoke", "web2"]).refused(1, &["no agent of a host 'web2'"]);
    let revoked = || {
        let ran = host.run(&["backup"]).exits(1);
        assert!(ran.err.contains("revoked") && !ran.err.contains("tenant"), "{}", ran.err);
    };
    revoked();
    assert_eq!(site.pool.snapshots().len(), 1);
    // It may come back, with more rights, and keeps what it knows and its profile.
    let invitation = invite(&site, "web1", &["--allow", "restore"]);
    revoked();
    let sent = |ran: &Ran| summary(ran)["data_added_packed"].as_u64().unwrap_or_default();
    host.0.write("large", &noise(1, 6 << 20));
    host.join(&invitation, &[]).ok();
    host.backup();
    let again = host.run(&["--json", "backup"]).ok();
    assert!(sent(&again) < 1 << 20, "{}", again.text());
    assert_eq!(site.pool.snapshots().len(), 3);
    assert!(host.run(&["snapshots"]).ok().text().contains("web1"));
    // A host that leaves takes its profile away, unless somebody has changed that.
    let profile = host.config().join("packmule/site.toml");
    let told = host.run(&["agent", "leave"]).ok().text();
    assert!(told.contains("and removed") && !profile.exists(), "{told}");
    host.join(&invite(&site, "web1", &[]), &[]).ok();
    fs::write(&profile, fs::read_to_string(&profile).unwrap() + "tag = [\"mine\"]\n").unwrap();
    let told = host.run(&["agent", "leave"]).ok().text();
    assert!(told.contains("was changed, and stays") && profile.exists(), "{told}");
    fs::remove_file(profile).unwrap();
    // Where the site is reached stands in its settings too; and nothing lasts longer than time.
    site.pool.run(&["agent", "invite", "web1"]).refused(2, &["nothing says where the host reaches this site"]);
    fs::write(site.pool.repo().join("server.toml"), format!("address = {:?}\n", site.address)).unwrap();
    let invited = site.pool.run(&["--json", "agent", "invite", "web1", "--lifetime", "1000y"]).ok().json().remove(0);
    assert!(invited["expires"].as_str().unwrap().starts_with("2262-"), "{invited}");
    host.join(invited["invitation"].as_str().unwrap(), &["--exclude-caches"]).ok();
    assert!(fs::read_to_string(host.config().join("packmule/site.toml")).unwrap().contains("exclude-caches = true"));
    site.stop();
    host.run(&["backup"]).refused(13, &["cannot"]);
    site.pool.run(&["check", "--read-data"]).ok();
}

#[test]
fn a_hosts_own_key_is_not_in_what_it_saves() {
    let site = served();
    let host = Host::joined(&site, "web1", &["--allow", "restore"]);
    let home = host.0.home();
    host.run(&["backup", home.to_str().unwrap(), "--source", "home"]).ok();
    assert!(host.run(&["find", "site.toml"]).ok().text().contains("site.toml"));
    assert!(!host.run(&["find", "identity"]).text().contains("identity"));
}

#[test]
fn a_host_that_may_restore_sees_its_own_snapshots_and_no_others() {
    let site = served();
    let (host, other) = (Host::joined(&site, "web1", &["--allow", "restore"]), Host::joined(&site, "web2", &[]));
    other.0.write("secret", b"of another host");
    other.backup();
    host.0.write("dir/a", &noise(1, 300_000));
    host.0.write("large", &noise(2, 9 << 20));
    let first = host.backup();
    host.0.write("dir/b", b"more");
    let second = host.backup();
    let listed = host.run(&["--json", "snapshots"]).ok().json();
    let ids: Vec<&str> = listed.iter().filter_map(|m| m["id"].as_str()).collect();
    assert_eq!(ids, [&first, &second]);
    let src = host.0.src();
    let inside = format!("latest:{}", src.display());
    assert!(host.run(&["ls", &format!("{inside}/dir")]).ok().text().contains('b'));
    let target = host.0.path().join("back");
    host.run(&["restore", &inside, "--target", target.to_str().unwrap()]).ok();
    same(&src, &target, &[]);
    assert_eq!(host.run(&["dump", "latest", &format!("{}/dir/b", src.display())]).ok().out, b"more");
    assert!(!host.run(&["find", "secret"]).text().contains("secret"));
    // A mount reads what it is asked for.
    let at = host.0.mnt();
    let undo = support::Undo(at.clone());
    let mut mount = host.start(&["mount", at.to_str().unwrap()]);
    let top = at.join("hosts");
    support::eventually("the mount comes up", || {
        assert!(!mount.ended() || top.exists(), "{}", mount.stderr());
        top.exists()
    });
    let names: Vec<_> = fs::read_dir(&top).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["web1"]);
    let source = fs::read_dir(top.join("web1")).unwrap().next().unwrap().unwrap().path();
    let inside = source.join("latest").join(src.strip_prefix("/").unwrap());
    same(&src, &inside.canonicalize().unwrap(), &[]);
    drop(undo);
    mount.wait();
}

#[test]
fn a_lost_site_comes_back_with_its_agents() {
    let pool = Cloud::new(&["acme"]);
    let mut site = served();
    let host = Host::joined(&site, "web1", &[]);
    host.0.write("dir/a", &noise(1, 300_000));
    host.0.write("large", &noise(2, 9 << 20));
    host.backup();
    pool.join("acme", &site.pool);
    let pushed = support::pool::pushed(&site.pool);
    assert_eq!(pushed["snapshots_sent"], 1);
    // What the pool keeps for the site it keeps once.
    let kept = || {
        let log = pool.pool.run(&["log"]).ok().text();
        log.lines().filter(|line| line.contains("what it wants back")).count()
    };
    assert_eq!(kept(), 1);
    host.0.write("dir/b", b"more");
    host.backup();
    support::pool::pushed(&site.pool);
    assert_eq!(kept(), 1, "nothing about the agents has changed");

    site.kill();
    fs::rename(site.pool.repo(), site.pool.path().join("lost")).unwrap();
    host.run(&["backup"]).refused(13, &[]);
    let words = ["-q", "tenant", "invite", "acme", "--restore", "--address", &pool.address];
    let invitation = pool.pool.run(&words).ok().text();
    let password = site.pool.path().join("password");
    let words = ["init", "--from", "cloud", "--password-file", password.to_str().unwrap()];
    let ran = fed(&site.pool, site.pool.program(&words), &invitation).ok();
    assert!(ran.err.contains("1 agent came back"), "{}", ran.err);
    let words = ["key", "add", "--recipient", support::RECIPIENT, "--label", "fast"];
    site.pool.with_password(&words, support::PASSWORD).ok();
    // The host goes on without a word, before and after the site has its snapshots back.
    let (address, host_key) = (site.address.clone(), site.host_key.clone());
    site.start();
    assert_eq!((&site.address, &site.host_key), (&address, &host_key), "the same to who knew it");
    host.0.write("dir/c", b"after");
    let before = host.backup();
    has(&site, &host, &before);
    site.pool.run(&["sync", "pull", "cloud"]).ok();
    assert_eq!(site.pool.snapshots().len(), 3);
    host.0.write("dir/d", b"and more");
    let ran = host.run(&["--json", "backup"]).ok();
    has(&site, &host, &saved(&ran));
    site.pool.run(&["check", "--read-data"]).ok();
    support::pool::pushed(&site.pool);
    pool.pool.run(&["check", "--read-data"]).ok();
}

/// Numbers that look random, the same each time.
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

#[test]
fn killed_at_any_moment_nothing_is_lost_or_stored_twice() {
    let mut site = served();
    let host = Host::joined(&site, "web1", &[]);
    host.0.write("first", &noise(1, 20 << 20));
    let begin = std::time::Instant::now();
    host.backup();
    let usual = begin.elapsed().as_micros() as u64;
    let (mut random, mut killed) = (Seeded(11), [0, 0]);
    for round in 0..20u64 {
        host.0.write(&format!("new/{}", round % 3), &noise(100 + round, 12 << 20));
        host.0.write(&format!("small/{round}"), &noise(200 + round, 3000));
        for _ in 0..=random.below(2) {
            let mut backup = host.start(&["backup"]);
            std::thread::sleep(Duration::from_micros(random.below(usual)));
            if backup.ended() {
                assert!([0, 13].contains(&backup.wait().code));
                continue;
            }
            let server = random.below(2) == 0;
            killed[usize::from(server)] += 1;
            if server {
                site.kill();
                let ran = backup.wait();
                assert!([0, 13].contains(&ran.code), "{ran:?}");
                site.start();
            } else {
                backup.signal(Signal::SIGKILL);
                assert!([-9, 0].contains(&backup.wait().code));
            }
        }
        // The site may still be busy with what the killed one sent.
        let ran = host.run(&["--json", "backup", "--retry"]).ok();
        if round % 5 == 4 {
            has(&site, &host, &saved(&ran));
        }
    }
    assert!(killed.iter().all(|n| *n > 1), "{killed:?}");
    let last = host.backup();
    assert_eq!(site.spooled().into_iter().filter(|(p, _)| !p.ends_with("lock")).count(), 0);
    site.stop();
    has(&site, &host, &last);
    site.pool.run(&["check", "--read-data"]).ok();
    // All that was ever new, once.
    let made = (20u64 << 20) + 20 * (12 << 20) + 20 * 3000;
    let stored = site.stored();
    assert!(stored < made + made / 50, "{stored} bytes of packs for {made} of files");
}
