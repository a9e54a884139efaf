//! `serve`.

use std::sync::Arc;
use std::time::Duration;

use repo::error::Result;
use repo::open::Access;
use repo::tenants::require_pool;
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

/// Runs `serve`.
pub fn run(ctx: &Context, args: &ServeArgs) -> Result<ExitCode> {
    let repo = open_repository(ctx, Access::Write)?;
    require_pool(&repo)?;
    let host_key = Door::host_key(&repo)?;
    repo.remember();
    let repo = Arc::new(repo);
    let spool = place(ctx)?.root.join("tenants");
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
