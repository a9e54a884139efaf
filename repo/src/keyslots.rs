//! Key slots as operations: making, opening, listing, changing and removing them.
//!
//! A slot file is never changed: its successor is written first, then it is deleted, so that at every moment something
//! opens the repository. Whoever writes here holds the commit lock; reading takes none.

use std::time::{SystemTime, UNIX_EPOCH};

use age::x25519::{Identity, Recipient};
use ed25519_dalek::SigningKey;
use zeroize::Zeroizing;

use crate::backend::{Area, Backend, Object, Put};
use crate::crypto::key::Key;
use crate::crypto::keys::Keyring;
use crate::crypto::slot::{self, Argon2Cost, RecoveryCode};
use crate::error::{Error, Kind, Result};
use crate::format::slot::{Lock, Slot, SlotHead};
use crate::id::{RepoId, hex, random_bytes};
use crate::limits::MAX_SMALL_OBJECT;

mod owner;
mod rotate;
pub use owner::{SIGNATURE, owner_key, sign_order, signed_order};
pub use rotate::{Rotated, rotate, settle};

/// Slot files in one repository.
const MAX_SLOTS: usize = 1024;

/// What a person or a machine holds to open a repository.
pub enum Secret {
    /// A passphrase; tried as a recovery code too if it reads as one.
    Passphrase(Zeroizing<String>),
    /// A recovery code.
    RecoveryCode(RecoveryCode),
    /// The identity of an X25519 recipient.
    Identity(Identity),
}

impl Secret {
    /// Reads an age identity: text with one line `AGE-SECRET-KEY-1…`, empty lines and `#` comments.
    pub fn identity(text: &str) -> Result<Secret> {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let identity = match (lines.next(), lines.next()) {
            (Some(line), None) => line.parse().ok(),
            _ => None,
        };
        let message = "an identity is one line that starts with AGE-SECRET-KEY-1";
        identity.map(Secret::Identity).ok_or_else(|| Error::new(Kind::Usage, message))
    }

    /// The recovery code in here, if there is one.
    pub fn as_recovery_code(&self) -> Option<RecoveryCode> {
        match self {
            Secret::RecoveryCode(code) => Some(code.duplicate()),
            Secret::Passphrase(text) => RecoveryCode::parse(text).ok(),
            Secret::Identity(_) => None,
        }
    }
}

/// A slot file, readable or not.
pub struct StoredSlot {
    /// Its name under `keys/`.
    pub id: String,
    /// What is in it, or why that cannot be read (with the path).
    pub slot: Result<Slot>,
}

impl StoredSlot {
    fn head(&self) -> Option<&SlotHead> {
        self.slot.as_ref().ok().map(|slot| &slot.head)
    }

    /// The epochs of the keyring inside, if there is one.
    fn epochs(&self) -> Option<u32> {
        self.head().filter(|head| head.lock.opens_repository()).map(|head| head.epochs)
    }
}

/// What opening a slot gives.
pub struct Unlocked {
    /// All master keys in the slot.
    pub keyring: Keyring,
    /// The slot that opened.
    pub slot: String,
}

impl Unlocked {
    /// Brings the keyring to the epoch that the journal says is in force: forgets a master key that an interrupted
    /// rotation added in vain. `WrongPassword` if the slot is one that a finished rotation should have removed.
    /// Where this forgets something or fails, a writer calls [`settle`].
    pub fn use_epoch(&mut self, epoch: u32) -> Result<()> {
        if self.keyring.epochs() <= epoch {
            let message = format!("this secret opens a key slot from before key epoch {epoch}");
            return Err(Error::new(Kind::WrongPassword, message).remedy("use one made since the key was rotated"));
        }
        self.keyring.truncate(epoch + 1);
        Ok(())
    }
}

/// What `init` is asked for. At least one of the three.
pub struct NewSlots<'a> {
    /// A passphrase and its label.
    pub passphrase: Option<(&'a str, &'a str)>,
    /// The cost of a guess at it.
    pub cost: Argon2Cost,
    /// X25519 recipients (`age1…`) and their labels.
    pub recipients: &'a [(&'a str, &'a str)],
    /// Whether to make a recovery code.
    pub recovery_code: bool,
}

