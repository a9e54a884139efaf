use std::os::unix::fs::PermissionsExt;

use super::publish::Way;
use super::*;
use crate::backend::{conformance, try_lock};

fn repository(dir: &Path) -> Local {
    let local = Local::create(dir).unwrap();
    local.put(&Object::Config, b"config").unwrap();
    local
}

fn temporaries(root: &Path) -> usize {
    fs::read_dir(root.join(layout::TMP)).unwrap().count()
}

#[test]
fn every_way_to_publish_conforms() {
    let dir = tempfile::tempdir().unwrap();
    for way in [Way::Link, Way::CheckedRename] {
        let mut n = 0;
        conformance::run(&mut || {
            n += 1;
            let local = Local::create(&dir.path().join(format!("{way:?}{n}"))).unwrap();
            local.publisher.use_way(way);
            Arc::new(local)
        });
    }
}

#[test]
fn create_refuses_other_content_and_a_repository() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("deep/repo");
    drop(Local::create(&root).unwrap());
    assert_eq!(Local::open(&root, true).err().unwrap().kind(), Kind::NoRepository);
    // An interrupted init left the empty layout: it can be made again.
    let local = Local::create(&root).unwrap();
    local.put(&Object::Log(0), b"x").unwrap();
    assert_eq!(Local::create(&root).err().unwrap().kind(), Kind::Refused);
    local.put(&Object::Config, b"x").unwrap();
    assert_eq!(Local::create(&root).err().unwrap().kind(), Kind::Exists);
    fs::write(dir.path().join("deep/photo"), b"").unwrap();
    assert_eq!(Local::create(&dir.path().join("deep")).err().unwrap().kind(), Kind::Refused);
    assert_eq!(Local::open(&dir.path().join("none"), true).err().unwrap().kind(), Kind::NoRepository);
}

#[test]
fn abandoned_temporaries_go_at_the_next_writable_open() {
    let dir = tempfile::tempdir().unwrap();
    drop(repository(dir.path()));
    let tmp = dir.path().join(layout::TMP);
    fs::write(tmp.join("dead"), b"half").unwrap();
    let alive = File::create(tmp.join("alive")).unwrap();
    assert!(try_lock(&alive, 0).unwrap());
    drop(Local::open(dir.path(), true).unwrap());
    assert_eq!(temporaries(dir.path()), 2);
    drop(Local::open(dir.path(), false).unwrap());
    assert_eq!(temporaries(dir.path()), 1);
    drop(alive);
    drop(Local::open(dir.path(), false).unwrap());
    assert_eq!(temporaries(dir.path()), 0);
}

#[test]
fn a_reader_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    drop(repository(dir.path()));
    let local = Local::open(dir.path(), true).unwrap();
    assert!(!local.writable());
    assert_eq!(local.put(&Object::Log(0), b"").unwrap_err().kind(), Kind::ReadOnly);
    assert_eq!(local.delete(&Object::Config).unwrap_err().kind(), Kind::ReadOnly);
    assert_eq!(local.release_reserve().unwrap_err().kind(), Kind::ReadOnly);
    assert_eq!(local.restore_reserve().unwrap_err().kind(), Kind::ReadOnly);
    assert_eq!(local.read_all(&Object::Config, 100).unwrap(), b"config");
}

