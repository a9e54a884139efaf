//! Damage to the index's files × place: always `Unusable` or `Missing`, never a crash, never wrong answers.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::guard::Room;
use super::state::{Found, Marker, State, Status, boot_id};
use super::tests::{WHO, at, helper, new_pack, ready};
use super::{Index, Opened};

/// A closed index with some content, and its data file.
fn filled(dir: &Path) -> PathBuf {
    let index = Index::create(dir, &WHO).unwrap();
    for n in 0..10 {
        index.add_packs(&[new_pack(n, n * 100..(n + 1) * 100)], at(n)).unwrap();
    }
    index.data_path()
}

fn reason(dir: &Path) -> String {
    match Index::open(dir, &WHO).unwrap() {
        Opened::Unusable(why) => why,
        other => panic!("{other:?}"),
    }
}

fn state(dir: &Path) -> State {
    match State::read(&dir.join("state")).unwrap() {
        Found::State(state) => state,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_changed_byte_anywhere_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let data = filled(dir.path());
    let length = fs::metadata(&data).unwrap().len();
    let room = Room::new(dir.path());
    let generation = state(dir.path()).generation;
    for offset in (0..length).step_by(1997).chain(0..200).chain(4096..4296) {
        let times = fs::metadata(&data).unwrap();
        let file = File::options().read(true).write(true).open(&data).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).unwrap();
        file.write_all_at(&[byte[0] ^ 0x41], offset).unwrap();
        // Whoever restores the times of last change cannot restore that of the inode.
        let times = FileTimes::new().set_modified(times.modified().unwrap()).set_accessed(times.accessed().unwrap());
        file.set_times(times).unwrap();
        reason(dir.path());
        file.write_all_at(&byte, offset).unwrap();
        drop(file);
        room.install(generation, WHO.repo).unwrap();
    }
    assert_eq!(ready(dir.path()).counts().unwrap(), (1000, 10));
}

#[test]
fn a_cut_lengthened_emptied_missing_or_zeroed_file_is_seen() {
    type Harm = fn(&Path, u64);
    let cut: Harm = |p, n| File::options().write(true).open(p).unwrap().set_len(n).unwrap();
    let harms: [Harm; 7] = [
        cut,
        |p, _| fs::write(p, b"").unwrap(),
        |p, n| fs::write(p, vec![0; n as usize]).unwrap(),
        |p, _| fs::write(p, vec![0xAB; 100_000]).unwrap(),
        |p, _| fs::remove_file(p).unwrap(),
        |p, _| {
            fs::remove_file(p).unwrap();
            fs::create_dir(p).unwrap();
        },
        |p, _| {
            let copy = fs::read(p).unwrap();
            fs::remove_file(p).unwrap();
            fs::write(p, copy).unwrap();
        },
    ];
    for harm in harms {
        for name in ["data", "state"] {
            for length in [0, 1, 100, 4096, 8192, 20_000] {
                let dir = tempfile::tempdir().unwrap();
                let data = filled(dir.path());
                if name == "state" && (length > 100 || harm as usize == harms[5] as usize) {
                    continue;
                }
                let target = if name == "data" { data } else { dir.path().join("state") };
                harm(&target, length);
                let same_state = name == "state" && harm as usize == harms[6] as usize;
                match Index::open(dir.path(), &WHO).unwrap() {
                    Opened::Unusable(_) => {}
                    Opened::Ready(_) if same_state => {}
                    other => panic!("{other:?}"),
                }
                if harm as usize != harms[0] as usize {
                    break;
                }
            }
        }
    }
}

#[test]
fn a_swapped_or_foreign_lmdb_is_seen() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (a, b) = (filled(one.path()), filled(two.path()));
    fs::copy(&b, &a).unwrap();
    reason(one.path());
    fs::rename(&b, &a).unwrap();
    reason(one.path());

    // The whole directory of another repository, and a copy of one's own.
    let three = tempfile::tempdir().unwrap();
    filled(three.path());
    let state = state(three.path());
    let room = Room::new(three.path());
    let copy = three.path().join("copy");
    fs::create_dir(&copy).unwrap();
    fs::copy(room.data(state.generation), copy.join("data.mdb")).unwrap();
    fs::remove_dir_all(room.generation(state.generation)).unwrap();
    fs::rename(copy, room.generation(state.generation)).unwrap();
    reason(three.path());
}

#[test]
fn a_foreign_or_cut_lock_file_is_replaced() {
    for junk in [&b""[..], b"junk", &[0xFF; 40_000], &[0; 10_000]] {
        let dir = tempfile::tempdir().unwrap();
        let data = filled(dir.path());
        fs::write(data.with_file_name("lock.mdb"), junk).unwrap();
        let index = ready(dir.path());
        index.add_packs(&[new_pack(77, 5000..5010)], at(90)).unwrap();
        assert_eq!(index.counts().unwrap(), (1010, 11));
    }
}

