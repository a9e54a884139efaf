//! Makes the golden repository of the version at hand, once, before that version is released:
//!
//! ```text
//! PACKMULE_GOLDEN=testdata/format/v1 unshare --uts sh -c 'hostname golden; cargo test -p packmule-repo --test golden -- --ignored make'
//! ```
//!
//! The directory must not hold one. Another machine's attempt differs in ids, nonces and times; that is why it is committed.

use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use repo::backend::Object as Stored;
use repo::capture::{Options, backup};
use repo::chunker::ChunkerParams;
use repo::clock::Time;
use repo::crypto::hash::{ChunkKind, content_hash};
use repo::crypto::keys::{Keys, Object};
use repo::crypto::slot::Argon2Cost;
use repo::error::Result;
use repo::follow::follow;
use repo::format::footer::{RollupEntry, encode_rollup};
use repo::format::manifest::{Manifest, Stats};
use repo::format::node::NodeWriter;
use repo::format::record::{Outcome, PackRef, Record};
use repo::format::tree::{Content, Entry, EntryType, Extent, FileTime, UnknownField, XattrValue};
use repo::id::{ContentHash, SnapshotId};
use repo::keyslots::{self, NewSlots, Secret};
use repo::limits::TREE_CHUNK_MIN;
use repo::monitor::Recording;
use repo::open::{Access, Init, Repository, init};
use repo::pack::build::FinishedPack;
use repo::pack::writer::{PackSink, PackWriter, Route, WriterParams};
use repo::session::Session;
use repo::snapshots;
use repo::tree::builder::{DirBuilder, FileBuilder};

const PASSPHRASE: &str = "the golden passphrase";
/// The identity of the vectors in `docs/format.md`.
const IDENTITY: &str = "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33";

#[test]
#[ignore = "makes files to be committed: see the module"]
fn make() {
    let out = std::env::var_os("PACKMULE_GOLDEN").expect("PACKMULE_GOLDEN says where");
    // Tests run in the crate's directory.
    let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(out);
    let scratch = tempfile::tempdir().unwrap();
    let root = out.join("repo");
    let recipient = IDENTITY.parse::<age::x25519::Identity>().unwrap().to_public().to_string();
    let slots = NewSlots {
        passphrase: Some((PASSPHRASE, "daily")),
        cost: cost(),
        recipients: &[(&recipient, "escrow")],
        recovery_code: true,
    };
    let chunker = ChunkerParams { id: 1, min: 4096, avg: 16384, max: 65536 };
    let code = init(&root, &Init { slots, chunker, pack_size: 4 << 20 }).unwrap().1.unwrap();

    let passphrase = Secret::Passphrase(PASSPHRASE.to_owned().into());
    let repo = open(&root, scratch.path(), &passphrase);
    built(&repo);
    let source = Source::new(scratch.path());
    let first = source.backup(&repo, &["daily", "büro"]);
    drop(repo);

    let code = rotate(&root, scratch.path(), Secret::RecoveryCode(code));
    let repo = open(&root, scratch.path(), &passphrase);
    source.change();
    source.backup(&repo, &[]);
    std::fs::write(source.dir.join("src/later"), b"in the snapshot that was forgotten").unwrap();
    let last = source.backup(&repo, &["gone"]);
    let at = Time::now();
    for record in [
        Record::Tagged { snapshot: first, add: vec!["keep".into()], remove: vec!["daily".into()] },
        Record::Pinned { snapshots: vec![first] },
        Record::Forgotten { snapshots: vec![last], at },
        Record::CheckDone { at, data: true, ok: true, subset: "1/2".into() },
    ] {
        append(&repo, record);
    }
    let listing = crate::listing::of(&repo);
    drop(repo);
    std::fs::write(out.join("expected.txt"), listing).unwrap();
    let secrets = format!("passphrase {PASSPHRASE}\nrecovery-code {}\nidentity {IDENTITY}\n", code.as_str());
    std::fs::write(out.join("secrets.txt"), secrets).unwrap();
    for name in ["reserve", "lock"] {
        std::fs::remove_file(root.join(name)).unwrap();
    }
    std::fs::remove_dir_all(root.join("tmp")).unwrap();
    for shard in std::fs::read_dir(root.join("packs")).unwrap() {
        // Only the empty ones go; git would not keep them either.
        let _ = std::fs::remove_dir(shard.unwrap().path());
    }
}

