//! What opens a key slot: passphrases, recovery codes and X25519 identities, each turned into a key that seals it.

use age::x25519::{Identity, Recipient};
use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305};
use zeroize::{Zeroize, Zeroizing};

use super::context;
use super::key::Key;
use super::keys::{NONCE, TAG, decrypt, encrypt};
use crate::error::{Error, Kind, Result};

/// Bytes of salt in a slot.
pub const SALT: usize = 16;

/// The cost of one guess at a passphrase: Argon2id's parameters, within bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argon2Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl Argon2Cost {
    /// 64 MiB, 3 passes, 4 lanes: RFC 9106's second recommendation.
    pub const DEFAULT: Argon2Cost = Argon2Cost { memory_kib: 64 * 1024, passes: 3, lanes: 4 };
    /// 1 GiB.
    pub const MAX_MEMORY_KIB: u32 = 1024 * 1024;
    /// Passes over the memory.
    pub const MAX_PASSES: u32 = 64;
    /// Lanes, which can be worked on at the same time.
    pub const MAX_LANES: u32 = 16;

    /// Parameters that Argon2 takes and any machine can afford; nothing otherwise. Memory is at least 8 KiB a lane.
    pub fn new(memory_kib: u32, passes: u32, lanes: u32) -> Option<Argon2Cost> {
        let fits = (1..=Argon2Cost::MAX_LANES).contains(&lanes)
            && (1..=Argon2Cost::MAX_PASSES).contains(&passes)
            && (8 * lanes..=Argon2Cost::MAX_MEMORY_KIB).contains(&memory_kib);
        fits.then_some(Argon2Cost { memory_kib, passes, lanes })
    }

    /// Memory in KiB.
    pub fn memory_kib(&self) -> u32 {
        self.memory_kib
    }

    /// Passes over the memory.
    pub fn passes(&self) -> u32 {
        self.passes
    }

    /// Lanes.
    pub fn lanes(&self) -> u32 {
        self.lanes
    }
}

/// Argon2id of the passphrase: takes the memory and time that `cost` says, on as many cores as it has lanes.
pub fn passphrase_key(passphrase: &str, salt: &[u8; SALT], cost: Argon2Cost) -> Result<Key> {
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32))
        .map_err(|e| Error::bug(format!("bounded Argon2 parameters were refused: {e}")))?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let mut stretched = Key::zero();
    // A pool of its own: the shared one would start a thread for every core of a large machine.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    rayon::ThreadPoolBuilder::new()
        .num_threads(cores.min(cost.lanes as usize))
        .build()
        .map_err(|e| Error::new(Kind::Io, format!("cannot start threads: {e}")))?
        .install(|| argon2.hash_password_into(passphrase.as_bytes(), salt, stretched.expose_mut()))
        .map_err(|e| {
            let need = cost.memory_kib / 1024;
            Error::new(Kind::Io, format!("cannot stretch the password, which takes {need} MiB of memory: {e}"))
        })?;
    Ok(Key::derive(context::SLOT_PASSPHRASE, stretched.expose()))
}

/// 256 random bits for a drawer: opens a repository whose passphrase is lost, and gives orders to delete.
pub struct RecoveryCode(Key);

/// Crockford's alphabet: no I, L, O, U.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const CODE_BYTES: usize = 32;
const CHECKSUM_BYTES: usize = 3;
/// Letters and digits of a recovery code.
const SYMBOLS: usize = (CODE_BYTES + CHECKSUM_BYTES) * 8 / 5;
const GROUP: usize = 4;

impl RecoveryCode {
    /// A fresh code.
    pub fn random() -> RecoveryCode {
        RecoveryCode(Key::random())
    }

    #[cfg(test)]
    pub(super) fn from_key(key: Key) -> RecoveryCode {
        RecoveryCode(key)
    }

