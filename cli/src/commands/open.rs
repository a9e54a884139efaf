//! Opening the repository that a command works on.

use std::path::{Path, PathBuf};

use repo::crypto::keys::Keyring;
use repo::error::{Error, Kind, Result};
use repo::format::record::RemoteState;
use repo::keyslots;
use repo::lock::Locks;
use repo::open::{Access, Place, Repository, Sealed};

use sync::drive::require_known_key;
use sync::drive::several::united;
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
    // What is not on a drive alone is not damaged: that is told by who reads several.
    let drive = ctx.site()?.is_none() && access == Access::Read && super::drive::check::is_drive(ctx.target()?);
    if ctx.further().is_empty() && !drive {
        return open_with_secret(ctx, access).map(|(repo, _)| repo);
    }
    let keyring = keyring(ctx, &places(ctx)?)?;
    let mut all = open_each(ctx, &keyring)?;
    // Its keys open what is on any of them.
    all.sort_by_key(|repo| std::cmp::Reverse(repo.unlocked.keyring.epochs()));
    united(all)
}

/// Where the drives are that are named with -r.
fn places(ctx: &Context) -> Result<Vec<Place>> {
    let mut places = vec![place(ctx)?];
    for dir in ctx.further() {
        places.push(Place { root: absolute(Path::new(dir))?, index_dir: None, ..places[0].clone() });
    }
    Ok(places)
}

/// The drives that are named with -r, of one repository, open for reading, in that order, with these keys of it.
///
/// # Errors
/// `WrongDrive` for one of another repository, or one that was sealed with a newer key; as [`Sealed::open`].
pub fn open_each(ctx: &Context, keyring: &Keyring) -> Result<Vec<Repository>> {
    let places = places(ctx)?;
    let repository = Sealed::open(places[0].clone(), Access::Read)?.repo_id();
    let open = |place: &Place| {
        let sealed = Sealed::open(place.clone(), Access::Read)?;
        if sealed.repo_id() != repository {
            return Err(Error::new(Kind::WrongDrive, "this is a drive of another repository:")
                .at(&place.root)
                .remedy("name it by itself"));
        }
        require_known_key(sealed.backend().as_ref(), keyring, Access::Read)
            .map_err(|e| e.remedy("give the recovery code of this drive, or of one that was made later"))?;
        sealed.read_with(keyring, &ctx.monitor(Job::Look("packs")))
    };
    places.iter().map(open).collect()
}

/// The keys that the user's secret opens on any of these drives: the most. Each has a recovery code of its own, and all have the same
/// keys.
fn keyring(ctx: &Context, places: &[Place]) -> Result<Keyring> {
    let mut tried = 0;
    loop {
        let secret = engine_secret(ctx.secret()?)?;
        let (mut found, mut wrong): (Option<Keyring>, _) = (None, None);
        for place in places {
            let sealed = Sealed::open(place.clone(), Access::Read)?;
            match keyslots::unlock(sealed.backend().as_ref(), &sealed.repo_id(), &secret) {
                Ok(unlocked) => {
                    let more = found.as_ref().is_none_or(|found| found.epochs() < unlocked.keyring.epochs());
                    found = if more { Some(unlocked.keyring) } else { found };
                }
                Err(e) if e.kind() == Kind::WrongPassword => wrong = Some(e),
                Err(e) => return Err(e),
            }
        }
        tried += 1;
        match (found, wrong) {
            (Some(found), _) => return Ok(found),
            (None, Some(e)) if ctx.asks_for_secret() && tried < TRIES => {
                ctx.output.complain(format!("packmule: {e}; try again"));
            }
            (None, e) => {
                let e = e.unwrap_or_else(|| Error::new(Kind::WrongPassword, "the secret opens none of them"));
                return Err(match places {
                    [_] => e.or_remedy(WRONG),
                    _ => e.remedy("give the recovery code of one of the drives that are named: the code of another opens nothing here"),
                });
            }
        }
    }
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
        let opened = sealed.unlock(&secret, &ctx.monitor(Job::Look("packs")));
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
