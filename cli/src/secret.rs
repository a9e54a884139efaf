//! Where the secret comes from: command line, environment, profile, systemd credential, or a prompt on the terminal.
//! The secret itself is never an argument.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use repo::error::{Error, Kind, Result};
use zeroize::Zeroizing;

use crate::args::{NewSecretArgs, SecretArgs};

/// No secret is longer, in bytes.
const MAX_SECRET: usize = 64 * 1024;
/// Of the credential that `LoadCredential=packmule.password:…` in a systemd unit provides.
const CREDENTIAL: &str = "packmule.password";

/// A secret as given. It has no `Debug` and is wiped when dropped.
pub enum Secret {
    /// A password, or a recovery code typed in its place.
    Password(Zeroizing<String>),
    /// The text of an age X25519 identity.
    Identity(Zeroizing<String>),
}

/// A place a secret can come from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    /// `PACKMULE_PASSWORD`; read from there only when needed.
    Environment,
    File(PathBuf),
    Command(OsString),
    Identity(PathBuf),
}

/// Where secrets can be given, in order.
#[derive(Debug, Clone, Default)]
pub struct SecretSources {
    ordered: Vec<Source>,
}

impl SecretSources {
    /// Command line over environment over profile over systemd credential. An empty variable counts as unset.
    pub fn new(args: &SecretArgs, profile: &SecretArgs) -> SecretSources {
        SecretSources::from_parts(args, &|name| std::env::var_os(name), profile)
    }

    fn from_parts(args: &SecretArgs, env: &dyn Fn(&str) -> Option<OsString>, profile: &SecretArgs) -> SecretSources {
        let var = |name| env(name).filter(|v| !v.is_empty());
        let mut ordered = from_args(args);
        ordered.extend(var("PACKMULE_PASSWORD").map(|_| Source::Environment));
        ordered.extend(var("PACKMULE_PASSWORD_FILE").map(|f| Source::File(f.into())));
        ordered.extend(var("PACKMULE_PASSWORD_COMMAND").map(Source::Command));
        ordered.extend(from_args(profile));
        let credential = var("CREDENTIALS_DIRECTORY").map(|dir| Path::new(&dir).join(CREDENTIAL));
        ordered.extend(credential.filter(|f| f.exists()).map(Source::File));
        SecretSources { ordered }
    }

    /// The secret that opens the repository at `target`.
    ///
    /// # Errors
    /// `Usage` if there is no source and no terminal, or the secret is empty, too long or no UTF-8; `Interrupted` at the
    /// prompt; failures of the file or command.
    pub fn existing(&self, target: &Path) -> Result<Secret> {
        match self.ordered.first() {
            Some(source) => source.read(),
            None => {
                need_terminal("no password was given", HOW_EXISTING)?;
                let shown = repo::error::printable(target);
                prompt(&format!("password or recovery code of {shown}: ")).map(Secret::Password)
            }
        }
    }

    /// Refuses standard input as the place of this secret and of a new one: each is read to its end.
    ///
    /// # Errors
    /// `Usage` then.
    pub fn leave_input_to(&self, new: &NewSecretArgs) -> Result<()> {
        let input = |file: Option<&PathBuf>| file.is_some_and(|file| file == Path::new("-"));
        let own = match self.ordered.first() {
            Some(Source::File(file) | Source::Identity(file)) => Some(file),
            _ => None,
        };
        if !input(own) || !input(new.new_password_file.as_ref()) {
            return Ok(());
        }
        let message = "standard input cannot give both the secret that opens the repository (--password-file -) and the \
                       new password (--new-password-file -)";
        Err(Error::new(Kind::Usage, message).remedy("give one of them by a file or a command"))
    }

    /// Whether nothing gives the secret, so that a person is asked.
    pub fn asks(&self) -> bool {
        self.ordered.is_empty()
    }

