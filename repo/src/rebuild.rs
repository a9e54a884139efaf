//! The index from nothing: from the roll-ups of footers, and from the packs that no roll-up vouches for.
//!
//! What is entered is what the log knows of. A roll-up is written before the record that names it, so for a session that
//! has not ended only as many packs count as its records say; the rest come with its next record or with its
//! adoption. Sessions that began after the state from which this builds are left out altogether: what they did is in the
//! log, and at the end the index follows that. A pack that no readable roll-up lists is entered by its own footer, so that whatever rests on it can be
//! read; but as this machine's index alone may know of it, it satisfies no deduplication (it is entered as condemned)
//! until [`crate::mend::adopt_strays`] has recorded it. A pack that a roll-up lists and that is gone was swept, as far
//! as anyone can tell: the log forgets sweeps. If it was not, `check` finds the chunks missing.
//!
//! Memory: 41 bytes a pack, one roll-up a thread, and what [`Builder`] says.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::Duration;

use crate::backend::{Area, Backend, Object as Stored};
use crate::crypto::keys::{FrameKind, Keys};
use crate::error::{Error, Kind, Result, printable};
use crate::follow::{Followed, follow, loaded, new_pack, read_rollup};
use crate::format::footer::RollupEntry;
use crate::format::record::{Record, State};
use crate::id::{PackId, SessionId};
use crate::index::{Builder, Flags, Index, IndexIdentity, NewPack};
use crate::limits::MAX_SMALL_OBJECT;
use crate::log::Log;
use crate::monitor::{Counters, Event, Monitor};
use crate::pack::many::{Emit, in_parallel, threads};
use crate::pack::read::{open_footer, sealed_footer};

/// Bytes of roll-ups read, opened, sorted and entered in a second; measured, and only for the estimate.
const ROLLUP_RATE: u64 = 16 << 20;
/// Roll-ups of which what is on a drive is noted at a time.
const LOADS: usize = 16;
/// The log may be compacted past the index while that is built so often.
const TRIES: u32 = 3;
/// Time to read one footer out of its pack; for the estimate.
const FOOTER_TIME: Duration = Duration::from_millis(8);

/// Packs as listed, in order, with a mark each.
pub(crate) struct Listed {
    packs: Vec<(PackId, u64)>,
    marked: Vec<bool>,
}

impl Listed {
    /// Lists all packs.
    ///
    /// # Errors
    /// What the listing gives: a part is never taken for the whole.
    pub(crate) fn new(backend: &dyn Backend) -> Result<Listed> {
        let mut packs = Vec::new();
        backend.list(Area::Packs, &mut |object, size| {
            if let Stored::Pack(id) = object {
                packs.push((id, size));
            }
            Ok(())
        })?;
        packs.sort_unstable();
        let marked = vec![false; packs.len()];
        Ok(Listed { packs, marked })
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.packs.len()
    }

    /// A pack's size, if it is there.
    pub(crate) fn size(&self, id: &PackId) -> Option<u64> {
        self.place(id).map(|at| self.packs[at].1)
    }

    fn place(&self, id: &PackId) -> Option<usize> {
        self.packs.binary_search_by(|(known, _)| known.cmp(id)).ok()
    }

    /// Marks a pack; false if it is absent or marked already.
    pub(crate) fn mark(&mut self, id: &PackId) -> bool {
        match self.place(id) {
            Some(at) => !std::mem::replace(&mut self.marked[at], true),
            None => false,
        }
    }

    /// All of them, in order.
    pub(crate) fn all(&self) -> impl Iterator<Item = (PackId, u64)> {
        self.packs.iter().copied()
    }

    /// Those that were not marked.
    pub(crate) fn unmarked(&self) -> impl Iterator<Item = (PackId, u64)> {
        self.packs.iter().zip(&self.marked).filter(|(_, marked)| !**marked).map(|(pack, _)| *pack)
    }
}

