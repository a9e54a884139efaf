//! The table of what the kernel holds: exactly the captured entries, counted as the kernel counts them.
//!
//! Two live entries whose numbers fall together are told apart: the later one gets the next free number.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::hash::{BuildHasherDefault, Hasher};
use std::num::{NonZeroU64, NonZeroUsize};
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

use crate::inode::{Body, Node};
use crate::number::CAPTURED;

const SHARDS: usize = 64;
/// Files kept whole in each shard.
const RECENT: usize = 128;

/// Numbers in the table are hashes already.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.0 = self.0.rotate_left(8) ^ u64::from(*b));
    }

    fn write_u64(&mut self, n: u64) {
        // The low bits are positions in a directory, the high ones a hash: the map wants both ends mixed.
        self.0 = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// An entry in use. A file, of which there may be millions, is kept as its place in its directory; what else there is
/// to know about it is read from the directory again.
struct Held {
    /// The entry itself, or the directory that it stands in.
    node: Arc<Node>,
    /// Its position in that directory, plus one.
    leaf: Option<NonZeroU64>,
    lookups: u64,
}

impl Held {
    fn new(node: &Arc<Node>) -> Held {
        let place = node.place();
        let (kept, leaf) = place.map_or((node, None), |(dir, position)| (dir, NonZeroU64::new(position + 1)));
        Held { node: kept.clone(), leaf, lookups: 1 }
    }

    fn is(&self, node: &Node) -> bool {
        match (self.place(), node.place()) {
            (Some((dir, position)), Some((other, at))) => dir.ino == other.ino && position == at,
            (None, None) => self.node.identity == node.identity,
            _ => false,
        }
    }

    fn place(&self) -> Option<(&Arc<Node>, u64)> {
        self.leaf.map(|leaf| (&self.node, leaf.get() - 1))
    }
}

/// What the table knows of an inode.
pub enum Known {
    /// The entry.
    Node(Arc<Node>),
    /// It stands at this position of this directory; [`Table::found`] takes what is there.
    At(Arc<Node>, u64),
}

type Map<V> = HashMap<u64, V, BuildHasherDefault<AsIs>>;

struct Shard {
    held: Map<Held>,
    /// The files last used, whole.
    recent: LruCache<u64, Arc<Node>, BuildHasherDefault<AsIs>>,
}

impl Default for Shard {
    fn default() -> Shard {
        let kept = NonZeroUsize::new(RECENT).unwrap_or(NonZeroUsize::MIN);
        Shard { held: HashMap::default(), recent: LruCache::with_hasher(kept, BuildHasherDefault::default()) }
    }
}

/// The entries that the kernel holds.
pub struct Table {
    shards: Vec<Mutex<Shard>>,
}

impl Default for Table {
    fn default() -> Table {
        Table { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }
}

impl Table {
    fn shard(&self, ino: u64) -> &Mutex<Shard> {
        // Neighbours in a directory lie in one shard for a while, which keeps it in the processor's cache.
        &self.shards[(ino >> 6) as usize % SHARDS]
    }

    /// Counts one more lookup of `node` and returns what the table holds for it: another name of the same file may
    /// have been there first.
    pub fn hold(&self, mut node: Node) -> Arc<Node> {
        loop {
            let mut shard = self.shard(node.ino).lock();
            let shard = &mut *shard;
            match shard.held.entry(node.ino) {
                Slot::Vacant(slot) => {
                    let node = Arc::new(node);
                    let held = slot.insert(Held::new(&node));
                    if held.leaf.is_some() {
                        shard.recent.put(node.ino, node.clone());
                    }
                    return node;
                }
                Slot::Occupied(mut slot) if slot.get().is(&node) => {
                    let held = slot.get_mut();
                    held.lookups += 1;
                    return match held.leaf {
                        None => held.node.clone(),
                        Some(_) => shard.recent.get_or_insert(node.ino, || Arc::new(node)).clone(),
                    };
                }
                Slot::Occupied(_) => {}
            }
            node.ino = (node.ino.wrapping_add(1) & (CAPTURED - 1)) | CAPTURED;
        }
    }

    /// What is known of this number, if the kernel holds it.
    pub fn get(&self, ino: u64) -> Option<Known> {
        let mut shard = self.shard(ino).lock();
        if let Some(node) = shard.recent.get(&ino) {
            return Some(Known::Node(node.clone()));
        }
        let held = shard.held.get(&ino)?;
        Some(held.place().map_or_else(|| Known::Node(held.node.clone()), |(dir, at)| Known::At(dir.clone(), at)))
    }

    /// The file `ino`, of which [`Table::get`] said where it stands; `node` is what was found there.
    pub fn found(&self, ino: u64, mut node: Node) -> Arc<Node> {
        node.ino = ino;
        let node = Arc::new(node);
        let mut shard = self.shard(ino).lock();
        let shard = &mut *shard;
        match shard.held.get(&ino) {
            Some(held) if held.is(&node) => shard.recent.get_or_insert(ino, || node).clone(),
            // Given back meanwhile.
            _ => node,
        }
    }

    /// The kernel gives back `lookups`; at none left the entry goes.
    pub fn forget(&self, ino: u64, lookups: u64) {
        let mut shard = self.shard(ino).lock();
        let Slot::Occupied(mut slot) = shard.held.entry(ino) else { return };
        let held = slot.get_mut();
        held.lookups = held.lookups.saturating_sub(lookups);
        if held.lookups > 0 {
            return;
        }
        // Dropped after the lock: the last name in a deep directory drops all its parents.
        let gone = (slot.remove(), shard.recent.pop(&ino));
        let held = &mut shard.held;
        if held.capacity() > 1024 && held.len() < held.capacity() / 8 {
            held.shrink_to(held.len() * 2);
        }
        drop(shard);
        drop(gone);
    }

    /// Entries held.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|s| s.lock().held.len()).sum()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The inodes of the unions held.
    pub fn unions(&self) -> Vec<u64> {
        let mut out = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            let unions = shard.held.iter().filter(|(_, h)| h.leaf.is_none() && matches!(h.node.body, Body::Union(_)));
            out.extend(unions.map(|(ino, _)| *ino));
        }
        out
    }
}
