//! What every opening for writing puts right, in seconds: an unfinished sweep is finished, and dead sessions end.
//!
//! A dead session's packs were stored at a cost: those that are complete are recorded under its name before it ends, so
//! that the next backup finds them. The order is the usual one: the pack (put once more, which makes a name that was not
//! yet durable so), the roll-up, the record, the index. Packs that are not what their names say stay where they are, for
//! `check` to name: nothing refers to them. Without a dead session nothing is read or listed.

use std::collections::BTreeMap;

use crate::backend::{Area, Backend, Object as Stored};
use crate::crypto::keys::{FrameKind, Keyring, Keys, Object};
use crate::error::{Error, Kind, Result, printable};
use crate::follow::read_rollup;
use crate::format::footer::{Footer, RollupEntry, encode_rollup};
use crate::format::record::{Outcome, PackRef, Record, SessionState};
use crate::id::{PackId, SessionId};
use crate::index::Flags;
use crate::keyslots::Secret;
use crate::limits::{MAX_PACK, MIB};
use crate::lock::{COMMIT_WAIT, SessionGuard};
use crate::monitor::{Event, Monitor, Void};
use crate::open::{Access, Repository, Sealed, bring_up, mend_config};
use crate::pack::many::{Emit, in_parallel};
use crate::pack::read::{open_footer, sealed_footer};
use crate::rebuild::{Listed, rebuild};
use crate::session::{Session, dead_sessions};
use crate::sweep::finish_intent;

/// Footers in one roll-up, in bytes.
const FOOTERS: usize = 8 * MIB;

impl Sealed {
    /// Opens the repository with `secret`: log and index, and for writing whatever a crash left is mended.
    ///
    /// # Errors
    /// `WrongPassword`; `Damaged` for config or log; `RolledBack` when this machine has seen a later state.
    pub fn unlock(self, secret: &Secret, monitor: &dyn Monitor) -> Result<Repository> {
        mended(self.open_as_left(secret, monitor)?, monitor)
    }

    /// As [`Sealed::unlock`], with keys that are known already.
    ///
    /// # Errors
    /// As [`Sealed::unlock`]; `Damaged` if they are not its keys.
    pub fn unlock_with(self, keyring: &Keyring, monitor: &dyn Monitor) -> Result<Repository> {
        mended(self.open_with(keyring, monitor)?, monitor)
    }
}

fn mended(repo: Repository, monitor: &dyn Monitor) -> Result<Repository> {
    if repo.access == Access::Write {
        mend(&repo, monitor)?;
    }
    repo.remember();
    Ok(repo)
}

/// Mends what crashes left. `repo` is open for writing.
///
/// # Errors
/// What log, locks and index give. A full disk is none: adopting waits then, and deleting must be possible.
pub fn mend(repo: &Repository, monitor: &dyn Monitor) -> Result<()> {
    mend_config(repo, monitor)?;
    let swept = finish_intent(repo, monitor);
    match swept {
        Err(e) if e.kind() == Kind::NoSpace => {
            monitor.event(Event::Warning(&format!("an interrupted prune is not finished yet: {e}")));
        }
        done => drop(done?),
    }
    if dead_sessions(&repo.log.state(), &repo.locks)?.is_empty() {
        return Ok(());
    }
    match adopt_dead(repo, monitor) {
        Err(e) if e.kind() == Kind::NoSpace => {
            monitor.event(Event::Warning(&format!("what an interrupted command left is not taken over yet: {e}")));
            Ok(())
        }
        done => done,
    }
}

/// A dead session that this process has claimed.
struct Dead {
    id: SessionId,
    state: SessionState,
    /// Held so that nobody else adopts it at the same time.
    _claim: SessionGuard,
}

