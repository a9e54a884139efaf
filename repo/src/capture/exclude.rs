//! What a backup leaves out. Patterns are gitignore's, but one with a slash inside matches at any depth unless it
//! begins with one, as restic's users expect.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use globset::GlobBuilder;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::error::{Error, Kind, Result};

/// Compiled patterns of one case sensitivity.
fn compile(patterns: &[String], ignore_case: bool) -> Result<Gitignore> {
    let mut builder = GitignoreBuilder::new("/");
    let refused = |p: &str, e: ignore::Error| Error::new(Kind::Usage, format!("the pattern '{p}' is invalid: {e}"));
    builder.case_insensitive(ignore_case).map_err(|e| refused("", e))?;
    for pattern in patterns {
        let (negated, body) = pattern.strip_prefix('!').map_or(("", pattern.as_str()), |b| ("!", b));
        if !pattern.starts_with('#') {
            sound(body).map_err(|why| Error::new(Kind::Usage, format!("the pattern '{pattern}' is invalid: {why}")))?;
        }
        let inner = body.trim_end_matches('/').contains('/');
        let line = match inner && !body.starts_with('/') && !body.starts_with("**/") {
            true => format!("{negated}**/{body}"),
            false => pattern.clone(),
        };
        builder.add_line(None, &line).map_err(|e| refused(pattern, e))?;
    }
    builder.build().map_err(|e| refused("", e))
}

/// git takes a `[` that is never closed for an ordinary character; what is meant is then anyone's guess.
fn sound(pattern: &str) -> std::result::Result<(), String> {
    let built = GlobBuilder::new(pattern).literal_separator(true).backslash_escape(true).build();
    match built.as_ref().map_err(globset::Error::kind) {
        Err(globset::ErrorKind::UnclosedClass) => Err("a [ is never closed; write \\[ for the character".to_owned()),
        Err(why) => Err(why.to_string()),
        Ok(_) => Ok(()),
    }
}

/// A set of patterns.
pub struct Patterns {
    exact: Gitignore,
    folded: Gitignore,
}

impl Patterns {
    /// `exact` match as they are, `folded` without regard to case. A later `!pattern` takes back an earlier match.
    ///
    /// # Errors
    /// `Usage` for a pattern that does not compile.
    pub fn new(exact: &[String], folded: &[String]) -> Result<Patterns> {
        Ok(Patterns { exact: compile(exact, false)?, folded: compile(folded, true)? })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.folded.is_empty()
    }

    /// Whether `path` (from `/`) itself matches; what lies below an excluded directory is never asked.
    pub fn matches(&self, path: &Path, is_dir: bool) -> bool {
        self.exact.matched(path, is_dir).is_ignore() || self.folded.matched(path, is_dir).is_ignore()
    }
}

/// A file whose presence excludes the directory it is in: a name, and how the file must begin.
#[derive(Clone, Debug)]
pub struct Marker {
    /// The file's name.
    pub name: Vec<u8>,
    /// Its first bytes; empty for any.
    pub header: Vec<u8>,
}

/// The markers of one backup.
#[derive(Default)]
pub struct Markers {
    /// Any of these is one.
    pub list: Vec<Marker>,
    /// Set when the backup ends early: nothing is waited for any longer.
    pub over: Arc<AtomicBool>,
}

impl Marker {
    /// The marker of cache directories (`CACHEDIR.TAG`, bford.info/cachedir).
    pub fn cachedir() -> Marker {
        Marker { name: b"CACHEDIR.TAG".to_vec(), header: b"Signature: 8a477f597d28d172789f06886806bc55".to_vec() }
    }

    /// From `name` or `name:header`.
    pub fn parse(text: &[u8]) -> Marker {
        let cut = text.iter().position(|&b| b == b':');
        let (name, header) = cut.map_or((text, &[][..]), |at| (&text[..at], &text[at + 1..]));
        Marker { name: name.to_vec(), header: header.to_vec() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_users_expect() {
        let list = |s: &[&str]| s.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let p = Patterns::new(&list(&["*.o", "/var/cache", "foo/bar", "!keep.o", "tmp/"]), &list(&["*.JPG"])).unwrap();
        let m = |s: &str, dir| p.matches(Path::new(s), dir);
        assert!(m("/a/b/x.o", false) && !m("/a/keep.o", false));
        assert!(m("/var/cache", true) && !m("/srv/var/cache", true));
        assert!(m("/x/foo/bar", false));
        assert!(m("/x/tmp", true) && !m("/x/tmp", false));
        assert!(m("/pic.jpg", false));
        assert!(Patterns::new(&list(&["a[z-a]"]), &[]).is_err());
    }

    #[test]
    fn a_class_that_is_never_closed_is_refused_with_the_pattern() {
        for bad in ["[", "!a[b", "x/[a", "/[", "a{b"] {
            for (exact, folded) in [(vec![bad.to_owned()], vec![]), (vec![], vec![bad.to_owned()])] {
                let e = Patterns::new(&exact, &folded).err().unwrap();
                assert_eq!(e.kind(), Kind::Usage, "{bad}");
                assert!(e.to_string().contains(&format!("'{bad}'")), "{e}");
            }
        }
        for good in ["\\[", "[ab]", "[]]", "#[", "a]"] {
            assert!(Patterns::new(&[good.to_owned()], &[]).is_ok(), "{good}");
        }
    }
}
