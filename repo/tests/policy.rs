//! What is set for a tenant holds: rules, hold and window, whatever its site says and whoever is in a hurry.

#[allow(dead_code)]
#[path = "heal/site.rs"]
mod site;
#[path = "common/tenants.rs"]
mod parties;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parties::{deliver_all, join};
use repo::clock::{Clock, Time};
use repo::error::Kind;
use repo::forget::{self, forget_by_own_rules, forget_by_policy, forget_named, unforget};
use repo::format::record::{Origin, RemoteState, SnapshotState};
use repo::id::SnapshotId;
use repo::monitor::Void;
use repo::open::Repository;
use repo::prune::{self, prune};
use repo::receive::Sender;
use repo::retention::{Count, Policy, Reason, Within};
use repo::tenants::{self, make_pool, pooled_id};
use site::{Site, readable};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A pool and a tenant's site, each with a clock that is set by hand.
struct Bench {
    _disk: Site,
    pool: Arc<Repository>,
    clock: Clock,
    site: Site,
    own: Repository,
    /// The site's.
    says: Clock,
    sender: Sender,
    made: u8,
}

impl Bench {
    fn new() -> Bench {
        let start = Time::now();
        let (disk, clock) = (Site::new(), Clock::manual(start, true));
        let mut pool = disk.open();
        pool.set_clock(clock.clone());
        make_pool(&pool).unwrap();
        let (site, says) = (Site::new(), Clock::manual(start, true));
        let mut own = site.open();
        own.set_clock(says.clone());
        let sender = join(&pool, "acme", &own);
        Bench { _disk: disk, pool: Arc::new(pool), clock, site, own, says, sender, made: 0 }
    }

    fn pass(&self, time: Duration) {
        self.clock.set(self.clock.now().plus(time));
    }

    /// A snapshot that the site says is of this time, delivered now; what the pool calls it.
    fn push(&mut self, says: Time) -> SnapshotId {
        self.made += 1;
        self.site.write("file", &[self.made; 5000]);
        self.says.set(says);
        self.site.backup(&self.own);
        let ids = deliver_all(&self.pool, &self.sender, &self.site, &self.own);
        pooled_id(&Origin { tenant: self.sender.number, id: *ids.last().unwrap() })
    }

    /// One that tells the truth, a day after the last.
    fn daily(&mut self) -> SnapshotId {
        self.pass(DAY);
        self.push(self.clock.now())
    }

    fn set(&self, hold: Option<Duration>, window: Option<Duration>) {
        tenants::change(&self.pool, self.sender.number, &mut |tenant| {
            (tenant.hold, tenant.window) = (hold.map(|d| d.as_secs()), window.map(|d| d.as_secs()));
            Ok(())
        })
        .unwrap();
    }

    fn keep(&self, tenant: u32, policy: &Policy) {
        let words = policy.to_words();
        assert_eq!(Policy::from_words(&words).as_ref(), Some(policy));
        tenants::change(&self.pool, tenant, &mut |state| {
            state.retention.clone_from(&words);
            Ok(())
        })
        .unwrap();
    }

    fn forget_by_rules(&self) -> forget::Outcome {
        forget_by_own_rules(&self.pool, &|_, _| true, &|_| 0, &forget::Options::default(), &Void::default()).unwrap()
    }

    fn live(&self) -> BTreeSet<SnapshotId> {
        let state = self.pool.log.state();
        state.snapshots.iter().filter(|(_, s)| s.forgotten.is_none()).map(|(id, _)| *id).collect()
    }

    fn prune(&self, release_held: bool) -> repo::error::Result<prune::Outcome> {
        let options = prune::Options { release_held, ..prune::Options::default() };
        prune(&self.pool, &options, &Void::default())
    }

    fn forget(&self, ids: &[SnapshotId]) -> forget::Outcome {
        forget_named(&self.pool, ids, &forget::Options::default(), &Void::default()).unwrap()
    }
}

