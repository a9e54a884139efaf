//! The profiles by which a repository is used: noted in it, so that they come back with it when its machine is lost.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use repo::agents::keep_profiles;
use repo::error::{Error, Kind, Result};
use repo::format::record::Profiles;
use repo::open::Repository;

use crate::context::Context;
use crate::output::human;
use crate::profile::{Profile, Value, directories};
use crate::server_file;

/// What the settings of the repository's server are called among them: no profile can be.
const SERVER: &str = "repository/server.toml";
/// Where those that came back lie, in the repository.
const BACK: &str = "profiles";

/// Notes all profiles of this machine that name this repository. What cannot be read is left out, and what cannot be noted
/// is told: it is no reason to do nothing else.
pub fn keep(ctx: &Context, repo: &Repository) {
    let Some(mut found) = repo.root.as_deref().map(|root| of(root, &directories())) else { return };
    // Who runs a command by hand may see no profile that there is.
    if !found.keys().any(|name| name != SERVER) {
        let known = repo.log.state().profiles.clone();
        found.extend(owned(&known).into_iter().filter(|(name, _)| name != SERVER));
    }
    if found.is_empty() {
        return;
    }
    if let Err(e) = Profiles::new(found).and_then(|found| keep_profiles(repo, found)) {
        ctx.output.complain(format!("packmule: this repository's profiles are not kept in it: {e}"));
    }
}

/// The texts of the profiles in `dirs` whose repository is `root`, and of its server's settings, by the names of files.
fn of(root: &Path, dirs: &[std::path::PathBuf]) -> BTreeMap<String, String> {
    let Ok(root) = root.canonicalize() else { return BTreeMap::new() };
    let mut found = BTreeMap::new();
    for entry in dirs.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten() {
        let file = entry.file_name();
        let Some(name) = file.to_str().and_then(|name| name.strip_suffix(".toml")) else { continue };
        let Ok(Profile { entries, .. }) = Profile::load(name, dirs) else { continue };
        let of_this = entries.iter().any(|entry| match (&entry.command, entry.key.as_str(), &entry.value) {
            (None, "repo", Value::One(path)) => Path::new(path).canonicalize().is_ok_and(|path| path == root),
            _ => false,
        });
        if let (true, Ok(text)) = (of_this, fs::read_to_string(entry.path())) {
            found.entry(format!("{name}.toml")).or_insert(text);
        }
    }
    if let Ok(text) = fs::read_to_string(root.join(server_file::NAME)) {
        found.insert(SERVER.to_owned(), text);
    }
    found
}

fn owned(profiles: &Profiles) -> BTreeMap<String, String> {
    profiles.iter().map(|(name, text)| (name.to_owned(), text.to_owned())).collect()
}

/// What becomes of the settings of a lost repository's server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// They go beside the profiles, to be looked at.
    Aside,
    /// They hold again, where there are no others: they come from the repository's own log.
    InForce,
}

/// Writes what was noted below the repository, where nothing uses it before somebody has looked at it: whoever holds the
/// repository's keys may have written it.
pub fn bring_back(ctx: &Context, repo: &Repository, server: Server) {
    let (Some(root), mut profiles) = (&repo.root, owned(&repo.log.state().profiles)) else { return };
    if let (Server::InForce, Some(text)) = (server, profiles.get(SERVER)) {
        let path = root.join(server_file::NAME);
        match new_file(&path, text) {
            Ok(()) => {
                ctx.output.complain(format!("packmule: {} came back", repo::error::printable(&path)));
                profiles.remove(SERVER);
            }
            // It is there.
            Err(e) if e.kind() == Kind::Exists => {}
            Err(e) => ctx.output.complain(format!("packmule: the server's settings did not come back: {e}")),
        }
    }
    if profiles.is_empty() {
        return;
    }
    let dir = root.join(BACK);
    match write(&dir, &profiles) {
        Ok(n) => ctx.output.complain(format!(
            "packmule: {} came back, in {}: look through them, and put them where they belong",
            human::count(n, "profile"),
            repo::error::printable(&dir)
        )),
        Err(e) => ctx.output.complain(format!("packmule: this repository's profiles did not come back: {e}")),
    }
}

fn new_file(path: &Path, text: &str) -> Result<()> {
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|e| Error::io("write", path, e))
}

fn write(dir: &Path, profiles: &BTreeMap<String, String>) -> Result<u64> {
    let mut written = 0;
    // Another name is none that this program gives.
    let given = |name: &str| name == SERVER || (!name.starts_with('.') && !name.contains(['/', '\0']));
    for (name, text) in profiles.iter().filter(|(name, _)| given(name)) {
        let path = dir.join(name);
        let parent = path.parent().unwrap_or(dir);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(|e| Error::io("make", parent, e))?;
        new_file(&path, text)?;
        written += 1;
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profiles_of_one_repository_come_back_where_nothing_uses_them() {
        let dir = tempfile::tempdir().unwrap();
        let (root, etc) = (dir.path().join("repo"), dir.path().join("etc"));
        fs::create_dir_all(&root).unwrap();
        fs::create_dir_all(&etc).unwrap();
        let own = format!("repo = {:?}\n[backup]\npaths = ['/srv']\n", root);
        fs::write(etc.join("web.toml"), &own).unwrap();
        fs::write(etc.join("other.toml"), "repo = '/elsewhere'").unwrap();
        fs::write(etc.join("broken.toml"), "repo = ").unwrap();
        fs::write(etc.join("web.password"), "secret").unwrap();
        fs::write(root.join("server.toml"), "listen = '[::]:7022'").unwrap();
        let found = of(&root, &[dir.path().join("absent"), etc]);
        let names: Vec<&str> = found.keys().map(String::as_str).collect();
        assert_eq!(names, ["repository/server.toml", "web.toml"]);
        let mut all = found.clone();
        all.extend(["../out.toml", "a/b.toml", ".hidden.toml"].map(|name| (name.to_owned(), String::new())));
        let back = dir.path().join("back/profiles");
        assert_eq!(write(&back, &all).unwrap(), 2);
        assert_eq!(fs::read_to_string(back.join("web.toml")).unwrap(), own);
        assert!(back.join("repository/server.toml").exists() && !dir.path().join("back/out.toml").exists());
        assert_eq!(fs::read_dir(&back).unwrap().count(), 2);
        assert!(write(&back, &found).is_err(), "what is there already is not overwritten");
    }
}
