//! Sealed tenants' copies read where they lie, and brought back.

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

use repo::backend::local::Local;
use repo::backend::{Area, Backend, Object};
use repo::error::Kind;
use repo::format::record::Roles;
use repo::monitor::Void;
use sealed::{Cloud, begun, filled};
use sync::sealed::back;
use sync::wire;

#[test]
fn a_copy_comes_back_over_a_link_that_breaks_again_and_again() {
    let (cloud, (site, repo)) = (Cloud::new(), filled());
    let tenant = cloud.join("acme", &repo);
    let root = tempfile::tempdir().unwrap();
    let back = root.path().join("back");
    let bring = |cut: Option<u64>| {
        cloud.reading(tenant, cut, |from| {
            let copy = back::begin(from, &back, repo.config.repo_id)?;
            back::bring(from, &copy, &[], &Void::default())
        })
    };
    let e = bring(None).unwrap_err();
    assert!(e.kind() == Kind::NoRepository && e.to_string().contains("no whole copy"), "{e}");
    cloud.pushed(tenant, &repo);
    let (mut cut, mut tries) = (200, 0);
    while let Err(e) = bring(Some(cut)) {
        assert_eq!(e.kind(), Kind::Unreachable, "{e}");
        assert!(!back.join("config").exists(), "nobody takes it for a repository yet");
        (cut, tries) = (cut * 3 / 2, tries + 1);
    }
    assert!(tries > 8, "{tries}");
    for area in [Area::Packs, Area::Footers, Area::Snapshots, Area::Log] {
        let copy = Local::open(&back, true).unwrap();
        assert_eq!(sync::sealed::names(&copy, area).unwrap().into_iter().collect::<Vec<_>>(), site.objects(area));
        for object in site.objects(area) {
            let bytes = |backend: &dyn Backend| backend.read_all(&object, 1 << 30).unwrap();
            assert!(bytes(&copy) == bytes(&site.disk), "{object:?}");
        }
    }
}

#[test]
fn a_copy_is_read_where_it_lies_and_only_by_who_may() {
    let (cloud, (_site, repo)) = (Cloud::new(), filled());
    let tenant = cloud.join("acme", &repo);
    cloud.pushed(tenant, &repo);
    // Over connections that last, and over such as break now and then.
    for cut in [None, Some(20_000)] {
        cloud.reading(tenant, cut, |from| {
            let sizes: Vec<_> = [Object::Config, Object::Log(1), Object::Log(999)]
                .iter()
                .map(|o| from.size(o).unwrap().is_some())
                .collect();
            assert_eq!(sizes, [true, true, false]);
            let whole = from.read_all(&Object::Log(1), 1 << 20).unwrap();
            assert_eq!(from.read(&Object::Log(1), 3, 5).unwrap(), whole[3..8]);
            assert_eq!(from.read(&Object::Log(1), whole.len() as u64 - 1, 2).unwrap_err().kind(), Kind::Damaged);
            assert_eq!(from.read(&Object::Log(999), 0, 2).unwrap_err().kind(), Kind::NotFound);
            assert_eq!(from.read_all(&Object::Log(1), whole.len() - 1).unwrap_err().kind(), Kind::Damaged);
            assert_eq!(from.put(&Object::Log(999), b"x").unwrap_err().kind(), Kind::ReadOnly);
            assert_eq!(from.delete(&Object::Log(1)).unwrap_err().kind(), Kind::ReadOnly);
        });
    }
    // A key that may deliver alone reads nothing, and one that may read delivers nothing.
    let (said, _) = cloud.with(tenant, Roles::PUSH, None, |near| {
        let mut connection = wire::Connection::open(near, wire::Side::Client, &wire::Preface::ours()).unwrap();
        let (repository, position, program) = (repo.config.repo_id, repo.log.position(), "test".to_owned());
        let purpose = wire::Purpose::Pull;
        connection.send(&wire::Message::Begin { purpose, repository, position, program }).unwrap();
        connection.flush().unwrap();
        connection.receive().unwrap().unwrap()
    });
    assert!(matches!(said, wire::Message::Fail(fail) if fail.kind() == Kind::Refused));
    for message in [
        wire::Message::Put { object: wire::Object::Log(999), size: 0, from: 0 },
        wire::Message::Done { position: repo.log.position() },
        wire::Message::Order { size: 100 },
    ] {
        let (said, served) = cloud.with(tenant, Roles::PULL, None, |near| {
            let mut connection = begun(near, &repo, wire::Purpose::Pull);
            connection.send(&message).unwrap();
            connection.flush().unwrap();
            connection.receive().unwrap().unwrap()
        });
        assert!(matches!(said, wire::Message::Fail(_)), "{said:?}");
        assert!(served.is_err());
    }
}
