//! What one side may make the other set memory aside for. `docs/protocol.md` (Limits) tells the same.

use repo::limits::{KIB, MIB};

/// The longest message: its kind and body, without the length before them.
pub const MAX_MESSAGE: usize = MIB + 64;
/// The most bytes of one `Data`.
pub const MAX_DATA: usize = 256 * KIB;
/// The longest preface, behind its length.
pub const MAX_PREFACE: usize = 2 * KIB;
/// The most features that one side names.
pub const MAX_FEATURES: usize = 32;
/// The longest name of a feature.
pub const MAX_FEATURE: usize = 32;
/// The most chunks that are asked about, asked for or missed in one message.
pub const MAX_PIECES: usize = 16384;
/// The most objects of a connection's past that `Ready` tells of.
pub const MAX_PARTIAL: usize = 4096;
/// The most snapshots of one page.
pub const MAX_SNAPSHOTS: usize = 16384;
/// The most objects of one page.
pub const MAX_LISTING: usize = 4096;
/// The largest order to delete.
pub const MAX_ORDER: u64 = 16 * MIB as u64;
/// The largest object.
pub const MAX_OBJECT: u64 = 256 * MIB as u64;
/// The largest sealed manifest.
pub const MAX_MANIFEST: u64 = repo::limits::MAX_MANIFEST as u64;
/// The largest frame, compressed or not.
pub const MAX_FRAME: u32 = repo::limits::MAX_FRAME_RAW as u32;
/// The most chunks of one frame.
pub const MAX_FRAME_CHUNKS: usize = repo::limits::MAX_FRAME_CHUNKS;
/// The longest name of a tenant.
pub const MAX_TENANT: usize = 64;
/// The longest name of a program, host or key.
pub const MAX_LABEL: usize = 255;
/// The longest public host key, as OpenSSH writes it.
pub const MAX_HOST_KEY: usize = KIB;
/// The largest keyring.
pub const MAX_KEYRING: usize = 256 * KIB;
/// The most that a tenant leaves at a pool for the day on which its repository is lost.
pub const MAX_BELONGINGS: usize = 256 * KIB;
/// The most drives whose receipts are asked for in one message, and the most receipts of an answer.
pub const MAX_DRIVES: usize = 32;
/// The longest receipt.
pub const MAX_RECEIPT: usize = 16 * KIB;
/// The longest text meant for people.
pub const MAX_TEXT: usize = 4 * KIB;
/// The longest name of a file of state.
pub const MAX_STATE_NAME: usize = 192;
/// The longest part of it between slashes.
pub const MAX_STATE_PART: usize = 64;
/// The most such parts.
pub const MAX_STATE_PARTS: usize = 4;
