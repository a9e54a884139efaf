//! Names: lookup, listing and the unions of versions.

use std::sync::Arc;

use repo::format::tree::EntryType;

use super::attr::{A_WHILE, SHORT};
use super::{Attr, Looked, Ops, Thing};
use crate::errno::{Fail, Outcome};
use crate::inode::{Body, Node};
use crate::layout::{FIRST, Item, Layout, Target};
use crate::listing::Piece;
use crate::number::{Hash, ROOT};
use crate::versions::{Gather, Moment, Slot, Union, Version};

/// Names of a union's children, in order.
pub(super) type Names = Arc<Vec<Box<[u8]>>>;

/// What a name leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// This; one lookup was counted.
    Entry(Looked),
    /// Nothing, and nothing ever will.
    Never,
    /// Nothing now.
    NotNow,
}

/// A listing from some position on. [`Ops::next`] takes its entries one by one; it ends before the directory does,
/// so an empty one is the only sign of the end.
pub struct Listing {
    position: u64,
    up: Looked,
    here: Looked,
    of: Of,
}

enum Of {
    Synthetic(Arc<Layout>, u64),
    Captured(Arc<Node>, Piece),
    Union(Arc<Node>, Arc<Union>, Names),
}

/// One entry of a listing.
#[derive(Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: Vec<u8>,
    /// Where the listing goes on after it.
    pub next: u64,
    /// Its attributes; complete only if they may be kept.
    pub looked: Looked,
    /// Whether one lookup was counted; not so for `.` and `..`.
    pub counted: bool,
}

impl Ops {
    /// What `name` in directory `parent` leads to.
    ///
    /// # Errors
    /// `NotDirectory`, `Stale`, and `Repo` when the directory or the snapshot cannot be read.
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Outcome<Found> {
        match self.thing(parent)? {
            Thing::Link(..) => Err(Fail::NotDirectory),
            Thing::Dir(layout, ino) => {
                let Some(item) = layout.dir(ino).and_then(|d| d.get(name)) else { return Ok(Found::NotNow) };
                self.getattr(item.ino).map(Found::Entry)
            }
            Thing::Node(node) => self.told(&node, self.lookup_in(&node, name)),
        }
    }

    fn lookup_in(&self, node: &Arc<Node>, name: &[u8]) -> Outcome<Found> {
        if let Body::Union(_) = node.body {
            return self.lookup_version(node, name);
        }
        let dir = node.dir().ok_or(Fail::NotDirectory)?;
        match self.listings.lookup(&*self.source, dir, name)? {
            None => Ok(Found::Never),
            Some((position, entry)) => {
                let held = self.table.hold(Node::child(node, position, entry));
                Ok(Found::Entry(self.node_attr(&held)))
            }
        }
    }

    /// Lists directory `ino` from `position` on, which is 0 or what an entry gave as `next`.
    ///
    /// # Errors
    /// As [`Ops::lookup`].
    pub fn list(&self, ino: u64, position: u64) -> Outcome<Listing> {
        match self.thing(ino)? {
            Thing::Link(..) => Err(Fail::NotDirectory),
            Thing::Dir(layout, ino) => {
                let here = self.dir_attr(&layout, ino);
                let up = self.dir_attr(&layout, layout.dir(ino).map_or(ROOT, |d| d.parent));
                Ok(Listing { position, up, here, of: Of::Synthetic(layout, ino) })
            }
            Thing::Node(node) => {
                let of = self.told(&node, self.list_node(&node, position))?;
                let here = self.node_attr(&node);
                let up = match &node.parent {
                    Some(parent) => self.node_attr(parent),
                    None => self.dir_attr(&self.layout(), node.up),
                };
                Ok(Listing { position, up, here, of })
            }
        }
    }

    fn list_node(&self, node: &Arc<Node>, position: u64) -> Outcome<Of> {
        if let Body::Union(slot) = &node.body {
            let union = self.union(node)?;
            let names = self.union_names(node, slot, &union);
            return Ok(Of::Union(node.clone(), union, names));
        }
        let dir = node.dir().ok_or(Fail::NotDirectory)?;
        let first = position.max(FIRST - 1) - (FIRST - 1);
        Ok(Of::Captured(node.clone(), self.listings.at(&*self.source, dir, first)?))
    }

