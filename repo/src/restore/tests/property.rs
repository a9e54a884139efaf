//! Random trees restored and compared, over nothing and over other random trees.

use std::sync::Arc;

use proptest::prelude::*;

use super::store::*;
use crate::format::tree::{Entry, EntryType, FileTime, XattrValue};
use crate::restore::Options;

#[derive(Clone, Debug)]
enum Shape {
    File { seed: u64, len: usize, zeros: bool, group: Option<u8> },
    Link(Vec<u8>),
    Fifo,
    Dir(Vec<(u8, Shape, Looks)>),
}

#[derive(Clone, Debug)]
struct Looks {
    mode: u32,
    uid: u32,
    secs: i64,
    nanos: u32,
    xattr: Option<Vec<u8>>,
}

fn looks() -> impl Strategy<Value = Looks> {
    let xattr = prop::option::weighted(0.2, prop::collection::vec(any::<u8>(), 0..40));
    (0u32..0o10000, 0u32..3, 0i64..4_000_000_000, 0u32..1_000_000_000, xattr)
        .prop_map(|(mode, uid, secs, nanos, xattr)| Looks { mode, uid, secs, nanos, xattr })
}

fn shape() -> impl Strategy<Value = Shape> {
    let file = (0u64..5, prop_oneof![0usize..40, 0usize..5000, 4_190_000usize..4_200_000], any::<bool>());
    let leaf = prop_oneof![
        6 => (file, prop::option::weighted(0.3, 0u8..3))
            .prop_map(|((seed, len, zeros), group)| Shape::File { seed, len, zeros, group }),
        1 => prop::collection::vec(1u8..255, 1..20).prop_map(Shape::Link),
        1 => Just(Shape::Fifo),
    ];
    leaf.prop_recursive(4, 30, 6, |inner| prop::collection::vec((0u8..12, inner, looks()), 0..6).prop_map(Shape::Dir))
}

fn build(store: &mut Store, name: &[u8], shape: &Shape, looks: &Looks) -> Entry {
    let mut entry = match shape {
        Shape::File { seed, len, zeros, group } => {
            // All names of a file are one file: the group decides everything.
            let (seed, len, zeros) = match group {
                Some(g) => (u64::from(*g), 3000, false),
                None => (*seed, *len, *zeros),
            };
            let mut bytes = noise(seed, len);
            if zeros {
                let n = bytes.len();
                bytes[n / 4..n / 2].fill(0);
            }
            let link_group = group.map(|g| [g; 32]);
            let content = store.content(&bytes, 50_000);
            Entry { size: len as u64, content, link_group, ..own(name, EntryType::File) }
        }
        Shape::Link(target) => symlink(name, target),
        Shape::Fifo => own(name, EntryType::Fifo),
        Shape::Dir(list) => {
            let mut entries: Vec<Entry> = Vec::new();
            for (n, shape, looks) in list {
                let name = [b'n', *n, 0xff].map(|b| b.max(1));
                if n != &b'/' && !entries.iter().any(|e| e.name == name) {
                    entries.push(build(store, &name, shape, looks));
                }
            }
            store.dir(name, entries)
        }
    };
    if let Some(group) = entry.link_group {
        (entry.mode, entry.mtime) = (0o600 + u32::from(group[0]), FileTime { secs: 5, nanos: 5 });
        return entry;
    }
    entry.mtime = FileTime { secs: looks.secs, nanos: looks.nanos };
    if entry.kind == EntryType::Symlink {
        entry.mode = 0o777;
    } else {
        entry.mode = looks.mode;
    }
    if nix::unistd::geteuid().is_root() {
        (entry.uid, entry.gid) = (looks.uid * 1000, looks.uid * 7);
    } else {
        entry.mode |= if entry.kind == EntryType::Dir { 0o700 } else { 0o400 };
        entry.mode &= 0o777;
    }
    if let (Some(value), EntryType::File | EntryType::Dir) = (&looks.xattr, entry.kind) {
        entry.xattrs = vec![(b"user.x".to_vec(), XattrValue::Inline(value.clone()))];
    }
    entry
}

fn root(store: &mut Store, shape: &Shape) -> Entry {
    let looks = Looks { mode: 0o755, uid: 0, secs: 1, nanos: 1, xattr: None };
    let top = Shape::Dir(vec![(0, shape.clone(), looks.clone())]);
    build(store, b"", &top, &looks)
}

/// Groups of one name are shown as files of their own; the listing marks groups by their first name.
fn ungrouped(mut listing: Listing) -> Listing {
    let lone: Vec<Vec<u8>> = listing
        .iter()
        .filter(|(name, line)| {
            let mark = format!(" = {}", String::from_utf8_lossy(name));
            line.contains(&mark) && listing.values().filter(|l| l.contains(&mark)).count() == 1
        })
        .map(|(name, _)| name.clone())
        .collect();
    for name in lone {
        let mark = format!(" = {}", String::from_utf8_lossy(&name));
        if let Some(line) = listing.get_mut(&name) {
            *line = line.replace(&mark, "");
        }
    }
    listing
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn random_trees_come_back_over_anything(before in shape(), after in shape(), sparse in any::<bool>()) {
        let mut store = Store::default();
        let (before, after) = (root(&mut store, &before), root(&mut store, &after));
        let (store, temp) = (Arc::new(store), tempfile::tempdir().unwrap());
        let target = temp.path().join("t");
        let options = || Options { sparse, delete: true, verify: true, ..Options::default() };
        for tree in [&before, &after, &after] {
            restore_well(&store, tree, &target, &options());
            assert_same(&ungrouped(real(&target)), &ungrouped(expected(&store, tree)));
        }
    }
}
