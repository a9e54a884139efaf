//! The synthetic tree above the snapshots, made from the list of snapshots alone: no manifest or tree is opened.
//!
//! ```text
//! hosts/<host>/<source>/<time>     the snapshot's root          latest -> the newest
//! snapshots/<time>_<host>_<source> -> the same, flat            ids/<id8>, tags/<tag>/… likewise
//! versions/<host>/<source>/        every distinct version of every file: see `versions`
//! ```
//! At a pool each tenant has such a tree of its own, `tenants/<tenant>/…`, and nothing in one leads into another.
//!
//! A layout is immutable; a refresh builds the next one from it. Inode numbers are hashes of names and targets, so
//! they are the same in every layout and every mount; a listing's positions are never given to another entry while
//! the mount lives, so that a listing under way neither skips nor repeats what stays.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use repo::id::SnapshotId;

use crate::names::{NAME_MAX, encode, time};
use crate::number::{Hash, ROOT};
use crate::view::SnapshotInfo;

/// Where a listing's own entries begin: 1 and 2 are `.` and `..`.
pub const FIRST: u64 = 3;
/// The directories at the top of a tree of snapshots, in listing order.
const TOP: [&str; 5] = ["hosts", "ids", "snapshots", "tags", "versions"];
/// The directory of the tenants' trees.
const TENANTS: &str = "tenants";

/// A snapshot with its names.
#[derive(Debug)]
pub struct Snap {
    /// As the view gave it.
    pub info: SnapshotInfo,
    /// The tenant as a name, if it stands below one.
    pub tenant: Option<Arc<str>>,
    /// The host as a name.
    pub host: Arc<str>,
    /// The source as a name.
    pub source: Arc<str>,
    /// The time as a name, unique in the source.
    pub time: Arc<str>,
}

impl Snap {
    /// Where it stands, from the mount point.
    pub fn path(&self) -> String {
        format!("{}{}", self.base(), self.below())
    }

    /// Where the versions of its source stand, from the mount point.
    pub fn versions(&self) -> String {
        format!("{}versions/{}/{}", self.base(), self.host, self.source)
    }

    /// The top of the tree it stands in, from the mount point.
    fn base(&self) -> String {
        self.tenant.as_ref().map_or_else(String::new, |tenant| format!("{TENANTS}/{tenant}/"))
    }

    /// Where it stands in that tree.
    fn below(&self) -> String {
        format!("hosts/{}/{}/{}", self.host, self.source, self.time)
    }
}

/// What an entry leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A synthetic directory, by inode.
    Dir(u64),
    /// A snapshot's root.
    Snapshot(u32),
    /// A symbolic link to a snapshot, from this many directories below the top of its tree; 0: from beside it.
    Link(u8, u32),
    /// The versions of a source, whose directory below `hosts` has this inode.
    Versions(u64),
}

/// One entry of a synthetic directory.
#[derive(Debug)]
pub struct Item {
    /// Its name.
    pub name: Arc<str>,
    /// Its position in listings.
    pub cookie: u64,
    /// Its inode.
    pub ino: u64,
    /// Where it leads.
    pub target: Target,
}

/// A synthetic directory.
#[derive(Debug)]
pub struct Dir {
    /// Its parent's inode.
    pub parent: u64,
    /// In order of position.
    items: Vec<Item>,
    /// Indices into `items`, in order of name.
    by_name: Vec<u32>,
    next: u64,
    /// When its newest snapshot was captured, nanoseconds since the epoch.
    pub mtime: i64,
    /// Differs when the snapshots below do.
    pub stamp: u64,
}

impl Dir {
    /// The entry of that name.
    pub fn get(&self, name: &[u8]) -> Option<&Item> {
        let found = self.by_name.binary_search_by(|&i| self.items[i as usize].name.as_bytes().cmp(name));
        found.ok().map(|i| &self.items[self.by_name[i] as usize])
    }

