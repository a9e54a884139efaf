use std::time::Duration;

use super::*;
use crate::backend::fault::{Fault, Faulty, Plan};
use crate::backend::local::Local;
use crate::backend::memory::Memory;
use crate::clock::{MAX_AHEAD, Time};
use crate::crypto::keys::Keyring;
use crate::id::{PackId, RepoId, SnapshotId};
use crate::lock::{COMMIT_WAIT, Locks};
use crate::monitor::{Recording, Void};

struct Bench {
    disk: Memory,
    keys: Arc<Keys>,
    locks: Locks,
}

impl Bench {
    fn new() -> Bench {
        let keys = Arc::new(Keys::derive(&Keyring::generate(), RepoId::random()));
        let bench = Bench { disk: Memory::new(), keys, locks: Locks::memory() };
        Log::create(Arc::new(bench.disk.clone()), bench.keys.clone(), 0).unwrap();
        bench
    }

    fn load(&self) -> Result<Log> {
        Log::load(Arc::new(self.disk.clone()), self.keys.clone(), &Void::default())
    }

    fn append(&self, log: &Log, record: Record) -> Result<Position> {
        log.append(&self.locks.commit(COMMIT_WAIT).unwrap(), record)
    }

    /// Appends `n` records, the last naming pack `n`.
    fn fill(&self, log: &Log, n: u64) {
        (1..=n).for_each(|i| assert!(self.append(log, damage(i)).is_ok()));
    }
}

fn pack(n: u64) -> PackId {
    PackId(*blake3::hash(&n.to_le_bytes()).as_bytes())
}

fn damage(n: u64) -> Record {
    Record::Damage { packs: vec![pack(n)], at: Time(0) }
}

#[test]
fn what_is_appended_is_loaded() {
    let bench = Bench::new();
    assert_eq!(Log::create(Arc::new(bench.disk.clone()), bench.keys.clone(), 0).err().unwrap().kind(), Kind::Exists);
    let log = bench.load().unwrap();
    let before = log.state();
    let first = bench.append(&log, damage(1)).unwrap();
    assert_eq!((first.seq, before.position.seq), (2, 1));
    bench.fill(&log, 10);
    assert_eq!(bench.load().unwrap().state(), log.state());
    assert_eq!(log.state().damaged.len(), 10);
}

#[test]
fn writers_see_and_follow_each_other() {
    let bench = Bench::new();
    let logs = [bench.load().unwrap(), bench.load().unwrap()];
    std::thread::scope(|scope| {
        for log in &logs {
            scope.spawn(|| bench.fill(log, 40));
        }
    });
    logs.iter().for_each(|log| log.refresh().unwrap());
    assert_eq!(logs[0].state(), logs[1].state());
    assert_eq!(logs[0].position().seq, 81);
    assert_eq!(bench.load().unwrap().state(), logs[0].state());
}

#[test]
fn checkpoints_compact_and_a_sleeper_catches_up() {
    let bench = Bench::new();
    let log = bench.load().unwrap();
    let sleeper = bench.load().unwrap();
    let awake = bench.load().unwrap();
    bench.fill(&log, 2 * CHECKPOINT_EVERY + 5);
    let left = load::numbers(&bench.disk).unwrap();
    assert_eq!((left[0], left.len() as u64), (CHECKPOINT_EVERY + 1, log.position().seq - CHECKPOINT_EVERY));
    assert_eq!(bench.load().unwrap().state(), log.state());
    sleeper.refresh().unwrap();
    assert_eq!(sleeper.state(), log.state());
    bench.append(&awake, damage(0)).unwrap();
    assert_eq!(awake.position().seq, log.position().seq + 1);
}

#[test]
fn nothing_is_appended_to_what_a_restart_left_behind() {
    let bench = Bench::new();
    let (log, sleeper) = (bench.load().unwrap(), bench.load().unwrap());
    bench.fill(&log, 5);
    sleeper.refresh().unwrap();
    let before = bench.disk.snapshot();
    log.restart(&bench.locks.commit(COMMIT_WAIT).unwrap(), State::clone(&log.state())).unwrap();
    // Killed before it had deleted the records in front of the new beginning.
    for seq in load::numbers(&before).unwrap() {
        let object = Object::Log(seq);
        bench.disk.put(&object, &before.read_all(&object, MAX_LOG_RECORD).unwrap()).unwrap();
    }
    assert_eq!(bench.append(&sleeper, damage(9)).unwrap_err().kind(), Kind::RolledBack);
    let fresh = bench.load().unwrap();
    bench.append(&fresh, damage(9)).unwrap();
    assert!(bench.load().unwrap().state().damaged.contains_key(&pack(9)));
}

