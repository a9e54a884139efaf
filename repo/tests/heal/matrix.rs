//! Every harm to every kind of object.

use std::collections::BTreeMap;
use std::path::PathBuf;

use repo::backend::{Area, Object};
use repo::check::ReadData;
use repo::error::{Kind, Result};
use repo::open::{Access, Repository};

use crate::site::*;

/// Opens as a command would: for writing, or else for reading.
fn open_somehow(site: &Site) -> Result<Repository> {
    match site.try_open(Access::Write) {
        Err(e) if e.kind() == Kind::Damaged => site.try_open(Access::Read),
        other => other,
    }
}

#[test]
fn every_damage_to_every_kind_of_object_is_found_and_never_gives_wrong_bytes() {
    let whole = Site::filled();
    let before = readable(&whole.open());
    drop(whole.open());
    let mut objects = vec![(Object::Config, None), (Object::ConfigCopy, None)];
    for area in Area::ALL {
        let all = whole.objects(area);
        let last = all.len() - 1;
        for (i, object) in all.iter().enumerate() {
            // A deleted last record cannot be told from a log that never had it; see the test of that.
            objects.push((object.clone(), (last > 0).then(|| all[if i == last { 0 } else { i + 1 }].clone())));
        }
    }
    let newest_record = whole.objects(Area::Log).pop().unwrap();
    let mut cases = 0;
    for (object, other) in &objects {
        let flips = [0, 8, 16].map(Harm::Flip);
        for how in [Harm::Truncate, Harm::Empty, Harm::Zero, Harm::Swap, Harm::Delete].into_iter().chain(flips) {
            for index in [false, true] {
                // An index that was there before matters to packs and roll-ups alone.
                let needs_index = matches!(object, Object::Pack(_) | Object::Footers(_));
                if index && !(needs_index && matches!(how, Harm::Delete | Harm::Truncate | Harm::Flip(8))) {
                    continue;
                }
                let site = whole.copy();
                if index {
                    drop(site.open());
                }
                let newest = site.objects(Area::Log).pop().unwrap();
                if *object == newest_record && (how == Harm::Delete || newest != newest_record) {
                    continue;
                }
                if !harm(&site, object, other.as_ref(), how) {
                    continue;
                }
                cases += 1;
                judge(&site, object, how, index, &before);
            }
        }
    }
    assert!(cases > 120, "{cases}");
}

fn judge(site: &Site, object: &Object, how: Harm, index: bool, before: &BTreeMap<(String, PathBuf), Vec<u8>>) {
    let repo = match open_somehow(site) {
        Ok(repo) => repo,
        Err(e) => {
            let expected = match object {
                // The other slot takes another secret.
                Object::Key(_) => matches!(e.kind(), Kind::Damaged | Kind::WrongPassword | Kind::NewerFormat),
                // The log's only checkpoint: without it nothing says what there is.
                Object::Log(1) => e.kind() == Kind::Damaged && e.to_string().contains("--repair-log"),
                _ => false,
            };
            assert!(expected, "{object:?} {how:?} {index}: {e}");
            assert!(e.path().is_some() || e.kind() == Kind::WrongPassword, "{e}");
            return;
        }
    };
    for (key, bytes) in readable(&repo) {
        assert_eq!(before.get(&key), Some(&bytes), "{object:?} {how:?} {index}: wrong bytes of {key:?}");
    }
    let (done, told) = checked(&repo, ReadData::All);
    if matches!(object, Object::Config | Object::ConfigCopy) {
        // Opening for writing has mended it.
        let read = |object| repo.backend.read_all(object, 1 << 16).unwrap();
        assert_eq!((done.problems, read(&Object::Config)), (0, read(&Object::ConfigCopy)), "{how:?}: {told:?}");
        return;
    }
    // A slot that is gone, or has another's place, is one that was removed.
    let unseen = matches!(how, Harm::Delete | Harm::Swap) && matches!(object, Object::Key(_));
    assert_eq!(done.problems == 0, unseen, "{object:?} {how:?} {index}: {told:?}");
    let name = repo.backend.path(object).display().to_string();
    let names = |t: &String| match object {
        Object::Pack(id) => t.contains(&id.to_hex()),
        Object::Snapshot(id) => *t == format!("snapshot {id}"),
        Object::Footers(_) if how == Harm::Delete => t.contains("lost the spare copy"),
        _ => t.contains(&name),
    };
    assert!(unseen || told.iter().any(names), "{object:?} {how:?} {index}: {told:?}");
}