fn adopt_dead(repo: &Repository, monitor: &dyn Monitor) -> Result<()> {
    let dead = claim(repo)?;
    if dead.is_empty() {
        return Ok(());
    }
    repo.refresh(monitor)?;
    let mut whole = unrecorded(repo, monitor, &|session| dead.iter().any(|d| d.id == *session))?;
    for Dead { id, state, .. } in &dead {
        let packs = whole.remove(id).unwrap_or_default();
        let kept = packs.len();
        let record = |rollup, packs| {
            let commit = repo.locks.commit(COMMIT_WAIT)?;
            repo.log.append(&commit, Record::PacksAdded { session: *id, rollup, packs }).map(drop)
        };
        record_packs(repo, state.number, packs, &record)?;
        let commit = repo.locks.commit(COMMIT_WAIT)?;
        repo.log.append(&commit, Record::SessionEnd { session: *id, outcome: Outcome::Adopted })?;
        drop(commit);
        if kept > 0 {
            let (what, host) = (&state.purpose, &state.host);
            let text = format!("an interrupted {what} of {host} left {kept} complete packs, they are kept");
            monitor.event(Event::Notice(&text));
        }
    }
    Ok(())
}

/// Takes the locks of dead sessions. Who cannot get one leaves that session to who has it.
fn claim(repo: &Repository) -> Result<Vec<Dead>> {
    let mut dead = Vec::new();
    for (id, state) in dead_sessions(&repo.log.state(), &repo.locks)? {
        if let Some(claim) = repo.locks.session(state.number)? {
            dead.push(Dead { id, state, _claim: claim });
        }
    }
    repo.log.refresh()?;
    let state = repo.log.state();
    dead.retain(|d| state.sessions.contains_key(&d.id));
    Ok(dead)
}

/// A pack as a roll-up and a record name it.
struct Whole {
    entry: RollupEntry,
    kind: FrameKind,
}

/// Packs that are in no index, are of the sessions wanted, and are what their names say.
fn unrecorded(
    repo: &Repository,
    monitor: &dyn Monitor,
    wanted: &(dyn Fn(&SessionId) -> bool + Sync),
) -> Result<BTreeMap<SessionId, Vec<Whole>>> {
    let mut listed = Listed::new(repo.backend.as_ref())?;
    repo.index.packs(&mut |info| {
        listed.mark(&info.id);
        Ok(())
    })?;
    let unknown: Vec<PackId> = listed.unmarked().map(|(id, _)| id).collect();
    whole_packs(repo, monitor, unknown, wanted)
}

/// Those of `packs` that are of the sessions wanted and verify, made durable.
fn whole_packs(
    repo: &Repository,
    monitor: &dyn Monitor,
    packs: Vec<PackId>,
    wanted: &(dyn Fn(&SessionId) -> bool + Sync),
) -> Result<BTreeMap<SessionId, Vec<Whole>>> {
    let (backend, keys) = (repo.backend.as_ref(), repo.keys.as_ref());
    let look = |id: PackId, emit: Emit<'_, (PackId, Result<(Footer, RollupEntry)>)>| {
        let found = sealed_footer(backend, &id).and_then(|(sealed_footer, size)| {
            let footer = open_footer(keys, &sealed_footer, size)?;
            Ok((footer, RollupEntry { id, size, sealed_footer }))
        });
        _ = emit((id, found));
    };
    let mut whole: BTreeMap<SessionId, Vec<Whole>> = BTreeMap::new();
    in_parallel(packs.into_iter(), monitor, look, |(id, found)| match found {
        Ok((footer, entry)) if wanted(&footer.session) => {
            if backend.vouches(&id)? {
                whole.entry(footer.session).or_default().push(Whole { entry, kind: footer.kind });
                return Ok(());
            }
            match read_sound(backend, &id) {
                Ok(Some(bytes)) => {
                    // Put once more: no power loss takes the bytes or the name away after that. Failing here fails the mending.
                    backend.put(&Stored::Pack(id), &bytes)?;
                    whole.entry(footer.session).or_default().push(Whole { entry, kind: footer.kind });
                }
                Ok(None) => ignore(backend, monitor, &id),
                Err(e) if e.errno() == Some(libc::EIO) => unreadable(monitor, &e),
                Err(e) => return Err(e),
            }
            Ok(())
        }
        // Another's, or swept meanwhile.
        Ok(_) => Ok(()),
        Err(e) if e.kind() == Kind::NotFound => Ok(()),
        Err(e) if e.kind() == Kind::Damaged => {
            ignore(backend, monitor, &id);
            Ok(())
        }
        // A bad sector under a pack that nothing refers to must not keep everybody from writing.
        Err(e) if e.errno() == Some(libc::EIO) => {
            unreadable(monitor, &e);
            Ok(())
        }
        Err(e) => Err(e),
    })?;
    Ok(whole)
}

