//! What a pool has of this repository, read over a connection: its snapshots, and their chunks as a
//! [`FrameSource`] for mounts and restores.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::{Condvar, Mutex};
use repo::compress::unpack;
use repo::crypto::hash::{ChunkKind, content_hash};
use repo::crypto::keys::{Keys, Object};
use repo::error::{Error, Kind, Result};
use repo::format::manifest::Manifest;
use repo::format::record::Position;
use repo::id::{ContentHash, RepoId, SnapshotId};
use repo::limits::{FRAME_CACHE, MAX_MANIFEST};
use repo::pack::source::{Chunk, FrameSource};

use crate::stream::Duplex;
use crate::wire::{Connection, Incoming, Message, PieceName, Preface, Purpose, Receiver, Side, SnapshotEntry};

/// Chunks asked for in one question …
const BATCH: usize = 128;
/// … and questions sent ahead of their answers.
const WINDOW: usize = 4;

/// For so long what the pool does not have is not asked for again …
const ABSENT_FOR: Duration = Duration::from_secs(30);
/// … and so much of it is remembered.
const MOST_ABSENT: usize = 1 << 16;

/// Manifests asked for ahead of their answers.
const AT_ONCE: usize = 64;

/// Makes a connection to the pool.
pub type Dial = Arc<dyn Fn() -> Result<Duplex> + Send + Sync>;

/// Makes no connection but this one.
pub fn once(duplex: Duplex) -> Dial {
    let only = Mutex::new(Some(duplex));
    Arc::new(move || only.lock().take().ok_or_else(|| Error::new(Kind::Unreachable, "there is one connection only")))
}

/// Opens a connection for reading, with keys that are to open what comes.
///
/// # Errors
/// As [`begin`]; `Refused` if the pool has newer keys of this repository, with which it seals what it gives.
pub fn begin_with(duplex: Duplex, repository: RepoId, keys: &Keys, program: &str) -> Result<Connection> {
    let (connection, epochs) = opened(duplex, repository, program)?;
    let ours = keys.current_epoch() + 1;
    if epochs > ours {
        let what = format!(
            "this repository's key was rotated since the state that is here: the pool has {epochs} keys of it, and seals with \
             the newest, and here there are {ours}"
        );
        return Err(Error::new(Kind::Refused, what).remedy(
            "use the repository's newest state; if that is lost, `packmule init --from` makes it anew with the pool's keys",
        ));
    }
    Ok(connection)
}

/// Opens a connection for reading.
///
/// # Errors
/// `Unreachable` if the link fails; what the pool says.
pub fn begin(duplex: Duplex, repository: RepoId, program: &str) -> Result<Connection> {
    opened(duplex, repository, program).map(|(connection, _)| connection)
}

/// The same, with how many keys of the repository the pool has.
fn opened(duplex: Duplex, repository: RepoId, program: &str) -> Result<(Connection, u32)> {
    let mut connection = Connection::open(duplex, Side::Client, &Preface::ours())?;
    let (purpose, position, program) = (Purpose::Pull, Position::START, program.to_owned());
    connection.send(&Message::Begin { purpose, repository, position, program })?;
    connection.flush()?;
    match connection.receive()? {
        Some(Message::Ready { epochs, .. }) => Ok((connection, epochs)),
        other => Err(unexpected(other)),
    }
}

/// Every snapshot that the pool has of this repository.
///
/// # Errors
/// As [`begin`].
pub fn snapshots(connection: &mut Connection) -> Result<Vec<SnapshotEntry>> {
    let mut all: Vec<SnapshotEntry> = Vec::new();
    loop {
        connection.send(&Message::List { after: all.last().map(|entry| entry.id) })?;
        connection.flush()?;
        match connection.receive()? {
            Some(Message::Snapshots { snapshots, more }) => {
                all.extend(snapshots);
                if !more {
                    return Ok(all);
                }
            }
            other => return Err(unexpected(other)),
        }
    }
}

/// A snapshot's manifest.
///
/// # Errors
/// `NotFound` if the pool does not have it, `Damaged` if what it gives does not open; as [`begin`].
pub fn manifest(connection: &mut Connection, keys: &Keys, id: &SnapshotId) -> Result<Manifest> {
    let mut found = None;
    manifests(connection, keys, &[*id], &mut |_, manifest| {
        found = Some(manifest);
        Ok(())
    })?;
    found.unwrap_or_else(|| Err(Error::bug("a question had no answer")))
}

