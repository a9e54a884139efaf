//! Operations without FUSE, against a reference model of the same tree.

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use fs::errno::{Fail, errno};
use fs::layout::Change;
use fs::number::ROOT;
use fs::ops::{Appearance, Found, Ops, Presentation, Seek};
use proptest::prelude::*;
use repo::format::tree::{Content, Entry, EntryType, XattrValue};
use support::{Memory, Rng, SECOND, Store, T0, id, list, names, ops, presented, read_all, walk};

const SNAPSHOT: &str = "hosts/web1/etc/2026-11-22T09-51-56Z";

/// A random directory and its model.
fn random_dir(store: &Store, rng: &mut Rng, depth: u32) -> (Vec<Entry>, BTreeMap<Vec<u8>, Node>) {
    let mut model = BTreeMap::new();
    for _ in 0..rng.below(40) {
        let length = 1 + rng.below(20) * rng.below(13);
        let mut name = rng.bytes(length as usize);
        name.iter_mut().filter(|b| matches!(b, 0 | b'/')).for_each(|b| *b = b'_');
        if name == b"." || name == b".." {
            continue;
        }
        let (entry, node) = random_entry(store, rng, depth, name.clone());
        model.insert(name, Node { entry, ..node });
    }
    (model.values().map(|n| n.entry.clone()).collect(), model)
}

struct Node {
    entry: Entry,
    bytes: Vec<u8>,
    holes: Vec<usize>,
    below: Option<BTreeMap<Vec<u8>, Node>>,
}

fn random_entry(store: &Store, rng: &mut Rng, depth: u32, name: Vec<u8>) -> (Entry, Node) {
    let mut node =
        Node { entry: Entry::new(&b"x"[..], EntryType::File), bytes: Vec::new(), holes: Vec::new(), below: None };
    let mut entry = match rng.below(10) {
        0 if depth > 0 => {
            let (entries, model) = random_dir(store, rng, depth - 1);
            node.below = Some(model);
            store.dir("d", entries)
        }
        1 => {
            let mut e = Entry::new(&b"l"[..], EntryType::Symlink);
            e.target = b"../some/where".to_vec();
            e
        }
        2 => Entry::new(&b"f"[..], [EntryType::Fifo, EntryType::Socket][rng.below(2) as usize]),
        3 => {
            let mut e = Entry::new(&b"b"[..], EntryType::BlockDevice);
            e.rdev = libc::makedev(rng.below(4000) as u32, rng.below(100_000) as u32);
            e
        }
        n => {
            let mut pieces = Vec::new();
            for i in 0..rng.below(if n == 4 { 60 } else { 9 }) as usize {
                if rng.below(3) == 0 {
                    node.holes.push(i * 4096);
                    node.bytes.resize(node.bytes.len() + 4096, 0);
                    pieces.push(None);
                } else {
                    let piece = rng.bytes(4096);
                    node.bytes.extend(&piece);
                    pieces.push(Some(piece));
                }
            }
            let mut e = Entry::new(&b"f"[..], EntryType::File);
            (e.content, e.size) = store.pieces(&pieces, 4096);
            if pieces.is_empty() {
                let length = rng.below(200);
                node.bytes = rng.bytes(length as usize);
                (e.content, e.size) = (Content::Inline(node.bytes.clone()), node.bytes.len() as u64);
            }
            e
        }
    };
    entry.name = name;
    entry.mode = rng.below(0o10000) as u32;
    (entry.uid, entry.gid) = (rng.next() as u32, rng.next() as u32);
    entry.mtime.secs = rng.next() as i64 >> 20;
    entry.mtime.nanos = rng.below(1_000_000_000) as u32;
    if rng.below(4) == 0 {
        entry.xattrs = vec![
            (b"user.a".to_vec(), XattrValue::Inline(rng.bytes(9))),
            (b"user.long".to_vec(), store.long_xattr(&vec![7; 3000])),
        ];
    }
    (entry, node)
}

