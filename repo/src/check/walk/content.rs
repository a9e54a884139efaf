//! Whether what one entry needs is there, and which pack is to blame if it is not.

use crate::check::packs::{Seen, examine};
use crate::check::walk::{MAX_MISSING, Mark, Spot, Trouble, Walk, chunk_at};
use crate::check::{Frames, damage, pack_path};
use crate::crypto::hash::ChunkKind;
use crate::error::{Error, Result};
use crate::format::tree::{Content, Entry, Extent, XattrValue};
use crate::id::ContentHash;
use crate::index::{Location, PackInfo};
use crate::tree::file::extents;

impl Walk<'_, '_> {
    /// The first thing about a file's content or an entry's attributes that cannot be read, if any.
    pub(super) fn entry_itself(&mut self, entry: &Entry) -> Result<Option<Error>> {
        for (_, value) in &entry.xattrs {
            if let XattrValue::Chunk { h, len } = value
                && let Some(e) = self.value(h, u64::from(*len))?
            {
                return Ok(Some(e));
            }
        }
        self.content(&entry.content)
    }

    /// What is wrong with an attribute's value, if anything.
    fn value(&mut self, h: &ContentHash, len: u64) -> Result<Option<Error>> {
        let mut trouble = self.data(h, len)?;
        while trouble.is_some() && self.others_changed()? {
            trouble = self.data(h, len)?;
        }
        trouble.map_or(Ok(None), |trouble| self.conclude(trouble))
    }

    /// The first chunk of a file's content that cannot be read, if any.
    pub(super) fn content(&mut self, content: &Content) -> Result<Option<Error>> {
        let mut trouble = self.content_once(content)?;
        while trouble.is_some() && self.others_changed()? {
            trouble = self.content_once(content)?;
        }
        trouble.map_or(Ok(None), |trouble| self.conclude(trouble))
    }

    fn content_once(&mut self, content: &Content) -> Result<Option<Trouble>> {
        // A large file's nodes are gone through once, as a directory's are.
        let top = match content {
            Content::Indexed { h, .. } => match self.spot(h, ChunkKind::Node)? {
                Ok(spot) => Some(spot),
                Err(trouble) => return Ok(Some(trouble)),
            },
            Content::Extents(_) => None,
            _ => return Ok(None),
        };
        if top.as_ref().is_some_and(|spot| self.marks.get(&spot.key) == Mark::Clean) {
            return Ok(None);
        }
        let store = self.store.clone();
        for next in extents(store.as_ref(), content, 0) {
            match next {
                Ok((_, Extent::Hole { .. })) => {}
                Ok((_, Extent::Data { h, len })) => {
                    if let Some(trouble) = self.data(&h, len)? {
                        return Ok(Some(trouble));
                    }
                }
                Err(e) => {
                    let e = damage(e)?;
                    return Ok(Some(match content {
                        Content::Indexed { h, .. } => Trouble::Unread(*h, e),
                        _ => Trouble::Known(e),
                    }));
                }
            }
        }
        if let Some(Spot { key, chunks }) = top {
            self.marks.set(key, chunks, Mark::Clean);
        }
        Ok(None)
    }

    /// Whether a data chunk is where it can be read, and as long as the tree says.
    fn data(&mut self, h: &ContentHash, len: u64) -> Result<Option<Trouble>> {
        let Some((at, info)) = self.store.locate(h)? else {
            return Ok(Some(Trouble::Missing(*h)));
        };
        if self.is_lost(&at, &info) {
            let e = Error::damaged("it needs a damaged pack:").at(pack_path(self.check.repo, &info.id));
            return Ok(Some(Trouble::Known(e)));
        }
        let pack = match self.store.pack(&info) {
            Ok(pack) => pack,
            Err(e) => return Ok(Some(Trouble::Known(damage(e)?))),
        };
        let chunk = chunk_at(&pack, &at);
        let right = chunk.is_some_and(|c| {
            let c = &pack.footer.chunks[c as usize];
            c.h == *h && c.kind == ChunkKind::Data && u64::from(c.len) == len
        });
        Ok((!right).then(|| {
            let e =
                Error::damaged("it needs a piece of data that the index says is elsewhere, or of another length, in");
            let e = e.at(pack_path(self.check.repo, &info.id));
            Trouble::Known(e.remedy("run `packmule rebuild-index` and check again"))
        }))
    }

    pub(super) fn missing_chunk(&mut self, h: &ContentHash) -> Error {
        if self.missing.len() < MAX_MISSING {
            self.missing.insert(self.check.repo.keys.chunk_id(h));
        }
        Error::damaged("it needs a piece of data that no pack has")
    }

    /// Notes that a damaged pack is needed; whether in a part that cannot be read.
    fn is_lost(&mut self, at: &Location, info: &PackInfo) -> bool {
        let Some(frames) = self.check.bad.get(&info.id) else { return false };
        let lost = frames.has(at.frame);
        self.check.needed.insert(info.id);
        lost
    }

    /// A tree chunk's place, unless it is missing or known to be unreadable.
    pub(super) fn spot(&mut self, h: &ContentHash, kind: ChunkKind) -> Result<std::result::Result<Spot, Trouble>> {
        let Some((at, info)) = self.store.locate(h)? else {
            return Ok(Err(Trouble::Missing(*h)));
        };
        if self.is_lost(&at, &info) {
            let e = Error::damaged("it needs a damaged pack:").at(pack_path(self.check.repo, &info.id));
            return Ok(Err(Trouble::Unread(*h, e)));
        }
        let pack = match self.store.pack(&info) {
            Ok(pack) => pack,
            Err(e) => return Ok(Err(Trouble::Unread(*h, damage(e)?))),
        };
        let chunk = chunk_at(&pack, &at).filter(|c| {
            let c = &pack.footer.chunks[*c as usize];
            c.h == *h && c.kind == kind
        });
        Ok(match chunk {
            Some(chunk) => Ok(Spot { key: (info.id, chunk), chunks: pack.footer.chunks.len() }),
            None => {
                let e = Error::damaged("the index says a piece of data is where it is not")
                    .remedy("run `packmule rebuild-index`");
                Err(Trouble::Unread(*h, e))
            }
        })
    }

    /// A chunk could not be read: looks at its pack, which the packs' own check found nothing wrong with.
    pub(super) fn blame(&mut self, h: &ContentHash, e: Error) -> Result<Error> {
        let Some((_, info)) = self.store.locate(h)? else { return Ok(e) };
        let repo = self.check.repo;
        if self.check.bad.contains_key(&info.id) || self.puzzling.contains(&info.id) {
            self.check.needed.insert(info.id);
            return Ok(e);
        }
        match examine(repo.backend.as_ref(), &repo.keys, &info, repo.index.footer(info.no)?)? {
            Seen::Bad(frames, error) => {
                self.check.bad_pack(info.id, frames, error);
                self.check.needed.insert(info.id);
            }
            Seen::Gone => {
                let error = Error::damaged("a pack is missing:").at(pack_path(repo, &info.id));
                self.check.bad_pack(info.id, Frames::All, error);
                self.check.needed.insert(info.id);
            }
            Seen::Index(error) => {
                self.puzzling.insert(info.id);
                self.check.object(&error);
            }
            Seen::Sound(_) | Seen::Stray => _ = self.puzzling.insert(info.id),
        }
        Ok(e)
    }
}
