//! What people are told: damage by what it costs, times alike everywhere, plans as plans.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use support::*;

/// A filled site, and its largest pack with a few bytes overwritten: that which holds the file `large`.
fn damaged() -> (Site, PathBuf) {
    let site = Site::filled();
    let packs = files(&site.repo().join("packs"));
    let pack = packs.into_iter().max_by_key(|p| p.metadata().unwrap().len()).unwrap();
    edit(&pack, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle..middle + 4].copy_from_slice(b"harm");
    });
    (site, pack)
}

fn name(pack: &Path) -> &str {
    pack.file_name().unwrap().to_str().unwrap()
}

#[test]
fn a_dump_names_the_file_and_the_snapshot_before_the_pack() {
    let (site, pack) = damaged();
    let id = site.snapshots().pop().unwrap();
    let target = site.path().join("dumped");
    let target = target.to_str().unwrap();
    for words in [
        vec!["dump", "latest", "large"],
        vec!["dump", "latest:/", "/large"],
        vec!["dump", "latest", "large", "--target", target],
    ] {
        let ran = site.run(&words).refused(1, &[name(&pack), "; run `packmule check --read-data`"]);
        let first = format!("packmule: error: cannot read /large of snapshot {}: ", &id[..8]);
        assert!(ran.err.contains(&first), "{}", ran.err);
        assert!(!Path::new(target).exists());
    }
    let archive = site.run(&["dump", "latest", "/"]).refused(1, &[name(&pack), "; run `packmule check"]);
    assert!(archive.err.contains(&format!("of snapshot {}: cannot read /large: ", &id[..8])), "{}", archive.err);
}

#[test]
fn a_restore_counts_a_damaged_file_once_and_says_once_what_to_do() {
    let (site, _) = damaged();
    let target = site.path().join("back");
    let words = ["--json", "restore", "latest", "--verify", "--target", target.to_str().unwrap()];
    let ran = site.run(&words).exits(1);
    let summary = ran.json().into_iter().find(|m| m["message_type"] == "summary").unwrap();
    assert_eq!(summary["error_count"], 1, "{}", ran.err);
    assert_eq!(ran.err.matches("\"message_type\":\"error\"").count(), 1, "{}", ran.err);
    assert_eq!(ran.err.matches("packmule check --read-data").count(), 1, "{}", ran.err);
}

#[test]
fn a_check_names_the_directory_once_and_packs_by_their_ids() {
    let (site, pack) = damaged();
    let ran = site.run(&["check", "--read-data"]).exits(5);
    let (text, repo) = (ran.text(), site.repo());
    assert_eq!(text.lines().next().unwrap(), format!("in {}:", repo.display()));
    assert_eq!(text.matches(repo.to_str().unwrap()).count(), 1, "{text}");
    let below = pack.strip_prefix(&repo).unwrap().to_str().unwrap();
    let told: Vec<&str> = text.lines().filter(|l| l.starts_with("damaged pack ")).collect();
    assert!(matches!(&told[..], [one] if one.contains(below)), "{text}");
    let affected = |text: &str| -> Vec<String> {
        text.lines().filter(|l| l.starts_with("affected: ")).map(str::to_owned).collect()
    };
    let short = &name(&pack)[..8];
    let reason = format!("/large: it needs a damaged pack: {short}");
    assert!(matches!(&affected(&text)[..], [one] if one.ends_with(&reason)), "{text}");
    for id in site.snapshots() {
        let named = |l: &&str| l.starts_with("affected snapshot: ") && l.contains(&id[..8]) && l.ends_with(": 1 file");
        assert_eq!(text.lines().filter(named).count(), 1, "{id}: {text}");
    }
    assert!(text.contains("\n2 problems: 1 damaged pack, 1 file affected\n"), "{text}");
    let all = affected(&site.run(&["-v", "check"]).exits(5).text());
    assert_eq!(all.len(), 2);
    assert!(all.iter().all(|l| l.ends_with(&reason)), "{all:?}");
    // Programs get everything.
    let json = site.run(&["--json", "check"]).exits(5).json();
    assert_eq!(json.iter().filter(|m| m["kind"] == "file").count(), 2);
    assert!(
        json.iter().any(|m| m["kind"] == "pack" && m["message"].as_str().unwrap().contains(pack.to_str().unwrap()))
    );
}

