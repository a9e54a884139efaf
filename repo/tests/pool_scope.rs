//! What an operator does at a pool concerns the tenants that are meant, though hosts and sources have equal names.

#[allow(dead_code)]
#[path = "heal/site.rs"]
mod site;
#[path = "common/tenants.rs"]
mod parties;

use std::collections::BTreeSet;
use std::sync::Arc;

use parties::{deliver_all, join, pool};
use repo::capture::backup;
use repo::error::{Error, Kind};
use repo::forget::{Options, forget_by_policy};
use repo::format::record::{Origin, SnapshotState};
use repo::history::History;
use repo::id::SnapshotId;
use repo::monitor::Void;
use repo::open::Repository;
use repo::retention::{Count, Policy};
use repo::select::{Filter, Name, matching, resolve};
use repo::stats::stats;
use repo::status::status;
use repo::tenants::{numbers, pooled_id};
use repo::times::Times;
use site::Site;

/// A pool with two tenants whose host, source and tags have equal names, and two snapshots of each.
struct Shared {
    _disk: Site,
    pool: Arc<Repository>,
    /// By tenant: its number, and its snapshots' ids at its site, oldest first.
    acme: (u32, Vec<SnapshotId>),
    globex: (u32, Vec<SnapshotId>),
}

fn shared() -> Shared {
    let (disk, pool) = pool();
    let member = |name: &str, own: &[u8]| {
        let site = Site::new();
        site.write("own", own);
        let repo = site.open();
        site.backup(&repo);
        site.write("more", own);
        site.backup(&repo);
        let sender = join(&pool, name, &repo);
        (sender.number, deliver_all(&pool, &sender, &site, &repo))
    };
    // The second tenant's come last: by host and source alone they would be the newest of both.
    let (acme, globex) = (member("acme", &[b'a'; 30_000]), member("globex", &[b'g'; 70_000]));
    Shared { _disk: disk, pool, acme, globex }
}

fn at_pool((tenant, ids): &(u32, Vec<SnapshotId>)) -> Vec<SnapshotId> {
    ids.iter().map(|id| pooled_id(&Origin { tenant: *tenant, id: *id })).collect()
}

fn of(tenants: &[u32]) -> Filter {
    Filter { tenants: tenants.to_vec(), ..Filter::default() }
}

fn history(tenant: u32) -> History {
    History { tenant: Some(tenant), host: "testhost".into(), source: "test".into() }
}

fn find(pool: &Repository, name: Name, filter: &Filter) -> Result<SnapshotId, Error> {
    let state = pool.log.state();
    resolve(&state, &Times::of(&state, pool.clock.now()), &name, filter, &mut |_| Ok(Vec::new()))
}

/// Keeps the newest of each history that `filter` admits.
fn thin_out(pool: &Repository, filter: &Filter, last: u32) -> repo::error::Result<repo::forget::Outcome> {
    let policy = Policy { last: Some(Count::Newest(last)), ..Policy::default() };
    let selected = |_: &SnapshotId, s: &SnapshotState| filter.admits(s);
    forget_by_policy(pool, &policy, &selected, &|_| 0, &Options::default(), &Void::default())
}

fn live(pool: &Repository) -> BTreeSet<SnapshotId> {
    let state = pool.log.state();
    state.snapshots.iter().filter(|(_, s)| s.forgotten.is_none()).map(|(id, _)| *id).collect()
}

#[test]
fn retention_goes_by_tenant() {
    let s = shared();
    let (acme, globex) = (at_pool(&s.acme), at_pool(&s.globex));
    // One tenant alone: the other keeps all.
    let outcome = thin_out(&s.pool, &of(&[s.acme.0]), 1).unwrap();
    assert_eq!(outcome.forgotten, [acme[0]]);
    assert_eq!(outcome.groups.iter().map(|g| g.history.clone()).collect::<Vec<_>>(), [history(s.acme.0)]);
    assert_eq!(live(&s.pool), BTreeSet::from([acme[1], globex[0], globex[1]]));
    // All tenants: each keeps its own newest, as nobody's is the other's.
    let outcome = thin_out(&s.pool, &Filter::default(), 1).unwrap();
    assert_eq!(outcome.forgotten, [globex[0]]);
    let groups: Vec<_> = outcome.groups.iter().map(|g| (g.history.clone(), g.decisions.len())).collect();
    assert_eq!(groups, [(history(s.acme.0), 1), (history(s.globex.0), 2)]);
    assert_eq!(live(&s.pool), BTreeSet::from([acme[1], globex[1]]));
    // Who would lose all is named.
    let e = thin_out(&s.pool, &of(&[s.globex.0]), 0).unwrap_err();
    assert_eq!(e.kind(), Kind::Refused);
    assert!(e.to_string().contains("every snapshot of globex testhost test"), "{e}");
}

