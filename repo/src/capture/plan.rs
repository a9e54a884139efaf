//! Which real paths a backup reads and where in the snapshot they stand.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Kind, Result};

/// A directory on the way to the targets, or a target.
#[derive(Debug)]
pub struct Node {
    /// The real path.
    pub real: PathBuf,
    /// Whether everything below is captured; else only `children` are.
    pub whole: bool,
    /// Whether it was named itself: then it is captured on whatever filesystem it is.
    pub target: bool,
    /// Names below that lead to targets.
    pub children: BTreeMap<Vec<u8>, Node>,
}

/// All targets of one backup.
#[derive(Debug)]
pub struct Plan {
    /// The snapshot's root.
    pub root: Node,
    /// The targets as stored: absolute ones begin with `/`; `.` is the working directory itself.
    pub stored: Vec<Vec<u8>>,
    /// The same as absolute paths: what a source is named by.
    pub absolute: Vec<Vec<u8>>,
}

impl Plan {
    /// An absolute path keeps its place; a relative one stands under its normalised relative path, or under its
    /// absolute one if it leads out of `cwd`; `.` is the snapshot's root.
    ///
    /// # Errors
    /// `Usage` when there is no path, or when some are relative and some are absolute.
    pub fn new(paths: &[PathBuf], cwd: &Path) -> Result<Plan> {
        if paths.is_empty() {
            return Err(Error::new(Kind::Usage, "nothing to back up: no paths given"));
        }
        let absolute = paths.iter().all(|p| normalise(p, cwd).1);
        let base = if absolute { Path::new("/") } else { cwd };
        let mut root = Node { real: base.to_owned(), whole: false, target: false, children: BTreeMap::new() };
        let (mut stored, mut full) = (Vec::new(), Vec::new());
        for path in paths {
            let (parts, is_absolute) = normalise(path, cwd);
            let from = if is_absolute { Path::new("/") } else { cwd };
            if from != base {
                let e = Error::new(Kind::Usage, "cannot mix relative and absolute paths in one snapshot:").at(path);
                return Err(e.remedy(match path.is_absolute() {
                    true => "give all of them as absolute paths",
                    false => "one that leads out of the working directory counts as absolute: give all of them as such",
                }));
            }
            root.add(from, &parts);
            let joined = parts.join(&b'/');
            full.push(from.join(OsStr::from_bytes(&joined)).into_os_string().into_vec());
            stored.push(match (is_absolute, joined.is_empty()) {
                (true, _) => [b"/", joined.as_slice()].concat(),
                (false, true) => b".".to_vec(),
                (false, false) => joined,
            });
        }
        for paths in [&mut stored, &mut full] {
            paths.sort();
            paths.dedup();
        }
        Ok(Plan { root, stored, absolute: full })
    }

    /// Of nothing, for a stream.
    pub fn empty() -> Plan {
        Plan {
            root: Node { real: PathBuf::new(), whole: true, target: true, children: BTreeMap::new() },
            stored: Vec::new(),
            absolute: Vec::new(),
        }
    }

    /// The default name of a source: its paths with `-` for `/`, joined by `+`; what no name can hold, control characters
    /// and bytes that are no text, is percent-encoded, as names are on a mount. Of a relative path that is the absolute
    /// one: another directory's must not become a part of the same history.
    pub fn source_name(paths: &[Vec<u8>]) -> String {
        let name = |path: &Vec<u8>| {
            let text = plain(path).trim_matches('/').replace('/', "-");
            if text.is_empty() { "root".to_owned() } else { text }
        };
        paths.iter().map(name).collect::<Vec<_>>().join("+")
    }
}

impl Node {
    fn add(&mut self, real: &Path, parts: &[Vec<u8>]) {
        let Some((first, rest)) = parts.split_first() else {
            self.target = true;
            self.make_whole();
            return;
        };
        let whole = self.whole;
        let below = real.join(OsStr::from_bytes(first));
        let child = self.children.entry(first.clone()).or_insert_with(|| Node {
            real: below.clone(),
            whole,
            target: false,
            children: BTreeMap::new(),
        });
        child.add(&below, rest);
    }

    fn make_whole(&mut self) {
        self.whole = true;
        self.children.values_mut().for_each(Node::make_whole);
    }
}

