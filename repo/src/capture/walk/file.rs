//! Everything of the walk that is no directory: what has not changed is taken from the previous snapshot, a further name
//! of a file leads to its first, the rest is read.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;

use crossbeam_channel::bounded;

use super::{At, Walk, stat_of};
use crate::capture::event::{Event, Linked};
use crate::capture::parent::Known;
use crate::capture::read::{Job, Origin, QUEUE, WHOLE};
use crate::capture::scan::{Meta, Xattrs, read_link, xattrs_at};
use crate::error::{Error, Kind, Result};
use crate::format::tree::{Entry, EntryType, FileTime};
use crate::limits::{KIB, MAX_SYMLINK};
use crate::monitor::Action;

impl Walk<'_> {
    pub(super) fn visit_file(
        &mut self,
        at: &At,
        fd: &Arc<OwnedFd>,
        name: &[u8],
        meta: &Meta,
        known: Option<Known>,
        device: bool,
    ) -> Result<()> {
        if let (Some(known), Some(parent)) = (&known, &mut self.parent) {
            parent.pass(&known.entry);
        }
        let stat = stat_of(meta);
        let path = at.real().to_owned();
        let mut entry = self.entry(name, meta);
        if meta.nlink > 1 {
            let (group, last) = self.link(meta, &at.snap);
            entry.link_group = Some(group);
            if let Some(last) = last.filter(|_| meta.kind == EntryType::File) {
                return self.send(Event::Link { entry, stat, path, last });
            }
        }
        let action = if known.is_some() { Action::Changed } else { Action::New };
        if device {
            let mut as_file = self.entry(name, meta);
            as_file.kind = EntryType::File;
            as_file.rdev = 0;
            if meta.kind == EntryType::Symlink {
                // A link's own mode would open the device's content to everybody.
                as_file.mode = 0o600;
            }
            return self.read(Origin::Device(path.clone()), as_file, &Meta { size: u64::MAX, ..*meta }, action, path);
        }
        if let Some(same) = known.and_then(|k| self.unchanged(k, meta)) {
            let same = Entry { link_group: entry.link_group, user: entry.user, group: entry.group, ..same };
            return self.send(Event::Ready { entry: same, stat, xattrs: Vec::new(), action: Action::Unchanged, path });
        }
        match meta.kind {
            EntryType::File => self.read(Origin::Name(Arc::clone(fd), name.to_vec()), entry, meta, action, path),
            _ => self.special(fd, name, meta, entry, action, path),
        }
    }

    fn special(
        &mut self,
        fd: &Arc<OwnedFd>,
        name: &[u8],
        meta: &Meta,
        mut entry: Entry,
        action: Action,
        path: PathBuf,
    ) -> Result<()> {
        let read = || -> io::Result<(Vec<u8>, Xattrs)> {
            let link = meta.kind == EntryType::Symlink;
            let target = if link { read_link(fd.as_fd(), name)? } else { Vec::new() };
            if link && (target.is_empty() || target.len() > MAX_SYMLINK) {
                return Err(io::Error::from_raw_os_error(libc::EINVAL));
            }
            Ok((target, xattrs_at(fd.as_fd(), name)?))
        };
        match read() {
            Ok((target, xattrs)) => {
                entry.size = target.len() as u64;
                entry.target = target;
                self.send(Event::Ready { entry, stat: stat_of(meta), xattrs, action, path })
            }
            Err(e) => {
                self.failed(&path, "read", e);
                Ok(())
            }
        }
    }

    /// Sends a job to the readers and the event that takes its result.
    fn read(&self, from: Origin, entry: Entry, meta: &Meta, action: Action, path: PathBuf) -> Result<()> {
        let whole = meta.size <= WHOLE;
        let budget = if whole { meta.size + KIB as u64 } else { 0 };
        self.budget.take(budget);
        let queue = if whole { 4 + (meta.size / self.chunk_min) as usize } else { QUEUE };
        let (out, content) = bounded(queue);
        let gone = || Error::new(Kind::Interrupted, "the backup ended early");
        self.jobs.send(Job { from, meta: *meta, out }).map_err(|_| gone())?;
        self.send(Event::File { entry, content, budget, action, path })
    }

    /// A stream as the one file of the snapshot's root, called `name`.
    ///
    /// # Errors
    /// `Interrupted` when the receiver is gone.
    pub fn stream(self, name: &[u8], meta: &Meta, pipe: Box<dyn io::Read + Send>) -> Result<()> {
        let mut root = self.entry(b"root", meta);
        root.kind = EntryType::Dir;
        root.mode = 0o700;
        let stat = stat_of(meta);
        self.send(Event::Enter { entry: root, stat, xattrs: Vec::new(), before: None })?;
        let entry = self.entry(name, meta);
        let path = PathBuf::from(std::ffi::OsString::from_vec(name.to_vec()));
        let endless = Meta { size: u64::MAX, ..*meta };
        self.read(Origin::Stream(pipe), entry, &endless, Action::New, path)?;
        self.send(Event::Leave)
    }

    /// The group of a file with several names; if this is not its first, whether it is the last.
    fn link(&mut self, meta: &Meta, path: &[u8]) -> ([u8; 32], Option<bool>) {
        let key = (meta.dev, meta.ino);
        let same = (meta.kind, meta.size, meta.mtime);
        if let Some(known) = self.links.get_mut(&key).filter(|known| known.same == same) {
            known.left -= 1;
            let (group, last) = (known.group, known.left == 0);
            if last {
                self.links.remove(&key);
            }
            return (group, Some(last));
        }
        let group = *blake3::hash(path).as_bytes();
        self.links.insert(key, Linked { group, left: meta.nlink - 1, same });
        (group, None)
    }

    /// The known entry, if nothing about it can have changed.
    fn unchanged(&self, known: Known, meta: &Meta) -> Option<Entry> {
        let entry = &known.entry;
        let same = entry.kind == meta.kind
            && entry.mtime == meta.mtime
            && entry.size == meta.size
            && entry.rdev == device(meta)
            && known.stat == Some(stat_of(meta))
            && self.settled_before.is_some_and(|time| settled(meta, time))
            && (entry.mode, entry.uid, entry.gid) == (meta.mode, meta.uid, meta.gid);
        let reuse = same && !self.rules.force && !entry.unstable && (self.usable)(entry);
        reuse.then_some(known.entry)
    }

    pub(super) fn entry(&self, name: &[u8], meta: &Meta) -> Entry {
        let mut entry = Entry::new(name, meta.kind);
        entry.mode = meta.mode;
        entry.uid = meta.uid;
        entry.gid = meta.gid;
        entry.mtime = meta.mtime;
        entry.user = self.accounts.user(meta.uid).to_vec();
        entry.group = self.accounts.group(meta.gid).to_vec();
        entry.rdev = device(meta);
        entry
    }
}

