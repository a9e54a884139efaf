//! Receipts over the network: a drive that a pool has taken in is committed at its site by the next push, and by nothing else
//! than the pool's word for what was written to it.

#[allow(dead_code)]
#[path = "support/cloud.rs"]
mod cloud;
#[path = "support/dialled.rs"]
mod dialled;
#[allow(dead_code)]
#[path = "support/long.rs"]
mod long;
#[allow(dead_code)]
#[path = "../../repo/tests/common/tenants.rs"]
mod parties;
#[allow(dead_code)]
#[path = "support/raw.rs"]
mod raw;
#[allow(dead_code)]
#[path = "support/sealed.rs"]
mod sealed;
#[allow(dead_code)]
#[path = "../../repo/tests/heal/site.rs"]
mod site;
#[allow(dead_code)]
#[path = "support/tapped.rs"]
mod tapped;

use std::path::PathBuf;
use std::sync::Arc;

use cloud::Cloud;
use dialled::dialled;
use parking_lot::Mutex;
use parties::join;
use raw::{Raw, encoded};
use repo::backend::{Area, Object};
use repo::error::{Kind, Result};
use repo::format::record::{Custody, DriveState, PrivateKey, RemoteState, Roles};
use repo::id::{DriveId, PackId};
use repo::monitor::{Recording, Void};
use repo::open::{Access, Place, Repository};
use repo::receive::Sender;
use sealed::pushing_by;
use site::{Site, noise};
use sync::drive::custody::{self, change};
use sync::drive::export::{self, Wanted, export};
use sync::drive::import::{Imported, import};
use sync::drive::receipt::Receipt;
use sync::drive::{self, Contents, Drive, Label};
use sync::push::{self, Options};
use sync::remote;
use sync::serve::{Door, Grant, Pool, serve};
use sync::ssh::keys::KeyPair;
use sync::ssh::server::StopFlag;
use sync::stream::pair;
use sync::wire::{HEADER, Message, Purpose, Side};
use tapped::{Fate, Passing, Tap, tapped};

/// A site with a remote "cloud" and a drive for it.
struct Post {
    site: Site,
    repo: Repository,
    dir: tempfile::TempDir,
    drive: DriveId,
}

impl Post {
    fn of(site: Site, repo: Repository, pool: &Repository, sealed: bool) -> Post {
        let known = RemoteState {
            url: "ssh://cloud.example".into(),
            host_key: Door::host_key(pool).unwrap().public().text(),
            key: PrivateKey(zeroize::Zeroizing::new(Vec::new())),
            tenant: "acme".into(),
            sealed,
            pushed: None,
            pushed_at: None,
        };
        remote::note(&repo, "cloud", &known).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("drive")).unwrap();
        let mut made = Post { site, repo, dir, drive: DriveId([0; 32]) };
        let (id, keyring) = (made.repo.config.repo_id, &made.repo.unlocked.keyring);
        let label = Label::new("acme 1").unwrap();
        made.drive = drive::init(&made.place(), &label, (id, keyring), &made.repo, false, &Void::default()).unwrap().0;
        made
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("drive")
    }

    fn place(&self) -> Place {
        Place { root: self.root(), index_dir: None, cache: self.dir.path().join("cache") }
    }

    fn open(&self, access: Access) -> Drive {
        let known = (self.repo.config.repo_id, &self.repo.unlocked.keyring);
        drive::open(self.place(), access, known, &self.repo.clock, &Void::default()).unwrap()
    }

    /// Writes to the drive, and sends it off.
    fn post(&self, max_bytes: Option<u64>) -> export::Report {
        let wanted = Wanted { remote: "cloud".into(), since: None, max_bytes };
        let report = export(&self.repo, &self.open(Access::Write), &wanted, &Void::default()).unwrap();
        custody::step(&self.repo, self.drive, Custody::Shipped, &Void::default()).unwrap();
        report
    }

    fn import(&self, cloud: &Cloud, tenant: &Sender) -> Imported {
        import(cloud.repo(), tenant.number, &self.open(Access::Read), &Void::default()).unwrap()
    }

    fn state(&self) -> DriveState {
        self.repo.log.state().drives[&self.drive].clone()
    }

    /// Packs on the drive.
    fn packs(&self) -> Vec<PackId> {
        let mut packs = Vec::new();
        self.open(Access::Read)
            .repo
            .backend
            .list(Area::Packs, &mut |object, _| {
                if let Object::Pack(id) = object {
                    packs.push(id);
                }
                Ok(())
            })
            .unwrap();
        packs
    }

    fn file(&self, pack: PackId) -> PathBuf {
        self.root().join(Object::Pack(pack).path())
    }
}

