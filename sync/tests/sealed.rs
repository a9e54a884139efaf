//! Sealed copies: whole, of what is missing alone, never of another history, and never with damage passed on.

#[allow(dead_code)]
#[path = "../../repo/tests/heal/site.rs"]
mod site;

use std::sync::Arc;
use std::time::Duration;

use repo::backend::fault::{Fault, Faulty, Plan};
use repo::backend::memory::Memory;
use repo::backend::{Area, Backend, Object};
use repo::check::ReadData;
use repo::crypto::slot::Argon2Cost;
use repo::error::{Error, Kind};
use repo::forget::{self, forget_named};
use repo::format::record::AuditEntry;
use repo::keyslots;
use repo::lock::Locks;
use repo::monitor::Void;
use repo::open::{Access, Repository};
use repo::prune::{self, prune};
use site::{Site, checked, noise, readable};
use sync::sealed::{Options, Report, push};

const AUDIT: Options<'_> = Options { remote: "", audit: true, delete: false };
const DELETE: Options<'_> = Options { remote: "", audit: false, delete: true };

/// A place for a copy of `site`, which is read like a repository of its own.
fn place(site: &Site) -> Site {
    let dir = tempfile::tempdir().unwrap();
    Site { dir, source: site.source.clone(), disk: Memory::new(), locks: Locks::memory() }
}

fn push_with(repo: &Repository, copy: &Site, options: Options) -> Report {
    push(repo, &copy.disk, options, &Void::default()).unwrap()
}

fn pushed(repo: &Repository, copy: &Site) -> Report {
    push_with(repo, copy, Options::default())
}

/// Asserts that `copy` holds what `repo` holds, byte for byte, and is sound.
#[track_caller]
fn same(repo: &Repository, copy: &Site) {
    copy.drop_index();
    let other = copy.try_open(Access::Read).unwrap();
    assert_eq!(other.log.position(), repo.log.position());
    assert!(readable(&other) == readable(repo), "another content");
    let (outcome, told) = checked(&other, ReadData::All);
    assert_eq!((outcome.problems, &told[..]), (0, &[] as &[String]));
}

fn forget_all_but_newest(repo: &Repository) {
    let state = repo.log.state();
    let newest = state.snapshots.iter().max_by_key(|(_, s)| s.seq).map(|(id, _)| *id).unwrap();
    let old: Vec<_> = state.snapshots.keys().copied().filter(|id| *id != newest).collect();
    forget_named(repo, &old, &forget::Options::default(), &Void::default()).unwrap();
    let options = prune::Options { release_held: true, max_unused: prune::MaxUnused::Bytes(0), ..Default::default() };
    prune(repo, &options, &Void::default()).unwrap();
}

#[test]
fn a_copy_is_whole_and_then_takes_what_is_new() {
    let site = Site::filled();
    let (repo, copy) = (site.open(), place(&site));
    let first = pushed(&repo, &copy);
    assert_eq!((first.before, first.snapshots), (None, 2));
    assert_eq!(first.packs as usize, site.packs().len());
    same(&repo, &copy);
    let second = pushed(&repo, &copy);
    assert_eq!((second.packs, second.bytes, second.before), (0, 0, Some(first.now)));
    site.write("dir/more", &noise(9, 70_000));
    site.backup(&repo);
    let third = pushed(&repo, &copy);
    assert_eq!((third.packs, third.snapshots), (2, 1), "a data pack and a tree pack");
    assert!((70_000..140_000).contains(&third.bytes), "{third:?}");
    same(&repo, &copy);
}

#[test]
fn the_audit_goes_along() {
    let site = Site::filled();
    let (repo, copy) = (site.open(), place(&site));
    let audited = |log: &repo::log::Log| {
        let mut entries = Vec::new();
        let visit = &mut |found: repo::error::Result<_>| {
            entries.push(found.unwrap());
            Ok(())
        };
        log.audit(visit).unwrap();
        entries
    };
    for _ in 0..3 {
        (0..300).for_each(|_| repo::audit::record(&repo, AuditEntry::default()).unwrap());
        pushed(&repo, &copy);
        let other = copy.try_open(Access::Read).unwrap();
        assert_eq!(audited(&other.log), audited(&repo.log));
    }
    assert_eq!(audited(&repo.log).len(), 900);
    let segments = |of: &Site| of.objects(Area::Log).into_iter().filter(|o| matches!(o, Object::Audit(_))).count();
    assert_eq!((segments(&site), segments(&copy)), (3, 3));
    same(&repo, &copy);
}

#[test]
fn what_was_pruned_stays_in_the_copy_unless_asked() {
    let site = Site::filled();
    let (repo, copy) = (site.open(), place(&site));
    pushed(&repo, &copy);
    std::fs::remove_file(site.src().join("large")).unwrap();
    site.backup(&repo);
    forget_all_but_newest(&repo);
    pushed(&repo, &copy);
    assert!(copy.packs().len() > site.packs().len());
    same(&repo, &copy);
    assert!(push_with(&repo, &copy, DELETE).deleted > 2);
    for area in Area::ALL {
        assert_eq!(copy.objects(area), site.objects(area), "{area:?}");
    }
    same(&repo, &copy);
}

