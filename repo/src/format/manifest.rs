//! A snapshot's sealed description. `docs/format.md` (Manifests) is normative.

use crate::error::{Error, Result};
use crate::format::record::Origin;
use crate::format::tree::{Content, Entry, EntryType, decode_content, encode_content};
use crate::format::wire::{Reader, Writer, version};
use crate::id::SnapshotId;

/// The version of the encoding that this program writes.
const VERSION: u8 = 1;
/// The most paths, and the most tags.
pub const MAX_LIST: usize = 65_536;
/// The longest text or path.
pub const MAX_TEXT: usize = 64 * 1024;

/// Totals of one capture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Regular files in the snapshot.
    pub files: u64,
    /// Directories in the snapshot.
    pub dirs: u64,
    /// Everything else in the snapshot.
    pub others: u64,
    /// Plaintext bytes of all files (holes included).
    pub bytes: u64,
    /// Files that were not in the parent.
    pub files_new: u64,
    /// Files whose content or attributes differ from the parent's.
    pub files_changed: u64,
    /// Files as they were in the parent.
    pub files_unmodified: u64,
    /// Directories that were not in the parent.
    pub dirs_new: u64,
    /// Directories whose listing or attributes differ.
    pub dirs_changed: u64,
    /// Directories as they were.
    pub dirs_unmodified: u64,
    /// Plaintext bytes of chunks that were new to the repository.
    pub data_added: u64,
    /// What those take in packs.
    pub data_stored: u64,
    /// Chunks that were new.
    pub chunks_new: u64,
    /// Sources that could not be read: the snapshot is partial when not 0.
    pub errors: u64,
    /// Files that changed while they were read.
    pub unstable: u64,
}

impl Stats {
    /// All totals in the order they are stored.
    pub(crate) fn values(&self) -> [u64; 15] {
        [
            self.files,
            self.dirs,
            self.others,
            self.bytes,
            self.files_new,
            self.files_changed,
            self.files_unmodified,
            self.dirs_new,
            self.dirs_changed,
            self.dirs_unmodified,
            self.data_added,
            self.data_stored,
            self.chunks_new,
            self.errors,
            self.unstable,
        ]
    }

    /// From what [`Stats::values`] gave.
    pub(crate) fn from_values(v: [u64; 15]) -> Stats {
        Stats {
            files: v[0],
            dirs: v[1],
            others: v[2],
            bytes: v[3],
            files_new: v[4],
            files_changed: v[5],
            files_unmodified: v[6],
            dirs_new: v[7],
            dirs_changed: v[8],
            dirs_unmodified: v[9],
            data_added: v[10],
            data_stored: v[11],
            chunks_new: v[12],
            errors: v[13],
            unstable: v[14],
        }
    }
}

/// What a snapshot is: enough to list it without opening a tree.
#[derive(Clone)]
pub struct Manifest {
    /// The snapshot's id, the same at every copy.
    pub id: SnapshotId,
    /// The host it was captured on.
    pub host: String,
    /// The source's name.
    pub source: String,
    /// The user who ran the capture.
    pub username: String,
    /// Name and version of the program.
    pub program: String,
    /// The paths that were asked for, as stored: absolute ones begin with `/`.
    pub paths: Vec<Vec<u8>>,
    /// Tags given at capture; later changes stand in the log.
    pub tags: Vec<String>,
    /// When the capture began, by the host's clock; nanoseconds since the epoch.
    pub captured: i64,
    /// When it ended.
    pub captured_end: i64,
    /// When the first repository recorded it.
    pub recorded: i64,
    /// The snapshot it was compared with.
    pub parent: Option<SnapshotId>,
    /// The root directory; its name means nothing.
    pub root: Entry,
    /// The stat sidecar, if kept.
    pub sidecar: Option<Content>,
    /// Totals.
    pub stats: Stats,
    /// At a pool: where it is from. The log says so too, but could be lost.
    pub origin: Option<Origin>,
}

impl Manifest {
    /// The plaintext to be sealed.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u8(VERSION);
        w.bytes(self.id.as_bytes());
        for text in [&self.host, &self.source, &self.username, &self.program] {
            w.lp_bytes(text.as_bytes());
        }
        w.varint(self.paths.len() as u64);
        self.paths.iter().for_each(|p| w.lp_bytes(p));
        w.varint(self.tags.len() as u64);
        self.tags.iter().for_each(|t| w.lp_bytes(t.as_bytes()));
        for time in [self.captured, self.captured_end, self.recorded] {
            w.i64(time);
        }
        w.lp_bytes(self.parent.as_ref().map_or(&[][..], |p| p.as_bytes()));
        let mut root = Vec::new();
        self.root.encode(&mut root);
        w.bytes(&root);
        w.lp_bytes(&self.sidecar.as_ref().map_or_else(Vec::new, encode_content));
        self.stats.values().iter().for_each(|v| w.varint(*v));
        self.origin.iter().for_each(|origin| origin.write(&mut w));
        w.into_vec()
    }

    /// Reads what [`Manifest::encode`] wrote for snapshot `id`.
    ///
    /// # Errors
    /// `Damaged` for other bytes or another snapshot's; `NewerFormat` for a later version.
    pub fn decode(bytes: &[u8], id: &SnapshotId) -> Result<Manifest> {
        let mut r = Reader::new(bytes);
        version(&mut r, VERSION, "manifest")?;
        if r.array::<32>()? != *id.as_bytes() {
            return Err(Error::damaged("a snapshot's file is another snapshot's"));
        }
        let [host, source, username, program] = [text(&mut r)?, text(&mut r)?, text(&mut r)?, text(&mut r)?];
        let paths = list(&mut r, |r| Ok(r.lp_bytes(MAX_TEXT)?.to_vec()))?;
        let tags = list(&mut r, text)?;
        let [captured, captured_end, recorded] = [r.i64()?, r.i64()?, r.i64()?];
        let parent = match r.lp_bytes(32)? {
            [] => None,
            bytes => Some(SnapshotId(bytes.try_into().map_err(|_| Error::damaged("a snapshot's parent is no id"))?)),
        };
        let root = Entry::decode(&mut r)?;
        if root.kind != EntryType::Dir {
            return Err(Error::damaged("a snapshot's root is no directory"));
        }
        let sidecar = match r.lp_bytes(MAX_TEXT)? {
            [] => None,
            bytes => match decode_content(bytes)? {
                Content::Dir(_) => return Err(Error::damaged("a snapshot's list of file times is a directory")),
                content => Some(content),
            },
        };
        let mut values = [0; 15];
        for v in &mut values {
            *v = r.varint()?;
        }
        let origin = if r.is_empty() { None } else { Some(Origin::read(&mut r)?) };
        r.finish()?;
        let stats = Stats::from_values(values);
        Ok(Manifest {
            id: *id,
            host,
            source,
            username,
            program,
            paths,
            tags,
            captured,
            captured_end,
            recorded,
            parent,
            root,
            sidecar,
            stats,
            origin,
        })
    }
}

fn text(r: &mut Reader<'_>) -> Result<String> {
    let bytes = r.lp_bytes(MAX_TEXT)?;
    String::from_utf8(bytes.to_vec()).map_err(|_| Error::damaged("a snapshot's file holds text that is not UTF-8"))
}

fn list<T>(r: &mut Reader<'_>, item: impl Fn(&mut Reader<'_>) -> Result<T>) -> Result<Vec<T>> {
    let n = r.varint()?;
    if n > MAX_LIST as u64 {
        return Err(Error::damaged("a snapshot's list is too long"));
    }
    (0..n).map(|_| item(r)).collect()
}
