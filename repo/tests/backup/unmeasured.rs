//! Files whose size is not the length of what they give, as the kernel makes them in `/proc` and `/sys`.

use std::io::Read;
use std::path::{Path, PathBuf};

use repo::capture::{Options, Outcome, backup};
use repo::monitor::Recording;
use repo::open::Repository;

use crate::site::{Site, content, listing};

fn options(site: &Site, paths: &[&str]) -> Options {
    Options { paths: paths.iter().map(PathBuf::from).collect(), ..site.options() }
}

fn stored(repo: &Repository, outcome: &Outcome, path: &str) -> Vec<u8> {
    let path = Path::new(path);
    let all = listing(repo, outcome, path.parent().unwrap());
    // As long as the content: this asserts it.
    content(repo, &all[path.file_name().unwrap().as_encoded_bytes()])
}

#[test]
fn a_file_of_size_zero_that_has_content_is_stored_with_it() {
    // The symbols are more than is read at once.
    let paths = ["/proc/version", "/proc/filesystems", "/proc/kallsyms"];
    let site = Site::new();
    let repo = site.open();
    for round in 0..2 {
        let monitor = Recording::default();
        let outcome = backup(&repo, options(&site, &paths), &monitor).unwrap();
        assert_eq!((outcome.stats.errors, outcome.stats.unstable), (0, 0), "{:?}", monitor.lines());
        let mut all = 0;
        for path in paths {
            assert_eq!(std::fs::metadata(path).unwrap().len(), 0);
            let now = std::fs::read(path).unwrap();
            assert!(stored(&repo, &outcome, path) == now && !now.is_empty(), "{path} in round {round}");
            all += now.len() as u64;
        }
        assert_eq!(outcome.stats.bytes, all);
    }
}

#[test]
fn a_file_of_size_zero_that_does_not_end_is_reported() {
    let endless = format!("/proc/{}/pagemap", std::process::id());
    let mut begin = vec![0; 1 << 20];
    std::fs::File::open(&endless).and_then(|mut file| file.read_exact(&mut begin)).unwrap();
    assert_eq!(std::fs::metadata(&endless).unwrap().len(), 0);
    // Not readable at its beginning, where nothing is mapped.
    let failing = format!("/proc/{}/mem", std::process::id());
    let site = Site::new();
    let (repo, monitor) = (site.open(), Recording::default());
    let outcome = backup(&repo, options(&site, &[&endless, &failing, "/proc/version"]), &monitor).unwrap();
    let lines = monitor.lines();
    let told = |path: &str, why: &str| {
        let about = |line: &&String| line.starts_with("ItemError") && line.contains(path) && line.contains(why);
        lines.iter().filter(about).count()
    };
    assert_eq!(outcome.stats.errors, 2, "{lines:?}");
    assert_eq!(told(&endless, "does not end within 64 MiB; leave it out with --exclude"), 1, "{lines:?}");
    assert_eq!(told(&failing, "Input/output error"), 1, "{lines:?}");
    assert_eq!(outcome.stats.files, 1);
}

#[test]
fn a_file_that_gives_less_than_its_size_is_as_long_as_what_it_gave() {
    let paths = ["/sys/class/net/lo/mtu", "/sys/kernel/profiling"].map(|path| std::fs::canonicalize(path).unwrap());
    let paths: Vec<&str> = paths.iter().map(|path| path.to_str().unwrap()).collect();
    let site = Site::new();
    let repo = site.open();
    std::thread::sleep(std::time::Duration::from_millis(50));
    for round in 0..3 {
        let monitor = Recording::default();
        let outcome = backup(&repo, options(&site, &paths), &monitor).unwrap();
        let stats = &outcome.stats;
        assert_eq!((stats.errors, stats.unstable), (0, 0), "{:?}", monitor.lines());
        // Read each time, and found to be what it was.
        let unchanged = if round == 0 { 0 } else { paths.len() as u64 };
        assert_eq!((stats.files_changed, stats.files_unmodified), (0, unchanged), "round {round}");
        for path in &paths {
            let now = std::fs::read(path).unwrap();
            assert!((now.len() as u64) < std::fs::metadata(path).unwrap().len());
            assert_eq!(stored(&repo, &outcome, path), now, "{path}");
        }
    }
}
