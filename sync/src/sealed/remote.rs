//! A copy at a pool, as a push sees it. Objects go out one behind the other, and what the pool says of them is taken in by a
//! thread of its own, so that no object waits for the one before it to be durable.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use repo::backend::{Backend, Object};
use repo::clock::Time;
use repo::error::{Error, Kind, Result};
use repo::format::record::Position;
use repo::id::{DriveId, RepoId};

use super::Target;
use crate::fetch::{Dial, unexpected};
use crate::push::{CONNECTIONS, LONG, attach};
use crate::wire::Area as NamedArea;
use crate::wire::limits::{MAX_LISTING, MAX_PIECES};
use crate::wire::{
    Bitmap, Connection, Listed, Message, Object as Named, Preface, Purpose, RECEIPTS, Receiver, Sender, Session, Side,
};

/// How long what the pool said last is waited for after the link has failed.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// An open push to a sealed tenant's copy.
pub struct Remote {
    /// The connection of the Begin: everything goes out by it, but packs by any that is free.
    sender: Mutex<Sender>,
    more: Arc<Mutex<Vec<Arc<Mutex<Sender>>>>>,
    /// Packs went out by others since what was put was last durable.
    apart: AtomicBool,
    dial: Dial,
    session: Session,
    /// Whether a question and its answer take long.
    long: bool,
    /// The pool can be asked for receipts.
    gives_receipts: bool,
    heard: Arc<Heard>,
    watermark: Option<Position>,
    partial: Mutex<BTreeMap<Named, u64>>,
    wanted: Vec<Object>,
    /// Where the pool is, for messages.
    pub(super) place: PathBuf,
    /// What the pool calls the tenant.
    pub tenant: String,
    /// The pool's clock at the beginning.
    pub time: Time,
}

#[derive(Default)]
struct Heard {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Put, and not durable yet.
    owed: BTreeMap<Named, u64>,
    /// What the pool would not take first, and why.
    refused: Option<String>,
    answers: VecDeque<Message>,
    pings: Vec<u64>,
    failed: Option<(Kind, String, String)>,
    over: bool,
}

impl Remote {
    /// Begins the push of a repository whose log stands at `position`: one round trip.
    ///
    /// # Errors
    /// `Unreachable` if the link fails; what the pool says; `Unsupported` if the tenant is not a sealed one.
    pub fn begin(dial: &Dial, repository: RepoId, position: Position, program: &str, place: &Path) -> Result<Remote> {
        let mut connection = Connection::open(dial()?, Side::Client, &Preface::ours())?;
        let asked = Instant::now();
        let program = program.to_owned();
        connection.send(&Message::Begin { purpose: Purpose::Push, repository, position, program })?;
        connection.flush()?;
        let (session, tenant, sealed, watermark, partial, time) = match connection.receive()? {
            Some(Message::Ready { session, tenant, sealed, watermark, partial, time, .. }) => {
                (session, tenant, sealed, watermark, partial, time)
            }
            other => return Err(unexpected(other)),
        };
        let long = asked.elapsed() > LONG;
        if !sealed {
            return Err(Error::new(
                Kind::Unsupported,
                "this tenant is pooled now, and was sealed when this remote was added",
            )
            .remedy("remove the remote, and add it by a new invitation"));
        }
        // Nothing of it is left: it was lost there.
        let wanted = partial.iter().filter(|(_, durable)| *durable == 0).filter_map(|(name, _)| stored(name)).collect();
        let gives_receipts = connection.agreed().has(RECEIPTS);
        let (sender, receiver) = connection.split();
        let heard = Arc::new(Heard::default());
        let listener = Arc::clone(&heard);
        std::thread::spawn(move || listener.listen(receiver, true));
        let (sender, partial) = (Mutex::new(sender), Mutex::new(partial.into_iter().collect()));
        let (more, apart, dial, place) = (Arc::default(), AtomicBool::new(false), Arc::clone(dial), place.to_owned());
        Ok(Remote {
            sender,
            more,
            apart,
            dial,
            session,
            long,
            gives_receipts,
            heard,
            watermark,
            partial,
            wanted,
            place,
            tenant,
            time,
        })
    }

