//! A repository in memory, real backups of a small directory, and what must hold after anything at all.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::repack::{Durable, Repacker};
use super::*;
use crate::backend::memory::Memory;
use crate::backend::{Area, Backend, Object};
use crate::capture;
use crate::clock::Clock;
use crate::compress::Packer;
use crate::crypto::hash::{ChunkKind, content_hash};
use crate::crypto::keys::FrameKind;
use crate::crypto::slot::{Argon2Cost, RecoveryCode};
use crate::forget::{self, forget_named, unforget};
use crate::format::record::Record;
use crate::format::tree::Content;
use crate::id::PackId;
use crate::keyslots::{NewSlots, Secret};
use crate::lock::Locks;
use crate::monitor::{Recording, Void};
use crate::open::{Access, Init, Place, Sealed, init_in};
use crate::pack::build::seal;
use crate::pack::source::FrameSource;
use crate::snapshots::manifest;
use crate::tree::{dir, file};

mod beside;
mod between;

mod faults;
mod forgetting;
mod hooked;
mod model;
mod sectors;
mod space;

/// Files of a snapshot: paths and contents.
type Files = BTreeMap<PathBuf, Vec<u8>>;

pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);

/// A repository on a disk in memory, and a directory to back up.
pub(super) struct Bench {
    disk: Memory,
    locks: Locks,
    code: String,
    dir: tempfile::TempDir,
    clock: Clock,
}

impl Bench {
    pub(super) fn new() -> Bench {
        let disk = Memory::new();
        let slots = NewSlots { passphrase: None, cost: Argon2Cost::DEFAULT, recipients: &[], recovery_code: true };
        let init = Init { pack_size: crate::limits::PACK_SIZE_MIN as u32, ..Init::new(slots) };
        let (_, code) = init_in(Arc::new(disk.clone()), &init).unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("source/sub")).unwrap();
        let code = code.unwrap().to_text().to_string();
        Bench { disk, locks: Locks::memory(), code, dir, clock: Clock::manual(Time::now(), true) }
    }

    /// The same repository on a copy of the disk, as after a power loss: nobody holds a lock.
    pub(super) fn copy(&self) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        Bench {
            disk: self.disk.snapshot(),
            locks: Locks::memory(),
            code: self.code.clone(),
            dir,
            clock: Clock::manual(self.clock.now(), true),
        }
    }

    pub(super) fn open(&self) -> Repository {
        self.elsewhere("index")
    }

    /// Opens it as another machine would, with an index of its own.
    pub(super) fn elsewhere(&self, index: &str) -> Repository {
        self.open_on(Arc::new(self.disk.clone()), index).unwrap()
    }

    /// As [`Bench::elsewhere`], on another disk than the bench's own, or one that refuses.
    pub(super) fn open_on(&self, backend: Arc<dyn Backend>, index: &str) -> Result<Repository> {
        let root = self.dir.path().to_owned();
        let place = Place { index_dir: Some(root.join(index)), cache: root.join("cache"), root };
        let sealed = Sealed::from_backend(backend, self.locks.clone(), place, Access::Write)?;
        let code = RecoveryCode::parse(&self.code)?;
        let mut repo = sealed.unlock(&Secret::RecoveryCode(code), &Void::default())?;
        repo.root = None;
        repo.clock = self.clock.clone();
        Ok(repo)
    }

    pub(super) fn pass(&self, time: Duration) {
        self.clock.set(self.clock.now().plus(time));
    }

    pub(super) fn source(&self) -> PathBuf {
        self.dir.path().join("source")
    }

    pub(super) fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.source().join(name), bytes).unwrap();
    }

    pub(super) fn remove(&self, name: &str) {
        fs::remove_file(self.source().join(name)).unwrap();
    }

    pub(super) fn backup(&self, repo: &Repository) -> SnapshotId {
        self.try_backup(repo).unwrap()
    }

    pub(super) fn try_backup(&self, repo: &Repository) -> Result<SnapshotId> {
        self.pass(Duration::from_secs(1));
        capture::backup(repo, options(&self.source()), &Void::default()).map(|done| done.snapshot.unwrap())
    }

    /// What the source holds now.
    pub(super) fn files(&self) -> Files {
        let mut files = Files::new();
        for entry in fs::read_dir(self.source()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                files.insert(PathBuf::from(path.file_name().unwrap()), fs::read(&path).unwrap());
            }
        }
        files
    }

    /// Bytes of all packs on the disk.
    pub(super) fn stored(&self) -> u64 {
        let mut sum = 0;
        self.disk
            .list(Area::Packs, &mut |_, size| {
                sum += size;
                Ok(())
            })
            .unwrap();
        sum
    }

    pub(super) fn count(&self, area: Area) -> usize {
        let mut n = 0;
        self.disk
            .list(area, &mut |_, _| {
                n += 1;
                Ok(())
            })
            .unwrap();
        n
    }
}