/// Fails the `at`-th operation on a copy of `start`, then pushes again.
fn fail_once(repo: &Repository, site: &Site, start: &Site, at: u64, fault: Fault) {
    let copy = Site { disk: start.disk.snapshot(), ..place(site) };
    let faulty = Faulty::new(Arc::new(copy.disk.clone()), Some(Plan { at, persistent: false, fault }));
    let result = push(repo, &faulty, Options::default(), &Void::default());
    if faulty.struck() == 0 {
        return;
    }
    assert!(result.is_err(), "{fault:?} at {at} was not told");
    if copy.disk.size(&Object::Config).unwrap().is_some() {
        copy.try_open(Access::Read).unwrap_or_else(|e| panic!("{fault:?} at {at}: {e}"));
    }
    pushed(repo, &copy);
    assert_eq!(copy.objects(Area::Log), site.objects(Area::Log));
    same(repo, &copy);
}

#[test]
fn every_failure_is_told_and_the_next_push_ends_the_work() {
    let site = Site::filled();
    let (repo, earlier) = (site.open(), place(&site));
    pushed(&repo, &earlier);
    site.write("dir/more", &noise(9, 70_000));
    site.backup(&repo);
    // From nothing, and from an earlier push.
    for start in [place(&site), earlier] {
        let whole = Faulty::new(Arc::new(start.disk.snapshot()), None);
        push(&repo, &whole, Options::default(), &Void::default()).unwrap();
        assert!(whole.count() > 20, "{}", whole.count());
        for at in 0..whole.count() {
            for fault in Fault::ALL {
                fail_once(&repo, &site, &start, at, fault);
            }
        }
    }
}

#[test]
fn another_history_is_not_overwritten() {
    let site = Site::filled();
    let (repo, copy) = (site.open(), place(&site));
    let old = site.copy();
    pushed(&repo, &copy);
    site.write("dir/more", &noise(9, 7000));
    site.backup(&repo);
    pushed(&repo, &copy);
    // The repository comes back from an image of last week …
    let rolled_back = old.open();
    let told = |e: Error| (e.kind(), e.to_string());
    let e = told(push(&rolled_back, &copy.disk, Options::default(), &Void::default()).unwrap_err());
    assert!(e.0 == Kind::RolledBack && e.1.contains("rolled back"), "{e:?}");
    // … and goes on from there.
    for i in 0..3 {
        old.write("dir/other", &noise(20 + i, 7000));
        old.backup(&rolled_back);
    }
    let e = told(push(&rolled_back, &copy.disk, Options::default(), &Void::default()).unwrap_err());
    assert!(e.0 == Kind::RolledBack && e.1.contains("another history"), "{e:?}");
    same(&repo, &copy);
}

#[test]
fn damage_is_not_passed_on() {
    let site = Site::filled();
    let (repo, copy) = (site.open(), place(&site));
    let [broken, lost] = [site.packs()[0], site.packs()[1]];
    let whole = site.disk.snapshot();
    site.flip(&Object::Pack(broken), |len| len / 2);
    site.disk.delete(&Object::Pack(lost)).unwrap();
    let mut damaged = vec![broken, lost];
    damaged.sort();
    assert_eq!(pushed(&repo, &copy).damaged, damaged);
    assert!(copy.disk.size(&Object::Pack(broken)).unwrap().is_none());
    for id in damaged {
        let object = Object::Pack(id);
        site.disk.delete(&object).unwrap();
        site.disk.put(&object, &whole.read_all(&object, usize::MAX).unwrap()).unwrap();
    }
    // The log says that both came long ago: only an audit looks again.
    assert_eq!(push_with(&repo, &copy, AUDIT).packs, 2);
    same(&repo, &copy);
}

#[test]
fn a_pack_cut_short_in_the_copy_is_put_again() {
    let site = Site::filled();
    let (repo, copy) = (site.open(), place(&site));
    pushed(&repo, &copy);
    copy.disk.damage(&Object::Pack(site.packs()[0]), |bytes| bytes.truncate(1000));
    assert_eq!(push_with(&repo, &copy, AUDIT).packs, 1);
    same(&repo, &copy);
}

#[test]
fn a_password_that_was_removed_does_not_open_the_copy() {
    let site = Site::filled();
    let (repo, copy) = (site.open(), place(&site));
    let cost = Argon2Cost::new(8, 1, 1).unwrap();
    let id = repo.config.repo_id;
    let slot =
        keyslots::add_passphrase(repo.backend.as_ref(), id, &repo.unlocked.keyring, "another", "new", cost).unwrap();
    pushed(&repo, &copy);
    assert_eq!(copy.objects(Area::Keys), site.objects(Area::Keys));
    keyslots::remove(repo.backend.as_ref(), &id, &slot).unwrap();
    pushed(&repo, &copy);
    assert_eq!(copy.objects(Area::Keys), site.objects(Area::Keys));
}

#[test]
fn prunes_meanwhile_cost_nothing() {
    let site = Site::filled();
    let (repo, copy) = (site.open(), place(&site));
    std::thread::scope(|scope| {
        let busy = scope.spawn(|| {
            let repo = site.open();
            for i in 0..6 {
                site.write("dir/changing", &noise(100 + i, 3 << 20));
                site.backup(&repo);
                forget_all_but_newest(&repo);
            }
        });
        while !busy.is_finished() {
            match push(&repo, &copy.disk, Options::default(), &Void::default()) {
                Ok(report) => assert!(report.damaged.is_empty(), "{report:?}"),
                Err(e) => assert_eq!(e.kind(), Kind::Locked, "{e}"),
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    repo.refresh(&Void::default()).unwrap();
    assert!(pushed(&repo, &copy).damaged.is_empty());
    same(&repo, &copy);
}
