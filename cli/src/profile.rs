//! Profiles: TOML files that give defaults for options, so that `packmule -P NAME backup` needs no more.
//!
//! A key is an option's long name. Keys at the top are global options; those of one command stand in a table with the
//! command's name, and its PATHs there as `paths`:
//!
//! ```toml
//! repo = "/srv/backup"
//! password-file = "/etc/packmule/password"
//!
//! [backup]
//! paths = ["/etc", "/home"]
//! exclude-caches = true
//!
//! [forget]
//! keep-daily = 14
//! ```

use std::borrow::Cow;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use repo::error::{Error, Kind, Result};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What to do about a number that TOML does not have.
const AS_TEXT: &str = "write an octal number as a text";

/// The largest profile read, in bytes.
const MAX_PROFILE: u64 = 1024 * 1024;

/// One profile as written; keys and values are not checked yet.
#[derive(Debug)]
pub struct Profile {
    path: PathBuf,
    /// In the file's order of tables, by name within one.
    pub entries: Vec<Entry>,
}

/// One key of a profile.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// The command whose table it is in; none at the top.
    pub command: Option<String>,
    /// An option's long name.
    pub key: String,
    /// Its value.
    pub value: Value,
    /// Its line, from 1.
    pub line: usize,
}

/// What a key is set to.
#[derive(Debug, PartialEq, Eq)]
pub enum Value {
    /// Of a flag.
    Flag(bool),
    /// A text or number.
    One(String),
    /// Several texts or numbers.
    Many(Vec<String>),
}

