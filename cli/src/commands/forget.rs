//! `forget`.

use std::collections::BTreeSet;

use jiff::tz::TimeZone;
use repo::clock::Time;
use repo::error::{Error, Kind, Result};
use repo::forget::{Group, Options, Outcome, forget_by_own_rules, forget_by_policy, forget_named};
use repo::format::record::{SnapshotState, State};
use repo::history::tenant_name;
use repo::id::SnapshotId;
use repo::open::{Access, Repository};
use repo::policy::Ends;
use repo::prune;
use repo::retention::{Count, Decision, Policy, Within};
use repo::select::Filter;
use repo::snapshots::Summaries;
use serde::Serialize;

use super::noted::{Noted, only};
use super::open::open_repository;
use super::{snapshots, which};
use crate::args::{ForgetArgs, Keep, KeepArgs};
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::{Output, human, json};
use crate::progress::Job;
use crate::select::SnapshotName;

/// One history, with restic's field names.
#[derive(Serialize)]
#[serde(tag = "message_type", rename = "forget_group")]
struct GroupMessage {
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    host: String,
    source: String,
    keep: Vec<json::Snapshot>,
    remove: Vec<json::Snapshot>,
    reasons: Vec<KeptFor>,
}

/// Why one snapshot is kept.
#[derive(Serialize)]
struct KeptFor {
    snapshot: String,
    matches: Vec<&'static str>,
}

/// The result as JSON.
#[derive(Serialize)]
#[serde(tag = "message_type", rename = "forgotten")]
struct Summary {
    dry_run: bool,
    snapshots: Vec<String>,
    already_forgotten: Vec<String>,
    /// The rules would have forgotten these; they are not at every remote yet.
    not_pushed: Vec<String>,
    held_until: json::Time,
}

/// Runs `forget`. Snapshots that are named win over rules, which then come from a profile.
pub fn run(ctx: &Context, args: ForgetArgs) -> Result<ExitCode> {
    let own_rules = args.filter.all_tenants || !args.filter.rest.tenant.is_empty();
    if args.snapshots.is_empty() && args.keep.is_empty() && !own_rules {
        return Err(Error::new(Kind::Usage, "nothing says what to forget")
            .remedy("name snapshots, or give a rule such as --keep-daily 7"));
    }
    let repo = open_repository(ctx, if args.dry_run { Access::Read } else { Access::Write })?;
    let noted = Noted::begin("forget");
    let outcome = forget(ctx, &repo, &args);
    if !args.dry_run {
        let count = outcome.as_ref().map_or(0, |outcome| outcome.forgotten.len() as u64);
        noted.end(ctx, &repo, only(&args.filter.rest.tenant), count, &outcome);
    }
    let outcome = outcome?;
    repo.remember();
    let state = repo.log.state();
    if ctx.output.json {
        tell_json(&ctx.output, &repo, &state, &outcome, args.dry_run)?;
    } else {
        tell(&ctx.output, &state, &outcome, &args)?;
    }
    ctx.output.flush()?;
    if !args.prune {
        return Ok(ExitCode::Ok);
    }
    let options = prune::Options {
        release_held: args.release_held,
        accept_clock: args.accept_clock,
        dry_run: args.dry_run,
        max_unused: super::prune::max_unused(args.max_unused),
        suppose_forgotten: if args.dry_run { outcome.forgotten } else { Vec::new() },
        ..prune::Options::default()
    };
    super::prune::prune_and_tell(ctx, &repo, &options)
}

fn forget(ctx: &Context, repo: &Repository, args: &ForgetArgs) -> Result<Outcome> {
    let Options { hold, .. } = Options::default();
    let options =
        Options { accept_clock: args.accept_clock, dry_run: args.dry_run, even_unpushed: args.even_unpushed, hold };
    let filter = which::history_filter(repo, &args.filter)?;
    require_whose(&repo.log.state(), args, &filter)?;
    let progress = ctx.monitor(Job::Other("snapshots"));
    if !args.snapshots.is_empty() {
        return forget_named(repo, &named(repo, &args.snapshots, &filter)?, &options, &progress);
    }
    // Paths stand in manifests, which are read before the others have to wait.
    let with_paths: Option<BTreeSet<SnapshotId>> = match filter.paths.is_empty() {
        true => None,
        false => Some(which::resolve_all(repo, &[], &filter)?.into_iter().collect()),
    };
    let selected = |id: &SnapshotId, snapshot: &SnapshotState| {
        filter.admits(snapshot) && with_paths.as_ref().is_none_or(|ids| ids.contains(id))
    };
    let zone = TimeZone::system();
    let offset = |time: Time| i64::from(zone.to_offset(human::timestamp(time)).seconds());
    match args.keep.is_empty() {
        true => forget_by_own_rules(repo, &selected, &offset, &options, &progress),
        false => forget_by_policy(repo, &policy(&args.keep), &selected, &offset, &options, &progress),
    }
}

/// Rules that are meant for one tenant must not thin out the others'.
fn require_whose(state: &State, args: &ForgetArgs, filter: &Filter) -> Result<()> {
    let all = args.filter.all_tenants;
    match (state.pool, args.snapshots.is_empty()) {
        (false, _) if all => Err(Error::new(Kind::Refused, "this repository is no pool: it has no tenants")
            .remedy("leave --all-tenants out")),
        (true, true) if !all && filter.tenants.is_empty() => {
            Err(Error::new(Kind::Usage, "this is a pool, and nothing says to whose snapshots the rules apply")
                .remedy("give --tenant NAME, or --all-tenants for every tenant's"))
        }
        _ => Ok(()),
    }
}

