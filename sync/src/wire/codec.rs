//! Messages to bytes and back. Pure; one message has one encoding, and what is not the encoding of one is refused.

use repo::chunker::ChunkerParams;
use repo::clock::Time;
use repo::compress::Codec;
use repo::error::{Error, Kind, Result};
use repo::format::record::Position;
use repo::format::wire::{Reader, Writer};
use repo::id::{DriveId, LogHash, RepoId, SnapshotId};

use super::fail::Fail;
use super::limits::*;
use super::message::{DATA, Listed, Message, SnapshotEntry, name};
use super::object::{Area, Object};
use super::parts::{Bitmap, Piece, PieceName, Purpose, Reason, Role, Secret, Session, Token, newer};
use super::text::is_plain;
use repo::crypto::keys::MAX_EPOCHS;

/// Bytes before a message's body: the length of kind and body, and the kind.
pub const HEADER: usize = 5;
/// Kinds from here on may be passed over by a program that does not know them.
const OPTIONAL: u8 = 0x80;

/// What a header says comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The message's number.
    pub kind: u8,
    /// Bytes of its body.
    pub body: usize,
}

impl Header {
    /// Reads a header, with its bounds.
    ///
    /// # Errors
    /// `Io` for a message that no program sends; `NewerFormat` for one that this one does not know and may not pass over.
    pub fn decode(bytes: &[u8; HEADER]) -> Result<Header> {
        let [length @ .., kind] = *bytes;
        let (length, kind) = (u32::from_le_bytes(length) as usize, kind);
        if length == 0 || length > MAX_MESSAGE || kind == DATA && !(1..=MAX_DATA).contains(&(length - 1)) {
            return Err(broken(format!("a message of {length} bytes")));
        }
        if name(kind) == "unknown" && kind < OPTIONAL {
            return Err(newer("a message", kind));
        }
        Ok(Header { kind, body: length - 1 })
    }

    /// Writes a header. The body must be within its bounds.
    pub fn encode(self) -> [u8; HEADER] {
        let [a, b, c, d] = (self.body as u32 + 1).to_le_bytes();
        [a, b, c, d, self.kind]
    }

    /// Whether it is to be passed over.
    pub fn is_unknown(self) -> bool {
        name(self.kind) == "unknown"
    }
}

