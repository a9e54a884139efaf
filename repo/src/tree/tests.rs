use std::collections::HashMap;

use parking_lot::Mutex;
use proptest::prelude::*;

use super::builder::{ChunkSink, DirBuilder, FileBuilder};
use super::{dir, file};
use crate::crypto::hash::{ChunkKind, content_hash};
use crate::error::{Error, Result};
use crate::format::tree::{Content, DirRef, Entry, EntryType, Extent, FileTime, XattrValue};
use crate::format::wire::Reader;
use crate::id::ContentHash;
use crate::limits::{TREE_CHUNK_MAX, TREE_CHUNK_MIN};
use crate::pack::source::{Chunk, FrameSource};

/// Chunks in memory.
#[derive(Default)]
struct Chunks(Mutex<HashMap<ContentHash, Vec<u8>>>);

impl ChunkSink for &Chunks {
    fn put(&mut self, kind: ChunkKind, bytes: Vec<u8>) -> Result<ContentHash> {
        let h = content_hash(kind, &bytes);
        self.0.lock().insert(h, bytes);
        Ok(h)
    }
}

impl FrameSource for Chunks {
    fn chunk(&self, h: &ContentHash, _: ChunkKind) -> Result<Chunk> {
        let bytes = self.0.lock().get(h).cloned().ok_or_else(|| Error::damaged("no such chunk"))?;
        let len = bytes.len();
        Ok(Chunk::new(std::sync::Arc::new(bytes), 0..len))
    }

    fn prefetch(&self, _: &[(ContentHash, ChunkKind)]) {}
}

fn fifo(name: String) -> Entry {
    Entry::new(name, EntryType::Fifo)
}

fn build(chunks: &Chunks, entries: &[Entry]) -> DirRef {
    let mut sink = chunks;
    let mut builder = DirBuilder::new();
    entries.iter().for_each(|e| builder.push(&mut sink, e).unwrap());
    builder.finish(&mut sink).unwrap()
}

#[test]
fn a_directory_of_any_size_lists_looks_up_and_starts_anywhere() {
    for n in [0usize, 1, 2, 100, 5_000, 120_000] {
        let chunks = Chunks::default();
        let entries: Vec<Entry> = (0..n).map(|i| fifo(format!("entry-{i:08}"))).collect();
        let dir = build(&chunks, &entries);
        assert_eq!(dir.entries, n as u64);
        assert_eq!(n > 5_000, dir.depth > 0 && n > 5_000);
        let listed: Vec<Entry> = dir::entries(&chunks, &dir, 0).collect::<Result<_>>().unwrap();
        assert!(listed == entries);
        for start in [0, 1, n / 3, n.saturating_sub(1), n, n + 5] {
            let mut from = dir::entries(&chunks, &dir, start as u64);
            assert!(from.next().transpose().unwrap() == entries.get(start).cloned());
        }
        for i in [0, n / 2, n.saturating_sub(1)] {
            let found = dir::lookup(&chunks, &dir, format!("entry-{i:08}").as_bytes()).unwrap();
            assert!(found == entries.get(i).cloned());
        }
        for absent in [&b"a"[..], b"entry-00000000x", b"zzz"] {
            assert!(dir::lookup(&chunks, &dir, absent).unwrap().is_none());
        }
        let sizes: Vec<usize> = chunks.0.lock().values().map(Vec::len).collect();
        assert!(sizes.iter().all(|s| *s <= TREE_CHUNK_MAX));
        if n == 120_000 {
            let mean = sizes.iter().sum::<usize>() / sizes.len();
            assert!((TREE_CHUNK_MIN * 2..TREE_CHUNK_MAX / 2).contains(&mean), "mean chunk {mean}");
        }
    }
}

#[test]
fn an_edit_of_a_large_directory_changes_few_chunks() {
    let chunks = Chunks::default();
    let mut entries: Vec<Entry> = (0..50_000).map(|i| fifo(format!("entry-{i:08}"))).collect();
    build(&chunks, &entries);
    let before = chunks.0.lock().len();
    entries.remove(25_000);
    entries[10_000].mode = 0o644;
    build(&chunks, &entries);
    let added = chunks.0.lock().len() - before;
    assert!(added <= 8, "{added} chunks for two edits");
}

#[test]
fn an_entry_that_could_not_be_read_back_is_refused_by_the_builder() {
    let chunks = Chunks::default();
    let mut huge = fifo("huge".into());
    huge.xattrs = (0..1100u32).map(|i| (format!("{i:04}").into_bytes(), XattrValue::Inline(vec![1; 1000]))).collect();
    assert!(DirBuilder::new().push(&mut &chunks, &huge).is_err());
    huge.xattrs.truncate(1000);
    let dir = build(&chunks, &[huge]);
    assert_eq!(dir::entries(&chunks, &dir, 0).next().unwrap().unwrap().xattrs.len(), 1000);
}

