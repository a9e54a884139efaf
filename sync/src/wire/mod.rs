//! The protocol between two sides, version 1: what they say, byte for byte. `docs/protocol.md` is normative.
//!
//! Pure but for [`Connection`], which reads and writes a [`crate::stream::Duplex`]. Nothing that the other side says is
//! trusted: lengths and counts are compared with [`limits`] and with what is there before memory is set aside.

mod codec;
mod connection;
mod fail;
pub mod limits;
mod message;
mod object;
mod parts;
mod preface;
mod row;
mod text;

pub use codec::{HEADER, Header};
pub use connection::{Connection, Incoming, Receiver, Sender, Side};
pub use fail::{Fail, KINDS, OTHER};
pub use message::{Direction, Listed, Message, SnapshotEntry};
pub use object::{Area, Object, StateName};
pub use parts::{Bitmap, Piece, PieceName, Purpose, Reason, Role, Secret, Session, Token};
pub use preface::{Agreed, HIGHEST, LOWEST, MAGIC, PREFACE_HEAD, Preface, RECEIPTS, negotiate};
pub use row::Row;
pub use text::{escape, is_plain};
