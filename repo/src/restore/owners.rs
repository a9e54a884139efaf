//! Whose the restored files are.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;

use crate::format::tree::Entry;
use crate::restore::Options;

/// Maps captured owners to those on this machine, and remembers what was refused.
pub struct Owners {
    users: HashMap<Vec<u8>, u32>,
    groups: HashMap<Vec<u8>, u32>,
    map_uid: HashMap<u32, u32>,
    /// This user may not give files away: asking again for every file would cost a call each.
    pub giving_refused: AtomicBool,
    refused_groups: RwLock<HashSet<u32>>,
}

impl Owners {
    /// As the options say.
    pub fn new(options: &Options) -> Owners {
        let ids = |file| if options.owner_by_name { read_names(file) } else { HashMap::new() };
        Owners {
            users: ids("/etc/passwd"),
            groups: ids("/etc/group"),
            map_uid: options.map_uid.iter().copied().collect(),
            giving_refused: AtomicBool::new(false),
            refused_groups: RwLock::default(),
        }
    }

    /// User and group for an entry: a mapped number first, then a known name, then the number.
    pub fn of(&self, entry: &Entry) -> (u32, u32) {
        let by_name = |names: &HashMap<Vec<u8>, u32>, name: &Vec<u8>, id| match names.is_empty() {
            true => id,
            false => names.get(name).copied().unwrap_or(id),
        };
        let uid = match self.map_uid.get(&entry.uid) {
            Some(to) => *to,
            None => by_name(&self.users, &entry.user, entry.uid),
        };
        (uid, by_name(&self.groups, &entry.group, entry.gid))
    }

    /// Remembers that this user may not give files to others.
    pub fn refuse_giving(&self) {
        self.giving_refused.store(true, Ordering::Relaxed);
    }

    /// Whether a group was refused before.
    pub fn group_refused(&self, gid: u32) -> bool {
        self.refused_groups.read().contains(&gid)
    }

    /// Remembers a group that was refused.
    pub fn refuse_group(&self, gid: u32) {
        self.refused_groups.write().insert(gid);
    }
}

/// Names and numbers of `/etc/passwd` or `/etc/group`. The C library's look-up is avoided on purpose: it loads
/// plug-ins, which a static binary must not.
fn read_names(path: &str) -> HashMap<Vec<u8>, u32> {
    let text = std::fs::read(path).unwrap_or_default();
    let mut out = HashMap::new();
    for line in text.split(|&b| b == b'\n') {
        let mut fields = line.split(|&b| b == b':');
        let (Some(name), Some(id)) = (fields.next(), fields.nth(1)) else { continue };
        if let Some(id) = std::str::from_utf8(id).ok().and_then(|s| s.parse().ok()) {
            out.entry(name.to_vec()).or_insert(id);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::tree::EntryType;

    #[test]
    fn mapped_number_then_name_then_number() {
        let mut entry = Entry::new("x", EntryType::File);
        (entry.uid, entry.gid) = (4711, 4712);
        (entry.user, entry.group) = (b"root".to_vec(), b"nobody-knows".to_vec());
        let by = |owner_by_name, map_uid| Owners::new(&Options { owner_by_name, map_uid, ..Options::default() });
        assert_eq!(by(false, vec![]).of(&entry), (4711, 4712));
        assert_eq!(by(true, vec![]).of(&entry), (0, 4712));
        assert_eq!(by(true, vec![(4711, 12)]).of(&entry), (12, 4712));
        assert_eq!(by(false, vec![(1, 2)]).of(&entry), (4711, 4712));
    }
}
