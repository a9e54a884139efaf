//! Real sockets on the loopback interface.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::stream::Duplex;

use super::client::{Link, Pin, Target, connect};
use super::keys::{KeyPair, PublicKey};
use super::server::{Caller, Event, Gate, Grant, Limits, Running, Server, Service, StopFlag, Timing};
use super::url::Address;

mod abuse;
mod flow;
mod login;
mod raw;

const LONG: Duration = Duration::from_secs(20);

/// Lets one key in, under the name "site"; keeps what happened.
struct Keeper {
    key: PublicKey,
    asked: AtomicUsize,
    events: Mutex<Vec<String>>,
}

impl Gate for Keeper {
    fn admit(&self, user: &str, key: &PublicKey, _: SocketAddr) -> Option<Grant> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        (user == "site" && *key == self.key).then(|| Arc::new(42u8) as Grant)
    }

    fn event(&self, event: &Event<'_>) {
        self.events.lock().push(format!("{event:?}"));
    }
}

/// A service made of a function.
struct Does<F>(F);

impl<F: Fn(Caller, Duplex, StopFlag) + Send + Sync> Service for Does<F> {
    fn serve(&self, caller: Caller, channel: Duplex, stop: StopFlag) {
        (self.0)(caller, channel, stop)
    }
}

/// A server and what it takes to reach it.
struct Rig {
    server: Option<Running>,
    keeper: Arc<Keeper>,
    key: KeyPair,
    host_key: KeyPair,
    timing: Timing,
}

fn rig(service: impl Fn(Caller, Duplex, StopFlag) + Send + Sync + 'static) -> Rig {
    rig_with(Limits::default(), service)
}

fn rig_with(limits: Limits, service: impl Fn(Caller, Duplex, StopFlag) + Send + Sync + 'static) -> Rig {
    let (key, host_key) = (KeyPair::generate("site").unwrap(), KeyPair::generate("host").unwrap());
    let keeper = Arc::new(Keeper { key: key.public(), asked: AtomicUsize::new(0), events: Mutex::default() });
    let timing = limits.timing.clone();
    let listen = "127.0.0.1:0".parse().unwrap();
    let server = Server::start(listen, &host_key, keeper.clone(), Arc::new(Does(service)), limits).unwrap();
    Rig { server: Some(server), keeper, key, host_key, timing }
}

impl Rig {
    fn address(&self) -> SocketAddr {
        self.server.as_ref().unwrap().address()
    }

    fn target(&self) -> Target {
        Target {
            address: Address { user: None, host: "127.0.0.1".into(), port: self.address().port(), tenant: None },
            user: "site".into(),
            key: self.key.clone(),
            pin: Pin::Key(self.host_key.public()),
            timing: self.timing.clone(),
        }
    }

    fn link(&self) -> Link {
        connect(&self.target(), LONG).unwrap()
    }

    fn events(&self) -> String {
        self.keeper.events.lock().join("\n")
    }

    fn idle(&self) -> bool {
        self.server.as_ref().unwrap().idle()
    }

    fn stop(&mut self, grace: Duration) -> usize {
        self.server.take().unwrap().stop(grace)
    }
}

fn echo(_: Caller, mut channel: Duplex, _: StopFlag) {
    let mut buf = vec![0; 64 << 10];
    while let Ok(n @ 1..) = channel.read.read(&mut buf) {
        if channel.write.write_all(&buf[..n]).and_then(|()| channel.write.flush()).is_err() {
            return;
        }
    }
}

/// Bytes that repeat after a prime's worth, so that a lost or swapped piece shows.
fn pattern(at: u64, buf: &mut [u8]) {
    for (i, byte) in buf.iter_mut().enumerate() {
        *byte = ((at + i as u64) % 251) as u8;
    }
}

fn write_pattern(to: &mut dyn Write, size: u64) -> std::io::Result<()> {
    let mut buf = vec![0; 100_000];
    let mut at = 0;
    while at < size {
        let n = buf.len().min((size - at) as usize);
        pattern(at, &mut buf[..n]);
        to.write_all(&buf[..n])?;
        at += n as u64;
    }
    to.flush()
}

/// Reads to the end and checks every byte; how many came.
fn read_pattern(from: &mut dyn Read) -> std::io::Result<u64> {
    let (mut buf, mut wanted) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut at = 0;
    loop {
        let n = from.read(&mut buf)?;
        if n == 0 {
            return Ok(at);
        }
        pattern(at, &mut wanted[..n]);
        assert!(buf[..n] == wanted[..n], "wrong bytes after {at}");
        at += n as u64;
    }
}

/// Waits for something that another thread does.
fn eventually(what: &str, done: impl Fn() -> bool) {
    let until = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < until, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs `work` on a thread and fails if it takes longer than `LONG`: a hang is a failure, not a long test.
fn in_time<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(work()));
    match result.recv_timeout(LONG) {
        Ok(value) => value,
        Err(e) => panic!("{what}: {e}"),
    }
}
