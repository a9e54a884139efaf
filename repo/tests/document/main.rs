//! `docs/format.md` against the program: offsets, tables, limits, rules and vectors are read from the page.

mod chunks;
mod entries;
mod trees;
mod vectors;

use std::collections::BTreeMap;

use repo::chunker::ChunkerParams;
use repo::crypto::keys::{FrameKind, Keyring, Keys};
use repo::crypto::slot::Argon2Cost;
use repo::format::config::Config;
use repo::format::{pack, record};
use repo::id::RepoId;
use repo::limits;

const DOCUMENT: &str = include_str!("../../../docs/format.md");

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
