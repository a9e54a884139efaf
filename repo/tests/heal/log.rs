//! A damaged log, and the way out.

use std::sync::Arc;

use repo::backend::fault::{Faulty, Plan};
use repo::backend::{Area, Backend};
use repo::check::{ReadData, repair_log};
use repo::error::Kind;
use repo::monitor::Void;
use repo::open::Access;

use crate::site::*;

#[test]
fn a_damaged_log_is_read_but_not_written_until_it_is_repaired() {
    let whole = Site::filled();
    let before = readable(&whole.open());
    let records = whole.objects(Area::Log);
    let newest = records.last().unwrap().clone();
    for (object, how) in records.iter().flat_map(|o| [(o, Harm::Flip(8)), (o, Harm::Delete), (o, Harm::Truncate)]) {
        if *object == newest && how == Harm::Delete {
            continue;
        }
        let site = whole.copy();
        harm(&site, object, None, how);
        let refused = site.try_open(Access::Write).err().unwrap();
        assert_eq!((refused.kind(), refused.path()), (Kind::Damaged, Some(site.disk.path(object).as_path())));
        assert!(refused.to_string().contains("--repair-log"), "{refused}");
        match site.try_open(Access::Read) {
            Ok(reader) => {
                let told = checked(&reader, ReadData::None).1;
                assert!(told.iter().any(|t| t.contains("--repair-log")), "{told:?}");
            }
            // Without a beginning it does not say what there is.
            Err(e) => {
                assert!(*object == records[0] && e.kind() == Kind::Damaged, "{object:?} {e}");
                assert!(e.to_string().contains("--repair-log"), "{e}");
            }
        }
        let repairer = site.try_open(Access::Repair).unwrap();
        let repaired = repair_log(&repairer, &Void::default()).unwrap();
        assert!(!repaired.damage.is_empty() && repaired.dropped.is_empty(), "{object:?} {how:?}");
        drop(repairer);
        let repo = site.open();
        assert_eq!(readable(&repo), before, "{object:?} {how:?}");
        let (done, told) = checked(&repo, ReadData::All);
        assert_eq!(done.problems, 0, "{object:?} {how:?} {told:?}");
        let done = site.backup(&repo);
        assert!(done.stats.data_added < FEW, "{object:?} {how:?} {:?}", done.stats);
        drop(repo);
        let again = repair_log(&site.try_open(Access::Repair).unwrap(), &Void::default()).unwrap();
        assert_eq!(again, repo::check::Repaired::default());
    }
}

#[test]
fn repairing_the_log_that_fails_anywhere_leaves_the_old_or_the_new() {
    let whole = Site::filled();
    let before = readable(&whole.open());
    let records = whole.objects(Area::Log);
    harm(&whole, &records[records.len() / 2], None, Harm::Flip(8));
    for (fault, persistent) in faults() {
        for at in 0.. {
            let site = whole.copy();
            let faulty = Arc::new(Faulty::new(Arc::new(site.disk.clone()), None));
            let repairer = site.open_through(faulty.clone(), Access::Repair).unwrap();
            faulty.rearm(Some(Plan { at, persistent, fault }));
            let result = repair_log(&repairer, &Void::default());
            let end = faulty.struck() == 0 && at >= faulty.count();
            drop(repairer);
            let repairer = site.try_open(Access::Repair).unwrap();
            repair_log(&repairer, &Void::default()).unwrap();
            drop(repairer);
            let repo = site.open();
            assert_eq!(readable(&repo), before, "{fault:?} {at} {:?}", result.err());
            assert_eq!(checked(&repo, ReadData::None).0.problems, 0);
            if end {
                break;
            }
        }
    }
}

#[test]
fn repairing_refuses_while_others_write() {
    let site = Site::filled();
    let repo = site.open();
    let session = repo::session::Session::begin(repo.log.clone(), repo.locks.clone(), "backup", None).unwrap();
    let repairer = site.try_open(Access::Repair).unwrap();
    assert_eq!(repair_log(&repairer, &Void::default()).unwrap_err().kind(), Kind::Locked);
    drop(session);
    assert_eq!(repair_log(&repairer, &Void::default()).unwrap(), repo::check::Repaired::default());
    let wrong = repair_log(&repo, &Void::default()).unwrap_err();
    assert_eq!(wrong.kind(), Kind::Bug);
}

#[test]
fn a_lost_log_is_no_empty_repository_and_its_snapshots_come_back() {
    let whole = Site::filled();
    let before = readable(&whole.open());
    let records = whole.objects(Area::Log);
    // All of it, and its beginning.
    for lost in [&records[..], &records[..records.len() / 2]] {
        let site = whole.copy();
        lost.iter().for_each(|record| site.disk.delete(record).unwrap());
        for access in [Access::Read, Access::Write] {
            let refused = site.try_open(access).err().unwrap();
            assert_eq!(refused.kind(), Kind::Damaged);
            assert!(refused.to_string().contains("--repair-log"), "{refused}");
        }
        let repaired = repair_log(&site.try_open(Access::Repair).unwrap(), &Void::default()).unwrap();
        assert!(!repaired.damage.is_empty());
        let repo = site.open();
        assert_eq!(readable(&repo), before);
        let (done, told) = checked(&repo, ReadData::All);
        assert_eq!(done.problems, 0, "{told:?}");
    }
    // A new one has a log from the start.
    assert_eq!(checked(&Site::new().open(), ReadData::All).0.problems, 0);
}

#[test]
fn a_copy_that_is_turned_back_is_checked_and_read_but_not_written_to() {
    let site = Site::filled();
    let old: Arc<dyn Backend> = Arc::new(site.disk.snapshot());
    site.write("newer", &noise(9, 5000));
    let repo = site.open();
    site.backup(&repo);
    repo.remember();
    drop(repo);
    for _ in 0..2 {
        let refused = site.open_through(old.clone(), Access::Write).err().unwrap();
        assert_eq!(refused.kind(), Kind::RolledBack);
        let reader = site.open_through(old.clone(), Access::Read).unwrap();
        assert_eq!(reader.log.state().snapshots.len(), 2);
        assert!(!readable(&reader).is_empty());
        let (done, told) = checked(&reader, ReadData::All);
        assert!(told[0].contains("older than what this machine has seen"), "{told:?}");
        assert_eq!((done.problems, told.len(), done.recorded), (1, 1, false));
        // What was seen stays known.
        reader.remember();
    }
}
