//! Entries of every sort.

use repo::format::tree::{Content, Entry, EntryType, FileTime, UnknownField, XattrValue};
use repo::format::wire::Reader;
use repo::id::ContentHash;

pub fn entry(name: &str, kind: EntryType) -> Entry {
    let mut e = Entry::new(name, kind);
    (e.mode, e.uid, e.gid) = (0o644, 1000, 100);
    e.mtime = FileTime { secs: -2, nanos: 999_999_999 };
    e
}

pub fn encoded(e: &Entry) -> Vec<u8> {
    let mut out = Vec::new();
    e.encode(&mut out);
    assert!(Entry::decode(&mut Reader::new(&out)).unwrap() == *e);
    out
}

/// An entry with every field.
pub fn full() -> Entry {
    let mut e = entry("full", EntryType::File);
    (e.user, e.group) = (b"alice".to_vec(), b"users".to_vec());
    e.xattrs = vec![
        (b"user.a".to_vec(), XattrValue::Inline(b"1".to_vec())),
        (b"user.b".to_vec(), XattrValue::Chunk { h: ContentHash::from_bytes([5; 32]), len: 2000 }),
    ];
    e.link_group = Some([6; 32]);
    e.unstable = true;
    e.size = 3;
    e.content = Content::Inline(b"abc".to_vec());
    e.unknown = vec![UnknownField { number: 1000, bytes: b"?".to_vec() }];
    e
}

pub fn of_content(name: &str, content: Content, size: u64) -> Entry {
    let kind = if matches!(content, Content::Dir(_)) { EntryType::Dir } else { EntryType::File };
    Entry { content, size, ..entry(name, kind) }
}

pub fn symlink() -> Entry {
    Entry { target: b"../to".to_vec(), size: 5, ..entry("link", EntryType::Symlink) }
}

pub fn device() -> Entry {
    Entry { rdev: 0x103, ..entry("null", EntryType::CharDevice) }
}
