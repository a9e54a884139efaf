//! Changing snapshots' tags. The manifest keeps those of the capture; the log has the last word.

use std::collections::BTreeSet;

use crate::error::{Error, Kind, Result};
use crate::format::record::{MAX_TAGS, MAX_TEXT, Record};
use crate::id::SnapshotId;
use crate::lock::COMMIT_WAIT;
use crate::open::Repository;

/// What is to become of the tags, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// These take the place of all.
    pub set: Option<BTreeSet<String>>,
    /// These go.
    pub remove: BTreeSet<String>,
    /// These come.
    pub add: BTreeSet<String>,
}

impl Change {
    fn of(&self, tags: &BTreeSet<String>) -> BTreeSet<String> {
        let mut new = self.set.clone().unwrap_or_else(|| tags.clone());
        new.retain(|tag| !self.remove.contains(tag));
        new.extend(self.add.iter().cloned());
        new
    }
}

/// Changes the tags of these snapshots and shows each that changed with its tags; what is as wanted already is left.
///
/// # Errors
/// `Usage` for tags that are too long or too many, before anything changes; `NotFound` for a snapshot that is not there;
/// what lock and log give.
pub fn tag(
    repo: &Repository,
    ids: &[SnapshotId],
    change: &Change,
    visit: &mut dyn FnMut(&SnapshotId, &BTreeSet<String>) -> Result<()>,
) -> Result<()> {
    let commit = repo.locks.commit(COMMIT_WAIT)?;
    repo.log.refresh()?;
    let state = repo.log.state();
    let mut wanted = Vec::new();
    for id in ids {
        let snapshot = state.snapshots.get(id).filter(|s| s.forgotten.is_none());
        let snapshot =
            snapshot.ok_or_else(|| Error::new(Kind::NotFound, format!("there is no snapshot {}", id.short())))?;
        let new = change.of(&snapshot.tags);
        if new.len() > MAX_TAGS || new.iter().any(|tag| tag.is_empty() || tag.len() > MAX_TEXT) {
            let message = format!("a snapshot has at most {MAX_TAGS} tags, of 1 to {MAX_TEXT} bytes each");
            return Err(Error::new(Kind::Usage, message));
        }
        if new != snapshot.tags {
            let add = new.difference(&snapshot.tags).cloned().collect();
            let remove = snapshot.tags.difference(&new).cloned().collect();
            wanted.push((*id, new, Record::Tagged { snapshot: *id, add, remove }));
        }
    }
    for (id, tags, record) in wanted {
        repo.log.append(&commit, record)?;
        visit(&id, &tags)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(list: &[&str]) -> BTreeSet<String> {
        list.iter().map(|t| t.to_string()).collect()
    }

    #[test]
    fn set_then_remove_then_add() {
        let change = |set: Option<&[&str]>, remove: &[&str], add: &[&str]| {
            Change { set: set.map(tags), remove: tags(remove), add: tags(add) }.of(&tags(&["a", "b"]))
        };
        assert_eq!(change(None, &["a", "x"], &["c"]), tags(&["b", "c"]));
        assert_eq!(change(None, &["a"], &["a"]), tags(&["a", "b"]));
        assert_eq!(change(Some(&["z"]), &[], &[]), tags(&["z"]));
        assert_eq!(change(Some(&[]), &[], &[]), tags(&[]));
    }
}
