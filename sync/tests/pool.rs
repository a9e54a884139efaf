//! Pushes to a pool, over a stream in memory: only what is missing, resumed where they were cut, and never another's.

#[path = "support/cloud.rs"]
mod cloud;
#[path = "../../repo/tests/common/tenants.rs"]
mod parties;
#[allow(dead_code)]
#[path = "../../repo/tests/heal/site.rs"]
mod site;

use cloud::{Cloud, anew};
use parties::join;
use repo::backend::{Backend, Object};
use repo::check::ReadData;
use repo::crypto::hash::ChunkKind;
use repo::crypto::keys::{FrameKind, Keyring};
use repo::error::{Error, Kind};
use repo::forget::{self, forget_named};
use repo::format::record::{Record, Roles};
use repo::id::{ContentHash, SnapshotId};
use repo::keyslots::{self, Secret};
use repo::monitor::Void;
use repo::open::Repository;
use repo::prune::{self, prune};
use repo::receive::Sender;
use repo::tree::closure;
use site::{Site, checked, noise, readable};
use std::time::Duration;
use sync::fetch;
use sync::serve::{Grant, serve};
use sync::ssh::server::StopFlag;
use sync::stream::pair;
use sync::wire::{Message, PieceName};

#[test]
fn a_lost_site_comes_back_and_the_next_push_sends_nothing() {
    let (cloud, site) = (Cloud::new(), Site::filled());
    let repo = site.open();
    let tenant = join(cloud.repo(), "acme", &repo);
    cloud.pushed(&tenant, &repo);
    let other = Site::filled();
    let stranger = other.open();
    let their = join(cloud.repo(), "globex", &stranger);
    cloud.pushed(&their, &stranger);
    let (_dir, back) = anew(&repo);
    let report = cloud.pull(&tenant, &back, None).unwrap();
    assert_eq!((report.snapshots, &report.failed[..]), (2, &[][..]));
    assert!(readable(&back) == readable(&repo), "another content");
    let (outcome, told) = checked(&back, ReadData::All);
    assert_eq!((outcome.problems, &told[..]), (0, &[] as &[String]));
    let again = cloud.pull(&tenant, &back, None).unwrap();
    assert_eq!((again.snapshots, again.chunks), (0, 0));
    let pushed = cloud.pushed(&tenant, &back);
    assert_eq!((pushed.bytes, pushed.snapshots), (0, 0), "{pushed:?}");
    // And goes on from there.
    site.write("dir/more", &noise(9, 70_000));
    site.backup(&back);
    let pushed = cloud.pushed(&tenant, &back);
    assert!(pushed.snapshots == 1 && pushed.bytes < 100_000, "{pushed:?}");
}

#[test]
fn what_a_sidecar_is_stored_in_stays_with_the_trees() {
    let (cloud, site) = (Cloud::new(), Site::new());
    for i in 0..4000 {
        site.write(&format!("d{}/file-{i}", i % 7), b"");
    }
    let repo = site.open();
    site.backup(&repo);
    let tenant = join(cloud.repo(), "acme", &repo);
    cloud.pushed(&tenant, &repo);
    let (_dir, back) = anew(&repo);
    cloud.pull(&tenant, &back, None).unwrap();
    for repo in [&repo, cloud.repo().as_ref(), &back] {
        let (packs, mut count) = (repo.packs(), 0);
        for id in repo.log.state().snapshots.keys() {
            let manifest = repo::snapshots::manifest(repo, id).unwrap();
            closure::sidecar(packs.as_ref(), &manifest, &mut |h, _| {
                let (_, info) = packs.locate(h)?.unwrap();
                assert_eq!(packs.pack(&info)?.footer.kind, FrameKind::Tree);
                count += 1;
                Ok(true)
            })
            .unwrap();
        }
        assert!(count > 0);
    }
}

