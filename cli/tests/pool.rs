//! A pool and the sites that push to it: `init --pool`, `tenant`, `serve`, `remote`, `sync push REMOTE`.

mod support;

use std::process::Command;

use nix::sys::signal::Signal;
use support::pool::{Cloud, add, add_unasked, feed, halfway, other_site, push, pushed};
use support::{Running, Site, eventually, noise};

const MIB: usize = 1 << 20;

/// The error's text, on one line.
fn error(err: &str) -> String {
    err.lines().filter(|l| l.starts_with("packmule: error: ")).collect::<Vec<_>>().join("\n")
}

#[test]
fn two_tenants_with_equal_data_store_it_once() {
    let cloud = Cloud::new(&["acme", "globex"]);
    let (acme, globex) = (Site::filled(), other_site());
    globex.write("large", &noise(2, 5 << 20));
    globex.write("own", b"of globex alone");
    globex.backup();
    cloud.join("acme", &acme);
    cloud.join("globex", &globex);
    let first = pushed(&acme);
    assert_eq!((&first["snapshots_sent"], &first["tenant"]), (&2.into(), &"acme".into()));
    let alone = cloud.stored();
    // It sends all it has: what others have does not show.
    assert!(pushed(&globex)["bytes_sent"].as_u64().unwrap() > 5 << 20);
    assert!(cloud.stored() < alone + 100_000, "{alone} and then {}", cloud.stored());
    assert_eq!(cloud.pool.snapshots().len(), 3);
    cloud.has(&globex.src());
    assert!(cloud.tenant("globex")["owned_bytes"].as_u64().unwrap() > 5 << 20, "it owns what it shares");

    // Nothing new; something new; nothing new again.
    for site in [&acme, &globex] {
        assert_eq!((&pushed(site)["bytes_sent"], &pushed(site)["snapshots_sent"]), (&0.into(), &0.into()));
    }
    acme.write("dir/more", &noise(7, 100_000));
    acme.backup();
    let more = pushed(&acme);
    assert_eq!(more["snapshots_sent"], 1);
    assert!((100_000..130_000).contains(&more["bytes_sent"].as_u64().unwrap()), "{more}");
    let told = acme.run(&["sync", "push", "cloud"]).ok();
    assert!(told.text().contains("up to date"), "{}", told.text());
    cloud.has(&acme.src());
    let listed = acme.run(&["--json", "remote", "list"]).ok().json().remove(0);
    assert_eq!((&listed["pending_snapshots"], &listed["tenant"]), (&0.into(), &"acme".into()));
}

#[test]
fn a_remote_is_shown_and_tested() {
    let mut cloud = Cloud::new(&["acme"]);
    let site = Site::filled();
    cloud.join("acme", &site);
    let show = || site.run(&["--json", "remote", "show", "cloud"]).ok().json().remove(0);
    let before = show();
    assert_eq!((&before["host_key"], &before["kind"]), (&cloud.host_key.as_str().into(), &"pooled".into()));
    assert!(before["pushed"].is_null() && before["pending_snapshots"] == 2, "{before}");
    let keys = cloud.pool.run(&["--json", "tenant", "key", "list", "acme"]).ok().text();
    assert!(keys.contains(before["key"].as_str().unwrap()), "{keys} has not {before}");
    pushed(&site);
    assert!(show()["pushed"].is_string() && show()["pending_snapshots"] == 0, "{}", show());
    let text = site.run(&["remote", "show", "cloud"]).ok().text();
    assert!(text.contains(&cloud.host_key) && text.contains(&cloud.address) && text.contains("acme"), "{text}");
    let tested = site.run(&["--json", "remote", "test", "cloud"]).ok().json().remove(0);
    assert!((0.0..1.0).contains(&tested["round_trip_seconds"].as_f64().unwrap()), "{tested}");
    cloud.stop();
    site.run(&["remote", "test", "cloud"]).refused(13, &[&cloud.address]);
    site.run(&["remote", "test", "nobody"]).refused(1, &["no remote 'nobody'"]);
}

