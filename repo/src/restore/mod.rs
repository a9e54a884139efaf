//! Restoring a snapshot, or part of one, into a directory.
//!
//! One thread walks the trees and makes directories; the others create, fill and complete files. Small files go to them
//! in batches sorted by pack and frame, large ones in parts, so that each frame is read and opened about once.
//!
//! **Nothing is written outside the target.** Everything goes through directory descriptors, name by name; no symbolic
//! link is followed, whoever made it and when. A file with further names (which may be anywhere) is never changed but
//! replaced.
//!
//! **Nothing that is incomplete looks complete.** A new file is written under its own name, with the mode `0o1600`
//! (`0o1600`) until owner, extended attributes, mode and time follow, in this order. A small file that replaces
//! another is made under a temporary name and renamed; a large one is patched in place, and bears the mark while it
//! is. So a second run continues an interrupted one under every overwrite mode: what bears the mark is finished,
//! whatever its size and time. A file whose chunks are damaged or missing is removed, or keeps the mark if it was patched.
//!
//! Files are not synchronised one by one; at the end one `syncfs` sees that all is on disk, and says if not. After a power
//! failure in the middle, a second run with the default overwrite mode compares contents, and so finds what was lost.
//!
//! **What cannot be set** (owners and devices by an ordinary user, attributes the filesystem lacks) is said once a kind and
//! is no failure: the command still ends with exit code 0. A file that could not be written is counted and gives 1.
//!
//! The target's own attributes are set only if the restore made the directory.

mod at;
mod attrs;
mod choice;
mod content;
mod context;
mod dir;
mod file;
mod large;
mod links;
mod node;
mod owners;
mod remove;
mod spot;
mod unable;
mod verify;
mod walk;
mod work;

#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use crossbeam_channel::bounded;
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::syncfs;

use crate::error::{Error, Kind, Result, printable};
use crate::format::config::MAGIC;
use crate::format::manifest::Manifest;
use crate::format::tree::{Entry, EntryType};
use crate::monitor::{Counters, Event, Monitor};
use crate::open::Repository;
use crate::pack::source::FrameSource;
use crate::path::SnapPath;
use crate::tree::dir::resolve;

pub use choice::Choice;
pub use context::Locate;
pub use unable::Unable;

use choice::{Step, Steps, Verdict};
use context::Context;
use dir::Dir;
use remove::CONFIGS;
use walk::Walk;

/// Where the target is marked while a restore that made it is under way, so that the next run completes its attributes.
const UNFINISHED: &str = "user.packmule.unfinished";

/// What happens to a file that is there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overwrite {
    /// It gets the snapshot's content wherever it differs; what is right is not written again.
    #[default]
    Always,
    /// As `Always`, but equal size and modification time count as equal content.
    IfChanged,
    /// As `Always` if the snapshot's modification time is newer, otherwise it stays as it is.
    IfNewer,
    /// It stays as it is.
    Never,
}

/// How to restore.
#[derive(Default)]
pub struct Options {
    /// What of it.
    pub choice: Choice,
    /// Remove from the target what the snapshot does not have, as far as `choice` would restore it.
    pub delete: bool,
    /// What happens to files that are there.
    pub overwrite: Overwrite,
    /// Write runs of zeros as holes. Captured holes always become holes.
    pub sparse: bool,
    /// Read everything back at the end.
    pub verify: bool,
    /// Users and groups by name where this machine knows it.
    pub owner_by_name: bool,
    /// Numeric users given to others: (captured, restored).
    pub map_uid: Vec<(u32, u32)>,
    /// Change nothing.
    pub dry_run: bool,
    /// Threads that write; 0: as fits the machine.
    pub threads: usize,
}

/// What a restore did. Items are everything but directories.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Items in scope.
    pub items: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Items written.
    pub restored: u64,
    /// Their bytes.
    pub restored_bytes: u64,
    /// Items that were right, or stay as they were.
    pub kept: u64,
    /// Their bytes.
    pub kept_bytes: u64,
    /// What was deleted, directories too.
    pub deleted: u64,
    /// What failed, directories too; each was reported.
    pub errors: u64,
    /// Files and links read back and found right.
    pub verified: u64,
    /// What could not be set, and how often.
    pub unable: Vec<(Unable, u64)>,
    /// The patterns to include match nothing, so that nothing was done and no target made.
    pub nothing: bool,
}