/// What `init` gets.
pub struct Created {
    /// The keyring that was given.
    pub keyring: Keyring,
    /// For the config. Without a recovery code nobody has the private half.
    pub owner_public: [u8; 32],
    /// To be shown once.
    pub recovery_code: Option<RecoveryCode>,
}

/// Makes the owner's key and the first slots of a new repository with this keyring.
pub fn create_slots(
    backend: &dyn Backend,
    repo_id: RepoId,
    keyring: Keyring,
    wanted: &NewSlots<'_>,
) -> Result<Created> {
    if wanted.passphrase.is_none() && wanted.recipients.is_empty() && !wanted.recovery_code {
        return Err(Error::new(Kind::Usage, "a repository needs a password, a recipient or a recovery code"));
    }
    let maker = Maker { backend, repo_id, keyring: &keyring };
    let owner = Key::random();
    if let Some((passphrase, label)) = wanted.passphrase {
        maker.passphrase(label, passphrase, wanted.cost)?;
    }
    for (recipient, label) in wanted.recipients {
        maker.recipient(label, recipient)?;
    }
    let recovery_code = wanted.recovery_code.then(RecoveryCode::random);
    if let Some(code) = &recovery_code {
        maker.recovery(code)?;
        maker.owner(code, &owner)?;
    }
    let owner_public = SigningKey::from_bytes(owner.expose()).verifying_key().to_bytes();
    Ok(Created { keyring, owner_public, recovery_code })
}

/// Every slot file, oldest first. One that cannot be read is listed with the reason.
pub fn list(backend: &dyn Backend, repo_id: &RepoId) -> Result<Vec<StoredSlot>> {
    let mut ids = Vec::new();
    backend.list(Area::Keys, &mut |object, _| {
        if let Object::Key(id) = object {
            if ids.len() == MAX_SLOTS {
                return Err(Error::damaged(format!("there are more than {MAX_SLOTS} key slots")));
            }
            ids.push(id);
        }
        Ok(())
    })?;
    let mut slots = Vec::with_capacity(ids.len());
    for id in ids {
        match read_slot(backend, repo_id, &id) {
            // Replaced since it was listed.
            Err(e) if e.kind() == Kind::NotFound => {}
            slot => slots.push(StoredSlot { id, slot }),
        }
    }
    slots.sort_by_key(|s| (s.head().map_or(u64::MAX, |head| head.created), s.id.clone()));
    Ok(slots)
}

/// [`list`] for those who change slots: one that only could not be read just now must not pass for a damaged one.
fn list_for_change(backend: &dyn Backend, repo_id: &RepoId) -> Result<Vec<StoredSlot>> {
    let passing = |e: &Error| !matches!(e.kind(), Kind::Damaged | Kind::NewerFormat);
    let mut slots = list(backend, repo_id)?;
    match slots.iter().position(|s| s.slot.as_ref().is_err_and(passing)) {
        Some(at) => Err(slots.swap_remove(at).slot.expect_err("found by its error")),
        None => Ok(slots),
    }
}

fn read_slot(backend: &dyn Backend, repo_id: &RepoId, id: &str) -> Result<Slot> {
    let object = Object::Key(id.to_owned());
    let slot = backend
        .read_all(&object, MAX_SMALL_OBJECT)
        .and_then(|bytes| Slot::decode(&bytes))
        .map_err(|e| e.at(backend.path(&object)))?;
    if slot.head.repo_id != *repo_id {
        return Err(Error::damaged("this key slot belongs to another repository:").at(backend.path(&object)));
    }
    Ok(slot)
}

