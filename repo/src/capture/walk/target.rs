//! What the user named: it is captured, or the user hears why not.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use super::Walk;
use crate::capture::plan::Node;
use crate::error::{Result, printable};
use crate::format::tree::EntryType;
use crate::monitor::Event as Report;

impl Walk<'_> {
    /// Reports every target at or below `node`: there is no way to any of them.
    pub(super) fn missed(&self, node: &Node, why: &dyn Fn() -> io::Error) -> Result<()> {
        if node.target {
            match why() {
                e if e.kind() == io::ErrorKind::NotFound => self.failures.gone(&node.real, true)?,
                e => self.failures.report(&node.real, "read", e)?,
            }
        }
        node.children.values().try_for_each(|child| self.missed(child, why))
    }

    /// Something has gone since it was listed.
    pub(super) fn gone(&self, path: &Path, planned: Option<&Node>) -> Result<()> {
        match planned {
            Some(node) => self.missed(node, &absent),
            None => self.failures.gone(path, false),
        }
    }

    /// Whether the content of what was named is to be read as a device's.
    pub(super) fn is_device(&self, path: &Path, kind: EntryType) -> bool {
        let (block, char) = match kind {
            EntryType::BlockDevice => (true, false),
            EntryType::CharDevice => (false, true),
            // Logical volumes are named by symbolic links: what was named is the device that it leads to.
            EntryType::Symlink if self.rules.read_devices => std::fs::metadata(path).map_or((false, false), |found| {
                (found.file_type().is_block_device(), found.file_type().is_char_device())
            }),
            _ => (false, false),
        };
        let path = printable(path);
        if char {
            let text = format!("{path} is a character device: its node is saved, no content");
            self.monitor.event(Report::Warning(&text));
        }
        if block && !self.rules.read_devices {
            let text = format!("{path} is a block device: its node is saved, no content; --read-devices saves that");
            self.monitor.event(Report::Warning(&text));
        }
        block && self.rules.read_devices
    }
}

/// What is not there.
pub fn absent() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOENT)
}

/// Why nothing can be captured below `path`, which is no directory.
pub fn not_a_way(path: &Path, kind: EntryType) -> io::Error {
    if kind != EntryType::Symlink {
        return io::Error::from_raw_os_error(libc::ENOTDIR);
    }
    let path = printable(path);
    io::Error::other(format!(
        "{path}, which leads there, is itself saved as a symbolic link: name the path it leads to"
    ))
}
