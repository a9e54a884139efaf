//! `docs/format.md` against the program: offsets, tables, limits, rules and vectors are read from the page.

use std::collections::BTreeMap;

use fastcdc::v2020::{MASKS, get_gear_with_seed};
use repo::chunker::ChunkerParams;
use repo::compress::Codec;
use repo::crypto::hash::{ChunkKind, content_hash};
use repo::crypto::keys::{FrameKind, Keyring, Keys};
use repo::crypto::slot::Argon2Cost;
use repo::error::Result;
use repo::format::config::Config;
use repo::format::footer::{Footer, RollupEntry, decode_rollup, encode_rollup};
use repo::format::manifest::{Manifest, Stats};
use repo::format::node::{DirChild, FileChild, NodeWriter, decode};
use repo::format::sidecar::{Record, Stat, check};
use repo::format::tree::{Content, DirRef, Entry, EntryType, Extent, FileTime, UnknownField, XattrValue};
use repo::format::wire::{Reader, Writer};
use repo::format::{pack, record};
use repo::id::{ContentHash, PackId, RepoId, SessionId, SnapshotId, hex};
use repo::limits;
use repo::tree::builder::{ChunkSink, DirBuilder, FileBuilder};

const DOCUMENT: &str = include_str!("../../docs/format.md");

/// The text under a heading, up to the next of its kind.
fn section(heading: &str) -> &'static str {
    let from = DOCUMENT.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no heading {heading}"));
    let text = &DOCUMENT[from + heading.len() + 2..];
    let marks = heading.split(' ').next().unwrap();
    text.split(&format!("\n{marks} ")).next().unwrap()
}

/// The cells of a section's table rows.
fn rows(heading: &str) -> Vec<Vec<&'static str>> {
    let lines = section(heading).lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    lines.map(|line| line.split(" | ").collect()).collect()
}

/// The value in the row `| name | value |` anywhere.
fn vector(name: &str) -> &'static str {
    let row = DOCUMENT.lines().find_map(|line| line.strip_prefix(&format!("| {name} | `")));
    row.and_then(|rest| rest.strip_suffix("` |")).unwrap_or_else(|| panic!("no row {name}"))
}

/// The lines `offset length text` of a section's first block.
fn offsets(heading: &str) -> Vec<(usize, usize, &'static str)> {
    let block = section(heading).split("```").nth(1).unwrap();
    let parse = |line: &'static str| {
        let (offset, rest) = line.trim_start().split_once(' ')?;
        let (len, text) = rest.trim_start().split_once(' ')?;
        Some((offset.parse().ok()?, len.parse().ok()?, text.trim_start()))
    };
    block.lines().filter_map(parse).collect()
}

#[test]
fn the_config_has_these_offsets() {
    let keys = Keys::derive(&Keyring::generate(), RepoId([7; 32]));
    let chunker = ChunkerParams { id: 1, min: 66, avg: 258, max: 1026 };
    let config = Config { version: 1, repo_id: keys.repo_id(), chunker, pack_size: 5 << 20, owner_public: [9; 32] };
    let bytes = config.encode(&keys);
    let values: Vec<Vec<u8>> = vec![
        b"PACKMULE".to_vec(),
        vec![1, 0],
        vec![7; 32],
        vec![1, 0],
        66u32.to_le_bytes().to_vec(),
        258u32.to_le_bytes().to_vec(),
        1026u32.to_le_bytes().to_vec(),
        (5u32 << 20).to_le_bytes().to_vec(),
        vec![9; 32],
        keys.config_mac(&bytes[..92]).to_vec(),
        blake3::derive_key(repo::crypto::context::FILE_CHECKSUM, &bytes[..124]).to_vec(),
    ];
    let told = offsets("## Config");
    assert_eq!(told.len(), values.len());
    let mut at = 0;
    for ((offset, len, text), value) in told.into_iter().zip(values) {
        assert_eq!((offset, len), (at, value.len()), "{text}");
        assert_eq!(bytes[offset..offset + len], value, "{text}");
        at += len;
    }
    assert_eq!(at, bytes.len());
    assert!(DOCUMENT.contains(&format!("the config, {at} bytes")));
}