    /// The code for people: 14 groups of four letters and digits, the last of them holding a checksum.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new([0; CODE_BYTES + CHECKSUM_BYTES]);
        bytes[..CODE_BYTES].copy_from_slice(self.0.expose());
        bytes[CODE_BYTES..].copy_from_slice(&checksum(self.0.expose()));
        let mut text = Zeroizing::new(String::with_capacity(SYMBOLS + SYMBOLS / GROUP));
        for i in 0..SYMBOLS {
            if i > 0 && i % GROUP == 0 {
                text.push('-');
            }
            let at = i * 5 / 8;
            let pair = u16::from_be_bytes([bytes[at], bytes.get(at + 1).copied().unwrap_or(0)]);
            text.push(char::from(ALPHABET[usize::from(pair >> (11 - i * 5 % 8)) & 31]));
        }
        text
    }

    /// Reads a code as people type it: either case, any grouping by spaces, dashes or line ends, O for 0, I or L for
    /// 1, U for V. Anything else is `Usage`; the checksum lets one mistyped code in 16 million pass for another.
    pub fn parse(text: &str) -> Result<RecoveryCode> {
        let mut symbols = Zeroizing::new(Vec::with_capacity(SYMBOLS));
        for c in text.chars().filter(|c| !c.is_whitespace() && !matches!(c, '-' | '_' | '.')) {
            if symbols.len() == SYMBOLS {
                return Err(mistyped(format!("is longer than {SYMBOLS} letters and digits")));
            }
            symbols.push(symbol(c).ok_or_else(|| mistyped("has a character that is no letter or digit"))?);
        }
        if symbols.len() != SYMBOLS {
            return Err(mistyped(format!("has {} letters and digits, not {SYMBOLS}", symbols.len())));
        }
        decode(&symbols).map(RecoveryCode).ok_or_else(|| match mistyped_group(&mut symbols) {
            Some(group) => mistyped(format!("is mistyped, probably in group {group}")),
            None => mistyped("is mistyped: its checksum does not fit"),
        })
    }

    /// The key that seals a recovery slot with this salt.
    pub fn slot_key(&self, salt: &[u8; SALT]) -> Key {
        self.derive(context::SLOT_RECOVERY, salt)
    }

    /// The key that seals the owner's key with this salt.
    pub fn owner_slot_key(&self, salt: &[u8; SALT]) -> Key {
        self.derive(context::SLOT_OWNER, salt)
    }

    /// A second copy, on purpose.
    pub fn duplicate(&self) -> RecoveryCode {
        RecoveryCode(self.0.duplicate())
    }

    fn derive(&self, context: &'static str, salt: &[u8; SALT]) -> Key {
        let mut material = Zeroizing::new([0; CODE_BYTES + SALT]);
        material[..CODE_BYTES].copy_from_slice(self.0.expose());
        material[CODE_BYTES..].copy_from_slice(salt);
        Key::derive(context, &material[..])
    }
}

fn mistyped(what: impl std::fmt::Display) -> Error {
    Error::new(Kind::Usage, format!("the recovery code {what}"))
}

fn checksum(code: &[u8; CODE_BYTES]) -> [u8; CHECKSUM_BYTES] {
    let hash = blake3::derive_key(context::RECOVERY_CHECKSUM, code);
    [hash[0], hash[1], hash[2]]
}

fn symbol(c: char) -> Option<u8> {
    let c = match c.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        'U' => 'V',
        c => c,
    };
    ALPHABET.iter().position(|&a| char::from(a) == c).map(|i| i as u8)
}

/// The code in `symbols`, if its checksum fits.
fn decode(symbols: &[u8]) -> Option<Key> {
    let mut bytes = Zeroizing::new([0u8; CODE_BYTES + CHECKSUM_BYTES]);
    for (i, symbol) in symbols.iter().enumerate() {
        let bits = u16::from(*symbol) << (11 - i * 5 % 8);
        bytes[i * 5 / 8] |= (bits >> 8) as u8;
        if let Some(next) = bytes.get_mut(i * 5 / 8 + 1) {
            *next |= bits as u8;
        }
    }
    let key = Key::from_slice(&bytes[..CODE_BYTES])?;
    (checksum(key.expose())[..] == bytes[CODE_BYTES..]).then_some(key)
}

/// The group, counted from 1, in which one wrong symbol or two swapped neighbours would explain the checksum.
fn mistyped_group(symbols: &mut [u8]) -> Option<usize> {
    for i in 0..symbols.len() {
        let typed = symbols[i];
        let explained = (0..32).any(|s| {
            symbols[i] = s;
            decode(symbols).is_some()
        });
        symbols[i] = typed;
        let swapped = i + 1 < symbols.len() && {
            symbols.swap(i, i + 1);
            let fits = decode(symbols).is_some();
            symbols.swap(i, i + 1);
            fits
        };
        if explained || swapped {
            return Some(i / GROUP + 1);
        }
    }
    None
}

/// A fresh slot key, and the age file that gives it to whoever holds the recipient's identity.
pub fn wrap_for_recipient(recipient: &Recipient) -> Result<(Vec<u8>, Key)> {
    let secret = Key::random();
    let wrapped = age::encrypt(recipient, secret.expose())
        .map_err(|e| Error::bug(format!("cannot encrypt to an X25519 recipient: {e}")))?;
    Ok((wrapped, Key::derive(context::SLOT_RECIPIENT, secret.expose())))
}

/// The slot key in an age file, if `identity` opens it.
pub fn unwrap_with_identity(identity: &Identity, wrapped: &[u8]) -> Option<Key> {
    let mut secret = age::decrypt(identity, wrapped).ok()?;
    let key = (secret.len() == 32).then(|| Key::derive(context::SLOT_RECIPIENT, &secret));
    secret.zeroize();
    key
}

/// Seals a slot's content under a slot key: nonce, ciphertext, tag. `aad` is everything else in the slot.
pub fn seal(key: &Key, aad: &[u8], plain: &[u8]) -> Vec<u8> {
    let nonce = crate::id::random_bytes::<NONCE>();
    // Reserved at once: growing would leave a copy of the plaintext behind.
    let mut sealed = Vec::with_capacity(NONCE + plain.len() + TAG);
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(plain);
    let tag = encrypt(&XChaCha20Poly1305::new(key.expose().into()), &nonce, aad, &mut sealed[NONCE..]);
    sealed.extend_from_slice(&tag);
    sealed
}