/// Bytes that neither compress nor repeat.
pub(super) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

fn options(source: &Path) -> capture::Options {
    capture::Options {
        source: Some("data".into()),
        read_concurrency: Some(1),
        ..capture::Options::new(vec![source.to_owned()], "web1")
    }
}

/// Reads all files of a snapshot, by their names alone.
pub(super) fn read(repo: &Repository, id: &SnapshotId) -> Result<Files> {
    let store = repo.store();
    let root = manifest(repo, id)?.root;
    let mut files = Files::new();
    let mut dirs = vec![root];
    while let Some(entry) = dirs.pop() {
        let Content::Dir(listing) = &entry.content else { continue };
        for entry in dir::entries(store.as_ref(), listing, 0) {
            let entry = entry?;
            match &entry.content {
                Content::Dir(_) => dirs.push(entry),
                _ => _ = files.insert(name_of(&entry.name), bytes_of(store.as_ref(), &entry.content, entry.size)?),
            }
        }
    }
    Ok(files)
}

fn name_of(name: &[u8]) -> PathBuf {
    PathBuf::from(String::from_utf8(name.to_vec()).unwrap())
}

fn bytes_of(store: &dyn FrameSource, content: &Content, size: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; size as usize];
    assert_eq!(file::read_at(store, content, 0, &mut bytes)?, bytes.len());
    Ok(bytes)
}

pub(super) fn quiet() -> Void {
    Void::default()
}

pub(super) fn now() -> Options {
    Options { release_held: true, max_unused: MaxUnused::Percent(0.0), ..Options::default() }
}

/// Three snapshots: the first has what no other has, packs that are shared in part, and small and large files.
pub(super) fn three(bench: &Bench, repo: &Repository) -> Vec<(SnapshotId, Files)> {
    let mut made = Vec::new();
    bench.write("only-first", &noise(1, 700_000));
    bench.write("shared", &noise(2, 300_000));
    (0..20u64).for_each(|i| bench.write(&format!("small-{i}"), &noise(100 + i, 3000)));
    made.push((bench.backup(repo), bench.files()));
    bench.remove("only-first");
    (0..15u64).for_each(|i| bench.remove(&format!("small-{i}")));
    bench.write("second", &noise(3, 200_000));
    made.push((bench.backup(repo), bench.files()));
    bench.write("third", &noise(4, 200_000));
    made.push((bench.backup(repo), bench.files()));
    made
}

pub(super) fn check_readable(repo: &Repository, snapshots: &[(SnapshotId, Files)]) {
    for (id, files) in snapshots {
        assert!(read(repo, id).unwrap() == *files, "snapshot {}", id.short());
    }
}

