//! Snapshots as a read-only filesystem.
//!
//! [`ops`] holds the semantics and knows nothing of FUSE; [`fuse`] carries its answers to the kernel; [`session`]
//! mounts, refreshes and unmounts. Modules are listed from the ground up; each imports only what stands above it.

pub mod view;
pub mod errno;
pub mod names;
pub mod number;
pub mod layout;
pub mod listing;
pub mod versions;
pub mod inode;
pub mod table;
pub mod prefetch;
pub mod ops;
mod awake;
pub mod fuse;
pub mod device;
pub mod signal;
pub mod session;
