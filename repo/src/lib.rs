//! The repository: packs, trees, snapshots, log and index, and one operation a module over them.
//!
//! Modules are listed from the ground up; each imports only what stands above it (`scripts/check-layers`).

pub mod id;
pub mod path;
pub mod limits;
pub mod error;
pub mod monitor;
pub mod clock;
pub mod mount_table;

pub mod crypto;
pub mod compress;
pub mod chunker;
pub mod format;

pub mod backend;
pub mod keyslots;

pub mod lock;
pub mod log;

pub mod index;

pub mod pack;
pub mod tree;

pub mod session;
pub mod follow;
pub mod rebuild;
pub mod open;
pub mod sweep;
pub mod mend;

pub mod times;
pub mod tenants;
pub mod agents;
pub mod history;

pub mod snapshots;
pub mod select;
pub mod capture;
pub mod restore;
pub mod ls;
pub mod diff;
pub mod find;
pub mod dump;
pub mod check;
pub mod retention;
pub mod policy;
pub mod forget;
pub mod prune;
pub mod stats;
pub mod tag;
pub mod receive;
pub mod status;
pub mod audit;
pub mod removal;
