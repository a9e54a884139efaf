//! What the walk hands on, and what bounds how far it runs ahead.

use std::path::PathBuf;

use crossbeam_channel::Receiver;
use parking_lot::{Condvar, Mutex};

use crate::capture::read::Msg;
use crate::capture::scan::Xattrs;
use crate::format::sidecar::Stat;
use crate::format::tree::{Entry, EntryType, FileTime};
use crate::limits::MIB;
use crate::monitor::Action;

/// Bytes of whole files read and not yet taken.
const READ_AHEAD: u64 = 32 * MIB as u64;

/// In the sidecar for what could be captured in part only: no file is so, and thus the next backup reads it again and
/// reports it again.
pub const NEVER: Stat = Stat { ino: 0, ctime: FileTime { secs: i64::MIN, nanos: 0 } };

/// What is to be in the snapshot, in tree order.
pub enum Event {
    /// A directory begins; its entries follow, then [`Event::Leave`].
    Enter {
        /// Attributes, without content.
        entry: Entry,
        /// For the sidecar.
        stat: Stat,
        /// Extended attributes.
        xattrs: Xattrs,
        /// The same directory in the previous snapshot.
        before: Option<Box<Entry>>,
    },
    /// The directory last entered ends.
    Leave,
    /// An entry that needs no reading.
    Ready {
        /// The whole entry, but for `xattrs`.
        entry: Entry,
        /// For the sidecar.
        stat: Stat,
        /// Extended attributes to add; those of an unchanged entry are in it already.
        xattrs: Xattrs,
        /// What became of it.
        action: Action,
        /// Where it is, for reports.
        path: PathBuf,
    },
    /// A file being read.
    File {
        /// Attributes as the walk saw them.
        entry: Entry,
        /// Where the content comes.
        content: Receiver<Msg>,
        /// What to give back to [`Budget`] when it has come.
        budget: u64,
        /// New or changed.
        action: Action,
        /// Where it is, for reports.
        path: PathBuf,
        /// Whether the user asked for just this.
        named: bool,
        /// The same file in the previous snapshot, where its size is not what the filesystem says: so it is on sysfs,
        /// and only reading tells whether it has changed.
        before: Option<Box<Entry>>,
    },
    /// Another name of a file that came before.
    Link {
        /// Attributes; `link_group` says of which file.
        entry: Entry,
        /// For the sidecar.
        stat: Stat,
        /// What became of this name.
        action: Action,
        /// Where it is, for reports.
        path: PathBuf,
        /// Whether the user asked for just this.
        named: bool,
        /// Whether the file has no further name.
        last: bool,
    },
}

/// A file of several names.
pub struct Linked {
    /// What all its names have as link group.
    pub group: [u8; 32],
    /// Names still to come.
    pub left: u64,
    /// As it was at its first name: an inode may be freed and be another file's before the walk ends.
    pub same: (EntryType, u64, FileTime),
}

/// Bytes that may be in flight, taken in walk order and given back in walk order.
pub struct Budget {
    left: Mutex<Option<u64>>,
    changed: Condvar,
}

impl Budget {
    /// Allows [`READ_AHEAD`] bytes.
    pub fn new() -> Budget {
        Budget { left: Mutex::new(Some(READ_AHEAD)), changed: Condvar::new() }
    }

    /// Waits for bytes to be free.
    pub fn take(&self, n: u64) {
        let mut left = self.left.lock();
        while let Some(free) = *left {
            if free >= n {
                *left = Some(free - n);
                return;
            }
            self.changed.wait(&mut left);
        }
    }

    /// Gives bytes back.
    pub fn give(&self, n: u64) {
        let mut left = self.left.lock();
        *left = left.map(|free| free + n);
        self.changed.notify_one();
    }

    /// Nobody waits any more.
    pub fn close(&self) {
        *self.left.lock() = None;
        self.changed.notify_all();
    }
}
