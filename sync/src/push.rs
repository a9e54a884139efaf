//! A push to a pool: what this repository has and the pool does not know from it, in packs.
//!
//! The pool is asked about every chunk of the packs that came since its watermark, without waiting for one answer before the
//! next question. A pack of which it has nothing goes whole and verbatim; of others the frames that hold something new, put
//! together in packs of their own. Then manifests; what one turns out to lack is sent from wherever it now lies. Where all is
//! to be compared with a pool that had it once, there are manifests alone: what it has forgotten since is not sent again.

mod frames;
mod lane;
pub(crate) mod link;
mod offer;

use std::collections::{BTreeMap, VecDeque};

use repo::backend::Object as Stored;
use repo::error::{Error, Kind, Result};
use repo::format::record::{Position, State};
use repo::id::{DriveId, PackId, SnapshotId};
use repo::limits::MAX_MANIFEST;
use repo::log::Relation;
use repo::monitor::{Event, Monitor};
use repo::open::Repository;

use crate::delta::Delta;
use crate::drive::custody;
use crate::fetch::{Dial, unexpected};
use crate::wire::limits::MAX_BELONGINGS;
use crate::wire::{Message, PieceName, Reason, Secret};
use frames::Outgoing;
pub(crate) use link::{CONNECTIONS, LONG, attach};
use link::{Link, Ready};

/// Snapshots are asked about again this often in all: trees that are missing show level by level.
const ROUNDS: u32 = 1_000_000;
/// Manifests on their way whose answers are awaited.
const WINDOW: usize = 16;

/// How to push.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// The remote's name here: what is on its way there on a drive is not sent.
    pub remote: &'a str,
    /// Ask about everything, not just what was recorded since the last push.
    pub audit: bool,
    /// Everything was there once, as far as this repository knows.
    pub before: bool,
    /// The repository was made anew: that the pool knows a state of the lost one is no wonder.
    pub anew: bool,
}

/// What a push did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What the pool calls this tenant.
    pub tenant: String,
    /// Packs sent whole.
    pub packs: u64,
    /// Packs put together of frames that held something new.
    pub mixed: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// Bytes of packs that came since the last push, and that the pool had already.
    pub skipped: u64,
    /// Snapshots that the pool did not have.
    pub snapshots: u64,
    /// Snapshots that are not there, and why.
    pub failed: Vec<(SnapshotId, String)>,
    /// Snapshots of which something is on its way on a drive, and on which.
    pub waiting: Vec<(SnapshotId, DriveId)>,
    /// Bytes of packs that are on their way on a drive.
    pub posted: u64,
    /// Whether some of these would have taken the tenant above its quota.
    pub over_quota: bool,
    /// Packs that the pool would not take.
    pub refused: Vec<PackId>,
    /// How far everything is there now.
    pub watermark: Option<Position>,
}

/// Pushes everything to the pool that `dial` reaches.
///
/// # Errors
/// `Unreachable` when the link fails: what was acknowledged is not sent again. `Interrupted`; what the pool says; what this
/// repository gives. Snapshots that could not be delivered are no error: they are in the report.
pub fn push(
    repo: &Repository,
    dial: &Dial,
    program: &str,
    options: Options<'_>,
    monitor: &dyn Monitor,
) -> Result<Report> {
    let mut state = repo.refresh(monitor)?;
    let pack_size = repo.config.pack_size as usize;
    let (link, ready) = Link::begin(dial, (repo.config.repo_id, state.position, program), pack_size, monitor)?;
    if ready.sealed {
        return Err(Error::new(Kind::Unsupported, "this tenant is kept sealed, which this version cannot push to"));
    }
    if ready.clock_differs {
        monitor.event(Event::Warning("the pool's clock and this one differ by more than an hour"));
    }
    let mut push = Push::new(repo, monitor, link, &ready);
    push.leave_belongings()?;
    if custody::collect(repo, options.remote, monitor, &mut |drives| push.link.receipts(drives))? {
        // That a drive has come was noted behind it.
        state = repo.refresh(monitor)?;
    }
    push.away = state.under_way(Some((repo.config.repo_id, options.remote)));
    let from = push.known(ready.watermark, options.anew).filter(|_| !options.audit);
    let delta = Delta::since(repo, from)?;
    if delta.is_empty() {
        // Records of other things need not be told: else that this was pushed would have to be pushed in its turn.
        push.report.watermark = from;
        return push.end();
    }
    let keyring = &repo.unlocked.keyring;
    if ready.epochs < keyring.epochs() {
        push.link.send(Message::Keys { keyring: Secret::new(keyring.to_bytes().to_vec()) })?;
    }
    monitor.event(Event::Phase("packs"));
    if delta.is_large() {
        push.link.expect_many();
    }
    let before = options.before || ready.watermark.is_some();
    if !(before && matches!(delta, Delta::All)) {
        push.offer(&delta)?;
    }
    monitor.event(Event::Phase("snapshots"));
    push.manifests(&state, &delta)?;
    if push.report.failed.is_empty() && push.report.waiting.is_empty() {
        push.report.watermark = Some(push.link.done(state.position)?);
    }
    push.end()
}

