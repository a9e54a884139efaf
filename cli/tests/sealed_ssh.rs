//! Sealed tenants, as users run them: pushes, killed ones too, reading from the cloud, a lost site, deletion orders, a pool's copy
//! that takes over, and healing in both directions.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::pool::{Cloud, add_unasked, bytes, fed, other_site, push, pushed, summary};
use support::{IDENTITY, Mount, PASSWORD, RECIPIENT, Site, edit, eventually, files, noise, same};

/// A pool with these sealed tenants.
fn sealed(tenants: &[&str]) -> Cloud {
    let cloud = Cloud::new(&[]);
    for tenant in tenants {
        cloud.pool.run(&["tenant", "create", tenant, "--sealed"]).ok();
    }
    cloud
}

/// Where the pool keeps the copy of its only, or its first, sealed tenant.
fn copy(pool: &Path) -> PathBuf {
    let mut all: Vec<PathBuf> =
        fs::read_dir(pool.join("tenants")).unwrap().map(|e| e.unwrap().path().join("copy")).collect();
    all.retain(|dir| dir.join("config").exists());
    all.sort();
    all.swap_remove(0)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Asserts that the copy, opened by its owner, is sound and has what the site has.
#[track_caller]
fn whole(site: &Site, pool: &Path) {
    let at = copy(pool);
    let listed = site.run(&["-r", text(&at), "--json", "snapshots"]).ok().json();
    let ids: Vec<String> = listed.iter().filter_map(|s| s["id"].as_str().map(str::to_owned)).collect();
    assert_eq!(ids, site.snapshots());
    site.run(&["-r", text(&at), "check", "--read-data"]).ok();
    let target = tempfile::tempdir_in(site.path()).unwrap();
    let to = target.path().join("src");
    site.run(&["-r", text(&at), "restore", "latest", "--target", text(&to)]).ok();
    same(&site.src(), &to, &[]);
    for file in files(&site.repo().join("packs")) {
        let there = at.join(file.strip_prefix(site.repo()).unwrap());
        assert!(fs::read(&file).unwrap() == fs::read(&there).unwrap(), "{}", there.display());
    }
}

#[test]
fn a_sealed_tenant_is_pushed_to_browsed_and_pulled_from() {
    let cloud = sealed(&["acme"]);
    let site = Site::filled();
    // Nobody is asked about keys: none go there.
    add_unasked(&site, "cloud", &cloud.invite("acme")).ok();
    let first = pushed(&site);
    assert_eq!(first["snapshots_sent"], 2);
    whole(&site, &cloud.pool.repo());
    assert!(cloud.pool.snapshots().is_empty(), "nothing of it is the pool's");
    let at = copy(&cloud.pool.repo());
    cloud.pool.with_password(&["-r", text(&at), "snapshots"], PASSWORD).refused(12, &["opens no key slot"]);
    for _ in 0..3 {
        let none = pushed(&site);
        assert_eq!((&none["bytes_sent"], &none["packs_sent"]), (&0.into(), &0.into()), "{none}");
    }
    assert_eq!(cloud.tenant("acme")["complete_to"], first["position"]);
    let mount = Mount::new(&site, &site.mnt(), &["--remote", "cloud", "--host", "web"]);
    same(&site.src(), &mount.latest().canonicalize().unwrap(), &[]);
    mount.unmount();
    // What was forgotten here comes back from there.
    let ids = site.snapshots();
    site.run(&["forget", &ids[0]]).ok();
    site.run(&["prune", "--release-held"]).ok();
    assert_eq!(site.snapshots().len(), 1);
    site.run(&["sync", "pull", "cloud", &ids[0][..8]]).ok();
    assert_eq!(site.snapshots().len(), 2);
    site.run(&["check", "--read-data"]).ok();
    pushed(&site);
    let shown = cloud.pool.run(&["tenant", "list"]).ok().text();
    assert!(shown.contains("sealed"), "{shown}");
    assert!(cloud.tenant("acme")["owned_bytes"].as_u64().unwrap() > 5 << 20);
    site.run(&["sync", "push", "cloud", "--audit"]).ok();
}

#[test]
fn only_passwords_are_no_way_into_a_copy() {
    let cloud = sealed(&["acme"]);
    let site = Site::bare();
    site.with_password(&["init", "--no-recovery-code", "--pack-size", "4M"], PASSWORD).ok();
    let path = site.path().join("input");
    fs::write(&path, cloud.invite("acme")).unwrap();
    let mut command = site.program(&["remote", "add", "cloud"]);
    command.env("PACKMULE_PASSWORD", PASSWORD);
    support::Running::fed(command, fs::File::open(path).unwrap().into()).wait().ok();
    site.with_password(&["sync", "push", "cloud"], PASSWORD).refused(1, &["only passwords open", "recovery code"]);
}

#[test]
fn killed_at_any_moment_a_copy_stays_whole() {
    let mut cloud = sealed(&["acme"]);
    let site = Site::new();
    site.write("first", &noise(1, 12 << 20));
    site.backup();
    add_unasked(&site, "cloud", &cloud.invite("acme")).ok();
    let begin = Instant::now();
    pushed(&site);
    let usual = begin.elapsed().as_micros() as u64;
    let (mut state, mut killed) = (7u64, [0, 0]);
    let mut below = |n: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % n
    };
    for round in 0..14 {
        site.write(&format!("new/{}", round % 3), &noise(100 + round, 10 << 20));
        site.backup();
        let mut running = site.start(&["sync", "push", "cloud"]);
        std::thread::sleep(Duration::from_micros(below(usual * 2 / 3)));
        if !running.ended() {
            let server = below(2) == 0;
            killed[usize::from(server)] += 1;
            if server {
                cloud.kill();
                let ran = running.wait();
                assert!([0, 13].contains(&ran.code), "{ran:?}");
                cloud.start();
            } else {
                running.signal(Signal::SIGKILL);
                running.wait();
            }
            // As far as it is complete, it can be opened.
            site.run(&["-r", text(&copy(&cloud.pool.repo())), "snapshots"]).ok();
        }
        if round % 3 == 2 {
            site.run(&["sync", "push", "cloud", "--retry"]).ok();
            whole(&site, &cloud.pool.repo());
        }
    }
    site.run(&["sync", "push", "cloud", "--retry"]).ok();
    whole(&site, &cloud.pool.repo());
    assert!(killed[0] + killed[1] > 2, "{killed:?}");
    cloud.stop();
    let (here, there) = (bytes(&site.repo().join("packs")), bytes(&copy(&cloud.pool.repo()).join("packs")));
    assert_eq!(here, there, "nothing is there twice");
}