fn last(n: u32) -> Policy {
    Policy { last: Some(Count::Newest(n)), ..Policy::default() }
}

#[test]
fn each_tenant_has_rules_of_its_own() {
    let mut bench = Bench::new();
    let acme: Vec<SnapshotId> = (0..4).map(|_| bench.daily()).collect();
    let other = Site::filled();
    let globex = join(&bench.pool, "globex", &other.open());
    deliver_all(&bench.pool, &globex, &other, &other.open());
    let all: BTreeSet<SnapshotId> = bench.live();
    let nobody = forget_by_own_rules(&bench.pool, &|_, _| true, &|_| 0, &Default::default(), &Void::default());
    assert_eq!(nobody.unwrap_err().kind(), Kind::Usage, "nothing is set");

    bench.keep(bench.sender.number, &last(2));
    let done = bench.forget_by_rules();
    assert_eq!((done.groups.len(), &done.without_rules), (1, &vec![globex.number]));
    assert_eq!(done.forgotten.iter().collect::<BTreeSet<_>>(), acme[..2].iter().collect());
    // The pool's word is for those of whom nothing is said, and one can be set apart from that.
    repo::policy::set(&bench.pool, &|pool| pool.retention = last(1).to_words()).unwrap();
    tenants::change(&bench.pool, bench.sender.number, &mut |tenant| {
        tenant.retention = repo::policy::KEEP_ALL.into();
        Ok(())
    })
    .unwrap();
    let done = bench.forget_by_rules();
    assert_eq!((done.groups.len(), done.groups[0].history.tenant), (1, Some(globex.number)));
    assert_eq!(done.forgotten.len(), 1);
    assert_eq!(bench.live().len(), all.len() - 3);
    // What is said at the time goes before both.
    let selected = |_: &SnapshotId, s: &SnapshotState| s.origin.is_some_and(|o| o.tenant == bench.sender.number);
    let now = forget_by_policy(&bench.pool, &last(1), &selected, &|_| 0, &Default::default(), &Void::default());
    assert_eq!(now.unwrap().forgotten, [acme[2]]);
}

#[test]
fn rules_in_words() {
    let many = Policy {
        last: Some(Count::Newest(3)),
        monthly: Some(Count::Unlimited),
        within: Some(Within { years: 1, months: 5, days: 7, hours: 2 }),
        tags: vec![vec!["a".into(), "b=c;d".into()], vec!["e".into()]],
        ..Policy::default()
    };
    assert_eq!(many.to_words(), "last=3\nmonthly=unlimited\nwithin=1y5m7d2h\ntag=a,b=c;d\ntag=e");
    assert_eq!(Policy::from_words(&many.to_words()), Some(many));
    for words in ["", "daily", "daily=x", "fortnightly=1", "within=1y", "daily=7\n\n", "daily=-1"] {
        assert_eq!(Policy::from_words(words), None, "{words:?}");
    }
}

#[test]
fn a_site_that_lies_about_time_displaces_nothing_within_the_window() {
    let mut bench = Bench::new();
    bench.set(None, Some(10 * DAY));
    let rules = Policy { last: Some(Count::Newest(3)), daily: Some(Count::Newest(30)), ..Policy::default() };
    bench.keep(bench.sender.number, &rules);
    let honest: Vec<SnapshotId> = (0..15).map(|_| bench.daily()).collect();
    // Taken over: a flood of what is later on each of the honest days, and of what is newer than all, and from the future.
    let now = bench.clock.now();
    let mut forged = Vec::new();
    for back in 0..15 {
        forged.push(bench.push(now.minus(back * DAY).plus(HOUR)));
        forged.push(bench.push(now.plus(400 * DAY * (back + 1))));
        forged.push(bench.push(now.minus(9000 * DAY).minus(back * 300 * DAY)));
    }
    for _ in 0..9 {
        bench.pass(DAY);
        assert_eq!(bench.forget_by_rules().forgotten, [], "every day is kept, and nothing forged counts");
    }
    let kept = bench.forget_by_rules().groups.remove(0);
    let why = |id: &SnapshotId| kept.decisions.iter().find(|d| d.id == *id).unwrap().keep.clone();
    assert!(forged.iter().all(|id| why(id) == [Reason::Window]));
    assert_eq!(why(&honest[13]), [Reason::Last, Reason::Daily], "it was received earlier, and its window is over");
    // Who sees it forgets what is forged, and nothing was lost.
    bench.forget(&forged);
    bench.pass(30 * DAY);
    assert_eq!(bench.forget_by_rules().forgotten, []);
    bench.prune(false).unwrap();
    assert_eq!(bench.live(), honest.into_iter().collect());
    assert_eq!(bench.pool.log.state().snapshots.len(), 15);
}

