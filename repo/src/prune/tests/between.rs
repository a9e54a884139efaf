//! Others at work between two steps of one operation: rebuilds, checks and prunes must not take that for damage.

use super::hooked::{Hooked, When};
use super::*;
use crate::backend::Put;
use crate::check::{Finding, ReadData, check};
use crate::error::Error;
use crate::follow::new_pack;
use crate::format::footer::{RollupEntry, encode_rollup};
use crate::format::record::PackRef;
use crate::index::{Builder, Flags, IndexIdentity};
use crate::mend::renew_index;
use crate::pack::build::{FinishedPack, Group, PackBuilder};
use crate::pack::read::open_footer;
use crate::sweep::finish_intent;

/// What a check finds.
fn findings(repo: &Repository) -> Vec<String> {
    let mut told = Vec::new();
    let outcome = check(repo, ReadData::All, &quiet(), &mut |finding| {
        told.push(match finding {
            Finding::Object(e) | Finding::Pack { error: e, .. } => e.to_string(),
            Finding::Snapshot { error: e, .. } | Finding::File { error: e, .. } => Error::to_string(e),
            other => format!("{other:?}"),
        });
    });
    assert_eq!(outcome.unwrap().problems == 0, told.is_empty());
    told
}

/// The snapshots can be read, and a check finds nothing wrong.
fn check_sound(repo: &Repository, made: &[(SnapshotId, Files)]) {
    check_readable(repo, made);
    assert_eq!(findings(repo), [""; 0]);
}

/// A session's pack, stored and not recorded, with a chunk of noise for each seed.
pub(super) fn store_pack(repo: &Repository, session: &Session, seeds: &[u64]) -> FinishedPack {
    let mut builder = PackBuilder::new(FrameKind::Data, session.id(), 1 << 22);
    let mut group = Group::default();
    for seed in seeds {
        let bytes = noise(*seed, 5000);
        group.push(ChunkKind::Data, content_hash(ChunkKind::Data, &bytes), &bytes);
    }
    builder.push(&seal(&repo.keys, &mut Packer::new(3).unwrap(), FrameKind::Data, group).unwrap()).unwrap();
    let mut pack = builder.finish(&repo.keys).unwrap();
    repo.backend.put_grown(&Object::Pack(pack.id), std::mem::take(&mut pack.body)).unwrap();
    pack
}

pub(super) fn store_rollup(repo: &Repository, session: &Session, pack: &FinishedPack) -> u64 {
    let size = pack.size;
    let entry = RollupEntry { id: pack.id, size, sealed_footer: pack.sealed_footer.clone() };
    let plain = encode_rollup(&[entry]);
    let mut number = u64::from(session.number()) << 32;
    loop {
        let sealed = repo.keys.seal(crate::crypto::keys::Object::Rollup, &number.to_le_bytes(), &plain);
        if repo.backend.put(&Object::Footers(number), &sealed).unwrap() == Put::Created {
            return number;
        }
        number += 1;
    }
}

pub(super) fn record_pack(repo: &Repository, session: &Session, rollup: u64, pack: &FinishedPack) {
    let (size, footer_len) = (pack.size, pack.sealed_footer.len() as u32);
    let packs = vec![PackRef { id: pack.id, size, footer_len, kind: FrameKind::Data }];
    session.packs_added(rollup, packs).unwrap();
    repo.refresh(&quiet()).unwrap();
}

pub(super) fn begin(repo: &Repository) -> Session {
    Session::begin(Arc::clone(&repo.log), repo.locks.clone(), "backup", None).unwrap()
}

/// Puts in place of the index what a rebuild leaves that began before what the log says now, and that has the chunks of
/// `first` there rather than in another pack.
pub(super) fn rebuild_from_before(repo: &Repository, first: PackId, at: crate::format::record::Position) {
    let mut packs = Vec::new();
    repo.index
        .packs(&mut |info| {
            let sealed = repo.index.footer(info.no)?.unwrap();
            let footer = open_footer(&repo.keys, &sealed, info.size)?;
            packs.push(new_pack(&repo.keys, info.id, info.size, sealed, &footer));
            Ok(())
        })
        .unwrap();
    packs.sort_by_key(|pack| pack.id != first);
    let mut builder = Builder::new(repo.index.dir(), &IndexIdentity { repo: repo.keys.repo_id() }).unwrap();
    for pack in packs {
        builder.push(pack, Flags::default()).unwrap();
    }
    builder.finish(Some(at)).unwrap();
}

