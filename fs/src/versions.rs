//! Every distinct version of every file of a source, each once, under the path it had.
//!
//! A path is a directory here: it lists the union of what the snapshots' directories of that path hold, and the
//! versions of the file of that path, each named by the time of the snapshot where it was first seen. Unions are
//! made when asked for. Directories with equal listings count once, so an unchanged subtree costs nothing however
//! many snapshots hold it.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use repo::error::Error;
use repo::format::tree::{Content, DirRef, Entry, EntryType, FileTime};
use repo::id::{ContentHash, SnapshotId};
use repo::pack::source::FrameSource;

use crate::listing::Listings;
use crate::names::{NAME_MAX, extension};

/// Where a union is kept once it was made.
pub struct Slot {
    /// The source's directory below `hosts`.
    pub source_dir: u64,
    known: Mutex<Option<(u64, Arc<Union>)>>,
}

impl Slot {
    /// For a union of that source.
    pub fn new(source_dir: u64) -> Slot {
        Slot { source_dir, known: Mutex::new(None) }
    }

    /// The union, if it was made from the snapshots with this stamp.
    pub fn get(&self, stamp: u64) -> Option<Arc<Union>> {
        self.known.lock().as_ref().filter(|(at, _)| *at == stamp).map(|(_, union)| union.clone())
    }

    /// Keeps the union.
    pub fn set(&self, stamp: u64, union: Arc<Union>) {
        *self.known.lock() = Some((stamp, union));
    }
}

/// A snapshot as far as versions care.
#[derive(Clone)]
pub struct Moment {
    /// The snapshot.
    pub id: SnapshotId,
    /// Its name in the source.
    pub time: Arc<str>,
    /// When it was captured, nanoseconds since the epoch.
    pub captured: i64,
}

/// A version of a file.
pub struct Version {
    /// Its name: when it was first seen, and the file's extension.
    pub name: Vec<u8>,
    /// The snapshot where it was first seen.
    pub id: SnapshotId,
    /// What makes it distinct.
    pub digest: [u8; 32],
    /// The file as it was there.
    pub entry: Entry,
}

/// What one path was, over all snapshots of a source.
pub struct Union {
    dirs: Vec<(Moment, DirRef)>,
    /// Versions of the file of this path, by name.
    pub versions: Vec<Version>,
    /// Permissions of the directory that shows the union: never more than each of the united directories gave.
    pub mode: u32,
    /// Its owner.
    pub owner: Option<(u32, u32)>,
    /// When it last gained something.
    pub mtime: FileTime,
}

impl Union {
    /// Whether no snapshot has anything at this path.
    pub fn is_empty(&self) -> bool {
        self.dirs.is_empty() && self.versions.is_empty()
    }

    /// The union of what stands below this one under `name`. A snapshot whose directory cannot be read is handed
    /// to `report` and left out.
    pub fn child(
        &self,
        source: &dyn FrameSource,
        listings: &Listings,
        name: &[u8],
        report: &dyn Fn(&Moment, &Error),
    ) -> Union {
        let mut gather = Gather::default();
        for (moment, dir) in &self.dirs {
            match listings.lookup(source, dir, name) {
                Ok(Some((_, entry))) => gather.add(moment, entry),
                Ok(None) => {}
                Err(e) => report(moment, &e),
            }
        }
        gather.finish()
    }

    /// Names of the paths below this one, in order. Reads every distinct directory.
    pub fn names(&self, source: &dyn FrameSource, report: &dyn Fn(&Moment, &Error)) -> Vec<Box<[u8]>> {
        let mut names: BTreeSet<Box<[u8]>> = BTreeSet::new();
        for (moment, dir) in &self.dirs {
            for entry in repo::tree::dir::entries(source, dir, 0) {
                match entry {
                    Ok(entry) => {
                        names.insert(entry.name.into());
                    }
                    Err(e) => report(moment, &e),
                }
            }
        }
        for version in &self.versions {
            names.remove(version.name.as_slice());
        }
        names.into_iter().collect()
    }
}

/// Gathers what one path was, oldest snapshot first.
#[derive(Default)]
pub struct Gather {
    dirs: Vec<(Moment, DirRef)>,
    seen_dirs: HashSet<(u64, ContentHash)>,
    versions: Vec<Version>,
    seen: HashSet<[u8; 32]>,
    permissions: Option<(u32, u32, u32)>,
    mtime: i64,
}

impl Gather {
    /// What the path was in one snapshot.
    pub fn add(&mut self, moment: &Moment, entry: Entry) {
        if let Content::Dir(dir) = &entry.content {
            self.restrict(&entry);
            if self.seen_dirs.insert((dir.entries, dir.h)) {
                self.mtime = moment.captured;
                self.dirs.push((moment.clone(), *dir));
            }
            return;
        }
        let digest = digest(&entry);
        if self.seen.insert(digest) {
            self.mtime = moment.captured;
            let mut name = moment.time.as_bytes().to_vec();
            name.extend_from_slice(extension(&entry.name));
            name.truncate(NAME_MAX);
            self.versions.push(Version { name, id: moment.id, digest, entry });
        }
    }

    /// A union shows what each of its directories showed, so whoever enters it must have been let into all.
    fn restrict(&mut self, entry: &Entry) {
        let acl = entry.xattrs.iter().any(|(name, _)| name == b"system.posix_acl_access");
        // With an ACL the group bits are its mask, not what the group may do.
        let mode = entry.mode & 0o555 & if acl { 0o505 } else { 0o777 };
        self.permissions = Some(match self.permissions {
            None => (mode, entry.uid, entry.gid),
            Some((old, uid, gid)) if (uid, gid) == (entry.uid, entry.gid) => (old & mode, uid, gid),
            Some((old, ..)) => (old & mode & 0o500, 0, 0),
        });
    }

    /// The union.
    pub fn finish(self) -> Union {
        let (mode, owner) = match self.permissions {
            Some((mode, uid, gid)) => (mode, Some((uid, gid))),
            None => (0o555, None),
        };
        let mut versions = self.versions;
        versions.sort_by(|a, b| a.name.cmp(&b.name));
        let mtime = crate::layout::file_time(self.mtime);
        Union { dirs: self.dirs, versions, mode, owner, mtime }
    }
}

/// Two entries are one version if type, content, target and device agree, whatever their attributes say.
fn digest(entry: &Entry) -> [u8; 32] {
    let mut bare = Entry::new(&b"v"[..], entry.kind);
    bare.size = entry.size;
    bare.target = entry.target.clone();
    bare.rdev = entry.rdev;
    bare.content = entry.content.clone();
    let mut bytes = Vec::new();
    bare.encode(&mut bytes);
    debug_assert!(entry.kind != EntryType::Dir);
    *blake3::hash(&bytes).as_bytes()
}
