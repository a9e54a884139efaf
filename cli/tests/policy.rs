//! What an operator sets for tenants, by the real program.

mod support;

use support::pool::{Cloud, other_site, pushed};
use support::{Ran, Site, noise};

/// A pool with two tenants, and their sites, with three snapshots each.
fn shared() -> (Cloud, Site, Site) {
    let cloud = Cloud::new(&["acme", "globex"]);
    let site = |name: &str, seed| {
        let site = other_site();
        site.write("common", &noise(1, 300_000));
        for n in 0..3u8 {
            site.write("own", &noise(seed + u64::from(n), 200_000));
            site.backup();
        }
        cloud.join(name, &site);
        assert_eq!(pushed(&site)["snapshots_sent"], 3);
        site
    };
    let (acme, globex) = (site("acme", 10), site("globex", 20));
    (cloud, acme, globex)
}

fn message(ran: &Ran, kind: &str) -> serde_json::Value {
    ran.json().into_iter().find(|m| m["message_type"] == kind).unwrap_or_else(|| panic!("no {kind}: {}", ran.text()))
}

#[test]
fn each_tenant_s_rules_by_one_command() {
    let (cloud, ..) = shared();
    let pool = &cloud.pool;
    pool.run(&["forget", "--all-tenants"]).refused(2, &["no rules are set", "tenant set"]);
    pool.run(&["tenant", "set", "acme"]).refused(2, &["nothing says what to set"]);
    pool.run(&["tenant", "set", "acme", "--default", "--hold", "1h"]).exits(2);
    pool.run(&["tenant", "set", "acme", "--keep-last", "1", "--hold", "7d"]).ok();
    let shown = cloud.tenant("acme");
    assert_eq!((&shown["keep"][0], &shown["hold_seconds"]), (&"last=1".into(), &604_800.into()));
    assert_eq!(shown["own"], serde_json::json!(["hold", "keep"]));
    let text = pool.run(&["tenant", "show", "acme"]).ok().text();
    assert!(text.contains("keeps last=1") && text.contains("7d"), "{text}");

    let done = pool.run(&["forget", "--all-tenants", "--dry-run"]).ok();
    assert!(done.text().contains("tenant globex has no rules of its own: everything of it is kept"), "{}", done.text());
    let done = pool.run(&["--json", "forget", "--all-tenants"]).ok();
    assert_eq!(message(&done, "forgotten")["snapshots"].as_array().unwrap().len(), 2);
    pool.run(&["forget", "--tenant", "globex"]).refused(2, &["no rules are set"]);
    // The pool's word, and one who is set apart from it.
    pool.run(&["tenant", "set", "--default", "--keep-last", "2", "--window", "none"]).ok();
    pool.run(&["tenant", "set", "acme", "--keep-all"]).ok();
    let done = pool.run(&["--json", "forget", "--all-tenants"]).ok();
    assert_eq!(message(&done, "forgotten")["snapshots"].as_array().unwrap().len(), 1);
    assert_eq!(message(&done, "forget_group")["tenant"], "globex");
    pool.run(&["tenant", "set", "acme", "--keep-default"]).ok();
    assert_eq!(cloud.tenant("acme")["own"], serde_json::json!(["hold"]));
    // As the service runs it.
    let profiles = pool.home().join(".config/packmule");
    std::fs::create_dir_all(&profiles).unwrap();
    std::fs::write(profiles.join("pool.toml"), "[forget]\nall-tenants = true\n").unwrap();
    let done = pool.run(&["-P", "pool", "--json", "forget", "--prune"]).ok();
    assert_eq!(message(&done, "forgotten")["snapshots"].as_array().unwrap().len(), 0);
    // The command line goes before.
    let done = pool.run(&["--json", "forget", "--tenant", "globex", "--keep-last", "1"]).ok();
    assert_eq!(message(&done, "forgotten")["snapshots"].as_array().unwrap().len(), 1);
}

#[test]
fn nobody_deletes_within_the_window() {
    let (cloud, acme, _) = shared();
    let pool = &cloud.pool;
    pool.run(&["tenant", "set", "acme", "--window", "30d", "--hold", "none"]).ok();
    let ids = acme.snapshots();
    let forgot = pool.run(&["forget", &ids[0]]).ok().text();
    assert!(forgot.contains("brings it back until"), "{forgot}");
    let held = &pool.run(&["--json", "snapshots", "--forgotten"]).ok().json()[0];
    assert!(held["held_until"].as_str() > held["time"].as_str());
    for words in [&["prune", "--release-held"][..], &["prune", "--release-held", "-n"]] {
        pool.run(words).refused(1, &["within the window in which nobody may delete", "leave --release-held out"]);
    }
    let said = pool.run(&["tenant", "set", "acme", "--window", "none"]).ok().text();
    assert!(said.contains("what was received until now stays for 30d"), "{said}");
    pool.run(&["prune", "--release-held"]).refused(1, &["within the window"]);
    // What another has forgotten is freed; this stays, and that is said.
    pool.run(&["forget", "--tenant", "globex", "--keep-last", "1"]).ok();
    let pruned = pool.run(&["--json", "prune", "--release-held"]).ok();
    let summary = message(&pruned, "summary");
    assert_eq!(
        (&summary["in_window"]["snapshots"], summary["snapshots_removed"].as_array().unwrap().len()),
        (&1.into(), 2)
    );
    pool.run(&["unforget", &ids[0]]).ok();
    assert!(pool.run(&["dump", &ids[0], "own"]).ok().out == noise(10, 200_000));
    // Keeping by rules leaves what is within the window alone.
    let done = pool.run(&["forget", "--tenant", "acme", "--keep-last", "1"]).ok().text();
    assert!(done.contains("within the window") && done.contains("forgot no snapshot"), "{done}");
}

