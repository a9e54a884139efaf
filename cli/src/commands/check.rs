//! `check`.

mod affected;
mod copies;
mod heal;

use std::path::{Path, PathBuf};

use affected::Affected;
use repo::check::{About, Finding, Outcome, ReadData, check, check_tenant, repair_log};
use repo::error::{Error, Kind, Result, printable};
use repo::id::PackId;
use repo::open::{Access, Repository};
use repo::tenants;
use serde::Serialize;

use super::open::open_repository;
use crate::args::{CheckArgs, Subset};
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::{Output, human, json};
use crate::progress::Job;

/// One finding, as JSON.
#[derive(Serialize)]
#[serde(tag = "message_type", rename = "finding")]
struct Line {
    /// `object`, `pack`, `snapshot`, `file`, `whole`, `unneeded`.
    kind: &'static str,
    /// One line.
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pack: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<String>,
    #[serde(flatten)]
    whose: json::Whose,
    #[serde(skip_serializing_if = "Option::is_none")]
    hostname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<json::Time>,
    #[serde(flatten)]
    path: Option<json::PathField>,
}

impl Line {
    /// A damaged pack of a sealed tenant's copy.
    fn of_copy(message: String, pack: PackId, tenant: String) -> Line {
        Line {
            kind: "pack",
            message,
            pack: Some(pack.to_hex()),
            snapshot: None,
            whose: json::Whose { tenant: Some(tenant), original: None },
            hostname: None,
            source: None,
            time: None,
            path: None,
        }
    }
}

/// The last line, with restic's field names where it has them.
#[derive(Serialize)]
#[serde(tag = "message_type", rename = "summary")]
struct Summary {
    num_errors: u64,
    broken_packs: u64,
    suggest_repair_index: bool,
    suggest_prune: bool,
    files_affected: u64,
    snapshots_checked: u64,
    packs: u64,
    packs_read: u64,
    bytes_read: u64,
    healed: u64,
    recorded: bool,
}

/// Healing goes on for so many rounds as long as it gets anywhere.
const HEALED: u32 = 4;

/// Runs `check`.
pub fn run(ctx: &Context, args: CheckArgs) -> Result<ExitCode> {
    if super::drive::check::is_drive(ctx.target()?) {
        return drives(ctx, &args);
    }
    if !ctx.further().is_empty() {
        let e = Error::new(Kind::Usage, "several are checked together only if they are transfer drives");
        return Err(e.remedy("give -r once"));
    }
    if args.repair_log {
        repair(ctx)?;
    }
    let repo = open(ctx)?;
    let read = read_data(&args);
    let state = repo.log.state();
    let tenant = args.tenant.as_ref().map(|name| tenants::numbers(&state, std::slice::from_ref(name))).transpose()?;
    let tenant = tenant.and_then(|numbers| numbers.first().copied());
    let mut found = once(ctx, &repo, read, tenant)?;
    if let Some(name) = &args.heal {
        // A manifest that is back tells of packs that nobody had missed.
        for _ in 0..HEALED {
            let some = heal::heal(ctx, &repo, name, read, found.outcome.recorded)?;
            found = once(ctx, &repo, read, None)?;
            if found.outcome.problems == 0 || !some {
                break;
            }
        }
    }
    let copies = copies::check(ctx, &repo, read, tenant, &mut found.outcome)?;
    summarise(&ctx.output, &found, read, state.pool.then_some(copies))?;
    Ok(if found.outcome.problems > 0 { ExitCode::Found } else { ExitCode::Ok })
}

/// Transfer drives are checked as drives: what is on another one is not damaged.
fn drives(ctx: &Context, args: &CheckArgs) -> Result<ExitCode> {
    let frames = match (read_data(args), args.repair_log || args.heal.is_some() || args.tenant.is_some()) {
        (ReadData::None, false) => false,
        (ReadData::All, false) => true,
        _ => {
            let e = Error::new(Kind::Usage, "a transfer drive is checked as a whole");
            return Err(e.remedy("give no option but --read-data"));
        }
    };
    let further = ctx.further().iter().map(PathBuf::from);
    let dirs: Vec<PathBuf> = [ctx.target()?.to_owned()].into_iter().chain(further).collect();
    super::drive::check::run(ctx, &dirs, frames)
}

/// What one check found.
struct Found {
    outcome: Outcome,
    /// Whether the index could be at fault.
    index: bool,
    /// Files affected, each once.
    files: u64,
}