fn unreadable(monitor: &dyn Monitor, error: &Error) {
    monitor.event(Event::Warning(&format!("a pack that an interrupted command left is given up: {error}")));
}

fn ignore(backend: &dyn Backend, monitor: &dyn Monitor, id: &PackId) {
    let path = backend.path(&Stored::Pack(*id));
    let text = format!("{} is not what its name says; nothing refers to it, it is left there", printable(&path));
    monitor.event(Event::Warning(&text));
}

/// A pack's bytes, if they are those of its name.
fn read_sound(backend: &dyn Backend, id: &PackId) -> Result<Option<Vec<u8>>> {
    let bytes = backend.read_all(&Stored::Pack(*id), MAX_PACK)?;
    Ok((blake3::hash(&bytes).as_bytes() == id.as_bytes()).then_some(bytes))
}

/// Writes roll-ups of durable packs, has each recorded, and brings the index up to that.
fn record_packs(
    repo: &Repository,
    number: u32,
    packs: Vec<Whole>,
    record: &dyn Fn(u64, Vec<PackRef>) -> Result<()>,
) -> Result<()> {
    let mut packs = packs.into_iter().peekable();
    while packs.peek().is_some() {
        let (mut entries, mut refs, mut bytes) = (Vec::new(), Vec::new(), 0);
        while bytes < FOOTERS
            && let Some(Whole { entry, kind }) = packs.next()
        {
            bytes += entry.sealed_footer.len();
            let footer_len = entry.sealed_footer.len() as u32;
            refs.push(PackRef { id: entry.id, size: entry.size, footer_len, kind });
            entries.push(entry);
        }
        let rollup = write_rollup(repo.backend.as_ref(), &repo.keys, number, &entries)?;
        record(rollup, refs)?;
        bring_up(repo.backend.as_ref(), &repo.keys, &repo.log, &repo.index, &Void::default())?;
    }
    Ok(())
}

/// Writes one roll-up under the next free name that begins with a session's number.
fn write_rollup(backend: &dyn Backend, keys: &Keys, session: u32, entries: &[RollupEntry]) -> Result<u64> {
    let first = u64::from(session) << 32;
    let mut next = first;
    backend.list(Area::Footers, &mut |object, _| {
        if let Stored::Footers(n) = object
            && n >> 32 == u64::from(session)
        {
            next = next.max(n.saturating_add(1));
        }
        Ok(())
    })?;
    let plain = encode_rollup(entries);
    loop {
        if next >> 32 != u64::from(session) {
            return Err(Error::bug("a session has no names for roll-ups left"));
        }
        let sealed = keys.seal(Object::Rollup, &next.to_le_bytes(), &plain);
        if backend.put(&Stored::Footers(next), &sealed)? == crate::backend::Put::Created {
            return Ok(next);
        }
        next += 1;
    }
}

