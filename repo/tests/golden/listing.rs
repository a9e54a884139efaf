//! Everything a repository says, as text: what a reader of another version must find in it again.

use std::fmt::Write;

use repo::crypto::hash::ChunkKind;
use repo::format::manifest::Manifest;
use repo::format::record::SnapshotState;
use repo::format::sidecar::{Record, check};
use repo::format::tree::{Content, DirRef, Entry, EntryType, Extent, XattrValue};
use repo::format::wire::Reader;
use repo::id::{SnapshotId, hex};
use repo::keyslots;
use repo::open::Repository;
use repo::pack::source::FrameSource;
use repo::snapshots;
use repo::tree::dir;
use repo::tree::file::{self, Piece};

/// Zeros to hash holes with.
static ZEROS: [u8; 65536] = [0; 65536];

/// Of a directory with more lines than this, all but the first and the last are given by their hash.
const FEW: usize = 100;

/// The whole listing.
pub fn of(repo: &Repository) -> String {
    let mut out = String::new();
    let c = &repo.config;
    writeln!(out, "repository {} version {}", c.repo_id, c.version).unwrap();
    writeln!(
        out,
        "chunker {} {} {} {} pack-size {}",
        c.chunker.id, c.chunker.min, c.chunker.avg, c.chunker.max, c.pack_size
    )
    .unwrap();
    writeln!(out, "owner {} epochs {}", hex(&c.owner_public), repo.keys.current_epoch() + 1).unwrap();
    for stored in keyslots::list(repo.backend.as_ref(), &c.repo_id).unwrap() {
        let head = stored.slot.unwrap().head;
        writeln!(out, "slot {} {} {:?} epochs {}", stored.id, head.lock.name(), head.label, head.epochs).unwrap();
    }
    history(repo, &mut out);
    let state = repo.log.state();
    for (id, snapshot) in &state.snapshots {
        self::snapshot(repo, id, snapshot, &mut out);
    }
    out
}

fn history(repo: &Repository, out: &mut String) {
    repo.log
        .history(&mut |entry| {
            let entry = entry?;
            let text = format!("{:?}", entry.record);
            let name = text.split([' ', '{']).next().unwrap();
            writeln!(out, "record {} {} {}", entry.seq, entry.time.0, name).unwrap();
            Ok(())
        })
        .unwrap();
}

fn snapshot(repo: &Repository, id: &SnapshotId, state: &SnapshotState, out: &mut String) {
    let m = snapshots::manifest(repo, id).unwrap();
    writeln!(out, "snapshot {id} {:?} {:?} by {:?} with {:?}", m.host, m.source, m.username, m.program).unwrap();
    writeln!(out, " captured {} to {} recorded {}", m.captured, m.captured_end, m.recorded).unwrap();
    writeln!(out, " paths {:?} tags {:?}", m.paths.iter().map(|p| escape(p)).collect::<Vec<_>>(), m.tags).unwrap();
    writeln!(out, " parent {}", m.parent.map_or("-".into(), |p| p.to_hex())).unwrap();
    writeln!(out, " {:?}", m.stats).unwrap();
    let now = (&state.host, &state.source, state.captured.0, state.recorded.0);
    assert_eq!(now, (&m.host, &m.source, m.captured, m.recorded));
    writeln!(out, " tags {:?} pinned {} forgotten {:?}", state.tags, state.pinned, state.forgotten.map(|t| t.0))
        .unwrap();
    let store = repo.store();
    let mut order = Vec::new();
    walk(store.as_ref(), &m.root, b"", &mut order, out);
    sidecar(store.as_ref(), &m, &order, out);
}

/// An entry and what is below it; `order` gets the names as the sidecar goes, none for the end of a directory.
fn walk(store: &dyn FrameSource, e: &Entry, path: &[u8], order: &mut Vec<Option<Vec<u8>>>, out: &mut String) {
    line(store, e, path, out);
    let Content::Dir(below) = &e.content else { return };
    let entries: Vec<Entry> = dir::entries(store, below, 0).map(Result::unwrap).collect();
    lookups(store, below, &entries);
    let mut lines = String::new();
    for child in &entries {
        let path = if path.is_empty() { child.name.clone() } else { [path, b"/", &child.name].concat() };
        order.push(Some(child.name.clone()));
        walk(store, child, &path, order, &mut lines);
    }
    order.push(None);
    let count = lines.lines().count();
    if count > FEW {
        let (first, last) = (lines.lines().next().unwrap(), lines.lines().next_back().unwrap());
        writeln!(out, "{first}\n  ... {count} lines {}\n{last}", hash(lines.as_bytes())).unwrap();
    } else {
        out.push_str(&lines);
    }
}

/// A directory gives the same entries when asked one by one, or from the middle.
fn lookups(store: &dyn FrameSource, dir_ref: &DirRef, entries: &[Entry]) {
    assert_eq!(dir_ref.entries, entries.len() as u64);
    for i in [0, entries.len() / 3, entries.len().saturating_sub(1)] {
        let Some(entry) = entries.get(i) else { continue };
        assert!(dir::lookup(store, dir_ref, &entry.name).unwrap().as_ref() == Some(entry));
        assert!(dir::entries(store, dir_ref, i as u64).next().unwrap().unwrap() == *entry);
    }
    assert!(dir::lookup(store, dir_ref, b"\x01 absent").unwrap().is_none());
}