#[test]
fn without_a_window_a_time_of_receipt_still_bounds_what_is_said() {
    let mut bench = Bench::new();
    bench.keep(bench.sender.number, &last(2));
    let mut honest = vec![bench.daily()];
    let future = bench.push(bench.clock.now().plus(900 * DAY));
    honest.push(bench.daily());
    let past = bench.push(bench.clock.now().minus(9000 * DAY));
    honest.push(bench.daily());
    assert!(bench.pool.log.state().snapshots.values().all(|s| s.recorded <= s.received));
    let gone: BTreeSet<SnapshotId> = bench.forget_by_rules().forgotten.into_iter().collect();
    assert_eq!(gone, BTreeSet::from([honest[0], future, past]), "the newest two are those received last");
}

#[test]
fn the_pool_s_clock_years_off_for_one_receipt() {
    for wrong in [Time::from_secs(0), Time::now().plus(3000 * DAY)] {
        let mut bench = Bench::new();
        bench.set(None, Some(5 * DAY));
        bench.keep(bench.sender.number, &last(2));
        let mut ids: Vec<SnapshotId> = (0..3).map(|_| bench.daily()).collect();
        let right = bench.clock.now();
        bench.clock.set(wrong);
        ids.push(bench.push(right));
        bench.clock.set(right);
        ids.extend((0..3).map(|_| bench.daily()));
        let accept = forget::Options { accept_clock: true, ..Default::default() };
        let rules = || forget_by_own_rules(&bench.pool, &|_, _| true, &|_| 0, &accept, &Void::default()).unwrap();
        assert_eq!(rules().forgotten, [], "all but the first are within their window, whatever stands in the log");
        bench.pass(3 * DAY);
        let gone: BTreeSet<SnapshotId> = rules().forgotten.into_iter().collect();
        assert_eq!(gone, ids[..3].iter().copied().collect(), "the one of the wrong time has its neighbours'");
        assert!(bench.prune(true).unwrap().snapshots_removed.len() == 3);
    }
}

#[test]
fn nothing_is_released_within_the_window() {
    let mut bench = Bench::new();
    bench.set(Some(HOUR), Some(10 * DAY));
    let ids: Vec<SnapshotId> = (0..3).map(|_| bench.daily()).collect();
    let before = readable(&bench.pool);
    let done = bench.forget(&ids[..2]);
    // The first was received two days before.
    assert_eq!(done.until, bench.clock.now().plus(8 * DAY));
    let e = bench.prune(true).unwrap_err();
    assert_eq!(e.kind(), Kind::Refused);
    assert!(e.to_string().contains("within the window"), "{e}");
    bench.pass(DAY);
    // The hold is long over.
    assert_eq!(bench.prune(false).unwrap().snapshots_removed, []);
    assert!(readable(&bench.pool) == before, "all of it is there");
    assert_eq!(unforget(&bench.pool, &ids[..1], &Void::default()).unwrap(), ids[..1]);
    bench.forget(&ids[..1]);
    // A window that is taken back goes on for what was received within it.
    bench.set(Some(Duration::ZERO), None);
    assert_eq!(bench.prune(true).unwrap_err().kind(), Kind::Refused);
    let e = prune(
        &bench.pool,
        &prune::Options { dry_run: true, release_held: true, ..Default::default() },
        &Void::default(),
    );
    assert_eq!(e.unwrap_err().kind(), Kind::Refused);
    let new = bench.daily();
    bench.forget(&[new]);
    let done = bench.prune(true).unwrap();
    assert_eq!((done.snapshots_removed, done.in_window.map(|(n, _)| n)), (vec![new], Some(2)));
    bench.pass(6 * DAY);
    assert_eq!(bench.prune(true).unwrap().snapshots_removed, ids[..1]);
    bench.pass(DAY);
    assert_eq!(bench.prune(false).unwrap().snapshots_removed, ids[1..2]);
}

