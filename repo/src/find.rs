//! Searching all history at once: every version of every file that matches, with the snapshots that have it. Subtrees
//! that snapshots share are walked once, so that a search of a hundred daily snapshots costs little more than of one.

mod merge;
mod pattern;

use std::collections::HashMap;
use std::rc::Rc;

use self::merge::{Merge, Set};
pub use self::pattern::Patterns;
use crate::diff::same_content;
use crate::error::{Error, Kind, Result};
use crate::format::tree::{Content, DirRef, Entry, EntryType, FileTime};
use crate::id::ContentHash;
use crate::limits::MAX_DEPTH;
use crate::ls::report;
use crate::monitor::{Counters, Monitor};
use crate::pack::source::FrameSource;
use crate::path::SnapPath;

/// Snapshots searched together: this bounds memory. In a longer history a version that spans several such stretches is
/// shown once for each.
pub const WINDOW: usize = 1024;

/// What is looked for. Conditions that are absent let everything pass.
pub struct Query {
    /// The names or paths.
    pub patterns: Patterns,
    /// Any of these types; empty for all.
    pub kinds: Vec<EntryType>,
    /// At least this many bytes. Only files have a size.
    pub min_size: Option<u64>,
    /// At most this many bytes.
    pub max_size: Option<u64>,
    /// Last modified then or later.
    pub oldest: Option<FileTime>,
    /// Last modified then or earlier.
    pub newest: Option<FileTime>,
}

impl Query {
    fn admits(&self, entry: &Entry) -> bool {
        let sized = entry.kind == EntryType::File || (self.min_size.is_none() && self.max_size.is_none());
        sized
            && (self.kinds.is_empty() || self.kinds.contains(&entry.kind))
            && self.min_size.is_none_or(|min| entry.size >= min)
            && self.max_size.is_none_or(|max| entry.size <= max)
            && self.oldest.is_none_or(|oldest| entry.mtime >= oldest)
            && self.newest.is_none_or(|newest| entry.mtime <= newest)
    }
}

/// A version of what is at a path: content and time of modification; a directory is one version while it exists.
pub struct Version {
    /// As the newest snapshot with this version has it.
    pub entry: Entry,
    /// The first snapshot with it, counted in the history from 0.
    pub first: usize,
    /// The last one.
    pub last: usize,
    /// How many snapshots have it.
    pub count: usize,
}

/// Searches the snapshots with these root directories, oldest first, all of one history. Shows each path that matches
/// with its matching versions, oldest first, in tree order. Returns how many directories could not be read; those are
/// reported.
///
/// # Errors
/// `Interrupted`, and what `visit` gives.
pub fn find(
    source: &dyn FrameSource,
    roots: &[Entry],
    query: &Query,
    monitor: &dyn Monitor,
    visit: &mut dyn FnMut(&SnapPath, &[Version]) -> Result<()>,
) -> Result<u64> {
    let mut failed = 0;
    for (i, window) in roots.chunks(WINDOW).enumerate() {
        failed += search(source, i * WINDOW, window, query, monitor, visit)?;
    }
    Ok(failed)
}

fn search(
    source: &dyn FrameSource,
    offset: usize,
    roots: &[Entry],
    query: &Query,
    monitor: &dyn Monitor,
    visit: &mut dyn FnMut(&SnapPath, &[Version]) -> Result<()>,
) -> Result<u64> {
    let mut failed = 0;
    let here: Vec<(Entry, Set)> =
        roots.iter().enumerate().map(|(i, root)| (root.clone(), Rc::from([(offset + i) as u32]))).collect();
    let mut levels = vec![(SnapPath::root(), Merge::new(listings(&here)))];
    while let Some((path, merge)) = levels.last_mut() {
        if monitor.cancelled() {
            return Err(Error::new(Kind::Interrupted, "interrupted"));
        }
        let mut damage = |error: &Error| {
            failed += 1;
            report(monitor, path, error);
        };
        let Some(found) = merge.next(source, &mut damage) else {
            Counters::add(&monitor.counters().dirs, 1);
            levels.pop();
            continue;
        };
        let Some((first, _)) = found.first() else { continue };
        let path = path.join(&first.name);
        Counters::add(&monitor.counters().files, 1);
        if query.patterns.matches(&path) {
            let versions = versions(&found, query);
            if !versions.is_empty() {
                visit(&path, &versions)?;
            }
        }
        let below = listings(&found);
        if !below.is_empty() {
            if levels.len() >= MAX_DEPTH {
                return Err(Error::damaged("directories are nested too deep"));
            }
            levels.push((path, Merge::new(below)));
        }
    }
    Ok(failed)
}

/// The different listings among these entries, each with the snapshots that have it.
fn listings(found: &[(Entry, Set)]) -> Vec<(DirRef, Set)> {
    let mut by_hash: HashMap<ContentHash, (DirRef, Vec<u32>)> = HashMap::new();
    for (entry, set) in found {
        if let Content::Dir(dir) = &entry.content
            && dir.entries > 0
        {
            by_hash.entry(dir.h).or_insert_with(|| (*dir, Vec::new())).1.extend(set.iter());
        }
    }
    let sorted = |mut set: Vec<u32>| {
        set.sort_unstable();
        Rc::from(set)
    };
    by_hash.into_values().map(|(dir, set)| (dir, sorted(set))).collect()
}

