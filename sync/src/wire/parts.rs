//! What messages are made of.

use std::fmt;

use repo::crypto::hash::ChunkKind;
use repo::error::{Error, Kind, Result};
use repo::format::wire::{Reader, Writer};
use repo::id::ContentHash;
use zeroize::Zeroizing;

use super::limits::{MAX_FRAME, MAX_PIECES};
use super::preface::UPDATE_THIS;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// To bring what the server lacks.
    Push = 0,
    /// To fetch, or to read on demand.
    Pull = 1,
    /// To ask and to order what only an operator may.
    Admin = 2,
}

/// What a key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// Add snapshots, and see its own.
    Push = 0,
    /// Read everything of its tenant.
    Pull = 1,
    /// Add snapshots of one host.
    Agent = 2,
    /// Become the site anew: what Pull may, and the tenant's keyring.
    Restore = 3,
    /// Everything.
    Operator = 4,
}

/// Why a snapshot is not taken, or not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// It would take the tenant past its quota.
    Quota = 0,
    /// The tenant is suspended.
    Suspended = 1,
    /// Its times and the server's clock do not agree.
    Clock = 2,
    /// It is not what it says it is.
    Invalid = 3,
    /// The server's disk is full.
    DiskFull = 4,
    /// The tenant has no such snapshot.
    Unknown = 5,
}

/// The right to attach further connections to a push. Whoever knows it needs the same key as well.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Session(pub [u8; 16]);

/// The secret of an invitation. Wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Box<Zeroizing<[u8; 32]>>);

/// Secret bytes: a keyring. Wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

/// A chunk by its content. No `Debug`: its hash is a secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// What it is a piece of.
    pub kind: ChunkKind,
    /// Bytes, 1 to [`MAX_FRAME`].
    pub len: u32,
    /// Its content hash.
    pub h: ContentHash,
}

/// A chunk asked for or missed: as [`Piece`], its length not being known.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PieceName {
    /// What it is a piece of.
    pub kind: ChunkKind,
    /// Its content hash.
    pub h: ContentHash,
}

/// One bit for each chunk of a question, in its order: set where the chunk is missing.
#[derive(Clone, PartialEq, Eq)]
pub struct Bitmap {
    len: usize,
    bits: Vec<u8>,
}

impl Token {
    /// Wraps the bytes.
    pub fn new(bytes: [u8; 32]) -> Token {
        Token(Box::new(Zeroizing::new(bytes)))
    }

    /// The bytes, to compare or to hash. Never log or print them.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Secret {
    /// Takes the bytes over.
    pub fn new(bytes: Vec<u8>) -> Secret {
        Secret(Zeroizing::new(bytes))
    }

    /// The bytes. Never log or print them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session(…)")
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

impl fmt::Debug for Bitmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bitmap({} of {})", self.ones(), self.len)
    }
}

impl Bitmap {
    /// `len` bits, none set.
    pub fn new(len: usize) -> Bitmap {
        Bitmap { len, bits: vec![0; len.div_ceil(8)] }
    }

    /// How many bits.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many are set.
    pub fn ones(&self) -> usize {
        self.bits.iter().map(|byte| byte.count_ones() as usize).sum()
    }

    /// Sets bit `at`.
    ///
    /// # Panics
    /// When `at` is not below [`Bitmap::len`].
    pub fn set(&mut self, at: usize) {
        assert!(at < self.len, "bit {at} of {}", self.len);
        self.bits[at / 8] |= 1 << (at % 8);
    }

    /// Bit `at`; false beyond the end.
    pub fn get(&self, at: usize) -> bool {
        self.bits.get(at / 8).is_some_and(|byte| byte >> (at % 8) & 1 == 1)
    }

