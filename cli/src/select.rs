//! Names of snapshots as typed: `id`, `unique prefix`, `latest`, `latest~N`, and with `:path/inside`. The engine resolves them.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use clap::builder::{TypedValueParser, ValueParserFactory};
use repo::error::printable;
use repo::id::SnapshotId;
use repo::path::SnapPath;

/// One snapshot as a user names it; valid, but not known to exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotName {
    /// All 64 digits.
    Id(SnapshotId),
    /// The first 1 to 63 hexadecimal digits, in lower case; must fit one snapshot only.
    Prefix(String),
    /// The N-th newest of those the filters leave, from 0. They must be of one host and source.
    Latest(u32),
}

/// A snapshot and a path in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Which snapshot.
    pub snapshot: SnapshotName,
    /// What in it; the root without `:path`.
    pub path: SnapPath,
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SnapshotName::Id(id) => write!(f, "{}", id.short()),
            SnapshotName::Prefix(prefix) => f.write_str(prefix),
            SnapshotName::Latest(0) => f.write_str("latest"),
            SnapshotName::Latest(n) => write!(f, "latest~{n}"),
        }
    }
}

impl SnapshotName {
    fn parse(raw: &[u8]) -> Result<SnapshotName, String> {
        let name = std::str::from_utf8(raw).unwrap_or("");
        if name == "latest" {
            return Ok(SnapshotName::Latest(0));
        }
        if let Some(back) = name.strip_prefix("latest~") {
            let digits = !back.is_empty() && back.bytes().all(|b| b.is_ascii_digit());
            return match back.parse() {
                Ok(n) if digits => Ok(SnapshotName::Latest(n)),
                _ => Err("latest~N needs a number N from 0 (latest~1 is the one before the newest)".to_owned()),
            };
        }
        if !name.is_empty() && name.len() <= 64 && name.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(match name.parse() {
                Ok(id) => SnapshotName::Id(id),
                Err(_) => SnapshotName::Prefix(name.to_ascii_lowercase()),
            });
        }
        Err("a snapshot is named by its id (hexadecimal digits, or the first few of them), latest or latest~N"
            .to_owned())
    }
}

impl Selection {
    fn parse(raw: &[u8]) -> Result<Selection, String> {
        let (name, inside) = match raw.iter().position(|&b| b == b':') {
            Some(colon) => (&raw[..colon], &raw[colon + 1..]),
            None => (raw, &raw[..0]),
        };
        let path = SnapPath::new(inside).map_err(|e| e.to_string())?;
        Ok(Selection { snapshot: SnapshotName::parse(name)?, path })
    }

    /// The same snapshot with `more` (a path as typed) below this path.
    ///
    /// # Errors
    /// `Usage` if `more` is not a path inside a snapshot.
    pub fn below(&self, more: &OsStr) -> repo::error::Result<SnapPath> {
        let mut path = self.path.clone();
        for name in SnapPath::new(more.as_bytes())?.components() {
            path.push(name);
        }
        Ok(path)
    }
}

/// Teaches clap to parse a type from bytes: paths inside a snapshot need not be UTF-8.
#[derive(Clone)]
pub struct FromBytes<T>(fn(&[u8]) -> Result<T, String>);

impl<T: Clone + Send + Sync + 'static> TypedValueParser for FromBytes<T> {
    type Value = T;

    fn parse_ref(&self, cmd: &clap::Command, arg: Option<&clap::Arg>, value: &OsStr) -> Result<T, clap::Error> {
        (self.0)(value.as_bytes()).map_err(|why| {
            let shown = printable(OsString::from(value).as_ref());
            let arg = arg.map_or_else(String::new, |a| format!(" for '{a}'"));
            clap::Error::raw(clap::error::ErrorKind::ValueValidation, format!("invalid value '{shown}'{arg}: {why}\n"))
                .with_cmd(cmd)
        })
    }
}

impl ValueParserFactory for SnapshotName {
    type Parser = FromBytes<SnapshotName>;

    fn value_parser() -> Self::Parser {
        FromBytes(SnapshotName::parse)
    }
}

impl ValueParserFactory for Selection {
    type Parser = FromBytes<Selection>;

    fn value_parser() -> Self::Parser {
        FromBytes(Selection::parse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let id = SnapshotId::random();
        assert_eq!(SnapshotName::parse(id.to_hex().as_bytes()), Ok(SnapshotName::Id(id)));
        assert_eq!(SnapshotName::parse(b"ABc"), Ok(SnapshotName::Prefix("abc".into())));
        assert_eq!(SnapshotName::parse(b"latest"), Ok(SnapshotName::Latest(0)));
        assert_eq!(SnapshotName::parse(b"latest~12"), Ok(SnapshotName::Latest(12)));
        let too_long = [b'a'; 65];
        for bad in [
            &b""[..],
            b"xyz",
            b"latest~",
            b"latest~-1",
            b"latest~+1",
            b"latest~99999999999",
            b"LATEST",
            &too_long,
            b"\xff",
        ] {
            assert!(SnapshotName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn selections() {
        let root = Selection::parse(b"latest").unwrap();
        assert!(root.path == SnapPath::root());
        assert_eq!(Selection::parse(b"latest:"), Ok(root.clone()));
        assert_eq!(Selection::parse(b"latest:/"), Ok(root));
        let inside = Selection::parse(b"ab12:/srv//data/\xff:x/").unwrap();
        assert_eq!(inside.snapshot, SnapshotName::Prefix("ab12".into()));
        assert_eq!(inside.path, SnapPath::new(b"srv/data/\xff:x").unwrap());
        assert_eq!(inside.below(OsStr::new("/y")).unwrap(), SnapPath::new(b"srv/data/\xff:x/y").unwrap());
        assert!(inside.below(OsStr::new("../y")).is_err());
        for bad in [&b":/a"[..], b"latest:../x", b"latest:a/../b", b"zz:/a"] {
            assert!(Selection::parse(bad).is_err(), "{bad:?}");
        }
    }
}