#[test]
fn a_directory_without_permission_is_read_only() {
    let dir = tempfile::tempdir().unwrap();
    let local = repository(dir.path());
    fs::set_permissions(dir.path().join(layout::TMP), fs::Permissions::from_mode(0o500)).unwrap();
    match local.put(&Object::Log(0), b"") {
        // Root is not held back by permissions.
        Ok(put) => assert!(put == Put::Created && is_root()),
        Err(e) => assert_eq!(e.kind(), Kind::ReadOnly),
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

#[test]
fn a_missing_area_is_an_error_and_foreign_names_are_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let local = repository(dir.path());
    let id = PackId([0xaa; 32]);
    local.put(&Object::Pack(id), b"x").unwrap();
    let packs = dir.path().join("packs");
    fs::write(packs.join("README"), b"").unwrap();
    fs::write(packs.join("ab").join(id.to_hex()), b"in the wrong place").unwrap();
    fs::write(packs.join("aa/.nfs0001"), b"").unwrap();
    fs::create_dir(packs.join("cc").join("cc".repeat(32))).unwrap();
    let mut seen = Vec::new();
    local
        .list(Area::Packs, &mut |object, size| {
            seen.push((object, size));
            Ok(())
        })
        .unwrap();
    assert_eq!(seen, [(Object::Pack(id), 1)]);
    fs::remove_dir(dir.path().join("footers")).unwrap();
    assert_eq!(local.list(Area::Footers, &mut |_, _| Ok(())).unwrap_err().kind(), Kind::Io);
}

#[test]
fn a_missing_directory_of_packs_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let local = repository(dir.path());
    let pack = Object::Pack(PackId([0xdd; 32]));
    fs::remove_dir(dir.path().join("packs/dd")).unwrap();
    for way in [Way::Rename, Way::Link, Way::CheckedRename] {
        local.publisher.use_way(way);
        assert_eq!(local.put(&pack, b"x").unwrap(), Put::Created);
        local.delete(&pack).unwrap();
        fs::remove_dir(dir.path().join("packs/dd")).unwrap();
    }
    fs::remove_dir_all(dir.path().join("log")).unwrap();
    assert_eq!(local.put(&Object::Log(0), b"x").unwrap_err().kind(), Kind::Io);
    assert_eq!(temporaries(dir.path()), 0);
}

#[test]
fn the_reserve_is_kept_released_and_restored() {
    let dir = tempfile::tempdir().unwrap();
    let local = repository(dir.path());
    let reserve = dir.path().join(layout::RESERVE);
    let blocks = || fs::metadata(&reserve).unwrap().blocks() * 512;
    assert!(blocks() >= crate::limits::RESERVE);
    local.release_reserve().unwrap();
    local.release_reserve().unwrap();
    assert!(!reserve.exists());
    File::create(&reserve).unwrap().set_len(crate::limits::RESERVE).unwrap();
    assert!(local.restore_reserve().unwrap());
    assert!(blocks() >= crate::limits::RESERVE);
}

#[test]
fn a_deleted_pack_cannot_be_read_through_an_old_handle() {
    let dir = tempfile::tempdir().unwrap();
    let local = repository(dir.path());
    let pack = Object::Pack(PackId([1; 32]));
    local.put(&pack, b"0123").unwrap();
    assert_eq!(local.read(&pack, 1, 2).unwrap(), b"12");
    local.delete(&pack).unwrap();
    assert_eq!(local.read(&pack, 1, 2).unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn a_part_that_is_not_there_is_an_error_and_not_empty() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("repo");
    let local = Local::create(&root).unwrap();
    local.put(&Object::Config, b"config").unwrap();
    for area in Area::ALL {
        let (here, away) = (root.join(area.dir()), root.join("away"));
        fs::rename(&here, &away).unwrap();
        for read_only in [true, false] {
            let e = Local::open(&root, read_only).err().unwrap();
            assert_eq!((e.kind(), e.path()), (Kind::Io, Some(here.as_path())));
            assert!(e.to_string().contains("mounted"), "{e}");
        }
        fs::rename(&away, &here).unwrap();
    }
    // A copy may leave out empty directories of packs, but where there are snapshots there are packs.
    let packs = root.join("packs");
    fs::remove_dir_all(&packs).unwrap();
    fs::create_dir(&packs).unwrap();
    drop(Local::open(&root, true).unwrap());
    local.put(&Object::Snapshot(crate::id::SnapshotId([1; 32])), b"manifest").unwrap();
    let e = Local::open(&root, true).err().unwrap();
    assert_eq!((e.kind(), e.path()), (Kind::Io, Some(packs.as_path())));
}
