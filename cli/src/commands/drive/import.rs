//! `drive import`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use repo::backend::local::Local;
use repo::error::{Error, Kind, Result};
use repo::id::{DriveId, RepoId, SnapshotId};
use repo::open::{Access, Place, Repository};
use repo::tenants;
use serde::Serialize;
use sync::drive::import::{Imported, elsewhere, import, tenant_of};
use sync::drive::{self, Drive, sealed};

use super::super::noted::Noted;
use super::super::open::open_repository;
use super::{at, called, home, open_drive};
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::human;
use crate::progress::Job;

/// An import as JSON.
#[derive(Serialize)]
#[serde(tag = "message_type", rename = "summary")]
struct Summary<'a> {
    drive: String,
    label: &'a str,
    tenant: &'a str,
    packs: u64,
    packs_taken: u64,
    bytes_taken: u64,
    /// Packs whose contents were there already.
    packs_known: u64,
    /// All 64 digits of each pack that was not taken, and why.
    packs_bad: Vec<(String, String)>,
    snapshots_taken: u64,
    /// All 64 digits of each snapshot that lacks something still, and how many pieces at least.
    snapshots_waiting: Vec<(String, u64)>,
    snapshots_failed: Vec<(String, String)>,
    /// Other drives of this tenant that are known here and not whole.
    elsewhere: Vec<String>,
    /// What proves to the site that all of it is here.
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<&'a str>,
    total_duration: f64,
}

/// A drive at a pool, and whose it is.
struct Tenants {
    place: Place,
    id: DriveId,
    repository: RepoId,
    number: u32,
    tenant: String,
    sealed: bool,
}

impl Tenants {
    /// Of the drive in `dir`.
    fn of(ctx: &Context, repo: &Repository, dir: &Path) -> Result<Tenants> {
        let place = at(ctx, dir)?;
        let (backend, id) = Local::open_drive(&place.root, true)?;
        let repository = repo::open::repository_in(&backend)?;
        let (number, tenant, sealed) = tenant_of(repo, &backend, repository)?;
        Ok(Tenants { place, id, repository, number, tenant, sealed })
    }

    /// Opens it with the keys of the tenant, who is not sealed.
    fn open(self, ctx: &Context, repo: &Repository, access: Access) -> Result<Drive> {
        let keyring = tenants::keyring_of(&repo.keys, self.number, &repo.log.state().tenants[&self.number])?;
        let known = (self.repository, &keyring);
        drive::open(self.place, access, known, &repo.clock, &ctx.monitor(Job::Look("packs")))
    }
}

/// Opens the drive in `dir`, at a pool with the keys of its tenant.
pub fn open(ctx: &Context, repo: &Repository, dir: &Path, access: Access) -> Result<Drive> {
    if !repo.log.state().pool {
        return open_drive(ctx, repo, dir, access);
    }
    let theirs = Tenants::of(ctx, repo, dir)?;
    if theirs.sealed {
        let (tenant, id) = (theirs.tenant, theirs.id.short());
        let what = format!("tenant {tenant} is sealed: what drive {id} carries cannot be read here");
        return Err(Error::new(Kind::Refused, what).remedy("its site checks it"));
    }
    theirs.open(ctx, repo, access)
}

/// Whether a drive is one of several, or is read once more after the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// It is the only one.
    Only,
    /// Others come after it: what its snapshots lack is told when these are here.
    OneOfSeveral,
    /// All are here.
    Again,
}

impl Round {
    /// Whether there is nothing to say of a drive that has brought so many snapshots.
    pub fn is_silent(self, snapshots: u64) -> bool {
        self == Round::Again && snapshots == 0
    }
}

/// Takes in what the drives in `dirs` carry.
pub fn run(ctx: &Context, dirs: &[PathBuf]) -> Result<ExitCode> {
    let repo = Arc::new(open_repository(ctx, Access::Write)?);
    take_all(ctx, &repo, dirs)?;
    repo.remember();
    ctx.output.flush()?;
    Ok(ExitCode::Ok)
}

