//! The one error type: a closed kind for programs, one line with path and remedy for people.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The result of everything that can fail here.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, as far as a caller must tell cases apart. The command line maps each to one exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request makes no sense as given.
    Usage,
    /// Nothing that looks like a repository is there.
    NoRepository,
    /// No key slot opens with the secret given.
    WrongPassword,
    /// Another process holds a lock this operation needs.
    Locked,
    /// The repository's format is newer than this program.
    NewerFormat,
    /// Stored bytes are missing, changed or do not authenticate.
    Damaged,
    /// A repository, file, snapshot or path that was named does not exist.
    NotFound,
    /// A name fits more than one thing.
    Ambiguous,
    /// The target exists already.
    Exists,
    /// Refused for safety; the remedy says how to insist.
    Refused,
    /// The repository is older than what this machine has seen of it.
    RolledBack,
    /// The clock cannot be trusted for an operation that deletes.
    Clock,
    /// No space, or over quota.
    NoSpace,
    /// The repository or target cannot be written.
    ReadOnly,
    /// The user or the system asked to stop.
    Interrupted,
    /// A peer cannot be reached; try again.
    Unreachable,
    /// Any other failure of the operating system.
    Io,
    /// The transfer drive that was named is absent, or another than what was asked for works on.
    WrongDrive,
    /// This build or platform lacks what is needed.
    Unsupported,
    /// A mistake in this program.
    Bug,
}

/// What to do about a full disk.
const NO_SPACE: &str = "make room there";

/// What to do about one that holds a repository.
const FULL_REPOSITORY: &str = "make room there; a full repository can still `packmule forget` and `packmule prune`";

/// What to do when no more files can be opened.
const OPEN_FILES: &str = "raise the limit of open files (`ulimit -n`, or LimitNOFILE= in a systemd unit)";

/// An error with its kind, what was being done, where, why, and what to do about it.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: Cow<'static, str>,
    path: Option<PathBuf>,
    remedy: Option<Cow<'static, str>>,
    source: Option<io::Error>,
}

impl Error {
    /// An error of `kind`; `message` says what failed, without path, cause or full stop.
    pub fn new(kind: Kind, message: impl Into<Cow<'static, str>>) -> Error {
        Error { kind, message: message.into(), path: None, remedy: None, source: None }
    }

    /// Stored bytes that are not what they should be.
    pub fn damaged(message: impl Into<Cow<'static, str>>) -> Error {
        Error::new(Kind::Damaged, message)
    }

    /// A mistake in this program.
    pub fn bug(message: impl Into<Cow<'static, str>>) -> Error {
        Error::new(Kind::Bug, message)
    }

    /// A failed system call on `path`: "cannot `doing` `path`: cause". The kind follows from the cause.
    pub fn io(doing: &str, path: impl AsRef<Path>, source: io::Error) -> Error {
        let kind = kind_of(&source);
        let remedy = match source.raw_os_error() {
            Some(libc::EMFILE) => Some(Cow::Borrowed(OPEN_FILES)),
            _ => (kind == Kind::NoSpace).then_some(Cow::Borrowed(NO_SPACE)),
        };
        Error {
            kind,
            message: format!("cannot {doing}").into(),
            path: Some(path.as_ref().to_owned()),
            remedy,
            source: Some(source),
        }
    }

    /// Adds where, unless a path is known already.
    pub fn at(mut self, path: impl AsRef<Path>) -> Error {
        self.path.get_or_insert_with(|| path.as_ref().to_owned());
        self
    }

    /// Adds what to do, replacing what was there.
    pub fn remedy(mut self, remedy: impl Into<Cow<'static, str>>) -> Error {
        self.remedy = Some(remedy.into());
        self
    }

    /// Adds what to do unless that is known already.
    pub fn or_remedy(mut self, remedy: impl Into<Cow<'static, str>>) -> Error {
        self.remedy.get_or_insert_with(|| remedy.into());
        self
    }

    /// Puts in front what was being done, and to what: "`doing`: message …".
    pub fn context(mut self, doing: impl fmt::Display) -> Error {
        self.message = format!("{doing}: {}", self.message).into();
        self
    }

    /// Says what to do about a full disk if that is what it is: one that the repository is on.
    pub fn full_repository(self) -> Error {
        if self.kind == Kind::NoSpace { self.remedy(FULL_REPOSITORY) } else { self }
    }

    /// Gives the error another kind, keeping its words.
    pub fn with_kind(mut self, kind: Kind) -> Error {
        self.kind = kind;
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What failed, alone: no path, cause or remedy.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Where, if known.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// What to do about it, if that is known.
    pub fn what_to_do(&self) -> Option<&str> {
        self.remedy.as_deref()
    }

    /// As it is displayed, with the path written as `show` does.
    pub fn with_path_as(&self, show: &dyn Fn(&Path) -> String) -> String {
        let mut out = self.message.to_string();
        if let Some(path) = &self.path {
            out += if self.lacks_colon() { ": " } else { " " };
            out += &show(path);
        }
        if let Some(source) = &self.source {
            out += &format!(": {source}");
        }
        if let Some(remedy) = &self.remedy {
            out += &format!("; {remedy}");
        }
        out
    }

    /// Whether the message is a sentence of its own: decoders say what is wrong before anyone knows in what.
    fn lacks_colon(&self) -> bool {
        const LEADS_ON: [&str; 5] = [":", " at", " in", " from", " of"];
        self.kind == Kind::Damaged && self.source.is_none() && !LEADS_ON.iter().any(|end| self.message.ends_with(end))
    }

    /// The operating system's number, if a system call failed.
    pub fn errno(&self) -> Option<i32> {
        self.source.as_ref().and_then(io::Error::raw_os_error)
    }
}

fn kind_of(source: &io::Error) -> Kind {
    match source.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => Kind::NoSpace,
        Some(libc::EROFS) => Kind::ReadOnly,
        Some(libc::EINTR) => Kind::Interrupted,
        _ => match source.kind() {
            io::ErrorKind::NotFound => Kind::NotFound,
            io::ErrorKind::AlreadyExists => Kind::Exists,
            io::ErrorKind::UnexpectedEof => Kind::Damaged,
            _ => Kind::Io,
        },
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Escapes control characters, so a hostile name cannot break the line.
        f.write_str(&self.with_path_as(&printable))
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|e| e as _)
    }
}

/// A path as one line of text: control characters and undecodable bytes escaped.
pub fn printable(path: &Path) -> String {
    let mut out = String::new();
    for c in path.to_string_lossy().chars() {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_with_path_cause_and_remedy() {
        let e = Error::io("open", "/a\nb", io::Error::from_raw_os_error(libc::ENOSPC)).remedy("free some space");
        assert_eq!(e.kind(), Kind::NoSpace);
        let line = e.to_string();
        assert_eq!(line, "cannot open /a\\nb: No space left on device (os error 28); free some space");
    }

    #[test]
    fn what_stored_bytes_are_wrong_in_stands_after_a_colon() {
        let said = |message: &'static str| Error::damaged(message).at("/p").to_string();
        assert_eq!(said("the contents fail verification"), "the contents fail verification: /p");
        assert_eq!(said("a pack is missing:"), "a pack is missing: /p");
        assert_eq!(said("the index is gone from"), "the index is gone from /p");
        let e = Error::damaged("it is short").at("/p/q").context("cannot read /f of snapshot 1").remedy("run it");
        assert_eq!(e.with_path_as(&|_| "q".to_owned()), "cannot read /f of snapshot 1: it is short: q; run it");
        assert_eq!((e.kind(), e.what_to_do()), (Kind::Damaged, Some("run it")));
    }
}
