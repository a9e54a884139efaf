//! `log --audit`.

use std::collections::VecDeque;

use repo::error::Result;
use repo::format::record::{AuditEntry, Audited};
use repo::open::Repository;
use serde::Serialize;

use crate::args::LogArgs;
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::{human, json};

/// An entry as JSON.
#[derive(Serialize)]
#[serde(tag = "message_type", rename = "audit")]
struct Line<'a> {
    /// Its record in the log.
    seq: u64,
    time: json::Time,
    /// The fingerprint of a key, or a user of this machine.
    who: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    label: &'a str,
    from: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    tenant: &'a str,
    operation: &'a str,
    bytes_received: u64,
    bytes_sent: u64,
    snapshots: u64,
    ok: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    error: &'a str,
    duration: f64,
}

/// Shows the audit. What of it cannot be verified is said, and the exit code is that of damage.
pub fn run(ctx: &Context, repo: &Repository, args: &LogArgs) -> Result<ExitCode> {
    let since = args.since.map(|at| at.first());
    let last = args.last.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    let (mut kept, mut failed) = (VecDeque::new(), false);
    repo.log.audit(&mut |found| {
        let entry = match found {
            Ok(entry) => entry,
            Err(e) => {
                failed = true;
                ctx.output.complain(format!("packmule: warning: {e}"));
                return Ok(());
            }
        };
        if since.is_some_and(|since| human::timestamp(entry.time) < since) {
            return Ok(());
        }
        let Some(last) = last else { return show(ctx, &entry) };
        if kept.len() >= last {
            kept.pop_front();
        }
        kept.push_back(entry);
        Ok(())
    })?;
    kept.iter().try_for_each(|entry| show(ctx, entry))?;
    ctx.output.flush()?;
    Ok(if failed { ExitCode::Found } else { ExitCode::Ok })
}

fn show(ctx: &Context, audited: &Audited) -> Result<()> {
    let entry = &audited.entry;
    if ctx.output.json {
        return ctx.output.message(&Line {
            seq: audited.seq,
            time: json::Time::of(audited.time),
            who: &entry.who,
            label: &entry.label,
            from: &entry.from,
            tenant: &entry.name,
            operation: &entry.operation,
            bytes_received: entry.taken,
            bytes_sent: entry.given,
            snapshots: entry.snapshots,
            ok: entry.failure.is_empty(),
            error: &entry.failure,
            duration: entry.millis as f64 / 1000.0,
        });
    }
    let time = human::time(human::timestamp(audited.time));
    ctx.output.line(format!("{:>8}  {time}  {}", audited.seq, human::path(line(entry).as_bytes())))
}

/// An entry in a line.
pub fn line(entry: &AuditEntry) -> String {
    let AuditEntry { who, label, from, name, operation, taken, given, snapshots, failure, millis, .. } = entry;
    let mut text = operation.clone();
    if !name.is_empty() {
        text.push_str(&format!(" of {name}"));
    }
    text.push_str(&format!(" by {who}"));
    if !label.is_empty() {
        text.push_str(&format!(" ({label})"));
    }
    text.push_str(&format!(" from {from}"));
    if *snapshots > 0 {
        text.push_str(&format!(", {}", human::count(*snapshots, "snapshot")));
    }
    if taken + given > 0 {
        text.push_str(&format!(", {} in, {} out", human::size(*taken), human::size(*given)));
    }
    match millis {
        0 => {}
        1..1000 => text.push_str(&format!(", {millis} ms")),
        _ => text.push_str(&format!(", {}", human::duration(std::time::Duration::from_millis(*millis)))),
    }
    format!("{text}: {}", if failure.is_empty() { "ok" } else { failure })
}
