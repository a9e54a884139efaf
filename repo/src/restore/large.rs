//! One large file, restored by all threads in parts. What is there already is patched: only chunks that differ are
//! fetched and written, which also makes a second run go on where the first was interrupted.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::ftruncate;
use parking_lot::Mutex;

use crate::capture::scan::stat;
use crate::crypto::hash::ChunkKind;
use crate::error::{Error, Result};
use crate::format::tree::{Content, Entry, Extent};
use crate::limits::MIB;
use crate::monitor::Action;
use crate::restore::at;
use crate::restore::attrs::{self, Node};
use crate::restore::content::{Buffer, Output, covering, progress};
use crate::restore::dir::Dir;
use crate::restore::file::{complete_new, create, keep, open_same};
use crate::restore::links::Claim;
use crate::restore::spot::{Decision, PARTIAL, Spot, decide};
use crate::restore::work::finished;
use crate::tree::file::data;

/// Files from this size on are restored in parts.
const LARGE: u64 = 4 * MIB as u64;
/// Data in one part, about.
const PART: u64 = 4 * MIB as u64;
/// Extents in one part.
const PART_EXTENTS: usize = 256;

/// Whether a file is restored in parts.
pub fn is_large(entry: &Entry) -> bool {
    entry.size >= LARGE && matches!(entry.content, Content::Extents(_) | Content::Indexed { .. })
}

/// A large file being restored. Whoever lets go of the last share completes it.
pub struct Large<'c>(Option<Arc<Inner<'c>>>);

struct Inner<'c> {
    dir: Dir<'c>,
    entry: Entry,
    claim: Claim,
    file: File,
    /// The name it is made under, to replace something.
    temp: Option<Vec<u8>>,
    /// It was there already and is patched.
    used: bool,
    /// Of a used one: whether it bears the mark of what is incomplete.
    marked: Mutex<bool>,
    failed: AtomicBool,
    error: Mutex<Option<Error>>,
}

/// Some extents of a large file, with their offsets.
pub struct Part<'c> {
    large: Large<'c>,
    extents: Vec<(u64, Extent)>,
}

/// How a large file begins.
enum Begun<'c> {
    /// It stays.
    Settled(Box<(Dir<'c>, Entry, Claim)>),
    /// Its parts are to be restored.
    Parts(Large<'c>),
}

/// Begins a large file and hands its parts to `send`, which may wait, and returns false when nobody takes any more.
///
/// # Errors
/// What the system gives before the first part; later failures are reported when the file ends.
pub fn restore<'c>(dir: Dir<'c>, entry: Entry, claim: Claim, send: &mut dyn FnMut(Part<'c>) -> bool) -> Result<()> {
    match begin(dir, entry, claim)? {
        Begun::Settled(settled) => {
            let (dir, entry, claim) = *settled;
            progress(dir.ctx(), entry.size);
            finished(&dir, &entry, claim, Action::Kept);
        }
        Begun::Parts(large) => {
            if let Err(e) = parts(&large, send) {
                large.inner().fail(e);
            }
        }
    }
    Ok(())
}

fn begin<'c>(dir: Dir<'c>, entry: Entry, claim: Claim) -> Result<Begun<'c>> {
    let spot = Spot::new(&dir, &entry.name)?;
    let (file, temp, used, marked) = match create(&spot.file, spot.name) {
        Ok(file) => (file, None, false, true),
        Err(Errno::EEXIST) => {
            let old = spot.look()?;
            let decision = decide(dir.ctx(), &entry, &old);
            let settled = match decision {
                Decision::Keep => true,
                Decision::Right => keep(&spot, &entry, &old)?,
                _ => false,
            };
            if settled {
                drop(spot);
                return Ok(Begun::Settled(Box::new((dir, entry, claim))));
            }
            let patch = decision == Decision::Compare && old.nlink == 1;
            match patch.then(|| open_same(&spot, &old, OFlag::O_RDWR)).flatten() {
                Some(file) => (file, None, true, old.mode == PARTIAL),
                None => {
                    let temp = spot.temp()?;
                    let file = create(&spot.file, &temp).map_err(|e| spot.io("create", e))?;
                    (file, Some(temp), false, true)
                }
            }
        }
        Err(e) => return Err(spot.io("create", e)),
    };
    let size = stat(&file).map_err(|e| spot.io("look at", e))?.size;
    drop(spot);
    let (marked, failed, error) = (Mutex::new(marked), AtomicBool::new(false), Mutex::new(None));
    let inner = Inner { dir, entry, claim, file, temp, used, marked, failed, error };
    if size != inner.entry.size {
        inner.mark();
        ftruncate(&inner.file, inner.entry.size as i64).map_err(|e| inner.io("set the length of", e.into()))?;
    }
    Ok(Begun::Parts(Large(Some(Arc::new(inner)))))
}

