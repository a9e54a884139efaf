//! What comes back: within the limit, whatever the pattern of what goes.

use super::*;

/// Small files share frames: `stays` says which of them the second snapshot still has.
fn thinned(stays: impl Fn(usize) -> bool) -> (Bench, Repository, SnapshotId, u64) {
    let bench = Bench::new();
    let repo = bench.open();
    let files: Vec<_> = (0..80).map(|i| (format!("f{i:03}"), noise(i as u64, 90_000 + i * 1000))).collect();
    files.iter().for_each(|(name, bytes)| bench.write(name, bytes));
    let first = bench.backup(&repo);
    for (i, (name, _)) in files.iter().enumerate() {
        if !stays(i) {
            bench.remove(name);
        }
    }
    let second = bench.backup(&repo);
    forget_named(&repo, &[first], &forget::Options::default(), &quiet()).unwrap();
    let live = files.iter().enumerate().filter(|(i, _)| stays(*i)).map(|(_, (_, bytes))| bytes.len() as u64).sum();
    (bench, repo, second, live)
}

#[test]
fn what_stays_unused_is_within_the_limit_for_every_pattern() {
    type Stays = fn(usize) -> bool;
    let patterns: [(&str, Stays); 5] = [
        ("every second", |i| i % 2 == 0),
        ("all but every third", |i| i % 3 != 0),
        ("every tenth", |i| i % 10 == 0),
        ("all but every tenth", |i| i % 10 != 0),
        ("the first half", |i| i < 40),
    ];
    for (name, stays) in patterns {
        for percent in [0.0, 5.0, 20.0] {
            let (bench, repo, second, live) = thinned(stays);
            let options = Options { max_unused: MaxUnused::Percent(percent), ..now() };
            let done = prune(&repo, &options, &quiet()).unwrap();
            // Trees, footers and what sealing adds.
            let limit = live as f64 * (1.0 + percent / 100.0) + 120_000.0;
            assert!((bench.stored() as f64) < limit, "{name}, {percent}%: {} of {live}, {done:?}", bench.stored());
            assert!(done.bytes_unused as f64 <= live as f64 * percent / 100.0 + 1.0, "{name}, {percent}%: {done:?}");
            assert!(bench.stored() - live.min(bench.stored()) < 120_000 + done.bytes_unused, "what is unused is said");
            assert_eq!(read(&repo, &second).unwrap(), bench.files());
            let again = prune(&repo, &options, &quiet()).unwrap();
            assert_eq!(again.packs_rewritten, 0, "{name}, {percent}%: it is done with one prune");
        }
    }
}
