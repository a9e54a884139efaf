//! Integers and byte strings as every stored object writes them: little-endian, or LEB128 varints in their shortest form.
//!
//! [`Reader`] takes bytes nobody vouches for: it never panics, and checks every length against what is left before
//! anything is set aside for it. One value has one encoding, so equal objects have equal bytes.

use crate::error::{Error, Kind, Result};

/// A varint of 64 bits takes at most this many bytes.
pub const MAX_VARINT: usize = 10;

/// Reads from the front of a byte slice. Every failure is `Damaged`, without a path.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads `input` from its start.
    pub fn new(input: &'a [u8]) -> Reader<'a> {
        Reader { rest: input }
    }

    /// Bytes not yet read.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// True once everything was read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `n` bytes.
    pub fn bytes(&mut self, n: usize) -> Result<&'a [u8]> {
        let (head, tail) = self.rest.split_at_checked(n).ok_or_else(too_short)?;
        self.rest = tail;
        Ok(head)
    }

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, tail) = self.rest.split_first_chunk::<N>().ok_or_else(too_short)?;
        self.rest = tail;
        Ok(*head)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    /// Two bytes, little-endian.
    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Four bytes, little-endian.
    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Eight bytes, little-endian.
    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Eight bytes, little-endian, two's complement.
    pub fn i64(&mut self) -> Result<i64> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    /// A LEB128 varint. A longer form than needed is refused.
    pub fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for i in 0..MAX_VARINT {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte holds the 64th bit alone.
            if i == MAX_VARINT - 1 && bits > 1 {
                return Err(Error::damaged("a stored number is too large"));
            }
            value |= bits << (7 * i);
            if byte & 0x80 == 0 {
                if byte == 0 && i > 0 {
                    return Err(Error::damaged("a stored number is not in its shortest form"));
                }
                return Ok(value);
            }
        }
        Err(Error::damaged("a stored number is too large"))
    }

    /// A varint that must not pass `max`.
    pub fn varint_max(&mut self, max: u64) -> Result<u64> {
        let value = self.varint()?;
        if value > max { Err(Error::damaged("a stored number is out of bounds")) } else { Ok(value) }
    }

    /// A varint that fits a `u32`.
    pub fn varint_u32(&mut self) -> Result<u32> {
        self.varint_max(u64::from(u32::MAX)).map(|v| v as u32)
    }

    /// A varint that counts things of at least `each` encoded bytes (1 or more) and at most `max` of them:
    /// more than what is left can hold is refused, so the answer may size an allocation of as many encoded bytes.
    pub fn count(&mut self, max: usize, each: usize) -> Result<usize> {
        let n = self.varint_max(max as u64)? as usize;
        if n > self.rest.len() / each.max(1) { Err(too_short()) } else { Ok(n) }
    }

    /// A byte string after its varint length, which must not pass `max`.
    pub fn lp_bytes(&mut self, max: usize) -> Result<&'a [u8]> {
        let n = self.varint_max(max as u64)?;
        // On any platform: `max` was a usize, so `n` fits.
        self.bytes(n as usize)
    }

    /// UTF-8 text after its varint length in bytes, which must not pass `max`.
    pub fn lp_str(&mut self, max: usize) -> Result<&'a str> {
        std::str::from_utf8(self.lp_bytes(max)?).map_err(|_| Error::damaged("stored text is not UTF-8"))
    }

    /// A byte that is 0 or 1.
    pub fn bool(&mut self) -> Result<bool> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Error::damaged("a stored flag is neither 0 nor 1")),
        }
    }

    /// Ends reading: bytes left over are refused.
    pub fn finish(self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(Error::damaged("stored bytes go on past their end")) }
    }
}

/// Reads the version byte that footers, roll-ups and manifests begin with. Only versions from 1 to `newest` are read.
///
/// # Errors
/// `NewerFormat` for a later one, `Damaged` for 0.
pub fn version(r: &mut Reader<'_>, newest: u8, what: &str) -> Result<u8> {
    match r.u8()? {
        0 => Err(Error::damaged(format!("a {what} has version 0"))),
        v if v > newest => {
            let message = format!("a {what} is of a newer version");
            Err(Error::new(Kind::NewerFormat, message).remedy("use a newer packmule"))
        }
        v => Ok(v),
    }
}

fn too_short() -> Error {
    Error::damaged("stored bytes end too early")
}

/// Writes what [`Reader`] reads, to a growing vector.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    out: Vec<u8>,
}

impl Writer {
    /// An empty writer.
    pub fn new() -> Writer {
        Writer::default()
    }

    /// An empty writer with room for `n` bytes.
    pub fn with_capacity(n: usize) -> Writer {
        Writer { out: Vec::with_capacity(n) }
    }

