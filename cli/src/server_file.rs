//! `server.toml`: how a repository is served. Flags go before it; what neither says is built in.
//!
//! ```toml
//! listen = "[::]:7022"
//! address = "pool.example.com:7022"   # by which sites reach it: for invitations
//! memory = "128MiB"                   # what may wait to be read, of all connections together
//! connections = 64
//! connections-per-key = 8
//! connections-before-login = 100
//! connections-before-login-per-address = 8
//! limit-upload = "100Mbit"
//! limit-download = "400Mbit"
//! spool = "/fast/spool"               # where packs wait that have arrived
//! ```

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use repo::error::{Error, Kind, Result};
use serde::Deserialize;
use sync::ssh::server::Limits;

use crate::args::{Bytes, Rate};

/// Where it is looked for in a repository.
pub const NAME: &str = "server.toml";
/// The largest that is read, in bytes.
const MOST: u64 = 1 << 20;

/// What the file says.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ServerFile {
    listen: Option<String>,
    /// How sites reach the server: HOST or HOST:PORT.
    pub address: Option<String>,
    memory: Option<String>,
    connections: Option<usize>,
    connections_per_key: Option<usize>,
    connections_before_login: Option<usize>,
    connections_before_login_per_address: Option<usize>,
    limit_upload: Option<String>,
    limit_download: Option<String>,
    /// Where packs wait that have arrived; none: in the repository.
    pub spool: Option<PathBuf>,
    /// The file itself, for errors.
    #[serde(skip)]
    path: PathBuf,
}

impl ServerFile {
    /// Reads `named`, or else the repository's, which need not be there.
    ///
    /// # Errors
    /// `Usage` for anything that is not as above, naming the file; `Refused` if everybody can write it; I/O errors.
    pub fn load(named: Option<&Path>, root: &Path) -> Result<ServerFile> {
        let path = named.map_or_else(|| root.join(NAME), Path::to_owned);
        let found = match std::fs::metadata(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && named.is_none() => return Ok(ServerFile::default()),
            other => other.map_err(|e| Error::io("read", &path, e))?,
        };
        if found.mode() & 0o002 != 0 {
            return Err(Error::new(Kind::Refused, "everybody can change").at(path).remedy("run chmod o-w on it"));
        }
        if found.len() > MOST {
            return Err(Error::new(Kind::Usage, "larger than any settings are:").at(path));
        }
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
        let file: ServerFile = toml::from_str(&text).map_err(|e| {
            let line = e.span().map_or(1, |at| text.as_bytes()[..at.start].iter().filter(|&&b| b == b'\n').count() + 1);
            let what = e.message().lines().next().unwrap_or_default();
            Error::new(Kind::Usage, format!("line {line} makes no sense ({what}) in")).at(&path).remedy("mend it")
        })?;
        let file = ServerFile { path, ..file };
        // All of it, whoever asks for a part: a mistake shows at once.
        file.listen()?;
        file.limits()?;
        file.rates()?;
        Ok(file)
    }

    fn parse<T: FromStr>(&self, key: &str, value: Option<&String>) -> Result<Option<T>> {
        let wrong = |value: &String| {
            Error::new(Kind::Usage, format!("{key} cannot be '{}' in", value.escape_debug()))
                .at(&self.path)
                .remedy("mend it")
        };
        value.map(|value| value.parse().map_err(|_| wrong(value))).transpose()
    }

    /// Where to listen.
    ///
    /// # Errors
    /// `Usage`.
    pub fn listen(&self) -> Result<Option<SocketAddr>> {
        self.parse("listen", self.listen.as_ref())
    }

    /// How much the server takes on.
    ///
    /// # Errors
    /// `Usage`.
    pub fn limits(&self) -> Result<Limits> {
        let limits = Limits::default();
        let number = |key: &str, given: Option<usize>, known: usize| match given {
            Some(0) => Err(Error::new(Kind::Usage, format!("{key} cannot be 0 in")).at(&self.path).remedy("mend it")),
            given => Ok(given.unwrap_or(known)),
        };
        Ok(Limits {
            sessions: number("connections", self.connections, limits.sessions)?,
            sessions_per_key: number("connections-per-key", self.connections_per_key, limits.sessions_per_key)?,
            before_auth: number("connections-before-login", self.connections_before_login, limits.before_auth)?,
            before_auth_per_address: number(
                "connections-before-login-per-address",
                self.connections_before_login_per_address,
                limits.before_auth_per_address,
            )?,
            memory: self.parse::<Bytes>("memory", self.memory.as_ref())?.map_or(limits.memory, |Bytes(bytes)| bytes),
            ..limits
        })
    }

    /// How fast it sends and receives.
    ///
    /// # Errors
    /// `Usage`.
    pub fn rates(&self) -> Result<(Option<Rate>, Option<Rate>)> {
        let rate = |key, value: &Option<String>| self.parse(key, value.as_ref());
        Ok((rate("limit-upload", &self.limit_upload)?, rate("limit-download", &self.limit_download)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<ServerFile> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(NAME), text).unwrap();
        ServerFile::load(None, dir.path())
    }

    #[test]
    fn the_example_is_read_and_mistakes_are_named() {
        let source = include_str!("server_file.rs");
        let example: Vec<&str> =
            source.lines().skip(3).map_while(|l| l.strip_prefix("//! ")).filter(|l| !l.starts_with("```")).collect();
        let file = load(&example.join("\n")).unwrap();
        assert_eq!(file.listen().unwrap().unwrap().port(), 7022);
        assert_eq!((file.limits().unwrap().memory, file.spool.unwrap()), (128 << 20, PathBuf::from("/fast/spool")));
        let nothing = ServerFile::load(None, Path::new("/does/not/exist")).unwrap();
        assert_eq!(nothing.limits().unwrap().sessions, Limits::default().sessions);
        assert!(ServerFile::load(Some(Path::new("/does/not/exist")), Path::new("/")).is_err());
        for (text, said) in [
            ("listen = 'here'", "listen cannot be 'here' in"),
            ("a = 1", "line 1 makes no sense (unknown field `a`"),
            ("\nconnections = 0", "connections cannot be 0"),
            ("memory = 'much'", "memory cannot be 'much'"),
            ("limit-upload = 'fast'", "limit-upload cannot be 'fast'"),
            ("connections = -1", "line 1"),
        ] {
            let e = load(text).unwrap_err();
            assert_eq!(e.kind(), Kind::Usage);
            assert!(e.to_string().contains(said) && e.to_string().contains(NAME), "{e}");
        }
    }
}
