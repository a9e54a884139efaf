//! Listing: the entries of a directory, or everything below it, in tree order and bounded memory.

use std::path::Path;

use crate::error::{Error, Kind, Result};
use crate::format::tree::{Content, DirRef, Entry};
use crate::limits::MAX_DEPTH;
use crate::monitor::{Counters, Event, Monitor};
use crate::pack::source::FrameSource;
use crate::path::SnapPath;
use crate::tree::dir::{self, Entries};

/// How deep to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The directory's own entries.
    One,
    /// Everything below it.
    All,
}

/// Shows what is below `dir`, whose path is `at`: a directory, then what is in it. A directory that cannot be read is
/// reported to the monitor, and the rest goes on. Returns how many could not be read.
///
/// # Errors
/// `Interrupted`, and what `visit` gives.
pub fn walk(
    source: &dyn FrameSource,
    at: &SnapPath,
    dir: &DirRef,
    depth: Depth,
    monitor: &dyn Monitor,
    visit: &mut dyn FnMut(&SnapPath, &Entry) -> Result<()>,
) -> Result<u64> {
    let mut failed = 0;
    let mut levels: Vec<(SnapPath, Entries<'_>)> = vec![(at.clone(), dir::entries(source, dir, 0))];
    while let Some((path, entries)) = levels.last_mut() {
        if monitor.cancelled() {
            return Err(Error::new(Kind::Interrupted, "interrupted"));
        }
        let entry = match entries.next() {
            Some(Ok(entry)) => entry,
            Some(Err(error)) => {
                failed += 1;
                report(monitor, path, &error);
                levels.pop();
                continue;
            }
            None => {
                levels.pop();
                continue;
            }
        };
        let path = path.join(&entry.name);
        visit(&path, &entry)?;
        if let (Content::Dir(below), Depth::All) = (&entry.content, depth) {
            if levels.len() >= MAX_DEPTH {
                failed += 1;
                report(monitor, &path, &Error::damaged("directories are nested too deep"));
                continue;
            }
            levels.push((path, dir::entries(source, below, 0)));
        }
    }
    Ok(failed)
}

/// Tells the monitor of something below `path` that could not be read.
pub(crate) fn report(monitor: &dyn Monitor, path: &SnapPath, error: &Error) {
    Counters::add(&monitor.counters().errors, 1);
    monitor.event(Event::ItemError { path: &Path::new("/").join(path.as_path()), during: "read", error });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::{Recording, Void};
    use crate::tree::fake::{Store, dir_of, file};

    fn paths(store: &Store, root: &Entry, depth: Depth, monitor: &dyn Monitor) -> (Vec<String>, u64) {
        let Content::Dir(top) = &root.content else { panic!("a directory") };
        let mut seen = Vec::new();
        let failed = walk(store, &SnapPath::root(), top, depth, monitor, &mut |path, _| {
            seen.push(String::from_utf8_lossy(path.as_bytes()).into_owned());
            Ok(())
        });
        (seen, failed.unwrap())
    }

    #[test]
    fn everything_in_tree_order_or_one_directory() {
        let mut store = Store::default();
        let c = dir_of(&mut store, "c", vec![file("x", b"1"), file("y", b"2")]);
        let empty = dir_of(&mut store, "empty", vec![]);
        let root = dir_of(&mut store, "", vec![file("a", b""), c, empty, file("z", b"")]);
        let (all, failed) = paths(&store, &root, Depth::All, &Void::default());
        assert_eq!((all.join(" ").as_str(), failed), ("a c c/x c/y empty z", 0));
        assert_eq!(paths(&store, &root, Depth::One, &Void::default()).0.join(" "), "a c empty z");
    }

    #[test]
    fn an_unreadable_directory_is_reported_and_the_rest_goes_on() {
        let mut store = Store::default();
        let c = dir_of(&mut store, "c", vec![file("x", b"1")]);
        let root = dir_of(&mut store, "", vec![c.clone(), file("z", b"")]);
        store.lose(&c);
        let monitor = Recording::default();
        let (seen, failed) = paths(&store, &root, Depth::All, &monitor);
        assert_eq!((seen.join(" ").as_str(), failed), ("c z", 1));
        assert!(monitor.lines()[0].contains("\"/c\""), "{:?}", monitor.lines());
    }
}