impl Message {
    /// Writes the message to the end of `out`, header and body.
    ///
    /// # Errors
    /// `Usage` if the other side would refuse it, a text or list being too long; `out` is then as it was.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        let from = out.len();
        if self.is_secret() {
            // Growing would leave copies behind that nobody wipes.
            out.reserve(MAX_KEYRING + 4 * MAX_HOST_KEY);
        }
        let mut w = Writer::append_to(std::mem::take(out));
        w.bytes(&[0; HEADER]);
        self.write(&mut w);
        *out = w.into_vec();
        let body = &out[from + HEADER..];
        let header = Header { kind: self.kind(), body: body.len() };
        let fits = body.len() < MAX_MESSAGE && Header::decode(&header.encode()).is_ok();
        // Bounds are told once, by the reader. Data is bytes of any value: nothing to read.
        if !fits || !matches!(self, Message::Data(_)) && !Message::decode(header.kind, body).is_ok_and(|m| m == *self) {
            out.truncate(from);
            let what =
                format!("a {} cannot be sent: a text or a list in it is too long, or not allowed", name(header.kind));
            return Err(Error::new(Kind::Usage, what));
        }
        out[from..from + HEADER].copy_from_slice(&header.encode());
        Ok(())
    }

    /// Reads a message's body.
    ///
    /// # Errors
    /// `Io` if it is not what a program would have sent; `NewerFormat` if it uses what this one does not know.
    pub fn decode(kind: u8, body: &[u8]) -> Result<Message> {
        let mut r = Reader::new(body);
        let message = Message::read(kind, &mut r).and_then(|message| r.finish().map(|()| message));
        message.map_err(|e| match e.kind() {
            Kind::Damaged => broken(format!("a {} that cannot be read: {e}", name(kind))),
            _ => e,
        })
    }

    fn write(&self, w: &mut Writer) {
        match self {
            Message::Begin { purpose, repository, position, program } => {
                w.u8(*purpose as u8);
                w.bytes(repository.as_bytes());
                write_position(w, position);
                w.lp_str(program);
            }
            Message::Attach { session } => w.bytes(&session.0),
            Message::Redeem { token, label, host, repository, keyring } => {
                w.bytes(token.expose());
                w.lp_str(label);
                w.lp_str(host);
                write_rights(w, *repository, keyring.as_ref());
            }
            Message::Ready { session, tenant, sealed, watermark, partial, quota_left, chunker, time, epochs } => {
                w.bytes(&session.0);
                w.lp_str(tenant);
                w.bool(*sealed);
                write_option(w, watermark.as_ref(), write_position);
                write_list(w, partial, |w, (object, durable)| {
                    object.write(w);
                    w.varint(*durable);
                });
                write_option(w, quota_left.as_ref(), |w, left| w.varint(*left));
                w.u16(chunker.id);
                w.u32(chunker.min);
                w.u32(chunker.avg);
                w.u32(chunker.max);
                w.i64(time.0);
                w.varint(u64::from(*epochs));
            }
            Message::Welcome { tenant, role, sealed, host_key, repository, keyring } => {
                w.lp_str(tenant);
                w.u8(*role as u8);
                w.bool(*sealed);
                w.lp_str(host_key);
                write_rights(w, *repository, keyring.as_ref());
            }
            Message::Fail(fail) => {
                w.u8(fail.code);
                w.lp_str(&fail.message);
                w.lp_str(&fail.remedy);
                w.bool(fail.retry);
            }
            Message::Ping(number) | Message::Pong(number) => w.u64(*number),
            Message::Bye | Message::Recall | Message::Cut => {}
            Message::Keys { keyring } => w.lp_bytes(keyring.expose()),
            Message::Data(bytes) => w.bytes(bytes),
            Message::Put { object, size, from } => {
                object.write(w);
                w.varint(*size);
                w.varint(*from);
            }
            Message::Durable { object, bytes } => {
                object.write(w);
                w.varint(*bytes);
            }
            Message::Want { object, from, most } => {
                object.write(w);
                w.varint(*from);
                w.varint(*most);
            }
            Message::Given { object, size, from, bytes } => {
                object.write(w);
                w.varint(*size);
                w.varint(*from);
                w.varint(*bytes);
            }
            Message::Holding { objects } => write_list(w, objects, |w, (object, size)| {
                object.write(w);
                w.varint(*size);
            }),
            Message::Order { size } => w.varint(*size),
            Message::Ordered { objects, bytes } => {
                w.varint(*objects);
                w.varint(*bytes);
            }
            Message::Refused { object, why } => {
                object.write(w);
                w.lp_str(why);
            }
            Message::Objects { area, after } => {
                w.u8(*area as u8);
                write_option(w, after.as_ref(), |w, after| after.write_name(w));
            }
            Message::Listing { area, objects, more } => {
                w.u8(*area as u8);
                write_list(w, objects, |w, Listed { object, size, until }| {
                    object.write_name(w);
                    w.varint(*size);
                    w.i64(until.0);
                });
                w.bool(*more);
            }
            Message::Lacking { object } => object.write(w),
            Message::Have { pieces } => write_list(w, pieces, |w, piece| piece.write(w)),
            Message::Answer { missing } => missing.write(w),
            Message::Manifest { snapshot, size } => {
                w.bytes(snapshot.as_bytes());
                w.varint(*size);
            }
            Message::Again { snapshot } | Message::Fetch { snapshot } => w.bytes(snapshot.as_bytes()),
            Message::Accepted { snapshot, already } => {
                w.bytes(snapshot.as_bytes());
                w.bool(*already);
            }
            Message::Missing { snapshot, pieces, more } => {
                w.bytes(snapshot.as_bytes());
                write_list(w, pieces, |w, piece| piece.write(w));
                w.bool(*more);
            }
            Message::Declined { snapshot, reason, why } => {
                w.bytes(snapshot.as_bytes());
                w.u8(*reason as u8);
                w.lp_str(why);
            }
            Message::Done { position } | Message::Finished { watermark: position } => write_position(w, position),
            Message::Keep { mark, sealed } | Message::Recalled { mark, sealed } => {
                w.bytes(mark);
                w.lp_bytes(sealed);
            }
            Message::Kept { there } => w.bool(*there),
            Message::Receipts { drives } => write_list(w, drives, |w, drive| w.bytes(drive.as_bytes())),
            Message::Signed { receipts } => write_list(w, receipts, |w, text| w.lp_str(text)),
            Message::List { after } => write_option(w, after.as_ref(), |w, id| w.bytes(id.as_bytes())),
            Message::Snapshots { snapshots, more } => {
                write_list(w, snapshots, |w, entry| {
                    w.bytes(entry.id.as_bytes());
                    w.varint(entry.size);
                    w.i64(entry.received.0);
                });
                w.bool(*more);
            }
            Message::Get { pieces } | Message::Absent { pieces } => write_list(w, pieces, |w, piece| piece.write(w)),
            Message::Chunks { codec, raw, pieces, payload } => {
                w.u8(*codec as u8);
                w.varint((*raw).into());
                write_list(w, pieces, |w, piece| piece.write(w));
                w.varint((*payload).into());
            }
        }
    }

    fn read(kind: u8, r: &mut Reader<'_>) -> Result<Message> {
        Ok(match kind {
            1 => Message::Begin {
                purpose: Purpose::read(r)?,
                repository: RepoId(r.array()?),
                position: position(r)?,
                program: plain(r, MAX_LABEL)?,
            },
            2 => Message::Attach { session: Session(r.array()?) },
            3 => Message::Redeem {
                token: Token::new(r.array()?),
                label: plain(r, MAX_LABEL)?,
                host: plain(r, MAX_LABEL)?,
                repository: option(r, |r| r.array().map(RepoId))?,
                keyring: option(r, keyring)?,
            },
            4 => Message::Ready {
                session: Session(r.array()?),
                tenant: plain(r, MAX_TENANT)?,
                sealed: r.bool()?,
                watermark: option(r, position)?,
                partial: ascending(list(r, 0, MAX_PARTIAL, 2, |r| Ok((Object::read(r)?, bytes(r)?)))?, |one| &one.0)?,
                quota_left: option(r, |r| r.varint())?,
                chunker: ChunkerParams { id: r.u16()?, min: r.u32()?, avg: r.u32()?, max: r.u32()? },
                time: Time(r.i64()?),
                epochs: epochs(r)?,
            },
            5 => Message::Welcome {
                tenant: plain(r, MAX_TENANT)?,
                role: Role::read(r)?,
                sealed: r.bool()?,
                host_key: plain(r, MAX_HOST_KEY)?,
                repository: option(r, |r| r.array().map(RepoId))?,
                keyring: option(r, keyring)?,
            },
            6 => Message::Fail(Fail { code: r.u8()?, message: text(r)?, remedy: text(r)?, retry: r.bool()? }),
            7 => Message::Ping(r.u64()?),
            8 => Message::Pong(r.u64()?),
            9 => Message::Bye,
            DATA => match r.bytes(r.remaining())? {
                some if (1..=MAX_DATA).contains(&some.len()) => Message::Data(some.to_vec()),
                _ => return Err(Error::damaged("too many bytes, or none")),
            },
            11 => Message::Cut,
            12 => Message::Keys { keyring: keyring(r)? },
            16..=26 => Message::read_about_objects(kind, r)?,
            32..=46 => Message::read_about_pushing(kind, r)?,
            48..=53 => Message::read_about_pulling(kind, r)?,
            _ => return Err(newer("a message", kind)),
        })
    }

    fn read_about_objects(kind: u8, r: &mut Reader<'_>) -> Result<Message> {
        Ok(match kind {
            16 => {
                let (object, size, from) = (Object::read(r)?, bytes(r)?, bytes(r)?);
                if from > size {
                    return Err(Error::damaged("an object begins past its end"));
                }
                Message::Put { object, size, from }
            }
            17 => Message::Durable { object: Object::read(r)?, bytes: bytes(r)? },
            18 => Message::Refused { object: Object::read(r)?, why: text(r)? },
            19 => {
                let area = Area::read(r)?;
                Message::Objects { area, after: option(r, |r| Object::read_name(r, area))? }
            }
            20 => {
                let area = Area::read(r)?;
                let listed = |r: &mut Reader<'_>| {
                    Ok(Listed { object: Object::read_name(r, area)?, size: bytes(r)?, until: Time(r.i64()?) })
                };
                let objects = ascending(list(r, 0, MAX_LISTING, 9, listed)?, |one| &one.object)?;
                Message::Listing { area, more: more_pages(r, objects.is_empty())?, objects }
            }
            21 => {
                let (object, from, most) = (Object::read(r)?, bytes(r)?, bytes(r)?);
                if most == 0 {
                    return Err(Error::damaged("a question for nothing"));
                }
                Message::Want { object, from, most }
            }
            22 => Message::Lacking { object: Object::read(r)? },
            23 => {
                let (object, size, from) = (Object::read(r)?, bytes(r)?, bytes(r)?);
                let left = size.checked_sub(from).ok_or_else(|| Error::damaged("an object begins past its end"))?;
                Message::Given { object, size, from, bytes: r.varint_max(left)? }
            }
            24 => Message::Holding { objects: list(r, 1, MAX_LISTING, 2, |r| Ok((Object::read(r)?, bytes(r)?)))? },
            25 => {
                let size = r.varint_max(MAX_ORDER)?;
                if size == 0 {
                    return Err(Error::damaged("an order of nothing"));
                }
                Message::Order { size }
            }
            _ => Message::Ordered { objects: r.varint()?, bytes: r.varint()? },
        })
    }

    fn read_about_pushing(kind: u8, r: &mut Reader<'_>) -> Result<Message> {
        Ok(match kind {
            32 => Message::Have { pieces: list(r, 1, MAX_PIECES, 34, Piece::read)? },
            33 => Message::Answer { missing: Bitmap::read(r)? },
            34 => {
                let (snapshot, size) = (SnapshotId(r.array()?), r.varint_max(MAX_MANIFEST)?);
                if size == 0 {
                    return Err(Error::damaged("a manifest of nothing"));
                }
                Message::Manifest { snapshot, size }
            }
            35 => Message::Again { snapshot: SnapshotId(r.array()?) },
            36 => Message::Accepted { snapshot: SnapshotId(r.array()?), already: r.bool()? },
            37 => Message::Missing { snapshot: SnapshotId(r.array()?), pieces: names(r, 1)?, more: r.bool()? },
            38 => Message::Declined { snapshot: SnapshotId(r.array()?), reason: Reason::read(r)?, why: text(r)? },
            39 => Message::Done { position: position(r)? },
            40 => Message::Finished { watermark: position(r)? },
            41 => Message::Keep { mark: r.array()?, sealed: r.lp_bytes(MAX_BELONGINGS)?.to_vec() },
            42 => Message::Kept { there: r.bool()? },
            43 => Message::Recall,
            44 => Message::Recalled { mark: r.array()?, sealed: r.lp_bytes(MAX_BELONGINGS)?.to_vec() },
            45 => Message::Receipts { drives: list(r, 1, MAX_DRIVES, 32, |r| r.array().map(DriveId))? },
            _ => {
                let receipt = |r: &mut Reader<'_>| r.lp_str(MAX_RECEIPT).map(str::to_owned);
                Message::Signed { receipts: list(r, 0, MAX_DRIVES, 1, receipt)? }
            }
        })
    }

    fn read_about_pulling(kind: u8, r: &mut Reader<'_>) -> Result<Message> {
        Ok(match kind {
            48 => Message::List { after: option(r, |r| r.array().map(SnapshotId))? },
            49 => {
                let entry = |r: &mut Reader<'_>| {
                    let (id, size) = (SnapshotId(r.array()?), r.varint_max(MAX_MANIFEST)?);
                    Ok(SnapshotEntry { id, size, received: Time(r.i64()?) })
                };
                let snapshots = ascending(list(r, 0, MAX_SNAPSHOTS, 41, entry)?, |one| &one.id)?;
                Message::Snapshots { more: more_pages(r, snapshots.is_empty())?, snapshots }
            }
            50 => Message::Fetch { snapshot: SnapshotId(r.array()?) },
            51 => Message::Get { pieces: names(r, 1)? },
            52 => read_chunks(r)?,
            _ => Message::Absent { pieces: names(r, 0)? },
        })
    }
}

