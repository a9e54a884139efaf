//! Repositories of every format version that was ever released, as they were written then: each must open, read as it
//! did, and be continued. `docs/format.md` (Version changes) says how one is added.

#[path = "golden/listing.rs"]
mod listing;
#[path = "golden/make.rs"]
mod make;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use repo::backend::{Area, Backend, Object};
use repo::crypto::FORMAT_VERSION;
use repo::crypto::slot::RecoveryCode;
use repo::follow::read_rollup;
use repo::format::record::{Outcome, Record};
use repo::id::PackId;
use repo::keyslots::{self, Secret};
use repo::monitor::Recording;
use repo::open::{Access, Place, Repository, Sealed};
use repo::pack::read::{sealed_footer, verify_pack};
use repo::rebuild::rebuild;
use repo::session::Session;

/// A committed repository of one format version.
struct Golden {
    dir: PathBuf,
}

/// All of them. A directory that is not one is a mistake, and is not passed over.
fn all() -> Vec<Golden> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/format");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&root).unwrap() {
        let dir = entry.unwrap().path();
        let name = dir.file_name().unwrap().to_str().unwrap().to_owned();
        let version: u16 = name.strip_prefix('v').and_then(|n| n.parse().ok()).expect(&name);
        for part in ["repo/config", "expected.txt", "secrets.txt"] {
            assert!(dir.join(part).is_file(), "{name} lacks {part}");
        }
        found.push((version, Golden { dir }));
    }
    found.sort_by_key(|(version, _)| *version);
    let versions: Vec<u16> = found.iter().map(|(version, _)| *version).collect();
    assert_eq!(versions, (1..=FORMAT_VERSION).collect::<Vec<_>>(), "one golden repository for each version");
    found.into_iter().map(|(_, golden)| golden).collect()
}

impl Golden {
    fn repo(&self) -> PathBuf {
        self.dir.join("repo")
    }

    /// What opens it: the lines `name value` of `secrets.txt`.
    fn secrets(&self) -> BTreeMap<String, String> {
        let text = std::fs::read_to_string(self.dir.join("secrets.txt")).unwrap();
        text.lines().filter_map(|line| line.split_once(' ')).map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
    }

    fn passphrase(&self) -> Secret {
        Secret::Passphrase(self.secrets()["passphrase"].clone().into())
    }
}

/// Opens `root`, with an index and a memory of their own in `scratch`.
fn open(root: &Path, scratch: &Path, secret: &Secret, access: Access) -> Repository {
    let place = Place { root: root.to_owned(), index_dir: Some(scratch.join("index")), cache: scratch.join("cache") };
    Sealed::open(place, access).unwrap().unlock(secret, &Recording::default()).unwrap()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target)
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The first line that differs, rather than all of both.
fn assert_same(found: &str, expected: &str, what: &str) {
    for (n, (f, e)) in found.lines().zip(expected.lines()).enumerate() {
        assert_eq!(f, e, "{what}, line {}", n + 1);
    }
    assert_eq!(found.lines().count(), expected.lines().count(), "{what}");
}

#[test]
fn every_version_reads_as_it_did() {
    for golden in all() {
        for absent in ["index", "reserve", "tmp", "lock"] {
            assert!(!golden.repo().join(absent).exists(), "{absent} is derived or a machine's own");
        }
        let scratch = tempfile::tempdir().unwrap();
        let repo = open(&golden.repo(), scratch.path(), &golden.passphrase(), Access::Read);
        let expected = std::fs::read_to_string(golden.dir.join("expected.txt")).unwrap();
        assert_same(&listing::of(&repo), &expected, &golden.dir.display().to_string());
    }
}

