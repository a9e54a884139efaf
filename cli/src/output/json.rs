//! Messages for programs: one JSON object a line, told apart by `message_type`, with restic's field names where restic has
//! the field. Fields may be added, never renamed. Messages of type `error` and `exit_error` go to standard error.

mod keys;
mod look;

pub use keys::*;
pub use look::*;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use repo::error::{Error, Result};
use serde::{Serialize, Serializer};

/// One message as a line.
///
/// # Errors
/// `Bug`: messages are plain data.
pub fn line(message: &impl Serialize) -> Result<Vec<u8>> {
    let mut line =
        serde_json::to_vec(message).map_err(|e| Error::bug(format!("cannot write a message as JSON: {e}")))?;
    line.push(b'\n');
    Ok(line)
}

/// Raw bytes that need not be UTF-8, in standard base64 with padding.
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word = group.iter().fold(0u32, |w, b| w << 8 | u32::from(*b)) << (8 * (3 - group.len()));
        for digit in 0..4 {
            let index = (word >> (18 - 6 * digit)) & 63;
            out.push(if digit <= group.len() { DIGITS[index as usize] as char } else { '=' });
        }
    }
    out
}

/// A path: as text, and if that is not exact also as base64 of its bytes.
#[derive(Clone, Debug, Serialize)]
pub struct PathField {
    /// Undecodable bytes are replaced by U+FFFD.
    pub path: String,
    /// Present only if the path is no UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_b64: Option<String>,
}

impl PathField {
    /// Of a path's raw bytes.
    pub fn new(raw: &[u8]) -> PathField {
        match std::str::from_utf8(raw) {
            Ok(text) => PathField { path: text.to_owned(), path_b64: None },
            Err(_) => PathField { path: String::from_utf8_lossy(raw).into_owned(), path_b64: Some(base64(raw)) },
        }
    }
}

/// A time in RFC 3339 with nanoseconds, in the local zone, as restic writes it.
#[derive(Clone, Copy, Debug)]
pub struct Time(pub Timestamp);

impl Time {
    /// Of the engine's times, all of which a calendar holds.
    pub fn of(time: repo::clock::Time) -> Time {
        Time(super::human::timestamp(time))
    }

    /// Nanoseconds since the epoch; none for what no calendar holds.
    pub fn from_nanos(nanos: i64) -> Option<Time> {
        Timestamp::from_nanosecond(nanos.into()).ok().map(Time)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let zoned = self.0.to_zoned(TimeZone::system());
        let offset = zoned.offset();
        serializer.collect_str(&self.0.display_with_offset(offset))
    }
}

/// `exit_error`: why the command ends, last on standard error.
#[derive(Debug, Serialize)]
#[serde(tag = "message_type", rename = "exit_error")]
pub struct ExitError {
    /// The exit code.
    pub code: u8,
    /// One line.
    pub message: String,
}

/// `error`: one item failed and the operation goes on.
#[derive(Debug, Serialize)]
#[serde(tag = "message_type", rename = "error")]
pub struct ItemError {
    /// Why.
    pub error: Message,
    /// What was done to it.
    pub during: String,
    /// Its path.
    pub item: String,
    /// Its path's bytes if it is no UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item_b64: Option<String>,
}

/// A text, as restic nests it.
#[derive(Debug, Serialize)]
pub struct Message {
    /// One line.
    pub message: String,
}

/// `notice` and `warning`: remarks about the operation as a whole.
#[derive(Debug, Serialize)]
#[serde(tag = "message_type", rename_all = "snake_case")]
pub enum Remark<'a> {
    /// Good to know.
    Notice {
        /// One line.
        message: &'a str,
    },
    /// Something is off.
    Warning {
        /// One line.
        message: &'a str,
    },
}

/// `verbose_status`: one item is finished.
#[derive(Debug, Serialize)]
#[serde(tag = "message_type", rename = "verbose_status")]
pub struct VerboseStatus<'a> {
    /// `new`, `modified`, `unchanged`, `restored`, `updated`, `deleted`.
    pub action: &'a str,
    /// Its path.
    pub item: String,
    /// Its path's bytes if it is no UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item_b64: Option<String>,
    /// Bytes.
    pub data_size: u64,
}

/// `status` of any operation but a restore.
#[derive(Debug, Serialize)]
#[serde(tag = "message_type", rename = "status")]
pub struct Status {
    /// Since the operation began.
    pub seconds_elapsed: u64,
    /// Estimated; absent while unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds_remaining: Option<u64>,
    /// From 0 to 1.
    pub percent_done: f64,
    /// 0 while unknown.
    pub total_files: u64,
    /// Finished.
    pub files_done: u64,
    /// 0 while unknown.
    pub total_bytes: u64,
    /// Finished.
    pub bytes_done: u64,
    /// Things that failed so far.
    pub error_count: u64,
    /// Bytes written to or read from the repository.
    pub bytes_stored: u64,
    /// What is being done; empty for an operation of one phase.
    pub phase: String,
}

