//! Giving a tenant back what it delivered: its snapshots, and their chunks, and nothing that it does not own.

use repo::backend::Object as Stored;
use repo::compress::Packer;
use repo::crypto::hash::ChunkKind;
use repo::crypto::keys::Object as Sealed;
use repo::error::{Error, Kind, Result};
use repo::id::{ContentHash, SnapshotId, random_bytes, unhex};
use repo::limits::{FRAME_GROUP_LARGE, MAX_FRAME_CHUNKS};
use repo::pack::source::FrameSource;
use repo::receive::Sender as Tenant;
use repo::snapshots;

use super::{Pool, Visit, asked, require_live, stopping};
use crate::ssh::server::StopFlag;
use crate::wire::limits::MAX_SNAPSHOTS;
use crate::wire::{Connection, Message, Piece, PieceName, Reason, Session, SnapshotEntry};

/// zstd's level on the wire.
const LEVEL: i32 = 3;
/// Chunks whose frames are asked for ahead.
const AHEAD: usize = 64;

/// Answers a tenant's questions until it ends the connection, or `stop` is set.
///
/// # Errors
/// What ended the connection before its time.
pub fn serve(pool: &Pool, tenant: &Tenant, connection: &mut Connection, stop: &StopFlag, visit: &Visit) -> Result<()> {
    connection.send(&Message::Ready {
        session: Session(random_bytes()),
        tenant: tenant.name.clone(),
        sealed: false,
        watermark: None,
        partial: Vec::new(),
        quota_left: None,
        chunker: pool.repo.config.chunker,
        time: pool.repo.clock.now(),
        epochs: tenant.keys.current_epoch() + 1,
    })?;
    connection.flush()?;
    let mut packer = Packer::new(LEVEL)?;
    while let Some(message) = asked(connection)? {
        if message.is_question() {
            require_live(pool, tenant.number)?;
        }
        match message {
            Message::Bye => break,
            _ if stop.is_set() => return Err(stopping()),
            Message::List { after } => connection.send(&list(pool, tenant, after)?)?,
            Message::Fetch { snapshot } => {
                visit.snapshot();
                fetch(pool, tenant, snapshot, connection)?;
            }
            Message::Get { pieces } => get(pool, tenant, &pieces, &mut packer, connection)?,
            Message::Recall => connection.send(&given(pool, tenant)?)?,
            Message::Ping(number) => connection.send(&Message::Pong(number))?,
            Message::Pong(_) => {}
            Message::Fail(fail) => return Err(fail.into_error()),
            other => return Err(Error::new(Kind::Io, format!("the client sent {} where it may not be", other.name()))),
        }
        connection.flush()?;
    }
    Ok(())
}

/// What the tenant left here.
fn given(pool: &Pool, tenant: &Tenant) -> Result<Message> {
    pool.repo.log.refresh()?;
    let state = pool.repo.log.state();
    let kept = state.belongings.get(&tenant.number).and_then(|kept| Some((unhex(&kept.name)?, kept.sealed.clone())));
    let (mark, sealed) = kept.unwrap_or_default();
    Ok(Message::Recalled { mark, sealed })
}

/// A page of the tenant's snapshots, by the ids that they have at its own place.
fn list(pool: &Pool, tenant: &Tenant, after: Option<SnapshotId>) -> Result<Message> {
    pool.repo.log.refresh()?;
    let state = pool.repo.log.state();
    let mut found: Vec<_> = state
        .snapshots
        .iter()
        .filter(|(_, s)| s.forgotten.is_none() && tenant.owns(s))
        .map(|(id, s)| (s.origin.map_or(*id, |origin| origin.id), s.received))
        .filter(|(id, _)| after.is_none_or(|after| *id > after))
        .collect();
    found.sort_unstable();
    let more = found.len() > MAX_SNAPSHOTS;
    found.truncate(MAX_SNAPSHOTS);
    let entry = |(id, received): &(SnapshotId, repo::clock::Time)| -> Result<SnapshotEntry> {
        let size = pool.repo.backend.size(&Stored::Snapshot(tenant.id_here(*id)))?.unwrap_or(0);
        Ok(SnapshotEntry { id: *id, size, received: *received })
    };
    Ok(Message::Snapshots { snapshots: found.iter().map(entry).collect::<Result<_>>()?, more })
}

