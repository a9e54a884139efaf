//! Prune beside others: sessions, other prunes, crashes between its steps.

use super::*;

fn forget_first(bench: &Bench, repo: &Repository) -> Vec<(SnapshotId, Files)> {
    let made = three(bench, repo);
    forget_named(repo, &[made[0].0], &Default::default(), &quiet()).unwrap();
    made
}

fn session(repo: &Repository, parent: Option<SnapshotId>) -> Session {
    let session = Session::begin(Arc::clone(&repo.log), repo.locks.clone(), "backup", parent).unwrap();
    repo.refresh(&quiet()).unwrap();
    session
}

#[test]
fn only_one_prune_runs() {
    let bench = Bench::new();
    let repo = bench.open();
    forget_first(&bench, &repo);
    let held = repo.locks.prune(Duration::ZERO).unwrap();
    assert_eq!(prune(&repo, &now(), &quiet()).unwrap_err().kind(), Kind::Locked);
    drop(held);
    prune(&repo, &now(), &quiet()).unwrap();
}

#[test]
fn an_older_session_is_left_to_end() {
    let bench = Bench::new();
    let repo = bench.open();
    let mut made = forget_first(&bench, &repo);
    let ids: Vec<_> = made.iter().map(|(id, _)| *id).collect();
    forget_named(&repo, &ids, &Default::default(), &quiet()).unwrap();
    let old = session(&repo, None);
    let before = bench.stored();
    let done = prune(&repo, &now(), &quiet()).unwrap();
    let waiting = done.waiting.unwrap();
    assert_eq!((waiting.purpose.as_str(), waiting.pid), ("backup", std::process::id()));
    assert!(waiting.to_string().starts_with("waiting for session 'backup'"));
    assert_eq!((done.packs_deleted, bench.stored(), done.bytes_waiting), (0, before, before));
    // A younger one sees what is condemned and stores it anew, so it need not be waited for.
    let young = bench.backup(&repo);
    made = vec![(young, bench.files())];
    assert!(bench.stored() > before + 600_000);
    // One that has begun since, and the old one, which ends.
    let younger = session(&repo, Some(young));
    old.end(Ended::Done).unwrap();
    let done = prune(&repo, &now(), &quiet()).unwrap();
    assert!(done.waiting.is_none() && done.packs_deleted > 0, "{done:?}");
    assert!(bench.stored() < before);
    check_readable(&repo, &made);
    drop(younger);
}

#[test]
fn what_an_older_session_commits_is_not_swept() {
    let bench = Bench::new();
    let repo = bench.open();
    let made = forget_first(&bench, &repo);
    let ids: Vec<_> = made.iter().map(|(id, _)| *id).collect();
    forget_named(&repo, &ids, &Default::default(), &quiet()).unwrap();
    // It found everything in place before it was condemned, and says so only now.
    let old = session(&repo, None);
    let manifest = manifest(&repo, &made[1].0).unwrap();
    let done = prune(&repo, &now(), &quiet()).unwrap();
    assert!(done.waiting.is_some());
    let copy = crate::format::manifest::Manifest { id: SnapshotId([7; 32]), ..manifest };
    crate::snapshots::record(&repo, &old, &copy).unwrap();
    old.end(Ended::Done).unwrap();
    let done = prune(&repo, &now(), &quiet()).unwrap();
    assert!(done.packs_uncondemned > 0, "{done:?}");
    check_readable(&bench.open(), &[(copy.id, made[1].1.clone())]);
    assert!(repo.log.state().condemned.is_empty());
}

/// Runs another writer in the middle of a prune: when it says that it enters a phase.
pub(super) struct Meanwhile<'a> {
    phase: &'static str,
    act: parking_lot::Mutex<Option<Box<dyn FnOnce() + Send + 'a>>>,
    inner: Void,
}

impl Monitor for Meanwhile<'_> {
    fn event(&self, event: Event<'_>) {
        if matches!(event, Event::Phase(phase) if phase == self.phase)
            && let Some(act) = self.act.lock().take()
        {
            act();
        }
    }

    fn counters(&self) -> &crate::monitor::Counters {
        self.inner.counters()
    }

    fn cancelled(&self) -> bool {
        false
    }
}

