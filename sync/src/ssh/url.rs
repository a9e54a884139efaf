//! Addresses of servers: `ssh://[user@]host[:port][/tenant]`.

use std::fmt;
use std::net::Ipv6Addr;

use repo::error::{Error, Kind, Result};

/// The port of `packmule serve` where none is named. Not 22: that is the machine's own SSH.
pub const DEFAULT_PORT: u16 = 7022;

/// The longest name of a user or a tenant, bytes.
pub const MAX_NAME: usize = 64;

/// Where a server is, and who asks for what there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The user's name, if one is given.
    pub user: Option<String>,
    /// A name or an IP address; IPv6 without brackets.
    pub host: String,
    /// The port; [`DEFAULT_PORT`] where none is named.
    pub port: u16,
    /// The tenant, if one is named.
    pub tenant: Option<String>,
}

impl Address {
    /// Reads an address. Nothing in it is percent-encoded; a password has no place in it.
    pub fn parse(text: &str) -> Result<Address> {
        let rest = text.strip_prefix("ssh://").ok_or_else(|| wrong(text, "it does not begin with ssh://"))?;
        let (place, tenant) = match rest.split_once('/') {
            Some((place, tenant)) => (place, Some(tenant.strip_suffix('/').unwrap_or(tenant))),
            None => (rest, None),
        };
        let (user, place) = match place.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, place),
        };
        if user.is_some_and(|u| u.contains(':')) {
            return Err(wrong("ssh://…", "it holds a password; only keys are used"));
        }
        let (host, port) =
            host_and_port(place).ok_or_else(|| wrong(text, "the host or the port does not read as one"))?;
        for (name, what) in [(user, "user"), (tenant.filter(|t| !t.is_empty()), "tenant")] {
            if name.is_some_and(|name| !is_name(name)) {
                return Err(wrong(text, &format!("the name of the {what} may have letters, digits, . _ and - only")));
            }
        }
        let own = |name: Option<&str>| name.filter(|n| !n.is_empty()).map(str::to_owned);
        Ok(Address { user: own(user), host: host.to_owned(), port, tenant: own(tenant) })
    }

    /// `host:port`, IPv6 in brackets: what to connect to, and how errors name it.
    pub fn place(&self) -> String {
        let Address { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ssh://")?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        let place = self.place();
        f.write_str(place.strip_suffix(&format!(":{DEFAULT_PORT}")).unwrap_or(&place))?;
        self.tenant.iter().try_for_each(|tenant| write!(f, "/{tenant}"))
    }
}

fn wrong(text: &str, why: &str) -> Error {
    Error::new(Kind::Usage, format!("`{}` is no address of a server: {why}", super::tame(text)))
        .remedy("write ssh://[USER@]HOST[:PORT][/TENANT], IPv6 in brackets")
}

fn host_and_port(place: &str) -> Option<(&str, u16)> {
    if let Some(rest) = place.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        host.parse::<Ipv6Addr>().ok()?;
        return Some((host, port(rest)?));
    }
    let (host, rest) = place.split_at(place.find(':').unwrap_or(place.len()));
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    let good = !host.is_empty() && host.len() <= 253 && !host.starts_with(['-', '.']) && host.chars().all(fits);
    good.then_some(())?;
    Some((host, port(rest)?))
}

/// What follows the host: nothing, or a colon and a number.
fn port(rest: &str) -> Option<u16> {
    if rest.is_empty() {
        return Some(DEFAULT_PORT);
    }
    let digits = rest.strip_prefix(':')?;
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?.filter(|port| *port != 0)
}

fn is_name(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    !name.is_empty() && name.len() <= MAX_NAME && !name.starts_with(['-', '.']) && name.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parts(text: &str) -> (Option<String>, String, u16, Option<String>) {
        let a = Address::parse(text).unwrap();
        (a.user, a.host, a.port, a.tenant)
    }

    #[test]
    fn addresses_as_people_write_them() {
        let some = |s: &str| Some(s.to_owned());
        assert_eq!(parts("ssh://pool.example"), (None, "pool.example".into(), DEFAULT_PORT, None));
        assert_eq!(parts("ssh://acme@pool:22/acme"), (some("acme"), "pool".into(), 22, some("acme")));
        assert_eq!(parts("ssh://[2001:db8::1]:99/t/"), (None, "2001:db8::1".into(), 99, some("t")));
        assert_eq!(parts("ssh://[::1]"), (None, "::1".into(), DEFAULT_PORT, None));
        assert_eq!(parts("ssh://10.0.0.1/"), (None, "10.0.0.1".into(), DEFAULT_PORT, None));
        assert_eq!(Address::parse("ssh://[::1]:5/t").unwrap().place(), "[::1]:5");
        assert_eq!(Address::parse("ssh://u@h:7022/t").unwrap().to_string(), "ssh://u@h/t");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "pool",
            "ssh:/pool",
            "http://pool",
            "ssh://",
            "ssh://:22",
            "ssh://a b",
            "ssh://h:",
            "ssh://h:0",
            "ssh://h:65536",
            "ssh://h:+1",
            "ssh://h:1:2",
            "ssh://::1",
            "ssh://[::1",
            "ssh://[::1]x",
            "ssh://[h]",
            "ssh://-oProxyCommand=x",
            "ssh://@h",
            "ssh://u:secret@h",
            "ssh://-u@h",
            "ssh://h/a/b",
            "ssh://h/..",
            "ssh://h/a%20b",
            "ssh://h?x",
            "ssh://a@b@h",
            "ssh://h/\u{1b}[31m",
        ] {
            let error = Address::parse(text).expect_err(text);
            assert_eq!(error.kind(), Kind::Usage);
            assert!(!error.to_string().contains("secret") && !error.to_string().contains('\u{1b}'), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            user in proptest::option::of("[a-z0-9_][a-z0-9._-]{0,20}"), name in "[a-z0-9][a-z0-9.-]{0,40}", v6: Option<u128>,
            port in 1u16.., tenant in proptest::option::of("[A-Za-z0-9_][A-Za-z0-9._-]{0,20}")
        ) {
            let host = v6.map_or(name, |bits| Ipv6Addr::from(bits).to_string());
            let address = Address { user, host, port, tenant };
            prop_assert_eq!(Address::parse(&address.to_string()).unwrap(), address);
        }

        #[test]
        fn nothing_panics(text in "(ssh://)?\\PC{0,60}") {
            let _ = Address::parse(&text);
        }
    }
}