/// As cheap as can be: these secrets are published.
fn cost() -> Argon2Cost {
    Argon2Cost::new(8, 1, 1).unwrap()
}

fn open(root: &Path, scratch: &Path, secret: &Secret) -> Repository {
    super::open(root, scratch, secret, Access::Write)
}

fn append(repo: &Repository, record: Record) {
    let commit = repo.locks.commit(Duration::from_secs(1)).unwrap();
    repo.log.append(&commit, record).unwrap();
}

/// Adds an epoch with the old recovery code, so that the owner's key moves to the new one, which is returned.
fn rotate(root: &Path, scratch: &Path, secret: Secret) -> String {
    let repo = open(root, scratch, &secret);
    let (backend, id) = (repo.backend.as_ref(), repo.config.repo_id);
    let mut shown = String::new();
    let mut show = |code: &repo::crypto::slot::RecoveryCode| {
        shown = code.to_text().to_string();
        Ok(())
    };
    let mut commit = |_: &repo::crypto::keys::Keyring, epoch| {
        append(&repo, Record::KeyEpoch { epoch, at: Time::now() });
        Ok(())
    };
    let rotated = keyslots::rotate(backend, id, &repo.unlocked, &secret, &mut show, &mut commit).unwrap();
    assert!(rotated.owner_moved);
    keyslots::add_passphrase(backend, id, &rotated.keyring, "daily", PASSPHRASE, cost()).unwrap();
    shown
}

/// Records packs as a backup does, all of them at the end.
struct Sink {
    backend: Arc<dyn repo::backend::Backend>,
    keys: Arc<Keys>,
    session: Arc<Session>,
    index: repo::index::Index,
    rollup: Vec<RollupEntry>,
    refs: Vec<PackRef>,
}

impl PackSink for Sink {
    fn store(&mut self, pack: FinishedPack) -> Result<()> {
        self.backend.put_grown(&Stored::Pack(pack.id), pack.body)?;
        let (size, footer_len) = (pack.size, pack.sealed_footer.len() as u32);
        self.refs.push(PackRef { id: pack.id, size, footer_len, kind: pack.kind });
        self.rollup.push(RollupEntry { id: pack.id, size, sealed_footer: pack.sealed_footer });
        Ok(())
    }

    fn commit(&mut self) -> Result<Vec<ContentHash>> {
        let number = u64::from(self.session.number()) << 32;
        let sealed = self.keys.seal(Object::Rollup, &number.to_le_bytes(), &encode_rollup(&self.rollup));
        self.backend.put(&Stored::Footers(number), &sealed)?;
        self.session.packs_added(number, std::mem::take(&mut self.refs))?;
        Ok(follow(self.backend.as_ref(), &self.keys, self.session.log(), &self.index)?.1)
    }

    fn due(&self) -> bool {
        false
    }
}

/// A snapshot of entries that no capture on any one machine would give.
fn built(repo: &Repository) {
    let session = Arc::new(Session::begin(Arc::clone(&repo.log), repo.locks.clone(), "golden", None).unwrap());
    let params = WriterParams {
        keys: Arc::clone(&repo.keys),
        index: repo.index.clone(),
        session: session.id(),
        pack_size: repo.config.pack_size as usize,
        level: 3,
        within: None,
    };
    let sink = Sink {
        backend: Arc::clone(&repo.backend),
        keys: Arc::clone(&repo.keys),
        session: Arc::clone(&session),
        index: repo.index.clone(),
        rollup: Vec::new(),
        refs: Vec::new(),
    };
    let mut writer = PackWriter::start(params, Box::new(sink));
    let entries = entries(&mut writer);
    let root = directory(&mut writer, "root", entries);
    writer.finish().unwrap();
    let manifest = Manifest {
        id: SnapshotId::random(),
        host: "golden".into(),
        source: "built".into(),
        username: "nobody".into(),
        program: "golden 1".into(),
        paths: vec![b"/".to_vec(), b"/not\xffutf8".to_vec()],
        tags: vec!["built".into()],
        captured: 1_700_000_000_123_456_789,
        captured_end: 1_700_000_060_000_000_000,
        recorded: repo.clock.now().0,
        parent: None,
        root,
        sidecar: None,
        stats: Stats { files: 3, errors: 1, ..Stats::default() },
        origin: None,
    };
    snapshots::record(repo, &session, &manifest).unwrap();
    Arc::into_inner(session).unwrap().end(Outcome::Done).unwrap();
}

