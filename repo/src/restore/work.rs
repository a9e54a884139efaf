//! What worker threads do: batches of items, and parts of large files, in the order they are handed out.

use std::sync::atomic::Ordering;

use crossbeam_channel::Receiver;

use crate::error::Result;
use crate::format::tree::{Entry, EntryType};
use crate::monitor::{Action, Counters};
use crate::restore::attrs;
use crate::restore::content::{Buffer, progress};
use crate::restore::dir::Dir;
use crate::restore::large::Part;
use crate::restore::links::{Claim, Role};
use crate::restore::spot::{Decision, Spot, decide};
use crate::restore::{file, node};

/// Something to do.
pub enum Work<'c> {
    /// Items whose content lies together, one after the other.
    Batch(Vec<Job<'c>>),
    /// A part of a large file.
    Part(Part<'c>),
}

/// One item to restore.
pub struct Job<'c> {
    /// Where.
    pub dir: Dir<'c>,
    /// What.
    pub entry: Entry,
    /// Whether it is a further name of something.
    pub role: Role,
}

/// Works until there is no more.
pub fn run(work: &Receiver<Work<'_>>) {
    let mut buffer = Buffer::default();
    for work in work {
        match work {
            Work::Part(part) => part.run(&mut buffer),
            Work::Batch(jobs) => jobs.into_iter().for_each(|job| job.run(&mut buffer)),
        }
    }
}

impl Job<'_> {
    fn run(self, buffer: &mut Buffer) {
        let Job { dir, entry, role } = self;
        let ctx = dir.ctx();
        if ctx.stopped() {
            return;
        }
        if let Err(e) = item(&dir, &entry, role, buffer) {
            ctx.failed(dir.place(), &entry.name, e);
        }
    }
}

fn item(dir: &Dir<'_>, entry: &Entry, role: Role, buffer: &mut Buffer) -> Result<()> {
    let ctx = dir.ctx();
    if ctx.options.dry_run {
        let action = preview(dir, entry, buffer)?;
        progress(ctx, bytes_of(entry));
        finished(dir, entry, Claim::none(), action);
        return Ok(());
    }
    let spot = Spot::new(dir, &entry.name)?;
    let claim = match role {
        Role::First(claim) => claim,
        Role::Other(group) => match group.wait() {
            None => Claim::of(group),
            Some(found) => match node::link(&spot, entry, &found)? {
                Some(action) => {
                    progress(ctx, bytes_of(entry));
                    finished(dir, entry, Claim::none(), action);
                    return Ok(());
                }
                None => Claim::none(),
            },
        },
    };
    let action = match entry.kind {
        EntryType::File => file::restore(&spot, entry, buffer)?,
        _ => node::restore(&spot, entry)?,
    };
    if !ctx.stopped() {
        progress(ctx, bytes_of(entry));
        finished(dir, entry, claim, action);
    }
    Ok(())
}

/// What would become of an item.
fn preview(dir: &Dir<'_>, entry: &Entry, buffer: &mut Buffer) -> Result<Action> {
    let Some(old) = dir.look(&entry.name)? else { return Ok(Action::Restored) };
    let spot = Spot::new(dir, &entry.name)?;
    let kept = match decide(dir.ctx(), entry, &old) {
        Decision::Keep | Decision::Right => true,
        Decision::Replace => false,
        Decision::Compare if entry.kind == EntryType::File => {
            let file = file::open_same(&spot, &old, nix::fcntl::OFlag::O_RDONLY).filter(|_| old.size == entry.size);
            file.map_or(Ok(false), |file| buffer.same(dir.ctx(), &file, entry))?
        }
        Decision::Compare => node::is_same(&spot, entry, &old),
    };
    Ok(if kept { Action::Kept } else { Action::Restored })
}

/// Counts an item and lets the other names of its group have it.
pub fn finished(dir: &Dir<'_>, entry: &Entry, claim: Claim, action: Action) {
    let ctx = dir.ctx();
    claim.settle(|| {
        let spot = Spot::new(dir, &entry.name).ok()?;
        // What was there and stays need not be what the snapshot has.
        let right = action != Action::Kept
            || spot.look().is_ok_and(|now| now.size == entry.size && attrs::same(ctx, entry, &now));
        if right { spot.found() } else { None }
    });
    let (items, bytes) = match action {
        Action::Kept => (&ctx.tally.kept, &ctx.tally.kept_bytes),
        _ => (&ctx.tally.restored, &ctx.tally.restored_bytes),
    };
    items.fetch_add(1, Ordering::Relaxed);
    bytes.fetch_add(bytes_of(entry), Ordering::Relaxed);
    Counters::add(&ctx.monitor.counters().files, 1);
    ctx.item(dir.place(), &entry.name, action, entry.size);
}

/// Bytes an item counts for: only files have any.
pub fn bytes_of(entry: &Entry) -> u64 {
    if entry.kind == EntryType::File { entry.size } else { 0 }
}
