//! Whether a snapshot would hold just what the previous one does.

use crate::capture::plan::Node;
use crate::error::Result;
use crate::format::tree::{Content, Entry};
use crate::pack::source::FrameSource;
use crate::tree::dir::lookup;

/// Whether all that was named at or below `node` is in `after` as it was in `before`. A directory that only leads to what
/// was named does not count: others work in it.
///
/// # Errors
/// What reading the trees gives.
pub fn unchanged(source: &dyn FrameSource, node: &Node, before: &Entry, after: &Entry) -> Result<bool> {
    let (Content::Dir(old), Content::Dir(new)) = (&before.content, &after.content) else { return Ok(before == after) };
    if before == after || node.whole {
        return Ok(before == after);
    }
    for (name, child) in &node.children {
        let same = match (lookup(source, old, name)?, lookup(source, new, name)?) {
            (Some(before), Some(after)) => unchanged(source, child, &before, &after)?,
            (before, after) => before.is_none() && after.is_none(),
        };
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}