fn compare(ops: &Ops, ino: u64, model: &BTreeMap<Vec<u8>, Node>) {
    let listed = list(ops, ino);
    assert_eq!(listed.iter().map(|e| &e.name).collect::<Vec<_>>(), model.keys().collect::<Vec<_>>());
    let mut last = 0;
    for (listed, (name, node)) in listed.iter().zip(model) {
        let Found::Entry(found) = ops.lookup(ino, name).unwrap() else { panic!("listed but not there") };
        let attr = ops.getattr(found.attr.ino).unwrap().attr;
        assert_eq!(listed.looked.attr.ino, attr.ino);
        assert!(attr.ino > last, "inodes follow the listing");
        last = attr.ino;
        let e = &node.entry;
        assert_eq!((attr.kind, u32::from(attr.perm), attr.uid, attr.gid), (e.kind, e.mode, e.uid, e.gid));
        assert_eq!((attr.mtime, attr.rdev, attr.nlink), (e.mtime, e.rdev, 1));
        let xattrs: Vec<u8> = e.xattrs.iter().flat_map(|(n, _)| [&n[..], b"\0"].concat()).collect();
        assert_eq!(ops.xattrs(attr.ino).unwrap(), xattrs);
        assert!(matches!(ops.xattr(attr.ino, b"user.none"), Err(Fail::NoAttribute)));
        if !e.xattrs.is_empty() {
            assert_eq!(ops.xattr(attr.ino, b"user.long").unwrap(), vec![7; 3000]);
        }
        match e.kind {
            EntryType::Dir => compare(ops, attr.ino, node.below.as_ref().unwrap()),
            EntryType::Symlink => assert_eq!(ops.readlink(attr.ino).unwrap(), e.target),
            EntryType::File => compare_file(ops, attr.ino, node),
            _ => assert_eq!(errno(&ops.readlink(attr.ino).unwrap_err()), libc::EINVAL),
        }
    }
}

fn compare_file(ops: &Ops, ino: u64, node: &Node) {
    let attr = ops.getattr(ino).unwrap().attr;
    assert_eq!(attr.size, node.bytes.len() as u64);
    assert_eq!(attr.blocks * 512 < attr.size, !node.holes.is_empty());
    for step in [1000, 4096, 70_000, u32::MAX] {
        assert!(read_all(ops, ino, step).unwrap() == node.bytes);
    }
    let is_hole = |at: usize| node.holes.contains(&(at / 4096 * 4096));
    for at in (0..node.bytes.len()).step_by(1333) {
        let data = (at..node.bytes.len()).find(|i| !is_hole(*i)).map(|i| i as u64);
        let hole = (at..node.bytes.len()).find(|i| is_hole(*i)).unwrap_or(node.bytes.len()) as u64;
        assert_eq!(ops.seek(ino, at as u64, Seek::Data).ok(), data);
        assert_eq!(ops.seek(ino, at as u64, Seek::Hole).unwrap(), hole);
    }
    let past = ops.seek(ino, attr.size, Seek::Hole).unwrap_err();
    assert_eq!(errno(&past), libc::ENXIO);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn every_tree_reads_back_as_it_was(seed in 1u64..) {
        let memory = Memory::new();
        let (entries, model) = random_dir(&memory.store, &mut Rng(seed), 3);
        memory.add(id(1), "web1", "etc", T0, &[], memory.store.dir("", entries));
        let ops = ops(&memory);
        compare(&ops, walk(&ops, SNAPSHOT), &model);
    }
}

