//! Backups made while a machine's clock is wrong, with the real program. `faketime` sets its clock, and its alone.

mod support;

use std::fs;
use std::process::Command;

use support::{Mount, Ran, Running, Site, saved};

/// Runs the program with its clock off by `offset`.
fn at(offset: &str, site: &Site, words: &[&str]) -> Ran {
    let real = site.command(words);
    let mut command = Command::new("faketime");
    command.args(["-f", offset]).arg(real.get_program()).args(real.get_args()).env_clear();
    command.envs(real.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(real.get_current_dir().unwrap());
    Running::start(command).wait()
}

const BACKUP: [&str; 7] = ["--json", "backup", ".", "--source", "data", "--host", "web"];

#[test]
fn a_backup_with_a_wrong_clock_displaces_no_other() {
    for offset in ["+3650d", "-3650d"] {
        let site = Site::new();
        let mut made = Vec::new();
        let mut warned = 0;
        for n in 0..5 {
            site.write("which", n.to_string().as_bytes());
            let ran = at(if n == 1 { offset } else { "+0d" }, &site, &BACKUP).ok();
            warned += usize::from(ran.err.contains("\"warning\"") && ran.err.contains("set the clock"));
            made.push(saved(&ran));
        }
        // At once; only a clock that is ahead and that the kernel takes for kept is noticed at the next backup.
        assert!(warned >= 1, "{offset}: nothing warned of the clock");
        assert_eq!(site.snapshots(), made, "{offset}: in the order they were made");
        assert_eq!(site.run(&["dump", "latest", "which"]).ok().text(), "4", "{offset}");
        assert_eq!(site.run(&["dump", "latest~3", "which"]).ok().text(), "1", "{offset}");
        let long_ago = site.run(&["snapshots", "--json", "--at", "2020-01-01"]).ok();
        assert!(long_ago.json().iter().all(|m| m["id"].is_null()), "{offset}: {}", long_ago.text());
        let mounted = Mount::new(&site, &site.mnt(), &[]);
        assert_eq!(fs::read_to_string(mounted.latest().join("which")).unwrap(), "4", "{offset}");
        mounted.unmount();
        site.run(&["status", "--max-age", "26h"]).ok();

        site.run(&["forget", "--keep-last", "1", "--prune", "--release-held", "--accept-clock"]).ok();
        assert_eq!(site.snapshots(), made[4..], "{offset}: the real newest stays");
    }
}

#[test]
fn status_does_not_take_the_future_for_fresh() {
    let site = Site::new();
    let future = saved(&at("+3650d", &site, &BACKUP).ok());
    // Alone, and as the newest of several; with and without a limit.
    for others in [false, true] {
        if others {
            site.run(&["forget", "--accept-clock", &future]).ok();
            site.backup();
            at("+3650d", &site, &BACKUP).ok();
        }
        let ran = site.run(&["--json", "status"]).exits(5);
        let line = &ran.json()[0];
        assert_eq!((&line["in_future"], &line["late"]), (&true.into(), &true.into()), "{line}");
        let told = site.run(&["status", "--max-age", "26h"]).exits(5).text();
        assert!(told.contains("IN THE FUTURE") && told.contains("1 snapshot made in the future"), "{told}");
    }
    // A backup with the clock right is the newest, and what is wrong is still said.
    let newest = site.backup();
    let ran = site.run(&["--json", "status", "--max-age", "26h"]).ok();
    assert_eq!(ran.json()[0]["snapshot_id"].as_str(), Some(newest.as_str()));
    let told = site.run(&["status", "--max-age", "26h"]).ok().text();
    assert!(told.contains("1 snapshot made in the future") && !told.contains("IN THE FUTURE"), "{told}");
}
