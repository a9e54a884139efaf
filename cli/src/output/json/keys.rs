//! Messages of `key`.

use serde::Serialize;

use super::Time;

/// `recovery_code`: a new one. It is in a message of its own because nothing prints it again.
#[derive(Serialize)]
#[serde(tag = "message_type", rename = "recovery_code")]
pub struct RecoveryCode<'a> {
    /// 14 groups of four letters and digits.
    pub recovery_code: &'a str,
}

/// `key`: a line of `key list`.
#[derive(Debug, Serialize)]
#[serde(tag = "message_type", rename = "key")]
pub struct KeySlot {
    /// The slot's name under `keys/`.
    pub id: String,
    /// `password`, `recovery-code`, `x25519`, `owner`, `unreadable`.
    pub kind: &'static str,
    /// Absent if the slot cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<Time>,
    /// False for the owner's key.
    pub opens_repository: bool,
    /// Why it cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A slot by id and label.
#[derive(Debug, Serialize)]
pub struct SlotName {
    /// The slot's name under `keys/`.
    pub id: String,
    /// Absent if it has none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub label: String,
}

impl SlotName {
    /// Of a slot.
    pub fn new(id: &str, label: &str) -> SlotName {
        SlotName { id: id.to_owned(), label: label.to_owned() }
    }
}

/// `key_changed`: a slot came or went.
#[derive(Debug, Serialize)]
#[serde(tag = "message_type", rename = "key_changed")]
pub struct KeyChanged {
    /// `added` or `removed`.
    pub action: &'static str,
    /// Which.
    #[serde(flatten)]
    pub slot: SlotName,
}

/// `key_rotated`.
#[derive(Debug, Serialize)]
#[serde(tag = "message_type", rename = "key_rotated")]
pub struct KeyRotated {
    /// The key epoch in force.
    pub epoch: u32,
    /// Slots that are gone because nobody gave their password.
    pub dropped: Vec<SlotName>,
    /// Whether the new recovery code also holds the owner's key.
    pub owner_moved: bool,
}
