//! The index as its users see it, across processes and rebuilds.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use super::*;
use crate::id::{LogHash, SnapshotId};
use crate::log::Position;

pub(super) const WHO: IndexIdentity = IndexIdentity { repo: RepoId([7; 32]) };

pub(super) fn at(seq: u64) -> Position {
    Position { seq, hash: LogHash([seq as u8; 32]) }
}

pub(super) fn chunk(n: u64) -> ChunkId {
    ChunkId(*blake3::hash(&n.to_le_bytes()).as_bytes())
}

pub(super) fn pack_id(n: u64) -> PackId {
    PackId(*blake3::hash(&[&b"pack"[..], &n.to_le_bytes()].concat()).as_bytes())
}

pub(super) fn new_pack(n: u64, chunks: impl IntoIterator<Item = u64>) -> NewPack {
    let chunks = chunks.into_iter().enumerate().map(|(i, c)| (chunk(c), i as u32, (i % 4096) as u16)).collect();
    NewPack { id: pack_id(n), kind: FrameKind::Data, size: 1000 + n, sealed_footer: vec![n as u8; 100], chunks }
}

pub(super) fn ready(dir: &Path) -> Index {
    match Index::open(dir, &WHO).unwrap() {
        Opened::Ready(index) => index,
        other => panic!("{other:?}"),
    }
}

pub(super) fn pack_of(index: &Index, n: u64) -> Option<PackId> {
    let at = index.lookup(&chunk(n)).unwrap()?;
    Some(index.pack(at.pack).unwrap().unwrap().id)
}

#[test]
fn keeps_what_was_entered() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("index");
    assert!(matches!(Index::open(&dir, &WHO).unwrap(), Opened::Missing));
    let index = Index::create(&dir, &WHO).unwrap();
    assert_eq!(index.position().unwrap(), None);
    assert!(index.add_packs(&[new_pack(1, 0..100), new_pack(2, 50..150)], at(3)).unwrap());
    let snapshot = SnapshotId::random();
    index.put_summary(&snapshot, b"sealed").unwrap();
    drop(index);

    let index = ready(&dir);
    assert_eq!(index.position().unwrap(), Some(at(3)));
    assert_eq!(index.counts().unwrap(), (150, 2));
    assert_eq!(pack_of(&index, 60), Some(pack_id(1)));
    assert_eq!(pack_of(&index, 120), Some(pack_id(2)));
    assert_eq!(index.lookup(&chunk(7)).unwrap(), Some(Location { pack: PackNo(0), frame: 7, slot: 7 }));
    let info = index.pack_by_id(&pack_id(2)).unwrap().unwrap();
    assert_eq!((info.size, info.footer_len, info.kind), (1002, 100, FrameKind::Data));
    assert_eq!(index.footer(info.no).unwrap(), Some(vec![2; 100]));
    assert_eq!(index.summary(&snapshot).unwrap(), Some(b"sealed".to_vec()));
    assert!(!index.is_buried(&snapshot).unwrap());
    index.bury(&[snapshot]).unwrap();
    assert!(index.is_buried(&snapshot).unwrap());
    assert_eq!(index.summary(&snapshot).unwrap(), None);
    let asked: Vec<ChunkId> = [149, 200, 0, 149].map(chunk).to_vec();
    let found = index.lookup_many(&asked).unwrap();
    assert_eq!(found.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true, true]);
    let mut seen = Vec::new();
    index
        .packs(&mut |p| {
            seen.push(p.id);
            Ok(())
        })
        .unwrap();
    assert_eq!(seen, [pack_id(1), pack_id(2)]);
}

