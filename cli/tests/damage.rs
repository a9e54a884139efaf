//! Damage of every kind to every kind of file: it is found and named, nothing wrong is ever read, and there is a way on.

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use support::{PASSWORD, Site, copy, edit, files, noise};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What befalls a file.
type Harm = fn(&mut Vec<u8>);

const DAMAGES: [(&str, Harm); 7] = [
    ("cut by a byte", |b| b.truncate(b.len() - 1)),
    ("cut in the middle", |b| b.truncate(b.len() / 2)),
    ("emptied", |b| b.clear()),
    ("zeroed", |b| b.fill(0)),
    ("a bit flipped at the start", |b| b[0] ^= 1),
    ("a bit flipped in the middle", |b| {
        let at = b.len() / 2;
        b[at] ^= 4;
    }),
    ("a bit flipped at the end", |b| {
        let at = b.len() - 1;
        b[at] ^= 0x80;
    }),
];

/// Two files of every kind that a repository has: one to damage and one to swap it with.
fn kinds(repo: &Path) -> Vec<(&'static str, Vec<PathBuf>)> {
    let mut packs = files(&repo.join("packs"));
    packs.sort_by_key(|p| std::cmp::Reverse(p.metadata().unwrap().len()));
    let small: Vec<_> = packs.iter().rev().take(2).cloned().collect();
    packs.truncate(2);
    vec![
        ("large pack", packs),
        ("small pack", small),
        ("roll-up", files(&repo.join("footers"))),
        ("manifest", files(&repo.join("snapshots"))),
        ("log record", files(&repo.join("log")).into_iter().skip(1).collect()),
        ("key slot", files(&repo.join("keys"))),
    ]
}

/// After some damage: nothing ends in a panic, a hang or wrong bytes, and `check` finds it.
fn survives(site: &Site, what: &str, path: &Path) {
    let check = site.run(&["check", "--read-data"]);
    let key = path.starts_with(site.repo().join("keys"));
    // Without a slot that opens there is nobody to check; the password's slot may be the sound one.
    let check = if key && check.code != 5 { site.with_password(&["check", "--read-data"], PASSWORD) } else { check };
    assert_eq!(check.code, 5, "{what}: {}{}", check.err, check.text());
    let name = path.file_name().unwrap().to_str().unwrap();
    let said = check.err.clone() + &check.text();
    // The packs of an absent roll-up are counted.
    let named = said.contains(&name[..8.min(name.len())]) || (!path.exists() && said.contains("rebuild-index"));
    assert!(named, "{what}: {path:?} is not named in {said}");
    for snapshot in ["latest", "latest~1"] {
        for file in ["large", "dir/deep/noise", "dir/small"] {
            let ran = site.run(&["dump", snapshot, file]);
            let wanted = fs::read(site.src().join(file)).unwrap();
            match ran.code {
                0 => assert!(ran.out == wanted, "{what}: wrong bytes of {file}"),
                _ => {
                    assert!(wanted.starts_with(&ran.out), "{what}: wrong bytes of {file} before it failed");
                    assert!(ran.err.contains("error: "), "{what}: {}", ran.err);
                }
            }
        }
    }
    for words in [vec!["snapshots"], vec!["ls", "latest"], vec!["stats"], vec!["prune"], vec!["rebuild-index"]] {
        let ran = site.run(&words);
        let said = ["error: ", "warning: "].iter().any(|word| ran.err.contains(word));
        assert!(ran.code == 0 || said, "{what}: {}: {}", ran.words, ran.err);
    }
}

fn damage_matrix(kind: &str) {
    let sound = Site::filled();
    let count = kinds(&sound.repo()).len();
    let at = (0..count).find(|i| kinds(&sound.repo())[*i].0 == kind).unwrap();
    for (damage, apply) in DAMAGES {
        let site = of(&sound);
        let path = kinds(&site.repo())[at].1[0].clone();
        edit(&path, apply);
        survives(&site, &format!("{kind} {damage}"), &path);
    }
    let site = of(&sound);
    let paths = kinds(&site.repo())[at].1.clone();
    // A slot's name says nothing: each opens as before.
    if let [one, two, ..] = &paths[..]
        && kind != "key slot"
    {
        let (a, b) = (fs::read(one).unwrap(), fs::read(two).unwrap());
        fs::write(one, b).unwrap();
        fs::write(two, a).unwrap();
        survives(&site, &format!("{kind} swapped"), one);
    }
    if kind != "key slot" {
        let site = of(&sound);
        let path = kinds(&site.repo())[at].1[0].clone();
        fs::remove_file(&path).unwrap();
        survives(&site, &format!("{kind} missing"), &path);
    }
}

/// A copy of a site: the same repository and source.
fn of(sound: &Site) -> Site {
    let site = Site::bare();
    copy(&sound.repo(), &site.repo());
    fs::remove_dir(site.src()).unwrap();
    copy(&sound.src(), &site.src());
    site
}

#[test]
fn a_damaged_large_pack_is_found_and_never_read_wrongly() {
    damage_matrix("large pack");
}

#[test]
fn a_damaged_small_pack_is_found_and_never_read_wrongly() {
    damage_matrix("small pack");
}

#[test]
fn a_damaged_roll_up_is_found() {
    damage_matrix("roll-up");
}