#[test]
fn a_process_that_died_opening_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let generation = state(dir.path()).generation;
    Marker::set(&dir.path().join("state"), generation, &boot_id()).unwrap();
    assert_eq!(reason(dir.path()), "a process died while it opened the index");
    // A new index is not blamed for it.
    drop(Index::create(dir.path(), &WHO).unwrap());
    ready(dir.path());
}

#[test]
fn what_a_power_failure_interrupted_is_not_trusted() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let clean = state(dir.path());
    let path = dir.path().join("state");
    State { status: Status::Dirty, ..clean.clone() }.write(&path, false).unwrap();
    drop(ready(dir.path()));
    State { status: Status::Dirty, boot: [1; 32], ..clean.clone() }.write(&path, false).unwrap();
    assert_eq!(reason(dir.path()), "the machine went down while it was being written");
    State { status: Status::Clean, boot: [1; 32], ..clean.clone() }.write(&path, false).unwrap();
    drop(ready(dir.path()));
    State { status: Status::Distrusted, ..clean }.write(&path, false).unwrap();
    reason(dir.path());
}

#[test]
fn an_open_index_notices_a_change_before_it_writes() {
    let dir = tempfile::tempdir().unwrap();
    let data = filled(dir.path());
    let index = ready(dir.path());
    let file = File::options().write(true).open(&data).unwrap();
    // A byte of a page that nobody reads here.
    let length = file.metadata().unwrap().len();
    file.write_all_at(&[0x5A], length - 1).unwrap();
    let error = index.set_position(at(50)).unwrap_err();
    assert_eq!(error.kind(), crate::error::Kind::Damaged);
    assert!(error.to_string().contains("rebuild-index"), "{error}");
}

#[test]
fn damage_beside_a_dead_writer_does_not_crash_the_check() {
    let dir = tempfile::tempdir().unwrap();
    let data = filled(dir.path());
    let mut child = helper("write", dir.path());
    std::thread::sleep(std::time::Duration::from_millis(100));
    child.kill().unwrap();
    child.wait().unwrap();
    File::options().write(true).open(&data).unwrap().set_len(8192).unwrap();
    reason(dir.path());
}

/// Bytes that change without the filesystem knowing (a failing disk): no check of ours can see them before LMDB does.
/// What crashes while opening is not opened twice, and nothing panics or hangs.
#[test]
fn bytes_that_rot_unseen_crash_at_most_once_in_opening() {
    use std::os::unix::process::ExitStatusExt;
    let dir = tempfile::tempdir().unwrap();
    let data = filled(dir.path());
    let length = fs::metadata(&data).unwrap().len();
    let generation = state(dir.path()).generation;
    let sound = fs::read(&data).unwrap();
    let room = Room::new(dir.path());
    let mut crashes = 0;
    for n in 0..60u64 {
        // Page headers hurt most.
        let offset = if n % 2 == 0 { n * length / 60 / 4096 * 4096 + n % 24 } else { n * length / 60 };
        let file = File::options().write(true).open(&data).unwrap();
        file.write_all_at(&[sound[offset as usize] ^ 0xD7], offset).unwrap();
        if room.install(generation, WHO.repo).is_ok() {
            let status = helper("look", dir.path()).wait().unwrap();
            if matches!(status.signal(), Some(libc::SIGSEGV | libc::SIGBUS | libc::SIGABRT)) {
                crashes += 1;
                let opening = Marker::is_set(&dir.path().join("state"), generation, &boot_id());
                assert!(!opening || reason(dir.path()).contains("died"));
            } else {
                assert!(status.success(), "{status} at {offset}");
            }
        }
        file.write_all_at(&[sound[offset as usize]], offset).unwrap();
        drop(file);
        room.install(generation, WHO.repo).unwrap();
    }
    println!("{crashes} of 60 crashed the process that looked");
}

#[test]
fn who_opens_an_older_generation_leaves_the_one_that_a_rebuild_put_in_place() {
    let dir = tempfile::tempdir().unwrap();
    drop(Index::create(dir.path(), &WHO).unwrap());
    let room = Room::new(dir.path());
    let super::guard::Verdict::Use(older) = room.judge(WHO.repo).unwrap() else { panic!("no index") };
    // Another process has it open, so that it is not swept.
    let user = File::open(room.generation(older.generation).join("users.lock")).unwrap();
    user.lock_shared().unwrap();
    drop(Index::create(dir.path(), &WHO).unwrap());
    drop(super::env::Env::open(&room, &older, true).unwrap().unwrap());
    let opened = Index::open(dir.path(), &WHO).unwrap();
    assert!(matches!(opened, Opened::Ready(_)), "{opened:?}");
}