#[test]
fn a_chunk_leaves_its_pack_only_if_that_is_bad() {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::create(dir.path(), &WHO).unwrap();
    index.add_packs(&[new_pack(1, 0..3)], at(1)).unwrap();
    index.add_packs(&[new_pack(2, 0..3)], at(2)).unwrap();
    assert_eq!(pack_of(&index, 1), Some(pack_id(1)));
    let damaged = Flags { damaged: Some(true), ..Flags::default() };
    index.set_flags(&[pack_id(1), pack_id(99)], damaged, at(3)).unwrap();
    assert_eq!(index.lookup_usable(&[chunk(0)]).unwrap(), [None]);
    assert!(index.lookup(&chunk(0)).unwrap().is_some());
    index.add_packs(&[new_pack(3, 0..2)], at(4)).unwrap();
    assert_eq!(pack_of(&index, 1), Some(pack_id(3)));
    assert_eq!(pack_of(&index, 2), Some(pack_id(1)));
    index.set_flags(&[pack_id(1)], Flags { damaged: Some(false), ..Flags::default() }, at(5)).unwrap();
    assert!(index.lookup_usable(&[chunk(2)]).unwrap()[0].is_some());
}

#[test]
fn removed_packs_take_only_what_lies_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::create(dir.path(), &WHO).unwrap();
    index.add_packs(&[new_pack(1, 0..10), new_pack(2, 5..15)], at(1)).unwrap();
    let moved: HashMap<ChunkId, Place> =
        (5..10).map(|n| (chunk(n), Place { pack: pack_id(2), frame: n as u32 - 5, slot: 1 })).collect();
    index.remove_packs(&[pack_id(1)], at(2), &moved).unwrap();
    assert_eq!(index.counts().unwrap(), (10, 1));
    assert_eq!(pack_of(&index, 4), None);
    assert_eq!(index.lookup(&chunk(6)).unwrap().unwrap(), Location { pack: PackNo(1), frame: 1, slot: 1 });
    assert_eq!(index.pack_by_id(&pack_id(1)).unwrap(), None);
    assert_eq!(index.footer(PackNo(0)).unwrap(), None);
    // A number is not used again, so nothing old can point into a new pack.
    index.add_packs(&[new_pack(4, [])], at(3)).unwrap();
    assert_eq!(index.pack_by_id(&pack_id(4)).unwrap().unwrap().no, PackNo(2));
    // A record that another process has applied long ago changes nothing.
    assert!(!index.add_packs(&[new_pack(1, 0..10)], at(1)).unwrap());
    assert_eq!(index.counts().unwrap(), (10, 2));
}

/// Rebuilds the index the first time it is asked, so that every pack gets another number.
struct Meddler<'a>(&'a Path, std::cell::Cell<bool>);

impl Reassign for Meddler<'_> {
    fn chunks(&self, _: &PackId) -> Result<Option<Vec<ChunkId>>> {
        if !self.1.replace(true) {
            let mut builder = Builder::new(self.0, &WHO).unwrap();
            builder.push(new_pack(2, 10..20), Flags::default()).unwrap();
            builder.push(new_pack(1, 0..10), Flags::default()).unwrap();
            builder.finish(Some(at(1))).unwrap();
        }
        Ok(None)
    }

    fn place(&self, _: &ChunkId) -> Option<Place> {
        None
    }
}

#[test]
fn a_rebuild_in_the_middle_of_a_removal_harms_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::create(dir.path(), &WHO).unwrap();
    index.add_packs(&[new_pack(1, 0..10), new_pack(2, 10..20)], at(1)).unwrap();
    assert!(index.remove_packs(&[pack_id(1)], at(2), &Meddler(dir.path(), false.into())).unwrap());
    assert_eq!(index.counts().unwrap(), (10, 1));
    let (_, pack) = index.find(&chunk(15)).unwrap().unwrap();
    assert_eq!(pack.id, pack_id(2));
    assert_eq!(index.find(&chunk(5)).unwrap(), None);
}

#[test]
fn the_filter_only_spares_questions() {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::create(dir.path(), &WHO).unwrap();
    index.add_packs(&[new_pack(1, 0..1000)], at(1)).unwrap();
    index.load_filter(1000, 1 << 20).unwrap();
    index.add_packs(&[new_pack(2, 1000..2000)], at(2)).unwrap();
    let asked: Vec<ChunkId> = (0..3000).map(chunk).collect();
    let found = index.lookup_usable(&asked).unwrap();
    assert!(found.iter().enumerate().all(|(i, f)| f.is_some() == (i < 2000)));
}