/// The snapshots named; an id may be of one that is forgotten already, which is then said.
fn named(repo: &Repository, names: &[SnapshotName], filter: &Filter) -> Result<Vec<SnapshotId>> {
    let resolve = |name: &SnapshotName| {
        let forgotten = !matches!(name, SnapshotName::Latest(_));
        which::resolve(repo, name, &Filter { forgotten, ..filter.clone() })
    };
    names.iter().map(resolve).collect()
}

/// The rules as the engine takes them.
pub fn policy(keep: &KeepArgs) -> Policy {
    let count = |keep: Option<Keep>| {
        keep.map(|keep| match keep {
            Keep::Newest(n) => Count::Newest(n),
            Keep::Unlimited => Count::Unlimited,
        })
    };
    Policy {
        last: count(keep.keep_last),
        hourly: count(keep.keep_hourly),
        daily: count(keep.keep_daily),
        weekly: count(keep.keep_weekly),
        monthly: count(keep.keep_monthly),
        yearly: count(keep.keep_yearly),
        within: keep.keep_within.map(|span| Within {
            years: span.years,
            months: span.months,
            days: span.days + 7 * span.weeks,
            hours: span.hours,
        }),
        tags: keep.keep_tag.iter().map(|list| list.0.clone()).collect(),
    }
}

fn tell_json(output: &Output, repo: &Repository, state: &State, outcome: &Outcome, dry_run: bool) -> Result<()> {
    let mut summaries = Summaries::new(repo, state);
    let ends = Ends::new(state, repo.clock.now(), None);
    let mut messages = |decisions: &[&Decision]| -> Result<Vec<json::Snapshot>> {
        let mut messages = Vec::with_capacity(decisions.len());
        for id in decisions.iter().map(|d| &d.id) {
            let Some(snapshot) = state.snapshots.get(id) else { continue };
            let summary = match summaries.get(id) {
                Ok(summary) => Some(summary),
                // One that cannot be read can still be forgotten.
                Err(e) if matches!(e.kind(), Kind::Damaged | Kind::NotFound) => None,
                Err(e) => return Err(e),
            };
            messages.push(snapshots::message(state, &ends, id, snapshot, summary.as_ref()));
        }
        Ok(messages)
    };
    for group in &outcome.groups {
        let (keep, remove): (Vec<_>, Vec<_>) = group.decisions.iter().partition(|d| !d.keep.is_empty());
        let reason = |d: &&Decision| KeptFor {
            snapshot: d.id.to_hex(),
            matches: d.keep.iter().map(|reason| reason.words()).collect(),
        };
        output.message(&GroupMessage {
            tenant: group.history.tenant.map(|number| tenant_name(state, number)),
            host: group.history.host.clone(),
            source: group.history.source.clone(),
            reasons: keep.iter().map(reason).collect(),
            keep: messages(&keep)?,
            remove: messages(&remove)?,
        })?;
    }
    output.message(&Summary {
        dry_run,
        snapshots: outcome.forgotten.iter().map(|id| id.to_hex()).collect(),
        already_forgotten: outcome.already.iter().map(|id| id.to_hex()).collect(),
        not_pushed: outcome.unpushed.iter().map(|id| id.to_hex()).collect(),
        held_until: json::Time::of(outcome.until),
    })
}

fn tell(output: &Output, state: &State, outcome: &Outcome, args: &ForgetArgs) -> Result<()> {
    if !output.quiet {
        outcome.groups.iter().try_for_each(|group| show(output, state, group))?;
    }
    for number in &outcome.without_rules {
        let name = tenant_name(state, *number);
        output.remark(format!("tenant {name} has no rules of its own: everything of it is kept"))?;
    }
    if !outcome.unpushed.is_empty() {
        let n = human::count(outcome.unpushed.len() as u64, "snapshot");
        output.line(format!(
            "spared {n} not yet at every remote; `packmule sync status` says more, --even-unpushed forgets anyway"
        ))?;
    }
    for id in &outcome.already {
        output.line(format!("snapshot {} was forgotten before", id.short()))?;
    }
    let n = human::count(outcome.forgotten.len() as u64, "snapshot");
    let verb = if args.dry_run { "would forget" } else { "forgot" };
    let until = human::time(human::timestamp(outcome.until));
    let them = if outcome.forgotten.len() == 1 { "it" } else { "them" };
    match outcome.forgotten.len() {
        0 => output.line(format!("{verb} no snapshot")),
        _ if args.release_held => output.line(format!("{verb} {n}, to be freed at once")),
        _ => output.line(format!("{verb} {n}; `packmule unforget` brings {them} back until {until}")),
    }
}

/// One history as a table, newest first.
fn show(output: &Output, state: &State, group: &Group) -> Result<()> {
    output.line(format!("{}:", human::path(group.history.words(state).as_bytes())))?;
    let mut table = human::Table::new(&["ID", "Time", "Tags", "Kept as"]);
    for decision in &group.decisions {
        let Some(snapshot) = state.snapshots.get(&decision.id) else { continue };
        let why: Vec<_> = decision.keep.iter().map(|reason| reason.words()).collect();
        table.row([
            decision.id.short(),
            human::time(human::timestamp(decision.time)),
            snapshot.tags.iter().cloned().collect::<Vec<_>>().join(","),
            if why.is_empty() { "(forgotten)".to_owned() } else { why.join(", ") },
        ]);
    }
    table.lines().iter().try_for_each(|line| output.line(line))
}