fn line(store: &dyn FrameSource, e: &Entry, path: &[u8], out: &mut String) {
    let kind = match e.kind {
        EntryType::File => 'f',
        EntryType::Dir => 'd',
        EntryType::Symlink => 'l',
        EntryType::Fifo => 'p',
        EntryType::Socket => 's',
        EntryType::CharDevice => 'c',
        EntryType::BlockDevice => 'b',
    };
    let owner = format!("{}={} {}={}", e.uid, escape(&e.user), e.gid, escape(&e.group));
    write!(out, " {kind} {:04o} {owner} {}.{:09} {} /{}", e.mode, e.mtime.secs, e.mtime.nanos, e.size, escape(path))
        .unwrap();
    if !e.target.is_empty() {
        write!(out, " -> {}", escape(&e.target)).unwrap();
    }
    if e.rdev != 0 {
        write!(out, " device {:#x}", e.rdev).unwrap();
    }
    if let Some(group) = &e.link_group {
        write!(out, " group {}", hex(&group[..8])).unwrap();
    }
    if e.unstable {
        write!(out, " unstable").unwrap();
    }
    for (name, value) in &e.xattrs {
        let (form, bytes) = match value {
            XattrValue::Inline(bytes) => ("inline", bytes.clone()),
            XattrValue::Chunk { h, len } => {
                let chunk = store.chunk(h, ChunkKind::Data).unwrap();
                assert_eq!(chunk.len(), *len as usize);
                ("chunk", chunk.to_vec())
            }
        };
        write!(out, " {}={form}:{}:{}", escape(name), bytes.len(), hash(&bytes)).unwrap();
    }
    for field in &e.unknown {
        write!(out, " field {}={}", field.number, hex(&field.bytes)).unwrap();
    }
    write!(out, " {}", content(store, e)).unwrap();
    out.push('\n');
}

fn content(store: &dyn FrameSource, e: &Entry) -> String {
    match &e.content {
        Content::None => "none".into(),
        Content::Dir(d) => format!("dir {} depth {}", d.entries, d.depth),
        Content::Inline(bytes) => format!("inline {}", hash(bytes)),
        Content::Extents(_) => format!("extents {}", pieces(store, e)),
        Content::Indexed { depth, .. } => format!("indexed depth {depth} {}", pieces(store, e)),
    }
}

/// Number of data extents and of holes, and the hash of all bytes.
fn pieces(store: &dyn FrameSource, e: &Entry) -> String {
    let (mut data, mut holes, mut at) = (0u64, 0u64, 0u64);
    let mut hasher = blake3::Hasher::new();
    file::stream(store, &e.content, |offset, piece| {
        assert_eq!(offset, at);
        match piece {
            Piece::Data(bytes) => {
                data += 1;
                at += bytes.len() as u64;
                hasher.update(bytes);
            }
            Piece::Hole(len) => {
                holes += 1;
                at += len;
                let mut rest = len;
                while rest > 0 {
                    let n = rest.min(ZEROS.len() as u64);
                    hasher.update(&ZEROS[..n as usize]);
                    rest -= n;
                }
            }
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(at, e.size);
    let first_hole = file::seek(store, &e.content, e.size, 0, true).unwrap();
    let middle = file::extents(store, &e.content, at / 2).next().unwrap().unwrap();
    assert!(middle.0 <= at / 2 && at / 2 < middle.0 + middle.1.len());
    assert!(matches!(middle.1, Extent::Data { .. } | Extent::Hole { .. }));
    format!("{data} data {holes} holes first {first_hole} {}", &hasher.finalize().to_hex()[..16])
}

/// The sidecar's records belong to the tree's entries, one by one.
fn sidecar(store: &dyn FrameSource, m: &Manifest, order: &[Option<Vec<u8>>], out: &mut String) {
    let Some(content) = &m.sidecar else {
        writeln!(out, " no sidecar").unwrap();
        return;
    };
    let mut bytes = Vec::new();
    file::stream(store, content, |_, piece| {
        if let Piece::Data(data) = piece {
            bytes.extend_from_slice(data);
        }
        Ok(())
    })
    .unwrap();
    let mut r = Reader::new(&bytes);
    for name in order {
        match (Record::decode(&mut r).unwrap(), name) {
            (Record::Entry { check: found, .. }, Some(name)) => assert_eq!(found, check(name)),
            (Record::Leave, None) => {}
            other => panic!("out of step: {other:?}"),
        }
    }
    assert!(r.is_empty());
    writeln!(out, " sidecar of {} records {}", order.len(), hash(&bytes)).unwrap();
}

fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex()[..16].to_owned()
}

/// Printable ASCII as it is, the rest as `\xNN`; long runs are cut to their hash.
fn escape(bytes: &[u8]) -> String {
    let text: String = bytes.escape_ascii().map(char::from).collect();
    let text = text.replace(' ', "\\x20");
    if text.len() > 100 { format!("{}..{}", &text[..40], hash(bytes)) } else { text }
}