#[test]
fn a_pull_whose_link_breaks_goes_on_where_it_was() {
    let (cloud, site) = (Cloud::new(), Site::filled());
    let repo = site.open();
    let tenant = join(cloud.repo(), "acme", &repo);
    cloud.pushed(&tenant, &repo);
    let (_dir, back) = anew(&repo);
    let (mut cut, mut tries) = (500, 0);
    while let Err(e) = cloud.pull(&tenant, &back, Some(cut)) {
        assert_eq!(e.kind(), Kind::Unreachable, "{e}");
        cut = cut * 3 / 2;
        tries += 1;
    }
    assert!(tries > 5, "{tries}");
    assert!(readable(&back) == readable(&repo));
    let (outcome, told) = checked(&back, ReadData::All);
    assert_eq!((outcome.problems, &told[..]), (0, &[] as &[String]));
}

#[test]
fn a_tenant_fetches_only_what_it_delivered() {
    let cloud = Cloud::new();
    let (a, b) = (Site::filled(), Site::new());
    let (ra, rb) = (a.open(), b.open());
    let (ta, tb) = (join(cloud.repo(), "acme", &ra), join(cloud.repo(), "globex", &rb));
    cloud.pushed(&ta, &ra);
    b.write("x", b"something of its own, which is long enough to be a chunk".repeat(20).as_slice());
    b.backup(&rb);
    cloud.pushed(&tb, &rb);
    let (client, server) = pair(1 << 20, None);
    let stolen: Vec<(ContentHash, ChunkKind)> = {
        let mut all = Vec::new();
        for id in ra.log.state().snapshots.keys() {
            let manifest = repo::snapshots::manifest(&ra, id).unwrap();
            repo::tree::closure::walk(ra.store().as_ref(), &manifest, &Void::default(), &mut |h, kind| {
                all.push((*h, kind));
                Ok(true)
            })
            .unwrap();
        }
        all
    };
    let theirs = *ra.log.state().snapshots.keys().next().unwrap();
    std::thread::scope(|scope| {
        let grant = Grant::Tenant { tenant: tb.number, roles: Roles::PULL };
        let (pool, stop) = (&cloud.pool, &cloud.stop);
        scope.spawn(move || serve(pool, &grant, server, stop));
        let mut connection = fetch::begin(client, rb.config.repo_id, "test").unwrap();
        assert_eq!(fetch::snapshots(&mut connection).unwrap().len(), 1);
        let e = fetch::manifest(&mut connection, &rb.keys, &theirs).err().unwrap();
        assert_eq!(e.kind(), Kind::NotFound);
        let pieces: Vec<PieceName> = stolen.iter().map(|(h, kind)| PieceName { kind: *kind, h: *h }).collect();
        connection.send(&Message::Get { pieces: pieces.clone() }).unwrap();
        connection.flush().unwrap();
        match connection.receive().unwrap() {
            Some(Message::Absent { pieces: absent }) => assert_eq!(absent.len(), pieces.len()),
            other => panic!("{other:?}"),
        }
    });
}

fn forget_all_but_newest(repo: &Repository) {
    let state = repo.log.state();
    let newest = state.snapshots.iter().max_by_key(|(_, s)| s.seq).map(|(id, _)| *id).unwrap();
    let old: Vec<_> = state.snapshots.keys().copied().filter(|id| *id != newest).collect();
    forget_and_prune(repo, &old);
}

fn forget_and_prune(repo: &Repository, ids: &[SnapshotId]) {
    forget_named(repo, ids, &forget::Options::default(), &Void::default()).unwrap();
    let options = prune::Options { release_held: true, max_unused: prune::MaxUnused::Bytes(0), ..Default::default() };
    prune(repo, &options, &Void::default()).unwrap();
}