#[test]
fn a_tenant_is_removed_and_that_is_certified() {
    let (cloud, acme, globex) = shared();
    let pool = &cloud.pool;
    let stored = cloud.stored();
    pool.run(&["tenant", "set", "acme", "--hold", "48h"]).ok();
    let waiting = message(&pool.run(&["--json", "tenant", "remove", "acme"]).ok(), "tenant_removal");
    assert_eq!(waiting["snapshots"], 3);
    // At once: the server that runs refuses it, and goes on serving the other.
    acme.run(&["sync", "push", "cloud"]).exits(1);
    globex.write("more", b"more");
    globex.backup();
    assert_eq!(pushed(&globex)["snapshots_sent"], 1);
    assert_eq!(pool.snapshots().len(), 4);
    assert!(pool.run(&["tenant", "list"]).ok().text().contains("being removed"));
    assert!(pool.run(&["tenant", "show", "acme"]).ok().text().contains("gone from"));
    assert!(pool.run(&["log"]).ok().text().contains("tenant acme is to be removed"));
    pool.run(&["prune"]).ok();
    assert!(pool.run(&["tenant", "show", "acme"]).ok().text().contains("being removed"));
    // Back, and off for good.
    pool.run(&["tenant", "resume", "acme"]).ok();
    acme.write("later", b"later");
    acme.backup();
    assert_eq!(pushed(&acme)["snapshots_sent"], 1);
    assert_eq!(pool.snapshots().len(), 8);
    pool.run(&["tenant", "set", "acme", "--window", "1h"]).ok();
    let text = pool.run(&["tenant", "remove", "acme", "--release-held"]).ok().text();
    assert!(text.contains("tenant resume acme"), "the window is waited for: {text}");
    pool.run(&["tenant", "resume", "acme"]).ok();

    // One without a window goes when told so.
    let ids = globex.snapshots();
    let text = pool.run(&["tenant", "remove", "globex", "--release-held"]).ok().text();
    assert!(text.contains("removed") && text.contains("For you alone:"), "{text}");
    pool.run(&["dump", &ids[0], "common"]).exits(1);
    let certificate = message(&pool.run(&["--json", "tenant", "show", "globex"]).ok(), "certificate");
    assert_eq!((&certificate["snapshots"], &certificate["tenant"]), (&4.into(), &"globex".into()));
    assert!(certificate["shared_bytes"].is_null(), "what others have is not in it");
    assert!(cloud.stored() < stored - 550_000, "{} of {stored}", cloud.stored());
    assert!(pool.run(&["log"]).ok().text().contains("tenant globex was removed, with 4 snapshots"));
    let refused = globex.run(&["sync", "push", "cloud"]).exits(1);
    assert!(!refused.err.contains("removed"), "who is not known learns nothing: {}", refused.err);
    cloud.has(&acme.src());
    assert_eq!(pool.snapshots().len(), 4);
}

#[test]
fn a_site_keeps_what_is_not_at_its_pool() {
    let (cloud, acme, _) = shared();
    acme.write("own", b"new");
    let new = acme.backup();
    acme.write("own", b"newer");
    acme.backup();
    let dry = ["--json", "forget", "--keep-last", "1", "--dry-run"];
    let told = message(&acme.run(&dry).ok(), "forgotten");
    assert_eq!((told["snapshots"].as_array().unwrap().len(), &told["not_pushed"]), (3, &serde_json::json!([new])));
    let told = acme.run(&["forget", "--keep-last", "1", "--dry-run"]).ok().text();
    assert!(told.contains("spared 1 snapshot not yet at every remote"), "{told}");
    acme.run(&["forget", &new]).refused(1, &["is not at remote cloud yet", "--even-unpushed"]);
    let told = message(&acme.run(&[&dry[..], &["--even-unpushed"]].concat()).ok(), "forgotten");
    assert_eq!(told["snapshots"].as_array().unwrap().len(), 4);
    pushed(&acme);
    let told = message(&acme.run(&dry).ok(), "forgotten");
    assert_eq!((told["snapshots"].as_array().unwrap().len(), told["not_pushed"].as_array().unwrap().len()), (4, 0));
    drop(cloud);
}