#[test]
fn a_prune_goes_by_an_index_that_was_rebuilt_meanwhile() {
    let Twice { bench, repo, first, made, spare: new, used: old } = Twice::new();
    assert!(where_is(&repo, &first) == old);
    let at = repo.log.position();
    let other = bench.open();
    // The new copy is condemned by now; the rebuilt index has the chunks in that one.
    let act = || rebuild_from_before(&other, new, at);
    prune(&repo, &now(), &beside::meanwhile("sweep", act)).unwrap();
    check_sound(&repo, &made);
    check_sound(&bench.elsewhere("fresh"), &made);
}

/// Another machine, whose index has the chunks in the spare copy, and a prune of this one that was killed when it had
/// written its intent to remove that.
fn killed_before_the_sweep(twice: &Twice) -> Repository {
    let Twice { bench, repo, first, spare, used, .. } = twice;
    let other = bench.elsewhere("other");
    rebuild_from_before(&other, *spare, repo.log.position());
    other.refresh(&quiet()).unwrap();
    assert!(where_is(&other, first) == *spare && where_is(repo, first) == *used);
    let session = begin(repo);
    session.commit(|session| Record::Condemned { session, packs: vec![*spare] }).unwrap();
    session.commit(|session| Record::SweepIntent { session, packs: vec![*spare], snapshots: Vec::new() }).unwrap();
    session.end(Ended::Failed).unwrap();
    other
}

#[test]
fn a_sweep_that_another_machine_finishes_leaves_it_the_copy_that_stays() {
    let twice = Twice::new();
    let other = killed_before_the_sweep(&twice);
    other.refresh(&quiet()).unwrap();
    assert_eq!(finish_intent(&other, &quiet()).unwrap().packs, 1);
    assert!(where_is(&other, &twice.first) == twice.used);
    check_sound(&other, &twice.made);
}

#[test]
fn a_sweep_that_another_machine_finishes_leaves_the_only_good_copy() {
    let twice = Twice::new();
    let other = killed_before_the_sweep(&twice);
    assert!(twice.bench.disk.damage(&Object::Pack(twice.used), |bytes| bytes[500] ^= 1));
    assert_ne!(findings(&twice.repo), [""; 0]);
    other.refresh(&quiet()).unwrap();
    assert_eq!(finish_intent(&other, &quiet()).unwrap().kept, 1);
    check_readable(&other, &twice.made);
    // The first takes the spare copy back, the second removes the damaged one.
    prune(&twice.repo, &now(), &quiet()).unwrap();
    assert_eq!(prune(&twice.repo, &now(), &quiet()).unwrap().packs_deleted, 1);
    check_sound(&twice.repo, &twice.made);
}

#[test]
fn recording_strays_passes_over_no_record_of_others() {
    let bench = Bench::new();
    let hooked = Hooked::on(&bench);
    let repo = bench.open_on(hooked.clone(), "index").unwrap();
    let session = begin(&repo);
    let stray = store_pack(&repo, &session, &[9]);
    session.end(Ended::Failed).unwrap();
    bench.write("a", &noise(1, 100_000));
    let (files, made) = (bench.files(), Arc::new(parking_lot::Mutex::new(None)));
    let (other, theirs) = (bench.elsewhere("other"), made.clone());
    let source = bench.source();
    hooked.arm(When::ReadRollup, move || {
        *theirs.lock() = capture::backup(&other, options(&source), &Void::default()).unwrap().snapshot;
    });
    let renewed = renew_index(&repo, &quiet()).unwrap();
    assert!(hooked.acted() && renewed.adopted == 1);
    repo.refresh(&quiet()).unwrap();
    assert!(repo.index.pack_by_id(&stray.id).unwrap().unwrap().usable());
    check_sound(&repo, &[(made.lock().unwrap(), files)]);
}