#[test]
fn the_map_grows_when_it_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::create(dir.path(), &WHO).unwrap();
    for n in 0..6 {
        let pack = NewPack { sealed_footer: vec![1; 60 << 20], ..new_pack(n, [n]) };
        index.add_packs(&[pack], at(n)).unwrap();
    }
    drop(index);
    let index = ready(dir.path());
    assert_eq!(index.counts().unwrap(), (6, 6));
    assert_eq!(index.footer(PackNo(5)).unwrap().unwrap().len(), 60 << 20);
}

#[test]
fn a_rebuild_does_not_disturb_who_has_the_old_one_open() {
    let dir = tempfile::tempdir().unwrap();
    let reader = Index::create(dir.path(), &WHO).unwrap();
    reader.add_packs(&[new_pack(1, 0..10)], at(1)).unwrap();
    let mut builder = Builder::new(dir.path(), &WHO).unwrap();
    let bad = Flags { damaged: Some(true), ..Flags::default() };
    builder.push(new_pack(5, 0..20), bad).unwrap();
    builder.push(new_pack(6, 10..30), Flags::default()).unwrap();
    builder.push(new_pack(6, 10..40), Flags::default()).unwrap();
    let built = builder.finish(Some(at(9))).unwrap();
    assert_eq!(built.counts().unwrap(), (30, 2));
    assert_eq!(pack_of(&built, 5), Some(pack_id(5)));
    assert_eq!(pack_of(&built, 15), Some(pack_id(6)), "the sound copy is preferred");

    assert_eq!(pack_of(&reader, 5), Some(pack_id(1)));
    assert!(reader.refresh().unwrap());
    assert_eq!(pack_of(&reader, 5), Some(pack_id(5)));
    assert!(!reader.refresh().unwrap());

    // A writer that did not refresh writes to the new one, but leaves no gap in it: what the old one had and the new one
    // lacks must come first.
    let late = ready(dir.path());
    let newest = Index::create(dir.path(), &WHO).unwrap();
    let e = late.add_packs(&[new_pack(8, 70..80)], at(10)).unwrap_err();
    assert_eq!(e.kind(), crate::error::Kind::Locked);
    assert_eq!((newest.counts().unwrap(), newest.position().unwrap()), ((0, 0), None));
    assert_eq!(pack_of(&late, 5), Some(pack_id(5)), "it still reads the old one");
    newest.set_position(at(9)).unwrap();
    late.add_packs(&[new_pack(8, 70..80)], at(10)).unwrap();
    assert_eq!(newest.counts().unwrap(), (10, 1));
    drop((late, reader, newest, built));
    drop(ready(dir.path()));
    let room = guard::Room::new(dir.path());
    assert_eq!(room.generations().unwrap().len(), 1, "old generations are swept");
}

#[test]
fn an_abandoned_rebuild_leaves_the_index_alone() {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::create(dir.path(), &WHO).unwrap();
    index.add_packs(&[new_pack(1, 0..10)], at(1)).unwrap();
    let mut builder = Builder::new(dir.path(), &WHO).unwrap();
    builder.push(new_pack(5, 0..20), Flags::default()).unwrap();
    drop(builder);
    assert_eq!(guard::Room::new(dir.path()).generations().unwrap().len(), 1);
    assert_eq!(ready(dir.path()).counts().unwrap(), (10, 1));
}

#[test]
fn another_repositorys_index_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(Index::create(dir.path(), &WHO).unwrap());
    let other = IndexIdentity { repo: RepoId([8; 32]) };
    assert!(matches!(Index::open(dir.path(), &other).unwrap(), Opened::Unusable(_)));
}

