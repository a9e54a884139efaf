//! The key slot file: who can open it, and the keyring (or the owner's key) sealed for them.

use crate::crypto::FORMAT_VERSION;
use crate::crypto::hash::file_checksum;
use crate::crypto::slot::{Argon2Cost, SALT};
use crate::error::{Error, Kind, Result};
use crate::id::RepoId;
use crate::limits::MAX_SMALL_OBJECT;

use super::wire::{Reader, Writer};

/// The first bytes of every key slot.
pub const MAGIC: &[u8; 8] = b"PMULESLT";
/// The longest label, in bytes.
pub const MAX_LABEL: usize = 128;
/// The longest text form of an X25519 recipient.
const MAX_RECIPIENT: usize = 128;
/// The largest age file that wraps one key.
const MAX_WRAPPED: usize = 4096;

/// What opens a slot, with all that is needed to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lock {
    /// A passphrase, through Argon2id.
    Passphrase {
        /// The cost of one guess.
        cost: Argon2Cost,
        /// Random.
        salt: [u8; SALT],
    },
    /// A recovery code.
    Recovery {
        /// Random.
        salt: [u8; SALT],
    },
    /// The identity that belongs to an X25519 recipient.
    Recipient {
        /// The recipient, `age1…`.
        recipient: String,
        /// An age file that holds the slot's secret.
        wrapped: Vec<u8>,
    },
    /// A recovery code; the slot holds the owner's key in place of the keyring.
    Owner {
        /// Random.
        salt: [u8; SALT],
    },
}

impl Lock {
    /// True if the slot holds the keyring.
    pub fn opens_repository(&self) -> bool {
        !matches!(self, Lock::Owner { .. })
    }

    /// The word for this kind of slot: `passphrase`, `recovery-code`, `x25519`, `owner`.
    pub fn name(&self) -> &'static str {
        match self {
            Lock::Passphrase { .. } => "passphrase",
            Lock::Recovery { .. } => "recovery-code",
            Lock::Recipient { .. } => "x25519",
            Lock::Owner { .. } => "owner",
        }
    }

    fn number(&self) -> u8 {
        match self {
            Lock::Passphrase { .. } => 1,
            Lock::Recovery { .. } => 2,
            Lock::Recipient { .. } => 3,
            Lock::Owner { .. } => 4,
        }
    }
}

/// Everything in a slot but the sealed content, which binds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotHead {
    /// The repository it opens.
    pub repo_id: RepoId,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// Epochs in its keyring, so that a slot left behind by an interrupted rotation is known; 0 in an owner's slot.
    pub epochs: u32,
    /// A name for people.
    pub label: String,
    /// What opens it.
    pub lock: Lock,
}

impl SlotHead {
    /// Refuses labels that are too long or have control characters.
    pub fn check_label(label: &str) -> Result<()> {
        if label.len() > MAX_LABEL || label.chars().any(char::is_control) {
            let message = format!("a label has at most {MAX_LABEL} bytes and no control characters");
            return Err(Error::new(Kind::Usage, message));
        }
        Ok(())
    }

    /// The bytes before the sealed content, which are also its AAD.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.bytes(MAGIC);
        w.u16(FORMAT_VERSION);
        w.u8(self.lock.number());
        w.bytes(self.repo_id.as_bytes());
        w.u64(self.created);
        w.u32(self.epochs);
        w.lp_str(&self.label);
        match &self.lock {
            Lock::Passphrase { cost, salt } => {
                w.u32(cost.memory_kib());
                w.u32(cost.passes());
                w.u32(cost.lanes());
                w.bytes(salt);
            }
            Lock::Recovery { salt } | Lock::Owner { salt } => w.bytes(salt),
            Lock::Recipient { recipient, wrapped } => {
                w.lp_str(recipient);
                w.lp_bytes(wrapped);
            }
        }
        w.into_vec()
    }

    fn decode(r: &mut Reader<'_>) -> Result<SlotHead> {
        let kind = r.u8()?;
        let repo_id = RepoId(r.array()?);
        let created = r.u64()?;
        let epochs = r.u32()?;
        let label = r.lp_str(MAX_LABEL)?.to_owned();
        SlotHead::check_label(&label).map_err(|e| e.with_kind(Kind::Damaged))?;
        let lock = match kind {
            1 => Lock::Passphrase {
                cost: Argon2Cost::new(r.u32()?, r.u32()?, r.u32()?)
                    .ok_or_else(|| Error::damaged("a key slot asks for too much memory or time"))?,
                salt: r.array()?,
            },
            2 => Lock::Recovery { salt: r.array()? },
            3 => Lock::Recipient {
                recipient: r.lp_str(MAX_RECIPIENT)?.to_owned(),
                wrapped: r.lp_bytes(MAX_WRAPPED)?.to_vec(),
            },
            4 => Lock::Owner { salt: r.array()? },
            _ => return Err(Error::new(Kind::NewerFormat, "a newer version made this key slot")),
        };
        Ok(SlotHead { repo_id, created, epochs, label, lock })
    }
}

