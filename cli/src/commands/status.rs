//! `status`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::tz::TimeZone;
use repo::clock::Time;
use repo::error::Result;
use repo::format::record::{CheckState, State, TenantState};
use repo::history::{History, tenant_name};
use repo::open::Access;
use repo::status::{Freshness, damage_is_open, status};
use repo::times::Times;
use serde::Serialize;

use super::open::open_repository;
use super::which;
use crate::args::{Filter, FilterRest, StatusArgs};
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::human::{self, Table};
use crate::output::{Output, json};

/// What is told, and whether it is as it should be.
struct Report<'a> {
    /// Tenants of which no snapshot can be seen here.
    silent: Vec<SilentTenant>,
    found: &'a BTreeMap<History, Freshness>,
    state: &'a State,
    now: Time,
    is_late: &'a dyn Fn(&Freshness) -> bool,
    late: bool,
    damage_open: bool,
    rolled_back: bool,
}

/// Runs `status`.
pub fn run(ctx: &Context, args: StatusArgs) -> Result<ExitCode> {
    let repo = open_repository(ctx, Access::Read)?;
    let state = repo.log.state();
    let ids = which::resolve_all(&repo, &[], &which::filter_with_sealed(&repo, &args.filter)?)?;
    let chosen: std::collections::BTreeSet<_> = ids.into_iter().collect();
    let now = repo.clock.now();
    let found = status(&state, &Times::of(&state, now), &|id, _| chosen.contains(id));
    // What is older than this is late.
    let limit = args.max_age.map(|span| span.before(human::timestamp(now), &TimeZone::system()));
    // So is what is as old as nobody knows.
    let is_late = |f: &Freshness| f.in_doubt() || limit.is_some_and(|limit| human::timestamp(f.as_of()) < limit);
    let silent = silent(&state, &args, &|since| limit.is_some_and(|limit| human::timestamp(since) < limit));
    let report = Report {
        found: &found,
        state: &state,
        now,
        is_late: &is_late,
        // Nothing at all is later than anything.
        late: found.values().any(is_late)
            || (limit.is_some() && found.is_empty() && silent.iter().all(|tenant| tenant.pushed.is_none()))
            || silent.iter().any(|tenant| tenant.late),
        silent,
        damage_open: damage_is_open(&state),
        rolled_back: repo.rolled_back.is_some(),
    };
    match ctx.output.json {
        true => report.tell_json(&ctx.output)?,
        false => report.tell(&ctx.output)?,
    }
    ctx.output.flush()?;
    // Damage that is known is as bad as a backup that is late: monitoring must not miss it.
    Ok(if report.late || report.damage_open || report.rolled_back { ExitCode::Found } else { ExitCode::Ok })
}

/// A tenant that has nothing here, or nothing that can be read here, as JSON.
#[derive(Serialize)]
#[serde(tag = "message_type", rename = "tenant")]
struct Silent<'a> {
    tenant: &'a str,
    sealed: bool,
    made: json::Time,
    /// When the last push of a sealed tenant ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_push: Option<json::Time>,
    /// Absent of a sealed tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshots_count: Option<u64>,
    late: bool,
}

/// The same.
struct SilentTenant {
    name: String,
    sealed: bool,
    made: Time,
    pushed: Option<Time>,
    late: bool,
}

/// Tenants of whom no snapshot is to be seen here, unless some are looked for that they need not have, or they are not to come.
/// Of a sealed tenant the last push counts.
fn silent(state: &State, args: &StatusArgs, late: &dyn Fn(Time) -> bool) -> Vec<SilentTenant> {
    let Filter { host, rest: FilterRest { tenant, source, tag, path }, at } = &args.filter;
    if !host.is_empty() || !source.is_empty() || !tag.is_empty() || !path.is_empty() || at.is_some() {
        return Vec::new();
    }
    let heard: BTreeSet<u32> =
        state.snapshots.values().filter(|s| s.forgotten.is_none()).filter_map(|s| Some(s.origin?.tenant)).collect();
    let meant =
        |t: &TenantState| !t.suspended && t.removed.is_none() && (tenant.is_empty() || tenant.contains(&t.name));
    let silent = state.tenants.iter().filter(|(number, t)| !heard.contains(number) && meant(t));
    silent
        .map(|(number, t)| {
            let pushed = state.pushes.get(number).copied().filter(|_| t.sealed);
            let late = late(pushed.unwrap_or(t.made));
            SilentTenant { name: t.name.clone(), sealed: t.sealed, made: t.made, pushed, late }
        })
        .collect()
}

