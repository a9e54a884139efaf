//! The audit keeps every entry, shows what is wrong with it, and costs the state nothing.

#[allow(dead_code)]
#[path = "heal/site.rs"]
mod site;

use std::sync::Arc;

use repo::audit::record;
use repo::backend::fault::{Fault, Faulty, Plan};
use repo::backend::{Area, Backend, Object};
use repo::check::{ReadData, repair_log};
use repo::format::record::{AUDIT_SEGMENT, AuditEntry};
use repo::monitor::Void;
use repo::open::{Access, Repository};
use site::{Site, checked};

fn entry(n: u64) -> AuditEntry {
    AuditEntry { who: "SHA256:AAAA".into(), operation: "push".into(), taken: n, ..AuditEntry::default() }
}

fn write(repo: &Repository, numbers: std::ops::Range<u64>) {
    numbers.for_each(|n| record(repo, entry(n)).unwrap());
}

/// The entries' numbers, and what is said to be wrong.
fn read(repo: &Repository) -> (Vec<u64>, Vec<String>) {
    let (mut entries, mut wrong) = (Vec::new(), Vec::new());
    repo.log
        .audit(&mut |found| {
            match found {
                Ok(audited) => entries.push(audited.entry.taken),
                Err(e) => wrong.push(e.to_string()),
            }
            Ok(())
        })
        .unwrap();
    (entries, wrong)
}

fn sound(repo: &Repository, many: u64) {
    assert_eq!(read(repo), ((0..many).collect(), vec![]));
}

#[test]
fn nothing_is_lost_when_the_log_is_compacted() {
    let site = Site::new();
    let repo = site.open();
    let mut largest = 0;
    for n in 0..3000 {
        record(&repo, entry(n)).unwrap();
        assert!(repo.log.state().audit.recent.len() <= AUDIT_SEGMENT);
        // The record before may be a checkpoint.
        let before = Object::Log(repo.log.position().seq - 1);
        largest = largest.max(site.disk.size(&before).unwrap().unwrap());
    }
    sound(&repo, 3000);
    sound(&site.open(), 3000);
    let records = site.objects(Area::Log).into_iter().filter(|o| matches!(o, Object::Log(_))).count();
    assert!(records < 1100, "the log is compacted: {records}");
    assert!((20_000..100_000).contains(&largest), "a checkpoint holds one segment's entries at most: {largest}");
}

#[test]
fn damage_is_seen_wherever_it_is() {
    let site = Site::new();
    write(&site.open(), 0..1000);
    let segment = Object::Audit;
    let many = site.objects(Area::Log).into_iter().filter(|o| matches!(o, Object::Audit(_))).count() as u64;
    assert_eq!(many, 3);
    for n in 1..=many {
        let copy = site.copy();
        copy.disk.damage(&segment(n), |bytes| bytes[60] ^= 1);
        let (entries, wrong) = read(&copy.open());
        assert_eq!((entries.len(), wrong.len()), (1000 - AUDIT_SEGMENT, 1), "{wrong:?}");
        assert_eq!(checked(&copy.open(), ReadData::None).0.problems, 1);
        let copy = site.copy();
        copy.disk.delete(&segment(n)).unwrap();
        assert!(read(&copy.open()).1[0].contains("is missing"), "{n}");
        // One put in another's place.
        let other = site.disk.read_all(&segment(n % many + 1), 1 << 20).unwrap();
        copy.disk.put(&segment(n), &other).unwrap();
        assert_eq!(read(&copy.open()).1.len(), 1, "{n}");
    }
    // A whole chain of another's making, sealed by the same keys.
    let (ours, theirs) = (site.copy(), site.copy());
    write(&ours.open(), 1000..1500);
    let repo = theirs.open();
    record(&repo, AuditEntry { failure: "another".into(), ..entry(7) }).unwrap();
    write(&repo, 1001..1500);
    let newest = segment(ours.open().log.state().audit.segment);
    ours.disk.delete(&newest).unwrap();
    ours.disk.put(&newest, &theirs.disk.read_all(&newest, 1 << 20).unwrap()).unwrap();
    assert!(read(&ours.open()).1.iter().any(|e| e.contains("does not follow")), "{:?}", read(&ours.open()).1);
}

