//! The calling end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use repo::error::{Error, Kind, Result};
use russh::client::{AuthResult, DisconnectReason};
use russh::keys::{PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh::{ChannelMsg, ChannelOpenFailure, Disconnect, SshId};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::{Instant, timeout_at};

use crate::stream::Duplex;
use crate::throttle;

use super::bridge::Guards;
use super::credit::{Pool, Window};
use super::keys::{KeyPair, PublicKey};
use super::socket::{Moved, Promised, Socket, cut};
pub use super::tuning::Timing;
use super::{CHANNELS, SUBSYSTEM, bridge, tame, tuning, url::Address};

/// Bytes that may wait to be read on one link: enough for the largest window of each channel.
const MEMORY: u64 = 32 << 20;

/// How long [`Link::close`] lets what was written last go out.
const CLOSE: Duration = Duration::from_secs(10);

/// The server's key as it is known beforehand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pin {
    /// Its fingerprint, `SHA256:…`.
    Fingerprint(String),
    /// The key itself.
    Key(PublicKey),
}

impl Pin {
    fn fingerprint(&self) -> String {
        match self {
            Pin::Fingerprint(text) => text.clone(),
            Pin::Key(key) => key.fingerprint(),
        }
    }
}

/// Whom to call, as whom.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where; its `user` and `tenant` are not looked at.
    pub address: Address,
    /// The name to give.
    pub user: String,
    /// The key to prove.
    pub key: KeyPair,
    /// The key that the server must prove.
    pub pin: Pin,
    /// How long things may take.
    pub timing: Timing,
}

/// A connection. Several may be open at once, to one server or to many. Dropping it leaves its open channels working.
pub struct Link {
    runtime: &'static Runtime,
    handle: russh::client::Handle<Caller>,
    socket: Arc<TcpStream>,
    pool: Arc<Pool>,
    promised: Promised,
    reason: bridge::Reason,
    place: String,
    /// A clone for each channel in use.
    channels: Arc<()>,
    /// A clone for each channel that is not closed.
    lines: Arc<()>,
    warnings: Vec<&'static str>,
    patience: Duration,
}

/// Connects, checks the server's key and proves the own one, all within `timeout`. Blocks.
///
/// Errors: `Unreachable` if the name has no address, nobody answers in time, or the connection is lost or declined for
/// now; `Refused` if the server's key is not the pinned one (nothing was sent to it) or it does not take ours;
/// `Unsupported` if what answers is no SSH server that this program can talk to.
pub fn connect(target: &Target, timeout: Duration) -> Result<Link> {
    throttle::require_open()?;
    let runtime = super::runtime()?;
    let until = Instant::now() + timeout;
    runtime.block_on(async {
        let place = target.address.place();
        let (socket, warning) = reach(&target.address, until).await?;
        let seen = Arc::new(Seen::default());
        match timeout_at(until, shake_hands(target, socket.clone(), seen.clone())).await {
            Ok(Ok((handle, promised))) => Ok(Link {
                runtime,
                handle,
                socket,
                pool: Pool::new(MEMORY),
                promised,
                reason: seen.reason.clone(),
                place,
                channels: Arc::default(),
                lines: Arc::default(),
                warnings: warning.into_iter().collect(),
                patience: timeout,
            }),
            failed => {
                cut(&socket);
                Err(match failed {
                    Ok(Err(error)) => error,
                    _ => silent(&place, timeout),
                })
            }
        }
    })
}

fn unreachable(place: &str, why: impl std::fmt::Display) -> Error {
    Error::new(Kind::Unreachable, format!("cannot reach {place}: {why}"))
}

fn silent(place: &str, timeout: Duration) -> Error {
    unreachable(place, format_args!("no answer within {} s", timeout.as_secs()))
        .remedy("see whether the server runs and the network lets it through; try again later")
}