/// Opens the repository's keyring with whichever slot takes `secret`. Each passphrase slot tried costs one Argon2id run.
///
/// `WrongPassword` if no slot opens; the slot's own error if those that can be read take other kinds of secrets.
/// Slots with more epochs are tried first: after an interrupted rotation both generations may be there, see [`settle`].
pub fn unlock(backend: &dyn Backend, repo_id: &RepoId, secret: &Secret) -> Result<Unlocked> {
    let mut slots = list(backend, repo_id)?;
    slots.sort_by_key(|s| std::cmp::Reverse(s.epochs()));
    let mut openers = vec![secret];
    let code = match secret {
        Secret::Passphrase(_) => secret.as_recovery_code().map(Secret::RecoveryCode),
        _ => None,
    };
    // First, as it costs nothing.
    openers.extend(&code);
    openers.reverse();

    let mut tried = false;
    let mut failure = None;
    for opener in openers {
        for (id, slot) in slots.iter().filter_map(|s| Some((&s.id, s.slot.as_ref().ok()?))) {
            let opened = match try_open(slot, opener) {
                None => continue,
                Some(opened) => opened,
            };
            tried = true;
            match opened {
                Ok(Some(keyring)) => return Ok(Unlocked { keyring, slot: id.clone() }),
                Ok(None) => {}
                Err(e) => failure = Some(e.at(backend.path(&Object::Key(id.clone())))),
            }
        }
    }
    let unreadable = slots.into_iter().find_map(|s| s.slot.err());
    let wrong = |secret| {
        let config = backend.path(&Object::Config);
        wrong(secret).at(config.parent().unwrap_or(&config))
    };
    Err(match (failure, unreadable) {
        (Some(e), _) => e,
        (None, Some(e)) if !tried => e,
        (None, Some(e)) => wrong(secret).remedy(format!("a slot that it might open cannot be read: {e}")),
        (None, None) => wrong(secret),
    })
}

fn wrong(secret: &Secret) -> Error {
    let what = match secret {
        Secret::Passphrase(_) => "the password opens no key slot of",
        Secret::RecoveryCode(_) => "the recovery code opens no key slot of",
        Secret::Identity(_) => "the identity opens no key slot of",
    };
    Error::new(Kind::WrongPassword, what)
}

/// Nothing if the slot takes another kind of secret.
fn try_open(slot: &Slot, secret: &Secret) -> Option<Result<Option<Keyring>>> {
    let key = match (&slot.head.lock, secret) {
        (Lock::Passphrase { cost, salt }, Secret::Passphrase(passphrase)) => {
            match slot::passphrase_key(passphrase, salt, *cost) {
                Ok(key) => Some(key),
                Err(e) => return Some(Err(e)),
            }
        }
        (Lock::Recovery { salt }, Secret::RecoveryCode(code)) => Some(code.slot_key(salt)),
        (Lock::Recipient { wrapped, .. }, Secret::Identity(identity)) => slot::unwrap_with_identity(identity, wrapped),
        _ => return None,
    };
    let plain = key.and_then(|key| slot::open(&key, &slot.head.encode(), &slot.sealed));
    Some(plain.map(|plain| keyring_of(slot, &plain)).transpose())
}

fn keyring_of(slot: &Slot, plain: &[u8]) -> Result<Keyring> {
    let keyring = Keyring::from_bytes(plain)?;
    if keyring.epochs() != slot.head.epochs {
        return Err(Error::damaged("a key slot holds another number of keys than it says"));
    }
    Ok(keyring)
}

/// Adds a passphrase and returns the slot's id.
pub fn add_passphrase(
    backend: &dyn Backend,
    repo_id: RepoId,
    keyring: &Keyring,
    label: &str,
    passphrase: &str,
    cost: Argon2Cost,
) -> Result<String> {
    Maker { backend, repo_id, keyring }.passphrase(label, passphrase, cost)
}

/// Adds an X25519 recipient (`age1…`) and returns the slot's id.
pub fn add_recipient(
    backend: &dyn Backend,
    repo_id: RepoId,
    keyring: &Keyring,
    label: &str,
    recipient: &str,
) -> Result<String> {
    Maker { backend, repo_id, keyring }.recipient(label, recipient)
}

/// Finds the slot whose id starts with `name`, or whose label is `name`.
pub fn resolve<'a>(slots: &'a [StoredSlot], name: &str) -> Result<&'a StoredSlot> {
    let fits = |s: &&StoredSlot| {
        !name.is_empty() && (s.id.starts_with(name) || s.head().is_some_and(|head| head.label == name))
    };
    let mut found = slots.iter().filter(fits);
    match (found.next(), found.next()) {
        (Some(slot), None) => Ok(slot),
        (None, _) => Err(Error::new(Kind::NotFound, format!("no key slot has the id or label '{name}'"))),
        (Some(_), Some(_)) => Err(Error::new(Kind::Ambiguous, format!("several key slots fit '{name}'"))),
    }
}