    /// The entries after position `cookie`, in order of position.
    pub fn after(&self, cookie: u64) -> &[Item] {
        &self.items[self.items.partition_point(|item| item.cookie <= cookie)..]
    }
}

/// A name whose meaning the kernel must forget, or a directory whose listing it must.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// This name in this directory is gone or means something else.
    Name(u64, Arc<str>),
    /// This directory's attributes and listing.
    Listing(u64),
}

/// The whole synthetic tree at one version of the repository.
#[derive(Debug)]
pub struct Layout {
    snaps: Vec<Snap>,
    dirs: HashMap<u64, Dir>,
    /// For inodes that are no directories of ours: the directory and index of their entry.
    others: HashMap<u64, (u64, u32)>,
}

impl Layout {
    /// The layout of these snapshots, by tenant if that is asked for or any is of a tenant; `old` is the one that is shown
    /// until now.
    pub fn new(mut infos: Vec<SnapshotInfo>, by_tenant: bool, old: Option<&Layout>) -> Layout {
        // Within a second the one recorded first has the plain name.
        infos.sort_by_key(|s| (s.order, s.id));
        infos.dedup_by_key(|s| s.id);
        let snaps = name_snapshots(infos, old);
        let mut build =
            Builder { old, layout: Layout { snaps: Vec::new(), dirs: HashMap::new(), others: HashMap::new() } };
        build.all(&snaps, by_tenant);
        build.layout.snaps = snaps;
        build.layout
    }

    /// A directory of this layout, by inode.
    pub fn dir(&self, ino: u64) -> Option<&Dir> {
        self.dirs.get(&ino)
    }

    /// The entry with this inode that is no synthetic directory.
    pub fn item(&self, ino: u64) -> Option<(u64, &Item)> {
        let (dir, index) = self.others.get(&ino)?;
        Some((*dir, &self.dirs[dir].items[*index as usize]))
    }

    /// A snapshot that an entry leads to.
    pub fn snap(&self, index: u32) -> &Snap {
        &self.snaps[index as usize]
    }

    /// The snapshots in a source's directory, oldest first.
    pub fn history(&self, source_dir: u64) -> Vec<&Snap> {
        let items = self.dirs.get(&source_dir).map_or(&[][..], |d| &d.items[..]);
        let mut out: Vec<_> = items
            .iter()
            .filter_map(|item| match item.target {
                Target::Snapshot(index) => Some(index),
                _ => None,
            })
            .collect();
        // The layout's order: by time.
        out.sort_unstable();
        out.into_iter().map(|i| self.snap(i)).collect()
    }

    /// The inodes of the directories of versions.
    pub fn version_roots(&self) -> impl Iterator<Item = u64> {
        let items = self.dirs.values().flat_map(|dir| &dir.items);
        items.filter(|item| matches!(item.target, Target::Versions(_))).map(|item| item.ino)
    }

    /// What a symbolic link says.
    pub fn link(&self, depth: u8, index: u32) -> String {
        let snap = self.snap(index);
        match depth {
            0 => snap.time.to_string(),
            _ => "../".repeat(depth.into()) + &snap.below(),
        }
    }

    /// What the kernel must forget when `next` replaces this layout.
    pub fn changes(&self, next: &Layout) -> Vec<Change> {
        let mut out = Vec::new();
        for (ino, dir) in &self.dirs {
            let Some(after) = next.dirs.get(ino) else { continue };
            let gone = |item: &&Item| after.get(item.name.as_bytes()).is_none_or(|now| now.ino != item.ino);
            let before = out.len();
            out.extend(dir.items.iter().filter(gone).map(|item| Change::Name(*ino, item.name.clone())));
            if out.len() > before || dir.stamp != after.stamp || dir.next != after.next {
                out.push(Change::Listing(*ino));
            }
        }
        out
    }
}

