//! How fast one channel is, in each direction and in both at once: client and server in this process, over loopback.
//!
//!     cargo run --release -p packmule-sync --example ssh_throughput -- [MIB] [CHANNELS]
//!
//! Prints MB/s (10^6) and the processor time of both ends together, in seconds a gigabyte.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sync::ssh::client::{Link, Pin, Target, Timing, connect};
use sync::ssh::keys::{KeyPair, PublicKey};
use sync::ssh::server::{Caller, Gate, Grant, Limits, Server, Service, StopFlag};
use sync::ssh::url::Address;
use sync::stream::Duplex;

struct Open;

impl Gate for Open {
    fn admit(&self, _: &str, _: &PublicKey, _: SocketAddr) -> Option<Grant> {
        Some(Arc::new(()))
    }
}

/// Reads a wish, `u` or `d` or `b` and a size, and fulfils it.
struct Wishes;

impl Service for Wishes {
    fn serve(&self, _: Caller, channel: Duplex, _: StopFlag) {
        let Duplex { mut read, mut write } = channel;
        let mut wish = [0; 9];
        read.read_exact(&mut wish).unwrap();
        let size = u64::from_le_bytes(wish[1..].try_into().unwrap());
        match wish[0] {
            b'u' => {
                swallow(&mut read, size);
                write.write_all(&[1]).unwrap();
            }
            b'd' => pour(&mut write, size),
            _ => std::thread::scope(|s| {
                s.spawn(|| swallow(&mut read, size));
                pour(&mut write, size);
            }),
        }
        write.flush().unwrap();
    }
}

fn pour(to: &mut dyn Write, size: u64) {
    let buf = vec![0x5a; 256 << 10];
    let mut left = size;
    while left > 0 {
        let n = left.min(buf.len() as u64) as usize;
        to.write_all(&buf[..n]).unwrap();
        left -= n as u64;
    }
    to.flush().unwrap();
}

fn swallow(from: &mut dyn Read, size: u64) {
    let mut buf = vec![0; 256 << 10];
    let mut left = size;
    while left > 0 {
        let n = from.read(&mut buf).unwrap();
        assert!(n > 0, "it ended early");
        left -= n as u64;
    }
}

fn run(link: &Link, what: u8, size: u64) {
    let Duplex { mut read, mut write } = link.channel().unwrap();
    write.write_all(&[what]).unwrap();
    write.write_all(&size.to_le_bytes()).unwrap();
    write.flush().unwrap();
    match what {
        b'u' => {
            pour(&mut write, size);
            read.read_exact(&mut [0]).unwrap();
        }
        b'd' => swallow(&mut read, size),
        _ => std::thread::scope(|s| {
            s.spawn(|| pour(&mut write, size));
            swallow(&mut read, size);
        }),
    }
}

/// Processor time of this process, seconds.
fn processor() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn main() {
    let mut args = std::env::args().skip(1).map(|a| a.parse::<u64>().expect("a number"));
    let (mib, channels) = (args.next().unwrap_or(2048), args.next().unwrap_or(1));
    let (key, host_key) = (KeyPair::generate("").unwrap(), KeyPair::generate("").unwrap());
    let listen = "127.0.0.1:0".parse().unwrap();
    let server = Server::start(listen, &host_key, Arc::new(Open), Arc::new(Wishes), Limits::default()).unwrap();
    let target = Target {
        address: Address { user: None, host: "127.0.0.1".into(), port: server.address().port(), tenant: None },
        user: "x".into(),
        key,
        pin: Pin::Key(host_key.public()),
        timing: Timing::default(),
    };
    let links: Vec<Link> = (0..channels).map(|_| connect(&target, Duration::from_secs(10)).unwrap()).collect();
    for (what, name, ways) in [(b'u', "to the server", 1), (b'd', "from the server", 1), (b'b', "both ways", 2)] {
        let (started, before) = (Instant::now(), processor());
        let size = (mib << 20) / channels;
        std::thread::scope(|s| {
            for link in &links {
                s.spawn(move || run(link, what, size));
            }
        });
        let (seconds, bytes) = (started.elapsed().as_secs_f64(), (size * channels * ways) as f64);
        let cpu = (processor() - before) / (bytes / 1e9);
        println!("{channels} connections, {name:16} {:6.0} MB/s, {cpu:.2} s of processor a GB", bytes / 1e6 / seconds);
    }
    links.into_iter().for_each(Link::close);
    server.stop(Duration::from_secs(1));
}
