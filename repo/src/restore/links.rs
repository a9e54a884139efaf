//! Hard links: the first name of a group that is restored is the file, the others are linked to it once it is complete.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::restore::dir::Place;

/// Where a complete file is, and which it is.
#[derive(Clone)]
pub struct Found {
    /// The directory.
    pub place: Arc<Place>,
    /// Its name there.
    pub name: Arc<[u8]>,
    /// Device and inode: what is linked must be this file, not what somebody put in its place.
    pub id: (u64, u64),
}

enum State {
    /// Some thread restores it.
    Pending,
    /// It could not be restored, or something else stays in its place: the next name tries.
    Vacant,
    Done(Found),
}

/// The names of one file.
pub struct Group {
    state: Mutex<State>,
    settled: Condvar,
}

impl Group {
    /// What to link to; none: the caller restores the file itself and must call [`Group::settle`].
    ///
    /// Waits for the name that came first. That cannot wait for ever: jobs are taken in order, so it is being worked on.
    pub fn wait(&self) -> Option<Found> {
        let mut state = self.state.lock();
        loop {
            match &*state {
                State::Pending => self.settled.wait(&mut state),
                State::Done(found) => return Some(found.clone()),
                State::Vacant => {
                    *state = State::Pending;
                    return None;
                }
            }
        }
    }

    /// The file is complete, or (none) it is not to be had by this name.
    pub fn settle(&self, found: Option<Found>) {
        *self.state.lock() = found.map_or(State::Vacant, State::Done);
        self.settled.notify_all();
    }
}

/// A file's part in its group. Dropped without being settled (a thread that gave up), it leaves the group vacant.
pub struct Claim(Option<Arc<Group>>);

impl Claim {
    /// Of a file with one name.
    pub fn none() -> Claim {
        Claim(None)
    }

    /// Of the thread that restores the group's file.
    pub fn of(group: Arc<Group>) -> Claim {
        Claim(Some(group))
    }

    /// As [`Group::settle`]; `found` is only asked for in a group.
    pub fn settle(mut self, found: impl FnOnce() -> Option<Found>) {
        if let Some(group) = self.0.take() {
            group.settle(found());
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(group) = self.0.take() {
            group.settle(None);
        }
    }
}

/// What a name is to its group.
pub enum Role {
    /// No group, or the first: restore it.
    First(Claim),
    /// Link it.
    Other(Arc<Group>),
}

/// All groups met so far.
#[derive(Default)]
pub struct Links(Mutex<HashMap<[u8; 32], Arc<Group>>>);

impl Links {
    /// The role of the next name with this group.
    pub fn role(&self, group: Option<&[u8; 32]>) -> Role {
        let Some(h) = group else { return Role::First(Claim::none()) };
        let mut map = self.0.lock();
        if let Some(group) = map.get(h) {
            return Role::Other(Arc::clone(group));
        }
        let group = Arc::new(Group { state: Mutex::new(State::Pending), settled: Condvar::new() });
        map.insert(*h, Arc::clone(&group));
        Role::First(Claim::of(group))
    }
}