/// Restores what is at `path` in a snapshot to `target`: what is in it if it is a directory, otherwise the item itself.
///
/// # Errors
/// `NotFound` when there is nothing at `path`; `Interrupted`, `NoSpace`, `ReadOnly`, which end a restore early. What fails
/// for one item is reported and counted in the outcome.
pub fn restore(
    repo: &Repository,
    manifest: &Manifest,
    path: &SnapPath,
    target: &Path,
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<Outcome> {
    if path.is_root() && options.choice.is_all() {
        let counters = monitor.counters();
        Counters::add(&counters.total_files, manifest.stats.files + manifest.stats.others);
        Counters::add(&counters.total_bytes, manifest.stats.bytes);
    }
    let packs = repo.packs();
    let locate = |h: &_| packs.locate(h).ok().flatten().map(|(at, _)| (at.pack.0, at.frame));
    let source = repo.store();
    let spared = spared(repo, target)?;
    restore_sparing(spared, &source, &locate, &manifest.root, path, target, options, monitor)
}

/// The repository's own directory, which no restore writes or deletes in; it may well lie below the target. A target in it,
/// or in another repository, is refused.
fn spared(repo: &Repository, target: &Path) -> Result<Option<(u64, u64)>> {
    let there =
        target.ancestors().find_map(|p| if p.as_os_str().is_empty() { Path::new(".") } else { p }.canonicalize().ok());
    if let Some(other) = there.as_deref().and_then(|there| there.ancestors().find(|dir| is_repository(dir))) {
        let text = format!("the target lies inside the repository {}:", printable(other));
        return Err(Error::new(Kind::Refused, text).at(target).remedy("restore to another directory"));
    }
    let Some(root) = repo.root.as_deref().and_then(|r| r.canonicalize().ok()) else { return Ok(None) };
    if there.is_some_and(|there| there.starts_with(&root)) {
        return Err(Error::new(Kind::Refused, "the target lies inside the repository:")
            .at(target)
            .remedy("restore to another directory"));
    }
    let meta = root.metadata().map_err(|e| Error::io("look at", &root, e))?;
    Ok(Some((meta.dev(), meta.ino())))
}

/// Whether a directory holds a repository's config, or something that begins like one.
fn is_repository(dir: &Path) -> bool {
    CONFIGS.iter().any(|name| {
        let mut head = [0; MAGIC.len()];
        let config = dir.join(OsStr::from_bytes(name));
        // Not what might wait for ever, such as a pipe.
        config.metadata().is_ok_and(|meta| meta.is_file())
            && File::open(config).and_then(|mut file| file.read_exact(&mut head)).is_ok()
            && head == *MAGIC
    })
}

/// As [`restore`], from any source of chunks and any root directory.
///
/// # Errors
/// As [`restore`].
pub fn restore_from(
    source: &Arc<dyn FrameSource>,
    locate: Locate<'_>,
    root: &Entry,
    path: &SnapPath,
    target: &Path,
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<Outcome> {
    restore_sparing(None, source, locate, root, path, target, options, monitor)
}

#[allow(clippy::too_many_arguments)]
fn restore_sparing(
    spared: Option<(u64, u64)>,
    source: &Arc<dyn FrameSource>,
    locate: Locate<'_>,
    root: &Entry,
    path: &SnapPath,
    target: &Path,
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<Outcome> {
    let source = source.as_ref();
    let top = resolve(source, root, path)?;
    let is_dir = top.kind == EntryType::Dir;
    let base = if is_dir { path.clone() } else { path.parent().unwrap_or_default() };
    let mut ctx = Context::new(source, locate, options, monitor, target, base);
    ctx.spared = spared;
    let nothing = is_dir && options.choice.include.is_some() && !takes_any(&ctx, &top)?;
    // What the snapshot does not have may be there to be deleted.
    if nothing && !(options.delete && target.exists()) {
        return Ok(Outcome { nothing, ..Outcome::default() });
    }
    let opened = open_target(target, options.dry_run)?;
    let attrs = opened.as_ref().is_some_and(|(_, ours)| *ours && is_dir).then(|| top.clone());
    let made = attrs.is_some();
    let file = opened.map(|(file, _)| Arc::new(file));
    if let Some(file) = &file {
        ctx.set_root(Arc::clone(file));
    }
    run(&ctx, file.clone(), attrs, &top)?;
    if let Some(file) = file.filter(|_| !options.dry_run && !ctx.stopped()) {
        if made {
            let _ = xattr::FileExt::remove_xattr(&*file, UNFINISHED);
        }
        monitor.event(Event::Phase("sync"));
        syncfs(&*file).map_err(|e| Error::io("bring to disk what was restored in", target, e.into()))?;
        if options.verify {
            verify::verify(&ctx, file, Steps::new(source, &options.choice, &top), threads(options));
        }
    }
    ctx.unable.tell(monitor);
    let done = ctx.outcome()?;
    Ok(Outcome { nothing: nothing && done.deleted == 0 && done.errors == 0, ..done })
}

/// Whether the patterns take anything that can be seen; what cannot be listed is told of by the restore itself.
fn takes_any(ctx: &Context<'_>, top: &Entry) -> Result<bool> {
    let mut steps = Steps::new(ctx.source, &ctx.options.choice, top);
    while !ctx.stopped() {
        match steps.next() {
            Ok(None) => return Ok(false),
            Ok(Some(Step::Enter(_, Verdict::Enter) | Step::Leave(..))) => {}
            _ => return Ok(true),
        }
    }
    ctx.outcome().map(|_| true)
}

fn threads(options: &Options) -> usize {
    match options.threads {
        // A few more than processors: some wait for the disk.
        0 => std::thread::available_parallelism().map_or(4, |n| n.get() * 2).clamp(4, 8),
        n => n,
    }
}

fn run(ctx: &Context<'_>, file: Option<Arc<File>>, attrs: Option<Entry>, top: &Entry) -> Result<()> {
    let root = Dir::root(ctx, file, attrs).map_err(|e| Error::io("look at", ctx.target, e.into()))?;
    let steps = Steps::new(ctx.source, &ctx.options.choice, top);
    let threads = threads(ctx.options);
    ctx.monitor.event(Event::Phase("restore"));
    std::thread::scope(|s| {
        let (out, work) = bounded(threads * 2);
        for _ in 0..threads {
            let work = work.clone();
            s.spawn(move || work::run(&work));
        }
        drop(work);
        Walk::new(ctx, root, out).run(steps);
    });
    Ok(())
}

/// Opens the target, making it and what leads to it unless this is a dry run. True if it is this restore's own, or that of
/// an interrupted one.
fn open_target(target: &Path, dry_run: bool) -> Result<Option<(File, bool)>> {
    let open = || File::open(target).map_err(|e| Error::io("open", target, e));
    match std::fs::metadata(target) {
        Ok(meta) if !meta.is_dir() => {
            return Err(Error::new(Kind::Exists, "the target is no directory:").at(target));
        }
        Ok(_) => {
            let file = open()?;
            let ours = xattr::FileExt::get_xattr(&file, UNFINISHED).is_ok_and(|v| v.is_some());
            return Ok(Some((file, ours)));
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(Error::io("look at", target, e)),
    }
    if dry_run {
        return Ok(None);
    }
    if let Some(parent) = target.parent().filter(|p| p.as_os_str() != OsStr::from_bytes(b"")) {
        std::fs::create_dir_all(parent).map_err(|e| Error::io("make", parent, e))?;
    }
    let made = std::fs::DirBuilder::new().mode(0o700).create(target);
    made.map_err(|e| Error::io("make the target", target, e))?;
    let file = open()?;
    // Whatever umask says: this user must be able to write here. Without the mark only an interrupted run's target keeps
    // its first permissions.
    let _ = fchmod(&file, Mode::S_IRWXU);
    let _ = xattr::FileExt::set_xattr(&file, UNFINISHED, b"1");
    Ok(Some((file, true)))
}
