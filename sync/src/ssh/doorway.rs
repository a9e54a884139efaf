//! Who has connected and not yet proved who they are: few, briefly, and the oldest give way.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::TcpStream;

use super::socket::cut;

/// Connections before authentication.
pub(super) struct Doorway {
    /// At most so many in all and of one address.
    all: usize,
    each: usize,
    /// In the order of arrival.
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    list: Vec<Visitor>,
}

struct Visitor {
    number: u64,
    from: IpAddr,
    socket: Arc<TcpStream>,
}

/// A place in the doorway; leaves it when dropped.
pub(super) struct Place {
    door: Arc<Doorway>,
    number: u64,
}

impl Doorway {
    pub(super) fn new(all: usize, each: usize) -> Arc<Doorway> {
        Arc::new(Doorway { all: all.max(1), each: each.max(1), waiting: Mutex::default() })
    }

    /// Lets a new connection in, cutting off the oldest of its address, or of all, where there are too many. The second
    /// result: one was cut off.
    pub(super) fn enter(self: &Arc<Doorway>, peer: SocketAddr, socket: &Arc<TcpStream>) -> (Place, bool) {
        let from = origin(peer.ip());
        let mut waiting = self.waiting.lock();
        let of_it = waiting.list.iter().filter(|v| v.from == from).count();
        let goes = if of_it >= self.each {
            waiting.list.iter().position(|v| v.from == from)
        } else {
            (waiting.list.len() >= self.all).then_some(0)
        };
        if let Some(at) = goes {
            cut(&waiting.list.remove(at).socket);
        }
        let number = waiting.next;
        waiting.next += 1;
        waiting.list.push(Visitor { number, from, socket: socket.clone() });
        (Place { door: self.clone(), number }, goes.is_some())
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.waiting.lock().list.len()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.door.waiting.lock().list.retain(|v| v.number != self.number);
    }
}

/// What counts as one address: of IPv6 the network of 64 bits, all of which one host can use.
fn origin(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address() {
        let ip = |s: &str| s.parse::<IpAddr>().unwrap();
        assert_eq!(origin(ip("2001:db8:1:2:3:4:5:6")), origin(ip("2001:db8:1:2::9")));
        assert_ne!(origin(ip("2001:db8:1:2::9")), origin(ip("2001:db8:1:3::9")));
        assert_eq!(origin(ip("::ffff:10.0.0.1")), ip("10.0.0.1"));
    }
}