#[test]
fn the_alarm_ends_when_damage_is_healed() {
    let (site, _) = damaged();
    site.run(&["check", "--read-data"]).exits(5);
    let text = site.run(&["status"]).exits(5).text();
    assert!(text.contains("last check of data: 0m ago, all data, FOUND DAMAGE"), "{text}");
    let text = site.run(&["-q", "status"]).exits(5).text();
    let bad = |l: &str| l.ends_with("FOUND DAMAGE") || l == "1 pack known to be damaged";
    assert!(!text.is_empty() && text.lines().all(bad), "{text}");
    site.backup();
    site.run(&["check"]).ok();
    site.run(&["prune"]).ok();
    let text = site.run(&["status"]).ok().text();
    assert!(text.contains("last check: 0m ago, structure only, nothing wrong"), "{text}");
    assert!(text.contains("last check of data: 0m ago, all data, found damage, healed since"), "{text}");
    let status = site.run(&["--json", "status"]).ok().json().pop().unwrap();
    assert_eq!((&status["damage_open"], &status["last_data_check"]["healed"]), (&false.into(), &true.into()));
    assert_eq!(site.run(&["-q", "status"]).ok().text(), "");
}

#[test]
fn a_restore_of_nothing_fails_and_makes_nothing() {
    let site = Site::filled();
    let target = site.path().join("made/on the way");
    for more in [&[][..], &["--dry-run"], &["--delete"]] {
        let words = ["restore", "latest", "--include", "absent*", "--target", target.to_str().unwrap()];
        let said =
            ["nothing in the snapshot matches --include absent*", "`packmule find absent*` says which snapshots"];
        site.run(&[&words[..], more].concat()).refused(1, &said);
    }
    assert!(!target.parent().unwrap().exists());
}

#[test]
fn a_path_that_is_stored_as_another_is_named() {
    let site = Site::filled();
    site.run(&["backup", site.src().to_str().unwrap()]).ok();
    let said = ["so far holds /", "; you gave `.`, which is stored without its path; give the absolute path, "];
    site.run(&["backup", "."]).refused(1, &said);
    let ran = site.run(&["backup", "dir", "/nonexistent"]).refused(2, &["cannot mix relative and absolute paths"]);
    assert!(ran.err.contains("/nonexistent; "), "{}", ran.err);
}

#[test]
fn a_full_check_is_not_forgotten_after_one_of_a_part() {
    let site = Site::filled();
    site.run(&["check", "--read-data"]).ok();
    site.run(&["check", "--read-data-subset", "1/3"]).ok();
    site.run(&["check"]).ok();
    let text = site.run(&["status"]).ok().text();
    for line in [
        "last check: 0m ago, structure only",
        "last check of data: 0m ago, 1/3 of the data",
        "last check of all data: 0m ago, all data",
    ] {
        assert!(text.contains(line), "{text}");
    }
    let status = site.run(&["--json", "status"]).ok().json().pop().unwrap();
    assert_eq!(status["last_check"]["kind"], "structure");
    assert_eq!(status["last_data_check"]["kind"], "subset");
    assert_eq!((&status["last_full_check"]["kind"], &status["last_full_check"]["ok"]), (&"full".into(), &true.into()));
}

#[test]
fn a_plan_is_told_as_one() {
    let site = Site::filled();
    let target = site.path().join("back");
    let target = target.to_str().unwrap();
    site.run(&["restore", "latest", "--target", target]).ok();
    fs::write(Path::new(target).join("extra"), "more").unwrap();
    fs::remove_file(Path::new(target).join("large")).unwrap();
    let planned = site.run(&["restore", "latest", "--target", target, "--delete", "-n", "-v"]).ok().text();
    assert!(planned.contains("would delete   /extra") && planned.contains("would restore  /large"), "{planned}");
    assert!(!planned.lines().any(|l| l.starts_with("deleted") || l.starts_with("restored")), "{planned}");
    let done = site.run(&["restore", "latest", "--target", target, "--delete", "-v"]).ok().text();
    assert!(done.contains("deleted    /extra") && done.contains("restored   /large"), "{done}");
}