/// A connected socket: each address of the host in turn, with its share of the time that is left.
async fn reach(address: &Address, until: Instant) -> Result<(Arc<TcpStream>, Option<&'static str>)> {
    let place = address.place();
    let started = Instant::now();
    let found = timeout_at(until, tokio::net::lookup_host((address.host.as_str(), address.port))).await;
    let found: Vec<SocketAddr> = match found {
        Ok(Ok(found)) => found.collect(),
        Ok(Err(e)) => {
            return Err(unreachable(&place, format_args!("no address is known for `{}`: {e}", address.host))
                .remedy("check the name, and whether this machine can look names up"));
        }
        Err(_) => {
            return Err(silent(&place, until - started).remedy("looking its name up took too long; try again later"));
        }
    };
    let mut last = None;
    for (at, address) in found.iter().enumerate() {
        let share = until.saturating_duration_since(Instant::now()) / (found.len() - at) as u32;
        match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => {
                let warning = tuning::tune(&socket);
                return Ok((Arc::new(socket), warning));
            }
            Ok(Err(e)) => last = Some(e),
            Err(_) => {}
        }
    }
    Err(match last {
        Some(e) => unreachable(&place, e).remedy("see whether `packmule serve` runs there and which port it has"),
        None => silent(&place, until - started),
    })
}

async fn shake_hands(
    target: &Target,
    socket: Arc<TcpStream>,
    seen: Arc<Seen>,
) -> Result<(russh::client::Handle<Caller>, Promised)> {
    let place = target.address.place();
    let promised = Promised::default();
    let stream = Socket::new(socket, promised.clone(), Moved::default());
    let caller = Caller { pin: target.pin.clone(), seen: seen.clone() };
    let mut handle = russh::client::connect_stream(Arc::new(config(&target.timing)), stream, caller)
        .await
        .map_err(|e| seen.error(target).unwrap_or_else(|| explain(&place, e)))?;
    let key = PrivateKeyWithHashAlg::new(target.key.private(), None);
    match handle.authenticate_publickey(&target.user, key).await {
        Ok(AuthResult::Success) => Ok((handle, promised)),
        // russh calls it that, too, if the connection ends meanwhile.
        Ok(_) if handle.is_closed() => Err(seen.lost(&place)),
        Ok(_) => {
            let (user, print) = (&target.user, target.key.public().fingerprint());
            Err(Error::new(Kind::Refused, format!("{place} does not let `{user}` in with the key {print}"))
                .remedy("ask whoever runs that server: the invitation may be void, or the key revoked or suspended"))
        }
        Err(_) => Err(seen.lost(&place)),
    }
}

/// What a handshake that failed means.
fn explain(place: &str, error: russh::Error) -> Error {
    use russh::Error as E;
    match error {
        E::IO(e) => unreachable(place, format_args!("the connection ended: {e}")).remedy("try again later"),
        E::HUP | E::Disconnect | E::SendError | E::KeepaliveTimeout | E::InactivityTimeout | E::Join(_) => {
            unreachable(place, "the connection ended before it was set up")
                .remedy("try again later; the server may have too many at the moment")
        }
        other => Error::new(
            Kind::Unsupported,
            format!("{place} is no server this program can talk to: {}", tame(&other.to_string())),
        )
        .remedy("check the address and the port; update packmule on the older side"),
    }
}

fn config(timing: &Timing) -> russh::client::Config {
    russh::client::Config {
        client_id: SshId::Standard("SSH-2.0-packmule".into()),
        limits: tuning::limits(),
        window_size: tuning::WINDOW,
        maximum_packet_size: tuning::PACKET as u32,
        channel_buffer_size: tuning::CHANNEL_BUFFER,
        preferred: tuning::preferred(),
        inactivity_timeout: Some(timing.stuck()),
        keepalive_interval: Some(timing.keepalive),
        keepalive_max: timing.keepalives,
        nodelay: true,
        ..Default::default()
    }
}

