//! An invitation: one line that an operator hands to a site, good once and for a time.

use std::fmt;

use repo::agents::valid_host;
use repo::error::{Error, Kind, Result};
use repo::id::{hex, unhex};
use repo::tenants::valid_name;
use zeroize::Zeroizing;

use crate::ssh::keys::PublicKey;
use crate::ssh::url::Address;

const MARK: &str = "packmule-invitation-1";

/// What the line says.
pub struct Invitation {
    /// Where the pool is.
    pub address: Address,
    /// The key it must show there.
    pub host_key: PublicKey,
    /// What the pool calls the tenant.
    pub tenant: String,
    /// Whether the pool is to have none of its keys.
    pub sealed: bool,
    /// Whether it is for a host that is to be backed up to a site; then the tenant's name is the host's.
    pub agent: bool,
    /// The secret that makes a key the tenant's.
    pub token: Zeroizing<[u8; 32]>,
}

/// The line. It holds the secret: whoever reads it can take the invitation up.
impl fmt::Display for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.host_key.text();
        let key = key.split(' ').nth(1).unwrap_or_default();
        let sort = match self {
            Invitation { agent: true, .. } => "agent",
            Invitation { sealed: true, .. } => "sealed",
            _ => "pooled",
        };
        let place = self.address.place();
        let line = Zeroizing::new(format!("{MARK}:{}:{sort}:{key}:{}:{place}", self.tenant, hex(&*self.token)));
        write!(f, "{}:{}", *line, check(&line))
    }
}

/// What tells a line that was cut, or typed wrong.
fn check(line: &str) -> String {
    hex(&blake3::hash(line.as_bytes()).as_bytes()[..4])
}

impl Invitation {
    /// Reads the line; blanks around it do not count.
    ///
    /// # Errors
    /// `Usage` for anything else.
    pub fn parse(line: &str) -> Result<Invitation> {
        let wrong = |why: &str| {
            Error::new(Kind::Usage, format!("this is no invitation: {why}"))
                .remedy("paste the whole line, as it was printed where you were invited")
        };
        let line = line.trim();
        let (line, told) = line.rsplit_once(':').ok_or_else(|| wrong("it is not whole"))?;
        if check(line) != told {
            return Err(wrong("it is not whole, or a character in it is wrong"));
        }
        let mut parts = line.splitn(6, ':');
        let mut part = |what: &str| parts.next().ok_or_else(|| wrong(&format!("its {what} is missing")));
        if part("beginning")? != MARK {
            return Err(wrong("it does not begin like one"));
        }
        let tenant = part("tenant")?.to_owned();
        let (sealed, agent) = match part("sort")? {
            "pooled" => (false, false),
            "sealed" => (true, false),
            "agent" => (false, true),
            _ => return Err(wrong("it is for a sort of tenant that this version does not know")),
        };
        if agent {
            valid_host(&tenant)?
        } else {
            valid_name(&tenant)?
        }
        let host_key = PublicKey::parse(&format!("ssh-ed25519 {}", part("host key")?))
            .map_err(|_| wrong("its host key is incomplete"))?;
        let token = unhex::<32>(part("secret")?).ok_or_else(|| wrong("its secret is incomplete"))?;
        let address =
            Address::parse(&format!("ssh://{}", part("address")?)).map_err(|_| wrong("its address is incomplete"))?;
        Ok(Invitation { address, host_key, tenant, sealed, agent, token: Zeroizing::new(token) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ssh::keys::KeyPair;

    #[test]
    fn the_line_reads_back() {
        let host_key = KeyPair::generate("").unwrap().public();
        for place in ["pool.example:7022", "[fd00::1]:22", "192.0.2.7:7022"] {
            let address = Address::parse(&format!("ssh://{place}")).unwrap();
            let made = Invitation {
                address: address.clone(),
                host_key: host_key.clone(),
                tenant: "acme".into(),
                sealed: place.starts_with('['),
                agent: place.starts_with('1'),
                token: Zeroizing::new([7; 32]),
            };
            let line = made.to_string();
            assert!(!line.contains(' ') && line.len() < 300, "{line}");
            let read = Invitation::parse(&format!(" {line}\n")).unwrap();
            assert_eq!((read.address, read.host_key), (address, host_key.clone()));
            assert_eq!((read.tenant, read.sealed, *read.token), ("acme".into(), made.sealed, [7; 32]));
            assert_eq!(read.agent, made.agent);
            for cut in 0..line.len() {
                assert!(Invitation::parse(&line[..cut]).is_err(), "{cut}");
                let mut wrong = line.clone().into_bytes();
                wrong[cut] ^= 1;
                assert!(Invitation::parse(&String::from_utf8_lossy(&wrong)).is_err(), "{cut}");
            }
        }
        assert_eq!(Invitation::parse("hello").err().unwrap().kind(), Kind::Usage);
    }
}
