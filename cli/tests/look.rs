//! Looking into a repository with the program itself: names, listings, searches, differences, archives, keys, exit codes.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// A repository and something to back up, in a temporary directory.
struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> (Fixture, String) {
        let fixture = Fixture { dir: tempfile::tempdir().unwrap() };
        std::fs::create_dir_all(fixture.source().join("docs")).unwrap();
        fixture.write("docs/a.txt", b"one");
        fixture.write("top", b"top");
        let made = fixture.json(&["init"]);
        let code = made[0]["recovery_code"].as_str().unwrap().to_owned();
        (fixture, code)
    }

    fn source(&self) -> PathBuf {
        self.dir.path().join("src")
    }

    fn write(&self, path: &str, content: &[u8]) {
        std::fs::write(self.source().join(path), content).unwrap();
    }

    /// Runs the program with nothing of the surrounding environment, in the source's directory.
    fn run_with(&self, password: &str, words: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_packmule"))
            .args(words)
            .env_clear()
            .env("HOME", self.dir.path().join("home"))
            .env("TZ", "UTC")
            .env("PACKMULE_REPOSITORY", self.dir.path().join("repo"))
            .env("PACKMULE_PASSWORD", password)
            .current_dir(self.source())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn run(&self, words: &[&str]) -> Output {
        self.run_with("secret", words)
    }

    /// Standard output of a command that succeeds.
    fn ok(&self, words: &[&str]) -> String {
        let o = self.run(words);
        assert!(o.status.success(), "{words:?}: {}", String::from_utf8_lossy(&o.stderr));
        String::from_utf8_lossy(&o.stdout).into_owned()
    }

    fn json(&self, words: &[&str]) -> Vec<Value> {
        let text = self.ok(&[words, &["--json"]].concat());
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        // A slow machine's progress of a backup.
        lines.filter(|line: &Value| line["message_type"] != "status").collect()
    }

    /// Exit code and standard error of a command that fails.
    fn fails(&self, words: &[&str]) -> (i32, String) {
        let o = self.run(words);
        (o.status.code().unwrap(), String::from_utf8_lossy(&o.stderr).into_owned())
    }

    /// Backs up the directory the program runs in, as its root. Returns the snapshot's id.
    fn backup(&self, more: &[&str]) -> String {
        let lines = self.json(&[&["backup", ".", "--source", "s", "--host", "web1"], more].concat());
        let summary = lines.iter().find(|l| l["message_type"] == "summary").unwrap();
        summary["snapshot_id"].as_str().unwrap().to_owned()
    }
}

/// Three snapshots of one history: `docs/a.txt` changes in the second, `new` comes in the third.
fn history() -> (Fixture, [String; 3]) {
    let (fixture, _) = Fixture::new();
    let first = fixture.backup(&[]);
    fixture.write("docs/a.txt", b"two!");
    let second = fixture.backup(&["--tag", "weekly"]);
    fixture.write("new", b"12345");
    let third = fixture.backup(&[]);
    (fixture, [first, second, third])
}

#[test]
fn snapshots_are_listed_and_filtered() {
    let (fixture, ids) = history();
    // Twice: the second listing reads summaries out of the index.
    for _ in 0..2 {
        let all = fixture.json(&["snapshots"]);
        let listed: Vec<&str> = all.iter().map(|s| s["id"].as_str().unwrap()).collect();
        assert_eq!(listed, ids);
        assert_eq!((&all[0]["hostname"], &all[0]["source"]), (&"web1".into(), &"s".into()));
        assert_eq!(all[2]["summary"]["total_files_processed"], 3);
        assert_eq!(all[2]["parent"], ids[1].as_str());
    }
    for (words, expected) in [
        (vec!["snapshots", "--tag", "weekly"], vec![1]),
        (vec!["snapshots", "--host", "db1"], vec![]),
        (vec!["snapshots", "--latest", "2"], vec![1, 2]),
        (vec!["snapshots", "--path", "."], vec![0, 1, 2]),
        (vec!["snapshots", "--path", "/srv"], vec![]),
        (vec!["snapshots", "latest~1", &ids[0][..12]], vec![0, 1]),
        (vec!["snapshots", "--at", "2001-01-01"], vec![]),
        (vec!["snapshots", "--forgotten"], vec![]),
    ] {
        let found: Vec<String> = fixture.json(&words).iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect();
        let expected: Vec<String> = expected.iter().map(|i: &usize| ids[*i].clone()).collect();
        assert_eq!(found, expected, "{words:?}");
    }
    let table = fixture.ok(&["snapshots"]);
    assert!(table.contains(&ids[1][..8]) && table.contains("weekly") && table.ends_with("3 snapshots\n"), "{table}");
}