    /// Continues after the bytes already in `out`.
    pub fn append_to(out: Vec<u8>) -> Writer {
        Writer { out }
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// True while nothing was written.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// What was written so far.
    pub fn as_slice(&self) -> &[u8] {
        &self.out
    }

    /// Ends writing.
    pub fn into_vec(self) -> Vec<u8> {
        self.out
    }

    /// Bytes as they are, without a length.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// One byte.
    pub fn u8(&mut self, v: u8) {
        self.out.push(v);
    }

    /// Two bytes, little-endian.
    pub fn u16(&mut self, v: u16) {
        self.bytes(&v.to_le_bytes());
    }

    /// Four bytes, little-endian.
    pub fn u32(&mut self, v: u32) {
        self.bytes(&v.to_le_bytes());
    }

    /// Eight bytes, little-endian.
    pub fn u64(&mut self, v: u64) {
        self.bytes(&v.to_le_bytes());
    }

    /// Eight bytes, little-endian, two's complement.
    pub fn i64(&mut self, v: i64) {
        self.bytes(&v.to_le_bytes());
    }

    /// A LEB128 varint in its shortest form.
    pub fn varint(&mut self, mut v: u64) {
        while v >= 0x80 {
            self.out.push(v as u8 | 0x80);
            v >>= 7;
        }
        self.out.push(v as u8);
    }

    /// A byte string after its varint length.
    pub fn lp_bytes(&mut self, bytes: &[u8]) {
        self.varint(bytes.len() as u64);
        self.bytes(bytes);
    }

    /// UTF-8 text after its varint length in bytes.
    pub fn lp_str(&mut self, text: &str) {
        self.lp_bytes(text.as_bytes());
    }

    /// A byte that is 0 or 1.
    pub fn bool(&mut self, v: bool) {
        self.u8(u8::from(v));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn varints_have_one_form() {
        for (value, bytes) in [
            (0, &[0][..]),
            (127, &[0x7f]),
            (128, &[0x80, 1]),
            (u64::MAX, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
        ] {
            let mut w = Writer::new();
            w.varint(value);
            assert_eq!(w.as_slice(), bytes);
            assert_eq!(Reader::new(bytes).varint().unwrap(), value);
        }
        for bad in [&[0x80, 0][..], &[0x80], &[], &[0xff; 11], &[255, 255, 255, 255, 255, 255, 255, 255, 255, 2]] {
            assert_eq!(Reader::new(bad).varint().unwrap_err().kind(), Kind::Damaged, "{bad:?}");
        }
    }

    #[test]
    fn lengths_are_checked_before_use() {
        let mut w = Writer::new();
        w.varint(u64::MAX);
        let huge = w.into_vec();
        assert!(Reader::new(&huge).lp_bytes(usize::MAX).is_err());
        assert!(Reader::new(&huge).count(usize::MAX, 1).is_err());
        assert!(Reader::new(&[3, 1, 2]).lp_bytes(10).is_err());
        assert!(Reader::new(&[3, 1, 2, 3]).lp_bytes(2).is_err());
        assert!(Reader::new(&[3, 1, 2, 3, 4, 5]).count(3, 2).is_err());
        assert_eq!(Reader::new(&[2, 1, 2, 3, 4]).count(3, 2).unwrap(), 2);
        assert!(Reader::new(&[0]).finish().is_err());
        assert!(Reader::new(&[2]).bool().is_err());
        assert!(Reader::new(&[1, 0xff]).lp_str(4).is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(a: u8, b: u16, c: u32, d: u64, e: i64, f: u64, s: Vec<u8>, t: String, g: bool) {
            let mut w = Writer::new();
            w.u8(a);
            w.u16(b);
            w.u32(c);
            w.u64(d);
            w.i64(e);
            w.varint(f);
            w.lp_bytes(&s);
            w.lp_str(&t);
            w.bool(g);
            w.bytes(&[7; 4]);
            let bytes = w.into_vec();
            let mut r = Reader::new(&bytes);
            prop_assert_eq!((r.u8().unwrap(), r.u16().unwrap(), r.u32().unwrap()), (a, b, c));
            prop_assert_eq!((r.u64().unwrap(), r.i64().unwrap(), r.varint().unwrap()), (d, e, f));
            prop_assert_eq!(r.lp_bytes(s.len()).unwrap(), &s[..]);
            prop_assert_eq!(r.lp_str(t.len()).unwrap(), &t[..]);
            prop_assert_eq!(r.bool().unwrap(), g);
            prop_assert_eq!(r.array::<4>().unwrap(), [7; 4]);
            r.finish().unwrap();
        }

        #[test]
        fn an_accepted_varint_is_written_back_the_same(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let mut r = Reader::new(&bytes);
            if let Ok(v) = r.varint() {
                let mut w = Writer::new();
                w.varint(v);
                prop_assert_eq!(w.as_slice(), &bytes[..bytes.len() - r.remaining()]);
            }
        }
    }
}
