//! Messages of operations that work on many files: how far they are, and what came of them.

use serde::Serialize;

use super::Time;

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
