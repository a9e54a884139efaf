//! Symbolic links, pipes, sockets, devices, and further names of files.

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, SFlag, mknodat};
use nix::unistd::symlinkat;

use crate::capture::scan::{Meta, read_link, stat, stat_at};
use crate::error::{Error, Kind, Result};
use crate::format::tree::{Entry, EntryType};
use crate::monitor::Action;
use crate::restore::at::{self, os};
use crate::restore::attrs::{self, Node};
use crate::restore::file::keep_by_handle;
use crate::restore::links::Found;
use crate::restore::spot::{Decision, Spot, decide};
use crate::restore::unable::Unable;

/// Restores anything but a regular file or a directory.
///
/// # Errors
/// What the system gives. What this user or filesystem cannot make is noted, and the item is absent.
pub fn restore(spot: &Spot<'_, '_>, entry: &Entry) -> Result<Action> {
    match make(spot, spot.name, entry) {
        Ok(()) => complete(spot, spot.name, entry),
        Err(Errno::EEXIST) => existing(spot, entry),
        Err(e) => cannot(spot, entry, e),
    }
}

fn existing(spot: &Spot<'_, '_>, entry: &Entry) -> Result<Action> {
    let old = spot.look()?;
    match decide(spot.ctx(), entry, &old) {
        Decision::Keep => return Ok(Action::Kept),
        Decision::Right | Decision::Compare if is_same(spot, entry, &old) => {
            let shared = old.nlink > 1;
            if shared && entry.link_group.is_some() && attrs::same(spot.ctx(), entry, &old) {
                return Ok(Action::Kept);
            }
            if !shared && keep_by_handle(spot, entry, &old)? {
                return Ok(Action::Kept);
            }
        }
        _ => {}
    }
    let temp = spot.temp()?;
    match make(spot, &temp, entry) {
        Ok(()) => {}
        Err(e) => return cannot(spot, entry, e),
    }
    complete(spot, &temp, entry)?;
    spot.publish(&temp)?;
    Ok(Action::Restored)
}

/// Whether the link or node there is the one captured, attributes aside.
pub fn is_same(spot: &Spot<'_, '_>, entry: &Entry, old: &Meta) -> bool {
    match entry.kind {
        EntryType::Symlink => read_link(spot.file.as_fd(), spot.name).is_ok_and(|target| target == entry.target),
        _ => old.rdev == entry.rdev,
    }
}

fn make(spot: &Spot<'_, '_>, name: &[u8], entry: &Entry) -> nix::Result<()> {
    let kind = match entry.kind {
        EntryType::Symlink => return symlinkat(os(&entry.target), &*spot.file, os(name)),
        EntryType::Fifo => SFlag::S_IFIFO,
        EntryType::Socket => SFlag::S_IFSOCK,
        EntryType::CharDevice => SFlag::S_IFCHR,
        EntryType::BlockDevice => SFlag::S_IFBLK,
        EntryType::File | EntryType::Dir => return Err(Errno::EINVAL),
    };
    // Nobody else's until it has its owner.
    mknodat(&*spot.file, os(name), kind, Mode::S_IRUSR | Mode::S_IWUSR, entry.rdev)
}

fn complete(spot: &Spot<'_, '_>, name: &[u8], entry: &Entry) -> Result<Action> {
    let done =
        at::open(&spot.file, name, OFlag::O_PATH, Mode::empty()).map_err(|e| spot.io("open", e)).and_then(|file| {
            let old = stat(&file).map_err(|e| spot.io("look at", e))?;
            if old.kind != entry.kind || old.rdev != entry.rdev {
                return Err(
                    Error::new(Kind::Refused, "somebody replaced an item while it was restored:").at(spot.path())
                );
            }
            attrs::apply(spot.ctx(), &Node::handle(&file, &spot.file, name), entry, &old, true, &|| spot.path())
        });
    match done {
        Ok(()) => Ok(Action::Restored),
        Err(e) => {
            // The error that matters is the first.
            let _ = at::unlink(&spot.file, name);
            Err(e)
        }
    }
}

fn cannot(spot: &Spot<'_, '_>, entry: &Entry, e: Errno) -> Result<Action> {
    let device = matches!(entry.kind, EntryType::CharDevice | EntryType::BlockDevice);
    match e {
        Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL => {
            spot.ctx().unable.note(if device { Unable::Device } else { Unable::Special });
            Ok(Action::Kept)
        }
        e => Err(spot.io("create", e)),
    }
}

/// Gives the complete file `found` this name, too. None: that cannot be done here, restore it as a file of its own.
///
/// # Errors
/// What the system gives.
pub fn link(spot: &Spot<'_, '_>, entry: &Entry, found: &Found) -> Result<Option<Action>> {
    let ctx = spot.ctx();
    let old = stat_at(spot.file.as_fd(), spot.name).ok();
    if let Some(old) = &old {
        if (old.dev, old.ino) == found.id {
            return Ok(Some(Action::Kept));
        }
        if decide(ctx, entry, old) == Decision::Keep {
            return Ok(Some(Action::Kept));
        }
    }
    let temp = if old.is_some() { Some(spot.temp()?) } else { None };
    let name = temp.as_deref().unwrap_or(spot.name);
    let linked =
        at::descend(ctx.root()?, &found.place.path(b"")).and_then(|dir| at::link(&dir, &found.name, &spot.file, name));
    match linked {
        Ok(()) => {}
        Err(Errno::ENOSPC | Errno::EDQUOT | Errno::EIO | Errno::EROFS) => {
            return Err(spot.io("link", linked.err().unwrap_or(Errno::EIO)));
        }
        Err(_) => {
            ctx.unable.note(Unable::HardLink);
            return Ok(None);
        }
    }
    // What was linked must be what was restored, not what somebody put there since.
    if !stat_at(spot.file.as_fd(), name).is_ok_and(|now| (now.dev, now.ino) == found.id) {
        let _ = at::unlink(&spot.file, name);
        return Err(Error::new(Kind::Refused, "somebody replaced a file while it was restored:").at(spot.path()));
    }
    if let Some(temp) = &temp {
        spot.publish(temp)?;
    }
    Ok(Some(Action::Restored))
}