#[test]
fn names_that_fit_none_or_several_are_refused() {
    let (fixture, ids) = history();
    let (code, said) = fixture.fails(&["ls", "latest~3"]);
    assert!(code == 1 && said.contains("web1 s has only 3"), "{code} {said}");
    let (code, said) = fixture.fails(&["ls", "latest", "--at", "2001-01-01"]);
    let oldest = format!("there is no such snapshot; the oldest is {} (web1 s 2", &ids[0][..8]);
    assert!(code == 1 && said.contains(&oldest), "{code} {said}");
    let (_, said) = fixture.fails(&["ls", "latest", "--at", "2001-01-01", "--host", "db1"]);
    assert!(said.contains("no snapshot passes the filters"), "{said}");
    fixture.json(&["backup", ".", "--source", "other", "--host", "web1"]);
    let (code, said) = fixture.fails(&["ls", "latest"]);
    assert!(code == 1 && said.contains("web1 other, web1 s; say which"), "{code} {said}");
    assert!(fixture.ok(&["ls", "latest", "--source", "s"]).contains("/new"));
    let (code, said) = fixture.fails(&["ls", &"0".repeat(64)]);
    assert!(code == 1 && said.contains("there is no snapshot 00000000"), "{code} {said}");
    assert_eq!(said.lines().count(), 1);
    let (code, said) = fixture.fails(&["ls", "latest:/absent", "--source", "s"]);
    assert!(code == 1 && said.contains("the snapshot has no /absent; `packmule ls` lists"), "{code} {said}");
    let target = fixture.dir.path().join("there");
    std::fs::write(&target, b"kept").unwrap();
    let (code, said) = fixture.fails(&["dump", "latest:/top", "--source", "s", "-t", target.to_str().unwrap()]);
    assert!(code == 1 && said.contains("there: File exists") && said.contains("; name another file"), "{code} {said}");
    assert_eq!(std::fs::read(&target).unwrap(), b"kept");
}

#[test]
fn ls_lists_all_or_one_directory() {
    let (fixture, ids) = history();
    assert_eq!(fixture.ok(&["ls", "latest"]), "/docs\n/docs/a.txt\n/new\n/top\n");
    assert_eq!(fixture.ok(&["ls", &ids[0], "/docs"]), "/docs\n/docs/a.txt\n");
    assert_eq!(fixture.ok(&["ls", "latest:docs", "a.txt"]), "/docs/a.txt\n");
    let long = fixture.ok(&["ls", "-l", "latest", "top"]);
    assert!(long.starts_with("-rw-") && long.ends_with(" /top\n"), "{long}");
    let lines = fixture.json(&["ls", "latest~2"]);
    assert_eq!((&lines[0]["message_type"], &lines[0]["id"]), (&"snapshot".into(), &ids[0].as_str().into()));
    assert_eq!(
        (&lines[2]["message_type"], &lines[2]["path"], &lines[2]["size"]),
        (&"node".into(), &"/docs/a.txt".into(), &3.into())
    );
}