#[test]
fn a_rebuild_leaves_out_what_sessions_have_not_recorded_that_began_meanwhile() {
    for rolled in [false, true] {
        let bench = Bench::new();
        let other = bench.open();
        let repo = bench.open();
        let session = begin(&other);
        let pack = store_pack(&other, &session, &[9]);
        let rollup = rolled.then(|| store_rollup(&other, &session, &pack));
        // This one's log does not know of the session yet.
        assert!(repo.log.state().sessions.is_empty());
        assert!(!repo.index_is_new);
        renew_index(&repo, &quiet()).unwrap();
        assert!(repo.index.pack_by_id(&pack.id).unwrap().is_none(), "{rolled}");
        let rollup = rollup.unwrap_or_else(|| store_rollup(&other, &session, &pack));
        record_pack(&other, &session, rollup, &pack);
        repo.refresh(&quiet()).unwrap();
        assert!(repo.index.pack_by_id(&pack.id).unwrap().unwrap().usable(), "{rolled}");
    }
}

#[test]
fn a_check_takes_what_is_recorded_meanwhile_for_no_damage() {
    let bench = Bench::new();
    bench.write("a", &noise(1, 100_000));
    let hooked = Hooked::on(&bench);
    let repo = bench.open_on(hooked.clone(), "index").unwrap();
    bench.backup(&repo);
    // The roll-up, and then the record, come when the roll-ups were listed.
    let other = bench.open();
    let session = begin(&other);
    let pack = store_pack(&other, &session, &[9]);
    hooked.arm(When::Listed(Area::Footers), move || {
        let rollup = store_rollup(&other, &session, &pack);
        record_pack(&other, &session, rollup, &pack);
        session.end(Ended::Done).unwrap();
    });
    assert_eq!(findings(&repo), [""; 0]);
    assert!(hooked.acted());
    // A roll-up comes when its pack was listed, and the record of it with it or not yet.
    for recorded in [false, true] {
        let other = bench.open();
        let session = begin(&other);
        let pack = store_pack(&other, &session, &[if recorded { 11 } else { 12 }]);
        let kept = Arc::new(parking_lot::Mutex::new(None));
        let keep = kept.clone();
        hooked.arm(When::Listed(Area::Keys), move || {
            let rollup = store_rollup(&other, &session, &pack);
            if recorded {
                record_pack(&other, &session, rollup, &pack);
            }
            *keep.lock() = Some(session);
        });
        // One that follows only when it is told to.
        let repo = bench.open_on(hooked.clone(), "another machine's").unwrap();
        assert_eq!(findings(&repo), [""; 0], "{recorded}");
        assert!(hooked.acted());
    }
    // A session begins and writes a pack and its roll-up when the log was read.
    let other = bench.open();
    let kept = Arc::new(parking_lot::Mutex::new(None));
    let keep = kept.clone();
    hooked.arm(When::Listed(Area::Keys), move || {
        let session = begin(&other);
        let pack = store_pack(&other, &session, &[10]);
        store_rollup(&other, &session, &pack);
        *keep.lock() = Some(session);
    });
    assert_eq!(findings(&repo), [""; 0]);
    assert!(hooked.acted());
}

#[test]
fn a_check_lets_a_snapshot_go_that_is_swept_under_it() {
    for index in ["index", "another machine's"] {
        let bench = Bench::new();
        let hooked = Hooked::on(&bench);
        let repo = bench.open_on(hooked.clone(), index).unwrap();
        let made = three(&bench, &repo);
        let other = bench.open();
        let ids: Vec<_> = made[..2].iter().map(|(id, _)| *id).collect();
        hooked.arm(When::ReadManifest, move || {
            forget_named(&other, &ids, &Default::default(), &quiet()).unwrap();
            assert!(prune(&other, &now(), &quiet()).unwrap().packs_deleted > 0);
        });
        assert_eq!(findings(&repo), [""; 0], "{index}");
        assert!(hooked.acted());
        check_readable(&repo, &made[2..]);
    }
}

#[test]
fn a_check_goes_by_what_a_backup_has_healed_meanwhile() {
    let bench = Bench::new();
    bench.write("a", &noise(1, 5000));
    let other = bench.open();
    let first = bench.backup(&other);
    let bad = where_is(&other, &first);
    assert!(bench.disk.damage(&Object::Pack(bad), |bytes| bytes[500] ^= 1));
    assert_ne!(findings(&other), [""; 0]);
    let hooked = Hooked::on(&bench);
    let repo = bench.open_on(hooked.clone(), "another machine's").unwrap();
    let source = bench.source();
    hooked.arm(When::ReadManifest, move || {
        capture::backup(&other, options(&source), &Void::default()).unwrap();
    });
    let outcome = check(&repo, ReadData::All, &quiet(), &mut |_| {}).unwrap();
    assert!(hooked.acted());
    assert_eq!(outcome.files, 0);
}

