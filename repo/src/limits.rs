//! Every size, depth and queue bound in one place. Nothing read from disk may exceed these, and it is checked before memory is set aside.

/// One kibibyte.
pub const KIB: usize = 1024;
/// One mebibyte.
pub const MIB: usize = 1024 * KIB;

/// The longest name of a directory entry, in bytes (`NAME_MAX`).
pub const MAX_NAME: usize = 255;
/// The longest symbolic link target, in bytes.
pub const MAX_SYMLINK: usize = 64 * KIB;
/// Extended attributes of one file: more than a listing of 64 KiB (`XATTR_LIST_MAX`) can name.
pub const MAX_XATTRS: usize = 32 * KIB;
/// An extended attribute's value up to this stays in the tree; above, it is a chunk of its own.
pub const XATTR_INLINE: usize = 1024;
/// Values of one file together up to this stay in the tree; the rest are chunks, so that the entry keeps within [`MAX_ENTRY`].
pub const XATTRS_INLINE: usize = 256 * KIB;
/// The longest extended attribute value (`XATTR_SIZE_MAX`).
pub const MAX_XATTR_VALUE: usize = 64 * KIB;
/// File contents up to this many bytes live in the tree.
pub const FILE_INLINE: usize = 256;
/// Extents up to this many live in the file's entry; more go to index nodes.
pub const EXTENTS_INLINE: usize = 8;
/// Directories nested deeper than this are refused.
pub const MAX_DEPTH: usize = 4096;
/// Index nodes above one another.
pub const MAX_NODE_DEPTH: u8 = 16;

/// A tree chunk is not cut before this many bytes …
pub const TREE_CHUNK_MIN: usize = 4 * KIB;
/// … is cut about here …
pub const TREE_CHUNK_AVG: usize = 16 * KIB;
/// … and is cut before an entry that would take it past this. One entry alone may be larger (its extended attributes).
pub const TREE_CHUNK_MAX: usize = 64 * KIB;
/// The largest encoding of one entry.
pub const MAX_ENTRY: usize = 1024 * KIB;

/// The longest that a chunker may be told to make a chunk.
pub const MAX_CHUNK: usize = MIB;
/// Small data chunks are grouped into frames of about this raw size.
pub const FRAME_GROUP: usize = 2 * MIB;
/// Chunks of a large file are grouped up to this raw size; a larger chunk stands alone.
pub const FRAME_GROUP_LARGE: usize = MIB;
/// Tree chunks are grouped into frames of at most this raw size, unless one chunk alone is larger.
pub const FRAME_GROUP_TREE: usize = 64 * KIB;
/// The largest raw size of any frame: the bound for decompression.
pub const MAX_FRAME_RAW: usize = 2 * MIB;
/// Chunks in one frame (12 bits in the index).
pub const MAX_FRAME_CHUNKS: usize = 4096;
/// Frames in one pack (20 bits in the index).
pub const MAX_PACK_FRAMES: usize = 1 << 20;
/// Chunks after which a pack is closed, whatever its size: tiny, similar files compress so well that its footer would
/// else outgrow [`MAX_FOOTER`]. One frame may pass it.
pub const PACK_CHUNKS: usize = 1 << 18;
/// Default size at which a pack is closed.
pub const PACK_SIZE: usize = 32 * MIB;
/// The smallest pack size that can be configured.
pub const PACK_SIZE_MIN: usize = 4 * MIB;
/// The largest pack size that can be configured. A pack may pass its size by one frame and its footer.
pub const PACK_SIZE_MAX: usize = 64 * MIB;
/// The largest sealed footer.
pub const MAX_FOOTER: usize = 64 * MIB;
/// A pack's whole file: frames may pass the pack size by one of them, and the footer follows.
pub const MAX_PACK: usize = 2 * PACK_SIZE_MAX + MAX_FOOTER;
/// The largest sealed manifest.
pub const MAX_MANIFEST: usize = 16 * MIB;
/// The largest sealed log record (checkpoints grow with the number of snapshots).
pub const MAX_LOG_RECORD: usize = 256 * MIB;
/// The largest config and key slot.
pub const MAX_SMALL_OBJECT: usize = 256 * KIB;

/// Space kept back so that a full disk can still forget and prune.
pub const RESERVE: u64 = 64 * 1024 * 1024;

/// Decoded frames kept by a reader, in bytes.
pub const FRAME_CACHE: usize = 64 * MIB;
/// Decoded footers kept by a reader, in bytes.
pub const FOOTER_CACHE: usize = 32 * MIB;
