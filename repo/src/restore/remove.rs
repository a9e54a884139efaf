//! Deleting what the snapshot does not have: only what the patterns would restore, and never on another filesystem.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::capture::scan::{Names, stat_at};
use crate::error::{Error, Kind, Result, printable};
use crate::format::config::MAGIC;
use crate::format::tree::EntryType;
use crate::monitor::{Action, Event};
use crate::restore::at;
use crate::restore::choice::Verdict;
use crate::restore::context::Context;
use crate::restore::dir::Dir;

/// The names in an open directory.
///
/// # Errors
/// The system's, naming `path()`.
pub fn names(file: &File, path: &dyn Fn() -> std::path::PathBuf) -> Result<Names> {
    let io = |e| Error::io("list", path(), e);
    let own = file.as_fd().try_clone_to_owned().map_err(io)?;
    Names::read(&own).map_err(io)
}

/// Names of a repository's config, either of which marks one.
pub const CONFIGS: [&[u8]; 2] = [b"config", b"config.copy"];

/// Whether a directory holds a repository's config, or something that begins like one.
pub fn is_repository(dir: &File) -> bool {
    CONFIGS.into_iter().any(|name| {
        let mut head = [0; MAGIC.len()];
        // Neither opening nor reading may wait, should it be a pipe or a device.
        stat_at(dir.as_fd(), name).is_ok_and(|meta| meta.kind == EntryType::File)
            && at::open(dir, name, OFlag::O_RDONLY | OFlag::O_NONBLOCK, Mode::empty())
                .is_ok_and(|mut file| file.read_exact(&mut head).is_ok())
            && head == *MAGIC
    })
}

/// Whether what is extra in `dir` makes it a repository: then nothing in it is deleted, and that is said.
pub fn spares(dir: &Dir<'_>, extra: &[&[u8]]) -> bool {
    let config = CONFIGS.iter().any(|config| extra.contains(config));
    let spared = config && dir.file().is_ok_and(|dir| is_repository(&dir));
    if spared {
        say_spared(dir.ctx(), &dir.ctx().target_path(dir.place(), b""));
    }
    spared
}

fn say_spared(ctx: &Context<'_>, path: &std::path::Path) {
    let text = format!("a repository lies in the target and was not deleted: {}", printable(path));
    ctx.monitor.event(Event::Notice(&text));
}

/// Removes a directory in the way of something else, with all that is in it.
///
/// # Errors
/// The system's; `Refused` at a mount point.
pub fn all(dir: &Dir<'_>, name: &[u8]) -> Result<()> {
    if Sweep::new(dir, name, false).run(dir, name, Verdict::Take)? {
        return Ok(());
    }
    let what = "a directory in the way cannot be removed:";
    Err(Error::new(Kind::Refused, what).at(dir.ctx().target_path(dir.place(), name)))
}

/// Removes `name` from `dir`, whose verdict was `parent`, as far as the patterns let it. Failures are reported.
pub fn extra(dir: &Dir<'_>, name: &[u8], parent: Verdict) {
    let mut sweep = Sweep::new(dir, name, true);
    if let Err(e) = sweep.run(dir, name, parent) {
        sweep.ctx.failed_at(&sweep.ctx.captured_path(&sweep.path[1..]), "delete", e);
    }
}

/// Removes one name and what is below it, without recursion: others may have nested it as deep as they like.
struct Sweep<'c> {
    ctx: &'c Context<'c>,
    device: u64,
    patterns: bool,
    /// What is looked at, from `/`, the top of the target.
    path: Vec<u8>,
    levels: Vec<Level>,
}

/// A directory being emptied.
struct Level {
    dir: Arc<File>,
    names: Names,
    next: usize,
    /// Length of its path.
    path: usize,
    verdict: Verdict,
    /// Nothing in it stays, so far.
    empty: bool,
}