/// Sends a manifest as the tenant's own repository would have it.
fn fetch(pool: &Pool, tenant: &Tenant, snapshot: SnapshotId, connection: &mut Connection) -> Result<()> {
    let id = tenant.id_here(snapshot);
    let known = pool.repo.log.state().snapshots.get(&id).is_some_and(|s| s.forgotten.is_none() && tenant.owns(s));
    let manifest = if known { snapshots::manifest(&pool.repo, &id).ok() } else { None };
    let Some(mut manifest) = manifest else {
        let why = "there is no such snapshot, or it cannot be read".to_owned();
        return connection.send(&Message::Declined { snapshot, reason: Reason::Unknown, why });
    };
    (manifest.id, manifest.origin) = (snapshot, None);
    let sealed = tenant.keys.seal(Sealed::Manifest, snapshot.as_bytes(), &manifest.encode());
    connection.send(&Message::Manifest { snapshot, size: sealed.len() as u64 })?;
    connection.sender().send_data(&sealed)
}

/// Sends chunks, several in a frame; what the tenant does not own, or cannot be read, is named at the end.
fn get(
    pool: &Pool,
    tenant: &Tenant,
    pieces: &[PieceName],
    packer: &mut Packer,
    connection: &mut Connection,
) -> Result<()> {
    let hashes: Vec<ContentHash> = pieces.iter().map(|piece| piece.h).collect();
    let has = tenant.has(&pool.repo, &hashes)?;
    let store = pool.repo.packs();
    let (mut owned, mut absent): (Vec<(ContentHash, ChunkKind)>, Vec<PieceName>) = Default::default();
    for (piece, has) in pieces.iter().zip(has) {
        if has { owned.push((piece.h, piece.kind)) } else { absent.push(*piece) }
    }
    let (mut raw, mut chunks) = (Vec::new(), Vec::new());
    for (i, (h, kind)) in owned.iter().enumerate() {
        if i % AHEAD == 0 {
            store.prefetch(&owned[i..owned.len().min(i + 2 * AHEAD)]);
        }
        let chunk = match store.chunk(h, *kind) {
            // Damage here is the operator's to find; to the tenant the chunk cannot be had.
            Err(e) if matches!(e.kind(), Kind::Damaged | Kind::NotFound) => {
                absent.push(PieceName { kind: *kind, h: *h });
                continue;
            }
            other => other?,
        };
        if !chunks.is_empty() && (raw.len() + chunk.len() > FRAME_GROUP_LARGE || chunks.len() >= MAX_FRAME_CHUNKS) {
            send_frame(&mut raw, &mut chunks, packer, connection)?;
        }
        raw.extend_from_slice(&chunk);
        chunks.push(Piece { kind: *kind, len: chunk.len() as u32, h: *h });
    }
    if !chunks.is_empty() {
        send_frame(&mut raw, &mut chunks, packer, connection)?;
    }
    connection.send(&Message::Absent { pieces: absent })
}

fn send_frame(
    raw: &mut Vec<u8>,
    chunks: &mut Vec<Piece>,
    packer: &mut Packer,
    connection: &mut Connection,
) -> Result<()> {
    let mut payload = Vec::new();
    let codec = packer.pack(raw, &mut payload)?;
    let (len, pieces) = (raw.len() as u32, std::mem::take(chunks));
    connection.send(&Message::Chunks { codec, raw: len, pieces, payload: payload.len() as u32 })?;
    raw.clear();
    connection.sender().send_data(&payload)
}