/// Has the pool know this log, up to `position`, in place of that of a lost repository, when all that it has is here and nothing
/// else is. False where the pool lacks some of what was delivered to it, or nothing was: the next push compares everything.
///
/// # Errors
/// As [`push`].
pub fn settle(
    repo: &Repository,
    dial: &Dial,
    program: &str,
    position: Position,
    monitor: &dyn Monitor,
) -> Result<bool> {
    let begin = (repo.config.repo_id, position, program);
    let (mut link, ready) = Link::begin(dial, begin, repo.config.pack_size as usize, monitor)?;
    let whole = ready.watermark.is_some();
    if whole {
        link.done(position)?;
    }
    link.bye()?;
    Ok(whole)
}

/// What became of chunks that a snapshot lacks.
struct Sent {
    /// Frames that were sent.
    frames: usize,
    /// A drive that carries others of them.
    posted: Option<DriveId>,
}

/// One push.
struct Push<'a> {
    repo: &'a Repository,
    monitor: &'a dyn Monitor,
    link: Link<'a>,
    /// Packs of which the pool has a beginning.
    partial: BTreeMap<PackId, u64>,
    outgoing: Outgoing,
    /// Drives that are on their way to the pool.
    away: Vec<DriveId>,
    /// How often something was missed.
    rounds: u32,
    report: Report,
}