fn entry(name: impl Into<Vec<u8>>, kind: EntryType) -> Entry {
    let mut e = Entry::new(name, kind);
    e.mode = 0o644;
    (e.uid, e.gid) = (1000, u32::MAX);
    (e.user, e.group) = (b"alice".to_vec(), b"gr\xfcppe".to_vec());
    e.mtime = FileTime { secs: 1_600_000_000, nanos: 999_999_999 };
    e
}

fn directory(writer: &mut PackWriter, name: &str, mut entries: Vec<Entry>) -> Entry {
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let mut builder = DirBuilder::new();
    entries.iter().for_each(|e| builder.push(writer, e).unwrap());
    let mut e = entry(name, EntryType::Dir);
    e.mode = 0o755;
    e.content = Content::Dir(builder.finish(writer).unwrap());
    e
}

fn inline(name: impl Into<Vec<u8>>, bytes: &[u8]) -> Entry {
    let mut e = entry(name, EntryType::File);
    e.size = bytes.len() as u64;
    e.content = Content::Inline(bytes.to_vec());
    e
}

fn data(writer: &mut PackWriter, bytes: &[u8]) -> Extent {
    let h = content_hash(ChunkKind::Data, bytes);
    writer.store(Route::Small, ChunkKind::Data, h, bytes).unwrap();
    Extent::Data { h, len: bytes.len() as u64 }
}

fn of_extents(writer: &mut PackWriter, name: &str, extents: impl IntoIterator<Item = Extent>) -> Entry {
    let mut builder = FileBuilder::new();
    extents.into_iter().for_each(|e| builder.push(writer, e).unwrap());
    let mut e = entry(name, EntryType::File);
    e.size = builder.len();
    e.content = builder.finish(writer).unwrap();
    e
}

fn entries(writer: &mut PackWriter) -> Vec<Entry> {
    let special = |name: &str, kind, rdev, target: &[u8]| Entry {
        rdev,
        target: target.to_vec(),
        size: target.len() as u64,
        ..entry(name, kind)
    };
    let mut all = vec![
        inline("empty", b""),
        inline("inline", &[b'i'; 256]),
        inline("n".repeat(255), b"the longest name"),
        inline(*b"not\xffutf8\n", b"a name that is no text"),
        special("block", EntryType::BlockDevice, nix::sys::stat::makedev(259, 0xf_ffff), b""),
        special("char", EntryType::CharDevice, nix::sys::stat::makedev(1, 3), b""),
        special("fifo", EntryType::Fifo, 0, b""),
        special("socket", EntryType::Socket, 0, b""),
        special("symlink", EntryType::Symlink, 0, b"../no where/\xff"),
        Entry { mode: 0o7777, mtime: FileTime { secs: -1, nanos: 1 }, ..inline("setuid", b"#!") },
        Entry { user: vec![], group: vec![], uid: u32::MAX, ..inline("unnamed", b"by number alone") },
        Entry { unstable: true, ..inline("unstable", b"kept changing") },
        Entry { unknown: vec![UnknownField { number: 1000, bytes: b"later".to_vec() }], ..inline("unknown", b"?") },
    ];
    let value = vec![b'v'; 4000];
    let Extent::Data { h, len } = data(writer, &value) else { unreachable!() };
    all.push(Entry {
        xattrs: vec![
            (b"security.capability".to_vec(), XattrValue::Inline(vec![1, 0, 0, 2])),
            (b"user.empty".to_vec(), XattrValue::Inline(vec![])),
            (b"user.large".to_vec(), XattrValue::Chunk { h, len: len as u32 }),
        ],
        ..inline("xattrs", b"x")
    });
    let (one, two) = (data(writer, &[b'1'; 5000]), data(writer, &[b'2'; 300]));
    let mut linked = of_extents(writer, "linked-a", [one, two]);
    linked.link_group = Some(*blake3::hash(b"linked-a").as_bytes());
    all.push(Entry { name: b"linked-b".to_vec(), ..linked.clone() });
    all.push(linked);
    all.push(of_extents(writer, "hole", [Extent::Hole { len: 1 << 20 }]));
    all.push(of_extents(writer, "holes", [Extent::Hole { len: 4096 }, one, Extent::Hole { len: 8192 }, two]));
    all.push(of_extents(writer, "indexed", (1..=20).flat_map(|n| [two, Extent::Hole { len: n }])));
    all.push(indexed_deep(writer));
    all.push(directory(writer, "empty-dir", vec![]));
    let many = (0..1500).map(|i| inline(format!("{:0>60}", i * 7), b"")).collect();
    all.push(directory(writer, "many", many));
    let fat = Entry {
        xattrs: (0..14).map(|i| (format!("user.{i:02}").into_bytes(), XattrValue::Inline(vec![i; 1000]))).collect(),
        ..inline("", b"")
    };
    let deep = (0..260).map(|i| Entry { name: format!("{i:0>250}").into_bytes(), ..fat.clone() }).collect();
    all.push(directory(writer, "many-deep", deep));
    let nested = (0..30)
        .fold(inline("bottom", b"30 levels down"), |below, i| directory(writer, &format!("nested-{i}"), vec![below]));
    all.push(nested);
    all
}

