//! Where a copy is kept, as a push sees it: a directory here, or a pool at the other end of a connection.

use std::path::PathBuf;

use repo::backend::{Area, Backend, Object, Put};
use repo::error::Result;
use repo::format::record::Position;
use repo::id::{DriveId, LogHash};
use repo::limits::MAX_LOG_RECORD;

/// Objects looked for by one thread, where several look.
const SOME: usize = 256;

/// A place for a copy. Puts may run ahead of what is durable; [`Target::settle`] waits for that.
pub trait Target: Sync {
    /// How far the copy's log reaches; none if it has none.
    fn watermark(&self) -> Result<Option<Position>>;

    /// Many packs may have to be sent.
    fn expect_many(&self) {}

    /// Objects that were there and are damaged or lost, as far as the place knows.
    fn wanted(&self) -> Vec<Object>;

    /// For each of these, whether it is absent or of another size.
    fn missing(&self, objects: &[(Object, u64)]) -> Result<Vec<bool>>;

    /// Has an object that is missing put there; objects become durable in the order in which they were put.
    fn put(&self, object: &Object, bytes: &[u8]) -> Result<()>;

    /// Waits until everything that was put is durable.
    ///
    /// # Errors
    /// What the place would not take, by name.
    fn settle(&self) -> Result<()>;

    /// Whether key slots that a password opens may lie there.
    fn keeps_passwords(&self) -> bool;

    /// Where an object is or would be, for messages.
    fn path(&self, object: &Object) -> PathBuf;

    /// The receipts of these drives, where they are taken in by somebody.
    ///
    /// # Errors
    /// What the place gives.
    fn receipts(&self, _drives: &[DriveId]) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// The copy, where a push may also remove from it; none where nobody may without an order.
    fn owned(&self) -> Option<&dyn Backend>;
}

/// A copy in a directory, or in any other backend that is this machine's to change.
pub struct Directory<'a>(pub &'a dyn Backend);

impl Target for Directory<'_> {
    fn watermark(&self) -> Result<Option<Position>> {
        newest(self.0)
    }

    fn wanted(&self) -> Vec<Object> {
        Vec::new()
    }

    fn missing(&self, objects: &[(Object, u64)]) -> Result<Vec<bool>> {
        let look = |some: &[(Object, u64)]| -> Result<Vec<bool>> {
            some.iter().map(|(object, size)| Ok(self.0.size(object)? != Some(*size))).collect()
        };
        // On a NAS each costs a round trip.
        let found = std::thread::scope(|scope| {
            let threads: Vec<_> = objects.chunks(SOME).map(|some| scope.spawn(move || look(some))).collect();
            let ended = |e| std::panic::resume_unwind(e);
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(ended)).collect::<Result<Vec<_>>>()
        });
        Ok(found?.concat())
    }

    fn put(&self, object: &Object, bytes: &[u8]) -> Result<()> {
        if self.0.put(object, bytes)? == Put::Exists && self.0.size(object)? != Some(bytes.len() as u64) {
            // Another length under this name is damage.
            self.0.delete(object)?;
            self.0.put(object, bytes)?;
        }
        Ok(())
    }

    fn settle(&self) -> Result<()> {
        Ok(())
    }

    fn keeps_passwords(&self) -> bool {
        true
    }

    fn path(&self, object: &Object) -> PathBuf {
        self.0.path(object)
    }

    fn owned(&self) -> Option<&dyn Backend> {
        Some(self.0)
    }
}

/// The newest record of the log in `backend`.
///
/// # Errors
/// What the backend gives.
pub fn newest(backend: &dyn Backend) -> Result<Option<Position>> {
    let mut newest = None;
    backend.list(Area::Log, &mut |object, _| {
        if let Object::Log(seq @ 1..) = object {
            newest = Some(seq);
        }
        Ok(())
    })?;
    let Some(seq) = newest else { return Ok(None) };
    let sealed = backend.read_all(&Object::Log(seq), MAX_LOG_RECORD)?;
    Ok(Some(Position { seq, hash: LogHash(*blake3::hash(&sealed).as_bytes()) }))
}
