//! Sealed tenants: their copies arrive at a pool byte for byte, in order, resumed where they were cut, and nothing in them is
//! overwritten.

#[allow(dead_code)]
#[path = "../../repo/tests/heal/site.rs"]
mod site;
#[path = "../../repo/tests/common/tenants.rs"]
#[allow(dead_code)]
mod parties;
#[path = "support/long.rs"]
#[allow(dead_code)]
mod long;
#[path = "support/sealed.rs"]
#[allow(dead_code)]
mod sealed;

use std::sync::atomic::Ordering;

use repo::backend::local::Local;
use repo::backend::{Area, Backend, Object};
use repo::error::{Error, Kind};
use repo::format::record::Roles;
use repo::open::Repository;
use repo::tenants;
use sealed::{Cloud, add_recipient, begun, counted, filled, pushing};
use site::{Site, noise};
use sync::sealed::Options;
use sync::ssh::server::StopFlag;
use sync::wire;

#[test]
fn a_copy_arrives_byte_for_byte_and_then_takes_what_is_new() {
    let (cloud, (site, repo)) = (Cloud::new(), filled());
    let tenant = cloud.join("acme", &repo);
    let first = cloud.pushed(tenant, &repo);
    assert_eq!((first.before, first.snapshots, first.packs as usize), (None, 2, site.packs().len()));
    cloud.same(tenant, &site, &repo);
    let state = cloud.pool.repository().log.state();
    assert_eq!(state.owners.get(&tenant), Some(&repo.config.owner_public));
    assert_eq!(state.tenants[&tenant].watermark, Some(repo.log.position()));
    let second = cloud.pushed(tenant, &repo);
    assert_eq!((second.packs, second.bytes, second.before), (0, 0, Some(first.now)));
    site.write("dir/more", &noise(9, 70_000));
    site.backup(&repo);
    let third = cloud.pushed(tenant, &repo);
    assert_eq!((third.packs, third.snapshots), (2, 1));
    assert!((70_000..140_000).contains(&third.bytes), "{third:?}");
    cloud.same(tenant, &site, &repo);
    let audit = cloud.pushed_with(tenant, &repo, Options { remote: "", audit: true, delete: false });
    assert_eq!((audit.packs, audit.bytes), (0, 0));
}

#[test]
fn the_wire_carries_what_is_missing_and_waits_little() {
    let (cloud, (site, repo)) = (Cloud::new(), filled());
    let tenant = cloud.join("acme", &repo);
    let measured = |repo: &Repository| {
        let (done, _) = cloud.with(tenant, Roles::PUSH, None, |near| {
            let (near, traffic) = counted(near);
            let report = pushing(repo, near, Options::default()).unwrap();
            (report, traffic.sent.load(Ordering::SeqCst), traffic.turns.load(Ordering::SeqCst))
        });
        done
    };
    let size = |site: &Site| -> u64 {
        site.packs().iter().map(|id| site.disk.size(&Object::Pack(*id)).unwrap().unwrap()).sum()
    };
    let whole = size(&site);
    let (_, sent, _) = measured(&repo);
    println!("first push: {sent} bytes for packs of {whole}");
    assert!(sent < whole + whole / 50 + 100_000, "{sent} bytes for {whole}");
    let (report, sent, turns) = measured(&repo);
    println!("empty push: {sent} bytes, {turns} round trips");
    assert_eq!(report.bytes, 0);
    assert!(sent < 2000 && turns <= 4, "{sent} bytes, {turns} round trips");
    site.write("dir/more", &noise(9, 3 << 20));
    site.backup(&repo);
    let more = size(&site) - whole;
    let (_, sent, turns) = measured(&repo);
    println!("next push: {sent} bytes for packs of {more}, {turns} round trips");
    assert!(sent < more + more / 50 + 100_000, "{sent} bytes for {more}");
    assert!(turns <= 12, "{turns} round trips");
    cloud.same(tenant, &site, &repo);
}

