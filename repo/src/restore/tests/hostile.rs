//! Snapshots and targets made to write elsewhere, and shapes made to exhaust.

use std::os::unix::fs::{MetadataExt, symlink as link};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::store::*;
use crate::format::tree::{Entry, EntryType};
use crate::limits::MAX_DEPTH;
use crate::restore::{Options, Overwrite};

/// A directory with a file that must not change, and a target beside it.
struct Scene {
    temp: tempfile::TempDir,
}

impl Scene {
    fn new() -> Scene {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("outside")).unwrap();
        std::fs::create_dir(temp.path().join("target")).unwrap();
        std::fs::write(temp.path().join("outside/precious"), b"precious").unwrap();
        Scene { temp }
    }

    fn outside(&self) -> std::path::PathBuf {
        self.temp.path().join("outside")
    }

    fn target(&self) -> std::path::PathBuf {
        self.temp.path().join("target")
    }

    fn untouched(&self, before: &Listing) {
        assert_eq!(real(&self.outside()), *before);
    }
}

fn tree(store: &mut Store) -> Entry {
    let inner = vec![store.file(b"precious", b"overwritten"), store.file(b"new", &noise(1, 5000))];
    let large = store.file(b"large", &noise(2, 5_000_000));
    let dir = store.dir(b"dir", inner);
    let file = store.file(b"file", b"file");
    store.dir(b"", vec![dir, large, file])
}

#[test]
fn links_in_the_target_are_replaced_not_followed() {
    let mut store = Store::default();
    let root = tree(&mut store);
    let store = Arc::new(store);
    for overwrite in [Overwrite::Always, Overwrite::IfChanged, Overwrite::IfNewer, Overwrite::Never] {
        for (delete, target_of_links) in [(false, "../outside"), (true, "outside-absolute")] {
            let scene = Scene::new();
            let to = match target_of_links {
                "../outside" => std::path::PathBuf::from("../outside"),
                _ => scene.outside(),
            };
            link(&to, scene.target().join("dir")).unwrap();
            link(to.join("precious"), scene.target().join("file")).unwrap();
            link(to.join("precious"), scene.target().join("large")).unwrap();
            link(&to, scene.target().join("extra")).unwrap();
            let before = real(&scene.outside());
            let options = Options { overwrite, delete, verify: true, ..Options::default() };
            restore_well(&store, &root, &scene.target(), &options);
            scene.untouched(&before);
            if overwrite == Overwrite::Always && delete {
                assert_same(&real(&scene.target()), &expected(&store, &root));
            }
        }
    }
}

#[test]
fn other_names_of_files_outside_are_not_written_through() {
    let mut store = Store::default();
    let root = tree(&mut store);
    let store = Arc::new(store);
    for size in [8, 5_000_000] {
        let scene = Scene::new();
        std::fs::write(scene.outside().join("precious"), vec![1; size]).unwrap();
        for name in ["file", "large"] {
            std::fs::hard_link(scene.outside().join("precious"), scene.target().join(name)).unwrap();
        }
        // The same content, but other attributes: those are not to be set either.
        std::fs::write(scene.outside().join("same"), noise(1, 5000)).unwrap();
        std::fs::create_dir(scene.target().join("dir")).unwrap();
        std::fs::hard_link(scene.outside().join("same"), scene.target().join("dir/new")).unwrap();
        let before: Vec<_> = ["precious", "same"].map(|n| look(&scene.outside().join(n))).into();
        restore_well(&store, &root, &scene.target(), &Options::default());
        let after: Vec<_> = ["precious", "same"].map(|n| look(&scene.outside().join(n))).into();
        assert_eq!(before, after);
        assert_same(&real(&scene.target()), &expected(&store, &root));
    }
}

fn look(path: &Path) -> (u32, i64, i64, Vec<u8>) {
    let meta = std::fs::metadata(path).unwrap();
    (meta.mode(), meta.mtime(), meta.mtime_nsec(), std::fs::read(path).unwrap())
}

#[test]
fn a_snapshot_cannot_lead_its_own_files_through_its_links() {
    let mut store = Store::default();
    let scene = Scene::new();
    // No capture writes a name twice, and decoding refuses it; names with slashes or dots likewise.
    let bad: [&[u8]; 5] = [b"..", b".", b"a/b", b"/abs", b"nul\0"];
    for name in bad {
        let file = Entry { name: name.to_vec(), ..store.file(b"x", b"x") };
        let ok = store.file(b"zz", b"zz");
        let root = store.dir(b"", vec![file, ok]);
        let store = Arc::new(std::mem::take(&mut store));
        let before = real(&scene.outside());
        let (done, lines) = restore(&store, &root, &scene.target(), &Options::default());
        assert!(done.is_ok_and(|d| d.errors == 1), "{lines:?}");
        scene.untouched(&before);
        assert_eq!(std::fs::read_dir(scene.target()).unwrap().count(), 0);
    }
    let up = symlink(b"dir", b"../outside");
    let mut twice = Vec::new();
    let inner = store.file(b"precious", b"overwritten");
    let dir = store.dir(b"dir", vec![inner]);
    up.encode(&mut twice);
    dir.encode(&mut twice);
    let h = crate::tree::builder::ChunkSink::put(&mut store, crate::crypto::hash::ChunkKind::Tree, twice).unwrap();
    let content = crate::format::tree::Content::Dir(crate::format::tree::DirRef { entries: 2, depth: 0, h });
    let root = Entry { content, mode: 0o755, ..own(b"", EntryType::Dir) };
    let before = real(&scene.outside());
    let (done, _) = restore(&Arc::new(store), &root, &scene.target(), &Options::default());
    assert_eq!(done.unwrap().errors, 1);
    scene.untouched(&before);
}

