//! The config file: what must be known before anything else can be read.

use crate::chunker::ChunkerParams;
use crate::crypto::FORMAT_VERSION;
use crate::crypto::hash::file_checksum;
use crate::crypto::keys::Keys;
use crate::error::{Error, Kind, Result};
use crate::id::RepoId;
use crate::limits::{MAX_SMALL_OBJECT, PACK_SIZE_MAX, PACK_SIZE_MIN};

use super::wire::{Reader, Writer};

/// The first bytes of a config.
pub const MAGIC: &[u8; 8] = b"PACKMULE";
const CHECKSUM: usize = 32;
const MAC: usize = 32;

/// What a repository was made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The format version.
    pub version: u16,
    /// The repository.
    pub repo_id: RepoId,
    /// How files are cut.
    pub chunker: ChunkerParams,
    /// The size at which packs are closed, in bytes.
    pub pack_size: u32,
    /// The owner's Ed25519 key, which signs orders to delete.
    pub owner_public: [u8; 32],
}

impl Config {
    /// The file: fields, authenticator, checksum.
    pub fn encode(&self, keys: &Keys) -> Vec<u8> {
        let mut w = Writer::new();
        w.bytes(MAGIC);
        w.u16(self.version);
        w.bytes(self.repo_id.as_bytes());
        w.u16(self.chunker.id);
        w.u32(self.chunker.min);
        w.u32(self.chunker.avg);
        w.u32(self.chunker.max);
        w.u32(self.pack_size);
        w.bytes(&self.owner_public);
        let mac = keys.config_mac(w.as_slice());
        w.bytes(&mac);
        let checksum = file_checksum(w.as_slice());
        w.bytes(&checksum);
        w.into_vec()
    }

    /// Reads a file, as far as that is possible without a key. `Damaged` if it is no whole config, `NewerFormat` if
    /// it is one of a newer version; both without a path.
    pub fn decode(bytes: &[u8]) -> Result<UnverifiedConfig> {
        let mut r = Reader::new(checked(MAGIC, "config", bytes)?);
        let config = Config {
            version: u16::from_le_bytes([bytes[8], bytes[9]]),
            repo_id: RepoId(r.array()?),
            chunker: ChunkerParams { id: r.u16()?, min: r.u32()?, avg: r.u32()?, max: r.u32()? },
            pack_size: r.u32()?,
            owner_public: r.array()?,
        };
        let mac = r.array()?;
        r.finish()?;
        let signed = bytes[..bytes.len() - CHECKSUM - MAC].to_vec();
        Ok(UnverifiedConfig { config, signed, mac })
    }
}

/// A config whose authenticator was not yet checked: good for finding the right key, and for nothing else.
#[derive(Debug)]
pub struct UnverifiedConfig {
    config: Config,
    signed: Vec<u8>,
    mac: [u8; MAC],
}

impl UnverifiedConfig {
    /// The repository this claims to be: what its key slots must say too.
    pub fn repo_id(&self) -> RepoId {
        self.config.repo_id
    }

    /// The owner's public key that this claims: whoever holds the other half may order deletions.
    pub fn owner_public(&self) -> [u8; 32] {
        self.config.owner_public
    }

    /// The config, once it is known to come from a holder of `keys`. `Damaged` otherwise.
    pub fn verify(self, keys: &Keys) -> Result<Config> {
        // `blake3::Hash` compares in constant time.
        if blake3::Hash::from(keys.config_mac(&self.signed)) != self.mac {
            return Err(Error::damaged("the config was not written with this repository's key"));
        }
        let config = self.config;
        config.chunker.validate()?;
        if !(PACK_SIZE_MIN..=PACK_SIZE_MAX).contains(&(config.pack_size as usize)) {
            return Err(Error::damaged("the config holds impossible sizes"));
        }
        Ok(config)
    }
}