#[test]
fn a_reader_whose_index_is_behind_finds_what_a_prune_moved() {
    for compacted in [false, true] {
        let bench = Bench::new();
        let repo = bench.open();
        let made = three(&bench, &repo);
        let reader = bench.elsewhere("reader");
        forget_named(&repo, &[made[0].0], &Default::default(), &quiet()).unwrap();
        assert!(prune(&repo, &now(), &quiet()).unwrap().packs_rewritten > 0);
        if compacted {
            // Past what the reader's index has seen.
            for _ in 0..3 * crate::log::CHECKPOINT_EVERY {
                let commit = repo.locks.commit(COMMIT_WAIT).unwrap();
                repo.log.append(&commit, Record::ClockAccepted).unwrap();
            }
        }
        check_readable(&reader, &made[2..]);
        // What came after it was opened is found as well: not all chunks are in a pack that its index knows.
        bench.write("new", &noise(50, 90_000));
        let new = (bench.backup(&repo), bench.files());
        check_readable(&reader, &[new]);
    }
}

#[test]
fn a_pack_that_is_lost_is_damage_to_a_reader_and_costs_no_rebuild() {
    let bench = Bench::new();
    let repo = bench.open();
    let made = three(&bench, &repo);
    let reader = bench.elsewhere("reader");
    let generation = reader.index.generation();
    let mut packs = Vec::new();
    bench
        .disk
        .list(Area::Packs, &mut |object, _| {
            packs.push(object);
            Ok(())
        })
        .unwrap();
    packs.iter().for_each(|pack| bench.disk.delete(pack).unwrap());
    assert_eq!(read(&reader, &made[0].0).unwrap_err().kind(), Kind::Damaged);
    assert_eq!(reader.index.generation(), generation);
}

#[test]
fn a_spare_copy_takes_the_place_of_a_damaged_one_and_prune_is_done_once() {
    let Twice { bench, repo, first, made, spare, used: old } = Twice::new();
    assert!(bench.disk.damage(&Object::Pack(old), |bytes| bytes[500] ^= 1));
    assert_ne!(findings(&repo), [""; 0]);
    assert!(where_is(&repo, &first) == spare);
    check_readable(&repo, &made);
    let done = prune(&repo, &now(), &quiet()).unwrap();
    assert_eq!((done.packs_uncondemned, done.packs_deleted), (0, 1), "{done:?}");
    assert!(repo.backend.size(&Object::Pack(old)).unwrap().is_none());
    let again = prune(&repo, &now(), &quiet()).unwrap();
    assert_eq!((again.packs_uncondemned, again.packs_deleted), (0, 0), "{again:?}");
    check_sound(&repo, &made);
}

#[test]
fn a_spare_copy_stays_when_the_other_is_found_damaged_during_a_prune() {
    // It is planned to go by then; in the second case it is condemned.
    for condemned in [false, true] {
        let Twice { bench, made, spare, used: old, .. } = Twice::new();
        let hooked = Hooked::on(&bench);
        let repo = bench.open_on(hooked.clone(), "index").unwrap();
        let (other, disk) = (bench.open(), bench.disk.clone());
        let act = move || {
            assert!(disk.damage(&Object::Pack(old), |bytes| bytes[500] ^= 1));
            assert_ne!(findings(&other), [""; 0]);
        };
        match condemned {
            true => _ = prune(&repo, &now(), &beside::meanwhile("sweep", act)).unwrap(),
            false => {
                hooked.arm(When::Listed(Area::Packs), act);
                prune(&repo, &now(), &quiet()).unwrap();
                assert!(hooked.acted());
            }
        }
        assert!(repo.backend.size(&Object::Pack(spare)).unwrap().is_some(), "{condemned}");
        check_readable(&repo, &made);
        let done = prune(&repo, &now(), &quiet()).unwrap();
        assert_eq!((done.packs_uncondemned, done.packs_deleted), (0, 1), "{done:?}");
        assert!(repo.backend.size(&Object::Pack(old)).unwrap().is_none());
        check_sound(&repo, &made);
        check_sound(&bench.elsewhere("fresh"), &made);
    }
}

