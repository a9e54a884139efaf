//! `mount`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use fs::ops::Presentation;
use fs::session::{Options, Unmounter, mount};
use fs::view::View;
use parking_lot::Mutex;
use repo::backend::local::Local;
use repo::error::{Error, Kind, Result, printable};
use repo::open::{Access, Repository};
use repo::select::Filter;

use super::noted::{Noted, only};
use super::open::{open_copy, open_each, open_repository, place};
use crate::args::MountArgs;
use crate::context::Context;
use crate::drives_view::DrivesView;
use crate::exit::ExitCode;
use crate::output::{Output, json};
use crate::remote_view::RemoteView;
use crate::service;
use crate::view::RepositoryView;

/// Set for the process that serves a mount in the background: it says on its standard output when it is ready.
const SERVING: &str = "PACKMULE_MOUNT_SERVING";

/// Runs `mount`.
pub fn run(ctx: &Context, args: MountArgs) -> Result<ExitCode> {
    let serving = std::env::var_os(SERVING).is_some();
    let root = match ctx.site()? {
        Some(site) => PathBuf::from(site.to_string()),
        None => place(ctx)?.root,
    };
    let log = args.log.as_deref().map(open_log).transpose()?;
    check_mount_point(&root, &args.dir)?;
    if args.background && !serving {
        return start_in_background(ctx, &args);
    }
    if serving {
        ctx.output.only_data();
    }
    args.rates.apply()?;
    let options = options(&root, &args);
    let repo = open_repository(ctx, Access::Read)?;
    if args.remote.is_none() {
        let tenant = only(&args.filter.rest.tenant);
        let may = super::which::filter(&repo, &args.filter).map(drop);
        Noted::begin("mount").end(ctx, &repo, tenant, 0, &may);
        may?;
    }
    let view = view(ctx, repo, &args)?;
    let ending = Arc::new(Ending { output: Arc::clone(&ctx.output), state: Mutex::default() });
    let asked = Arc::clone(&ending);
    fs::signal::on_stop(move || asked.ask())?;
    if ctx.stopped() {
        return Err(Error::new(Kind::Interrupted, "stopped on request"));
    }
    let mounted = mount(view, &args.dir, &options)?;
    ending.mounted(mounted.unmounter());
    if serving {
        detach(&ctx.output, log)?;
    } else {
        service::ready()?;
        let dir = printable(mounted.path());
        say(ctx, mounted.path(), &format!("mounted on {dir}; Ctrl-C or `packmule umount {dir}` ends it"))?;
    }
    mounted.wait()?;
    Ok(ExitCode::Ok)
}

fn view(ctx: &Context, repo: Repository, args: &MountArgs) -> Result<Arc<dyn View>> {
    let output = Arc::clone(&ctx.output);
    let known = args.remote.as_ref().map(|name| sync::remote::find(&repo, name)).transpose()?;
    if let Some(copy) = known.as_ref().map(sync::directory::of).transpose()?.flatten() {
        check_mount_point(&copy, &args.dir)?;
    }
    let (repo, known) = match known {
        // A copy is read as the repository itself is.
        Some(known) if known.sealed => (open_copy(ctx, &repo, &known)?, None),
        known => (repo, known),
    };
    let filter = super::which::filter(&repo, &args.filter)?;
    let Some(known) = known else { return drives(ctx, repo, &filter, args) };
    if filter != Filter::default() {
        return Err(Error::new(Kind::Unsupported, "a remote is mounted as a whole: filters do not apply")
            .remedy("leave them out"));
    }
    Ok(Arc::new(RemoteView::new(known, repo.config.repo_id, Arc::clone(&repo.keys), output)))
}

/// The repository alone; or, of a drive, all that are named, and word of those that are not here.
fn drives(ctx: &Context, repo: Repository, filter: &Filter, args: &MountArgs) -> Result<Arc<dyn View>> {
    let place = if ctx.site()?.is_none() { Some(place(ctx)?) } else { None };
    let mark = place.as_ref().map(|place| Local::drive_mark(&place.root)).transpose()?.flatten();
    let Some(place) = place.filter(|_| mark.is_some() || !ctx.further().is_empty()) else {
        return Ok(Arc::new(RepositoryView::new(repo, filter.clone(), Arc::clone(&ctx.output))));
    };
    let mut all = Vec::new();
    for one in open_each(ctx, &repo.unlocked.keyring)? {
        let root = one.root.as_deref().unwrap_or(&place.root);
        check_mount_point(root, &args.dir)?;
        all.push((Local::drive_mark(root)?, one));
    }
    let here: Vec<_> = all.iter().filter_map(|(mark, _)| *mark).collect();
    let mut absent = BTreeMap::new();
    for (mark, repo) in &all {
        absent.extend(mark.iter().flat_map(|id| sync::drive::absent(*id, repo, &here)));
    }
    for (id, state) in &absent {
        ctx.output.complain(format!(
            "packmule: drive {} ({}) is not here: what lies on it alone cannot be read",
            state.label.escape_debug(),
            id.short()
        ));
    }
    let view = |(_, repo)| RepositoryView::new(repo, filter.clone(), Arc::clone(&ctx.output));
    Ok(Arc::new(DrivesView::new(all.into_iter().map(view).collect())))
}

/// Ends the mount when a signal asks for it. Signals are handled from before the mount is there, so that none falls into
/// the gap: it would kill the process and leave a dead mount, or be lost.
struct Ending {
    output: Arc<Output>,
    state: Mutex<(bool, Option<Unmounter>)>,
}