/// Checks, and tells what is found as it is found.
fn once(ctx: &Context, repo: &Repository, read: ReadData, tenant: Option<u32>) -> Result<Found> {
    let progress = ctx.monitor(Job::Other("packs"));
    let mut unwritable = Ok(());
    let mut index = false;
    let mut told = Told { output: &ctx.output, root: ctx.target()?, begun: false, affected: Affected::default() };
    let mut tell = |finding: &Finding<'_>| {
        index |= matches!(finding, Finding::Object(_));
        let done = match ctx.output.json {
            true => ctx.output.message_now(&line(finding)),
            false => told.tell(finding),
        };
        if unwritable.is_ok() {
            unwritable = done;
        }
    };
    let result = match tenant {
        None => check(repo, read, &progress, &mut tell),
        Some(number) => check_tenant(repo, read, number, &progress, &mut tell),
    };
    drop(progress);
    repo.remember();
    // Also what was found until the check was stopped.
    unwritable = unwritable.and_then(|()| told.tell_affected());
    let outcome = result?;
    unwritable?;
    Ok(Found { outcome, index, files: told.affected.count })
}

/// For writing, so that the result can be recorded; where that cannot be, for reading.
fn open(ctx: &Context) -> Result<Repository> {
    match open_repository(ctx, Access::Write) {
        Err(e) if matches!(e.kind(), Kind::ReadOnly | Kind::Damaged | Kind::RolledBack) => {
            // What keeps it from being read as well is told by that failure.
            let repo = open_repository(ctx, Access::Read)?;
            if e.kind() == Kind::Damaged {
                ctx.output.complain(format!("packmule: the result of this check is not recorded: {e}"));
            }
            Ok(repo)
        }
        other => other,
    }
}

fn read_data(args: &CheckArgs) -> ReadData {
    match args.read_data_subset {
        _ if args.read_data => ReadData::All,
        Some(Subset::Part { n, m }) => ReadData::Part { n, m },
        Some(Subset::Percent(x)) => ReadData::Percent(x),
        None => ReadData::None,
    }
}

fn repair(ctx: &Context) -> Result<()> {
    let repo = open_repository(ctx, Access::Repair)?;
    let progress = ctx.monitor(Job::Other("records"));
    let repaired = repair_log(&repo, &progress);
    drop(progress);
    let repaired = repaired?;
    if repaired.damage.is_empty() {
        return remark(&ctx.output, "the log is sound, nothing was repaired");
    }
    for damage in &repaired.damage {
        remark(&ctx.output, damage)?;
    }
    for id in &repaired.found {
        remark(
            &ctx.output,
            &format!("snapshot {id} is back: its manifest is there, and no readable record forgets it"),
        )?;
    }
    let text = "the log goes on after the damage; tags, pins and forgotten snapshots whose records were lost are as if \
                they had never been: look at `packmule snapshots`";
    remark(&ctx.output, text)
}

fn remark(output: &Output, message: &str) -> Result<()> {
    match output.json {
        true => output.message(&json::Remark::Notice { message }),
        false => output.remark(message),
    }
}

/// What is told to people.
struct Told<'a> {
    output: &'a Output,
    root: &'a Path,
    begun: bool,
    affected: Affected,
}

impl Told<'_> {
    /// Says what was found; a file that it affects once, or with `-v` for every snapshot.
    fn tell(&mut self, finding: &Finding<'_>) -> Result<()> {
        if let Finding::File { snapshot, path, error } = finding {
            let reason = brief(error, self.root);
            let new = self.affected.add(snapshot, path, &reason, || place(snapshot, None));
            if !new && self.output.verbose == 0 {
                return Ok(());
            }
        }
        self.line(text(finding, self.root))
    }

    /// Names the snapshots affected.
    fn tell_affected(&mut self) -> Result<()> {
        let lines: Vec<String> = self.affected.lines().collect();
        lines.into_iter().try_for_each(|line| self.line(line))
    }

    /// Says once where everything is, and of each finding only what is below.
    fn line(&mut self, text: String) -> Result<()> {
        if !std::mem::replace(&mut self.begun, true) {
            self.output.line(format!("in {}:", printable(self.root)))?;
        }
        self.output.line(text)
    }
}

/// A path below `root`, or `root` itself.
fn within<'a>(path: &'a Path, root: &Path) -> &'a Path {
    path.strip_prefix(root).ok().filter(|rest| !rest.as_os_str().is_empty()).unwrap_or(path)
}

/// An error with what it is about as a path below `root`.
fn below(error: &Error, root: &Path) -> String {
    error.with_path_as(&|path| printable(within(path, root)))
}

/// As [`below`], with a pack as its id alone: a line about the pack itself tells its path.
fn brief(error: &Error, root: &Path) -> String {
    error.with_path_as(&|path| {
        let below = within(path, root);
        let name = below.file_name().and_then(|name| name.to_str());
        let id = name.filter(|_| below.starts_with("packs")).and_then(|name| name.parse::<PackId>().ok());
        id.map_or_else(|| printable(below), |id| id.short())
    })
}

