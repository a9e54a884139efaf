//! Which packs a tenant's snapshots reach.

use std::collections::BTreeSet;

use super::{Mark, Marks, chunk_at};
use crate::check::{Check, damage};
use crate::crypto::hash::ChunkKind;
use crate::error::Result;
use crate::id::{ContentHash, PackId};
use crate::pack::source::FrameSource;
use crate::pack::store::PackStore;
use crate::snapshots;
use crate::tree::closure;

impl Check<'_> {
    /// The packs in which the tenant's snapshots have a chunk, as far as their trees can be read: what cannot is named when they are
    /// checked.
    pub(in crate::check) fn reached(&self, tenant: u32) -> Result<BTreeSet<PackId>> {
        let store = self.repo.packs();
        let (mut packs, mut marks) = (BTreeSet::new(), Marks::default());
        let mut visit = |h: &ContentHash, kind: ChunkKind| -> Result<bool> {
            let Some((at, info)) = store.locate(h)? else { return Ok(false) };
            packs.insert(info.id);
            if kind == ChunkKind::Data {
                return Ok(false);
            }
            let opened = store.pack(&info).and_then(|pack| readable(&store, h, kind).map(|()| pack));
            let pack = match opened {
                Ok(pack) => pack,
                Err(e) => return damage(e).map(|_| false),
            };
            let Some(chunk) = chunk_at(&pack, &at) else { return Ok(false) };
            let key = (info.id, chunk);
            let new = marks.get(&key) == Mark::New;
            marks.set(key, pack.footer.chunks.len(), Mark::Clean);
            Ok(new)
        };
        for (id, snapshot) in &self.state.snapshots {
            if snapshot.origin.is_none_or(|origin| origin.tenant != tenant) {
                continue;
            }
            self.stopped()?;
            let manifest = snapshots::manifest(self.repo, id);
            let walked =
                manifest.and_then(|manifest| closure::walk(store.as_ref(), &manifest, self.monitor, &mut visit));
            if let Err(e) = walked {
                damage(e)?;
            }
        }
        Ok(packs)
    }
}

/// What cannot be read is not gone into, and the rest is.
fn readable(store: &PackStore, h: &ContentHash, kind: ChunkKind) -> Result<()> {
    store.chunk(h, kind).map(drop)
}
