//! Packs: listed, indexed, and what is in them.

use std::collections::BTreeSet;

use crate::backend::{Backend, Object as Stored};
use crate::check::{Check, Frames, damage, pack_path};
use crate::crypto::keys::Keys;
use crate::error::{Error, Kind, Result};
use crate::format::pack::{HEADER, parse_header};
use crate::id::PackId;
use crate::index::{Index, PackInfo};
use crate::limits::MAX_PACK;
use crate::monitor::{Counters, Event};
use crate::pack::many::{Emit, in_parallel};
use crate::pack::read::{footer_in, open_footer, open_frame, sealed_footer, verify_chunk, verify_frame};
use crate::rebuild::twice;

/// What became of one pack.
pub(super) enum Seen {
    /// Nothing wrong; so many bytes were read of it if it was read whole.
    Sound(Option<u64>),
    Bad(Frames, Error),
    /// The pack is sound, what is known of it is not.
    Index(Error),
    /// No record names it, and no session works on it.
    Stray,
    /// Gone since it was listed.
    Gone,
}

impl Check<'_> {
    pub(super) fn packs(&mut self) -> Result<()> {
        self.monitor.event(Event::Phase("checking packs"));
        Counters::add(&self.monitor.counters().total_files, self.listed.len() as u64);
        self.missing_packs()?;
        if self.only.is_none() {
            self.unrolled_packs()?;
        }
        let repo = self.repo;
        let (backend, keys, index, state) =
            (repo.backend.as_ref(), repo.keys.as_ref(), &repo.index, self.state.clone());
        // (id, read whole)
        let meant = self.listed.all().map(|(id, _)| id).filter(|id| self.is_meant(id));
        let items: Vec<(PackId, bool)> =
            meant.map(|id| (id, self.chosen(&id) || state.damaged.contains_key(&id))).collect();
        let look = |(id, whole): (PackId, bool), emit: Emit<'_, (PackId, bool, Result<Seen>)>| {
            let seen = match index.pack_by_id(&id) {
                Ok(Some(info)) => indexed(backend, keys, index, &info, whole),
                Ok(None) => unindexed(backend, keys, &id, &state),
                Err(e) => Err(e),
            };
            _ = emit((id, whole, seen));
        };
        let monitor = self.monitor;
        in_parallel(items.into_iter(), monitor, look, |(id, whole, seen)| {
            Counters::add(&monitor.counters().files, 1);
            self.seen(id, whole, seen?);
            Ok(())
        })
    }

    fn seen(&mut self, id: PackId, whole: bool, seen: Seen) {
        match seen {
            Seen::Sound(read) => {
                if let Some(bytes) = read {
                    Counters::add(&self.monitor.counters().bytes, bytes);
                    self.outcome.packs_read += 1;
                    self.outcome.bytes_read += bytes;
                }
                if whole && self.state.damaged.contains_key(&id) {
                    self.whole.push(id);
                }
            }
            Seen::Bad(frames, error) => {
                self.outcome.packs_read += 1;
                self.bad_pack(id, frames, error);
            }
            Seen::Index(error) => self.object(&error),
            Seen::Stray => {
                let path = pack_path(self.repo, &id);
                let text = format!("no record names {}; `packmule rebuild-index` takes it over", path.display());
                self.notice(&text);
            }
            Seen::Gone => {}
        }
    }

    /// Packs that the index has and that are not there.
    fn missing_packs(&mut self) -> Result<()> {
        let mut missing = Vec::new();
        self.repo.index.packs(&mut |info| {
            if self.listed.size(&info.id).is_none() && self.is_meant(&info.id) {
                missing.push(info.id);
            }
            Ok(())
        })?;
        for id in missing {
            if self.repo.backend.size(&Stored::Pack(id))?.is_some() {
                continue;
            }
            // Swept while this looked? The intent is in the log before the pack goes.
            let state = self.bring_up()?;
            let sweeping = state.sweep.as_ref().is_some_and(|sweep| sweep.packs.contains(&id));
            if !sweeping && self.repo.index.pack_by_id(&id)?.is_some() {
                let error = Error::damaged("a pack is missing:").at(pack_path(self.repo, &id));
                self.bad_pack(id, Frames::All, error);
            }
        }
        Ok(())
    }

    /// Packs without a second copy of their footer.
    fn unrolled_packs(&mut self) -> Result<()> {
        if self.recorded_bare_packs()? == 0 {
            return Ok(());
        }
        // A pack that was recorded while this looked is in a roll-up that was written since; one that was swept is in an
        // index no more that follows.
        self.bring_up()?;
        self.new_rollups()?;
        let recorded = self.recorded_bare_packs()?;
        if recorded > 0 {
            let text = format!("{recorded} packs have lost the spare copy of their tables of contents");
            self.object(&Error::damaged(text).remedy("run `packmule rebuild-index`, which writes new ones"));
        }
        Ok(())
    }

    /// Packs that the index has and that no roll-up lists. A second copy of a damaged one's is of no use.
    fn recorded_bare_packs(&self) -> Result<u64> {
        let mut recorded = 0;
        for (id, _) in self.listed.unmarked() {
            recorded += u64::from(self.repo.index.pack_by_id(&id)?.is_some_and(|info| !info.damaged));
        }
        Ok(recorded)
    }
}

