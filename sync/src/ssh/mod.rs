//! The carrier: mutually authenticated, encrypted channels over SSH, as blocking [`Duplex`](crate::stream::Duplex) streams.
//!
//! The only place that knows tokio and russh; nothing of either shows in what it offers. What it guarantees above plain SSH:
//!
//! - **Credit.** Within a channel each side may send only what the other has granted, and a grant is made for what was
//!   really read (`credit`). SSH's own windows are no such promise here: russh gives window back as its loop reads, and
//!   one full channel then stops all others of the connection.
//! - **No standstill.** A connection whose writes wait goes on reading, within what was granted (`socket`).
//! - **Ends are told apart.** A dropped writer is a clean end; a lost link, a cut or a panic is an error.

use std::sync::OnceLock;

use parking_lot::Mutex;
use repo::error::{Error, Kind, Result};
use tokio::runtime::Runtime;

pub mod client;
pub mod keys;
pub mod server;
pub mod url;

mod bridge;
mod credit;
mod doorway;
mod socket;
mod tuning;
#[cfg(test)]
mod tests;

/// What a client asks for on a channel. Nothing else is served.
pub const SUBSYSTEM: &str = "packmule";

/// Channels that one connection carries at a time. More than two could bring in more during a change of keys than russh
/// holds, which ends the connection.
pub const CHANNELS: usize = 2;

/// Whether what failed may well work later: nobody could be reached, the connection was lost, or the server is full.
pub fn is_transient(error: &Error) -> bool {
    error.kind() == Kind::Unreachable
}

/// An error of a channel's reading or writing half as one with a remedy; `whom` is the other side's address.
pub fn lost(whom: &str, error: std::io::Error) -> Error {
    Error::new(Kind::Unreachable, format!("the connection to {whom} is lost: {error}")).remedy("try again later")
}

/// Text that came from the other side, fit for one line of a terminal.
fn tame(text: &str) -> String {
    let short: String = text.chars().take(200).collect();
    repo::error::printable(std::path::Path::new(&short))
}

/// The threads that carry every connection of this process; made when first needed, never ended.
fn runtime() -> Result<&'static Runtime> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    static MAKING: Mutex<()> = Mutex::new(());
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let _one = MAKING.lock();
    if RUNTIME.get().is_none() {
        let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
        let made = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("packmule-ssh")
            .enable_all()
            .build()
            .map_err(|e| Error::io("start the network threads of", "packmule", e))?;
        let _ = RUNTIME.set(made);
    }
    RUNTIME.get().ok_or_else(|| Error::new(Kind::Bug, "the network threads are gone"))
}
