//! Messages that show what is stored: snapshots, entries, matches, differences, sizes; and a new repository.

use repo::format::record::{SnapshotState, State};
use repo::history::tenant_of;
use serde::Serialize;

use super::{MountPath, PathField, Time};

/// At a pool: whose a snapshot is. Nothing elsewhere.
#[derive(Debug, Default, Serialize)]
pub struct Whose {
    /// The tenant's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The snapshot's id at the tenant's own repository, all 64 digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original: Option<String>,
}

impl Whose {
    /// Of a snapshot in `state`.
    pub fn of(state: &State, snapshot: &SnapshotState) -> Whose {
        let original = snapshot.origin.map(|origin| origin.id.to_hex());
        Whose { tenant: tenant_of(state, snapshot), original }
    }
}

/// `snapshot`: a line of `snapshots`, and the first of `ls`.
#[derive(Debug, Serialize)]
#[serde(tag = "message_type", rename = "snapshot")]
pub struct Snapshot {
    /// Captured, by the host's clock.
    pub time: Time,
    /// Recorded, by the repository's.
    pub recorded: Time,
    /// The snapshot it was compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// As given to backup.
    pub paths: Vec<String>,
    /// Whose.
    #[serde(flatten)]
    pub whose: Whose,
    /// The host.
    pub hostname: String,
    /// The source.
    pub source: String,
    /// Absent if there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Absent if the snapshot has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<SnapshotSummary>,
    /// If forgotten: until when it can be brought back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_until: Option<Time>,
    /// Something could not be read.
    pub incomplete: bool,
    /// All 64 digits.
    pub id: String,
    /// The first eight.
    pub short_id: String,
}

/// What a snapshot says of its making.
#[derive(Debug, Default, Serialize)]
pub struct SnapshotSummary {
    /// Not there before.
    pub files_new: u64,
    /// Content or attributes differ.
    pub files_changed: u64,
    /// As before.
    pub files_unmodified: u64,
    /// Bytes new to the repository, before compression.
    pub data_added: u64,
    /// Bytes new to the repository, as stored.
    pub data_added_packed: u64,
    /// In scope.
    pub total_files_processed: u64,
    /// In scope.
    pub total_bytes_processed: u64,
}

/// What `ls` and `find` say of an entry.
#[derive(Debug, Serialize)]
pub struct Node {
    /// The last component, as text.
    pub name: String,
    /// `file`, `dir`, `symlink`, `fifo`, `socket`, `dev`, `chardev`.
    pub r#type: &'static str,
    /// Where.
    #[serde(flatten)]
    pub path: PathField,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Bytes; absent for what has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Permission and type bits.
    pub mode: u32,
    /// The same as text.
    pub permissions: String,
    /// Modified.
    pub mtime: Time,
    /// A symlink's target, as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub linktarget: Option<String>,
}

/// `node`: a line of `ls`.
#[derive(Debug, Serialize)]
#[serde(tag = "message_type", rename = "node")]
pub struct LsNode {
    /// The entry.
    #[serde(flatten)]
    pub node: Node,
}

/// `match`: a line of `find`, one version of one path.
#[derive(Debug, Serialize)]
#[serde(tag = "message_type", rename = "match")]
pub struct FindMatch {
    /// The entry.
    #[serde(flatten)]
    pub node: Node,
    /// Whose the newest snapshot is.
    #[serde(flatten)]
    pub whose: Whose,
    /// The host.
    pub hostname: String,
    /// The source.
    pub source: String,
    /// The newest snapshot that has this version.
    pub snapshot: String,
    /// The first snapshot with it was captured.
    pub first_seen: Time,
    /// The last snapshot with it was captured.
    pub last_seen: Time,
    /// How many snapshots have it.
    pub hits: u64,
    /// Below a mount's directory.
    #[serde(flatten)]
    pub mount_path: MountPath,
}

/// `change`: a line of `diff`.
#[derive(Debug, Serialize)]
#[serde(tag = "message_type", rename = "change")]
pub struct Change {
    /// Where.
    #[serde(flatten)]
    pub path: PathField,
    /// `+` added, `-` removed, `M` content, `T` type, `U` metadata.
    pub modifier: String,
}

/// `statistics`: the last line of `diff`.
#[derive(Debug, Default, Serialize)]
#[serde(tag = "message_type", rename = "statistics")]
pub struct DiffStatistics {
    /// The older.
    pub source_snapshot: String,
    /// The newer.
    pub target_snapshot: String,
    /// Of which the content changed.
    pub changed_files: u64,
    /// Only in the newer.
    pub added: DiffSide,
    /// Only in the older.
    pub removed: DiffSide,
}

/// One side of a difference.
#[derive(Debug, Default, Serialize)]
pub struct DiffSide {
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub dirs: u64,
    /// Everything else.
    pub others: u64,
    /// Of files, before deduplication.
    pub bytes: u64,
}

/// `stats`: one for the whole, and one for each host and source.
#[derive(Debug, Default, Serialize)]
#[serde(tag = "message_type", rename = "stats")]
pub struct Stats {
    /// At a pool; absent for the whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Absent for the whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Absent for the whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// How many.
    pub snapshots_count: u64,
    /// In all of them.
    pub total_file_count: u64,
    /// Of all files in all snapshots.
    pub total_restore_size: u64,
    /// Each chunk once, before compression.
    pub total_uncompressed_size: u64,
    /// As stored.
    pub total_size: u64,
    /// Different chunks.
    pub total_blob_count: u64,
    /// Uncompressed by stored size.
    pub compression_ratio: f64,
    /// Percent.
    pub compression_space_saving: f64,
}

/// `initialized`: of `init`. The recovery code is in it because nothing prints it again.
#[derive(Serialize)]
#[serde(tag = "message_type", rename = "initialized")]
pub struct Initialized<'a> {
    /// The repository's id.
    pub id: String,
    /// Where it is.
    pub repository: PathField,
    /// Absent with `--no-recovery-code`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery_code: Option<&'a str>,
}

/// `version`.
#[derive(Debug, Serialize)]
#[serde(tag = "message_type", rename = "version")]
pub struct Version {
    /// Of the program.
    pub version: &'static str,
    /// The operating system it was built for.
    pub os: &'static str,
    /// The processor it was built for.
    pub arch: &'static str,
}
