//! What was named on the command line is in the snapshot, or the user hears of it.

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use repo::capture::{Marker, Options, backup};
use repo::error::Kind;
use repo::format::tree::{Entry, EntryType};
use repo::monitor::Recording;

use crate::site::{Site, listing};

/// Backs the paths up with one error, and returns what was said of it.
fn one_error(site: &Site, options: Options) -> (String, BTreeMap<Vec<u8>, Entry>) {
    let (repo, monitor) = (site.open(), Recording::default());
    let outcome = backup(&repo, options, &monitor).unwrap();
    assert_eq!(outcome.stats.errors, 1, "{:?}", monitor.lines());
    let line = monitor.lines().into_iter().find(|line| line.starts_with("ItemError"));
    (line.unwrap(), listing(&repo, &outcome, &site.src()))
}

fn paths(site: &Site, below: &[&str]) -> Options {
    let paths: Vec<PathBuf> = below.iter().map(|name| site.src().join(name)).collect();
    Options { paths, ..site.options() }
}

#[test]
fn what_only_leads_to_a_target_does_not_count_as_changed() {
    let site = Site::new();
    std::fs::create_dir_all(site.src().join("way/data")).unwrap();
    std::fs::write(site.src().join("way/data/file"), b"content").unwrap();
    std::fs::write(site.src().join("way/single"), b"one").unwrap();
    let repo = site.open();
    let run = || {
        let options = Options { skip_if_unchanged: true, ..paths(&site, &["way/data", "way/single"]) };
        backup(&repo, options, &Recording::default()).unwrap().snapshot
    };
    assert!(run().is_some());
    assert!(run().is_none());
    std::fs::write(site.src().join("way/other"), b"nobody asked for this").unwrap();
    std::fs::set_permissions(site.src().join("way"), std::fs::Permissions::from_mode(0o711)).unwrap();
    assert!(run().is_none(), "a directory that only leads there was changed");
    for change in ["way/data/new", "way/single"] {
        std::fs::write(site.src().join(change), b"changed").unwrap();
        assert!(run().is_some(), "{change}");
        assert!(run().is_none());
    }
    std::fs::remove_file(site.src().join("way/single")).unwrap();
    assert!(run().is_some(), "one that has gone");
}

#[test]
fn a_target_missing_inside_another_is_reported() {
    let site = Site::new();
    std::fs::create_dir(site.src().join("dir")).unwrap();
    std::fs::write(site.src().join("file"), b"x").unwrap();
    let (line, all) = one_error(&site, paths(&site, &["", "dir/no/such"]));
    assert!(line.contains("dir/no/such") && line.contains("No such file"), "{line}");
    assert!(all.contains_key(&b"file"[..]) && all.contains_key(&b"dir"[..]));
    // Below a file there can be nothing either.
    let (line, all) = one_error(&site, Options { allow_changed_paths: true, ..paths(&site, &["", "file/below"]) });
    assert!(line.contains("file/below"), "{line}");
    assert_eq!(all[&b"file"[..]].kind, EntryType::File);
}

#[test]
fn a_target_behind_a_link_that_is_saved_itself_is_reported() {
    for one_file_system in [false, true] {
        let site = Site::new();
        let real = site.dir.path().join("real");
        std::fs::create_dir_all(real.join("data")).unwrap();
        symlink(&real, site.src().join("link")).unwrap();
        let (line, all) = one_error(&site, Options { one_file_system, ..paths(&site, &["", "link/data"]) });
        assert!(line.contains("link/data") && line.contains("symbolic link"), "{line}");
        assert_eq!(all[&b"link"[..]].kind, EntryType::Symlink);
    }
}

#[test]
fn a_target_inside_what_is_left_out_is_saved() {
    let site = Site::new();
    for dir in ["out/sub", "cache/sub/deep"] {
        std::fs::create_dir_all(site.src().join(dir)).unwrap();
    }
    for file in ["out/a", "out/sub/wanted", "cache/b", "cache/.mark", "cache/sub/c", "cache/sub/deep/wanted"] {
        std::fs::write(site.src().join(file), b"x").unwrap();
    }
    let options = Options {
        excludes: vec!["out".into()],
        markers: vec![Marker::parse(b".mark")],
        ..paths(&site, &["", "out/sub", "cache/sub/deep"])
    };
    let repo = site.open();
    let outcome = backup(&repo, options, &Recording::default()).unwrap();
    assert_eq!(outcome.stats.errors, 0);
    let all = listing(&repo, &outcome, &site.src());
    let there = |name: &str| all.contains_key(name.as_bytes());
    assert!(there("out/sub/wanted") && there("cache/sub/deep/wanted") && there("cache/.mark"));
    assert!(!there("out/a") && !there("cache/b") && !there("cache/sub/c"));
    drop(repo);
    let options = Options {
        markers: vec![Marker::parse(b".mark")],
        allow_changed_paths: true,
        ..paths(&site, &["", "cache/nothing"])
    };
    let (line, all) = one_error(&site, options);
    assert!(line.contains("cache/nothing") && !all.contains_key(&b"cache/b"[..]), "{line}");
}

#[test]
fn a_named_character_device_is_saved_as_a_node_and_that_is_said() {
    let site = Site::new();
    let (repo, monitor) = (site.open(), Recording::default());
    let options = Options { read_devices: true, ..Options::new(vec!["/dev/null".into()], "testhost") };
    let outcome = backup(&repo, options, &monitor).unwrap();
    assert_eq!((outcome.stats.files, outcome.stats.others), (0, 1));
    let said = |line: &String| line.starts_with("Warning") && line.contains("/dev/null is a character device");
    assert!(monitor.lines().iter().any(said), "{:?}", monitor.lines());
}

#[test]
fn what_cannot_be_recorded_is_refused_before_anything_is_read() {
    let site = Site::new();
    let repo = site.open();
    let before = repo.log.position();
    let tags = |count, length| vec!["t".repeat(length); count];
    let names = (0..65_537).map(|i| site.src().join(i.to_string()));
    let long = (0..60_000).map(|i| site.src().join(format!("{i}{}", "x".repeat(200))));
    let there = || site.src();
    for options in [
        Options { tags: tags(1025, 1), ..site.options() },
        Options { tags: tags(1, 4097), ..site.options() },
        Options { paths: names.chain([there()]).collect(), ..site.options() },
        Options { paths: long.chain([there()]).collect(), ..site.options() },
    ] {
        let refused = backup(&repo, options, &Recording::default()).err().unwrap();
        assert_eq!(refused.kind(), Kind::Usage, "{refused}");
    }
    repo.log.refresh().unwrap();
    assert_eq!(repo.log.position(), before, "no session was begun");
    let most = Options { tags: tags(1024, 4000), ..site.options() };
    assert!(backup(&repo, most, &Recording::default()).is_ok());
}