/// Looks at a pack's ends, and reads it whole if that is asked for or its ends are not right.
fn indexed(backend: &dyn Backend, keys: &Keys, index: &Index, info: &PackInfo, whole: bool) -> Result<Seen> {
    let known = index.footer(info.no)?;
    if !whole && !info.damaged {
        match twice(|| ends(backend, keys, info, known.as_deref())) {
            Ok(()) => return Ok(Seen::Sound(None)),
            Err(e) if e.kind() == Kind::NotFound => return Ok(Seen::Gone),
            Err(e) if e.kind() == Kind::NewerFormat => {}
            Err(e) => drop(damage(e)?),
        }
    }
    examine(backend, keys, info, known)
}

fn ends(backend: &dyn Backend, keys: &Keys, info: &PackInfo, known: Option<&[u8]>) -> Result<()> {
    let (sealed, size) = sealed_footer(backend, &info.id)?;
    let same = known.is_some_and(|known| known == sealed) && size == info.size;
    if !same {
        return Err(Error::damaged("a pack's table of contents is not the one that was recorded"));
    }
    open_footer(keys, &sealed, size)?;
    let head = backend.read(&Stored::Pack(info.id), 0, HEADER)?;
    let head = head.first_chunk().ok_or_else(|| Error::bug("a read came back short"))?;
    if parse_header(head)? != info.kind {
        return Err(Error::damaged("a pack's kind is not the one that was recorded"));
    }
    Ok(())
}

fn unindexed(backend: &dyn Backend, keys: &Keys, id: &PackId, state: &crate::format::record::State) -> Result<Seen> {
    let opened = twice(|| sealed_footer(backend, id)).and_then(|(sealed, size)| open_footer(keys, &sealed, size));
    match opened {
        Ok(footer) if state.sessions.contains_key(&footer.session) => Ok(Seen::Sound(None)),
        Ok(_) => Ok(Seen::Stray),
        Err(e) if e.kind() == Kind::NotFound => Ok(Seen::Gone),
        Err(e) => {
            damage(e)?;
            Ok(Seen::Stray)
        }
    }
}

/// Reads a pack whole: its name, its frames, its chunks. Where its own footer cannot be used, the index's copy tells what
/// should be in it.
///
/// # Errors
/// Failures that are no damage.
pub(super) fn examine(backend: &dyn Backend, keys: &Keys, info: &PackInfo, known: Option<Vec<u8>>) -> Result<Seen> {
    let object = Stored::Pack(info.id);
    let path = backend.path(&object);
    let bytes = match twice(|| backend.read_all(&object, MAX_PACK)) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == Kind::NotFound => return Ok(Seen::Gone),
        // A bad place on the disk: what can be read of the pack is found frame by frame.
        Err(e) => return piecewise(backend, keys, info, known, damage(e)?),
    };
    let named = blake3::hash(&bytes).as_bytes() == info.id.as_bytes();
    let mut first = (!named).then(|| Error::damaged("the contents do not match the name, which is their checksum:"));
    let own = footer_in(keys, &bytes);
    let indexed = known.as_deref().map(|sealed| open_footer(keys, sealed, info.size)).transpose();
    let footer = match (own, indexed) {
        // What the name vouches for is right: if the index says otherwise, it is wrong.
        (Ok((sealed, footer)), known_footer) if named => {
            if known.as_deref() != Some(sealed) || known_footer.is_err() || bytes.len() as u64 != info.size {
                let e = Error::damaged("the index does not say what is in").at(path);
                return Ok(Seen::Index(e.remedy("run `packmule rebuild-index`")));
            }
            footer
        }
        (_, Ok(Some(footer))) => footer,
        (Ok((_, footer)), _) => footer,
        (Err(e), _) if named && e.kind() == Kind::NewerFormat => return Err(e.at(path)),
        (Err(e), _) => return Ok(Seen::Bad(Frames::All, first.unwrap_or(e).at(path))),
    };
    let mut bad = BTreeSet::new();
    for (at, frame) in footer.frames.iter().enumerate() {
        if let Err(e) = verify_frame(keys, &footer, frame, &bytes) {
            bad.insert(at as u32);
            first.get_or_insert(e);
        }
    }
    Ok(match first {
        Some(e) => Seen::Bad(Frames::These(bad), e.at(path)),
        None => Seen::Sound(Some(bytes.len() as u64)),
    })
}

/// Each frame by a read of its own, for a pack that cannot be read in one.
fn piecewise(
    backend: &dyn Backend,
    keys: &Keys,
    info: &PackInfo,
    known: Option<Vec<u8>>,
    error: Error,
) -> Result<Seen> {
    let object = Stored::Pack(info.id);
    let Some(footer) = known.and_then(|sealed| open_footer(keys, &sealed, info.size).ok()) else {
        return Ok(Seen::Bad(Frames::All, error));
    };
    let mut bad = BTreeSet::new();
    for (at, frame) in footer.frames.iter().enumerate() {
        let opened = twice(|| backend.read(&object, u64::from(frame.offset), frame.stored as usize))
            .and_then(|sealed| open_frame(keys, footer.kind, frame, sealed))
            .and_then(|raw| footer.chunks[frame.chunks()].iter().try_for_each(|chunk| verify_chunk(chunk, &raw)));
        if let Err(e) = opened {
            damage(e)?;
            bad.insert(at as u32);
        }
    }
    Ok(Seen::Bad(Frames::These(bad), error))
}
