//! The one thread that goes through the tree: it makes directories and hands everything else to the workers.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::Sender;
use nix::errno::Errno;
use nix::sys::stat::{Mode, fchmod, mkdirat};

use crate::capture::scan::{Names, stat};
use crate::error::{Error, Result};
use crate::format::tree::{Content, Entry, EntryType, Extent};
use crate::limits::MIB;
use crate::monitor::{Action, Counters};
use crate::restore::at::{self, os};
use crate::restore::attrs;
use crate::restore::choice::{Step, Steps, Verdict};
use crate::restore::context::Context;
use crate::restore::dir::Dir;
use crate::restore::large::{self, is_large};
use crate::restore::links::Role;
use crate::restore::spot::{Decision, decide, is_temp_name};
use crate::restore::work::{Job, Work, bytes_of};
use crate::restore::{Overwrite, remove};

/// Items gathered before they are sorted by where their content lies and handed out.
const WINDOW: usize = 1024;
/// Bytes gathered at most.
const WINDOW_BYTES: u64 = 16 * MIB as u64;
/// Items in one batch …
const BATCH: usize = 128;
/// … and bytes, about one frame.
const BATCH_BYTES: u64 = MIB as u64;

/// The walk's state.
pub struct Walk<'c> {
    ctx: &'c Context<'c>,
    out: Sender<Work<'c>>,
    frames: Vec<Frame<'c>>,
    window: Vec<Job<'c>>,
    window_bytes: u64,
    /// Directories open at the same time, about; half of them on the way from the top to here.
    budget: usize,
}

/// One directory on the way from the top to here.
struct Frame<'c> {
    /// None until something in it is wanted.
    dir: Option<Dir<'c>>,
    entry: Option<Entry>,
    extras: Option<Extras>,
}

/// What was in a directory before, for `--delete`.
struct Extras {
    names: Names,
    /// Both lists are sorted: names before this one are settled.
    at: usize,
    captured: Vec<bool>,
}

impl Extras {
    fn captured(&mut self, name: &[u8]) {
        while self.at < self.names.len() && self.names.get(self.at) < name {
            self.at += 1;
        }
        if self.at < self.names.len() && self.names.get(self.at) == name {
            self.captured[self.at] = true;
        }
    }
}

