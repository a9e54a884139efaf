use std::sync::Arc;

use super::*;
use crate::backend::fault::{Fault, Faulty, Plan};
use crate::backend::memory::Memory;
use crate::crypto::keys::{Keys, Object as Sealed};
use crate::crypto::vectors;

const REPO: RepoId = RepoId([7; 32]);

/// As cheap as Argon2 goes: these tests are not about its cost.
fn cheap() -> Argon2Cost {
    Argon2Cost::new(8, 1, 1).unwrap()
}

fn passphrase(text: &str) -> Secret {
    Secret::Passphrase(Zeroizing::new(text.to_owned()))
}

fn keys(unlocked: &Unlocked) -> Keys {
    Keys::derive(&unlocked.keyring, REPO)
}

fn kind<T>(result: Result<T>) -> Option<Kind> {
    result.err().map(|e| e.kind())
}

struct House {
    backend: Memory,
    created: Created,
    identity: Identity,
}

impl House {
    /// A repository with a passphrase "first", a recipient and a recovery code.
    fn new() -> House {
        let backend = Memory::new();
        let identity = Identity::generate();
        let recipient = identity.to_public().to_string();
        let wanted = NewSlots {
            passphrase: Some(("first", "office")),
            cost: cheap(),
            recipients: &[(&recipient, "escrow")],
            recovery_code: true,
        };
        let created = create_slots(&backend, REPO, Keyring::generate(), &wanted).unwrap();
        House { backend, created, identity }
    }

    fn unlock(&self, secret: &Secret) -> Result<Unlocked> {
        unlock(&self.backend, &REPO, secret)
    }

    fn code(&self) -> Secret {
        Secret::RecoveryCode(self.created.recovery_code.as_ref().unwrap().duplicate())
    }

    fn identity(&self) -> Secret {
        Secret::Identity(self.identity.clone())
    }

    fn slots(&self) -> Vec<StoredSlot> {
        list(&self.backend, &REPO).unwrap()
    }

    fn id(&self, name: &str) -> String {
        let slots = self.slots();
        let found = slots.iter().find(|s| s.slot.as_ref().is_ok_and(|slot| slot.head.lock.name() == name));
        found.unwrap().id.clone()
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Vec<u8>)) {
        assert!(self.backend.damage(&Object::Key(id.to_owned()), change));
    }
}

#[test]
fn every_slot_opens_the_same_keyring() {
    let house = House::new();
    let ring = house.created.keyring.to_bytes();
    let typed = house.created.recovery_code.as_ref().unwrap().to_text().to_lowercase();
    for secret in [passphrase("first"), house.code(), passphrase(&typed), house.identity()] {
        assert_eq!(house.unlock(&secret).ok().unwrap().keyring.to_bytes(), ring);
    }
    for secret in [
        passphrase("second"),
        passphrase(""),
        Secret::RecoveryCode(RecoveryCode::random()),
        Secret::Identity(Identity::generate()),
    ] {
        assert_eq!(kind(house.unlock(&secret)), Some(Kind::WrongPassword));
    }
    let names: Vec<_> = house.slots().iter().map(|s| s.slot.as_ref().unwrap().head.lock.name()).collect();
    assert_eq!(names.len(), 4);
}

#[test]
fn slots_are_asked_for_and_labels_are_checked() {
    let none = NewSlots { passphrase: None, cost: cheap(), recipients: &[], recovery_code: false };
    assert_eq!(kind(create_slots(&Memory::new(), REPO, Keyring::generate(), &none)), Some(Kind::Usage));
    let empty = NewSlots { passphrase: Some(("", "")), ..none };
    assert_eq!(kind(create_slots(&Memory::new(), REPO, Keyring::generate(), &empty)), Some(Kind::Usage));
    let labelled = NewSlots { passphrase: Some(("p", "a\nb")), ..empty };
    assert_eq!(kind(create_slots(&Memory::new(), REPO, Keyring::generate(), &labelled)), Some(Kind::Usage));
    let house = House::new();
    let ring = &house.created.keyring;
    assert_eq!(kind(add_recipient(&house.backend, REPO, ring, "", "age1nonsense")), Some(Kind::Usage));
}