#[test]
fn a_damaged_manifest_is_found() {
    damage_matrix("manifest");
}

#[test]
fn a_damaged_log_record_is_found() {
    damage_matrix("log record");
}

#[test]
fn a_damaged_key_slot_is_found() {
    damage_matrix("key slot");
}

#[test]
fn a_damaged_config_is_mended_from_its_copy() {
    let sound = Site::filled();
    let before = fs::read(sound.repo().join("config")).unwrap();
    for name in ["config", "config.copy"] {
        for (damage, apply) in DAMAGES {
            let site = of(&sound);
            let path = site.repo().join(name);
            edit(&path, apply);
            assert!(site.run(&["dump", "latest", "large"]).ok().out == fs::read(site.src().join("large")).unwrap());
            let ran = site.run(&["check", "--read-data"]).ok();
            assert!(ran.err.contains("warning: ") && ran.err.contains(path.to_str().unwrap()), "{damage}: {}", ran.err);
            assert_eq!(fs::read(&path).unwrap(), before, "{name} {damage}");
            assert!(!site.run(&["check"]).ok().err.contains("warning"));
        }
        let site = of(&sound);
        fs::remove_file(site.repo().join(name)).unwrap();
        site.backup();
        assert_eq!(fs::read(site.repo().join(name)).unwrap(), before, "{name} missing");
    }
    let site = of(&sound);
    for name in ["config", "config.copy"] {
        edit(&site.repo().join(name), DAMAGES[0].1);
    }
    for words in [vec!["check"], vec!["snapshots"], vec!["backup", "."]] {
        let ran = site.run(&words);
        assert!(ran.code == 1 || ran.code == 5, "{}: {}", ran.words, ran.code);
        assert!(ran.err.contains("config") && ran.err.contains("copy of the repository"), "{}", ran.err);
    }
}

#[test]
fn the_next_backup_heals_damaged_packs() {
    let site = Site::filled();
    let pack = kinds(&site.repo())[0].1[0].clone();
    edit(&pack, |b| {
        let at = b.len() / 2;
        b[at] ^= 1;
    });
    site.run(&["check", "--read-data"]).exits(5);
    let healed = site.backup();
    site.restores(&healed, &site.src());
    site.restores("latest~1", &site.src());
}

#[test]
fn a_damaged_log_says_how_to_go_on_and_then_does() {
    let site = Site::filled();
    let records = files(&site.repo().join("log"));
    let victim = &records[records.len() / 2];
    edit(victim, |b| b.fill(0));
    site.run(&["backup", "."]).refused(1, &[text(victim), "--repair-log"]);
    let repaired = site.run(&["check", "--repair-log"]);
    assert!([0, 5].contains(&repaired.code), "{}", repaired.err);
    assert_eq!(site.snapshots().len(), 2);
    site.backup();
    site.run(&["check", "--read-data"]).ok();
    site.restores("latest", &site.src());
}

// The index.

fn index_survives(site: &Site, what: &str, told: bool) {
    let ran = site.run(&["ls", "latest", "-R"]).ok();
    if told {
        assert!(ran.err.contains("index"), "{what}: nothing was said: {}", ran.err);
    }
    site.run(&["check"]).ok();
    site.restores("latest", &site.src());
    site.backup();
}

#[test]
fn a_damaged_index_is_built_anew() {
    let sound = Site::filled();
    for (damage, apply) in DAMAGES {
        let site = of(&sound);
        site.run(&["snapshots"]).ok();
        edit(&site.database(), apply);
        index_survives(&site, damage, true);
    }
}

#[test]
fn a_foreign_or_absent_index_is_built_anew() {
    let (sound, foreign) = (Site::filled(), Site::new());
    foreign.write("other", &noise(9, 100_000));
    foreign.backup();
    type Change = fn(&Site, &Site);
    let changes: [(&str, Change); 8] = [
        ("all of another's", |own, other| {
            fs::remove_dir_all(own.repo().join("index")).unwrap();
            let (from, to) = (other.repo().join("index"), own.repo().join("index"));
            let done = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
            assert!(done.success());
        }),
        ("another's data", |own, other| {
            fs::copy(other.database(), own.database()).unwrap();
        }),
        ("another's data and no state", |own, other| {
            fs::copy(other.database(), own.database()).unwrap();
            fs::remove_file(own.repo().join("index/state")).unwrap();
        }),
        ("no data", |own, _| fs::remove_file(own.database()).unwrap()),
        ("no lock", |own, _| fs::remove_file(own.database().with_file_name("lock.mdb")).unwrap()),
        ("none", |own, _| fs::remove_dir_all(own.repo().join("index")).unwrap()),
        ("words instead", |own, _| fs::write(own.database(), "no database at all").unwrap()),
        ("a broken link instead", |own, _| {
            let data = own.database();
            fs::remove_file(&data).unwrap();
            symlink("nowhere", data).unwrap();
        }),
    ];
    for (what, change) in changes {
        let site = of(&sound);
        site.run(&["snapshots"]).ok();
        change(&site, &foreign);
        index_survives(&site, what, what != "no lock");
    }
    // Not ours to remove.
    let index = sound.repo().join("index");
    fs::remove_dir_all(&index).unwrap();
    fs::write(&index, "no index").unwrap();
    sound.run(&["snapshots"]).refused(1, &[text(&index)]);
}
