use super::*;
use crate::output::testing::{Kept, kept};
use std::ffi::OsStr;

fn start(json: bool, quiet: bool, verbose: u8, job: Job) -> (Progress, Kept, Kept) {
    let (output, out, err) = kept(json, quiet, verbose);
    (Progress::start(output, job, Rate(50.0), Arc::default()), out, err)
}

fn some_events(progress: &Progress) {
    let odd = Path::new(OsStr::from_bytes(b"/a\xff"));
    let error = Error::new(Kind::Io, "no luck");
    for _ in 0..2 {
        progress.event(Event::ItemError { path: odd, during: "read", error: &error });
        progress.event(Event::Notice("rebuilding"));
        progress.event(Event::Warning("slow disk"));
    }
    progress.event(Event::Item { path: Path::new("/new"), action: Action::New, size: 2048 });
    progress.event(Event::Item { path: Path::new("/old"), action: Action::Unchanged, size: 1 });
}

#[test]
fn events_are_said_once_as_text() {
    let (progress, out, err) = start(false, false, 1, Job::Backup);
    some_events(&progress);
    assert_eq!(out.text(), "new        /new, 2.000 KiB\n");
    assert_eq!(err.text(), "error: cannot read /a\u{fffd}: no luck\nrebuilding\nwarning: slow disk\n");
}

#[test]
fn quiet_keeps_warnings_and_errors() {
    let (progress, out, err) = start(false, true, 0, Job::Backup);
    some_events(&progress);
    assert_eq!(out.text(), "");
    assert_eq!(err.text(), "error: cannot read /a\u{fffd}: no luck\nwarning: slow disk\n");
}

#[test]
fn events_are_said_once_as_json() {
    let (output, out, err) = kept(true, false, 2);
    // So slow that no status line comes in between.
    let progress = Progress::start(output, Job::Backup, Rate(0.001), Arc::default());
    some_events(&progress);
    drop(progress);
    let types = |text: &str| -> Vec<String> {
        let parse = |l: &str| serde_json::from_str::<serde_json::Value>(l).unwrap();
        text.lines().map(|l| parse(l)["message_type"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(types(&out.text()), ["notice", "verbose_status", "verbose_status"]);
    assert_eq!(types(&err.text()), ["error", "warning"]);
    assert!(err.text().contains("\"item_b64\":\"L2H/\""));
}

#[test]
fn status_lines_come_by_themselves() {
    for (job, field) in [
        (Job::Backup, "bytes_done"),
        (Job::Restore { dry_run: false }, "bytes_restored"),
        (Job::Other("packs"), "bytes_done"),
    ] {
        let (progress, out, _) = start(true, false, 0, job);
        Counters::add(&progress.counters().bytes, 25);
        Counters::add(&progress.counters().total_bytes, 100);
        while out.text().lines().count() < 2 {
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(progress);
        let text = out.text();
        let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(last["message_type"], "status");
        assert_eq!((&last[field], &last["percent_done"]), (&25.into(), &0.25.into()));
    }
}

#[test]
fn estimates() {
    assert_eq!(remaining(Duration::from_secs(10), 0.25), Some(Duration::from_secs(30)));
    assert_eq!(remaining(Duration::from_secs(10), 1.0), Some(Duration::ZERO));
    assert_eq!(remaining(Duration::from_secs(1), 0.5), None);
    assert_eq!(remaining(Duration::from_secs(10), 0.0), None);
}

#[test]
fn the_bar_says_it_in_a_line() {
    let mut glance = Glance {
        elapsed: Duration::from_secs(72),
        remaining: None,
        share: None,
        files: 3,
        total_files: 0,
        bytes: 2048,
        total_bytes: 0,
        errors: 0,
        stored: 0,
        phase: String::new(),
    };
    assert_eq!(glance.text(Job::Backup), "[1:12] 3 files 2.000 KiB");
    glance = Glance {
        remaining: Some(Duration::from_secs(24)),
        share: Some(0.75),
        total_files: 4,
        bytes: 0,
        errors: 1,
        phase: "verify".into(),
        ..glance
    };
    assert_eq!(glance.text(Job::Other("packs")), "[1:12] 75.0% verify: 3 packs of 4 packs, 1 error, 0:24 left");
    glance = Glance {
        errors: 0,
        bytes: 96 << 20,
        total_bytes: 128 << 20,
        stored: 72 << 20,
        phase: "packs".into(),
        ..glance
    };
    let told = "[1:12] 75.0%, 0:24 left: 3/4 packs, 96.0/128.0 MiB, 1.0 MiB/s, 24.0 MiB skipped";
    assert_eq!(glance.text(Job::Transfer), told);
    // A large push, on a terminal of 80 columns: all but what was skipped.
    glance = Glance {
        elapsed: Duration::from_secs(35_999),
        remaining: Some(Duration::from_secs(359_999)),
        files: 31_234,
        total_files: 32_768,
        bytes: 1000 << 30,
        total_bytes: 1023 << 30,
        stored: 900 << 30,
        ..glance
    };
    let text = glance.text(Job::Transfer);
    assert!(text.find("/s").is_some_and(|at| at + 2 <= 80), "{text}");
    assert_eq!(glance.text(Job::Transfer).matches("packs").count(), 1, "{text}");
}

#[test]
fn rates() {
    assert_eq!(Rate::new(None, true).unwrap(), Rate(1.0));
    assert_eq!(Rate::new(Some(""), false).unwrap(), Rate(10.0));
    assert_eq!(Rate::new(Some("0.5"), false).unwrap().interval(), Duration::from_secs(2));
    for bad in ["-1", "61", "x", "nan"] {
        assert_eq!(Rate::new(Some(bad), false).unwrap_err().kind(), Kind::Usage, "{bad}");
    }
    assert!(Rate::new(Some("1e-300"), false).unwrap().interval() < Duration::from_secs(10_000_000));
    let (output, out, err) = kept(true, false, 0);
    let progress = Progress::start(output, Job::Backup, Rate::new(Some("0"), true).unwrap(), Arc::default());
    assert!(progress.ticker.is_none());
    drop(progress);
    assert_eq!((out.text(), err.text()), (String::new(), String::new()));
}

#[test]
fn the_stop_flag_is_passed_on() {
    let stop = Arc::new(AtomicBool::new(false));
    let progress = Progress::start(kept(false, false, 0).0, Job::Backup, Rate(1.0), Arc::clone(&stop));
    assert!(!progress.cancelled());
    stop.store(true, Ordering::Relaxed);
    assert!(progress.cancelled());
}

#[test]
fn looking_draws_nothing_before_there_is_something_to_tell() {
    let (mut output, _, _) = kept(false, false, 0);
    Arc::get_mut(&mut output).unwrap().terminal = true;
    let progress = Progress::start(output, Job::Look("packs"), Rate(0.001), Arc::default());
    let drawn = || {
        progress.shared.show();
        progress.shared.bar.as_ref().unwrap().message()
    };
    assert_eq!(drawn(), "");
    progress.counters().total_files.store(3, Ordering::Relaxed);
    assert_eq!(drawn(), "[0:00] 0.0% 0 packs of 3 packs");
}
