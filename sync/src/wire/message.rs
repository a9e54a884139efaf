//! The messages. `docs/protocol.md` (Messages) is normative: what each means, and when it may be sent.

use std::fmt;

use repo::chunker::ChunkerParams;
use repo::clock::Time;
use repo::compress::Codec;
use repo::format::record::Position;
use repo::id::{DriveId, RepoId, SnapshotId};

use super::fail::Fail;
use super::object::{Area, Object};
use super::parts::{Bitmap, Piece, PieceName, Purpose, Reason, Role, Secret, Session, Token};

/// One message. Its bounds are those of [`super::limits`]; encoding refuses what decoding would.
#[derive(Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields are named after the words of the design; docs/protocol.md says the rest")]
pub enum Message {
    /// Opens a connection for `purpose`. `position`: where the repository's log stands.
    Begin { purpose: Purpose, repository: RepoId, position: Position, program: String },
    /// Opens a further connection of the push `session`.
    Attach { session: Session },
    /// Opens a connection that turns an invitation into a key's rights.
    Redeem { token: Token, label: String, host: String, repository: Option<RepoId>, keyring: Option<Secret> },
    /// Answers [`Message::Begin`]. `quota_left` in bytes; `partial` ascending; `epochs`: of the keyring the server has.
    Ready {
        session: Session,
        tenant: String,
        sealed: bool,
        watermark: Option<Position>,
        partial: Vec<(Object, u64)>,
        quota_left: Option<u64>,
        chunker: ChunkerParams,
        time: Time,
        epochs: u32,
    },
    /// Answers [`Message::Redeem`].
    Welcome {
        tenant: String,
        role: Role,
        sealed: bool,
        host_key: String,
        repository: Option<RepoId>,
        keyring: Option<Secret>,
    },
    /// Something went wrong; the connection ends.
    Fail(Fail),
    /// Asks for a [`Message::Pong`] of the same number.
    Ping(u64),
    /// Answers [`Message::Ping`].
    Pong(u64),
    /// Nothing more comes from the client.
    Bye,
    /// The next bytes of what was announced.
    Data(Vec<u8>),
    /// No more bytes of what was announced, although some are owed.
    Cut,
    /// The keyring, which has grown.
    Keys { keyring: Secret },
    /// Announces an object of `size` bytes, of which those from `from` on follow.
    Put { object: Object, size: u64, from: u64 },
    /// The first `bytes` of an object are durable.
    Durable { object: Object, bytes: u64 },
    /// An object is not taken, or was taken and is not what it says.
    Refused { object: Object, why: String },
    /// Asks for a page of an area's objects.
    Objects { area: Area, after: Option<Object> },
    /// Answers [`Message::Objects`]: objects and their sizes, ascending.
    Listing { area: Area, objects: Vec<Listed>, more: bool },
    /// Asks for an object's bytes from `from` on, `most` of them at most.
    Want { object: Object, from: u64, most: u64 },
    /// Answers [`Message::Want`]: there is no such object, or it is not that long.
    Lacking { object: Object },
    /// Answers [`Message::Want`]: `bytes` of an object of `size`, those from `from` on, follow.
    Given { object: Object, size: u64, from: u64, bytes: u64 },
    /// Asks which of these objects, each with its size, are missing; answered by [`Message::Answer`].
    Holding { objects: Vec<(Object, u64)> },
    /// Announces an owner's order to delete, of `size` bytes, which follow.
    Order { size: u64 },
    /// Answers [`Message::Order`]: it was obeyed, and so much was deleted.
    Ordered { objects: u64, bytes: u64 },
    /// Asks which chunks are missing.
    Have { pieces: Vec<Piece> },
    /// Answers [`Message::Have`].
    Answer { missing: Bitmap },
    /// Announces a sealed manifest of `size` bytes, which follow.
    Manifest { snapshot: SnapshotId, size: u64 },
    /// Asks to look again at a manifest that was answered with [`Message::Missing`].
    Again { snapshot: SnapshotId },
    /// The snapshot is recorded; `already`: it was before.
    Accepted { snapshot: SnapshotId, already: bool },
    /// A page of what a snapshot reaches and the server lacks.
    Missing { snapshot: SnapshotId, pieces: Vec<PieceName>, more: bool },
    /// The snapshot is not taken, or not given.
    Declined { snapshot: SnapshotId, reason: Reason, why: String },
    /// Everything up to `position` was delivered.
    Done { position: Position },
    /// Answers [`Message::Done`].
    Finished { watermark: Position },
    /// Something that the tenant wants back should its repository be lost, sealed by it; nothing: only whether that of this
    /// mark is there.
    Keep { mark: [u8; 32], sealed: Vec<u8> },
    /// Answers [`Message::Keep`]: whether that is there now.
    Kept { there: bool },
    /// Asks for what was last kept.
    Recall,
    /// Answers [`Message::Recall`]; nothing if nothing was kept.
    Recalled { mark: [u8; 32], sealed: Vec<u8> },
    /// Asks for the receipts of these transfer drives. Only where both sides know [`super::RECEIPTS`].
    Receipts { drives: Vec<DriveId> },
    /// Answers [`Message::Receipts`]: a text for each drive of which there is one, which says itself whose it is.
    Signed { receipts: Vec<String> },
    /// Asks for a page of the tenant's snapshots.
    List { after: Option<SnapshotId> },
    /// Answers [`Message::List`]: ascending by id.
    Snapshots { snapshots: Vec<SnapshotEntry>, more: bool },
    /// Asks for a snapshot's sealed manifest.
    Fetch { snapshot: SnapshotId },
    /// Asks for chunks.
    Get { pieces: Vec<PieceName> },
    /// Announces a frame of `payload` bytes that holds these chunks, one behind the other.
    Chunks { codec: Codec, raw: u32, pieces: Vec<Piece>, payload: u32 },
    /// Ends the answer to [`Message::Get`]: what of it cannot be had.
    Absent { pieces: Vec<PieceName> },
}