    /// The password a new repository gets. At a prompt it must be typed twice.
    ///
    /// # Errors
    /// As [`SecretSources::existing`]; `Usage` if only an identity was given.
    pub fn initial(&self) -> Result<Zeroizing<String>> {
        match self.ordered.first() {
            Some(source) => source.read_password(),
            None => prompt_new(HOW_EXISTING),
        }
    }
}

/// The new password for `key add` and `key passwd`. The repository's own sources give the old one, so they do not count
/// here. At a prompt it must be typed twice.
///
/// # Errors
/// As [`SecretSources::initial`].
pub fn new_password(args: &NewSecretArgs) -> Result<Zeroizing<String>> {
    match (&args.new_password_file, &args.new_password_command) {
        (Some(file), _) => Source::File(file.clone()).read_password(),
        (None, Some(command)) => Source::Command(command.clone()).read_password(),
        (None, None) => prompt_new(HOW_NEW),
    }
}

/// The recovery code, or an identity in its place, from a file or typed: for what takes more than the daily password.
///
/// # Errors
/// As [`SecretSources::existing`].
pub fn recovery_code(file: Option<&Path>) -> Result<Zeroizing<String>> {
    match file {
        Some(file) => Source::File(file.to_owned()).read_password(),
        None => {
            need_terminal("the recovery code is needed", "use --recovery-code-file, or a terminal")?;
            let answer = ask("recovery code: ")?;
            match answer.is_empty() {
                true => Err(Error::new(Kind::WrongPassword, "the recovery code is empty")),
                false => Ok(answer),
            }
        }
    }
}

const HOW_EXISTING: &str = "use --password-file, --password-command, PACKMULE_PASSWORD[_FILE|_COMMAND], \
    a systemd credential packmule.password, or a terminal";
const HOW_NEW: &str = "use --new-password-file, --new-password-command, or a terminal";

fn from_args(args: &SecretArgs) -> Vec<Source> {
    let file = args.password_file.clone().map(Source::File);
    let command = args.password_command.clone().map(Source::Command);
    let identity = args.identity_file.clone().map(Source::Identity);
    file.into_iter().chain(command).chain(identity).collect()
}

impl Source {
    fn read(&self) -> Result<Secret> {
        match self {
            Source::Identity(file) => read_file(file).map(Secret::Identity),
            _ => self.read_password().map(Secret::Password),
        }
    }

    fn read_password(&self) -> Result<Zeroizing<String>> {
        match self {
            Source::Environment => match std::env::var("PACKMULE_PASSWORD") {
                Ok(password) => Ok(Zeroizing::new(password)),
                Err(_) => Err(Error::new(Kind::Usage, "the password in PACKMULE_PASSWORD is not valid UTF-8")),
            },
            Source::File(file) => read_file(file),
            Source::Command(command) => run(command),
            Source::Identity(_) => Err(Error::new(Kind::Usage, "an identity cannot be a new password")
                .remedy("give a password here, and add the identity's recipient by key add --recipient")),
        }
    }
}

/// Reads a file, or standard input to its end if the file is called `-`.
fn read_file(file: &Path) -> Result<Zeroizing<String>> {
    if file == Path::new("-") {
        if io::stdin().is_terminal() {
            let message = "the password is not read from standard input, which is a terminal and would show it";
            return Err(Error::new(Kind::Usage, message).remedy("leave the option out, and it is asked for"));
        }
        return read_from(&mut io::stdin(), Path::new("standard input"));
    }
    let mut open = File::open(file).map_err(|e| Error::io("open the password file", file, e))?;
    read_from(&mut open, file)
}

fn read_from(open: &mut dyn Read, name: &Path) -> Result<Zeroizing<String>> {
    let secret = read_bounded(open).map_err(|e| Error::io("read the password from", name, e))?;
    text(secret).map_err(|e| e.at(name))
}

