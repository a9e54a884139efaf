//! Names and paths with wildcards.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::error::{Error, Kind, Result, printable};
use crate::path::SnapPath;

/// What a path is to match: any of several patterns with `*`, `?`, `[…]` and `**`. A pattern without `/` is matched
/// against the last component; one with `/` against the whole path, and at any depth unless it begins with `/`.
pub struct Patterns {
    names: GlobSet,
    paths: GlobSet,
}

impl Patterns {
    /// Compiles them.
    ///
    /// # Errors
    /// `Usage` for a pattern that makes no sense or is no UTF-8.
    pub fn new(patterns: &[&[u8]], ignore_case: bool) -> Result<Patterns> {
        let (mut names, mut paths) = (GlobSetBuilder::new(), GlobSetBuilder::new());
        for raw in patterns {
            let refused = |why: String| {
                let shown = printable(Path::new(OsStr::from_bytes(raw)));
                Error::new(Kind::Usage, format!("the pattern '{shown}' is invalid: {why}"))
            };
            let text = std::str::from_utf8(raw)
                .map_err(|_| refused("it is not UTF-8".to_owned()).remedy("write ? for each byte that is no text"))?;
            let glob = |text: &str| {
                let mut builder = GlobBuilder::new(text);
                builder.literal_separator(true).case_insensitive(ignore_case).backslash_escape(true);
                builder.build().map_err(|e| refused(e.kind().to_string()))
            };
            let text = without_braces(text.trim_end_matches('/'));
            match text.strip_prefix('/') {
                _ if text.is_empty() => return Err(refused("it is empty".to_owned())),
                Some(anchored) => paths.add(glob(anchored)?),
                None if !text.contains('/') => names.add(glob(&text)?),
                None if text.starts_with("**/") => paths.add(glob(&text)?),
                None => paths.add(glob(&format!("**/{text}"))?),
            };
        }
        let built = |set: GlobSetBuilder| set.build().map_err(|e| Error::new(Kind::Usage, e.to_string()));
        Ok(Patterns { names: built(names)?, paths: built(paths)? })
    }

    /// Whether any pattern matches.
    pub fn matches(&self, path: &SnapPath) -> bool {
        let name = || path.name().is_some_and(|name| self.names.is_match(Path::new(OsStr::from_bytes(name))));
        (!self.names.is_empty() && name()) || (!self.paths.is_empty() && self.paths.is_match(path.as_path()))
    }
}

/// Braces are ordinary characters in names, and not offered as alternatives: `{1a2b}` finds a file of that name.
fn without_braces(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let (mut escaped, mut class) = (false, false);
    for c in pattern.chars() {
        if !escaped && !class && matches!(c, '{' | '}') {
            out.push('\\');
        }
        class = !escaped && (c == '[' || (class && c != ']'));
        escaped = !escaped && c == '\\';
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, path: &[u8]) -> bool {
        Patterns::new(&[pattern.as_bytes()], false).unwrap().matches(&SnapPath::new(path).unwrap())
    }

    #[test]
    fn names_and_paths() {
        for (pattern, path, expected) in [
            ("passwd", &b"/etc/passwd"[..], true),
            ("passwd", b"/etc/passwd/x", false),
            ("*.tx?", b"a/b.txt", true),
            ("[ab]*", b"x/abc", true),
            ("etc/passwd", b"srv/etc/passwd", true),
            ("/etc/passwd", b"srv/etc/passwd", false),
            ("/etc/*", b"etc/a/b", false),
            ("/etc/**", b"etc/a/b", true),
            ("/etc/", b"etc", true),
            ("**/x/*", b"a/x/y", true),
            ("*", b"a\xffb", true),
            ("a?b", b"a\xffb", true),
            ("{1a}", b"d/{1a}", true),
            ("{a,b}", b"a", false),
            ("a\\*", b"a*", true),
            ("a\\*", b"ab", false),
            ("Readme", b"README", false),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} {}", String::from_utf8_lossy(path));
        }
        let folded = Patterns::new(&[b"ReadMe*"], true).unwrap();
        assert!(folded.matches(&SnapPath::new(b"x/README.md").unwrap()));
    }

    #[test]
    fn senseless_patterns_are_usage_errors() {
        for bad in [&b""[..], b"/", b"[a", b"[", b"\xff"] {
            let e = Patterns::new(&[bad], false).err().unwrap();
            assert_eq!(e.kind(), Kind::Usage);
            assert!(e.to_string().contains("pattern"), "{e}");
        }
    }
}
