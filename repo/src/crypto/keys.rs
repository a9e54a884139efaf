//! The keyring, and the keys derived from it: everything that seals and opens stored objects.

use chacha20poly1305::aead::inout::InOutBuf;
use chacha20poly1305::{AeadInOut, KeyInit, Tag, XChaCha20Poly1305, XNonce};
use ed25519_dalek::SigningKey;
use zeroize::Zeroizing;

use super::key::Key;
use super::{FORMAT_VERSION, context};
use crate::error::{Error, Kind, Result};
use crate::id::{ChunkId, ContentHash, RepoId};

/// Bytes of an XChaCha20 nonce.
pub const NONCE: usize = 24;
/// Bytes of a Poly1305 tag.
pub const TAG: usize = 16;
/// Bytes to leave free before a frame's payload: its nonce.
pub const FRAME_HEAD: usize = NONCE;
/// What sealing adds to a frame.
pub const FRAME_OVERHEAD: usize = NONCE + TAG;
/// What sealing adds to any other object: epoch, nonce, tag.
pub const OBJECT_OVERHEAD: usize = 4 + NONCE + TAG;
/// Master keys in one keyring. At one rotation a day this lasts more than ten years, and a slot stays small.
pub const MAX_EPOCHS: usize = 4096;

/// The master keys, one an epoch: what a key slot wraps. The newest seals, all open.
pub struct Keyring {
    masters: Vec<Key>,
}

impl Keyring {
    /// A new repository's keyring: one random master key.
    pub fn generate() -> Keyring {
        Keyring { masters: vec![Key::random()] }
    }

    /// Adds a random master key and returns its epoch. What is sealed from now on opens only with it.
    pub fn push_epoch(&mut self) -> Result<u32> {
        if self.masters.len() >= MAX_EPOCHS {
            return Err(Error::new(Kind::Refused, "the keyring is full: its key was rotated 4095 times"));
        }
        self.masters.push(Key::random());
        Ok(self.masters.len() as u32 - 1)
    }

    /// Forgets all but the oldest `epochs` master keys (at least one stays): those that an interrupted rotation added
    /// and the journal never took into use.
    pub fn truncate(&mut self, epochs: u32) {
        self.masters.truncate((epochs as usize).max(1));
    }

    /// How many epochs there are; at least one.
    pub fn epochs(&self) -> u32 {
        self.masters.len() as u32
    }

    /// A second copy, on purpose.
    pub fn duplicate(&self) -> Keyring {
        Keyring { masters: self.masters.iter().map(Key::duplicate).collect() }
    }

    /// Whether these are the keys of `older`, and perhaps more behind them.
    pub fn extends(&self, older: &Keyring) -> bool {
        let (ours, theirs) = (self.to_bytes(), older.to_bytes());
        blake3::hash(&theirs) == blake3::hash(&ours[..theirs.len().min(ours.len())])
    }

    /// The master keys back to back, oldest first: to be sealed, or for a peer that is to hold them.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        // Reserved exactly: growing would leave unwiped copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(self.masters.len() * 32));
        for master in &self.masters {
            bytes.extend_from_slice(master.expose());
        }
        bytes
    }

    /// Reads what [`Keyring::to_bytes`] wrote.
    ///
    /// # Errors
    /// `Damaged` for another length.
    pub fn from_bytes(bytes: &[u8]) -> Result<Keyring> {
        let epochs = bytes.len() / 32;
        if epochs == 0 || epochs > MAX_EPOCHS || !bytes.len().is_multiple_of(32) {
            return Err(Error::damaged("a key slot holds no keyring"));
        }
        Ok(Keyring { masters: bytes.chunks_exact(32).filter_map(Key::from_slice).collect() })
    }
}

/// Kinds of sealed objects, apart from frames. Each has its own key in each epoch, and its number in the AAD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Object {
    /// A pack's footer.
    Footer = 1,
    /// The footers of one session's packs.
    Rollup = 2,
    /// A snapshot's manifest.
    Manifest = 3,
    /// A stat sidecar.
    Sidecar = 4,
    /// A journal record.
    LogRecord = 5,
    /// A value in the index.
    IndexValue = 6,
    /// A tenant's keyring, at a pool.
    TenantKeyring = 7,
}

const OBJECT_CONTEXTS: [&str; 7] = [
    context::KEY_FOOTER,
    context::KEY_ROLLUP,
    context::KEY_MANIFEST,
    context::KEY_SIDECAR,
    context::KEY_LOG,
    context::KEY_INDEX,
    context::KEY_TENANT,
];

/// What the chunks of a frame, and of the pack it lies in, are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// File content.
    Data = 0,
    /// Trees and index nodes.
    Tree = 1,
}