#[test]
fn only_what_is_new_travels() {
    let (cloud, site) = (Cloud::new(), Site::filled());
    let repo = site.open();
    let tenant = join(cloud.repo(), "acme", &repo);
    let first = cloud.pushed(&tenant, &repo);
    assert_eq!((first.snapshots, first.packs as usize, first.mixed), (2, site.packs().len(), 0));
    cloud.has(&[(&tenant, &repo)]);
    let second = cloud.pushed(&tenant, &repo);
    assert_eq!((second.bytes, second.snapshots, second.watermark), (0, 0, first.watermark));
    site.write("dir/more", &noise(9, 70_000));
    site.backup(&repo);
    let third = cloud.pushed(&tenant, &repo);
    assert_eq!(third.snapshots, 1);
    assert!((70_000..90_000).contains(&third.bytes), "{third:?}");
    cloud.has(&[(&tenant, &repo)]);
    // Everything is compared, nothing is sent.
    let audit = cloud.push(&tenant, &repo, None, true).0.unwrap();
    assert_eq!((audit.bytes, audit.snapshots), (0, 0), "{audit:?}");
}

#[test]
fn what_a_prune_repacked_is_not_sent_again() {
    let (cloud, site) = (Cloud::new(), Site::filled());
    let repo = site.open();
    let tenant = join(cloud.repo(), "acme", &repo);
    cloud.pushed(&tenant, &repo);
    let packs = site.packs();
    std::fs::remove_file(site.src().join("dir/a")).unwrap();
    std::fs::remove_file(site.src().join("dir/deep/c")).unwrap();
    site.backup(&repo);
    forget_all_but_newest(&repo);
    assert!(site.packs().iter().any(|id| !packs.contains(id)), "something was repacked");
    let report = cloud.pushed(&tenant, &repo);
    assert!(report.bytes < 20_000, "new trees alone: {report:?}");
}

#[test]
fn a_pool_that_pruned_gets_again_what_a_later_snapshot_needs() {
    let (cloud, site) = (Cloud::new(), Site::filled());
    let repo = site.open();
    let tenant = join(cloud.repo(), "acme", &repo);
    cloud.pushed(&tenant, &repo);
    let all: Vec<_> = cloud.repo().log.state().snapshots.keys().copied().collect();
    forget_and_prune(cloud.repo(), &all);
    assert!(cloud.disk.packs().is_empty(), "nothing is left at the pool");
    site.write("dir/more", &noise(9, 70_000));
    site.backup(&repo);
    let report = cloud.pushed(&tenant, &repo);
    assert_eq!(report.snapshots, 1, "what the pool forgot it does not want back");
    let newest = repo.log.state().snapshots.iter().max_by_key(|(_, s)| s.seq).map(|(id, _)| *id).unwrap();
    let there = readable(cloud.repo());
    let here: Vec<_> = readable(&repo).into_iter().filter(|((id, _), _)| *id == newest.to_hex()).collect();
    assert_eq!(there.len(), here.len());
    assert!(there.into_values().eq(here.into_iter().map(|(_, bytes)| bytes)));
}

#[test]
fn comparing_everything_brings_back_nothing_that_the_pool_forgot() {
    let (cloud, site) = (Cloud::new(), Site::filled());
    let repo = site.open();
    let tenant = join(cloud.repo(), "acme", &repo);
    site.write("dir/gone", &noise(8, 900_000));
    site.backup(&repo);
    std::fs::remove_file(site.src().join("dir/gone")).unwrap();
    site.backup(&repo);
    cloud.pushed(&tenant, &repo);
    let known = cloud.repo().log.state().snapshots.len();
    forget_all_but_newest(cloud.repo());
    let audit = cloud.push(&tenant, &repo, None, true).0.unwrap();
    assert_eq!((audit.bytes, audit.snapshots, &audit.failed[..]), (0, 0, &[][..]), "of {known}");
    assert_eq!(cloud.repo().log.state().snapshots.len(), 1);
    // What is lost there nevertheless comes again, and that alone.
    let bad =
        cloud.disk.packs().into_iter().max_by_key(|id| cloud.disk.disk.size(&Object::Pack(*id)).unwrap()).unwrap();
    cloud.disk.disk.delete(&Object::Pack(bad)).unwrap();
    assert!(checked(cloud.repo(), ReadData::None).0.problems > 0);
    let audit = cloud.push(&tenant, &repo, None, true).0.unwrap();
    assert!(audit.bytes > 0 && audit.failed.is_empty(), "{audit:?}");
    assert_eq!(cloud.repo().log.state().snapshots.len(), 1);
    assert_eq!(checked(cloud.repo(), ReadData::All).0.problems, 0);
}

