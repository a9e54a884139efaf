//! Whole objects, byte for byte.

use repo::compress::Codec;
use repo::crypto::hash::ChunkKind;
use repo::crypto::keys::FrameKind;
use repo::format::footer::{Footer, RollupEntry, decode_rollup, encode_rollup};
use repo::format::manifest::{Manifest, Stats};
use repo::format::node::{DirChild, FileChild, NodeWriter, decode};
use repo::format::record::Origin;
use repo::format::sidecar::{Record, Stat, check};
use repo::format::tree::{Content, DirRef, Extent, FileTime};
use repo::format::wire::Writer;
use repo::id::{ContentHash, PackId, SessionId, SnapshotId, hex};

use crate::DOCUMENT;
use crate::entries::{device, encoded, full, of_content, symlink};

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
        origin: None,
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
    let origin = Some(Origin { tenant: 300, id: SnapshotId([6; 32]) });
    let pooled = Manifest { origin, ..manifest() }.encode();
    let manifest = manifest().encode();
    for bytes in [&manifest, &pooled] {
        assert!(Manifest::decode(bytes, &SnapshotId([2; 32])).unwrap().encode() == *bytes);
    }
    assert!((1..33).all(|n| Manifest::decode(&pooled[..pooled.len() - n], &SnapshotId([2; 32])).is_err()));
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
        ("manifest, at a pool", pooled),
        ("sidecar", sidecar()),
    ];
    let wrong: Vec<String> = values
        .iter()
        .map(|(name, bytes)| format!("| {name} | `{}` |", hex(bytes)))
        .filter(|row| !DOCUMENT.contains(&format!("\n{row}\n")))
        .collect();
    assert!(wrong.is_empty(), "rows that the page lacks:\n{}", wrong.join("\n"));
}