fn pooled() -> (Cloud, Post, Sender) {
    let (cloud, site) = (Cloud::new(), Site::filled());
    let repo = site.open();
    let tenant = join(cloud.repo(), "acme", &repo);
    let from = Post::of(site, repo, cloud.repo(), false);
    (cloud, from, tenant)
}

/// What the pool's log says of the drive.
fn there(pool: &Pool, drive: DriveId) -> DriveState {
    pool.repository().log.refresh().unwrap();
    pool.repository().log.state().drives[&drive].clone()
}

/// The messages about receipts that were seen on a link: questions and answers.
type Seen = Arc<Mutex<Vec<Message>>>;

/// A link on which `answer` comes in place of the pool's receipts, if it is given.
fn watched(answer: Option<Vec<String>>) -> (Tap, Seen) {
    let seen = Seen::default();
    let note = Arc::clone(&seen);
    let tap = move |passing: &Passing<'_>| {
        if !(45..=46).contains(&passing.kind) {
            return Fate::Pass;
        }
        note.lock().push(Message::decode(passing.kind, &passing.bytes[HEADER..]).unwrap());
        match &answer {
            Some(receipts) if passing.from == Side::Server => {
                Fate::Instead(encoded(&[Message::Signed { receipts: receipts.clone() }]))
            }
            _ => Fate::Pass,
        }
    };
    (Arc::new(Mutex::new(tap)), seen)
}

/// Pushes to the pool; what it did, what was said of receipts, and what the user was told.
fn pushed(
    cloud: &Cloud,
    from: &Post,
    tenant: &Sender,
    answer: Option<Vec<String>>,
) -> (push::Report, Vec<Message>, Vec<String>) {
    let (tap, seen) = watched(answer);
    let (grant, told) = (Grant::Tenant { tenant: tenant.number, roles: Roles::PUSH }, Recording::default());
    let options = Options { remote: "cloud", ..Options::default() };
    let (done, served) =
        dialled(&cloud.pool, &grant, &|| tapped(&tap), |dial| push::push(&from.repo, &dial, "test", options, &told));
    served.into_iter().for_each(Result::unwrap);
    let lines = told.lines().into_iter().filter(|line| !line.starts_with("Phase")).collect();
    let seen = std::mem::take(&mut *seen.lock());
    (done.unwrap(), seen, lines)
}

fn receipts(seen: &[Message]) -> Vec<&str> {
    let texts = seen.iter().filter_map(|message| match message {
        Message::Signed { receipts } => Some(receipts.iter().map(String::as_str)),
        _ => None,
    });
    texts.flatten().collect()
}

#[test]
fn the_next_push_brings_the_receipt_and_sends_nothing() {
    let (cloud, from, tenant) = pooled();
    // Nothing is in the post: nobody asks.
    let (_, seen, _) = pushed(&cloud, &from, &tenant, None);
    assert!(seen.is_empty());
    from.site.write("dir/more", &noise(9, 70_000));
    from.site.backup(&from.repo);
    assert_eq!(from.post(None).left, 0);
    // On its way: the pool knows nothing of it.
    let (report, seen, told) = pushed(&cloud, &from, &tenant, None);
    assert_eq!((report.bytes, report.waiting.len(), told.len()), (0, 1, 0), "{report:?} {told:?}");
    assert!(seen.len() == 2 && receipts(&seen).is_empty(), "{seen:?}");
    assert_eq!(from.state().custody(), Custody::Shipped);
    let done = from.import(&cloud, &tenant);
    assert_eq!(there(&cloud.pool, from.drive).custody(), Custody::Committed, "{done:?}");
    let (report, seen, told) = pushed(&cloud, &from, &tenant, None);
    assert_eq!((report.bytes, report.snapshots, report.waiting.len(), report.posted), (0, 0, 0, 0), "{report:?}");
    // What comes over the network is what lies on the drive.
    assert_eq!(receipts(&seen), [done.receipt.as_deref().unwrap()]);
    assert!(told.len() == 1 && told[0].contains("carried is at cloud"), "{told:?}");
    assert_eq!(from.state().custody(), Custody::Committed);
    assert!(from.repo.log.state().under_way(Some((from.repo.config.repo_id, "cloud"))).is_empty());
    cloud.has(&[(&tenant, &from.repo)]);
    // And nobody asks any more.
    assert!(pushed(&cloud, &from, &tenant, None).1.is_empty());
}

