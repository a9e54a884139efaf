//! Who comes in by SSH, and what becomes of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use repo::audit;
use repo::error::{Error, Kind, Result};
use repo::format::record::{AuditEntry, PrivateKey, Record, TenantState};
use repo::lock::COMMIT_WAIT;
use repo::open::Repository;
use repo::tenants;
use zeroize::Zeroizing;

use super::visit::{Ration, Told, Visit};
use super::{Grant, Pool, serve_visit};
use crate::ssh::keys::{KeyPair, PublicKey};
use crate::ssh::server::{Caller, Event, Gate, Grant as Given, Service, StopFlag};
use crate::stream::Duplex;
use crate::throttle;

/// Takes what an operator may want to know, an event at a time.
pub type Tell = Box<dyn Fn(&Told<'_>) + Send + Sync>;

/// The door of a pool.
pub struct Door {
    pool: Pool,
    tell: Tell,
    ration: Ration,
}

impl Door {
    /// Of this pool; what happens is told to `tell`.
    pub fn new(pool: Pool, tell: Tell) -> Door {
        Door { pool, tell, ration: Ration::default() }
    }

    /// The key that the pool's server shows: from its log, where it is made the first time.
    ///
    /// # Errors
    /// What the log gives; `Usage` if what stands there is no key.
    pub fn host_key(repo: &Repository) -> Result<KeyPair> {
        let commit = repo.locks.commit(COMMIT_WAIT)?;
        repo.log.refresh()?;
        if let Some(key) = &repo.log.state().host_key {
            return KeyPair::from_text(&key.0);
        }
        let key = KeyPair::generate("packmule host key")?;
        let text = Zeroizing::new(key.to_text()?.as_bytes().to_vec());
        repo.log.append(&commit, Record::HostKey { key: PrivateKey(text) })?;
        Ok(key)
    }

    fn tell(&self, event: &str, fields: Vec<(&'static str, String)>) {
        (self.tell)(&Told { event, fields });
    }

    /// Notes a connection that has ended: in the log for whoever was let in, and for the operator in any case.
    fn note(&self, caller: &Caller, visit: &Visit, begun: Instant, done: &Result<()>) {
        let state = self.pool.repo.log.state();
        let known =
            tenants::credential(&state, &bare(&caller.key)).map(|(n, t, key)| (n, t.name.clone(), key.label.clone()));
        let (taken, given) = visit.bytes();
        let mut entry = AuditEntry {
            who: caller.key.fingerprint(),
            from: place(caller.peer),
            operation: visit.operation().to_owned(),
            taken,
            given,
            snapshots: visit.snapshots(),
            failure: done.as_ref().err().map_or_else(|| visit.failure(), Error::to_string),
            millis: begun.elapsed().as_millis() as u64,
            ..AuditEntry::default()
        };
        let outside = matches!(caller.grant.downcast_ref::<Grant>(), Some(Grant::Guest { .. } | Grant::Removed));
        let stranger = known.is_none() && outside;
        if let Some((number, name, label)) = known.or_else(|| self.late(caller)) {
            (entry.tenant, entry.name, entry.label) = (Some(number), name, label);
        }
        let agent = entry.tenant.is_some_and(|number| state.agents.contains_key(&number));
        self.tell(
            match done {
                Ok(()) if entry.failure.is_empty() => "served",
                Ok(()) => "failed",
                Err(e) if e.kind() == Kind::Unreachable => "lost",
                Err(_) => "failed",
            },
            fields(&entry, agent),
        );
        // A stranger must not write to the log, nor somebody without end; a part is in what is recorded of the whole.
        if stranger || entry.operation.is_empty() || visit.is_part() {
            return;
        }
        let Some(left_out) = self.ration.take(&entry.who, Instant::now()) else { return };
        if left_out > 0 {
            entry.operation.push_str(&format!(" (and {left_out} connections before that were too many to be listed)"));
        }
        if let Err(e) = audit::record(&self.pool.repo, entry) {
            self.tell("warning", vec![("error", format!("a connection is not in the audit: {e}"))]);
        }
    }

    /// The tenant of somebody whose key was revoked, or whose tenant was suspended, while they were here.
    fn late(&self, caller: &Caller) -> Option<(u32, String, String)> {
        let Some(Grant::Tenant { tenant, .. }) = caller.grant.downcast_ref::<Grant>() else { return None };
        Some((*tenant, repo::history::tenant_name(&self.pool.repo.log.state(), *tenant), String::new()))
    }

    fn grant(&self, public: &str) -> Result<Option<Grant>> {
        self.pool.repo.log.refresh()?;
        let state = self.pool.repo.log.state();
        if let Some((tenant, _, key)) = tenants::credential(&state, public) {
            return Ok(Some(Grant::Tenant { tenant, roles: key.roles }));
        }
        // Whose key is known, and only they, may hear that their tenant is being removed.
        let removed = |party: &TenantState| {
            party.removed.is_some() && party.keys.iter().any(|key| key.public == public && key.revoked.is_none())
        };
        if state.tenants.values().any(removed) {
            return Ok(Some(Grant::Removed));
        }
        // A stranger is let in as far as a token can be shown, and only while some invitation is open.
        let now = self.pool.repo.clock.now();
        let mut live = tenants::parties(&state).map(|(_, party)| party).filter(|party| tenants::is_live(party));
        let open = live.any(|party| party.invites.iter().any(|invite| invite.expires > now));
        Ok(open.then(|| Grant::Guest { public: public.to_owned() }))
    }
}

/// A public key without its comment: as the log has it.
pub fn bare(key: &PublicKey) -> String {
    key.text().split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// Where somebody calls from: an IPv4 address as one, also where the server listens on IPv6.
fn place(peer: SocketAddr) -> String {
    SocketAddr::new(peer.ip().to_canonical(), peer.port()).to_string()
}

/// An entry as the structured log shows it.
fn fields(entry: &AuditEntry, agent: bool) -> Vec<(&'static str, String)> {
    let seconds = format!("{:.3}", entry.millis as f64 / 1000.0);
    let all = [
        (if agent { "agent" } else { "tenant" }, entry.name.clone()),
        ("key", entry.who.clone()),
        ("label", entry.label.clone()),
        ("from", entry.from.clone()),
        ("operation", entry.operation.clone()),
        ("snapshots", entry.snapshots.to_string()),
        ("bytes_received", entry.taken.to_string()),
        ("bytes_sent", entry.given.to_string()),
        ("seconds", seconds),
        ("error", entry.failure.clone()),
    ];
    all.into_iter().filter(|(_, value)| !value.is_empty()).collect()
}

impl Gate for Door {
    fn admit(&self, _: &str, key: &PublicKey, _: SocketAddr) -> Option<Given> {
        match self.grant(&bare(key)) {
            Ok(grant) => grant.map(|grant| Arc::new(grant) as Given),
            Err(e) => {
                self.tell("warning", vec![("error", format!("cannot tell who may come in: {e}"))]);
                None
            }
        }
    }

    fn event(&self, event: &Event<'_>) {
        let of = |caller: &Caller| vec![("key", caller.key.fingerprint()), ("from", place(caller.peer))];
        match event {
            Event::Refused { peer, fingerprint, user } => {
                let (key, from, user) = (fingerprint.clone(), place(*peer), (*user).to_owned());
                self.tell("refused", vec![("key", key), ("from", from), ("user", user)]);
            }
            Event::Crowded { peer } => self.tell("crowded", vec![("from", place(*peer))]),
            Event::Full(caller) => self.tell("full", of(caller)),
            Event::Panicked(caller) => self.tell("panicked", of(caller)),
            Event::Warning(text) => self.tell("warning", vec![("error", (*text).to_owned())]),
            _ => {}
        }
    }
}

impl Service for Door {
    fn serve(&self, caller: Caller, channel: Duplex, stop: StopFlag) {
        let Some(grant) = caller.grant.downcast_ref::<Grant>() else { return };
        let (visit, begun) = (Arc::new(Visit::default()), Instant::now());
        let done = throttle::tamed(channel).and_then(|channel| serve_visit(&self.pool, grant, channel, &stop, &visit));
        self.note(&caller, &visit, begun, &done);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_told_as_what_it_is() {
        for (peer, told) in [
            ("[::ffff:192.0.2.7]:4711", "192.0.2.7:4711"),
            ("192.0.2.7:4711", "192.0.2.7:4711"),
            ("[2001:db8::7]:4711", "[2001:db8::7]:4711"),
        ] {
            assert_eq!(place(peer.parse().unwrap()), told);
        }
    }
}
