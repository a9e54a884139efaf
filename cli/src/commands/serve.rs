//! `serve`.

use std::fs::{self, OpenOptions};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use repo::error::{Error, Kind, Result};
use repo::lock::{Locks, PruneGuard};
use repo::open::Access;
use serde::Serialize;
use sync::serve::{Door, Pool, Tell, Told};
use sync::ssh::server::Server;

use super::open::{open_repository, place};
use super::profiles;
use crate::args::ServeArgs;
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::{Output, json};
use crate::server_file::ServerFile;
use crate::service;

/// Where to listen, unless told.
const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 7022);
/// How long the packs that are arriving may take once the server is to stop. Longer ones are cut, and go on where they were.
const GRACE: Duration = Duration::from_secs(30);

/// The start as JSON.
#[derive(Serialize)]
#[serde(tag = "message_type", rename = "serving")]
struct Serving {
    address: String,
    host_key: String,
}

/// An event as a line for programs: on standard output as JSON, else on standard error as names and values.
fn say(output: &Output, told: &Told<'_>) {
    if !output.json {
        return output.complain(format!("packmule: {told}"));
    }
    let mut line = serde_json::Map::new();
    line.insert("message_type".into(), "event".into());
    line.insert("time".into(), json::Time(jiff::Timestamp::now()).0.to_string().into());
    line.insert("event".into(), told.event.into());
    for (name, value) in &told.fields {
        let number = matches!(*name, "snapshots" | "bytes_received" | "bytes_sent" | "seconds");
        let parsed = if number { serde_json::from_str(value).ok() } else { None };
        line.insert((*name).into(), parsed.unwrap_or_else(|| value.as_str().into()));
    }
    // Nobody may read it any more: the server goes on.
    let _ = output.message_now(&serde_json::Value::Object(line));
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
    let root = place(ctx)?.root;
    let file = ServerFile::load(args.config.as_deref(), &root)?;
    let (upload, download) = file.rates()?;
    let mut rates = args.rates.clone();
    (rates.limit_upload, rates.limit_download) = (rates.limit_upload.or(upload), rates.limit_download.or(download));
    rates.apply()?;
    let listen = args.listen.or(file.listen()?).unwrap_or(LISTEN);
    // What arrives waits beside what it goes into.
    let own = root.join(if repo.log.state().pool { "tenants" } else { "agents" });
    let _alone = alone(&own)?;
    let spool = file.spool.clone().unwrap_or(own);
    let host_key = Door::host_key(&repo)?;
    // A copy of the repository can take its place only with what it is served by.
    profiles::keep(ctx, &repo);
    repo.remember();
    let repo = Arc::new(repo);
    let output = Arc::clone(&ctx.output);
    let tell: Tell = Box::new(move |told| say(&output, told));
    let door = Arc::new(Door::new(Pool::new(Arc::clone(&repo), host_key.public().text(), spool), tell));
    let running = Server::start(listen, &host_key, door.clone(), door, file.limits()?)?;
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
