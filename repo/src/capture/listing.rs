//! Directories listed ahead of the walk, by the pool's threads.

use std::collections::VecDeque;
use std::io;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::capture::exclude::Marker;
use crate::capture::pool::{Pool, Promise};
use crate::capture::scan::{Meta, Names, Xattrs, open_dir, open_file, stat, stat_at, xattrs_of};
use crate::format::tree::EntryType;
use crate::limits::MIB;

/// Entries of one directory looked up together.
const BATCH: usize = 1024;
/// Such batches in work at a time.
const BATCHES: usize = 4;
/// Subdirectories of one directory listed ahead.
const CHILDREN: usize = 32;
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
    pub xattrs: io::Result<Xattrs>,
    names: Arc<Names>,
    first: Vec<io::Result<Meta>>,
}

/// What to list.
pub enum Which {
    /// Everything.
    All,
    /// These, in order.
    Only(Vec<Vec<u8>>),
}

/// Opens and lists the directory `name` in `dir`, and looks its first entries up. With one of `markers` present,
/// only the marker itself is listed.
///
/// # Errors
/// The system's.
pub fn list(dir: BorrowedFd<'_>, name: &[u8], what: &Which, markers: &[Marker]) -> io::Result<Listing> {
    let fd = open_dir(dir, name)?;
    let meta = stat(&fd)?;
    let xattrs = xattrs_of(&fd);
    let fd = OwnedFd::from(fd);
    let names = match what {
        Which::All => {
            let all = Names::read(&fd)?;
            match markers.iter().find(|m| all.contains(&m.name) && is_marked(fd.as_fd(), m)) {
                Some(marker) => Names::of([marker.name.as_slice()].into_iter())?,
                None => all,
            }
        }
        Which::Only(names) => Names::of(names.iter().map(Vec::as_slice))?,
    };
    let first = look_up(&fd, &names, 0);
    Ok(Listing { fd: Arc::new(fd), meta, xattrs, names: Arc::new(names), first })
}

fn look_up(fd: &OwnedFd, names: &Names, from: usize) -> Vec<io::Result<Meta>> {
    (from..names.len().min(from + BATCH)).map(|i| stat_at(fd.as_fd(), names.get(i))).collect()
}

fn is_marked(dir: BorrowedFd<'_>, marker: &Marker) -> bool {
    let Ok(file) = open_file(dir, &marker.name) else { return false };
    let mut head = Vec::new();
    let read = file.take(marker.header.len() as u64).read_to_end(&mut head);
    read.is_ok() && head == marker.header
}

/// Whether a subdirectory, by its name and attributes, will be walked as it is.
pub type Deep<'a> = &'a dyn Fn(&[u8], &Meta) -> bool;

/// A directory being walked: hands out its entries in order while later ones, and the subdirectories among
/// them, are looked up ahead.
pub struct Walking {
    /// The directory.
    pub fd: Arc<OwnedFd>,
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
    /// Starts at the first entry.
    pub fn new(listing: Listing) -> Walking {
        Walking {
            fd: listing.fd,
            names: listing.names,
            next: 0,
            asked: listing.first.len(),
            ready: listing.first.into(),
            coming: VecDeque::new(),
            ahead: VecDeque::new(),
            looked_ahead: 0,
        }
    }

    /// The next entry's position and attributes. `deep`: which subdirectories will be walked as they are, so that
    /// listing them ahead is no waste, and wakes no automounter or dead server that is to be left alone.
    pub fn next(
        &mut self,
        pool: &Pool,
        deep: Option<Deep<'_>>,
        markers: &Arc<Vec<Marker>>,
    ) -> Option<(usize, io::Result<Meta>)> {
        while self.coming.len() < BATCHES && self.asked < self.names.len() {
            let (fd, names, from) = (Arc::clone(&self.fd), Arc::clone(&self.names), self.asked);
            self.coming.push_back(pool.promise(move || look_up(&fd, &names, from)));
            self.asked = self.names.len().min(from + BATCH);
        }
        if self.ready.is_empty() {
            self.ready = self.coming.pop_front()?.wait().into();
        }
        if let Some(deep) = deep {
            self.list_ahead(pool, deep, markers);
        }
        let meta = self.ready.pop_front()?;
        self.next += 1;
        Some((self.next - 1, meta))
    }

    fn list_ahead(&mut self, pool: &Pool, deep: &dyn Fn(&[u8], &Meta) -> bool, markers: &Arc<Vec<Marker>>) {
        self.looked_ahead = self.looked_ahead.max(self.next);
        let end = self.next + self.ready.len();
        while self.ahead.len() < CHILDREN && self.looked_ahead < end {
            let i = self.looked_ahead;
            self.looked_ahead += 1;
            let wanted =
                |meta: &Meta| meta.kind == EntryType::Dir && meta.size <= LARGE && deep(self.names.get(i), meta);
            if self.ready[i - self.next].as_ref().is_ok_and(wanted) {
                let (fd, names, markers) = (Arc::clone(&self.fd), Arc::clone(&self.names), Arc::clone(markers));
                let work = move || list(fd.as_fd(), names.get(i), &Which::All, &markers);
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