/// Bytes as text that a source's name can hold.
fn plain(path: &[u8]) -> String {
    let mut out = String::with_capacity(path.len());
    let encode = |out: &mut String, bytes: &[u8]| bytes.iter().for_each(|b| out.push_str(&format!("%{b:02X}")));
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c.is_control() {
                true => encode(&mut out, c.encode_utf8(&mut [0; 4]).as_bytes()),
                false => out.push(c),
            }
        }
        encode(&mut out, chunk.invalid());
    }
    out
}

/// The components, `..` and `.` resolved by text; whether they start at `/`.
fn normalise(path: &Path, cwd: &Path) -> (Vec<Vec<u8>>, bool) {
    let mut parts: Vec<Vec<u8>> = Vec::new();
    let mut escaped = false;
    for component in path.components() {
        match component {
            Component::Normal(name) => parts.push(name.as_bytes().to_vec()),
            Component::ParentDir => escaped |= parts.pop().is_none(),
            _ => {}
        }
    }
    if path.is_absolute() || !escaped {
        return (parts, path.is_absolute());
    }
    (normalise(&cwd.join(path), cwd).0, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(paths: &[&str]) -> Plan {
        Plan::new(&paths.iter().map(PathBuf::from).collect::<Vec<_>>(), Path::new("/home/u")).unwrap()
    }

    #[test]
    fn a_source_is_named_by_where_its_paths_are() {
        let name = |paths: &[&str]| Plan::source_name(&plan(paths).absolute);
        assert_eq!(name(&["."]), "home-u");
        assert_eq!(name(&["./"]), "home-u");
        assert_eq!(name(&["data/../mail"]), "home-u-mail");
        assert_eq!(name(&["../other", "/home/other"]), "home-other");
        assert_eq!(name(&["mail", "."]), "home-u+home-u-mail");
        assert_eq!(name(&["a\nb\u{85}é%"]), "home-u-a%0Ab%C2%85é%");
        assert_eq!(Plan::source_name(&[b"/srv/\xff\xe9x".to_vec()]), "srv-%FF%E9x");
        let top = Plan::new(&[".".into()], Path::new("/")).unwrap();
        assert_eq!((Plan::source_name(&top.absolute), top.stored), ("root".to_owned(), vec![b".".to_vec()]));
    }

    #[test]
    fn paths_find_their_places() {
        let p = plan(&["/srv/data", "/etc/", "/srv/data/inner"]);
        assert_eq!(Plan::source_name(&p.absolute), "etc+srv-data+srv-data-inner");
        assert!(p.root.children[&b"srv"[..]].children[&b"data"[..]].whole);
        let inner = &p.root.children[&b"srv"[..]].children[&b"data"[..]].children[&b"inner"[..]];
        assert!(inner.whole && inner.target);
        for paths in [["/", "/mnt/a/b"], ["/mnt/a/b", "/"]] {
            let p = plan(&paths);
            let mnt = &p.root.children[&b"mnt"[..]];
            assert!(p.root.target && mnt.whole && !mnt.target && mnt.children[&b"a"[..]].children[&b"b"[..]].target);
        }
        let p = plan(&["."]);
        assert!(p.root.whole);
        assert_eq!(p.root.real, Path::new("/home/u"));
        assert_eq!(p.stored, [b".".to_vec()]);
        let p = plan(&["a/../b/./c"]);
        assert_eq!(p.stored, [b"b/c".to_vec()]);
        assert_eq!(p.root.children[&b"b"[..]].children[&b"c"[..]].real, Path::new("/home/u/b/c"));
        let p = plan(&["../other"]);
        assert_eq!(p.stored, [b"/home/other".to_vec()]);
        assert_eq!(Plan::source_name(&plan(&["/"]).absolute), "root");
        assert!(Plan::new(&[], Path::new("/")).is_err());
    }

    #[test]
    fn relative_and_absolute_paths_do_not_mix() {
        let refused = |paths: &[&str]| {
            let paths: Vec<_> = paths.iter().map(PathBuf::from).collect();
            Plan::new(&paths, Path::new("/home/u")).unwrap_err().to_string()
        };
        for paths in [["documents", "/nonexistent"], ["/nonexistent", "documents"], [".", "/nonexistent"]] {
            assert!(
                refused(&paths).starts_with("cannot mix relative and absolute paths in one snapshot: /nonexistent; ")
            );
        }
        let said = refused(&["documents", "../other"]);
        assert!(said.contains("../other; one that leads out of the working directory counts as absolute"), "{said}");
        // There the two are the same.
        assert!(Plan::new(&["etc".into(), "/srv".into()], Path::new("/")).is_ok());
    }
}
