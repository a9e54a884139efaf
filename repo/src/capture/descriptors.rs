//! How many files a backup may have open at a time: each part's share of the process's limit, so that a low limit costs
//! speed and not files.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Threads that list directories ahead and that read files where nothing limits them: more than cores, for they wait.
const LISTERS: usize = 4;
const READERS: usize = 8;
/// Directories on the way to the one at hand that are kept open.
const LEVELS: usize = 64;
/// Subdirectories of one directory listed ahead.
const AHEAD: usize = 32;

/// Raises the limit of open files of this process as far as the system lets it: what reads and writes trees is faster with
/// more. Call it once, at the start.
pub fn raise_open_files() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // Without it there is less to share out.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// The shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors {
    /// Directories above one another that are kept open.
    pub levels: usize,
    /// Subdirectories listed ahead in each of these.
    pub ahead: usize,
    /// Threads that list.
    pub listers: usize,
    /// Threads that read, unless told otherwise, and the most of them.
    pub readers: (usize, usize),
}

impl Descriptors {
    /// By the limit of this process.
    pub fn of_process() -> Descriptors {
        Descriptors::of(getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft))
    }

    fn of(limit: u64) -> Descriptors {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let levels = (limit / 64).clamp(4, LEVELS);
        // Each reader holds its file, and its directory and those of the two jobs that wait for it.
        let most = (limit / 32).clamp(1, 128);
        Descriptors {
            levels,
            ahead: (limit / 4 / levels).clamp(1, AHEAD),
            listers: (limit / 32).clamp(1, LISTERS),
            readers: (most.min(READERS), most),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_shares_together_keep_within_the_limit() {
        for limit in [64, 100, 256, 1024, 4096, 1 << 20, u64::MAX] {
            let d = Descriptors::of(limit);
            // A directory that is listed is open twice, and its listing may not have been taken yet.
            let all = d.levels * (1 + d.ahead) + 3 * d.listers + 4 * d.readers.1;
            assert!(all as u64 <= limit - limit.min(100) / 4, "{limit}: {d:?} takes {all}");
        }
        assert_eq!(Descriptors::of(1 << 20), Descriptors { levels: 64, ahead: 32, listers: 4, readers: (8, 128) });
    }
}