/// Removes a slot. Refused for the last slot that holds all master keys, and for the owner's key.
pub fn remove(backend: &dyn Backend, repo_id: &RepoId, id: &str) -> Result<()> {
    let slots = list_for_change(backend, repo_id)?;
    let Some(slot) = slots.iter().find(|s| s.id == id) else {
        return Err(Error::new(Kind::NotFound, format!("there is no key slot '{id}'")));
    };
    if slot.head().is_some_and(|head| !head.lock.opens_repository()) {
        return Err(Error::new(Kind::Refused, "the owner's key cannot be removed: it cannot be made again"));
    }
    let newest = slots.iter().filter_map(StoredSlot::epochs).max();
    if !slots.iter().any(|s| s.id != id && s.epochs().is_some() && s.epochs() == newest) {
        return Err(Error::new(Kind::Refused, "this is the last key slot: without it nothing opens the repository")
            .remedy("add another slot first"));
    }
    delete(backend, [&slot.id])
}

/// What [`passwd`] did.
#[derive(Debug, PartialEq, Eq)]
pub struct PassphraseChanged {
    /// The new slot.
    pub added: String,
    /// The slot that it stands for, if there was one.
    pub replaced: Option<String>,
}

/// Sets a new passphrase in place of that of slot `replace`; without it, of the slot that was opened, or, if that has
/// none (a lost passphrase and a recovery code), of the only slot with a passphrase; if there is none, adds one.
/// The label stays.
pub fn passwd(
    backend: &dyn Backend,
    repo_id: RepoId,
    unlocked: &Unlocked,
    replace: Option<&str>,
    passphrase: &str,
    cost: Argon2Cost,
) -> Result<PassphraseChanged> {
    let slots = list_for_change(backend, &repo_id)?;
    let old = replaced(&slots, unlocked, replace)?;
    let label = old.and_then(StoredSlot::head).map_or("", |head| &head.label);
    let added = Maker { backend, repo_id, keyring: &unlocked.keyring }.passphrase(label, passphrase, cost)?;
    delete(backend, old.map(|old| &old.id))?;
    Ok(PassphraseChanged { added, replaced: old.map(|old| old.id.clone()) })
}

/// Asked before the new passphrase is: whether [`passwd`] will know which slot is to get it.
///
/// # Errors
/// `Ambiguous` if it will not; what reading the slots gives.
pub fn replaceable(backend: &dyn Backend, repo_id: &RepoId, unlocked: &Unlocked) -> Result<()> {
    replaced(&list_for_change(backend, repo_id)?, unlocked, None).map(drop)
}

/// The slot whose passphrase is replaced; none if there is none with one.
fn replaced<'a>(slots: &'a [StoredSlot], unlocked: &Unlocked, replace: Option<&str>) -> Result<Option<&'a StoredSlot>> {
    let has_passphrase = |s: &&StoredSlot| s.head().is_some_and(|h| matches!(h.lock, Lock::Passphrase { .. }));
    let with_id = |id: &str| slots.iter().filter(has_passphrase).find(|s| s.id == id);
    if let Some(id) = replace {
        let none = || Error::new(Kind::NotFound, format!("there is no key slot '{id}' with a password"));
        return with_id(id).ok_or_else(none).map(Some);
    }
    if let Some(opened) = with_id(&unlocked.slot) {
        return Ok(Some(opened));
    }
    let mut all = slots.iter().filter(has_passphrase);
    match (all.next(), all.next()) {
        (Some(_), Some(_)) => Err(Error::new(Kind::Ambiguous, "several key slots have a password")
            .remedy("add a new one with `packmule key add`, then remove the lost one")),
        (only, _) => Ok(only),
    }
}

/// Makes a new recovery code and removes the old one. `show` gets the new code before anything the old one opens is
/// gone. With the old code in `secret` the owner's key moves to the new one and this returns true; otherwise the old
/// code still opens the owner's key, and nothing else.
pub fn recovery_code(
    backend: &dyn Backend,
    repo_id: RepoId,
    unlocked: &Unlocked,
    secret: &Secret,
    show: &mut dyn FnMut(&RecoveryCode) -> Result<()>,
) -> Result<bool> {
    let slots = list_for_change(backend, &repo_id)?;
    let maker = Maker { backend, repo_id, keyring: &unlocked.keyring };
    let code = RecoveryCode::random();
    show(&code)?;
    maker.recovery(&code)?;
    let owner = move_owner(&maker, &slots, secret, &code)?;
    let codes = slots.iter().filter(|s| s.head().is_some_and(|h| matches!(h.lock, Lock::Recovery { .. })));
    delete(backend, codes.map(|s| &s.id).chain(owner.as_ref().map(|moved| &moved.old)))?;
    Ok(owner.is_some())
}