#[test]
fn a_prune_is_let_through_by_pushes_that_overlap() {
    let cloud = Cloud::new();
    let (long, short) = (Site::filled(), Site::filled());
    let (rl, rs) = (long.open(), short.open());
    let (tl, ts) = (join(cloud.repo(), "long", &rl), join(cloud.repo(), "short", &rs));
    cloud.pushed(&ts, &rs);
    let grant = Grant::Tenant { tenant: tl.number, roles: Roles::PUSH };
    let (cloud, grant) = (&cloud, &grant);
    std::thread::scope(|scope| {
        // One that lasts: it has begun, and says nothing more.
        let (client, server) = pair(1 << 20, None);
        let served = scope.spawn(move || serve(&cloud.pool, grant, server, &cloud.stop));
        let mut open =
            sync::wire::Connection::open(client, sync::wire::Side::Client, &sync::wire::Preface::ours()).unwrap();
        let (repository, position) = (rl.config.repo_id, rl.log.state().position);
        let program = "test".to_owned();
        open.send(&Message::Begin { purpose: sync::wire::Purpose::Push, repository, position, program }).unwrap();
        open.flush().unwrap();
        assert!(matches!(open.receive().unwrap(), Some(Message::Ready { .. })));
        // Another has work to do meanwhile, and something to be pruned.
        short.write("dir/more", &noise(9, 700_000));
        short.backup(&rs);
        cloud.pushed(&ts, &rs);
        assert!(!cloud.repo().log.state().sessions.is_empty(), "who pushes still holds the session");
        forget_all_but_newest(cloud.repo());
        for round in 0..3 {
            short.write("dir/again", &noise(20 + round, 70_000));
            short.backup(&rs);
            cloud.pushed(&ts, &rs);
            let options = prune::Options { release_held: true, ..Default::default() };
            prune(cloud.repo(), &options, &Void::default()).unwrap();
        }
        let state = cloud.repo().log.state();
        assert!(state.condemned.is_empty(), "{} packs still wait", state.condemned.len());
        open.send(&Message::Bye).unwrap();
        open.flush().unwrap();
        served.join().unwrap().unwrap();
    });
    assert_eq!(checked(cloud.repo(), ReadData::All).0.problems, 0);
}

#[test]
fn a_link_that_breaks_again_and_again_loses_nothing_and_sends_little_twice() {
    let (cloud, site) = (Cloud::new(), Site::filled());
    let repo = site.open();
    let tenant = join(cloud.repo(), "acme", &repo);
    let whole: u64 = 7 << 20;
    let (mut cut, mut sum, mut tries) = (1000, 0, 0);
    let report = loop {
        let (done, served) = cloud.push(&tenant, &repo, Some(cut), false);
        tries += 1;
        sum += cut;
        match done {
            Ok(report) => break report,
            Err(e) => assert_eq!(e.kind(), Kind::Unreachable, "{e}"),
        }
        let e: Error = served.unwrap_err();
        assert!(matches!(e.kind(), Kind::Unreachable | Kind::Interrupted), "{e}");
        // Never so large that all goes through at once, and at changing places.
        cut = 1_000_000 + cut % 700_001;
    };
    assert!(tries > 4 && report.failed.is_empty(), "{tries}");
    assert!(sum < 2 * whole, "{sum} bytes for {whole}");
    cloud.has(&[(&tenant, &repo)]);
}

