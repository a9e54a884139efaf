//! How far remotes are, how fast they are sent to, and how a server is set up.

mod support;

use std::fs;
use std::time::Instant;

use support::pool::{Cloud, other_site, push, pushed};
use support::{Running, noise};

#[test]
fn how_far_everything_is() {
    let cloud = Cloud::new(&["acme", "silent"]);
    let site = other_site();
    cloud.join("acme", &site);
    site.write("data", &noise(1, 500_000));
    site.backup();
    let status = |words: &[&str]| site.run(&[&["--json", "sync", "status"], words].concat());
    let before = &status(&[]).ok().json()[0];
    assert_eq!((&before["remote"], &before["pending_snapshots"]), (&"cloud".into(), &1.into()));
    assert!(before["pending_bytes"].as_u64() > Some(500_000) && before["last_push"].is_null(), "{before}");
    pushed(&site);
    let after = &status(&["cloud", "--max-age", "1h"]).ok().json()[0];
    assert_eq!(
        (&after["pending_snapshots"], &after["pending_bytes"], &after["lag_seconds"]),
        (&0.into(), &0.into(), &0.into())
    );
    assert!(after["last_push"].is_string());
    site.write("data", &noise(2, 500_000));
    site.backup();
    let text = site.run(&["sync", "status"]).ok().text();
    assert!(text.contains("cloud") && text.contains("1 snapshot"), "{text}");
    status(&["nobody"]).exits(1);

    let pool = |words: &[&str]| cloud.pool.run(words);
    let told = pool(&["--json", "sync", "status", "--max-age", "1h"]).ok().json();
    assert_eq!(told.iter().map(|t| t["tenant"].as_str().unwrap()).collect::<Vec<_>>(), ["acme", "silent"]);
    assert_eq!((&told[0]["snapshots"], told[1]["last_received"].is_null()), (&1.into(), true));
    let text = pool(&["sync", "status"]).ok().text();
    assert!(text.contains("never"), "{text}");
    // Also where freshness is looked at.
    let text = pool(&["status"]).ok().text();
    assert!(text.contains("silent") && text.contains("never"), "{text}");
    assert!(!pool(&["status", "--tenant", "acme"]).ok().text().contains("silent"));
    let told = pool(&["--json", "status"]).ok().json();
    assert!(told.iter().any(|t| t["message_type"] == "tenant" && t["tenant"] == "silent"));
}

#[test]
fn a_push_keeps_to_its_rate_and_its_hours() {
    let cloud = Cloud::new(&["acme"]);
    let site = other_site();
    cloud.join("acme", &site);
    site.write("data", &noise(1, 3 << 20));
    site.backup();
    let profiles = site.home().join(".config/packmule");
    fs::create_dir_all(&profiles).unwrap();
    let profile = |text: &str| fs::write(profiles.join("tamed.toml"), text).unwrap();
    profile("[sync]\nlimit = 'pause'\nbetween = '00:00-24:00'\n");
    let from_profile = ["-P", "tamed", "sync", "push", "cloud"];
    site.run(&from_profile).refused(13, &["nothing is sent in these hours; they end in"]);
    // With --retry it waits.
    let mut waiting: Running = site.start(&[&from_profile[..], &["--retry"]].concat());
    support::eventually("it waits", || waiting.stderr().contains("trying again in"));
    assert!(!waiting.ended());
    drop(waiting);
    profile("[sync]\nlimit = 'pause'\n");
    site.run(&from_profile).refused(2, &["limit and between belong together"]);
    profile("[sync]\nlimit = '8Mbit'\nbetween = '00:00-24:00'\n");
    let begin = Instant::now();
    site.run(&from_profile).ok();
    assert!(begin.elapsed().as_secs_f64() > 2.8, "3 MiB at 1 MB/s took {:?}", begin.elapsed());
    site.write("data", &noise(2, 2 << 20));
    site.backup();
    let begin = Instant::now();
    site.run(&["sync", "push", "cloud", "--limit-upload", "1024"]).ok();
    assert!(begin.elapsed().as_secs_f64() > 1.7, "2 MiB at 1024 KiB/s took {:?}", begin.elapsed());
    // What comes back is limited too.
    let begin = Instant::now();
    let ids = site.snapshots();
    for id in &ids {
        site.run(&["forget", id]).ok();
    }
    site.run(&["prune", "--release-held"]).ok();
    site.run(&["sync", "--limit-download", "2MiB", "pull", "cloud"]).ok();
    assert!(begin.elapsed().as_secs_f64() > 2.2, "5 MiB at 2 MiB/s took {:?}", begin.elapsed());
    assert_eq!(site.snapshots().len(), 2);
}

#[test]
fn a_server_is_set_up_by_its_file() {
    let mut cloud = Cloud::new(&["acme"]);
    cloud.stop();
    let file = cloud.pool.repo().join("server.toml");
    fs::write(&file, "listen = 'nowhere'\n").unwrap();
    cloud.pool.run(&["serve"]).refused(2, &["listen cannot be 'nowhere' in", "server.toml"]);
    let spool = cloud.pool.path().join("spool");
    fs::create_dir(&spool).unwrap();
    let text = format!(
        "listen = '{}'\naddress = '{0}'\nconnections = 4\nspool = '{}'\nlimit-download = '8Mbit'\n",
        cloud.address,
        spool.display()
    );
    fs::write(&file, text).unwrap();
    let address = cloud.address.clone();
    cloud.start_by(&["serve", "--json"]);
    assert_eq!(cloud.address, address);
    // The invitation has the address from there, too.
    let site = other_site();
    let line = cloud.pool.run(&["-q", "tenant", "invite", "acme"]).ok().text();
    support::pool::add(&site, "cloud", line.trim()).ok();
    site.write("data", &noise(1, 3 << 20));
    site.backup();
    let begin = Instant::now();
    pushed(&site);
    assert!(begin.elapsed().as_secs_f64() > 2.8, "{:?}", begin.elapsed());
    assert!(spool.read_dir().unwrap().count() > 0, "packs came there");
    push(&site).ok();
    cloud.stop();
}
