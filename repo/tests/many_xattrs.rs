//! A file with more extended attributes than an entry could hold in full: any user of a filesystem without a bound on them
//! can make one, and it must not cost anybody a snapshot.

mod common;

use repo::capture::backup;
use repo::crypto::hash::ChunkKind;
use repo::format::tree::XattrValue;
use repo::limits::XATTRS_INLINE;
use repo::monitor::Recording;
use repo::open::Access;
use repo::path::SnapPath;
use repo::snapshots;
use repo::tree::dir;

use common::{make_repository, open, options};

/// Where files may have thousands: in memory, if anywhere.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

#[test]
fn a_flood_of_attributes_comes_back_and_harms_nothing_else() {
    let (dir, repo_dir) = (scratch(), tempfile::tempdir().unwrap());
    let flooded = dir.path().join("flooded");
    std::fs::write(&flooded, b"content").unwrap();
    std::fs::write(dir.path().join("beside"), b"somebody else's").unwrap();
    let value = |i: usize| vec![i as u8; 1000];
    // As many as the filesystem takes: 4500 where it has no bound but the length of a listing.
    let set = (0..4500).take_while(|i| xattr::set(&flooded, format!("user.{i:04}"), &value(*i)).is_ok()).count();
    assert!(set > 0);

    let root = repo_dir.path().join("repo");
    make_repository(&root);
    let repo = open(&root, &repo_dir.path().join("cache"), Access::Write);
    let outcome = backup(&repo, options(dir.path().to_owned()), &Recording::default()).unwrap();
    assert_eq!(outcome.stats.errors, 0);

    let manifest = snapshots::manifest(&repo, &outcome.snapshot.unwrap()).unwrap();
    let store = repo.store();
    let find = |name: &str| {
        let path = SnapPath::new(dir.path().join(name).as_os_str().as_encoded_bytes()).unwrap();
        dir::resolve(store.as_ref(), &manifest.root, &path).unwrap()
    };
    assert_eq!(find("beside").size, 15);
    let found = find("flooded").xattrs;
    assert_eq!(found.len(), set);
    let mut inline = 0;
    for (i, (name, stored)) in found.iter().enumerate() {
        assert_eq!(name, format!("user.{i:04}").as_bytes());
        match stored {
            XattrValue::Inline(bytes) => {
                inline += bytes.len();
                assert_eq!(*bytes, value(i));
            }
            XattrValue::Chunk { h, .. } => assert_eq!(store.chunk(h, ChunkKind::Data).unwrap()[..], value(i)),
        }
    }
    assert!(inline <= XATTRS_INLINE && (inline == set * 1000 || inline + 1000 > XATTRS_INLINE));
}
