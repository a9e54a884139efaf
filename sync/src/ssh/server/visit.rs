//! One connection, from its first byte to its last.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use russh::keys::Algorithm;
use russh::server::{self, Auth, ChannelOpenHandle, Msg, PublicKeyOffer, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelOpenFailure, Disconnect, MethodKind, MethodSet, Pty, Sig, SshId};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::super::credit::Window;
use super::super::doorway::Place;
use super::super::keys::{KeyPair, PublicKey};
use super::super::socket::{Moved, Promised, Socket, cut};
use super::super::{CHANNELS, SUBSYSTEM, bridge, tuning, url};
use super::{Caller, Counts, Event, Limits, Seat, Shared};

/// russh's configuration of the server.
pub(super) fn config(host_key: &KeyPair, limits: &Limits) -> server::Config {
    server::Config {
        server_id: SshId::Standard("SSH-2.0-packmule".into()),
        methods: MethodSet::from(&[MethodKind::PublicKey][..]),
        auth_rejection_time: Duration::from_secs(1),
        // `ssh` asks so which methods there are.
        auth_rejection_time_initial: Some(Duration::ZERO),
        max_auth_attempts: 4,
        keys: vec![(*host_key.private()).clone()],
        limits: tuning::limits(),
        window_size: tuning::WINDOW,
        maximum_packet_size: tuning::PACKET as u32,
        channel_buffer_size: tuning::CHANNEL_BUFFER,
        preferred: tuning::preferred(),
        inactivity_timeout: Some(limits.timing.stuck()),
        keepalive_interval: Some(limits.timing.keepalive),
        keepalive_max: limits.timing.keepalives,
        nodelay: true,
        ..Default::default()
    }
}

/// Carries one connection until it ends.
pub(super) async fn visit(shared: Arc<Shared>, socket: Arc<TcpStream>, peer: SocketAddr, place: Place) {
    let moved = Moved::default();
    let _open = Open::new(&shared, &socket, &moved);
    if shared.stop.is_set() {
        return;
    }
    let promised = Promised::default();
    let (inside, mut admitted) = watch::channel(false);
    let stream = Socket::new(socket.clone(), promised.clone(), moved);
    let visitor = Visitor {
        shared: shared.clone(),
        peer,
        promised,
        place: Some(place),
        inside,
        caller: None,
        seat: None,
        channels: Arc::new(()),
        refused: 0,
        waiting: Arc::default(),
        opened: Opened::default(),
    };
    let connection = async {
        if let Ok(session) = server::run_stream(shared.config.clone(), stream, visitor).await {
            let _ = session.await;
        }
    };
    tokio::pin!(connection);
    let late = tokio::time::sleep(shared.limits.timing.before_auth);
    tokio::select! {
        () = &mut connection => return,
        _ = admitted.wait_for(|inside| *inside) => {}
        () = late => cut(&socket),
    }
    connection.await;
}

/// A channel that is not closed yet: what its service said last may still be on its way.
struct Line(Arc<Shared>);

impl Line {
    fn new(shared: &Arc<Shared>) -> Line {
        shared.counts.lock().lines += 1;
        Line(shared.clone())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.0.counts.lock().lines -= 1;
        self.0.fewer.notify_all();
    }
}

/// A connection in the list of those to cut when the server stops.
struct Open {
    shared: Arc<Shared>,
    number: u64,
}

impl Open {
    fn new(shared: &Arc<Shared>, socket: &Arc<TcpStream>, moved: &Moved) -> Open {
        let mut counts = shared.counts.lock();
        let number = counts.next;
        counts.next += 1;
        counts.open.insert(number, (socket.clone(), moved.clone()));
        Open { shared: shared.clone(), number }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shared.counts.lock().open.remove(&self.number);
        self.shared.fewer.notify_all();
    }
}

/// The state of a connection that russh's loop asks.
struct Visitor {
    shared: Arc<Shared>,
    peer: SocketAddr,
    promised: Promised,
    place: Option<Place>,
    inside: watch::Sender<bool>,
    caller: Option<Caller>,
    /// Of the connection.
    seat: Option<Seat>,
    /// A clone for each open channel.
    channels: Arc<()>,
    /// A clone for each channel that waits for a place.
    waiting: Arc<()>,
    /// Requests that were refused.
    refused: usize,
    /// Channels on which nothing was asked for yet.
    opened: Opened,
}

type Opened = Arc<Mutex<HashMap<ChannelId, (Channel<Msg>, Places)>>>;

/// What a channel takes up.
struct Places {
    _seat: Seat,
    _channel: Arc<()>,
}

impl Places {
    /// Room for one more channel, if there is.
    fn take(shared: &Arc<Shared>, key: &PublicKey, channels: &Arc<()>) -> Option<Places> {
        if Arc::strong_count(channels) > CHANNELS + 1 {
            return None;
        }
        let seat = Seat::take(shared, key, |counts: &mut Counts| &mut counts.services)?;
        Some(Places { _seat: seat, _channel: channels.clone() })
    }
}

/// How long a channel waits for a place: a caller that has just finished one may ask for the next before the service of
/// the first has noticed.
const PATIENCE: Duration = Duration::from_secs(2);

/// Refused requests that a connection survives. russh queues each on its channel, and a full queue that nobody drains,
/// as before a service runs, would hold the connection for ever.
const REFUSALS: usize = 32;

impl Visitor {
    /// Answers a request for what is not served.
    fn refuse(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), russh::Error> {
        self.refused += 1;
        if self.refused > REFUSALS { Err(russh::Error::Inconsistent) } else { session.channel_failure(channel) }
    }

