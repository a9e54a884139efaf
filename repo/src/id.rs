//! Names of stored things. Public ids print as hex; [`ContentHash`] is a secret and does not print.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Kind, Result};

macro_rules! public_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// A fresh id from the operating system's random source.
            pub fn random() -> $name {
                $name(random_bytes())
            }

            /// The raw bytes.
            pub fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// All 64 hexadecimal digits.
            pub fn to_hex(&self) -> String {
                hex(&self.0)
            }

            /// The first eight hexadecimal digits, for people.
            pub fn short(&self) -> String {
                hex(&self.0[..4])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.to_hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(s: &str) -> Result<$name> {
                unhex(s).map($name).ok_or_else(|| {
                    Error::new(Kind::Usage, format!("'{s}' is not an id of 64 hexadecimal digits"))
                })
            }
        }
    };
}

public_id!(
    /// A repository, the same for every copy of it.
    RepoId
);
public_id!(
    /// One physical copy of a repository; chosen when its index is first built.
    CopyId
);
public_id!(
    /// A pack: BLAKE3 of the file's bytes.
    PackId
);
public_id!(
    /// `BLAKE3_keyed(id key, h)`: what the index shows of a chunk.
    ChunkId
);
public_id!(
    /// A snapshot: 32 random bytes, the same at every copy.
    SnapshotId
);
public_id!(
    /// A writer's session.
    SessionId
);
public_id!(
    /// A transfer drive; chosen when it is made.
    DriveId
);
public_id!(
    /// BLAKE3 of a sealed log record's bytes; the next record carries it.
    LogHash
);

/// BLAKE3 of a chunk's plaintext in derive-key mode. Whoever knows it can ask whether the plaintext
/// is stored, so it has no `Debug`, `Display` or serialisation and lives only inside sealed objects and memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentHash([u8; 32]);

impl ContentHash {
    /// Wraps the bytes read from a sealed object or just computed.
    pub fn from_bytes(bytes: [u8; 32]) -> ContentHash {
        ContentHash(bytes)
    }

    /// The bytes, for sealing and for deriving the chunk id. Never log or print them.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Fills an array from the operating system's random source.
///
/// # Panics
/// When the system has no random source: nothing can be sealed safely then.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system's random source works");
    bytes
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(bytes.len() * 2);
    for b in bytes {
        out.push(DIGITS[usize::from(b >> 4)] as char);
        out.push(DIGITS[usize::from(b & 15)] as char);
    }
    out
}

/// Exactly `N` bytes from `2 * N` hexadecimal digits of either case, or nothing.
pub fn unhex<const N: usize>(s: &str) -> Option<[u8; N]> {
    let digits = s.as_bytes();
    if digits.len() != N * 2 {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let high = (pair[0] as char).to_digit(16)?;
        let low = (pair[1] as char).to_digit(16)?;
        *byte = (high * 16 + low) as u8;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trips_and_refuses_other_lengths() {
        let id = PackId::random();
        assert_eq!(id.to_hex().parse::<PackId>().unwrap(), id);
        assert_eq!(id.to_hex().to_uppercase().parse::<PackId>().unwrap(), id);
        assert!("ab".parse::<PackId>().is_err());
        assert!("zz".repeat(32).parse::<PackId>().is_err());
    }
}
