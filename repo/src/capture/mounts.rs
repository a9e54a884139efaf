//! Mounts of repositories, which are never captured: every snapshot would hold all earlier ones once more.

use std::collections::HashMap;
use std::path::Path;

use parking_lot::Mutex;

use crate::mount_table::{KIND, MountEntry, mounted_at, mounts};

/// Tells which filesystems are mounts of repositories. The kernel's table is read once for each device that is asked for:
/// so a walk asks only where the device changes.
#[derive(Default)]
pub struct Mounts {
    known: Mutex<HashMap<u64, bool>>,
}

impl Mounts {
    /// Whether the filesystem with this device number is a repository's mount. Where the table cannot be read none is.
    pub fn is_repository(&self, dev: u64) -> bool {
        let device = (libc::major(dev), libc::minor(dev));
        let mounted =
            || mounts().is_ok_and(|all| all.iter().any(|mount| mount.device == device && of_repository(mount)));
        *self.known.lock().entry(dev).or_insert_with(mounted)
    }

    /// Whether a repository is mounted at `path`, which cannot be looked at: by another user, or with no process left
    /// to answer.
    pub fn is_mounted_at(&self, path: &Path) -> bool {
        mounted_at(path).is_ok_and(|mount| mount.is_some_and(|mount| of_repository(&mount)))
    }
}

fn of_repository(mount: &MountEntry) -> bool {
    mount.kind == KIND
}