#[test]
fn a_view_replays_what_it_lacks() {
    let bench = Bench::new();
    let log = bench.load().unwrap();
    bench.fill(&log, 5);
    let at = log.position();
    bench.fill(&log, CHECKPOINT_EVERY + 5);
    let mut state = State::default();
    let mut view = |from, log: &Log| {
        log.replay(from, &mut |e, p| {
            state.apply(e, p.hash);
            Ok(())
        })
        .unwrap()
    };
    assert_eq!(view(Position::START, &log), Replay::Done);
    assert_eq!(state, *log.state());
    let mut seen = 0;
    let mut count = |from, log: &Log| {
        log.replay(from, &mut |_, _| {
            seen += 1;
            Ok(())
        })
        .unwrap()
    };
    assert_eq!(count(at, &log), Replay::Done);
    assert_eq!(count(Position { hash: LogHash([1; 32]), ..at }, &log), Replay::Diverged);
    assert_eq!(count(Position { seq: 1 << 40, ..at }, &log), Replay::Diverged);
    assert_eq!(seen, CHECKPOINT_EVERY + 6);
    bench.fill(&log, CHECKPOINT_EVERY);
    assert_eq!(log.replay(at, &mut |_, _| Ok(())).unwrap(), Replay::TooOld);
    let mut entries = 0;
    log.history(&mut |e| {
        entries += u64::from(e.is_ok());
        Ok(())
    })
    .unwrap();
    assert_eq!(entries, log.position().seq - CHECKPOINT_EVERY);
}

#[test]
fn rollback_and_fork_are_noticed() {
    let bench = Bench::new();
    let log = bench.load().unwrap();
    bench.fill(&log, 3);
    let image = Bench { disk: bench.disk.snapshot(), keys: bench.keys.clone(), locks: Locks::memory() };
    let old = log.position();
    bench.fill(&log, 3);
    let seen = log.position();
    assert_eq!(
        (log.extends(&seen), log.extends(&old), log.extends(&Position::START)),
        (Relation::Same, Relation::Newer, Relation::Newer)
    );
    let other = image.load().unwrap();
    assert_eq!(other.extends(&seen), Relation::RolledBack);
    image.fill(&other, 3);
    assert_eq!(other.extends(&seen), Relation::Forked);
    image.fill(&other, 3);
    assert_eq!((other.extends(&seen), other.extends(&old)), (Relation::Forked, Relation::Newer));
    // Also when that record has been compacted away, and from a checkpoint of before.
    image.fill(&other, 2 * CHECKPOINT_EVERY);
    let reloaded = image.load().unwrap();
    assert_eq!(reloaded.extends(&Position { seq: CHECKPOINT_EVERY - 3, ..seen }), Relation::Forked);
    assert_eq!(reloaded.extends(&Position { seq: 1, ..seen }), Relation::Forked);
    assert_eq!(reloaded.extends(&old), Relation::Newer);
}

#[test]
fn a_repository_replaced_in_use_is_not_written() {
    for ahead in [false, true] {
        let bench = Bench::new();
        let log = bench.load().unwrap();
        let image = Bench { disk: bench.disk.snapshot(), keys: bench.keys.clone(), locks: Locks::memory() };
        bench.fill(&log, 3);
        let other = image.load().unwrap();
        image.fill(&other, if ahead { 6 } else { 3 });
        for seq in 2..=other.position().seq {
            bench.disk.delete(&Object::Log(seq)).unwrap();
            bench.disk.put(&Object::Log(seq), &image.disk.read_all(&Object::Log(seq), 9999).unwrap()).unwrap();
        }
        assert_eq!(bench.append(&log, damage(1)).unwrap_err().kind(), Kind::RolledBack);
    }
}

#[test]
fn damage_is_named_and_survived_by_readers_only() {
    let newest = CHECKPOINT_EVERY + 9;
    type Change = fn(&mut Vec<u8>);
    let changes: [(&str, Change); 4] =
        [("flip", |b| b[60] ^= 1), ("truncate", |b| b.truncate(40)), ("zero", |b| b.fill(0)), ("empty", |b| b.clear())];
    for (what, change) in changes {
        for seq in [CHECKPOINT_EVERY + 1, CHECKPOINT_EVERY + 4, newest] {
            let bench = Bench::new();
            bench.fill(&bench.load().unwrap(), newest - 2);
            assert!(bench.disk.damage(&Object::Log(seq), change));
            check_damaged(&bench, seq, what);
        }
    }
}