    pub(super) fn write(&self, w: &mut Writer) {
        w.varint(self.len as u64);
        w.bytes(&self.bits);
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Bitmap> {
        let len = r.varint_max(MAX_PIECES as u64)? as usize;
        let bits = r.bytes(len.div_ceil(8))?;
        let beyond = bits.last().is_some_and(|last| !len.is_multiple_of(8) && last >> (len % 8) != 0);
        if len == 0 || beyond {
            return Err(Error::damaged("bits of nothing"));
        }
        Ok(Bitmap { len, bits: bits.to_vec() })
    }
}

impl Piece {
    pub(super) fn write(&self, w: &mut Writer) {
        w.u8(self.kind as u8);
        w.varint(self.len.into());
        w.bytes(self.h.expose());
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Piece> {
        let kind = ChunkKind::try_from(r.u8()?)?;
        let len = r.varint_max(MAX_FRAME.into())? as u32;
        if len == 0 {
            return Err(Error::damaged("a chunk of nothing"));
        }
        Ok(Piece { kind, len, h: ContentHash::from_bytes(r.array()?) })
    }
}

impl PieceName {
    pub(super) fn write(&self, w: &mut Writer) {
        w.u8(self.kind as u8);
        w.bytes(self.h.expose());
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<PieceName> {
        Ok(PieceName { kind: ChunkKind::try_from(r.u8()?)?, h: ContentHash::from_bytes(r.array()?) })
    }
}

impl Purpose {
    /// Every purpose, by number.
    pub const ALL: [Purpose; 3] = [Purpose::Push, Purpose::Pull, Purpose::Admin];

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Purpose> {
        let number = r.u8()?;
        Purpose::ALL.get(usize::from(number)).copied().ok_or_else(|| newer("a purpose", number))
    }
}

impl Role {
    /// Every role, by number.
    pub const ALL: [Role; 5] = [Role::Push, Role::Pull, Role::Agent, Role::Restore, Role::Operator];

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Role> {
        let number = r.u8()?;
        Role::ALL.get(usize::from(number)).copied().ok_or_else(|| newer("a role", number))
    }
}

impl Reason {
    /// Every reason, by number.
    pub const ALL: [Reason; 6] =
        [Reason::Quota, Reason::Suspended, Reason::Clock, Reason::Invalid, Reason::DiskFull, Reason::Unknown];

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Reason> {
        let number = r.u8()?;
        Reason::ALL.get(usize::from(number)).copied().ok_or_else(|| newer("a reason", number))
    }
}

/// Something that a later version of the protocol knows.
pub(super) fn newer(what: &str, number: u8) -> Error {
    Error::new(Kind::NewerFormat, format!("the other side uses {what} that this packmule does not know ({number})"))
        .remedy(UPDATE_THIS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_places() {
        Purpose::ALL.into_iter().enumerate().for_each(|(n, v)| assert_eq!(v as usize, n));
        Role::ALL.into_iter().enumerate().for_each(|(n, v)| assert_eq!(v as usize, n));
        Reason::ALL.into_iter().enumerate().for_each(|(n, v)| assert_eq!(v as usize, n));
    }

    #[test]
    fn bits_are_counted_from_the_lowest() {
        let mut map = Bitmap::new(11);
        map.set(0);
        map.set(9);
        assert_eq!((map.len(), map.ones(), map.is_empty()), (11, 2, false));
        let set: Vec<usize> = (0..40).filter(|at| map.get(*at)).collect();
        assert_eq!(set, [0, 9]);
        let mut w = Writer::new();
        map.write(&mut w);
        assert_eq!(w.as_slice(), [11, 1, 2]);
        for bad in [&[0][..], &[1, 2], &[9, 0, 2], &[9, 0], &[0x81, 0x80, 1]] {
            assert!(Bitmap::read(&mut Reader::new(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn secrets_do_not_print() {
        let said = format!("{:?} {:?} {:?}", Session([7; 16]), Token::new([7; 32]), Secret::new(vec![7; 9]));
        assert_eq!(said, "Session(…) Token(…) Secret(9 bytes)");
    }
}