    /// The listing's next entry, counted as looked up.
    pub fn next(&self, listing: &mut Listing) -> Option<Listed> {
        let listed = match listing.position {
            0 => Listed { name: b".".to_vec(), next: 1, looked: listing.here, counted: false },
            1 => Listed { name: b"..".to_vec(), next: 2, looked: listing.up, counted: false },
            at => match &listing.of {
                Of::Synthetic(layout, ino) => {
                    let item = layout.dir(*ino)?.after(at).first()?;
                    let looked = self.item_attr(layout, item);
                    Listed { name: item.name.as_bytes().to_vec(), next: item.cookie, looked, counted: false }
                }
                Of::Captured(node, piece) => {
                    let position = at - (FIRST - 1);
                    let entry = piece.entries.get(position.checked_sub(piece.start)? as usize)?;
                    let held = self.table.hold(Node::child(node, position, entry.clone()));
                    Listed { name: entry.name.clone(), next: at + 1, looked: self.node_attr(&held), counted: true }
                }
                Of::Union(node, union, names) => {
                    let (name, made) = union_entry(node, union, names, (at - (FIRST - 1)) as usize)?;
                    let held = self.table.hold(made);
                    Listed { name, next: at + 1, looked: self.node_attr(&held), counted: true }
                }
            },
        };
        listing.position = listed.next;
        Some(listed)
    }

    /// Takes back an entry that did not fit into the answer.
    pub fn unlist(&self, listed: &Listed) {
        if listed.counted {
            self.forget(listed.looked.attr.ino, 1);
        }
    }

    /// A synthetic directory's entry, without opening anything: a snapshot's own attributes are asked for later.
    fn item_attr(&self, layout: &Arc<Layout>, item: &Item) -> Looked {
        let incomplete = |mtime| {
            let looked = self.synthetic(item.ino, EntryType::Dir, 0, mtime);
            Looked { name_for: std::time::Duration::ZERO, attr_for: std::time::Duration::ZERO, ..looked }
        };
        match item.target {
            Target::Dir(ino) => self.dir_attr(layout, ino),
            Target::Link(depth, index) => self.link_attr(layout, item.ino, depth, index),
            Target::Snapshot(index) => incomplete(crate::layout::file_time(layout.snap(index).info.captured)),
            Target::Versions(source) => incomplete(crate::layout::file_time(layout.dir(source).map_or(0, |d| d.mtime))),
        }
    }

    // Versions.

    fn lookup_version(&self, node: &Arc<Node>, name: &[u8]) -> Outcome<Found> {
        let Body::Union(slot) = &node.body else { return Err(Fail::NotDirectory) };
        let union = self.union(node)?;
        if let Ok(at) = union.versions.binary_search_by(|v| v.name.as_slice().cmp(name)) {
            let held = self.table.hold(version_node(node, &union.versions[at]));
            return Ok(Found::Entry(self.node_attr(&held)));
        }
        let child = self.child_union(node, &union, name);
        if child.is_empty() {
            return Ok(Found::NotNow);
        }
        let made = union_child(node, slot, name);
        if let Body::Union(slot) = &made.body {
            slot.set(self.stamp(slot), Arc::new(child));
        }
        let held = self.table.hold(made);
        Ok(Found::Entry(self.node_attr(&held)))
    }

    fn stamp(&self, slot: &Slot) -> u64 {
        self.layout().dir(slot.source_dir).map_or(0, |d| d.stamp)
    }

    /// The union that a node shows, made from the snapshots there are now.
    fn union(&self, node: &Arc<Node>) -> Outcome<Arc<Union>> {
        // Down from the nearest parent whose union is known; not by recursion, because paths may be deep.
        let mut below: Vec<&Arc<Node>> = Vec::new();
        let mut at = node;
        let mut union = loop {
            let Body::Union(slot) = &at.body else { return Err(Fail::NotDirectory) };
            if let Some(union) = slot.get(self.stamp(slot)) {
                break union;
            }
            match &at.parent {
                Some(parent) => {
                    below.push(at);
                    at = parent;
                }
                None => break self.root_union(slot)?,
            }
        };
        for node in below.into_iter().rev() {
            let child = Arc::new(self.child_union(node, &union, &node.name));
            if let Body::Union(slot) = &node.body {
                slot.set(self.stamp(slot), child.clone());
            }
            union = child;
        }
        Ok(union)
    }