/// A frame's chunks fill it exactly, so that nothing that was not asked for rides along.
fn read_chunks(r: &mut Reader<'_>) -> Result<Message> {
    let codec = Codec::from_u8(r.u8()?)?;
    let raw = r.varint_max(MAX_FRAME.into())? as u32;
    let pieces = list(r, 1, MAX_FRAME_CHUNKS, 34, Piece::read)?;
    let payload = r.varint_max(raw.into())? as u32;
    let sum: u64 = pieces.iter().map(|piece| u64::from(piece.len)).sum();
    if payload == 0 || sum != u64::from(raw) || codec == Codec::None && payload != raw {
        return Err(Error::damaged("a frame and its chunks do not agree"));
    }
    Ok(Message::Chunks { codec, raw, pieces, payload })
}

/// The other side does not keep to the protocol.
pub(super) fn broken(what: impl std::fmt::Display) -> Error {
    Error::new(Kind::Io, format!("the other side does not keep to the protocol: it sent {what}"))
        .remedy("update packmule on both sides; if that does not help, this is a fault to report")
}

fn position(r: &mut Reader<'_>) -> Result<Position> {
    Ok(Position { seq: r.u64()?, hash: LogHash(r.array()?) })
}

fn write_position(w: &mut Writer, position: &Position) {
    w.u64(position.seq);
    w.bytes(position.hash.as_bytes());
}

