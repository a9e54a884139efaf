//! `log`.

mod audit;

use std::collections::VecDeque;

use repo::error::{Error, Result};
use repo::format::record::{Entry, Outcome, Record, State};
use repo::history::tenant_name;
use repo::id::{PackId, SnapshotId};
use repo::open::Access;

use super::open::open_repository;
use crate::args::LogArgs;
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::{human, json};

/// In a line, more ids than this are only counted.
const LISTED: usize = 8;

/// Runs `log`.
pub fn run(ctx: &Context, args: LogArgs) -> Result<ExitCode> {
    let repo = open_repository(ctx, Access::Read)?;
    if args.audit {
        return audit::run(ctx, &repo, &args);
    }
    let state = repo.log.state();
    let since = args.since.map(|at| at.first());
    let last = args.last.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    let mut kept: VecDeque<Result<Line>> = VecDeque::new();
    let mut failed = false;
    repo.log.history(&mut |found| {
        let line = found.map(|entry| Line::of(&entry, &state));
        if line.as_ref().is_ok_and(|l| since.is_some_and(|since| human::timestamp(l.time) < since)) {
            return Ok(());
        }
        let Some(last) = last else { return show(ctx, line, &mut failed) };
        if kept.len() >= last {
            kept.pop_front();
        }
        kept.push_back(line);
        Ok(())
    })?;
    kept.into_iter().try_for_each(|line| show(ctx, line, &mut failed))?;
    ctx.output.flush()?;
    Ok(if failed { ExitCode::Failed } else { ExitCode::Ok })
}

/// A record as it is shown: small, whatever a checkpoint holds.
struct Line {
    seq: u64,
    time: repo::clock::Time,
    kind: &'static str,
    tenant: Option<String>,
    text: String,
}

fn show(ctx: &Context, line: std::result::Result<Line, Error>, failed: &mut bool) -> Result<()> {
    let line = match line {
        Ok(line) => line,
        Err(e) => {
            *failed = true;
            ctx.output.complain(format!("packmule: warning: {e}"));
            return Ok(());
        }
    };
    if ctx.output.json {
        let time = json::Time::of(line.time);
        return ctx.output.message(&json::LogRecord {
            seq: line.seq,
            time,
            kind: line.kind,
            tenant: line.tenant,
            message: line.text,
        });
    }
    let time = human::time(human::timestamp(line.time));
    ctx.output.line(format!("{:>8}  {time}  {}", line.seq, human::path(line.text.as_bytes())))
}

impl Line {
    fn of(entry: &Entry, state: &State) -> Line {
        let number = concerned(&entry.record);
        let agent = number.and_then(|number| state.agents.get(&number));
        let tenant = number.filter(|_| agent.is_none()).map(|number| tenant_name(state, number));
        let named = agent.map(|agent| format!("agent {}", agent.name));
        let named = named.or_else(|| tenant.as_ref().map(|name| format!("tenant {name}")));
        let (kind, mut text) = describe(&entry.record, named.as_deref().unwrap_or_default());
        if !entry.trusted {
            text.push_str(" (its clock disagreed with the records before)");
        }
        Line { seq: entry.seq, time: entry.time, kind, tenant, text }
    }
}

/// The tenant that a record is about.
fn concerned(record: &Record) -> Option<u32> {
    match record {
        Record::SnapshotRecorded { origin, .. } => origin.map(|origin| origin.tenant),
        Record::TenantSet { tenant, .. } | Record::TenantRemoved { tenant, .. } | Record::Watermark { tenant, .. } => {
            Some(*tenant)
        }
        Record::Audited { entry } => entry.tenant,
        _ => None,
    }
}