/// As [`run`], into a repository that is open.
pub fn take_all(ctx: &Context, repo: &Arc<Repository>, dirs: &[PathBuf]) -> Result<()> {
    let one = |dir: &Path, round: Round| match repo.log.state().pool {
        true => at_pool(ctx, repo, dir, round),
        false => home::run(ctx, repo, dir, round),
    };
    if let [only] = dirs {
        return one(only, Round::Only).map(drop);
    }
    let (mut failed, mut wait) = (None, Vec::new());
    for dir in dirs {
        match one(dir, Round::OneOfSeveral) {
            // The others may be sound.
            Err(e) if e.kind() != Kind::Interrupted => {
                if let Some(before) = failed.replace(e) {
                    ctx.output.complain(format!("packmule: {before}"));
                }
            }
            waits => {
                if waits? {
                    wait.push(dir);
                }
            }
        }
    }
    // Which drive a snapshot stands on says nothing of where its data is: with all of them here, what waited may be whole.
    wait.into_iter().try_for_each(|dir| one(dir, Round::Again).map(drop))?;
    failed.map_or(Ok(()), Err)
}

/// Whether snapshots wait for something.
fn at_pool(ctx: &Context, repo: &Arc<Repository>, dir: &Path, round: Round) -> Result<bool> {
    let started = Instant::now();
    let theirs = Tenants::of(ctx, repo, dir)?;
    let noted = Noted::begin("drive import");
    if theirs.sealed {
        return sealed_tenant(ctx, repo, &theirs, noted, started).map(|()| false);
    }
    let (number, tenant) = (theirs.number, theirs.tenant.clone());
    let drive = theirs.open(ctx, repo, Access::Read)?;
    let progress = ctx.monitor(Job::Transfer);
    let done = import(repo, number, &drive, &progress);
    drop(progress);
    let snapshots = done.as_ref().map_or(0, |done| done.snapshots);
    let all = done.as_ref().map_or(Ok(()), ended);
    match &all {
        Ok(()) if done.is_ok() && round.is_silent(snapshots) => {}
        Ok(()) => noted.end(ctx, repo, Some(&tenant), snapshots, &done),
        some => noted.end(ctx, repo, Some(&tenant), snapshots, some),
    }
    let (done, others) = (done?, elsewhere(repo, &tenant, drive.id));
    if !round.is_silent(done.snapshots) {
        tell(ctx, &drive, &tenant, &done, &others, started)?;
    }
    if round != Round::OneOfSeveral && !ctx.output.json {
        tell_waiting(ctx, &done.waiting, done.bad.is_empty(), &others)?;
    }
    all.map(|()| !done.waiting.is_empty())
}

fn sealed_tenant(ctx: &Context, repo: &Repository, theirs: &Tenants, noted: Noted, started: Instant) -> Result<()> {
    let Tenants { place, repository, number, tenant, .. } = theirs;
    let progress = ctx.monitor(Job::Transfer);
    let done = sealed::import(repo, (*number, tenant, *repository), &place.root, &progress);
    drop(progress);
    let all = done.as_ref().map_or(Ok(()), |done| if done.bad.is_empty() { Ok(()) } else { Err(not_all()) });
    match &all {
        Ok(()) => noted.end(ctx, repo, Some(tenant), 0, &done),
        some => noted.end(ctx, repo, Some(tenant), 0, some),
    }
    tell_sealed(ctx, theirs, &done?, started)?;
    all
}

fn tell_sealed(ctx: &Context, theirs: &Tenants, done: &sealed::Imported, started: Instant) -> Result<()> {
    let (tenant, drive) = (theirs.tenant.as_str(), theirs.id.to_hex());
    if ctx.output.json {
        ctx.output.message(&Summary {
            drive,
            label: "",
            tenant,
            packs: done.packs,
            packs_taken: done.taken,
            bytes_taken: done.bytes,
            packs_known: done.known,
            packs_bad: done.bad.iter().map(|id| (id.to_hex(), String::new())).collect(),
            snapshots_taken: 0,
            snapshots_waiting: Vec::new(),
            snapshots_failed: Vec::new(),
            elsewhere: Vec::new(),
            receipt: done.receipt.as_deref(),
            total_duration: started.elapsed().as_secs_f64(),
        })?;
    } else {
        ctx.output.line(format!(
            "took {} of {}, {}, from drive {} of sealed tenant {tenant} in {}; {} had come before",
            done.taken,
            human::count(done.packs, "pack"),
            human::size(done.bytes),
            theirs.id.short(),
            human::duration(started.elapsed()),
            done.known
        ))?;
        for id in &done.bad {
            ctx.output.line(format!("not taken: pack {} is not what it is called", id.short()))?;
        }
        if done.receipt.is_some() {
            ctx.output.line("all packs that are on the drive are here; the receipt is on the drive")?;
            ctx.output.remark(
                "The snapshots are there when the site has pushed the rest: it has no packs of these to send any more.",
            )?;
        }
    }
    Ok(())
}