/// Gives every snapshot its names. `infos` is in the order of time. What `old` shows keeps the name it has there: that
/// of a snapshot that is gone must not pass to another while somebody may still be reading below it.
fn name_snapshots(infos: Vec<SnapshotInfo>, old: Option<&Layout>) -> Vec<Snap> {
    let shown: HashMap<SnapshotId, &Snap> =
        old.into_iter().flat_map(|o| &o.snaps).map(|snap| (snap.info.id, snap)).collect();
    let mut interned: HashMap<String, Arc<str>> = HashMap::new();
    let mut intern = |raw: &str| -> Arc<str> {
        interned.entry(raw.to_owned()).or_insert_with(|| encode(raw, NAME_MAX).into()).clone()
    };
    let own = |snap: &Snap| (snap.tenant.clone(), snap.host.clone(), snap.source.clone(), snap.time.clone());
    let mut taken: HashSet<_> = infos.iter().filter_map(|s| shown.get(&s.id).map(|snap| own(snap))).collect();
    infos
        .into_iter()
        .map(|info| {
            let (host, source) = (intern(&info.host), intern(&info.source));
            let tenant = info.tenant.as_deref().map(&mut intern);
            let new = || {
                let plain = time(info.captured);
                unique(&plain, &info.id, |t| taken.insert((tenant.clone(), host.clone(), source.clone(), t.clone())))
            };
            let time = shown.get(&info.id).map(|snap| snap.time.clone()).unwrap_or_else(new);
            Snap { info, tenant, host, source, time }
        })
        .collect()
}

/// `plain` if `take` accepts it, else with as much of the id as makes it unique.
fn unique(plain: &str, id: &SnapshotId, mut take: impl FnMut(&Arc<str>) -> bool) -> Arc<str> {
    let short: Arc<str> = plain.into();
    if take(&short) {
        return short;
    }
    let hex = id.to_hex();
    [8, 64]
        .into_iter()
        .map(|digits| Arc::from(format!("{plain}~{}", &hex[..digits])))
        .find(|name| take(name))
        .unwrap_or(short)
}

struct Builder<'a> {
    old: Option<&'a Layout>,
    layout: Layout,
}

/// A directory's entries before they have positions.
type Entries = Vec<(Arc<str>, u64, Target)>;

