//! Encodings of everything stored: pure functions, no I/O.
pub mod wire;
pub mod config;
pub mod slot;
pub mod pack;
pub mod footer;
pub mod tree;
pub mod node;
pub mod manifest;
pub mod sidecar;
pub mod record;