#[test]
fn space_comes_back_after_the_hold_and_not_before() {
    let bench = Bench::new();
    let repo = bench.open();
    let made = three(&bench, &repo);
    let before = bench.stored();
    forget_named(&repo, &[made[0].0], &forget::Options::default(), &quiet()).unwrap();
    let options = Options { max_unused: MaxUnused::Percent(0.0), ..Options::default() };
    let done = prune(&repo, &options, &quiet()).unwrap();
    assert_eq!((done.packs_deleted, done.packs_rewritten, done.freed()), (0, 0, 0));
    assert_eq!(done.later.len(), 1);
    assert_eq!(done.later[0].0, bench.clock.now().plus(forget::HOLD));
    assert!((700_000..900_000).contains(&done.later[0].1), "{done:?}");
    check_readable(&repo, &made);

    bench.pass(4 * DAY);
    let done = prune(&repo, &options, &quiet()).unwrap();
    assert_eq!(done.snapshots_removed, [made[0].0]);
    assert!(done.packs_rewritten > 0 && done.waiting.is_none() && done.later.is_empty(), "{done:?}");
    assert_eq!(before - bench.stored(), done.freed());
    assert!(done.freed() > 700_000, "{done:?}");
    check_readable(&repo, &made[1..]);
    assert_eq!(bench.count(Area::Snapshots), 2);

    // A second one finds nothing to do, and a new index says the same.
    let again = prune(&repo, &options, &quiet()).unwrap();
    assert_eq!((again.packs_deleted, again.packs_rewritten), (0, 0), "{again:?}");
    let repo = bench.elsewhere("another index");
    check_readable(&repo, &made[1..]);
    assert!(repo.log.state().condemned.is_empty() && repo.log.state().sessions.is_empty());
}

#[test]
fn everything_goes_when_nothing_is_kept() {
    let bench = Bench::new();
    let repo = bench.open();
    let made = three(&bench, &repo);
    let ids: Vec<_> = made.iter().map(|(id, _)| *id).collect();
    forget_named(&repo, &ids, &forget::Options::default(), &quiet()).unwrap();
    let foreseen = prune(&repo, &Options { dry_run: true, ..now() }, &quiet()).unwrap();
    assert_eq!(bench.count(Area::Snapshots), 3);
    let done = prune(&repo, &now(), &quiet()).unwrap();
    assert_eq!(foreseen.bytes_deleted, done.bytes_deleted);
    let mut removed = done.snapshots_removed;
    removed.sort();
    assert_eq!(removed, foreseen.snapshots_removed);
    assert_eq!((bench.stored(), bench.count(Area::Snapshots), bench.count(Area::Footers)), (0, 0, 0));
    let id = bench.backup(&repo);
    check_readable(&bench.open(), &[(id, bench.files())]);
}

#[test]
fn a_dry_run_foresees_what_is_done() {
    let bench = Bench::new();
    let repo = bench.open();
    let made = three(&bench, &repo);
    let suppose = Options { dry_run: true, suppose_forgotten: vec![made[0].0], ..now() };
    let foreseen = prune(&repo, &suppose, &quiet()).unwrap();
    assert!(repo.log.state().snapshots[&made[0].0].forgotten.is_none());
    forget_named(&repo, &[made[0].0], &forget::Options::default(), &quiet()).unwrap();
    let again = prune(&repo, &Options { dry_run: true, ..now() }, &quiet()).unwrap();
    let before = bench.stored();
    let done = prune(&repo, &now(), &quiet()).unwrap();
    assert_eq!(foreseen.bytes_deleted, again.bytes_deleted);
    assert_eq!((done.packs_rewritten, done.bytes_deleted), (again.packs_rewritten, again.bytes_deleted));
    assert_eq!(done.bytes_before, before);
    let off = done.freed().abs_diff(again.freed());
    assert!(off < 20_000, "{again:?} {done:?}");
}

#[test]
fn frames_of_which_most_is_needed_move_whole_and_rest_is_left() {
    let bench = Bench::new();
    let repo = bench.open();
    let made = three(&bench, &repo);
    forget_named(&repo, &[made[0].0], &forget::Options::default(), &quiet()).unwrap();
    // Half of it may stay unused: nothing is rewritten, as the first snapshot alone is less than the rest.
    let lax = Options { release_held: true, max_unused: MaxUnused::Unlimited, ..Options::default() };
    let done = prune(&repo, &lax, &quiet()).unwrap();
    assert_eq!(done.packs_rewritten, 0);
    assert!(done.bytes_unused > 700_000);
    check_readable(&repo, &made[1..]);
    let done = prune(&repo, &Options { max_unused: MaxUnused::Percent(5.0), ..lax }, &quiet()).unwrap();
    assert!(done.packs_rewritten > 0 && done.freed() > 650_000, "{done:?}");
    check_readable(&repo, &made[1..]);
}