impl TryFrom<u8> for FrameKind {
    type Error = Error;

    fn try_from(byte: u8) -> Result<FrameKind> {
        match byte {
            0 => Ok(FrameKind::Data),
            1 => Ok(FrameKind::Tree),
            _ => Err(Error::damaged("a block of data is of an unknown kind")),
        }
    }
}

struct EpochKeys {
    frame: XChaCha20Poly1305,
    objects: [XChaCha20Poly1305; OBJECT_CONTEXTS.len()],
}

impl EpochKeys {
    fn derive(master: &Key) -> EpochKeys {
        let cipher = |context| XChaCha20Poly1305::new(Key::derive(context, master.expose()).expose().into());
        EpochKeys { frame: cipher(context::KEY_FRAME), objects: OBJECT_CONTEXTS.map(cipher) }
    }
}

/// Every key of an unlocked repository, ready for use from any thread.
///
/// Chunk ids, the config's authenticator and the signing key come from the first master key and never change; sealing
/// uses the newest epoch's keys, opening those of the epoch the object names.
pub struct Keys {
    repo_id: RepoId,
    id_key: Key,
    config_key: Key,
    signing_seed: Key,
    epochs: Vec<EpochKeys>,
}

impl Keys {
    /// Derives all keys. `repo_id` is bound into everything sealed.
    pub fn derive(keyring: &Keyring, repo_id: RepoId) -> Keys {
        let first = keyring.masters[0].expose();
        Keys {
            repo_id,
            id_key: Key::derive(context::KEY_ID, first),
            config_key: Key::derive(context::KEY_CONFIG, first),
            signing_seed: Key::derive(context::KEY_SIGNING, first),
            epochs: keyring.masters.iter().map(EpochKeys::derive).collect(),
        }
    }

    /// The repository these keys belong to.
    pub fn repo_id(&self) -> RepoId {
        self.repo_id
    }

    /// The epoch that seals.
    pub fn current_epoch(&self) -> u32 {
        self.epochs.len() as u32 - 1
    }

    /// `BLAKE3_keyed(id key, h)`.
    pub fn chunk_id(&self, h: &ContentHash) -> ChunkId {
        ChunkId(blake3::keyed_hash(self.id_key.expose(), h.expose()).into())
    }

    /// The authenticator of config bytes.
    pub fn config_mac(&self, bytes: &[u8]) -> [u8; 32] {
        blake3::keyed_hash(self.config_key.expose(), bytes).into()
    }

    /// The repository's key for receipts and drives.
    pub fn signing_key(&self) -> SigningKey {
        SigningKey::from_bytes(self.signing_seed.expose())
    }

    /// Seals `plain` as an object of this kind. `context` (a snapshot id, a log number) is not stored:
    /// [`Keys::open`] must be given the same.
    pub fn seal(&self, object: Object, context: &[u8], plain: &[u8]) -> Vec<u8> {
        self.seal_with(object, context, plain, &crate::id::random_bytes())
    }

    fn seal_with(&self, object: Object, context: &[u8], plain: &[u8], nonce: &[u8; NONCE]) -> Vec<u8> {
        let epoch = self.current_epoch();
        let mut sealed = Vec::with_capacity(plain.len() + OBJECT_OVERHEAD);
        sealed.extend_from_slice(&epoch.to_le_bytes());
        sealed.extend_from_slice(nonce);
        sealed.extend_from_slice(plain);
        let cipher = &self.epochs[epoch as usize].objects[object as usize - 1];
        let tag = encrypt(cipher, nonce, &self.object_aad(object, epoch, context), &mut sealed[4 + NONCE..]);
        sealed.extend_from_slice(&tag);
        sealed
    }

    /// Opens what [`Keys::seal`] made. `Damaged`, without a path, unless every byte, the kind, the context and the
    /// repository are as they were.
    pub fn open(&self, object: Object, context: &[u8], sealed: &[u8]) -> Result<Vec<u8>> {
        let (epoch, rest) = sealed.split_first_chunk::<4>().ok_or_else(too_short)?;
        let (nonce, rest) = rest.split_first_chunk::<NONCE>().ok_or_else(too_short)?;
        let (body, tag) = rest.split_last_chunk::<TAG>().ok_or_else(too_short)?;
        let epoch = u32::from_le_bytes(*epoch);
        let cipher = &self.epoch(epoch)?.objects[object as usize - 1];
        let aad = self.object_aad(object, epoch, context);
        let mut plain = body.to_vec();
        decrypt(cipher, nonce, &aad, &mut plain, tag)?;
        Ok(plain)
    }