/// A site with a recovery code that is known.
fn with_code() -> (Site, PathBuf) {
    let site = Site::bare();
    let made = site.with_password(&["--json", "init", "--pack-size", "4M"], PASSWORD).ok().json();
    let code = made.iter().find_map(|m| m["recovery_code"].as_str().map(str::to_owned)).expect("a code");
    site.with_password(&["key", "add", "--recipient", RECIPIENT, "--label", "fast"], PASSWORD).ok();
    let file = site.path().join("code");
    fs::write(&file, code).unwrap();
    for n in 0..3 {
        site.write("large", &noise(40 + n, 5 << 20));
        site.write("small", &noise(50 + n, 3000));
        site.backup();
    }
    (site, file)
}

#[test]
fn a_lost_sealed_site_comes_back_whole() {
    let cloud = sealed(&["acme"]);
    let (site, code) = with_code();
    add_unasked(&site, "cloud", &cloud.invite("acme")).ok();
    pushed(&site);
    let ids = site.snapshots();
    let invite =
        || cloud.pool.run(&["-q", "tenant", "invite", "acme", "--restore", "--address", &cloud.address]).ok().text();
    fs::rename(site.repo(), site.path().join("lost")).unwrap();
    let init = |code: &Path, line: &str| {
        let password = site.path().join("password");
        let words = ["init", "--from", "cloud", "--password-file", text(&password), "--recovery-code-file", text(code)];
        fed(&site, site.program(&words), line)
    };
    let wrong = site.path().join("wrong");
    fs::write(&wrong, "not the code").unwrap();
    // What cannot be a recovery code uses no invitation up; what is another's needs none for the next try.
    let line = invite();
    init(&wrong, &line).refused(12, &["the recovery code", "still good"]);
    assert!(!site.repo().exists());
    let (_other, foreign) = with_code();
    init(&foreign, &line).refused(12, &["recovery code opens no key slot", "no other invitation"]);
    assert!(!site.repo().join("config").exists());
    init(&code, "").ok();
    assert_eq!(site.snapshots(), ids);
    assert!(!site.repo().join("invitation").exists() && site.repo().join("reserve").exists());
    let keys = cloud.pool.run(&["--json", "tenant", "key", "list", "acme"]).ok().json();
    assert_eq!((keys.len(), keys.iter().filter(|key| key["revoked"].is_null()).count()), (2, 1));
    let status = site.run(&["--json", "sync", "status"]).ok().json().remove(0);
    assert_eq!((&status["pending_snapshots"], status["last_push"].is_null()), (&0.into(), false), "{status}");
    site.run(&["check", "--read-data"]).ok();
    site.with_password(&["snapshots"], PASSWORD).ok();
    site.restores(&ids[2], &site.src());
    // It goes on as the same site.
    assert_eq!(pushed(&site)["packs_sent"], 0);
    site.write("after", &noise(5, 100_000));
    site.backup();
    assert_eq!(pushed(&site)["snapshots_sent"], 1);
    whole(&site, &cloud.pool.repo());
    // An identity does as well.
    fs::rename(site.repo(), site.path().join("lost again")).unwrap();
    let identity = site.path().join("identity");
    assert_eq!(fs::read_to_string(&identity).unwrap().trim(), IDENTITY);
    init(&identity, &invite()).ok();
    assert_eq!(site.snapshots().len(), 4);
}