fn run(command: &OsStr) -> Result<Zeroizing<String>> {
    let fail = |e| Error::io("run the password command", Path::new(command), e);
    let mut child = Command::new("/bin/sh")
        .arg("-c")
        .arg(command)
        .env_remove("PACKMULE_PASSWORD")
        .stdout(Stdio::piped())
        .spawn()
        .map_err(fail)?;
    let mut output = child.stdout.take().ok_or_else(|| Error::bug("the password command has no output"))?;
    let secret = read_bounded(&mut output);
    drop(output);
    let status = child.wait().map_err(fail)?;
    if !status.success() {
        return Err(Error::new(Kind::Io, format!("the password command failed ({status}):")).at(Path::new(command)));
    }
    text(secret.map_err(fail)?).map_err(|e| e.at(Path::new(command)))
}

/// Reads all, or one byte more than is allowed, without leaving copies in freed memory.
fn read_bounded(from: &mut dyn Read) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut buffer = Zeroizing::new(vec![0; MAX_SECRET + 1]);
    let mut len = 0;
    while len < buffer.len() {
        match from.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    buffer.truncate(len);
    Ok(buffer)
}

/// A secret as text, without one trailing newline.
fn text(bytes: Zeroizing<Vec<u8>>) -> Result<Zeroizing<String>> {
    if bytes.len() > MAX_SECRET {
        return Err(Error::new(Kind::Usage, "the password is longer than 64 KiB, from"));
    }
    let line = bytes.strip_suffix(b"\n").map_or(&bytes[..], |l| l.strip_suffix(b"\r").unwrap_or(l));
    let secret =
        std::str::from_utf8(line).map_err(|_| Error::new(Kind::Usage, "the password is not valid UTF-8, from"))?;
    if secret.is_empty() {
        return Err(Error::new(Kind::Usage, "the password is empty, from"));
    }
    Ok(Zeroizing::new(secret.to_owned()))
}

/// A person must be there to answer: under cron or in a pipe with all streams redirected nobody is.
fn need_terminal(missing: &'static str, how: &'static str) -> Result<()> {
    if io::stdin().is_terminal() || io::stderr().is_terminal() {
        return Ok(());
    }
    Err(Error::new(Kind::Usage, missing).remedy(how))
}

/// The terminal without its echo; as it was when dropped. The prompt itself switches that off only after the question
/// stands there, and on again before the next: what is typed in between would be shown.
struct Silent(Option<(File, Termios)>);

impl Silent {
    /// Where there is no terminal, the prompt says so.
    fn new() -> Silent {
        let silence = || -> Option<(File, Termios)> {
            let terminal = File::open("/dev/tty").ok()?;
            let before = tcgetattr(&terminal).ok()?;
            let mut silent = before.clone();
            silent.local_flags.remove(LocalFlags::ECHO);
            tcsetattr(&terminal, SetArg::TCSANOW, &silent).ok()?;
            Some((terminal, before))
        };
        Silent(silence())
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        if let Some((terminal, before)) = &self.0 {
            let _ = tcsetattr(terminal, SetArg::TCSANOW, before);
        }
    }
}

/// Asks at the terminal for what nobody is to see.
fn ask(question: &str) -> Result<Zeroizing<String>> {
    let _silent = Silent::new();
    rpassword::prompt_password(question).map(Zeroizing::new).map_err(|e| match e.kind() {
        io::ErrorKind::Interrupted | io::ErrorKind::UnexpectedEof => Error::new(
            Kind::Interrupted,
            format!("interrupted at the question for the {}", question.trim_end_matches([':', ' '])),
        ),
        _ => Error::io("ask for the password on", "/dev/tty", e).with_kind(Kind::Usage).remedy(HOW_EXISTING),
    })
}

fn prompt(question: &str) -> Result<Zeroizing<String>> {
    let answer = ask(question)?;
    if answer.is_empty() {
        return Err(Error::new(Kind::Usage, "the password is empty"));
    }
    Ok(answer)
}

