//! Others at work between two steps of one operation: rebuilds, checks and prunes must not take that for damage.

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

type Act = Box<dyn FnOnce() + Send>;

/// A disk on which somebody else acts once, just after a call that `when` fits.
struct Hooked {
    disk: Memory,
    armed: parking_lot::Mutex<Option<(When, Act)>>,
}

#[derive(Clone, Copy, PartialEq)]
enum When {
    Listed(Area),
    ReadRollup,
    ReadManifest,
}

impl Hooked {
    fn on(bench: &Bench) -> Arc<Hooked> {
        Arc::new(Hooked { disk: bench.disk.clone(), armed: parking_lot::Mutex::new(None) })
    }

    fn arm(&self, when: When, act: impl FnOnce() + Send + 'static) {
        *self.armed.lock() = Some((when, Box::new(act)));
    }

    fn came(&self, what: When) {
        let fits = self.armed.lock().take_if(|(when, _)| *when == what);
        if let Some((_, act)) = fits {
            act();
        }
    }

    fn acted(&self) -> bool {
        self.armed.lock().is_none()
    }
}

impl Backend for Hooked {
    fn put(&self, object: &Object, bytes: &[u8]) -> Result<Put> {
        self.disk.put(object, bytes)
    }

    fn read_into(&self, object: &Object, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.disk.read_into(object, offset, buf)
    }

    fn read_all(&self, object: &Object, max: usize) -> Result<Vec<u8>> {
        let bytes = self.disk.read_all(object, max);
        match object {
            Object::Footers(_) => self.came(When::ReadRollup),
            Object::Snapshot(_) => self.came(When::ReadManifest),
            _ => {}
        }
        bytes
    }

    fn size(&self, object: &Object) -> Result<Option<u64>> {
        self.disk.size(object)
    }

    fn list(&self, area: Area, visit: &mut dyn FnMut(Object, u64) -> Result<()>) -> Result<()> {
        self.disk.list(area, visit)?;
        self.came(When::Listed(area));
        Ok(())
    }

    fn delete(&self, object: &Object) -> Result<()> {
        self.disk.delete(object)
    }

    fn sync_deletes(&self, area: Area) -> Result<()> {
        self.disk.sync_deletes(area)
    }

    fn path(&self, object: &Object) -> PathBuf {
        self.disk.path(object)
    }

    fn free_space(&self) -> Result<Option<u64>> {
        self.disk.free_space()
    }

    fn writable(&self) -> bool {
        true
    }
}

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

/// A session's pack, stored and not recorded.
fn store_pack(repo: &Repository, session: &Session, seed: u64) -> FinishedPack {
    let mut builder = PackBuilder::new(FrameKind::Data, session.id(), 1 << 22);
    let mut group = Group::default();
    let bytes = noise(seed, 5000);
    group.push(ChunkKind::Data, content_hash(ChunkKind::Data, &bytes), &bytes);
    builder.push(&seal(&repo.keys, &mut Packer::new(3).unwrap(), FrameKind::Data, group).unwrap());
    let pack = builder.finish(&repo.keys);
    repo.backend.put(&Object::Pack(pack.id), &pack.bytes).unwrap();
    pack
}

fn store_rollup(repo: &Repository, session: &Session, pack: &FinishedPack) -> u64 {
    let size = pack.bytes.len() as u64;
    let entry = RollupEntry { id: pack.id, size, sealed_footer: pack.sealed_footer.clone() };
    let number = u64::from(session.number()) << 32;
    let plain = encode_rollup(&[entry]);
    let sealed = repo.keys.seal(crate::crypto::keys::Object::Rollup, &number.to_le_bytes(), &plain);
    repo.backend.put(&Object::Footers(number), &sealed).unwrap();
    number
}

fn record_pack(repo: &Repository, session: &Session, rollup: u64, pack: &FinishedPack) {
    let (size, footer_len) = (pack.bytes.len() as u64, pack.sealed_footer.len() as u32);
    let packs = vec![PackRef { id: pack.id, size, footer_len, kind: FrameKind::Data }];
    session.packs_added(rollup, packs).unwrap();
    repo.refresh(&quiet()).unwrap();
}

fn begin(repo: &Repository) -> Session {
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
    let bench = Bench::new();
    bench.write("a", &noise(1, 400_000));
    let repo = bench.open();
    let first = bench.backup(&repo);
    let files = bench.files();
    let (new, old) = duplicate(&repo, &first);
    assert!(where_is(&repo, &first) == old);
    let at = repo.log.position();
    let other = bench.open();
    // The new copy is condemned by now; the rebuilt index has the chunks in that one.
    let act = || rebuild_from_before(&other, new, at);
    let done = prune(&repo, &now(), &beside::meanwhile("sweep", act)).unwrap();
    check_readable(&repo, &[(first, files.clone())]);
    assert_eq!(findings(&repo), [""; 0], "{done:?}");
    let fresh = bench.open_on(Arc::new(bench.disk.clone()), "fresh").unwrap();
    check_readable(&fresh, &[(first, files)]);
    assert_eq!(findings(&fresh), [""; 0]);
}