    /// Seals a frame where it lies: `buf` is [`FRAME_HEAD`] bytes of any value, then the payload; it becomes nonce,
    /// ciphertext, tag. Returns the epoch, which the footer records. Reserve [`TAG`] bytes or the buffer moves.
    ///
    /// # Panics
    /// When `buf` is shorter than [`FRAME_HEAD`].
    pub fn seal_frame(&self, kind: FrameKind, raw_len: u32, buf: &mut Vec<u8>) -> u32 {
        self.seal_frame_with(kind, raw_len, buf, &crate::id::random_bytes())
    }

    fn seal_frame_with(&self, kind: FrameKind, raw_len: u32, buf: &mut Vec<u8>, nonce: &[u8; NONCE]) -> u32 {
        let epoch = self.current_epoch();
        let (head, payload) = buf.split_first_chunk_mut::<FRAME_HEAD>().expect("a frame buffer starts with its head");
        *head = *nonce;
        let tag = encrypt(&self.epochs[epoch as usize].frame, nonce, &self.frame_aad(kind, epoch, raw_len), payload);
        buf.extend_from_slice(&tag);
        epoch
    }

    /// Opens a frame where it lies: afterwards the payload is `buf[FRAME_HEAD..]`. `Damaged`, without a path, unless
    /// every byte, kind, epoch, raw length and repository are as sealed; `buf` is then worthless.
    pub fn open_frame(&self, kind: FrameKind, epoch: u32, raw_len: u32, buf: &mut Vec<u8>) -> Result<()> {
        let cipher = &self.epoch(epoch)?.frame;
        let aad = self.frame_aad(kind, epoch, raw_len);
        let (nonce, rest) = buf.split_first_chunk_mut::<FRAME_HEAD>().ok_or_else(too_short)?;
        let (body, tag) = rest.split_last_chunk_mut::<TAG>().ok_or_else(too_short)?;
        decrypt(cipher, nonce, &aad, body, tag)?;
        buf.truncate(buf.len() - TAG);
        Ok(())
    }

    fn epoch(&self, epoch: u32) -> Result<&EpochKeys> {
        self.epochs.get(epoch as usize).ok_or_else(|| {
            Error::damaged(format!(
                "it was encrypted with the master key of rotation {epoch}, which this password does not open"
            ))
            .remedy("if the key was rotated since this process started, start it again")
        })
    }

    /// number | format version | repository | epoch | context
    fn object_aad(&self, object: Object, epoch: u32, context: &[u8]) -> Vec<u8> {
        let mut aad = Vec::with_capacity(AAD_HEAD + context.len());
        aad.extend_from_slice(&self.aad_head(object as u8, epoch));
        aad.extend_from_slice(context);
        aad
    }

    /// 0 | format version | repository | epoch | kind | raw length
    fn frame_aad(&self, kind: FrameKind, epoch: u32, raw_len: u32) -> [u8; AAD_HEAD + 5] {
        let mut aad = [0; AAD_HEAD + 5];
        aad[..AAD_HEAD].copy_from_slice(&self.aad_head(0, epoch));
        aad[AAD_HEAD] = kind as u8;
        aad[AAD_HEAD + 1..].copy_from_slice(&raw_len.to_le_bytes());
        aad
    }

    fn aad_head(&self, number: u8, epoch: u32) -> [u8; AAD_HEAD] {
        let mut aad = [0; AAD_HEAD];
        aad[0] = number;
        aad[1..3].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        aad[3..35].copy_from_slice(self.repo_id.as_bytes());
        aad[35..].copy_from_slice(&epoch.to_le_bytes());
        aad
    }
}

const AAD_HEAD: usize = 1 + 2 + 32 + 4;

fn too_short() -> Error {
    Error::damaged("the contents are cut short")
}

/// Encrypts in place and returns the tag.
pub(super) fn encrypt(cipher: &XChaCha20Poly1305, nonce: &[u8; NONCE], aad: &[u8], body: &mut [u8]) -> [u8; TAG] {
    let tag = cipher.encrypt_inout_detached(&XNonce::from(*nonce), aad, InOutBuf::from(body));
    tag.expect("nothing sealed comes near the cipher's limit of 256 GiB").into()
}

/// Decrypts in place, after the tag has been found right.
pub(super) fn decrypt(
    cipher: &XChaCha20Poly1305,
    nonce: &[u8; NONCE],
    aad: &[u8],
    body: &mut [u8],
    tag: &[u8; TAG],
) -> Result<()> {
    cipher
        .decrypt_inout_detached(&XNonce::from(*nonce), aad, InOutBuf::from(body), &Tag::from(*tag))
        .map_err(|_| Error::damaged("the contents fail verification"))
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