#[test]
fn what_a_drive_left_over_is_sent_and_then_the_pool_waits_for_nothing() {
    let (cloud, from, tenant) = pooled();
    assert!(from.post(Some(5 << 20)).left > 0);
    let done = from.import(&cloud, &tenant);
    assert!(done.receipt.is_some() && !done.waiting.is_empty(), "{done:?}");
    let before = there(&cloud.pool, from.drive);
    assert_eq!((before.custody(), Contents::noted(&before)), (Custody::Verified, Contents::noted(&from.state())));
    let (report, seen, _) = pushed(&cloud, &from, &tenant, None);
    assert_eq!(receipts(&seen), [done.receipt.as_deref().unwrap()]);
    assert!(report.bytes > 0 && report.waiting.is_empty() && report.snapshots == 2, "{report:?}");
    assert_eq!(from.state().custody(), Custody::Committed);
    let last = there(&cloud.pool, from.drive).steps.pop().unwrap();
    assert_eq!((last.custody, &last.by[..]), (Custody::Committed, "push"));
    cloud.has(&[(&tenant, &from.repo)]);
}

#[test]
fn there_is_none_before_every_pack_was_taken() {
    let (cloud, from, tenant) = pooled();
    from.post(None);
    let pack = from.packs()[0];
    let sound = std::fs::read(from.file(pack)).unwrap();
    let mut bytes = sound.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(from.file(pack), bytes).unwrap();
    let done = from.import(&cloud, &tenant);
    assert_eq!((done.bad.len(), done.receipt), (1, None));
    assert_eq!(there(&cloud.pool, from.drive).custody(), Custody::Received);
    let (_, seen, told) = pushed(&cloud, &from, &tenant, None);
    assert!(seen.len() == 2 && receipts(&seen).is_empty() && told.is_empty(), "{seen:?} {told:?}");
    assert_eq!(from.state().custody(), Custody::Shipped);
    // Given up, all of it is sent; the pool has seen it arrive, and signs for no pack that it has not seen.
    custody::step(&from.repo, from.drive, Custody::Lost, &Void::default()).unwrap();
    pushed(&cloud, &from, &tenant, None);
    let state = there(&cloud.pool, from.drive);
    assert_eq!((state.custody(), Receipt::of(from.drive, &state)), (Custody::Committed, None));
    std::fs::write(from.file(pack), sound).unwrap();
    let done = from.import(&cloud, &tenant);
    assert!(done.receipt.is_some(), "{done:?}");
    let state = there(&cloud.pool, from.drive);
    assert_eq!(state.custody(), Custody::Committed);
    assert_eq!(Receipt::of(from.drive, &state).unwrap().contents, Contents::noted(&from.state()));
}

#[test]
fn a_receipt_is_for_what_was_there_when_it_was_taken_in() {
    let (cloud, from, tenant) = pooled();
    from.post(None);
    let first = from.import(&cloud, &tenant).receipt.unwrap();
    // The drive has come back, and carries more now.
    from.site.write("dir/more", &noise(9, 70_000));
    from.site.backup(&from.repo);
    from.post(None);
    let (report, seen, told) = pushed(&cloud, &from, &tenant, None);
    assert_eq!(receipts(&seen), [&first[..]]);
    assert!(told.len() == 1 && told[0].starts_with("Warning") && told[0].contains(&from.drive.short()), "{told:?}");
    assert_eq!((from.state().custody(), report.waiting.len()), (Custody::Shipped, 1));
    let second = from.import(&cloud, &tenant).receipt.unwrap();
    assert_ne!(first, second);
    let way: Vec<Custody> = there(&cloud.pool, from.drive).steps.iter().map(|step| step.custody).collect();
    assert!(way.ends_with(&[Custody::Received, Custody::Verified, Custody::Committed]), "{way:?}");
    // Again, as it is: the same word.
    assert_eq!(from.import(&cloud, &tenant).receipt.unwrap(), second);
    let (_, seen, _) = pushed(&cloud, &from, &tenant, None);
    assert_eq!(receipts(&seen), [&second[..]]);
    assert_eq!(from.state().custody(), Custody::Committed);
}

