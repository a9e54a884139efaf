//! Rotation: a new master key, known only to slots made with it.
//!
//! The journal decides which epoch is in force; slots follow it. So rotation writes the new slots, has the caller
//! record the epoch, and only then deletes the old slots. If it is cut off before the record, the new slots are ahead
//! of the journal and their last master key was never used; if after, the old slots lag behind. [`settle`] clears up
//! either.

use super::{Maker, Secret, StoredSlot, Unlocked, delete, list_for_change, move_owner};
use crate::backend::Backend;
use crate::crypto::keys::Keyring;
use crate::crypto::slot::RecoveryCode;
use crate::error::{Error, Kind, Result};
use crate::format::slot::Lock;
use crate::id::RepoId;

/// What [`rotate`] did.
pub struct Rotated {
    /// All master keys, the new one last.
    pub keyring: Keyring,
    /// The epoch in force.
    pub epoch: u32,
    /// Slots removed without a successor, because nobody gave their passphrase: id and label.
    pub dropped: Vec<(String, String)>,
    /// Whether the owner's key moved to the new recovery code; otherwise the code that opened it still does.
    pub owner_moved: bool,
}

/// Adds a master key and rewrites every slot for it: the slot opened with `secret`, all X25519 recipients, and, if
/// there was a recovery code, a new one, which `show` gets before it comes into force. Other passphrases are dropped.
///
/// `commit` must make the epoch durable in the journal, sealed with the old epoch's keys; nothing may be sealed with
/// the new ones before. If it fails, both generations of slots stay and [`settle`] decides later.
/// `unlocked` must hold the epoch in force and none after it. A damaged slot must be removed first.
pub fn rotate(
    backend: &dyn Backend,
    repo_id: RepoId,
    unlocked: &Unlocked,
    secret: &Secret,
    show: &mut dyn FnMut(&RecoveryCode) -> Result<()>,
    commit: &mut dyn FnMut(&Keyring, u32) -> Result<()>,
) -> Result<Rotated> {
    let mut slots = list_for_change(backend, &repo_id)?;
    if let Some(at) = slots.iter().position(|s| s.slot.is_err()) {
        // Whoever relies on it would be shut out without a word.
        let damage = slots.swap_remove(at).slot.expect_err("found by its error");
        return Err(damage.remedy("remove this key slot before rotating the key"));
    }
    if slots.iter().filter_map(StoredSlot::epochs).any(|epochs| epochs != unlocked.keyring.epochs()) {
        return Err(Error::new(Kind::Refused, "an earlier key rotation was interrupted and is not settled yet"));
    }
    let mut keyring = unlocked.keyring.duplicate();
    let epoch = keyring.push_epoch()?;
    let maker = Maker { backend, repo_id, keyring: &keyring };
    let mut plan = Plan { made: Vec::new(), obsolete: Vec::new(), dropped: Vec::new(), owner_moved: false };
    if let Err(e) = plan.write(&maker, &slots, &unlocked.slot, secret, show) {
        // Nothing refers to them yet; what stays behind is found by `settle`.
        let _ = delete(backend, &plan.made);
        return Err(e);
    }
    commit(&keyring, epoch)?;
    delete(backend, &plan.obsolete)?;
    Ok(Rotated { keyring, epoch, dropped: plan.dropped, owner_moved: plan.owner_moved })
}

struct Plan {
    made: Vec<String>,
    obsolete: Vec<String>,
    dropped: Vec<(String, String)>,
    owner_moved: bool,
}

impl Plan {
    fn write(
        &mut self,
        maker: &Maker<'_>,
        slots: &[StoredSlot],
        used: &str,
        secret: &Secret,
        show: &mut dyn FnMut(&RecoveryCode) -> Result<()>,
    ) -> Result<()> {
        let mut recovery = false;
        for stored in slots {
            let Some(head) = stored.head() else { continue };
            match (&head.lock, secret) {
                (Lock::Passphrase { cost, .. }, Secret::Passphrase(passphrase)) if stored.id == used => {
                    self.made.push(maker.passphrase(&head.label, passphrase, *cost)?);
                }
                (Lock::Passphrase { .. }, _) => self.dropped.push((stored.id.clone(), head.label.clone())),
                (Lock::Recipient { recipient, .. }, _) => self.made.push(maker.recipient(&head.label, recipient)?),
                (Lock::Recovery { .. }, _) => recovery = true,
                (Lock::Owner { .. }, _) => continue,
            }
            self.obsolete.push(stored.id.clone());
        }
        if recovery {
            let code = RecoveryCode::random();
            // Shown first: from the moment its slot exists, someone must hold it.
            show(&code)?;
            self.made.push(maker.recovery(&code)?);
            if let Some(moved) = move_owner(maker, slots, secret, &code)? {
                self.owner_moved = true;
                self.made.push(moved.new);
                self.obsolete.push(moved.old);
            }
        }
        Ok(())
    }
}

/// Deletes slots that an interrupted rotation left: those whose keyring is not that of `epoch`, which the journal says
/// is in force. Returns their ids. `Damaged`, and nothing is deleted, if no slot has that epoch.
///
/// To be called by a writer whose keyring is of another epoch than the journal's, see [`Unlocked::use_epoch`].
pub fn settle(backend: &dyn Backend, repo_id: &RepoId, epoch: u32) -> Result<Vec<String>> {
    let slots = list_for_change(backend, repo_id)?;
    let in_force = |s: &StoredSlot| s.epochs().map(|epochs| epochs == epoch + 1);
    if !slots.iter().any(|s| in_force(s) == Some(true)) {
        return Err(Error::damaged(format!("no readable key slot has key epoch {epoch}")));
    }
    let left: Vec<String> = slots.into_iter().filter(|s| in_force(s) == Some(false)).map(|s| s.id).collect();
    delete(backend, &left)?;
    Ok(left)
}
