//! Trying again while the other side is out of reach.

use std::time::{Duration, Instant};

use repo::error::Result;
use sync::ssh::is_transient;

use crate::context::Context;
use crate::output::human;

/// The first pause before another try …
const FIRST_WAIT: Duration = Duration::from_secs(5);
/// … doubles up to this.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// A try that lasts longer than this was no vain one.
const SOME_WHILE: Duration = Duration::from_secs(60);

/// Does it, and, if asked to, again and again while the remote is out of reach.
pub fn again<T>(ctx: &Context, retry: bool, once: &mut dyn FnMut() -> Result<T>) -> Result<T> {
    let mut wait = FIRST_WAIT;
    loop {
        let begun = Instant::now();
        let done = once();
        // It was in reach for a while: whatever failed is new.
        if begun.elapsed() > SOME_WHILE {
            wait = FIRST_WAIT;
        }
        match done {
            Err(e) if retry && is_transient(&e) && !ctx.stopped() => {
                ctx.output.complain(format!("packmule: {e}; trying again in {}", human::duration(wait)));
                let until = Instant::now() + wait;
                while Instant::now() < until && !ctx.stopped() {
                    std::thread::sleep(Duration::from_millis(100));
                }
                wait = (wait * 2).min(LONGEST_WAIT);
            }
            other => return other,
        }
    }
}