/// Shows each of these snapshots' manifests, or why it cannot be had, in order. Questions go ahead of their answers.
///
/// # Errors
/// As [`begin`], and what `visit` gives.
pub fn manifests(
    connection: &mut Connection,
    keys: &Keys,
    ids: &[SnapshotId],
    visit: &mut dyn FnMut(&SnapshotId, Result<Manifest>) -> Result<()>,
) -> Result<()> {
    for some in ids.chunks(AT_ONCE) {
        for id in some {
            connection.send(&Message::Fetch { snapshot: *id })?;
        }
        connection.flush()?;
        for id in some {
            let size = match connection.receive()? {
                Some(Message::Manifest { snapshot, size }) if snapshot == *id && size <= MAX_MANIFEST as u64 => size,
                Some(Message::Declined { snapshot, .. }) if snapshot == *id => {
                    let none = Error::new(Kind::NotFound, format!("the pool has no snapshot {}", id.short()));
                    visit(id, Err(none))?;
                    continue;
                }
                other => return Err(unexpected(other)),
            };
            let sealed = bytes(connection.receiver(), size as usize)?;
            let plain = keys.open(Object::Manifest, id.as_bytes(), &sealed);
            visit(id, plain.and_then(|plain| Manifest::decode(&plain, id)))?;
        }
    }
    Ok(())
}

/// The bytes that were announced.
fn bytes(from: &mut Receiver, size: usize) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    while all.len() < size {
        match from.next()? {
            Some(Incoming::Data(data)) => all.extend_from_slice(data),
            Some(Incoming::Message(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Incoming::Message(other)) => return Err(unexpected(Some(other))),
            None => return Err(unexpected(None)),
        }
    }
    Ok(all)
}

pub(crate) fn unexpected(message: Option<Message>) -> Error {
    match message {
        Some(Message::Fail(fail)) => fail.into_error(),
        Some(other) => Error::new(Kind::Io, format!("the pool sent {} where it may not be", other.name())),
        None => Error::new(Kind::Unreachable, "the pool ended the connection").remedy("try again"),
    }
}

type Key = (ContentHash, u8);

/// A pool's chunks. Any number of threads may share it; it connects when first asked, and again when the link was lost.
pub struct Remote {
    shared: Arc<Shared>,
}

struct Shared {
    dial: Dial,
    repository: RepoId,
    program: String,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    cache: LruCache<Key, Arc<Vec<u8>>>,
    bytes: usize,
    /// To be asked for, the most urgent first.
    wanted: VecDeque<(ContentHash, ChunkKind)>,
    /// Asked for, or to be.
    pending: HashSet<Key>,
    /// What could not be had, since when: it may have come since.
    absent: HashMap<Key, Instant>,
    /// How often the link has failed, and why the last time.
    failures: u64,
    why: Option<(Kind, String)>,
    working: bool,
    over: bool,
}

impl Remote {
    /// Reads what `repository` has at the pool that `dial` reaches.
    pub fn new(dial: Dial, repository: RepoId, program: &str) -> Remote {
        let state = State {
            cache: LruCache::unbounded(),
            bytes: 0,
            wanted: VecDeque::new(),
            pending: HashSet::new(),
            absent: HashMap::new(),
            failures: 0,
            why: None,
            working: false,
            over: false,
        };
        let (state, changed) = (Mutex::new(state), Condvar::new());
        Remote { shared: Arc::new(Shared { dial, repository, program: program.to_owned(), state, changed }) }
    }
}

impl State {
    fn cannot_have(&mut self, key: Key) {
        if self.absent.len() >= MOST_ABSENT {
            self.absent.clear();
        }
        self.absent.insert(key, Instant::now());
    }