/// Whether the last change was surely seen by a capture that began at `time`, but for a tick. Some filesystems count whole
/// seconds (ext3, small inodes of ext4), or two (FAT).
fn settled(meta: &Meta, time: FileTime) -> bool {
    const COARSE: i64 = 2;
    let secs = if meta.ctime.nanos == 0 { meta.ctime.secs.saturating_add(COARSE) } else { meta.ctime.secs };
    FileTime { secs, ..meta.ctime } < time
}

fn device(meta: &Meta) -> u64 {
    if matches!(meta.kind, EntryType::CharDevice | EntryType::BlockDevice) { meta.rdev } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::scan::stat_at;

    #[test]
    fn a_change_in_the_same_tick_is_not_settled() {
        let mut meta = identity_meta();
        let time = |secs, nanos| FileTime { secs, nanos };
        meta.ctime = time(100, 500);
        assert!(settled(&meta, time(100, 501)) && !settled(&meta, time(100, 500)));
        // A filesystem that counts whole seconds, or two.
        meta.ctime = time(100, 0);
        assert!(!settled(&meta, time(100, 900_000_000)) && !settled(&meta, time(102, 0)));
        assert!(settled(&meta, time(102, 1)));
    }

    fn identity_meta() -> Meta {
        stat_at(std::fs::File::open("/").unwrap().as_fd(), b".").unwrap()
    }
}