#[test]
fn a_snapshot_that_cannot_be_read_stops_everything() {
    let bench = Bench::new();
    let repo = bench.open();
    let made = three(&bench, &repo);
    forget_named(&repo, &[made[0].0], &forget::Options::default(), &quiet()).unwrap();
    assert!(bench.disk.damage(&Object::Snapshot(made[1].0), |bytes| bytes[40] ^= 1));
    let before = bench.stored();
    let e = prune(&repo, &now(), &quiet()).unwrap_err();
    assert_eq!(e.kind(), Kind::Damaged);
    assert!(e.to_string().contains(&made[1].0.short().to_string()), "{e}");
    assert_eq!((bench.stored(), bench.count(Area::Snapshots)), (before, 3));
    assert!(repo.log.state().sessions.is_empty());
}

#[test]
fn a_pack_stays_whose_chunks_are_nowhere_else() {
    let Twice { bench, repo, spare: good, used: bad, .. } = Twice::new();
    // The index has the chunks in `bad`'s place; that file is lost, and nobody has noticed.
    repo.backend.delete(&Object::Pack(bad)).unwrap();
    let repo = bench.open();
    let monitor = Recording::default();
    let done = prune(&repo, &now(), &monitor).unwrap();
    assert_eq!(done.packs_uncondemned, 1, "{done:?}");
    assert!(repo.backend.size(&Object::Pack(good)).unwrap().is_some());
    assert!(monitor.lines().iter().any(|line| line.contains("a pack is kept")), "{:?}", monitor.lines());
    assert!(repo.log.state().condemned.is_empty() && repo.log.state().sweep.is_none());
}

#[test]
fn packs_that_were_never_recorded_are_freed() {
    let bench = Bench::new();
    let repo = bench.open();
    let made = three(&bench, &repo);
    // A session that fails before it records what it stored, and one that still works.
    let session = Session::begin(Arc::clone(&repo.log), repo.locks.clone(), "backup", None).unwrap();
    let living = Session::begin(Arc::clone(&repo.log), repo.locks.clone(), "backup", None).unwrap();
    let (mut stored, mut others) = (Vec::new(), Vec::new());
    for (of, ids) in [(&session, &mut stored), (&living, &mut others)] {
        let mut builder = crate::pack::build::PackBuilder::new(FrameKind::Data, of.id(), 1 << 22);
        let mut group = crate::pack::build::Group::default();
        let bytes = noise(9, 5000);
        group.push(ChunkKind::Data, content_hash(ChunkKind::Data, &bytes), &bytes);
        builder.push(&seal(&repo.keys, &mut Packer::new(3).unwrap(), FrameKind::Data, group).unwrap()).unwrap();
        let pack = builder.finish(&repo.keys).unwrap();
        repo.backend.put_grown(&Object::Pack(pack.id), pack.body).unwrap();
        ids.push(pack.id);
    }
    session.end(Ended::Failed).unwrap();
    let foreseen = prune(&repo, &Options { dry_run: true, ..now() }, &quiet()).unwrap();
    let done = prune(&repo, &now(), &quiet()).unwrap();
    // Who works by an index that was built anew might rely on it.
    assert_eq!((foreseen.packs_deleted, done.packs_deleted, done.packs_waiting), (1, 0, 1));
    assert!(done.bytes_waiting > 5000 && done.waiting.is_some(), "{done:?}");
    drop(living);
    assert_eq!(prune(&repo, &now(), &quiet()).unwrap().packs_deleted, 1);
    assert!(repo.backend.size(&Object::Pack(stored[0])).unwrap().is_none());
    assert!(repo.backend.size(&Object::Pack(others[0])).unwrap().is_some());
    check_readable(&repo, &made);
}

/// A snapshot whose bytes are stored twice, as by two sessions that did not see each other's.
struct Twice {
    bench: Bench,
    repo: Repository,
    first: SnapshotId,
    made: Vec<(SnapshotId, Files)>,
    /// The copy that the index does not go by.
    spare: PackId,
    /// The one it does.
    used: PackId,
}

