//! A pool whose tenants have hosts and sources of equal names, as its operator works on it.

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use repo::backend::{Area, Object};
use repo::format::record::Roles;
use repo::keyslots::Secret;
use repo::limits::MAX_MANIFEST;
use repo::monitor::Void;
use repo::open::{Access, Place, Repository, Sealed};
use repo::receive::{Answer, Receiver, Sender};
use repo::tenants::{self, Redeemed, make_pool};
use support::{IDENTITY, Mount, Ran, Site, canonical, names, same};

fn open(site: &Site) -> Arc<Repository> {
    let place = Place { root: site.repo(), index_dir: None, cache: site.home().join(".cache/packmule") };
    let sealed = Sealed::open(place, Access::Write).unwrap();
    Arc::new(sealed.unlock(&Secret::identity(IDENTITY).unwrap(), &Void::default()).unwrap())
}

/// Makes the site a tenant of the pool and delivers all that it has, as a push does.
fn joins(pool: &Arc<Repository>, name: &str, site: &Site) {
    let own = open(site);
    let number = tenants::create(pool, name, false, &|_| ()).unwrap();
    let expires = pool.clock.now().plus(Duration::from_secs(3600));
    let token = tenants::invite(pool, number, Roles::PUSH, "site", "", expires).unwrap();
    let public = format!("ssh-ed25519 {name}");
    let (repository, keyring) = (Some(own.config.repo_id), Some(&own.unlocked.keyring));
    tenants::redeem(pool, &token, &Redeemed { public: &public, repository, keyring }).unwrap();
    let sender = Sender::of(pool, number).unwrap();
    let mut receiver = Receiver::begin(Arc::clone(pool), &Void::default()).unwrap();
    let mut packs = Vec::new();
    own.backend
        .list(Area::Packs, &mut |object, _| {
            packs.push(object);
            Ok(())
        })
        .unwrap();
    for object in packs {
        let Object::Pack(id) = object else { unreachable!() };
        receiver.absorb(&sender, &id, &own.backend.read_all(&object, 1 << 28).unwrap()).unwrap();
    }
    let state = own.log.state();
    let mut ids: Vec<_> = state.snapshots.keys().copied().collect();
    ids.sort_by_key(|id| state.snapshots[id].seq);
    for id in ids {
        let manifest = own.backend.read_all(&Object::Snapshot(id), MAX_MANIFEST).unwrap();
        let answer = receiver.accept(&sender, id, &manifest, &Void::default()).unwrap();
        assert!(matches!(answer, Answer::Accepted { .. }));
    }
    receiver.end().unwrap();
}

/// A tenant's site with two snapshots of `web data`; the second adds a file.
fn site(name: &str) -> Site {
    let site = Site::new();
    site.write("who", name.as_bytes());
    site.write("dir/equal", b"what all have alike");
    site.backup();
    site.write("dir/new", name.repeat(1000).as_bytes());
    site.backup();
    site
}

/// A pool, and the sites of its tenants acme and globex.
fn shared() -> (Site, Site, Site) {
    let (pool, acme, globex) = (Site::new(), site("acme"), site("globex"));
    let repo = open(&pool);
    make_pool(&repo).unwrap();
    joins(&repo, "acme", &acme);
    joins(&repo, "globex", &globex);
    (pool, acme, globex)
}

