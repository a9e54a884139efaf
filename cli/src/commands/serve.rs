//! `serve`.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use repo::error::{Error, Kind, Result};
use repo::lock::{Locks, PruneGuard};
use repo::open::Access;
use serde::Serialize;
use sync::serve::{Door, Pool};
use sync::ssh::server::{Limits, Server};

use super::open::{open_repository, place};
use crate::args::ServeArgs;
use crate::context::Context;
use crate::exit::ExitCode;
use crate::service;

/// How long the packs that are arriving may take once the server is to stop. Longer ones are cut, and go on where they were.
const GRACE: Duration = Duration::from_secs(30);

/// The start as JSON.
#[derive(Serialize)]
#[serde(tag = "message_type", rename = "serving")]
struct Serving {
    address: String,
    host_key: String,
}

/// Keeps other servers from this pool: each would know only its own pushes, and two could write to one spool.
fn alone(spool: &Path) -> Result<PruneGuard> {
    let path = spool.join("lock");
    let failed = |e| Error::io("make the spool's lock", &path, e);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(spool).map_err(failed)?;
    OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(failed)?;
    Locks::file(&path).prune(Duration::ZERO).map_err(|e| match e.kind() {
        Kind::Locked => Error::new(Kind::Locked, "another server of this repository is running")
            .remedy("stop it first; one server takes in all that is delivered"),
        _ => e,
    })
}

/// Runs `serve`.
pub fn run(ctx: &Context, args: &ServeArgs) -> Result<ExitCode> {
    let repo = open_repository(ctx, Access::Write)?;
    // What arrives waits beside what it goes into.
    let spool = place(ctx)?.root.join(if repo.log.state().pool { "tenants" } else { "agents" });
    let _alone = alone(&spool)?;
    let host_key = Door::host_key(&repo)?;
    repo.remember();
    let repo = Arc::new(repo);
    let output = Arc::clone(&ctx.output);
    let tell = Box::new(move |text: &str| output.complain(format!("packmule: {text}")));
    let door = Arc::new(Door::new(Pool::new(Arc::clone(&repo), host_key.public().text(), spool), tell));
    let running = Server::start(args.listen, &host_key, door.clone(), door, Limits::default())?;
    let (address, host_key) = (running.address().to_string(), host_key.public().fingerprint());
    match ctx.output.json {
        true => ctx.output.message(&Serving { address, host_key })?,
        false => ctx.output.remark(format!("serving on {address}; host key {host_key}"))?,
    }
    ctx.output.flush()?;
    service::ready()?;
    while !ctx.stopped() {
        std::thread::sleep(Duration::from_millis(100));
    }
    running.stop(GRACE);
    repo.remember();
    Ok(ExitCode::Ok)
}
