//! `sync push` to a directory: one that is named by its path, or a remote.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use repo::backend::local::Local;
use repo::check::ReadData;
use repo::error::{Error, Kind, Result};
use repo::lock::Locks;
use repo::monitor::Monitor;
use repo::open::{Access, Repository};
use sync::directory;
use sync::heal::renew_packs;
use sync::sealed::{Directory, Options, Report, mirror};
use sync::serve::objects::copy_dir;

use super::super::open::open_repository;
use super::sealed::each_tenant;
use super::{or_damaged, tell};
use crate::args::SyncPushArgs;
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::human;
use crate::progress::Job;

/// Brings the copy in the directory `to` up to date.
pub fn to_path(ctx: &Context, args: &SyncPushArgs, to: &Path, started: Instant) -> Result<ExitCode> {
    if args.retry {
        return Err(Error::new(Kind::Usage, "--retry is for remotes")
            .remedy("leave --retry out, or make the directory a remote with `packmule remote add`"));
    }
    let repo = source_of_copy(ctx)?;
    if let Some(e) = &repo.rolled_back {
        return Err(Error::new(Kind::RolledBack, e.to_string()));
    }
    let copy = directory::make(&repo, to)?;
    if repo.access == Access::Write {
        super::super::profiles::keep(ctx, &repo);
    }
    let progress = ctx.monitor(Job::Other("packs"));
    let done =
        push(&repo, &copy, ReadData::None, Options { remote: "", audit: args.audit, delete: args.delete }, &progress);
    drop(progress);
    repo.remember();
    let done = done?;
    let to = human::path(copy.root().as_os_str().as_encoded_bytes());
    tell(ctx, &done, &format!("the copy in {to}"), &to, started.elapsed())?;
    or_damaged(&done)
}

/// The repository that is to be copied: for writing, so that its profiles come along, unless it can only be read.
fn source_of_copy(ctx: &Context) -> Result<Repository> {
    match open_repository(ctx, Access::Write) {
        Err(e) if e.kind() == Kind::ReadOnly => open_repository(ctx, Access::Read),
        other => other,
    }
}

/// One push to the remote `name`, which is the directory `dir`. Packs there that `read` names are read first, and put in place
/// anew where they are damaged.
///
/// # Errors
/// `Unreachable` if the copy was made and is not there; `Locked` while another push goes there; as [`sync::sealed::push`].
pub fn push_once(
    repo: &Repository,
    name: &str,
    dir: &Path,
    read: ReadData,
    options: Options<'_>,
    progress: &dyn Monitor,
) -> Result<Report> {
    let copy = directory::make_known(repo, name, dir)?;
    push(repo, &copy, read, options, progress).map_err(|e| directory::or_away(e, dir, repo.config.repo_id))
}

fn push(
    repo: &Repository,
    copy: &Local,
    read: ReadData,
    options: Options<'_>,
    progress: &dyn Monitor,
) -> Result<Report> {
    let busy = |e: Error| match e.kind() {
        Kind::Locked => Error::new(Kind::Locked, "another push to this copy is running:")
            .at(copy.root())
            .remedy("wait until it ends"),
        _ => e,
    };
    let _one_at_a_time = Locks::file(&copy.lock_path()).prune(Duration::ZERO).map_err(busy)?;
    let salt = u32::from_le_bytes(repo::id::random_bytes());
    let renewed = match read {
        ReadData::None => 0,
        read => renew_packs(repo, copy, &mut |id| read.chooses(id, salt), progress)?,
    };
    let mut done = sync::sealed::push(repo, copy, options, progress)?;
    done.bytes += renewed;
    tenants_too(repo, copy, done, options, progress)
}

/// A pool's copy holds what the pool keeps of its sealed tenants.
fn tenants_too(
    repo: &Repository,
    copy: &Local,
    mut done: Report,
    options: Options<'_>,
    progress: &dyn Monitor,
) -> Result<Report> {
    let tenants = copy.root().join("tenants");
    each_tenant(repo, &mut |number, of, source| {
        let dir = copy_dir(&tenants, number);
        for dir in [Some(tenants.as_path()), dir.parent(), Some(&dir)].into_iter().flatten() {
            match fs::create_dir(dir) {
                // Not what is above either: where that is gone, so is the disk.
                Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(Error::io("make", dir, e)),
                _ => {}
            }
        }
        let target = Local::copy_of(&dir, of)?;
        let more = mirror(source, &Directory(&target), options, progress)?;
        done.packs += more.packs;
        done.bytes += more.bytes;
        done.deleted += more.deleted;
        Ok(())
    })?;
    Ok(done)
}