/// The tenants of all lines that have one, in order.
fn told(ran: &Ran) -> Vec<String> {
    ran.json().iter().filter_map(|line| Some(line["tenant"].as_str()?.to_owned())).collect()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn what_is_looked_at_says_whose_it_is() {
    let (pool, acme, globex) = shared();
    let listed = pool.run(&["snapshots", "--json"]).ok();
    let lines = listed.json();
    let of = |tenant: &str, field: &str| -> Vec<String> {
        let own = lines.iter().filter(|line| line["tenant"] == tenant);
        own.map(|line| line[field].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!((of("acme", "original"), of("globex", "original")), (acme.snapshots(), globex.snapshots()));
    assert_eq!(told(&pool.run(&["snapshots", "--json", "--tenant", "acme"]).ok()), ["acme"; 2]);
    assert_eq!(told(&pool.run(&["snapshots", "--json", "--latest", "1"]).ok()), ["acme", "globex"]);
    for words in [&["snapshots"][..], &["stats"], &["status"]] {
        let table = pool.run(words).ok().text();
        let titles: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
        assert!(titles.contains(&"Tenant"), "{table}");
        assert!(table.contains("acme ") && table.contains("globex "), "{table}");
        let plain = acme.run(words).ok().text();
        assert!(!plain.contains("Tenant"), "{plain}");
    }
    let plain = acme.run(&["snapshots", "--json"]).ok().json();
    assert!(plain.iter().all(|line| line.get("tenant").is_none() && line.get("original").is_none()));

    let status = pool.run(&["status", "--json"]).ok();
    let rows: Vec<_> = status.json().into_iter().filter(|line| line["message_type"] == "source").collect();
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().all(|row| row["snapshots_count"] == 2 && row["hostname"] == "web"));
    assert_eq!(rows[0]["original"], acme.snapshots()[1].as_str());
    assert_eq!(told(&pool.run(&["stats", "--json"]).ok()), ["acme", "globex"]);
    assert_eq!(told(&pool.run(&["status", "--json", "--tenant", "globex"]).ok()), ["globex"]);

    let found = pool.run(&["find", "--json", "who"]).ok();
    assert_eq!(told(&found), ["acme", "globex"], "equal names, and no version of the other's");
    let place = found.json()[0]["mount_path"].as_str().unwrap().to_owned();
    assert!(place.starts_with("tenants/acme/hosts/web/data/"), "{place}");
    assert!(pool.run(&["find", "who"]).ok().text().contains("(globex web data, 1 version)"));
    let tagged = pool.run(&["tag", "--json", "--tenant", "globex", "--add", "kept"]).ok();
    assert_eq!(told(&tagged), ["globex"; 2]);
    assert_eq!(told(&pool.run(&["snapshots", "--json", "--tag", "kept"]).ok()), ["globex"; 2]);
}

#[test]
fn one_snapshot_is_one_tenant_s() {
    let (pool, acme, globex) = shared();
    let target = |n: &str| pool.path().join(n).to_str().unwrap().to_owned();
    let ambiguous = ["acme web data, globex web data", "--tenant"];
    for words in [&["ls", "latest"][..], &["dump", "latest", "who"], &["diff", "latest~1", "latest"]] {
        pool.run(words).refused(1, &ambiguous);
    }
    pool.run(&["restore", "latest", "--target", &target("none")]).refused(1, &ambiguous);
    for (name, site) in [("acme", &acme), ("globex", &globex)] {
        pool.run(&["restore", "latest", "--tenant", name, "--target", &target(name)]).ok();
        same(&site.src(), &pool.path().join(name), &[]);
        assert_eq!(pool.run(&["dump", "latest", "who", "--tenant", name]).ok().text(), name);
        let diff = pool.run(&["diff", "latest~1", "latest", "--tenant", name]).ok().text();
        assert!(diff.contains("/dir/new") && !diff.contains("/who"), "{diff}");
        // The id that the site knows, whole and its beginning.
        let id = &site.snapshots()[0];
        assert_eq!(pool.run(&["dump", id, "who"]).ok().text(), name);
        assert_eq!(pool.run(&["dump", &id[..12], "who"]).ok().text(), name);
        let first = &pool.run(&["ls", "--json", id]).ok().json()[0];
        assert_eq!((first["tenant"].as_str(), first["original"].as_str()), (Some(name), Some(&**id)));
        let other = if name == "acme" { "globex" } else { "acme" };
        let refused = pool.run(&["dump", id, "who", "--tenant", other]);
        assert!(refused.exits(1).err.contains(&format!("of {other}")));
    }
    // Both names of a snapshot are known to forget and unforget too.
    let id = &globex.snapshots()[0];
    pool.run(&["forget", id, "--tenant", "acme"]).exits(1);
    pool.run(&["forget", id]).ok();
    assert_eq!(told(&pool.run(&["snapshots", "--json", "--forgotten"]).ok()), ["globex"]);
    pool.run(&["unforget", id, "--tenant", "acme"]).exits(1);
    pool.run(&["unforget", id, "--tenant", "globex"]).ok();
    assert_eq!(pool.snapshots().len(), 4);
}

#[test]
fn tenants_that_are_not_there_are_refused_by_name() {
    let (pool, acme, _globex) = shared();
    let mnt = pool.mnt().to_str().unwrap().to_owned();
    for words in [
        &["snapshots"][..],
        &["ls", "latest"],
        &["find", "x"],
        &["diff", "latest~1", "latest"],
        &["dump", "latest"],
        &["restore", "latest", "--target", "/nonexistent/x"],
        &["stats"],
        &["status"],
        &["forget", "--keep-last", "1"],
        &["unforget", "ab"],
        &["tag", "--add", "x"],
        &["mount", &mnt],
    ] {
        let with = |name| [words, &["--tenant", name][..]].concat();
        pool.run(&with("initech")).refused(1, &["there is no tenant 'initech'"]);
        acme.run(&with("acme")).refused(1, &["this repository is no pool"]);
    }
    acme.run(&["forget", "--keep-last", "1", "--all-tenants"]).refused(1, &["this repository is no pool"]);
    assert_eq!((pool.snapshots().len(), acme.snapshots().len()), (4, 2));
}

#[test]
fn rules_forget_for_the_tenants_that_are_meant() {
    let (pool, _acme, _globex) = shared();
    let without = pool.run(&["forget", "--keep-last", "1"]);
    without.refused(2, &["nothing says to whose snapshots", "--tenant NAME, or --all-tenants"]);
    assert_eq!(pool.snapshots().len(), 4);
    let groups = |ran: Ran| -> Vec<(String, usize, usize)> {
        let lines = ran.json();
        let groups = lines.iter().filter(|line| line["message_type"] == "forget_group");
        let count = |list: &serde_json::Value| list.as_array().unwrap().len();
        groups.map(|g| (g["tenant"].as_str().unwrap().into(), count(&g["keep"]), count(&g["remove"]))).collect()
    };
    let all = ["forget", "--json", "--keep-last", "1", "--all-tenants"];
    let dry = pool.run(&[&all[..], &["--dry-run"]].concat()).ok();
    assert_eq!(groups(dry), [("acme".into(), 1, 1), ("globex".into(), 1, 1)]);
    let one = pool.run(&["forget", "--json", "--keep-last", "1", "--tenant", "acme"]).ok();
    assert_eq!(groups(one), [("acme".into(), 1, 1)]);
    assert_eq!(told(&pool.run(&["snapshots", "--json"]).ok()), ["acme", "globex", "globex"]);
    let shown = pool.run(&["forget", "--keep-last", "1", "--all-tenants"]).ok().text();
    assert!(shown.contains("acme web data:") && shown.contains("globex web data:"), "{shown}");
    assert_eq!(told(&pool.run(&["snapshots", "--json"]).ok()), ["acme", "globex"]);
}

#[test]
fn a_mount_shows_each_tenant_apart_or_one_alone() {
    let (pool, acme, globex) = shared();
    let mount = Mount::new(&pool, &pool.mnt(), &[]);
    assert_eq!(names(&mount.at), ["tenants"]);
    assert_eq!(names(&mount.at.join("tenants")), ["acme", "globex"]);
    for (name, site) in [("acme", &acme), ("globex", &globex)] {
        let top = mount.at.join("tenants").join(name);
        assert_eq!(names(&top), ["hosts", "ids", "snapshots", "tags", "versions"]);
        assert_eq!(names(&top.join("snapshots")).len(), 2);
        same(&site.src(), &fs::canonicalize(top.join("hosts/web/data/latest")).unwrap(), &[]);
        // Through a link that stays in the tenant's tree.
        let one = top.join("ids").join(&names(&top.join("ids"))[0]);
        assert!(fs::canonicalize(&one).unwrap().starts_with(&top));
        assert_eq!(read(&one.join("who")), name);
        let versions = top.join("versions/web/data/who");
        assert_eq!(names(&versions).len(), 1, "one version: its own");
        assert_eq!(read(&versions.join(&names(&versions)[0])), name);
    }
    mount.unmount();

    let alone = Mount::new(&pool, &pool.mnt(), &["--tenant", "globex"]);
    assert_eq!(names(&alone.at), ["hosts", "ids", "snapshots", "tags", "versions"]);
    assert_eq!(names(&alone.at.join("ids")).len(), 2);
    same(&globex.src(), &canonical(&alone), &[]);
    alone.unmount();
}

#[test]
fn a_pool_is_not_backed_up_into() {
    let (pool, _acme, _globex) = shared();
    pool.write("file", b"content");
    let said = ["a pool takes in what its tenants push", "packmule sync push"];
    pool.run(&["backup", "."]).refused(1, &said);
    pool.run(&["backup", ".", "--dry-run"]).refused(1, &said);
    pool.run(&["backup", "--stdin-from-command", "--", "echo", "x"]).refused(1, &said);
    assert_eq!(pool.snapshots().len(), 4);
}

#[test]
fn damage_is_told_with_the_tenant_whose_it_is() {
    let (pool, _acme, globex) = shared();
    let listed = pool.run(&["snapshots", "--json", "--tenant", "globex"]).ok().json();
    let lost = listed[0]["id"].as_str().unwrap();
    fs::remove_file(pool.repo().join("snapshots").join(lost)).unwrap();
    let checked = pool.run(&["check", "--json"]).exits(5);
    let findings = checked.json();
    let finding = findings.iter().find(|line| line["kind"] == "snapshot").expect("a finding");
    assert_eq!((finding["tenant"].as_str(), finding["snapshot"].as_str()), (Some("globex"), Some(lost)));
    assert_eq!(finding["original"], globex.snapshots()[0].as_str());
    let text = pool.run(&["check"]).exits(5).text();
    assert!(text.contains(&format!("lost snapshot: {} globex/web/data ", &lost[..8])), "{text}");
}

#[test]
fn a_profile_may_say_whose() {
    let (pool, _acme, _globex) = shared();
    let profiles = pool.home().join(".config/packmule");
    fs::create_dir_all(&profiles).unwrap();
    fs::write(profiles.join("mine.toml"), "[forget]\nkeep-last = 1\ntenant = ['acme']\n").unwrap();
    pool.run(&["-P", "mine", "forget"]).ok();
    assert_eq!(told(&pool.run(&["snapshots", "--json"]).ok()), ["acme", "globex", "globex"]);
    // What is typed wins.
    pool.run(&["-P", "mine", "forget", "--tenant", "globex"]).ok();
    assert_eq!(told(&pool.run(&["snapshots", "--json"]).ok()), ["acme", "globex"]);
}