    /// Opens further connections, in the background. One that cannot be had is done without.
    fn widen(&self) {
        for _ in 1..CONNECTIONS {
            let (dial, session) = (Arc::clone(&self.dial), self.session);
            let (more, heard) = (Arc::downgrade(&self.more), Arc::clone(&self.heard));
            std::thread::spawn(move || {
                // The push may be over by now.
                if let (Ok(connection), Some(more)) = (attach(&dial, session), more.upgrade()) {
                    let (sender, receiver) = connection.split();
                    more.lock().push(Arc::new(Mutex::new(sender)));
                    drop(more);
                    heard.listen(receiver, false);
                }
            });
        }
    }

    /// Sends a pack by whichever connection is free.
    fn send_pack(&self, named: Named, bytes: &[u8]) -> Result<()> {
        let more = self.more.lock().clone();
        let Some(mut sender) = more.iter().find_map(|sender| sender.try_lock()) else {
            return self.send_object(named, bytes);
        };
        self.apart.store(true, Ordering::Relaxed);
        self.send_by(&mut sender, named, bytes)?;
        self.flush(&mut sender)
    }

    /// Sends a question and waits for its answer.
    fn ask(&self, question: &Message) -> Result<Message> {
        let mut sender = self.sender.lock();
        self.say(&mut sender, question)?;
        self.flush(&mut sender)?;
        drop(sender);
        self.answer()
    }

    fn answer(&self) -> Result<Message> {
        let mut state = self.heard.state.lock();
        loop {
            if let Some(answer) = state.answers.pop_front() {
                return Ok(answer);
            }
            state.or_failed()?;
            self.heard.changed.wait(&mut state);
        }
    }

    fn say(&self, sender: &mut Sender, message: &Message) -> Result<()> {
        let pings = {
            let mut state = self.heard.state.lock();
            state.or_failed()?;
            std::mem::take(&mut state.pings)
        };
        for number in pings {
            let sent = sender.send(&Message::Pong(number));
            self.or_why(sent)?;
        }
        let sent = sender.send(message);
        self.or_why(sent)
    }

    fn flush(&self, sender: &mut Sender) -> Result<()> {
        let flushed = sender.flush();
        self.or_why(flushed)
    }

    /// A link that fails while this side sends may have failed because the other side said why.
    fn or_why(&self, sent: Result<()>) -> Result<()> {
        let Err(e) = sent else { return Ok(()) };
        let mut state = self.heard.state.lock();
        while state.failed.is_none() && !state.over {
            if self.heard.changed.wait_for(&mut state, LAST_WORDS).timed_out() {
                break;
            }
        }
        match &state.failed {
            Some((kind, _, _)) if *kind != Kind::Unreachable || e.kind() == Kind::Unreachable => state.or_failed(),
            _ => Err(e),
        }
    }

    pub(super) fn send_object(&self, named: Named, bytes: &[u8]) -> Result<()> {
        self.send_by(&mut self.sender.lock(), named, bytes)
    }

    fn send_by(&self, sender: &mut Sender, named: Named, bytes: &[u8]) -> Result<()> {
        let size = bytes.len() as u64;
        let from = self.partial.lock().remove(&named).unwrap_or(0).min(size);
        self.heard.state.lock().owed.insert(named.clone(), size);
        self.say(sender, &Message::Put { object: named, size, from })?;
        let sent = sender.send_data(&bytes[from as usize..]);
        self.or_why(sent)
    }

    /// Says that everything up to `position` was delivered; the pool notes it.
    ///
    /// # Errors
    /// What the pool says; as [`Remote::begin`].
    pub fn done(&self, position: Position) -> Result<()> {
        match self.ask(&Message::Done { position })? {
            Message::Finished { watermark } if watermark == position => Ok(()),
            other => Err(unexpected(Some(other))),
        }
    }

