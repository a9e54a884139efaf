//! What both ends set, each for a measured or a read reason.

use std::borrow::Cow;
use std::time::Duration;

use russh::keys::Algorithm;
use russh::{Preferred, cipher, compression, kex, mac};
use tokio::net::TcpStream;

/// russh's window of a channel, bytes. It refills below half only, so it is twice the delay product of a connection.
pub(super) const WINDOW: u32 = 16 << 20;

/// The most data in one packet, bytes: what russh can take.
pub(super) const PACKET: usize = 65535;

/// Messages of one channel that russh holds between its loop and us.
pub(super) const CHANNEL_BUFFER: usize = 256;

/// How long things may take. The defaults are for links of 250 ms with outages.
#[derive(Clone, Debug)]
pub struct Timing {
    /// After this much silence the other side is asked whether it lives.
    pub keepalive: Duration,
    /// After this many such questions without an answer it is taken for dead.
    pub keepalives: usize,
    /// From the first byte to a verified signature.
    pub before_auth: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing { keepalive: Duration::from_secs(30), keepalives: 4, before_auth: Duration::from_secs(10) }
    }
}

impl Timing {
    /// After this long a write that nobody takes ends the connection: keepalives cannot pass it.
    pub(super) fn stuck(&self) -> Duration {
        self.keepalive * (self.keepalives as u32 + 1)
    }
}

/// Whether AES is done by the processor, which makes AES-GCM several times as fast as ChaCha20-Poly1305.
fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// The algorithms: few, modern, no compression (which a peer could use before authentication to fill memory). The two
/// authenticated ciphers need no MAC; russh wants one in the list.
pub(super) fn preferred() -> Preferred {
    const AES_FIRST: &[cipher::Name] = &[cipher::AES_256_GCM, cipher::CHACHA20_POLY1305];
    const CHACHA_FIRST: &[cipher::Name] = &[cipher::CHACHA20_POLY1305, cipher::AES_256_GCM];
    Preferred {
        kex: Cow::Borrowed(&[
            kex::MLKEM768X25519_SHA256,
            kex::CURVE25519,
            kex::CURVE25519_PRE_RFC_8731,
            kex::EXTENSION_SUPPORT_AS_CLIENT,
            kex::EXTENSION_SUPPORT_AS_SERVER,
            kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT,
            kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
        ]),
        key: Cow::Borrowed(&[Algorithm::Ed25519]),
        host_key_certificates: Cow::Borrowed(&[]),
        cipher: Cow::Borrowed(if has_aes() { AES_FIRST } else { CHACHA_FIRST }),
        mac: Cow::Borrowed(&[mac::HMAC_SHA512_ETM, mac::HMAC_SHA256_ETM]),
        compression: Cow::Borrowed(&[compression::NONE]),
    }
}

/// When keys are changed. AES-GCM is good for 64 GiB under one key (RFC 4253 counts blocks of 16 bytes); with ChaCha20,
/// which is chosen when one side has no AES, that side asks after 1 GiB. `Limits::new` would not take the former.
pub(super) fn limits() -> russh::Limits {
    let bytes: usize = if has_aes() { 32 << 30 } else { 1 << 30 };
    russh::Limits { rekey_write_limit: bytes, rekey_read_limit: bytes, rekey_time_limit: Duration::from_secs(3600) }
}

/// Makes a socket fit for long links: no delay of small packets, and BBR, which keeps its rate where packets get lost
/// (measured at 1% loss: cubic 0.8, BBR 47 Mbit/s). The size of the send buffer is left alone: setting it would end the
/// kernel's own tuning. Returns a warning where BBR
/// is not to be had.
pub(super) fn tune(socket: &TcpStream) -> Option<&'static str> {
    let _ = socket.set_nodelay(true);
    #[cfg(target_os = "linux")]
    if let Err(e) = socket2::SockRef::from(socket).set_tcp_congestion(b"bbr") {
        return Some(if e.raw_os_error() == Some(libc::EPERM) {
            "this user may not choose the congestion control BBR: long or lossy links will be slow; \
             run `sysctl net.ipv4.tcp_allowed_congestion_control=\"reno cubic bbr\"`, and put it in /etc/sysctl.d"
        } else {
            "this kernel lacks the congestion control BBR: long or lossy links will be slow; \
             run `modprobe tcp_bbr`, and name it in /etc/modules-load.d"
        });
    }
    None
}