impl Report<'_> {
    fn tell_json(&self, output: &Output) -> Result<()> {
        for tenant in &self.silent {
            output.message(&Silent {
                tenant: &tenant.name,
                sealed: tenant.sealed,
                made: json::Time::of(tenant.made),
                last_push: tenant.pushed.map(json::Time::of),
                snapshots_count: (!tenant.sealed).then_some(0),
                late: tenant.late,
            })?;
        }
        for (history, f) in self.found {
            let newest = self.state.snapshots.get(&f.newest);
            output.message(&json::SourceStatus {
                whose: newest.map(|s| json::Whose::of(self.state, s)).unwrap_or_default(),
                hostname: history.host.clone(),
                source: history.source.clone(),
                snapshot_id: f.newest.to_hex(),
                time: json::Time::of(f.captured),
                received: json::Time::of(f.received),
                age_seconds: f.age(self.now).as_secs(),
                snapshots_count: f.snapshots,
                in_future: f.in_doubt(),
                late: (self.is_late)(f),
            })?;
        }
        let state = self.state;
        let check = |check: &Option<CheckState>| check.as_ref().map(|check| self.check_message(check));
        output.message(&json::RepositoryStatus {
            late: self.late,
            damage_open: self.damage_open,
            rolled_back: self.rolled_back,
            last_check: check(&state.last_check),
            last_data_check: check(&state.last_data_check),
            last_full_check: check(&state.last_full_check),
            damaged_packs: state.damaged.len() as u64,
            sessions: state.sessions.len() as u64,
            forgotten_snapshots: state.snapshots.values().filter(|s| s.forgotten.is_some()).count() as u64,
        })
    }

    /// With `-q` only what gives exit code 5.
    fn tell(&self, output: &Output) -> Result<()> {
        let pool = self.state.pool;
        let mut titles = vec!["Host", "Source", "Newest", "Time", ">Age", ">Snapshots", ""];
        if pool {
            titles.insert(0, "Tenant");
        }
        let mut table = Table::new(&titles);
        let (mut rows, mut ahead) = (0, 0);
        for (history, f) in self.found {
            let late = (self.is_late)(f);
            if output.quiet && !late {
                continue;
            }
            (rows, ahead) = (rows + 1, ahead + f.ahead);
            let mut cells = vec![
                history.host.clone(),
                history.source.clone(),
                f.newest.short(),
                human::time(human::timestamp(f.captured)),
                age(f.age(self.now)),
                f.snapshots.to_string(),
                match (f.in_doubt(), late) {
                    (true, _) => "IN THE FUTURE".to_owned(),
                    (_, true) => "LATE".to_owned(),
                    _ => String::new(),
                },
            ];
            if pool {
                cells.insert(0, history.tenant.map_or_else(String::new, |number| tenant_name(self.state, number)));
            }
            table.row(cells);
        }
        for tenant in self.silent.iter().filter(|tenant| tenant.late || !output.quiet) {
            rows += 1;
            let time = tenant.pushed.map_or_else(|| "never".to_owned(), |at| human::time(human::timestamp(at)));
            let age = age(self.now.since(tenant.pushed.unwrap_or(tenant.made)));
            let count = if tenant.sealed { "sealed" } else { "0" };
            let late = if tenant.late { "LATE" } else { "" };
            table.row([&tenant.name, "-", "-", "-", &time, &age, count, late].map(str::to_owned));
        }
        match (self.found.is_empty() && self.silent.is_empty(), self.late) {
            (true, true) => output.line("no snapshots: LATE")?,
            (true, false) => output.remark("no snapshots")?,
            _ if rows > 0 => table.lines().iter().try_for_each(|line| output.line(line))?,
            _ => {}
        }
        future(output, ahead)?;
        self.repository(output)
    }

    fn repository(&self, output: &Output) -> Result<()> {
        let state = self.state;
        if self.rolled_back {
            output.line("ROLLED BACK: this machine has seen a later or another state of this repository")?;
        }
        self.check(output, "last check", &state.last_check)?;
        self.check(output, "last check of data", &state.last_data_check)?;
        // A part that was read since does not make it forgotten.
        if state.last_full_check != state.last_data_check {
            self.check(output, "last check of all data", &state.last_full_check)?;
        }
        if !state.damaged.is_empty() {
            output.line(format!("{} known to be damaged", human::count(state.damaged.len() as u64, "pack")))?;
        }
        if !state.sessions.is_empty() {
            output.remark(format!("{} at work or interrupted", human::count(state.sessions.len() as u64, "writer")))?;
        }
        Ok(())
    }

    fn check(&self, output: &Output, what: &str, check: &Option<CheckState>) -> Result<()> {
        let Some(c) = check else { return output.remark(format!("{what}: never")) };
        let open = !c.ok && self.damage_open;
        let result = match (c.ok, open) {
            (true, _) => "nothing wrong",
            (false, true) => "FOUND DAMAGE",
            (false, false) => "found damage, healed since",
        };
        let read = match kind(c) {
            "structure" => "structure only".to_owned(),
            "subset" => format!("{} of the data", human::path(c.subset.as_bytes())),
            _ => "all data".to_owned(),
        };
        let text = format!("{what}: {} ago, {read}, {result}", age(self.now.since(c.at)));
        if open { output.line(text) } else { output.remark(text) }
    }

    fn check_message(&self, check: &CheckState) -> json::CheckStatus {
        let (time, subset) = (json::Time::of(check.at), check.subset.clone());
        json::CheckStatus { time, ok: check.ok, healed: !check.ok && !self.damage_open, kind: kind(check), subset }
    }
}

/// Says that a clock was wrong, and what to do about it.
fn future(output: &Output, ahead: u64) -> Result<()> {
    match ahead {
        0 => Ok(()),
        n => output.line(format!(
            "{} made in the future: a clock was ahead, or this one is behind; back up again with the clock right, \
             then `packmule forget` those",
            human::count(n, "snapshot")
        )),
    }
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
pub fn age(span: Duration) -> String {
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