/// The slots of the owner's key before and after a new recovery code.
struct OwnerMoved {
    old: String,
    new: String,
}

/// Seals the owner's key for `new` if `secret` has the code that opens it. The old slot stays.
fn move_owner(
    maker: &Maker<'_>,
    slots: &[StoredSlot],
    secret: &Secret,
    new: &RecoveryCode,
) -> Result<Option<OwnerMoved>> {
    let Some(old) = secret.as_recovery_code() else { return Ok(None) };
    let found = slots.iter().find_map(|s| Some((&s.id, open_owner(s.slot.as_ref().ok()?, &old)?)));
    found.map(|(id, owner)| Ok(OwnerMoved { old: id.clone(), new: maker.owner(new, &owner)? })).transpose()
}

/// Deletes slots, durably.
fn delete<'a>(backend: &dyn Backend, ids: impl IntoIterator<Item = &'a String>) -> Result<()> {
    for id in ids {
        backend.delete(&Object::Key(id.clone()))?;
    }
    backend.sync_deletes(Area::Keys)
}

fn open_owner(slot: &Slot, code: &RecoveryCode) -> Option<Key> {
    let Lock::Owner { salt } = &slot.head.lock else { return None };
    let plain = slot::open(&code.owner_slot_key(salt), &slot.head.encode(), &slot.sealed)?;
    (plain.len() == 32).then(|| Key::from_slice(&plain))?
}

/// Writes slots for one keyring. Each method returns the new slot's id once it is durable.
struct Maker<'a> {
    backend: &'a dyn Backend,
    repo_id: RepoId,
    keyring: &'a Keyring,
}

impl Maker<'_> {
    fn passphrase(&self, label: &str, passphrase: &str, cost: Argon2Cost) -> Result<String> {
        if passphrase.is_empty() {
            return Err(Error::new(Kind::Usage, "a password cannot be empty"));
        }
        let salt = random_bytes();
        let key = slot::passphrase_key(passphrase, &salt, cost)?;
        self.put_keyring(label, Lock::Passphrase { cost, salt }, &key)
    }

    fn recipient(&self, label: &str, recipient: &str) -> Result<String> {
        let parsed: Recipient = recipient
            .parse()
            .map_err(|why| Error::new(Kind::Usage, format!("'{recipient}' is no X25519 recipient (age1…): {why}")))?;
        let (wrapped, key) = slot::wrap_for_recipient(&parsed)?;
        self.put_keyring(label, Lock::Recipient { recipient: parsed.to_string(), wrapped }, &key)
    }

    fn recovery(&self, code: &RecoveryCode) -> Result<String> {
        let salt = random_bytes();
        self.put_keyring("", Lock::Recovery { salt }, &code.slot_key(&salt))
    }

    fn owner(&self, code: &RecoveryCode, owner: &Key) -> Result<String> {
        let salt = random_bytes();
        self.put("", 0, Lock::Owner { salt }, &code.owner_slot_key(&salt), owner.expose())
    }

    fn put_keyring(&self, label: &str, lock: Lock, key: &Key) -> Result<String> {
        self.put(label, self.keyring.epochs(), lock, key, &self.keyring.to_bytes())
    }

    fn put(&self, label: &str, epochs: u32, lock: Lock, key: &Key, plain: &[u8]) -> Result<String> {
        SlotHead::check_label(label)?;
        // Only for people, so that a clock before 1970 may pass for 1970.
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let head = SlotHead { repo_id: self.repo_id, created, epochs, label: label.to_owned(), lock };
        let sealed = slot::seal(key, &head.encode(), plain);
        let id = hex(&random_bytes::<8>());
        let object = Object::Key(id.clone());
        match self.backend.put(&object, &Slot { head, sealed }.encode())? {
            Put::Created => Ok(id),
            Put::Exists => Err(Error::bug("a random name was taken:").at(self.backend.path(&object))),
        }
    }
}

#[cfg(test)]
#[path = "keyslots/tests.rs"]
mod tests;
