//! A sealed tenant's copy within the copy of the pool that keeps it: its objects travel as files of state, by the pool's own
//! connection.

use std::path::PathBuf;

use repo::backend::{Backend, Object};
use repo::error::Result;
use repo::format::record::Position;
use repo::id::RepoId;

use super::Target;
use super::remote::Remote;
use crate::wire::{Object as Named, StateName};

impl Remote {
    /// Puts the mark that makes a copy of the repository `of`, kept in this one, a copy.
    ///
    /// # Errors
    /// As [`Target::put`].
    pub fn nested(&self, tenant: u32, of: RepoId) -> Result<Nested<'_>> {
        let nested = Nested { remote: self, tenant };
        let name = nested.name("copy")?;
        let mark = of.to_hex().into_bytes();
        if self.lacks(vec![(name.clone(), mark.len() as u64)])?[0] {
            self.send_object(name, &mark)?;
        }
        Ok(nested)
    }
}

/// The copy of a sealed tenant's, within the copy of the pool that it is a tenant of.
pub struct Nested<'a> {
    remote: &'a Remote,
    tenant: u32,
}

impl Nested<'_> {
    fn name(&self, rest: &str) -> Result<Named> {
        StateName::new(&format!("tenants/{}/{rest}", self.tenant)).map(Named::State)
    }

    fn named(&self, object: &Object) -> Result<Named> {
        match object {
            Object::Pack(id) => self.name(&format!("packs/{}", id.to_hex())),
            other => self.name(&other.path().to_string_lossy()),
        }
    }
}

impl Target for Nested<'_> {
    fn watermark(&self) -> Result<Option<Position>> {
        Ok(None)
    }

    fn wanted(&self) -> Vec<Object> {
        Vec::new()
    }

    fn missing(&self, objects: &[(Object, u64)]) -> Result<Vec<bool>> {
        let named = objects.iter().map(|(object, size)| Ok((self.named(object)?, *size)));
        self.remote.lacks(named.collect::<Result<_>>()?)
    }

    fn put(&self, object: &Object, bytes: &[u8]) -> Result<()> {
        self.remote.send_object(self.named(object)?, bytes)
    }

    fn settle(&self) -> Result<()> {
        self.remote.settled()
    }

    fn keeps_passwords(&self) -> bool {
        false
    }

    fn path(&self, object: &Object) -> PathBuf {
        self.remote.place.join(format!("tenants/{}", self.tenant)).join(object.path())
    }

    fn owned(&self) -> Option<&dyn Backend> {
        None
    }
}
