//! What is said to a client, by whoever has something to say, one message at a time.

use std::sync::Arc;

use parking_lot::Mutex;
use repo::error::{Error, Kind, Result};

use super::Visit;
use crate::wire::{Fail, Message, Sender};

/// The sending half, until this side has failed: after that nothing more may be said.
pub struct Out(Mutex<Option<Sender>>, Arc<Visit>);

impl Out {
    /// Speaks through `sender`, and notes what becomes of what came.
    pub fn new(sender: Sender, visit: Arc<Visit>) -> Out {
        Out(Mutex::new(Some(sender)), visit)
    }

    /// Says it now.
    ///
    /// # Errors
    /// `Interrupted` after [`Out::fail`]; what the link gives.
    pub fn tell(&self, message: &Message) -> Result<()> {
        self.1.said(message);
        let mut sender = self.0.lock();
        let sender = sender.as_mut().ok_or_else(|| Error::new(Kind::Interrupted, "the push has failed"))?;
        sender.send(message)?;
        sender.flush()
    }

    /// Says why this side ends, unless it did before. The link may be what failed.
    pub fn fail(&self, e: &Error) {
        if let Some(mut sender) = self.0.lock().take() {
            let _ = sender.send(&Message::Fail(Fail::of(e))).and_then(|()| sender.flush());
        }
    }
}
