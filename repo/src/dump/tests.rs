use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use super::*;
use crate::crypto::hash::ChunkKind;
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

/// What GNU tar makes of an archive.
fn extracted(archive: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("archive.tar"), archive).unwrap();
    let words = ["--xattrs", "--xattrs-include=*", "--acls", "-xpf", "archive.tar"];
    let out = Command::new("tar").args(words).current_dir(dir.path()).output().expect("GNU tar");
    assert!(out.status.success() && out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
    dir
}

fn archived(store: &Store, root: &Entry) -> Vec<u8> {
    let mut out = Vec::new();
    let done = archive(store, &SnapPath::new(b"top").unwrap(), root, &mut out, &Void::default()).unwrap();
    assert_eq!(done.failed, 0);
    out
}

#[test]
fn names_of_one_symbolic_link_are_links_to_the_first() {
    let mut store = Store::default();
    let mut entries = Vec::new();
    // Longer than the other's name, and too long for the header: neither may be left in the second member.
    for (group, target) in [(1, vec![b't'; 60]), (2, vec![b'u'; 300])] {
        for name in ["a", "b"] {
            let mut link = Entry::new(format!("{name}{group}").as_str(), EntryType::Symlink);
            link.target = target.clone();
            link.size = target.len() as u64;
            link.link_group = Some([group; 32]);
            entries.push(link);
        }
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let root = dir_of(&mut store, "top", entries);
    let dir = extracted(&archived(&store, &root));
    let at = |name: &str| dir.path().join("top").join(name);
    for (group, len) in [(1, 60), (2, 300)] {
        let (a, b) = (at(&format!("a{group}")), at(&format!("b{group}")));
        assert_eq!(std::fs::read_link(&a).unwrap().as_os_str().len(), len);
        assert_eq!(a.symlink_metadata().unwrap().ino(), b.symlink_metadata().unwrap().ino());
    }
}

/// An access control list as the system keeps it.
fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut out = 2u32.to_le_bytes().to_vec();
    for (tag, bits, id) in entries {
        out.extend(tag.to_le_bytes().into_iter().chain(bits.to_le_bytes()).chain(id.to_le_bytes()));
    }
    out
}