#[test]
fn the_layout_is_as_documented() {
    let memory = Memory::new();
    let root = || memory.store.dir("", vec![memory.store.file("hosts", b"1")]);
    memory.add(id(1), "web1", "etc", T0, &["monthly", "a/b"], root());
    memory.add(id(2), "web1", "etc", T0 + 1, &[], root());
    memory.add(id(3), "..", "srv/data", T0 + 60 * SECOND, &[], root());
    let ops = ops(&memory);
    assert_eq!(names(&ops, ""), ["hosts", "ids", "snapshots", "tags", "versions"]);
    assert_eq!(names(&ops, "hosts"), [".%2E", "web1"]);
    assert_eq!(names(&ops, "hosts/.%2E"), ["srv%2Fdata"]);
    let in_source = names(&ops, "hosts/web1/etc");
    assert_eq!(in_source, ["2026-11-22T09-51-56Z", "2026-11-22T09-51-56Z~02020202", "latest"]);
    assert_eq!(names(&ops, "ids"), ["01010101", "02020202", "03030303"]);
    assert_eq!(names(&ops, "tags"), ["a%2Fb", "monthly"]);
    assert_eq!(names(&ops, "snapshots").len(), 3);
    assert_eq!(memory.manifests.load(Ordering::SeqCst), 0, "listing opens nothing");
    let link = |path: &str| String::from_utf8(ops.readlink(walk(&ops, path)).unwrap()).unwrap();
    assert_eq!(link("hosts/web1/etc/latest"), "2026-11-22T09-51-56Z~02020202");
    assert_eq!(link("ids/01010101"), "../hosts/web1/etc/2026-11-22T09-51-56Z");
    let tagged = link("tags/monthly/2026-11-22T09-51-56Z_web1_etc");
    assert_eq!(tagged, "../../hosts/web1/etc/2026-11-22T09-51-56Z");
    assert_eq!(names(&ops, &format!("hosts/.%2E/srv%2Fdata/{}", "2026-11-22T09-52-56Z")), ["hosts"]);
    assert_eq!(ops.lookup(ROOT, b"nothing").unwrap(), Found::NotNow);
    let snapshot = walk(&ops, SNAPSHOT);
    assert_eq!(ops.lookup(snapshot, b"nothing").unwrap(), Found::Never);
    assert!(matches!(ops.lookup(walk(&ops, "ids/01010101"), b"x"), Err(Fail::NotDirectory)));
}

#[test]
fn a_hundred_thousand_snapshots_are_listed_without_opening_any() {
    let memory = Memory::new();
    let root = memory.store.dir("", Vec::new());
    for n in 0..100_000u32 {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        let host = format!("host{}", n % 10);
        memory.add(repo::id::SnapshotId(bytes), &host, "data", T0 + i64::from(n) * SECOND, &[], root.clone());
    }
    let ops = ops(&memory);
    let begin = std::time::Instant::now();
    assert_eq!(list(&ops, walk(&ops, "hosts/host3/data")).len(), 10_001);
    assert_eq!(list(&ops, walk(&ops, "snapshots")).len(), 100_000);
    assert_eq!(memory.manifests.load(Ordering::SeqCst) + memory.store.reads.load(Ordering::SeqCst), 0);
    assert!(begin.elapsed().as_secs() < 30);
    assert_eq!(ops.held(), 0, "synthetic entries take no place in the table");
}

#[test]
fn snapshots_come_and_go() {
    let memory = Memory::new();
    let root = || memory.store.dir("", vec![memory.store.file("f", b"1")]);
    memory.add(id(1), "web1", "etc", T0, &[], root());
    memory.add(id(2), "web1", "etc", T0 + 10 * SECOND, &[], root());
    let ops = ops(&memory);
    let source = walk(&ops, "hosts/web1/etc");
    let mut under_way = ops.list(source, 0).unwrap();
    let first: Vec<_> = (0..3).map(|_| ops.next(&mut under_way).unwrap()).collect();
    assert!(ops.refresh().unwrap().is_empty(), "nothing changed");

    memory.forget(id(1));
    memory.add(id(3), "web1", "etc", T0 - 10 * SECOND, &[], root());
    let changes = ops.refresh().unwrap();
    let gone = Change::Name(source, "2026-11-22T09-51-56Z".into());
    assert!(changes.contains(&gone) && changes.contains(&Change::Listing(source)), "{changes:?}");
    // Snapshot 2 is newest still, so `latest` stays.
    assert!(!changes.contains(&Change::Name(source, "latest".into())));
    assert_eq!(names(&ops, "hosts/web1/etc"), ["2026-11-22T09-51-46Z", "2026-11-22T09-52-06Z", "latest"]);
    // A listing that was under way sees what stayed exactly once.
    let mut rest = Vec::new();
    let mut listing = ops.list(source, first[2].next).unwrap();
    while let Some(e) = ops.next(&mut listing) {
        rest.push(e.name);
    }
    assert_eq!(rest.iter().filter(|n| n.as_slice() == b"2026-11-22T09-52-06Z").count(), 1);

    memory.forget(id(2));
    memory.forget(id(3));
    let changes = ops.refresh().unwrap();
    let hosts = walk(&ops, "hosts");
    assert!(changes.contains(&Change::Name(hosts, "web1".into())));
    assert_eq!(names(&ops, "hosts"), [""; 0]);
}

