//! Exit codes: what scripts and monitoring rely on. The list also stands in the help of `packmule`.

use repo::error::Kind;

/// What to do about damage, where nothing more is known.
pub const DAMAGED: &str = "run `packmule check --read-data` to see what is affected";

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Done.
    Ok = 0,
    /// Failed.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// Snapshot saved, but some sources could not be read.
    Partial = 3,
    /// Check found damage, or status found something late or damaged.
    Found = 5,
    /// No repository there.
    NoRepository = 10,
    /// Another process holds a lock.
    Locked = 11,
    /// No key slot opens with the secret given.
    WrongPassword = 12,
    /// A peer cannot be reached; try again.
    Unreachable = 13,
    /// No space, or over quota.
    NoSpace = 14,
    /// The transfer drive is absent, or is another.
    WrongDrive = 15,
    /// Interrupted by the user or the system.
    Interrupted = 130,
}

impl ExitCode {
    /// The code of an error of `kind`. Finding damage is what a check is for (`checking`): there it is a result of its own.
    pub fn of(kind: Kind, checking: bool) -> ExitCode {
        match kind {
            Kind::Usage => ExitCode::Usage,
            Kind::NoRepository => ExitCode::NoRepository,
            Kind::WrongPassword => ExitCode::WrongPassword,
            Kind::Locked => ExitCode::Locked,
            Kind::NoSpace => ExitCode::NoSpace,
            Kind::Interrupted => ExitCode::Interrupted,
            Kind::Unreachable => ExitCode::Unreachable,
            Kind::WrongDrive => ExitCode::WrongDrive,
            Kind::Damaged if checking => ExitCode::Found,
            Kind::Damaged
            | Kind::NewerFormat
            | Kind::NotFound
            | Kind::Ambiguous
            | Kind::Exists
            | Kind::Refused
            | Kind::RolledBack
            | Kind::Clock
            | Kind::ReadOnly
            | Kind::Io
            | Kind::Unsupported
            | Kind::Bug => ExitCode::Failed,
        }
    }

    /// The code with this number: how another process of this program ended.
    pub fn from_code(code: u8) -> Option<ExitCode> {
        use ExitCode::*;
        let all = [
            Ok,
            Failed,
            Usage,
            Partial,
            Found,
            NoRepository,
            Locked,
            WrongPassword,
            Unreachable,
            NoSpace,
            WrongDrive,
            Interrupted,
        ];
        all.into_iter().find(|c| c.code() == code)
    }

    /// The number the shell sees.
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        std::process::ExitCode::from(code.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_as_documented() {
        for (kind, code) in [
            (Kind::Usage, 2),
            (Kind::NoRepository, 10),
            (Kind::Locked, 11),
            (Kind::WrongPassword, 12),
            (Kind::Unreachable, 13),
            (Kind::NoSpace, 14),
            (Kind::WrongDrive, 15),
            (Kind::Interrupted, 130),
            (Kind::NewerFormat, 1),
            (Kind::Damaged, 1),
            (Kind::NotFound, 1),
            (Kind::Ambiguous, 1),
            (Kind::Exists, 1),
            (Kind::Refused, 1),
            (Kind::RolledBack, 1),
            (Kind::Clock, 1),
            (Kind::ReadOnly, 1),
            (Kind::Io, 1),
            (Kind::Unsupported, 1),
            (Kind::Bug, 1),
        ] {
            assert_eq!(ExitCode::of(kind, false).code(), code, "{kind:?}");
        }
        assert_eq!(ExitCode::of(Kind::Damaged, true).code(), 5);
        assert_eq!(ExitCode::of(Kind::Locked, true).code(), 11);
        assert_eq!([ExitCode::Ok, ExitCode::Partial].map(ExitCode::code), [0, 3]);
    }

    #[test]
    fn the_help_lists_every_code() {
        let help = <crate::args::Cli as clap::CommandFactory>::command().render_long_help().to_string();
        for code in [0, 1, 2, 3, 5, 10, 11, 12, 13, 14, 15, 130] {
            assert!(help.contains(&format!("{code:>5}  ")), "{code}");
        }
    }
}