#[test]
fn what_a_pack_makes_up_for_moves_with_it_when_it_was_taken_back_just_before() {
    let bench = Bench::new();
    let repo = bench.open();
    bench.write("a", &noise(1, 5000));
    let first = (bench.backup(&repo), bench.files());
    let session = begin(&repo);
    let pack = store_pack(&repo, &session, &[1, 2]);
    let rollup = store_rollup(&repo, &session, &pack);
    record_pack(&repo, &session, rollup, &pack);
    bench.write("b", &noise(2, 5000));
    let used = where_is(&repo, &first.0);
    let made = [first, (bench.backup(&repo), bench.files())];
    // An earlier prune condemned it, before "b" was seen to need it; then the other copy of "a" is found damaged.
    session.commit(|session| Record::Condemned { session, packs: vec![pack.id] }).unwrap();
    session.end(Ended::Done).unwrap();
    repo.refresh(&quiet()).unwrap();
    assert!(bench.disk.damage(&Object::Pack(used), |bytes| bytes[500] ^= 1));
    assert_ne!(findings(&repo), [""; 0]);
    let done = prune(&repo, &now(), &quiet()).unwrap();
    assert!(done.packs_uncondemned == 1 && done.packs_rewritten >= 1, "{done:?}");
    check_readable(&repo, &made);
    prune(&repo, &now(), &quiet()).unwrap();
    check_sound(&repo, &made);
}

#[test]
fn a_pack_that_only_another_machine_s_index_knows_waits_for_that_machine_s_backup() {
    let bench = Bench::new();
    let repo = bench.open();
    // Given up just before it could record what it had written, roll-up and all.
    let session = begin(&repo);
    let pack = store_pack(&repo, &session, &[9]);
    store_rollup(&repo, &session, &pack);
    session.end(Ended::Failed).unwrap();
    // An index built anew takes the roll-up's word.
    let hooked = Hooked::on(&bench);
    let other = bench.open_on(hooked.clone(), "other").unwrap();
    assert!(other.index.pack_by_id(&pack.id).unwrap().unwrap().usable());
    assert!(repo.index.pack_by_id(&pack.id).unwrap().is_none());
    bench.write("a", &noise(9, 5000));
    let waiting = Arc::new(parking_lot::Mutex::new(0));
    let told = waiting.clone();
    hooked.arm(When::WriteManifest, move || {
        *told.lock() = prune(&repo, &now(), &quiet()).unwrap().packs_waiting;
    });
    let made = (bench.backup(&other), bench.files());
    assert!(hooked.acted());
    check_readable(&other, &[made]);
    assert_eq!(*waiting.lock(), 1);
}

#[test]
fn a_session_that_was_given_up_leaves_no_roll_up_of_what_it_cannot_record() {
    let bench = Bench::new();
    let hooked = Hooked::on(&bench);
    let (repo, other) = (bench.open_on(hooked.clone(), "index").unwrap(), bench.open());
    bench.write("a", &noise(1, 5000));
    hooked.arm(When::WritePack, move || {
        other.log.refresh().unwrap();
        let session = *other.log.state().sessions.keys().next().unwrap();
        let end = Record::SessionEnd { session, outcome: Ended::Failed };
        other.log.append(&other.locks.commit(COMMIT_WAIT).unwrap(), end).unwrap();
    });
    assert_eq!(bench.try_backup(&repo).unwrap_err().kind(), Kind::Refused);
    assert_eq!((bench.count(Area::Packs), bench.count(Area::Footers)), (2, 0));
    // Nobody relies on these packs then, and the next prune removes them.
    assert!(bench.elsewhere("new").index.lookup_usable(&[chunk(&repo)]).unwrap()[0].is_none());
    assert_eq!(prune(&repo, &now(), &quiet()).unwrap().packs_deleted, 2);
}

/// The chunk that a file of the first noise is.
fn chunk(repo: &Repository) -> crate::id::ChunkId {
    repo.keys.chunk_id(&content_hash(ChunkKind::Data, &noise(1, 5000)))
}
