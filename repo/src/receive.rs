//! Taking in what a pool's tenants deliver: every frame is opened with the tenant's keys, every hash recomputed, and what the
//! pool lacks is sealed anew under its own.
//!
//! What a tenant may refer to is what it delivered itself: a chunk that another tenant's data made known is missing for this
//! one, until it comes from there too. So asking tells nothing, and knowing a hash opens nothing.

mod accept;

use std::collections::BTreeMap;
use std::sync::Arc;

use rayon::prelude::*;

use crate::agents;
use crate::capture::SessionSink;
use crate::crypto::keys::{FrameKind, Keys};
use crate::error::{Error, Kind, Result};
use crate::format::footer::{ChunkInfo, Footer, FrameInfo};
use crate::format::record::{Origin, SnapshotState};
use crate::id::{ChunkId, PackId, SessionId, SnapshotId};
use crate::monitor::{Monitor, Void};
use crate::open::Repository;
use crate::pack::build::PackedFrame;
use crate::pack::read::{footer_in, open_frame_in_place, sealed_frame, verify_chunk};
use crate::pack::writer::{PackWriter, Route};
use crate::session::Session;
use crate::tenants::{self, pooled_id};

pub use accept::{Answer, MISSING_MOST, derive_owned};

/// Frames opened at a time, before they are stored in order.
const FRAMES: usize = 32;

/// A tenant or an agent, ready to deliver.
#[derive(Clone)]
pub struct Sender {
    /// Its number.
    pub number: u32,
    /// What people call it.
    pub name: String,
    /// What its packs and manifests open with.
    pub keys: Arc<Keys>,
    /// Of an agent, the one host that it delivers snapshots of: they are this repository's own.
    pub host: Option<String>,
}

impl Sender {
    /// A pooled tenant, or an agent, that has connected.
    ///
    /// # Errors
    /// `Refused` for others; `Damaged`.
    pub fn of(repo: &Repository, number: u32) -> Result<Sender> {
        let state = repo.log.state();
        let none = || tenants::barred(&state, number);
        let tenant = tenants::party(&state, number).filter(|t| t.removed.is_none() && !t.suspended).ok_or_else(none)?;
        let keys = Arc::new(tenants::keys_of(&repo.keys, number, tenant)?);
        let host = agents::host_of(&state, number).map(str::to_owned);
        Ok(Sender { number, name: tenant.name.clone(), keys, host })
    }

    /// What a snapshot of this sender's is called here.
    pub fn id_here(&self, snapshot: SnapshotId) -> SnapshotId {
        match self.host {
            Some(_) => snapshot,
            None => pooled_id(&Origin { tenant: self.number, id: snapshot }),
        }
    }

    /// Whether a snapshot that is here is of this sender's: what it may be given back, and be told that it delivered.
    pub fn owns(&self, snapshot: &SnapshotState) -> bool {
        match &self.host {
            Some(host) => snapshot.origin.is_none() && snapshot.host == *host,
            None => snapshot.origin.is_some_and(|origin| origin.tenant == self.number),
        }
    }
}

/// One session of receiving, for any number of tenants: it ends when there is nothing to do, so that a prune gets its turn.
pub struct Receiver {
    repo: Arc<Repository>,
    session: Arc<Session>,
    writer: Option<PackWriter>,
    /// What was absorbed and is not yet durable, by tenant.
    fresh: BTreeMap<u32, Fresh>,
}

/// What of a tenant's was absorbed.
struct Fresh {
    of: Sender,
    chunks: Vec<(ChunkId, u32)>,
}

impl Receiver {
    /// Begins a session.
    ///
    /// # Errors
    /// `Refused` if this is no pool and has no agents; what log and index give.
    pub fn begin(repo: Arc<Repository>, monitor: &dyn Monitor) -> Result<Receiver> {
        if repo.log.state().agents.is_empty() {
            tenants::require_pool(&repo)?;
        }
        let session = Arc::new(Session::begin(Arc::clone(&repo.log), repo.locks.clone(), "receive", None)?);
        // What was condemned before this session must not satisfy its dedup.
        repo.refresh(monitor)?;
        Ok(Receiver { repo, session, writer: None, fresh: BTreeMap::new() })
    }

    /// Takes in a whole pack of this tenant's; whether all in it was new to the pool, which is not for the tenant to know. What
    /// was good in it before an error may stay in the pool, and is the tenant's.
    ///
    /// # Errors
    /// `Damaged`, naming the pack, if it is not what its name says, does not open, or any chunk in it is not what it is
    /// called; and what the pool's own storage gives, of any other kind.
    pub fn absorb(&mut self, from: &Sender, id: &PackId, bytes: &[u8]) -> Result<bool> {
        if blake3::hash(bytes).as_bytes() != id.as_bytes() {
            let what = "the contents do not match the name, which is their checksum";
            return Err(Error::damaged(format!("pack {id} of tenant {} is refused: {what}", from.name)));
        }
        self.absorb_named(from, id, bytes)
    }

