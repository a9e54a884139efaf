//! What a drive brings back to its site is what it is called, or is not taken: the keys to it have been in other hands.

#[allow(dead_code)]
#[path = "../../repo/tests/heal/site.rs"]
mod site;

use std::sync::Arc;

use repo::capture::SessionSink;
use repo::crypto::hash::{ChunkKind, content_hash};
use repo::format::record::Outcome;
use repo::monitor::Void;
use repo::open::{Access, Place};
use repo::pack::writer::Route;
use repo::session::Session;
use site::{Site, noise};
use sync::drive::home::import;
use sync::drive::{self, Label};

#[test]
fn a_pack_that_lies_about_what_is_in_it_is_not_taken() {
    let (site, dir) = (Site::filled(), tempfile::tempdir().unwrap());
    let repo = site.open();
    let place = Place { root: dir.path().join("drive"), index_dir: None, cache: dir.path().join("cache") };
    let known = (repo.config.repo_id, &repo.unlocked.keyring);
    drive::init(&place, &Label::new("back").unwrap(), known, &repo, true, &Void::default()).unwrap();
    let open = |access| drive::open(place.clone(), access, known, &repo.clock, &Void::default()).unwrap();
    // Sealed as it should be, and called what it should be; but a chunk in one of them is not what it says.
    let (truth, said, sound) = (noise(90, 50_000), noise(91, 50_000), noise(92, 50_000));
    for (said, bytes) in [(&said, &truth), (&sound, &sound)] {
        let there = open(Access::Write).repo;
        let session = Arc::new(Session::begin(Arc::clone(&there.log), there.locks.clone(), "export", None).unwrap());
        let mut writer = SessionSink::writer(&there, &session);
        writer.store(Route::Small, ChunkKind::Data, content_hash(ChunkKind::Data, said), bytes).unwrap();
        writer.finish().unwrap();
        Arc::try_unwrap(session).ok().unwrap().end(Outcome::Done).unwrap();
    }
    let done = import(&repo, &open(Access::Read), &Void::default()).unwrap();
    assert_eq!((done.packs, done.taken, done.bad.len()), (2, 1, 1), "{done:?}");
    assert!(done.bad[0].1.contains("verification"), "{:?}", done.bad);
    let is_here = |bytes: &[u8]| repo.packs().locate(&content_hash(ChunkKind::Data, bytes)).unwrap().is_some();
    assert_eq!((is_here(&said), is_here(&truth), is_here(&sound)), (false, false, true));
}
