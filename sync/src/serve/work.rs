//! What follows from a client's packs and questions, in the order in which they came.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender as Told;
use repo::crypto::hash::ChunkKind;
use repo::crypto::keys::Keyring;
use repo::error::{Error, Kind, Result};
use repo::format::record::{Position, Record};
use repo::id::{ContentHash, DriveId, PackId, SnapshotId, hex};
use repo::limits::MIB;
use repo::lock::COMMIT_WAIT;
use repo::monitor::Void;
use repo::receive::{Answer, Sender as Tenant};
use repo::tenants::{self, party};

use super::out::Out;
use super::pace::{Account, Sort};
use super::spool::Spool;
use super::{Pool, quota, receipts};
use crate::wire::{Bitmap, Message, Object, Piece, PieceName, Reason, Secret};

/// Spooled packs are made durable in the pool, and removed, after this many bytes of them.
const SETTLE: u64 = 512 * MIB as u64;
/// Bytes of questions and manifests that wait, and of manifests that are kept; one may always.
pub const MAX_HELD: usize = 16 * MIB;
/// Manifests kept, until what they lack has come.
const KEPT: usize = 64;

/// What is to be done.
pub enum Job {
    /// A pack is durable in the spool.
    Absorb(PackId),
    /// Which of these are missing?
    Have(Vec<Piece>),
    /// The tenant has rotated its key.
    Keys(Secret),
    /// A manifest has come.
    Manifest(SnapshotId, Vec<u8>),
    /// What a manifest lacked has come.
    Again(SnapshotId),
    /// What was absorbed is to become the tenant's own; then say so.
    Settle(Told<()>),
    /// Something is to be kept for the tenant; nothing: is it there?
    Keep([u8; 32], Vec<u8>),
    /// Which of these drives was taken in?
    Receipts(Vec<DriveId>),
    /// Everything up to here has come.
    Done(Position),
}

impl Job {
    /// The pack that it is about, if it is.
    pub fn pack(&self) -> Option<PackId> {
        match self {
            Job::Absorb(id) => Some(*id),
            _ => None,
        }
    }

    /// About how many bytes it holds until it is done.
    pub fn held(&self) -> usize {
        match self {
            Job::Have(pieces) => pieces.len() * size_of::<Piece>(),
            Job::Manifest(_, sealed) => sealed.len(),
            Job::Receipts(drives) => drives.len() * size_of::<DriveId>(),
            _ => 0,
        }
    }
}

/// One push's work.
pub struct Work<'a> {
    pub pool: &'a Pool,
    tenant: Arc<Tenant>,
    pub spool: &'a Spool,
    pub out: Arc<Out>,
    /// Absorbed by a receiver, and not yet settled there; without a name: refused, but for what was good in it.
    absorbed: Vec<(Option<PackId>, u64)>,
    bytes: u64,
    /// Whether all of that was new to the pool.
    all_new: bool,
    pace: Account,
    /// Whether it has left what it wants back.
    left: bool,
    kept: HashMap<SnapshotId, Vec<u8>>,
}