/// An object as a page of them tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Which.
    pub object: Object,
    /// Its bytes.
    pub size: u64,
    /// From when on an owner's order may delete it.
    pub until: Time,
}

/// A snapshot as a page of them tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotEntry {
    /// Its id.
    pub id: SnapshotId,
    /// Bytes of its sealed manifest.
    pub size: u64,
    /// When the server received it.
    pub received: Time,
}

/// Who sends a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The client.
    Client,
    /// The server.
    Server,
    /// Either.
    Both,
}

impl Message {
    /// The number that stands for the message.
    pub fn kind(&self) -> u8 {
        match self {
            Message::Begin { .. } => 1,
            Message::Attach { .. } => 2,
            Message::Redeem { .. } => 3,
            Message::Ready { .. } => 4,
            Message::Welcome { .. } => 5,
            Message::Fail(_) => 6,
            Message::Ping(_) => 7,
            Message::Pong(_) => 8,
            Message::Bye => 9,
            Message::Data(_) => DATA,
            Message::Cut => 11,
            Message::Keys { .. } => 12,
            Message::Put { .. } => 16,
            Message::Durable { .. } => 17,
            Message::Refused { .. } => 18,
            Message::Objects { .. } => 19,
            Message::Listing { .. } => 20,
            Message::Want { .. } => 21,
            Message::Lacking { .. } => 22,
            Message::Given { .. } => 23,
            Message::Holding { .. } => 24,
            Message::Order { .. } => 25,
            Message::Ordered { .. } => 26,
            Message::Have { .. } => 32,
            Message::Answer { .. } => 33,
            Message::Manifest { .. } => 34,
            Message::Again { .. } => 35,
            Message::Accepted { .. } => 36,
            Message::Missing { .. } => 37,
            Message::Declined { .. } => 38,
            Message::Done { .. } => 39,
            Message::Finished { .. } => 40,
            Message::Keep { .. } => 41,
            Message::Kept { .. } => 42,
            Message::Recall => 43,
            Message::Recalled { .. } => 44,
            Message::Receipts { .. } => 45,
            Message::Signed { .. } => 46,
            Message::List { .. } => 48,
            Message::Snapshots { .. } => 49,
            Message::Fetch { .. } => 50,
            Message::Get { .. } => 51,
            Message::Chunks { .. } => 52,
            Message::Absent { .. } => 53,
        }
    }

