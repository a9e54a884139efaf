//! `agent join` and `agent leave`.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use repo::error::{Error, Kind, Result, printable};
use serde::Serialize;
use sync::agent::{self, Identity};
use sync::ssh::url::Address;

use super::place;
use crate::args::AgentJoinArgs;
use crate::commands::remote::read_invitation;
use crate::context::Context;

/// Where an agent's directory says what profile was written.
const NOTE: &str = "profile";

/// What was written, as JSON.
#[derive(Serialize)]
#[serde(tag = "message_type", rename = "joined")]
struct Joined<'a> {
    host: &'a str,
    site: String,
    profile: &'a str,
    timer: bool,
}

/// Takes an invitation up.
pub fn join(ctx: &Context, args: &AgentJoinArgs) -> Result<()> {
    // What can go wrong beforehand: an invitation is good once.
    let file = profile_path(&args.name)?;
    let paths = paths(args)?;
    if args.timer {
        require_systemd(&args.name)?;
    }
    let invitation = read_invitation(ctx)?;
    let dir = place::of_agent(&invitation.address)?;
    let again = dir.exists();
    // One that has joined before has a profile already, and keeps it.
    let writes = !(again && (file.exists() || Written::find(&dir).is_some_and(|written| written.file.exists())));
    if writes && file.exists() {
        return Err(Error::new(Kind::Exists, "there is a profile already:")
            .at(file)
            .remedy("give another name with --name, or remove it"));
    }
    let identity = agent::join(&invitation, &dir)?;
    if writes {
        let written = Written { file: file.clone(), text: profile(&identity, &paths, args.exclude_caches)? };
        write_profile(&written)?;
        written.note(&dir)?;
    }
    if args.timer {
        enable(&args.name)?;
    }
    let (host, site) = (&identity.host, site(&identity.address));
    if ctx.output.json {
        return ctx.output.message(&Joined { host, site, profile: &args.name, timer: args.timer });
    }
    if !writes {
        return ctx.output.remark(format!("{host} has another key for {site}; its profile stays as it is"));
    }
    let next = match args.timer {
        true => "a backup is made each day".to_owned(),
        false => format!("`packmule -P {} backup` makes a backup", args.name),
    };
    ctx.output.remark(format!("joined {site} as {host}; wrote {}; {next}", printable(&file)))
}

/// Forgets a site.
pub fn leave(ctx: &Context) -> Result<()> {
    let address = ctx.site()?.ok_or_else(|| {
        Error::new(Kind::Usage, "no site was named").remedy("name it with -r ssh://HOST[:PORT], or a profile (-P)")
    })?;
    let dir = place::of_agent(&address)?;
    let written = Written::find(&dir);
    match agent::leave(&dir) {
        Err(e) if e.kind() == Kind::NotFound => Err(not_joined(&address)),
        done => done,
    }?;
    let profile = match written {
        Some(written) if written.is_unchanged() => {
            fs::remove_file(&written.file).map_err(|e| Error::io("remove the profile", &written.file, e))?;
            format!(", and removed {}", printable(&written.file))
        }
        Some(written) if written.file.exists() => format!("; {} was changed, and stays", printable(&written.file)),
        _ => String::new(),
    };
    let site = site(&address);
    let text = format!("forgot {site}{profile}; what is there stays there");
    ctx.output.did("agent leave", &[("site", site.into())], text)
}

/// A profile as `agent join` wrote it: noted beside the identity, so that leaving takes it away again.
struct Written {
    file: PathBuf,
    text: String,
}

impl Written {
    /// What was noted in an agent's directory. What cannot be read is no reason not to leave.
    fn find(dir: &Path) -> Option<Written> {
        let noted = fs::read(dir.join(NOTE)).ok()?;
        let end = noted.iter().position(|&b| b == 0)?;
        let file = PathBuf::from(OsStr::from_bytes(&noted[..end]));
        Some(Written { file, text: String::from_utf8(noted[end + 1..].to_vec()).ok()? })
    }

    fn note(&self, dir: &Path) -> Result<()> {
        let noted = [self.file.as_os_str().as_bytes(), b"\0", self.text.as_bytes()].concat();
        let path = dir.join(NOTE);
        fs::write(&path, noted).map_err(|e| Error::io("write", path, e))
    }