#[test]
fn packs_that_no_record_of_the_drive_tells_of_are_taken_and_not_signed_for() {
    let (cloud, from, tenant) = pooled();
    from.post(Some(5 << 20));
    // As an export leaves it that is cut off before it says what it wrote.
    let packs = from.packs();
    let other = from.site.packs().into_iter().find(|id| !packs.contains(id)).unwrap();
    let bytes = repo::pack::read::whole_pack(&from.site.disk, &other).unwrap();
    let path = from.file(other);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, &bytes[1..]).unwrap();
    let done = from.import(&cloud, &tenant);
    assert!(done.bad.is_empty() && done.receipt.is_some() && done.taken == packs.len() as u64, "{done:?}");
    std::fs::write(&path, &bytes).unwrap();
    let done = from.import(&cloud, &tenant);
    assert!(done.bad.is_empty() && done.taken == 1, "{done:?}");
    let receipt = Receipt::of(from.drive, &there(&cloud.pool, from.drive)).unwrap();
    assert_eq!(receipt.contents, Contents::noted(&from.state()));
    assert_eq!(receipt.contents.packs, packs.len() as u64);
}

#[test]
fn what_a_drive_says_of_itself_and_of_others_is_not_signed() {
    let (cloud, from, tenant) = pooled();
    from.post(Some(5 << 20));
    let (itself, other, their) = (from.drive, DriveId([9; 32]), DriveId([8; 32]));
    let drive = from.open(Access::Write);
    let mut lie = drive.state().unwrap();
    [Custody::Received, Custody::Verified].into_iter().for_each(|step| lie.step(step, from.repo.clock.now(), "test"));
    for id in [itself, other, their] {
        change(&drive.repo, id, &mut |_| Ok((lie.clone(), ()))).unwrap();
    }
    drop(drive);
    let (party, repository, loads) = ("globex".into(), repo::id::RepoId([1; 32]), Vec::new());
    let strange = DriveState { party, repository, loads, ..from.state() };
    change(cloud.repo(), their, &mut |_| Ok((strange.clone(), ()))).unwrap();
    let pack = from.packs()[0];
    std::fs::write(from.file(pack), b"no pack").unwrap();
    assert_eq!(from.import(&cloud, &tenant).receipt, None);
    assert!(asked(&cloud.pool, tenant.number, &from.repo, vec![itself, other, their]).is_empty());
    assert_eq!(there(&cloud.pool, their), strange);
    // Nor is another's drive taken for this one.
    change(cloud.repo(), itself, &mut |_| Ok((strange.clone(), ()))).unwrap();
    let done = import(cloud.repo(), tenant.number, &from.open(Access::Read), &Void::default());
    assert_eq!(done.unwrap_err().kind(), Kind::WrongDrive);
    let known = there(&cloud.pool, itself);
    assert_eq!((known.party, known.steps), (strange.party, strange.steps));
}

#[test]
fn a_pool_that_lies_is_not_believed() {
    let (cloud, from, tenant) = pooled();
    from.post(None);
    let written = Contents::noted(&from.state());
    let receipt =
        |drive, contents| Receipt { drive, repository: from.repo.config.repo_id, contents, at: from.repo.clock.now() };
    let pool = Door::host_key(cloud.repo()).unwrap();
    let other = KeyPair::generate("other").unwrap();
    let fewer = Contents { packs: written.packs - 1, ..written };
    let short = from.drive.short();
    for (text, why) in [
        (receipt(from.drive, written).signed(&other).unwrap(), "not signed by the pool"),
        (receipt(from.drive, fewer).signed(&pool).unwrap(), "were written to the drive"),
        (receipt(DriveId([1; 32]), written).signed(&pool).unwrap(), "not asked about"),
        (receipt(from.drive, written).signed(&pool).unwrap().replacen("packs ", "packs 0", 1), "no receipt"),
        ("\u{1b}[2J".to_owned(), "no receipt"),
    ] {
        let (report, _, told) = pushed(&cloud, &from, &tenant, Some(vec![text]));
        assert_eq!((told.len(), report.waiting.len()), (1, 2), "{told:?}");
        assert!(told[0].starts_with("Warning") && told[0].contains(why) && told[0].contains(&short), "{told:?}");
        assert_eq!(from.state().custody(), Custody::Shipped);
    }
    // Of several, the one that holds is taken.
    let texts = [&other, &pool].map(|key| receipt(from.drive, written).signed(key).unwrap()).to_vec();
    let (_, _, told) = pushed(&cloud, &from, &tenant, Some(texts));
    assert_eq!((told.len(), from.state().custody()), (2, Custody::Committed), "{told:?}");
}