    /// What `docs/protocol.md` calls it.
    pub fn name(&self) -> &'static str {
        name(self.kind())
    }

    /// Who may send it.
    pub fn direction(&self) -> Direction {
        use Message::*;
        match self {
            Begin { .. } | Attach { .. } | Redeem { .. } | Bye | Keys { .. } => Direction::Client,
            Objects { .. } | Want { .. } | Holding { .. } | Order { .. } | Put { .. } => Direction::Client,
            Have { .. } | Again { .. } | Done { .. } => Direction::Client,
            List { .. } | Fetch { .. } | Get { .. } | Keep { .. } | Recall | Receipts { .. } => Direction::Client,
            Ready { .. } | Welcome { .. } | Durable { .. } | Refused { .. } => Direction::Server,
            Given { .. } | Ordered { .. } => Direction::Server,
            Listing { .. } | Lacking { .. } | Answer { .. } | Accepted { .. } | Missing { .. } => Direction::Server,
            Declined { .. } | Finished { .. } | Snapshots { .. } => Direction::Server,
            Chunks { .. } | Absent { .. } | Kept { .. } | Recalled { .. } | Signed { .. } => Direction::Server,
            Fail(_) | Ping(_) | Pong(_) | Data(_) | Cut | Manifest { .. } => Direction::Both,
        }
    }

    /// Whether a client wants something done by it: it is none of those that belong to no order.
    pub fn is_question(&self) -> bool {
        !matches!(self, Message::Ping(_) | Message::Pong(_) | Message::Fail(_) | Message::Bye)
    }

    /// How many bytes of [`Message::Data`] this announces, if it is one that does.
    pub fn announces(&self) -> Option<u64> {
        match self {
            Message::Put { size, from, .. } => Some(size.saturating_sub(*from)),
            Message::Given { bytes, .. } => Some(*bytes),
            Message::Manifest { size, .. } | Message::Order { size } => Some(*size),
            Message::Chunks { payload, .. } => Some(u64::from(*payload)),
            _ => None,
        }
    }

    /// Whether its bytes should not linger in a buffer.
    pub(super) fn is_secret(&self) -> bool {
        matches!(self, Message::Redeem { .. } | Message::Welcome { .. } | Message::Keys { .. })
    }
}

/// The number of [`Message::Data`], which connections treat apart.
pub(super) const DATA: u8 = 10;

/// A message's name.
pub(super) fn name(kind: u8) -> &'static str {
    match kind {
        1 => "Begin",
        2 => "Attach",
        3 => "Redeem",
        4 => "Ready",
        5 => "Welcome",
        6 => "Fail",
        7 => "Ping",
        8 => "Pong",
        9 => "Bye",
        DATA => "Data",
        11 => "Cut",
        12 => "Keys",
        16 => "Put",
        17 => "Durable",
        18 => "Refused",
        19 => "Objects",
        20 => "Listing",
        21 => "Want",
        22 => "Lacking",
        23 => "Given",
        24 => "Holding",
        25 => "Order",
        26 => "Ordered",
        32 => "Have",
        33 => "Answer",
        34 => "Manifest",
        35 => "Again",
        36 => "Accepted",
        37 => "Missing",
        38 => "Declined",
        39 => "Done",
        40 => "Finished",
        41 => "Keep",
        42 => "Kept",
        43 => "Recall",
        44 => "Recalled",
        45 => "Receipts",
        46 => "Signed",
        48 => "List",
        49 => "Snapshots",
        50 => "Fetch",
        51 => "Get",
        52 => "Chunks",
        53 => "Absent",
        _ => "unknown",
    }
}