#[test]
fn what_is_not_forgotten_is_not_taken_back_and_that_is_said() {
    let site = Site::filled();
    let id = site.snapshots().pop().unwrap();
    let ran = site.run(&["unforget", &id]).ok();
    assert_eq!(ran.text(), format!("snapshot {} is not forgotten: nothing to take back\n", &id[..8]));
    let json = site.run(&["--json", "unforget", &id]).ok().json();
    assert_eq!(
        (&json[0]["not_forgotten"][0], json[0]["unforgotten"].as_array().unwrap().len()),
        (&id.as_str().into(), 0)
    );
    site.run(&["forget", &id]).ok();
    assert_eq!(site.run(&["unforget", &id]).ok().text(), "took back 1 snapshot\n");
}

#[test]
fn patterns_that_make_no_sense_are_refused() {
    let site = Site::filled();
    for words in [
        vec!["backup", ".", "--exclude", "["],
        vec!["backup", ".", "--iexclude", "["],
        vec!["restore", "latest", "--target", "/nowhere", "--include", "["],
        vec!["restore", "latest", "--target", "/nowhere", "--exclude", "["],
        vec!["find", "["],
    ] {
        let ran = site.run(&words).exits(2);
        assert!(ran.err.contains("the pattern '[' is invalid"), "{}: {}", ran.words, ran.err);
    }
}

#[test]
fn times_are_local_with_their_offset_in_every_command() {
    let site = Site::filled();
    let local = |words: &[&str]| {
        let mut command = site.command(words);
        command.env("TZ", "Asia/Tokyo");
        Running::start(command).wait().ok().text()
    };
    let time = |text: &str| -> String {
        let found = text.split_whitespace().zip(text.split_whitespace().skip(1)).find(|(_, t)| t.ends_with("+09:00"));
        let (day, clock) = found.unwrap_or_else(|| panic!("no local time in {text}"));
        format!("{day} {clock}")
    };
    for words in [vec!["log"], vec!["ls", "-l", "latest"], vec!["status"], vec!["key", "list"], vec!["find", "small"]] {
        time(&local(&words));
    }
    // What is shown can be typed.
    let shown = time(&local(&["snapshots"]));
    assert!(local(&["ls", "latest", "--at", &shown]).contains("/large"));
    assert!(local(&["--json", "log"]).lines().all(|l| l.contains("+09:00\"")));
}

#[test]
fn a_mount_shows_files_as_a_named_user_s() {
    let site = Site::filled();
    site.run(&["mount", site.mnt().to_str().unwrap(), "--uid", "no-such-user"]).exits(2);
    let mount = Mount::new(&site, &site.mnt(), &["--uid", "root", "--gid", "root", "--umask", "027"]);
    let meta = fs::metadata(mount.latest().join("large")).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o027), (0, 0, 0));
    mount.unmount();
}

#[test]
fn forget_prunes_as_prune_does() {
    let site = Site::filled();
    let unused = ["forget", "--keep-last", "1", "--prune", "--release-held", "--max-unused"];
    let ran = site.run(&[&unused[..], &["unlimited"]].concat()).ok();
    assert!(ran.text().contains("0 packs rewritten"), "{}", ran.text());
    site.run(&["forget", "--keep-last", "1", "--max-unused", "5%"]).exits(2);
    site.run(&[&unused[..], &["much"]].concat()).exits(2);
}

#[test]
fn a_lost_index_is_built_again_in_plain_words() {
    let site = Site::filled();
    fs::remove_file(site.database()).unwrap();
    let ran = site.run(&["snapshots"]).ok();
    let told =
        ran.err.lines().find(|l| l.starts_with("building the index in ")).unwrap_or_else(|| panic!("{}", ran.err));
    assert!(told.contains("nothing that is stored is affected"), "{told}");
    for word in ["data.mdb", "roll-up", "footer"] {
        assert!(!ran.err.contains(word), "{}", ran.err);
    }
}
