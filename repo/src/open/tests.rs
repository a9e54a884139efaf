use super::*;
use crate::crypto::slot::Argon2Cost;

#[test]
fn who_is_too_late_to_make_a_repository_leaves_another_s_alone() {
    let dir = tempfile::tempdir().unwrap();
    let slots = NewSlots { passphrase: None, cost: Argon2Cost::DEFAULT, recipients: &[], recovery_code: true };
    let wanted = Init::new(slots);
    for finished in [false, true] {
        let root = dir.path().join(format!("{finished}"));
        // Both look, and find nothing.
        let late = Unmade::look(&root);
        let first = Local::create(&root).unwrap();
        let making = Locks::file(&first.lock_path()).commit(Duration::ZERO).unwrap();
        let kind = |made: Result<_>| made.map(|_: (RepoId, Option<RecoveryCode>)| ()).unwrap_err().kind();
        assert_eq!(kind(init_over(&late, &root, &wanted, Identity::new())), Kind::Locked);
        let first: Arc<dyn Backend> = Arc::new(first);
        let (id, _) = init_in(Arc::clone(&first), &wanted).unwrap();
        if !finished {
            // The config comes last.
            for object in [Object::Config, Object::ConfigCopy] {
                first.delete(&object).unwrap();
            }
        }
        let late = kind(init_over(&late, &root, &wanted, Identity::new()));
        assert_eq!(late, if finished { Kind::Exists } else { Kind::Refused });
        drop(making);
        assert!(!keyslots::list(first.as_ref(), &id).unwrap().is_empty(), "{finished}");
    }
}
