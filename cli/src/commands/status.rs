//! `status`.

use std::time::Duration;

use jiff::tz::TimeZone;
use repo::clock::Time;
use repo::error::Result;
use repo::format::record::{CheckState, State};
use repo::open::Access;
use repo::status::{Freshness, status};
use repo::times::Times;

use super::open::open_repository;
use super::which;
use crate::args::StatusArgs;
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::human::{self, Table};
use crate::output::json;

/// Runs `status`.
pub fn run(ctx: &Context, args: StatusArgs) -> Result<ExitCode> {
    let repo = open_repository(ctx, Access::Read)?;
    let state = repo.log.state();
    let ids = which::resolve_all(&repo, &[], &which::filter(&args.filter))?;
    let chosen: std::collections::BTreeSet<_> = ids.into_iter().collect();
    let now = repo.clock.now();
    let found = status(&state, &Times::of(&state, now), &|id, _| chosen.contains(id));
    // What is older than this is late.
    let limit = args.max_age.map(|span| span.before(human::timestamp(now), &TimeZone::system()));
    // So is what is as old as nobody knows.
    let is_late = |f: &Freshness| f.in_doubt() || limit.is_some_and(|limit| human::timestamp(f.as_of()) < limit);
    // Nothing at all is later than anything.
    let late = found.values().any(is_late) || (limit.is_some() && found.is_empty());
    if ctx.output.json {
        for ((host, source), f) in &found {
            ctx.output.message(&json::SourceStatus {
                hostname: host.clone(),
                source: source.clone(),
                snapshot_id: f.newest.to_hex(),
                time: json::Time::of(f.captured),
                received: json::Time::of(f.received),
                age_seconds: f.age(now).as_secs(),
                snapshots_count: f.snapshots,
                in_future: f.in_doubt(),
                late: is_late(f),
            })?;
        }
        ctx.output.message(&json::RepositoryStatus {
            late,
            last_check: state.last_check.as_ref().map(check_message),
            last_data_check: state.last_data_check.as_ref().map(check_message),
            last_full_check: state.last_full_check.as_ref().map(check_message),
            damaged_packs: state.damaged.len() as u64,
            sessions: state.sessions.len() as u64,
            forgotten_snapshots: state.snapshots.values().filter(|s| s.forgotten.is_some()).count() as u64,
        })?;
    } else {
        let mut table = Table::new(&["Host", "Source", "Newest", "Time", ">Age", ">Snapshots", ""]);
        for ((host, source), f) in &found {
            table.row([
                host.clone(),
                source.clone(),
                f.newest.short(),
                human::time(human::timestamp(f.captured)),
                age(f.age(now)),
                f.snapshots.to_string(),
                match (f.in_doubt(), is_late(f)) {
                    (true, _) => "IN THE FUTURE".to_owned(),
                    (_, true) => "LATE".to_owned(),
                    _ => String::new(),
                },
            ]);
        }
        if found.is_empty() {
            ctx.output.line(if late { "no snapshots: LATE" } else { "no snapshots" })?;
        } else {
            table.lines().iter().try_for_each(|line| ctx.output.line(line))?;
        }
        future(ctx, found.values().map(|f| f.ahead).sum())?;
        repository(ctx, &state, now)?;
    }
    ctx.output.flush()?;
    // Damage that is known is as bad as a backup that is late: monitoring must not miss it.
    let unsound = |check: &Option<CheckState>| check.as_ref().is_some_and(|c| !c.ok);
    let damaged = !state.damaged.is_empty() || unsound(&state.last_check) || unsound(&state.last_data_check);
    Ok(if late || damaged { ExitCode::Found } else { ExitCode::Ok })
}

/// Says that a clock was wrong, and what to do about it.
fn future(ctx: &Context, ahead: u64) -> Result<()> {
    match ahead {
        0 => Ok(()),
        n => ctx.output.line(format!(
            "{} made in the future: a clock was ahead, or this one is behind; back up again with the clock right, \
             then `packmule forget` those",
            human::count(n, "snapshot")
        )),
    }
}

fn repository(ctx: &Context, state: &State, now: Time) -> Result<()> {
    let check = |what: &str, check: &Option<CheckState>| match check {
        None => format!("{what}: never"),
        Some(c) => {
            let result = if c.ok { "nothing wrong" } else { "FOUND DAMAGE" };
            let read = match kind(c) {
                "structure" => "structure only".to_owned(),
                "subset" => format!("{} of the data", human::path(c.subset.as_bytes())),
                _ => "all data".to_owned(),
            };
            format!("{what}: {} ago, {read}, {result}", age(now.since(c.at)))
        }
    };
    ctx.output.line(check("last check", &state.last_check))?;
    ctx.output.line(check("last check of data", &state.last_data_check))?;
    // A part that was read since does not make it forgotten.
    if state.last_full_check != state.last_data_check {
        ctx.output.line(check("last check of all data", &state.last_full_check))?;
    }
    if !state.damaged.is_empty() {
        ctx.output.line(format!("{} known to be damaged", human::count(state.damaged.len() as u64, "pack")))?;
    }
    if !state.sessions.is_empty() {
        ctx.output.line(format!("{} at work or interrupted", human::count(state.sessions.len() as u64, "writer")))?;
    }
    Ok(())
}

fn check_message(check: &CheckState) -> json::CheckStatus {
    let (time, subset) = (json::Time::of(check.at), check.subset.clone());
    json::CheckStatus { time, ok: check.ok, kind: kind(check), subset }
}

/// How much a check read, in a word.
fn kind(check: &CheckState) -> &'static str {
    match (check.data, check.subset.is_empty()) {
        (false, _) => "structure",
        (true, false) => "subset",
        (true, true) => "full",
    }
}

/// `3d 4h`, `4h 12m`, `12m`: the two largest units.
fn age(span: Duration) -> String {
    let minutes = span.as_secs() / 60;
    let (days, hours, minutes) = (minutes / 1440, minutes / 60 % 24, minutes % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes}m"),
        (0, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        for (secs, text) in [(59, "0m"), (3599, "59m"), (3600, "1h 0m"), (90_000, "1d 1h")] {
            assert_eq!(age(Duration::from_secs(secs)), text);
        }
    }
}