fn getfacl(path: &Path) -> String {
    let out = Command::new("getfacl").args(["-cnpE"]).arg(path).output().expect("getfacl");
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

#[test]
fn access_control_lists_come_back() {
    const NONE: u32 = u32::MAX;
    let access = list(&[(1, 6, NONE), (2, 7, 1234), (4, 4, NONE), (8, 5, 77), (16, 5, NONE), (32, 0, NONE)]);
    let default = list(&[(1, 7, NONE), (2, 5, 4321), (4, 5, NONE), (16, 5, NONE), (32, 1, NONE)]);
    let mut store = Store::default();
    let mut file = small("file", b"x");
    file.mode = 0o650;
    file.xattrs = vec![
        (b"system.posix_acl_access".to_vec(), XattrValue::Inline(access)),
        (b"user.note".to_vec(), XattrValue::Inline(b"kept".to_vec())),
    ];
    let mut inner = dir_of(&mut store, "inner", vec![]);
    inner.mode = 0o755;
    inner.xattrs = vec![(b"system.posix_acl_default".to_vec(), XattrValue::Inline(default))];
    let root = dir_of(&mut store, "top", vec![file, inner]);
    let dir = extracted(&archived(&store, &root));
    let file = dir.path().join("top/file");
    let wanted = "user::rw-\nuser:1234:rwx\ngroup::r--\ngroup:77:r-x\nmask::r-x\nother::---";
    assert_eq!(getfacl(&file), wanted);
    assert_eq!(xattr::get(&file, "user.note").unwrap().as_deref(), Some(&b"kept"[..]));
    let found = getfacl(&dir.path().join("top/inner"));
    assert!(
        found.ends_with(
            "default:user::rwx\ndefault:user:4321:r-x\ndefault:group::r-x\ndefault:mask::r-x\ndefault:other::--x"
        ),
        "{found}"
    );
}

#[test]
fn a_list_that_makes_no_sense_is_reported() {
    let mut store = Store::default();
    let mut file = small("file", b"x");
    file.xattrs = vec![(b"system.posix_acl_access".to_vec(), XattrValue::Inline(b"junk".to_vec()))];
    let root = dir_of(&mut store, "top", vec![file]);
    let done = archive(&store, &SnapPath::root(), &root, &mut Vec::new(), &Void::default()).unwrap();
    assert_eq!((done.entries, done.failed), (2, 1));
}

/// Where a file has data, as the system says.
fn regions(path: &Path) -> Vec<(i64, i64)> {
    use nix::unistd::{Whence, lseek};
    let file = File::open(path).unwrap();
    let (mut out, mut at) = (Vec::new(), 0);
    while let Ok(data) = lseek(&file, at, Whence::SeekData) {
        at = lseek(&file, data, Whence::SeekHole).unwrap();
        out.push((data, at));
    }
    out
}

#[test]
fn holes_come_back_as_holes_and_cost_nothing() {
    const TIB: u64 = 1 << 40;
    const BIG: u64 = 16 << 20;
    let mut store = Store::default();
    let block = |fill: u8| vec![fill; 64 * 1024];
    let (one, two) = (block(1), block(2));
    let long = "n".repeat(150);
    let entries = vec![
        file_of(&mut store, "all hole", &[Err(TIB)]),
        file_of(&mut store, "both ends", &[Err(BIG), Ok(&one), Ok(&two), Err(BIG), Ok(&two), Err(BIG)]),
        file_of(&mut store, "data last", &[Ok(&one), Err(BIG), Ok(b"the end")]),
        file_of(&mut store, &long, &[Err(BIG), Ok(b"x")]),
        small("small", b"no holes"),
    ];
    let wanted: Vec<(String, u64)> =
        entries.iter().map(|e| (String::from_utf8(e.name.clone()).unwrap(), e.size)).collect();
    let root = dir_of(&mut store, "top", entries);
    let archive = archived(&store, &root);
    assert!(archive.len() < 600_000, "{}", archive.len());
    let dir = extracted(&archive);
    for (name, size) in wanted {
        assert_eq!(dir.path().join("top").join(&name).metadata().unwrap().len(), size, "{name}");
    }
    let at = |name: &str| dir.path().join("top").join(name);
    assert_eq!(regions(&at("all hole")), []);
    let (big, two_blocks, one_block) = (BIG as i64, 128 * 1024, 64 * 1024);
    let second = 2 * big + two_blocks;
    assert_eq!(regions(&at("both ends")), [(big, big + two_blocks), (second, second + one_block)]);
    let content = std::fs::read(at("both ends")).unwrap();
    assert!(content[BIG as usize..][..64 * 1024] == one && content[second as usize..][..64 * 1024] == two);
    assert!(std::fs::read(at("data last")).unwrap().ends_with(b"\0the end"));
    assert_eq!(std::fs::read_dir(dir.path().join("top")).unwrap().count(), 5);
}

/// Takes so many bytes before the user stops it, and counts what comes after that.
struct StopsAt<'a> {
    left: u64,
    after: u64,
    monitor: &'a Recording,
}

impl Write for StopsAt<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.left == 0 {
            self.after += bytes.len() as u64;
        }
        self.left = self.left.saturating_sub(bytes.len() as u64);
        if self.left == 0 {
            self.monitor.cancel();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_archive_can_be_stopped_within_a_file() {
    let mut store = Store::default();
    let blocks: Vec<Vec<u8>> = (0..64).map(|i| vec![i; 64 * 1024]).collect();
    let pieces: Vec<std::result::Result<&[u8], u64>> = blocks.iter().map(|b| Ok(b.as_slice())).collect();
    let file = file_of(&mut store, "f", &pieces);
    let root = dir_of(&mut store, "", vec![file]);
    let monitor = Recording::default();
    let mut out = StopsAt { left: 100_000, after: 0, monitor: &monitor };
    let e = archive(&store, &SnapPath::root(), &root, &mut out, &monitor).unwrap_err();
    assert_eq!(e.kind(), Kind::Interrupted);
    // Not even an archive's end.
    assert_eq!(out.after, 0);
}
