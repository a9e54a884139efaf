//! What goes wrong on one side, told to the other.

use repo::error::{Error, Kind};

use super::limits::MAX_TEXT;
use super::preface::{UPDATE_OTHER, UPDATE_THIS};
use super::text::{cut, escape};

/// Stands for every kind of error that means nothing to the other side.
pub const OTHER: u8 = 0;

/// Why a side ends a connection. Its texts are the other side's: [`Fail::into_error`] makes them safe to print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fail {
    /// The kind of error, see [`Fail::kind`]. An unknown number is as good as [`OTHER`].
    pub code: u8,
    /// What failed, without full stop; at most 4096 bytes.
    pub message: String,
    /// What to do about it, if anything; at most 4096 bytes.
    pub remedy: String,
    /// Whether the same may well succeed later.
    pub retry: bool,
}

/// The number of a kind. None is ever used for another.
const fn code(kind: Kind) -> u8 {
    match kind {
        // What these say is of one side only: a system call of the server's, a mistake in its program, a disk at hand.
        Kind::Io | Kind::Bug | Kind::WrongDrive => OTHER,
        Kind::Usage => 1,
        Kind::NoRepository => 2,
        Kind::WrongPassword => 3,
        Kind::Locked => 4,
        Kind::NewerFormat => 5,
        Kind::Damaged => 6,
        Kind::NotFound => 7,
        Kind::Ambiguous => 8,
        Kind::Exists => 9,
        Kind::Refused => 10,
        Kind::RolledBack => 11,
        Kind::Clock => 12,
        Kind::NoSpace => 13,
        Kind::ReadOnly => 14,
        // Who was interrupted is the other side; to this one it is out of reach.
        Kind::Interrupted | Kind::Unreachable => 15,
        Kind::Unsupported => 16,
    }
}

/// What [`Fail::kind`] can answer. `code` is exhaustive; a test compares the two.
pub const KINDS: [Kind; 17] = [
    Kind::Io,
    Kind::Usage,
    Kind::NoRepository,
    Kind::WrongPassword,
    Kind::Locked,
    Kind::NewerFormat,
    Kind::Damaged,
    Kind::NotFound,
    Kind::Ambiguous,
    Kind::Exists,
    Kind::Refused,
    Kind::RolledBack,
    Kind::Clock,
    Kind::NoSpace,
    Kind::ReadOnly,
    Kind::Unreachable,
    Kind::Unsupported,
];

impl Fail {
    /// A failure of `kind`. Texts are cut to what fits. It is worth another try if its kind says so.
    pub fn new(kind: Kind, message: &str) -> Fail {
        let retry = matches!(kind, Kind::Unreachable | Kind::Interrupted | Kind::Locked);
        Fail { code: code(kind), message: cut(message, MAX_TEXT).to_owned(), remedy: String::new(), retry }
    }

    /// Adds what to do.
    pub fn remedy(mut self, remedy: &str) -> Fail {
        self.remedy = cut(remedy, MAX_TEXT).to_owned();
        self
    }

    /// Says whether the same may well succeed later.
    pub fn retry(mut self, retry: bool) -> Fail {
        self.retry = retry;
        self
    }

    /// What of an error the other side may know: not its path, nor the system's answer, which would tell about this side and
    /// whoever else uses it. The message goes as it is: whoever made it answers for that.
    pub fn of(error: &Error) -> Fail {
        // Which side is this one turns round on the way.
        let remedy = match error.what_to_do().unwrap_or_default() {
            UPDATE_THIS => UPDATE_OTHER,
            UPDATE_OTHER => UPDATE_THIS,
            remedy => remedy,
        };
        Fail::new(error.kind(), error.message()).remedy(remedy)
    }

    /// The kind of error it is to this side.
    pub fn kind(&self) -> Kind {
        KINDS.get(usize::from(self.code)).copied().unwrap_or(Kind::Io)
    }

    /// The error that it is to this side, on one line and safe to print. One that is worth another try is `Unreachable`,
    /// whatever it was there: that is the kind that callers try again after.
    pub fn into_error(self) -> Error {
        let kind = if self.retry { Kind::Unreachable } else { self.kind() };
        let error = Error::new(kind, format!("the other side says: {}", escape(&self.message)));
        if self.remedy.is_empty() { error } else { error.remedy(escape(&self.remedy)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_leads_back_to_its_kind() {
        for (number, kind) in KINDS.into_iter().enumerate() {
            assert_eq!(usize::from(code(kind)), number);
            assert_eq!(Fail::new(kind, "").kind(), kind);
        }
        assert_eq!(Fail::new(Kind::Bug, "").kind(), Kind::Io);
        let later = Fail { code: 200, ..Fail::new(Kind::Usage, "?") };
        assert_eq!(later.kind(), Kind::Io);
    }

    #[test]
    fn the_other_sides_words_cannot_drive_a_terminal() {
        let e = Fail::new(Kind::NoSpace, "full\x1b[2J\nreally").remedy("free\r some").into_error();
        assert_eq!(e.to_string(), "the other side says: full\\u{1b}[2J\\nreally; free\\r some");
        assert_eq!(e.kind(), Kind::NoSpace);
    }

    #[test]
    fn what_is_worth_another_try_is_unreachable_here() {
        for kind in [Kind::Locked, Kind::Interrupted, Kind::Unreachable] {
            assert_eq!(Fail::new(kind, "busy").into_error().kind(), Kind::Unreachable);
        }
        assert_eq!(Fail::new(Kind::NoSpace, "full").retry(true).into_error().kind(), Kind::Unreachable);
        assert_eq!(Fail::new(Kind::Locked, "busy").retry(false).into_error().kind(), Kind::Locked);
        assert_eq!(Fail::new(Kind::Interrupted, "stop").retry(false).into_error().kind(), Kind::Unreachable);
    }

    #[test]
    fn an_error_keeps_its_place_to_itself() {
        let cause = std::io::Error::from_raw_os_error(28);
        let e = Error::io("write", "/srv/pool/tenants/other", cause);
        let fail = Fail::of(&e);
        assert_eq!((fail.kind(), &fail.message[..]), (Kind::NoSpace, "cannot write"));
        assert!(!fail.into_error().to_string().contains("other/"));
        let long = Fail::new(Kind::Usage, &"ä".repeat(5000)).remedy(&"x".repeat(5000));
        assert_eq!((long.message.len(), long.remedy.len()), (MAX_TEXT, MAX_TEXT));
    }
}
