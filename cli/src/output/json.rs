//! Messages for programs: one JSON object a line, told apart by `message_type`, with restic's field names where restic has
//! the field. Fields may be added, never renamed. Messages of type `error` and `exit_error` go to standard error.

mod found;
mod keys;
mod look;
mod work;

pub use found::*;
pub use keys::*;
pub use look::*;
pub use work::*;

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