/// A file whose index has two levels of nodes above the lowest: made small by a chunk, and a node of it, whose hashes
/// begin with 0 and so end the node they stand in.
fn indexed_deep(writer: &mut PackWriter) -> Entry {
    let chosen = (0u64..)
        .map(|n| [n.to_le_bytes().to_vec(), vec![b'd'; 92]].concat())
        .find(|bytes| content_hash(ChunkKind::Data, bytes).expose()[0] == 0)
        .unwrap();
    let chunk = data(writer, &chosen);
    let node_of = |hole: &Extent| {
        let mut node = NodeWriter::extents();
        while node.len() < TREE_CHUNK_MIN {
            node.extent(hole);
            node.extent(&chunk);
        }
        content_hash(ChunkKind::Node, &node.into_vec())
    };
    let hole = (1u64..).map(|len| Extent::Hole { len }).find(|hole| node_of(hole).expose()[0] == 0).unwrap();
    of_extents(writer, "indexed-deep", (0..30_000).flat_map(|_| [hole, chunk]))
}

/// Real files, captured as `backup` does it.
struct Source {
    dir: PathBuf,
}

impl Source {
    fn new(scratch: &Path) -> Source {
        // Backed up by a relative path, so that the snapshot does not name this machine's directories.
        std::env::set_current_dir(scratch).unwrap();
        let src = scratch.join("src");
        std::fs::create_dir_all(src.join("sub/dir")).unwrap();
        let lines: String = (0..4000).map(|i| format!("line {i:05} of a captured file\n")).collect();
        std::fs::write(src.join("lines"), &lines).unwrap();
        std::fs::write(src.join("sub/dir/short"), &lines[..300]).unwrap();
        std::fs::write(src.join("sub/tiny"), b"tiny").unwrap();
        std::fs::hard_link(src.join("lines"), src.join("sub/lines-too")).unwrap();
        symlink("sub/tiny", src.join("link")).unwrap();
        std::fs::set_permissions(src.join("sub/tiny"), PermissionsExt::from_mode(0o4711)).unwrap();
        xattr::set(src.join("lines"), "user.note", b"captured").unwrap();
        xattr::set(src.join("sub"), "user.large", &[7; 2000]).unwrap();
        let sparse = std::fs::File::create(src.join("sparse")).unwrap();
        sparse.write_all_at(&[1; 5000], 1 << 20).unwrap();
        sparse.set_len(3 << 20).unwrap();
        nix::unistd::mkfifo(&src.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        use nix::sys::stat::{Mode, SFlag, makedev, mknod};
        mknod(&src.join("null"), SFlag::S_IFCHR, Mode::S_IRUSR, makedev(1, 3)).unwrap();
        Source { dir: scratch.to_owned() }
    }

    fn change(&self) {
        let src = self.dir.join("src");
        std::fs::File::options().write(true).open(src.join("lines")).unwrap().write_all_at(b"LINE", 60_000).unwrap();
        std::fs::remove_file(src.join("sub/dir/short")).unwrap();
        std::fs::write(src.join("sub/new"), [b'n'; 600]).unwrap();
    }

    fn backup(&self, repo: &Repository, tags: &[&str]) -> SnapshotId {
        let options = Options {
            source: Some("captured".into()),
            username: "nobody".into(),
            program: "golden 1".into(),
            tags: tags.iter().map(|t| t.to_string()).collect(),
            ..Options::new(vec!["src".into()], "golden")
        };
        let outcome = backup(repo, options, &Recording::default()).unwrap();
        assert_eq!(outcome.stats.errors, 0);
        outcome.snapshot.unwrap()
    }
}
