//! `backup`.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use clap::Args;
use repo::error::{Error, Kind, Result};

use super::{Bytes, TagList};
use crate::select::SnapshotName;

/// Shown below the help of `backup`.
pub const NOTES: &str = "\
What is stored where: an absolute PATH under its absolute path, a relative one under its normalised relative path;
'.' is the snapshot's root. With --stdin-from-command the words after '--' are the command.

Patterns: * ? [] and **, as in .gitignore: a pattern without '/' matches names anywhere, one that begins with '/'
matches from the top.";

/// Options of `backup`.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// Files and directories to save; with --stdin-from-command: the command and its arguments
    #[arg(value_name = "PATH")]
    pub paths: Vec<OsString>,

    /// Leave out what matches this pattern (may be given several times)
    #[arg(short, long, value_name = "PATTERN", help_heading = "What to save")]
    pub exclude: Vec<String>,

    /// Like --exclude, but upper and lower case are the same
    #[arg(long, value_name = "PATTERN", help_heading = "What to save")]
    pub iexclude: Vec<String>,

    /// Read patterns to leave out from FILE, one a line; empty lines and lines that begin with # do not count
    #[arg(long, value_name = "FILE", help_heading = "What to save")]
    pub exclude_file: Vec<PathBuf>,

    /// Leave out the content of directories that hold a valid CACHEDIR.TAG
    #[arg(long, help_heading = "What to save")]
    pub exclude_caches: bool,

    /// Leave out the content of directories that hold a file NAME (that begins with HEADER)
    #[arg(long, value_name = "NAME[:HEADER]", help_heading = "What to save")]
    pub exclude_if_present: Vec<OsString>,

    /// Leave out files larger than SIZE, such as 500M (a power of 1024)
    #[arg(long, value_name = "SIZE", help_heading = "What to save")]
    pub exclude_larger_than: Option<Bytes>,

    /// Do not cross into other filesystems
    #[arg(short = 'x', long, help_heading = "What to save")]
    pub one_file_system: bool,

    /// Read paths to save from FILE, one a line ('-': standard input); empty lines and lines that begin with # do not count
    #[arg(long, value_name = "FILE", help_heading = "What to save")]
    pub files_from: Vec<PathBuf>,

    /// Read paths to save from FILE, each ended by a NUL byte and taken literally ('-': standard input)
    #[arg(long, value_name = "FILE", help_heading = "What to save")]
    pub files_from_raw: Vec<PathBuf>,

    /// Save what a command prints; if the command fails, so does the backup
    #[arg(
        long,
        help_heading = "What to save",
        conflicts_with_all = ["files_from", "files_from_raw"]
    )]
    pub stdin_from_command: bool,

    /// The file name under which the command's output is saved
    #[arg(long, value_name = "NAME", default_value = "stdin", help_heading = "What to save")]
    pub stdin_filename: OsString,

    /// Save the content of block devices named as PATH instead of the device nodes
    #[arg(long, help_heading = "What to save")]
    pub read_devices: bool,

    /// The name of the history this snapshot belongs to [default: from the absolute paths: /srv/data becomes srv-data]
    #[arg(long, value_name = "NAME")]
    pub source: Option<String>,

    /// Accept that the paths differ from those of the source's newest snapshot
    #[arg(long)]
    pub change_paths: bool,

    /// Give the snapshot these comma-separated tags (may be given several times)
    #[arg(long, value_name = "TAG[,TAG…]")]
    pub tag: Vec<TagList>,

    /// The host name to record [default: this machine's]
    #[arg(short = 'H', long, value_name = "HOST")]
    pub host: Option<String>,

    /// Compare with this snapshot to find unchanged files [default: the source's newest]
    #[arg(long, value_name = "SNAP", conflicts_with = "force")]
    pub parent: Option<SnapshotName>,

    /// Read all files again, also those that seem unchanged
    #[arg(short, long)]
    pub force: bool,

    /// Record no snapshot if nothing changed since the parent
    #[arg(long)]
    pub skip_if_unchanged: bool,

    /// Read up to N files at once (1 to 128; fewer if the limit of open files is low) [default: 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=128))]
    pub read_concurrency: Option<u16>,

    /// If anything cannot be read, fail (exit code 1) and record no snapshot, instead of saving the rest (exit code 3)
    #[arg(long)]
    pub strict: bool,

    /// To a site over SSH: when it cannot be reached, or the connection is lost, try again until the backup is made
    #[arg(long)]
    pub retry: bool,

    /// Only say what would be saved
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// What a backup reads.
#[derive(Debug, PartialEq, Eq)]
pub enum Sources {
    /// Files, directories and devices.
    Paths(Vec<PathBuf>),
    /// The output of a command, stored under a file name.
    Command {
        /// The program and its arguments; never empty.
        words: Vec<OsString>,
        /// The file's name in the snapshot's root.
        filename: OsString,
    },
}

