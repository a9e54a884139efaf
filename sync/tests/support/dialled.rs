//! Connections in memory to a pool, made as they are asked for.

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use repo::error::{Error, Kind, Result};
use sync::fetch::Dial;
use sync::serve::{Grant, Pool, serve};
use sync::ssh::server::StopFlag;
use sync::stream::Duplex;

/// Does something with a pool that `connect` makes connections to, a client's end and a server's each. Comes back when all of
/// them have ended, with what each came to at the server.
pub fn dialled<T>(
    pool: &Pool,
    grant: &Grant,
    connect: &(dyn Fn() -> (Duplex, Duplex) + Sync),
    client: impl FnOnce(Dial) -> T,
) -> (T, Vec<Result<()>>) {
    let (ask, asked) = channel::<std::sync::mpsc::Sender<Duplex>>();
    let served = Mutex::new(Vec::new());
    let done = std::thread::scope(|scope| {
        let served = &served;
        scope.spawn(move || {
            for back in asked {
                let (near, far) = connect();
                scope.spawn(move || {
                    let result = serve(pool, grant, far, &StopFlag::default());
                    served.lock().unwrap().push(result);
                });
                let _ = back.send(near);
            }
        });
        let ask = Mutex::new(ask);
        client(Arc::new(move || {
            let (back, near) = channel();
            let gone = || Error::new(Kind::Unreachable, "nobody is there any more");
            ask.lock().unwrap().send(back).map_err(|_| gone())?;
            near.recv().map_err(|_| gone())
        }))
    });
    (done, served.into_inner().unwrap())
}
