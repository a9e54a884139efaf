//! Reading back what was restored and comparing it with the hashes in the snapshot.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam_channel::{Receiver, Sender, bounded};
use nix::fcntl::{OFlag, PosixFadviseAdvice, posix_fadvise};
use nix::sys::stat::Mode;

use crate::capture::scan::{read_link, stat, stat_at};
use crate::error::{Error, Kind, Result};
use crate::format::tree::{Entry, EntryType};
use crate::monitor::Event;
use crate::restore::Overwrite;
use crate::restore::at;
use crate::restore::choice::{Step, Steps};
use crate::restore::content::Buffer;
use crate::restore::context::Context;

/// Files waiting for a thread.
const QUEUE: usize = 32;

struct Check {
    dir: Arc<File>,
    entry: Entry,
    /// From `/`, the top of the target.
    path: Vec<u8>,
}

/// Compares every regular file and symbolic link that was restored, in `threads` threads. Files that the overwrite mode
/// left as they were (by size or time not the snapshot's) are passed over. Differences are reported as errors.
pub fn verify(ctx: &Context<'_>, root: Arc<File>, steps: Steps<'_>, threads: usize) {
    ctx.monitor.event(Event::Phase("verify"));
    let (out, work) = bounded(QUEUE);
    std::thread::scope(|s| {
        for _ in 0..threads {
            let work = work.clone();
            s.spawn(move || run(ctx, &work));
        }
        drop(work);
        walk(ctx, root, steps, &out);
        drop(out);
    });
}

fn walk(ctx: &Context<'_>, root: Arc<File>, mut steps: Steps<'_>, out: &Sender<Check>) {
    let mut dirs = vec![root];
    while !ctx.stopped() {
        let step = match steps.next() {
            Ok(Some(step)) => step,
            // A tree that cannot be read was reported when it was restored.
            Err(_) => continue,
            Ok(None) => return,
        };
        let Some(dir) = dirs.last() else { return };
        match step {
            Step::Enter(entry, _) => match at::open(dir, &entry.name, at::DIR, Mode::empty()) {
                Ok(child) => dirs.push(Arc::new(child)),
                // Not made: nothing in it was wanted, or its failure was reported.
                Err(_) => steps.pass(),
            },
            Step::Item(entry) => {
                if !matches!(entry.kind, EntryType::File | EntryType::Symlink) {
                    continue;
                }
                let path = steps.path().to_vec();
                if out.send(Check { dir: Arc::clone(dir), entry, path }).is_err() {
                    return;
                }
            }
            Step::Leave(..) => drop(dirs.pop()),
            Step::Broken(_) => {}
        }
    }
}

fn run(ctx: &Context<'_>, work: &Receiver<Check>) {
    let mut buffer = Buffer::default();
    for check in work {
        if ctx.stopped() {
            continue;
        }
        match check.one(ctx, &mut buffer) {
            Ok(read) => {
                ctx.tally.verified.fetch_add(u64::from(read), Ordering::Relaxed);
            }
            Err(e) => ctx.failed_at(&ctx.captured_path(&check.path[1..]), "verify", e),
        }
    }
}

impl Check {
    fn path(&self, ctx: &Context<'_>) -> PathBuf {
        ctx.target.join(at::os(&self.path[1..]))
    }

    /// False when the file was left as it was.
    fn one(&self, ctx: &Context<'_>, buffer: &mut Buffer) -> Result<bool> {
        let wrong = |what: &'static str| Error::new(Kind::Damaged, what).at(self.path(ctx));
        let io = |doing: &str, e: std::io::Error| Error::io(doing, self.path(ctx), e);
        let now = stat_at(self.dir.as_fd(), &self.entry.name).map_err(|e| io("look at", e))?;
        let same_looks = now.kind == self.entry.kind && now.size == self.entry.size && now.mtime == self.entry.mtime;
        if matches!(ctx.options.overwrite, Overwrite::Never | Overwrite::IfNewer) && !same_looks {
            return Ok(false);
        }
        if now.kind != self.entry.kind || now.size != self.entry.size {
            return Err(wrong("what was read back has another type or length:"));
        }
        if self.entry.kind == EntryType::Symlink {
            let target = read_link(self.dir.as_fd(), &self.entry.name).map_err(|e| io("read", e))?;
            return if target == self.entry.target {
                Ok(true)
            } else {
                Err(wrong("a link read back leads elsewhere:"))
            };
        }
        let file = at::open(&self.dir, &self.entry.name, OFlag::O_RDONLY | OFlag::O_NONBLOCK, Mode::empty())
            .map_err(|e| io("read back", e.into()))?;
        if stat(&file).map_err(|e| io("look at", e))?.kind != EntryType::File {
            return Err(wrong("what was read back has another type or length:"));
        }
        // From the disk, not from memory, as far as the system lets us.
        let _ = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        match buffer.same(ctx, &file, &self.entry)? {
            true => Ok(true),
            false if ctx.stopped() => Ok(false),
            false => Err(wrong("what was read back differs from the snapshot:")),
        }
    }
}
