//! Directories listed ahead of the walk, by the pool's threads.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::capture::exclude::{Marker, Markers};
use crate::capture::pool::{Pool, Promise};
use crate::capture::scan::{Attributes, Meta, Names, open_dir, open_leased, open_path, stat, stat_at, xattrs_of};
use crate::error::{Error, Result};
use crate::format::tree::EntryType;
use crate::limits::MIB;

/// Entries of one directory looked up together.
const BATCH: usize = 1024;
/// Such batches in work at a time.
const BATCHES: usize = 4;
/// Directories of this size, as the filesystem has it, are not listed ahead: a million names each, on every level, would
/// take all memory.
const LARGE: u64 = MIB as u64;

/// An opened and listed directory.
pub struct Listing {
    /// The directory.
    pub fd: Arc<OwnedFd>,
    /// Its attributes, as of its opening.
    pub meta: Meta,
    /// Its extended attributes.
    pub attributes: Attributes,
    /// Whether it has a mark that leaves its content out.
    pub marked: bool,
    names: Arc<Names>,
    first: Vec<io::Result<Meta>>,
}

impl Listing {
    /// Whether `name` is in it.
    pub fn contains(&self, name: &[u8]) -> bool {
        self.names.contains(name)
    }
}

/// What to list.
pub enum Which {
    /// Everything; of a directory left out for its mark nothing but the mark and these, as far as they are there.
    All(Vec<Vec<u8>>),
    /// These, in order.
    Only(Vec<Vec<u8>>),
}

/// Opens and lists the directory `name` in `dir`, and looks its first entries up. One of `markers` in it is the mark that
/// its content is to be left out.
///
/// # Errors
/// The system's.
pub fn list(dir: BorrowedFd<'_>, name: &[u8], what: &Which, markers: &Markers) -> io::Result<Listing> {
    let fd = open_dir(dir, name)?;
    let meta = stat(&fd)?;
    let attributes = xattrs_of(&fd);
    let fd = OwnedFd::from(fd);
    let mut marked = false;
    let names = match what {
        Which::All(keep) => {
            let all = Names::read(&fd)?;
            match markers.list.iter().find(|m| all.contains(&m.name) && is_marked(fd.as_fd(), m, &markers.over)) {
                Some(marker) => {
                    marked = true;
                    let kept = keep.iter().filter(|name| all.contains(name)).map(Vec::as_slice);
                    let names: BTreeSet<_> = kept.chain([marker.name.as_slice()]).collect();
                    Names::of(names.into_iter())?
                }
                None => all,
            }
        }
        Which::Only(names) => Names::of(names.iter().map(Vec::as_slice))?,
    };
    let first = look_up(&fd, &names, 0);
    Ok(Listing { fd: Arc::new(fd), meta, attributes, marked, names: Arc::new(names), first })
}

fn look_up(fd: &OwnedFd, names: &Names, from: usize) -> Vec<io::Result<Meta>> {
    (from..names.len().min(from + BATCH)).map(|i| stat_at(fd.as_fd(), names.get(i))).collect()
}

/// Whether the file of a marker's name begins as it must.
fn is_marked(dir: BorrowedFd<'_>, marker: &Marker, over: &AtomicBool) -> bool {
    if marker.header.is_empty() {
        return true;
    }
    let Ok(file) = open_leased(dir, &marker.name, over) else { return false };
    let mut head = Vec::new();
    let read = file.take(marker.header.len() as u64).read_to_end(&mut head);
    read.is_ok() && head == marker.header
}

/// Whether a subdirectory, by its name and attributes, will be walked as it is.
pub type Deep<'a> = &'a dyn Fn(&[u8], &Meta) -> bool;

/// A directory being walked: hands out its entries in order while later ones, and the subdirectories among
/// them, are looked up ahead.
pub struct Walking {
    /// None while it rests.
    fd: Option<Arc<OwnedFd>>,
    /// Device and inode, to find the same directory again.
    identity: (u64, u64),
    /// How many subdirectories are listed ahead.
    most_ahead: usize,
    names: Arc<Names>,
    next: usize,
    ready: VecDeque<io::Result<Meta>>,
    coming: VecDeque<Promise<Vec<io::Result<Meta>>>>,
    asked: usize,
    /// Subdirectories listed ahead: position and promise.
    ahead: VecDeque<(usize, Promise<io::Result<Listing>>)>,
    looked_ahead: usize,
}