/// Builds the index in `dir`, in place of whatever is there, up to where the log is read to by then.
///
/// A damaged roll-up costs time: its packs' own footers are read. A pack whose footer cannot be read is entered as
/// damaged. Both are reported as warnings.
///
/// # Errors
/// `Interrupted`; what listing gives, and what the index gives. The index in use, if any, is then as it was.
pub fn rebuild(backend: &dyn Backend, keys: &Keys, log: &Log, dir: &Path, monitor: &dyn Monitor) -> Result<Index> {
    monitor.event(Event::Phase("building the index"));
    for _ in 0..TRIES {
        let index = build(backend, keys, log, dir, monitor)?;
        // What others recorded meanwhile.
        if follow(backend, keys, log, &index)?.0 == Followed::Yes {
            return Ok(index);
        }
    }
    let error = Error::new(Kind::Locked, "others write to the log faster than the index can be built");
    Err(error.remedy("run the command again when less is going on"))
}

/// An index of the log's state as it is now.
fn build(backend: &dyn Backend, keys: &Keys, log: &Log, dir: &Path, monitor: &dyn Monitor) -> Result<Index> {
    let state = log.state();
    let listed = Listed::new(backend)?;
    let (numbers, bytes) = list_rollups(backend)?;
    let younger = younger(log, &state)?;
    let builder = Builder::new(dir, &IndexIdentity { repo: keys.repo_id() })?;
    let mut work = Rebuild { backend, keys, state: &state, younger, monitor, listed, builder, lost_reads: 0 };
    work.rollups(numbers, bytes)?;
    work.bare_packs()?;
    work.require_backend()?;
    for (drive, known) in state.drives.iter().filter(|(_, known)| known.is_asked_for()) {
        for loads in known.loads.chunks(LOADS) {
            work.builder.post(drive, &loaded(backend, keys, loads)?)?;
        }
    }
    work.builder.finish(Some(state.position))
}

/// Roll-ups by number, and their bytes.
fn list_rollups(backend: &dyn Backend) -> Result<(Vec<u64>, u64)> {
    let (mut numbers, mut bytes) = (Vec::new(), 0);
    backend.list(Area::Footers, &mut |object, size| {
        if let Stored::Footers(number) = object {
            numbers.push(number);
            bytes += size;
        }
        Ok(())
    })?;
    numbers.sort_unstable();
    Ok((numbers, bytes))
}

/// The sessions that began since `state`: all whose packs or roll-ups were listed already. Their packs must not be taken
/// for those of a session that has ended and recorded them, nor for strays.
fn younger(log: &Log, state: &State) -> Result<HashSet<SessionId>> {
    let mut younger = HashSet::new();
    // Of a damaged log no more is known than was read.
    if log.broken().is_some() {
        return Ok(younger);
    }
    log.refresh()?;
    // If the log was compacted past `state`, following will say so, and all begins anew.
    log.replay(state.position, &mut |entry, _| {
        if let Record::SessionBegin { session, .. } = entry.record {
            younger.insert(session);
        }
        Ok(())
    })?;
    Ok(younger)
}

struct Rebuild<'a> {
    backend: &'a dyn Backend,
    keys: &'a Keys,
    state: &'a State,
    younger: HashSet<SessionId>,
    monitor: &'a dyn Monitor,
    listed: Listed,
    builder: Builder,
    /// Reads that failed for another reason than what was read.
    lost_reads: u64,
}

/// A pack with the session in its footer, or why its footer is no use.
enum Found {
    Pack(Box<NewPack>, SessionId),
    Bad(PackId, u64, Error),
    Rollup(Error),
}