#[test]
fn every_early_cut_is_survived() {
    let (cloud, site) = (Cloud::new(), Site::new());
    site.write("a", &noise(1, 3000));
    site.write("b/c", &noise(2, 40_000));
    let repo = site.open();
    site.backup(&repo);
    let tenant = join(cloud.repo(), "acme", &repo);
    let mut cut = 0;
    while cloud.push(&tenant, &repo, Some(cut), true).0.is_err() {
        // The beginning byte by byte, the rest in steps that meet every message.
        cut += if cut < 400 { 7 } else { 611 };
    }
    assert!(cut > 1000);
    cloud.has(&[(&tenant, &repo)]);
}

/// Gives the site's repository a new master key, as `key rotate` does.
fn rotate(site: &Site) {
    let repo = site.open();
    let commit = repo.locks.commit(Duration::from_secs(5)).unwrap();
    let record = |epoch| Record::KeyEpoch { epoch, at: repo.clock.now() };
    let secret = Secret::Passphrase(site::PASSPHRASE.to_owned().into());
    let (backend, id) = (repo.backend.as_ref(), repo.config.repo_id);
    let mut append = |_: &Keyring, epoch| repo.log.append(&commit, record(epoch)).map(drop);
    keyslots::rotate(backend, id, &repo.unlocked, &secret, &mut |_| Ok(()), &mut append).unwrap();
}

#[test]
fn a_site_that_rotated_its_key_goes_on_and_nobody_else_sets_keys() {
    let (cloud, site) = (Cloud::new(), Site::filled());
    let tenant = {
        let repo = site.open();
        let tenant = join(cloud.repo(), "acme", &repo);
        cloud.pushed(&tenant, &repo);
        tenant
    };
    for i in 0..2 {
        rotate(&site);
        let repo = site.open();
        site.write("after", &noise(200 + i, 300_000));
        site.backup(&repo);
        let (done, served) = cloud.push(&tenant, &repo, None, false);
        served.unwrap();
        let report = done.unwrap();
        assert_eq!((report.snapshots, report.failed.len(), report.refused.len()), (1, 0, 0), "{report:?}");
        cloud.has(&[(&tenant, &repo)]);
    }
    // Others that call themselves this repository bring other keys, which enter nowhere.
    let repo = site.open();
    let known =
        repo::tenants::keyring_of(&cloud.repo().keys, tenant.number, &cloud.repo().log.state().tenants[&tenant.number]);
    let mut forged = Keyring::generate();
    (0..4).for_each(|_| assert!(forged.push_epoch().is_ok()));
    for forged in [forged, Keyring::generate()] {
        let e = repo::tenants::renew_keyring(cloud.repo(), tenant.number, &forged).unwrap_err();
        assert_eq!(e.kind(), Kind::Refused);
    }
    let now =
        repo::tenants::keyring_of(&cloud.repo().keys, tenant.number, &cloud.repo().log.state().tenants[&tenant.number]);
    assert!(now.unwrap().to_bytes() == known.unwrap().to_bytes() && repo.unlocked.keyring.epochs() == 3);
}

#[test]
fn what_is_damaged_here_costs_its_snapshots_alone() {
    let (cloud, site) = (Cloud::new(), Site::new());
    site.write("first", &noise(1, 5 << 20));
    let repo = site.open();
    site.backup(&repo);
    let broken = site.packs()[0];
    std::fs::remove_file(site.src().join("first")).unwrap();
    site.write("second", &noise(2, 100_000));
    site.backup(&repo);
    site.flip(&Object::Pack(broken), |len| len / 2);
    let tenant = join(cloud.repo(), "acme", &repo);
    let (done, served) = cloud.push(&tenant, &repo, None, false);
    served.unwrap();
    let report = done.unwrap();
    assert_eq!((report.snapshots, report.failed.len(), report.watermark), (1, 1, None), "{report:?}");
    assert!(report.failed[0].1.contains(&broken.to_hex()), "{}", report.failed[0].1);
}

