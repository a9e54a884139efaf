//! Parsing with a profile: its entries become the defaults of the options they name, so that clap's own rule holds:
//! command line over environment over default. Repository and secret are groups of options and keep apart
//! (see [`crate::target`] and [`crate::secret`]): a password command typed must win over a password file in the profile.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, CommandFactory, FromArgMatches};
use repo::error::{Error, Result};

use super::{Cli, SecretArgs, TargetArgs};
use crate::profile::{Entry, Profile, Value};

/// A command line with a profile's defaults filled in.
#[derive(Debug)]
pub struct Parsed {
    /// What was typed, completed by the profile.
    pub cli: Cli,
    /// What the profile says about the repository.
    pub target: TargetArgs,
    /// What the profile says about the secret.
    pub secret: SecretArgs,
}

/// Why there is no command line to work on.
#[derive(Debug)]
pub enum Failure {
    /// Help, version, or a usage error in clap's words.
    Clap(Box<clap::Error>),
    /// The profile cannot be used.
    Profile(Error),
}

/// Parses `words` (the program's name first); a profile is looked for in `dirs`.
///
/// # Errors
/// As [`Failure`] says.
pub fn parse(words: &[OsString], dirs: &[PathBuf]) -> std::result::Result<Parsed, Failure> {
    let mut command = Cli::command();
    let (mut target, mut secret) = (TargetArgs::default(), SecretArgs::default());
    if let Some(name) = profile_name(words) {
        let profile = Profile::load(&name, dirs).map_err(Failure::Profile)?;
        for entry in &profile.entries {
            if !keep_apart(entry, &mut target, &mut secret) {
                command = with_default(command, &profile, entry).map_err(Failure::Profile)?;
            }
        }
    }
    let matches = command.try_get_matches_from(words).map_err(|e| Failure::Clap(Box::new(e)))?;
    let cli = Cli::from_arg_matches(&matches).map_err(|e| Failure::Clap(Box::new(e)))?;
    Ok(Parsed { cli, target, secret })
}

/// The profile asked for, however wrong the rest of the line may be.
fn profile_name(words: &[OsString]) -> Option<String> {
    let matches = Cli::command().ignore_errors(true).try_get_matches_from(words).ok()?;
    let inner = matches.subcommand().and_then(|(_, m)| m.try_get_one::<String>("profile").ok().flatten());
    inner.or_else(|| matches.try_get_one::<String>("profile").ok().flatten()).cloned()
}

fn keep_apart(entry: &Entry, target: &mut TargetArgs, secret: &mut SecretArgs) -> bool {
    let (None, Value::One(value)) = (&entry.command, &entry.value) else {
        return false;
    };
    match entry.key.as_str() {
        "repo" => target.repo = vec![value.into()],
        "repository-file" => target.repository_file = Some(value.into()),
        "password-file" => secret.password_file = Some(value.into()),
        "password-command" => secret.password_command = Some(value.into()),
        "identity-file" => secret.identity_file = Some(value.into()),
        _ => return false,
    }
    true
}

/// Makes one entry the default of the option it names.
fn with_default(root: clap::Command, profile: &Profile, entry: &Entry) -> Result<clap::Command> {
    let Some(name) = &entry.command else {
        let unknown = || profile.wrong(entry.line, &format!("unknown key '{}'", entry.key));
        let id = find(&root, &entry.key).ok_or_else(unknown)?;
        check(&root, profile, entry, &id)?;
        return Ok(root.mut_arg(id, |arg| set(arg, entry)));
    };
    let wrong = |what: &str| profile.wrong(entry.line, &format!("unknown {what}"));
    let sub = root.find_subcommand(name).filter(|c| c.get_name() == name);
    let sub = sub.ok_or_else(|| wrong(&format!("command [{name}]")))?;
    if entry.key.is_empty() {
        return Ok(root);
    }
    let id = find(sub, &entry.key).ok_or_else(|| wrong(&format!("key '{}' in [{name}]", entry.key)))?;
    check(sub, profile, entry, &id)?;
    Ok(root.mut_subcommand(name, |sub| sub.mut_arg(id, |arg| set(arg, entry))))
}

