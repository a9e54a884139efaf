//! Moving snapshots between repositories: the protocol, the sender, the receiver, and SSH below them.
//!
//! Everything above `ssh` runs over any byte stream ([`stream::Duplex`]), so that it is tested without a network.

pub mod agent;
mod delta;
pub mod directory;
pub mod drive;
pub mod estimate;
pub mod fetch;
pub mod heal;
pub mod invitation;
pub mod pending;
pub mod pull;
pub mod push;
pub mod remote;
pub mod remote_backend;
pub mod sealed;
pub mod serve;
pub mod ssh;
pub mod stream;
pub mod throttle;
pub mod wire;