    /// The union of a source's roots: reads the manifest of each of its snapshots.
    fn root_union(&self, slot: &Slot) -> Outcome<Arc<Union>> {
        let layout = self.layout();
        let stamp = layout.dir(slot.source_dir).map_or(0, |d| d.stamp);
        let mut gather = Gather::default();
        for snap in layout.history(slot.source_dir) {
            let moment = Moment { id: snap.info.id, time: snap.time.clone(), captured: snap.info.captured };
            match self.view.manifest(&snap.info.id) {
                Ok(manifest) => gather.add(&moment, manifest.root),
                Err(e) if e.kind() == repo::error::Kind::NotFound => {}
                Err(e) => {
                    self.report(Hash::snapshot(&snap.info.id), || snap.path(), &e);
                }
            }
        }
        let union = Arc::new(gather.finish());
        slot.set(stamp, union.clone());
        Ok(union)
    }

    fn child_union(&self, node: &Node, union: &Union, name: &[u8]) -> Union {
        let report = self.left_out(node);
        union.child(&*self.source, &self.listings, name, &report)
    }

    /// Reports a snapshot whose directory a union had to leave out.
    fn left_out<'a>(&'a self, node: &'a Node) -> impl Fn(&Moment, &repo::error::Error) + 'a {
        |moment, error| {
            let key = Hash::name(node.ino, moment.id.as_bytes());
            self.report(key, || format!("{} as of {}", node.path(), moment.time), error);
        }
    }

    fn union_names(&self, node: &Node, slot: &Slot, union: &Union) -> Names {
        let key = (node.ino, self.stamp(slot));
        if let Some(names) = self.names.lock().get(&key) {
            return names.clone();
        }
        let names: Names = Arc::new(union.names(&*self.source, &self.left_out(node)));
        self.names.lock().put(key, names.clone());
        names
    }

    /// A union's attributes; those of one that was not made yet are not complete.
    pub(super) fn union_attr(&self, node: &Node, slot: &Slot) -> Looked {
        let (uid, gid) = self.appearance.owner;
        let mut attr = Attr {
            ino: node.ino,
            size: 4096,
            blocks: 8,
            mtime: node.meta.mtime,
            kind: EntryType::Dir,
            // Nobody passes before it is known who may.
            perm: 0,
            nlink: 1,
            uid,
            gid,
            rdev: 0,
        };
        let known = slot.get(self.stamp(slot));
        if let Some(union) = &known {
            attr.perm = union.mode as u16;
            attr.mtime = union.mtime;
            (attr.uid, attr.gid) = union.owner.unwrap_or(self.appearance.owner);
        }
        self.present(&mut attr);
        match known {
            Some(_) => Looked { attr, name_for: SHORT.min(A_WHILE), attr_for: SHORT },
            None => Looked { attr, name_for: std::time::Duration::ZERO, attr_for: std::time::Duration::ZERO },
        }
    }

    /// Makes a union's attributes complete.
    pub(super) fn complete(&self, node: &Arc<Node>) -> Outcome<()> {
        match node.body {
            Body::Union(_) => self.union(node).map(drop),
            _ => Ok(()),
        }
    }
}

fn union_child(parent: &Arc<Node>, slot: &Slot, name: &[u8]) -> Node {
    let ino = Node::union_ino(parent.ino, name);
    Node::union(Some(parent), parent.ino, ino, name, Slot::new(slot.source_dir))
}

fn version_node(parent: &Arc<Node>, version: &Version) -> Node {
    Node::version(parent, &version.name, &version.id, &version.digest, version.entry.clone())
}

/// The `at`-th entry of a union: versions first, then the paths below.
fn union_entry(node: &Arc<Node>, union: &Union, names: &Names, at: usize) -> Option<(Vec<u8>, Node)> {
    if let Some(version) = union.versions.get(at) {
        return Some((version.name.clone(), version_node(node, version)));
    }
    let Body::Union(slot) = &node.body else { return None };
    let name = names.get(at - union.versions.len())?;
    Some((name.to_vec(), union_child(node, slot, name)))
}