/// The option with this long name; or what a command is about, if it is its only positional argument.
fn find(command: &clap::Command, key: &str) -> Option<String> {
    let by_long = command.get_arguments().find(|a| a.get_long() == Some(key) && key != "profile");
    let only = || command.get_positionals().count() == 1;
    let found = by_long.or_else(|| command.get_positionals().find(|a| a.get_id() == key).filter(|_| only()));
    found.map(|a| a.get_id().to_string())
}

/// Lets clap judge the values as if they had been typed, because a bad default would be its bug, not the user's.
fn check(command: &clap::Command, profile: &Profile, entry: &Entry, id: &str) -> Result<()> {
    let arg = command.get_arguments().find(|a| a.get_id() == id);
    let arg = arg.ok_or_else(|| Error::bug("an argument that was found is gone"))?;
    let flag = matches!(arg.get_action(), ArgAction::SetTrue);
    // Several repositories are named on the command line alone.
    let many = matches!(arg.get_action(), ArgAction::Append) && entry.key != "repo";
    let values: Vec<&String> = match &entry.value {
        Value::Flag(_) if flag => return Ok(()),
        Value::Flag(_) => {
            return Err(profile.wrong(entry.line, &format!("{} needs a value, not true or false", entry.key)));
        }
        _ if flag => return Err(profile.wrong(entry.line, &format!("{} must be true or false", entry.key))),
        Value::Many(_) if !many => return Err(profile.wrong(entry.line, &format!("{} takes one value", entry.key))),
        Value::One(value) if matches!(arg.get_action(), ArgAction::Count) => {
            let fits = value.parse::<u8>().is_ok();
            let number = || profile.wrong(entry.line, &format!("{} must be a number from 0 to 255", entry.key));
            return if fits { Ok(()) } else { Err(number()) };
        }
        Value::One(value) => vec![value],
        Value::Many(values) => values.iter().collect(),
    };
    for value in values {
        let mut words = vec![command.get_name().to_owned()];
        match arg.get_long() {
            Some(long) => words.push(format!("--{long}={value}")),
            None => words.extend(["--".to_owned(), value.clone()]),
        }
        if let Err(e) = command.clone().try_get_matches_from(words)
            && matches!(e.kind(), ErrorKind::InvalidValue | ErrorKind::ValueValidation)
        {
            return Err(profile.wrong(entry.line, &one_line(&e)));
        }
    }
    Ok(())
}

fn set(arg: Arg, entry: &Entry) -> Arg {
    let arg = arg.required(false);
    match &entry.value {
        Value::Flag(on) => arg.default_value(if *on { "true" } else { "false" }),
        Value::One(value) => arg.default_value(value.clone()),
        Value::Many(values) => arg.default_values(values.clone()),
    }
}

