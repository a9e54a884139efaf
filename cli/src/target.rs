//! Which repository a command means: command line, environment, profile.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use repo::error::{Error, Kind, Result, printable};
use sync::ssh::url::Address;

use crate::args::TargetArgs;

/// Where a repository's location can be given. The profile's entries are the last resort.
#[derive(Debug, Clone, Default)]
pub struct TargetSources {
    /// From the command line.
    pub args: TargetArgs,
    /// `PACKMULE_REPOSITORY`.
    pub env: Option<OsString>,
    /// `PACKMULE_REPOSITORY_FILE`.
    pub env_file: Option<PathBuf>,
    /// The profile's `repository` and `repository-file`.
    pub profile: TargetArgs,
}

impl TargetSources {
    /// Adds the environment to what command line and profile say. An empty variable counts as unset.
    pub fn new(args: TargetArgs, profile: TargetArgs) -> TargetSources {
        let var = |name| std::env::var_os(name).filter(|v| !v.is_empty());
        TargetSources {
            args,
            env: var("PACKMULE_REPOSITORY"),
            env_file: var("PACKMULE_REPOSITORY_FILE").map(PathBuf::from),
            profile,
        }
    }

    /// The repository's directory.
    ///
    /// # Errors
    /// `Usage` if nothing names one; `Unsupported` for a URL; I/O errors of a file that should name it.
    pub fn resolve(&self) -> Result<PathBuf> {
        local(&self.named()?)
    }

    /// The further directories that are named on the command line, where several are.
    pub fn further(&self) -> &[OsString] {
        self.args.repo.get(1..).unwrap_or_default()
    }

    /// The site, if it is one that is named: `ssh://…`.
    ///
    /// # Errors
    /// `Usage` for an address that is none; I/O errors of a file that should name it. Nothing named is none.
    pub fn site(&self) -> Result<Option<Address>> {
        let name = match self.named() {
            Err(e) if e.kind() == Kind::Usage => return Ok(None),
            other => other?,
        };
        match name.to_str().filter(|name| name.starts_with("ssh://")) {
            Some(name) => Address::parse(name).map(Some),
            None => Ok(None),
        }
    }

    /// What is named, as it stands there.
    fn named(&self) -> Result<OsString> {
        let choices = [
            (self.args.repo.first(), self.args.repository_file.as_ref()),
            (self.env.as_ref(), self.env_file.as_ref()),
            (self.profile.repo.first(), self.profile.repository_file.as_ref()),
        ];
        for (name, file) in choices {
            if let Some(name) = name {
                return Ok(name.clone());
            }
            if let Some(file) = file {
                return first_line(file);
            }
        }
        Err(Error::new(Kind::Usage, "no repository was named")
            .remedy("name one with -r DIR, PACKMULE_REPOSITORY, PACKMULE_REPOSITORY_FILE or a profile (-P)"))
    }
}

fn first_line(file: &Path) -> Result<OsString> {
    let bytes = std::fs::read(file).map_err(|e| Error::io("read the repository's location from", file, e))?;
    let line = bytes.split(|&b| b == b'\n').next().unwrap_or_default().trim_ascii();
    if line.is_empty() {
        return Err(Error::new(Kind::Usage, "the first line must name the repository in").at(file));
    }
    Ok(OsString::from_vec(line.to_vec()))
}

/// Refuses what looks like a URL, so that a mistyped one does not become a directory.
fn local(name: &OsStr) -> Result<PathBuf> {
    let bytes = name.as_bytes();
    if bytes.is_empty() {
        return Err(Error::new(Kind::Usage, "the repository's name is empty").remedy("name a directory with -r DIR"));
    }
    let scheme = bytes.windows(3).position(|w| w == b"://").map(|end| &bytes[..end]);
    if scheme.is_some_and(|s| !s.is_empty() && s.iter().all(u8::is_ascii_alphanumeric)) {
        let name = printable(Path::new(name));
        return Err(Error::new(Kind::Unsupported, format!("this version cannot reach a repository at {name}"))
            .remedy("name a directory"));
    }
    Ok(PathBuf::from(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(repo: Option<&str>) -> TargetArgs {
        TargetArgs { repo: repo.map(OsString::from).into_iter().collect(), repository_file: None }
    }

    #[test]
    fn command_line_over_environment_over_profile() {
        let mut all = TargetSources {
            args: args(Some("/args")),
            env: Some("/env".into()),
            env_file: None,
            profile: args(Some("/profile")),
        };
        assert_eq!(all.resolve().unwrap(), Path::new("/args"));
        all.args = args(None);
        assert_eq!(all.resolve().unwrap(), Path::new("/env"));
        all.env = None;
        assert_eq!(all.resolve().unwrap(), Path::new("/profile"));
        all.profile = args(None);
        let e = all.resolve().unwrap_err();
        assert_eq!(e.kind(), Kind::Usage);
        assert!(e.to_string().contains("-r DIR"), "{e}");
    }

    #[test]
    fn a_file_names_it_in_its_first_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("name");
        std::fs::write(&file, " /srv/backup \nmore\n").unwrap();
        let mut sources = TargetSources { env_file: Some(file.clone()), ..TargetSources::default() };
        assert_eq!(sources.resolve().unwrap(), Path::new("/srv/backup"));
        std::fs::write(&file, "\n").unwrap();
        assert_eq!(sources.resolve().unwrap_err().kind(), Kind::Usage);
        sources.env_file = Some(dir.path().join("absent"));
        assert_eq!(sources.resolve().unwrap_err().kind(), Kind::NotFound);
    }

    #[test]
    fn urls_are_no_directories() {
        for name in ["ssh://host/repo", "s3://bucket"] {
            assert_eq!(local(OsStr::new(name)).unwrap_err().kind(), Kind::Unsupported);
        }
        assert_eq!(local(OsStr::new("./a://b")).unwrap(), Path::new("./a://b"));
        assert_eq!(local(OsStr::new("")).unwrap_err().kind(), Kind::Usage);
    }
}
