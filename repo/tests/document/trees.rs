//! What entries are made of, and how listings and their index nodes are cut.

use std::collections::BTreeMap;

use repo::crypto::hash::{ChunkKind, content_hash};
use repo::error::Result;
use repo::format::node::NodeWriter;
use repo::format::tree::{Content, Entry, EntryType, Extent, XattrValue};
use repo::format::wire::{Reader, Writer};
use repo::id::ContentHash;
use repo::tree::builder::{ChunkSink, DirBuilder, FileBuilder};

use crate::entries::{device, encoded, full, of_content, symlink};
use crate::{rows, section};

/// Chunks in the order they were made.
#[derive(Default)]
struct Made(Vec<(ChunkKind, Vec<u8>)>);

impl ChunkSink for Made {
    fn put(&mut self, kind: ChunkKind, bytes: Vec<u8>) -> Result<ContentHash> {
        let h = content_hash(kind, &bytes);
        self.0.push((kind, bytes));
        Ok(h)
    }
}

#[test]
fn types_and_fields_have_these_numbers() {
    let name = |kind| match kind {
        EntryType::File => "regular file",
        EntryType::Dir => "directory",
        EntryType::Symlink => "symbolic link",
        EntryType::Fifo => "named pipe",
        EntryType::Socket => "socket",
        EntryType::CharDevice => "character device",
        EntryType::BlockDevice => "block device",
    };
    use EntryType::*;
    for kind in [File, Dir, Symlink, Fifo, Socket, CharDevice, BlockDevice] {
        let told = rows("## Trees").into_iter().any(|r| r[0] == (kind as u8).to_string() && r[1] == name(kind));
        assert!(told, "{kind:?}");
    }
    let table: Vec<(u64, &str)> = rows("## Trees")
        .iter()
        .filter(|r| ["yes", "no"].contains(&r[1]))
        .map(|r| (r[0].parse().unwrap(), r[1]))
        .collect();
    let mut seen = BTreeMap::new();
    for e in [full(), symlink(), device()] {
        seen.extend(fields(&e).into_iter().filter(|(number, _)| *number < 1000));
    }
    assert_eq!(table, seen.into_iter().collect::<Vec<_>>());
    for number in 9..=40u64 {
        // Nothing beyond the table is understood.
        let mut bytes = Writer::new();
        let body = |w: &mut Writer, critical: u64| {
            w.lp_bytes(b"x");
            w.u8(3);
            (0..6).for_each(|_| w.varint(0));
            w.varint(number << 1 | critical);
            w.lp_bytes(b"v");
        };
        let mut w = Writer::new();
        body(&mut w, 1);
        bytes.lp_bytes(&w.into_vec());
        let refused = Entry::decode(&mut Reader::new(bytes.as_slice())).err().unwrap();
        assert_eq!(refused.kind(), repo::error::Kind::NewerFormat);
    }
}

/// An entry's fields: number, and whether they are critical.
fn fields(e: &Entry) -> Vec<(u64, &'static str)> {
    let bytes = encoded(e);
    let mut r = Reader::new(&bytes);
    let mut r = Reader::new(r.lp_bytes(1 << 20).unwrap());
    r.lp_bytes(255).unwrap();
    r.u8().unwrap();
    for _ in 0..6 {
        r.varint().unwrap();
    }
    let mut out = Vec::new();
    while !r.is_empty() {
        let tag = r.varint().unwrap();
        r.lp_bytes(1 << 20).unwrap();
        out.push((tag >> 1, if tag & 1 == 1 { "yes" } else { "no" }));
    }
    out
}

#[test]
fn tree_chunks_are_cut_as_told() {
    assert!(section("## Trees").contains("`d × 12288 < n × 2^32`"));
    let entries: Vec<Entry> = (0..4000)
        .map(|i| {
            let mut e = of_content(&format!("{i:06}-{}", "x".repeat(i % 90)), Content::Inline(vec![]), 0);
            if i % 97 == 0 {
                e.xattrs =
                    (0..(i / 100) as u8).map(|n| (vec![b'a', n + 1], XattrValue::Inline(vec![n; 1000]))).collect();
            }
            if i == 2500 {
                e.xattrs = (0..80).map(|n| (vec![b'a', n + 1], XattrValue::Inline(vec![n; 1000]))).collect();
            }
            e
        })
        .collect();
    let mut told = vec![Vec::new()];
    for e in &entries {
        let bytes = encoded(e);
        let last = told.last_mut().unwrap();
        if !last.is_empty() && last.len() + bytes.len() > 65536 {
            told.push(Vec::new());
        }
        let last = told.last_mut().unwrap();
        last.extend_from_slice(&bytes);
        let d = u64::from(u32::from_le_bytes(blake3::hash(&e.name).as_bytes()[..4].try_into().unwrap()));
        if last.len() >= 4096 && d * 12288 < (bytes.len() as u64) << 32 {
            told.push(Vec::new());
        }
    }
    told.retain(|chunk| !chunk.is_empty());
    let mut made = Made::default();
    let mut builder = DirBuilder::new();
    entries.iter().for_each(|e| builder.push(&mut made, e).unwrap());
    builder.finish(&mut made).unwrap();
    let real: Vec<Vec<u8>> = made.0.into_iter().filter(|(kind, _)| *kind == ChunkKind::Tree).map(|(_, b)| b).collect();
    assert!(real.len() > 20 && told == real);
}

#[test]
fn nodes_are_cut_as_told() {
    assert!(section("## Index nodes").contains("longer than 65217 bytes"));
    let hash = |n: u32| ContentHash::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes());
    let extents: Vec<Extent> = (0..20_000u32)
        .map(|n| match n % 3 {
            0 => Extent::Hole { len: u64::from(n) + 1 },
            // A stretch without any hash that ends a node.
            _ if (5000..9000).contains(&n) => Extent::Data { h: ContentHash::from_bytes([1; 32]), len: 1 },
            _ => Extent::Data { h: hash(n), len: u64::from(n) + 1 },
        })
        .collect();
    let mut told = vec![];
    let mut node = NodeWriter::extents();
    for extent in &extents {
        node.extent(extent);
        let ends = matches!(extent, Extent::Data { h, .. } if h.expose()[0] == 0);
        if node.len() > 65217 || (node.len() >= 4096 && ends) {
            told.push(std::mem::replace(&mut node, NodeWriter::extents()).into_vec());
        }
    }
    told.push(node.into_vec());
    let mut made = Made::default();
    let mut builder = FileBuilder::new();
    extents.iter().for_each(|e| builder.push(&mut made, *e).unwrap());
    builder.finish(&mut made).unwrap();
    let real: Vec<Vec<u8>> = made.0.into_iter().map(|(_, bytes)| bytes).filter(|bytes| bytes[0] == 0).collect();
    assert!(real.len() > 20 && told == real);
}
