//! What check finds, what the next backup heals, what prune then removes.

use repo::backend::{Backend, Object};
use repo::check::ReadData;
use repo::monitor::Void;
use repo::open::Access;
use repo::prune::prune;

use crate::site::*;

#[test]
fn a_sound_repository_is_sound_in_every_part() {
    let site = Site::filled();
    let repo = site.open();
    let packs = site.packs().len() as u64;
    for read in [ReadData::None, ReadData::All] {
        let (done, told) = checked(&repo, read);
        assert_eq!((told, done.problems, done.snapshots, done.packs), (vec![], 0, 2, packs));
        assert_eq!(done.packs_read, if read == ReadData::All { packs } else { 0 });
        assert!(done.recorded);
    }
    let parts: u64 = (1..=3).map(|n| checked(&repo, ReadData::Part { n, m: 3 }).0.packs_read).sum();
    assert_eq!(parts, packs);
    let last = repo.log.state().last_data_check.clone().unwrap();
    assert_eq!((last.ok, last.subset.as_str()), (true, "3/3"));
    assert_eq!(checked(&repo, ReadData::Percent(100.0)).0.packs_read, packs);
    let reader = site.try_open(Access::Read).unwrap();
    let before = reader.log.position();
    assert!(!checked(&reader, ReadData::All).0.recorded);
    assert_eq!(site.open().log.position(), before);
}

#[test]
fn damage_is_named_and_the_next_backup_heals_it() {
    let whole = Site::filled();
    let before = readable(&whole.open());
    for pack in whole.packs() {
        let site = whole.copy();
        // In the first frame.
        site.flip(&Object::Pack(pack), |_| 100);
        let repo = site.open();
        assert_eq!(checked(&repo, ReadData::None).1.iter().filter(|t| t.starts_with("file")).count() == 0, {
            let kind = site.disk.read(&Object::Pack(pack), 10, 1).unwrap()[0];
            kind == 0
        });
        let (done, told) = checked(&repo, ReadData::All);
        assert!(told.contains(&format!("pack {pack}")), "{told:?}");
        assert!(done.files > 0 && done.problems > done.files, "{told:?}");
        assert!(repo.log.state().damaged.contains_key(&pack));
        // What it does not name can be read.
        let now = readable(&repo);
        for (key, bytes) in &before {
            let named = told.iter().any(|t| {
                t.starts_with(&format!("file {} ", key.0)) && key.1.starts_with(t.rsplit_once(' ').unwrap().1)
            });
            assert_eq!(!now.contains_key(key), named, "{key:?} {told:?}");
            assert!(now.get(key).is_none_or(|found| found == bytes));
        }
        let (again, _) = checked(&repo, ReadData::None);
        assert_eq!((again.files, again.damaged_packs), (done.files, done.damaged_packs));
        // The backup of the same data.
        let outcome = site.backup(&repo);
        assert!(outcome.stats.data_added > 0);
        let (healed, told) = checked(&repo, ReadData::All);
        // An older snapshot may rest on trees that were written only for it.
        let newest = outcome.snapshot.unwrap().to_hex();
        assert!(told.iter().all(|t| !t.contains(&newest)), "{told:?}");
        let kind = site.disk.read(&Object::Pack(pack), 10, 1).unwrap()[0];
        if kind == 0 {
            assert_eq!((healed.problems, healed.healed), (0, 1), "{told:?}");
            assert_eq!(told, [format!("unneeded {pack}")]);
        }
        let now = readable(&site.open());
        assert!(before.iter().filter(|(_, b)| kind == 0 && !b.is_empty()).all(|(k, b)| now.get(k) == Some(b)));
    }
}

#[test]
fn a_pack_put_back_is_whole_again_and_a_missing_one_is_named_with_and_without_its_index() {
    let whole = Site::filled();
    let pack = whole.packs()[0];
    for fresh in [false, true] {
        let site = whole.copy();
        let bytes = site.disk.read_all(&Object::Pack(pack), 1 << 30).unwrap();
        let repo = site.open();
        drop(repo);
        site.disk.delete(&Object::Pack(pack)).unwrap();
        if fresh {
            site.drop_index();
        }
        let repo = site.open();
        let (done, told) = checked(&repo, ReadData::None);
        assert!(told.contains(&format!("pack {pack}")), "{fresh}: {told:?}");
        assert_eq!(files_of(&told), ["large", "large"]);
        assert_eq!(done.damaged_packs, 1);
        site.disk.put(&Object::Pack(pack), &bytes).unwrap();
        if fresh {
            site.drop_index();
        }
        drop(repo);
        let repo = site.open();
        let (done, told) = checked(&repo, ReadData::None);
        assert_eq!((told, done.problems), (vec![format!("whole {pack}")], 0));
        assert!(repo.log.state().damaged.is_empty());
        // Gone for good, and stored again.
        site.disk.delete(&Object::Pack(pack)).unwrap();
        assert!(checked(&repo, ReadData::None).0.problems > 0);
        site.backup(&repo);
        let (done, told) = checked(&repo, ReadData::None);
        assert_eq!((done.problems, told), (0, vec![format!("unneeded {pack}")]));
        assert!(repo.log.state().damaged.is_empty(), "nothing is left of it");
        assert_eq!(checked(&repo, ReadData::All).1, Vec::<String>::new());
    }
}

#[test]
fn what_is_healed_is_pruned_away() {
    let whole = Site::filled();
    let before = readable(&whole.open());
    let pack = whole.packs()[0];
    let object = Object::Pack(pack);
    for how in [Harm::Flip(3), Harm::Flip(16), Harm::Truncate, Harm::Zero] {
        for fresh in [false, true] {
            let site = whole.copy();
            drop(site.open());
            harm(&site, &object, None, how);
            if fresh {
                site.drop_index();
            }
            let repo = site.open();
            assert!(checked(&repo, ReadData::All).0.damaged_packs == 1, "{how:?} {fresh}");
            site.backup(&repo);
            let pruned = prune(&repo, &repo::prune::Options::default(), &Void::default()).unwrap();
            assert!(pruned.packs_deleted > 0, "{how:?} {fresh}: {pruned:?}");
            assert!(!site.packs().contains(&pack), "{how:?} {fresh}");
            let (done, told) = checked(&repo, ReadData::All);
            assert_eq!((told, done.problems), (vec![], 0), "{how:?} {fresh}");
            assert!(repo.log.state().damaged.is_empty());
            let now = readable(&repo);
            assert!(before.iter().all(|(key, bytes)| now.get(key) == Some(bytes)), "{how:?} {fresh}");
        }
    }
}