#[test]
fn a_name_once_shown_is_kept() {
    let memory = Memory::new();
    let root = || memory.store.dir("", vec![memory.store.file("f", b"1")]);
    // One second, and ids of one beginning.
    let twin = |last: u8| {
        let mut bytes = [7; 32];
        bytes[31] = last;
        repo::id::SnapshotId(bytes)
    };
    let later = T0 + 600 * SECOND;
    for last in 1..=2 {
        memory.add(twin(last), "web1", "etc", T0, &["tag"], root());
    }
    memory.add(id(9), "web1", "etc", later, &[], root());
    let ops = ops(&memory);
    let dirs = ["hosts/web1/etc", "snapshots", "ids", "tags/tag"];
    let second = |dir: &str| {
        let mut all = names(&ops, dir);
        all.retain(|name| name.contains('~'));
        assert_eq!(all.len(), 1, "{dir}");
        all.remove(0)
    };
    let before = dirs.map(second);
    let inode = walk(&ops, &format!("hosts/web1/etc/{}", before[0]));
    memory.forget(twin(1));
    ops.refresh().unwrap();
    assert_eq!(dirs.map(second), before);
    assert_eq!(walk(&ops, &format!("hosts/web1/etc/{}", before[0])), inode);
    // A new one of that second does not take it either.
    memory.add(twin(3), "web1", "etc", T0, &[], root());
    ops.refresh().unwrap();
    assert_eq!(dirs.map(second), before);
    assert_eq!(names(&ops, "hosts/web1/etc").len(), 4);
    // A new mount sees the plain name.
    memory.forget(twin(3));
    let anew = Ops::new(memory.clone(), Appearance { owner: (7, 8), presentation: None, threads: 1 }).unwrap();
    assert!(names(&anew, "hosts/web1/etc").iter().all(|name| !name.contains('~')));
}

#[test]
fn names_of_one_file_share_an_inode() {
    let memory = Memory::new();
    let linked = |name: &str| {
        let mut e = memory.store.file(name, &[5; 9000]);
        e.link_group = Some([9; 32]);
        e
    };
    let sub = memory.store.dir("sub", vec![linked("c")]);
    let other = memory.store.file("other", b"x");
    memory.add(id(1), "web1", "etc", T0, &[], memory.store.dir("", vec![linked("a"), linked("b"), sub, other]));
    memory.add(id(2), "web1", "etc", T0 + SECOND, &[], memory.store.dir("", vec![linked("a")]));
    let ops = ops(&memory);
    let at = |name: &str| walk(&ops, &format!("{SNAPSHOT}/{name}"));
    assert_eq!((at("a"), at("a")), (at("b"), at("sub/c")));
    assert_eq!(ops.getattr(at("a")).unwrap().attr.nlink, 2);
    assert_eq!(ops.getattr(at("other")).unwrap().attr.nlink, 1);
    let elsewhere = walk(&ops, "hosts/web1/etc/2026-11-22T09-51-57Z/a");
    assert_ne!(at("a"), elsewhere, "another snapshot's is another file");
    assert_eq!(read_all(&ops, at("b"), 100_000).unwrap(), [5; 9000]);
}

#[test]
fn the_table_holds_what_the_kernel_holds() {
    let memory = Memory::new();
    let files = (0..300).map(|i| memory.store.file(&format!("f{i:03}"), b"x")).collect();
    memory.add(id(1), "web1", "etc", T0, &[], memory.store.dir("", files));
    let ops = ops(&memory);
    let dir = walk(&ops, SNAPSHOT);
    let listed = list(&ops, dir);
    assert_eq!((listed.len(), ops.held()), (300, 300));
    let first = listed[0].looked.attr.ino;
    assert_eq!(walk(&ops, &format!("{SNAPSHOT}/f000")), first);
    ops.forget(first, 1);
    assert!(ops.getattr(first).is_ok(), "looked up twice, forgotten once");
    ops.forget(first, 1);
    assert!(matches!(ops.getattr(first), Err(Fail::Stale)));
    assert_eq!(walk(&ops, &format!("{SNAPSHOT}/f000")), first, "the number comes back");
    ops.forget(first, u64::MAX);
    listed[1..].iter().for_each(|e| ops.forget(e.looked.attr.ino, 1));
    assert_eq!(ops.held(), 0);
}

