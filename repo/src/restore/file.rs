//! One regular file, restored by one thread.

use std::fs::File;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::capture::scan::{Meta, stat};
use crate::error::Result;
use crate::format::tree::{Entry, EntryType};
use crate::monitor::Action;
use crate::restore::at;
use crate::restore::attrs::{self, Node};
use crate::restore::content::{Buffer, fill};
use crate::restore::spot::{Decision, PARTIAL, Spot, decide};

/// Makes an empty file that is marked as incomplete. It must not be there.
///
/// # Errors
/// The system's.
pub fn create(dir: &File, name: &[u8]) -> nix::Result<File> {
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL;
    at::open(dir, name, flags, Mode::from_bits_truncate(PARTIAL))
}

/// Restores a file whose content one thread handles.
///
/// # Errors
/// What the source and the system give; nothing that looks complete is left then.
pub fn restore(spot: &Spot<'_, '_>, entry: &Entry, buffer: &mut Buffer) -> Result<Action> {
    match create(&spot.file, spot.name) {
        Ok(file) => finish_new(spot, &file, spot.name, entry).map(|()| Action::Restored),
        Err(Errno::EEXIST) => existing(spot, entry, buffer),
        Err(e) => Err(spot.io("create", e)),
    }
}

/// Fills and completes a file just created as `name`; removes it when that fails.
fn finish_new(spot: &Spot<'_, '_>, file: &File, name: &[u8], entry: &Entry) -> Result<()> {
    let ctx = spot.ctx();
    let done = fill(ctx, file, entry, &|e| spot.io("write", e)).and_then(|()| match ctx.stopped() {
        // It keeps its mark, and the next run finds it.
        true => Ok(()),
        false => complete_new(spot, file, entry),
    });
    if done.is_err() {
        // The error that matters is the first; and what stays is marked.
        let _ = at::unlink(&spot.file, name);
    }
    done
}

/// Sets the attributes of a file that this restore made and filled.
///
/// # Errors
/// As [`attrs::apply`].
pub fn complete_new(spot: &Spot<'_, '_>, file: &File, entry: &Entry) -> Result<()> {
    if spot.dir.bequeaths() {
        attrs::disinherit(file);
    }
    let old = stat(file).map_err(|e| spot.io("look at", e))?;
    attrs::apply(spot.ctx(), &Node::open(file), entry, &old, true, &|| spot.path())
}

/// Replaces whatever is at the spot by a new file, at once: nobody sees a mixture.
///
/// # Errors
/// As [`restore`].
fn replace(spot: &Spot<'_, '_>, entry: &Entry) -> Result<Action> {
    let temp = spot.temp()?;
    let file = create(&spot.file, &temp).map_err(|e| spot.io("create", e))?;
    finish_new(spot, &file, &temp, entry)?;
    if !spot.ctx().stopped() {
        spot.publish(&temp)?;
    }
    Ok(Action::Restored)
}

fn existing(spot: &Spot<'_, '_>, entry: &Entry, buffer: &mut Buffer) -> Result<Action> {
    let old = spot.look()?;
    match decide(spot.ctx(), entry, &old) {
        Decision::Keep => return Ok(Action::Kept),
        Decision::Replace => {}
        Decision::Right => {
            if keep(spot, entry, &old)? {
                return Ok(Action::Kept);
            }
        }
        Decision::Compare => {
            if old.size == entry.size
                && let Some(file) = open_same(spot, &old, OFlag::O_RDONLY)
                && buffer.same(spot.ctx(), &file, entry)?
                && keep(spot, entry, &old)?
            {
                return Ok(Action::Kept);
            }
        }
    }
    if spot.ctx().stopped() {
        return Ok(Action::Kept);
    }
    replace(spot, entry)
}

/// Opens the regular file `old`; none if that cannot be or something else is there now.
pub fn open_same(spot: &Spot<'_, '_>, old: &Meta, flags: OFlag) -> Option<File> {
    let file = at::open(&spot.file, spot.name, flags | OFlag::O_NONBLOCK | OFlag::O_NOCTTY, Mode::empty()).ok()?;
    let now = stat(&file).ok()?;
    ((now.dev, now.ino, now.kind) == (old.dev, old.ino, EntryType::File)).then_some(file)
}

/// Sets the attributes of a file whose content is right. False when it must be replaced instead: it has other names, and
/// what they belong to is not ours to change.
///
/// # Errors
/// As [`attrs::apply`].
pub fn keep(spot: &Spot<'_, '_>, entry: &Entry, old: &Meta) -> Result<bool> {
    let ctx = spot.ctx();
    if old.nlink > 1 {
        return Ok(entry.link_group.is_some() && attrs::same(ctx, entry, old));
    }
    let Some(file) = open_same(spot, old, OFlag::O_RDONLY) else {
        // Unreadable to its owner: only its handle can be had.
        return keep_by_handle(spot, entry, old);
    };
    attrs::apply(ctx, &Node::open(&file), entry, old, false, &|| spot.path())?;
    Ok(true)
}

/// As [`keep`], through a handle: for what is not to be opened.
///
/// # Errors
/// As [`attrs::apply`].
pub fn keep_by_handle(spot: &Spot<'_, '_>, entry: &Entry, old: &Meta) -> Result<bool> {
    let handle = at::open(&spot.file, spot.name, OFlag::O_PATH, Mode::empty()).map_err(|e| spot.io("open", e))?;
    let now = stat(&handle).map_err(|e| spot.io("look at", e))?;
    if (now.dev, now.ino) != (old.dev, old.ino) {
        return Ok(false);
    }
    let node = Node::handle(&handle, &spot.file, spot.name);
    attrs::apply(spot.ctx(), &node, entry, old, false, &|| spot.path())?;
    Ok(true)
}