#[test]
fn find_shows_every_version_and_where_it_is_on_a_mount() {
    let (fixture, ids) = history();
    let found = fixture.json(&["find", "*.txt"]);
    let facts: Vec<_> =
        found.iter().map(|m| (m["size"].as_u64(), m["hits"].as_u64(), m["snapshot"].as_str())).collect();
    assert_eq!(facts, [(Some(3), Some(1), Some(&*ids[0])), (Some(4), Some(2), Some(&*ids[2]))]);
    let mounted = found[0]["mount_path"].as_str().unwrap();
    assert!(mounted.starts_with("hosts/web1/s/20") && mounted.ends_with("/docs/a.txt"), "{mounted}");
    assert_eq!(fixture.json(&["find", "docs/a*", "--snapshot", &ids[0]]).len(), 1);
    assert!(fixture.json(&["find", "A.TXT"]).is_empty());
    assert_eq!(fixture.json(&["find", "-i", "A.TXT"]).len(), 2);
    assert_eq!(fixture.json(&["find", "*", "--min-size", "4"]).len(), 2);
    assert_eq!(fixture.json(&["find", "*", "--type", "d"]).len(), 1);
    assert!(fixture.json(&["find", "*", "--newest", "2001-01-01"]).is_empty());
    assert!(fixture.ok(&["find", "new"]).starts_with("/new  (web1 s, 1 version)\n"));
    assert_eq!(fixture.fails(&["find", "[x"]).0, 2);
}

#[test]
fn diff_and_its_statistics() {
    let (fixture, ids) = history();
    let text = fixture.ok(&["diff", &ids[0], "latest"]);
    assert!(text.contains("\nM    /docs/a.txt\n+    /new\n\n"), "{text}");
    let lines = fixture.json(&["diff", "latest", "latest~1"]);
    assert_eq!((&lines[0]["modifier"], &lines[0]["path"]), (&"-".into(), &"/new".into()));
    assert_eq!(lines[1]["removed"]["bytes"], 5);
    assert_eq!(fixture.json(&["diff", &format!("{}:docs", ids[1]), "latest:docs", "--metadata"]).len(), 1);
}

#[test]
fn dump_gives_bytes_or_an_archive() {
    let (fixture, ids) = history();
    assert_eq!(fixture.ok(&["dump", &ids[0], "docs/a.txt"]), "one");
    let target = fixture.dir.path().join("out");
    let target_text = target.to_str().unwrap();
    fixture.ok(&["dump", "latest:docs", "a.txt", "--target", target_text]);
    assert_eq!(std::fs::read(&target).unwrap(), b"two!");
    assert_eq!(fixture.fails(&["dump", "latest", "top", "--target", target_text]).0, 1);
    assert_eq!(std::fs::read(&target).unwrap(), b"two!");
    let archive = fixture.run(&["dump", "latest", "docs"]).stdout;
    std::fs::write(&target, archive).unwrap();
    let unpacked = fixture.dir.path().join("unpacked");
    std::fs::create_dir(&unpacked).unwrap();
    let status = Command::new("tar").arg("-xf").arg(&target).arg("-C").arg(&unpacked).status().unwrap();
    assert!(status.success());
    assert_eq!(std::fs::read(unpacked.join("docs/a.txt")).unwrap(), b"two!");
}

#[test]
fn stats_count_shared_chunks_once() {
    let (fixture, _) = Fixture::new();
    // Not compressible, and longer than what stays in the tree.
    let mut noise: Vec<u8> = Vec::new();
    let mut x = 1u64;
    while noise.len() < 100_000 {
        x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        noise.extend_from_slice(&x.to_le_bytes()[4..]);
    }
    fixture.write("noise", &noise);
    fixture.backup(&[]);
    fixture.json(&["backup", ".", "--source", "s", "--host", "web2"]);
    let lines = fixture.json(&["stats"]);
    assert_eq!(lines.len(), 3);
    let sizes: Vec<u64> = lines.iter().map(|l| l["total_uncompressed_size"].as_u64().unwrap()).collect();
    assert!(sizes.iter().all(|s| (100_000..102_000).contains(s)), "{sizes:?}");
    assert!(lines[2]["total_restore_size"].as_u64().unwrap() > 200_000);
    assert_eq!(lines[2]["snapshots_count"], 2);
    assert!(fixture.ok(&["stats", "--host", "web1"]).contains("web1"));
}