/// What russh's loop has come to know.
#[derive(Default)]
struct Seen {
    /// The key of a server that is not the pinned one.
    other: Mutex<Option<String>>,
    /// The server does not count packets strictly.
    lax: Mutex<bool>,
    reason: bridge::Reason,
}

impl Seen {
    /// Why the handshake was broken off by this side.
    fn error(&self, target: &Target) -> Option<Error> {
        let place = target.address.place();
        if let Some(other) = &*self.other.lock() {
            let pinned = target.pin.fingerprint();
            return Some(
                Error::new(
                    Kind::Refused,
                    format!("{place} is not the server that is known: it shows the key {other}, not {pinned}"),
                )
                .remedy(
                    "nothing was sent; ask whoever runs it, by another way than this network, whether its key has \
                     changed; if so, forget it (`packmule remote remove`, on a host of a site `packmule agent leave`) and take up a new \
                     invitation of its (`packmule remote add`, `packmule agent join`)",
                ),
            );
        }
        self.lax.lock().then(|| {
            Error::new(Kind::Unsupported, format!("{place} does not offer strict key exchange"))
                .remedy("update the server: without it an attacker could drop the first packets unnoticed")
        })
    }

    fn lost(&self, place: &str) -> Error {
        let why = self.reason.lock().clone();
        unreachable(place, why.as_deref().unwrap_or("the connection ended")).remedy("try again later")
    }
}

/// Answers russh's questions.
struct Caller {
    pin: Pin,
    seen: Arc<Seen>,
}

impl russh::client::Handler for Caller {
    type Error = russh::Error;

    async fn check_server_key(&mut self, offered: &PublicKeyOrCertificate) -> std::result::Result<bool, russh::Error> {
        let key = match offered {
            PublicKeyOrCertificate::PublicKey { key, .. } => PublicKey::new(key.clone()),
            PublicKeyOrCertificate::Certificate(_) => None,
        };
        let fits = key.as_ref().is_some_and(|key| match &self.pin {
            Pin::Fingerprint(text) => key.fingerprint() == *text,
            Pin::Key(pinned) => key == pinned,
        });
        if !fits {
            let shown = key.map_or("(of another kind)".to_owned(), |key| key.fingerprint());
            *self.seen.other.lock() = Some(shown);
        }
        Ok(fits)
    }

    async fn kex_done(
        &mut self,
        _: Option<&[u8]>,
        names: &russh::Names,
        _: &mut russh::client::Session,
    ) -> std::result::Result<(), russh::Error> {
        if names.strict_kex() {
            return Ok(());
        }
        *self.seen.lax.lock() = true;
        Err(russh::Error::Kex)
    }

    async fn disconnected(&mut self, reason: DisconnectReason<russh::Error>) -> std::result::Result<(), russh::Error> {
        let why = match reason {
            DisconnectReason::ReceivedDisconnect(said) => format!("the server says: {}", tame(&said.message)),
            DisconnectReason::Error(russh::Error::KeepaliveTimeout | russh::Error::InactivityTimeout) => {
                "the server no longer answers".to_owned()
            }
            DisconnectReason::Error(russh::Error::IO(e)) if e.kind() != std::io::ErrorKind::UnexpectedEof => {
                e.to_string()
            }
            DisconnectReason::Error(_) => "the other side closed the connection".to_owned(),
        };
        self.seen.reason.lock().get_or_insert(why);
        Ok(())
    }

    // russh accepts these unless told otherwise; dropping the reply declines.
    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        _: russh::Channel<russh::client::Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        _: russh::client::ChannelOpenHandle,
        _: &mut russh::client::Session,
    ) -> std::result::Result<(), russh::Error> {
        Ok(())
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        _: russh::Channel<russh::client::Msg>,
        _: &str,
        _: russh::client::ChannelOpenHandle,
        _: &mut russh::client::Session,
    ) -> std::result::Result<(), russh::Error> {
        Ok(())
    }

    async fn server_channel_open_agent_forward(
        &mut self,
        _: russh::Channel<russh::client::Msg>,
        _: russh::client::ChannelOpenHandle,
        _: &mut russh::client::Session,
    ) -> std::result::Result<(), russh::Error> {
        Ok(())
    }
}