#[test]
fn a_sweep_that_another_machine_finishes_leaves_it_the_copy_that_stays() {
    let bench = Bench::new();
    bench.write("a", &noise(1, 400_000));
    let repo = bench.open();
    let first = bench.backup(&repo);
    let files = bench.files();
    let (new, old) = duplicate(&repo, &first);
    let other = bench.open_on(Arc::new(bench.disk.clone()), "other").unwrap();
    rebuild_from_before(&other, new, repo.log.position());
    other.refresh(&quiet()).unwrap();
    assert!(where_is(&other, &first) == new && where_is(&repo, &first) == old);
    // The prune is killed when it has written its intent.
    let session = begin(&repo);
    session.commit(|session| Record::Condemned { session, packs: vec![new] }).unwrap();
    session.commit(|session| Record::SweepIntent { session, packs: vec![new], snapshots: Vec::new() }).unwrap();
    session.end(Ended::Failed).unwrap();
    other.refresh(&quiet()).unwrap();
    assert_eq!(finish_intent(&other, &quiet()).unwrap().packs, 1);
    assert!(where_is(&other, &first) == old);
    check_readable(&other, &[(first, files)]);
    assert_eq!(findings(&other), [""; 0]);
}

#[test]
fn recording_strays_passes_over_no_record_of_others() {
    let bench = Bench::new();
    let hooked = Hooked::on(&bench);
    let repo = bench.open_on(hooked.clone(), "index").unwrap();
    let session = begin(&repo);
    let stray = store_pack(&repo, &session, 9);
    session.end(Ended::Failed).unwrap();
    bench.write("a", &noise(1, 100_000));
    let (files, made) = (bench.files(), Arc::new(parking_lot::Mutex::new(None)));
    let (other, theirs) = (bench.open_on(Arc::new(bench.disk.clone()), "other").unwrap(), made.clone());
    let source = bench.source();
    hooked.arm(When::ReadRollup, move || {
        *theirs.lock() = capture::backup(&other, options(&source), &Void::default()).unwrap().snapshot;
    });
    let renewed = renew_index(&repo, &quiet()).unwrap();
    assert!(hooked.acted() && renewed.adopted == 1);
    repo.refresh(&quiet()).unwrap();
    assert!(repo.index.pack_by_id(&stray.id).unwrap().unwrap().usable());
    check_readable(&repo, &[(made.lock().unwrap(), files)]);
    assert_eq!(findings(&repo), [""; 0]);
}

#[test]
fn a_rebuild_leaves_out_what_sessions_have_not_recorded_that_began_meanwhile() {
    for rolled in [false, true] {
        let bench = Bench::new();
        let other = bench.open();
        let repo = bench.open();
        let session = begin(&other);
        let pack = store_pack(&other, &session, 9);
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
    let pack = store_pack(&other, &session, 9);
    hooked.arm(When::Listed(Area::Footers), move || {
        let rollup = store_rollup(&other, &session, &pack);
        record_pack(&other, &session, rollup, &pack);
        session.end(Ended::Done).unwrap();
    });
    assert_eq!(findings(&repo), [""; 0]);
    assert!(hooked.acted());
    // A session begins and writes a pack and its roll-up when the log was read.
    let other = bench.open();
    let kept = Arc::new(parking_lot::Mutex::new(None));
    let keep = kept.clone();
    hooked.arm(When::Listed(Area::Keys), move || {
        let session = begin(&other);
        let pack = store_pack(&other, &session, 10);
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
fn a_reader_whose_index_is_behind_finds_what_a_prune_moved() {
    for compacted in [false, true] {
        let bench = Bench::new();
        let repo = bench.open();
        let made = three(&bench, &repo);
        let reader = bench.open_on(Arc::new(bench.disk.clone()), "reader").unwrap();
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
    let reader = bench.open_on(Arc::new(bench.disk.clone()), "reader").unwrap();
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
    let bench = Bench::new();
    bench.write("a", &noise(1, 400_000));
    let repo = bench.open();
    let first = bench.backup(&repo);
    let files = bench.files();
    let (spare, old) = duplicate(&repo, &first);
    assert!(bench.disk.damage(&Object::Pack(old), |bytes| bytes[500] ^= 1));
    assert_ne!(findings(&repo), [""; 0]);
    assert!(where_is(&repo, &first) == spare);
    check_readable(&repo, &[(first, files.clone())]);
    let done = prune(&repo, &now(), &quiet()).unwrap();
    assert_eq!((done.packs_uncondemned, done.packs_deleted), (0, 1), "{done:?}");
    assert!(repo.backend.size(&Object::Pack(old)).unwrap().is_none());
    let again = prune(&repo, &now(), &quiet()).unwrap();
    assert_eq!((again.packs_uncondemned, again.packs_deleted), (0, 0), "{again:?}");
    check_readable(&repo, &[(first, files)]);
    assert_eq!(findings(&repo), [""; 0]);
}

#[test]
fn a_spare_copy_stays_when_the_other_is_found_damaged_during_a_prune() {
    let bench = Bench::new();
    bench.write("a", &noise(1, 400_000));
    let repo = bench.open();
    let first = bench.backup(&repo);
    let files = bench.files();
    let (spare, old) = duplicate(&repo, &first);
    let other = bench.open();
    // The spare copy is planned to go by the time that the other is found damaged.
    let act = || {
        assert!(bench.disk.damage(&Object::Pack(old), |bytes| bytes[500] ^= 1));
        assert_ne!(findings(&other), [""; 0]);
    };
    prune(&repo, &now(), &beside::meanwhile("sweep", act)).unwrap();
    assert!(repo.backend.size(&Object::Pack(spare)).unwrap().is_some());
    prune(&repo, &now(), &quiet()).unwrap();
    let fresh = bench.open_on(Arc::new(bench.disk.clone()), "fresh").unwrap();
    check_readable(&fresh, &[(first, files)]);
}