/// `host/source:time:path`, at a pool with the tenant first, as people write it, with the snapshot's short id.
fn place(about: &About<'_>, path: Option<&std::path::Path>) -> String {
    let time = json::Time::from_nanos(about.captured.0).map_or_else(String::new, |t| human::time(t.0));
    let path = path.map_or_else(String::new, |p| format!(" /{}", printable(p).trim_start_matches('/')));
    let tenant = about.tenant.map_or_else(String::new, |tenant| format!("{tenant}/"));
    format!("{} {tenant}{}/{} {time}{path}", about.id.short(), about.host, about.source)
}

fn text(finding: &Finding<'_>, root: &Path) -> String {
    match finding {
        Finding::Object(error) => format!("damaged: {}", below(error, root)),
        Finding::Pack { id, error } => format!("damaged pack {}: {}", id.short(), below(error, root)),
        Finding::Snapshot { snapshot, error } => {
            format!("lost snapshot: {}: {}", place(snapshot, None), below(error, root))
        }
        Finding::File { snapshot, path, error } => {
            format!("affected: {}: {}", place(snapshot, Some(path)), brief(error, root))
        }
        Finding::Whole(id) => format!("healed: pack {} is whole again", id.short()),
        Finding::Unneeded(id) => {
            let id = id.short();
            format!("healed: pack {id} is damaged, but no snapshot needs anything in it; prune removes it")
        }
        _ => "something else was found".to_owned(),
    }
}

fn line(finding: &Finding<'_>) -> Line {
    use std::os::unix::ffi::OsStrExt;
    let (kind, message, pack, about, path) = match finding {
        Finding::Object(e) => ("object", e.to_string(), None, None, None),
        Finding::Pack { id, error } => ("pack", error.to_string(), Some(*id), None, None),
        Finding::Snapshot { snapshot, error } => ("snapshot", error.to_string(), None, Some(snapshot), None),
        Finding::File { snapshot, path, error } => ("file", error.to_string(), None, Some(snapshot), Some(*path)),
        Finding::Whole(id) => ("whole", String::new(), Some(*id), None, None),
        Finding::Unneeded(id) => ("unneeded", String::new(), Some(*id), None, None),
        _ => ("other", String::new(), None, None, None),
    };
    Line {
        kind,
        message,
        pack: pack.map(|id| id.to_hex()),
        snapshot: about.map(|a| a.id.to_hex()),
        whose: json::Whose {
            tenant: about.and_then(|a| a.tenant).map(str::to_owned),
            original: about.and_then(|a| a.original).map(|id| id.to_hex()),
        },
        hostname: about.map(|a| a.host.to_owned()),
        source: about.map(|a| a.source.to_owned()),
        time: about.and_then(|a| json::Time::from_nanos(a.captured.0)),
        path: path.map(|p| json::PathField::new(p.as_os_str().as_bytes())),
    }
}

/// `copies`: at a pool, how many of sealed tenants there are.
fn summarise(output: &Output, found: &Found, read: ReadData, copies: Option<u64>) -> Result<()> {
    let Found { outcome: done, index, files } = found;
    let (index, files) = (*index, *files);
    if output.json {
        return output.message(&Summary {
            num_errors: done.problems,
            broken_packs: done.damaged_packs,
            suggest_repair_index: index,
            suggest_prune: done.healed > 0,
            files_affected: done.files,
            snapshots_checked: done.snapshots,
            packs: done.packs,
            packs_read: done.packs_read,
            bytes_read: done.bytes_read,
            healed: done.healed,
            recorded: done.recorded,
        });
    }
    let what = match read {
        ReadData::None => "their data was not read (--read-data does)".to_owned(),
        _ => format!("{} of {} read", human::count(done.packs_read, "pack"), human::size(done.bytes_read)),
    };
    let (snapshots, packs) = (human::count(done.snapshots, "snapshot"), human::count(done.packs, "pack"));
    let sealed = match copies {
        None | Some(0) => String::new(),
        Some(1) => ", also those of 1 sealed copy, whose snapshots are not readable here".to_owned(),
        Some(n) => format!(", also those of {n} sealed copies, whose snapshots are not readable here"),
    };
    output.remark(format!("checked {snapshots} and {packs}{sealed}; {what}"))?;
    if done.problems == 0 {
        return output.remark("no damage was found");
    }
    // A file counts once, whatever the snapshots that have it.
    let problems = human::count(done.problems.saturating_sub(done.files) + files, "problem");
    let (bad, files) = (human::count(done.damaged_packs, "damaged pack"), human::count(files, "file"));
    output.line(format!("{problems}: {bad}, {files} affected"))?;
    if done.damaged_packs > 0 && done.recorded {
        output.line(match copies {
            None => "the next backup of the same data stores what is damaged again; then run check once more",
            Some(_) => {
                "the next push of each tenant's site sends what it has lost here again; then run check once more"
            }
        })?;
    }
    Ok(())
}
