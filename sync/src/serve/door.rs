//! Who comes in by SSH, and what becomes of them.

use std::net::SocketAddr;
use std::sync::Arc;

use repo::error::{Kind, Result};
use repo::format::record::{PrivateKey, Record};
use repo::lock::COMMIT_WAIT;
use repo::open::Repository;
use repo::tenants;
use zeroize::Zeroizing;

use super::{Grant, Pool, serve};
use crate::ssh::keys::{KeyPair, PublicKey};
use crate::ssh::server::{Caller, Event, Gate, Grant as Given, Service, StopFlag};
use crate::stream::Duplex;

/// Takes what an operator may want to know, a line at a time.
pub type Tell = Box<dyn Fn(&str) + Send + Sync>;

/// The door of a pool.
pub struct Door {
    pool: Pool,
    tell: Tell,
}

impl Door {
    /// Of this pool; what happens is told to `tell`.
    pub fn new(pool: Pool, tell: Tell) -> Door {
        Door { pool, tell }
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

    fn grant(&self, public: &str) -> Result<Option<Grant>> {
        self.pool.repo.log.refresh()?;
        let state = self.pool.repo.log.state();
        if let Some((tenant, _, key)) = tenants::credential(&state, public) {
            return Ok(Some(Grant::Tenant { tenant, roles: key.roles }));
        }
        // A stranger is let in as far as a token can be shown, and only while some invitation is open.
        let now = self.pool.repo.clock.now();
        let open =
            tenants::parties(&state).any(|(_, t)| t.removed.is_none() && t.invites.iter().any(|i| i.expires > now));
        Ok(open.then(|| Grant::Guest { public: public.to_owned() }))
    }
}

/// A public key without its comment: as the log has it.
pub fn bare(key: &PublicKey) -> String {
    key.text().split(' ').take(2).collect::<Vec<_>>().join(" ")
}

impl Gate for Door {
    fn admit(&self, _: &str, key: &PublicKey, _: SocketAddr) -> Option<Given> {
        match self.grant(&bare(key)) {
            Ok(grant) => grant.map(|grant| Arc::new(grant) as Given),
            Err(e) => {
                (self.tell)(&format!("cannot tell who may come in: {e}"));
                None
            }
        }
    }

    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Refused { peer, fingerprint, .. } => {
                (self.tell)(&format!("refused the key {fingerprint} from {peer}"));
            }
            Event::Crowded { peer } => {
                (self.tell)(&format!("cut {peer} off before it had shown a key: too many at once"));
            }
            Event::Full(caller) => {
                (self.tell)(&format!("no room for {} from {}", caller.key.fingerprint(), caller.peer))
            }
            Event::Panicked(caller) => (self.tell)(&format!("a mistake in this program cut {} off", caller.peer)),
            Event::Warning(text) => (self.tell)(text),
            _ => {}
        }
    }
}

impl Service for Door {
    fn serve(&self, caller: Caller, channel: Duplex, stop: StopFlag) {
        let Some(grant) = caller.grant.downcast_ref::<Grant>() else { return };
        let who = match grant {
            Grant::Tenant { tenant, .. } => {
                let state = self.pool.repo.log.state();
                tenants::party(&state, *tenant).map_or_else(|| format!("tenant {tenant}"), |t| t.name.clone())
            }
            Grant::Guest { .. } => "a guest".to_owned(),
        };
        let from = format!("{who} ({} from {})", caller.key.fingerprint(), caller.peer);
        match serve(&self.pool, grant, channel, &stop) {
            Ok(()) => match (grant, tenants::credential(&self.pool.repo.log.state(), &bare(&caller.key))) {
                (Grant::Guest { .. }, Some((_, tenant, _))) => {
                    let sort = if self.pool.repo.log.state().pool { "tenant" } else { "host" };
                    (self.tell)(&format!("an invitation of {sort} {} was taken up by {from}", tenant.name));
                }
                _ => (self.tell)(&format!("served {from}")),
            },
            Err(e) if e.kind() == Kind::Unreachable => (self.tell)(&format!("lost {from}: {e}")),
            Err(e) => (self.tell)(&format!("failed {from}: {e}")),
        }
    }
}