impl Builder<'_> {
    fn all(&mut self, snaps: &[Snap], by_tenant: bool) {
        let mut trees: BTreeMap<Option<&Arc<str>>, Vec<u32>> = BTreeMap::new();
        for (i, snap) in snaps.iter().enumerate() {
            trees.entry(snap.tenant.as_ref()).or_default().push(i as u32);
        }
        let own = trees.remove(&None).unwrap_or_default();
        let mut entries = Entries::new();
        if by_tenant || !trees.is_empty() {
            entries.push(self.tenants(snaps, &trees));
        }
        // At a pool only a repaired log leaves snapshots whose tenant nobody knows.
        if entries.is_empty() || !own.is_empty() {
            entries.extend(self.tree(snaps, ROOT, &own));
        }
        self.dir(ROOT, ROOT, entries, snaps, 0..snaps.len() as u32);
    }

    /// The directory of the tenants, with the tree of each.
    fn tenants(&mut self, snaps: &[Snap], trees: &BTreeMap<Option<&Arc<str>>, Vec<u32>>) -> (Arc<str>, u64, Target) {
        let tenants = Hash::name(ROOT, TENANTS.as_bytes());
        let mut entries = Entries::new();
        for (name, members) in trees.iter().filter_map(|(name, members)| Some(((*name)?, members))) {
            let ino = Hash::name(tenants, name.as_bytes());
            let below = self.tree(snaps, ino, members);
            self.dir(ino, tenants, below, snaps, members.iter().copied());
            entries.push((name.clone(), ino, Target::Dir(ino)));
        }
        self.dir(tenants, ROOT, entries, snaps, trees.values().flatten().copied());
        (TENANTS.into(), tenants, Target::Dir(tenants))
    }

    /// Everything below the directory `base`, with these snapshots alone. Returns its entries.
    fn tree(&mut self, snaps: &[Snap], base: u64, members: &[u32]) -> Entries {
        let top = TOP.map(|name| Hash::name(base, name.as_bytes()));
        let [hosts, ids, flat, tags, versions] = top;
        self.sources(snaps, members, base, [hosts, versions]);
        self.flat(snaps, members, base, [flat, ids]);
        self.tags(snaps, members, base, tags);
        TOP.iter().zip(top).map(|(name, ino)| (Arc::from(*name), ino, Target::Dir(ino))).collect()
    }

    fn sources(&mut self, snaps: &[Snap], members: &[u32], base: u64, [hosts, versions]: [u64; 2]) {
        let mut tree: BTreeMap<&Arc<str>, BTreeMap<&Arc<str>, Vec<u32>>> = BTreeMap::new();
        for i in members {
            let snap = &snaps[*i as usize];
            tree.entry(&snap.host).or_default().entry(&snap.source).or_default().push(*i);
        }
        let (mut all_hosts, mut all_versions) = (Entries::new(), Entries::new());
        for (host, sources) in tree {
            let host_ino = Hash::name(hosts, host.as_bytes());
            let versions_ino = Hash::name(versions, host.as_bytes());
            let (mut in_host, mut in_versions) = (Entries::new(), Entries::new());
            let mut below = Vec::new();
            for (source, members) in sources {
                let ino = Hash::name(host_ino, source.as_bytes());
                in_host.push((source.clone(), ino, Target::Dir(ino)));
                in_versions.push((source.clone(), Hash::name(versions_ino, source.as_bytes()), Target::Versions(ino)));
                self.source(snaps, host_ino, ino, &members);
                below.extend(members);
            }
            self.dir(host_ino, hosts, in_host, snaps, below.iter().copied());
            self.dir(versions_ino, versions, in_versions, snaps, below.iter().copied());
            all_hosts.push((host.clone(), host_ino, Target::Dir(host_ino)));
            all_versions.push((host.clone(), versions_ino, Target::Dir(versions_ino)));
        }
        let all = || members.iter().copied();
        self.dir(hosts, base, all_hosts, snaps, all());
        self.dir(versions, base, all_versions, snaps, all());
    }

    fn source(&mut self, snaps: &[Snap], parent: u64, ino: u64, members: &[u32]) {
        let root = |i: u32| {
            let snap = &snaps[i as usize];
            (snap.time.clone(), Hash::snapshot(&snap.info.id), Target::Snapshot(i))
        };
        let mut entries: Entries = members.iter().map(|i| root(*i)).collect();
        if let Some(newest) = members.last() {
            let link = Hash::link(ino, b"latest", &snaps[*newest as usize].info.id);
            entries.push(("latest".into(), link, Target::Link(0, *newest)));
        }
        self.dir(ino, parent, entries, snaps, members.iter().copied());
    }

    fn flat(&mut self, snaps: &[Snap], members: &[u32], base: u64, [flat, ids]: [u64; 2]) {
        let all = || members.iter().copied();
        let entries = self.links(snaps, flat, 1, all(), &flat_name);
        self.dir(flat, base, entries, snaps, all());
        let entries = self.links(snaps, ids, 1, all(), &|snap| snap.info.id.short());
        self.dir(ids, base, entries, snaps, all());
    }

    fn tags(&mut self, snaps: &[Snap], members: &[u32], base: u64, tags: u64) {
        let mut tree: BTreeMap<Arc<str>, Vec<u32>> = BTreeMap::new();
        for i in members {
            let snap = &snaps[*i as usize];
            let names: HashSet<String> = snap.info.tags.iter().map(|tag| encode(tag, NAME_MAX)).collect();
            for name in names {
                tree.entry(name.into()).or_default().push(*i);
            }
        }
        let mut entries = Entries::new();
        let mut below: HashSet<u32> = HashSet::new();
        for (tag, members) in tree {
            let ino = Hash::name(tags, tag.as_bytes());
            let links = self.links(snaps, ino, 2, members.iter().copied(), &flat_name);
            self.dir(ino, tags, links, snaps, members.iter().copied());
            entries.push((tag, ino, Target::Dir(ino)));
            below.extend(members);
        }
        self.dir(tags, base, entries, snaps, below.into_iter());
    }

    /// Links to `members` in the directory `dir`, by the name `plain` gives or one like it. Those the old layout has in
    /// that directory keep their names.
    fn links(
        &self,
        snaps: &[Snap],
        dir: u64,
        depth: u8,
        members: impl Iterator<Item = u32> + Clone,
        plain: &dyn Fn(&Snap) -> String,
    ) -> Entries {
        let old = self.old.and_then(|old| Some((old, old.dirs.get(&dir)?)));
        let shown: HashMap<SnapshotId, Arc<str>> = old.map_or_else(HashMap::new, |(old, dir)| {
            let link = |item: &Item| match item.target {
                Target::Link(_, i) => Some((old.snap(i).info.id, item.name.clone())),
                _ => None,
            };
            dir.items.iter().filter_map(link).collect()
        });
        let id = |i: u32| &snaps[i as usize].info.id;
        let mut taken: HashSet<Arc<str>> = members.clone().filter_map(|i| shown.get(id(i)).cloned()).collect();
        members
            .map(|i| {
                let new = || {
                    let free = |n: &Arc<str>| n.len() <= NAME_MAX && taken.insert(n.clone());
                    unique(&plain(&snaps[i as usize]), id(i), free)
                };
                let name = shown.get(id(i)).cloned().unwrap_or_else(new);
                (name.clone(), Hash::link(dir, name.as_bytes(), id(i)), Target::Link(depth, i))
            })
            .collect()
    }

    /// Adds a directory; its entries keep the positions they had in the old layout.
    fn dir(&mut self, ino: u64, parent: u64, entries: Entries, snaps: &[Snap], below: impl Iterator<Item = u32>) {
        let old = self.old.and_then(|o| o.dirs.get(&ino));
        let mut next = old.map_or(FIRST, |o| o.next);
        let mut items: Vec<Item> = entries
            .into_iter()
            .map(|(name, ino, target)| {
                let cookie = old.and_then(|o| o.get(name.as_bytes())).map(|item| item.cookie).unwrap_or_else(|| {
                    next += 1;
                    next - 1
                });
                Item { name, cookie, ino, target }
            })
            .collect();
        items.sort_by_key(|item| item.cookie);
        let mut by_name: Vec<u32> = (0..items.len() as u32).collect();
        by_name.sort_by(|a, b| items[*a as usize].name.cmp(&items[*b as usize].name));
        for (i, item) in items.iter().enumerate() {
            if !matches!(item.target, Target::Dir(_)) {
                self.layout.others.insert(item.ino, (ino, i as u32));
            }
        }
        let (mut mtime, mut stamp) = (0, 0u64);
        for i in below {
            let info = &snaps[i as usize].info;
            mtime = mtime.max(info.captured);
            // A sum, so that the order does not matter.
            stamp = stamp.wrapping_add(Hash::snapshot(&info.id) ^ info.captured as u64);
        }
        self.layout.dirs.insert(ino, Dir { parent, items, by_name, next, mtime, stamp });
    }
}

/// `<time>_<host>_<source>`.
fn flat_name(snap: &Snap) -> String {
    // Leaves room for the two underscores and both ids that may follow a time.
    format!("{}_{}_{}", snap.time, encode(&snap.info.host, 70), encode(&snap.info.source, 70))
}

/// Nanoseconds since the epoch as a filesystem's time.
pub fn file_time(ns: i64) -> repo::format::tree::FileTime {
    repo::format::tree::FileTime { secs: ns.div_euclid(1_000_000_000), nanos: ns.rem_euclid(1_000_000_000) as u32 }
}
