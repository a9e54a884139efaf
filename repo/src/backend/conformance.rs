//! What every backend must do, as one suite.

use std::sync::Arc;

use super::fault::Faulty;
use super::local::Local;
use super::memory::Memory;
use super::{Area, Backend, Object, Put};
use crate::error::{Error, Kind};
use crate::id::{PackId, SnapshotId};

fn one_of_each() -> Vec<Object> {
    vec![
        Object::Config,
        Object::ConfigCopy,
        Object::Key("00ff00ff00ff00ff".into()),
        Object::Pack(PackId([7; 32])),
        Object::Footers(3),
        Object::Snapshot(SnapshotId([9; 32])),
        Object::Log(0),
    ]
}

fn listed(b: &dyn Backend, area: Area) -> Vec<(Object, u64)> {
    let mut found = Vec::new();
    b.list(area, &mut |object, size| {
        found.push((object, size));
        Ok(())
    })
    .unwrap();
    found
}

fn puts_once_and_reads_back(b: &dyn Backend) {
    for (i, object) in one_of_each().iter().enumerate() {
        let bytes = vec![i as u8; 1000 + i];
        assert_eq!(b.size(object).unwrap(), None);
        assert_eq!(b.put(object, &bytes).unwrap(), Put::Created);
        assert_eq!(b.put(object, b"other").unwrap(), Put::Exists);
        assert_eq!(b.size(object).unwrap(), Some(bytes.len() as u64));
        assert_eq!(b.read_all(object, bytes.len()).unwrap(), bytes);
        assert_eq!(b.read(object, 10, 20).unwrap(), &bytes[10..30]);
        assert_eq!(b.read(object, bytes.len() as u64, 0).unwrap(), b"");
        assert!(b.path(object).ends_with(object.path()));
    }
}

fn refuses_what_is_not_there(b: &dyn Backend) {
    let object = Object::Pack(PackId([1; 32]));
    assert_eq!(b.read(&object, 0, 1).unwrap_err().kind(), Kind::NotFound);
    assert_eq!(b.read_all(&object, 10).unwrap_err().kind(), Kind::NotFound);
    b.put(&object, b"0123456789").unwrap();
    let all = [
        b.read(&object, 5, 6).unwrap_err(),
        b.read(&object, 11, 1).unwrap_err(),
        b.read(&object, u64::MAX - 1, 1).unwrap_err(),
        b.read_all(&object, 9).unwrap_err(),
    ];
    for e in &all[..2] {
        assert_eq!(e.kind(), Kind::Damaged);
        assert_eq!(e.path(), Some(&*b.path(&object)));
    }
    assert_eq!(all[3].kind(), Kind::Damaged);
    b.delete(&object).unwrap();
    assert_eq!(b.read(&object, 0, 1).unwrap_err().kind(), Kind::NotFound);
}

fn lists_all_in_order(b: &dyn Backend) {
    let packs: Vec<_> = [0x00, 0x1f, 0x80, 0xff].map(|n| Object::Pack(PackId([n; 32]))).into();
    for pack in packs.iter().rev() {
        b.put(pack, b"abc").unwrap();
    }
    b.put(&Object::Log(2), b"").unwrap();
    b.put(&Object::Log(10), b"a").unwrap();
    let of_packs: Vec<_> = listed(b, Area::Packs);
    assert_eq!(of_packs, packs.iter().map(|p| (p.clone(), 3)).collect::<Vec<_>>());
    assert_eq!(listed(b, Area::Log), [(Object::Log(2), 0), (Object::Log(10), 1)]);
    assert_eq!(listed(b, Area::Footers), []);
    let stop = b.list(Area::Packs, &mut |_, _| Err(Error::bug("stop"))).unwrap_err();
    assert_eq!(stop.kind(), Kind::Bug);
    b.list(Area::Log, &mut |object, _| b.delete(&object)).unwrap();
    assert_eq!(listed(b, Area::Log), []);
}

fn deletes_idempotently(b: &dyn Backend) {
    for object in one_of_each() {
        b.put(&object, b"x").unwrap();
        b.delete(&object).unwrap();
        b.delete(&object).unwrap();
        assert_eq!(b.size(&object).unwrap(), None);
        if let Some(area) = object.area() {
            b.sync_deletes(area).unwrap();
        }
    }
    b.close_handles();
    b.prefetch(&Object::Log(77), 0, 10);
}

fn one_of_many_putters_wins(b: &dyn Backend) {
    let object = Object::Log(5);
    let created: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0u8..8)
            .map(|n| {
                let object = &object;
                scope.spawn(move || usize::from(b.put(object, &[n; 100]).unwrap() == Put::Created))
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).sum()
    });
    assert_eq!(created, 1);
    let bytes = b.read_all(&object, 100).unwrap();
    assert!(bytes.len() == 100 && bytes.iter().all(|b| *b == bytes[0]));
}

/// Runs every part on a fresh backend.
pub(super) fn run(fresh: &mut dyn FnMut() -> Arc<dyn Backend>) {
    for part in [
        puts_once_and_reads_back,
        refuses_what_is_not_there,
        lists_all_in_order,
        deletes_idempotently,
        one_of_many_putters_wins,
    ] {
        let b = fresh();
        assert!(b.writable());
        part(&*b);
        b.release_reserve().unwrap();
        assert!(b.restore_reserve().unwrap());
        b.free_space().unwrap();
    }
}

#[test]
fn memory_conforms() {
    run(&mut || Arc::new(Memory::new()));
}

#[test]
fn fault_without_a_plan_conforms() {
    run(&mut || Arc::new(Faulty::new(Arc::new(Memory::new()), None)));
}

#[test]
fn local_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let mut n = 0;
    run(&mut || {
        n += 1;
        Arc::new(Local::create(&dir.path().join(n.to_string())).unwrap())
    });
}