fn parts<'c>(large: &Large<'c>, send: &mut dyn FnMut(Part<'c>) -> bool) -> Result<()> {
    let inner = large.inner();
    let mut list: Vec<(u64, Extent)> = Vec::new();
    let mut bytes = 0;
    for next in covering(inner.dir.ctx(), &inner.entry) {
        let (at, extent) = next?;
        match extent {
            Extent::Data { len, .. } => bytes += len,
            Extent::Hole { len } if !inner.used => {
                progress(inner.dir.ctx(), len);
                continue;
            }
            Extent::Hole { .. } => {}
        }
        list.push((at, extent));
        if bytes >= PART || list.len() == PART_EXTENTS {
            bytes = 0;
            let full = std::mem::take(&mut list);
            if !send(Part { large: large.clone(), extents: full }) || inner.stop() {
                return Ok(());
            }
        }
    }
    if !list.is_empty() {
        send(Part { large: large.clone(), extents: list });
    }
    Ok(())
}

impl Part<'_> {
    /// Restores these extents.
    pub fn run(self, buffer: &mut Buffer) {
        let inner = self.large.inner();
        if !inner.used && !inner.stop() {
            let chunks = self.extents.iter().filter_map(|(_, e)| match e {
                Extent::Data { h, .. } => Some((*h, ChunkKind::Data)),
                Extent::Hole { .. } => None,
            });
            inner.dir.ctx().source.prefetch(&chunks.collect::<Vec<_>>());
        }
        for (at, extent) in &self.extents {
            if inner.stop() {
                return;
            }
            if let Err(e) = inner.extent(*at, extent, buffer) {
                inner.fail(e);
                return;
            }
            progress(inner.dir.ctx(), extent.len());
        }
    }
}

impl<'c> Large<'c> {
    fn inner(&self) -> &Inner<'c> {
        self.0.as_ref().unwrap_or_else(|| unreachable!("only dropping takes the share away"))
    }
}

impl Clone for Large<'_> {
    fn clone(&self) -> Self {
        Large(self.0.clone())
    }
}

impl Drop for Large<'_> {
    fn drop(&mut self) {
        if let Some(inner) = self.0.take().and_then(Arc::into_inner) {
            inner.end();
        }
    }
}

impl Inner<'_> {
    fn stop(&self) -> bool {
        self.failed.load(Ordering::Relaxed) || self.dir.ctx().stopped()
    }

    fn fail(&self, e: Error) {
        self.error.lock().get_or_insert(e);
        self.failed.store(true, Ordering::Relaxed);
    }

    fn io(&self, doing: &str, e: std::io::Error) -> Error {
        Error::io(doing, self.dir.ctx().target_path(self.dir.place(), &self.entry.name), e)
    }

    /// Before its first byte changes, a file that was there gets the mark of what is incomplete.
    fn mark(&self) {
        let mut marked = self.marked.lock();
        if !*marked {
            // Who may write a file but not mark it still gets the right bytes.
            let _ = fchmod(&self.file, Mode::from_bits_truncate(PARTIAL));
            *marked = true;
        }
    }

    fn extent(&self, at: u64, extent: &Extent, buffer: &mut Buffer) -> Result<()> {
        let ctx = self.dir.ctx();
        let out = Output { file: &self.file, sparse: ctx.options.sparse, used: self.used };
        match extent {
            Extent::Data { h, len } => {
                if self.used && buffer.holds(&self.file, at, h, *len) {
                    return Ok(());
                }
                let chunk = data(ctx.source, h, *len)?;
                self.mark();
                out.write(at, &chunk).map_err(|e| self.io("write", e))
            }
            Extent::Hole { len } => {
                if !buffer.zero(&self.file, at, *len) {
                    self.mark();
                }
                out.hole(at, *len).map_err(|e| self.io("write", e))
            }
        }
    }

    fn end(self) {
        if self.dir.ctx().stopped() {
            return;
        }
        let failed = self.error.lock().take();
        match failed.map_or_else(|| self.complete(), Err) {
            Ok(action) => finished(&self.dir, &self.entry, self.claim, action),
            Err(e) => {
                if !self.used
                    && let Ok(dir) = self.dir.file()
                {
                    // What cannot be removed keeps its mark.
                    let _ = at::unlink(&dir, self.temp.as_deref().unwrap_or(&self.entry.name));
                }
                self.dir.ctx().failed(self.dir.place(), &self.entry.name, e);
            }
        }
    }

    fn complete(&self) -> Result<Action> {
        let spot = Spot::new(&self.dir, &self.entry.name)?;
        if !self.used {
            complete_new(&spot, &self.file, &self.entry)?;
            if let Some(temp) = &self.temp {
                spot.publish(temp)?;
            }
            return Ok(Action::Restored);
        }
        let now = stat(&self.file).map_err(|e| spot.io("look at", e))?;
        attrs::apply(spot.ctx(), &Node::open(&self.file), &self.entry, &now, false, &|| spot.path())?;
        Ok(if *self.marked.lock() { Action::Restored } else { Action::Kept })
    }
}