#[test]
fn identities_are_read_from_their_files() {
    use age::secrecy::ExposeSecret;
    let identity = Identity::generate();
    let line = identity.to_string();
    let text = format!("# created: today\n# public key: {}\n\n{}\n", identity.to_public(), line.expose_secret());
    let house = House::new();
    add_recipient(&house.backend, REPO, &house.created.keyring, "", &identity.to_public().to_string()).unwrap();
    assert!(house.unlock(&Secret::identity(&text).ok().unwrap()).is_ok());
    for bad in ["", "AGE-SECRET-KEY-1", &text.repeat(2)] {
        assert_eq!(kind(Secret::identity(bad)), Some(Kind::Usage));
    }
}

#[test]
fn a_damaged_slot_is_named_unless_another_opens() {
    let house = House::new();
    let id = house.id("passphrase");
    house.change(&id, |bytes| bytes[60] ^= 1);
    assert!(house.unlock(&house.code()).is_ok());
    let error = house.unlock(&passphrase("first")).err().unwrap();
    assert_eq!(error.kind(), Kind::Damaged);
    assert!(error.to_string().contains(&id), "{error}");

    add_passphrase(&house.backend, REPO, &house.created.keyring, "", "other", cheap()).unwrap();
    let error = house.unlock(&passphrase("first")).err().unwrap();
    assert_eq!(error.kind(), Kind::WrongPassword);
    assert!(error.to_string().contains(&id), "{error}");
    assert!(house.slots().iter().any(|s| s.id == id && s.slot.is_err()));
}

#[test]
fn no_flipped_bit_of_a_slot_goes_unnoticed() {
    let house = House::new();
    for (name, secret) in
        [("passphrase", passphrase("first")), ("recovery-code", house.code()), ("x25519", house.identity())]
    {
        let object = Object::Key(house.id(name));
        let whole = house.backend.read_all(&object, MAX_SMALL_OBJECT).unwrap();
        let slot = Slot::decode(&whole).unwrap();
        assert!(matches!(try_open(&slot, &secret), Some(Ok(Some(_)))));
        let body = &whole[..whole.len() - 32];
        for bit in 0..body.len() * 8 {
            // With a checksum that fits, as an attacker would have it: only the secret can tell.
            let mut bad = body.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            let checksum = crate::crypto::hash::file_checksum(&bad);
            bad.extend(checksum);
            if let Ok(slot) = Slot::decode(&bad) {
                // A lower cost is tried, and fails; a higher one would only take the test's time.
                if matches!(slot.head.lock, Lock::Passphrase { cost, .. } if cost != cheap()) {
                    continue;
                }
                assert!(!matches!(try_open(&slot, &secret), Some(Ok(Some(_)))), "{name} bit {bit}");
            }
        }
    }
}

#[test]
fn a_slot_of_another_repository_is_no_slot() {
    let house = House::new();
    let stranger = House::new();
    let other = RepoId([8; 32]);
    assert_eq!(kind(unlock(&stranger.backend, &other, &passphrase("first"))), Some(Kind::Damaged));
    // Its repository id changed on purpose: the seal binds it.
    let id = house.id("recovery-code");
    house.change(&id, |bytes| {
        bytes.truncate(bytes.len() - 32);
        bytes[11..43].copy_from_slice(other.as_bytes());
        let checksum = crate::crypto::hash::file_checksum(bytes);
        bytes.extend(checksum);
    });
    assert_eq!(kind(unlock(&house.backend, &other, &house.code())), Some(Kind::WrongPassword));
}