#[test]
fn names_out_of_order_are_refused_by_builder_and_reader() {
    let chunks = Chunks::default();
    let mut sink = &chunks;
    let mut builder = DirBuilder::new();
    builder.push(&mut sink, &fifo("b".into())).unwrap();
    assert!(builder.push(&mut sink, &fifo("a".into())).is_err());
    assert!(builder.push(&mut sink, &fifo("b".into())).is_err());
    let mut twice = Vec::new();
    fifo("b".into()).encode(&mut twice);
    fifo("b".into()).encode(&mut twice);
    assert!(crate::format::tree::decode_entries(&twice, |_| Ok(())).is_err());
}

/// A file of alternating data and holes, and its plain bytes.
fn sample(extents: &[(bool, usize)]) -> (Chunks, Content, Vec<u8>) {
    let chunks = Chunks::default();
    let mut sink = &chunks;
    let mut builder = FileBuilder::new();
    let mut plain = Vec::new();
    for (i, (hole, len)) in extents.iter().enumerate() {
        if *hole {
            plain.resize(plain.len() + len, 0);
            builder.push(&mut sink, Extent::Hole { len: *len as u64 }).unwrap();
        } else {
            let bytes: Vec<u8> = (0..*len).map(|j| (i * 31 + j) as u8).collect();
            plain.extend_from_slice(&bytes);
            let h = sink.put(ChunkKind::Data, bytes).unwrap();
            builder.push(&mut sink, Extent::Data { h, len: *len as u64 }).unwrap();
        }
    }
    let content = builder.finish(&mut sink).unwrap();
    (chunks, content, plain)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_file_reads_as_it_was_written(
        extents in prop::collection::vec((any::<bool>(), 1usize..200), 0..1500),
        reads in prop::collection::vec((0usize..200_000, 0usize..2_000), 1..20),
    ) {
        let (chunks, content, plain) = sample(&extents);
        for (offset, len) in reads {
            let mut buf = vec![0xaa; len];
            let n = file::read_at(&chunks, &content, offset as u64, &mut buf).unwrap();
            let end = plain.len().min(offset + len);
            let expected = if offset >= plain.len() { &[][..] } else { &plain[offset..end] };
            prop_assert_eq!(&buf[..n], expected);
            let size = plain.len() as u64;
            let at = |hole: bool| file::seek(&chunks, &content, size, offset as u64, hole).ok();
            let model = |hole: bool| {
                let mut start = 0;
                for (is_hole, len) in &extents {
                    if start + len > offset && *is_hole == hole && offset < plain.len() {
                        return Some(start.max(offset) as u64);
                    }
                    start += len;
                }
                (hole && offset < plain.len()).then_some(size)
            };
            prop_assert_eq!(at(false), model(false));
            prop_assert_eq!(at(true), model(true));
        }
        let mut streamed = Vec::new();
        file::stream(&chunks, &content, |at, piece| {
            assert_eq!(at, streamed.len() as u64);
            match piece {
                file::Piece::Data(bytes) => streamed.extend_from_slice(bytes),
                file::Piece::Hole(n) => streamed.resize(streamed.len() + n as usize, 0),
            }
            Ok(())
        }).unwrap();
        prop_assert_eq!(streamed, plain);
    }

    #[test]
    fn entries_survive_encoding_and_nothing_else_decodes(
        name in prop::collection::vec(any::<u8>().prop_filter("valid", |b| *b != 0 && *b != b'/'), 1..255),
        numbers in any::<(u16, u32, u32, i64, u32)>(),
        inline in prop::collection::vec(any::<u8>(), 0..256),
        xattrs in prop::collection::btree_map(prop::collection::vec(1u8.., 1..50), prop::collection::vec(any::<u8>(), 0..100), 0..5),
        flip in any::<(prop::sample::Index, u8)>(),
    ) {
        prop_assume!(name != b"." && name != b"..");
        let mut entry = Entry::new(name, EntryType::File);
        entry.mode = u32::from(numbers.0) & 0o7777;
        (entry.uid, entry.gid) = (numbers.1, numbers.2);
        entry.mtime = FileTime { secs: numbers.3, nanos: numbers.4 % 1_000_000_000 };
        entry.size = inline.len() as u64;
        entry.user = b"someone".to_vec();
        entry.xattrs = xattrs.into_iter().map(|(k, v)| (k, XattrValue::Inline(v))).collect();
        entry.content = Content::Inline(inline);
        let mut bytes = Vec::new();
        entry.encode(&mut bytes);
        let mut r = Reader::new(&bytes);
        let back = Entry::decode(&mut r).unwrap();
        prop_assert!(back == entry && r.is_empty());
        // A changed byte either fails or gives another entry that encodes to just those bytes: decoding is canonical.
        let at = flip.0.index(bytes.len());
        bytes[at] ^= flip.1 | 1;
        let mut r = Reader::new(&bytes);
        if let Ok(other) = Entry::decode(&mut r) {
            let used = bytes.len() - r.remaining();
            let mut again = Vec::new();
            other.encode(&mut again);
            prop_assert_eq!(&again[..], &bytes[..used]);
        }
    }
}