fn prompt_new(how: &'static str) -> Result<Zeroizing<String>> {
    need_terminal("no new password was given", how)?;
    let _silent = Silent::new();
    let first = prompt("new password: ")?;
    let again = prompt("the same again: ")?;
    if *first != *again {
        return Err(Error::new(Kind::Usage, "the two passwords differ").remedy("try again"));
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password_file(file: &str) -> SecretArgs {
        SecretArgs { password_file: Some(file.into()), ..SecretArgs::default() }
    }

    fn read(source: Source) -> Result<String> {
        source.read_password().map(|s| s.as_str().to_owned())
    }

    #[test]
    fn command_line_over_environment_over_profile_over_credential() {
        let dir = tempfile::tempdir().unwrap();
        let credential = dir.path().join(CREDENTIAL);
        std::fs::write(&credential, "x").unwrap();
        let env = |name: &str| match name {
            "PACKMULE_PASSWORD" => Some("secret".into()),
            "PACKMULE_PASSWORD_FILE" => Some("/env/file".into()),
            "PACKMULE_PASSWORD_COMMAND" => Some("env command".into()),
            "CREDENTIALS_DIRECTORY" => Some(dir.path().into()),
            _ => None,
        };
        let sources = SecretSources::from_parts(&password_file("/args"), &env, &password_file("/profile"));
        let expected = [
            Source::File("/args".into()),
            Source::Environment,
            Source::File("/env/file".into()),
            Source::Command("env command".into()),
            Source::File("/profile".into()),
            Source::File(credential),
        ];
        assert_eq!(sources.ordered, expected);
    }

    #[test]
    fn empty_variables_and_absent_credentials_do_not_count() {
        let env = |name: &str| match name {
            "CREDENTIALS_DIRECTORY" => Some("/does/not/exist".into()),
            _ => Some(OsString::new()),
        };
        let none = SecretArgs::default();
        assert!(SecretSources::from_parts(&none, &env, &none).ordered.is_empty());
    }

    #[test]
    fn one_trailing_newline_is_stripped() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        for (content, expected) in
            [("a b", "a b"), ("a b\n", "a b"), ("a\r\n", "a"), ("a\n\n", "a\n"), (" a ", " a "), ("a\nb\n", "a\nb")]
        {
            std::fs::write(&file, content).unwrap();
            assert_eq!(read(Source::File(file.clone())).unwrap(), expected, "{content:?}");
        }
    }

    #[test]
    fn empty_undecodable_and_endless_secrets_are_usage_errors() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        for content in [&b""[..], b"\n", b"a\xff\n", &vec![b'a'; MAX_SECRET + 1]] {
            std::fs::write(&file, content).unwrap();
            let e = read(Source::File(file.clone())).unwrap_err();
            assert_eq!(e.kind(), Kind::Usage);
            assert!(e.to_string().contains("password"), "{e}");
        }
        assert_eq!(read(Source::File("/dev/zero".into())).unwrap_err().kind(), Kind::Usage);
        assert_eq!(read(Source::File(dir.path().join("absent"))).unwrap_err().kind(), Kind::NotFound);
    }

    #[test]
    fn a_command_prints_the_password_or_fails() {
        assert_eq!(read(Source::Command("printf 'a b\\n'".into())).unwrap(), "a b");
        assert!(read(Source::Command("echo secret; exit 3".into())).is_err());
        assert!(read(Source::Command("true".into())).is_err());
        assert!(read(Source::Command("/does/not/exist 2>/dev/null".into())).is_err());
    }

    #[test]
    fn an_identity_is_no_new_password() {
        let identity = SecretArgs { identity_file: Some("/id".into()), ..SecretArgs::default() };
        let sources = SecretSources { ordered: from_args(&identity) };
        assert_eq!(sources.initial().unwrap_err().kind(), Kind::Usage);
    }
}
