//! Being a service: saying to the service manager that it is ready, and to the system's log what went wrong.

use std::io::{self, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

use repo::error::{Error, Result};

/// Where the system's log listens.
const LOG: &str = "/dev/log";
/// Facility "daemon", severity "error".
const PRIORITY: u8 = (3 << 3) | 3;
/// The longest line that every log takes whole.
const MAX_LINE: usize = 1800;

/// Tells the service manager, if one asked to be told (`Type=notify`), that the service is ready.
///
/// # Errors
/// When it cannot be told: it would wait until it gives up.
pub fn ready() -> Result<()> {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return Ok(()) };
    notify(name.as_bytes(), b"READY=1").map_err(|e| Error::io("tell the service manager at", Path::new(&name), e))
}

fn notify(name: &[u8], text: &[u8]) -> io::Result<()> {
    let address = match name.strip_prefix(b"@") {
        Some(rest) => SocketAddr::from_abstract_name(rest)?,
        None => SocketAddr::from_pathname(Path::new(std::ffi::OsStr::from_bytes(name)))?,
    };
    UnixDatagram::unbound()?.send_to_addr(text, &address).map(drop)
}

/// Lines for the system's log. Where none listens they are lost: there is nobody left to tell.
#[derive(Default)]
pub struct SystemLog {
    line: Vec<u8>,
}

impl SystemLog {
    fn send(line: &[u8], log: &Path) -> io::Result<()> {
        let mut end = line.len().min(MAX_LINE);
        // Not within a character.
        while end > 0 && end < line.len() && line[end] & 0xc0 == 0x80 {
            end -= 1;
        }
        let mut message = format!("<{PRIORITY}>packmule[{}]: ", std::process::id()).into_bytes();
        message.extend_from_slice(line[..end].strip_prefix(b"packmule: ").unwrap_or(&line[..end]));
        UnixDatagram::unbound()?.send_to(&message, log).map(drop)
    }
}

impl Write for SystemLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        while let Some(end) = self.line.iter().position(|&b| b == b'\n') {
            let rest = self.line.split_off(end + 1);
            let line = std::mem::replace(&mut self.line, rest);
            let _ = SystemLog::send(&line[..end], Path::new(LOG));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_arrive_as_services_send_them() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("socket");
        let there = UnixDatagram::bind(&at).unwrap();
        let mut got = vec![0; 4096];
        let mut heard = || {
            let n = there.recv(&mut got).unwrap();
            String::from_utf8(got[..n].to_vec()).unwrap()
        };
        notify(at.as_os_str().as_bytes(), b"READY=1").unwrap();
        assert_eq!(heard(), "READY=1");
        SystemLog::send(b"packmule: hosts/a: damaged", &at).unwrap();
        assert_eq!(heard(), format!("<27>packmule[{}]: hosts/a: damaged", std::process::id()));
        SystemLog::send("\u{20ac}".repeat(1000).as_bytes(), &at).unwrap();
        assert!(heard().ends_with(&"\u{20ac}".repeat(600)));

        let name = format!("packmule-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let abstract_one = UnixDatagram::bind_addr(&address).unwrap();
        notify(format!("@{name}").as_bytes(), b"READY=1").unwrap();
        assert_eq!(abstract_one.recv(&mut got).unwrap(), 7);
    }
}
