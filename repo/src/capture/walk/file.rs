//! Everything of the walk that is no directory: what has not changed is taken from the previous snapshot, a further name
//! of a file leads to its first, the rest is read.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crossbeam_channel::bounded;

use super::{At, File, Walk, stat_of};
use crate::capture::event::{Event, Linked, NEVER};
use crate::capture::parent::Known;
use crate::capture::read::{Job, Origin, QUEUE, WHOLE};
use crate::capture::scan::{Attributes, Meta, read_link, xattrs_at};
use crate::error::{Error, Kind, Result};
use crate::format::tree::{Entry, EntryType, FileTime};
use crate::limits::{KIB, MAX_SYMLINK};
use crate::monitor::Action;

impl Walk<'_> {
    pub(super) fn visit_file(&mut self, at: &At, file: File<'_>) -> Result<()> {
        let File { dir, name, meta, known, named, device } = file;
        self.pass(known.as_ref());
        let stat = stat_of(meta);
        let path = at.real().to_owned();
        let mut entry = self.entry(name, meta);
        let action = if known.is_some() { Action::Changed } else { Action::New };
        let (same, before) = match known {
            Some(known) if self.unchanged(&known, meta) => (Some(known.entry), None),
            Some(known) => (None, Some(known.entry)),
            None => (None, None),
        };
        let before = before.filter(|before| before.kind == EntryType::File && before.size != meta.size).map(Box::new);
        if meta.nlink > 1 {
            let (group, last) = self.link(meta, &at.snap);
            entry.link_group = Some(group);
            if let Some(last) = last.filter(|_| meta.kind == EntryType::File) {
                let action = if same.is_some() { Action::Unchanged } else { action };
                return self.send(Event::Link { entry, stat, action, path, named, last });
            }
        }
        if device {
            let mut as_file = self.entry(name, meta);
            as_file.kind = EntryType::File;
            as_file.rdev = 0;
            if meta.kind == EntryType::Symlink {
                // A link's own mode would open the device's content to everybody.
                as_file.mode = 0o600;
            }
            let endless = Meta { size: u64::MAX, ..*meta };
            return self.read(Origin::Device(path.clone()), as_file, &endless, (action, None), path, named);
        }
        if let Some(same) = same {
            let same = Entry { link_group: entry.link_group, user: entry.user, group: entry.group, ..same };
            return self.send(Event::Ready { entry: same, stat, xattrs: Vec::new(), action: Action::Unchanged, path });
        }
        match meta.kind {
            EntryType::File => self.read(Origin::Name(dir, name.to_vec()), entry, meta, (action, before), path, named),
            _ => self.special(&dir, meta, entry, action, path, named),
        }
    }

    /// A link, device, pipe or socket.
    fn special(
        &self,
        dir: &OwnedFd,
        meta: &Meta,
        mut entry: Entry,
        action: Action,
        path: PathBuf,
        named: bool,
    ) -> Result<()> {
        let target = match meta.kind {
            EntryType::Symlink => read_link(dir.as_fd(), &entry.name).and_then(|target| match target.len() {
                1..=MAX_SYMLINK => Ok(target),
                _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
            }),
            _ => Ok(Vec::new()),
        };
        let Attributes { xattrs, failed } = xattrs_at(dir.as_fd(), &entry.name);
        let mut stat = stat_of(meta);
        match (target, failed) {
            (Ok(target), failed) if failed.as_ref().is_none_or(|e| e.kind() != io::ErrorKind::NotFound) => {
                if let Some(e) = failed {
                    self.failures.report(&path, "read the attributes of", e)?;
                    stat = NEVER;
                }
                entry.size = target.len() as u64;
                entry.target = target;
                self.send(Event::Ready { entry, stat, xattrs, action, path })
            }
            (Err(e), _) if e.kind() != io::ErrorKind::NotFound => self.failures.report(&path, "read", e),
            _ => self.failures.gone(&path, named),
        }
    }

    /// Sends a job to the readers and the event that takes its result.
    fn read(
        &self,
        from: Origin,
        entry: Entry,
        meta: &Meta,
        (action, before): (Action, Option<Box<Entry>>),
        path: PathBuf,
        named: bool,
    ) -> Result<()> {
        let whole = meta.size <= WHOLE;
        let budget = if whole { meta.size + KIB as u64 } else { 0 };
        self.budget.take(budget);
        let queue = if whole { 4 + (meta.size / self.chunk_min) as usize } else { QUEUE };
        let (out, content) = bounded(queue);
        let gone = || Error::new(Kind::Interrupted, "the backup ended early");
        self.jobs.send(Job { from, meta: *meta, out }).map_err(|_| gone())?;
        self.send(Event::File { entry, content, budget, action, path, named, before })
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
        self.read(Origin::Stream(pipe), entry, &endless, (Action::New, None), path, false)?;
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

    /// Whether nothing about the known entry can have changed.
    fn unchanged(&self, known: &Known, meta: &Meta) -> bool {
        let entry = &known.entry;
        let same = entry.kind == meta.kind
            && entry.mtime == meta.mtime
            && entry.size == meta.size
            && entry.rdev == device(meta)
            && known.stat == Some(stat_of(meta))
            && self.settled_before.is_some_and(|time| settled(meta, time))
            && (entry.mode, entry.uid, entry.gid) == (meta.mode, meta.uid, meta.gid);
        same && !self.rules.force && !entry.unstable && (self.usable)(entry)
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
