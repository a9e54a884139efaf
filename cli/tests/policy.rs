//! What an operator sets for tenants, by the real program.

mod support;

use std::process::Command;

use support::pool::{Cloud, add, feed, other_site, pushed};
use support::{Ran, Running, Site, noise};

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
    acme.run(&["sync", "push", "cloud"]).refused(1, &["this tenant was removed from the pool"]);
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
    assert!(text.contains("its window") && text.contains("it is 1h now") && text.contains("is held until"), "{text}");
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

/// Runs the program with its clock off by `offset`.
fn at(offset: &str, site: &Site, words: &[&str]) -> Ran {
    let real = site.command(words);
    let mut command = Command::new("faketime");
    command.args(["-f", offset]).arg(real.get_program()).args(real.get_args()).env_clear();
    command.envs(real.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Running::start(command).wait()
}

#[test]
fn a_sealed_tenant_is_as_late_as_its_last_push() {
    let cloud = Cloud::new(&["acme"]);
    let pool = &cloud.pool;
    at("-3d", pool, &["tenant", "create", "vault", "--sealed"]).ok();
    let late = |words: &[&str]| pool.run(&[words, &["--max-age", "26h"]].concat());
    assert!(late(&["sync", "status", "vault"]).exits(5).text().contains("LATE"));
    assert!(late(&["status", "--tenant", "vault"]).exits(5).text().contains("never"));
    let site = Site::new();
    site.write("data", &noise(1, 100_000));
    site.backup();
    cloud.join("vault", &site);
    pushed(&site);
    let text = late(&["sync", "status", "vault"]).ok().text();
    assert!(!text.contains("never") && text.contains("sealed"), "{text}");
    let text = late(&["status", "--tenant", "vault"]).ok().text();
    assert!(text.lines().any(|l| l.starts_with("vault ") && l.ends_with("0m     sealed")), "{text}");
    let told = message(&pool.run(&["--json", "sync", "status", "vault"]).ok(), "tenant_status");
    assert!(told["last_push"].is_string() && told["snapshots"].is_null() && told["late"] == false, "{told}");
    // What cannot be known is not made up, and what cannot be done is refused.
    let text = pool.run(&["tenant", "show", "vault"]).ok().text();
    assert_eq!(text.matches("sealed: not readable here").count(), 3, "{text}");
    assert!(cloud.tenant("vault")["snapshots"].is_null() && cloud.tenant("vault")["last_push"].is_string());
    let mnt = pool.mnt();
    let mount = ["mount", mnt.to_str().unwrap(), "--tenant", "vault"];
    for words in [&mount[..], &["forget", "--tenant", "vault", "--keep-last", "1"], &["snapshots", "--tenant", "vault"]]
    {
        pool.run(words).refused(1, &["tenant vault is sealed: its snapshots are not readable here"]);
    }
    at("+2d", pool, &["sync", "status", "--max-age", "26h", "vault"]).exits(5);
    let list = pool.run(&["tenant", "list"]).ok().text();
    assert!(list.lines().any(|l| l.starts_with("vault ") && l.ends_with("connected")), "{list}");
    assert!(list.lines().any(|l| l.starts_with("acme ") && l.ends_with("not connected yet")), "{list}");
}

#[test]
fn every_command_that_changes_something_says_so_in_json() {
    let cloud = Cloud::new(&["acme"]);
    let (pool, site) = (&cloud.pool, other_site());
    let done = |site: &Site, words: &[&str], action: &str| {
        let told = message(&site.run(&[&["--json"], words].concat()).ok(), "summary");
        assert_eq!(told["action"], action, "{told}");
        told
    };
    let added = feed(&site, &["--json", "remote", "add", "cloud", "--yes"], &cloud.invite("acme")).ok();
    let added = message(&added, "summary");
    assert_eq!((&added["action"], &added["tenant"]), (&"remote add".into(), &"acme".into()));
    let key = message(&pool.run(&["--json", "tenant", "key", "list", "acme"]).ok(), "tenant_key");
    let key = key["fingerprint"].as_str().unwrap().to_owned();
    for (words, action) in [
        (&["tenant", "create", "globex", "--quota", "1M"][..], "tenant create"),
        (&["tenant", "set", "acme", "--quota", "2M", "--window", "1h"], "tenant set"),
        (&["tenant", "set", "acme", "--window", "none"], "tenant set"),
        (&["tenant", "set", "--default", "--keep-last", "3"], "tenant set"),
        (&["tenant", "suspend", "acme"], "tenant suspend"),
        (&["tenant", "resume", "acme"], "tenant resume"),
        (&["tenant", "key", "revoke", "acme", &key], "tenant key revoke"),
    ] {
        let ran = pool.run(&[&["--json"], words].concat()).ok();
        assert_eq!(ran.json().len(), 1, "one message and no text: {}", ran.text());
        let told = done(pool, &["tenant", "resume", "globex"], "tenant resume");
        assert_eq!(told["tenant"], "globex");
        assert_eq!(message(&ran, "summary")["action"], action);
    }
    let set = done(pool, &["tenant", "set", "acme", "--keep-daily", "7"], "tenant set");
    assert_eq!(
        (&set["tenant"], &set["quota"], &set["keep"][0]),
        (&"acme".into(), &(2 << 20).into(), &"daily=7".into())
    );
    assert_eq!(done(&site, &["remote", "remove", "cloud"], "remote remove")["remote"], "cloud");
    site.run(&["-q", "agent", "invite", "web1", "--address", "localhost"]).ok();
    assert_eq!(done(&site, &["agent", "revoke", "web1"], "agent revoke")["host"], "web1");
    site.write("a", b"a");
    site.backup();
    let copy = site.path().join("copy");
    site.run(&["sync", "push", copy.to_str().unwrap()]).ok();
    let told = done(&site, &["-r", copy.to_str().unwrap(), "sync", "promote"], "sync promote");
    assert_eq!(told["snapshots"], 1);
}

#[test]
fn an_open_invitation_is_listed_and_taken_back() {
    let cloud = Cloud::new(&["acme"]);
    let pool = &cloud.pool;
    let made = pool.run(&["tenant", "invite", "acme", "--address", &cloud.address, "--label", "first"]).ok();
    assert_eq!(made.text().lines().count(), 1, "the line alone is on standard output: {}", made.text());
    assert!(made.err.contains("good once, until"), "{}", made.err);
    let second = cloud.invite("acme");
    let open = || -> Vec<serde_json::Value> { pool.run(&["--json", "tenant", "invite", "acme", "--list"]).ok().json() };
    let listed = open();
    assert_eq!(listed.len(), 2);
    assert_eq!((&listed[0]["label"], &listed[0]["roles"]), (&"first".into(), &serde_json::json!(["push", "pull"])));
    let id = listed[0]["id"].as_str().unwrap();
    assert_eq!(cloud.tenant("acme")["open_invitations"][0]["id"], id);
    assert!(pool.run(&["tenant", "show", "acme"]).ok().text().contains(&format!("{id}, first (push,pull), until")));
    pool.run(&["tenant", "invite", "acme", "--withdraw", "zz"]).refused(1, &["no open invitation 'zz'", "--list"]);
    let gone = pool.run(&["tenant", "invite", "acme", "--withdraw", &id[..6]]).ok().text();
    assert!(gone.contains(id) && gone.contains("is void"), "{gone}");
    assert_eq!(open().len(), 1);
    let site = other_site();
    add(&site, "cloud", made.text().trim()).refused(1, &["this invitation is void"]);
    add(&site, "cloud", &second).ok();
    assert_eq!(open().len(), 0);
    assert!(pool.run(&["log", "--audit"]).ok().text().contains("tenant invite withdrawn of acme"));
    // Who has nothing of that name is told where to look for names.
    let absent = site.run(&["sync", "status", "clod"]).refused(1, &["no remote 'clod'", "remote list"]);
    assert!(!absent.err.contains("tenant"), "{}", absent.err);
}

#[test]
fn one_tenant_is_checked_alone_and_a_prune_is_everybody_s() {
    let (cloud, acme, _) = shared();
    let pool = &cloud.pool;
    let all = message(&pool.run(&["--json", "check", "--read-data"]).ok(), "summary");
    let one = message(&pool.run(&["--json", "check", "--read-data", "--tenant", "acme"]).ok(), "summary");
    assert_eq!((&all["snapshots_checked"], &one["snapshots_checked"]), (&6.into(), &3.into()));
    let packs =
        |summary: &serde_json::Value| (summary["packs"].as_u64().unwrap(), summary["packs_read"].as_u64().unwrap());
    assert!(packs(&one).0 < packs(&all).0 && packs(&one).0 == packs(&one).1, "{one} of {all}");
    pool.run(&["check", "--tenant", "nobody"]).refused(1, &["no tenant 'nobody'"]);
    // Damage of another's is not its business, and what is known of the whole pool is not forgotten over it.
    let before = pool.run(&["--json", "status"]).ok().json();
    let pack = pack_of(&cloud, "globex");
    support::edit(&pack, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle..middle + 4].copy_from_slice(b"harm");
    });
    pool.run(&["check", "--read-data", "--tenant", "acme"]).ok();
    let after = pool.run(&["--json", "status"]).ok().json();
    assert_eq!(before.last().unwrap()["last_full_check"]["time"], after.last().unwrap()["last_full_check"]["time"]);
    let found = pool.run(&["check", "--read-data", "--tenant", "globex"]).exits(5).text();
    assert!(found.contains("globex/") && found.contains("the next push of each tenant's site"), "{found}");
    assert_eq!(pool.run(&["--json", "status"]).exits(5).json().last().unwrap()["damaged_packs"], 1);
    pool.run(&["prune", "--tenant", "acme"]).refused(2, &["for all of them", "forget --tenant"]);
    drop(acme);
}