fn check_damaged(bench: &Bench, seq: u64, what: &str) {
    let path = bench.disk.path(&Object::Log(seq));
    let e = bench.load().err().unwrap();
    assert_eq!((e.kind(), e.path()), (Kind::Damaged, Some(&*path)), "{what} {seq}");
    let monitor = Recording::default();
    let log = Log::load_lenient(Arc::new(bench.disk.clone()), bench.keys.clone(), &monitor).unwrap();
    assert_eq!(monitor.lines().len(), 1, "{what} {seq}: {:?}", monitor.lines());
    assert!(monitor.lines()[0].contains(path.to_str().unwrap()));
    let checkpoint = (seq - 1).is_multiple_of(CHECKPOINT_EVERY);
    // A checkpoint only repeats: without it nothing is lost.
    assert_eq!(log.state().damaged.len() as u64, CHECKPOINT_EVERY + 9 - 2 - u64::from(!checkpoint), "{what} {seq}");
    assert_eq!(bench.append(&log, damage(1)).unwrap_err().kind(), Kind::Damaged);
}

#[test]
fn missing_and_swapped_records_are_named() {
    let bench = Bench::new();
    bench.fill(&bench.load().unwrap(), 8);
    let image = bench.disk.snapshot();
    let load = |disk: &Memory| {
        let e = Log::load(Arc::new(disk.clone()), bench.keys.clone(), &Void::default()).err().unwrap();
        (e.kind(), e.path().unwrap().to_owned())
    };
    let named = |seq| (Kind::Damaged, image.path(&Object::Log(seq)));
    for seq in [1, 5] {
        let disk = image.snapshot();
        disk.delete(&Object::Log(seq)).unwrap();
        assert_eq!(load(&disk), named(seq));
        let log = Log::load_lenient(Arc::new(disk), bench.keys.clone(), &Void::default()).unwrap();
        assert_eq!(log.state().damaged.len(), if seq == 1 { 8 } else { 7 });
    }
    let disk = image.snapshot();
    let other = disk.read_all(&Object::Log(3), 9999).unwrap();
    disk.damage(&Object::Log(4), |b| *b = other);
    assert_eq!(load(&disk), named(4));
    let disk = image.snapshot();
    disk.put(&Object::Log(u64::MAX), b"foreign").unwrap();
    assert_eq!(load(&disk).0, Kind::Damaged);
    assert!(Log::load_lenient(Arc::new(disk), bench.keys.clone(), &Void::default()).is_ok());
    let empty = Memory::new();
    assert_eq!(load(&empty), named(1));
    assert!(Log::load_lenient(Arc::new(empty), bench.keys.clone(), &Void::default()).is_ok());
}

#[test]
fn a_record_from_before_a_rollback_does_not_chain() {
    let bench = Bench::new();
    let image = Bench { disk: bench.disk.snapshot(), keys: bench.keys.clone(), locks: Locks::memory() };
    bench.fill(&bench.load().unwrap(), 4);
    image.fill(&image.load().unwrap(), 4);
    let other = image.disk.read_all(&Object::Log(3), 9999).unwrap();
    bench.disk.damage(&Object::Log(3), |b| *b = other);
    let e = bench.load().err().unwrap();
    assert_eq!((e.kind(), e.path()), (Kind::Damaged, Some(&*bench.disk.path(&Object::Log(3)))));
    let mut wrong = 0;
    let log = Log::load_lenient(Arc::new(bench.disk.clone()), bench.keys.clone(), &Void::default()).unwrap();
    log.history(&mut |e| {
        wrong += u32::from(e.is_err());
        Ok(())
    })
    .unwrap();
    // Neither it nor the one after it follows.
    assert_eq!(wrong, 2);
}

#[test]
fn every_failing_operation_is_reported_and_leaves_a_sound_journal() {
    let base = Bench::new();
    base.fill(&base.load().unwrap(), CHECKPOINT_EVERY * 2 - 2);
    // As if an earlier compaction had got nearly all the way.
    (1..CHECKPOINT_EVERY - 4).for_each(|seq| assert!(base.disk.delete(&Object::Log(seq)).is_ok()));
    for fault in Fault::ALL {
        for persistent in [false, true] {
            for at in 0.. {
                let bench = Bench { disk: base.disk.snapshot(), keys: base.keys.clone(), locks: Locks::memory() };
                let faulty = Arc::new(Faulty::new(Arc::new(bench.disk.clone()), None));
                let log = Log::load(faulty.clone(), bench.keys.clone(), &Void::default()).unwrap();
                faulty.rearm(Some(Plan { at, persistent, fault }));
                let acknowledged: Vec<_> =
                    [5001, 5002, 5003].into_iter().map(|n| (n, bench.append(&log, damage(n)).is_ok())).collect();
                let through = faulty.count() <= at;
                let log = bench.load().unwrap();
                for (n, ok) in acknowledged {
                    assert!(!ok || log.state().damaged.contains_key(&pack(n)), "{fault:?} {persistent} {at}");
                    assert!(ok || !through);
                }
                bench.append(&log, damage(1)).unwrap();
                if through {
                    assert_eq!(load::numbers(&bench.disk).unwrap()[0], CHECKPOINT_EVERY + 1);
                    break;
                }
            }
        }
    }
}

