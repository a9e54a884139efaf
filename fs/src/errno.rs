//! Failures of filesystem operations, and the one map from them to error numbers.

use repo::error::{Error, Kind};

/// Why an operation failed.
#[derive(Debug)]
pub enum Fail {
    /// No such name.
    NoEntry,
    /// The inode is one that this mount no longer shows.
    Stale,
    /// A directory was needed.
    NotDirectory,
    /// A directory stands where a file was needed.
    IsDirectory,
    /// The operation does not fit the file's type.
    Invalid,
    /// No such extended attribute.
    NoAttribute,
    /// The caller's buffer is too small.
    Range,
    /// No data or hole at or after that offset.
    NoOffset,
    /// The repository could not give what was asked for.
    Repo(Error),
}

impl From<Error> for Fail {
    fn from(error: Error) -> Fail {
        Fail::Repo(error)
    }
}

/// The result of a filesystem operation.
pub type Outcome<T> = Result<T, Fail>;

/// The error number that a failure becomes.
pub fn errno(fail: &Fail) -> i32 {
    match fail {
        Fail::NoEntry => libc::ENOENT,
        Fail::Stale => libc::ESTALE,
        Fail::NotDirectory => libc::ENOTDIR,
        Fail::IsDirectory => libc::EISDIR,
        Fail::Invalid => libc::EINVAL,
        Fail::NoAttribute => libc::ENODATA,
        Fail::Range => libc::ERANGE,
        Fail::NoOffset => libc::ENXIO,
        Fail::Repo(error) => of_kind(error.kind()),
    }
}

/// Everything that means "the bytes cannot be had" is EIO, whatever lies behind it: a program that reads a backup
/// must never take a lost pack for a file that is not there.
fn of_kind(kind: Kind) -> i32 {
    match kind {
        Kind::Damaged
        | Kind::Io
        | Kind::NoRepository
        | Kind::WrongPassword
        | Kind::NewerFormat
        | Kind::RolledBack
        | Kind::Clock
        | Kind::NotFound
        | Kind::Ambiguous
        | Kind::Exists
        | Kind::WrongDrive
        | Kind::Bug
        | Kind::Usage => libc::EIO,
        Kind::Unreachable => libc::EHOSTUNREACH,
        Kind::Locked => libc::EAGAIN,
        Kind::Refused => libc::EACCES,
        Kind::ReadOnly => libc::EROFS,
        Kind::NoSpace => libc::ENOSPC,
        Kind::Interrupted => libc::EINTR,
        Kind::Unsupported => libc::EOPNOTSUPP,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_pack_is_never_a_missing_file() {
        for kind in [Kind::Damaged, Kind::NotFound, Kind::Io] {
            assert_eq!(errno(&Fail::Repo(Error::new(kind, "x"))), libc::EIO);
        }
        assert_eq!(errno(&Fail::NoEntry), libc::ENOENT);
    }
}