impl Profile {
    /// Reads `NAME.toml` from the first of `dirs` that has it and may be looked into.
    ///
    /// # Errors
    /// `Usage` for a name that is no file name, for no such profile, and for what is no TOML; `Refused` if everybody can
    /// write the file (it may name commands to run); I/O errors.
    pub fn load(name: &str, dirs: &[PathBuf]) -> Result<Profile> {
        if name.is_empty() || name.starts_with('.') || name.contains('/') {
            return Err(Error::new(Kind::Usage, format!("'{}' is not a profile's name", name.escape_debug())));
        }
        let candidates: Vec<PathBuf> = dirs.iter().map(|d| d.join(format!("{name}.toml"))).collect();
        let mut denied: Option<(&PathBuf, io::Error)> = None;
        for path in &candidates {
            match std::fs::metadata(path) {
                Ok(meta) if meta.mode() & 0o002 != 0 => {
                    return Err(Error::new(Kind::Refused, "everybody can change the profile")
                        .at(path)
                        .remedy("run chmod o-w on it"));
                }
                Ok(meta) if meta.len() > MAX_PROFILE => {
                    return Err(Error::new(Kind::Usage, "larger than any profile is").at(path));
                }
                Ok(_) => {
                    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read the profile", path, e))?;
                    return Profile::parse(path, &text);
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                // The system's directory is closed to ordinary users, who have one of their own.
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => denied = denied.or(Some((path, e))),
                Err(e) => return Err(Error::io("read the profile", path, e)),
            }
        }
        if let Some((path, e)) = denied {
            let own = candidates.iter().rfind(|own| *own != path).map(|own| repo::error::printable(own));
            let own = own.map_or_else(String::new, |own| format!(", or write a profile of your own, {own}"));
            return Err(Error::io("read the profile", path, e).remedy(format!("run it as root{own}")));
        }
        let places: Vec<String> = candidates.iter().map(|p| repo::error::printable(p)).collect();
        Err(Error::new(Kind::Usage, format!("there is no profile {name}: neither {}", places.join(" nor "))))
    }

    fn parse(path: &Path, text: &str) -> Result<Profile> {
        let mut profile = Profile { path: path.to_owned(), entries: Vec::new() };
        let line_at =
            |offset: usize| text.as_bytes()[..offset.min(text.len())].iter().filter(|&&b| b == b'\n').count() + 1;
        let document = DeTable::parse(text).map_err(|e| {
            let at = e.span().map_or(0, |s| s.start);
            let what = e.message().lines().next().unwrap_or_default();
            // TOML has no such numbers, and its reader cannot know that one was meant.
            match octal_at(text, at) {
                Some(digits) => profile.wrong(line_at(at), &format!("{what}; {AS_TEXT}, such as \"{digits}\"")),
                None => profile.wrong(line_at(at), what),
            }
        })?;
        for (key, item) in document.get_ref() {
            let line = line_at(key.span().start);
            let Some(table) = item.get_ref().as_table() else {
                let entry = profile.entry(None, key, item, line)?;
                profile.entries.push(entry);
                continue;
            };
            if table.is_empty() {
                // Kept so that an unknown command is noticed.
                let (command, value) = (Some(key.get_ref().to_string()), Value::Many(Vec::new()));
                profile.entries.push(Entry { command, key: String::new(), value, line });
            }
            for (inner, item) in table {
                let entry = profile.entry(Some(key.get_ref()), inner, item, line_at(inner.span().start))?;
                profile.entries.push(entry);
            }
        }
        Ok(profile)
    }

    fn entry(
        &self,
        command: Option<&str>,
        key: &Spanned<Cow<'_, str>>,
        item: &Spanned<DeValue<'_>>,
        line: usize,
    ) -> Result<Entry> {
        let key = key.get_ref().to_string();
        let wrong = || match item.get_ref() {
            DeValue::Integer(number) if number.radix() == 8 => {
                let digits = number.as_str();
                self.wrong(line, &format!("{key} is no decimal number; {AS_TEXT}, such as \"0{digits}\""))
            }
            _ => {
                self.wrong(line, &format!("{key} must be a text, a number, true, false, or a list of texts or numbers"))
            }
        };
        let value = match item.get_ref() {
            DeValue::Boolean(on) => Value::Flag(*on),
            DeValue::Array(items) => {
                Value::Many(items.iter().map(|i| scalar(i.get_ref())).collect::<Option<_>>().ok_or_else(wrong)?)
            }
            one => Value::One(scalar(one).ok_or_else(wrong)?),
        };
        Ok(Entry { command: command.map(str::to_owned), key, value, line })
    }

    /// An error about one line of the profile: "FILE line N: …".
    pub fn wrong(&self, line: usize, what: &str) -> Error {
        Error::new(Kind::Usage, format!("{} line {line}: {what}", repo::error::printable(&self.path)))
    }
}

/// A number with a leading zero around `at`, where reading stopped.
fn octal_at(text: &str, at: usize) -> Option<&str> {
    let line = text.get(text.get(..at)?.rfind('\n').map_or(0, |n| n + 1)..)?.lines().next()?;
    let value = line.split_once('=')?.1.split('#').next()?.trim();
    let octal = value.len() > 1 && value.starts_with('0') && value.bytes().all(|b| b.is_ascii_digit());
    octal.then_some(value)
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().to_owned()),
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        _ => None,
    }
}