impl Rebuild<'_> {
    /// Enters what the roll-ups list and what is still there.
    fn rollups(&mut self, numbers: Vec<u64>, bytes: u64) -> Result<()> {
        self.announce(bytes);
        Counters::add(&self.monitor.counters().total_files, self.listed.len() as u64);
        // A session's number stands in its roll-ups' names.
        let is_open = |number: &u64| self.state.sessions.values().any(|s| u64::from(s.number) == number >> 32);
        let (doubtful, settled): (Vec<_>, Vec<_>) = numbers.into_iter().partition(is_open);
        self.doubtful(&doubtful)?;
        let (backend, keys, monitor) = (self.backend, self.keys, self.monitor);
        let read = |number: u64, emit: Emit<'_, Found>| match twice(|| read_rollup(backend, keys, number)) {
            Ok(entries) => {
                for entry in entries {
                    if !emit(open_entry(keys, entry)) {
                        return;
                    }
                }
            }
            // Others compact roll-ups away whose packs are all gone.
            Err(e) if e.kind() == Kind::NotFound => {}
            Err(e) => _ = emit(Found::Rollup(e)),
        };
        in_parallel(settled.into_iter(), monitor, read, |found| self.enter_settled(found))
    }

    fn announce(&self, bytes: u64) {
        if self.listed.len() == 0 {
            return;
        }
        let time = Duration::from_secs_f64(bytes as f64 / ROLLUP_RATE as f64);
        let packs = self.listed.len();
        let packs = if packs == 1 { "1 pack".to_owned() } else { format!("{packs} packs") };
        let text = format!("reading the tables of contents of {packs}: {}", roughly(time));
        self.monitor.event(Event::Notice(&text));
    }

    /// Roll-ups of sessions that have not ended, in the order they were written: they count as far as records do.
    fn doubtful(&mut self, numbers: &[u64]) -> Result<()> {
        let mut counted: HashMap<SessionId, u64> = HashMap::new();
        for &number in numbers {
            let entries = match twice(|| read_rollup(self.backend, self.keys, number)) {
                Ok(entries) => entries,
                Err(e) => {
                    self.enter_settled(Found::Rollup(e))?;
                    continue;
                }
            };
            let count = entries.len() as u64;
            let found: Vec<Found> = entries.into_iter().map(|entry| open_entry(self.keys, entry)).collect();
            let session = found.iter().find_map(|f| match f {
                Found::Pack(_, session) => Some(*session),
                _ => None,
            });
            if let Some((id, open)) = session.and_then(|id| Some((id, self.state.sessions.get(&id)?))) {
                let counted = counted.entry(id).or_default();
                if *counted + count > open.packs {
                    continue;
                }
                *counted += count;
            }
            found.into_iter().try_for_each(|found| self.enter_settled(found))?;
        }
        Ok(())
    }

    /// Enters a pack that a roll-up lists. One that is gone was swept; one whose entry is bad is read itself, later.
    fn enter_settled(&mut self, found: Found) -> Result<()> {
        match found {
            Found::Pack(_, session) if self.younger.contains(&session) => Ok(()),
            Found::Pack(pack, _) => {
                let there = self.listed.size(&pack.id).is_some();
                if there && self.listed.mark(&pack.id) {
                    self.enter(*pack, false)?;
                }
                Ok(())
            }
            Found::Bad(id, _, e) => {
                self.warn(&format!(
                    "the spare table of contents of pack {id} cannot be used ({e}); reading the pack's own"
                ));
                Ok(())
            }
            Found::Rollup(e) if e.kind() == Kind::NewerFormat => Err(e),
            Found::Rollup(e) => {
                self.note(&e);
                self.warn(&format!("{e}; reading the tables of contents of its packs instead"));
                Ok(())
            }
        }
    }

    fn enter(&mut self, pack: NewPack, stray: bool) -> Result<()> {
        let flags = Flags {
            condemned: Some(stray || self.state.condemned.contains_key(&pack.id)),
            damaged: Some(self.state.damaged.contains_key(&pack.id)),
        };
        Counters::add(&self.monitor.counters().files, 1);
        self.builder.push(pack, flags)
    }

    /// Enters the packs that no roll-up lists, by their own footers.
    fn bare_packs(&mut self) -> Result<()> {
        let bare: Vec<_> = self.listed.unmarked().collect();
        if bare.is_empty() {
            return Ok(());
        }
        let time = FOOTER_TIME * u32::try_from(bare.len() / threads() + 1).unwrap_or(u32::MAX);
        if !self.state.sessions.is_empty() || bare.len() > 1 {
            let text = format!("reading the tables of contents of {} packs one by one: {}", bare.len(), roughly(time));
            self.monitor.event(Event::Notice(&text));
        }
        let (backend, keys, monitor) = (self.backend, self.keys, self.monitor);
        let read = |(id, size): (PackId, u64), emit: Emit<'_, Found>| {
            _ = emit(match twice(|| sealed_footer(backend, &id)) {
                Ok((sealed_footer, size)) => open_entry(keys, RollupEntry { id, size, sealed_footer }),
                Err(e) => Found::Bad(id, size, e),
            });
        };
        in_parallel(bare.into_iter(), monitor, read, |found| match found {
            // Not recorded yet.
            Found::Pack(_, session)
                if self.state.sessions.contains_key(&session) || self.younger.contains(&session) =>
            {
                Ok(())
            }
            Found::Pack(pack, _) => self.enter(*pack, true),
            // Swept since it was listed.
            Found::Bad(_, _, e) if e.kind() == Kind::NotFound => Ok(()),
            Found::Bad(_, _, e) if e.kind() == Kind::NewerFormat => Err(e),
            Found::Bad(id, size, e) => self.enter_unreadable(id, size, &e),
            Found::Rollup(_) => Ok(()),
        })
    }

    fn enter_unreadable(&mut self, id: PackId, size: u64, e: &Error) -> Result<()> {
        self.note(e);
        let path = self.backend.path(&Stored::Pack(id));
        self.warn(&format!(
            "the table of contents of {} cannot be read, what it holds is not found: {e}",
            printable(&path)
        ));
        Counters::add(&self.monitor.counters().files, 1);
        let pack = NewPack { id, kind: FrameKind::Data, size, sealed_footer: Vec::new(), chunks: Vec::new() };
        let condemned = Some(self.state.condemned.contains_key(&id));
        self.builder.push(pack, Flags { condemned, damaged: Some(true) })
    }

    fn warn(&self, text: &str) {
        Counters::add(&self.monitor.counters().errors, 1);
        self.monitor.event(Event::Warning(text));
    }

    fn note(&mut self, e: &Error) {
        self.lost_reads += u64::from(!matches!(e.kind(), Kind::Damaged | Kind::NewerFormat));
    }

    /// A disk with bad sectors must not keep what is sound from being found; but a repository that went away in the
    /// middle must not be taken for one that is damaged all over.
    fn require_backend(&self) -> Result<()> {
        if self.lost_reads > 0 {
            self.backend.read_all(&Stored::Config, MAX_SMALL_OBJECT)?;
            Listed::new(self.backend)?;
        }
        Ok(())
    }
}

/// A read that failed is tried once more, unless it is known what is wrong.
pub(crate) fn twice<T>(read: impl Fn() -> Result<T>) -> Result<T> {
    read().or_else(|e| if e.kind() == Kind::Io { read() } else { Err(e) })
}

fn open_entry(keys: &Keys, entry: RollupEntry) -> Found {
    match open_footer(keys, &entry.sealed_footer, entry.size) {
        Ok(footer) => {
            let pack = new_pack(keys, entry.id, entry.size, entry.sealed_footer, &footer);
            Found::Pack(Box::new(pack), footer.session)
        }
        Err(e) => Found::Bad(entry.id, entry.size, e),
    }
}

/// "about 5 minutes", for people.
fn roughly(time: Duration) -> String {
    let secs = time.as_secs();
    match secs {
        0..=1 => "a moment".to_owned(),
        2..=90 => format!("about {secs} seconds"),
        91..=5400 => format!("about {} minutes", secs.div_ceil(60)),
        _ => format!("about {} hours", secs.div_ceil(3600)),
    }
}