#[test]
fn tenants_push_at_once_and_stay_apart() {
    let cloud = Cloud::new();
    let sites: Vec<Site> = (0..3)
        .map(|i| {
            let site = Site::filled();
            site.write("dir/own", &noise(100 + i, 200_000));
            site
        })
        .collect();
    let repos: Vec<Repository> = sites.iter().map(Site::open).collect();
    for (site, repo) in sites.iter().zip(&repos) {
        site.backup(repo);
    }
    let tenants: Vec<Sender> =
        repos.iter().zip(["a", "b", "c"]).map(|(repo, name)| join(cloud.repo(), name, repo)).collect();
    std::thread::scope(|scope| {
        for (tenant, repo) in tenants.iter().zip(&repos) {
            let cloud = &cloud;
            scope.spawn(move || assert_eq!(cloud.pushed(tenant, repo).snapshots, 3));
        }
    });
    cloud.has(&tenants.iter().zip(&repos).collect::<Vec<_>>());
}

#[test]
fn who_may_not_push_is_told() {
    let (cloud, site, other) = (Cloud::new(), Site::filled(), Site::filled());
    let (repo, stranger) = (site.open(), other.open());
    let tenant = join(cloud.repo(), "acme", &repo);
    let e = cloud.push(&tenant, &stranger, None, false).0.unwrap_err();
    assert!(e.kind() == Kind::Refused && e.to_string().contains("another repository"), "{e}");
    let e = cloud.push_by((&tenant, Roles::PULL), &repo, false, &|_| pair(1 << 20, None)).0.unwrap_err();
    assert!(e.kind() == Kind::Refused && e.to_string().contains("may not deliver"), "{e}");
    let suspend = |tenant: &mut repo::format::record::TenantState| {
        tenant.suspended = true;
        Ok(())
    };
    repo::tenants::change(cloud.repo(), tenant.number, &mut { suspend }).unwrap();
    assert_eq!(cloud.push(&tenant, &repo, None, false).0.unwrap_err().kind(), Kind::Refused);
}

#[test]
fn a_push_that_is_complete_leaves_no_spool() {
    let (cloud, site) = (Cloud::new(), Site::filled());
    let repo = site.open();
    let tenant = join(cloud.repo(), "acme", &repo);
    cloud.pushed(&tenant, &repo);
    // As a server leaves it that is killed when a pack is stored and not yet removed here: nobody offers that pack again.
    let spool = cloud.spool.path().join(tenant.number.to_string());
    let left = spool.join(SnapshotId::random().to_hex());
    std::fs::write(&left, noise(3, 1000)).unwrap();
    // Whether there is anything to send or not.
    for backup in [false, true] {
        std::fs::write(&left, noise(3, 1000)).unwrap();
        if backup {
            site.write("dir/new", &noise(4, 5000));
            site.backup(&repo);
        }
        cloud.pushed(&tenant, &repo);
        assert_eq!(std::fs::read_dir(&spool).unwrap().count(), 0);
    }
}

#[test]
fn a_push_comes_back_after_the_server_was_stopped() {
    let (cloud, site) = (Cloud::new(), Site::filled());
    let repo = site.open();
    let tenant = join(cloud.repo(), "acme", &repo);
    cloud.stop.set();
    let (done, served) = cloud.push(&tenant, &repo, None, false);
    let e = done.unwrap_err();
    assert!(e.kind() == Kind::Unreachable && e.to_string().contains("being stopped"), "{e}");
    assert_eq!(served.unwrap_err().kind(), Kind::Interrupted);
    let cloud = Cloud { stop: StopFlag::default(), ..cloud };
    cloud.pushed(&tenant, &repo);
    cloud.has(&[(&tenant, &repo)]);
}