/// Opens what [`seal`] made; nothing if the key, `aad` or any byte differs.
pub fn open(key: &Key, aad: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (nonce, rest) = sealed.split_first_chunk::<NONCE>()?;
    let (body, tag) = rest.split_last_chunk::<TAG>()?;
    let mut plain = Zeroizing::new(body.to_vec());
    decrypt(&XChaCha20Poly1305::new(key.expose().into()), nonce, aad, &mut plain, tag).ok()?;
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::vectors;
    use crate::id::hex;

    fn refused(text: &str) -> String {
        match RecoveryCode::parse(text) {
            Ok(_) => panic!("accepted {text}"),
            Err(e) => {
                assert_eq!(e.kind(), Kind::Usage);
                e.to_string()
            }
        }
    }

    #[test]
    fn recovery_codes_survive_how_people_type() {
        for _ in 0..50 {
            let code = RecoveryCode::random();
            let text = code.to_text();
            assert_eq!(text.len(), 69);
            let typed = [
                text.to_lowercase(),
                text.replace('-', " "),
                text.replace('-', ""),
                text.replace('0', "o").replace('1', "l").replace('V', "u"),
                format!("  {}\n", text.replace('1', "I")),
            ];
            for variant in typed {
                assert_eq!(RecoveryCode::parse(&variant).ok().unwrap().0.expose(), code.0.expose());
            }
        }
    }

    #[test]
    fn a_mistyped_recovery_code_is_refused_and_its_group_named() {
        let text = vectors::code().to_text();
        for (i, c) in text.char_indices().filter(|(_, c)| *c != '-') {
            for a in ALPHABET.iter().map(|a| char::from(*a)).filter(|a| *a != c) {
                let mut bad = text.to_string();
                bad.replace_range(i..=i, a.encode_utf8(&mut [0; 4]));
                assert!(refused(&bad).ends_with(&format!("in group {}", i / 5 + 1)), "{bad}");
            }
        }
        assert!(refused(&text[..68]).contains("has 55"));
        assert!(refused(&format!("{}0", *text)).contains("longer"));
        assert!(refused(&text.replacen('-', "!", 1)).contains("no letter"));
        let mut scrambled: Vec<char> = text.chars().collect();
        scrambled.reverse();
        assert!(refused(&scrambled.iter().collect::<String>()).contains("checksum"));
        refused("");
        refused("correct horse battery staple");
        refused(&"ü".repeat(10_000));
    }

    #[test]
    fn argon2_costs_have_bounds() {
        assert_eq!(Argon2Cost::new(64 * 1024, 3, 4), Some(Argon2Cost::DEFAULT));
        assert!(Argon2Cost::new(8, 1, 1).is_some());
        assert!(Argon2Cost::new(1024 * 1024, 64, 16).is_some());
        for (memory, passes, lanes) in
            [(1024 * 1024 + 1, 1, 1), (64, 65, 1), (1024, 1, 17), (64, 0, 1), (64, 1, 0), (7, 1, 1), (31, 1, 4)]
        {
            assert!(Argon2Cost::new(memory, passes, lanes).is_none());
        }
    }

    #[test]
    fn sealed_content_opens_only_unchanged() {
        let (key, other) = (Key::random(), Key::random());
        let sealed = seal(&key, b"header", b"content");
        assert_eq!(open(&key, b"header", &sealed).unwrap()[..], b"content"[..]);
        assert!(open(&other, b"header", &sealed).is_none());
        assert!(open(&key, b"heades", &sealed).is_none());
        for len in 0..sealed.len() {
            assert!(open(&key, b"header", &sealed[..len]).is_none());
        }
    }

    #[test]
    fn recipients_wrap_a_key_for_one_identity() {
        let identity = Identity::generate();
        let (wrapped, key) = wrap_for_recipient(&identity.to_public()).unwrap();
        assert_eq!(unwrap_with_identity(&identity, &wrapped).unwrap().expose(), key.expose());
        assert!(unwrap_with_identity(&Identity::generate(), &wrapped).is_none());
        assert!(unwrap_with_identity(&identity, b"").is_none());
        assert!(unwrap_with_identity(&identity, &wrapped[..wrapped.len() - 1]).is_none());
        let short = age::encrypt(&identity.to_public(), b"short").unwrap();
        assert!(unwrap_with_identity(&identity, &short).is_none());
    }

    #[test]
    fn known_answers() {
        let salt = [5; SALT];
        let cost = Argon2Cost::new(64, 2, 2).unwrap();
        let key = passphrase_key("passphrase", &salt, cost).unwrap();
        assert_eq!(hex(key.expose()), vectors::get("slot key, passphrase"));
        let code = vectors::code();
        assert_eq!(&*code.to_text(), vectors::get("recovery code"));
        assert_eq!(hex(code.slot_key(&salt).expose()), vectors::get("slot key, recovery code"));
        assert_eq!(hex(code.owner_slot_key(&salt).expose()), vectors::get("slot key, owner"));
    }
}
