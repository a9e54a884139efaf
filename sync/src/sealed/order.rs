//! An owner's order to delete, as it travels: which objects, of which repository, at which record of its log, signed by the
//! key that only the recovery code unwraps. `docs/protocol.md` (Orders) is normative.

use repo::crypto::slot::RecoveryCode;
use repo::error::{Error, Kind, Result};
use repo::format::record::Position;
use repo::format::wire::{Reader, Writer};
use repo::id::{LogHash, RepoId};
use repo::keyslots::{SIGNATURE, sign_order, signed_order};
use repo::open::Repository;

use crate::wire::Object;
use crate::wire::limits::MAX_ORDER;

const MAGIC: &[u8; 8] = b"PKMLORDR";
const VERSION: u16 = 1;

/// The most objects of one order.
pub const MOST: usize = 250_000;

/// What an order says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Of which repository.
    pub repository: RepoId,
    /// The newest record of its log when it was made.
    pub position: Position,
    /// What is to be deleted, ascending.
    pub objects: Vec<Object>,
}

impl Order {
    /// The bytes that are signed.
    fn body(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.bytes(MAGIC);
        w.u16(VERSION);
        w.bytes(self.repository.as_bytes());
        w.u64(self.position.seq);
        w.bytes(self.position.hash.as_bytes());
        w.varint(self.objects.len() as u64);
        self.objects.iter().for_each(|object| object.write(&mut w));
        w.into_vec()
    }

    /// The order, signed with the key that `code` unwraps.
    ///
    /// # Errors
    /// `WrongPassword` if it unwraps none, or another owner's.
    pub fn sign(&self, repo: &Repository, code: &RecoveryCode) -> Result<Vec<u8>> {
        let mut bytes = self.body();
        let owner = &repo.config.owner_public;
        let signature = sign_order(repo.backend.as_ref(), &repo.config.repo_id, owner, code, &bytes)?;
        bytes.extend_from_slice(&signature);
        Ok(bytes)
    }

    /// Reads an order that the owner with this public key has signed.
    ///
    /// # Errors
    /// `Refused` if it has not; `NewerFormat`.
    pub fn open(bytes: &[u8], owner: &[u8; 32]) -> Result<Order> {
        let refused = |why: &'static str| Error::new(Kind::Refused, why);
        let forged = || {
            refused("this order to delete is not signed by the owner of the repository")
                .remedy("use the recovery code of the repository that was pushed here first")
        };
        let (body, signature) = bytes.split_last_chunk::<SIGNATURE>().ok_or_else(forged)?;
        if bytes.len() as u64 > MAX_ORDER || !body.starts_with(MAGIC) || !signed_order(owner, body, signature) {
            return Err(forged());
        }
        Order::read(&body[MAGIC.len()..]).map_err(|e| match e.kind() {
            Kind::Damaged => refused("this order to delete cannot be read"),
            _ => e,
        })
    }

    fn read(body: &[u8]) -> Result<Order> {
        let mut r = Reader::new(body);
        if r.u16()? != VERSION {
            return Err(Error::new(Kind::NewerFormat, "this order to delete is a newer program's")
                .remedy("update packmule at the pool"));
        }
        let repository = RepoId(r.array()?);
        let position = Position { seq: r.u64()?, hash: LogHash(r.array()?) };
        let n = r.count(MOST, 1)?;
        let objects = (0..n).map(|_| Object::read(&mut r)).collect::<Result<Vec<_>>>()?;
        r.finish()?;
        if objects.is_empty() || !objects.is_sorted_by(|a, b| a < b) {
            return Err(Error::damaged("its objects are out of order"));
        }
        Ok(Order { repository, position, objects })
    }
}
