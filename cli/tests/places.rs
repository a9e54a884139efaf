//! Places and names that users give: what they may be, and what is left alone.

mod support;

use std::fs;
use std::path::Path;
use std::process::Stdio;

use support::{PASSWORD, Site, files, mount};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn another_repository_is_no_target() {
    let (site, other) = (Site::filled(), Site::new());
    let before = files(&other.repo());
    for inside in ["", "packs", "new/deep"] {
        let at = other.repo().join(inside);
        for words in [vec!["--delete"], vec![], vec!["-n"]] {
            let all = [&["restore", "latest", "--target", text(&at)], words.as_slice()].concat();
            site.run(&all).refused(1, &["inside the repository", text(&at)]);
        }
    }
    assert_eq!(files(&other.repo()), before);
    assert!(!other.repo().join("new").exists());
    // Another program's file of that name.
    let target = site.path().join("target");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("config"), "color = always").unwrap();
    site.run(&["restore", "latest", "--target", text(&target)]).ok();
}

#[test]
fn what_index_dir_names_must_be_for_an_index() {
    // Not two copies of one repository.
    let (site, other) = (Site::filled(), Site::bare());
    other.with_password(&["init"], PASSWORD).ok();
    let file = site.path().join("file");
    fs::write(&file, "precious").unwrap();
    let ran = site.run(&["--index-dir", text(&file), "snapshots"]).refused(1, &["no directory", text(&file)]);
    assert!(!ran.err.contains("remove"), "{}", ran.err);
    let dir = site.path().join("documents");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("letter"), "precious").unwrap();
    site.run(&["--index-dir", text(&dir), "snapshots"]).refused(1, &["other things", "letter"]);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
    fs::remove_file(dir.join("letter")).unwrap();
    for at in [dir.clone(), site.path().join("not/there/yet")] {
        for _ in 0..2 {
            site.run(&["--index-dir", text(&at), "snapshots"]).ok();
        }
        let before = files(&at);
        let theirs = other.with_password(&["--index-dir", text(&at), "snapshots"], PASSWORD);
        theirs.refused(1, &["keeps its index in", text(&at)]);
        assert_eq!(files(&at), before, "it stays the first one's");
        assert_eq!(site.run(&["--index-dir", text(&at), "snapshots"]).ok().err, "");
    }
}

#[test]
fn a_password_comes_from_standard_input() {
    let site = Site::filled();
    let ask = |from: Stdio| {
        let mut command = site.program(&["-p", "-", "snapshots"]);
        command.stdin(from);
        command.output().unwrap()
    };
    let password = site.path().join("password");
    fs::write(&password, format!("{PASSWORD}\n")).unwrap();
    let ran = ask(fs::File::open(&password).unwrap().into());
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let ran = ask(Stdio::null());
    assert_eq!(ran.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&ran.stderr).contains("empty, from standard input"));
}

#[test]
fn a_source_may_have_any_name() {
    let site = Site::new();
    site.write("a\nb/file", b"content");
    site.run(&["backup", text(&site.src().join("a\nb"))]).ok();
    let listed = site.run(&["--json", "snapshots"]).ok();
    let source = listed.json()[0]["source"].as_str().unwrap().to_owned();
    assert!(source.ends_with("src-a%0Ab"), "{source}");
}

#[test]
fn an_index_that_cannot_be_kept_may_be_kept_elsewhere() {
    let site = Site::filled();
    fs::remove_dir_all(site.repo().join("index")).unwrap();
    // Root writes where it may not; where a file is in the way nobody does.
    let _ = fs::remove_dir_all(site.home().join(".cache"));
    fs::write(site.home().join(".cache"), "a file").unwrap();
    let repo = site.repo();
    let _undo = mount(&["--bind", text(&repo)], &repo);
    let _ro = mount(&["-o", "remount,bind,ro"], &repo);
    site.run(&["snapshots"]).refused(1, &[".cache", "--index-dir"]);
    site.run(&["--index-dir", text(&site.path().join("elsewhere")), "snapshots"]).ok();
}