#[test]
fn a_packs_header_has_these_offsets() {
    let bytes = pack::header(FrameKind::Tree);
    let values: [&[u8]; 4] = [b"PKMLPACK", &[1, 0], &[1], &[0; 5]];
    let told = offsets("## Packs");
    assert_eq!(told.len(), values.len());
    let mut at = 0;
    for ((offset, len, text), value) in told.into_iter().zip(values) {
        assert_eq!((offset, len, &bytes[at..at + len]), (at, value.len(), value), "{text}");
        at += len;
    }
    assert_eq!(at, pack::HEADER);
    assert_eq!(pack::trailer(0x0102), *b"\x02\x01\0\0PKMLPEND");
    assert!(section("## Packs").contains("16 + F + S   4  S\n               8  \"PKMLPEND\""));
}

#[test]
fn the_limits_are_these() {
    let real: BTreeMap<&str, usize> = [
        ("config, key slot", limits::MAX_SMALL_OBJECT),
        ("key slots", 1024),
        ("master keys", repo::crypto::keys::MAX_EPOCHS),
        ("chunk by the chunker", limits::MAX_CHUNK),
        ("frame, raw", limits::MAX_FRAME_RAW),
        ("frame, chunks", limits::MAX_FRAME_CHUNKS),
        ("pack, frames", limits::MAX_PACK_FRAMES),
        ("pack size in the config", limits::PACK_SIZE_MAX),
        ("pack size in the config, at least", limits::PACK_SIZE_MIN),
        ("footer, sealed", limits::MAX_FOOTER),
        ("roll-up, sealed", repo::follow::MAX_ROLLUP),
        ("manifest, sealed", limits::MAX_MANIFEST),
        ("manifest, paths or tags", repo::format::manifest::MAX_LIST),
        ("manifest, one text or path", repo::format::manifest::MAX_TEXT),
        ("log record, sealed", limits::MAX_LOG_RECORD),
        ("log record, one text", record::MAX_TEXT),
        ("log record, tags", record::MAX_TAGS),
        ("entry, body", limits::MAX_ENTRY),
        ("name", limits::MAX_NAME),
        ("symbolic link's target", limits::MAX_SYMLINK),
        ("extended attributes of an entry", limits::MAX_XATTRS),
        ("extended attribute in the entry", limits::XATTR_INLINE),
        ("extended attributes in the entry together", limits::XATTRS_INLINE),
        ("extended attribute", limits::MAX_XATTR_VALUE),
        ("file in its entry", limits::FILE_INLINE),
        ("extents in an entry", limits::EXTENTS_INLINE),
        ("tree chunk, at least", limits::TREE_CHUNK_MIN),
        ("tree chunk, about", limits::TREE_CHUNK_AVG),
        ("tree chunk", limits::TREE_CHUNK_MAX),
        ("index nodes above one another", usize::from(limits::MAX_NODE_DEPTH)),
        ("directories below one another", limits::MAX_DEPTH),
    ]
    .into();
    let mut told: BTreeMap<&str, usize> = BTreeMap::new();
    for row in rows("## Limits").into_iter().skip(2) {
        told.insert(row[0], row[1].parse().unwrap());
    }
    assert_eq!(told, real);
    let cost = Argon2Cost::DEFAULT;
    assert_eq!((cost.memory_kib(), cost.passes(), cost.lanes()), (64 * 1024, 3, 4));
    assert!(DOCUMENT.contains("New passphrase slots use 64 MiB, 3 passes, 4 lanes."));
    let most = (Argon2Cost::MAX_MEMORY_KIB, Argon2Cost::MAX_PASSES, Argon2Cost::MAX_LANES);
    assert_eq!(most, (1 << 20, 64, 16));
    assert!(DOCUMENT.contains("refuses more than 1 GiB, 64 passes or 16 lanes"));
}

// Chunks.

/// The gear table as the page has it.
fn gear() -> Vec<u64> {
    let block = section("## Chunks").split("```").nth(3).unwrap();
    block.split_whitespace().map(|word| u64::from_str_radix(word, 16).unwrap()).collect()
}