#[test]
fn a_link_that_breaks_again_and_again_sends_little_twice() {
    let (cloud, (site, repo)) = (Cloud::new(), filled());
    let tenant = cloud.join("acme", &repo);
    let (mut cut, mut sum, mut tries) = (1000, 0, 0);
    loop {
        let (done, served) = cloud.push(tenant, &repo, Some(cut), Options::default());
        (tries, sum) = (tries + 1, sum + cut);
        match done {
            Ok(_) => break,
            Err(e) => assert_eq!(e.kind(), Kind::Unreachable, "{e}"),
        }
        let e: Error = served.unwrap_err();
        assert!(matches!(e.kind(), Kind::Unreachable | Kind::Interrupted), "{e}");
        // Below the step at which what has come is told: only what was synced at the cut is kept.
        cut = 1_000_000 + cut % 700_001;
        assert!(tries < 60, "{sum} bytes so far");
    }
    assert!(tries > 4 && sum < 60_000_000, "{tries} tries, {sum} bytes");
    cloud.same(tenant, &site, &repo);
}

#[test]
fn a_long_link_is_filled_by_several_connections() {
    let (cloud, (site, repo)) = (Cloud::new(), filled());
    site.write("large", &noise(70, 30 << 20));
    site.backup(&repo);
    let tenant = cloud.join("acme", &repo);
    let (done, connections) = cloud.push_far(tenant, &repo);
    assert!(done.unwrap().damaged.is_empty());
    assert_eq!(connections, 4);
    cloud.same(tenant, &site, &repo);
}

#[test]
fn every_cut_is_survived() {
    let (cloud, site) = (Cloud::new(), Site::new());
    site.write("a", &noise(1, 3000));
    site.write("b/c", &noise(2, 40_000));
    let repo = site.open();
    add_recipient(&repo);
    site.backup(&repo);
    let tenant = cloud.join("acme", &repo);
    let mut cut = 0;
    while cloud.push(tenant, &repo, Some(cut), Options::default()).0.is_err() {
        // A copy that has a config is whole up to some record of its log.
        if cloud.copy(tenant).join("config").exists() {
            cloud.opened(tenant).unwrap();
        }
        cut += if cut < 400 { 13 } else { 307 };
    }
    assert!(cut > 5000, "{cut}");
    cloud.same(tenant, &site, &repo);
    // And of a push that adds to a copy.
    for round in 0..40 {
        site.write("b/c", &noise(100 + round, 4000));
        site.backup(&repo);
        let _ = cloud.push(tenant, &repo, Some(500 + round * 331), Options::default());
        cloud.opened(tenant).unwrap();
    }
    cloud.pushed(tenant, &repo);
    cloud.same(tenant, &site, &repo);
}

/// Has a client say one thing in a push of its own, and returns what the pool says to it.
fn told(cloud: &Cloud, tenant: u32, repo: &Repository, object: wire::Object, bytes: &[u8]) -> wire::Message {
    let (said, _) = cloud.with(tenant, Roles::PUSH, None, |near| {
        let mut connection = begun(near, repo, wire::Purpose::Push);
        connection.send(&wire::Message::Put { object, size: bytes.len() as u64, from: 0 }).unwrap();
        connection.sender().send_data(bytes).unwrap();
        connection.flush().unwrap();
        connection.receive().unwrap().unwrap()
    });
    said
}