impl<'a> Work<'a> {
    /// Nothing done yet.
    pub fn new(pool: &'a Pool, tenant: Arc<Tenant>, spool: &'a Spool, out: Arc<Out>) -> Work<'a> {
        Work {
            pool,
            tenant,
            spool,
            out,
            absorbed: Vec::new(),
            bytes: 0,
            all_new: true,
            pace: Account::default(),
            left: false,
            kept: HashMap::new(),
        }
    }

    /// Does one job and answers it.
    ///
    /// # Errors
    /// What ends the push.
    pub fn work(&mut self, job: Job) -> Result<()> {
        match job {
            Job::Absorb(id) => self.absorb(id),
            Job::Have(pieces) => self.have(&pieces),
            Job::Keys(keyring) => self.keys(&keyring),
            Job::Manifest(snapshot, sealed) => self.manifest(snapshot, sealed),
            Job::Again(snapshot) => match self.kept.remove(&snapshot) {
                Some(sealed) => self.manifest(snapshot, sealed),
                None => {
                    self.tell(&declined(snapshot, Reason::Unknown, "its manifest was not sent, or is kept no more"))
                }
            },
            Job::Settle(told) => {
                self.settle()?;
                // Who asked may have gone.
                let _ = told.send(());
                Ok(())
            }
            Job::Keep(mark, sealed) => self.keep(mark, sealed),
            Job::Receipts(drives) => self.tell(&receipts::signed(&self.pool.repo, self.tenant.number, &drives)?),
            Job::Done(position) => self.done(position),
        }
    }

    fn tell(&self, message: &Message) -> Result<()> {
        self.out.tell(message)
    }

    fn absorb(&mut self, id: PackId) -> Result<()> {
        // Read when it is this push's turn: however many wait, one pack is in memory.
        let (absorbed, generation) = self.pool.receive(|receiver| {
            let begun = Instant::now();
            let bytes = match self.spool.read(&id) {
                // It was sent twice, and is done with.
                Err(e) if e.kind() == Kind::NotFound => return Ok(None),
                other => other?,
            };
            let done = match receiver.absorb(&self.tenant, &id, &bytes) {
                Err(e) if e.kind() == Kind::Damaged => Err(e),
                other => Ok(other?),
            };
            Ok(Some((done, bytes.len() as u64, begun.elapsed())))
        })?;
        let Some((done, len, took)) = absorbed else { return Ok(()) };
        // Of one that is refused, too, what was good may be stored, or have been there.
        let all_new = matches!(done, Ok(true));
        self.pool.pace.even(&mut self.pace, Sort::Absorb, len, took, all_new);
        self.all_new &= all_new;
        self.bytes += len;
        match done {
            Ok(_) => self.absorbed.push((Some(id), generation)),
            Err(e) => {
                self.spool.remove(&id)?;
                self.absorbed.push((None, generation));
                self.tell(&Message::Refused { object: Object::Pack(id), why: e.message().to_owned() })?;
            }
        }
        if self.bytes > SETTLE { self.settle() } else { Ok(()) }
    }

    /// Makes what was absorbed the pool's own; what a failed receiver lost is absorbed again.
    ///
    /// # Errors
    /// As [`Work::work`].
    pub fn settle(&mut self) -> Result<()> {
        if self.absorbed.is_empty() {
            return Ok(());
        }
        let (mut took, mut bytes) = (Duration::ZERO, 0);
        while !self.absorbed.is_empty() {
            bytes += std::mem::take(&mut self.bytes);
            for (id, generation) in std::mem::take(&mut self.absorbed) {
                let (settled, lasted) = self.pool.settle(generation)?;
                took += lasted;
                match id {
                    Some(id) if settled => self.spool.remove(&id)?,
                    Some(id) => self.absorb(id)?,
                    // It is sent again, if it is wanted.
                    None => {}
                }
            }
        }
        let all_new = std::mem::replace(&mut self.all_new, true);
        self.pool.pace.even(&mut self.pace, Sort::Settle, bytes, took, all_new);
        Ok(())
    }

    fn keys(&mut self, keyring: &Secret) -> Result<()> {
        let keyring = Keyring::from_bytes(keyring.expose())?;
        tenants::renew_keyring(&self.pool.repo, self.tenant.number, &keyring)?;
        self.tenant = Arc::new(Tenant::of(&self.pool.repo, self.tenant.number)?);
        Ok(())
    }

    fn have(&mut self, pieces: &[Piece]) -> Result<()> {
        let hashes: Vec<ContentHash> = pieces.iter().map(|piece| piece.h).collect();
        let mut missing = Bitmap::new(pieces.len());
        for (i, lacks) in self.tenant.lacks(&self.pool.repo, &hashes)?.into_iter().enumerate() {
            if lacks {
                missing.set(i);
            }
        }
        self.tell(&Message::Answer { missing })
    }

    fn manifest(&mut self, snapshot: SnapshotId, sealed: Vec<u8>) -> Result<()> {
        self.settle()?;
        if let Some(reason) = self.barred(snapshot)? {
            return self.tell(&reason);
        }
        let answer = self.pool.receive(|receiver| receiver.accept(&self.tenant, snapshot, &sealed, &Void::default()));
        match answer.map(|(answer, _)| answer) {
            Ok(Answer::Accepted { already }) => self.tell(&Message::Accepted { snapshot, already }),
            Ok(Answer::Missing(missing)) => {
                let held: usize = self.kept.values().map(Vec::len).sum();
                if self.kept.len() >= KEPT || held + sealed.len() > MAX_HELD {
                    return Err(Error::new(Kind::Io, "too many snapshots were begun and not ended"));
                }
                self.kept.insert(snapshot, sealed);
                let name = |(h, kind): &(ContentHash, ChunkKind)| PieceName { kind: *kind, h: *h };
                let pieces = missing.iter().map(name).collect();
                self.tell(&Message::Missing { snapshot, pieces, more: false })
            }
            Ok(Answer::Invalid(why)) => self.tell(&declined(snapshot, Reason::Invalid, &why)),
            Err(e) if e.kind() == Kind::Damaged => self.tell(&declined(
                snapshot,
                Reason::Invalid,
                "the pool cannot read something of its own: ask its operator to run `packmule check`",
            )),
            Err(e) => Err(e),
        }
    }

    /// What is said of a snapshot that the tenant may not have recorded, whatever it is.
    fn barred(&self, snapshot: SnapshotId) -> Result<Option<Message>> {
        let repo = &self.pool.repo;
        repo.log.refresh()?;
        let state = repo.log.state();
        if state.snapshots.contains_key(&self.tenant.id_here(snapshot)) {
            return Ok(None);
        }
        if party(&state, self.tenant.number).is_none_or(|known| known.suspended || known.removed.is_some()) {
            let agent = state.agents.contains_key(&self.tenant.number);
            let why = if agent { "this host's agent was revoked" } else { "this tenant was suspended" };
            return Ok(Some(declined(snapshot, Reason::Suspended, why)));
        }
        let full = quota::exceeded(repo, &self.tenant)?;
        Ok(full.then(|| declined(snapshot, Reason::Quota, "it would take this tenant above its quota")))
    }

    fn keep(&mut self, mark: [u8; 32], sealed: Vec<u8>) -> Result<()> {
        let repo = &self.pool.repo;
        let commit = repo.locks.commit(COMMIT_WAIT)?;
        repo.log.refresh()?;
        let (tenant, name) = (self.tenant.number, hex(&mark));
        let mut there = repo.log.state().belongings.get(&tenant).is_some_and(|known| known.name == name);
        // An agent has nothing to come back to; and a log must not be filled by who is not honest.
        if !there && !sealed.is_empty() && self.tenant.host.is_none() && !std::mem::replace(&mut self.left, true) {
            repo.log.append(&commit, Record::Belongings { tenant, name, sealed })?;
            there = true;
        }
        drop(commit);
        self.tell(&Message::Kept { there })
    }

    fn done(&mut self, position: Position) -> Result<()> {
        self.settle()?;
        super::note_done(self.pool, self.tenant.number, position)?;
        self.tell(&Message::Finished { watermark: position })
    }
}

fn declined(snapshot: SnapshotId, reason: Reason, why: &str) -> Message {
    Message::Declined { snapshot, reason, why: why.to_owned() }
}
