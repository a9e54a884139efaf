//! At a pool: the copies of sealed tenants, of which packs alone can be told to be whole.

use repo::check::{Outcome, ReadData};
use repo::error::{Error, Result};
use repo::history::tenant_name;
use repo::open::Repository;
use sync::serve::objects::{copy_dir, nested_copies, verify};

use crate::commands::open::place;
use crate::context::Context;
use crate::output::json;

/// Compares packs with their names; damaged ones are set aside, and asked for again at the tenant's next push.
pub fn check(ctx: &Context, repo: &Repository, read: ReadData, outcome: &mut Outcome) -> Result<()> {
    let state = repo.log.state();
    if !state.pool {
        return Ok(());
    }
    let tenants = place(ctx)?.root.join("tenants");
    let salt = u32::from_le_bytes(repo::id::random_bytes());
    for (number, of) in nested_copies(&tenants)? {
        let chosen = &mut |id: &repo::id::PackId| read.chooses(id, salt);
        let found = verify(&copy_dir(&tenants, number), of, chosen, &|| ctx.stopped())?;
        outcome.packs += found.packs;
        outcome.bytes_read += found.bytes;
        for (id, path) in &found.damaged {
            outcome.problems += 1;
            outcome.damaged_packs += 1;
            let tenant = tenant_name(&state, number);
            let e = Error::damaged(format!("a pack of sealed tenant {tenant} was damaged, and is set aside:"));
            let e = e.at(path).remedy("the next push of that tenant sends it again");
            match ctx.output.json {
                true => ctx.output.message(&json::Remark::Notice { message: &e.to_string() })?,
                false => ctx.output.line(format!("damaged pack {}: {e}", id.short()))?,
            }
        }
    }
    Ok(())
}