/// What happened, in a word for programs and in a line for people; `whose` as `tenant acme`, `agent web1`.
fn describe(record: &Record, whose: &str) -> (&'static str, String) {
    match record {
        Record::SessionBegin { session, purpose, host, pid, .. } => {
            ("session-begin", format!("{purpose} began on {host}, process {pid}, as session {}", session.short()))
        }
        Record::PacksAdded { session, packs, .. } => {
            let size = packs.iter().map(|p| p.size).sum();
            let packs = human::count(packs.len() as u64, "pack");
            ("packs-added", format!("session {} stored {packs}, {}", session.short(), human::size(size)))
        }
        Record::SnapshotRecorded { snapshot, host, source, tags, origin, .. } => {
            let tags = if tags.is_empty() { String::new() } else { format!(", tags {}", tags.join(",")) };
            let name = whose.strip_prefix("tenant ").filter(|_| origin.is_some());
            let whose = name.map_or_else(String::new, |name| format!("{name} "));
            ("snapshot-recorded", format!("snapshot {} of {whose}{host} {source}{tags}", snapshot.short()))
        }
        Record::SessionEnd { session, outcome } => {
            let how = match outcome {
                Outcome::Done => "is done",
                Outcome::Failed => "failed",
                Outcome::Adopted => "was interrupted; its packs are kept",
            };
            ("session-end", format!("session {} {how}", session.short()))
        }
        Record::Forgotten { snapshots, .. } => ("forgotten", format!("forgot {}", of_snapshots(snapshots))),
        Record::Unforgotten { snapshots } => ("unforgotten", format!("brought back {}", of_snapshots(snapshots))),
        Record::Tagged { snapshot, add, remove } => {
            let signed = |sign, tags: &[String]| tags.iter().map(|t| format!(" {sign}{t}")).collect::<String>();
            ("tagged", format!("tags of {}:{}{}", snapshot.short(), signed('-', remove), signed('+', add)))
        }
        Record::Pinned { snapshots } => ("pinned", format!("pinned {}", of_snapshots(snapshots))),
        Record::Unpinned { snapshots } => ("unpinned", format!("unpinned {}", of_snapshots(snapshots))),
        Record::Condemned { packs, .. } => ("condemned", format!("to be removed: {}", of_packs(packs))),
        Record::Uncondemned { packs } => ("uncondemned", format!("kept after all: {}", of_packs(packs))),
        Record::SweepIntent { packs, snapshots, .. } => {
            ("sweep-intent", format!("removing {} and {}", of_packs(packs), of_snapshots(snapshots)))
        }
        Record::Swept { packs, snapshots } => {
            ("swept", format!("removed {} and {}", of_packs(packs), of_snapshots(snapshots)))
        }
        Record::Damage { packs, .. } => ("damage", format!("found damaged: {}", of_packs(packs))),
        Record::Healed { packs } => ("healed", format!("no longer damaged: {}", of_packs(packs))),
        Record::KeyEpoch { epoch, .. } => ("key-epoch", format!("new master key, epoch {epoch}")),
        Record::CheckDone { data, ok, subset, .. } => {
            let what = if *data { "checked the data" } else { "checked the structure" };
            let subset = if subset.is_empty() { String::new() } else { format!(" ({subset})") };
            let result = if *ok { "nothing wrong" } else { "found damage" };
            ("check-done", format!("{what}{subset}: {result}"))
        }
        Record::ClockAccepted => ("clock-accepted", "the clock was accepted as right".to_owned()),
        Record::PoolMade => ("pool-made", "the repository became a pool".to_owned()),
        Record::TenantSet { state, .. } => match state.removed {
            Some(_) => ("tenant-set", format!("tenant {} is to be removed", state.name)),
            None => ("tenant-set", format!("tenant {} was set up or changed", state.name)),
        },
        Record::TenantRemoved { certificate, .. } => {
            let snapshots = human::count(certificate.removal.snapshots, "snapshot");
            ("tenant-removed", format!("tenant {} was removed, with {snapshots}", certificate.name))
        }
        Record::PolicySet { .. } => ("policy-set", "the pool's defaults for tenants were set".to_owned()),
        Record::Audited { entry } => ("audited", audit::line(entry)),
        Record::AuditKept { segment, .. } => ("audit-kept", format!("part {segment} of the audit is kept")),
        Record::Watermark { position, .. } => {
            ("watermark", format!("{whose} delivered everything up to its record {}", position.seq))
        }
        Record::RemoteSet { name, state } => ("remote-set", format!("remote {name} at {} was set up", state.url)),
        Record::RemoteRemoved { name } => ("remote-removed", format!("remote {name} was removed")),
        Record::Pushed { remote, position, .. } => {
            ("pushed", format!("everything up to record {} is at remote {remote}", position.seq))
        }
        Record::AgentSet { state, .. } => ("agent-set", format!("the agent of {} was set up or changed", state.name)),
        Record::Belongings { tenant, .. } => {
            ("belongings", format!("tenant number {tenant} left what it wants back if its repository is lost"))
        }
        Record::ProfilesKept { profiles } => {
            ("profiles-kept", format!("{} kept", human::count(profiles.iter().len() as u64, "profile")))
        }
        Record::DriveSet { drive, state } => {
            let (label, whom) = (&state.label, if state.party.is_empty() { "nobody" } else { &state.party });
            let by = state.steps.last().map_or("", |step| &step.by);
            let how = state.custody().name();
            ("drive-set", format!("drive {} ({label}), for {whom}: {how}, says {by}", drive.short()))
        }
        Record::DriveLoaded { drive, loads } => {
            let packs = loads.iter().map(|load| u64::from(load.count)).sum();
            ("drive-loaded", format!("drive {} carries {} more", drive.short(), human::count(packs, "pack")))
        }
        Record::HostKey { .. } => ("host-key", "the server has a new host key".to_owned()),
        Record::OwnerPinned { tenant, .. } => {
            ("owner-pinned", format!("tenant number {tenant} is its owner's key's: no other orders deletions"))
        }
        Record::OrderObeyed { tenant, order } => {
            let (objects, bytes) = (human::count(order.objects, "object"), human::size(order.bytes));
            ("order-obeyed", format!("by its owner's order, removing {objects} of tenant number {tenant}, {bytes}"))
        }
        Record::ManifestReplaced { snapshot, .. } => (
            "manifest-replaced",
            format!("the manifest of snapshot {} was damaged and is whole again", snapshot.short()),
        ),
        Record::Checkpoint { state } => {
            ("checkpoint", format!("checkpoint of {}", human::count(state.snapshots.len() as u64, "snapshot")))
        }
        Record::Ignored { kind, .. } => ("unknown", format!("a newer program's record of type {kind}")),
    }
}