/// What the pool says to a tenant that asks for the receipts of these drives.
fn asked(pool: &Pool, tenant: u32, repo: &Repository, drives: Vec<DriveId>) -> Vec<String> {
    let (client, server) = pair(1 << 16, None);
    let grant = Grant::Tenant { tenant, roles: Roles::PUSH };
    let heard = std::thread::scope(|scope| {
        scope.spawn(|| serve(pool, &grant, server, &StopFlag::default()));
        let mut raw = Raw::over(client);
        let (repository, position, program) = (repo.config.repo_id, repo.log.position(), "test".to_owned());
        raw.say(&[Message::Begin { purpose: Purpose::Push, repository, position, program }]);
        raw.say(&[Message::Receipts { drives }]);
        raw.rest()
    });
    match &heard.messages[..] {
        [Message::Ready { .. }, Message::Signed { receipts }] => receipts.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn another_tenant_learns_nothing_of_the_drive() {
    let (cloud, from, tenant) = pooled();
    from.post(None);
    let receipt = from.import(&cloud, &tenant).receipt.unwrap();
    let other = Site::filled();
    let stranger = other.open();
    let their = join(cloud.repo(), "globex", &stranger);
    let drives = vec![from.drive, DriveId([1; 32])];
    assert_eq!(asked(&cloud.pool, tenant.number, &from.repo, drives.clone()), [receipt]);
    assert!(asked(&cloud.pool, their.number, &stranger, drives.clone()).is_empty());
    // Nor does one that is called as the drive's tenant was, and is another's repository.
    let mut named = there(&cloud.pool, from.drive);
    named.party = "globex".into();
    change(cloud.repo(), from.drive, &mut |_| Ok((named.clone(), ()))).unwrap();
    assert!(asked(&cloud.pool, their.number, &stranger, drives.clone()).is_empty());
    assert!(asked(&cloud.pool, tenant.number, &from.repo, drives).is_empty());
}

#[test]
fn a_sealed_tenant_s_push_brings_it_too() {
    let cloud = sealed::Cloud::new();
    let (site, repo) = sealed::filled();
    let tenant = cloud.join("acme", &repo);
    let from = Post::of(site, repo, cloud.pool.repository(), true);
    from.post(None);
    let options = sync::sealed::Options { remote: "cloud", ..Default::default() };
    let push = |answer| {
        let (tap, seen) = watched(answer);
        let grant = Grant::Tenant { tenant, roles: Roles::PUSH };
        let (done, served) =
            dialled(&cloud.pool, &grant, &|| tapped(&tap), |dial| pushing_by(&from.repo, &dial, options));
        served.into_iter().for_each(Result::unwrap);
        let seen = std::mem::take(&mut *seen.lock());
        (done.unwrap(), seen)
    };
    let (report, seen) = push(None);
    assert!(report.posted > 0 && seen.len() == 2 && receipts(&seen).is_empty(), "{report:?}");
    let whose = (tenant, "acme", from.repo.config.repo_id);
    let done = drive::sealed::import(cloud.pool.repository(), whose, &from.root(), &Void::default()).unwrap();
    let state = there(&cloud.pool, from.drive);
    assert_eq!((state.custody(), Contents::noted(&state)), (Custody::Verified, Contents::noted(&from.state())));
    assert_eq!(asked(&cloud.pool, tenant, &from.repo, vec![from.drive]), [done.receipt.unwrap()]);
    let lie = Receipt::of(from.drive, &state).unwrap().signed(&KeyPair::generate("other").unwrap()).unwrap();
    // What is there need not be sent, receipt or not; but the site does not know the drive to be done with.
    assert_eq!((push(Some(vec![lie])).0.packs, from.state().custody()), (0, Custody::Shipped));
    let (report, seen) = push(None);
    assert_eq!((report.posted, receipts(&seen).len(), from.state().custody()), (0, 1, Custody::Committed));
    assert_eq!(report.packs, 0, "all of them came on the drive");
    assert_eq!(there(&cloud.pool, from.drive).custody(), Custody::Committed);
    cloud.same(tenant, &from.site, &from.repo);
    assert!(push(None).1.is_empty());
}
