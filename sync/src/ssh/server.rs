//! The listening end: who may come in is for a [`Gate`] to say, what they get for a [`Service`].

use std::any::Any;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use repo::error::{Error, Kind, Result};
use tokio::net::{TcpListener, TcpStream};

use crate::stream::Duplex;

use super::credit::Pool;
use super::doorway::Doorway;
use super::keys::{KeyPair, PublicKey};
use super::socket::{Moved, cut};
pub use super::tuning::Timing;
use super::tuning::tune;

mod visit;

/// What a gate gives a caller along, for its service to find in [`Caller::grant`].
pub type Grant = Arc<dyn Any + Send + Sync>;

/// Says who may come in.
pub trait Gate: Send + Sync {
    /// Asked once somebody has proved to hold `key`'s private half, on a thread that may block. `None` refuses; the
    /// caller cannot tell why, nor from the time it takes, as long as that is below a second.
    fn admit(&self, user: &str, key: &PublicKey, peer: SocketAddr) -> Option<Grant>;

    /// Takes what an operator may want to know. Called from any thread; must not block for long.
    fn event(&self, _: &Event<'_>) {}
}

/// What happens at the door.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A key that was proved was not admitted.
    Refused {
        /// From where.
        peer: SocketAddr,
        /// The name that was given; escape it before showing it.
        user: &'a str,
        /// The key's fingerprint.
        fingerprint: String,
    },
    /// Somebody came in.
    Admitted(&'a Caller),
    /// A connection before authentication was cut off because there were too many; this one came instead.
    Crowded {
        /// From where.
        peer: SocketAddr,
    },
    /// A channel was refused because there are as many as there may be.
    Full(&'a Caller),
    /// A service panicked. Its channel is closed; the server goes on.
    Panicked(&'a Caller),
    /// Something is amiss, but the server goes on.
    Warning(&'a str),
}

/// Somebody who was let in.
#[derive(Clone)]
pub struct Caller {
    /// The name they gave; the gate has seen it.
    pub user: String,
    /// The key they proved to hold.
    pub key: PublicKey,
    /// From where.
    pub peer: SocketAddr,
    /// What the gate gave them along.
    pub grant: Grant,
}

impl std::fmt::Debug for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Caller({:?}, {}, {})", self.user, self.key.fingerprint(), self.peer)
    }
}

/// Serves one channel.
pub trait Service: Send + Sync {
    /// Called on a thread of its own for each channel; the channel ends when both halves are dropped. Should look at
    /// `stop` now and then. A panic is the other side's error and harms nobody else.
    fn serve(&self, caller: Caller, channel: Duplex, stop: StopFlag);
}

/// A server that is to stop cuts a connection on which nothing has moved for this long: who has nothing to do is not waited for.
const QUIET: Duration = Duration::from_secs(3);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(500);

/// Says that the server wants to stop.
#[derive(Clone, Default)]
pub struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// Asks services to come to an end.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// True once services should come to an end.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// How much a server takes on.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Services at once, all keys together; and connections.
    pub sessions: usize,
    /// Services at once of one key; and its connections.
    pub sessions_per_key: usize,
    /// Connections before authentication.
    pub before_auth: usize,
    /// Of these, of one address (IPv6: of one network of 64 bits).
    pub before_auth_per_address: usize,
    /// Bytes in all that may wait to be read by services. Each channel has 256 KiB beside that.
    pub memory: u64,
    /// How long things may take.
    pub timing: Timing,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            sessions: 64,
            sessions_per_key: 8,
            before_auth: 100,
            before_auth_per_address: 8,
            memory: 128 << 20,
            timing: Timing::default(),
        }
    }
}

/// What all connections of a server share.
struct Shared {
    gate: Arc<dyn Gate>,
    service: Arc<dyn Service>,
    limits: Limits,
    config: Arc<russh::server::Config>,
    door: Arc<Doorway>,
    pool: Arc<Pool>,
    stop: StopFlag,
    counts: Mutex<Counts>,
    /// Wakes who waits for services or connections to end.
    fewer: Condvar,
}

#[derive(Default)]
struct Counts {
    services: HashMap<String, usize>,
    admitted: HashMap<String, usize>,
    /// Channels that are not closed yet.
    lines: usize,
    /// Every open connection.
    open: HashMap<u64, (Arc<TcpStream>, Moved)>,
    next: u64,
}

impl Counts {
    fn total(of: &HashMap<String, usize>) -> usize {
        of.values().sum()
    }
}

/// One of the places that [`Limits`] counts; given back when dropped.
struct Seat {
    shared: Arc<Shared>,
    fingerprint: String,
    list: fn(&mut Counts) -> &mut HashMap<String, usize>,
}

impl Seat {
    /// None: all are taken.
    fn take(
        shared: &Arc<Shared>,
        key: &PublicKey,
        list: fn(&mut Counts) -> &mut HashMap<String, usize>,
    ) -> Option<Seat> {
        let fingerprint = key.fingerprint();
        let mut counts = shared.counts.lock();
        let taken = list(&mut counts);
        let own = taken.get(&fingerprint).copied().unwrap_or(0);
        if Counts::total(taken) >= shared.limits.sessions || own >= shared.limits.sessions_per_key {
            return None;
        }
        taken.insert(fingerprint.clone(), own + 1);
        drop(counts);
        Some(Seat { shared: shared.clone(), fingerprint, list })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut counts = self.shared.counts.lock();
        let taken = (self.list)(&mut counts);
        if let Some(n) = taken.get_mut(&self.fingerprint) {
            *n -= 1;
            if *n == 0 {
                taken.remove(&self.fingerprint);
            }
        }
        drop(counts);
        self.shared.fewer.notify_all();
    }
}