#[test]
fn the_last_slot_and_the_owners_key_stay() {
    let house = House::new();
    assert_eq!(kind(remove(&house.backend, &REPO, &house.id("owner"))), Some(Kind::Refused));
    assert_eq!(kind(remove(&house.backend, &REPO, "0000000000000000")), Some(Kind::NotFound));
    remove(&house.backend, &REPO, &house.id("recovery-code")).unwrap();
    remove(&house.backend, &REPO, &house.id("x25519")).unwrap();
    let last = house.id("passphrase");
    assert_eq!(kind(remove(&house.backend, &REPO, &last)), Some(Kind::Refused));
    let added = add_passphrase(&house.backend, REPO, &house.created.keyring, "", "other", cheap()).unwrap();
    // A slot that cannot be read does not count as one that opens.
    house.change(&added, |bytes| bytes[0] ^= 1);
    assert_eq!(kind(remove(&house.backend, &REPO, &last)), Some(Kind::Refused));
    remove(&house.backend, &REPO, &added).unwrap();
    assert!(house.unlock(&passphrase("first")).is_ok());
}

#[test]
fn slots_are_found_by_id_and_label() {
    let house = House::new();
    let slots = house.slots();
    assert_eq!(resolve(&slots, "office").ok().unwrap().id, house.id("passphrase"));
    let id = house.id("x25519");
    assert_eq!(resolve(&slots, &id).ok().unwrap().id, id);
    assert_eq!(kind(resolve(&slots, "nobody")), Some(Kind::NotFound));
    assert_eq!(kind(resolve(&slots, "")), Some(Kind::NotFound));
    add_passphrase(&house.backend, REPO, &house.created.keyring, "office", "other", cheap()).unwrap();
    assert_eq!(kind(resolve(&house.slots(), "office")), Some(Kind::Ambiguous));
}

#[test]
fn passwd_replaces_the_slot_used_or_the_lost_one() {
    let house = House::new();
    let first = house.unlock(&passphrase("first")).ok().unwrap();
    let changed = passwd(&house.backend, REPO, &first, None, "second", cheap()).unwrap();
    assert_eq!(changed.replaced, Some(first.slot));
    assert_eq!(kind(house.unlock(&passphrase("first"))), Some(Kind::WrongPassword));
    assert!(house.unlock(&passphrase("second")).is_ok());
    assert_eq!(resolve(&house.slots(), "office").ok().unwrap().id, changed.added);

    // Lost: the recovery code sets a new one.
    let by_code = house.unlock(&house.code()).ok().unwrap();
    let again = passwd(&house.backend, REPO, &by_code, None, "third", cheap()).unwrap();
    assert_eq!(again.replaced, Some(changed.added));
    assert!(house.unlock(&passphrase("third")).is_ok());

    add_passphrase(&house.backend, REPO, &by_code.keyring, "", "fourth", cheap()).unwrap();
    assert_eq!(kind(passwd(&house.backend, REPO, &by_code, None, "fifth", cheap())), Some(Kind::Ambiguous));
    let named = passwd(&house.backend, REPO, &by_code, Some(&again.added), "fifth", cheap()).unwrap();
    assert_eq!(named.replaced, Some(again.added));
    let code = house.id("recovery-code");
    assert_eq!(kind(passwd(&house.backend, REPO, &by_code, Some(&code), "x", cheap())), Some(Kind::NotFound));
}

#[test]
fn a_new_recovery_code_takes_the_owners_key_along_if_the_old_is_known() {
    let house = House::new();
    let old = house.created.recovery_code.as_ref().unwrap();
    let public = |code: &RecoveryCode| owner_key(&house.backend, &REPO, code).map(|key| key.verifying_key().to_bytes());
    assert_eq!(public(old).unwrap(), house.created.owner_public);

    let new_code = |secret: &Secret| {
        let mut shown = None;
        let unlocked = house.unlock(secret).ok().unwrap();
        let mut show = |code: &RecoveryCode| {
            shown = Some(code.duplicate());
            Ok(())
        };
        let moved = recovery_code(&house.backend, REPO, &unlocked, secret, &mut show).unwrap();
        (shown.unwrap(), moved)
    };
    let (second, moved) = new_code(&house.code());
    assert!(moved);
    assert_eq!(public(&second).unwrap(), house.created.owner_public);
    assert_eq!(kind(public(old)), Some(Kind::WrongPassword));
    assert_eq!(kind(house.unlock(&house.code())), Some(Kind::WrongPassword));

    let (third, moved) = new_code(&passphrase("first"));
    assert!(!moved);
    assert_eq!(public(&second).unwrap(), house.created.owner_public);
    assert_eq!(kind(public(&third)), Some(Kind::WrongPassword));
    assert!(house.unlock(&Secret::RecoveryCode(third)).is_ok());
    assert_eq!(kind(house.unlock(&Secret::RecoveryCode(second))), Some(Kind::WrongPassword));

    // Nobody saw the code: the old one must stay.
    let unlocked = house.unlock(&passphrase("first")).ok().unwrap();
    let before = house.slots().len();
    let mut unseen = |_: &RecoveryCode| Err(Error::new(Kind::Io, "no terminal"));
    assert!(recovery_code(&house.backend, REPO, &unlocked, &passphrase("first"), &mut unseen).is_err());
    assert_eq!(house.slots().len(), before);
}

