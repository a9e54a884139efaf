//! Messages of commands that look.

use serde::Serialize;

use super::{PathField, Time, Whose};

/// `source`: a line of `status`, one host and source.
#[derive(Debug, Serialize)]
#[serde(tag = "message_type", rename = "source")]
pub struct SourceStatus {
    /// Whose the newest snapshot is.
    #[serde(flatten)]
    pub whose: Whose,
    /// The host.
    pub hostname: String,
    /// The source.
    pub source: String,
    /// Its newest snapshot.
    pub snapshot_id: String,
    /// Captured, by the host's clock.
    pub time: Time,
    /// Received, by the repository's clock.
    pub received: Time,
    /// Since the earlier of the two, as far as the log does not contradict them.
    pub age_seconds: u64,
    /// How many snapshots there are.
    pub snapshots_count: u64,
    /// Its time is in the future, so its age is in doubt.
    pub in_future: bool,
    /// Older than `--max-age`, or in doubt.
    pub late: bool,
}

/// `repository_status`: the last line of `status`.
#[derive(Debug, Serialize)]
#[serde(tag = "message_type", rename = "repository_status")]
pub struct RepositoryStatus {
    /// Whether anything is late: the exit code is then 5, as for the next two.
    pub late: bool,
    /// Whether damage is known that is not healed.
    pub damage_open: bool,
    /// Whether this machine has seen a later or another state of the repository.
    pub rolled_back: bool,
    /// The last check of any kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_check: Option<CheckStatus>,
    /// The last check that read data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_data_check: Option<CheckStatus>,
    /// The last check that read all data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_full_check: Option<CheckStatus>,
    /// Packs known to be damaged.
    pub damaged_packs: u64,
    /// Writers at work, or dead and not yet cleared up.
    pub sessions: u64,
    /// Snapshots that can still be brought back.
    pub forgotten_snapshots: u64,
}

/// A check's result.
#[derive(Debug, Serialize)]
pub struct CheckStatus {
    /// Ended.
    pub time: Time,
    /// Nothing was wrong.
    pub ok: bool,
    /// What was wrong has been healed since.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub healed: bool,
    /// `structure`, `subset` or `full`.
    pub kind: &'static str,
    /// The part that was asked for; empty for all.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subset: String,
}

/// `tagged`: a snapshot's tags were changed.
#[derive(Debug, Serialize)]
#[serde(tag = "message_type", rename = "tagged")]
pub struct Tagged {
    /// The snapshot.
    pub snapshot_id: String,
    /// Whose.
    #[serde(flatten)]
    pub whose: Whose,
    /// Its tags now.
    pub tags: Vec<String>,
}

/// `log_record`: a line of `log`.
#[derive(Debug, Serialize)]
#[serde(tag = "message_type", rename = "log_record")]
pub struct LogRecord {
    /// Its number.
    pub seq: u64,
    /// Written, by the writer's clock.
    pub time: Time,
    /// What happened, in a word.
    pub kind: &'static str,
    /// At a pool: the tenant it concerns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The same in a line for people.
    pub message: String,
}

/// Where a mount shows something.
#[derive(Debug, Serialize)]
pub struct MountPath {
    /// Below the mount's directory; undecodable bytes are replaced by U+FFFD.
    pub mount_path: String,
    /// Present only if the path is no UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount_path_b64: Option<String>,
}

impl MountPath {
    /// Of a path's raw bytes.
    pub fn new(raw: &[u8]) -> MountPath {
        let PathField { path, path_b64 } = PathField::new(raw);
        MountPath { mount_path: path, mount_path_b64: path_b64 }
    }
}

/// `mounted`: what `mount` says once the mount can be used.
#[derive(Debug, Serialize)]
#[serde(tag = "message_type", rename = "mounted")]
pub struct Mounted {
    /// The mount point.
    #[serde(flatten)]
    pub at: PathField,
}
