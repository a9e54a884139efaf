//! Every operation of forget and prune fails, once or from then on: the repository stays sound, and nothing that failed
//! is called done. To fail from then on is also what a crash looks like from outside.

use super::*;
use crate::backend::fault::{Fault, Faulty, Plan};

/// Sees the copy reopened, what was said, and what failed.
type Check<'a, T> = &'a dyn Fn(&Bench, &Repository, Result<T>, &str);

/// A repository where the first snapshot is past its hold and the second is held, with packs to delete and to rewrite.
struct Scene {
    bench: Bench,
    made: Vec<(SnapshotId, Files)>,
}

impl Scene {
    fn new() -> Scene {
        let bench = Bench::new();
        let repo = bench.open();
        let made = three(&bench, &repo);
        forget_named(&repo, &[made[0].0], &Default::default(), &quiet()).unwrap();
        bench.pass(4 * DAY);
        forget_named(&repo, &[made[1].0], &Default::default(), &quiet()).unwrap();
        Scene { bench, made }
    }

    /// Runs `work` on copies of the disk, failing operation after operation, until it gets through. `check` sees the
    /// copy reopened, and what `work` said.
    fn fail_each<T>(&self, step: u64, work: &dyn Fn(&Repository) -> Result<T>, check: Check<'_, T>) {
        for fault in [Fault::Io, Fault::NoSpace, Fault::SyncDir] {
            for persistent in [false, true] {
                let mut at = 0;
                loop {
                    let bench = self.bench.copy();
                    let faulty = Arc::new(Faulty::new(Arc::new(bench.disk.clone()), None));
                    let repo = bench.open_on(faulty.clone(), "index").unwrap();
                    faulty.rearm(Some(Plan { at, persistent, fault }));
                    let result = work(&repo);
                    let through = faulty.count() <= at;
                    let what = format!("{fault:?} persistent {persistent} at {at} of {}", faulty.count());
                    if persistent && fault == Fault::Io && faulty.struck() > 0 {
                        assert!(result.is_err(), "{what}: said to be done");
                    }
                    drop(repo);
                    // Locks of a process that ended are free.
                    let after = Bench { locks: Locks::memory(), ..bench };
                    let repo = after.open();
                    check(&after, &repo, result, &what);
                    if through {
                        break;
                    }
                    at += step;
                }
            }
        }
    }
}

#[test]
fn every_failure_of_forget_is_told() {
    let scene = Scene::new();
    let third = scene.made[2].0;
    let work = |repo: &Repository| forget_named(repo, &[third], &Default::default(), &quiet());
    scene.fail_each(1, &work, &|bench, repo, result, what| {
        if result.is_ok() {
            let state = repo.log.state();
            assert!(state.snapshots[&third].forgotten.is_some(), "{what}");
        }
        check_readable(repo, &scene.made);
        let forgotten: Vec<_> = scene.made.iter().map(|(id, _)| *id).collect();
        unforget(repo, &forgotten, &quiet()).unwrap();
        prune(repo, &Options::default(), &quiet()).unwrap();
        check_readable(&bench.open(), &scene.made);
    });
}

#[test]
fn every_failure_of_prune_leaves_the_repository_sound() {
    let scene = Scene::new();
    let options = Options { max_unused: MaxUnused::Percent(0.0), ..Options::default() };
    let work = |repo: &Repository| prune(repo, &options, &quiet());
    scene.fail_each(1, &work, &|bench, repo, _, what| {
        check_readable(repo, &scene.made[1..]);
        unforget(repo, &[scene.made[1].0], &quiet()).unwrap_or_else(|e| panic!("{what}: {e}"));
        // The next one finishes what this one began, and a backup finds everything in its place.
        let done = prune(repo, &options, &quiet()).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(done.waiting.is_none(), "{what}");
        check_settled(bench, repo, &scene.made[1..], what);
        let fresh = bench.elsewhere("fresh");
        check_readable(&fresh, &scene.made[1..]);
    });
}

/// Nothing is left under way, and nothing unneeded is left but what adoption may still find.
fn check_settled(bench: &Bench, repo: &Repository, made: &[(SnapshotId, Files)], what: &str) {
    check_readable(repo, made);
    let state = repo.log.state();
    assert!(state.sweep.is_none() && state.condemned.is_empty(), "{what}");
    assert_eq!((state.snapshots.len(), bench.count(Area::Snapshots)), (made.len(), made.len()), "{what}");
    let needed: usize = 800_000;
    assert!(bench.stored() < needed as u64, "{what}: {} bytes are left", bench.stored());
}

#[test]
fn a_sweep_that_was_cut_off_is_finished_by_the_next_open() {
    let scene = Scene::new();
    let options = Options { max_unused: MaxUnused::Percent(0.0), ..Options::default() };
    let mut finished = 0;
    for at in (0..).step_by(3) {
        let bench = scene.bench.copy();
        let faulty = Arc::new(Faulty::new(Arc::new(bench.disk.clone()), None));
        let repo = bench.open_on(faulty.clone(), "index").unwrap();
        faulty.rearm(Some(Plan { at, persistent: true, fault: Fault::Io }));
        let done = prune(&repo, &options, &quiet()).is_ok();
        drop(repo);
        let after = Bench { locks: Locks::memory(), ..bench };
        let log = after.disk.snapshot();
        let repo = after.open();
        assert!(repo.log.state().sweep.is_none(), "at {at}");
        finished += u32::from(after.count(Area::Packs) < Bench { disk: log, ..after.copy() }.count(Area::Packs));
        check_readable(&repo, &scene.made[1..]);
        if done {
            break;
        }
    }
    assert!(finished > 0, "no crash fell between intent and unlinking");
}
