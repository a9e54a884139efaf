//! What the tests share.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use repo::capture::{Options, Outcome, backup};
use repo::format::tree::{Content, Entry};
use repo::monitor::Recording;
use repo::open::{Access, Repository};
use repo::path::SnapPath;
use repo::snapshots;
use repo::tree::{dir, file};

use crate::common::{make_repository, open, options};

/// A repository and a source beside it.
pub struct Site {
    pub dir: tempfile::TempDir,
}

impl Site {
    pub fn new() -> Site {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("src")).unwrap();
        make_repository(&dir.path().join("repo"));
        Site { dir }
    }

    pub fn src(&self) -> PathBuf {
        self.dir.path().join("src")
    }

    pub fn open(&self) -> Repository {
        open(&self.dir.path().join("repo"), &self.dir.path().join("cache"), Access::Write)
    }

    pub fn options(&self) -> Options {
        options(self.src())
    }

    pub fn backup(&self, repo: &Repository) -> Outcome {
        backup(repo, self.options(), &Recording::default()).unwrap()
    }
}

/// Everything below the source directory, by path.
pub fn listing(repo: &Repository, outcome: &Outcome, src: &Path) -> BTreeMap<Vec<u8>, Entry> {
    let manifest = snapshots::manifest(repo, &outcome.snapshot.unwrap()).unwrap();
    let store = repo.store();
    let path = SnapPath::new(src.as_os_str().as_encoded_bytes()).unwrap();
    let top = dir::resolve(store.as_ref(), &manifest.root, &path).unwrap();
    let mut out = BTreeMap::new();
    let mut todo = vec![(Vec::new(), top)];
    while let Some((path, entry)) = todo.pop() {
        if let Content::Dir(d) = &entry.content {
            for child in dir::entries(store.as_ref(), d, 0) {
                let child = child.unwrap();
                let mut below: Vec<u8> = path.clone();
                if !below.is_empty() {
                    below.push(b'/');
                }
                below.extend_from_slice(&child.name);
                todo.push((below, child));
            }
        }
        out.insert(path, entry);
    }
    out
}

pub fn content(repo: &Repository, entry: &Entry) -> Vec<u8> {
    let mut out = vec![0; entry.size as usize];
    let n = file::read_at(repo.store().as_ref(), &entry.content, 0, &mut out).unwrap();
    assert_eq!(n, out.len());
    out
}

pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for b in &mut out {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *b = state as u8;
    }
    out
}