impl<'a> Push<'a> {
    fn new(repo: &'a Repository, monitor: &'a dyn Monitor, link: Link<'a>, ready: &Ready) -> Push<'a> {
        let report = Report { tenant: ready.tenant.clone(), ..Report::default() };
        let outgoing = Outgoing::new(repo.config.pack_size as usize);
        Push { repo, monitor, link, partial: ready.partial.clone(), outgoing, away: Vec::new(), rounds: 0, report }
    }

    /// The watermark, if it is of this log: of another history nothing is believed.
    fn known(&self, watermark: Option<Position>, anew: bool) -> Option<Position> {
        let at = watermark?;
        match self.repo.log.extends(&at) {
            Relation::Same | Relation::Newer => Some(at),
            Relation::Forked | Relation::RolledBack if anew => None,
            Relation::Forked | Relation::RolledBack => {
                let text = "the pool knows a later state of this repository than this one, which was rolled back or copied: \
                            everything is compared";
                self.monitor.event(Event::Warning(text));
                None
            }
        }
    }

    /// Leaves at the pool what is to come back with a lost site's snapshots, if it is not there yet.
    fn leave_belongings(&mut self) -> Result<()> {
        let Some((mark, sealed)) = repo::agents::belongings(self.repo) else { return Ok(()) };
        if sealed.len() > MAX_BELONGINGS {
            self.monitor
                .event(Event::Warning("there are too many agents for the pool to keep their keys for this site"));
            return Ok(());
        }
        if !self.link.keep(mark, Vec::new())? {
            self.link.keep(mark, sealed)?;
        }
        Ok(())
    }

    fn stop_if_cancelled(&self) -> Result<()> {
        if self.monitor.cancelled() {
            return Err(Error::new(Kind::Interrupted, "interrupted; what has arrived will not be sent again"));
        }
        Ok(())
    }

    /// Sends the manifests in the order in which they were recorded, a few ahead of their answers.
    fn manifests(&mut self, state: &State, delta: &Delta) -> Result<()> {
        let wanted = |id: &SnapshotId| match delta {
            Delta::All => true,
            Delta::Since { snapshots, .. } => snapshots.contains(id),
        };
        let mut ids: Vec<(u64, SnapshotId)> =
            state.snapshots.iter().filter(|(id, _)| wanted(id)).map(|(id, s)| (s.seq, *id)).collect();
        ids.sort_unstable();
        let mut waiting = VecDeque::new();
        for (_, id) in ids {
            self.stop_if_cancelled()?;
            let sealed = match self.repo.backend.read_all(&Stored::Snapshot(id), MAX_MANIFEST) {
                // Swept meanwhile.
                Err(e) if e.kind() == Kind::NotFound => continue,
                other => other?,
            };
            self.link.manifest(id, sealed)?;
            waiting.push_back(id);
            if waiting.len() >= WINDOW {
                self.answer(&mut waiting)?;
            }
        }
        while !waiting.is_empty() {
            self.answer(&mut waiting)?;
        }
        Ok(())
    }

    /// Takes the answer about the oldest that waits; what it lacks is sent, and it is asked about again behind the others.
    fn answer(&mut self, waiting: &mut VecDeque<SnapshotId>) -> Result<()> {
        let Some(id) = waiting.pop_front() else { return Ok(()) };
        // Between this snapshot's question and its answer only others' answers can come: those asked before.
        match self.link.verdict(&id)? {
            Message::Accepted { already, .. } => {
                self.report.snapshots += u64::from(!already);
            }
            Message::Declined { why, reason, .. } => {
                self.report.over_quota |= reason == Reason::Quota;
                self.report.failed.push((id, crate::wire::escape(&why)));
            }
            Message::Missing { pieces, .. } => match self.send_missing(&pieces) {
                // All that it lacks is in the post.
                Ok(Sent { frames: 0, posted: Some(drive) }) => self.report.waiting.push((id, drive)),
                Ok(_) => {
                    self.rounds += 1;
                    if self.rounds > ROUNDS {
                        return Err(Error::new(Kind::Io, "the pool keeps missing what it was sent"));
                    }
                    waiting.push_back(id);
                    self.link.again(id)?;
                }
                Err(e) if matches!(e.kind(), Kind::Damaged | Kind::NotFound) => {
                    self.report.failed.push((id, e.to_string()));
                }
                Err(e) => return Err(e),
            },
            other => return Err(unexpected(Some(other))),
        }
        Ok(())
    }

    /// Sends the frames that hold these chunks, but for those that are on their way on a drive.
    fn send_missing(&mut self, pieces: &[PieceName]) -> Result<Sent> {
        let packs = self.repo.packs();
        let (mut frames, mut posted) = (BTreeMap::new(), None);
        for piece in pieces {
            let (at, info) = packs.locate(&piece.h)?.ok_or_else(|| {
                Error::damaged("it needs a piece of data that no pack of this repository has")
                    .remedy("run `packmule check` to see what is affected")
            })?;
            match self.repo.index.posted(&self.away, &info.id)? {
                Some(drive) => posted = Some(*drive),
                None => _ = frames.insert((info.id, at.frame), info),
            }
        }
        let sent = Sent { frames: frames.len(), posted };
        for ((_, frame), info) in frames {
            self.stop_if_cancelled()?;
            let pack = packs.pack(&info)?;
            self.send_frame(&pack, frame)?;
        }
        self.flush_frames()?;
        Ok(sent)
    }

    fn end(mut self) -> Result<Report> {
        self.report.refused = self.link.refused();
        self.report.bytes = self.link.bye()?;
        Ok(self.report)
    }
}