fn versions(found: &[(Entry, Set)], query: &Query) -> Vec<Version> {
    let mut out: Vec<Version> = Vec::new();
    for (entry, set) in found.iter().filter(|(entry, _)| query.admits(entry)) {
        let (Some(first), Some(last)) = (set.first(), set.last()) else { continue };
        let (first, last) = (*first as usize, *last as usize);
        match out.iter_mut().find(|v| same_version(&v.entry, entry)) {
            Some(known) => {
                if last > known.last {
                    known.entry = entry.clone();
                }
                known.first = known.first.min(first);
                known.last = known.last.max(last);
                known.count += set.len();
            }
            None => out.push(Version { entry: entry.clone(), first, last, count: set.len() }),
        }
    }
    out.sort_by_key(|v| (v.first, v.last));
    out
}

fn same_version(a: &Entry, b: &Entry) -> bool {
    match (a.kind, b.kind) {
        (EntryType::Dir, EntryType::Dir) => true,
        _ => a.mtime == b.mtime && same_content(a, b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::{Recording, Void};
    use crate::tree::fake::{Store, dir_of, file};

    fn query(patterns: &[&str]) -> Query {
        let patterns = Patterns::new(&patterns.iter().map(|p| p.as_bytes()).collect::<Vec<_>>(), false).unwrap();
        Query { patterns, kinds: Vec::new(), min_size: None, max_size: None, oldest: None, newest: None }
    }

    fn run(store: &Store, roots: &[Entry], query: &Query, monitor: &dyn Monitor) -> (String, u64) {
        let mut seen = Vec::new();
        let failed = find(store, roots, query, monitor, &mut |path, versions| {
            for v in versions {
                let path = String::from_utf8_lossy(path.as_bytes());
                seen.push(format!("{path}={}:{}-{}({})", v.entry.size, v.first, v.last, v.count));
            }
            Ok(())
        });
        (seen.join(" "), failed.unwrap())
    }

    fn search(store: &Store, roots: &[Entry], patterns: &[&str]) -> String {
        run(store, roots, &query(patterns), &Void::default()).0
    }

    /// Four snapshots of `d/f` (which changes and changes back), `d/other`, and `g`, which is not in the third.
    fn history(store: &mut Store) -> Vec<Entry> {
        let contents: [&[u8]; 4] = [b"1", b"22", b"1", b"333"];
        let mut roots = Vec::new();
        for (i, content) in contents.into_iter().enumerate() {
            let d = dir_of(store, "d", vec![file("f", content), file("other", b"")]);
            let mut entries = vec![d];
            if i != 2 {
                entries.push(file("g", b"gggg"));
            }
            roots.push(dir_of(store, "", entries));
        }
        roots
    }

    #[test]
    fn versions_with_first_and_last_seen() {
        let mut store = Store::default();
        let roots = history(&mut store);
        assert_eq!(search(&store, &roots, &["f"]), "d/f=1:0-2(2) d/f=2:1-1(1) d/f=3:3-3(1)");
        assert_eq!(search(&store, &roots, &["g", "d"]), "d=0:0-3(4) g=4:0-3(3)");
        assert_eq!(search(&store, &roots, &["d/o*"]), "d/other=0:0-3(4)");
        assert_eq!(search(&store, &roots, &["nothing"]), "");
        assert_eq!(search(&store, &roots[..1], &["**/f"]), "d/f=1:0-0(1)");
    }

    #[test]
    fn conditions() {
        let mut store = Store::default();
        let mut late = file("late", b"12345");
        late.mtime.secs = 100;
        let dir = dir_of(&mut store, "dir", vec![]);
        let roots = [dir_of(&mut store, "", vec![late, file("early", b"1"), dir])];
        let run = |change: &dyn Fn(&mut Query)| {
            let mut q = query(&["*"]);
            change(&mut q);
            let seen = run(&store, &roots, &q, &Void::default()).0;
            seen.split(' ').filter_map(|s| s.split('=').next()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(run(&|_| {}), "dir early late");
        assert_eq!(run(&|q| q.kinds = vec![EntryType::Dir]), "dir");
        assert_eq!(run(&|q| q.min_size = Some(2)), "late");
        assert_eq!(run(&|q| q.max_size = Some(2)), "early");
        assert_eq!(run(&|q| q.oldest = Some(FileTime { secs: 100, nanos: 0 })), "late");
        assert_eq!(run(&|q| q.newest = Some(FileTime { secs: 99, nanos: 0 })), "dir early");
    }

    #[test]
    fn what_snapshots_share_is_read_once() {
        let mut store = Store::default();
        let mut entries: Vec<Entry> = (0..30_000).map(|i| file(&format!("name{i:08}"), b"content")).collect();
        let mut roots = Vec::new();
        for i in 0..50u8 {
            entries[usize::from(i) * 500] = file(&format!("name{:08}", usize::from(i) * 500), &[i, i]);
            let big = dir_of(&mut store, "big", entries.clone());
            let still = dir_of(&mut store, "still", vec![file("x", b"x")]);
            roots.push(dir_of(&mut store, "", vec![big, still]));
        }
        let distinct = store.len();
        let seen = search(&store, &roots, &["name00000500", "x"]);
        assert_eq!(seen, "big/name00000500=7:0-0(1) big/name00000500=2:1-49(49) still/x=1:0-49(50)");
        let asked = store.asked();
        assert!(asked <= distinct, "{asked} of {distinct} chunks");
    }

    #[test]
    fn damage_in_one_snapshot_leaves_the_others() {
        let mut store = Store::default();
        let roots = history(&mut store);
        let Content::Dir(top) = &roots[1].content else { panic!("a directory") };
        let d = crate::tree::dir::lookup(&store, top, b"d").unwrap().unwrap();
        store.lose(&d);
        let monitor = Recording::default();
        let (seen, failed) = run(&store, &roots, &query(&["f"]), &monitor);
        assert_eq!((seen.as_str(), failed), ("d/f=1:0-2(2) d/f=3:3-3(1)", 1));
        assert!(monitor.lines()[0].contains("\"/d\""));
    }
}