/// The one pack that a check of the tenant alone reads, and one of the other does not.
fn pack_of(cloud: &Cloud, tenant: &str) -> std::path::PathBuf {
    let id = cloud.pool.run(&["--json", "snapshots", "--tenant", tenant, "--latest", "1"]).ok().json();
    let id = id[0]["id"].as_str().unwrap().to_owned();
    // Each tenant's own data is in packs of its own: of them the largest that holds none of the other's.
    let packs = support::files(&cloud.pool.repo().join("packs"));
    let read = |pack: &std::path::Path| {
        let hidden = pack.with_extension("hidden");
        std::fs::rename(pack, &hidden).unwrap();
        let lost = cloud.pool.run(&["dump", &id, "own"]).out.len() < 200_000;
        std::fs::rename(&hidden, pack).unwrap();
        lost
    };
    packs.into_iter().find(|pack| read(pack)).expect("a pack holds the file")
}

#[test]
fn the_operator_sees_what_is_one_tenant_s_alone() {
    let (cloud, ..) = shared();
    let shown = message(&cloud.pool.run(&["--json", "tenant", "show", "acme", "--sizes"]).ok(), "tenant");
    let of = |name: &str| shown[name].as_u64().unwrap();
    // Three versions of its own, and what both have.
    assert!((600_000..650_000).contains(&of("unique_bytes")), "{shown}");
    assert!((300_000..310_000).contains(&of("shared_bytes")), "{shown}");
    assert!(of("unique_stored_bytes") > 500_000, "{shown}");
    assert!(cloud.tenant("acme")["unique_bytes"].is_null(), "it takes a walk, which must be asked for");
    let text = cloud.pool.run(&["tenant", "show", "acme", "--sizes"]).ok().text();
    assert!(text.contains("Unique:") && text.contains("Shared:") && text.contains("stored as"), "{text}");
}