#[test]
fn swapping_directories_for_links_meanwhile_leads_nowhere() {
    let mut store = Store::default();
    let mut dirs = Vec::new();
    for d in 0..20u64 {
        let files = (0..40).map(|f| store.file(format!("f{f}").as_bytes(), &noise(d * 100 + f, 2000))).collect();
        dirs.push(store.dir(format!("d{d}").as_bytes(), files));
    }
    let root = store.dir(b"", dirs);
    let store = Arc::new(store);
    let scene = Scene::new();
    let before = real(&scene.outside());
    let over = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            let mut n = 0u32;
            while !over.load(Ordering::Relaxed) {
                for d in 0..20 {
                    let dir = scene.target().join(format!("d{d}"));
                    n += 1;
                    if std::fs::rename(&dir, scene.target().join(format!("away{n}"))).is_ok() {
                        let _ = link("../outside", &dir);
                    }
                    let _ = std::fs::remove_file(dir.join("f1"));
                    let _ = link("../../outside/precious", dir.join("f2"));
                }
            }
        });
        for _ in 0..5 {
            // It may fail in parts; it may not write outside.
            let _ = restore(&store, &root, &scene.target(), &Options { delete: true, ..Options::default() });
        }
        over.store(true, Ordering::Relaxed);
    });
    let _ = std::fs::remove_file(scene.outside().join("f1"));
    // The racing thread itself may have put links there, through its own; files are the restore's.
    let now: Vec<_> = real(&scene.outside()).into_iter().filter(|(name, _)| name != b"/f2").collect();
    assert_eq!(now, before.into_iter().collect::<Vec<_>>());
}

#[test]
fn a_file_in_place_of_the_target_or_a_directory_in_place_of_a_file() {
    let mut store = Store::default();
    let root = tree(&mut store);
    let store = Arc::new(store);
    let scene = Scene::new();
    let file = scene.temp.path().join("file");
    std::fs::write(&file, b"").unwrap();
    assert_eq!(restore(&store, &root, &file, &Options::default()).0.unwrap_err().kind(), crate::error::Kind::Exists);
    for name in ["file", "large"] {
        std::fs::create_dir_all(scene.target().join(name).join("full")).unwrap();
    }
    let (done, lines) = restore(&store, &root, &scene.target(), &Options::default());
    assert_eq!(done.unwrap().errors, 2, "{lines:?}");
    assert!(scene.target().join("file/full").is_dir());
    restore_well(&store, &root, &scene.target(), &Options { delete: true, ..Options::default() });
    assert_same(&real(&scene.target()), &expected(&store, &root));
}

#[test]
fn paths_far_beyond_what_a_path_can_be() {
    let mut store = Store::default();
    let mut at = store.file(b"bottom", b"bottom");
    let depth = 1000;
    for _ in 0..depth {
        let beside = store.file(b"beside", b"b");
        at = store.dir(&[b'd'; 100], vec![at, beside]);
    }
    let root = store.dir(b"", vec![at]);
    let (store, temp) = (Arc::new(store), tempfile::tempdir().unwrap());
    let done = restore_well(&store, &root, temp.path(), &Options { verify: true, ..Options::default() });
    assert_eq!((done.items, done.verified), (depth + 1, depth + 1));
    let again = restore_well(&store, &root, temp.path(), &Options::default());
    assert_eq!(again.kept, depth + 1);
    // Emptying it works at any depth, too; and leaves nothing for those who cannot.
    let empty = Arc::new(Store::default());
    let none = Store::default().dir(b"", vec![]);
    restore_well(&empty, &none, temp.path(), &Options { delete: true, ..Options::default() });
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
}

#[test]
fn endless_depth_is_refused() {
    let mut store = Store::default();
    let mut at = store.dir(b"d", vec![]);
    for _ in 0..MAX_DEPTH + 10 {
        at = store.dir(b"d", vec![at]);
    }
    let root = store.dir(b"", vec![at]);
    let (store, temp) = (Arc::new(store), tempfile::tempdir().unwrap());
    let (done, _) = restore(&store, &root, temp.path(), &Options::default());
    assert_eq!(done.unwrap().errors, 1);
    let none = Store::default().dir(b"", vec![]);
    restore_well(&Arc::new(Store::default()), &none, temp.path(), &Options { delete: true, ..Options::default() });
}

#[test]
fn lying_sizes_and_groups_end_in_errors() {
    let mut store = Store::default();
    let good = store.file(b"good", &noise(1, 9000));
    let content = store.content(&noise(2, 9_000_000), 1000);
    // An index of extents may not cover what the entry says.
    let long = Entry { size: 1 << 40, content, ..own(b"long", EntryType::File) };
    let group = |e: Entry| Entry { link_group: Some([3; 32]), ..e };
    let a = group(symlink(b"m-a", b"x"));
    let b = group(store.file(b"m-b", b"other"));
    let root = store.dir(b"", vec![good, long, a, b]);
    let (store, temp) = (Arc::new(store), tempfile::tempdir().unwrap());
    let (done, lines) = restore(&store, &root, temp.path(), &Options::default());
    let done = done.unwrap();
    assert_eq!(done.errors, 1, "{lines:?}");
    assert!(!temp.path().join("long").exists());
    assert!(temp.path().join("good").exists());
}