impl<'c> Walk<'c> {
    /// A walk that begins in `root`, the target.
    pub fn new(ctx: &'c Context<'c>, root: Dir<'c>, out: Sender<Work<'c>>) -> Walk<'c> {
        use nix::sys::resource::{Resource, getrlimit};
        let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        let budget = (files / 4).clamp(64, 8192) as usize;
        let mut walk = Walk { ctx, out, frames: Vec::new(), window: Vec::new(), window_bytes: 0, budget };
        walk.push(Some(root), None, false);
        walk
    }

    /// Walks to the end, or until the restore is stopped.
    pub fn run(mut self, mut steps: Steps<'_>) {
        while !self.ctx.stopped() {
            let step = match steps.next() {
                Ok(Some(step)) => step,
                Ok(None) => break,
                Err(e) => {
                    self.failed(steps.path(), e);
                    continue;
                }
            };
            match step {
                Step::Enter(entry, verdict) => match self.enter(entry, verdict) {
                    Ok(true) => {}
                    Ok(false) => steps.pass(),
                    Err(e) => {
                        steps.pass();
                        self.failed(steps.path(), e);
                    }
                },
                Step::Item(entry) => {
                    if let Err(e) = self.item(entry) {
                        self.failed(steps.path(), e);
                    }
                }
                Step::Broken(e) => self.failed(steps.path(), e),
                Step::Leave(verdict, whole) => self.leave(verdict, whole),
            }
        }
        self.flush();
    }

    fn failed(&self, path: &[u8], e: Error) {
        self.ctx.failed_at(&self.ctx.captured_path(path.strip_prefix(b"/").unwrap_or(path)), "restore", e);
    }

    fn push(&mut self, dir: Option<Dir<'c>>, entry: Option<Entry>, fresh: bool) {
        let mut extras = None;
        if let (Some(dir), true) = (&dir, self.ctx.options.delete && !fresh) {
            match self.list(dir) {
                Ok(list) => extras = list,
                Err(e) => self.ctx.failed(dir.place(), b"", e),
            }
        }
        self.frames.push(Frame { dir, entry, extras });
        // The way down may be longer than the descriptors a process can have.
        if let Some(far) = self.frames.len().checked_sub(self.budget / 2)
            && let Some(dir) = &self.frames[far].dir
        {
            dir.close();
        }
        while self.ctx.open_dirs.load(Ordering::Relaxed) > self.budget && !self.ctx.stopped() {
            self.flush();
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// What is in a directory of the target. Leftovers of an interrupted run are removed on the way.
    fn list(&self, dir: &Dir<'c>) -> Result<Option<Extras>> {
        if dir.absent() {
            return Ok(None);
        }
        let file = dir.file()?;
        let names = remove::names(&file, &|| self.ctx.target_path(dir.place(), b""))?;
        let mut captured = vec![false; names.len()];
        for (i, done) in captured.iter_mut().enumerate() {
            if is_temp_name(names.get(i)) {
                *done = true;
                if !self.ctx.options.dry_run {
                    // One that stays is found by the next run.
                    let _ = at::unlink(&file, names.get(i));
                }
            }
        }
        Ok(Some(Extras { names, at: 0, captured }))
    }

    fn captured(&mut self, name: &[u8]) {
        if let Some(extras) = self.frames.last_mut().and_then(|f| f.extras.as_mut()) {
            extras.captured(name);
        }
    }

    /// False when the directory is passed over because something else stays in its place.
    fn enter(&mut self, entry: Entry, verdict: Verdict) -> Result<bool> {
        self.captured(&entry.name);
        if verdict == Verdict::Take {
            let Some(parent) = self.here()? else { return Ok(false) };
            let Some((dir, fresh)) = make(&parent, &entry, true)? else { return Ok(false) };
            self.push(Some(dir), None, fresh);
            return Ok(true);
        }
        let mut dir = None;
        if self.ctx.options.delete
            && let Some(parent) = self.frames.last().and_then(|f| f.dir.as_ref())
            && let Some(old) = parent.look(&entry.name)?
            && old.kind == EntryType::Dir
        {
            dir = make(parent, &entry, false)?.map(|(dir, _)| dir);
        }
        self.push(dir, Some(entry), false);
        Ok(true)
    }

    /// The directory at hand, made now if nothing in it was wanted before. None when something else stays in its place.
    fn here(&mut self) -> Result<Option<Dir<'c>>> {
        let made = self.frames.iter().rposition(|f| f.dir.is_some()).unwrap_or(0);
        for i in made + 1..self.frames.len() {
            let (Some(parent), Some(entry)) = (&self.frames[i - 1].dir, &self.frames[i].entry) else {
                return Err(Error::bug("a directory to be made has no parent"));
            };
            match make(parent, entry, false)? {
                Some((dir, _)) => self.frames[i].dir = Some(dir),
                None => return Ok(None),
            }
        }
        Ok(self.frames.last().and_then(|f| f.dir.clone()))
    }

    fn item(&mut self, entry: Entry) -> Result<()> {
        let ctx = self.ctx;
        self.captured(&entry.name);
        ctx.tally.items.fetch_add(1, Ordering::Relaxed);
        ctx.tally.bytes.fetch_add(bytes_of(&entry), Ordering::Relaxed);
        let Some(dir) = self.here()? else { return Ok(()) };
        let role = ctx.links.role(entry.link_group.as_ref());
        let role = match role {
            Role::First(claim) if is_large(&entry) && !ctx.options.dry_run => {
                let out = &self.out;
                return large::restore(dir, entry, claim, &mut |part| out.send(Work::Part(part)).is_ok());
            }
            role => role,
        };
        self.window_bytes += if matches!(role, Role::First(_)) { entry.size } else { 0 };
        self.window.push(Job { dir, entry, role });
        if self.window.len() == WINDOW || self.window_bytes >= WINDOW_BYTES {
            self.flush();
        }
        Ok(())
    }

    fn leave(&mut self, verdict: Verdict, whole: bool) {
        let Some(frame) = self.frames.pop() else { return };
        let (Some(dir), Some(extras)) = (frame.dir, frame.extras) else { return };
        // A listing that broke off does not say what is not captured.
        if !whole {
            return;
        }
        let extra = (0..extras.names.len()).filter(|&i| !extras.captured[i]).map(|i| extras.names.get(i));
        let extra: Vec<&[u8]> = extra.collect();
        if !remove::spares(&dir, &extra) {
            extra.into_iter().for_each(|name| remove::extra(&dir, name, verdict));
        }
    }

    /// Hands out what was gathered, sorted by pack and frame, so that each frame is opened once.
    fn flush(&mut self) {
        let key = |job: &Job<'_>| match &job.role {
            // What it is linked to comes before it.
            Role::Other(_) => (u32::MAX, u32::MAX),
            Role::First(_) => first_chunk(&job.entry).and_then(|h| (self.ctx.locate)(h)).unwrap_or((0, 0)),
        };
        let mut jobs: Vec<_> = self.window.drain(..).map(|job| (key(&job), job)).collect();
        self.window_bytes = 0;
        jobs.sort_by_key(|(key, _)| *key);
        let (mut batch, mut bytes, mut last) = (Vec::new(), 0, (0, 0));
        for (key, job) in jobs {
            let full = batch.len() >= BATCH || bytes >= BATCH_BYTES || (key != last && bytes >= BATCH_BYTES / 4);
            if full {
                bytes = 0;
                // Nobody takes it after a panic, which shows when the threads are joined.
                let _ = self.out.send(Work::Batch(std::mem::take(&mut batch)));
            }
            last = key;
            bytes += job.entry.size;
            batch.push(job);
        }
        if !batch.is_empty() {
            let _ = self.out.send(Work::Batch(batch));
        }
    }
}

