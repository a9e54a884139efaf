//! `remote`.

mod show;

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use repo::error::{Error, Kind, Result, printable};
use repo::format::record::{RemoteState, State};
use repo::open::{Access, Repository};
use repo::policy;
use serde::Serialize;
use sync::invitation::Invitation;
use sync::{directory, remote};

use super::open::open_repository;
use crate::args::{RemoteAction, RemoteAddArgs, RemoteArgs};
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::human::{self, Table};
use crate::output::json;

/// A line longer than this is no invitation.
const LONGEST: u64 = 4096;

/// A remote as JSON.
#[derive(Serialize)]
#[serde(tag = "message_type", rename = "remote")]
struct Line {
    name: String,
    url: String,
    /// `pooled`, `sealed` or `directory`.
    kind: &'static str,
    /// Empty for a directory.
    tenant: String,
    sealed: bool,
    /// Snapshots that are not there yet.
    pending_snapshots: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pushed: Option<json::Time>,
}

/// Runs `remote`.
pub fn run(ctx: &Context, args: RemoteArgs) -> Result<ExitCode> {
    match args.action {
        RemoteAction::Add(args) => match &args.dir {
            Some(dir) => add_directory(ctx, &args.name, dir)?,
            None => add(ctx, &args)?,
        },
        RemoteAction::List => list(ctx, &open_repository(ctx, Access::Read)?)?,
        RemoteAction::Show { name } => show::show(ctx, &open_repository(ctx, Access::Read)?, &name)?,
        RemoteAction::Test { name } => show::test(ctx, &open_repository(ctx, Access::Read)?, &name)?,
        RemoteAction::Remove { name } => {
            let repo = open_repository(ctx, Access::Write)?;
            remote::remove(&repo, &name)?;
            repo.remember();
            let text = format!("forgot remote {name}; what is there stays there");
            ctx.output.did("remote remove", &[("remote", name.into())], text)?;
        }
    }
    ctx.output.flush()?;
    Ok(ExitCode::Ok)
}

/// The invitation on standard input; a person there is asked for it.
pub fn read_invitation(ctx: &Context) -> Result<Invitation> {
    if std::io::stdin().is_terminal() {
        ctx.output.complain("paste the invitation:");
    }
    let mut line = String::new();
    let read = BufReader::new(std::io::stdin().lock().take(LONGEST)).read_line(&mut line);
    read.map_err(|e| Error::new(Kind::Usage, format!("cannot read the invitation from standard input: {e}")))?;
    Invitation::parse(&line)
}

/// The invitation of a pool on standard input.
pub fn read_site_invitation(ctx: &Context) -> Result<Invitation> {
    let invitation = read_invitation(ctx)?;
    if invitation.agent {
        return Err(Error::new(Kind::Usage, "this invitation is for a host that is to be backed up, not for a site")
            .remedy("take it up there with `packmule agent join`"));
    }
    Ok(invitation)
}

fn add(ctx: &Context, args: &RemoteAddArgs) -> Result<()> {
    let invitation = read_site_invitation(ctx)?;
    if !invitation.sealed && !args.yes && !agreed(&invitation)? {
        return Err(Error::new(Kind::Interrupted, "nothing was done"));
    }
    let repo = open_repository(ctx, Access::Write)?;
    let host = super::backup::host_name()?;
    let state = remote::add(&repo, &args.name, &invitation, &host)?;
    repo.remember();
    let (name, url) = (&args.name, &state.url);
    let kept = if state.sealed { ", which keeps a sealed copy and has none of the keys" } else { "" };
    let text =
        format!("connected to {url} as tenant {}{kept}; `packmule sync push {name}` sends the snapshots", state.tenant);
    let sealed = state.sealed.into();
    let names = [
        ("remote", name.as_str().into()),
        ("url", url.as_str().into()),
        ("tenant", state.tenant.as_str().into()),
        ("sealed", sealed),
    ];
    ctx.output.did("remote add", &names, text)
}

/// Nothing is made or looked for on a disk that may not be there yet.
fn add_directory(ctx: &Context, name: &str, dir: &Path) -> Result<()> {
    if !dir.as_os_str().as_bytes().contains(&b'/') {
        let dir = printable(dir);
        return Err(Error::new(Kind::Usage, format!("'{dir}' is no directory: that has a / in it"))
            .remedy(format!("write ./{dir} for a directory; leave it out to take up an invitation")));
    }
    let repo = open_repository(ctx, Access::Write)?;
    let state = directory::add(&repo, name, dir)?;
    repo.remember();
    let made = if directory::was_made(&state) { "the copy that is" } else { "a copy" };
    ctx.output
        .remark(format!("{name} is {made} in {}; `packmule sync push {name}` brings it up to date", place(&state)))
}

/// Where a remote is, for people.
fn place(known: &RemoteState) -> String {
    directory::of(known).ok().flatten().map_or_else(|| known.url.clone(), |dir| printable(&dir))
}

/// What is kept there.
fn kind(known: &RemoteState) -> &'static str {
    match directory::of(known) {
        Ok(None) if known.sealed => "sealed",
        Ok(None) => "pooled",
        _ => "directory",
    }
}

/// How many snapshots are not there yet.
fn pending(state: &State, known: &RemoteState) -> u64 {
    state.snapshots.values().filter(|s| s.forgotten.is_none() && policy::lacks(known, s)).count() as u64
}

/// Says what the pool's operator will hold, and asks the person at the terminal: standard input is the invitation.
fn agreed(invitation: &Invitation) -> Result<bool> {
    let nobody = |e| {
        Error::new(Kind::Usage, format!("there is no terminal to ask at: {e}"))
            .remedy("give --yes if the pool's operator may hold this repository's keys")
    };
    let mut terminal = OpenOptions::new().read(true).write(true).open("/dev/tty").map_err(nobody)?;
    let text = format!(
        "The operator of {} will hold the keys of this repository and can read every backup in it. What is pushed there \
         is opened, and stored together with other customers' data under the pool's own keys.\nGo on? [y/N] ",
        invitation.address.place()
    );
    terminal.write_all(text.as_bytes()).map_err(nobody)?;
    let mut answer = String::new();
    BufReader::new(terminal.take(64)).read_line(&mut answer).map_err(nobody)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes" | "Yes"))
}

fn list(ctx: &Context, repo: &Repository) -> Result<()> {
    let state = repo.log.state();
    let mut table = Table::new(&["Name", "Where", "Tenant", "Kind", "Complete since", "Pending"]);
    for (name, known) in &state.remotes {
        let pending = pending(&state, known);
        if ctx.output.json {
            ctx.output.message(&Line {
                name: name.clone(),
                url: known.url.clone(),
                kind: kind(known),
                tenant: known.tenant.clone(),
                sealed: known.sealed,
                pending_snapshots: pending,
                pushed: known.pushed_at.map(json::Time::of),
            })?;
            continue;
        }
        let since = known.pushed_at.map_or_else(|| "never".to_owned(), |at| human::time(human::timestamp(at)));
        let row = [
            name.clone(),
            place(known),
            if known.tenant.is_empty() { "-".to_owned() } else { known.tenant.clone() },
            kind(known).to_owned(),
            since,
            human::count(pending, "snapshot"),
        ];
        table.row(row);
    }
    if !ctx.output.json {
        table.lines().iter().try_for_each(|line| ctx.output.line(line))?;
        ctx.output.remark(human::count(state.remotes.len() as u64, "remote"))?;
    }
    Ok(())
}