impl Twice {
    fn new() -> Twice {
        let bench = Bench::new();
        bench.write("a", &noise(1, 400_000));
        let repo = bench.open();
        let first = bench.backup(&repo);
        let (spare, used) = duplicate(&repo, &first);
        let made = vec![(first, bench.files())];
        Twice { bench, repo, first, made, spare, used }
    }
}

/// Stores the data pack of a snapshot a second time; returns the new pack, and the one that the index goes by.
fn duplicate(repo: &Repository, id: &SnapshotId) -> (PackId, PackId) {
    let monitor = Void::default();
    let mut marks = Marker::new(repo, &monitor);
    marks.snapshot(id).unwrap();
    let mut data = None;
    repo.index
        .packs(&mut |info| {
            if info.kind == FrameKind::Data {
                data = Some(*info);
            }
            Ok(())
        })
        .unwrap();
    let info = data.unwrap();
    let session = Session::begin(Arc::clone(&repo.log), repo.locks.clone(), "test", None).unwrap();
    let mut repacker = Repacker::new(repo, &session, 0).unwrap();
    repacker.pack(&info, marks.of(&info.id).unwrap(), plan::Tolerance::default()).unwrap();
    repacker.close().unwrap();
    let (durable, _) = repacker.into_durable();
    let new = durable[0].packs[0].id;
    for Durable { rollup, packs } in durable {
        session.packs_added(rollup, packs).unwrap();
    }
    repo.refresh(&Void::default()).unwrap();
    session.end(Ended::Done).unwrap();
    (new, info.id)
}

#[test]
fn another_machine_s_index_finds_the_copy_that_stayed() {
    let Twice { bench, repo, first, made, spare: new, used: old } = Twice::new();
    // Its index goes by the new copy.
    let other = bench.elsewhere("other");
    between::rebuild_from_before(&other, new, repo.log.position());
    other.refresh(&quiet()).unwrap();
    assert!(where_is(&other, &first) == new && where_is(&repo, &first) == old);
    let done = prune(&repo, &now(), &quiet()).unwrap();
    assert_eq!(done.packs_deleted, 1);
    assert!(repo.backend.size(&Object::Pack(new)).unwrap().is_none());
    other.refresh(&quiet()).unwrap();
    assert!(where_is(&other, &first) == old);
    check_readable(&other, &made);
}

/// The pack that a snapshot's file lies in, by this index.
fn where_is(repo: &Repository, id: &SnapshotId) -> PackId {
    let monitor = Void::default();
    let mut marks = Marker::new(repo, &monitor);
    marks.snapshot(id).unwrap();
    let mut found = None;
    repo.index
        .packs(&mut |info| {
            let marked = marks.of(&info.id).is_some_and(|bits| bits.count > 0);
            if info.kind == FrameKind::Data && marked {
                found = Some(info.id);
            }
            Ok(())
        })
        .unwrap();
    found.unwrap()
}

#[test]
fn small_packs_of_many_backups_are_joined_once_they_fill_one() {
    let bench = Bench::new();
    let repo = bench.open();
    let mut made = Vec::new();
    let usual = Options::default();
    for i in 0..10u64 {
        bench.write(&format!("file-{i}"), &noise(i, 600_000));
        made.push((bench.backup(&repo), bench.files()));
        if i == 4 {
            // Not enough yet.
            assert_eq!(prune(&repo, &usual, &quiet()).unwrap().packs_rewritten, 0);
        }
    }
    let before = bench.count(Area::Packs);
    let lax = Options { max_unused: MaxUnused::Unlimited, ..Options::default() };
    assert_eq!(prune(&repo, &lax, &quiet()).unwrap().packs_rewritten, 0);
    let done = prune(&repo, &usual, &quiet()).unwrap();
    assert_eq!((done.packs_rewritten, done.bytes_unused), (10, 0), "{done:?}");
    assert_eq!(bench.count(Area::Packs), before - 10 + 2);
    // What did not fill a pack is left.
    assert_eq!(prune(&repo, &usual, &quiet()).unwrap().packs_rewritten, 0);
    check_readable(&repo, &made);
    check_readable(&bench.elsewhere("fresh"), &made);
}