    fn is_unchanged(&self) -> bool {
        fs::read(&self.file).is_ok_and(|text| text == self.text.as_bytes())
    }
}

/// Who this host is to the site.
///
/// # Errors
/// `NotFound` if it has not joined it; as [`Identity::load`].
pub fn identity(address: &Address) -> Result<(Identity, PathBuf)> {
    let dir = place::of_agent(address)?;
    match Identity::load(&dir) {
        Err(e) if e.kind() == Kind::NotFound => Err(not_joined(address)),
        other => Ok((other?, dir)),
    }
}

fn not_joined(address: &Address) -> Error {
    Error::new(Kind::NoRepository, format!("this user of this host has not joined {}", site(address)))
        .remedy("`packmule agent invite` there gives an invitation, `packmule agent join` here takes it up")
}

/// The site as -r takes it.
fn site(address: &Address) -> String {
    Address { user: None, tenant: None, ..address.clone() }.to_string()
}

fn profile_path(name: &str) -> Result<PathBuf> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
        return Err(Error::new(Kind::Usage, format!("'{}' is not a profile's name", name.escape_debug()))
            .remedy("use letters, digits, dashes, dots and _"));
    }
    Ok(place::of_profiles()?.join(format!("{name}.toml")))
}

/// What is to be backed up, absolute.
fn paths(args: &AgentJoinArgs) -> Result<Vec<String>> {
    let text = |path: PathBuf| {
        path.into_os_string().into_string().map_err(|path| {
            Error::new(Kind::Usage, "a profile cannot hold this path, which is not valid UTF-8:").at(path)
        })
    };
    if !args.paths.is_empty() {
        let absolute = |path| std::path::absolute(path).map_err(|e| Error::io("find", path, e));
        return args.paths.iter().map(Path::new).map(|path| text(absolute(path)?)).collect();
    }
    if nix::unistd::geteuid().is_root() {
        return Ok(vec!["/".to_owned()]);
    }
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    let none = || Error::new(Kind::Usage, "there is nothing to back up").remedy("name a PATH");
    Ok(vec![text(home.ok_or_else(none)?)?])
}

fn profile(identity: &Identity, paths: &[String], exclude_caches: bool) -> Result<String> {
    let quoted = |text: &str| {
        // A TOML text is written as one of JSON.
        serde_json::to_string(text).map_err(|e| Error::bug(format!("a text cannot be quoted: {e}")))
    };
    let list = paths.iter().map(|path| quoted(path)).collect::<Result<Vec<_>>>()?.join(", ");
    let stay = if paths == ["/"] { "one-file-system = true\nexclude = [\"/tmp\", \"/var/tmp\"]\n" } else { "" };
    let caches = if exclude_caches { "exclude-caches = true\n" } else { "" };
    Ok(format!(
        "# Backs {} up to its site. Keys are those of `packmule backup --help`, without the dashes.\nrepo = {}\n\n\
         [backup]\npaths = [{list}]\n{caches}{stay}",
        identity.host,
        quoted(&site(&identity.address))?
    ))
}

fn write_profile(written: &Written) -> Result<()> {
    let file = &written.file;
    let failed = |e| Error::io("write the profile", file, e);
    if let Some(dir) = file.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(failed)?;
    }
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o644).open(file).map_err(failed)?;
    out.write_all(written.text.as_bytes()).and_then(|()| out.sync_all()).map_err(failed)
}

fn require_systemd(name: &str) -> Result<()> {
    if !nix::unistd::geteuid().is_root() || !Path::new("/run/systemd/system").exists() {
        return Err(Error::new(Kind::Usage, "--timer needs systemd, and root").remedy(format!(
            "leave --timer out, and let cron do it: a line `15 2 * * * packmule -P {name} -q backup` of `crontab -e`"
        )));
    }
    Ok(())
}

fn enable(name: &str) -> Result<()> {
    let unit = format!("packmule-backup@{name}.timer");
    let ran = Command::new("systemctl").args(["enable", "--now", &unit]).status();
    match ran {
        Ok(status) if status.success() => Ok(()),
        Ok(_) | Err(_) => Err(Error::new(Kind::Io, format!("the host has joined, but {unit} could not be enabled"))
            .remedy(format!("see what `systemctl enable --now {unit}` says"))),
    }
}