#[test]
fn at_a_terminal_each_question_is_asked_in_turn_and_a_recovery_code_again() {
    let cloud = sealed(&["acme"]);
    let (site, code) = with_code();
    add_unasked(&site, "cloud", &cloud.invite("acme")).ok();
    pushed(&site);
    fs::rename(site.repo(), site.path().join("lost")).unwrap();
    let line =
        cloud.pool.run(&["-q", "tenant", "invite", "acme", "--restore", "--address", &cloud.address]).ok().text();
    let (_other, foreign) = with_code();
    let [code, foreign] = [&code, &foreign].map(|file| fs::read_to_string(file).unwrap());
    let password = site.path().join("password");
    let real = site.program(&["init", "--from", "cloud", "--password-file", text(&password)]);
    let words: Vec<String> =
        [real.get_program()].into_iter().chain(real.get_args()).map(|w| format!("'{}'", w.to_str().unwrap())).collect();
    let mut command = std::process::Command::new("script");
    command.args(["-qec", &words.join(" "), "/dev/null"]).env_clear();
    command.envs(real.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let ran = fed(&site, command, &format!("{}\nnonsense\n{foreign}\n{code}\n", line.trim())).ok();
    let shown = ran.text();
    let at = |what: &str| shown.find(what).unwrap_or_else(|| panic!("no {what:?} in {shown}"));
    assert!(at("paste the invitation:") < at("recovery code:"), "{shown}");
    assert!(at("the recovery code has") < at("the recovery code opens no key slot"), "{shown}");
    assert_eq!(shown.matches("; try again").count(), 2, "{shown}");
    assert!(!shown.contains("the password"), "{shown}");
    assert_eq!(site.snapshots().len(), 3);
}

#[test]
fn deletions_at_the_pool_are_the_owner_s_to_order() {
    let cloud = sealed(&["acme"]);
    let (site, code) = with_code();
    add_unasked(&site, "cloud", &cloud.invite("acme")).ok();
    pushed(&site);
    let there = || bytes(&copy(&cloud.pool.repo()).join("packs"));
    let before = there();
    site.run(&["forget", "--keep-last", "1"]).ok();
    site.run(&["prune", "--release-held", "--max-unused", "0"]).ok();
    pushed(&site);
    assert!(there() >= before, "a push deletes nothing");
    let delete =
        |code: &Path| site.run(&["--json", "sync", "push", "cloud", "--delete", "--recovery-code-file", text(code)]);
    let (_other, foreign) = with_code();
    site.run(&["sync", "push", "cloud", "--delete", "--recovery-code-file", text(&foreign)])
        .refused(12, &["opens no owner's key"]);
    assert!(there() >= before);
    let told = summary(&delete(&code).ok());
    assert!(told["objects_deleted"].as_u64().unwrap() > 3, "{told}");
    assert!(there() < before / 2, "{} of {before}", there());
    whole(&site, &cloud.pool.repo());
    // Again: nothing is left to delete.
    assert_eq!(summary(&delete(&code).ok())["objects_deleted"], 0);
    let log = cloud.pool.run(&["--json", "log"]).ok().json();
    assert_eq!(log.iter().filter(|line| line["kind"] == "order-obeyed").count(), 1);
    site.write("more", &noise(77, 100_000));
    site.backup();
    pushed(&site);
    whole(&site, &cloud.pool.repo());
}

#[test]
fn the_pool_s_copy_takes_over() {
    let mut cloud = sealed(&["secret"]);
    cloud.pool.run(&["tenant", "create", "open"]).ok();
    let (acme, globex) = (Site::filled(), other_site());
    globex.write("own", &noise(9, 3 << 20));
    globex.backup();
    add_unasked(&acme, "cloud", &cloud.invite("secret")).ok();
    cloud.join("open", &globex);
    pushed(&acme);
    pushed(&globex);
    let second = cloud.pool.path().join("second");
    let settings = "address = \"pool.example.com\"\n";
    fs::write(cloud.pool.repo().join("server.toml"), settings).unwrap();
    let first = summary(&cloud.pool.run(&["--json", "sync", "push", text(&second)]).ok());
    assert!(first["bytes_sent"].as_u64().unwrap() > 8 << 20, "{first}");
    acme.write("more", &noise(10, 200_000));
    acme.backup();
    pushed(&acme);
    let more = summary(&cloud.pool.run(&["--json", "sync", "push", text(&second)]).ok());
    assert!((200_000..500_000).contains(&more["bytes_sent"].as_u64().unwrap()), "{more}");
    let (address, key) = (cloud.address.clone(), cloud.host_key.clone());
    cloud.stop();
    // The first cloud server is lost.
    fs::remove_dir_all(cloud.pool.repo()).unwrap();
    cloud.pool.run(&["-r", text(&second), "serve"]).refused(1, &["sync promote"]);
    let promoted = cloud.pool.run(&["-r", text(&second), "sync", "promote"]).ok();
    assert!(promoted.text().contains("the pool now, with 2 tenants"), "{}", promoted.text());
    assert_eq!(fs::read_to_string(second.join("server.toml")).unwrap(), settings);
    fs::rename(&second, cloud.pool.repo()).unwrap();
    let audit = cloud.pool.run(&["log", "--audit"]).ok().text();
    assert!(audit.contains("sync promote"), "{audit}");
    cloud.start();
    assert_eq!((&cloud.address, &cloud.host_key), (&address, &key));
    for (site, tenant) in [(&acme, "secret"), (&globex, "open")] {
        let none = pushed(site);
        assert_eq!((&none["bytes_sent"], &none["snapshots_sent"]), (&0.into(), &0.into()), "{tenant}: {none}");
        site.write("after", &noise(20, 150_000));
        site.backup();
        assert_eq!(pushed(site)["snapshots_sent"], 1);
        let ids = site.snapshots();
        site.run(&["forget", ids.last().unwrap()]).ok();
        site.run(&["prune", "--release-held"]).ok();
        site.run(&["sync", "pull", "cloud"]).ok();
        assert_eq!(site.snapshots().len(), ids.len());
        site.restores("latest", &site.src());
        pushed(site);
    }
    whole(&acme, &cloud.pool.repo());
    cloud.has(&globex.src());
}

#[test]
fn a_pool_kept_at_another_pool_comes_back_with_everything() {
    let far = sealed(&["first"]);
    let mut cloud = sealed(&["secret"]);
    cloud.pool.run(&["tenant", "create", "open"]).ok();
    let (acme, globex) = (Site::filled(), other_site());
    globex.write("own", &noise(9, 3 << 20));
    globex.backup();
    add_unasked(&acme, "cloud", &cloud.invite("secret")).ok();
    cloud.join("open", &globex);
    pushed(&acme);
    pushed(&globex);
    fed(&cloud.pool, cloud.pool.command(&["remote", "add", "far"]), &far.invite("first")).ok();
    let push = || summary(&cloud.pool.run(&["--json", "sync", "push", "far"]).ok());
    assert!(push()["bytes_sent"].as_u64().unwrap() > 8 << 20);
    acme.write("more", &noise(10, 200_000));
    acme.backup();
    pushed(&acme);
    let more = push()["bytes_sent"].as_u64().unwrap();
    assert!((200_000..500_000).contains(&more), "{more}");
    assert_eq!(push()["bytes_sent"], 0);
    cloud.stop();
    let key = cloud.host_key.clone();
    fs::remove_dir_all(cloud.pool.repo()).unwrap();
    let invitation =
        far.pool.run(&["-q", "tenant", "invite", "first", "--restore", "--address", &far.address]).ok().text();
    let (password, code) = (cloud.pool.path().join("password"), cloud.pool.path().join("identity"));
    let words = ["init", "--from", "far", "--password-file", text(&password), "--recovery-code-file", text(&code)];
    fed(&cloud.pool, cloud.pool.program(&words), &invitation).ok();
    cloud.start();
    assert_eq!(cloud.host_key, key);
    for site in [&acme, &globex] {
        let none = pushed(site);
        assert_eq!((&none["bytes_sent"], &none["snapshots_sent"]), (&0.into(), &0.into()), "{none}");
    }
    acme.write("after", &noise(20, 150_000));
    acme.backup();
    assert_eq!(pushed(&acme)["snapshots_sent"], 1);
    whole(&acme, &cloud.pool.repo());
    cloud.has(&globex.src());
    cloud.pool.run(&["sync", "push", "far"]).ok();
}

/// Damages a site's largest pack, takes another and a manifest away, and a roll-up.
fn hurt(repo: &Path) {
    let mut packs = files(&repo.join("packs"));
    packs.sort_by_key(|p| std::cmp::Reverse(fs::metadata(p).unwrap().len()));
    edit(&packs[0], |bytes| {
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
    });
    fs::remove_file(&packs[1]).unwrap();
    fs::remove_file(&files(&repo.join("snapshots"))[0]).unwrap();
    let rollups = files(&repo.join("footers"));
    edit(&rollups[0], |bytes| bytes[60] ^= 1);
}

#[test]
fn a_site_is_healed_from_a_sealed_copy_and_heals_it() {
    let cloud = sealed(&["acme"]);
    let site = Site::filled();
    add_unasked(&site, "cloud", &cloud.invite("acme")).ok();
    pushed(&site);
    let before: Vec<(PathBuf, Vec<u8>)> = ["packs", "snapshots", "footers"]
        .iter()
        .flat_map(|area| files(&site.repo().join(area)))
        .map(|p| (p.clone(), fs::read(p).unwrap()))
        .collect();
    hurt(&site.repo());
    site.run(&["check", "--read-data"]).exits(5);
    site.run(&["check", "--read-data", "--heal", "cloud"]).ok();
    for (path, bytes) in before {
        assert!(fs::read(&path).unwrap() == bytes, "{}", path.display());
    }
    site.run(&["check", "--read-data"]).ok();
    site.restores("latest", &site.src());
    // The other way round: what the pool's own check finds, and what is gone there.
    let at = copy(&cloud.pool.repo());
    let mut packs = files(&at.join("packs"));
    packs.sort_by_key(|p| std::cmp::Reverse(fs::metadata(p).unwrap().len()));
    edit(&packs[0], |bytes| bytes[1000] ^= 1);
    let told = cloud.pool.run(&["check", "--read-data", "--tenant", "acme"]).exits(5).text();
    assert!(told.contains("the next push of each tenant's site") && !told.contains("next backup"), "{told}");
    assert!(told.contains("1 sealed copy") && !told.contains("; 0 packs of 0 B read"), "{told}");
    assert!(!packs[0].exists());
    cloud.pool.run(&["check", "--read-data"]).ok();
    assert_eq!(pushed(&site)["packs_sent"], 1);
    fs::remove_file(&packs[1]).unwrap();
    fs::remove_file(&files(&at.join("snapshots"))[0]).unwrap();
    fs::remove_file(&files(&at.join("footers"))[0]).unwrap();
    site.run(&["check", "--heal", "cloud"]).ok();
    whole(&site, &cloud.pool.repo());
}

#[test]
fn a_site_is_healed_from_its_pool_and_heals_it() {
    let mut cloud = Cloud::new(&["acme"]);
    let site = Site::filled();
    cloud.join("acme", &site);
    pushed(&site);
    hurt(&site.repo());
    site.run(&["check", "--read-data"]).exits(5);
    site.run(&["check", "--read-data", "--heal", "cloud"]).ok();
    site.run(&["check", "--read-data"]).ok();
    for id in site.snapshots() {
        site.run(&["restore", &id, "--target", text(&site.path().join(&id))]).ok();
    }
    site.restores("latest", &site.src());
    // The pool loses a pack and a manifest, and its check finds it.
    cloud.stop();
    let packs = files(&cloud.pool.repo().join("packs"));
    let largest = packs.iter().max_by_key(|p| fs::metadata(p).unwrap().len()).unwrap();
    edit(largest, |bytes| {
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
    });
    fs::remove_file(&files(&cloud.pool.repo().join("snapshots"))[0]).unwrap();
    cloud.pool.run(&["check", "--read-data"]).exits(5);
    cloud.start();
    // Its next push sends it, without being told to.
    let sent = pushed(&site);
    assert!(sent["bytes_sent"].as_u64().unwrap() > 1 << 20, "{sent}");
    assert_eq!(pushed(&site)["bytes_sent"], 0);
    cloud.pool.run(&["check", "--read-data"]).ok();
    cloud.has(&site.src());
    assert_eq!(cloud.pool.snapshots().len(), 2);
}

#[test]
fn what_no_remote_has_stays_told() {
    let cloud = sealed(&["acme"]);
    let site = Site::filled();
    add_unasked(&site, "cloud", &cloud.invite("acme")).ok();
    pushed(&site);
    site.write("new", &noise(99, 3 << 20));
    site.backup();
    let newest = files(&site.repo().join("packs"))
        .into_iter()
        .max_by_key(|p| fs::metadata(p).unwrap().modified().unwrap())
        .unwrap();
    fs::remove_file(&newest).unwrap();
    let ran = site.run(&["check", "--heal", "cloud"]).exits(5);
    assert!(ran.err.contains("not healed"), "{}", ran.err);
    site.run(&["check", "--heal", "nowhere"]).refused(1, &["no remote 'nowhere'"]);
    eventually("the link is free again", || push(&site).code != 13);
}

#[test]
fn a_removed_sealed_tenant_leaves_nothing() {
    let cloud = sealed(&["acme"]);
    let site = Site::filled();
    add_unasked(&site, "cloud", &cloud.invite("acme")).ok();
    pushed(&site);
    let at = copy(&cloud.pool.repo());
    cloud.pool.run(&["tenant", "set", "acme", "--hold", "1h"]).ok();
    cloud.pool.run(&["tenant", "remove", "acme"]).ok();
    site.run(&["sync", "push", "cloud"]).exits(1);
    assert!(at.exists(), "it is held");
    let text = cloud.pool.run(&["tenant", "remove", "acme", "--release-held"]).ok().text();
    assert!(text.contains("removed") && text.contains("MiB"), "{text}");
    assert!(!at.parent().unwrap().exists());
    cloud.pool.run(&["check"]).ok();
}