impl<'c> Sweep<'c> {
    fn new(dir: &Dir<'c>, name: &[u8], patterns: bool) -> Sweep<'c> {
        let mut path = b"/".to_vec();
        path.extend_from_slice(&dir.place().path(name));
        Sweep { ctx: dir.ctx(), device: dir.device(), patterns, path, levels: Vec::new() }
    }

    fn io(&self, doing: &str, e: impl Into<std::io::Error>) -> Error {
        Error::io(doing, self.ctx.target.join(at::os(&self.path[1..])), e.into())
    }

    /// False when something stays.
    fn run(&mut self, dir: &Dir<'_>, name: &[u8], parent: Verdict) -> Result<bool> {
        let top = dir.file()?;
        let mut gone = self.entry(&top, name, parent)?;
        while let Some(level) = self.levels.last_mut() {
            if level.next < level.names.len() {
                let i = level.next;
                level.next += 1;
                self.path.truncate(level.path);
                self.path.push(b'/');
                self.path.extend_from_slice(level.names.get(i));
                let (dir, verdict) = (Arc::clone(&level.dir), level.verdict);
                let name = self.path[level_name(&self.path)..].to_vec();
                let below = self.levels.len();
                let done = self.entry(&dir, &name, verdict)?;
                // A directory just entered settles when it is left.
                if self.levels.len() == below
                    && let Some(level) = self.levels.last_mut()
                {
                    level.empty &= done;
                }
                continue;
            }
            let Some(level) = self.levels.pop() else { break };
            self.path.truncate(level.path);
            let name = self.path[level_name(&self.path)..].to_vec();
            let done = level.empty && level.verdict == Verdict::Take;
            let parent = self.levels.last().map_or(&*top, |l| &*l.dir);
            if done {
                if !self.ctx.options.dry_run {
                    at::rmdir(parent, &name).map_err(|e| self.io("delete", e))?;
                }
                self.deleted(0);
            }
            match self.levels.last_mut() {
                Some(above) => above.empty &= done,
                None => gone = done,
            }
        }
        Ok(gone)
    }

    /// Removes what is no directory, and enters what is one. False when it stays, or was entered.
    fn entry(&mut self, dir: &File, name: &[u8], parent: Verdict) -> Result<bool> {
        let meta = match stat_at(dir.as_fd(), name) {
            Ok(meta) => meta,
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(true),
            Err(e) => return Err(self.io("look at", e)),
        };
        let is_dir = meta.kind == EntryType::Dir;
        let choice = &self.ctx.options.choice;
        let verdict = if self.patterns { choice.of(&self.path, is_dir, parent) } else { Verdict::Take };
        if verdict == Verdict::Skip || self.ctx.stopped() {
            return Ok(false);
        }
        if !is_dir {
            if !self.ctx.options.dry_run {
                at::unlink(dir, name).map_err(|e| self.io("delete", e))?;
            }
            self.deleted(meta.size);
            return Ok(true);
        }
        if self.ctx.spared == Some((meta.dev, meta.ino)) {
            self.ctx.monitor.event(Event::Notice("the repository itself lies in the target and was not deleted"));
            return Ok(false);
        }
        if meta.dev != self.device {
            self.ctx.monitor.event(Event::Notice("what is on other filesystems in the target was not deleted"));
            return Ok(false);
        }
        let child = at::open(dir, name, at::DIR, Mode::empty()).map_err(|e| self.io("open", e))?;
        if is_repository(&child) {
            say_spared(self.ctx, &self.ctx.target.join(at::os(&self.path[1..])));
            return Ok(false);
        }
        let names = names(&child, &|| self.ctx.target.join(at::os(&self.path[1..])))?;
        self.levels.push(Level { dir: Arc::new(child), names, next: 0, path: self.path.len(), verdict, empty: true });
        Ok(false)
    }

    fn deleted(&self, size: u64) {
        self.ctx.tally.deleted.fetch_add(1, Ordering::Relaxed);
        let path = self.ctx.captured_path(&self.path[1..]);
        self.ctx.monitor.event(Event::Item { path: &path, action: Action::Deleted, size });
    }
}

/// Where the last component begins.
fn level_name(path: &[u8]) -> usize {
    path.iter().rposition(|&b| b == b'/').map_or(0, |at| at + 1)
}