type Commit<'a> = &'a mut dyn FnMut(&Keyring, u32) -> Result<()>;

fn rotate_with(house: &House, secret: &Secret, commit: Commit<'_>) -> (Result<Rotated>, Option<RecoveryCode>) {
    let unlocked = house.unlock(secret).ok().unwrap();
    let mut shown = None;
    let mut show = |code: &RecoveryCode| {
        shown = Some(code.duplicate());
        Ok(())
    };
    let rotated = rotate(&house.backend, REPO, &unlocked, secret, &mut show, commit);
    (rotated, shown)
}

#[test]
fn rotation_keeps_old_data_and_shuts_out_old_slots() {
    let house = House::new();
    let other = add_passphrase(&house.backend, REPO, &house.created.keyring, "other", "other", cheap()).unwrap();
    let before = house.unlock(&passphrase("first")).ok().unwrap();
    let old_files = house.backend.snapshot();
    let old = keys(&before).seal(Sealed::Manifest, b"", b"old");

    let (rotated, code) = rotate_with(&house, &passphrase("first"), &mut |ring, epoch| {
        assert_eq!((ring.epochs(), epoch), (2, 1));
        Ok(())
    });
    let (rotated, code) = (rotated.ok().unwrap(), code.unwrap());
    assert_eq!(rotated.dropped, [(other, "other".to_owned())]);
    assert!(!rotated.owner_moved);

    let new = Keys::derive(&rotated.keyring, REPO).seal(Sealed::Manifest, b"", b"new");
    for secret in [passphrase("first"), house.identity(), Secret::RecoveryCode(code)] {
        let after = keys(&house.unlock(&secret).ok().unwrap());
        assert_eq!(after.current_epoch(), 1);
        assert_eq!(after.open(Sealed::Manifest, b"", &old).unwrap(), b"old");
        assert_eq!(after.open(Sealed::Manifest, b"", &new).unwrap(), b"new");
    }
    for secret in [passphrase("other"), house.code()] {
        assert_eq!(kind(house.unlock(&secret)), Some(Kind::WrongPassword));
        // Slot files kept from before open what was there before, and no more.
        let thief = keys(&unlock(&old_files, &REPO, &secret).ok().unwrap());
        assert_eq!(thief.open(Sealed::Manifest, b"", &old).unwrap(), b"old");
        assert_eq!(kind(thief.open(Sealed::Manifest, b"", &new)), Some(Kind::Damaged));
    }
    // The owner's key did not move: its old code is still good for that.
    let old_code = house.created.recovery_code.as_ref().unwrap();
    assert!(owner_key(&house.backend, &REPO, old_code).is_ok());

    let (again, code) = rotate_with(&house, &passphrase("first"), &mut |_, _| Ok(()));
    assert_eq!(again.ok().unwrap().epoch, 2);
    let (by_code, _) = rotate_with(&house, &Secret::RecoveryCode(code.unwrap()), &mut |_, _| Ok(()));
    assert_eq!(by_code.ok().unwrap().dropped.len(), 1);
    assert_eq!(house.unlock(&house.identity()).ok().unwrap().keyring.epochs(), 4);
}

