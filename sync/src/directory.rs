//! Remotes that are directories: sealed copies on another disk, or on a NAS that is mounted.
//!
//! Where the copy was made once, it is never made anew: what is in its place while its disk is not mounted must not be filled.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use repo::backend::local::Local;
use repo::error::{Error, Kind, Result};
use repo::format::record::{MAX_TEXT, PrivateKey, RemoteState};
use repo::id::RepoId;
use repo::open::Repository;

use crate::remote;

/// What the URL of a directory begins with.
const SCHEME: &str = "file://";
/// What a remote's host key is for a directory in which the copy was made.
const MADE: &str = "copy";

/// The directory that this remote is; none for a server.
///
/// # Errors
/// `Damaged` for a URL that is no path's.
pub fn of(remote: &RemoteState) -> Result<Option<PathBuf>> {
    let Some(text) = remote.url.strip_prefix(SCHEME) else { return Ok(None) };
    match decoded(text).map(PathBuf::from) {
        Some(path) if path.is_absolute() => Ok(Some(path)),
        _ => Err(Error::damaged("a remote's URL is not that of a path")
            .remedy("remove the remote and add it anew: `packmule remote list` shows it")),
    }
}

/// Notes `dir`, which need not be there, as the remote `name`.
///
/// # Errors
/// As [`refuse`]; `Exists` if there is a remote of that name.
pub fn add(repo: &Repository, name: &str, dir: &Path) -> Result<RemoteState> {
    let dir = std::path::absolute(dir).map_err(|e| Error::io("find the working directory of", dir, e))?;
    remote::require_new(repo, name)?;
    let there = refuse(repo, &dir)?;
    let url = url(&dir);
    if url.len() > MAX_TEXT {
        return Err(Error::new(Kind::Usage, "this path is too long for a remote:").at(dir));
    }
    let state = RemoteState {
        url,
        host_key: if there { MADE.to_owned() } else { String::new() },
        key: PrivateKey(Vec::new().into()),
        tenant: String::new(),
        sealed: true,
        pushed: None,
        pushed_at: None,
    };
    remote::note(repo, name, &state)?;
    Ok(state)
}

/// Refuses a directory that cannot become a copy of `repo`, and makes nothing. Whether there is a copy of it already.
///
/// # Errors
/// `Refused` for one within the repository, or with other files in it; as [`Local::copy_of`].
pub fn refuse(repo: &Repository, dir: &Path) -> Result<bool> {
    refuse_inside(repo, dir)?;
    Local::may_copy(dir, repo.config.repo_id)
}

/// A copy within the repository would go with it.
fn refuse_inside(repo: &Repository, dir: &Path) -> Result<()> {
    let Some(root) = repo.root.as_ref().and_then(|root| root.canonicalize().ok()) else { return Ok(()) };
    let dir = std::path::absolute(dir).map_err(|e| Error::io("find the working directory of", dir, e))?;
    // The copy may not be there yet: what there is of its path tells.
    let there = dir.ancestors().find_map(|dir| dir.canonicalize().ok());
    if there.is_some_and(|dir| dir.starts_with(&root)) {
        return Err(Error::new(Kind::Refused, "the copy would lie in the repository itself:")
            .at(dir)
            .remedy("name a directory on another disk"));
    }
    Ok(())
}

/// The copy of `repo` in `dir`, to push to: made if it is absent or empty.
///
/// # Errors
/// As [`refuse`].
pub fn make(repo: &Repository, dir: &Path) -> Result<Local> {
    refuse_inside(repo, dir)?;
    Local::copy_of(dir, repo.config.repo_id)
}

/// As [`make`], of the remote `name`, whose copy is made once and from then on must be there.
///
/// # Errors
/// `Unreachable` if the copy was made and is not there; as [`make`]; what the log gives.
pub fn make_known(repo: &Repository, name: &str, dir: &Path) -> Result<Local> {
    let known = remote::find(repo, name)?;
    if was_made(&known) {
        Local::require_copy(dir, repo.config.repo_id)?;
        return make(repo, dir);
    }
    let copy = make(repo, dir)?;
    // Before anything is sent: a push that does not come to its end leaves a copy, too.
    remote::note(repo, name, &RemoteState { host_key: MADE.to_owned(), ..known })?;
    Ok(copy)
}

/// Refuses to look for the copy where it is not.
///
/// # Errors
/// `Unreachable` if it was made and is not there; `NoRepository` if it was not made yet.
pub fn require(known: &RemoteState, dir: &Path, repo: RepoId) -> Result<()> {
    match was_made(known) {
        true => Local::require_copy(dir, repo),
        false if Local::may_copy(dir, repo)? => Ok(()),
        false => Err(Error::new(Kind::NoRepository, "there is no copy yet in").at(dir)),
    }
}

/// What went wrong with the copy in `dir` in the end: that its disk is gone, if that is what it was.
pub fn or_away(e: Error, dir: &Path, repo: RepoId) -> Error {
    match Local::require_copy(dir, repo) {
        Err(away) if away.kind() == Kind::Unreachable && e.kind() != Kind::Interrupted => away,
        _ => e,
    }
}

/// Whether a push has made the copy.
pub fn was_made(known: &RemoteState) -> bool {
    known.host_key == MADE
}

/// The URL of an absolute path. Bytes that are neither letters, digits, nor of `/-._~` are percent-encoded.
fn url(path: &Path) -> String {
    let mut url = SCHEME.to_owned();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' => url.push(*byte as char),
            byte if byte.is_ascii_alphanumeric() => url.push(*byte as char),
            byte => url.push_str(&format!("%{byte:02X}")),
        }
    }
    url
}

fn decoded(text: &str) -> Option<OsString> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| (byte? as char).to_digit(16);
                (digit(rest.next())? * 16 + digit(rest.next())?) as u8
            }
            byte => byte,
        });
    }
    (!bytes.contains(&0)).then(|| OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    fn remote(url: &str) -> RemoteState {
        RemoteState {
            url: url.into(),
            host_key: String::new(),
            key: PrivateKey(Vec::new().into()),
            tenant: String::new(),
            sealed: true,
            pushed: None,
            pushed_at: None,
        }
    }

    #[test]
    fn every_path_has_a_url() {
        for path in [&b"/mnt/nas/copy"[..], "/mnt/Büro 1/100%/a?b#c".as_bytes(), b"/\xff\n/x"] {
            let path = Path::new(OsStr::from_bytes(path));
            let url = url(path);
            assert!(url.is_ascii() && !url.contains(' '), "{url}");
            assert_eq!(of(&remote(&url)).unwrap().as_deref(), Some(path));
        }
        assert_eq!(url(Path::new("/mnt/nas 1")), "file:///mnt/nas%201");
        assert_eq!(of(&remote("ssh://pool")).unwrap(), None);
        for wrong in ["file://", "file://host/x", "file:///%", "file:///%0", "file:///%zz", "file:///a%00"] {
            assert_eq!(of(&remote(wrong)).unwrap_err().kind(), Kind::Damaged, "{wrong}");
        }
    }
}