fn of_snapshots(ids: &[SnapshotId]) -> String {
    listed("snapshot", ids.iter().map(SnapshotId::short))
}

fn of_packs(ids: &[PackId]) -> String {
    listed("pack", ids.iter().map(PackId::short))
}

/// `2 packs (ab12cd34 …)`.
fn listed(noun: &str, ids: impl ExactSizeIterator<Item = String>) -> String {
    let count = ids.len();
    let mut list = ids.take(LISTED).collect::<Vec<_>>().join(" ");
    if count > LISTED {
        list.push_str(" …");
    }
    match count {
        0 => format!("no {noun}s"),
        _ => format!("{} ({list})", human::count(count as u64, noun)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_as_words() {
        let ids: Vec<SnapshotId> = (0..9).map(|n| SnapshotId([n; 32])).collect();
        let (kind, text) = describe(&Record::Pinned { snapshots: ids }, "");
        assert_eq!(kind, "pinned");
        assert!(text.starts_with("pinned 9 snapshots (00000000 01010101") && text.ends_with("07070707 …)"), "{text}");
        let swept = Record::Swept { packs: vec![PackId([1; 32])], snapshots: vec![] };
        assert_eq!(describe(&swept, "").1, "removed 1 pack (01010101) and no snapshots");
        let tagged = Record::Tagged { snapshot: SnapshotId([2; 32]), add: vec!["a".into()], remove: vec!["b".into()] };
        assert_eq!(describe(&tagged, "").1, "tags of 02020202: -b +a");
    }
}
