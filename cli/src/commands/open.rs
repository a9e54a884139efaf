//! Opening the repository that a command works on.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use repo::error::{Error, Kind, Result};
use repo::format::record::RemoteState;
use repo::keyslots;
use repo::lock::Locks;
use repo::open::{Access, Place, Repository, Sealed};

use sync::drive::several::Several;
use sync::remote;

use crate::PROGRAM;
use crate::context::Context;
use crate::progress::Job;
use crate::secret::Secret;

/// A password that is asked for may be typed wrong this often, the first time included.
const TRIES: u32 = 3;

/// What to do about a secret that opens nothing.
const WRONG: &str =
    "check that it is this repository's; `packmule key list` shows its slots, and the recovery code opens it too";

/// Opens the repository with the user's secret; asks again when a typed one is wrong.
///
/// # Errors
/// What names no repository or secret, and as [`Sealed::open`] and [`Sealed::unlock`].
pub fn open_repository(ctx: &Context, access: Access) -> Result<Repository> {
    let (repo, _) = open_with_secret(ctx, access)?;
    if ctx.further().is_empty() {
        return Ok(repo);
    }
    // Drives of one repository: what is on any of them is read.
    let mut all = further(ctx, &repo)?;
    all.push(repo);
    let source = Arc::new(Several::new(all.iter().map(Repository::packs).collect()));
    let most = |repo: &Repository| repo.log.state().snapshots.len();
    let first = all.into_iter().max_by_key(most).ok_or_else(|| Error::bug("no repository was opened"))?;
    first.read_from(source);
    Ok(first)
}

/// The further drives that are named with -r, open with the keys of the first.
///
/// # Errors
/// `WrongDrive` for one of another repository; as [`Sealed::open`].
pub fn further(ctx: &Context, first: &Repository) -> Result<Vec<Repository>> {
    let place = place(ctx)?;
    let open = |dir: &OsString| {
        let root = absolute(Path::new(dir))?;
        let sealed = Sealed::open(Place { root: root.clone(), index_dir: None, ..place.clone() }, Access::Read)?;
        if sealed.repo_id() != first.config.repo_id {
            return Err(Error::new(Kind::WrongDrive, "this is a drive of another repository:")
                .at(root)
                .remedy("name it by itself"));
        }
        sealed.read_with(&first.unlocked.keyring, &ctx.monitor(Job::Look("packs")))
    };
    ctx.further().iter().map(open).collect()
}

/// Each drive has a recovery code of its own: one that opens any of those that are named opens all, which have the same keys.
fn by_another(ctx: &Context, place: &Place, secret: &keyslots::Secret) -> Result<Option<Repository>> {
    let monitor = ctx.monitor(Job::Look("packs"));
    for dir in ctx.further() {
        let other = Place { root: absolute(Path::new(dir))?, index_dir: None, ..place.clone() };
        let opened = match Sealed::open(other, Access::Read)?.unlock(secret, &monitor) {
            Err(e) if e.kind() == Kind::WrongPassword => continue,
            other => other?,
        };
        let first = Sealed::open(place.clone(), Access::Read)?;
        if first.repo_id() == opened.config.repo_id {
            return first.read_with(&opened.unlocked.keyring, &monitor).map(Some);
        }
    }
    Ok(None)
}