/// A number of bytes of an object.
fn bytes(r: &mut Reader<'_>) -> Result<u64> {
    r.varint_max(MAX_OBJECT)
}

/// Text for people.
fn text(r: &mut Reader<'_>) -> Result<String> {
    r.lp_str(MAX_TEXT).map(str::to_owned)
}

/// A name: it shows as what it is.
fn plain(r: &mut Reader<'_>, max: usize) -> Result<String> {
    match r.lp_str(max)? {
        name if !name.is_empty() && is_plain(name) => Ok(name.to_owned()),
        _ => Err(Error::damaged("a name that is empty or does not show")),
    }
}

fn epochs(r: &mut Reader<'_>) -> Result<u32> {
    match u32::try_from(r.varint()?) {
        Ok(n) if n as usize <= MAX_EPOCHS => Ok(n),
        _ => Err(Error::damaged("too many keys")),
    }
}

fn keyring(r: &mut Reader<'_>) -> Result<Secret> {
    r.lp_bytes(MAX_KEYRING).map(|bytes| Secret::new(bytes.to_vec()))
}

fn write_rights(w: &mut Writer, repository: Option<RepoId>, keyring: Option<&Secret>) {
    write_option(w, repository.as_ref(), |w, id| w.bytes(id.as_bytes()));
    write_option(w, keyring, |w, keyring| w.lp_bytes(keyring.expose()));
}