    /// Everything that the copy has in an area, with the time from which an order may delete it.
    ///
    /// # Errors
    /// As [`Remote::begin`].
    pub fn list(&self, area: NamedArea) -> Result<Vec<Listed>> {
        let mut all: Vec<Listed> = Vec::new();
        loop {
            let after = all.last().map(|listed| listed.object.clone());
            match self.ask(&Message::Objects { area, after })? {
                Message::Listing { area: of, objects, more } if of == area => {
                    all.extend(objects);
                    if !more {
                        return Ok(all);
                    }
                }
                other => return Err(unexpected(Some(other))),
            }
        }
    }

    /// Sends an owner's order to delete; how many objects and bytes were deleted.
    ///
    /// # Errors
    /// `Refused` if the pool does not obey, and why; as [`Remote::begin`].
    pub fn order(&self, order: &[u8]) -> Result<(u64, u64)> {
        let mut sender = self.sender.lock();
        self.say(&mut sender, &Message::Order { size: order.len() as u64 })?;
        let sent = sender.send_data(order);
        self.or_why(sent)?;
        self.flush(&mut sender)?;
        drop(sender);
        match self.answer()? {
            Message::Ordered { objects, bytes } => Ok((objects, bytes)),
            other => Err(unexpected(Some(other))),
        }
    }

    pub(super) fn lacks(&self, named: Vec<(Named, u64)>) -> Result<Vec<bool>> {
        let mut missing = Vec::with_capacity(named.len());
        for some in named.chunks(MAX_LISTING.min(MAX_PIECES)) {
            match self.ask(&Message::Holding { objects: some.to_vec() })? {
                Message::Answer { missing: bits } if bits.len() == some.len() => {
                    missing.extend((0..bits.len()).map(|at| Bitmap::get(&bits, at)));
                }
                other => return Err(unexpected(Some(other))),
            }
        }
        Ok(missing)
    }

    pub(super) fn settled(&self) -> Result<()> {
        let mut sender = self.sender.lock();
        self.flush(&mut sender)?;
        drop(sender);
        let mut state = self.heard.state.lock();
        loop {
            if let Some(why) = &state.refused {
                return Err(Error::new(Kind::Refused, why.clone())
                    .remedy("`packmule check --read-data` tells whether it is sound here"));
            }
            if state.owed.is_empty() {
                return Ok(());
            }
            state.or_failed()?;
            self.heard.changed.wait(&mut state);
        }
    }

    /// Ends the push and waits until the pool has.
    ///
    /// # Errors
    /// As [`Remote::begin`].
    pub fn bye(self) -> Result<()> {
        for sender in self.more.lock().drain(..) {
            let mut sender = sender.lock();
            // Everything is durable: what becomes of them does not matter any more.
            let _ = sender.send(&Message::Bye).and_then(|()| sender.flush());
        }
        let mut sender = self.sender.lock();
        self.say(&mut sender, &Message::Bye)?;
        self.flush(&mut sender)?;
        drop(sender);
        let mut state = self.heard.state.lock();
        while !state.over {
            self.heard.changed.wait(&mut state);
        }
        match &state.failed {
            Some((kind, _, _)) if *kind != Kind::Unreachable => state.or_failed(),
            _ => Ok(()),
        }
    }
}

impl Target for Remote {
    fn expect_many(&self) {
        // A short link is filled by one.
        if self.long {
            self.widen();
        }
    }

    fn watermark(&self) -> Result<Option<Position>> {
        Ok(self.watermark)
    }

    fn wanted(&self) -> Vec<Object> {
        self.wanted.clone()
    }

    fn missing(&self, objects: &[(Object, u64)]) -> Result<Vec<bool>> {
        self.lacks(objects.iter().map(|(object, size)| Ok((named(object)?, *size))).collect::<Result<_>>()?)
    }

    fn put(&self, object: &Object, bytes: &[u8]) -> Result<()> {
        match object {
            // The pool keeps both files of the config.
            Object::ConfigCopy => Ok(()),
            Object::Pack(id) => self.send_pack(Named::Pack(*id), bytes),
            other => {
                // What follows packs is durable after them, by whichever way they went.
                if self.apart.swap(false, Ordering::Relaxed) {
                    self.settled()?;
                }
                self.send_object(named(other)?, bytes)
            }
        }
    }

