//! Several drives of one repository, read as one.

use std::path::PathBuf;
use std::sync::Arc;

use repo::backend::{Area, Backend, Object, Put};
use repo::crypto::hash::ChunkKind;
use repo::error::{Error, Kind, Result};
use repo::id::{ContentHash, PackId};
use repo::open::Repository;
use repo::pack::source::{Chunk, FrameSource};
use repo::pack::store::PackStore;

/// Makes one of these, open for reading and with the same keys: each snapshot that any of them speaks of is there, and what it
/// reaches is read from whichever has it. The first has to be one whose keys open everything.
///
/// # Errors
/// `Bug` for none.
pub fn united(mut drives: Vec<Repository>) -> Result<Repository> {
    let source = Arc::new(Several::new(drives.iter().map(Repository::packs).collect()));
    if drives.is_empty() {
        return Err(Error::bug("no repository was opened"));
    }
    let mut first = drives.remove(0);
    for other in &drives {
        let state = other.log.state();
        first.log.also(state.snapshots.iter().map(|(id, snapshot)| (*id, snapshot.clone())));
    }
    let others = drives.iter().map(|drive| Arc::clone(&drive.backend)).collect();
    first.backend = Arc::new(Parts { first: Arc::clone(&first.backend), others });
    first.read_from(source);
    Ok(first)
}

/// A drive whose manifests are those of all.
struct Parts {
    first: Arc<dyn Backend>,
    others: Vec<Arc<dyn Backend>>,
}

impl Parts {
    /// Who has it.
    fn of(&self, object: &Object) -> &Arc<dyn Backend> {
        let has = |part: &&Arc<dyn Backend>| part.size(object).is_ok_and(|size| size.is_some());
        let others = self.others.iter().filter(|_| matches!(object, Object::Snapshot(_)));
        [&self.first].into_iter().chain(others).find(has).unwrap_or(&self.first)
    }
}

impl Backend for Parts {
    fn put(&self, object: &Object, _: &[u8]) -> Result<Put> {
        Err(Error::new(Kind::ReadOnly, "several drives are open for reading only, cannot write").at(self.path(object)))
    }

    fn read_into(&self, object: &Object, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.of(object).read_into(object, offset, buf)
    }

    fn read_all(&self, object: &Object, max: usize) -> Result<Vec<u8>> {
        self.of(object).read_all(object, max)
    }

    fn size(&self, object: &Object) -> Result<Option<u64>> {
        self.of(object).size(object)
    }

    fn list(&self, area: Area, visit: &mut dyn FnMut(Object, u64) -> Result<()>) -> Result<()> {
        self.first.list(area, visit)
    }

    fn delete(&self, object: &Object) -> Result<()> {
        self.put(object, &[]).map(drop)
    }

    fn sync_deletes(&self, _: Area) -> Result<()> {
        Ok(())
    }

    fn path(&self, object: &Object) -> PathBuf {
        self.of(object).path(object)
    }

    fn free_space(&self) -> Result<Option<u64>> {
        self.first.free_space()
    }

    fn writable(&self) -> bool {
        false
    }

    fn vouches(&self, pack: &PackId) -> Result<bool> {
        self.first.vouches(pack)
    }
}

/// Chunks from whichever drive has them.
pub struct Several(Vec<Arc<PackStore>>);

impl Several {
    /// Of these.
    pub fn new(drives: Vec<Arc<PackStore>>) -> Several {
        Several(drives)
    }

    /// Whether a chunk is on any of them, in a pack that is not known to be damaged.
    ///
    /// # Errors
    /// What the indexes give.
    pub fn has(&self, h: &ContentHash) -> Result<bool> {
        for store in &self.0 {
            if store.locate(h)?.is_some_and(|(_, info)| !info.damaged) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The drives that have the chunk.
    fn with(&self, h: &ContentHash) -> impl Iterator<Item = &Arc<PackStore>> {
        self.0.iter().filter(|store| matches!(store.locate(h), Ok(Some(_))))
    }
}

impl FrameSource for Several {
    fn chunk(&self, h: &ContentHash, kind: ChunkKind) -> Result<Chunk> {
        let mut failed = None;
        for store in self.with(h) {
            match store.chunk(h, kind) {
                Ok(chunk) => return Ok(chunk),
                Err(e) => failed = Some(e),
            }
        }
        Err(failed.unwrap_or_else(|| {
            Error::damaged("a part of it is on a drive that is not here")
                .remedy("use that as well: name each drive with -r")
        }))
    }

    fn prefetch(&self, chunks: &[(ContentHash, ChunkKind)]) {
        for store in &self.0 {
            let here: Vec<_> = chunks.iter().filter(|(h, _)| matches!(store.locate(h), Ok(Some(_)))).copied().collect();
            if !here.is_empty() {
                store.prefetch(&here);
            }
        }
    }
}