#[test]
fn files_that_were_not_used_for_long_are_found_again() {
    // More than are kept whole.
    const FILES: usize = 20_000;
    let memory = Memory::new();
    let file = |i: usize| {
        let mut entry = memory.store.file(&format!("f{i:05}"), format!("content of {i}").as_bytes());
        entry.xattrs = vec![(b"user.number".to_vec(), XattrValue::Inline(i.to_string().into_bytes()))];
        entry.mode = 0o400 + (i % 8) as u32;
        entry
    };
    memory.add(id(1), "web1", "etc", T0, &[], memory.store.dir("", (0..FILES).map(file).collect()));
    let ops = ops(&memory);
    let listed = list(&ops, walk(&ops, SNAPSHOT));
    assert_eq!((listed.len(), ops.held()), (FILES, FILES));
    for (step, files) in [(1, FILES), (7919, 1000)] {
        for i in (0..files).map(|i| i * step % FILES) {
            let (entry, ino) = (&listed[i], listed[i].looked.attr.ino);
            assert_eq!(ops.getattr(ino).unwrap(), entry.looked, "{i}");
            assert_eq!(ops.xattr(ino, b"user.number").unwrap(), i.to_string().into_bytes());
            assert_eq!(read_all(&ops, ino, 100).unwrap(), format!("content of {i}").into_bytes());
        }
    }
    assert_eq!(ops.held(), FILES, "being found again is no lookup");
    listed.iter().for_each(|e| ops.forget(e.looked.attr.ino, 1));
    assert_eq!(ops.held(), 0);
    assert!(listed.iter().all(|e| matches!(ops.getattr(e.looked.attr.ino), Err(Fail::Stale))));
}

#[test]
fn damage_costs_only_what_needs_it_and_is_told_once() {
    let memory = Memory::new();
    let bad = memory.store.file("bad", &[1; 5000]);
    let Content::Extents(extents) = &bad.content else { panic!() };
    let repo::format::tree::Extent::Data { h, .. } = extents[0] else { panic!() };
    memory.store.damage(h);
    let good = memory.store.file("good", &[2; 5000]);
    memory.add(id(1), "web1", "etc", T0, &[], memory.store.dir("", vec![bad, good]));
    let ops = ops(&memory);
    let at = |name: &str| walk(&ops, &format!("{SNAPSHOT}/{name}"));
    for _ in 0..3 {
        assert_eq!(read_all(&ops, at("bad"), 1 << 20), Err(libc::EIO));
        assert_eq!(read_all(&ops, at("good"), 1 << 20).unwrap(), [2; 5000]);
    }
    let mut rest = Vec::new();
    assert_eq!(&*ops.read(at("bad"), 4096, 100, &mut rest).ok().unwrap(), [1; 100], "the second chunk is whole");
    let reports = memory.reports.lock();
    assert_eq!(reports.len(), 1, "{reports:?}");
    assert!(reports[0].starts_with(&format!("{SNAPSHOT}/bad: does not verify: packs/ab/abc")), "{reports:?}");
}

