//! A repository in memory, and what the tests do with it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use repo::backend::fault::Fault;
use repo::backend::memory::Memory;
use repo::backend::{Area, Backend, Object};
use repo::capture::{Options, Outcome, backup};
use repo::check::{Finding, Outcome as Checked, ReadData, check};
use repo::crypto::slot::Argon2Cost;
use repo::error::Result;
use repo::format::tree::{Content, Entry};
use repo::id::{PackId, SnapshotId};
use repo::keyslots::{NewSlots, Secret};
use repo::lock::Locks;
use repo::monitor::{Recording, Void};
use repo::open::{Access, Init, Place, Repository, Sealed, init_in};
use repo::snapshots;
use repo::tree::{dir, file};

/// What opens it.
pub const PASSPHRASE: &str = "a passphrase of the test";
/// Bytes of new listings: directories above the source change while other tests run.
pub const FEW: u64 = 8192;

/// A repository in memory, with a source to back up.
pub struct Site {
    /// Index and cache.
    pub dir: tempfile::TempDir,
    /// What is backed up.
    pub source: Arc<tempfile::TempDir>,
    pub disk: Memory,
    pub locks: Locks,
}

impl Site {
    pub fn new() -> Site {
        let (dir, source) = (tempfile::tempdir().unwrap(), Arc::new(tempfile::tempdir().unwrap()));
        let site = Site { dir, source, disk: Memory::new(), locks: Locks::memory() };
        let cost = Argon2Cost::new(8, 1, 1).unwrap();
        let slots = NewSlots { passphrase: Some((PASSPHRASE, "test")), cost, recipients: &[], recovery_code: true };
        let mut wanted = Init::new(slots);
        wanted.pack_size = 4 << 20;
        init_in(Arc::new(site.disk.clone()), &wanted).unwrap();
        site
    }

    /// With two snapshots of some files: a large one that spans packs, small ones, and an attribute of its own chunk.
    pub fn filled() -> Site {
        let site = Site::new();
        site.write("large", &noise(1, 6 << 20));
        site.write("dir/a", &noise(2, 40_000));
        site.write("dir/b", &noise(3, 3000));
        site.write("dir/deep/c", &noise(4, 100_000));
        let repo = site.open();
        site.backup(&repo);
        site.write("dir/new", &noise(5, 50_000));
        site.backup(&repo);
        site
    }

    /// A copy of the repository as it is now, of the same source.
    pub fn copy(&self) -> Site {
        let (dir, source) = (tempfile::tempdir().unwrap(), self.source.clone());
        Site { dir, source, disk: self.disk.snapshot(), locks: Locks::memory() }
    }

    pub fn src(&self) -> PathBuf {
        self.source.path().to_owned()
    }

    pub fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.src().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    pub fn index(&self) -> PathBuf {
        self.dir.path().join("index")
    }

    pub fn drop_index(&self) {
        let _ = std::fs::remove_dir_all(self.index());
    }

    pub fn try_open(&self, access: Access) -> Result<Repository> {
        self.open_through(Arc::new(self.disk.clone()), access)
    }

    pub fn open_through(&self, backend: Arc<dyn Backend>, access: Access) -> Result<Repository> {
        let place = Place {
            root: self.dir.path().join("absent"),
            index_dir: Some(self.index()),
            cache: self.dir.path().join("cache"),
        };
        let secret = Secret::Passphrase(PASSPHRASE.to_owned().into());
        Sealed::from_backend(backend, self.locks.clone(), place, access)?.unlock(&secret, &Void::default())
    }

    pub fn open(&self) -> Repository {
        self.try_open(Access::Write).unwrap()
    }

    pub fn options(&self) -> Options {
        Options {
            source: Some("test".into()),
            username: "tester".into(),
            program: "test".into(),
            tags: vec![],
            ..Options::new(vec![self.src()], "testhost")
        }
    }

    pub fn backup(&self, repo: &Repository) -> Outcome {
        backup(repo, self.options(), &Recording::default()).unwrap()
    }

    pub fn objects(&self, area: Area) -> Vec<Object> {
        let mut out = Vec::new();
        self.disk
            .list(area, &mut |object, _| {
                out.push(object);
                Ok(())
            })
            .unwrap();
        out
    }