/// The listening end of the carrier.
pub struct Server;

impl Server {
    /// Listens on `listen` (port 0: a free one) and serves from then on, until the result is stopped or dropped.
    pub fn start(
        listen: SocketAddr,
        host_key: &KeyPair,
        gate: Arc<dyn Gate>,
        service: Arc<dyn Service>,
        limits: Limits,
    ) -> Result<Running> {
        let runtime = super::runtime()?;
        let cannot = |e: std::io::Error| {
            Error::new(Kind::Io, format!("cannot listen on {listen}: {e}"))
                .remedy("see what else uses that address, or choose another")
        };
        let socket = bind(listen).map_err(cannot)?;
        let address = socket.local_addr().map_err(cannot)?;
        let shared = Arc::new(Shared {
            config: Arc::new(visit::config(host_key, &limits)),
            door: Doorway::new(limits.before_auth, limits.before_auth_per_address),
            pool: Pool::new(limits.memory),
            gate,
            service,
            limits,
            stop: StopFlag::default(),
            counts: Mutex::default(),
            fewer: Condvar::new(),
        });
        let _inside = runtime.enter();
        let listener = TcpListener::from_std(socket).map_err(cannot)?;
        let accepting = runtime.spawn(accept(shared.clone(), listener));
        Ok(Running { shared, address, accepting })
    }
}

/// A listening socket with room for many that come at once; `[::]` takes IPv4 too.
fn bind(listen: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(listen), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if listen.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&listen.into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

/// A server at work. Dropping it cuts every connection.
pub struct Running {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: tokio::task::JoinHandle<()>,
}

impl Running {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections, tells the services, waits up to `grace` for them to end, and then cuts what is left; a
    /// connection on which nothing moves for 3 seconds is cut before.
    /// The services that still run after that: 0, unless one does not notice that its channel is gone.
    pub fn stop(mut self, grace: Duration) -> usize {
        self.accepting.abort();
        if let Ok(runtime) = super::runtime() {
            // From here on nobody is even connected.
            let _ = runtime.block_on(&mut self.accepting);
        }
        self.shared.stop.set();
        self.wind_down(grace);
        // The last packets are with russh's loop.
        self.wait(grace.min(Duration::from_millis(100)), |counts| counts.open.is_empty());
        self.cut();
        self.wait(Duration::from_secs(2), |counts| counts.services.is_empty() && counts.open.is_empty());
        Counts::total(&self.shared.counts.lock().services)
    }

    fn wind_down(&self, grace: Duration) {
        let until = Instant::now() + grace;
        let mut last: HashMap<u64, (u64, Instant)> = HashMap::new();
        let over = |counts: &Counts| counts.services.is_empty() && counts.lines == 0;
        while Instant::now() < until && !over(&self.shared.counts.lock()) {
            self.wait(LOOK.min(until.saturating_duration_since(Instant::now())), over);
            for (number, (socket, moved)) in &self.shared.counts.lock().open {
                let moved = moved.load(Ordering::Relaxed);
                let (before, since) = last.entry(*number).or_insert((moved, Instant::now()));
                if *before != moved {
                    (*before, *since) = (moved, Instant::now());
                } else if since.elapsed() >= QUIET {
                    cut(socket);
                }
            }
        }
    }

    fn wait(&self, time: Duration, done: impl Fn(&Counts) -> bool) {
        let until = Instant::now() + time;
        let mut counts = self.shared.counts.lock();
        while !done(&counts) && !self.shared.fewer.wait_until(&mut counts, until).timed_out() {}
    }

    fn cut(&self) {
        for (socket, _) in self.shared.counts.lock().open.values() {
            cut(socket);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.accepting.abort();
        self.shared.stop.set();
        self.cut();
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    let mut warned = false;
    loop {
        let (socket, peer) = match listener.accept().await {
            Ok(new) => new,
            Err(e) => {
                // Out of files, most likely; connections that end free some.
                shared.gate.event(&Event::Warning(&format!("cannot take a connection: {e}")));
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if let Some(warning) = tune(&socket).filter(|_| !warned) {
            warned = true;
            shared.gate.event(&Event::Warning(warning));
        }
        // Here, in the order of arrival; the tasks start in any.
        let socket = Arc::new(socket);
        let (place, crowded) = shared.door.enter(peer, &socket);
        if crowded {
            shared.gate.event(&Event::Crowded { peer });
        }
        tokio::spawn(visit::visit(shared.clone(), socket, peer, place));
    }
}

#[cfg(test)]
impl Running {
    /// No service runs and no channel is open.
    pub(super) fn idle(&self) -> bool {
        let counts = self.shared.counts.lock();
        counts.services.is_empty() && counts.lines == 0
    }

    /// Connections before authentication, and all.
    pub(super) fn connections(&self) -> (usize, usize) {
        (self.shared.door.count(), self.shared.counts.lock().open.len())
    }

    /// Makes the kernel hold little of each connection.
    pub(super) fn squeeze(&self) {
        self.shared.counts.lock().open.values().for_each(|(socket, _)| super::socket::squeeze(socket));
    }

    /// Bytes of the budget that nobody has.
    pub(super) fn free_memory(&self) -> u64 {
        self.shared.pool.free()
    }
}