/// A key slot as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// In clear.
    pub head: SlotHead,
    /// The keyring or the owner's key: nonce, ciphertext, tag.
    pub sealed: Vec<u8>,
}

impl Slot {
    /// The file: head, sealed content, checksum.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::append_to(self.head.encode());
        w.lp_bytes(&self.sealed);
        let checksum = file_checksum(w.as_slice());
        w.bytes(&checksum);
        w.into_vec()
    }

    /// Reads a file. `Damaged` if it is no whole slot, `NewerFormat` if it is one of a newer version; both without a
    /// path. That the content opens is not known yet.
    pub fn decode(bytes: &[u8]) -> Result<Slot> {
        let body = super::config::checked(MAGIC, "key slot", bytes)?;
        let mut r = Reader::new(body);
        let head = SlotHead::decode(&mut r)?;
        let sealed = r.lp_bytes(MAX_SMALL_OBJECT)?.to_vec();
        r.finish()?;
        Ok(Slot { head, sealed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slots() -> Vec<Slot> {
        let salt = [3; SALT];
        let locks = [
            Lock::Passphrase { cost: Argon2Cost::DEFAULT, salt },
            Lock::Recovery { salt },
            Lock::Recipient { recipient: "age1xyz".into(), wrapped: vec![1; 200] },
            Lock::Owner { salt },
        ];
        let head = |lock| SlotHead { repo_id: RepoId([7; 32]), created: 5, epochs: 2, label: "büro".into(), lock };
        locks.map(|lock| Slot { head: head(lock), sealed: vec![9; 104] }).into()
    }

    /// `bytes` with a fitting checksum, as someone would write them on purpose.
    fn with_checksum(bytes: &[u8]) -> Vec<u8> {
        let body = &bytes[..bytes.len() - 32];
        [body, &file_checksum(body)].concat()
    }

    #[test]
    fn slots_round_trip_and_every_flipped_bit_is_found() {
        for slot in slots() {
            let bytes = slot.encode();
            assert_eq!(Slot::decode(&bytes).unwrap(), slot);
            for bit in 0..bytes.len() * 8 {
                let mut bad = bytes.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Slot::decode(&bad).unwrap_err().kind(), Kind::Damaged, "bit {bit}");
            }
            for len in 0..bytes.len() {
                assert_eq!(Slot::decode(&bytes[..len]).unwrap_err().kind(), Kind::Damaged, "length {len}");
            }
        }
    }

    #[test]
    fn written_on_purpose_it_is_still_bounded() {
        // The offset of the Argon2 cost: magic, version, kind, repository, created, epochs, label "büro".
        let at = 8 + 2 + 1 + 32 + 8 + 4 + 1 + 5;
        let bytes = slots()[0].encode();
        for (field, value) in [(0, 1024 * 1024 + 1), (0, u32::MAX), (0, 0), (1, 65), (1, 0), (2, 17), (2, 0)] {
            let mut bad = bytes.clone();
            bad[at + field * 4..][..4].copy_from_slice(&u32::to_le_bytes(value));
            assert_eq!(Slot::decode(&with_checksum(&bad)).unwrap_err().kind(), Kind::Damaged);
        }
        let mut newer = bytes.clone();
        newer[8] = 2;
        assert_eq!(Slot::decode(&with_checksum(&newer)).unwrap_err().kind(), Kind::NewerFormat);
        let mut unknown = bytes.clone();
        unknown[10] = 5;
        assert_eq!(Slot::decode(&with_checksum(&unknown)).unwrap_err().kind(), Kind::NewerFormat);
        let mut control = bytes;
        control[at - 1] = 7;
        assert_eq!(Slot::decode(&with_checksum(&control)).unwrap_err().kind(), Kind::Damaged);
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(mut tail: Vec<u8>, kind in 0u8..6) {
            let mut bytes = [&MAGIC[..], &[1, 0, kind], &[0; 44]].concat();
            bytes.append(&mut tail);
            bytes.extend([0; 32]);
            let bytes = with_checksum(&bytes);
            if let Ok(slot) = Slot::decode(&bytes) {
                // Canonical: what was accepted is what would be written.
                prop_assert_eq!(slot.encode(), bytes);
            }
        }
    }
}