#[test]
fn an_invitation_is_good_once_for_a_time_and_for_its_pool() {
    let (cloud, other) = (Cloud::new(&["acme"]), Cloud::new(&["acme"]));
    let site = Site::filled();
    let line = cloud.invite("acme");
    for cut in [0, 1, 30, line.len() / 2, line.len() - 6, line.len() - 1] {
        add(&site, "cloud", &line[..cut]).refused(2, &["this is no invitation", "whole line"]);
    }
    // One made an hour too early.
    let real = cloud.pool.command(&["-q", "tenant", "invite", "acme", "--lifetime", "1h", "--address", &cloud.address]);
    let mut command = Command::new("faketime");
    command.args(["-f", "-2h"]).arg(real.get_program()).args(real.get_args()).env_clear();
    command.envs(real.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let old = Running::start(command).wait().ok().text();
    add(&site, "cloud", &old).refused(1, &["this invitation is void"]);
    // The secret of another pool, and the address of another pool.
    let foreign = other.invite("acme");
    let secret = |line: &str| line.split(':').nth(4).unwrap().to_owned();
    let changed = |from: &str, to: &str| -> String {
        let line = line.replace(from, to);
        let body = line.trim().rsplit_once(':').unwrap().0;
        let check: String = blake3::hash(body.as_bytes()).as_bytes()[..4].iter().map(|b| format!("{b:02x}")).collect();
        format!("{body}:{check}")
    };
    add(&site, "cloud", &changed(&secret(&line), &secret(&foreign))).refused(1, &["this invitation is void"]);
    let led_astray = changed(&cloud.address, &other.address);
    let refused = add(&site, "cloud", &led_astray).refused(1, &[&cloud.host_key, &other.host_key]);
    assert!(!refused.err.contains(&secret(&line)), "{}", refused.err);
    // None of that used it up.
    add(&site, "cloud", &line).ok();
    add(&site, "again", &line).refused(1, &["void", "ask"]);
    // Also where another one is open.
    let open = cloud.invite("acme");
    add(&site, "again", &line).refused(1, &["this invitation is void", "ask for another"]);
    // The same tenant's: it gets another key.
    add(&site, "cloud", &open).ok();
    // Another repository is not this tenant's.
    add(&other_site(), "cloud", &cloud.invite("acme")).refused(1, &["another repository"]);
    assert_eq!(pushed(&site)["snapshots_sent"], 2);
}

#[test]
fn nobody_hands_out_keys_without_being_asked() {
    let cloud = Cloud::new(&["acme"]);
    let site = Site::filled();
    let line = cloud.invite("acme");
    add_unasked(&site, "cloud", &line).refused(2, &["no terminal", "--yes"]);
    feed(&site, &["remote", "remove", "cloud"], "").refused(1, &["no remote 'cloud'"]);
    add(&site, "cloud", &line).ok();
}

#[test]
fn another_servers_key_is_refused() {
    let mut cloud = Cloud::new(&["acme"]);
    let site = Site::filled();
    cloud.join("acme", &site);
    cloud.stop();
    let other = Cloud::at(&cloud.address, &["acme"]);
    assert_ne!(other.host_key, cloud.host_key);
    push(&site).exits(1);
    let told = site.run(&["sync", "push", "cloud"]).refused(1, &[&cloud.host_key, &other.host_key]);
    assert!(error(&told.err).contains(&cloud.address), "{}", told.err);
    // It is no reason to try again and again.
    site.run(&["sync", "push", "cloud", "--retry"]).refused(1, &[&other.host_key]);
}

#[test]
fn a_server_that_is_away_is_waited_for() {
    let mut cloud = Cloud::new(&["acme"]);
    let site = Site::filled();
    cloud.join("acme", &site);
    cloud.stop();
    site.run(&["sync", "push", "cloud"]).refused(13, &[&cloud.address]);
    let mut waiting = site.start(&["sync", "push", "cloud", "--retry"]);
    eventually("it says that it waits", || waiting.stderr().contains("trying again in"));
    // The site goes on meanwhile.
    site.write("meanwhile", &noise(5, 50_000));
    site.backup();
    cloud.start();
    waiting.wait().ok();
    cloud.has(&site.src());
    // Or is told to give up.
    cloud.stop();
    let mut waiting = site.start(&["sync", "push", "cloud", "--retry"]);
    eventually("it says that it waits", || waiting.stderr().contains("trying again in"));
    waiting.signal(Signal::SIGTERM);
    assert_ne!(waiting.wait().code, 0);
}

#[test]
fn a_suspended_tenant_is_refused_until_it_is_resumed() {
    let cloud = Cloud::new(&["acme", "globex"]);
    let site = Site::filled();
    cloud.join("acme", &site);
    cloud.pool.run(&["tenant", "suspend", "acme"]).ok();
    assert_eq!(cloud.tenant("acme")["suspended"], true);
    // Whether some other tenant has an open invitation or none.
    site.run(&["sync", "push", "cloud"]).refused(1, &["suspended"]);
    cloud.invite("globex");
    site.run(&["sync", "push", "cloud"]).refused(1, &["not known here, or was revoked"]);
    assert!(cloud.pool.snapshots().is_empty());
    cloud.pool.run(&["tenant", "resume", "acme"]).ok();
    assert_eq!(pushed(&site)["snapshots_sent"], 2);
}

#[test]
fn a_revoked_key_is_refused_and_the_others_are_not() {
    let cloud = Cloud::new(&["acme"]);
    let site = Site::filled();
    cloud.join("acme", &site);
    add(&site, "second", &cloud.invite("acme")).ok();
    let keys = cloud.pool.run(&["--json", "tenant", "key", "list", "acme"]).ok().json();
    assert_eq!(keys.len(), 2);
    assert_eq!((&keys[0]["roles"], &keys[0]["label"]), (&serde_json::json!(["push", "pull"]), &"site".into()));
    let print = keys[0]["fingerprint"].as_str().unwrap();
    let revoke = |key: &str| cloud.pool.run(&["tenant", "key", "revoke", "acme", key]);
    revoke("").refused(1, &["more than one"]);
    revoke("SHA256:AAAAnone").refused(1, &["no key in use"]);
    let told = revoke(&print[..20]).ok().text();
    assert!(told.contains(print), "{told}");
    revoke(print).refused(1, &["no key in use"]);
    let listed = cloud.pool.run(&["tenant", "key", "list", "acme"]).ok().text();
    assert!(listed.contains(print) && listed.contains("Revoked"), "{listed}");
    assert_eq!((&cloud.tenant("acme")["keys"], &cloud.tenant("acme")["keys_revoked"]), (&1.into(), &1.into()));
    site.run(&["sync", "push", "cloud"]).refused(1, &["revoked"]);
    site.run(&["sync", "push", "second"]).ok();
    cloud.has(&site.src());
    // Another invitation makes it the same remote again.
    add(&site, "cloud", &cloud.invite("acme")).ok();
    assert_eq!(pushed(&site)["bytes_sent"], 0);
    assert_eq!(site.run(&["--json", "remote", "list"]).ok().json().len(), 2);
    let invited = cloud.pool.run(&["--json", "tenant", "invite", "acme", "--address", "x", "--lifetime", "1000y"]);
    assert!(invited.ok().json()[0]["expires"].as_str().unwrap().starts_with("2262-"));
}

#[test]
fn a_tenants_key_is_replaced_by_one_of_its_sites_making() {
    let cloud = Cloud::new(&["acme", "globex"]);
    let site = Site::filled();
    cloud.join("acme", &site);
    pushed(&site);
    let print = |n: usize| {
        let keys = cloud.pool.run(&["--json", "tenant", "key", "list", "acme"]).ok().json();
        (keys.len(), keys[n]["fingerprint"].as_str().unwrap().to_owned(), keys[n].get("revoked").is_some())
    };
    let (_, old, _) = print(0);
    let rotate = ["-q", "tenant", "key", "rotate", "acme", "--address", &cloud.address];
    let line = cloud.pool.run(&rotate).ok().text();
    // Until it is taken up everything goes on as it was.
    assert_eq!(pushed(&site)["bytes_sent"], 0);
    // Another tenant's invitation does not take the remote's name.
    add(&site, "cloud", &cloud.invite("globex")).refused(1, &["a remote 'cloud' already"]);
    let open = cloud.invite("acme");
    add(&site, "cloud", &line).ok();
    add(&site, "again", &open).refused(1, &["this invitation is void"]);
    assert_eq!(print(0), (2, old.clone(), true), "the old one is revoked");
    let (_, new, revoked) = print(1);
    assert!(new != old && !revoked);
    let listed = site.run(&["--json", "remote", "list"]).ok().json();
    assert_eq!(listed.len(), 1, "it is the same remote");
    assert_eq!(pushed(&site)["bytes_sent"], 0);
    let listed = site.run(&["--json", "remote", "list"]).ok().json();
    assert_eq!(listed[0]["pending_snapshots"], 0);
    let audit = cloud.pool.run(&["log", "--audit"]).ok().text();
    assert!(audit.contains("tenant key rotate"), "{audit}");
}

#[test]
fn a_key_may_do_only_what_its_invitation_allowed() {
    let cloud = Cloud::new(&["acme"]);
    let site = Site::filled();
    let allowing = |roles: &str| {
        let words = ["-q", "tenant", "invite", "acme", "--address", &cloud.address, "--allow", roles];
        cloud.pool.run(&words).ok().text()
    };
    let refused = cloud.pool.run(&["tenant", "invite", "acme", "--address", "x", "--allow", "agent"]).exits(2);
    assert!(refused.err.contains("push, pull"), "{}", refused.err);
    add(&site, "writer", &allowing("push")).ok();
    add(&site, "reader", &allowing("pull")).ok();
    site.run(&["sync", "push", "reader"]).refused(1, &["may not deliver"]);
    site.run(&["sync", "push", "writer"]).ok();
    site.run(&["sync", "pull", "writer"]).refused(1, &["may not fetch"]);
    site.run(&["sync", "pull", "reader"]).ok();
    cloud.has(&site.src());
}

#[test]
fn a_second_push_at_once_is_told_to_come_back() {
    let cloud = Cloud::new(&["acme"]);
    let site = Site::new();
    site.write("large", &noise(3, 40 * MIB));
    site.backup();
    cloud.join("acme", &site);
    let first = halfway(&cloud, &site);
    site.run(&["sync", "push", "cloud"]).refused(13, &["another push of this repository is running"]);
    first.signal(Signal::SIGCONT);
    first.wait().ok();
    cloud.has(&site.src());
}

#[test]
fn a_pool_has_one_server() {
    let mut cloud = Cloud::new(&[]);
    let serve = ["serve", "--listen", "127.0.0.1:0"];
    cloud.pool.run(&serve).refused(11, &["another server of this repository"]);
    cloud.kill();
    cloud.start();
    // What has hosts of its own is a site, and the other way round.
    cloud.pool.run(&["agent", "invite", "web1", "--address", "x"]).refused(1, &["a pool has tenants"]);
    Site::new().run(&["tenant", "create", "acme"]).refused(1, &["no pool", "init --pool"]);
}

#[test]
fn a_server_that_is_stopped_lets_pushes_come_back() {
    let mut cloud = Cloud::new(&["acme"]);
    let site = Site::new();
    site.write("large", &noise(3, 80 * MIB));
    site.backup();
    cloud.join("acme", &site);
    let push = halfway(&cloud, &site);
    let server = cloud.server.take().unwrap();
    server.signal(Signal::SIGTERM);
    push.signal(Signal::SIGCONT);
    push.wait().refused(13, &["the server is being stopped", "try again"]);
    server.wait().ok();
    assert!(cloud.pool.snapshots().is_empty());
    let open = cloud.pool.run(&["log"]).ok().text();
    assert!(!open.contains("adopted"), "the session ended in order: {open}");
    cloud.start();
    let rest = pushed(&site)["bytes_sent"].as_u64().unwrap();
    assert!(rest < 77 << 20, "what had arrived was sent again: {rest}");
    cloud.has(&site.src());
    assert_eq!(cloud.spooled(), []);
}

#[test]
fn a_quota_holds() {
    let cloud = Cloud::new(&["acme", "globex"]);
    let (acme, globex) = (Site::new(), other_site());
    cloud.pool.run(&["tenant", "set", "acme", "--quota", "3M"]).ok();
    for site in [&acme, &globex] {
        site.write("a", &noise(1, 2 * MIB));
        site.backup();
    }
    cloud.join("globex", &globex);
    cloud.join("acme", &acme);
    pushed(&globex);
    // Exactly what it owns counts, though the pool has it already.
    pushed(&acme);
    let shown = cloud.tenant("acme");
    assert_eq!(shown["quota"], 3 << 20);
    assert!(shown["owned_bytes"].as_u64().unwrap() > 2 << 20, "{shown}");

    acme.write("b", &noise(2, 2 * MIB));
    acme.backup();
    acme.run(&["sync", "push", "cloud"]).refused(14, &["quota at cloud", "1 snapshot"]);
    assert_eq!(cloud.pool.snapshots().len(), 2);
    // What is there is complete still, and no reason to refuse anything.
    let done = acme.run(&["--json", "sync", "push", "cloud"]).exits(14);
    let summary = support::pool::summary(&done);
    assert_eq!((&summary["bytes_sent"], &summary["snapshots_failed"][0].is_string()), (&0.into(), &true));
    cloud.pool.run(&["tenant", "set", "acme", "--quota", "5M"]).ok();
    assert_eq!(pushed(&acme)["snapshots_sent"], 1);
    cloud.has(&acme.src());

    // Far too much is not even taken in.
    acme.write("c", &noise(3, 150 * MIB));
    acme.backup();
    let before = cloud.stored();
    acme.run(&["sync", "push", "cloud"]).refused(14, &["quota is used up", "operator"]);
    let taken = cloud.stored() - before + cloud.spooled().iter().map(|(_, len)| len).sum::<u64>();
    assert!(taken < 80 << 20, "{taken}");
    acme.run(&["sync", "push", "cloud", "--retry"]).refused(14, &["quota is used up"]);
    cloud.pool.run(&["tenant", "set", "acme", "--quota", "none"]).ok();
    assert_eq!(pushed(&acme)["snapshots_sent"], 1);
    assert!(cloud.tenant("acme")["quota"].is_null());
    cloud.has(&acme.src());
    assert_eq!(cloud.spooled(), []);
}
