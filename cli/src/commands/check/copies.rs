//! At a pool: the copies of sealed tenants, of which packs alone can be told to be whole.

use repo::check::{Outcome, ReadData};
use repo::error::{Error, Result};
use repo::history::tenant_name;
use repo::open::Repository;
use sync::serve::objects::{copy_dir, nested_copies, verify};

use super::Line;
use crate::commands::open::place;
use crate::context::Context;

/// Compares packs with their names; damaged ones are set aside, and asked for again at the tenant's next push. Returns how many copies
/// there are. Only those of the tenant `only`, if one is given.
pub fn check(
    ctx: &Context,
    repo: &Repository,
    read: ReadData,
    only: Option<u32>,
    outcome: &mut Outcome,
) -> Result<u64> {
    let mut count = 0;
    let state = repo.log.state();
    if !state.pool {
        return Ok(count);
    }
    let tenants = place(ctx)?.root.join("tenants");
    let salt = u32::from_le_bytes(repo::id::random_bytes());
    for (number, of) in nested_copies(&tenants)? {
        if only.is_some_and(|only| only != number) {
            continue;
        }
        count += 1;
        let chosen = &mut |id: &repo::id::PackId| read.chooses(id, salt);
        let found = verify(&copy_dir(&tenants, number), of, chosen, &|| ctx.stopped())?;
        outcome.packs += found.packs;
        outcome.packs_read += found.read;
        outcome.bytes_read += found.bytes;
        for (id, path) in &found.damaged {
            outcome.problems += 1;
            outcome.damaged_packs += 1;
            let tenant = tenant_name(&state, number);
            let e = Error::damaged(format!("a pack of sealed tenant {tenant} was damaged, and is set aside:"));
            let e = e.at(path).remedy("the next push of that tenant sends it again");
            match ctx.output.json {
                true => ctx.output.message(&Line::of_copy(e.to_string(), *id, tenant))?,
                false => ctx.output.line(format!("damaged pack {}: {e}", id.short()))?,
            }
        }
    }
    Ok(count)
}
