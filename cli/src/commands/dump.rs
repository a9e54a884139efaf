//! `dump`.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::Path;

use repo::dump::{archive, file, to_file};
use repo::error::{Error, Kind, Result, printable};
use repo::format::tree::{Entry, EntryType};
use repo::id::SnapshotId;
use repo::monitor::Monitor;
use repo::open::Access;
use repo::pack::source::FrameSource;
use repo::path::SnapPath;
use repo::snapshots::manifest;
use repo::tree::dir::resolve;

use super::noted::Noted;
use super::open::open_repository;
use super::which;
use crate::args::DumpArgs;
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::Output;
use crate::progress::Job;

/// Runs `dump`.
pub fn run(ctx: &Context, args: DumpArgs) -> Result<ExitCode> {
    if args.target.is_none() {
        ctx.output.only_data();
    }
    let repo = open_repository(ctx, Access::Read)?;
    let id = which::resolve(&repo, &args.snapshot.snapshot, &which::filter(&repo, &args.filter)?)?;
    let root = manifest(&repo, &id)?.root;
    let store = repo.store();
    let inside = args
        .inside
        .as_deref()
        .map_or(Ok(SnapPath::root()), |p| SnapPath::new(std::os::unix::ffi::OsStrExt::as_bytes(p)))?;
    let shown = Path::new("/").join(args.snapshot.path.as_path()).join(inside.as_path());
    let named = |e| about(e, &shown, &id);
    // Names in an archive begin below SNAP:path.
    let base = resolve(store.as_ref(), &root, &args.snapshot.path).map_err(named)?;
    let found = resolve(store.as_ref(), &base, &inside).map_err(named)?;
    let archived = match found.kind {
        EntryType::File => false,
        EntryType::Dir => true,
        _ => {
            let message = "only files and directories can be dumped, not";
            return Err(Error::new(Kind::Usage, message).at(Path::new("/").join(inside.as_path())));
        }
    };
    if archived && args.target.is_none() && io::stdout().is_terminal() {
        return Err(Error::new(Kind::Usage, "an archive is nothing for a terminal")
            .remedy("redirect standard output, or name a file with --target"));
    }
    let noted = Noted::begin("dump");
    let monitor = ctx.monitor(Job::Look("files"));
    let what = What { source: store.as_ref(), at: &inside, found: &found, archived, monitor: &monitor };
    let failed = match &args.target {
        Some(target) => what.to_target(target),
        None => what.to_stream(&mut Stdout(&ctx.output)),
    };
    noted.end_of_snapshot(ctx, &repo, &id, &failed);
    let failed = failed.map_err(named)?;
    drop(monitor);
    ctx.output.flush()?;
    Ok(if failed > 0 { ExitCode::Failed } else { ExitCode::Ok })
}

/// Damage is told by what it means: which file of which snapshot, then which pack.
fn about(e: Error, path: &Path, snapshot: &SnapshotId) -> Error {
    match e.kind() {
        Kind::Damaged => e.context(format_args!("cannot read {} of snapshot {}", printable(path), snapshot.short())),
        _ => e,
    }
}

struct What<'a> {
    source: &'a dyn FrameSource,
    at: &'a SnapPath,
    found: &'a Entry,
    archived: bool,
    monitor: &'a dyn Monitor,
}

impl What<'_> {
    /// How much could not be archived.
    fn to_stream(&self, out: &mut dyn Write) -> Result<u64> {
        if self.archived {
            return archive(self.source, self.at, self.found, out, self.monitor).map(|done| done.failed);
        }
        file(self.source, self.found, out, self.monitor).map(|()| 0)
    }

    /// A file that is not complete does not stay.
    fn to_target(&self, target: &Path) -> Result<u64> {
        let mut out = OpenOptions::new().write(true).create_new(true).open(target).map_err(|e| {
            let e = Error::io("create", target, e);
            if e.kind() == Kind::Exists { e.remedy("name another file, or remove that one first") } else { e }
        })?;
        let written = self.write(&mut out).and_then(|failed| {
            out.sync_all().map_err(|e| Error::io("write to", target, e))?;
            Ok(failed)
        });
        if written.is_err() {
            let _ = std::fs::remove_file(target);
        }
        // Damage is in the repository, not in the target.
        written.map_err(|e| if e.kind() == Kind::Damaged { e } else { e.at(target) })
    }

    fn write(&self, out: &mut File) -> Result<u64> {
        if !self.archived {
            return to_file(self.source, self.found, out, self.monitor).map(|()| 0);
        }
        let mut out = BufWriter::with_capacity(256 * 1024, out);
        let failed = self.to_stream(&mut out)?;
        out.flush().map_err(|e| Error::io("write to", "the archive", e))?;
        Ok(failed)
    }
}

/// Standard output as everything else uses it.
struct Stdout<'a>(&'a Output);

impl Write for Stdout<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.raw(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(io::Error::other)
    }
}
