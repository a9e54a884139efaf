use std::collections::BTreeMap;
use std::io::Cursor;

use super::*;
use crate::format::tree::{EntryType, XattrValue};
use crate::monitor::{Recording, Void};
use crate::path::SnapPath;
use crate::tree::builder::ChunkSink;
use crate::tree::fake::{Store, dir_of, file as small, file_of};

#[test]
fn a_file_s_bytes_with_holes_as_zeros() {
    let mut store = Store::default();
    let entry = file_of(&mut store, "f", &[Ok(b"head"), Err(200_000), Ok(b"tail")]);
    let mut out = Vec::new();
    file(&store, &entry, &mut out, &Void::default()).unwrap();
    assert_eq!(out.len() as u64, entry.size);
    assert!(out.starts_with(b"head\0") && out.ends_with(b"\0tail"));
    let mut target = tempfile::tempfile().unwrap();
    to_file(&store, &entry, &mut target, &Void::default()).unwrap();
    let mut back = Vec::new();
    target.seek(SeekFrom::Start(0)).unwrap();
    target.read_to_end(&mut back).unwrap();
    assert_eq!(back, out);
}

#[test]
fn a_damaged_file_is_an_error_and_gives_no_other_bytes() {
    let mut store = Store::default();
    let entry = file_of(&mut store, "f", &[Ok(b"head"), Ok(b"tail")]);
    store.lose(&entry);
    let mut out = Vec::new();
    assert_eq!(file(&store, &entry, &mut out, &Void::default()).unwrap_err().kind(), Kind::Damaged);
    assert!(out.is_empty());
    let root = dir_of(&mut store, "", vec![entry]);
    let failed = archive(&store, &SnapPath::root(), &root, &mut out, &Void::default()).unwrap_err();
    assert_eq!(failed.kind(), Kind::Damaged);
    assert!(failed.to_string().starts_with("cannot read /f: "), "{failed}");
}

#[test]
fn interrupted() {
    let mut store = Store::default();
    let entry = file_of(&mut store, "f", &[Err(1 << 40)]);
    let monitor = Recording::default();
    monitor.cancel();
    let e = file(&store, &entry, &mut Vec::new(), &monitor).unwrap_err();
    assert_eq!(e.kind(), Kind::Interrupted);
}

fn tree(store: &mut Store) -> Entry {
    let long = "n".repeat(200);
    let mut linked = file_of(store, "one", &[Ok(b"data"), Err(10_000)]);
    linked.link_group = Some([1; 32]);
    let mut second = linked.clone();
    second.name = b"two".to_vec();
    let mut attributes = small("attributes", b"x");
    (attributes.uid, attributes.gid, attributes.mode) = (3_000_000, 7, 0o4750);
    attributes.user = b"someone".to_vec();
    (attributes.mtime.secs, attributes.mtime.nanos) = (-5, 250_000_000);
    let h = store.put(ChunkKind::Data, vec![7; 2000]).unwrap();
    attributes.xattrs = vec![
        (b"user.big".to_vec(), XattrValue::Chunk { h, len: 2000 }),
        (b"user.small".to_vec(), XattrValue::Inline(b"a\0b".to_vec())),
    ];
    let mut link = Entry::new("link", EntryType::Symlink);
    link.target = vec![b't'; 300];
    link.size = 300;
    let mut device = Entry::new("null", EntryType::CharDevice);
    device.rdev = libc::makedev(1, 3);
    let mut bytes = small("x", b"not text");
    bytes.name = b"b\xff".to_vec();
    let socket = Entry::new("socket", EntryType::Socket);
    let fifo = Entry::new("fifo", EntryType::Fifo);
    let inner = dir_of(store, &long, vec![small(&long, b"deep")]);
    dir_of(store, "top", vec![linked, second, attributes, link, device, bytes, socket, fifo, inner])
}

#[test]
fn an_archive_reads_back() {
    let mut store = Store::default();
    let root = tree(&mut store);
    let mut out = Vec::new();
    let done = archive(&store, &SnapPath::new(b"top").unwrap(), &root, &mut out, &Void::default()).unwrap();
    assert_eq!(done, Archived { entries: 10, sockets: 1, failed: 0 });
    let mut seen = BTreeMap::new();
    for entry in ::tar::Archive::new(Cursor::new(&out)).entries().unwrap() {
        let mut entry = entry.unwrap();
        let extended: BTreeMap<String, Vec<u8>> = entry
            .pax_extensions()
            .unwrap()
            .map(|all| {
                all.map(|e| e.unwrap()).map(|e| (e.key().unwrap().to_owned(), e.value_bytes().to_vec())).collect()
            })
            .unwrap_or_default();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let link = entry.link_name_bytes().map(|l| l.to_vec());
        seen.insert(entry.path_bytes().to_vec(), (entry.header().clone(), extended, content, link));
    }
    let long = "n".repeat(200);
    assert_eq!(seen[&format!("top/{long}/{long}").into_bytes()].2, b"deep");
    assert!(seen[&b"top/"[..].to_vec()].0.entry_type().is_dir());
    assert_eq!(seen[&b"top/one".to_vec()].2.len(), 10_004);
    let (header, _, content, link) = &seen[&b"top/two".to_vec()];
    assert!(header.entry_type().is_hard_link() && content.is_empty());
    assert_eq!(link.as_deref(), Some(&b"top/one"[..]));
    assert_eq!(seen[&b"top/link".to_vec()].3.as_ref().unwrap().len(), 300);
    let (header, extended, ..) = &seen[&b"top/attributes".to_vec()];
    assert_eq!((header.uid().unwrap(), header.gid().unwrap(), header.mode().unwrap()), (3_000_000, 7, 0o4750));
    assert_eq!(header.username().unwrap(), Some("someone"));
    assert_eq!(extended["mtime"], b"-4.750000000");
    assert_eq!(extended["uid"], b"3000000");
    assert_eq!(extended["SCHILY.xattr.user.big"].len(), 2000);
    assert_eq!(extended["SCHILY.xattr.user.small"], b"a\0b");
    let device = &seen[&b"top/null".to_vec()].0;
    assert_eq!((device.device_major().unwrap(), device.device_minor().unwrap()), (Some(1), Some(3)));
    assert!(seen[&b"top/b\xff".to_vec()].1.is_empty());
}

#[test]
fn the_root_and_a_single_file() {
    let mut store = Store::default();
    let root = dir_of(&mut store, "", vec![small("a", b"1")]);
    let mut out = Vec::new();
    archive(&store, &SnapPath::root(), &root, &mut out, &Void::default()).unwrap();
    let names: Vec<Vec<u8>> =
        ::tar::Archive::new(Cursor::new(&out)).entries().unwrap().map(|e| e.unwrap().path_bytes().to_vec()).collect();
    assert_eq!(names, [b"./".to_vec(), b"a".to_vec()]);
}