/// Records the packs that no roll-up and no open session vouches for, so that every index of this repository knows them
/// and backups can rely on them: what is left of a session that ended without recording them, or of packs whose roll-up
/// was lost. Returns how many. Lists all packs, and reads the strays.
///
/// # Errors
/// What backend, log and index give.
pub fn adopt_strays(repo: &Repository, monitor: &dyn Monitor) -> Result<u64> {
    // A prune takes strays for what they are, and removes them.
    let _no_prune = match repo.locks.prune(COMMIT_WAIT) {
        Err(e) if e.kind() == Kind::Locked => {
            monitor.event(Event::Notice("a prune is running: packs that nothing records are left to it"));
            return Ok(0);
        }
        guard => guard?,
    };
    let state = repo.refresh(monitor)?;
    let mut listed = Listed::new(repo.backend.as_ref())?;
    let mut strays = Vec::new();
    repo.index.packs(&mut |info| {
        listed.mark(&info.id);
        // Condemned by a rebuild alone.
        if info.condemned && !info.damaged && !state.condemned.contains_key(&info.id) {
            strays.push(info.id);
        }
        Ok(())
    })?;
    strays.extend(listed.unmarked().map(|(id, _)| id));
    // What a prune has condemned or means to remove is on its way out.
    strays.retain(|id| !state.condemned.contains_key(id));
    strays.retain(|id| state.sweep.as_ref().is_none_or(|sweep| !sweep.packs.contains(id)));
    if strays.is_empty() {
        return Ok(0);
    }
    let whole = whole_packs(repo, monitor, strays, &|session| !state.sessions.contains_key(session))?;
    let packs: Vec<Whole> = whole.into_values().flatten().collect();
    if packs.is_empty() {
        return Ok(0);
    }
    let ids: Vec<PackId> = packs.iter().map(|p| p.entry.id).collect();
    let session = Session::begin(repo.log.clone(), repo.locks.clone(), "adopt", None)?;
    record_packs(repo, session.number(), packs, &|rollup, packs| session.packs_added(rollup, packs).map(drop))?;
    session.end(Outcome::Done)?;
    // Nobody condemns them meanwhile: the prune lock is held.
    let usable = Flags { condemned: Some(false), damaged: None };
    match repo.index.set_flags_apart(&ids, usable) {
        // Another process has just rebuilt the index.
        Err(e) if e.kind() == Kind::Locked => {
            repo.refresh(monitor)?;
            repo.index.set_flags_apart(&ids, usable)?;
        }
        done => done?,
    }
    Ok(ids.len() as u64)
}

/// What building the index anew did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Renewed {
    /// Chunks in it.
    pub chunks: u64,
    /// Packs in it.
    pub packs: u64,
    /// Packs that were recorded because nothing vouched for them.
    pub adopted: u64,
    /// Roll-ups that could not be read and were removed: others list their packs now.
    pub rollups: u64,
}

/// Builds the index anew, unless opening the repository just did. Where the repository can be written, packs that
/// no roll-up lists are recorded, and roll-ups that cannot be read are removed.
///
/// # Errors
/// What backend, log and index give.
pub fn renew_index(repo: &Repository, monitor: &dyn Monitor) -> Result<Renewed> {
    if !repo.index_is_new {
        rebuild(repo.backend.as_ref(), &repo.keys, &repo.log, repo.index.dir(), monitor)?;
        repo.index.refresh()?;
    }
    let mut renewed = Renewed::default();
    if repo.access == Access::Write {
        renewed.adopted = adopt_strays(repo, monitor)?;
        renewed.rollups = drop_unreadable_rollups(repo)?;
    }
    (renewed.chunks, renewed.packs) = repo.index.counts()?;
    Ok(renewed)
}

/// Deletes roll-ups that do not authenticate. Every sound pack is in another by now.
fn drop_unreadable_rollups(repo: &Repository) -> Result<u64> {
    let mut numbers = Vec::new();
    repo.backend.list(Area::Footers, &mut |object, _| {
        if let Stored::Footers(n) = object {
            numbers.push(n);
        }
        Ok(())
    })?;
    let mut dropped = 0;
    for number in numbers {
        // What only could not be read just now is no reason to delete it.
        if read_rollup(repo.backend.as_ref(), &repo.keys, number).is_err_and(|e| e.kind() == Kind::Damaged) {
            repo.backend.delete(&Stored::Footers(number))?;
            dropped += 1;
        }
    }
    if dropped > 0 {
        repo.backend.sync_deletes(Area::Footers)?;
    }
    Ok(dropped)
}
