//! Random histories of backups, forgetting, taking back, pruning and time, against what must be readable after each.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    /// Writes a file of one of few names and contents, so that contents recur.
    Write(u8, u8),
    Remove(u8),
    Backup,
    Forget(u8),
    Unforget(u8),
    Pass(u8),
    Prune {
        release: bool,
        percent: u8,
    },
    /// The process dies and another opens, with an index of its own every other time.
    Reopen(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..8u8, 0..12u8).prop_map(|(name, content)| Step::Write(name, content)),
        2 => (0..8u8).prop_map(Step::Remove),
        5 => Just(Step::Backup),
        4 => any::<u8>().prop_map(Step::Forget),
        1 => any::<u8>().prop_map(Step::Unforget),
        2 => (0..4u8).prop_map(Step::Pass),
        4 => (any::<bool>(), prop_oneof![Just(0u8), Just(5), Just(40)])
            .prop_map(|(release, percent)| Step::Prune { release, percent }),
        1 => any::<bool>().prop_map(Step::Reopen),
    ]
}

/// What must be there.
#[derive(Default)]
struct Model {
    live: Vec<(SnapshotId, Files)>,
    held: Vec<(SnapshotId, Files, Time)>,
}

fn run(steps: Vec<Step>) {
    let bench = Bench::new();
    let mut repo = bench.open();
    let mut model = Model::default();
    let mut opened = 0;
    for step in steps {
        match step {
            Step::Write(name, content) => {
                let len = [200, 9_000, 70_000, 400_000][usize::from(content % 4)];
                bench.write(&format!("f{name}"), &noise(content.into(), len));
            }
            Step::Remove(name) => _ = fs::remove_file(bench.source().join(format!("f{name}"))),
            Step::Backup => model.live.push((bench.backup(&repo), bench.files())),
            Step::Forget(i) if !model.live.is_empty() => {
                let (id, files) = model.live.remove(usize::from(i) % model.live.len());
                forget_named(&repo, &[id], &Default::default(), &quiet()).unwrap();
                model.held.push((id, files, bench.clock.now()));
            }
            Step::Unforget(i) if !model.held.is_empty() => {
                let (id, files, _) = model.held.remove(usize::from(i) % model.held.len());
                unforget(&repo, &[id], &quiet()).unwrap();
                model.live.push((id, files));
            }
            Step::Pass(days) => bench.pass(u32::from(days) * DAY),
            Step::Prune { release, percent } => {
                prune_and_check(&bench, &repo, &mut model, release, percent);
            }
            Step::Reopen(fresh) => {
                opened += u32::from(fresh);
                repo = bench.open_on(Arc::new(bench.disk.clone()), &format!("index-{opened}")).unwrap();
            }
            Step::Forget(_) | Step::Unforget(_) => {}
        }
        check_readable(&repo, &model.live);
    }
    // In the end, all that is left is what the live ones need.
    bench.pass(30 * DAY);
    prune_and_check(&bench, &repo, &mut model, false, 0);
    assert!(model.held.is_empty());
    let left = prune(&repo, &now(), &quiet()).unwrap();
    assert_eq!((left.packs_deleted, left.packs_rewritten), (0, 0), "{left:?}");
    assert_fully_used(&repo, &model);
    let fresh = bench.elsewhere("last");
    check_readable(&fresh, &model.live);
}

fn prune_and_check(bench: &Bench, repo: &Repository, model: &mut Model, release: bool, percent: u8) {
    let options =
        Options { release_held: release, max_unused: MaxUnused::Percent(percent.into()), ..Options::default() };
    let done = prune(repo, &options, &quiet()).unwrap();
    assert!(done.waiting.is_none() && done.packs_uncondemned == 0, "{done:?}");
    let now = bench.clock.now();
    model.held.retain(|(_, _, at)| !release && at.plus(forget::HOLD) > now);
    let held: Vec<_> = model.held.iter().map(|(id, files, _)| (*id, files.clone())).collect();
    check_readable(repo, &held);
    assert_eq!(bench.count(Area::Snapshots), model.live.len() + held.len());
}

/// Every chunk that is stored is needed.
fn assert_fully_used(repo: &Repository, model: &Model) {
    let monitor = Void::default();
    let mut marks = Marker::new(repo, &monitor);
    model.live.iter().for_each(|(id, _)| marks.snapshot(id).unwrap());
    let mut packs = Vec::new();
    repo.index
        .packs(&mut |info| {
            packs.push(*info);
            Ok(())
        })
        .unwrap();
    for info in packs {
        let chunks = repo.packs().pack(&info).unwrap().footer.chunks.len();
        assert_eq!(marks.of(&info.id).map(|bits| bits.count as usize), Some(chunks));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_is_kept_is_readable_and_the_rest_is_gone(steps in proptest::collection::vec(step(), 1..40)) {
        run(steps);
    }
}