#[test]
fn every_kind_of_slot_opens() {
    for golden in all() {
        let secrets = golden.secrets();
        let code = || RecoveryCode::parse(&secrets["recovery-code"]).unwrap();
        let identity = || Secret::identity(&secrets["identity"]).unwrap();
        let typed = Secret::Passphrase(secrets["recovery-code"].to_lowercase().into());
        let mut opened = Vec::new();
        for secret in [golden.passphrase(), Secret::RecoveryCode(code()), identity(), typed] {
            let scratch = tempfile::tempdir().unwrap();
            let repo = open(&golden.repo(), scratch.path(), &secret, Access::Read);
            opened.push(repo.unlocked.slot.clone());
            let owner = keyslots::owner_key(repo.backend.as_ref(), &repo.config.repo_id, &code()).unwrap();
            assert_eq!(owner.verifying_key().to_bytes(), repo.config.owner_public);
        }
        assert_eq!(opened[1], opened[3]);
        opened.sort();
        opened.dedup();
        assert_eq!(opened.len(), 3, "three slots, each opened by its own secret");
    }
}

#[test]
fn every_pack_verifies_and_roll_ups_repeat_their_footers() {
    for golden in all() {
        let scratch = tempfile::tempdir().unwrap();
        let repo = open(&golden.repo(), scratch.path(), &golden.passphrase(), Access::Read);
        let backend = repo.backend.as_ref();
        let mut packs: Vec<PackId> = Vec::new();
        let mut rollups = Vec::new();
        list(backend, Area::Packs, |o| {
            if let Object::Pack(id) = o {
                packs.push(id)
            }
        });
        list(backend, Area::Footers, |o| {
            if let Object::Footers(n) = o {
                rollups.push(n)
            }
        });
        let mut repeated = 0;
        for number in rollups {
            for entry in read_rollup(backend, &repo.keys, number).unwrap() {
                assert!(packs.contains(&entry.id));
                assert!(sealed_footer(backend, &entry.id).unwrap() == (entry.sealed_footer, entry.size));
                repeated += 1;
            }
        }
        assert_eq!(repeated, packs.len());
        let mut epochs = Vec::new();
        for id in &packs {
            let footer = verify_pack(backend, &repo.keys, id, |_, _, frame| frame).unwrap();
            epochs.extend(footer.frames.iter().map(|f| f.epoch));
        }
        epochs.sort_unstable();
        epochs.dedup();
        assert_eq!(epochs, (0..=repo.keys.current_epoch()).collect::<Vec<_>>(), "frames of every epoch");
    }
}

fn list(backend: &dyn Backend, area: Area, mut visit: impl FnMut(Object)) {
    backend
        .list(area, &mut |object, _| {
            visit(object);
            Ok(())
        })
        .unwrap();
}

#[test]
fn every_version_can_be_continued_and_its_index_rebuilt() {
    for golden in all() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("repo");
        copy(&golden.repo(), &root);
        let repo = open(&root, scratch.path(), &golden.passphrase(), Access::Write);
        let before = repo.log.state().position;
        let session = Session::begin(std::sync::Arc::clone(&repo.log), repo.locks.clone(), "test", None).unwrap();
        session.commit(|_| Record::ClockAccepted).unwrap();
        let after = session.end(Outcome::Done).unwrap();
        assert!(after.seq >= before.seq + 3);
        let counted = repo.index.counts().unwrap();
        let dir = scratch.path().join("again");
        let again = rebuild(repo.backend.as_ref(), &repo.keys, &repo.log, &dir, &Recording::default()).unwrap();
        assert_eq!(again.counts().unwrap(), counted);
        drop(repo);
        // The rest reads as before; the records just written follow those that were there.
        let repo = open(&root, scratch.path(), &golden.passphrase(), Access::Read);
        let expected = std::fs::read_to_string(golden.dir.join("expected.txt")).unwrap();
        let snapshots = |text: &str| text.split_once("\nsnapshot ").map(|(_, rest)| rest.to_owned()).unwrap();
        assert_same(&snapshots(&listing::of(&repo)), &snapshots(&expected), "continued");
    }
}

#[test]
fn roll_ups_may_be_lost() {
    for golden in all() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("repo");
        copy(&golden.repo(), &root);
        for rollup in std::fs::read_dir(root.join("footers")).unwrap() {
            std::fs::remove_file(rollup.unwrap().path()).unwrap();
        }
        let repo = open(&root, scratch.path(), &golden.passphrase(), Access::Read);
        let expected = std::fs::read_to_string(golden.dir.join("expected.txt")).unwrap();
        assert_same(&listing::of(&repo), &expected, "without roll-ups");
    }
}