/// Counts and public ids only: content hashes and secrets never show.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Message::*;
        f.write_str(self.name())?;
        match self {
            Begin { purpose, repository, position, program } => {
                write!(f, "({purpose:?} {repository:?} at {} by {program:?})", position.seq)
            }
            Redeem { label, host, keyring, .. } => write!(f, "({label:?} of {host:?}, {keyring:?})"),
            Ready { tenant, sealed, watermark, partial, .. } => {
                let at = watermark.map(|position| position.seq);
                write!(f, "({tenant:?}, sealed: {sealed}, at {at:?}, {} partial)", partial.len())
            }
            Welcome { tenant, role, sealed, keyring, .. } => {
                write!(f, "({tenant:?} as {role:?}, sealed: {sealed}, {keyring:?})")
            }
            Fail(fail) => write!(f, "({}: {:?}; {:?}; retry: {})", fail.code, fail.message, fail.remedy, fail.retry),
            Ping(number) | Pong(number) => write!(f, "({number})"),
            Data(bytes) => write!(f, "({} bytes)", bytes.len()),
            Put { object, size, from } => write!(f, "({object:?}, {from} to {size})"),
            Durable { object, bytes } => write!(f, "({object:?}, {bytes} bytes)"),
            Refused { object, why } => write!(f, "({object:?}: {why:?})"),
            Objects { area, after } => write!(f, "({area:?} after {after:?})"),
            Listing { area, objects, more } => write!(f, "({area:?}, {} objects, more: {more})", objects.len()),
            Want { object, from, most } => write!(f, "({object:?} from {from}, {most} bytes)"),
            Given { object, size, from, bytes } => write!(f, "({object:?} of {size}, {bytes} from {from})"),
            Holding { objects } => write!(f, "({} objects)", objects.len()),
            Order { size } => write!(f, "({size} bytes)"),
            Ordered { objects, bytes } => write!(f, "({objects} objects, {bytes} bytes)"),
            Lacking { object } => write!(f, "({object:?})"),
            Have { pieces } => write!(f, "({} chunks)", pieces.len()),
            Answer { missing } => write!(f, "({missing:?})"),
            Manifest { snapshot, size } => write!(f, "({snapshot:?}, {size} bytes)"),
            Again { snapshot } | Fetch { snapshot } => write!(f, "({snapshot:?})"),
            Accepted { snapshot, already } => write!(f, "({snapshot:?}, already: {already})"),
            Missing { snapshot, pieces, more } => write!(f, "({snapshot:?}, {} chunks, more: {more})", pieces.len()),
            Declined { snapshot, reason, why } => write!(f, "({snapshot:?}, {reason:?}: {why:?})"),
            Done { position } | Finished { watermark: position } => write!(f, "({})", position.seq),
            Keep { sealed, .. } | Recalled { sealed, .. } => write!(f, "({} bytes)", sealed.len()),
            Kept { there } => write!(f, "(there: {there})"),
            Receipts { drives } => write!(f, "({} drives)", drives.len()),
            Signed { receipts } => write!(f, "({} receipts)", receipts.len()),
            List { after } => write!(f, "(after {after:?})"),
            Snapshots { snapshots, more } => write!(f, "({} snapshots, more: {more})", snapshots.len()),
            Get { pieces } | Absent { pieces } => write!(f, "({} chunks)", pieces.len()),
            Chunks { codec, raw, pieces, payload } => {
                write!(f, "({codec:?}, {payload} for {raw} bytes, {} chunks)", pieces.len())
            }
            Keys { keyring } => write!(f, "({keyring:?})"),
            Attach { .. } | Bye | Recall | Cut => Ok(()),
        }
    }
}