    fn settle(&self) -> Result<()> {
        self.settled()
    }

    fn keeps_passwords(&self) -> bool {
        false
    }

    fn path(&self, object: &Object) -> PathBuf {
        self.place.join(object.path())
    }

    fn receipts(&self, drives: &[DriveId]) -> Result<Vec<String>> {
        if !self.gives_receipts {
            return Ok(Vec::new());
        }
        match self.ask(&Message::Receipts { drives: drives.to_vec() })? {
            Message::Signed { receipts } => Ok(receipts),
            other => Err(unexpected(Some(other))),
        }
    }

    fn owned(&self) -> Option<&dyn Backend> {
        None
    }
}

impl State {
    fn or_failed(&self) -> Result<()> {
        match &self.failed {
            Some((kind, message, remedy)) => {
                let e = Error::new(*kind, message.clone());
                Err(if remedy.is_empty() { e } else { e.remedy(remedy.clone()) })
            }
            None if self.over => {
                Err(Error::new(Kind::Unreachable, "the pool ended the connection").remedy("try again"))
            }
            None => Ok(()),
        }
    }

    fn fail(&mut self, e: &Error) {
        let remedy = e.what_to_do().unwrap_or_default().to_owned();
        self.failed.get_or_insert((e.kind(), e.message().to_owned(), remedy));
    }
}

impl Heard {
    /// Takes in what comes on a connection; the first one says why a push ends.
    fn listen(&self, mut receiver: Receiver, first: bool) {
        loop {
            let message = receiver.receive();
            let mut state = self.state.lock();
            match message {
                Ok(Some(Message::Durable { object, bytes })) => {
                    if state.owed.get(&object).is_some_and(|size| *size <= bytes) {
                        state.owed.remove(&object);
                    }
                }
                Ok(Some(Message::Refused { object, why })) => {
                    state.owed.remove(&object);
                    let why = format!("the pool did not take {object:?}: {}", crate::wire::escape(&why));
                    state.refused.get_or_insert(why);
                }
                Ok(Some(Message::Ping(number))) => state.pings.push(number),
                Ok(Some(Message::Pong(_))) => {}
                Ok(Some(Message::Fail(fail))) => state.fail(&fail.into_error()),
                Ok(Some(answer)) => state.answers.push_back(answer),
                Ok(None) if !first => return,
                Ok(None) => state.over = true,
                Err(_) if !first && (state.over || state.owed.is_empty()) => return,
                Err(e) => {
                    state.fail(&e);
                    state.over = true;
                }
            }
            let over = state.over;
            drop(state);
            self.changed.notify_all();
            if over {
                return;
            }
        }
    }
}

/// What the protocol calls an object.
///
/// # Errors
/// `Damaged` for a key slot whose name is none.
pub fn named(object: &Object) -> Result<Named> {
    Ok(match object {
        Object::Config | Object::ConfigCopy => Named::Config,
        Object::Key(id) => Named::Key(repo::id::unhex(id).ok_or_else(|| Error::damaged("a key slot has no name"))?),
        Object::Pack(id) => Named::Pack(*id),
        Object::Footers(number) => Named::Footers(*number),
        Object::Snapshot(id) => Named::Snapshot(*id),
        Object::Log(seq) => Named::Log(*seq),
        Object::Audit(segment) => Named::Audit(*segment),
    })
}

/// The object of that name; none for a file of state.
pub fn stored(named: &Named) -> Option<Object> {
    Some(match named {
        Named::Config => Object::Config,
        Named::Key(id) => Object::Key(repo::id::hex(id)),
        Named::Pack(id) => Object::Pack(*id),
        Named::Footers(number) => Object::Footers(*number),
        Named::Snapshot(id) => Object::Snapshot(*id),
        Named::Log(seq) => Object::Log(*seq),
        Named::Audit(segment) => Object::Audit(*segment),
        Named::State(_) => return None,
    })
}
