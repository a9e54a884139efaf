//! Who did what, as the operator reads it.

mod support;

use support::pool::{Cloud, add, feed, other_site, push, pushed};
use support::{eventually, noise};

#[test]
fn every_connection_and_command_is_in_the_audit() {
    let mut cloud = Cloud::new(&["acme"]);
    let site = other_site();
    site.write("data", &noise(1, 400_000));
    site.backup();
    let stranger = other_site();
    let line = cloud.invite("acme");
    add(&site, "cloud", &line).ok();
    pushed(&site);
    pushed(&site);
    // A stranger with a used-up invitation, while another is open, and without one: neither writes to the log.
    let open = cloud.invite("acme");
    add(&stranger, "cloud", &line).exits(1);
    feed(&site, &["remote", "list"], "").ok();
    cloud.pool.run(&["tenant", "suspend", "acme"]).ok();
    push(&site).exits(1);
    drop(open);

    let entries = || cloud.pool.run(&["--json", "log", "--audit"]).ok().json();
    eventually("all is recorded", || entries().iter().filter(|e| e["operation"] == "push").count() >= 2);
    let entries = entries();
    let of = |operation: &str| -> Vec<&serde_json::Value> {
        entries.iter().filter(|e| e["operation"] == operation).collect()
    };
    let [redeemed] = of("redeem")[..] else { panic!("one was taken up: {entries:?}") };
    assert_eq!((&redeemed["tenant"], &redeemed["ok"]), (&"acme".into(), &true.into()));
    let pushes = of("push");
    assert_eq!(pushes.len(), 2, "{pushes:?}");
    assert_eq!((&pushes[0]["snapshots"], &pushes[1]["snapshots"]), (&1.into(), &0.into()));
    assert!(
        pushes[0]["bytes_received"].as_u64() > Some(400_000) && pushes[1]["bytes_received"].as_u64() < Some(10_000)
    );
    assert!(pushes[0]["who"].as_str().unwrap().starts_with("SHA256:") && pushes[0]["label"] == "site");
    assert!(pushes[0]["from"].as_str().unwrap().starts_with("127.0.0.1:"));
    let [created] = of("tenant create")[..] else { panic!("{entries:?}") };
    assert_eq!((&created["tenant"], &created["who"]), (&"acme".into(), &"root".into()), "these tests run as root");
    assert_eq!((of("tenant invite").len(), of("tenant suspend").len()), (2, 1));
    cloud.pool.run(&["tenant", "suspend", "none"]).exits(1);
    let last = cloud.pool.run(&["--json", "log", "--audit", "--last", "1"]).ok().json();
    assert!(last[0]["ok"] == false && last[0]["error"].as_str().unwrap().contains("no tenant"), "{last:?}");
    let text = cloud.pool.run(&["log", "--audit"]).ok().text();
    assert!(text.contains("push of acme by SHA256:") && text.contains("1 snapshot, "), "{text}");
    let log = cloud.pool.run(&["log"]).ok().text();
    assert!(log.contains("of acme web data") && log.contains("tenant acme delivered everything"), "{log}");

    // Who looks into a tenant's files is in it too, and where nobody can write it is no hindrance.
    let (pool, id) = (&cloud.pool, cloud.pool.snapshots().remove(0));
    pool.run(&["dump", &id, "data"]).ok();
    pool.run(&["restore", &id, "--target", pool.path().join("restored").to_str().unwrap()]).ok();
    let copy = pool.path().join("copy");
    pool.run(&["sync", "push", copy.to_str().unwrap()]).ok();
    let entries = pool.run(&["--json", "log", "--audit", "--last", "2"]).ok().json();
    let told: Vec<_> = entries.iter().map(|e| (e["operation"].as_str(), e["tenant"].as_str())).collect();
    assert_eq!(told, [(Some("dump"), Some("acme")), (Some("restore"), Some("acme"))]);
    pool.run(&["-r", copy.to_str().unwrap(), "dump", &id, "data"]).ok();
    assert_eq!(
        pool.run(&["-r", copy.to_str().unwrap(), "--json", "log", "--audit", "--last", "2"]).ok().json(),
        entries
    );

    // What the server itself said: one line of JSON an event.
    let server = cloud.server.as_mut().unwrap();
    let told: Vec<serde_json::Value> = server.stdout().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let events = |name: &str| told.iter().filter(|e| e["event"] == name).count();
    assert!(events("served") >= 3 && events("refused") + events("failed") >= 2, "{told:?}");
    let served = told.iter().find(|e| e["event"] == "served" && e["operation"] == "push").unwrap();
    assert!(served["bytes_received"].is_u64() && served["seconds"].is_number());
    cloud.stop();
}

#[test]
fn what_was_not_taken_is_no_success_and_what_was_given_is() {
    let mut cloud = Cloud::new(&["acme"]);
    cloud.pool.run(&["tenant", "set", "acme", "--quota", "1M"]).ok();
    cloud.pool.run(&["tenant", "create", "vault", "--sealed"]).ok();
    let site = other_site();
    site.write("small", &noise(1, 400_000));
    site.backup();
    cloud.join("acme", &site);
    pushed(&site);
    site.write("large", &noise(2, 3_000_000));
    site.backup();
    push(&site).exits(14);
    site.run(&["forget", &site.snapshots()[0], "--even-unpushed"]).ok();
    site.run(&["prune", "--release-held"]).ok();
    site.run(&["sync", "pull", "cloud"]).ok();
    // Enough that further connections are opened.
    let vault = other_site();
    vault.write("many", &noise(3, 40 << 20));
    vault.backup();
    cloud.join("vault", &vault);
    pushed(&vault);

    let entries = || cloud.pool.run(&["--json", "log", "--audit"]).ok().json();
    eventually("all is recorded", || {
        let entries = entries();
        entries.iter().any(|e| e["tenant"] == "vault" && e["operation"] == "push")
            && entries.iter().any(|e| e["operation"] == "pull")
    });
    let entries = entries();
    let of = |tenant: &str, operation: &str| -> Vec<&serde_json::Value> {
        entries.iter().filter(|e| e["tenant"] == tenant && e["operation"] == operation).collect()
    };
    let [first, second] = of("acme", "push")[..] else { panic!("{entries:?}") };
    assert_eq!((&first["ok"], &second["ok"]), (&true.into(), &false.into()));
    let why = second["error"].as_str().unwrap();
    assert!(why.contains("declined 1 snapshot") && why.contains("quota"), "{why}");
    let pulled = of("acme", "pull");
    assert!(!pulled.is_empty() && pulled.iter().all(|e| e["ok"] == true), "{pulled:?}");
    let [sealed] = of("vault", "push")[..] else { panic!("{entries:?}") };
    assert!(sealed["bytes_received"].as_u64() > Some(40 << 20), "all connections of it count: {sealed}");
    assert_eq!((&sealed["snapshots"], &sealed["ok"]), (&1.into(), &true.into()));
    assert!(entries.iter().all(|e| e["operation"] != "attach"), "{entries:?}");
    let text = cloud.pool.run(&["log", "--audit"]).ok().text();
    assert!(text.lines().any(|l| l.contains("pull of acme by SHA256:") && l.ends_with(": ok")), "{text}");
    let told = cloud.server.as_mut().unwrap().stdout();
    assert!(told.contains(r#""event":"failed""#) && !told.contains(r#""event":"lost""#), "{told}");
    cloud.stop();
}