/// The gist of an error of clap's, without "error:" and the hint at the help.
pub fn one_line(e: &clap::Error) -> String {
    let text = e.to_string();
    let gist = text.split("\n\n").next().unwrap_or_default();
    let gist = gist.strip_prefix("error: ").unwrap_or(gist);
    gist.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Command, Keep};

    fn run(profile: &str, words: &[&str]) -> std::result::Result<Parsed, String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("t.toml"), profile).unwrap();
        let words: Vec<OsString> = ["packmule"].iter().chain(words).map(OsString::from).collect();
        parse(&words, &[dir.path().to_owned()]).map_err(|failure| match failure {
            Failure::Clap(e) => one_line(&e),
            Failure::Profile(e) => e.to_string(),
        })
    }

    const PROFILE: &str = "repo = '/profile'\npassword-file = '/pw'\nverbose = 2\nindex-dir = '/i'\n\
        [backup]\npaths = ['/etc', '/home']\nexclude-caches = true\nexclude = ['*.tmp', '*.bak']\n\
        [forget]\nkeep-daily = 7\nkeep-last = 'unlimited'\n\
        [restore]\ntarget = '/t'\n";

    #[test]
    fn a_profile_fills_in_what_was_not_typed() {
        let parsed = run(PROFILE, &["-P", "t", "backup"]).unwrap();
        assert_eq!(parsed.target.repo, ["/profile"]);
        assert_eq!(parsed.secret.password_file.unwrap(), PathBuf::from("/pw"));
        assert!(parsed.cli.globals.target.repo.is_empty());
        assert_eq!(parsed.cli.globals.verbose, 2);
        assert_eq!(parsed.cli.globals.index_dir, Some("/i".into()));
        let Command::Backup(backup) = parsed.cli.command else { panic!() };
        assert_eq!(backup.paths, ["/etc", "/home"]);
        assert!(backup.exclude_caches);
        assert_eq!(backup.exclude, ["*.tmp", "*.bak"]);
    }

    #[test]
    fn what_is_typed_wins() {
        let parsed = run(PROFILE, &["backup", "/srv", "-e", "*.o", "-P", "t", "-v", "--index-dir", "/j"]).unwrap();
        assert_eq!(parsed.cli.globals.verbose, 1);
        assert_eq!(parsed.cli.globals.index_dir, Some("/j".into()));
        let Command::Backup(backup) = parsed.cli.command else { panic!() };
        assert_eq!(backup.paths, ["/srv"]);
        assert_eq!(backup.exclude, ["*.o"]);
        let before = run(PROFILE, &["-P", "t", "--index-dir", "/k", "-v", "backup"]).unwrap();
        assert_eq!(before.cli.globals.index_dir, Some("/k".into()));
        assert_eq!(before.cli.globals.verbose, 1);
    }

    #[test]
    fn defaults_neither_conflict_nor_are_missing() {
        let parsed = run(PROFILE, &["-P", "t", "forget", "abc", "-q"]).unwrap();
        assert!(parsed.cli.globals.quiet);
        let Command::Forget(forget) = parsed.cli.command else { panic!() };
        assert_eq!(forget.keep.keep_daily, Some(Keep::Newest(7)));
        assert_eq!(forget.keep.keep_last, Some(Keep::Unlimited));
        let Command::Restore(restore) = run(PROFILE, &["-P", "t", "restore", "latest"]).unwrap().cli.command else {
            panic!()
        };
        assert_eq!(restore.target, PathBuf::from("/t"));
    }

    #[test]
    fn hours_of_a_profile_go_with_a_rate_that_is_typed() {
        let of = |profile, words: &[&str]| {
            let Command::Sync(sync) = run(profile, words).unwrap().cli.command else { panic!() };
            sync.rates
        };
        let words = ["-P", "t", "sync", "push", "cloud", "--limit", "1Mbit"];
        let rates = of("[sync]\nbetween = 'Mon-Fri 08:00-18:00'\n", &words);
        assert!(rates.limit.is_some() && rates.between.is_some());
        assert!(of("", &words).apply().unwrap_err().to_string().contains("belong together"));
    }

    #[test]
    fn mistakes_name_file_and_line() {
        for (profile, said) in [
            ("\nrepot = 'x'", "t.toml line 2: unknown key 'repot'"),
            ("profile = 'x'", "t.toml line 1: unknown key 'profile'"),
            ("[backup]\nrepo = 'x'", "t.toml line 2: unknown key 'repo' in [backup]"),
            ("[bakup]\n", "t.toml line 1: unknown command [bakup]"),
            ("[forget]\nkeep-daily = -1", "t.toml line 2: invalid value '-1' for '--keep-daily <N>'"),
            (
                "[restore]\noverwrite = 'maybe'",
                "t.toml line 2: invalid value 'maybe' for '--overwrite <WHEN>' [possible values: always",
            ),
            ("[restore]\ntarget = ['a', 'b']", "t.toml line 2: target takes one value"),
            ("[backup]\nforce = 'yes'", "t.toml line 2: force must be true or false"),
            ("[backup]\nsource = true", "t.toml line 2: source needs a value"),
            ("verbose = 'x'", "t.toml line 1: verbose must be a number"),
            ("[diff]\nfrom = 'abc'", "t.toml line 2: unknown key 'from' in [diff]"),
            ("repo = ['a']", "t.toml line 1: repo takes one value"),
        ] {
            let e = run(profile, &["-P", "t", "version"]).unwrap_err();
            assert!(e.contains(said), "{profile}: {e}");
        }
    }

    #[test]
    fn without_a_profile_nothing_changes() {
        assert!(run(PROFILE, &["backup", "/x"]).unwrap().target.repo.is_empty());
        assert!(run(PROFILE, &["-P", "absent", "backup"]).unwrap_err().contains("no profile absent"));
        assert!(run(PROFILE, &["restore", "latest"]).unwrap_err().contains("--target"));
        // The command to run has a -P of its own.
        assert!(run(PROFILE, &["backup", "--stdin-from-command", "--", "x", "-P", "absent"]).is_ok());
    }
}
