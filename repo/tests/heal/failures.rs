//! The k-th operation fails, for every k.

use std::sync::Arc;

use repo::backend::fault::{Fault, Faulty, Plan};
use repo::backend::{Area, Backend};
use repo::capture::backup;
use repo::check::ReadData;
use repo::mend::renew_index;
use repo::monitor::Void;
use repo::open::{Access, Repository};

use crate::site::*;

/// Chunks that lie in more than one pack.
fn stored_twice(repo: &Repository) -> u64 {
    let mut all = 0;
    repo.index
        .packs(&mut |info| {
            let sealed = repo.index.footer(info.no)?.unwrap();
            all += repo::pack::read::open_footer(&repo.keys, &sealed, info.size)?.chunks.len() as u64;
            Ok(())
        })
        .unwrap();
    all - repo.index.counts().unwrap().0
}

#[test]
fn a_backup_that_fails_anywhere_leaves_what_the_next_one_need_not_store_again() {
    let empty = Site::new();
    empty.write("large", &noise(1, 5 << 20));
    empty.write("dir/a", &noise(2, 40_000));
    drop(empty.open());
    let (mut adopted, mut struck) = (0, 0);
    for (fault, persistent) in faults() {
        for at in 0.. {
            let site = empty.copy();
            let faulty = Arc::new(Faulty::new(Arc::new(site.disk.clone()), None));
            let repo = site.open_through(faulty.clone(), Access::Write).unwrap();
            faulty.rearm(Some(Plan { at, persistent, fault }));
            let result = backup(&repo, site.options(), &Void::default());
            let (hit, count) = (faulty.struck(), faulty.count());
            drop(repo);
            struck += u64::from(hit > 0);
            let packs = site.packs().len();
            let repo = site.open();
            assert!(repo.log.state().sessions.is_empty(), "{fault:?} {at}");
            assert_eq!(
                repo.index.counts().unwrap().1,
                packs as u64,
                "every complete pack is taken over: {fault:?} {at}"
            );
            adopted += u64::from(result.is_err() && packs > 0);
            if let Ok(done) = &result {
                assert!(repo.log.state().snapshots.contains_key(&done.snapshot.unwrap()));
            }
            site.backup(&repo);
            assert_eq!(stored_twice(&repo), 0, "{fault:?} {persistent} {at}: {result:?}", result = result.err());
            // From another machine's point of view.
            site.drop_index();
            drop(repo);
            let repo = site.open();
            let (done, told) = checked(&repo, ReadData::All);
            assert_eq!(done.problems, 0, "{fault:?} {at}: {told:?}");
            if hit == 0 && at >= count {
                break;
            }
        }
    }
    assert!(adopted > 3 && struck > 20, "{adopted} {struck}");
}

#[test]
fn a_rebuild_that_fails_anywhere_is_no_rebuild() {
    let whole = Site::filled();
    let before = readable(&whole.open());
    // Half of it without roll-ups.
    whole.disk.delete(&whole.objects(Area::Footers)[0]).unwrap();
    for (fault, persistent) in [(Fault::Io, true), (Fault::Io, false), (Fault::Short, false)] {
        let mut failed = 0;
        for at in 0.. {
            let site = whole.copy();
            let faulty = Arc::new(Faulty::new(Arc::new(site.disk.clone()), Some(Plan { at, persistent, fault })));
            let opened = site.open_through(faulty.clone(), Access::Read);
            let (hit, count) = (faulty.struck(), faulty.count());
            faulty.rearm(None);
            failed += u64::from(opened.is_err());
            if let Ok(repo) = opened {
                assert_eq!(readable(&repo), before, "{fault:?} {persistent} {at}");
            }
            assert_eq!(readable(&site.try_open(Access::Read).unwrap()), before, "{fault:?} {persistent} {at}");
            if hit == 0 && at >= count {
                break;
            }
        }
        assert!(failed > 3);
    }
}

/// A repository whose only backup died when all its packs were stored and nothing of them was recorded.
fn with_unrecorded_packs() -> Site {
    let empty = Site::new();
    empty.write("large", &noise(1, 1 << 20));
    empty.write("dir/a", &noise(2, 40_000));
    drop(empty.open());
    for at in 0..100 {
        let site = empty.copy();
        let faulty = Arc::new(Faulty::new(Arc::new(site.disk.clone()), None));
        let repo = site.open_through(faulty.clone(), Access::Write).unwrap();
        faulty.rearm(Some(Plan { at, persistent: true, fault: Fault::NoSpace }));
        assert!(backup(&repo, site.options(), &Void::default()).is_err());
        drop(repo);
        if site.packs().len() == 2 {
            assert!(site.objects(Area::Footers).is_empty());
            return site;
        }
    }
    panic!("no fault came between packs and roll-up");
}

#[test]
fn mending_and_renewing_that_fail_anywhere_can_be_done_again() {
    let whole = with_unrecorded_packs();
    for (fault, persistent) in faults() {
        for at in 0.. {
            let site = whole.copy();
            let faulty = Arc::new(Faulty::new(Arc::new(site.disk.clone()), Some(Plan { at, persistent, fault })));
            let opened = site.open_through(faulty.clone(), Access::Write);
            let (hit, count) = (faulty.struck(), faulty.count());
            if let Ok(repo) = &opened
                && hit == 0
            {
                assert!(repo.log.state().sessions.is_empty());
            }
            drop(opened);
            let repo = site.open();
            assert!(repo.log.state().sessions.is_empty(), "{fault:?} {at}");
            site.backup(&repo);
            assert_eq!(stored_twice(&repo), 0, "{fault:?} {persistent} {at}");
            // Now without roll-ups, and renewed under the same fault.
            for object in site.objects(Area::Footers) {
                site.disk.delete(&object).unwrap();
            }
            drop(repo);
            let faulty = Arc::new(Faulty::new(Arc::new(site.disk.clone()), None));
            let repo = site.open_through(faulty.clone(), Access::Write).unwrap();
            faulty.rearm(Some(Plan { at, persistent, fault }));
            let renewed = renew_index(&repo, &Void::default());
            let more = faulty.struck() > 0 || at < faulty.count();
            drop(repo);
            let repo = site.open();
            let again = renew_index(&repo, &Void::default()).unwrap();
            // A pack that could not be read is given up with a warning, and taken when it can be.
            let given_up = fault == Fault::Io;
            assert!(renewed.is_err() || again.adopted == 0 || given_up, "{fault:?} {at}");
            assert!(site.backup(&repo).stats.data_added < FEW, "what was adopted satisfies deduplication");
            let (done, told) = checked(&repo, ReadData::All);
            assert_eq!(done.problems, 0, "{fault:?} {at}: {told:?}");
            if hit == 0 && at >= count && !more {
                break;
            }
        }
    }
}
