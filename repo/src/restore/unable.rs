//! What this user or this filesystem cannot set: counted, and said once a kind.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::monitor::{Event, Monitor};

/// One kind of thing that could not be restored though nothing failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Unable {
    /// User or group.
    Owner,
    /// The setuid and setgid bits of a file that belongs to somebody else now.
    SetId,
    /// Permission bits.
    Mode,
    /// A device node.
    Device,
    /// A pipe, socket or symbolic link on a filesystem without them.
    Special,
    /// A hard link; the file was written a second time.
    HardLink,
    /// An access control list.
    Acl,
    /// A file capability.
    Capability,
    /// An extended attribute of the system's or of security modules.
    Privileged,
    /// A user's extended attribute.
    Xattr,
}

const KINDS: [(Unable, &str); 10] = [
    (Unable::Owner, "user or group could not be set: they belong to you (run as root to restore owners)"),
    (Unable::SetId, "setuid or setgid was left off, because the file belongs to somebody else now"),
    (Unable::Mode, "permissions could not be set"),
    (Unable::Device, "device nodes could not be made and are absent (only root can)"),
    (Unable::Special, "links, pipes or sockets are absent, because the target's filesystem has none"),
    (Unable::HardLink, "hard links could not be made and were written as files of their own"),
    (Unable::Acl, "access control lists could not be set"),
    (Unable::Capability, "file capabilities could not be set (only root can)"),
    (Unable::Privileged, "extended attributes of the system could not be set"),
    (Unable::Xattr, "extended attributes could not be set on this filesystem"),
];

/// How often each kind was met.
#[derive(Default)]
pub struct Unables([AtomicU64; KINDS.len()]);

impl Unables {
    /// Counts one.
    pub fn note(&self, kind: Unable) {
        self.0[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The kinds met, with how many items.
    pub fn met(&self) -> Vec<(Unable, u64)> {
        let counts = KINDS.iter().map(|(kind, _)| (*kind, self.0[*kind as usize].load(Ordering::Relaxed)));
        counts.filter(|(_, n)| *n > 0).collect()
    }

    /// Says each kind met once.
    pub fn tell(&self, monitor: &dyn Monitor) {
        for (kind, n) in self.met() {
            let what = KINDS.iter().find(|(k, _)| *k == kind).map_or("", |(_, what)| what);
            let items = if n == 1 { "item" } else { "items" };
            monitor.event(Event::Warning(&format!("{n} {items}: {what}")));
        }
    }
}