#[test]
fn nothing_is_overwritten_and_what_can_be_told_is_looked_at() {
    let (cloud, (site, repo)) = (Cloud::new(), filled());
    let tenant = cloud.join("acme", &repo);
    cloud.pushed(tenant, &repo);
    let other = Site::filled();
    let stranger = other.open();
    add_recipient(&stranger);
    let slots = |site: &Site| -> Vec<(wire::Object, Vec<u8>)> {
        let read = |object: &Object| site.disk.read_all(object, 1 << 20).unwrap();
        site.objects(Area::Keys).iter().map(|o| (sync::sealed::remote::named(o).unwrap(), read(o))).collect()
    };
    let password = slots(&site).into_iter().find(|(_, bytes)| sync::sealed::is_password(bytes).unwrap()).unwrap();
    assert!(cloud.opened(tenant).is_ok());
    assert!(
        Local::open(&cloud.copy(tenant), true)
            .unwrap()
            .size(&Object::Key(match password.0 {
                wire::Object::Key(id) => repo::id::hex(&id),
                _ => unreachable!(),
            }))
            .unwrap()
            .is_none()
    );
    let foreign = slots(&other).into_iter().find(|(_, bytes)| !sync::sealed::is_password(bytes).unwrap()).unwrap();
    let next = repo.log.position().seq + 1;
    let snapshot = match site.objects(Area::Snapshots)[0] {
        Object::Snapshot(id) => wire::Object::Snapshot(id),
        _ => unreachable!(),
    };
    let pack = wire::Object::Pack(site.packs()[0]);
    let config = other.disk.read_all(&Object::Config, 1 << 20).unwrap();
    for (object, bytes, why) in [
        (password.0, password.1, "could be guessed"),
        (foreign.0, foreign.1, "another repository's"),
        (pack, noise(3, 3000), "not its hash"),
        (wire::Object::Log(next + 1), noise(3, 300), "the record before"),
        (wire::Object::Log(next - 1), noise(3, 300), "nothing is overwritten"),
        (wire::Object::Log(0), noise(3, 300), "begins with record 1"),
        (snapshot, noise(3, 300), "nothing is overwritten"),
        (wire::Object::Footers(1), Vec::new(), "cut short"),
        (wire::Object::Config, config, "another repository's"),
        (
            wire::Object::State(
                wire::StateName::new("tenants/5/../x").unwrap_or_else(|_| wire::StateName::new("x").unwrap()),
            ),
            vec![1],
            "no place",
        ),
    ] {
        match told(&cloud, tenant, &repo, object.clone(), &bytes) {
            wire::Message::Refused { why: said, .. } => assert!(said.contains(why), "{object:?}: {said}"),
            other => panic!("{object:?}: {other:?}"),
        }
    }
    cloud.same(tenant, &site, &repo);
}

#[test]
fn a_quota_counts_what_is_stored() {
    let (cloud, (site, repo)) = (Cloud::new(), filled());
    let tenant = cloud.join("acme", &repo);
    let quota = |n: u64| {
        let mut set = |t: &mut repo::format::record::TenantState| {
            t.quota = Some(n);
            Ok(())
        };
        tenants::change(cloud.pool.repository(), tenant, &mut set).unwrap();
    };
    quota(5 << 20);
    let e = cloud.push(tenant, &repo, None, Options::default()).0.unwrap_err();
    assert_eq!(e.kind(), Kind::NoSpace, "{e}");
    assert!(!cloud.copy(tenant).join("config").exists());
    quota(20 << 20);
    cloud.pushed(tenant, &repo);
    cloud.same(tenant, &site, &repo);
    // What is begun counts, or any number of packs could be: each of these is cut off before its end.
    let (begun, served) = cloud.with(tenant, Roles::PUSH, None, |near| {
        let mut connection = begun(near, &repo, wire::Purpose::Push);
        for n in 0..20u8 {
            let object = wire::Object::Pack(repo::id::PackId([n; 32]));
            connection.send(&wire::Message::Put { object, size: 8 << 20, from: 0 }).unwrap();
            if connection.sender().send_data(&vec![n; 7 << 20]).is_err()
                || connection.send(&wire::Message::Cut).is_err()
            {
                return n;
            }
            connection.flush().unwrap();
            if !matches!(connection.receive(), Ok(Some(wire::Message::Durable { .. }))) {
                return n;
            }
        }
        20
    });
    assert!((8..13).contains(&begun), "{begun}");
    assert_eq!(served.unwrap_err().kind(), Kind::NoSpace);
    // And is given up when it would keep out what fits.
    quota(7 << 20);
    site.write("dir/more", &noise(9, 7000));
    site.backup(&repo);
    cloud.pushed(tenant, &repo);
    cloud.same(tenant, &site, &repo);
}

