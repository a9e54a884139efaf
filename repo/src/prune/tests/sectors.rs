//! Bad sectors: what cannot be read costs what is on it, and keeps nobody from anything else.

use super::between::{begin, record_pack, store_pack, store_rollup};
use super::hooked::Hooked;
use super::*;

#[test]
fn a_snapshot_that_cannot_be_read_does_not_keep_the_next_from_being_made() {
    let bench = Bench::new();
    let disk = Hooked::on(&bench);
    let repo = bench.open_on(disk.clone(), "index").unwrap();
    bench.write("a", &noise(1, 5000));
    let first = bench.backup(&repo);
    disk.bad_sectors.lock().push(Object::Snapshot(first));
    let second = bench.backup(&repo);
    check_readable(&repo, &[(second, bench.files())]);
}

#[test]
fn a_roll_up_that_cannot_be_read_is_made_up_for_by_the_packs() {
    for pack_too in [false, true] {
        let bench = Bench::new();
        let disk = Hooked::on(&bench);
        let repo = bench.open_on(disk.clone(), "index").unwrap();
        let other = bench.elsewhere("other");
        let session = begin(&other);
        let (bad, good) = (store_pack(&other, &session, &[9]), store_pack(&other, &session, &[10]));
        for pack in [&good, &bad] {
            let rollup = store_rollup(&other, &session, pack);
            record_pack(&other, &session, rollup, pack);
            if pack.id == bad.id {
                disk.bad_sectors.lock().push(Object::Footers(rollup));
            }
        }
        session.end(Ended::Done).unwrap();
        if pack_too {
            disk.bad_sectors.lock().push(Object::Pack(bad.id));
        } else {
            repo.refresh(&quiet()).unwrap();
        }
        drop(repo);
        let repo = bench.open_on(disk.clone(), "index").unwrap();
        assert!(repo.index.pack_by_id(&good.id).unwrap().unwrap().usable());
        assert_eq!(repo.index.pack_by_id(&bad.id).unwrap().unwrap().usable(), !pack_too);
    }
}

#[test]
fn a_pack_that_cannot_be_read_does_not_keep_the_rest_from_being_freed_beside_a_backup() {
    let bench = Bench::new();
    let repo = bench.open();
    let made = three(&bench, &repo);
    // Nothing needs it, and neither of the copies of its table of contents is of use.
    let session = begin(&repo);
    let pack = store_pack(&repo, &session, &[9]);
    let rollup = store_rollup(&repo, &session, &pack);
    record_pack(&repo, &session, rollup, &pack);
    session.end(Ended::Done).unwrap();
    assert!(bench.disk.damage(&Object::Footers(rollup), |bytes| bytes[40] ^= 1));
    assert!(bench.disk.damage(&Object::Pack(pack.id), |bytes| *bytes.last_mut().unwrap() ^= 1));
    let repo = bench.elsewhere("new");
    forget_named(&repo, &[made[0].0], &Default::default(), &quiet()).unwrap();
    let working = begin(&repo);
    prune(&repo, &now(), &quiet()).unwrap();
    working.end(Ended::Done).unwrap();
    assert!(prune(&repo, &now(), &quiet()).unwrap().freed() > 700_000);
    check_readable(&repo, &made[1..]);
}