fn ended(done: &Imported) -> Result<()> {
    if done.over_quota {
        let e = Error::new(Kind::NoSpace, "the tenant's quota is used up: not all snapshots of the drive were taken");
        return Err(e.remedy("`packmule tenant set --quota` gives it more; then import the drive again"));
    }
    if done.bad.is_empty() && done.failed.is_empty() {
        return Ok(());
    }
    Err(not_all())
}

fn not_all() -> Error {
    Error::damaged("not everything on the drive was taken").remedy(
        "what is sound is here; at the site, `packmule drive lost` has the rest sent again, over the network or on another drive",
    )
}

fn tell(
    ctx: &Context,
    drive: &Drive,
    tenant: &str,
    done: &Imported,
    others: &[String],
    started: Instant,
) -> Result<()> {
    let label = drive.state().map_or_else(|_| String::new(), |state| state.label);
    if ctx.output.json {
        return ctx.output.message(&Summary {
            drive: drive.id.to_hex(),
            label: &label,
            tenant,
            packs: done.packs,
            packs_taken: done.taken,
            bytes_taken: done.bytes,
            packs_known: done.known,
            packs_bad: done.bad.iter().map(|(id, why)| (id.to_hex(), why.clone())).collect(),
            snapshots_taken: done.snapshots,
            snapshots_waiting: done.waiting.iter().map(|(id, n)| (id.to_hex(), *n)).collect(),
            snapshots_failed: done.failed.iter().map(|(id, why)| (id.to_hex(), why.clone())).collect(),
            elsewhere: others.to_vec(),
            receipt: done.receipt.as_deref(),
            total_duration: started.elapsed().as_secs_f64(),
        });
    }
    ctx.output.line(format!(
        "took {} of {}, {}, from drive {} of tenant {tenant} in {}; {} had come before",
        done.taken,
        human::count(done.packs, "pack"),
        human::size(done.bytes),
        called(drive),
        human::duration(started.elapsed()),
        done.known
    ))?;
    ctx.output.line(format!("{} new here", human::count(done.snapshots, "snapshot")))?;
    for (id, why) in &done.bad {
        ctx.output.line(format!("not taken: pack {}: {}", id.short(), why.escape_debug()))?;
    }
    for (id, why) in &done.failed {
        ctx.output.line(format!("not taken: snapshot {}: {}", id.short(), why.escape_debug()))?;
    }
    if done.receipt.is_some() {
        ctx.output.line("all that the drive carries is here; the receipt is on the drive")?;
    }
    Ok(())
}

/// What snapshots of a drive lack still, and where that may be.
fn tell_waiting(ctx: &Context, waiting: &[(SnapshotId, u64)], sound: bool, others: &[String]) -> Result<()> {
    for (id, n) in waiting {
        let lacks = human::count(*n, "piece");
        ctx.output.line(format!("snapshot {} waits: {lacks} or more are not here yet", id.short()))?;
    }
    if waiting.is_empty() {
        return Ok(());
    }
    let mut places = Vec::new();
    if !sound {
        places.push("in what is damaged or missing on this drive".to_owned());
    }
    if !others.is_empty() {
        places.push(format!("on drive {}", others.join(" or ")));
    }
    places.push("on one that has not come yet, or with the site's next push".to_owned());
    ctx.output.line(format!("what they lack is {}", places.join(", ")))
}
