use super::*;
use crate::monitor::{Recording, Void};
use crate::tree::fake::{Store, dir_of, file, file_of};
use proptest::prelude::*;

fn letter(difference: Difference) -> char {
    match difference {
        Difference::Added => '+',
        Difference::Removed => '-',
        Difference::Type => 'T',
        Difference::Content => 'M',
        Difference::Metadata => 'U',
    }
}

fn run(store: &Store, old: &Entry, new: &Entry, metadata: bool, monitor: &dyn Monitor) -> (String, Statistics) {
    let mut seen = Vec::new();
    let statistics = diff(store, &SnapPath::root(), (old, new), metadata, monitor, &mut |change| {
        let path = String::from_utf8_lossy(change.path.as_bytes());
        seen.push(format!("{}{path}", letter(change.difference)));
        Ok(())
    });
    (seen.join(" "), statistics.unwrap())
}

fn changes(store: &Store, old: &Entry, new: &Entry, metadata: bool) -> String {
    run(store, old, new, metadata, &Void::default()).0
}

#[test]
fn every_kind_of_difference() {
    let mut store = Store::default();
    let same = dir_of(&mut store, "same", vec![file("x", b"1")]);
    let gone = dir_of(&mut store, "gone", vec![file("y", b"12")]);
    let was = dir_of(&mut store, "turned", vec![file("in", b"123")]);
    let mut link = Entry::new("link", EntryType::Symlink);
    link.target = b"a".to_vec();
    let old =
        dir_of(&mut store, "", vec![same.clone(), gone, was, link.clone(), file("edited", b"1"), file("touched", b"")]);
    let mut touched = file("touched", b"");
    touched.mtime.secs = 9;
    link.target = b"b".to_vec();
    let fresh = dir_of(&mut store, "fresh", vec![file("z", b"1234")]);
    let new = dir_of(&mut store, "", vec![same, fresh, file("turned", b"now"), link, file("edited", b"222"), touched]);
    let (seen, statistics) = run(&store, &old, &new, false, &Void::default());
    assert_eq!(seen, "Medited +fresh +fresh/z -gone -gone/y Mlink Tturned -turned/in");
    let expected = Statistics {
        changed_files: 1,
        added: Totals { files: 2, dirs: 1, others: 0, bytes: 4 + 3 + 3 },
        removed: Totals { files: 2, dirs: 2, others: 0, bytes: 2 + 3 + 1 },
        failed: 0,
    };
    assert_eq!(statistics, expected);
    assert!(changes(&store, &old, &new, true).contains(" Utouched "));
}

#[test]
fn equal_subtrees_are_not_read() {
    let mut store = Store::default();
    let deep = dir_of(&mut store, "deep", (0..500).map(|i| file(&format!("f{i}"), b"x")).collect());
    let old = dir_of(&mut store, "", vec![deep.clone(), file("a", b"1")]);
    let new = dir_of(&mut store, "", vec![deep, file("a", b"2")]);
    assert_eq!(changes(&store, &old, &new, true), "Ma");
    assert_eq!(store.asked(), 2);
    assert_eq!(changes(&store, &old, &old, true), "");
    assert_eq!(store.asked(), 0);
}

#[test]
fn stretches_of_a_large_directory_are_not_read() {
    let mut store = Store::default();
    let mut entries: Vec<Entry> = (0..60_000).map(|i| file(&format!("name{i:08}"), b"some content")).collect();
    let old = dir_of(&mut store, "", entries.clone());
    let all = store.len();
    entries[30_000] = file("name00030000", b"other");
    entries.remove(40_000);
    entries.push(file("name00030000x", b"new"));
    let new = dir_of(&mut store, "", entries);
    assert_eq!(changes(&store, &old, &new, true), "Mname00030000 +name00030000x -name00040000");
    let asked = store.asked();
    assert!(asked < 60 && asked * 4 < all, "{asked} of {all}");
}

#[test]
fn bytes_of_changed_files_are_those_of_other_chunks() {
    let mut store = Store::default();
    let old = file_of(&mut store, "f", &[Ok(b"aaaa"), Ok(b"bbbbb"), Err(100)]);
    let new = file_of(&mut store, "f", &[Ok(b"cc"), Ok(b"aaaa"), Err(100)]);
    let (old, new) = (dir_of(&mut store, "", vec![old]), dir_of(&mut store, "", vec![new]));
    let statistics = run(&store, &old, &new, false, &Void::default()).1;
    assert_eq!((statistics.removed.bytes, statistics.added.bytes), (5, 2));
}

#[test]
fn two_files_can_be_compared() {
    let store = Store::default();
    assert_eq!(changes(&store, &file("a", b"1"), &file("b", b"2"), false), "M");
    assert_eq!(changes(&store, &file("a", b"1"), &file("b", b"1"), false), "");
}

#[test]
fn an_unreadable_directory_is_reported_and_the_rest_goes_on() {
    let mut store = Store::default();
    let one = dir_of(&mut store, "d", vec![file("x", b"1")]);
    let two = dir_of(&mut store, "d", vec![file("x", b"2")]);
    let old = dir_of(&mut store, "", vec![one, file("z", b"1")]);
    let new = dir_of(&mut store, "", vec![two.clone(), file("z", b"2")]);
    store.lose(&two);
    let monitor = Recording::default();
    let (seen, statistics) = run(&store, &old, &new, false, &monitor);
    assert_eq!((seen.as_str(), statistics.failed), ("Mz", 1));
    assert!(monitor.lines()[0].contains("\"/d\""));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// However two large directories are cut, the differences are those of their maps.
    #[test]
    fn as_a_model_says(seed in prop::collection::btree_map(0u32..3000, 0u8..3, 0..1500),
                       edits in prop::collection::btree_map(0u32..3000, prop::option::of(0u8..3), 0..60)) {
        let entry = |k: &u32, v: &u8| file(&format!("an entry with a long name {k:06}"), &[*v]);
        let mut other = seed.clone();
        let mut expected = Vec::new();
        for (k, v) in &edits {
            let was = match v {
                Some(v) => other.insert(*k, *v),
                None => other.remove(k),
            };
            let sign = match (was, v) {
                (None, Some(_)) => "+",
                (Some(_), None) => "-",
                (Some(a), Some(b)) if a != *b => "M",
                _ => continue,
            };
            expected.push(format!("{sign}an entry with a long name {k:06}"));
        }
        let mut store = Store::default();
        let old = dir_of(&mut store, "", seed.iter().map(|(k, v)| entry(k, v)).collect());
        let new = dir_of(&mut store, "", other.iter().map(|(k, v)| entry(k, v)).collect());
        prop_assert_eq!(changes(&store, &old, &new, true), expected.join(" "));
    }
}