/// Checks what config and key slots have in common in every version (magic and version first, a checksum last) and
/// returns what stands between. The checksum goes first, so that a flipped bit is never called a newer format.
pub(super) fn checked<'a>(magic: &[u8; 8], what: &str, bytes: &'a [u8]) -> Result<&'a [u8]> {
    if bytes.len() > MAX_SMALL_OBJECT {
        return Err(Error::damaged(format!("the {what} is too large")));
    }
    let whole = bytes
        .split_last_chunk::<CHECKSUM>()
        .filter(|(body, checksum)| body.starts_with(magic) && file_checksum(body) == **checksum);
    let (body, _) = whole.ok_or_else(|| Error::damaged(format!("the {what} is cut off or changed")))?;
    let mut r = Reader::new(&body[magic.len()..]);
    let version = r.u16()?;
    if version > FORMAT_VERSION {
        let message = format!("the {what} has format version {version}, and this version reads up to {FORMAT_VERSION}");
        return Err(Error::new(Kind::NewerFormat, message).remedy("use a newer packmule"));
    }
    if version == 0 {
        return Err(Error::damaged(format!("the {what} has format version 0")));
    }
    r.bytes(r.remaining())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::keys::Keyring;
    use crate::crypto::vectors;
    use crate::id::hex;
    use proptest::prelude::*;

    fn config() -> Config {
        Config {
            version: FORMAT_VERSION,
            repo_id: RepoId([7; 32]),
            chunker: ChunkerParams::DEFAULT,
            pack_size: 32 * 1024 * 1024,
            owner_public: [9; 32],
        }
    }

    fn keys() -> Keys {
        Keys::derive(&Keyring::generate(), RepoId([7; 32]))
    }

    /// `bytes` with a fitting checksum, as someone without the key would write them on purpose.
    fn with_checksum(bytes: &[u8]) -> Vec<u8> {
        let body = &bytes[..bytes.len() - CHECKSUM];
        [body, &file_checksum(body)].concat()
    }

    #[test]
    fn configs_round_trip_and_every_flipped_bit_is_found() {
        let keys = keys();
        let bytes = config().encode(&keys);
        let read = Config::decode(&bytes).unwrap();
        assert_eq!(read.repo_id(), RepoId([7; 32]));
        assert_eq!(read.verify(&keys).unwrap(), config());
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Config::decode(&bad).unwrap_err().kind(), Kind::Damaged, "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert_eq!(Config::decode(&bytes[..len]).unwrap_err().kind(), Kind::Damaged, "length {len}");
        }
        assert_eq!(Config::decode(&vec![0; MAX_SMALL_OBJECT + 1]).unwrap_err().kind(), Kind::Damaged);
    }

    #[test]
    fn without_the_key_no_field_can_be_changed() {
        let keys = keys();
        let bytes = config().encode(&keys);
        for at in 10..bytes.len() - CHECKSUM {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            let forged = Config::decode(&with_checksum(&bad)).unwrap();
            assert_eq!(forged.verify(&keys).unwrap_err().kind(), Kind::Damaged, "byte {at}");
        }
        let other = Keys::derive(&Keyring::generate(), RepoId([7; 32]));
        assert_eq!(Config::decode(&bytes).unwrap().verify(&other).unwrap_err().kind(), Kind::Damaged);
    }

    #[test]
    fn a_newer_version_says_so() {
        let mut bytes = config().encode(&keys());
        bytes[8] = 2;
        assert_eq!(Config::decode(&with_checksum(&bytes)).unwrap_err().kind(), Kind::NewerFormat);
        bytes[8] = 0;
        assert_eq!(Config::decode(&with_checksum(&bytes)).unwrap_err().kind(), Kind::Damaged);
    }

    #[test]
    fn impossible_sizes_are_refused_even_when_authentic() {
        let keys = keys();
        let changes: [fn(&mut Config); 5] = [
            |c| c.pack_size = 1,
            |c| c.pack_size = u32::MAX,
            |c| c.chunker.min = 0,
            |c| c.chunker.max = 1024 * 1024 * 1024,
            |c| c.chunker.avg = 1024,
        ];
        for change in changes {
            let mut config = config();
            change(&mut config);
            let read = Config::decode(&config.encode(&keys)).unwrap();
            assert_eq!(read.verify(&keys).unwrap_err().kind(), Kind::Damaged);
        }
        let mut config = config();
        config.chunker.id = 2;
        let read = Config::decode(&config.encode(&keys)).unwrap();
        assert_eq!(read.verify(&keys).unwrap_err().kind(), Kind::NewerFormat);
    }

    #[test]
    fn known_answer() {
        assert_eq!(hex(&config().encode(&vectors::keys())), vectors::get("config"));
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(tail: Vec<u8>) {
            let bytes = [&MAGIC[..], &[1, 0], &tail, &[0; CHECKSUM]].concat();
            let _ = Config::decode(&with_checksum(&bytes)).map(|c| c.verify(&keys()));
        }
    }
}