fn first_chunk(entry: &Entry) -> Option<&crate::id::ContentHash> {
    match &entry.content {
        Content::Extents(list) => list.iter().find_map(|e| match e {
            Extent::Data { h, .. } => Some(h),
            Extent::Hole { .. } => None,
        }),
        _ => None,
    }
}

/// Makes or opens a directory; true if it is new. None when something else stays in its place. One that is there gets
/// its attributes only if it was `asked` for, not merely on the way.
fn make<'c>(parent: &Dir<'c>, entry: &Entry, asked: bool) -> Result<Option<(Dir<'c>, bool)>> {
    let ctx = parent.ctx();
    let name = entry.name.as_slice();
    let io = |doing: &str, e: Errno| Error::io(doing, ctx.target_path(parent.place(), name), e.into());
    if ctx.options.dry_run {
        return preview(parent, entry);
    }
    let file = parent.file()?;
    let mut made = mkdirat(&*file, os(name), Mode::S_IRWXU);
    if made == Err(Errno::EEXIST) {
        let Some(old) = parent.look(name)? else { return Err(io("make", Errno::ENOENT)) };
        if old.kind == EntryType::Dir {
            let wanted = (asked && ctx.options.overwrite != Overwrite::Never).then(|| entry.clone());
            let dir = open_existing(&file, name, wanted.is_some()).map_err(|e| io("open", e))?;
            return Ok(Some((parent.below(name, Some(dir), wanted, false).map_err(|e| io("look at", e))?, false)));
        }
        if decide(ctx, entry, &old) == Decision::Keep {
            ctx.tally.kept.fetch_add(1, Ordering::Relaxed);
            Counters::add(&ctx.monitor.counters().files, 1);
            ctx.item(parent.place(), name, Action::Kept, 0);
            return Ok(None);
        }
        at::unlink(&file, name).map_err(|e| io("replace", e))?;
        made = mkdirat(&*file, os(name), Mode::S_IRWXU);
    }
    made.map_err(|e| io("make", e))?;
    let dir = at::open(&file, name, at::DIR, Mode::empty()).map_err(|e| io("open", e))?;
    if parent.bequeaths() {
        attrs::disinherit(&dir);
    }
    let dir = parent.below(name, Some(dir), Some(entry.clone()), true).map_err(|e| io("look at", e))?;
    Ok(Some((dir, true)))
}

/// Opens a directory that was there. If its attributes will be set at the end anyway, it is made accessible meanwhile: a
/// former run may have left it closed to its owner.
fn open_existing(parent: &std::fs::File, name: &[u8], may_change: bool) -> nix::Result<std::fs::File> {
    use crate::restore::attrs::Node;
    let opened = at::open(parent, name, at::DIR, Mode::empty());
    if !may_change || nix::unistd::geteuid().is_root() {
        return opened;
    }
    match opened {
        Ok(dir) => {
            if let Ok(now) = stat(&dir)
                && now.mode & 0o700 != 0o700
            {
                // What then cannot be written says so.
                let _ = fchmod(&dir, Mode::from_bits_truncate(now.mode | 0o700));
            }
            Ok(dir)
        }
        Err(Errno::EACCES) => {
            let handle = at::open(parent, name, nix::fcntl::OFlag::O_PATH, Mode::empty())?;
            Node::handle(&handle, parent, name).chmod(0o700)?;
            at::open(parent, name, at::DIR, Mode::empty())
        }
        other => other,
    }
}

fn preview<'c>(parent: &Dir<'c>, entry: &Entry) -> Result<Option<(Dir<'c>, bool)>> {
    let ctx = parent.ctx();
    let name = entry.name.as_slice();
    let io = |e: Errno| Error::io("open", ctx.target_path(parent.place(), name), e.into());
    let file = match parent.look(name)? {
        Some(old) if old.kind == EntryType::Dir => {
            Some(at::open(&*parent.file()?, name, at::DIR, Mode::empty()).map_err(io)?)
        }
        Some(old) if decide(ctx, entry, &old) == Decision::Keep => return Ok(None),
        _ => None,
    };
    let fresh = file.is_none();
    Ok(Some((parent.below(name, file, None, fresh).map_err(io)?, fresh)))
}