impl BackupArgs {
    /// What to read, with the lists of `--files-from` and `--files-from-raw` read in.
    ///
    /// # Errors
    /// `Usage` if nothing was named; I/O errors of the lists.
    pub fn sources(&self) -> Result<Sources> {
        if self.stdin_from_command {
            if self.paths.is_empty() {
                return Err(Error::new(Kind::Usage, "--stdin-from-command needs a command")
                    .remedy("give it last, as in: packmule backup --stdin-from-command -- pg_dump mydb"));
            }
            return Ok(Sources::Command { words: self.paths.clone(), filename: self.stdin_filename.clone() });
        }
        let mut paths: Vec<PathBuf> = self.paths.iter().map(PathBuf::from).collect();
        for file in &self.files_from {
            paths.extend(lines(file)?.into_iter().map(PathBuf::from));
        }
        for file in &self.files_from_raw {
            let mut bytes = Vec::new();
            open(file)?.read_to_end(&mut bytes).map_err(|e| Error::io("read", file, e))?;
            let names = bytes.split(|&b| b == 0).filter(|n| !n.is_empty());
            paths.extend(names.map(|n| PathBuf::from(OsString::from_vec(n.to_vec()))));
        }
        if paths.iter().any(|p| p.as_os_str().is_empty()) {
            return Err(Error::new(Kind::Usage, "an empty PATH names nothing").remedy("use '.' for this directory"));
        }
        if paths.is_empty() {
            return Err(Error::new(Kind::Usage, "nothing to back up")
                .remedy("name a PATH, or use --files-from or --stdin-from-command"));
        }
        Ok(Sources::Paths(paths))
    }

    /// The case-sensitive patterns of `--exclude` and `--exclude-file`, in this order.
    ///
    /// # Errors
    /// I/O errors of the files; `Usage` for a pattern that is no UTF-8.
    pub fn exclude_patterns(&self) -> Result<Vec<String>> {
        let mut patterns = self.exclude.clone();
        for file in &self.exclude_file {
            for line in lines(file)? {
                let line = line
                    .into_string()
                    .map_err(|_| Error::new(Kind::Usage, "a pattern is not valid UTF-8 in").at(file))?;
                patterns.push(line);
            }
        }
        Ok(patterns)
    }
}

fn open(file: &Path) -> Result<Box<dyn Read>> {
    if file == Path::new("-") {
        return Ok(Box::new(std::io::stdin()));
    }
    Ok(Box::new(File::open(file).map_err(|e| Error::io("open", file, e))?))
}

/// The lines of a list, without empty ones and comments. White space at the ends stays: names may have it.
fn lines(file: &Path) -> Result<Vec<OsString>> {
    let mut out = Vec::new();
    for line in BufReader::new(open(file)?).split(b'\n') {
        let mut line = line.map_err(|e| Error::io("read", file, e))?;
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        if !line.iter().all(u8::is_ascii_whitespace) && line[0] != b'#' {
            out.push(OsString::from_vec(line));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn backup(words: &[&str]) -> BackupArgs {
        let words = ["packmule", "backup"].iter().chain(words);
        match Cli::try_parse_from(words).unwrap().command {
            Command::Backup(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nothing_named_is_a_usage_error() {
        assert_eq!(backup(&[]).sources().unwrap_err().kind(), Kind::Usage);
        assert_eq!(backup(&[""]).sources().unwrap_err().kind(), Kind::Usage);
        assert_eq!(backup(&["--stdin-from-command"]).sources().unwrap_err().kind(), Kind::Usage);
    }

    #[test]
    fn a_command_keeps_its_own_options() {
        let args = backup(&["--stdin-from-command", "--stdin-filename", "db.sql", "--", "pg_dump", "-n", "x"]);
        assert!(!args.dry_run);
        let words = ["pg_dump", "-n", "x"].map(OsString::from).to_vec();
        assert_eq!(args.sources().unwrap(), Sources::Command { words, filename: "db.sql".into() });
    }

    #[test]
    fn lists_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let (plain, raw) = (dir.path().join("plain"), dir.path().join("raw"));
        std::fs::write(&plain, b"# comment\n\n/a\r\n b \n").unwrap();
        std::fs::write(&raw, b"#c\n\0/d\xff\0").unwrap();
        let args = backup(&["/x", "--files-from", plain.to_str().unwrap(), "--files-from-raw", raw.to_str().unwrap()]);
        let weird = PathBuf::from(OsString::from_vec(b"/d\xff".to_vec()));
        let expected = vec!["/x".into(), "/a".into(), " b ".into(), "#c\n".into(), weird];
        assert_eq!(args.sources().unwrap(), Sources::Paths(expected));
        let missing = backup(&["--files-from", "/does/not/exist"]).sources().unwrap_err();
        assert_eq!(missing.kind(), Kind::NotFound);
    }

    #[test]
    fn patterns_come_from_options_then_files() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("excludes");
        std::fs::write(&file, "*.tmp\n#no\n/proc\n").unwrap();
        let args = backup(&["/", "-e", "*.bak", "--exclude-file", file.to_str().unwrap()]);
        assert_eq!(args.exclude_patterns().unwrap(), ["*.bak", "*.tmp", "/proc"]);
    }
}