/// Where profiles are looked for: the system's first, then the user's.
pub fn directories() -> Vec<PathBuf> {
    let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let user = var("XDG_CONFIG_HOME").or_else(|| var("HOME").map(|h| h.join(".config")));
    let mut dirs = vec![PathBuf::from("/etc/packmule")];
    dirs.extend(user.map(|u| u.join("packmule")));
    dirs
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn parse(text: &str) -> Result<Profile> {
        Profile::parse(Path::new("/p.toml"), text)
    }

    #[test]
    fn entries_know_their_command_and_line() {
        let text =
            "repo = '/r'\n\n[backup]\npaths = ['/a', \"/b\"]\nexclude-caches = true\n[forget]\nkeep-daily = 7\n[ls]\n";
        let mut entries = parse(text).unwrap().entries;
        entries.sort_by_key(|e| e.line);
        let entry = |command: Option<&str>, key: &str, value, line| Entry {
            command: command.map(str::to_owned),
            key: key.to_owned(),
            value,
            line,
        };
        let expected = [
            entry(None, "repo", Value::One("/r".into()), 1),
            entry(Some("backup"), "paths", Value::Many(vec!["/a".into(), "/b".into()]), 4),
            entry(Some("backup"), "exclude-caches", Value::Flag(true), 5),
            entry(Some("forget"), "keep-daily", Value::One("7".into()), 7),
            entry(Some("ls"), "", Value::Many(vec![]), 8),
        ];
        assert_eq!(entries, expected);
    }

    #[test]
    fn errors_name_file_and_line() {
        for (text, place) in [
            ("repo = '/r'\nrepo = '/s'\n", "/p.toml line 2: "),
            ("\n\nrepo = \n", "/p.toml line 3: "),
            ("[backup]\npaths = [['a']]", "/p.toml line 2: "),
            ("[backup]\n\n[backup.more]\nx = 1", "/p.toml line 3: "),
            ("when = 2026-01-01", "/p.toml line 1: "),
            ("[mount]\numask = 027", "/p.toml line 2: "),
            (
                "umask = 0o27",
                "/p.toml line 1: umask is no decimal number; write an octal number as a text, such as \"027\"",
            ),
        ] {
            let e = parse(text).unwrap_err();
            assert_eq!(e.kind(), Kind::Usage);
            assert!(e.to_string().starts_with(place), "{text}: {e}");
            assert_eq!(e.to_string().lines().count(), 1);
        }
    }

    #[test]
    fn an_octal_number_is_explained() {
        let e = parse("[mount]\numask = 027  # ours\n").unwrap_err().to_string();
        assert!(e.ends_with("write an octal number as a text, such as \"027\""), "{e}");
        let [entry] = &parse("[mount]\numask = \"027\"").unwrap().entries[..] else { panic!() };
        assert_eq!(entry.value, Value::One("027".into()));
        let e = parse("[mount]\numask = what\n").unwrap_err().to_string();
        assert!(!e.contains("octal"), "{e}");
    }

    #[test]
    fn the_first_directory_that_has_it_wins() {
        let (system, user) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let dirs = [system.path().to_owned(), user.path().to_owned()];
        let absent = Profile::load("home", &dirs).unwrap_err();
        assert_eq!(absent.kind(), Kind::Usage);
        assert!(absent.to_string().contains(&*user.path().to_string_lossy()), "{absent}");
        std::fs::write(user.path().join("home.toml"), "repo = 'user'").unwrap();
        assert_eq!(Profile::load("home", &dirs).unwrap().entries[0].value, Value::One("user".into()));
        let path = system.path().join("home.toml");
        std::fs::write(&path, "repo = 'system'").unwrap();
        assert_eq!(Profile::load("home", &dirs).unwrap().entries[0].value, Value::One("system".into()));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
        assert_eq!(Profile::load("home", &dirs).unwrap_err().kind(), Kind::Refused);
        for name in ["", "../x", ".x", "a/b"] {
            assert_eq!(Profile::load(name, &dirs).unwrap_err().kind(), Kind::Usage, "{name}");
        }
    }

    #[test]
    fn a_closed_system_directory_hides_nobody_s_own_profile() {
        let (system, user) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let dirs = [system.path().to_owned(), user.path().to_owned()];
        std::fs::set_permissions(system.path(), PermissionsExt::from_mode(0o000)).unwrap();
        std::fs::set_permissions(user.path(), PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::write(user.path().join("mine.toml"), "repo = 'user'").unwrap();
        // Root may look into any directory; a thread that acts as somebody else on files may not.
        let ordinary = std::thread::spawn(move || {
            nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65534));
            (Profile::load("mine", &dirs), Profile::load("theirs", &dirs))
        });
        let (mine, theirs) = ordinary.join().unwrap();
        std::fs::set_permissions(system.path(), PermissionsExt::from_mode(0o700)).unwrap();
        let theirs = theirs.unwrap_err();
        assert_eq!(mine.unwrap().entries[0].value, Value::One("user".into()));
        for part in ["/theirs.toml: Permission denied", "as root", &*user.path().to_string_lossy()] {
            assert!(theirs.to_string().contains(part), "{theirs}");
        }
    }
}
