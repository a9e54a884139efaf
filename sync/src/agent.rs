//! A host that backs up to a site over a connection, and keeps nothing that opens anything but its own.
//!
//! *A site is to its agents what a pool is to its tenants.* The agent keeps a small repository of its own, the state
//! (`state`), of which packs of data are handed to the site and not kept (`outbox`, `courier`). So capture,
//! comparison with the last snapshot and deduplication are those of any backup. The state can be lost: then all is read,
//! and asked about, again.

mod back;
mod courier;
mod identity;
mod outbox;
mod state;
mod window;

use std::path::Path;
use std::sync::Arc;

use crossbeam_channel::bounded;
use repo::backend::Object as Stored;
use repo::capture::{self, Options, Outcome};
use repo::error::{Error, Kind, Result};
use repo::format::manifest::Manifest;
use repo::format::record::Position;
use repo::id::SnapshotId;
use repo::limits::MAX_MANIFEST;
use repo::log::Relation;
use repo::monitor::{Event, Monitor};
use repo::open::Repository;
use repo::snapshots;

use crate::fetch::Dial;
use crate::push::link::Link;
use crate::wire::{Message, Reason, escape};
use courier::Courier;
use state::State;

pub use back::bring_back;
pub use identity::{Identity, join, leave};
pub use window::window;

/// A snapshot is captured anew so often when the site turns out to lack what the state took for delivered.
const TRIES: u32 = 4;

/// What a backup of an agent did.
pub struct Delivered {
    /// What capture did.
    pub outcome: Outcome,
    /// The snapshot as the agent knows it; none if none was made.
    pub manifest: Option<Manifest>,
    /// Bytes of packs that were sent.
    pub sent: u64,
}

/// Makes a backup and delivers it: what is in it goes to the site while it is read. `options` is asked again when it has to be
/// captured anew. The state is kept below `dir`.
///
/// # Errors
/// `Unreachable` if the link fails: what arrived is not sent again. `Locked` while another backup of this host runs;
/// `Refused` for another host, and when the agent was revoked; `NoSpace`; as [`capture::backup`].
pub fn backup(
    identity: &Identity,
    dir: &Path,
    dial: &Dial,
    options: &dyn Fn(&Repository) -> Result<Options>,
    program: &str,
    monitor: &dyn Monitor,
) -> Result<Delivered> {
    // First: the site lets in one backup of this host at a time, so the state is this one's.
    let begin = (identity.repository, Position::START, program);
    let (link, ready) = Link::begin(dial, begin, state::PACK as usize, monitor)?;
    if ready.clock_differs {
        monitor.event(Event::Warning("the site's clock and this one differ by more than an hour"));
    }
    let state = State::open(dir, identity, ready.chunker, monitor)?;
    let mut courier = Courier::new(link, Arc::clone(&state.repo.keys));
    let known = state.is_known(ready.watermark);
    if !known || !courier.knows(&state.roots()?)? {
        state.lost(courier.audit(&state.repo, monitor)?, monitor)?;
    }
    let delivered = ready.watermark.filter(|_| known).map_or(0, |at| at.seq);
    let mut work = Work { identity, state: &state, courier, options, monitor, delivered };
    let (outcome, manifest) = work.run()?;
    let sent = work.courier.bye()?;
    if manifest.is_some() {
        state.tidy(monitor);
    }
    state.repo.remember();
    Ok(Delivered { outcome, manifest, sent })
}

struct Work<'a> {
    identity: &'a Identity,
    state: &'a State,
    courier: Courier<'a>,
    options: &'a dyn Fn(&Repository) -> Result<Options>,
    monitor: &'a dyn Monitor,
    /// The last record of the state's log of which everything is at the site.
    delivered: u64,
}

impl Work<'_> {
    fn run(&mut self) -> Result<(Outcome, Option<Manifest>)> {
        let repo = &self.state.repo;
        for _ in 0..TRIES {
            let mut options = (self.options)(repo)?;
            if options.host != self.identity.host {
                return Err(self.another_host(&options.host));
            }
            // What was captured and did not get through is no snapshot that could stand for this one.
            let stuck = repo.log.state().snapshots.values().any(|s| s.forgotten.is_none() && s.seq > self.delivered);
            options.skip_if_unchanged &= !stuck;
            let outcome = self.capture(options)?;
            let Some(id) = outcome.snapshot else { return Ok((outcome, None)) };
            if self.deliver(id)? {
                return Ok((outcome, Some(snapshots::manifest(repo, &id)?)));
            }
            let text = "the site no longer has all that was delivered to it: what it lacks is read and sent again";
            self.monitor.event(Event::Warning(text));
        }
        Err(Error::new(Kind::Io, "the site keeps missing what it was sent").remedy("try again"))
    }

    /// Captures; packs are on their way meanwhile.
    fn capture(&mut self, options: Options) -> Result<Outcome> {
        let (state, courier, monitor) = (self.state, &mut self.courier, self.monitor);
        let (tell, tasks) = bounded(0);
        state.outbox.attach(tell);
        std::thread::scope(|scope| {
            scope.spawn(move || courier.serve(&tasks));
            let done = capture::backup(&state.repo, options, monitor);
            state.outbox.detach();
            done
        })
    }

    /// Sends the manifest; false if what the site lacks is not here any more, and must be read again.
    fn deliver(&mut self, id: SnapshotId) -> Result<bool> {
        let repo = &self.state.repo;
        let sealed = repo.backend.read_all(&Stored::Snapshot(id), MAX_MANIFEST)?;
        let mut again = false;
        for _ in 0..TRIES {
            match self.courier.manifest(id, &sealed, again)? {
                Message::Accepted { .. } => {
                    self.courier.done(repo.log.position())?;
                    return Ok(true);
                }
                Message::Declined { reason, why, .. } => return Err(declined(reason, &why)),
                _ => {
                    // All that is here of what it lacks is sent.
                    let lost = self.courier.audit(repo, self.monitor)?;
                    if !lost.is_empty() {
                        self.state.lost(lost, self.monitor)?;
                        return Ok(false);
                    }
                    again = true;
                }
            }
        }
        Ok(false)
    }

    fn another_host(&self, host: &str) -> Error {
        let own = &self.identity.host;
        Error::new(Kind::Refused, format!("this agent backs up host '{own}', not '{}'", host.escape_debug()))
            .remedy("leave --host out, or let the other host join the site as well")
    }
}

fn declined(reason: Reason, why: &str) -> Error {
    let why = format!("the site did not take the snapshot: {}", escape(why));
    match reason {
        Reason::Quota | Reason::DiskFull => Error::new(Kind::NoSpace, why).remedy("ask the site's operator for room"),
        Reason::Suspended => Error::new(Kind::Refused, why).remedy("ask the site's operator for another invitation"),
        _ => Error::new(Kind::Refused, why).remedy("the site's log may tell more"),
    }
}

impl State {
    /// Whether the site's watermark is of this state's log: of another, or with none, what is here is taken for doubtful.
    fn is_known(&self, watermark: Option<Position>) -> bool {
        match watermark {
            Some(at) => matches!(self.repo.log.extends(&at), Relation::Same | Relation::Newer),
            None => false,
        }
    }
}
