//! What a backup would store and send is reckoned beforehand.

mod support;

use serde_json::Value;
use support::pool::{Cloud, pushed, summary};
use support::{Site, noise};

fn estimate(site: &Site, words: &[&str]) -> Value {
    let mut all = vec!["--json", "estimate", ".", "--source", "data", "--host", "web"];
    all.extend(words);
    summary(&site.run(&all).ok())
}

fn number(value: &Value, name: &str) -> f64 {
    value[name].as_f64().unwrap_or_else(|| panic!("no {name} in {value}"))
}

/// Within 10 % of what then happened.
#[track_caller]
fn near(reckoned: f64, happened: f64) {
    assert!((reckoned - happened).abs() <= 0.1 * happened, "{reckoned} was reckoned, {happened} happened");
}

fn stored(site: &Site) -> f64 {
    let packs = support::files(&site.repo().join("packs"));
    packs.iter().map(|p| p.metadata().unwrap().len() as f64).sum()
}

#[test]
fn what_is_reckoned_is_what_happens() {
    let cloud = Cloud::new(&["acme"]);
    let site = Site::new();
    cloud.join("acme", &site);
    site.write("image", &noise(1, 9 << 20));
    site.write("words", "the same words again\n".repeat(100_000).as_bytes());
    for i in 0..300 {
        site.write(&format!("dir/f{i}"), &noise(10 + i, 20_000));
    }
    let first = estimate(&site, &["--remote", "cloud", "--rate", "100Mbit"]);
    assert_eq!(number(&first, "total_files"), 302.0);
    assert!(site.snapshots().is_empty() && stored(&site) == 0.0, "nothing is stored");
    site.backup();
    near(number(&first, "bytes_new"), stored(&site));
    let sent = number(&pushed(&site), "bytes_sent");
    near(number(&first["remote"], "bytes"), sent);
    near(number(&first["remote"], "hours_by_line"), sent * 8.0 / 100e6 / 0.85 / 3600.0);
    assert_eq!(number(&first, "drives"), 1.0);
    let small = estimate(&site, &["--force", "--drive-size", "4M", "--remote", "cloud"]);
    assert_eq!(number(&small, "drives"), 0.0, "all is there: {small}");

    // Of a change, the change; and what waits to be sent counts as well.
    site.write("new", &noise(2, 3 << 20));
    let second = estimate(&site, &["--remote", "cloud", "--drive-size", "1M"]);
    assert_eq!(number(&second, "drives"), 4.0);
    let before = stored(&site);
    site.backup();
    near(number(&second, "bytes_new"), stored(&site) - before);
    let third = estimate(&site, &["--remote", "cloud"]);
    assert!(number(&third, "bytes_new") < 100_000.0, "{third}");
    near(number(&third["remote"], "bytes_pending"), stored(&site) - before);
    near(number(&third["remote"], "bytes"), number(&pushed(&site), "bytes_sent"));
}

#[test]
fn a_pool_has_what_a_site_made_anew_has_not() {
    let cloud = Cloud::new(&["acme"]);
    let site = Site::filled();
    cloud.join("acme", &site);
    pushed(&site);
    let new = Site::bare();
    let line =
        cloud.pool.run(&["-q", "tenant", "invite", "acme", "--restore", "--address", &cloud.address]).ok().text();
    let mut command = new.program(&["init", "--from", "cloud"]);
    command.env("PACKMULE_PASSWORD", support::PASSWORD);
    support::pool::fed(&new, command, line.trim()).ok();
    new.with_password(&["key", "add", "--recipient", support::RECIPIENT, "--label", "fast"], support::PASSWORD).ok();
    let src = site.src();
    let words = ["--json", "estimate", src.to_str().unwrap(), "--remote", "cloud"];
    let told = summary(&new.run(&words).ok());
    assert!(number(&told, "bytes_new") > 5e6, "{told}");
    assert!(number(&told["remote"], "bytes_new") < 100_000.0, "the pool has it: {told}");
}

#[test]
fn a_sample_is_reckoned_up() {
    let site = Site::new();
    for i in 0..600 {
        site.write(&format!("dir/f{i}"), &noise(i, 30_000));
    }
    let all = estimate(&site, &[]);
    let some = estimate(&site, &["--sample", "30"]);
    assert!(number(&some, "measured_bytes") < 0.4 * number(&all, "total_bytes"), "{some}");
    assert_eq!((number(&some, "total_files"), number(&some, "total_bytes")), (600.0, number(&all, "total_bytes")));
    near(number(&some, "bytes_new"), number(&all, "bytes_new"));
    let text = site.run(&["estimate", ".", "--sample", "30"]).ok().text();
    assert!(text.contains("30 %"), "{text}");
    site.run(&["estimate", ".", "--sample", "0"]).exits(2);
    site.run(&["estimate", ".", "--remote", "nobody"]).refused(1, &["no remote"]);
    site.run(&["estimate", "nothing-there"]).refused(1, &[]);
}
