//! A small repository on disk, opened cheaply.

use std::path::{Path, PathBuf};

use repo::capture::Options;
use repo::crypto::slot::Argon2Cost;
use repo::keyslots::{NewSlots, Secret};
use repo::monitor::Recording;
use repo::open::{Access, Init, Place, Repository, Sealed, init};

const PASSPHRASE: &str = "a passphrase of the test";

/// Makes an empty one in `root`.
pub fn make_repository(root: &Path) {
    let cost = Argon2Cost::new(8, 1, 1).unwrap();
    let slots = NewSlots { passphrase: Some((PASSPHRASE, "test")), cost, recipients: &[], recovery_code: false };
    init(root, &Init::new(slots)).unwrap();
}

/// Opens what [`make_repository`] made.
pub fn open(root: &Path, cache: &Path, access: Access) -> Repository {
    let place = Place { root: root.to_owned(), index_dir: None, cache: cache.to_owned() };
    let secret = Secret::Passphrase(PASSPHRASE.to_owned().into());
    Sealed::open(place, access).unwrap().unlock(&secret, &Recording::default()).unwrap()
}

/// How to back `src` up.
pub fn options(src: PathBuf) -> Options {
    Options {
        source: Some("test".into()),
        username: "tester".into(),
        program: "test".into(),
        tags: vec![],
        ..Options::new(vec![src], "testhost")
    }
}