#[test]
fn a_failing_read_or_listing_is_no_shorter_journal() {
    let bench = Bench::new();
    bench.fill(&bench.load().unwrap(), 5);
    for fault in [Fault::Io, Fault::Short] {
        for at in 0..7 {
            let faulty = Faulty::new(Arc::new(bench.disk.clone()), Some(Plan { at, persistent: false, fault }));
            let loaded = Log::load(Arc::new(faulty), bench.keys.clone(), &Void::default());
            assert_eq!(loaded.err().unwrap().kind(), Kind::Io);
        }
    }
}

#[test]
fn an_untrusted_clock_moves_nothing_until_accepted() {
    let bench = Bench::new();
    let start = Time::from_secs(2_000_000_000);
    let clock = Clock::manual(start, false);
    let load = || bench.load().unwrap().with_clock(clock.clone());
    let log = load();
    bench.append(&log, Record::ClockAccepted).unwrap();
    assert!(log.check_clock().is_ok());
    for wrong in [start.minus(Duration::from_secs(3600)), start.plus(MAX_AHEAD + Duration::from_secs(1))] {
        clock.set(wrong);
        assert_eq!(log.check_clock().unwrap_err().kind(), Kind::Clock);
        // A backup goes on, and does not make the clock any better.
        bench.append(&log, damage(1)).unwrap();
        assert_eq!(load().check_clock().unwrap_err().kind(), Kind::Clock);
    }
    bench.append(&log, Record::ClockAccepted).unwrap();
    assert!(load().check_clock().is_ok());
}

#[test]
fn a_journal_on_disk_survives_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let local = Arc::new(Local::create(dir.path()).unwrap());
    let locks = Locks::file(&local.lock_path());
    let keys = Arc::new(Keys::derive(&Keyring::generate(), RepoId::random()));
    let log = Log::create(local.clone(), keys.clone(), 0).unwrap();
    let snapshots = vec![SnapshotId::random()];
    log.append(&locks.commit(COMMIT_WAIT).unwrap(), Record::Pinned { snapshots }).unwrap();
    let again = Log::load(local, keys, &Void::default()).unwrap();
    assert_eq!(again.state(), log.state());
    assert!(dir.path().join("log/0000000000000002").is_file());
}

/// The same keys in every process.
fn fixed_keys() -> Arc<Keys> {
    Arc::new(crate::crypto::vectors::keys())
}

/// Another process of the test below: appends until it is killed, and says what was acknowledged.
#[test]
#[ignore = "run by another test"]
fn appender() {
    let Some(dir) = std::env::var_os("APPEND_TO") else { return };
    let first: u64 = std::env::var("APPEND_FROM").unwrap().parse().unwrap();
    let local = Arc::new(Local::open(dir.as_ref(), false).unwrap());
    let locks = Locks::file(&local.lock_path());
    let log = Log::load(local, fixed_keys(), &Void::default()).unwrap();
    for n in first.. {
        log.append(&locks.commit(COMMIT_WAIT).unwrap(), damage(n)).unwrap();
        println!("\nacknowledged {n}");
    }
}

#[test]
fn killed_writers_lose_nothing_acknowledged() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    let dir = tempfile::tempdir().unwrap();
    let local = Arc::new(Local::create(dir.path()).unwrap());
    local.put(&Object::Config, b"config").unwrap();
    drop(Log::create(local.clone(), fixed_keys(), 0).unwrap());
    let mut acknowledged = Vec::new();
    for round in 0..6u64 {
        let start = |from: u64| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "log::tests::appender", "--ignored", "--nocapture"])
                .env("APPEND_TO", dir.path())
                .env("APPEND_FROM", from.to_string())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        };
        let mut both = [start(round * 200_000), start(round * 200_000 + 100_000)];
        let mut said = both.each_mut().map(|child| BufReader::new(child.stdout.take().unwrap()).lines());
        let number = |line: String| line.strip_prefix("acknowledged ")?.parse::<u64>().ok();
        acknowledged.extend(said[0].by_ref().map_while(|line| line.ok()).find_map(number));
        std::thread::sleep(Duration::from_millis(3 + 7 * round));
        for child in &mut both {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        acknowledged.extend(said.into_iter().flatten().map_while(|line| line.ok()).filter_map(number));
        // A writable open drops what the dead left, and the journal goes on.
        let local = Arc::new(Local::open(dir.path(), false).unwrap());
        assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
        let log = Log::load(local, fixed_keys(), &Void::default()).unwrap();
        let state = log.state();
        assert!(acknowledged.iter().all(|n| state.damaged.contains_key(&pack(*n))));
    }
    assert!(acknowledged.len() >= 6);
}