#[test]
fn rotation_by_recovery_code_moves_the_owners_key() {
    let house = House::new();
    let (rotated, code) = rotate_with(&house, &house.code(), &mut |_, _| Ok(()));
    assert!(rotated.ok().unwrap().owner_moved);
    let key = owner_key(&house.backend, &REPO, &code.unwrap()).unwrap();
    assert_eq!(key.verifying_key().to_bytes(), house.created.owner_public);
    let old = house.created.recovery_code.as_ref().unwrap();
    assert_eq!(kind(owner_key(&house.backend, &REPO, old)), Some(Kind::WrongPassword));
}

#[test]
fn an_interrupted_rotation_settles_either_way() {
    for recorded in [false, true] {
        let house = House::new();
        let stop: Commit<'_> = &mut |_, _| Err(Error::new(Kind::Io, "pulled the plug"));
        let (rotated, code) = rotate_with(&house, &passphrase("first"), stop);
        assert!(rotated.is_err());
        // Old and new are both there, and the new is preferred.
        let mut both = house.unlock(&passphrase("first")).ok().unwrap();
        assert_eq!(both.keyring.epochs(), 2);
        assert!(house.unlock(&house.code()).is_ok());
        let mut unused = |_: &RecoveryCode| Ok(());
        let again = rotate(&house.backend, REPO, &both, &passphrase("first"), &mut unused, &mut |_, _| Ok(()));
        assert_eq!(kind(again), Some(Kind::Refused));

        let epoch = u32::from(recorded);
        assert_eq!(settle(&house.backend, &REPO, epoch).unwrap().len(), 3);
        assert!(settle(&house.backend, &REPO, epoch).unwrap().is_empty());
        assert_eq!(kind(settle(&house.backend, &REPO, 5)), Some(Kind::Damaged));
        assert_eq!(kind(both.use_epoch(2)), Some(Kind::WrongPassword));
        both.use_epoch(epoch).unwrap();
        let settled = both.keyring;
        for secret in [passphrase("first"), house.identity()] {
            assert_eq!(house.unlock(&secret).ok().unwrap().keyring.to_bytes(), settled.to_bytes());
        }
        assert_eq!(house.unlock(&house.code()).is_ok(), !recorded);
        assert_eq!(house.unlock(&Secret::RecoveryCode(code.unwrap())).is_ok(), recorded);
    }
}

#[test]
fn a_damaged_slot_is_removed_before_a_rotation() {
    let house = House::new();
    let id = house.id("x25519");
    house.change(&id, |bytes| bytes[20] ^= 1);
    let (refused, code) = rotate_with(&house, &passphrase("first"), &mut |_, _| unreachable!());
    assert_eq!((kind(refused), code.is_none()), (Some(Kind::Damaged), true));
    remove(&house.backend, &REPO, &id).unwrap();
    assert!(rotate_with(&house, &passphrase("first"), &mut |_, _| Ok(())).0.is_ok());
}

#[test]
fn a_rotation_that_cannot_show_its_code_changes_nothing() {
    let house = House::new();
    let before: Vec<String> = house.slots().into_iter().map(|s| s.id).collect();
    let unlocked = house.unlock(&passphrase("first")).ok().unwrap();
    let mut unseen = |_: &RecoveryCode| Err(Error::new(Kind::Io, "no terminal"));
    let result = rotate(&house.backend, REPO, &unlocked, &passphrase("first"), &mut unseen, &mut |_, _| unreachable!());
    assert!(result.is_err());
    let mut after: Vec<String> = house.slots().into_iter().map(|s| s.id).collect();
    after.sort();
    let mut before = before;
    before.sort();
    assert_eq!(after, before);
}

/// A recipient whose identity may be known.
const VECTOR_IDENTITY: &str = "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33";