#[test]
fn tags_change_and_the_log_tells() {
    let (fixture, ids) = history();
    let changed = fixture.json(&["tag", "latest~1", "--add", "x,y", "--remove", "weekly"]);
    assert_eq!(
        (&changed[0]["snapshot_id"], &changed[0]["tags"]),
        (&ids[1].as_str().into(), &serde_json::json!(["x", "y"]))
    );
    assert!(fixture.json(&["tag", "latest~1", "--add", "x"]).is_empty());
    let cleared = fixture.json(&["tag", "latest~1", "--set", ""]);
    assert_eq!(cleared[0]["tags"], serde_json::json!([]));
    fixture.json(&["tag", "latest~1", "--set", "x,y"]);
    assert_eq!(fixture.json(&["snapshots", "--tag", "x,y"]).len(), 1);
    let last = fixture.json(&["log", "--last", "1"]);
    assert_eq!((&last[0]["kind"], last.len()), (&"tagged".into(), 1));
    let all = fixture.json(&["log"]);
    assert_eq!(all[0]["seq"], 1);
    assert_eq!(all.iter().filter(|r| r["kind"] == "snapshot-recorded").count(), 3);
    assert!(fixture.json(&["log", "--since", "2100-01-01"]).is_empty());
}

#[test]
fn forget_describes_snapshots_as_they_are_listed() {
    let (fixture, ids) = history();
    let group = fixture.json(&["forget", "--keep-last", "2", "--dry-run"]).swap_remove(0);
    let listed = fixture.json(&["snapshots"]);
    assert_eq!(
        (&group["remove"][0]["id"], &group["keep"][1]["id"]),
        (&ids[0].as_str().into(), &ids[1].as_str().into())
    );
    for (told, of) in [(&group["remove"][0], 0), (&group["keep"][1], 1), (&group["keep"][0], 2)] {
        let listed = listed[of].as_object().unwrap();
        for (field, value) in listed.iter().filter(|(field, _)| *field != "message_type") {
            assert_eq!(&told[field], value, "{field}");
        }
    }
}

#[test]
fn status_says_what_is_late() {
    let (fixture, _) = Fixture::new();
    assert!(fixture.ok(&["status"]).starts_with("no snapshots\n"));
    assert_eq!(fixture.run(&["status", "--max-age", "1h"]).status.code(), Some(5));
    let id = fixture.backup(&[]);
    let lines = fixture.json(&["status", "--max-age", "1h"]);
    assert_eq!((&lines[0]["snapshot_id"], &lines[0]["late"]), (&id.as_str().into(), &false.into()));
    assert_eq!(lines[1]["message_type"], "repository_status");
    assert_eq!(fixture.run(&["status", "--max-age", "1h", "--host", "web9"]).status.code(), Some(5));
    assert_eq!(fixture.ok(&["-q", "status", "--max-age", "1h"]), "");
    let late = fixture.run(&["-q", "status", "--max-age", "1h", "--host", "web9"]);
    assert_eq!((late.status.code(), late.stdout), (Some(5), b"no snapshots: LATE\n".to_vec()));
}