#[test]
fn a_damaged_piece_of_a_directory_leaves_the_rest() {
    let memory = Memory::new();
    let files: Vec<_> = (0..50).map(|i| memory.store.file(&format!("f{i:02}"), b"x")).collect();
    let mut bytes = Vec::new();
    files[7..14].iter().for_each(|e| e.encode(&mut bytes));
    let h = repo::crypto::hash::content_hash(repo::crypto::hash::ChunkKind::Tree, &bytes);
    memory.store.damage(h);
    memory.add(id(1), "web1", "etc", T0, &[], memory.store.dir("", files));
    let ops = ops(&memory);
    let dir = walk(&ops, SNAPSHOT);
    assert!(matches!(ops.lookup(dir, b"f03"), Ok(Found::Entry(_))));
    assert!(matches!(ops.lookup(dir, b"f30"), Ok(Found::Entry(_))));
    assert_eq!(errno(&ops.lookup(dir, b"f08").unwrap_err()), libc::EIO);
    let mut listing = ops.list(dir, 0).unwrap();
    let mut seen = 0;
    let mut at = 0;
    while let Some(e) = ops.next(&mut listing) {
        (seen, at) = (seen + 1, e.next);
    }
    assert_eq!(seen, 2 + 7);
    assert_eq!(ops.list(dir, at).err().map(|e| errno(&e)), Some(libc::EIO), "never a short listing");
}

#[test]
fn versions_show_each_content_once() {
    let memory = Memory::new();
    let s = &memory.store;
    let tree = |text: &[u8], more: Vec<Entry>| {
        let etc = s.dir("etc", [vec![s.file("hosts.conf", text), s.file("same", b"same")], more].concat());
        s.dir("", vec![etc])
    };
    memory.add(id(1), "web1", "etc", T0, &[], tree(b"one", vec![]));
    memory.add(id(2), "web1", "etc", T0 + SECOND, &[], tree(b"one", vec![s.file("new", b"n")]));
    let mut touched = tree(b"two", vec![]);
    touched.mode = 0o700;
    memory.add(id(3), "web1", "etc", T0 + 2 * SECOND, &[], touched);
    memory.add(id(4), "web1", "etc", T0 + 3 * SECOND, &[], tree(b"one", vec![]));
    let ops = ops(&memory);
    assert_eq!(names(&ops, "versions/web1"), ["etc"]);
    assert_eq!(names(&ops, "versions/web1/etc"), ["etc"]);
    assert_eq!(names(&ops, "versions/web1/etc/etc"), ["hosts.conf", "new", "same"]);
    let both = names(&ops, "versions/web1/etc/etc/hosts.conf");
    assert_eq!(both, ["2026-11-22T09-51-56Z.conf", "2026-11-22T09-51-58Z.conf"]);
    assert_eq!(names(&ops, "versions/web1/etc/etc/same"), ["2026-11-22T09-51-56Z"]);
    let two = walk(&ops, "versions/web1/etc/etc/hosts.conf/2026-11-22T09-51-58Z.conf");
    assert_eq!(read_all(&ops, two, 100).unwrap(), b"two");
    let perm = |path: &str| ops.getattr(walk(&ops, path)).unwrap().attr.perm;
    assert_eq!(perm("versions/web1/etc"), 0o500, "no more than the most private of the united");
    assert_eq!(perm("versions/web1/etc/etc"), 0o555);

    memory.add(id(5), "web1", "etc", T0 + 9 * SECOND, &[], tree(b"three", vec![]));
    let inode = walk(&ops, "versions/web1/etc/etc/hosts.conf");
    assert!(ops.refresh().unwrap().contains(&Change::Listing(inode)));
    assert_eq!(list(&ops, inode).len(), 3);
}

#[test]
fn everything_as_one_users() {
    let memory = Memory::new();
    let mut secret = memory.store.file("secret", b"x");
    secret.mode = 0o4600;
    secret.xattrs = vec![
        (b"system.posix_acl_access".to_vec(), XattrValue::Inline(vec![2])),
        (b"user.a".to_vec(), XattrValue::Inline(vec![1])),
    ];
    memory.add(id(1), "web1", "etc", T0, &[], memory.store.dir("", vec![secret]));
    let ops = presented(&memory, Some(Presentation { uid: 1, gid: 2, umask: 0o027 }));
    let ino = walk(&ops, &format!("{SNAPSHOT}/secret"));
    let attr = ops.getattr(ino).unwrap().attr;
    assert_eq!((attr.uid, attr.gid, attr.perm), (1, 2, 0o440));
    assert_eq!(ops.xattrs(ino).unwrap(), b"user.a\0");
    assert!(ops.xattr(ino, b"system.posix_acl_access").is_err());
    assert_eq!(ops.getattr(walk(&ops, "hosts")).unwrap().attr.perm, 0o550);
}
