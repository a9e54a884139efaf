//! `umount`.

use std::time::{Duration, Instant};

use fs::device::{Detached, detach, mounted_at};
use repo::error::{Error, Kind, Result, printable};
use repo::mount_table::KIND;

use crate::args::UmountArgs;
use crate::context::Context;
use crate::exit::ExitCode;

/// A mount leaves the table at once, or somebody keeps it there.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs `umount`. Anything else that is mounted there is left alone.
pub fn run(ctx: &Context, args: UmountArgs) -> Result<ExitCode> {
    // A dead mount cannot be looked into, but its parent can.
    let dir = match args.dir.canonicalize() {
        Ok(dir) => dir,
        Err(e) if e.raw_os_error() == Some(libc::ENOTCONN) => {
            std::path::absolute(&args.dir).map_err(|e| Error::io("find", &args.dir, e))?
        }
        Err(e) => return Err(Error::io("find", &args.dir, e)),
    };
    let mounted = mounted_at(&dir)?.filter(|m| m.kind == KIND);
    if mounted.is_none() {
        return Err(Error::new(Kind::NotFound, "no repository is mounted at").at(&dir));
    }
    let how = detach(&dir)?;
    let start = Instant::now();
    while mounted_at(&dir)? == mounted {
        if start.elapsed() > PATIENCE {
            return Err(Error::new(Kind::Io, "it is still mounted:").at(&dir));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    if how == Detached::Lazily {
        let dir = printable(&dir);
        ctx.output
            .complain(format!("packmule: {dir} was in use: files that are open can be read on until they are closed"));
    }
    Ok(ExitCode::Ok)
}