impl Link {
    /// Opens a channel to the server's service. At most two are in use at a time (`Kind::Bug` beyond). Blocks, at most as long as
    /// connecting was given. Errors: `Unreachable` if the connection is lost or the server has no room now; `Unsupported`
    /// if it is no packmule server.
    pub fn channel(&self) -> Result<Duplex> {
        if Arc::strong_count(&self.channels) > CHANNELS {
            return Err(Error::new(Kind::Bug, "a connection carries two channels at most"));
        }
        let guards = Guards { used: Arc::new(self.channels.clone()), open: Box::new(self.lines.clone()) };
        let opened = self.runtime.block_on(async {
            tokio::time::timeout(self.patience, self.open(guards))
                .await
                .unwrap_or_else(|_| Err(silent(&self.place, self.patience)))
        });
        throttle::tamed(opened?)
    }

    async fn open(&self, guards: Guards) -> Result<Duplex> {
        let place = &self.place;
        let mut channel = match self.handle.channel_open_session().await {
            Ok(channel) => channel,
            Err(russh::Error::ChannelOpenFailure(ChannelOpenFailure::ResourceShortage)) => {
                return Err(unreachable(place, "the server is busy with as many sessions as it takes")
                    .remedy("try again later, or raise its limit"));
            }
            Err(russh::Error::ChannelOpenFailure(_)) => {
                return Err(unreachable(place, "the server opens no session now").remedy("try again later"));
            }
            Err(_) => return Err(self.lost()),
        };
        if channel.request_subsystem(true, SUBSYSTEM).await.is_err() {
            return Err(self.lost());
        }
        loop {
            match channel.wait().await {
                Some(ChannelMsg::Success) => break,
                Some(ChannelMsg::Failure) => {
                    return Err(Error::new(Kind::Unsupported, format!("{place} is an SSH server, but not packmule's"))
                        .remedy("check the port: `packmule serve` has its own"));
                }
                None | Some(ChannelMsg::Close | ChannelMsg::Data { .. }) => return Err(self.lost()),
                Some(_) => {}
            }
        }
        let window = Window::new(self.pool.clone(), self.promised.clone());
        let handle = self.runtime.handle().clone();
        Ok(bridge::duplex(channel, window, self.reason.clone(), guards, handle))
    }

    fn lost(&self) -> Error {
        let why = self.reason.lock().clone();
        unreachable(&self.place, why.as_deref().unwrap_or("the connection is lost")).remedy("try again later")
    }

    /// What is amiss with the connection though it works: tell the user once.
    pub fn warnings(&self) -> &[&'static str] {
        &self.warnings
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.handle.is_closed()
    }

    /// Ends the connection. What was written on channels that were dropped goes out first, within 10 s; channels that are
    /// still open are cut.
    pub fn close(self) {
        let Link { runtime, handle, socket, lines, .. } = self;
        runtime.block_on(async {
            let until = Instant::now() + CLOSE;
            while Arc::strong_count(&lines) > 1 && !handle.is_closed() && Instant::now() < until {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let _ = timeout_at(until, handle.disconnect(Disconnect::ByApplication, "done", "")).await;
            let _ = timeout_at(until.min(Instant::now() + Duration::from_secs(1)), handle).await;
        });
        cut(&socket);
    }
}

#[cfg(test)]
impl Link {
    /// Ends the connection as a pulled cable does, but noticed at once.
    pub(super) fn cut(&self) {
        cut(&self.socket);
    }

    /// Makes the kernel hold little.
    pub(super) fn squeeze(&self) {
        super::socket::squeeze(&self.socket);
    }

    /// Changes keys as soon as possible.
    pub(super) fn rekey(&self) {
        let _ = self.runtime.block_on(self.handle.rekey_soon());
    }
}