/// `status` of a restore.
#[derive(Debug, Serialize)]
#[serde(tag = "message_type", rename = "status")]
pub struct RestoreStatus {
    /// Since the operation began.
    pub seconds_elapsed: u64,
    /// Estimated; absent while unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds_remaining: Option<u64>,
    /// From 0 to 1.
    pub percent_done: f64,
    /// 0 while unknown.
    pub total_files: u64,
    /// Finished.
    pub files_restored: u64,
    /// 0 while unknown.
    pub total_bytes: u64,
    /// Finished.
    pub bytes_restored: u64,
    /// Things that failed so far.
    pub error_count: u64,
}

/// `summary` of a backup.
#[derive(Debug, Default, Serialize)]
#[serde(tag = "message_type", rename = "summary")]
pub struct BackupSummary {
    /// Not there before.
    pub files_new: u64,
    /// Content or attributes differ.
    pub files_changed: u64,
    /// As before.
    pub files_unmodified: u64,
    /// Not there before.
    pub dirs_new: u64,
    /// Content or attributes differ.
    pub dirs_changed: u64,
    /// As before.
    pub dirs_unmodified: u64,
    /// New chunks of file content.
    pub data_blobs: u64,
    /// New chunks of listings.
    pub tree_blobs: u64,
    /// Bytes new to the repository, before compression.
    pub data_added: u64,
    /// Bytes new to the repository, as stored.
    pub data_added_packed: u64,
    /// In scope.
    pub total_files_processed: u64,
    /// In scope.
    pub total_bytes_processed: u64,
    /// Seconds.
    pub total_duration: f64,
    /// Things that could not be read.
    pub error_count: u64,
    /// Began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup_start: Option<Time>,
    /// Ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup_end: Option<Time>,
    /// The snapshot; absent if none was recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_id: Option<String>,
    /// Nothing was stored.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// `summary` of a restore.
#[derive(Debug, Default, Serialize)]
#[serde(tag = "message_type", rename = "summary")]
pub struct RestoreSummary {
    /// Seconds.
    pub seconds_elapsed: u64,
    /// In scope.
    pub total_files: u64,
    /// Written.
    pub files_restored: u64,
    /// Right already, or not to be overwritten.
    pub files_skipped: u64,
    /// By `--delete`.
    pub files_deleted: u64,
    /// In scope.
    pub total_bytes: u64,
    /// Written.
    pub bytes_restored: u64,
    /// Right already, or not to be overwritten.
    pub bytes_skipped: u64,
    /// Things that failed.
    pub error_count: u64,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn text(message: &impl Serialize) -> String {
        String::from_utf8(line(message).unwrap()).unwrap()
    }

    #[test]
    fn base64_vectors() {
        // RFC 4648, section 10.
        for (plain, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfd]), "//79");
    }

    #[test]
    fn undecodable_paths_come_twice() {
        let change = Change { path: PathField::new(b"/a\xff"), modifier: "+".into() };
        let expected =
            "{\"message_type\":\"change\",\"path\":\"/a\u{fffd}\",\"path_b64\":\"L2H/\",\"modifier\":\"+\"}\n";
        assert_eq!(text(&change), expected);
        let change = Change { path: PathField::new("/ä".as_bytes()), modifier: "M".into() };
        assert_eq!(text(&change), "{\"message_type\":\"change\",\"path\":\"/ä\",\"modifier\":\"M\"}\n");
    }

    #[test]
    fn messages_carry_their_type_and_restic_names() {
        let exit = ExitError { code: 10, message: "no".into() };
        assert_eq!(text(&exit), "{\"message_type\":\"exit_error\",\"code\":10,\"message\":\"no\"}\n");
        let summary = serde_json::to_value(BackupSummary::default()).unwrap();
        assert_eq!(summary["message_type"], "summary");
        for field in ["files_new", "files_unmodified", "data_added", "total_bytes_processed", "total_duration"] {
            assert!(summary.get(field).is_some(), "{field}");
        }
        assert!(summary.get("snapshot_id").is_none() && summary.get("dry_run").is_none());
        let error = ItemError {
            error: Message { message: "why".into() },
            during: "scan".into(),
            item: "/x".into(),
            item_b64: None,
        };
        let expected =
            "{\"message_type\":\"error\",\"error\":{\"message\":\"why\"},\"during\":\"scan\",\"item\":\"/x\"}\n";
        assert_eq!(text(&error), expected);
    }

    #[test]
    fn nodes_are_flat() {
        let node = Node {
            name: "b".into(),
            r#type: "file",
            path: PathField::new(b"/a/b"),
            uid: 1,
            gid: 2,
            size: Some(3),
            mode: 0o100644,
            permissions: "-rw-r--r--".into(),
            mtime: Time("2026-11-17T17:00:00.5Z".parse().unwrap()),
            linktarget: None,
        };
        let value = serde_json::to_value(LsNode { node }).unwrap();
        assert_eq!(value["message_type"], "node");
        assert_eq!((&value["type"], &value["path"]), (&"file".into(), &"/a/b".into()));
        let time: jiff::Timestamp = value["mtime"].as_str().unwrap().parse().unwrap();
        assert_eq!(time, "2026-11-17T17:00:00.5Z".parse().unwrap());
    }
}