impl Ending {
    fn ask(&self) {
        let mut state = self.state.lock();
        state.0 = true;
        self.end(state.1.clone());
    }

    fn mounted(&self, unmounter: Unmounter) {
        let mut state = self.state.lock();
        state.1 = Some(unmounter);
        if state.0 {
            self.end(state.1.clone());
        }
    }

    fn end(&self, unmounter: Option<Unmounter>) {
        if let Some(Err(e)) = unmounter.map(|unmounter| unmounter.unmount()) {
            self.output.complain(format!("packmule: error: {e}"));
        }
    }
}

fn options(root: &Path, args: &MountArgs) -> Options {
    let presented = args.uid.is_some() || args.gid.is_some() || args.umask.is_some();
    let presentation = presented.then(|| Presentation {
        uid: args.uid.map_or_else(|| nix::unistd::getuid().as_raw(), |user| user.0),
        gid: args.gid.map_or_else(|| nix::unistd::getgid().as_raw(), |group| group.0),
        umask: args.umask.map_or(0o022, |mask| mask.0),
    });
    let name = format!("packmule:{}", root.display());
    Options { name, allow_other: args.allow_other, presentation, ..Options::default() }
}

/// A mount over the repository, or inside it, would make it wait for itself.
fn check_mount_point(root: &Path, dir: &Path) -> Result<()> {
    let failed = |doing, e: std::io::Error| {
        let number = e.raw_os_error();
        let error = Error::io(doing, dir, e);
        match number {
            Some(libc::ENOTCONN) => error
                .remedy(format!("what served a mount there has died; `packmule umount {}` removes it", printable(dir))),
            Some(libc::ENOENT | libc::ENOTDIR) => error.remedy("make an empty directory there, or name another"),
            _ => error,
        }
    };
    let at = dir.canonicalize().map_err(|e| failed("open the mount point", e))?;
    if let Ok(root) = root.canonicalize()
        && (at.starts_with(&root) || root.starts_with(&at))
    {
        return Err(Error::new(Kind::Refused, "the mount point and the repository overlap:")
            .at(dir)
            .remedy("mount on an empty directory elsewhere"));
    }
    // Of a mount whose server has died the kernel may go on listing what it remembers; this it has to ask.
    nix::sys::statfs::statfs(&at).map_err(|e| failed("look at the mount point", e.into()))?;
    let mut entries = std::fs::read_dir(&at).map_err(|e| failed("list the mount point", e))?;
    let first = entries.next().transpose().map_err(|e| failed("list the mount point", e))?;
    if first.is_some() {
        return Err(Error::new(Kind::Refused, "the mount point is not empty:")
            .at(dir)
            .remedy("mount on an empty directory"));
    }
    Ok(())
}

/// Runs this same command line in a child that keeps serving, and returns once it says that the mount is ready. A
/// fork would not do: threads and the index's mapping do not survive it.
fn start_in_background(ctx: &Context, args: &MountArgs) -> Result<ExitCode> {
    let program = std::env::current_exe().map_err(|e| Error::io("find", "this program", e))?;
    let mut child = Command::new(&program)
        .args(std::env::args_os().skip(1))
        .env(SERVING, "1")
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| Error::io("start", &program, e))?;
    let mut said = Vec::new();
    if let Some(out) = child.stdout.take() {
        // Ends when the child is ready or gone.
        out.take(64).read_to_end(&mut said).map_err(|e| Error::io("hear from", &program, e))?;
    }
    if said == b"ready" {
        say(ctx, &args.dir, &format!("mounted on {}", printable(&args.dir)))?;
        return Ok(ExitCode::Ok);
    }
    let status = child.wait().map_err(|e| Error::io("wait for", &program, e))?;
    // The child has said why.
    Ok(status.code().and_then(|code| ExitCode::from_code(code as u8)).unwrap_or(ExitCode::Failed))
}

/// Says at once that the mount can be used.
fn say(ctx: &Context, at: &Path, text: &str) -> Result<()> {
    match ctx.output.json {
        true => ctx.output.message(&json::Mounted { at: json::PathField::new(at.as_os_str().as_bytes()) })?,
        false => ctx.output.remark(text)?,
    }
    ctx.output.flush()
}

/// The file for messages of a mount in the background: it may name files of the backup.
fn open_log(path: &Path) -> Result<File> {
    let opened = File::options().append(true).create(true).mode(0o600).open(path);
    opened.map_err(|e| Error::io("open the log", path, e))
}

/// Leaves the terminal and tells the parent that the mount is ready. Messages go on to the log, or to the system's.
fn detach(output: &Output, log: Option<File>) -> Result<()> {
    let failed = |e: nix::errno::Errno| Error::io("leave", "the terminal", e.into());
    let mut stdout = std::io::stdout();
    nix::unistd::setsid().map_err(failed)?;
    std::env::set_current_dir("/").map_err(|e| Error::io("change to", "/", e))?;
    stdout.write_all(b"ready").and_then(|()| stdout.flush()).map_err(|e| Error::io("tell", "the starter", e))?;
    let null = std::fs::File::options().read(true).write(true).open("/dev/null");
    let null = null.map_err(|e| Error::io("open", "/dev/null", e))?;
    nix::unistd::dup2_stdin(&null).map_err(failed)?;
    nix::unistd::dup2_stdout(&null).map_err(failed)?;
    match log {
        Some(file) => output.complain_to(Box::new(file)),
        None => output.complain_to(Box::new(service::SystemLog::default())),
    }
    nix::unistd::dup2_stderr(&null).map_err(failed)
}