#[test]
fn another_history_and_another_push_are_refused() {
    let (cloud, (site, repo)) = (Cloud::new(), filled());
    let tenant = cloud.join("acme", &repo);
    let old = site.copy();
    cloud.pushed(tenant, &repo);
    site.write("dir/more", &noise(9, 7000));
    site.backup(&repo);
    cloud.pushed(tenant, &repo);
    let rolled_back = old.open();
    let e = cloud.push(tenant, &rolled_back, None, Options::default()).0.unwrap_err();
    assert!(e.kind() == Kind::RolledBack && e.to_string().contains("rolled back"), "{e}");
    for i in 0..3 {
        old.write("dir/other", &noise(20 + i, 7000));
        old.backup(&rolled_back);
    }
    let e = cloud.push(tenant, &rolled_back, None, Options::default()).0.unwrap_err();
    assert!(e.kind() == Kind::RolledBack && e.to_string().contains("another history"), "{e}");
    cloud.same(tenant, &site, &repo);
    // One at a time.
    let (second, _) = cloud.with(tenant, Roles::PUSH, None, |near| {
        let _open = begun(near, &repo, wire::Purpose::Push);
        cloud.push(tenant, &repo, None, Options::default()).0
    });
    let e = second.unwrap_err();
    assert!(e.kind() == Kind::Unreachable && e.to_string().contains("another push"), "{e}");
    let stranger = Site::filled();
    let stranger = stranger.open();
    assert_eq!(cloud.push(tenant, &stranger, None, Options::default()).0.unwrap_err().kind(), Kind::Refused);
}

#[test]
fn a_stopped_server_is_come_back_to() {
    let (cloud, (site, repo)) = (Cloud::new(), filled());
    let tenant = cloud.join("acme", &repo);
    cloud.stop.set();
    let (done, served) = cloud.push(tenant, &repo, None, Options::default());
    let e = done.unwrap_err();
    assert!(e.kind() == Kind::Unreachable && e.to_string().contains("being stopped"), "{e}");
    assert_eq!(served.unwrap_err().kind(), Kind::Interrupted);
    let cloud = Cloud { stop: StopFlag::default(), ..cloud };
    cloud.pushed(tenant, &repo);
    cloud.same(tenant, &site, &repo);
}

#[test]
fn a_pack_damaged_at_the_pool_is_set_aside_and_comes_again() {
    let (cloud, (site, repo)) = (Cloud::new(), filled());
    let tenant = cloud.join("acme", &repo);
    cloud.pushed(tenant, &repo);
    let [broken, lost] = [site.packs()[0], site.packs()[1]];
    let path = |id| cloud.copy(tenant).join(Object::Pack(id).path());
    let mut bytes = std::fs::read(path(broken)).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(path(broken), bytes).unwrap();
    std::fs::remove_file(path(lost)).unwrap();
    // An ordinary push does not look.
    assert_eq!(cloud.pushed(tenant, &repo).packs, 0);
    let found =
        sync::serve::objects::verify(&cloud.copy(tenant), repo.config.repo_id, &mut |_| true, &|| false).unwrap();
    assert_eq!(found.damaged.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [broken]);
    // What the pool knows it wants is sent again by the next push, what is gone by an audit.
    assert_eq!(cloud.pushed(tenant, &repo).packs, 1);
    assert_eq!(cloud.pushed_with(tenant, &repo, Options { remote: "", audit: true, delete: false }).packs, 1);
    cloud.same(tenant, &site, &repo);
    assert_eq!(cloud.pushed(tenant, &repo).packs, 0);
    // Told to put one again that is damaged and was not found: it is compared with its name, and replaced.
    let mut bytes = std::fs::read(path(broken)).unwrap();
    bytes[2000] ^= 1;
    std::fs::write(path(broken), &bytes).unwrap();
    let sound = site.disk.read_all(&Object::Pack(broken), 1 << 30).unwrap();
    let answer = told(&cloud, tenant, &repo, wire::Object::Pack(broken), &sound);
    assert!(matches!(answer, wire::Message::Durable { .. }), "{answer:?}");
    cloud.same(tenant, &site, &repo);
}
