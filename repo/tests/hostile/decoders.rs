//! The decoders under attack, for `tests/hostile_bytes.rs` and for `fuzz/`. Whoever includes this gives `bounded`, which runs a
//! decoder and may watch its memory.

use repo::compress::{Codec, unpack};
use repo::crypto::context::FILE_CHECKSUM;
use repo::crypto::keys::{FrameKind, Keyring, Keys, Object};
use repo::crypto::slot::RecoveryCode;
use repo::format::config::Config;
use repo::format::footer::{Footer, decode_rollup, encode_rollup};
use repo::format::manifest::Manifest;
use repo::format::node::{self, Node, NodeWriter};
use repo::format::pack::{HEADER, TRAILER, header, parse_header, parse_trailer, trailer};
use repo::format::record::{self, State};
use repo::format::sidecar::Record;
use repo::format::slot::Slot;
use repo::format::tree::decode_entries;
use repo::format::wire::{Reader, Writer};
use repo::id::{LogHash, RepoId, SnapshotId};
use repo::limits::{MAX_FOOTER, MAX_FRAME_RAW};

use crate::bounded;

/// One decoder: takes anything; what it accepts it must write again the same, as far as the format has one encoding.
pub type Decoder = fn(&[u8]);

/// The repository of all of them.
pub fn repo_id() -> RepoId {
    RepoId([7; 32])
}

/// The snapshot of all manifests.
pub fn snapshot() -> SnapshotId {
    SnapshotId([2; 32])
}

/// Keys that nothing is sealed with.
pub fn fixed_keys() -> Keys {
    Keys::derive(&Keyring::generate(), repo_id())
}

/// As someone who knows no key would write a config or slot on purpose.
fn with_checksum(body: &[u8]) -> Vec<u8> {
    [body, &blake3::derive_key(FILE_CHECKSUM, body)].concat()
}

/// The config.
pub fn config(bytes: &[u8]) {
    for bytes in [bytes.to_vec(), with_checksum(bytes)] {
        if let Ok(config) = bounded(bytes.len(), 8, || Config::decode(&bytes)) {
            let _ = config.verify(&fixed_keys());
        }
    }
}

/// A key slot.
pub fn slot(bytes: &[u8]) {
    for bytes in [bytes.to_vec(), with_checksum(bytes)] {
        if let Ok(slot) = bounded(bytes.len(), 8, || Slot::decode(&bytes)) {
            assert_eq!(slot.encode(), bytes);
        }
    }
}

/// A recovery code as typed.
pub fn recovery_code(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(code) = bounded(text.len(), 8, || RecoveryCode::parse(&text)) {
        assert!(RecoveryCode::parse(&code.to_text()).is_ok());
    }
}

/// A pack's header and trailer.
pub fn pack(bytes: &[u8]) {
    if let Some(head) = bytes.first_chunk::<HEADER>()
        && let Ok(kind) = parse_header(head)
    {
        assert_eq!(header(kind), *head);
    }
    for size in [bytes.len() as u64, 0, u64::MAX, 1 << 26] {
        if let Some(end) = bytes.last_chunk::<TRAILER>()
            && let Ok(len) = parse_trailer(end, size)
        {
            assert_eq!(trailer(len), *end);
            assert!(len as usize <= MAX_FOOTER && u64::from(len) <= size - (HEADER + TRAILER) as u64);
        }
    }
}

/// A pack's footer.
pub fn footer(bytes: &[u8]) {
    if let Ok(footer) = bounded(bytes.len(), 12, || Footer::decode(bytes)) {
        assert_eq!(footer.encode(), bytes);
        for frame in &footer.frames {
            assert!(frame.raw as usize <= MAX_FRAME_RAW && frame.stored as usize <= MAX_FRAME_RAW + 40);
            let chunks = &footer.chunks[frame.chunks()];
            assert!(chunks.iter().all(|c| u64::from(c.offset) + u64::from(c.len) <= u64::from(frame.raw)));
        }
        let _ = footer.end();
    }
}

/// A roll-up.
pub fn rollup(bytes: &[u8]) {
    if let Ok(entries) = bounded(bytes.len(), 12, || decode_rollup(bytes)) {
        assert_eq!(encode_rollup(&entries), bytes);
        entries.iter().for_each(|e| footer(&e.sealed_footer));
    }
}