#[test]
fn the_hold_is_the_tenant_s() {
    let mut bench = Bench::new();
    bench.set(Some(20 * DAY), None);
    let id = bench.daily();
    bench.daily();
    assert_eq!(bench.forget(&[id]).until, bench.clock.now().plus(20 * DAY));
    bench.pass(19 * DAY);
    assert_eq!(bench.prune(false).unwrap().snapshots_removed, []);
    bench.pass(2 * DAY);
    assert_eq!(bench.prune(false).unwrap().snapshots_removed, [id]);
}

#[test]
fn what_is_not_at_a_remote_is_spared() {
    let bench = Bench::new();
    let mut own = bench.site.open();
    own.set_clock(bench.clock.clone());
    let backup = |n: u8| {
        bench.pass(DAY);
        bench.site.write("file", &[n; 4000]);
        bench.site.backup(&own).snapshot.unwrap()
    };
    let ids: Vec<SnapshotId> = (0..2).map(backup).collect();
    let pushed = own.log.position();
    let remote = |pushed| {
        let state = RemoteState {
            url: "ssh://pool:7022".into(),
            host_key: String::new(),
            key: repo::format::record::PrivateKey(Vec::new().into()),
            tenant: "acme".into(),
            sealed: false,
            pushed,
            pushed_at: Some(bench.clock.now()),
        };
        let record = repo::format::record::Record::RemoteSet { name: "cloud".into(), state: Box::new(state) };
        own.log.append(&own.locks.commit(Duration::ZERO).unwrap(), record).unwrap();
    };
    remote(None);
    let ids: Vec<SnapshotId> = ids.into_iter().chain((2..5).map(backup)).collect();
    let forget = |even_unpushed| {
        let options = forget::Options { even_unpushed, dry_run: true, ..Default::default() };
        forget_by_policy(&own, &last(1), &|_, _| true, &|_| 0, &options, &Void::default()).unwrap()
    };
    // To a remote that was never pushed to, nothing is there.
    assert_eq!((forget(false).forgotten.len(), forget(false).unpushed.len()), (0, 4));
    remote(Some(pushed));
    let done = forget(false);
    let set = |ids: &[SnapshotId]| ids.iter().copied().collect::<BTreeSet<_>>();
    assert_eq!((set(&done.forgotten), set(&done.unpushed)), (set(&ids[..2]), set(&ids[2..4])));
    assert_eq!(forget(true).forgotten.len(), 4);
    let named = |even_unpushed| {
        let options = forget::Options { even_unpushed, ..Default::default() };
        forget_named(&own, &ids[1..3], &options, &Void::default())
    };
    let e = named(false).unwrap_err();
    assert_eq!(e.kind(), Kind::Refused);
    assert!(e.to_string().contains("is not at remote cloud yet"), "{e}");
    assert!(own.log.state().snapshots.values().all(|s| s.forgotten.is_none()), "nothing was forgotten");
    assert_eq!(named(true).unwrap().forgotten.len(), 2);
}