    /// As [`Receiver::absorb`], of bytes that were compared with their name already.
    ///
    /// # Errors
    /// As [`Receiver::absorb`].
    pub fn absorb_named(&mut self, from: &Sender, id: &PackId, bytes: &[u8]) -> Result<bool> {
        let refused = |e: Error| match e.kind() {
            Kind::Damaged => Error::damaged(format!("pack {id} of tenant {} is refused: {e}", from.name)),
            _ => e,
        };
        let (_, footer) = footer_in(&from.keys, bytes).map_err(refused)?;
        let mut owned = Vec::with_capacity(footer.chunks.len());
        let done = self.store_frames(from, &footer, bytes, &mut owned).map_err(refused);
        // Whatever was stored is this tenant's, and counts: also what was good in a pack that is refused.
        let new = || Fresh { of: from.clone(), chunks: Vec::new() };
        self.fresh.entry(from.number).or_insert_with(new).chunks.extend(owned);
        done
    }

    fn store_frames(
        &mut self,
        from: &Sender,
        footer: &Footer,
        bytes: &[u8],
        owned: &mut Vec<(ChunkId, u32)>,
    ) -> Result<bool> {
        let mut all_new = true;
        for frames in footer.frames.chunks(FRAMES) {
            let opened = |frame: &FrameInfo| verified(&from.keys, footer, frame, bytes);
            let opened: Vec<Verified> = frames.par_iter().map(opened).collect::<Result<_>>()?;
            for (frame, opened) in frames.iter().zip(opened) {
                let chunks = &footer.chunks[frame.chunks()];
                all_new &= self.store(footer.kind, chunks, opened)?;
                owned.extend(chunks.iter().map(|chunk| (from.keys.chunk_id(&chunk.h), chunk.len)));
            }
        }
        Ok(all_new)
    }

    /// Stores what is new of a frame: as it was compressed, if that is all of it, which saves most of the work. Whether it was.
    fn store(&mut self, kind: FrameKind, chunks: &[ChunkInfo], Verified { raw, packed }: Verified) -> Result<bool> {
        let large = |len: u32| len >= self.repo.config.chunker.min;
        let route = |len: u32| match kind {
            FrameKind::Tree => Route::Meta,
            FrameKind::Data if large(len) => Route::Large,
            FrameKind::Data => Route::Small,
        };
        let whole = chunks.iter().map(|chunk| route(chunk.len)).max().unwrap_or(Route::Small);
        let writer = self.writer.get_or_insert_with(|| SessionSink::writer(&self.repo, &self.session));
        if writer.store_packed(whole, packed)? {
            return Ok(true);
        }
        let mut all_new = true;
        for chunk in chunks {
            let bytes = &raw[chunk.offset as usize..(chunk.offset + chunk.len) as usize];
            all_new &= writer.store(route(chunk.len), chunk.kind, chunk.h, bytes)?;
        }
        Ok(all_new)
    }

    /// Whether its session can do no more, or a prune waits for its end: then another is to take its place.
    ///
    /// # Errors
    /// What the log gives.
    pub fn is_spent(&self) -> Result<bool> {
        self.repo.log.refresh()?;
        let state = self.repo.log.state();
        let Some(session) = state.sessions.get(&self.session.id()) else { return Ok(true) };
        let expired = self.repo.clock.now() >= session.expires;
        Ok(expired || state.condemned.values().any(|condemned| *condemned > session.begin_seq))
    }

    /// Whether nothing is absorbed that is not settled.
    pub fn is_idle(&self) -> bool {
        self.writer.is_none() && self.fresh.is_empty()
    }

    /// Makes durable what was absorbed; from then on its tenants own it.
    ///
    /// # Errors
    /// What storage, log and index give; then nothing of it is owned.
    pub fn settle(&mut self) -> Result<()> {
        let fresh = std::mem::take(&mut self.fresh);
        if let Some(writer) = self.writer.take() {
            writer.finish()?;
        }
        for (tenant, Fresh { of, chunks }) in &fresh {
            // Where a prune has put in doubt what it owned before, that comes first: what is there of it may be too much.
            loop {
                derive_owned(&self.repo, of, &Void::default())?;
                if self.repo.index.own(*tenant, chunks)? {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Its session.
    pub fn session(&self) -> SessionId {
        self.session.id()
    }

    /// Ends the session.
    ///
    /// # Errors
    /// As [`Receiver::settle`], and what the log gives.
    pub fn end(mut self) -> Result<()> {
        self.settle()?;
        match Arc::try_unwrap(self.session) {
            Ok(session) => session.end(crate::format::record::Outcome::Done).map(drop),
            Err(_) => Err(Error::bug("a session of receiving is still in use at its end")),
        }
    }
}

/// A frame that is what it says.
struct Verified {
    raw: Vec<u8>,
    packed: PackedFrame,
}

/// Opens a frame and compares every chunk in it with its hash.
fn verified(keys: &Keys, footer: &Footer, frame: &FrameInfo, bytes: &[u8]) -> Result<Verified> {
    let mut payload = sealed_frame(frame, bytes)?.to_vec();
    let raw = open_frame_in_place(keys, footer.kind, frame, &mut payload)?;
    let chunks = &footer.chunks[frame.chunks()];
    chunks.iter().try_for_each(|chunk| verify_chunk(chunk, &raw))?;
    let chunks = chunks.iter().map(|c| (c.kind, c.h, c.len)).collect();
    Ok(Verified { raw, packed: PackedFrame { bytes: payload, raw: frame.raw, codec: frame.codec, chunks } })
}
