//! Where a session's packs go: to the backend, then their footers to a roll-up, then a log record, then the index.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backend::{Backend, Object as Stored, Put};
use crate::crypto::keys::{FrameKind, Keys, Object};
use crate::error::Result;
use crate::follow::{Followed, follow};
use crate::format::footer::{RollupEntry, encode_rollup};
use crate::format::record::PackRef;
use crate::id::{ContentHash, SessionId};
use crate::index::Index;
use crate::limits::MIB;
use crate::log::Log;
use crate::monitor::Void;
use crate::open::bring_up;
use crate::pack::build::FinishedPack;
use crate::pack::writer::{PackSink, PackWriter, WriterParams};
use crate::session::Session;

/// Footers gathered before they are recorded …
const FOOTERS: usize = 8 * MIB;
/// … or the time after which packs are recorded anyway, so that other writers find them.
const PATIENCE: Duration = Duration::from_secs(60);

/// zstd's level.
const LEVEL: i32 = 3;

/// How packs are made for a repository: in memory.
pub(super) fn params(repo: &crate::open::Repository, session: SessionId) -> WriterParams {
    WriterParams {
        keys: Arc::clone(&repo.keys),
        index: repo.index.clone(),
        session,
        pack_size: repo.config.pack_size as usize,
        level: LEVEL,
        within: None,
    }
}

/// Stores and records packs of one session.
pub struct SessionSink {
    backend: Arc<dyn Backend>,
    keys: Arc<Keys>,
    log: Arc<Log>,
    index: Index,
    session: Arc<Session>,
    rollup: Vec<RollupEntry>,
    refs: Vec<PackRef>,
    bytes: usize,
    since: Instant,
    batches: u64,
}

impl SessionSink {
    /// A writer of the session's packs.
    pub fn writer(repo: &crate::open::Repository, session: &Arc<Session>) -> PackWriter {
        let sink = Box::new(SessionSink::new(repo, Arc::clone(session)));
        let within = Some(Arc::clone(&repo.backend));
        PackWriter::start(WriterParams { within, ..params(repo, session.id()) }, sink)
    }

    /// For an open repository's parts.
    pub fn new(repo: &crate::open::Repository, session: Arc<Session>) -> SessionSink {
        SessionSink {
            backend: Arc::clone(&repo.backend),
            keys: Arc::clone(&repo.keys),
            log: Arc::clone(&repo.log),
            index: repo.index.clone(),
            session,
            rollup: Vec::new(),
            refs: Vec::new(),
            bytes: 0,
            since: Instant::now(),
            batches: 0,
        }
    }
}

impl SessionSink {
    /// Takes note of a pack that is there already, durably: [`PackSink::commit`] records it.
    pub fn stored(&mut self, pack: RollupEntry, kind: FrameKind) {
        if self.refs.is_empty() {
            self.since = Instant::now();
        }
        let footer_len = pack.sealed_footer.len() as u32;
        self.refs.push(PackRef { id: pack.id, size: pack.size, footer_len, kind });
        self.bytes += pack.sealed_footer.len();
        self.rollup.push(pack);
    }
}

impl PackSink for SessionSink {
    fn store(&mut self, pack: FinishedPack) -> Result<()> {
        let FinishedPack { id, kind, size, body, sealed_footer, .. } = pack;
        self.backend.put_grown(&Stored::Pack(id), body)?;
        self.stored(RollupEntry { id, size, sealed_footer }, kind);
        Ok(())
    }

    fn commit(&mut self) -> Result<Vec<ContentHash>> {
        if self.refs.is_empty() {
            return Ok(Vec::new());
        }
        // A roll-up that no record will name is none to leave behind: an index that is built anew takes its word.
        drop(self.session.begin_commit()?);
        // The session's number makes roll-ups of different sessions distinct, the count those of one.
        let plain = encode_rollup(&self.rollup);
        let number = loop {
            let number = u64::from(self.session.number()) << 32 | self.batches;
            self.batches += 1;
            let sealed = self.keys.seal(Object::Rollup, &number.to_le_bytes(), &plain);
            // Numbers of sessions are drawn by chance: an older one's roll-up may have this name.
            if self.backend.put(&Stored::Footers(number), &sealed)? == Put::Created {
                break number;
            }
        };
        self.session.packs_added(number, std::mem::take(&mut self.refs))?;
        self.rollup.clear();
        self.bytes = 0;
        match follow(self.backend.as_ref(), &self.keys, &self.log, &self.index)? {
            (Followed::Yes, added) => Ok(added),
            // The log was compacted past the index, or that was rebuilt from an earlier state: it is built anew. What the
            // writer takes for not yet indexed is known there, and only costs it memory.
            (Followed::No, _) => {
                bring_up(self.backend.as_ref(), &self.keys, &self.log, &self.index, &Void::default())?;
                Ok(Vec::new())
            }
        }
    }

    fn due(&self) -> bool {
        self.bytes >= FOOTERS || (!self.refs.is_empty() && self.since.elapsed() >= PATIENCE)
    }
}

/// Counts and drops: for a dry run.
pub struct Discard;

impl PackSink for Discard {
    fn store(&mut self, _: FinishedPack) -> Result<()> {
        Ok(())
    }

    fn commit(&mut self) -> Result<Vec<ContentHash>> {
        Ok(Vec::new())
    }

    fn due(&self) -> bool {
        false
    }
}