/// What a process other than this one does in a test: this test binary again, told by a variable what to be.
#[test]
fn helper_process() {
    let Ok(role) = std::env::var("INDEX_TEST_ROLE") else { return };
    let dir = PathBuf::from(std::env::var_os("INDEX_TEST_DIR").unwrap());
    match role.as_str() {
        "write" => {
            let index = ready(&dir);
            let from = index.position().unwrap().map_or(0, |p| p.seq + 1);
            for n in from.. {
                index.add_packs(&[new_pack(n, n * 500..(n + 1) * 500)], at(n)).unwrap();
            }
        }
        "write-some" => {
            let own = u64::from(std::process::id()) << 20;
            for n in 0..20 {
                let chunks = [own + n];
                let pack = NewPack { id: PackId::random(), ..new_pack(0, chunks) };
                ready(&dir).add_packs(&[pack], at(1)).unwrap();
            }
        }
        "fill" => {
            let index = Index::create(&dir.join("index"), &WHO).unwrap();
            let fails = (0..).find_map(|n| index.add_packs(&[new_pack(n, n * 900..(n + 1) * 900)], at(n)).err());
            let fails = fails.unwrap();
            assert_eq!(fails.kind(), Kind::NoSpace, "{fails}");
            drop(index);
            let index = ready(&dir.join("index"));
            let packs = index.position().unwrap().unwrap().seq + 1;
            assert_eq!(index.counts().unwrap(), (packs * 900, packs));
            let rebuilt = Builder::new(&dir.join("index"), &WHO).and_then(|mut builder| {
                (0..200).try_for_each(|n| builder.push(new_pack(n, n * 900..(n + 1) * 900), Flags::default()))?;
                builder.finish(None)
            });
            assert_eq!(rebuilt.unwrap_err().kind(), Kind::NoSpace);
            drop(index);
            assert_eq!(ready(&dir.join("index")).counts().unwrap(), (packs * 900, packs));
        }
        "look" => {
            // Whatever the bytes are: an answer, an error or a signal, but no panic.
            if let Ok(Opened::Ready(index)) = Index::open(&dir, &WHO) {
                let _ = index.chunks(&mut |_, _| Ok(()));
                let _ = index.packs(&mut |_| Ok(()));
                let _ = (0..2000).try_for_each(|n| index.lookup(&chunk(n)).map(drop));
            }
        }
        "read-only" => match Index::open(&dir, &WHO).unwrap() {
            Opened::Ready(index) => {
                assert!(!index.writable());
                assert_eq!(pack_of(&index, 5), Some(pack_id(1)));
                assert_eq!(index.add_packs(&[], at(2)).unwrap_err().kind(), Kind::ReadOnly);
            }
            other => panic!("{other:?}"),
        },
        other => panic!("no role {other}"),
    }
}

pub(super) fn helper(role: &str, dir: &Path) -> Child {
    command(role, dir).spawn().unwrap()
}

fn command(role: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "index::tests::helper_process", "--nocapture"]);
    command.env("INDEX_TEST_ROLE", role).env("INDEX_TEST_DIR", dir);
    command.stdout(Stdio::null()).stderr(Stdio::inherit());
    command
}

#[test]
fn a_writer_killed_at_any_moment_leaves_a_sound_index() {
    let dir = tempfile::tempdir().unwrap();
    drop(Index::create(dir.path(), &WHO).unwrap());
    let mut done = 0;
    for round in 0..12 {
        let mut child = helper("write", dir.path());
        std::thread::sleep(std::time::Duration::from_millis(60 + round * 13));
        // A reader that opens while the writer lives.
        let reader = ready(dir.path());
        reader.counts().unwrap();
        if round % 2 == 0 {
            drop(reader);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let index = ready(dir.path());
        let packs = index.position().unwrap().map_or(0, |p| p.seq + 1);
        assert_eq!(index.counts().unwrap(), (packs * 500, packs), "every transaction whole or not at all");
        assert!(packs >= done);
        done = packs;
    }
    assert!(done > 12, "only {done} transactions were tried");
    // The next start of the machine trusts it as well: opening has stamped what the dead writer left.
    let state::Found::State(state) = state::State::read(&dir.path().join("state")).unwrap() else { panic!() };
    assert_eq!(state.status, state::Status::Clean);
}

#[test]
fn several_processes_and_threads_write_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::create(dir.path(), &WHO).unwrap();
    let children: Vec<Child> = (0..3).map(|_| helper("write-some", dir.path())).collect();
    std::thread::scope(|scope| {
        for t in 0..3 {
            let index = &index;
            scope.spawn(move || {
                for n in 0..20 {
                    let pack = NewPack { id: PackId::random(), ..new_pack(0, [t * 100 + n]) };
                    index.add_packs(&[pack], at(1)).unwrap();
                    assert!(index.lookup(&chunk(t * 100 + n)).unwrap().is_some());
                }
            });
        }
    });
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(index.counts().unwrap(), (120, 120));
}