#[test]
fn keys_from_init_to_rotation() {
    let (fixture, code) = Fixture::new();
    fixture.backup(&[]);
    let works = |secret: &str| fixture.run_with(secret, &["snapshots"]).status.code().unwrap();
    assert_eq!((works("secret"), works(&code), works(&code.to_lowercase()), works("wrong")), (0, 0, 0, 12));
    // As one may have written it down.
    assert_eq!(works(&format!("{}\n    {}\n", &code[..34], &code[35..])), 0);
    let password = |text: &str| {
        let file = fixture.dir.path().join(text);
        std::fs::write(&file, format!("{text}\n")).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let (second, third) = (password("second"), password("third"));
    fixture.ok(&["key", "add", "--label", "two", "--new-password-file", &second]);
    assert_eq!(fixture.json(&["key", "list"]).len(), 4);
    assert_eq!((works("second"), works("secret")), (0, 0));
    // Before a new one is asked for, which nobody is there to be.
    let unclear = fixture.run_with(&code, &["key", "passwd"]);
    assert_eq!(unclear.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&unclear.stderr).contains("several key slots have a password"));
    fixture.ok(&["key", "passwd", "--new-password-file", &third]);
    assert_eq!((works("secret"), works("third")), (12, 0));

    let rotated = fixture.run_with("third", &["key", "rotate", "--json"]);
    let text = String::from_utf8(rotated.stdout).unwrap();
    let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let new_code = lines[0]["recovery_code"].as_str().unwrap().to_owned();
    assert_eq!((&lines[1]["epoch"], &lines[1]["dropped"][0]["label"]), (&1.into(), &"two".into()));
    assert_eq!((works("third"), works(&new_code), works(&code), works("second")), (0, 0, 12, 12));
    let after = fixture.run_with("third", &["backup", ".", "--source", "s", "--host", "web1"]);
    assert!(after.status.success(), "{}", String::from_utf8_lossy(&after.stderr));

    // In the words of --password-file.
    assert!(fixture.json(&["key", "list"]).iter().any(|k| k["kind"] == "password" && k["label"] == "initial"));
    let removed = fixture.run_with(&new_code, &["key", "remove", "initial"]);
    assert!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
    let unknown = fixture.run_with(&new_code, &["key", "remove", "initial"]);
    let said = String::from_utf8_lossy(&unknown.stderr);
    assert!(said.contains("no key slot has the id or label 'initial'; `packmule key list` shows"), "{said}");
    let list = fixture.json(&["key", "list"]);
    let recovery = list.iter().find(|k| k["kind"] == "recovery-code").unwrap()["id"].as_str().unwrap();
    let last = fixture.run_with(&new_code, &["key", "remove", recovery]);
    assert_eq!(last.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&last.stderr).contains("the last key slot"));
}

#[test]
fn init_shows_the_code_once_and_never_overwrites() {
    let (fixture, code) = Fixture::new();
    assert_eq!(code.split('-').count(), 14);
    let (status, said) = fixture.fails(&["init"]);
    assert!(status == 1 && said.contains("there is a repository already"), "{status} {said}");
    let (status, said) = fixture.fails(&["-r", "elsewhere", "snapshots"]);
    assert!(status == 10 && said.contains("packmule init"), "{status} {said}");
    let foreign = fixture.source();
    let (status, _) = fixture.fails(&["-r", foreign.to_str().unwrap(), "init"]);
    assert_eq!(status, 1, "a directory with something in it is left alone");
    let text = fixture.ok(&["-r", "../second", "init", "--no-recovery-code"]);
    assert!(text.contains("no recovery code"), "{text}");
    let text = fixture.ok(&["key", "recovery-code"]);
    assert!(text.lines().any(|l| l.trim().split('-').filter(|group| group.len() == 4).count() == 14), "{text}");
    assert!(!Path::new(&fixture.source()).join("config").exists());
}

#[test]
fn a_lost_index_comes_back() {
    let (fixture, ids) = history();
    std::fs::remove_dir_all(fixture.dir.path().join("repo/index")).unwrap();
    let o = fixture.run(&["snapshots", "--json"]);
    assert!(o.status.success());
    assert!(String::from_utf8_lossy(&o.stdout).contains(&ids[0]));
    assert_eq!(fixture.ok(&["dump", "latest", "new"]), "12345");
}

#[test]
fn names_that_are_no_text() {
    let (fixture, _) = Fixture::new();
    let name = std::ffi::OsStr::from_bytes(b"b\xff\n");
    std::fs::write(fixture.source().join(name), b"odd").unwrap();
    fixture.backup(&[]);
    let found = fixture.json(&["find", "b*"]);
    assert_eq!((&found[0]["path"], &found[0]["path_b64"]), (&"/b\u{fffd}\n".into(), &"L2L/Cg==".into()));
    assert!(fixture.ok(&["ls", "latest"]).contains("/b\u{fffd}\\n\n"));
}

#[test]
fn nothing_is_mounted_there() {
    let (fixture, _) = Fixture::new();
    let (code, said) = fixture.fails(&["umount", "docs"]);
    assert!(code == 1 && said.contains("no repository is mounted at"), "{code} {said}");
}