/// As [`open_repository`], with the secret that opened it.
///
/// # Errors
/// As [`open_repository`].
pub fn open_with_secret(ctx: &Context, access: Access) -> Result<(Repository, keyslots::Secret)> {
    if let Some(site) = ctx.site()? {
        let nothing = keyslots::Secret::Passphrase(String::new().into());
        return super::agent::look::open(ctx, &site).map(|repo| (repo, nothing));
    }
    let place = place(ctx)?;
    let mut tried = 0;
    loop {
        // Before the question: where there is no repository, no password is asked for.
        let sealed = Sealed::open(place.clone(), access)?;
        let secret = engine_secret(ctx.secret()?)?;
        tried += 1;
        let opened = match sealed.unlock(&secret, &ctx.monitor(Job::Look("packs"))) {
            Err(e) if e.kind() == Kind::WrongPassword => by_another(ctx, &place, &secret)?.ok_or(e),
            other => other,
        };
        match opened {
            Err(e) if e.kind() == Kind::WrongPassword && ctx.asks_for_secret() && tried < TRIES => {
                ctx.output.complain(format!("packmule: {e}; try again"));
            }
            Err(e) if e.kind() == Kind::WrongPassword => return Err(e.or_remedy(WRONG)),
            other => return other.map(|repo| (repo, secret)),
        }
    }
}

/// Where the repository is and where this machine keeps what it knows of it.
///
/// # Errors
/// As [`Context::target`]; `Usage` when no cache directory can be named.
pub fn place(ctx: &Context) -> Result<Place> {
    Ok(Place {
        root: absolute(ctx.target()?)?,
        index_dir: ctx.index_dir().map(absolute).transpose()?,
        cache: cache_dir()?,
    })
}

/// The same path from wherever this process goes: a mount in the background leaves the directory it was started in.
fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| Error::io("find the working directory of", path, e))
}

/// A secret as the engine takes it.
///
/// # Errors
/// `Usage` for a text that is no identity.
pub fn engine_secret(secret: Secret) -> Result<keyslots::Secret> {
    match secret {
        Secret::Password(text) => Ok(keyslots::Secret::Passphrase(text)),
        Secret::Identity(text) => keyslots::Secret::identity(&text),
    }
}

/// Opens the copy that a remote keeps, for reading, with the keys of the repository that it is a copy of.
///
/// # Errors
/// `Unreachable`; what the copy gives.
pub fn open_copy(ctx: &Context, repo: &Repository, known: &RemoteState) -> Result<Repository> {
    let unsent = |e: Error| match e.kind() {
        Kind::NoRepository => e.remedy("`packmule sync push` sends it there first"),
        _ => e,
    };
    let (backend, at) = remote::copy(known, repo.config.repo_id, PROGRAM).map_err(unsent)?;
    let place = Place { root: at.clone(), index_dir: None, cache: cache_dir()? };
    let sealed = Sealed::from_backend(backend, Locks::read_only(&at), place, Access::Read).map_err(unsent)?;
    sealed.read_with(&repo.unlocked.keyring, &ctx.monitor(Job::Look("packs")))
}

fn cache_dir() -> Result<PathBuf> {
    let root = nix::unistd::geteuid().is_root();
    cache_from(&|name| std::env::var_os(name).map(PathBuf::from), root).ok_or_else(|| {
        Error::new(Kind::Usage, "there is no place for the cache").remedy("set HOME or XDG_CACHE_HOME to a directory")
    })
}

/// The user's cache directory, as the XDG specification has it: relative paths do not count.
fn cache_from(var: &dyn Fn(&str) -> Option<PathBuf>, root: bool) -> Option<PathBuf> {
    let absolute = |name| var(name).filter(|path| path.is_absolute());
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .or_else(|| root.then(|| PathBuf::from("/var/cache")))
        .map(|dir| dir.join("packmule"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_the_user_s() {
        let dir = |vars: &[(&str, &str)], root| {
            cache_from(&|name| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| PathBuf::from(v)), root)
        };
        let some = |s: &str| Some(PathBuf::from(s));
        assert_eq!(dir(&[("XDG_CACHE_HOME", "/c"), ("HOME", "/h")], false), some("/c/packmule"));
        assert_eq!(dir(&[("XDG_CACHE_HOME", "c"), ("HOME", "/h")], false), some("/h/.cache/packmule"));
        assert_eq!(dir(&[("HOME", "")], true), some("/var/cache/packmule"));
        assert_eq!(dir(&[], false), None);
    }
}