fn option<T>(r: &mut Reader<'_>, read: impl FnOnce(&mut Reader<'_>) -> Result<T>) -> Result<Option<T>> {
    if r.bool()? { read(r).map(Some) } else { Ok(None) }
}

fn write_option<T>(w: &mut Writer, value: Option<&T>, write: impl FnOnce(&mut Writer, &T)) {
    w.bool(value.is_some());
    if let Some(value) = value {
        write(w, value);
    }
}

/// `min` to `max` items of at least `each` encoded bytes.
fn list<T>(
    r: &mut Reader<'_>,
    min: usize,
    max: usize,
    each: usize,
    mut read: impl FnMut(&mut Reader<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let n = r.count(max, each)?;
    if n < min {
        return Err(Error::damaged("a list of nothing"));
    }
    (0..n).map(|_| read(r)).collect()
}

fn write_list<T>(w: &mut Writer, items: &[T], mut write: impl FnMut(&mut Writer, &T)) {
    w.varint(items.len() as u64);
    items.iter().for_each(|item| write(w, item));
}

fn names(r: &mut Reader<'_>, min: usize) -> Result<Vec<PieceName>> {
    list(r, min, MAX_PIECES, 33, PieceName::read)
}

fn ascending<T, K: Ord + ?Sized>(items: Vec<T>, key: impl Fn(&T) -> &K) -> Result<Vec<T>> {
    if items.is_sorted_by(|a, b| key(a) < key(b)) { Ok(items) } else { Err(Error::damaged("a list out of order")) }
}

/// Whether more pages follow. An empty one is the last, or whoever asks on would ask for ever.
fn more_pages(r: &mut Reader<'_>, empty: bool) -> Result<bool> {
    let more = r.bool()?;
    if empty && more { Err(Error::damaged("a page of nothing, and more to come")) } else { Ok(more) }
}