pub(super) fn meanwhile<'a>(phase: &'static str, act: impl FnOnce() + Send + 'a) -> Meanwhile<'a> {
    Meanwhile { phase, act: parking_lot::Mutex::new(Some(Box::new(act))), inner: Void::default() }
}

#[test]
fn what_is_committed_or_taken_back_during_a_prune_stays() {
    for phase in ["mark", "sweep", "rewrite"] {
        let bench = Bench::new();
        let repo = bench.open();
        let made = forget_first(&bench, &repo);
        forget_named(&repo, &[made[1].0], &Default::default(), &quiet()).unwrap();
        let other = bench.open();
        let mut young = None;
        let act = || {
            young = Some(bench.backup(&other));
            // Gone already where the first sweep is over.
            if phase != "rewrite" {
                unforget(&other, &[made[0].0], &quiet()).unwrap();
            }
        };
        prune(&repo, &now(), &meanwhile(phase, act)).unwrap();
        let repo = bench.elsewhere("fresh");
        check_readable(&repo, &[made[2].clone(), (young.unwrap(), bench.files())]);
        if phase != "rewrite" {
            check_readable(&repo, &made[..1]);
        }
        assert!(repo.log.state().sweep.is_none());
        prune(&repo, &now(), &quiet()).unwrap();
        check_readable(&repo, &[made[2].clone(), (young.unwrap(), bench.files())]);
    }
}

#[test]
fn backups_run_beside_prunes_all_the_time() {
    let bench = Bench::new();
    let repo = bench.open();
    let mut made = forget_first(&bench, &repo);
    made.remove(0);
    let backups = bench.elsewhere("index");
    std::thread::scope(|threads| {
        let prunes = threads.spawn(|| {
            (0..8).for_each(|_| {
                prune(&repo, &now(), &quiet()).unwrap();
            });
        });
        for i in 0..8u64 {
            bench.write(&format!("more-{}", i % 3), &noise(1000 + i, 150_000));
            made.push((bench.backup(&backups), bench.files()));
            let gone = made.remove((i % 2) as usize);
            forget_named(&backups, &[gone.0], &Default::default(), &quiet()).unwrap();
        }
        prunes.join().unwrap();
    });
    prune(&repo, &now(), &quiet()).unwrap();
    check_readable(&repo, &made);
    check_readable(&bench.elsewhere("fresh"), &made);
    assert_eq!(bench.count(Area::Snapshots), made.len());
}

#[test]
fn a_parent_in_use_is_a_root() {
    let bench = Bench::new();
    let repo = bench.open();
    let made = forget_first(&bench, &repo);
    let user = session(&repo, Some(made[0].0));
    let done = prune(&repo, &now(), &quiet()).unwrap();
    assert!(done.snapshots_removed.is_empty());
    check_readable(&repo, &made);
    user.end(Ended::Done).unwrap();
    assert_eq!(prune(&repo, &now(), &quiet()).unwrap().snapshots_removed, [made[0].0]);
}

#[test]
fn an_expired_session_is_not_waited_for_and_cannot_commit() {
    let bench = Bench::new();
    let repo = bench.open();
    let made = forget_first(&bench, &repo);
    forget_named(&repo, &[made[1].0], &Default::default(), &quiet()).unwrap();
    let old = session(&repo, None);
    let manifest = manifest(&repo, &made[0].0).unwrap();
    assert!(prune(&repo, &now(), &quiet()).unwrap().waiting.is_some());
    bench.pass(4 * DAY);
    let done = prune(&repo, &now(), &quiet()).unwrap();
    assert!(done.waiting.is_none() && done.packs_deleted > 0, "{done:?}");
    let copy = crate::format::manifest::Manifest { id: SnapshotId([7; 32]), ..manifest };
    assert_eq!(crate::snapshots::record(&repo, &old, &copy).unwrap_err().kind(), Kind::Refused);
    check_readable(&bench.open(), &made[2..]);
}
