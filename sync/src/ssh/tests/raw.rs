//! Peers that are not ours: russh by itself, and a relay that can fall silent.

use std::net::{TcpListener, TcpStream};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, Sender};

use super::*;

/// Passes bytes both ways, each later by `delay`, until it freezes, and then leaves both connections open without reading.
pub(super) struct Relay {
    port: u16,
    frozen: Arc<AtomicBool>,
}

impl Relay {
    pub(super) fn start(to: SocketAddr, delay: Duration) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let frozen = Arc::new(AtomicBool::new(false));
        let ice = frozen.clone();
        std::thread::spawn(move || {
            let near = listener.accept().unwrap().0;
            let far = TcpStream::connect(to).unwrap();
            for (from, to) in [(&near, &far), (&far, &near)] {
                let (from, to, ice) = (from.try_clone().unwrap(), to.try_clone().unwrap(), ice.clone());
                let (line, end) = std::sync::mpsc::channel();
                std::thread::spawn(move || take(from, &line, &ice, delay));
                std::thread::spawn(move || give(to, &end));
            }
        });
        Relay { port, frozen }
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn freeze(&self) {
        self.frozen.store(true, Ordering::SeqCst);
    }
}

type Piece = (Instant, Vec<u8>);

fn take(mut from: TcpStream, line: &Sender<Piece>, ice: &AtomicBool, delay: Duration) {
    from.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut buf = vec![0; 256 << 10];
    let until = Instant::now() + 3 * LONG;
    while Instant::now() < until {
        if ice.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        }
        match from.read(&mut buf) {
            Ok(0) => return,
            Ok(n) if line.send((Instant::now() + delay, buf[..n].to_vec())).is_err() => return,
            _ => {}
        }
    }
}

fn give(mut to: TcpStream, end: &Receiver<Piece>) {
    to.set_nodelay(true).unwrap();
    while let Ok((due, piece)) = end.recv() {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&piece).is_err() {
            return;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
}

/// Believes any server.
pub(super) struct Trusting;

impl russh::client::Handler for Trusting {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _: &russh::keys::PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        Ok(true)
    }
}

/// A connection of russh with its own defaults.
pub(super) type Foreign = russh::client::Handle<Trusting>;

/// Runs what needs russh itself, for at most `LONG`.
pub(super) fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = crate::ssh::runtime().unwrap();
    runtime.block_on(async { tokio::time::timeout(LONG, work).await.expect("not in time") })
}

/// Connects, and does not authenticate.
pub(super) async fn connect(rig: &Rig) -> Foreign {
    let config = Arc::new(russh::client::Config::default());
    russh::client::connect(config, rig.address(), Trusting).await.unwrap()
}

/// Connects as who may.
pub(super) async fn enter(rig: &Rig) -> Foreign {
    let mut handle = connect(rig).await;
    let key = russh::keys::PrivateKeyWithHashAlg::new(rig.key.private(), None);
    assert!(handle.authenticate_publickey("site", key).await.unwrap().success());
    handle
}