/// A tree chunk.
pub fn tree(bytes: &[u8]) {
    let mut again = Vec::new();
    let done = bounded(bytes.len(), 32, || {
        decode_entries(bytes, |entry| {
            entry.encode(&mut again);
            Ok(())
        })
    });
    if done.is_ok() {
        assert_eq!(again, bytes);
    } else {
        assert!(bytes.starts_with(&again));
    }
}

/// An index node.
pub fn index_node(bytes: &[u8]) {
    let Ok(node) = bounded(bytes.len(), 64, || node::decode(bytes)) else { return };
    let again = match node {
        Node::Extents(items) => {
            let mut w = NodeWriter::extents();
            items.iter().for_each(|i| w.extent(i));
            w
        }
        Node::File(items) => {
            let mut w = NodeWriter::file();
            items.iter().for_each(|i| w.file_child(i));
            w
        }
        Node::Dir(items) => {
            let mut w = NodeWriter::dir();
            items.iter().for_each(|i| w.dir_child(i));
            w
        }
    };
    assert_eq!(again.into_vec(), bytes);
}

/// A manifest.
pub fn manifest(bytes: &[u8]) {
    if let Ok(manifest) = bounded(bytes.len(), 64, || Manifest::decode(bytes, &snapshot())) {
        assert_eq!(manifest.encode(), bytes);
    }
}

/// Records of a stat sidecar.
pub fn sidecar(bytes: &[u8]) {
    let mut r = Reader::new(bytes);
    let mut w = Writer::new();
    while let Ok(record) = Record::decode(&mut r) {
        let from = w.len();
        record.encode(&mut w);
        assert!(w.len() - from <= Record::MAX);
    }
    assert!(bytes.starts_with(w.as_slice()));
}

/// A record of the log, or a segment of its audit.
pub fn log_record(bytes: &[u8]) {
    let number = bytes.get(32..40).map_or(0, |n| u64::from_le_bytes(n.try_into().unwrap()));
    if let Ok((before, entries)) = bounded(bytes.len(), 128, || record::Audited::decode_segment(bytes, number)) {
        assert_eq!(record::Audited::encode_segment(&before, number, &entries), bytes);
    }
    if let Ok((prev, entry)) = bounded(bytes.len(), 128, || record::Entry::decode(bytes)) {
        let mut state = match &entry.record {
            record::Record::Checkpoint { state } => State::clone(state),
            _ => State::default(),
        };
        for _ in 0..2 {
            state.apply(&entry, LogHash([1; 32]));
        }
        let _ = state.hash_at(entry.seq.wrapping_sub(1));
        // A checkpoint that leaves out sections reads as one that has them, empty.
        if !matches!(entry.record, record::Record::Checkpoint { .. }) {
            assert_eq!(entry.encode(&prev).unwrap(), bytes);
        }
    }
}

/// Sealed objects and frames, which none of these are.
pub fn sealed(bytes: &[u8]) {
    let keys = fixed_keys();
    for object in [Object::Footer, Object::Rollup, Object::Manifest, Object::LogRecord, Object::IndexValue] {
        assert!(bounded(bytes.len(), 4, || keys.open(object, b"", bytes)).is_err());
    }
    for epoch in [0, 1, u32::MAX] {
        assert!(keys.open_frame(FrameKind::Data, epoch, 9, &mut bytes.to_vec()).is_err());
    }
}

/// A frame's payload, after three bytes that say how long it is unpacked.
pub fn frame(bytes: &[u8]) {
    let (len, payload) = bytes.split_at(bytes.len().min(3));
    let len = len.iter().fold(0usize, |n, b| n << 8 | usize::from(*b));
    for codec in [Codec::None, Codec::Zstd] {
        // zstd's own context is made once a thread, on top.
        let unpacked = bounded(bytes.len() + len.min(MAX_FRAME_RAW) + (1 << 19), 2, || unpack(codec, payload, len));
        assert!(unpacked.is_err() || len <= MAX_FRAME_RAW && unpacked.is_ok_and(|raw| raw.len() == len));
    }
}

/// All of them.
pub const DECODERS: [Decoder; 13] =
    [config, slot, recovery_code, pack, footer, rollup, tree, index_node, manifest, sidecar, log_record, sealed, frame];