#[test]
fn latest_is_of_one_tenant() {
    let s = shared();
    let e = find(&s.pool, Name::Latest(0), &Filter::default()).unwrap_err();
    assert_eq!(e.kind(), Kind::Ambiguous);
    let said = "of 2 tenants, hosts and sources: acme testhost test, globex testhost test; say which with --tenant";
    assert!(e.to_string().contains(said), "{e}");
    for member in [&s.acme, &s.globex] {
        let ids = at_pool(member);
        assert_eq!(find(&s.pool, Name::Latest(0), &of(&[member.0])).unwrap(), ids[1]);
        assert_eq!(find(&s.pool, Name::Latest(1), &of(&[member.0])).unwrap(), ids[0]);
        let e = find(&s.pool, Name::Latest(2), &of(&[member.0])).unwrap_err();
        assert_eq!(e.kind(), Kind::NotFound, "the other tenant's are no older ones of this one's: {e}");
        let state = s.pool.log.state();
        let times = Times::of(&state, s.pool.clock.now());
        assert_eq!(matching(&state, &times, &of(&[member.0]), &mut |_| Ok(Vec::new())).unwrap(), ids);
    }
}

#[test]
fn snapshots_are_known_by_both_ids_and_a_tenant_s_name_means_its_own_only() {
    let s = shared();
    let (site, own) = (s.acme.1[0], at_pool(&s.acme)[0]);
    let all = Filter::default();
    let prefix = |id: &SnapshotId| Name::Prefix(id.to_hex()[..12].to_owned());
    for name in [Name::Id(site), Name::Id(own), prefix(&site), prefix(&own)] {
        assert_eq!(find(&s.pool, name.clone(), &all).unwrap(), own);
        assert_eq!(find(&s.pool, name.clone(), &of(&[s.acme.0])).unwrap(), own);
        let e = find(&s.pool, name, &of(&[s.globex.0])).unwrap_err();
        assert!(e.kind() == Kind::NotFound && e.to_string().contains("of globex"), "{e}");
    }
    // What is called alike is told, with whose it is: every id begins with nothing.
    let e = find(&s.pool, Name::Prefix(String::new()), &all).unwrap_err();
    assert_eq!(e.kind(), Kind::Ambiguous);
    assert!(e.to_string().contains("(acme testhost test ") && e.to_string().contains("(globex testhost test "), "{e}");
}

#[test]
fn figures_are_kept_apart() {
    let s = shared();
    let state = s.pool.log.state();
    let times = Times::of(&state, s.pool.clock.now());
    let found = status(&state, &times, &|_, _| true);
    let newest: Vec<_> = found.iter().map(|(h, f)| (h.clone(), f.snapshots, f.newest)).collect();
    let expected = [&s.acme, &s.globex].map(|m| (history(m.0), 2, at_pool(m)[1]));
    assert_eq!(newest, expected);
    let ids: Vec<SnapshotId> = state.snapshots.keys().copied().collect();
    let report = stats(&s.pool, &state, &ids, &Void::default()).unwrap();
    let restored: Vec<_> = report.histories.iter().map(|(h, stats)| (h.clone(), stats.restore)).collect();
    assert_eq!(restored, [(history(s.acme.0), 90_000), (history(s.globex.0), 210_000)]);
    assert_eq!((report.whole.snapshots, report.whole.restore), (4, 300_000));
}

#[test]
fn tenants_are_named_at_pools_alone() {
    let s = shared();
    let state = s.pool.log.state();
    let named = |names: &[&str]| numbers(&state, &names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
    assert_eq!(named(&["globex", "acme", "globex"]).unwrap(), [s.acme.0, s.globex.0]);
    assert!(named(&[]).unwrap().is_empty());
    let e = named(&["acme", "initech"]).unwrap_err();
    assert!(e.kind() == Kind::NotFound && e.to_string().contains("no tenant 'initech'"), "{e}");
    let plain = Site::new().open();
    let e = numbers(&plain.log.state(), &["acme".to_owned()]).unwrap_err();
    assert!(e.kind() == Kind::Refused && e.to_string().contains("is no pool"), "{e}");
    assert!(numbers(&plain.log.state(), &[]).unwrap().is_empty());
}

#[test]
fn a_pool_makes_no_backups_of_its_own() {
    let (disk, pool) = pool();
    disk.write("file", b"content");
    for dry_run in [false, true] {
        let options = repo::capture::Options { dry_run, ..disk.options() };
        let Err(e) = backup(&pool, options, &Void::default()) else { panic!("a pool was backed up into") };
        assert_eq!(e.kind(), Kind::Refused);
        assert!(e.to_string().contains("a pool takes in what its tenants push"), "{e}");
    }
    assert!(pool.log.state().snapshots.is_empty());
}