    fn is_absent(&mut self, key: &Key) -> bool {
        let absent = self.absent.get(key).is_some_and(|since| since.elapsed() < ABSENT_FOR);
        if !absent {
            self.absent.remove(key);
        }
        absent
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.shared.state.lock().over = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    /// Has somebody ask, unless somebody does.
    fn work(self: &Arc<Shared>, state: &mut State) {
        if !state.working {
            state.working = true;
            let shared = Arc::clone(self);
            std::thread::spawn(move || {
                let failed = shared.converse().err();
                let mut state = shared.state.lock();
                state.working = false;
                state.pending.clear();
                state.wanted.clear();
                if let Some(e) = failed {
                    state.failures += 1;
                    state.why = Some((e.kind(), e.message().to_owned()));
                }
                shared.changed.notify_all();
            });
        }
    }

    /// Asks for what is wanted until nobody wants anything any more.
    fn converse(&self) -> Result<()> {
        let mut connection = begin((self.dial)()?, self.repository, &self.program)?;
        let mut asked: VecDeque<HashMap<Key, u32>> = VecDeque::new();
        loop {
            let batch = {
                let mut state = self.state.lock();
                while asked.is_empty() && state.wanted.is_empty() && !state.over {
                    self.changed.wait(&mut state);
                }
                if state.over {
                    return Ok(());
                }
                let n = if asked.len() < WINDOW { BATCH.min(state.wanted.len()) } else { 0 };
                state.wanted.drain(..n).collect::<Vec<_>>()
            };
            if !batch.is_empty() {
                let pieces: Vec<PieceName> = batch.iter().map(|(h, kind)| PieceName { kind: *kind, h: *h }).collect();
                connection.send(&Message::Get { pieces })?;
                connection.flush()?;
                asked.push_back(batch.iter().map(|(h, kind)| ((*h, *kind as u8), 0)).collect());
                continue;
            }
            let Some(oldest) = asked.front_mut() else { continue };
            match connection.receive()? {
                Some(Message::Chunks { codec, raw, pieces, payload }) => {
                    let payload = bytes(connection.receiver(), payload as usize)?;
                    let raw = unpack(codec, &payload, raw as usize)?;
                    let mut at = 0;
                    for piece in pieces {
                        let chunk = raw.get(at..at + piece.len as usize).unwrap_or_default();
                        at += piece.len as usize;
                        let key = (piece.h, piece.kind as u8);
                        if oldest.remove(&key).is_none() || content_hash(piece.kind, chunk) != piece.h {
                            return Err(Error::damaged("the pool sent another chunk than was asked for"));
                        }
                        self.keep(key, chunk.to_vec());
                    }
                }
                Some(Message::Absent { pieces }) => {
                    let mut state = self.state.lock();
                    let named = pieces.iter().map(|piece| (piece.h, piece.kind as u8));
                    // What was neither sent nor named cannot be had either.
                    for key in named.chain(oldest.keys().copied()) {
                        state.pending.remove(&key);
                        state.cannot_have(key);
                    }
                    drop(state);
                    asked.pop_front();
                    self.changed.notify_all();
                }
                Some(Message::Ping(number)) => {
                    connection.send(&Message::Pong(number))?;
                    connection.flush()?;
                }
                other => return Err(unexpected(other)),
            }
        }
    }

    fn keep(&self, key: Key, chunk: Vec<u8>) {
        let mut state = self.state.lock();
        state.pending.remove(&key);
        state.bytes += chunk.len();
        if let Some(old) = state.cache.put(key, Arc::new(chunk)) {
            state.bytes -= old.len();
        }
        while state.bytes > FRAME_CACHE && state.cache.len() > 1 {
            if let Some((_, old)) = state.cache.pop_lru() {
                state.bytes -= old.len();
            }
        }
        drop(state);
        self.changed.notify_all();
    }
}

impl FrameSource for Remote {
    fn chunk(&self, h: &ContentHash, kind: ChunkKind) -> Result<Chunk> {
        let key = (*h, kind as u8);
        let mut state = self.shared.state.lock();
        let failures = state.failures;
        loop {
            if let Some(chunk) = state.cache.get(&key) {
                return Ok(Chunk::new(Arc::clone(chunk), 0..chunk.len()));
            }
            if state.is_absent(&key) {
                return Err(Error::damaged("the pool does not have a piece of data that it needs")
                    .remedy("push again from a repository that has it"));
            }
            // One try of its own for each reading, so that a mount works again once the link does.
            if state.failures > failures {
                let (kind, why) = state.why.clone().unwrap_or((Kind::Unreachable, "the link failed".to_owned()));
                return Err(Error::new(kind, why));
            }
            if state.pending.insert(key) {
                state.wanted.push_front((*h, kind));
                self.shared.changed.notify_all();
            }
            self.shared.work(&mut state);
            self.shared.changed.wait(&mut state);
        }
    }

    fn prefetch(&self, chunks: &[(ContentHash, ChunkKind)]) {
        let mut state = self.shared.state.lock();
        for (h, kind) in chunks {
            let key = (*h, *kind as u8);
            if !state.cache.contains(&key) && !state.is_absent(&key) && state.pending.insert(key) {
                state.wanted.push_back((*h, *kind));
            }
        }
        if !state.wanted.is_empty() {
            self.shared.work(&mut state);
            self.shared.changed.notify_all();
        }
    }
}