    /// Gives the channel to a service, on a thread of its own.
    fn serve(&self, caller: Caller, channel: Channel<Msg>, places: Places) -> bool {
        let shared = self.shared.clone();
        let window = Window::new(shared.pool.clone(), self.promised.clone());
        let handle = tokio::runtime::Handle::current();
        let guards = bridge::Guards { used: Arc::new(()), open: Box::new(Line::new(&shared)) };
        let duplex = bridge::duplex(channel, window, Default::default(), guards, handle);
        let work = move || {
            let known = caller.clone();
            let stop = shared.stop.clone();
            if catch_unwind(AssertUnwindSafe(|| shared.service.serve(caller, duplex, stop))).is_err() {
                shared.gate.event(&Event::Panicked(&known));
            }
            drop(places);
        };
        std::thread::Builder::new().name("packmule-serve".into()).spawn(work).is_ok()
    }
}

impl server::Handler for Visitor {
    type Error = russh::Error;

    async fn auth_publickey_offered(&mut self, user: &str, offer: PublicKeyOffer<'_>) -> Result<Auth, Self::Error> {
        // Says nothing about whether the key is known: that is for those who hold it.
        let usable = offer.public_key.algorithm() == Algorithm::Ed25519 && user.len() <= url::MAX_NAME;
        Ok(if usable { Auth::Accept } else { Auth::reject() })
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        let Some(key) = PublicKey::new(key.public_key.clone()) else {
            return Ok(Auth::reject());
        };
        let (gate, peer) = (self.shared.gate.clone(), self.peer);
        let (name, proved) = (user.to_owned(), key.clone());
        // A gate that panics admits nobody.
        let admitted = tokio::task::spawn_blocking(move || gate.admit(&name, &proved, peer)).await.unwrap_or(None);
        let Some(grant) = admitted else {
            let fingerprint = key.fingerprint();
            self.shared.gate.event(&Event::Refused { peer, user, fingerprint });
            return Ok(Auth::reject());
        };
        self.caller = Some(Caller { user: user.to_owned(), key, peer, grant });
        Ok(Auth::Accept)
    }

    async fn auth_succeeded(&mut self, session: &mut Session) -> Result<(), Self::Error> {
        self.place = None;
        self.inside.send_replace(true);
        let Some(caller) = &self.caller else {
            return Err(russh::Error::Inconsistent);
        };
        self.seat = Seat::take(&self.shared, &caller.key, |counts: &mut Counts| &mut counts.admitted);
        if self.seat.is_none() {
            self.shared.gate.event(&Event::Full(caller));
            let why = "this server has as many connections of this key, or in all, as it takes";
            return session.disconnect(Disconnect::TooManyConnections, why, "");
        }
        self.shared.gate.event(&Event::Admitted(caller));
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        let Some(caller) = self.caller.as_ref().filter(|_| !self.shared.stop.is_set()) else {
            reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
            return Ok(());
        };
        if Arc::strong_count(&self.waiting) > CHANNELS {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        }
        let (shared, caller, opened) = (self.shared.clone(), caller.clone(), self.opened.clone());
        let (channels, waiting) = (self.channels.clone(), self.waiting.clone());
        tokio::spawn(async move {
            let _waiting = waiting;
            let until = Instant::now() + PATIENCE;
            loop {
                if let Some(places) = Places::take(&shared, &caller.key, &channels) {
                    opened.lock().insert(channel.id(), (channel, places));
                    return reply.accept().await;
                }
                if Instant::now() > until {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            shared.gate.event(&Event::Full(&caller));
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
        });
        Ok(())
    }

    async fn channel_close(&mut self, channel: ChannelId, _: &mut Session) -> Result<(), Self::Error> {
        self.opened.lock().remove(&channel);
        Ok(())
    }

    async fn data(&mut self, channel: ChannelId, _: &[u8], _: &mut Session) -> Result<(), Self::Error> {
        // Nobody drains a channel on which nothing was asked for.
        if self.opened.lock().contains_key(&channel) { Err(russh::Error::Inconsistent) } else { Ok(()) }
    }

    async fn extended_data(
        &mut self,
        channel: ChannelId,
        _: u32,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.data(channel, data, session).await
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        if name != SUBSYSTEM {
            return self.refuse(channel, session);
        }
        let (Some(caller), Some((opened, places))) = (self.caller.clone(), self.opened.lock().remove(&channel)) else {
            return self.refuse(channel, session);
        };
        if self.serve(caller, opened, places) {
            session.channel_success(channel)
        } else {
            session.channel_failure(channel)
        }
    }

    async fn shell_request(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), Self::Error> {
        self.refuse(channel, session)
    }

    async fn exec_request(&mut self, channel: ChannelId, _: &[u8], session: &mut Session) -> Result<(), Self::Error> {
        self.refuse(channel, session)
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        _: &str,
        _: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.refuse(channel, session)
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        _: &str,
        _: u32,
        _: u32,
        _: u32,
        _: u32,
        _: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.refuse(channel, session)
    }

    async fn x11_request(
        &mut self,
        channel: ChannelId,
        _: bool,
        _: &str,
        _: &str,
        _: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.refuse(channel, session)
    }

    async fn agent_request(&mut self, channel: ChannelId, session: &mut Session) -> Result<bool, Self::Error> {
        self.refuse(channel, session)?;
        Ok(false)
    }

    async fn window_change_request(
        &mut self,
        channel: ChannelId,
        _: u32,
        _: u32,
        _: u32,
        _: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.refuse(channel, session)
    }

    async fn signal(&mut self, channel: ChannelId, _: Sig, session: &mut Session) -> Result<(), Self::Error> {
        self.refuse(channel, session)
    }

    async fn channel_eof(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), Self::Error> {
        if self.opened.lock().contains_key(&channel) { self.refuse(channel, session) } else { Ok(()) }
    }
}