/// Sets the modes of a tree.
fn chmod(dir: &Path, dirs: u32, files: u32) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            chmod(&path, dirs, files);
        } else {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(files)).unwrap();
        }
    }
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(dirs)).unwrap();
}

#[test]
fn opens_for_reading_where_it_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let index_dir = dir.path().join("index");
    drop(Index::create(&index_dir, &WHO).unwrap());
    // A stamp covers the mode too (ctime), so the modes are set first and the index is written by way of them.
    chmod(dir.path(), 0o755, 0o644);
    let state = guard::Room::new(&index_dir);
    let generation = state.generations().unwrap()[0];
    state.install(generation, WHO.repo).unwrap();
    let index = ready(&index_dir);
    index.add_packs(&[new_pack(1, 0..10)], at(1)).unwrap();
    drop(index);
    std::fs::set_permissions(state.state(), std::fs::Permissions::from_mode(0o444)).unwrap();
    if is_root() {
        // Another user, who may only read, beside a process that has it open for writing.
        let writer = ready(&index_dir);
        let mut other = command("read-only", &index_dir);
        if let Ok(mut other) = std::os::unix::process::CommandExt::uid(&mut other, 65534).spawn() {
            (2..20).for_each(|n| _ = writer.set_position(at(n)).unwrap());
            assert!(other.wait().unwrap().success());
        }
        drop(writer);
        // Root writes anywhere but on a read-only filesystem.
        in_namespace("mount --bind $1 $1 && mount -o remount,ro,bind $1", "read-only", &index_dir);
    } else {
        chmod(&index_dir, 0o555, 0o444);
        let ok = helper("read-only", &index_dir).wait().unwrap().success();
        chmod(&index_dir, 0o755, 0o644);
        assert!(ok);
    }
}

#[test]
fn a_full_disk_costs_only_what_did_not_fit() {
    let dir = tempfile::tempdir().unwrap();
    assert!(is_root(), "this test mounts a filesystem: run it as root");
    in_namespace("mount -t tmpfs -o size=6m tmpfs $1", "fill", dir.path());
}

/// Runs a role in a mount namespace of its own, after a shell command that may mount what it likes.
fn in_namespace(mount: &str, role: &str, dir: &Path) {
    let exe = std::env::current_exe().unwrap();
    let run = format!("{{ {mount}; }} || exit 77; exec \"$2\" --exact index::tests::helper_process");
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &run, "sh"]).arg(dir).arg(exe);
    let run = command.env("INDEX_TEST_ROLE", role).env("INDEX_TEST_DIR", dir).output();
    match run {
        Ok(run) if run.status.code() == Some(77) => panic!("this test needs mount namespaces, which are refused here"),
        Ok(run) => assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stdout)),
        Err(e) => panic!("this test needs the program unshare: {e}"),
    }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

#[test]
fn places_of_every_shape_survive_packing() {
    for (pack, frame, slot) in [(0, 0, 0), (u32::MAX, 0xF_FFFF, 0xFFF), (1, 1, 1), (3, 0x8_0001, 0x801)] {
        let bits = Location::pack_bits(PackNo(pack), frame, slot).unwrap();
        assert_eq!(Location::from_bits(bits), Location { pack: PackNo(pack), frame, slot });
    }
    assert!(Location::pack_bits(PackNo(0), 1 << 20, 0).is_err());
    assert!(Location::pack_bits(PackNo(0), 0, 1 << 12).is_err());
}