impl Walking {
    /// Starts at the first entry. Up to `most_ahead` subdirectories will be listed ahead.
    pub fn new(listing: Listing, most_ahead: usize) -> Walking {
        Walking {
            fd: Some(listing.fd),
            identity: (listing.meta.dev, listing.meta.ino),
            most_ahead,
            names: listing.names,
            next: 0,
            asked: listing.first.len(),
            ready: listing.first.into(),
            coming: VecDeque::new(),
            ahead: VecDeque::new(),
            looked_ahead: 0,
        }
    }

    /// The directory, while it is open.
    ///
    /// # Errors
    /// `Bug` while it rests.
    pub fn dir(&self) -> Result<Arc<OwnedFd>> {
        self.fd.clone().ok_or_else(|| Error::bug("a directory is used while it is closed"))
    }

    /// Closes what is open for it, while the walk is far below: a deep tree must not need a descriptor a level. Until
    /// [`Walking::wake`] it has no next entry.
    pub fn rest(&mut self) {
        self.fd = None;
        self.ahead.drain(..).for_each(|(_, promise)| promise.cancel());
    }

    /// Opens it again: above the directory `below`, where the walk comes from, or where it was. `path` is that place.
    ///
    /// # Errors
    /// The system's; when something else is in its place.
    pub fn wake(&mut self, below: Option<&OwnedFd>, path: &Path) -> io::Result<()> {
        let same = |dir: File| match stat(&dir) {
            Ok(meta) if (meta.dev, meta.ino) == self.identity => Ok(dir),
            Ok(_) => Err(io::Error::other("it was moved away while it was being backed up")),
            Err(e) => Err(e),
        };
        // A path may be longer than the system takes, a directory below have been moved: whichever works.
        let above = below.map(|below| open_dir(below.as_fd(), b"..").and_then(same));
        let dir = match above {
            Some(Ok(dir)) => dir,
            _ => open_path(path).and_then(same)?,
        };
        self.fd = Some(Arc::new(dir.into()));
        Ok(())
    }

    /// Whether it is closed for now.
    pub fn rests(&self) -> bool {
        self.fd.is_none()
    }

    /// The next entry's position and attributes. `deep`: which subdirectories will be walked as they are, so that
    /// listing them ahead is no waste, and wakes no automounter or dead server that is to be left alone.
    pub fn next(
        &mut self,
        pool: &Pool,
        deep: Option<Deep<'_>>,
        markers: &Arc<Markers>,
    ) -> Option<(usize, io::Result<Meta>)> {
        let fd = Arc::clone(self.fd.as_ref()?);
        while self.coming.len() < BATCHES && self.asked < self.names.len() {
            let (fd, names, from) = (Arc::clone(&fd), Arc::clone(&self.names), self.asked);
            self.coming.push_back(pool.promise(move || look_up(&fd, &names, from)));
            self.asked = self.names.len().min(from + BATCH);
        }
        if self.ready.is_empty() {
            self.ready = self.coming.pop_front()?.wait().into();
        }
        if let Some(deep) = deep {
            self.list_ahead(&fd, pool, deep, markers);
        }
        let meta = self.ready.pop_front()?;
        self.next += 1;
        Some((self.next - 1, meta))
    }

    fn list_ahead(&mut self, fd: &Arc<OwnedFd>, pool: &Pool, deep: Deep<'_>, markers: &Arc<Markers>) {
        self.looked_ahead = self.looked_ahead.max(self.next);
        let end = self.next + self.ready.len();
        while self.ahead.len() < self.most_ahead && self.looked_ahead < end {
            let i = self.looked_ahead;
            self.looked_ahead += 1;
            let wanted =
                |meta: &Meta| meta.kind == EntryType::Dir && meta.size <= LARGE && deep(self.names.get(i), meta);
            if self.ready[i - self.next].as_ref().is_ok_and(wanted) {
                let (fd, names, markers) = (Arc::clone(fd), Arc::clone(&self.names), Arc::clone(markers));
                let work = move || list(fd.as_fd(), names.get(i), &Which::All(Vec::new()), &markers);
                self.ahead.push_back((i, pool.promise(work)));
            }
        }
    }

    /// The `i`-th name.
    pub fn name(&self, i: usize) -> &[u8] {
        self.names.get(i)
    }

    /// The listing of the `i`-th entry, if it was begun ahead; what was begun for entries before it is dropped.
    pub fn child(&mut self, i: usize) -> Option<Promise<io::Result<Listing>>> {
        while let Some((at, _)) = self.ahead.front() {
            if *at > i {
                return None;
            }
            let (at, promise) = self.ahead.pop_front()?;
            if at == i {
                return Some(promise);
            }
            promise.cancel();
        }
        None
    }
}