#[test]
fn stored_slots_open_for_ever() {
    let code = || Secret::RecoveryCode(vectors::code());
    let identity = Secret::identity(VECTOR_IDENTITY).ok().unwrap();
    for (name, secret) in [("passphrase", passphrase("passphrase")), ("recovery code", code()), ("recipient", identity)]
    {
        let slot = Slot::decode(&vectors::bytes(&format!("slot, {name}"))).unwrap();
        let Some(Ok(Some(keyring))) = try_open(&slot, &secret) else { panic!("{name} does not open") };
        assert_eq!(keyring.to_bytes(), vectors::keyring().to_bytes());
    }
    let owner = Slot::decode(&vectors::bytes("slot, owner")).unwrap();
    assert_eq!(open_owner(&owner, &vectors::code()).unwrap().expose(), &[4; 32]);
}

/// Runs `operation` on a fresh house for every way in which its k-th backend call can fail, until none does.
fn with_every_fault(operation: impl Fn(&House, &Faulty, Plan) -> Result<()>) {
    for fault in Fault::ALL {
        for persistent in [false, true] {
            for at in 0.. {
                let house = House::new();
                let plan = Plan { at, persistent, fault };
                let faulty = Faulty::new(Arc::new(house.backend.clone()), Some(plan));
                let result = operation(&house, &faulty, plan);
                assert!(at < 1000);
                if faulty.struck() == 0 {
                    result.unwrap();
                    if at >= faulty.count() {
                        break;
                    }
                }
            }
        }
    }
}

#[test]
fn a_rotation_that_fails_anywhere_locks_nobody_out() {
    with_every_fault(|house, faulty, plan| {
        let unlocked = house.unlock(&passphrase("first")).ok().unwrap();
        let (mut code, mut recorded) = (None, false);
        let mut show = |new: &RecoveryCode| {
            code = Some(new.duplicate());
            Ok(())
        };
        let mut commit = |_: &Keyring, _| {
            recorded = true;
            Ok(())
        };
        let result = rotate(faulty, REPO, &unlocked, &passphrase("first"), &mut show, &mut commit);
        assert!(recorded || result.is_err(), "{plan:?}");
        let opens = |secret: &Secret| house.unlock(secret).ok().map(|u| u.keyring.epochs());
        assert!(opens(&passphrase("first")).is_some() && opens(&house.identity()).is_some(), "{plan:?}");
        let epoch = u32::from(recorded);
        settle(&house.backend, &REPO, epoch).unwrap();
        for secret in [passphrase("first"), house.identity()] {
            assert_eq!(opens(&secret), Some(epoch + 1), "{plan:?}");
        }
        let code = if recorded { Secret::RecoveryCode(code.unwrap()) } else { house.code() };
        assert_eq!(opens(&code), Some(epoch + 1), "{plan:?}");
        let owner = house.created.recovery_code.as_ref().unwrap();
        assert!(owner_key(&house.backend, &REPO, owner).is_ok(), "{plan:?}");
        result.map(drop)
    });
}

#[test]
fn a_change_that_fails_anywhere_leaves_the_old_or_the_new() {
    with_every_fault(|house, faulty, plan| {
        let unlocked = house.unlock(&passphrase("first")).ok().unwrap();
        let result = passwd(faulty, REPO, &unlocked, None, "second", cheap());
        let opens = |text: &str| house.unlock(&passphrase(text)).is_ok();
        assert!(opens("second") || result.is_err() && opens("first"), "{plan:?}");
        result.map(drop)
    });
    with_every_fault(|house, faulty, plan| {
        let unlocked = house.unlock(&house.code()).ok().unwrap();
        let mut new = None;
        let mut show = |code: &RecoveryCode| {
            new = Some(code.duplicate());
            Ok(())
        };
        let result = recovery_code(faulty, REPO, &unlocked, &house.code(), &mut show);
        let works = |code: &RecoveryCode| {
            let secret = Secret::RecoveryCode(code.duplicate());
            house.unlock(&secret).is_ok() && owner_key(&house.backend, &REPO, code).is_ok()
        };
        let old = house.created.recovery_code.as_ref().unwrap();
        let new_works = new.as_ref().is_some_and(works);
        assert!(new_works || result.is_err() && works(old), "{plan:?}");
        result.map(drop)
    });
}