fn masks() -> BTreeMap<u32, u64> {
    let row =
        |row: Vec<&'static str>| Some((row[0].parse().ok()?, u64::from_str_radix(row[1].trim_matches('`'), 16).ok()?));
    rows("## Chunks").into_iter().filter_map(row).collect()
}

/// The page's rule, word by word.
fn cut_as_told(params: ChunkerParams, gear: &[u64], masks: &BTreeMap<u32, u64>, data: &[u8]) -> usize {
    if data.len() <= params.min as usize {
        return data.len();
    }
    let bits = f64::from(params.avg).log2().round() as u32;
    let n = data.len().min(params.max as usize);
    let mut hash = 0u64;
    for i in params.min as usize..n & !1 {
        hash = (hash << 1).wrapping_add(gear[usize::from(data[i])]);
        let mask = if i < params.avg as usize { masks[&(bits + 1)] } else { masks[&(bits - 1)] };
        if hash & mask == 0 {
            return i;
        }
    }
    n
}

/// The page's sample.
fn sample(len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(b"packmule chunker vector").finalize_xof().fill(&mut out);
    out
}

fn cuts(data: &[u8], cut: impl Fn(&[u8]) -> usize) -> Vec<usize> {
    let mut rest = data;
    let mut out = Vec::new();
    while !rest.is_empty() {
        let n = cut(rest);
        out.push(n);
        rest = &rest[n..];
    }
    out
}

#[test]
fn the_gear_table_and_masks_are_frozen() {
    let (real, _) = get_gear_with_seed(0);
    assert_eq!(gear(), real.to_vec());
    let masks = masks();
    assert_eq!(masks.keys().copied().collect::<Vec<_>>(), (7..=21).collect::<Vec<_>>());
    for (n, mask) in masks {
        assert_eq!(MASKS[n as usize], mask, "mask {n}");
    }
}

#[test]
fn chunks_are_cut_as_told() {
    let (gear, masks) = (gear(), masks());
    let data = sample(2 << 20);
    let small = ChunkerParams { id: 1, min: 4 << 10, avg: 16 << 10, max: 64 << 10 };
    for (params, name) in [(ChunkerParams::DEFAULT, "cuts, default"), (small, "cuts, 4 16 64 KiB")] {
        let real = cuts(&data, |rest| params.cut(rest));
        let text = real.iter().map(usize::to_string).collect::<Vec<_>>().join(" ");
        assert_eq!(text, vector(name));
        assert_eq!(cuts(&data, |rest| cut_as_told(params, &gear, &masks, rest)), real);
    }
    let mut odd = vec![small, ChunkerParams::DEFAULT];
    odd.extend(
        [(64, 256, 1024), (64, 300, 1024), (2048, 5000, 9000), (64, 1 << 19, 1 << 20), (500, 724, 1024)]
            .map(|(min, avg, max)| ChunkerParams { id: 1, min, avg, max }),
    );
    for params in odd {
        params.validate().unwrap();
        // Random, and with stretches that never cut; of lengths around every bound, odd ones too.
        for (from, len) in [(0, 300_001), (7, 65_535), (11, 4097), (1000, 16_383), (5, 1025), (9, 131_073)] {
            let mut piece = data[from..from + len].to_vec();
            for fill in [0, len / 2] {
                piece[..fill].fill(0);
                let told = cuts(&piece, |rest| cut_as_told(params, &gear, &masks, rest));
                assert_eq!(cuts(&piece, |rest| params.cut(rest)), told, "{params:?} {len}");
            }
        }
    }
}

// Trees.

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

fn entry(name: &str, kind: EntryType) -> Entry {
    let mut e = Entry::new(name, kind);
    (e.mode, e.uid, e.gid) = (0o644, 1000, 100);
    e.mtime = FileTime { secs: -2, nanos: 999_999_999 };
    e
}

fn encoded(e: &Entry) -> Vec<u8> {
    let mut out = Vec::new();
    e.encode(&mut out);
    assert!(Entry::decode(&mut Reader::new(&out)).unwrap() == *e);
    out
}

/// An entry with every field.
fn full() -> Entry {
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

fn of_content(name: &str, content: Content, size: u64) -> Entry {
    let kind = if matches!(content, Content::Dir(_)) { EntryType::Dir } else { EntryType::File };
    Entry { content, size, ..entry(name, kind) }
}

fn symlink() -> Entry {
    Entry { target: b"../to".to_vec(), size: 5, ..entry("link", EntryType::Symlink) }
}

fn device() -> Entry {
    Entry { rdev: 0x103, ..entry("null", EntryType::CharDevice) }
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

// Vectors.

fn h(n: u8) -> ContentHash {
    ContentHash::from_bytes([n; 32])
}

fn footer() -> Footer {
    let mut footer = Footer::new(FrameKind::Tree, SessionId([3; 32]));
    footer.push(240, 300, Codec::Zstd, 0, &[(ChunkKind::Tree, h(1), 200), (ChunkKind::Node, h(2), 100)]);
    footer.push(50, 10, Codec::None, 1, &[(ChunkKind::Data, h(3), 10)]);
    assert!(Footer::decode(&footer.encode()).unwrap() == footer);
    footer
}

fn manifest() -> Manifest {
    let stats: Vec<u8> = (1..=15).collect();
    let mut w = Writer::new();
    stats.iter().for_each(|n| w.varint(u64::from(*n)));
    Manifest {
        id: SnapshotId([2; 32]),
        host: "web1".into(),
        source: "srv".into(),
        username: "root".into(),
        program: "packmule 1".into(),
        paths: vec![b"/srv".to_vec()],
        tags: vec!["ä".into()],
        captured: -1,
        captured_end: 2,
        recorded: 3,
        parent: Some(SnapshotId([4; 32])),
        root: of_content("root", Content::Dir(DirRef { entries: 2, depth: 0, h: h(1) }), 0),
        sidecar: Some(Content::Extents(vec![Extent::Data { h: h(5), len: 40 }])),
        stats: Stats {
            files: 1,
            dirs: 2,
            others: 3,
            bytes: 4,
            files_new: 5,
            files_changed: 6,
            files_unmodified: 7,
            dirs_new: 8,
            dirs_changed: 9,
            dirs_unmodified: 10,
            data_added: 11,
            data_stored: 12,
            chunks_new: 13,
            errors: 14,
            unstable: 15,
        },
    }
}

fn sidecar() -> Vec<u8> {
    let stat = Stat { ino: 300, ctime: FileTime { secs: -2, nanos: 5 } };
    let mut w = Writer::new();
    for record in [
        Record::Entry { check: check(b"dir"), dir: true, stat },
        Record::Entry { check: check(b"file"), dir: false, stat },
        Record::Leave,
        Record::Leave,
    ] {
        record.encode(&mut w);
    }
    w.into_vec()
}

#[test]
fn vectors() {
    let extents = vec![Extent::Hole { len: 4096 }, Extent::Data { h: h(1), len: 5000 }];
    let mut file_extents = NodeWriter::extents();
    extents.iter().for_each(|e| file_extents.extent(e));
    let mut file_nodes = NodeWriter::file();
    file_nodes.file_child(&FileChild { len: 9096, h: h(1) });
    let mut dir_node = NodeWriter::dir();
    dir_node.dir_child(&DirChild { first: b"a".to_vec(), entries: 300, h: h(1) });
    dir_node.dir_child(&DirChild { first: b"b".to_vec(), entries: 1, h: h(2) });
    let nodes = [file_extents.into_vec(), file_nodes.into_vec(), dir_node.into_vec()];
    nodes.iter().for_each(|node| drop(decode(node).unwrap()));
    let rollup = encode_rollup(&[RollupEntry { id: PackId([8; 32]), size: 400, sealed_footer: vec![9; 50] }]);
    assert_eq!(decode_rollup(&rollup).unwrap().len(), 1);
    let manifest = manifest().encode();
    assert!(Manifest::decode(&manifest, &SnapshotId([2; 32])).unwrap().encode() == manifest);
    let values = [
        ("footer", footer().encode()),
        ("roll-up", rollup),
        ("entry, every field", encoded(&full())),
        ("entry, form 0, empty file", encoded(&of_content("empty", Content::Inline(vec![]), 0))),
        ("entry, form 1", encoded(&of_content("file", Content::Extents(extents), 9096))),
        ("entry, form 2", encoded(&of_content("file", Content::Indexed { h: h(1), depth: 2 }, 1 << 40))),
        ("entry, form 3", encoded(&of_content("dir", Content::Dir(DirRef { entries: 300, depth: 1, h: h(1) }), 0))),
        ("entry, empty directory", encoded(&of_content("dir", Content::Dir(DirRef::empty()), 0))),
        ("entry, symbolic link", encoded(&symlink())),
        ("entry, device", encoded(&device())),
        ("node, extents", nodes[0].clone()),
        ("node, file", nodes[1].clone()),
        ("node, directory", nodes[2].clone()),
        ("manifest", manifest),
        ("sidecar", sidecar()),
    ];
    let wrong: Vec<String> = values
        .iter()
        .map(|(name, bytes)| format!("| {name} | `{}` |", hex(bytes)))
        .filter(|row| !DOCUMENT.contains(&format!("\n{row}\n")))
        .collect();
    assert!(wrong.is_empty(), "rows that the page lacks:\n{}", wrong.join("\n"));
}