#[test]
fn a_segment_that_a_crash_left_is_written_anew() {
    for left in [&b"half of it"[..], b""] {
        let site = Site::new();
        let repo = site.open();
        write(&repo, 0..AUDIT_SEGMENT as u64 - 1);
        site.disk.put(&Object::Audit(1), left).unwrap();
        write(&repo, AUDIT_SEGMENT as u64 - 1..400);
        assert_eq!(repo.log.state().audit.segment, 1);
        sound(&repo, 400);
    }
    // The same entries: what was left counts, and is not written twice.
    let site = Site::new();
    write(&site.open(), 0..AUDIT_SEGMENT as u64);
    let copy = site.copy();
    write(&copy.open(), AUDIT_SEGMENT as u64..AUDIT_SEGMENT as u64 + 1);
    let left = copy.disk.read_all(&Object::Audit(1), 1 << 20).unwrap();
    site.disk.put(&Object::Audit(1), &left).unwrap();
    write(&site.open(), AUDIT_SEGMENT as u64..300);
    assert_eq!(site.disk.read_all(&Object::Audit(1), 1 << 20).unwrap(), left);
    sound(&site.open(), 300);
}

#[test]
fn every_failure_is_told_and_nothing_acknowledged_is_lost() {
    let most = AUDIT_SEGMENT as u64;
    let start = Site::new();
    write(&start.open(), 0..most - 1);
    for fault in Fault::ALL {
        for at in 0.. {
            let site = start.copy();
            let faulty = Arc::new(Faulty::new(Arc::new(site.disk.clone()), None));
            let repo = site.open_through(faulty.clone(), Access::Write).unwrap();
            faulty.rearm(Some(Plan { at, persistent: false, fault }));
            let kept: Vec<u64> = (most - 1..most + 3).filter(|n| record(&repo, entry(*n)).is_ok()).collect();
            let reached = faulty.count() > at;
            drop(repo);
            let repo = site.open();
            write(&repo, 1000..1002);
            let (entries, wrong) = read(&repo);
            assert_eq!(wrong, [] as [&str; 0], "{fault:?} at {at}");
            assert!(entries.is_sorted_by(|a, b| a < b), "{fault:?} at {at}: none twice, and in order");
            let told = (0..most - 1).chain(kept).chain(1000..1002);
            assert!(told.into_iter().all(|n| entries.contains(&n)), "{fault:?} at {at}");
            assert!(repo.log.state().audit.segment == 1 && checked(&repo, ReadData::None).0.problems == 0);
            if !reached {
                assert!(at > 8, "only {at} operations");
                break;
            }
        }
    }
}

#[test]
fn a_repaired_log_finds_its_audit() {
    let site = Site::filled();
    write(&site.open(), 0..1200);
    let seq = site.open().log.position().seq;
    // Everything but the segments and the newest records is lost.
    for object in site.objects(Area::Log) {
        if matches!(object, Object::Log(n) if n < seq - 100) {
            site.disk.delete(&object).unwrap();
        }
    }
    let repo = site.try_open(Access::Repair).unwrap();
    assert!(!repair_log(&repo, &Void::default()).unwrap().damage.is_empty());
    drop(repo);
    site.drop_index();
    let repo = site.open();
    let (entries, wrong) = read(&repo);
    assert_eq!(wrong, [] as [&str; 0]);
    assert!(entries.is_sorted_by(|a, b| a < b) && entries.last() == Some(&1199));
    assert!(entries.len() as u64 >= 1024 + 90, "{}", entries.len());
    write(&repo, 1200..1600);
    assert_eq!(read(&repo).0.last(), Some(&1599));
}

#[test]
fn what_somebody_sends_does_not_keep_it_from_being_recorded() {
    let site = Site::new();
    let repo = site.open();
    let long = "\u{20ac}".repeat(100_000);
    record(&repo, AuditEntry { who: long.clone(), failure: long.clone(), label: long, ..entry(0) }).unwrap();
    sound(&repo, 1);
}