    /// Packs, those of data first, the larger first.
    pub fn packs(&self) -> Vec<PackId> {
        let mut packs: Vec<(u8, u64, PackId)> = Vec::new();
        for object in self.objects(Area::Packs) {
            let Object::Pack(id) = object else { unreachable!() };
            let kind = self.disk.read(&Object::Pack(id), 10, 1).unwrap()[0];
            packs.push((kind, u64::MAX - self.disk.size(&Object::Pack(id)).unwrap().unwrap(), id));
        }
        packs.sort();
        packs.into_iter().map(|(_, _, id)| id).collect()
    }

    pub fn flip(&self, object: &Object, at: impl Fn(usize) -> usize) {
        assert!(self.disk.damage(object, |bytes| {
            let at = at(bytes.len());
            bytes[at] ^= 1;
        }));
    }
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

/// What a check told, as text.
pub fn checked(repo: &Repository, read: ReadData) -> (Checked, Vec<String>) {
    let mut told = Vec::new();
    let outcome = check(repo, read, &Void::default(), &mut |finding| {
        told.push(match finding {
            Finding::Object(e) => format!("object {e}"),
            Finding::Pack { id, .. } => format!("pack {id}"),
            Finding::Snapshot { snapshot, .. } => format!("snapshot {}", snapshot.id),
            Finding::File { snapshot, path, .. } => format!("file {} {}", snapshot.id, path.display()),
            Finding::Whole(id) => format!("whole {id}"),
            Finding::Unneeded(id) => format!("unneeded {id}"),
            _ => unreachable!(),
        });
    })
    .unwrap();
    (outcome, told)
}

/// Every file of every snapshot that can be read, by snapshot and path; what cannot be read is left out.
pub fn readable(repo: &Repository) -> BTreeMap<(String, PathBuf), Vec<u8>> {
    let mut out = BTreeMap::new();
    for id in repo.log.state().snapshots.keys() {
        out.extend(readable_of(repo, id).into_iter().map(|(path, bytes)| ((id.to_hex(), path), bytes)));
    }
    out
}

/// As [`readable`], of one snapshot.
pub fn readable_of(repo: &Repository, id: &SnapshotId) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut out, store) = (BTreeMap::new(), repo.store());
    let Ok(manifest) = snapshots::manifest(repo, id) else { return out };
    let mut todo = vec![(PathBuf::new(), manifest.root)];
    while let Some((path, entry)) = todo.pop() {
        match &entry.content {
            Content::Dir(d) => {
                for child in dir::entries(store.as_ref(), d, 0).map_while(Result::ok) {
                    let name = String::from_utf8(child.name.clone()).unwrap();
                    todo.push((path.join(name), child));
                }
            }
            _ => {
                if let Ok(bytes) = content(repo, &entry) {
                    out.insert(path, bytes);
                }
            }
        }
    }
    out
}

fn content(repo: &Repository, entry: &Entry) -> Result<Vec<u8>> {
    let mut out = vec![0; entry.size as usize];
    let n = file::read_at(repo.store().as_ref(), &entry.content, 0, &mut out)?;
    assert_eq!(n, out.len());
    Ok(out)
}

pub fn files_of(told: &[String]) -> Vec<&str> {
    told.iter().filter(|t| t.starts_with("file")).map(|t| t.rsplit('/').next().unwrap()).collect()
}

/// What is done to one object.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Harm {
    Truncate,
    Empty,
    Zero,
    Flip(usize),
    Swap,
    Delete,
}

/// Does it; false if that changes nothing.
pub fn harm(site: &Site, object: &Object, other: Option<&Object>, how: Harm) -> bool {
    let whole = site.disk.read_all(object, 1 << 30).unwrap();
    let mut bytes = whole.clone();
    match how {
        Harm::Truncate => bytes.truncate(whole.len() / 2),
        Harm::Empty => bytes.clear(),
        Harm::Zero => bytes.fill(0),
        Harm::Flip(sixteenths) => {
            let at = (whole.len() * sixteenths / 16).min(whole.len() - 1);
            bytes[at] ^= 0x10;
        }
        Harm::Swap => match other {
            Some(other) => bytes = site.disk.read_all(other, 1 << 30).unwrap(),
            None => return false,
        },
        Harm::Delete => {
            site.disk.delete(object).unwrap();
            return true;
        }
    }
    let changed = bytes != whole;
    assert!(site.disk.damage(object, |stored| *stored = bytes));
    changed
}

/// The faults that are tried, and whether each lasts.
pub fn faults() -> Vec<(Fault, bool)> {
    vec![(Fault::Io, true), (Fault::Io, false), (Fault::SyncDir, false), (Fault::NoSpace, true)]
}
