//! What belongs together: the snapshots of one source of one host, and at a pool of one tenant. Names are the tenants' own
//! choice, so two tenants' may be equal: nothing may group snapshots by host and source alone.

use crate::format::record::{SnapshotState, State};

/// Whose snapshots are one line of restore points. Sorted by tenant first.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct History {
    /// The tenant's number; none for snapshots of the repository's own.
    pub tenant: Option<u32>,
    /// The host.
    pub host: String,
    /// The source.
    pub source: String,
}

impl History {
    /// The history that a snapshot belongs to.
    pub fn of(snapshot: &SnapshotState) -> History {
        let (host, source) = (snapshot.host.clone(), snapshot.source.clone());
        History { tenant: snapshot.origin.map(|origin| origin.tenant), host, source }
    }

    /// In words: `web1 srv-data`, at a pool `acme web1 srv-data`. What is in it comes from other machines, as it is.
    pub fn words(&self, state: &State) -> String {
        match self.tenant {
            Some(number) => format!("{} {} {}", tenant_name(state, number), self.host, self.source),
            None => format!("{} {}", self.host, self.source),
        }
    }
}

/// What people call a tenant; one that the log does not know has only its number.
pub fn tenant_name(state: &State, number: u32) -> String {
    let removed = || state.certificates.get(&number).map(|(_, certificate)| certificate.name.clone());
    let name = state.tenants.get(&number).map(|tenant| tenant.name.clone()).or_else(removed);
    name.unwrap_or_else(|| format!("#{number}"))
}

/// The name of the tenant that a snapshot is from; none for one of the repository's own.
pub fn tenant_of(state: &State, snapshot: &SnapshotState) -> Option<String> {
    snapshot.origin.map(|origin| tenant_name(state, origin.tenant))
}
